"""Display of collapsed dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics import CollapseCurve, collapse_curve
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.plot.base import (
    Array,
    Display,
    add_legend,
    as_text,
    check_by_name,
    colored,
    named,
)
from sklearn_vae.protocol import adapted
from sklearn_vae.validation import check_real


@dataclass(eq=False, repr=False)
class CollapseDisplay(Display):
    """Plot of the share of collapsed dimensions as a function of epsilon.

    A dimension has collapsed if KL(q(z_h|x) || p(z_h)) is at most epsilon for all samples except a
    share delta. Each model has one curve. Snapshots have the same color and are dashed.

    Parameters
    ----------
    curves : dict of str to CollapseCurve
        Curves by model name.
    snapshots : dict of str to CollapseCurve, default=None
        Curves at an earlier epoch by model name.
    snapshot_label : str, default="earlier"
        Label of the snapshots in the legend.
    epsilon : float, default=0.01
        Threshold that is marked by a thin line.

    Attributes
    ----------
    lines_ : dict of str to matplotlib Line2D
        Curves by model name.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    KLDisplay : KL of each dimension.
    sklearn_vae.diagnostics.collapse_curve : Compute the curves.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), figures 3 and 9.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import CollapseDisplay
    >>> X = load_iris().data
    >>> display = CollapseDisplay.from_estimator(PPCA(3).fit(X), X)
    >>> list(display.lines_)
    ['PPCA']
    """

    curves: Mapping[str, CollapseCurve]
    _: KW_ONLY
    snapshots: Mapping[str, CollapseCurve] | None = None
    snapshot_label: str = "earlier"
    epsilon: float = COLLAPSE_KL

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        names: Sequence[str] | None = None,
        snapshot: int | None = None,
        delta: float = COLLAPSE_SHARE,
        criterion: str = "share",
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compute the curves of fitted models, and plot them.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted models.
        X : array-like of shape (n_samples, n_features)
            Data.
        names : list of str, default=None
            Names of the models in a list. By default, their class names.
        snapshot : int, default=None
            Epoch in the models' `snapshots_` that is plotted dashed.
        delta : float, default=0.01
            Share of the samples that may exceed epsilon.
        criterion : {"share", "average"}, default="share"
            Definition of collapse, see :func:`~sklearn_vae.diagnostics.collapse`.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the lines.

        Returns
        -------
        CollapseDisplay
            The plotted display.
        """
        models = named(estimator, names)
        curves = {
            name: collapse_curve(model, X, delta, criterion) for name, model in models.items()
        }
        earlier = {
            name: collapse_curve(_snapshot(model, snapshot), X, delta, criterion)
            for name, model in models.items()
            if snapshot is not None
        }
        label = f"after epoch {snapshot}"
        return cls.from_results(curves, snapshots=earlier, snapshot_label=label, ax=ax, **options)

    def _prepare(self) -> None:
        check_by_name("curves", self.curves, CollapseCurve)
        if self.snapshots is not None and self.snapshots != {}:
            check_by_name("snapshots", self.snapshots, CollapseCurve)
            if unknown := [name for name in self.snapshots if name not in self.curves]:
                raise ValueError(
                    f"snapshots must have model names that are in curves, {list(self.curves)}, "
                    f"got {unknown[0]!r}."
                )
        check_real("epsilon", self.epsilon, above=0.0)

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        curves = [*self.curves.values(), *(self.snapshots or {}).values()]
        thresholds = np.concatenate([curve.thresholds for curve in curves])
        positive = thresholds[(thresholds > 0) & np.isfinite(thresholds)]
        low = min([self.epsilon, *positive]) / 3.0
        high = max([self.epsilon, *positive]) * 3.0
        self.lines_ = {}
        for color, name, curve in colored(self.curves):
            style = {"label": as_text(name), "color": color, **options}
            self.lines_[name] = _plot_steps(ax, curve, low, high, style)
            if self.snapshots and name in self.snapshots:
                dashed = {**style, "label": "_nolegend_", "linestyle": "--"}
                _plot_steps(ax, self.snapshots[name], low, high, dashed)
        ax.axvline(self.epsilon, color="0.6", linewidth=0.8, zorder=0)
        ax.set(
            xscale="log",
            xlim=(low, high),
            ylim=(-3, 103),
            xlabel="epsilon (nats)",
            ylabel="collapsed dimensions (%)",
        )
        if self.snapshots:
            ax.plot([], [], "--", color="0.4", label=self.snapshot_label)
        add_legend(ax)


def _plot_steps(ax: Any, curve: CollapseCurve, low: float, high: float, style: Any) -> Any:
    steps = np.unique(np.clip(curve.thresholds, low, high))
    epsilon = np.concatenate([[low], steps, [high]])
    (line,) = ax.plot(epsilon, 100 * curve.at(epsilon), **{"drawstyle": "steps-post", **style})
    return line


def _snapshot(model: Any, epoch: int | None) -> Any:
    snapshots = adapted(model).snapshots
    if epoch not in snapshots:
        raise ValueError(
            f"snapshot must be an epoch in snapshots_ of {type(model).__name__}, "
            f"{sorted(snapshots)}, got {epoch!r}."
        )
    return snapshots[epoch]
