"""Mahalanobis distance of a linear Gaussian model, in and off the span of its loadings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.observed import patterns


class Distances(NamedTuple):
    """Two parts of the squared Mahalanobis distance of each sample.

    In a linear Gaussian model they are independent and have chi-squared distributions.
    """

    t2: np.ndarray  # Hotelling's T2, in the span of the loadings, (n_samples,)
    spe: np.ndarray  # squared prediction error in units of the noise, (n_samples,)
    t2_dof: np.ndarray  # degrees of freedom of t2, its expectation under the model, (n_samples,)
    spe_dof: np.ndarray  # degrees of freedom of spe, (n_samples,)


class Basis(NamedTuple):
    """Orthonormal basis U of the span of Psi^-1/2 W for observed features of the same samples."""

    rows: Any  # indices of the samples
    cells: Any  # indices of their observed values
    mean: np.ndarray  # (n_observed,)
    scale: np.ndarray  # standard deviations of the noise, (n_observed,)
    directions: np.ndarray  # U, (n_observed, rank)
    variances: np.ndarray  # along the directions, (rank,)
    noise: float  # variance orthogonal to the directions: 1, or 0 without noise

    def whitening(self) -> np.ndarray:
        """Return R^-1/2 D^-1/2 for the scaled samples, with correlations R and variances D."""
        U = self.directions
        C = (U * (self.variances - self.noise)) @ U.T + self.noise * np.eye(len(U))
        std = np.sqrt(np.diagonal(C))
        values, vectors = np.linalg.eigh(C / std / std[:, None])
        roots = np.sqrt(np.maximum(values, np.finfo(float).tiny))
        return (vectors / roots) @ vectors.T / std

    def project(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coordinates of the scaled samples, and what is orthogonal to the basis."""
        scaled = (X[self.cells] - self.mean) / self.scale
        y = scaled @ self.directions
        if self.directions.shape[0] == self.directions.shape[1]:
            return y, np.zeros_like(scaled)
        residual = scaled - y @ self.directions.T
        # A second projection, because the first leaves rounding errors of the size of y.
        return y, residual - (residual @ self.directions) @ self.directions.T


def distances(
    X: np.ndarray, mean: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> Distances:
    """Compute the two parts of (x - mean)' C^-1 (x - mean) with C = W W' + diag(noise_variance).

    With xs = (x - mean) / sqrt(noise_variance), and U, kappa the span and variances of the scaled
    loadings, t2 is sum_h (u_h' xs)^2 / kappa_h and spe is |xs - U U' xs|^2. NaN marks missing
    values, which are left out together with their rows of W.
    """
    parts = Distances(*np.zeros((4, len(X))))
    for basis in _bases(X, mean, loadings, noise_variance):
        y, residual = basis.project(X)
        rank = len(basis.variances)
        with np.errstate(over="ignore"):  # a distance may be infinite
            parts.t2[basis.rows] = np.sum(y**2 / basis.variances, axis=1)
            parts.spe[basis.rows] = np.sum(residual**2, axis=1)
        parts.t2_dof[basis.rows] = rank
        parts.spe_dof[basis.rows] = len(basis.mean) - rank
    return parts


def contributions(
    X: np.ndarray, mean: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split both parts of the distance among the features; missing values contribute 0.

    With v = R^-1/2 D^-1/2 (x - mean), where R are the correlations of the observed features and D
    their variances, the contributions of feature j to both parts add up to v_j^2. As the parts are
    orthogonal, x - mean = a + b, with v = v_a + v_b, the contributions to them are v_aj v_j and
    v_bj v_j.
    """
    t2, spe = np.zeros((2, *X.shape))
    for basis in _bases(X, mean, loadings, noise_variance):
        y, residual = basis.project(X)
        K = basis.whitening()
        along, across = y @ basis.directions.T @ K.T, residual @ K.T
        t2[basis.cells] = along * (along + across)
        spe[basis.cells] = across * (along + across)
    return t2, spe


def _bases(
    X: np.ndarray, mean: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> Iterator[Basis]:
    """Yield the basis of each set of observed features; samples without any have none."""
    complete = None
    for block in row_blocks(*X.shape):
        is_observed = ~np.isnan(X[block])
        if is_observed.all():
            complete = complete or _decompose(mean, loadings, noise_variance)
            yield Basis(block, block, *complete)
            continue
        first, pattern, counts = patterns(is_observed)
        groups = np.split(np.argsort(pattern, kind="stable"), np.cumsum(counts)[:-1])
        for row, group in zip(first, groups, strict=True):
            seen, rows = np.flatnonzero(is_observed[row]), block.start + group
            if seen.size:
                parameters = mean[seen], loadings[seen], noise_variance[seen]
                yield Basis(rows, np.ix_(rows, seen), *_decompose(*parameters))


def _decompose(
    mean: np.ndarray, loadings: np.ndarray, noise_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the mean, scale, directions, variances and noise of a basis."""
    # Without noise the loadings have full row rank, so that nothing is orthogonal to them.
    has_noise = bool(noise_variance.all())
    scale = np.sqrt(noise_variance) if has_noise else np.ones(len(loadings))
    directions, lengths, _ = np.linalg.svd(loadings / scale[:, None], full_matrices=False)
    limit = max(loadings.shape) * np.finfo(float).eps * lengths.max(initial=0.0)
    kept = lengths > limit
    variances = lengths[kept] ** 2 + has_noise
    return mean, scale, directions[:, kept], variances, float(has_noise)
