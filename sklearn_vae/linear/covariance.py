"""The covariance of training rows, in the form that their shape makes cheapest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_vae.gaussian.linear_elbo import LinearElbo
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.solvers import (
    SQUARES_HELD,
    centred_rows,
    check_mle,
    check_n_components,
    count_components,
    eps_of,
    moments_of,
    spectrum_of_gram,
)
from sklearn_vae.validation import check_memory, is_integer

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class CovarianceOfRows:
    """Mean and covariance S (divisor n) of a matrix X of shape (n, d).

    S is a matrix where n >= d, else the rows stand for it.

    Raises
    ------
    ValueError
        If the rows are all the same, or their squares are not finite.
    MemoryError
        If (d, d) or (n, n) matrices, whichever are smaller, do not fit.
    """

    X: Array
    mean: Array
    moments: Moments | None

    @classmethod
    def of(cls, X: Array) -> CovarianceOfRows:
        """Of float64 or float32 rows, in float64."""
        n, d = X.shape
        size = min(n, d)
        check_memory(
            SQUARES_HELD * 8 * size**2,
            f"LinearVAE holds {SQUARES_HELD} matrices of shape ({size}, {size})",
            "partial_fit takes rows in batches and holds no such matrix.",
        )
        if n >= d:
            moments = moments_of(X)
            rows = cls(X, moments.mean, moments)
        else:
            rows = cls(X, X.mean(axis=0, dtype=np.float64), None)
        # What rounding alone can leave of rows that are all the same is no variance.
        rounding = 4.0 * float(np.finfo(X.dtype).eps) * float(np.abs(rows.mean).max())
        if not rounding < rows.scale < np.inf:
            raise ValueError(
                "X must have rows that are not all the same, with finite squares, got an average "
                f"variance of {rows.average_variance:.3g} of {d} features."
            )
        return rows

    @property
    def n_samples(self) -> int:
        """Number n of rows."""
        return len(self.X)

    @property
    def n_features(self) -> int:
        """Number d of features."""
        return self.X.shape[1]

    @property
    def average_variance(self) -> float:
        """Trace of S over d."""
        return self.elbo.total_variance / self.n_features

    @property
    def scale(self) -> float:
        """Root of the average variance."""
        return self.average_variance**0.5

    @cached_property
    def centred(self) -> Array:
        """X less its mean, in float64."""
        return self.X.astype(np.float64) - self.mean

    @cached_property
    def elbo(self) -> LinearElbo:
        """The bound of a linear VAE of these rows."""
        if self.moments is None:
            return LinearElbo(rows=self.centred)
        return LinearElbo(self.moments.covariance)

    @cached_property
    def spectrum(self) -> Spectrum:
        """All eigenpairs of S that n rows can have."""
        if self.moments is not None:
            return Spectrum.of_moments(self.moments, eps=eps_of(self.X))
        return spectrum_of_gram(centred_rows(self.X, None, keep=False, wide=True), None)

    def count(self, n_components: Any) -> int:
        """The k that `n_components` means; ValueError if it does not fit the rows."""
        check_n_components(n_components)
        most = min(self.X.shape)
        if is_integer(n_components) and not 1 <= n_components <= most:
            raise ValueError(
                "n_components must be between 1 and min(n_samples, n_features) = "
                f"{most}, got {n_components}."
            )
        if is_integer(n_components):
            return int(n_components)
        check_mle(n_components, self.n_samples, self.n_features)
        return min(count_components(self.spectrum, n_components, self.n_samples), most)
