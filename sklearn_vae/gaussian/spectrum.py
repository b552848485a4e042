"""The spectrum of a covariance, and every probabilistic PCA model that it contains."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from scipy.special import gammaln

from sklearn_vae.gaussian.arrays import Array, to_device_of, wide_float
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import rounded_along


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Leading eigenpairs of the covariance S (divisor n) of a data set, and the rest of its trace.

    With all min(n, d) eigenpairs it holds every probabilistic PCA model of the data; cut at r
    eigenpairs, those with at most r components.

    Parameters
    ----------
    mean : array of shape (d,)
    eigenvalues : array of shape (r,), in the dtype for sums
        Descending and >= 0.
    components : array of shape (r, d)
        Orthonormal rows; of shape (0, d) where only likelihoods of given variances are wanted.
    rest : float
        Sum of the eigenvalues that are not held; 0.0 where they are rounding errors.
    resolution : float
        Eigenvalues up to here may be rounding errors of the decomposition: as a rank they count
        as zero.
    rounded : array of shape (r,) or float, default=0.0
        Variance along each component that may come from the rounding of the rows, as
        `rounded_along` gives it: an eigenvalue counts as zero up to that as well.

    References
    ----------
    Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, eq. 7 and 8;
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", NeurIPS 2019, appendix A.
    """

    mean: Array
    eigenvalues: Array
    components: Array
    rest: float
    resolution: float
    rounded: Array | float = 0.0

    @classmethod
    def from_moments(cls, moments: Moments) -> Spectrum:
        """All d eigenpairs, by one symmetric eigendecomposition."""
        xp = array_namespace(moments.scatter)
        S, precision = moments.covariance, moments.precision
        # Not scipy's eigh: the threads of its BLAS would fight with those of NumPy, which have just
        # multiplied out the scatter and still spin.
        values, vectors = xp.linalg.eigh(S)
        values = xp.clip(xp.flip(values), 0.0, None)
        components = with_positive_peaks(xp.flip(vectors, axis=1).T)
        error = precision.eigenvalue_error(moments.n_features, float(values[0]))
        columns = precision.rounding(moments.mean, xp.linalg.diagonal(S), moments.count)
        rounded = rounded_along(components, columns)
        return cls(moments.mean, values, components, 0.0, error, rounded)

    @property
    def n_features(self) -> int:
        """Number d of features."""
        return self.mean.shape[0]

    @property
    def total_variance(self) -> float:
        """Trace of S."""
        return float(self._tails[0])

    @property
    def rank(self) -> int:
        """Number of eigenvalues, among those that are held, that are not rounding errors."""
        xp = array_namespace(self.eigenvalues)
        return int(xp.count_nonzero(self._present))

    @cached_property
    def _present(self) -> Array:
        """Which eigenvalues exceed the resolution and what rounding makes along them."""
        return (self.eigenvalues > self.resolution) & (self.eigenvalues > self.rounded)

    def like(self, reference: Array) -> Spectrum:
        """Move the arrays to the library and device of `reference`, in its dtype for sums."""
        mean, eigenvalues, components = (
            to_device_of(reference, array, dtype=wide_float(reference))
            for array in (self.mean, self.eigenvalues, self.components)
        )
        return replace(self, mean=mean, eigenvalues=eigenvalues, components=components)

    def padded(self, r: int) -> Spectrum:
        """Add eigenpairs without variance where fewer than r are held."""
        xp = array_namespace(self.components)
        held = self.components.shape[0]
        if held >= r:
            return self
        more = xp.eye(self.n_features, r - held, dtype=self.components.dtype)
        more = xp.asarray(more, device=device(self.components))
        stacked = xp.concat([self.components.T, more], axis=1)
        complement = xp.linalg.qr(stacked, mode="reduced")[0][:, held:].T
        zeros = xp.zeros((r - held,), dtype=self.eigenvalues.dtype, device=device(self.eigenvalues))
        return replace(
            self,
            eigenvalues=xp.concat([self.eigenvalues, zeros]),
            components=xp.concat([self.components, with_positive_peaks(complement)]),
            rounded=xp.concat([self.rounded + 0.0 * self.eigenvalues, zeros]),
        )

    @cached_property
    def _tails(self) -> Array:
        """Sums of all eigenvalues after the first k, for k = 0, ..., r."""
        # Each is its own sum: the trace less the sum of the first k would cancel.
        xp = array_namespace(self.eigenvalues)
        return xp.flip(_prefix_sums(xp.flip(self.eigenvalues), self.rest))

    def _noise_variances(self, k: Array) -> Array:
        """Maximum likelihood sigma2 for each number of components in an array."""
        xp = array_namespace(self.eigenvalues)
        present = xp.astype(self._present, self.eigenvalues.dtype)
        any_left = xp.take(xp.flip(_prefix_sums(xp.flip(present), self.rest)), k) > 0
        spare = self.n_features - k
        safe = xp.astype(xp.where(spare > 0, spare, xp.ones_like(spare)), present.dtype)
        noise = xp.take(self._tails, k) / safe
        return xp.where((spare > 0) & any_left, noise, xp.zeros_like(noise))

    def noise_variance(self, k: int) -> float:
        """Maximum likelihood sigma2 for k components: the mean of the other d - k eigenvalues.

        0.0 where nothing is left but rounding error: where k reaches the rank.
        """
        xp = array_namespace(self.eigenvalues)
        return float(self._noise_variances(xp.asarray([k], device=device(self.eigenvalues)))[0])

    def model_variances(self, k: int, noise_variance: float) -> Array:
        """kappa_h = max(lambda_h, sigma2), shape (k,): the model's variance along component h.

        That is the optimum at any sigma2, the maximum likelihood one or another; an eigenvalue
        that does not exceed sigma2 leaves its latent dimension collapsed. Without noise, an
        eigenvalue below the resolution counts as 0.
        """
        xp = array_namespace(self.eigenvalues)
        values = self.eigenvalues[:k]
        if noise_variance == 0.0:
            return xp.where(self._present[:k], values, xp.zeros_like(values))
        return xp.clip(values, noise_variance, None)

    def loadings(self, k: int, noise_variance: float, dtype: Any) -> Array:
        """W of shape (d, k): component h times the root of its variance less the noise's."""
        xp = array_namespace(self.eigenvalues)
        lengths = (self.model_variances(k, noise_variance) - noise_variance) ** 0.5
        components = xp.astype(self.components[:k, :], dtype)
        return components.T * xp.astype(lengths, dtype)

    def log_likelihood(
        self,
        n_components: Sequence[int],
        noise_variance: Sequence[float | None] = (None,),
        moments: Moments | None = None,
    ) -> Array:
        """Average log-likelihood of every (k, sigma2) pair, from one spectrum.

        Every term is a cumulative sum over components, so that a grid costs no more than its
        largest k.

        Parameters
        ----------
        n_components : sequence of m ints
            Each k at most the number of eigenpairs held.
        noise_variance : sequence of s floats > 0 or None
            None is the maximum likelihood value of each k.
        moments : Moments, default=None
            Of the rows to score, which may be others than the spectrum's. None: the spectrum's.

        Returns
        -------
        array of shape (m, s)
            Nats per sample. nan where the maximum likelihood noise is 0 and the rank below d:
            there the likelihood is unbounded.
        """
        variances, rest = self.variances_of(moments)
        return self.log_likelihood_of(variances, rest, n_components, noise_variance)

    def log_likelihood_of(
        self,
        variances: Array,
        rest: float,
        n_components: Sequence[int],
        noise_variance: Sequence[float | None],
    ) -> Array:
        """:meth:`log_likelihood` of samples with given second moments about the model's mean.

        `variances` (r,) are along each eigenvector, `rest` is their sum outside of all.
        """
        held = self.eigenvalues.shape[0]
        if not all(0 <= k <= held for k in n_components):
            raise ValueError(
                f"n_components must be between 0 and the {held} components held, "
                f"got {list(n_components)}."
            )
        xp = array_namespace(variances)
        k = xp.asarray(list(n_components), device=device(variances))
        columns = [
            self._log_likelihood_column(k, sigma2, variances, rest) for sigma2 in noise_variance
        ]
        return xp.stack(columns, axis=1)

    def variances_of(self, moments: Moments | None) -> tuple[Array, float]:
        """Second moments about the model's mean along each component, and outside of all."""
        if moments is None:
            return self.eigenvalues, self.rest
        xp = array_namespace(moments.mean)
        V = xp.astype(self.components, self.eigenvalues.dtype)
        offset = moments.mean - self.mean
        S = moments.covariance
        variances = xp.vecdot(V @ S, V) + (V @ offset) ** 2
        if V.shape[0] == self.n_features:
            return variances, 0.0
        total = xp.linalg.trace(S) + xp.vecdot(offset, offset)
        return variances, max(float(total - xp.sum(variances)), 0.0)

    def _log_likelihood_column(
        self, k: Array, noise_variance: float | None, t: Array, rest: float
    ) -> Array:
        """-1/2 (d log 2pi + sum log kappa + (d-k) log sigma2 + sum t/kappa + tail/sigma2)."""
        xp = array_namespace(t)
        d = self.n_features
        spare = xp.astype(d - k, t.dtype)
        if noise_variance is None:
            sigma2 = self._noise_variances(k)
            # Below the rank kappa is lambda; beyond it sigma2 is 0 and the value undefined.
            smallest = float(xp.finfo(t.dtype).smallest_normal)
            kappa = xp.clip(self.eigenvalues, smallest, None)
            defined = (sigma2 > 0) | ((spare == 0) & (self.rank == d))
            sigma2 = xp.where(sigma2 > 0, sigma2, xp.ones_like(sigma2))
        else:
            noise_variance = float(noise_variance)
            sigma2 = xp.full(k.shape, noise_variance, dtype=t.dtype, device=device(t))
            kappa = xp.clip(self.eigenvalues, noise_variance, None)
            defined = xp.ones_like(sigma2, dtype=xp.bool)
        tail = xp.flip(_prefix_sums(xp.flip(t), rest))
        with np.errstate(over="ignore", invalid="ignore"):  # where it is not defined
            value = -0.5 * (
                d * math.log(2.0 * math.pi)
                + xp.take(_prefix_sums(xp.log(kappa)), k)
                + spare * xp.log(sigma2)
                + xp.take(_prefix_sums(t / kappa), k)
                + xp.take(tail, k) / sigma2
            )
        return xp.where(defined, value, xp.full_like(value, xp.nan))


