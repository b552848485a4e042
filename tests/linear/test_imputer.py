"""PPCAImputer where KNNImputer and IterativeImputer are used."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, PPCAImputer
from tests.linear.data import make_rows
from tests.linear.test_ppca_missing import punched

X = make_rows(200, 7, k=2, offset=3.0)
Y = punched(X)
GONE = np.isnan(Y)


def error(filled):
    return np.sqrt(np.mean((filled - X)[GONE] ** 2))


def test_fills_as_model_and_better_than_neighbours():
    imputer = PPCAImputer(2, standardize=False)
    filled = imputer.fit_transform(Y)
    np.testing.assert_allclose(filled, PPCA(2).fit(Y).impute(Y))
    np.testing.assert_array_equal(filled[~GONE], Y[~GONE])
    assert error(filled) < error(KNNImputer().fit_transform(Y))
    assert error(filled) < 0.6 * error(SimpleImputer().fit_transform(Y))
    np.testing.assert_allclose(imputer.model_.impute(Y), filled)
    assert imputer.n_iter_ == imputer.model_.n_iter_ > 1


def test_impute_leaves_features_alone_that_were_never_observed():
    empty = Y.copy()
    empty[:, 2] = np.nan
    with pytest.warns(UserWarning, match=r"without any observed values: \[2\]"):
        imputer = PPCAImputer(2).fit(empty)
    seen = np.arange(7) != 2
    empty[:5, 2] = X[:5, 2]  # observed now
    filled, std = imputer.impute(empty, return_std=True)
    np.testing.assert_array_equal(filled[:, seen], imputer.transform(empty))
    np.testing.assert_array_equal(filled[:, 2], empty[:, 2])
    assert (std[~np.isnan(empty)] == 0).all()
    np.testing.assert_array_equal(np.isnan(std), np.isnan(filled))


def test_components_by_default():
    assert PPCAImputer().fit(Y).n_components_ == 3
    assert PPCAImputer().fit(punched(make_rows(300, 50))).n_components_ == 10
    assert PPCAImputer().fit(np.arange(6.0)[:, None]).n_components_ == 0


def test_complete_rows_and_rows_on_a_plane():
    imputer = PPCAImputer(2).fit(X)
    np.testing.assert_array_equal(imputer.transform(X), X)
    assert error(imputer.transform(Y)) < 0.9
    flat = np.outer(np.arange(1.0, 9), [1.0, 2.0, 3.0])
    imputer = PPCAImputer(1).fit(flat)
    hole = flat.copy()
    hole[3, 1] = np.nan
    np.testing.assert_allclose(imputer.transform(hole), flat, rtol=1e-4)
    constant = PPCAImputer(1).fit(np.full((4, 3), 7.0))
    np.testing.assert_allclose(constant.transform([[np.nan, 7.0, np.nan]]), [[7.0, 7.0, 7.0]])


@pytest.mark.parametrize("value", [-1, -1.0, 0, np.float32(-1)])
def test_another_value_for_missing(value):
    rows = np.where(GONE, value, Y)
    expected = PPCAImputer(2).fit_transform(Y)
    found = PPCAImputer(2, missing_values=value).fit_transform(rows)
    np.testing.assert_allclose(found, expected)
    with pytest.raises(ValueError, match="contains NaN"):
        PPCAImputer(2, missing_values=value).fit(Y)


@pytest.mark.parametrize("value", ["?", None, np.inf, True])
def test_values_that_cannot_stand_for_missing(value):
    with pytest.raises(ValueError, match=r"missing_values must be a finite float or np\.nan, got"):
        PPCAImputer(2, missing_values=value).fit(X)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
def test_empty_features_and_indicator_as_scikit_learn_has_them(indicator, keep):
    rows = Y.copy()
    rows[:, 4] = np.nan
    frame = pd.DataFrame(rows, columns=list("abcdefg"))
    options = {"add_indicator": indicator, "keep_empty_features": keep}
    ours = PPCAImputer(2, **options).set_output(transform="pandas")
    theirs = SimpleImputer(**options).set_output(transform="pandas")
    found, expected = ours.fit_transform(frame), theirs.fit_transform(frame)
    assert list(found.columns) == list(expected.columns)
    assert list(ours.get_feature_names_out()) == list(expected.columns)
    if keep:
        np.testing.assert_array_equal(found["e"], expected["e"])
    if indicator:
        columns = [name for name in found if name.startswith("missing")]
        np.testing.assert_array_equal(found[columns], expected[columns])
        of_all = MissingIndicator().fit(frame).get_feature_names_out()
        np.testing.assert_array_equal(columns, of_all)
    kept = np.delete(rows, 4, axis=1)
    names = list("abcdfg")
    np.testing.assert_allclose(found[names], PPCAImputer(2).fit_transform(kept))
    rows[:5, 4] = 3.0  # observed now, as in scikit-learn's test of the same parameter
    frame = pd.DataFrame(rows, columns=list("abcdefg"))
    if keep:
        np.testing.assert_array_equal(ours.transform(frame)["e"], theirs.transform(frame)["e"])


UNITS = 10.0 ** np.array([-12, 3, 0, 12, -6, 7, 1])


def test_units_do_not_matter():
    filled = PPCAImputer(2).fit_transform(Y * UNITS) / UNITS
    np.testing.assert_allclose(filled, PPCAImputer(2).fit_transform(Y), rtol=1e-6)
    imputer = PPCAImputer(2).fit(Y)
    scaler = StandardScaler().fit(Y)
    expected, std = PPCA(2).fit(scaler.transform(Y)).impute(scaler.transform(Y), return_std=True)
    np.testing.assert_allclose(imputer.transform(Y), scaler.inverse_transform(expected), rtol=1e-6)
    np.testing.assert_allclose(
        imputer.impute(Y, return_std=True)[1], std * scaler.scale_, rtol=1e-6
    )
    np.testing.assert_allclose(imputer.scale_, scaler.scale_)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e5, 1e6, 1e12])
def test_rows_on_a_line_determine_what_is_missing_in_any_units(unit, standardize):
    x = np.random.default_rng(0).normal(size=50)
    imputer = PPCAImputer(1, standardize=standardize).fit(np.c_[x * unit, x])
    np.testing.assert_allclose(imputer.transform([[np.nan, 2.0]]), [[2 * unit, 2.0]], rtol=1e-7)
    np.testing.assert_allclose(imputer.transform([[unit, np.nan]]), [[unit, 1.0]], rtol=1e-7)


def test_features_that_vary_by_rounding_are_constant():
    X = np.c_[np.full(30, 0.1) * (1 + 1e-16 * np.arange(30)), np.arange(30.0)]
    np.testing.assert_array_equal(PPCAImputer(1).fit(X).scale_, [1.0, np.arange(30).std()])


@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
def test_nothing_observed_at_all():
    rows = np.full((5, 3), np.nan)
    assert PPCAImputer().fit_transform(rows).shape == (5, 0)
    kept = PPCAImputer(keep_empty_features=True).fit_transform(rows)
    np.testing.assert_array_equal(kept, np.zeros((5, 3)))


@pytest.mark.parametrize("rows", [X, Y, np.full((5, 3), np.nan)])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"n_components": 0.5},
            r"n_components must be None, 'auto' or an integer >= 0, got 0\.5\.",
        ),
        (
            {"n_components": "mle"},
            "n_components must be None, 'auto' or an integer >= 0, got 'mle'",
        ),
        ({"noise_variance": -1}, "noise_variance must be None or a positive float, got -1"),
        ({"tol": -1}, "tol must be None or a float >= 0, got -1"),
    ],
)
def test_parameters(parameters, message, rows):
    with pytest.raises(ValueError, match=message):
        PPCAImputer(**parameters).fit(rows)


def test_names():
    imputer = PPCAImputer(2).fit(Y)
    assert list(imputer.get_feature_names_out()) == [f"x{i}" for i in range(7)]
    assert list(imputer.get_feature_names_out(list("abcdefg"))) == list("abcdefg")
    with pytest.raises(ValueError, match=r"length equal to number of features \(7\), got 2"):
        imputer.get_feature_names_out(["a", "b"])
    framed = PPCAImputer(2).fit(pd.DataFrame(Y, columns=list("abcdefg")))
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        framed.get_feature_names_out(list("gfedcba"))


def test_in_pipelines_and_searches():
    data, target = load_iris(return_X_y=True)
    rows = punched(data, 0.15)
    pipeline = make_pipeline(PPCAImputer(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(
        pipeline, {"ppcaimputer__n_components": [1, 2]}, cv=3, error_score="raise"
    ).fit(rows, target)
    assert search.best_score_ > 0.85
    columns = ColumnTransformer([("fill", PPCAImputer(1), [0, 1, 2])], remainder="drop")
    assert columns.fit_transform(rows).shape == (150, 3)
    assert clone(search.best_estimator_[0]).n_components in (1, 2)


def test_a_failed_fit_keeps_the_model():
    imputer = PPCAImputer(2).fit(Y)
    before = imputer.transform(Y)
    with pytest.raises(ValueError, match="infinity"):
        imputer.fit(np.where(GONE, np.inf, Y))
    with pytest.raises(ValueError, match="got 9"):
        clone(imputer).set_params(n_components=9).fit(Y)
    np.testing.assert_array_equal(imputer.transform(Y), before)


def test_impute_fills_all_columns_with_standard_deviations():
    X = np.random.default_rng(0).normal(size=(40, 4)) + 3.0
    X[::3, 1] = -1.0
    X[:, 2] = -1.0
    with pytest.warns(UserWarning, match=r"without any observed values: \[2\]"):
        imputer = PPCAImputer(1, missing_values=-1.0).fit(X)
    filled, std = imputer.impute(X, return_std=True)
    np.testing.assert_array_equal(filled, imputer.impute(X))
    np.testing.assert_array_equal(filled[:, [0, 1, 3]], imputer.transform(X))
    assert np.isnan(filled[:, 2]).all()
    assert np.isnan(std[:, 2]).all()
    np.testing.assert_array_equal(std[:, [0, 1, 3]] > 0, X[:, [0, 1, 3]] == -1.0)


@pytest.mark.parametrize("noise_variance", [None, 0.5])
def test_the_model_within_has_the_parameters_that_were_given(noise_variance):
    flat = np.outer(np.arange(1.0, 9), [1.0, 2.0, 3.0])  # for which none of pPCA's noise is left
    options = {"noise_variance": noise_variance, "tol": 1e-5, "max_iter": 77, "random_state": 3}
    for rows in (flat, Y):
        imputer = PPCAImputer(1, **options).fit(rows)
        expected = PPCA(1, **options).get_params()
        assert imputer.model_.get_params() == expected
        assert imputer.model_.noise_variance_ > 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("indicator_", 3, "indicator_ must be None or booleans, got 3"),
        ("indicator_", np.ones(7), "indicator_ must be None or booleans"),
        (
            "indicator_",
            np.ones(6, bool),
            "indicator_ must be None or one boolean for each of 7 fea",
        ),
        ("_observed", np.ones(7), "_observed must be booleans"),
        ("_observed", np.arange(7) > 0, "model_ must be a PPCA of the 6 observed features"),
        ("model_", 3, "model_ must be a PPCA of the 7 observed features"),
        ("model_", PPCA(1), "model_ must be a PPCA of the 7 observed features"),
        ("model_", PPCAImputer(1), "model_ must be a PPCA of the 7 observed features"),
    ],
)
def test_states_that_do_not_fit(name, value, message):
    state = PPCAImputer(2, add_indicator=True, max_iter=5, tol=1.0).fit(Y).get_state()
    imputer = PPCAImputer()
    imputer.set_state(state)
    with pytest.raises(ValueError, match=message):
        imputer.set_state({**state, name: value})
    imputer.set_state({**state, "indicator_": None})
    assert imputer.transform(Y).shape == Y.shape


def test_nothing_observed_is_a_model_of_nothing():
    with pytest.warns(UserWarning, match="Skipping features without any observed values"):
        imputer = PPCAImputer().fit(np.full((4, 3), np.nan))
    assert (imputer.n_components_, imputer.n_iter_) == (0, 1)
    assert imputer.transform(np.ones((2, 3))).shape == (2, 0)
