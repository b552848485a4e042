"""Imputed cells and their intervals."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from sklearn_vae.linear.imputer import PPCAImputer
from sklearn_vae.plot.base import (
    COLORS,
    Array,
    Display,
    as_text,
    check_methods,
    legend_off_the_data,
    on_host,
)
from sklearn_vae.validation import check_integer, is_integer

# Standard deviations on each side of an imputed value, and the share of a normal within them.
SIDES = 2
WITHIN = math.erf(SIDES / math.sqrt(2.0))

# Most names of features below the axis, and the most letters of each.
FEW, LETTERS = 12, 14

# Style of intervals that miss the truth.
MISS = {"fmt": "x", "markersize": 5.0}

# Letters in a line of text across the axes.
LINE = 64


@dataclass(eq=False, repr=False)
class ImputationDisplay(Display):
    """Imputed values with intervals of two standard deviations.

    If the truth is known they are drawn against it, with the share of the intervals that hold it;
    else by feature, sorted within each.

    Parameters
    ----------
    imputed, std : ndarray of shape (n_cells,)
        Imputed values of the missing cells, and their standard deviations.
    features : ndarray of int of shape (n_cells,)
        Column of each cell.
    truth : ndarray of shape (n_cells,), default=None
        True values, NaN where they are not known.
    feature_names : sequence of str, default=None
        Names of all columns.
    standardized : bool, default=False
        Whether values are in standard deviations of their feature, as the axes then say.
    max_cells : int, default=300
        Most cells that are drawn, at random. The share of intervals is that of all cells.
    random_state : int, RandomState instance or None, default=0
        Seed of that choice.

    Attributes
    ----------
    drawn_ : ndarray of int
        Indices of the cells that are drawn, in the order of the picture.
    coverage_ : float
        Share of the intervals that hold the truth, among cells where it is known; else NaN.
    """

    imputed: Array
    std: Array
    features: Array
    _: KW_ONLY
    truth: Array | None = None
    feature_names: Sequence[str] | None = None
    standardized: bool = False
    max_cells: int = 300
    random_state: Any = 0

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        X_true: Any = None,
        *,
        features: Sequence[int] | int | None = None,
        max_cells: int = 300,
        random_state: Any = 0,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Impute missing values by a fitted PPCA or PPCAImputer, and draw them.

        Parameters
        ----------
        estimator : PPCAImputer, or any with `impute(X, return_std=True)`
        X : array-like of shape (n_samples, n_features)
            With missing values.
        X_true : array-like of shape (n_samples, n_features), default=None
            The values of all cells, as far as they are known.
        features : int or sequence of int, default=None
            Columns whose cells are drawn; None: all. A single column is drawn in its own units,
            several in standard deviations from the means of their observed values.
        max_cells, random_state
            As in the class.
        ax : matplotlib Axes, default=None
        **options
            Options of matplotlib's `errorbar`.
        """
        names = getattr(X, "columns", getattr(estimator, "feature_names_in_", None))
        rows, filled, std = _impute(estimator, X, cls.__name__)
        d = rows.shape[1]
        wanted = _check_features(features, d)
        truth = None if X_true is None else on_host(X_true)
        if truth is not None and truth.shape != rows.shape:
            raise ValueError(f"X_true must have the shape {rows.shape} of X, got {truth.shape}.")
        cells: Array = np.isnan(rows) & np.isfinite(std)
        cells[:, ~wanted] = False
        if not cells.any():
            raise ValueError("X must have missing values in the features that are drawn, got none.")
        columns = np.flatnonzero(cells.any(axis=0))
        standardized = len(columns) > 1
        center, scale = _center_and_scale(rows, columns if standardized else [])
        return cls.from_results(
            ((filled - center) / scale)[cells],
            (std / scale)[cells],
            np.nonzero(cells)[1],
            truth=None if truth is None else ((truth - center) / scale)[cells],
            feature_names=None if names is None else [str(name) for name in names],
            standardized=standardized,
            max_cells=max_cells,
            random_state=random_state,
            ax=ax,
            **options,
        )

    def _prepare(self) -> None:
        check_integer("max_cells", self.max_cells, at_least=1)
        shapes = [np.shape(values) for values in (self.imputed, self.std, self.features)]
        if self.truth is not None:
            shapes.append(np.shape(self.truth))
        if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0][0] == 0:
            raise ValueError(f"imputed, std, features and truth must be as long, got {shapes}.")
        self._imputed, self._std = on_host(self.imputed), on_host(self.std)
        self._truth = None if self.truth is None else on_host(self.truth)
        is_scale = np.isfinite(self._std) & (self._std >= 0)
        for name, values, ok in (
            ("imputed must be finite", self._imputed, np.isfinite(self._imputed)),
            ("std must be finite and at least 0", self._std, is_scale),
        ):
            if not ok.all():
                raise ValueError(f"{name}, got {values[~ok][0]}.")
        self._features = _check_indices(self.features, self.feature_names)

    def _draw(self, axes: Array, **options: Any) -> None:
        self.coverage_ = math.nan
        if self._truth is None or not (known := np.flatnonzero(np.isfinite(self._truth))).size:
            self._draw_by_feature(axes[0, 0], self._some(np.arange(len(self._imputed))), **options)
        else:
            self._draw_against_truth(axes[0, 0], self._truth, known, **options)

    def _some(self, cells: Array) -> Array:
        if len(cells) > self.max_cells:
            rng = check_random_state(self.random_state)
            cells = rng.choice(cells, self.max_cells, replace=False)
        return cells

    def _draw_against_truth(self, ax: Any, truth: Array, known: Array, **options: Any) -> None:
        inside = np.abs(truth - self._imputed) <= SIDES * self._std
        self.coverage_ = float(inside[known].mean())
        drawn = self._some(known)
        self.drawn_ = drawn[np.argsort(truth[drawn], kind="stable")]
        x, y = truth[self.drawn_], self._imputed[self.drawn_]
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        ax.plot(ends, ends, color="0.4", linewidth=0.8, zorder=1)
        share = self.coverage_
        labels = {
            True: f"{share:.1%} of {len(known)} intervals hold the truth",
            False: f"{1 - share:.1%} miss it ({1 - WITHIN:.1%} if the model were true)",
        }
        # Apart without colour too.
        for held, color, mark in ((True, COLORS[0], {}), (False, COLORS[5], MISS)):
            some = self.drawn_[inside[self.drawn_] == held]
            style = {**mark, "color": color, "label": labels[held], **options}
            self._bars(ax, truth[some], some, style)
        self._show_most(ax, *ends)
        ax.set(xlabel=f"truth{self._unit()}", ylabel=f"imputed{self._unit()}")
        legend_off_the_data(ax)

    def _draw_by_feature(self, ax: Any, cells: Array, **options: Any) -> None:
        self.drawn_ = cells[np.lexsort((self._imputed[cells], self._features[cells]))]
        features, counts = np.unique(self._features[self.drawn_], return_counts=True)
        # Cells of a feature stand side by side around its place.
        within = np.concatenate([(np.arange(n) + 0.5) / n - 0.5 for n in counts])
        places = np.repeat(np.arange(len(features)), counts) + 0.7 * within
        self._bars(ax, places, self.drawn_, {"color": COLORS[0], **options})
        if len(features) <= FEW:
            for i in range(len(features) - 1):
                ax.axvline(i + 0.5, color="0.85", linewidth=0.6, zorder=0)
            names = [_short(self._name(feature), LETTERS) for feature in features]
            long = sum(map(len, names)) > 40
            turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
            ax.set_xticks(range(len(features)), names, **turned)
        else:
            ticks = np.unique(np.linspace(0, len(features) - 1, 6).astype(int))
            ax.set_xticks(ticks, [str(features[i]) for i in ticks])
            ax.set_xlabel("feature")
        edge = 0.6 if len(features) > 1 else 0.4
        ax.set_xlim(-edge, len(features) - 1 + edge)
        self._show_most(ax)
        ax.set_ylabel(f"imputed{self._unit()}")
        n, m = len(self._imputed), len(self.drawn_)
        some = "" if n == m else f", {m} of them drawn"
        text = f"{n} missing values{some}: \N{PLUS-MINUS SIGN}{SIDES} standard deviations"
        lines = textwrap.wrap(f"{text}, sorted within each feature", LINE)
        ax.set_title("\n".join(lines), fontsize="small", loc="left")

    def _bars(self, ax: Any, x: Array, cells: Array, style: dict[str, Any]) -> None:
        size = 3.0 if len(self.drawn_) <= 100 else 2.0
        style = {"fmt": "o", "markersize": size, "elinewidth": 0.6, **style}
        ax.errorbar(x, self._imputed[cells], SIDES * self._std[cells], **style)

    def _show_most(self, ax: Any, *values: float) -> None:
        """Limits that hold all values and most bars: a few very long ones may leave the picture."""
        imputed, reach = self._imputed[self.drawn_], SIDES * self._std[self.drawn_]
        lower, upper = imputed - reach, imputed + reach
        low, high = min([lower.min(), *values]), max([upper.max(), *values])
        start = min(np.quantile(lower, 0.1), imputed.min(), *values)
        end = max(np.quantile(upper, 0.9), imputed.max(), *values)
        if high - low > 2.0 * (end - start):
            low, high = start, end
        margin = 0.06 * (high - low) or 1.0
        ax.set_ylim(low - margin, high + margin)

    def _name(self, feature: int) -> str:
        return f"x{feature}" if self.feature_names is None else str(self.feature_names[feature])

    def _unit(self) -> str:
        if self.standardized:
            return " (standard deviations)"
        only = np.unique(self._features)
        return f": {_short(self._name(only[0]), 2 * LETTERS)}" if len(only) == 1 else ""


