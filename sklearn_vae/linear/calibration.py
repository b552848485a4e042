"""Distribution of the residuals of missing values, from entries that are hidden from the fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr

Array = np.ndarray

# Normal quantiles at which the distribution of residuals is stored.
NORMAL_GRID = np.linspace(-2.6, 2.6, 27)
# The residuals of all features count as this number of residuals of each feature.
POOLED_RESIDUALS = 100.0
# Largest weight of a residual, relative to the mean of its feature, and level of an interval.
LARGEST_WEIGHT, LARGEST_LEVEL = 20.0, 0.999
# Fewest residuals for a calibration.
FEWEST_RESIDUALS = 20
# Penalties of the squared coefficients of the missing values of a sample, and of each feature, for
# features of variance 1; steps of Newton's method, and the largest log-odds.
SHARED_PENALTY, OWN_PENALTY, STEPS, LARGEST_LOGIT = 1.0, 100.0, 8, 12.0


@dataclass(frozen=True, eq=False)
class Residuals:
    """Distribution of the residuals of each feature, in units of their standard deviation."""

    quantiles: Array  # at NORMAL_GRID, (d, g)
    odds: Odds  # that a value is missing
    units: Array  # mean odds of the residuals of each feature, (d,)
    totals: Array  # sum of their relative odds, (d,)

    def levels(self, filled: Array, coverage: float) -> Array:
        """Return the levels of intervals that hold missing values with the given probability.

        A missing value itself belongs to the sample of residuals, with a weight but an unknown value:
        see Tibshirani et al., "Conformal prediction under covariate shift", NeurIPS 2019.
        """
        weights = np.minimum(self.odds(filled) / self.units, LARGEST_WEIGHT)
        return np.minimum(coverage * (1.0 + weights / self.totals), max(LARGEST_LEVEL, coverage))


def distribution_of(values: Array, columns: Array, weights: Array, odds: Odds) -> Residuals | None:
    """Estimate the distribution of the residuals of each feature; None if they are few.

    The residuals of all features together are mixed in where a feature has few.
    """
    if len(values) < FEWEST_RESIDUALS:
        return None
    d = len(odds.center)
    counts = np.bincount(columns, minlength=d)
    units = np.where(counts > 0, np.bincount(columns, weights, d) / np.maximum(counts, 1), 1.0)
    weights = np.minimum(weights / units[columns], LARGEST_WEIGHT)
    p = ndtr(NORMAL_GRID)
    pooled, rows, totals = weighted_quantiles(values, weights, p), [], []
    for j in range(d):
        own = columns == j
        w, share, q = weights[own], 0.0, pooled
        if own.any():
            effective = w.sum() ** 2 / np.sum(w**2)
            share = effective / (effective + POOLED_RESIDUALS)
            q = weighted_quantiles(values[own], w, p)
        q = share * q + (1.0 - share) * pooled
        rows.append(q + 1e-9 * NORMAL_GRID)  # strictly increasing
        totals.append(share * w.sum() + (1.0 - share) * weights.sum())
    return Residuals(np.array(rows), odds, units, np.array(totals))


def weighted_quantiles(values: Array, weights: Array, p: Array) -> Array:
    """Return quantiles; with equal weights those of the method "weibull" of NumPy."""
    order = np.argsort(values)
    positions = np.cumsum(weights[order]) / (weights.sum() + weights.mean())
    return np.interp(p, positions, values[order])


def hidden_entries(
    X: Array, n_folds: int, share: float, rng: np.random.RandomState
) -> Iterator[Array]:
    """Yield disjoint masks of observed entries to hide; two different values of each feature remain.

    Values of constant features are not hidden: their residuals of 0 would make the others' look small.
    """
    rows, columns = np.nonzero(~np.isnan(X))
    order = rng.permutation(len(rows))
    ends = np.round(np.arange(n_folds + 1) * share * len(rows)).astype(int)
    for start, stop in itertools.pairwise(ends):
        hidden = np.zeros(X.shape, dtype=bool)
        at = order[start:stop]
        hidden[rows[at], columns[at]] = True
        left = ~np.isnan(X) & ~hidden
        lowest = np.min(X, axis=0, initial=np.inf, where=left)
        highest = np.max(X, axis=0, initial=-np.inf, where=left)
        hidden[:, ~(lowest < highest)] = False
        yield hidden


def missing_odds(filled: Array, missing: Array, weights: Array | None) -> Odds:
    """Fit the odds that a value is missing, given the other values of its sample.

    Where values are missing at random, residuals of observed values with these odds as weights have
    the distribution of those of missing values. The log-odds are linear. A model for the number of
    missing values of a sample has the coefficients to which those of each feature are shrunk, because
    most features have few missing values.
    """
    w = np.ones(len(filled)) if weights is None else weights * (len(weights) / weights.sum())
    n, d = filled.shape
    center = w @ filled / n
    spread = np.sqrt(w @ (filled - center) ** 2 / n)
    spread = np.where(spread > 0.0, spread, 1.0)
    Z = np.column_stack([np.ones(n), (filled - center) / spread])
    some = missing.any(axis=0)
    start = np.zeros(d + 1)
    counts, n_some = missing.sum(axis=1).astype(float), float(max(some.sum(), 1))
    start[0] = logit((w @ counts + 0.5) / (n * n_some + 1.0))
    shared = _logistic(Z, counts, n_some, w, start, SHARED_PENALTY)
    coefficients = np.zeros((d, d + 1))
    coefficients[:, 0] = -LARGEST_LOGIT
    for j in np.flatnonzero(some):
        others, own = np.delete(np.arange(d + 1), j + 1), missing[:, j].astype(float)
        start = shared[others]
        start[0] = logit((w @ own + 0.5) / (n + 1.0))
        coefficients[j, others] = _logistic(Z[:, others], own, 1.0, w, start, OWN_PENALTY)
    return Odds(center, spread, coefficients)


@dataclass(frozen=True, eq=False)
class Odds:
    """Odds that values are missing."""

    center: Array
    spread: Array
    coefficients: Array  # of each feature, (d, 1 + d)

    def __call__(self, filled: Array) -> Array:
        """Return the odds for samples without missing values, (n_samples, d)."""
        Z = np.column_stack([np.ones(len(filled)), (filled - self.center) / self.spread])
        return np.exp(np.clip(Z @ self.coefficients.T, -LARGEST_LOGIT, LARGEST_LOGIT))


def _logistic(
    A: Array, successes: Array, trials: float, weights: Array, start: Array, penalty: float
) -> Array:
    """Fit a logistic regression whose coefficients, except the first, are shrunk to the start."""
    ridge = np.full(A.shape[1], penalty)
    ridge[0] = 1e-6
    b = start
    for _ in range(STEPS):
        p = expit(np.clip(A @ b, -LARGEST_LOGIT, LARGEST_LOGIT))
        slope = A.T @ (weights * (successes - trials * p)) - ridge * (b - start)
        curvature = (A * (weights * trials * p * (1.0 - p))[:, None]).T @ A + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        b = b + step
        if np.abs(step).max() < 1e-3:
            break
    return b


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
