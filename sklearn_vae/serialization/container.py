"""Files that hold values: safetensors files with a JSON tree in their metadata.

A file is written completely or not at all, is used only if its checksum is correct, and contains
nothing that could be executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

FORMAT = "sklearn_vae"
FORMAT_VERSION = "2"

# Packages whose versions are recorded, if they are imported.
LIBRARIES = (FORMAT, "numpy", "scipy", "sklearn", "safetensors", "torch", "skorch")

# The tree is text inside the JSON of the header, where its quotes are escaped: the first match is
# the entry of the metadata.
CHECKSUM_KEY = b'"checksum":"'
CHECKSUM_DIGITS = 64

# Bytes in memory of a list and of an object that take two characters in the file, and bounds on
# their total relative to the size of the file.
LIST_BYTES, OBJECT_BYTES = 80, 200
LISTS_PER_BYTE, FREE_LISTS = 8, 2**23

# Bytes up to which safetensors reads a header.
LARGEST_HEADER = 100_000_000


def write_file(path: Any, kind: str, tree: Any, tensors: dict[str, NDArray[Any]]) -> None:
    """Write a file of a kind ("model" or "checkpoint"), replacing an existing one when complete."""
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "written_by": ", ".join(f"{name} {text}" for name, text in library_versions().items()),
        "checksum": "0" * CHECKSUM_DIGITS,
        "tree": json.dumps(tree, allow_nan=False, separators=(",", ":")),
    }
    data = bytearray(safetensors.numpy.save(tensors, metadata))
    _check_lists(data[8 : 8 + _header_size(data[:8])].decode("latin-1"), kind, len(data))
    at, digits = checksum(data)
    data[at : at + CHECKSUM_DIGITS] = digits
    _replace(path, data)


def read_file(path: Any, kind: str) -> tuple[Any, dict[str, NDArray[Any]], str, int]:
    """Return the tree, tensors, writer's versions and size of a file; raise ValueError if invalid."""
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError("it is not a regular file.")
    with open(path, "rb") as file:
        try:
            # The library below ends the process where a header does not fit into memory.
            header = file.read(min(_header_size(file.read(8)), status.st_size, LARGEST_HEADER))
            _check_lists(header.decode("latin-1"), "header", status.st_size)
            file.seek(0)
            # Checks that the header is valid and that the tensors fill the file without overlap.
            with safetensors.safe_open(os.fspath(path), framework="numpy") as opened:
                metadata = opened.metadata() or {}
            _check_metadata(metadata, kind)
            data = file.read(status.st_size)
            at, digits = checksum(data)
            if data[at : at + CHECKSUM_DIGITS] != digits:
                raise ValueError("its checksum is wrong: the file is damaged or was modified.")
            tensors = safetensors.numpy.load(data)
            # The brackets of the tree may be escaped in the header.
            _check_lists(metadata["tree"], kind, len(data))
            tree = json.loads(metadata["tree"])
        except MemoryError:
            raise ValueError(f"its {status.st_size} bytes do not fit into memory.") from None
        except RecursionError:
            raise ValueError(f"its {kind} is nested too deeply.") from None
        except (safetensors.SafetensorError, LookupError, TypeError) as error:
            raise ValueError(
                f"safetensors cannot read it ({error}): it is truncated, damaged or not a "
                "safetensors file."
            ) from None
    for name, tensor in tensors.items():
        if tensor.dtype == bool and tensor.size and tensor.view(np.uint8).max() > 1:
            raise ValueError(f"tensor {name!r} of booleans contains values other than 0 and 1.")
    return tree, tensors, metadata.get("written_by", "an unknown version"), len(data)


def checksum(data: bytes | bytearray) -> tuple[int, bytes]:
    """Return the position of a file's checksum, and the digits that must be there."""
    at, view = data.find(CHECKSUM_KEY) + len(CHECKSUM_KEY), memoryview(data)
    sha = hashlib.sha256(view[:at])
    sha.update(view[at + CHECKSUM_DIGITS :])
    return at, sha.hexdigest().encode()


def drafts_of(path: Any) -> Iterator[Path]:
    """Return the incomplete files that killed processes have left next to a file."""
    target = Path(os.path.realpath(path))
    return target.parent.glob(f"{_draft_prefix(target)}*.tmp")


def library_versions() -> dict[str, str]:
    """Return the versions of this library, of Python, and of the packages that are imported."""
    # importlib.metadata would take milliseconds for each.
    imported = {n: str(sys.modules[n].__version__) for n in LIBRARIES if n in sys.modules}
    return {**imported, "python": platform.python_version()}


def _check_metadata(metadata: dict[str, str], kind: str) -> None:
    """Raise ValueError unless a file has this format and kind."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"it is not a file of {FORMAT}.")
    if metadata.get("kind") != kind:
        raise ValueError(f"it holds a {metadata.get('kind', 'file')[:20]}, not a {kind}.")
    if (version := metadata.get("format_version", "")) != FORMAT_VERSION:
        raise ValueError(
            f"it has format {version[:20]!r}, written by {metadata.get('written_by', '?')[:100]}, "
            f"but this version reads format {FORMAT_VERSION}. Use another version of sklearn-vae."
        )


def _header_size(first: bytes | bytearray) -> int:
    """Return the length of the JSON text that follows a safetensors file's first eight bytes."""
    return int.from_bytes(first, "little")


def _check_lists(text: str, what: str, n_bytes: int) -> None:
    """Raise ValueError if JSON text would take far more memory than a file of some size."""
    size = LIST_BYTES * text.count("[") + OBJECT_BYTES * text.count("{")
    if size > LISTS_PER_BYTE * n_bytes + FREE_LISTS:
        raise ValueError(f"the {what} has far more lists than a file of {n_bytes} bytes may have.")


def _replace(path: Any, data: bytes | bytearray) -> None:
    """Replace a file by data in one step, and keep its permissions."""
    target = os.path.realpath(path)
    name = f"{_draft_prefix(target)}{uuid.uuid4().hex}.tmp"
    draft, exists = os.path.join(os.path.dirname(target), name), os.path.exists(target)
    mode = 0o600 if exists else 0o666  # private until it has the permissions of the old file
    try:
        with open(draft, "xb", opener=lambda file, flags: os.open(file, flags, mode)) as file:
            if exists:
                with suppress(OSError):
                    shutil.copymode(target, draft)
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
    """Return the prefix of the names of a file's drafts: a digest, to limit the length."""
    name = os.fsencode(os.path.basename(target))
    return f".{hashlib.sha256(name).hexdigest()[:16]}-"
