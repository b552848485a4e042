"""Checks of a net's state before it is set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sklearn_vae.training.fast_paths import Adam
from sklearn_vae.validation import is_integer, is_real

# State of Adam for a parameter, besides the count of its steps.
AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

# Settings of Adam that differ between devices and versions of torch: an optimizer keeps its own.
OWN_SETTINGS = {
    "params", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"
}  # fmt: skip


def check_net_state(state: Any, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless a state is one of a net with such a module and optimizer."""
    keys = {
        "seed", "operations", "module", "optimizer", "generator", "history", "beta", "last_states"
    }  # fmt: skip
    if not isinstance(state, dict) or state.keys() != keys:
        raise ValueError(f"the state of a net must have {', '.join(sorted(keys))}.")
    if not (is_integer(state["seed"]) and 0 <= state["seed"] < 2**63):
        raise ValueError(f"seed must be an integer in [0, 2**63), got {state['seed']!r}.")
    if not (is_real(state["operations"]) and state["operations"] > 0):
        raise ValueError(f"operations must be a number > 0, got {state['operations']!r}.")
    if not is_real(state["beta"]):
        raise ValueError(f"beta must be a finite number, got {state['beta']!r}.")
    _check_history(state["history"])
    _check_generator(state["generator"])
    check_module_state(state["module"], module)
    _check_last_states(state["last_states"], module)
    check_optimizer_state(state["optimizer"], optimizer)


def check_module_state(values: Any, module: nn.Module) -> None:
    """Raise ValueError unless values are tensors of the names and shapes of a module."""
    if not (isinstance(values, dict) and all(isinstance(name, str) for name in values)):
        raise ValueError("module must be a dict of tensors.")
    expected = module.state_dict()
    if expected.keys() != values.keys():
        name = min(expected.keys() ^ values.keys())
        what = "is missing" if name in expected else "is not in the module of these parameters"
        raise ValueError(f"module[{name!r}] {what}.")
    for name, tensor in expected.items():
        shape = getattr(values[name], "shape", None)
        if isinstance(tensor, Tensor) and shape != tensor.shape:
            raise ValueError(
                f"module[{name!r}] must have the shape {tuple(tensor.shape)} that parameters ask "
                f"for, got {shape and tuple(shape)}."
            )


def adapted_to(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """State of an optimizer with the settings of another that depend on its device."""
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**group, **{name: mine[name] for name in OWN_SETTINGS & mine.keys()}}
        for group, mine in zip(state["param_groups"], own, strict=True)
    ]
    return {**state, "param_groups": groups}


def _check_history(rows: Any) -> None:
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise ValueError("history must be a list of dicts.")


def _check_generator(values: Any) -> None:
    is_pair = isinstance(values, list) and len(values) == 2
    if not (is_pair and isinstance(values[0], str) and isinstance(values[1], Tensor)):
        raise ValueError("generator must be a kind of device and a state.")
    if values[0] == "cpu":
        try:
            torch.Generator().set_state(values[1])
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"generator has no valid state: {error}") from None


def _check_last_states(values: Any, module: nn.Module) -> None:
    is_list = isinstance(values, list)
    if not (is_list and all(isinstance(pair, tuple) and len(pair) == 2 for pair in values)):
        raise ValueError("last_states must be a list of pairs (epoch, module).")
    for epoch, module_state in values:
        if not is_integer(epoch):
            raise ValueError(f"last_states must have numbers of epochs, got {epoch!r}.")
        check_module_state(module_state, module)


def check_optimizer_state(values: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless values are the state of such an optimizer."""
    parts = values if isinstance(values, dict) else {}
    state, groups = parts.get("state"), parts.get("param_groups")
    n_groups = len(optimizer.param_groups)
    if not (isinstance(state, dict) and isinstance(groups, list) and len(groups) == n_groups):
        raise ValueError(f"optimizer must have a state and {n_groups} group(s) of parameters.")
    if not isinstance(optimizer, Adam):
        return
    for group in groups:
        for name in optimizer.defaults.keys() - OWN_SETTINGS:
            value = group.get(name) if isinstance(group, dict) else None
            if not _is_like(value, optimizer.defaults[name]):
                raise ValueError(f"optimizer has {name}={value!r}, which is not valid for Adam.")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, averages in state.items():
        if not (is_integer(index) and 0 <= index < len(parameters) and isinstance(averages, dict)):
            raise ValueError(f"optimizer has a state of parameter {index!r}, which is not there.")
        _check_averages(averages, parameters[index], index)


def _check_averages(averages: dict[Any, Any], parameter: Tensor, index: int) -> None:
    if averages and not {"step", *AVERAGES[:2]} <= averages.keys() <= {"step", *AVERAGES}:
        raise ValueError(f"optimizer's state of parameter {index} is not one of Adam.")
    for name, value in averages.items():
        shape = () if name == "step" else parameter.shape
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        if not (is_float and value.shape == shape):
            raise ValueError(f"optimizer's {name!r} of parameter {index} does not fit it.")


def _is_like(value: Any, own: Any) -> bool:
    """Whether a setting is of the kind that an optimizer has."""
    if isinstance(own, tuple):
        return isinstance(value, tuple) and len(value) == len(own) and all(map(is_real, value))
    if isinstance(own, bool):
        return isinstance(value, bool)
    return is_real(value) if is_real(own) else type(value) is type(own)
