"""Predictive distribution of missing values, with uncertain parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.factor_em import Factors
from sklearn_vae.gaussian.factor_map import fit_factors_map
from sklearn_vae.gaussian.observed import Parameters

Array = np.ndarray

# Candidates for the number of components.
CANDIDATES = (0, 1, 2, 4, 6, 8, 12, 16)
# Folds that choose the number of components, and that calibrate. Each hides a share of the entries.
SEARCH_FOLDS, CALIBRATION_FOLDS, HIDDEN_SHARE = 2, 5, 0.1
# The residuals of all features count as this number of residuals of each feature.
POOLED_RESIDUALS = 100.0
# Normal quantiles at which the distribution of residuals is stored.
NORMAL_GRID = np.linspace(-2.6, 2.6, 27)
# Steps of EM, and its tolerance in nats per sample. The search is as good with a larger one.
MAX_STEPS, TOLERANCE, SEARCH_TOLERANCE = 100, 1e-3, 1e-2


class Kind(NamedTuple):
    """Noise of a factor model: equal for all features or not, fixed or estimated."""

    equal_noise: bool
    noise_variance: float | None = None

    def fit(
        self,
        X: Array,
        k: int,
        weights: Array | None,
        start: Factors | None = None,
        tol: float = TOLERANCE,
    ) -> Factors:
        """Fit the model to X, which may be far from 0."""
        center = np.nanmean(X, axis=0)
        if start is not None:
            start = start._replace(mean=start.mean - center)
        factors, _, _ = fit_factors_map(
            X - center,
            k,
            weights,
            equal_noise=self.equal_noise,
            noise_variance=self.noise_variance,
            start=start,
            tol=tol,
            max_iter=MAX_STEPS,
        )
        return factors._replace(mean=factors.mean + center)


def conditional_moments(X: Array, factors: Factors) -> tuple[Array, Array]:
    """Return X with conditional means of missing values, and the standard deviations."""
    scaled, parameters, scale = _in_units_of_noise(X, factors)
    filled, std = observed.impute(scaled, parameters, return_std=True)
    assert std is not None
    return np.where(np.isnan(X), filled * scale + factors.mean, X), std * scale


def conditional_draw(X: Array, factors: Factors, rng: np.random.RandomState) -> Array:
    """Return X with a joint draw of the missing values of each sample."""
    scaled, parameters, scale = _in_units_of_noise(X, factors)
    drawn = observed.sample(scaled, parameters, rng)
    return np.where(np.isnan(X), drawn * scale + factors.mean, X)


def _in_units_of_noise(X: Array, factors: Factors) -> tuple[Array, Parameters, Array]:
    """Return centered X and the model in units in which the noise variance is 1, and the units."""
    scale = np.sqrt(factors.noise_variance)
    parameters = Parameters(factors.loadings / scale[:, None], np.zeros_like(scale), 1.0)
    return (X - factors.mean) / scale, parameters, scale


@dataclass(frozen=True, eq=False)
class Predictive:
    """Mixture of the conditional distributions of m fits, and the quantiles of its residuals.

    `quantiles` belong to the residuals in units of the standard deviation of the mixture, at
    `NORMAL_GRID`; None if they are normal.
    """

    fits: list[Factors]
    quantiles: Array | None = None  # (d, g)

    def moments(self, X: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the mixture, by the law of total variance."""
        total, squares, within = (np.zeros(X.shape) for _ in range(3))
        center, _ = conditional_moments(X, self.fits[0])
        for factors in self.fits:
            mean, std = conditional_moments(X, factors)
            total += mean - center
            squares += (mean - center) ** 2
            within += std**2
        m = len(self.fits)
        between = np.maximum(squares - total**2 / m, 0.0) / max(m - 1, 1)
        return center + total / m, np.sqrt(within / m + between)

    def std(self, X: Array) -> Array:
        """Return the standard deviation of the draws."""
        _, std = self.moments(X)
        if self.quantiles is None:
            return std
        at = ndtri((np.arange(400) + 0.5) / 400)
        spread = [residuals(at, q).std() for q in self.quantiles]
        return std * np.asarray(spread)

    def draws(
        self, X: Array, n_draws: int, rng: np.random.RandomState, bounds: tuple[Array, Array]
    ) -> Iterator[Array]:
        """Yield X with draws of the missing values, truncated to the bounds of the features."""
        m = len(self.fits)
        order = np.concatenate([rng.permutation(m) for _ in range(-(-n_draws // m))])
        mean, std = self.moments(X)
        missing = np.isnan(X)
        columns = np.flatnonzero(missing.any(axis=0))
        for b in order[:n_draws]:
            drawn = conditional_draw(X, self.fits[b], rng)
            for j in columns:
                rows = missing[:, j]
                z = (drawn[rows, j] - mean[rows, j]) / std[rows, j]
                drawn[rows, j] = self._marginal(
                    z, int(j), mean[rows, j], std[rows, j], bounds[0][j], bounds[1][j]
                )
            yield drawn

    def interval(
        self, X: Array, coverage: float, bounds: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Return central intervals of the missing values."""
        mean, std = self.moments(X)
        ends = []
        for p in ((1.0 - coverage) / 2.0, (1.0 + coverage) / 2.0):
            end = X.copy()
            for j in range(X.shape[1]):
                rows = np.isnan(X[:, j])
                z, low, high = np.full(int(rows.sum()), ndtri(p)), bounds[0][j], bounds[1][j]
                end[rows, j] = self._marginal(z, j, mean[rows, j], std[rows, j], low, high)
            ends.append(end)
        return ends[0], ends[1]

    def _marginal(
        self, z: Array, j: int, mean: Array, std: Array, low: float, high: float
    ) -> Array:
        """Return the quantiles of feature j that belong to normal quantiles, within bounds."""
        q = NORMAL_GRID if self.quantiles is None else self.quantiles[j]
        if np.isfinite(low) or np.isfinite(high):
            # The truncated distribution: quantiles between those of the bounds.
            first, last = (ndtr(normal((end - mean) / std, q)) for end in (low, high))
            z = ndtri(np.clip(first + ndtr(z) * (last - first), 1e-15, 1.0 - 1e-15))
        return np.clip(mean + std * residuals(z, q), low, high)


def residuals(z: Array, quantiles: Array) -> Array:
    """Map normal quantiles to those of residuals; beyond the grid the map is linear."""
    return _interpolate(z, NORMAL_GRID, quantiles)


def normal(t: Array, quantiles: Array) -> Array:
    """Return the inverse of `residuals`."""
    return _interpolate(t, quantiles, NORMAL_GRID)


def _interpolate(x: Array, at: Array, values: Array) -> Array:
    below, above = np.minimum(x - at[0], 0.0), np.maximum(x - at[-1], 0.0)
    slope = (values[-1] - values[0]) / (at[-1] - at[0])
    return np.interp(x, at, values) + slope * (below + above)


def bootstrap(
    X: Array,
    weights: Array | None,
    factors: Factors,
    kind: Kind,
    n_fits: int,
    rng: np.random.RandomState,
) -> Predictive:
    """Fit the model with random weights (Rubin, "The Bayesian bootstrap", 1981), from a fit.

    The weights of samples of weight 1 are Dirichlet distributed, a sample of weight 2 counts as two.
    """
    shape = np.ones(len(X)) if weights is None else weights * (len(X) / weights.sum())
    fits, k = [], factors.loadings.shape[1]
    for _ in range(n_fits):
        w = np.maximum(rng.standard_gamma(shape), np.finfo(float).tiny)
        fits.append(kind.fit(X, k, w * (len(X) / w.sum()), factors))
    return Predictive(fits)


def calibrated(
    predictive: Predictive,
    X: Array,
    weights: Array | None,
    kind: Kind,
    rng: np.random.RandomState,
) -> Predictive:
    """Estimate the distribution of residuals by entries that are hidden from further fits."""
    k = predictive.fits[0].loadings.shape[1]
    parts: list[tuple[Array, Array]] = []
    for hidden in hidden_entries(X, CALIBRATION_FOLDS, rng):
        Y = np.where(hidden, np.nan, X)
        mean, _ = conditional_moments(Y, kind.fit(Y, k, weights))
        _, std = predictive.moments(Y)
        _, columns = np.nonzero(hidden)
        parts.append((columns, ((X - mean)[hidden]) / std[hidden]))
    columns, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(values) < 20:
        return predictive
    p = ndtr(NORMAL_GRID)
    pooled = np.quantile(values, p, method="weibull")
    rows = []
    for j in range(X.shape[1]):
        own = values[columns == j]
        share = len(own) / (len(own) + POOLED_RESIDUALS)
        q = pooled if not own.size else np.quantile(own, p, method="weibull")
        q = share * q + (1.0 - share) * pooled
        rows.append(q + 1e-9 * NORMAL_GRID)  # strictly increasing
    return Predictive(predictive.fits, np.array(rows))


def choose_components(
    X: Array, weights: Array | None, kind: Kind, most: int, rng: np.random.RandomState
) -> int:
    """Choose the number of components by the density of entries that are hidden from the fit."""
    folds = list(hidden_entries(X, SEARCH_FOLDS, rng))
    best, best_score, n_worse = 0, -np.inf, 0
    for k in sorted({min(k, most) for k in CANDIDATES}):
        score = 0.0
        for hidden in folds:
            Y = np.where(hidden, np.nan, X)
            mean, std = conditional_moments(Y, kind.fit(Y, k, weights, tol=SEARCH_TOLERANCE))
            density = -np.log(std[hidden]) - 0.5 * ((X - mean)[hidden] / std[hidden]) ** 2
            score += float(density.sum())
        if score > best_score:
            best, best_score, n_worse = k, score, 0
        else:
            n_worse += 1
        if n_worse == 2:
            break
    return best


def hidden_entries(X: Array, n_folds: int, rng: np.random.RandomState) -> Iterator[Any]:
    """Yield masks of observed entries to hide; two values of each feature remain."""
    rows, columns = np.nonzero(~np.isnan(X))
    order = rng.permutation(len(rows))
    size = int(len(rows) * HIDDEN_SHARE)
    for fold in range(n_folds):
        hidden = np.zeros(X.shape, dtype=bool)
        at = order[fold * size : (fold + 1) * size]
        hidden[rows[at], columns[at]] = True
        left = np.sum(~np.isnan(X) & ~hidden, axis=0)
        hidden[:, left < 2] = False
        yield hidden
