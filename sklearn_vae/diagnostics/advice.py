"""Remedies shared by several findings, in the order that benchmarks/collapse_remedies.py supports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from sklearn_vae.diagnostics import advice_elsewhere as elsewhere
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.protocol import EncoderDecoder

# Minimum number of layers with weights, in encoder or decoder, at which fewer layers help more than
# annealing, another seed or another learning rate.
DEEP = 4

# Values of parameters that automatic training needs, and for which it has its own choice.
AUTOMATIC: dict[str, Any] = {
    "max_epochs": "auto",
    "init": "auto",
    "learning_rate": "auto",
    "batch_size": "auto",
    "early_stopping": False,
    "noise_variance_init": None,
    "kl_warmup_epochs": 0,
    "warm_start": False,
}

# Largest factor by which the number of training steps is increased at once.
MAX_FACTOR = 8


@dataclass(frozen=True, eq=False)
class Remedy:
    """Remedy that a finding of :func:`diagnose` suggests.

    Attributes
    ----------
    text : str
        The remedy in words.
    changes : dict
        Parameters that `estimator.set_params(**changes)` changes. Empty if the remedy is not a
        change of parameters.
    action : {"refit", "continue", "other"}
        Step that follows the change: "refit" fits the model again, "continue" trains it further
        with `warm_start=True`, and "other" means the step that the text names.

    See Also
    --------
    Finding : Finding with remedies.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> model = PPCA(2, noise_variance=1.0).fit(X)
    >>> remedy = diagnose(model, X).findings[0].remedies[0]
    >>> remedy.action, remedy.changes
    ('refit', {'noise_variance': None})
    >>> diagnose(model.set_params(**remedy.changes).fit(X), X).healthy
    True
    """

    text: str
    changes: dict[str, Any] = field(default_factory=dict)
    action: str = "refit"


def other(text: str) -> Remedy:
    """Return a remedy that is not a change of parameters."""
    return Remedy(text, {}, "other")


def on_noise(case: Evidence) -> Iterator[Remedy]:
    """Yield remedies of a wrong noise variance."""
    model = case.model
    if model.trained_elsewhere:
        yield from map(other, elsewhere.on_noise(case))
        return
    if case.fixed_noise is not None:
        changes: dict[str, Any] = {"noise_variance": None}
        if could_start_at_ppca(model):
            changes |= {"init": "ppca"}
            yield _remedy("learn the noise variance, starting at pPCA", changes)
        else:
            yield _remedy("learn the noise variance", changes)
        unit = " times the variance of each feature" if np.ndim(case.reference.scale) else ""
        value = case.numbers["reference_noise_variance"]
        text = f"or fix it at the value of pPCA: {value:.3g}{unit}"
        fixed = value if not unit else value * case.reference.scale**2
        yield Remedy(text, {"noise_variance": fixed})
    if case.kl_weight > 1:
        yield _remedy("reduce the KL weight to 1", {"kl_weight": 1})
    if model.free_bits:
        yield _remedy("turn off free bits, which hide collapse", {"free_bits": 0})
    # With a fixed noise variance, another start or annealing helps little.
    if case.fixed_noise is None and case.is_trained:
        yield from _on_start(model)
        yield from on_depth(model)


def on_optimum(model: EncoderDecoder) -> Iterator[Remedy]:
    """Yield remedies of bad local optima."""
    if model.trained_elsewhere:
        yield from map(other, elsewhere.on_optimum(model, is_deep(model)))
        return
    start, depth = _on_start(model), on_depth(model)
    at_ppca = model.parameters.get("init") is not None or could_start_at_ppca(model)
    yield from chain(start, depth) if at_ppca else chain(depth, start)
    if model.n_layers:
        yield other(
            "fit a DeepAutoencoder with the same networks: if diagnose finds it worse than PCA, "
            "the networks are at fault"
        )
    names = [name for name in ("random_state", "learning_rate") if name in model.parameters]
    if names and not is_deep(model):
        yield other(f"try another {' or '.join(names)}")


def on_depth(model: EncoderDecoder) -> Iterator[Remedy]:
    """Yield remedies of networks that may be too deep."""
    if not is_deep(model):
        return
    text = f"use fewer layers: the deeper network has {model.n_layers}"
    sizes = model.parameters.get("hidden_layer_sizes")
    if isinstance(sizes, tuple | list) and len(sizes) >= DEEP - 1:
        yield Remedy(text, {"hidden_layer_sizes": tuple(sizes[:1])})
    else:
        yield other(text)


def on_length(model: EncoderDecoder, factor: float = 2.0) -> Iterator[Remedy]:
    """Yield remedies of training that has not converged, given the factor of steps it needs."""
    if (changes := automatic_training(model)) is not None:
        yield _remedy(
            "choose the number of epochs by validation, starting at the linear model", changes
        )
    parameters = model.parameters
    steps = "max_epochs" if "max_epochs" in parameters else "max_iter"
    if not isinstance(parameters.get(steps), int):
        yield other("train longer")
        return
    n_steps = math.ceil(min(max(factor, 2.0), MAX_FACTOR) * parameters[steps])
    given = model.get_params(deep=False)
    chosen = {}
    if _is_auto(given.get("max_epochs")):  # the values that automatic training has chosen
        chosen = {name: parameters[name] for name, value in given.items() if _is_auto(value)}
        chosen = {name: value for name, value in chosen.items() if not _is_auto(value)}
    stops = {"early_stopping": True} if parameters.get("early_stopping") is False else {}
    until = ", until validation samples no longer gain" if stops else ""
    yield _remedy(f"train longer{until}", {**chosen, steps: n_steps, **stops})
    if "warm_start" in parameters and not chosen:
        changes = {"warm_start": True, "max_epochs": n_steps - parameters[steps]}
        yield _remedy("or continue training", changes, "continue")
    if "learning_rate" in parameters:
        yield other("or increase learning_rate")


def automatic_training(model: EncoderDecoder) -> dict[str, Any] | None:
    """Return the changes that make training automatic, or None if it is or cannot be."""
    parameters = model.parameters
    fits = "max_epochs" in parameters and could_start_at_ppca(model, None, "ppca", "auto")
    is_elbo = parameters.get("objective", "elbo") == "elbo" and not parameters.get("free_bits")
    if not fits or not is_elbo or parameters.get("kl_weight", 1) != 1:
        return None
    given = model.get_params(deep=False)
    if _is_auto(given.get("max_epochs")):
        return None
    return {
        name: value
        for name, value in AUTOMATIC.items()
        if name in given and given[name] != value and not (name == "init" and given[name] == "ppca")
    }


def on_size(case: Evidence, n_components: int, text: str) -> Remedy:
    """Return the remedy of too many latent dimensions."""
    if case.model.trained_elsewhere:
        return other(f"{text}: {n_components} instead of {case.k}")
    return _remedy(text, {"n_components": n_components})


def on_objective(model: EncoderDecoder) -> Remedy:
    """Return the remedy of an objective that is not the ELBO."""
    if model.trained_elsewhere:
        return other(elsewhere.ON_OBJECTIVE)
    parameters = model.parameters
    values = {"objective": "elbo", "kl_weight": 1, "free_bits": 0}
    changes = {name: v for name, v in values.items() if parameters.get(name, v) != v}
    return _remedy("train on the ELBO", changes)


def on_rate(model: EncoderDecoder) -> Iterator[Remedy]:
    """Yield remedies of a learning rate that is too high."""
    if model.trained_elsewhere:
        yield other("reduce the learning rate, for example to a tenth")
        return
    rate = model.parameters.get("learning_rate")
    if not isinstance(rate, float | int):
        return
    # Ten times less, or the default for a fixed number of epochs if that is less.
    lower = min(0.1 * rate, 1e-3) if rate > 1e-3 else 0.1 * rate
    yield _remedy("reduce the learning rate", {"learning_rate": float(f"{lower:.6g}")})


def _on_start(model: EncoderDecoder) -> Iterator[Remedy]:
    parameters = model.parameters
    at_ppca = could_start_at_ppca(model)
    noise: Any = model
    is_learned = (
        parameters.get("noise_variance", 0) is None
        and getattr(noise, "shared_noise_variance", None) is not None
    )
    by_gradient = is_learned and parameters.get("noise_update") == "gradient"
    if by_gradient:
        change = "set the noise variance to its optimum in each step"
        change += ", starting at pPCA" if at_ppca else ""
    else:
        change = "start at pPCA" if at_ppca else "start with the noise variance of pPCA"
    changes: dict[str, Any] = {"noise_update": "closed_form"} if by_gradient else {}
    if parameters.get("noise_variance_init") is not None:
        changes["noise_variance_init"] = None
    if at_ppca:
        changes["init"] = "ppca"
    if changes:
        yield _remedy(change, changes)
    if parameters.get("kl_warmup_epochs") == 0 and not is_deep(model):
        has_noise = parameters.get("noise_variance", 0) is None
        when = " while the noise variance is learned" if has_noise else ""
        n_epochs = max(1, int(parameters["max_epochs"]) // 10)
        yield _remedy(f"anneal the KL{when}", {"kl_warmup_epochs": n_epochs})


def could_start_at_ppca(model: Any, *inits: Any) -> bool:
    """Return whether `init` is one of some values, by default None, and may be "ppca"."""
    can_start = getattr(model, "can_start_at_ppca", None)
    is_other = model.parameters.get("init", "") in (inits or (None,))
    return can_start is not None and is_other and bool(can_start())


def is_deep(model: EncoderDecoder) -> bool:
    """Return whether fewer layers may help."""
    return model.n_layers >= DEEP


def _remedy(text: str, changes: dict[str, Any], action: str = "refit") -> Remedy:
    settings = ", ".join(f"{name}={_written(value)}" for name, value in changes.items())
    return Remedy(f"{text}: {settings}" if settings else text, changes, action)


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _written(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value!r}"
