"""Sets of images from files as they are published, and what is said where there are none."""

import hashlib
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from sklearn_vae.datasets import (
    fetch_celeba64,
    fetch_cifar10,
    fetch_cifar100,
    fetch_fashion_mnist,
    fetch_mnist,
    fetch_svhn,
    images,
    load_digit_images,
    sources,
)
from tests.datasets.files import jpg_bytes, python2_batch, write_idx, write_svhn, write_tar

FETCHERS = {
    fetch_mnist: sources.MNIST,
    fetch_fashion_mnist: sources.FASHION_MNIST,
    fetch_cifar10: sources.CIFAR10,
    fetch_cifar100: sources.CIFAR100,
    fetch_svhn: sources.SVHN,
    fetch_celeba64: sources.CELEBA64,
}
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 28, 28)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (12, 3, 32, 32)).astype(np.uint8)
LABELS = RNG.integers(0, 10, 12).astype(np.uint8)


@pytest.fixture
def as_published(monkeypatch):
    """Lets files that a test has written pass for the published ones."""

    def register(images, *paths):
        for path in paths:
            assert path.name in images.md5
            md5 = hashlib.md5(path.read_bytes()).hexdigest()
            monkeypatch.setitem(images.md5, path.name, md5)

    return register


def check(bunch, X, y):
    np.testing.assert_array_equal(bunch.data, np.reshape(X, (len(X), -1)))
    assert bunch.data.dtype == np.uint8
    assert bunch.data.flags.writeable
    if y is None:
        assert bunch.target is None
    else:
        np.testing.assert_array_equal(bunch.target, y)
    assert bunch.data.shape[1] == np.prod(bunch.image_shape)
    assert bunch.n_levels == 256


class TestEveryFetcher:
    @pytest.mark.parametrize(("fetch", "published"), FETCHERS.items())
    def test_npz(self, fetch, published, tmp_path):
        c, h, w = published.image_shape
        X = RNG.integers(0, 256, (7, c, h, w)).astype(np.uint8)
        channels_last = np.moveaxis(X, 1, 3)
        for split, rows in (("train", X.reshape(7, -1)), ("test", channels_last)):
            np.savez(tmp_path / f"{published.name}_{split}.npz", X=rows, y=LABELS[:7])
        if "valid" in published.sources:
            np.savez_compressed(tmp_path / "celeba64_valid.npz", X=X.astype(float))
        for split in ("train", "test"):
            check(fetch(split=split, data_home=tmp_path), X, LABELS[:7])
        rows, labels = fetch(data_home=str(tmp_path), return_X_y=True)
        np.testing.assert_array_equal(rows, X.reshape(7, -1))
        np.testing.assert_array_equal(labels, LABELS[:7])
        whole = fetch(split="all", data_home=tmp_path)
        if "valid" in published.sources:
            check(whole, np.concatenate([X, X, X]), None)
        else:
            check(whole, np.concatenate([X, X]), np.concatenate([LABELS[:7]] * 2))
            assert whole.source.count(".npz") == 2
        one = fetch(split="all", data_home=tmp_path / f"{published.name}_test.npz")
        check(one, X, LABELS[:7])
        assert published.title in one.DESCR

    @pytest.mark.parametrize(("fetch", "published"), FETCHERS.items())
    def test_nothing_there(self, fetch, published, tmp_path):
        with pytest.raises(OSError, match="download_if_missing is False") as caught:
            fetch(split="test", data_home=tmp_path / "no", download_if_missing=False)
        text = str(caught.value)
        assert f"The test images of {published.title} are not in {tmp_path / 'no'}" in text
        assert f"{published.name}_test.npz" in text
        assert published.home in text
        for source in published.sources["test"]:
            assert all(path in text for path in source.paths)
        assert not (tmp_path / "no").exists()

    @pytest.mark.parametrize(("fetch", "published"), FETCHERS.items())
    def test_no_network(self, fetch, published, tmp_path, monkeypatch):
        def no_network(*arguments, **keywords):
            raise OSError("no route to host")

        monkeypatch.setattr(sources, "fetch_openml", no_network)
        has_download = published.openml is not None
        assert has_download == (fetch in (fetch_mnist, fetch_fashion_mnist, fetch_cifar10))
        why = "OpenML failed .no route to host" if has_download else "they cannot be downloaded"
        with pytest.raises(OSError, match=why):
            fetch(data_home=tmp_path)

    @pytest.mark.parametrize("fetch", FETCHERS)
    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"split": "dev"}, "split must be one of 'train', .*'all', got 'dev'"),
            ({"download_if_missing": 1}, "download_if_missing must be True or False, got 1"),
            ({"return_X_y": None}, "return_X_y must be True or False, got None"),
        ],
    )
    def test_errors(self, fetch, keywords, message):
        with pytest.raises(ValueError, match=message):
            fetch(**keywords)

    def test_default_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
        (tmp_path / "sklearn_vae").mkdir()
        np.savez(tmp_path / "sklearn_vae" / "mnist_test.npz", X=GRAY)
        check(fetch_mnist(split="test"), GRAY, None)

    def test_checksums_are_md5(self):
        for published in FETCHERS.values():
            assert published.md5
            assert all(len(md5) == 32 and int(md5, 16) for md5 in published.md5.values())


