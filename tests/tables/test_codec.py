import json
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from scipy import sparse

from sklearn_vae.tables import TableCodec
from tests.tables.frames import SIZES, TABLES, TYPES, N, pandas_table, values

GIVEN = {"size": SIZES}


def fitted(X, **parameters):
    return TableCodec(**parameters).fit(X)


def assert_same(actual, expected):
    if isinstance(expected, pl.DataFrame):
        assert actual.schema == expected.schema
        assert actual.equals(expected)
    else:
        assert_frame_equal(actual, expected)


@pytest.fixture(scope="module", params=TABLES)
def table(request):
    X = TABLES[request.param]()
    return X, fitted(X, column_types=GIVEN)


def test_types_are_inferred(table):
    X, codec = table
    assert codec.column_types_ == TYPES
    assert list(codec.feature_names_in_) == list(X.columns)
    assert codec.categories_ == {
        "rating": [1, 2, 3, 4, 5],
        "flag": [False, True],
        "answer": ["no", "yes"],
        "colour": ["blue", "green", "red"],
        "size": SIZES,
    }


def test_round_trip_keeps_values_dtypes_and_index(table):
    X, codec = table
    codes = codec.encode(X)
    assert codes.shape == (N, len(TYPES))
    assert codes.dtype == np.float64
    assert_same(codec.decode(codes, like=X), X)
    np.testing.assert_array_equal(codec.encode(codec.decode(codes)), codes)


def test_codes_are_numbers_and_positions_of_categories(table):
    X, codec = table
    codes = dict(zip(TYPES, codec.encode(X).T, strict=True))
    raw = values()
    np.testing.assert_array_equal(codes["number"], raw["number"])
    np.testing.assert_allclose(codes["real"], raw["real"], rtol=1e-7)
    np.testing.assert_array_equal(codes["flag"], raw["flag"])
    np.testing.assert_array_equal(codes["rating"], np.array(raw["rating"]) - 1)
    np.testing.assert_array_equal(codes["size"], [SIZES.index(size) for size in raw["size"]])


def test_missing_values_become_nan_and_come_back(table):
    X, codec = table
    codes = codec.encode(X)
    hidden = np.random.RandomState(1).uniform(size=codes.shape) < 0.3
    codes[hidden] = np.nan
    back = codec.decode(codes, like=X)
    nulls = back.to_pandas().isna() if isinstance(back, pl.DataFrame) else back.isna()
    np.testing.assert_array_equal(nulls.to_numpy(), hidden)
    np.testing.assert_array_equal(codec.encode(back), codes)
    again = fitted(back, column_types=GIVEN)
    np.testing.assert_array_equal(np.isnan(again.encode(back)), hidden)
    assert_same(again.decode(again.encode(back), like=back), back)


def test_dtypes_with_missing_values():
    X = pandas_table()
    codec = fitted(X, column_types=GIVEN)
    codes = codec.encode(X)
    codes[0] = np.nan
    dtypes = codec.decode(codes, like=X).dtypes.astype(str).to_dict()
    assert dtypes == {
        **X.dtypes.astype(str).to_dict(),
        "number": "Int32",
        "count": "Int64",
        "rating": "UInt8",
        "flag": "boolean",
    }


def test_state_is_plain_and_restores_the_codec(table):
    X, codec = table

    def is_plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(is_plain, value))
        return value is None or type(value) in (bool, int, float, str)

    assert is_plain(codec.get_state())
    again = TableCodec.from_state(codec.get_state())
    assert again.column_types_ == codec.column_types_
    assert_same(again.decode(again.encode(X), like=X), X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"container": "dask"}, "container must be one of"),
        ({"handle_unknown": None}, "handle_unknown must be one of"),
        ({"columns": 2 * [["a", "real", {"kind": "int", "name": "int64"}]]}, "must be unique"),
        ({"columns": [["a", "normal", {"kind": "int", "name": "int64"}, None]]}, "type must be"),
        ({"columns": [["a", "real", {"kind": "time", "name": "x"}, None]]}, "dtype of column 'a'"),
        ({"columns": [["a", "binary", {"kind": "bool", "name": "bool"}, [0]]]}, "two categories"),
        ({"columns": [["a", "real", {"kind": "int", "name": "int64"}, [0]]]}, "must have categor"),
        (
            {
                "columns": [
                    ["a", "categorical", {"kind": "category", "name": "x", "labels": []}, [0]]
                ]
            },
            "categories of its dtype",
        ),
    ],
)
def test_invalid_states_are_refused(change, message):
    state = fitted(pandas_table(), column_types=GIVEN).get_state()
    with pytest.raises(ValueError, match=message):
        TableCodec.from_state({**state, **change})


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool, "U5", object])
def test_round_trip_of_arrays(dtype):
    X = np.random.RandomState(0).randint(0, 2 if dtype is bool else 4, (20, 3)).astype(dtype)
    codec = fitted(X)
    codes = codec.encode(X)
    back = codec.decode(codes)
    assert back.dtype == X.dtype
    np.testing.assert_array_equal(back, X)
    assert list(codec.column_types_) == [0, 1, 2]
    codes[0, 0] = np.nan
    missing = codec.decode(codes)
    np.testing.assert_array_equal(codec.encode(missing), codes)


