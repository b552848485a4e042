"""Files that are damaged, malicious, or something else than they say."""

import gzip
import io
import os
import pickle
import struct
import warnings
import zipfile
from functools import partial

import numpy as np
import pytest
from scipy.io import savemat

from sklearn_vae.datasets import formats
from tests.datasets.files import idx_bytes, python2_batch, write_idx, write_svhn, write_tar

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 28, 28)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (6, 3072)).astype(np.uint8)
LABELS = np.arange(6, dtype=np.uint8)
SHAPE = (3, 32, 32)


def make_idx(folder, compressed=True):
    images, labels = write_idx(folder, GRAY, LABELS, compressed=compressed)
    return images, lambda: formats.read_idx(images, labels)


def make_npz(folder, save=np.savez_compressed):
    save(folder / "rows.npz", X=GRAY, y=LABELS)
    return folder / "rows.npz", lambda: formats.read_npz(folder / "rows.npz", (1, 28, 28))


def make_batch(folder):
    path = folder / "data_batch_1"
    path.write_bytes(python2_batch(COLOUR, LABELS))
    return path, lambda: formats.read_cifar_batches(path, label="labels")


def make_tar(folder):
    path = write_tar(folder / "cifar.tar.gz", {"c/train": python2_batch(COLOUR, LABELS)})
    return path, lambda: formats.read_cifar_archive(path, members=["c/train"], label="labels")


def make_mat(folder):
    images = np.moveaxis(COLOUR.reshape(6, *SHAPE), 1, 3)
    path = write_svhn(folder / "train_32x32.mat", images, LABELS)
    return path, lambda: formats.read_svhn(path, SHAPE)


MAKERS = {
    "idx.gz": make_idx,
    "idx": lambda folder: make_idx(folder, compressed=False),
    "npz": make_npz,
    "npz stored": lambda folder: make_npz(folder, np.savez),
    "pickle": make_batch,
    "tar.gz": make_tar,
    "mat": make_mat,
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
class TestDamage:
    def test_the_whole_file(self, maker, tmp_path):
        _, read = maker(tmp_path)
        X, y = read()
        expected = GRAY if X.shape[1] == 784 else COLOUR
        np.testing.assert_array_equal(X, expected.reshape(6, -1))
        np.testing.assert_array_equal(y, LABELS)
        X[0, 0] += 1

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9])
    def test_cut_off(self, maker, share, tmp_path):
        path, read = maker(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=path.name):
            read()

    def test_bytes_that_changed(self, maker, tmp_path):
        """An error that names the file, or images of the right width; nothing else."""
        path, read = maker(tmp_path)
        content, refused = path.read_bytes(), 0
        rng = np.random.default_rng(1)
        # Headers and trailers are short beside the pixels.
        for place in rng.choice(np.r_[0:100, -100:0], 80):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    X, _ = read()
            except ValueError as error:
                assert path.name in str(error)  # noqa: PT017
                refused += 1
            else:
                assert X.dtype == np.uint8
                assert X.shape[1] in (784, 3072)
        assert refused > 3

    def test_no_such_file_is_said_by_the_system(self, maker, tmp_path):
        path, read = maker(tmp_path)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            read()


