"""Maximum likelihood factor analysis: a covariance of low rank plus one noise variance per feature.

For given noise variances psi the best loadings W follow from the leading eigenvectors of the
covariance in units of the noise. The likelihood with these loadings is a smooth function of log psi,
which is maximized numerically.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, optimize

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.centered import CenteredData
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import with_positive_peaks

# Smallest noise variance, as a share of the variance of the feature.
FLOOR = 1e-6
LOG_FLOOR = math.log(FLOOR)
# Largest change of a log noise variance in a Newton step.
LONGEST_STEP = 2.0
# Features with a smaller variance count as constant: reciprocals of their noise would overflow.
LEAST_VARIANCE = 1e-290
# Rounding error of the loss, in nats per sample, where no noise variance is tiny.
ROUNDING = 1e-11
# Derivative at which all searches but the first stop. They continue if they are at most CLOSE nats worse
# than the best one, and a log noise variance is farther than SAME from all known ends.
COARSE, CLOSE, SAME = 1e-4, 1e-3, 1e-2
# Ratio of noise standard deviations from which the small ones cost digits.
GRADED = 30.0
# Up to this number of features the Hessian costs less than the iterations that it saves.
MOST_FOR_NEWTON = 256
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
        Whether the gradient norm is at most the tolerance, or rounding errors prevent any progress.
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


class Pairs(NamedTuple):
    """Eigenpairs of which the first `n_kept` are factors with eigenvalues above 1."""

    values: np.ndarray
    vectors: np.ndarray
    n_kept: int

    @property
    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of the factors."""
        return self.values[: self.n_kept], self.vectors[:, : self.n_kept]


