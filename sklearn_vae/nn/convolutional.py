"""Convolutional and residual networks of images, as factories for `encoder=` and `decoder=`.

Rows stay flat, in the order (channel, height, width). The map that reads z, the encoder's last and
the decoder's last are affine, with a bias, and without batch normalisation no row depends on
another: the ELBO equals its entropies at convergence only so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from sklearn_vae.nn.images import (
    Activate,
    Layers,
    ResidualBlock,
    Shape,
    change_first,
    change_last,
    channels_of_halvings,
    channels_of_scales,
    check_parameters,
    double_size,
    down_scales,
    image_of,
    maps_of,
    same_size,
    up_scales,
)


@dataclass(frozen=True, kw_only=True)
class ConvEncoder:
    """Factory of encoders: 4x4 convolutions of stride 2, a dense layer, an affine map.

    The "conv" of the estimators; with 64x64 images that of Higgins et al.

    Parameters
    ----------
    channels : sequence of int, default=None
        Of each convolution, which halves the image. None: as many of 32, 32, 64, 64 as leave maps
        of 4x4 or larger: of 64x64 and 32x32 images 4x4, of 28x28 ones 7x7.
    dense : int, default=256
        Width of the dense layer.
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh"; after each
        layer but the last.
    image_shape : tuple (channels, height, width), default=None
        Of the images in flat rows. None: as the factory is told when called.

    References
    ----------
    Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework" (2017), Table 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae.nn.convolutional import ConvEncoder
    >>> factory = ConvEncoder(channels=(8, 16), activation="silu")
    >>> encoder = factory(input_shape=(1, 28, 28), n_outputs=10)
    >>> encoder(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    channels: Sequence[int] | None = None
    dense: int = 256
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, input_shape: Shape, n_outputs: int) -> nn.Module:
        """A new Module from rows (n, prod(input_shape)) to (n, n_outputs)."""
        image = image_of(self, "input_shape", input_shape)
        check_parameters(self, "dense")
        channels = channels_of_halvings(self, image)
        layers: Layers = [nn.Unflatten(1, image)]
        for before, after in pairwise([image[0], *channels]):
            layers += [nn.Conv2d(before, after, 4, 2, 1), Activate(self.activation)]
        n_features = math.prod(maps_of(image, [image[0], *channels])[-1])
        layers += [nn.Flatten(), nn.Linear(n_features, self.dense), Activate(self.activation)]
        return nn.Sequential(*layers, nn.Linear(self.dense, n_outputs))


@dataclass(frozen=True, kw_only=True)
class ConvDecoder:
    """Factory of decoders: two dense layers, 4x4 transposed convolutions of stride 2.

    The mirror of :class:`ConvEncoder`, whose parameters it has, `channels` in the same order.
    """

    channels: Sequence[int] | None = None
    dense: int = 256
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, n_components: int, output_shape: Shape) -> nn.Module:
        """A new Module from z, (n, n_components), to rows (n, prod(output_shape)).

        An `output_shape` of (m, channels, height, width) is for m numbers a pixel, and gives rows
        of m images one after the other.
        """
        image = image_of(self, "output_shape", output_shape)
        check_parameters(self, "dense")
        channels = channels_of_halvings(self, image)
        last, *larger = maps_of(image, [image[0], *channels])[::-1]
        layers: Layers = [nn.Linear(n_components, self.dense), Activate(self.activation)]
        layers += [nn.Linear(self.dense, math.prod(last)), nn.Unflatten(1, last)]
        for before, after in pairwise([last, *larger]):
            layers += [Activate(self.activation), double_size(before[0], after)]
        return nn.Sequential(*layers, nn.Flatten())


@dataclass(frozen=True, kw_only=True)
class PlainConvEncoder:
    """Factory of encoders: 3x3 convolutions at each scale of an image, and an affine map.

    2x2 max-pooling leads from one scale to the next.

    Parameters
    ----------
    convolutions_per_scale : int, default=1
        1 to 5 in the paper.
    channels : sequence of int, default=None
        Of each scale. None: as many of 16, 32, 64, 128 as leave maps of 4x4 or larger. (Section 6
        of the paper does not give its own, nor the size of its kernels.)
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh".
    image_shape : tuple (channels, height, width), default=None
        Of the images in flat rows. None: as the factory is told when called.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 6.
    """

    convolutions_per_scale: int = 1
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, input_shape: Shape, n_outputs: int) -> nn.Module:
        """A new Module from rows (n, prod(input_shape)) to (n, n_outputs)."""
        image = image_of(self, "input_shape", input_shape)
        check_parameters(self, "convolutions_per_scale")
        channels = channels_of_scales(self, image)

        def scale(before: int, after: int) -> Layers:
            pairs = change_first(before, after, self.convolutions_per_scale)
            return [
                layer for pair in pairs for layer in (same_size(*pair), Activate(self.activation))
            ]

        layers = down_scales([image[0], *channels], scale)
        n_features = math.prod(maps_of(image, channels)[-1])
        return nn.Sequential(
            nn.Unflatten(1, image), *layers, nn.Flatten(), nn.Linear(n_features, n_outputs)
        )


