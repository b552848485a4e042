"""Fits of a model to parts of the samples, and which samples they leave for calibration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, ShuffleSplit, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from sklearn_vae.containers import with_names
from sklearn_vae.validation import check_random_state, is_integer, is_real

Array = NDArray[Any]

# Training and held-out indices; training is None for a model that is fitted already.
Split: TypeAlias = tuple[Array | None, Array]


def check_held_out(cv: Any) -> None:
    """Raise ValueError unless `cv` may describe how samples are held out."""
    if isinstance(cv, str):
        valid = cv == "prefit"
    elif is_integer(cv):
        valid = cv >= 2
    elif is_real(cv):
        valid = 0.0 < cv < 1.0
    else:
        valid = hasattr(cv, "split") or isinstance(cv, Iterable)
    if not valid:
        raise ValueError(
            "cv must be an integer >= 2, a float in (0, 1), 'prefit', a splitter or an iterable of "
            f"indices, got {cv!r}."
        )


def split_samples(cv: Any, X: Array, random_state: Any) -> list[Split]:
    """Return the splits that `cv` describes."""
    every, rng = np.arange(len(X)), check_random_state(random_state)
    if isinstance(cv, str):
        return [(None, every)]
    try:
        if is_integer(cv):
            splitter: Any = KFold(cv, shuffle=True, random_state=rng)
        elif is_real(cv):
            splitter = ShuffleSplit(1, test_size=float(cv), random_state=rng)
        else:
            splitter = check_cv(cv)
        splits = [(every[train], every[test]) for train, test in splitter.split(X)]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"cv must split the samples, got {cv!r}: {error}") from error
    held_out = np.concatenate([every[:0], *(test for _, test in splits)])
    if not splits or any(not len(test) for _, test in splits):
        raise ValueError(f"cv must hold out samples in every split, got {cv!r}.")
    if len(np.unique(held_out)) < len(held_out):
        raise ValueError(f"cv must hold out each sample at most once, got {cv!r}.")
    if any(np.intersect1d(train, test).size for train, test in splits):
        raise ValueError(f"cv must not hold out training samples, got {cv!r}.")
    return list(splits)


def fit_model(
    model: Any, X: Array, weights: Array | None, names: Any, rows: Any = slice(None)
) -> Any:
    """Fit a model to some of the samples, with weights if it supports them."""
    samples = with_names(X[rows], names)
    if weights is None:
        return model.fit(samples)
    steps = model.steps if isinstance(model, Pipeline) else [("", model)]
    accept = [n for n, s in steps if hasattr(s, "fit") and has_fit_parameter(s, "sample_weight")]
    options = {f"{n}__sample_weight" if n else "sample_weight": weights[rows] for n in accept}
    return model.fit(samples, **options)
