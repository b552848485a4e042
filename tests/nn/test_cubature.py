"""Points and weights for averages over N(0, I), against moments and many random draws."""

import itertools
import math

import numpy as np
import pytest
import torch

from sklearn_vae.nn import cubature as module
from sklearn_vae.nn.cubature import cubature, n_points, reference_points


def rule(k, points=cubature):
    x, w = points(k)
    assert x.dtype == w.dtype == torch.float64
    assert x.shape == (len(w), 1, k)
    return x[:, 0].numpy(), w.numpy()


def moment(powers):
    """E z_1^a z_2^b ... of independent standard normal variables."""
    odd = any(power % 2 for power in powers)
    return 0.0 if odd else math.prod(math.prod(range(1, power, 2)) for power in powers)


@pytest.mark.parametrize("points", [cubature, reference_points])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 9, 15, 16, 17, 50])
def test_quadratic_functions_are_averaged_exactly(k, points):
    x, w = rule(k, points)
    assert (w > 0).all()
    assert w.sum() == pytest.approx(1.0, abs=1e-14)
    np.testing.assert_allclose(w @ x, 0.0, atol=1e-13)
    np.testing.assert_allclose((w[:, None] * x).T @ x, np.eye(k), atol=1e-12)
    again = rule(k, points)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(w, again[1])
    if points is cubature:
        assert len(x) == n_points(k) == max(32, 2 * k)


@pytest.mark.parametrize(("k", "degree", "error"), [(1, 7, 1e-2), (2, 7, 1e-12), (3, 5, 1e-12)])
def test_polynomials_are_averaged_exactly_in_few_dimensions(k, degree, error):
    x, w = rule(k)
    for powers in itertools.product(range(degree + 1), repeat=k):
        if sum(powers) <= degree:
            found = w @ np.prod(x ** np.array(powers), axis=1)
            assert found == pytest.approx(moment(powers), abs=error), powers


@pytest.mark.parametrize("k", [4, 10, 20])
def test_odd_functions_are_averaged_exactly(k):
    x, w = rule(k)
    assert w @ np.sin(x.sum(axis=1)) == pytest.approx(0.0, abs=1e-12)


def random_rule(k, seed):
    """Pairs of as many random draws with the covariance I."""
    z = np.random.default_rng(seed).normal(size=(n_points(k) // 2, k))
    z = np.linalg.solve(np.linalg.cholesky(z.T @ z / len(z)), z.T).T
    return np.concatenate([z, -z])


@pytest.mark.parametrize(("k", "ratio"), [(1, 0.1), (2, 0.1), (3, 0.2), (4, 0.7), (8, 0.95)])
def test_errors_are_below_those_of_random_draws(k, ratio):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, k))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shift = rng.normal(size=200)

    def error(points, weights):
        found = weights @ np.cos(points @ directions.T + shift)
        return np.sqrt(np.mean((found - math.exp(-0.5) * np.cos(shift)) ** 2))

    n = n_points(k)
    others = [error(random_rule(k, seed), np.full(n, 1 / n)) for seed in range(9)]
    assert error(*rule(k)) < ratio * np.mean(others)


def test_support_points_move_by_expected_directions_and_decrease_the_energy_distance(monkeypatch):
    rng = np.random.default_rng(0)
    k, x = 4, random_rule(4, 1)
    monkeypatch.setattr(module, "N_ITERATIONS", 1)
    moved = module._support_points(x)
    Y = rng.normal(size=(200_000, k))

    def step(i):
        apart = x[i] - Y
        inverse = 1 / np.linalg.norm(apart, axis=1)
        others = x[i] - np.delete(x, i, axis=0)
        push = (others / np.linalg.norm(others, axis=1, keepdims=True)).sum(axis=0) / len(x)
        return x[i] + (push - (inverse[:, None] * apart).mean(axis=0)) / inverse.mean()

    np.testing.assert_allclose(moved[:3], [step(i) for i in range(3)], atol=0.02)

    def energy(points):
        pairs = np.linalg.norm(points[:, None] - points, axis=2).mean()
        return 2 * np.mean([np.linalg.norm(p - Y, axis=1).mean() for p in points]) - pairs

    assert energy(moved) < energy(x)


def test_dimensions_beyond_those_of_sobol_have_random_points(monkeypatch):
    monkeypatch.setattr(module, "MAX_DIMENSIONS", 3)
    x, w = rule(4, reference_points)
    np.testing.assert_allclose((w[:, None] * x).T @ x, np.eye(4), atol=1e-12)
