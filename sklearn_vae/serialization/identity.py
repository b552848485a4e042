"""Digests of parameters, code and data, the same in every process and after an upgrade."""

from __future__ import annotations

import inspect
import struct
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
    """Return 64 hexadecimal digits that differ where values do.

    Arrays count by dtype, shape and numbers, whatever their order in memory. Functions and classes
    count by their qualified name and the text of their source (by their bytecode where there is
    none), functions also by defaults, attributes and what they close over. Code of installed
    packages and of this library counts by its name alone. Other objects count by class and
    attributes, except those whose name ends with an underscore, which are learned.
    """
    return _Digester().value(values).hex()


class _Digester:
    """Computes digests of values; a value inside itself counts by its distance."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        # By id: the value, so that its id is not given to another, and its digest. Values of a
        # cycle are not here: their digest depends on where the cycle was entered.
        self.known: dict[int, tuple[Any, bytes]] = {}
        self.lowest: float = inf  # place of the outermost value that was met inside itself

    def value(self, value: Any) -> bytes:
        """Digest of a value."""
        simple = _simple(value)
        if simple is not None:
            return _hash(simple)
        if id(value) in self.open:
            place = self.open[id(value)]
            self.lowest = min(self.lowest, place)
            return _hash(f"within {len(self.open) - place}".encode())
        if id(value) in self.known:
            return self.known[id(value)][1]
        outer, self.lowest, place = self.lowest, inf, len(self.open)
        self.open[id(value)] = place
        found = self._compound(value)
        del self.open[id(value)]
        if self.lowest == inf:
            self.known[id(value)] = value, found
        self.lowest = min(outer, self.lowest if self.lowest < place else inf)
        return found

    def parts(self, kind: str, parts: Iterable[Any], *marks: Any) -> bytes:
        """Digest of a kind of value, from texts that mark it and the values that it contains."""
        digests = [self.value(part) for part in parts]
        return _hash("\0".join(map(str, (kind, len(digests), *marks))).encode(), *digests)

    def _compound(self, value: Any) -> bytes:
        if isinstance(value, list | tuple):
            return self.parts("list", value)
        if isinstance(value, Mapping):
            return self.parts("mapping", [part for pair in value.items() for part in pair])
        if isinstance(value, AbstractSet):
            return _hash(b"set", *sorted(map(self.value, value)))
        if sparse.issparse(value):
            entries = value.tocsr().copy()
            entries.sum_duplicates()
            arrays = [entries.indptr, entries.indices, entries.data]
            return self.parts("sparse", arrays, value.shape)
        if isinstance(value, type):
            return self._class(value)
        if hasattr(value, "__array__"):
            return self._array(value)
        if isinstance(value, ModuleType):
            return self.parts("module", [], value.__name__)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return self.parts("method", [value.__func__, value.__self__])
        if isinstance(value, partial):
            return self.parts("partial", [value.func, value.args, value.keywords])
        if isinstance(value, CodeType):
            names = value.co_names, value.co_varnames, value.co_flags
            return self.parts("code", [*value.co_consts, names, value.co_code])
        return self._object(value)

    def _array(self, value: Any) -> bytes:
        if hasattr(value, "detach"):  # a tensor, perhaps on a device
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except TypeError:  # of a dtype that NumPy lacks
            array = np.array(value.tolist(), dtype=object)
        if array.dtype.hasobject:
            return self.parts("objects", array.ravel().tolist(), array.shape)
        digest = blake2b(f"array {array.dtype.str} {array.shape}".encode(), digest_size=32)
        rows = array.reshape(1) if array.ndim == 0 else array
        step = max(1, BLOCK_BYTES * len(rows) // max(1, array.nbytes))
        for start in range(0, len(rows), step):
            digest.update(rows[start : start + step].tobytes())
        return digest.digest()

    def _function(self, value: FunctionType) -> bytes:
        closed = [_contents(cell) for cell in value.__closure__ or ()]
        given = [value.__defaults__, value.__kwdefaults__, vars(value), closed]
        if not _is_own(value):
            return self.parts("function", given, _name(value))
        source = _source(value) or value.__code__
        return self.parts("function", [*given, source], _name(value))

    def _class(self, value: type) -> bytes:
        bases = [base for base in value.__mro__[1:-1] if _is_own(base)]
        if not _is_own(value):
            return self.parts("class", bases, _name(value))
        if source := _source(value):
            return self.parts("class", [*bases, source], _name(value))
        members = {
            name: getattr(member, "__func__", getattr(member, "fget", member))
            for name, member in sorted(vars(value).items())
            if not (_is_learned(name) or name in ("__dict__", "__weakref__"))
        }
        return self.parts("class", [*bases, members], _name(value))

    def _object(self, value: Any) -> bytes:
        if callable(value) and hasattr(value, "__qualname__"):  # written in C
            return self.parts("named", [getattr(value, "__wrapped__", None)], _name(value))
        if hasattr(value, "__dict__"):
            kept = {str(k): v for k, v in vars(value).items() if not _is_learned(str(k))}
            return self.parts("object", [type(value), dict(sorted(kept.items()))])
        try:
            reduced = value.__reduce_ex__(4)
        except (AttributeError, PickleError, RuntimeError, TypeError, ValueError):
            reduced = None  # a lock, say: all are alike
        return self.parts("object", [type(value), reduced])


def _hash(*parts: bytes) -> bytes:
    whole = blake2b(digest_size=32)
    for part in parts:
        whole.update(struct.pack("<Q", len(part)) + part)
    return whole.digest()


def _simple(value: Any) -> bytes | None:
    """Bytes of a value that contains nothing; None for others."""
    if value is None or isinstance(value, bool | np.bool_):
        return f"constant {value}".encode()
    if isinstance(value, str):
        return f"str {value}".encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"bytes " + value
    if isinstance(value, int | np.integer):
        return f"int {int(value):x}".encode()
    if isinstance(value, float | np.floating):
        return f"float {float(value).hex()}".encode()
    return None


def _is_learned(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _name(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{code.__qualname__}"


def _is_own(code: Any) -> bool:
    """Whether a function or class is the user's: not of this library or an installed package."""
    name = str(code.__module__)
    if name.partition(".")[0] == LIBRARY:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return name not in sys.stdlib_module_names
    return not (file.startswith(STANDARD_LIBRARY) or PACKAGE_FOLDERS & set(Path(file).parts))


def _source(code: Any) -> tuple[Any, ...]:
    """Text of the source of a function or class; nothing where there is none."""
    with suppress(OSError, TypeError, ValueError):
        if getattr(code, "__name__", "") == "<lambda>":
            return _source_of_lambda(code.__code__)
        # Of a function its code: getsource would skip what wraps it.
        return (inspect.getsource(getattr(code, "__code__", code)),)
    return ()


def _source_of_lambda(code: CodeType) -> tuple[Any, ...]:
    """Names of the arguments, and the body alone: a line may hold more than one lambda."""
    lines = [line.encode() for line in inspect.findsource(code)[0]]
    places: list[Any] = [at for at in code.co_positions() if None not in at and at[2:] != (0, 0)]
    first, start = min((line, column) for line, _, column, _ in places)
    last, end = max((line, column) for _, line, _, column in places)
    body = b"".join([*lines[first - 1 : last - 1], lines[last - 1][:end]])[start:]
    return code.co_varnames, code.co_argcount, code.co_kwonlyargcount, body


def _contents(cell: Any) -> Any:
    """What a cell holds; None where its name has no value yet."""
    with suppress(ValueError):
        return cell.cell_contents
    return None
