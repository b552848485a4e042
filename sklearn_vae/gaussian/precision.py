"""Precision of data and of products with them, and the rounding errors that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, float_type

# Below this value squares of float64 numbers lose digits, and no variance is resolved.
SMALLEST = 2.0**-1000


@dataclass(frozen=True)
class Precision:
    """Relative precision of data X and of products with them."""

    eps: float = 2.0**-52  # precision of products
    stored: float = 0.0  # precision of the entries of X
    subtracted: float = 0.0  # |m|^2 of a mean m that is subtracted from products, not from X

    @classmethod
    def of(cls, X: Any, dtype: Any = None, subtracted: float = 0.0) -> Precision:
        """Return the precision of X multiplied in `dtype`, by default the dtype of `Moments.of`."""
        xp: Any = np if sparse.issparse(X) else array_namespace(X)
        if dtype is None:
            dtype = xp.float64 if sparse.issparse(X) else float_type(X)
        # Integers are exact up to the precision of float64.
        kept = X.dtype if xp.isdtype(X.dtype, "real floating") else xp.float64
        stored = max(float(xp.finfo(kept).eps), 2.0**-52)
        return cls(float(xp.finfo(dtype).eps), stored, subtracted)

    def coarser(self, other: Precision) -> Precision:
        """Combine two precisions by taking the coarser value of each field."""
        return Precision(
            max(self.eps, other.eps),
            max(self.stored, other.stored),
            max(self.subtracted, other.subtracted),
        )

    def eigenvalue_error(self, order: int, largest: float) -> float:
        """Bound the error of the eigenvalues of a symmetric matrix of shape (order, order)."""
        return max(4.0 * order**0.5 * self.eps * (largest + self.subtracted), SMALLEST)

    def squared_singular_value_error(self, order: int, largest: float) -> float:
        """Bound the error of squared singular values."""
        return max(16.0 * order * self.eps**2 * (largest + self.subtracted), SMALLEST)

    def product_error(self, n_terms: float, largest: float, total: float, order: int) -> float:
        """Bound the error of the eigenvalues of a computed covariance of trace `total`.

        Each entry of the covariance is a sum of `n_terms` products. With independent errors, the
        error of a sum grows like its square root (Higham and Mary, "A new approach to probabilistic
        rounding error analysis", SIAM Journal on Scientific Computing 2019). Errors of unequal
        entries add like those of a random matrix, and those of equal ones like the entries
        themselves: both are below the geometric mean of the largest eigenvalue and the trace. The
        eigensolver, in the precision for sums, adds its own error.
        """
        largest = max(largest, 0.0) + self.subtracted
        total = max(total + self.subtracted, largest)
        products = 2.0 * (8.0 + n_terms**0.5) * self.eps * total**0.5 * largest**0.5
        return products + max(4.0 * order**0.5 * 2.0**-52 * largest, SMALLEST)

    def singular_value_error(self, shape: tuple[int, int], largest: float, total: float) -> float:
        """Bound the error of singular values divided by sqrt(n), from variances.

        Centering rounds every entry, and the decomposition adds a multiple of the largest one.
        """
        largest = max(largest, 0.0) + self.subtracted
        total = max(total + self.subtracted, largest)
        return self.eps * (total**0.5 + 8.0 * max(shape) ** 0.5 * largest**0.5) + SMALLEST**0.5

    def rounding(self, mean: Array, variances: Array, n: float) -> Array:
        """Return the variance that rounding may cause in each feature of n samples, shape (d,).

        An entry is rounded by the coarser of `eps` and `stored` relative to its size. A matrix of
        n x d independent errors of standard deviation 1 has largest singular value about
        sqrt(n) + sqrt(d).
        """
        error = max(self.eps, self.stored) * (1.0 + (mean.shape[0] / n) ** 0.5)
        xp = array_namespace(mean)
        with np.errstate(over="ignore"):
            rounding = (error * mean) ** 2 + error**2 * variances
        # Finite, so that 0 times it is 0 along a direction without this feature.
        return xp.clip(rounding, None, float(xp.finfo(rounding.dtype).max) / (4 * mean.shape[0]))


def rounded_along(components: Array, columns: Array) -> Array:
    """Compute the variance along each component of independent errors in each feature."""
    xp = array_namespace(components)
    return xp.astype(components, columns.dtype) ** 2 @ columns
