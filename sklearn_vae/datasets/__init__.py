"""Data sets: samples of known models, missing values, and images."""

from sklearn_vae.datasets.collapse_trap import CollapseTrap, make_collapse_trap
from sklearn_vae.datasets.generators import make_ppca, make_ppca_ring
from sklearn_vae.datasets.images import (
    fetch_celeba64,
    fetch_cifar10,
    fetch_cifar100,
    fetch_fashion_mnist,
    fetch_mnist,
    fetch_svhn,
    load_digit_images,
)
from sklearn_vae.datasets.missing import make_missing

__all__ = [
    "CollapseTrap",
    "fetch_celeba64",
    "fetch_cifar10",
    "fetch_cifar100",
    "fetch_fashion_mnist",
    "fetch_mnist",
    "fetch_svhn",
    "load_digit_images",
    "make_collapse_trap",
    "make_missing",
    "make_ppca",
    "make_ppca_ring",
]
