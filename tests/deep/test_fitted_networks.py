"""States of nets that do not fit their models, and samples and epochs that are not finite."""

import copy
import types

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from sklearn_vae import DeepAutoencoder, DeepGaussianVAE, PlainConvEncoder, Snapshot
from sklearn_vae.deep import base, outcome, ppca_start
from sklearn_vae.deep.fitted_networks import restored_net, state_of_net
from sklearn_vae.deep.ppca_start import check_init
from tests.deep.data import GAUSSIAN, MODELS, SMALL, fitted, make_rows

X = make_rows()
MODEL = GAUSSIAN[0]
HETEROSCEDASTIC = next(
    m for m in MODELS if getattr(m, "noise_model", "scalar") == "heteroscedastic"
)


def state_and_model(model=MODEL, **attributes):
    """The state of a fitted model's net, and a copy of the model with these attributes."""
    other = copy.copy(fitted(model))
    state = state_of_net(fitted(model))
    vars(other).update(attributes)
    return state, other


@pytest.mark.parametrize("model", [MODEL, HETEROSCEDASTIC, MODELS[-1]], ids=str)
def test_a_restored_net_is_the_same(model):
    state, other = state_and_model(model)
    found = restored_net(other, state).module_.state_dict()
    expected = fitted(model).module_.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def with_first(change):
    """A change of the first tensor of the module."""

    def changed(module):
        name = next(iter(module))
        return {**module, name: change(module[name])}

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: {}, "net_ must contain the tensors of its module"),
        (list, "net_ must contain the tensors of its module"),
        (with_first(torch.Tensor.half), "must be a tensor of float32 or float64"),
        (with_first(lambda tensor: tensor.to(int)), "must be a tensor of float32 or float64"),
        (with_first(torch.Tensor.tolist), "must be a tensor of float32 or float64"),
        (lambda m: {3: torch.ones(1), **m}, r"module\[3\] of net_ must be a tensor of float32"),
        (with_first(torch.Tensor.float), "must have the same dtype and device"),
        (with_first(lambda t: t.to("meta")), "must have the same dtype and device"),
        (with_first(lambda t: t[:-1]), "must have shape .* for these parameters"),
        (lambda m: {**m, "other": torch.ones(1).double()}, "is not in the module"),
    ],
)
def test_tensors_that_are_not_those_of_the_module(change, message):
    state, model = state_and_model()
    with pytest.raises(ValueError, match=message):
        restored_net(model, {**state, "module": change(state["module"])})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 4}, "n_components must equal n_components_=3, got 4"),
        ({"learning_rate": 1.0}, "_networks_of_fit must be a dict of parameters among"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (1,) * 100}, "require 100 layers, but the module has"),
        (
            {"encoder": PlainConvEncoder(convolutions_per_scale=50), "image_shape": (1, 2, 4)},
            "require 50 layers, but the module has",
        ),
        (
            {"encoder": PlainConvEncoder(channels=(1,) * 70), "image_shape": (1, 2, 4)},
            "require 70 layers, but the module has",
        ),
        (
            {"encoder": PlainConvEncoder(convolutions_per_scale=0), "image_shape": (1, 2, 4)},
            "Numbers of layers must be integers >= 1",
        ),
        (
            {"encoder": PlainConvEncoder(channels={1: 2}), "image_shape": (1, 2, 4)},
            "channels must be a list or tuple",
        ),
    ],
)
def test_parameters_of_other_networks(parameters, message):
    state, model = state_and_model()
    model._networks_of_fit = {**model._networks_of_fit, **parameters}
    with pytest.raises(ValueError, match=message):
        restored_net(model, state)


def test_sizes_beyond_the_numbers_of_the_module():
    state, model = state_and_model(n_features_in_=10**6)
    with pytest.raises(ValueError, match=r"n_features_in_=1000000 requires 1000000 numbers, but"):
        restored_net(model, state)
    state, model = state_and_model(n_components_=10**6)
    model._networks_of_fit = {**model._networks_of_fit, "n_components": 10**6}
    with pytest.raises(ValueError, match=r"n_components=1000000 requires 1000000 numbers, but"):
        restored_net(model, state)


