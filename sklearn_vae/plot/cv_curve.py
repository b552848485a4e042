"""Scores of cross-validation against the parameters that it varied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import clone

from sklearn_vae.plot.base import COLORS, SEQUENTIAL, Array, Display, legend_off_the_data
from sklearn_vae.validation import check_choice, is_integer, is_real

NAMES = {"n_components": "k", "noise_variance": r"$\sigma^2$"}

# Most curves in a legend.
MOST_LABELS = 8

# Most values of a curve that have a marker each.
FEW = 40

# Least number of scores of which those far down leave the picture.
MANY = 8

# Unit of the scores of models without another scoring.
NATS = "nats per sample"


@dataclass(eq=False, repr=False)
class CVCurveDisplay(Display):
    """Mean score of held-out samples against k, one curve per noise variance; or the reverse.

    Bands are one standard error of the mean over the splits to each side. Where other parameters
    were varied too, the best candidate of each place is drawn. With eight scores or more, the
    picture ends a little below their lower quartile, or a far too small noise variance would hide
    the rest. The legend says which curves lie further down.

    Parameters
    ----------
    cv_results : dict of arrays
        As `cv_results_` of PPCACV or GridSearchCV, with `param_n_components` or
        `param_noise_variance`, or both, in a pipeline behind the names of its steps.
    best_index : int, default=None
        The candidate that is marked.
    x : {"n_components", "noise_variance"}, default=None
        Parameter of the horizontal axis. None: k, unless it has one value only and the noise
        variance more. On an axis of noise variances the maximum likelihood one, whose value differs
        between splits, is a dashed horizontal line.
    score : str, default="nats per sample"
        Name of the scores, in brackets on the vertical axis; "" leaves it out.

    Attributes
    ----------
    lines_ : dict of value to matplotlib Line2D
        By the noise variance of the curve, or by its k.
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
        """Draw the scores of a fitted PPCACV, or of a search such as GridSearchCV.

        Where a list of grids leaves a parameter out, its value is that of the search's estimator.
        The axis says nats per sample unless the search has a `scoring`, or an estimator whose score
        is not the mean of `score_samples`.

        Parameters
        ----------
        estimator : estimator with `cv_results_`
        X : Ignored
            The scores are those of the fit.
        x
            As in the class.
        ax : matplotlib Axes, default=None
        **options
            Options of matplotlib's lines.
        """
        if not hasattr(estimator, "cv_results_"):
            raise TypeError(
                f"{cls.__name__} needs a fitted PPCACV or search, and "
                f"{type(estimator).__name__} has no cv_results_."
            )
        best = getattr(estimator, "best_index_", None)
        return cls.from_results(
            _filled(estimator), best_index=best, x=x, score=_score(estimator), ax=ax, **options
        )

    def _prepare(self) -> None:
        self._along, self._other = self._parameters()
        self._scores = mean, error = _mean_and_error(self.cv_results)
        self._drawn = _best_of_each_place(self._along.values, self._other.values, mean)
        self._low = _lowest(mean, error, self._drawn)
        i = self.best_index
        # A score without bound cannot be marked.
        self._best = i if i is not None and np.isfinite(mean[i]) else None
        if self._best is not None:
            self._low = min(self._low, mean[self._best])

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        along, other, low = self._along, self._other, self._low
        mean, error = self._scores
        places = np.array([np.nan if value is None else float(value) for value in along.values])
        # Numbers before words, and None last.
        curves = sorted(set(other.values), key=lambda v: (v is None, isinstance(v, str), v or 0))
        colors = _colors(curves)
        chosen_curve = None if self._best is None else other.values[self._best]
        labelled = _some(curves, chosen_curve)
        self.lines_ = {}
        for value, color in zip(curves, colors, strict=True):
            of_curve = np.array([candidate == value for candidate in other.values]) & self._drawn
            chosen = np.flatnonzero(of_curve & np.isfinite(places))
            chosen = chosen[np.argsort(places[chosen], kind="stable")]
            label = _label(other.name, value) if other.given else "mean of the splits"
            if not np.nanmax(mean[of_curve], initial=-np.inf) >= low:
                label += " (below)"
            label = label if value in labelled else "_"
            style = {"color": color, "label": label, "linewidth": 1.5, **options}
            if len(chosen) == 1 or (len(chosen) <= FEW and len(curves) <= MOST_LABELS):
                style = {"marker": "o", "markersize": 3, **style}
            (self.lines_[value],) = ax.plot(places[chosen], mean[chosen], **style)
            if error is not None:
                band = (mean[chosen] - error[chosen], mean[chosen] + error[chosen])
                ax.fill_between(places[chosen], *band, color=color, alpha=0.15, linewidth=0)
                if len(chosen) == 1:
                    ax.errorbar(places[chosen], mean[chosen], error[chosen], color=color, capsize=3)
            for i in np.flatnonzero(of_curve & np.isnan(places)):
                best = i == self._best
                label = _label(along.name, None) + (" (chosen)" if best else "")
                label = label if best or len(curves) == 1 else "_"
                ax.axhline(mean[i], color=color, linestyle="--", label=label)
        if self._best is not None and not np.isnan(places[self._best]):
            label = f"chosen: {_label(along.name, along.values[self._best])}"
            style = {"color": "black", "zorder": 4, "label": label, "markerfacecolor": "none"}
            ax.plot(places[self._best], mean[self._best], "o", markersize=9, **style)
        _finish(ax, along.name, places, self.score)
        shown = (mean >= low) & self._drawn
        highest = (mean if error is None else mean + error)[shown].max()
        if highest > low:
            ax.set_ylim(low - 0.04 * (highest - low), highest + 0.04 * (highest - low))

    def _parameters(self) -> tuple[_Parameter, _Parameter]:
        """Parameters of the horizontal axis and of the curves."""
        check_choice("x", self.x or "n_components", list(NAMES))
        if "mean_test_score" not in self.cv_results:
            raise ValueError("cv_results must have mean_test_score, of one score; it has not.")
        varied = {name: _parameter(self.cv_results, name) for name in NAMES}
        if not any(parameter.given for parameter in varied.values()):
            keys = sorted(key for key in self.cv_results if key.startswith("param_"))
            raise ValueError(
                "cv_results must have param_n_components or param_noise_variance, got "
                f"{', '.join(keys) or 'neither'}."
            )
        i, n = self.best_index, len(self.cv_results["mean_test_score"])
        if not (i is None or (is_integer(i) and 0 <= i < n)):
            raise ValueError(f"best_index must be from 0 to {n - 1}, got {i!r}.")
        numbers = {name: len(set(parameter.values)) for name, parameter in varied.items()}
        x = self.x
        if x is None:
            single = numbers["n_components"] == 1 < numbers["noise_variance"]
            absent = not varied["n_components"].given
            x = "noise_variance" if single or absent else "n_components"
        if not varied[x].given:
            raise ValueError(f"x is {x!r}, and cv_results has no param_{x}.")
        _check_places(x, varied[x].values)
        (rest,) = set(NAMES) - {x}
        return varied[x], varied[rest]


