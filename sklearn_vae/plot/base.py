"""Base class of Displays, and the helpers that give all pictures one look."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from inspect import signature
from itertools import cycle
from typing import Any, Self, TypeVar

import numpy as np
from array_api_compat import is_array_api_obj
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.containers import to_host

Array = NDArray[Any]
T = TypeVar("T")

# Okabe and Ito's colours, apart for every kind of colour vision; the most distinct first.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")

# Maps of values that have no sign, and of those that have.
SEQUENTIAL, DIVERGING, GREY = "cividis", "PuOr", "gray_r"

# A figure of one panel, in inches: as wide as a column of a page.
WIDTH, HEIGHT = 4.8, 3.4

# Letters in a line of a legend above the axes and of one beside them, and a line in inches.
ABOVE, BESIDE, LINE = 48, 24, 0.17

# Between two dollars, neither of them escaped.
FORMULA = r"(?<!\\)\$.*?(?<!\\)\$"


class Display:
    """A picture of results: a dataclass of them that implements `from_estimator` and `_draw`.

    Attributes
    ----------
    ax_ : matplotlib Axes, or array of them where there are several panels
        Set by `plot`.
    figure_ : matplotlib Figure
        Set by `plot`.
    """

    # Rows and columns of panels, their relative heights, and whether they share the x axis.
    _panels: tuple[int, int] = (1, 1)
    _height_ratios: tuple[float, ...] | None = None
    _share_x = False
    # Size of a new figure relative to that of one panel.
    _size: tuple[float, float] = (1.0, 1.0)

    ax_: Any
    figure_: Any

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, ax: Any = None, **options: Any) -> Self:
        """Compute results of fitted models on data, and draw them.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
        X : array-like of shape (n_samples, n_features)
        names : list of str, default=None
            Names of the models in a list. None: names of their classes.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **options
            Options of matplotlib for the lines, bars or images.

        Returns
        -------
        Display
        """
        raise NotImplementedError

    @classmethod
    def from_results(cls, *results: Any, ax: Any = None, **options: Any) -> Self:
        """Draw results that have been computed.

        Parameters
        ----------
        *results
            Results, as the constructor takes them.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **options
            Parameters of the constructor, and options of matplotlib as in `from_estimator`.

        Returns
        -------
        Display
        """
        construct: Callable[..., Self] = cls
        own = {name: options.pop(name) for name in signature(cls).parameters if name in options}
        return construct(*results, **own).plot(ax, **options)

    def plot(self, ax: Any = None, **options: Any) -> Self:
        """Draw the results.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; several panels are fitted into its place. None: a new figure.
        **options
            Options of matplotlib as in `from_estimator`, also by their short names.

        Returns
        -------
        self
            With `ax_` and `figure_`.
        """
        self._prepare()
        plt = import_pyplot(type(self).__name__)
        options = _without_aliases(options)
        axes = self._new_axes(plt) if ax is None else self._axes_within(ax)
        self.ax_ = axes if axes.size > 1 else axes[0, 0]
        self.figure_ = axes[0, 0].figure.figure  # that of a SubFigure is the whole
        try:
            self._draw(axes, **options)
        except Exception:
            if ax is None:
                plt.close(self.figure_)
            raise
        return self

    def _prepare(self) -> None:
        """Check the results before there is a figure, and set what depends on their size."""

    def _draw(self, axes: Array, **options: Any) -> None:
        """Draw on an array of axes of shape `_panels`."""
        raise NotImplementedError

    def _new_axes(self, plt: Any) -> Array:
        size = (WIDTH * self._size[0], HEIGHT * self._size[1])
        figure = plt.figure(figsize=size, layout="constrained")
        layout = {"sharex": self._share_x, "height_ratios": self._height_ratios}
        return figure.subplots(*self._panels, squeeze=False, **layout)

    def _axes_within(self, ax: Any) -> Array:
        """Axes of the panels in the place of the axes given."""
        rows, columns = self._panels
        if not hasattr(ax, "get_subplotspec"):
            raise ValueError(f"ax must be None or matplotlib Axes, got {ax!r}.")
        if rows * columns == 1:
            return np.array([[ax]])
        spec = ax.get_subplotspec()
        if spec is None:
            raise ValueError(
                f"ax must stand in a grid of subplots for the {rows * columns} panels of "
                f"{type(self).__name__}, got axes placed by hand."
            )
        ax.set_axis_off()
        inner = spec.subgridspec(rows, columns, height_ratios=self._height_ratios)
        return inner.subplots(squeeze=False, sharex=self._share_x)


def import_pyplot(name: str) -> Any:
    """matplotlib.pyplot; ImportError that says how to install it."""
    try:
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError(
            f"{name}.plot needs matplotlib, which is not installed: pip install 'sklearn-vae[plot]'."
        ) from error


def _without_aliases(options: dict[str, Any]) -> dict[str, Any]:
    """Options by their full names, so that one set replaces the one drawn by default."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return normalize_kwargs(normalize_kwargs(options, Line2D), Patch)


