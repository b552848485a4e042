"""Layers of image networks and the shapes of their feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeAlias

from torch import Tensor, nn

from sklearn_vae.nn.activations import ACTIVATIONS

Shape: TypeAlias = tuple[int, ...]
Layers: TypeAlias = list[nn.Module]

# Minimum height and width of feature maps with the default channels.
SMALLEST_SIDE = 4

CHANNELS_OF_CONV = (32, 32, 64, 64)
CHANNELS_OF_SCALES = (16, 32, 64, 128)


class Activate(nn.Module):
    """Activation as a layer; `activation` is a key of `ACTIVATIONS`."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each entry."""
        return ACTIVATIONS[self.activation](x)

    def extra_repr(self) -> str:
        """Return the name of the activation."""
        return self.activation


class ResidualBlock(nn.Module):
    """x + f(x), where f alternates the activation and 3x3 convolutions.

    If the number of channels changes, x passes through a 1x1 convolution.
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_convolutions: int, activation: str) -> None:
        super().__init__()
        same = n_inputs == n_outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(n_inputs, n_outputs, 1)
        layers: Layers = []
        for before, after in change_first(n_inputs, n_outputs, n_convolutions):
            layers += [Activate(activation), same_size(before, after)]
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_inputs, height, width) to (n, n_outputs, height, width)."""
        return self.shortcut(x) + self.residual(x)


def same_size(n_inputs: int, n_outputs: int) -> nn.Conv2d:
    """Create a 3x3 convolution that keeps height and width."""
    return nn.Conv2d(n_inputs, n_outputs, 3, padding=1)


def double_size(n_inputs: int, output_shape: Shape) -> nn.ConvTranspose2d:
    """Create a 4x4 transposed convolution of stride 2 with outputs of `output_shape`."""
    channels, height, width = output_shape
    odd = (height % 2, width % 2)  # maps were halved with rounding down
    return nn.ConvTranspose2d(n_inputs, channels, 4, 2, 1, output_padding=odd)


def down_scales(channels: Sequence[int], scale: Callable[[int, int], Layers]) -> Layers:
    """Chain layers from channels[i] to channels[i + 1], with max-pooling between the scales."""
    first, *others = [scale(before, after) for before, after in pairwise(channels)]
    return [*first, *(layer for layers in others for layer in (nn.MaxPool2d(2), *layers))]


def up_scales(
    maps: Sequence[Shape],
    n_outputs: int,
    scale: Callable[[int, int], Layers],
    up: Callable[[Shape], Layers],
) -> Layers:
    """Chain the layers of each scale, from the last of `maps` to the first, with `up` between."""
    layers: Layers = []
    for smaller, larger in pairwise(maps[::-1]):
        layers += [*scale(smaller[0], larger[0]), *up(larger)]
    return [*layers, *scale(maps[0][0], n_outputs)]


def change_first(before: int, after: int, n: int) -> list[tuple[int, int]]:
    """Return input and output channels of n layers, the first of which changes them."""
    return [(before, after), *[(after, after)] * (n - 1)]


def change_last(before: int, after: int, n: int) -> list[tuple[int, int]]:
    """Return input and output channels of n layers, the last of which changes them."""
    return [*[(before, before)] * (n - 1), (before, after)]


def map_shapes(image: Shape, channels: Sequence[int]) -> list[Shape]:
    """Return the shapes (channels, height, width) of successively halved feature maps."""
    _, height, width = image
    return [(c, height >> i, width >> i) for i, c in enumerate(channels)]


def resolve_image_shape(factory: Any, name: str, shape: Shape) -> Shape:
    """Return (channels, height, width), with the channels of all images in a sample."""
    label, image = type(factory).__name__, factory.image_shape
    if image is None:
        if len(shape) not in (3, 4):
            raise ValueError(
                f"{label} needs images: set image_shape=(channels, height, width), got "
                f"{name}={shape}."
            )
        image = shape[-3:]
    elif not (_are_counts(image) and len(image) == 3):
        raise ValueError(
            f"image_shape must be three integers >= 1 (channels, height, width), got {image!r}."
        )
    image = tuple(map(int, image))
    own = 3 if len(shape) >= 3 else 1
    if shape[-own:] not in (image, (math.prod(image),)):
        raise ValueError(
            f"{label} has image_shape={image} with {math.prod(image)} features, but was called "
            f"with {name}={shape}."
        )
    return (math.prod(shape[:-own]) * image[0], *image[1:])


def halving_channels(factory: Any, image: Shape) -> tuple[int, ...]:
    """Return the channels after each halving of an image."""
    side = min(image[1:])
    if factory.channels is None and side < 2 * SMALLEST_SIDE:
        raise ValueError(
            f"{type(factory).__name__} needs images of height and width >= {2 * SMALLEST_SIDE} "
            f"unless channels is set, got (channels, height, width)={image}."
        )
    return _channels(factory, image, CHANNELS_OF_CONV, 0)


def scale_channels(factory: Any, image: Shape) -> tuple[int, ...]:
    """Return the channels at each scale of an image; each scale has half the size."""
    return _channels(factory, image, CHANNELS_OF_SCALES, 1)


def _channels(factory: Any, image: Shape, default: Shape, n_full_size: int) -> tuple[int, ...]:
    """Return the factory's channels, the first `n_full_size` for maps of the image's size."""
    side = min(image[1:])
    channels = factory.channels
    if channels is None:
        n_halvings = max(0, (side // SMALLEST_SIDE).bit_length() - 1)
        return default[: n_halvings + n_full_size]
    label = type(factory).__name__
    if not _are_counts(channels):
        raise ValueError(
            f"channels of {label} must be None or one or more integers >= 1, got {channels!r}."
        )
    n_halvings = len(channels) - n_full_size
    if side >> n_halvings < 1:
        raise ValueError(
            f"channels={channels!r} of {label} halve an image {n_halvings} times, so height and "
            f"width must be at least {2**n_halvings}, got (channels, height, width)={image}."
        )
    return tuple(map(int, channels))


def check_parameters(factory: Any, *counts: str) -> None:
    """Raise ValueError unless `counts` are integers >= 1 and the activation is known."""
    label = type(factory).__name__
    for name in counts:
        if not _is_count(value := getattr(factory, name)):
            raise ValueError(f"{name} of {label} must be an integer >= 1, got {value!r}.")
    if factory.activation not in ACTIVATIONS:
        raise ValueError(
            f"activation of {label} must be one of {', '.join(map(repr, ACTIVATIONS))}, got "
            f"{factory.activation!r}."
        )


def _are_counts(values: Any) -> bool:
    return isinstance(values, Sequence) and len(values) > 0 and all(map(_is_count, values))


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
