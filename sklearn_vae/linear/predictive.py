"""Predictive distribution of missing values, with uncertain parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import ndtr, ndtri

from sklearn_vae.linear.calibration import (
    NORMAL_GRID,
    Residuals,
    distribution_of,
    hidden_entries,
    missing_odds,
    normal,
    residuals,
)

Array = np.ndarray

# Folds that calibrate, for this number of residuals. Each hides a share of the entries, and has some
# fits with random weights.
FEWEST_FOLDS, MOST_FOLDS, ENOUGH_RESIDUALS, HIDDEN_SHARE, FITS_OF_FOLD = 4, 10, 30_000, 0.1, 4
# Least unit of a residual, relative to the standard deviation by the fit to all entries.
LEAST_UNIT = 0.5


class Density(Protocol):
    """Distribution of all features."""

    def conditional(self, X: Array) -> tuple[Array, Array]:
        """Return X with conditional means of missing values, and the standard deviations."""

    def draw(self, X: Array, rng: np.random.RandomState) -> Array:
        """Return X with a joint draw of the missing values of each sample."""


class DensityModel(Protocol):
    """Fit of a distribution to weighted samples, from another one."""

    def fit(self, X: Array, weights: Array | None, start: Any) -> Density:
        """Return the fitted distribution."""


@dataclass(frozen=True, eq=False)
class Predictive:
    """Conditional distribution of a fit, with the residuals of hidden entries.

    `fits` with random weights contain the uncertainty of the parameters. The residuals are
    differences from the mean of `density`, in units of the standard deviation of the mixture of all
    fits; None if they are normal.
    """

    density: Density
    fits: Sequence[Density]
    residuals: Residuals | None = None

    def moments(self, X: Array) -> tuple[Array, Array]:
        """Return center and unit of the residuals."""
        return self.density.conditional(X)[0], self._mixture(X)[1]

    def _mixture(self, X: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the mixture, by the law of total variance."""
        total, squares, within = (np.zeros(X.shape) for _ in range(3))
        center, _ = self.fits[0].conditional(X)
        for fit in self.fits:
            mean, std = fit.conditional(X)
            total += mean - center
            squares += (mean - center) ** 2
            within += std**2
        m = len(self.fits)
        between = np.maximum(squares - total**2 / m, 0.0) / max(m - 1, 1)
        return center + total / m, np.sqrt(within / m + between)

    def std(self, X: Array) -> Array:
        """Return the standard deviation of the draws."""
        _, std = self.moments(X)
        if self.residuals is None:
            return std
        at = ndtri((np.arange(400) + 0.5) / 400)
        spread = [residuals(at, q).std() for q in self.residuals.quantiles]
        return std * np.asarray(spread)

    def draws(
        self, X: Array, n_draws: int, rng: np.random.RandomState, bounds: tuple[Array, Array]
    ) -> Iterator[Array]:
        """Yield X with draws of the missing values, truncated to the bounds of the features."""
        m = len(self.fits)
        order = np.concatenate([rng.permutation(m) for _ in range(-(-n_draws // m))])
        mean, _ = self.density.conditional(X)
        center, std = self._mixture(X)
        missing = np.isnan(X)
        columns = np.flatnonzero(missing.any(axis=0))
        for b in order[:n_draws]:
            drawn = self.fits[b].draw(X, rng)
            for j in columns:
                rows = missing[:, j]
                z = (drawn[rows, j] - center[rows, j]) / std[rows, j]
                drawn[rows, j] = self._marginal(
                    z, int(j), mean[rows, j], std[rows, j], bounds[0][j], bounds[1][j]
                )
            yield drawn

    def interval(
        self, X: Array, coverage: float, bounds: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Return central intervals of the missing values."""
        mean, std = self.moments(X)
        levels = np.full(X.shape, coverage)
        if self.residuals is not None:
            levels = self.residuals.levels(mean, coverage)
        lower, upper = X.copy(), X.copy()
        for j in range(X.shape[1]):
            rows, low, high = np.isnan(X[:, j]), bounds[0][j], bounds[1][j]
            for end, sign in ((lower, -1.0), (upper, 1.0)):
                z = ndtri((1.0 + sign * levels[rows, j]) / 2.0)
                end[rows, j] = self._marginal(z, j, mean[rows, j], std[rows, j], low, high)
        return lower, upper

    def _marginal(
        self, z: Array, j: int, mean: Array, std: Array, low: float, high: float
    ) -> Array:
        """Return the quantiles of feature j that belong to normal quantiles, within bounds."""
        q = NORMAL_GRID if self.residuals is None else self.residuals.quantiles[j]
        if np.isfinite(low) or np.isfinite(high):
            # The truncated distribution: quantiles between those of the bounds.
            with np.errstate(over="ignore"):
                first, last = (ndtr(normal((end - mean) / std, q)) for end in (low, high))
            z = ndtri(np.clip(first + ndtr(z) * (last - first), 1e-15, 1.0 - 1e-15))
        return np.clip(mean + std * residuals(z, q), low, high)


def predictive_of(
    X: Array,
    weights: Array | None,
    density: Density,
    model: DensityModel,
    n_fits: int,
    rng: np.random.RandomState,
) -> Predictive:
    """Fit with random weights, and calibrate by entries that are hidden from further fits."""
    fits = bootstrap(X, weights, density, model, n_fits, rng)
    return Predictive(density, fits, calibrated(X, weights, density, model, n_fits, rng))


def bootstrap(
    X: Array,
    weights: Array | None,
    density: Density,
    model: DensityModel,
    n_fits: int,
    rng: np.random.RandomState,
) -> list[Density]:
    """Fit the model with random weights (Rubin, "The Bayesian bootstrap", 1981), from a fit.

    The weights of samples of weight 1 are Dirichlet distributed, a sample of weight 2 counts as two.
    """
    shape = np.ones(len(X)) if weights is None else weights * (len(X) / weights.sum())
    fits = []
    for _ in range(n_fits):
        w = np.maximum(rng.standard_gamma(shape), np.finfo(float).tiny)
        fits.append(model.fit(X, w * (len(X) / w.sum()), density))
    return fits


def calibrated(
    X: Array,
    weights: Array | None,
    density: Density,
    model: DensityModel,
    n_fits: int,
    rng: np.random.RandomState,
) -> Residuals | None:
    """Estimate the distribution of the residuals by entries that are hidden from further fits.

    Each counts by its odds of being missing, so that they are like those of missing values.
    """
    filled, _ = density.conditional(X)
    odds = missing_odds(filled, np.isnan(X), weights)
    all_odds = odds(filled)
    if weights is not None:
        all_odds = all_odds * (weights / weights.mean())[:, None]
    n_folds = np.ceil(ENOUGH_RESIDUALS / (HIDDEN_SHARE * max(np.sum(~np.isnan(X)), 1)))
    n_folds, parts = int(np.clip(n_folds, FEWEST_FOLDS, MOST_FOLDS)), []
    for hidden in hidden_entries(X, n_folds, HIDDEN_SHARE, rng):
        Y = np.where(hidden, np.nan, X)
        # A start at the fit to all entries would remember the hidden ones.
        fit = model.fit(Y, weights, None)
        fits = bootstrap(Y, weights, fit, model, min(n_fits, FITS_OF_FOLD), rng)
        mean, std = Predictive(fit, fits).moments(Y)
        # Without its one large value, a feature may seem almost constant.
        std = np.maximum(std, LEAST_UNIT * density.conditional(Y)[1])
        values = (X - mean)[hidden] / std[hidden]
        parts.append((np.nonzero(hidden)[1], values, all_odds[hidden]))
    columns, values, w = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return distribution_of(values, columns, w, odds)
