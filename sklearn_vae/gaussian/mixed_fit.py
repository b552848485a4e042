"""Fit of a factor model of mixed columns: maximum of the bound, with a penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.gaussian.arrays import Array, scale_of
from sklearn_vae.gaussian.mixed_bound import MixedBound
from sklearn_vae.gaussian.mixed_columns import ColumnTerms
from sklearn_vae.gaussian.mixed_em import climb_by_em
from sklearn_vae.gaussian.mixed_posterior import LOOSE_DECREMENT, MixedPosteriors
from sklearn_vae.gaussian.mixed_predictive import MixedModel
from sklearn_vae.gaussian.mixed_start import initial_parameters, marginals
from sklearn_vae.gaussian.mixed_terms import TermData, TermParameters, expected_terms
from sklearn_vae.gaussian.observed import observed_moments
from sklearn_vae.gaussian.spectrum import peak_signs
from sklearn_vae.gaussian.stationarity import Stationarity
from sklearn_vae.gaussian.trust_region import ascend

# Steps of EM before Newton's method, and the rise below which it ends, as a share of the tolerance.
MAX_EM = 50
SHARE_OF_EM = 0.03
# Accuracy of the posteriors, as a share of the tolerance.
SHARE_OF_SEARCH = 1e-8
# Upper bound of the penalty per sample, at which loadings are about 1e-17.
MOST_RIDGE = 1e6
# Radius of the first trust region of Newton's method after EM.
RADIUS = 10.0


@dataclass(frozen=True, eq=False)
class MixedFit:
    """Parameters that maximize the bound minus the penalty."""

    parameters: TermParameters
    history: Array  # the objective at the start and after each iteration, in nats per sample
    certificate: Stationarity
    at_floor: Sequence[int] = ()  # terms at the floor of the noise without penalty (Heywood cases)


def fit_terms(
    data: TermData,
    owner: Array,
    n_components: int,
    weights: Array,
    *,
    penalty: float,
    diagonal: bool,
    max_iter: int,
    tol: float,
    random_state: Any,
) -> MixedFit:
    """Maximize the bound over the parameters, without terms that are constant.

    Parameters
    ----------
    data : TermData
        Values of the terms.
    owner : array of shape (n_terms,)
        Row of the loadings of each term: 0, 1, ...
    n_components : int
        Number k of latents.
    weights : array of shape (n_samples,)
        Positive weights, which count as repetitions.
    penalty : float
        Weight of the penalty of :class:`~sklearn_vae.gaussian.mixed_bound.MixedBound`, for all samples
        together. It is limited to 1e6 times the sum of weights, at which loadings are 0 to rounding.
    diagonal : bool
        Whether posterior covariances are diagonal.
    max_iter : int
        Maximum number of iterations, of EM and then of Newton's method, of which there is at least one.
    tol : float
        The fit stops when Newton's method predicts a rise of at most `tol`, in nats per sample.
    random_state : RandomState
        Generator of the noise in the initial loadings.

    Returns
    -------
    fit : MixedFit
        Parameters, history and certificate.
    """
    marginal = marginals(data, weights)
    b, noise, varies = marginal
    k, D = n_components, len(b)
    scale = scale_of(weights)
    weights = weights / scale
    total = float(weights.sum()) * scale
    weights = weights / weights.mean()
    A = np.broadcast_to(b, data.values.shape)
    independent = expected_terms(data, A, np.zeros_like(A), noise)[0]
    constant = float(weights @ independent[:, ~varies].sum(axis=1)) / len(weights)
    W = np.zeros((D, k))
    if not varies.any():
        at_maximum = Stationarity(0.0, 0.0, converged=True, is_exact=True, objective="ELBO")
        return MixedFit(TermParameters(W, b, noise), np.full(2, constant), at_maximum)
    # In units in which the Gaussian values are standardized.
    gaussian = data.sizes.families[0]
    center, unit = np.zeros(D), np.ones(D)
    y = np.where(data.observed > 0.0, data.values, np.nan)
    mean, variance, n_observed = observed_moments(y[:, gaussian], weights)
    center[gaussian] = mean
    unit[gaussian] = np.where(varies[gaussian], np.sqrt(variance), 1.0)
    values = (data.values - center) / unit * data.observed
    kept = data._replace(values=values).with_terms(varies)
    rows = np.unique(owner[varies], return_inverse=True)[1]
    numbers = varies[: len(noise)]
    standard = marginal._replace(b=((b - center) / unit)[varies], noise=noise[numbers])
    start = initial_parameters(kept, rows, standard, k, weights, random_state)
    q = MixedPosteriors(start, diagonal).start(kept)
    bound = MixedBound(kept, rows, q, weights, diagonal, min(penalty / total, MOST_RIDGE))
    bound.decrement = float(np.clip(SHARE_OF_SEARCH * tol, LOOSE_DECREMENT, 1e-10))
    x, history, certificate = _maximize(bound, bound.pack(start), max_iter, tol)
    p = bound.parameters(x)
    search = MixedPosteriors(p, diagonal)
    search.solve(kept, q, LOOSE_DECREMENT)
    E = search.expectations(kept, q.mean, q.covariance)
    W[varies] = _oriented(p.W, -E[2].T @ weights, diagonal) * unit[varies, None]
    b[varies] = p.b * unit[varies] + center[varies]
    noise[numbers] = p.noise
    noise[gaussian] *= unit[gaussian] ** 2
    constant -= float(n_observed @ np.log(unit[gaussian])) / len(weights)
    return MixedFit(TermParameters(W, b, noise), np.asarray(history) + constant, certificate)


def fit_columns(
    codes: Array,
    types: Sequence[str],
    n_categories: Sequence[int],
    n_components: int,
    weights: Array,
    random_state: Any,
) -> MixedModel:
    """Fit the model of :class:`~sklearn_vae.linear.MixedFactorAnalysis` to encoded columns.

    Parameters
    ----------
    codes : array of shape (n_samples, n_columns)
        Numbers, or categories as 0, 1, ..., and NaN for missing values.
    types : sequence of str
        Type of each column.
    n_categories : sequence of int
        Number of categories of each column, 0 for numbers.
    n_components : int
        Number k of latents.
    weights : array of shape (n_samples,)
        Positive weights, which count as repetitions.
    random_state : RandomState
        Generator of the noise in the initial loadings.

    Returns
    -------
    model : MixedModel
        Model with full posterior covariances and a penalty of 1.
    """
    terms = ColumnTerms.of(codes, types, n_categories, weights)
    fit = fit_terms(
        terms.encode(codes)[0],
        terms.owner,
        n_components,
        weights,
        penalty=1.0,
        diagonal=False,
        max_iter=200,
        tol=1e-2,
        random_state=random_state,
    )
    return MixedModel(terms, fit.parameters, False)


def _maximize(
    bound: MixedBound, x: Array, max_iter: int, tol: float
) -> tuple[Array, list[float], Stationarity]:
    """Climb by EM, then by Newton's method."""
    x, history = climb_by_em(bound, x, min(MAX_EM, max_iter), SHARE_OF_EM * tol)
    # Newton's method starts at the last point, with better posteriors.
    history = history[:-1]
    n_before = len(history)
    for state in ascend(bound, x, tol, RADIUS):
        if n_before + state.n_steps == len(history):
            history.append(state.value)
        if state.n_steps == max_iter - n_before:
            break
    certificate = Stationarity(
        state.gain, state.gradient_norm, state.converged, is_exact=False, objective="ELBO"
    )
    return state.x, history, certificate


def _oriented(W: Array, curvature: Array, diagonal: bool) -> Array:
    """Rotate or sort the latents by falling contribution to the average precision of q(z|x).

    Covariances without constraints allow any rotation: the average precision becomes diagonal.
    """
    precision = (W.T * curvature) @ W
    if diagonal:
        W = W[:, np.argsort(-np.square(W).sum(axis=0), kind="stable")]
    else:
        W = W @ np.linalg.eigh(precision)[1][:, ::-1]
    return W * peak_signs(W)
