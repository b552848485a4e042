"""Display of the contributions of the features to the distance of one sample."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.outliers.decomposition import Contributions, contributions
from sklearn_vae.plot.base import (
    COLORS,
    Array,
    Display,
    add_legend,
    as_text,
    select_samples,
)
from sklearn_vae.protocol import check_methods
from sklearn_vae.validation import check_integer, is_integer

# Maximum number of characters of a feature name.
NAME_LENGTH = 28


@dataclass(eq=False, repr=False)
class ContributionDisplay(Display):
    """Plot of the contributions of the features to T2 and SPE of one sample.

    The features with the largest sum of both contributions are at the top. The contributions of the
    other features are added to one bar, so that all bars add up to T2 and SPE.

    Parameters
    ----------
    contributions : Contributions
        Contributions of the features of one or more samples.
    sample : int, default=0
        Index of the sample.
    max_features : int, default=12
        Maximum number of features that are plotted separately.

    Attributes
    ----------
    t2_, spe_ : matplotlib BarContainer
        Bars from top to bottom.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    OutlierDisplay : T2 against SPE of all samples.
    sklearn_vae.outliers.contributions : Compute the contributions.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_vae import FactorAnalysis
    >>> from sklearn_vae.plot import ContributionDisplay
    >>> X, _ = load_wine(return_X_y=True, as_frame=True)
    >>> display = ContributionDisplay.from_estimator(FactorAnalysis(2).fit(X), X, sample=3)
    >>> len(display.t2_)
    13
    """

    contributions: Contributions
    _: KW_ONLY
    sample: int = 0
    max_features: int = 12

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        sample: int = 0,
        max_features: int = 12,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compute the contributions of the features of one sample, and plot them.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_vae.OutlierDetector`, or a model with `posterior` and
            `conditional`.
        X : array-like of shape (n_samples, n_features)
            Samples.
        sample : int, default=0
            Index of the sample in X.
        max_features : int, default=12
            Maximum number of features that are plotted separately.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the bars.

        Returns
        -------
        ContributionDisplay
            The plotted display.
        """
        check_methods(estimator, cls.__name__)
        X = select_samples(X, [_checked_index(sample, len(X))])
        own = getattr(estimator, "contributions", None)
        parts = contributions(estimator, X) if own is None else own(X)
        return cls.from_results(parts, max_features=max_features, ax=ax, **options)

    def _prepare(self) -> None:
        if not isinstance(self.contributions, Contributions):
            raise TypeError(
                f"contributions must be Contributions, got {type(self.contributions).__name__}."
            )
        check_integer("max_features", self.max_features, at_least=1)
        _checked_index(self.sample, len(self.contributions.t2))
        d = len(self.contributions.feature_names)
        n_bars = min(d, self.max_features + 1)
        self._size = (1.0, max(0.75, 0.35 + 0.09 * n_bars))

    def _draw(self, axes: Array, **options: Any) -> None:
        ax, parts = axes[0, 0], self.contributions
        t2, spe = parts.t2[self.sample], parts.spe[self.sample]
        order = np.argsort(-(t2 + spe), kind="stable")
        names = [_shorten(parts.feature_names[j]) for j in order]
        values = [t2[order], spe[order]]
        if len(order) > self.max_features + 1:
            m = self.max_features
            names = [*names[:m], f"{len(order) - m} other features"]
            values = [np.append(part[:m], part[m:].sum()) for part in values]
        y = np.arange(len(names))
        bars = []
        for part, offset, color, label in zip(
            values,
            (-0.2, 0.2),
            (COLORS[0], COLORS[1]),
            (f"$T^2$ = {t2.sum():.3g} (latent)", f"SPE = {spe.sum():.3g} (residual)"),
            strict=True,
        ):
            style = {"height": 0.4, "color": color, "label": label, **options}
            bars.append(ax.barh(y + offset, part, **style))
        self.t2_, self.spe_ = bars
        ax.axvline(0.0, color="0.3", linewidth=0.8)
        ax.set_yticks(y, names, fontsize="small")
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_xlabel("contribution")
        add_legend(ax, ncols=1)  # names of features leave little width


def _checked_index(sample: Any, n: int) -> int:
    """Return the index of a sample, checked."""
    if not (is_integer(sample) and 0 <= sample < n):
        raise ValueError(f"sample must be an index from 0 to {n - 1}, got {sample!r}.")
    return int(sample)


def _shorten(name: str) -> str:
    """Shorten a long name in the middle."""
    half = NAME_LENGTH // 2
    is_long = len(name) > NAME_LENGTH
    return as_text(f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half + 1 :]}" if is_long else name)
