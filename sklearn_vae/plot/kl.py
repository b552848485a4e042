"""KL of each latent dimension."""

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
    as_text,
    check_by_name,
    colored,
    legend_off_the_data,
    named,
)

# Most bars that stand apart, and most dimensions that have a tick each.
APART, NAMED = 50, 16


@dataclass(eq=False, repr=False)
class KLDisplay(Display):
    """KL(q(z_h|x) || p(z_h)) of each dimension, averaged over samples, the largest first.

    The axis is linear up to epsilon, which a thin line marks, and logarithmic above. One model has
    bars, on grey where the dimension has collapsed; several have steps, dotted there.

    Parameters
    ----------
    collapses : dict of str to Collapse
        By the name of the model.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        For one model.
    steps_ : dict of str to matplotlib StepPatch
        For several models, NaN where a dimension has collapsed.
    collapsed_steps_ : dict of str to matplotlib StepPatch
        For several models, NaN where a dimension has not collapsed.

    References
    ----------
    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), section 5.2; Lucas,
    Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), section 6.3.
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
        """Compute the KL of fitted models, and draw it.

        Parameters
        ----------
        estimator, X, names, ax
            As in :meth:`PosteriorScaleDisplay.from_estimator`.
        epsilon, delta, criterion
            As in :func:`~sklearn_vae.diagnostics.collapse`.
        **options
            Options of matplotlib's bars, or of its StepPatch for several models.
        """
        models = named(estimator, names).items()
        collapses = {name: collapse(model, X, epsilon, delta, criterion) for name, model in models}
        return cls.from_results(collapses, ax=ax, **options)

    def _prepare(self) -> None:
        check_by_name("collapses", self.collapses, Collapse)
        for name, result in self.collapses.items():
            if not result.n_components:
                raise ValueError(
                    f"collapses must have at least one latent dimension, and that of {name!r} "
                    "has none."
                )

    def _draw(self, axes: Array, **options: Any) -> None:
        ax, results = axes[0, 0], list(self.collapses.values())
        every = np.concatenate([result.kl_per_dim for result in results])
        epsilons = sorted({result.epsilon for result in results})
        linear = epsilons[0] or COLLAPSE_KL
        # So that at least a decade is logarithmic; a KL may be infinite.
        high = 2.0 * max(10 * epsilons[-1], 10 * linear, *every[np.isfinite(every)])
        ax.set_yscale("symlog", linthresh=linear, linscale=0.6)
        ax.yaxis.set_major_formatter("{x:g}")
        for epsilon in epsilons:
            ax.axhline(epsilon, color="black", linewidth=0.8, linestyle="--", zorder=3)
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate("epsilon", (1.0, epsilon), (3, 0), fontsize="small", va="center", **place)
        if len(results) == 1:
            self._draw_bars(ax, results[0], high, **options)
        else:
            self._draw_steps(ax, high, **options)
        k = max(result.n_components for result in results)
        spare = 0.1 + 0.5 * max(0, 4 - k)  # a bar alone would be as wide as the axes
        low = 0.0 if len(results) == 1 else -0.12 * linear  # a line at 0 is not to be cut in half
        ax.set(ylim=(low, high), xlim=(0.5 - spare, k + 0.5 + spare))
        ax.set_ylabel("KL per dimension (nats)")
        legend_off_the_data(ax)

    def _draw_bars(self, ax: Any, result: Collapse, high: float, **options: Any) -> None:
        order, k = _largest_first(result), result.n_components
        kl = np.minimum(result.kl_per_dim[order], high)
        width = {"width": 0.8} if k <= APART else {"width": 1.0, "linewidth": 0}
        style = {"color": COLORS[0], **width, **options}
        self.bars_ = ax.bar(np.arange(1, k + 1), kl, **style)
        self.bars_[0].set_label(f"active, {len(result.active)}")  # before the grey in the legend
        label = f"collapsed, {len(result.collapsed)}"
        for rank in np.flatnonzero(np.isin(order, result.collapsed)) + 1:
            ax.axvspan(rank - 0.5, rank + 0.5, color="0.85", linewidth=0, zorder=0, label=label)
            label = "_nolegend_"
        if k <= NAMED:
            ax.set_xticks(np.arange(1, k + 1), order)
            ax.set_xlabel("latent dimension")
        else:
            _count_from_one(ax, k)

    def _draw_steps(self, ax: Any, high: float, **options: Any) -> None:
        self.steps_, self.collapsed_steps_ = {}, {}
        # The later the thinner, so that a line shows beneath one that is equal.
        widths = np.linspace(2.8, 1.2, len(self.collapses))
        for linewidth, (color, name, result) in zip(widths, colored(self.collapses), strict=True):
            order, k = _largest_first(result), result.n_components
            kl, gone = result.kl_per_dim[order], np.isin(order, result.collapsed)
            edges = np.arange(k + 1) + 0.5
            kl = np.minimum(kl, high)
            label = f"{as_text(name)}, {len(result.active)} of {k} active"
            style = {"color": color, "baseline": None, "linewidth": linewidth, **options}
            self.steps_[name] = ax.stairs(np.where(gone, np.nan, kl), edges, label=label, **style)
            style = {**style, "linestyle": (0, (1, 1))}
            self.collapsed_steps_[name] = ax.stairs(np.where(gone, kl, np.nan), edges, **style)
        if any(len(result.collapsed) for result in self.collapses.values()):
            ax.plot([], [], color="0.4", linestyle=(0, (1, 1)), label="collapsed")
        _count_from_one(ax, max(result.n_components for result in self.collapses.values()))


def _largest_first(result: Collapse) -> Array:
    return np.argsort(-result.kl_per_dim, kind="stable")


def _count_from_one(ax: Any, k: int) -> None:
    """Ticks at every rank, or where these are many at 1 and the multiples of a round number."""
    round_numbers = (5, 10, 20, 50, 100, 200, 500, k)
    step = 1 if k <= NAMED else next(s for s in round_numbers if k <= 10 * s)
    ax.set_xticks([1, *range(max(2, step), k + 1, step)])
    ax.set_xlabel("rank of the latent dimension")
