"""Rows as the networks see them: centred, and in units of their own spread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer

# Numbers that are moved to other units at once: in the cache.
MOVED_AT_ONCE = 2**16


def center_and_scale(
    X: NDArray[Any], rows: NDArray[Any], per_feature: bool, reducer: Reducer = SINGLE_PROCESS
) -> tuple[NDArray[Any], Any]:
    """Mean of chosen rows, and the root of their features' average variance or of each variance.

    Of those of all processes that fit together.

    Raises
    ------
    ValueError
        If the variances are beyond float64.
    """
    blocks = np.array_split(rows, -(-X.size // MOVED_AT_ONCE))
    with np.errstate(over="ignore", invalid="ignore"):
        total = reducer.sum
        n = total(len(rows))
        mean = total(sum(X[block].sum(axis=0, dtype=np.float64) for block in blocks)) / n
        sums = np.zeros((2, X.shape[1]))
        for block in blocks:
            centred = X[block] - mean
            sums += centred.sum(axis=0), np.square(centred).sum(axis=0)
        rest, squares = total(sums) / n
        # The rounding of the mean, over many rows, is no variance either.
        variance = np.maximum(squares - rest**2, 0.0)
    counts = variance if per_feature else np.full_like(variance, variance.mean())
    if not np.isfinite(variance.sum()) or _has_underflowed(counts, X, rows):
        raise ValueError(
            f"The variances of X must be within the range of float64, got {variance.max()}. "
            "Scale X."
        )
    # What rounding alone can leave of rows that are all the same is no scale.
    rounding = 4.0 * float(np.finfo(X.dtype).eps) * np.abs(mean)
    std = np.sqrt(variance)
    if per_feature:
        return mean, np.where(std > rounding, std, 1.0)
    return mean, math.sqrt(np.where(std > rounding, variance, 0.0).mean()) or 1.0


def _has_underflowed(variance: NDArray[Any], X: NDArray[Any], rows: NDArray[Any]) -> bool:
    """Whether a variance is too small for its digits, though the rows differ."""
    tiny = np.flatnonzero(variance < np.finfo(np.float64).tiny)
    return bool(tiny.size and np.ptp(X[np.ix_(rows, tiny)], axis=0).any())


def check_units(mean: NDArray[Any], scale: Any, dtype: torch.dtype) -> None:
    """Raise ValueError unless means and variances can be given back in the networks' precision."""
    kind, variances = torch.finfo(dtype), np.square(scale)
    means = float(np.abs(mean).max())
    if means <= kind.max and np.min(variances) >= kind.tiny and np.max(variances) <= kind.max:
        return
    raise ValueError(
        f"The means and variances of X must be within the range of {dtype}, got means up to "
        f"{means:.3g} and variances from {np.min(variances):.3g} to {np.max(variances):.3g}. Scale "
        "X, or have it in float64 with precision='auto'."
    )


def in_units(
    X: NDArray[Any],
    rows: NDArray[Any],
    mean: NDArray[Any],
    scale: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """(X - mean) / scale of chosen rows, on a device: the one copy of X that there is."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    units = np.empty((len(rows), X.shape[1]), dtype=kind)
    for start in range(0, len(rows), step := max(1, MOVED_AT_ONCE // X.shape[1])):
        block = slice(start, start + step)
        with np.errstate(over="ignore"):
            units[block] = (X[rows[block]] - mean) / scale
    return torch.from_numpy(units).to(device)