@dataclass(frozen=True, kw_only=True)
class PlainConvDecoder:
    """Factory of decoders: an affine map, and 3x3 convolutions at each scale of an image.

    4x4 transposed convolutions of stride 2 lead from one scale to the next. The mirror of
    :class:`PlainConvEncoder`, whose parameters it has, `channels` in the same order.
    """

    convolutions_per_scale: int = 1
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, n_components: int, output_shape: Shape) -> nn.Module:
        """A new Module from z, (n, n_components), to rows (n, prod(output_shape)).

        As with :class:`ConvDecoder`, `output_shape` may be (m, channels, height, width).
        """
        image = image_of(self, "output_shape", output_shape)
        check_parameters(self, "convolutions_per_scale")
        channels = channels_of_scales(self, image)
        maps = maps_of(image, channels)

        def scale(before: int, after: int) -> Layers:
            pairs = change_last(before, after, self.convolutions_per_scale)
            return [
                layer for pair in pairs for layer in (Activate(self.activation), same_size(*pair))
            ]

        def up(shape: Shape) -> Layers:
            return [Activate(self.activation), double_size(shape[0], shape)]

        layers = up_scales(maps, image[0], scale, up)
        first = nn.Linear(n_components, math.prod(maps[-1]))
        return nn.Sequential(first, nn.Unflatten(1, maps[-1]), *layers, nn.Flatten())


@dataclass(frozen=True, kw_only=True)
class ResidualEncoder:
    """Factory of encoders: residual blocks at each scale of an image, and an affine map.

    A 3x3 convolution comes before, 2x2 max-pooling leads from one scale to the next.

    Parameters
    ----------
    blocks_per_scale : int, default=1
        1, 2 or 4 in the paper.
    convolutions_per_block : int, default=2
        2 to 5 in the paper.
    channels : sequence of int, default=None
        Of each scale. None: as many of 16, 32, 64, 128 as leave maps of 4x4 or larger. (Section 6
        of the paper does not give its own, nor the size of its kernels.)
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh".
    image_shape : tuple (channels, height, width), default=None
        Of the images in flat rows. None: as the factory is told when called.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 6.
    """

    blocks_per_scale: int = 1
    convolutions_per_block: int = 2
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, input_shape: Shape, n_outputs: int) -> nn.Module:
        """A new Module from rows (n, prod(input_shape)) to (n, n_outputs)."""
        image = image_of(self, "input_shape", input_shape)
        check_parameters(self, "blocks_per_scale", "convolutions_per_block")
        channels = channels_of_scales(self, image)

        def scale(before: int, after: int) -> Layers:
            pairs = change_first(before, after, self.blocks_per_scale)
            return [self._block(*pair) for pair in pairs]

        n_features = math.prod(maps_of(image, channels)[-1])
        return nn.Sequential(
            nn.Unflatten(1, image),
            same_size(image[0], channels[0]),
            *down_scales([channels[0], *channels], scale),
            Activate(self.activation),
            nn.Flatten(),
            nn.Linear(n_features, n_outputs),
        )

    def _block(self, before: int, after: int) -> ResidualBlock:
        return ResidualBlock(before, after, self.convolutions_per_block, self.activation)


@dataclass(frozen=True, kw_only=True)
class ResidualDecoder:
    """Factory of decoders: an affine map, and residual blocks at each scale of an image.

    4x4 transposed convolutions of stride 2 lead from one scale to the next, a 3x3 convolution comes
    last. The mirror of :class:`ResidualEncoder`, whose parameters it has, `channels` in the same
    order.
    """

    blocks_per_scale: int = 1
    convolutions_per_block: int = 2
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, n_components: int, output_shape: Shape) -> nn.Module:
        """A new Module from z, (n, n_components), to rows (n, prod(output_shape)).

        As with :class:`ConvDecoder`, `output_shape` may be (m, channels, height, width).
        """
        image = image_of(self, "output_shape", output_shape)
        check_parameters(self, "blocks_per_scale", "convolutions_per_block")
        channels = channels_of_scales(self, image)
        maps = maps_of(image, channels)

        def scale(before: int, after: int) -> Layers:
            pairs = change_last(before, after, self.blocks_per_scale)
            return [self._block(*pair) for pair in pairs]

        return nn.Sequential(
            nn.Linear(n_components, math.prod(maps[-1])),
            nn.Unflatten(1, maps[-1]),
            *up_scales(maps, channels[0], scale, lambda shape: [double_size(shape[0], shape)]),
            Activate(self.activation),
            same_size(channels[0], image[0]),
            nn.Flatten(),
        )

    def _block(self, before: int, after: int) -> ResidualBlock:
        return ResidualBlock(before, after, self.convolutions_per_block, self.activation)
