"""The parameter `callbacks` of deep models: its checks, names, parameters, and copies for a fit."""

from __future__ import annotations

import copy
import io
import warnings
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

# Entries of the history that only samples held out give.
HELD_OUT = ("valid_loss", "valid_loss_best", "validation_bound")

# Attributes of loggers that hold where they log to, which a copy would take from the user.
LOGS = {
    MlflowLogger: ("client", "run"),
    NeptuneLogger: ("run",),
    SacredLogger: ("experiment",),
    TensorBoard: ("writer",),
    WandbLogger: ("wandb_run",),
}


def named_callbacks(callbacks: Any) -> list[tuple[str, Any]]:
    """Pairs of name and callback, named as skorch names them.

    Parameters
    ----------
    callbacks : list or None
        Callbacks, classes of them, or pairs (name, callback).
    """
    pairs = [_with_name(callback) for callback in callbacks or []]
    counts, seen, named = Counter(name for name, _ in pairs), Counter[str](), []
    for name, callback in pairs:
        seen[name] += 1
        named.append((name if counts[name] == 1 else f"{name}_{seen[name]}", callback))
    return named


def callback_parameters(callbacks: Any) -> dict[str, Any]:
    """Callbacks and their parameters by name, where the callbacks are valid."""
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

    Parameters
    ----------
    model : DeepModel
    params : dict
        "callbacks__name": a callback in place of another, None for none;
        "callbacks__name__parameter": a parameter.

    Raises
    ------
    ValueError
        If there is no callback of a name, or it has no such parameter.
    """
    check_list(model)
    callbacks = list(model.callbacks or [])
    names = [name for name, _ in named_callbacks(callbacks)]
    parameters: dict[int, dict[str, Any]] = {}
    for key, value in params.items():
        name, _, parameter = key.removeprefix("callbacks__").partition("__")
        if name not in names:
            raise ValueError(
                f"{key} is no parameter of {type(model).__name__}: its callbacks are "
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
            raise ValueError(f"callbacks has no {names[index]} with parameters: it is None.")
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
    """Raise ValueError if `callbacks` is no list of callbacks, or one of them cannot work here."""
    check_list(model)
    for name, callback in named_callbacks(model.callbacks):
        reason = _reason_against(callback, bool(model.early_stopping))
        if reason:
            raise ValueError(f"callbacks has {name}, which {reason}.")


def callbacks_of_fit(callbacks: Any) -> list[Any]:
    """Copies of callbacks, after those of ours that give skorch's what they expect.

    What cannot be copied is used as it is, with a warning. The runs, writers and open files that
    callbacks log to are not copied.
    """
    if not callbacks:
        return []
    memo: dict[int, Any] = {}
    copies = []
    for name, callback in named_callbacks(callbacks):
        _share_logs(callback, memo)
        trial = dict(memo)  # a copy that fails leaves parts of itself there
        try:
            copies.append((name, copy.deepcopy(callback, trial)))
            memo = trial
        except Exception as error:  # noqa: BLE001 - of code of others
            warnings.warn(
                f"callbacks has {name}, which cannot be copied and is used as it is: it keeps what "
                f"it learns in this fit ({type(error).__name__}: {error}).",
                stacklevel=5,
            )
            memo[id(callback)] = callback
            copies.append((name, callback))
    for _, callback in copies:  # which a clone has separated from the one that is initialized
        if isinstance(callback, LoadInitState) and isinstance(
            callback.checkpoint, TrainEndCheckpoint
        ):
            callback.checkpoint.initialize()
    return [BestLosses(), FrozenParameters(), *copies]


def warn_of_failures(net: Any) -> None:
    """Warn of callbacks that have failed at the end of a training, which is kept."""
    if net.failures_:
        warnings.warn(
            f"on_train_end of callbacks has failed, and the trained model is kept: "
            f"{', '.join(net.failures_)}.",
            stacklevel=3,
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
    """Have a copy share what a callback logs to."""
    names = next((names for kind, names in LOGS.items() if isinstance(callback, kind)), ())
    shared = [getattr(callback, name) for name in names]
    attributes = {} if isinstance(callback, type) else getattr(callback, "__dict__", {})
    shared += [value for value in attributes.values() if isinstance(value, io.IOBase)]
    memo.update((id(value), value) for value in shared)


def _reason_against(callback: Any, held_out: bool) -> str:
    """Why a callback cannot work, and what does its job; empty if it can."""
    kind = callback if isinstance(callback, type) else type(callback)
    if callback is None:
        return ""
    if issubclass(kind, InputShapeSetter):
        return (
            "sets a parameter of a module that is made already: the networks have as many inputs "
            "as X has features, and the functions `encoder` and `decoder` are given their shapes"
        )
    if issubclass(kind, EpochScoring | BatchScoring) and getattr(callback, "scoring", 0) is None:
        return "needs `scoring`, a name of scikit-learn or a function (net, X, y)"
    if issubclass(kind, LoadInitState) and not isinstance(callback, type):
        return _reason_against_load(callback)
    return "" if held_out else _need_of_held_out(callback, kind)


def _reason_against_load(callback: Any) -> str:
    if getattr(callback.checkpoint, "f_history", "") is None:
        return "needs a checkpoint with `f_history`; `checkpoint` resumes a training exactly"
    return ""


def _need_of_held_out(callback: Any, kind: type) -> str:
    """Why a callback cannot work without samples held out; empty if it can."""
    hint = "set early_stopping=True, which holds out validation_fraction of X"
    if issubclass(kind, EpochScoring | BatchScoring | PassthroughScoring):
        if not getattr(callback, "on_train", False):
            return f"scores samples held out, and there are none: {hint}, or give it on_train=True"
        return ""
    if issubclass(kind, WandbLogger):
        if getattr(callback, "save_model", True):
            return f"saves the best model by valid_loss: {hint}, or give it save_model=False"
        return ""
    policy = getattr(callback, "policy", None)
    looks = getattr(policy, "__name__", policy) == "ReduceLROnPlateau"
    if not (looks or issubclass(kind, Checkpoint | EarlyStopping)):
        return ""
    default = "valid_loss_best" if issubclass(kind, Checkpoint) else "valid_loss"
    monitor = getattr(callback, "monitor", default)
    if not (isinstance(monitor, str) and monitor in HELD_OUT):
        return ""
    if issubclass(kind, EarlyStopping):
        hint += " and stops by n_iter_no_change and tol"
    if issubclass(kind, Checkpoint):
        hint += " and keeps the best parameters"
    return f"monitors {monitor!r} of samples held out, and there are none: {hint}"
