"""Monitors, which compute the entries of the training history with sums on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.scaling import log_scales


class LatentMonitor:
    """Monitor of the ELBO and its terms, entropies, active dimensions and observation noise.

    The values are averages over an epoch, in which the parameters change. Posteriors can restrict
    the number of samples whose latents are monitored. Noise is recorded at the end of the epoch.
    `log_scale` is the log-density in the units of the networks minus that in data units, `scale`
    is the divisor of the features, and `recorded` names the entries of the likelihood.
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
        self.n_seen: Any = 0  # or the sum of their weights

    def in_data_units(
        self, bound: Any, x: Tensor | None = None, weights: Tensor | None = None
    ) -> Any:
        """Convert a bound from the units of the networks to data units.

        It is that of each sample x, or averaged over them, with their weights if they have any. By
        default it is averaged over the training samples.
        """
        shift = self.log_scale if x is None else log_scales(x, self.scale)
        if np.ndim(shift) and not np.ndim(bound):
            shift = float(np.average(shift, weights=None if weights is None else weights.cpu()))
        return bound - shift

    def update(self, module: Any, h: Tensor, weights: Tensor | None = None) -> None:
        """Add encoder outputs h of some samples, with their weights if they have any."""
        prior = module.prior()
        h = h[: module.posterior.monitored].to(prior.mean.dtype)  # h may be bfloat16
        q = module.posterior(h)
        terms = q.marginals().kl_terms(prior)
        above = terms > COLLAPSE_KL
        if weights is None:
            self.sums.append(torch.cat([q.entropy().sum()[None], above.sum(0)]))
            self.n_seen += len(h)
            return
        weights = weights[: module.posterior.monitored]
        # Not as products of matrices, which may be in TF32.
        weighted_above = (weights[:, None] * above).sum(0)
        self.sums.append(torch.cat([(weights * q.entropy()).sum()[None], weighted_above]))
        self.n_seen += weights.sum()

    def record(
        self,
        module: Any,
        n: int,
        reconstruction: float,
        kl: float,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> dict[str, Any]:
        """Return the entries of an epoch of n samples; `reconstruction` and `kl` are averages."""
        sums = torch.stack(self.sums).sum(0).tolist()
        n_seen, entropy, *above = reducer.sum([float(self.n_seen), *sums])
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
    """Monitor of an autoencoder: minus the mean squared error, in data units."""

    names = shown = ("bound",)

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def begin(self) -> None:
        """Do nothing."""

    def in_data_units(
        self, bound: Any, x: Tensor | None = None, weights: Tensor | None = None
    ) -> Any:
        """Convert a squared error from the units of the networks to data units."""
        return bound * self.scale**2

    def update(self, module: Any, h: Tensor, weights: Tensor | None = None) -> None:
        """Do nothing."""

    def record(
        self,
        module: Any,
        n: int,
        reconstruction: float,
        kl: float,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> dict[str, Any]:
        """Return the entry of an epoch."""
        return {"bound": self.in_data_units(reconstruction)}
