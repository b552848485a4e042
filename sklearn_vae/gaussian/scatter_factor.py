"""Factors of scatter matrices, which keep the digits of small variances that a scatter loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, is_numpy_namespace

from sklearn_vae.gaussian.arrays import Array, wide_float


@dataclass(frozen=True, eq=False)
class ScatterFactor:
    """Weight and mean of samples, and a matrix `rows` with rows'rows = scatter about the mean.

    A scatter has errors relative to its largest eigenvalue, and `rows` to the square root of that.
    """

    n: float
    mean: Array
    rows: Array

    @classmethod
    def of(cls, X: Array, weights: Array | None, origin: Array) -> ScatterFactor:
        """Compute the factor of samples relative to an origin, which is near their mean."""
        xp = array_namespace(X)
        R = xp.astype(X, wide_float(X)) - origin
        w = xp.ones_like(R[:, 0]) if weights is None else xp.astype(weights, R.dtype)
        n = float(xp.sum(w))
        mean = w @ R / (n or 1.0)
        R = w[:, None] ** 0.5 * (R - mean)
        return cls(n, mean, triangular_factor(R) if R.shape[0] > R.shape[1] else R)

    def about(self, center: Array) -> Array:
        """Return a matrix A such that A'A is the scatter about another center."""
        xp = array_namespace(self.rows)
        return xp.concat([self.rows, self.n**0.5 * (self.mean - center)[None, :]])


def triangular_factor(A: Array) -> Array:
    """Return the triangular factor of a QR decomposition."""
    xp = array_namespace(A)
    if is_numpy_namespace(xp):
        return np.linalg.qr(A, mode="r")
    return xp.linalg.qr(A, mode="reduced")[1]


def mean_of_factors(factors: Sequence[ScatterFactor]) -> Array:
    """Return the mean of the samples of several factors."""
    return sum(factor.n * factor.mean for factor in factors) / sum(factor.n for factor in factors)


def stacked(factors: Sequence[ScatterFactor], center: Array) -> Array:
    """Return a matrix A such that A'A is the scatter of the samples of all factors about a center."""
    return array_namespace(center).concat([factor.about(center) for factor in factors])
