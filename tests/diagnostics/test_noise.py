import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from sklearn_vae import PPCA, PPCACV, DeepAutoencoder, LinearVAE
from sklearn_vae.diagnostics import entropy_bound, kl_per_dimension, tune_noise_variance
from sklearn_vae.gaussian.bounds import best_noise_variance
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from tests.deep.data import SMALL
from tests.diagnostics.models import MODELS, NOISY, NOISY_DIAGONAL, fitted, rows, with_covariance

OTHERS = [m for m in MODELS if m not in NOISY]


def numbers_of(model):
    module = getattr(model, "module_", None)
    if module is None:
        return {n: v.copy() for n, v in vars(model).items() if isinstance(v, np.ndarray)}
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}


@pytest.mark.some(5)
@pytest.mark.parametrize("model", NOISY, ids=str)
def test_no_other_noise_variance_is_better(model):
    model, X = fitted(model), rows(seed=1)
    found = tune_noise_variance(model, X)
    assert found.tuned_elbo == pytest.approx(found.estimator.score(X), abs=1e-5)
    assert found.elbo == pytest.approx(model.score(X), abs=1e-5)
    assert found.gain > 0
    best = np.asarray(found.noise_variance)
    np.testing.assert_allclose(found.estimator.noise_variance_, best)
    assert best.shape == np.shape(model.noise_variance_)
    # Once tuned, tuning changes nothing, and the noise part of the gap is 0.
    again = tune_noise_variance(found.estimator, X)
    np.testing.assert_allclose(again.noise_variance, best, rtol=1e-5)
    assert again.gain == pytest.approx(0, abs=1e-5)
    if not isinstance(model, PPCA):
        assert entropy_bound(found.estimator, X).gap.noise == pytest.approx(0, abs=1e-4)


# Of pPCA the posterior depends on the noise: see below.
@pytest.mark.some(2)
@pytest.mark.parametrize(
    "model", [m for m in NOISY_DIAGONAL if not isinstance(m, PPCA | PPCACV)], ids=str
)
def test_closed_form_is_the_mean_square_of_the_residuals(model):
    model, X = fitted(model), rows(seed=1)
    rng = np.random.default_rng(0)
    mean, variance = model.posterior(X)
    squares = []
    for _ in range(100):
        decoded = model.conditional(mean + np.sqrt(variance) * rng.normal(size=mean.shape))[0]
        squares.append(((X - decoded) ** 2).mean(axis=0))
    squares = np.mean(squares, axis=0)
    oracle = squares if np.ndim(model.noise_variance_) else squares.mean()
    # The points that all rows share have an error of their own.
    np.testing.assert_allclose(tune_noise_variance(model, X).noise_variance, oracle, rtol=0.05)


@pytest.mark.some(1)
@pytest.mark.parametrize("noise_variance", [None, 0.5, 2.0, 30.0])
def test_ppca_is_tuned_to_the_highest_likelihood(noise_variance):
    X = rows(seed=1)
    model = PPCA(3, noise_variance=noise_variance).fit(rows())
    found = tune_noise_variance(model, X)

    def cost(log_noise):
        p = LowRankGaussian(model.mean_, model.loadings_, np.exp(log_noise))
        return -p.log_prob(X).mean()

    grid = np.linspace(-6, 6, 400)
    start = grid[np.argmin([cost(value) for value in grid])]
    oracle = minimize_scalar(cost, bracket=(start - 0.05, start, start + 0.05), tol=1e-12)
    assert found.noise_variance == pytest.approx(np.exp(oracle.x), rel=1e-6)
    assert found.tuned_elbo == pytest.approx(-oracle.fun, abs=1e-10)
    twin = found.estimator
    np.testing.assert_array_equal(twin.loadings_, model.loadings_)
    covariance = twin.loadings_ @ twin.loadings_.T + twin.noise_variance_ * np.eye(8)
    shared = np.linalg.slogdet(covariance)[1] - 8 * np.log(twin.noise_variance_)
    assert twin.mutual_information_ == pytest.approx(0.5 * shared, rel=1e-9)


def test_the_maximum_needs_no_tuning():
    model = PPCA(3).fit(rows())
    found = tune_noise_variance(model, rows())
    assert found.noise_variance == pytest.approx(model.noise_variance_, rel=1e-7)
    assert found.gain == pytest.approx(0, abs=1e-12)


@pytest.mark.some(5)
@pytest.mark.parametrize("model", NOISY, ids=str)
def test_the_model_itself_does_not_change(model):
    model, X = fitted(model), rows(seed=1)
    before, noise = numbers_of(model), np.array(model.noise_variance_)
    score, history = model.score(X), len(getattr(model, "history_", ()))
    twin = tune_noise_variance(model, X).estimator
    after = numbers_of(model)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(noise, model.noise_variance_)
    assert (score, history) == (model.score(X), len(getattr(model, "history_", ())))
    assert type(twin) is type(model)
    assert twin.get_params().keys() == model.get_params().keys()
    np.testing.assert_array_equal(
        twin.inverse_transform(np.eye(3)), model.inverse_transform(np.eye(3))
    )


