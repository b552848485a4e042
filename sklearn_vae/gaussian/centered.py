"""Centered data matrices as linear operators: in memory, on disk or sparse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from scipy import sparse

from sklearn_vae.gaussian.arrays import (
    Array,
    common_float_type,
    float_type,
    row_blocks,
    scale_of,
    two_sum,
    wide_float,
)
from sklearn_vae.gaussian.precision import Precision
from sklearn_vae.gaussian.symmetric import SymmetricSum, weighted_sums

ALL = slice(None)


def is_mean_near(squares: Array, variances: Array, dtype: Any) -> bool:
    """Return whether second moments about 0 instead of the mean lose at most one digit.

    Products lose digits by the ratio of the squared mean to the variance of each feature, and
    eigenvalues by that of the squared length of the mean to the largest variance.
    """
    xp = array_namespace(squares)
    limit = 10.0 if dtype == xp.float64 else 1.0
    if not bool(xp.all(squares <= limit * variances)):
        return False
    return squares.shape[0] == 0 or bool(xp.sum(squares) <= limit * xp.max(variances))


class CenteredData(ABC):
    """Centered, weighted data R = diag(w)^1/2 (X - 1 mean'); the covariance of X is R'R / n."""

    shape: tuple[int, int]
    n: float  # sum of the weights, scaled by a power of 2; without weights the number of samples
    mean: Array  # weighted mean of X, in the dtype for sums
    squares: float  # squared Frobenius norm of R: n times the trace of the covariance
    variances: Array  # variance of each feature, in the dtype for sums
    precision: Precision
    dtype: Any  # dtype of products

    @abstractmethod
    def times(self, Q: Array) -> Array:
        """Compute R Q."""

    @abstractmethod
    def transposed_times(self, Y: Array) -> Array:
        """Compute R'Y."""

    def scatter_times(self, Q: Array) -> Array:
        """Compute R'R Q."""
        return self.transposed_times(self.times(Q))

    @abstractmethod
    def gram(self) -> Array:
        """Compute R R' in the dtype for sums."""

    @property
    def gram_precision(self) -> Precision:
        """Precision of `gram`."""
        return self.precision

    @abstractmethod
    def blocks(self) -> Iterator[Array]:
        """Yield consecutive rows of R as dense arrays."""

    @property
    @abstractmethod
    def remainder(self) -> Array:
        """Exact mean minus its rounding `mean`."""

    @property
    def is_finite(self) -> bool:
        """Whether the squares of the centered data have a finite sum."""
        return math.isfinite(self.squares)

    def check_finite(self) -> None:
        """Raise ValueError unless `is_finite`."""
        if not self.is_finite:
            raise ValueError(
                "X must be finite with finite squares, but the squares of the centered data are "
                f"NaN or overflow {self.dtype}."
            )

    def rounding(self) -> Array:
        """Return the variance that rounding may cause in each feature, shape (d,)."""
        return self.precision.rounding(self.mean, self.variances, self.shape[0])

    def residual_squares(self, V: Array) -> Array:
        """Compute the squared lengths of the columns of R - R V'V, shape (d,)."""
        xp = array_namespace(V)
        squares = xp.zeros((self.shape[1],), dtype=wide_float(V), device=device(V))
        for R in self.blocks():
            squares += xp.sum((R - (R @ V.T) @ V) ** 2, axis=0, dtype=squares.dtype)
        return squares


class DenseCentered(CenteredData):
    """Centered dense data: a centered copy `matrix` or, with `keep=False`, blocks on demand.

    The mean is subtracted twice, since the rounding error of a mean far from zero would otherwise
    stay in every sample and appear as a direction of variance.
    """

    def __init__(
        self, X: Array, weights: Array | None = None, *, keep: bool = True, dtype: Any = None
    ) -> None:
        xp = array_namespace(X)
        self.shape = X.shape
        self.matrix: Array | None = None
        self._X = X
        self.dtype, self._wide = dtype or float_type(X), wide_float(X)
        self.precision = Precision.of(X, self.dtype)
        self._weights = weights if weights is None else weights / scale_of(weights)
        self.n = float(X.shape[0] if weights is None else xp.sum(self._weights))
        self._high = self._low = xp.zeros((X.shape[1],), dtype=self.dtype, device=device(X))
        with np.errstate(invalid="ignore", over="ignore"):
            means, squares = (None, None) if keep else self._near_moments()
            self._is_near = means is not None
            means = self._column_means() if means is None else means
            self._high = xp.astype(means, self.dtype)
            rest = means - xp.astype(self._high, self._wide) if self._is_near else None
            self._rest = self._column_means() if rest is None else rest
            self._low = xp.astype(self._rest, self.dtype, copy=False)
            matrix = xp.empty(X.shape, dtype=self.dtype, device=device(X)) if keep else None
            squares = self._column_squares(matrix) if squares is None else squares
            self.squares = float(xp.sum(squares))
            # The subtracted mean plus its rounding error.
            self.mean = xp.astype(self._high, self._wide) + self._rest
            self.variances = squares / self.n
        self.matrix = matrix

    @property
    def remainder(self) -> Array:
        return two_sum(array_namespace(self.mean).astype(self._high, self._wide), self._rest)[1]

    def _slices(self) -> Iterator[slice]:
        return row_blocks(*self.shape) if self.matrix is None else iter([ALL])

    def _block(self, rows: slice, columns: slice = ALL) -> Array:
        if self.matrix is not None:
            return self.matrix[rows, columns]
        xp = array_namespace(self._X)
        R = xp.astype(self._X[rows, columns], self.dtype, copy=False) - self._high[columns]
        R -= self._low[columns]
        if self._weights is not None:
            R *= xp.astype(self._weights[rows] ** 0.5, self.dtype)[:, None]
        return R

    def _near_moments(self) -> tuple[Array, Array] | tuple[None, None]:
        """Compute means and squared lengths of the columns of R in one pass.

        Returns None for both where a mean is so large that they would lose more than a digit.
        """
        xp = array_namespace(self._X)
        total = xp.zeros((self.shape[1],), dtype=self._wide, device=device(self._X))
        squares = xp.zeros_like(total)
        for rows in self._slices():
            block = xp.astype(self._X[rows, :], self.dtype, copy=False)
            w = None if self._weights is None else xp.astype(self._weights[rows], self.dtype)
            total += xp.astype(weighted_sums(block, w), self._wide)
            squares += xp.astype(weighted_sums(block * block, w), self._wide)
        mean = total / self.n
        squares = squares - self.n * mean**2
        is_near = is_mean_near(mean**2, squares / self.n, self.dtype)
        return (mean, squares) if is_near else (None, None)

    def _column_means(self) -> Array:
        """Compute the weighted means of X - `_high`, in the dtype for sums."""
        xp = array_namespace(self._X)
        total = xp.zeros((self.shape[1],), dtype=self._wide, device=device(self._X))
        for rows in self._slices():
            block = xp.astype(self._X[rows, :], self.dtype, copy=False) - self._high
            if self._weights is None:
                total += xp.sum(block, axis=0, dtype=self._wide)
            else:
                w = xp.astype(self._weights[rows], self.dtype)
                total += xp.astype(w @ block, self._wide)
        return total / self.n

    def _column_squares(self, matrix: Array | None) -> Array:
        """Compute the squared length of each column of R, and write R into `matrix`."""
        xp = array_namespace(self._X)
        total = xp.zeros((self.shape[1],), dtype=self._wide, device=device(self._X))
        for rows in self._slices():
            R = self._block(rows)
            total += xp.sum(R * R, axis=0, dtype=self._wide)
            if matrix is not None:
                matrix[rows, :] = R
        return total

    def blocks(self) -> Iterator[Array]:
        return (self._block(rows) for rows in self._slices())

    def times(self, Q: Array) -> Array:
        return array_namespace(Q).concat([R @ Q for R in self.blocks()])

    def transposed_times(self, Y: Array) -> Array:
        return sum(self._block(rows).T @ Y[rows, :] for rows in self._slices())

    def scatter_times(self, Q: Array) -> Array:
        # A file is read once, and a block is freed before the next one is read.
        def of_block(R: Array) -> Array:
            return R.T @ (R @ Q)

        return sum(of_block(self._block(rows)) for rows in self._slices())

    def gram(self) -> Array:
        n, d = self.shape
        K = SymmetricSum(n, self._X, self._wide, rows=True)
        if self._has_simple_gram:
            K.add(self._X)
            length = self._high @ self._high
            K.subtract_means(self._X @ self._high - 0.5 * length)
            return K.full()
        for columns in row_blocks(d, n, at_least=256):
            K.add(self._block(ALL, columns))
        return K.full()

    @property
    def gram_precision(self) -> Precision:
        if not self._has_simple_gram:
            return self.precision
        return replace(self.precision, subtracted=float(self._high @ self._high))

    @property
    def _has_simple_gram(self) -> bool:
        """Whether the mean can be subtracted from X X', which needs no copy of X."""
        X = self._X
        # BLAS copies others, for example every second column of a file.
        is_contiguous = not isinstance(X, np.ndarray) or X.flags.forc
        is_plain = self._weights is None and X.dtype == self.dtype == self._wide
        return self._is_near and is_plain and is_contiguous


class SparseCentered(CenteredData):
    """Centered sparse data, whose mean is subtracted from products.

    This loses no digits if the mean of a column is not large relative to its spread, which holds
    whenever more than an eleventh of its entries are zero. The other ("far") columns are nearly
    full and are centered in a dense array of at most 1.1 times their stored entries. Products are
    in float64 for every dtype of X: indexing dominates their cost.
    """

    @np.errstate(over="ignore", invalid="ignore")
    def __init__(self, X: Any, weights: Array | None = None) -> None:
        original = X
        X = canonical(X).astype(np.float64, copy=False)
        self.shape, self.dtype = X.shape, X.dtype
        w = np.ones(X.shape[0]) if weights is None else weights / scale_of(weights)
        self.n = float(w.sum())
        root = w**0.5
        mean, squares = _column_moments(X, w)
        is_far = mean**2 > 10.0 * squares / self.n
        self._far_columns = np.flatnonzero(is_far)
        far = X[:, is_far].toarray() - mean[is_far]
        rest = w @ far / self.n
        far = root[:, None] * (far - rest)
        self._remainder = np.zeros_like(mean)
        mean[is_far], self._remainder[is_far] = two_sum(mean[is_far], rest)
        squares[is_far] = np.sum(far**2, axis=0)
        self.squares = float(squares.sum())
        # R = near - root near_mean' outside the far columns, which are zero in `near`.
        data = X.data if weights is None else X.data * np.repeat(root, np.diff(X.indptr))
        self._near = sparse.csr_array((data, X.indices, X.indptr), shape=X.shape)
        if far.size:
            self._near = self._near @ sparse.diags_array(np.where(is_far, 0.0, 1.0))
        self._near_T = self._near.T
        self._near_mean = np.where(is_far, 0.0, mean)
        self.mean, self._root, self._far = mean, root, far
        self._subtracted = float(self._near_mean @ self._near_mean)
        self.precision = Precision.of(original, self.dtype, self._subtracted)
        self.variances = squares / self.n

    @property
    def remainder(self) -> Array:
        return self._remainder

    def times(self, Q: Array) -> Array:
        Y = self._near @ Q - self._root[:, None] * (self._near_mean @ Q)
        return Y + self._far @ Q[self._far_columns] if self._far.size else Y

    def transposed_times(self, Y: Array) -> Array:
        Q = self._near_T @ Y - self._near_mean[:, None] * (self._root @ Y)
        Q[self._far_columns] = self._far.T @ Y
        return Q

    @property
    def _is_full(self) -> bool:
        """Whether products of dense blocks are faster than sparse products."""
        return self._near.nnz > 0.1 * self.shape[0] * self.shape[1]

    def gram(self) -> Array:
        if self._is_full:
            K = np.zeros((self.shape[0], self.shape[0]))
            by_columns = self._near.tocsc()
            for columns in row_blocks(*self.shape[::-1], at_least=256):
                R = by_columns[:, columns].toarray()
                R -= np.outer(self._root, self._near_mean[columns])
                K += R @ R.T
        else:
            K = (self._near @ self._near_T).toarray()
            shared = np.outer(self._near @ self._near_mean, self._root)
            K -= shared + shared.T
            K += self._subtracted * np.outer(self._root, self._root)
        return K + self._far @ self._far.T

    def scatter(self) -> Array:
        """Compute R'R."""
        if self._is_full:
            return sum(R.T @ R for R in self.blocks())
        S = (self._near_T @ self._near).toarray()
        S -= self.n * np.outer(self._near_mean, self._near_mean)
        if self._far.size:
            mixed = self.transposed_times(self._far)
            S[self._far_columns, :] = mixed.T
            S[:, self._far_columns] = mixed
        return S

    def blocks(self) -> Iterator[Array]:
        for rows in row_blocks(*self.shape, at_least=1):
            R = self._near[rows].toarray() - self._root[rows, None] * self._near_mean
            R[:, self._far_columns] = self._far[rows]
            yield R


def centered_data(
    X: Any, weights: Array | None, *, keep: bool = True, wide: bool = False
) -> CenteredData:
    """Center an array or sparse matrix; with `wide`, compute in the dtype for sums."""
    if sparse.issparse(X):
        return SparseCentered(X, weights)
    return DenseCentered(X, weights, keep=keep, dtype=wide_float(X) if wide else None)


def canonical(X: Any) -> sparse.csr_array:
    """Convert X to a CSR array without duplicate entries, sharing memory if possible."""
    X = sparse.csr_array(X)
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def _column_moments(X: sparse.csr_array, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the weighted mean of each column and the sum of weighted squares about it."""
    n, d = X.shape
    stored = np.repeat(w, np.diff(X.indptr))
    mean = np.bincount(X.indices, stored * X.data, minlength=d) / w.sum()
    # Exactly 0 for full columns, for which the difference of sums may leave a rounding error.
    full = np.bincount(X.indices, minlength=d) == n
    absent = np.where(full, 0.0, w.sum() - np.bincount(X.indices, stored, minlength=d))
    squares = np.bincount(X.indices, stored * (X.data - mean[X.indices]) ** 2, minlength=d)
    return mean, squares + np.maximum(absent, 0.0) * mean**2


@dataclass(frozen=True, eq=False)
class CenteredBlock:
    """Block of X - mean, copied only where subtracting the mean after a product loses digits.

    `parts` are pairs of a matrix and its columns. Some columns are already centered, and `mean` is
    0 there; for the others `mean` is to be subtracted from products.
    """

    parts: list[tuple[Any, Any]]
    mean: Array

    @classmethod
    def of(cls, X: Any, mean: Array, limit: float, remainder: Array | None = None) -> CenteredBlock:
        """Center the columns of X in which the mean is too large to be subtracted afterwards.

        `remainder` is the rounding error of the mean, if it is not zero.
        """
        xp = array_namespace(mean)
        if _is_within(mean, limit):
            return cls([(X, ALL)], mean)
        if not sparse.issparse(X):
            return cls([(subtract_mean(X, mean, remainder), ALL)], xp.zeros_like(mean))
        far = abs(mean) > (limit / mean.shape[0]) ** 0.5
        low = None if remainder is None else remainder[far]
        shifted = subtract_mean(X[:, far].toarray(), mean[far], low)
        return cls([(X[:, ~far], ~far), (shifted, far)], np.where(far, 0.0, mean))

    def times(self, A: Array) -> Array:
        """Multiply by A without subtracting `mean`."""
        return sum(_product(part, A[columns, :]) for part, columns in self.parts)

    def squares(self) -> Array:
        """Compute the squared length of each row without subtracting `mean`."""
        return sum(
            part.multiply(part).sum(axis=1)
            if sparse.issparse(part)
            else array_namespace(part).vecdot(part, part)
            for part, _ in self.parts
        )


def subtract_mean(X: Array, mean: Array, remainder: Array | None) -> Array:
    """Return X - mean - remainder."""
    R = X - mean
    if remainder is not None:
        R -= remainder
    return R


def centered_blocks(
    X: Any, mean: Array, limit: float, remainder: Array | None = None
) -> Iterator[tuple[slice, CenteredBlock]]:
    """Yield consecutive samples as `CenteredBlock` objects in the dtype of the mean."""
    n, d = X.shape
    xp = array_namespace(mean)
    if sparse.issparse(X):
        X = sparse.csr_array(X)
        width = X.nnz // max(n, 1) + np.count_nonzero(abs(mean) > (limit / max(d, 1)) ** 0.5)
        for rows in row_blocks(n, width):
            block = X[rows].astype(mean.dtype, copy=False)
            yield rows, CenteredBlock.of(block, mean, limit, remainder)
    else:
        for rows in row_blocks(n, d):
            block = xp.astype(X[rows, :], mean.dtype, copy=False)
            yield rows, CenteredBlock.of(block, mean, limit, remainder)


def project(X: Any, mean: Array, A: Array, limit: float) -> Array:
    """Compute (X - mean) A in the wider of the two precisions.

    If |mean|^2 <= `limit`, the mean is subtracted after the product, which needs no copy of X.
    """
    xp = array_namespace(mean, A)
    dtype = common_float_type(X, mean)
    mean, A = xp.astype(mean, dtype, copy=False), xp.astype(A, dtype, copy=False)
    if X.dtype == dtype and _is_within(mean, limit):
        Z = X @ A
        Z -= mean @ A
        return Z
    Z = xp.empty((X.shape[0], A.shape[1]), dtype=dtype, device=device(A))
    for rows, block in centered_blocks(X, mean, limit):
        Z[rows, :] = block.times(A) - block.mean @ A
    return Z


def dense(X: Any) -> Array:
    """Convert a sparse matrix to an array; return an array unchanged."""
    return X.toarray() if sparse.issparse(X) else X


def _is_within(mean: Array, limit: float) -> bool:
    """Return whether |mean|^2 <= limit, also if the squares overflow the dtype of the mean."""
    xp = array_namespace(mean)
    radius = limit**0.5
    if not 0.0 < radius < math.inf:
        return not xp.any(abs(mean) > radius)
    return bool(xp.all(abs(mean) <= radius)) and float(xp.linalg.vector_norm(mean / radius)) <= 1.0


def _product(X: Any, A: Array) -> Array:
    # For few long columns float64 BLAS is a fifth faster on the transposed product.
    if not sparse.issparse(X) and X.shape[1] >= 512 and X.dtype == array_namespace(X).float64:
        return (A.T @ X.T).T
    return X @ A
