"""DeepGaussianVAE: its density, its diagnostics, its noise."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch.distributions import Independent, Normal, kl_divergence

from sklearn_vae import PPCA, DeepAutoencoder, DeepGaussianVAE, Snapshot
from sklearn_vae.datasets import make_ppca_ring
from tests.deep.data import GAUSSIAN, SMALL, each_of, fitted, make_rows, parameters_of

X = make_rows()
D, K = X.shape[1], 3

each_vae = each_of(GAUSSIAN)


def distributions(model, rows, draws=2000, seed=0):
    """q(z|x), draws of z and p(x|z) as torch's, in the units of the data."""
    generator = torch.Generator().manual_seed(seed)
    mean, variance = (torch.from_numpy(a) for a in model.posterior(rows))
    q = Independent(Normal(mean, variance.sqrt()), 1)
    noise = torch.randn((draws, *mean.shape), generator=generator, dtype=torch.float64)
    z = mean + variance.sqrt() * noise
    mu, sigma2 = model.conditional(z.reshape(-1, K).numpy())
    shape = (draws, len(rows), D)
    p = Independent(Normal(*(torch.from_numpy(a.copy()).view(shape) for a in (mu, sigma2**0.5))), 1)
    prior = Independent(Normal(torch.zeros(K).double(), torch.ones(K).double()), 1)
    return q, z, p, prior


@each_vae
def test_scores_are_the_elbo_in_the_units_of_the_data(model):
    model, rows = fitted(model), X[:20]
    q, _, p, prior = distributions(model, rows)
    terms = p.log_prob(torch.from_numpy(rows)) - kl_divergence(q, prior)
    error = terms.std(0).numpy() / len(terms) ** 0.5
    found = model.score_samples(rows)
    # The fixed points have an error of their own, of fourth order in the decoder.
    assert (np.abs(found - terms.mean(0).numpy()) < 5 * error + 0.02).all()


def test_scores_of_a_linear_decoder_are_exact():
    model = DeepGaussianVAE(K, **{**SMALL, "hidden_layer_sizes": ()}).fit(X)
    W = model.inverse_transform(np.eye(K)) - model.inverse_transform(np.zeros((1, K)))
    mean, variance = model.posterior(X)
    residual = X - model.inverse_transform(mean)
    squares = (residual**2).sum(axis=1) + variance @ (W**2).sum(axis=1)
    sigma2 = model.noise_variance_
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(axis=1)
    expected = -0.5 * (squares / sigma2 + D * np.log(2 * np.pi * sigma2)) - kl
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-10)


@pytest.mark.some(1)
@pytest.mark.parametrize("n_components", [2, 20, 40])
def test_scores_are_near_those_of_many_draws(n_components):
    rows = load_digits().data[:300]
    model = DeepGaussianVAE(
        n_components, hidden_layer_sizes=(32,), max_epochs=30, random_state=0
    ).fit(rows)
    mean, variance = model.posterior(rows)
    rng, total, draws = np.random.default_rng(0), 0.0, 400
    for _ in range(draws):
        z = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
        total += ((rows - model.inverse_transform(z)) ** 2).sum() / len(rows) / draws
    sigma2 = model.noise_variance_
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(axis=1).mean()
    expected = -0.5 * (total / sigma2 + 64 * np.log(2 * np.pi * sigma2)) - kl
    assert model.score(rows) == pytest.approx(expected, abs=0.1)


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("noise_model", ["scalar", "heteroscedastic"])
def test_the_error_of_scores_is_small_and_reported(noise_model):
    rows = make_ppca_ring(200, random_state=0)[0]
    model = DeepGaussianVAE(2, hidden_layer_sizes=(32, 32), noise_model=noise_model)
    model.set_params(max_epochs=100, learning_rate=1e-2, random_state=0).fit(rows)
    scores, errors = model.score_samples(rows, return_error=True)
    np.testing.assert_array_equal(scores, model.score_samples(rows))
    x, w = np.polynomial.hermite_e.hermegauss(50)  # in each dimension
    points = np.stack(np.meshgrid(x, x), axis=2).reshape(-1, 1, 2)
    weights = (np.outer(w, w) / w.sum() ** 2).ravel()
    exact = model._average_bounds(rows, (torch.from_numpy(points), torch.from_numpy(weights)))
    assert abs((scores - exact).mean()) < 0.002
    assert abs((errors - (scores - exact)).mean()) < 0.002
    assert np.sqrt(np.mean(errors**2)) < 0.02
    with pytest.raises(ValueError, match="return_error must be True or False, got 1"):
        model.score_samples(rows, return_error=1)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_errors_of_a_linear_decoder_are_zero(k):
    model = DeepGaussianVAE(k, **{**SMALL, "hidden_layer_sizes": ()}).fit(X)
    np.testing.assert_allclose(model.score_samples(X, return_error=True)[1], 0.0, atol=1e-9)


