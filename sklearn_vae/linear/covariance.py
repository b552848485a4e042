"""Covariance of the training data, in the form that is cheapest for their shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_vae.gaussian.arrays import row_blocks, scale_of, weighted_mean
from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.eigensolvers import count_components, decompose
from sklearn_vae.gaussian.gram import spectrum_of_gram
from sklearn_vae.gaussian.linear_elbo import UNRESOLVED, LinearElbo
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import SMALLEST
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.checks import check_mle, check_squares_fit
from sklearn_vae.validation import is_integer

Array = NDArray[Any]


def check_spread(variances: Array, mean: Array, dtype: Any) -> None:
    """Raise ValueError unless samples with these moments differ by more than rounding errors."""
    rounding = 4.0 * float(np.finfo(dtype).eps) * np.abs(mean)
    average = float(variances.mean())
    if not (SMALLEST < average < np.inf and (np.sqrt(np.maximum(variances, 0.0)) > rounding).any()):
        raise ValueError(
            "X must contain at least two different samples, whose squares are finite in float64, "
            f"got an average variance of {average:.3g} over {len(mean)} features."
        )


@dataclass(frozen=True, eq=False)
class TrainingCovariance:
    """Mean and covariance S (divisor n) of data X, weighted if the samples have weights.

    S is a matrix if n >= d or only moments are given. Otherwise the centered data represent it.
    `n` is the number of samples or the sum of their weights. The positive `weights` have mean 1.
    """

    X: Any
    mean: Array
    moments: Moments | None
    n_samples: int
    n: float
    dtype: Any
    weights: Array | None = None

    def __post_init__(self) -> None:
        if self.moments is not None:
            variances = np.diagonal(self.moments.covariance)
        else:
            with np.errstate(over="ignore"):
                variances = np.einsum("ij,ij->j", self.centered, self.centered) / self.n_samples
        check_spread(variances, self.mean, self.dtype)

    @classmethod
    def from_data(cls, X: Array, weights: Array | None = None) -> TrainingCovariance:
        """Compute the covariance in float64 from data in memory, with positive weights."""
        n, d = X.shape
        instead = "Use partial_fit, which processes batches without such a matrix."
        check_squares_fit("LinearVAE", min(n, d), instead=instead)
        weights_sum = float(n)
        if weights is not None:
            weights_sum, weights = float(weights.sum()), weights / scale_of(weights)
            weights = weights / weights.mean()
        if n < d:
            mean = weighted_mean(X, weights, np.float64)
            return cls(X, mean, None, n, weights_sum, X.dtype, weights)
        moments = Moments.of(X, weights)
        return cls(X, moments.mean, moments, n, weights_sum, X.dtype, weights)

    @classmethod
    def from_moments(cls, moments: Moments) -> TrainingCovariance:
        """Take the covariance from moments of data that are not in memory."""
        return cls(None, moments.mean, moments, int(moments.count), moments.n, moments.dtype)

    @property
    def n_features(self) -> int:
        """Number d of features."""
        return len(self.mean)

    @property
    def average_variance(self) -> float:
        """Average variance of a feature, trace(S) / d."""
        return self.elbo.total_variance / self.n_features

    @property
    def scale(self) -> float:
        """Square root of the average variance."""
        return self.average_variance**0.5

    @cached_property
    def centered(self) -> Array:
        """X minus its mean in float64, or other vectors with the same covariance.

        Samples with weights are multiplied by their roots.
        """
        if self.X is None:
            lengths = np.sqrt(self.n_features * self.spectrum.eigenvalues)
            return lengths[:, None] * self.spectrum.components
        return self._centered_rows(slice(None))

    @cached_property
    def elbo(self) -> LinearElbo:
        """ELBO of a linear VAE of the data as a function of its parameters."""
        if self.moments is None:
            return LinearElbo(centered=self.centered)
        return LinearElbo(self.moments.covariance, factor=lambda: self.factor)

    @cached_property
    def factor(self) -> Array:
        """Vectors with covariance S, no more than features, which resolve its small eigenvalues."""
        n, d = self.n_samples, self.n_features
        if self.X is None or n <= d:
            return self.centered
        R: Any = np.empty((0, d))
        for rows in row_blocks(n, d, at_least=4 * d):
            R = np.linalg.qr(np.vstack([R, self._centered_rows(rows)]), mode="r")
        return R * (d / n) ** 0.5

    def _centered_rows(self, rows: slice) -> Array:
        """Return rows of `centered` of the data."""
        R = self.X[rows].astype(np.float64)
        R -= self.mean
        if self.weights is not None:
            R *= self.weights[rows, None] ** 0.5
        return R

    @cached_property
    def spectrum(self) -> Spectrum:
        """All eigenvalues and eigenvectors of S that n samples can determine."""
        if self.moments is not None:
            return Spectrum.from_moments(self.moments)
        data = centered_data(self.X, self.weights, keep=False, wide=True)
        data.check_finite()
        return spectrum_of_gram(data, None)

    def resolved_spectrum(self, k: int) -> Spectrum:
        """Return the spectrum, with all digits of the eigenvalues after the first k."""
        limit = UNRESOLVED * self.elbo.total_variance
        if self.X is None or self.spectrum.noise_variance(k) > limit:
            return self.spectrum
        return self._spectrum_of_samples

    @cached_property
    def _spectrum_of_samples(self) -> Spectrum:
        """Eigenpairs of S from a singular value decomposition of the samples."""
        return decompose(self.X.astype(np.float64), None, "full", self.weights)

    def count_components(self, n_components: Any) -> int:
        """Return the number k of components that `n_components` specifies."""
        most = min(self.n_samples, self.n_features)
        if is_integer(n_components) and not 1 <= n_components <= most:
            raise ValueError(
                "n_components must be between 1 and min(n_samples, n_features) = "
                f"{most}, got {n_components}."
            )
        if is_integer(n_components):
            return int(n_components)
        check_mle(n_components, self.n, self.n_features)
        return min(count_components(self.spectrum, n_components, self.n), most)
