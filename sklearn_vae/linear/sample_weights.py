"""Sample weights of estimators."""

from typing import Any

from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array, check_sample_weight, positive_weights
from sklearn_vae.validation import is_memory_mapped


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
    positive, count = positive_weights(weights, at_least=at_least)
    xp = array_namespace(weights)
    weights_sum = float(xp.sum(weights[positive]))  # zeros would change the rounding
    if count < X.shape[0] and (copy_mapped or not is_memory_mapped(X)):
        X, weights = X[positive], weights[positive]
    return X, None if xp.all(weights == 1.0) else weights, count, weights_sum
