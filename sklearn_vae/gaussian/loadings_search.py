"""Quasi-Newton search for the maximum likelihood pPCA of data with missing values.

A step of EM over expected moments builds d x d matrices and decomposes one. The gradient of the
likelihood by the loadings needs matrices of d x k only, so that one expectation and a search by L-BFGS
take less time than all steps of EM. The matrix that L-BFGS updates is the inverse Hessian for complete
data, lengthened by the share of the information that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from sklearn_vae.gaussian.em import LONGEST_STEP
from sklearn_vae.gaussian.expected_moments import (
    MOST_MISSING,
    TINY,
    TOLERANCE,
    Fixed,
    IncompleteMoments,
    LowRankFit,
    PPCAModel,
    known_shares,
    maximize_expected,
    units_of,
)
from sklearn_vae.gaussian.quasi_newton import inverse_product
from sklearn_vae.gaussian.stacked_data import Slopes, StackedData

# Data, model, and the end of an earlier fit.
Candidate: TypeAlias = tuple[IncompleteMoments, PPCAModel, Fixed]
# Changes of the parameters and of the gradient in a step, which are 0 where it is not taken.
Change: TypeAlias = tuple[np.ndarray, np.ndarray]

# Factor by which the last two steps shorten the distance to the maximum at least. The first has at most
# this multiple of the tolerance; one step shortens it by about 3.4 (500 x 40, 20 % missing).
CONTRACTION = 5.0
# Number of gradients after which EM takes over.
MOST_GRADIENTS = 40
# Least number of features for which a search is faster than EM, whose d x d matrices are small for
# fewer: of three splits, it took 0.7 to 1.4 times as long on 10 to 15 features, and 0.6 to 0.9 times on 20
# and more.
LEAST_FEATURES = 20
# Least variance of a component, in units of the noise, that a search can change.
LEAST_LENGTH = 1e-3
# A fall of the likelihood below this share is a rounding error.
ROUNDING = 1e-13


class Metric:
    """Approximate inverse Hessians of negative log-likelihoods at loadings U diag(roots).

    With all moments known, a model takes over the changes of the covariance S that are in the span of
    its components, the average change of the variances orthogonal to them, and the rotation that
    changes S_ab / (l_a - l_b) of eigenvectors a and b cause. The same products are the Newton step
    for the likelihood. The changes are divided by the shares of the information that the
    observed values have, as in EM over expected moments. There is one matrix for each of m models.
    """

    def __init__(
        self, fits: Sequence[LowRankFit], shares_missing: Sequence[float], *, is_noise_free: bool
    ) -> None:
        d, k = fits[0].loadings.shape
        self._basis = np.stack([fit.vectors for fit in fits])
        noise = np.array([fit.noise_variance for fit in fits])[:, None]
        values = np.stack([fit.values for fit in fits])
        lengths = values[:, :k] - noise
        known = np.stack(
            [
                known_shares(length, fit.noise_variance, share, d)
                for length, fit, share in zip(lengths, fits, shares_missing, strict=True)
            ]
        )
        rate = 1.0 - known[:, :k, None] * known[:, None, :]
        gap = values[:, :k, None] - values[:, None, k:]
        gap = np.maximum(gap, 1e-3 * lengths[:, :, None])
        rotation = np.minimum(rate[:, :, k:] * lengths[:, :, None] / gap, MOST_MISSING)
        variances, wide_noise = lengths + noise, noise[:, :, None]
        self._roots, self._noise = np.sqrt(lengths), noise[:, 0]
        outward = variances[:, :, None] * wide_noise / gap / (1.0 - rotation)
        self._outward = outward.swapaxes(1, 2)
        self._inward = 2.0 * variances[:, :, None] * variances[:, None, :]
        self._inward /= 1.0 - np.minimum(rate[:, :, :k], MOST_MISSING)
        self._part = self._roots[:, None, :] / (lengths[:, :, None] + lengths[:, None, :])
        self._of_mean = np.concatenate([variances, np.repeat(noise, d - k, axis=1)], axis=1) / known
        # A free noise variance is the average of d - k > 0 variances.
        n_noise = d - k if is_noise_free else math.inf
        self._of_noise = 2.0 * self._noise**2 / (n_noise * known[:, -1])

    def __call__(self, flat: np.ndarray) -> np.ndarray:
        """Multiply vectors of derivatives, (m, n_parameters), by the matrices."""
        d, k = self._basis.shape[1], self._roots.shape[1]
        by_loadings, by_mean, by_log_noise = split(flat, d, k)
        by_loadings = self._basis.swapaxes(1, 2) @ by_loadings
        # Derivatives by the covariance in the span of the components, and by the noise variance
        # while that covariance does not change.
        by_inner = by_loadings[:, :k] * self._part
        by_inner = 0.5 * (by_inner + by_inner.swapaxes(1, 2))
        trace = np.trace(by_inner, axis1=1, axis2=2)
        noise = self._of_noise * (by_log_noise / self._noise - trace)
        inner = self._inward * by_inner
        inner[:, np.arange(k), np.arange(k)] -= noise[:, None]
        step = np.concatenate([inner * self._part, self._outward * by_loadings[:, k:]], axis=1)
        mean = self._of_mean[:, :, None] * (self._basis.swapaxes(1, 2) @ by_mean[:, :, None])
        mean = (self._basis @ mean)[:, :, 0]
        return joined(self._basis @ step, mean, noise / self._noise)


def split(flat: np.ndarray, d: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parts of vectors, (m, n_parameters), for loadings, mean and log noise variance."""
    return flat[:, : d * k].reshape(-1, d, k), flat[:, d * k : -1], flat[:, -1]


