"""Leading eigenpairs of a symmetric operator by ARPACK, whose failures are None."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

# Product of a symmetric matrix with a vector.
VectorOperator: TypeAlias = Callable[[np.ndarray], np.ndarray]

# Before SciPy 1.17 ARPACK has its own random numbers.
_HAS_RNG = "rng" in inspect.signature(eigsh).parameters


def arpack_eigenpairs(
    apply: VectorOperator,
    start: np.ndarray,
    k: int,
    *,
    tol: float,
    max_restarts: int | None = None,
    n_attempts: int = 1,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Compute k eigenvalues of a symmetric matrix, descending, and eigenvectors as rows.

    `start` (N,) is the first vector of the Krylov space. The iteration stops when the residuals are
    at most `tol` times each eigenvalue; 0 means the machine precision. ARPACK may fail to converge
    or to find shifts ("No shifts could be applied"), and more so in a small space: each further
    attempt doubles the space and starts from a random vector. Returns None if all attempts fail or
    k = N.
    """
    size, rng = len(start), np.random.default_rng(0)
    if k >= size:
        return None
    operator = LinearOperator((size, size), matvec=apply, dtype=start.dtype)
    options = {"rng": rng} if _HAS_RNG else {}
    n_vectors = min(2 * k + 20, size)
    for attempt in range(n_attempts):
        if attempt > 0:
            n_vectors = min(2 * n_vectors, size)
            start = rng.uniform(-1.0, 1.0, size).astype(start.dtype)
        try:
            values, vectors = eigsh(
                operator, k=k, which="LA", v0=start, ncv=n_vectors, maxiter=max_restarts, tol=tol,
                **options,
            )  # fmt: skip
        except ArpackError:  # includes ArpackNoConvergence
            continue
        order = np.argsort(-values, kind="stable")
        return values[order], np.ascontiguousarray(vectors.T[order])
    return None
