"""Latent Gaussian models with the scikit-learn interface.

Public names are loaded on first use, so models that do not need torch do not import it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sklearn_vae.public import MODULES

if TYPE_CHECKING:
    from sklearn_vae.deep.autoencoder import DeepAutoencoder as DeepAutoencoder
    from sklearn_vae.deep.bernoulli_vae import DeepBernoulliVAE as DeepBernoulliVAE
    from sklearn_vae.deep.gaussian_vae import DeepGaussianVAE as DeepGaussianVAE
    from sklearn_vae.deep.tabular_vae import TabularVAE as TabularVAE
    from sklearn_vae.gaussian.certificate import Certificate as Certificate
    from sklearn_vae.gaussian.lowrank import LowRankGaussian as LowRankGaussian
    from sklearn_vae.gaussian.moments import Moments as Moments
    from sklearn_vae.gaussian.stationarity import Stationarity as Stationarity
    from sklearn_vae.linear.bernoulli import BernoulliPPCA as BernoulliPPCA
    from sklearn_vae.linear.factor_analysis import FactorAnalysis as FactorAnalysis
    from sklearn_vae.linear.factor_analysis_cv import FactorAnalysisCV as FactorAnalysisCV
    from sklearn_vae.linear.gaussian_imputer import GaussianImputer as GaussianImputer
    from sklearn_vae.linear.imputer import FactorAnalysisImputer as FactorAnalysisImputer
    from sklearn_vae.linear.imputer import PPCAImputer as PPCAImputer
    from sklearn_vae.linear.linear_vae import LinearVAE as LinearVAE
    from sklearn_vae.linear.mixed_factor_analysis import MixedFactorAnalysis as MixedFactorAnalysis
    from sklearn_vae.linear.ppca import PPCA as PPCA
    from sklearn_vae.linear.ppca_cv import PPCACV as PPCACV
    from sklearn_vae.nn.convolutional import ConvDecoder as ConvDecoder
    from sklearn_vae.nn.convolutional import ConvEncoder as ConvEncoder
    from sklearn_vae.nn.convolutional import PlainConvDecoder as PlainConvDecoder
    from sklearn_vae.nn.convolutional import PlainConvEncoder as PlainConvEncoder
    from sklearn_vae.nn.convolutional import ResidualDecoder as ResidualDecoder
    from sklearn_vae.nn.convolutional import ResidualEncoder as ResidualEncoder
    from sklearn_vae.nn.networks import SoftThresholdDecoder as SoftThresholdDecoder
    from sklearn_vae.outliers.detector import OutlierDetector as OutlierDetector
    from sklearn_vae.preprocessing.density import DensityPipeline as DensityPipeline
    from sklearn_vae.preprocessing.dequantizer import Dequantizer as Dequantizer
    from sklearn_vae.preprocessing.logit import LogitTransformer as LogitTransformer
    from sklearn_vae.training.callbacks import Snapshot as Snapshot
    from sklearn_vae.training.distributed import Processes as Processes

__version__ = "0.2.0"

__all__ = [*MODULES, "__version__"]  # noqa: PLE0604 - MODULES holds strings


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
