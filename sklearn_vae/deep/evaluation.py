"""Evaluation of trained networks: on blocks of samples, and after each epoch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.training.callbacks import Snapshot
from sklearn_vae.training.devices import (
    device_and_dtype,
    matmul_precision,
    threads_worth,
    torch_defaults,
)
from sklearn_vae.training.loop import VAENet

Array = NDArray[Any]

# Samples in a block at most, and numbers in its widest array.
SAMPLES_PER_BLOCK = 2048
NUMBERS_PER_BLOCK = 2**22

# Entries of the history, for training samples and those held out, that callbacks of skorch read.
LOSSES_AND_COUNTS = ("loss", "loss_best", "batch_count")


def block_size(width: int) -> int:
    """Number of samples in a block whose widest array has `width` numbers per sample."""
    return max(1, min(SAMPLES_PER_BLOCK, NUMBERS_PER_BLOCK // width))


@contextmanager
def evaluating(net: VAENet) -> Iterator[None]:
    """Within this, torch has the threads that a block is worth, and on CUDA no TF32."""
    on_cuda = device_and_dtype(net.module_)[0].type == "cuda"
    threads = threads_worth(net.operations_ * SAMPLES_PER_BLOCK)
    with threads, matmul_precision("float32" if on_cuda else None):
        yield


@torch_defaults()
@torch.no_grad()
def evaluate_blocks(
    net: VAENet, blocks: Iterator[slice], function: Callable[[slice], Tensor], name: str
) -> Array:
    """Results of a function of each block, concatenated.

    Parameters
    ----------
    net : VAENet
    blocks : iterator of slice
    function : callable
        Returns a tensor with one entry or row per sample of a block.
    name : str
        Name of the samples in error messages.

    Raises
    ------
    ValueError
        If a result is not finite; a bound may be -inf.
    """
    with evaluating(net):
        results = torch.cat([function(block) for block in blocks]).cpu().numpy()
    bad = ~np.isfinite(results)
    if results.ndim == 1:  # a bound may be below the range of its dtype
        bad &= results != -np.inf
    if bad.any():
        raise ValueError(
            f"{name} must have rows nearer to those of training: of row "
            f"{np.argwhere(bad)[0, 0]} the networks make {results[bad][0]} in {results.dtype}."
        )
    return results


def history_arrays(net: VAENet) -> dict[str, Array]:
    """History of a net, as arrays over its epochs."""
    rows = list(net.history)
    names = [*net.monitor.names, "beta", "seconds"]
    hidden = {"batches", "epoch", *names}
    hidden |= {f"{phase}_{part}" for phase in ("train", "valid") for part in LOSSES_AND_COUNTS}
    names += dict.fromkeys(name for row in rows for name in row if name not in hidden)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def keep_snapshots(model: Any, data: TrainingData) -> None:
    """Set `snapshots_` of a model to the models after the epochs that callbacks ask for."""
    vars(model).pop("snapshots_", None)  # of an earlier fit
    callbacks = [c for _, c in model.net_.callbacks_ if isinstance(c, Snapshot)]
    if not callbacks:
        return
    states = {e: state for c in callbacks for e, state in c.states_.items()}
    snapshots = {}
    with suppress(KeyboardInterrupt), data.reducer.interrupts_as_errors():
        for epoch in [e for e in states if e <= model.n_iter_]:
            snapshot = copy.copy(model)
            snapshot.net_ = model.net_.copy_at(epoch, states[epoch], data.reducer)
            try:
                snapshot._evaluate(data)
                snapshots[epoch] = snapshot
            except FloatingPointError:
                warnings.warn(
                    f"The model after epoch {epoch} gives no finite bound and is not kept.",
                    stacklevel=3,
                )
    for callback in callbacks:
        callback.states_ = {}
    model.snapshots_ = snapshots
