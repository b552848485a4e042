"""pPCA fitted to data with missing values by the EM algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.bounds import kl_per_dimension, normal_entropy
from sklearn_vae.gaussian.certificate import Accuracy
from sklearn_vae.gaussian.eigensolvers import choose_solver, decompose
from sklearn_vae.gaussian.em import averages, expectation_maximization
from sklearn_vae.gaussian.observed import IncompleteData, Parameters
from sklearn_vae.gaussian.spectrum import Spectrum, with_positive_peaks
from sklearn_vae.gaussian.stationarity import Stationarity
from sklearn_vae.linear.checks import check_squares_fit
from sklearn_vae.validation import check_memory, is_integer
from sklearn_vae.warning import warn_user

# The likelihood of incomplete data may have several maxima: nothing is known about the others.
BY_EM = Accuracy(method="EM")

# Default tolerance of EM in nats per sample.
EM_TOLERANCE = 1e-6

# Certificate of constant features.
_AT_MAXIMUM = Stationarity(0.0, 0.0, converged=True, is_exact=True, objective="log-likelihood")

# A dimension counts as collapsed if |w_h|^2 is at most this share of sigma2.
COLLAPSED = 1e-6


@dataclass(frozen=True, eq=False)
class IncompleteFit:
    """Model fitted by EM, as a spectrum and a noise variance, with its diagnostics in nats."""

    spectrum: Spectrum
    noise_variance: float
    kl_per_dim: np.ndarray  # of the marginals of the posteriors
    entropy_bound: float
    history: np.ndarray  # average log-likelihood before each iteration and at the end
    certificate: Stationarity


def fit_incomplete(
    X: Array,
    n_components: Any,
    noise_variance: float | None,
    weights: Array | None,
    *,
    n_counted: int,
    svd_solver: str,
    tol: float,
    max_iter: int,
    random_state: np.random.RandomState,
    **options: Any,
) -> IncompleteFit:
    """Run EM, starting at the spectrum of X with missing values replaced by means.

    `n_counted` is the number of samples if weights count as repetitions.
    """
    X, weights = _on_host(X, weights)
    k = _count_components(n_components, (n_counted, X.shape[1]))
    data, center = _centered_at_means(X, weights, k)
    least_noise = data.least_noise
    if least_noise == 0.0:  # every feature is constant
        return _fit_constant(data, center, k, noise_variance)
    options |= {"random_state": random_state, "n_counted": n_counted}
    start = _start(data, k, noise_variance, svd_solver, **options)
    try:
        parameters, history, certificate = expectation_maximization(
            data, start, noise_variance=noise_variance, tol=tol, max_iter=max_iter
        )
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "EM led to a matrix that is singular in float64. Scale the features of X to similar "
            "variances, use a smaller n_components, or set a noise_variance closer to the "
            f"variances of X, got noise_variance={noise_variance}."
        ) from error
    sigma2 = parameters.noise_variance
    at_limit = noise_variance is None and sigma2 <= least_noise
    if at_limit or not certificate.converged:
        gain = certificate.remaining_gain
        _warn(k, sigma2, len(history) - 1, gain, tol, max_iter, at_limit=at_limit)
    U, lengths, _ = np.linalg.svd(parameters.loadings, full_matrices=False)
    lengths = np.where(lengths**2 > COLLAPSED * sigma2, lengths, 0.0)
    V = with_positive_peaks(U.T)
    mean, residual_variance = center + parameters.mean, (X.shape[1] - k) * sigma2
    spectrum = Spectrum(mean, lengths**2 + sigma2, V, residual_variance, 0.0, accuracy=BY_EM)
    kl, entropies = _diagnose(data, Parameters(V.T * lengths, parameters.mean, sigma2))
    return IncompleteFit(spectrum, sigma2, kl, entropies, history, certificate)


def _on_host(X: Array, weights: Array | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert X and weights to NumPy in float64, without samples of weight 0."""
    check_memory(
        32 * X.shape[0] * X.shape[1],
        "The EM algorithm for missing values holds four copies of X in float64",
        "Fit to fewer samples: the methods of the fitted model process the others in blocks.",
    )
    X = to_host(X).astype(np.float64)
    if weights is not None:
        weights = to_host(weights).astype(np.float64)
        X, weights = X[weights > 0], weights[weights > 0]
    return X, weights


