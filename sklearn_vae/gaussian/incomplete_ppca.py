"""pPCA of samples with missing values, at which networks start and with which they are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.em import expectation_maximization
from sklearn_vae.gaussian.observed import IncompleteData, Parameters, observed_moments

# Tolerance in nats per sample and maximum number of iterations of EM.
TOLERANCE = 1e-6
MAX_ITER = 1000

# Noise variance up to which it counts as 0, relative to the limit of EM.
AT_LIMIT = 10.0


class IncompletePPCA(NamedTuple):
    """pPCA fitted to samples with missing values."""

    loadings: Array  # (d, k), orthogonal columns of falling lengths
    mean: Array  # (d,)
    noise_variance: float

    def log_likelihood(self, X: Array) -> Array:
        """Compute the log-density of the observed values of each sample."""
        return observed.log_likelihood(X, self._parameters)

    def impute(self, X: Array) -> Array:
        """Replace missing values by their conditional means."""
        return observed.impute(X, self._parameters)[0]

    def reconstruct(self, X: Array) -> Array:
        """Compute the mean of x given the posterior mean of z."""
        Z = observed.posterior(X, self._parameters)[0]
        means: Array = self.mean + Z @ self.loadings.T
        return means

    def residuals(self, X: Array, weights: Array | None) -> Array:
        """Compute E (x_j - mu_j(z))^2 of each feature, averaged over the observed values."""
        w = np.ones(len(X)) if weights is None else weights
        Z, covariance = observed.posterior(X, self._parameters, return_cov=True)
        W, seen = self.loadings, ~np.isnan(X)
        squares = np.where(seen, X - self.mean - Z @ W.T, 0.0) ** 2
        i, j = np.tril_indices(W.shape[1])
        pairs = np.where(i == j, 1.0, 2.0) * (W[:, i] * W[:, j])
        squares += seen * (covariance[:, i, j] @ pairs.T)
        residuals: Array = w @ squares / np.maximum(w @ seen, np.finfo(float).tiny)
        return residuals

    @property
    def _parameters(self) -> Parameters:
        return Parameters(self.loadings, self.mean, self.noise_variance)


def fit_incomplete_ppca(
    X: Array,
    n_components: int,
    weights: Array | None = None,
    noise_variance: float | None = None,
    start: IncompletePPCA | None = None,
) -> IncompletePPCA:
    """Fit pPCA by EM to samples of float64 with NaN.

    At most min(n_samples, n_features) - 1 columns of loadings are not 0, and the loadings of features
    that are never observed are 0. The noise variance is 0 if the likelihood is unbounded.
    """
    n, d = X.shape
    center, variances, _ = observed_moments(X, weights)
    seen = ~np.isnan(X).all(axis=0)
    W, k = np.zeros((d, n_components)), min(n_components, n - 1, int(seen.sum()) - 1)
    if k < 1 or not variances.any():
        noise = float(variances[seen].mean()) if noise_variance is None else noise_variance
        return IncompletePPCA(W, center, noise)
    data = IncompleteData(X[:, seen], center[seen], k, weights)
    if start is None:
        first = _start(data, k, noise_variance)
    else:
        mean, noise = (start.mean - center)[seen], noise_variance or start.noise_variance
        first = Parameters(start.loadings[seen, :k], mean, noise)
    try:
        end = expectation_maximization(
            data, first, noise_variance=noise_variance, tol=TOLERANCE, max_iter=MAX_ITER
        )[0]
    except np.linalg.LinAlgError:  # singular in float64
        end = first
    # Uncorrelated latent dimensions given complete samples.
    U, lengths, _ = np.linalg.svd(end.loadings, full_matrices=False)
    W[np.ix_(seen, range(k))] = U * lengths
    center[seen] += end.mean
    is_unbounded = noise_variance is None and end.noise_variance <= AT_LIMIT * data.least_noise
    return IncompletePPCA(W, center, 0.0 if is_unbounded else end.noise_variance)


def _start(data: IncompleteData, k: int, noise_variance: float | None) -> Parameters:
    """Return pPCA of the samples with missing values replaced by means."""
    X = data.values
    root = 1.0 if data.weights is None else np.sqrt(data.weights)[:, None]
    _, lengths, V = np.linalg.svd(root * X / np.sqrt(data.n), full_matrices=False)
    values = lengths**2
    rest = float(values[k:].sum()) / max(X.shape[1] - k, 1)
    noise = noise_variance or max(rest, 1e3 * data.least_noise)
    # The gradient at a column of zeros is 0, so EM would not leave it.
    stretch = np.sqrt(np.maximum(values[:k] - noise, 0.01 * noise))
    return Parameters(V[:k].T * stretch, np.zeros(X.shape[1]), noise)
