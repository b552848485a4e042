import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_vae.nn.convolutional import (
    ConvDecoder,
    ConvEncoder,
    PlainConvDecoder,
    PlainConvEncoder,
)
from sklearn_vae.nn.images import ResidualBlock
from sklearn_vae.nn.networks import (
    MLP,
    SoftThresholdDecoder,
    build_decoder,
    build_encoder,
    check_network,
    count_multiply_adds,
)
from tests.nn.modules import D, K, make_module


def test_an_mlp_is_the_sequence_of_its_layers():
    torch.manual_seed(0)
    mlp = MLP(5, (4, 3), 2, "tanh")
    first, second, last = mlp.layers
    x = torch.randn(7, 5)
    sequence = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)
    torch.testing.assert_close(mlp(x), sequence(x))
    torch.testing.assert_close(mlp(x.view(7, 1, 5)), sequence(x).view(7, 1, 2))


def test_decoders_have_the_layers_of_the_encoder_in_reverse():
    encoder = build_encoder("mlp", (9,), 4, (7, 5), "relu")
    decoder = build_decoder("mlp", 2, (9,), (7, 5), "relu")
    assert [layer.out_features for layer in encoder.layers] == [7, 5, 4]
    assert [layer.out_features for layer in decoder.layers] == [5, 7, 9]


def test_factories_are_called_with_shapes():
    made = build_encoder(lambda shape, n: nn.Linear(shape[0], n), (9,), 4, (), "relu")
    assert (made.in_features, made.out_features) == (9, 4)
    made = build_decoder(lambda k, shape: nn.Linear(k, shape[0]), 2, (9,), (), "relu")
    assert (made.in_features, made.out_features) == (2, 9)


def test_what_is_no_network_is_named():
    message = r"encoder must be 'mlp', 'conv' or a factory encoder\(input_shape, n_outputs\)"
    for wrong in (nn.Linear(2, 2), "conv3", 3, None):
        with pytest.raises(ValueError, match=message):
            check_network("encoder", wrong)
    with pytest.raises(ValueError, match=r"of shape \(2, 4\), got \(2, 3\)"):
        build_encoder(lambda shape, n: nn.Linear(9, 3), (9,), 4, (), "relu")
    with pytest.raises(ValueError, match=r"of shape \(2, 4\), got <class 'tuple'>"):
        build_encoder(lambda shape, n: nn.LSTM(9, 4), (9,), 4, (), "relu")
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module, got 7"):
        build_decoder(lambda k, shape: 7, 2, (9,), (), "relu")


def test_conv_is_the_network_of_its_factory():
    image = (2, 9, 8)

    def same(found, expected):
        assert str(found) == str(expected)
        pairs = zip(found.parameters(), expected.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)

    def seeded(function, *arguments):
        torch.manual_seed(0)
        return function(*arguments)

    encoder, decoder = ConvEncoder(activation="tanh"), ConvDecoder(activation="tanh")
    same(seeded(build_encoder, "conv", image, 5, (7,), "tanh"), seeded(encoder, image, 5))
    for shape in (image, (2, *image)):
        same(seeded(build_decoder, "conv", 5, shape, (7,), "tanh"), seeded(decoder, 5, shape))


def test_conv_needs_images():
    check_network("encoder", "conv")
    message = (
        r"='conv' needs images: set image_shape=\(channels, height, width\), got .* 9 features"
    )
    with pytest.raises(ValueError, match="encoder" + message):
        build_encoder("conv", (9,), 4, (), "relu")
    for shape in [(9,), (2, 9)]:
        with pytest.raises(ValueError, match="decoder" + message):
            build_decoder("conv", 2, shape, (), "relu")


def test_factories_of_images_pass_the_check_of_their_networks():
    image = (1, 8, 8)
    encoder = build_encoder(PlainConvEncoder(), image, 5, (), "relu")
    decoder = build_decoder(PlainConvDecoder(), 5, (2, *image), (), "relu")
    assert decoder(encoder(torch.zeros(3, 64))).shape == (3, 128)


@pytest.mark.parametrize("threshold", [0, 0.5, 2.0])
def test_soft_threshold_is_its_formula(threshold):
    torch.manual_seed(0)
    decoder = SoftThresholdDecoder(threshold)(3, (2, 4))
    z = 5 * torch.randn(50, 3)
    weight, bias = decoder.parameters()
    u = z @ weight.T
    expected = u.sign() * (u.abs() - threshold).clamp(min=0) + bias
    torch.testing.assert_close(decoder(z), expected)
    assert expected.shape == (50, 8)
    assert ((expected == bias).any() and (expected != bias).any()) or threshold == 0
    decoder(z).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in decoder.parameters())
    assert decoder.double()(z.double()).dtype == torch.float64


