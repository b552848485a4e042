"""Solvers for the spectrum of the covariance of a data matrix."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, is_numpy_namespace
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, svds

from sklearn_vae.gaussian.arrays import Array, to_device_of, wide_float
from sklearn_vae.gaussian.centered import CenteredData, DenseCentered, centered_data
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import Precision, rounded_along
from sklearn_vae.gaussian.spectrum import (
    Spectrum,
    components_for_ratio,
    minka_dimension,
    with_positive_peaks,
)

Product: TypeAlias = Callable[[Array], Array]

SVD_SOLVERS = ("auto", "full", "covariance_eigh", "arpack", "randomized")


def choose_solver(
    X: Any, n_components: Any, svd_solver: str = "auto", *, mapped: bool = False
) -> str:
    """Return `svd_solver`, or the solver that "auto" selects for X.

    "auto" follows scikit-learn's PCA, except for wide X with few samples (small Gram matrix), and
    for sparse and memory-mapped X ("full" would make a dense copy, "randomized" would read X some
    twenty times).
    """
    n, d = X.shape
    if svd_solver != "auto":
        return svd_solver
    max_features = 2000 if mapped else 1000
    if (d <= max_features and n >= 10 * d) or (n <= 1000 and d >= 10 * n):
        return "covariance_eigh"
    is_truncated = _is_count(n_components) and 1 <= n_components < 0.8 * min(n, d)
    if sparse.issparse(X):
        return "arpack" if is_truncated and min(n, d) > 1000 else "covariance_eigh"
    if is_truncated and max(n, d) > 500:
        return "randomized"
    return "covariance_eigh" if mapped else "full"


def decompose(
    X: Any,
    n_components: float | str | None,
    solver: str,
    weights: Array | None = None,
    **options: Any,
) -> Spectrum:
    """Compute the spectrum of the covariance of X."""
    summary = summarize(X, solver, weights)
    summary.check_finite()
    return decompose_summary(summary, n_components, solver, **options)


def summarize(
    X: Any, solver: str, weights: Array | None = None, *, mapped: bool = False
) -> Moments | CenteredData:
    """Compute the moments or the centered data of X, depending on what the solver decomposes.

    The result is not finite if X is not. A memory-mapped X is not copied.
    """
    gram = solver == "covariance_eigh"
    if gram and X.shape[0] >= X.shape[1]:
        return Moments.of(X, weights, check_finite=False)
    keep = solver == "full" or not (gram or mapped)
    return centered_data(X, weights, keep=keep, wide=gram)


def decompose_summary(
    summary: Moments | CenteredData,
    n_components: float | str | None,
    solver: str,
    *,
    n_counted: int | None = None,
    iterated_power: int | str = "auto",
    n_oversamples: int = 10,
    random_state: Any = None,
) -> Spectrum:
    """Compute the spectrum of the covariance from the result of :func:`summarize`.

    `n_components` must be valid for the shape of X and the solver. `n_counted` is the number of
    samples if weights count as repetitions. The last three parameters are as in PCA.
    """
    if isinstance(summary, Moments):
        return Spectrum.from_moments(summary)
    n, d = summary.shape
    max_components = min(n_counted or n, d) - (solver == "arpack")
    if solver == "full":
        spectrum = _full(summary)
    elif solver == "covariance_eigh":
        spectrum = spectrum_of_gram(summary, n_components)
    else:
        k = min(max_components if n_components is None else int(n_components), min(n, d))
        if solver == "arpack":
            spectrum = _arpack(summary, min(k, min(n, d) - 1), random_state)
        else:
            spectrum = _randomized(summary, k, iterated_power, n_oversamples, random_state)
    return spectrum.padded(components_wanted(n_components, max_components))


def components_wanted(n_components: Any, max_components: int) -> int:
    """Return the minimum number of eigenpairs that `n_components` requires."""
    if _is_count(n_components):
        return int(n_components)
    return 0 if n_components is not None and n_components != "mle" else max_components


def count_components(
    spectrum: Spectrum, n_components: Any, n_samples: float, max_components: int | None = None
) -> int:
    """Return the k that `n_components` selects; None keeps up to `max_components` eigenpairs."""
    n_pairs = spectrum.eigenvalues.shape[0]
    if n_components is None:
        return n_pairs if max_components is None else min(n_pairs, max_components)
    if n_components == "mle":
        return minka_dimension(spectrum, n_samples)
    if _is_count(n_components):
        return int(n_components)
    return components_for_ratio(spectrum.eigenvalues, spectrum.total_variance, n_components)


def _is_count(n_components: Any) -> bool:
    return isinstance(n_components, Integral)


def _full(data: Any) -> Spectrum:
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
    return _spectrum(data, S, V, 0.0)


def spectrum_of_gram(data: CenteredData, n_components: Any, K: Array | None = None) -> Spectrum:
    """Compute the spectrum from K = R R': for each eigenvector u of K, R'u is one of R'R.

    It holds only the components to keep, or all if the others may be rounding errors.
    """
    K = data.gram() if K is None else K
    xp = array_namespace(K)
    n = data.shape[0]
    values, U, resolution = eigh_of_gram(K, data.n, data.precision)
    if n_components is None:
        k = n
    elif _is_count(n_components):
        k = min(n_components, n)
    else:
        k = components_for_ratio(values, float(xp.sum(values)), n_components)
    if k < n and resolution < float(values[k]) <= float(xp.max(data.rounding())):
        k = n
    rest = float(xp.sum(values[k:])) if k < n and float(values[k]) > resolution else 0.0
    V = components_of_gram(data, U[:, :k])
    rounded = rounded_along(V, data.rounding())
    return Spectrum(data.mean, values[:k], V, rest, resolution, rounded)


def eigh_of_gram(K: Array, n: float, precision: Precision) -> tuple[Array, Array, float]:
    """Return eigenvalues of R'R / n, descending, eigenvectors of K = R R', and resolution."""
    xp = array_namespace(K)
    values, U = xp.linalg.eigh(K)
    values = xp.clip(xp.flip(values), 0.0, None) / n
    resolution = precision.eigenvalue_error(K.shape[0], float(values[0]))
    return values, xp.flip(U, axis=1), resolution


def components_of_gram(data: CenteredData, U: Array) -> Array:
    """Compute orthonormal components (rows) from eigenvectors of R R'."""
    xp = array_namespace(U)
    Q = xp.linalg.qr(data.transposed_times(xp.astype(U, data.dtype)), mode="reduced")[0]
    return with_positive_peaks(Q.T)