def test_mixed_arrays_of_objects():
    raw = values()
    X = np.array([raw[name] for name in ("real", "number", "flag", "colour")], dtype=object).T
    codec = fitted(X)
    assert list(codec.column_types_.values()) == ["real", "count", "binary", "categorical"]
    back = codec.decode(codec.encode(X))
    np.testing.assert_array_equal(back, X)
    assert [type(value) for value in back[0]] == [float, int, bool, str]
    X[0] = [None, np.nan, pd.NA, None]
    assert np.isnan(codec.encode(X)[0]).all()


def test_other_containers_become_pandas():
    X = pandas_table().reset_index(drop=True)
    codec = fitted(pa.Table.from_pandas(X), column_types=GIVEN)
    assert codec.container_ == "pandas"
    assert codec.column_types_ == TYPES


def test_labels_of_frames_that_are_no_text_are_names():
    X = pd.DataFrame({2020: [1.5, 2.5], 1: ["a", "b"], 0: [0.5, 2.0]})
    codec = fitted(X, column_types={1: "categorical"})
    assert codec.column_types_ == {2020: "real", 1: "categorical", 0: "real"}
    assert not hasattr(codec, "feature_names_in_")
    codec = TableCodec.from_state(codec.get_state())
    assert_frame_equal(codec.decode(codec.encode(X)), X)
    np.testing.assert_array_equal(codec.encode_values({0: 7.0, 2020: 3.0}), [3.0, np.nan, 7.0])
    with pytest.raises(ValueError, match=r"no column 2\. Columns are 2020, 1, 0"):
        codec.encode_values({2: 7.0})
    with pytest.raises(ValueError, match=r"training samples in their order, \[2020, 1, 0\], got"):
        codec.encode(X[[0, 1, 2020]])
    with pytest.raises(ValueError, match="Column 1 contains the unknown category 'c'"):
        codec.encode(X.replace("a", "c"))
    np.testing.assert_array_equal(codec.encode(X.to_numpy()), codec.encode(X))


def test_categories_of_intervals():
    X = pd.DataFrame({"age": pd.cut(np.arange(20.0), 4)})
    codec = TableCodec.from_state(fitted(X).get_state())
    assert codec.column_types_ == {"age": "ordinal"}
    assert_frame_equal(codec.decode(codec.encode(X)), X)


@pytest.mark.parametrize("zone", [None, "UTC", "difference"])
def test_intervals_of_times_have_a_state_of_plain_values(zone):
    times = pd.Series(pd.date_range("2020-01-01", periods=20, tz=zone if zone == "UTC" else None))
    times = times - times[0] if zone == "difference" else times
    X = pd.DataFrame({"day": pd.cut(times, 4)})
    state = json.loads(json.dumps(fitted(X).get_state()))
    codec = TableCodec.from_state(state)
    assert_frame_equal(codec.decode(codec.encode(X)), X)


