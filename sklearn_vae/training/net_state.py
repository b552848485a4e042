"""State of a trained net as arrays and numbers, and a net with this state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.history import History
from torch import Tensor

from sklearn_vae.serialization.decode import Reader, integer
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.loop import VAENet
from sklearn_vae.validation import is_real

Arrays = dict[str, NDArray[Any]]

# State of Adam for a parameter, besides the count of its steps.
AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

# Settings of Adam. The others depend on the device and on torch's version, or are set by schedules,
# which begin anew with each fit.
SETTINGS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")

KEYS = {"module", "optimizer", "history", "generator", "seed", "operations"}
FLOATS = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def net_state(net: VAENet) -> dict[str, Any]:
    """State of a net: what it has learned, and what its training depends on.

    Raises
    ------
    TypeError
        If its optimizer is not its own Adam.
    """
    optimizer = net.optimizer_.state_dict()
    groups = optimizer["param_groups"]
    if type(net.optimizer_) is not Adam or len(groups) != 1:
        raise TypeError(
            "A net cannot be saved with another optimiser than its own Adam with one group of "
            f"parameters, got {net.optimizer_!r}."
        )
    return {
        "module": {name: _to_host(value) for name, value in net.module_.state_dict().items()},
        "optimizer": {
            "state": {
                index: {name: _to_host(value) for name, value in state.items()}
                for index, state in optimizer["state"].items()
            },
            "group": {name: groups[0][name] for name in SETTINGS},
        },
        "history": list(net.history),
        "generator": (net.generator_.device.type, _to_host(net.generator_.get_state())),
        "seed": net.seed,
        "operations": net.operations_,
    }


def module_arrays(values: Any, path: str) -> Arrays:
    """Arrays of the module in values of :func:`net_state`, by name, all of one precision."""
    if not isinstance(values, dict) or set(values) != KEYS:
        raise ValueError(f"{path} must have {', '.join(sorted(KEYS))}.")
    arrays = values["module"]
    if not (isinstance(arrays, dict) and arrays):
        raise ValueError("a net must have a module.")
    for name, array in arrays.items():
        if not (isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype in FLOATS):
            raise ValueError(f"module[{name!r}] must be an array of float32 or float64.")
    if len({array.dtype for array in arrays.values()}) > 1:
        raise ValueError("the numbers of a module must all be float32 or all float64.")
    return arrays


def dtype_of(arrays: Arrays) -> torch.dtype:
    """Precision of a module with these arrays."""
    return FLOATS[next(iter(arrays.values())).dtype]


def products_on(device: torch.device, precision: str, dtype: torch.dtype) -> str | None:
    """Precision of products in training, as a fit on the device would have it."""
    if device.type != "cuda" or dtype == torch.float64:
        return None
    return {"auto": "tf32", "float64": "float32"}.get(precision, precision)


def restored_net(
    values: Any, factory: Callable[..., Any], reader: Reader, path: str, **options: Any
) -> VAENet:
    """Make a net from values of :func:`net_state`.

    Parameters
    ----------
    values : dict
        With arrays that :func:`module_arrays` has checked.
    factory : callable
        Makes the module; with `on="meta"` without numbers.
    reader : Reader
        Refuses what would take too much memory.
    path : str
        Place of the values in the file, for error messages.
    **options
        Of `VAENet`.

    Raises
    ------
    ValueError
        If the values do not fit the module.
    """
    seed = integer(values["seed"], f"{path}['seed']", 0, 2**63 - 1)
    if not (is_real(values["operations"]) and values["operations"] > 0):
        raise ValueError(f"operations must be a number > 0, got {values['operations']!r}.")
    net = VAENet(
        _restored_module(values["module"], factory, reader, path),
        **options,
        seed=seed,
        operations=values["operations"],
        verbose=0,
        train_split=None,
    ).initialize()
    net.module = factory
    net.history_ = _history(values["history"])
    _load_optimizer(net, values["optimizer"], reader, path)
    _load_generator(net, values["generator"])
    return net


def _restored_module(arrays: Arrays, factory: Callable[..., Any], reader: Reader, path: str) -> Any:
    """Make a module with these arrays.

    Its networks are first made without numbers, so that a size that is claimed takes no memory
    before the file is known to have it.
    """
    module = factory(on="meta")
    _check_shapes(module, arrays)
    reader.charge(3 * sum(array.nbytes for array in arrays.values()), path)
    # Copied into memory that torch aligns: alignment decides how sums round.
    tensors = {name: torch.from_numpy(array).clone() for name, array in arrays.items()}
    module.load_state_dict(tensors, assign=True)
    return module


def _check_shapes(module: Any, arrays: Arrays) -> None:
    """Raise ValueError unless the shapes are those of the module."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if set(expected) != set(arrays):
        odd = min(set(expected) ^ set(arrays))
        what = "is missing" if odd in expected else "is none of the module that parameters ask for"
        raise ValueError(f"module[{odd!r}] {what}.")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f"module[{name!r}] must have the shape {shape} that parameters ask for, got "
                f"{arrays[name].shape}."
            )


def _history(rows: Any) -> History:
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return History(rows)
    raise ValueError("history must be a list of dicts.")


def _load_optimizer(net: VAENet, values: Any, reader: Reader, path: str) -> None:
    parts = values if isinstance(values, dict) else {}
    state, group = parts.get("state"), parts.get("group")
    if len(parts) != 2 or not (isinstance(state, dict) and isinstance(group, dict)):
        raise ValueError("optimizer must have a state and a group.")
    for name, value in group.items():
        if name not in SETTINGS or not _is_like(value, net.optimizer_.defaults[name]):
            raise ValueError(f"optimizer has {name}={value!r}, which is none of Adam.")
    loaded = _optimizer_tensors(state, net.optimizer_.param_groups[0]["params"])
    reader.charge(2 * sum(t.nbytes for part in loaded.values() for t in part.values()), path)
    own = net.optimizer_.state_dict()["param_groups"][0]
    net.optimizer_.load_state_dict({"state": loaded, "param_groups": [{**own, **group}]})


def _is_like(value: Any, of: Any) -> bool:
    if isinstance(of, tuple):
        return isinstance(value, tuple) and len(value) == len(of) and all(map(is_real, value))
    if isinstance(of, bool):
        return isinstance(value, bool)
    return is_real(value)


def _optimizer_tensors(
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


def _to_host(value: Tensor) -> NDArray[Any]:
    host: NDArray[Any] = value.detach().cpu().numpy()
    return host
