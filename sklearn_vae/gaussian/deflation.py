"""Small variances next to large ones, which a covariance loses to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.centered import CenteredData
from sklearn_vae.gaussian.certificate import Accuracy
from sklearn_vae.gaussian.gram import leading_eigenpairs
from sklearn_vae.gaussian.singular import truncated_spectrum
from sklearn_vae.gaussian.spectrum import Spectrum

# Variances below this share of the largest one are found again after it was removed from the data.
LEAST_SHARE = 1e-7

# Multiples of the resolution of a covariance in float64 and float32 below which a variance is vague.
VAGUE, VAGUE_FLOAT32 = 1e7, 30.0


class _Level(NamedTuple):
    """Orthonormal components found so far and a bound on the variance outside them."""

    components: Array
    outside: float


def is_vague(spectrum: Spectrum, k: int, eps: float) -> bool:
    """Return whether the k-th variance or the noise variance may be close to rounding errors."""
    if spectrum.eigenvalues.shape[0] < spectrum.n_features and spectrum.rest == 0.0:
        return True
    limit = (VAGUE if eps < 1e-10 else VAGUE_FLOAT32) * spectrum.resolution
    smallest = float(spectrum.eigenvalues[k - 1]) if k > 0 else float("inf")
    if k < spectrum.n_features:
        smallest = min(smallest, spectrum.noise_variance(k))
    return smallest < limit


def refined(data: CenteredData, spectrum: Spectrum, k: int) -> Spectrum:
    """Compute k eigenpairs to the accuracy of the SVD of the data, starting from a covariance.

    The eigenvectors of a covariance resolve variances above the precision eps times the largest.
    Once the data are projected on the complement of the leading ones, the covariance of the rest
    resolves variances above eps times its own largest. A few such levels reach eps^2, the limit of
    the SVD, and each costs about one covariance.
    """
    values = np.asarray(to_host(spectrum.eigenvalues), dtype=np.float64)
    kept = min(max(int(np.count_nonzero(values > LEAST_SHARE * values[0])), 1), k)
    V = array_namespace(data.mean).astype(spectrum.components[:kept, :], data.dtype)
    outside = float(values[kept]) if kept < len(values) else spectrum.accuracy.outside
    level = _Level(V, outside + spectrum.accuracy.rounding)
    while level.components.shape[0] < k:
        deeper = _next_level(data, level, k)
        if deeper is None:
            break
        level = deeper
    xp = array_namespace(V)
    _, S, W = xp.linalg.svd(data.times(level.components.T), full_matrices=False)
    result = truncated_spectrum(data, W @ level.components, S)
    accuracy = _accuracy(data, result, level)
    return replace(result, accuracy=accuracy).padded(k)


def _residuals(data: CenteredData, V: Array) -> Iterator[Array]:
    """Yield consecutive rows of R (I - V'V), projected twice for orthogonality to rounding."""
    for R in data.blocks():
        R = R - (R @ V.T) @ V
        yield R - (R @ V.T) @ V


def _next_level(data: CenteredData, level: _Level, k: int) -> _Level | None:
    """Add leading eigenvectors of the covariance outside; None if only rounding errors are left."""
    V = level.components
    xp, (n, d) = array_namespace(V), data.shape
    wanted = k - V.shape[0]
    if n >= d:
        K: Any = sum(D.T @ D for D in _residuals(data, V))
    else:
        D = xp.concat(list(_residuals(data, V)))
        K = D @ D.T
    total = float(xp.linalg.trace(K)) / data.n
    if total <= float(xp.sum(data.rounding())) + _negligible(data):
        return None
    leading = leading_eigenpairs(K, wanted).divided(data.n)
    values = np.asarray(to_host(leading.values), dtype=np.float64)
    kept = min(int(np.count_nonzero(values > LEAST_SHARE * values[0])), wanted)
    outside = float(values[kept]) if kept < len(values) else leading.outside
    outside += data.precision.product_error(max(n, d), float(values[0]), total, len(K))
    new = leading.vectors[:kept, :]
    if n < d:
        new = (new @ D) / xp.astype(leading.values[:kept] * data.n, D.dtype)[:, None] ** 0.5
    stacked = xp.concat([V, xp.astype(new, V.dtype)])
    return _Level(xp.linalg.qr(stacked.T, mode="reduced")[0].T, outside)


def _negligible(data: CenteredData) -> float:
    """Return the variance that rounding errors of a projection cause."""
    return 16.0 * max(data.shape) * data.precision.eps**2 * data.squares / data.n


def _accuracy(data: CenteredData, spectrum: Spectrum, level: _Level) -> Accuracy:
    """Bound the errors of singular values S of R V' = U S by what U'R has outside V."""
    V = spectrum.components
    xp, largest = array_namespace(V), float(spectrum.eigenvalues[0])
    singular = data.precision.singular_value_error(data.shape, largest, data.squares / data.n)
    coupling, squares = 0.0, 0.0
    scale = xp.where(spectrum.eigenvalues > 0, spectrum.eigenvalues, 1.0) ** 0.5 * data.n
    for R in data.blocks():
        D = R - (R @ V.T) @ V
        coupling = coupling + (R @ V.T).T @ D
        squares += float(xp.sum(D * D))
    coupling = xp.astype(coupling, scale.dtype) / scale[:, None]
    outside = min(level.outside, squares / data.n)
    norms = np.asarray(to_host(xp.linalg.vector_norm(coupling, axis=1)), dtype=np.float64)
    singular += float(np.linalg.norm(np.minimum(norms, outside**0.5)))
    rounding = float(xp.max(data.rounding())) + _negligible(data)
    return Accuracy(
        outside=outside, rounding=rounding, singular=singular, method="deflated covariances"
    )