class TestHeaders:
    """What a header announces is not believed before it is compared with the file."""

    @pytest.mark.parametrize("compressed", [True, False])
    def test_idx(self, compressed, tmp_path):
        path, read = make_idx(tmp_path, compressed)
        pack = gzip.compress if compressed else bytes
        content = idx_bytes(GRAY)
        path.write_bytes(pack(content[:4] + struct.pack(">3I", 2**31, 2**31, 3) + content[16:]))
        with pytest.raises(ValueError, match="header requires"):
            read()
        for other in (content + b"1", content[:-1]):
            path.write_bytes(pack(other))
            with pytest.raises(
                ValueError, match=r"header requires 4704 bytes for \(6, 28, 28\), but it h"
            ):
                read()
        path.write_bytes(pack(content[:3] + b"\x02" + content[4:]))
        with pytest.raises(ValueError, match="must begin with the header of an idx file of 3-d"):
            read()
        path.write_bytes(pack(idx_bytes(GRAY[:5])))
        with pytest.raises(ValueError, match=r"has 5 images, but .* has 6 labels"):
            read()

    @pytest.mark.parametrize("shape", [(10**6, 10**6), (2, 784), (5, 784)])
    def test_npz(self, shape, tmp_path):
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(tmp_path / "rows.npz", "w") as archive:
            archive.writestr("X.npy", file.getvalue() + bytes(3 * 784))
        with pytest.raises(ValueError, match=r"rows\.npz cannot be read: X\.npy has \d+ bytes"):
            formats.read_npz(tmp_path / "rows.npz", (1, 28, 28))

    @pytest.mark.parametrize("content", [{}, {"X": COLOUR, "y": LABELS}, {"X": 1.0}])
    def test_mat(self, content, tmp_path):
        savemat(tmp_path / "other.mat", content)
        with pytest.raises(
            ValueError,
            match=r"other\.mat cannot be read: it must contain a uint8 array X of shape \(height",
        ):
            formats.read_svhn(tmp_path / "other.mat", SHAPE)


class TestNpz:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (np.zeros((2, 783)), r"images of shape .* = \(1, 28, 28\), got \(2, 783\)"),
            (np.zeros((2, 32, 32)), r"got \(2, 32, 32\)"),
            (np.zeros(784), r"got \(784,\)"),
            (np.full((2, 784), 0.5), r"integers from 0 to 255 only, got other values .float64"),
            (np.full((2, 784), 256), "integers from 0 to 255"),
            (np.full((2, 784), -1), "integers from 0 to 255"),
            (np.full((2, 784), np.nan), "integers from 0 to 255"),
            (np.full((2, 784), "a"), "integers from 0 to 255"),
        ],
    )
    def test_rows_that_are_no_images(self, rows, message, tmp_path):
        np.savez(tmp_path / "rows.npz", X=rows)
        with pytest.raises(ValueError, match=message):
            formats.read_npz(tmp_path / "rows.npz", (1, 28, 28))

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
    def test_kinds_of_numbers(self, dtype, tmp_path):
        rows = (GRAY > 100 if dtype is bool else GRAY).astype(dtype)
        np.savez(tmp_path / "rows.npz", X=rows)
        X, y = formats.read_npz(tmp_path / "rows.npz", (1, 28, 28))
        np.testing.assert_array_equal(X, rows.reshape(6, -1))
        assert X.dtype == np.uint8
        assert y is None

    def test_arrays_that_are_not_there(self, tmp_path):
        path = tmp_path / "rows.npz"
        np.savez(path, x_train=GRAY, y_train=LABELS)
        with pytest.raises(ValueError, match="must contain an array X, got x_train, y_train"):
            formats.read_npz(path, (1, 28, 28))
        np.savez(path, X=GRAY, y=LABELS[:5])
        with pytest.raises(
            ValueError, match=r"y must have one entry per image in X, got \(5,\) and"
        ):
            formats.read_npz(path, (1, 28, 28))

    def test_objects_are_not_unpickled(self, tmp_path):
        path, written = tmp_path / "rows.npz", tmp_path / "written"
        np.savez(path, X=np.array([Malicious(open, str(written), "w")], dtype=object))
        with pytest.raises(ValueError, match=r"rows\.npz cannot be read"):
            formats.read_npz(path, (1, 28, 28))
        assert not written.exists()


