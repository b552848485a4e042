"""Small modules for tests."""

import torch

from sklearn_vae.nn.likelihoods import GaussianLikelihood
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.posteriors import DiagonalPosterior, StandardPrior

N, D, K = 11, 7, 3


def make_module(
    noise_shape=(), hidden=(9, 6), activation="relu", update="gradient", seed=0, **likelihood
):
    """A VAE of D features and K dimensions in float64, with random parameters."""
    torch.manual_seed(seed)
    noise = torch.rand(noise_shape, dtype=torch.float64) + 0.5
    posterior = DiagonalPosterior(K)
    return VAEModule(
        MLP(D, hidden, posterior.n_inputs, activation),
        posterior,
        MLP(K, hidden[::-1], D, activation),
        GaussianLikelihood(D, noise, update, **likelihood),
        StandardPrior(K),
    ).double()


def make_rows(draws=1, seed=1):
    """Rows (N, D) and noise (draws, N, K)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((N, D), generator=generator, dtype=torch.float64)
    return x, torch.randn((draws, N, K), generator=generator, dtype=torch.float64)


def gradients(module):
    """Those of all parameters by name, which are then forgotten."""
    found = {name: p.grad for name, p in module.named_parameters()}
    module.zero_grad()
    return found
