import numpy as np
import pytest
from scipy.stats import t

from sklearn_vae.diagnostics import pool


def test_rules_worked_by_hand():
    estimates, variances = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.7, 0.6])
    pooled = pool(estimates, variances)
    total = 0.6 + 4.0 / 3.0 * 1.0
    share = 4.0 / 3.0 / total
    assert pooled.estimate == pytest.approx(2.0)
    assert pooled.standard_error == pytest.approx(total**0.5)
    assert pooled.degrees_of_freedom == pytest.approx(2.0 / share**2)
    ratio = 4.0 / 3.0 / 0.6
    missing = (ratio + 2.0 / (pooled.degrees_of_freedom + 3.0)) / (ratio + 1.0)
    assert pooled.fraction_missing == pytest.approx(missing)
    lower, upper = pooled.interval(0.9)
    assert (upper - lower) / 2 == pytest.approx(t.ppf(0.95, pooled.degrees_of_freedom) * total**0.5)


def test_degrees_of_freedom_of_barnard_and_rubin():
    estimates, variances = np.array([1.0, 1.2, 0.9]), np.array([0.04, 0.05, 0.03])
    large = pool(estimates, variances)
    small = pool(estimates, variances, complete_df=10)
    assert small.degrees_of_freedom < 10 < large.degrees_of_freedom
    almost = pool(estimates, variances, complete_df=1e12).degrees_of_freedom
    assert almost == pytest.approx(large.degrees_of_freedom, rel=1e-6)
    # Without missing values, the degrees of freedom are nearly those of complete data.
    same = pool(np.ones(3), variances, complete_df=10)
    assert same.degrees_of_freedom == pytest.approx(11 / 13 * 10)
    assert same.fraction_missing == 0.0
    assert pool(np.ones(3), variances).degrees_of_freedom == np.inf


def test_squares_do_not_overflow():
    estimates, errors = np.array([1.0, 1.2, 0.9]), np.array([2e-60, 3e-60, 1e-60])
    pooled = pool(1e160 * estimates, (1e160 * errors) ** 2)
    known = pool(estimates, errors**2)
    assert pooled.standard_error / 1e160 == pytest.approx(known.standard_error)
    assert pooled.degrees_of_freedom == pytest.approx(known.degrees_of_freedom)


def test_arrays():
    rng = np.random.default_rng(0)
    estimates, variances = rng.normal(size=(5, 2, 3)), rng.uniform(0.1, 1, size=(5, 2, 3))
    pooled = pool(estimates, variances)
    single = pool(estimates[:, 1, 2], variances[:, 1, 2])
    assert pooled.standard_error[1, 2] == pytest.approx(single.standard_error)
    assert pooled.degrees_of_freedom.shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0]), "m >= 2"),
        (([1.0, 2.0], [1.0]), "same shape"),
        (([1.0, 2.0], [1.0, 0.0]), "positive"),
        (([1.0, np.nan], [1.0, 1.0]), "finite"),
        (([1.0, 2.0], [1.0, 1.0], -1), "complete_df"),
    ],
)
def test_bad_arguments(arguments, message):
    estimates, variances, *df = arguments
    with pytest.raises(ValueError, match=message):
        pool(estimates, variances, complete_df=df[0] if df else None)
    with pytest.raises(ValueError, match="coverage"):
        pool([1.0, 2.0], [1.0, 1.0]).interval(1.0)
