"""Decomposition of the average KL into mutual information and marginal KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import kl_terms, standard_posterior
from sklearn_vae.protocol import Array, LatentModel, as_latent_model
from sklearn_vae.validation import check_integer

# Maximum number of densities q(z|x) that are computed by default, and at a time.
MAX_DENSITIES = 10**8
BLOCK_SIZE = 2**23


@dataclass(frozen=True, eq=False)
class KLDecomposition:
    """Average KL, split into mutual information and marginal KL.

    All values are in nats per sample.

    Attributes
    ----------
    average_kl : float
        KL(q(z|x) || p(z)) averaged over the samples, in closed form. It is the sum of the two
        parts.
    mutual_information : float
        I_q(x; z), the information that z carries about the sample, at most log n.
    marginal_kl : float
        KL(q(z) || p(z)) of the aggregate posterior q(z), the mixture of all q(z|x).
    standard_error : float
        Monte Carlo standard error of either part.
    n_samples : int
        Number of samples for which z was drawn.

    See Also
    --------
    decompose_kl : Decompose the average KL.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import decompose_kl
    >>> X = load_iris().data
    >>> result = decompose_kl(PPCA(2).fit(X), X)
    >>> round(result.average_kl - result.mutual_information - result.marginal_kl, 6)
    0.0
    """

    average_kl: float
    mutual_information: float
    marginal_kl: float
    standard_error: float
    n_samples: int


def decompose_kl(
    estimator: LatentModel, X: Any, n_samples: int | None = None, random_state: int = 0
) -> KLDecomposition:
    """Decompose the average KL into mutual information and marginal KL.

    The average of KL(q(z|x) || p(z)) over the samples equals I_q(x; z) + KL(q(z) || p(z)). The
    aggregate posterior q(z) is evaluated exactly, as a mixture over all samples, at draws of z. The
    estimate is therefore unbiased.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model whose posteriors are normal with independent dimensions.
    X : array-like of shape (n_samples, n_features)
        Samples.
    n_samples : int, default=None
        Number of samples for which z is drawn. By default all, or fewer for more than 10^4 samples,
        to limit the number of densities to 10^8.
    random_state : int, default=0
        Seed of the draws.

    Returns
    -------
    KLDecomposition
        The two parts and their standard error.

    Raises
    ------
    ValueError
        If the posteriors are not normal with independent dimensions, or have variances of 0.

    See Also
    --------
    kl_per_dimension : Average KL of each latent dimension.

    References
    ----------
    Hoffman and Johnson, "ELBO surgery" (2016).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import decompose_kl
    >>> X = load_iris().data
    >>> result = decompose_kl(PPCA(2).fit(X), X)
    >>> bool(0 < result.mutual_information < result.average_kl)
    True
    """
    model = as_latent_model(estimator, "decompose_kl")
    if model.variational_family != "diagonal":
        raise ValueError(
            "decompose_kl needs normal posteriors with independent dimensions, got "
            f"variational_family={model.variational_family!r}."
        )
    mean, variance = standard_posterior(model, X)
    if not (variance > 0).all():
        raise ValueError(
            "decompose_kl needs posteriors with positive variances, but some variances are 0. "
            "Use a smaller n_components, or set noise_variance."
        )
    n = len(mean)
    if n_samples is None:
        n_samples = max(1, min(n, MAX_DENSITIES // n))
    check_integer("n_samples", n_samples, at_least=1)
    check_integer("random_state", random_state, at_least=0)
    # A separate stream, because X may have been generated with the same seed.
    rng = np.random.default_rng(np.random.SeedSequence(random_state, spawn_key=(0,)))
    chosen = np.arange(n) if n_samples >= n else rng.choice(n, n_samples, replace=False)
    z = mean[chosen] + np.sqrt(variance[chosen]) * rng.standard_normal((len(chosen), mean.shape[1]))
    center = mean.mean(axis=0)  # against cancellation of means far from 0
    information = _log_ratios(z - center, chosen, mean - center, variance)
    average = float(kl_terms(mean, variance).sum(axis=1).mean())
    mutual = float(information.mean())
    error = float(information.std(ddof=1) / np.sqrt(len(chosen))) if len(chosen) > 1 else np.inf
    return KLDecomposition(average, mutual, average - mutual, error, len(chosen))


def _log_ratios(z: Array, own: Array, mean: Array, variance: Array) -> Array:
    """Compute log q(z_i|x_i) - log q(z_i), where z_i was drawn for the sample own[i]."""
    n = len(mean)
    precision = 1.0 / variance
    slope = -2.0 * precision * mean
    # -2 log q(z|x_j) up to a common constant, by matrix products.
    offset = (np.log(variance) - 0.5 * mean * slope).sum(axis=1)
    ratios = np.empty(len(z))
    step = max(1, BLOCK_SIZE // n)
    for start in range(0, len(z), step):
        block = slice(start, start + step)
        distance = z[block] @ slope.T
        distance += (z[block] ** 2) @ precision.T
        distance += offset
        least = distance.min(axis=1)
        own_distance = distance[np.arange(len(distance)), own[block]] - least
        distance -= least[:, None]
        distance *= -0.5
        # The own term is among those summed, so the ratio is at most n despite rounding.
        sums = np.exp(distance, out=distance).sum(axis=1)
        ratios[block] = np.log(n / sums) - 0.5 * own_distance
    return ratios
