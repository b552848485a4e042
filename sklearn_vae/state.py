"""State of estimators: parameters and fitted attributes, for files and copies."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj
from sklearn import config_context

from sklearn_vae.public import DOCUMENTATION
from sklearn_vae.validation import all_or_nothing, is_integer, is_real

# Parameters that name folders on this machine, which are not part of a state.
FOLDER_PARAMETERS = frozenset({"checkpoint", "memory"})

# Attribute in which scikit-learn keeps the metadata that methods request.
REQUESTS = "_metadata_request"

# Attributes of every estimator.
COMMON = {
    "feature_names_in_": "d optional",
    **dict.fromkeys(("n_components_", "n_features_in_", "n_iter_"), "count optional"),
}


class Stateful:
    """Mixin for estimators whose state can be returned and set.

    `_fitted_state` maps the attributes that a fitted estimator must have to one of "count" (an
    integer >= 0), "number" (finite), "any", or the axes of an array of k components and d features,
    as in "kd". "number|d" allows both. Conditions may follow: "finite", "nonnegative", "positive",
    "optional". Other attributes need no entry.
    """

    _fitted_state: ClassVar[dict[str, str]] = {}

    # The link of the diagram that scikit-learn draws in notebooks. Subclasses in other packages get
    # none, because these pages do not describe them.
    _doc_link_module: ClassVar[str] = "sklearn_vae"
    _doc_link_template: ClassVar[str] = (
        f"{DOCUMENTATION}/generated/sklearn_vae.{{estimator_name}}.html"
    )

    def get_state(self) -> dict[str, Any]:
        """Return the parameters and fitted attributes.

        Returns
        -------
        state : dict
            Values by name, without the parameters `checkpoint` and `memory`. The values are not
            copied: copy those that must survive the next fit.

        Raises
        ------
        ValueError
            If :meth:`set_state` would refuse the state, because a parameter has been set to an
            invalid value or an attribute has been changed.
        """
        self._check_state()
        return state_of(self)

    def set_state(self, state: dict[str, Any]) -> None:
        """Replace all parameters and fitted attributes.

        Parameters
        ----------
        state : dict
            Result of :meth:`get_state`. Values are not copied. A missing parameter gets its
            default.

        Raises
        ------
        ValueError
            If a name is unknown, or a fitted attribute is missing or inconsistent with the others.
        """
        with all_or_nothing(self):
            set_state_of(self, state)
            self._check_state()

    def _check_state(self) -> None:
        """Raise ValueError unless the fitted attributes are valid."""
        check_fitted_state(self, self._fitted_state)


def state_of(estimator: Any) -> dict[str, Any]:
    """Return the parameters and attributes of an estimator, without folders on this machine."""
    state = {name: v for name, v in vars(estimator).items() if name not in FOLDER_PARAMETERS}
    if REQUESTS in state:
        methods = {n: getattr(r, "requests", None) for n, r in vars(state[REQUESTS]).items()}
        state[REQUESTS] = {n: dict(r) for n, r in methods.items() if isinstance(r, dict) and r}
    return state


def set_state_of(estimator: Any, state: dict[str, Any]) -> None:
    """Replace everything in an estimator by the result of :func:`state_of`."""
    kind: Any = type(estimator)
    parameters = parameters_of(kind) - FOLDER_PARAMETERS
    attributes = {name: value for name, value in state.items() if name not in parameters}
    for name in attributes:
        if not is_attribute(kind, name):
            raise ValueError(
                f"{kind.__name__} of this version has no parameter and cannot have an attribute "
                f"{name[:50]!r}. Upgrade sklearn-vae."
            )
    requests = attributes.pop(REQUESTS, {})
    vars(estimator).clear()
    estimator.__init__(**{name: state[name] for name in parameters & state.keys()})
    vars(estimator).update(attributes)
    try:
        for method, values in requests.items():
            with config_context(enable_metadata_routing=True):
                getattr(estimator, f"set_{method}_request")(**values)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{REQUESTS} is invalid: {error}") from None


@cache
def parameters_of(kind: Any) -> frozenset[str]:
    """Return the names of the parameters of a class."""
    return frozenset(inspect.signature(kind).parameters)


def is_attribute(kind: type, name: str) -> bool:
    """Return whether fit may set an attribute: it has an underscore and is no class member."""
    underscored = name.isidentifier() and (name.startswith("_") or name.endswith("_"))
    return underscored and not name.startswith("__") and not hasattr(kind, name)


def is_fitted(estimator: Any) -> bool:
    """Return whether the attributes of an estimator satisfy scikit-learn's `check_is_fitted`."""
    return any(name.endswith("_") and not name.startswith("__") for name in vars(estimator))


def check_fitted_state(estimator: Any, expected: dict[str, str]) -> None:
    """Raise ValueError unless fitted attributes are as expected, see :class:`Stateful`."""
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
            _check_attribute(name, state[name], kinds, conditions, sizes)
        elif "optional" not in conditions:
            raise ValueError(f"A fitted {type(estimator).__name__} must have {name}.")


def _check_attribute(
    name: str, value: Any, kinds: str, conditions: list[str], sizes: dict[str, Any]
) -> None:
    """Raise ValueError unless a fitted attribute has one of the kinds and meets the conditions."""
    bound = " > 0" if "positive" in conditions else " >= 0" if "nonnegative" in conditions else ""
    floats = f" of finite floats{bound}" if "finite" in conditions else ""
    allowed = []
    for kind in kinds.split("|"):
        if kind == "any":
            return
        if kind == "count":
            text, valid = "an integer >= 0", is_integer(value) and value >= 0
        elif kind == "number":
            text, valid = f"a float{bound}", is_real(value) and _is_within(value, bound)
        else:
            shape = tuple(sizes[axis] for axis in kind)
            text = f"an array of shape {shape}{floats}"
            valid = is_array_api_obj(value) and tuple(value.shape) == shape
            if valid and floats:
                valid = _is_finite(value) and bool(_is_within(value, bound).all())
        if valid:
            return
        allowed.append(text)
    raise ValueError(f"{name} must be {' or '.join(allowed)}, got {value!r:.100}.")


def _is_finite(array: Any) -> bool:
    xp = array_namespace(array)
    return xp.isdtype(array.dtype, "real floating") and bool(xp.all(xp.isfinite(array)))


def _is_within(value: Any, bound: str) -> Any:
    return value > 0 if bound == " > 0" else value >= 0 if bound else value < np.inf
