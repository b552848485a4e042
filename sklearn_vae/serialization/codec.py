"""Values as a tree of JSON, with the numbers of arrays as tensors next to it, and back.

None, booleans, integers, finite floats, text and lists are themselves; any other value is an object
with one key, a tag, which says how to read what is under it. Nothing in a tree names code: there is
one function that reads each tag.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
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
        # Trees, and names of tensors, by id: with the object, so that its id is not given to another.
        self._seen: dict[int, tuple[Any, Any]] = {}
        self._depth = 0

    def value(self, value: Any, path: str) -> Tree:
        """Tree of a value at a path like "best_params_['n_components']"."""
        if value is None or type(value) in (bool, str):
            return value
        if self._depth >= MAX_DEPTH:
            return self.refuse(path, "nested too deeply")
        self._depth += 1
        try:
            if type(value) is list:
                return [self.value(part, f"{path}[{i}]") for i, part in enumerate(value)]
            if type(value) in MAPPINGS:
                at = [(k, v, f"{path}[{shortened(repr(k))}]") for k, v in value.items()]
                items = [[self.value(k, where), self.value(v, where)] for k, v, where in at]
                return {type(value).__name__: items}
            return self._other(value, path)
        except NotStorableError as error:
            return self.refuse(path, str(error))
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

    def _other(self, value: Any, path: str) -> Tree:
        kind, torch = type(value), sys.modules.get("torch")
        if kind is int:
            if value.bit_length() < MAX_BITS:
                return value
            raise NotStorableError("an integer of many digits")
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if kind in PARTS:
            if id(value) not in self._seen:
                tree = {kind.__name__: self.value(PARTS[kind](value), path)}
                self._seen[id(value)] = value, tree
            return self._seen[id(value)][1]
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), value, path)}
        if kind in (np.ndarray, np.memmap):
            return self._array(np.asarray(value), value, path)
        if torch is not None and kind is torch.device:
            return {"device": str(value)}
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value)
        return self.object(value, path)

    def _array(self, array: NDArray[Any], of: Any, path: str) -> Tree:
        """Tree of an array: a tensor; text as the code points it has, objects as a list."""
        if array.dtype.kind == "O":
            return {"objects": self.value([list(array.shape), array.ravel().tolist()], path)}
        if array.dtype.kind == "U":
            codes = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", ndmin=1)
            codes = codes.view(np.uint32).reshape(*array.shape, array.dtype.itemsize // 4)
            return {"text": self._array(codes, of, path)}
        return {"array": [*self._stored(array, of)]}

    def _tensor(self, value: Any) -> Tree:
        if value.requires_grad:
            raise NotStorableError("a torch tensor that requires a gradient")
        try:
            array = value.detach().cpu().numpy()
        except (TypeError, RuntimeError):
            raise NotStorableError(f"a torch tensor of {value.dtype}") from None
        return {"tensor": [*self._stored(array, value), str(value.device)]}

    def _stored(self, array: NDArray[Any], of: Any) -> tuple[Any, list[int] | None]:
        """Name of the tensor of an array, the same each time for one object `of`, and its axes."""
        if array.dtype.kind not in STORED_KINDS or array.dtype.itemsize > 8:
            raise NotStorableError(f"a {type(of).__name__} of dtype {array.dtype}")
        ordered, axes = _in_order(array)
        if id(of) not in self._seen:
            name = f"t{len(self.tensors)}"
            self.tensors[name] = ordered
            self._seen[id(of)] = of, name
        return self._seen[id(of)][1], axes


# Errors of values that do not fit.
ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class NotStorableError(Exception):
    """A value that no tree has; the text says what it is."""


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
        self._made: dict[str, Any] = {}
        self._depth = 0

    def value(self, tree: Tree, path: str) -> Any:
        """Value of a tree at a path."""
        if tree is None or type(tree) in (bool, int, str):
            return tree
        if self._depth >= MAX_DEPTH + 2:  # what is under a tag has a level of its own
            raise ValueError(f"{path} is nested too deeply.")
        self._depth += 1
        try:
            if isinstance(tree, list):
                self.charge(0, path)
                return [self.value(part, f"{path}[{i}]") for i, part in enumerate(tree)]
            if isinstance(tree, float):
                if math.isfinite(tree):
                    return tree
                raise ValueError(f"{path} is a number beyond every float.")
            if len(tree) != 1:
                raise ValueError(f"{path} must have one tag, got {sorted(tree)}.")
            ((tag, content),) = tree.items()
            return self.tagged(tag, content, path)
        finally:
            self._depth -= 1

    def tagged(self, tag: str, content: Tree, path: str) -> Any:
        """Value of what is under a tag."""
        if tag in ("array", "tensor"):
            return self._array(tag, content, path)
        if tag not in MAKERS:
            raise ValueError(f"{path} has the tag {tag!r}, which stands for nothing.")
        if tag in MAPPING_TAGS:
            items = [listed(pair, path, 2) for pair in listed(content, path)]
            keys = [self.value(key, path) for key, _ in items]
            at = [f"{path}[{shortened(repr(key))}]" for key in keys]
            values = [self.value(items[i][1], where) for i, where in enumerate(at)]
            parts: Any = list(zip(keys, values, strict=True))
        else:
            parts = self.value(content, path)
        try:
            if tag not in ("RandomState", "text"):
                return MAKERS[tag](parts)
            return self._once(f"{tag} {content}", lambda: MAKERS[tag](parts))
        except ODD as error:
            raise ValueError(f"{path} is no valid {tag}: {error}") from None

    def charge(self, n_bytes: float, path: str) -> None:
        """Raise ValueError where a file makes far more of what it has than models do."""
        self._left -= int(n_bytes) + 100
        if self._left < 0:
            raise ValueError(f"{path} would take far more memory than the file has bytes.")

    def _array(self, tag: str, content: Tree, path: str) -> Any:
        """Array or torch tensor, one and the same object for the same content."""
        name, axes, *rest = listed(content, path, 3 if tag == "tensor" else 2)
        if not isinstance(name, str) or name not in self._tensors:
            raise ValueError(f"{path} asks for tensor {name!r}, which is not in the file.")
        array = self._tensors[name]
        if tag == "array":
            return self._once(f"array {name} {axes}", lambda: _back_in_place(array, axes, path))
        import torch

        self.charge(2 * array.nbytes, path)  # each time: whoever is given it may copy it
        device = self.tagged("device", rest[0], path)

        def make() -> Any:
            # Cloned to where torch has its own numbers: their alignment decides how sums round.
            own = torch.from_numpy(array).clone()
            there = self._once(
                f"place {device} {own.dtype}", lambda: available(device, self.device, own.dtype)
            )
            return _back_in_place(own.to(there), axes, path)

        return self._once(f"tensor {name} {axes} {device}", make)

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def listed(tree: Tree, path: str, length: int | None = None) -> list[Any]:
    """A list, of some length."""
    if isinstance(tree, list) and length in (None, len(tree)):
        return tree
    raise ValueError(f"{path} must be a list{'' if length is None else f' of {length}'}.")


def shortened(name: str) -> str:
    """The beginning of a long name."""
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."


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


def _of_unique(kind: Any) -> Callable[[Any], Any]:
    def make(items: Any) -> Any:
        is_mapping = kind in MAPPINGS
        keys = [key for key, _ in items] if is_mapping else listed(items, "it")
        if max(Counter(map(hash, keys)).values(), default=0) > SAME_HASHES:
            raise ValueError("too many keys of the same hash.")
        if len(set(keys)) != len(keys):
            raise ValueError("a key that comes twice.")
        return kind(dict(items)) if is_mapping else kind(items)

    return make


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is int and low <= value <= high:
        return value
    raise ValueError(f"it must have an integer between {low} and {high}, got {value!r}.")


def _deque(parts: Any) -> deque[Any]:
    length, items = listed(parts, "it", 2)
    return deque(listed(items, "it"), None if length is None else _integer(length, 0, MAX_BOUND))


def _float(parts: Any) -> float:
    if parts in ("nan", "inf", "-inf"):
        return float(parts)
    raise ValueError(f"it must be nan, inf or -inf, got {parts!r}.")


def _parts_of_range(value: range) -> list[int]:
    bounds = [value.start, value.stop, value.step]
    if value[MAX_RANGE:] or max(map(abs, bounds)) > MAX_BOUND:
        raise NotStorableError(f"{value!r}, more than {MAX_RANGE} integers or beyond 2**62")
    return bounds


def _range(parts: Any) -> range:
    integers = range(*(_integer(part, -MAX_BOUND, MAX_BOUND) for part in listed(parts, "it", 3)))
    if integers[MAX_RANGE:]:
        raise ValueError(f"a range of more than {MAX_RANGE} integers.")
    return integers


def _text(codes: Any) -> NDArray[Any]:
    if codes.dtype != np.uint32 or codes.ndim == 0 or codes.shape[-1] == 0:
        raise ValueError("no array of text.")
    if codes.size and codes.max() > MAX_CODE_POINT:
        raise ValueError("characters that do not exist.")
    flat = np.ascontiguousarray(codes).reshape(-1)
    return flat.view(f"<U{codes.shape[-1]}").reshape(codes.shape[:-1])


def _objects(parts: Any) -> NDArray[Any]:
    shape, items = listed(parts, "it", 2)
    sizes = [_integer(size, 0, 2**40) for size in listed(shape, "its shape")]
    if len(sizes) > 32 or math.prod(sizes) != len(listed(items, "it")):
        raise ValueError(f"{len(items)} objects for the shape {sizes}.")
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(sizes)


def _scalar(array: Any) -> Any:
    if not isinstance(array, np.ndarray) or array.ndim:
        raise ValueError("it must be one number.")
    return array[()]


def _masked(parts: Any) -> Any:
    data, mask = listed(parts, "it", 2)
    if isinstance(data, np.ndarray) and mask is None:
        return np.ma.array(data)
    both = isinstance(data, np.ndarray) and isinstance(mask, np.ndarray)
    if both and mask.dtype == bool and mask.shape == data.shape:
        return np.ma.array(data, mask=mask)
    raise ValueError("it must be an array and a mask of its shape, or none.")


def _parts_of_masked(value: Any) -> list[Any]:
    mask = None if value.mask is np.ma.nomask else np.asarray(value.mask)
    return [np.asarray(value.data), mask]


def _parts_of_random_state(value: np.random.RandomState) -> list[Any]:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise NotStorableError(f"{value!r}, a RandomState of {state['bit_generator']}")
    numbers = int(state["state"]["pos"]), int(state["has_gauss"]), float(state["gauss"])
    return [state["state"]["key"], *numbers]


def _random_state(parts: Any) -> np.random.RandomState:
    key, pos, has_gauss, gauss = listed(parts, "it", 4)
    if key.dtype != np.uint32 or key.shape != (624,) or not isinstance(gauss, float):
        raise ValueError("no state of a RandomState.")
    # NumPy itself takes any position, and reads from there.
    pos, has_gauss = _integer(pos, 0, 624), _integer(has_gauss, 0, 1)
    made = np.random.RandomState(0)
    made.set_state(("MT19937", key, pos, has_gauss, gauss))
    return made


def _device(parts: Any) -> Any:
    import torch

    if isinstance(parts, str):
        return torch.device(parts)
    raise ValueError(f"it must be a torch device, got {parts!r}.")


MAPPINGS: tuple[Any, ...] = (dict, OrderedDict, Counter)
MAPPING_TAGS = {kind.__name__ for kind in MAPPINGS}

# Plainer values that stand for values of a type; the tag is the name of the type.
PARTS: dict[type, Callable[[Any], Any]] = {
    tuple: list,
    **dict.fromkeys((set, frozenset), lambda value: sorted(value, key=repr)),
    deque: lambda value: [value.maxlen, list(value)],
    range: _parts_of_range,
    np.ma.MaskedArray: _parts_of_masked,
    np.random.RandomState: _parts_of_random_state,
}

# Functions that make the value of a tag from what is under it.
MAKERS: dict[str, Callable[[Any], Any]] = {
    **{kind.__name__: _of_unique(kind) for kind in (*MAPPINGS, set, frozenset)},
    "MaskedArray": _masked,
    "RandomState": _random_state,
    "deque": _deque,
    "device": _device,
    "float": _float,
    "objects": _objects,
    "range": _range,
    "scalar": _scalar,
    "text": _text,
    "tuple": lambda parts: tuple(listed(parts, "it")),
}


def _in_order(array: NDArray[Any]) -> tuple[NDArray[Any], list[int] | None]:
    """Contiguous numbers, and the axes that they have in the order of memory, unless as named.

    The order is kept because products of matrices round otherwise in another one.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
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
