"""Factor models of incomplete data with a weak prior of the noise, by few steps of EM."""

from __future__ import annotations

import math

import numpy as np

from sklearn_vae.gaussian.factor_em import Factors, IncompleteFactors
from sklearn_vae.gaussian.observed import observed_moments
from sklearn_vae.gaussian.profile_likelihood import FLOOR

# The prior of a noise variance counts as this number of samples, in which the noise is this share of
# the variance. It keeps noise variances away from 0 (Heywood cases).
PRIOR_SAMPLES = 1.0
PRIOR_SHARE = 0.2


def fit_factors_map(
    X: np.ndarray,
    n_components: int,
    weights: np.ndarray | None = None,
    *,
    equal_noise: bool = False,
    noise_variance: float | None = None,
    start: Factors | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
) -> tuple[Factors, list[float], bool]:
    """Fit a factor model to data with missing values, by the mode of the posterior.

    The noise variances have the prior of Martin and McDonald, "Bayesian estimation in unrestricted
    factor analysis: a treatment for Heywood cases", Psychometrika 1975, in a conjugate form: an
    inverse gamma distribution that counts as one more sample.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Samples in float64, with NaN for missing values, and features of similar variances.
    n_components : int
        Number k of factors.
    weights : array of shape (n_samples,), default=None
        Positive weights.
    equal_noise : bool, default=False
        Whether all features have the same noise variance, as in pPCA.
    noise_variance : float, default=None
        Fixed noise variance of all features. If None, it is estimated.
    start : Factors, default=None
        Parameters at which EM starts. If None, principal components of X with missing values
        replaced by means.
    tol : float, default=1e-3
        EM stops when a step improves the log-likelihood by less, in nats per sample.
    max_iter : int, default=100
        Maximum number of steps.

    Returns
    -------
    factors : Factors
        Fitted parameters.
    history : list of float
        Log-likelihood before each step, in nats per sample.
    converged : bool
        Whether the last step improved the log-likelihood by less than `tol`.
    """
    data = IncompleteFactors(X, n_components, weights, is_fixed=False)
    center, variances, counts = observed_moments(X, weights)
    factors = start or _start(X - center, weights, center, variances, n_components)
    prior = PRIOR_SHARE * np.maximum(variances, FLOOR)
    history: list[float] = []
    while len(history) < max_iter:
        sums, value = data.sums(factors)
        history.append(value)
        factors = data.step(sums, factors)
        psi = factors.noise_variance
        if equal_noise:
            psi = np.full_like(psi, counts @ psi / counts.sum())
        psi = (counts * psi + PRIOR_SAMPLES * prior) / (counts + PRIOR_SAMPLES)
        if noise_variance is not None:
            psi = np.full_like(psi, noise_variance)
        factors = factors._replace(noise_variance=np.maximum(psi, FLOOR))
        if len(history) > 1 and value - history[-2] < tol:
            return factors, history, True
    return factors, history, False


def _start(
    X: np.ndarray, weights: np.ndarray | None, center: np.ndarray, variances: np.ndarray, k: int
) -> Factors:
    """Return principal components of centered X, with missing values replaced by 0."""
    filled, n = np.nan_to_num(X), float(len(X))
    if weights is not None:
        filled, n = filled * np.sqrt(weights)[:, None], float(weights.sum())
    _, lengths, V = np.linalg.svd(filled, full_matrices=False)
    lengths, V = lengths[:k] / math.sqrt(n), V[:k]
    W = np.zeros((X.shape[1], k))
    W[:, : len(V)] = V.T * lengths
    psi = np.maximum(variances - np.sum(W**2, axis=1), 0.1 * variances)
    return Factors(W, center, np.maximum(psi, FLOOR))
