"""Slopes and extrapolations of histories whose continuation is known."""

import math

import numpy as np
import pytest

from sklearn_vae.gaussian.trend import trend_of

CURVES = {
    "log": lambda t: 5.0 * np.log(t),
    "power": lambda t: -30.0 * t**-0.5,
    "line": lambda t: 0.1 * t,
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("n", [20, 100, 1000])
def test_the_expected_rise_is_that_of_twice_the_number_of_steps(name, n):
    curve = CURVES[name]
    trend = trend_of(curve(np.arange(1.0, n + 1.0)))
    assert trend.rises
    assert trend.expected == pytest.approx(curve(2.0 * n) - curve(1.0 * n), rel=0.05)


def test_an_exponential_approach_has_nothing_left():
    t = np.arange(200.0)
    trend = trend_of(-10.0 * np.exp(-t / 20.0))
    assert 0.0 <= trend.possible < 0.2
    assert trend.fall == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_noise_without_a_slope_does_not_rise(seed):
    noise = np.random.default_rng(seed).normal(size=400)
    trend = trend_of(noise)
    assert not trend.rises or trend.slope < 3.5 * trend.error
    assert trend.noise == pytest.approx(1.0, abs=0.15)
    assert 0.2 < trend.possible < 3.0


def test_the_error_of_a_slope_is_that_of_repeated_histories():
    rng = np.random.default_rng(0)
    trends = [trend_of(np.arange(100.0) + rng.normal(size=100)) for _ in range(300)]
    slopes, errors = ([getattr(t, name) for t in trends] for name in ("slope", "error"))
    assert np.mean(slopes) == pytest.approx(1.0, abs=0.01)
    assert np.median(errors) == pytest.approx(np.std(slopes), rel=0.2)


def test_a_fall_is_seen_and_few_steps_are_not_judged():
    values = np.concatenate([np.linspace(-20.0, -5.0, 100), np.full(50, -8.0)])
    assert trend_of(values).fall == pytest.approx(3.0, abs=1.2)
    few = trend_of(values[:9])
    assert not few.is_known
    assert math.isnan(few.slope)
    assert not few.rises
    assert trend_of([np.nan] * 50).n_steps == 0
