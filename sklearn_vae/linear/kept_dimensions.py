"""Copies of linear models with some of their latent dimensions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from sklearn_vae.gaussian.spectrum import with_positive_peaks
from sklearn_vae.validation import is_integer


def with_kept_attributes(model: Any, kept: Any) -> Any:
    """Return a copy of a fitted model in which arrays over latent dimensions have only some.

    `_fitted_state` names the axes of the arrays. The components are an orthonormal basis of the
    loadings, unless they are the transposed loadings.
    """
    pruned = copy.copy(model)
    axes = {"kl_per_dim_": "k", **{name: text.split()[0] for name, text in _axes_of(model)}}
    for name, kinds in axes.items():
        value = vars(model).get(name)
        if value is None or "|" in kinds or not set(kinds) <= set("kd"):
            continue
        for axis, kind in enumerate(kinds):
            if kind == "k":
                value = np.take(value, kept, axis=axis)
        setattr(pruned, name, value)
    loadings = np.asarray(pruned.loadings_)
    if np.array_equal(model.components_, np.asarray(model.loadings_).T):
        pruned.components_ = np.ascontiguousarray(loadings.T)
    else:
        basis = np.linalg.svd(loadings, full_matrices=False)[0].T
        pruned.components_ = with_positive_peaks(basis).astype(loadings.dtype)
    pruned.n_components_ = len(kept)
    given = getattr(model, "n_components", None)
    if given is None or is_integer(given):  # others choose from a list
        pruned.n_components = len(kept)
    pruned.collapsed_dims_ = np.flatnonzero(np.isin(kept, model.collapsed_dims_))
    return pruned


def _axes_of(model: Any) -> Any:
    """Return names and kinds of the fitted attributes of a model."""
    state: dict[str, str] = type(model)._fitted_state
    return state.items()
