"""Standard deviations of posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics.dimensions import standard_posterior
from sklearn_vae.plot.base import (
    Array,
    Display,
    as_text,
    check_by_name,
    colored,
    legend_off_the_data,
    named,
)
from sklearn_vae.protocol import as_latent_model

# Bins from 0 to the prior's own scale, which is in the middle of one; the widest scale shown.
BINS, TOP = 25, 2.0


@dataclass(eq=False, repr=False)
class PosteriorScaleDisplay(Display):
    """Histogram of the standard deviations of q(z_h|x), in units of the prior's.

    Samples and dimensions are counted together. A collapsed dimension is in the bin about 1, which
    a thin line marks; a dimension that tells samples apart is near 0.

    Parameters
    ----------
    scales : dict of str to array of shape (n_samples, n_components)
        By the name of the model. Scales above 2 count in the last bin.

    Attributes
    ----------
    steps_ : dict of str to matplotlib StepPatch

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    figure 2.
    """

    scales: Mapping[str, Array]

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
        models = named(estimator, names)
        scales = {
            name: np.sqrt(standard_posterior(as_latent_model(model, cls.__name__), X)[1])
            for name, model in models.items()
        }
        return cls.from_results(scales, ax=ax, **options)

    def _prepare(self) -> None:
        check_by_name("scales", self.scales, np.ndarray)
        for name, scales in self.scales.items():
            if scales.ndim == 2 and not scales.shape[1]:
                raise ValueError(
                    f"scales must have at least one latent dimension, and those of {name!r} have "
                    "none."
                )
            if not (scales.size and np.isfinite(scales).all() and (scales >= 0).all()):
                raise ValueError(
                    f"scales must be standard deviations, finite and at least 0, and those of "
                    f"{name!r} are not."
                )

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        widest = min(TOP, max(1.1, *(scales.max() for scales in self.scales.values())))
        n_bins = int(np.ceil(widest * BINS - 0.5)) + 1
        edges = np.maximum((np.arange(n_bins + 1) - 0.5) / BINS, 0.0)
        alone, self.steps_ = len(self.scales) == 1, {}
        for color, name, scales in colored(self.scales):
            counts, _ = np.histogram(np.minimum(scales, edges[-1]), edges)
            filled = np.flatnonzero(counts)
            first, last = filled[0], filled[-1] + 1
            percent = 100.0 * counts[first:last] / scales.size
            style = {"fill": True, "facecolor": (color, 1.0 if alone else 0.2), "edgecolor": color}
            style |= {"linewidth": 1.4, "label": as_text(name), **options}
            self.steps_[name] = ax.stairs(percent, edges[first : last + 1], **style)
        ax.axvline(1.0, color="0.6", linewidth=0.8, zorder=0)
        ax.set(
            xlim=(0, edges[-1]),
            xlabel="posterior standard deviation / prior's",
            ylabel="share of rows and dimensions (%)",
        )
        ticks = np.arange(0.0, edges[-1], 0.2)
        ax.set_xticks(ticks, ["1\n(prior)" if i == 5 else f"{t:.2g}" for i, t in enumerate(ticks)])
        ax.set_ylim(bottom=0)
        legend_off_the_data(ax)
