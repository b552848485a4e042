"""Small modules for tests."""

import torch

from sklearn_vae.nn.likelihoods import (
    BernoulliLikelihood,
    DiagonalGaussianLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.objectives import elbo, iwae
from sklearn_vae.nn.posteriors import (
    DiagonalPosterior,
    DiagonalPrior,
    SharedPosterior,
    StandardPrior,
    SylvesterPosterior,
)

N, D, K = 11, 7, 3

# Each is held to the contracts of test_contracts.py.
LIKELIHOODS = {
    "scalar": lambda: GaussianLikelihood(D, torch.rand(()) + 0.5, "gradient"),
    "diagonal": lambda: DiagonalGaussianLikelihood(D, torch.rand(D) + 0.5, "gradient"),
    "heteroscedastic": lambda: HeteroscedasticLikelihood(D),
    "bernoulli": lambda: BernoulliLikelihood(D),
}
POSTERIORS = {
    "diagonal": lambda: DiagonalPosterior(K),
    "shared": lambda: SharedPosterior(K),
    "sylvester": lambda: SylvesterPosterior(K),
    "thin sylvester": lambda: SylvesterPosterior(K, n_flows=1, rank=1, n_householder=2),
}
PRIORS = {"standard": lambda: StandardPrior(K), "learned": lambda: DiagonalPrior(K)}
OBJECTIVES = {"elbo": elbo, "iwae": iwae}


def module_of(likelihood, posterior="diagonal", prior="standard", hidden=(9, 6), seed=0):
    """A VAE of parts with these names, in float64, with random parameters of some size."""
    torch.manual_seed(seed)
    likelihood, posterior, prior = (
        parts[name]()
        for parts, name in [(LIKELIHOODS, likelihood), (POSTERIORS, posterior), (PRIORS, prior)]
    )
    encoder = MLP(D, hidden, posterior.n_inputs, "tanh")
    decoder = MLP(K, hidden[::-1], likelihood.n_inputs, "tanh")
    with torch.no_grad():
        for parameter in [*posterior.parameters(), *prior.parameters()]:
            parameter.add_(0.5 * torch.randn_like(parameter))
        for network in (encoder, decoder):
            network.layers[-1].weight.mul_(2.0)
    return VAEModule(encoder, posterior, decoder, likelihood, prior).double()


def make_module(
    noise_shape=(), hidden=(9, 6), activation="relu", update="gradient", seed=0, **likelihood
):
    """A VAE of D features and K dimensions in float64, with random parameters."""
    torch.manual_seed(seed)
    noise = torch.rand(noise_shape, dtype=torch.float64) + 0.5
    kind = DiagonalGaussianLikelihood if noise_shape else GaussianLikelihood
    posterior = DiagonalPosterior(K)
    return VAEModule(
        MLP(D, hidden, posterior.n_inputs, activation),
        posterior,
        MLP(K, hidden[::-1], D, activation),
        kind(D, noise, update, **likelihood),
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
