"""Display of eigenvalues and of the numbers of dimensions that criteria choose."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics.dimension_choice import DimensionChoice, choose_dimensions
from sklearn_vae.plot.base import COLORS, Array, Display, add_legend
from sklearn_vae.protocol import check_methods

# Number of eigenvalues shown after the largest choice, as a share of it, and the minimum.
BEYOND, MIN_BEYOND = 0.6, 8


@dataclass(eq=False, repr=False)
class DimensionChoiceDisplay(Display):
    """Plot of the eigenvalues of the covariance with the choices of several criteria.

    A vertical line follows the last dimension that a criterion counts. Criteria with the same
    choice share a line. A curve shows what noise of the same total variance can reach, and a
    horizontal line the edge of noise by Marchenko and Pastur.

    Parameters
    ----------
    choice : DimensionChoice
        Result of :func:`sklearn_vae.diagnostics.choose_dimensions`.

    Attributes
    ----------
    lines_ : dict of int to matplotlib Line2D
        Vertical lines by number of dimensions.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    CVCurveDisplay : Scores of a cross-validated search.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae.diagnostics import choose_dimensions
    >>> from sklearn_vae.plot import DimensionChoiceDisplay
    >>> display = DimensionChoiceDisplay.from_results(choose_dimensions(load_iris().data))
    >>> display.ax_.get_xlabel()
    'dimension'
    """

    choice: DimensionChoice

    _size = (1.0, 1.25)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, ax: Any = None, **options: Any) -> Self:
        """Compare the number of dimensions of a fitted model with the criteria, and plot them.

        Parameters
        ----------
        estimator : PPCACV or FactorAnalysisCV
            Fitted search.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples without missing values.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the line of eigenvalues.

        Returns
        -------
        DimensionChoiceDisplay
            The plotted display.
        """
        check_methods(estimator, cls.__name__, "fit", "transform")
        return cls.from_results(choose_dimensions(X, search=estimator), ax=ax, **options)

    def _prepare(self) -> None:
        if not isinstance(self.choice, DimensionChoice):
            raise TypeError(f"choice must be a DimensionChoice, got {type(self.choice).__name__}.")

    def _draw(self, axes: Array, **options: Any) -> None:
        ax, choice = axes[0, 0], self.choice
        names = defaultdict(list)
        for name, k in choice.choices.items():
            names[k].append(name)
        shown = max(names) + max(int(BEYOND * max(names)), MIN_BEYOND)
        values = choice.eigenvalues[: min(shown, np.count_nonzero(choice.eigenvalues))]
        dimensions = np.arange(1, len(values) + 1)
        style = {"color": COLORS[0], "marker": "o", "markersize": 3.5, "linewidth": 1.2}
        ax.plot(dimensions, values, **{**style, "label": "eigenvalues", **options})
        limits = choice.noise_limits[: len(values)]
        gray = {"color": "0.55", "linewidth": 1.0}
        ax.plot(dimensions, limits, linestyle="--", label="noise, 95 % (parallel analysis)", **gray)
        ax.axhline(choice.edge, linestyle=":", label="noise, edge (Marchenko-Pastur)", **gray)
        self.lines_ = {}
        for color, k in zip(COLORS[1:] * len(names), sorted(names), strict=False):
            label = f"{k}: {', '.join(names[k])}"
            self.lines_[k] = ax.axvline(k + 0.5, color=color, linewidth=1.4, zorder=0, label=label)
        if values[0] > 20.0 * values[-1]:
            ax.set_yscale("log")
        ax.set(xlabel="dimension", ylabel="eigenvalue")
        ax.set_xlim(0.5, len(values) + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True)
        add_legend(ax)
