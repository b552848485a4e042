"""Loaders of image data sets with one flattened image per sample."""

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
    """Load the 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    digits : Bunch
        Dictionary-like object with `data` (uint8 array of shape (1797, 64), values from 0 to 16),
        `target` (digits), `image_shape` (1, 8, 8), `n_levels` (17), `source` and `DESCR`.

    See Also
    --------
    fetch_mnist : Load handwritten digits of 28 x 28 pixels.

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
    """Load MNIST, 70,000 handwritten digits of 28 x 28 pixels.

    The following files are searched for in `data_home`, in this order:

    - ``mnist_train.npz``, ``mnist_test.npz``
    - ``mnist/train-images-idx3-ubyte.gz`` and ``mnist/train-labels-idx1-ubyte.gz``, or with
      ``t10k`` instead of ``train`` for the test images. They may be decompressed, and they may be
      in ``MNIST/raw``, the folder of torchvision.

    An ``.npz`` file contains the images in X and, optionally, labels in y. X has shape
    (n_samples, n_features), (n_samples, channels, height, width), (n_samples, height, width,
    channels) or, with one channel, (n_samples, height, width). The other files are those that
    were published, and their MD5 checksums are verified if they are known.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        Part of the data. "all" is "train" followed by "test".
    data_home : str or path-like, default=None
        Folder with the files, or an ``.npz`` file that is read for every split. If None, the
        folder `sklearn_vae` in :func:`sklearn.datasets.get_data_home` is used.
    download_if_missing : bool, default=True
        Whether to download missing images from OpenML. They are saved in `data_home`.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    images : Bunch
        Dictionary-like object with `data` (uint8 array of shape (n_samples, 784)), `target`
        (digits, or None), `image_shape` (1, 28, 28), `n_levels` (256), `source` (file names) and
        `DESCR`.

    Raises
    ------
    OSError
        If the files are missing and cannot be downloaded. The message lists them.
    ValueError
        If a parameter is invalid, or if a file is damaged or has the wrong checksum.

    See Also
    --------
    fetch_fashion_mnist : Load images of clothes in the same format.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE 1998.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_vae.datasets import fetch_mnist
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/mnist_test.npz", X=np.zeros((2, 28, 28)), y=[3, 8])
    ...     images = fetch_mnist(split="test", data_home=folder)
    >>> images.data.shape, images.image_shape, images.target
    ((2, 784), (1, 28, 28), array([3, 8]))
    """
    return _fetch(MNIST, split, data_home, download_if_missing, return_X_y)


def fetch_fashion_mnist(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load Fashion-MNIST, 70,000 images of clothes with 28 x 28 pixels.

    The following files are searched for in `data_home`, in this order:

    - ``fashion_mnist_train.npz``, ``fashion_mnist_test.npz``
    - ``fashion_mnist/train-images-idx3-ubyte.gz`` and
      ``fashion_mnist/train-labels-idx1-ubyte.gz``, or with ``t10k`` instead of ``train`` for the
      test images. They may be decompressed, and they may be in ``FashionMNIST/raw``.

    The contents of ``.npz`` files and the checksums are described in :func:`fetch_mnist`.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        Part of the data. "all" is "train" followed by "test".
    data_home : str or path-like, default=None
        Folder with the files, or an ``.npz`` file that is read for every split. If None, the
        folder `sklearn_vae` in :func:`sklearn.datasets.get_data_home` is used.
    download_if_missing : bool, default=True
        Whether to download missing images from OpenML. They are saved in `data_home`.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    images : Bunch
        Fields as in :func:`fetch_mnist`. `data` has shape (n_samples, 784), and `target` contains
        the classes 0 to 9, or is None.

    See Also
    --------
    fetch_mnist : Load handwritten digits in the same format.

    References
    ----------
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", 2017.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_vae.datasets import fetch_fashion_mnist
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/fashion_mnist_test.npz", X=np.zeros((2, 28, 28)), y=[3, 8])
    ...     images = fetch_fashion_mnist(split="test", data_home=folder)
    >>> images.data.shape, images.image_shape, images.target
    ((2, 784), (1, 28, 28), array([3, 8]))
    """
    return _fetch(FASHION_MNIST, split, data_home, download_if_missing, return_X_y)


