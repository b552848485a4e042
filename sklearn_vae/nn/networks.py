"""Encoders and decoders, which output the parameters of a distribution."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_vae.nn.activations import ACTIVATIONS as ACTIVATIONS  # noqa: PLC0414
from sklearn_vae.nn.convolutional import ConvDecoder, ConvEncoder


class MLP(nn.Module):
    """Multilayer perceptron, which estimators use for "mlp".

    Use it in your own factories to modify networks, for example their initial weights.

    Parameters
    ----------
    n_inputs : int
        Number of inputs.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers. An empty sequence gives an affine map.
    n_outputs : int
        Number of outputs.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"}, \
            default="relu"
        Activation function of the hidden layers.

    Attributes
    ----------
    layers : ModuleList of Linear
        All layers, in order.

    See Also
    --------
    sklearn_vae.ConvDecoder : Factory of convolutional decoders.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from sklearn_vae import DeepGaussianVAE
    >>> from sklearn_vae.nn import MLP
    >>> def orthogonal(n_components, output_shape):
    ...     network = MLP(n_components, (16, 32), int(np.prod(output_shape)), "tanh")
    ...     for layer in network.layers:
    ...         _ = nn.init.orthogonal_(layer.weight)
    ...     return network
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> vae = DeepGaussianVAE(2, decoder=orthogonal, max_epochs=1, random_state=0).fit(X)
    >>> vae.inverse_transform([[0.0, 0.0]]).shape
    (1, 8)
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
        """Apply the network.

        Parameters
        ----------
        x : Tensor of shape (..., n_inputs)
            Inputs.

        Returns
        -------
        Tensor of shape (..., n_outputs)
            Outputs.
        """
        function = ACTIVATIONS[self.activation]
        *hidden, last = self.layers
        for layer in hidden:
            x = function(layer(x))
        return last(x)


