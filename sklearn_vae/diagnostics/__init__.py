"""Diagnostics of the latent space of a fitted model.

Each function takes a fitted estimator and data, and returns an array or a frozen dataclass.
"""

from sklearn_vae.diagnostics.adequacy import (
    SamplingAdequacy,
    SphericityTest,
    bartlett_sphericity,
    kmo,
)
from sklearn_vae.diagnostics.advice import Remedy
from sklearn_vae.diagnostics.dimension_choice import DimensionChoice, choose_dimensions
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
from sklearn_vae.diagnostics.pooling import Pooled, pool
from sklearn_vae.diagnostics.pruning import prune
from sklearn_vae.diagnostics.report import CollapseReport, Finding, Verdict
from sklearn_vae.diagnostics.taxonomy import diagnose

__all__ = [
    "ActiveUnits",
    "Collapse",
    "CollapseCurve",
    "CollapseReport",
    "DimensionChoice",
    "Entropies",
    "Finding",
    "KLDecomposition",
    "Pooled",
    "Remedy",
    "SamplingAdequacy",
    "SphericityTest",
    "TunedNoise",
    "Verdict",
    "active_units",
    "bartlett_sphericity",
    "choose_dimensions",
    "collapse",
    "collapse_curve",
    "decompose_kl",
    "diagnose",
    "entropy_bound",
    "kl_per_dimension",
    "kmo",
    "pool",
    "prune",
    "second_moments",
    "tune_noise_variance",
]
