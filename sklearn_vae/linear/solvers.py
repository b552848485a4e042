"""From a data matrix to the spectrum of its covariance, by the solver that suits its shape."""

from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy import linalg
from scipy.sparse.linalg import svds

from sklearn_vae.gaussian.arrays import Array, center, to_device_of
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import (
    SMALLEST,
    Spectrum,
    components_for_ratio,
    minka_dimension,
    spread_of_rounding,
    with_positive_peaks,
)
from sklearn_vae.validation import check_finite, is_integer, is_real

SVD_SOLVERS = ("auto", "full", "covariance_eigh", "arpack", "randomized")


def check_n_components(n_components: Any) -> None:
    """Raise unless `n_components` is of a kind that PCA takes, whatever the data."""
    if n_components is None or (isinstance(n_components, str) and n_components == "mle"):
        return
    if is_integer(n_components) and n_components >= 0:
        return
    if not is_integer(n_components) and is_real(n_components) and 0 < n_components < 1:
        return
    raise ValueError(
        "n_components must be None, an integer >= 0, a float in (0, 1) or 'mle', "
        f"got {n_components!r}."
    )


def choose_solver(shape: tuple[int, int], n_components: Any, svd_solver: str) -> str:
    """PCA's own choice for "auto", which any other solver passes through."""
    n, d = shape
    if svd_solver != "auto":
        return svd_solver
    if d <= 1000 and n >= 10 * d:
        return "covariance_eigh"
    if max(n, d) <= 500 or n_components in (None, "mle"):
        return "full"
    return "randomized" if 1 <= n_components < 0.8 * min(n, d) else "full"


def decompose(
    X: Array,
    n_components: float | str | None,
    solver: str,
    *,
    iterated_power: int | str,
    n_oversamples: int,
    random_state: np.random.RandomState,
) -> tuple[Spectrum, Moments | None]:
    """Spectrum of X's covariance, and X's moments where the solver is the one that needs them.

    Raises
    ------
    ValueError
        If `n_components` does not fit the shape of X or the solver.
    """
    _check_fit_together(X.shape, n_components, solver)
    if solver == "covariance_eigh":
        moments = moments_of(X)
        return Spectrum.of_moments(moments, eps=eps_of(X)), moments
    check_finite(X)
    if solver == "full":
        return _full(X), None
    if solver == "arpack":
        k = min(X.shape) - 1 if n_components is None else int(n_components)
        return _arpack(X, k, random_state), None
    k = min(X.shape) if n_components is None else int(n_components)
    return _randomized(X, k, iterated_power, n_oversamples, random_state), None


def moments_of(X: Array) -> Moments:
    """Moments of X, in which NaN and infinity show without a pass that looks for them."""
    try:
        return Moments.of(X)
    except ValueError:
        check_finite(X)
        raise


def count_components(spectrum: Spectrum, n_components: Any, n_samples: int) -> int:
    """The k that `n_components` means, with as many eigenpairs as the solver found."""
    if n_components is None:
        return min(spectrum.eigenvalues.shape[0], n_samples)
    if n_components == "mle":
        return minka_dimension(spectrum, n_samples)
    if is_integer(n_components):
        return int(n_components)
    return min(components_for_ratio(spectrum, n_components), n_samples)


def _check_fit_together(shape: tuple[int, int], n_components: Any, solver: str) -> None:
    n, d = shape
    if n_components == "mle" and (n < d or d < 2):
        raise ValueError(
            "n_components='mle' needs n_samples >= n_features >= 2, "
            f"got n_samples={n} and n_features={d}."
        )
    if solver in ("full", "covariance_eigh"):
        lowest, highest = 0, min(n, d)
    else:
        lowest, highest = 1, min(n, d) - (solver == "arpack")
        if n_components is not None and not is_integer(n_components):
            raise ValueError(
                f"n_components must be an integer or None with svd_solver={solver!r}, "
                f"got {n_components!r}."
            )
        if n_components is None and highest < lowest:
            raise ValueError(
                f"svd_solver={solver!r} needs min(n_samples, n_features) >= 2, got X of shape "
                f"({n}, {d})."
            )
    if is_integer(n_components) and not lowest <= n_components <= highest:
        bound = "min(n_samples, n_features)" + " - 1" * (solver == "arpack")
        raise ValueError(
            f"n_components must be between {lowest} and {bound} = {highest} with "
            f"svd_solver={solver!r}, got {n_components}."
        )