class SoftThreshold(nn.Module):
    """pi(W z) + b with pi(u) = sign(u) max(|u| - threshold, 0)."""

    def __init__(self, n_inputs: int, n_outputs: int, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.layer = nn.Linear(n_inputs, n_outputs)

    def forward(self, z: Tensor) -> Tensor:
        """Map z, (..., n_inputs), to (..., n_outputs)."""
        u = functional.linear(z, self.layer.weight)
        return functional.softshrink(u, self.threshold) + self.layer.bias


@dataclass(frozen=True)
class SoftThresholdDecoder:
    """Factory of decoders with a soft threshold.

    The decoder is mu(z) = pi(W z) + b with pi(u) = sign(u) max(|u| - threshold, 0). If the
    threshold is positive, the collapsed solution W = 0 is a local optimum of a VAE in which
    training can get stuck. If it is 0, the decoder is linear and has no such optimum.

    Parameters
    ----------
    threshold : float, default=1.0
        Fixed threshold >= 0, in the units of the samples that the networks see.

    See Also
    --------
    sklearn_vae.datasets.make_collapse_trap : Data with such a local optimum.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    eq. 4 and Proposition 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae import SoftThresholdDecoder
    >>> decoder = SoftThresholdDecoder(threshold=0.5)(n_components=2, output_shape=(8,))
    >>> decoder(torch.zeros(5, 2)).shape
    torch.Size([5, 8])
    """

    threshold: float = 1.0

    def __call__(self, n_components: int, output_shape: tuple[int, ...]) -> nn.Module:
        """Build a module that maps (n_samples, n_components) to (n_samples, prod(output_shape))."""
        is_number = isinstance(self.threshold, Real) and not isinstance(self.threshold, bool)
        if not (is_number and 0 <= float(self.threshold) < math.inf):
            raise ValueError(
                "threshold of SoftThresholdDecoder must be a finite number >= 0, got "
                f"{self.threshold!r}."
            )
        return SoftThreshold(n_components, math.prod(output_shape), float(self.threshold))


def build_encoder(
    encoder: Any,
    input_shape: tuple[int, ...],
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: str,
) -> nn.Module:
    """Build an encoder, where `encoder` is "mlp", "conv" or a factory.

    "conv" ignores `hidden_layer_sizes`.
    """
    d = math.prod(input_shape)
    if encoder == "mlp":
        return MLP(d, hidden_layer_sizes, n_outputs, activation)
    if encoder == "conv":
        _check_images("encoder", input_shape)
        return ConvEncoder(activation=activation)(input_shape, n_outputs)
    return _call_factory("encoder", encoder, (input_shape, n_outputs), d, n_outputs)


def build_decoder(
    decoder: Any,
    n_components: int,
    output_shape: tuple[int, ...],
    hidden_layer_sizes: Sequence[int],
    activation: str,
) -> nn.Module:
    """Build a decoder, where `decoder` is "mlp", "conv" or a factory.

    The MLP has `hidden_layer_sizes` in reverse, since they are the encoder's. "conv" ignores them.
    """
    n_outputs = math.prod(output_shape)
    if decoder == "mlp":
        return MLP(n_components, hidden_layer_sizes[::-1], n_outputs, activation)
    if decoder == "conv":
        _check_images("decoder", output_shape)
        return ConvDecoder(activation=activation)(n_components, output_shape)
    arguments = (n_components, output_shape)
    return _call_factory("decoder", decoder, arguments, n_components, n_outputs)


FACTORY_FORMS = {
    "encoder": "encoder(input_shape, n_outputs)",
    "decoder": "decoder(n_components, output_shape)",
}


def check_network(name: str, network: Any) -> None:
    """Raise ValueError unless `network` is the name of a network or a factory."""
    is_name = isinstance(network, str) and network in ("mlp", "conv")
    is_class = isinstance(network, type) and not issubclass(network, nn.Module)
    if is_name or (callable(network) and not (is_class or isinstance(network, nn.Module))):
        return
    remedy = f" Pass an instance, {network.__name__}()." if is_class else ""
    raise ValueError(
        f"{name} must be 'mlp', 'conv' or a factory {FACTORY_FORMS[name]} that returns a new "
        f"Module for each fit, got {network!r}.{remedy}"
    )


def count_multiply_adds(module: nn.Module, n_inputs: int | None = None) -> float:
    """Count the multiply-adds of a forward pass of one sample.

    Without convolutions it is the number of weights, since each weight is used once. Otherwise the
    operations of linear and convolutional layers are counted in a forward pass of zeros through a
    copy. If that fails, the number of weights is returned. By default `n_inputs` is taken from the
    first layer.
    """
    n_weights = float(sum(parameter.numel() for parameter in module.parameters()))
    if not any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in module.modules()):
        return n_weights
    width = _n_inputs(module) if n_inputs is None else n_inputs
    if width is None:
        return n_weights
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
        counts.append(_multiply_adds(layer, inputs[0], outputs))

    try:
        # The copy protects the module's mode and statistics, and calls of other threads.
        copied = copy.deepcopy(module).eval()
        for part in copied.modules():
            if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                part.register_forward_hook(count)
        parameter = next(copied.parameters())
        with torch.no_grad():
            copied(torch.zeros(1, width, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return n_weights  # a user's module may need other inputs, which is no reason to fail
    return float(sum(counts)) or n_weights


def _multiply_adds(layer: Any, inputs: Tensor, outputs: Tensor) -> int:
    """Count the multiply-adds of a layer, which uses each weight once per position."""
    # Positions at the border of an image count in full.
    if isinstance(layer, nn.ConvTranspose2d):
        positions = inputs.numel() // layer.in_channels
    elif isinstance(layer, nn.Conv2d):
        positions = outputs.numel() // layer.out_channels
    else:
        positions = outputs.numel() // layer.out_features
    return layer.weight.numel() * positions


def _n_inputs(module: nn.Module) -> int | None:
    """Return the number of inputs that the first layer expects, or None if it is unknown."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
        if isinstance(part, nn.Unflatten):
            return math.prod(part.unflattened_size)
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            break
    return None


def _check_images(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 3:
        raise ValueError(
            f"{name}='conv' needs images: set image_shape=(channels, height, width), got samples "
            f"with {shape[-1]} features."
        )


def _call_factory(
    name: str, factory: Any, arguments: tuple[Any, ...], n_inputs: int, n_outputs: int
) -> nn.Module:
    """Call a factory and check the shape of the outputs of its network."""
    network = factory(*arguments)
    call = f"{name}={factory!r}, called as {FACTORY_FORMS[name]} with {arguments},"
    if not isinstance(network, nn.Module):
        raise TypeError(f"{call} must return a torch.nn.Module, got {network!r}.")
    network.eval()
    dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    with torch.no_grad():
        outputs = network(torch.zeros(2, n_inputs, dtype=dtype))
    network.train()
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs)
    if shape != (2, n_outputs):
        raise ValueError(
            f"{call} must return a Module that maps inputs of shape (2, {n_inputs}) to outputs of "
            f"shape (2, {n_outputs}), got {shape}."
        )
    return network
