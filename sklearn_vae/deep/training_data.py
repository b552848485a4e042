"""Validation, splitting and scaling of the data of a fit."""

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
from sklearn_vae.deep.fitted_networks import check_same_networks
from sklearn_vae.gaussian.arrays import check_sample_weight, positive_weights, scale_of
from sklearn_vae.serialization.checkpoint import Checkpoint, random_state_of
from sklearn_vae.stored_rows import StoredRows, rows_of
from sklearn_vae.training.callbacks import Snapshot
from sklearn_vae.training.checkpointing import start_of
from sklearn_vae.training.devices import choose_device, device_and_dtype
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.scaling import check_units, standardize
from sklearn_vae.training.stored_samples import StoredSamples
from sklearn_vae.validation import has_nan

Array = NDArray[Any]

# Parameters that may differ between processes that train together. However, either all processes
# save checkpoints or none, and all keep the same snapshots.
LOCAL_PARAMETERS = ("callbacks", "checkpoint", "device", "random_state", "verbose")


# Limits of the samples and entries of a large file that are held out for validation.
SAMPLES_HELD_OUT = 2**15
ENTRIES_HELD_OUT = 2**24


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Data and settings of one fit, with samples in the units of the networks."""

    train: Any  # a tensor, or StoredSamples of a large file
    valid: Tensor | None
    weights: Tensor | None  # of the training samples, averaging to 1, unless all are equal
    valid_weights: Tensor | None
    is_incomplete: bool  # whether values are missing
    device: torch.device
    products: str | None  # precision of matrix products if it differs from the dtype
    seed: int  # of the initial weights, the order of samples and the draws
    checkpoint: Checkpoint | None
    reducer: Reducer


def prepare(
    model: Any,
    X: Any,
    sample_weight: Any,
    warm: bool,
    reducer: Reducer,
    incomplete: bool = False,
    units: tuple[Array, Any] | None = None,
) -> TrainingData:
    """Validate, split and scale the data, and set `mean_` and `scale_` if not a warm start.

    `incomplete` tells that this is a fold of samples with missing values. `units` are values of
    `mean_` and `scale_`, by default those of the samples.
    """
    X = model._check_samples(X, ensure_min_samples=2, reset=not warm)
    check_image_shape(model, model._sample_shape)
    check_memory_of_fit(model, len(X))
    start = start_of(model.net_) if warm else None
    given = None if sample_weight is None else "an array"
    reducer.check_same({"model": type(model).__name__})
    reducer.check_same({**_shared_settings(model, X, start), "sample_weight": given})
    X, weights = _weighted_samples(X, sample_weight, reducer)
    _set_missing(model, X, warm, reducer, incomplete)
    before: Any = start if weights is None else (start, weights)
    if model._starts_linear:  # explicit values that are equal are another training
        before = ("automatic", before)
    checkpoint = Checkpoint.of(
        model, X, (before, reducer.rank, reducer.size) if reducer.size > 1 else before
    )
    random_state = random_state_of(model, checkpoint)
    seed = int(reducer.table(random_state.randint(np.iinfo(np.int32).max))[0, 0])
    fraction = model.validation_fraction if model.early_stopping else None
    train, valid = _split(len(X), fraction, random_state, most_held_out(X))
    if isinstance(X, StoredRows):
        train = np.sort(train)
    train_weights = _normalized(weights, train, reducer)
    valid_weights = _normalized(weights, valid, reducer) if model.early_stopping else None
    if warm:
        check_same_networks(model)
        (device, dtype), products = device_and_dtype(model.module_), model.net_.precision
    else:
        if units is None:
            units = model._center_and_scale(X, train, reducer, train_weights)
        model.mean_, model.scale_ = units
        device, dtype, products = choose_device(model.device, model.precision, X.dtype)
        check_units(model.mean_, model.scale_, dtype)
    scaling = model.mean_, model.scale_, device, dtype
    validation = standardize(X, valid, *scaling) if model.early_stopping else None
    if validation is not None and not torch.isfinite(validation.square().nansum()):
        raise ValueError(
            "X contains outliers: the samples that early_stopping holds out differ so much from "
            f"the others that their squares overflow {dtype}. Remove or clip the outliers."
        )
    if isinstance(X, StoredRows):
        rows = X if len(train) == len(X) else X.subset(train)
        samples: Any = StoredSamples(rows, *scaling, train_weights)
    else:
        samples = standardize(X, train, *scaling)
    w, w_valid = (
        None if array is None else torch.from_numpy(array).to(device, samples.dtype)
        for array in (train_weights, valid_weights)
    )
    is_incomplete = model._missing is not None
    model._observed_share = _observed_share(X[train], train_weights) if is_incomplete else None
    settings = device, products, seed, checkpoint, reducer
    return TrainingData(samples, validation, w, w_valid, is_incomplete, *settings)


def _set_missing(model: Any, X: Array, warm: bool, reducer: Reducer, incomplete: bool) -> None:
    """Set how the networks handle missing values; raise ValueError if they cannot."""
    folded, incomplete = incomplete, incomplete or has_nan(X)
    if reducer.size > 1 and reducer.sum(float(incomplete)):
        raise ValueError(
            "X must have no missing values with `processes`, got NaN. Train in a single process, or "
            "fill X with PPCAImputer."
        )
    if warm:
        if incomplete and model._missing is None:
            raise ValueError(
                "warm_start=True continues with networks that were trained on complete samples, but "
                "X contains NaN. Set warm_start=False to train networks for missing values."
            )
        return
    model._missing = model._widening() if incomplete else None
    if not folded:
        check_observed(X)


def check_observed(X: Array) -> None:
    """Raise ValueError if a feature is never observed."""
    if isinstance(X, StoredRows):  # complete
        return
    empty = np.flatnonzero(np.isnan(X).all(axis=0))
    if empty.size:
        raise ValueError(
            "X must have an observed value in every feature, got only NaN in column"
            f"{'s' * (empty.size > 1)} {', '.join(map(str, empty[:5]))}"
            f"{' and more' * (empty.size > 5)}."
        )


def _observed_share(X: Array, weights: Array | None) -> Array:
    """Return the share of samples that observe each feature, that of one sample if none does."""
    share = np.average(~np.isnan(np.asarray(X)), axis=0, weights=weights)
    return np.maximum(share, 1.0 / len(X))


def _weighted_samples(X: Array, sample_weight: Any, reducer: Reducer) -> tuple[Array, Any]:
    """Return the samples of positive weight and their weights, None if all processes have equal."""
    if sample_weight is None:
        return X, None
    weights = check_sample_weight(sample_weight, X)
    positive, count = positive_weights(weights, at_least=2)
    if count < len(X):
        X, weights = rows_of(X, positive), weights[positive]
    extremes = reducer.table(weights.min(), weights.max())
    return X, None if extremes.min() == extremes.max() else weights


def _normalized(weights: Array | None, indices: Array, reducer: Reducer) -> Array | None:
    """Return the weights of some samples, divided by their average over all processes."""
    if weights is None:
        return None
    chosen = weights[indices]
    chosen = chosen / scale_of(reducer.table(chosen.max()).ravel())  # the sum may be subnormal
    n, total = reducer.sum([float(len(chosen)), float(chosen.sum())])
    return chosen * (n / total)


def _shared_settings(model: Any, X: Array, start: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that must be equal in all processes that train together."""
    parameters = model.get_params(deep=False)
    names = getattr(model, "feature_names_in_", None)
    callbacks = [callback for _, callback in named_callbacks(model.callbacks)]
    return {
        **{name: v for name, v in parameters.items() if name not in LOCAL_PARAMETERS},
        "n_features": X.shape[1],
        "feature_names": None if names is None else names.tolist(),
        "dtype": X.dtype.name,
        "checkpoint": None if model.checkpoint is None else "a folder",
        "snapshots": [c.epochs for c in callbacks if isinstance(c, Snapshot)],
        "last_fit": start and {**start, "generator": None},
    }


def most_held_out(X: Any) -> int:
    """Return the largest number of validation samples, which are kept in memory."""
    if not isinstance(X, StoredRows):
        return len(X)
    return max(2, min(SAMPLES_HELD_OUT, ENTRIES_HELD_OUT // X.shape[1]))


def _split(
    n: int, fraction: float | None, random_state: np.random.RandomState, most: int
) -> tuple[Any, Any]:
    """Return the indices of the training samples and of the validation samples, at most `most`."""
    if fraction is None:
        return np.arange(n), np.arange(0)
    n_valid = min(math.ceil(fraction * n), most)
    if n_valid > n - 2:
        raise ValueError(
            f"validation_fraction={fraction!r} holds out {n_valid} of the {n} samples in X for "
            "early_stopping, but at least 2 must remain for training."
        )
    order = random_state.permutation(n)
    return order[n_valid:], order[:n_valid]
