"""Quasi-Newton search for the maximum likelihood pPCA of data with missing values.

A step of EM over expected moments builds d x d matrices and decomposes one. The gradient of the
likelihood by the loadings needs matrices of d x k only, so that one expectation and a search by L-BFGS
take less time than all steps of EM. The matrix that L-BFGS updates is the inverse Hessian for complete
data, lengthened by the share of the information that is missing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sklearn_vae.gaussian.em import LONGEST_STEP, Sums, gradient
from sklearn_vae.gaussian.expected_moments import (
    MOST_MISSING,
    TOLERANCE,
    Expected,
    Fixed,
    IncompleteMoments,
    LowRankFit,
    PPCAModel,
    known_shares,
    maximize_expected,
    units_of,
)
from sklearn_vae.gaussian.observed import Parameters
from sklearn_vae.gaussian.quasi_newton import inverse_product

# Number of steps after which EM takes over.
MOST_STEPS = 25
# Least number of features for which a search is faster than EM, whose d x d matrices are small for
# fewer: it took 2 to 4 times as long on up to 20 features, and 0.4 to 1.2 times on 30 to 100.
LEAST_FEATURES = 30
# Least variance of a component, in units of the noise, that a search can change.
LEAST_LENGTH = 1e-3
# A fall of the likelihood below this share is a rounding error.
ROUNDING = 1e-13


class Metric:
    """Approximate inverse Hessian of the negative log-likelihood at loadings U diag(roots).

    With all moments known, a model takes over the changes of the covariance S that are in the span of
    its components, the average change of the variances orthogonal to them, and the rotation that
    changes S_ab / (l_a - l_b) of eigenvectors a and b cause. The same products are the Newton step
    for the likelihood. The changes are divided by the shares of the information that the
    observed values have, as in EM over expected moments.
    """

    def __init__(self, fit: LowRankFit, share_missing: float, *, is_noise_free: bool) -> None:
        d, k = fit.loadings.shape
        noise = fit.noise_variance
        lengths = fit.values[:k] - noise
        known = known_shares(lengths, noise, share_missing, d)
        rate = 1.0 - known[:k, None] * known
        gap = np.maximum(fit.values[:k, None] - fit.values[k:], 1e-3 * lengths[:, None])
        rotation = np.minimum(rate[:, k:] * lengths[:, None] / gap, MOST_MISSING)
        variances = lengths + noise
        self._basis, self._roots, self._noise = fit.vectors, np.sqrt(lengths), noise
        self._outward = (variances[:, None] * noise / gap / (1.0 - rotation)).T
        self._inward = 2.0 * variances[:, None] * variances
        self._inward /= 1.0 - np.minimum(rate[:, :k], MOST_MISSING)
        self._part = self._roots / (lengths[:, None] + lengths)
        self._of_mean = np.concatenate([variances, np.full(d - k, noise)]) / known
        self._of_noise = 2.0 * noise**2 / ((d - k) * known[-1]) if is_noise_free else 0.0

    def __call__(self, flat: np.ndarray) -> np.ndarray:
        """Multiply a vector of derivatives by the matrix."""
        (d, _), k = self._basis.shape, len(self._roots)
        by_loadings = self._basis.T @ flat[: d * k].reshape(d, k)
        # Derivatives by the covariance in the span of the components, and by the noise variance
        # while that covariance does not change.
        by_inner = by_loadings[:k] * self._part
        by_inner = 0.5 * (by_inner + by_inner.T)
        noise = self._of_noise * (flat[-1] / self._noise - float(np.trace(by_inner)))
        inner = self._inward * by_inner
        inner.flat[:: k + 1] -= noise
        step = np.empty((d, k))
        step[:k] = inner * self._part
        step[k:] = self._outward * by_loadings[k:]
        mean = self._basis @ (self._of_mean * (self._basis.T @ flat[d * k : -1]))
        return np.concatenate([(self._basis @ step).ravel(), mean, [noise / self._noise]])


def null_model(data: IncompleteMoments, model: PPCAModel) -> Fixed:
    """Return the model without components, at which the first search starts.

    Its likelihood is unbounded where no feature varies.
    """
    noise_only = replace(model, n_components=0)
    start = data.start()
    fit = noise_only.fit(start.covariance)
    if noise_only.is_unbounded(fit):
        return Fixed(start, fit, True, False, [])
    expected = data.expect(start.mean, fit)
    return Fixed(expected, noise_only.fit(expected.covariance), True, True, [])


def maximize_observed(
    data: IncompleteMoments, model: PPCAModel, start: Fixed, *, tol: float = TOLERANCE
) -> Fixed:
    """Maximize the likelihood of the observed values from the end of a fit with at most k components.

    Parameters
    ----------
    data : IncompleteMoments
        Data with missing values.
    model : PPCAModel
        Number of components and noise variance.
    start : Fixed
        End of an earlier fit, or :func:`null_model`.
    tol : float, default=2e-7
        Distance of an entry of the mean or covariance from the maximum, in units of the features, at
        which the search ends.

    Returns
    -------
    Fixed
        The maximum as a fixed point of EM. Where the search fails, it is the end of EM.

    References
    ----------
    Nocedal, "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 1980.
    """
    if model.n_components == 0 or not start.is_bounded:
        return maximize_expected(data, model, start.expected)
    end = _searched(data, model, start, tol)
    if end is not None and end.converged:
        return end
    return maximize_expected(data, model, (end or start).expected)


def _searched(data: IncompleteMoments, model: PPCAModel, start: Fixed, tol: float) -> Fixed | None:
    """Return the end of a search, or None where the likelihood is unbounded or has not risen."""
    fit = model.of_eigenpairs(start.fit.values, start.fit.vectors)
    fit = _with_new_components(fit, start.fit, data.share_missing)
    least = fit.values[: fit.loadings.shape[1]].min() - fit.noise_variance
    if model.is_unbounded(fit) or not least > LEAST_LENGTH * fit.noise_variance:
        return None
    search = _Search(data, model, fit, start.expected)
    try:
        converged = search.run(tol)
        expected = data.expect(*search.end)
    except np.linalg.LinAlgError:  # singular in float64
        return None
    fit, before = model.fit(expected.covariance), start.log_likelihood
    if model.is_unbounded(fit) or expected.log_likelihood < before - ROUNDING * abs(before):
        return None
    return Fixed(expected, fit, converged, True, search.history)


def _with_new_components(fit: LowRankFit, before: LowRankFit, share_missing: float) -> LowRankFit:
    """Lengthen the components that the model of the expected moments does not have.

    To this model they are noise, so that the expected covariance has only the share q^2 of what they
    explain, where q is the share of the noise that the observed values tell.
    """
    (d, k), n_before = fit.loadings.shape, before.loadings.shape[1]
    if n_before >= k:
        return fit
    lengths = np.einsum("jh,jh->h", before.loadings, before.loadings)
    known = known_shares(lengths, before.noise_variance, share_missing, d)[-1]
    added = np.arange(k) >= n_before
    lengths = (fit.values[:k] - fit.noise_variance) * np.where(added, known**-2, 1.0)
    values = np.concatenate([lengths + fit.noise_variance, fit.values[k:]])
    loadings = fit.vectors[:, :k] * np.sqrt(np.maximum(lengths, 0.0))
    return fit._replace(loadings=loadings, values=values)


class _Search:
    """Search by L-BFGS from loadings in the eigenvectors of expected moments."""

    def __init__(
        self,
        data: IncompleteMoments,
        model: PPCAModel,
        fit: LowRankFit,
        expected: Expected,
    ) -> None:
        self._data, self._fit = data.data, fit
        self._is_noise_free = model.noise_variance is None
        self._metric = Metric(fit, data.share_missing, is_noise_free=self._is_noise_free)
        self._units = units_of(expected, fit)
        self._flat = np.concatenate(
            [fit.loadings.ravel(), expected.mean, [math.log(fit.noise_variance)]]
        )
        self.history: list[float] = []

    @property
    def end(self) -> tuple[np.ndarray, LowRankFit]:
        """Mean, and loadings and noise variance, where the search is."""
        p = self._parameters(self._flat)
        fit = self._fit._replace(loadings=p.loadings, noise_variance=p.noise_variance)
        return p.mean, fit

    def run(self, tol: float) -> bool:
        """Search until the next step is at most `tol`, and return whether it is."""
        value, gradient = self._slope(self._flat)
        self.history = [value]
        changes: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in range(MOST_STEPS):
            step = inverse_product(changes, gradient, self._metric)
            if self._size(step) <= tol:
                self._flat = self._flat + step
                return True
            step *= min(1.0, LONGEST_STEP / max(abs(step[-1]), LONGEST_STEP))
            while True:
                flat = self._flat + step
                new_value, new_gradient = self._slope(flat)
                if new_value >= value - ROUNDING * abs(value):
                    break
                step = 0.25 * step
                if self._size(step) <= tol:
                    return False
            changes.append((step, gradient - new_gradient))
            self._flat, value, gradient = flat, max(value, new_value), new_gradient
            self.history.append(value)
        return False

    def _slope(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = self._parameters(flat)
        sums = Sums.of(self._data, parameters)
        by_loadings, by_mean, by_log_noise = gradient(self._data, sums, parameters)
        by_log_noise = by_log_noise if self._is_noise_free else 0.0
        value = sums.log_likelihood / self._data.n
        return value, np.concatenate([by_loadings.ravel(), by_mean, [by_log_noise]])

    def _parameters(self, flat: np.ndarray) -> Parameters:
        d, k = self._fit.loadings.shape
        # A fixed noise variance is not rounded.
        noise = math.exp(flat[-1]) if self._is_noise_free else self._fit.noise_variance
        return Parameters(flat[: d * k].reshape(d, k), flat[d * k : -1], noise)

    def _size(self, step: np.ndarray) -> float:
        """Return the largest change of the mean and covariance, in units of the features."""
        p, units = self._parameters(self._flat), self._units
        d, k = p.loadings.shape
        change = (p.loadings / units[:, None]) @ (step[: d * k].reshape(d, k) / units[:, None]).T
        change = change + change.T
        change.flat[:: d + 1] += p.noise_variance * step[-1] / units**2
        return float(max(np.abs(change).max(), np.abs(step[d * k : -1] / units).max()))
