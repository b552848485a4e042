"""Images as rows: the digits of scikit-learn, and published sets that are read from files."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from sklearn_vae.datasets.sources import (
    CELEBA64,
    CIFAR10,
    CIFAR100,
    FASHION_MNIST,
    MNIST,
    SVHN,
    ImageSet,
    folder_of,
    load_split,
)
from sklearn_vae.validation import check_choice, check_flag


def load_digit_images(*, return_X_y: bool = False) -> Any:
    """1797 handwritten digits of 8 x 8 pixels, which come with scikit-learn.

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead.

    Returns
    -------
    Bunch
        With `data`, ndarray (1797, 64) of uint8 from 0 to 16; `target`, ndarray (1797,) of the
        digits; `image_shape`, (1, 8, 8); `n_levels`, 17; `source`; `DESCR`.

    Examples
    --------
    >>> from sklearn_vae.datasets import load_digit_images
    >>> digits = load_digit_images()
    >>> digits.data.shape, digits.image_shape, digits.n_levels
    ((1797, 64), (1, 8, 8), 17)
    """
    check_flag("return_X_y", return_X_y)
    digits = load_digits()
    bunch = Bunch(
        data=digits.data.astype(np.uint8),
        target=digits.target,
        image_shape=(1, 8, 8),
        n_levels=17,
        source="sklearn.datasets.load_digits",
        DESCR=digits.DESCR,
    )
    return (bunch.data, bunch.target) if return_X_y else bunch


def fetch_mnist(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """70,000 handwritten digits of 28 x 28 pixels: MNIST.

    Looked for in `data_home`, in this order:

    - ``mnist_train.npz``, ``mnist_test.npz``;
    - ``mnist/train-images-idx3-ubyte.gz`` and ``mnist/train-labels-idx1-ubyte.gz``, and with
      ``t10k`` instead of ``train`` for "test"; the same without ``.gz``; and both in ``MNIST/raw``,
      where torchvision has them.

    An ``.npz`` file has images in X, and labels in y if they are known. X has shape
    (n, c h w), (n, c, h, w), (n, h, w, c) or, of one channel, (n, h, w). The other files are those
    that were published, and those with a known MD5 checksum are checked against it.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        "all" is "train" and then "test".
    data_home : str or path-like, default=None
        The folder of these files, or an .npz file, whose rows are taken whatever the split. None:
        `sklearn_vae` in the folder of :func:`sklearn.datasets.get_data_home`.
    download_if_missing : bool, default=True
        Whether to download the images from OpenML where there are no files. Both splits are
        saved in `data_home` then.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead.

    Returns
    -------
    Bunch
        With `data`, ndarray (n, 784) of uint8; `target`, ndarray (n,) of the digits, or None;
        `image_shape`, (1, 28, 28); `n_levels`, 256; `source`, the files that were read;
        `DESCR`.

    Raises
    ------
    OSError
        If there are no such files and none can be downloaded; it says which to put where.
    ValueError
        If a parameter is out of its range, or a file is damaged or not the one published.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE 1998.
    """
    return _fetch(MNIST, split, data_home, download_if_missing, return_X_y)


def fetch_fashion_mnist(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """70,000 images of clothes of 28 x 28 pixels: Fashion-MNIST.

    Looked for in `data_home`, in this order:

    - ``fashion_mnist_train.npz``, ``fashion_mnist_test.npz``;
    - ``fashion_mnist/train-images-idx3-ubyte.gz`` and
      ``fashion_mnist/train-labels-idx1-ubyte.gz``, and with ``t10k`` instead of ``train`` for
      "test"; the same without ``.gz``; and both in ``FashionMNIST/raw``.

    Contents of ``.npz`` files, checksums and errors are as in :func:`fetch_mnist`.

    Parameters
    ----------
    split, data_home, download_if_missing, return_X_y
        As in :func:`fetch_mnist`.

    Returns
    -------
    Bunch
        As of :func:`fetch_mnist`; `target` has the classes 0 to 9.

    References
    ----------
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", 2017.
    """
    return _fetch(FASHION_MNIST, split, data_home, download_if_missing, return_X_y)


def fetch_cifar10(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """60,000 colour images of 32 x 32 pixels in 10 classes: CIFAR-10.

    Looked for in `data_home`, in this order:

    - ``cifar10_train.npz``, ``cifar10_test.npz``;
    - ``cifar-10-python.tar.gz``, which is not unpacked to disk;
    - ``cifar-10-batches-py/data_batch_1`` to ``data_batch_5``, and ``test_batch`` for "test".

    Contents of ``.npz`` files, checksums and errors are as in :func:`fetch_mnist`. A pickle
    that names anything but an array is an error, and nothing of it is run.

    Parameters
    ----------
    split, data_home, download_if_missing, return_X_y
        As in :func:`fetch_mnist`.

    Returns
    -------
    Bunch
        As of :func:`fetch_mnist`; `data` has shape (n, 3072), `image_shape` is (3, 32, 32), and
        `target` has the classes 0 to 9.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _fetch(CIFAR10, split, data_home, download_if_missing, return_X_y)


