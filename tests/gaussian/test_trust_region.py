"""Newton's method in a trust region, against dense linear algebra and known maxima."""

import numpy as np
import pytest

from sklearn_vae.gaussian.trust_region import Point, ascend, newton_step

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(8, 8))


def point_of(B, gradient, metric=None):
    inverse = np.eye(len(B)) if metric is None else np.linalg.inv(metric)
    return Point(0.0, gradient, lambda u: B @ u, lambda u: inverse @ u)


@pytest.mark.parametrize("metric", [None, np.diag(np.arange(1.0, 9.0))])
def test_inside_the_radius_it_solves_newtons_equation(metric):
    B, g = ROOT @ ROOT.T + np.eye(8), 1e-9 * RNG.normal(size=8)  # small: solved accurately
    step = newton_step(point_of(B, g, metric), 1e3)
    expected = np.linalg.solve(B, g)
    assert step.is_inside
    np.testing.assert_allclose(step.step, expected, rtol=1e-3)
    assert step.rise == pytest.approx(0.5 * g @ expected, rel=1e-3)
    metric = np.eye(8) if metric is None else metric
    assert step.length == pytest.approx(np.sqrt(step.step @ metric @ step.step))
    assert step.rise == pytest.approx(g @ step.step - 0.5 * step.step @ B @ step.step)


@pytest.mark.parametrize("B", [ROOT @ ROOT.T, np.diag([-1.0, *range(1, 8)]), np.zeros((8, 8))])
@pytest.mark.parametrize("radius", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("metric", [np.eye(8), np.diag(np.arange(1.0, 9.0))])
def test_at_the_radius_it_gains_at_least_what_the_gradient_does(B, radius, metric):
    g = np.random.default_rng(1).normal(size=8)
    step = newton_step(point_of(B, g, metric), radius)
    assert not step.is_inside
    assert step.length == pytest.approx(radius)
    assert np.sqrt(step.step @ metric @ step.step) == pytest.approx(radius)
    assert step.rise == pytest.approx(g @ step.step - 0.5 * step.step @ B @ step.step)
    z = np.linalg.solve(metric, g)
    t = radius / np.sqrt(z @ metric @ z)
    if (curvature := z @ B @ z) > 0.0:
        t = min(t, g @ z / curvature)
    assert step.rise >= t * g @ z - 0.5 * t**2 * z @ B @ z - 1e-12


class Rosenbrock:
    """Minus Rosenbrock's function, whose valley is curved and whose Hessian is indefinite."""

    def __init__(self):
        self.n_calls = 0

    def __call__(self, x):
        self.n_calls += 1
        a, b = x
        value = -((1 - a) ** 2) - 100 * (b - a**2) ** 2
        gradient = np.array([2 * (1 - a) + 400 * a * (b - a**2), -200 * (b - a**2)])
        B = np.array([[2 - 400 * (b - 3 * a**2), -400 * a], [-400 * a, 200.0]])
        return Point(value, gradient, lambda u: B @ u, lambda u: u)

    def move(self, x, step):
        return x + step


@pytest.mark.parametrize("start", [(-1.2, 1.0), (0.0, 3.0), (5.0, -5.0), (1.0, 1.0)])
@pytest.mark.parametrize("tol", [0.0, 1e-6])
def test_the_ascent_never_falls_and_ends_at_the_maximum(start, tol):
    function = Rosenbrock()
    states = list(ascend(function, np.array(start), tol))
    assert (np.diff([state.value for state in states]) > 0.0).all()
    assert [state.n_steps for state in states] == list(range(len(states)))
    assert len(states) < 60
    assert function.n_calls < 120
    last = states[-1]
    assert last.done
    assert last.converged
    assert -max(2 * tol, 1e-12) < last.value <= 0.0
    assert -last.value == pytest.approx(last.gain, rel=0.1, abs=1e-13)
    assert not any(state.done for state in states[:-1])


def test_an_ascent_continues_as_if_it_had_not_stopped():
    states = list(ascend(Rosenbrock(), np.array([-1.2, 1.0]), 1e-9))
    middle = states[4]
    again = list(ascend(Rosenbrock(), middle.x, 1e-9, middle.radius))
    np.testing.assert_array_equal([s.x for s in again], [s.x for s in states[4:]])
    np.testing.assert_array_equal([s.gain for s in again], [s.gain for s in states[4:]])