def with_positive_peaks(components: Array) -> Array:
    """Rows with their entry of largest magnitude made positive: PCA's sign convention."""
    xp = array_namespace(components)
    r, d = components.shape
    starts = d * xp.arange(r, device=device(components))
    peaks = xp.take(xp.reshape(components, (-1,)), starts + xp.argmax(xp.abs(components), axis=1))
    return xp.where((peaks < 0)[:, None], -components, components)


def peak_signs(columns: np.ndarray) -> np.ndarray:
    """Signs that make the entry of largest magnitude of each column positive."""
    peaks = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    return np.where(peaks < 0, -1.0, 1.0)


def _prefix_sums(values: Array, start: float = 0.0) -> Array:
    """start, start + v_0, start + v_0 + v_1, ...: one entry more than `values`."""
    xp = array_namespace(values)
    first = xp.full((1,), start, dtype=values.dtype, device=device(values))
    return xp.cumulative_sum(xp.concat([first, values]))


def components_for_ratio(eigenvalues: Array, total: float, ratio: float) -> int:
    """Smallest k whose eigenvalues sum up to more than the share `ratio` of the total."""
    xp = array_namespace(eigenvalues)
    explained = xp.cumulative_sum(eigenvalues) / (total or 1.0)
    enough = int(xp.count_nonzero(explained <= ratio)) + 1
    return min(enough, explained.shape[0])


