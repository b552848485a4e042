"""Files from which a training that was killed goes on, bit for bit."""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import scipy

from sklearn_vae.serialization.files import write_then_replace
from sklearn_vae.serialization.fingerprint import fingerprint
from sklearn_vae.validation import check_integer, check_random_state

# What a fit ends with does not depend on these, or only on where `random_state` stands.
NOT_IN_THE_NAME = ("checkpoint", "checkpoint_every", "verbose", "random_state")

# Hexadecimal digits of the checksum at a file's end.
CHECKSUM_DIGITS = 64

# Those of a key that are in the file's name; in the file are all.
DIGITS_OF_NAME = 32

# Dtypes that are told by their name alone.
KINDS = "biufcSU"

# What has keys, and comes back as what it was; schedules have counters.
MAPPINGS: dict[str, Any] = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}

# What a file of other content than is read raises, here and where its state is given back.
ODD = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def check_checkpoint(estimator: Any) -> None:
    """Raise ValueError unless `checkpoint` and `checkpoint_every` are what they have to be."""
    folder = estimator.checkpoint
    if not (folder is None or (isinstance(folder, str | os.PathLike) and str(folder))):
        raise ValueError(f"checkpoint must be None or the path of a folder, got {folder!r}.")
    check_integer("checkpoint_every", estimator.checkpoint_every, at_least=1)


