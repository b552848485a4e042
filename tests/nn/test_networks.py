import pytest
import torch
from torch import nn

from sklearn_vae.nn.networks import ACTIVATIONS, MLP, build_decoder, build_encoder, check_network


def test_an_mlp_is_the_sequence_of_its_layers():
    torch.manual_seed(0)
    mlp = MLP(5, (4, 3), 2, "tanh")
    first, second, last = mlp.layers
    x = torch.randn(7, 5)
    sequence = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)
    torch.testing.assert_close(mlp(x), sequence(x))
    torch.testing.assert_close(mlp(x.view(7, 1, 5)), sequence(x).view(7, 1, 2))


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_by_hand_are_those_of_autograd(activation, hidden):
    torch.manual_seed(0)
    mlp = MLP(5, hidden, 3, activation).double()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(7, 3, dtype=torch.float64)
    expected = mlp(x)
    of_x, *of_parameters = torch.autograd.grad(expected, [x, *mlp.parameters()], gradient)
    with torch.no_grad():
        found, pull = mlp.pullback(x)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(pull(gradient.clone()), of_x)
    for parameter, oracle in zip(mlp.parameters(), of_parameters, strict=True):
        torch.testing.assert_close(parameter.grad, oracle)


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
    message = r"encoder must be 'mlp' or a factory encoder\(input_shape, n_outputs\)"
    for wrong in (nn.Linear(2, 2), "conv3", 3, None):
        with pytest.raises(ValueError, match=message):
            check_network("encoder", wrong)
    with pytest.raises(ValueError, match=r"of shape \(2, 4\), got \(2, 3\)"):
        build_encoder(lambda shape, n: nn.Linear(9, 3), (9,), 4, (), "relu")
    with pytest.raises(ValueError, match=r"of shape \(2, 4\), got <class 'tuple'>"):
        build_encoder(lambda shape, n: nn.LSTM(9, 4), (9,), 4, (), "relu")
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module, got 7"):
        build_decoder(lambda k, shape: 7, 2, (9,), (), "relu")


def test_weights_that_are_computed_have_no_pullback():
    mlp = MLP(5, (4,), 3)
    assert mlp.has_pullback
    nn.utils.parametrizations.weight_norm(mlp.layers[0])
    assert not mlp.has_pullback
