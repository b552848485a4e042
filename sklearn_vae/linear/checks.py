"""Checks of parameters, data and memory before a decomposition."""

from typing import Any

from array_api_compat import array_namespace, is_numpy_namespace
from scipy import sparse

from sklearn_vae.gaussian.centered import CenteredData
from sklearn_vae.gaussian.eigensolvers import components_wanted
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.validation import check_finite, check_memory, has_nan, is_integer, is_real

# Number of matrices as large as the scatter that a decomposition holds at once.
SQUARES_HELD = 7

OTHER_SOLVERS = (
    "Use fit with svd_solver='randomized' or 'arpack' and an integer n_components. Both accept "
    "sparse and memory-mapped X."
)


def check_n_components(n_components: Any, *, at_least: int = 0) -> None:
    """Raise ValueError unless `n_components` is valid for data of some shape."""
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
    """Raise ValueError if `n_components` is "mle" and there are too few samples."""
    if n_components == "mle" and (n_samples < n_features or n_features < 2):
        raise ValueError(
            "n_components='mle' needs n_samples >= n_features >= 2, "
            f"got n_samples={n_samples:g} and n_features={n_features}."
        )


def check_sums(sums: Moments | CenteredData, X: Any, *, missing: str) -> None:
    """Raise ValueError if sums over X are not finite, with the text `missing` for NaN."""
    if not sums.is_finite:
        if has_nan(X):
            raise ValueError(missing)
        check_finite(X)
        sums.check_finite()


def check_squares_fit(
    holder: str, size: int, *, X: Any = None, n_more: int = 0, instead: str = OTHER_SOLVERS
) -> None:
    """Raise MemoryError if the (size, size) matrices of a decomposition do not fit."""
    n_squares = SQUARES_HELD + n_more
    if X is None or sparse.issparse(X) or is_numpy_namespace(array_namespace(X)):
        check_memory(
            8.0 * n_squares * size**2,
            f"{holder} holds {n_squares} matrices of shape ({size}, {size})",
            instead,
        )


def check_fits_together(
    shape: tuple[int, int], n_samples: float, n_components: Any, solver: str
) -> None:
    """Raise ValueError unless `n_components` fits the shape of X and the solver."""
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
        if highest < lowest:
            raise ValueError(
                f"svd_solver={solver!r} needs at least 2 samples and 2 features, got n_samples={n} "
                f"and n_features={d}."
            )
    if is_integer(n_components) and not lowest <= n_components <= highest:
        bound = "min(n_samples, n_features)" + " - 1" * (solver == "arpack")
        raise ValueError(
            f"n_components must be between {lowest} and {bound} = {highest} with "
            f"svd_solver={solver!r}, got {n_components}."
        )


def check_components_fit(shape: tuple[int, int], n_components: Any, solver: str) -> None:
    """Raise MemoryError if the components of a solver do not fit into memory."""
    n, d = shape
    most = components_wanted(n_components, min(n, d) - (solver == "arpack"))
    instead = "Choose a smaller n_components."
    check_memory(16 * most * d, f"{most} components of {d} features", instead)


def check_solver_takes(X: Any, solver: str) -> None:
    """Raise ValueError if a solver does not accept arrays like X."""
    if sparse.issparse(X):
        if solver == "full":
            raise ValueError(
                "svd_solver must be 'auto', 'covariance_eigh', 'arpack' or 'randomized' for "
                "sparse X, got 'full', which would make X dense."
            )
    elif solver == "arpack" and not is_numpy_namespace(array_namespace(X)):
        raise ValueError(
            "svd_solver must be 'auto', 'full', 'covariance_eigh' or 'randomized' unless X is a "
            f"NumPy array or sparse, got 'arpack' for {type(X).__name__}."
        )
