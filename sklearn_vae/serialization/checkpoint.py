"""Files from which a training that was killed resumes, bit for bit."""

from __future__ import annotations

import copy
import os
import platform
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sklearn_vae.gaussian.observed import blas_in_use
from sklearn_vae.serialization.codec import INVALID as ODD
from sklearn_vae.serialization.codec import Reader, Writer
from sklearn_vae.serialization.container import drafts_of, library_versions, read_file, write_file
from sklearn_vae.serialization.identity import LIBRARY, digest
from sklearn_vae.validation import check_integer, check_random_state

# Parameters on which the result of a fit does not depend.
NOT_IN_IDENTITY = ("checkpoint", "checkpoint_every", "verbose")

# Hexadecimal digits of each digest in the name of a file. The file contains all of them.
DIGITS_OF_NAME = 16

SUFFIX = ".safetensors"

# Number of other files, the last written, of which fit names the most similar; and of characters of
# a value that it names.
N_COMPARED, MAX_TEXT = 8, 80

# Digest and text of each thing that may differ.
Identity: TypeAlias = dict[str, tuple[str, str]]

# Types of what a file contains, besides the state.
TYPES: dict[str, Any] = {
    "identity": dict,
    "data": str,
    "start": dict,
    "place": dict,
    "random_state": np.random.RandomState | None,
    "finished": bool,
}


def check_checkpoint(estimator: Any) -> None:
    """Raise ValueError unless `checkpoint` and `checkpoint_every` are valid."""
    folder = estimator.checkpoint
    if not (folder is None or (isinstance(folder, str | os.PathLike) and str(folder))):
        raise ValueError(f"checkpoint must be None or the path of a folder, got {folder!r}.")
    check_integer("checkpoint_every", estimator.checkpoint_every, at_least=1)


class Checkpoint:
    """The file of one fit, in which its training is saved every few epochs.

    Its name is made of the class, the data, the parameters and the version of this library. Where
    it does not exist, but a file of this class and data does, a warning says what differs.

    Parameters
    ----------
    estimator : BaseEstimator
        With `checkpoint`, `checkpoint_every` and `random_state`.
    X : array
        Checked data.
    before : object, default=None
        What the training begins with besides the data, such as the model of a warm start.
    depends_on_every : bool, default=False
        Whether the result depends on `checkpoint_every`.

    Attributes
    ----------
    path : Path
    every : int
        Number of epochs between two writes.
    random_state : RandomState
        That of the estimator; if the estimator has None, that of the fit that is resumed.
    finished : bool
        Whether what `resume` returned is the end of the training.
    """

    def __init__(
        self, estimator: Any, X: Any, before: Any = None, *, depends_on_every: bool = False
    ) -> None:
        folder = _made_folder(estimator.checkpoint)
        self.random_state = check_random_state(estimator.random_state)
        self.every = int(estimator.checkpoint_every)
        self.finished = False
        self._identity = _identity(estimator, self.random_state, depends_on_every)
        self._data = digest(X, before)
        self._stem = f"{type(estimator).__name__}-{self._data[:DIGITS_OF_NAME]}"
        own = digest(_digests(self._identity))[:DIGITS_OF_NAME]
        self.path = folder / f"{self._stem}-{own}{SUFFIX}"
        self._start: dict[str, str] = {}
        self._place: Identity = {}
        self._failed = False
        for left in drafts_of(self.path):  # by a process that was killed
            with suppress(OSError):
                os.unlink(left)
        self._saved = self._read(estimator.random_state is None)
        self._begun = None
        if estimator.random_state is None:
            if self._saved is not None:
                self.random_state = self._saved["random_state"]
            self._begun = copy.deepcopy(self.random_state)

    @classmethod
    def of(cls, estimator: Any, X: Any, before: Any = None, **options: Any) -> Checkpoint | None:
        """Return the checkpoint of an estimator with a folder for them, else None."""
        return None if estimator.checkpoint is None else cls(estimator, X, before, **options)

    def resume(self, read: Callable[[Any], Any], start: dict[str, str], **place: Any) -> Any:
        """Return what was saved of this training, as `read` makes it of a state, or None.

        Parameters
        ----------
        read : callable
            Makes what the training resumes from of a state. Raises one of `ODD`, and changes
            nothing, if the state is not of this training. `finished` is set before.
        start : dict of str to str
            Digests of what the training begins with. If one differs, the state is not of this
            training, except that "numbers" may differ if the place does.
        **place : str or int
            What rounding depends on besides versions: the kind of device, the number of threads.
            What is saved from now on is of this place.
        """
        self._start = start
        place |= {**library_versions(), "machine": platform.machine(), "blas": blas_in_use()}
        self._place = {name: (str(value), str(value)) for name, value in place.items()}
        saved, self._saved = self._saved, None
        if saved is None:
            return None
        # Not what only one has imported, nor what changes no number.
        names = self._place.keys() & saved["place"].keys() - {"safetensors"}
        elsewhere = _differences(*({n: p[n] for n in names} for p in (saved["place"], self._place)))
        other = [name for name in start if saved["start"].get(name) != start[name]]
        if other and not (elsewhere and other == ["numbers"]):
            self._warn_not_resumed(f"began with other {' and '.join(other)}")
            return None
        self.finished = saved["finished"]
        try:
            state = read(saved["state"])
        except ODD as error:
            self.finished = False
            self._warn_not_resumed(f"has no state of this fit ({error!r:.80})")
            return None
        if elsewhere:
            self._warn(
                f"was written elsewhere ({elsewhere}) and is resumed: the last bits of the "
                "result may differ."
            )
        return state

    def save(self, state: Any, *, finished: bool = False) -> None:
        """Write the state of the training; warn, the first time, if that fails.

        Parameters
        ----------
        state : object
            Plain values, arrays and tensors (`sklearn_vae.serialization.codec`). If there is
            something else in it, it is not written.
        finished : bool, default=False
            Whether this is the end of the training.
        """
        content = {
            "identity": self._identity,
            "data": self._data,
            "start": self._start,
            "place": self._place,
            "random_state": self._begun,
            "finished": finished,
            "state": state,
        }
        try:
            write_checkpoint(self.path, content)
        except (OSError, TypeError, ValueError) as error:
            if not self._failed:
                self._warn(
                    "could not be written, and the one before, if any, stays as it was; training "
                    f"goes on: {error}"
                )
            self._failed = True

    def _read(self, has_generator: bool) -> Any:
        try:
            saved = read_checkpoint(self.path)
        except FileNotFoundError:
            self._warn_of_differences()
            return None
        except (OSError, ValueError) as error:
            self._warn_not_resumed(f"is damaged ({error})")
            return None
        is_own = _digests(saved["identity"]) == _digests(self._identity)
        has_own = (
            saved["data"] == self._data and (saved["random_state"] is not None) == has_generator
        )
        if not (is_own and has_own):
            self._warn_not_resumed("is that of another fit, under a new name")
            return None
        return saved

    def _warn_of_differences(self) -> None:
        """Say what differs in the most similar of the other files of this class and data."""
        found = []
        with suppress(OSError):
            paths = self.path.parent.glob(f"{self._stem}-*{SUFFIX}")
            for path in sorted(paths, key=os.path.getmtime, reverse=True)[:N_COMPARED]:
                with suppress(ValueError):
                    found.append(_differences(read_checkpoint(path)["identity"], self._identity))
        if found:
            warnings.warn(
                f"No checkpoint in {self.path.parent} is of this fit; one of the same class and "
                f"data differs: {min(found, key=lambda told: told.count(';'))}. Training begins "
                "anew.",
                stacklevel=2,
            )

    def _warn_not_resumed(self, why: str) -> None:
        self._warn(f"{why} and is not resumed: training begins anew.")

    def _warn(self, what: str) -> None:
        warnings.warn(f"The checkpoint {self.path} {what}", stacklevel=2)


