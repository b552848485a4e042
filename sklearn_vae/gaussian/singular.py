"""Spectra from a centered data matrix: by its SVD, or by products with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, is_numpy_namespace
from scipy import linalg

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arpack import arpack_eigenpairs
from sklearn_vae.gaussian.arrays import Array, to_device_of, wide_float
from sklearn_vae.gaussian.centered import CenteredData
from sklearn_vae.gaussian.certificate import Accuracy
from sklearn_vae.gaussian.gram import LEAST_REST, components_of_gram
from sklearn_vae.gaussian.krylov import DELTA, Operator, block_lanczos, largest_outside
from sklearn_vae.gaussian.precision import rounded_along
from sklearn_vae.gaussian.spectrum import Spectrum, with_positive_peaks

Product: TypeAlias = Callable[[Array], Array]

# Largest block, number of products and size of the basis (in numbers) of the iteration.
MAX_BLOCK, MAX_PRODUCTS, MAX_BASIS = 64, 500, 2**25

# Random vectors and products with them that bound the variance outside the components.
CHECK_BLOCK, CHECK_PRODUCTS = 10, 4


def by_full_svd(data: Any) -> Spectrum:
    """Compute all singular values; the matrix of `data` is overwritten."""
    R = data.matrix
    xp = array_namespace(R)
    n, d = data.shape
    # The triangular factor of R has the same singular values and right singular vectors.
    if not is_numpy_namespace(xp):
        R = xp.linalg.qr(R, mode="reduced")[1] if n > d else R
        _, S, V = xp.linalg.svd(R, full_matrices=False)
    else:
        if n > d:
            R = linalg.qr(R, mode="r", overwrite_a=True, check_finite=False)[0][:d, :]
        _, S, V = linalg.svd(R, full_matrices=False, overwrite_a=True, check_finite=False)
    accuracy = Accuracy(0.0, 0.0, 0.0, *_rounding(data, float(S[0])), method="full SVD")
    return replace(_spectrum(data, S, V, 0.0), accuracy=accuracy)


def by_arpack(
    data: CenteredData, k: int, random_state: np.random.RandomState, tol: float | None = None
) -> Spectrum:
    """Compute singular vectors with ARPACK, by default to machine precision.

    It fails on some matrices with repeated singular values, for which block iteration is used.
    """
    n, d = data.shape
    start = random_state.uniform(-1, 1, min(n, d)).astype(data.dtype)
    if data.squares == 0.0:  # ARPACK fails on a zero matrix
        V = np.eye(k, d, dtype=data.dtype)
        return _verified_spectrum(data, V, np.zeros(k, dtype=data.dtype))
    apply = _covariance(data)
    pairs = arpack_eigenpairs(
        lambda v: apply(v[None, :])[0], start, k, tol=tol or 0.0, n_attempts=3
    )
    if pairs is None:
        return by_iteration(data, k, tol or 0.0)
    Q = np.linalg.qr(pairs[1].T)[0]
    if n >= d:
        _, S, W = np.linalg.svd(data.times(Q), full_matrices=False)
        return _verified_spectrum(data, W @ Q.T, S)
    U, S, _ = np.linalg.svd(data.transposed_times(Q), full_matrices=False)
    return _verified_spectrum(data, np.ascontiguousarray(U.T), S)


def by_iteration(
    data: CenteredData, k: int, tol: float, n_oversamples: int = 10, rng: Any = None
) -> Spectrum:
    """Iterate with products until the residuals are at most `tol` times the largest eigenvalue."""
    spectrum = by_iteration_if_fast(data, k, tol, n_oversamples, rng, patience=math.inf)
    assert spectrum is not None
    return spectrum


def by_iteration_if_fast(
    data: CenteredData,
    k: int,
    tol: float,
    n_oversamples: int = 10,
    rng: Any = None,
    *,
    patience: float,
) -> Spectrum | None:
    """Do :func:`by_iteration`; return None when it seems to need over `patience` more products.

    Block Lanczos iteration runs in the space of the samples or of the features, whichever is
    smaller. The block is as wide as that of the randomized solver, so that repeated eigenvalues
    are found.
    """
    n, d = data.shape
    block, size = min(k + n_oversamples, MAX_BLOCK), min(n, d)
    most = min(MAX_BASIS, n * d // 32) // size
    pairs = block_lanczos(
        _covariance(data), array_namespace(data.mean).astype(data.mean, data.dtype), size, k,
        block=block, tol=max(tol, 4.0 * data.precision.eps), max_products=MAX_PRODUCTS,
        max_dimension=max(3 * (k + block), most), n_extra=0,
        rng=np.random.default_rng(0) if rng is None else rng, patience=patience,
    )  # fmt: skip
    if patience < math.inf and not pairs.converged and pairs.n_products < MAX_PRODUCTS:
        return None
    V = pairs.vectors if n >= d else components_of_gram(data, pairs.vectors.T)
    _, S, W = array_namespace(V).linalg.svd(data.times(V.T), full_matrices=False)
    return _verified_spectrum(data, W @ V, S)


def by_random_subspace(
    data: CenteredData,
    k: int,
    iterated_power: int | str,
    n_oversamples: int,
    random_state: np.random.RandomState,
) -> Spectrum:
    """Run subspace iteration from a random start with the random numbers of PCA.

    Unlike in PCA, the last subspace is always one of the features, and the eigenvalues are the
    variances of the data along the components. Products are normalized by QR instead of LU, which
    all array libraries provide.
    """
    n, d = data.shape
    xp = array_namespace(data.mean)
    if iterated_power == "auto":
        iterated_power = 7 if k < 0.1 * min(n, d) else 4
    forward: Product = data.times if n >= d else data.transposed_times
    backward: Product = data.transposed_times if n >= d else data.times
    size = (min(n, d), min(k + n_oversamples, n, d))
    Q = to_device_of(data.mean, random_state.normal(size=size), dtype=data.dtype)
    for _ in range(int(iterated_power)):
        Q = xp.linalg.qr(forward(Q), mode="reduced")[0]
        Q = xp.linalg.qr(backward(Q), mode="reduced")[0]
    Q = xp.linalg.qr(forward(Q), mode="reduced")[0]
    if n >= d:
        Q = xp.linalg.qr(backward(Q), mode="reduced")[0]
    _, S, V = xp.linalg.svd(data.times(Q), full_matrices=False)
    V = V[:k, :] @ Q.T
    del Q  # as large as all further vectors together
    return _verified_spectrum(data, V, S[:k])


def _verified_spectrum(data: CenteredData, V: Array, S: Array) -> Spectrum:
    spectrum = truncated_spectrum(data, V, S)
    return replace(spectrum, accuracy=_verified(data, spectrum))


def truncated_spectrum(data: CenteredData, V: Array, S: Array) -> Spectrum:
    """Build the spectrum from the leading right singular vectors and values of centered data."""
    xp = array_namespace(V)
    total = data.squares / data.n
    explained = float(xp.sum(xp.astype(xp.asarray(S), wide_float(V)) ** 2)) / data.n
    spectrum = _spectrum(data, S, V, total - explained)
    # Variance per feature that the decomposition and the rounding of the data may cause.
    with np.errstate(over="ignore"):
        rounded = spectrum.resolution + data.rounding()
        # Rounding in one feature tilts the components and spreads to other features, except to
        # those that do not vary.
        share = xp.sum(V**2, axis=0, dtype=rounded.dtype)
        tilting = xp.minimum(rounded, data.shape[1] * data.variances + spectrum.resolution)
        rounded = rounded + share * xp.sum(share * tilting)
    if spectrum.rest < max(LEAST_REST * total, float(xp.sum(rounded))):
        # The difference loses digits: compute the sum of squares of the residuals.
        residual = data.residual_squares(V) / data.n
        rest = 0.0 if xp.all(residual <= rounded) else float(xp.sum(residual))
        spectrum = replace(spectrum, rest=rest)
    return spectrum


def _verified(data: CenteredData, spectrum: Spectrum) -> Accuracy:
    """Bound the errors of eigenpairs by a few more products with the data."""
    xp = array_namespace(data.mean)
    V, values = spectrum.components, np.asarray(to_host(spectrum.eigenvalues), dtype=np.float64)
    scale = _trace(data)
    R = data.scatter_times(V.T).T / (scale * data.n)
    R -= xp.astype(spectrum.eigenvalues / scale, V.dtype)[:, None] * V
    norms = scale * np.asarray(to_host(xp.linalg.vector_norm(R, axis=1)), dtype=np.float64)
    rounding, singular = _rounding(data, float(values[0] * data.n) ** 0.5)
    return Accuracy(
        scale * float(np.linalg.norm(norms / scale)),
        float(norms.max()),
        _outside(data, V, values, norms),
        rounding,
        singular,
        DELTA,
        "products with random vectors",
    )


def _outside(data: CenteredData, V: Array, values: np.ndarray, norms: np.ndarray) -> float:
    """Bound the variance outside the components, in the smaller of the two spaces.

    In the space of the samples the range of R V' is left out. The part of R outside V that it
    contains is V S / sqrt(theta), without its projection on V: a residual.
    """
    n, d = data.shape
    options = {"block": CHECK_BLOCK, "n_products": CHECK_PRODUCTS}
    rng, operator, scale = np.random.default_rng(1), _covariance(data), _trace(data)
    if n >= d:
        return scale * largest_outside(operator, V, d, rng=rng, **options)
    present = int(np.count_nonzero(values > 1e-10 * values[0]))
    scores = data.times(V[:present, :].T)
    U = array_namespace(V).linalg.qr(scores, mode="reduced")[0].T
    excess = float(np.sum(norms[:present] * (norms[:present] / values[:present])))
    return scale * largest_outside(operator, U, n, rng=rng, **options) + excess


def _covariance(data: CenteredData) -> Operator:
    """Return the product of rows with R'R or R R', whichever is smaller, divided by its trace."""
    trace = data.n * _trace(data)
    if data.shape[0] >= data.shape[1]:
        return lambda V: data.scatter_times(V.T).T / trace
    return lambda V: data.times(data.transposed_times(V.T)).T / trace


def _trace(data: CenteredData) -> float:
    """Return the trace of the covariance, or 1 if it is 0."""
    return data.squares / data.n or 1.0


def _rounding(data: CenteredData, largest: float) -> tuple[float, float]:
    """Bound rounding errors of eigenvalues computed by products, and of their square roots."""
    total, largest = data.squares / data.n, largest**2 / data.n
    products = data.precision.product_error(float(sum(data.shape)), largest, total, 1)
    products += float(array_namespace(data.mean).max(data.rounding()))
    return products, data.precision.singular_value_error(data.shape, largest, total)


def _spectrum(data: CenteredData, S: Array, V: Array, rest: float) -> Spectrum:
    xp = array_namespace(V)
    values = xp.astype(xp.asarray(S), wide_float(V)) ** 2 / data.n
    error = data.precision.squared_singular_value_error(max(data.shape), float(values[0]))
    rounded = rounded_along(V, data.rounding())
    return Spectrum(data.mean, values, with_positive_peaks(V), rest, error, rounded)
