"""What a fit has set, looked through before any method relies on it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.validation import is_integer, is_real

# Shapes that fitted attributes have in every estimator, of k components and d features.
SHAPES = {
    "_observed": "d",
    "components_": "kd",
    "encoder_variance_": "k",
    "encoder_weights_": "kd",
    "explained_variance_": "k",
    "explained_variance_ratio_": "k",
    "feature_names_in_": "d",
    "intercept_": "d",
    "kl_per_dim_": "k",
    "loadings_": "dk",
    "mean_": "d",
    "prior_variance_": "k",
    "singular_values_": "k",
}
COUNTS = ("n_components_", "n_features_in_", "n_iter_", "seed_")
FINITE = ("encoder_variance_", "encoder_weights_", "loadings_", "mean_", "prior_variance_")
VARIANCES = ("encoder_variance_", "prior_variance_")

# Without which methods of a fitted estimator fail. All are in files of the first format: what a
# later version sets is not to be asked of them.
SIZES = ("n_components_", "n_features_in_")
LINEAR = (*SIZES, "components_", "loadings_", "mean_")
CLOSED = (
    *LINEAR,
    "_gaussian",
    "collapsed_dims_",
    "explained_variance_",
    "n_samples_",
    "noise_variance_",
)
DEEP = (*SIZES, "_networks_of_fit", "mean_", "n_iter_", "net_", "scale_")
REQUIRED = {
    "BernoulliPPCA": (*LINEAR, "intercept_"),
    "DeepAutoencoder": DEEP,
    "DeepBernoulliVAE": (*DEEP, "prior_variance_"),
    "DeepGaussianVAE": (*DEEP, "prior_variance_"),
    "DensityPipeline": (),
    "Dequantizer": ("n_features_in_", "seed_"),
    "LinearVAE": (
        *LINEAR,
        "encoder_variance_",
        "encoder_weights_",
        "noise_variance_",
        "prior_variance_",
    ),
    "LogitTransformer": ("n_features_in_",),
    "PPCA": CLOSED,
    "PPCACV": CLOSED,
    "PPCAImputer": (*SIZES, "_observed", "indicator_", "ppca_"),
    "MaxAbsScaler": ("n_features_in_", "scale_"),
    "MinMaxScaler": ("n_features_in_", "min_", "scale_"),
    "PowerTransformer": ("n_features_in_", "lambdas_"),
    "RobustScaler": ("n_features_in_", "center_", "scale_"),
    "StandardScaler": ("n_features_in_", "mean_", "scale_"),
}

# Of scikit-learn's scalers: the arrays that they map with, and the parameter that makes a scaler do
# without one.
SCALING: dict[str, dict[str, str | None]] = {
    "MaxAbsScaler": {"scale_": None},
    "MinMaxScaler": {"min_": None, "scale_": None},
    "PowerTransformer": {"lambdas_": None},
    "RobustScaler": {"center_": "with_centering", "scale_": "with_scaling"},
    "StandardScaler": {"mean_": "with_mean", "scale_": "with_std"},
}


def check_fitted(estimator: Any, path: str) -> None:
    """Raise ValueError where what a fit sets is missing, or does not fit together."""
    state, name = vars(estimator), type(estimator).__name__
    if is_fitted(estimator):
        missing = [attribute for attribute in REQUIRED[name] if attribute not in state]
        if missing:
            raise ValueError(f"{path} is a fitted {name}, and {missing[0]} is not there.")
    for count in COUNTS:
        if count in state and not (is_integer(state[count]) and state[count] >= 0):
            raise ValueError(f"{path}.{count} must be an integer >= 0, got {state[count]!r}.")
    config = state.get("_sklearn_output_config", {})
    if not (isinstance(config, dict) and all(isinstance(v, str) for v in config.values())):
        raise ValueError(f"{path}._sklearn_output_config must be a dict of text.")
    if name in SCALING:
        _check_scaler(estimator, path)
        return
    _check_shapes(state, path)
    _check_model(estimator, path)


def is_fitted(estimator: Any) -> bool:
    """Whether scikit-learn's `check_is_fitted` takes it for fitted, by its attributes alone."""
    return any(name.endswith("_") and not name.startswith("__") for name in vars(estimator))


def check_positive(value: Any, d: int, what: str) -> None:
    """Raise ValueError unless a finite float > 0, or an array of d of them."""
    if is_real(value) and value > 0:
        return
    floats = isinstance(value, np.ndarray) and value.shape in ((), (d,)) and _is_finite(value)
    if floats and (value > 0).all():
        return
    raise ValueError(f"{what} must be a float > 0, or {d} of them, got {_brief(value)}.")


