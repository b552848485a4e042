"""Rows and fitted models for tests."""

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    LinearVAE,
)
from tests.deep.data import SMALL, VAES, make_rows
from tests.sharing import shared

LINEAR = [
    PPCA(3),
    PPCA(3, noise_variance=2.0),
    PPCACV([2, 3], cv=3),
    LinearVAE(3),
    LinearVAE(3, noise_variance=2.0),
    LinearVAE(3, parametrization="unit_encoder"),
    LinearVAE(3, solver="adam", max_iter=30, tol=1e3),
    BernoulliPPCA(3, binarize=0.0, random_state=0),
    BernoulliPPCA(2, binarize=0.0, inference="per_sample", random_state=0),
]
MODELS = [*LINEAR, *VAES, DeepBernoulliVAE(3, **SMALL, binarize=0.0, prior="learned_variance")]
# That are models of numbers, with one noise variance for all z.
NOISY = [
    model
    for model in MODELS
    if not hasattr(model, "binarize") and getattr(model, "noise_model", "") != "heteroscedastic"
]
# Whose posteriors are normals with independent dimensions.
DIAGONAL = [m for m in MODELS if getattr(m, "variational_family", "diagonal") == "diagonal"]
# Both, where draws from the moments of the posterior are draws from it.
NOISY_DIAGONAL = [m for m in NOISY if getattr(m, "variational_family", "diagonal") == "diagonal"]


class Stranger(BaseEstimator):
    """A model of another library, with these means and variances of q(z|x) whatever the rows."""

    def __init__(self, mean=None, variance=None):
        self.mean, self.variance = mean, variance

    def fit(self, X):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def posterior(self, X):
        return self.mean, self.variance

    def conditional(self, Z):
        raise NotImplementedError

    def score_samples(self, X):
        raise NotImplementedError


def rows(seed=0):
    """150 rows of 8 features."""
    return make_rows(seed=seed)


@shared
def _fitted(index):
    return MODELS[index].fit(rows())


def fitted(model):
    """One of MODELS, fitted once to `rows()`."""
    return _fitted(next(i for i, m in enumerate(MODELS) if m is model))


def train(X, n_components, **options):
    """A small deep VAE, trained for long enough."""
    defaults = {"hidden_layer_sizes": (32,), "batch_size": 50, "learning_rate": 3e-3}
    return DeepGaussianVAE(n_components, **{**defaults, "random_state": 0, **options}).fit(X)


def with_covariance(eigenvalues, n=600, seed=0):
    """Rows whose sample covariance (divisor n) is exactly diagonal, with these eigenvalues."""
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(n, len(eigenvalues)))
    Q = np.linalg.qr(Q - Q.mean(axis=0))[0] * n**0.5
    return Q * np.sqrt(eigenvalues)
