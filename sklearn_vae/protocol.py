"""What diagnostics ask of an estimator."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian import bounds
from sklearn_vae.gaussian.arrays import to_host

Array = NDArray[Any]


@runtime_checkable
class LatentModel(Protocol):
    """An estimator with a latent space, fitted.

    Its prior is N(0, I), or N(0, diag `prior_variance_`) where it has that. Further attributes are
    used where they are there: `noise_variance_`, `entropy_gap_`, `history_`.
    """

    def posterior(self, X: Any) -> tuple[Any, Any]:
        """Mean and variance of q(z|x) for each row, (n, k)."""

    def conditional(self, Z: Any) -> tuple[Any, Any]:
        """Mean and variance of p(x|z) for each row of latent z, (n, d)."""

    def score_samples(self, X: Any) -> Any:
        """Log-likelihood or a lower bound of it for each row, in nats, (n,)."""


def check_model(estimator: Any, function: str) -> None:
    """Raise TypeError unless `estimator` is a :class:`LatentModel`; NotFittedError if not fitted."""
    missing = [
        name
        for name in ("posterior", "conditional", "score_samples")
        if not callable(getattr(estimator, name, None))
    ]
    if missing:
        raise TypeError(
            f"{function} needs a model with a latent distribution, and {type(estimator).__name__} "
            f"has no {' and no '.join(missing)}."
        )
    check_is_fitted(estimator)


def standard_posterior(estimator: LatentModel, X: Any) -> tuple[Array, Array]:
    """Means and variances of q(z|x) in units of the prior's, (n, k), float64."""
    mean, variance = (
        np.asarray(to_host(array), dtype=np.float64) for array in estimator.posterior(X)
    )
    prior_variance = np.asarray(getattr(estimator, "prior_variance_", 1.0), dtype=np.float64)
    return mean / np.sqrt(prior_variance), variance / prior_variance


def kl_terms(mean: Array, variance: Array) -> Array:
    """KL(N(mean_h, variance_h) || N(0, 1)) in nats, of each entry; inf for a variance of 0."""
    with np.errstate(divide="ignore"):
        return bounds.kl_per_dimension(mean**2 + variance, np.log(variance))
