"""Adapters that give VAEs of other libraries the interface of the estimators of this library.

Each adapter returns a :class:`FunctionModel`, which all functions of
:mod:`sklearn_vae.diagnostics` and the Displays accept. The libraries are imported only if they are
used.
"""

from sklearn_vae.adapters.function_model import FunctionModel
from sklearn_vae.adapters.implied_noise import ImpliedNoise, implied_noise_variance
from sklearn_vae.adapters.loggers import (
    LatentLogger,
    SkorchLatentLogger,
    latent_summary,
    lightning_logger,
)
from sklearn_vae.adapters.pyro_models import from_pyro
from sklearn_vae.adapters.scvi_models import from_scvi
from sklearn_vae.adapters.torch_modules import from_pythae, from_torch

__all__ = [
    "FunctionModel",
    "ImpliedNoise",
    "LatentLogger",
    "SkorchLatentLogger",
    "from_pyro",
    "from_pythae",
    "from_scvi",
    "from_torch",
    "implied_noise_variance",
    "latent_summary",
    "lightning_logger",
]
