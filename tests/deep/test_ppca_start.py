"""`init="ppca"`: networks that are pPCA before their first step, and stay above it."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_vae import PPCA, DeepGaussianVAE
from sklearn_vae.deep.ppca_start import SLOPES
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.learning_rate_limit import (
    LearningRateLimit,
)
from tests.deep.data import make_rows, parameters_of

X = make_rows()
K, D = 3, X.shape[1]
# A step that moves nothing: what is fitted is what training began with.
STILL = {"noise_update": "gradient", "learning_rate": 1e-300, "max_epochs": 1, "random_state": 0}


def still(k=K, rows=X, **parameters):
    options = {"hidden_layer_sizes": (16,), **STILL, **parameters}
    return DeepGaussianVAE(k, init="ppca", **options).fit(rows)


def likelihood_of_ppca(vae, rows, **parameters):
    """Of each row, by pPCA of the rows as the networks see them, in the units of the data."""
    units = (rows - vae.mean_) / vae.scale_
    ppca = PPCA(vae.n_components, **parameters).fit(units)
    return ppca.score_samples(units) - np.log(np.broadcast_to(vae.scale_, rows.shape[1])).sum()


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize("prior", ["standard", "learned_variance"])
@pytest.mark.parametrize("noise_model", ["scalar", "diagonal", "heteroscedastic"])
@pytest.mark.parametrize("sizes", [(), (6,), (16,), (8, 6, 20)], ids=str)
@pytest.mark.parametrize("activation", SLOPES)
def test_the_first_bound_is_the_likelihood_of_ppca(activation, sizes, noise_model, prior):
    # The bound of a linear model is exact: its draws have mean 0 and covariance I.
    options = {"hidden_layer_sizes": sizes, "noise_model": noise_model, "prior": prior}
    vae = still(activation=activation, **options)
    expected = likelihood_of_ppca(vae, X)
    np.testing.assert_allclose(vae.score_samples(X), expected, rtol=0, atol=1e-8)


class Begin(Callback):
    """Keeps the module as training finds it."""

    def on_train_begin(self, net, **kwargs):
        net.begun_ = pickle.dumps(net.module_)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_noise_in_closed_form_begins_there_too_and_encodes_as_ppca(objective):
    vae = DeepGaussianVAE(K, hidden_layer_sizes=(8, 8), init="ppca", max_epochs=2, random_state=0)
    vae.set_params(objective=objective, callbacks=[Begin()]).fit(X)
    ppca = PPCA(K, coordinates="posterior").fit(X)
    begun = pickle.loads(vae.net_.begun_)
    noise = begun.likelihood.noise_variance.item() * vae.scale_**2
    assert noise == pytest.approx(ppca.noise_variance_, rel=1e-12)
    with torch.no_grad():
        q = begun.encode(torch.from_numpy((X - vae.mean_) / vae.scale_))
    np.testing.assert_allclose(q.mean, ppca.transform(X), atol=1e-10)
    np.testing.assert_allclose(q.variance, ppca.posterior(X, return_cov=False)[1], atol=1e-10)


def test_the_likelihood_is_that_of_rows_in_their_own_units():
    vae = still(rows=1e3 * X + 50)
    assert vae.score(1e3 * X + 50) == pytest.approx(PPCA(K).fit(1e3 * X).elbo_, abs=1e-8)
    single = still(rows=X.astype(np.float32), learning_rate=1e-30)
    assert single.score(X.astype(np.float32)) == pytest.approx(PPCA(K).fit(X).elbo_, abs=1e-4)


@pytest.mark.some(1)
@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
def test_fixed_noise_has_the_loadings_that_are_best_for_it(noise):
    vae = DeepGaussianVAE(K, hidden_layer_sizes=(6,), init="ppca", **STILL)
    vae.set_params(noise_variance=noise).fit(X)
    ppca = PPCA(K, noise_variance=noise).fit(X)
    np.testing.assert_allclose(vae.score_samples(X), ppca.score_samples(X), atol=1e-8)
    np.testing.assert_array_equal(vae.collapsed_dims_, ppca.collapsed_dims_)
    assert still(noise_variance_init=noise).score(X) == pytest.approx(ppca.elbo_, abs=1e-8)


def test_fixed_noise_of_each_feature_has_the_loadings_of_factor_analysis():
    noise = np.linspace(0.1, 0.5, D)
    vae = still(noise_model="diagonal", noise_variance=noise)
    expected = PPCA(K, noise_variance=1.0).fit(X / np.sqrt(noise))
    scores = expected.score_samples(X / np.sqrt(noise)) - 0.5 * np.log(noise).sum()
    np.testing.assert_allclose(vae.score_samples(X), scores, atol=1e-8)


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("noise_model", ["scalar", "diagonal", "heteroscedastic"])
def test_latents_beyond_the_rank_are_collapsed_and_noise_is_not_zero(noise_model):
    rows = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 2, 0, 1], [0, 1, 1, 1]]
    vae = still(5, rows, noise_model=noise_model)
    np.testing.assert_array_equal(vae.collapsed_dims_, [2, 3, 4])
    units = (rows - vae.mean_) / vae.scale_
    ppca = PPCA(4, noise_variance=0.1).fit(units)
    shift = np.log(np.broadcast_to(vae.scale_, 4)).sum()
    assert vae.score(rows) == pytest.approx(ppca.elbo_ - shift, abs=1e-8)
    trained = clone(vae).set_params(max_epochs=20, learning_rate=1e-3).fit(rows)
    assert trained.elbo_ > vae.elbo_


def test_fewer_rows_than_latents_will_do():
    rows = X[:4]
    trained = DeepGaussianVAE(6, hidden_layer_sizes=(12,), init="ppca", random_state=0).fit(rows)
    assert np.isfinite(trained.elbo_)
    np.testing.assert_array_equal(still(6, rows).collapsed_dims_, [3, 4, 5])


def test_spare_units_are_random_and_learn():
    one, two = still(), still(random_state=1)
    assert not np.array_equal(parameters_of(one), parameters_of(two))
    np.testing.assert_allclose(one.score_samples(X), two.score_samples(X), atol=1e-8)
    vae = DeepGaussianVAE(K, hidden_layer_sizes=(16,), init="ppca", max_epochs=20, random_state=0)
    vae.fit(X)
    assert (vae.module_.decoder.layers[-1].weight[:, 2 * K :].abs() > 1e-3).any()


BAD = [
    ({"init": "pca"}, r"init must be 'auto', None or 'ppca', got 'pca'\."),
    ({"init": True}, r"init must be 'auto', None or 'ppca', got True\."),
    (
        {"hidden_layer_sizes": (16, 5)},
        r"hidden_layer_sizes of at least 6, two units per latent dimension, got \(16, 5\)",
    ),
    (
        {"activation": "tanh"},
        r"one of 'relu', 'leaky_relu', 'gelu', 'silu', 'softplus', got activation='tanh'\.",
    ),
    ({"activation": "elu"}, "f\\(a\\) - f\\(-a\\) is a multiple of a.*got activation='elu'"),
    ({"encoder": "conv"}, "init='ppca' requires encoder='mlp', got 'conv'"),
    ({"decoder": torch.nn.Linear}, "init='ppca' requires decoder='mlp', got <class"),
    (
        {"variational_family": "sylvester"},
        "init='ppca' requires variational_family='diagonal', got 'sylvester'",
    ),
]


@pytest.mark.parametrize(("parameters", "message"), BAD)
def test_what_cannot_carry_ppca_is_named(parameters, message):
    options = {"hidden_layer_sizes": (16,), "init": "ppca", **parameters}
    with pytest.raises(ValueError, match=message):
        DeepGaussianVAE(K, **options).fit(X)


def test_without_hidden_layers_any_activation_will_do():
    assert still(hidden_layer_sizes=(), activation="tanh").score(X) == pytest.approx(
        PPCA(K).fit(X).elbo_, abs=1e-8
    )


DIGITS = load_digits().data
CANCER = StandardScaler().fit_transform(load_breast_cancer().data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "below", "learning_rate"),
    [(DIGITS, 0.5, 3e-3), (CANCER, 1.0, 1e-3), (CANCER, 1.0, 1e-2)],
    ids=["digits", "cancer, slowly", "cancer, fast"],
)
def test_training_stays_near_the_likelihood_of_ppca_and_ends_above(rows, below, learning_rate):
    settings = {"hidden_layer_sizes": (64, 32), "init": "ppca", "random_state": 0}
    vae = DeepGaussianVAE(10, **settings, learning_rate=learning_rate, max_epochs=30)
    vae.fit(rows.astype(np.float32))
    ppca = PPCA(10).fit(rows).elbo_
    assert vae.history_["bound"].min() > ppca - below
    assert vae.elbo_ > ppca + 2.0
    other = clone(vae).set_params(init=None).fit(rows.astype(np.float32))
    assert vae.elbo_ > other.elbo_


def test_seeds_pickles_and_warm_starts():
    vae = DeepGaussianVAE(K, hidden_layer_sizes=(16,), init="ppca", max_epochs=5, random_state=0)
    one, two = clone(vae).fit(X), clone(vae).fit(X)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(two))
    copy = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(copy.score_samples(X), one.score_samples(X))
    for model in (one, copy):
        model.set_params(warm_start=True, init=None).fit(X)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(copy))
    rate = one.history_["learning_rate"]
    assert len(rate) == 10
    assert rate[5] == pytest.approx(1e-3)  # no second rise
    # A start that is not pPCA goes on as it was, too.
    plain = clone(vae).set_params(init=None).fit(X)
    plain.set_params(warm_start=True, init="ppca").fit(X)
    assert "learning_rate" not in plain.history_
    assert not any(isinstance(c, LearningRateLimit) for _, c in plain.net_.callbacks_)


def test_a_start_that_the_module_cannot_have_is_an_error():
    rows = make_rows(noise=0.0) @ np.diag([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    rows = rows + 1e-9 * make_rows(seed=1)
    with pytest.raises(ValueError, match="noise variance is too small for the data"):
        still(noise_variance=1e-24, noise_update="closed_form", rows=rows)
    noise = float(np.linalg.eigvalsh(np.cov(X.T, bias=True))[-2:].mean())
    with pytest.raises(ValueError, match=r"n_components to be at most .* noise, 1, got 3"):
        still(prior="learned_variance", hidden_layer_sizes=(), noise_variance=noise)


def test_an_interrupt_before_the_first_step_leaves_a_model_that_can_learn(monkeypatch):
    update, calls = Adam.update, []

    def interrupted(self):
        update(self)
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Adam, "update", interrupted)
    vae = DeepGaussianVAE(K, init="ppca", hidden_layer_sizes=(16,), max_epochs=2, random_state=0)
    with pytest.warns(UserWarning, match="interrupted after 0 epochs"):
        vae.fit(X)
    assert not vae.net_.optimizer_.state
    assert all(p.grad is None for p in vae.module_.parameters())
    start = vae.elbo_
    vae.set_params(warm_start=True, max_epochs=5).fit(X)
    assert vae.elbo_ > start


# pPCA's noise is down to 1.6e-7 of the average variance of the features of raw tables.
@pytest.mark.cover(1)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer, load_digits])
def test_raw_tables_start_at_the_likelihood_of_ppca(load, k, dtype):
    rows = load().data
    model = DeepGaussianVAE(k, init="ppca", hidden_layer_sizes=(32,), random_state=0)
    model.set_params(max_epochs=1, learning_rate=1e-12).fit(rows.astype(dtype))
    ppca = PPCA(k).fit(rows)
    assert model.score(rows.astype(dtype)) == pytest.approx(ppca.score(rows), abs=1e-3)
    assert model.noise_variance_ == pytest.approx(ppca.noise_variance_, rel=1e-4)


def test_noise_far_below_the_average_variance_can_be_learned():
    rows = load_breast_cancer().data
    model = DeepGaussianVAE(10, init="ppca", hidden_layer_sizes=(32,), random_state=0)
    model.set_params(max_epochs=20).fit(rows)
    assert model.noise_variance_ < 2e-7 * rows.var(axis=0).mean()
    assert model.entropy_gap_.active_bounds == ()
    assert model.elbo_ > PPCA(10).fit(rows).score(rows)
