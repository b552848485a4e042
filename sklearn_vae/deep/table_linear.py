"""Bound of factor analysis of the columns of a table, with which a fit is compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_vae.deep.linear_bounds import judged_average
from sklearn_vae.deep.linear_fits import Array, on_host
from sklearn_vae.deep.outcome import LinearFit
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.gaussian.mixed_fit import fit_columns

# Largest number of samples of a fit.
MAX_SAMPLES = 2000


def mixed_fit(data: TrainingData, columns: Any, k: int, in_data_units: Any) -> LinearFit:
    """Fit :class:`MixedFactorAnalysis` to at most `MAX_SAMPLES` training samples, and compute its bound.

    `columns` are those of the codec. `in_data_units` converts samples of the networks to codes.
    """
    rng = np.random.RandomState(0)
    train: Any = data.train
    chosen = rng.permutation(len(train))[:MAX_SAMPLES]
    codes = in_data_units(train).cpu().double().numpy()[chosen]
    weights = np.ones(len(codes)) if data.weights is None else on_host(data.weights)[chosen]
    # Columns without an observed value have no parameters.
    seen = ~np.isnan(codes).all(axis=0)
    kept = [column for column, is_seen in zip(columns, seen, strict=True) if is_seen]
    types = [column.type for column in kept]
    sizes = [len(column.categories or ()) for column in kept]
    model = fit_columns(codes[:, seen], types, sizes, min(k, len(kept)), weights, rng)

    def bound(x: Array) -> Array:
        values: Array = in_data_units(train.new_tensor(x)).cpu().double().numpy()
        return model.encode(values[:, seen])[1]

    name = "MixedFactorAnalysis with the same number of dimensions"
    return LinearFit(name, judged_average(bound, data))
