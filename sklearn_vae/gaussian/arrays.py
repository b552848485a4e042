"""The few array operations that the array-API standard leaves to its users."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device

# Any array of an array-API namespace: the standard has no type for it yet.
Array: TypeAlias = Any


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of consecutive rows that cover `n_rows`; one empty slice where there are none.

    A block holds about 2**20 numbers, so that what is computed from it is still in the cache
    when the next operation reads it, but never fewer than 256 rows.
    """
    size = max(2**20 // max(n_columns, 1), 256)
    return (slice(start, min(start + size, n_rows)) for start in range(0, max(n_rows, 1), size))


def as_floating(X: Array) -> tuple[Array, Any]:
    """X as a two-dimensional real floating array, and its namespace."""
    if not hasattr(X, "ndim"):
        raise TypeError(f"X must be an array of an array-API namespace, got {type(X).__name__}.")
    xp = array_namespace(X)
    if X.ndim != 2:
        raise ValueError(f"X must be two-dimensional, (n_samples, n_features), got {X.ndim}-d.")
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError(f"X must be real, got dtype {X.dtype}.")
    if not xp.isdtype(X.dtype, "real floating"):
        X = xp.astype(X, xp.float64)
    return X, xp


def center(X: Array) -> tuple[Array, Array, float]:
    """Subtract the column means of X.

    The mean of a column far from zero carries a rounding error of its own, which would stay in
    every centred row as a direction of its own: it is subtracted a second time.

    Parameters
    ----------
    X : array of shape (n, d), n >= 1, finite

    Returns
    -------
    R : array of shape (n, d), a new array
    mean : array of shape (d,), float64
    squares : float
        Squared Frobenius norm of R.

    Raises
    ------
    ValueError
        If the squares overflow.
    """
    xp = array_namespace(X)
    n = X.shape[0]
    with np.errstate(invalid="ignore", over="ignore"):
        mean = xp.sum(X, axis=0, dtype=xp.float64) / n
        R = X - xp.astype(mean, X.dtype)
        rest = xp.sum(R, axis=0, dtype=xp.float64) / n
        R -= xp.astype(rest, X.dtype)
        squares = float(xp.sum(xp.vecdot(R, R), dtype=xp.float64))
    if not math.isfinite(squares):
        raise ValueError(f"X is too large: the squares of its centred rows overflow {X.dtype}.")
    # The mean that was in fact subtracted, and what may be left of it.
    return R, xp.astype(xp.astype(mean, X.dtype), xp.float64) + rest, squares


def project(X: Array, mean: Array, A: Array, *, near: bool) -> Array:
    """(X - mean) A of shape (n, k).

    `near` says that the mean is not large against the spread of the rows. Then it is subtracted
    after the product, which needs no copy of X; otherwise before it, where an offset cancels.
    """
    xp = array_namespace(X, mean)
    if near:
        return X @ A - mean @ A
    blocks = row_blocks(X.shape[0], X.shape[1])
    return xp.concat([(X[rows, :] - mean) @ A for rows in blocks])


def to_device_of(reference: Array, values: Any) -> Array:
    """`values` (NumPy array or sequence) with the namespace, device and dtype of `reference`."""
    xp = array_namespace(reference)
    return xp.asarray(values, dtype=reference.dtype, device=device(reference))
