"""Activations by name, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation and its pullback (gradient, input, output) -> gradient.

    The pullback may overwrite the gradient. `in_place` where the pullback needs the output
    only, so that the input can be overwritten.
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
