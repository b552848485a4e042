"""Warning of a fit that overfits or has not converged."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.deep.epoch_search import EpochSearch

# A fit overfits if validation samples lose this share of what training samples gain over a model
# without latent dimensions. Gains below some nats per sample count as these.
LOST_SHARE = 0.5
LEAST_GAIN = 0.1

# Training has not converged if the validation bound rises by this share of its whole rise in the
# last fifth of the epochs that are allowed, and by more than some nats per sample.
RISING_SHARE = 0.1
RISING_NATS = 0.1


def warn_of_outcome(model: Any, bound: float, baseline: float, search: EpochSearch | None) -> None:
    """Issue at most one ConvergenceWarning, in the order of severity.

    `bound` and `baseline` are the bounds of the training samples for the model, and for a model
    without latent dimensions.
    """
    text = _overfits(model, bound, baseline, search) or _still_rises(model, search)
    if text:
        warnings.warn(text, ConvergenceWarning, stacklevel=5)


def _overfits(model: Any, bound: float, baseline: float, search: EpochSearch | None) -> str:
    if search is not None:
        validation = float(search.bounds[search.best if search.n_epochs else 0])
    else:
        # An interrupted fit may have no bound of the validation samples.
        if not model.stopped_early or "validation_bound" not in model.history_:
            return ""
        # Both of the same epoch: the noise variance of the final model is set after training.
        bounds = model.history_["validation_bound"]
        best = int(np.argmax(bounds))
        bound, validation = float(model.history_["bound"][best]), float(bounds[best])
    gain = bound - baseline  # a fit that gains nothing is not trained enough to overfit
    if not (gain > 0 and bound - validation > LOST_SHARE * max(gain, LEAST_GAIN)):
        return ""
    return (
        f"The model overfits: the bound of the training samples, {bound:.4g}, is far above that of "
        f"validation samples, {validation:.4g}; reduce n_components={model.n_components_} or use "
        "more samples."
    )


def _still_rises(model: Any, search: EpochSearch | None) -> str:
    if search is None or not search.n_epochs or search.n_epochs < search.max_epochs:
        return ""
    rise = search.bounds[-1] - np.interp(0.8 * search.max_epochs, search.epochs, search.bounds)
    if rise <= max(RISING_NATS, RISING_SHARE * (search.bounds[-1] - search.bounds[0])):
        return ""
    return (
        "Training has not converged: the bound of validation samples still rose by "
        f"{rise:.3g} in the last fifth of {search.max_epochs} epochs; set max_epochs to a larger "
        f'number and init="{model._linear_init}".'
    )
