"""Networks as they were made in the last fit: for warm starts, and for states that are set."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.checks import check_image_shape, checked_layer_sizes
from sklearn_vae.nn.posteriors import POSTERIORS
from sklearn_vae.training.devices import matmul_precision_on, torch_defaults
from sklearn_vae.training.fast_paths import Adam
from sklearn_vae.training.loop import VAENet
from sklearn_vae.training.net_state import check_module_state
from sklearn_vae.validation import is_integer

# Numbers that fixed draws may have, however small the networks are.
FREE_DRAWS = 2**18


def network_parameters(model: Any) -> dict[str, Any]:
    """Values of the parameters that define the networks."""
    values = {name: getattr(model, name) for name in model._network_parameters}
    # A copy of what may be written to; of a factory it may not be equal to it.
    return {name: v if callable(v) else copy.copy(v) for name, v in values.items()}


def check_same_networks(model: Any) -> None:
    """Raise ValueError if a warm start would need other networks."""
    for name, value in network_parameters(model).items():
        before = model._networks_of_fit[name]
        if value is not before and not np.array_equal(value, before):
            raise ValueError(
                f"warm_start=True goes on with the networks of the last fit, of {name}="
                f"{before!r}, got {value!r}; with warm_start=False a fit begins anew."
            )


def state_of_net(model: Any) -> dict[str, Any]:
    """State of the net of a fitted model, which :func:`restored_net` can read."""
    _as_of_fit(model)
    optimizer = model.net_.optimizer_
    if type(optimizer) is not Adam or len(optimizer.param_groups) != 1:
        raise TypeError(
            "A net cannot be saved with another optimizer than its own Adam with one group of "
            f"parameters, got {optimizer!r}."
        )
    state: dict[str, Any] = model.net_.get_state()
    return state


@torch_defaults()
def restored_net(model: Any, state: Any) -> VAENet:
    """Make the net of a model from the result of :func:`state_of_net`.

    Raises
    ------
    ValueError
        If that does not fit the model.
    """
    tensors = _module_tensors(state)
    past, first = _as_of_fit(model), next(iter(tensors.values()))
    _check_sizes(past, tensors)
    factory = past._module_factory(first.dtype)
    # First without numbers, so that a size that is claimed takes no memory before the state is
    # known to have it.
    module = factory(on="meta")
    check_module_state(tensors, module)
    module.load_state_dict(tensors, assign=True)
    net = VAENet(
        module,
        **past._training_options(),
        seed=0,
        operations=1.0,
        precision=matmul_precision_on(first.device, past.precision, first.dtype),
        lr=past.learning_rate,
        max_epochs=past.max_epochs,
        batch_size=past.batch_size,
        device=str(first.device),
        verbose=0,
        train_split=None,
    ).initialize()
    net.module = factory
    net.set_state(state, with_module=False)
    _check_noise(past, net)
    # An earlier version may not have had all of them.
    model._networks_of_fit = network_parameters(past)
    return net


def _module_tensors(state: Any) -> dict[str, Tensor]:
    """Tensors of the module in a net's state, of one precision and on one device."""
    tensors = state.get("module") if isinstance(state, dict) else None
    if not (isinstance(tensors, dict) and tensors):
        raise ValueError("net_ must have a module.")
    for name, tensor in tensors.items():
        is_tensor = isinstance(name, str) and isinstance(tensor, Tensor)
        if not (is_tensor and tensor.dtype in (torch.float32, torch.float64)):
            raise ValueError(f"module[{name!r}] must be a tensor of float32 or float64.")
    if len({(tensor.dtype, tensor.device) for tensor in tensors.values()}) > 1:
        raise ValueError("the tensors of a module must have one dtype and be on one device.")
    return tensors


def _as_of_fit(model: Any) -> Any:
    """Copy of a model with the parameters that its networks were made with, checked.

    Without its net, so that they are checked as for a first fit.
    """
    past, values = copy.copy(model), model._networks_of_fit
    if not isinstance(values, dict) or not set(values) <= set(model._network_parameters):
        raise ValueError(f"_networks_of_fit must be among {', '.join(model._network_parameters)}.")
    vars(past).pop("net_", None)
    vars(past).update(values, warm_start=False)
    with warnings.catch_warnings(action="ignore"):  # they are for who fits
        past._check_parameters()
    return past


def _check_sizes(model: Any, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError if the parameters ask for a larger module than the tensors make."""
    d, k = model.n_features_in_, model.n_components
    if k != model.n_components_:
        raise ValueError(f"n_components must be that of the fit, {model.n_components_}, got {k}.")
    check_image_shape(model, model._sample_shape)
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    draws = 0
    if hasattr(model, "variational_family"):
        draws = POSTERIORS[model.variational_family].n_fixed_draws(k)
    for what, size, limit in [
        (f"n_components={k} asks for", k, n_numbers),
        (f"n_features_in_={d} asks for", d, n_numbers),
        ("the posterior draws", k * draws, n_numbers + FREE_DRAWS),
    ]:
        if size > limit:
            raise ValueError(f"{what} {size} numbers, the module has {n_numbers}.")
    hidden = len(checked_layer_sizes(model.hidden_layer_sizes))
    n_layers = max(hidden, *map(_n_layers, (model.encoder, model.decoder)))
    if n_layers > len(tensors):
        raise ValueError(f"parameters ask for {n_layers} layers, the module has {len(tensors)}.")


def _check_noise(model: Any, net: VAENet) -> None:
    """Raise ValueError unless `noise_variance_` is there where the module has one."""
    noise = getattr(getattr(net.module_, "likelihood", None), "noise_variance", None)
    if (noise is not None) != ("noise_variance_" in vars(model)):
        raise ValueError(f"noise_variance_ must {'' if noise is not None else 'not '}be there.")


def _n_layers(factory: Any) -> int:
    """Number of layers that a factory of this library would make, or fewer."""
    fields = {} if isinstance(factory, str) else vars(factory)
    counts = [value for name, value in fields.items() if "_per_" in name]
    channels = fields.get("channels")
    if not all(is_integer(count) and count >= 1 for count in counts):
        raise ValueError(f"{factory!r} must have integers >= 1 where it counts.")
    if channels is not None and not isinstance(channels, list | tuple):
        raise ValueError(f"{factory!r} must have a list of channels.")
    return math.prod(counts) * (1 if channels is None else len(channels))
