"""What a fitted model did with its latent space, why, and what to do about it.

Functions of an estimator and rows of data; what they return is plain and frozen.
"""

from sklearn_vae.diagnostics.dimensions import (
    ActiveUnits,
    Collapse,
    CollapseCurve,
    active_units,
    collapse,
    collapse_curve,
    kl_per_dimension,
    second_moments,
)
from sklearn_vae.diagnostics.entropies import Entropies, entropy_bound
from sklearn_vae.diagnostics.information import KLDecomposition, decompose_kl
from sklearn_vae.diagnostics.noise import TunedNoise, tune_noise_variance
from sklearn_vae.diagnostics.report import CollapseReport, Finding
from sklearn_vae.diagnostics.taxonomy import diagnose

__all__ = [
    "ActiveUnits",
    "Collapse",
    "CollapseCurve",
    "CollapseReport",
    "Entropies",
    "Finding",
    "KLDecomposition",
    "TunedNoise",
    "active_units",
    "collapse",
    "collapse_curve",
    "decompose_kl",
    "diagnose",
    "entropy_bound",
    "kl_per_dimension",
    "second_moments",
    "tune_noise_variance",
]
