"""Data of one fit of a deep model, checked, split and scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.deep.callbacks import named_callbacks
from sklearn_vae.deep.checks import check_image_shape, check_memory_of_fit
from sklearn_vae.deep.networks_of_fit import check_same_networks
from sklearn_vae.serialization.checkpoint import Checkpoint, random_state_of
from sklearn_vae.training.callbacks import Snapshot
from sklearn_vae.training.checkpointing import start_of
from sklearn_vae.training.devices import choose_device, device_and_dtype
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.scaling import check_units, standardize

Array = NDArray[Any]

# Parameters that may differ between processes which fit together; but all save checkpoints, or
# none, and all keep the same snapshots.
OWN_PARAMETERS = ("callbacks", "checkpoint", "device", "random_state", "verbose")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Data of one fit, and where and with whom it runs.

    Attributes
    ----------
    train : Tensor of shape (n_samples, n_features)
        Samples to train on, in the units of the networks, on the device.
    valid : Tensor of shape (n_valid, n_features) or None
        Samples held out for early stopping.
    device : torch.device
    products : str or None
        Precision of products in training, where that is not the precision of the samples.
    seed : int
        Fixes the first weights, the order of samples and the noise.
    checkpoint : Checkpoint or None
    reducer : Reducer
        Of the processes that fit together.
    """

    train: Tensor
    valid: Tensor | None
    device: torch.device
    products: str | None
    seed: int
    checkpoint: Checkpoint | None
    reducer: Reducer


def prepare(model: Any, X: Any, warm: bool, reducer: Reducer) -> TrainingData:
    """Check the data, split off validation samples, and bring them to the units of the networks.

    Sets `mean_` and `scale_` of the model unless this is a warm start.
    """
    X = model._check_samples(X, ensure_min_samples=2, reset=not warm)
    check_image_shape(model, model._sample_shape)
    check_memory_of_fit(model, len(X))
    start = start_of(model.net_) if warm else None
    reducer.check_same({"model": type(model).__name__})
    reducer.check_same(_shared_settings(model, X, start))
    checkpoint = Checkpoint.of(
        model, X, (start, reducer.rank, reducer.size) if reducer.size > 1 else start
    )
    random_state = random_state_of(model, checkpoint)
    seed = int(reducer.table(random_state.randint(np.iinfo(np.int32).max))[0, 0])
    fraction = model.validation_fraction if model.early_stopping else None
    train, valid = _split(len(X), fraction, random_state)
    if warm:
        check_same_networks(model)
        (device, dtype), products = device_and_dtype(model.module_), model.net_.precision
    else:
        model.mean_, model.scale_ = model._center_and_scale(X, train, reducer)
        device, dtype, products = choose_device(model.device, model.precision, X.dtype)
        check_units(model.mean_, model.scale_, dtype)
    units = model.mean_, model.scale_, device, dtype
    held_out = standardize(X, valid, *units) if model.early_stopping else None
    if held_out is not None and not torch.isfinite(held_out.square().sum()):
        raise ValueError(
            "X must have rows nearer to each other: those that early_stopping holds "
            f"out have squares beyond {dtype} in units of those to train on."
        )
    samples = standardize(X, train, *units)
    return TrainingData(samples, held_out, device, products, seed, checkpoint, reducer)


def _shared_settings(model: Any, X: Array, start: dict[str, Any] | None) -> dict[str, Any]:
    """Return what must be equal in all processes that fit together.

    Parameters
    ----------
    model : DeepModel
    X : array of shape (n_samples, n_features)
    start : dict or None
        State of the net at the beginning of a warm start.
    """
    parameters = model.get_params(deep=False)
    names = getattr(model, "feature_names_in_", None)
    callbacks = [callback for _, callback in named_callbacks(model.callbacks)]
    return {
        **{name: v for name, v in parameters.items() if name not in OWN_PARAMETERS},
        "n_features": X.shape[1],
        "feature_names": None if names is None else names.tolist(),
        "dtype": X.dtype.name,
        "checkpoint": None if model.checkpoint is None else "a folder",
        "snapshots": [c.epochs for c in callbacks if isinstance(c, Snapshot)],
        "last_fit": start and {**start, "generator": None},
    }


def _split(n: int, fraction: float | None, random_state: np.random.RandomState) -> tuple[Any, Any]:
    """Indices of the samples to train on, and of those held out for early stopping.

    Parameters
    ----------
    n : int
        Number of samples.
    fraction : float or None
        Share to hold out. None: nothing is.
    random_state : RandomState
    """
    if fraction is None:
        return np.arange(n), np.arange(0)
    n_held_out = math.ceil(fraction * n)
    if n_held_out > n - 2:
        raise ValueError(
            f"early_stopping holds out {n_held_out} of {n} rows with "
            f"validation_fraction={fraction!r}, and needs two to train on."
        )
    order = random_state.permutation(n)
    return order[n_held_out:], order[:n_held_out]
