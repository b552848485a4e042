"""Expected moments of data with missing values, and models that are fitted to them.

EM alternates between the moments of the complete data that a model expects, given the observed
values, and the model that fits these moments best. Only the missing values are hidden, not the latent
variables, so a step is longer than a step of `gaussian.em`. Its cost is O(n k d^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sklearn_vae.gaussian.conditional_moments import MOST_SIGNAL, ConditionalMoments
from sklearn_vae.gaussian.em import fixed_point
from sklearn_vae.gaussian.graded import eigh_of_covariance
from sklearn_vae.gaussian.observed import IncompleteData, Parameters, latent_pairs, one_thread_for

# Up to this number of features the d x d matrices cost less than the iterations that they save.
MOST_FOR_MOMENTS = 300
# Times of a multiplication in products of matrices and in roots of many small inverses, relative to one
# in inverses.
TIME_OF_PRODUCTS, TIME_OF_ROOTS = 0.02, 0.5
# Number of earlier steps from which the fixed point of EM is extrapolated.
REMEMBERED = 8
# Largest estimate of the share by which a step of EM falls short.
MOST_MISSING = 0.8
# Distance of an expected moment from its fixed point, in units of the features, at which EM ends.
TOLERANCE = 2e-7
# A noise variance below this share of the variance of a feature has to be as accurate, relative to
# itself, as one of this share. It may fall to 0 in steps that are too small for the moments to tell.
TINY = 1e-3


@dataclass(frozen=True, eq=False)
class Expected:
    """Mean and covariance (divisor n) that a model expects, and its log-likelihood per sample."""

    mean: np.ndarray  # (d,)
    covariance: np.ndarray  # (d, d)
    log_likelihood: float = -math.inf


class LowRankFit(NamedTuple):
    """Covariance diag(scale) (W W' + sigma2 I) diag(scale) that fits expected moments best.

    `values` and `vectors` are all eigenpairs, descending, of the covariance divided by the scale.
    """

    loadings: np.ndarray  # (d, k), in units of the scale
    noise_variance: float
    values: np.ndarray  # (d,)
    vectors: np.ndarray  # (d, d)
    scale: np.ndarray | None = None  # (d,), or None if it is 1


class Model(Protocol):
    """Maximization step of EM."""

    def fit(self, covariance: np.ndarray) -> LowRankFit:
        """Fit the model to a covariance."""

    def is_unbounded(self, fit: LowRankFit) -> bool:
        """Return whether the likelihood is unbounded, since the noise variance reached 0."""


class IncompleteMoments:
    """Data with missing values, relative to the means of the observed values."""

    def __init__(
        self,
        X: np.ndarray,
        center: np.ndarray,
        n_components: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.data = IncompleteData(X, center, n_components, weights)
        self._values = self.data.values
        self._conditional = ConditionalMoments(self.data)
        self._missing = []
        for block in self.data.blocks:
            w = self._weights(block.samples)
            if block.owner is not None:
                w = np.bincount(block.owner, w, len(block.observed)).astype(np.float64)
            missing = np.ascontiguousarray(1.0 - block.observed.T)
            self._missing.append((missing, missing if w is None else missing * np.sqrt(w)))
        self._n_missing = np.sum(
            [np.sum(counted**2, axis=1) for _, counted in self._missing], axis=0
        )
        self._counts = self.data.n - self._n_missing
        self.share_missing = 1.0 - self.data.n_values / (self.data.n * X.shape[1])
        self.varies = self.data.varies

    def _weights(self, samples: slice) -> np.ndarray | None:
        return None if self.data.weights is None else self.data.weights[samples]

    def start(self) -> Expected:
        """Return the moments with missing values replaced by means."""
        X = self._values
        return Expected(
            self.data.sum(X) / self.data.n, self._products(X, slice(None)) / self.data.n
        )

    def _products(self, X: np.ndarray, samples: slice) -> np.ndarray:
        w = self._weights(samples)
        return X.T @ (X if w is None else w[:, None] * X)

    def expect(self, mean: np.ndarray, fit: LowRankFit) -> Expected:
        """Compute the expected moments of the complete data under a model (E-step)."""
        parameters, log_scale = self._scaled(mean, fit)
        if self._has_few_missing(parameters):
            origin = parameters.mean
            total, products, log_likelihood = self._conditional.expect(parameters)
        else:
            origin = np.zeros_like(mean)
            total, products, log_likelihood = self._expect_by_latents(parameters)
        n = self.data.n
        shift, products, log_likelihood = total / n, products / n, log_likelihood / n
        covariance, mean = products - np.outer(shift, shift), origin + shift
        if fit.scale is not None:
            mean, covariance = mean * fit.scale, covariance * fit.scale * fit.scale[:, None]
            log_likelihood -= log_scale / n
        return Expected(mean, covariance, log_likelihood)

    def _has_few_missing(self, parameters: Parameters) -> bool:
        """Return whether the missing values cost less than the latent variables."""
        W = parameters.loadings
        d, k = W.shape
        lengths = np.einsum("jh,jh->h", W, W).max(initial=0.0)
        is_accurate = lengths <= MOST_SIGNAL * parameters.noise_variance
        by_latents = TIME_OF_ROOTS * k**3 + TIME_OF_PRODUCTS * k * d**2
        return bool(is_accurate and self._conditional.cost < by_latents)

    def _expect_by_latents(self, parameters: Parameters) -> tuple[np.ndarray, np.ndarray, float]:
        """Run the E-step by the posteriors of the latent variables."""
        data, W = self.data, parameters.loadings
        d, k = W.shape
        total, products, covariance = np.zeros(d), np.zeros((d, d)), np.zeros((d, d))
        log_likelihood = 0.0
        with one_thread_for(k):
            for block, (missing, counted) in zip(data.blocks, self._missing, strict=True):
                q = data.posterior(block, parameters, by_root=True)
                filled = W @ q.mean
                filled += parameters.mean[:, None]
                filled *= block.repeated(missing)
                filled = filled.T + data.values[block.samples]
                total += data.sum(filled, block.samples)
                products += self._products(filled, block.samples)
                log_likelihood += float(data.sum(q.log_likelihood, block.samples))
                # Cov[x_j, x_l | x_o] = sigma2 (delta_jl + w_j' B'B w_l) for missing j and l.
                for a in range(k):
                    R = W[:, : a + 1] @ q.inverse[a, : a + 1]
                    R *= counted
                    covariance += R @ R.T
        covariance.flat[:: d + 1] += self._n_missing
        products += parameters.noise_variance * covariance
        return total, products, log_likelihood

    def _scaled(self, mean: np.ndarray, fit: LowRankFit) -> tuple[Parameters, float]:
        """Scale the data, and return the parameters in these units and the log-density of a unit."""
        if fit.scale is None:
            return Parameters(fit.loadings, mean, fit.noise_variance), 0.0
        data = self.data
        data.values = self._values / fit.scale
        data.squares = np.einsum("ij,ij->i", data.values, data.values)
        parameters = Parameters(fit.loadings, mean / fit.scale, fit.noise_variance)
        return parameters, float(self._counts @ np.log(fit.scale))


@dataclass(frozen=True, eq=False)
class Fixed:
    """Fixed point of EM."""

    expected: Expected
    fit: LowRankFit
    converged: bool
    is_bounded: bool  # whether the likelihood is
    history: list[float]  # log-likelihoods per sample, which rise

    @property
    def log_likelihood(self) -> float:
        """Last log-likelihood per sample."""
        return self.history[-1] if self.history else -math.inf


def maximize_expected(
    data: IncompleteMoments,
    model: Model,
    start: Expected,
    *,
    tol: float = TOLERANCE,
    max_iter: int = 500,
) -> Fixed:
    """Iterate EM until the expected moments are within `tol` of the fixed point that they point to.

    Moments are in units of the features. The steps are lengthened by `_lengthened` and
    extrapolated. If the likelihood falls, the next step is that of EM from the best moments.
    """
    units = _units(start, model)
    here, best, ascent = _flat(start, units), -math.inf, None
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    stretch, converged = 1.0, False
    history: list[float] = []
    for _ in range(max_iter):
        moments = _moments(here, units)
        try:
            fit = model.fit(moments.covariance)
            is_unbounded = model.is_unbounded(fit)
            if is_unbounded and (ascent is None or here is ascent):
                return Fixed(moments, fit, True, False, history)
            if not np.all(fit.noise_variance > 0.0):
                raise np.linalg.LinAlgError("The noise variance is 0.")
            expected = data.expect(moments.mean, fit)
            # An extrapolation may go beyond the bound although the likelihood is bounded.
            if is_unbounded and expected.log_likelihood > best:
                return Fixed(moments, fit, True, False, history)
        except np.linalg.LinAlgError:  # extrapolated moments may be invalid
            if ascent is None or here is ascent:
                raise
            here, steps = ascent, []
            continue
        if ascent is not None and expected.log_likelihood < best - 1e-13 * abs(best):
            if here is ascent:  # a step of EM lowers the likelihood by rounding errors only
                converged = _change_of_tiny(model, fit, expected, units) <= tol
                break
            # Near a saddle point the extrapolation leads to it: go away in longer and longer steps.
            stretch = 2.0 * stretch if len(steps) > 1 else 1.0
            here, steps = ascent, []
            continue
        change = _flat(expected, units) - here
        after = here + _lengthened(change, fit, data.share_missing, units)
        steps = [*steps[-REMEMBERED:], (here, after)]
        best, ascent = max(best, expected.log_likelihood), here + change
        history.append(best)
        ahead = here + stretch * (after - here) if len(steps) == 1 else fixed_point(steps)
        converged = float(np.abs(ahead - here).max()) <= tol
        converged = converged and _change_of_tiny(model, fit, expected, units) <= tol
        here = ahead
        if converged:
            break
    if not converged and ascent is not None:
        here = ascent
    moments = _moments(here, units)
    fit = model.fit(moments.covariance)
    return Fixed(moments, fit, converged, not model.is_unbounded(fit), history)


class Slope(NamedTuple):
    """Log-likelihood per sample at the end of EM, and what is left to the maximum."""

    log_likelihood: float
    by_log_noise: np.ndarray  # derivatives by the log noise variances of the features, (d,)
    remaining_gain: float


def slope_at(data: IncompleteMoments, model: Model, end: Fixed) -> Slope:
    """Run one more E-step, to predict the rise of the log-likelihood up to the maximum.

    Near a maximum it is half the product of the gradient and the way to the maximum, to which a
    lengthened step of EM leads. By Fisher's identity the gradient is that of the expected
    log-likelihood of the complete data.
    """
    here, fit = end.expected, end.fit
    expected, units = data.expect(here.mean, fit), _units(here, model)
    change = _flat(expected, units) - _flat(here, units)
    after = _flat(here, units) + _lengthened(change, fit, data.share_missing, units)
    ahead = _moments(after, units)
    C, shift = _covariance(fit), expected.mean - here.mean
    precision = np.linalg.inv(C)
    gradient = 0.5 * precision @ (expected.covariance + np.outer(shift, shift) - C) @ precision
    gain = float(np.sum(gradient * (_covariance(model.fit(ahead.covariance)) - C)))
    gain += float(shift @ precision @ (ahead.mean - here.mean))
    by_log_noise = np.diagonal(gradient) * _noise_of(fit)
    return Slope(expected.log_likelihood, by_log_noise, max(0.5 * gain, 0.0))


def _covariance(fit: LowRankFit) -> np.ndarray:
    W = fit.loadings
    C = W @ W.T + fit.noise_variance * np.eye(len(W))
    return C if fit.scale is None else C * fit.scale * fit.scale[:, None]


def _change_of_tiny(model: Model, fit: LowRankFit, after: Expected, units: np.ndarray) -> float:
    """Return the largest change in a step of EM of a log noise variance below TINY, times TINY."""
    noise = np.broadcast_to(_noise_of(fit), units.shape)
    is_tiny = noise < TINY * units**2
    if not is_tiny.any():
        return 0.0
    change = np.log(_noise_of(model.fit(after.covariance)) / noise)
    return TINY * float(np.abs(change[is_tiny]).max())


def _noise_of(fit: LowRankFit) -> np.ndarray:
    """Return the noise variance of each feature, or of all, in units of the data."""
    return np.asarray(fit.noise_variance * (1.0 if fit.scale is None else fit.scale**2))


def _units(moments: Expected, model: Model) -> np.ndarray:
    return units_of(moments, model.fit(moments.covariance))


def units_of(moments: Expected, fit: LowRankFit) -> np.ndarray:
    """Return the standard deviation of each feature, or that of its noise if it is larger."""
    units = np.sqrt(np.maximum(np.diagonal(moments.covariance), _noise_of(fit)))
    return np.where(units > 0.0, units, 1.0)


def _flat(moments: Expected, units: np.ndarray) -> np.ndarray:
    i, j, _ = latent_pairs(len(units))
    covariance = moments.covariance / units / units[:, None]
    return np.concatenate([moments.mean / units, covariance[i, j]])


def _moments(flat: np.ndarray, units: np.ndarray) -> Expected:
    d = len(units)
    return Expected(flat[:d] * units, _symmetric(flat[d:], d) * units * units[:, None])


def _symmetric(lower: np.ndarray, d: int) -> np.ndarray:
    return lower[latent_pairs(d)[2]]


def _lengthened(
    change: np.ndarray, fit: LowRankFit, share_missing: float, units: np.ndarray
) -> np.ndarray:
    """Divide a step of EM by the estimated share of information that is not missing.

    Let x = q x_observed be the part of x along an eigenvector of the covariance S that the observed
    values tell on average, see `known_shares`. A change of the model along the eigenvectors a and b
    moves the expected S_ab by about the share 1 - q_a q_b. A change of S_ab moves the model by the
    share (l_a - sigma2) / (l_a - l_b), if a is a component and b is not, because the components
    rotate; the other entries move it only by their trace. The product of both is the rate at which
    EM converges along S_ab, and 1 - q_a that along the mean.
    """
    d, k = fit.loadings.shape
    lengths = np.maximum(fit.values[:k] - fit.noise_variance, 0.0)
    known = known_shares(lengths, fit.noise_variance, share_missing, d)
    rate = 1.0 - known * known[:, None]
    gap = np.maximum(fit.values[:k, None] - fit.values[k:], 1e-3 * lengths[:, None])
    rotation = np.divide(lengths[:, None], gap, out=np.zeros((k, d - k)), where=gap > 0.0)
    rate[:k, k:] *= rotation
    rate[k:, :k] *= rotation.T
    rate[k:, k:] = 0.0
    rate = np.minimum(rate, MOST_MISSING)
    scale = (1.0 if fit.scale is None else fit.scale) / units
    to_basis, from_basis = fit.vectors / scale[:, None], fit.vectors * scale[:, None]
    S = to_basis.T @ _symmetric(change[d:], d) @ to_basis
    trace = np.diagonal(S)[k:].mean() if k < d else 0.0
    S /= 1.0 - rate
    rest = np.arange(k, d)
    S[rest, rest] += trace * (1.0 / known[-1] - 1.0)
    S = from_basis @ S @ from_basis.T
    mean = from_basis @ (to_basis.T @ change[:d] / known)
    i, j, _ = latent_pairs(d)
    return np.concatenate([mean, S[i, j]])


def known_shares(lengths: np.ndarray, noise: float, share_missing: float, d: int) -> np.ndarray:
    """Return the share of x that the observed values tell, along each eigenvector.

    It is 1 - r u, where u is the share of the variance that stays unknown, noise / (noise + (1 - r)
    lengths), and r, the share of the noise that is missing, is such that all shares sum to the
    number of observed values.
    """
    unknown, r = np.ones(d), share_missing
    for _ in range(3):
        unknown[: len(lengths)] = noise / (noise + (1.0 - r) * lengths)
        r = min(d * share_missing / unknown.sum(), MOST_MISSING)
    return 1.0 - r * unknown


@dataclass(frozen=True)
class PPCAModel:
    """pPCA with k components and a noise variance that is fixed, or estimated if None."""

    n_components: int
    noise_variance: float | None
    least_noise: float

    def fit(self, covariance: np.ndarray) -> LowRankFit:
        """Fit the model in closed form (Tipping and Bishop, 1999)."""
        return self.of_eigenpairs(*eigh_of_covariance(covariance))

    def of_eigenpairs(self, values: np.ndarray, vectors: np.ndarray) -> LowRankFit:
        """Fit the model to all eigenpairs of a covariance, descending."""
        k, noise = self.n_components, self.noise_variance
        if noise is None:
            k = min(k, len(values) - 1)  # which can model any covariance
            noise = max(float(values[k:].mean()), self.least_noise)
        lengths = np.sqrt(np.maximum(values[:k] - noise, 0.0))
        return LowRankFit(vectors[:, :k] * lengths, noise, values, vectors)

    def is_unbounded(self, fit: LowRankFit) -> bool:
        """Return whether the estimated noise variance is at its lower bound."""
        return self.noise_variance is None and fit.noise_variance <= self.least_noise
