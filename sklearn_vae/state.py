"""State of estimators: their parameters and fitted attributes, as files and copies have them."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, ClassVar

from array_api_compat import array_namespace, is_array_api_obj
from sklearn import config_context

from sklearn_vae.validation import all_or_nothing, is_integer, is_real

# Parameters that say where to write and read: a place on one machine, no part of a state.
PLACES = frozenset({"checkpoint", "memory"})

# Where scikit-learn keeps what metadata the methods of an estimator request.
REQUESTS = "_metadata_request"

# Attributes of every estimator.
COMMON = {
    "feature_names_in_": "d optional",
    "n_components_": "count optional",
    "n_features_in_": "count optional",
    "n_iter_": "count optional",
}


class Stateful:
    """Mixin of estimators whose state can be returned and set.

    `_fitted_state` says what a fitted estimator of the class must have, by name of the attribute:
    "count" (an integer >= 0), "number" (finite), "any", or the axes of an array, of k components
    and d features, as in "kd"; "number|d" is one of both. Then follow conditions: "finite",
    "nonnegative", "positive", and "optional" where it may be missing. Other attributes need no
    entry.
    """

    _fitted_state: ClassVar[dict[str, str]] = {}

    def get_state(self) -> dict[str, Any]:
        """Return parameters and fitted attributes by name.

        Returns
        -------
        dict
            Without the parameters `checkpoint` and `memory`, which are places on this machine.
            Values are the estimator's own: copy what is to be there after its next fit.
        """
        return state_of(self)

    def set_state(self, state: dict[str, Any]) -> None:
        """Set what :meth:`get_state` has returned, in place of all that there is.

        Parameters
        ----------
        state : dict
            A parameter that is missing gets its default. Values are the estimator's from then on.

        Raises
        ------
        ValueError
            If a name is unknown, or a fitted attribute is missing or does not fit the others.
        """
        with all_or_nothing(self):
            set_state_of(self, state)
            self._check_state()

    def _check_state(self) -> None:
        """Raise ValueError unless fitted attributes are as methods need them."""
        check_fitted_state(self, self._fitted_state)


def state_of(estimator: Any) -> dict[str, Any]:
    """Parameters and attributes of an estimator by name, without places on this machine."""
    state = {name: v for name, v in vars(estimator).items() if name not in PLACES}
    if REQUESTS in state:
        of_methods = vars(state[REQUESTS]).items()
        requests = {name: getattr(request, "requests", None) for name, request in of_methods}
        state[REQUESTS] = {n: dict(r) for n, r in requests.items() if isinstance(r, dict) and r}
    return state


def set_state_of(estimator: Any, state: dict[str, Any]) -> None:
    """Set what :func:`state_of` has returned, in place of all that an estimator has."""
    kind: Any = type(estimator)
    parameters = parameters_of(kind) - PLACES
    for name in state.keys() - parameters:
        if not is_attribute(kind, name):
            raise ValueError(
                f"{kind.__name__} of this version has no parameter and cannot have an attribute "
                f"{name[:50]!r}: upgrade sklearn-vae."
            )
    attributes = {name: value for name, value in state.items() if name not in parameters}
    requests = attributes.pop(REQUESTS, {})
    vars(estimator).clear()
    try:
        estimator.__init__(**{name: state[name] for name in parameters & state.keys()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__} lacks a parameter: {error}") from None
    vars(estimator).update(attributes)
    _set_requests(estimator, requests)


@cache
def parameters_of(kind: Any) -> frozenset[str]:
    """Names of the parameters of a class's constructor."""
    return frozenset(inspect.signature(kind).parameters)


def is_attribute(kind: type, name: str) -> bool:
    """Whether a fit may set it: a name with an underscore, and not a member of the class."""
    underscored = name.isidentifier() and (name.startswith("_") or name.endswith("_"))
    return underscored and not name.startswith("__") and not hasattr(kind, name)


def is_fitted(estimator: Any) -> bool:
    """Whether scikit-learn's `check_is_fitted` takes it for fitted, by its attributes alone."""
    return any(name.endswith("_") and not name.startswith("__") for name in vars(estimator))


def check_fitted_state(estimator: Any, expected: dict[str, str]) -> None:
    """Raise ValueError unless a fitted estimator's attributes are as :class:`Stateful` says."""
    state = vars(estimator)
    config = state.get("_sklearn_output_config", {})
    if not (isinstance(config, dict) and all(isinstance(v, str) for v in config.values())):
        raise ValueError("_sklearn_output_config must be a dict of text.")
    if not is_fitted(estimator):
        return
    sizes = {"k": state.get("n_components_"), "d": state.get("n_features_in_")}
    for name, text in {**COMMON, **expected}.items():
        kinds, *conditions = text.split()
        if name in state:
            _check_attribute(name, state[name], kinds.split("|"), conditions, sizes)
        elif "optional" not in conditions:
            raise ValueError(f"a fitted {type(estimator).__name__} must have {name}.")


def brief(value: Any) -> str:
    """Text of a value, shortened."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check_attribute(
    name: str, value: Any, kinds: list[str], conditions: list[str], sizes: dict[str, Any]
) -> None:
    if kinds == ["any"]:
        return
    if kinds == ["count"]:
        if not (is_integer(value) and value >= 0):
            raise ValueError(f"{name} must be an integer >= 0, got {brief(value)}.")
        return
    bound = " > 0" if "positive" in conditions else " >= 0" if "nonnegative" in conditions else ""
    if "number" in kinds:
        if is_real(value) and _is_within(value, bound):
            return
        if len(kinds) == 1 or not is_array_api_obj(value):
            more = f", or {sizes['d']} of them" if len(kinds) > 1 else ""
            raise ValueError(f"{name} must be a float{bound}{more}, got {brief(value)}.")
    expected = tuple(sizes[axis] for axis in kinds[-1])
    shape = tuple(value.shape) if is_array_api_obj(value) else None
    if shape != expected:
        raise ValueError(
            f"{name} must have the shape {expected} with n_components_={sizes['k']} and "
            f"n_features_in_={sizes['d']}, got {shape}."
        )
    if "finite" in conditions and not (is_finite(value) and _is_within(value, bound)):
        raise ValueError(f"{name} must be finite floats{bound}, got {brief(value)}.")


def is_finite(array: Any) -> bool:
    """Whether an array has finite floats only."""
    xp = array_namespace(array)
    return xp.isdtype(array.dtype, "real floating") and bool(xp.all(xp.isfinite(array)))


def _is_within(value: Any, bound: str) -> bool:
    inside = value > 0 if bound == " > 0" else value >= 0 if bound else True
    return bool(inside if isinstance(inside, bool) else inside.all())


def _set_requests(estimator: Any, requests: Any) -> None:
    """Set what metadata methods request, by the estimator's own methods for that."""
    if not (isinstance(requests, dict) and all(isinstance(v, dict) for v in requests.values())):
        raise ValueError(f"{REQUESTS} must have requests of methods.")
    for method, values in requests.items():
        request = getattr(estimator, f"set_{method}_request", None)
        if request is None:
            raise ValueError(f"{REQUESTS} has {method!r}, for which nothing can be requested.")
        try:
            with config_context(enable_metadata_routing=True):
                request(**values)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{REQUESTS} is not valid for {method!r}: {error}") from None
