"""Tables with a column of every type and dtype."""

import numpy as np
import pandas as pd
import polars as pl

N = 40


def values():
    """Return columns by name as lists, of every type."""
    rng = np.random.RandomState(0)
    return {
        "real": rng.standard_normal(N).tolist(),
        "positive": np.exp(1.5 * rng.standard_normal(N)).tolist(),
        "heavy": np.r_[rng.standard_normal(N - 1), 1e3].tolist(),
        "number": rng.permutation(N).tolist(),
        "count": (7 * rng.permutation(N)).tolist(),
        "rating": rng.randint(1, 6, N).tolist(),
        "flag": (rng.uniform(size=N) < 0.4).tolist(),
        "answer": rng.choice(["no", "yes"], N).tolist(),
        "colour": rng.choice(["red", "green", "blue"], N).tolist(),
        "size": rng.choice(["S", "M", "L"], N).tolist(),
    }


TYPES = {
    "real": "real",
    "positive": "positive",
    "heavy": "heavy_tailed",
    "number": "count",
    "count": "count",
    "rating": "ordinal",
    "flag": "binary",
    "answer": "binary",
    "colour": "categorical",
    "size": "ordinal",
}
SIZES = ["S", "M", "L"]


def pandas_table():
    X = pd.DataFrame(values())
    dtypes = {"number": "int32", "rating": "uint8", "real": "float32", "colour": "category"}
    X = X.astype(dtypes | {"size": pd.CategoricalDtype(SIZES, ordered=True)})
    return X.set_axis([f"row {i}" for i in range(N)], axis=0)


def nullable_table():
    dtypes = {"number": "Int32", "rating": "UInt8", "real": "Float64", "flag": "boolean"}
    return pandas_table().astype(dtypes | {"answer": "string", "colour": object})


def arrow_table():
    dtypes = {"number": "int32[pyarrow]", "flag": "bool[pyarrow]", "real": "double[pyarrow]"}
    return pandas_table().astype(dtypes | {"answer": "string[pyarrow]"})


def polars_table():
    types = {"number": pl.Int32, "rating": pl.UInt8, "real": pl.Float32, "colour": pl.Categorical}
    return pl.DataFrame(values()).cast(types | {"size": pl.Enum(SIZES)})


TABLES = {
    "pandas": pandas_table,
    "nullable": nullable_table,
    "arrow": arrow_table,
    "polars": polars_table,
}
