"""Log-determinants of the steps of a pipeline, including those of scikit-learn."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj
from scipy import sparse
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import validate_data

from sklearn_vae.containers import to_host
from sklearn_vae.validation import refuse_dask


def transform_with_log_det(
    steps: Sequence[tuple[str, Any]], X: Any, routed: Any
) -> tuple[Any, np.ndarray]:
    """Transform X by the steps; return also the sum of their log-determinants."""
    total = np.zeros(shape_of(X)[0])
    for name, step in steps:
        if is_identity(step):
            continue
        params = routed[name].transform
        if isinstance(step, Pipeline):
            routing = process_routing(step, "transform", **params)
            X, log_det = transform_with_log_det(step.steps, X, routing)
        else:
            log_det = _log_det(step, X)  # before transform, which overwrites X if copy=False
            X = step.transform(X, **params)
        total += log_det
    return X, total


def _log_det(step: Any, X: Any) -> np.ndarray:
    if hasattr(step, "log_abs_det_jacobian"):
        return step.log_abs_det_jacobian(X)
    refuse_dask(step, X)
    validate_data(step, X, reset=False, skip_check_array=True)  # feature names and number
    if sparse.issparse(X):
        return np.full(X.shape[0], _LOG_DERIVATIVES[type(step)](step, None).sum())
    X = np.asarray(to_host(X) if is_array_api_obj(X) else X, dtype=np.float64)
    # The density of a sample with missing values is that of its observed values.
    return np.where(np.isnan(X), 0.0, _LOG_DERIVATIVES[type(step)](step, X)).sum(axis=1)


def check_log_det(name: str, step: Any) -> None:
    """Raise unless the step, fitted or not, has a log-determinant."""
    if is_identity(step):
        return
    if isinstance(step, Pipeline):
        for inner, inner_step in step.steps:
            check_log_det(f"{name}__{inner}", inner_step)
        return
    if hasattr(step, "log_abs_det_jacobian"):
        return
    if type(step) not in _LOG_DERIVATIVES:
        supported = ", ".join(cls.__name__ for cls in _LOG_DERIVATIVES)
        raise TypeError(
            f"Step {name!r} ({type(step).__name__}) has no log-determinant. Each step must be one "
            f"of {supported}, or have a method log_abs_det_jacobian(X)."
        )
    if getattr(step, "clip", False):
        raise ValueError(
            f"Step {name!r} ({type(step).__name__}) must have clip=False, because clipped values "
            f"have no density, got {step.clip!r}."
        )


def is_identity(step: Any) -> bool:
    """Return whether a step of a pipeline leaves X unchanged."""
    return step is None or (isinstance(step, str) and step == "passthrough")


def shape_of(X: Any) -> tuple[int, ...]:
    """Return the shape of X, which may be a list."""
    return X.shape if hasattr(X, "shape") else np.shape(X)


def _log_derivative_of_division(scaler: Any, X: Any) -> np.ndarray:
    """Compute log |dy/dx| of each feature for y = (x - center) / scale_."""
    if scaler.scale_ is None:
        return np.zeros(scaler.n_features_in_)
    return -np.log(to_host(scaler.scale_).astype(np.float64))


def _log_derivative_of_product(scaler: Any, X: Any) -> np.ndarray:
    """Compute log |dy/dx| of each feature for y = scale_ x + min_."""
    return np.log(to_host(scaler.scale_).astype(np.float64))


def _log_derivative_of_power(transformer: Any, X: np.ndarray) -> np.ndarray:
    """Compute log |dy/dx| of Yeo and Johnson (2000), eq. 2.1, or Box and Cox (1964), eq. 1."""
    exponents = transformer.lambdas_.astype(np.float64) - 1.0
    if transformer.method == "box-cox":
        with np.errstate(invalid="ignore", divide="ignore"):  # `transform` raises for these
            derivatives = exponents * np.log(X)
    else:
        derivatives = exponents * np.copysign(np.log1p(np.abs(X)), X)
    if transformer.standardize:
        # The scaler is private, but the public methods give its scale with few digits if the
        # standard deviation of the transformed values is small relative to their mean.
        derivatives += _log_derivative_of_division(transformer._scaler, X)
    return derivatives


# By exact type: a subclass may transform differently.
_LOG_DERIVATIVES: dict[type, Callable[[Any, Any], np.ndarray]] = {
    StandardScaler: _log_derivative_of_division,
    MinMaxScaler: _log_derivative_of_product,
    MaxAbsScaler: _log_derivative_of_division,
    RobustScaler: _log_derivative_of_division,
    PowerTransformer: _log_derivative_of_power,
}
