"""Sample weights of estimators."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, check_weights
from sklearn_vae.validation import is_memory_mapped


def check_sample_weight(sample_weight: Any, X: Any) -> Array:
    """Weights of the samples of X, which may be sparse, as an array on the device of X.

    Raises
    ------
    ValueError
        Unless there is one for each sample, finite, not negative, and not all are 0.
    """
    if sparse.issparse(X):
        X = np.empty((X.shape[0], 0))
    weights = check_weights(sample_weight, X, "sample_weight")
    with np.errstate(over="ignore"):
        total = float(array_namespace(weights).sum(weights))
    if not 0.0 < total < math.inf:
        raise ValueError(f"sample_weight must have a finite sum above zero, got {total}.")
    return weights


def weighted_rows(
    X: Any, sample_weight: Any, *, at_least: int
) -> tuple[Any, Array | None, int, float]:
    """Samples of positive weight, their weights, their number and the sum of their weights.

    All samples of a memory-mapped X, so that it is not copied.
    """
    if sample_weight is None:
        return X, None, X.shape[0], float(X.shape[0])
    weights = check_sample_weight(sample_weight, X)
    xp = array_namespace(weights)
    positive = weights > 0
    n_rows = int(xp.count_nonzero(positive))
    if n_rows < at_least:
        raise ValueError(
            f"sample_weight must be positive for at least {at_least} rows, got {n_rows}."
        )
    total = float(xp.sum(weights))
    if n_rows < X.shape[0] and not is_memory_mapped(X):
        X, weights = X[positive], weights[positive]
    return X, weights, n_rows, total
