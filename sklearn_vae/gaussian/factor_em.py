"""EM for factor analysis of data with missing values."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.em import (
    LONGEST_STEP,
    REMEMBERED,
    Sums,
    absorb_latents,
    fixed_point,
    regress_on_latents,
)
from sklearn_vae.gaussian.expected_moments import (
    MOST_FOR_MOMENTS,
    IncompleteMoments,
    LowRankFit,
    maximize_expected,
    slope_at,
)
from sklearn_vae.gaussian.factor_analysis import (
    CONSTANT_NOISE,
    LOG_2PI,
    FactorModel,
    fit_factors,
)
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.observed import IncompleteData, Parameters, observed_moments
from sklearn_vae.gaussian.profile_likelihood import FLOOR
from sklearn_vae.gaussian.spectrum import with_positive_peaks

# Tolerance of M-steps, in nats, which leaves relative errors of about 1e-9.
EXACT = 1e-18


class Factors(NamedTuple):
    """Parameters of a factor model in units of the observed standard deviations."""

    loadings: np.ndarray  # (d, k)
    mean: np.ndarray  # (d,)
    noise_variance: np.ndarray  # (d,)

    @property
    def flat(self) -> np.ndarray:
        """All parameters as a vector, with log noise variances at the end."""
        return np.concatenate([self.loadings.ravel(), self.mean, np.log(self.noise_variance)])

    def from_flat(self, flat: np.ndarray) -> Factors:
        """Return the parameters in a vector like `flat`, with noise variances near these."""
        d = len(self.mean)
        log_psi = np.log(self.noise_variance)
        log_psi = np.clip(flat[-d:], log_psi - LONGEST_STEP, log_psi + LONGEST_STEP)
        W = flat[: -2 * d].reshape(self.loadings.shape)
        return Factors(W, flat[-2 * d : -d], np.maximum(np.exp(log_psi), FLOOR))


class IncompleteFactors:
    """Log-likelihood and EM steps of a factor model of data with missing values."""

    def __init__(
        self, X: np.ndarray, n_components: int, weights: np.ndarray | None, is_fixed: bool
    ) -> None:
        zeros = np.zeros(X.shape[1])
        self._data = IncompleteData(X, zeros, n_components, weights)
        self._values, self.is_fixed = self._data.values, is_fixed
        self.n = self._data.n

    def sums(self, factors: Factors) -> tuple[Sums, float]:
        """Run the E-step; return its sums in units of the noise, and the log-likelihood."""
        scale = np.sqrt(factors.noise_variance)
        data = self._data
        data.values = self._values / scale
        data.squares = np.einsum("ij,ij->i", data.values, data.values)
        scaled = Parameters(factors.loadings / scale[:, None], factors.mean / scale, 1.0)
        sums = Sums.of(data, scaled)
        total = sums.log_likelihood - float(sums.counts @ np.log(scale))
        return sums, total / self.n

    def step(self, sums: Sums, factors: Factors) -> Factors:
        """Run the M-step of PX-EM (Liu, Rubin and Wu, 1998), as for pPCA in `gaussian.em`."""
        scale = np.sqrt(factors.noise_variance)
        solution, explained = regress_on_latents(sums)
        psi = factors.noise_variance
        if not self.is_fixed:
            squares = self._data.sum((self._values / scale) ** 2)
            residual = squares - np.sum(explained, axis=1)
            psi = np.maximum(residual / sums.counts * psi, FLOOR)
        W, mean = solution[:, :-1] * scale[:, None], solution[:, -1] * scale
        return Factors(*absorb_latents(W, mean, sums, self.n), psi)


class FactorUpdate:
    """Factor model of expected moments; each fit starts at the noise variances of the last one.

    Features that do not vary have no factors and the noise variance `CONSTANT_NOISE`.
    """

    def __init__(
        self,
        n_components: int,
        noise_variance: np.ndarray | None = None,
        start: np.ndarray | None = None,
        varies: np.ndarray | None = None,
    ) -> None:
        self._n_components, self._fixed, self._start = n_components, noise_variance, start
        self._varies = None if varies is None or varies.all() else varies

    def fit(self, covariance: np.ndarray) -> LowRankFit:
        """Fit the model by maximum likelihood."""
        if self._varies is not None:  # missing values have a variance
            covariance = covariance * self._varies * self._varies[:, None]
        moments = Moments(1.0, np.zeros(len(covariance)), covariance)
        model = fit_factors(
            moments,
            self._n_components,
            noise_variance=self._fixed,
            start=self._start,
            tol=EXACT,
        )
        self._start = model.noise_variance
        scale = np.sqrt(model.noise_variance)
        values, vectors = np.linalg.eigh(covariance / scale / scale[:, None])
        W = model.loadings / scale[:, None]
        return LowRankFit(W, 1.0, values[::-1], vectors[:, ::-1], scale)

    def is_unbounded(self, fit: LowRankFit) -> bool:
        """Return False, because noise variances have a lower bound."""
        return False


def fit_incomplete_factors(
    X: np.ndarray,
    n_components: int,
    weights: np.ndarray | None = None,
    *,
    noise_variance: np.ndarray | None = None,
    start: np.ndarray | None = None,
    tol: float = 1e-8,
    max_iter: int = 1000,
) -> tuple[FactorModel, np.ndarray]:
    """Fit a factor model to data with missing values by EM with extrapolation.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Samples in float64, with NaN for missing values. Each feature must have an observed value.
    n_components : int
        Number k of factors.
    weights : array of shape (n_samples,), default=None
        Positive weights.
    noise_variance, start : array of shape (n_features,), default=None
        Fixed noise variances, or noise variances at which EM starts. The default start is the
        model of the data with missing values replaced by means.
    tol : float, default=1e-8
        Distance from the maximum at which EM ends, in nats per sample, as the steps predict it.
    max_iter : int, default=1000
        Maximum number of iterations.

    Returns
    -------
    model : FactorModel
        Fitted model.
    mean : array of shape (n_features,)
        Mean of the model.

    References
    ----------
    Rubin and Thayer, "EM algorithms for ML factor analysis", Psychometrika 1982.
    """
    n = float(len(X) if weights is None else weights.sum())
    center, variances, counts = observed_moments(X, weights)
    varies = variances > (4.0 * 2.0**-52 * center) ** 2
    psi = np.where(varies, variances, CONSTANT_NOISE) if noise_variance is None else noise_variance
    if n_components == 0 or not varies.any():
        spread = np.where(varies, variances, 0.0) / psi
        value = -0.5 * float(counts @ (LOG_2PI + np.log(psi) + spread)) / n
        return FactorModel(np.zeros((len(psi), n_components)), psi, value, 0.0, [value]), center
    k, unit = min(n_components, int(varies.sum())), np.sqrt(variances[varies])
    Y = (X[:, varies] - center[varies]) / unit
    fixed, first = (
        None if value is None else value[varies] / unit**2 for value in (noise_variance, start)
    )
    iterate = _iterate_moments if len(unit) <= MOST_FOR_MOMENTS else _iterate_factors
    end = iterate(Y, k, weights, fixed, first, tol, max_iter)
    factors = end.factors
    # Constant features have only their noise, and units change the density.
    shift = -float(counts[varies] @ np.log(unit)) / n
    shift -= 0.5 * float(counts[~varies] @ (LOG_2PI + np.log(psi[~varies]))) / n
    scale = np.sqrt(factors.noise_variance)
    # Orient the factors so that they are uncorrelated given x, with falling lengths.
    U, lengths, _ = np.linalg.svd(factors.loadings / scale[:, None], full_matrices=False)
    W = np.zeros((len(psi), n_components))
    W[varies, :k] = with_positive_peaks((U * lengths * (scale * unit)[:, None]).T).T
    at_floor = np.flatnonzero(varies)[factors.noise_variance <= FLOOR * (1.0 + 1e-9)]
    if fixed is None:
        psi[varies] = factors.noise_variance * unit**2
    else:
        at_floor = at_floor[:0]
    center[varies] += factors.mean * unit
    history = [value + shift for value in end.history]
    model = FactorModel(
        W, psi, history[-1], end.norm, history, end.converged, at_floor, end.remaining_gain
    )
    return model, center


class _End(NamedTuple):
    """Result of EM in units of the observed standard deviations."""

    factors: Factors
    history: list[float]
    converged: bool
    norm: float
    remaining_gain: float


def _iterate_moments(
    Y: np.ndarray,
    k: int,
    weights: np.ndarray | None,
    fixed: np.ndarray | None,
    first: np.ndarray | None,
    tol: float,
    max_iter: int,
) -> _End:
    """Iterate EM over expected moments."""
    data = IncompleteMoments(Y, np.zeros(Y.shape[1]), k, weights)
    update = FactorUpdate(k, fixed, first)
    # Near the maximum the log-likelihood falls with the square of the distance.
    end = maximize_expected(data, update, data.start(), tol=tol**0.5 / 3.0, max_iter=max_iter)
    slope, scale = slope_at(data, update, end), end.fit.scale
    assert scale is not None
    factors = Factors(end.fit.loadings * scale[:, None], end.expected.mean, scale**2)
    is_free = factors.noise_variance > FLOOR * (1.0 + 1e-6)
    derivatives = slope.by_log_noise[is_free] if fixed is None else np.empty(0)
    norm = float(np.abs(derivatives).max(initial=0.0))
    history = [*end.history, max(slope.log_likelihood, end.history[-1])]
    return _End(factors, history, end.converged, norm, slope.remaining_gain)


def _iterate_factors(
    Y: np.ndarray,
    k: int,
    weights: np.ndarray | None,
    fixed: np.ndarray | None,
    first: np.ndarray | None,
    tol: float,
    max_iter: int,
) -> _End:
    """Iterate EM over the factors of many features; a better extrapolated point is accepted."""
    filled = Moments.of(np.nan_to_num(Y), weights)
    initial = fit_factors(filled, k, noise_variance=fixed, start=first, tol=1e-3)
    factors = Factors(initial.loadings, np.zeros(Y.shape[1]), initial.noise_variance)
    data = IncompleteFactors(Y, k, weights, is_fixed=fixed is not None)
    sums, value = data.sums(factors)
    history, converged, norm, rise = [value], False, 0.0, 0.0
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    while not converged and len(history) <= max_iter:
        after = data.step(sums, factors)
        steps = [*steps[-REMEMBERED:], (factors.flat, after.flat)]
        norm = 0.5 * float(np.abs(np.log(after.noise_variance / factors.noise_variance)).max())
        accepted = None
        if len(steps) > 1:
            extrapolated = after.from_flat(fixed_point(steps))
            if data.is_fixed:
                extrapolated = extrapolated._replace(noise_variance=after.noise_variance)
            with suppress(np.linalg.LinAlgError):  # extrapolated parameters may be invalid
                sums, value = data.sums(extrapolated)
                if value > history[-1]:
                    accepted = extrapolated
        if accepted is None:
            steps, accepted = [], after
            sums, value = data.sums(after)
        if value < history[-1]:  # only by rounding
            return _End(factors, history, True, norm, 0.0)
        rise = value - history[-1]
        converged = rise < tol
        factors = accepted
        history.append(value)
    return _End(factors, history, converged, norm, rise)
