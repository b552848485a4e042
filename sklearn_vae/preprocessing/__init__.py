"""Transformers with a log-determinant, and pipelines with a density of their input."""

from sklearn_vae.preprocessing.density import DensityPipeline
from sklearn_vae.preprocessing.dequantizer import Dequantizer
from sklearn_vae.preprocessing.logit import LogitTransformer

__all__ = ["DensityPipeline", "Dequantizer", "LogitTransformer"]
