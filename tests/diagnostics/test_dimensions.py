import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch.distributions import Normal, kl_divergence

from sklearn_vae import PPCA, DeepAutoencoder
from sklearn_vae.diagnostics import (
    active_units,
    collapse,
    collapse_curve,
    decompose_kl,
    diagnose,
    entropy_bound,
    kl_per_dimension,
    second_moments,
    tune_noise_variance,
)
from tests.deep.data import SMALL
from tests.diagnostics.models import MODELS, Stranger, fitted, rows, with_covariance

BY_PROTOCOL = [kl_per_dimension, collapse, collapse_curve, active_units, second_moments]
FUNCTIONS = [*BY_PROTOCOL, decompose_kl, entropy_bound, tune_noise_variance]


def oracle_kl(model, X):
    mean, variance = (torch.tensor(np.array(a, float)) for a in model.posterior(X))
    prior = torch.tensor(getattr(model, "prior_variance_", np.ones(mean.shape[1])))
    return kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, prior.sqrt())).numpy()


class OfKL(Stranger):
    """A model whose rows have these KL, by their posterior means: the rows are the KL."""

    def posterior(self, X):
        return np.sqrt(2.0 * np.asarray(X)), np.ones_like(X)


@pytest.mark.some(7)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_kl_per_dimension_against_torch(model):
    model, X = fitted(model), rows(seed=1)
    oracle = oracle_kl(model, X).mean(axis=0)
    np.testing.assert_allclose(kl_per_dimension(model, X), oracle, rtol=1e-6, atol=1e-7)


@pytest.mark.some(8)
@pytest.mark.parametrize(
    "model", [m for m in MODELS if not getattr(m, "early_stopping", False)], ids=str
)
def test_of_training_rows_it_is_the_fitted_attribute(model):
    model = fitted(model)
    found = kl_per_dimension(model, rows())
    np.testing.assert_allclose(found, model.kl_per_dim_, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_second_moments_and_active_units_from_the_posterior(model):
    model, X = fitted(model), rows(seed=1)
    mean, variance = model.posterior(X)
    prior = getattr(model, "prior_variance_", 1.0)
    moments = ((mean**2 + variance) / prior).mean(axis=0)
    np.testing.assert_allclose(second_moments(model, X), moments, rtol=1e-5)
    spread = mean.var(axis=0) / prior
    threshold = float(np.median(spread))
    found = active_units(model, X, threshold)
    np.testing.assert_allclose(found.variance, spread, rtol=1e-5)
    np.testing.assert_array_equal(found.active, np.flatnonzero(found.variance > threshold))


@pytest.mark.parametrize("delta", [0.0, 0.01, 0.05, 0.3, 0.999])
@pytest.mark.parametrize("n", [1, 7, 100, 300])
def test_collapse_is_the_definition(n, delta):
    rng = np.random.default_rng(0)
    X = np.round(rng.exponential(0.02, size=(n, 40)) * rng.random(40), 3)  # with ties
    for epsilon in (0.0, 0.005, 0.01, 0.03):
        kl = oracle_kl(OfKL(), X)
        few = np.isclose(kl, epsilon, rtol=1e-6)  # what rounding decides
        found = collapse(OfKL(), X, epsilon, delta)
        # share of rows with KL <= epsilon is at least 1 - delta, in whole rows
        above = (kl > epsilon) & ~few
        surely = ((above | few).sum(axis=0) / n) <= delta
        never = (above.sum(axis=0) / n) > delta
        assert set(np.flatnonzero(surely)) <= set(found.collapsed)
        assert not set(np.flatnonzero(never)) & set(found.collapsed)
        assert found.percent == 100 * len(found.collapsed) / 40
        np.testing.assert_array_equal(np.union1d(found.active, found.collapsed), np.arange(40))


@pytest.mark.parametrize("criterion", ["share", "average"])
def test_the_curve_agrees_with_collapse_at_every_epsilon(criterion):
    X = np.random.default_rng(0).exponential(0.1, size=(200, 30)) * np.linspace(0, 1, 30)
    curve = collapse_curve(OfKL(), X, criterion=criterion)
    epsilons = np.append(np.geomspace(1e-5, 1.0, 50), curve.thresholds)
    shares = [len(collapse(OfKL(), X, e, criterion=criterion).collapsed) / 30 for e in epsilons]
    np.testing.assert_array_equal(curve.at(epsilons), shares)
    # A threshold is the least epsilon.
    below = np.nextafter(curve.thresholds[1:], 0)
    assert all(
        h not in collapse(OfKL(), X, epsilon, criterion=criterion).collapsed
        for h, epsilon in enumerate(below, start=1)
    )


def test_the_two_criteria_differ():
    X = np.zeros((1000, 2))
    X[:30, 0], X[:, 1] = 0.1, 0.02  # 3 % of the rows are told of; all of them a little
    assert list(collapse(OfKL(), X).collapsed) == []
    assert list(collapse(OfKL(), X, criterion="average").collapsed) == [0]
    assert list(collapse(OfKL(), X, delta=0.05).collapsed) == [0]
    assert list(collapse(OfKL(), X, epsilon=0.05).collapsed) == [1]


def test_what_ppca_prunes_has_collapsed():
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25])
    ppca = PPCA(4, noise_variance=1.5).fit(X)
    found = collapse(ppca, X)
    np.testing.assert_array_equal(found.collapsed, [2, 3])
    np.testing.assert_array_equal(found.collapsed, ppca.collapsed_dims_)
    np.testing.assert_array_equal(found.share, [found.share[0], found.share[1], 1, 1])
    np.testing.assert_array_equal(active_units(ppca, X).active, [0, 1])
    np.testing.assert_allclose(collapse_curve(ppca, X).at([0, 1e9]), [0.5, 1])


