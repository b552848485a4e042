import copy
import math
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from torch import nn

from sklearn_vae.nn.activations import ACTIVATIONS
from sklearn_vae.nn.convolutional import (
    ConvDecoder,
    ConvEncoder,
    PlainConvDecoder,
    PlainConvEncoder,
    ResidualDecoder,
    ResidualEncoder,
)
from sklearn_vae.nn.images import Activate, ResidualBlock

# One word more for a new pair; small enough to be quick, with more than one layer of each kind.
PAIRS = {
    "conv": (ConvEncoder(dense=8), ConvDecoder(dense=8)),
    "plain": (
        PlainConvEncoder(convolutions_per_scale=2, channels=(3, 4)),
        PlainConvDecoder(convolutions_per_scale=2, channels=(3, 4)),
    ),
    "residual": (
        ResidualEncoder(blocks_per_scale=2, channels=(3, 4)),
        ResidualDecoder(blocks_per_scale=2, channels=(3, 4)),
    ),
}
FACTORIES = [factory for pair in PAIRS.values() for factory in pair]
SHAPES = [(1, 28, 28), (3, 32, 32), (1, 64, 64), (2, 13, 11), (1, 8, 8)]
IMAGE = (2, 13, 11)
K = 3


@pytest.fixture(params=PAIRS)
def pair(request):
    """Factories of an encoder and of its mirror."""
    return PAIRS[request.param]


def make(factory, image=IMAGE, seed=0):
    """A new network of the factory, for K latent dimensions."""
    torch.manual_seed(seed)
    return factory(image, K) if "Encoder" in type(factory).__name__ else factory(K, image)


def n_inputs(factory, image=IMAGE):
    return math.prod(image) if "Encoder" in type(factory).__name__ else K


def convolutions(network, kinds=(nn.Conv2d, nn.ConvTranspose2d)):
    """(Channels before, channels after, size of the kernel), in order."""
    layers = [part for part in network.modules() if isinstance(part, kinds)]
    return [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in layers]


def widths(network):
    return [
        (part.in_features, part.out_features)
        for part in network.modules()
        if isinstance(part, nn.Linear)
    ]


def mirror(layers):
    return [(after, before, *kernel) for before, after, *kernel in reversed(layers)]


