"""Convolutional and residual networks for images, as factories for `encoder=` and `decoder=`.

Samples are flat, in the order (channel, height, width). The decoder's first layer and the last
layers of encoder and decoder are affine with a bias, and there is no batch normalization, so
samples do not depend on each other. The ELBO equals a sum of entropies at convergence only under
these conditions.
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
    check_parameters,
    double_size,
    down_scales,
    halving_channels,
    map_shapes,
    resolve_image_shape,
    same_size,
    scale_channels,
    up_scales,
)


@dataclass(frozen=True, kw_only=True)
class ConvEncoder:
    """Factory of encoders with 4x4 convolutions of stride 2, a dense layer and an affine layer.

    The estimators use it for `encoder="conv"`. For 64x64 images it is the encoder of Higgins et al.

    Parameters
    ----------
    channels : sequence of int, default=None
        Output channels of each convolution. If None, the first of 32, 32, 64, 64 that leave maps
        of at least 4x4 are used (7x7 for 28x28 images).
    dense : int, default=256
        Width of the dense layer.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function.
    image_shape : tuple of (channels, height, width), default=None
        Shape of the images. If None, the caller of the factory provides it.

    See Also
    --------
    ConvDecoder : Decoder that mirrors this encoder.

    References
    ----------
    Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework" (2017), Table 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import ConvEncoder
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
        """Build a module that maps (n_samples, prod(input_shape)) to (n_samples, n_outputs)."""
        image = resolve_image_shape(self, "input_shape", input_shape)
        check_parameters(self, "dense")
        channels = halving_channels(self, image)
        layers: Layers = [nn.Unflatten(1, image)]
        for before, after in pairwise([image[0], *channels]):
            layers += [nn.Conv2d(before, after, 4, 2, 1), Activate(self.activation)]
        n_features = math.prod(map_shapes(image, [image[0], *channels])[-1])
        layers += [nn.Flatten(), nn.Linear(n_features, self.dense), Activate(self.activation)]
        return nn.Sequential(*layers, nn.Linear(self.dense, n_outputs))


@dataclass(frozen=True, kw_only=True)
class ConvDecoder:
    """Factory of decoders with two dense layers and 4x4 transposed convolutions of stride 2.

    The estimators use it for `decoder="conv"`. It mirrors :class:`ConvEncoder`, with `channels`
    in the encoder's order.

    Parameters
    ----------
    channels : sequence of int, default=None
        Channels of the encoder's convolutions, which are traversed backward. If None, the first
        of 32, 32, 64, 64 that leave maps of at least 4x4 are used.
    dense : int, default=256
        Width of the dense layer.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function.
    image_shape : tuple of (channels, height, width), default=None
        Shape of the images. If None, the caller of the factory provides it.

    See Also
    --------
    ConvEncoder : Encoder that this decoder mirrors.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import ConvDecoder
    >>> factory = ConvDecoder(channels=(8, 16))
    >>> decoder = factory(n_components=10, output_shape=(1, 28, 28))
    >>> decoder(torch.zeros(5, 10)).shape
    torch.Size([5, 784])
    """

    channels: Sequence[int] | None = None
    dense: int = 256
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, n_components: int, output_shape: Shape) -> nn.Module:
        """Build a module that maps (n_samples, n_components) to (n_samples, prod(output_shape)).

        If `output_shape` is (m, channels, height, width), each sample consists of m images.
        """
        image = resolve_image_shape(self, "output_shape", output_shape)
        check_parameters(self, "dense")
        channels = halving_channels(self, image)
        last, *larger = map_shapes(image, [image[0], *channels])[::-1]
        layers: Layers = [nn.Linear(n_components, self.dense), Activate(self.activation)]
        layers += [nn.Linear(self.dense, math.prod(last)), nn.Unflatten(1, last)]
        for before, after in pairwise([last, *larger]):
            layers += [Activate(self.activation), double_size(before[0], after)]
        return nn.Sequential(*layers, nn.Flatten())


