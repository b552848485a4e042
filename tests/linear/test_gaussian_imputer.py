"""Imputation by a normal distribution with a full covariance."""

import numpy as np
import pandas as pd
import pytest

from sklearn_vae import GaussianImputer
from sklearn_vae.gaussian.shrunk_covariance import fit_shrunk
from sklearn_vae.linear import linear_imputer


def table(n=80, seed=0):
    """Return samples with correlated features, and the same with a fifth missing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5)) + 0.4 * rng.normal(size=(n, 5))
    X = X * [1.0, 10.0, 0.1, 1.0, 5.0] + 3.0
    return X, np.where(rng.uniform(size=X.shape) < 0.2, np.nan, X)


X, HOLES = table()


def test_imputes_conditional_means():
    imputer = GaussianImputer(n_fits=0).fit(HOLES)
    scale = np.nanstd(HOLES, axis=0)
    fit = fit_shrunk(HOLES / scale)
    np.testing.assert_allclose(imputer.scale_, scale)
    np.testing.assert_allclose(imputer.covariance_, fit.normal.covariance)
    assert imputer.shrinkage_ == fit.shrinkage
    filled, std = imputer.impute(HOLES, return_std=True)
    expected, spread = fit.normal.conditional(HOLES / scale)
    np.testing.assert_allclose(filled, expected * scale)
    np.testing.assert_allclose(std, spread * scale)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 2.0, len(HOLES))])
def test_spreads_in_tiny_and_huge_units(unit, weights):
    # Whose squares are no numbers.
    found = linear_imputer.spread_of(HOLES * unit, weights)
    np.testing.assert_allclose(found / unit, linear_imputer.spread_of(HOLES, weights))
    constants = np.full((4, 2), 7.0 * unit)
    np.testing.assert_array_equal(linear_imputer.spread_of(constants, None), 1.0)


def test_independent_features_are_imputed_by_their_means():
    filled = GaussianImputer(1.0, tol=1e-10).fit_transform(HOLES)
    means = np.broadcast_to(np.nanmean(HOLES, axis=0), X.shape)
    np.testing.assert_allclose(filled[np.isnan(HOLES)], means[np.isnan(HOLES)])


def test_transform_needs_no_further_fits(monkeypatch):
    imputer = GaussianImputer(n_fits=2).fit(HOLES)
    calls, real = [], linear_imputer.predictive_of
    monkeypatch.setattr(
        linear_imputer, "predictive_of", lambda *args: (calls.append(1), real(*args))[1]
    )
    imputer.fit_transform(HOLES)
    assert not calls
    first = imputer.interval(HOLES)
    imputer.impute(HOLES, n_draws=2)
    assert len(calls) == 1
    imputer.fit(HOLES[::-1])
    again = imputer.interval(HOLES)
    assert len(calls) == 2
    assert not np.array_equal(first, again)


def test_data_frames_with_integers_and_empty_columns():
    frame = pd.DataFrame(HOLES, columns=list("abcde")).assign(empty=np.nan)
    frame["count"] = pd.array(np.round(X[:, 1]), dtype="Int64")
    frame.loc[:5, "count"] = pd.NA
    imputer = GaussianImputer(
        round_integers=True, add_indicator=True, keep_empty_features=True, min_value=0.0, n_fits=2
    ).set_output(transform="pandas")
    filled = imputer.fit_transform(frame)
    gone = [f"missingindicator_{name}" for name in frame]
    assert filled.columns.tolist() == [*frame, *gone]
    assert not filled.isna().any().any()
    assert (filled["count"] == filled["count"].round()).all()
    assert (filled["empty"] == 0).all()
    assert (filled[list("abcde")].to_numpy()[np.isnan(HOLES)] >= 0).all()
    dropped = GaussianImputer(n_fits=0).set_output(transform="pandas")
    with pytest.warns(UserWarning, match="empty"):
        assert "empty" not in dropped.fit_transform(frame)


def test_float32_far_from_the_samples_does_not_overflow():
    imputer = GaussianImputer(n_fits=0).fit((0.1 * HOLES).astype(np.float32))
    x = np.array([[np.nan, 3e38, -3e38, 3e38, -1e38]], dtype=np.float32)
    assert np.isfinite(imputer.impute(x / np.float32(100))).all()
    with np.errstate(over="ignore"):
        assert not np.isnan(imputer.impute(x)).any()


def test_weights_count_as_repetitions():
    weights = np.random.default_rng(0).integers(0, 3, size=len(HOLES))
    weighted = GaussianImputer(n_fits=0, tol=1e-7).fit(HOLES, sample_weight=weights)
    repeated = GaussianImputer(n_fits=0, tol=1e-7).fit(np.repeat(HOLES, weights, axis=0))
    assert weighted.shrinkage_ == pytest.approx(repeated.shrinkage_)
    np.testing.assert_allclose(weighted.impute(HOLES), repeated.impute(HOLES), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrinkage": 0.0}, r"shrinkage must be 'auto' or a float in \(0, 1\]"),
        ({"shrinkage": "mle"}, "shrinkage must be 'auto'"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"n_fits": 1.5}, "n_fits"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianImputer(**options).fit(HOLES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("covariance_", -np.eye(5), "positive definite"),
        ("covariance_", np.eye(4), "shape"),
        ("mean_", np.full(5, np.nan), "finite"),
        ("_fit_samples", np.zeros((3, 4)), "5 features"),
        ("_fit_weights", np.ones(3), "per sample"),
        ("_fit_seed", None, "belong together"),
    ],
)
def test_states_that_do_not_fit_are_refused(name, value, message):
    state = GaussianImputer(n_fits=2).fit(HOLES).get_state()
    with pytest.raises(ValueError, match=message):
        GaussianImputer().set_state({**state, name: value})
