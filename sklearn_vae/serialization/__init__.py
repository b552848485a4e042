"""Model files that contain numbers and text, and nothing that could be executed.

A file is a safetensors file: arrays are its tensors, everything else is JSON in its metadata. It
holds the name of the estimator's class and ``estimator.get_state()``, its parameters and fitted
attributes. Loading creates only the classes listed in ``sklearn_vae.serialization.models``: those
of this library, and the scalers of scikit-learn that may be steps of a ``DensityPipeline``.

A parameter that is missing from a file, because it was added later, gets its default. The default
of a new parameter must therefore keep the previous behavior.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_vae.public import ESTIMATORS
from sklearn_vae.serialization.container import read_file, write_file
from sklearn_vae.serialization.models import ModelReader, ModelWriter

__all__ = ["load", "save"]


def save(estimator: Any, path: Any) -> None:
    """Write an estimator to a file.

    The file contains parameters and fitted attributes; for deep models also the optimizer, the
    history and the state of the random number generator, so that warm starts continue as if the
    model had never been saved. The parameters `checkpoint` and `memory` are not stored, since they
    are folders on this machine.

    Parameters
    ----------
    estimator : estimator of this library
        Estimator, fitted or not. Subclasses are not supported.
    path : str or os.PathLike
        Path of the file. An existing file is replaced once the new one is complete, and its
        permissions are kept.

    Raises
    ------
    TypeError
        If the estimator is of another class, or contains something that only code can restore,
        such as a custom network factory, a callback or a cross-validation splitter.
    ValueError
        If a parameter that the fitted model needs is invalid, a fitted attribute is missing or
        invalid, or the estimator contains far more short lists than numbers.
    OSError
        If the file cannot be written. An existing file is then unchanged.

    See Also
    --------
    load : Read the estimator from the file.

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
    >>> loaded.score(X) == ppca.score(X)
    True
    """
    name, writer = type(estimator).__name__, ModelWriter()
    tree = writer.value(estimator)
    if name not in ESTIMATORS or not isinstance(tree, dict):
        raise TypeError(
            f"estimator must be an instance of {', '.join(ESTIMATORS)} and not of a subclass, got "
            f"{estimator!r}."
        )
    if writer.refused:
        raise TypeError(
            f"{name} cannot be saved without code: {'; '.join(writer.refused)}. Before saving, "
            "use set_params to replace parameters that only fit needs (callbacks, cv). Use "
            "pickle for a model with custom networks."
        )
    write_file(path, "model", tree, writer.tensors)


def load(path: Any, *, device: Any = None) -> Any:
    """Read an estimator from a file written by :func:`save`.

    Files from untrusted sources are safe to load: no code is executed, and memory is bounded by a
    multiple of the file size.

    Parameters
    ----------
    path : str or os.PathLike
        Path of the file.
    device : str or torch.device, default=None
        Device for the networks of a deep model, and for tensors in a model that was fitted to
        tensors. If None, it is the device that the model used when it was saved, or the CPU if that
        device is not available. The estimator's own parameter `device` is used by `fit` only.

    Returns
    -------
    estimator : estimator of this library
        Estimator. On the machine that saved it, its results are identical to the last bit.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, modified, of another format, or not a file written by
        :func:`save`; or if `device` is not available.
    OSError
        If the file does not exist or cannot be read.

    See Also
    --------
    save : Write an estimator to a file.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.serialization import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "ppca.safetensors")
    ...     save(PPCA(n_components=2), path)
    ...     load(path)
    PPCA(n_components=2)
    """
    wrote = ""
    try:
        tree, tensors, written_by, n_bytes = read_file(path, "model")
        wrote = f", written by {written_by.partition(',')[0][:50]},"
        with np.errstate(all="ignore"):  # for numbers that no fit produces
            estimator = ModelReader(tensors, n_bytes, device).read(tree, "model")
        if type(estimator).__name__ not in ESTIMATORS:
            raise ValueError("it does not hold an estimator.")
    except ValueError as error:
        raise ValueError(f"{str(path)!r}{wrote} cannot be loaded: {error!s:.1000}") from None
    return estimator
