"""Callbacks at the end of epochs: KL warm-up, early stopping, progress and snapshots."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, EarlyStopping
from skorch.utils import noop
from tqdm import tqdm

from sklearn_vae.nn.objectives import kl_weight
from sklearn_vae.validation import is_integer


class KLWarmup(Callback):
    """Callback that raises the KL weight linearly to `weight` over `n_epochs`."""

    def __init__(self, n_epochs: int, weight: float) -> None:
        self.n_epochs = n_epochs
        self.weight = weight

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Set the KL weight of this epoch."""
        net.beta_ = kl_weight(len(net.history) - 1, self.n_epochs, self.weight)


class BestLosses(Callback):
    """Callback that records whether a loss is the best so far, as skorch's default callbacks do."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Read the best losses from the history."""
        self.best_ = {
            name: min((row[name] for row in net.history if name in row), default=math.inf)
            for name in ("train_loss", "valid_loss")
        }

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Compare the losses of this epoch with the best ones."""
        row = net.history[-1]
        for name in self.best_.keys() & row.keys():
            net.history.record(f"{name}_best", row[name] < self.best_[name])
            self.best_[name] = min(row[name], self.best_[name])


class FrozenParameters(Callback):
    """Callback that stores the names of frozen parameters, which are frozen again on resuming."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Reset the names; a checkpoint may set `names_` afterwards."""
        self.names_: list[str] = []
        self.begun = False

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Freeze the parameters that were frozen in the checkpoint."""
        for name in [] if self.begun else self.names_:
            net.module_.get_parameter(name).requires_grad_(False)
        self.begun = True

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Store the names of the frozen parameters."""
        named = net.module_.named_parameters()
        self.names_ = [name for name, parameter in named if not parameter.requires_grad]


class StopEarly(EarlyStopping):
    """skorch's EarlyStopping, starting after the KL warm-up."""

    def __init__(self, warmup_epochs: int, patience: int, threshold: float) -> None:
        super().__init__(
            patience=patience,
            threshold=threshold,
            threshold_mode="abs",
            sink=noop,
            load_best=True,
        )
        self.warmup_epochs = warmup_epochs

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Stop if there was no improvement for `patience` epochs after the warm-up."""
        if len(net.history) >= self.warmup_epochs:
            super().on_epoch_end(net, **kwargs)


class Progress(Callback):
    """Progress bar over epochs that shows values of the monitor."""

    def __init__(self, n_epochs: int, done: int = 0) -> None:
        self.n_epochs = n_epochs
        self.done = done

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bar_ = tqdm(total=self.n_epochs, initial=self.done, unit="epoch")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        row = net.history[-1]
        shown = {name: np.mean(row[name]) for name in net.monitor.shown if name in row}
        self.bar_.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})
        self.bar_.update()

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Close the bar, if it was opened."""
        if hasattr(self, "bar_"):
            self.bar_.close()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "bar_"}


def end_training(net: Any, X: torch.Tensor) -> None:
    """Call `on_train_end` of every callback of a net, and collect errors in `failures_`.

    Early stopping comes first, because it restores the best parameters, which the others then see.
    A KeyboardInterrupt is raised again after all callbacks have been called.
    """
    interrupt = None
    for name, callback in sorted(
        net.callbacks_, key=lambda named: not isinstance(named[1], EarlyStopping)
    ):
        try:
            callback.on_train_end(net, X=X, y=X)
        except KeyboardInterrupt as error:
            interrupt = error
        except Exception as error:  # noqa: BLE001 - a user's callback can raise anything
            net.failures_.append(f"{name} ({type(error).__name__}: {error})")
    if interrupt is not None:
        raise interrupt


class Snapshot(Callback):
    """Callback that keeps copies of the model after given epochs.

    The estimator offers the fitted copies as `snapshots_`, a dict with the epochs as keys.

    Parameters
    ----------
    epochs : collection of int
        Epochs after which to copy the model, counted from 1.

    See Also
    --------
    DeepGaussianVAE : VAE whose parameter `callbacks` accepts snapshots.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import DeepGaussianVAE, Snapshot
    >>> vae = DeepGaussianVAE(
    ...     2, hidden_layer_sizes=(8,), max_epochs=3, callbacks=[Snapshot(epochs=[1, 2])]
    ... ).fit(load_iris().data)
    >>> sorted(vae.snapshots_)
    [1, 2]
    """

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs = epochs

    def initialize(self) -> Snapshot:
        """Check the parameters and reset the state.

        Returns
        -------
        Snapshot
            This callback.
        """
        epochs = self.epochs if isinstance(self.epochs, Iterable) else [None]
        if not all(is_integer(epoch) and epoch >= 1 for epoch in epochs):
            raise ValueError(f"epochs must be a list of integers >= 1, got {self.epochs!r}.")
        self.states_: dict[int, dict[str, torch.Tensor]] = {}
        return self

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Copy the parameters of the model after one of the given epochs.

        Parameters
        ----------
        net : NeuralNet
            Net in training.
        **kwargs : dict
            Ignored.
        """
        epoch = len(net.history)
        if epoch in self.epochs:
            state = net.module_.state_dict()
            self.states_[epoch] = {name: value.clone() for name, value in state.items()}
