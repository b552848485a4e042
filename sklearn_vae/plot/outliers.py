"""Display of T2 against SPE, with limits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.outliers.detector import OutlierDetector
from sklearn_vae.outliers.statistics import per_degree
from sklearn_vae.plot.base import COLORS, Array, Display, add_legend, as_float64
from sklearn_vae.protocol import check_methods

# Style of usual samples and of outliers, with different markers for readers who do not see colors.
USUAL = {"marker": "o", "s": 12, "linewidth": 0, "alpha": 0.8, "color": COLORS[0]}
OUTLIER = {"marker": "x", "s": 22, "linewidth": 1.2, "color": COLORS[5]}

# Highest number of decades on an axis below the limit.
MAX_DECADES = 3


@dataclass(eq=False, repr=False)
class OutlierDisplay(Display):
    """Plot of the distance of samples in latent space against their residual.

    A sample far to the right is unusual in its latent variables: extreme, but with the usual
    relations between features. A sample far up breaks these relations.

    Parameters
    ----------
    t2 : ndarray of shape (n_samples,)
        Hotelling's T2, divided by its degrees of freedom.
    spe : ndarray of shape (n_samples,)
        Squared prediction error, divided by its degrees of freedom.
    is_outlier : ndarray of bool of shape (n_samples,)
        Which samples are labeled outliers.
    t2_limit, spe_limit : float, default=None
        Limits of T2 and SPE, dashed. By default, or if infinite, they are not drawn.
    calibration : tuple of two ndarrays, default=None
        T2 and SPE of usual samples for comparison, in gray.
    level : float, default=None
        Probability that a usual sample is above a limit, for the legend.

    Attributes
    ----------
    usual_, outliers_, calibration_ : matplotlib PathCollection
        Plotted points.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    sklearn_vae.OutlierDetector : Outlier detector with p-values.
    ContributionDisplay : Contributions of the features of one sample.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import OutlierDetector
    >>> from sklearn_vae.plot import OutlierDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = OutlierDetector(level=0.05, random_state=0).fit(X[y == 1])
    >>> display = OutlierDisplay.from_estimator(detector, X[y == 0])
    >>> bool(display.is_outlier.mean() > 0.9)
    True
    """

    t2: Array
    spe: Array
    is_outlier: Array
    _: KW_ONLY
    t2_limit: float | None = None
    spe_limit: float | None = None
    calibration: tuple[Array, Array] | None = None
    level: float | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        show_calibration: bool = True,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compute T2, SPE and labels of samples, and plot them.

        Parameters
        ----------
        estimator : OutlierDetector
            Fitted detector of a model with `posterior` and `conditional`.
        X : array-like of shape (n_samples, n_features)
            Samples.
        show_calibration : bool, default=True
            Whether to plot the calibration samples of the detector, too.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the points of X.

        Returns
        -------
        OutlierDisplay
            The plotted display.
        """
        check_methods(estimator, cls.__name__, "predict", "distances")
        if not isinstance(estimator, OutlierDetector):
            raise TypeError(
                f"{cls.__name__} requires an OutlierDetector, got {type(estimator).__name__}."
            )
        t2, spe = per_degree(estimator.distances(X))
        calibration = estimator.calibration_t2_, estimator.calibration_spe_
        return cls.from_results(
            t2,
            spe,
            estimator.predict(X) == -1,
            t2_limit=estimator.t2_limit_,
            spe_limit=estimator.spe_limit_,
            calibration=calibration if show_calibration else None,
            level=estimator.level,
            ax=ax,
            **options,
        )

    def _prepare(self) -> None:
        shapes = {np.shape(values) for values in (self.t2, self.spe, self.is_outlier)}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1 or 0 in next(iter(shapes)):
            raise ValueError(
                "t2, spe and is_outlier must have the same length, at least 1, got shapes "
                f"{np.shape(self.t2)}, {np.shape(self.spe)} and {np.shape(self.is_outlier)}."
            )

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        points = as_float64(self.t2), as_float64(self.spe)
        is_outlier = np.asarray(self.is_outlier, dtype=bool)
        given = (np.empty(0), np.empty(0)) if self.calibration is None else self.calibration
        usual_too = [as_float64(values) for values in given]
        limits = [np.inf if limit is None else limit for limit in (self.t2_limit, self.spe_limit)]
        ranges = [
            _set_axis(ax, axis, np.concatenate(values), limit)
            for axis, values, limit in zip(
                "xy", zip(points, usual_too, strict=True), limits, strict=True
            )
        ]
        style = {"marker": "o", "s": 10, "linewidth": 0, "color": "0.75", "zorder": 1}
        if usual_too[0].size:
            label = f"calibration samples ({len(usual_too[0])})"
            self.calibration_ = ax.scatter(*_clipped(usual_too, ranges), label=label, **style)
        self._draw_limits(ax, limits)
        n = int(is_outlier.sum())
        parts = {False: ("labeled usual", USUAL), True: ("labeled outliers", OUTLIER)}
        drawn = {}
        for flag, (name, style) in parts.items():
            chosen = [values[is_outlier == flag] for values in points]
            count = n if flag else len(is_outlier) - n
            style = {"label": f"{name} ({count})", "zorder": 3, **style, **options}
            drawn[flag] = ax.scatter(*_clipped(chosen, ranges), **style)
        self.usual_, self.outliers_ = drawn[False], drawn[True]
        ax.set_xlabel(r"$T^2$ / degrees of freedom (latent)")
        ax.set_ylabel("SPE / degrees of freedom (residual)")
        add_legend(ax)

    def _draw_limits(self, ax: Any, limits: list[float]) -> None:
        style = {"color": "black", "linewidth": 0.8, "linestyle": "--", "zorder": 2}
        label = "limits" if self.level is None else f"limits at level {self.level:g}"
        for limit, draw in zip(limits, (ax.axvline, ax.axhline), strict=True):
            if np.isfinite(limit):
                draw(limit, label=label, **style)
                label = "_nolegend_"


def _set_axis(ax: Any, axis: str, values: Array, limit: float) -> tuple[float, float]:
    """Set a logarithmic axis, or a linear one if all values are 0, and return its range."""
    finite = values[np.isfinite(values)]
    high = max([limit if np.isfinite(limit) else 0.0, *finite[finite > 0.0]], default=0.0)
    if high == 0.0:
        getattr(ax, f"set_{axis}lim")(-1.0, 1.0)
        return -1.0, 1.0
    top = limit if np.isfinite(limit) and limit > 0 else high
    low = max(finite[finite > 0.0].min(initial=top), top / 10.0**MAX_DECADES)
    low, high = low / 1.5, 1.5 * high
    getattr(ax, f"set_{axis}scale")("log")
    getattr(ax, f"set_{axis}lim")(low, high)
    return low, high


def _clipped(points: Any, ranges: list[tuple[float, float]]) -> list[Array]:
    """Move points beyond the axes to their edges."""
    return [np.clip(values, *limits) for values, limits in zip(points, ranges, strict=True)]
