"""Checkpoints of a net in training."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm.std import tqdm

from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.serialization.codec import INVALID, Writer
from sklearn_vae.serialization.identity import digest
from sklearn_vae.training.devices import (
    global_generator_states,
    set_global_generators,
    threads_for,
)
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.fast_paths import may_draw
from sklearn_vae.warning import warn_user

# Names of methods that return and set the state of an object.
ACCESSORS = (
    ("state_dict", "load_state_dict"),
    ("get_state", "set_state"),
    ("getstate", "setstate"),
)


class Keeper:
    """Checkpoints of a net that is trained for at most `max_epochs` epochs.

    `units` convert the data to the net's samples. `read` reads the last state of a finished
    training if that is not a state of the net.
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
        environment = hardware_of(device, net.operations_per_step)
        if device.type == "cuda":  # the loop captures CUDA graphs again after each save
            environment["checkpoint_every"] = file.every
        # Layers as text and as code: a factory may hide anything in them.
        networks = digest(repr(net.module_), {type(part) for part in net.module_.modules()})
        before = copy.deepcopy(net.get_state())
        self.state: Any = file.resume(
            lambda state: read(state) if file.finished and read else self._restored(net, state),
            {"networks": networks, "numbers": digest(start_of(net), units)},
            **environment,
        )
        self._has_warned = False
        if reducer.size > 1:
            self._agree(reducer)
        if self.state is None:
            net.set_state(before)
        self.epochs_left = 0 if file.finished else self.last - len(net.history)

    def _agree(self, reducer: Reducer) -> None:
        """Let all processes start from scratch unless they can resume from the same epoch."""
        epoch = -1 if self.state is None else len(self.state["net"]["history"])
        epochs = reducer.table(epoch, self.file.finished)
        if (epochs != epochs[0]).any():
            if self.state is not None:
                warn_user(
                    f"The checkpoint {self.file.path} is not resumed, because other processes "
                    "have no checkpoint of the same epoch. Training starts from scratch.",
                )
            self.state, self.file.finished = None, False

    def _restored(self, net: Any, state: Any) -> Any:
        """Restore the net, and return the state; raise an error if it does not fit."""
        for name, learned in state["callbacks"].items():
            if not all(type(part) is tuple and len(part) == 2 for part in learned.values()):
                raise ValueError(f"callback {name}")
        for drawn in (state.get("global_generators") or [])[:1]:
            torch.Generator().set_state(drawn)
        n_epochs = len(net.history)
        net.set_state(state["net"])
        if not n_epochs < len(net.history) <= self.last:
            raise ValueError(f"a history of {len(net.history)} epochs")
        if not net.is_finite():
            raise ValueError("parameters that are not finite")
        for name in {name for row in net.history for name in row}:
            dtype = float if name in net.monitor.names else None
            np.array([row.get(name, np.nan) for row in net.history], dtype=dtype)
        return state

    def restore(self, net: Any) -> None:
        """Restore the net and its callbacks, after `on_train_begin` of the callbacks."""
        if self.state is None:
            return
        net.set_state(self.state["net"])
        lost = _restore_callbacks(net, self.state["callbacks"])
        if lost and not self.file.finished:  # a finished training does not need it
            warn_user(
                f"Cannot restore the state of {', '.join(lost)}, because no such object exists "
                "when training begins. Training continues without it, and its result may differ.",
            )
        if (drawn := self.state.get("global_generators")) is not None:
            set_global_generators(drawn, torch.device(net.device))
        self.state = None

    def after_epoch(self, net: Any) -> bool:
        """Save the net after every `every` epochs except the last; return whether it was saved."""
        epoch = len(net.history)
        if epoch % self.file.every or epoch >= self.last:
            return False
        callbacks, left_out = _callback_states(net)
        if left_out and not self._has_warned:
            warn_user(
                f"The checkpoint {self.file.path} cannot hold {', '.join(left_out)}. A training "
                "that resumes from it continues without it, and its result may differ.",
            )
        self._has_warned = True
        device = torch.device(net.device)
        drawn = global_generator_states(device) if may_draw(net.module_) else None
        self.file.save({"net": net.get_state(), "callbacks": callbacks, "global_generators": drawn})
        return True


def hardware_of(device: torch.device, n_operations: float) -> dict[str, Any]:
    """Return the hardware on which the rounding of training steps depends."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {
        "device": device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads_for(n_operations),
    }


def start_of(net: Any) -> dict[str, Any]:
    """Return the part of a net's state that a training starts from."""
    return {**net.get_state(), "history": len(net.history), "last_states": None}


def last_state_of(net: Any) -> dict[str, Any]:
    """Return the state of a net, and of its callbacks, at the end of its training."""
    return {"net": net.get_state(), "callbacks": _callback_states(net)[0]}


def _restore_callbacks(net: Any, states: dict[str, Any]) -> list[str]:
    """Restore the learned attributes of callbacks; return the names of those that are lost."""
    lost = []
    for name, callback in net.callbacks_:
        for attribute, (has_state, value) in states.get(name, {}).items():
            if not _is_learned(attribute):
                continue
            if not has_state:
                setattr(callback, attribute, value)
                continue
            try:  # an object that the callback created when training began
                _accessors(getattr(callback, attribute, None))[1](value)  # type: ignore[index]
            except INVALID:
                lost.append(f"{type(callback).__name__}.{attribute}")
    return lost


def _is_learned(name: Any) -> bool:
    return isinstance(name, str) and name.endswith("_") and not name.startswith("__")


def _callback_states(net: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the learned attributes of callbacks, and the names of those that cannot be stored.

    As in skorch, these end with an underscore. Each comes with whether it is the state of an object
    instead of the object itself.
    """
    states: dict[str, Any] = {}
    left_out = []
    for name, callback in net.callbacks_:
        states[name] = {}
        for attribute, value in vars(callback).items():
            if not _is_learned(attribute) or isinstance(value, type | io.IOBase | tqdm):
                continue
            accessors, writer = _accessors(value), Writer()
            part = (False, value) if accessors is None else (True, accessors[0]())
            writer.value(part)
            if writer.refused:
                left_out.append(f"{type(callback).__name__}.{attribute}")
            else:
                states[name][attribute] = part
    return states, left_out


def _accessors(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """Return functions that get and set the state of an object, such as a random generator."""
    if isinstance(value, np.random.Generator):
        generator = value.bit_generator
        return lambda: generator.state, lambda state: setattr(generator, "state", state)
    for names in ACCESSORS:
        if all(hasattr(value, name) for name in names):
            return getattr(value, names[0]), getattr(value, names[1])
    return None
