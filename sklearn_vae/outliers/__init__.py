"""Outlier detection with valid p-values, and explanations of outliers."""

from sklearn_vae.outliers.decomposition import Contributions, contributions, distances
from sklearn_vae.outliers.detector import OutlierDetector

__all__ = ["Contributions", "OutlierDetector", "contributions", "distances"]