@pytest.mark.some(1)
@each_vae
def test_what_fit_says_of_the_training_rows(model):
    rows = make_rows(n=400)
    model = clone(model).set_params(early_stopping=False, max_epochs=3).fit(rows)
    mean, variance = model.posterior(rows)
    terms = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(model.kl_per_dim_, terms.mean(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(
        model.collapsed_dims_, np.flatnonzero((terms <= 0.01).mean(axis=0) >= 0.99)
    )
    assert model.elbo_ == pytest.approx(model.score(rows), rel=1e-9)
    assert model.elbo_ - model.entropy_bound_ == pytest.approx(model.entropy_gap_.total, abs=1e-9)
    sigma2 = np.broadcast_to(model.noise_variance_, D)
    entropies = 0.5 * np.log(variance).sum(axis=1).mean()
    entropies -= 0.5 * np.log(2 * np.pi * np.e * sigma2).sum()
    assert model.entropy_bound_ == pytest.approx(entropies, rel=1e-10)
    second_moment = (mean**2 + variance).mean(axis=0)
    np.testing.assert_allclose(model.entropy_gap_.dimensions, 0.5 * (1 - second_moment), rtol=1e-9)


@pytest.mark.some(1, "slow")
@each_vae
def test_the_noise_in_closed_form_is_at_its_optimum_and_other_noise_shows(model):
    model = fitted(model)
    closed = model.noise_variance is None and model.noise_update == "closed_form"
    closed = closed and model.objective == "elbo"  # IWAE's optimum is another
    assert (abs(model.entropy_gap_.noise) < 1e-9) == closed
    if closed:
        mean, variance = model.posterior(X)
        rng, draws = np.random.default_rng(5), 500
        if model.early_stopping:
            return  # of the rows that it was trained on, which it does not tell
        squares = sum(
            (X - model.inverse_transform(rng.normal(mean, np.sqrt(variance)))) ** 2
            for _ in range(draws)
        ).mean(axis=0) / draws  # fmt: skip
        optimum = squares if model.noise_model == "diagonal" else squares.mean()
        np.testing.assert_allclose(model.noise_variance_, optimum, rtol=0.02)
    if model.noise_variance is not None:
        assert model.noise_variance_ == pytest.approx(model.noise_variance, rel=1e-12)
    assert np.shape(model.noise_variance_) == ((D,) if model.noise_model == "diagonal" else ())


@each_vae
def test_the_history_of_a_training(model):
    model = fitted(model)
    history, epochs = model.history_, model.n_iter_
    assert {len(values) for values in history.values()} == {epochs}
    np.testing.assert_allclose(history["bound"], history["reconstruction"] - history["kl"])
    sigma2 = np.broadcast_to(history["noise_variance"].reshape(epochs, -1), (epochs, D))
    np.testing.assert_allclose(
        history["noise_entropy"], 0.5 * np.log(2 * np.pi * np.e * sigma2).sum(axis=1)
    )
    np.testing.assert_allclose(history["prior_entropy"], 0.5 * K * np.log(2 * np.pi * np.e))
    assert (history["posterior_entropy"] < history["prior_entropy"] + 1).all()
    assert (history["active_dims"] <= K).all()
    assert (history["seconds"] > 0).all()
    warm = model.kl_warmup_epochs or 1
    expected = model.kl_weight * np.minimum(1, (np.arange(epochs) + 1) / warm)
    np.testing.assert_allclose(history["beta"], expected)
    assert ("validation_bound" in history) == model.early_stopping


def test_the_history_is_that_of_the_rows_where_nothing_moves():
    model = DeepGaussianVAE(K, **SMALL, noise_variance=1.0)
    model.set_params(learning_rate=1e-12, max_epochs=1).fit(X)
    history = {name: values[0] for name, values in model.history_.items()}
    variance = model.posterior(X)[1]
    assert history["kl"] == pytest.approx(model.kl_per_dim_.sum(), rel=1e-6)
    assert history["bound"] == pytest.approx(model.elbo_, abs=1.0)
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance).sum(axis=1).mean()
    assert history["posterior_entropy"] == pytest.approx(entropy, rel=1e-6)
    assert history["active_dims"] == K - len(model.collapsed_dims_)


@each_vae
def test_posterior_conditional_and_transform_belong_together(model):
    model = fitted(model)
    mean, variance = model.posterior(X)
    np.testing.assert_array_equal(model.transform(X), mean)
    assert (variance > 0).all()
    mean_too, covariance = model.posterior(X, return_cov=True)
    np.testing.assert_array_equal(mean_too, mean)
    np.testing.assert_array_equal(covariance, np.stack([np.diag(v) for v in variance]))
    mu, sigma2 = model.conditional(mean)
    np.testing.assert_array_equal(mu, model.inverse_transform(mean))
    np.testing.assert_allclose(sigma2, np.broadcast_to(model.noise_variance_, X.shape))


@pytest.mark.some(2)
@each_vae
def test_samples_are_draws_of_the_model(model):
    model = fitted(model)
    rows, Z = model.sample(40_000, random_state=0)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(Z.T), np.eye(K), atol=0.03)
    mu, sigma2 = model.conditional(Z)
    scaled = (rows - mu) / np.sqrt(sigma2)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(scaled.T), np.eye(D), atol=0.03)
    again = model.sample(40_000, random_state=0)
    np.testing.assert_array_equal(again[0], rows)
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1, got 0"):
        model.sample(0)


