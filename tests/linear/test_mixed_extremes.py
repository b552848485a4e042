"""Tests of MixedFactorAnalysis with extreme scales of values, weights and penalties."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import FactorAnalysis, MixedFactorAnalysis
from sklearn_vae.gaussian.mixed_columns import ColumnTerms
from tests.linear.test_mixed_factor_analysis import TYPES, make_table


def test_the_spread_of_nearly_constant_positive_columns():
    rng = np.random.default_rng(0)
    p = 1e6 * np.exp(1e-8 * rng.normal(size=60))
    X = np.column_stack([rng.normal(size=60), p])
    X[:10, 1] = np.nan
    model = MixedFactorAnalysis(1, column_types={1: "positive"}, penalty=1, random_state=0).fit(X)
    table, std = model.impute(X, return_std=True)
    np.testing.assert_allclose(table[:, 1], 1e6, rtol=1e-7)
    # The limit at the largest value makes the spread a little smaller.
    expected = np.std(p[10:])
    assert (std[:10, 1] > 0.7 * expected).all()
    assert (std[:10, 1] < 1.1 * expected).all()


def test_constant_positive_columns_are_imputed():
    X = np.column_stack([np.random.default_rng(0).normal(size=30), np.full(30, 1e6)])
    model = MixedFactorAnalysis(1, column_types={1: "positive"}, penalty=1, random_state=0).fit(X)
    table, std = model.impute([[0.5, np.nan]], return_std=True)
    assert table[0, 1] == 1e6
    assert std[0, 1] == 0.0


@pytest.mark.parametrize("std", [1e-9, 1e-4, 0.03, 0.0999, 0.1001, 0.7])
@pytest.mark.parametrize("h", [-50.0, -2.0, 0.3, 4.0, np.inf])
def test_moments_of_limited_exponentials(std, h):
    # Integrals of deviations from exp(a), which do not cancel.
    a, high = 2.0, np.exp(2.0 + h * std)
    terms = ColumnTerms(["positive"], [[]])
    mean, variance = terms.moments(
        np.array([[a]]), np.zeros((1, 1)), np.array([std**2]), np.array([[0.0], [high]])
    )

    edge = np.clip(h, -12.0, 12.0)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    parts = [(low, up) for low, up in [(-12.0, edge), (edge, 12.0)] if low < up]
    e = np.concatenate([0.5 * (up - low) * nodes + 0.5 * (up + low) for low, up in parts])
    w = np.concatenate([0.5 * (up - low) * weights for low, up in parts]) * norm.pdf(e)
    deviations = np.expm1(std * np.minimum(e, h))
    change = w @ deviations
    spread = w @ (deviations - change) ** 2
    assert mean[0, 0] == pytest.approx(np.exp(a) * (1.0 + change), rel=1e-10)
    # The logarithm of the limit has rounding errors.
    tolerance = 1e-9 + 1e-14 / std
    assert variance[0, 0] == pytest.approx(
        np.exp(2 * a) * spread, rel=tolerance, abs=1e-14 * std**2
    )


@pytest.mark.parametrize("penalty", [1e12, 1e300])
def test_a_large_penalty_gives_independent_columns(penalty):
    X, _, _ = make_table(40)
    options = {"column_types": TYPES, "random_state": 0}
    model = MixedFactorAnalysis(1, penalty=penalty, **options).fit(X)
    assert model.certificate_.converged
    assert np.isfinite(model.elbo_history_).all()
    np.testing.assert_allclose(model.loadings_, 0.0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-8, 1e-100, 1e-300, 1e100])
@pytest.mark.parametrize("columns", [list(TYPES), ["owner"]])
def test_the_scale_of_weights_does_not_matter_without_penalty(scale, columns):
    X = make_table(40)[0][columns].assign(same=True)
    weights = np.random.default_rng(0).uniform(0.5, 1.0, size=40)
    options = {"column_types": {c: TYPES[c] for c in columns} | {"same": "binary"}, "max_iter": 3}

    def fitted(weights):
        model = MixedFactorAnalysis(1, penalty=0, random_state=0, **options)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "MixedFactorAnalysis has not converged")
            return model.fit(X, sample_weight=weights)

    model, scaled = fitted(weights / weights.mean()), fitted(scale * weights)
    varying = model.term_names_ != "same>False"
    np.testing.assert_allclose(scaled.loadings_, model.loadings_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        scaled.intercept_[varying], model.intercept_[varying], rtol=1e-6, atol=1e-8
    )
    assert np.isfinite(scaled.intercept_).all()


def test_small_weights_warn_if_there_is_a_penalty():
    X, _, _ = make_table(40)
    model = MixedFactorAnalysis(1, column_types=TYPES, random_state=0)
    for scale in (1.0 / 40, 1e-300, 5e-324):
        with pytest.warns(
            UserWarning, match=r"weights of the 40 samples sum to .*mean, or"
        ) as made:
            model.fit(X, sample_weight=np.full(40, scale))
        assert [w.filename for w in made] == [__file__]
    model.fit(X, sample_weight=np.full(40, 0.2))
    model.set_params(penalty=0, max_iter=1)
    with pytest.warns(UserWarning, match="has not converged"):
        model.fit(X, sample_weight=np.full(40, 1.0 / 40))


@pytest.mark.parametrize("max_iter", [200, 1])
def test_warnings_of_real_columns_name_them_at_the_line_of_the_user(max_iter):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(50, 4)), columns=["w", "x", "y", "zz"]).assign(
        x2=lambda t: t["x"]
    )
    made = []
    for cls in (FactorAnalysis, MixedFactorAnalysis):
        model = cls(2, max_iter=max_iter, random_state=0)
        with pytest.warns(ConvergenceWarning) as caught:
            model.fit(X)
        assert {w.filename for w in caught} == {__file__}
        heywood = [str(w.message) for w in caught if "Heywood" in str(w.message)]
        made.append((heywood, len(caught)))
    assert made[0] == made[1]
    assert max_iter == 1 or "feature 'x'" in made[1][0][0]


@pytest.mark.parametrize("seed", [5, 17, 19])
def test_intercepts_of_rare_categories_do_not_run_away(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=40)
    X = np.column_stack([np.round(np.exp(1.5 * z)), 3.0 * z + rng.normal(size=40)])
    model = MixedFactorAnalysis(1, column_types={0: "ordinal"}, random_state=0).fit(X)
    assert model.certificate_.remaining_gain < model.tol
    assert np.abs(model.intercept_).max() < 20.0
    assert min(model.column_gains_.values()) > 0.0


@pytest.mark.slow
def test_loadings_without_bounds_are_an_error_that_names_the_penalty():
    rng = np.random.default_rng(2)
    z = 3.0 * rng.normal(size=40)
    X = np.column_stack([np.exp(3.0 * z), rng.negative_binomial(0.3, 0.01, size=40), np.round(z)])
    types = {0: "positive", 1: "count", 2: "categorical"}
    model = MixedFactorAnalysis(2, column_types=types, penalty=0, random_state=0)
    with pytest.raises(ValueError, match="penalty=0, because other columns predict some"):
        model.fit(X)
    assert not hasattr(model, "loadings_")