def n_weights(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("image", SHAPES)
def test_rows_stay_flat(pair, image):
    encoder, decoder = (make(factory, image) for factory in pair)
    x = torch.randn(2, math.prod(image))
    z = encoder(x)
    assert z.shape == (2, K)
    assert decoder(z).shape == x.shape


def test_rows_are_images_channel_by_channel():
    height, width = 8, 8
    encoder = make(ConvEncoder(channels=(1,), dense=2), (3, height, width))
    convolution = encoder[1]
    x = torch.arange(3.0 * height * width)[None]
    expected = convolution(x.view(1, 3, height, width))
    torch.testing.assert_close(encoder[:2](x), expected)
    # A decoder whose last bias tells the channels apart, and whose last weights are 0.
    decoder = make(ConvDecoder(channels=(1,), dense=2), (3, height, width))
    with torch.no_grad():
        decoder[-2].weight.zero_()
        decoder[-2].bias.copy_(torch.arange(3.0))
    image = decoder(torch.randn(1, K)).view(3, height, width)
    torch.testing.assert_close(image, torch.arange(3.0).view(3, 1, 1).expand(3, height, width))


@pytest.mark.parametrize("factory", [decoder for _, decoder in PAIRS.values()])
def test_several_numbers_a_pixel_are_images_one_after_the_other(factory):
    d = math.prod(IMAGE)
    decoder = make(factory, (2, *IMAGE))
    assert decoder(torch.randn(5, K)).shape == (5, 2 * d)
    last = [layer for layer in decoder if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]
    z = torch.randn(5, K)
    before = decoder(z)
    with torch.no_grad():
        last.bias[IMAGE[0] :] += 1.0  # of the second image
    shift = decoder(z) - before
    torch.testing.assert_close(shift[:, :d], torch.zeros(5, d))
    torch.testing.assert_close(shift[:, d:], torch.ones(5, d))
    flat = replace(factory, image_shape=IMAGE)
    assert make(flat, (2, d))(z).shape == (5, 2 * d)


def test_conv_has_the_layers_of_the_paper():
    kernel = (4, 4)
    encoder, decoder = make(ConvEncoder(), (1, 64, 64)), make(ConvDecoder(), (1, 64, 64))
    assert convolutions(encoder, nn.Conv2d) == [
        (1, 32, kernel),
        (32, 32, kernel),
        (32, 64, kernel),
        (64, 64, kernel),
    ]
    assert widths(encoder) == [(64 * 4 * 4, 256), (256, K)]
    assert convolutions(decoder, nn.ConvTranspose2d) == mirror(convolutions(encoder))
    assert widths(decoder) == mirror(widths(encoder))
    # Weights and biases by hand.
    in_convolutions = 16 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + (32 + 32 + 64 + 64)
    assert n_weights(encoder) == in_convolutions + 257 * K + 256 * 1025
    in_convolutions = 16 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + (1 + 32 + 32 + 64)
    assert n_weights(decoder) == in_convolutions + 256 * (K + 1) + 1024 * 257


@pytest.mark.parametrize(
    ("image", "smallest"),
    [
        ((1, 28, 28), (32, 7, 7)),
        ((3, 32, 32), (64, 4, 4)),
        ((3, 64, 64), (64, 4, 4)),
        ((1, 8, 8), (32, 4, 4)),
        ((1, 62, 47), (64, 7, 5)),
        ((1, 128, 128), (64, 8, 8)),
    ],
)
def test_conv_halves_to_maps_of_4x4_or_a_little_larger(image, smallest):
    encoder = ConvEncoder(dense=1)(image, 1)
    flatten = next(i for i, layer in enumerate(encoder) if isinstance(layer, nn.Flatten))
    assert encoder[:flatten](torch.zeros(1, math.prod(image))).shape == (1, *smallest)
    decoder = ConvDecoder(dense=1)(1, image)
    unflatten = next(layer for layer in decoder if isinstance(layer, nn.Unflatten))
    assert unflatten.unflattened_size == smallest


@pytest.mark.parametrize("convolutions_per_scale", [1, 2, 5])
def test_plain_networks_have_as_many_convolutions_at_each_scale(convolutions_per_scale):
    parameters = {"convolutions_per_scale": convolutions_per_scale, "channels": (3, 4, 5)}
    encoder = make(PlainConvEncoder(**parameters))
    decoder = make(PlainConvDecoder(**parameters))
    kernel, rest = (3, 3), convolutions_per_scale - 1
    expected = []
    for before, after in [(2, 3), (3, 4), (4, 5)]:
        expected += [(before, after, kernel), *[(after, after, kernel)] * rest]
    assert convolutions(encoder) == expected
    assert convolutions(decoder, nn.Conv2d) == mirror(expected)
    assert convolutions(decoder, nn.ConvTranspose2d) == [(4, 4, (4, 4)), (3, 3, (4, 4))]
    assert widths(encoder) == mirror(widths(decoder)) == [(5 * 3 * 2, K)]
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in encoder) == 2
    # After each convolution; in the decoder before each, also of the transposed ones.
    assert sum(isinstance(layer, Activate) for layer in encoder) == 3 * convolutions_per_scale
    assert sum(isinstance(layer, Activate) for layer in decoder) == 3 * convolutions_per_scale + 2


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(
    ("side", "channels"),
    [
        (1, [16]), (7, [16]), (8, [16, 32]), (15, [16, 32]), (16, [16, 32, 64]),
        (31, [16, 32, 64]), (32, [16, 32, 64, 128]), (70, [16, 32, 64, 128]),
    ],
)  # fmt: skip
def test_channels_double_at_each_scale_down_to_maps_of_4x4(kind, side, channels):
    image = (2, side + 1, side)
    encoder, decoder = (make(replace(f, channels=None), image) for f in PAIRS[kind])
    assert [after for _, after in _changes(encoder)] == channels
    assert [before for before, _ in _changes(decoder)] == channels[::-1]


def _changes(network):
    """Channels before and after each convolution of 3x3 that changes them."""
    layers = [(a, b) for a, b, kernel in convolutions(network, nn.Conv2d) if kernel == (3, 3)]
    return [(before, after) for before, after in layers if before != after]


