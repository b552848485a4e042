"""Slopes and moments of several incomplete data sets at once against those of each alone."""

import numpy as np
import pytest

from sklearn_vae.gaussian.em import Sums, gradient
from sklearn_vae.gaussian.expected_moments import IncompleteMoments, LowRankFit
from sklearn_vae.gaussian.observed import Parameters, latent_pairs
from sklearn_vae.gaussian.stacked_data import (
    StackedData,
    column_pairs,
    factors,
    inverses,
    log_of_product,
)

D = 7


def make_data(n, seed, weighted=False, n_patterns=None):
    rng = np.random.default_rng(seed)
    missing = rng.uniform(size=(n, D)) < 0.3
    if n_patterns is not None:
        missing = missing[np.arange(n) % n_patterns]
    missing[3] = True
    X = np.where(missing, np.nan, rng.normal(size=(n, 3)) @ rng.normal(size=(3, D)))
    X += rng.normal(size=(n, D))
    weights = rng.uniform(0.5, 2.0, size=n) if weighted else None
    return IncompleteMoments(X, np.nanmean(X, axis=0), 4, weights)


# With samples that fill up, weights in some sets, shared patterns, and several blocks.
STACKS = {
    "equal": [(50, {}), (50, {})],
    "filled up": [(50, {}), (63, {}), (20, {})],
    "weighted": [(50, {"weighted": True}), (40, {})],
    "patterns": [(50, {"n_patterns": 4}), (70, {"n_patterns": 9, "weighted": True}), (30, {})],
    "blocks": [(1200, {}), (700, {}), (900, {"n_patterns": 60})],
}


def make_stack(name):
    return [make_data(n, seed, **options) for seed, (n, options) in enumerate(STACKS[name])]


def make_models(m, k, noise=(0.7, 1.1, 2.0)):
    rng = np.random.default_rng(5)
    return rng.normal(size=(m, D, k)), 0.1 * rng.normal(size=(m, D)), np.array(noise[:m])


def alone(data, loadings, mean, noise):
    """Return the log-likelihood, gradient and expected moments of one data set."""
    parameters = Parameters(loadings, mean, float(noise))
    sums = Sums.of(data.data, parameters)
    values, vectors = np.ones(D), np.eye(D)
    fit = LowRankFit(loadings, float(noise), values, vectors)
    return sums.log_likelihood / data.data.n, gradient(data.data, sums, parameters), fit


def check(slopes, expected, parts, loadings, mean, noise):
    for i, data in enumerate(parts):
        value, slope, fit = alone(data, loadings[i], mean[i], noise[i])
        assert slopes.log_likelihood[i] == pytest.approx(value, rel=1e-12)
        for ours, theirs in zip(slopes[1:], slope, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-9, atol=1e-12)
        moments = data.expect(mean[i], fit)
        np.testing.assert_allclose(expected[i].mean, moments.mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            expected[i].covariance, moments.covariance, rtol=1e-9, atol=1e-11
        )
        assert expected[i].log_likelihood == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("name", STACKS)
def test_slopes_and_moments_are_those_of_each_data_set(name, k):
    parts = make_stack(name)
    models = make_models(len(parts), k)
    slopes, expected = StackedData([data.data for data in parts]).expect(*models)
    check(slopes, expected, parts, *models)


@pytest.mark.parametrize("name", STACKS)
def test_some_of_the_data_sets(name):
    parts = make_stack(name)
    kept = np.array([1, 0, 1])
    models = make_models(3, 2)
    stack = StackedData([data.data for data in parts]).take(kept)
    slopes, expected = stack.expect(*models)
    check(slopes, expected, [parts[i] for i in kept], *models)


def test_little_noise_loses_no_digits():
    parts = make_stack("equal")
    loadings, mean, _ = make_models(2, 2)
    for i, data in enumerate(parts):  # samples near the plane of the loadings
        data.data.values[:] = np.where(
            data.data.observed[data.data.pattern],
            np.random.default_rng(i).normal(size=(50, 2)) @ loadings[i].T + mean[i],
            0.0,
        )
        data.data.squares = (data.data.values**2).sum(axis=1)
    noise = np.array([1e-9, 1e-7])
    slopes = StackedData([data.data for data in parts]).slopes(loadings, mean, noise)
    for i, data in enumerate(parts):
        value, slope, _ = alone(data, loadings[i], mean[i], noise[i])
        assert slopes.log_likelihood[i] == pytest.approx(value, rel=1e-8)
        size = np.abs(slope[0]).max()
        np.testing.assert_allclose(slopes.by_loadings[i], slope[0], rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("scaled", [False, True])
def test_log_likelihoods(name, k, scaled):
    parts = make_stack(name)
    loadings, mean, noise = make_models(len(parts), k)
    scale = np.geomspace(0.5, 3.0, D) if scaled else None
    fits = [
        LowRankFit(loadings[i], float(noise[i]), np.ones(D), np.eye(D), scale)
        for i in range(len(parts))
    ]
    values = StackedData([data.data for data in parts]).log_likelihoods(mean, fits)
    for i, data in enumerate(parts):
        expected = data.data.n * data.expect(mean[i], fits[i]).log_likelihood
        assert values[i] == pytest.approx(expected, rel=1e-12)


def test_singular_matrices_are_nan_or_an_error():
    parts = make_stack("equal")
    loadings, mean, _ = make_models(2, 2)
    loadings[0, :, 1] = loadings[0, :, 0]
    noise = np.array([1e-30, 1.0])
    stack = StackedData([data.data for data in parts])
    value = stack.slopes(loadings, mean, noise).log_likelihood
    np.testing.assert_array_equal(np.isnan(value), [True, False])
    fits = [LowRankFit(loadings[i], noise[i], np.ones(D), np.eye(D)) for i in range(2)]
    with pytest.raises(np.linalg.LinAlgError):
        stack.log_likelihoods(mean, fits)


@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_factors_of_inverses(k):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(30, k, k + 3))
    M = A @ A.swapaxes(1, 2)
    i, j = column_pairs(k)
    B, e = factors(np.ascontiguousarray(M[:, i, j].T), k)
    B_of, E_of = np.moveaxis(B, 2, 0).swapaxes(1, 2), e.T
    np.testing.assert_array_equal(np.tril(B_of, -1), 0.0)
    inverse = np.linalg.inv(M)
    np.testing.assert_allclose(B_of * E_of[:, None, :] @ B_of.swapaxes(1, 2), inverse, rtol=1e-8)
    rows, columns, _ = latent_pairs(k)
    np.testing.assert_allclose(inverses(B, e), inverse[:, rows, columns].T, rtol=1e-8)
    np.testing.assert_allclose(-log_of_product(e), np.linalg.slogdet(M)[1], rtol=1e-9)


def test_log_of_product_outside_the_range_of_float64():
    values = np.array([[1e-200, 1e300, 2.0, 1.0], [1e-200, 1e300, -1.0, np.inf]])
    expected = [-400.0 * np.log(10.0), 600.0 * np.log(10.0), np.nan, np.nan]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(log_of_product(values), expected)
