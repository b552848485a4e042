"""Estimators in files that hold numbers, text and nothing that could be executed.

A file is a safetensors file: arrays are its tensors, all else is JSON in its metadata, under

- ``format``: "sklearn_vae";
- ``format_version``: an integer;
- ``checksum``: SHA-256 of the whole file, with zeros in its own place;
- ``libraries``: the versions of what wrote it, for whoever looks;
- ``model``: the estimator, a tree (see ``sklearn_vae.serialization.encode``) of its parameters and of
  what its fit has set.

Only the classes that are listed in ``sklearn_vae.public`` and ``sklearn_vae.serialization.models``
are made of it, by name: this library's, and the scalers of scikit-learn that are steps of a
``DensityPipeline``.

What a version of the library promises about files of others:

- It reads every format up to its own, ``FORMAT_VERSION``; of a later one it says that it has to be
  upgraded. The first three entries mean the same in every format.
- A parameter that a file does not have, since it is older than the parameter, has its default.
  So a default means what was done before, or the format gets another number.
- A parameter, class or tag that it does not know is an error, never left out. So is an attribute
  that has become a method or property of the class. Any other attribute is set.
- An attribute that a fitted model cannot do without is in files of every format
  (``sklearn_vae.serialization.fitted``); without it, or if it does not fit the others, a file is an
  error.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import Any

import numpy as np

from sklearn_vae.public import ESTIMATORS
from sklearn_vae.serialization.container import read, write
from sklearn_vae.serialization.models import LIBRARY, ModelReader, ModelWriter

__all__ = ["load", "save"]

# Whose version may matter to who reads a file later.
LIBRARIES = ("numpy", "scikit-learn", "safetensors", "torch", "skorch")


def save(estimator: Any, path: Any) -> None:
    """Write an estimator to a file, whole or not at all.

    Fitted or not: :func:`load` gives its parameters, all that its fit has set, and of deep models
    the optimiser, the history and the state of random numbers too, so that `partial_fit` and warm
    starts go on as they would have without.

    The folders of `checkpoint` and a pipeline's `memory` are not stored: they belong to this machine.

    Parameters
    ----------
    estimator : estimator of this library
        Not of a subclass.
    path : str or os.PathLike
        A file of this name is replaced once the new one is complete, which has its permissions.

    Raises
    ------
    TypeError
        If it is of another class, or has something that only code could make again: a network's
        factory of one's own, a callback, a splitter. The text names each.
    ValueError
        If a fitted deep model's parameters have been set to what no fit would take, or there are
        far more short lists in it than numbers.
    OSError
        If there is no such folder, or it cannot be written to.
    ImportError
        Without the package safetensors, of the extra "io".

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.serialization import load, save
    >>> X = load_iris().data
    >>> ppca = PPCA(2).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "ppca.safetensors")
    ...     save(ppca, path)
    ...     loaded = load(path)
    >>> loaded, loaded.score(X) == ppca.score(X)
    (PPCA(n_components=2), True)
    """
    name, writer = type(estimator).__name__, ModelWriter()
    tree = writer.value(estimator, "")
    if not (isinstance(tree, dict) and "estimator" in tree):
        raise TypeError(
            f"save takes an estimator of {', '.join(ESTIMATORS)}, and no subclass of one, got "
            f"{estimator!r}."
        )
    if writer.refused:
        raise TypeError(
            f"{name} cannot be saved without code: {'; '.join(writer.refused)}. A file holds plain "
            "values, arrays, this library's own classes and some scalers. Give what only a fit "
            "needs (callbacks, cv) another value with set_params before saving; a model with "
            "networks of your own needs pickle, and trust in who wrote it."
        )
    write(path, writer.tensors, tree, _libraries())


def load(path: Any, *, device: Any = None) -> Any:
    """Read an estimator from a file that :func:`save` has written.

    No code is executed, whoever wrote the file: it holds numbers and names, and only classes that
    are listed are made of them. Its header is checked before more of it is read, its checksum before
    anything is made of it, and no more memory is taken than some times its size.

    Parameters
    ----------
    path : str or os.PathLike
    device : str or torch.device, default=None
        Where a deep model's networks are put, and tensors that a model was fitted to. None: where
        its parameter `device` says, or where they were, and the CPU if that is not here.

    Returns
    -------
    estimator
        Gives the same numbers, to the last bit on the same machine, as the one that was saved.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, changed, of a later format, or not what `save` writes;
        or there is no such `device`. The text says what is wrong.
    OSError
        If there is no such file.
    ImportError
        Without the package safetensors, of the extra "io".
    """
    contents = read(path)
    try:
        reader = ModelReader(contents.tensors, contents.n_bytes, device)
        with np.errstate(all="ignore"):  # of numbers that no fit has
            estimator = reader.value(contents.model, "model")
    except ValueError as error:
        what = str(error) if len(str(error)) <= 1000 else f"{str(error)[:1000]}..."
        wrote = contents.libraries.get(LIBRARY, "of an unknown version")
        raise ValueError(
            f"{str(path)!r}, written by {LIBRARY} {wrote}, cannot be loaded: {what}"
        ) from None
    if type(estimator).__name__ not in ESTIMATORS:
        raise ValueError(f"{str(path)!r} cannot be loaded: it holds no estimator.")
    return estimator


def _libraries() -> dict[str, str]:
    """Versions of what writes a file; of what has been imported only."""
    found = {LIBRARY: sys.modules[LIBRARY].__version__, "python": platform.python_version()}
    modules = {"scikit-learn": "sklearn"}
    loaded = [name for name in LIBRARIES if modules.get(name, name) in sys.modules]
    return {**found, **{name: version(name) for name in loaded}}
