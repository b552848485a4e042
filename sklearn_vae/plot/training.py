"""Display of training histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.plot.base import Array, Display, add_legend, as_text, colored, named
from sklearn_vae.plot.histories import (
    check_histories,
    count_steps,
    history_of,
    limit_values,
    line_style,
    step_label,
    steps_of,
)

# Labels of the panels, from the top, by key of the history.
PANELS = {
    "bound": "bound (nats)",
    "score": "$-$ squared error",
    "kl": "KL (nats)",
    "noise_variance": "noise\nvariance",
    "active_dims": "active\ndimensions",
}


@dataclass(eq=False, repr=False)
class TrainingDisplay(Display):
    """Plot of bound, KL, noise variance and active dimensions over training.

    Each recorded quantity has a panel, and each model has a color. Values on held-out samples are
    dashed. If the noise differs between features, the line is the mean and the range is shaded. The
    first values are cut off if they would hide changes in all others. Lines below equal ones are
    wider, so that both are visible.

    Parameters
    ----------
    histories : dict of str to dict of arrays
        Histories by model name, such as `history_` or {"bound": `elbo_history_`}. Their keys
        "epoch" or "iteration" number the values, which are otherwise counted from 1. The key
        "score" is minus the squared error of an autoencoder.

    Attributes
    ----------
    lines_ : dict of str to dict of str to matplotlib Line2D
        Lines by model name and key of the history.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    EntropyDisplay : Entropies over training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import LinearVAE
    >>> from sklearn_vae.plot import TrainingDisplay
    >>> display = TrainingDisplay.from_estimator(LinearVAE(2).fit(load_iris().data))
    >>> list(display.lines_["LinearVAE"])
    ['bound', 'noise_variance']
    """

    _share_x = True

    histories: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        names: Sequence[str] | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Plot the training histories of fitted models.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted models.
        X : Ignored
            Not used, present for API consistency by convention.
        names : list of str, default=None
            Names of the models in a list. By default, their class names.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the lines.

        Returns
        -------
        TrainingDisplay
            The plotted display.
        """
        models = named(estimator, names)
        histories = {name: history_of(model, cls.__name__) for name, model in models.items()}
        return cls.from_results(histories, ax=ax, **options)

    def _prepare(self) -> None:
        check_histories(self.histories)
        for name, history in self.histories.items():
            if not PANELS.keys() & history.keys():
                raise ValueError(
                    f"histories must have one of {', '.join(PANELS)}, but the history of {name!r} "
                    f"has {', '.join(history) or 'no key'}."
                )
        rows = len(self._recorded_keys())
        self._panels = (rows, 1)
        self._size = (1.0, 0.5 * (rows + 1))

    def _recorded_keys(self) -> list[str]:
        return [name for name in PANELS if any(name in h for h in self.histories.values())]

    def _draw(self, axes: Array, **options: Any) -> None:
        self.lines_: dict[str, dict[str, Any]] = {name: {} for name in self.histories}
        for ax, key in zip(axes[:, 0], self._recorded_keys(), strict=True):
            for color, name, _ in colored(self.histories):
                self._draw_line(ax, name, key, color, options)
            ax.set_ylabel(PANELS[key])
            if key == "noise_variance":
                _scale_noise_variance(ax)
            elif key == "active_dims":
                ax.set_ylim(0, 1.08 * max(1, ax.dataLim.y1))
                ax.yaxis.get_major_locator().set_params(integer=True)
            else:
                limit_values(ax)
        axes[-1, 0].set_xlabel(step_label(self.histories))
        count_steps(axes[-1, 0])
        for ax in axes[:-1, 0]:
            ax.tick_params(labelbottom=False)
        top = axes[0, 0]
        if len(self.histories) > 1:
            for color, name, _ in colored(self.histories):
                top.plot([], [], color=color, label=as_text(name))
        if any(
            {"validation_bound", "validation_score"} & own.keys() for own in self.lines_.values()
        ):
            top.plot([], [], color="0.3", label="training")
            top.plot([], [], color="0.3", linestyle="--", label="held out")
        add_legend(top)
        self.figure_.align_ylabels(axes[:, 0])

    def _draw_line(self, ax: Any, name: str, key: str, color: str, options: Any) -> None:
        history, lines = self.histories[name], self.lines_[name]
        steps = steps_of(history)
        for own_key, linestyle in ((key, "-"), (f"validation_{key}", "--")):
            if own_key not in history:
                continue
            values = np.asarray(history[own_key], dtype=float)
            style = {"color": color, "linestyle": linestyle, **line_style(len(steps)), **options}
            if values.ndim > 1:
                low, high = values.min(axis=1), values.max(axis=1)
                ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
                values = values.mean(axis=1)
            # Wider below an equal line, which would hide it.
            for line in ax.lines:
                if np.array_equal(line.get_xydata(), np.c_[steps, values], equal_nan=True):
                    line.set_linewidth(line.get_linewidth() + 2.5)
            (lines[own_key],) = ax.plot(steps, values, **style)


def _scale_noise_variance(ax: Any) -> None:
    """Use a logarithmic axis for more than a decade, with plain numbers."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high > 10 * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    elif not ax.collections:  # a shaded range needs its own limits
        limit_values(ax)
