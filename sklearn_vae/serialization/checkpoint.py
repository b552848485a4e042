"""Files from which an interrupted training resumes, with identical results to the last bit."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_vae.gaussian.observed import blas_in_use
from sklearn_vae.serialization.codec import INVALID, Reader, Writer
from sklearn_vae.serialization.container import drafts_of, library_versions, read_file, write_file
from sklearn_vae.serialization.identity import LIBRARY, digest
from sklearn_vae.validation import check_integer, check_random_state
from sklearn_vae.warning import warn_user

# Number of hexadecimal digits of each digest in a file name. The file contains the whole digests.
DIGITS_OF_NAME = 16

SUFFIX = ".safetensors"

# Maximum number of characters of a value in a warning.
MAX_TEXT = 80

# Entries of a file in addition to the state: those that map text to text, and types of the others.
TEXTS = ("digests", "texts", "start", "environment")
TYPES: dict[str, Any] = {"random_state": np.random.RandomState | None, "finished": bool}


def check_checkpoint(estimator: Any) -> None:
    """Raise ValueError unless `checkpoint` and `checkpoint_every` are valid."""
    folder = estimator.checkpoint
    if not (folder is None or (isinstance(folder, str | os.PathLike) and str(folder))):
        raise ValueError(f"checkpoint must be None or the path of a folder, got {folder!r}.")
    check_integer("checkpoint_every", estimator.checkpoint_every, at_least=1)


class Checkpoint:
    """File in which the training of one fit is saved every few epochs.

    Its name consists of digests of the class, the data, the parameters and the version of this
    library. If it does not exist, but a file of the same class and data does, a warning says what
    differs. `before` is anything else that the result depends on, such as the model of a warm
    start; `depends_on_every` means that the result depends on `checkpoint_every`.
    """

    def __init__(
        self, estimator: Any, X: Any, before: Any = None, *, depends_on_every: bool = False
    ) -> None:
        folder = Path(estimator.checkpoint).absolute()  # a callback may change the current folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                "checkpoint must be a folder or a path where one can be created, got "
                f"{estimator.checkpoint!r}: {error}"
            ) from error
        # The generator of the estimator or, if its random_state is None, of the resumed fit.
        self.random_state = check_random_state(estimator.random_state)
        self.every = int(estimator.checkpoint_every)
        self.finished = False  # whether `resume` has returned the state of a finished training
        self._has_failed = False
        data = digest(X, before)
        digests, texts = _identity(estimator, self.random_state, depends_on_every)
        stem = f"{type(estimator).__name__}-{data[:DIGITS_OF_NAME]}"
        self.path = folder / f"{stem}-{digest(digests)[:DIGITS_OF_NAME]}{SUFFIX}"
        self._content: dict[str, Any] = {
            "digests": {**digests, "data": data},
            "texts": texts,
            "random_state": None,
        }
        for draft in drafts_of(self.path):
            with suppress(OSError):
                draft.unlink()
        self._saved = self._read(f"{stem}-*{SUFFIX}")
        if estimator.random_state is None:
            if self._saved is not None and self._saved["random_state"] is not None:
                self.random_state = self._saved["random_state"]
            self._content["random_state"] = copy.deepcopy(self.random_state)

    @classmethod
    def of(cls, estimator: Any, X: Any, before: Any = None, **options: Any) -> Checkpoint | None:
        """Return the checkpoint of an estimator, or None if its parameter `checkpoint` is None."""
        return None if estimator.checkpoint is None else cls(estimator, X, before, **options)

    def resume(self, read: Callable[[Any], Any], start: dict[str, str], **environment: Any) -> Any:
        """Return `read(state)` for the state that was saved, or None if training must start.

        `read` is called after `finished` was set. It raises one of `INVALID`, and changes nothing,
        if the state does not belong to this training. `start` has digests of what the training
        starts from, which must be the same, except that "numbers" may differ if the environment
        does: versions, and other causes of different rounding given by name.
        """
        environment |= {**library_versions(), "machine": platform.machine(), "blas": blas_in_use()}
        environment = {name: str(value) for name, value in environment.items()}
        self._content |= {"start": start, "environment": environment}
        saved, self._saved = self._saved, None
        if saved is None:
            return None
        # Packages that only one process has imported, and safetensors, do not affect the result.
        names = environment.keys() & saved["environment"].keys() - {"safetensors"}
        then, now = ({n: e[n] for n in names} for e in (saved["environment"], environment))
        changes = "; ".join(_differences((then, then), (now, now)))
        other = [name for name in start if saved["start"].get(name) != start[name]]
        if other and not (changes and other == ["numbers"]):
            self._reject(f"starts from different {' and '.join(other)}")
            return None
        self.finished = saved["finished"]
        try:
            state = read(saved["state"])
        except INVALID as error:
            self.finished = False
            self._reject(f"has no state of this fit ({error!r:.80})")
            return None
        if changes:
            self._warn(
                f"was written in another environment ({changes}). Training resumes, but the last "
                "bits of the result may differ."
            )
        return state

    def save(self, state: Any, *, finished: bool = False) -> None:
        """Write the state of the training, or warn once if that fails."""
        try:
            write_checkpoint(self.path, {**self._content, "finished": finished, "state": state})
        except (OSError, TypeError, ValueError) as error:
            if not self._has_failed:
                self._warn(f"could not be written, but training continues: {error}")
            self._has_failed = True

    def _read(self, pattern: str) -> Any:
        """Return the content of the file, or None if there is no file of this fit."""
        try:
            saved = read_checkpoint(self.path)
            if saved["digests"] == self._content["digests"]:
                return saved
            self._reject("belongs to another fit and was renamed")
        except FileNotFoundError:
            self._warn_of_differences(pattern)
        except (OSError, ValueError) as error:
            self._reject(f"is damaged ({error!s:.200})")
        return None

    def _warn_of_differences(self, pattern: str) -> None:
        """Warn of the differences from the most similar file of the same class and data."""
        differences: list[list[str]] = []
        with suppress(OSError):
            paths = sorted(self.path.parent.glob(pattern), key=os.path.getmtime, reverse=True)
            for path in paths[:8]:  # reading more would take long
                with suppress(ValueError):
                    saved = read_checkpoint(path)
                    pairs = ((c["digests"], c["texts"]) for c in (saved, self._content))
                    differences.append(_differences(*pairs))
        if differences:
            closest = min(differences, key=len)
            warn_user(
                f"No checkpoint in {self.path.parent} matches this fit. The closest one of the "
                f"same class and data differs: {'; '.join(closest)}. Training starts from scratch.",
            )

    def _reject(self, why: str) -> None:
        self._warn(f"{why}, so training starts from scratch.")

    def _warn(self, text: str) -> None:
        warn_user(f"The checkpoint {self.path} {text}")


def random_state_of(estimator: Any, checkpoint: Checkpoint | None) -> np.random.RandomState:
    """Return the generator of a fit: of the estimator, or of the fit that is resumed."""
    if checkpoint is None:
        return check_random_state(estimator.random_state)
    return checkpoint.random_state


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write the content of a checkpoint to a file, replacing an existing one."""
    writer = Writer()
    tree = writer.value(content)
    if writer.refused:
        raise TypeError(f"a checkpoint cannot hold {'; '.join(writer.refused)}.")
    try:
        write_file(path, "checkpoint", tree, writer.tensors)
    except FileNotFoundError:  # the folder was removed, or another process has removed the draft
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, "checkpoint", tree, writer.tensors)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; raise ValueError if the file is invalid."""
    tree, tensors, _, n_bytes = read_file(path, "checkpoint")
    content: Any = Reader(tensors, n_bytes).read(tree, "content")
    if not isinstance(content, dict) or content.keys() != {*TEXTS, *TYPES, "state"}:
        raise ValueError("an entry is missing or unknown")
    for name in TEXTS:
        texts = content[name] if isinstance(content[name], dict) else {None: None}
        if not all(isinstance(text, str) for pair in texts.items() for text in pair):
            raise ValueError(f"{name} must map text to text")
    if not all(isinstance(content[name], kind) for name, kind in TYPES.items()):
        raise ValueError(f"{' or '.join(TYPES)} has an invalid type")
    return content


def _identity(
    estimator: Any, generator: np.random.RandomState, with_every: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digest and a short text of everything except the data that a fit depends on."""
    values = {"class": type(estimator), **estimator.get_params(deep=False)}
    for name in ("checkpoint", "checkpoint_every", "verbose"):  # they do not change the result
        values.pop(name, None)
    values[LIBRARY] = library_versions()[LIBRARY]
    if with_every:
        values["checkpoint_every"] = int(estimator.checkpoint_every)
    texts = {name: _text(value) for name, value in values.items()}
    if isinstance(estimator.random_state, np.random.RandomState):
        values["random_state"] = generator.get_state(legacy=False)
    return {name: digest(value) for name, value in values.items()}, texts


def _text(value: Any) -> str:
    """Return a short text of a value, without its address in memory."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    name = getattr(value, "__qualname__", None)
    text = repr(value.item() if isinstance(value, np.generic) else value) if name is None else name
    return type(value).__name__ if " at 0x" in text else " ".join(text.split())


def _differences(then: tuple[dict[str, str], ...], now: tuple[dict[str, str], ...]) -> list[str]:
    """Return a text for each name whose digest differs; `then` and `now` are digests and texts."""
    (old_digests, old_texts), (digests, texts) = then, now
    differences = []
    for name in sorted(old_digests.keys() | digests.keys()):
        if old_digests.get(name) == digests.get(name):
            continue
        old, new = old_texts.get(name, "unset"), texts.get(name, "unset")
        change = f"={old:.{MAX_TEXT}}, now {new:.{MAX_TEXT}}"
        change = change if old != new else " has another source or other values"
        differences.append(f"{name:.{MAX_TEXT}}{change}")
    return differences
