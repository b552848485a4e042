"""What a net in training is made of, in a checkpoint's words, and back."""

from __future__ import annotations

import copy
import io
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from skorch.history import History
from torch import Tensor
from tqdm.std import tqdm

from sklearn_vae.serialization.checkpoint import ODD, Checkpoint, can_hold
from sklearn_vae.serialization.fingerprint import fingerprint
from sklearn_vae.training.cuda_graph import CapturedStep
from sklearn_vae.training.devices import threads_for
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer

# The key of a dict that stands for a tensor.
TENSOR = "torch.Tensor"

# What of a callback learns nothing.
NOT_LEARNED = type | io.IOBase | tqdm


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
    read : callable, default=None
        Of what is saved at the end (:meth:`Checkpoint.resume`), where that is not the net.
    reducer : Reducer, default=SINGLE_PROCESS
        Of the processes that train together.
    """

    def __init__(
        self,
        file: Checkpoint,
        net: Any,
        max_epochs: int,
        units: Any,
        read: Callable[[Any], Any] | None = None,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> None:
        self.file = file
        self.last = len(net.history) + max_epochs
        # With graphs, when these are captured matters too: see below.
        every = file.every if torch.device(net.device).type == "cuda" else None
        start = fingerprint(start_of(net), units)
        self.state: Any = file.resume(
            lambda state: read(state) if file.finished and read else self._read(net, state),
            **_place_of(net),
            every=every,
            start=start,
        )
        self._told = False
        self._agree(reducer)

    def _agree(self, reducer: Reducer) -> None:
        """Have all processes that fit together begin anew unless they can go on from one epoch."""
        if reducer.size == 1:
            return
        found = -1 if self.state is None else len(self.state["history"])
        places = reducer.table(found, self.file.finished)
        if (places != places[0]).any():
            if self.state is not None:
                warnings.warn(
                    f"The checkpoint {self.file.path} is not resumed, since other processes have "
                    "none of the same epoch: training begins anew.",
                    stacklevel=2,
                )
            self.state, self.file.finished = None, False

    def _read(self, net: Any, state: Any) -> Any:
        """The state, if the net takes it; this is as it was before."""
        before, kept = copy.deepcopy(state_of(net)), net.kept_
        try:
            _check_kinds(state, before)
            restore_net(net, state)
            if not len(before["history"]) < len(net.history) <= self.last:
                raise ValueError(f"a history of {len(net.history)} epochs")
        finally:
            restore_net(net, before)
            net.kept_ = kept
        return state

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
        lost = _restore_callbacks(net, self.state["callbacks"])
        if lost and not self.file.finished:  # at whose end nothing needs it
            warnings.warn(
                f"What {', '.join(lost)} had learned cannot be given back, since no such object "
                "is there when the training begins: it goes on without, and may end elsewhere.",
                stacklevel=2,
            )
        _set_global_generators(net, self.state.get("global_generators"))
        self.state = None

    def after_epoch(self, net: Any) -> None:
        """Save the net, if this is such an epoch, and not the last."""
        epoch = len(net.history)
        if epoch % self.file.every or epoch >= self.last:
            return
        self._tell_what_is_left_out(net)
        self.file.save({**state_of(net), "global_generators": _global_generators_of(net)})
        if isinstance(net.step_, CapturedStep):
            # As in a training that goes on from here: the kernels of a graph may round otherwise.
            net.step_ = CapturedStep(net)

    def _tell_what_is_left_out(self, net: Any) -> None:
        names = [name for _, callback in net.callbacks_ for name in _left_out(callback)]
        if names and not self._told:
            warnings.warn(
                f"The checkpoint {self.file.path} cannot hold {', '.join(names)}: a training that "
                "goes on from it does so without, and may end elsewhere.",
                stacklevel=2,
            )
        self._told = True


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


def _check_kinds(state: dict[str, Any], example: dict[str, Any]) -> None:
    """Raise one of `ODD` unless the parts of a state are of the kinds that are saved."""
    for name, value in example.items():
        if name != "beta" and type(state[name]) is not type(value):
            raise ValueError(f"{name} of {type(state[name]).__name__}")
    if not isinstance(state["beta"], int | float):
        raise TypeError(f"beta of {type(state['beta']).__name__}")
    if not all(type(row) is dict for row in state["history"]):
        raise ValueError("a history of something else")
    for name, learned in state["callbacks"].items():
        if not all(type(part) is tuple and len(part) == 2 for part in learned.values()):
            raise ValueError(f"callback {name}")
    if (generators := state.get("global_generators")) is not None:
        torch.Generator().set_state(with_tensors(generators)[0])


def _restore_callbacks(net: Any, states: dict[str, Any]) -> list[str]:
    """Give each callback of a net what it had learned; names of what could not be given."""
    lost = []
    for name, callback in net.callbacks_:
        for attribute, (has_state, value) in with_tensors(states.get(name, {})).items():
            if not _is_learned(attribute):
                continue
            if not has_state:
                setattr(callback, attribute, value)
                continue
            try:  # what a training has made when it began
                _set_state(getattr(callback, attribute, None), value)
            except ODD:
                lost.append(f"{type(callback).__name__}.{attribute}")
    return lost


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


def _is_learned(name: Any) -> bool:
    return isinstance(name, str) and name.endswith("_") and not name.startswith("__")


def _learned(callback: Any) -> dict[str, tuple[bool, Any]]:
    """What a callback has learned: attributes that end with an underscore, as skorch has it.

    With whether it is the state of an object, of one with a `state_dict` or a generator of random
    numbers. What a checkpoint cannot hold is left out.
    """
    learned = {}
    for name, value in vars(callback).items():
        if not _is_learned(name) or isinstance(value, NOT_LEARNED):
            continue
        state = _state(value)
        part = (False, value) if state is None else (True, state)
        if can_hold(without_tensors(part)):
            learned[name] = part
    return learned


def _left_out(callback: Any) -> list[str]:
    """Names of what a callback has learned and a checkpoint cannot hold."""
    held, kind = _learned(callback), type(callback).__name__
    return [
        f"{kind}.{name}"
        for name, value in vars(callback).items()
        if _is_learned(name) and name not in held and not isinstance(value, NOT_LEARNED)
    ]


def _state(value: Any) -> Any:
    """That of an object with one; else None."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Random):
        return value.getstate()
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return value.state_dict()
    return None


def _set_state(held: Any, state: Any) -> None:
    """Give an object what :func:`_state` has found in one of its kind."""
    if isinstance(held, np.random.Generator):
        held.bit_generator.state = state
    elif isinstance(held, np.random.RandomState | torch.Generator):
        held.set_state(state)
    elif isinstance(held, Random):
        held.setstate(state)
    else:
        held.load_state_dict(state)


def without_tensors(value: Any) -> Any:
    """The same with arrays for tensors; one that NumPy has no dtype for stays, and is not held."""
    if isinstance(value, Tensor):
        try:
            return {TENSOR: value.detach().cpu().numpy()}
        except TypeError:
            return value
    if type(value) in (list, tuple):
        return type(value)(without_tensors(part) for part in value)
    if type(value) is deque:
        return deque(map(without_tensors, value), value.maxlen)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, without_tensors(part)) for key, part in value.items())
    return value


def with_tensors(value: Any) -> Any:
    """The same with new tensors, on the CPU, for what stands for one."""
    if type(value) in (list, tuple):
        return type(value)(with_tensors(part) for part in value)
    if type(value) is deque:
        return deque(map(with_tensors, value), value.maxlen)
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return torch.from_numpy(np.array(value[TENSOR]))
    return type(value)({key: with_tensors(part) for key, part in value.items()})
