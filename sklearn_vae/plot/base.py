"""Base class of Displays, and helpers for their common style."""

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

from sklearn_vae.containers import to_array, to_host
from sklearn_vae.protocol import adapted

Array = NDArray[Any]
T = TypeVar("T")

# Okabe-Ito colors, for every kind of color vision, the most distinct first.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")

# Colormaps.
SEQUENTIAL, DIVERGING, GRAY = "cividis", "PuOr", "gray_r"

# Size of a figure with one panel, in inches: the width of a column of text.
WIDTH, HEIGHT = 4.8, 3.4

# Maximum number of characters in a line of a legend above or to the right of the axes.
MAX_ABOVE, MAX_RIGHT = 48, 24

# Height of a line of text, in inches.
LINE_HEIGHT = 0.17

# A formula between unescaped dollar signs.
FORMULA = r"(?<!\\)\$.*?(?<!\\)\$"


class Display:
    """Plot of results: a dataclass that implements `from_estimator` and `_draw`."""

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
        """Compute results of fitted models, and plot them."""
        raise NotImplementedError

    @classmethod
    def from_results(cls, *results: Any, ax: Any = None, **options: Any) -> Self:
        """Plot results that have been computed.

        Parameters
        ----------
        *results : object
            Positional parameters of the class.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Other parameters of the class, and matplotlib options as in `from_estimator`.

        Returns
        -------
        Display
            The plotted display.
        """
        construct: Callable[..., Self] = cls
        parameters = {n: options.pop(n) for n in signature(cls).parameters if n in options}
        return construct(*results, **parameters).plot(ax, **options)

    def plot(self, ax: Any = None, **options: Any) -> Self:
        """Plot the results.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. Several panels divide its area. By default, a new figure is created.
        **options : dict
            Matplotlib options as in `from_estimator`. Aliases such as `lw` are accepted.

        Returns
        -------
        self
            The display, with `ax_` and `figure_` set.
        """
        self._prepare()
        plt = import_pyplot(type(self).__name__)
        options = _without_aliases(options)
        axes = self._new_axes(plt) if ax is None else self._axes_within(ax)
        self.ax_ = axes if axes.size > 1 else axes[0, 0]
        self.figure_ = axes[0, 0].figure.figure  # the figure of a SubFigure
        try:
            self._draw(axes, **options)
        except Exception:
            if ax is None:
                plt.close(self.figure_)
            raise
        return self

    def _prepare(self) -> None:
        """Check the results before a figure is created, and set the layout."""

    def _draw(self, axes: Array, **options: Any) -> None:
        """Draw on an array of axes of shape `_panels`."""
        raise NotImplementedError

    def _new_axes(self, plt: Any) -> Array:
        size = (WIDTH * self._size[0], HEIGHT * self._size[1])
        figure = plt.figure(figsize=size, layout="constrained")
        layout = {"sharex": self._share_x, "height_ratios": self._height_ratios}
        return figure.subplots(*self._panels, squeeze=False, **layout)

    def _axes_within(self, ax: Any) -> Array:
        """Return axes of the panels within the area of `ax`."""
        rows, columns = self._panels
        if not hasattr(ax, "get_subplotspec"):
            raise ValueError(f"ax must be None or matplotlib Axes, got {ax!r}.")
        if rows * columns == 1:
            return np.array([[ax]])
        spec = ax.get_subplotspec()
        if spec is None:
            raise ValueError(
                f"{type(self).__name__} has {rows * columns} panels, so ax must belong to a grid of "
                "subplots. Create it with plt.subplots()."
            )
        ax.set_axis_off()
        inner = spec.subgridspec(rows, columns, height_ratios=self._height_ratios)
        return inner.subplots(squeeze=False, sharex=self._share_x)


def import_pyplot(name: str) -> Any:
    """Import matplotlib.pyplot, or explain how to install it."""
    try:
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError(
            f"{name}.plot requires matplotlib. Install it with: pip install 'sklearn-vae[plot]'"
        ) from error


