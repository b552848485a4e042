"""Spectrum of a covariance, which contains every pPCA model of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import Array, to_device_of, wide_float
from sklearn_vae.gaussian.certificate import Accuracy, Certificate, certify
from sklearn_vae.gaussian.graded import eigh_of_covariance
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import rounded_along


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Leading eigenpairs of the covariance S (divisor n) of a data set, and the rest of its trace.

    With r eigenpairs it determines every pPCA model of the data with at most r components.

    Parameters
    ----------
    mean : array of shape (n_features,)
        Mean of the data.
    eigenvalues : array of shape (r,)
        Nonnegative eigenvalues in descending order.
    components : array of shape (r, n_features)
        Eigenvectors as orthonormal rows. They may be omitted, with shape (0, n_features), if only
        the likelihood of given variances is needed.
    rest : float
        Sum of the other eigenvalues, or 0.0 if they are rounding errors.
    resolution : float
        Largest eigenvalue that may be a rounding error of the decomposition. Smaller ones count as
        zero.
    rounded : array of shape (r,) or float, default=0.0
        Variance along each component that may be a rounding error of the data. Smaller eigenvalues
        count as zero.
    accuracy : Accuracy, default=Accuracy()
        Bounds on the errors of the eigenpairs. By default none are known.
    remainder : array of shape (n_features,), default=None
        Exact mean minus its rounding `mean`. If None, it is zero.

    See Also
    --------
    Moments : First and second moments of data.
    StationaryPoint : Stationary points of the likelihood, built from a spectrum.

    References
    ----------
    Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, eq. 7 and 8.

    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", NeurIPS 2019, appendix A.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae.gaussian import Moments, Spectrum
    >>> spectrum = Spectrum.from_moments(Moments.of(load_iris().data))
    >>> round(spectrum.noise_variance(2), 3)
    0.051
    >>> spectrum.log_likelihood([1, 2, 3]).round(1).ravel().tolist()
    [-3.1, -2.7, -2.5]
    """

    mean: Array
    eigenvalues: Array
    components: Array
    rest: float
    resolution: float
    rounded: Array | float = 0.0
    accuracy: Accuracy = field(default_factory=Accuracy)
    remainder: Array | None = None

    @classmethod
    def from_moments(cls, moments: Moments) -> Spectrum:
        """Compute all eigenpairs from moments.

        Parameters
        ----------
        moments : Moments
            Moments of the data.

        Returns
        -------
        Spectrum
            Spectrum with all n_features eigenpairs.
        """
        xp = array_namespace(moments.scatter)
        S, precision = moments.covariance, moments.precision
        values, vectors = eigh_of_covariance(S)
        values = xp.clip(values, 0.0, None)
        components = with_positive_peaks(vectors.T)
        error = precision.eigenvalue_error(moments.n_features, float(values[0]))
        columns = precision.rounding(moments.mean, xp.linalg.diagonal(S), moments.count)
        rounded = rounded_along(components, columns)
        accuracy = accuracy_of_moments(moments, float(values[0]), float(xp.linalg.trace(S)))
        remainder = moments.remainder
        return cls(moments.mean, values, components, 0.0, error, rounded, accuracy, remainder)

    def certificate(
        self, k: int, noise_variance: float | None = None, dtype: str = "float64"
    ) -> Certificate:
        """Bound the distance of the pPCA model with k components from the exact solution.

        Parameters
        ----------
        k : int
            Number of components.
        noise_variance : float or None, default=None
            Fixed noise variance, or None for the maximum likelihood value.
        dtype : {"float64", "float32"}, default="float64"
            Dtype of the components of the model.

        Returns
        -------
        Certificate
            Bounds on eigenvalues, angle, missed variance and log-likelihood.
        """
        sigma2 = self.noise_variance(k) if noise_variance is None else float(noise_variance)
        certificate = certify(
            np.asarray(to_host(self.eigenvalues), dtype=np.float64),
            k,
            self.n_features,
            self.rest,
            self.accuracy,
            noise_variance=sigma2,
            is_fixed=noise_variance is not None,
            eps=float(np.finfo(dtype).eps),
        )
        is_bounded = sigma2 > 0.0 or k == self.rank == self.n_features
        return certificate if is_bounded else replace(certificate, max_shortfall=None)

    def check(self) -> None:
        """Raise ValueError unless shapes match and variances are finite and nonnegative."""
        try:
            r, d = self.components.shape
            xp = array_namespace(self.mean, self.eigenvalues, self.components)
            rounded = self.rounded + xp.zeros_like(self.eigenvalues)
            valid = (
                tuple(self.mean.shape) == (d,)
                and (self.remainder is None or tuple(self.remainder.shape) == (d,))
                and tuple(self.eigenvalues.shape) == tuple(rounded.shape) == (r,)
                and bool(xp.all(xp.isfinite(self.mean)))
                and all(
                    bool(xp.all(xp.isfinite(values) & (values >= 0.0)))
                    for values in (self.eigenvalues, rounded)
                )
                and all(0.0 <= value < math.inf for value in (self.rest, self.resolution))
                and isinstance(self.accuracy, Accuracy)
                and all(
                    isinstance(value, str) if name == "method" else value >= 0.0
                    for name, value in vars(self.accuracy).items()
                )
            )
        except (AttributeError, TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(
                "A spectrum must have a finite mean of shape (n_features,), finite eigenvalues >= 0 "
                "of shape (r,), components of shape (r, n_features), and finite variances >= 0."
            )

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.mean.shape[0]

    @property
    def total_variance(self) -> float:
        """Trace of the covariance."""
        return float(self._tails[0])

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are not rounding errors."""
        xp = array_namespace(self.eigenvalues)
        return int(xp.count_nonzero(self._is_resolved))

    @cached_property
    def _is_resolved(self) -> Array:
        """Mask of eigenvalues that are not rounding errors."""
        return (self.eigenvalues > self.resolution) & (self.eigenvalues > self.rounded)

    def like(self, reference: Array) -> Spectrum:
        """Move the arrays to the library and device of another array.

        Parameters
        ----------
        reference : array
            Array that determines the library and the device.

        Returns
        -------
        Spectrum
            Spectrum with arrays in the dtype for sums, float64 if the device supports it.
        """
        mean, eigenvalues, components = (
            to_device_of(reference, array, dtype=wide_float(reference))
            for array in (self.mean, self.eigenvalues, self.components)
        )
        return replace(self, mean=mean, eigenvalues=eigenvalues, components=components)

    def leading(self, k: int) -> Spectrum:
        """Keep the leading eigenpairs, and the sum of the other eigenvalues.

        Parameters
        ----------
        k : int
            Number of eigenpairs to keep.

        Returns
        -------
        Spectrum
            Spectrum with k eigenpairs, of the same models with at most k components.
        """
        xp = array_namespace(self.eigenvalues)
        r, accuracy = self.eigenvalues.shape[0], self.accuracy
        if r == self.n_features:
            accuracy = replace(accuracy, outside=0.0)
        if k < r:
            accuracy = accuracy.with_fewer_pairs(float(self.eigenvalues[k]))
        has_rest = self.rest > 0.0 or bool(xp.any(self._is_resolved[k:]))
        return replace(
            self,
            eigenvalues=self.eigenvalues[:k],
            components=self.components[:k, :],
            rest=float(self._tails[k]) if has_rest else 0.0,
            rounded=(self.rounded + 0.0 * self.eigenvalues)[:k],
            accuracy=accuracy,
        )

    def padded(self, r: int) -> Spectrum:
        """Add eigenpairs with eigenvalue 0 until there are r.

        Parameters
        ----------
        r : int
            Minimum number of eigenpairs.

        Returns
        -------
        Spectrum
            Spectrum with at least r eigenpairs.
        """
        xp = array_namespace(self.components)
        n_pairs = self.components.shape[0]
        if n_pairs >= r:
            return self
        extra = xp.eye(self.n_features, r - n_pairs, dtype=self.components.dtype)
        extra = xp.asarray(extra, device=device(self.components))
        stacked = xp.concat([self.components.T, extra], axis=1)
        complement = xp.linalg.qr(stacked, mode="reduced")[0][:, n_pairs:].T
        zeros = xp.zeros(
            (r - n_pairs,), dtype=self.eigenvalues.dtype, device=device(self.eigenvalues)
        )
        return replace(
            self,
            eigenvalues=xp.concat([self.eigenvalues, zeros]),
            components=xp.concat([self.components, with_positive_peaks(complement)]),
            rounded=xp.concat([self.rounded + 0.0 * self.eigenvalues, zeros]),
            accuracy=self.accuracy.with_extra_pairs(),
        )

    @cached_property
    def _tails(self) -> Array:
        """Sums of all eigenvalues after the first k, for k = 0, ..., r."""
        # Not the trace minus the sum of the first k, which would cancel.
        xp = array_namespace(self.eigenvalues)
        return xp.flip(_prefix_sums(xp.flip(self.eigenvalues), self.rest))

    @cached_property
    def _n_noisy(self) -> int:
        """Numbers of components below this leave an eigenvalue that is not a rounding error."""
        xp = array_namespace(self.eigenvalues)
        if self.rest > 0.0:
            return self.n_features
        resolved = xp.nonzero(self._is_resolved)[0]
        return int(resolved[-1]) + 1 if resolved.shape[0] else 0

    def _noise_variances(self, k: Array) -> Array:
        """Compute the maximum likelihood sigma2 for each number of components in an array."""
        xp = array_namespace(self.eigenvalues)
        n_left = self.n_features - k
        divisor = xp.astype(
            xp.where(n_left > 0, n_left, xp.ones_like(n_left)), self.eigenvalues.dtype
        )
        noise = xp.take(self._tails, k) / divisor
        return xp.where((n_left > 0) & (k < self._n_noisy), noise, xp.zeros_like(noise))

    def noise_variance(self, k: int) -> float:
        """Return the maximum likelihood noise variance for k components.

        Parameters
        ----------
        k : int
            Number of components.

        Returns
        -------
        float
            Mean of the other n_features - k eigenvalues, or 0.0 if k reaches the rank.
        """
        if k >= self._n_noisy:
            return 0.0
        return float(self._tails[k]) / (self.n_features - k)

    def model_variances(self, k: int, noise_variance: float) -> Array:
        """Compute the variance max(lambda_h, sigma2) of the pPCA model along each component.

        An eigenvalue that does not exceed sigma2 belongs to a collapsed latent dimension.

        Parameters
        ----------
        k : int
            Number of components.
        noise_variance : float
            Noise variance sigma2. If it is 0, unresolved eigenvalues count as 0.

        Returns
        -------
        array of shape (k,)
            Variances along the components.
        """
        xp = array_namespace(self.eigenvalues)
        values = self.eigenvalues[:k]
        if noise_variance == 0.0:
            return xp.where(self._is_resolved[:k], values, xp.zeros_like(values))
        return xp.clip(values, noise_variance, None)

    def loadings(self, k: int, noise_variance: float, dtype: Any) -> Array:
        """Compute the loadings W of the pPCA model.

        Parameters
        ----------
        k : int
            Number of components.
        noise_variance : float
            Noise variance sigma2.
        dtype : dtype
            Dtype of the loadings.

        Returns
        -------
        array of shape (n_features, k)
            Each column is a component times the square root of its model variance minus sigma2.
        """
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
        """Compute the log-likelihood of pPCA for a grid of (k, sigma2) pairs.

        The grid costs no more time than its largest k alone.

        Parameters
        ----------
        n_components : sequence of int
            Values of k, at most the number of eigenpairs.
        noise_variance : sequence of float or None, default=(None,)
            Positive values of sigma2, or None for the maximum likelihood value at each k.
        moments : Moments, default=None
            Moments of the samples to score. If None, the data of the spectrum are scored.

        Returns
        -------
        array of shape (len(n_components), len(noise_variance))
            Nats per sample; nan where the likelihood is unbounded, because the maximum likelihood
            noise variance is 0 and the rank is below n_features.
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
        """Compute :meth:`log_likelihood` from second moments about the mean of the spectrum.

        Parameters
        ----------
        variances : array of shape (r,)
            Second moments along the eigenvectors.
        rest : float
            Sum of the second moments orthogonal to the eigenvectors.
        n_components, noise_variance : sequence
            Values of k and sigma2, as in :meth:`log_likelihood`.

        Returns
        -------
        array of shape (len(n_components), len(noise_variance))
            Nats per sample, as in :meth:`log_likelihood`.

        Raises
        ------
        ValueError
            If a value of `n_components` is negative or exceeds the number of eigenpairs.
        """
        n_pairs = self.eigenvalues.shape[0]
        if not all(0 <= k <= n_pairs for k in n_components):
            raise ValueError(
                f"n_components must be between 0 and the number of eigenpairs, {n_pairs}, "
                f"got {list(n_components)}."
            )
        xp = array_namespace(variances)
        k = xp.asarray(list(n_components), device=device(variances))
        columns = [
            self._log_likelihood_column(k, sigma2, variances, rest) for sigma2 in noise_variance
        ]
        return xp.stack(columns, axis=1)

    def variances_of(self, moments: Moments | None) -> tuple[Array, float]:
        """Compute second moments of other samples about the mean of the spectrum.

        Parameters
        ----------
        moments : Moments or None
            Moments of the samples. If None, the data of the spectrum are used.

        Returns
        -------
        variances : array of shape (r,)
            Second moments along the eigenvectors.
        rest : float
            Sum of the second moments orthogonal to the eigenvectors.
        """
        if moments is None:
            return self.eigenvalues, self.rest
        xp = array_namespace(moments.mean)
        V = xp.astype(self.components, self.eigenvalues.dtype)
        offset = (moments.mean - self.mean) + moments.remainder
        if self.remainder is not None:
            offset = offset - self.remainder
        S = moments.covariance
        variances = xp.vecdot(V @ S, V) + (V @ offset) ** 2
        if V.shape[0] == self.n_features:
            return variances, 0.0
        total = xp.linalg.trace(S) + xp.vecdot(offset, offset)
        return variances, max(float(total - xp.sum(variances)), 0.0)

    def _log_likelihood_column(
        self, k: Array, noise_variance: float | None, t: Array, rest: float
    ) -> Array:
        """Compute -(d log 2pi + sum log kappa + (d-k) log sigma2 + sum t/kappa + tail/sigma2)/2."""
        xp = array_namespace(t)
        d = self.n_features
        n_left = xp.astype(d - k, t.dtype)
        if noise_variance is None:
            sigma2 = self._noise_variances(k)
            # Up to the rank kappa is lambda; beyond it sigma2 is 0 and the value is undefined.
            smallest = float(xp.finfo(t.dtype).smallest_normal)
            kappa = xp.clip(self.eigenvalues, smallest, None)
            defined = (sigma2 > 0) | ((n_left == 0) & (self.rank == d))
            sigma2 = xp.where(sigma2 > 0, sigma2, xp.ones_like(sigma2))
        else:
            noise_variance = float(noise_variance)
            sigma2 = xp.full(k.shape, noise_variance, dtype=t.dtype, device=device(t))
            kappa = xp.clip(self.eigenvalues, noise_variance, None)
            defined = xp.ones_like(sigma2, dtype=xp.bool)
        tail = xp.flip(_prefix_sums(xp.flip(t), rest))
        with np.errstate(over="ignore", invalid="ignore"):  # in undefined values
            value = -0.5 * (
                d * math.log(2.0 * math.pi)
                + xp.take(_prefix_sums(xp.log(kappa)), k)
                + n_left * xp.log(sigma2)
                + xp.take(_prefix_sums(t / kappa), k)
                + xp.take(tail, k) / sigma2
            )
        return xp.where(defined, value, xp.full_like(value, xp.nan))


def accuracy_of_moments(moments: Moments, largest: float, total: float) -> Accuracy:
    """Return the accuracy of a full eigendecomposition of the covariance in `moments`.

    The products are about the mean of a block, up to sqrt(10) standard deviations in float64 and
    one in float32, which multiplies the squares; see `Moments.of`.
    """
    precision, xp = moments.precision, array_namespace(moments.mean)
    is_double = precision.eps < 1e-10
    n_terms = moments.count if is_double else min(moments.count, 2.0**16)
    shifted = (11.0 if is_double else 2.0) * total
    rounding = precision.product_error(n_terms, largest, shifted, moments.n_features)
    variances = xp.linalg.diagonal(moments.scatter) / moments.n
    rounding += float(xp.max(precision.rounding(moments.mean, variances, moments.count)))
    return Accuracy(outside=0.0, rounding=rounding, method="full eigendecomposition")


def with_positive_peaks(components: Array) -> Array:
    """Flip rows to make their entry of largest magnitude positive, as PCA does."""
    xp = array_namespace(components)
    r, d = components.shape
    if d == 0:
        return components
    starts = d * xp.arange(r, device=device(components))
    peaks = xp.take(xp.reshape(components, (-1,)), starts + xp.argmax(xp.abs(components), axis=1))
    return xp.where((peaks < 0)[:, None], -components, components)


def peak_signs(columns: np.ndarray) -> np.ndarray:
    """Return signs that make the entry of largest magnitude of each column positive."""
    peaks = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    return np.where(peaks < 0, -1.0, 1.0)


def _prefix_sums(values: Array, start: float = 0.0) -> Array:
    """Return start, start + v_0, start + v_0 + v_1, ..., one entry more than `values`."""
    xp = array_namespace(values)
    first = xp.full((1,), start, dtype=values.dtype, device=device(values))
    return xp.cumulative_sum(xp.concat([first, values]))


def components_for_ratio(eigenvalues: Array, total: float, ratio: float) -> int:
    """Return the smallest k whose eigenvalues sum to more than the share `ratio` of the total."""
    xp = array_namespace(eigenvalues)
    explained = xp.cumulative_sum(eigenvalues) / (total or 1.0)
    k = int(xp.count_nonzero(explained <= ratio)) + 1
    return min(k, explained.shape[0])
