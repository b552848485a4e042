"""Containers, weights and results of the two models of tables."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone

from sklearn_vae import MixedFactorAnalysis, TabularVAE
from sklearn_vae.deep.table_codes import Codes
from sklearn_vae.tables import TableCodec
from tests.deep.tables import fitted, hide, make_table

SMALL = {"hidden_layer_sizes": (6,), "max_epochs": 2, "random_state": 0}


@pytest.mark.parametrize(
    "estimator", [TabularVAE(1, **SMALL), MixedFactorAnalysis(1, random_state=0)]
)
def test_arrays_and_lists_of_several_types_are_tables(estimator):
    X = make_table(40)[["real", "colour", "flag"]]
    X.loc[3, "colour"] = None
    expected = clone(estimator).fit(X)
    for array in (X.to_numpy(dtype=object), X.to_numpy(dtype=object).tolist()):
        model = clone(estimator).fit(array)
        assert model.column_types_ == {0: "real", 1: "categorical", 2: "binary"}
        np.testing.assert_allclose(model.score_samples(array), expected.score_samples(X))
        made = model.impute(array)
        assert made.shape == X.shape
        assert made[3, 1] in model.categories_[1]


def test_results_for_missing_values_are_plain_arrays():
    model, (X, _) = fitted("incomplete"), hide(make_table())
    results = [model.transform(X), *model.posterior(X), *model.posterior(X, return_cov=True)]
    results += [model.score_samples(X), model.log_likelihood(X, 3), model.observations(X)]
    results += [*model.score_samples(X, return_error=True)]
    results += [*model.conditional_probabilities(X, n_samples=4).values(), model.mean_]
    assert {type(result) for result in results} == {np.ndarray}
    codes = pickle.loads(pickle.dumps(Codes.of(np.ones((3, 8)), model._table)))
    assert codes[:2].table is None


@pytest.mark.parametrize("estimator", [TabularVAE(1, **SMALL), MixedFactorAnalysis(1, max_iter=1)])
@pytest.mark.parametrize("container", ["pandas", "polars", "array"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_samples_of_zero_weight_set_no_types(estimator, container):
    kept = pd.DataFrame({2020: np.linspace(1.0, 9.0, 12), 1: ["a", "b", "b"] * 4})
    all_rows = pd.concat([pd.DataFrame({2020: [-1e300, np.inf], 1: ["c", None]}), kept])
    weights = np.r_[0, 0, np.arange(1.0, 13.0)]
    make = {
        "pandas": lambda X: X,
        "polars": lambda X: pl.DataFrame(X.set_axis(map(str, X), axis=1)),
        "array": lambda X: X.to_numpy(dtype=object),
    }[container]
    estimator = clone(estimator).set_params(random_state=0)
    model = clone(estimator).fit(make(all_rows), sample_weight=weights)
    expected = clone(estimator).fit(make(kept), sample_weight=weights[2:])
    assert model._table == expected._table
    np.testing.assert_array_equal(model.transform(make(kept)), expected.transform(make(kept)))
    all_rows[2020] = [1.0] + 13 * [np.nan]
    with pytest.raises(ValueError, match=r"Column .* has no observed value"):
        model.fit(make(all_rows), sample_weight=weights)


def test_fit_encodes_a_table_once(monkeypatch):
    encoded = []
    encode = TableCodec.encode

    def counted(self, X):
        encoded.append(len(X))
        return encode(self, X)

    monkeypatch.setattr(TableCodec, "encode", counted)
    X = make_table(60)
    model = TabularVAE(1, hidden_layer_sizes=(4,), random_state=0).fit(X)
    assert encoded == [60]
    assert list(model.feature_names_in_) == list(X.columns)
    model.fit(X.to_numpy())
    assert encoded == [60, 60]
    assert not hasattr(model, "feature_names_in_")
