"""Encoders and decoders: networks from rows to parameters of a distribution."""

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
    """Fully connected layers, with `activation` after each but the last.

    What the estimators' "mlp" is; for factories of networks that differ in something, such as the
    first weights.

    Parameters
    ----------
    n_inputs, n_outputs : int
    hidden_layer_sizes : sequence of int
        Widths between them; an empty one gives an affine map.
    activation : str
        What the estimators' parameter of that name may be.

    Attributes
    ----------
    layers : ModuleList of Linear

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from sklearn_vae import DeepGaussianVAE
    >>> from sklearn_vae.nn import MLP
    >>> def orthogonal(k, output_shape):
    ...     network = MLP(k, (16, 32), int(np.prod(output_shape)), "tanh")
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
        """Outputs of shape (..., n_outputs) from inputs of shape (..., n_inputs)."""
        function = ACTIVATIONS[self.activation]
        *hidden, last = self.layers
        for layer in hidden:
            x = function(layer(x))
        return last(x)


class SoftThreshold(nn.Module):
    """pi(W z) + b with pi(u) = sign(u) max(|u| - threshold, 0).

    Parameters
    ----------
    n_inputs, n_outputs : int
    threshold : float
        At 0 the map is affine.
    """

    def __init__(self, n_inputs: int, n_outputs: int, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.layer = nn.Linear(n_inputs, n_outputs)

    def forward(self, z: Tensor) -> Tensor:
        """Outputs of shape (..., n_outputs) from z of shape (..., n_inputs)."""
        u = functional.linear(z, self.layer.weight)
        return functional.softshrink(u, self.threshold) + self.layer.bias


@dataclass(frozen=True)
class SoftThresholdDecoder:
    """Factory of decoders mu(z) = pi(W z) + b, pi(u) = sign(u) max(|u| - threshold, 0).

    With `threshold` > 0 a VAE can be caught where it has collapsed, W = 0; with 0 it is linear, and
    cannot.

    Parameters
    ----------
    threshold : float, default=1.0
        Not learned, >= 0, in the units of the rows that the networks see.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    eq. 4 and Proposition 1.
    """

    threshold: float = 1.0

    def __call__(self, n_components: int, output_shape: tuple[int, ...]) -> nn.Module:
        """A new Module from z, (n, n_components), to rows (n, prod(output_shape))."""
        number = isinstance(self.threshold, Real) and not isinstance(self.threshold, bool)
        if not (number and 0 <= float(self.threshold) < math.inf):
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
    """The network that `encoder`, "mlp", "conv" or a factory (input_shape, n_outputs), means.

    "conv" has layers of its own, not `hidden_layer_sizes`.

    Raises
    ------
    ValueError
        If `input_shape` is not (channels, height, width) with "conv", or a factory's network does
        not turn rows of shape (n, d) into (n, n_outputs).
    """
    d = math.prod(input_shape)
    if encoder == "mlp":
        return MLP(d, hidden_layer_sizes, n_outputs, activation)
    if encoder == "conv":
        _check_images("encoder", input_shape)
        return ConvEncoder(activation=activation)(input_shape, n_outputs)
    return _made_by("encoder", encoder, (input_shape, n_outputs), d, n_outputs)


def build_decoder(
    decoder: Any,
    n_components: int,
    output_shape: tuple[int, ...],
    hidden_layer_sizes: Sequence[int],
    activation: str,
) -> nn.Module:
    """The network that `decoder`, "mlp", "conv" or a factory (k, output_shape), means.

    Its MLP has `hidden_layer_sizes` in reverse: they are an encoder's. "conv" has layers of its
    own.

    Raises
    ------
    ValueError
        If `output_shape` is not ([m,] channels, height, width) with "conv", or a factory's network
        does not turn z of shape (n, k) into (n, prod(output_shape)).
    """
    n_outputs = math.prod(output_shape)
    if decoder == "mlp":
        return MLP(n_components, hidden_layer_sizes[::-1], n_outputs, activation)
    if decoder == "conv":
        _check_images("decoder", output_shape)
        return ConvDecoder(activation=activation)(n_components, output_shape)
    arguments = (n_components, output_shape)
    return _made_by("decoder", decoder, arguments, n_components, n_outputs)


FACTORY_FORMS = {
    "encoder": "encoder(input_shape, n_outputs)",
    "decoder": "decoder(n_components, output_shape)",
}


def check_network(name: str, network: Any) -> None:
    """Raise ValueError unless the name of a network or a factory."""
    is_name = isinstance(network, str) and network in ("mlp", "conv")
    if is_name or (callable(network) and not isinstance(network, nn.Module)):
        return
    raise ValueError(
        f"{name} must be 'mlp', 'conv' or a factory {FACTORY_FORMS[name]} that returns a new Module "
        f"for each fit, got {network!r}."
    )


def operations_of(module: nn.Module, n_inputs: int | None = None) -> float:
    """Multiply-adds that a row takes on its way forward through a module.

    Without convolutions, where each weight is used once, the number of weights. With them those of
    linear, convolutional and transposed convolutional layers, counted on a row of zeros that goes
    through a copy; the number of weights where no row can.

    Parameters
    ----------
    module : Module
        From rows (n, n_inputs).
    n_inputs : int, default=None
        None: as a first linear layer or Unflatten says.
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
        # A copy, so that no mode, statistic or other thread's call is touched.
        copied = copy.deepcopy(module).eval()
        for part in copied.modules():
            if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                part.register_forward_hook(count)
        parameter = next(copied.parameters())
        with torch.no_grad():
            copied(torch.zeros(1, width, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return n_weights  # a user's module may want more than rows: no reason to fail
    return float(sum(counts)) or n_weights


def _multiply_adds(layer: Any, inputs: Tensor, outputs: Tensor) -> int:
    # Each weight is used once for each position of the outputs, or of the inputs where these are
    # spread; positions at the border count as any other.
    if isinstance(layer, nn.ConvTranspose2d):
        positions = inputs.numel() // layer.in_channels
    elif isinstance(layer, nn.Conv2d):
        positions = outputs.numel() // layer.out_channels
    else:
        positions = outputs.numel() // layer.out_features
    return layer.weight.numel() * positions


def _n_inputs(module: nn.Module) -> int | None:
    """Number of inputs that the first layer expects; None if it is not known."""
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
            f"{name}='conv' needs images: set image_shape=(channels, height, width), got rows of "
            f"{shape[-1]} features."
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
        outputs = network(torch.zeros(2, n_inputs, dtype=_dtype_of(network)))
    network.train()
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs)
    if shape != (2, n_outputs):
        raise ValueError(
            f"{form} must return a Module that turns inputs of shape (2, {n_inputs}) into outputs "
            f"of shape (2, {n_outputs}), got {shape}."
        )
    return network


def _dtype_of(network: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in network.parameters()), torch.float32)
