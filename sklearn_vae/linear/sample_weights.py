"""Sample weights of estimators."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, check_weights, scale_of
from sklearn_vae.validation import is_memory_mapped


def check_sample_weight(sample_weight: Any, X: Any) -> Array:
    """Check the weights of the samples of X and return them on its device."""
    if sparse.issparse(X):
        X = np.empty((X.shape[0], 0))
    weights = check_weights(sample_weight, X, "sample_weight")
    with np.errstate(over="ignore"):
        weights_sum = float(array_namespace(weights).sum(weights))
    if not 0.0 < weights_sum < math.inf:
        # scikit-learn looks for the word "zero".
        raise ValueError(f"sample_weight must have a finite sum above zero, got {weights_sum}.")
    return weights


def drop_zero_weights(
    X: Any, sample_weight: Any, *, at_least: int, copy_mapped: bool = False
) -> tuple[Any, Array | None, int, float]:
    """Return the samples of positive weight, their weights, their number and the sum of weights.

    The weights are None if all of them are 1. A memory-mapped X is returned whole unless
    `copy_mapped`, because dropping samples copies it.
    """
    if sample_weight is None:
        return X, None, X.shape[0], float(X.shape[0])
    weights = check_sample_weight(sample_weight, X)
    xp = array_namespace(weights)
    positive = weights > 0
    count = int(xp.count_nonzero(positive))
    if count < at_least:
        raise ValueError(
            f"sample_weight must be positive for at least {at_least} samples, got {count}."
        )
    weights_sum = float(xp.sum(weights))
    if count < X.shape[0] and (copy_mapped or not is_memory_mapped(X)):
        X, weights = X[positive], weights[positive]
    return X, None if xp.all(weights == 1.0) else weights, count, weights_sum


def weighted_mean(values: Array, weights: Array | None, dtype: Any = None) -> Any:
    """Average values over samples, the first axis, with positive weights or without weights."""
    if weights is None:
        return values.mean(axis=0, dtype=dtype)
    weights = weights / scale_of(weights)
    return weights @ values / weights.sum()
