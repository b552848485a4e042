"""Display of a plane in latent space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from array_api_compat import is_array_api_obj

from sklearn_vae.containers import to_array
from sklearn_vae.gaussian.arrays import to_device_of
from sklearn_vae.plot import tiles
from sklearn_vae.plot.base import (
    COLORS,
    HEIGHT,
    WIDTH,
    Array,
    Display,
    as_float64,
    as_text,
    select_samples,
)
from sklearn_vae.protocol import as_encoder_decoder
from sklearn_vae.validation import is_integer

# Maximum height of a figure, in inches.
MAX_HEIGHT = 2.0 * HEIGHT


@dataclass(eq=False, repr=False)
class LatentPlaneDisplay(Display):
    """Plot of decoded points on the plane through the latent coordinates of three samples.

    The reconstructions of the samples are the upper left, upper right and lower left corners, with
    blue frames. The lower right corner, with an orange frame, is the extrapolation z_2 + z_3 - z_1.

    Parameters
    ----------
    decoded : ndarray of shape (n, n, n_features)
        Decoded points, from top to bottom and from left to right.
    labels : sequence of str, default=("sample 0", "sample 1", "sample 2")
        Labels of the three samples.
    image_shape : tuple of int, default=None
        Shape of images, (height, width) or (channels, height, width) with 1 or 3 channels. By
        default, points are plotted as curves over the features.
    limits : tuple of float, default=None
        Lowest and highest value of the gray scale or axis. By default, the range of `decoded`.

    Attributes
    ----------
    tiles_ : list of list
        Images or lines, arranged as in `decoded`.
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    ReconstructionDisplay : Samples and their reconstructions.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), figure 13.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import LatentPlaneDisplay
    >>> X = load_digits().data
    >>> display = LatentPlaneDisplay.from_estimator(PPCA(8).fit(X), X, n=3, image_shape=(8, 8))
    >>> display.decoded.shape
    (3, 3, 64)
    """

    decoded: Array
    _: KW_ONLY
    labels: Sequence[str] = ("sample 0", "sample 1", "sample 2")
    image_shape: Sequence[int] | None = None
    limits: tuple[float, float] | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        rows: Sequence[int] = (0, 1, 2),
        n: int = 7,
        image_shape: Sequence[int] | None = None,
        limits: tuple[float, float] | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Decode the plane through three samples, and plot it.

        Parameters
        ----------
        estimator : estimator
            Fitted model with `transform` and `inverse_transform`.
        X : array-like of shape (n_samples, n_features)
            Data.
        rows : sequence of int, default=(0, 1, 2)
            Indices of the three samples in X.
        n : int, default=7
            Number of points on each side, at least 2.
        image_shape : tuple of int, default=None
            Shape of images. By default, the `image_shape` of the model, if any.
        limits : tuple of float, default=None
            Lowest and highest value of the gray scale or axis. By default, the range of the three
            samples for images, and the range of the decoded points for curves.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the images or lines.

        Returns
        -------
        LatentPlaneDisplay
            The plotted display.
        """
        model = as_encoder_decoder(estimator, cls.__name__)
        X = X if hasattr(X, "shape") else to_array(X)
        n_samples, chosen = X.shape[0], list(rows)
        if not (len(chosen) == 3 and all(is_integer(i) and 0 <= i < n_samples for i in chosen)):
            raise ValueError(f"rows must be three indices from 0 to {n_samples - 1}, got {rows!r}.")
        if not (is_integer(n) and n >= 2):
            raise ValueError(f"n must be an integer >= 2, got {n!r}.")
        if image_shape is None:
            image_shape = model.image_shape
        corners = select_samples(X, chosen)
        latent = model.with_covariates(model.transform(corners), corners)
        first, second, third = as_float64(latent)
        t = np.linspace(0.0, 1.0, n)
        Z = first + t[None, :, None] * (second - first) + t[:, None, None] * (third - first)
        Z = Z.reshape(n * n, -1)
        if is_array_api_obj(latent):
            Z = to_device_of(latent, Z)
        decoded = as_float64(model.inverse_transform(Z))
        return cls.from_results(
            decoded.reshape(n, n, -1),
            labels=[f"sample {i}" for i in chosen],
            image_shape=image_shape,
            limits=limits
            if image_shape is None
            else tiles.check_limits(limits, as_float64(model.shown(corners))),
            ax=ax,
            **options,
        )

    def _prepare(self) -> None:
        self.decoded = as_float64(self.decoded)
        if self.decoded.ndim != 3 or 0 in self.decoded.shape:
            raise ValueError(
                f"decoded must have shape (n, n, n_features), got {self.decoded.shape}."
            )
        if isinstance(self.labels, str) or len(self.labels) != 3:
            raise ValueError(f"labels must be three strings, got {self.labels!r}.")
        shape = self.image_shape
        self._shape = (
            None if shape is None else tiles.check_image_shape(shape, self.decoded.shape[2])
        )
        self._limits = tiles.check_limits(self.limits, self.decoded)
        n_rows, n_columns = self.decoded.shape[:2]
        ratio = tiles.aspect(self._shape) * n_rows / n_columns
        width = min(0.75 * WIDTH, MAX_HEIGHT / ratio)
        self._size = (max(width / WIDTH, 0.5), (width * ratio + 0.4) / HEIGHT)

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        n_rows, n_columns = self.decoded.shape[:2]
        height = tiles.aspect(self._shape)
        step_x, step_y = 1.0 + tiles.GAP, height + tiles.GAP
        style = {"shape": self._shape, "limits": self._limits, **options}
        self.tiles_ = [
            [
                tiles.draw(ax, self.decoded[i, j], (j * step_x, i * step_y), **style)
                for j in range(n_columns)
            ]
            for i in range(n_rows)
        ]
        right, bottom = (n_columns - 1) * step_x, (n_rows - 1) * step_y
        tiles.show_only(ax, right + 1.0, bottom + height)
        ax.set_yticks([])
        labels = [*self.labels, "extrapolated"]
        corners = [(0.0, 0.0), (right, 0.0), (0.0, bottom), (right, bottom)]
        colors = [COLORS[0]] * 3 + [COLORS[5]]
        for label, color, (x, y) in zip(labels, colors, corners, strict=True):
            frame = {"edgecolor": color, "linewidth": 2.0, "clip_on": False, "zorder": 3}
            tiles.draw_frame(ax, (x, y), height, **frame)
            is_top, is_left = y == 0.0, x == 0.0
            corner = (x if is_left else x + 1.0, y if is_top else y + height)
            sides = {"ha": "left" if is_left else "right", "va": "bottom" if is_top else "top"}
            style = {"textcoords": "offset points", "fontsize": "small", "color": color, **sides}
            ax.annotate(as_text(label), corner, (0, 4 if is_top else -4), **style)
