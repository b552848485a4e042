"""Checks of parameters and data. Errors name the parameter, the requirement and the value."""

import math
import mmap
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj
from scipy import sparse
from sklearn import get_config, utils
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_array, validate_data

from sklearn_vae.containers import is_non_numpy, readable, to_host
from sklearn_vae.stored_rows import StoredRows

FLOAT_DTYPES = (np.float64, np.float32)

# Number of bytes of the floats of a memory-mapped array from which deep models do not read it into
# memory as a whole.
LARGEST_IN_MEMORY = 2**26

# Packages that define Dask collections.
DASK = ("dask", "dask_expr")


def is_integer(value: Any) -> bool:
    """Return whether `value` is an integer; booleans do not count."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Return whether `value` is a finite real number, including integers."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer or fraction too large for a float
        return False


def check_noise_variance(noise_variance: Any, name: str = "noise_variance") -> None:
    """Raise ValueError unless `noise_variance` is None or a finite float > 0."""
    if noise_variance is None or (is_real(noise_variance) and float(noise_variance) > 0):
        return
    raise ValueError(f"{name} must be None or a positive float, got {noise_variance!r}.")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not (isinstance(value, str) and value in choices):
        options = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {options}, got {value!r}.")


def check_integer(name: str, value: Any, *, at_least: int) -> None:
    """Raise ValueError unless `value` is an integer >= `at_least`."""
    if not (is_integer(value) and value >= at_least):
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if isinstance(value, bool | np.bool_):
        return
    raise ValueError(f"{name} must be True or False, got {value!r}.")


def check_real(
    name: str, value: Any, *, at_least: float | None = None, above: float | None = None
) -> None:
    """Raise ValueError unless `value` is a finite number >= `at_least` and > `above`."""
    if (
        is_real(value)
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
    ):
        return
    bound = (
        f" >= {at_least}" if at_least is not None else f" > {above}" if above is not None else ""
    )
    raise ValueError(f"{name} must be a finite number{bound}, got {value!r}.")


def check_random_state(random_state: Any) -> np.random.RandomState:
    """Call scikit-learn's check_random_state, with an error that names the parameter."""
    try:
        return utils.check_random_state(random_state)
    except ValueError as error:
        raise ValueError(
            "random_state must be None, an integer between 0 and 2**32 - 1 or a RandomState "
            f"instance, got {random_state!r}."
        ) from error


def checked_samples(estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int = 1) -> Any:
    """Return X as a two-dimensional float array or a sparse CSR or CSC matrix.

    Memory-mapped arrays keep their dtype, and so do arrays of other libraries than NumPy under
    scikit-learn's `array_api_dispatch`. The caller must check for NaN and infinity.
    """
    keep_dtype = _is_dispatched(X) or is_memory_mapped(X)
    return checked_data(
        estimator,
        X,
        keep_library=True,
        reset=reset,
        accept_sparse=("csr", "csc"),
        dtype="numeric" if keep_dtype else list(FLOAT_DTYPES),
        ensure_min_samples=min_samples,
        ensure_all_finite=False,
    )


def checked_data(
    estimator: BaseEstimator, X: Any, *, keep_library: bool = False, **options: Any
) -> Any:
    """Call scikit-learn's validate_data without NumPy's warnings; default dtypes are floats.

    Arrays of other libraries become NumPy arrays unless `keep_library` and `array_api_dispatch`.
    """
    refuse_dask(estimator, X)
    X = readable(X)
    if is_non_numpy(X) and not (keep_library and _is_dispatched(X)):
        X = to_host(X)
    options = {"dtype": list(FLOAT_DTYPES), **options}
    if hasattr(X, "dtypes") and len(X.shape) == 2 and X.shape[1] == 0:
        X = np.empty(X.shape)  # validate_data fails on a frame without columns and thus dtypes
    with np.errstate(invalid="ignore", over="ignore"):
        return validate_data(estimator, X, **options)


