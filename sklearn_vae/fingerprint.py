"""A digest of values, functions and classes, the same in every process."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pickle import PickleError
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

# Bytes of an array that are copied at once.
BYTES_AT_ONCE = 2**24

# Of the methods of each class that was met: a base of many has hundreds.
_OF_METHODS: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def fingerprint(*values: Any) -> str:
    """64 hexadecimal digits that differ where values do.

    Arrays by dtype, shape and numbers. Functions by where they stand, by their code, defaults and
    what they close over; classes by where they stand and by the code of their methods, so that one
    that was edited is another. Other objects by their class and attributes, less those that end
    with an underscore: what is learned. Of what tells nothing, as a lock does, the class alone. Not
    what functions read from their module.
    """
    digest = _Digest()
    digest.add(values)
    return digest.hash.hexdigest()


class _Digest:
    def __init__(self) -> None:
        self.hash = blake2b(digest_size=32)
        self.open: list[int] = []  # what contains what is added now

    def add(self, value: Any) -> None:
        if id(value) in self.open:
            self._mark("within", len(self.open) - self.open.index(id(value)))
            return
        self.open.append(id(value))
        self._add(value)
        self.open.pop()

    def _mark(self, kind: str, *what: Any) -> None:
        text = "\0".join(map(str, (kind, *what))).encode()
        self.hash.update(struct.pack("<Q", len(text)) + text)

    def _add(self, value: Any) -> None:
        if value is None or isinstance(value, bool | np.bool_):
            self._mark("constant", value)
        elif isinstance(value, str):
            self._mark("str", value)
        elif isinstance(value, bytes):
            self._mark("bytes", len(value))
            self.hash.update(value)
        elif isinstance(value, int | np.integer):
            self._mark("int", int(value))
        elif isinstance(value, float | np.floating):
            self._mark("float", float(value).hex())
        elif isinstance(value, list | tuple):
            self._add_all("list", value)
        elif isinstance(value, Mapping):
            self._add_all("dict", [part for pair in value.items() for part in pair])
        elif isinstance(value, AbstractSet):
            self._add_all("set", sorted(map(fingerprint, value)))
        elif sparse.issparse(value):
            self._add_sparse(value)
        elif hasattr(value, "__array__") and not isinstance(value, type):
            self._add_array(value)
        else:
            self._add_code_or_object(value)

    def _add_all(self, kind: str, values: Iterable[Any]) -> None:
        values = list(values)
        self._mark(kind, len(values))
        for value in values:
            self.add(value)

    def _add_array(self, value: Any) -> None:
        if hasattr(value, "detach"):  # a tensor, perhaps on a device
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except TypeError:  # of a dtype that NumPy lacks
            array = np.array(value.tolist(), dtype=object)
        self._mark("array", array.dtype.str, array.shape)
        if array.dtype.hasobject:
            self._add_all("entries", array.ravel().tolist())
            return
        rows = array.reshape(1) if array.ndim == 0 else array
        step = max(1, BYTES_AT_ONCE * len(rows) // max(1, array.nbytes))
        for start in range(0, len(rows), step):
            self.hash.update(rows[start : start + step].tobytes())

    def _add_sparse(self, value: Any) -> None:
        value = value if value.format in ("csr", "csc", "coo") else value.tocsr()
        names = ("row", "col") if value.format == "coo" else ("indptr", "indices")
        parts = [getattr(value, name) for name in (*names, "data")]
        self._add_all("sparse", [value.format, value.shape, *parts])

    def _add_code_or_object(self, value: Any) -> None:
        if isinstance(value, CodeType):
            self._add_all("code", [value.co_code, value.co_names, value.co_consts])
        elif isinstance(value, FunctionType):
            given = [value.__defaults__, value.__kwdefaults__, _closed_over(value)]
            self._add_all("function", [_place(value), value.__code__, *given])
        elif isinstance(value, MethodType):
            self._add_all("method", [value.__func__, value.__self__])
        elif isinstance(value, partial):
            self._add_all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, ModuleType | BuiltinFunctionType):
            self._mark("named", getattr(value, "__module__", ""), value.__name__)
        else:
            self._add_object(value)

    def _add_class(self, cls: type) -> None:
        """Where it stands, and the code of its methods and of those that it inherits."""
        for base in cls.__mro__[:-1]:
            if base not in _OF_METHODS:
                _OF_METHODS[base] = fingerprint(_methods(base))
            self._mark("class", _place(base), _OF_METHODS[base])

    def _add_object(self, value: Any) -> None:
        self.add(type(value))
        if hasattr(value, "__dict__"):
            kept = {k: v for k, v in vars(value).items() if k.startswith("_") or k[-1] != "_"}
            self.add(dict(sorted(kept.items())))
            return
        try:
            reduced = value.__reduce_ex__(4)
        except (AttributeError, PickleError, RuntimeError, TypeError, ValueError):
            return
        self.add(reduced)


def _closed_over(function: FunctionType) -> list[Any]:
    """What the cells of a function hold; nothing where the name has no value yet."""
    found = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            found.append(cell.cell_contents)
    return found


def _methods(cls: type) -> dict[str, CodeType]:
    """Code of the functions that a class defines, properties and class methods among them."""
    members = {
        name: getattr(member, "__func__", getattr(member, "fget", member))
        for name, member in vars(cls).items()
    }
    return {name: f.__code__ for name, f in members.items() if isinstance(f, FunctionType)}


def _place(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
