"""Estimators with linear decoders."""

from sklearn_vae.linear.imputer import PPCAImputer
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.linear.ppca_cv import PPCACV

__all__ = ["PPCA", "PPCACV", "PPCAImputer"]
