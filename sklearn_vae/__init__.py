"""Latent Gaussian models with scikit-learn's manners.

Public names are loaded on first use, so that a model that needs no torch does not import it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn_vae.deep.autoencoder import DeepAutoencoder
    from sklearn_vae.deep.bernoulli_vae import DeepBernoulliVAE
    from sklearn_vae.deep.gaussian_vae import DeepGaussianVAE
    from sklearn_vae.gaussian.lowrank import LowRankGaussian
    from sklearn_vae.gaussian.moments import Moments
    from sklearn_vae.linear.bernoulli import BernoulliPPCA
    from sklearn_vae.linear.imputer import PPCAImputer
    from sklearn_vae.linear.linear_vae import LinearVAE
    from sklearn_vae.linear.ppca import PPCA
    from sklearn_vae.linear.ppca_cv import PPCACV
    from sklearn_vae.nn.convolutional import (
        ConvDecoder,
        ConvEncoder,
        PlainConvDecoder,
        PlainConvEncoder,
        ResidualDecoder,
        ResidualEncoder,
    )
    from sklearn_vae.nn.networks import SoftThresholdDecoder
    from sklearn_vae.preprocessing.density import DensityPipeline
    from sklearn_vae.preprocessing.dequantizer import Dequantizer
    from sklearn_vae.preprocessing.logit import LogitTransformer
    from sklearn_vae.training.callbacks import Snapshot
    from sklearn_vae.training.distributed import Processes

__version__ = "0.1.0"

_MODULE_OF = {
    "BernoulliPPCA": "sklearn_vae.linear.bernoulli",
    "ConvDecoder": "sklearn_vae.nn.convolutional",
    "ConvEncoder": "sklearn_vae.nn.convolutional",
    "DeepAutoencoder": "sklearn_vae.deep.autoencoder",
    "DeepBernoulliVAE": "sklearn_vae.deep.bernoulli_vae",
    "DeepGaussianVAE": "sklearn_vae.deep.gaussian_vae",
    "DensityPipeline": "sklearn_vae.preprocessing.density",
    "Dequantizer": "sklearn_vae.preprocessing.dequantizer",
    "LinearVAE": "sklearn_vae.linear.linear_vae",
    "LogitTransformer": "sklearn_vae.preprocessing.logit",
    "LowRankGaussian": "sklearn_vae.gaussian.lowrank",
    "Moments": "sklearn_vae.gaussian.moments",
    "PPCA": "sklearn_vae.linear.ppca",
    "PPCACV": "sklearn_vae.linear.ppca_cv",
    "PPCAImputer": "sklearn_vae.linear.imputer",
    "PlainConvDecoder": "sklearn_vae.nn.convolutional",
    "PlainConvEncoder": "sklearn_vae.nn.convolutional",
    "Processes": "sklearn_vae.training.distributed",
    "ResidualDecoder": "sklearn_vae.nn.convolutional",
    "ResidualEncoder": "sklearn_vae.nn.convolutional",
    "Snapshot": "sklearn_vae.training.callbacks",
    "SoftThresholdDecoder": "sklearn_vae.nn.networks",
}

__all__ = [
    "PPCA",
    "PPCACV",
    "BernoulliPPCA",
    "ConvDecoder",
    "ConvEncoder",
    "DeepAutoencoder",
    "DeepBernoulliVAE",
    "DeepGaussianVAE",
    "DensityPipeline",
    "Dequantizer",
    "LinearVAE",
    "LogitTransformer",
    "LowRankGaussian",
    "Moments",
    "PPCAImputer",
    "PlainConvDecoder",
    "PlainConvEncoder",
    "Processes",
    "ResidualDecoder",
    "ResidualEncoder",
    "Snapshot",
    "SoftThresholdDecoder",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
