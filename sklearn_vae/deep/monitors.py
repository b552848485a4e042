"""What the history of a training tells of each epoch, summed on the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.nn.distributions import LOG_2PI


class LatentMonitor:
    """Bound, its parts, noise, three entropies and active dimensions, in the units of the data.

    Averages over the rows of an epoch as they were trained on: the parameters change meanwhile.

    Parameters
    ----------
    n_features : int
    scale : float
        Of the rows: they were divided by it.
    """

    shown = ("bound", "kl", "noise_variance", "active_dims")

    def __init__(self, n_features: int, scale: float) -> None:
        self.n_features = n_features
        self.scale = scale
        self.sums: list[Tensor] = []

    def update(self, module: Any, h: Tensor) -> None:
        """Take in what the encoder gave for some rows."""
        q = module.posterior(h)
        terms = q.kl_terms(module.prior())
        above = (terms > COLLAPSE_KL).sum(0)
        self.sums.append(torch.cat([q.entropy().sum()[None], above]))

    def record(self, module: Any, n: int, reconstruction: float, kl: float) -> dict[str, Any]:
        """Values of an epoch of n rows; `reconstruction` and `kl` are averages. Starts anew."""
        entropy, *above = torch.stack(self.sums).sum(0).tolist()
        self.sums = []
        k, d = len(above), self.n_features
        offset = d * math.log(self.scale)
        log_variance = module.likelihood.log_variance.detach().double()
        noise = (log_variance.exp() * self.scale**2).cpu().numpy()
        return {
            "bound": reconstruction - kl - offset,
            "reconstruction": reconstruction - offset,
            "kl": kl,
            "noise_variance": noise if noise.ndim else float(noise),
            "posterior_entropy": entropy / n,
            "prior_entropy": 0.5 * k * (LOG_2PI + 1.0),
            "noise_entropy": 0.5 * d * (LOG_2PI + 1.0 + log_variance.mean().item()) + offset,
            "active_dims": sum(count > COLLAPSE_SHARE * n for count in above),
        }


class ErrorMonitor:
    """Minus the mean squared error, in the units of the data; an autoencoder's."""

    shown = ("bound",)

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def update(self, module: Any, h: Tensor) -> None:
        """Nothing to take in."""

    def record(self, module: Any, n: int, reconstruction: float, kl: float) -> dict[str, Any]:
        """Values of an epoch of n rows."""
        return {"bound": reconstruction * self.scale**2}
