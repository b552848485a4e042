"""A digest of values, functions and classes, the same in every process."""

from __future__ import annotations

import dis
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pickle import PickleError
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

# Bytes of an array that are copied at once.
BYTES_AT_ONCE = 2**24

# What of code tells what it does.
OF_CODE = (
    "co_code",
    "co_names",
    "co_consts",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_flags",
    "co_exceptiontable",
)

# Packages whose classes are told by the code of their methods: a version tells the rest.
LIBRARIES: frozenset[str] = sys.stdlib_module_names | {
    "numpy",
    "scipy",
    "sklearn",
    "sklearn_vae",
    "skorch",
    "torch",
}

# What a function may read from its module without that it changes while a fit runs.
CONSTANTS: Any = bool | int | float | complex | str | bytes | np.generic | type(None)

# Members of a class that are written in C.
IN_C: Any = (
    BuiltinFunctionType
    | ClassMethodDescriptorType
    | GetSetDescriptorType
    | MemberDescriptorType
    | MethodDescriptorType
    | WrapperDescriptorType
)

# Of the methods of each class of a library that was met: a base of many has hundreds.
_OF_METHODS: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def fingerprint(*values: Any) -> str:
    """64 hexadecimal digits that differ where values do.

    Arrays by dtype, shape and numbers. Functions by where they stand, their code, defaults,
    attributes, what they close over, and what they read from their module: numbers, text, tuples of
    these, functions and classes. Classes by where they stand and all that they and their bases
    define, so that one that was edited is another; those of `LIBRARIES` by the code of their
    methods. Other objects by their class and attributes. Of what tells nothing, as a lock does, the
    class alone.

    Not data whose name ends with an underscore, of objects, functions, classes and modules: what is
    learned. Nor what functions read from their module beside the above, or from another one.
    """
    digest = _Digest({})
    digest.add(values)
    return digest.hash.hexdigest()


class _Digest:
    """Of values, each by its own digest: what is shared is taken once, and as copies of it would be.

    Parameters
    ----------
    opened : dict
        By its id a place, and a value that contains what is added now, or is in a cycle with one.
    """

    def __init__(self, opened: dict[int, tuple[int, Any]]) -> None:
        self.hash = blake2b(digest_size=32)
        self.open = opened
        self.lowest = len(opened)  # place of what was met again
        # By id: the value, that it stays; its digest; the ids of what it is in a cycle with.
        self.known: dict[int, tuple[Any, bytes, set[int]]] = {}

    def add(self, value: Any) -> None:
        if self._add_simple(value):
            return
        if id(value) in self.open:
            place, _ = self.open[id(value)]
            self._mark("within", len(self.open) - place)
            self.lowest = min(self.lowest, place)
            return
        _, digest, cycle = self.known.get(id(value), (None, b"", set()))
        # One that was met in another order, within a cycle, has another digest.
        if not (digest and cycle.isdisjoint(self.open)):
            digest = self._digest(value)
        self.hash.update(digest)

    def _digest(self, value: Any) -> bytes:
        outer, lowest, place = self.hash, self.lowest, len(self.open)
        self.hash, self.lowest = blake2b(digest_size=32), place
        self.open[id(value)] = place, value
        self._add(value)
        digest = self.hash.digest()
        if self.lowest == place:  # nothing in it contains it, but for itself and what it contains
            cycle = set()
            while len(self.open) > place:
                cycle.add(self.open.popitem()[0])
            self.known[id(value)] = value, digest, cycle
        self.hash, self.lowest = outer, min(lowest, self.lowest)
        return digest

    def _mark(self, kind: str, *what: Any) -> None:
        text = "\0".join(map(str, (kind, *what))).encode()
        self.hash.update(struct.pack("<Q", len(text)) + text)

    def _add_simple(self, value: Any) -> bool:
        """Whether it was added: what contains nothing."""
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
        else:
            return False
        return True

    def _add(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            self._add_all("list", value)
        elif isinstance(value, Mapping):
            self._add_all("dict", [part for pair in value.items() for part in pair])
        elif isinstance(value, AbstractSet):
            self._add_set(value)
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

    def _add_set(self, values: AbstractSet[Any]) -> None:
        """Its members in the order of their digests, none of which depends on another."""
        parts = []
        for value in values:
            part = _Digest(dict(self.open))
            part.add(value)
            parts.append(part.hash.digest())
            self.lowest = min(self.lowest, part.lowest)
        self._mark("set", len(parts))
        for digest in sorted(parts):
            self.hash.update(digest)

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
            self._add_all("code", [getattr(value, name, None) for name in OF_CODE])
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, property):
            self._add_all("property", [value.fget, value.fset, value.fdel])
        elif isinstance(value, classmethod | staticmethod):
            self._add_all(type(value).__name__, [value.__func__])
        elif isinstance(value, MethodType):
            self._add_all("method", [value.__func__, value.__self__])
        elif isinstance(value, partial):
            self._add_all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, ModuleType):
            self._mark("named", value.__name__)
        elif isinstance(value, IN_C):
            self._mark("named", getattr(value, "__module__", ""), value.__qualname__)
        else:
            self._add_object(value)

    def _add_function(self, value: FunctionType) -> None:
        given = [value.__defaults__, value.__kwdefaults__, _closed_over(value)]
        read = {} if _is_of_library(value.__globals__.get("__name__")) else _read_globals(value)
        self._add_all("function", [_place(value), value.__code__, *given, _kept(value), read])

    def _add_class(self, cls: type) -> None:
        """Where it stands, and what it and its bases define."""
        self._mark("class", _place(cls))
        if _is_of_library(cls.__module__):
            if cls not in _OF_METHODS:
                _OF_METHODS[cls] = fingerprint(_methods(cls))
            self._mark("methods", _OF_METHODS[cls])
        else:
            self.add(_members(cls))
        self._add_all("bases", cls.__mro__[1:-1])

    def _add_object(self, value: Any) -> None:
        self.add(type(value))
        if hasattr(value, "__dict__"):
            self.add(_kept(value))
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


def _kept(value: Any) -> dict[str, Any]:
    """Attributes, sorted, less those that are learned."""
    kept = {str(k): v for k, v in vars(value).items() if not _is_learned(str(k))}
    return dict(sorted(kept.items()))


def _is_learned(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _is_of_library(module: Any) -> bool:
    return str(module).partition(".")[0] in LIBRARIES


def _read_globals(function: FunctionType) -> dict[str, Any]:
    """What a function reads from its module, of what stays as it is."""
    given = function.__globals__
    found = {name: given[name] for name in sorted(set(_names(function.__code__)) & given.keys())}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, FunctionType | type | partial)
        or (_is_constant(value) and not _is_learned(name))
    }


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, CONSTANTS)


def _names(code: CodeType) -> Iterator[str]:
    """Those of globals that code reads, and the functions that are made in it."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _members(cls: type) -> dict[str, Any]:
    """What a class defines, less what the interpreter writes there, and data that is learned."""
    members = {}
    for name, member in sorted(vars(cls).items()):
        is_code = hasattr(type(member), "__get__")
        is_own = name.startswith("__") and name.endswith("__")
        if not name.startswith("_abc_") and (is_code or not (is_own or _is_learned(name))):
            members[name] = member
    return members


def _methods(cls: type) -> dict[str, CodeType]:
    """Code of the functions that a class defines, properties and class methods among them."""
    members = {
        name: getattr(member, "__func__", getattr(member, "fget", member))
        for name, member in vars(cls).items()
    }
    return {name: f.__code__ for name, f in members.items() if isinstance(f, FunctionType)}


def _place(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
