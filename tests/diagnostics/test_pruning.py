"""Models without their collapsed dimensions."""

import numpy as np
import pytest
from sklearn.base import clone

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    ConvDecoder,
    ConvEncoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    FactorAnalysis,
    LinearVAE,
    SoftThresholdDecoder,
)
from sklearn_vae.adapters import FunctionModel, from_torch
from sklearn_vae.diagnostics import collapse, collapse_curve, diagnose, entropy_bound, prune
from sklearn_vae.serialization import load, save
from tests.deep.data import make_rows
from tests.sharing import shared

OPTIONS = {
    "hidden_layer_sizes": (16,),
    "max_epochs": 60,
    "batch_size": 30,
    "learning_rate": 5e-3,
    "random_state": 0,
}
SMALL_IMAGES = {
    "encoder": ConvEncoder(channels=(4,), dense=8),
    "decoder": ConvDecoder(channels=(4,), dense=8),
    "image_shape": (1, 2, 4),
}
MODELS = {
    "PPCA": PPCA(5, noise_variance=20.0),
    "PPCACV": PPCACV([5], noise_variance=[20.0], cv=2),
    "FactorAnalysis": FactorAnalysis(5, noise_variance=20.0),
    "LinearVAE": LinearVAE(5, noise_variance=20.0),
    "DeepGaussianVAE": DeepGaussianVAE(5, **OPTIONS, noise_variance=20.0),
    "diagonal": DeepGaussianVAE(5, **OPTIONS, noise_variance=20.0, noise_model="diagonal"),
    "learned prior": DeepGaussianVAE(
        5, **OPTIONS, noise_variance=20.0, prior="learned_variance", activation="tanh"
    ),
    "conv": DeepGaussianVAE(5, **OPTIONS, noise_variance=4.0, **SMALL_IMAGES),
    "threshold": DeepGaussianVAE(
        5, **OPTIONS, noise_variance=20.0, decoder=SoftThresholdDecoder(0.1)
    ),
    "DeepBernoulliVAE": DeepBernoulliVAE(8, **OPTIONS, binarize=0.0, kl_weight=2.0),
}


@shared
def fitted(name):
    X = make_rows()
    return clone(MODELS[name]).fit(X), X


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_is_an_ordinary_one_with_its_score(name):
    model, X = fitted(name)
    result = collapse(model, X)
    assert 0 < len(result.collapsed) < result.n_components  # or there is nothing to test
    before = model.score(X)
    pruned = prune(model, X)
    k = len(result.active)
    np.testing.assert_array_equal(pruned.kept_dims_, result.active)
    assert type(pruned) is type(model)
    assert pruned.n_components_ == k
    assert pruned.transform(X).shape == (len(X), k)
    assert pruned.score(X) >= before - 0.1
    assert pruned.elbo_ == pytest.approx(entropy_bound(pruned, X).elbo)
    assert len(collapse(pruned, X).collapsed) == len(pruned.collapsed_dims_) == 0
    np.testing.assert_allclose(
        np.asarray(pruned.posterior(X)[0]),
        np.asarray(model.posterior(X)[0])[:, result.active],
        rtol=1e-4,
        atol=1e-4,
    )
    assert diagnose(pruned, X).n_components == k
    # The original stays as it was.
    assert model.n_components_ == result.n_components
    assert model.score(X) == before


@pytest.mark.some(3, "slow")
@pytest.mark.parametrize("name", MODELS)
def test_without_data_the_dimensions_are_those_of_the_fit(name):
    model, X = fitted(name)
    pruned = prune(model)
    assert pruned.n_components_ == len(model.kl_per_dim_) - len(model.collapsed_dims_)
    assert pruned.score(X) >= model.score(X) - 0.1
    assert len(pruned.kl_per_dim_) == pruned.n_components_


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "PPCACV"])
def test_a_pruned_model_can_be_cloned_saved_and_fitted_again(name, tmp_path):
    model, X = fitted(name)
    pruned = prune(model, X)
    assert clone(pruned).n_components == pruned.n_components_
    save(pruned, tmp_path / "pruned")
    loaded = load(tmp_path / "pruned")
    np.testing.assert_array_equal(
        np.asarray(loaded.score_samples(X)), np.asarray(pruned.score_samples(X))
    )
    again = clone(pruned).fit(X)
    assert again.n_components_ == pruned.n_components_