def _impute(estimator: Any, X: Any, display: str) -> tuple[Array, Array, Array]:
    """X with NaN where a value is missing, X filled, and standard deviations."""
    check_methods(estimator, display, "impute")
    filled, std = map(on_host, estimator.impute(X, return_std=True))
    rows = on_host(X)
    if isinstance(estimator, PPCAImputer) and not np.isnan(estimator.missing_values):
        rows = np.where(rows == estimator.missing_values, np.nan, rows)
    return rows, filled, std


def _check_indices(features: Any, names: Sequence[str] | None) -> Array:
    """Columns of cells as integers; ValueError unless each has a name, where there are names."""
    columns = on_host(features)
    end = np.inf if names is None else len(names)
    wrong = ~((columns >= 0) & (columns < end) & (columns == np.floor(columns)))
    if wrong.any():
        last = "integers >= 0" if names is None else f"integers from 0 to {end - 1}, one a name"
        raise ValueError(f"features must be {last}, got {columns[wrong][0]:g}.")
    return columns.astype(int)


def _short(name: str, letters: int) -> str:
    """The start and the end of a long name: names often differ in a number at the end."""
    if len(name) <= letters:
        return as_text(name)
    end = letters // 3
    return as_text(f"{name[: letters - end - 1]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}")


def _check_features(features: Any, d: int) -> Array:
    """Mask of the columns that are drawn."""
    chosen = range(d) if features is None else [features] if is_integer(features) else features
    if not all(is_integer(feature) and 0 <= feature < d for feature in chosen):
        raise ValueError(f"features must be indices from 0 to {d - 1}, got {features!r}.")
    wanted = np.zeros(d, dtype=bool)
    wanted[list(chosen)] = True
    return wanted


def _center_and_scale(rows: Array, columns: Any) -> tuple[Array, Array]:
    """Mean and standard deviation of observed values; 0 and 1 where none is and elsewhere."""
    center, scale = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    for j in columns:
        seen = rows[~np.isnan(rows[:, j]), j]
        if seen.size:
            center[j], scale[j] = seen.mean(), seen.std() or 1.0
    return center, scale
