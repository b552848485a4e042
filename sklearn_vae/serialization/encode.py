"""Plain values and arrays as a tree of JSON, the numbers of arrays as tensors beside it.

None, booleans, integers, finite floats, text and lists are themselves; all else is an object with
one key, a tag, which says how to read what is under it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tree: TypeAlias = Any

# How deep values may be nested, on their way out and in.
MAX_DEPTH = 50

# Bounds of a range and how many integers it may have: where a list may be, one is made of it.
MAX_BOUND = 2**62
MAX_RANGE = 2**16

# Characters of a key that are told where it is: a path is made for every value under it.
MAX_NAME = 50

STORED_KINDS = "biuf"


class Writer:
    """Makes a tree of values, and collects tensors and what cannot be stored.

    Attributes
    ----------
    tensors : dict of str to array
    refused : list of str
        Where there is what cannot be stored, and what it is.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, NDArray[Any]] = {}
        self.refused: list[str] = []
        self._refused_objects: list[Any] = []
        # By id: with the object itself, whose id is else given to another.
        self._seen: dict[int, tuple[Any, str]] = {}
        self._depth = 0

    def value(self, value: Any, path: str) -> Tree:
        """The tree of a value, which stands at a path like "best_params_['n_components']"."""
        if self._depth >= MAX_DEPTH:
            return self.refuse(path, "nested too deeply")
        self._depth += 1
        try:
            write = WRITERS.get(type(value))
            if write is not None:
                return write(self, value, path)
            if isinstance(value, np.generic):
                return self._scalar(value, path)
            if isinstance(value, np.memmap):
                return _write_array(self, np.asarray(value), path)
            torch = sys.modules.get("torch")
            if torch is not None and type(value) is torch.device:
                return {"device": str(value)}
            if torch is not None and type(value) is torch.Tensor:
                return self._tensor(value, path)
            return self.object(value, path)
        finally:
            self._depth -= 1

    def object(self, value: Any, path: str) -> Tree:
        """The tree of what is no plain value."""
        if not any(value is other for other in self._refused_objects):
            self._refused_objects.append(value)
            self.refuse(path, f"{value!r}")

    def refuse(self, path: str, what: str) -> Tree:
        """Remember that what stands at a path cannot be stored."""
        what = what if len(what) <= 200 else f"{what[:200]}..."
        self.refused.append(f"{path} is {what}")

    def tensor(self, array: NDArray[Any], of: Any = None) -> str:
        """Name of the tensor of a contiguous array, the same each time for the same object `of`."""
        of = array if of is None else of
        if id(of) not in self._seen:
            name = f"t{len(self.tensors)}"
            self.tensors[name] = array
            self._seen[id(of)] = of, name
        return self._seen[id(of)][1]

    def _scalar(self, value: Any, path: str) -> Tree:
        array = np.asarray(value)
        if array.dtype.kind not in STORED_KINDS or array.dtype.itemsize > 8:
            return self.refuse(path, f"{value!r}, a {type(value).__name__}")
        return {"scalar": self.tensor(_native(array))}

    def _tensor(self, value: Any, path: str) -> Tree:
        try:
            array = value.detach().cpu().numpy()
        except (TypeError, RuntimeError):
            return self.refuse(path, f"a torch tensor of {value.dtype} that NumPy does not know")
        if value.requires_grad or array.dtype.kind not in STORED_KINDS:
            return self.refuse(path, "a torch tensor of another kind than numbers without gradient")
        ordered, axes = _in_order(array)
        return {"tensor": [self.tensor(ordered, of=value), axes, str(value.device)]}


def _write_array(writer: Writer, value: NDArray[Any], path: str) -> Tree:
    """Numbers as a tensor, text as the code points it has, objects as a list."""
    kind = value.dtype.kind
    if kind == "O":
        items = [writer.value(item, f"{path}[{i}]") for i, item in enumerate(value.ravel())]
        return {"objects": [list(value.shape), items]}
    if kind == "U":
        codes = _native(np.array(value, order="C", ndmin=1))
        codes = codes.view(np.uint32).reshape(*value.shape, value.dtype.itemsize // 4)
        return {"text": writer.tensor(codes, of=value)}
    if kind not in STORED_KINDS or value.dtype.itemsize > 8:
        return writer.refuse(path, f"an array of dtype {value.dtype}")
    ordered, axes = _in_order(value)
    return {"array": [writer.tensor(ordered, of=value), axes]}


def _write_int(writer: Writer, value: int, path: str) -> Tree:
    # Python turns no longer ones into text.
    return (
        value if value.bit_length() < 10_000 else writer.refuse(path, "an integer of many digits")
    )


def _write_float(writer: Writer, value: float, path: str) -> Tree:
    return value if math.isfinite(value) else {"float": str(value)}


def _write_dict(writer: Writer, value: dict[Any, Any], path: str) -> Tree:
    at = [(k, v, f"{path}[{shortened(repr(k))}]") for k, v in value.items()]
    return {"dict": [[writer.value(k, where), writer.value(v, where)] for k, v, where in at]}


def _write_range(writer: Writer, value: range, path: str) -> Tree:
    bounds = [value.start, value.stop, value.step]
    if value[MAX_RANGE:] or max(map(abs, bounds)) > MAX_BOUND:
        return writer.refuse(path, f"{value!r}, more than {MAX_RANGE} integers or beyond 2**62")
    return {"range": bounds}


def _write_masked(writer: Writer, value: Any, path: str) -> Tree:
    mask = None if value.mask is np.ma.nomask else writer.value(np.asarray(value.mask), path)
    return {"masked": [writer.value(np.asarray(value.data), path), mask]}


def _write_random_state(writer: Writer, value: np.random.RandomState, path: str) -> Tree:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        return writer.refuse(path, f"{value!r}, a RandomState of {state['bit_generator']}")
    rest = state["state"]["pos"], state["has_gauss"], state["gauss"]
    key = writer.tensor(state["state"]["key"], of=value)
    return {"random_state": [key, *(writer.value(part, path) for part in map(_plain, rest))]}


def _sequence(tag: str) -> Callable[[Writer, Any, str], Tree]:
    def write(writer: Writer, value: Any, path: str) -> Tree:
        return {tag: [writer.value(v, f"{path}[{i}]") for i, v in enumerate(value)]}

    return write


WRITERS: dict[type, Callable[[Writer, Any, str], Tree]] = {
    NoneType: lambda writer, value, path: value,
    bool: lambda writer, value, path: value,
    int: _write_int,
    float: _write_float,
    str: lambda writer, value, path: value,
    list: lambda writer, value, path: _sequence("")(writer, value, path)[""],
    tuple: _sequence("tuple"),
    set: _sequence("set"),
    frozenset: _sequence("frozenset"),
    dict: _write_dict,
    range: _write_range,
    np.ndarray: _write_array,
    np.ma.MaskedArray: _write_masked,
    np.random.RandomState: _write_random_state,
}


def shortened(name: str) -> str:
    """The beginning of a long name."""
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _in_order(array: NDArray[Any]) -> tuple[NDArray[Any], list[int] | None]:
    """Contiguous numbers, and the axes that they have in the order of memory, unless as named.

    The order is kept because products of matrices round otherwise in another one.
    """
    array = _native(array)
    if array.flags.c_contiguous:
        return array, None
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    ordered = np.array(array.transpose(axes), order="C")
    return ordered, None if axes == sorted(axes) else axes


def _plain(value: Any) -> Any:
    """A Python number, whichever NumPy has it as."""
    return value.item() if isinstance(value, np.generic) else value
