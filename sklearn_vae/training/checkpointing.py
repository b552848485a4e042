"""Checkpoints of a net in training: saving its state, and restoring it."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm.std import tqdm

from sklearn_vae.serialization.checkpoint import ODD, Checkpoint
from sklearn_vae.serialization.codec import Writer
from sklearn_vae.serialization.identity import digest
from sklearn_vae.training.devices import (
    global_generator_states,
    set_global_generators,
    threads_for,
)
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.fast_paths import may_draw

# Types of attributes of callbacks that hold nothing learned.
NOT_LEARNED = type | io.IOBase | tqdm

# Names of methods that return and set the state of an object.
ACCESSORS = (
    ("state_dict", "load_state_dict"),
    ("get_state", "set_state"),
    ("getstate", "setstate"),
)


class Keeper:
    """Saves a net every few epochs of a training, and restores it.

    Parameters
    ----------
    file : Checkpoint
    net : VAENet
        As the training begins.
    max_epochs : int
        Number of epochs of this training.
    units : object
        Means and scales by which the net's samples were made from the data.
    read : callable, default=None
        Reads what is saved at the end (:meth:`Checkpoint.resume`), where that is not the net.
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
        device = torch.device(net.device)
        place = place_of(device, net.operations_per_step)
        if device.type == "cuda":  # the loop captures CUDA graphs anew after each save
            place["checkpoint_every"] = file.every
        self.state: Any = file.resume(
            lambda state: read(state) if file.finished and read else self._read(net, state),
            {"networks": _digest_of_networks(net), "numbers": digest(start_of(net), units)},
            **place,
        )
        self._warned = False
        self._agree(reducer)

    def _agree(self, reducer: Reducer) -> None:
        """Have all processes begin anew unless they can resume from the same epoch."""
        if reducer.size == 1:
            return
        epoch = -1 if self.state is None else len(self.state["history"])
        epochs = reducer.table(epoch, self.file.finished)
        if (epochs != epochs[0]).any():
            if self.state is not None:
                warnings.warn(
                    f"The checkpoint {self.file.path} is not resumed, since other processes have "
                    "none of the same epoch: training begins anew.",
                    stacklevel=2,
                )
            self.state, self.file.finished = None, False

    def _read(self, net: Any, state: Any) -> Any:
        """The state, after the net has taken it on trial; the net stays as it is."""
        before = copy.deepcopy(net.get_state())
        try:
            _check_callbacks(state)
            _set_net(net, state)
            if not len(before["history"]) < len(net.history) <= self.last:
                raise ValueError(f"a history of {len(net.history)} epochs")
            for name in {name for row in net.history for name in row}:
                dtype = float if name in net.monitor.names else None
                np.array([row.get(name, np.nan) for row in net.history], dtype=dtype)
        finally:
            net.set_state(before)
        return state

    def begin(self, net: Any) -> int:
        """Restore the net if it was saved; the number of epochs left, 0 where none is."""
        if self.state is not None:
            _set_net(net, self.state)
        return 0 if self.file.finished else self.last - len(net.history)

    def restore(self, net: Any) -> None:
        """Restore the net and its callbacks, after these have begun as before a first epoch."""
        if self.state is None:
            return
        _set_net(net, self.state)
        lost = _restore_callbacks(net, self.state["callbacks"])
        if lost and not self.file.finished:  # a finished training needs none of it
            warnings.warn(
                f"What {', '.join(lost)} had learned cannot be given back, since no such object "
                "is there when the training begins: it goes on without, and may end elsewhere.",
                stacklevel=2,
            )
        drawn = self.state.get("global_generators")
        if drawn is not None:
            set_global_generators(drawn, torch.device(net.device))
        self.state = None

    def after_epoch(self, net: Any) -> bool:
        """Save the net after every so many epochs, but not after the last; whether it was saved."""
        epoch = len(net.history)
        if epoch % self.file.every or epoch >= self.last:
            return False
        left_out = [name for _, callback in net.callbacks_ for name in _learned(callback)[1]]
        if left_out and not self._warned:
            warnings.warn(
                f"The checkpoint {self.file.path} cannot hold {', '.join(left_out)}: a training "
                "that goes on from it does so without, and may end elsewhere.",
                stacklevel=2,
            )
        self._warned = True
        drawn = None
        if may_draw(net.module_):
            drawn = global_generator_states(torch.device(net.device))
        self.file.save({**state_of(net), "global_generators": drawn})
        return True


