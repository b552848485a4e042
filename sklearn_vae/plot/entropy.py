"""Display of ELBO and entropies over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics import Entropies, entropy_bound
from sklearn_vae.plot.base import (
    COLORS,
    Array,
    Display,
    add_legend,
    as_text,
    check_by_name,
    named,
)
from sklearn_vae.plot.histories import (
    check_histories,
    count_steps,
    history_of,
    limit_values,
    line_style,
    step_label,
    steps_of,
)
from sklearn_vae.protocol import adapted

# By key of the history: attribute of `Entropies`, label, color and panel.
LINES = {
    "bound": ("elbo", "ELBO", COLORS[0], 0),
    "entropy_bound": ("bound", "sum of entropies", COLORS[1], 0),
    "prior_entropy": ("prior", "$H[p(z)]$", COLORS[6], 1),
    "posterior_entropy": ("posterior", "$H[q(z|x)]$", COLORS[2], 1),
    "noise_entropy": ("decoder", "$H[p(x|z)]$", COLORS[3], 2),
}
LABELS = ("ELBO", "entropies", "$H[p(x|z)]$", "parts")

# Maximum number of bars with gaps between them.
MAX_WITH_GAPS = 50


@dataclass(eq=False, repr=False)
class EntropyDisplay(Display):
    """Plot of the ELBO and the sum of three entropies over training.

    The sum is H[q(z|x)] - H[p(z)] - H[p(x|z)]. The panels show, from the top, the ELBO and the sum,
    the entropies of z, the entropy of p(x|z), and the terms of the final difference ELBO minus sum.
    Each model has a column. Lines show values recorded in training. Circles show values on the
    given data, after training and at snapshots.

    Parameters
    ----------
    histories : dict of str to dict of arrays
        Histories by model name, such as `history_` or {"bound": `elbo_history_`}. The key "bound"
        is required. "posterior_entropy", "prior_entropy" and "noise_entropy" are optional. All
        values are in nats per sample. "epoch" or "iteration" number the values, which are otherwise
        counted from 1.
    entropies : dict of str to dict of int to Entropies
        Entropies of the given data, by model name and epoch.

    Attributes
    ----------
    lines_ : dict of str to dict of str to matplotlib Line2D
        Lines by model name and key of the history. The key of the sum is "entropy_bound".
    bars_ : dict of str to matplotlib BarContainer
        Parts of the difference, by model name: noise and latent dimensions.
    ax_, figure_ : ndarray of matplotlib Axes, and Figure
        Set by `plot`.

    See Also
    --------
    TrainingDisplay : Bound, KL and noise variance over training.
    sklearn_vae.diagnostics.entropy_bound : Compute the sum of three entropies.

    References
    ----------
    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", figures 1 to 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import LinearVAE
    >>> from sklearn_vae.plot import EntropyDisplay
    >>> X = load_iris().data
    >>> display = EntropyDisplay.from_estimator(LinearVAE(2).fit(X), X)
    >>> display.ax_.shape
    (4, 1)
    """

    _height_ratios = (1.2, 0.9, 0.9, 1.0)

    histories: Mapping[str, Mapping[str, Any]]
    entropies: Mapping[str, Mapping[int, Entropies]]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        names: Sequence[str] | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compute the entropies of fitted models, and plot them.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted models.
        X : array-like of shape (n_samples, n_features)
            Data without missing values.
        names : list of str, default=None
            Names of the models in a list. By default, their class names.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the lines.

        Returns
        -------
        EntropyDisplay
            The plotted display.
        """
        histories, entropies = {}, {}
        for name, model in named(estimator, names).items():
            histories[name] = history_of(model, cls.__name__)
            end = int(steps_of(histories[name])[-1])
            models = {**adapted(model).snapshots, end: model}
            entropies[name] = {epoch: _in_own_units(m, X) for epoch, m in sorted(models.items())}
        return cls.from_results(histories, entropies, ax=ax, **options)

    def _prepare(self) -> None:
        check_histories(self.histories)
        check_by_name("entropies", self.entropies, Mapping)
        if self.histories.keys() != self.entropies.keys():
            raise ValueError(
                f"entropies must have the same model names as histories, {list(self.histories)}, "
                f"got {list(self.entropies)}."
            )
        for name, by_epoch in self.entropies.items():
            check_by_name(f"entropies of {name!r}", by_epoch, Entropies, "int")
            if "bound" not in self.histories[name]:
                raise ValueError(
                    f"histories must have a bound, but the history of {name!r} has none."
                )
        n = len(self.histories)
        self._panels = (4, n)
        self._size = (max(1.0, 0.66 * n), 2.3)

    def _draw(self, axes: Array, **options: Any) -> None:
        self.lines_: dict[str, dict[str, Any]] = {}
        self.bars_ = {}
        has_several = len(self.histories) > 1
        for column, name in zip(axes.T, self.histories, strict=True):
            end = self.entropies[name][max(self.entropies[name])]
            self.lines_[name] = self._draw_column(column[:3], name, options)
            self.bars_[name] = _draw_parts(column[3], end, has_several)
            title = {"title": as_text(name), "alignment": "left", "ncols": 1} if has_several else {}
            add_legend(column[0], **title)
            add_legend(column[1])
        for ax, label in zip(axes[:, 0], LABELS, strict=True):
            ax.set_ylabel(f"{label}\n(nats)")
        self.figure_.align_ylabels(axes[:, 0])

    def _draw_column(self, column: Array, name: str, options: Any) -> dict[str, Any]:
        history, by_epoch = self._curves(name), self.entropies[name]
        steps = steps_of(self.histories[name])
        for ax in column[:-1]:
            ax.sharex(column[-1])
            ax.tick_params(labelbottom=False)
        column[-1].set_xlabel(step_label({name: self.histories[name]}))
        count_steps(column[-1])
        lines, circles = {}, {"marker": "o", "markerfacecolor": "none", "linestyle": ""}
        for key, (attribute, label, color, row) in LINES.items():
            ax, style = column[row], {"color": color, **line_style(len(steps))}
            if key == "entropy_bound":
                style["linestyle"] = "--"
            if key in history:
                style = {**style, "label": label, **options}
                (lines[key],) = ax.plot(steps, history[key], **style)
                label = "_nolegend_"
            values = [getattr(entropies, attribute) for entropies in by_epoch.values()]
            ax.plot([*by_epoch], values, color=color, label=label, markersize=5, **circles)
        for ax in column:
            limit_values(ax)
        label = "given data, after training" if len(by_epoch) == 1 else "given data, at snapshots"
        column[0].plot([], [], color="0.3", label=label, markersize=5, **circles)
        return lines

    def _curves(self, name: str) -> dict[str, Array]:
        """Return the plotted values of a history, with the sum if all entropies are recorded."""
        history = self.histories[name]
        curves = {key: np.asarray(history[key], float) for key in LINES if key in history}
        if {"posterior_entropy", "prior_entropy", "noise_entropy"} <= curves.keys():
            others = curves["prior_entropy"] + curves["noise_entropy"]
            curves["entropy_bound"] = curves["posterior_entropy"] - others
        return curves