@pytest.mark.slow
def test_importance_weights_raise_the_bound_toward_the_likelihood():
    rows = load_digits().data[:400]
    model = DeepGaussianVAE(2, hidden_layer_sizes=(32,), max_epochs=40, random_state=0).fit(rows)
    bounds = [model.log_likelihood(rows, n_samples=s).mean() for s in (1, 10, 100)]
    assert (np.diff(bounds) > 0).all()
    assert bounds[0] < model.score(rows) + 1 < bounds[2] + 1
    np.testing.assert_array_equal(
        model.log_likelihood(rows[::-1], 10)[::-1], model.log_likelihood(rows, 10)
    )
    # A grid of z for the integral over the plane.
    axis = np.linspace(-6, 6, 301)
    Z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mu, _ = model.conditional(Z)
    squares = ((rows[:5, None] - mu) ** 2).sum(axis=-1) / model.noise_variance_
    log_prior = -0.5 * (Z**2).sum(axis=1) - np.log(2 * np.pi)
    log_p = -0.5 * (squares + 64 * np.log(2 * np.pi * model.noise_variance_)) + log_prior
    area = (axis[1] - axis[0]) ** 2
    exact = np.logaddexp.reduce(log_p, axis=1) + np.log(area)
    np.testing.assert_allclose(model.log_likelihood(rows[:5], 20_000), exact, atol=0.3)


@pytest.mark.slow
def test_a_linear_network_reaches_ppca():
    ppca = PPCA(K).fit(X)
    model = DeepGaussianVAE(K, hidden_layer_sizes=(), batch_size=150, n_mc_samples=8)
    model.set_params(warm_start=True, random_state=0, max_epochs=500)
    for learning_rate in (3e-2, 3e-2, 3e-3):
        model.set_params(learning_rate=learning_rate).fit(X)
    assert model.elbo_ == pytest.approx(ppca.score(X), abs=0.01)
    assert model.noise_variance_ == pytest.approx(ppca.noise_variance_, rel=0.01)
    assert abs(model.entropy_gap_.total) < 0.01


