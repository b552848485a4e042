"""Modules for tests of the adapters."""

import numpy as np
import torch
from torch import nn

from sklearn_vae import DeepBernoulliVAE, DeepGaussianVAE
from sklearn_vae.adapters import from_torch
from tests.sharing import shared

OPTIONS = {"hidden_layer_sizes": (16,), "max_epochs": 40, "batch_size": 50, "learning_rate": 3e-3}


def rows(seed=0, n=150):
    """Rows of 8 features, of different scales and off zero."""
    rng = np.random.default_rng(seed)
    X = np.tanh(rng.normal(size=(n, 3)) @ rng.normal(size=(3, 8))) + 0.3 * rng.normal(size=(n, 8))
    return 5.0 + X * np.linspace(0.5, 2.0, 8)


def bits(seed=0):
    X = rows(seed)
    return (X.mean(axis=0) < X).astype(float)


NATIVE = {
    "scalar": DeepGaussianVAE(3, **OPTIONS, random_state=0),
    "too much noise": DeepGaussianVAE(3, **OPTIONS, random_state=0, noise_variance=3.0),
    "diagonal": DeepGaussianVAE(3, **OPTIONS, random_state=0, noise_model="diagonal"),
    "heteroscedastic": DeepGaussianVAE(3, **OPTIONS, random_state=0, noise_model="heteroscedastic"),
    "learned prior": DeepGaussianVAE(3, **OPTIONS, random_state=0, prior="learned_variance"),
    "bernoulli": DeepBernoulliVAE(3, **OPTIONS, random_state=0),
}


@shared
def native(name):
    X = bits() if name == "bernoulli" else rows()
    return NATIVE[name].fit(X), X


class Copy(nn.Module):
    """A plain module with the networks of a fitted VAE, in the units of its rows."""

    def __init__(self, vae):
        super().__init__()
        self.encoder, self.decoder = vae.module_.encoder, vae.module_.decoder
        self.noise = getattr(vae.module_.likelihood, "offset", None)
        self.center = torch.as_tensor(vae.mean_, dtype=torch.float64)
        self.scale = torch.as_tensor(vae.scale_, dtype=torch.float64)

    def encode(self, x):
        return self.encoder((x - self.center) / self.scale).chunk(2, dim=-1)

    def decode(self, z):
        h = self.decoder(z)
        if self.noise is None:
            return h * self.scale + self.center
        mean, log_variance = h.chunk(2, dim=-1)
        log_variance = log_variance + self.noise + 2 * torch.log(self.scale)
        return mean * self.scale + self.center, log_variance


def copied(name):
    """The fitted VAE, its copy through an adapter, and the rows of both."""
    vae, X = native(name)
    adapted = from_torch(
        Copy(vae),
        likelihood="bernoulli" if name == "bernoulli" else "gaussian",
        noise_variance=getattr(vae, "noise_variance_", None),
        learned_noise=vae.noise_variance is None,
        prior=vae.prior_variance_,
        history=vae.history_,
    )
    return vae, adapted, X


class PlainVAE(nn.Module):
    """A VAE as people write it. `form` is what `encode` returns."""

    def __init__(self, d=8, k=2, form="pair", seed=0, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.form = form
        self.hidden = nn.Linear(d, 16)
        self.fc_mu, self.fc_logvar = nn.Linear(16, k), nn.Linear(16, k)
        self.decoder = nn.Sequential(nn.Linear(k, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, d))
        self.to(dtype)

    def encode(self, x):
        h = torch.relu(self.hidden(x.flatten(1)))
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        std = torch.exp(0.5 * logvar)
        z = mu + std * torch.randn_like(std)
        normal = torch.distributions.Normal(mu, std)
        return {
            "pair": (mu, logvar),
            "scale": (mu, std),
            "variance": [mu, logvar.exp()],
            "log scale": (mu, 0.5 * logvar),
            "normal": normal,
            "independent": torch.distributions.Independent(normal, 1),
            "z first": (z, mu, logvar),
            "z last": (mu, logvar, z),
            "mean as z first": (mu, mu, logvar),
            "mean as z last": (mu, logvar, mu),
            "z and normal": (z, normal),
            "mapping": {"z": z, "embedding": mu, "log_covariance": logvar},
            "mapping of normal": {"z": z, "qz": normal},
        }[self.form]

    def decode(self, z):
        return self.decoder(z)