def _best_of_each_place(along: list[Any], other: list[Any], mean: Array) -> Array:
    """Mask of the candidates with the best mean among those that share both parameters."""
    best: dict[Any, int] = {}
    scores = np.where(np.isnan(mean), -np.inf, mean)
    for i, place in enumerate(zip(along, other, strict=True)):
        if place not in best or scores[i] > scores[best[place]]:
            best[place] = i
    drawn = np.zeros(len(mean), dtype=bool)
    drawn[list(best.values())] = True
    return drawn


def _check_places(x: str, values: list[Any]) -> None:
    """Raise ValueError unless values of the parameter x have places on an axis."""
    if x == "noise_variance" and all(value is None for value in values):
        raise ValueError(
            "x='noise_variance' must have a number to stand on an axis, got None only."
        )
    for value in values:
        if x == "n_components" and not is_integer(value):
            raise ValueError(
                f"n_components must be integers to be drawn on an axis, got {value!r}. Search over "
                "the number that it stands for, or draw x='noise_variance' if that was varied."
            )
        if x == "noise_variance" and not (value is None or (is_real(value) and value > 0)):
            raise ValueError(
                f"noise_variance must be None or a positive float to stand on an axis, got {value!r}."
            )


def _lowest(mean: Array, error: Array | None, drawn: Array) -> float:
    """Lower end of the picture."""
    finite = np.isfinite(mean) & drawn
    if not finite.any():
        raise ValueError("cv_results must have a finite mean_test_score, got none.")
    end = (mean if error is None else mean - error)[finite].min()
    if finite.sum() < MANY:
        return float(end)
    best, quarter = mean[finite].max(), np.quantile(mean[finite], 0.25)
    return float(end if quarter == best else max(end, best - 1.5 * (best - quarter)))