@pytest.mark.parametrize("noise_model", ["scalar", "diagonal"])
def test_learning_starts_at_the_residual_of_ppca(noise_model):
    model = DeepGaussianVAE(K, **SMALL, noise_model=noise_model, noise_update="gradient")
    model.set_params(learning_rate=1e-12, max_epochs=1).fit(X)
    scale = X.std(axis=0) if noise_model == "diagonal" else 1.0
    rows = X / scale
    ppca = PPCA(K, coordinates="posterior").fit(rows)
    mean, variance = ppca.posterior(rows)
    squares = ((rows - ppca.inverse_transform(mean)) ** 2).mean(axis=0)
    squares = squares + variance.mean(axis=0) @ (ppca.loadings_.T**2)
    np.testing.assert_allclose(
        model.noise_variance_,
        squares * scale**2 if noise_model == "diagonal" else squares.mean(),
        rtol=1e-6,
    )
    assert squares.mean() == pytest.approx(ppca.noise_variance_)


def test_learning_starts_where_it_is_told():
    for update in ("gradient", "closed_form"):
        model = DeepGaussianVAE(K, **SMALL, noise_variance_init=0.125, noise_update=update)
        model.set_params(learning_rate=1e-12, max_epochs=1, callbacks=[Snapshot([1])]).fit(X)
        found = model.history_["noise_variance"][0]
        assert found == pytest.approx(0.125) if update == "gradient" else 0.125 < found < 1


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("noise_model", ["scalar", "diagonal"])
def test_a_bad_start_of_the_noise_is_forgotten(noise_model):
    ppca = PPCA(K).fit(X).noise_variance_
    model = DeepGaussianVAE(K, **SMALL, noise_model=noise_model)
    model.set_params(max_epochs=30, learning_rate=1e-2)
    elbos = [
        clone(model).set_params(noise_variance_init=factor * ppca).fit(X).elbo_
        for factor in (1e-4, 1e-2, 1, 1e2)
    ]
    assert np.ptp(elbos) < 0.6  # 4 to 5 if Adam remembers the first gradients


def test_the_noise_in_closed_form_is_never_above_that_of_ppca_while_training():
    model = DeepGaussianVAE(K, **SMALL, noise_variance_init=1e-3).set_params(max_epochs=30).fit(X)
    limit = PPCA(K).fit(X).noise_variance_
    assert model.history_["noise_variance"].max() <= limit * (1 + 1e-12)
    assert model.noise_variance_ > limit


def test_noise_may_exceed_that_of_ppca_where_components_are_as_many_as_samples():
    rows = np.random.default_rng(0).normal(size=(30, 40))
    for k, excess in ((20, 30 / 9), (28, 30), (29, np.inf), (35, np.inf)):
        model = DeepGaussianVAE(k, hidden_layer_sizes=(80,), max_epochs=1, random_state=0)
        model.set_params(noise_variance_init=10.0).fit(rows)
        ppca = PPCA(min(k, 29)).fit(rows).noise_variance_
        limit = model.module_.likelihood.log_high.exp().item() * model.scale_**2
        expected = min(excess * ppca, rows.var(axis=0).mean()) if k < 29 else np.inf
        assert limit == pytest.approx(expected)


@pytest.mark.parametrize("n_components", [8, 12])
@pytest.mark.parametrize("noise_model", ["scalar", "diagonal"])
def test_as_many_components_as_features(n_components, noise_model):
    model = DeepGaussianVAE(n_components, **SMALL, noise_model=noise_model).fit(X)
    assert np.isfinite(model.score(X))
    assert model.transform(X).shape == (150, n_components)


def test_rows_without_noise_end_at_the_floor_and_the_gap_says_so():
    rows = np.outer(np.linspace(-1, 1, 64), np.arange(1.0, 5.0))
    model = DeepGaussianVAE(1, hidden_layer_sizes=(), max_epochs=2, noise_variance_init=1e-9)
    model.set_params(learning_rate=1e-12, random_state=0)
    model.set_params(noise_update="gradient").fit(rows)
    assert model.noise_variance_ == pytest.approx(1e-6 * rows.var(axis=0).mean())
    assert model.entropy_gap_.noise < -1
    assert model.entropy_gap_.active_bounds == ("noise variance",)
    free = DeepGaussianVAE(K, **SMALL).fit(X)
    assert free.entropy_gap_.active_bounds == ()