class Correlation(ABC):
    """Correlation matrix of the features that vary, in the form that is cheapest for its rank."""

    n_features: int
    has_all = False  # whether `eigenpairs` returns all eigenpairs

    @abstractmethod
    def eigenpairs(self, scale: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute eigenpairs, descending, of diag(scale) R diag(scale): at least the first k."""

    @abstractmethod
    def inverse_diagonal(self) -> np.ndarray | None:
        """Compute the diagonal of the inverse of R, or return None if R is singular."""

    @staticmethod
    def of(summary: Moments | CenteredData, roots: np.ndarray, varies: np.ndarray) -> Correlation:
        """Build the correlations of features with standard deviations `roots`."""
        if isinstance(summary, Moments):
            S = to_host(summary.covariance).astype(np.float64, copy=False)
            return CorrelationMatrix(S[np.ix_(varies, varies)] / (roots[:, None] * roots))
        blocks = [to_host(R)[:, varies].astype(np.float64) for R in summary.blocks()]
        Y = np.concatenate(blocks) / (summary.n**0.5 * roots)
        return CorrelationMatrix(Y.T @ Y) if len(roots) <= MOST_FOR_NEWTON else CorrelationFactor(Y)


class CorrelationMatrix(Correlation):
    """Correlations as a matrix R, for n >= d or few features."""

    def __init__(self, R: np.ndarray) -> None:
        self._R, self.n_features = R, R.shape[0]
        self.has_all = self.n_features <= MOST_FOR_NEWTON

    def eigenpairs(self, scale: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        d = self.n_features
        A = self._R * (scale[:, None] * scale)
        if self.has_all and scale.max(initial=0.0) > GRADED * scale.min(initial=np.inf):
            # The squared singular values of a factor have smaller errors if psi is near its floor.
            vectors, roots, _ = np.linalg.svd(scale[:, None] * self._root)
            return roots**2, vectors
        if self.has_all:
            values, vectors = np.linalg.eigh(A)
        elif k == 0:
            return np.empty(0), np.empty((d, 0))
        else:
            values, vectors = linalg.eigh(A, subset_by_index=(d - k, d - 1), check_finite=False)
        return values[::-1], vectors[:, ::-1]

    @cached_property
    def _root(self) -> np.ndarray:
        """Matrix B with B B' = R."""
        values, vectors = np.linalg.eigh(self._R)
        return vectors * np.sqrt(values.clip(0.0))

    def inverse_diagonal(self) -> np.ndarray | None:
        try:
            root = linalg.cholesky(self._R, check_finite=False)
        except linalg.LinAlgError:
            return None
        inverse = linalg.solve_triangular(root, np.eye(self.n_features), check_finite=False)
        diagonal = np.sum(inverse**2, axis=1)
        return diagonal if diagonal.max() * self.n_features * 2.0**-52 < 1e-3 else None


class CorrelationFactor(Correlation):
    """Correlations R = Y'Y by standardized samples Y / sqrt(n), for n < d."""

    def __init__(self, Y: np.ndarray) -> None:
        self._Y, self.n_features = Y, Y.shape[1]

    def eigenpairs(self, scale: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        Y = self._Y * scale
        values, vectors = np.linalg.eigh(Y @ Y.T)
        # Eigenvalues up to 1 are not needed, and the others are not rounding errors.
        k = min(k, int(np.count_nonzero(values > 1.0)))
        values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
        return values, Y.T @ (vectors / values**0.5)

    def inverse_diagonal(self) -> np.ndarray | None:
        return None


class ProfileLikelihood:
    """Log-likelihood of log psi (in units of the variances), maximized over the loadings."""

    def __init__(self, correlation: Correlation, n_components: int) -> None:
        self.correlation = correlation
        self.n_components = min(n_components, correlation.n_features)
        self._last: tuple[bytes, Pairs] | None = None

    def pairs(self, log_psi: np.ndarray) -> Pairs:
        """Return eigenpairs of R in units of the noise, remembering the last ones."""
        key = log_psi.tobytes()
        if self._last is None or self._last[0] != key:
            scale = np.exp(-0.5 * log_psi)
            values, vectors = self.correlation.eigenpairs(scale, self.n_components)
            n_kept = int(np.count_nonzero(values[: self.n_components] > 1.0))
            self._last = key, Pairs(values, vectors, n_kept)
        return self._last[1]

    def loss(self, log_psi: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute the negative log-likelihood without its constant, and its gradient."""
        values, vectors = self.pairs(log_psi).kept
        total = np.exp(-log_psi)  # diagonal of R in units of the noise
        explained = vectors**2 @ (values - 1.0)
        log_det = float(log_psi.sum() + np.log(values).sum())
        # The eigenvalues that are not kept sum to the trace minus the others.
        loss = 0.5 * (log_det + float((total - explained).sum()))
        return loss, -0.5 * (total - 1.0 - explained)

    def curvature(self, log_psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the Hessian of the loss, and its positive semidefinite part.

        With the eigenvectors u and values theta of R in units of the noise, kept (j) and not
        (m), the Hessian is 1/2 (P * Q + sum_jm c_jm (u_j u_j') * (u_m u_m')), where P and Q are the
        sums of u_m u_m' and theta_m u_m u_m', and c_jm = (1 - theta_m)(theta_m + theta_j) /
        (theta_j - theta_m). The first term is the Fisher information if the model is true.
        """
        values, vectors, n_kept = self.pairs(log_psi)
        theta, U = values[n_kept:], vectors[:, n_kept:]
        scoring = 0.5 * (U @ U.T) * ((U * theta) @ U.T)
        hessian = scoring.copy()
        for theta_j, u in zip(values[:n_kept], vectors[:, :n_kept].T, strict=True):
            gap = np.maximum(theta_j - theta, 2.0**-52 * theta_j)  # eigenvalues may be equal
            c = (1.0 - theta) * (theta + theta_j) / gap
            hessian += 0.5 * (u[:, None] * u) * ((U * c) @ U.T)
        return hessian, scoring

    def scoring(self, log_psi: np.ndarray) -> np.ndarray:
        """Return the diagonal of the positive semidefinite part of the Hessian of the loss."""
        values, vectors = self.pairs(log_psi).kept
        squares = vectors**2
        unexplained = np.exp(-log_psi) - squares @ values  # sum of theta_m u_m^2
        scoring = 0.5 * (1.0 - squares.sum(axis=1)) * unexplained
        return np.maximum(scoring, ROUNDING)

    def loadings(self, log_psi: np.ndarray) -> np.ndarray:
        """Return the best loadings, with zero columns for collapsed dimensions."""
        values, vectors = self.pairs(log_psi).kept
        W = np.zeros((len(log_psi), self.n_components))
        W[:, : len(values)] = np.exp(0.5 * log_psi)[:, None] * vectors * (values - 1.0) ** 0.5
        return with_positive_peaks(W.T).T if len(W) else W

    @cached_property
    def starts(self) -> list[np.ndarray]:
        """Start values of log psi.

        The first is the residual variance of each feature given all others, as in Joereskog
        (1967), or given the principal components if the correlations are singular.
        """
        d, k = self.correlation.n_features, self.n_components
        if k == 0:
            return [np.zeros(d)]
        inverse = self.correlation.inverse_diagonal()
        if inverse is not None:
            share = (1.0 - 0.5 * k / d) / inverse
        else:
            values, vectors = self.pairs(np.zeros(d)).kept
            noise = max((d - values.sum()) / max(d - len(values), 1), 0.0)
            share = 1.0 - vectors**2 @ (values - noise)
        return [np.log(share.clip(1e-3, 1.0)), np.full(d, math.log(0.5))]


def fit_factors(
    summary: Moments | CenteredData,
    n_components: int,
    *,
    noise_variance: np.ndarray | None = None,
    start: np.ndarray | None = None,
    more_starts: Sequence[np.ndarray] = (),
    n_init: int = 2,
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
    n_init : int, default=2
        Number of starts. From the third on they are random.
    random_state : RandomState, default=None
        Generator of random starts, needed if `n_init` is above 2.
    tol : float, default=1e-8
        Largest derivative of the log-likelihood by the log of a noise variance at convergence, in
        nats per sample.
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
        best = _Search(log_psi, loss, np.zeros_like(log_psi), [loss], True)
    else:
        starts = profile.starts[:n_init]
        for _ in range(n_init - 2):
            share = random_state.uniform(0.1, 1.0, correlation.n_features)
            starts = [*starts, np.log(share)]
        if start is not None:
            starts = [np.log(start[varies] / variances[varies])]
        starts = [*starts, *(np.log(more[varies] / variances[varies]) for more in more_starts)]
        best = _best_search(profile, starts, tol, max_iter)
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
        0.5 * float(best.gradient @ (best.gradient / profile.scoring(best.log_psi))),
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


@dataclass
class _Search:
    """Result of a search from one start."""

    log_psi: np.ndarray
    loss: float
    gradient: np.ndarray  # 0 where a bound holds log psi
    history: list[float]
    converged: bool


def _best_search(
    profile: ProfileLikelihood, starts: list[np.ndarray], tol: float, max_iter: int
) -> _Search:
    """Search from all starts; one that nears a known or a worse end stops early."""
    best, ends = None, []
    for start in starts:
        search = _search(profile, start, tol if best is None else max(tol, COARSE), max_iter)
        left = max_iter - len(search.history) + 1
        if best is not None and tol < COARSE and left > 0:
            is_known = any(np.abs(end - search.log_psi).max(initial=0.0) < SAME for end in ends)
            if is_known or search.loss > best.loss + CLOSE:
                continue
            history = search.history
            search = _search(profile, search.log_psi, tol, left)
            search.history = history + search.history[1:]
        ends.append(search.log_psi)
        if best is None or search.loss < best.loss:
            best = search
    assert best is not None
    return best


def _search(profile: ProfileLikelihood, log_psi: np.ndarray, tol: float, max_iter: int) -> _Search:
    """Minimize the loss from a start."""
    log_psi = log_psi.clip(LOG_FLOOR, 0.0)
    if len(log_psi) == 0:
        return _Search(log_psi, 0.0, log_psi, [0.0], True)
    method = _newton if profile.correlation.has_all else _quasi_newton
    return method(profile, log_psi, tol, max_iter)


def _is_free(log_psi: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return which noise variances can move downhill between the floor and the variance."""
    at_floor = (log_psi <= LOG_FLOOR) & (gradient > 0.0)
    return ~at_floor & ~((log_psi >= 0.0) & (gradient < 0.0))


def _rounding(log_psi: np.ndarray) -> float:
    """Return the rounding error of the loss, which grows with R in units of the noise."""
    return ROUNDING + len(log_psi) * 2.0**-52 * float(np.exp(-log_psi.min()))


def _newton(profile: ProfileLikelihood, log_psi: np.ndarray, tol: float, max_iter: int) -> _Search:
    """Take projected Newton steps, with a positive definite matrix where the Hessian is not."""
    loss, gradient = profile.loss(log_psi)
    history, converged = [loss], False
    for n_iter in itertools.count():
        free = _is_free(log_psi, gradient)
        norm = float(np.abs(gradient[free]).max(initial=0.0))
        # One more step after convergence squares the error.
        was_converged, converged = converged, norm <= tol
        if norm == 0.0 or (was_converged and converged) or n_iter == max_iter:
            break
        hessian, scoring = (H[np.ix_(free, free)] for H in profile.curvature(log_psi))
        try:
            root = linalg.cho_factor(hessian, check_finite=False)
        except linalg.LinAlgError:
            scoring.flat[:: len(scoring) + 1] += 1e-8
            root = linalg.cho_factor(scoring, check_finite=False)
        step = np.zeros_like(log_psi)
        step[free] = -linalg.cho_solve(root, gradient[free], check_finite=False)
        step *= min(1.0, LONGEST_STEP / np.abs(step).max())
        for _ in range(10):
            new = (log_psi + step).clip(LOG_FLOOR, 0.0)
            new_loss, new_gradient = profile.loss(new)
            if new_loss <= loss + 1e-4 * (gradient @ (new - log_psi)):
                break
            # Where the loss is rounded, the gradient still tells.
            ratio = np.linalg.norm(new_gradient[free]) / np.linalg.norm(gradient[free])
            if new_loss <= loss + _rounding(new) and ratio < 0.5:
                break
            step *= 0.25
        else:  # rounding errors leave no step downhill
            converged = True
            break
        # A rise is a rounding error.
        log_psi, loss, gradient = new, min(loss, new_loss), new_gradient
        if loss < history[-1] - ROUNDING:
            history.append(loss)
    return _Search(log_psi, loss, np.where(free, gradient, 0.0), history, converged)


def _quasi_newton(
    profile: ProfileLikelihood, log_psi: np.ndarray, tol: float, max_iter: int
) -> _Search:
    """Minimize by L-BFGS-B, without the Hessian, which is expensive for many features."""
    history = [profile.loss(log_psi)[0]]

    def record(intermediate_result: Any) -> None:
        history.append(float(intermediate_result.fun))

    result = optimize.minimize(
        profile.loss,
        log_psi,
        jac=True,
        method="L-BFGS-B",
        bounds=[(LOG_FLOOR, 0.0)] * len(log_psi),
        callback=record,
        options={
            "maxiter": max_iter,
            "maxfun": 20 * max_iter,
            "gtol": tol,
            "ftol": 0,
            "maxcor": 20,
        },
    )
    gradient = np.where(_is_free(result.x, result.jac), result.jac, 0.0)
    # Status 1 is the limit of iterations; 2 means that rounding errors stop the line search.
    return _Search(result.x, float(result.fun), gradient, history, result.status != 1)
