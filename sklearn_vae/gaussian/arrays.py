"""Array helpers that the array-API standard does not provide."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_array_api_obj,
    is_numpy_array,
    is_numpy_namespace,
)
from scipy import sparse

from sklearn_vae.containers import readable, to_host
from sklearn_vae.stored_rows import StoredRows

# An array of any array-API namespace; the standard does not define a type for it.
Array: TypeAlias = Any


def row_blocks(n_rows: int, n_columns: int, *, at_least: int = 8) -> Iterator[slice]:
    """Yield slices of consecutive rows that cover `n_rows`; one empty slice if `n_rows` is 0.

    A block holds about 2**20 numbers, to fit in the cache, and at least `at_least` rows.
    """
    size = max(2**20 // max(n_columns, 1), at_least)
    return (slice(start, min(start + size, n_rows)) for start in range(0, max(n_rows, 1), size))


def wide_float(X: Array) -> Any:
    """Return the dtype for sums: float64, or float32 if the device of X does not support it."""
    xp = array_namespace(X)
    if is_numpy_namespace(xp):
        return xp.float64
    dtypes = xp.__array_namespace_info__().dtypes(device=device(X), kind="real floating")
    return dtypes.get("float64", xp.float32)


def float_type(X: Any) -> Any:
    """Return the dtype for products: the dtype of X if it is float, else the dtype for sums."""
    if sparse.issparse(X):
        return X.dtype if X.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    xp = array_namespace(X)
    return X.dtype if X.dtype in (xp.float32, xp.float64) else wide_float(X)


def float_name(X: Any) -> str:
    """Return the name of `float_type`, which is the same in all array libraries."""
    xp: Any = np if sparse.issparse(X) else array_namespace(X)
    return "float32" if float_type(X) == xp.float32 else "float64"


def common_float_type(X: Any, model: Array) -> Any:
    """Return the dtype for products of X with the arrays of a model."""
    xp = array_namespace(model)
    dtype = X.dtype if X.dtype in (xp.float32, xp.float64) else wide_float(model)
    return xp.result_type(dtype, model.dtype)


def affine(Z: Array, A: Array, b: Array) -> Array:
    """Compute Z A + b in the wider of the two precisions."""
    xp = array_namespace(Z, A, b)
    Z, A, b = (xp.astype(array, common_float_type(Z, b), copy=False) for array in (Z, A, b))
    return Z @ A + b


def check_matrix(X: Any) -> Any:
    """Return X if it is a two-dimensional real array or sparse matrix, else raise."""
    if not hasattr(X, "ndim"):
        raise TypeError(f"X must be an array-API array or sparse matrix, got {type(X).__name__}.")
    if X.ndim != 2:
        raise ValueError(
            f"X must be two-dimensional (n_samples, n_features), got a {X.ndim}D array."
        )
    xp = array_namespace(X.data if sparse.issparse(X) else X)
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError(f"X must be real, got dtype {X.dtype}.")
    return X


def check_weights(weights: Any, X: Array, name: str = "weights") -> Array:
    """Convert `weights` to the library and device of X and check them."""
    xp = array_namespace(X)
    weights = readable(weights, name)
    if not is_array_api_obj(weights) or is_numpy_array(weights):
        # A copy, because torch cannot view read-only or reversed memory.
        weights = np.array(weights, dtype=np.float64)
    elif array_namespace(weights) is not xp:
        weights = np.array(to_host(weights))
    weights = xp.asarray(weights, dtype=wide_float(X), device=device(X))
    if tuple(weights.shape) != (X.shape[0],):
        raise ValueError(
            f"{name} must have shape (n_samples,) = ({X.shape[0]},), got {tuple(weights.shape)}."
        )
    bad = ~(xp.isfinite(weights) & (weights >= 0))
    if xp.any(bad):
        i = int(xp.argmax(xp.astype(bad, xp.int64)))
        raise ValueError(f"{name} must be finite and >= 0, got {weights[i]} for sample {i}.")
    return weights


def check_sample_weight(sample_weight: Any, X: Any) -> Array:
    """Check the weights of the samples of X and return them on its device."""
    if sparse.issparse(X) or isinstance(X, StoredRows):
        X = np.empty((X.shape[0], 0))
    weights = check_weights(sample_weight, X, "sample_weight")
    with np.errstate(over="ignore"):
        weights_sum = float(array_namespace(weights).sum(weights))
    if not 0.0 < weights_sum < math.inf:
        # scikit-learn looks for the word "zero".
        raise ValueError(f"sample_weight must have a finite sum above zero, got {weights_sum}.")
    return weights


def positive_weights(weights: Array, *, at_least: int) -> tuple[Array, int]:
    """Return which weights are positive and their number, or raise ValueError if too few are."""
    positive = weights > 0
    count = int(array_namespace(weights).count_nonzero(positive))
    if count < at_least:
        raise ValueError(
            f"sample_weight must be positive for at least {at_least} samples, got {count}."
        )
    return positive, count


def mean_of_samples(values: np.ndarray, sample_weight: Any = None) -> float:
    """Average one value per sample, with weights if they are given."""
    if sample_weight is None:
        return float(weighted_mean(values))
    weights = check_sample_weight(sample_weight, values[:, None])
    positive = weights > 0  # a sample without weight may have an infinite value
    return float(weighted_mean(values[positive], weights[positive]))


def weighted_mean(values: Array, weights: Array | None = None, dtype: Any = None) -> Any:
    """Average values over samples, the first axis, with positive weights or without weights."""
    if weights is None:
        return values.mean(axis=0, dtype=dtype)
    weights = weights / scale_of(weights)
    return weights @ values / weights.sum()


def scale_of(weights: Array) -> float:
    """Return a power of 2 such that the weights divided by it are below 2."""
    xp = array_namespace(weights)
    largest = float(xp.max(weights)) if weights.shape[0] else 0.0
    return 2.0 ** (math.frexp(largest)[1] - 1) if largest > 0.0 else 1.0


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the rounded sum of two arrays and its rounding error (Knuth), or 0 if that is nan."""
    xp = array_namespace(a)
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return total, xp.where(xp.isfinite(error), error, xp.zeros_like(error))


def to_device_of(reference: Array, values: Any, dtype: Any = None) -> Array:
    """Convert `values` to the library and device of `reference`, by default in its dtype."""
    xp = array_namespace(reference)
    dtype = reference.dtype if dtype is None else dtype
    return xp.asarray(np.asarray(values), dtype=dtype, device=device(reference))
