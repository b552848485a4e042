"""Statistics that an outlier detector compares between samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.mahalanobis import Distances
from sklearn_vae.outliers.decomposition import distances
from sklearn_vae.protocol import METHODS

Array = NDArray[Any]

STATISTICS = ("distance", "likelihood", "t2", "spe")


def parts_if_possible(model: Any, X: Array, statistic: str) -> Distances | None:
    """Return T2 and SPE, or None if the model has none and the statistic does not need them."""
    last = model
    while isinstance(last, Pipeline):
        last = last.steps[-1][1]
    if statistic == "likelihood" and not all(hasattr(last, name) for name in METHODS):
        return None
    return distances(model, X)


def score_by(model: Any, X: Array, statistic: str, parts: Distances | None = None) -> Array:
    """Compute the statistic of each sample, where higher is more usual."""
    if statistic == "likelihood":
        scores = to_host(model.score_samples(X)).astype(np.float64)
    else:
        parts = distances(model, X) if parts is None else parts
        t2, spe = per_degree(parts)
        total = _ratio(parts.t2 + parts.spe, parts.t2_dof + parts.spe_dof)
        scores = -{"distance": total, "t2": t2, "spe": spe}[statistic]
    if np.isnan(scores).any():
        raise ValueError(f"The scores of {type(model).__name__} must be numbers, got NaN.")
    return scores


def per_degree(parts: Distances) -> tuple[Array, Array]:
    """Return T2 and SPE divided by their degrees of freedom."""
    return _ratio(parts.t2, parts.t2_dof), _ratio(parts.spe, parts.spe_dof)


def _ratio(value: Array, dof: Array) -> Array:
    """Divide by the degrees of freedom; 0 without any."""
    return np.where(dof > 0, value / np.maximum(dof, 1.0), 0.0)
