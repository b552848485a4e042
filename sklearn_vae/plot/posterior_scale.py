"""Display of posterior standard deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics.dimensions import standard_posterior
from sklearn_vae.plot.base import (
    Array,
    Display,
    add_legend,
    as_text,
    check_by_name,
    colored,
    named,
)
from sklearn_vae.protocol import as_latent_model

# Bins from 0 to 1, which is the center of a bin, and the largest scale shown.
BINS, MAX_SCALE = 25, 2.0


@dataclass(eq=False, repr=False)
class PosteriorScaleDisplay(Display):
    """Histogram of the posterior standard deviations, in units of the prior.

    All samples and dimensions are counted. Collapsed dimensions are near 1, which a thin line
    marks. Dimensions that distinguish samples are near 0.

    Parameters
    ----------
    scales : dict of str to ndarray of shape (n_samples, n_components)
        Standard deviations of q(z_h|x) in units of the prior, by model name. Scales above 2 are
        counted in the last bin.

    Attributes
    ----------
    steps_ : dict of str to matplotlib StepPatch
        Histograms by model name.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    KLDisplay : KL of each dimension.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    figure 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import PosteriorScaleDisplay
    >>> X = load_iris().data
    >>> display = PosteriorScaleDisplay.from_estimator(PPCA(3).fit(X), X)
    >>> display.scales["PPCA"].shape
    (150, 3)
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
        """Compute the standard deviations of fitted models, and plot them.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted models.
        X : array-like of shape (n_samples, n_features)
            Data.
        names : list of str, default=None
            Names of the models in a list. By default, their class names.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the StepPatch.

        Returns
        -------
        PosteriorScaleDisplay
            The plotted display.
        """
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
                    f"scales must have at least one latent dimension, but {name!r} has none."
                )
            if not (scales.size and np.isfinite(scales).all() and (scales >= 0).all()):
                raise ValueError(
                    f"scales must be finite and >= 0, but the scales of {name!r} are not."
                )

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        widest = min(MAX_SCALE, max(1.1, *(scales.max() for scales in self.scales.values())))
        n_bins = int(np.ceil(widest * BINS - 0.5)) + 1
        edges = np.maximum((np.arange(n_bins + 1) - 0.5) / BINS, 0.0)
        is_single, self.steps_ = len(self.scales) == 1, {}
        for color, name, scales in colored(self.scales):
            counts, _ = np.histogram(np.minimum(scales, edges[-1]), edges)
            nonempty = np.flatnonzero(counts)
            first, last = nonempty[0], nonempty[-1] + 1
            percent = 100.0 * counts[first:last] / scales.size
            style = {
                "fill": True,
                "facecolor": (color, 1.0 if is_single else 0.2),
                "edgecolor": color,
            }
            style |= {"linewidth": 1.4, "label": as_text(name), **options}
            self.steps_[name] = ax.stairs(percent, edges[first : last + 1], **style)
        ax.axvline(1.0, color="0.6", linewidth=0.8, zorder=0)
        ax.set(
            xlim=(0, edges[-1]),
            xlabel="posterior / prior standard deviation",
            ylabel="share of samples and dimensions (%)",
        )
        ticks = np.arange(0.0, edges[-1], 0.2)
        ax.set_xticks(ticks, ["1\n(prior)" if i == 5 else f"{t:.2g}" for i, t in enumerate(ticks)])
        ax.set_ylim(bottom=0)
        add_legend(ax)
