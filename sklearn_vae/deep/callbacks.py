"""Validation, names, parameters and copies of the callbacks of deep models."""

from __future__ import annotations

import copy
import io
from collections import Counter
from typing import Any

from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    InputShapeSetter,
    LoadInitState,
    MlflowLogger,
    NeptuneLogger,
    PassthroughScoring,
    SacredLogger,
    TensorBoard,
    TrainEndCheckpoint,
    WandbLogger,
)

from sklearn_vae.training.callbacks import BestLosses, FrozenParameters
from sklearn_vae.warning import warn_user

# Entries of the history that exist only with validation samples.
VALIDATION_ENTRIES = ("valid_loss", "valid_loss_best", "validation_bound")

# Attributes of loggers with their targets, which copies must share with the user's callbacks.
LOG_TARGETS = {
    MlflowLogger: ("client", "run"),
    NeptuneLogger: ("run",),
    SacredLogger: ("experiment",),
    TensorBoard: ("writer",),
    WandbLogger: ("wandb_run",),
}


def named_callbacks(callbacks: Any) -> list[tuple[str, Any]]:
    """Return pairs of name and callback, with the names that skorch uses."""
    pairs = [_with_name(callback) for callback in callbacks or []]
    counts, seen, named = Counter(name for name, _ in pairs), Counter[str](), []
    for name, callback in pairs:
        seen[name] += 1
        named.append((name if counts[name] == 1 else f"{name}_{seen[name]}", callback))
    return named


def callback_parameters(callbacks: Any) -> dict[str, Any]:
    """Return callbacks and their parameters by name, or nothing if they are invalid."""
    params: dict[str, Any] = {}
    if not _are_callbacks(callbacks):
        return params
    for name, callback in named_callbacks(callbacks):
        params[f"callbacks__{name}"] = callback
        if isinstance(callback, Callback):
            own = callback.get_params(deep=False)
            params |= {f"callbacks__{name}__{key}": value for key, value in own.items()}
    return params


def set_callback_parameters(model: Any, params: dict[str, Any]) -> list[Any]:
    """Set parameters of callbacks in place, and return the list of callbacks.

    "callbacks__name" replaces a callback, "callbacks__name__parameter" sets one of its parameters.
    """
    check_list(model)
    callbacks = list(model.callbacks or [])
    names = [name for name, _ in named_callbacks(callbacks)]
    parameters: dict[int, dict[str, Any]] = {}
    for key, value in params.items():
        name, _, parameter = key.removeprefix("callbacks__").partition("__")
        if name not in names:
            raise ValueError(
                f"{key} is not a parameter of {type(model).__name__}. Its callbacks are: "
                f"{', '.join(names) or 'none'}."
            )
        index = names.index(name)
        if parameter:
            parameters.setdefault(index, {})[parameter] = value
        else:
            callbacks[index] = (name, value)
    for index, values in parameters.items():
        _, callback = _with_name(callbacks[index])
        if isinstance(callback, type):
            callbacks[index] = (names[index], callback(**values))
        elif callback is None:
            raise ValueError(f"callbacks__{names[index]} is None and has no parameters to set.")
        else:
            callback.set_params(**values)
    return callbacks


def check_list(model: Any) -> None:
    """Raise ValueError unless `callbacks` is None or a list of callbacks."""
    if not _are_callbacks(model.callbacks):
        raise ValueError(
            f"callbacks must be None or a list of skorch callbacks, got {model.callbacks!r}."
        )


def check_callbacks(model: Any) -> None:
    """Raise ValueError if `callbacks` is not a list of callbacks that work with this model."""
    check_list(model)
    for name, callback in named_callbacks(model.callbacks):
        reason = _reason_against(callback, bool(model.early_stopping))
        if reason:
            raise ValueError(f"callbacks contains {name}, which {reason}.")


