"""Leading eigenpairs of covariances and Gram matrices that fit into memory."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_namespace
from scipy import linalg
from scipy.linalg import blas, lapack

from sklearn_vae.gaussian.arpack import arpack_eigenpairs
from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.centered import CenteredData
from sklearn_vae.gaussian.certificate import Accuracy
from sklearn_vae.gaussian.krylov import RitzPairs, block_lanczos
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import Precision, rounded_along
from sklearn_vae.gaussian.spectrum import (
    Spectrum,
    accuracy_of_moments,
    components_for_ratio,
    with_positive_peaks,
)
from sklearn_vae.gaussian.symmetric import eigh, orthonormal_rows, rows_times

# Largest order for which all eigenpairs are computed; largest order for which LAPACK computes some.
ALL_PAIRS, SOME_PAIRS = 200, 600

# Shares of all eigenpairs up to which an iteration finds them, and above which all are computed.
FEW, MANY = 0.05, 0.15

# A share of the trace below which the eigenvalues that were not computed are not a difference.
LEAST_REST = 1e-3

# Residuals of Lanczos iterations, relative to the largest eigenvalue.
TOLERANCE = 1e-12


class Leading(NamedTuple):
    """Leading eigenpairs of a symmetric matrix, in descending order, and what bounds the others."""

    values: Array  # shape (r,)
    vectors: Array  # rows, shape (r, order)
    residual: float  # norm of K V' - V' diag(values)
    outside: float  # largest eigenvalue of the others
    method: str

    @property
    def largest(self) -> float:
        """Largest eigenvalue, or a bound on it if none was computed."""
        return float(self.values[0]) if self.values.shape[0] else self.outside

    def divided(self, n: float) -> Leading:
        """Return the eigenpairs of K / n, whose eigenvalues are not negative."""
        xp = array_namespace(self.values)
        values = xp.clip(self.values, 0.0, None) / n
        return self._replace(values=values, residual=self.residual / n, outside=self.outside / n)

    def rest(self, total: float, resolution: float, rounded: float) -> float | None:
        """Return the sum of the other eigenvalues, given the sum of all.

        None if they may be rounding errors of the decomposition or the data, so that all
        eigenvalues are needed.
        """
        rest = total - float(array_namespace(self.values).sum(self.values))
        is_clear = self.outside > max(4.0 * resolution, rounded) and rest > LEAST_REST * total
        return rest if is_clear else None

    def accuracy(self, rounding: float) -> Accuracy:
        """Return the accuracy as eigenpairs of a covariance with this rounding error."""
        return Accuracy(self.residual, self.residual, self.outside, rounding, method=self.method)


def leading_eigenpairs(K: Array, k: int | None) -> Leading:
    """Compute at least k eigenpairs of a positive semidefinite matrix K, and no others if it pays.

    If k is None, all are computed. None of the largest is missed: LAPACK
    counts them by Sturm sequences, or a factorization bounds K minus the part of these pairs.
    """
    xp, m = array_namespace(K), K.shape[0]
    if k is None or m <= ALL_PAIRS or k >= MANY * m:
        return _all(K)
    if m > SOME_PAIRS and 0 < k <= FEW * m:
        unit = _largest_entry(K)
        if 1e-50 < unit < 1e50:
            unit = 1.0
        else:  # squares could overflow
            K = K / unit
        if (leading := _iterated(K, k)) is not None:
            return leading.divided(1.0 / unit)
    return _some(K, k) if is_numpy_namespace(xp) else _all(K)


def _all(K: Array) -> Leading:
    values, U = eigh(K)
    return Leading(values, U.T, 0.0, 0.0, "full eigendecomposition")


def _some(K: np.ndarray, k: int) -> Leading:
    """Compute k + 1 eigenvalues by bisection, and eigenvectors by inverse iteration."""
    m = K.shape[0]
    try:
        values, U = linalg.eigh(K.T, subset_by_index=[m - k - 1, m - 1], check_finite=False)
    except linalg.LinAlgError:
        return _all(K)
    V = orthonormal_rows(U[:, :0:-1].T)
    T = rows_times(V, K)
    values = np.append(np.vecdot(V, T), values[0])
    order = np.argsort(-values[:k], kind="stable")
    V, values[:k] = V[order], values[:k][order]
    scale = float(values[0]) or 1.0  # squares could overflow
    residual = scale * float(np.linalg.norm((T[order] - values[:k, None] * V) / scale))
    return Leading(values[:k], V, residual, float(values[k]), "Sturm counts")


def _largest_entry(K: Array) -> float:
    """Return the largest entry of a positive semidefinite matrix, or 1 if it is 0."""
    xp = array_namespace(K)
    return float(xp.max(xp.linalg.diagonal(K))) or 1.0


def _iterated(K: Array, k: int) -> Leading | None:
    """Iterate and verify by a factorization; return None if one of the two fails."""
    # ARPACK may miss copies of a repeated eigenvalue, which blocks of this width find.
    methods = (_by_arpack, _by_blocks) if is_numpy_namespace(array_namespace(K)) else (_by_blocks,)
    for method in methods:
        pairs = method(K, k)
        if pairs is None or len(pairs.values) <= k:
            continue
        if (outside := _outside(K, k, pairs)) is not None:
            xp = array_namespace(K)
            values = xp.asarray(pairs.values[:k], dtype=K.dtype, device=device(K))
            residual = float(np.linalg.norm(pairs.residuals[:k]))
            return Leading(
                values, pairs.vectors[:k, :], residual, outside, "Cholesky factorization"
            )
    return None


def _by_arpack(K: np.ndarray, k: int) -> RitzPairs | None:
    """Compute k + 1 eigenpairs by Lanczos iteration with single vectors, from half of K."""
    m, unit = K.shape[0], _largest_entry(K)
    # ARPACK's tolerances are relative to each eigenvalue, plus 1 here, and the largest of K is at least 1.
    pairs = arpack_eigenpairs(
        lambda v: blas.dsymv(1.0 / unit, K.T, v, beta=1.0, y=v),
        np.random.default_rng(0).standard_normal((m,)),
        k + 1,
        tol=TOLERANCE,
        max_restarts=1 + m // (2 * (k + 20)),
    )
    return None if pairs is None else _rayleigh_quotients(K, pairs[1])


def _rayleigh_quotients(K: np.ndarray, V: np.ndarray) -> RitzPairs:
    """Compute orthonormal rows, their Rayleigh quotients, in descending order, and residuals."""
    V = orthonormal_rows(V)
    T = rows_times(V, K)
    values = np.vecdot(V, T)
    order = np.argsort(-values, kind="stable")
    values, V, T = values[order], V[order], T[order]
    return RitzPairs(values, V, np.linalg.norm(T - values[:, None] * V, axis=1), 1, True)


def _by_blocks(K: Array, k: int) -> RitzPairs | None:
    """Compute k + 1 eigenpairs with a block that is wide enough for one repeated k times."""
    m, block = K.shape[0], k + 8
    pairs = block_lanczos(
        lambda V: V @ K, K, m, k, block=block, tol=TOLERANCE, max_products=m // 8,
        max_dimension=m // 3, rng=np.random.default_rng(0),
    )  # fmt: skip
    return pairs if pairs.converged else None


def _outside(K: Array, k: int, pairs: RitzPairs) -> float | None:
    """Find a bound on the eigenvalues of K outside k eigenvectors that a factorization proves."""
    smallest, following = float(pairs.values[k - 1]), float(pairs.values[k])
    following += float(pairs.residuals[k])
    margin = 1e-14 * K.shape[0] ** 0.5 * float(pairs.values[0])
    bounds = [smallest + margin]
    if following + 8.0 * margin < smallest:
        bounds.insert(0, following + 0.25 * (smallest - following))
    for bound in bounds:
        excess = _proven_excess(K, k, pairs, bound)
        if excess is not None:
            return bound + excess
    return None


def _proven_excess(K: Array, k: int, pairs: RitzPairs, bound: float) -> float | None:
    """Return e such that no eigenvalue outside exceeds `bound` + e, or None if not proven.

    If the Cholesky factorization of M succeeds, the smallest eigenvalue of M is above -e with
    e = (m + 2) eps trace(M) (Rump, "Verification of positive definiteness", BIT 2006, eq. 2.4). M
    is `bound` I - K plus the k pairs, whose residuals bound the rest of the difference.
    """
    xp, m = array_namespace(K), K.shape[0]
    V, values = pairs.vectors[:k, :], pairs.values[:k]
    proven = _proven_by_lapack if is_numpy_namespace(xp) else _proven_by_cholesky
    trace = proven(K, V, values, bound)
    if trace is None:
        return None
    eps = float(xp.finfo(K.dtype).eps)
    residual = float(np.linalg.norm(pairs.residuals[:k]))
    return (m + 2) * eps * trace + residual + 8.0 * m**0.5 * eps * float(pairs.values[0])


def _proven_by_lapack(
    K: np.ndarray, V: np.ndarray, values: np.ndarray, bound: float
) -> float | None:
    """Return the trace of M if its Cholesky factorization succeeds. Only half of M is computed."""
    scaled = (V * np.maximum(values, 0.0)[:, None] ** 0.5).T
    M = blas.dsyrk(1.0, scaled, beta=-1.0, c=K.T.copy(order="F"), overwrite_c=True)
    M.T.flat[:: K.shape[0] + 1] += bound
    trace = float(np.trace(M))
    factor, info = lapack.dpotrf(M, clean=False, overwrite_a=True)
    return trace if info == 0 and np.isfinite(np.diagonal(factor)).all() else None


def _proven_by_cholesky(K: Array, V: Array, values: np.ndarray, bound: float) -> float | None:
    """Return the trace of M if its Cholesky factorization succeeds, in any array library."""
    xp, where = array_namespace(K), {"dtype": K.dtype, "device": device(K)}
    M = (V.T * xp.asarray(values, **where)) @ V - K + bound * xp.eye(K.shape[0], **where)
    try:
        factor = xp.linalg.cholesky(M)
    except (np.linalg.LinAlgError, RuntimeError):  # torch raises a RuntimeError
        return None
    is_finite = bool(xp.all(xp.isfinite(xp.linalg.diagonal(factor))))
    return float(xp.linalg.trace(M)) if is_finite else None


def spectrum_of_moments(
    moments: Moments, n_components: Any = None, *, vague: bool = False
) -> Spectrum:
    """Compute the spectrum from moments, with all eigenpairs or at least `n_components`.

    With `vague` the sum of the other eigenvalues may consist of rounding errors.
    """
    d = moments.n_features
    k = int(n_components) if isinstance(n_components, Integral) else d
    if k >= MANY * d or d <= ALL_PAIRS:
        return Spectrum.from_moments(moments)
    xp, n = array_namespace(moments.scatter), moments.n
    leading = leading_eigenpairs(moments.scatter, k).divided(n)
    variances = xp.linalg.diagonal(moments.scatter) / n
    total, largest, precision = float(xp.sum(variances)), leading.largest, moments.precision
    columns = precision.rounding(moments.mean, variances, moments.count)
    resolution = precision.eigenvalue_error(d, largest)
    rest = leading.rest(total, resolution, float(xp.max(columns)))
    if rest is None and not vague:
        return Spectrum.from_moments(moments)
    rounding = accuracy_of_moments(moments, largest, total).rounding
    return Spectrum(
        moments.mean,
        leading.values,
        with_positive_peaks(leading.vectors),
        rest or 0.0,
        resolution,
        rounded_along(leading.vectors, columns),
        leading.accuracy(rounding),
    )


def spectrum_of_gram(
    data: CenteredData, n_components: Any, K: Array | None = None, *, vague: bool = False
) -> Spectrum:
    """Compute the spectrum from K = R R': for each eigenvector u of K, R'u is one of R'R.

    It holds only the components to keep, or all if the others may be rounding errors. With `vague`
    the sum of the others may consist of rounding errors.
    """
    K = data.gram() if K is None else K
    xp, n, rounded = array_namespace(K), K.shape[0], float(array_namespace(K).max(data.rounding()))
    k = min(int(n_components), n) if isinstance(n_components, Integral) else None
    total = float(xp.linalg.trace(K)) / data.n
    leading = leading_eigenpairs(K, k).divided(data.n)
    precision = data.gram_precision
    resolution = precision.eigenvalue_error(n, leading.largest)
    rest = leading.rest(total, resolution, rounded)
    if rest is None and not vague:
        leading = _all(K).divided(data.n)
    accuracy = leading.accuracy(
        precision.product_error(data.shape[1], leading.largest, total, n) + rounded
    )
    values, U = leading.values, leading.vectors.T
    if values.shape[0] == n:
        if k is None:
            k = n
            if n_components is not None and not isinstance(n_components, str):
                k = components_for_ratio(values, float(xp.sum(values)), n_components)
        if k < n and resolution < float(values[k]) <= rounded:
            k = n
        following = float(values[k]) if k < n else 0.0
        rest = float(xp.sum(values[k:])) if following > resolution else 0.0
        accuracy = replace(accuracy, outside=following)
    V = components_of_gram(data, U[:, :k])
    along = rounded_along(V, data.rounding())
    return Spectrum(data.mean, values[:k], V, rest or 0.0, resolution, along, accuracy)


def eigh_of_gram(K: Array, n: float, precision: Precision) -> tuple[Array, Array, float]:
    """Return eigenvalues of R'R / n, descending, eigenvectors of K = R R', and resolution."""
    leading = _all(K).divided(n)
    resolution = precision.eigenvalue_error(K.shape[0], leading.largest)
    return leading.values, leading.vectors.T, resolution


def components_of_gram(data: CenteredData, U: Array) -> Array:
    """Compute orthonormal components (rows) from eigenvectors of R R'."""
    xp = array_namespace(U)
    Q = xp.linalg.qr(data.transposed_times(xp.astype(U, data.dtype)), mode="reduced")[0]
    return with_positive_peaks(Q.T)
