"""Values as a tree of JSON, with the numbers of arrays as tensors next to it, and back.

None, booleans, integers, finite floats, text and lists are themselves; any other value is an object
with one key, a tag, which says how to read what is under it. Nothing in a tree names code: each tag
has one function that reads it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tree: TypeAlias = Any

# How deep values may be nested.
MAX_DEPTH = 50

# Bounds of a range and how many integers it may have: a list may be made of it.
MAX_BOUND = 2**62
MAX_RANGE = 2**16

# Characters of a key that are part of a path: one is made for every value under the key.
MAX_NAME = 50

# Python refuses to write or read integers of more digits.
MAX_BITS = 10_000

STORED_KINDS = "biuf"
MAX_CODE_POINT = 0x10FFFF

# What values may be built from, in bytes of arrays: a file's tensors are to be used about once each.
USES_OF_FILE = 16
FREE_BYTES = 2**24

# Keys that may have one hash: each is compared with all before it. (Some tuples have that of -1, -2.)
SAME_HASHES = 32

MAPPINGS: dict[str, Any] = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}


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
        # By id: with the object itself, so that its id is not given to another.
        self._seen: dict[int, tuple[Any, str]] = {}
        self._depth = 0

    def value(self, value: Any, path: str) -> Tree:
        """Tree of a value at a path like "best_params_['n_components']"."""
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
            if torch is not None and isinstance(value, torch.Tensor):
                return self._tensor(value, path)
            return self.object(value, path)
        finally:
            self._depth -= 1

    def object(self, value: Any, path: str) -> Tree:
        """Tree of what is no plain value: none."""
        if not any(value is other for other in self._refused_objects):
            self._refused_objects.append(value)
            self.refuse(path, f"{value!r}")

    def refuse(self, path: str, what: str) -> None:
        """Remember that what is at a path cannot be stored."""
        self.refused.append(f"{path} is {what if len(what) <= 200 else f'{what[:200]}...'}")

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
            return self.refuse(path, "a torch tensor that has a gradient or is no real numbers")
        ordered, axes = _in_order(array)
        return {"tensor": [self.tensor(ordered, of=value), axes, str(value.device)]}


class Reader:
    """Makes values of a tree and tensors; ValueError where something is not what it must be.

    Parameters
    ----------
    tensors : dict of str to array
    n_bytes : int
        Of the file.
    device : str, torch.device or None
        Where tensors are put. None: where they were, or the CPU.
    """

    def __init__(self, tensors: dict[str, NDArray[Any]], n_bytes: int, device: Any = None) -> None:
        self.device = device
        self._tensors = tensors
        self._left = USES_OF_FILE * n_bytes + FREE_BYTES
        self._made: dict[tuple[str, str], Any] = {}
        self._depth = 0

    def value(self, tree: Tree, path: str) -> Any:
        """Value of a tree at a path."""
        if self._depth >= MAX_DEPTH:
            raise ValueError(f"{path} is nested too deeply.")
        self._depth += 1
        try:
            if isinstance(tree, list):
                self.charge(0, path)
                return [self.value(part, f"{path}[{i}]") for i, part in enumerate(tree)]
            if not isinstance(tree, dict):
                if isinstance(tree, float) and not math.isfinite(tree):
                    raise ValueError(f"{path} is a number beyond every float.")
                return tree
            if len(tree) != 1:
                raise ValueError(f"{path} must have one tag, got {sorted(tree)}.")
            ((tag, content),) = tree.items()
            read = self.readers().get(tag)
            if read is None:
                raise ValueError(f"{path} has the tag {tag!r}, which stands for nothing.")
            return read(self, content, path)
        finally:
            self._depth -= 1

    def readers(self) -> dict[str, Callable[[Any, Tree, str], Any]]:
        """Function that reads each tag."""
        return READERS

    def tensor(self, name: Any, path: str) -> NDArray[Any]:
        """Tensor of a name."""
        if not isinstance(name, str) or name not in self._tensors:
            raise ValueError(f"{path} asks for tensor {name!r}, which is not in the file.")
        return self._tensors[name]

    def once(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        """Result of `make`, one and the same object for each name."""
        if (kind, name) not in self._made:
            self._made[kind, name] = make()
        return self._made[kind, name]

    def charge(self, n_bytes: float, path: str) -> None:
        """Raise ValueError where a file makes far more of what it has than models do."""
        self._left -= int(n_bytes) + 100
        if self._left < 0:
            raise ValueError(f"{path} would take far more memory than the file has bytes.")


def listed(tree: Tree, path: str, length: int | None = None) -> list[Any]:
    """A list, of some length."""
    if isinstance(tree, list) and length in (None, len(tree)):
        return tree
    raise ValueError(f"{path} must be a list{'' if length is None else f' of {length}'}.")


def pairs(tree: Tree, path: str) -> list[tuple[Tree, Tree]]:
    """A list of pairs."""
    return [(first, second) for first, second in (listed(p, path, 2) for p in listed(tree, path))]


def text(tree: Tree, path: str) -> str:
    """A string."""
    if isinstance(tree, str):
        return tree
    raise ValueError(f"{path} must be text, got {tree!r}.")


def integer(tree: Tree, path: str, low: int, high: int) -> int:
    """An integer between two others."""
    if type(tree) is int and low <= tree <= high:
        return tree
    raise ValueError(f"{path} must be an integer between {low} and {high}, got {tree!r}.")


def shortened(name: str) -> str:
    """The beginning of a long name."""
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."


def _write_int(writer: Writer, value: int, path: str) -> Tree:
    if value.bit_length() < MAX_BITS:
        return value
    return writer.refuse(path, "an integer of many digits")


def _write_float(writer: Writer, value: float, path: str) -> Tree:
    return value if math.isfinite(value) else {"float": str(value)}


def _read_float(reader: Reader, tree: Tree, path: str) -> float:
    if tree in ("nan", "inf", "-inf"):
        return float(tree)
    raise ValueError(f"{path} must be nan, inf or -inf, got {tree!r}.")


def _write_list(writer: Writer, value: Any, path: str) -> Tree:
    return [writer.value(part, f"{path}[{i}]") for i, part in enumerate(value)]


def _write_tuple(writer: Writer, value: tuple[Any, ...], path: str) -> Tree:
    return {"tuple": _write_list(writer, value, path)}


def _read_tuple(reader: Reader, tree: Tree, path: str) -> tuple[Any, ...]:
    return tuple(reader.value(listed(tree, path), path))


def _write_set(writer: Writer, value: Any, path: str) -> Tree:
    return {type(value).__name__: _write_list(writer, sorted(value, key=repr), path)}


def _read_set(reader: Reader, tree: Tree, path: str) -> set[Any]:
    items = reader.value(listed(tree, path), path)
    _check_keys(items, path)
    return set(items)


def _write_deque(writer: Writer, value: Any, path: str) -> Tree:
    return {"deque": [value.maxlen, _write_list(writer, value, path)]}


def _read_deque(reader: Reader, tree: Tree, path: str) -> Any:
    length, items = listed(tree, path, 2)
    values = reader.value(listed(items, path), path)
    return deque(values, None if length is None else integer(length, path, 0, MAX_BOUND))


def _write_mapping(writer: Writer, value: Any, path: str) -> Tree:
    at = [(k, v, f"{path}[{shortened(repr(k))}]") for k, v in value.items()]
    items = [[writer.value(k, where), writer.value(v, where)] for k, v, where in at]
    return {type(value).__name__: items}


def _mapping_reader(kind: Any) -> Callable[[Reader, Tree, str], Any]:
    def read(reader: Reader, tree: Tree, path: str) -> Any:
        items = [
            (reader.value(key, path), reader.value(value, f"{path}[{shortened(repr(key))}]"))
            for key, value in pairs(tree, path)
        ]
        _check_keys([key for key, _ in items], path)
        return kind(dict(items))

    return read


def _check_keys(keys: list[Any], path: str) -> None:
    try:
        if max(Counter(map(hash, keys)).values(), default=0) > SAME_HASHES:
            raise ValueError(f"{path} has too many keys of the same hash.")
        n_different = len(set(keys))
    except TypeError as error:
        raise ValueError(f"{path} has a key that cannot be one: {error}.") from None
    if n_different != len(keys):
        raise ValueError(f"{path} has a key that comes twice.")


def _write_range(writer: Writer, value: range, path: str) -> Tree:
    bounds = [value.start, value.stop, value.step]
    if value[MAX_RANGE:] or max(map(abs, bounds)) > MAX_BOUND:
        return writer.refuse(path, f"{value!r}, more than {MAX_RANGE} integers or beyond 2**62")
    return {"range": bounds}


def _read_range(reader: Reader, tree: Tree, path: str) -> range:
    start, stop, step = (integer(v, path, -MAX_BOUND, MAX_BOUND) for v in listed(tree, path, 3))
    if step == 0:
        raise ValueError(f"{path} is a range of step 0.")
    integers = range(start, stop, step)
    if integers[MAX_RANGE:]:
        raise ValueError(f"{path} is a range of more than {MAX_RANGE} integers.")
    return integers


def _write_array(writer: Writer, value: NDArray[Any], path: str) -> Tree:
    """Numbers as a tensor, text as the code points it has, objects as a list."""
    kind = value.dtype.kind
    if kind == "O":
        return {"objects": [list(value.shape), _write_list(writer, value.ravel(), path)]}
    if kind == "U":
        codes = _native(np.array(value, order="C", ndmin=1))
        codes = codes.view(np.uint32).reshape(*value.shape, value.dtype.itemsize // 4)
        return {"text": writer.tensor(codes, of=value)}
    if kind not in STORED_KINDS or value.dtype.itemsize > 8:
        return writer.refuse(path, f"an array of dtype {value.dtype}")
    ordered, axes = _in_order(value)
    return {"array": [writer.tensor(ordered, of=value), axes]}


def _read_array(reader: Reader, tree: Tree, path: str) -> NDArray[Any]:
    name, axes = listed(tree, path, 2)
    array = reader.tensor(name, path)

    def make() -> NDArray[Any]:
        own = array if array.flags.writeable else array.copy()
        return _back_in_place(own, axes, path)

    return reader.once("array", f"{name}{axes}", make)


def _read_text(reader: Reader, tree: Tree, path: str) -> NDArray[Any]:
    codes = reader.tensor(tree, path)
    if codes.dtype != np.uint32 or codes.ndim == 0 or codes.shape[-1] == 0:
        raise ValueError(f"{path} is no array of text.")
    if codes.size and codes.max() > MAX_CODE_POINT:
        raise ValueError(f"{path} has text with characters that do not exist.")
    made = codes.reshape(-1).view(f"<U{codes.shape[-1]}").reshape(codes.shape[:-1])
    return reader.once("text", tree, lambda: made)


def _read_objects(reader: Reader, tree: Tree, path: str) -> NDArray[Any]:
    shape, items = listed(tree, path, 2)
    sizes = [integer(size, path, 0, 2**40) for size in listed(shape, path)]
    if len(sizes) > 32 or math.prod(sizes) != len(listed(items, path)):
        raise ValueError(f"{path} has {len(items)} objects for the shape {sizes}.")
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = reader.value(item, f"{path}[{i}]")
    return array.reshape(sizes)


def _read_scalar(reader: Reader, tree: Tree, path: str) -> Any:
    array = reader.tensor(tree, path)
    if array.ndim:
        raise ValueError(f"{path} must be one number, got an array of shape {array.shape}.")
    return array[()]


def _write_masked(writer: Writer, value: Any, path: str) -> Tree:
    mask = None if value.mask is np.ma.nomask else writer.value(np.asarray(value.mask), path)
    return {"masked": [writer.value(np.asarray(value.data), path), mask]}


def _read_masked(reader: Reader, tree: Tree, path: str) -> Any:
    data, mask = (reader.value(part, path) for part in listed(tree, path, 2))
    if isinstance(data, np.ndarray) and mask is None:
        return np.ma.array(data)
    both = isinstance(data, np.ndarray) and isinstance(mask, np.ndarray)
    if both and mask.dtype == bool and mask.shape == data.shape:
        return np.ma.array(data, mask=mask)
    raise ValueError(f"{path} must be an array and a mask of its shape, or none.")


def _write_random_state(writer: Writer, value: np.random.RandomState, path: str) -> Tree:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        return writer.refuse(path, f"{value!r}, a RandomState of {state['bit_generator']}")
    rest = (int(state["state"]["pos"]), int(state["has_gauss"]), float(state["gauss"]))
    key = writer.tensor(state["state"]["key"], of=value)
    return {"random_state": [key, *(writer.value(part, path) for part in rest)]}


def _read_random_state(reader: Reader, tree: Tree, path: str) -> np.random.RandomState:
    name, *rest = listed(tree, path, 4)
    key = reader.tensor(name, path)
    pos, has_gauss, gauss = reader.value(rest, path)
    if key.dtype != np.uint32 or key.shape != (624,) or not isinstance(gauss, float):
        raise ValueError(f"{path} is no state of a RandomState.")
    # NumPy itself takes any position, and reads from there.
    state = {
        "bit_generator": "MT19937",
        "state": {"key": key, "pos": integer(pos, path, 0, 624)},
        "has_gauss": integer(has_gauss, path, 0, 1),
        "gauss": gauss,
    }

    def make() -> np.random.RandomState:
        made = np.random.RandomState(0)
        made.set_state(state)
        return made

    return reader.once("random_state", name, make)


def _read_device(reader: Reader, tree: Tree, path: str) -> Any:
    import torch

    try:
        return torch.device(text(tree, path))
    except RuntimeError:
        raise ValueError(f"{path} must be a torch device, got {tree!r}.") from None


def _read_tensor(reader: Reader, tree: Tree, path: str) -> Any:
    import torch

    name, axes, device = listed(tree, path, 3)
    array, device = reader.tensor(name, path), _read_device(reader, device, path)
    reader.charge(2 * array.nbytes, path)  # each time: whoever is given it may copy it

    def make() -> Any:
        # Cloned to where torch has its own numbers: their alignment decides how sums round.
        own = torch.from_numpy(array).clone()
        return _back_in_place(own.to(available(device, reader.device, own.dtype)), axes, path)

    return reader.once("tensor", f"{name}{axes}{device}", make)


def available(wanted: Any, given: Any, dtype: Any) -> Any:
    """The device that is given, or one that is wanted, and then the CPU if it is not here."""
    import torch

    chosen = wanted if given is None else given
    if isinstance(chosen, str) and chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=chosen, dtype=dtype).cpu()  # "meta" holds no numbers
        return torch.device(chosen)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        if given is not None:
            raise ValueError(f"device={given!r} is not here: {error}") from None
    return torch.device("cpu")


WRITERS: dict[type, Callable[[Writer, Any, str], Tree]] = {
    **dict.fromkeys((NoneType, bool, str), lambda writer, value, path: value),
    **dict.fromkeys(MAPPINGS.values(), _write_mapping),
    **dict.fromkeys((set, frozenset), _write_set),
    int: _write_int,
    float: _write_float,
    list: _write_list,
    tuple: _write_tuple,
    deque: _write_deque,
    range: _write_range,
    np.ndarray: _write_array,
    np.ma.MaskedArray: _write_masked,
    np.random.RandomState: _write_random_state,
}

READERS: dict[str, Callable[[Any, Tree, str], Any]] = {
    **{name: _mapping_reader(kind) for name, kind in MAPPINGS.items()},
    "array": _read_array,
    "deque": _read_deque,
    "device": _read_device,
    "float": _read_float,
    "frozenset": lambda reader, tree, path: frozenset(_read_set(reader, tree, path)),
    "masked": _read_masked,
    "objects": _read_objects,
    "random_state": _read_random_state,
    "range": _read_range,
    "scalar": _read_scalar,
    "set": _read_set,
    "tensor": _read_tensor,
    "text": _read_text,
    "tuple": _read_tuple,
}


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


def _back_in_place(array: Any, axes: Any, path: str) -> Any:
    if axes is None:
        return array
    known = isinstance(axes, list) and all(type(axis) is int for axis in axes)
    if not (known and sorted(axes) == list(range(array.ndim))):
        raise ValueError(f"{path} must have its {array.ndim} axes in some order, got {axes!r}.")
    places = [axes.index(axis) for axis in range(array.ndim)]
    return array.permute(places) if hasattr(array, "permute") else array.transpose(places)
