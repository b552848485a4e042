"""Products of matrices with their own transposes and eigendecompositions, without copies.

For NumPy arrays all of it is done by SciPy's BLAS and LAPACK, which also have routines for half of a
symmetric matrix. NumPy comes with another BLAS. The threads of both wait actively after a call, so
that calls of the two in turn would compete for the cores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_namespace
from scipy import linalg
from scipy.linalg import blas

from sklearn_vae.gaussian.arrays import Array

# Orders up to which and from which NumPy decomposes a matrix. For small ones it starts no threads,
# and its calls are cheaper. For large ones SciPy's integers overflow.
SMALL, LARGE = 128, 30_000

# Rows and columns of the blocks in which a triangle is copied to the other one.
BLOCK = 256


class SymmetricSum:
    """Sum of products R'R, or of R R' with `rows`, in the dtype for sums.

    NumPy arrays are multiplied and added in place, and only half of the sum is computed.
    """

    def __init__(self, order: int, reference: Array, dtype: Any, *, rows: bool = False) -> None:
        self._xp, self._rows = array_namespace(reference), rows
        self._is_half = is_numpy_namespace(self._xp)
        where = {"dtype": dtype, "device": device(reference)}
        # BLAS fills the lower half of its transposed view, the upper half of a C-contiguous array,
        # faster than the other one.
        self._sum = self._xp.zeros((order, order), **where)

    def add(self, R: Array, sign: float = 1.0) -> None:
        """Add R'R, or R R' with `rows`, multiplied by `sign`."""
        if not self._is_half:
            product = R @ R.T if self._rows else R.T @ R
            self._sum += sign * self._xp.astype(product, self._sum.dtype, copy=False)
        elif R.size:
            A, is_transposed = as_fortran(R)
            trans = self._rows == is_transposed
            if R.dtype == self._sum.dtype == np.float64:
                self._sum = blas.dsyrk(
                    sign, A, beta=1.0, c=self._sum.T, trans=trans, lower=True, overwrite_c=True
                ).T
            else:
                syrk = blas.ssyrk if R.dtype == np.float32 else blas.dsyrk
                self._sum += syrk(sign, A, trans=trans, lower=True).T

    def subtract_means(self, offsets: Array) -> None:
        """Subtract 1 a' + a 1' for a vector a."""
        if self._is_half and self._sum.dtype == np.float64:
            ones = np.ones_like(offsets)
            a = self._sum.T
            self._sum = blas.dsyr2(-1.0, ones, offsets, a=a, lower=True, overwrite_a=True).T
        else:
            self._sum -= offsets[:, None] + offsets[None, :]

    def diagonal(self) -> Array:
        """Return a copy of the diagonal."""
        return self._xp.asarray(self._xp.linalg.diagonal(self._sum), copy=True)

    def full(self) -> Array:
        """Return the sum, which the object must not change afterwards."""
        if self._is_half:
            _mirror(self._sum)
        return self._sum


def as_fortran(R: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return R or R' in BLAS's order, whichever needs no copy or the faster one, and if it is R'."""
    if not R.flags.c_contiguous and abs(R.strides[0]) < abs(R.strides[1]):
        return np.asfortranarray(R), False
    return np.ascontiguousarray(R).T, True


def weighted_sums(R: Array, weights: Array | None) -> Array:
    """Compute the sums of the columns of R, with weights if given, in its dtype."""
    xp = array_namespace(R)
    w = xp.ones((R.shape[0],), dtype=R.dtype, device=device(R)) if weights is None else weights
    if not is_numpy_namespace(xp) or R.size == 0 or R.dtype not in (np.float32, np.float64):
        return w @ R
    A, is_transposed = as_fortran(R)
    gemv = blas.sgemv if R.dtype == np.float32 else blas.dgemv
    return gemv(1.0, A, w, trans=not is_transposed)


def rows_times(V: Array, K: Array) -> Array:
    """Compute V K for rows V and a symmetric matrix K."""
    if isinstance(V, np.ndarray) and V.dtype == K.dtype == np.float64 and V.size:
        return blas.dgemm(1.0, K.T, V.T).T
    return V @ K


def eigh(S: Array) -> tuple[Array, Array]:
    """Compute all eigenvalues of a symmetric matrix, descending, and eigenvectors as columns."""
    xp = array_namespace(S)
    if is_numpy_namespace(xp) and SMALL < S.shape[0] < LARGE:
        values, vectors = linalg.eigh(S.T, driver="evd", check_finite=False)
    else:
        values, vectors = xp.linalg.eigh(S)
    return xp.flip(values), xp.flip(vectors, axis=1)


def orthonormal_rows(V: np.ndarray) -> np.ndarray:
    """Return orthonormal rows that span the rows of V one after another."""
    Q: np.ndarray = linalg.qr(V.T, mode="economic", check_finite=False)[0]
    return np.ascontiguousarray(Q.T)


def _mirror(K: np.ndarray) -> None:
    """Copy the upper half of a matrix to the lower one."""
    m = K.shape[0]
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        K[stop:, start:stop] = K[start:stop, stop:].T
        corner = np.triu(K[start:stop, start:stop])
        K[start:stop, start:stop] = corner + np.triu(corner, 1).T
