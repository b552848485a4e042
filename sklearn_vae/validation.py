"""Checks of parameters and input, with error texts that name offender, requirement and value."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_array, validate_data

FLOAT_DTYPES = (np.float64, np.float32)


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer of any kind; a bool is a flag, not a number."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether `value` is a finite real number, integers included."""
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    return bool(abs(number) <= sys.float_info.max)  # which an int beyond every float is not


def check_noise_variance(noise_variance: Any) -> None:
    """Raise ValueError unless None or a finite float > 0."""
    if noise_variance is None or (is_real(noise_variance) and float(noise_variance) > 0):
        return
    raise ValueError(f"noise_variance must be None or a positive float, got {noise_variance!r}.")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not (isinstance(value, str) and value in choices):
        options = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {options}, got {value!r}.")


def check_integer(name: str, value: Any, *, at_least: int) -> None:
    """Raise ValueError unless an integer of at least `at_least`."""
    if not (is_integer(value) and value >= at_least):
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value!r}.")


def check_rows(
    estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int = 1, finite: bool = True
) -> Any:
    """X as a two-dimensional float64 or float32 array; `reset` as in validate_data.

    `finite=False` leaves it to the caller to look for NaN and infinity.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=list(FLOAT_DTYPES),
            ensure_min_samples=min_samples,
            ensure_all_finite=finite,
        )


def check_finite(X: Any) -> None:
    """Raise ValueError, and no warning before it, if X has NaN or infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        assert_all_finite(X, input_name="X")


@contextmanager
def all_or_nothing(estimator: BaseEstimator) -> Iterator[None]:
    """Within this, an exception leaves the estimator as it was before."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def check_latents(estimator: BaseEstimator, Z: Any, n_components: int) -> Any:
    """Z as a finite float array of shape (n, n_components)."""
    Z = check_array(
        Z, input_name="Z", dtype=list(FLOAT_DTYPES), ensure_min_features=min(n_components, 1)
    )
    if Z.shape[1] != n_components:
        raise ValueError(
            f"Z must have n_components_={n_components} columns, one a latent dimension of "
            f"{type(estimator).__name__}, got {Z.shape[1]}."
        )
    return Z
