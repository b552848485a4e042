"""Networks of the last fit, for warm starts and for saved states."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.checks import check_image_shape, checked_layer_sizes
from sklearn_vae.deep.choices import values_of_fit, with_values
from sklearn_vae.nn.posteriors import POSTERIORS
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.devices import matmul_precision_on, torch_defaults
from sklearn_vae.training.loop import VAENet
from sklearn_vae.training.net_state import check_module_state
from sklearn_vae.validation import is_integer

# Number of elements that the fixed draws may have in excess of the size of the networks.
DRAWS_ALLOWANCE = 2**20


def network_parameters(model: Any) -> dict[str, Any]:
    """Return the parameters that define the networks."""
    values = {name: getattr(model, name) for name in model._network_parameters}
    # Arrays can change after the fit. Copies of factories need not be equal to them.
    return {name: v if callable(v) else copy.copy(v) for name, v in values.items()}


def check_same_networks(model: Any) -> None:
    """Raise ValueError if a warm start would need different networks."""
    for name, value in network_parameters(model).items():
        before = model._networks_of_fit.get(name)
        if value is not before and not np.array_equal(value, before):
            raise ValueError(
                f"warm_start=True continues with the networks of the last fit, which had {name}="
                f"{before!r}, got {value!r}. Set warm_start=False to train new networks."
            )


def state_of_net(model: Any) -> dict[str, Any]:
    """Return the state of the net of a fitted model, for :func:`restored_net`."""
    _model_of_fit(model)
    optimizer = model.net_.optimizer_
    if type(optimizer) is not Adam or len(optimizer.param_groups) != 1:
        raise TypeError(
            "To be saved, net_ must have its original Adam optimizer with one parameter group, "
            f"got {optimizer!r}."
        )
    # As in a pickle: the parameters before the last epoch matter only while it is trained.
    return {**model.net_.get_state(), "last_states": []}


@torch_defaults()
def restored_net(model: Any, state: Any) -> VAENet:
    """Create the net of a model from a state; raise ValueError if it does not fit the model."""
    tensors = _module_tensors(state)
    past, first = _model_of_fit(model), next(iter(tensors.values()))
    _check_sizes(past, tensors)
    factory = past._module_factory(first.dtype)
    # On the meta device, so that no memory is allocated for sizes that the state does not have.
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
    # Adds parameters that did not exist in the version that saved the state.
    model._networks_of_fit = network_parameters(past)
    return net


def _module_tensors(state: Any) -> dict[str, Tensor]:
    """Return the tensors of the module in the state of a net, with checks of their types."""
    tensors = state.get("module") if isinstance(state, dict) else None
    if not (isinstance(tensors, dict) and tensors):
        raise ValueError("net_ must contain the tensors of its module.")
    for name, tensor in tensors.items():
        is_tensor = isinstance(name, str) and isinstance(tensor, Tensor)
        if not (is_tensor and tensor.dtype in (torch.float32, torch.float64)):
            raise ValueError(f"module[{name!r}] of net_ must be a tensor of float32 or float64.")
    if len({(tensor.dtype, tensor.device) for tensor in tensors.values()}) > 1:
        raise ValueError("All tensors in the module of net_ must have the same dtype and device.")
    return tensors


def _model_of_fit(model: Any) -> Any:
    """Return an unfitted copy of a model with the parameters of its networks, validated."""
    past, values = with_values(model, values_of_fit(model)), model._networks_of_fit
    if not isinstance(values, dict) or not set(values) <= set(model._network_parameters):
        raise ValueError(
            "_networks_of_fit must be a dict of parameters among "
            f"{', '.join(model._network_parameters)}."
        )
    vars(past).pop("net_", None)
    vars(past).update(values, warm_start=False)
    with warnings.catch_warnings(action="ignore"):  # they were issued in fit
        past._check_parameters()
    return past


def _check_sizes(model: Any, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError if the parameters describe a larger module than the tensors."""
    d, k = model.n_features_in_, model.n_components
    if k != model.n_components_:
        raise ValueError(f"n_components must equal n_components_={model.n_components_}, got {k}.")
    check_image_shape(model, model._sample_shape)
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    draws = 0
    if hasattr(model, "variational_family"):
        draws = POSTERIORS[model.variational_family].n_fixed_draws(k)
    for what, size, limit in [
        (f"n_components={k}", k, n_numbers),
        (f"n_features_in_={d}", d, n_numbers),
        (f"n_components={k}", k * draws, n_numbers + DRAWS_ALLOWANCE),
    ]:
        if size > limit:
            raise ValueError(f"{what} requires {size} numbers, but the module has {n_numbers}.")
    hidden = len(checked_layer_sizes(model.hidden_layer_sizes))
    n_layers = max(hidden, *map(_n_layers, (model.encoder, model.decoder)))
    if n_layers > len(tensors):
        raise ValueError(
            f"The network parameters require {n_layers} layers, but the module has {len(tensors)} "
            "tensors."
        )


def _check_noise(model: Any, net: VAENet) -> None:
    """Raise ValueError unless model and module agree on whether there is a noise variance."""
    noise = getattr(getattr(net.module_, "likelihood", None), "noise_variance", None)
    if (noise is not None) != ("noise_variance_" in vars(model)):
        state = "missing" if noise is not None else "present, but the module has no noise variance"
        raise ValueError(f"noise_variance_ is {state}.")


def _n_layers(factory: Any) -> int:
    """Return a lower bound of the number of layers that a factory of this library creates."""
    fields = {} if isinstance(factory, str) else vars(factory)
    counts = [value for name, value in fields.items() if "_per_" in name]
    channels = fields.get("channels")
    if not all(is_integer(count) and count >= 1 for count in counts):
        raise ValueError(f"Numbers of layers must be integers >= 1, got {factory!r}.")
    if channels is not None and not isinstance(channels, list | tuple):
        raise ValueError(f"channels must be a list or tuple, got {factory!r}.")
    return math.prod(counts) * (1 if channels is None else len(channels))