def joined(loadings: np.ndarray, mean: np.ndarray, log_noise: np.ndarray) -> np.ndarray:
    """Join parts to vectors, (m, n_parameters)."""
    return np.concatenate([loadings.reshape(len(mean), -1), mean, log_noise[:, None]], axis=1)


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
    """Maximize the likelihood of the observed values of one data set, see :class:`LoadingsSearch`."""
    return LoadingsSearch([data]).maximize([(0, model, start)], tol=tol)[0]


class LoadingsSearch:
    """Searches for the maxima of the likelihoods of several data sets, by L-BFGS in lockstep.

    Parameters
    ----------
    parts : sequence of IncompleteMoments
        Data with missing values.

    References
    ----------
    Nocedal, "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 1980.
    """

    def __init__(self, parts: Sequence[IncompleteMoments]) -> None:
        self._parts = parts
        self._stack = StackedData([data.data for data in parts])

    def maximize(
        self, starts: Sequence[tuple[int, PPCAModel, Fixed]], *, tol: float = TOLERANCE
    ) -> list[Fixed]:
        """Maximize the likelihoods of the observed values from the ends of fits.

        Parameters
        ----------
        starts : sequence of tuples
            Index of the data set, model, and start: a fit with at most as many components, such as
            :func:`null_model`. The models have the same number of components, and all or none
            have a fixed noise variance.
        tol : float, default=2e-7
            Distance of an entry of the mean or covariance from the maximum, in units of the features,
            at which a search ends.

        Returns
        -------
        list of Fixed
            Maxima as fixed points of EM. Where a search fails, it is the end of EM.
        """
        ends = self._searched(starts, tol)
        return [
            end if end.converged else maximize_expected(self._parts[part], model, end.expected)
            for (part, model, _), end in zip(starts, ends, strict=True)
        ]

    def _searched(self, starts: Sequence[tuple[int, PPCAModel, Fixed]], tol: float) -> list[Fixed]:
        """Return the ends of searches that have risen to a bounded likelihood, or their starts."""
        ends = [replace(start, converged=False) for _, _, start in starts]
        candidates = [(self._parts[part], model, start) for part, model, start in starts]
        fits = [_first_fit(*candidate) for candidate in candidates]
        at = np.flatnonzero([fit is not None for fit in fits])
        if not at.size:
            return ends
        search = _Search(
            self._stack.take(np.array([part for part, _, _ in starts])[at]),
            [candidates[i] for i in at],
            [fit for fit in fits if fit is not None],
        )
        for i, end in zip(at, search.run(tol), strict=True):
            least = candidates[i][2].log_likelihood
            least -= ROUNDING * abs(least)
            if end is not None and end.expected.log_likelihood >= least:
                ends[i] = end
        return ends


