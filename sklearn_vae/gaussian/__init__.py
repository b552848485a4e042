"""Gaussian models and bounds on arrays of any array-API library, without estimators."""

from sklearn_vae.gaussian.certificate import Certificate
from sklearn_vae.gaussian.landscape import StationaryPoint
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.sample_spectrum import sample_spectrum
from sklearn_vae.gaussian.soft_threshold import SoftThresholdElbo, SoftThresholdParameters
from sklearn_vae.gaussian.spectrum import Spectrum

__all__ = [
    "Certificate",
    "LowRankGaussian",
    "Moments",
    "SoftThresholdElbo",
    "SoftThresholdParameters",
    "Spectrum",
    "StationaryPoint",
    "sample_spectrum",
]
