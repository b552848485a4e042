"""Display of the KL of each latent dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics import Collapse, collapse
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.plot.base import (
    COLORS,
    Array,
    Display,
    add_legend,
    as_text,
    check_by_name,
    colored,
    named,
)

# Maximum number of bars with gaps between them, and of dimensions with a tick each.
MAX_WITH_GAPS, MAX_TICKS = 50, 16


@dataclass(eq=False, repr=False)
class KLDisplay(Display):
    """Plot of the average KL of each latent dimension, in descending order.

    This is KL(q(z_h|x) || p(z_h)) averaged over the samples. The axis is linear up to epsilon,
    which a dashed line marks, and logarithmic above. A single model is plotted as bars, on gray for
    collapsed dimensions. Several models are plotted as steps, dotted for collapsed dimensions. With
    `criterion="share"`, a dimension can be active although its average is below epsilon, if it
    matters for a few samples; the legend counts these dimensions.

    Parameters
    ----------
    collapses : dict of str to Collapse
        KL and collapsed dimensions by model name.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        Bars of a single model.
    steps_ : dict of str to matplotlib StepPatch
        Steps of several models, NaN for collapsed dimensions.
    collapsed_steps_ : dict of str to matplotlib StepPatch
        Steps of several models, NaN for active dimensions.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    CollapseDisplay : Share of collapsed dimensions for every epsilon.
    sklearn_vae.diagnostics.collapse : Compute KL and collapsed dimensions.

    References
    ----------
    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), section 5.2; Lucas,
    Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), section 6.3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import KLDisplay
    >>> X = load_iris().data
    >>> display = KLDisplay.from_estimator(PPCA(3).fit(X), X)
    >>> len(display.bars_)
    3
    """

    collapses: Mapping[str, Collapse]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        names: Sequence[str] | None = None,
        epsilon: float = COLLAPSE_KL,
        delta: float = COLLAPSE_SHARE,
        criterion: str = "share",
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compute the KL of fitted models, and plot it.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted models.
        X : array-like of shape (n_samples, n_features)
            Data.
        names : list of str, default=None
            Names of the models in a list. By default, their class names.
        epsilon : float, default=0.01
            Threshold of the KL in nats.
        delta : float, default=0.01
            Share of the samples that may exceed epsilon.
        criterion : {"share", "average"}, default="share"
            Definition of collapse, see :func:`~sklearn_vae.diagnostics.collapse`.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the bars, or of the StepPatch for several models.

        Returns
        -------
        KLDisplay
            The plotted display.
        """
        models = named(estimator, names).items()
        collapses = {name: collapse(model, X, epsilon, delta, criterion) for name, model in models}
        return cls.from_results(collapses, ax=ax, **options)

    def _prepare(self) -> None:
        check_by_name("collapses", self.collapses, Collapse)
        for name, result in self.collapses.items():
            if not result.n_components:
                raise ValueError(
                    f"collapses must have at least one latent dimension, but {name!r} has none."
                )

    def _draw(self, axes: Array, **options: Any) -> None:
        ax, results = axes[0, 0], list(self.collapses.values())
        kl = np.concatenate([result.kl_per_dim for result in results])
        epsilons = sorted({result.epsilon for result in results})
        linear = epsilons[0] or COLLAPSE_KL
        # At least one decade is logarithmic. A KL may be infinite.
        high = 2.0 * max(10 * epsilons[-1], 10 * linear, *kl[np.isfinite(kl)])
        ax.set_yscale("symlog", linthresh=linear, linscale=0.6)
        ax.yaxis.set_major_formatter("{x:g}")
        for epsilon in epsilons:
            ax.axhline(epsilon, color="black", linewidth=0.8, linestyle="--", zorder=3)
            coordinates = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            style = {"fontsize": "small", "va": "center", **coordinates}
            ax.annotate("epsilon", (1.0, epsilon), (3, 0), **style)
        if len(results) == 1:
            self._draw_bars(ax, results[0], high, **options)
        else:
            self._draw_steps(ax, high, **options)
        k = max(result.n_components for result in results)
        margin = 0.1 + 0.5 * max(0, 4 - k)  # against very wide bars
        low = 0.0 if len(results) == 1 else -0.12 * linear  # keeps lines at 0 visible
        ax.set(ylim=(low, high), xlim=(0.5 - margin, k + 0.5 + margin))
        ax.set_ylabel("KL per dimension (nats)")
        add_legend(ax)

    def _draw_bars(self, ax: Any, result: Collapse, high: float, **options: Any) -> None:
        order, k = _largest_first(result), result.n_components
        kl = np.minimum(result.kl_per_dim[order], high)
        width = {"width": 0.8} if k <= MAX_WITH_GAPS else {"width": 1.0, "linewidth": 0}
        style = {"color": COLORS[0], **width, **options}
        self.bars_ = ax.bar(np.arange(1, k + 1), kl, **style)
        self.bars_[0].set_label(
            f"active, {len(result.active)}{_below(result)}"
        )  # first in the legend
        label = f"collapsed, {len(result.collapsed)}"
        for rank in np.flatnonzero(np.isin(order, result.collapsed)) + 1:
            ax.axvspan(rank - 0.5, rank + 0.5, color="0.85", linewidth=0, zorder=0, label=label)
            label = "_nolegend_"
        if k <= MAX_TICKS:
            ax.set_xticks(np.arange(1, k + 1), order)
            ax.set_xlabel("latent dimension")
        else:
            _count_from_one(ax, k)

    def _draw_steps(self, ax: Any, high: float, **options: Any) -> None:
        self.steps_, self.collapsed_steps_ = {}, {}
        # Decreasing widths keep a line visible below an equal one.
        widths = np.linspace(2.8, 1.2, len(self.collapses))
        for linewidth, (color, name, result) in zip(widths, colored(self.collapses), strict=True):
            order, k = _largest_first(result), result.n_components
            kl = np.minimum(result.kl_per_dim[order], high)
            is_collapsed = np.isin(order, result.collapsed)
            edges = np.arange(k + 1) + 0.5
            label = f"{as_text(name)}, {len(result.active)} of {k} active{_below(result)}"
            style = {"color": color, "baseline": None, "linewidth": linewidth, **options}
            active = np.where(is_collapsed, np.nan, kl)
            self.steps_[name] = ax.stairs(active, edges, label=label, **style)
            collapsed = np.where(is_collapsed, kl, np.nan)
            style = {**style, "linestyle": (0, (1, 1))}
            self.collapsed_steps_[name] = ax.stairs(collapsed, edges, **style)
        if any(len(result.collapsed) for result in self.collapses.values()):
            ax.plot([], [], color="0.4", linestyle=(0, (1, 1)), label="collapsed")
        _count_from_one(ax, max(result.n_components for result in self.collapses.values()))


def _below(result: Collapse) -> str:
    """Describe how many active dimensions have an average KL below epsilon."""
    n = int((result.kl_per_dim[result.active] <= result.epsilon).sum())
    return f" ({n} below epsilon on average)" if n else ""


def _largest_first(result: Collapse) -> Array:
    return np.argsort(-result.kl_per_dim, kind="stable")


def _count_from_one(ax: Any, k: int) -> None:
    """Set ticks at every rank, or at 1 and multiples of a round number if there are many."""
    round_numbers = (5, 10, 20, 50, 100, 200, 500, k)
    step = 1 if k <= MAX_TICKS else next(s for s in round_numbers if k <= 10 * s)
    ax.set_xticks([1, *range(max(2, step), k + 1, step)])
    ax.set_xlabel("rank of the latent dimension")
