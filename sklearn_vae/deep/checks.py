"""Validation of the parameters of deep models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_vae.nn.activations import ACTIVATIONS
from sklearn_vae.nn.networks import check_network
from sklearn_vae.training.devices import PRECISIONS
from sklearn_vae.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_memory,
    check_noise_variance,
    check_real,
    is_integer,
    is_real,
)

# Weights, gradient, and the two moving averages of Adam.
COPIES_OF_WEIGHTS = 4


def check_network_parameters(model: Any) -> None:
    """Raise ValueError if a parameter that defines the networks is invalid."""
    check_integer("n_components", model.n_components, at_least=1)
    checked_layer_sizes(model.hidden_layer_sizes)
    check_choice("activation", model.activation, ACTIVATIONS)
    for name in ("encoder", "decoder"):
        check_network(name, getattr(model, name))
    shape = model.image_shape
    sizes = isinstance(shape, list | tuple) and all(is_integer(s) and s >= 1 for s in shape)
    if shape is not None and not (sizes and len(shape) == 3):
        raise ValueError(
            "image_shape must be None or three integers >= 1 (channels, height, width), got "
            f"{shape!r}."
        )


def checked_layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Return `hidden_layer_sizes` as a tuple of int."""
    given = (sizes,) if is_integer(sizes) else sizes
    is_array = isinstance(given, np.ndarray) and given.ndim == 1
    is_sequence = is_array or (isinstance(given, Sequence) and not isinstance(given, str))
    if not (is_sequence and all(is_integer(size) and size >= 1 for size in given)):
        raise ValueError(
            "hidden_layer_sizes must be an integer >= 1 or a sequence of integers >= 1, got "
            f"{sizes!r}."
        )
    return tuple(int(size) for size in given)


def check_training_parameters(model: Any) -> None:
    """Raise ValueError if a training parameter is invalid."""
    check_real("learning_rate", model.learning_rate, above=0)
    for name in ("max_epochs", "batch_size", "n_iter_no_change"):
        check_integer(name, getattr(model, name), at_least=1)
    if not (is_real(model.validation_fraction) and 0 < model.validation_fraction < 1):
        raise ValueError(
            f"validation_fraction must be between 0 and 1, got {model.validation_fraction!r}."
        )
    check_real("tol", model.tol, at_least=0)
    for name in ("early_stopping", "warm_start"):
        check_flag(name, getattr(model, name))
    if not isinstance(model.verbose, bool):
        check_integer("verbose", model.verbose, at_least=0)
    check_choice("precision", model.precision, PRECISIONS)


def check_memory_of_fit(model: Any, n_samples: int) -> None:
    """Raise MemoryError if the weights or the draws of one step do not fit into memory."""
    k, d = int(model.n_components), model.n_features_in_
    widths = [d, *checked_layer_sizes(model.hidden_layer_sizes), k]
    n_networks = sum(isinstance(part, str) for part in (model.encoder, model.decoder))
    weights = n_networks * sum(a * b for a, b in itertools.pairwise(widths))
    draws = int(getattr(model, "n_mc_samples", 1)) * min(int(model.batch_size), n_samples)
    check_memory(
        4 * (COPIES_OF_WEIGHTS * weights + draws * (k + d)),
        f"Networks with hidden_layer_sizes={model.hidden_layer_sizes!r} and n_components={k} "
        "require memory for their weights and the draws of a step",
        "Use smaller networks, or a smaller batch_size or n_mc_samples.",
    )


def check_image_shape(model: Any, sample_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `image_shape` matches the number of features."""
    if math.prod(sample_shape) != model.n_features_in_:
        raise ValueError(
            f"image_shape={model.image_shape!r} has {math.prod(sample_shape)} values, but X has "
            f"{model.n_features_in_} features."
        )


def check_noise(name: str, value: Any, *, per_feature: bool) -> None:
    """Raise ValueError unless a noise variance is None, positive or, if `per_feature`, an array."""
    if value is None or is_real(value) or not per_feature:
        check_noise_variance(value, name)
        return
    array = np.asarray(value)
    numbers = array.ndim == 1 and array.dtype.kind in "fiu"
    if not (numbers and np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(
            f"{name} must be None, a positive float or an array of positive floats, one per "
            f"feature, got {value!r}."
        )
