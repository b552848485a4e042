"""What the history of a training tells of each epoch, summed on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.nn.distributions import LOG_2PI


class LatentMonitor:
    """Bound, its parts, noise, three entropies and active dimensions, in the units of the data.

    Averages over the rows of an epoch as they were trained on: the parameters change meanwhile. The
    noise is that of the epoch's end.

    Parameters
    ----------
    n_features : int
    scale : float or array of shape (d,)
        Of the rows: they were divided by it.
    """

    names = (
        "bound",
        "reconstruction",
        "kl",
        "noise_variance",
        "posterior_entropy",
        "prior_entropy",
        "noise_entropy",
        "active_dims",
    )
    shown = ("bound", "kl", "noise_variance", "active_dims")

    def __init__(self, n_features: int, scale: Any) -> None:
        self.n_features = n_features
        self.scale = scale
        self.log_scale = float(np.log(np.broadcast_to(scale, n_features)).sum())
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        self.sums: list[Tensor] = []

    def in_data_units(self, bound: float) -> float:
        """A bound of rows as the networks see them, as one of the data."""
        return bound - self.log_scale

    def update(self, module: Any, h: Tensor) -> None:
        """Take in what the encoder gave for some rows."""
        q = module.posterior(h)
        terms = q.kl_terms(module.prior())
        above = (terms > COLLAPSE_KL).sum(0)
        self.sums.append(torch.cat([q.entropy().sum()[None], above]))

    def record(self, module: Any, n: int, reconstruction: float, kl: float) -> dict[str, Any]:
        """Values of an epoch of n rows; `reconstruction` and `kl` are averages."""
        entropy, *above = torch.stack(self.sums).sum(0).tolist()
        k, d = len(above), self.n_features
        log_variance = module.likelihood.log_variance.detach().double()
        noise = log_variance.exp().cpu().numpy() * self.scale**2
        return {
            "bound": self.in_data_units(reconstruction - kl),
            "reconstruction": self.in_data_units(reconstruction),
            "kl": kl,
            "noise_variance": noise if np.ndim(noise) else float(noise),
            "posterior_entropy": entropy / n,
            "prior_entropy": 0.5 * k * (LOG_2PI + 1.0),
            "noise_entropy": 0.5 * d * (LOG_2PI + 1.0 + log_variance.mean().item())
            + self.log_scale,
            "active_dims": sum(count > COLLAPSE_SHARE * n for count in above),
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

    def record(self, module: Any, n: int, reconstruction: float, kl: float) -> dict[str, Any]:
        """Values of an epoch of n rows."""
        return {"bound": self.in_data_units(reconstruction)}