class Malicious:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestPickles:
    def test_the_batches_of_the_tests_are_what_numpy_reads(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the module that NumPy 2 has moved
            batch = pickle.loads(python2_batch(COLOUR, LABELS), encoding="bytes")
        np.testing.assert_array_equal(batch[b"data"], COLOUR)
        assert batch[b"labels"] == list(LABELS)

    @pytest.mark.parametrize("protocol", [3, 4])
    def test_pickled_by_python_3(self, protocol, tmp_path):
        batch = {"data": COLOUR, "labels": LABELS.tolist()}
        path = tmp_path / "data_batch_1"
        path.write_bytes(pickle.dumps(batch, protocol=protocol))
        X, y = formats.read_cifar_batches(path, path, label="labels")
        np.testing.assert_array_equal(X, np.concatenate([COLOUR, COLOUR]))
        np.testing.assert_array_equal(y, np.tile(LABELS, 2))

    @pytest.mark.parametrize("protocol", range(5))
    @pytest.mark.parametrize("packed", [False, True])
    def test_malicious(self, packed, protocol, tmp_path):
        written = tmp_path / "written"
        malicious = Malicious(open, str(written), "w")
        content = pickle.dumps({"data": COLOUR, "labels": [malicious]}, protocol=max(protocol, 3))
        content = pickle.dumps(malicious, protocol=protocol) if protocol < 3 else content
        path = tmp_path / "data_batch_1"
        path.write_bytes(content)
        read = partial(formats.read_cifar_batches, path, label="labels")
        if packed:
            path = write_tar(tmp_path / "cifar.tar.gz", {"c/train": content})
            read = partial(formats.read_cifar_archive, path, members=["c/train"], label="labels")
        with pytest.raises(ValueError, match=r"it refers to \w*io\.open, which is not") as caught:
            read()
        assert str(path) in str(caught.value)
        assert not written.exists()
        loaded = pickle.loads(content)  # what would have happened
        assert written.exists()
        (loaded["labels"][0] if isinstance(loaded, dict) else loaded).close()

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
            (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
            (b"c__builtin__\ngetattr\n(S'1'\ntR.", "__builtin__.getattr"),
            (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
            (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
            (b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.", "numpy.dtype.__new__"),
        ],
    )
    def test_names_that_are_forbidden(self, content, name, tmp_path):
        path = tmp_path / "data_batch_1"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"data_batch_1 cannot be read: it refers to {name}, "):
            formats.read_cifar_batches(path, label="labels")

    def test_stand_ins_cannot_be_changed_by_a_pickle(self, tmp_path):
        """Nor can one file do anything to the reading of the next."""
        path, read = make_batch(tmp_path)
        bad = tmp_path / "bad"
        for state in (b"}(U\x04rowsK\x01u", b"N}(U\x04rowsK\x01u\x86"):
            bad.write_bytes(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n" + state + b"b.")
            with pytest.raises(ValueError, match="bad cannot be read"):
                formats.read_cifar_batches(bad, label="labels")
        np.testing.assert_array_equal(read()[0], COLOUR)
        assert os.path.samefile(path.parent, tmp_path)

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ([1, 2], "it holds a list instead of a dict"),
            ({"data": COLOUR}, "must contain an array named data and a list named labels"),
            ({"data": b"", "labels": []}, "must contain an array named data"),
            ({"data": COLOUR.astype(float), "labels": [0] * 6}, "uint8 matrix, got .* of 'f8'"),
            ({"data": COLOUR[0], "labels": [0]}, r"uint8 matrix, got shape \(3072,\)"),
            ({"data": np.asfortranarray(COLOUR), "labels": [0] * 6}, "C-contiguous uint8 matrix"),
            ({"data": COLOUR, "labels": [0]}, r"shape \(1, 3072\) for 1 labels, got \(6, 3072\)"),
            (
                {"data": COLOUR[:, :9], "labels": [0] * 6},
                r"shape \(6, 3072\) for 6 labels, got \(6, 9\)",
            ),
        ],
    )
    def test_something_else(self, batch, message, tmp_path):
        path = tmp_path / "data_batch_1"
        path.write_bytes(pickle.dumps(batch, protocol=3))
        with pytest.raises(ValueError, match=message):
            formats.read_cifar_batches(path, label="labels")

    def test_an_archive_without_the_batch(self, tmp_path):
        path = write_tar(tmp_path / "cifar.tar.gz", {"c/other": b""})
        with pytest.raises(ValueError, match=r"cifar\.tar\.gz cannot be read: .*c/train"):
            formats.read_cifar_archive(path, members=["c/train"], label="labels")
