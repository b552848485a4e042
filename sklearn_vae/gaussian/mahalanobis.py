"""Mahalanobis distance of a linear Gaussian model, in and off the span of its loadings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import row_blocks


class Distances(NamedTuple):
    """Two parts of the squared Mahalanobis distance of each sample.

    In a linear Gaussian model they are independent and have chi-squared distributions.
    """

    t2: np.ndarray  # Hotelling's T2, in the span of the loadings, (n_samples,)
    spe: np.ndarray  # squared prediction error in units of the noise, (n_samples,)
    t2_dof: np.ndarray  # degrees of freedom of t2, its expectation under the model, (n_samples,)
    spe_dof: np.ndarray  # degrees of freedom of spe, (n_samples,)


class Basis(NamedTuple):
    """Orthonormal basis U of the span of Psi^-1/2 W, and the variances along it."""

    directions: np.ndarray  # (n_observed, rank)
    variances: np.ndarray  # (rank,)
    scale: np.ndarray  # standard deviations of the noise, (n_observed,)


def distances(
    X: np.ndarray, mean: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> Distances:
    """Compute the two parts of (x - mean)' C^-1 (x - mean) with C = W W' + diag(noise_variance).

    With xs = (x - mean) / sqrt(noise_variance), and U, kappa the span and variances of the scaled
    loadings, t2 is sum_h (u_h' xs)^2 / kappa_h and spe is |xs - U U' xs|^2. NaN marks missing
    values, which are left out together with their rows of W.
    """
    n = len(X)
    t2, spe, t2_dof, spe_dof = np.zeros((4, n))
    for rows, observed, basis in _patterns(X, loadings, noise_variance):
        y, residual = _project(X[np.ix_(rows, observed)], mean[observed], basis)
        t2[rows] = np.sum(y**2 / basis.variances, axis=1)
        spe[rows] = np.sum(residual**2, axis=1)
        t2_dof[rows] = len(basis.variances)
        spe_dof[rows] = len(basis.scale) - len(basis.variances)
    return Distances(t2, spe, t2_dof, spe_dof)


def contributions(
    X: np.ndarray, mean: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split both parts of the distance among the features; missing values contribute 0.

    Each part is a quadratic form r'A r of r = x - mean, and r_j (A r)_j is the share of feature j.
    The sum over both parts is r_j (C^-1 r)_j = r_j (x_j - E[x_j|x_-j]) / Var[x_j|x_-j], where x_-j
    are the other observed features.
    """
    t2, spe = np.zeros(X.shape), np.zeros(X.shape)
    for rows, observed, basis in _patterns(X, loadings, noise_variance):
        cells = np.ix_(rows, observed)
        centered = (X[cells] - mean[observed]) / basis.scale
        y, residual = _project(X[cells], mean[observed], basis)
        t2[cells] = centered * ((y / basis.variances) @ basis.directions.T)
        spe[cells] = centered * residual
    return t2, spe


def _project(X: np.ndarray, mean: np.ndarray, basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of the scaled samples along the basis, and what is orthogonal to it."""
    centered = (X - mean) / basis.scale
    y = centered @ basis.directions
    if basis.directions.shape[0] == basis.directions.shape[1]:
        return y, np.zeros_like(centered)
    residual = centered - y @ basis.directions.T
    # A second projection, because the first leaves rounding errors of the size of y.
    return y, residual - (residual @ basis.directions) @ basis.directions.T


def _patterns(
    X: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, Basis]]:
    """Yield rows of X with the same observed features, these features, and their basis."""
    complete: Basis | None = None
    for block in row_blocks(*X.shape):
        masks, pattern = np.unique(~np.isnan(X[block]), axis=0, return_inverse=True)
        by_pattern = np.split(
            np.argsort(pattern.ravel(), kind="stable"),
            np.cumsum(np.bincount(pattern.ravel(), minlength=len(masks)))[:-1],
        )
        for mask, rows in zip(masks, by_pattern, strict=True):
            observed = np.flatnonzero(mask)
            if observed.size == 0:
                continue
            if observed.size < X.shape[1]:
                basis = _basis(loadings[observed], noise_variance[observed])
            else:
                basis = complete = complete or _basis(loadings, noise_variance)
            yield block.start + rows, observed, basis


def _basis(loadings: np.ndarray, noise_variance: np.ndarray) -> Basis:
    # Without noise the loadings have full row rank, so that nothing is orthogonal to them.
    has_noise = bool(noise_variance.all())
    scale = np.sqrt(noise_variance) if has_noise else np.ones(len(loadings))
    directions, lengths, _ = np.linalg.svd(loadings / scale[:, None], full_matrices=False)
    limit = max(loadings.shape) * np.finfo(float).eps * lengths.max(initial=0.0)
    kept = lengths > limit
    return Basis(directions[:, kept], lengths[kept] ** 2 + has_noise, scale)
