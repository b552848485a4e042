"""Transformers that know their log-determinant, and densities in the space of the data."""

from sklearn_vae.preprocessing.density import DensityPipeline
from sklearn_vae.preprocessing.dequantizer import Dequantizer
from sklearn_vae.preprocessing.logit import LogitTransformer

__all__ = ["DensityPipeline", "Dequantizer", "LogitTransformer"]