def eps_of(X: Array) -> float:
    """Relative precision of X's dtype."""
    return float(array_namespace(X).finfo(X.dtype).eps)


def _full(X: Array) -> Spectrum:
    xp = array_namespace(X)
    n, d = X.shape
    R, mean, _ = center(X)
    # The left vectors are not wanted: where they are the long ones, R's triangular factor has
    # the same singular values and right vectors.
    if n > d:
        R = linalg.qr(R, mode="r", overwrite_a=True, check_finite=False)[0][:d, :]
    _, S, V = linalg.svd(R, full_matrices=False, overwrite_a=True, check_finite=False)
    return _spectrum(X, mean, xp.astype(S, xp.float64) ** 2 / n, V, 0.0)


def _arpack(X: Array, k: int, random_state: np.random.RandomState) -> Spectrum:
    R, mean, squares = center(X)
    start = random_state.uniform(-1, 1, min(X.shape))
    if not R.any():  # where ARPACK finds no vector to start from
        return _truncated(R, mean, 0.0, np.eye(k, X.shape[1], dtype=X.dtype), np.zeros(k))
    _, S, V = svds(R, k=k, v0=start)
    return _truncated(R, mean, squares, V[::-1, :], S[::-1])


def _randomized(
    X: Array,
    k: int,
    iterated_power: int | str,
    n_oversamples: int,
    random_state: np.random.RandomState,
) -> Spectrum:
    """Subspace iteration from a random start, as PCA's, whose random numbers it draws.

    It ends with the best components within a subspace of the features, so that the variances
    are those of the data along them. PCA's may end in a subspace of the samples. Each product is
    normalised by QR where PCA has LU: that spans the same space, and stays in the array library
    whose threads have just done the product.
    """
    xp = array_namespace(X)
    R, mean, squares = center(X)
    if iterated_power == "auto":
        iterated_power = 7 if k < 0.1 * min(X.shape) else 4
    M = R.T if X.shape[0] < X.shape[1] else R
    size = min(k + n_oversamples, M.shape[1])
    Q = to_device_of(R, random_state.normal(size=(M.shape[1], size)))
    for _ in range(int(iterated_power)):
        Q = xp.linalg.qr(M @ Q, mode="reduced")[0]
        Q = xp.linalg.qr(M.T @ Q, mode="reduced")[0]
    Q = xp.linalg.qr(M @ Q, mode="reduced")[0]
    if M is R:
        Q = xp.linalg.qr(R.T @ Q, mode="reduced")[0]
    _, S, V = xp.linalg.svd(R @ Q, full_matrices=False)
    return _truncated(R, mean, squares, V[:k, :] @ Q.T, S[:k])


def _truncated(R: Array, mean: Array, squares: float, V: Array, S: Array) -> Spectrum:
    """Spectrum of centred rows R from their leading right vectors and singular values."""
    xp = array_namespace(R)
    n = R.shape[0]
    values = xp.astype(xp.asarray(S), xp.float64) ** 2 / n
    spectrum = _spectrum(R, mean, values, V, squares / n - float(xp.sum(values)))
    # For each feature the variance that the decomposition and the rows' own rounding may make.
    with np.errstate(over="ignore"):
        rounded = spectrum.resolution + (spectrum.rounding * spectrum.mean) ** 2
    if spectrum.rest < max(eps_of(R) ** 0.5 * squares / n, float(xp.sum(rounded))):
        # The difference has cancelled: take the squares of what the components leave over.
        left = xp.sum((R - (R @ V.T) @ V) ** 2, axis=0, dtype=xp.float64) / n
        rest = 0.0 if xp.all(left <= rounded) else float(xp.sum(left))
        spectrum = replace(spectrum, rest=rest)
    return spectrum


def _spectrum(X: Array, mean: Array, values: Array, V: Array, rest: float) -> Spectrum:
    n, d = X.shape
    eps = eps_of(X)
    # Singular values are found to a few eps of the largest; an eigenvalue is their square.
    error = 16.0 * max(n, d) * eps**2 * float(values[0])
    rounding = spread_of_rounding(eps, n, d)
    return Spectrum(mean, values, with_positive_peaks(V), rest, max(error, SMALLEST), rounding)
