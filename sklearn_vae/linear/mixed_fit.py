"""Fit of factor analysis of mixed columns."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.mixed_columns import ColumnTerms
from sklearn_vae.gaussian.mixed_fit import MixedFit, fit_terms
from sklearn_vae.gaussian.mixed_terms import TermData, TermParameters
from sklearn_vae.linear.bernoulli_fit import fit_bernoulli
from sklearn_vae.linear.factor_analysis import FactorAnalysis

# Tolerance of the fit of columns that are all real, which is cheap.
_TOL_OF_REAL = 1e-8


def fit_mixed(
    data: TermData,
    terms: ColumnTerms,
    n_components: int,
    diagonal: bool,
    max_iter: int,
    tol: float,
    rng: Any,
    weights: np.ndarray,
    penalty: float,
) -> MixedFit:
    """Maximize the bound over the parameters, without terms that are constant.

    Weights must be positive. The penalty is in nats for all samples together, see
    :class:`MixedFactorAnalysis`. Without one, columns that are all real are fitted by
    :class:`FactorAnalysis` where its posterior is of the same family, and columns of complete bits
    with diagonal covariances like those of :class:`BernoulliPPCA`.
    """
    n_reals, _, n_bits = data.sizes
    complete = bool(data.observed.all())
    is_plain = penalty == 0.0
    if is_plain and n_reals == len(terms.columns) and n_reals and (complete or not diagonal):
        return _fit_real(data, n_components, max_iter, tol, rng, weights)
    if is_plain and n_bits == len(terms.columns) and n_bits and complete and diagonal:
        return _fit_bits(data, n_components, max_iter, tol, rng, weights)
    return fit_terms(
        data,
        terms.owner,
        n_components,
        weights,
        penalty=penalty,
        diagonal=diagonal,
        max_iter=max_iter,
        tol=tol,
        random_state=rng,
    )


def _fit_real(
    data: TermData, k: int, max_iter: int, tol: float, rng: Any, weights: np.ndarray
) -> MixedFit:
    X = np.where(data.observed > 0.0, data.values, np.nan)
    # More latents than terms or samples have no use.
    k_fit = min(k, *X.shape)
    model = FactorAnalysis(k_fit, tol=min(tol, _TOL_OF_REAL), max_iter=max_iter, random_state=rng)
    with warnings.catch_warnings():
        # The caller warns in terms of its columns.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, sample_weight=weights)
    W = np.pad(model.loadings_, ((0, 0), (0, k - k_fit)))
    p = TermParameters(W, model.mean_, model.noise_variance_)
    history = np.asarray(model.loglike_) / model.n_samples_
    return MixedFit(p, history, model.certificate_, model.heywood_features_.tolist())


def _fit_bits(
    data: TermData, k: int, max_iter: int, tol: float, rng: Any, weights: np.ndarray
) -> MixedFit:
    fit = fit_bernoulli(data.values, k, "per_sample", max_iter, tol, rng, None, weights)
    return MixedFit(TermParameters(fit.W, fit.mu, np.empty(0)), fit.history, fit.certificate)
