"""Helpers for plots of training histories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_vae.plot.base import Array, check_by_name
from sklearn_vae.protocol import adapted, check_methods

# Maximum number of values with a marker each. A single value is visible only with a marker.
MAX_MARKED = 20

# The first share START of the values is cut off if the others would fill less than 1 / MAX_RATIO of
# the axis.
START, MAX_RATIO = 0.05, 3.0

# Relative range up to which values are considered equal.
ROUNDING = 1e-6


def history_of(estimator: Any, display: str) -> dict[str, Array]:
    """Return the training history of a fitted model."""
    check_methods(estimator, display)
    history: dict[str, Array] | None = adapted(estimator).training_history
    if history is None:
        raise TypeError(
            f"{display} needs a model with a training history, but "
            f"{adapted(estimator).model_name} has no history_ or elbo_history_."
        )
    return history


def check_histories(histories: Any) -> None:
    """Check that these are histories by name, each with values of one length."""
    check_by_name("histories", histories, Mapping)
    for name, history in histories.items():
        lengths = {key: len(values) for key, values in history.items()}
        if not any(lengths.values()):
            raise ValueError(
                f"histories must have values, but the history of {name!r} has no values."
            )
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} of length {n}" for key, n in lengths.items())
            raise ValueError(
                f"histories must have values of the same length, but the history of {name!r} has "
                f"{listed}."
            )


def steps_of(history: Mapping[str, Any]) -> Array:
    """Return the epochs or iterations of a history."""
    for kind in ("epoch", "iteration"):
        if kind in history:
            return np.asarray(history[kind])
    return np.arange(1, 1 + max(map(len, history.values())))


def step_label(histories: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the label of the horizontal axis."""
    kinds = ["iteration" if "iteration" in h else "epoch" for h in histories.values()]
    return " or ".join(sorted(set(kinds)))


def line_style(n: int) -> dict[str, Any]:
    """Return the style of a line of n values."""
    return {"linewidth": 1.4, **({"marker": "o", "markersize": 2.5} if n <= MAX_MARKED else {})}


def count_steps(ax: Any) -> None:
    """Set ticks at integers, even for a single step."""
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def limit_values(ax: Any) -> None:
    """Cut off a start that would hide later changes, and hide rounding of constant values."""
    series = [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()]
    later = [y[int(np.ceil(START * len(y))) :] if len(y) > MAX_MARKED else y for y in series]
    lowest, highest = _range(series)
    low, high = _range(later)
    if highest - lowest <= ROUNDING * abs(highest):
        margin = 0.05 * abs(highest) or 1.0
        ax.set_ylim(highest - margin, highest + margin)
    elif highest - lowest > MAX_RATIO * (high - low) > 0:
        margin = 0.08 * (high - low)
        ax.set_ylim(low - margin, high + margin)


def _range(series: list[Array]) -> tuple[float, float]:
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    return (values.min(), values.max()) if len(values) else (np.nan, np.nan)