def place_of(device: torch.device, n_operations: float) -> dict[str, Any]:
    """Hardware on which the rounding of a training with such steps depends."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {
        "device": device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads_for(n_operations),
    }


def _digest_of_networks(net: Any) -> str:
    # Layers in words and in code: a factory may hide anything there.
    kinds = {type(part) for part in net.module_.modules()}
    return digest(repr(net.module_), kinds)


def start_of(net: Any) -> dict[str, Any]:
    """The part of a net's state on which a training that begins depends."""
    return {**net.get_state(), "history": len(net.history), "last_states": None}


def state_of(net: Any) -> dict[str, Any]:
    """State of a net and what its callbacks have learned."""
    callbacks = {name: _learned(callback)[0] for name, callback in net.callbacks_}
    return {**net.get_state(), "callbacks": callbacks}


def _set_net(net: Any, state: dict[str, Any]) -> None:
    """Set a net, without its callbacks, to what :func:`state_of` has returned."""
    net.set_state({k: v for k, v in state.items() if k not in ("callbacks", "global_generators")})


def _check_callbacks(state: dict[str, Any]) -> None:
    """Raise one of `ODD` unless what callbacks have learned is of the kind that is saved."""
    for name, learned in state["callbacks"].items():
        if not all(type(part) is tuple and len(part) == 2 for part in learned.values()):
            raise ValueError(f"callback {name}")
    for drawn in (state.get("global_generators") or [])[:1]:
        torch.Generator().set_state(drawn)


def _restore_callbacks(net: Any, states: dict[str, Any]) -> list[str]:
    """Restore what each callback of a net had learned; names of what could not be restored."""
    lost = []
    for name, callback in net.callbacks_:
        for attribute, (has_state, value) in states.get(name, {}).items():
            if not _is_learned(attribute):
                continue
            if not has_state:
                setattr(callback, attribute, value)
                continue
            try:  # an object that the callback has made as the training began
                _access(getattr(callback, attribute, None))[1](value)  # type: ignore[index]
            except ODD:
                lost.append(f"{type(callback).__name__}.{attribute}")
    return lost


def _is_learned(name: Any) -> bool:
    return isinstance(name, str) and name.endswith("_") and not name.startswith("__")


def _learned(callback: Any) -> tuple[dict[str, tuple[bool, Any]], list[str]]:
    """Attributes that a callback has learned: those that end with an underscore, as in skorch.

    Each with whether it is the state of an object instead of the object itself. Then the names of
    those that a checkpoint cannot hold.
    """
    learned, left_out = {}, []
    for name, value in vars(callback).items():
        if not _is_learned(name) or isinstance(value, NOT_LEARNED):
            continue
        access = _access(value)
        part = (False, value) if access is None else (True, access[0]())
        writer = Writer()
        writer.value(part, name)
        if writer.refused:
            left_out.append(f"{type(callback).__name__}.{name}")
        else:
            learned[name] = part
    return learned, left_out


def _access(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """Functions that return and set the state of an object, such as a random number generator."""
    if isinstance(value, np.random.Generator):
        generator = value.bit_generator
        return lambda: generator.state, lambda state: setattr(generator, "state", state)
    for names in ACCESSORS:
        if all(hasattr(value, name) for name in names):
            return getattr(value, names[0]), getattr(value, names[1])
    return None
