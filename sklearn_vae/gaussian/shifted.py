"""Products of rows less a mean, without a centred copy where that costs no digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, common_float_type, row_blocks

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class ShiftedRows:
    """Rows x - mean of which a product is made without a centred copy, where that costs no digits.

    Parameters
    ----------
    parts : list of pairs of a matrix and a selection of columns
        Which, side by side in some order, are the rows less the mean of some columns.
    mean : array of shape (d,)
        What is left to subtract; 0 for those columns.
    """

    parts: list[tuple[Any, Any]]
    mean: Array

    @classmethod
    def of(cls, X: Any, mean: Array, limit: float) -> ShiftedRows:
        """From rows of the mean's dtype. Means whose squares sum up to `limit` may be left."""
        xp = array_namespace(mean)
        if _is_within(mean, limit):
            return cls([(X, ALL)], mean)
        if not sparse.issparse(X):
            return cls([(X - mean, ALL)], xp.zeros_like(mean))
        far = abs(mean) > (limit / mean.shape[0]) ** 0.5
        shifted = X[:, far].toarray() - mean[far]
        return cls([(X[:, ~far], ~far), (shifted, far)], np.where(far, 0.0, mean))

    def times(self, A: Array) -> Array:
        """Product with A of shape (d, s), before what is left of the mean is subtracted."""
        return sum(_product(part, A[columns, :]) for part, columns in self.parts)

    def squares(self) -> Array:
        """Squared length of each row, before what is left of the mean is subtracted."""
        return sum(_row_squares(part) for part, _ in self.parts)


def shifted_blocks(X: Any, mean: Array, limit: float) -> Iterator[tuple[slice, ShiftedRows]]:
    """Consecutive rows of X, each block as `ShiftedRows` in the mean's dtype."""
    n, d = X.shape
    xp = array_namespace(mean)
    if sparse.issparse(X):
        X = sparse.csr_array(X)
        width = X.nnz // max(n, 1) + np.count_nonzero(abs(mean) > (limit / max(d, 1)) ** 0.5)
        for rows in row_blocks(n, width):
            yield rows, ShiftedRows.of(X[rows].astype(mean.dtype, copy=False), mean, limit)
    else:
        for rows in row_blocks(n, d):
            block = xp.astype(X[rows, :], mean.dtype, copy=False)
            yield rows, ShiftedRows.of(block, mean, limit)


def project(X: Any, mean: Array, A: Array, limit: float) -> Array:
    """(X - mean) A, of shape (n, k), in the wider of the two precisions.

    Where |mean|^2 <= `limit` the mean is subtracted after the product, which needs no copy of X;
    otherwise before it, where an offset cancels.
    """
    xp = array_namespace(mean, A)
    dtype = common_float_type(X, mean)
    mean, A = xp.astype(mean, dtype, copy=False), xp.astype(A, dtype, copy=False)
    if X.dtype == dtype and _is_within(mean, limit):
        Z = X @ A
        Z -= mean @ A
        return Z
    Z = xp.empty((X.shape[0], A.shape[1]), dtype=dtype, device=device(A))
    for rows, block in shifted_blocks(X, mean, limit):
        Z[rows, :] = block.times(A) - block.mean @ A
    return Z


def dense(X: Any) -> Array:
    """A sparse matrix as an array; an array as it is."""
    return X.toarray() if sparse.issparse(X) else X


def _is_within(mean: Array, limit: float) -> bool:
    """Whether |mean|^2 <= limit, of which the squares may be beyond the mean's precision."""
    xp = array_namespace(mean)
    radius = limit**0.5
    if not 0.0 < radius < math.inf:
        return not xp.any(abs(mean) > radius)
    return bool(xp.all(abs(mean) <= radius)) and float(xp.linalg.vector_norm(mean / radius)) <= 1.0


def _product(X: Any, A: Array) -> Array:
    # Few columns of many terms: in float64 BLAS is a fifth faster where they are rows.
    if not sparse.issparse(X) and X.shape[1] >= 512 and X.dtype == array_namespace(X).float64:
        return (A.T @ X.T).T
    return X @ A


def _row_squares(X: Any) -> Array:
    if sparse.issparse(X):
        return X.multiply(X).sum(axis=1)
    return array_namespace(X).vecdot(X, X)