class TestOriginalFiles:
    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("layout", [0, 1])
    @pytest.mark.parametrize("fetch", [fetch_mnist, fetch_fashion_mnist])
    def test_idx(self, fetch, layout, compressed, tmp_path, as_published):
        published = FETCHERS[fetch]
        own = (published.name, "MNIST/raw" if fetch is fetch_mnist else "FashionMNIST/raw")
        folder = tmp_path / own[layout]
        paths = write_idx(folder, GRAY[:9], LABELS[:9], "train", compressed)
        paths += write_idx(folder, GRAY[9:], LABELS[9:], "t10k", compressed)
        if compressed:
            as_published(published, *paths)
        check(fetch(data_home=tmp_path), GRAY[:9], LABELS[:9])
        check(fetch(split="all", data_home=tmp_path), GRAY, LABELS)
        paths[1].unlink()
        with pytest.raises(OSError, match=f"of which .*{paths[1].name} is missing"):
            fetch(data_home=tmp_path, download_if_missing=False)

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("fetch", [fetch_cifar10, fetch_cifar100])
    def test_cifar(self, fetch, packed, tmp_path, as_published):
        published = FETCHERS[fetch]
        rows = COLOUR.reshape(12, -1)
        if fetch is fetch_cifar10:
            folder, label, n = "cifar-10-batches-py", b"labels", 2
            names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        else:
            folder, label, n = "cifar-100-python", b"fine_labels", 6
            names = ["train", "test"]
        batches = {
            f"{folder}/{name}": python2_batch(rows[i : i + n], LABELS[i : i + n], label)
            for i, name in zip(range(0, 12, n), names, strict=True)
        }
        if packed:
            paths = [write_tar(tmp_path / published.sources["train"][0].paths[0], batches)]
        else:
            (tmp_path / folder).mkdir()
            paths = [tmp_path / name for name in batches]
            for path, content in zip(paths, batches.values(), strict=True):
                path.write_bytes(content)
        as_published(published, *paths)
        check(fetch(data_home=tmp_path), rows[:-n], LABELS[:-n])
        check(fetch(split="test", data_home=tmp_path), rows[-n:], LABELS[-n:])

    @pytest.mark.parametrize("folder", ["", "svhn"])
    def test_svhn(self, folder, tmp_path, as_published):
        (tmp_path / folder).mkdir(exist_ok=True)
        channels_last = np.moveaxis(COLOUR, 1, 3)
        digits = np.arange(12) % 10
        for split in ("train", "test", "extra"):
            path = tmp_path / folder / f"{split}_32x32.mat"
            as_published(sources.SVHN, write_svhn(path, channels_last, digits))
            check(fetch_svhn(split=split, data_home=tmp_path), COLOUR, digits)
        assert len(fetch_svhn(split="all", data_home=tmp_path).data) == 24

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("folder", ["", "celeba"])
    def test_celeba(self, folder, packed, tmp_path, as_published):
        # Red grows to the right, green downwards, and blue is the number of the image.
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(178), np.arange(218)[:, None]
        contents = {}
        for number, blue in ((7, 10), (2, 200), (162_770, 30), (162_771, 90), (202_599, 160)):
            pixels[..., 2] = blue
            contents[f"img_align_celeba/{number:06}.jpg"] = jpg_bytes(pixels)
        (tmp_path / folder / "img_align_celeba").mkdir(parents=True)
        if packed:
            (tmp_path / folder / "img_align_celeba").rmdir()
            path = tmp_path / folder / "img_align_celeba.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in contents.items():
                    archive.writestr(name, content)
            as_published(sources.CELEBA64, path)
        else:
            for name, content in contents.items():
                (tmp_path / folder / name).write_bytes(content)
        bunch = fetch_celeba64(data_home=tmp_path)
        check(bunch, bunch.data, None)
        faces = bunch.data.reshape(-1, *bunch.image_shape).astype(float)
        assert len(faces) == 3
        # The middle of pixel i of 64 lies at (i + 1/2) 148/64 of the square cut out.
        middle = (np.arange(64) + 0.5) * 148 / 64 - 0.5
        inner = slice(1, -1)
        red, green = faces[:, 0, inner, inner], faces[:, 1, inner, inner]
        np.testing.assert_allclose(red.mean(axis=(0, 1)), 15 + middle[inner], atol=2)
        np.testing.assert_allclose(green.mean(axis=(0, 2)), 35 + middle[inner], atol=2)
        np.testing.assert_allclose(faces[:, 2].mean(axis=(1, 2)), [200, 10, 30], atol=3)
        for split, blue in (("valid", [90]), ("test", [160]), ("all", [200, 10, 30, 90, 160])):
            data = fetch_celeba64(split=split, data_home=tmp_path).data.reshape(-1, 3, 4096)
            np.testing.assert_allclose(data[:, 2].mean(axis=1), blue, atol=3)

    def test_celeba_errors(self, tmp_path, monkeypatch):
        folder = tmp_path / "img_align_celeba"
        folder.mkdir()
        (folder / "000001.jpg").write_bytes(jpg_bytes(np.zeros((64, 64, 3), np.uint8)))
        with pytest.raises(ValueError, match=r"000001.jpg .* 178 x 218 pixels, got \(64, 64\)"):
            fetch_celeba64(data_home=tmp_path)
        with pytest.raises(
            ValueError, match=r"must contain images from 162771.jpg to 182637.jpg, got 1 other"
        ):
            fetch_celeba64(split="valid", data_home=tmp_path)
        whole = jpg_bytes(RNG.integers(0, 256, (218, 178, 3)).astype(np.uint8))
        for content in (b"", b"not an image", whole[: len(whole) // 2]):
            (folder / "000001.jpg").write_bytes(content)
            with pytest.raises(ValueError, match=r"000001\.jpg cannot be read"):
                fetch_celeba64(data_home=tmp_path)
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ImportError, match="pip install pillow"):
            fetch_celeba64(data_home=tmp_path)

    def test_a_file_that_is_not_the_published_one(self, tmp_path):
        paths = write_idx(tmp_path / "mnist", GRAY, LABELS)
        found = hashlib.md5(paths[0].read_bytes()).hexdigest()
        expected = sources.MNIST.md5[paths[0].name]
        text = f"{paths[0]} must have the MD5 checksum .*, {expected}, got {found}"
        with pytest.raises(ValueError, match=text):
            fetch_mnist(data_home=tmp_path)
        np.savez(tmp_path / "mnist_train.npz", X=GRAY, y=LABELS)
        check(fetch_mnist(data_home=tmp_path), GRAY, LABELS)


class TestDownload:
    @pytest.fixture
    def openml(self, monkeypatch):
        """OpenML with 8 and 4 images, and the calls that it got."""
        X, y = GRAY.reshape(12, -1), np.array([0, 1, 2, 0, 1, 2, 0, 0, 2, 1, 0, 1])
        calls = []

        def fetch_openml(name, **keywords):
            calls.append((name, keywords))
            return Bunch(data=X.astype(np.int64), target=y.astype(str).astype(object))

        monkeypatch.setattr(sources, "fetch_openml", fetch_openml)
        few = replace(sources.MNIST, openml=sources.OpenML("mnist_784", 1, (4, 2, 2)))
        monkeypatch.setattr(images, "MNIST", few)
        return y, calls

    def test_both_splits_are_kept(self, openml, tmp_path):
        y, calls = openml
        home = tmp_path / "new" / "folder"
        check(fetch_mnist(split="test", data_home=home), GRAY[8:], y[8:])
        ((name, keywords),) = calls
        assert (name, keywords["version"], keywords["as_frame"]) == ("mnist_784", 1, False)
        check(fetch_mnist(data_home=home), GRAY[:8], y[:8])
        check(fetch_mnist(split="all", data_home=home, download_if_missing=False), GRAY, y)
        assert len(calls) == 1
        files = sorted(path.name for path in home.iterdir())
        assert files == ["mnist_test.npz", "mnist_train.npz"]

    def test_files_that_exist_are_not_written_over(self, openml, tmp_path):
        np.savez(tmp_path / "mnist_train.npz", X=GRAY[:1])
        check(fetch_mnist(split="test", data_home=tmp_path), GRAY[8:], openml[0][8:])
        check(fetch_mnist(data_home=tmp_path), GRAY[:1], None)

    def test_another_order_is_an_error(self, openml, tmp_path):
        openml[0][:] = openml[0][::-1].copy()
        with pytest.raises(
            ValueError, match="first 8 images of mnist_784, version 1, on OpenML are n"
        ):
            fetch_mnist(data_home=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_counts_of_the_training_images(self):
        for fetch, n in (
            (fetch_mnist, 60_000),
            (fetch_fashion_mnist, 60_000),
            (fetch_cifar10, 50_000),
        ):
            assert sum(FETCHERS[fetch].openml.train_counts) == n


def test_digits():
    digits = load_digit_images()
    np.testing.assert_array_equal(digits.data, load_digits().data)
    assert digits.data.dtype == np.uint8
    assert digits.data.max() == digits.n_levels - 1
    assert digits.image_shape == (1, 8, 8)
    X, y = load_digit_images(return_X_y=True)
    np.testing.assert_array_equal(X, digits.data)
    np.testing.assert_array_equal(y, digits.target)
    with pytest.raises(ValueError, match="return_X_y must be True or False, got 2"):
        load_digit_images(return_X_y=2)
