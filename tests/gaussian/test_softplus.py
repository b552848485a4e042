"""Expected softplus against fine sums, whose own accuracy is checked by adaptive quadrature."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

from sklearn_vae.gaussian import softplus
from sklearn_vae.gaussian.softplus import expected_softplus, expected_softplus_of_features

MEANS = np.array([0.0, 0.3, 1.0, 3.0, 7.0, 15.0, 40.0, 1e3, 1e4])
MEANS = np.concatenate([-MEANS[:0:-1], MEANS])
STDS = [0.0, 1e-8, 0.01, 0.1, 0.5, 1.0, 1.9, 2.1, 5.0, 20.0, 100.0, 1e3]


def derivatives(a):
    """Softplus and its derivatives up to the fourth."""
    p = expit(a)
    q = p * expit(-a)
    return np.stack(
        [np.logaddexp(0, a), p, q, q * (1 - 2 * p), q * (1 - 6 * q)],
    )


def by_fine_sum(m, s):
    """The trapezoidal rule, whose error falls as exp(-2 pi^2 / (s h)) with the step h."""
    if s == 0.0:
        return derivatives(np.float64(m))
    h = min(0.2, 0.4 / s)
    t = h * np.arange(-int(9 / h), int(9 / h) + 1)
    return derivatives(m + s * t) @ (h * np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi))


@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (-3.0, 0.5), (2.0, 5.0), (-30.0, 20.0)])
def test_the_oracle_is_right(m, s):
    for order in range(5):

        def integrand(a, order=order):
            density = np.exp(-0.5 * ((a - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))
            return derivatives(a)[order] * density

        ends = [m - 10 * s, *np.unique([-5.0, 0.0, 5.0, m]), m + 10 * s]
        pieces = pairwise(ends)
        expected = sum(
            quad(integrand, *sorted(ab), epsabs=1e-14)[0] * np.sign(ab[1] - ab[0]) for ab in pieces
        )
        assert by_fine_sum(m, s)[order] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("s", STDS)
def test_ten_digits_for_any_mean_and_spread(s):
    found = np.stack(expected_softplus(MEANS, np.float64(s**2), order=4))
    expected = np.stack([by_fine_sum(m, s) for m in MEANS], axis=1)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-14, atol=4e-11)
    np.testing.assert_allclose(found[3:], expected[3:], rtol=0, atol=1e-9)


def test_the_error_is_largest_without_spread_and_small_there():
    # Averaging over a cannot raise the largest error: a bound for every mean and variance.
    a = np.linspace(-60, 60, 20001)
    errors = np.abs(np.stack(expected_softplus(a, 0.0)) - derivatives(a)[:3]).max(axis=1)
    assert (errors < [1e-11, 1e-11, 3e-11]).all()
    spread = np.abs(
        np.stack(expected_softplus(a[::50], 0.3))
        - [*zip(*[by_fine_sum(m, 0.3**0.5)[:3] for m in a[::50]], strict=True)]
    ).max(axis=1)
    assert (spread < errors + 1e-13).all()


def test_the_mixture_has_the_moments_of_the_logistic_distribution():
    c, w = np.array(softplus._MIXTURE).T
    assert w.sum() == pytest.approx(1, abs=1e-15)
    assert w @ c == pytest.approx(np.pi**2 / 3, rel=1e-11)
    assert 3 * (w @ c**2) == pytest.approx(7 * np.pi**4 / 15, rel=1e-10)


def test_derivatives_are_those_of_the_value():
    rng = np.random.default_rng(0)
    m, v, h = 4 * rng.normal(size=50), rng.uniform(0.1, 20, 50), 1e-4
    upper, lower = (expected_softplus(m + sign * h, v, order=4) for sign in (1, -1))
    found = expected_softplus(m, v, order=4)
    for above, below, derivative in zip(upper[:4], lower[:4], found[1:], strict=True):
        np.testing.assert_allclose((above - below) / (2 * h), derivative, atol=3e-9)
    upper, lower = (expected_softplus(m, v + sign * h, order=4) for sign in (1, -1))
    for above, below, derivative in zip(upper[:3], lower[:3], found[2:], strict=True):
        np.testing.assert_allclose((above - below) / (2 * h), 0.5 * derivative, atol=3e-9)


def test_shapes_broadcast_and_extremes_raise_no_warning():
    with warnings.catch_warnings(), np.errstate(over="raise", invalid="raise", divide="raise"):
        warnings.simplefilter("error")
        value, slope, curvature = expected_softplus(MEANS[:, None], np.array([0.0, 1.0, 1e6]))
    assert value.shape == slope.shape == curvature.shape == (len(MEANS), 3)
    assert np.isfinite([value, slope, curvature]).all()
    np.testing.assert_allclose(value[-1, 0], 1e4, rtol=1e-15)
    np.testing.assert_allclose(value[0, 0], 0, atol=1e-15)


@pytest.mark.parametrize("s", STDS)
def test_tables_have_ten_digits(s):
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.normal(size=(2, 3000)) * (2 + s), np.zeros((2, 1))], axis=1) - 1
    found = expected_softplus_of_features(means, np.full(2, s**2))
    expected = expected_softplus(means, s**2)
    # It was a table that answered.
    assert not np.array_equal(found[0], expected[0])
    for a, b, tolerance in zip(found, expected, (5e-13, 5e-12, 2e-10), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=tolerance)


def test_tables_do_not_depend_on_company():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(3, 4000)), np.array([0.5, 2.0, 0.0])
    whole = expected_softplus_of_features(means, variances)
    half = expected_softplus_of_features(means[1:, :2000], variances[1:])
    for a, b in zip(whole, half, strict=True):
        np.testing.assert_allclose(a[1:, :2000], b, rtol=1e-13)


def test_few_rows_need_no_table():
    means, variances = np.random.default_rng(0).normal(size=(3, 10)), np.array([0.5, 2.0, 0.0])
    found = expected_softplus_of_features(means, variances)
    for a, b in zip(found, expected_softplus(means, variances[:, None]), strict=True):
        np.testing.assert_array_equal(a, b)
