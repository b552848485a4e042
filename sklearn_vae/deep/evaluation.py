"""Evaluation of trained networks."""

from __future__ import annotations

import copy
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
from sklearn_vae.warning import warn_user

Array = NDArray[Any]

# Upper limits of the samples in a block and of the elements of its largest array.
SAMPLES_PER_BLOCK = 2048
NUMBERS_PER_BLOCK = 2**22

# Entries of the history, of training and validation samples, that skorch's callbacks read.
LOSSES_AND_COUNTS = ("loss", "loss_best", "batch_count")


def block_size(width: int) -> int:
    """Return the number of samples in a block whose largest array has this width."""
    return max(1, min(SAMPLES_PER_BLOCK, NUMBERS_PER_BLOCK // width))


@contextmanager
def evaluating(net: VAENet) -> Iterator[None]:
    """Use few threads for small blocks, and no TF32 on CUDA, within this context."""
    on_cuda = device_and_dtype(net.module_)[0].type == "cuda"
    threads = threads_worth(net.operations_ * SAMPLES_PER_BLOCK)
    with threads, matmul_precision("float32" if on_cuda else None):
        yield


@torch_defaults()
@torch.no_grad()
def evaluate_blocks(
    net: VAENet, blocks: Iterator[slice], function: Callable[[slice], Tensor], name: str
) -> Array:
    """Concatenate the results of a function of each block; raise ValueError if not finite."""
    with evaluating(net):
        slices, found, end = list(blocks), torch.empty(0), 0
        for block in slices:
            part = function(block)
            # Of all samples at once: small arrays between the temporary ones of each block would
            # keep malloc from using their memory again.
            if not end:
                found = part.new_empty((slices[-1].stop, *part.shape[1:]))
            end = block.start + len(part)
            found[block.start : end] = part
        results = found[:end].cpu().numpy()
    bad = ~np.isfinite(results)
    if results.ndim == 1:  # a log-density may be below the range of its dtype
        bad &= results != -np.inf
    if bad.any():
        raise ValueError(
            f"{name} must be closer to the training data: the networks return {results[bad][0]} for "
            f"sample {np.argwhere(bad)[0, 0]} in {results.dtype}."
        )
    return results


def history_arrays(net: VAENet) -> dict[str, Array]:
    """Return the history of a net as arrays over its epochs."""
    epochs = list(net.history)
    names = [*net.monitor.names, "beta", "seconds"]
    hidden = {"batches", "epoch", *names}
    hidden |= {f"{phase}_{part}" for phase in ("train", "valid") for part in LOSSES_AND_COUNTS}
    names += dict.fromkeys(name for epoch in epochs for name in epoch if name not in hidden)
    return {name: np.array([epoch.get(name, np.nan) for epoch in epochs]) for name in names}


def keep_snapshots(model: Any, data: TrainingData) -> None:
    """Set `snapshots_` of a model from the states that :class:`Snapshot` callbacks saved."""
    vars(model).pop("snapshots_", None)  # from an earlier fit
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
                warn_user(
                    f"The snapshot of epoch {epoch} was discarded, because its ELBO is not finite.",
                )
    for callback in callbacks:
        callback.states_ = {}
    model.snapshots_ = snapshots
