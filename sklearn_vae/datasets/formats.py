"""Readers of image files that never run code from a file.

A damaged or malicious file raises a ValueError that names it. Sizes in headers are compared with
the size of the file before memory is allocated.
"""

import gzip
import hashlib
import io
import math
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from scipy.io import loadmat, whosmat

from sklearn_vae.validation import check_memory

Shape = tuple[int, int, int]
Pair = tuple[np.ndarray, np.ndarray | None]

# Upper limit of the compression ratio of deflate.
DEFLATE_RATIO = 1032


def check_md5(path: Path, expected: str) -> None:
    """Raise ValueError unless the file has this MD5 checksum."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path} must have the MD5 checksum of the published file, {expected}, got {actual}. "
            "Replace the file. If it differs on purpose, save its data as an .npz file, for which "
            "no checksum is verified."
        )


def read_npz(path: Path, image_shape: Shape) -> Pair:
    """Read images X and optional labels y from an .npz file."""
    with _naming_errors(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "X.npy" not in names:
            keys = ", ".join(name.removesuffix(".npy") for name in names)
            raise ValueError(f"it must contain an array X, got {keys or 'no arrays'}")
        X = _member_array(archive, "X.npy")
        y = _member_array(archive, "y.npy") if "y.npy" in names else None
        if y is not None and (y.ndim == 0 or len(y) != len(X)):
            raise ValueError(f"y must have one entry per image in X, got {y.shape} and {X.shape}")
        return flatten_images(X, image_shape), y


def _member_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read an array from an .npz file and compare its header with the size of the member."""
    info = archive.getinfo(name)
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or file.tell() + n_bytes != info.file_size:
            raise ValueError(
                f"{name} has {info.file_size} bytes, which does not match {shape} of {dtype}"
            )
        _check_ratio(n_bytes, info.compress_size)
        check_memory(n_bytes, f"{name} of {archive.filename} has {shape} of {dtype}", "")
    with archive.open(name) as file:
        return npy.read_array(file, allow_pickle=False)


def flatten_images(X: np.ndarray, image_shape: Shape) -> np.ndarray:
    """Return flattened uint8 images with channels first, one per sample."""
    c, h, w = image_shape
    if X.ndim and not len(X):
        raise ValueError("X must contain images, got none")
    if X.shape[1:] == (h, w, c):
        X = np.moveaxis(X, 3, 1)
    elif X.shape[1:] not in ((c * h * w,), (c, h, w), (h, w) if c == 1 else None):
        raise ValueError(
            f"X must hold images of shape (channels, height, width) = {image_shape}, got {X.shape}"
        )
    if X.dtype != np.uint8:
        if X.dtype.kind not in "iufb" or not (
            X.min(initial=0) >= 0 and X.max(initial=0) <= 255 and (np.trunc(X) == X).all()
        ):
            raise ValueError(
                f"X must have integers from 0 to 255 only, got other values ({X.dtype})"
            )
        X = X.astype(np.uint8)
    return np.ascontiguousarray(X).reshape(len(X), -1)


def read_idx(images_path: Path, labels_path: Path) -> Pair:
    """Read images and labels from two idx files, plain or compressed with gzip."""
    images, labels = _idx_array(images_path, 3), _idx_array(labels_path, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels."
        )
    return images.reshape(len(images), -1), labels


def _idx_array(path: Path, ndim: int) -> np.ndarray:
    """Read the uint8 array of one idx file."""
    compressed = path.suffix == ".gz"
    size = path.stat().st_size
    with _naming_errors(path), gzip.open(path) if compressed else path.open("rb") as file:
        header = file.read(4 + 4 * ndim)
        if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"it must begin with the header of an idx file of {ndim}-d bytes")
        shape = tuple(int(length) for length in np.frombuffer(header[4:], ">u4"))
        n_bytes = math.prod(shape)
        if compressed:
            _check_ratio(n_bytes, size)
        # One extra byte, to detect files that are too long.
        content = file.read(min(n_bytes, size * (DEFLATE_RATIO if compressed else 1)) + 1)
        if len(content) != n_bytes:
            actual = "more" if len(content) > n_bytes else f"{len(content)} bytes"
            raise ValueError(
                f"its header requires {n_bytes} bytes for {shape}, but it has {actual}"
            )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()  # a view of bytes is read-only


def read_cifar_batches(*paths: Path, label: str) -> Pair:
    """Read images and labels from pickled batches."""
    batches = []
    for path in paths:
        with _naming_errors(path), path.open("rb") as file:
            batches.append(_cifar_batch(file, label))
    return _joined(batches)


def read_cifar_archive(path: Path, *, members: Sequence[str], label: str) -> Pair:
    """Read images and labels from batches in the published archive, in memory."""
    with _naming_errors(path), tarfile.open(path, "r:gz") as archive:
        contents = [_member_content(archive, name) for name in members]
    batches = []
    for name, content in zip(members, contents, strict=True):
        with _naming_errors(f"{name} of {path}"):
            batches.append(_cifar_batch(io.BytesIO(content), label))
    return _joined(batches)