@dataclass(frozen=True, kw_only=True)
class PlainConvEncoder:
    """Factory of encoders with 3x3 convolutions at each scale and an affine layer.

    2x2 max-pooling leads from one scale to the next.

    Parameters
    ----------
    convolutions_per_scale : int, default=1
        Number of convolutions at each scale; 1 to 5 in the paper.
    channels : sequence of int, default=None
        Channels at each scale. If None, the first of 16, 32, 64, 128 that leave maps of at least
        4x4 are used.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function.
    image_shape : tuple of (channels, height, width), default=None
        Shape of the images. If None, the caller of the factory provides it.

    See Also
    --------
    PlainConvDecoder : Decoder that mirrors this encoder.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 6, which specifies neither channels nor kernel sizes.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import PlainConvEncoder
    >>> factory = PlainConvEncoder(channels=(4, 8))
    >>> encoder = factory(input_shape=(1, 28, 28), n_outputs=10)
    >>> encoder(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    convolutions_per_scale: int = 1
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, input_shape: Shape, n_outputs: int) -> nn.Module:
        """Build a module that maps (n_samples, prod(input_shape)) to (n_samples, n_outputs)."""
        image = resolve_image_shape(self, "input_shape", input_shape)
        check_parameters(self, "convolutions_per_scale")
        channels = scale_channels(self, image)

        def scale(n_inputs: int, n_outputs: int) -> Layers:
            pairs = change_first(n_inputs, n_outputs, self.convolutions_per_scale)
            return [
                layer for pair in pairs for layer in (same_size(*pair), Activate(self.activation))
            ]

        layers = down_scales([image[0], *channels], scale)
        n_features = math.prod(map_shapes(image, channels)[-1])
        return nn.Sequential(
            nn.Unflatten(1, image), *layers, nn.Flatten(), nn.Linear(n_features, n_outputs)
        )


@dataclass(frozen=True, kw_only=True)
class PlainConvDecoder:
    """Factory of decoders with an affine layer and 3x3 convolutions at each scale.

    4x4 transposed convolutions of stride 2 lead from one scale to the next. It mirrors
    :class:`PlainConvEncoder`, with `channels` in the encoder's order.

    Parameters
    ----------
    convolutions_per_scale : int, default=1
        Number of convolutions at each scale; 1 to 5 in the paper.
    channels : sequence of int, default=None
        Channels at each scale. If None, the first of 16, 32, 64, 128 that leave maps of at least
        4x4 are used.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function.
    image_shape : tuple of (channels, height, width), default=None
        Shape of the images. If None, the caller of the factory provides it.

    See Also
    --------
    PlainConvEncoder : Encoder that this decoder mirrors.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import PlainConvDecoder
    >>> factory = PlainConvDecoder(channels=(4, 8))
    >>> decoder = factory(n_components=10, output_shape=(1, 28, 28))
    >>> decoder(torch.zeros(5, 10)).shape
    torch.Size([5, 784])
    """

    convolutions_per_scale: int = 1
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, n_components: int, output_shape: Shape) -> nn.Module:
        """Build a module that maps (n_samples, n_components) to (n_samples, prod(output_shape)).

        If `output_shape` is (m, channels, height, width), each sample consists of m images.
        """
        image = resolve_image_shape(self, "output_shape", output_shape)
        check_parameters(self, "convolutions_per_scale")
        channels = scale_channels(self, image)
        maps = map_shapes(image, channels)

        def scale(n_inputs: int, n_outputs: int) -> Layers:
            pairs = change_last(n_inputs, n_outputs, self.convolutions_per_scale)
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
    """Factory of encoders with residual blocks at each scale and an affine layer.

    A 3x3 convolution comes first. 2x2 max-pooling leads from one scale to the next.

    Parameters
    ----------
    blocks_per_scale : int, default=1
        Number of residual blocks at each scale; 1, 2 or 4 in the paper.
    convolutions_per_block : int, default=2
        Number of convolutions in each block; 2 to 5 in the paper.
    channels : sequence of int, default=None
        Channels at each scale. If None, the first of 16, 32, 64, 128 that leave maps of at least
        4x4 are used.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function.
    image_shape : tuple of (channels, height, width), default=None
        Shape of the images. If None, the caller of the factory provides it.

    See Also
    --------
    ResidualDecoder : Decoder that mirrors this encoder.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 6, which specifies neither channels nor kernel sizes.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import ResidualEncoder
    >>> factory = ResidualEncoder(channels=(4, 8))
    >>> encoder = factory(input_shape=(1, 28, 28), n_outputs=10)
    >>> encoder(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    blocks_per_scale: int = 1
    convolutions_per_block: int = 2
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, input_shape: Shape, n_outputs: int) -> nn.Module:
        """Build a module that maps (n_samples, prod(input_shape)) to (n_samples, n_outputs)."""
        image = resolve_image_shape(self, "input_shape", input_shape)
        check_parameters(self, "blocks_per_scale", "convolutions_per_block")
        channels = scale_channels(self, image)

        def scale(n_inputs: int, n_outputs: int) -> Layers:
            pairs = change_first(n_inputs, n_outputs, self.blocks_per_scale)
            return [self._block(*pair) for pair in pairs]

        n_features = math.prod(map_shapes(image, channels)[-1])
        return nn.Sequential(
            nn.Unflatten(1, image),
            same_size(image[0], channels[0]),
            *down_scales([channels[0], *channels], scale),
            Activate(self.activation),
            nn.Flatten(),
            nn.Linear(n_features, n_outputs),
        )

    def _block(self, n_inputs: int, n_outputs: int) -> ResidualBlock:
        return ResidualBlock(n_inputs, n_outputs, self.convolutions_per_block, self.activation)