def checked_rows(estimator: BaseEstimator, X: Any, **options: Any) -> Any:
    """Return X as `checked_data` does, or as StoredRows if it is a large memory-mapped array.

    Such an array must be complete and stored row by row, otherwise it is read into memory.
    """
    file_options = {**options, "dtype": "numeric", "ensure_all_finite": False}
    if isinstance(X, StoredRows):
        checked_data(estimator, X.X, **file_options)
        return X
    if is_large_file(X):
        checked = checked_data(estimator, X, **file_options)
        if not has_nan(checked):
            return StoredRows(checked)
    return checked_data(estimator, X, **options)


def is_large_file(X: Any) -> bool:
    """Return whether X is a memory-mapped array that is not read into memory as a whole."""
    return (
        type(X) in (np.ndarray, np.memmap)
        and X.ndim == 2
        and X.dtype.kind in "biuf"
        and X.strides[1] == X.itemsize
        and X.size * (4 if X.dtype == np.float32 else 8) > LARGEST_IN_MEMORY
        and is_memory_mapped(X)
    )


def _is_dispatched(X: Any) -> bool:
    """Return whether X belongs to another array library that scikit-learn dispatches to."""
    return is_non_numpy(X) and bool(get_config()["array_api_dispatch"])


def is_dask(X: Any) -> bool:
    """Return whether X is a Dask collection or wraps one, without importing Dask."""
    if any(base.__module__.partition(".")[0] in DASK for base in type(X).__mro__):
        return True
    # xarray objects wrap Dask collections; those that hold arrays in memory have no graph.
    return hasattr(type(X), "__dask_graph__") and X.__dask_graph__() is not None


def refuse_dask(by: Any, X: Any, name: str = "X") -> None:
    """Raise TypeError if X is a Dask collection; `by` is the estimator or function name."""
    if is_dask(X):
        who = by if isinstance(by, str) else type(by).__name__
        raise TypeError(
            f"{name} is a Dask {type(X).__name__}, which {who} would load into memory as a whole. "
            f"Pass {name}.compute() if it fits into memory. Dask arrays are supported by fit, "
            "transform and score of PPCA, PPCACV, FactorAnalysis and LinearVAE(solver='em')."
        )


def is_memory_mapped(X: Any) -> bool:
    """Return whether X is a memory-mapped NumPy array or a view of one."""
    while isinstance(X, np.ndarray):
        X = X.base
    return isinstance(X, mmap.mmap)


def available_memory() -> float:
    """Return the available memory in bytes, or infinity if it is unknown."""
    limits = [math.inf]
    with suppress(OSError, StopIteration), open("/proc/meminfo") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
        limits.append(1024 * int(line.split()[1]))
    limits.append(_container_memory())
    if min(limits) == math.inf and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits)


@cache
def _container_memory() -> float:
    """Return the memory limit of the container in bytes, or infinity without one."""
    limits = [math.inf]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" means no limit
            limits.append(int((Path("/sys/fs/cgroup") / limit).read_text()))
    return min(limits)


def check_memory(n_bytes: float, what: str, instead: str) -> None:
    """Raise MemoryError unless `n_bytes` are available; `what` says what needs them."""
    available = available_memory()
    if n_bytes > available:
        raise MemoryError(
            f"{what}, together {n_bytes / 2**30:.1f} GiB, but {available / 2**30:.1f} GiB are "
            f"available. {instead}"
        )


