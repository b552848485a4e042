"""EM over expected moments against dense conditional Gaussians and the EM of gaussian.em."""

import numpy as np
import pytest

from sklearn_vae.gaussian.em import expectation_maximization
from sklearn_vae.gaussian.expected_moments import (
    Expected,
    IncompleteMoments,
    LowRankFit,
    PPCAModel,
    maximize_expected,
    slope_at,
)
from sklearn_vae.gaussian.factor_em import FactorUpdate, fit_incomplete_factors
from sklearn_vae.gaussian.loadings_search import maximize_observed, null_model
from sklearn_vae.gaussian.observed import IncompleteData, Parameters


def make_incomplete(n, d, k, share=0.25, seed=0, n_patterns=None):
    """Draw samples with NaN; with `n_patterns`, few patterns of many samples."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + rng.normal(size=(n, d))
    missing = rng.uniform(size=(n, d)) < share
    if n_patterns is not None:
        missing = missing[np.arange(n) % n_patterns]
    return np.where(missing, np.nan, X + 3.0)


def dense_expectation(X, weights, mean, C):
    """Expected mean and covariance of complete data, and log-likelihood, sample by sample."""
    total, products, value = np.zeros(len(mean)), np.zeros_like(C), 0.0
    for x, w in zip(X, weights, strict=True):
        o = ~np.isnan(x)
        gain = C[:, o] @ np.linalg.inv(C[np.ix_(o, o)])
        filled = mean + gain @ (x[o] - mean[o])
        total += w * filled
        products += w * (np.outer(filled, filled) + C - gain @ C[o])
        log_det = np.linalg.slogdet(C[np.ix_(o, o)])[1] if o.any() else 0.0
        distance = (x[o] - mean[o]) @ np.linalg.inv(C[np.ix_(o, o)]) @ (x[o] - mean[o])
        value -= 0.5 * w * (o.sum() * np.log(2.0 * np.pi) + log_det + distance)
    n = weights.sum()
    return total / n, products / n - np.outer(total, total) / n**2, value / n


@pytest.mark.parametrize("by_latents", [False, True])
@pytest.mark.parametrize("is_scaled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "n_patterns"), [(0, None), (2, None), (3, 4), (18, None)])
def test_expected_moments_are_those_of_dense_gaussians(
    k, n_patterns, weighted, is_scaled, by_latents, monkeypatch
):
    monkeypatch.setattr(IncompleteMoments, "_has_few_missing", lambda *_: not by_latents)
    rng = np.random.default_rng(1)
    d = max(k + 1, 7)
    X = make_incomplete(40, d, 2, n_patterns=n_patterns)
    X[5] = np.nan  # a sample without values
    center = np.nanmean(X, axis=0)
    weights = rng.uniform(0.5, 2.0, size=40) if weighted else None
    W, mean = rng.normal(size=(d, k)), rng.normal(size=d)
    scale = rng.uniform(0.5, 2.0, size=d) if is_scaled else None
    fit = LowRankFit(W, 0.7, np.ones(d), np.eye(d), scale)
    D = np.eye(d) if scale is None else np.diag(scale)
    data = IncompleteMoments(X, center, k, weights)
    result = data.expect(mean, fit)
    w = np.ones(40) if weights is None else weights
    expected = dense_expectation(X - center, w, mean, D @ (W @ W.T + 0.7 * np.eye(d)) @ D)
    np.testing.assert_allclose(result.mean, expected[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result.covariance, expected[1], rtol=1e-9, atol=1e-11)
    assert result.log_likelihood == pytest.approx(expected[2], rel=1e-12)


def test_the_cheaper_way_is_chosen():
    X = make_incomplete(60, 20, 2, share=0.1)
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 8)
    W = np.random.default_rng(0).normal(size=(20, 8))
    ways = [data._has_few_missing(Parameters(W[:, :k], np.zeros(20), 0.5)) for k in (1, 8)]
    assert ways == [False, True]
    # The precision matrix loses digits if the noise is small.
    assert not data._has_few_missing(Parameters(W, np.zeros(20), 1e-5))


@pytest.mark.parametrize("noise", [None, 0.5, 3.0])
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_the_maximum_is_that_of_the_other_em(k, noise):
    X = make_incomplete(120, 8, 3)
    center = np.nanmean(X, axis=0)
    data = IncompleteMoments(X, center, k)
    model = PPCAModel(k, noise, data.data.least_noise)
    found = maximize_expected(data, model, data.start())
    assert found.converged
    assert found.is_bounded
    value = data.expect(found.expected.mean, found.fit).log_likelihood
    W = found.fit.loadings + (0.0 if k == 0 else 1e-3)
    start = Parameters(W, found.expected.mean, found.fit.noise_variance)
    _, history, _ = expectation_maximization(
        IncompleteData(X, center, k), start, noise_variance=noise, tol=1e-14, max_iter=5000
    )
    assert value == pytest.approx(history[-1], abs=1e-9)


def test_factors_have_at_least_the_likelihood_of_the_other_em():
    X = make_incomplete(150, 9, 2) * np.geomspace(1.0, 3.0, 9)
    center = np.nanmean(X, axis=0)
    data = IncompleteMoments(X, center, 2)
    found = maximize_expected(data, FactorUpdate(2), data.start())
    value = data.expect(found.expected.mean, found.fit).log_likelihood
    model, _ = fit_incomplete_factors(X, 2, tol=1e-13, max_iter=5000)
    assert value == pytest.approx(model.log_likelihood, abs=1e-8)


def test_the_result_is_a_fixed_point_of_em():
    X = make_incomplete(100, 10, 3, share=0.4)
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 5)
    end = maximize_expected(data, PPCAModel(5, None, data.data.least_noise), data.start())
    again = data.expect(end.expected.mean, end.fit)
    np.testing.assert_allclose(again.mean, end.expected.mean, atol=1e-6)
    np.testing.assert_allclose(again.covariance, end.expected.covariance, atol=1e-5)


def test_complete_data_need_no_iterations():
    X = make_incomplete(60, 5, 2, share=0.0)
    data = IncompleteMoments(X, X.mean(axis=0), 2)
    end = maximize_expected(
        data, PPCAModel(2, None, data.data.least_noise), data.start(), max_iter=1
    )
    assert end.converged
    np.testing.assert_allclose(end.expected.covariance, np.cov(X.T, bias=True), atol=1e-12)


def test_it_leaves_a_saddle_point():
    X = make_incomplete(200, 6, 2, share=0.3, seed=2)
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 1)
    model = PPCAModel(1, None, data.data.least_noise)
    best = maximize_expected(data, model, data.start())
    # Rotate the moments so that the first component is one of the lesser ones.
    values, vectors = np.linalg.eigh(best.expected.covariance)
    swapped = vectors[:, [0, 1, 2, 3, 5, 4]]
    away = Expected(best.expected.mean, (swapped * values) @ swapped.T)
    end = maximize_expected(data, model, away)
    assert end.converged
    value = data.expect(end.expected.mean, end.fit).log_likelihood
    assert value == pytest.approx(
        data.expect(best.expected.mean, best.fit).log_likelihood, abs=1e-9
    )


def test_equal_variances_are_as_good_a_start_as_any():
    X = make_incomplete(200, 6, 2, share=0.3, seed=2)
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 1)
    model = PPCAModel(1, None, data.data.least_noise)
    best = maximize_expected(data, model, data.start())
    # The component has collapsed, and its variance is exactly that of the noise.
    end = maximize_expected(data, model, Expected(np.zeros(6), np.eye(6)))
    assert end.converged
    assert end.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-9)


def test_an_unbounded_likelihood_is_reported():
    X = make_incomplete(6, 12, 2, share=0.1)
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 6)
    end = maximize_expected(data, PPCAModel(6, None, data.data.least_noise), data.start())
    assert not end.is_bounded


@pytest.mark.parametrize("seed", [12, 13, 54])
def test_a_noise_variance_that_falls_to_0_does_not_converge_on_the_way(seed):
    # Its steps are soon too small for the moments to tell, although each one halves it.
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(10, 2)) @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(10, 3))
    X[rng.uniform(size=X.shape) < 0.2] = np.nan
    X[:, 0] = np.nan
    X[rng.choice(10, 3, replace=False), 0] = rng.normal(size=3)
    X = X[~np.isnan(X).all(axis=1)]
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 2)
    model = PPCAModel(2, None, data.data.least_noise)
    end = maximize_observed(data, model, null_model(data, model))
    assert (
        not (end.converged and end.is_bounded) or slope_at(data, model, end).remaining_gain < 1e-6
    )