def _arpack(data: CenteredData, k: int, random_state: np.random.RandomState) -> Spectrum:
    start = random_state.uniform(-1, 1, min(data.shape))
    if data.squares == 0.0:  # ARPACK fails on a zero matrix
        V = np.eye(k, data.shape[1], dtype=data.dtype)
        return _spectrum(data, np.zeros(k, dtype=data.dtype), V, 0.0)
    R = data.matrix if isinstance(data, DenseCentered) else None
    if R is None:
        R = LinearOperator(
            data.shape,
            dtype=data.dtype,
            matvec=lambda q: data.times(q.reshape(-1, 1)).ravel(),
            rmatvec=lambda y: data.transposed_times(y.reshape(-1, 1)).ravel(),
            matmat=data.times,
            rmatmat=data.transposed_times,
        )
    _, S, V = svds(R, k=k, v0=start)
    return _truncated(data, np.ascontiguousarray(V[::-1, :]), S[::-1])


def _randomized(
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
    return _truncated(data, V[:k, :] @ Q.T, S[:k])


def _truncated(data: CenteredData, V: Array, S: Array) -> Spectrum:
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
    if spectrum.rest < max(data.precision.eps**0.5 * total, float(xp.sum(rounded))):
        # The difference has cancelled: compute the sum of squares of the residuals.
        residual = data.residual_squares(V) / data.n
        rest = 0.0 if xp.all(residual <= rounded) else float(xp.sum(residual))
        spectrum = replace(spectrum, rest=rest)
    return spectrum


def _spectrum(data: CenteredData, S: Array, V: Array, rest: float) -> Spectrum:
    xp = array_namespace(V)
    values = xp.astype(xp.asarray(S), wide_float(V)) ** 2 / data.n
    error = data.precision.squared_singular_value_error(max(data.shape), float(values[0]))
    rounded = rounded_along(V, data.rounding())
    return Spectrum(data.mean, values, with_positive_peaks(V), rest, error, rounded)
