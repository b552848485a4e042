"""Conversion of containers of other libraries to arrays that scikit-learn can check."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    is_array_api_obj,
    is_array_api_strict_namespace,
    is_numpy_array,
    is_torch_array,
    to_device,
)
from scipy import sparse

# Names of the dtypes of dates and times in pandas, polars and pyarrow begin like this.
TIMES = ("date", "duration", "period", "time")

# Names of dtypes that may hold text begin like this.
TEXTS = ("category", "categorical", "enum", "object", "str", "utf8")


def readable(X: Any, name: str = "X", *, text: bool = False) -> Any:
    """Return X with NaN for missing values of every kind; return all other containers unchanged.

    The entries under a mask, and None, pandas.NA and NaT among objects, become NaN.

    Parameters
    ----------
    X : object
        Data passed by the user.
    name : str, default="X"
        Its name in error messages.
    text : bool, default=False
        Whether an array of objects may contain text.

    Raises
    ------
    TypeError
        If X is a container that must be converted first.
    ValueError
        If X contains dates, times or text.
    """
    _refuse_containers(X, name)
    if getattr(X, "requires_grad", False):
        X = X.detach()
    if isinstance(X, list | tuple):
        X = _list_with_nan(X)
    if type(X).__module__.partition(".")[0] == "pyarrow" and hasattr(X, "to_pandas"):
        X = X.to_pandas()
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        check_container(X, name)
        return _frame_with_nan(X, name)
    if getattr(getattr(X, "dtype", None), "kind", "") in ("m", "M"):
        raise _times_error(name, X.dtype)
    if isinstance(X, np.ma.MaskedArray):
        X = _masked_with_nan(X)
    if isinstance(X, np.ndarray) and X.dtype.kind == "O":
        return _objects_with_nan(X, name, text)
    return X


def check_container(X: Any, name: str = "X") -> None:
    """Raise an error for a container that cannot be read, or a DataFrame with dates or times.

    Parameters
    ----------
    X : object
        Data passed by the user.
    name : str, default="X"
        Its name in error messages.

    Raises
    ------
    TypeError
        If X is a container that must be converted first.
    ValueError
        If the dtype of a column, or of its categories, is one of dates or times.
    """
    _refuse_containers(X, name)
    if not (hasattr(X, "columns") and hasattr(X, "to_numpy")):
        return
    for column, dtype in zip(X.columns, list(X.dtypes), strict=True):
        dtype = getattr(getattr(dtype, "categories", None), "dtype", dtype)
        if str(dtype).lower().startswith(TIMES):
            raise _times_error(name, dtype, f" in column {column!r}")


def to_array(X: Any, name: str = "X") -> Any:
    """Return X as an array or sparse matrix, with NaN for missing values of every kind."""
    X = readable(X, name)
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        if all(isinstance(dtype, np.dtype) for dtype in X.dtypes) or not hasattr(X, "iloc"):
            return X.to_numpy()
        return X.to_numpy(dtype=np.float64, na_value=np.nan)
    return X if sparse.issparse(X) or is_array_api_obj(X) else np.asarray(X)


def with_names(X: np.ndarray, names: Any) -> Any:
    """Return samples as a DataFrame with these names of features, unchanged if names is None."""
    if names is None:
        return X
    try:
        from pandas import DataFrame
    except ImportError:  # the names are those of a frame of another library
        return X
    return DataFrame(X, columns=names)


def as_fitted(X: np.ndarray, model: Any) -> Any:
    """Return samples as a DataFrame if the model was fitted to one, which then asks for names."""
    return with_names(X, getattr(model, "feature_names_in_", None))


def to_host(values: Any) -> np.ndarray:
    """Return an array of any library, on any device, as a NumPy array."""
    if is_array_api_strict_namespace(array_namespace(values)):
        host = array_namespace(values).__array_namespace_info__().default_device()
        return np.from_dlpack(to_device(values, host))
    if is_torch_array(values):  # NumPy has neither lazy signs nor bfloat16
        values = values.detach().resolve_conj().resolve_neg()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    return np.asarray(to_device(values, "cpu"))


def is_non_numpy(X: Any) -> bool:
    """Return whether X is an array of another library than NumPy."""
    return bool(is_array_api_obj(X) and not is_numpy_array(X))


def _refuse_containers(X: Any, name: str) -> None:
    """Raise TypeError for a container that cannot be read, with the conversion to make."""
    kind, remedy = type(X).__name__, None
    if "LazyFrame" in kind:
        remedy = f"{name}.collect()"
    elif is_array_api_obj(X) and str(getattr(X, "layout", "torch.strided")) != "torch.strided":
        kind, remedy = f"sparse {kind}", f"{name}.to_dense() or a sparse matrix of SciPy"
    elif any(base.__module__.startswith("torch.utils.data") for base in type(X).__mro__):
        remedy = "its samples as one array of shape (n_samples, n_features)"
    if remedy is not None:
        raise TypeError(f"{name} must be an array or a DataFrame, got a {kind}. Pass {remedy}.")


def _times_error(name: str, dtype: Any, column: str = "") -> ValueError:
    return ValueError(
        f"{name} must contain real numbers, got {dtype}{column}. Convert dates and times to "
        "numbers, for example to days since a fixed date."
    )


def _list_with_nan(X: Any) -> Any:
    """Convert a list of objects, times or masked arrays to an array; return other lists unchanged.

    NumPy would ignore the masks.
    """
    if any(isinstance(row, np.ma.MaskedArray) for row in X):
        return np.ma.array(X)
    with suppress(TypeError, ValueError, RuntimeError):  # left to scikit-learn
        array = np.asarray(X)
        if array.ndim == 2 and array.dtype.kind in "mMO":
            return array
    return X


def _masked_with_nan(X: Any) -> np.ndarray:
    """Return a masked array with NaN in place of masked values."""
    if X.dtype.kind not in "fc":
        X = X.astype(np.float64 if X.dtype.kind in "biu" else object)
    return np.ma.filled(X, np.nan)


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value)):
        return True
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def _objects_with_nan(X: np.ndarray, name: str, text: bool) -> np.ndarray:
    """Return an array of objects with NaN for missing values."""
    X = X.copy()
    for index, value in np.ndenumerate(X):
        if _is_missing(value):
            X[index] = np.nan
        elif isinstance(value, np.datetime64 | np.timedelta64) or hasattr(value, "isoformat"):
            position = f" in row {index[0]}, column {index[1]}" if len(index) == 2 else ""
            raise _times_error(name, type(value).__name__, position)
        elif not text and _is_text(value):
            raise _text_error(name, value, f"column {index[1]}" if len(index) == 2 else "it")
    return X


def _refuse_text(X: Any, name: str) -> None:
    """Raise ValueError for the first string in a DataFrame that is no number."""
    for j, (column, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
        if str(dtype).lower().startswith(TEXTS):
            for value in X.iloc[:, j] if hasattr(X, "iloc") else X[:, j]:
                if _is_text(value):
                    raise _text_error(name, value, f"column {column!r}")


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _text_error(name: str, value: str, where: str) -> ValueError:
    return ValueError(
        f"{name} must contain real numbers, got the text {value!r:.40} in {where}. Encode text as "
        "numbers, for example by sklearn.preprocessing.OneHotEncoder, or use the methods of TabularVAE, "
        "which take categories."
    )


def _frame_with_nan(X: Any, name: str) -> Any:
    """Return a DataFrame with NaN for missing values in columns of objects."""
    _refuse_text(X, name)
    if not any(dtype == object for dtype in X.dtypes):
        return X
    values = _objects_with_nan(X.to_numpy(dtype=object), name, text=False)
    with suppress(TypeError, ValueError):  # left to scikit-learn
        return type(X)(values.astype(np.float64), columns=X.columns, index=X.index)
    return X
