"""Display of the diagnosis of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.diagnostics import CollapseReport, diagnose
from sklearn_vae.diagnostics.dimensions import standard_posterior
from sklearn_vae.plot.base import COLORS, Array, Display, as_text
from sklearn_vae.plot.collapse import CollapseDisplay
from sklearn_vae.plot.histories import count_steps, limit_values, step_label, steps_of
from sklearn_vae.plot.kl import KLDisplay
from sklearn_vae.plot.posterior_scale import PosteriorScaleDisplay
from sklearn_vae.protocol import adapted, as_latent_model

# Bounds of a report: its number, label, color and line style.
BOUNDS = {
    "elbo": ("ELBO", COLORS[0], "-"),
    "entropies": ("sum of entropies", COLORS[1], "--"),
    "reference": ("linear model", COLORS[2], "-."),
    "without_latents": ("without latents", "0.5", ":"),
}


@dataclass(eq=False, repr=False)
class ReportDisplay(Display):
    """Plot of a diagnosis, in four panels.

    The panels show the KL of each dimension, the share of collapsed dimensions for every epsilon,
    the standard deviations of q(z|x), and the ELBO with the sum of entropies and the bounds of the
    linear model and of a model without latent dimensions. If the training history is known, the
    last panel shows the bound over training.

    Parameters
    ----------
    report : CollapseReport
        Report of :func:`~sklearn_vae.diagnostics.diagnose`.
    scales : ndarray of shape (n_samples, n_components)
        Standard deviations of q(z|x), in units of the prior.
    history : dict of str to array-like, default=None
        Training history.

    Attributes
    ----------
    panels_ : dict of str to Display
        Displays of the panels "kl", "collapse" and "scales".
    bounds_ : dict of str to matplotlib Line2D
        Horizontal lines of the last panel by name.
    ax_, figure_ : ndarray of matplotlib Axes of shape (2, 2), and Figure
        Set by `plot`.

    See Also
    --------
    sklearn_vae.diagnostics.diagnose : Diagnose a model.
    EntropyDisplay : Entropies over training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import ReportDisplay
    >>> X = load_iris().data
    >>> display = ReportDisplay.from_estimator(PPCA(3, noise_variance=0.5).fit(X), X)
    >>> display.report.categories
    ('large_noise',)
    """

    _panels = (2, 2)
    _size = (1.9, 2.1)

    report: CollapseReport
    scales: Array
    _: KW_ONLY
    history: Mapping[str, Any] | None = None

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, ax: Any = None, **options: Any) -> Self:
        """Diagnose a fitted model, and plot the report.

        Parameters
        ----------
        estimator : LatentModel
            Fitted model.
        X : array-like of shape (n_samples, n_features)
            Training data without missing values.
        ax : matplotlib Axes, default=None
            Axes whose area the panels divide. By default, a new figure is created.
        **options : dict
            Matplotlib options of the lines of the last panel.

        Returns
        -------
        ReportDisplay
            The plotted display.
        """
        model = as_latent_model(estimator, cls.__name__)
        scales = np.sqrt(standard_posterior(model, X)[1])
        history = adapted(estimator).training_history
        return cls.from_results(diagnose(estimator, X), scales, history=history, ax=ax, **options)

    def _prepare(self) -> None:
        if not isinstance(self.report, CollapseReport):
            raise TypeError(f"report must be a CollapseReport, got {type(self.report).__name__}.")
        if self.report.collapse is None or self.report.curve is None:
            raise ValueError("report must be that of a model with a posterior, but it has no KL.")

    def _draw(self, axes: Array, **options: Any) -> None:
        name, report = self.report.estimator, self.report
        self.panels_ = {
            "kl": KLDisplay.from_results({name: report.collapse}, ax=axes[0, 0]),
            "collapse": CollapseDisplay.from_results({name: report.curve}, ax=axes[0, 1]),
            "scales": PosteriorScaleDisplay.from_results({name: self.scales}, ax=axes[1, 0]),
        }
        self._draw_bounds(axes[1, 1], **options)
        state = "healthy" if report.healthy else "not healthy"
        causes = ", ".join(finding.category for finding in report.findings if finding.harmful)
        title = f"{name}: {state}" + (f" ({causes.replace('_', ' ')})" if causes else "")
        if len(self.figure_.axes) == axes.size:  # not if other plots share the figure
            self.figure_.suptitle(as_text(title), x=0.01, ha="left", fontsize="medium")

    def _draw_bounds(self, ax: Any, **options: Any) -> None:
        """Draw the bounds as horizontal lines, with the bound over training if it is known."""
        values = {name: self.report.numbers.get(name, np.nan) for name in BOUNDS}
        if self.report.entropies is not None:
            values["entropies"] = self.report.entropies.bound
        history = self.history or {}
        self.bounds_ = {}
        has_history = np.size(history.get("bound", ())) > 1
        if has_history:
            steps = steps_of(history)
            ax.plot(steps, history["bound"], color=COLORS[0], linewidth=1.0, alpha=0.6)
            ax.set_xlabel(step_label({"": history}))
            count_steps(ax)
            limit_values(ax)
        low, high = ax.get_ylim() if has_history else (np.inf, -np.inf)
        for key, (label, color, style) in BOUNDS.items():
            if np.isfinite(values[key]):
                line = {"color": color, "linestyle": style, "linewidth": 1.4, **options}
                text = f"{label}, {values[key]:.5g}".replace("-", "\N{MINUS SIGN}")
                self.bounds_[key] = ax.axhline(values[key], label=text, **line)
        shown = [value for value in values.values() if np.isfinite(value)]
        low, high = min([low, *shown]), max([high, *shown])
        margin = 0.05 * (high - low) or 1.0
        if np.isfinite(margin):  # no bound may be known
            ax.set_ylim(low - margin, high + margin)
        if not has_history:
            ax.set_xticks([])
        ax.set_ylabel("nats per sample")
        if self.bounds_:
            frame = {"frameon": False, "fontsize": "small", "borderaxespad": 0.2}
            ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.01), handlelength=1.6, **frame)
