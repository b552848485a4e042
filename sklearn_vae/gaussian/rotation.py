"""Rotations of factor loadings to a simple structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg

ORTHOGONAL = ("varimax", "quartimax")
OBLIQUE = ("oblimin", "promax")
ROTATIONS = (*ORTHOGONAL, *OBLIQUE)

# Exponent of promax, as in Hendrickson and White and in most programs.
PROMAX_POWER = 4


class Rotation(NamedTuple):
    """Rotated loadings A U of factors f = U^-1 z with z ~ N(0, I)."""

    loadings: np.ndarray  # A U, (d, k)
    factor_correlation: np.ndarray  # covariance of f with unit diagonal, (k, k)


def rotate(loadings: np.ndarray, method: str | None, *, tol: float = 1e-8) -> Rotation:
    """Rotate loadings to a simple structure.

    Parameters
    ----------
    loadings : array of shape (n_features, n_components)
        Loadings A.
    method : {None, "varimax", "quartimax", "oblimin", "promax"}
        Criterion. "varimax" and "quartimax" are orthogonal and do not normalize the loadings of a
        feature, as in scikit-learn. "oblimin" (with gamma = 0, also called quartimin) and "promax"
        give correlated factors. The varimax rotation within promax normalizes the loadings of each
        feature (Kaiser).
    tol : float, default=1e-8
        Tolerance of the iterations.

    Returns
    -------
    Rotation
        Rotated loadings and correlations of the factors.

    References
    ----------
    Kaiser, "The varimax criterion for analytic rotation in factor analysis", Psychometrika 1958.

    Hendrickson and White, "Promax: a quick method for rotation to oblique simple structure",
    British Journal of Statistical Psychology 1964.

    Bernaards and Jennrich, "Gradient projection algorithms and software for arbitrary rotation
    criteria in factor analysis", Educational and Psychological Measurement 2005.
    """
    k = loadings.shape[1]
    if method is None or k < 2:
        return Rotation(loadings, np.eye(k))
    if method in ORTHOGONAL:
        return Rotation(loadings @ _orthogonal(loadings, method, tol), np.eye(k))
    U = _oblimin(loadings, tol) if method == "oblimin" else _promax(loadings, tol)
    inverse = np.linalg.inv(U)
    return Rotation(loadings @ U, inverse @ inverse.T)


def _orthogonal(A: np.ndarray, method: str, tol: float, max_iter: int = 1000) -> np.ndarray:
    """Maximize the variance of the squared loadings, by factor ("varimax") or feature."""
    U = np.eye(A.shape[1])
    criterion = 0.0
    for _ in range(max_iter):
        L = A @ U
        target = L**3
        if method == "varimax":
            target -= L * np.mean(L**2, axis=0)
        left, lengths, right = linalg.svd(A.T @ target, full_matrices=False)
        U = left @ right
        last, criterion = criterion, float(lengths.sum())
        if criterion <= last * (1.0 + tol):
            break
    return U


def _promax(A: np.ndarray, tol: float) -> np.ndarray:
    lengths = np.linalg.norm(A, axis=1, keepdims=True)
    lengths[lengths == 0.0] = 1.0
    U = _orthogonal(A / lengths, "varimax", tol)
    L = A / lengths @ U
    target = L * np.abs(L) ** (PROMAX_POWER - 1)
    # Regress the target on the loadings, and scale the factors to variance 1.
    coefficients = np.linalg.lstsq(L, target, rcond=None)[0]
    variances = np.diagonal(np.linalg.inv(coefficients.T @ coefficients))
    return U @ (coefficients * np.sqrt(variances))


def _oblimin(A: np.ndarray, tol: float) -> np.ndarray:
    """Minimize sum_jl,h<m L_jh^2 L_jm^2 over oblique rotations."""

    def criterion(L: np.ndarray) -> tuple[float, np.ndarray]:
        squares = L**2
        others = squares.sum(axis=1, keepdims=True) - squares
        return 0.25 * float(np.sum(squares * others)), L * others

    scale = np.sqrt(np.mean(A**2)) or 1.0
    T = _project_gradient(A / scale, criterion, tol)
    return np.linalg.inv(T).T


def _project_gradient(
    A: np.ndarray,
    criterion: Callable[[np.ndarray], tuple[float, np.ndarray]],
    tol: float,
    max_iter: int = 2000,
) -> np.ndarray:
    """Minimize a criterion of A T'^-1 over T with columns of length 1 (Bernaards and Jennrich)."""
    T, step = np.eye(A.shape[1]), 1.0
    inverse = np.linalg.inv(T)
    L = A @ inverse.T
    value, slope = criterion(L)
    for _ in range(max_iter):
        G = -(L.T @ slope @ inverse).T
        G -= T * np.sum(T * G, axis=0)
        squared = float(np.sum(G**2))
        if squared**0.5 < tol * max(value, 1.0):
            break
        step *= 2.0
        for _ in range(30):
            candidate = T - step * G
            candidate /= np.linalg.norm(candidate, axis=0)
            inverse = np.linalg.inv(candidate)
            new_value, new_slope = criterion(A @ inverse.T)
            if new_value < value - 0.5 * step * squared:
                break
            step /= 2.0
        else:  # rounding errors leave no step downhill
            return T
        T, L, value, slope = candidate, A @ inverse.T, new_value, new_slope
    return T
