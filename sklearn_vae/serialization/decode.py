"""Values of a tree that :mod:`sklearn_vae.serialization.encode` has made, or someone else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_vae.serialization.encode import MAX_BOUND, MAX_DEPTH, MAX_RANGE, Tree, shortened

# What objects may be built from, in bytes of their arrays: each of a file's tensors is to be used
# about once, not a million times.
USES_OF_FILE = 16
FREE_BYTES = 2**24

MAX_CODE_POINT = 0x10FFFF

# Keys that may have one hash: each is compared with all before it. Of -1 and -2 it is the same, so
# that it is of some tuples.
SAME_HASHES = 32


class Reader:
    """Makes values of a tree and tensors; ValueError where something is not what it has to be.

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
        """The value of a tree, which stands at a path."""
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
        """What reads each tag."""
        return READERS

    def tensor(self, name: Any, path: str) -> NDArray[Any]:
        """The tensor of a name."""
        if not isinstance(name, str) or name not in self._tensors:
            raise ValueError(f"{path} asks for tensor {name!r}, which is not in the file.")
        return self._tensors[name]

    def once(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, one and the same object for each name."""
        if (kind, name) not in self._made:
            self._made[kind, name] = make()
        return self._made[kind, name]

    def charge(self, n_bytes: float, path: str) -> None:
        """Raise ValueError where a file makes more out of what it has than models do."""
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


def _read_float(reader: Reader, tree: Tree, path: str) -> float:
    if tree in ("nan", "inf", "-inf"):
        return float(tree)
    raise ValueError(f"{path} must be nan, inf or -inf, got {tree!r}.")


def _read_dict(reader: Reader, tree: Tree, path: str) -> dict[Any, Any]:
    items = [
        (reader.value(key, path), reader.value(value, f"{path}[{shortened(repr(key))}]"))
        for key, value in pairs(tree, path)
    ]
    _check_keys([key for key, _ in items], path)
    return dict(items)


def _read_set(reader: Reader, tree: Tree, path: str) -> set[Any]:
    items = reader.value(listed(tree, path), path)
    _check_keys(items, path)
    return set(items)


def _check_keys(keys: list[Any], path: str) -> None:
    try:
        if max(Counter(map(hash, keys)).values(), default=0) > SAME_HASHES:
            raise ValueError(f"{path} has too many keys of the same hash.")
        n_different = len(set(keys))
    except TypeError as error:
        raise ValueError(f"{path} has a key that is none: {error}.") from None
    if n_different != len(keys):
        raise ValueError(f"{path} has a key that comes twice.")


def _read_range(reader: Reader, tree: Tree, path: str) -> range:
    start, stop, step = (integer(v, path, -MAX_BOUND, MAX_BOUND) for v in listed(tree, path, 3))
    if step == 0:
        raise ValueError(f"{path} is a range of step 0.")
    found = range(start, stop, step)
    if found[MAX_RANGE:]:
        raise ValueError(f"{path} is a range of more than {MAX_RANGE} integers.")
    return found


def _read_masked(reader: Reader, tree: Tree, path: str) -> Any:
    data, mask = (reader.value(part, path) for part in listed(tree, path, 2))
    if isinstance(data, np.ndarray) and mask is None:
        return np.ma.array(data)
    both = isinstance(data, np.ndarray) and isinstance(mask, np.ndarray)
    if both and mask.dtype == bool and mask.shape == data.shape:
        return np.ma.array(data, mask=mask)
    raise ValueError(f"{path} must be an array and a mask of its shape, or none.")


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

    def make() -> Any:
        reader.charge(2 * array.nbytes, path)
        own = torch.from_numpy(array).clone()
        return _back_in_place(own.to(place(device, reader.device, own.dtype)), axes, path)

    return reader.once("tensor", f"{name}{axes}{device}", make)


def place(wanted: Any, given: Any, dtype: Any) -> Any:
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


READERS: dict[str, Callable[[Any, Tree, str], Any]] = {
    "array": _read_array,
    "device": _read_device,
    "dict": _read_dict,
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
    "tuple": lambda reader, tree, path: tuple(reader.value(listed(tree, path), path)),
}


def _back_in_place(array: Any, axes: Any, path: str) -> Any:
    if axes is None:
        return array
    known = isinstance(axes, list) and all(type(axis) is int for axis in axes)
    if not (known and sorted(axes) == list(range(array.ndim))):
        raise ValueError(f"{path} must have its {array.ndim} axes in some order, got {axes!r}.")
    places = [axes.index(axis) for axis in range(array.ndim)]
    return array.permute(places) if hasattr(array, "permute") else array.transpose(places)