def _member_content(archive: tarfile.TarFile, name: str) -> bytes:
    """Read a file of an archive and compare its header with the size of the archive."""
    member = archive.getmember(name)
    _check_ratio(member.size, Path(str(archive.name)).stat().st_size)
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"its member {name} is not a file")
    return file.read()


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> Pair:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _cifar_batch(file: IO[bytes], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels from one pickled batch."""
    content = _RestrictedUnpickler(file, encoding="bytes").load()
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__} instead of a dict")
    named = {key.decode() if isinstance(key, bytes) else key: content[key] for key in content}
    images, labels = named.get("data"), named.get(label)
    if not (isinstance(images, _PickledArray) and isinstance(labels, list)):
        raise TypeError(f"it must contain an array named data and a list named {label}")
    data, target = images.to_array(), np.array(labels, dtype=np.int64)
    if data.shape != (len(target), 3072):
        raise ValueError(
            f"data must have shape ({len(target)}, 3072) for {len(target)} labels, got {data.shape}"
        )
    return data, target


class _PickledArray:
    """Placeholder of an array in a pickle until its state is validated."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_array(self) -> np.ndarray:
        """Return the array; raise ValueError unless it is a C-contiguous uint8 matrix."""
        _, shape, dtype, is_fortran, content = self.state
        if dtype.code not in (b"u1", "u1") or is_fortran or len(shape) != 2:
            raise ValueError(
                f"data must be a C-contiguous uint8 matrix, got shape {shape} of {dtype.code!r}"
            )
        if not isinstance(content, bytes) or len(content) != math.prod(shape):
            raise ValueError(f"data has {len(content)} bytes, which does not match shape {shape}")
        return np.frombuffer(content, np.uint8).reshape(shape)


class _PickledDtype:
    """Placeholder of a dtype in a pickle."""

    def __init__(self, code: Any = None, *arguments: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickler of builtin types and placeholders of arrays, which imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # only an argument of _reconstruct
        if (module, name) == ("numpy", "dtype"):
            return _PickledDtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _PickledArray
        raise ValueError(f"it refers to {module}.{name}, which is not allowed in image files")


def read_svhn(path: Path, image_shape: Shape) -> Pair:
    """Read images and labels 0 to 9 from a .mat file, where the label 10 means 0."""
    with _naming_errors(path), path.open("rb") as file:
        arrays = {name: (shape, kind) for name, shape, kind in whosmat(file)}
        shape, kind = arrays.get("X", ((), "nothing"))
        if len(shape) != 4 or kind != "uint8" or arrays.get("y", ((),))[0] != (shape[3], 1):
            raise ValueError(
                "it must contain a uint8 array X of shape (height, width, channels, n_samples) and "
                f"y of shape (n_samples, 1), got {arrays}"
            )
        _check_ratio(math.prod(shape), path.stat().st_size)
        file.seek(0)
        content = loadmat(file, variable_names=["X", "y"])
        target = content["y"].ravel().astype(np.int64)
        target[target == 10] = 0
        return flatten_images(np.moveaxis(content["X"], 3, 0), image_shape), target


def read_faces(path: Path, numbers: range) -> Pair:
    """Read aligned CelebA images with these numbers from a folder or a .zip file.

    The central 148 x 148 pixels are resized bilinearly to 64 x 64, as is common.
    """
    if path.suffix != ".zip":
        return _faces(path, numbers), None
    with _naming_errors(path):
        archive = zipfile.ZipFile(path)
    with archive:
        return _faces(zipfile.Path(archive, "img_align_celeba/"), numbers), None


def _faces(folder: Path | zipfile.Path, numbers: range) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "pillow is required to read jpg images: python -m pip install pillow. Images saved in "
            "an .npz file do not need it."
        ) from error
    files = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".jpg")}
    names = sorted(n for n in files if n[:-4].isdecimal() and int(n[:-4]) in numbers)
    if not names:
        raise ValueError(
            f"{folder} must contain images from {numbers[0]:06}.jpg to {numbers[-1]:06}.jpg, got "
            f"{len(files)} other images."
        )
    check_memory(len(names) * 12288, f"{len(names)} images of {folder}", "")
    X = np.empty((len(names), 12288), np.uint8)
    for row, name in zip(X, names, strict=True):
        with _naming_errors(files[name]), files[name].open("rb") as file:
            image = Image.open(file, formats=["JPEG"])
            if image.size != (178, 218):
                raise ValueError(f"it must have 178 x 218 pixels, got {image.size}")
            square = image.convert("RGB").crop((15, 35, 163, 183))
            small = square.resize((64, 64), Image.Resampling.BILINEAR)
            row[:] = np.moveaxis(np.asarray(small), 2, 0).ravel()
    return X


@contextmanager
def _naming_errors(path: Any) -> Iterator[None]:
    """Convert errors of readers to a ValueError that names the file."""
    try:
        yield
    except MemoryError as error:  # a damaged pickle can have an arbitrary length
        raise ValueError(f"{path} cannot be read: it requires too much memory.") from error
    except (zlib.error, EOFError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}.") from error
    except Exception as error:  # damaged pickles and .mat files raise many types
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file cannot be opened
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _check_ratio(n_bytes: int, n_compressed: int) -> None:
    """Raise ValueError if the size in a header exceeds the limit of the compression."""
    if n_bytes > DEFLATE_RATIO * n_compressed:
        raise ValueError(
            f"its header requires {n_bytes} bytes, which do not fit into {n_compressed} compressed "
            "bytes"
        )