@pytest.mark.parametrize("dtype", [pd.CategoricalDtype(list("wzyx")), pl.Enum(list("wzyx"))])
def test_labels_without_samples_are_no_categories(dtype):
    frame = pl.DataFrame if isinstance(dtype, pl.Enum) else pd.DataFrame
    series = pl.Series if isinstance(dtype, pl.Enum) else pd.Series
    X = frame({"a": series(["x", "y", "z"] * 3, dtype=dtype)})
    codec = TableCodec.from_state(fitted(X).get_state())
    assert codec.categories_ == {"a": ["z", "y", "x"]}
    assert_same(codec.decode(codec.encode(X)), X)
    other = frame({"a": series(["w", "x"], dtype=dtype)})
    np.testing.assert_array_equal(codec.encode(other), [[np.nan], [2]])
    with pytest.raises(ValueError, match="unknown category 'w'"):
        codec.encode_values({"a": "w"})
    with pytest.raises(ValueError, match="unknown category 'v'"):
        codec.encode(frame({"a": ["v", "x"]}))
    with pytest.raises(ValueError, match="unknown category 'y'"):
        fitted(X, column_types={"a": ["z", "x"]})


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (np.arange(50), "count"),
        (np.arange(1, 51), "real"),
        (np.arange(-5, 45), "real"),
        (1000 * np.arange(50.0), "count"),
        (np.repeat([0, 1], 25), "binary"),
        (np.repeat([0.0, 1.0], 25), "binary"),
        (np.repeat([0.5, 1.5], 25), "real"),
        (np.repeat(np.arange(10), 5), "ordinal"),
        (np.repeat(np.arange(10), 5) - 3.0, "ordinal"),
        (np.arange(1, 6), "real"),
        (np.full(50, 7), "real"),
        (np.exp(np.linspace(-3, 3, 50)), "positive"),
        (np.linspace(1, 2, 50), "real"),
        (-np.exp(np.linspace(-2, 2, 50)), "real"),
        (np.r_[np.linspace(-1, 1, 49), -100], "heavy_tailed"),
    ],
)
def test_types_of_numbers(x, kind):
    assert fitted(np.asarray(x)[:, None]).column_types_ == {0: kind}
    scaled = np.asarray(x)[:, None] * (1 if kind in ("binary", "ordinal", "count") else 1e-8)
    assert fitted(scaled).column_types_ == {0: kind}


def test_given_types_by_name_and_index():
    X = pandas_table()
    codec = fitted(X, column_types={"rating": "count", 8: "categorical", "size": "categorical"})
    expected = {**TYPES, "rating": "count", "size": "categorical"}
    assert codec.column_types_ == expected


def test_one_category_is_possible():
    X = pd.DataFrame({"a": ["x"] * 5, "b": [True] * 5, "c": [1.0] * 5})
    codec = fitted(X)
    assert codec.column_types_ == {"a": "categorical", "b": "binary", "c": "real"}
    assert_frame_equal(codec.decode(codec.encode(X)), X)


def test_unknown_categories():
    X, new = pd.DataFrame({"a": ["x", "y"] * 3}), pd.DataFrame({"a": ["x", "z", None]})
    with pytest.raises(ValueError, match=r"'a' contains the unknown category 'z'.*handle_unknown"):
        fitted(X).encode(new)
    codes = fitted(X, handle_unknown="missing").encode(new)
    np.testing.assert_array_equal(codes, [[0], [np.nan], [np.nan]])


def test_values_of_one_sample():
    codec = fitted(pandas_table(), column_types=GIVEN)
    codes = codec.encode_values({"colour": "red", 9: "L", "flag": np.True_, "real": pd.NA})
    expected = np.full(10, np.nan)
    expected[[8, 9, 6]] = 2, 2, 1
    np.testing.assert_array_equal(codes, expected)
    with pytest.raises(ValueError, match=r"no column 'color'.*'real', 'positive'"):
        codec.encode_values({"color": "red"})
    with pytest.raises(ValueError, match="'colour' contains the unknown category 'pink'"):
        codec.encode_values({"colour": "pink"})
    codec = fitted(pandas_table(), column_types=GIVEN, handle_unknown="missing")
    with pytest.raises(ValueError, match=r"unknown category 'pink'.*Give one of them"):
        codec.encode_values({"colour": "pink"})


def test_integers_are_rounded_and_clipped_to_their_dtype():
    X = pd.DataFrame({"a": np.arange(-30, 30, dtype=np.int8), "b": np.arange(60, dtype=np.uint64)})
    codec = fitted(X, column_types={"b": "real"})
    back = codec.decode([[1e9, -3.2], [-1e9, 1e30], [0.6, 2.4]])
    assert back["a"].tolist() == [127, -128, 1]
    assert back["b"].tolist() == [0, 2**64 - 1, 2]


def test_large_integers_are_different_categories():
    X = np.array([[2**60], [2**60 + 1]] * 5)
    codec = fitted(X, column_types={0: "categorical"})
    np.testing.assert_array_equal(codec.decode(codec.encode(X)), X)


