"""Tiny files in the formats in which sets of images are published."""

import gzip
import io
import struct
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_idx(folder, X, y, name="train", compressed=True):
    """Two idx files under the names that MNIST's have; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, array in ((f"{name}-images-idx3", X), (f"{name}-labels-idx1", y)):
        content = idx_bytes(array)
        paths.append(folder / (f"{kind}-ubyte.gz" if compressed else f"{kind}-ubyte"))
        paths[-1].write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    return paths


def string(text, kind=b"U"):
    """A str of Python 2, in the opcodes of its pickles."""
    size = struct.pack("<B" if kind == b"U" else "<I", len(text))
    return kind + size + text


def python2_batch(rows, labels, label=b"labels"):
    """A batch of CIFAR as Python 2 pickled it with NumPy 1, opcode by opcode."""
    n, d = rows.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + string(b"b") + b"tR"
    )
    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"J" + struct.pack("<i", n) + b"J" + struct.pack("<i", d) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(rows.tobytes(), b"T") + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([i]) for i in labels) + b"e"
    items = string(b"data") + array + string(label) + numbers
    items += string(b"batch_label") + string(b"training batch 1 of 5")
    return b"\x80\x02}(" + items + b"u."


def write_tar(path, members):
    """A .tar.gz archive of named bytes."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_svhn(path, images, digits):
    """A .mat file of images (n, h, w, c); the digit 0 has the label 10."""
    y = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
    savemat(path, {"X": np.moveaxis(images, 0, 3), "y": y}, do_compression=True)
    return path


def jpg_bytes(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()
