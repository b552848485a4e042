"""Samples drawn side by side on one axes, as images or as small curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_vae.plot.base import COLORS, GREY, Array
from sklearn_vae.validation import is_integer

# Between two tiles, in widths of a tile.
GAP = 0.08

# Greatest height of an image, in inches.
TALLEST = 1.8

# Most entries of a curve that have a marker each.
FEW = 30


def check_image_shape(image_shape: Any, n_features: int) -> tuple[int, int, int]:
    """(channels, height, width) of images; ValueError unless samples can have that shape."""
    one_by_one = isinstance(image_shape, Sequence | np.ndarray) and np.ndim(image_shape) == 1
    shape = tuple(image_shape) if one_by_one else ()
    if not (len(shape) in (2, 3) and all(is_integer(size) and size >= 1 for size in shape)):
        raise ValueError(
            "image_shape must be (height, width) or (channels, height, width), integers >= 1, "
            f"got {image_shape!r}."
        )
    channels, height, width = (1, *shape)[-3:]
    if channels not in (1, 3):
        raise ValueError(f"image_shape must have 1 or 3 channels, got {channels} in {image_shape}.")
    if math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={image_shape} has {math.prod(shape)} numbers, but X has "
            f"{n_features} features."
        )
    return int(channels), int(height), int(width)


def check_limits(limits: Any, values: Array) -> tuple[float, float]:
    """(low, high), by default the range of the finite values."""
    if limits is None:
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)
    pair = tuple(limits)
    if not (len(pair) == 2 and np.isfinite(pair).all() and pair[0] < pair[1]):
        raise ValueError(f"limits must be two numbers (low, high), low < high, got {limits!r}.")
    return float(pair[0]), float(pair[1])


def aspect(shape: tuple[int, int, int] | None) -> float:
    """Height over width of a tile."""
    return 1.0 if shape is None else shape[1] / shape[2]


def draw(
    ax: Any,
    values: Array,
    place: tuple[float, float],
    shape: tuple[int, int, int] | None,
    limits: tuple[float, float],
    **options: Any,
) -> Any:
    """Draw a sample with its upper left corner at `place`, y downwards; return image or line."""
    x, y = place
    height = aspect(shape)
    draw_frame(ax, place, height, edgecolor="0.75", linewidth=0.5)
    if shape is None:
        low, high = limits
        along = x + (np.arange(len(values)) + 0.5) / len(values)
        style = {"color": COLORS[0], "linewidth": 0.8, **options}
        if len(values) <= FEW:
            style = {"marker": "o", "markersize": 2.0, **style}
        level = (values - low) / (high - low)
        return ax.plot(along, y + height * (0.95 - 0.9 * level), **style)[0]
    options = {"extent": (x, x + 1.0, y + height, y), "origin": "upper", **options}
    if shape[0] == 1:
        options = {"cmap": GREY, "vmin": limits[0], "vmax": limits[1], **options}
        return ax.imshow(values.reshape(shape[1:]), **options)
    colors = (values.reshape(shape).transpose(1, 2, 0) - limits[0]) / (limits[1] - limits[0])
    return ax.imshow(np.clip(colors, 0.0, 1.0), **options)


def draw_frame(ax: Any, place: tuple[float, float], height: float, **options: Any) -> None:
    """Draw the frame of a tile whose upper left corner is at `place`."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle(place, 1.0, height, fill=False, **options))


def show_only(ax: Any, width: float, height: float) -> None:
    """Limit axes to `width` and, downwards, `height`, in equal units and without a frame."""
    ax.set(xlim=(-0.03, width + 0.03), ylim=(height + 0.03, -0.03), aspect="equal")
    ax.set(xticks=[], facecolor="none")
    ax.tick_params(left=False, bottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