@pytest.mark.parametrize("function", [*FUNCTIONS, diagnose], ids=lambda f: f.__name__)
def test_a_model_that_is_not_fitted_is_an_error(function):
    with pytest.raises(NotFittedError):
        function(PPCA(2), rows())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_an_autoencoder_has_no_latent_distribution(function):
    model = DeepAutoencoder(3, **SMALL).fit(rows())
    with pytest.raises(TypeError, match=f"{function.__name__} requires .* has no posterior"):
        function(model, rows())


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (collapse, {"epsilon": -1}, "epsilon must be a finite number >= 0, got -1"),
        (collapse, {"delta": 1.0}, r"delta must be in \[0, 1\), got 1.0"),
        (collapse, {"criterion": "mean"}, "criterion must be one of 'share', 'average'"),
        (collapse, {"delta": -1e-9}, r"delta must be in \[0, 1\), got -1e-09"),
        (collapse_curve, {"delta": "a"}, "delta must be in"),
        (active_units, {"threshold": None}, "threshold must be a finite number >= 0"),
        (active_units, {"threshold": -1e-9}, "threshold must be a finite number >= 0"),
        (decompose_kl, {"n_samples": 0}, "n_samples must be an integer >= 1, got 0"),
        (decompose_kl, {"random_state": -1}, "random_state must be an integer >= 0, got -1"),
        (entropy_bound, {"tolerance": -1}, "tolerance must be a finite number >= 0, got -1"),
        (diagnose, {"max_samples": 1}, "max_samples must be an integer >= 2, got 1"),
        (diagnose, {"random_state": -1}, "random_state must be an integer >= 0, got -1"),
    ],
)
def test_parameters_out_of_range(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(fitted(MODELS[0]), rows(), **options)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (collapse, {"epsilon": 0, "delta": 0}),
        (active_units, {"threshold": 0}),
        (decompose_kl, {"n_samples": 1, "random_state": 0}),
        (entropy_bound, {"tolerance": 0}),
        (diagnose, {"max_samples": 2, "random_state": 0}),
    ],
)
def test_parameters_at_the_ends_of_their_ranges(function, options):
    function(fitted(MODELS[0]), rows(), **options)
