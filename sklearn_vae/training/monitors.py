"""What the history of a training tells of each epoch, summed on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.nn.distributions import LOG_2PI
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer


class LatentMonitor:
    """Bound, its parts, entropies of the latent space and active dimensions.

    Averages over the rows of an epoch as they were trained on: the parameters change meanwhile. Of
    flows, over 64 rows of each chunk of batches.

    Parameters
    ----------
    log_scale : float
        What the density of a row loses from the units of the networks to those of the data.
    """

    names: tuple[str, ...] = (
        "bound",
        "reconstruction",
        "kl",
        "posterior_entropy",
        "prior_entropy",
        "active_dims",
    )
    shown: tuple[str, ...] = ("bound", "kl", "active_dims")

    def __init__(self, log_scale: float) -> None:
        self.log_scale = log_scale
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
        }


class NoiseMonitor(LatentMonitor):
    """The same, with the noise variance at the end of the epoch, and its entropy.

    Parameters
    ----------
    log_scale : float
    scale : float or array of shape (d,)
        That the rows were divided by.
    """

    names = (*LatentMonitor.names, "noise_variance", "noise_entropy")
    shown = ("bound", "kl", "noise_variance", "active_dims")

    def __init__(self, log_scale: float, scale: Any) -> None:
        super().__init__(log_scale)
        self.scale = scale

    def record(
        self,
        module: Any,
        n: int,
        reconstruction: float,
        kl: float,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> dict[str, Any]:
        """Values of an epoch of n rows; `reconstruction` and `kl` are averages."""
        values = super().record(module, n, reconstruction, kl, reducer)
        likelihood = module.likelihood
        log_variance = likelihood.log_variance.detach().cpu().double().numpy()
        noise = np.exp(log_variance) * self.scale**2
        entropy = 0.5 * likelihood.n_features * (LOG_2PI + 1.0 + log_variance.mean())
        return {
            **values,
            "noise_variance": noise if np.ndim(noise) else float(noise),
            "noise_entropy": float(entropy) + self.log_scale,
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
