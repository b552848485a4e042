"""The quasi-Newton search for pPCA of incomplete data against EM and numerical Hessians."""

import numpy as np
import pytest

from sklearn_vae.gaussian import loadings_search
from sklearn_vae.gaussian.expected_moments import IncompleteMoments, PPCAModel, maximize_expected
from sklearn_vae.gaussian.loadings_search import (
    LoadingsSearch,
    Metric,
    maximize_observed,
    null_model,
)
from sklearn_vae.gaussian.quasi_newton import inverse_product


def make_data(share=0.25, n=120, d=8, seed=0, weighted=False, n_patterns=None):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    missing = rng.uniform(size=(n, d)) < share
    if n_patterns is not None:
        missing = missing[np.arange(n) % n_patterns]
    X = np.where(missing, np.nan, X)
    weights = rng.uniform(0.5, 2.0, size=n) if weighted else None
    return IncompleteMoments(X, np.nanmean(X, axis=0), d, weights)


def model_for(data, k, noise=None):
    return PPCAModel(k, noise, data.data.least_noise)


def no_em(*_, **__):
    raise AssertionError("The search failed.")


@pytest.mark.parametrize("options", [{}, {"weighted": True}, {"n_patterns": 3}, {"share": 0.5}])
@pytest.mark.parametrize("noise", [None, 0.5])
def test_the_maximum_is_that_of_em(options, noise, monkeypatch):
    data = make_data(**options)
    end = null_model(data, model_for(data, 1, noise))
    for k in (1, 3, 5):
        model = model_for(data, k, noise)
        known = maximize_expected(data, model, data.start())
        with monkeypatch.context() as patch:
            patch.setattr(loadings_search, "maximize_expected", no_em)
            patch.setattr(loadings_search, "MOST_GRADIENTS", 100)
            end = maximize_observed(data, model, end)
        assert end.converged
        assert end.is_bounded
        value = data.expect(end.expected.mean, end.fit).log_likelihood
        assert value >= data.expect(known.expected.mean, known.fit).log_likelihood - 1e-10
        again = data.expect(end.expected.mean, end.fit)
        np.testing.assert_allclose(again.mean, end.expected.mean, atol=1e-6)
        np.testing.assert_allclose(again.covariance, end.expected.covariance, atol=2e-6)
        assert (np.diff(end.history) >= 0.0).all()


def test_components_in_all_directions(monkeypatch):
    data = make_data(share=0.05)
    model = model_for(data, 8, 0.05)
    known = maximize_expected(data, model, data.start())
    monkeypatch.setattr(loadings_search, "maximize_expected", no_em)
    end = maximize_observed(data, model, null_model(data, model))
    assert end.converged
    assert end.log_likelihood == pytest.approx(known.log_likelihood, abs=1e-9)


@pytest.mark.parametrize("k", [0, 6])
def test_em_takes_over_if_components_collapse(k):
    data = make_data()
    model = model_for(data, k, 3.0)
    end = maximize_observed(data, model, null_model(data, model))
    known = maximize_expected(data, model, data.start())
    assert end.log_likelihood == pytest.approx(known.log_likelihood, abs=1e-9)


@pytest.mark.parametrize("k", [0, 1])
def test_the_likelihood_is_unbounded_if_no_feature_varies(k):
    X = np.where(np.eye(6, 3), np.nan, [1.0, -2.0, 0.1])
    data = IncompleteMoments(X, np.nanmean(X, axis=0), 3)
    model = model_for(data, k)
    start = null_model(data, model)
    assert not start.is_bounded
    assert not maximize_observed(data, model, start).is_bounded


def test_em_takes_over_after_the_last_step(monkeypatch):
    data = make_data()
    model = model_for(data, 3)
    known = maximize_expected(data, model, data.start())
    monkeypatch.setattr(loadings_search, "MOST_GRADIENTS", 1)
    end = maximize_observed(data, model, null_model(data, model))
    assert end.converged
    assert end.log_likelihood == pytest.approx(known.log_likelihood, abs=1e-9)