def _without_aliases(options: dict[str, Any]) -> dict[str, Any]:
    """Replace aliases of options by their full names, which the defaults use."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return normalize_kwargs(normalize_kwargs(options, Line2D), Patch)


def as_text(name: Any) -> str:
    """Escape a name for matplotlib: dollar signs, and the underscore that hides labels."""
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def named(models: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return models by name: keys of a dict, `names`, or class names."""
    if isinstance(models, Mapping) and names is not None:
        raise ValueError(f"names must be None if estimator is a dict, got {names!r}.")
    if isinstance(models, Mapping) and models:
        return {str(name): model for name, model in models.items()}
    models = list(models) if isinstance(models, list | tuple | Mapping) else [models]
    if not models:
        raise ValueError(f"estimator must contain at least one model, got {models!r}.")
    names = [adapted(model).model_name for model in models] if names is None else list(names)
    if len(names) != len(models):
        raise ValueError(
            f"names must have one name per model, got {names!r} for {len(models)} models."
        )
    if len(set(names)) < len(names):
        names = [f"{name} {i}" for i, name in enumerate(names, start=1)]
    return dict(zip(names, models, strict=True))


def select_samples(X: Any, indices: Sequence[int] | slice) -> Any:
    """Select samples of an array, a sparse matrix or a data frame, which keeps its columns."""
    return X.iloc[indices] if hasattr(X, "iloc") else X[indices]


def as_float64(values: Any) -> Array:
    """Convert an array of any library, or a data frame, to NumPy's float64."""
    values = to_array(values, "values")
    if sparse.issparse(values):
        values = values.toarray()
    return np.asarray(to_host(values) if is_array_api_obj(values) else values, dtype=np.float64)


def check_by_name(parameter: str, results: Any, kind: type, key: str = "str") -> None:
    """Check that `results` is a non-empty mapping with values of type `kind`."""
    wrong = [] if isinstance(results, Mapping) else [results]
    wrong = wrong or [result for result in results.values() if not isinstance(result, kind)]
    if wrong:
        raise TypeError(
            f"{parameter} must be a dict of {key} to {kind.__name__}, got "
            f"{type(wrong[0]).__name__}{' as a value' if isinstance(results, Mapping) else ''}."
        )
    if not results:
        item = "model" if key == "str" else "epoch"
        raise ValueError(f"{parameter} must have at least one {item}, got {results!r}.")


def colored(results: Mapping[str, T]) -> Iterator[tuple[str, str, T]]:
    """Yield color, name and result of each model. Colors repeat if there are many models."""
    for color, (name, result) in zip(cycle(COLORS), results.items(), strict=False):
        yield color, name, result


def add_legend(ax: Any, **options: Any) -> None:
    """Add a legend above the axes, or to their right if it is long."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) < 2:
        return
    common = {"frameon": False, "borderaxespad": 0.2, "handlelength": 1.6, "fontsize": "small"}
    is_long = len(labels) > 6
    labels = [_wrap(label, MAX_RIGHT if is_long else MAX_ABOVE) for label in labels]
    if is_long:
        location = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "ncols": 1}
        # Texts may extend beyond the axes.
        edges = [text.get_window_extent().x1 for text in (ax, *ax.texts)]
        overhang = (max(edges) - edges[0]) / ax.figure.dpi
        location["bbox_transform"] = _moved_axes(ax, overhang, 0.0)
    else:
        # A formula is about as wide as two letters.
        lines = "\n".join(labels).split("\n")
        longest = max(len(re.sub(FORMULA, "xx", line)) for line in lines)
        ncols = 3 if longest <= 12 else 2 if longest <= 24 else 1
        location = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "ncols": ncols}
        # matplotlib may write a factor such as 1e6 above the vertical axis.
        formatter = ax.yaxis.get_major_formatter()
        formatter.set_locs(ax.yaxis.get_majorticklocs())
        up = LINE_HEIGHT if formatter.get_offset() else 0.0
        location["bbox_transform"] = _moved_axes(ax, 0.0, up)
    ax.legend(handles, labels, **{**common, **location, **options})


def _wrap(label: str, width: int) -> str:
    """Wrap a label to about two lines, shortened in the middle; keep formulas."""
    if re.search(FORMULA, label):
        return label
    plain = label.replace(r"\$", "$")
    if len(plain) <= width:
        return label
    if len(plain) > 2 * (half := int(0.85 * width)):
        # Names may differ at the end only.
        plain = f"{plain[:half]}\N{HORIZONTAL ELLIPSIS}{plain[-half:]}"
    return textwrap.fill(plain, width).replace("$", r"\$")


def _moved_axes(ax: Any, right: float, up: float) -> Any:
    """Return the transform of the axes, moved by some inches in any layout."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(right, up, ax.figure.dpi_scale_trans)
