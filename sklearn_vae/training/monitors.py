"""Monitors: what the training history records of each epoch, summed on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer


class LatentMonitor:
    """Records the bound and its parts, entropies, active dimensions, and the likelihood's noise.

    Bound and latents are averages over the samples of an epoch, while the parameters change; with
    flows, the latents of 64 samples of each chunk of batches. The likelihood says what it records
    of its noise at the end of the epoch.

    Parameters
    ----------
    log_scale : float
        Difference of log densities in the units of the networks and in those of the data.
    scale : float or array of shape (d,)
        Divisor of the features, from data units to those of the networks.
    recorded : tuple of str, default=()
        Names of what the likelihood records.
    """

    names: tuple[str, ...] = (
        "bound",
        "reconstruction",
        "kl",
        "posterior_entropy",
        "prior_entropy",
        "active_dims",
    )
    shown: tuple[str, ...] = ("bound", "kl", "noise_variance", "active_dims")

    def __init__(self, log_scale: float, scale: Any, recorded: tuple[str, ...] = ()) -> None:
        self.log_scale = log_scale
        self.scale = scale
        self.names = (*self.names, *recorded)
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        self.sums: list[Tensor] = []
        self.n_seen = 0

    def in_data_units(self, bound: float) -> float:
        """A bound of rows as the networks see them, as one of the data."""
        return bound - self.log_scale

    def update(self, module: Any, h: Tensor) -> None:
        """Take in what the encoder gave for some rows."""
        prior = module.prior()
        h = h[: module.posterior.monitored].to(prior.mean.dtype)  # an encoder may give bfloat16
        q = module.posterior(h)
        terms = q.marginals().kl_terms(prior)
        above = (terms > COLLAPSE_KL).sum(0)
        self.sums.append(torch.cat([q.entropy().sum()[None], above]))
        self.n_seen += len(h)

    def record(
        self,
        module: Any,
        n: int,
        reconstruction: float,
        kl: float,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> dict[str, Any]:
        """Values of an epoch of n rows; `reconstruction` and `kl` are averages."""
        sums = torch.stack(self.sums).sum(0).tolist()
        n_seen, entropy, *above = reducer.sum([self.n_seen, *sums])
        return {
            "bound": self.in_data_units(reconstruction - kl),
            "reconstruction": self.in_data_units(reconstruction),
            "kl": kl,
            "posterior_entropy": entropy / n_seen,
            "prior_entropy": module.prior().entropy().item(),
            "active_dims": sum(count > COLLAPSE_SHARE * n_seen for count in above),
            **module.likelihood.record(self.scale, self.log_scale),
        }


class ErrorMonitor:
    """Minus the mean squared error, in the units of the data; an autoencoder's."""

    names = shown = ("bound",)

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def begin(self) -> None:
        """Nothing to begin."""

    def in_data_units(self, bound: float) -> float:
        """Minus an error of rows as the networks see them, as one of the data."""
        return bound * self.scale**2

    def update(self, module: Any, h: Tensor) -> None:
        """Nothing to take in."""

    def record(
        self,
        module: Any,
        n: int,
        reconstruction: float,
        kl: float,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> dict[str, Any]:
        """Values of an epoch of n rows."""
        return {"bound": self.in_data_units(reconstruction)}