@pytest.mark.parametrize(("blocks", "depth"), [(1, 2), (2, 5), (4, 1)])
def test_residual_networks_have_as_many_blocks_at_each_scale(blocks, depth):
    parameters = {
        "blocks_per_scale": blocks,
        "convolutions_per_block": depth,
        "channels": (3, 4, 5),
    }
    encoder, decoder = make(ResidualEncoder(**parameters)), make(ResidualDecoder(**parameters))
    for network in (encoder, decoder):
        found = [layer for layer in network if isinstance(layer, ResidualBlock)]
        assert len(found) == 3 * blocks
        assert all(len(convolutions(block.residual)) == depth for block in found)
        assert sum(isinstance(block.shortcut, nn.Conv2d) for block in found) == 2
    assert _outer(encoder) == mirror(_outer(decoder))
    assert convolutions(decoder, nn.ConvTranspose2d) == [(4, 4, (4, 4)), (3, 3, (4, 4))]
    assert widths(encoder) == mirror(widths(decoder)) == [(5 * 3 * 2, K)]


def _outer(network):
    """Channels before and after each block, and each convolution outside of them."""
    found = []
    for layer in network:
        if isinstance(layer, ResidualBlock):
            inner = convolutions(layer.residual)
            found.append((inner[0][0], inner[-1][1]))
        elif isinstance(layer, nn.Conv2d):
            found.append((layer.in_channels, layer.out_channels))
    return found


def test_a_residual_block_is_a_shortcut_and_activated_convolutions():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5)
    block = ResidualBlock(3, 4, 2, "tanh")
    first, second = block.residual[1], block.residual[3]
    expected = block.shortcut(x) + second(torch.tanh(first(torch.tanh(x))))
    torch.testing.assert_close(block(x), expected)
    block = ResidualBlock(3, 3, 1, "tanh")
    torch.testing.assert_close(block(x), x + block.residual[1](torch.tanh(x)))


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_the_last_map_is_affine_with_a_bias(factory):
    network = make(factory)
    x = torch.randn(4, n_inputs(factory))
    before = network(x)
    last = [part for part in network if hasattr(part, "weight")][-1]
    with torch.no_grad():
        last.bias += 0.25
    torch.testing.assert_close(network(x), before + 0.25)
    with torch.no_grad():  # and no activation after it
        last.bias -= 0.25
        last.weight.neg_()
        last.bias.neg_()
    torch.testing.assert_close(network(x), -before)


@pytest.mark.parametrize("factory", [decoder for _, decoder in PAIRS.values()], ids=repr)
def test_what_reads_z_is_affine(factory):
    decoder = make(factory)
    assert isinstance(decoder[0], nn.Linear)
    assert decoder[0].bias is not None
    z, scale = torch.randn(4, K), torch.tensor([0.5, 2.0, 3.0])
    before = decoder(z)
    with torch.no_grad():
        decoder[0].weight /= scale
    torch.testing.assert_close(decoder(z * scale), before)


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_rows_do_not_depend_on_each_other(factory):
    network = make(factory).double()
    x = torch.randn(5, n_inputs(factory), dtype=torch.float64)
    rows = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(network(x), rows)
    assert rows.dtype == torch.float64


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_the_gradient_reaches_every_parameter(factory):
    network = make(replace(factory, activation="silu"))
    network(torch.randn(8, n_inputs(factory))).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_first_weights_come_from_the_global_generator(factory):
    one, same, other = (make(factory, seed=seed).state_dict() for seed in (0, 0, 1))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name])
        assert not torch.equal(tensor, other[name])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_the_mlp(activation):
    torch.manual_seed(0)
    x = torch.randn(2, 64)
    encoder = ConvEncoder(channels=(2,), dense=3, activation=activation)((1, 8, 8), K)
    function = ACTIVATIONS[activation]
    _, convolution, _, _, dense, _, last = encoder
    h = function(convolution(x.view(2, 1, 8, 8))).flatten(1)
    torch.testing.assert_close(encoder(x), last(function(dense(h))))


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_networks_are_pickled_with_their_numbers(factory):
    network = make(factory)
    x = torch.randn(2, n_inputs(factory))
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))


