"""Values of the parameters that are "auto"."""

from __future__ import annotations

import copy
import math
from typing import Any

from sklearn_vae.state import parameters_of

# Values of "auto" where the automatic training does not apply.
PLAIN: dict[str, Any] = {
    "hidden_layer_sizes": (512, 256),
    "activation": "relu",
    "init": None,
    "n_mc_samples": 1,
    "learning_rate": 1e-3,
    "max_epochs": 100,
    "batch_size": 128,
    "validation_fraction": 0.1,
}

# Widths and learning rates of the automatic training by the number of samples from which they apply,
# see docs/deep_models.md.
SMALL_WIDTH = 64
LARGE_WIDTH = 256
LARGE_SAMPLES = 5000
LEARNING_RATE = 1e-2
LARGE_LEARNING_RATE = 2e-3

# Range of the batch size, and number of batches per epoch that it aims at.
BATCH_SIZES = (64, 128)
BATCHES_PER_EPOCH = 4

# Draws of z per sample, in pairs of opposite noise.
N_DRAWS = 2

# Number of epochs of the automatic training, over all folds and the final fit. It keeps the time of
# small data below that of 100 epochs of the default networks of earlier versions.
TOTAL_EPOCHS = 320

# The same for data with many features, where the epochs of the earlier networks are less slow.
WIDE_FEATURES = 1000
WIDE_EPOCHS = 200

# Fraction of the samples in a validation set. Folds are added until their validation samples exceed
# a number, up to a maximum of folds.
VALIDATION_FRACTION = 0.2
VALIDATION_SAMPLES = 300
MAX_FOLDS = 3

# The same for tables, whose steps take longer: a single fold.
TABLE_FOLDS = 1
TABLE_EPOCHS = 80

# Approximate number of samples whose gradients start Adam's averages, if tables start at pPCA.
TABLE_WARMUP_SAMPLES = 1024

# Values for tables with fewer than `LARGE_SAMPLES`: few units, and few steps on large batches, see
# docs/tables.md.
SMALL_TABLE_WIDTH = 32
SMALL_TABLE_EPOCHS = 60
SMALL_TABLE_LEARNING_RATE = 8e-2
SMALL_TABLE_BATCH_SIZE = 256

# Number of validation samples that small tables have at least, and the range of their fraction.
TABLE_VALIDATION_SAMPLES = 30
TABLE_VALIDATION_FRACTIONS = (0.1, 0.2)


def is_auto(value: Any) -> bool:
    """Return whether a parameter has the value "auto"."""
    return isinstance(value, str) and value == "auto"


def automatic_parameters(model: Any) -> list[str]:
    """Return the names of the parameters that are "auto" and that a fit chooses."""
    return [name for name in PLAIN if name in vars(model) and is_auto(getattr(model, name))]


def with_values(model: Any, values: dict[str, Any]) -> Any:
    """Return a copy of a model in which `values` replace the parameters that are "auto"."""
    explicit = copy.copy(model)
    for name in automatic_parameters(model):
        setattr(explicit, name, values[name])
    return explicit


def values_of_fit(model: Any) -> dict[str, Any]:
    """Return the values of a fitted model, for a warm start or for its saved state."""
    fitted = vars(model)
    return {name: fitted.get(f"{name}_", value) for name, value in PLAIN.items()}


def adopt(model: Any, explicit: Any) -> None:
    """Give a model the fitted attributes of a copy, and keep its own parameters."""
    kind: Any = type(model)
    names = parameters_of(kind)
    own = {name: value for name, value in vars(model).items() if name in names}
    fitted = {name: value for name, value in vars(explicit).items() if name not in names}
    vars(model).clear()
    vars(model).update(own | fitted)


def count_folds(n_samples: int, fraction: float, most: int = MAX_FOLDS) -> int:
    """Return the number of folds with a validation set of a fraction of the samples each."""
    size = max(1, round(fraction * n_samples))
    return min(math.ceil(VALIDATION_SAMPLES / size), n_samples // size, most)


def chosen_values(n_samples: int, n_features: int, n_components: int, init: str) -> dict[str, Any]:
    """Choose the values of the automatic training from the size of the data.

    `init` is the value of the parameter that starts at the linear model.
    """
    is_large = n_samples >= LARGE_SAMPLES
    width = max(LARGE_WIDTH if is_large else SMALL_WIDTH, 2 * n_components)
    size = 2 ** round(math.log2(max(1.0, n_samples / BATCHES_PER_EPOCH)))
    total = TOTAL_EPOCHS if n_features < WIDE_FEATURES else WIDE_EPOCHS
    return {
        "hidden_layer_sizes": (width,),
        "activation": "silu",
        "init": init,
        "n_mc_samples": N_DRAWS,
        "learning_rate": LARGE_LEARNING_RATE if is_large else LEARNING_RATE,
        "max_epochs": total // (1 + count_folds(n_samples, VALIDATION_FRACTION)),
        "batch_size": min(max(size, BATCH_SIZES[0]), BATCH_SIZES[1]),
        "validation_fraction": VALIDATION_FRACTION,
    }


def chosen_values_of_table(
    n_samples: int, n_components: int, values: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of :func:`chosen_values` with those that differ for tables."""
    if n_samples >= LARGE_SAMPLES:
        return {**values, "max_epochs": TABLE_EPOCHS}
    least, most = TABLE_VALIDATION_FRACTIONS
    return {
        **values,
        "hidden_layer_sizes": (max(SMALL_TABLE_WIDTH, 2 * n_components),),
        "learning_rate": SMALL_TABLE_LEARNING_RATE,
        "max_epochs": SMALL_TABLE_EPOCHS,
        "batch_size": SMALL_TABLE_BATCH_SIZE,
        "validation_fraction": min(max(TABLE_VALIDATION_SAMPLES / n_samples, least), most),
    }