def _finish(ax: Any, x: str, places: Array, score: str) -> None:
    """Set scale, labels and legend."""
    if x == "noise_variance":
        ax.set_xscale("log")
        ax.set_xlabel(r"noise variance $\sigma^2$")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.set_xlabel("latent dimensions k")
        if len(set(places)) == 1:
            ax.set_xlim(places[0] - 1, places[0] + 1)
    ax.set_ylabel(f"held-out score ({score})" if score else "held-out score")
    legend_off_the_data(ax)


@dataclass
class _Parameter:
    """Values of a parameter of all candidates, None where it was not varied."""

    name: str
    values: list[Any]
    given: bool


def _parameter(cv_results: Mapping[str, Any], name: str) -> _Parameter:
    keys = _keys(cv_results, name)
    if len(keys) > 1:
        raise ValueError(f"cv_results must have one {name}, got {', '.join(keys)}.")
    n = len(cv_results["mean_test_score"])
    if not keys:
        return _Parameter(name, [None] * n, given=False)
    column = cv_results[keys[0]]
    if masked := int(np.ma.getmaskarray(column).sum()):
        raise ValueError(
            f"cv_results must have {name} of every candidate, and {keys[0]} is masked in "
            f"{masked} of {n}. CVCurveDisplay.from_estimator takes it from the search's estimator."
        )
    return _Parameter(name, np.ma.getdata(column).tolist(), given=True)


def _keys(cv_results: Mapping[str, Any], name: str) -> list[str]:
    """Keys of a parameter, also of a step of a pipeline."""
    return [key for key in cv_results if key == f"param_{name}" or key.endswith(f"__{name}")]


def _filled(search: Any) -> Mapping[str, Any]:
    """`cv_results_`, with the estimator's own value where a candidate leaves a parameter out."""
    results = dict(search.cv_results_)
    for key in [key for name in NAMES for key in _keys(results, name)]:
        gaps = np.flatnonzero(np.ma.getmaskarray(results[key]))
        if not (gaps.size and hasattr(search, "estimator")):
            continue
        column: Any = np.ma.array(results[key], dtype=object)
        for i in gaps:
            # With all else of the candidate, which may replace whole steps.
            model = clone(search.estimator).set_params(**clone(results["params"][i], safe=False))
            own = model.get_params()
            if (name := key.removeprefix("param_")) in own:
                column[i] = own[name]
        results[key] = column
    return results


def _score(search: Any) -> str:
    """Name of the scores of a search."""
    scoring = getattr(search, "scoring", None)
    if scoring is None:
        return NATS if hasattr(getattr(search, "estimator", search), "score_samples") else ""
    return scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "")


def _mean_and_error(cv_results: Mapping[str, Any]) -> tuple[Array, Array | None]:
    """Mean score of each candidate and, for two splits or more, its standard error."""
    mean = np.asarray(cv_results["mean_test_score"], dtype=np.float64)
    splits = [
        np.asarray(scores, dtype=np.float64)
        for key, scores in cv_results.items()
        if key.startswith("split") and key.endswith("_test_score")
    ]
    if len(splits) < 2:
        return mean, None
    return mean, np.std(splits, axis=0, ddof=1) / np.sqrt(len(splits))


def _colors(curves: list[Any]) -> list[Any]:
    """From dark to pale along the values; the maximum likelihood noise in a colour of its own."""
    from matplotlib.pyplot import get_cmap

    numbers = [value for value in curves if value is not None]
    shades = np.linspace(0.0, 0.85, max(len(numbers), 2))[: len(numbers)]
    of_numbers = [*get_cmap(SEQUENTIAL)(shades)] if len(curves) > 1 else [COLORS[0]] * len(numbers)
    alone = COLORS[0] if len(curves) == 1 else COLORS[5]
    return of_numbers + [alone] * (len(curves) - len(numbers))


def _some(curves: list[Any], best: Any) -> list[Any]:
    """At most MOST_LABELS of the curves, evenly, the best and the maximum likelihood among them."""
    if len(curves) <= MOST_LABELS:
        return curves
    evenly = np.linspace(0, len(curves) - 1, MOST_LABELS - 1).round().astype(int)
    return [curves[i] for i in evenly] + [best]


def _label(name: str, value: Any) -> str:
    if value is None:
        return f"{NAMES[name]} estimated"
    number = f"{value:.3g}" if isinstance(value, float) else value
    return f"{NAMES[name]} = {number}"
