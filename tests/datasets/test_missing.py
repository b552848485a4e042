"""What make_missing takes away, and what that depends on."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from sklearn_vae.datasets import make_missing, make_ppca
from tests.helpers import exhaustive

MECHANISMS = ["completely_at_random", "at_random", "threshold"]
DRAWN = MECHANISMS[:2]
X = make_ppca(4000, 6, 2, random_state=0)[0]


def share(rows):
    return np.isnan(rows).mean()


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_copy_that_keeps_what_it_has(mechanism, dtype):
    rows = X.astype(dtype)
    rows[::7, 3] = np.nan
    before = rows.copy()
    found = make_missing(rows, 0.2, mechanism, random_state=0)
    np.testing.assert_array_equal(rows, before)
    assert found.dtype == dtype
    gone = np.isnan(found)
    np.testing.assert_array_equal(found[~gone], rows[~gone])
    assert gone[::7, 3].all()
    n_observed = np.count_nonzero(~np.isnan(rows))
    lost = (gone.sum() - np.isnan(rows).sum()) / n_observed
    # Under a threshold what the low rows keep is missing from the share.
    assert lost == pytest.approx(0.2, abs=0.03 if mechanism == "threshold" else 0.008)
    assert not np.isnan(make_missing(X, 0.0, mechanism)).any()


@pytest.mark.parametrize("mechanism", DRAWN)
def test_random_state(mechanism):
    a, b, c = (make_missing(X, 0.3, mechanism, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(np.isnan(a), np.isnan(c))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    ("n", "d", "fraction"), [(2, 2, 0.5), (3, 2, 0.3), (8, 2, 0.4), (6, 3, 0.6), (3, 8, 0.5)]
)
@pytest.mark.parametrize("seeds", [range(20), *exhaustive(range(20, 50))], ids=["few", "more"])
def test_rows_and_columns_keep_a_value(n, d, fraction, mechanism, seeds):
    if mechanism == "at_random" and fraction > (d - 1) / d - 0.2:
        fraction /= 2
    rng = np.random.default_rng(seeds.start)
    for seed in seeds:
        rows = rng.normal(size=(n, d)) + 5 * rng.normal(size=(n, 1))
        gone = np.isnan(make_missing(rows, fraction, mechanism, random_state=seed))
        assert not gone.all(axis=0).any()
        assert not gone.all(axis=1).any()


class TestCompletelyAtRandom:
    # At 0.6 a fifth of the rows of 3 would lose all.
    @pytest.mark.parametrize(("d", "fraction"), [(6, 0.1), (6, 0.5), (3, 0.6), (2, 0.45)])
    def test_share(self, d, fraction):
        found = [share(make_missing(X[:, :d], fraction, random_state=s)) for s in range(10)]
        deviation = np.sqrt(fraction * (1 - fraction) / (10 * 4000 * d))
        assert abs(np.mean(found) - fraction) < 4 * deviation

    def test_depends_on_no_value(self):
        rng = np.random.default_rng(0)
        others = rng.normal(size=X.shape)
        gone = [np.isnan(make_missing(rows, 0.3, random_state=0)) for rows in (X, others, -X)]
        np.testing.assert_array_equal(gone[0], gone[1])
        np.testing.assert_array_equal(gone[0], gone[2])
        # Nor one on another, and every feature as often.
        mutual = np.corrcoef(gone[0].T) - np.eye(6)
        assert np.abs(mutual).max() < 4 / np.sqrt(4000)
        assert np.abs(gone[0].mean(axis=0) - 0.3).max() < 4 * np.sqrt(0.21 / 4000)


class TestAtRandom:
    @pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6])
    @pytest.mark.parametrize("depends_on", [0, 4])
    def test_share_and_the_feature_that_is_observed(self, fraction, depends_on):
        options = {"mechanism": "at_random", "depends_on": depends_on}
        rows = [make_missing(X, fraction, **options, random_state=s) for s in range(10)]
        assert not any(np.isnan(r[:, depends_on]).any() for r in rows)
        deviation = np.sqrt(fraction / (10 * 4000 * 6))
        assert abs(np.mean([share(r) for r in rows]) - fraction) < 4 * deviation

    def test_depends_on_the_observed_feature_alone(self):
        rng = np.random.default_rng(0)
        others = rng.normal(size=X.shape)
        others[:, 0] = X[:, 0]
        gone = np.isnan(make_missing(X, 0.3, "at_random", random_state=0))
        again = np.isnan(make_missing(others, 0.3, "at_random", random_state=0))
        np.testing.assert_array_equal(gone, again)
        # As the logistic function says, each feature, and none on another given the first.
        driver = (X[:, :1] - X[:, 0].mean()) / X[:, 0].std()
        for feature in range(1, 6):
            fitted = LogisticRegression(C=1e6).fit(driver, gone[:, feature])
            assert fitted.coef_[0, 0] == pytest.approx(2.0, abs=0.3)
        probability = expit(fitted.intercept_ + fitted.coef_[0] * driver)
        rest = gone[:, 1:] - probability
        assert np.abs(np.corrcoef(rest.T) - np.eye(5)).max() < 4 / np.sqrt(4000)
        # So the mean of what is observed is biased, not so completely at random.
        biased, fair = (
            np.nanmean(make_missing(X, 0.3, mechanism, random_state=0)[:, 1]) - X[:, 1].mean()
            for mechanism in ("at_random", "completely_at_random")
        )
        assert biased < -0.05
        assert abs(fair) < 0.03


class TestThreshold:
    @pytest.mark.parametrize("side", ["below", "above"])
    @pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
    def test_exact(self, side, fraction):
        rows = make_ppca(400, 8, 2, random_state=0)[0]  # whole rows are low, or high
        gone = np.isnan(make_missing(rows, fraction, "threshold", side=side))
        order = np.sort(rows if side == "below" else -rows, axis=0)
        threshold = order[round(fraction * 399)]
        expected = (rows if side == "below" else -rows) < threshold
        whole = expected.all(axis=1)
        np.testing.assert_array_equal(gone[~whole], expected[~whole])
        assert (gone[whole].sum(axis=1) == 7).all()
        np.testing.assert_allclose(expected.mean(axis=0), fraction, atol=1.5 / 400)
        assert whole.any()

    def test_a_row_that_would_lose_all_keeps_what_is_nearest_to_its_threshold(self):
        rows = np.array([[0, 10, 40], [1, 0, 20], [20, 20, 0], [30, 30, 30], [40, 40, 10]], float)
        gone = np.isnan(make_missing(rows, 0.4, "threshold"))
        # Below the third smallest: the first two of each feature, and of the second row but the 1.
        expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
        np.testing.assert_array_equal(gone, np.array(expected, bool))
        rows[1, 2] = -1.0  # now the lowest of its feature, and the whole row beyond
        gone = np.isnan(make_missing(rows, 0.4, "threshold"))
        expected = [[1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
        np.testing.assert_array_equal(gone, np.array(expected, bool))

    def test_only_the_order_counts_and_equal_values_stay_together(self):
        one, other = (np.isnan(make_missing(rows, 0.3, "threshold")) for rows in (X, np.exp(X) - 3))
        np.testing.assert_array_equal(one, other)
        rows = np.column_stack([[1, 1, 1, 1, 2], np.arange(5)]).astype(float)
        gone = np.isnan(make_missing(rows, 0.4, "threshold"))
        assert not gone[:, 0].any()
        np.testing.assert_array_equal(gone[:, 1], [1, 1, 0, 0, 0])


HOLED = np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]])


@pytest.mark.parametrize(
    ("rows", "keywords", "message"),
    [
        (X, {"mechanism": "mcar"}, "mechanism must be one of 'completely_at_random', .*'mcar'"),
        (X, {"side": "left"}, "side must be one of 'below', 'above', got 'left'"),
        (X, {"fraction": -0.1}, "fraction must be a finite number >= 0, got -0.1"),
        (X, {"fraction": 0.9}, r"fraction must be at most 0.833333 for X .*, got 0.9\."),
        (X.T[:2], {"fraction": 0.6}, "fraction must be at most 0.5 for X of shape"),
        (
            X,
            {"fraction": 0.9, "mechanism": "threshold"},
            "fraction must be at most 0.833333 for X of shape",
        ),
        (
            X,
            {"fraction": 0.84, "mechanism": "at_random"},
            "fraction must be at most 0.833125 for X of shape",
        ),
        (X[:, :1], {"mechanism": "at_random"}, "fraction must be at most 0 for X of shape"),
        (X, {"mechanism": "at_random", "depends_on": 6}, "depends_on .* 6 features, got 6"),
        (X, {"mechanism": "at_random", "depends_on": -1}, "depends_on .* 6 features, got -1"),
        (HOLED, {"mechanism": "at_random", "depends_on": 1}, "has no NaN, got 1, .* 1 NaN"),
        (np.ones((3, 3)), {"mechanism": "at_random"}, "feature that varies .* from 1.0 to 1.0"),
        ([[np.nan, np.nan], [1.0, 2.0]], {}, "a value in each row and column, but row 0 has none"),
        (
            [[np.nan, 1.0], [np.nan, 2.0]],
            {},
            "a value in each row and column, but column 0 has none",
        ),
        ([[np.inf, 1.0]], {}, "infinity"),
    ],
)
def test_errors(rows, keywords, message):
    with pytest.raises(ValueError, match=message):
        make_missing(rows, **keywords)
