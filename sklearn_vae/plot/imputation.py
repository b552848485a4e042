"""Display of imputed values."""

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
    add_legend,
    as_float64,
    as_text,
)
from sklearn_vae.protocol import check_methods
from sklearn_vae.validation import check_integer, is_integer

# Half width of an interval in standard deviations, and its coverage under a normal distribution.
HALF_WIDTH = 2
COVERAGE = math.erf(HALF_WIDTH / math.sqrt(2.0))

# Maximum number of feature names below the axis, and their maximum length.
MAX_NAMES, NAME_LENGTH = 12, 14

# Style of intervals that miss the truth.
MISS = {"fmt": "x", "markersize": 5.0}

# Maximum number of characters in a line of the title.
TITLE_LENGTH = 64


@dataclass(eq=False, repr=False)
class ImputationDisplay(Display):
    """Plot of imputed values with intervals of plus and minus two standard deviations.

    If true values are known, imputed values are plotted against them, with the coverage of the
    intervals. Otherwise they are plotted by feature.

    Parameters
    ----------
    imputed : ndarray of shape (n_missing,)
        Imputed values.
    std : ndarray of shape (n_missing,)
        Standard deviations of the imputed values.
    features : ndarray of int of shape (n_missing,)
        Index of the feature of each value.
    truth : ndarray of shape (n_missing,), default=None
        True values, or NaN if unknown.
    feature_names : sequence of str, default=None
        Names of all features.
    standardized : bool, default=False
        Whether values are in standard deviations of their feature, for the axis labels.
    max_cells : int, default=300
        Maximum number of values that are plotted, chosen at random. The coverage refers to all
        values.
    random_state : int, RandomState instance or None, default=0
        Seed or generator for the choice of values.

    Attributes
    ----------
    drawn_ : ndarray of int
        Indices of the plotted values, in plotting order.
    coverage_ : float
        Share of the intervals that contain the truth, or NaN if it is unknown.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    sklearn_vae.PPCAImputer : Impute missing values by probabilistic PCA.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import ImputationDisplay
    >>> X = load_iris().data
    >>> missing = np.random.default_rng(0).random(X.shape) < 0.1
    >>> X_missing = np.where(missing, np.nan, X)
    >>> display = ImputationDisplay.from_estimator(PPCA(2).fit(X_missing), X_missing, X)
    >>> display.coverage_ > 0.8
    True
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
        """Impute missing values by a fitted model, and plot them.

        Parameters
        ----------
        estimator : PPCA or PPCAImputer
            Fitted model, or any with a method `impute(X, return_std=True)`.
        X : array-like of shape (n_samples, n_features)
            Data with missing values.
        X_true : array-like of shape (n_samples, n_features), default=None
            True values, or NaN if unknown.
        features : int or sequence of int, default=None
            Indices of the features that are plotted, by default all. A single feature is plotted in
            its own units. Several features are standardized by their observed values.
        max_cells : int, default=300
            Maximum number of values that are plotted, chosen at random.
        random_state : int, RandomState instance or None, default=0
            Seed or generator for the choice of values.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the `errorbar`.

        Returns
        -------
        ImputationDisplay
            The plotted display.
        """
        names = getattr(X, "columns", getattr(estimator, "feature_names_in_", None))
        observed, filled, std = _impute(estimator, X, cls.__name__)
        d = observed.shape[1]
        is_chosen = _check_features(features, d)
        truth = None if X_true is None else as_float64(X_true)
        if truth is not None and truth.shape != observed.shape:
            raise ValueError(
                f"X_true must have the shape of X, {observed.shape}, got {truth.shape}."
            )
        cells: Array = np.isnan(observed) & np.isfinite(std)
        cells[:, ~is_chosen] = False
        if not cells.any():
            raise ValueError("X must have missing values in the chosen features, got none.")
        columns = np.flatnonzero(cells.any(axis=0))
        standardized = len(columns) > 1
        center, scale = _center_and_scale(observed, columns if standardized else [])
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
            raise ValueError(
                f"imputed, std, features and truth must have the same length, got shapes {shapes}."
            )
        self._imputed, self._std = as_float64(self.imputed), as_float64(self.std)
        self._truth = None if self.truth is None else as_float64(self.truth)
        is_scale = np.isfinite(self._std) & (self._std >= 0)
        for requirement, values, is_valid in (
            ("imputed must be finite", self._imputed, np.isfinite(self._imputed)),
            ("std must be finite and at least 0", self._std, is_scale),
        ):
            if not is_valid.all():
                raise ValueError(f"{requirement}, got {values[~is_valid][0]}.")
        self._features = _check_indices(self.features, self.feature_names)

    def _draw(self, axes: Array, **options: Any) -> None:
        self.coverage_ = math.nan
        if self._truth is None or not (known := np.flatnonzero(np.isfinite(self._truth))).size:
            self._draw_by_feature(
                axes[0, 0], self._choose(np.arange(len(self._imputed))), **options
            )
        else:
            self._draw_against_truth(axes[0, 0], self._truth, known, **options)

    def _choose(self, cells: Array) -> Array:
        """Choose at most `max_cells` of the cells at random."""
        if len(cells) > self.max_cells:
            rng = check_random_state(self.random_state)
            cells = rng.choice(cells, self.max_cells, replace=False)
        return cells

    def _draw_against_truth(self, ax: Any, truth: Array, known: Array, **options: Any) -> None:
        inside = np.abs(truth - self._imputed) <= HALF_WIDTH * self._std
        self.coverage_ = float(inside[known].mean())
        drawn = self._choose(known)
        self.drawn_ = drawn[np.argsort(truth[drawn], kind="stable")]
        x, y = truth[self.drawn_], self._imputed[self.drawn_]
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        ax.plot(ends, ends, color="0.4", linewidth=0.8, zorder=1)
        share = self.coverage_
        labels = {
            True: f"{share:.1%} of {len(known)} intervals contain the truth",
            False: f"{1 - share:.1%} miss it (expected: {1 - COVERAGE:.1%})",
        }
        # Different markers, for readers who do not see the colors.
        for is_hit, color, marker in ((True, COLORS[0], {}), (False, COLORS[5], MISS)):
            cells = self.drawn_[inside[self.drawn_] == is_hit]
            style = {**marker, "color": color, "label": labels[is_hit], **options}
            self._draw_intervals(ax, truth[cells], cells, style)
        self._limit_values(ax, *ends)
        ax.set(xlabel=f"truth{self._unit()}", ylabel=f"imputed{self._unit()}")
        add_legend(ax)

    def _draw_by_feature(self, ax: Any, cells: Array, **options: Any) -> None:
        self.drawn_ = cells[np.lexsort((self._imputed[cells], self._features[cells]))]
        features, counts = np.unique(self._features[self.drawn_], return_counts=True)
        # The values of a feature are spread around its tick.
        offsets = np.concatenate([(np.arange(n) + 0.5) / n - 0.5 for n in counts])
        x = np.repeat(np.arange(len(features)), counts) + 0.7 * offsets
        self._draw_intervals(ax, x, self.drawn_, {"color": COLORS[0], **options})
        if len(features) <= MAX_NAMES:
            for i in range(len(features) - 1):
                ax.axvline(i + 0.5, color="0.85", linewidth=0.6, zorder=0)
            names = [_shorten(self._name(feature), NAME_LENGTH) for feature in features]
            is_long = sum(map(len, names)) > 40
            style = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
            ax.set_xticks(range(len(features)), names, **style)
        else:
            ticks = np.unique(np.linspace(0, len(features) - 1, 6).astype(int))
            ax.set_xticks(ticks, [str(features[i]) for i in ticks])
            ax.set_xlabel("feature")
        edge = 0.6 if len(features) > 1 else 0.4
        ax.set_xlim(-edge, len(features) - 1 + edge)
        self._limit_values(ax)
        ax.set_ylabel(f"imputed{self._unit()}")
        n, m = len(self._imputed), len(self.drawn_)
        subset = "" if n == m else f" ({m} shown)"
        text = f"{n} missing values{subset}, \N{PLUS-MINUS SIGN}{HALF_WIDTH} standard deviations"
        lines = textwrap.wrap(f"{text}, sorted within each feature", TITLE_LENGTH)
        ax.set_title("\n".join(lines), fontsize="small", loc="left")

    def _draw_intervals(self, ax: Any, x: Array, cells: Array, style: dict[str, Any]) -> None:
        size = 3.0 if len(self.drawn_) <= 100 else 2.0
        style = {"fmt": "o", "markersize": size, "elinewidth": 0.6, **style}
        ax.errorbar(x, self._imputed[cells], HALF_WIDTH * self._std[cells], **style)

    def _limit_values(self, ax: Any, *values: float) -> None:
        """Set limits that contain all values, and all but a few very long intervals."""
        imputed, half_width = self._imputed[self.drawn_], HALF_WIDTH * self._std[self.drawn_]
        lower, upper = imputed - half_width, imputed + half_width
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
        features = np.unique(self._features)
        if len(features) > 1:
            return ""
        return f": {_shorten(self._name(features[0]), 2 * NAME_LENGTH)}"


def _impute(estimator: Any, X: Any, display: str) -> tuple[Array, Array, Array]:
    """Return X with NaN for missing values, imputed values, and standard deviations."""
    check_methods(estimator, display, "impute")
    filled, std = map(as_float64, estimator.impute(X, return_std=True))
    observed = as_float64(X)
    if isinstance(estimator, PPCAImputer) and not np.isnan(estimator.missing_values):
        observed = np.where(observed == estimator.missing_values, np.nan, observed)
    return observed, filled, std


def _check_indices(features: Any, names: Sequence[str] | None) -> Array:
    """Check the features of the values, and convert them to integers."""
    columns = as_float64(features)
    end = np.inf if names is None else len(names)
    is_invalid = ~((columns >= 0) & (columns < end) & (columns == np.floor(columns)))
    if is_invalid.any():
        allowed = ">= 0" if names is None else f"from 0 to {end - 1}, the indices of feature_names"
        raise ValueError(f"features must be integers {allowed}, got {columns[is_invalid][0]:g}.")
    return columns.astype(int)


def _shorten(name: str, length: int) -> str:
    """Shorten a long name in the middle: names often differ in a number at the end."""
    if len(name) <= length:
        return as_text(name)
    end = length // 3
    return as_text(f"{name[: length - end - 1]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}")


def _check_features(features: Any, d: int) -> Array:
    """Check the indices of features, and return their mask."""
    chosen = range(d) if features is None else [features] if is_integer(features) else features
    if not all(is_integer(feature) and 0 <= feature < d for feature in chosen):
        raise ValueError(f"features must be indices from 0 to {d - 1}, got {features!r}.")
    is_chosen = np.zeros(d, dtype=bool)
    is_chosen[list(chosen)] = True
    return is_chosen


def _center_and_scale(X: Array, columns: Any) -> tuple[Array, Array]:
    """Compute means and standard deviations of observed values, 0 and 1 for other columns."""
    center, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
    for j in columns:
        observed = X[~np.isnan(X[:, j]), j]
        if observed.size:
            center[j], scale[j] = observed.mean(), observed.std() or 1.0
    return center, scale
