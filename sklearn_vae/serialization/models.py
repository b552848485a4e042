"""Estimators, and the objects of this library that they hold, as trees and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from sklearn import config_context

from sklearn_vae.public import ESTIMATORS
from sklearn_vae.public import RECORDS as PUBLIC_RECORDS
from sklearn_vae.serialization.decode import READERS, Reader, listed, pairs, text
from sklearn_vae.serialization.encode import Tree, Writer, shortened
from sklearn_vae.serialization.fitted import check_fitted

LIBRARY = __name__.partition(".")[0]

# Parameters that say where to write and read: a place of one machine, which no file is to choose.
PLACES = frozenset({"checkpoint", "memory"})

# Objects that are what their constructor is given; the first two are attributes of fitted models.
RECORDS = {
    "EntropyGap": "gaussian.bounds",
    "Precision": "gaussian.precision",
    "RunningCovariance": "gaussian.online",
    **PUBLIC_RECORDS,
}

# Steps of pipelines that are scikit-learn's: parameters and arrays, as ours are.
SCALERS = frozenset(
    {"MaxAbsScaler", "MinMaxScaler", "PowerTransformer", "RobustScaler", "StandardScaler"}
)


# Where scikit-learn keeps what metadata the methods of an estimator request.
REQUESTS = "_metadata_request"


class ModelWriter(Writer):
    """A writer that knows this library's classes."""

    def object(self, value: Any, path: str) -> Tree:
        """The tree of an object of this library."""
        kind, name = type(value), type(value).__name__
        if kind is _known(ESTIMATORS, name):
            return {"estimator": self.estimator(value, f"{path}." if path else "")}
        if name in SCALERS and kind is _scaler_class(name):
            return {"scaler": self.estimator(value, f"{path}.")}
        if kind is _known(RECORDS, name):
            names = list(inspect.signature(kind).parameters)
            fields = [[n, self.value(getattr(value, n), f"{path}.{n}")] for n in names]
            return {"record": [name, fields]}
        if name == "MissingIndicator" and kind.__module__.startswith("sklearn."):
            return self._indicator(value, path)
        return super().object(value, path)

    def estimator(self, estimator: Any, at: str = "") -> Tree:
        """The tree of an estimator: its parameters, and what a fit has set."""
        parameters = estimator.get_params(deep=False)
        state = {n: v for n, v in vars(estimator).items() if n not in parameters}
        return [
            type(estimator).__name__,
            [
                [name, self.value(v, f"{at}{name}")]
                for name, v in parameters.items()
                if name not in PLACES
            ],
            [[name, self._attribute(estimator, name, v, at)] for name, v in state.items()],
        ]

    def _attribute(self, estimator: Any, name: str, value: Any, at: str) -> Tree:
        if name == "net_" and hasattr(estimator, "get_net_state"):
            if self.refused:  # of a network that cannot be made again no numbers are needed
                return None
            return {"net": self.value(estimator.get_net_state(), f"{at}{name}")}
        if name == REQUESTS:
            return {"requests": self.value(_requests_of(value), f"{at}{name}")}
        if not _is_attribute(type(estimator), name):
            return self.refuse(f"{at}{name}", f"{value!r}, no attribute that a fit sets")
        return self.value(value, f"{at}{name}")

    def _indicator(self, indicator: Any, path: str) -> Tree:
        # What PPCAImputer holds; its features are all that it has learned.
        expected = type(indicator)(error_on_new=False).get_params()
        if repr(indicator.get_params()) != repr(expected):
            return self.refuse(path, f"{indicator!r}")
        missing = np.zeros(indicator.n_features_in_, dtype=bool)
        missing[indicator.features_] = True
        return {"indicator": self.tensor(missing, of=indicator)}


class ModelReader(Reader):
    """A reader that knows this library's classes.

    Parameters
    ----------
    tensors, n_bytes
        Of the file.
    device : str, torch.device or None
        Where networks and tensors are put. None: where they were, or the CPU.
    """

    def readers(self) -> dict[str, Callable[[Any, Tree, str], Any]]:
        """What reads each tag."""
        return MODEL_READERS


def _read_estimator(reader: ModelReader, tree: Tree, path: str) -> Any:
    name, parameters, state = listed(tree, path, 3)
    return _of_class(reader, _class_of(ESTIMATORS, name, path), parameters, state, path)


def _read_scaler(reader: ModelReader, tree: Tree, path: str) -> Any:
    name, parameters, state = listed(tree, path, 3)
    if text(name, path) not in SCALERS:
        raise ValueError(f"{path} is of the class {name!r}, which is none of {sorted(SCALERS)}.")
    return _of_class(reader, _scaler_class(name), parameters, state, path)