def minka_dimension(spectrum: Spectrum, n_samples: float) -> int:
    """The number of components, between 1 and d - 1, of largest Bayesian evidence.

    Laplace's approximation of the evidence, for all numbers of components in O(d^2) (Minka,
    "Automatic Choice of Dimensionality for PCA", NIPS 2000, eq. 30 and 31). The spectrum must hold
    all d eigenvalues; those below its resolution, and smaller gaps between them, count as the
    resolution.
    """
    d = spectrum.n_features
    floor = max(spectrum.resolution, sys.float_info.min)
    # A few hundred numbers: on the host, whatever the device of the data.
    values = np.maximum([float(value) for value in spectrum.eigenvalues], floor)
    k = np.arange(1, d)
    halves = (d - k + 1) / 2.0
    log_frames = np.cumsum(gammaln(halves) - halves * math.log(math.pi)) - k * math.log(2.0)
    noise = np.cumsum(values[:0:-1])[::-1] / (d - k)
    log_fit = np.cumsum(np.log(values[:-1])) + (d - k) * np.log(noise)
    n_free = d * k - k * (k + 1) / 2.0
    log_evidence = (
        log_frames
        - n_samples / 2.0 * log_fit
        + (n_free + k) / 2.0 * math.log(2.0 * math.pi)
        - (n_free + k) / 2.0 * math.log(n_samples)
        - 0.5 * _log_curvature(values, noise, floor)
    )
    log_evidence[values[:-1] <= floor] = -np.inf
    return int(np.argmax(log_evidence)) + 1


def _log_curvature(values: np.ndarray, noise: np.ndarray, floor: float) -> np.ndarray:
    """Minka's log det A_Z less its factors n_samples, for k = 1, ..., d - 1.

    The sum over pairs i <= k, j > i of log((l_i - l_j)(1/m_j - 1/m_i)), with m_j = l_j for the
    kept and the noise variance of that k for the others.
    """
    d = values.size
    k = np.arange(1, d)
    gaps = np.triu(np.log(np.maximum(values[:, None] - values, floor)), 1)
    any_later = np.cumsum(gaps.sum(axis=1))[:-1]
    both_kept = np.cumsum(gaps.sum(axis=0))[:-1]
    logs = np.cumsum(np.log(values))[:-1]
    above_noise = np.log(np.maximum(values[:-1, None] - noise, floor))
    kept_above_noise = np.triu(above_noise).sum(axis=0)
    return (
        any_later
        + both_kept
        - (k - 1) * logs
        + (d - k) * (kept_above_noise - k * np.log(noise) - logs)
    )
