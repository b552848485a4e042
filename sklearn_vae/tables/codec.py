"""Tables as arrays of numbers, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_vae.tables.columns import (
    frame_of,
    is_frame,
    read_table,
    row_labels,
    write_column,
    write_frame,
)
from sklearn_vae.tables.types import COLUMN_TYPES, Column, column_of
from sklearn_vae.validation import check_choice, is_integer

Array = NDArray[Any]


class TableCodec:
    """Codes of a table: one float per column, and NaN where a value is missing.

    Numbers stay the same. Categories have the codes 0, 1, .... Labels of a dtype that no training
    sample has are no categories, and count as missing values. Decoding restores the container,
    names and dtypes of the training samples, with nullable dtypes where values are missing.

    Parameters
    ----------
    column_types : "auto" or dict, default="auto"
        Types of columns by name, or by index if no name is an integer: "real", "positive"
        (log-normal), "heavy_tailed" (Student's t), "count", "binary", "categorical" or "ordinal". A
        list, array or Series of categories in ascending order, or an ordered dtype of pandas, means
        "ordinal", too. Types that are not given are inferred, see the guide on tables.
    handle_unknown : {"error", "missing"}, default="error"
        Whether categories that are not among `categories_` are errors, or missing values. Unused
        labels of a dtype of categories are missing values in both cases.

    Attributes
    ----------
    columns_ : list of Column
        Name, type, dtype and categories of each column.
    column_types_ : dict
        Type of each column, by name, or by index in arrays.
    categories_ : dict
        Categories of each column that has some, in the order of their codes.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of columns. Only if all are strings.
    container_ : {"pandas", "polars", "array"}
        Kind of container of the training samples.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_vae.tables import TableCodec
    >>> X = pd.DataFrame({"length": [1.5, 2.25, None], "kind": ["b", "a", "b"]})
    >>> codec = TableCodec().fit(X)
    >>> codec.column_types_
    {'length': 'real', 'kind': 'binary'}
    >>> codec.encode(X)
    array([[1.5 , 1.  ],
           [2.25, 0.  ],
           [ nan, 1.  ]])
    >>> codec.decode(codec.encode(X)).equals(X)
    True
    """

    columns_: list[Column]
    container_: str

    def __init__(self, column_types: Any = "auto", handle_unknown: str = "error") -> None:
        self.column_types = column_types
        self.handle_unknown = handle_unknown

    def fit(self, X: Any) -> TableCodec:
        """Learn the types and categories of columns.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Training samples.

        Returns
        -------
        self : TableCodec
            Fitted codec.

        Raises
        ------
        TypeError
            If X or `column_types` has the wrong type, or a value cannot be a category.
        ValueError
            If a parameter is invalid, or a column, which the message names.
        """
        check_choice("handle_unknown", self.handle_unknown, ("error", "missing"))
        table = read_table(X)
        names = table.names
        if not names:
            shape = (table.n_samples, 0)
            raise ValueError(
                f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required."
            )
        if table.n_samples == 0:
            raise ValueError("Found array with 0 sample(s), while a minimum of 1 is required.")
        given = self._given(names)
        self.columns_ = [
            column_of(name, column, given.get(name), self.handle_unknown)
            for name, column in zip(names, table.columns, strict=True)
        ]
        self.container_ = table.container
        self._set_names()
        return self

    @property
    def n_features_in_(self) -> int:
        """Number of columns."""
        return len(self.columns_)

    @property
    def column_types_(self) -> dict[Any, str]:
        """Type of each column."""
        return {column.name: column.type for column in self.columns_}

    @property
    def categories_(self) -> dict[Any, list[Any]]:
        """Categories of each column that has some."""
        return {c.name: list(c.categories) for c in self.columns_ if c.categories is not None}

    def encode(self, X: Any) -> Array:
        """Return the codes of a table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Samples with the columns of the training samples, in the same order.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_features)
            Codes in float64, NaN where values are missing.

        Raises
        ------
        ValueError
            If the columns are others, or a value is not possible for the type of its column.
        """
        table = read_table(X)
        if len(table.columns) != self.n_features_in_:
            raise ValueError(
                f"X has {len(table.columns)} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        expected = [column.name for column in self.columns_]
        is_same_kind = table.has_text_names == hasattr(self, "feature_names_in_")
        is_frame = "array" not in (table.container, self.container_)
        if is_frame and is_same_kind and table.names != expected:
            raise ValueError(
                f"X must have the columns of the training samples in their order, {expected}, got "
                f"{table.names}."
            )
        pairs = zip(self.columns_, table.columns, strict=True)
        codes = [
            column.encode(values, self.handle_unknown, unused=column.dtype.get("labels", ()))
            for column, values in pairs
        ]
        return np.stack(codes, axis=1)

    def encode_values(self, values: Mapping[Any, Any]) -> Array:
        """Return the codes of one sample of which some values are given.

        Parameters
        ----------
        values : dict
            Values by the name or index of their column.

        Returns
        -------
        codes : ndarray of shape (n_features,)
            Codes, NaN for all other columns.

        Raises
        ------
        TypeError
            If `values` is no dict.
        ValueError
            If a column does not exist, or a value is not possible for it. An unknown category is
            an error whatever `handle_unknown` is.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"given must be a dict of values by column, got {values!r}.")
        codes = np.full(self.n_features_in_, np.nan)
        given: dict[int, Any] = {}
        for name, value in values.items():
            j = self.index(name)
            if j in given:
                raise ValueError(
                    f"A column must be given once, got {given[j]!r} and {name!r} for the same column."
                )
            given[j] = name
            array = np.empty((1, 1), dtype=object)
            array[0, 0] = value
            (column,) = read_table(array, f"The value of column {name!r}").columns
            codes[j] = self.columns_[j].encode(column, "error", "Give one of them.")[0]
        return codes

    def index(self, name: Any) -> int:
        """Return the index of a column.

        Parameters
        ----------
        name : str or int
            Name or index of the column.

        Returns
        -------
        index : int
            Its index.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        return _index_of(name, [column.name for column in self.columns_], "The table")

    def with_categories(self, columns: Any = None) -> dict[Any, int]:
        """Return the indices of columns with categories.

        Parameters
        ----------
        columns : sequence of str or int, default=None
            Names or indices of columns. If None, all that have categories.

        Returns
        -------
        indices : dict of int
            Index of each column, by the name or index that is given.

        Raises
        ------
        TypeError
            If `columns` is no sequence.
        ValueError
            If a column does not exist or has no categories.
        """
        if columns is None:
            columns = list(self.categories_)
        if isinstance(columns, str) or not isinstance(columns, Iterable):
            raise TypeError(
                f"columns must be a list of names or indices, got {columns!r}. Pass [{columns!r}]."
            )
        indices = {name: self.index(name) for name in columns}
        for name, j in indices.items():
            if self.columns_[j].categories is None:
                raise ValueError(
                    f"Column {name!r} is of type {self.columns_[j].type!r} and has no categories. "
                    "Use impute(X, n_draws=...) for the conditional distribution of numbers."
                )
        return indices

    def restrict(self, codes: Any) -> Array:
        """Return generated codes whose numbers have the range and the decimals of the training samples.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_features)
            Codes, NaN where values are missing.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_features)
            Codes with numbers that are rounded to the decimals of their column, and clipped to its
            smallest and largest value.
        """
        columns = zip(self.columns_, np.asarray(codes, dtype=np.float64).T, strict=True)
        return np.stack([column.restrict(values) for column, values in columns], axis=1)

    def decode(self, codes: Any, like: Any = None) -> Any:
        """Return codes as a table like the training samples.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_features)
            Codes, NaN where values are missing. Numbers are rounded if the dtype of the column is
            of integers, or if they are counts.
        like : DataFrame, default=None
            Table whose index the result takes, if both are DataFrames of pandas.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features)
            Table with the container, names and dtypes of the training samples.
        """
        codes = np.asarray(codes, dtype=np.float64)
        columns = []
        for column, values in zip(self.columns_, codes.T, strict=True):
            made, missing = column.values(values)
            columns.append(write_column(self.container_, made, missing, column.dtype))
        if self.container_ == "array":
            return np.stack(columns, axis=1)
        names = [column.name for column in self.columns_]
        index = row_labels(like) if self.container_ == "pandas" else None
        return write_frame(self.container_, names, columns, index)

    def get_state(self) -> dict[str, Any]:
        """Return the fitted codec as a dict of plain values.

        Returns
        -------
        state : dict
            Argument for `from_state`.
        """
        return {
            "handle_unknown": self.handle_unknown,
            "container": self.container_,
            "columns": [
                [c.name, c.type, c.dtype, c.categories, c.limits, c.decimals] for c in self.columns_
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TableCodec:
        """Return the fitted codec that `get_state` has described.

        Parameters
        ----------
        state : dict
            Result of `get_state`.

        Returns
        -------
        codec : TableCodec
            Fitted codec, whose `column_types` is "auto".

        Raises
        ------
        ValueError
            If the state does not describe a codec.
        """
        codec = cls(handle_unknown=state["handle_unknown"])
        check_choice("handle_unknown", codec.handle_unknown, ("error", "missing"))
        check_choice("container", state["container"], ("pandas", "polars", "array"))
        codec.columns_ = [Column(*parts) for parts in state["columns"]]
        for column in codec.columns_:
            column.check()
        codec.container_ = state["container"]
        names = [column.name for column in codec.columns_]
        if len(set(names)) != len(names):
            raise ValueError(f"Names of columns must be unique, got {names!r:.200}.")
        codec._set_names()
        return codec

    def _set_names(self) -> None:
        self.__dict__.pop("feature_names_in_", None)
        names = [column.name for column in self.columns_]
        if all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.array(names, dtype=object)

    def _given(self, names: list[Any]) -> dict[Any, Any]:
        """Return the given types by name, or raise ValueError if one is invalid."""
        if isinstance(self.column_types, str) and self.column_types == "auto":
            return {}
        if not isinstance(self.column_types, Mapping):
            raise TypeError(
                'column_types must be "auto" or a dict of types by the name or index of columns, '
                f"got {self.column_types!r}."
            )
        given = {}
        for key, kind in self.column_types.items():
            name = names[_index_of(key, names, "column_types")]
            if isinstance(kind, str):
                check_choice(f"column_types[{key!r}]", kind, COLUMN_TYPES)
            given[name] = kind if isinstance(kind, str) else _order_of(key, kind)
        return given


def is_table(X: Any) -> bool:
    """Return whether X is a DataFrame, or can be converted to one."""
    return is_frame(frame_of(X))


def _order_of(key: Any, order: Any) -> list[Any]:
    """Return categories in ascending order, from a sequence or an ordered dtype of pandas."""
    is_unordered = getattr(order, "ordered", True) is not True
    values = getattr(order, "categories", order)
    for convert in ("to_list", "tolist"):
        if hasattr(values, convert):
            values = getattr(values, convert)()
    if is_unordered or not isinstance(values, list | tuple) or not values:
        raise ValueError(
            f"column_types[{key!r}] must be a type, a list of categories in ascending order, or an "
            f"ordered CategoricalDtype of pandas, got {order!r}."
        )
    return list(values)


def _index_of(name: Any, names: list[Any], where: str) -> int:
    """Return the position of a column given by its name, or by its index if no name is an integer."""
    if not isinstance(name, bool) and name in names:
        return names.index(name)
    if is_integer(name) and 0 <= name < len(names) and not any(map(is_integer, names)):
        return int(name)
    shown = ", ".join(repr(n) for n in names[:8]) + (", ..." if len(names) > 8 else "")
    raise ValueError(f"{where} has no column {name!r}. Columns are {shown}.")
