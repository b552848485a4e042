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
from pickle import PickleError
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from scipy import sparse

# Bytes of an array that are copied at once.
BLOCK_BYTES = 2**24

# Code below these folders, and in this library, is known by its name: versions say the rest.
INSTALLED = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
LIBRARY = __name__.partition(".")[0]


def digest(*values: Any) -> str:
    """Return 64 hexadecimal digits that differ where values do.

    Arrays count by dtype, shape and numbers, whatever their order in memory. Functions and classes
    count by their qualified name and the text of their source (that of the bytecode where there is
    none), functions also by defaults, attributes and what they close over; code of installed
    packages by its name alone. Other objects count by class and attributes, without those whose
    name ends with an underscore, which are learned.
    """
    return _Digester().of("values", values).hex()


class _Digester:
    """Digests of values, each computed once; a value within itself counts by its distance."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        # By id: the value, so that its id is not given to another, and its digest.
        self.known: dict[int, tuple[Any, bytes]] = {}

    def of(self, kind: str, parts: Iterable[Any], *marks: Any) -> bytes:
        """Digest of a kind of value, from texts that mark it and the values that it contains."""
        digests = [self.of_value(part) for part in parts]
        return _hash("\0".join(map(str, (kind, len(digests), *marks))).encode(), *digests)

    def of_value(self, value: Any) -> bytes:
        simple = _simple(value)
        if simple is not None:
            return _hash(simple)
        if id(value) in self.open:
            return _hash(f"within {len(self.open) - self.open[id(value)]}".encode())
        if id(value) not in self.known:
            self.open[id(value)] = len(self.open)
            try:
                self.known[id(value)] = value, self._compound(value)
            finally:
                del self.open[id(value)]
        return self.known[id(value)][1]

    def _compound(self, value: Any) -> bytes:
        if isinstance(value, list | tuple):
            return self.of("list", value)
        if isinstance(value, Mapping):
            return self.of("mapping", [part for pair in value.items() for part in pair])
        if isinstance(value, AbstractSet):
            return _hash(b"set", *sorted(map(self.of_value, value)))
        if sparse.issparse(value):
            entries = value.tocsr().copy()
            entries.sum_duplicates()
            return self.of("sparse", [entries.indptr, entries.indices, entries.data], value.shape)
        if isinstance(value, type):
            return self.of("class", [c for c in value.__mro__[1:-1] if _is_own(c)], *_source(value))
        if hasattr(value, "__array__"):
            return self._array(value)
        if isinstance(value, ModuleType):
            return self.of("module", [], value.__name__)
        if isinstance(value, FunctionType):
            closed = [_contents(cell) for cell in value.__closure__ or ()]
            given = [value.__defaults__, value.__kwdefaults__, vars(value), closed]
            return self.of("function", given, *_source(value))
        if isinstance(value, MethodType):
            return self.of("method", [value.__func__, value.__self__])
        if isinstance(value, partial):
            return self.of("partial", [value.func, value.args, value.keywords])
        return self._object(value)

    def _array(self, value: Any) -> bytes:
        if hasattr(value, "detach"):  # a tensor, perhaps on a device
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except TypeError:  # of a dtype that NumPy lacks
            array = np.array(value.tolist(), dtype=object)
        if array.dtype.hasobject:
            return self.of("objects", array.ravel().tolist(), array.shape)
        digest = blake2b(f"array {array.dtype.str} {array.shape}".encode(), digest_size=32)
        rows = array.reshape(1) if array.ndim == 0 else array
        step = max(1, BLOCK_BYTES * len(rows) // max(1, array.nbytes))
        for start in range(0, len(rows), step):
            digest.update(rows[start : start + step].tobytes())
        return digest.digest()

    def _object(self, value: Any) -> bytes:
        if callable(value) and hasattr(value, "__qualname__"):  # written in C
            return self.of("named", [], getattr(value, "__module__", ""), value.__qualname__)
        if hasattr(value, "__dict__"):
            kept = {k: v for k, v in vars(value).items() if not _is_learned(k)}
            return self.of("object", [type(value), dict(sorted(kept.items()))])
        try:
            reduced = value.__reduce_ex__(4)
        except (AttributeError, PickleError, RuntimeError, TypeError, ValueError):
            reduced = None  # a lock, say: all are alike
        return self.of("object", [type(value), reduced])


def _hash(*parts: bytes) -> bytes:
    whole = blake2b(digest_size=32)
    for part in parts:
        whole.update(struct.pack("<Q", len(part)) + part)
    return whole.digest()


def _simple(value: Any) -> bytes | None:
    """Bytes of a value that contains nothing; None of others."""
    if value is None or isinstance(value, bool | np.bool_):
        return f"constant {value}".encode()
    if isinstance(value, str):
        return f"str {value}".encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"bytes " + value
    if isinstance(value, int | np.integer):
        return f"int {int(value)}".encode()
    if isinstance(value, float | np.floating):
        return f"float {float(value).hex()}".encode()
    return None


def _is_learned(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _is_own(code: Any) -> bool:
    """Whether a function or class is neither this library's nor of an installed package."""
    module = sys.modules.get(code.__module__)
    if code.__module__.partition(".")[0] == LIBRARY:
        return False
    file = getattr(module, "__file__", None) or ""
    builtin = module is not None and not file and code.__module__ != "__main__"
    return not (builtin or file.startswith(INSTALLED))


def _source(code: Any) -> tuple[str, ...]:
    """Qualified name of a function or class, and the text of its source."""
    name = f"{code.__module__}.{code.__qualname__}"
    if not _is_own(code):
        return (name,)
    with suppress(OSError, TypeError):
        return name, inspect.getsource(code)
    if isinstance(code, FunctionType):
        return name, *_bytecode(code.__code__)
    methods = [m for m in vars(code).values() if isinstance(m, FunctionType)]
    return name, *(text for method in methods for text in _bytecode(method.__code__))


def _bytecode(code: CodeType) -> list[str]:
    texts = [code.co_code.hex(), repr((code.co_names, code.co_varnames))]
    for constant in code.co_consts:
        texts += _bytecode(constant) if isinstance(constant, CodeType) else [repr(constant)]
    return texts


def _contents(cell: Any) -> Any:
    """What a cell holds; None where its name has no value yet."""
    with suppress(ValueError):
        return cell.cell_contents
    return None
