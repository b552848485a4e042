"""Eigenvalues of covariances whose features have very different variances."""

from __future__ import annotations

from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.symmetric import eigh

# Ratio of variances in float64 and float32 below which the smaller eigenvalues are computed again.
GRADED, GRADED_FLOAT32 = 1e-6, 1e-3

# Ratio of an eigenvalue to its errors, divided by the machine epsilon, that loses four digits.
LOST = 1e-4


def eigh_of_covariance(S: Array) -> tuple[Array, Array]:
    """Return the eigenvalues of a covariance in descending order, and its eigenvectors as columns.

    An eigendecomposition has errors relative to the largest eigenvalue. If the features have very
    different variances, the eigenvalues are the squared singular values of D^1/2 P T^1/2, where D
    holds the variances and P T P' is the correlation matrix. This factor has errors relative to the
    variance of each feature, which makes the small eigenvalues much more accurate (Demmel and
    Veselic, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 1992, theorem
    2.3).
    """
    xp = array_namespace(S)
    values, vectors = eigh(S)
    variances = xp.linalg.diagonal(S)
    limit = GRADED if xp.finfo(S.dtype).eps < 1e-10 else GRADED_FLOAT32
    if not (float(values[-1]) < limit * float(values[0]) and _is_graded(variances, limit)):
        return values, vectors
    scale = xp.clip(variances, 0.0, None) ** 0.5
    inverse = xp.where(scale > 0.0, 1.0 / xp.where(scale > 0.0, scale, scale + 1.0), scale)
    correlations, P = xp.linalg.eigh(inverse[:, None] * S * inverse[None, :])
    factor = scale[:, None] * P * xp.clip(correlations, 0.0, None) ** 0.5
    vectors, roots, _ = xp.linalg.svd(factor, full_matrices=False)
    return roots**2, vectors


def loses_digits(eigenvalues: Array, sizes: Array | float, resolved: Array) -> bool:
    """Return whether some resolved eigenvalue has lost more than four digits.

    The errors of the eigenvalues are rounding errors relative to `sizes`.
    """
    xp = array_namespace(eigenvalues)
    return bool(xp.any(resolved & (eigenvalues < LOST * sizes)))


def _is_graded(variances: Array, limit: float) -> bool:
    """Return whether the ratio of the smallest positive variance to the largest is below a limit."""
    xp = array_namespace(variances)
    largest = xp.max(variances)
    smallest = xp.min(xp.where(variances > 0.0, variances, largest))
    return float(smallest) < limit * float(largest)
