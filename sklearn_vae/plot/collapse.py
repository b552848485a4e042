"""Which latent dimensions carry nothing of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics import CollapseCurve, collapse_curve
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.plot.base import (
    Array,
    Display,
    as_text,
    check_by_name,
    cycled,
    legend_off_the_data,
    named,
)
from sklearn_vae.protocol import adapted
from sklearn_vae.validation import check_real


class CollapseDisplay(Display):
    """Share of collapsed dimensions against epsilon, a curve a model.

    A dimension has collapsed where KL(q(z_h|x) || p(z_h)) is at most epsilon for all but a share
    delta of the rows. Snapshots of a model are dashed, in its colour.

    Parameters
    ----------
    curves : dict of str to CollapseCurve
        By the name of the model.
    snapshots : dict of str to CollapseCurve, default=None
        Of earlier epochs, by the names of the models in `curves`.
    snapshot_label : str, default="earlier"
        What the legend calls them.
    epsilon : float, default=0.01
        Where a thin line marks the definition that `collapsed_dims_` follows.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), figures 3 and 9.
    """

    def __init__(
        self,
        curves: Mapping[str, CollapseCurve],
        *,
        snapshots: Mapping[str, CollapseCurve] | None = None,
        snapshot_label: str = "earlier",
        epsilon: float = COLLAPSE_KL,
    ) -> None:
        self.curves = curves
        self.snapshots = snapshots
        self.snapshot_label = snapshot_label
        self.epsilon = epsilon

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
        """Of fitted models and rows.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
        X : array-like of shape (n, d)
        names : list of str, default=None
            Of the models in a list; None: their classes'.
        snapshot : int, default=None
            An epoch in the models' `snapshots_`, drawn dashed.
        delta, criterion
            As of :func:`~sklearn_vae.diagnostics.collapse`.
        ax : matplotlib Axes, default=None
        **options
            Of matplotlib's lines.
        """
        models = named(estimator, names)
        definition: Any = {"delta": delta, "criterion": criterion}
        curves = {name: collapse_curve(model, X, **definition) for name, model in models.items()}
        earlier = {
            name: collapse_curve(_snapshot(model, snapshot), X, **definition)
            for name, model in models.items()
            if snapshot is not None
        }
        label = f"after epoch {snapshot}"
        return cls.from_results(curves, snapshots=earlier, snapshot_label=label, ax=ax, **options)

    @classmethod
    def from_results(
        cls,
        curves: Mapping[str, CollapseCurve],
        *,
        snapshots: Mapping[str, CollapseCurve] | None = None,
        snapshot_label: str = "earlier",
        epsilon: float = COLLAPSE_KL,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Of what :func:`~sklearn_vae.diagnostics.collapse_curve` gives; parameters of the class."""
        display = cls(curves, snapshots=snapshots, snapshot_label=snapshot_label, epsilon=epsilon)
        return display.plot(ax, **options)

    def _prepare(self) -> None:
        check_by_name("curves", self.curves, CollapseCurve)
        if self.snapshots is not None and self.snapshots != {}:
            check_by_name("snapshots", self.snapshots, CollapseCurve)
            unknown = [name for name in self.snapshots if name not in self.curves]
            if unknown:
                raise ValueError(
                    f"snapshots must be of the models in curves, {list(self.curves)}, got "
                    f"{unknown[0]!r}."
                )
        check_real("epsilon", self.epsilon, above=0.0)

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        every = [*self.curves.values(), *(self.snapshots or {}).values()]
        thresholds = np.concatenate([curve.thresholds for curve in every])
        positive = thresholds[(thresholds > 0) & np.isfinite(thresholds)]
        low = min([self.epsilon, *positive]) / 3.0
        high = max([self.epsilon, *positive]) * 3.0
        self.lines_ = {}
        for color, (name, curve) in zip(cycled(len(self.curves)), self.curves.items(), strict=True):
            style = {"label": as_text(name), "color": color, **options}
            self.lines_[name] = _step(ax, curve, low, high, style)
            if self.snapshots and name in self.snapshots:
                dashed = {**style, "label": "_nolegend_", "linestyle": "--"}
                _step(ax, self.snapshots[name], low, high, dashed)
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
        legend_off_the_data(ax)


def _step(ax: Any, curve: CollapseCurve, low: float, high: float, style: Any) -> Any:
    steps = np.unique(np.clip(curve.thresholds, low, high))
    epsilon = np.concatenate([[low], steps, [high]])
    (line,) = ax.plot(epsilon, 100 * curve.at(epsilon), **{"drawstyle": "steps-post", **style})
    return line


def _snapshot(model: Any, epoch: int | None) -> Any:
    snapshots = adapted(model).snapshots
    if epoch not in snapshots:
        raise ValueError(
            f"snapshot must be one of the epochs in snapshots_ of {type(model).__name__}, "
            f"{sorted(snapshots)}, got {epoch!r}."
        )
    return snapshots[epoch]
