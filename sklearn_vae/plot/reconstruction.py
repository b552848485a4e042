"""Display of samples and their reconstructions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from sklearn_vae.containers import to_array
from sklearn_vae.plot import tiles
from sklearn_vae.plot.base import (
    HEIGHT,
    WIDTH,
    Array,
    Display,
    add_legend,
    as_float64,
    as_text,
    colored,
    named,
    select_samples,
)
from sklearn_vae.protocol import as_encoder_decoder, check_methods
from sklearn_vae.validation import is_integer

# Width and height of a name to the left of images, and maximum width of an image, in inches.
NAME_WIDTH, NAME_HEIGHT, MAX_TILE_WIDTH = 1.0, 0.2, 0.9

# Ratio of height to width of images above which gaps are wider, to fit the numbers below.
MAX_ASPECT = 6.0

# Maximum number of images in a line.
PER_LINE = 10


@dataclass(eq=False, repr=False)
class ReconstructionDisplay(Display):
    """Plot of samples and their reconstructions by one or several models.

    Images are plotted in a grid. Other samples are plotted as curves over the features, with one
    panel per sample. Small numbers are root mean square errors, without missing values.

    Parameters
    ----------
    originals : ndarray of shape (n_samples, n_features)
        Samples.
    reconstructions : dict of str to ndarray of shape (n_samples, n_features)
        Reconstructions by model name.
    samples : dict of str to ndarray of shape (n_samples, n_features), default=None
        Images sampled from the models, which are shown below all others.
    image_shape : tuple of int, default=None
        Shape of images, (height, width) or (channels, height, width) with 1 or 3 channels. By
        default, samples are plotted as curves.
    limits : tuple of float, default=None
        Lowest and highest value of the gray scale or axis. By default, the range of the originals
        for images, and the range of originals and reconstructions for curves.

    Attributes
    ----------
    errors_ : dict of str to ndarray of shape (n_samples,)
        Root mean square error of each sample, by model name.
    tiles_ : dict of str to list
        Images or lines by model name, with originals under "data".
    ax_, figure_ : matplotlib Axes and Figure
        Set by `plot`.

    See Also
    --------
    LatentPlaneDisplay : Decoded points on a plane in latent space.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.plot import ReconstructionDisplay
    >>> X = load_digits().data
    >>> models = {"k = 2": PPCA(2).fit(X), "k = 16": PPCA(16).fit(X)}
    >>> display = ReconstructionDisplay.from_estimator(models, X, n=3, image_shape=(8, 8))
    >>> bool(display.errors_["k = 16"].mean() < display.errors_["k = 2"].mean())
    True
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
        """Reconstruct the first samples of X with fitted models, and plot them.

        Parameters
        ----------
        estimator : estimator, list of estimators, or dict of str to estimator
            Fitted models with `transform` and `inverse_transform`.
        X : array-like of shape (n_samples, n_features)
            Data.
        names : list of str, default=None
            Names of the models in a list. By default, their class names.
        n : int, default=None
            Number of samples. By default, at most 8 images or 4 curves.
        image_shape : tuple of int, default=None
            Shape of images. By default, the `image_shape` of the first model that has one.
        limits : tuple of float, default=None
            Lowest and highest value of the gray scale or axis.
        samples : bool, default=False
            Whether to show n images sampled from each model.
        random_state : int, RandomState instance or None, default=0
            Seed or generator for the sampled images.
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        **options : dict
            Matplotlib options of the images or lines.

        Returns
        -------
        ReconstructionDisplay
            The plotted display.
        """
        models = {
            name: as_encoder_decoder(model, cls.__name__)
            for name, model in named(estimator, names).items()
        }
        if image_shape is None:
            shapes = (model.image_shape for model in models.values())
            image_shape = next((shape for shape in shapes if shape is not None), None)
        X = X if hasattr(X, "shape") else to_array(X)
        n = min(4 if image_shape is None else 8, X.shape[0]) if n is None else n
        if not (is_integer(n) and 1 <= n <= X.shape[0]):
            raise ValueError(f"n must be an integer from 1 to n_samples={X.shape[0]}, got {n!r}.")
        originals = select_samples(X, slice(0, int(n)))
        reconstructions = {
            name: model.inverse_transform(
                model.with_covariates(model.transform(originals), originals)
            )
            for name, model in models.items()
        }
        sampled = {}
        for name, model in named(estimator, names).items() if samples else ():
            check_methods(model, cls.__name__, "sample")
            sampled[name] = model.sample(n, random_state=random_state)[0]
        originals = next(iter(models.values())).shown(originals)
        parameters = {"samples": sampled, "image_shape": image_shape, "limits": limits}
        return cls.from_results(originals, reconstructions, ax=ax, **parameters, **options)

    def _prepare(self) -> None:
        self.originals = as_float64(self.originals)
        if self.originals.ndim != 2 or 0 in self.originals.shape:
            raise ValueError(
                f"originals must have shape (n_samples, n_features), got {self.originals.shape}."
            )
        n, d = self.originals.shape
        self.reconstructions = self._as_arrays("reconstructions", self.reconstructions)
        if self.samples is not None:
            self.samples = self._as_arrays("samples", self.samples)
        if "data" in self.reconstructions:
            raise ValueError("Model names must not be 'data', which is the name of the originals.")
        if self.image_shape is None:
            if self.samples:
                raise ValueError("samples can only be shown as images. Set image_shape.")
            self._panels, self._size, self._share_x = (n, 1), (1.0, 0.3 + 0.3 * n), True
            values = np.concatenate([self.originals, *self.reconstructions.values()])
            self._limits = tiles.check_limits(self.limits, values)
        else:
            self._shape = tiles.check_image_shape(self.image_shape, d)
            self._size = self._figure_size(n)
            self._limits = tiles.check_limits(self.limits, self.originals)
        self.errors_ = {
            name: _root_mean_square(values - self.originals)
            for name, values in self.reconstructions.items()
        }

    def _as_arrays(self, parameter: str, results: Any) -> dict[str, Array]:
        """Convert samples by name to float, because differences of unsigned integers would wrap."""
        if not isinstance(results, Mapping):
            raise TypeError(
                f"{parameter} must be a dict of str to ndarray, got {type(results).__name__}."
            )
        arrays = {name: as_float64(values) for name, values in results.items()}
        for name, array in arrays.items():
            if array.shape != self.originals.shape:
                raise ValueError(
                    f"{parameter} of {name!r} must have the shape of the originals, "
                    f"{self.originals.shape}, got {array.shape}."
                )
        return arrays

    def _draw(self, axes: Array, **options: Any) -> None:
        self.tiles_: dict[str, list[Any]] = {}
        if self.image_shape is None:
            self._draw_curves(axes, **options)
        else:
            self._draw_images(axes[0, 0], **options)

    def _pitch(self) -> float:
        """Compute the distance between images, in widths of an image."""
        return max(1.0 + tiles.GAP, tiles.aspect(self._shape) / MAX_ASPECT)

    def _figure_size(self, n: int) -> tuple[float, float]:
        """Compute the size of a figure of images, relative to WIDTH and HEIGHT."""
        columns, n_blocks = min(n, PER_LINE), -(-n // PER_LINE)
        height, pitch = tiles.aspect(self._shape), self._pitch()
        tile = min(
            (WIDTH - NAME_WIDTH) / (columns * pitch), MAX_TILE_WIDTH, tiles.MAX_HEIGHT / height
        )
        lines = 1 + len(self.reconstructions) + len(self.samples or {})
        block = lines * (max(height * tile, NAME_HEIGHT) + tiles.GAP * tile)
        block += 0.2 * len(self.reconstructions)
        width = max(NAME_WIDTH + columns * pitch * tile, 0.5 * WIDTH)
        return width / WIDTH, (n_blocks * (block + 0.1) + 0.3) / HEIGHT

    def _draw_images(self, ax: Any, **options: Any) -> None:
        n = len(self.originals)
        height = tiles.aspect(self._shape)
        inches = ax.get_window_extent().width / ax.figure.dpi
        pitch = self._pitch()
        tile = inches / (min(n, PER_LINE) * pitch)  # approximate, before the layout
        tile = min(tile, MAX_TILE_WIDTH, tiles.MAX_HEIGHT / height)
        number_height = 0.2 / tile
        line = max(height, NAME_HEIGHT / tile)
        lines = {"data": self.originals, **self.reconstructions}
        lines |= {f"{name}, samples": images for name, images in (self.samples or {}).items()}
        y, centers, names = 0.0, [], []
        for start in range(0, n, PER_LINE):
            for name, images in lines.items():
                drawn, errors = self.tiles_.setdefault(name, []), self.errors_.get(name)
                for i in range(start, min(start + PER_LINE, n)):
                    x = (i - start) * pitch
                    drawn.append(
                        tiles.draw(ax, images[i], (x, y), self._shape, self._limits, **options)
                    )
                    if errors is not None:
                        style = {"fontsize": min(7.0, 14.0 * pitch * tile), "color": "0.3"}
                        below = (x + 0.5, y + height + 0.03 / tile)
                        ax.text(*below, _format_error(errors[i]), ha="center", va="top", **style)
                centers.append(y + height / 2.0)
                names.append(as_text(textwrap.fill(str(name), 14, break_long_words=False)))
                y += line + tiles.GAP + (0.0 if errors is None else number_height)
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
        marker = "o" if d <= tiles.MAX_MARKED else ""
        style = {"marker": marker, "markersize": 3, "linewidth": 1, **options}
        data = {**style, "color": "0.65", "linewidth": 2.5, "markersize": 5, "label": "data"}
        self.tiles_ = {name: [] for name in ("data", *self.reconstructions)}
        for i, ax in enumerate(axes[:, 0]):
            self.tiles_["data"] += ax.plot(features, self.originals[i], **data)
            for j, (color, name, values) in enumerate(colored(self.reconstructions)):
                line = {"color": color, "label": as_text(name), **style}
                self.tiles_[name] += ax.plot(features, values[i], **line)
                # To the right of the panel, in the colors of the curves.
                text = {"color": color, "fontsize": "small", "va": "top"}
                error = _format_error(self.errors_[name][i])
                ax.text(1.02, 0.97 - 0.22 * j, error, transform=ax.transAxes, **text)
            ax.set(ylim=(low - margin, high + margin), xlim=(0.5 - 0.01 * d, d + 0.5 + 0.01 * d))
            ax.set_ylabel("value", fontsize="small")
            ax.tick_params(labelsize="small", labelbottom=ax is axes[-1, 0])
        axes[0, 0].text(1.02, 1.05, "error", transform=axes[0, 0].transAxes, fontsize="small")
        axes[-1, 0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes[-1, 0].set_xlabel("feature")
        add_legend(axes[0, 0])


def _format_error(error: float) -> str:
    return f"{error:#.3g}".rstrip(".")


def _root_mean_square(differences: Array) -> Array:
    """Compute the root mean square of each row, without NaN; NaN for empty rows."""
    known = ~np.isnan(differences)
    squares = np.square(np.where(known, differences, 0.0)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.sqrt(squares / known.sum(axis=1))