class Checkpoint:
    """The file of one fit: of an estimator's parameters and some rows.

    Its name tells these and the library's version, so that no other fit has it. In it is what a
    training had learned after some epoch, and where that ran: `resume` gives it back in the same
    place only. A file is there as a whole or not at all: it is written beside, and then renamed.

    Parameters
    ----------
    estimator : BaseEstimator
        With `checkpoint`, `checkpoint_every` and `random_state`.
    X : array
        The rows, checked.
    before : object
        What else the training begins with.

    Attributes
    ----------
    path : Path
    every : int
        Epochs between two writes.
    random_state : RandomState
        That of the estimator; where it has None, that of the fit that is resumed.
    finished : bool
        Whether what `resume` gave is the end of the training.
    """

    def __init__(self, estimator: Any, X: Any, before: Any = None) -> None:
        try:
            folder = Path(estimator.checkpoint).absolute()  # wherever a callback changes to
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                "checkpoint must be a folder, or a path where one can be made, got "
                f"{estimator.checkpoint!r}: {error}"
            ) from error
        given = {
            name: value
            for name, value in estimator.get_params(deep=False).items()
            if name not in NOT_IN_THE_NAME
        }
        seed = estimator.random_state
        self.random_state = check_random_state(seed)
        if seed is not None and not isinstance(seed, int | np.integer):
            seed = self.random_state.get_state(legacy=False)
        version = sys.modules[__name__.partition(".")[0]].__version__
        self.key = fingerprint(version, type(estimator), given, seed, X, before)
        self.path = folder / f"{type(estimator).__name__}-{self.key[:DIGITS_OF_NAME]}.npz"
        self.every = int(estimator.checkpoint_every)
        self.finished = False
        self._place: dict[str, Any] = {}
        self._failed = False
        for left in folder.glob(f"{self.path.name}.*.tmp"):  # by one that was killed
            with suppress(OSError):
                left.unlink()
        self._found = self._read()
        if seed is None and self._found is not None:
            self.random_state = np.random.RandomState()
            self.random_state.set_state(self._found["random_state"])
        self._begun = self.random_state.get_state(legacy=False) if seed is None else None

    @classmethod
    def of(cls, estimator: Any, X: Any, before: Any = None) -> Checkpoint | None:
        """That of an estimator with a folder for them, else None."""
        return None if estimator.checkpoint is None else cls(estimator, X, before)

    def resume(self, read: Callable[[Any], Any], **place: Any) -> Any:
        """What was saved of this training, as `read` makes it of a state, or None.

        Parameters
        ----------
        read : callable
            From a state to what the training goes on from. Raises one of `ODD`, and changes
            nothing, where the state is not of this training. `finished` is known by then.
        **place : str or int
            What a number depends on beside the parameters and the rows: versions, the kind of
            device, the number of threads, a fingerprint of what the training begins with. What is
            saved from now on is of this place.
        """
        self._place = {
            "machine": platform.machine(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            **place,
        }
        found, self._found = self._found, None
        if found is None:
            return None
        names = {*self._place, *found["place"]}
        other = sorted(n for n in names if self._place.get(n) != found["place"].get(n))
        if other:
            told = (
                f"{n} {found['place'].get(n)!s:.24}, now {self._place.get(n)!s:.24}" for n in other
            )
            self._is_not_resumed(f"was written elsewhere ({'; '.join(told)})")
            return None
        self.finished = found["finished"]
        try:
            return read(found["state"])
        except ODD as error:
            self.finished = False
            self._is_not_resumed(f"holds no state of this fit ({error!r:.80})")
            return None

    def save(self, state: Any, *, finished: bool = False) -> None:
        """Write the state of the training; a warning, the first time, where that fails.

        Parameters
        ----------
        state : dict, list, tuple, set, deque, array, number, str or None
            Of these. Where it holds something else, it is not written.
        finished : bool, default=False
            Whether this is the end of the training.
        """
        content = {
            "key": self.key,
            "place": self._place,
            "random_state": self._begun,
            "finished": finished,
            "state": state,
        }
        try:
            _write(self.path, to_bytes(content))
        except (OSError, TypeError) as error:
            if not self._failed:
                warnings.warn(
                    f"The checkpoint {self.path} could not be written, and the one before, if "
                    f"any, stays as it was; training goes on: {error}",
                    stacklevel=2,
                )
            self._failed = True

    def _read(self) -> Any:
        try:
            found = from_bytes(self.path.read_bytes())
            _check_content(found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._is_not_resumed(f"is damaged ({error})")
            return None
        if found["key"] != self.key:
            self._is_not_resumed("is that of another fit, under a new name")
            return None
        return found

    def _is_not_resumed(self, why: str) -> None:
        warnings.warn(
            f"The checkpoint {self.path} {why} and is not resumed: training begins anew.",
            stacklevel=2,
        )


def random_state_of(estimator: Any, checkpoint: Checkpoint | None) -> np.random.RandomState:
    """The generator of a fit: the estimator's, or that of the fit that is resumed."""
    if checkpoint is None:
        return check_random_state(estimator.random_state)
    return checkpoint.random_state


def to_bytes(content: Any) -> bytes:
    """An .npz file of two arrays, the content as JSON and the numbers of its arrays.

    The archive's comment is a checksum of all before it.

    Raises
    ------
    TypeError
        If there is something that is neither a number nor a string, nor an array or a container of
        these.
    """
    numbers = bytearray()
    text = json.dumps(_encoded(content, numbers)).encode()
    file = io.BytesIO()
    np.savez(file, content=np.frombuffer(text, np.uint8), numbers=np.frombuffer(numbers, np.uint8))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = CHECKSUM_DIGITS * b"0"
    checksum = _checksum(file.getbuffer()[:-CHECKSUM_DIGITS])
    file.seek(-CHECKSUM_DIGITS, io.SEEK_END)
    file.write(checksum)
    return file.getvalue()


def can_hold(value: Any) -> bool:
    """Whether :func:`to_bytes` takes a value."""
    try:
        _encoded(value, bytearray())
    except TypeError:
        return False
    return True


def from_bytes(file: bytes) -> Any:
    """What :func:`to_bytes` was given; nothing in it is executed.

    Raises
    ------
    ValueError
        If the checksum does not fit, or it does, and no such file was written.
    """
    whole = memoryview(file)[:-CHECKSUM_DIGITS]
    if _checksum(whole) != file[-CHECKSUM_DIGITS:]:
        raise ValueError("its checksum does not fit")
    try:
        with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
            content, numbers = arrays["content"].tobytes(), arrays["numbers"]
        return _decoded(json.loads(content), numbers)
    except ODD as error:
        raise ValueError(f"its content is odd: {error!r:.80}") from error


def _check_content(found: Any) -> None:
    """Raise ValueError unless the content of a file is of the kinds that :class:`Checkpoint` has."""
    kinds = {"key": str, "place": dict, "random_state": dict | None, "finished": bool}
    is_such = type(found) is dict and found.keys() == {*kinds, "state"}
    if not (is_such and all(isinstance(found[name], kind) for name, kind in kinds.items())):
        raise ValueError("its content is odd")
    if found["random_state"] is not None:
        try:
            np.random.RandomState().set_state(found["random_state"])
        except ODD as error:
            raise ValueError(f"its random_state is odd: {error!r:.80}") from error


def _checksum(data: Any) -> bytes:
    return blake2b(data, digest_size=CHECKSUM_DIGITS // 2).hexdigest().encode()


def _encoded(value: Any, numbers: bytearray) -> Any:
    """As JSON, in which every object has one key, the kind of a value that JSON does not know."""
    if isinstance(value, np.ndarray | np.generic):
        return _encoded_array(value, numbers)
    if value is None or type(value) in (bool, int, float) or isinstance(value, str):
        return value
    if type(value) is list:
        return [_encoded(part, numbers) for part in value]
    if type(value) is tuple:
        return {"tuple": [_encoded(part, numbers) for part in value]}
    if type(value) in (set, frozenset):
        parts = [_encoded(part, numbers) for part in sorted(value, key=repr)]
        return {type(value).__name__: parts}
    if type(value) is deque:
        return {"deque": [value.maxlen, [_encoded(part, numbers) for part in value]]}
    if type(value) in MAPPINGS.values():
        pairs = [[_encoded(part, numbers) for part in pair] for pair in value.items()]
        return {type(value).__name__: pairs}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}.")


def _encoded_array(value: Any, numbers: bytearray) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in KINDS:
        raise TypeError(f"a checkpoint cannot hold arrays of dtype {array.dtype}.")
    start = len(numbers)
    numbers += array.tobytes()
    kind = "array" if isinstance(value, np.ndarray) else "number"
    return {kind: [array.dtype.str, list(array.shape), start]}


def _decoded(value: Any, numbers: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(part, numbers) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, told),) = value.items()
    if kind == "tuple":
        return tuple(_decoded(part, numbers) for part in told)
    if kind in ("set", "frozenset"):
        return (set if kind == "set" else frozenset)(_decoded(part, numbers) for part in told)
    if kind == "deque":
        return deque((_decoded(part, numbers) for part in told[1]), told[0])
    if kind in MAPPINGS:
        pairs = {_decoded(key, numbers): _decoded(part, numbers) for key, part in told}
        return MAPPINGS[kind](pairs)
    name, shape, start = told
    dtype = np.dtype(name)
    stop = start + dtype.itemsize * int(np.prod(shape))
    array = np.frombuffer(numbers[start:stop].tobytes(), dtype).reshape(shape)
    return array.copy() if kind == "array" else array[()]


def _write(path: Path, data: bytes) -> None:
    """Put a file in the place of another, whole or not at all."""
    for attempt in range(2):
        beside = path.with_name(f"{path.name}.{token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_then_replace(beside, path, data)
            return
        except FileNotFoundError:  # taken for one that was left by the same fit, elsewhere
            if attempt:
                raise
