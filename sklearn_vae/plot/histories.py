"""Histories of training: checks, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.plot.base import Array, check_by_name
from sklearn_vae.protocol import adapted

# Most values of a line that have a marker each: a single one would not be seen without.
MARKED = 20

# The start of a training is cut off where it would press what follows into less than a third.
START, PRESSED = 0.05, 3.0

# Values whose range is no more than this share of them are the same but for rounding.
STILL = 1e-6


def history_of(estimator: Any, display: str) -> dict[str, Array]:
    """Arrays over a fit by name, "epoch" or "iteration" among them; TypeError without a history."""
    check_is_fitted(estimator)
    history: dict[str, Array] | None = adapted(estimator).training_history
    if history is None:
        raise TypeError(
            f"{display} needs a model that keeps a history of its training, and "
            f"{type(estimator).__name__} has no history_ and no elbo_history_."
        )
    return history


def check_histories(histories: Any) -> None:
    """Raise TypeError or ValueError unless these are histories by name, each of one length."""
    check_by_name("histories", histories, Mapping)
    for name, history in histories.items():
        lengths = {key: len(values) for key, values in history.items()}
        if not any(lengths.values()):
            raise ValueError(f"histories must have values, and that of {name!r} has no values.")
        if len(set(lengths.values())) > 1:
            said = " and ".join(f"{key} of {n}" for key, n in lengths.items())
            raise ValueError(f"histories must be of one length, and that of {name!r} has {said}.")


def steps_of(history: Mapping[str, Any]) -> Array:
    """Epochs or iterations of the values of a history."""
    for kind in ("epoch", "iteration"):
        if kind in history:
            return np.asarray(history[kind])
    return np.arange(1, 1 + max(map(len, history.values())))


def step_label(histories: Mapping[str, Mapping[str, Any]]) -> str:
    """Label of the horizontal axis."""
    kinds = ["iteration" if "iteration" in h else "epoch" for h in histories.values()]
    return " or ".join(sorted(set(kinds)))


def line_style(n: int) -> dict[str, Any]:
    """Style of a line of n values."""
    return {"linewidth": 1.4, **({"marker": "o", "markersize": 2.5} if n <= MARKED else {})}


def count_steps(ax: Any) -> None:
    """Put ticks at whole numbers, even for a single step."""
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def limit_values(ax: Any) -> None:
    """Limit the vertical axis to what follows the start, where the start would hide it.

    A line that does not change gets room about it, or rounding would look like change.
    """
    every = [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()]
    later = [y[int(np.ceil(START * len(y))) :] if len(y) > MARKED else y for y in every]
    low, high = _range(later)
    first, last = _range(every)
    if last - first <= STILL * abs(last):
        room = 0.05 * abs(last) or 1.0
        ax.set_ylim(last - room, last + room)
    elif last - first > PRESSED * (high - low) > 0:
        margin = 0.08 * (high - low)
        ax.set_ylim(low - margin, high + margin)


def _range(series: list[Array]) -> tuple[float, float]:
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    return (values.min(), values.max()) if len(values) else (np.nan, np.nan)