def _of_class(reader: ModelReader, kind: type, parameters: Tree, state: Tree, path: str) -> Any:
    estimator = kind(**_parameters(reader, kind, parameters, path))
    attributes = dict(_pairs_of_names(state, path))
    for attribute, part in attributes.items():
        if attribute != REQUESTS and not _is_attribute(kind, attribute):
            named = shortened(repr(attribute))
            raise ValueError(f"{kind.__name__} cannot have an attribute {named} from a file.")
        if attribute == REQUESTS:
            _set_requests(reader, estimator, part, f"{path}.{attribute}")
            continue
        later = attribute == "net_"  # which needs the others
        value = None if later else reader.value(part, f"{path}.{shortened(attribute)}")
        vars(estimator)[attribute] = value
    check_fitted(estimator, path)
    if "net_" in attributes:
        _restore_net(reader, estimator, attributes["net_"], f"{path}.net_")
    return estimator


def _restore_net(reader: ModelReader, estimator: Any, tree: Tree, path: str) -> None:
    has_net = hasattr(estimator, "set_net_state")
    if not (has_net and isinstance(tree, dict) and set(tree) == {"net"}):
        raise ValueError(f"{path} is no network of {type(estimator).__name__}.")
    values = reader.value(tree["net"], path)
    with _as_value_error(path):
        estimator.set_net_state(values, reader, path)


def _set_requests(reader: ModelReader, estimator: Any, tree: Tree, path: str) -> None:
    """What metadata its methods request, by its own methods that say so."""
    requests = tree.get("requests") if isinstance(tree, dict) and len(tree) == 1 else None
    requests = reader.value(requests, path)
    if not isinstance(requests, dict) or not all(isinstance(v, dict) for v in requests.values()):
        raise ValueError(f"{path} must have requests of methods.")
    for method, values in requests.items():
        request = getattr(estimator, f"set_{method}_request", None)
        if request is None:
            raise ValueError(f"{path} is of {method!r}, for which nothing can be requested.")
        with _as_value_error(path), config_context(enable_metadata_routing=True):
            request(**values)


def _read_record(reader: ModelReader, tree: Tree, path: str) -> Any:
    name, fields = listed(tree, path, 2)
    kind = _class_of(RECORDS, name, path)
    values = _parameters(reader, kind, fields, path)
    reader.charge(sum(getattr(value, "nbytes", 0) for value in values.values()), path)
    with _as_value_error(path):
        return kind(**values)


def _read_indicator(reader: ModelReader, tree: Tree, path: str) -> Any:
    from sklearn.impute import MissingIndicator

    missing = reader.tensor(tree, path)
    if missing.dtype != bool or missing.ndim != 1:
        raise ValueError(f"{path} must have a boolean for each feature.")
    reader.charge(8 * missing.size, path)
    X = np.where(missing, np.nan, 0.0)[None]
    return reader.once("indicator", tree, lambda: MissingIndicator(error_on_new=False).fit(X))


MODEL_READERS: dict[str, Callable[[Any, Tree, str], Any]] = {
    **READERS,
    "estimator": _read_estimator,
    "indicator": _read_indicator,
    "record": _read_record,
    "scaler": _read_scaler,
}


def _known(classes: dict[str, str], name: str) -> type | None:
    """The class of a name that stands in a list."""
    if name not in classes:
        return None
    kind: type = getattr(import_module(f"{LIBRARY}.{classes[name]}"), name)
    return kind


def _scaler_class(name: str) -> type:
    kind: type = getattr(import_module("sklearn.preprocessing"), name)
    return kind


def _requests_of(value: Any) -> dict[str, dict[str, Any]]:
    requests = {name: getattr(of, "requests", None) for name, of in vars(value).items()}
    return {name: dict(of) for name, of in requests.items() if isinstance(of, dict) and of}


def _class_of(classes: dict[str, str], name: Tree, path: str) -> type:
    kind = _known(classes, text(name, path))
    if kind is None:
        raise ValueError(
            f"{path} is of the class {name!r}, which this version of {LIBRARY} does not load. "
            f"It loads {', '.join(classes)}."
        )
    return kind


def _is_attribute(kind: type, name: str) -> bool:
    """Whether a fit may set it: a name with an underscore, and of nothing that the class has."""
    underscored = name.isidentifier() and (name.startswith("_") or name.endswith("_"))
    return underscored and not name.startswith("__") and not hasattr(kind, name)


def _pairs_of_names(tree: Tree, path: str) -> list[tuple[str, Tree]]:
    found = [(text(name, path), part) for name, part in pairs(tree, path)]
    if len({name for name, _ in found}) != len(found):
        raise ValueError(f"{path} has a name that comes twice.")
    return found


def _parameters(reader: ModelReader, kind: type, tree: Tree, path: str) -> dict[str, Any]:
    """What a class is made with; one that is not there has its default."""
    found = _pairs_of_names(tree, path)
    unknown = {name for name, _ in found} - (set(inspect.signature(kind).parameters) - PLACES)
    if unknown:
        raise ValueError(
            f"{path} has the parameter {min(unknown)!r}, which {kind.__name__} of this version "
            "does not know: upgrade sklearn-vae."
        )
    return {name: reader.value(part, f"{path}.{name}") for name, part in found}


@contextmanager
def _as_value_error(path: str) -> Iterator[None]:
    """Within this, what is raised by values that do not fit is a ValueError."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError) as error:
        raise ValueError(f"{path} is not what it has to be: {error!r}.") from None
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what it has to be: {error}") from None
