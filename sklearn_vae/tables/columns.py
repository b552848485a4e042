"""Columns of DataFrames and arrays: their values and missing entries, and the way back.

A dtype is described by a dict of plain values, which can be stored: "kind" is "bool", "int", "float",
"string", "object" or "category", and "name" is that of the dtype. Objects have "values", their kind in
the training samples. Categories have "labels" and
"ordered", and in pandas "label_dtype", too. Intervals of pandas have their text as labels, and their
limits in "intervals".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sklearn_vae.containers import check_container, is_non_numpy, readable, to_host

Array = NDArray[Any]

KINDS_OF_NUMPY = {"b": "bool", "i": "int", "u": "int", "f": "float", "U": "string", "O": "object"}


@dataclass(frozen=True, eq=False)
class ColumnValues:
    """Values of a column of shape (n_samples,), a mask of the missing ones, and the dtype.

    The array has the dtype bool, an integer or float one, or object for everything else. Its missing
    entries have arbitrary values.
    """

    values: Array
    missing: Array
    dtype: dict[str, Any]

    @property
    def observed(self) -> Array:
        """Values that are not missing."""
        return self.values[~self.missing]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of a container, which is "pandas", "polars" or "array".

    Columns of arrays have their indices as names, and those of DataFrames their labels.
    """

    container: str
    names: list[Any]
    columns: list[ColumnValues]
    n_samples: int

    @property
    def has_text_names(self) -> bool:
        """Whether all names are strings."""
        return all(isinstance(name, str) for name in self.names)


def read_table(X: Any, name: str = "X") -> Table:
    """Return the columns of a DataFrame or array.

    Parameters
    ----------
    X : DataFrame of pandas or polars, or array-like of shape (n_samples, n_features)
        Table.
    name : str, default="X"
        Its name in error messages.

    Raises
    ------
    TypeError
        If X is a container that must be converted first.
    ValueError
        If X is not two-dimensional, if names occur twice, or if the dtype of a column is refused.
    """
    if sparse.issparse(X):
        raise TypeError(f"{name} must be a dense array or a DataFrame, got a sparse matrix.")
    X = frame_of(X)
    if not is_frame(X):
        return _read_array(X, name)
    check_container(X, name)
    names = unique_names(X, name)
    package = type(X).__module__.partition(".")[0]
    if package == "polars":
        columns = [_read_polars(X.get_column(label), label) for label in names]
    else:
        columns = [_read_pandas(column, label) for label, column in X.items()]
    plain = [label.item() if isinstance(label, np.generic) else label for label in names]
    return Table(package, plain, columns, len(X))


def is_frame(X: Any) -> bool:
    """Return whether X is a DataFrame."""
    return hasattr(X, "to_numpy") and hasattr(X, "columns")


def unique_names(X: Any, name: str = "X") -> list[Any]:
    """Return the names of the columns of a DataFrame; raise ValueError if one occurs twice."""
    names = list(X.columns)
    if len(set(names)) < len(names):
        twice = next(label for label in names if names.count(label) > 1)
        raise ValueError(f"Names of columns of {name} must be unique, got {twice!r} twice.")
    return names


def frame_of(X: Any) -> Any:
    """Return X, or a DataFrame of pandas with its content if X is one of another library."""
    package = type(X).__module__.partition(".")[0]
    if package not in ("pandas", "polars") and hasattr(X, "to_pandas"):
        return X.to_pandas()
    return X


def row_labels(X: Any) -> Any:
    """Return the index of a DataFrame of pandas, None for everything else."""
    X = frame_of(X)
    return X.index if is_frame(X) and hasattr(X, "iloc") else None


def write_frame(
    container: str, names: Sequence[Any], columns: Sequence[Any], index: Any = None
) -> Any:
    """Return a DataFrame of columns made by :func:`write_column`."""
    named = dict(zip(names, columns, strict=True))
    if container == "polars":
        import polars

        return polars.DataFrame(named)
    import pandas

    frame = pandas.DataFrame(named)
    if index is not None:
        frame.index = index
    return frame


def write_column(container: str, values: Array, missing: Array, dtype: dict[str, Any]) -> Any:
    """Return values as a column with a dtype, or a nullable one if values are missing.

    Values are real numbers, or objects of Python. Numbers are rounded if the dtype is of integers,
    and clipped to its range.
    """
    if has_integers(dtype):
        values = _whole(values, missing, dtype)
    if container == "polars":
        return _write_polars(values, missing, dtype)
    return (_write_pandas if container == "pandas" else _write_array)(values, missing, dtype)


