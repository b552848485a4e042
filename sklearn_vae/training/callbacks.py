"""What happens between epochs: KL warm-up, early stopping, progress, snapshots."""

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
    """Sets the KL weight of each epoch: rises linearly to `weight` over `n_epochs`."""

    def __init__(self, n_epochs: int, weight: float) -> None:
        self.n_epochs = n_epochs
        self.weight = weight

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Set the weight."""
        net.beta_ = kl_weight(len(net.history) - 1, self.n_epochs, self.weight)


class BestLosses(Callback):
    """Records whether a loss is the best so far, as the default callbacks of skorch do."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Begin with the best losses of the history."""
        self.best_ = {
            name: min((row[name] for row in net.history if name in row), default=math.inf)
            for name in ("train_loss", "valid_loss")
        }

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Compare the losses of this epoch."""
        row = net.history[-1]
        for name in self.best_.keys() & row.keys():
            net.history.record(f"{name}_best", row[name] < self.best_[name])
            self.best_[name] = min(row[name], self.best_[name])


class FrozenParameters(Callback):
    """Remembers which parameters are frozen, for a training that resumes from a checkpoint."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Begin without any, until a checkpoint has set others."""
        self.names_: list[str] = []
        self.begun = False

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Freeze what a checkpoint says."""
        for name in [] if self.begun else self.names_:
            net.module_.get_parameter(name).requires_grad_(False)
        self.begun = True

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Look which are frozen."""
        named = net.module_.named_parameters()
        self.names_ = [name for name, parameter in named if not parameter.requires_grad]


class StopEarly(EarlyStopping):
    """skorch's, which waits for the end of a warm-up."""

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
        """Stop where there was no improvement for `patience` epochs after the warm-up."""
        if len(net.history) >= self.warmup_epochs:
            super().on_epoch_end(net, **kwargs)


class Progress(Callback):
    """A bar over epochs with the bound, KL, noise variance and active dimensions."""

    def __init__(self, n_epochs: int, done: int = 0) -> None:
        self.n_epochs = n_epochs
        self.done = done

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bar_ = tqdm(total=self.n_epochs, initial=self.done, unit="epoch")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """One epoch more."""
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
    """Call `on_train_end` of every callback of a net, and collect what fails in `failures_`.

    Callbacks that restore the best parameters come first, so that the others see these.

    Raises
    ------
    KeyboardInterrupt
        If there was one, after all have been called.
    """
    interrupt = None
    for name, callback in sorted(
        net.callbacks_, key=lambda named: not isinstance(named[1], EarlyStopping)
    ):
        try:
            callback.on_train_end(net, X=X, y=X)
        except KeyboardInterrupt as error:
            interrupt = error
        except Exception as error:  # noqa: BLE001 - of code of others
            net.failures_.append(f"{name} ({type(error).__name__}: {error})")
    if interrupt is not None:
        raise interrupt


class Snapshot(Callback):
    """Keeps the model as it was after some epochs: the fitted `snapshots_` of the estimator.

    Parameters
    ----------
    epochs : collection of int
        After which epochs, counted from 1.

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
        """Forget what was kept."""
        epochs = self.epochs if isinstance(self.epochs, Iterable) else [None]
        if not all(is_integer(epoch) and epoch >= 1 for epoch in epochs):
            raise ValueError(f"epochs must be a list of integers >= 1, got {self.epochs!r}.")
        self.states_: dict[int, dict[str, torch.Tensor]] = {}
        return self

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the parameters if this is one of the epochs."""
        epoch = len(net.history)
        if epoch in self.epochs:
            state = net.module_.state_dict()
            self.states_[epoch] = {name: value.clone() for name, value in state.items()}
