"""What the solvers need of the parameters and of X, checked before anything is computed."""

from typing import Any

from array_api_compat import array_namespace, is_numpy_namespace
from scipy import sparse

from sklearn_vae.gaussian import eigensolvers
from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.centred import CentredData
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.validation import (
    check_finite,
    check_memory,
    is_integer,
    is_memory_mapped,
    is_real,
)

# Matrices of the size of the scatter that exist at once while it is decomposed, workspace included.
SQUARES_HELD = 7


def check_n_components(n_components: Any, *, at_least: int = 0) -> None:
    """Raise unless `n_components` is of a kind that PCA takes, whatever the data."""
    if n_components is None or (isinstance(n_components, str) and n_components == "mle"):
        return
    if is_integer(n_components) and n_components >= at_least:
        return
    if not is_integer(n_components) and is_real(n_components) and 0 < n_components < 1:
        return
    raise ValueError(
        f"n_components must be None, an integer >= {at_least}, a float in (0, 1) or 'mle', "
        f"got {n_components!r}."
    )


def check_mle(n_components: Any, n_samples: float, n_features: int) -> None:
    """Raise ValueError where `n_components` is "mle" and there are too few rows for it."""
    if n_components == "mle" and (n_samples < n_features or n_features < 2):
        raise ValueError(
            "n_components='mle' needs n_samples >= n_features >= 2, "
            f"got n_samples={n_samples:g} and n_features={n_features}."
        )


def choose_solver(X: Any, n_components: Any, svd_solver: str) -> str:
    """Solver that "auto" stands for with X; any other passes through."""
    return eigensolvers.choose_solver(X, n_components, svd_solver, mapped=is_memory_mapped(X))


def decompose(
    X: Any,
    n_components: float | str | None,
    solver: str,
    *,
    n_rows: int,
    n_samples: float,
    **options: Any,
) -> tuple[Spectrum, Moments | None]:
    """Spectrum of X's covariance, as :func:`sklearn_vae.gaussian.eigensolvers.decompose`.

    Raises
    ------
    ValueError
        If `n_components` does not fit the shape of X or the solver, or the solver X; or X is not
        finite.
    MemoryError
        If the solver's matrix does not fit.
    """
    n, d = X.shape
    counted = max(n_rows, round(n_samples))
    check_fits_together((counted, d), n_samples, n_components, solver)
    _check_solver_takes(X, solver)
    if solver == "covariance_eigh":
        check_square_fits(X, min(n, d), "svd_solver='covariance_eigh'")
    if solver != "covariance_eigh" or n < d:
        most = eigensolvers.components_wanted(n_components, min(counted, d) - (solver == "arpack"))
        check_memory(
            16 * most * d, f"{most} components of {d} features", "Choose a smaller n_components."
        )
    try:
        return eigensolvers.decompose(
            X,
            n_components,
            solver,
            n_rows=n_rows,
            n_samples=n_samples,
            mapped=is_memory_mapped(X),
            **options,
        )
    except ValueError:
        check_finite(X)
        raise


def centred_data(
    X: Any, weights: Array | None, *, keep: bool = True, wide: bool = False
) -> CentredData:
    """Rows of X less their mean; with `wide` computed in the dtype for sums."""
    try:
        return eigensolvers.centred_data(X, weights, keep=keep, wide=wide)
    except ValueError:
        check_finite(X)
        raise


def moments_of(X: Any, weights: Array | None = None) -> Moments:
    """Moments of X, in which NaN and infinity show without a pass that looks for them."""
    try:
        return Moments.of(X, weights)
    except ValueError:
        check_finite(X)
        raise


def check_square_fits(X: Any, size: int, method: str) -> None:
    """Raise MemoryError where the (size, size) matrices of an eigendecomposition do not fit."""
    if not sparse.issparse(X) and not is_numpy_namespace(array_namespace(X)):
        return  # on a device that has memory of its own
    check_memory(
        SQUARES_HELD * 8 * size**2,
        f"{method} holds {SQUARES_HELD} matrices of shape ({size}, {size})",
        "Use fit with svd_solver='randomized' or 'arpack' and an integer n_components, which "
        "take sparse and memory-mapped X too.",
    )


def check_fits_together(
    shape: tuple[int, int], n_samples: float, n_components: Any, solver: str
) -> None:
    """Raise ValueError where rows of a shape have no such components, or the solver none such."""
    n, d = shape
    check_mle(n_components, n_samples, d)
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


def _check_solver_takes(X: Any, solver: str) -> None:
    if sparse.issparse(X):
        if solver == "full":
            raise ValueError(
                "svd_solver must be 'auto', 'covariance_eigh', 'arpack' or 'randomized' for "
                "sparse X, which 'full' would make dense, got 'full'."
            )
    elif solver == "arpack" and not is_numpy_namespace(array_namespace(X)):
        raise ValueError(
            "svd_solver must be 'auto', 'full', 'covariance_eigh' or 'randomized' for arrays "
            f"other than NumPy's, got 'arpack' and {type(X).__name__}."
        )
