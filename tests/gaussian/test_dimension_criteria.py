"""Criteria for the number of components against definitions, simulations and published numbers."""

import numpy as np
import pytest

from sklearn_vae import PPCA
from sklearn_vae.gaussian import sample_spectrum
from sklearn_vae.gaussian.dimension_criteria import (
    NoiseShape,
    bic,
    marchenko_pastur_median,
    noise_edge,
    noise_eigenvalues,
    optimal_threshold,
    parallel_analysis,
)
from tests.linear.data import make_rows


@pytest.mark.parametrize("shape", [(60, 7), (8, 20)])
def test_bic_of_each_model(shape):
    X = make_rows(*shape)
    n, d = shape
    values = bic(sample_spectrum(X), n)
    assert len(values) == min(d - 1, n - 1) + 1
    for k, value in enumerate(values):
        if np.isnan(value):
            assert k == n - 1  # the likelihood is unbounded
            continue
        n_parameters = d * k - k * (k - 1) / 2 + 1 + d
        expected = -2 * n * PPCA(k, svd_solver="full").fit(X).score(X) + np.log(n) * n_parameters
        assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("shape", [(41, 10), (10, 41), (12, 12)])
def test_noise_eigenvalues_have_the_distribution_of_white_noise(shape):
    n, d = shape
    drawn = noise_eigenvalues(n, d, 2000, np.random.RandomState(0))
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(2000):
        X = rng.normal(size=shape)
        expected.append(
            np.linalg.svd(X - X.mean(axis=0), compute_uv=False)[: min(n - 1, d)] ** 2 / n
        )
    error = 5 * np.std(expected, axis=0) * (2 / 2000) ** 0.5
    assert (np.abs(drawn.mean(axis=0) - np.mean(expected, axis=0)) < error).all()
    np.testing.assert_allclose(drawn.std(axis=0), np.std(expected, axis=0), rtol=0.15)


def test_median_of_marchenko_and_pastur():
    assert marchenko_pastur_median(1.0) == pytest.approx(0.6527, abs=1e-4)  # the square of 0.8079
    for ratio in (0.1, 0.5):
        values = noise_eigenvalues(2001, int(2000 * ratio), 1, np.random.RandomState(0))
        assert marchenko_pastur_median(ratio) == pytest.approx(np.median(values), rel=0.01)


def test_threshold_of_square_matrices_is_the_published_one():
    # Gavish and Donoho: 2.858 times the median singular value.
    values = np.linspace(9.0, 1.0, 101)
    threshold = optimal_threshold(values, 102, 101)
    assert threshold**0.5 == pytest.approx(2.858 * np.median(values) ** 0.5, rel=1e-3)


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("shape", [(300, 20), (30, 200), (100, 100)])
def test_noise_exceeds_the_limits_in_five_percent_of_the_cases(shape):
    noise = noise_eigenvalues(*shape, 400, np.random.RandomState(1))
    reference = noise_eigenvalues(*shape, 400, np.random.RandomState(2))
    above = np.mean([values[0] > noise_edge(values, *shape) for values in noise])
    assert 0.01 < above < 0.15  # the median is estimated too
    found = np.mean([parallel_analysis(values, reference)[0] > 0 for values in noise])
    assert 0.02 < found < 0.1


def test_parallel_analysis_stops_at_the_first_eigenvalue_of_noise():
    noise = np.tile([1.2, 1.1, 1.0, 0.7], (10, 1))
    k, limits = parallel_analysis(np.array([2.0, 1.05, 1.04, 0.01]), noise)
    assert k == 1
    np.testing.assert_allclose(limits, np.array([1.2, 1.1, 1.0, 0.7]) * 4.1 / 4.0)
    assert parallel_analysis(np.array([2.0, 1.0]), np.array([[0.5, 0.1]]))[0] == 0
    assert parallel_analysis(np.array([2.0]), np.array([[0.5]]))[0] == 0


def test_the_shape_of_centered_samples():
    assert NoiseShape.of(10, 4) == (4, 9)
    assert NoiseShape.of(4.0, 10) == (3, 10)
    assert NoiseShape.of(4.0, 10).ratio == 0.3