def _check_shapes(state: dict[str, Any], path: str) -> None:
    sizes = {"k": state.get("n_components_"), "d": state.get("n_features_in_")}
    for name, axes in SHAPES.items():
        if name not in state:
            continue
        value, expected = state[name], tuple(sizes[axis] for axis in axes)
        found = getattr(value, "shape", None)
        if found is None or tuple(found) != expected:
            raise ValueError(
                f"{path}.{name} must have the shape {expected} with n_components_={sizes['k']} "
                f"and n_features_in_={sizes['d']}, got {found}."
            )
        if name in FINITE and not _is_finite(value):
            raise ValueError(f"{path}.{name} must be finite floats, got {_brief(value)}.")
        if name in VARIANCES and bool((value < 0).any()):
            raise ValueError(f"{path}.{name} must be >= 0, got {_brief(value)}.")


def _check_model(estimator: Any, path: str) -> None:
    state, name = vars(estimator), type(estimator).__name__
    if name == "LinearVAE" and "noise_variance_" in state:
        noise = state["noise_variance_"]
        if not (is_real(noise) and noise > 0):
            raise ValueError(f"{path}.noise_variance_ must be a float > 0, got {_brief(noise)}.")
    if name in ("PPCA", "PPCACV") and is_fitted(estimator):
        _check_gaussian(state, path)
    if name == "BernoulliPPCA" and ("encoder_weights_" in state) != ("encoder_variance_" in state):
        raise ValueError(f"{path} must have both encoder_weights_ and encoder_variance_, or none.")
    if name == "PPCAImputer" and is_fitted(estimator):
        _check_imputer(state, path)


def _check_gaussian(state: dict[str, Any], path: str) -> None:
    """The marginal is that of the other attributes, and missing only where it is singular."""
    noise, gaussian = state["noise_variance_"], state["_gaussian"]
    if not (is_real(noise) and noise >= 0):
        raise ValueError(f"{path}.noise_variance_ must be a float >= 0, got {_brief(noise)}.")
    if getattr(state["collapsed_dims_"], "ndim", 0) != 1:
        raise ValueError(f"{path}.collapsed_dims_ must be an array of components.")
    if gaussian is None and noise == 0:
        return
    if not (
        isinstance(gaussian, LowRankGaussian)
        and _are_equal(gaussian.mean, state["mean_"])
        and _are_equal(gaussian.loadings, state["loadings_"])
        and gaussian.noise_variance == noise
    ):
        raise ValueError(
            f"{path}._gaussian must be the Gaussian of mean_, loadings_ and noise_variance_."
        )


def _check_imputer(state: dict[str, Any], path: str) -> None:
    observed, ppca, indicator = (state[name] for name in ("_observed", "ppca_", "indicator_"))
    if not isinstance(observed, np.ndarray) or observed.dtype != bool:
        raise ValueError(f"{path}._observed must be booleans, got {_brief(observed)}.")
    of_them = (
        type(ppca).__name__ == "PPCA" and vars(ppca).get("n_features_in_", 0) == observed.sum()
    )
    if not of_them:
        raise ValueError(f"{path}.ppca_ must be a PPCA of the {observed.sum()} observed features.")
    if indicator is None:
        return
    d = state["n_features_in_"]
    if type(indicator).__name__ != "MissingIndicator" or indicator.n_features_in_ != d:
        raise ValueError(f"{path}.indicator_ must be None or of {d} features.")


def _check_scaler(scaler: Any, path: str) -> None:
    if not is_fitted(scaler):
        return
    state, name, d = vars(scaler), type(scaler).__name__, scaler.n_features_in_
    for attribute, parameter in SCALING[name].items():
        value = state[attribute]
        if parameter is not None and value is None and getattr(scaler, parameter) is False:
            continue
        fits = isinstance(value, np.ndarray) and value.shape == (d,) and _is_finite(value)
        if not fits or (attribute == "scale_" and not (value > 0).all()):
            positive = " > 0" if attribute == "scale_" else ""
            raise ValueError(
                f"{path}.{attribute} must be {d} finite floats{positive}, got {_brief(value)}."
            )
    if name == "PowerTransformer":
        _check_power(scaler, path)


def _check_power(scaler: Any, path: str) -> None:
    if scaler.method not in ("yeo-johnson", "box-cox"):
        raise ValueError(
            f"{path}.method must be 'yeo-johnson' or 'box-cox', got {_brief(scaler.method)}."
        )
    inner = vars(scaler).get("_scaler")
    if scaler.standardize is False and inner is None:
        return
    known = type(inner).__name__ == "StandardScaler" and is_fitted(inner)
    if not known or inner.n_features_in_ != scaler.n_features_in_:
        raise ValueError(
            f"{path}._scaler must be a fitted StandardScaler of {scaler.n_features_in_} features."
        )


def _is_finite(value: Any) -> bool:
    """Whether an array, of NumPy or torch, has finite floats only."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and bool(np.isfinite(value).all())
    # Only a tensor can be the other thing with a shape.
    return getattr(value, "is_floating_point", bool)() and math.isfinite(_largest(value))


def _largest(tensor: Any) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _are_equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    same = type(one) is type(other) and tuple(one.shape) == tuple(other.shape)
    return same and bool((one == other).all())


def _brief(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 100 else f"{found[:100]}..."
