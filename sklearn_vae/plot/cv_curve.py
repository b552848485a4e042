"""Display of cross-validation scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import clone

from sklearn_vae.plot.base import COLORS, SEQUENTIAL, Array, Display, add_legend
from sklearn_vae.validation import check_choice, is_integer, is_real

NAMES = {"n_components": "k", "noise_variance": r"$\sigma^2$"}

# Maximum number of curves in a legend.
MAX_LABELS = 8

# Maximum number of values of a curve with a marker each.
MAX_MARKERS = 40

# Minimum number of scores for which very low ones are cut off.
MIN_TO_CUT = 8

# Default unit of the scores.
NATS = "nats per sample"


@dataclass(eq=False, repr=False)
class CVCurveDisplay(Display):
    """Plot of held-out scores against the number of components or the noise variance.

    There is one curve per value of the other parameter. Bands show one standard error of the mean
    over the splits. If further parameters were varied, the best candidate is plotted. With eight
    scores or more, very low ones are cut off, and their curves are labeled "(below)". For a halving
    search, the last round is plotted, because scores with fewer resources are not comparable.

    Parameters
    ----------
    cv_results : dict of arrays
        `cv_results_` of PPCACV or GridSearchCV. They must contain `param_n_components` or
        `param_noise_variance`, possibly prefixed by the steps of a pipeline.
    best_index : int, default=None
        Index of the candidate that is marked.
    x : {"n_components", "noise_variance"}, default=None
        Parameter of the horizontal axis. By default "n_components", unless only the noise variance
        has several values. An estimated noise variance is shown as a dashed horizontal line,
        because its value differs between splits.
    score : str, default="nats per sample"
        Unit or name of the scores in the label of the vertical axis.

    Attributes
    ----------
    lines_ : dict of value to matplotlib Line2D
        Curves by value of the other parameter.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    sklearn_vae.PPCACV : Probabilistic PCA with cross-validated parameters.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCACV
    >>> from sklearn_vae.plot import CVCurveDisplay
    >>> search = PPCACV([1, 2, 3]).fit(load_iris().data)
    >>> display = CVCurveDisplay.from_estimator(search)
    >>> display.ax_.get_xlabel()
    'latent dimensions k'
    """

    cv_results: Mapping[str, Any]
    _: KW_ONLY
    best_index: int | None = None
    x: str | None = None
    score: str = NATS

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, x: str | None = None, ax: Any = None, **options: Any
    ) -> Self:
        """Plot the scores of a fitted PPCACV, or of a search such as GridSearchCV.

        If a list of grids omits a parameter, its value is taken from the search's estimator.

        Parameters
        ----------
        estimator : PPCACV or GridSearchCV
            Fitted estimator with `cv_results_`.
        X : Ignored
            Not used, present for API consistency by convention.
        x : {"n_components", "noise_variance"}, default=None
            Parameter of the horizontal axis.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the lines.

        Returns
        -------
        CVCurveDisplay
            The plotted display.
        """
        if not hasattr(estimator, "cv_results_"):
            raise TypeError(
                f"{cls.__name__} needs a fitted PPCACV or search, but "
                f"{type(estimator).__name__} has no cv_results_."
            )
        best = getattr(estimator, "best_index_", None)
        parameters = {"best_index": best, "x": x, "score": _score_name(estimator)}
        return cls.from_results(_complete_results(estimator), ax=ax, **parameters, **options)

    def _prepare(self) -> None:
        self._on_axis, self._other = self._parameters()
        self._scores = mean, error = _mean_and_error(self.cv_results)
        self._drawn = _best_of_each_point(self._on_axis.values, self._other.values, mean)
        self._low = _lower_limit(mean, error, self._drawn)
        i = self.best_index
        # An infinite score cannot be marked.
        self._best = i if i is not None and np.isfinite(mean[i]) else None
        if self._best is not None:
            self._low = min(self._low, mean[self._best])

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        on_axis, other, low = self._on_axis, self._other, self._low
        mean, error = self._scores
        x = np.array([np.nan if value is None else float(value) for value in on_axis.values])
        # Numbers before strings, and None last.
        curves = sorted(set(other.values), key=lambda v: (v is None, isinstance(v, str), v or 0))
        colors = _colors(curves)
        chosen_curve = None if self._best is None else other.values[self._best]
        labeled = _labeled_curves(curves, chosen_curve)
        self.lines_ = {}
        for value, color in zip(curves, colors, strict=True):
            in_curve = np.array([candidate == value for candidate in other.values]) & self._drawn
            if np.isnan(mean[in_curve]).all():
                continue
            points = np.flatnonzero(in_curve & np.isfinite(x))
            points = points[np.argsort(x[points], kind="stable")]
            label = _label(other.name, value) if other.given else "mean of the splits"
            if not np.nanmax(mean[in_curve], initial=-np.inf) >= low:
                label += " (below)"
            label = label if value in labeled else "_"
            style = {"color": color, "label": label, "linewidth": 1.5, **options}
            if len(points) == 1 or (len(points) <= MAX_MARKERS and len(curves) <= MAX_LABELS):
                style = {"marker": "o", "markersize": 3, **style}
            (self.lines_[value],) = ax.plot(x[points], mean[points], **style)
            if error is not None:
                band = (mean[points] - error[points], mean[points] + error[points])
                ax.fill_between(x[points], *band, color=color, alpha=0.15, linewidth=0)
                if len(points) == 1:
                    ax.errorbar(x[points], mean[points], error[points], color=color, capsize=3)
            for i in np.flatnonzero(in_curve & np.isnan(x)):
                is_best = i == self._best
                label = _label(on_axis.name, None) + (" (chosen)" if is_best else "")
                label = label if is_best or len(curves) == 1 else "_"
                ax.axhline(mean[i], color=color, linestyle="--", label=label)
        if self._best is not None and not np.isnan(x[self._best]):
            label = f"chosen: {_label(on_axis.name, on_axis.values[self._best])}"
            style = {"color": "black", "zorder": 4, "label": label, "markerfacecolor": "none"}
            ax.plot(x[self._best], mean[self._best], "o", markersize=9, **style)
        _finish(ax, on_axis.name, x, self.score)
        shown = (mean >= low) & self._drawn
        highest = (mean if error is None else mean + error)[shown].max()
        if highest > low:
            ax.set_ylim(low - 0.04 * (highest - low), highest + 0.04 * (highest - low))

    def _parameters(self) -> tuple[_Parameter, _Parameter]:
        """Return the parameters of the horizontal axis and of the curves."""
        check_choice("x", self.x or "n_components", list(NAMES))
        if "mean_test_score" not in self.cv_results:
            raise ValueError(
                "cv_results must have mean_test_score, from a search with a single score."
            )
        varied = {name: _parameter(self.cv_results, name) for name in NAMES}
        if not any(parameter.given for parameter in varied.values()):
            keys = sorted(key for key in self.cv_results if key.startswith("param_"))
            raise ValueError(
                "cv_results must have param_n_components or param_noise_variance, got "
                f"{', '.join(keys) or 'no parameter'}."
            )
        i, n = self.best_index, len(self.cv_results["mean_test_score"])
        if not (i is None or (is_integer(i) and 0 <= i < n)):
            raise ValueError(f"best_index must be from 0 to {n - 1}, got {i!r}.")
        counts = {name: len(set(parameter.values)) for name, parameter in varied.items()}
        x = self.x
        if x is None:
            is_constant = counts["n_components"] == 1 < counts["noise_variance"]
            is_absent = not varied["n_components"].given
            x = "noise_variance" if is_constant or is_absent else "n_components"
        if not varied[x].given:
            raise ValueError(f"x is {x!r}, but cv_results has no param_{x}.")
        (other,) = set(NAMES) - {x}
        _check_numbers(x, varied[x].values, other if counts[other] > 1 else None)
        return varied[x], varied[other]


def _best_of_each_point(on_axis: list[Any], other: list[Any], mean: Array) -> Array:
    """Return the mask of the best candidates among those that share both parameters."""
    best: dict[Any, int] = {}
    scores = np.where(np.isnan(mean), -np.inf, mean)
    for i, point in enumerate(zip(on_axis, other, strict=True)):
        if point not in best or scores[i] > scores[best[point]]:
            best[point] = i
    drawn = np.zeros(len(mean), dtype=bool)
    drawn[list(best.values())] = True
    return drawn


def _check_numbers(x: str, values: list[Any], other: str | None) -> None:
    """Check that the parameter x can be the horizontal axis."""
    if x == "noise_variance" and all(value is None for value in values):
        raise ValueError("x='noise_variance' needs at least one number, got None only.")
    for value in values:
        if x == "n_components" and not is_integer(value):
            alternative = "" if other is None else f", or set x={other!r}"
            raise ValueError(
                f"n_components must be integers on the horizontal axis, got {value!r}. Search "
                f"over integers{alternative}."
            )
        if x == "noise_variance" and not (value is None or (is_real(value) and value > 0)):
            raise ValueError(
                "noise_variance must be None or a positive float on the horizontal axis, got "
                f"{value!r}."
            )


def _lower_limit(mean: Array, error: Array | None, drawn: Array) -> float:
    """Compute the lower limit of the vertical axis."""
    finite = np.isfinite(mean) & drawn
    if not finite.any():
        raise ValueError("cv_results must have a finite mean_test_score, got none.")
    lowest = (mean if error is None else mean - error)[finite].min()
    if finite.sum() < MIN_TO_CUT:
        return float(lowest)
    best, quartile = mean[finite].max(), np.quantile(mean[finite], 0.25)
    return float(lowest if quartile == best else max(lowest, best - 1.5 * (best - quartile)))


def _finish(ax: Any, name: str, x: Array, score: str) -> None:
    """Set scale, labels and legend."""
    if name == "noise_variance":
        ax.set_xscale("log")
        ax.set_xlabel(r"noise variance $\sigma^2$")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.set_xlabel("latent dimensions k")
        if len(set(x)) == 1:
            ax.set_xlim(x[0] - 1, x[0] + 1)
    ax.set_ylabel(f"held-out score ({score})" if score else "held-out score")
    add_legend(ax)


@dataclass
class _Parameter:
    """Values of a parameter for all candidates, None if it was not varied."""

    name: str
    values: list[Any]
    given: bool


def _parameter(cv_results: Mapping[str, Any], name: str) -> _Parameter:
    keys = _keys(cv_results, name)
    if len(keys) > 1:
        raise ValueError(f"cv_results must have a single {name}, got {', '.join(keys)}.")
    n = len(cv_results["mean_test_score"])
    if not keys:
        return _Parameter(name, [None] * n, given=False)
    column = cv_results[keys[0]]
    if masked := int(np.ma.getmaskarray(column).sum()):
        raise ValueError(
            f"cv_results must have {name} for every candidate, but {keys[0]} is masked in "
            f"{masked} of {n}. Use CVCurveDisplay.from_estimator, which fills the gaps."
        )
    return _Parameter(name, np.ma.getdata(column).tolist(), given=True)


def _keys(cv_results: Mapping[str, Any], name: str) -> list[str]:
    """Return the keys of a parameter, including those of pipeline steps."""
    return [key for key in cv_results if key == f"param_{name}" or key.endswith(f"__{name}")]


def _complete_results(search: Any) -> Mapping[str, Any]:
    """Return `cv_results_` with omitted parameters filled from the search's estimator."""
    results = dict(search.cv_results_)
    for key in [key for name in NAMES for key in _keys(results, name)]:
        gaps = np.flatnonzero(np.ma.getmaskarray(results[key]))
        if not (gaps.size and hasattr(search, "estimator")):
            continue
        column: Any = np.ma.array(results[key], dtype=object)
        for i in gaps:
            # The candidate may replace whole steps.
            model = clone(search.estimator).set_params(**clone(results["params"][i], safe=False))
            own = model.get_params()
            if (name := key.removeprefix("param_")) in own:
                column[i] = own[name]
        results[key] = column
    return results


