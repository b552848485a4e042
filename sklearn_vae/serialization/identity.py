"""Digests of parameters, code and data that are equal in every process and after an upgrade."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from math import inf
from pathlib import Path
from pickle import PickleError
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from scipy import sparse

# Bytes of an array that are copied at once.
BLOCK_BYTES = 2**24

LIBRARY = __name__.partition(".")[0]
STANDARD_LIBRARY = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
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
        self.depths: dict[int, int] = {}  # of the values that contain the current one, by id
        # Digests by id; the value is kept, because its id could be reused otherwise. Values on a
        # cycle are missing, because their digest depends on where the cycle was entered.
        self.known: dict[int, tuple[Any, bytes]] = {}
        self.outermost: float = inf  # least depth of a value that was met inside itself

    def value(self, value: Any) -> bytes:
        """Return the digest of a value."""
        if value is None or isinstance(value, bool | np.bool_):
            return _hash("constant", str(value))
        if isinstance(value, str | bytes):
            return _hash("str" if isinstance(value, str) else "bytes", value)
        if isinstance(value, int | np.integer):
            return _hash("int", f"{int(value):x}")
        if isinstance(value, float | np.floating):
            return _hash("float", float(value).hex())
        key, depth = id(value), len(self.depths)
        if key in self.depths:
            self.outermost = min(self.outermost, self.depths[key])
            return _hash("within", str(depth - self.depths[key]))
        if key not in self.known:
            before, self.outermost, self.depths[key] = self.outermost, inf, depth
            result = self._compound(value)
            del self.depths[key]
            is_on_cycle, self.outermost = (
                self.outermost < inf,
                min(before, self.outermost if self.outermost < depth else inf),
            )
            if is_on_cycle:
                return result
            self.known[key] = value, result
        return self.known[key][1]

    def parts(self, kind: str, parts: Iterable[Any], *marks: Any) -> bytes:
        """Return the digest of a kind of value from its parts and texts that mark it."""
        return _hash(kind, *map(str, marks), "", *map(self.value, parts))

    def _compound(self, value: Any) -> bytes:
        if isinstance(value, list | tuple):
            return self.parts("list", value)
        if isinstance(value, Mapping):
            return self.parts("mapping", [part for pair in value.items() for part in pair])
        if isinstance(value, AbstractSet):
            return _hash("set", *sorted(map(self.value, value)))
        if sparse.issparse(value):
            entries = value.tocsr().copy()
            entries.sum_duplicates()
            return self.parts(
                "sparse", [entries.indptr, entries.indices, entries.data], value.shape
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
        if isinstance(value, MethodType):
            return self.parts("method", [value.__func__, value.__self__])
        if isinstance(value, partial):
            return self.parts("partial", [value.func, value.args, value.keywords])
        if isinstance(value, CodeType):
            names = value.co_names, value.co_varnames, value.co_flags
            return self.parts("code", [*value.co_consts, names, value.co_code])
        if callable(value) and hasattr(value, "__qualname__"):  # a function written in C
            return self.parts("named", [getattr(value, "__wrapped__", None)], _name(value))
        if hasattr(value, "__dict__"):
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
        rows = array.reshape(1) if array.ndim == 0 else array
        step = max(1, BLOCK_BYTES * len(rows) // max(1, array.nbytes))
        for start in range(0, len(rows), step):
            numbers.update(rows[start : start + step].tobytes())
        return _hash("array", array.dtype.str, str(array.shape), numbers.digest())

    def _class(self, value: type) -> bytes:
        bases = [base for base in value.__mro__[1:-1] if _is_own(base)]
        if not _is_own(value):
            return self.parts("class", bases, _name(value))
        members = _source(value) or {
            name: getattr(member, "__func__", getattr(member, "fget", member))
            for name, member in sorted(vars(value).items())
            if not (_is_learned(name) or name in ("__dict__", "__weakref__"))
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
    if name.partition(".")[0] == LIBRARY:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return name not in sys.stdlib_module_names
    return not (file.startswith(STANDARD_LIBRARY) or PACKAGE_FOLDERS & set(Path(file).parts))


def _source(code: Any) -> tuple[Any, ...]:
    """Return the source of a function or class, or an empty tuple if it is not available."""
    with suppress(OSError, TypeError, ValueError):
        if getattr(code, "__name__", "") == "<lambda>":
            return _source_of_lambda(code.__code__)
        # The code of a function, since getsource follows __wrapped__.
        return (inspect.getsource(getattr(code, "__code__", code)),)
    return ()


def _source_of_lambda(code: CodeType) -> tuple[Any, ...]:
    """Return the argument names and the body only, because a line may contain several lambdas."""
    lines = [line.encode() for line in inspect.findsource(code)[0]]
    spans: list[Any] = [at for at in code.co_positions() if None not in at and at[2:] != (0, 0)]
    first, start = min((line, column) for line, _, column, _ in spans)
    last, end = max((line, column) for _, line, _, column in spans)
    body = b"".join([*lines[first - 1 : last - 1], lines[last - 1][:end]])[start:]
    return code.co_varnames, code.co_argcount, code.co_kwonlyargcount, body


def _contents(cell: Any) -> Any:
    """Return the contents of a closure's cell, or None if its name has no value yet."""
    with suppress(ValueError):
        return cell.cell_contents
    return None
