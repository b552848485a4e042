"""Readers of image files that never run code from a file.

A damaged or malicious file is a ValueError that names it. The size that a header announces is
compared with that of the file before memory is allocated.
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

# Most bytes that deflate makes of one.
DEFLATE_RATIO = 1032


def check_md5(path: Path, expected: str) -> None:
    """Raise ValueError unless the file has this MD5 checksum."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path} is not the file that was published: its MD5 checksum is {actual}, expected "
            f"{expected}. Replace it; or, if it is meant to differ, save what it has as an .npz "
            "file, of which no checksum is known."
        )


def read_npz(path: Path, image_shape: Shape) -> Pair:
    """Images X and, if there are any, labels y of an .npz file.

    X may be (n, c h w), (n, h, w) for one channel, (n, c, h, w) or (n, h, w, c).
    """
    with _damage(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "X.npy" not in names:
            keys = ", ".join(name.removesuffix(".npy") for name in names)
            raise ValueError(f"it needs the rows in X, and has {keys or 'nothing'}")
        X = _member_array(archive, "X.npy")
        y = _member_array(archive, "y.npy") if "y.npy" in names else None
        if y is not None and (y.ndim == 0 or len(y) != len(X)):
            raise ValueError(f"y must have one entry a row of X, got {y.shape} and {X.shape}")
        return as_rows(X, image_shape), y


def _member_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an .npz file, whose header is checked against the size of the member."""
    info = archive.getinfo(name)
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or file.tell() + n_bytes != info.file_size:
            raise ValueError(f"{name} has {info.file_size} bytes, which is not {shape} of {dtype}")
        _check_ratio(n_bytes, info.compress_size)
        check_memory(n_bytes, f"{name} of {archive.filename} has {shape} of {dtype}", "")
    with archive.open(name) as file:
        return npy.read_array(file, allow_pickle=False)


def as_rows(X: np.ndarray, image_shape: Shape) -> np.ndarray:
    """Images as rows of uint8, (n, c h w), with channels first."""
    c, h, w = image_shape
    if X.ndim and not len(X):
        raise ValueError("X must have rows, and has none")
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
                f"X must have whole numbers from 0 to 255 only, got others ({X.dtype})"
            )
        X = X.astype(np.uint8)
    return np.ascontiguousarray(X).reshape(len(X), -1)


def read_idx(images_path: Path, labels_path: Path) -> Pair:
    """Images and labels of two idx files, plain or compressed by gzip."""
    images, labels = _idx_array(images_path, 3), _idx_array(labels_path, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels."
        )
    return images.reshape(len(images), -1), labels


def _idx_array(path: Path, ndim: int) -> np.ndarray:
    """The uint8 array of one idx file."""
    compressed = path.suffix == ".gz"
    size = path.stat().st_size
    with _damage(path), gzip.open(path) if compressed else path.open("rb") as file:
        header = file.read(4 + 4 * ndim)
        if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"it does not begin as an idx file of {ndim}-dimensional bytes does")
        shape = tuple(int(length) for length in np.frombuffer(header[4:], ">u4"))
        n_bytes = math.prod(shape)
        if compressed:
            _check_ratio(n_bytes, size)
        # One byte more than there should be, to notice a file that is too long.
        content = file.read(min(n_bytes, size * (DEFLATE_RATIO if compressed else 1)) + 1)
        if len(content) != n_bytes:
            which = "more" if len(content) > n_bytes else f"{len(content)} bytes"
            raise ValueError(f"its header says {shape}, {n_bytes} bytes, but it has {which}")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()  # a view of bytes is read-only


def read_cifar_batches(*paths: Path, label: str) -> Pair:
    """Images and labels of pickled batches, in this order."""
    batches = []
    for path in paths:
        with _damage(path), path.open("rb") as file:
            batches.append(_cifar_batch(file, label))
    return _joined(batches)


def read_cifar_archive(path: Path, *, members: Sequence[str], label: str) -> Pair:
    """Images and labels of batches in the published archive, which is not unpacked to disk."""
    with _damage(path), tarfile.open(path, "r:gz") as archive:
        contents = [_member_content(archive, name) for name in members]
    batches = []
    for name, content in zip(members, contents, strict=True):
        with _damage(f"{name} of {path}"):
            batches.append(_cifar_batch(io.BytesIO(content), label))
    return _joined(batches)


def _member_content(archive: tarfile.TarFile, name: str) -> bytes:
    """A file of a compressed archive, whose header is checked against the archive's size."""
    member = archive.getmember(name)
    _check_ratio(member.size, Path(str(archive.name)).stat().st_size)
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{name} in it is not a file")
    return file.read()


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> Pair:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _cifar_batch(file: IO[bytes], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, channels first as published, and labels of one pickled batch."""
    content = _RestrictedUnpickler(file, encoding="bytes").load()
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__} instead of a dict")
    named = {key.decode() if isinstance(key, bytes) else key: content[key] for key in content}
    images, labels = named.get("data"), named.get(label)
    if not (isinstance(images, _PickledArray) and isinstance(labels, list)):
        raise TypeError(f"it needs an array named data and a list named {label}")
    rows, target = images.rows(), np.array(labels, dtype=np.int64)
    if rows.shape != (len(target), 3072):
        raise ValueError(f"it has images of shape {rows.shape} and {len(target)} labels")
    return rows, target


class _PickledArray:
    """Stands for an array in a pickle until its state is checked."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def rows(self) -> np.ndarray:
        """The array; ValueError unless it is a matrix of bytes in the order of rows."""
        _, shape, dtype, by_columns, content = self.state
        if dtype.code not in (b"u1", "u1") or by_columns or len(shape) != 2:
            raise ValueError(f"data must be rows of uint8, got shape {shape} of {dtype.code!r}")
        if not isinstance(content, bytes) or len(content) != math.prod(shape):
            raise ValueError(f"data has {len(content)} bytes, which is not of shape {shape}")
        return np.frombuffer(content, np.uint8).reshape(shape)


class _PickledDtype:
    """Stands for a dtype in a pickle."""

    def __init__(self, code: Any = None, *arguments: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


class _RestrictedUnpickler(pickle.Unpickler):
    """Loads builtin containers, numbers, strings and stand-ins for arrays; imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # only an argument of the next
        if (module, name) == ("numpy", "dtype"):
            return _PickledDtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _PickledArray
        raise ValueError(f"it names {module}.{name}, which an array of images does not need")


def read_svhn(path: Path, image_shape: Shape) -> Pair:
    """Rows with channels first, and the labels 0 to 9, of a .mat file; its 10 is the digit 0."""
    with _damage(path), path.open("rb") as file:
        arrays = {name: (shape, kind) for name, shape, kind in whosmat(file)}
        shape, kind = arrays.get("X", ((), "nothing"))
        if len(shape) != 4 or kind != "uint8" or arrays.get("y", ((),))[0] != (shape[3], 1):
            raise ValueError(f"it needs X (h, w, c, n) of uint8 and y (n, 1), and has {arrays}")
        _check_ratio(math.prod(shape), path.stat().st_size)
        file.seek(0)
        content = loadmat(file, variable_names=["X", "y"])
        target = content["y"].ravel().astype(np.int64)
        target[target == 10] = 0
        return as_rows(np.moveaxis(content["X"], 3, 0), image_shape), target


def read_faces(path: Path, numbers: range) -> Pair:
    """Aligned CelebA images with these numbers, from a folder or .zip, as rows of 3 x 64 x 64.

    The central 148 x 148 pixels are resized bilinearly, as is usual.
    """
    if path.suffix != ".zip":
        return _faces(path, numbers), None
    with _damage(path):
        archive = zipfile.ZipFile(path)
    with archive:
        return _faces(zipfile.Path(archive, "img_align_celeba/"), numbers), None


def _faces(folder: Path | zipfile.Path, numbers: range) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Reading jpg images needs pillow: python -m pip install pillow. Rows that are saved in "
            "an .npz file do not need it."
        ) from error
    files = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".jpg")}
    names = sorted(n for n in files if n[:-4].isdecimal() and int(n[:-4]) in numbers)
    if not names:
        raise ValueError(
            f"{folder} has no image from {numbers[0]:06}.jpg to {numbers[-1]:06}.jpg, but "
            f"{len(files)} others."
        )
    check_memory(len(names) * 12288, f"{len(names)} images of {folder}", "")
    rows = np.empty((len(names), 12288), np.uint8)
    for row, name in zip(rows, names, strict=True):
        with _damage(files[name]), files[name].open("rb") as file:
            image = Image.open(file, formats=["JPEG"])
            if image.size != (178, 218):
                raise ValueError(f"it must have 178 x 218 pixels, got {image.size}")
            square = image.convert("RGB").crop((15, 35, 163, 183))
            small = square.resize((64, 64), Image.Resampling.BILINEAR)
            row[:] = np.moveaxis(np.asarray(small), 2, 0).ravel()
    return rows


@contextmanager
def _damage(path: Any) -> Iterator[None]:
    """Turn errors of readers into a ValueError that names the file."""
    try:
        yield
    except MemoryError as error:  # of a length that a damaged pickle claims
        text = f"{path} cannot be read: it asks for more memory than there is."
        raise ValueError(text) from error
    except (zlib.error, EOFError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is cut off or damaged: {error}.") from error
    except Exception as error:  # damaged pickles and .mat files raise whatever they hit
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it cannot be opened
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _check_ratio(n_bytes: int, n_compressed: int) -> None:
    """Raise ValueError if compressed bytes cannot hold what their header says."""
    if n_bytes > DEFLATE_RATIO * n_compressed:
        raise ValueError(f"its header says {n_bytes} bytes, which {n_compressed} cannot hold")
