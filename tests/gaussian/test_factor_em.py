"""EM for factor analysis with missing values against dense likelihoods."""

from functools import cache

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_wine

from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE, fit_factors
from sklearn_vae.gaussian.factor_em import fit_incomplete_factors
from sklearn_vae.gaussian.moments import Moments


def planted(n=60, d=6, k=1, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)
    psi = rng.uniform(0.3, 1.5, d)
    W = rng.normal(size=(d, k))
    X = rng.normal(size=(n, k)) @ W.T + psi**0.5 * rng.normal(size=(n, d)) + rng.normal(size=d)
    X[rng.random(X.shape) < missing] = np.nan
    return X


@cache
def fitted():
    X = planted(k=2, n=80)
    return (X, *fit_incomplete_factors(X, 2))


def observed_log_likelihood(X, loadings, psi, mean, weights=None):
    C = loadings @ loadings.T + np.diag(psi)
    values = []
    for x in X:
        o = ~np.isnan(x)
        p = stats.multivariate_normal(mean[o], C[np.ix_(o, o)]) if o.any() else None
        values.append(p.logpdf(x[o]) if o.any() else 0.0)
    return np.average(values, weights=weights)


def test_the_likelihood_is_that_of_the_observed_values():
    X, model, mean = fitted()
    expected = observed_log_likelihood(X, model.loadings, model.noise_variance, mean)
    assert model.log_likelihood == pytest.approx(expected, abs=1e-10)
    assert model.converged
    assert (np.diff(model.history) >= 0.0).all()


def test_no_parameter_can_be_improved():
    X, model, mean = fitted()

    log_psi, h = np.log(model.noise_variance), 1e-4

    def value(loadings=model.loadings, log_psi=log_psi, mean=mean):
        return observed_log_likelihood(X, loadings, np.exp(log_psi), mean)

    for j in range(6):
        e = np.eye(6)[j]
        derivatives = [
            value(mean=mean + h * e) - value(mean=mean - h * e),
            value(log_psi=log_psi + h * e) - value(log_psi=log_psi - h * e),
            value(loadings=model.loadings + h * np.outer(e, [1, 0]))
            - value(loadings=model.loadings - h * np.outer(e, [1, 0])),
        ]
        assert np.abs(derivatives).max() / (2 * h) < 1e-3


def test_complete_data_give_the_closed_profile_solution():
    X = load_wine().data
    model, mean = fit_incomplete_factors(X, 2, tol=1e-10, max_iter=5000)
    exact = fit_factors(Moments.of(X), 2)
    assert model.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-6)
    np.testing.assert_allclose(model.noise_variance, exact.noise_variance, rtol=0.02)
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-6)


def test_weights_are_repetitions():
    X = planted(k=1)
    weights = 1 + np.arange(len(X)) % 3
    weighted, mean = fit_incomplete_factors(X, 1, weights.astype(float), tol=1e-10)
    repeated, expected = fit_incomplete_factors(np.repeat(X, weights, axis=0), 1, tol=1e-10)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(weighted.noise_variance, repeated.noise_variance, rtol=1e-4)
    np.testing.assert_allclose(mean, expected, atol=1e-4)


def test_units_change_nothing_but_the_density():
    X, model, mean = fitted()
    scale = 2.0 ** np.array([-20, -5, 0, 3, 9, 14])
    scaled, scaled_mean = fit_incomplete_factors(X * scale + 3.0, 2)
    np.testing.assert_allclose(scaled.noise_variance, model.noise_variance * scale**2, rtol=1e-6)
    np.testing.assert_allclose(scaled_mean, mean * scale + 3.0, rtol=1e-7)
    seen = (~np.isnan(X)).mean(axis=0)
    expected = model.log_likelihood - seen @ np.log(scale)
    assert scaled.log_likelihood == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("k", [0, 2])
def test_fixed_noise_and_constant_features(k):
    X = planted(k=1)
    X[:, 3] = np.where(np.isnan(X[:, 3]), np.nan, 7.0)
    model, mean = fit_incomplete_factors(X, k)
    assert model.noise_variance[3] == CONSTANT_NOISE
    assert mean[3] == 7.0
    psi = np.full(6, 0.5)
    model, mean = fit_incomplete_factors(X, k, noise_variance=psi)
    np.testing.assert_array_equal(model.noise_variance, psi)
    expected = observed_log_likelihood(X, model.loadings, psi, mean)
    assert model.log_likelihood == pytest.approx(expected, abs=1e-9)


def test_the_limit_of_iterations_is_reported():
    stopped, _ = fit_incomplete_factors(planted(k=2, n=80), 2, max_iter=2)
    assert not stopped.converged
    assert len(stopped.history) == 3
    assert stopped.gradient_norm > 1e-6


def test_the_slope_where_em_stops_is_that_of_the_likelihood():
    X, h = planted(k=2, n=30), 1e-5
    stopped, mean = fit_incomplete_factors(X, 2, max_iter=2)

    def value(change):
        psi = stopped.noise_variance * np.exp(change)
        return observed_log_likelihood(X, stopped.loadings, psi, mean)

    slopes = [(value(h * e) - value(-h * e)) / (2 * h) for e in np.eye(6)]
    assert stopped.gradient_norm == pytest.approx(np.abs(slopes).max(), rel=1e-5)


def test_the_predicted_gain_is_the_distance_from_the_maximum():
    X, best = planted(k=2, n=80), fitted()[1].log_likelihood
    stopped, _ = fit_incomplete_factors(X, 2, max_iter=4)
    gain = best - stopped.log_likelihood
    assert 1e-5 < gain < 1e-3
    assert gain / 3.0 < stopped.remaining_gain < 3.0 * gain
