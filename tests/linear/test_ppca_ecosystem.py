"""PPCA among scikit-learn's tools."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA
from tests.helpers import remembered_names

X, y = load_iris(return_X_y=True)
DIGITS = load_digits().data


def test_pickle_and_clone():
    model = PPCA(2, noise_variance=0.1, coordinates="whitened").fit(X)
    model.score(X)  # the cached factor goes along
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "components_")


def test_grid_search_over_noise_variance_finds_the_best_held_out_likelihood():
    grid = [0.01, 0.1, 1.0, 5.0, 30.0, None]
    search = GridSearchCV(PPCA(10), {"noise_variance": grid}, cv=3, error_score="raise")
    search.fit(DIGITS)
    assert (np.argsort(search.cv_results_["mean_test_score"])[:2] == [0, 1]).all()
    assert search.best_params_["noise_variance"] in (5.0, None)
    by_hand = [cross_val_score(PPCA(10, noise_variance=s), DIGITS, cv=3).mean() for s in grid]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], by_hand)
    assert search.score(DIGITS) == search.best_estimator_.score(DIGITS)


def test_pipeline_scores_and_classifies():
    density = make_pipeline(StandardScaler(), PPCA(2)).fit(X)
    scaled = StandardScaler().fit_transform(X)
    assert density.score(X) == pytest.approx(PPCA(2).fit(scaled).score(scaled), rel=1e-12)
    classifier = make_pipeline(StandardScaler(), PPCA(2), LogisticRegression()).fit(X, y)
    assert classifier.score(X, y) > 0.9


def test_column_transformer_and_feature_union_name_their_columns():
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    columns = ColumnTransformer(
        [("first", PPCA(1), ["a", "b"]), ("second", PPCA(2), ["b", "c", "d"])]
    ).set_output(transform="pandas")
    assert list(columns.fit_transform(frame)) == ["first__ppca0", "second__ppca0", "second__ppca1"]
    union = FeatureUnion([("p", PPCA(1)), ("q", PPCA(2, coordinates="principal"))]).fit(X)
    assert union.transform(X).shape == (150, 3)
    assert list(union.get_feature_names_out()) == ["p__ppca0", "q__ppca0", "q__ppca1"]


@pytest.mark.parametrize(("library", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_set_output(library, frame):
    data = frame(dict(zip("abcd", X.T, strict=True)))
    model = PPCA(2).set_output(transform=library)
    Z = model.fit_transform(data)
    assert isinstance(Z, frame)
    assert list(Z.columns) == ["ppca0", "ppca1"] == list(model.get_feature_names_out())
    np.testing.assert_allclose(Z.to_numpy(), PPCA(2).fit(X).transform(X))
    names = remembered_names(data)
    assert list(getattr(model, "feature_names_in_", [])) == names
    if names:
        with pytest.raises(ValueError, match="feature names should match"):
            model.transform(data[["b", "a", "c", "d"]])


def test_nested_parameters_in_a_search():
    pipeline = Pipeline([("scale", StandardScaler()), ("ppca", PPCA())])
    search = GridSearchCV(pipeline, {"ppca__n_components": [1, 2, 3]}, error_score="raise").fit(X)
    assert search.best_params_["ppca__n_components"] in (2, 3)


def test_rows_are_never_written_to():
    rows = DIGITS.copy()
    rows.flags.writeable = False
    for solver in ("full", "covariance_eigh", "arpack", "randomized"):
        model = PPCA(3, svd_solver=solver, random_state=0).fit(rows)
        model.score(rows)
    np.testing.assert_array_equal(rows, DIGITS)


@pytest.mark.parametrize("solver", ["full", "covariance_eigh", "arpack", "randomized"])
def test_same_seed_same_bits(solver):
    parameters = {"n_components": 3, "svd_solver": solver, "random_state": 7}
    a, b = PPCA(**parameters).fit(DIGITS), PPCA(**parameters).fit(DIGITS)
    np.testing.assert_array_equal(a.components_, b.components_)
    assert a.noise_variance_ == b.noise_variance_