def _centered_at_means(
    X: np.ndarray, weights: np.ndarray | None, k: int
) -> tuple[IncompleteData, np.ndarray]:
    """Prepare the observed values minus their means per feature, and return these means."""
    empty = np.flatnonzero(np.isnan(X).all(axis=0))
    if empty.size:
        raise ValueError(
            "X must have an observed value in every feature, got only NaN in column"
            f"{'s' * (empty.size > 1)} {', '.join(map(str, empty[:5]))}"
            f"{' and more' * (empty.size > 5)}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        if weights is None:
            center = np.nanmean(X, axis=0)
        else:
            center = weights @ np.nan_to_num(X, posinf=np.inf, neginf=-np.inf)
            center /= weights @ ~np.isnan(X)
        data = IncompleteData(X, center, k, weights)
        data.check_finite()
    return data, center


def _warn(
    k: int, sigma2: float, n_iter: int, gain: float, tol: float, max_iter: int, *, at_limit: bool
) -> None:
    """Warn that EM ended at the least noise variance or before it converged."""
    if at_limit:
        text = (
            f"The noise variance fell to {sigma2:.2g}, the smallest value that float64 resolves: "
            f"with n_components={k} the likelihood is unbounded, or the features differ too much "
            "in scale. Use fewer components, set noise_variance, or scale X."
        )
    elif n_iter < max_iter:
        text = (
            f"EM stopped after {n_iter} iterations at the precision of float64, with a noise "
            f"variance of {sigma2:.2g}. Scale X, use fewer components, or set noise_variance."
        )
    else:
        text = (
            f"EM has not converged after max_iter={max_iter} iterations: the log-likelihood can "
            f"still rise by about {gain:.2g} nats per sample (tol={tol}). Increase max_iter or tol, "
            "or use fewer components."
        )
    warn_user(text, ConvergenceWarning)


def _count_components(n_components: Any, shape: tuple[int, int]) -> int:
    most = min(shape)
    if n_components is None:
        # With the noise, d - 1 components can model any covariance.
        return max(most - 1, 0)
    if not is_integer(n_components):
        raise ValueError(
            f"n_components must be None or an integer if X contains NaN, got {n_components!r}."
        )
    if n_components > most:
        raise ValueError(
            f"n_components must be between 0 and min(n_samples, n_features) = {most}, "
            f"got {n_components}."
        )
    return int(n_components)


def _start(
    data: IncompleteData, k: int, noise_variance: float | None, svd_solver: str, **options: Any
) -> Parameters:
    X = data.values
    solver = choose_solver(X, k, svd_solver)
    if (k == 0 or k >= min(X.shape)) and solver in ("arpack", "randomized"):
        solver = "full"
    if solver == "covariance_eigh":
        check_squares_fit(f"svd_solver={solver!r}", min(X.shape))
    spectrum = decompose(X, k, solver, weights=data.weights, **options)
    sigma2 = noise_variance or max(spectrum.noise_variance(k), data.least_noise * 1e3)
    # The gradient at a column of zeros is 0, so EM would not leave it.
    lengths = np.maximum(spectrum.eigenvalues[:k] - sigma2, 0.01 * sigma2) ** 0.5
    return Parameters(spectrum.components[:k].T * lengths, np.zeros(X.shape[1]), sigma2)


def _fit_constant(
    data: IncompleteData, mean: np.ndarray, k: int, noise_variance: float | None
) -> IncompleteFit:
    """Fit the model to constant features: all dimensions are collapsed."""
    d = len(mean)
    sigma2 = noise_variance or 0.0
    spectrum = Spectrum(
        mean, np.full(k, sigma2), np.eye(k, d), (d - k) * sigma2, 0.0, accuracy=BY_EM
    )
    if sigma2 == 0.0:
        history = np.array([math.inf])
        return IncompleteFit(spectrum, 0.0, np.zeros(k), math.inf, history, _AT_MAXIMUM)
    observed = data.n_values / data.n
    best = -0.5 * observed * (math.log(2 * math.pi) + math.log(sigma2))
    entropies, history = best - 0.5 * observed, np.array([best])
    return IncompleteFit(spectrum, sigma2, np.zeros(k), entropies, history, _AT_MAXIMUM)


def _diagnose(data: IncompleteData, parameters: Parameters) -> tuple[np.ndarray, float]:
    """Compute the average KL of the marginal posteriors and the sum of three entropies.

    At the maximum, E[z z'|x_o] averages to I over the samples, and the expected squared residuals
    of the observed values average to sigma2. The average ELBO is then
    -1/2 (observed values per sample) log(2 pi e sigma2) + 1/2 mean log det Cov[z|x_o].
    """
    second_moment, log_variance, log_det = averages(data, parameters)
    observed = data.n_values / data.n
    entropies = 0.5 * log_det - observed * normal_entropy(1, math.log(parameters.noise_variance))
    return kl_per_dimension(second_moment, log_variance), entropies
