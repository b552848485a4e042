"""Priors p(z) of adapted models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.adapters.outputs import as_normal

# Number of draws from which the moments of a prior are estimated.
N_DRAWS = 10_000


class NormalPrior:
    """p(z) = N(mean, diag variance). Both are floats or arrays of shape (n_components,)."""

    is_normal = True
    has_density = True

    def __init__(self, mean: Any = 0.0, variance: Any = 1.0) -> None:
        self.mean = np.asarray(mean, dtype=np.float64)
        self.variance = np.asarray(variance, dtype=np.float64)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute log p(z)."""
        mean = torch.as_tensor(self.mean, dtype=z.dtype, device=z.device)
        variance = torch.as_tensor(self.variance, dtype=z.dtype, device=z.device)
        terms = (z - mean).square() / variance + torch.log(2.0 * torch.pi * variance)
        return -0.5 * terms.sum(-1)

    def draw(self, n: int, k: int, random_state: np.random.RandomState) -> Any:
        """Draw n latent vectors of k dimensions."""
        return self.mean + np.sqrt(self.variance) * random_state.standard_normal((n, k))

    def kept(self, dimensions: Any) -> NormalPrior:
        """Return the prior of some of the dimensions."""
        mean, variance = (
            array[dimensions] if array.ndim else array for array in (self.mean, self.variance)
        )
        return NormalPrior(mean, variance)


class SampledPrior:
    """Prior that is known by its draws, and perhaps by its density.

    The mean and variance are those of draws.

    Parameters
    ----------
    sample : callable
        Maps a number of draws to an array or tensor of shape (n_draws, n_components).
    log_prob : callable, default=None
        Maps a tensor of shape (n_draws, n_components) to log p(z), of shape (n_draws,).
    """

    is_normal = False

    def __init__(
        self, sample: Callable[[int], Any], log_prob: Callable[[Tensor], Any] | None = None
    ) -> None:
        self.sample, self._log_prob = sample, log_prob
        draws = self.draw(N_DRAWS, None, np.random.RandomState(0))
        self.mean, self.variance = draws.mean(axis=0), draws.var(axis=0)

    @property
    def has_density(self) -> bool:
        """Whether the density is known."""
        return self._log_prob is not None

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute log p(z), of shape (n_draws,)."""
        if self._log_prob is None:
            raise ValueError(
                "The ELBO needs the density of the prior. Pass a prior that also has log_prob."
            )
        values = self._log_prob(z)
        return values if values.ndim == 1 else values.flatten(1).sum(1)

    def draw(self, n: int, k: int | None, random_state: np.random.RandomState) -> Any:
        """Draw n latent vectors."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(random_state.randint(2**31 - 1))
            draws = self.sample(n)
        draws = draws.cpu().numpy() if isinstance(draws, Tensor) else np.asarray(draws)
        if draws.ndim != 2 or len(draws) != n or (k is not None and draws.shape[1] != k):
            raise ValueError(
                f"prior must draw an array of shape ({n}, {k or 'n_components'}), got "
                f"{draws.shape}."
            )
        return draws.astype(np.float64)

    def kept(self, dimensions: Any) -> SampledPrior:
        """Return the prior of some of the dimensions, whose density is unknown."""
        return SampledPrior(lambda n: self.sample(n)[:, dimensions])


def as_prior(prior: Any) -> NormalPrior | SampledPrior:
    """Return the prior that a parameter describes; raise ValueError or TypeError if it is invalid.

    It may be None for N(0, I), variances, a distribution of torch, an object with `sample`, or a
    function that draws.
    """
    if isinstance(prior, NormalPrior | SampledPrior):
        return prior
    if prior is None or (isinstance(prior, str) and prior == "standard"):
        return NormalPrior()
    normal = as_normal(prior)
    if normal is not None:
        loc, scale = normal.loc.detach().cpu().numpy(), normal.scale.detach().cpu().numpy()
        return NormalPrior(loc, scale**2)
    if isinstance(prior, torch.distributions.Distribution):
        return SampledPrior(lambda n: prior.sample(torch.Size((n,))), prior.log_prob)
    if callable(getattr(prior, "sample", None)):
        return SampledPrior(prior.sample, getattr(prior, "log_prob", None))
    if callable(prior):
        return SampledPrior(prior)
    try:
        variance = np.asarray(
            prior.detach().cpu() if isinstance(prior, Tensor) else prior, dtype=np.float64
        )
    except (TypeError, ValueError):
        variance = np.array(-1.0)
    if variance.ndim > 1 or not (variance > 0).all() or not np.isfinite(variance).all():
        raise ValueError(
            "prior must be None, positive variances of shape (n_components,), a distribution, or "
            f"a function that draws n latent vectors, got {prior!r}."
        )
    return NormalPrior(0.0, variance)