def fetch_cifar100(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """60,000 colour images of 32 x 32 pixels in 100 classes: CIFAR-100.

    Looked for in `data_home`, in this order:

    - ``cifar100_train.npz``, ``cifar100_test.npz``;
    - ``cifar-100-python.tar.gz``, which is not unpacked to disk;
    - ``cifar-100-python/train``, and ``cifar-100-python/test`` for "test".

    Contents of ``.npz`` files, checksums and errors are as in :func:`fetch_mnist`. A pickle
    that names anything but an array is an error, and nothing of it is run.

    Parameters
    ----------
    split, data_home, return_X_y
        As in :func:`fetch_mnist`.
    download_if_missing : bool, default=True
        Nothing is downloaded: OpenML does not have these images in a known form.

    Returns
    -------
    Bunch
        As of :func:`fetch_mnist`; `data` has shape (n, 3072), `image_shape` is (3, 32, 32), and
        `target` has the fine classes 0 to 99.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _fetch(CIFAR100, split, data_home, download_if_missing, return_X_y)


def fetch_svhn(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """99,289 colour images of house numbers, 32 x 32 pixels about one digit: SVHN.

    Looked for in `data_home`, in this order:

    - ``svhn_train.npz``, ``svhn_test.npz``, ``svhn_extra.npz``;
    - ``train_32x32.mat``, ``test_32x32.mat``, ``extra_32x32.mat``, or these in ``svhn``.

    Contents of ``.npz`` files, checksums and errors are as in :func:`fetch_mnist`.

    Parameters
    ----------
    split : {"train", "test", "extra", "all"}, default="train"
        "extra" has 531,131 further and easier images; "all" is "train" and then "test".
    data_home, return_X_y
        As in :func:`fetch_mnist`.
    download_if_missing : bool, default=True
        Nothing is downloaded: OpenML does not have these images in a known form.

    Returns
    -------
    Bunch
        As of :func:`fetch_mnist`; `data` has shape (n, 3072), `image_shape` is (3, 32, 32).

    References
    ----------
    Netzer, Wang, Coates, Bissacco, Wu and Ng, "Reading Digits in Natural Images with Unsupervised
    Feature Learning", 2011.
    """
    return _fetch(SVHN, split, data_home, download_if_missing, return_X_y)


def fetch_celeba64(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """202,599 aligned faces, their central 148 x 148 pixels at 64 x 64: CelebA.

    Looked for in `data_home`, in this order:

    - ``celeba64_train.npz``, ``celeba64_valid.npz``, ``celeba64_test.npz``;
    - ``img_align_celeba``, a folder of ``000001.jpg`` and so on, some or all of them;
    - ``img_align_celeba.zip``, which is not unpacked to disk; and both in ``celeba``.

    Contents of ``.npz`` files, checksums and errors are as in :func:`fetch_mnist`. jpg
    images need pillow, and minutes if they are many: save `data` in an ``.npz`` file to have it
    again.

    Parameters
    ----------
    split : {"train", "valid", "test", "all"}, default="train"
        By number, as published: up to 162770, 182637 and 202599; "all" is these in turn.
    data_home, return_X_y
        As in :func:`fetch_mnist`.
    download_if_missing : bool, default=True
        Nothing is downloaded: OpenML does not have these images in a known form.

    Returns
    -------
    Bunch
        As of :func:`fetch_mnist`; `data` has shape (n, 12288), `image_shape` is (3, 64, 64), and
        `target` is None, or y of an ``.npz`` file.

    Raises
    ------
    ImportError
        If there are jpg images and pillow is not installed.

    References
    ----------
    Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
    """
    return _fetch(CELEBA64, split, data_home, download_if_missing, return_X_y)


def _fetch(
    images: ImageSet, split: str, data_home: Any, download_if_missing: bool, return_X_y: bool
) -> Any:
    """Load the splits of a published set."""
    check_choice("split", split, (*images.sources, "all"))
    check_flag("download_if_missing", download_if_missing)
    check_flag("return_X_y", return_X_y)
    splits = images.whole if split == "all" else (split,)
    if data_home is not None and folder_of(data_home).is_file():
        splits = (split,)
    loaded = [load_split(images, part, data_home, download_if_missing) for part in splits]
    rows, labels = zip(*(pair for pair, _ in loaded), strict=True)
    X = rows[0] if len(rows) == 1 else np.concatenate(rows)
    y = None if any(part is None for part in labels) else np.concatenate(labels)
    if return_X_y:
        return X, y
    return Bunch(
        data=X,
        target=y,
        image_shape=images.image_shape,
        n_levels=256,
        source=", ".join(source for _, source in loaded),
        DESCR=f"{images.title}, split {split!r}: {len(X)} images, published at {images.home}.",
    )