def fetch_cifar10(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load CIFAR-10, 60,000 color images of 32 x 32 pixels in 10 classes.

    The following files are searched for in `data_home`, in this order:

    - ``cifar10_train.npz``, ``cifar10_test.npz``
    - ``cifar-10-python.tar.gz``, which is not unpacked to disk
    - ``cifar-10-batches-py/data_batch_1`` to ``data_batch_5``, or ``test_batch``

    The contents of ``.npz`` files and the checksums are described in :func:`fetch_mnist`.
    Pickle files are read without running any code in them.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        Part of the data. "all" is "train" followed by "test".
    data_home : str or path-like, default=None
        Folder with the files, or an ``.npz`` file that is read for every split. If None, the
        folder `sklearn_vae` in :func:`sklearn.datasets.get_data_home` is used.
    download_if_missing : bool, default=True
        Whether to download missing images from OpenML. They are saved in `data_home`.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    images : Bunch
        Fields as in :func:`fetch_mnist`. `data` has shape (n_samples, 3072), and `target` contains
        the classes 0 to 9, or is None.

    See Also
    --------
    fetch_cifar100 : Load similar images in 100 classes.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_vae.datasets import fetch_cifar10
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/cifar10_test.npz", X=np.zeros((2, 32, 32, 3)), y=[3, 8])
    ...     images = fetch_cifar10(split="test", data_home=folder)
    >>> images.data.shape, images.image_shape, images.target
    ((2, 3072), (3, 32, 32), array([3, 8]))
    """
    return _fetch(CIFAR10, split, data_home, download_if_missing, return_X_y)


def fetch_cifar100(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load CIFAR-100, 60,000 color images of 32 x 32 pixels in 100 classes.

    The following files are searched for in `data_home`, in this order:

    - ``cifar100_train.npz``, ``cifar100_test.npz``
    - ``cifar-100-python.tar.gz``, which is not unpacked to disk
    - ``cifar-100-python/train``, ``cifar-100-python/test``

    The contents of ``.npz`` files and the checksums are described in :func:`fetch_mnist`.
    Pickle files are read without running any code in them.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        Part of the data. "all" is "train" followed by "test".
    data_home : str or path-like, default=None
        Folder with the files, or an ``.npz`` file that is read for every split. If None, the
        folder `sklearn_vae` in :func:`sklearn.datasets.get_data_home` is used.
    download_if_missing : bool, default=True
        Has no effect, as OpenML does not provide these images.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    images : Bunch
        Fields as in :func:`fetch_mnist`. `data` has shape (n_samples, 3072), and `target` contains
        the fine classes 0 to 99, or is None.

    See Also
    --------
    fetch_cifar10 : Load similar images in 10 classes.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_vae.datasets import fetch_cifar100
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/cifar100_test.npz", X=np.zeros((2, 32, 32, 3)), y=[3, 8])
    ...     images = fetch_cifar100(split="test", data_home=folder)
    >>> images.data.shape, images.image_shape, images.target
    ((2, 3072), (3, 32, 32), array([3, 8]))
    """
    return _fetch(CIFAR100, split, data_home, download_if_missing, return_X_y)


def fetch_svhn(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load SVHN, 99,289 color images of house numbers with 32 x 32 pixels.

    The following files are searched for in `data_home`, in this order:

    - ``svhn_train.npz``, ``svhn_test.npz``, ``svhn_extra.npz``
    - ``train_32x32.mat``, ``test_32x32.mat``, ``extra_32x32.mat``, in `data_home` or its folder
      ``svhn``

    The contents of ``.npz`` files and the checksums are described in :func:`fetch_mnist`.

    Parameters
    ----------
    split : {"train", "test", "extra", "all"}, default="train"
        Part of the data. "extra" has 531,131 additional, easier images. "all" is "train" followed
        by "test".
    data_home : str or path-like, default=None
        Folder with the files, or an ``.npz`` file that is read for every split. If None, the
        folder `sklearn_vae` in :func:`sklearn.datasets.get_data_home` is used.
    download_if_missing : bool, default=True
        Has no effect, as OpenML does not provide these images.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    images : Bunch
        Fields as in :func:`fetch_mnist`. `data` has shape (n_samples, 3072), and `target` contains
        the digits, or is None.

    See Also
    --------
    fetch_mnist : Load handwritten digits.

    References
    ----------
    Netzer, Wang, Coates, Bissacco, Wu and Ng, "Reading Digits in Natural Images with Unsupervised
    Feature Learning", 2011.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_vae.datasets import fetch_svhn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/svhn_test.npz", X=np.zeros((2, 32, 32, 3)), y=[3, 8])
    ...     images = fetch_svhn(split="test", data_home=folder)
    >>> images.data.shape, images.image_shape, images.target
    ((2, 3072), (3, 32, 32), array([3, 8]))
    """
    return _fetch(SVHN, split, data_home, download_if_missing, return_X_y)


def fetch_celeba64(
    *,
    split: str = "train",
    data_home: Any = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load CelebA, 202,599 aligned faces, cropped and resized to 64 x 64 pixels.

    The following files are searched for in `data_home`, in this order:

    - ``celeba64_train.npz``, ``celeba64_valid.npz``, ``celeba64_test.npz``
    - ``img_align_celeba``, a folder with all or some of the images ``000001.jpg`` to
      ``202599.jpg``
    - ``img_align_celeba.zip``, which is not unpacked to disk. The folder and the archive may also
      be in the folder ``celeba``.

    The contents of ``.npz`` files and the checksums are described in :func:`fetch_mnist`. The
    central 148 x 148 pixels of each jpg image are resized. This requires pillow and takes minutes
    for many images, after which `data` can be saved as an ``.npz`` file.

    Parameters
    ----------
    split : {"train", "valid", "test", "all"}, default="train"
        Part of the data. The first images are for training (162,770), the next for validation
        (19,867), and the last for testing (19,962). "all" contains all of them.
    data_home : str or path-like, default=None
        Folder with the files, or an ``.npz`` file that is read for every split. If None, the
        folder `sklearn_vae` in :func:`sklearn.datasets.get_data_home` is used.
    download_if_missing : bool, default=True
        Has no effect, as OpenML does not provide these images.
    return_X_y : bool, default=False
        Whether to return `(data, target)` instead of a Bunch.

    Returns
    -------
    images : Bunch
        Fields as in :func:`fetch_mnist`. `data` has shape (n_samples, 12288), and `target` contains
        the labels of an ``.npz`` file, or is None.

    Raises
    ------
    ImportError
        If there are jpg images and pillow is not installed.

    See Also
    --------
    fetch_cifar10 : Load small color images in 10 classes.

    References
    ----------
    Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_vae.datasets import fetch_celeba64
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/celeba64_test.npz", X=np.zeros((2, 64, 64, 3)), y=[3, 8])
    ...     images = fetch_celeba64(split="test", data_home=folder)
    >>> images.data.shape, images.image_shape, images.target
    ((2, 12288), (3, 64, 64), array([3, 8]))
    """
    return _fetch(CELEBA64, split, data_home, download_if_missing, return_X_y)


def _fetch(
    images: ImageSet, split: str, data_home: Any, download_if_missing: bool, return_X_y: bool
) -> Any:
    """Load the requested splits of a published data set."""
    check_choice("split", split, (*images.sources, "all"))
    check_flag("download_if_missing", download_if_missing)
    check_flag("return_X_y", return_X_y)
    splits = images.whole if split == "all" else (split,)
    if data_home is not None and folder_of(data_home).is_file():
        splits = (split,)
    loaded = [load_split(images, part, data_home, download_if_missing) for part in splits]
    samples, labels = zip(*(pair for pair, _ in loaded), strict=True)
    X = samples[0] if len(samples) == 1 else np.concatenate(samples)
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
