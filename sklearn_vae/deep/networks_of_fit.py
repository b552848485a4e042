"""Networks as they were made in the last fit: for warm starts, and for models from a file."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np

from sklearn_vae.deep.checks import check_image_shape, checked_layer_sizes
from sklearn_vae.nn.posteriors import POSTERIORS
from sklearn_vae.serialization.decode import Reader, place
from sklearn_vae.serialization.fitted import check_positive
from sklearn_vae.training.loop import VAENet
from sklearn_vae.training.net_state import (
    Arrays,
    dtype_of,
    module_arrays,
    net_state,
    products_on,
    restored_net,
)
from sklearn_vae.validation import is_integer


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


def state_of_model(model: Any) -> dict[str, Any]:
    """State of the net of a fitted model, which :func:`restored_model_net` can read."""
    _as_of_fit(model)
    return net_state(model.net_)


def restored_model_net(model: Any, values: Any, reader: Reader, path: str) -> VAENet:
    """Make the net of a model from the values of :func:`state_of_model`.

    Raises
    ------
    ValueError
        If they do not fit the model.
    """
    arrays = module_arrays(values, path)
    past = _as_of_fit(model)
    _check_sizes(past, arrays, reader, path)
    dtype = dtype_of(arrays)
    device = place(past.device, reader.device, dtype)
    net = restored_net(
        values,
        past._module_factory(dtype),
        reader,
        path,
        **past._training_options(),
        precision=products_on(device, past.precision, dtype),
        lr=past.learning_rate,
        max_epochs=past.max_epochs,
        batch_size=past.batch_size,
        device=str(device),
    )
    _check_noise(past, net)
    # A file of an earlier version may not have all of them.
    model._networks_of_fit = network_parameters(past)
    return net


def _as_of_fit(model: Any) -> Any:
    """A copy with the parameters that its networks were made with, checked.

    Without its net, so that they are checked as for a first fit.
    """
    for name in ("_networks_of_fit", "n_features_in_", "n_components_", "mean_", "scale_"):
        if name not in vars(model):
            raise ValueError(f"a net is of a fitted model, and {name} is not there.")
    past, values = copy.copy(model), model._networks_of_fit
    if not isinstance(values, dict) or not set(values) <= set(model._network_parameters):
        raise ValueError(f"_networks_of_fit must be among {', '.join(model._network_parameters)}.")
    vars(past).pop("net_", None)
    vars(past).update(values, warm_start=False)
    with warnings.catch_warnings(action="ignore"):  # they are for who fits
        past._check_parameters()
    return past


def _check_sizes(model: Any, arrays: Arrays, reader: Reader, path: str) -> None:
    """Raise ValueError if the parameters ask for a larger module than the file has."""
    d, k = model.n_features_in_, model.n_components
    if k != model.n_components_:
        raise ValueError(f"n_components must be that of the fit, {model.n_components_}, got {k}.")
    check_image_shape(model, model._sample_shape)
    check_positive(model.scale_, d, "scale_")
    numbers = sum(array.size for array in arrays.values())
    for name, size in {"n_components": k, "n_features_in_": d}.items():
        if size > numbers:
            raise ValueError(f"{name}={size} is more than the {numbers} numbers of the module.")
    hidden = len(checked_layer_sizes(model.hidden_layer_sizes))
    n_layers = max(hidden, *map(_n_layers, (model.encoder, model.decoder)))
    if n_layers > len(arrays):
        raise ValueError(f"parameters ask for {n_layers} layers, the module has {len(arrays)}.")
    if hasattr(model, "variational_family"):
        draws = POSTERIORS[model.variational_family].n_fixed_draws(k)
        reader.charge(32.0 * k * draws, path)


def _check_noise(model: Any, net: VAENet) -> None:
    """Raise ValueError unless `noise_variance_` is there where the module has one, and fits."""
    noise = getattr(getattr(net.module_, "likelihood", None), "noise_variance", None)
    if (noise is not None) != ("noise_variance_" in vars(model)):
        raise ValueError(f"noise_variance_ must {'' if noise is not None else 'not '}be there.")
    if noise is not None:
        check_positive(model.noise_variance_, model.n_features_in_, "noise_variance_")


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
