"""Start of the search for the maximum of the bound of mixed columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import scale_of
from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE
from sklearn_vae.gaussian.factor_map import fit_factors_map
from sklearn_vae.gaussian.mixed_bound import MOST_R
from sklearn_vae.gaussian.mixed_terms import TermData, TermParameters
from sklearn_vae.gaussian.observed import observed_moments

# A bit or count counts as constant if its sum, or the sum of 1 - x, with weights of mean 1 is below
# this value.
_LEAST_COUNT = 1e-6
# Scale of the noise in the initial loadings, because a column of zeros is a stationary point.
_NOISE = 1e-2
# Maximum initial loading of bits and counts.
_MAX_LOADING = 4.0
# Limits of the initial r of counts.
_FIRST_R = (0.1, 1e3)
_MAX_ITER = 30


class Marginals(NamedTuple):
    """Parameters of each term without latents, and which terms vary.

    Half a count is added to both outcomes of a constant bit and to a sum of counts of 0, because the
    optimal intercept is infinite. It is half a sample if weights are below 1 on average, which are no
    repetitions.
    """

    b: np.ndarray  # (n_terms,)
    noise: np.ndarray  # (n_gaussian + n_counts,)
    varies: np.ndarray  # (n_terms,)


def marginals(data: TermData, weights: np.ndarray) -> Marginals:
    """Compute the marginal distributions of the terms; weights count as repetitions."""
    gaussian, counts, bits = data.sizes.families
    y = np.where(data.observed > 0.0, data.values, np.nan)
    scaled = weights / scale_of(weights)
    unit = scaled.mean()
    half = 0.5 / max(unit * scale_of(weights), 1.0)
    mean, variance, n = observed_moments(y, scaled / unit)
    b, varies = mean.copy(), variance > (4.0 * 2.0**-52 * mean) ** 2
    sums = n * mean
    zeros = np.maximum(n[bits] - sums[bits], 0.0)
    least = np.minimum(sums[bits], zeros)
    varies[bits], varies[counts] = least > _LEAST_COUNT, sums[counts] > _LEAST_COUNT
    added = np.where(varies[bits], 0.0, half)
    b[bits] = np.log((sums[bits] + added) / (zeros + added))
    rate = np.where(varies[counts], mean[counts], half / np.maximum(n[counts], 2.0 * half))
    b[counts] = np.log(rate)
    psi = np.where(varies[gaussian], variance[gaussian], CONSTANT_NOISE)
    excess = np.maximum(variance[counts] - rate, 1e-6 * rate)
    r = np.where(varies[counts], np.clip(rate**2 / excess, *_FIRST_R), MOST_R)
    return Marginals(b, np.concatenate([psi, r]), varies)


def initial_parameters(
    data: TermData,
    owner: np.ndarray,
    marginal: Marginals,
    n_components: int,
    weights: np.ndarray,
    random_state: Any,
) -> TermParameters:
    """Compute the start from a factor model of standardized values, of counts log(x + 1/2).

    All terms must vary, and the Gaussian values must be standardized.
    """
    gaussian, counts, bits = data.sizes.families
    y = np.where(data.observed > 0.0, data.values, np.nan)
    y[:, counts] = np.log(y[:, counts] + 0.5)
    mean, variance, _ = observed_moments(y, weights)
    std = np.sqrt(np.where(variance > 0.0, variance, 1.0))
    factors, _, _ = fit_factors_map((y - mean) / std, n_components, weights, max_iter=_MAX_ITER)
    W = factors.loadings
    W[counts] *= std[counts, None]
    # The logit changes by 1 / p(1 - p) times a small change of the probability p.
    W[bits] /= std[bits, None]
    W[gaussian.stop :] = np.clip(W[gaussian.stop :], -_MAX_LOADING, _MAX_LOADING)
    W = W + _NOISE * random_state.standard_normal(W.shape)
    total = np.zeros((int(owner.max()) + 1, n_components))
    np.add.at(total, owner, W)
    W = (total / np.bincount(owner)[:, None])[owner]
    b, noise = marginal.b.copy(), marginal.noise.copy()
    lengths = np.square(W).sum(axis=1)
    b[counts] -= 0.5 * lengths[counts]
    b[bits] *= np.sqrt(1.0 + np.pi / 8.0 * lengths[bits])
    noise[gaussian] = factors.noise_variance[gaussian]
    return TermParameters(W, b, noise)
