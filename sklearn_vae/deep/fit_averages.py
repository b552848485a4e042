"""Averages over the training samples, from which the diagnostics of a fit are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL
from sklearn_vae.nn.cubature import cubature, n_points
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.posteriors import is_at_limit
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.stored_samples import StoredSamples

Array = NDArray[Any]

# Largest number of operations of averages over draws, unless one draw per sample needs more.
N_OPERATIONS = 1e11


@dataclass(frozen=True, eq=False)
class FitAverages:
    """Averages over the training samples and draws of z, in the units of the networks."""

    statistics: Array  # of the likelihood
    kl: float
    posterior_entropy: float
    second_moment: Array  # E_q z_h^2 / Var_p z_h
    kl_per_dim: Array
    share_above: Array  # (weighted) fraction of samples with a KL above the threshold of collapse
    at_limit: bool  # whether a log-variance of the posterior is at its limit


@torch.no_grad()
def fit_averages(
    module: VAEModule,
    samples: Tensor | StoredSamples,
    weights: Tensor | None,
    blocks: Iterator[slice],
    n_draws_of: Callable[[Tensor], int],
    operations: float,
    reducer: Reducer,
) -> FitAverages:
    """Average over the training samples of all processes and over draws of z.

    The draws are at the points of `cubature`, as in scores, or random and fewer where these would
    take too long. The weights of the samples, if any, must average to 1. `n_draws_of` returns the
    number of draws per sample of a block that fit into memory, and `operations` is the cost of one
    draw. Raise FloatingPointError if an average is not finite.
    """
    n, prior, k = int(reducer.sum(len(samples))), module.prior(), module.posterior.n_components
    n_draws = max(1, int(N_OPERATIONS / (operations * n)))
    points = cubature(k) if n_draws >= n_points(k) else None
    generator = torch.Generator(samples.device).manual_seed(reducer.own_seed(0))
    per_dim, statistics, moment, kl_and_entropy = 4 * [np.zeros(1)]
    at_limit = False
    for block in blocks:
        x, w = samples[block], None if weights is None else weights[block]
        q = module.encode(x)
        terms = q.marginals().kl_terms(prior)
        per_dim = per_dim + _host_sums(w, terms, terms > COLLAPSE_KL) / n
        at_limit |= bool(is_at_limit(q.base.log_variance).any())
        for noise, w_draws in (
            _random_draws(n_draws, n_draws_of(x), (len(x), k), generator, x)
            if points is None
            else zip(*(part.to(x).split(n_draws_of(x)) for part in points), strict=True)
        ):
            draws, share = q.draw(noise, w_draws / w_draws.sum()), float(w_draws.sum()) / n
            moment = moment + share * _host_sums(w, draws.second_moment() / prior.variance)[0]
            sums = _host_sums(w, draws.kl(prior), draws.entropy())
            kl_and_entropy = kl_and_entropy + share * sums
            products = w_draws[:, None] * (torch.ones_like(x[:, 0]) if w is None else w)
            statistics_sums = module.likelihood.statistics(module.decode(draws.z, x), x, products)
            statistics = statistics + _to_host(statistics_sums) / n
    per_dim, statistics, moment, kl_and_entropy, at_limit = map(
        reducer.sum, (per_dim, statistics, moment, kl_and_entropy, at_limit)
    )
    if not all(np.isfinite(a).all() for a in (per_dim, statistics, moment, kl_and_entropy)):
        raise FloatingPointError("The ELBO of the training samples is not finite.")
    kl, entropy = kl_and_entropy.tolist()
    kl_per_dim, share_above = per_dim
    return FitAverages(statistics, kl, entropy, moment, kl_per_dim, share_above, bool(at_limit))


def _random_draws(
    n_draws: int, at_once: int, shape: tuple[int, int], generator: torch.Generator, like: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the noise of n_draws draws per sample, and their equal weights."""
    device, dtype = like.device, like.dtype
    for start in range(0, n_draws, at_once):
        size = min(at_once, n_draws - start)
        noise = torch.randn((size, *shape), generator=generator, device=device, dtype=dtype)
        yield noise, torch.full((size,), 1.0 / n_draws, device=device, dtype=dtype)


def _host_sums(weights: Tensor | None, *terms: Tensor) -> Array:
    """Stack terms of one shape and sum them over the samples, on the host."""
    stacked = torch.stack([t.to(terms[0].dtype) for t in terms])
    if weights is not None:
        stacked *= weights.view(-1, *(stacked.ndim - 2) * (1,))
    return _to_host(stacked.sum(1))


def _to_host(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy()
