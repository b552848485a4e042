"""Moments of the rows that a model has seen, and what else it has to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import float_type, stored_eps
from sklearn_vae.gaussian.eigensolvers import (
    eps_of,
)
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class SeenRows:
    """What a model in closed form needs of rows; `a + b` is that of both sets of rows.

    Parameters
    ----------
    moments : Moments
    dtype : dtype
        In which a model of them is kept.
    eps, stored : float
        The coarsest relative precisions in which they were multiplied, and stored.
    n_rows : float
        How many of them have a positive weight.
    """

    moments: Moments
    dtype: Any
    eps: float
    stored: float
    n_rows: float

    @classmethod
    def of(cls, X: Any, moments: Moments, n_rows: float) -> SeenRows:
        """Of checked rows X, whose moments are known."""
        return cls(moments, dtype_of(X), eps_of(X), stored_eps(X), float(n_rows))

    def __add__(self, other: SeenRows) -> SeenRows:
        return SeenRows(
            self.moments + other.moments,
            array_namespace(self.moments.mean).result_type(self.dtype, other.dtype),
            max(self.eps, other.eps),
            max(self.stored, other.stored),
            self.n_rows + other.n_rows,
        )

    def spectrum(self) -> Spectrum:
        """All d eigenpairs of their covariance."""
        return Spectrum.of_moments(
            self.moments, eps=self.eps, stored=self.stored, n_rows=self.n_rows
        )


def dtype_of(X: Any) -> Any:
    """In which X is computed with, and its model kept."""
    return X.dtype if sparse.issparse(X) else float_type(X)
