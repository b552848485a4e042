"""Fit of factor analysis of mixed columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.gaussian.arrays import scale_of
from sklearn_vae.gaussian.mixed_bound import MixedBound
from sklearn_vae.gaussian.mixed_columns import ColumnTerms
from sklearn_vae.gaussian.mixed_posterior import MixedPosteriors
from sklearn_vae.gaussian.mixed_start import initial_parameters, marginals
from sklearn_vae.gaussian.mixed_terms import TermData, TermParameters, expected_terms
from sklearn_vae.gaussian.observed import observed_moments
from sklearn_vae.gaussian.spectrum import peak_signs
from sklearn_vae.gaussian.stationarity import Stationarity
from sklearn_vae.linear.bernoulli_fit import fit_bernoulli, maximize
from sklearn_vae.linear.factor_analysis import FactorAnalysis

# Certificate of a fit without parameters.
_AT_MAXIMUM = Stationarity(0.0, 0.0, converged=True, is_exact=True, objective="ELBO")
# Tolerance of the fit of columns that are all real, which is cheap.
_TOL_OF_REAL = 1e-8


@dataclass(frozen=True, eq=False)
class MixedFit:
    """Parameters that maximize the bound."""

    parameters: TermParameters
    history: np.ndarray  # the bound at the start and after each iteration, in nats per sample
    certificate: Stationarity


def fit_mixed(
    data: TermData,
    terms: ColumnTerms,
    n_components: int,
    diagonal: bool,
    max_iter: int,
    tol: float,
    rng: Any,
    weights: np.ndarray,
) -> MixedFit:
    """Maximize the bound over the parameters, without terms that are constant.

    Weights must be positive. Columns that are all real are fitted by :class:`FactorAnalysis` where
    its posterior is of the same family, and columns of complete bits with diagonal covariances like
    those of :class:`BernoulliPPCA`.
    """
    n_reals, _, n_bits = data.sizes
    complete = bool(data.observed.all())
    if n_reals == len(terms.columns) and n_reals and (complete or not diagonal):
        return _fit_real(data, n_components, max_iter, tol, rng, weights)
    if n_bits == len(terms.columns) and n_bits and complete and diagonal:
        return _fit_bits(data, n_components, max_iter, tol, rng, weights)
    marginal = marginals(data, weights)
    b, noise, varies = marginal
    k, D = n_components, len(b)
    weights = weights / scale_of(weights)
    weights = weights / weights.mean()
    A = np.broadcast_to(b, data.values.shape)
    independent = expected_terms(data, A, np.zeros_like(A), noise)[0]
    constant = float(weights @ independent[:, ~varies].sum(axis=1)) / len(weights)
    W = np.zeros((D, k))
    if not varies.any():
        p = TermParameters(W, b, noise)
        return MixedFit(p, np.full(2, constant), _AT_MAXIMUM)
    # In units in which the Gaussian values are standardized.
    gaussian = data.sizes.families[0]
    center, unit = np.zeros(D), np.ones(D)
    y = np.where(data.observed > 0.0, data.values, np.nan)
    mean, variance, n_observed = observed_moments(y[:, gaussian], weights)
    center[gaussian] = mean
    unit[gaussian] = np.where(varies[gaussian], np.sqrt(variance), 1.0)
    values = (data.values - center) / unit * data.observed
    kept = data._replace(values=values).with_terms(varies)
    owner = np.unique(terms.owner[varies], return_inverse=True)[1]
    numbers = varies[: len(noise)]
    standard = marginal._replace(b=((b - center) / unit)[varies], noise=noise[numbers])
    start = initial_parameters(kept, owner, standard, k, weights, rng)
    q = MixedPosteriors(start, diagonal).start(kept)
    bound = MixedBound(kept, owner, q, weights, diagonal)
    x, history, certificate = maximize(bound, bound.pack(start), max_iter, tol, None, tuple(q))
    p = bound.parameters(x)
    search = MixedPosteriors(p, diagonal)
    search.solve(kept, q)
    E = search.expectations(kept, q.mean, q.covariance)
    W[varies] = _oriented(p.W, -E[2].T @ weights / len(weights), diagonal) * unit[varies, None]
    b[varies] = p.b * unit[varies] + center[varies]
    noise[numbers] = p.noise
    noise[gaussian] *= np.where(numbers[gaussian], unit[gaussian] ** 2, 1.0)
    units = varies[gaussian]
    constant -= float(n_observed[units] @ np.log(unit[gaussian][units])) / len(weights)
    return MixedFit(TermParameters(W, b, noise), np.asarray(history) + constant, certificate)


def _oriented(W: np.ndarray, curvature: np.ndarray, diagonal: bool) -> np.ndarray:
    """Rotate or sort the latents by falling contribution to the average precision of q(z|x).

    Covariances without constraints allow any rotation: the average precision becomes diagonal.
    """
    precision = (W.T * curvature) @ W
    if diagonal:
        W = W[:, np.argsort(-np.square(W).sum(axis=0), kind="stable")]
    else:
        W = W @ np.linalg.eigh(precision)[1][:, ::-1]
    return W * peak_signs(W)


def _fit_real(
    data: TermData, k: int, max_iter: int, tol: float, rng: Any, weights: np.ndarray
) -> MixedFit:
    X = np.where(data.observed > 0.0, data.values, np.nan)
    # More latents than terms or samples have no use.
    k_fit = min(k, *X.shape)
    model = FactorAnalysis(k_fit, tol=min(tol, _TOL_OF_REAL), max_iter=max_iter, random_state=rng)
    model.fit(X, sample_weight=weights)
    W = np.pad(model.loadings_, ((0, 0), (0, k - k_fit)))
    p = TermParameters(W, model.mean_, model.noise_variance_)
    history = np.asarray(model.loglike_) / model.n_samples_
    return MixedFit(p, history, model.certificate_)


def _fit_bits(
    data: TermData, k: int, max_iter: int, tol: float, rng: Any, weights: np.ndarray
) -> MixedFit:
    fit = fit_bernoulli(data.values, k, "per_sample", max_iter, tol, rng, None, weights)
    return MixedFit(TermParameters(fit.W, fit.mu, np.empty(0)), fit.history, fit.certificate)
