"""Files that hold values: safetensors files with a tree in their metadata, checked before use.

A file is there as a whole or not at all. Nothing of it is believed before its checksum fits, and
nothing in it is executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

FORMAT = "sklearn_vae"
FORMAT_VERSION = 2

# Packages whose version may matter to who reads a file later.
LIBRARIES = (FORMAT, "numpy", "scipy", "sklearn", "safetensors", "torch", "skorch")

# Names of dtypes in safetensors files.
DTYPES = {"BOOL": bool} | {
    f"{name}{8 * size}": np.dtype(f"{kind}{size}")
    for name, kind, sizes in (("U", "u", "1248"), ("I", "i", "1248"), ("F", "f", "248"))
    for size in map(int, sizes)
}

# Bytes that say how long the header is, and of the longest header that safetensors reads.
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000

# Bytes of a list and of an object in memory, which may be written with three characters; and what
# all of them may take: so many times the file, and some.
LIST_BYTES, OBJECT_BYTES = 80, 200
LISTS_OF_FILE = 8
FREE_LISTS = 2**23


class Contents(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    tree : JSON tree
    tensors : dict of str to array
    libraries : dict of str to str
        Versions of what wrote it.
    n_bytes : int
        Of the file.
    """

    tree: Any
    tensors: dict[str, NDArray[Any]]
    libraries: dict[str, str]
    n_bytes: int


def write_file(path: Any, kind: str, tree: Any, tensors: dict[str, NDArray[Any]]) -> None:
    """Write a file of a kind ("model", "checkpoint"), in place of one of this name when complete.

    Raises
    ------
    OSError
        If that is not possible. What was there before is there still.
    ValueError
        If the tree has far more lists than the file has bytes.
    """
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "libraries": json.dumps(library_versions()),
        "tree": json.dumps(tree, allow_nan=False, separators=(",", ":")),
    }
    metadata["checksum"] = checksum(metadata, tensors)
    data = safetensors.numpy.save(tensors, metadata)
    _check_lists(metadata["tree"], f"The {kind}", len(data))
    _replace(path, data)


def read_file(path: Any, kind: str) -> Contents:
    """Contents of a file of a kind, once everything about it is as it has to be.

    Raises
    ------
    ValueError
        If it is not, with the reason.
    OSError
        If there is no such file.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "It is a folder, not a file", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file.")
    with open(path, "rb") as file:
        start = file.read(LENGTH_BYTES)
        start += file.read(_header_bytes(start, status.st_size))
        header, metadata, n_bytes = _checked_header(start, kind)
        if n_bytes != status.st_size:
            raise ValueError(
                f"{status.st_size - len(start)} bytes follow the header, its tensors claim "
                f"{n_bytes - len(start)}: it is truncated, or damaged."
            )
        file.seek(0)
        data = bytearray(n_bytes)  # which arrays of it may be written to
        n_read = file.readinto(data)
    if n_read != n_bytes or not data.startswith(start):
        raise ValueError("it was changed while it was read.")
    tensors = _tensors(path, header, data, len(start))
    if metadata.pop("checksum", None) != checksum(metadata, tensors):
        raise ValueError("its checksum does not fit: it is damaged, or was changed.")
    libraries = _parsed(_entry(metadata, "libraries"), "its list of libraries", len(data))
    if not isinstance(libraries, dict) or not all(isinstance(v, str) for v in libraries.values()):
        raise ValueError("its metadata do not say which libraries wrote it.")
    _check_version(metadata.get("format_version"), libraries)
    tree = _parsed(_entry(metadata, "tree"), f"its {kind}", len(data))
    return Contents(tree, tensors, libraries, len(data))


def drafts_of(path: Any) -> Iterator[Path]:
    """Files in which :func:`write_file` was writing one of this name when its process ended."""
    target = Path(os.path.realpath(path))
    return target.parent.glob(f"{_draft_prefix(target)}*.tmp")


def library_versions() -> dict[str, str]:
    """Versions of this library, of Python, and of the packages that have been imported."""
    # importlib.metadata would take milliseconds for each.
    imported = {n: str(sys.modules[n].__version__) for n in LIBRARIES if n in sys.modules}
    return {"python": platform.python_version(), **imported}


def _header_bytes(start: bytes, n_bytes: int) -> int:
    """Bytes of the header that the first bytes of a file claim."""
    n_rest = n_bytes - LENGTH_BYTES
    if n_rest < 0:
        raise ValueError(f"it has {n_bytes} bytes, fewer than any safetensors file.")
    n_header = int.from_bytes(start, "little")
    if n_header > min(n_rest, MAX_HEADER_BYTES):
        raise ValueError(
            f"it claims a header of {n_header} bytes, but {n_rest} follow, and safetensors reads "
            f"at most {MAX_HEADER_BYTES}: it is truncated, damaged, or no safetensors file."
        )
    return n_header


def _checked_header(start: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Tensors and metadata in the beginning of a file, and the bytes that the whole must have."""
    try:
        text = start[LENGTH_BYTES:].decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("its header is no text: it is damaged, or no safetensors file.") from None
    header = _parsed(text, "its header", len(start))
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"it is no file of {FORMAT}: its metadata do not say so.")
    if metadata.get("kind") != kind:
        raise ValueError(f"it holds a {str(metadata.get('kind'))[:20]}, not a {kind}.")
    if not text.rstrip(" ").endswith("}"):
        raise ValueError("its header ends in something else than spaces: it is damaged.")
    ends = [_end_of_tensor(name, entry) for name, entry in header.items()]
    return header, metadata, len(start) + max(ends, default=0)


