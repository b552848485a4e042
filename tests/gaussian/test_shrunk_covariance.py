"""Shrunk normal distribution of incomplete data."""

import numpy as np
import pytest
from scipy.special import multigammaln

from sklearn_vae.gaussian.shrunk_covariance import (
    WEIGHTS,
    MissingParts,
    Normal,
    fit_shrunk,
    likeliest_weight,
)


def table(n, d, share, seed=0):
    """Return samples with correlated features and missing values."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    X[rng.uniform(size=X.shape) < share] = np.nan
    return X


def normal(d, seed=1):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, d))
    return Normal(rng.normal(size=d), A @ A.T + np.eye(d))


def dense(x, normal):
    """Return conditional mean and covariance of one sample, with zeros for observed values."""
    mean, S = normal
    m, o = np.isnan(x), ~np.isnan(x)
    filled, covariance = x.copy(), np.zeros_like(S)
    gain = S[np.ix_(m, o)] @ np.linalg.inv(S[np.ix_(o, o)])
    filled[m] = mean[m] + gain @ (x[o] - mean[o])
    covariance[np.ix_(m, m)] = S[np.ix_(m, m)] - gain @ S[np.ix_(o, m)]
    return filled, covariance


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("d", [1, 4, 23])
def test_expectations_are_those_of_each_sample(d, share):
    X, w = table(80, d, share), np.random.default_rng(2).uniform(0.5, 2.0, size=80)
    X[5] = np.nan
    X[6:30] = X[5:6] if d == 1 else np.where(np.isnan(X[7]), np.nan, X[6:30])  # a common pattern
    model = normal(d)
    Y, total, variances = MissingParts(X, w).expectations(model)
    each = [dense(x, model) for x in X]
    np.testing.assert_allclose(Y + model.mean, [filled for filled, _ in each], atol=1e-9)
    np.testing.assert_allclose(
        total, sum(v * C for v, (_, C) in zip(w, each, strict=True)), atol=1e-8
    )
    np.testing.assert_allclose(variances, [np.diag(C) for _, C in each], atol=1e-9)


def test_draws_have_the_conditional_distribution():
    model, x = normal(4), np.array([0.3, np.nan, -1.0, np.nan])
    draws = model.draw(np.tile(x, (40_000, 1)), np.random.RandomState(0))
    mean, covariance = dense(x, model)
    np.testing.assert_array_equal(draws[:, [0, 2]], np.tile(x[[0, 2]], (40_000, 1)))
    C, v = covariance[np.ix_([1, 3], [1, 3])], np.diag(covariance)[[1, 3]]
    error = (draws - mean)[:, [1, 3]].mean(axis=0) / np.sqrt(v / 40_000)
    assert np.abs(error).max() < 4.0
    spread = np.sqrt((np.outer(v, v) + C**2) / 40_000)  # of a sample covariance
    assert (np.abs(np.cov(draws[:, [1, 3]].T) - C) < 4.0 * spread).all()


def log_posterior(X, fit, w):
    """Return the log-density of the observed values plus that of the prior, up to a constant."""
    mean, S = fit.normal
    value = 0.0
    for x, weight in zip(X, w, strict=True):
        o = ~np.isnan(x)
        r, C = x[o] - mean[o], S[np.ix_(o, o)]
        value -= 0.5 * weight * (np.linalg.slogdet(C)[1] + r @ np.linalg.solve(C, r))
    prior = w.sum() * fit.shrinkage / (1.0 - fit.shrinkage)
    T = np.diag(
        [np.average((c - np.average(c, weights=v)) ** 2, weights=v) for c, v in columns(X, w)]
    )
    return value - 0.5 * prior * (np.linalg.slogdet(S)[1] + np.trace(np.linalg.solve(S, T)))


def columns(X, w):
    for x in X.T:
        o = ~np.isnan(x)
        yield x[o], w[o]


def test_fit_is_the_mode_of_the_posterior():
    X, w = table(60, 4, 0.3), np.random.default_rng(3).uniform(0.5, 2.0, size=60)
    fit = fit_shrunk(X, w, shrinkage=0.1, tol=1e-9, max_iter=5000)
    assert fit.converged
    best = log_posterior(X, fit, w)
    rng = np.random.default_rng(4)
    for _ in range(30):
        mean, S = fit.normal
        A = np.eye(4) + 1e-3 * rng.normal(size=(4, 4))
        moved = Normal(mean + 1e-3 * rng.normal(size=4), A @ S @ A.T)
        assert log_posterior(X, fit._replace(normal=moved), w) < best


def test_evidence_of_complete_samples():
    n, d = 50, 3
    values = np.linalg.eigvalsh(np.cov(table(n, d, 0.0).T))

    def log_evidence(w):
        nu = w + d + 1
        return (
            multigammaln((nu + n) / 2, d)
            - multigammaln(nu / 2, d)
            + nu / 2 * d * np.log(w)
            - (nu + n) / 2 * np.log(w + n * values).sum()
        )

    expected = max(WEIGHTS, key=log_evidence)
    assert likeliest_weight(n * values, float(n)) == expected


def test_shrinkage_follows_the_data():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(100, 6))
    common = noise + 2.0 * rng.normal(size=(100, 1))
    assert fit_shrunk(noise).shrinkage > 0.7
    assert fit_shrunk(common).shrinkage < 0.1


def test_start_and_units_do_not_matter():
    X = table(80, 5, 0.3)
    one = fit_shrunk(X, tol=1e-8, max_iter=2000)
    other = fit_shrunk(X, start=normal(5), tol=1e-8, max_iter=2000)
    np.testing.assert_allclose(other.normal.covariance, one.normal.covariance, rtol=1e-4, atol=1e-4)
    c = 10.0 ** np.arange(-6.0, 9.0, 3.0)
    scaled = fit_shrunk(c * X + 5.0, tol=1e-8, max_iter=2000).normal
    np.testing.assert_allclose(scaled.covariance / c / c[:, None], one.normal.covariance, rtol=1e-5)


def test_constant_feature():
    X = np.column_stack([table(30, 2, 0.2), np.full(30, 7.0)])
    X[3, 2] = np.nan
    filled, std = fit_shrunk(X).normal.conditional(X)
    assert filled[3, 2] == 7.0
    assert std[3, 2] < 1e-5


@pytest.mark.parametrize("shrinkage", [1e-18, 1e-16])
def test_repeated_features_need_some_shrinkage(shrinkage):
    X = np.repeat(np.random.default_rng(0).normal(size=(20, 2)), 2, axis=1)
    X[3, 0] = np.nan
    with pytest.raises(ValueError, match=f"got {shrinkage}: some features are linear combinations"):
        fit_shrunk(X, shrinkage=shrinkage)
    assert np.linalg.eigvalsh(fit_shrunk(X, shrinkage=1e-6).normal.covariance)[0] > 1e-8