@pytest.mark.parametrize("update", ["closed_form", "gradient"])
def test_units_of_single_features_do_not_matter_to_diagonal_noise(update):
    # Powers of two change no digit.
    scales = 2.0 ** np.array([-20, -10, 0, 10, -7, 0, 3, 30])
    one = DeepGaussianVAE(K, **SMALL, noise_model="diagonal", noise_update=update).fit(X)
    other = clone(one).fit(X * scales)
    np.testing.assert_array_equal(parameters_of(other), parameters_of(one))
    np.testing.assert_array_equal(other.noise_variance_, one.noise_variance_ * scales**2)
    assert other.score(X * scales) == pytest.approx(one.score(X) - np.log(scales).sum())


@pytest.mark.parametrize("value", [7.0, 0.1, 1e6 + 0.1])
def test_constant_rows_and_constant_features(value):
    constant = np.full((23, 3), value)
    model = DeepGaussianVAE(2, **SMALL).fit(constant)
    assert model.scale_ == 1.0
    diagonal = DeepGaussianVAE(2, **SMALL, noise_model="diagonal").fit(constant)
    np.testing.assert_array_equal(diagonal.scale_, 1.0)
    assert np.isfinite(diagonal.score(constant))
    assert np.isfinite(model.score(constant))
    np.testing.assert_allclose(model.inverse_transform(model.transform(constant)), value, atol=1)
    partly = np.hstack([X, np.full((len(X), 1), 3.0)])
    for noise_model in ("scalar", "diagonal"):
        assert np.isfinite(DeepGaussianVAE(2, **SMALL, noise_model=noise_model).fit(partly).elbo_)


@pytest.mark.parametrize("model", [GAUSSIAN[0], GAUSSIAN[1], DeepAutoencoder(K, **SMALL)], ids=str)
def test_snapshots_are_fitted_models_of_their_epochs(model):
    model = clone(model).set_params(callbacks=[Snapshot([1, 2, 99])], warm_start=True).fit(X)
    assert sorted(model.snapshots_) == [1, 2]
    before = parameters_of(model)
    for epoch, snapshot in model.snapshots_.items():
        shorter = clone(model).set_params(max_epochs=epoch, callbacks=None).fit(X)
        np.testing.assert_array_equal(snapshot.transform(X), shorter.transform(X))
        assert snapshot.score(X) == shorter.score(X)
        assert snapshot.n_iter_ == epoch
        np.testing.assert_array_equal(snapshot.history_["bound"], shorter.history_["bound"])
        assert not hasattr(snapshot, "snapshots_")
        assert not snapshot.net_.last_states_
        moved = parameters_of(snapshot)
        assert not np.array_equal(parameters_of(snapshot.fit(X)), moved)
        assert snapshot.n_iter_ == epoch + 3
    np.testing.assert_array_equal(parameters_of(model), before)
    assert len(model.net_.history) == 3
    assert not hasattr(model.set_params(callbacks=None).fit(X), "snapshots_")
    for wrong in ([0], 3):
        with pytest.raises(ValueError, match="epochs must be a list of integers >= 1, got"):
            model.set_params(callbacks=[Snapshot(wrong)]).fit(X)
    assert np.isfinite(model.score(X))


def test_the_autoencoder_scores_minus_the_squared_error():
    model = DeepAutoencoder(K, **SMALL).fit(X)
    residual = X - model.inverse_transform(model.transform(X))
    np.testing.assert_allclose(model.score_samples(X), -(residual**2).mean(axis=1))
    assert model.score(X) == pytest.approx(-(residual**2).mean())
    assert not {"sample", "posterior"} & set(dir(model))


@pytest.mark.slow
def test_a_linear_autoencoder_reaches_pca():
    long = DeepAutoencoder(K, hidden_layer_sizes=(), max_epochs=1500, random_state=0)
    long.set_params(learning_rate=0.01, batch_size=150).fit(X)
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True))
    assert long.score(X) == pytest.approx(-values[:-K].sum() / D, rel=1e-3)
