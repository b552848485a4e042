"""Factor models as distributions of missing values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.factor_em import Factors
from sklearn_vae.gaussian.factor_map import fit_factors_map
from sklearn_vae.gaussian.observed import Parameters
from sklearn_vae.linear.calibration import hidden_entries

Array = np.ndarray

# Candidates for the number of components, folds that choose it, and the share that each hides.
CANDIDATES = (0, 1, 2, 4, 6, 8, 12, 16)
SEARCH_FOLDS, HIDDEN_SHARE = 2, 0.1
# Steps of EM, and its tolerance in nats per sample. The search is as good with a larger one.
MAX_STEPS, TOLERANCE, SEARCH_TOLERANCE = 100, 1e-3, 1e-2


class FactorDensity(NamedTuple):
    """Distribution x ~ N(mu, W W' + diag(psi))."""

    factors: Factors

    def conditional(self, X: Array) -> tuple[Array, Array]:
        """Return X with conditional means of missing values, and the standard deviations."""
        scaled, parameters, scale = self._in_units_of_noise(X)
        filled, std = observed.impute(scaled, parameters, return_std=True)
        assert std is not None
        return np.where(np.isnan(X), filled * scale + self.factors.mean, X), std * scale

    def draw(self, X: Array, rng: np.random.RandomState) -> Array:
        """Return X with a joint draw of the missing values of each sample."""
        scaled, parameters, scale = self._in_units_of_noise(X)
        drawn = observed.sample(scaled, parameters, rng)
        return np.where(np.isnan(X), drawn * scale + self.factors.mean, X)

    def _in_units_of_noise(self, X: Array) -> tuple[Array, Parameters, Array]:
        """Return centered X and the model in units of the noise, and the units."""
        W, mean, psi = self.factors
        scale = np.sqrt(psi)
        parameters = Parameters(W / scale[:, None], np.zeros_like(scale), 1.0)
        return (X - mean) / scale, parameters, scale


class FactorFit(NamedTuple):
    """Noise of a factor model: equal for all features or not, fixed or estimated; and k."""

    equal_noise: bool
    n_components: int
    noise_variance: float | None = None

    def fit(
        self,
        X: Array,
        weights: Array | None,
        start: FactorDensity | None = None,
        tol: float = TOLERANCE,
    ) -> FactorDensity:
        """Fit the model to X, which may be far from 0."""
        center = np.nanmean(X, axis=0)
        first = None
        if start is not None:
            first = start.factors._replace(mean=start.factors.mean - center)
        factors, _, _ = fit_factors_map(
            X - center,
            self.n_components,
            weights,
            equal_noise=self.equal_noise,
            noise_variance=self.noise_variance,
            start=first,
            tol=tol,
            max_iter=MAX_STEPS,
        )
        return FactorDensity(factors._replace(mean=factors.mean + center))


def choose_components(
    X: Array, weights: Array | None, model: FactorFit, most: int, rng: np.random.RandomState
) -> int:
    """Choose the number of components by the density of entries that are hidden from the fit."""
    folds = list(hidden_entries(X, SEARCH_FOLDS, HIDDEN_SHARE, rng))
    best, best_score, n_worse = 0, -np.inf, 0
    for k in sorted({min(k, most) for k in CANDIDATES}):
        score = 0.0
        for hidden in folds:
            Y = np.where(hidden, np.nan, X)
            fit = model._replace(n_components=k).fit(Y, weights, tol=SEARCH_TOLERANCE)
            mean, std = fit.conditional(Y)
            density = -np.log(std[hidden]) - 0.5 * ((X - mean)[hidden] / std[hidden]) ** 2
            score += float(density.sum())
        if score > best_score:
            best, best_score, n_worse = k, score, 0
        else:
            n_worse += 1
        if n_worse == 2:
            break
    return best