def _score_name(search: Any) -> str:
    """Return the name or unit of the scores of a search."""
    scoring = getattr(search, "scoring", None)
    if scoring is None:
        return NATS if hasattr(getattr(search, "estimator", search), "score_samples") else ""
    return scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "")


def _mean_and_error(cv_results: Mapping[str, Any]) -> tuple[Array, Array | None]:
    """Return mean scores and, for two splits or more, their standard errors."""
    # Scores of a halving search with fewer resources are not comparable with its last round.
    resources = np.asarray(cv_results.get("n_resources", 0))
    hidden = np.where(resources == resources.max(), 0.0, np.nan)
    mean = np.asarray(cv_results["mean_test_score"], dtype=np.float64) + hidden
    splits = [
        np.asarray(scores, dtype=np.float64)
        for key, scores in cv_results.items()
        if key.startswith("split") and key.endswith("_test_score")
    ]
    if len(splits) < 2:
        return mean, None
    return mean, np.std(splits, axis=0, ddof=1) / np.sqrt(len(splits)) + hidden


def _colors(curves: list[Any]) -> list[Any]:
    """Return colors from dark to light by value, and a separate one for estimated noise."""
    from matplotlib.pyplot import get_cmap

    numbers = [value for value in curves if value is not None]
    shades = np.linspace(0.0, 0.85, max(len(numbers), 2))[: len(numbers)]
    if len(curves) == 1:
        return [COLORS[0]]
    return [*get_cmap(SEQUENTIAL)(shades)] + [COLORS[5]] * (len(curves) - len(numbers))


def _labeled_curves(curves: list[Any], best: Any) -> list[Any]:
    """Choose at most MAX_LABELS curves for the legend, including the best and the last one."""
    if len(curves) <= MAX_LABELS:
        return curves
    evenly = np.linspace(0, len(curves) - 1, MAX_LABELS - 1).round().astype(int)
    return [curves[i] for i in evenly] + [best]


def _label(name: str, value: Any) -> str:
    if value is None:
        return f"{NAMES[name]} estimated"
    number = f"{value:.3g}" if isinstance(value, float) else value
    return f"{NAMES[name]} = {number}"
