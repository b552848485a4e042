"""Estimators in files that hold numbers, text and nothing that could be executed.

A file is a safetensors file: arrays are its tensors, everything else is JSON in its metadata (see
``sklearn_vae.serialization.container``). The tree of a model is the name of its class and its state,
``estimator.get_state()``: its parameters and what a fit has set. Only the classes in
``sklearn_vae.serialization.models`` are made, by name: this library's, and the scalers of
scikit-learn that are steps of a ``DensityPipeline``.

- A parameter that a file does not have, since it is older than the parameter, has its default. So a
  default means what was done before, or the format gets another number.
- A parameter, class or tag that is unknown is an error, never left out. So is an attribute that has
  become a method or property of the class. Any other attribute is set.
- A fitted attribute that methods need (``_fitted_state`` of the class) must be there and fit the
  others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_vae.public import ESTIMATORS
from sklearn_vae.serialization.container import read_file, write_file
from sklearn_vae.serialization.models import LIBRARY, ModelReader, ModelWriter

__all__ = ["load", "save"]


def save(estimator: Any, path: Any) -> None:
    """Write an estimator to a file, whole or not at all.

    Fitted or not: :func:`load` returns its parameters and fitted attributes. For deep models the
    optimizer, the history and the state of random numbers are stored too, so that `partial_fit` and
    warm starts continue as if there had been no file.

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
        If it is of another class, or has something that only code could make again: a network
        factory of your own, a callback, a splitter. The text names each.
    ValueError
        If a fitted model has parameters that no fit takes, or lacks an attribute of a fit, or has
        far more short lists than numbers.
    OSError
        If there is no such folder, or it cannot be written to.

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
    if name not in ESTIMATORS or not isinstance(tree, dict):
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
    write_file(path, "model", tree, writer.tensors)


def load(path: Any, *, device: Any = None) -> Any:
    """Read an estimator from a file that :func:`save` has written.

    No code is executed, whoever wrote the file: it holds numbers and names, and only classes that
    are listed are made of them. Its header is checked before more of it is read, its checksum before
    anything is made of it, and no more memory is taken than some times its size.

    Parameters
    ----------
    path : str or os.PathLike
    device : str or torch.device, default=None
        Device of a deep model's networks, and of tensors that a model was fitted to. None: the one
        that they were on, or the CPU if that is not here.

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
    """
    try:
        contents = read_file(path, "model")
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}") from None
    try:
        reader = ModelReader(contents.tensors, contents.n_bytes, device)
        with np.errstate(all="ignore"):  # for numbers that no fit has
            estimator = reader.value(contents.tree, "model")
    except ValueError as error:
        what = str(error) if len(str(error)) <= 1000 else f"{str(error)[:1000]}..."
        wrote = contents.libraries.get(LIBRARY, "of an unknown version")
        raise ValueError(
            f"{str(path)!r}, written by {LIBRARY} {wrote}, cannot be loaded: {what}"
        ) from None
    if type(estimator).__name__ not in ESTIMATORS:
        raise ValueError(f"{str(path)!r} cannot be loaded: it holds no estimator.")
    return estimator
