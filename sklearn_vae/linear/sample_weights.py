"""Sample weights of estimators."""

from typing import Any

from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array, check_sample_weight, positive_weights
from sklearn_vae.validation import is_memory_mapped


def drop_zero_weights(
    X: Any, sample_weight: Any, *, at_least: int
) -> tuple[Any, Array | None, int, float]:
    """Return the samples of positive weight, their weights, their number and the sum of weights.

    A memory-mapped X is returned whole, because dropping samples would copy it.
    """
    if sample_weight is None:
        return X, None, X.shape[0], float(X.shape[0])
    weights = check_sample_weight(sample_weight, X)
    positive, count = positive_weights(weights, at_least=at_least)
    weights_sum = float(array_namespace(weights).sum(weights))
    if count < X.shape[0] and not is_memory_mapped(X):
        X, weights = X[positive], weights[positive]
    return X, weights, count, weights_sum