def _in_own_units(model: Any, X: Any) -> Entropies:
    """Compute entropies with z in units of the model, as in its history."""
    result = entropy_bound(model, X)
    variance = np.broadcast_to(adapted(model).prior_variance, len(result.dimension_gains))
    shift = 0.5 * float(np.log(variance).sum())
    return replace(result, posterior=result.posterior + shift, prior=result.prior + shift)


def _draw_parts(ax: Any, entropies: Entropies, has_several: bool) -> Any:
    """Draw the parts of the gap as bars, with the noise on the left."""
    gap, k = entropies.gap, len(entropies.dimension_gains)
    noise_width = max(0.8, 0.04 * k)
    widths = np.append(noise_width, np.full(k, 0.8 if k <= MAX_WITH_GAPS else 1.0))
    x = np.append(-1.0 - noise_width, np.arange(k))
    heights = np.append(gap.noise, gap.dimensions)
    bars = ax.bar(x, heights, widths, color=[COLORS[3], *[COLORS[0]] * k], linewidth=0)
    ax.axhline(0.0, color="0.4", linewidth=0.8)
    # Gaps far below the tolerance should look like 0.
    low, high = ax.get_ylim()
    least = 0.1 * entropies.tolerance
    ax.set_ylim(min(low, -least), max(high, least))
    n_ticks = 5 if has_several else 10
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, k) if k <= n_ticks * s)
    ticks = range(0 if step == 1 else step, k, step)
    ax.set_xticks([x[0], *ticks], ["noise", *map(str, ticks)])
    margin = 0.3 + max(0, 4 - k)  # against very wide bars
    ax.set_xlim(x[0] - 0.7 * noise_width, k - 0.5 + margin)
    ax.set_xlabel("latent dimension")
    total, noise, dimensions = (
        f"{v:+.3f}" if abs(v) < 100 else f"{v:+.4g}"
        for v in (gap.total, gap.noise, float(gap.dimensions.sum()))
    )
    text = f"ELBO - sum {total} = noise {noise}, dimensions {dimensions}"
    text = text.replace(" = ", "\n= ") if has_several else text
    ax.set_title(text.replace("-", "\N{MINUS SIGN}"), loc="left", fontsize="small")
    return bars