def _first_fit(data: IncompleteMoments, model: PPCAModel, start: Fixed) -> LowRankFit | None:
    """Return the model of the expected moments, or None where a search cannot start at it."""
    if model.n_components == 0 or not start.is_bounded:
        return None
    fit = model.of_eigenpairs(start.fit.values, start.fit.vectors)
    fit = _with_new_components(fit, start.fit, data.share_missing)
    least = fit.values[: fit.loadings.shape[1]].min() - fit.noise_variance
    if model.is_unbounded(fit) or not least > LEAST_LENGTH * fit.noise_variance:
        return None
    return fit


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
    """Searches by L-BFGS, each from loadings in the eigenvectors of expected moments.

    Arrays have one row for each search.
    """

    def __init__(
        self, stack: StackedData, candidates: Sequence[Candidate], fits: Sequence[LowRankFit]
    ) -> None:
        self._stack, self._fits = stack, fits
        self._models = [model for _, model, _ in candidates]
        noise = self._models[0].noise_variance
        # A fixed noise variance is not rounded.
        self._fixed_noise = None if noise is None else np.full(len(fits), noise)
        shares = [data.share_missing for data, _, _ in candidates]
        self._metric = Metric(fits, shares, is_noise_free=noise is None)
        moments = [start.expected for _, _, start in candidates]
        self._units = np.stack([units_of(*pair) for pair in zip(moments, fits, strict=True)])
        self._flat = joined(
            np.stack([fit.loadings for fit in fits]),
            np.stack([expected.mean for expected in moments]),
            np.log([fit.noise_variance for fit in fits]),
        )
        slopes = stack.slopes(*self._split(self._flat))
        self._value, self._gradient = slopes.log_likelihood, self._vectors(slopes)
        self._histories = [[float(value)] for value in self._value]
        self._step, self._changes = self._metric(self._gradient), list[Change]()
        self._rises = np.ones(len(fits), dtype=bool)

    def run(self, tol: float) -> list[Fixed | None]:
        """Search until the distance from each maximum is about `tol` or the search fails.

        Returns the ends, and None where the likelihood is unbounded or singular in float64.
        """
        at, stack = np.arange(len(self._fits)), self._stack
        for _ in range(MOST_GRADIENTS):
            is_long = self._sizes()[at] > CONTRACTION * tol
            if not is_long.any():
                break
            if not is_long.all():
                at, stack = at[is_long], stack.take(np.flatnonzero(is_long))
            self._advance(at, stack)
        return self._ends(tol)

    def _advance(self, at: np.ndarray, stack: StackedData) -> None:
        """Take a step of some searches, or shorten it where the likelihood does not rise."""
        noise_step = np.abs(self._step[at, -1:])
        self._step[at] *= np.minimum(1.0, LONGEST_STEP / np.maximum(noise_step, LONGEST_STEP))
        slopes = stack.slopes(*(part[at] for part in self._split(self._flat + self._step)))
        value, gradient = slopes.log_likelihood, self._vectors(slopes)
        rises = value >= self._value[at] - ROUNDING * np.abs(self._value[at])
        self._rises[at] = rises
        self._take_step(at[rises], gradient[rises])
        for i, new in zip(at[rises], value[rises], strict=True):
            self._value[i] = max(self._value[i], new)
            self._histories[i].append(float(self._value[i]))
        self._step[at[~rises]] *= 0.25
        self._step[at[rises]] = self._direction()[at[rises]]

    def _take_step(self, at: np.ndarray, gradient: np.ndarray) -> None:
        """Take the steps of some searches, to points with given gradients."""
        s, y = np.zeros_like(self._flat), np.zeros_like(self._flat)
        s[at], y[at] = self._step[at], self._gradient[at] - gradient
        self._changes.append((s, y))
        self._flat, self._gradient = self._flat + s, self._gradient - y

    def _direction(self) -> np.ndarray:
        return inverse_product(self._changes, self._gradient, self._metric)

    def _ends(self, tol: float) -> list[Fixed | None]:
        """Take the last two steps. The second needs no gradient beside the expected moments."""
        near = np.flatnonzero(self._rises & (self._sizes() <= CONTRACTION * tol))
        flat = self._flat.copy()
        flat[near] += self._step[near]
        slopes, moments = self._stack.expect(*self._split(flat))
        self._take_step(near, self._vectors(slopes)[near])
        self._step = self._direction()
        converged = near[self._sizes()[near] <= CONTRACTION * tol]
        self._flat[converged] += self._step[converged]
        loadings, mean, noise = self._split(self._flat)
        ends: list[Fixed | None] = []
        for i, (model, expected) in enumerate(zip(self._models, moments, strict=True)):
            if not np.isfinite(expected.log_likelihood):
                ends.append(None)
                continue
            fit = model.fit(expected.covariance)
            if model.is_unbounded(fit):
                ends.append(None)
                continue
            fit = fit._replace(loadings=loadings[i], noise_variance=float(noise[i]))
            history = self._histories[i]
            history.append(max(history[-1], expected.log_likelihood))
            expected = replace(expected, mean=mean[i])
            ends.append(Fixed(expected, fit, i in converged, True, history))
        return ends

    def _vectors(self, slopes: Slopes) -> np.ndarray:
        by_log_noise = slopes.by_log_noise * (self._fixed_noise is None)
        return joined(slopes.by_loadings, slopes.by_mean, by_log_noise)

    def _split(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return loadings, means and noise variances."""
        loadings, mean, log_noise = split(flat, *self._fits[0].loadings.shape)
        return loadings, mean, np.exp(log_noise) if self._fixed_noise is None else self._fixed_noise

    def _sizes(self) -> np.ndarray:
        """Return the largest change of each mean and covariance in a step, in units of the features."""
        units, (loadings, _, noise) = self._units, self._split(self._flat)
        (_, d, k), by = loadings.shape, units[:, :, None]
        by_loadings, by_mean, by_log_noise = split(self._step, d, k)
        change = (loadings / by) @ (by_loadings / by).swapaxes(1, 2)
        change = change + change.swapaxes(1, 2)
        change[:, np.arange(d), np.arange(d)] += (noise * by_log_noise)[:, None] / units**2
        by_mean = np.abs(by_mean / units).max(axis=1)
        # A tiny noise variance has to be accurate relative to itself.
        return np.max(
            [np.abs(change).max(axis=(1, 2)), by_mean, TINY * np.abs(by_log_noise)], axis=0
        )
