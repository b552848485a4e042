"""Training objectives, in nats per sample, and the schedule of the KL weight."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from sklearn_vae.nn.module import Autoencoder, VAEModule

Objective: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]


def elbo(
    module: VAEModule, x: Tensor, noise: Tensor, beta: float | Tensor = 1.0, free_bits: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence lower bound, from S draws of each row.

    Parameters
    ----------
    module : VAEModule
    x : Tensor of shape (n, d)
    noise : Tensor of shape (S, n, k)
        Standard normal.
    beta : float, default=1.0
        Weight of KL(q(z|x) || p(z)).
    free_bits : float, default=0.0
        Nats that each dimension may use without a price: where the average KL of the rows is
        below, it counts as this constant (Kingma et al., "Improved Variational Inference with
        Inverse Autoregressive Flow", eq. 15).

    Returns
    -------
    bound, reconstruction, kl : Tensors of shape (n,)
        What to maximise, E_q log p(x|z) and KL(q(z|x) || p(z)). Without `free_bits`,
        bound = reconstruction - beta * kl.
    """
    draws, prior = module.encode(x).draw(noise), module.prior()
    reconstruction = module.decode(draws.z).log_prob(x).mean(0)
    kl = price = draws.kl(prior)
    if free_bits > 0:
        terms = draws.kl_terms(prior)
        floor = torch.full_like(terms, free_bits)
        price = torch.where(terms.mean(0) > free_bits, terms, floor).sum(-1)
    return reconstruction - beta * price, reconstruction, kl


def log_weights(module: VAEModule, x: Tensor, noise: Tensor) -> Tensor:
    """log p(x, z) - log q(z|x) of S draws of each row, shape (S, n).

    The log of their mean over the draws is the importance-weighted bound, which rises in
    expectation toward log p(x) with S (Burda, Grosse and Salakhutdinov, "Importance Weighted
    Autoencoders", eq. 8).
    """
    draws = module.encode(x).draw(noise)
    log_prob = module.decode(draws.z).log_prob(x)
    return log_prob + module.prior().log_prob(draws.z) - draws.log_prob()


def iwae(
    module: VAEModule, x: Tensor, noise: Tensor, beta: float | Tensor = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Importance-weighted bound, from K draws of each row.

    log (1/K) sum_k p(x|z_k) (p(z_k) / q(z_k|x))^beta: with beta = 1 the log of the mean of
    :func:`log_weights`, with K = 1 in expectation the ELBO of the same beta.

    Parameters
    ----------
    module : VAEModule
    x : Tensor of shape (n, d)
    noise : Tensor of shape (K, n, k)
        Standard normal.
    beta : float, default=1.0
        While it rises to 1, this is a warm-up; other than 1 it gives no bound.

    Returns
    -------
    bound, reconstruction, kl : Tensors of shape (n,)
        What to maximise, and the two parts of the ELBO of the same draws, which is below it in
        expectation.
    """
    draws, prior = module.encode(x).draw(noise), module.prior()
    log_prob = module.decode(draws.z).log_prob(x)
    weights = log_prob + beta * (prior.log_prob(draws.z) - draws.log_prob())
    bound = torch.logsumexp(weights, 0) - math.log(len(noise))
    with torch.no_grad():
        return bound, log_prob.mean(0), draws.kl(prior)


def squared_error(
    module: Autoencoder, x: Tensor, noise: Tensor, beta: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Minus |x - mu(z)|^2 / d of each row as bound and reconstruction, and no KL, each (n,)."""
    error = (x - module(x)).square().mean(-1)
    return -error, -error, torch.zeros_like(error)


def warmed_up(epoch: int, n_epochs: int, weight: float) -> float:
    """KL weight in an epoch, counted from 0: rises linearly to `weight` in epoch n_epochs - 1."""
    return weight * min(1.0, (epoch + 1) / n_epochs) if n_epochs > 0 else weight
