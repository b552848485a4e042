"""Samples and their reconstructions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.plot import tiles
from sklearn_vae.plot.base import (
    HEIGHT,
    WIDTH,
    Array,
    Display,
    as_text,
    check_methods,
    colored,
    legend_off_the_data,
    named,
    on_host,
    some_rows,
)
from sklearn_vae.protocol import adapted
from sklearn_vae.validation import is_integer

# In inches: width of the names beside the images, height of a name, greatest width of an image.
NAMES, NAME, WIDEST = 1.0, 0.2, 0.9

# Images whose height is more than this multiple of their width stand further apart, to leave room
# for the numbers below them.
HIGH = 6.0

# Most images beside each other; more stand below.
PER_LINE = 10


@dataclass(eq=False, repr=False)
class ReconstructionDisplay(Display):
    """Samples above their reconstructions, by one or several models.

    Images are drawn in a grid, over the range of the originals; other samples as curves over their
    features, each in its panel. The small numbers are root mean square errors, over the entries of
    a sample that are not NaN.

    Parameters
    ----------
    originals : ndarray of shape (n_samples, n_features)
    reconstructions : dict of str to ndarray of shape (n_samples, n_features)
        By the name of the model.
    samples : dict of str to ndarray of shape (n_samples, n_features), default=None
        Images drawn from the models, below all others.
    image_shape : (height, width) or (channels, height, width), default=None
        Shape of samples that are images, of 1 or 3 channels. None: curves.
    limits : (float, float), default=None
        The values that are drawn lightest and darkest, or the ends of the axis of curves. None: the
        range of the originals; for curves, of all that is drawn.

    Attributes
    ----------
    errors_ : dict of str to ndarray of shape (n_samples,)
        Root mean square error of each sample, by the name of the model.
    tiles_ : dict of str to list
        Image or line of each sample, by the names beside them.
    """

    originals: Array
    reconstructions: Mapping[str, Array]
    _: KW_ONLY
    samples: Mapping[str, Array] | None = None
    image_shape: Sequence[int] | None = None
    limits: tuple[float, float] | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        names: Sequence[str] | None = None,
        n: int | None = None,
        image_shape: Sequence[int] | None = None,
        limits: tuple[float, float] | None = None,
        samples: bool = False,
        random_state: Any = 0,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Reconstruct the first samples of X by fitted models, and draw them.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            With `transform` and `inverse_transform`.
        X : array-like of shape (n_samples, n_features)
        names : list of str, default=None
            Names of the models in a list. None: names of their classes.
        n : int, default=None
            Number of samples that are drawn. None: 8 images or 4 curves, or all if there are fewer.
        image_shape : tuple, default=None
            As in the class. None: that of the first model that has one.
        limits
            As in the class.
        samples : bool, default=False
            Also show n images from each model, by its `sample`.
        random_state : int, RandomState instance or None, default=0
            Seed of the samples.
        ax : matplotlib Axes, default=None
        **options
            Options of matplotlib's `imshow`, or of its lines.
        """
        models = named(estimator, names)
        needed = ("transform", "inverse_transform", *(("sample",) if samples else ()))
        for model in models.values():
            check_methods(model, cls.__name__, *needed)
        if image_shape is None:
            shapes = (adapted(model).image_shape for model in models.values())
            image_shape = next((shape for shape in shapes if shape is not None), None)
        X = X if hasattr(X, "shape") else np.asarray(X)
        n = min(4 if image_shape is None else 8, X.shape[0]) if n is None else n
        if not (is_integer(n) and 1 <= n <= X.shape[0]):
            raise ValueError(f"n must be an integer from 1 to the {X.shape[0]} rows, got {n!r}.")
        rows = some_rows(X, slice(0, int(n)))
        reconstructions = {
            name: model.inverse_transform(model.transform(rows)) for name, model in models.items()
        }
        drawn = {
            name: model.sample(n, random_state=random_state)[0]
            for name, model in models.items()
            if samples
        }
        parameters = {"samples": drawn, "image_shape": image_shape, "limits": limits}
        return cls.from_results(rows, reconstructions, ax=ax, **parameters, **options)

    def _prepare(self) -> None:
        self.originals = on_host(self.originals)
        if self.originals.ndim != 2 or 0 in self.originals.shape:
            raise ValueError(
                f"originals must be of shape (n, d), n and d >= 1, got {self.originals.shape}."
            )
        n, d = self.originals.shape
        self.reconstructions = self._rows("reconstructions", self.reconstructions)
        if self.samples is not None:
            self.samples = self._rows("samples", self.samples)
        if "data" in self.reconstructions:
            raise ValueError("No model can be called 'data': that is what the originals are.")
        if self.image_shape is None:
            if self.samples:
                raise ValueError("samples are drawn as images: set image_shape.")
            self._panels, self._size, self._share_x = (n, 1), (1.0, 0.3 + 0.3 * n), True
            every = np.concatenate([self.originals, *self.reconstructions.values()])
            self._limits = tiles.check_limits(self.limits, every)
        else:
            self._shape = tiles.check_image_shape(self.image_shape, d)
            self._size = self._size_of_images(n)
            self._limits = tiles.check_limits(self.limits, self.originals)
        self.errors_ = {
            name: _root_mean_square(rows - self.originals)
            for name, rows in self.reconstructions.items()
        }

    def _rows(self, parameter: str, results: Any) -> dict[str, Array]:
        """Samples by name, as floats: differences of unsigned integers would wrap."""
        if not isinstance(results, Mapping):
            raise TypeError(
                f"{parameter} must be a dict of str to ndarray, got {type(results).__name__}."
            )
        by_name = {name: on_host(rows) for name, rows in results.items()}
        for name, rows in by_name.items():
            if rows.shape != self.originals.shape:
                raise ValueError(
                    f"Rows of {name!r} must have the shape {self.originals.shape} of the "
                    f"originals, got {rows.shape}."
                )
        return by_name

    def _draw(self, axes: Array, **options: Any) -> None:
        self.tiles_: dict[str, list[Any]] = {}
        if self.image_shape is None:
            self._draw_curves(axes, **options)
        else:
            self._draw_images(axes[0, 0], **options)

    def _pitch(self) -> float:
        """Distance from image to image, in widths of one."""
        return max(1.0 + tiles.GAP, tiles.aspect(self._shape) / HIGH)

    def _size_of_images(self, n: int) -> tuple[float, float]:
        """Size of a new figure, relative to WIDTH and HEIGHT."""
        columns, n_blocks = min(n, PER_LINE), -(-n // PER_LINE)
        height, pitch = tiles.aspect(self._shape), self._pitch()
        tile = min((WIDTH - NAMES) / (columns * pitch), WIDEST, tiles.TALLEST / height)
        lines = 1 + len(self.reconstructions) + len(self.samples or {})
        block = lines * (max(height * tile, NAME) + tiles.GAP * tile) + 0.2 * len(
            self.reconstructions
        )
        wide = max(NAMES + columns * pitch * tile, 0.5 * WIDTH)
        return wide / WIDTH, (n_blocks * (block + 0.1) + 0.3) / HEIGHT

    def _draw_images(self, ax: Any, **options: Any) -> None:
        n = len(self.originals)
        height = tiles.aspect(self._shape)
        inches = ax.get_window_extent().width / ax.figure.dpi
        pitch = self._pitch()
        tile = inches / (min(n, PER_LINE) * pitch)  # before the layout, about
        tile = min(tile, WIDEST, tiles.TALLEST / height)
        room = 0.2 / tile  # for the numbers
        line = max(height, NAME / tile)
        lines = {"data": self.originals, **self.reconstructions}
        lines |= {f"{name}, samples": rows for name, rows in (self.samples or {}).items()}
        y, centers, names = 0.0, [], []
        for start in range(0, n, PER_LINE):
            for name, rows in lines.items():
                drawn, errors = self.tiles_.setdefault(name, []), self.errors_.get(name)
                for i in range(start, min(start + PER_LINE, n)):
                    x = (i - start) * pitch
                    drawn.append(
                        tiles.draw(ax, rows[i], (x, y), self._shape, self._limits, **options)
                    )
                    if errors is not None:
                        style = {"fontsize": min(7.0, 14.0 * pitch * tile), "color": "0.3"}
                        place = (x + 0.5, y + height + 0.03 / tile)
                        ax.text(*place, _short(errors[i]), ha="center", va="top", **style)
                centers.append(y + height / 2.0)
                names.append(as_text(textwrap.fill(str(name), 14, break_long_words=False)))
                y += line + tiles.GAP + (0.0 if errors is None else room)
            y += 0.1 / tile
        tiles.show_only(ax, (min(n, PER_LINE) - 1) * pitch + 1.0, y - tiles.GAP - 0.1 / tile)
        ax.set_yticks(centers, names, fontsize="small")
        if self.reconstructions:
            ax.set_xlabel("numbers: root mean square error", fontsize="x-small", color="0.3")

    def _draw_curves(self, axes: Array, **options: Any) -> None:
        d = self.originals.shape[1]
        low, high = self._limits
        margin = 0.08 * (high - low)
        features = np.arange(1, d + 1)
        style = {
            "marker": "o" if d <= tiles.FEW else "",
            "markersize": 3,
            "linewidth": 1,
            **options,
        }
        data = {**style, "color": "0.65", "linewidth": 2.5, "markersize": 5, "label": "data"}
        self.tiles_ = {name: [] for name in ("data", *self.reconstructions)}
        for i, ax in enumerate(axes[:, 0]):
            self.tiles_["data"] += ax.plot(features, self.originals[i], **data)
            for j, (color, name, rows) in enumerate(colored(self.reconstructions)):
                line = {"color": color, "label": as_text(name), **style}
                self.tiles_[name] += ax.plot(features, rows[i], **line)
                # Beside the panel, below each other, in the colours of the curves.
                place = (1.02, 0.97 - 0.22 * j)
                text = {"color": color, "fontsize": "small", "va": "top"}
                error = _short(self.errors_[name][i])
                ax.text(*place, error, transform=ax.transAxes, **text)
            ax.set(ylim=(low - margin, high + margin), xlim=(0.5 - 0.01 * d, d + 0.5 + 0.01 * d))
            ax.set_ylabel("value", fontsize="small")
            ax.tick_params(labelsize="small", labelbottom=ax is axes[-1, 0])
        axes[0, 0].text(1.02, 1.05, "error", transform=axes[0, 0].transAxes, fontsize="small")
        axes[-1, 0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes[-1, 0].set_xlabel("feature")
        legend_off_the_data(axes[0, 0])


def _short(error: float) -> str:
    return f"{error:#.3g}".rstrip(".")


def _root_mean_square(differences: Array) -> Array:
    """Root mean square of each row, over its entries that are not NaN; NaN if there are none."""
    known = ~np.isnan(differences)
    squares = np.square(np.where(known, differences, 0.0)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.sqrt(squares / known.sum(axis=1))