def kind_of_objects(values: Array) -> str:
    """Return the kind of observed values in an array of objects."""
    kinds: dict[str, Any] = {"bool": (bool, np.bool_), "int": Integral, "float": Real}
    for kind, types in kinds.items():
        if all(isinstance(value, types) for value in values):
            return kind
    return "string" if all(isinstance(value, str) for value in values) else "object"


def array_of(X: Any, name: str = "X") -> Array:
    """Return array-likes of numbers or text as an array; lists keep the types of their cells."""
    X = readable(X, name, text=True)
    if is_non_numpy(X):
        return to_host(X)
    array = np.asarray(X)
    if array.dtype.kind == "U" and not isinstance(X, np.ndarray):  # NumPy has made text of numbers
        objects = np.array(X, dtype=object)
        if not all(isinstance(value, str) for value in objects.flat):
            return np.asarray(readable(objects, name, text=True))
    return array


def _read_array(X: Any, name: str) -> Table:
    X = array_of(X, name)
    if X.ndim != 2:
        raise ValueError(
            f"{name} must be two-dimensional, (n_samples, n_features), got the shape {X.shape}. "
            "Reshape your data using array.reshape(-1, 1) if it has a single feature."
        )
    kind = KINDS_OF_NUMPY.get(X.dtype.kind)
    if kind is None:
        problem = "Complex data not supported. " if X.dtype.kind == "c" else ""
        raise ValueError(f"{problem}{name} has the dtype {X.dtype}, which no column may have.")
    dtype = {"kind": kind, "name": str(X.dtype)}
    columns = []
    for values in X.T:
        missing = np.zeros(len(X), dtype=bool)
        if kind == "float":
            missing = np.isnan(values)
        elif kind == "object":
            missing = np.array([_is_nan(value) for value in values], dtype=bool)
        columns.append(ColumnValues(_plain(values), missing, dtype))
    return Table("array", list(range(len(columns))), columns, len(X))


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _plain(values: Array) -> Array:
    """Return text as objects."""
    return values.astype(object) if values.dtype.kind == "U" else values


def _read_pandas(column: Any, name: Any) -> ColumnValues:
    dtype, missing = column.dtype, column.isna().to_numpy(dtype=bool)
    described: dict[str, Any] = {"name": str(dtype)}
    if described["name"] == "category":
        described |= {"kind": "category", "ordered": bool(dtype.ordered)}
        described |= _described_labels(dtype.categories)
        labels = _objects(described["labels"])
        codes = column.cat.codes.to_numpy()
        values = labels[codes] if len(labels) else np.full(len(codes), None)
        return ColumnValues(values, missing, described)
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(getattr(dtype, "kind", "O"))
    if kind is None:
        values = column.to_numpy(dtype=object)
        is_text = described["name"].startswith(("str", "large_string"))
        if not is_text and described["name"] != "object":
            raise _dtype_error(name, described["name"])
        kind = "string" if is_text else "object"
    elif kind == "float":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        unsigned = kind == "int" and dtype.kind == "u"
        wide: Any = bool if kind == "bool" else np.uint64 if unsigned else np.int64
        filled = {"na_value": wide(0)} if missing.any() else {}
        values = column.to_numpy(dtype=wide, **filled)
    return ColumnValues(values, missing, {"kind": kind, **described})


def _described_labels(categories: Any) -> dict[str, Any]:
    """Return the description of the categories of pandas' dtype."""
    if hasattr(categories, "closed"):
        sides, subtype = [categories.left, categories.right], categories.dtype.subtype
        if subtype.kind in "mM" or hasattr(subtype, "tz"):  # times as text can be saved
            ends = [[value.isoformat() for value in side] for side in sides]
            of_type = [str(subtype)]
        else:
            ends, of_type = [side.tolist() for side in sides], []
        labels = [str(label) for label in categories]
        return {"labels": labels, "intervals": [*ends, categories.closed, *of_type]}
    return {"labels": categories.tolist(), "label_dtype": str(categories.dtype)}