def test_a_pruned_vae_can_be_trained_further():
    model, X = fitted("DeepGaussianVAE")
    pruned = prune(model, X).set_params(warm_start=True, max_epochs=2)
    pruned.fit(X)
    assert pruned.score(X) > model.score(X) - 0.5
    assert pruned.n_components_ == len(pruned.kept_dims_)


def test_nothing_is_removed_if_nothing_has_collapsed():
    X = make_rows()
    model = PPCA(3).fit(X)
    pruned = prune(model, X)
    assert pruned is not model
    np.testing.assert_array_equal(pruned.kept_dims_, [0, 1, 2])
    np.testing.assert_allclose(pruned.score_samples(X), model.score_samples(X))


def test_bernoulli_ppca_is_pruned():
    X = np.hstack([(make_rows() > 0)[:, :4]] * 2).astype(float)
    model = BernoulliPPCA(3, random_state=0).fit(X)
    least, second, _ = np.sort(collapse_curve(model, X).thresholds)
    pruned = prune(model, X, epsilon=0.5 * (least + second))
    assert pruned.n_components_ == 2
    np.testing.assert_allclose(
        pruned.transform(X), model.transform(X)[:, pruned.kept_dims_], atol=1e-8
    )
    assert pruned.elbo_ == pytest.approx(pruned.score(X))


def foreign(name):
    model, X = fitted(name)
    likelihood = "bernoulli" if name == "DeepBernoulliVAE" else "gaussian"

    def encode(x):
        q = model.module_.encode((x - as_tensor(model.mean_)) / float(model.scale_))
        return q.mean, q.log_variance

    def decode(z):
        p = model.module_.decode(z)
        if likelihood == "bernoulli":
            return p.logits
        return p.mean * float(model.scale_) + as_tensor(model.mean_)

    options = {"noise_variance": getattr(model, "noise_variance_", None)}
    adapted = from_torch(
        model.module_, encode=encode, decode=decode, likelihood=likelihood, **options
    )
    X = (X > 0).astype(float) if likelihood == "bernoulli" else X
    return adapted, X


def as_tensor(array):
    import torch

    return torch.as_tensor(array, dtype=torch.float64)


@pytest.mark.parametrize("name", ["DeepGaussianVAE", "DeepBernoulliVAE"])
def test_a_foreign_model_is_wrapped(name):
    model, X = foreign(name)
    pruned = prune(model, X)
    assert isinstance(pruned, FunctionModel)
    expected = prune(fitted(name)[0], fitted(name)[1])
    np.testing.assert_array_equal(pruned.kept_dims_, expected.kept_dims_)
    np.testing.assert_allclose(pruned.score_samples(X), expected.score_samples(X), rtol=1e-8)
    Z = pruned.transform(X)
    assert Z.shape == (len(X), len(pruned.kept_dims_))
    np.testing.assert_allclose(pruned.inverse_transform(Z), expected.inverse_transform(Z))
    assert not len(collapse(pruned, X).collapsed)


def test_a_pruned_foreign_model_keeps_its_kinds_of_output():
    rng = np.random.default_rng(0)
    A, W = rng.normal(size=(8, 3)), rng.normal(size=(3, 8))
    A[:, 1] = 0.0
    scales = np.array([0.5, 1.0, 0.5])

    def encode(x):
        return x @ A, np.tile(scales, (len(x), 1))

    def decode(z):
        return z @ W, np.full((len(z), 8), 2.0)

    X = make_rows()
    model = FunctionModel(encode, decode, spread="scale", prior=[1.0, 1.0, 2.0])
    pruned = prune(model, X)
    np.testing.assert_array_equal(pruned.kept_dims_, [0, 2])
    np.testing.assert_array_equal(pruned.prior_variance, [1.0, 2.0])
    np.testing.assert_allclose(pruned.posterior(X)[1], model.posterior(X)[1][:, [0, 2]])
    np.testing.assert_allclose(pruned.conditional(np.zeros((3, 2)))[1], 4.0)


def test_what_cannot_be_pruned_is_named():
    X = make_rows()
    model = PPCA(2, noise_variance=1e6).fit(X)
    with pytest.raises(ValueError, match="All dimensions have collapsed"):
        prune(model, X)
    flow = DeepGaussianVAE(
        3, hidden_layer_sizes=(8,), max_epochs=1, variational_family="sylvester", random_state=0
    ).fit(X)
    with pytest.raises(TypeError, match="DeepGaussianVAE cannot be pruned"):
        prune(flow, X)
    adapted = FunctionModel(lambda x: (x, x), lambda z: z, noise_variance=1.0)
    with pytest.raises(TypeError, match="prune needs X"):
        prune(adapted)
