"""Solvers for the spectrum of the covariance of a data matrix."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.centered import CenteredData, DenseCentered, centered_data
from sklearn_vae.gaussian.deflation import is_vague, refined
from sklearn_vae.gaussian.gram import spectrum_of_gram, spectrum_of_moments
from sklearn_vae.gaussian.minka import minka_dimension
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import Precision
from sklearn_vae.gaussian.singular import (
    by_arpack,
    by_full_svd,
    by_iteration,
    by_iteration_if_fast,
    by_random_subspace,
)
from sklearn_vae.gaussian.spectrum import Spectrum, components_for_ratio
from sklearn_vae.gaussian.symmetric import SymmetricSum

# Largest order of a covariance or Gram matrix that "auto" computes to find a few eigenpairs.
MAX_ORDER = 4000

# Largest order of one that it computes where an iteration with X converges slowly. It needs the
# memory of two such matrices.
MAX_LATER_ORDER = 10_000

# Residuals of "lanczos", relative to the largest eigenvalue.
TOLERANCE = 1e-9

SVD_SOLVERS = ("auto", "full", "covariance_eigh", "arpack", "randomized")


def choose_solver(
    X: Any, n_components: Any, svd_solver: str = "auto", *, mapped: bool = False
) -> str:
    """Return `svd_solver`, or the solver that "auto" selects for X.

    "auto" is exact. It selects "covariance_eigh" where the covariance or the Gram matrix is small,
    "lanczos", which iterates to a tolerance, where it is not, or "arpack" if X is sparse. Where
    "lanczos" converges slowly, :func:`decompose_summary` computes the matrix nevertheless. "auto"
    selects "full" for small X and where PCA does, but never for sparse or memory-mapped X (it would
    make a dense copy). For memory-mapped X a matrix that is not much smaller than X does not count
    as small.
    """
    n, d = X.shape
    if svd_solver != "auto":
        return svd_solver
    order = min(n, d)
    if (d <= 1000 and n >= 10 * d) or (n <= 1000 and d >= 10 * n):
        return "covariance_eigh"
    is_truncated = _is_count(n_components) and 1 <= n_components < 0.8 * order
    if sparse.issparse(X):
        return "arpack" if is_truncated and order > 1000 else "covariance_eigh"
    if is_truncated and max(n, d) > 500:
        is_small = order <= MAX_ORDER and (max(n, d) >= 4 * order or not mapped)
        return "covariance_eigh" if is_small else "lanczos"
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
    tol: float | None = None,
    refine: Callable[[], CenteredData] | None = None,
) -> Spectrum:
    """Compute the spectrum of the covariance from the result of :func:`summarize`.

    `n_components` must be valid for the shape of X and the solver. `n_counted` is the number of
    samples if weights count as repetitions. The next three parameters are as in PCA. `tol` limits
    the residuals of "arpack", "randomized" and "lanczos" relative to the largest eigenvalue. If it
    is None, "randomized" is PCA's algorithm. `refine` returns the centered data, in the dtype for
    sums; if it is given and "covariance_eigh" cannot tell the n_components-th variance or the noise
    from rounding errors, they are computed from the data.
    """
    if isinstance(summary, Moments):
        spectrum = spectrum_of_moments(summary, n_components, vague=refine is not None)
        return with_small_variances(spectrum, n_components, summary.precision, refine)
    n, d = summary.shape
    max_components = min(n_counted or n, d) - (solver == "arpack")
    if solver == "full":
        spectrum = by_full_svd(summary)
    elif solver == "covariance_eigh":
        spectrum = spectrum_of_gram(summary, n_components, vague=refine is not None)
        spectrum = with_small_variances(spectrum, n_components, summary.precision, refine)
    else:
        k = min(max_components if n_components is None else int(n_components), min(n, d))
        if solver == "arpack":
            spectrum = by_arpack(summary, min(k, min(n, d) - 1), random_state, tol)
        elif solver == "lanczos":
            leading = by_iteration_if_fast(summary, k, TOLERANCE, patience=_patience(summary))
            if leading is None:
                # If n < d, the Gram matrix results from the data.
                matrix = summary if n < d else _moments_of(summary)
                return decompose_summary(
                    matrix, n_components, "covariance_eigh", n_counted=n_counted, refine=refine
                )
            spectrum = leading
        elif tol is not None:
            spectrum = by_iteration(summary, k, tol, n_oversamples, random_state)
        else:
            spectrum = by_random_subspace(summary, k, iterated_power, n_oversamples, random_state)
    return spectrum.padded(components_wanted(n_components, max_components))


def _patience(data: CenteredData) -> float:
    """Return how many products with X take as long as "covariance_eigh" (measured)."""
    order = min(data.shape)
    in_memory = isinstance(data, DenseCentered) and data.matrix is not None
    return 10.0 + order / 125 if in_memory and order <= MAX_LATER_ORDER else math.inf


def _moments_of(data: CenteredData) -> Moments:
    """Compute the moments from data that are already centered."""
    scatter = SymmetricSum(data.shape[1], data.mean, data.mean.dtype)
    for R in data.blocks():
        scatter.add(R)
    return Moments(
        data.n,
        data.mean,
        scatter.full(),
        float(data.shape[0]),
        "float32" if data.dtype == array_namespace(data.mean).float32 else "float64",
        data.precision,
        data.remainder,
    )


def with_small_variances(
    spectrum: Spectrum,
    n_components: Any,
    precision: Precision,
    refine: Callable[[], CenteredData] | None,
) -> Spectrum:
    """Compute small variances from the data if the covariance does not resolve them.

    `refine` returns the centered data in the dtype for sums, or is None if they are not available.
    """
    if refine is None or not _is_count(n_components) or n_components == 0:
        return spectrum
    k = min(int(n_components), spectrum.eigenvalues.shape[0])
    if spectrum.total_variance == 0.0 or not is_vague(spectrum, k, precision.eps):
        return spectrum
    return refined(refine(), spectrum, k)


def recentered(
    X: Any, summary: Moments | CenteredData, weights: Array | None = None, *, mapped: bool = False
) -> Callable[[], CenteredData] | None:
    """Return `refine` of :func:`decompose_summary` for the result of :func:`summarize`.

    It is None if the deflated data would be a large dense copy.
    """
    if isinstance(summary, Moments):
        return lambda: centered_data(X, weights, keep=False, wide=True)
    return None if mapped or sparse.issparse(X) else lambda: summary


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
