"""Precision of data and of products with them, and the variances that it resolves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, float_type

# Below this the squares of float64 numbers lose their digits: no variance is resolved.
SMALLEST = 2.0**-1000


@dataclass(frozen=True)
class Precision:
    """Relative precision of data X and of products with them."""

    eps: float = 2.0**-52  # of products
    stored: float = 0.0  # of the entries of X
    subtracted: float = 0.0  # |m|^2 of a mean m that is subtracted from products instead of from X

    @classmethod
    def of(cls, X: Any, dtype: Any = None, subtracted: float = 0.0) -> Precision:
        """Precision of X multiplied in `dtype`, by default that in which moments are computed."""
        xp: Any = np if sparse.issparse(X) else array_namespace(X)
        if dtype is None:
            dtype = xp.float64 if sparse.issparse(X) else float_type(X)
        # Integers are exact up to the precision of float64.
        kept = X.dtype if xp.isdtype(X.dtype, "real floating") else xp.float64
        stored = max(float(xp.finfo(kept).eps), 2.0**-52)
        return cls(float(xp.finfo(dtype).eps), stored, subtracted)

    def coarser(self, other: Precision) -> Precision:
        """The coarser one in each respect."""
        return Precision(
            max(self.eps, other.eps),
            max(self.stored, other.stored),
            max(self.subtracted, other.subtracted),
        )

    def eigenvalue_error(self, order: int, largest: float) -> float:
        """Bound of the error of the eigenvalues of a symmetric matrix of shape (order, order)."""
        return max(4.0 * order**0.5 * self.eps * (largest + self.subtracted), SMALLEST)

    def squared_singular_value_error(self, order: int, largest: float) -> float:
        """Bound of the error of squared singular values, which are found to a few eps."""
        return max(16.0 * order * self.eps**2 * (largest + self.subtracted), SMALLEST)

    def rounding(self, mean: Array, variances: Array, n: float) -> Array:
        """Variance that rounding may give each column of n samples, shape (d,).

        An entry is rounded to the coarser of `eps` and `stored` times its size. Along their worst
        direction, n x d independent errors of standard deviation 1 have the largest singular value
        sqrt(n) + sqrt(d).
        """
        spread = max(self.eps, self.stored) * (1.0 + (mean.shape[0] / n) ** 0.5)
        xp = array_namespace(mean)
        with np.errstate(over="ignore"):
            rounding = (spread * mean) ** 2 + spread**2 * variances
        # Finite, so that it is nothing along a direction without this column.
        return xp.clip(rounding, None, float(xp.finfo(rounding.dtype).max) / (4 * mean.shape[0]))


def rounded_along(components: Array, columns: Array) -> Array:
    """Variance along each component, of independent errors of given variance in each column."""
    xp = array_namespace(components)
    return xp.astype(components, columns.dtype) ** 2 @ columns
