"""Samples drawn next to each other on the same axes, as images or small curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_vae.plot.base import COLORS, GRAY, Array
from sklearn_vae.validation import is_integer

# Gap between two tiles, in widths of a tile.
GAP = 0.08

# Maximum height of an image, in inches.
MAX_HEIGHT = 1.8

# Maximum number of values of a curve with a marker each.
MAX_MARKED = 30


def check_image_shape(image_shape: Any, n_features: int) -> tuple[int, int, int]:
    """Check a shape of images, and return it as (channels, height, width)."""
    is_sequence = isinstance(image_shape, Sequence | np.ndarray) and np.ndim(image_shape) == 1
    shape = tuple(image_shape) if is_sequence else ()
    if not (len(shape) in (2, 3) and all(is_integer(size) and size >= 1 for size in shape)):
        raise ValueError(
            "image_shape must be (height, width) or (channels, height, width) with integers >= 1, "
            f"got {image_shape!r}."
        )
    channels, height, width = (1, *shape)[-3:]
    if channels not in (1, 3):
        raise ValueError(f"image_shape must have 1 or 3 channels, got {channels} in {image_shape}.")
    if math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={image_shape} has {math.prod(shape)} values, but X has "
            f"{n_features} features."
        )
    return int(channels), int(height), int(width)


def check_limits(limits: Any, values: Array) -> tuple[float, float]:
    """Check limits, which are by default the range of the finite values."""
    if limits is None:
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)
    pair = tuple(limits)
    if not (len(pair) == 2 and np.isfinite(pair).all() and pair[0] < pair[1]):
        raise ValueError(f"limits must be two numbers (low, high) with low < high, got {limits!r}.")
    return float(pair[0]), float(pair[1])


def aspect(shape: tuple[int, int, int] | None) -> float:
    """Return the ratio of height to width of a tile."""
    return 1.0 if shape is None else shape[1] / shape[2]


def draw(
    ax: Any,
    values: Array,
    corner: tuple[float, float],
    shape: tuple[int, int, int] | None,
    limits: tuple[float, float],
    **options: Any,
) -> Any:
    """Draw a sample with its upper left corner at `corner`, and return its image or line."""
    x, y = corner  # y points downwards
    height = aspect(shape)
    draw_frame(ax, corner, height, edgecolor="0.75", linewidth=0.5)
    if shape is None:
        low, high = limits
        positions = x + (np.arange(len(values)) + 0.5) / len(values)
        style = {"color": COLORS[0], "linewidth": 0.8, **options}
        if len(values) <= MAX_MARKED:
            style = {"marker": "o", "markersize": 2.0, **style}
        level = (values - low) / (high - low)
        return ax.plot(positions, y + height * (0.95 - 0.9 * level), **style)[0]
    options = {"extent": (x, x + 1.0, y + height, y), "origin": "upper", **options}
    if shape[0] == 1:
        options = {"cmap": GRAY, "vmin": limits[0], "vmax": limits[1], **options}
        return ax.imshow(values.reshape(shape[1:]), **options)
    colors = (values.reshape(shape).transpose(1, 2, 0) - limits[0]) / (limits[1] - limits[0])
    return ax.imshow(np.clip(colors, 0.0, 1.0), **options)


def draw_frame(ax: Any, corner: tuple[float, float], height: float, **options: Any) -> None:
    """Draw the frame of a tile whose upper left corner is at `corner`."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle(corner, 1.0, height, fill=False, **options))


def show_only(ax: Any, width: float, height: float) -> None:
    """Limit axes to `width` and `height` in equal units, with y downwards and no frame."""
    ax.set(xlim=(-0.03, width + 0.03), ylim=(height + 0.03, -0.03), aspect="equal")
    ax.set(xticks=[], facecolor="none")
    ax.tick_params(left=False, bottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
