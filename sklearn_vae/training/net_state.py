"""Checks of a net's state before it is set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sklearn_vae.training.adam import Adam
from sklearn_vae.validation import is_integer, is_real

KEYS = {"seed", "operations", "module", "optimizer", "generator", "history", "beta", "last_states"}

# Averages that Adam keeps for a parameter in addition to its number of steps. The last is optional.
AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

# Settings that depend on the device and the version of torch: an optimizer keeps its own.
OWN_SETTINGS = {
    "params", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"
}  # fmt: skip


def checked_net_state(
    state: Any, module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return a net's state with the optimizer's own settings, or raise ValueError if invalid."""
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise ValueError(f"the state of a net must have {', '.join(sorted(KEYS))}.")
    seed, history, last_states = (state[name] for name in ("seed", "history", "last_states"))
    for name, is_valid, requirement in [
        ("seed", is_integer(seed) and 0 <= seed < 2**63, "an integer in [0, 2**63)"),
        ("operations", is_real(state["operations"]) and state["operations"] > 0, "a number > 0"),
        ("beta", is_real(state["beta"]), "a finite number"),
        ("history", _is_list_of(dict, history), "a list of dicts"),
        ("generator", _is_generator(state["generator"]), "a device type and a generator state"),
        ("last_states", _is_list_of(tuple, last_states), "a list of pairs (epoch, module)"),
    ]:
        if not is_valid:
            raise ValueError(f"{name} must be {requirement}, got {state[name]!r:.100}.")
    check_module_state(state["module"], module)
    for pair in last_states:
        if len(pair) != 2 or not is_integer(pair[0]):
            raise ValueError(f"last_states must have pairs (epoch, module), got {pair!r:.100}.")
        check_module_state(pair[1], module)
    return {**state, "optimizer": checked_optimizer_state(state["optimizer"], optimizer)}


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
                f"module[{name!r}] must have shape {tuple(tensor.shape)} for these parameters, "
                f"got {shape and tuple(shape)}."
            )


def checked_optimizer_state(values: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state with its own settings, or raise ValueError if invalid."""
    parts: dict[str, Any] = values if isinstance(values, dict) else {}
    state: Any = parts.get("state")
    groups: Any = parts.get("param_groups")
    own_groups = optimizer.state_dict()["param_groups"]
    is_pair = isinstance(state, dict) and _is_list_of(dict, groups)
    if not is_pair or len(groups) != len(own_groups):
        raise ValueError(f"optimizer must have a state and {len(own_groups)} parameter group(s).")
    if isinstance(optimizer, Adam):
        _check_adam(state, groups, optimizer)
    settings = ({n: v for n, v in own.items() if n in OWN_SETTINGS} for own in own_groups)
    groups = [{**group, **own} for group, own in zip(groups, settings, strict=True)]
    return {**parts, "param_groups": groups}


def _check_adam(state: dict[Any, Any], groups: list[Any], optimizer: Adam) -> None:
    """Raise ValueError unless settings and averages fit the parameters of an optimizer."""
    for name in optimizer.defaults.keys() - OWN_SETTINGS:
        for group in groups:
            if not _is_like(group.get(name), optimizer.defaults[name]):
                raise ValueError(f"optimizer has the invalid setting {name}={group.get(name)!r}.")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, averages in state.items():
        is_index = is_integer(index) and 0 <= index < len(parameters)
        names = averages.keys() if isinstance(averages, dict) else {""}
        if not is_index or (names and not {"step", *AVERAGES[:2]} <= names <= {"step", *AVERAGES}):
            raise ValueError(f"optimizer has no valid state of parameter {index!r}.")
        for name, value in averages.items():
            shape = () if name == "step" else parameters[index].shape
            is_float = isinstance(value, Tensor) and value.is_floating_point()
            if not (is_float and value.shape == shape):
                raise ValueError(
                    f"optimizer has {name!r} of another shape or type than parameter {index}."
                )


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _is_generator(values: Any) -> bool:
    try:
        kind, drawn = values
        if kind == "cpu":
            torch.Generator().set_state(drawn)
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(kind, str) and isinstance(drawn, Tensor)


def _is_like(value: Any, own: Any) -> bool:
    """Return whether a setting has the type of an optimizer's own setting."""
    if isinstance(own, tuple):
        return isinstance(value, tuple) and len(value) == len(own) and all(map(is_real, value))
    return is_real(value) if is_real(own) else type(value) is type(own)
