"""Maximum likelihood factor analysis: a covariance of low rank plus one noise variance per feature.

For given noise variances psi the best loadings W follow from the leading eigenvectors of the
covariance in units of the noise. The likelihood with these loadings is a smooth function of log psi,
which is maximized numerically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.centered import CenteredData
from sklearn_vae.gaussian.factor_search import Search, best_search
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.profile_likelihood import LOG_FLOOR, Correlation, ProfileLikelihood

# Features with a smaller variance count as constant: the reciprocal of a noise variance at its floor
# would overflow.
LEAST_VARIANCE = 1e-301
# Noise variance of features without variance, as in scikit-learn's FactorAnalysis.
CONSTANT_NOISE = 1e-12
LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, eq=False)
class FactorModel:
    """Factor model x ~ N(mu, W W' + diag(psi)) of a covariance.

    Parameters
    ----------
    loadings : array of shape (n_features, n_components)
        Loadings W. Their columns are orthogonal in units of the noise, with falling lengths; a
        column of zeros belongs to a collapsed latent dimension.
    noise_variance : array of shape (n_features,)
        Noise variances psi.
    log_likelihood : float
        Average log-likelihood in nats per sample.
    gradient_norm : float
        Largest absolute derivative of the log-likelihood by log psi, in nats per sample, of the
        noise variances that are free to move.
    history : list of float, default=[]
        Log-likelihood after each iteration.
    converged : bool, default=True
        Whether `remaining_gain` is at most the tolerance, or rounding errors prevent any progress.
    at_floor : array of int, default=empty
        Features whose noise variance is at its floor (Heywood cases).
    remaining_gain : float, default=0.0
        Predicted rise of the log-likelihood up to the maximum, in nats per sample.
    """

    loadings: np.ndarray
    noise_variance: np.ndarray
    log_likelihood: float
    gradient_norm: float
    history: list[float] = field(default_factory=list)
    converged: bool = True
    at_floor: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    remaining_gain: float = 0.0


def fit_factors(
    summary: Moments | CenteredData,
    n_components: int,
    *,
    noise_variance: np.ndarray | None = None,
    start: np.ndarray | None = None,
    more_starts: Sequence[np.ndarray] = (),
    n_init: int = 1,
    random_state: Any = None,
    tol: float = 1e-8,
    max_iter: int = 1000,
) -> FactorModel:
    """Fit a factor model by maximum likelihood.

    Parameters
    ----------
    summary : Moments or CenteredData
        Moments of the data or, cheaper for n < d, the centered data.
    n_components : int
        Number k of factors, at least 0.
    noise_variance : array of shape (n_features,), default=None
        Fixed noise variances. If None, they are estimated.
    start : array of shape (n_features,), default=None
        Noise variances at which the search starts. If None, `n_init` starts are tried and the best
        maximum is returned.
    more_starts : sequence of arrays of shape (n_features,), default=()
        Noise variances of further starts.
    n_init : int, default=1
        Number of starts. From the third on they are random. With up to `MOST_FOR_NEWTON` features
        the second one is also tried if the first leads to a Heywood case.
    random_state : RandomState, default=None
        Generator of random starts, needed if `n_init` is above 2.
    tol : float, default=1e-8
        Predicted rise of the log-likelihood up to the maximum, in nats per sample, at which the
        search ends.
    max_iter : int, default=1000
        Maximum number of iterations from a start.

    Returns
    -------
    FactorModel
        Fitted best.

    References
    ----------
    Joereskog, "Some contributions to maximum likelihood factor analysis", Psychometrika 1967,
    eq. 16 to 26 (the likelihood maximized over the loadings, and the start).
    """
    variances, varies = _variances(summary)
    roots = np.sqrt(variances[varies])
    correlation = Correlation.of(summary, roots, varies)
    profile = ProfileLikelihood(correlation, n_components)
    if noise_variance is not None:
        log_psi = np.log(noise_variance[varies] / variances[varies])
        loss = profile.loss(log_psi)[0]
        best = Search(log_psi, loss, np.zeros_like(log_psi), [loss], True)
    else:
        if start is None:
            starts = profile.starts()
            starts, spare = starts[:n_init], starts[n_init:]
            for _ in range(n_init - 2):
                share = random_state.uniform(0.1, 1.0, correlation.n_features)
                starts = [*starts, np.log(share)]
        else:
            starts, spare = [np.log(start[varies] / variances[varies])], []
        starts = [*starts, *(np.log(more[varies] / variances[varies]) for more in more_starts)]
        best = best_search(profile, starts, tol, max_iter, spare)
    psi = np.full(len(variances), CONSTANT_NOISE)
    psi[varies] = np.exp(best.log_psi) * variances[varies]
    W = np.zeros((len(variances), n_components))
    W[varies, : profile.n_components] = roots[:, None] * profile.loadings(best.log_psi)
    if noise_variance is not None:
        psi = noise_variance
    constant = 0.5 * (len(psi) * LOG_2PI + np.log(variances[varies]).sum())
    constant += 0.5 * np.log(psi[~varies]).sum()
    at_floor = np.flatnonzero(varies)[best.log_psi <= LOG_FLOOR]
    return FactorModel(
        W,
        psi,
        -(best.loss + constant),
        float(np.abs(best.gradient).max(initial=0.0)),
        [-(loss + constant) for loss in best.history],
        best.converged,
        at_floor if noise_variance is None else np.empty(0, dtype=int),
        best.remaining,
    )


def _variances(summary: Moments | CenteredData) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of each feature, and which are not rounding errors."""
    if isinstance(summary, Moments):
        variances = np.diagonal(to_host(summary.covariance)).astype(np.float64)
        mean = to_host(summary.mean)
        rounding = summary.precision.rounding(mean, variances, summary.count)
    else:
        variances = to_host(summary.variances).astype(np.float64)
        rounding = to_host(summary.rounding())
    return variances, variances > np.maximum(4.0 * rounding, LEAST_VARIANCE)
