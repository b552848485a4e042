"""Histories of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.plot.base import Array, Display, as_text, colored, legend_off_the_data, named
from sklearn_vae.plot.histories import (
    check_histories,
    count_steps,
    history_of,
    limit_values,
    line_style,
    step_label,
    steps_of,
)

# Panels from the top, by the name of what they show in a history.
PANELS = {
    "bound": "bound (nats)",
    "score": "$-$ squared error",
    "kl": "KL (nats)",
    "noise_variance": "noise\nvariance",
    "active_dims": "active\ndimensions",
}


@dataclass(eq=False, repr=False)
class TrainingDisplay(Display):
    """Bound, KL, noise variance and active dimensions over the epochs, one colour per model.

    There is a panel for each that was recorded. Values of samples held out are dashed. For noise
    that differs between features the line is the mean, and the range is shaded. The first values
    are cut off where they would press all others flat. `from_estimator` ignores X.

    Parameters
    ----------
    histories : dict of str to dict of arrays
        By the name of the model, as its `history_` or `elbo_history_`. "epoch" or "iteration"
        numbers the values, which else count from 1. "score" is drawn too, minus the squared error
        of an autoencoder.

    Attributes
    ----------
    lines_ : dict of str to dict of str to matplotlib Line2D
        By the model, and the name in its history.
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
        models = named(estimator, names)
        histories = {name: history_of(model, cls.__name__) for name, model in models.items()}
        return cls.from_results(histories, ax=ax, **options)

    def _prepare(self) -> None:
        check_histories(self.histories)
        for name, history in self.histories.items():
            if not PANELS.keys() & history.keys():
                raise ValueError(
                    f"histories must have one of {', '.join(PANELS)}, and that of {name!r} has "
                    f"{', '.join(history) or 'nothing'}."
                )
        rows = len(self._shown())
        self._panels = (rows, 1)
        self._size = (1.0, 0.5 * (rows + 1))

    def _shown(self) -> list[str]:
        return [name for name in PANELS if any(name in h for h in self.histories.values())]

    def _draw(self, axes: Array, **options: Any) -> None:
        self.lines_: dict[str, dict[str, Any]] = {name: {} for name in self.histories}
        for ax, what in zip(axes[:, 0], self._shown(), strict=True):
            for color, name, _ in colored(self.histories):
                self._draw_line(ax, name, what, color, options)
            ax.set_ylabel(PANELS[what])
            if what == "noise_variance":
                _decades(ax)
            elif what == "active_dims":
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
        legend_off_the_data(top)
        self.figure_.align_ylabels(axes[:, 0])

    def _draw_line(self, ax: Any, name: str, what: str, color: str, options: Any) -> None:
        history, lines = self.histories[name], self.lines_[name]
        steps = steps_of(history)
        for key, dashes in ((what, "-"), (f"validation_{what}", "--")):
            if key not in history:
                continue
            values = np.asarray(history[key], dtype=float)
            style = {"color": color, "linestyle": dashes, **line_style(len(steps)), **options}
            if values.ndim > 1:
                low, high = values.min(axis=1), values.max(axis=1)
                ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
                values = values.mean(axis=1)
            (lines[key],) = ax.plot(steps, values, **style)


def _decades(ax: Any) -> None:
    """A logarithmic axis where there is more than a decade, its numbers written out."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high > 10 * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    elif not ax.collections:  # a range is wider than its mean
        limit_values(ax)