def _read_polars(column: Any, name: Any) -> ColumnValues:
    import polars

    dtype, missing = column.dtype, column.is_null().to_numpy()
    described: dict[str, Any] = {"name": dtype.base_type().__name__}
    if dtype == polars.Boolean:
        kind, values = "bool", column.fill_null(False).to_numpy()
    elif dtype.is_integer():
        kind, values = "int", column.fill_null(0).to_numpy()
    elif dtype.is_float():
        kind, values = "float", column.cast(polars.Float64).fill_null(np.nan).to_numpy()
        missing = np.isnan(values)
    elif dtype in (polars.String, polars.Categorical, polars.Enum, polars.Null):
        kind, values = "string", _objects(column.cast(polars.String).to_list())
        if dtype == polars.Enum:
            labels = dtype.categories.to_list()
            kind, described = "category", {**described, "labels": labels, "ordered": False}
        described["name"] = "String" if dtype == polars.Null else described["name"]
    else:
        raise _dtype_error(name, dtype)
    return ColumnValues(values, missing, {"kind": kind, **described})


def _dtype_error(name: Any, dtype: Any) -> ValueError:
    return ValueError(
        f"Column {name!r} has the dtype {dtype}, which is not supported. Convert it to numbers, "
        "booleans, strings or categories."
    )


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def has_integers(dtype: dict[str, Any]) -> bool:
    """Return whether a dtype is of integers, or of objects that were integers in `fit`."""
    return "int" in (dtype["kind"], dtype.get("values"))


def range_of_integers(dtype: dict[str, Any]) -> Any:
    """Return NumPy's description of the range of a dtype of integers, that of int64 for objects."""
    try:
        return np.iinfo(dtype["name"].lower().partition("[")[0])
    except (TypeError, ValueError):
        return np.iinfo(np.int64)


def _whole(values: Array, missing: Array, dtype: dict[str, Any]) -> Array:
    """Return numbers as integers within the range of a dtype, with 0 for missing ones."""
    info = range_of_integers(dtype)
    if values.dtype.kind != "f":
        return np.array([0 if m else int(v) for v, m in zip(values, missing, strict=True)])
    rounded = np.rint(np.where(missing, 0.0, values))
    # The largest integers of 64 bits are no floats.
    inside = np.clip(rounded, float(info.min), np.nextafter(float(info.max), 0.0))
    return np.where(rounded >= info.max, info.max, inside.astype(info.dtype))


def _with_none(values: Array, missing: Array) -> list[Any]:
    return [None if m else v for v, m in zip(values.tolist(), missing, strict=True)]


def _write_pandas(values: Array, missing: Array, dtype: dict[str, Any]) -> Any:
    import pandas

    name, kind = dtype["name"], dtype["kind"]
    if kind == "category":
        if "intervals" in dtype:
            left, right, closed, *times = dtype["intervals"]
            for subtype in times:
                left, right = (pandas.Index(side).astype(subtype) for side in (left, right))
            index = pandas.IntervalIndex.from_arrays(left, right, closed=closed)
        else:
            index = pandas.Index(dtype["labels"], dtype=dtype["label_dtype"])
        positions = {label: i for i, label in enumerate(dtype["labels"])}
        codes = [-1 if v is None else positions[v] for v in _with_none(values, missing)]
        return pandas.Categorical.from_codes(
            codes, dtype=pandas.CategoricalDtype(index, dtype["ordered"])
        )
    if not missing.any():
        return pandas.Series(values if kind != "object" else _objects(values.tolist()), dtype=name)
    if name == "bool":
        name = "boolean"
    elif kind == "int" and name.startswith(("int", "uint")) and "[" not in name:
        name = name.replace("uint", "UInt").replace("int", "Int", name.startswith("int"))
    if kind == "float":
        return pandas.Series(np.where(missing, np.nan, values), dtype=name)
    return pandas.Series(_with_none(values, missing), dtype=name)


def _write_polars(values: Array, missing: Array, dtype: dict[str, Any]) -> Any:
    import polars

    target = polars.Enum(dtype["labels"]) if dtype["kind"] == "category" else dtype["name"]
    if isinstance(target, str):
        target = getattr(polars, target)
    return polars.Series(_with_none(values, missing), dtype=target, strict=False)


def _write_array(values: Array, missing: Array, dtype: dict[str, Any]) -> Array:
    kind = dtype["kind"]
    if not missing.any():
        return values.astype(dtype["name"])
    if kind in ("bool", "int"):
        kind, dtype = "float", {"name": "float64"}
    if kind == "float":
        return np.where(missing, np.nan, values.astype(np.float64)).astype(dtype["name"])
    values = _objects(values.tolist())
    values[missing] = np.nan
    return values
