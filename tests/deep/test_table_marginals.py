"""Quantile functions of columns, and synthetic tables with the marginals of the training samples."""

import numpy as np
import pytest
from scipy import stats

from sklearn_vae.deep.table_marginals import (
    MOST_POINTS,
    quantile_function,
    reference_numbers,
    with_marginals,
)
from sklearn_vae.serialization import load, save
from tests.deep.tables import fitted, make_table

RNG = np.random.RandomState(0)


def test_quantiles_of_different_values_are_linear_between_them():
    x = RNG.normal(size=50)
    p = RNG.uniform(size=200)
    expected = np.quantile(x, p, method="hazen")
    np.testing.assert_allclose(np.interp(p, *quantile_function(x)), expected, rtol=1e-12)


def test_equal_values_keep_their_probability():
    x = np.r_[np.zeros(60), RNG.uniform(1, 2, 20), np.full(20, 5.0), np.nan]
    drawn = np.interp(RNG.uniform(size=200_000), *quantile_function(x))
    assert np.mean(drawn == 0.0) == pytest.approx(0.6, abs=0.015)
    assert np.mean(drawn == 5.0) == pytest.approx(0.2, abs=0.015)


def test_weights_are_probabilities():
    x, weights = RNG.normal(size=30), RNG.uniform(1e-3, 1, size=30)
    points = quantile_function(x, weights)
    order = np.argsort(x)
    middle = (weights[order].cumsum() - 0.5 * weights[order]) / weights.sum()
    np.testing.assert_allclose(points[:, ::2], [middle, x[order]], rtol=1e-12)
    np.testing.assert_allclose(quantile_function(x, weights / 7.0), points, rtol=1e-12)
    repeated = np.interp(0.5, *quantile_function(np.repeat(x, 2), np.repeat(weights, 2)))
    assert repeated in x


def test_values_between_training_values_with_weights():
    x = RNG.normal(size=300)
    drawn = np.interp(RNG.uniform(size=2000), *quantile_function(x, RNG.lognormal(size=300)))
    assert np.isin(drawn, x).mean() < 0.02


def test_few_repeated_values_have_no_others():
    prices, p = np.r_[np.repeat([4.99, 9.99, 49.0], [9, 2, 30])], RNG.uniform(size=2000)
    for weights in (None, RNG.lognormal(size=41)):
        drawn = np.interp(p, *quantile_function(prices, weights))
        assert np.isin(drawn, prices).all()
        share = np.average(prices == 49.0, weights=weights)
        assert np.mean(drawn == 49.0) == pytest.approx(share, abs=0.05)


def test_many_values_have_few_points():
    x = np.r_[RNG.normal(size=20_000), np.zeros(20_000)]
    points = quantile_function(x)
    assert points.shape == (2, 4096)
    drawn = np.interp(RNG.uniform(size=50_000), *points)
    assert np.mean(drawn == 0.0) == pytest.approx(0.5, abs=0.01)
    assert stats.ks_2samp(drawn, x).statistic < 0.01


def test_a_column_without_observed_values_stays():
    codes = RNG.normal(size=(5, 1))
    functions = {"0": quantile_function(np.full(3, np.nan))}
    same = with_marginals(codes, reference_numbers(lambda Z, rng: Z, [0], 1), functions, RNG)
    np.testing.assert_array_equal(same, codes)


def test_ranks_stay_and_the_distribution_is_that_of_the_training_samples():
    x = np.exp(RNG.normal(size=500))
    codes = RNG.normal(size=(3000, 1))
    functions = {"0": quantile_function(x)}
    reference = reference_numbers(lambda Z, rng: Z, [0], 1)
    np.testing.assert_allclose(stats.norm.cdf(reference["0"]), np.arange(1, 1024) / 1024, atol=0.02)
    made = with_marginals(codes, reference, functions, RNG)
    assert stats.spearmanr(codes, made).statistic > 0.999
    assert stats.ks_2samp(made[:, 0], x).statistic < 0.04


def test_samples_have_the_marginals_of_the_training_samples():
    model, X = fitted("complete"), make_table()
    S, Z = model.sample(4000, random_state=0)
    numbers = ["real", "positive", "heavy", "count", "noise"]
    for name in numbers:
        assert stats.ks_2samp(S[name], X[name]).statistic < 0.06
    for name in ("real", "positive", "noise"):
        values = S[name], Z[:, 0] if name != "noise" else X[name].sample(4000, replace=True)
        correlation = abs(stats.spearmanr(*values).statistic)
        assert correlation > 0.6 if name != "noise" else correlation < 0.1
    few, _ = model.sample(10, random_state=1, marginals="model")
    assert set(few.columns) == set(S.columns)
    with pytest.raises(ValueError, match="marginals must be"):
        model.sample(2, marginals="copula")


def test_values_without_weight_do_not_count():
    x, weights = np.array([1.0, 2.0, 3.0, 9.0]), np.array([2.0, 1.0, 1.0, 0.0])
    expected = quantile_function(x[:3], weights[:3])
    np.testing.assert_array_equal(quantile_function(x, weights), expected)


def test_up_to_the_maximum_number_of_points_quantiles_are_exact():
    x, p = RNG.normal(size=MOST_POINTS // 2), RNG.uniform(size=200)
    points = quantile_function(x)
    expected = np.quantile(x, p, method="hazen")
    np.testing.assert_allclose(np.interp(p, *points), expected, rtol=1e-9, atol=1e-12)


def test_probabilities_lie_between_the_neighbors_among_draws_of_the_model():
    reference = {"0": np.array([1.0, 3.0, 3.0, 5.0])}
    functions = {"0": np.array([[0.0, 1.0]] * 2)}
    for value, least, most in [(0, 0, 1), (1, 0, 2), (2, 1, 2), (3, 1, 4), (5, 3, 5), (6, 4, 5)]:
        codes = np.full((2000, 1), float(value))
        u = 5.0 * with_marginals(codes, reference, functions, RNG)[:, 0]
        assert stats.kstest(u, stats.uniform(least, most - least).cdf).pvalue > 1e-4
        assert (codes == value).all()


def test_samples_need_no_other_draws(tmp_path, monkeypatch):
    save(fitted("complete"), tmp_path / "model")
    model = load(tmp_path / "model")
    expected = model.sample(3, random_state=0)[0]
    sizes, draw = [], type(model)._draw_codes

    def counted(self, Z, random_state):
        sizes.append(len(Z))
        return draw(self, Z, random_state)

    monkeypatch.setattr(type(model), "_draw_codes", counted)
    assert model.sample(3, random_state=0)[0].equals(expected)
    assert sizes == [3]