def random_state_of(estimator: Any, checkpoint: Checkpoint | None) -> np.random.RandomState:
    """The generator of a fit: the estimator's, or that of the fit that is resumed."""
    if checkpoint is None:
        return check_random_state(estimator.random_state)
    return checkpoint.random_state


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a file of what :class:`Checkpoint` saves, in place of another."""
    writer = Writer()
    tree = writer.value(content, "")
    if writer.refused:
        raise TypeError(f"a checkpoint cannot hold {'; '.join(writer.refused)}.")
    for attempt in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, "checkpoint", tree, writer.tensors)
            return
        except FileNotFoundError:  # taken for one that was left by the same fit, elsewhere
            if attempt:
                raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a file of :func:`write_checkpoint`; ValueError if it is damaged."""
    tree, tensors, _, n_bytes = read_file(path, "checkpoint")
    content: Any = Reader(tensors, n_bytes).read(tree, "content")
    is_whole = isinstance(content, dict) and content.keys() == {*TYPES, "state"}
    if not (is_whole and all(isinstance(content[name], kind) for name, kind in TYPES.items())):
        raise ValueError("an entry is missing or of another type")
    identity, start, place = (content[name] for name in ("identity", "start", "place"))
    pairs = [*identity.values(), *place.values()]
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("its identity or place is not one")
    texts = [*identity, *place, *start, *start.values(), *(text for pair in pairs for text in pair)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its identity, start or place is no text")
    return content


def _made_folder(folder: Any) -> Path:
    try:
        made = Path(folder).absolute()  # a callback may change the current folder
        made.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"checkpoint must be a folder, or a path where one can be made, got {folder!r}: {error}"
        ) from error
    return made


def _identity(estimator: Any, generator: np.random.RandomState, with_every: bool) -> Identity:
    """Digest and short text of each thing, besides the data, on which a fit depends."""
    values = {"class": type(estimator), **estimator.get_params(deep=False)}
    values = {name: value for name, value in values.items() if name not in NOT_IN_IDENTITY}
    if with_every:
        values["checkpoint_every"] = int(estimator.checkpoint_every)
    texts = {name: _text(value) for name, value in values.items()}
    if isinstance(estimator.random_state, np.random.RandomState):
        values["random_state"] = generator.get_state(legacy=False)
    version = library_versions()[LIBRARY]
    parts = {name: (digest(value), texts[name]) for name, value in values.items()}
    return {**parts, LIBRARY: (version, version)}


def _digests(identity: Identity) -> dict[str, str]:
    return {name: digits for name, (digits, _) in identity.items()}


def _text(value: Any) -> str:
    """A short text that names a value, without its address."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    name = getattr(value, "__qualname__", None)
    text = repr(value.item() if isinstance(value, np.generic) else value) if name is None else name
    return type(value).__name__ if " at 0x" in text else " ".join(text.split())


def _differences(before: Identity, now: Identity) -> str:
    """What differs, in one line; empty if nothing does."""
    differences = []
    for name in sorted(before.keys() | now.keys()):
        (was, old), (is_now, new) = (each.get(name, ("", "unset")) for each in (before, now))
        values = f"={old:.{MAX_TEXT}}, now {new:.{MAX_TEXT}}"
        if was != is_now:
            told = values if old != new else " has another source or other values"
            differences.append(f"{name!s:.{MAX_TEXT}}{told}")
    return "; ".join(differences)
