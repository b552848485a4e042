"""Centering and scaling of the samples for the networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.gaussian.observed import observed_moments
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.validation import has_nan

# Number of entries that are standardized at once, which fit into the cache.
BLOCK_SIZE = 2**16


def center_and_scale(
    X: NDArray[Any],
    indices: NDArray[Any],
    per_feature: bool,
    reducer: Reducer = SINGLE_PROCESS,
    weights: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Any]:
    """Compute the mean and the standard deviation of X[indices] over all processes.

    The standard deviation is computed per feature, or is the root of the average variance. The
    weights of these samples must average to 1. Missing values (NaN) are left out, which needs a
    single process.
    """
    if has_nan(X):
        return _center_and_scale_observed(X, indices, per_feature, weights)
    n_blocks = -(-math.prod(X.shape) // BLOCK_SIZE)
    blocks = np.array_split(indices, n_blocks)
    parts = n_blocks * [None] if weights is None else np.array_split(weights, n_blocks)
    pairs = list(zip(blocks, parts, strict=True))
    with np.errstate(over="ignore", invalid="ignore"):
        total = reducer.sum
        n = total(len(indices))
        mean = total(sum(_sum(X[block], w) for block, w in pairs)) / n
        sums = np.zeros((2, X.shape[1]))
        for block, w in pairs:
            centered = X[block] - mean
            sums += _sum(centered, w), _sum(np.square(centered), w)
        error, squares = total(sums) / n
        # The rounding error of the mean must not count as variance.
        variance = np.maximum(squares - error**2, 0.0)
    counts = variance if per_feature else np.full_like(variance, variance.mean())
    if not np.isfinite(variance.sum()) or _has_underflowed(counts, X, indices):
        raise _out_of_range(variance)
    return _mean_and_scale(X, mean, variance, per_feature)


def _center_and_scale_observed(
    X: NDArray[Any], indices: NDArray[Any], per_feature: bool, weights: NDArray[Any] | None
) -> tuple[NDArray[Any], Any]:
    """Compute the mean and the standard deviation of the observed values."""
    chosen = X[indices].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, variance, _ = observed_moments(chosen, weights)
        # The samples that are held out may be the only ones that observe a feature.
        unseen = np.isnan(chosen).all(axis=0)
        if unseen.any():
            mean[unseen] = observed_moments(X[:, unseen].astype(np.float64), None)[0]
    if not np.isfinite(variance.sum()):
        raise _out_of_range(variance)
    tiny = np.flatnonzero(variance < np.finfo(np.float64).tiny)
    seen = ~np.isnan(chosen[:, tiny])
    highest = np.where(seen, chosen[:, tiny], -np.inf).max(axis=0)
    lowest = np.where(seen, chosen[:, tiny], np.inf).min(axis=0)
    if (highest > lowest).any() and (per_feature or variance.mean() < np.finfo(np.float64).tiny):
        raise _out_of_range(variance)
    return _mean_and_scale(X, mean, variance, per_feature)


def _out_of_range(variance: NDArray[Any]) -> ValueError:
    return ValueError(
        f"The variances of X must be within the range of float64, got {variance.max()}. Scale X."
    )


def _mean_and_scale(
    X: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any], per_feature: bool
) -> tuple[NDArray[Any], Any]:
    # Below this, a constant feature can have a nonzero standard deviation by rounding alone.
    rounding = 4.0 * float(np.finfo(X.dtype).eps) * np.abs(mean)
    std = np.sqrt(variance)
    if per_feature:
        return mean, np.where(std > rounding, std, 1.0)
    return mean, math.sqrt(np.where(std > rounding, variance, 0.0).mean()) or 1.0


def _sum(values: NDArray[Any], weights: NDArray[Any] | None) -> Any:
    """Sum over the samples in float64, with their weights if they are given."""
    return values.sum(axis=0, dtype=np.float64) if weights is None else weights @ values


def _has_underflowed(variance: NDArray[Any], X: NDArray[Any], indices: NDArray[Any]) -> bool:
    """Return whether a variance is subnormal although the samples differ."""
    tiny = np.flatnonzero(variance < np.finfo(np.float64).tiny)
    if not tiny.size:
        return False
    first = X[indices[:1]][:, tiny]
    blocks = np.array_split(indices, -(-math.prod(X.shape) // BLOCK_SIZE))
    return any((X[block][:, tiny] != first).any() for block in blocks)


def log_scales(x: Tensor, scale: Any) -> Any:
    """Return log p(x) of each sample in the units of the networks minus that in data units.

    Missing values (NaN) do not count. The result is a float for complete samples, otherwise an array.
    """
    log_scale = np.log(np.broadcast_to(scale, x.shape[1]))
    missing = x.isnan()
    if not missing.any():
        return float(log_scale.sum())
    return (~missing).cpu().numpy() @ log_scale


def check_units(mean: NDArray[Any], scale: Any, dtype: torch.dtype) -> None:
    """Raise ValueError unless means and variances can be represented in `dtype`."""
    kind, variances = torch.finfo(dtype), np.square(scale)
    means = float(np.abs(mean).max())
    if means <= kind.max and np.min(variances) >= kind.tiny and np.max(variances) <= kind.max:
        return
    raise ValueError(
        f"The means and variances of X must be within the range of {dtype}, got means up to "
        f"{means:.3g} and variances from {np.min(variances):.3g} to {np.max(variances):.3g}. Scale "
        "X, or pass X in float64 with precision='auto'."
    )


def standardize(
    X: Any,
    indices: NDArray[Any],
    mean: NDArray[Any],
    scale: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return (X[indices] - mean) / scale on a device, the only copy of X in training."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    standardized = np.empty((len(indices), X.shape[1]), dtype=kind)
    for start in range(0, len(indices), step := max(1, BLOCK_SIZE // X.shape[1])):
        block = slice(start, start + step)
        with np.errstate(over="ignore"):
            standardized[block] = (X[indices[block]] - mean) / scale
    return torch.from_numpy(standardized).to(device)
