"""Start of the search for the maximum of the bound of Bernoulli pPCA."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logit

from sklearn_vae.gaussian.arrays import weighted_mean
from sklearn_vae.gaussian.bernoulli_elbo import laplace_posterior
from sklearn_vae.gaussian.bernoulli_newton import LinearEncoderBound
from sklearn_vae.gaussian.eigensolvers import choose_solver, decompose

# Scale of the noise in the initial loadings, because a column of zeros is a stationary point.
_NOISE = 1e-2
# Maximum initial loading, because the loadings of rare bits would be far too large.
_MAX_LOADING = 4.0


def linear_bound(
    bits: np.ndarray, W: np.ndarray, weights: np.ndarray | None = None
) -> tuple[LinearEncoderBound, np.ndarray]:
    """Return the bound with a linear encoder, and the vector at which a search starts.

    `bits` has shape (n_features, n_samples), values in [0, 1] and no constant features. The start
    has the initial loadings W, of shape (n_features, n_components), and their Laplace posteriors.
    """
    p = weighted_mean(bits.T, weights)
    std, mu = np.sqrt(p * (1.0 - p)), logit(p)
    V, D = laplace_posterior(W, mu)
    whitener, dewhitener = whitening(bits, weights)
    bound = LinearEncoderBound(bits, whitener, std, W.shape[1], weights)
    return bound, bound.pack(W, mu, V @ dewhitener, np.log(D))


def initial_loadings(
    bits: np.ndarray, n_components: int, rng: Any, weights: np.ndarray | None = None
) -> np.ndarray:
    """Compute the loadings of the Gaussian model that approximates small Bernoulli loadings.

    The bits minus their mean p, divided by sqrt(p (1 - p)), have noise of variance 1 and loadings
    sqrt(p (1 - p)) W.
    """
    d, n = bits.shape
    p = weighted_mean(bits.T, weights)
    std = np.sqrt(p * (1.0 - p))
    k = min(n_components, d, n)
    standard = ((bits - p[:, None]) / std[:, None]).T
    spectrum = decompose(standard, k, choose_solver(standard, k), weights, random_state=rng)
    loadings = spectrum.loadings(k, 1.0, standard.dtype)
    W = _NOISE * rng.standard_normal((d, n_components))
    W[:, :k] += np.clip(loadings / std[:, None], -_MAX_LOADING, _MAX_LOADING)
    return W


def whitening(bits: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return R that whitens R'(x - mean), and B with R'B = I, both of shape (d, rank).

    With V = A R' the bound has similar curvature in every direction of A, and the encoder ignores
    directions that the data do not determine.
    """
    d, n = bits.shape
    p = weighted_mean(bits.T, weights)
    centered = bits - p[:, None]
    if weights is not None:
        centered *= weights**0.5
    if d <= n:
        values, U = np.linalg.eigh(centered @ centered.T / n)
    else:
        values, E = np.linalg.eigh(centered.T @ centered / n)
        U = centered @ E
        U /= np.maximum(np.linalg.norm(U, axis=0), np.finfo(float).tiny)
    kept = values > 1e-10 * max(values[-1], float((p * (1.0 - p)).max()))
    scale = np.sqrt(values[kept])
    return U[:, kept] / scale, U[:, kept] * scale
