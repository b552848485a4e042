"""log |det J| of the steps of a pipeline, scikit-learn's own among them."""

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


def pushed(steps: Sequence[tuple[str, Any]], X: Any, routed: Any) -> tuple[Any, np.ndarray]:
    """X behind the steps, and the sum of their log-determinants on the way."""
    total = np.zeros(shape_of(X)[0])
    for name, step in steps:
        if is_identity(step):
            continue
        params = routed[name].transform
        if isinstance(step, Pipeline):
            X, log_det = pushed(step.steps, X, process_routing(step, "transform", **params))
        else:
            log_det = _log_det(step, X)  # first: with copy=False, transform overwrites X
            X = step.transform(X, **params)
        total += log_det
    return X, total


def _log_det(step: Any, X: Any) -> np.ndarray:
    if hasattr(step, "log_abs_det_jacobian"):
        return step.log_abs_det_jacobian(X)
    refuse_dask(step, X)
    validate_data(step, X, reset=False, skip_check_array=True)  # names and number of features
    if sparse.issparse(X):
        return np.full(X.shape[0], _LOG_DERIVATIVES[type(step)](step, None).sum())
    X = np.asarray(to_host(X) if is_array_api_obj(X) else X, dtype=np.float64)
    # The density of a row with missing values is that of what is observed.
    return np.where(np.isnan(X), 0.0, _LOG_DERIVATIVES[type(step)](step, X)).sum(axis=1)


def check_log_det(name: str, step: Any) -> None:
    """Raise unless `_log_det` of the step, fitted or not, exists."""
    if is_identity(step):
        return
    if isinstance(step, Pipeline):
        for inner, inner_step in step.steps:
            check_log_det(f"{name}__{inner}", inner_step)
        return
    if hasattr(step, "log_abs_det_jacobian"):
        return
    if type(step) not in _LOG_DERIVATIVES:
        known = ", ".join(known.__name__ for known in _LOG_DERIVATIVES)
        raise TypeError(
            f"Step {name!r} ({type(step).__name__}) has no log-determinant, without which there is "
            f"no density before it. Steps must be of {known}, or have a method "
            "log_abs_det_jacobian(X)."
        )
    if getattr(step, "clip", False):
        raise ValueError(
            f"Step {name!r} ({type(step).__name__}) must have clip=False, got {step.clip!r}: what "
            "is clipped has no density."
        )


def is_identity(step: Any) -> bool:
    """Whether a step of a Pipeline is one that leaves X as it is."""
    return step is None or (isinstance(step, str) and step == "passthrough")


def shape_of(X: Any) -> tuple[int, ...]:
    """The shape of X, which may be a list of rows."""
    return X.shape if hasattr(X, "shape") else np.shape(X)


def _of_divisor(scaler: Any, X: Any) -> np.ndarray:
    """log |dy/dx| of each feature where y = (x - centre) / scale_."""
    if scaler.scale_ is None:
        return np.zeros(scaler.n_features_in_)
    return -np.log(to_host(scaler.scale_).astype(np.float64))


def _of_factor(scaler: Any, X: Any) -> np.ndarray:
    """log |dy/dx| of each feature where y = scale_ x + min_."""
    return np.log(to_host(scaler.scale_).astype(np.float64))


def _of_power(transformer: Any, X: np.ndarray) -> np.ndarray:
    """log |dy/dx| of each entry; Yeo and Johnson (2000), eq. 2.1, Box and Cox (1964), eq. 1."""
    exponents = transformer.lambdas_.astype(np.float64) - 1.0
    if transformer.method == "box-cox":
        with np.errstate(invalid="ignore", divide="ignore"):  # `transform` refuses them
            derivatives = exponents * np.log(X)
    else:
        derivatives = exponents * np.copysign(np.log1p(np.abs(X)), X)
    if transformer.standardize:
        # Not public; but where standardized values differ little beside their size, what public
        # methods tell of it lacks digits.
        derivatives += _of_divisor(transformer._scaler, X)
    return derivatives


# By exact type: a subclass may transform differently.
_LOG_DERIVATIVES: dict[type, Callable[[Any, Any], np.ndarray]] = {
    StandardScaler: _of_divisor,
    MinMaxScaler: _of_factor,
    MaxAbsScaler: _of_divisor,
    RobustScaler: _of_divisor,
    PowerTransformer: _of_power,
}