@dataclass(frozen=True, kw_only=True)
class ResidualDecoder:
    """Factory of decoders with an affine layer and residual blocks at each scale.

    4x4 transposed convolutions of stride 2 lead from one scale to the next, and a 3x3 convolution
    comes last. It mirrors :class:`ResidualEncoder`, with `channels` in the encoder's order.

    Parameters
    ----------
    blocks_per_scale : int, default=1
        Number of residual blocks at each scale; 1, 2 or 4 in the paper.
    convolutions_per_block : int, default=2
        Number of convolutions in each block; 2 to 5 in the paper.
    channels : sequence of int, default=None
        Channels at each scale. If None, the first of 16, 32, 64, 128 that leave maps of at least
        4x4 are used.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function.
    image_shape : tuple of (channels, height, width), default=None
        Shape of the images. If None, the caller of the factory provides it.

    See Also
    --------
    ResidualEncoder : Encoder that this decoder mirrors.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import ResidualDecoder
    >>> factory = ResidualDecoder(channels=(4, 8))
    >>> decoder = factory(n_components=10, output_shape=(1, 28, 28))
    >>> decoder(torch.zeros(5, 10)).shape
    torch.Size([5, 784])
    """

    blocks_per_scale: int = 1
    convolutions_per_block: int = 2
    channels: Sequence[int] | None = None
    activation: str = "relu"
    image_shape: Shape | None = None

    def __call__(self, n_components: int, output_shape: Shape) -> nn.Module:
        """Build a module that maps (n_samples, n_components) to (n_samples, prod(output_shape)).

        If `output_shape` is (m, channels, height, width), each sample consists of m images.
        """
        image = resolve_image_shape(self, "output_shape", output_shape)
        check_parameters(self, "blocks_per_scale", "convolutions_per_block")
        channels = scale_channels(self, image)
        maps = map_shapes(image, channels)

        def scale(n_inputs: int, n_outputs: int) -> Layers:
            pairs = change_last(n_inputs, n_outputs, self.blocks_per_scale)
            return [self._block(*pair) for pair in pairs]

        return nn.Sequential(
            nn.Linear(n_components, math.prod(maps[-1])),
            nn.Unflatten(1, maps[-1]),
            *up_scales(maps, channels[0], scale, lambda shape: [double_size(shape[0], shape)]),
            Activate(self.activation),
            same_size(channels[0], image[0]),
            nn.Flatten(),
        )

    def _block(self, n_inputs: int, n_outputs: int) -> ResidualBlock:
        return ResidualBlock(n_inputs, n_outputs, self.convolutions_per_block, self.activation)
