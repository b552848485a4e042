"""Training objectives, in nats per sample, and the KL warm-up schedule."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from sklearn_vae.nn.module import Autoencoder, VAEModule

Objective: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]


def elbo(
    module: VAEModule,
    x: Tensor,
    noise: Tensor,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the evidence lower bound (ELBO) from S draws per sample.

    Parameters
    ----------
    module : VAEModule
        The model.
    x : Tensor of shape (n_samples, n_features)
        Samples.
    noise : Tensor of shape (n_draws, n_samples, n_components)
        Standard normal noise.
    beta : float, default=1.0
        KL weight.
    free_bits : float, default=0.0
        KL per dimension, averaged over the batch, below which no penalty applies (Kingma et al.,
        "Improved Variational Inference with Inverse Autoregressive Flow", eq. 15).
    weights : Tensor of shape (n_samples,), default=None
        Weights of the samples in this average. The results are not multiplied by them.

    Returns
    -------
    objective, reconstruction, kl : Tensors of shape (n_samples,)
        Objective to maximize, E_q log p(x|z) and KL(q(z|x) || p(z)). Without `free_bits`, the
        objective is reconstruction - beta * kl.
    """
    draws, prior = module.encode(x).draw(noise), module.prior()
    reconstruction = module.decode(draws.z, x).log_prob(x).mean(0)
    kl = penalty = draws.kl(prior)
    if free_bits > 0:
        terms = draws.kl_terms(prior)
        floor = torch.full_like(terms, free_bits)
        if weights is None:
            average = terms.mean(0)
        else:
            total = weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            average = (weights[:, None] * terms).sum(0) / total
        penalty = torch.where(average > free_bits, terms, floor).sum(-1)
    return reconstruction - beta * penalty, reconstruction, kl


def log_weights(module: VAEModule, x: Tensor, noise: Tensor) -> Tensor:
    """Compute log p(x, z) - log q(z|x) of S draws per sample, of shape (n_draws, n_samples).

    The logarithm of the mean weight over draws is the importance-weighted bound, whose expectation
    rises toward log p(x) with S (Burda, Grosse and Salakhutdinov, "Importance Weighted
    Autoencoders", eq. 8).
    """
    draws = module.encode(x).draw(noise)
    log_prob = module.decode(draws.z, x).log_prob(x)
    return log_prob + module.prior().log_prob(draws.z) - draws.log_prob()


def iwae(
    module: VAEModule,
    x: Tensor,
    noise: Tensor,
    beta: float | Tensor = 1.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the importance-weighted bound from K draws per sample.

    The arguments and results are those of :func:`elbo`; `weights` are ignored. The objective is
    log (1/K) sum_k p(x|z_k) (p(z_k) / q(z_k|x))^beta, a bound on log p(x) if beta is 1. With K = 1
    its expectation is the ELBO with the same beta.
    """
    draws, prior = module.encode(x).draw(noise), module.prior()
    log_prob = module.decode(draws.z, x).log_prob(x)
    weights = log_prob + beta * (prior.log_prob(draws.z) - draws.log_prob())
    bound = torch.logsumexp(weights, 0) - math.log(len(noise))
    with torch.no_grad():
        return bound, log_prob.mean(0), draws.kl(prior)


def squared_error(
    module: Autoencoder,
    x: Tensor,
    noise: Tensor,
    beta: float = 1.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return -|x - mu(z)|^2 / d twice, as objective and reconstruction, and a KL of 0."""
    error = (x - module(x)).square().mean(-1)
    return -error, -error, torch.zeros_like(error)


def kl_weight(epoch: int, n_epochs: int, weight: float) -> float:
    """Return the KL weight in an epoch, which rises linearly to `weight` in epoch n_epochs - 1."""
    return weight * min(1.0, (epoch + 1) / n_epochs) if n_epochs > 0 else weight