class _Holder(BaseEstimator):
    def __init__(self, encoder=None):
        self.encoder = encoder


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_factories_are_values(factory):
    copies = [
        pickle.loads(pickle.dumps(factory)),
        copy.copy(factory),
        copy.deepcopy(factory),
        clone(_Holder(factory)).encoder,
        eval(repr(factory)),
    ]
    for found in copies:
        assert found == factory
        assert hash(found) == hash(factory)
        assert np.array_equal(found, factory)  # as estimators compare parameters
    other = replace(factory, activation="tanh")
    assert factory != other
    assert not np.array_equal(other, factory)
    assert factory not in [f for f in FACTORIES if f is not factory]
    with pytest.raises(FrozenInstanceError):
        factory.activation = "tanh"


def test_factories_show_all_their_parameters():
    assert repr(ConvEncoder(dense=9)) == (
        "ConvEncoder(channels=None, dense=9, activation='relu', image_shape=None)"
    )


def test_flat_rows_need_the_shape_of_their_images():
    d = math.prod(IMAGE)
    for factory in FACTORIES:
        what = "input_shape" if "Encoder" in type(factory).__name__ else "output_shape"
        message = (
            f"{type(factory).__name__} needs images: set image_shape="
            rf"\(channels, height, width\), got {what}=\({d},\)"
        )
        with pytest.raises(ValueError, match=message):
            make(factory, (d,))
        network = make(replace(factory, image_shape=IMAGE), (d,))
        expected = make(factory)
        x = torch.randn(2, n_inputs(factory))
        torch.testing.assert_close(network(x), expected(x))


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
@pytest.mark.parametrize(
    ("parameters", "shape", "message"),
    [
        ({"image_shape": (1, 13, 11)}, (286,), "with 143 features, but .*_shape=.286,."),
        ({"image_shape": (2, 11, 13)}, IMAGE, r"has image_shape=\(2, 11, 13\) with 286 features"),
        ({"image_shape": (13, 11)}, IMAGE, r"three integers >= 1 .* got \(13, 11\)"),
        ({"image_shape": (2, 13, 0)}, IMAGE, r"three integers >= 1 .* got \(2, 13, 0\)"),
        ({"image_shape": 13}, IMAGE, "three integers >= 1 .* got 13"),
        ({"channels": ()}, IMAGE, r"channels of \w+ must be None or one or more .* got \(\)"),
        ({"channels": (3, 0)}, IMAGE, r"one or more integers >= 1, got \(3, 0\)"),
        ({"channels": 32}, IMAGE, "one or more integers >= 1, got 32"),
        ({"channels": "32"}, IMAGE, "one or more integers >= 1, got '32'"),
        ({"channels": (1,) * 6}, IMAGE, r"halve an image . times.* at least .*\(2, 13, 11\)"),
        ({"activation": "swish"}, IMAGE, "activation of .* one of 'relu', .*, got 'swish'"),
    ],
)
def test_what_does_not_fit_is_named(factory, parameters, shape, message):
    with pytest.raises(ValueError, match=message):
        make(replace(factory, **parameters), shape)


@pytest.mark.parametrize("value", [0, 1.5, True, None])
@pytest.mark.parametrize(
    ("name", "factories"),
    [
        ("dense", "conv"),
        ("convolutions_per_scale", "plain"),
        ("blocks_per_scale", "residual"),
        ("convolutions_per_block", "residual"),
    ],
)
def test_counts_are_positive(name, factories, value):
    for factory in PAIRS[factories]:
        with pytest.raises(ValueError, match=f"{name} of .* an integer >= 1, got {value}"):
            make(replace(factory, **{name: value}))


def test_small_images_are_halved_where_asked_only():
    for factory in (ConvEncoder, ConvDecoder):
        message = r"needs images of height and width >= 8 unless .* got .*=\(1, 9, 7\)"
        with pytest.raises(ValueError, match=message):
            make(factory(), (1, 9, 7))
        network = make(factory(channels=(2, 2)), (1, 9, 7))
        assert len(convolutions(network)) == 2
        with pytest.raises(ValueError, match=r"3 times, .* height and width must be at least 8"):
            make(factory(channels=(2, 2, 2)), (1, 9, 7))
    for factory in (PlainConvEncoder, ResidualDecoder):
        assert make(factory(), (1, 3, 3))(torch.zeros(1, n_inputs(factory(), (1, 3, 3)))).ndim == 2
