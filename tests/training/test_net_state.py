"""States of nets that are refused, each for what is wrong with it."""

import copy

import pytest
import torch

from sklearn_vae.training.net_state import (
    check_module_state,
    checked_net_state,
    checked_optimizer_state,
)
from tests.deep.data import GAUSSIAN, fitted


def net():
    return fitted(GAUSSIAN[0]).net_


def checked(state):
    return checked_net_state(state, net().module_, net().optimizer_)


def state_with(**changed):
    return {**net().get_state(), **changed}


def checked_optimizer(change):
    """What becomes of the optimizer's state after a change in place."""
    state = copy.deepcopy(net().optimizer_.state_dict())
    change(state)
    return checked_optimizer_state(state, net().optimizer_)


def first_average(state, name="exp_avg"):
    return next(iter(state["state"].values()))[name]


def test_a_state_is_accepted_with_the_settings_of_its_optimizer():
    state = state_with(last_states=[(2, net().module_.state_dict())])
    assert checked(state).keys() == state.keys()
    found = checked_optimizer(lambda s: s["param_groups"][0].update(lr=0.5, fused=None))
    (group,) = found["param_groups"]
    assert (group["lr"], group["fused"]) == (0.5, True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"other": 1}, "the state of a net must have"),
        ({"seed": -1}, r"seed must be an integer in \[0, 2\*\*63\), got -1"),
        ({"seed": 2**63}, r"seed must be an integer in \[0, 2\*\*63\)"),
        ({"seed": 1.0}, "seed must be an integer"),
        ({"operations": 0}, "operations must be a number > 0, got 0"),
        ({"operations": "a"}, "operations must be a number > 0"),
        ({"beta": float("nan")}, "beta must be a finite number, got nan"),
        ({"history": {}}, "history must be a list of dicts"),
        ({"history": [3]}, "history must be a list of dicts"),
        ({"generator": 3}, "generator must be a device type and a generator state"),
        ({"generator": ("cpu", torch.zeros(3))}, "generator must be a device type"),
        ({"generator": ("cuda", 3)}, "generator must be a device type"),
        ({"generator": (3, torch.zeros(3))}, "generator must be a device type"),
        ({"last_states": 3}, r"last_states must be a list of pairs \(epoch, module\)"),
        ({"last_states": [(1,)]}, r"last_states must have pairs \(epoch, module\), got"),
        ({"last_states": [(1.0, {})]}, r"last_states must have pairs \(epoch, module\)"),
        ({"last_states": [(1, {})]}, r"module\['.*'\] is missing"),
        ({"module": 3}, "module must be a dict of tensors"),
        ({"module": {3: torch.ones(1)}}, "module must be a dict of tensors"),
        ({"optimizer": 3}, r"optimizer must have a state and 1 parameter group\(s\)"),
    ],
)
def test_states_that_do_not_fit(changed, message):
    with pytest.raises(ValueError, match=message):
        checked(state_with(**changed))


@pytest.mark.parametrize("state", [3, {}, {"seed": 0}])
def test_states_without_their_parts(state):
    with pytest.raises(ValueError, match="the state of a net must have beta, generator, history"):
        checked(state)


def test_seeds_and_generators_at_the_ends_of_their_ranges():
    for state in (
        state_with(seed=0),
        state_with(seed=2**63 - 1, beta=-1.0, operations=1e-9),
        state_with(generator=("cuda", torch.zeros(16, dtype=torch.uint8))),
    ):
        checked(state)


def test_modules_of_other_names_and_shapes():
    module = net().module_
    values = module.state_dict()
    name = min(values)
    with pytest.raises(ValueError, match=rf"module\['{name}'\] is missing"):
        check_module_state({n: v for n, v in values.items() if n != name}, module)
    with pytest.raises(ValueError, match=r"module\['0'\] is not in the module of these parameters"):
        check_module_state({**values, "0": torch.ones(1)}, module)
    for value, shape in ((torch.ones(1, 2, 3), r"\(1, 2, 3\)"), (3, "None")):
        with pytest.raises(ValueError, match=rf"module\['{name}'\] must have shape .* got {shape}"):
            check_module_state({**values, name: value}, module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(state=[]), "optimizer must have a state and 1 parameter group"),
        (lambda s: s.update(param_groups=[]), "optimizer must have a state and 1 parameter group"),
        (lambda s: s.update(param_groups=[3]), "optimizer must have a state and 1 parameter group"),
        (lambda s: s["param_groups"].append({}), "optimizer must have a state and 1 parameter"),
        (lambda s: s["param_groups"][0].update(lr="a"), "invalid setting lr='a'"),
        (lambda s: s["param_groups"][0].update(betas=(0.9,)), r"invalid setting betas=\(0.9,\)"),
        (lambda s: s["param_groups"][0].update(betas=(0.9, "a")), "invalid setting betas="),
        (lambda s: s["param_groups"][0].update(amsgrad=None), "invalid setting amsgrad=None"),
        (lambda s: s["param_groups"][0].pop("eps"), "invalid setting eps=None"),
        (lambda s: s["state"].update({"a": {}}), "no valid state of parameter 'a'"),
        (lambda s: s["state"].update({-1: {}}), "no valid state of parameter -1"),
        (lambda s: s["state"].update({10**6: {}}), "no valid state of parameter 1000000"),
        (lambda s: s["state"].update({0: 3}), "no valid state of parameter 0"),
        (lambda s: s["state"][0].pop("step"), "no valid state of parameter 0"),
        (lambda s: s["state"][0].pop("exp_avg_sq"), "no valid state of parameter 0"),
        (lambda s: s["state"][0].update(other=3), "no valid state of parameter 0"),
        (lambda s: s["state"][0].update(step=torch.ones(2)), "'step' of another shape or type"),
        (lambda s: s["state"][0].update(exp_avg=torch.ones(1)), "'exp_avg' of another shape or"),
        (
            lambda s: s["state"][0].update(exp_avg_sq=first_average(s).long()),
            "'exp_avg_sq' of another shape or type than parameter 0",
        ),
    ],
)
def test_states_of_an_optimizer_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        checked_optimizer(change)


def test_a_parameter_may_have_no_averages_or_the_largest_too():
    for change in (
        lambda s: s["state"].update({0: {}}),
        lambda s: s["state"][0].update(max_exp_avg_sq=first_average(s)),
        lambda s: s["state"].clear(),
    ):
        checked_optimizer(change)
