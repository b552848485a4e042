"""Averages over the training samples that the diagnostics of a fit are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE
from sklearn_vae.training.distributed import Reducer

Array = NDArray[Any]

# Least number of draws over all samples together, unless they take more operations than the second.
N_DRAWS = 16384
N_OPERATIONS = 1e11


@dataclass(frozen=True, eq=False)
class FitAverages:
    """Averages over the training samples and draws of z, in the units of the networks.

    Attributes
    ----------
    statistics : array
        Of the likelihood's `statistics`.
    kl, posterior_entropy : float
        KL(q(z|x) || p(z)) and H[q(z|x)].
    second_moment : array of shape (k,)
        E_q z_h^2 over the prior's variance.
    kl_per_dim : array of shape (k,)
        KL(q(z_h|x) || p(z_h)).
    share_above : array of shape (k,)
        Share of the samples where it is above the threshold of collapse.
    at_limit : bool
        Whether a limit holds a log-variance of the posterior.
    """

    statistics: Array
    kl: float
    posterior_entropy: float
    second_moment: Array
    kl_per_dim: Array
    share_above: Array
    at_limit: bool


@torch.no_grad()
def fit_averages(
    module: VAEModule,
    samples: Tensor,
    blocks: Iterator[slice],
    n_draws_of: Callable[[Tensor], int],
    operations: float,
    reducer: Reducer,
) -> FitAverages:
    """Average over the training samples of all processes, and draws of each.

    Parameters
    ----------
    module : VAEModule
    samples : Tensor of shape (n, d)
    blocks : iterator of slice
        Parts of the samples that the module is given at once.
    n_draws_of : callable
        Returns how many draws of each sample of a block may be taken at once.
    operations : float
        Of one sample and draw.
    reducer : Reducer

    Raises
    ------
    FloatingPointError
        If an average is not finite.
    """
    n, prior = int(reducer.sum(len(samples))), module.prior()
    n_draws = max(1, min(-(-N_DRAWS // n), int(N_OPERATIONS / (operations * n))))
    generator = torch.Generator(samples.device).manual_seed(reducer.own_seed(0))
    per_dim, statistics, moment, whole = 4 * [np.zeros(1)]
    at_limit = False
    for block in blocks:
        x = samples[block]
        q = module.encode(x)
        terms = q.marginals().kl_terms(prior)
        per_dim = per_dim + _host_sums(terms, terms > COLLAPSE_KL) / n
        at_limit |= bool((q.base.log_variance.abs() >= LOG_VARIANCE_RANGE[1]).any())
        for size in _parts(n_draws, n_draws_of(x)):
            shape = (size, len(x), module.posterior.n_components)
            noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
            draws = q.draw(noise)
            share = size / (n_draws * n)
            moment = moment + share * _host_sums(draws.second_moment() / prior.variance)[0]
            whole = whole + share * _host_sums(draws.kl(prior), draws.entropy())
            sums = module.likelihood.statistics(module.decode(draws.z), x)
            statistics = statistics + _to_host(sums) / (n_draws * n)
    per_dim, statistics, moment, whole, at_limit = map(
        reducer.sum, (per_dim, statistics, moment, whole, at_limit)
    )
    if not all(np.isfinite(a).all() for a in (per_dim, statistics, moment, whole)):
        raise FloatingPointError("The bound of the training rows is not finite.")
    kl, entropy = whole.tolist()
    kl_per_dim, share_above = per_dim
    return FitAverages(statistics, kl, entropy, moment, kl_per_dim, share_above, bool(at_limit))


def _host_sums(*terms: Tensor) -> Array:
    """Sums over samples of terms of one shape, stacked, on the host."""
    return _to_host(torch.stack([t.to(terms[0].dtype) for t in terms]).sum(1))


def _to_host(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy()


def _parts(whole: int, size: int) -> list[int]:
    """Numbers of at most `size` that add up to `whole`."""
    return [min(size, whole - start) for start in range(0, whole, size)]
