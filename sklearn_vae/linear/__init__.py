"""Estimators with linear decoders."""

from sklearn_vae.linear.ppca import PPCA

__all__ = ["PPCA"]
