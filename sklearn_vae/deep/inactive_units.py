"""Hidden units with "relu" that are 0 for all samples."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from sklearn_vae.nn.networks import MLP


class InactiveUnits:
    """Context in which the units of the networks of a module are watched.

    `shares` is then the share of inactive units of the layer that has the most, by network.
    """

    def __init__(self, module: Any) -> None:
        self.layers = {
            (network, name): layer
            for network in ("encoder", "decoder")
            for name, layer in rectified_layers(getattr(module, network)).items()
        }
        self.is_active: dict[tuple[str, str], Tensor] = {}

    def __enter__(self) -> Self:
        self.hooks = [
            layer.register_forward_hook(partial(self._watch, key))
            for key, layer in self.layers.items()
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @property
    def shares(self) -> dict[str, float]:
        """Share of inactive units of the layer that has the most, by network."""
        shares: dict[str, float] = {}
        for (network, _), active in self.is_active.items():
            shares[network] = max(shares.get(network, 0.0), 1.0 - float(active.double().mean()))
        return shares

    def _watch(self, key: tuple[str, str], layer: Any, inputs: Any, output: Tensor) -> None:
        # The units of a convolution are its channels, of another layer its outputs.
        axis = 1 if output.ndim == 4 else -1
        others = [i for i in range(output.ndim) if i != axis % output.ndim]
        active = torch.amax(output, dim=others) > 0 if others else output > 0
        self.is_active[key] = active | self.is_active.get(key, torch.zeros_like(active))


def rectified_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers whose outputs are positive where a unit with "relu" is active."""
    layers: dict[str, nn.Module] = {
        name: part for name, part in network.named_modules() if isinstance(part, nn.ReLU)
    }
    for name, part in network.named_modules():
        if isinstance(part, MLP) and part.activation == "relu":
            layers |= {f"{name}.{i}": layer for i, layer in enumerate(part.layers[:-1])}
    return layers
