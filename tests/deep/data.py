"""Rows and small models for tests."""

import zlib

import numpy as np
import pytest
from sklearn.base import clone

from sklearn_vae import (
    ConvDecoder,
    ConvEncoder,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
)
from sklearn_vae.deep.vae import DeepVAE
from tests.helpers import exhaustive, slow
from tests.sharing import shared

SMALL = {"hidden_layer_sizes": (16,), "max_epochs": 3, "batch_size": 32, "random_state": 0}

MODELS = [
    DeepGaussianVAE(3, **SMALL),
    DeepGaussianVAE(3, **SMALL, noise_model="diagonal"),
    DeepGaussianVAE(3, **SMALL, noise_update="gradient", n_mc_samples=2),
    DeepGaussianVAE(3, **SMALL, noise_model="diagonal", noise_update="gradient"),
    DeepGaussianVAE(3, **SMALL, noise_variance=0.5, kl_weight=2.0, kl_warmup_epochs=2),
    DeepGaussianVAE(3, **SMALL, free_bits=0.1, early_stopping=True),
    DeepGaussianVAE(3, **SMALL, init="ppca"),
    DeepGaussianVAE(3, **SMALL, noise_model="heteroscedastic"),
    DeepGaussianVAE(3, **SMALL, prior="learned_variance"),
    DeepGaussianVAE(3, **SMALL, variational_family="sylvester"),
    DeepGaussianVAE(3, **SMALL, objective="iwae", n_mc_samples=4),
    DeepGaussianVAE(
        3,
        **SMALL,
        encoder=ConvEncoder(channels=(4,), dense=8),
        decoder=ConvDecoder(channels=(4,), dense=8),
        image_shape=(1, 2, 4),
    ),
    DeepBernoulliVAE(3, **SMALL, binarize=0.0),
    DeepAutoencoder(3, **SMALL),
]
# Of each kind one.
OF_EACH_KIND = [MODELS[i] for i in (0, 3, 5, 7, 9, 11, 12, 13)]
# These have code of their own, too, and are slow; the rest repeat and are exhaustive.
OTHER_KINDS = [MODELS[i] for i in (1, 4, 8, 10)]
VAES = [model for model in MODELS if isinstance(model, DeepVAE)]
# Whose noise does not depend on z, and whose posterior is a normal with independent dimensions.
GAUSSIAN = [
    model
    for model in VAES
    if isinstance(model, DeepGaussianVAE)
    and model.noise_model != "heteroscedastic"
    and (model.prior, model.variational_family) == ("standard", "diagonal")
]


def each_of(models):
    """Decorator of a test of each of these models: `OTHER_KINDS` are slow, the rest exhaustive.

    Each test starts with another one, so that `some` takes different models in different tests.
    """

    def parameter(model):
        if any(model is one for one in OF_EACH_KIND):
            return model
        (marked,) = (slow if any(model is one for one in OTHER_KINDS) else exhaustive)(model)
        return marked

    def decorate(test):
        start = zlib.crc32(test.__name__.encode()) % len(models)
        parameters = [parameter(model) for model in (*models[start:], *models[:start])]
        return pytest.mark.parametrize("model", parameters, ids=str)(test)

    return decorate


def make_rows(n=150, d=8, k=3, seed=0, noise=0.3):
    """Rows on a curved surface of k dimensions, in noise, float64."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, k))
    X = np.tanh(Z @ rng.normal(size=(k, 2 * d))) @ rng.normal(size=(2 * d, d))
    return X + noise * rng.normal(size=(n, d)) + rng.normal(size=d)


@shared
def _fitted(index):
    return clone(MODELS[index]).fit(make_rows())


def fitted(model):
    """One of MODELS fitted to `make_rows()`, once for all tests: a test that changes it copies it."""
    return _fitted(next(i for i, each in enumerate(MODELS) if each is model))


def parameters_of(model):
    """All numbers of a model's module, as one array."""
    values = [p.detach().numpy().ravel() for p in model.module_.parameters()]
    return np.concatenate(values)
