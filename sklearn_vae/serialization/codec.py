"""Conversion of values to JSON trees, with arrays as tensors, and back.

None, booleans, integers, finite floats, text and lists are stored unchanged. Any other value is a
JSON object with one key: a tag of the table `FORMS`, for simpler values from which it can be
rebuilt. Nothing in a tree names code.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 50

# Maximum number of values in a tree, where a list counts each time that it occurs.
MAX_VALUES = 2**24

# Maximum length of a range, which the user of a file may convert to a list.
MAX_RANGE = 2**16

# Maximum number of characters of a key in a path, which every value under the key may need.
MAX_NAME = 50

# Python refuses to write or read integers of more digits.
MAX_BITS = 10_000

# Maximum bytes of arrays that are used to build values: per byte of the file, plus a constant.
USES_PER_BYTE, FREE_BYTES = 16, 2**24

# Number of keys that may share a hash: each is compared with all others. Some tuples share one.
MAX_SAME_HASHES = 32

# Tags whose equal contents refer to the same object.
SHARED = {"array", "tensor", "text", "RandomState"}

# Errors that invalid values raise.
INVALID = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
)  # fmt: skip


class NotStorableError(ValueError):
    """Error for a value that cannot be stored; the message describes the value."""


class Writer:
    """Converter of values to trees, with the tensors and the values that cannot be stored."""

    def __init__(self) -> None:
        self.tensors: dict[str, NDArray[Any]] = {}
        self.refused: list[str] = []  # "path is value"
        self._path: list[str] = []
        # Trees and their numbers of values by the id of their value, which is kept so that its id
        # is not reused.
        self._seen: dict[int, tuple[Any, Any, int]] = {}
        self._n_values = 0

    def value(self, value: Any, at: str = "") -> Any:
        """Return the tree of a value; `at` is its position in the value that contains it."""
        kind = type(value)
        self._n_values += 1
        if value is None or kind in (bool, str) or (kind is float and math.isfinite(value)):
            return value
        if kind is int and value.bit_length() < MAX_BITS:
            return value
        self._path.append(at)
        before = self._n_values
        try:
            if len(self._path) > MAX_DEPTH:
                raise NotStorableError("nested too deeply")
            if id(value) not in self._seen:
                self._seen[id(value)] = value, ..., 0
                self._seen[id(value)] = value, self.container(value), self._n_values - before
            else:
                self._n_values += self._seen[id(value)][2]
            if (tree := self._seen[id(value)][1]) is ...:
                raise NotStorableError("a value that contains itself")
            if self._n_values > MAX_VALUES:
                raise NotStorableError("a list of lists that occur too often")
            return tree
        except NotStorableError as error:
            self._seen[id(value)] = value, None, 0  # it is reported only once
            self._n_values = before
            self.refuse(str(error))
        finally:
            self._path.pop()

    def container(self, value: Any) -> Any:
        """Return the tree of a value that is not a plain number or text."""
        if type(value) is list:
            return [self.value(part, f"[{i}]") for i, part in enumerate(value)]
        return self.tagged(value)

    def refuse(self, what: str, at: str = "") -> None:
        """Record that the value at the current path cannot be stored."""
        path = "".join([*self._path, at]).lstrip(".")
        self.refused.append(f"{path} is {what if len(what) <= 200 else f'{what[:200]}...'}")

    def tagged(self, value: Any) -> Any:
        """Return the tree of a value that needs a tag."""
        kind, torch = type(value), sys.modules.get("torch")
        if kind in MAPPINGS:
            at = [(k, v, f"[{repr(k)[:MAX_NAME]}]") for k, v in value.items()]
            return {kind.__name__: [[self.value(k, a), self.value(v, a)] for k, v, a in at]}
        if kind in TAGS:
            tag = TAGS[kind]
        elif isinstance(value, np.generic):
            tag = "scalar"
        elif torch is not None and isinstance(value, torch.Tensor | torch.device):
            tag = "tensor" if isinstance(value, torch.Tensor) else "device"
        else:
            raise NotStorableError("a large integer" if kind is int else repr(value))
        if tag == "array":
            value = np.asarray(value)
            tag = {"O": "objects", "U": "text"}.get(value.dtype.kind, tag)
        if tag == "array":
            return {"array": self._stored(value)}
        split, _ = FORMS[tag]
        return {tag: self.value(split(value))}

    def _stored(self, array: NDArray[Any]) -> list[Any]:
        """Store an array; return the name of its tensor, and the order of its axes in memory.

        The order is kept because it affects how matrix products round.
        """
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise NotStorableError(f"an array of dtype {array.dtype}")
        name, axes = f"t{len(self.tensors)}", None
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.c_contiguous:
            axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
            array = np.array(array.transpose(axes), order="C")
        self.tensors[name] = array
        return [name, None if axes == sorted(axes or []) else axes]


class Reader:
    """Converter of trees and tensors of a file of `n_bytes` bytes to values.

    Torch tensors are created on `device` or, if that is None, on the device from which they were
    saved if it is available and else on the CPU.
    """

    def __init__(self, tensors: dict[str, NDArray[Any]], n_bytes: int, device: Any = None) -> None:
        self.device = device
        self._tensors = tensors
        self._bytes_left = USES_PER_BYTE * n_bytes + FREE_BYTES
        self._shared: dict[str, Any] = {}
        self._path: list[Any] = []  # text, or the index or key of a part

    def read(self, tree: Any, name: str) -> Any:
        """Return the value of a whole tree, or raise ValueError if it is invalid."""
        try:
            return self.value(tree, name)
        except INVALID as error:
            path = (
                at if isinstance(at, str) else f"[{repr(at[0])[:MAX_NAME]}]" for at in self._path
            )
            raise ValueError(f"{''.join(path)}: {error}") from None

    def value(self, tree: Any, at: Any = "") -> Any:
        """Return the value of a tree; after an error, the path leads to the invalid value."""
        kind = type(tree)
        if tree is None or kind in (bool, int, str) or (kind is float and math.isfinite(tree)):
            return tree
        self._path.append(at)
        if len(self._path) > MAX_DEPTH + 2:
            raise ValueError("nested too deeply.")
        if kind is float:
            raise ValueError("a number is too large for a float.")
        if kind is list:
            self.charge(0)
            value: Any = [self.value(part, (i,)) for i, part in enumerate(tree)]
        else:
            if len(tree) != 1:
                raise ValueError(f"an object must have one tag, got {sorted(tree)}.")
            ((tag, content),) = tree.items()
            key = f"{tag} {content}" if tag in SHARED else ""
            value = self._shared[key] if key in self._shared else self.tagged(tag, content)
            if tag == "tensor":  # may be copied each time it is used
                self.charge(2 * value.nbytes)
            if key:
                self._shared[key] = value
        self._path.pop()
        return value

    def tagged(self, tag: str, content: Any) -> Any:
        """Return the value of the content of a tag."""
        if tag == "array":
            return self._array(content)
        if tag == "tensor":
            return self._tensor(self.value(content))
        if tag not in FORMS:
            raise ValueError(f"unknown tag {tag!r}.")
        _, make = FORMS[tag]
        if tag in MAPPING_TAGS:
            keys = [self.value(key) for key, _ in content]
            pairs = zip(keys, content, strict=True)
            return make([(key, self.value(pair[1], (key,))) for key, pair in pairs])
        parts = self.value(content)
        try:
            return make(parts)
        except INVALID as error:
            raise ValueError(f"invalid content of {tag!r}: {error}") from None

    def charge(self, n_bytes: int) -> None:
        """Raise ValueError if values take far more memory than the file has bytes."""
        self._bytes_left -= n_bytes + 100
        if self._bytes_left < 0:
            raise ValueError("would take far more memory than the file has bytes.")

    def _array(self, content: Any) -> NDArray[Any]:
        name, axes = content
        if not isinstance(name, str) or name not in self._tensors:
            raise ValueError(f"needs tensor {name!r}, which is not in the file.")
        array = self._tensors[name]
        if axes is None:
            return array
        if sorted(axes) != list(range(array.ndim)):
            raise ValueError(f"an array must have its {array.ndim} axes in some order, got {axes}.")
        return array.transpose([axes.index(axis) for axis in range(array.ndim)])

    def _tensor(self, parts: Any) -> Any:
        import torch

        array, device = parts
        # Cloned to torch's own memory, because its alignment affects how sums round.
        with torch.inference_mode(False):  # from_numpy depends on no other default
            tensor = torch.from_numpy(array).clone()
        try:
            moved = tensor.to(device if self.device is None else self.device)
            if moved.is_meta:
                raise RuntimeError("it holds no numbers")
            return moved
        except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
            if self.device is not None:
                raise ValueError(f"device={self.device!r} is not available: {error}") from None
        return tensor


def _split_tensor(value: Any) -> list[Any]:
    if value.requires_grad:
        raise NotStorableError("a torch tensor that requires a gradient")
    try:
        return [value.detach().cpu().numpy(), str(value.device)]
    except (TypeError, RuntimeError):
        raise NotStorableError(f"a torch tensor of {value.dtype}") from None


def _unique(kind: Any) -> Callable[[Any], Any]:
    """Return a function that creates a set or mapping of unique keys."""

    def make(items: Any) -> Any:
        keys = [key for key, _ in items] if kind in MAPPINGS else items
        if len(keys) > MAX_SAME_HASHES < max(Counter(map(hash, keys)).values()):
            raise ValueError("too many keys have the same hash.")
        if len(set(keys)) != len(keys):
            raise ValueError("a key occurs twice.")
        return kind(dict(items) if kind in MAPPINGS else items)

    return make


def _split_range(value: range) -> list[int]:
    if value[MAX_RANGE:]:
        raise NotStorableError(f"{value!r}, more than {MAX_RANGE} integers")
    return [value.start, value.stop, value.step]


def _range(parts: Any) -> range:
    _split_range(value := range(*parts))
    return value


def _split_text(array: NDArray[Any]) -> NDArray[Any]:
    codes = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", ndmin=1)
    return codes.view(np.uint32).reshape(*array.shape, array.dtype.itemsize // 4)


def _text(codes: Any) -> NDArray[Any]:
    if codes.dtype != np.uint32 or codes.ndim == 0 or codes.shape[-1] == 0:
        raise ValueError("it must be an array of code points.")
    if codes.size and codes.max() > sys.maxunicode:
        raise ValueError("a code point is not a character.")
    flat = np.ascontiguousarray(codes).reshape(-1)
    return flat.view(f"<U{codes.shape[-1]}").reshape(codes.shape[:-1])


def _objects(parts: Any) -> NDArray[Any]:
    shape, items = parts
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape)


def _scalar(array: Any) -> Any:
    if not isinstance(array, np.ndarray) or array.ndim:
        raise ValueError("it must be one number.")
    return array[()]


def _split_masked(value: Any) -> list[Any]:
    return [np.asarray(value.data), None if value.mask is np.ma.nomask else np.asarray(value.mask)]


def _masked(parts: Any) -> Any:
    data, mask = parts
    has_mask = isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == data.shape
    if not isinstance(data, np.ndarray) or not (mask is None or has_mask):
        raise ValueError("it must be an array, and None or a mask of its shape.")
    return np.ma.array(data, mask=mask if has_mask else np.ma.nomask)


def _split_random_state(value: np.random.RandomState) -> list[Any]:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise NotStorableError(f"{value!r}, a RandomState of {state['bit_generator']}")
    numbers = int(state["state"]["pos"]), int(state["has_gauss"]), float(state["gauss"])
    return [state["state"]["key"], *numbers]


def _random_state(parts: Any) -> np.random.RandomState:
    key, pos, has_gauss, gauss = parts
    is_key = isinstance(key, np.ndarray) and (key.dtype, key.shape) == (np.uint32, (624,))
    # NumPy accepts any position, and reads from there.
    if not (is_key and type(pos) is int and 0 <= pos <= 624 and type(gauss) is float):
        raise ValueError("it must have 624 numbers of MT19937 and a position among them.")
    generator = np.random.RandomState(0)
    generator.set_state(("MT19937", key, pos, int(has_gauss == 1), gauss))
    return generator


MAPPINGS: tuple[Any, ...] = (dict, OrderedDict, Counter)
MAPPING_TAGS = {kind.__name__ for kind in MAPPINGS}
FLOATS = {str(value): value for value in (math.nan, math.inf, -math.inf)}

# Functions that split a value into simpler values, and rebuild it from them.
FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    **{kind.__name__: (dict.items, _unique(kind)) for kind in MAPPINGS},
    "MaskedArray": (_split_masked, _masked),
    "RandomState": (_split_random_state, _random_state),
    "deque": (lambda value: [list(value), value.maxlen], lambda parts: deque(*parts)),
    "device": (str, lambda name: import_module("torch").device(name)),
    "float": (str, FLOATS.__getitem__),
    "frozenset": (lambda value: sorted(value, key=repr), _unique(frozenset)),
    "objects": (lambda value: [list(value.shape), value.ravel().tolist()], _objects),
    "range": (_split_range, _range),
    "scalar": (np.asarray, _scalar),
    "set": (lambda value: sorted(value, key=repr), _unique(set)),
    "tensor": (_split_tensor, list),
    "text": (_split_text, _text),
    "tuple": (list, tuple),
}

BUILTINS = (tuple, set, frozenset, deque, range, float)
TAGS: dict[type, str] = {
    **{kind: kind.__name__ for kind in (*BUILTINS, np.ma.MaskedArray, np.random.RandomState)},
    **dict.fromkeys((np.ndarray, np.memmap), "array"),
}