def check_finite(X: Any, *, allow_nan: bool = False) -> None:
    """Raise ValueError, without NumPy's warnings, if X contains NaN or infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        for block in _row_blocks(X):
            assert_all_finite(block, input_name="X", allow_nan=allow_nan)


def _row_blocks(X: Any) -> Iterator[Any]:
    """Yield blocks of rows of an array, or of the stored entries of a sparse one."""
    X = X.data if sparse.issparse(X) else X
    n, size = X.shape[0], max(2**20 // max(math.prod(X.shape[1:]), 1), 1)
    return (X[start : min(start + size, n), ...] for start in range(0, n, size))


def has_nan(X: Any) -> bool:
    """Return whether X contains NaN; raise ValueError if it contains infinity."""
    if isinstance(X, StoredRows):
        return False
    X = X.data if sparse.issparse(X) else X
    xp = array_namespace(X)
    if not xp.isdtype(X.dtype, "real floating"):
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        if xp.isfinite(xp.sum(X)):
            return False
    check_finite(X, allow_nan=True)
    return any(xp.any(xp.isnan(block)) for block in _row_blocks(X))


def refuse_nan(function: str, X: Any, instead: str) -> None:
    """Raise ValueError if X contains NaN or infinity; `instead` says what to do about NaN."""
    if has_nan(X):
        raise ValueError(f"{function} needs X without missing values, got NaN. {instead}")


def check_bits(X: Any, binarize: Any) -> Any:
    """Threshold X at `binarize`, or check that its entries are in [0, 1] if that is None.

    Missing values (NaN) stay.
    """
    if binarize is not None:
        check_real("binarize", binarize)
        if isinstance(X, StoredRows):
            return StoredRows(X.X, X.indices, float(binarize))
        # The comparison is in float64, whatever type the threshold has.
        bits = (np.float64(binarize) < X).astype(X.dtype)
        missing = np.isnan(X)
        return np.where(missing, X, bits) if missing.any() else bits
    if isinstance(X, StoredRows):
        size = max(1, 2**20 // X.shape[1])
        for start in range(0, len(X), size):
            _check_range(X[start : start + size], start)
    else:
        _check_range(X)
    return X


def _check_range(X: np.ndarray, first_row: int = 0) -> None:
    """Raise ValueError unless all entries that are not missing are in [0, 1]."""
    if X.min() >= 0.0 and X.max() <= 1.0:
        return
    wrong = (X < 0.0) | (X > 1.0)
    if not wrong.any():  # only missing values
        return
    refuse(
        X,
        wrong,
        "X must have entries in [0, 1] if binarize is None",
        " Set binarize to a threshold above which entries become 1.",
        first_row,
    )


def refuse(
    X: np.ndarray, wrong: np.ndarray, requirement: str, advice: str = "", first_row: int = 0
) -> NoReturn:
    """Raise a ValueError that names the first entry of X that is `wrong`.

    `first_row` is the number of the first sample of X.
    """
    row, column = np.argwhere(wrong)[0]
    position = f"row {first_row + row}, column {column}"
    raise ValueError(f"{requirement}, got {X[row, column]} in {position}.{advice}")


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Restore the attributes of the estimator if the context raises an exception."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def check_latents(estimator: BaseEstimator, Z: Any, n_components: int) -> Any:
    """Return Z as a finite float array of shape (n_samples, n_components)."""
    refuse_dask(estimator, Z, "Z")
    Z = readable(Z, "Z")
    keep_library = _is_dispatched(Z) and utils.get_tags(estimator).array_api_support
    Z = to_host(Z) if is_non_numpy(Z) and not keep_library else Z
    with np.errstate(invalid="ignore", over="ignore"):
        Z = check_array(
            Z,
            input_name="Z",
            dtype="numeric" if keep_library else list(FLOAT_DTYPES),
            ensure_min_features=min(n_components, 1),
        )
    if Z.shape[1] != n_components:
        raise ValueError(
            f"Z must have {n_components} columns, one per latent dimension of "
            f"{type(estimator).__name__}, got {Z.shape[1]}."
        )
    return Z


def check_same_device(estimator: BaseEstimator, X: Any, fitted: Any, method: str) -> None:
    """Raise ValueError unless X has the array library and the device of a fitted array."""
    if not is_array_api_obj(X):  # sparse
        X = np.empty(0)
    if array_namespace(X) is array_namespace(fitted) and device(X) == device(fitted):
        return
    raise ValueError(
        f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and "
        f"the same device as those passed to fit(), got {_namespace_and_device(X)} after "
        f"{_namespace_and_device(fitted)}. Arrays are converted to NumPy unless "
        "sklearn.config_context(array_api_dispatch=True) is active."
    )


def _namespace_and_device(X: Any) -> str:
    return f"{array_namespace(X).__name__} on device {device(X)}"
