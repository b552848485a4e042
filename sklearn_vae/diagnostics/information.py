"""Decomposition of the KL into information about x and mismatch with the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import kl_terms, standard_posterior
from sklearn_vae.protocol import Array, LatentModel, as_latent_model
from sklearn_vae.validation import check_integer

# Densities q(z|x) computed at most by default, and at a time.
DENSITIES = 10**8
AT_ONCE = 2**23


@dataclass(frozen=True, eq=False)
class KLDecomposition:
    """KL(q(z|x) || p(z)) averaged over the samples, in two parts; nats per sample.

    Attributes
    ----------
    average_kl : float
        Sum of the parts, in closed form.
    mutual_information : float
        I_q(x; z): what z tells about the sample that it belongs to, at most log n.
    marginal_kl : float
        KL(q(z) || p(z)) of the aggregate posterior q(z), the mixture of all q(z|x).
    standard_error : float
        Standard error of either part, from the draws of z.
    n_samples : int
        Number of draws of z, each for another sample.
    """

    average_kl: float
    mutual_information: float
    marginal_kl: float
    standard_error: float
    n_samples: int


def decompose_kl(
    estimator: LatentModel, X: Any, n_samples: int | None = None, random_state: int = 0
) -> KLDecomposition:
    """Decompose the average KL into I_q(x; z) + KL(q(z) || p(z)).

    The mixture q(z) of all n samples is evaluated at draws of z for some of them, so that its
    logarithm has no bias.

    Parameters
    ----------
    estimator : LatentModel
        With normal posteriors of independent dimensions.
    X : array-like of shape (n_samples, n_features)
    n_samples : int, default=None
        Number of samples that z is drawn for. None: all up to n = 10^4, and above that so many
        that 10^8 densities are computed.
    random_state : int, default=0

    Returns
    -------
    KLDecomposition

    Raises
    ------
    ValueError
        If posteriors are no normals with independent dimensions, or points.

    References
    ----------
    Hoffman and Johnson, "ELBO surgery" (2016).
    """
    model = as_latent_model(estimator, "decompose_kl")
    if model.variational_family != "diagonal":
        raise ValueError(
            "decompose_kl needs posteriors that are normal with independent dimensions, got "
            f"variational_family={model.variational_family!r}."
        )
    mean, variance = standard_posterior(model, X)
    if not (variance > 0).all():
        raise ValueError(
            "decompose_kl needs posteriors with variances above 0, and some are points."
        )
    n = len(mean)
    if n_samples is None:
        n_samples = max(1, min(n, DENSITIES // n))
    check_integer("n_samples", n_samples, at_least=1)
    check_integer("random_state", random_state, at_least=0)
    # A stream of its own: X may have been drawn with the same seed.
    rng = np.random.default_rng(np.random.SeedSequence(random_state, spawn_key=(0,)))
    chosen = np.arange(n) if n_samples >= n else rng.choice(n, n_samples, replace=False)
    z = mean[chosen] + np.sqrt(variance[chosen]) * rng.standard_normal((len(chosen), mean.shape[1]))
    middle = mean.mean(axis=0)  # products of means far from 0 would cancel
    information = _log_ratios(z - middle, chosen, mean - middle, variance)
    average = float(kl_terms(mean, variance).sum(axis=1).mean())
    mutual = float(information.mean())
    error = float(information.std(ddof=1) / np.sqrt(len(chosen))) if len(chosen) > 1 else np.inf
    return KLDecomposition(average, mutual, average - mutual, error, len(chosen))


def _log_ratios(z: Array, own: Array, mean: Array, variance: Array) -> Array:
    """log q(z_i|x_i) - log q(z_i) for draws z of the samples `own`, by products of matrices."""
    n = len(mean)
    precision = 1.0 / variance
    slope = -2.0 * precision * mean
    # -2 log q(z|x_j) up to a constant that all share; precise to rounding of |z|^2 / variance.
    offset = (np.log(variance) - 0.5 * mean * slope).sum(axis=1)
    ratios = np.empty(len(z))
    step = max(1, AT_ONCE // n)
    for start in range(0, len(z), step):
        rows = slice(start, start + step)
        distance = z[rows] @ slope.T
        distance += (z[rows] ** 2) @ precision.T
        distance += offset
        least = distance.min(axis=1)
        own_distance = distance[np.arange(len(distance)), own[rows]] - least
        distance -= least[:, None]
        distance *= -0.5
        # The own term is among those summed: the ratio is at most n, whatever the rounding.
        sums = np.exp(distance, out=distance).sum(axis=1)
        ratios[rows] = np.log(n / sums) - 0.5 * own_distance
    return ratios
