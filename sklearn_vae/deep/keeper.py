"""What a net in training is made of, in a checkpoint's words, and back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from skorch.history import History
from torch import Tensor

from sklearn_vae.checkpoint import Checkpoint, can_hold
from sklearn_vae.deep.capture import CapturedStep
from sklearn_vae.deep.devices import threads_for
from sklearn_vae.fingerprint import fingerprint

# The key of a dict that stands for a tensor.
TENSOR = "torch.Tensor"


class Keeper:
    """Saves a net every few epochs of a training, and gives it back.

    Parameters
    ----------
    file : Checkpoint
    net : VAENet
        As the training begins.
    max_epochs : int
        Of this training.
    units : object
        What the rows that the net sees were made with.
    """

    def __init__(self, file: Checkpoint, net: Any, max_epochs: int, units: Any) -> None:
        self.file = file
        self.last = len(net.history) + max_epochs
        # With graphs, when these are captured matters too: see below.
        every = file.every if torch.device(net.device).type == "cuda" else None
        start = fingerprint(start_of(net), units)
        self.state: Any = file.resume(**_place_of(net), every=every, start=start)

    def begin(self, net: Any) -> int:
        """Give the net what was saved, if anything was; epochs that are left, 0 at the end."""
        if self.state is not None:
            restore_net(net, self.state)
        return 0 if self.file.finished else self.last - len(net.history)

    def restore(self, net: Any) -> None:
        """The net and its callbacks, which have begun as they do before a first epoch."""
        if self.state is None:
            return
        restore_net(net, self.state)
        _restore_callbacks(net, self.state["callbacks"])
        _set_global_generators(net, self.state.get("global_generators"))
        self.state = None

    def after_epoch(self, net: Any) -> None:
        """Save the net, if this is such an epoch, and not the last."""
        epoch = len(net.history)
        if epoch % self.file.every or epoch >= self.last:
            return
        self.file.save({**state_of(net), "global_generators": _global_generators_of(net)})
        if isinstance(net.step_, CapturedStep):
            # As in a training that goes on from here: the kernels of a graph may round otherwise.
            net.step_ = CapturedStep(net)


def place_of(device: torch.device, n_operations: float) -> dict[str, Any]:
    """What the numbers that torch computes depend on, in a training with steps of such a size."""
    if device.type == "cuda":
        return {"torch": torch.__version__, "device": torch.cuda.get_device_name(device)}
    return {
        "torch": torch.__version__,
        "device": device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads_for(n_operations),
    }


def _place_of(net: Any) -> dict[str, Any]:
    n_operations = 3 * net.operations_ * net.batch_size * net.noise_shape[0]
    # What the module is made of, in words and in code, in which a factory may hide anything.
    kinds = {type(part) for part in net.module_.modules()}
    networks = fingerprint(repr(net.module_), sorted(map(fingerprint, kinds)))
    return {**place_of(torch.device(net.device), n_operations), "networks": networks}


def start_of(net: Any) -> dict[str, Any]:
    """What of its state a training that begins depends on."""
    return {**state_of(net), "history": len(net.history), "kept": None, "callbacks": None}


def state_of(net: Any) -> dict[str, Any]:
    """All that the next epoch depends on, but for torch's global generators."""
    return without_tensors(
        {
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "generator": net.generator_.get_state(),
            "history": list(net.history),
            "beta": net.beta_,
            "kept": net.kept_[-1:],
            "callbacks": {name: _learned(callback) for name, callback in net.callbacks_},
        }
    )


def restore_net(net: Any, state: dict[str, Any]) -> None:
    """Give a net what :func:`state_of` had found, callbacks aside."""
    state = with_tensors({name: part for name, part in state.items() if name != "callbacks"})
    net.module_.load_state_dict(state["module"])
    net.optimizer_.load_state_dict(state["optimizer"])
    net.generator_.set_state(state["generator"])
    net.history_ = History(copy.deepcopy(state["history"]))
    net.beta_, net.kept_ = state["beta"], state["kept"]


def _restore_callbacks(net: Any, states: dict[str, Any]) -> None:
    """Give each callback of a net what it had learned."""
    for name, callback in net.callbacks_:
        for attribute, (has_state, value) in with_tensors(states.get(name, {})).items():
            held: Any = getattr(callback, attribute, None)
            if not has_state:
                setattr(callback, attribute, value)
            elif held is not None:  # which a training has made when it began
                held.load_state_dict(value)


def _global_generators_of(net: Any) -> Any:
    """States of torch's global generators, where networks draw from them; else None."""
    if net.module_.has_pullback:
        return None
    device = torch.device(net.device)
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return without_tensors([torch.get_rng_state(), *on_device])


def _set_global_generators(net: Any, states: Any) -> None:
    """Set them to what they were."""
    if states is None:
        return
    on_cpu, *on_device = with_tensors(states)
    torch.set_rng_state(on_cpu)
    for state in on_device:
        torch.cuda.set_rng_state(state, torch.device(net.device))


def _learned(callback: Any) -> dict[str, tuple[bool, Any]]:
    """What a callback has learned: attributes that end with an underscore, as skorch has it.

    With whether it is the state of an object with a `state_dict`. What a checkpoint cannot hold, an
    open file or a progress bar, is left out.
    """
    learned = {}
    for name, value in vars(callback).items():
        if not name.endswith("_") or isinstance(value, type):
            continue
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            learned[name] = (True, value.state_dict())
        elif can_hold(without_tensors(value)):
            learned[name] = (False, value)
    return learned


def without_tensors(value: Any) -> Any:
    """The same with arrays for tensors; one that NumPy has no dtype for stays, and is not held."""
    if isinstance(value, Tensor):
        try:
            return {TENSOR: value.detach().cpu().numpy()}
        except TypeError:
            return value
    if type(value) in (list, tuple):
        return type(value)(without_tensors(part) for part in value)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, without_tensors(part)) for key, part in value.items())
    return value


def with_tensors(value: Any) -> Any:
    """The same with new tensors, on the CPU, for what stands for one."""
    if type(value) in (list, tuple):
        return type(value)(with_tensors(part) for part in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return torch.from_numpy(np.array(value[TENSOR]))
    return type(value)({key: with_tensors(part) for key, part in value.items()})