def callbacks_of_fit(callbacks: Any) -> list[Any]:
    """Return copies of the callbacks, after two of this library that skorch's callbacks rely on.

    Runs, writers and open files to which callbacks log are shared, not copied.
    """
    if not callbacks:
        return []
    memo: dict[int, Any] = {}
    copies = []
    for name, callback in named_callbacks(callbacks):
        _share_logs(callback, memo)
        trial = dict(memo)  # a failed copy leaves entries in it
        try:
            copies.append((name, copy.deepcopy(callback, trial)))
            memo = trial
        except Exception as error:  # noqa: BLE001 - raised by code of the user
            warn_user(
                f"callbacks contains {name}, which cannot be copied ({type(error).__name__}: "
                f"{error}). The original is used and may change during fit.",
            )
            memo[id(callback)] = callback
            copies.append((name, callback))
    for _, callback in copies:  # the copied checkpoint is not the one that skorch initializes
        if isinstance(callback, LoadInitState) and isinstance(
            callback.checkpoint, TrainEndCheckpoint
        ):
            callback.checkpoint.initialize()
    return [BestLosses(), FrozenParameters(), *copies]


def warn_of_failures(net: Any) -> None:
    """Warn of callbacks that failed at the end of training."""
    if net.failures_:
        warn_user(
            "The trained model was kept, but callbacks failed in on_train_end: "
            f"{', '.join(net.failures_)}.",
        )


def _with_name(callback: Any) -> tuple[str, Any]:
    if isinstance(callback, tuple | list):
        return callback[0], callback[1]
    kind = callback if isinstance(callback, type) else type(callback)
    return kind.__name__, callback


def _are_callbacks(callbacks: Any) -> bool:
    return callbacks is None or (
        isinstance(callbacks, list | tuple) and all(map(_is_callback, callbacks))
    )


def _is_callback(callback: Any) -> bool:
    if isinstance(callback, tuple | list):
        if len(callback) != 2 or not isinstance(callback[0], str):
            return False
        callback = callback[1]
        if callback is None:
            return True
    return isinstance(callback, Callback) or (
        isinstance(callback, type) and issubclass(callback, Callback)
    )


def _share_logs(callback: Any, memo: dict[int, Any]) -> None:
    """Add the log targets of a callback to `memo`, so that copies share them."""
    names = next((names for kind, names in LOG_TARGETS.items() if isinstance(callback, kind)), ())
    shared = [getattr(callback, name) for name in names]
    attributes = {} if isinstance(callback, type) else getattr(callback, "__dict__", {})
    shared += [value for value in attributes.values() if isinstance(value, io.IOBase)]
    memo.update((id(value), value) for value in shared)


def _reason_against(callback: Any, has_validation: bool) -> str:
    """Return why a callback cannot work and what to do, or an empty string."""
    kind = callback if isinstance(callback, type) else type(callback)
    if callback is None:
        return ""
    if issubclass(kind, InputShapeSetter):
        return (
            "sets the input size of the networks. Remove it: their size follows from X, and the "
            "functions `encoder` and `decoder` receive it"
        )
    if issubclass(kind, EpochScoring | BatchScoring) and getattr(callback, "scoring", 0) is None:
        return "requires `scoring`, a scorer name of scikit-learn or a function (net, X, y)"
    if issubclass(kind, LoadInitState) and not isinstance(callback, type):
        if getattr(callback.checkpoint, "f_history", "") is None:
            return (
                "requires a checkpoint with `f_history`. Use the parameter `checkpoint` of the model "
                "to resume training"
            )
        return ""
    return "" if has_validation else _reason_without_validation(callback, kind)


def _reason_without_validation(callback: Any, kind: type) -> str:
    """Return why a callback cannot work without validation samples, or an empty string."""
    hint = "Set early_stopping=True, which holds out validation_fraction of X"
    if issubclass(kind, EpochScoring | BatchScoring | PassthroughScoring):
        if not getattr(callback, "on_train", False):
            return f"scores validation samples. {hint}, or set its on_train=True"
        return ""
    if issubclass(kind, WandbLogger):
        if getattr(callback, "save_model", True):
            return f"saves the model with the best valid_loss. {hint}, or set its save_model=False"
        return ""
    policy = getattr(callback, "policy", None)
    monitors = getattr(policy, "__name__", policy) == "ReduceLROnPlateau"
    if not (monitors or issubclass(kind, Checkpoint | EarlyStopping)):
        return ""
    default = "valid_loss_best" if issubclass(kind, Checkpoint) else "valid_loss"
    monitor = getattr(callback, "monitor", default)
    if not (isinstance(monitor, str) and monitor in VALIDATION_ENTRIES):
        return ""
    if issubclass(kind, EarlyStopping):
        hint += " and stops according to n_iter_no_change and tol"
    if issubclass(kind, Checkpoint):
        hint += " and restores the best parameters"
    return f"monitors {monitor!r} of validation samples. {hint}"
