"""Published image data sets: files, checksums and copies on OpenML."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import fetch_openml, get_data_home

from sklearn_vae.datasets.formats import (
    Pair,
    Shape,
    check_md5,
    flatten_images,
    read_cifar_archive,
    read_cifar_batches,
    read_faces,
    read_idx,
    read_npz,
    read_svhn,
)


@dataclass(frozen=True)
class Source:
    """Files with the images of one split, and their reader."""

    paths: tuple[str, ...]  # relative to data_home
    read: Callable[..., Pair]  # of these paths

    def describe(self, folder: Path) -> str:
        """Return the names of the files, and which of them are missing if not all are."""
        missing = [path for path in self.paths if not (folder / path).exists()]
        some = len(missing) < len(self.paths)
        return ", ".join(self.paths) + (f" (of which {', '.join(missing)} is missing)" * some)


@dataclass(frozen=True)
class OpenML:
    """Data set of OpenML that begins with the training images in their original order."""

    name: str
    version: int
    train_counts: tuple[int, ...]  # images per class, to verify the order


@dataclass(frozen=True)
class ImageSet:
    """Published image data set."""

    name: str
    title: str
    home: str
    image_shape: Shape
    sources: dict[str, list[Source]]  # by split
    md5: dict[str, str] = field(default_factory=dict)  # by file name
    whole: tuple[str, ...] = ("train", "test")  # splits in "all"
    openml: OpenML | None = None


def load_split(images: ImageSet, split: str, data_home: Any, download: bool) -> tuple[Pair, str]:
    """Load images and labels of one split, and return them with the names of their files."""
    home = folder_of(data_home)
    if home.is_file():
        return read_npz(home, images.image_shape), str(home)
    npz = partial(read_npz, image_shape=images.image_shape)
    sources = [Source((f"{images.name}_{split}.npz",), npz), *images.sources[split]]
    for source in sources:
        paths = [home / path for path in source.paths]
        if not all(path.exists() for path in paths):
            continue
        for path in paths:
            if path.name in images.md5 and path.is_file():
                check_md5(path, images.md5[path.name])
        return source.read(*paths), ", ".join(map(str, paths))
    why, error = "download_if_missing is False", None
    if download:
        why = "they cannot be downloaded"
        if images.openml:
            try:
                return download_split(images, images.openml, split, home)
            except (OSError, HTTPException) as caught:
                why, error = f"the download from OpenML failed ({caught})", caught
    listed = "\n".join(f"  {source.describe(home)}" for source in sources)
    raise FileNotFoundError(
        f"The {split} images of {images.title} are not in {home}, and {why}. Add one of the "
        f"following to that folder: an .npz file with images in X and optional labels in y, or "
        f"files published at {images.home}.\n{listed}"
    ) from error


def folder_of(data_home: Any) -> Path:
    """Return the folder of the files."""
    if data_home is None:
        return Path(get_data_home()) / "sklearn_vae"
    return Path(data_home).expanduser()


def download_split(images: ImageSet, openml: OpenML, split: str, home: Path) -> tuple[Pair, str]:
    """Download both splits from OpenML, save them unless they exist, and return one."""
    bunch = fetch_openml(
        openml.name,
        version=openml.version,
        as_frame=False,
        cache=False,
        parser="pandas" if find_spec("pandas") else "liac-arff",
    )
    X = flatten_images(np.asarray(bunch.data), images.image_shape)
    y = np.asarray(bunch.target).astype(np.int64)
    n = sum(openml.train_counts)
    if tuple(np.bincount(y[:n], minlength=len(openml.train_counts))) != openml.train_counts:
        raise ValueError(
            f"The first {n} images of {openml.name}, version {openml.version}, on OpenML are not "
            f"the training images of {images.title}: the sizes of the classes differ."
        )
    splits = {"train": (X[:n], y[:n]), "test": (X[n:], y[n:])}
    home.mkdir(parents=True, exist_ok=True)
    for name, (data, labels) in splits.items():
        path = home / f"{images.name}_{name}.npz"
        if path.exists():
            continue
        unfinished = path.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(unfinished, X=data, y=labels)
        unfinished.replace(path)
    return splits[split], str(home / f"{images.name}_{split}.npz")


def _idx_sources(folders: tuple[str, ...]) -> dict[str, list[Source]]:
    names = {"train": "train", "test": "t10k"}
    return {
        split: [
            Source((f"{stem}-images-idx3-ubyte{end}", f"{stem}-labels-idx1-ubyte{end}"), read_idx)
            for folder in folders
            for end in (".gz", "")
            for stem in [f"{folder}/{name}"]
        ]
        for split, name in names.items()
    }


def _cifar_sources(
    archive: str, folder: str, label: str, batches: dict[str, list[str]]
) -> dict[str, list[Source]]:
    sources = {}
    for split, names in batches.items():
        members = tuple(f"{folder}/{name}" for name in names)
        sources[split] = [
            Source((archive,), partial(read_cifar_archive, members=members, label=label)),
            Source(members, partial(read_cifar_batches, label=label)),
        ]
    return sources


MNIST = ImageSet(
    "mnist",
    "MNIST",
    "yann.lecun.com/exdb/mnist",
    (1, 28, 28),
    _idx_sources(("mnist", "MNIST/raw")),
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    openml=OpenML("mnist_784", 1, (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)),
)

FASHION_MNIST = ImageSet(
    "fashion_mnist",
    "Fashion-MNIST",
    "github.com/zalandoresearch/fashion-mnist",
    (1, 28, 28),
    _idx_sources(("fashion_mnist", "FashionMNIST/raw")),
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    openml=OpenML("Fashion-MNIST", 1, (6000,) * 10),
)

CIFAR10 = ImageSet(
    "cifar10",
    "CIFAR-10",
    "www.cs.toronto.edu/~kriz/cifar.html",
    (3, 32, 32),
    _cifar_sources(
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        "labels",
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    ),
    {
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    openml=OpenML("CIFAR_10", 1, (5000,) * 10),
)

CIFAR100 = ImageSet(
    "cifar100",
    "CIFAR-100",
    "www.cs.toronto.edu/~kriz/cifar.html",
    (3, 32, 32),
    _cifar_sources(
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        "fine_labels",
        {"train": ["train"], "test": ["test"]},
    ),
    {
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
)

SVHN = ImageSet(
    "svhn",
    "SVHN",
    "ufldl.stanford.edu/housenumbers",
    (3, 32, 32),
    {
        split: [
            Source((f"{folder}{split}_32x32.mat",), partial(read_svhn, image_shape=(3, 32, 32)))
            for folder in ("", "svhn/")
        ]
        for split in ("train", "test", "extra")
    },
    {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
    },
)

CELEBA64 = ImageSet(
    "celeba64",
    "CelebA",
    "mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    (3, 64, 64),
    {
        split: [
            Source((f"{folder}img_align_celeba{end}",), partial(read_faces, numbers=numbers))
            for folder in ("", "celeba/")
            for end in ("", ".zip")
        ]
        for split, numbers in {
            "train": range(1, 162_771),
            "valid": range(162_771, 182_638),
            "test": range(182_638, 202_600),
        }.items()
    },
    {"img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb"},
    whole=("train", "valid", "test"),
)
