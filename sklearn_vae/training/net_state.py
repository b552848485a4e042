"""What a network has learned, as numbers, and a net with these numbers again."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.history import History
from torch import Tensor

from sklearn_vae.serialization.decode import Reader, integer, place
from sklearn_vae.serialization.fitted import check_positive
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.loop import VAENet
from sklearn_vae.validation import is_integer, is_real

# What Adam knows of a parameter beside the count of its steps.
AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

# What it is told. Else it has what depends on the device and on torch's version, and what a schedule
# has added, which begins anew with each fit.
SETTINGS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")

KEYS = {"module", "optimizer", "history", "generator", "seed", "operations"}
FLOATS = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def numbers_of(estimator: Any) -> dict[str, Any]:
    """What the net of a fitted estimator has learned, and what training goes on from."""
    net: VAENet = estimator.net_
    with _quiet():
        _as_of_fit(estimator)._check_parameters()
    optimizer = net.optimizer_.state_dict()
    groups = optimizer["param_groups"]
    if type(net.optimizer_) is not Adam or len(groups) != 1:
        raise TypeError(
            f"{type(estimator).__name__} cannot be saved with another optimiser than its own Adam "
            f"with one group of parameters, got {net.optimizer_!r}."
        )
    return {
        "module": {name: _on_host(value) for name, value in net.module_.state_dict().items()},
        "optimizer": {
            "state": {
                index: {name: _on_host(value) for name, value in state.items()}
                for index, state in optimizer["state"].items()
            },
            "group": {name: groups[0][name] for name in SETTINGS},
        },
        "history": list(net.history),
        "generator": (net.generator_.device.type, _on_host(net.generator_.get_state())),
        "seed": net.seed,
        "operations": net.operations_,
    }


def restored(estimator: Any, values: Any, reader: Reader, path: str) -> VAENet:
    """A net with the numbers of another; ValueError where they do not fit the estimator."""
    if not isinstance(values, dict) or set(values) != KEYS:
        raise ValueError(f"{path} must have {', '.join(sorted(KEYS))}.")
    state = _state_of(values["module"])
    model = _as_of_fit(estimator)
    with _quiet():
        model._check_parameters()
    _check_sizes(model, state, reader, path)
    dtype = FLOATS[next(iter(state.values())).dtype]
    make = model._blank_module(dtype)
    device = place(model.device, reader.device, dtype)
    seed = integer(values["seed"], f"{path}['seed']", 0, 2**63 - 1)
    if not (is_real(values["operations"]) and values["operations"] > 0):
        raise ValueError(f"operations must be a number > 0, got {values['operations']!r}.")
    net = VAENet(
        _module_with(state, make, reader, path),
        **model._of_training(),
        seed=seed,
        precision=_products(model.precision, device, dtype),
        operations=values["operations"],
        lr=model.learning_rate,
        max_epochs=model.max_epochs,
        batch_size=model.batch_size,
        device=str(device),
        verbose=0,
        train_split=None,
    ).initialize()
    _check_noise(model)
    net.module = make
    # Of a version before some of them were parameters.
    estimator._networks_of_fit = model._networks()
    net.history_ = _history_of(values["history"])
    _load_optimizer(net, values["optimizer"], reader, path)
    _load_generator(net, values["generator"])
    return net


def _module_with(
    state: dict[str, NDArray[Any]], make: Callable[..., Any], reader: Reader, path: str
) -> Any:
    """A module with the numbers of another.

    Its networks are laid out without a number first: what parameters claim costs nothing before
    it is known that the file has it.
    """
    module = make(on="meta")
    _check_state(module, state)
    reader.charge(3 * sum(array.nbytes for array in state.values()), path)
    # Copied to where torch has its own numbers: the place of numbers decides how sums round.
    tensors = {name: torch.from_numpy(array).clone() for name, array in state.items()}
    module.load_state_dict(tensors, assign=True)
    return module


def _as_of_fit(estimator: Any) -> Any:
    """The estimator with the parameters that its networks were made with; they may be others now.

    Without its net, so that parameters are checked as for a first fit.
    """
    for name in ("_networks_of_fit", "n_features_in_", "n_components_", "mean_", "scale_"):
        if name not in vars(estimator):
            raise ValueError(f"a net is of a fitted model, and {name} is not there.")
    twin = copy.copy(estimator)
    vars(twin).pop("net_", None)
    before = twin._networks_of_fit
    if not isinstance(before, dict) or not set(before) <= set(twin._of_networks):
        raise ValueError(f"_networks_of_fit must be among {', '.join(twin._of_networks)}.")
    twin.warm_start = False
    vars(twin).update(before)
    return twin


def _state_of(values: Any) -> dict[str, NDArray[Any]]:
    """Arrays by name, all of one precision."""
    if not (isinstance(values, dict) and values):
        raise ValueError("a net must have a module.")
    for name, array in values.items():
        if not (isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype in FLOATS):
            raise ValueError(f"module[{name!r}] must be an array of float32 or float64.")
    if len({array.dtype for array in values.values()}) > 1:
        raise ValueError("the numbers of a module must all be float32 or all float64.")
    return values


def _check_sizes(model: Any, state: dict[str, NDArray[Any]], reader: Reader, path: str) -> None:
    """Raise ValueError where parameters claim more of a module than the file has."""
    d, k = model.n_features_in_, model.n_components
    if k != model.n_components_:
        raise ValueError(f"n_components must be that of the fit, {model.n_components_}, got {k}.")
    model._check_images()
    check_positive(model.scale_, d, "scale_")
    numbers = sum(array.size for array in state.values())
    for name, size in {"n_components": k, "n_features_in_": d}.items():
        if size > numbers:
            raise ValueError(f"{name}={size} is more than the {numbers} numbers of the module.")
    layers = [len(model._hidden_layer_sizes()), *map(_layers_of, (model.encoder, model.decoder))]
    if max(layers) > len(state):
        raise ValueError(f"parameters ask for {max(layers)} layers, the module has {len(state)}.")
    if getattr(model, "variational_family", None) == "sylvester":
        reader.charge(32.0 * k * max(32, k + 1), path)  # its fixed draws


def _check_noise(model: Any) -> None:
    """Raise ValueError unless there is a noise variance where the model has one for all rows."""
    has_one = getattr(model, "noise_model", "heteroscedastic") != "heteroscedastic"
    if has_one != ("noise_variance_" in vars(model)):
        raise ValueError(f"noise_variance_ must {'' if has_one else 'not '}be there.")
    if has_one:
        check_positive(model.noise_variance_, model.n_features_in_, "noise_variance_")


def _layers_of(factory: Any) -> int:
    """Layers that a factory of this library would make, or fewer."""
    fields = {} if isinstance(factory, str) else vars(factory)
    counts = [value for name, value in fields.items() if "_per_" in name]
    channels = fields.get("channels")
    if not all(is_integer(count) and count >= 1 for count in counts):
        raise ValueError(f"{factory!r} must have integers >= 1 where it counts.")
    if channels is not None and not isinstance(channels, list | tuple):
        raise ValueError(f"{factory!r} must have a list of channels.")
    return math.prod(counts) * (1 if channels is None else len(channels))


def _check_state(module: Any, state: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the shapes are those of the module."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if set(expected) != set(state):
        odd = min(set(expected) ^ set(state))
        what = "is missing" if odd in expected else "is none of the module that parameters ask for"
        raise ValueError(f"module[{odd!r}] {what}.")
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise ValueError(
                f"module[{name!r}] must have the shape {shape} that parameters ask for, got "
                f"{state[name].shape}."
            )


def _history_of(rows: Any) -> History:
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return History(rows)
    raise ValueError("history must be a list of dicts.")


def _load_optimizer(net: VAENet, values: Any, reader: Reader, path: str) -> None:
    parts = values if isinstance(values, dict) else {}
    state, group = parts.get("state"), parts.get("group")
    if len(parts) != 2 or not (isinstance(state, dict) and isinstance(group, dict)):
        raise ValueError("optimizer must have a state and a group.")
    for name, value in group.items():
        if name not in SETTINGS or not _alike(value, net.optimizer_.defaults[name]):
            raise ValueError(f"optimizer has {name}={value!r}, which is none of Adam.")
    loaded = _state_of_optimizer(state, net.optimizer_.param_groups[0]["params"])
    reader.charge(2 * sum(t.nbytes for part in loaded.values() for t in part.values()), path)
    own = net.optimizer_.state_dict()["param_groups"][0]
    net.optimizer_.load_state_dict({"state": loaded, "param_groups": [{**own, **group}]})


def _alike(value: Any, of: Any) -> bool:
    if isinstance(of, tuple):
        return isinstance(value, tuple) and len(value) == len(of) and all(map(is_real, value))
    if isinstance(of, bool):
        return isinstance(value, bool)
    return is_real(value)


def _state_of_optimizer(
    state: dict[Any, Any], parameters: list[Any]
) -> dict[int, dict[str, Tensor]]:
    loaded = {}
    for index, values in state.items():
        integer(index, "a parameter of the optimizer", 0, len(parameters) - 1)
        if not isinstance(values, dict) or not {"step", *AVERAGES[:2]} <= set(values):
            raise ValueError(f"optimizer's state of parameter {index} is none of Adam.")
        for name, array in values.items():
            shape = () if name == "step" else tuple(parameters[index].shape)
            fits = isinstance(array, np.ndarray) and array.dtype in FLOATS and array.shape == shape
            if not fits or name not in ("step", *AVERAGES):
                raise ValueError(f"optimizer's {name!r} of parameter {index} does not fit it.")
        loaded[index] = {name: torch.from_numpy(a).clone() for name, a in values.items()}
    return loaded


def _load_generator(net: VAENet, values: Any) -> None:
    """Go on with the draws of before; on another kind of device with others."""
    if not isinstance(values, tuple) or len(values) != 2 or not isinstance(values[1], np.ndarray):
        raise ValueError("generator must be a kind of device and a state.")
    kind, state = values
    generator = net.generator_
    if kind != generator.device.type:
        generator.manual_seed(net.seed + len(net.history))
        return
    generator.set_state(torch.from_numpy(state).clone())


def _products(precision: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Of products in training, as a fit on the device would have it."""
    if device.type != "cuda" or dtype == torch.float64:
        return None
    return {"auto": "tf32", "float64": "float32"}.get(precision, precision)


def _on_host(value: Tensor) -> NDArray[Any]:
    host: NDArray[Any] = value.detach().cpu().numpy()
    return host


def _quiet() -> Any:
    """Within this no warnings: they are for who fits."""
    return warnings.catch_warnings(action="ignore")
