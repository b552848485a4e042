"""p-values are uniform under exchangeability, by all permutations of tiny samples."""

import itertools
from collections import Counter

import numpy as np
import pytest

from sklearn_vae import PPCA, OutlierDetector
from sklearn_vae.outliers.conformal import conformal_p_values

# Two features, no two samples equally unusual.
SAMPLES = np.array([[0.0, 0.1], [1.0, 0.7], [-1.1, 0.4], [2.3, 3.0], [-0.4, -1.9]])


def p_value(order, cv):
    """p-value of the last sample, where the first four are those of fit."""
    X = SAMPLES[list(order)]
    detector = OutlierDetector(PPCA(1, noise_variance=0.3), cv=cv, level=0.9)
    return round(float(detector.fit(X[:4]).p_values(X[4:])[0]), 9)


def test_split_p_values_are_uniform_over_all_permutations():
    cv = [(np.array([0, 1]), np.array([2, 3]))]
    # The order within the two parts does not matter.
    orders = [o for o in itertools.permutations(range(5)) if o[0] < o[1] and o[2] < o[3]]
    found = Counter(p_value(order, cv) for order in orders)
    assert found == {round(i / 3, 9): len(orders) / 3 for i in (1, 2, 3)}


@pytest.mark.parametrize("n_folds", [2, 4])  # 4 is the jackknife+
def test_cross_conformal_p_values_are_within_their_bound_over_all_permutations(n_folds):
    folds = np.array_split(np.arange(4), n_folds)
    cv = [(np.setdiff1d(np.arange(4), fold), fold) for fold in folds]
    # The order within folds and that of folds does not matter.
    size = 4 // n_folds
    orders = [
        order
        for order in itertools.permutations(range(5))
        if all(a < b for a, b in itertools.pairwise(order[:4:size]))
        if size == 1 or (order[0] < order[1] and order[2] < order[3])
    ]
    assert len(orders) == {2: 15, 4: 5}[n_folds]
    found = np.array([p_value(order, cv) for order in orders])
    for level in np.arange(1, 6) / 5:
        assert (found <= level + 1e-9).mean() <= 2 * level
    assert set(np.round(found * 5, 6)) <= {1, 2, 3, 4, 5}


def test_p_values_of_calibration_scores_themselves_with_ties():
    usual = np.array([1.0, 2.0, 2.0, 5.0])
    scores = np.array([0.0, 1.0, 2.0, 3.0, 9.0])
    p_values, log_scores = conformal_p_values([scores], [usual], [np.ones(4)])
    np.testing.assert_allclose(p_values, [0.2, 0.4, 0.8, 0.8, 1.0])
    np.testing.assert_allclose(np.exp(log_scores[1:]), p_values[1:])


def test_ties_make_p_values_larger_never_smaller():
    # All permutations of samples with ties: P(p <= level) <= level.
    samples = [0.0, 1.0, 1.0, 1.0, 2.0]
    found = []
    for i in range(5):
        rest = np.sort(np.delete(samples, i))
        found.append(conformal_p_values([np.array([samples[i]])], [rest], [np.ones(4)])[0][0])
    for level in np.arange(1, 6) / 5:
        assert np.mean(np.array(found) <= level) <= level


def test_folds_add_up():
    rng = np.random.default_rng(0)
    calibration = [np.sort(rng.normal(size=size)) for size in (5, 7, 6)]
    scores = [rng.normal(size=30) for _ in calibration]
    weights = [np.ones(len(part)) for part in calibration]
    p_values, _ = conformal_p_values(scores, calibration, weights)
    for i, p in enumerate(p_values):
        counted = sum((part <= s[i]).sum() for part, s in zip(calibration, scores, strict=True))
        assert p == (1 + counted) / 19


def test_samples_beyond_all_calibration_samples_are_in_order():
    usual, scores = np.sort(np.random.default_rng(0).normal(size=50)), np.linspace(-80, -4, 40)
    p_values, log_scores = conformal_p_values([scores], [usual], [np.ones(50)])
    assert (p_values == 1 / 51).all()
    assert (np.diff(log_scores) > 0).all()
    assert (log_scores < np.log(1 / 51)).all()
    equal = conformal_p_values([scores], [np.zeros(50)], [np.ones(50)])[1]  # without spread
    assert np.isfinite(equal).all()


def test_infinite_scores_of_the_model():
    usual, scores = np.array([-np.inf, 0.0, 1.0]), np.array([-np.inf, 0.0, np.inf])
    p_values, log_scores = conformal_p_values([scores], [usual], [np.ones(3)])
    np.testing.assert_allclose(p_values, [0.5, 0.75, 1.0])
    np.testing.assert_allclose(np.exp(log_scores), p_values)
    lowest = conformal_p_values([scores[:1]], [usual[1:]], [np.ones(2)])
    assert (lowest[0][0], lowest[1][0]) == (1 / 3, -np.finfo(np.float64).max)


def test_weights_count_calibration_samples():
    usual = np.array([0.0, 1.0, 2.0])
    scores, weights = np.array([-1.0, 0.5, 1.5]), np.array([2.0, 0.5, 0.5])
    p_values, _ = conformal_p_values([scores], [usual], [weights])
    np.testing.assert_allclose(p_values, [1 / 4, 3 / 4, 3.5 / 4])


def test_p_values_never_exceed_one_by_rounding():
    rng = np.random.default_rng(0)
    for size in range(2, 200):
        weights = rng.uniform(size=size)
        weights /= weights.mean()
        p_values, log_scores = conformal_p_values([np.array([9.0])], [np.zeros(size)], [weights])
        assert p_values[0] <= 1.0
        assert log_scores[0] <= 0.0
        np.testing.assert_allclose(p_values, 1.0)


def test_rounding_of_a_score_does_not_change_its_p_value():
    usual = np.sort(np.random.default_rng(0).normal(size=30) - 3e5)
    weights = [np.ones(30)]
    p_values, _ = conformal_p_values([usual], [usual], weights)
    for rounded in (np.nextafter(usual, -np.inf), np.nextafter(usual, np.inf)):
        np.testing.assert_array_equal(conformal_p_values([rounded], [usual], weights)[0], p_values)
