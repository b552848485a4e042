"""Networks of users: whatever they do inside, the score is that of their own distributions."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklearn_vae import ConvEncoder, DeepAutoencoder, DeepBernoulliVAE, DeepGaussianVAE
from sklearn_vae.nn.cubature import cubature
from tests.deep.data import make_rows
from tests.helpers import name_of

X = make_rows(60)
BITS = (X.mean(axis=0) < X).astype(float)
FIT = {"hidden_layer_sizes": (8,), "max_epochs": 3, "batch_size": 16, "random_state": 0}


class Network(nn.Module):
    """A network of two layers; subclasses change the inputs on their way."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        first = n_inputs if isinstance(n_inputs, int) else math.prod(n_inputs)
        last = n_outputs if isinstance(n_outputs, int) else math.prod(n_outputs)
        self.layers = nn.Sequential(nn.Linear(first, 6), nn.Tanh(), nn.Linear(6, last))

    def forward(self, x):
        return self.layers(self.changed(x))

    def changed(self, x):
        return x


class Centered(Network):
    def changed(self, x):
        return x - x.mean(1, keepdim=True)


class CenteredInPlace(Network):
    def changed(self, x):
        x -= x.mean(1, keepdim=True)
        return x


class Rectified(Network):
    def changed(self, x):
        return nn.functional.relu(x)


class RectifiedInPlace(Network):
    def changed(self, x):
        return nn.functional.relu_(x)


MODELS = [
    DeepGaussianVAE(2, **FIT),
    DeepGaussianVAE(2, **FIT, noise_model="heteroscedastic"),
    DeepGaussianVAE(2, **FIT, objective="iwae", n_mc_samples=3),
    DeepGaussianVAE(2, **FIT, variational_family="sylvester"),
    DeepBernoulliVAE(2, **FIT),
    DeepAutoencoder(2, **FIT),
]


def data_of(model):
    return BITS if isinstance(model, DeepBernoulliVAE) else X


@pytest.mark.cover(1)
@pytest.mark.parametrize(
    ("plain", "in_place"), [(Centered, CenteredInPlace), (Rectified, RectifiedInPlace)]
)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_networks_that_write_in_place_give_what_others_give(model, part, plain, in_place):
    data = data_of(model)
    expected = clone(model).set_params(**{part: plain}).fit(data)
    found = clone(model).set_params(**{part: in_place}).fit(data)
    Z = expected.transform(data)
    latents, given = Z.copy(), data.copy()
    np.testing.assert_array_equal(found.score_samples(data), expected.score_samples(data))
    np.testing.assert_array_equal(found.inverse_transform(latents), expected.inverse_transform(Z))
    np.testing.assert_array_equal(latents, Z)
    np.testing.assert_array_equal(data, given)


class Normalized(Network):
    """Batch norm, dropout, weight norm, a buffer, and another path by the sign of the data."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__(n_inputs, n_outputs)
        nn.utils.parametrizations.weight_norm(self.layers[0])
        self.norm = nn.BatchNorm1d(self.layers[0].in_features)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(()))

    def changed(self, x):
        if self.training:
            self.seen += len(x)
        x = self.dropout(self.norm(x))
        return torch.where(x.sum(1, keepdim=True) > 0, x, 0.5 * x)


def elbo_oracle(model, data):
    """ELBO of each sample from posterior and conditional alone, with the draws of `score`."""
    mean, variance = model.posterior(data)
    total = np.zeros(len(data))
    points, weights = map(np.asarray, cubature(model.n_components_))
    for draw, weight in zip(points[:, 0], weights, strict=True):
        p, spread = model.conditional(mean + np.sqrt(variance) * draw)
        if isinstance(model, DeepBernoulliVAE):
            total += weight * (data * np.log(p) + (1 - data) * np.log1p(-p)).sum(axis=1)
        else:
            terms = np.log(2 * np.pi * spread) + (data - p) ** 2 / spread
            total -= 0.5 * weight * terms.sum(axis=1)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(axis=1)
    return total - kl


@pytest.mark.cover(1)
@pytest.mark.parametrize("network", [Network, CenteredInPlace, RectifiedInPlace, Normalized])
@pytest.mark.parametrize("model", [MODELS[0], MODELS[1], MODELS[4]], ids=name_of)
def test_score_is_that_of_posterior_and_conditional(model, network):
    data = data_of(model)
    fitted = clone(model).set_params(encoder=network, decoder=network).fit(data)
    np.testing.assert_allclose(fitted.score_samples(data), elbo_oracle(fitted, data), rtol=1e-7)
    # In evaluation mode: the same number at every call, whatever samples are beside.
    np.testing.assert_allclose(fitted.score_samples(data[:7]), fitted.score_samples(data)[:7])


def test_a_class_of_factories_is_not_a_factory():
    with pytest.raises(ValueError, match=r"encoder must be .* Pass an instance, ConvEncoder\(\)"):
        DeepGaussianVAE(2, encoder=ConvEncoder).fit(X)