def test_soft_threshold_of_0_is_the_linear_decoder():
    networks = []
    for decoder in (SoftThresholdDecoder(0.0), "mlp"):
        torch.manual_seed(0)
        networks.append(build_decoder(decoder, 3, (7,), (), "relu"))
    z = torch.randn(5, 3)
    torch.testing.assert_close(networks[0](z), networks[1](z))
    torch.manual_seed(0)
    assert (SoftThresholdDecoder(0.1)(3, (7,))(z) != networks[1](z)).all()


def test_soft_threshold_decoders_are_values():
    factory = SoftThresholdDecoder(0.5)
    assert repr(factory) == "SoftThresholdDecoder(threshold=0.5)"
    for found in (pickle.loads(pickle.dumps(factory)), copy.deepcopy(factory)):
        assert found == factory != SoftThresholdDecoder(0.4)
        assert np.array_equal(found, factory)
    for wrong in (-0.1, float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ValueError, match=f"threshold .* finite number >= 0, got {wrong!r}"):
            SoftThresholdDecoder(wrong)(3, (7,))


def test_operations_without_convolutions_are_the_weights():
    assert count_multiply_adds(MLP(5, (4, 3), 2)) == 5 * 4 + 4 * 3 + 3 * 2 + (4 + 3 + 2)
    assert count_multiply_adds(SoftThresholdDecoder(1.0)(3, (7,))) == 3 * 7 + 7
    assert count_multiply_adds(nn.LSTM(2, 3)) == 4 * 3 * (2 + 3 + 2)


def test_operations_of_convolutions_are_counted():
    image = (3, 64, 64)
    # Channels before and after, side of the smaller map.
    layers = [(3, 32, 32), (32, 32, 16), (32, 64, 8), (64, 64, 4)]
    convolutions = sum(16 * before * after * side**2 for before, after, side in layers)
    dense = 64 * 4 * 4 * 256 + 256 * 10
    assert count_multiply_adds(ConvEncoder()(image, 10)) == convolutions + dense
    assert count_multiply_adds(ConvDecoder()(10, image)) == convolutions + dense
    # 8 x 8 and 4 x 4 pixels; the transposed convolution meets the smaller.
    decoder = PlainConvDecoder(channels=(3, 5))(2, (1, 8, 8))
    assert (
        count_multiply_adds(decoder) == 2 * 80 + 9 * 5 * 3 * 16 + 16 * 3 * 3 * 16 + 9 * 3 * 1 * 64
    )
    block = nn.Sequential(nn.Unflatten(1, (2, 4, 5)), ResidualBlock(2, 3, 1, "relu"))
    assert count_multiply_adds(block) == (9 + 1) * 2 * 3 * 20
    grouped = nn.Sequential(nn.Unflatten(1, (4, 6, 6)), nn.Conv2d(4, 8, 3, groups=2))
    assert count_multiply_adds(grouped) == 9 * 2 * 8 * 16


def test_operations_of_a_vae_are_those_of_its_networks():
    module = make_module()
    n_weights = sum(parameter.numel() for parameter in module.parameters())
    assert count_multiply_adds(module) == n_weights
    image = (D, 1, 1)
    module.decoder = PlainConvDecoder(channels=(2,))(K, image).double()
    decoder = K * 2 + 9 * 2 * D
    assert count_multiply_adds(module.decoder) == decoder
    encoder = sum(layer.weight.numel() for layer in module.encoder.layers)
    assert count_multiply_adds(module) == count_multiply_adds(module, D) == encoder + decoder
    module.encoder = PlainConvEncoder(channels=(2,))(image, 2 * K).double()
    assert count_multiply_adds(module) == 9 * D * 2 + 2 * 2 * K + decoder


class _Images(nn.Module):
    """Gives images their shape itself, where no layer tells it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.convolution(x.view(-1, 1, 5, 5))).flatten(1)


def test_operations_that_cannot_be_counted_are_the_weights():
    module = _Images()
    n_weights = 9 * 2 + 2 + 4
    assert count_multiply_adds(module) == n_weights
    assert count_multiply_adds(module, 24) == n_weights
    assert count_multiply_adds(module, 25) == 9 * 2 * 9


def test_counting_changes_nothing():
    module = _Images()
    module.norm.eval()
    before = copy.deepcopy(module.state_dict())
    assert count_multiply_adds(module, 25) == 162
    assert module.training
    assert not module.norm.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not module.convolution._forward_hooks
