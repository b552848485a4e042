"""A safetensors file that is looked through before any of it is believed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_vae.serialization.files import write_then_replace

FORMAT = "sklearn_vae"
FORMAT_VERSION = 1

# Bytes of a number, of the types that are stored.
ITEM_SIZES = {
    "BOOL": 1,
    **dict.fromkeys(("U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}

# Bytes that say how long the header is, and of the longest header that safetensors reads.
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000

# Bytes of a list and of an object in memory, which may be written with three characters; and what all
# of them may take: so many times the file, and some.
LIST_BYTES, OBJECT_BYTES = 80, 200
LISTS_OF_FILE = 8
FREE_LISTS = 2**23

# Only the entry itself has quotes without a backslash: all else in a header is text.
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
NO_CHECKSUM = "0" * 64


class Contents(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    tensors : dict of str to array
    model : JSON tree
    libraries : dict of str to str
        Versions of what wrote it.
    n_bytes : int
        Of the file.
    """

    tensors: dict[str, NDArray[Any]]
    model: Any
    libraries: dict[str, str]
    n_bytes: int


def write(
    path: Any, tensors: dict[str, NDArray[Any]], model: Any, libraries: dict[str, str]
) -> None:
    """Write a file, in the place of one of this name only when it is complete."""
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "checksum": NO_CHECKSUM,
        "libraries": json.dumps(libraries),
        "model": json.dumps(model, allow_nan=False, separators=(",", ":")),
    }
    data = bytearray(_safetensors().save(tensors, metadata))
    header = bytes(data[: _end_of_header(data)])
    _check_lists(header[LENGTH_BYTES:].decode(), "The model", len(data))
    start, end = _place_of_checksum(header)
    data[start:end] = _checksum(data, start, end).encode()
    _replace(path, data)


def read(path: Any) -> Contents:
    """Contents of a file, once everything about it is as it has to be.

    Raises
    ------
    ValueError
        If not, which says what is wrong.
    """
    try:
        return _contents(path)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} cannot be loaded: {error}") from None


def parse_json(text: str, what: str, n_bytes: int) -> Any:
    """A JSON value of a file of some bytes.

    ValueError if it is none, has NaN, infinity or keys that come twice, or would take far more
    memory than the file has bytes.
    """
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


def _safetensors() -> Any:
    try:
        return import_module("safetensors.numpy")
    except ImportError as error:
        raise ImportError(
            "Saving and loading models needs the package safetensors, of the extra 'io': install "
            "sklearn-vae[io]."
        ) from error


def _replace(path: Any, data: bytearray) -> None:
    """Put data in the place of a file, with its permissions; an OSError names the path."""
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "It is a folder, not a file", os.fspath(path))
    # A name of the file's own may leave no room for more.
    draft = os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.tmp")
    try:
        write_then_replace(draft, target, data, _opener(target))
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _opener(target: str) -> Callable[[str, int], int]:
    """How to open what is to replace a file: as few may read it."""
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


