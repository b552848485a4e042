"""Sample weights of estimators."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, check_weights
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
    X: Any, sample_weight: Any, *, at_least: int
) -> tuple[Any, Array | None, int, float]:
    """Return the samples of positive weight, their weights, their number and the sum of weights.

    A memory-mapped X is returned whole, because dropping samples would copy it.
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
    if count < X.shape[0] and not is_memory_mapped(X):
        X, weights = X[positive], weights[positive]
    return X, weights, count, weights_sum