def _end_of_tensor(name: str, entry: Any) -> int:
    """Where an entry of the header says that its tensor ends, behind the header."""
    entry = entry if isinstance(entry, dict) else {}
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    for values, longest in ((shape, 32), (offsets, 2)):
        is_short = isinstance(values, list) and len(values) <= longest
        if not (is_short and all(type(value) is int and value >= 0 for value in values)):
            raise ValueError(f"tensor {name!r} has no valid shape or data_offsets: {entry!r:.200}.")
    # safetensors multiplies sizes without a look at overflow.
    if math.prod(max(size, 1) for size in shape) >= 2**60:
        raise ValueError(f"tensor {name!r} has a shape beyond all memory, {shape!r}.")
    return int(max(offsets, default=0))


def _tensors(path: Any, header: dict[str, Any], data: bytearray, start: int) -> dict[str, Any]:
    """Arrays of the tensors in a header, views of the data."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass  # it has checked that the tensors fill the file, and do not overlap
        tensors = {
            name: np.frombuffer(
                data,
                DTYPES[entry["dtype"]],
                math.prod(entry["shape"]),
                start + entry["data_offsets"][0],
            ).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"safetensors does not read it ({error}): it is truncated or damaged."
        ) from None
    for name, tensor in tensors.items():
        if tensor.dtype == bool and tensor.size and tensor.view(np.uint8).max() > 1:
            raise ValueError(f"tensor {name!r} of booleans has other numbers than 0 and 1.")
    return tensors


def checksum(metadata: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of all that a file says."""
    shapes = [[name, tensors[name].dtype.str, tensors[name].shape] for name in sorted(tensors)]
    text = json.dumps([sorted(metadata.items()), shapes], separators=(",", ":"))
    sha = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        sha.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _entry(metadata: dict[str, Any], name: str) -> str:
    if isinstance(entry := metadata.get(name), str):
        return entry
    raise ValueError(f"its metadata have no {name}.")


def _check_version(number: Any, libraries: dict[str, str]) -> None:
    if not isinstance(number, str) or not re.fullmatch("[1-9][0-9]{0,5}", number):
        raise ValueError(f"its format_version must be an integer >= 1, got {number!r}.")
    if int(number) != FORMAT_VERSION:
        raise ValueError(
            f"it is of format {number}, written by {FORMAT} {libraries.get(FORMAT)}, and this "
            f"version reads format {FORMAT_VERSION}. Use another version of sklearn-vae."
        )


def _parsed(text: str, what: str, n_bytes: int) -> Any:
    """A JSON value of a file of some bytes, without NaN, infinity or keys that come twice."""
    _check_lists(text, what, n_bytes)
    try:
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{what} is no valid JSON ({error}).") from None


def _check_lists(text: str, what: str, n_bytes: int) -> None:
    size = LIST_BYTES * text.count("[") + OBJECT_BYTES * text.count("{")
    if size > LISTS_OF_FILE * n_bytes + FREE_LISTS:
        raise ValueError(f"{what} has far more lists than a file of {n_bytes} bytes is to have.")


def _once_each(items: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(items)) != len(items):
        raise ValueError("a key that comes twice")
    return unique


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which JSON does not have")


def _replace(path: Any, data: bytes) -> None:
    """Put data in place of a file, with its permissions; an OSError names the path."""
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "It is a folder, not a file", os.fspath(path))
    name = f"{_draft_prefix(target)}{uuid.uuid4().hex}.tmp"
    draft = os.path.join(os.path.dirname(target), name)
    try:
        with open(draft, "xb", opener=_opener(target)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise


def _draft_prefix(target: Any) -> str:
    """Beginning of the name of a file's drafts; the whole name may leave no room for more."""
    name = os.fsencode(os.path.basename(target))
    return f".{hashlib.sha256(name).hexdigest()[:16]}-"


def _opener(target: str) -> Callable[[str, int], int]:
    """How to open what is to replace a file: so that as few may read it."""
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        return lambda name, flags: os.open(name, flags, 0o666)

    def opened(name: str, flags: int) -> int:
        descriptor = os.open(name, flags, mode & 0o600)
        with suppress(OSError):
            os.chmod(name, mode)  # whatever the mask of new files is
        return descriptor

    return opened
