"""Digests of parameters, code and data that are equal in every process and after an upgrade."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from pickle import PickleError
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from scipy import sparse

# Bytes of an array that are copied at once.
BLOCK_BYTES = 2**24

LIBRARY = __name__.partition(".")[0]
PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


def digest(*values: Any) -> str:
    """Return 64 hexadecimal digits that differ where values differ.

    Arrays count by dtype, shape and numbers, not by memory layout. Functions and classes count by
    qualified name and source (bytecode if there is no source), functions also by defaults,
    attributes and closure. Code of installed packages and of this library counts by name only.
    Other objects count by class and attributes, except those ending with an underscore, which are
    learned.
    """
    return _Digester().value(values).hex()


class _Digester:
    """Computation of digests; a value inside itself is represented by its depth."""

    def __init__(self) -> None:
        self.path: list[int] = []  # ids of the values that contain the current one
        self.n_cycles = 0  # number of values met inside themselves
        # Digests by the id of their value, which is kept so that its id is not reused.
        self.known: dict[int, tuple[Any, bytes]] = {}

    def value(self, value: Any) -> bytes:
        """Return the digest of a value."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return _hash(type(value).__name__, repr(value))
        key = id(value)
        if key in self.path:
            self.n_cycles += 1
            return _hash("within", str(len(self.path) - self.path.index(key)))
        if key in self.known:
            return self.known[key][1]
        n_cycles = self.n_cycles
        self.path.append(key)
        result = self._compound(value)
        self.path.pop()
        if self.n_cycles == n_cycles:  # otherwise it depends on where the cycle was entered
            self.known[key] = value, result
        return result

    def parts(self, kind: str, parts: Iterable[Any], *marks: Any) -> bytes:
        """Return the digest of a kind of value from its parts and texts that mark it."""
        return _hash(kind, *map(str, marks), "", *map(self.value, parts))

    def _compound(self, value: Any) -> bytes:
        if isinstance(value, list | tuple):
            return self.parts("list", value)
        if isinstance(value, Mapping):
            return self.parts("mapping", value.items())
        if isinstance(value, AbstractSet):
            return _hash("set", *sorted(map(self.value, value)))
        if sparse.issparse(value):
            entries = value.tocsr().copy()
            entries.sum_duplicates()
            return self.parts(
                "sparse", [entries.indptr, entries.indices, entries.data, value.shape]
            )
        if isinstance(value, type):
            return self._class(value)
        if hasattr(value, "__array__"):
            return self._array(value)
        if isinstance(value, ModuleType):
            return _hash("module", value.__name__)
        if isinstance(value, FunctionType):
            closure = [_contents(cell) for cell in value.__closure__ or ()]
            given = [value.__defaults__, value.__kwdefaults__, vars(value), closure]
            code = _source(value) or value.__code__ if _is_own(value) else None
            return self.parts("function", [*given, code], _name(value))
        if isinstance(value, CodeType):
            names = value.co_names, value.co_varnames, value.co_flags
            return self.parts("code", [*value.co_consts, names, value.co_code])
        if callable(value) and hasattr(value, "__qualname__"):  # a method or a function in C
            inner = [getattr(value, n, None) for n in ("__wrapped__", "__func__", "__self__")]
            return self.parts("named", inner, _name(value))
        if hasattr(value, "__dict__") and not isinstance(value, partial):
            kept = {str(k): v for k, v in vars(value).items() if not _is_learned(str(k))}
            return self.parts("object", [type(value), dict(sorted(kept.items()))])
        reduced = None  # for example for locks, which all count as equal
        with suppress(AttributeError, PickleError, RuntimeError, TypeError, ValueError):
            reduced = value.__reduce_ex__(4)
        return self.parts("object", [type(value), reduced])

    def _array(self, value: Any) -> bytes:
        if hasattr(value, "detach"):  # a tensor, perhaps on a device
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except TypeError:  # a dtype that NumPy lacks
            array = np.array(value.tolist(), dtype=object)
        if array.dtype.hasobject:
            return self.parts("objects", array.ravel().tolist(), array.shape)
        numbers = blake2b(digest_size=32)
        for rows in np.array_split(np.atleast_1d(array), array.nbytes // BLOCK_BYTES + 1):
            numbers.update(rows.tobytes())
        return _hash("array", array.dtype.str, str(array.shape), numbers.digest())

    def _class(self, value: type) -> bytes:
        bases = [base for base in value.__mro__[1:-1] if _is_own(base)]
        if not _is_own(value):
            return self.parts("class", bases, _name(value))
        members = _source(value) or {
            name: getattr(member, "__func__", getattr(member, "fget", member))
            for name, member in sorted(vars(value).items())
            if not _is_learned(name) and name not in ("__dict__", "__weakref__")
        }
        return self.parts("class", [*bases, members], _name(value))


def _hash(*parts: str | bytes) -> bytes:
    """Return the digest of texts and bytes, each preceded by its length to keep them apart."""
    whole = blake2b(digest_size=32)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.digest()


def _is_learned(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _name(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{code.__qualname__}"


def _is_own(code: Any) -> bool:
    """Return whether a function or class is the user's, not a package's or this library's."""
    name = str(code.__module__)
    if name.partition(".")[0] in {LIBRARY, *sys.stdlib_module_names}:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not PACKAGE_FOLDERS & set(Path(file).parts)


def _source(value: Any) -> Any:
    """Return the source of a function or class, or None if it is not available."""
    code: Any = getattr(value, "__code__", value)  # getsource of a function follows __wrapped__
    with suppress(OSError, TypeError, ValueError):
        if value.__name__ != "<lambda>":
            return inspect.getsource(code)
        # The argument names and the body only, because a line may contain several lambdas.
        lines = [line.encode() for line in inspect.findsource(code)[0]]
        spans = [at for at in code.co_positions() if None not in at and at[2:] != (0, 0)]
        first, start = min((line, column) for line, _, column, _ in spans)
        last, end = max((line, column) for _, line, _, column in spans)
        body = b"".join([*lines[first - 1 : last - 1], lines[last - 1][:end]])[start:]
        return code.co_varnames, code.co_argcount, code.co_kwonlyargcount, body
    return None


def _contents(cell: Any) -> Any:
    """Return the contents of a closure's cell, or None if its name has no value yet."""
    with suppress(ValueError):
        return cell.cell_contents
    return None