def test_models_that_disagree_with_their_module_about_a_noise_variance():
    state, model = state_and_model()
    del model.noise_variance_
    with pytest.raises(ValueError, match="noise_variance_ is missing"):
        restored_net(model, state)
    state, model = state_and_model(HETEROSCEDASTIC, noise_variance_=1.0)
    with pytest.raises(ValueError, match="noise_variance_ is present, but the module has no"):
        restored_net(model, state)


@pytest.mark.parametrize("groups", [0, 2])
def test_an_optimizer_with_other_groups_is_not_saved(groups):
    model = copy.deepcopy(fitted(MODEL))
    model.net_.optimizer_.param_groups[1:] = model.net_.optimizer_.param_groups * (groups - 1)
    if not groups:
        model.net_.optimizer_ = torch.optim.SGD(model.module_.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="original Adam optimizer with one parameter group"):
        state_of_net(model)


class Spoiled(Snapshot):
    """A snapshot with a parameter that is not finite."""

    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)
        for state in self.states_.values():
            next(iter(state.values())).fill_(np.nan)


def test_a_snapshot_whose_bound_is_not_finite_is_discarded():
    model = DeepGaussianVAE(3, **SMALL, callbacks=[Spoiled([1]), ("good", Snapshot([2]))])
    with pytest.warns(UserWarning, match="The snapshot of epoch 1 was discarded"):
        model.fit(X)
    assert list(model.snapshots_) == [2]


@pytest.mark.parametrize("kind", [DeepGaussianVAE, DeepAutoencoder])
def test_samples_for_which_the_networks_overflow_are_named(kind):
    near = 1e-3 * X.astype(np.float32)
    model, far = kind(3, **SMALL).fit(near), near.copy()
    far[7] = 3e38
    with pytest.raises(ValueError, match=r"X must be closer to .* sample 7 in float32"):
        model.transform(far)


def test_outliers_among_the_samples_held_out_are_an_error():
    random_state = np.random.RandomState(0)
    random_state.randint(np.iinfo(np.int32).max)  # the seed of training
    held_out = random_state.permutation(len(X))[0]
    outlier = X.copy()
    outlier[held_out] = 1e200
    model = DeepGaussianVAE(3, **SMALL, early_stopping=True)
    with pytest.raises(ValueError, match=r"X contains outliers: .* overflow torch\.float64"):
        model.fit(outlier)


def test_only_normal_noise_can_start_at_ppca(monkeypatch):
    odd = types.SimpleNamespace(is_normal=False)
    monkeypatch.setitem(ppca_start.NOISE_MODELS, "odd", odd)
    model = DeepGaussianVAE(3, init="ppca", noise_model="odd", activation="relu")
    with pytest.raises(ValueError, match="init='ppca' requires Gaussian noise, got noise_model='o"):
        check_init(model, (8,))
    check_init(model.set_params(init=None), (8,))


def test_the_autoencoder_is_compared_with_pca_in_the_units_of_the_samples(monkeypatch):
    found, X = [], 100.0 * make_rows()
    monkeypatch.setattr(base, "warn_of_outcome", lambda model, bounds, search: found.append(bounds))
    monkeypatch.setattr(outcome, "MIN_EPOCHS", 2)
    model, pca = DeepAutoencoder(2, **SMALL).fit(X), PCA(2).fit(X)
    error = np.square(X - pca.inverse_transform(pca.transform(X))).mean()
    assert found[0].model == pytest.approx(model.score(X), rel=1e-6)
    assert found[0].linear.bound == pytest.approx(-error, rel=1e-6)
    assert found[0].without_latents == pytest.approx(-X.var(axis=0).mean(), rel=1e-6)