BAD = {
    "missing": ([None] * 4, None, "Column 'a' has no observed value. Drop it."),
    "infinite": ([1.5, np.inf, 2.5, 3.5], None, "'a' is of type 'real'.*finite.*got infinity"),
    "infinite count": ([1.0, -np.inf], "count", "'a' is of type 'count'.*finite.*-infinity"),
    "infinite category": ([1.0, np.inf], "categorical", "'a' contains infinity"),
    "negative count": ([1, 2, -3, 4], "count", "'a' is of type 'count'.*>= 0, got -3"),
    "fraction count": ([1.0, 2.5], "count", "'a' is of type 'count'.*integers, got 2.5"),
    "zero": ([1.0, 0.0, 2.0], "positive", "'a' is of type 'positive'.*> 0, got 0"),
    "text": (["1", "x", "2"], "real", "'a' is of type 'real', which requires numbers, got '1'"),
    "decimals": ([Decimal("1.5")] * 2, "real", r"'a' .*requires numbers, got Decimal\('1.5'\)"),
    "large": ([10**400, 1], "real", "'a' contains an integer that exceeds the range of float64"),
    "too large": (
        [1e200, 1.5, -2.5],
        None,
        r"'a' must have .* at most 1e\+150, got 1e\+200. Scale",
    ),
    "too close": ([1e-200, 2e-200, 3e-200], "real", "'a' must differ by .*, got .* up to 2e-200"),
    "three": (["x", "y", "z"], "binary", "'a' is of type 'binary'.*two categories, got 3"),
    "one": (["x", "x"], "ordinal", "'a' is of type 'ordinal'.*at least two categories, got 'x'"),
    "unknown": (["x", "y"], ["x", "z"], "'a' contains the unknown category 'y'"),
    "twice": (["x", "y"], ["x", "y", "y"], "'a' must be unique"),
    "many": ([f"id {i}" for i in range(10000)], None, "'a' has 10000 categories.*maximum of 1000"),
    "list": ([[1], [2]], None, r"'a' contains \[1\], which cannot be a category"),
    "bytes": ([b"x", b"y"], None, "'a' contains a bytes"),
    "dates": (pd.to_datetime(["2020-01-01"] * 2), None, "datetime64.*column 'a'.*Convert dates"),
    "times": (pd.to_timedelta([1, 2]), None, "timedelta64.*column 'a'"),
    "complex": ([1j, 2j], None, "Column 'a' has the dtype complex128"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_column(case):
    column, kind, message = BAD[case]
    X = pd.DataFrame({"good": np.linspace(0, 1, len(column)), "a": column})
    types = "auto" if kind is None else {"a": kind}
    with pytest.raises((TypeError, ValueError), match=message):
        fitted(X, column_types=types)


@pytest.mark.parametrize(
    ("X", "parameters", "message"),
    [
        (np.ones(3), {}, "two-dimensional"),
        (np.ones((3, 0)), {}, r"0 feature\(s\)"),
        (np.ones((0, 3)), {}, r"0 sample\(s\)"),
        (np.ones((3, 2)) * 1j, {}, "Complex data not supported"),
        (sparse.eye(3).tocsr(), {}, "sparse matrix"),
        (pl.LazyFrame({"a": [1]}), {}, "collect"),
        (pl.DataFrame({"a": [[1], [2]]}), {}, "Column 'a' has the dtype List"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "unique, got 'a' twice"),
        (np.eye(3), {"column_types": "real"}, "column_types must be"),
        (np.eye(3), {"column_types": {0: "normal"}}, r"column_types\[0\] must be one of 'real'"),
        (np.eye(3), {"column_types": {0: 3}}, r"column_types\[0\] must be a type, a list"),
        (np.eye(3), {"column_types": {0: []}}, r"column_types\[0\] must be a type, a list"),
        (np.eye(3), {"column_types": {0: pd.CategoricalDtype([0, 1])}}, "ordered CategoricalDtype"),
        (np.eye(3), {"column_types": {5: "real"}}, "no column 5"),
        (np.eye(3), {"handle_unknown": "ignore"}, "handle_unknown must be one of"),
    ],
)
def test_errors_of_tables_and_parameters(X, parameters, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fitted(X, **parameters)


def test_other_columns_are_refused():
    X = pandas_table()
    codec = fitted(X)
    with pytest.raises(ValueError, match="has 9 features, but TableCodec is expecting 10"):
        codec.encode(X.iloc[:, :9])
    with pytest.raises(ValueError, match="columns of the training samples in their order"):
        codec.encode(X[X.columns[::-1]])


def test_generated_numbers_get_the_decimals_and_the_range():
    rng = np.random.RandomState(0)
    X = pd.DataFrame(
        {
            "price": np.round(rng.uniform(1, 5, 50), 2),
            "whole": rng.permutation(50) + 100.0,
            "exact": rng.standard_normal(50),
            "tiny": 1e-20 * rng.standard_normal(50),
            "kind": ["x", "y"] * 25,
        }
    )
    codec = fitted(X)
    np.testing.assert_array_equal(codec.restrict(codec.encode(X)), codec.encode(X))
    made = codec.restrict([[2.34567, 120.4, 0.123456789, 1e-21, 1], [9, 0, 9, 9, np.nan]])
    assert made[0].tolist() == [2.35, 120.0, 0.123456789, 1e-21, 1]
    assert made[1, :4].tolist() == [X["price"].max(), 100.0, X["exact"].max(), X["tiny"].max()]
    assert np.isnan(made[1, 4])


def test_lists_keep_the_types_of_their_cells():
    rows = [[1.5, "a", True], [2.5, "b", False], [3.5, np.nan, True]]
    codec = fitted(rows)
    assert codec.column_types_ == {0: "real", 1: "binary", 2: "binary"}
    np.testing.assert_array_equal(codec.encode(rows), [[1.5, 0, 1], [2.5, 1, 0], [3.5, np.nan, 1]])
    text = [["1", "x"], ["2", "y"]]
    assert fitted(text).categories_ == {0: ["1", "2"], 1: ["x", "y"]}
    assert fitted(text).decode([[0, 0]]).dtype.kind == "U"


@pytest.mark.parametrize(
    ("column", "new", "message"),
    [
        (np.arange(60, dtype=np.int8), [30.0, 30.5], r"'a'.* int8 .*from -128 to 127, got 30\.5"),
        (np.arange(60, dtype=np.int8), [30, 300], r"'a'.*to 127, got 300\..*float64 before fit"),
        (np.arange(60, dtype=np.uint8), [1, -1], "'a'.*from 0 to 255, got -1"),
        (np.arange(60), [2**53 + 1], r"'a'.*got 9007199254740992.*'categorical'"),
        (np.arange(60).astype(object), [1.5], r"'a'.* object .*'int'.*got 1\.5"),
    ],
)
def test_numbers_that_the_dtype_would_change_are_refused(column, new, message):
    codec = fitted(pd.DataFrame({"a": column}), column_types={"a": "real"})
    codes = codec.encode(pd.DataFrame({"a": [3.0, np.nan]}))
    np.testing.assert_array_equal(codes, [[3.0], [np.nan]])
    with pytest.raises(ValueError, match=message):
        codec.encode(pd.DataFrame({"a": new}))
    with pytest.raises(ValueError, match=message):
        codec.encode_values({"a": new[-1]})


def test_integers_that_floats_cannot_hold_are_no_numbers():
    X = pd.DataFrame({"id": 2**60 + np.arange(30)})
    with pytest.raises(ValueError, match=r"'id' .*got 1\.15.*Drop the column"):
        fitted(X)
    codec = fitted(X, column_types={"id": "categorical"})
    assert_frame_equal(codec.decode(codec.encode(X)), X)


def test_values_outside_of_given_categories_may_be_missing():
    X = pd.DataFrame({"k": ["c0", "c1", "c2", "c1"]})
    codec = fitted(X, column_types={"k": ["c0", "c1"]}, handle_unknown="missing")
    np.testing.assert_array_equal(codec.encode(X), [[0], [1], [np.nan], [1]])
    with pytest.raises(
        ValueError, match=r"'k' has no observed value among the categories.*'a', 'b'"
    ):
        fitted(X, column_types={"k": ["a", "b"]}, handle_unknown="missing")


@pytest.mark.parametrize(
    "order",
    [
        pd.CategoricalDtype(SIZES, ordered=True),
        pd.Series(SIZES),
        pd.Index(SIZES),
        pl.Series(SIZES),
        np.array(SIZES),
        tuple(SIZES),
    ],
)
def test_orders_of_categories_in_every_container(order):
    X = pd.DataFrame({"size": ["L", "S", "M", "S"]})
    codec = fitted(X, column_types={"size": order})
    assert codec.column_types_ == {"size": "ordinal"}
    assert codec.categories_ == {"size": SIZES}