def as_text(name: Any) -> str:
    """A name as matplotlib should write it: no formula in it, and not left out of a legend."""
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def named(models: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Models by name: names of a dict are its keys, of a list `names` or those of the classes."""
    if isinstance(models, Mapping) and names is not None:
        raise ValueError(
            f"names must be None for models in a dict, which names them, got {names!r}."
        )
    if isinstance(models, Mapping) and models:
        return {str(name): model for name, model in models.items()}
    several = list(models) if isinstance(models, list | tuple | Mapping) else [models]
    if not several:
        raise ValueError(f"estimator must be one or more models, got {models!r}.")
    names = [type(model).__name__ for model in several] if names is None else list(names)
    if len(names) != len(several):
        raise ValueError(f"names must be {len(several)}, one a model, got {names!r}.")
    if len(set(names)) < len(names):  # classes may be the same
        names = [f"{name} {i}" for i, name in enumerate(names, start=1)]
    return dict(zip(names, several, strict=True))


def check_methods(estimator: Any, display: str, *methods: str) -> None:
    """Raise TypeError unless `estimator` has the methods; NotFittedError if not fitted."""
    missing = [name for name in methods if not callable(getattr(estimator, name, None))]
    if missing:
        raise TypeError(
            f"{display} needs an estimator with {' and '.join(methods)}, and "
            f"{type(estimator).__name__} has no {' and no '.join(missing)}."
        )
    check_is_fitted(estimator)


def some_rows(X: Any, rows: Sequence[int] | slice) -> Any:
    """Rows of an array, a table or a sparse matrix, of the same kind: tables keep their names."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def on_host(values: Any) -> Array:
    """Numbers of any array library or of a table, as float64 on the host."""
    if sparse.issparse(values):
        values = values.toarray()
    return np.asarray(to_host(values) if is_array_api_obj(values) else values, dtype=np.float64)


def check_by_name(parameter: str, results: Any, kind: type, key: str = "str") -> None:
    """Raise TypeError unless `results` is a mapping of `kind`s, ValueError if it is empty."""
    wrong = [] if isinstance(results, Mapping) else [results]
    wrong = wrong or [result for result in results.values() if not isinstance(result, kind)]
    if wrong:
        raise TypeError(
            f"{parameter} must be a dict of {key} to {kind.__name__}, got {type(wrong[0]).__name__}"
            f"{' in it' if isinstance(results, Mapping) else ''}."
        )
    if not results:
        what = "model" if key == "str" else "epoch"
        raise ValueError(f"{parameter} must have at least one {what}, got {results!r}.")


def colored(results: Mapping[str, T]) -> Iterator[tuple[str, str, T]]:
    """Colour, name and result of each model; colours repeat where there are more models."""
    for color, (name, result) in zip(cycle(COLORS), results.items(), strict=False):
        yield color, name, result


def legend_off_the_data(ax: Any, **options: Any) -> None:
    """A legend where it covers nothing: above the axes, or beside them where it is long."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) < 2:
        return
    common = {"frameon": False, "borderaxespad": 0.2, "handlelength": 1.6, "fontsize": "small"}
    beside = len(labels) > 6
    labels = [_wrapped(label, BESIDE if beside else ABOVE) for label in labels]
    if beside:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "ncols": 1}
        edges = [text.get_window_extent().x1 for text in (ax, *ax.texts)]
        beyond = (max(edges) - edges[0]) / ax.figure.dpi  # by texts at the right
        place["bbox_transform"] = _moved(ax, beyond, 0.0)
    else:
        # A formula is about as wide as two letters.
        lines = "\n".join(labels).split("\n")
        longest = max(len(re.sub(FORMULA, "xx", line)) for line in lines)
        ncols = 3 if longest <= 12 else 2 if longest <= 24 else 1
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "ncols": ncols}
        # matplotlib may write a factor such as 1e6 above the vertical axis.
        formatter = ax.yaxis.get_major_formatter()
        formatter.set_locs(ax.yaxis.get_majorticklocs())
        place["bbox_transform"] = _moved(ax, 0.0, LINE if formatter.get_offset() else 0.0)
    ax.legend(handles, labels, **{**common, **place, **options})


def _wrapped(label: str, width: int) -> str:
    """In about two lines of `width` letters, without its middle if need be; formulas as they are."""
    if re.search(FORMULA, label):
        return label
    plain = label.replace(r"\$", "$")
    if len(plain) <= width:
        return label
    if len(plain) > 2 * (half := int(0.85 * width)):
        plain = (
            f"{plain[:half]}\N{HORIZONTAL ELLIPSIS}{plain[-half:]}"  # names may differ at the end
        )
    return textwrap.fill(plain, width).replace("$", r"\$")


def _moved(ax: Any, right: float, up: float) -> Any:
    """Coordinates of the axes, moved by inches: they stay the same while a layout is made."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(right, up, ax.figure.dpi_scale_trans)
