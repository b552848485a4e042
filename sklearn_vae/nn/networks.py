"""Encoders and decoders: networks from rows to parameters of a distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation and its pullback (gradient, input, output) -> gradient.

    The pullback may overwrite the gradient. `in_place` where the pullback needs the output only, so that the input can be overwritten.
    """

    function: Callable[..., Tensor]
    pullback: Callable[[Tensor, Tensor, Tensor], Tensor]
    in_place: Callable[[Tensor], Tensor] | None = None


ACTIVATIONS = {
    "relu": Activation(
        functional.relu,
        lambda g, x, y: aten.threshold_backward.grad_input(g, y, 0, grad_input=g),
        torch.relu_,
    ),
    "leaky_relu": Activation(
        functional.leaky_relu, lambda g, x, y: aten.leaky_relu_backward(g, x, 0.01, False)
    ),
    "elu": Activation(
        functional.elu, lambda g, x, y: aten.elu_backward(g, 1.0, 1.0, 1.0, False, x)
    ),
    "gelu": Activation(functional.gelu, lambda g, x, y: aten.gelu_backward(g, x)),
    "silu": Activation(functional.silu, lambda g, x, y: aten.silu_backward(g, x)),
    "softplus": Activation(
        functional.softplus, lambda g, x, y: aten.softplus_backward(g, x, 1.0, 20.0)
    ),
    "sigmoid": Activation(
        torch.sigmoid, lambda g, x, y: aten.sigmoid_backward(g, y), torch.sigmoid_
    ),
    "tanh": Activation(torch.tanh, lambda g, x, y: aten.tanh_backward(g, y), torch.tanh_),
}


class MLP(nn.Module):
    """Fully connected layers, with `activation` after each but the last.

    Parameters
    ----------
    n_inputs, n_outputs : int
    hidden_layer_sizes : sequence of int
        Widths between them; an empty one gives an affine map.
    activation : str
        A key of `ACTIVATIONS`.
    """

    def __init__(
        self,
        n_inputs: int,
        hidden_layer_sizes: Sequence[int],
        n_outputs: int,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        sizes = (n_inputs, *hidden_layer_sizes, n_outputs)
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of shape (..., n_outputs) from inputs of shape (..., n_inputs)."""
        function = ACTIVATIONS[self.activation].function
        *hidden, last = self.layers
        for layer in hidden:
            x = function(layer(x))
        return last(x)

    @property
    def has_pullback(self) -> bool:
        """Whether each weight is a parameter itself, not computed from others (as weight_norm)."""
        layers: Any = self.layers
        return all("weight" in dict(layer.named_parameters(recurse=False)) for layer in layers)

    @cached_property
    def _parameters_of_layers(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        # torch looks a parameter up by name at every use, which small networks would feel.
        layers: Any = self.layers
        return [(layer.weight, layer.bias) for layer in layers]

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        """Outputs for x of shape (n, n_inputs), and the gradient by hand, without autograd.

        The function that comes with the outputs takes a gradient with respect to them, overwrites
        it, sets that of every parameter and gives that of x; where `to_input` is False it leaves
        out the last.
        """
        act = ACTIVATIONS[self.activation]
        layers = self._parameters_of_layers
        inputs, outputs = [], [x]
        for weight, bias in layers[:-1]:
            y = torch.addmm(bias, outputs[-1], weight.t())
            inputs.append(y)
            outputs.append(act.in_place(y) if act.in_place else act.function(y))

        def pull(gradient: Tensor, to_input: bool = True) -> Tensor:
            for i in range(len(layers) - 1, -1, -1):
                weight, bias = layers[i]
                weight.grad = torch.mm(gradient.t(), outputs[i])
                bias.grad = gradient.sum(0)
                if i or to_input:
                    gradient = torch.mm(gradient, weight)
                if i:
                    gradient = act.pullback(gradient, inputs[i - 1], outputs[i])
            return gradient

        weight, bias = layers[-1]
        return torch.addmm(bias, outputs[-1], weight.t()), pull


def build_encoder(
    encoder: Any,
    input_shape: tuple[int, ...],
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: str,
) -> nn.Module:
    """The network that `encoder`, "mlp" or a factory (input_shape, n_outputs) -> Module, means.

    Raises
    ------
    ValueError
        If a factory's network does not turn rows of shape (n, d) into (n, n_outputs).
    """
    d = math.prod(input_shape)
    if encoder == "mlp":
        return MLP(d, hidden_layer_sizes, n_outputs, activation)
    return _made_by("encoder", encoder, (input_shape, n_outputs), d, n_outputs)


def build_decoder(
    decoder: Any,
    n_components: int,
    output_shape: tuple[int, ...],
    hidden_layer_sizes: Sequence[int],
    activation: str,
) -> nn.Module:
    """The network that `decoder`, "mlp" or a factory (k, output_shape) -> Module, means.

    Its MLP has `hidden_layer_sizes` in reverse: they are an encoder's.

    Raises
    ------
    ValueError
        If a factory's network does not turn z of shape (n, k) into (n, prod(output_shape)).
    """
    n_outputs = math.prod(output_shape)
    if decoder == "mlp":
        return MLP(n_components, hidden_layer_sizes[::-1], n_outputs, activation)
    arguments = (n_components, output_shape)
    return _made_by("decoder", decoder, arguments, n_components, n_outputs)


FACTORY_FORMS = {
    "encoder": "encoder(input_shape, n_outputs)",
    "decoder": "decoder(n_components, output_shape)",
}


def check_network(name: str, network: Any) -> None:
    """Raise ValueError unless the name of a network or a factory."""
    if network == "mlp" or (callable(network) and not isinstance(network, nn.Module)):
        return
    raise ValueError(
        f"{name} must be 'mlp' or a factory {FACTORY_FORMS[name]} that returns a new Module for "
        f"each fit, got {network!r}."
    )


def _made_by(
    name: str, factory: Any, arguments: tuple[Any, ...], n_inputs: int, n_outputs: int
) -> nn.Module:
    network = factory(*arguments)
    form = f"{name}={factory!r}, called as {FACTORY_FORMS[name]} with {arguments},"
    if not isinstance(network, nn.Module):
        raise TypeError(f"{form} must return a torch.nn.Module, got {network!r}.")
    network.eval()
    with torch.no_grad():
        found = network(torch.zeros(2, n_inputs, dtype=_dtype_of(network)))
    network.train()
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found)
    if shape != (2, n_outputs):
        raise ValueError(
            f"{form} must return a Module that turns inputs of shape (2, {n_inputs}) into outputs "
            f"of shape (2, {n_outputs}), got {shape}."
        )
    return network


def _dtype_of(network: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in network.parameters()), torch.float32)