def test_an_unbounded_likelihood_is_reported():
    data = make_data(n=6, d=12, share=0.1)
    model = model_for(data, 6)
    assert not maximize_observed(data, model, null_model(data, model)).is_bounded


def log_likelihood(flat, S, d, k):
    W, noise = flat[: d * k].reshape(d, k), np.exp(flat[-1])
    C = W @ W.T + noise * np.eye(d)
    mean = flat[d * k : -1]
    return -0.5 * (np.linalg.slogdet(C)[1] + np.trace(np.linalg.solve(C, S + np.outer(mean, mean))))


@pytest.mark.parametrize("is_noise_free", [True, False])
def test_the_metric_inverts_the_hessian_of_complete_data(is_noise_free):
    rng = np.random.default_rng(0)
    d, k = 5, 2
    S = np.cov(rng.normal(size=(5, 30)) * np.arange(1.0, 6.0)[:, None])
    fit = PPCAModel(k, None if is_noise_free else 2.0, 0.0).fit(S)
    at = np.concatenate([fit.loadings.ravel(), np.zeros(d), [np.log(fit.noise_variance)]])
    size, h = len(at), 1e-4
    steps = h * np.eye(size)

    def value(step):
        return log_likelihood(at + step, S, d, k)

    H = np.array(
        [[value(a + b) - value(a - b) - value(b - a) + value(-a - b) for a in steps] for b in steps]
    )
    H /= -4.0 * h**2
    metric = Metric([fit] * size, [0.0] * size, is_noise_free=is_noise_free)
    P = metric(np.eye(size))
    np.testing.assert_allclose(P, P.T, atol=1e-12)
    if not is_noise_free:
        H[-1] = H[:, -1] = 0.0
        np.testing.assert_array_equal(P[-1], 0.0)
    # A rotation of the components does not change the likelihood: P is a generalized inverse.
    np.testing.assert_allclose(H @ P @ H, H, atol=1e-5)


@pytest.mark.parametrize("noise", [None, 0.5])
def test_searches_in_lockstep_end_where_they_end_alone(noise):
    parts = [make_data(n=60 + 30 * i, seed=i, weighted=i == 1) for i in range(3)]
    together = LoadingsSearch(parts)
    starts = [null_model(data, model_for(data, 0, noise)) for data in parts]
    for k in (2, 4):
        models = [model_for(data, k, noise) for data in parts]
        order = [2, 0, 1, 0]
        ends = together.maximize([(i, models[i], starts[i]) for i in order])
        for i, end in zip(order, ends, strict=True):
            alone = maximize_observed(parts[i], models[i], starts[i])
            assert end.converged
            assert len(end.history) == len(alone.history)
            assert end.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-12)
            np.testing.assert_allclose(end.fit.loadings, alone.fit.loadings, atol=1e-7)
            np.testing.assert_allclose(
                end.expected.covariance, alone.expected.covariance, atol=1e-7
            )
        starts = [ends[order.index(i)] for i in range(3)]


def test_products_are_those_of_the_bfgs_update():
    rng = np.random.default_rng(0)
    curvature = np.diag(np.arange(1.0, 5.0))
    changes = [(s, curvature @ s) for s in rng.normal(size=(3, 4))]
    H = np.eye(4) / 2.0
    for s, y in changes:
        left = np.eye(4) - np.outer(s, y) / (s @ y)
        H = left @ H @ left.T + np.outer(s, s) / (s @ y)
    gradient = rng.normal(size=4)
    concave = (np.ones(4), -np.ones(4))
    product = inverse_product([changes[0], concave, *changes[1:]], gradient, lambda v: v / 2.0)
    np.testing.assert_allclose(product, H @ gradient)
    # Two functions at once, of which one has no change of its own.
    stacked = [(np.stack([s, 0.0 * s]), np.stack([y, 0.0 * y])) for s, y in changes]
    products = inverse_product(stacked, np.stack([gradient] * 2), lambda v: v / 2.0)
    np.testing.assert_allclose(products, [H @ gradient, gradient / 2.0])
