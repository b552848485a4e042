"""Functions of a model of which only some latent dimensions are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.adapters.outputs import posterior_parameters
from sklearn_vae.protocol import Array


class KeptOutputs:
    """Encoder that returns the means and log-variances of some dimensions."""

    def __init__(self, encode: Any, spread: str, kept: Array) -> None:
        self.encode, self.spread, self.kept = encode, spread, kept

    def __call__(self, x: Any, *covariates: Any) -> tuple[Tensor, Tensor]:
        like = x if isinstance(x, Tensor) else torch.from_numpy(x)
        mean, log_variance = posterior_parameters(
            lambda: self.encode(x, *covariates), self.spread, like
        )
        return mean[:, self.kept], log_variance[:, self.kept]


class PaddedInputs:
    """Decoder whose other dimensions are at the mean of the prior."""

    def __init__(self, decode: Any, kept: Array, n_components: Any, mean: Any) -> None:
        self.decode, self.kept = decode, kept
        self.mean = np.broadcast_to(mean, n_components)

    def __call__(self, z: Any, *covariates: Any) -> Any:
        if isinstance(z, Tensor):
            padded: Any = torch.as_tensor(self.mean.copy(), dtype=z.dtype, device=z.device)
            padded = padded.repeat(len(z), 1)
        else:
            padded = np.tile(self.mean.astype(z.dtype), (len(z), 1))
        padded[:, self.kept] = z
        return self.decode(padded, *covariates)
