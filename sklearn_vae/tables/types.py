"""Types of columns: the rule that infers them, and the codes of their values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_vae.tables.columns import (
    KINDS_OF_NUMPY,
    ColumnValues,
    has_integers,
    kind_of_objects,
    range_of_integers,
)
from sklearn_vae.validation import check_choice, check_integer, is_real

Array = NDArray[Any]

NUMBERS = ("real", "positive", "heavy_tailed", "count")
CATEGORIES = ("binary", "categorical", "ordinal")
COLUMN_TYPES = (*NUMBERS, *CATEGORIES)

# Kinds of dtypes.
KINDS = {*KINDS_OF_NUMPY.values(), "category"}

# Largest number of different integers that are taken for ordered categories.
FEW_VALUES = 10

# Largest number of categories of a column.
MAX_CATEGORIES = 1000

# Largest number of decimals to which generated numbers are rounded.
MAX_DECIMALS = 8

# Integers below this one are exact as floats.
EXACT_INTEGERS = 2**53

# Largest absolute value of numbers.
LARGEST = 1e150

# Remedy for unknown categories.
FOR_UNKNOWN = "Set handle_unknown='missing' to treat unknown categories as missing values."

# Skewness above which positive numbers may be log-normal, and excess kurtosis of heavy tails.
SKEWED = 1.0
HEAVY = 10.0


@dataclass(frozen=True)
class Column:
    """Name, type, dtype and categories of a column.

    Attributes
    ----------
    name : str or int
        Name, or index in arrays.
    type : str
        One of `COLUMN_TYPES`.
    dtype : dict
        Description of the dtype, see :mod:`~sklearn_vae.tables.columns`.
    categories : list or None
        Values of the codes 0, 1, ..., None for numbers.
    limits : list of float or None
        Smallest and largest number of the training samples.
    decimals : int or None
        Smallest number of decimals that all numbers have, None if it is above `MAX_DECIMALS`.
    """

    name: Any
    type: str
    dtype: dict[str, Any]
    categories: list[Any] | None = None
    limits: list[float] | None = None
    decimals: int | None = None

    def check(self) -> None:
        """Raise ValueError unless type, dtype and categories fit together."""
        check_choice("type", self.type, COLUMN_TYPES)
        is_dtype = isinstance(self.dtype, dict) and self.dtype.get("kind") in KINDS
        if not (is_dtype and isinstance(self.dtype.get("name"), str)):
            raise ValueError(f"The dtype of column {self.name!r} is invalid: {self.dtype!r:.200}.")
        if (self.type in CATEGORIES) != isinstance(self.categories, list):
            raise ValueError(f"Column {self.name!r} must have categories if its type has some.")
        if self.limits is not None and not all(is_real(limit) for limit in self.limits):
            raise ValueError(f"Column {self.name!r} must have finite limits, got {self.limits!r}.")
        if self.decimals is not None:
            check_integer("decimals", self.decimals, at_least=0)
        if self.categories is not None:
            _check_categories(self.name, self.type, self.categories)
            labels = self.dtype.get("labels", self.categories)
            if self.dtype["kind"] == "category" and not set(self.categories) <= set(labels):
                raise ValueError(f"Column {self.name!r} must have the categories of its dtype.")

    def encode(
        self,
        column: ColumnValues,
        handle_unknown: str,
        remedy: str = FOR_UNKNOWN,
        unused: Collection[Any] = (),
    ) -> Array:
        """Return values as floats of shape (n_samples,): codes or numbers, NaN where missing.

        `unused` are values that count as missing whatever `handle_unknown` is.

        Raises
        ------
        ValueError
            If a value is not possible for the type, or not among the categories and
            `handle_unknown` is "error".
        """
        codes = np.full(len(column.values), np.nan)
        if self.categories is None:
            x = numbers(self.name, self.type, column)
            _check_integers(self.name, self.dtype, x)
            codes[~column.missing] = x
            return codes
        different, inverse = _unique(self.name, column.observed)
        known = {value: code for code, value in enumerate(self.categories)}
        positions = np.array([known.get(value, np.nan) for value in different], dtype=np.float64)
        unknown = [value for value in different if value not in known and value not in unused]
        if unknown and handle_unknown == "error":
            raise ValueError(
                f"Column {self.name!r} contains the unknown category {unknown[0]!r}. Known are "
                f"{_shortened(self.categories)}. {remedy}"
            )
        codes[~column.missing] = positions[inverse]
        return codes

    def restrict(self, codes: Array) -> Array:
        """Return numbers with the range and the decimals of the training samples."""
        if self.limits is None:
            return codes
        rounded = codes if self.decimals is None else np.round(codes, self.decimals)
        low, high = self.limits
        return np.clip(rounded, low, high)

    def values(self, codes: Array) -> tuple[Array, Array]:
        """Return values for codes, and a mask of those that are missing (NaN)."""
        missing = np.isnan(codes)
        if self.categories is None:
            as_bool = self.dtype["kind"] == "bool"
            values = codes > 0.5 if as_bool else np.rint(codes) if self.type == "count" else codes
            return values, missing
        categories = np.empty(len(self.categories) + 1, dtype=object)
        categories[:-1] = self.categories
        index = np.where(missing, len(self.categories), codes).astype(np.intp)
        values = categories[index]
        if missing.any() or self.dtype["kind"] not in ("bool", "int", "float"):
            return values, missing
        return np.array(values.tolist()), missing


def column_of(name: Any, column: ColumnValues, given: Any, handle_unknown: str = "error") -> Column:
    """Return a column of training samples with its type.

    Parameters
    ----------
    name : str or int
        Name or index.
    column : ColumnValues
        Training samples.
    given : str or sequence or None
        Type, categories in ascending order, or None to infer the type.
    handle_unknown : {"error", "missing"}, default="error"
        Whether values that are not among given categories are errors, or missing values.

    Raises
    ------
    ValueError
        If the column has no observed value, or values that are not possible for the type.
    """
    if column.missing.all():
        raise ValueError(f"Column {name!r} has no observed value. Drop it.")
    if given is None:
        kind, categories = inferred(name, column)
    elif isinstance(given, str):
        kind, categories = given, None
    else:
        kind, categories = "ordinal", list(given)
    dtype = column.dtype
    if dtype["kind"] == "object":
        dtype = {**dtype, "values": kind_of_objects(column.observed)}
    if kind in NUMBERS:
        x = numbers(name, kind, column)
        _check_integers(name, dtype, x)
        _check_range(name, x)
        limits = [float(x.min()), float(x.max())]
        return Column(name, kind, dtype, None, limits, _decimals(x))
    if categories is None:
        categories = categories_of(name, column)
    _check_categories(name, kind, categories)
    result = Column(name, kind, dtype, categories)
    if np.isnan(result.encode(column, handle_unknown)).all():
        raise ValueError(
            f"Column {name!r} has no observed value among the categories that column_types gives: "
            f"{_shortened(categories)}."
        )
    return result


def inferred(name: Any, column: ColumnValues) -> tuple[str, list[Any] | None]:
    """Return the type of a column, and its categories if it has any.

    Booleans are binary. Text, other objects and dtypes of categories are categorical, or ordinal if
    the dtype is ordered, or binary if there are two. Integers, of any dtype, with 2 to `FEW_VALUES`
    different values and at least twice that number of samples are ordinal, or binary if there are two.
    Other integers are counts if they are >= 0 and include 0, and their variance is at least their mean. Positive numbers with a skewness above `SKEWED`, which the logarithm at
    least halves, are positive. Others with an excess kurtosis above `HEAVY` are heavy-tailed if
    their quartiles differ, and all others are real.
    """
    kind = column.dtype["kind"]
    if kind == "object":
        kind = kind_of_objects(column.observed)
    if kind in ("bool", "string", "object", "category"):
        categories = categories_of(name, column)
        if kind == "bool" or len(categories) == 2:
            return "binary", categories
        ordered = column.dtype.get("ordered", False)
        return ("ordinal" if ordered and len(categories) > 1 else "categorical"), categories
    x = numbers(name, "real", column)
    integers = bool((x == np.rint(x)).all())
    if integers:
        different = np.unique(x)
        if 2 <= len(different) <= min(FEW_VALUES, len(x) // 2):
            kind = "binary" if len(different) == 2 else "ordinal"
            return kind, categories_of(name, column)
        if x.min() == 0 and len(different) > 2 and x.var() >= x.mean():
            return "count", None
    return _type_of_reals(x), None


def _type_of_reals(x: Array) -> str:
    skewness, kurtosis = _shape(x)
    if x.min() > 0 and skewness > SKEWED and abs(_shape(np.log(x))[0]) < 0.5 * skewness:
        return "positive"
    low, high = np.quantile(x, [0.25, 0.75])
    return "heavy_tailed" if kurtosis > HEAVY and low < high else "real"


def _shape(x: Array) -> tuple[float, float]:
    """Return skewness and excess kurtosis, 0 if x does not vary."""
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.abs(x).max() or 1.0
        y = x / largest
        y = y - y.mean()
        std = y.std()
        if not std > 1e-12:
            return 0.0, 0.0
        y = y / std
        return float(np.mean(y**3)), float(np.mean(y**4)) - 3.0


def _decimals(x: Array) -> int | None:
    for decimals in range(MAX_DECIMALS + 1):
        if (np.abs(x - np.round(x, decimals)) <= 1e-12 * np.abs(x)).all():
            return decimals
    return None


def numbers(name: Any, kind: str, column: ColumnValues) -> Array:
    """Return the observed values of a column as floats, or raise ValueError if they are wrong."""
    values = column.observed
    if values.dtype == object and kind_of_objects(values) not in ("bool", "int", "float"):
        wrong = next(v for v in values if not isinstance(v, Real))
        raise ValueError(
            f"Column {name!r} is of type {kind!r}, which requires numbers, got {wrong!r}. Convert "
            "the column, or give it another type in column_types."
        )
    try:
        x = values.astype(np.float64)
    except OverflowError:
        raise ValueError(
            f"Column {name!r} contains an integer that exceeds the range of float64. Scale the "
            "column, or drop it."
        ) from None
    _require(name, kind, np.isfinite(x), x, "finite values", "Replace them by missing values.")
    if kind == "positive":
        _require(name, kind, x > 0, x, "values > 0", "Set its type to 'real' in column_types.")
    if kind == "count":
        advice = "Set its type to 'real' or 'ordinal' in column_types."
        _require(name, kind, x >= 0, x, "values >= 0", advice)
        _require(name, kind, x == np.rint(x), x, "integers", advice)
    return x


def _require(name: Any, kind: str, valid: Array, x: Array, what: str, advice: str) -> None:
    if not valid.all():
        wrong = x[~valid][0]
        text = "infinity" if wrong == np.inf else "-infinity" if wrong == -np.inf else f"{wrong:g}"
        raise ValueError(
            f"Column {name!r} is of type {kind!r}, which requires {what}, got {text}. {advice}"
        )


def _check_integers(name: Any, dtype: dict[str, Any], x: Array) -> None:
    """Raise ValueError if a dtype of integers or booleans cannot hold numbers without changing them."""
    if dtype["kind"] == "bool":
        low, high = 0, 1
    elif has_integers(dtype):
        info = range_of_integers(dtype)
        low, high = max(info.min, 1 - EXACT_INTEGERS), min(info.max, EXACT_INTEGERS - 1)
    else:
        return
    valid = (x == np.rint(x)) & (x >= low) & (x <= high)
    if not valid.all():
        wrong = x[~valid][0]
        advice = "Convert the column to float64 before fit"
        if abs(wrong) >= EXACT_INTEGERS:
            advice = "Drop the column, or set its type to 'categorical' in column_types"
        raise ValueError(
            f"Column {name!r} has the dtype {dtype['name']} and the kind "
            f"{dtype.get('values', dtype['kind'])!r}, which requires integers from "
            f"{low} to {high}, got {wrong:.17g}. {advice}."
        )


def _check_range(name: Any, x: Array) -> None:
    """Raise ValueError if squares of numbers, or of their differences, leave the range of floats."""
    largest, spread = float(np.abs(x).max()), float(np.ptp(x / 2.0))
    if largest > LARGEST:
        raise ValueError(
            f"Column {name!r} must have absolute values of at most {LARGEST:g}, got {largest:g}. "
            "Scale the column."
        )
    if 0.0 < spread < 1.0 / LARGEST:
        raise ValueError(
            f"The values of column {name!r} must differ by more than {2.0 / LARGEST:g}, or be equal, "
            f"got differences of up to {2.0 * spread:g}. Scale the column."
        )


def categories_of(name: Any, column: ColumnValues) -> list[Any]:
    """Return the different values of a column: in the order of its dtype, or ascending."""
    kind = column.dtype["kind"]
    different, _ = _unique(name, column.observed)
    if kind == "bool" or (different and all(isinstance(value, bool) for value in different)):
        return [False, True]
    if kind == "category":
        observed = set(different)
        return [label for label in column.dtype["labels"] if label in observed]
    return different


def _check_categories(name: Any, kind: str, categories: list[Any]) -> None:
    n, advice = len(categories), "Merge rare categories, or drop the column."
    if n > MAX_CATEGORIES:
        raise ValueError(
            f"Column {name!r} has {n} categories, more than the maximum of {MAX_CATEGORIES}. "
            f"{advice}"
        )
    if len(set(categories)) < n:
        raise ValueError(f"Categories of column {name!r} must be unique, got {categories!r}.")
    if kind == "binary" and n != 2:
        raise ValueError(
            f"Column {name!r} is of type 'binary', which requires two categories, got {n}: "
            f"{_shortened(categories)}. Set its type to 'categorical' in column_types."
        )
    if kind == "ordinal" and n < 2:
        raise ValueError(
            f"Column {name!r} is of type 'ordinal', which requires at least two categories, got "
            f"{_shortened(categories)}. Set its type to 'categorical' in column_types, or drop it."
        )


def _unique(name: Any, values: Array) -> tuple[list[Any], Array]:
    """Return the different values, sorted if possible, and the index of each value among them."""
    if values.dtype != object:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"Column {name!r} contains infinity, which is no category. Replace it by a missing "
                "value."
            )
        different, inverse = np.unique(values, return_inverse=True)
        return different.tolist(), inverse
    scalars = [v.item() if isinstance(v, np.generic) else v for v in values]
    try:
        kept = dict.fromkeys(scalars)
    except TypeError:
        wrong = next(v for v in scalars if type(v).__hash__ is None)
        raise TypeError(
            f"Column {name!r} contains {_shortened([wrong])}, which cannot be a category. Convert "
            "it to numbers or strings."
        ) from None
    for value in kept:
        if not isinstance(value, str | bool | int | float):
            raise TypeError(
                f"Column {name!r} contains a {type(value).__name__}, which cannot be a category. "
                "Convert it to numbers or strings."
            )
    try:
        ordered = sorted(kept)
    except TypeError:  # of several types
        ordered = sorted(kept, key=lambda value: (isinstance(value, str), value))
    index = {value: i for i, value in enumerate(ordered)}
    return ordered, np.array([index[value] for value in scalars], dtype=np.intp)


def _shortened(values: Sequence[Any]) -> str:
    texts = [repr(value)[:40] for value in values[:8]]
    return ", ".join([*texts, "..."] if len(values) > 8 else texts)
