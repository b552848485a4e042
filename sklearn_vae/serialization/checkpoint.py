"""Files from which a training that was killed resumes, bit for bit."""

from __future__ import annotations

import copy
import os
import platform
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_vae.gaussian.observed import blas_in_use
from sklearn_vae.serialization.codec import Reader, Writer
from sklearn_vae.serialization.container import drafts_of, library_versions, read_file, write_file
from sklearn_vae.serialization.identity import LIBRARY, digest
from sklearn_vae.validation import check_integer, check_random_state

# Parameters on which the result of a fit does not depend.
NOT_IN_IDENTITY = ("checkpoint", "checkpoint_every", "verbose")

# Hexadecimal digits of each digest in the name of a file. The file contains all of them.
DIGITS_OF_NAME = 16

SUFFIX = ".safetensors"

# Number of other files, the last written, of which fit names the most similar, and of differences
# that it names; characters of a value.
N_COMPARED, N_NAMED, MAX_TEXT = 8, 6, 80

# Errors that a state raises which is not the state of this training.
ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

# Parts of a file that are dicts of text, and those that the codec writes.
DICTS, CODED = ("identity", "texts", "start", "place"), ("random_state", "state")


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
        left_out = {*NOT_IN_IDENTITY} - ({"checkpoint_every"} if depends_on_every else set())
        self._identity, self._texts = _identity(estimator, self.random_state, left_out)
        self._data = digest(X, before)
        self._stem = f"{type(estimator).__name__}-{self._data[:DIGITS_OF_NAME]}"
        self.path = folder / f"{self._stem}-{digest(self._identity)[:DIGITS_OF_NAME]}{SUFFIX}"
        self._start: dict[str, str] = {}
        self._place: dict[str, str] = {}
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
        self._place = {name: str(value) for name, value in place.items()}
        saved, self._saved = self._saved, None
        if saved is None:
            return None
        names = self._place.keys() & saved["place"].keys() - {LIBRARY}
        before, now = ({name: p[name] for name in names} for p in (saved["place"], self._place))
        elsewhere = _differences(before, now, before, now)
        compared = [name for name in start if not (elsewhere and name == "numbers")]
        if other := [name for name in compared if saved["start"].get(name) != start[name]]:
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
                f"was written elsewhere ({_joined(elsewhere)}) and is resumed: the last bits of the "
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
            "texts": self._texts,
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
        is_own = saved["identity"] == self._identity and saved["data"] == self._data
        if not is_own or (saved["random_state"] is not None) != has_generator:
            self._warn_not_resumed("is that of another fit, under a new name")
            return None
        return saved

    def _warn_of_differences(self) -> None:
        """Say what differs in the most similar of the other files of this class and data."""
        paths = sorted(self.path.parent.glob(f"{self._stem}-*{SUFFIX}"), key=_time_of)
        found = []
        for path in paths[-N_COMPARED:]:
            with suppress(OSError, ValueError):
                other = read_checkpoint(path, with_state=False)
                texts = other["texts"], self._texts
                found.append(_differences(other["identity"], self._identity, *texts))
        if found:
            differences = min(reversed(found), key=len)
            warnings.warn(
                f"No checkpoint in {self.path.parent} is of this fit; one of the same class and "
                f"data differs: {_joined(differences)}. Training begins anew.",
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
    tree = {**content, **{name: writer.value(content[name], name) for name in CODED}}
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


def read_checkpoint(path: Path, *, with_state: bool = True) -> dict[str, Any]:
    """Content of a file of :func:`write_checkpoint`.

    Raises
    ------
    ValueError
        If it is none, or damaged.
    OSError
        If there is no such file.
    """
    tree, tensors, _, n_bytes = read_file(path, "checkpoint")
    if not isinstance(tree, dict) or tree.keys() != {*DICTS, *CODED, "data", "finished"}:
        raise ValueError("it has other entries than a checkpoint")
    dicts = all(isinstance(tree[name], dict) for name in DICTS)
    texts = [tree["data"], *(text for name in DICTS if dicts for text in tree[name].values())]
    are_texts = dicts and all(isinstance(text, str) for text in texts)
    if not (are_texts and isinstance(tree["finished"], bool)):
        raise ValueError("an entry is of another type")
    if with_state:
        reader = Reader(tensors, n_bytes)
        tree |= {name: reader.value(tree[name], name) for name in CODED}
        if not isinstance(tree["random_state"], np.random.RandomState | None):
            raise ValueError("its random_state is no generator")
    return tree


def _made_folder(folder: Any) -> Path:
    try:
        made = Path(folder).absolute()  # a callback may change the current folder
        made.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"checkpoint must be a folder, or a path where one can be made, got {folder!r}: {error}"
        ) from error
    return made


def _identity(
    estimator: Any, random_state: np.random.RandomState, left_out: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Digests and short texts of what a fit depends on, besides the data."""
    kind, values = type(estimator), estimator.get_params(deep=False)
    seed = values["random_state"]
    texts = {name: _text(value) for name, value in values.items() if name not in left_out}
    if seed is not None and not isinstance(seed, int | np.integer):
        values["random_state"] = random_state.get_state(legacy=False)
    digests = {name: digest(values[name]) for name in texts}
    version = library_versions()[LIBRARY]
    return (
        {**digests, "class": digest(kind), LIBRARY: version},
        {**texts, "class": kind.__qualname__, LIBRARY: version},
    )


def _text(value: Any) -> str:
    """A short text that names a value."""
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(_text, value[:N_NAMED]))}]"
    elif isinstance(value, np.ndarray):
        text = f"array of shape {value.shape}"
    elif hasattr(value, "__qualname__"):
        text = value.__qualname__
    else:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    return type(value).__name__ if " at 0x" in text else " ".join(text.split())[:MAX_TEXT]


def _differences(
    before: dict[str, str],
    now: dict[str, str],
    texts_before: dict[str, str],
    texts_now: dict[str, str],
) -> list[str]:
    """Texts that say in what two dicts differ."""
    differences = []
    for name in sorted(before.keys() | now.keys()):
        old, new = (texts.get(name, "unset")[:MAX_TEXT] for texts in (texts_before, texts_now))
        if before.get(name) != now.get(name):
            values = f"={old}, now {new}" if old != new else " has another source or other values"
            differences.append(name[:MAX_TEXT] + values)
    return differences


def _joined(differences: list[str]) -> str:
    rest = len(differences) - N_NAMED
    return "; ".join([*differences[:N_NAMED], *([f"and {rest} more"] if rest > 0 else [])])


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
