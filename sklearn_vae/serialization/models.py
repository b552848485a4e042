"""Estimators, and the objects of this library that they hold, as trees and back."""

from __future__ import annotations

import copy
import warnings
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_vae.public import ESTIMATORS
from sklearn_vae.public import RECORDS as PUBLIC_RECORDS
from sklearn_vae.serialization.codec import ODD, Reader, Tree, Writer, listed, shortened
from sklearn_vae.state import (
    REQUESTS,
    check_fitted_state,
    is_attribute,
    is_fitted,
    parameters_of,
    set_state_of,
    state_of,
)

LIBRARY = __name__.partition(".")[0]

# Objects that are determined by the arguments of their constructor; the first three are attributes
# of fitted models.
RECORDS = {
    "EntropyGap": "gaussian.bounds",
    "Precision": "gaussian.precision",
    "RunningCovariance": "gaussian.online",
    **PUBLIC_RECORDS,
}

# Steps of pipelines that are scikit-learn's: attributes with one number per feature, and the
# parameter with which a scaler does without.
SCALERS: dict[str, dict[str, str | None]] = {
    "MaxAbsScaler": {"scale_": None},
    "MinMaxScaler": {"min_": None, "scale_": None},
    "PowerTransformer": {"lambdas_": None},
    "RobustScaler": {"center_": "with_centering", "scale_": "with_scaling"},
    "StandardScaler": {"mean_": "with_mean", "scale_": "with_std"},
}

# Modules of the classes that files may name.
CLASSES = {
    **{name: f"{LIBRARY}.{module}" for name, module in {**ESTIMATORS, **RECORDS}.items()},
    **dict.fromkeys(SCALERS, "sklearn.preprocessing"),
}


class ModelWriter(Writer):
    """A writer that knows this library's classes."""

    def object(self, value: Any, path: str) -> Tree:
        """Tree of an object of this library: the name of its class, and its state."""
        kind = type(value)
        if kind is not _class(kind.__name__):
            return super().object(value, path)
        at, known = f"{path}." if path else "", parameters_of(kind)
        if isinstance(value, BaseEstimator):
            state = value.get_state() if hasattr(value, "get_state") else state_of(value)
            for name in state.keys() - known:
                if name != REQUESTS and not is_attribute(kind, name):
                    self.refuse(f"{at}{name}", f"{state[name]!r}, no attribute that a fit sets")
        else:
            state = {name: getattr(value, name) for name in sorted(known)}
        parts = [[name, self.value(part, f"{at}{name}")] for name, part in state.items()]
        return {"object": [kind.__name__, parts]}


class ModelReader(Reader):
    """A reader that knows this library's classes."""

    def tagged(self, tag: str, content: Tree, path: str) -> Any:
        """Value of what is under a tag: an object, from the name of its class and its state."""
        if tag != "object":
            return super().tagged(tag, content, path)
        name, parts = listed(content, path, 2)
        kind = _class(name)
        if kind is None:
            raise ValueError(
                f"{path} is of the class {name!r:.60}, which this version of {LIBRARY} does not "
                f"load. It loads {', '.join(CLASSES)}."
            )
        state: dict[str, Any] = {}
        for pair in listed(parts, path):
            name, part = listed(pair, path, 2)
            if not isinstance(name, str) or name in state:
                raise ValueError(f"{path} has a name that comes twice, or is no text: {name!r:.60}")
            state[name] = self.value(part, f"{path}.{shortened(name)}")
        self.charge(sum(getattr(value, "nbytes", 0) for value in state.values()), path)
        try:
            if issubclass(kind, BaseEstimator):
                return _estimator(self, kind, state, path)
            return _record(kind, state)
        except (AssertionError, *ODD) as error:
            raise ValueError(f"{path} is not what it must be: {error}") from None


def _estimator(reader: ModelReader, kind: Any, state: dict[str, Any], path: str) -> Any:
    estimator = kind.__new__(kind)
    if hasattr(kind, "set_state"):
        estimator.set_state(state)
        return estimator
    set_state_of(estimator, state)
    expected = {
        name: f"d finite{' positive' * (name == 'scale_')}" for name in SCALERS[kind.__name__]
    }
    for name, parameter in SCALERS[kind.__name__].items():
        if parameter and state.get(parameter) is False and state.get(name, 0) is None:
            expected[name] = "any"
    check_fitted_state(estimator, {"n_features_in_": "count", **expected})
    if kind.__name__ == "PowerTransformer" and is_fitted(estimator):
        _check_by_use(reader, estimator, path)
    return estimator


def _record(kind: Any, state: dict[str, Any]) -> Any:
    unknown = state.keys() - parameters_of(kind)
    if unknown:
        raise ValueError(
            f"{kind.__name__} of this version has no parameter {min(unknown)!r}: upgrade "
            "sklearn-vae."
        )
    return kind(**state)


def _check_by_use(reader: ModelReader, scaler: Any, path: str) -> None:
    """Raise an error unless a scaler maps a sample there and back."""
    scaler = copy.copy(scaler)
    for name in ("_sklearn_output_config", "feature_names_in_"):
        vars(scaler).pop(name, None)
    reader.charge(100 * scaler.n_features_in_, path)
    X = np.ones((1, scaler.n_features_in_))
    with warnings.catch_warnings(action="ignore"):
        there = scaler.transform(X)
        back = scaler.inverse_transform(there)
    for result in (there, back):
        if np.shape(result) != X.shape or not np.isfinite(there).all():
            raise ValueError(f"{type(scaler).__name__} does not map finite numbers to such.")


def _class(name: Any) -> Any:
    """Class of a name that files may have; None for others."""
    known = isinstance(name, str) and name in CLASSES
    return getattr(import_module(CLASSES[name]), name) if known else None
