"""The few array operations that the array-API standard leaves to its users."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from array_api_compat import array_namespace, device

# Any array of an array-API namespace: the standard has no type for it yet.
Array: TypeAlias = Any


def row_blocks(n_rows: int, n_columns: int, *, at_least: int = 16) -> Iterator[slice]:
    """Slices of consecutive rows that cover `n_rows`; one empty slice where there are none.

    A block holds about 2**18 numbers, so that what is computed from it is still in the
    second-level cache when the next operation reads it, but never fewer than `at_least` rows.
    """
    size = max(2**18 // max(n_columns, 1), at_least)
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


def center(X: Array) -> tuple[Array, Array]:
    """Subtract the column means of X.

    The mean of a long column far from zero carries a rounding error of its own, which would
    stay in every centred row; where it shows, it is removed by a second subtraction.

    Parameters
    ----------
    X : array of shape (n, d), n >= 1

    Returns
    -------
    R : array of shape (n, d), a new array
    mean : array of shape (d,), float64
    """
    xp = array_namespace(X)
    mean = xp.mean(X, axis=0)
    R = X - mean
    rest = xp.mean(R, axis=0)
    spread = xp.linalg.vector_norm(R)
    if xp.linalg.vector_norm(rest) * X.shape[0] ** 0.5 > xp.finfo(X.dtype).eps * spread:
        R -= rest
    return R, xp.astype(mean, xp.float64) + xp.astype(rest, xp.float64)


def project(X: Array, mean: Array, A: Array) -> Array:
    """(X - mean) A of shape (n, k). Centred before the product: after it, an offset cancels."""
    xp = array_namespace(X, mean)
    blocks = row_blocks(X.shape[0], X.shape[1])
    return xp.concat([(X[rows, :] - mean) @ A for rows in blocks])


def to_device_of(reference: Array, values: Any) -> Array:
    """`values` (NumPy array or sequence) with the namespace, device and dtype of `reference`."""
    xp = array_namespace(reference)
    return xp.asarray(values, dtype=reference.dtype, device=device(reference))