def _contents(path: Any) -> Contents:
    """Contents of a file, of which no more is read than its header before that is believed."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder, not a file.")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file.")
    n_bytes = status.st_size
    with open(path, "rb") as file:
        start = _start_of(file, n_bytes)
        metadata = _metadata_of(start, n_bytes)
        file.seek(0)
        data = file.read(n_bytes)
    if len(data) != n_bytes or not data.startswith(start):
        raise ValueError("it was written to while it was read.")
    return _contents_of(data, metadata)


def _start_of(file: Any, n_bytes: int) -> bytes:
    """What is in front of the tensors."""
    length: bytes = file.read(LENGTH_BYTES)
    if n_bytes < LENGTH_BYTES + 2 or len(length) < LENGTH_BYTES:
        raise ValueError(f"it has {n_bytes} bytes, fewer than any safetensors file.")
    n_header, n_rest = _end_of_header(length) - LENGTH_BYTES, n_bytes - LENGTH_BYTES
    if n_header > MAX_HEADER_BYTES:
        raise ValueError(
            f"it claims a header of {n_header} bytes, more than the {MAX_HEADER_BYTES} of a "
            "safetensors file. It is damaged, or no such file."
        )
    if n_header > n_rest:
        raise ValueError(
            f"it claims a header of {n_header} bytes, but only {n_rest} follow: it is truncated, "
            "damaged, or no safetensors file."
        )
    start: bytes = length + file.read(n_header)
    return start


def _metadata_of(start: bytes, n_bytes: int) -> dict[str, Any]:
    header = _header_of(start[LENGTH_BYTES:], n_bytes)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"it is no model of {FORMAT}: its metadata do not say so.")
    _check_table(header, n_bytes - len(start))
    return metadata


def _end_of_header(data: bytes | bytearray) -> int:
    return LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")


def _contents_of(data: bytes, metadata: dict[str, Any]) -> Contents:
    end = _end_of_header(data)
    # What a format is, its version and its checksum are in every version to come.
    start, stop = _place_of_checksum(data[:end])
    if _checksum(data, start, stop) != data[start:stop].decode():
        raise ValueError("its checksum does not fit: it is damaged, or was changed.")
    libraries = _libraries_of(metadata, len(data))
    _check_version(metadata.get("format_version"), libraries)
    tree = parse_json(_entry_of(metadata, "model"), "its model", len(data))
    return Contents(_tensors_of(data), tree, libraries, len(data))


def _entry_of(metadata: dict[str, Any], name: str) -> str:
    if isinstance(entry := metadata.get(name), str):
        return entry
    raise ValueError(f"its metadata have no {name}.")


def _header_of(text: bytes, n_bytes: int) -> dict[str, Any]:
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("its header is no text: it is damaged, or no safetensors file.") from None
    header = parse_json(decoded, "its header", n_bytes)
    if isinstance(header, dict):
        return header
    raise ValueError("its header is no JSON object.")


def _check_table(table: dict[str, Any], n_bytes: int) -> None:
    """Raise ValueError unless the tensors of a header fill `n_bytes` without gap or overlap."""
    places = [(0, 0)]
    for name, entry in table.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name!r} of its header has no dtype, shape and data_offsets.")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
            raise ValueError(f"tensor {name!r} has an unknown dtype, {dtype!r}.")
        if not _are_sizes(shape) or len(shape) > 32:
            raise ValueError(f"tensor {name!r} has no valid shape: {shape!r}.")
        if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise ValueError(f"tensor {name!r} has no valid data_offsets: {offsets!r}.")
        if math.prod(max(size, 1) for size in shape) >= 2**60:
            raise ValueError(f"tensor {name!r} has a shape beyond all memory, {shape!r}.")
        claimed, given = math.prod(shape) * ITEM_SIZES[dtype], offsets[1] - offsets[0]
        if claimed != given:
            raise ValueError(
                f"tensor {name!r} claims {claimed} bytes by its dtype {dtype} and shape {shape!r}, "
                f"but has {given}."
            )
        places.append((offsets[0], offsets[1]))
    places.sort()
    if any(before[1] != after[0] for before, after in pairwise(places)):
        raise ValueError("its tensors overlap, or there are gaps between them.")
    if places[-1][1] != n_bytes:
        raise ValueError(
            f"its tensors claim {places[-1][1]} bytes, but {n_bytes} follow the header: it is "
            "truncated or damaged."
        )


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)


def _tensors_of(data: bytes) -> dict[str, NDArray[Any]]:
    numpy_of = _safetensors()
    try:
        tensors: dict[str, NDArray[Any]] = numpy_of.load(data)
    except import_module("safetensors").SafetensorError as error:
        raise ValueError(f"safetensors does not read it ({error}).") from None
    for name, tensor in tensors.items():
        if tensor.dtype == bool and tensor.size and tensor.view(np.uint8).max() > 1:
            raise ValueError(f"tensor {name!r} of booleans has other numbers than 0 and 1.")
    return tensors


def _place_of_checksum(header: bytes) -> tuple[int, int]:
    found = list(CHECKSUM.finditer(header))
    if len(found) != 1:
        raise ValueError("its metadata have no checksum of 64 digits.")
    return found[0].span(1)


def _checksum(data: bytes | bytearray, start: int, end: int) -> str:
    """SHA-256 of a whole file, with zeros in the place of the checksum itself."""
    view = memoryview(data)
    sha = hashlib.sha256(view[:start])
    sha.update(NO_CHECKSUM.encode())
    sha.update(view[end:])
    return sha.hexdigest()


def _libraries_of(metadata: dict[str, Any], n_bytes: int) -> dict[str, str]:
    libraries = parse_json(_entry_of(metadata, "libraries"), "its list of libraries", n_bytes)
    if not isinstance(libraries, dict) or not all(isinstance(v, str) for v in libraries.values()):
        raise ValueError("its metadata do not say which libraries wrote it.")
    return libraries


def _check_version(version: Any, libraries: dict[str, str]) -> None:
    if not isinstance(version, str) or not re.fullmatch("[1-9][0-9]{0,5}", version):
        raise ValueError(f"its format_version must be an integer >= 1, got {version!r}.")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"it is of format {version}, written by {FORMAT} {libraries.get(FORMAT)}, and this "
            f"version reads formats up to {FORMAT_VERSION}. Upgrade sklearn-vae."
        )


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that comes twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which JSON does not have")