@pytest.mark.some(5)
@pytest.mark.parametrize("model", NOISY, ids=str)
def test_attributes_of_the_copy_are_those_of_the_rows(model):
    model, X = fitted(model), rows(seed=1)
    found = tune_noise_variance(model, X)
    entropies = entropy_bound(found.estimator, X)
    assert found.estimator.elbo_ == pytest.approx(found.tuned_elbo, abs=1e-9)
    assert found.estimator.entropy_bound_ == pytest.approx(entropies.bound, abs=1e-9)
    np.testing.assert_allclose(found.estimator.kl_per_dim_, kl_per_dimension(found.estimator, X))


@pytest.mark.parametrize("model", OTHERS, ids=str)
def test_models_without_one_noise_variance(model):
    model = fitted(model)
    with pytest.raises(TypeError, match=f"{type(model).__name__} has no noise_variance_"):
        tune_noise_variance(model, rows())


def test_an_autoencoder_has_no_noise():
    with pytest.raises(TypeError, match="DeepAutoencoder has no posterior"):
        tune_noise_variance(DeepAutoencoder(3, **SMALL).fit(rows()), rows())


def test_rows_without_residual_are_an_error():
    model = LinearVAE(1).fit(rows())
    model.encoder_variance_ *= 0
    with pytest.raises(ValueError, match="optimal noise variance for X is"):
        tune_noise_variance(model, np.tile(model.mean_, (3, 1)))


@pytest.mark.some(2)
@pytest.mark.parametrize("seed", range(20))
def test_best_noise_variance_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    k, d = rng.integers(1, 5), 6
    lengths = rng.exponential(1.0, k) * 10.0 ** rng.integers(-3, 4, k) * (rng.random(k) < 0.8)
    squares = rng.exponential(1.0, k) * 10.0 ** rng.integers(-3, 4, k)
    tail = rng.exponential(1.0) * 10.0 ** rng.integers(-3, 4)

    def cost(noise):
        kappa = lengths + noise
        value = (np.log(kappa) + squares / kappa).sum()
        return value + (d - k) * np.log(noise) + tail / noise

    found = best_noise_variance(lengths, squares, tail, d)
    grid = np.geomspace(1e-9, 1e9, 40_001)
    assert cost(found) <= min(map(cost, grid)) + 1e-12
    assert cost(found) <= min(cost(found * 1.001), cost(found / 1.001))


@pytest.mark.parametrize("square", [0.5, 5.0])
def test_the_best_noise_variance_may_be_that_of_almost_all_features(square):
    # One direction of 10^9 + 1 has another optimum, square - 0.1.
    n, tail = 10**9, 2.0 + 1e-9 * (square - 2.1) * 2.0**2 / 2.1**2
    assert best_noise_variance([0.1], [square], 2.0 * n, n + 1) == pytest.approx(tail, rel=1e-14)


def test_without_room_for_noise_the_best_is_none():
    assert best_noise_variance(np.array([4.0, 2.0]), np.array([3.0, 1.0]), 0.0, 2) == 0.0
    # Where all of it is known, its own formula.
    X = with_covariance([9, 4, 1, 1])
    assert best_noise_variance([8.0, 3.0], X.var(axis=0)[:2], 2.0, 4) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("noise_variance", [1e-12, 1e4, 1e12, 1e16])
def test_a_start_far_off_costs_no_digits(noise_variance):
    X = with_covariance([9, 4, 1, 1, 1, 1])
    model = PPCA(2, noise_variance=noise_variance).fit(X)
    found = tune_noise_variance(model, X).noise_variance
    lengths = np.maximum([9 - noise_variance, 4 - noise_variance], 0)
    expected = best_noise_variance(lengths, np.array([9.0, 4.0]), 4.0, 6)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_bound_that_held_the_noise_does_not_hold_the_tuned_one():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))
    model = LinearVAE(2).fit(low)
    assert model.entropy_gap_.active_bounds == ("noise variance",)
    twin = tune_noise_variance(model, low + rng.normal(size=low.shape)).estimator
    assert twin.entropy_gap_.active_bounds == ()
    assert model.entropy_gap_.active_bounds == ("noise variance",)


@pytest.mark.some(5)
@pytest.mark.parametrize("model", NOISY, ids=str)
def test_the_copy_scores_as_it_was_tuned(model):
    tuned = tune_noise_variance(fitted(model), rows())
    assert tuned.estimator.score(rows()) == pytest.approx(tuned.tuned_elbo, rel=1e-6)
    likelihood = getattr(getattr(tuned.estimator, "module_", None), "likelihood", None)
    if likelihood is not None:
        noise = likelihood.noise_variance.detach().numpy() * np.square(tuned.estimator.scale_)
        np.testing.assert_allclose(noise, tuned.noise_variance, rtol=1e-6)
