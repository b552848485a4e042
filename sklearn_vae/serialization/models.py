"""Conversion of estimators, and of the library's objects in them, to trees and back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sklearn.base import BaseEstimator

from sklearn_vae.public import ESTIMATORS
from sklearn_vae.public import RECORDS as PUBLIC_RECORDS
from sklearn_vae.serialization.codec import MAX_NAME, Reader, Writer
from sklearn_vae.serialization.identity import LIBRARY
from sklearn_vae.state import (
    REQUESTS,
    check_fitted_state,
    is_attribute,
    is_fitted,
    parameters_of,
    set_state_of,
    state_of,
)

# Classes whose objects are determined by the arguments of the constructor; the first five are
# attributes of fitted models.
RECORDS = {
    "Accuracy": "gaussian.certificate",
    "EntropyGap": "gaussian.bounds",
    "Precision": "gaussian.precision",
    "RunningCovariance": "gaussian.online",
    "Spectrum": "gaussian.spectrum",
    **PUBLIC_RECORDS,
}

# Scalers of scikit-learn that may be steps of a pipeline: their attributes with one number per
# feature, and for each the parameter that turns it off, if any.
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
    """A writer that knows the classes of this library."""

    def tagged(self, value: Any) -> Any:
        """Return the tree of a value; for an object, the name of its class and its state."""
        kind = type(value)
        if kind is not _class(kind.__name__):
            return super().tagged(value)
        parameters = parameters_of(kind)
        if not isinstance(value, BaseEstimator):
            state = {name: getattr(value, name) for name in sorted(parameters)}
        else:
            state = value.get_state() if hasattr(value, "get_state") else state_of(value)
            for name in state.keys() - parameters - {REQUESTS}:
                if not is_attribute(kind, name):
                    self.refuse(f"{state[name]!r}, not an attribute that fit sets", f".{name}")
        pairs = [[name, self.value(part, f".{name}")] for name, part in state.items()]
        return {"object": [kind.__name__, pairs]}


class ModelReader(Reader):
    """A reader that knows the classes of this library."""

    def tagged(self, tag: str, content: Any) -> Any:
        """Return the value of the content of a tag; build an object from its class and state."""
        if tag != "object":
            return super().tagged(tag, content)
        class_name, pairs = content
        kind = _class(class_name)
        if kind is None:
            raise ValueError(
                f"this version of {LIBRARY} does not load the class {class_name!r:.60}. It loads "
                f"{', '.join(CLASSES)}."
            )
        state: dict[str, Any] = {}
        for name, part in pairs:
            if not isinstance(name, str) or name in state:
                raise ValueError(f"a name must be text and occur once, got {name!r:.60}.")
            state[name] = self.value(part, f".{name[:MAX_NAME]}")
        self.charge(sum(getattr(value, "nbytes", 0) for value in state.values()))
        return self._estimator(kind, state) if issubclass(kind, BaseEstimator) else kind(**state)

    def _estimator(self, kind: Any, state: dict[str, Any]) -> Any:
        estimator = kind.__new__(kind)
        if kind.__name__ not in SCALERS:
            estimator.set_state(state)
            return estimator
        set_state_of(estimator, state)
        expected = {"n_features_in_": "count"}
        for name, parameter in SCALERS[kind.__name__].items():
            is_off = parameter and state.get(parameter) is False and state.get(name, 0) is None
            positive = " positive" if name == "scale_" else ""
            expected[name] = "any" if is_off else f"d finite{positive}"
        check_fitted_state(estimator, expected)
        needs_scaler = is_fitted(estimator) and getattr(estimator, "standardize", False)
        if needs_scaler and type(state.get("_scaler")).__name__ != "StandardScaler":
            raise ValueError("_scaler must be a StandardScaler.")
        return estimator


def _class(name: Any) -> Any:
    """Return the class of a name that files may have, or None."""
    known = isinstance(name, str) and name in CLASSES
    return getattr(import_module(CLASSES[name]), name) if known else None
