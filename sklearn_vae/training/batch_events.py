"""Batch events for skorch callbacks and batch records in the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EpochScoring,
    GradientNormClipping,
    LoadInitState,
    LRScheduler,
    MlflowLogger,
    NeptuneLogger,
    PassthroughScoring,
    ProgressBar,
    SacredLogger,
    TensorBoard,
    TrainEndCheckpoint,
)
from torch import Tensor

# Callbacks that read batch records but do not handle batch events.
READERS = Checkpoint, TrainEndCheckpoint, LoadInitState, PassthroughScoring
LOGGERS = MlflowLogger, NeptuneLogger, SacredLogger
SCORES = BatchScoring, EpochScoring

# Callbacks that ignore the reconstruction of a batch.
IGNORE_PREDICTIONS = {LRScheduler, ProgressBar, TensorBoard, *LOGGERS}


class BatchEvents:
    """Notifier of callbacks about batches, and recorder of batches, if a callback needs it.

    Most callbacks need neither, and then no time is spent on them. `gradients`, `training` and
    `validation` tell whether a callback handles gradients, training batches and validation batches.
    `records` tells whether a callback reads the batch records of the history.
    """

    def __init__(self, net: Any) -> None:
        callbacks = [callback for _, callback in net.callbacks_]
        self.net = net
        self.gradients = any(_has_own(c, "on_grad_computed") for c in callbacks)
        self.training = any(_handles_batches(c, training=True) for c in callbacks)
        self.validation = any(_handles_batches(c, training=False) for c in callbacks)
        readers = any(isinstance(c, READERS) for c in callbacks)
        self.records = readers or self.training or self.validation
        self._needs_predictions = {
            training: any(
                _handles_batches(c, training) and type(c) not in IGNORE_PREDICTIONS
                for c in callbacks
            )
            for training in (True, False)
        }

    def take_step(
        self, step: Callable[..., Any], x: Tensor, noise: Tensor, beta: float, *weights: Tensor
    ) -> tuple[Any, Any, Any]:
        """Take a step on a batch and notify the callbacks."""
        self.net.module_.train()  # a callback may have evaluated it
        y_pred = self.begin(x, training=True)
        reconstruction, kl, h = step(x, noise, beta, *weights)
        loss = (beta * kl - reconstruction) / len(x)
        self.end(x, loss, y_pred, training=True)
        return reconstruction, kl, h

    def begin(self, x: Tensor, training: bool) -> Tensor | None:
        """Notify callbacks that a batch begins; return its reconstruction if one needs it."""
        self.net.notify("on_batch_begin", batch=(x, x), training=training)
        return self._reconstruct(x) if self._needs_predictions[training] else None

    def end(self, x: Tensor, loss: Any, y_pred: Tensor | None, training: bool) -> None:
        """Record a batch and notify callbacks that it has ended."""
        loss = torch.as_tensor(loss, dtype=x.dtype)
        self._record(len(x), loss.item(), training)
        self.net.notify("on_batch_end", batch=(x, x), training=training, loss=loss, y_pred=y_pred)

    def notify_gradients(self, x: Tensor) -> None:
        """Notify callbacks that the gradients of a batch have been computed."""
        module = self.net.module_
        trained = {id(parameter) for parameter in module.trained_parameters()}
        named = [(n, p) for n, p in module.named_parameters() if id(p) in trained]
        self.net.notify("on_grad_computed", named_parameters=named, batch=(x, x), training=True)

    def record(self, x: Tensor, loss: Any, training: bool) -> None:
        """Record a batch without notifying callbacks."""
        self.net.history.new_batch()
        self._record(len(x), float(loss), training)

    def end_epoch(self) -> None:
        """Record the number of batches, and make loggers ignore arrays, on which they fail."""
        row = self.net.history[-1]
        for phase in ("train", "valid") if self.records else ():
            count = sum(f"{phase}_loss" in batch for batch in row["batches"])
            if count:
                row[f"{phase}_batch_count"] = count
        arrays = {name for name, value in row.items() if getattr(value, "ndim", 0)}
        for _, callback in self.net.callbacks_:
            if arrays and isinstance(getattr(callback, "keys_ignored_", None), set):
                callback.keys_ignored_ |= arrays

    def _record(self, size: int, loss: float, training: bool) -> None:
        phase = "train" if training else "valid"
        self.net.history.record_batch(f"{phase}_loss", loss)
        self.net.history.record_batch(f"{phase}_batch_size", size)

    @torch.no_grad()
    def _reconstruct(self, x: Tensor) -> Tensor:
        """Reconstruct x in evaluation mode."""
        module = self.net.module_
        was_training = module.training
        module.eval()
        outputs = module(x)
        module.train(was_training)
        return outputs[0] if isinstance(outputs, tuple) else outputs


def _handles_batches(callback: Any, training: bool) -> bool:
    """Return whether a callback handles training batches, or else validation batches."""
    kind = type(callback)
    if kind is LRScheduler:
        return training and callback.step_every != "epoch"
    if kind in LOGGERS:
        return bool(callback.log_on_batch_end)
    if kind in SCORES:
        return bool(callback.on_train) == training and (
            kind is BatchScoring or bool(callback.use_caching)
        )
    if kind in (TensorBoard, GradientNormClipping):
        return False
    return any(
        _has_own(callback, event)
        for event in ("on_batch_begin", "on_batch_end", "on_grad_computed")
    )


def _has_own(callback: Any, event: str) -> bool:
    return getattr(type(callback), event) is not getattr(Callback, event)
