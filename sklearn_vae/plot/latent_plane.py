"""Decoder means between three samples, and beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from array_api_compat import is_array_api_obj

from sklearn_vae.gaussian.arrays import to_device_of
from sklearn_vae.plot import tiles
from sklearn_vae.plot.base import (
    COLORS,
    HEIGHT,
    WIDTH,
    Array,
    Display,
    as_text,
    check_methods,
    on_host,
    some_rows,
)
from sklearn_vae.protocol import adapted
from sklearn_vae.validation import is_integer

# Greatest height of a figure, in inches.
HIGHEST = 2.0 * HEIGHT


@dataclass(eq=False, repr=False)
class LatentPlaneDisplay(Display):
    """Decoder means on the plane through the latent coordinates of three samples.

    The reconstructions of the samples are the upper left, upper right and lower left corners, in
    blue frames; the lower right corner, in an orange frame, completes the parallelogram:
    z_2 + z_3 - z_1. Latent coordinates change evenly between them.

    Parameters
    ----------
    decoded : ndarray of shape (n, n, n_features)
        From top to bottom and from left to right.
    labels : three str, default=("row 0", "row 1", "row 2")
        Labels of the corners.
    image_shape : (height, width) or (channels, height, width), default=None
        Shape of samples that are images, of 1 or 3 channels. None: small curves over the features.
    limits : (float, float), default=None
        The values that are drawn lightest and darkest; None: the range of `decoded`.

    Attributes
    ----------
    tiles_ : list of lists
        The images or lines, as in `decoded`.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), figure 13.
    """

    decoded: Array
    _: KW_ONLY
    labels: Sequence[str] = ("row 0", "row 1", "row 2")
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
        """Decode the plane through three samples by a fitted model, and draw it.

        Parameters
        ----------
        estimator : estimator
            With `transform` and `inverse_transform`.
        X : array-like of shape (n_samples, n_features)
        rows : three ints, default=(0, 1, 2)
            Rows of X that are corners.
        n : int, default=7
            Points on each side, 2 or more.
        image_shape : tuple, default=None
            As in the class. None: that of the model, if it has one.
        limits
            As in the class, except that None for images is the range of the three samples.
        ax : matplotlib Axes, default=None
        **options
            Options of matplotlib's `imshow`, or of its lines.
        """
        check_methods(estimator, cls.__name__, "transform", "inverse_transform")
        X = X if hasattr(X, "shape") else np.asarray(X)
        m = X.shape[0]
        chosen = list(rows)
        if not (len(chosen) == 3 and all(is_integer(i) and 0 <= i < m for i in chosen)):
            raise ValueError(f"rows must be three indices from 0 to {m - 1}, got {rows!r}.")
        if not (is_integer(n) and n >= 2):
            raise ValueError(f"n must be an integer >= 2, got {n!r}.")
        if image_shape is None:
            image_shape = adapted(estimator).image_shape
        corners = some_rows(X, chosen)
        latent = estimator.transform(corners)
        first, second, third = on_host(latent)
        t = np.linspace(0.0, 1.0, n)
        Z = first + t[None, :, None] * (second - first) + t[:, None, None] * (third - first)
        Z = Z.reshape(n * n, -1)
        if is_array_api_obj(latent):
            Z = to_device_of(latent, Z)
        decoded = on_host(estimator.inverse_transform(Z))
        return cls.from_results(
            decoded.reshape(n, n, -1),
            labels=[f"row {i}" for i in chosen],
            image_shape=image_shape,
            limits=limits if image_shape is None else tiles.check_limits(limits, on_host(corners)),
            ax=ax,
            **options,
        )

    def _prepare(self) -> None:
        self.decoded = on_host(self.decoded)
        if self.decoded.ndim != 3 or 0 in self.decoded.shape:
            raise ValueError(f"decoded must be of shape (n, n, d), got {self.decoded.shape}.")
        if isinstance(self.labels, str) or len(self.labels) != 3:
            raise ValueError(f"labels must be three, one a row, got {self.labels!r}.")
        shape = self.image_shape
        self._shape = (
            None if shape is None else tiles.check_image_shape(shape, self.decoded.shape[2])
        )
        self._limits = tiles.check_limits(self.limits, self.decoded)
        n_lines, n_columns = self.decoded.shape[:2]
        ratio = tiles.aspect(self._shape) * n_lines / n_columns
        wide = min(0.75 * WIDTH, HIGHEST / ratio)
        self._size = (max(wide / WIDTH, 0.5), (wide * ratio + 0.4) / HEIGHT)

    def _draw(self, axes: Array, **options: Any) -> None:
        ax = axes[0, 0]
        n_lines, n_columns = self.decoded.shape[:2]
        limits = self._limits
        height, step = tiles.aspect(self._shape), 1.0 + tiles.GAP
        self.tiles_ = [
            [
                tiles.draw(
                    ax, row, (j * step, i * (height + tiles.GAP)), self._shape, limits, **options
                )
                for j, row in enumerate(line)
            ]
            for i, line in enumerate(self.decoded)
        ]
        right, bottom = (n_columns - 1) * step, (n_lines - 1) * (height + tiles.GAP)
        tiles.show_only(ax, right + 1.0, bottom + height)
        ax.set_yticks([])
        labels = [*self.labels, "extrapolated"]
        places = [(0.0, 0.0), (right, 0.0), (0.0, bottom), (right, bottom)]
        colors = [COLORS[0]] * 3 + [COLORS[5]]
        for label, color, (x, y) in zip(labels, colors, places, strict=True):
            frame = {"edgecolor": color, "linewidth": 2.0, "clip_on": False, "zorder": 3}
            tiles.draw_frame(ax, (x, y), height, **frame)
            above, left = y == 0.0, x == 0.0
            corner = (x if left else x + 1.0, y if above else y + height)
            sides = {"ha": "left" if left else "right", "va": "bottom" if above else "top"}
            style = {"textcoords": "offset points", "fontsize": "small", "color": color, **sides}
            ax.annotate(as_text(label), corner, (0, 4 if above else -4), **style)
