"""Training loop: a skorch net with batches on the device that reads the loss once per epoch."""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, LRScheduler
from skorch.dataset import Dataset
from skorch.history import History
from skorch.utils import open_file_like
from torch import Tensor, nn

from sklearn_vae.nn.distributions import weighted_sum
from sklearn_vae.nn.networks import count_multiply_adds
from sklearn_vae.nn.objectives import Objective
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.batch_events import BatchEvents
from sklearn_vae.training.batches import Batch, Batches
from sklearn_vae.training.callbacks import end_training
from sklearn_vae.training.checkpointing import Keeper
from sklearn_vae.training.cuda_graph import GRAPHS, CapturedStep
from sklearn_vae.training.devices import (
    global_generator_states,
    global_generators,
    matmul_precision,
    set_global_generators,
    threads_worth,
)
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.fast_paths import gradients_by_formula, may_draw, training_step
from sklearn_vae.training.net_state import checked_net_state
from sklearn_vae.validation import all_or_nothing

# Guards torch's global generator, from which its layers draw their initial weights.
_GLOBAL_GENERATOR = threading.RLock()

# Rise of the noise variance, within some steps of the first epoch, that rescales Adam's averages.
LARGE_RISE = 2.0

# Maximum number of numbers that are computed before training, because they do not depend on parameters.
MOST_PREPARED = 2**24

# Attributes that a net only has in training.
TRAINING_ONLY = {"batch_events_", "frozen_", "reducer_", "valid_weights_", "weights_"}


class VAENet(NeuralNet):
    """skorch net that trains a module on an objective without targets.

    Parameters, callbacks, history and pickling are skorch's, and the loop over epochs and batches
    is replaced. Batches are views of tensors on the device, and losses stay there until the epoch
    ends. If several processes train together, each takes steps on its own samples, along the
    gradient averaged over the samples of all.

    `noise_shape` holds the numbers of draws per sample and of latent dimensions; with `antithetic`,
    half of the draws have the opposite noise of the others. `operations` is
    the number of operations of the forward pass of one sample, which is counted by default.
    `beta_` is the KL weight, which callbacks change. `last_states_` holds the number of epochs and
    the parameters before each of the last two epochs. `complete_` is False after an interrupt, and
    `failures_` lists errors of callbacks at the end of the last training. In training, `weights_`
    and `valid_weights_` are the weights of training and validation samples, or None.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module],
        *,
        objective: Objective,
        options: dict[str, Any],
        monitor: Any,
        noise_shape: tuple[int, int],
        seed: int,
        precision: str | None = None,
        operations: float | None = None,
        antithetic: bool = False,
        **net_options: Any,
    ) -> None:
        self.objective = objective
        self.options = options
        self.monitor = monitor
        self.noise_shape = noise_shape
        self.seed = seed
        self.precision = precision
        self.operations = operations
        self.antithetic = antithetic
        self.beta_ = 1.0
        self.last_states_: list[tuple[int, dict[str, Tensor]]] = []
        self.complete_ = False
        self.failures_: list[str] = []
        super().__init__(module, criterion=nn.Identity, optimizer=Adam, **net_options)

    @property
    def _default_callbacks(self) -> list[Any]:
        return []

    def initialize_module(self) -> VAENet:
        """Create the module, with weights from `seed`, and the generator."""
        with _GLOBAL_GENERATOR, global_generators(torch.device("cpu"), self.seed):
            super().initialize_module()
        self.module_.eval()
        self.operations_ = (
            2.0 * count_multiply_adds(self.module_) if self.operations is None else self.operations
        )
        self.generator_ = torch.Generator(self.device).manual_seed(self.seed)
        return self

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> VAENet:
        """Create an Adam optimizer for the trained parameters."""
        parameters = self.module_.trained_parameters()
        self.optimizer_ = Adam(
            parameters, lr=self.lr, capturable=self.generator_.device.type == "cuda"
        )
        return self

    @property
    def operations_per_step(self) -> float:
        """Number of operations of a step, two thirds of which are in the backward pass."""
        return 3 * self.operations_ * self.batch_size * self.noise_shape[0]

    def separate_draws(self, reducer: Reducer) -> None:
        """Reseed the generator if several processes would draw the same numbers."""
        if reducer.size == 1:
            return
        states = reducer.digests(self.generator_.get_state().numpy())
        if len(np.unique(states)) < len(states):
            self.generator_.manual_seed(reducer.own_seed(self.seed + len(self.history)))

    def partial_fit(
        self,
        X: Tensor,
        y: Any = None,
        *,
        epochs: int | None = None,
        keeper: Keeper | None = None,
        reducer: Reducer = SINGLE_PROCESS,
        weights: Tensor | None = None,
        valid_weights: Tensor | None = None,
        prepared: tuple[Any, Any] | None = None,
    ) -> Any:
        """Train for some epochs, `max_epochs` by default.

        X is on the device. The keeper restores the saved state and saves the net after some epochs.
        Weights must average to 1 over the samples of all processes. `prepared` is the result of
        :meth:`prepared` for X, which several calls can share.
        """
        self.reducer_ = reducer  # callbacks use it and the weights, too
        self.weights_, self.valid_weights_ = weights, valid_weights
        self.complete_, self.failures_ = False, []
        try:
            if len(self.history) and any(isinstance(c, LRScheduler) for _, c in self.callbacks_):
                for group in self.optimizer_.param_groups:
                    # Schedulers need it, and an earlier fit without a schedule has not set it.
                    group.setdefault("initial_lr", group["lr"])
            self.notify("on_train_begin", X=X, y=X)
            self.batch_events_ = BatchEvents(self)
            with suppress(KeyboardInterrupt):
                self.fit_loop(X, epochs=epochs, keeper=keeper, prepared=prepared)
            if self.batch_events_.records and len(self.history) and not self.history[-1]["batches"]:
                self.history.new_batch()  # the epoch was interrupted before its first batch
            end_training(self, X)
        finally:
            for name in TRAINING_ONLY:
                self.__dict__.pop(name, None)
        return self

    def fit_loop(
        self,
        X: Tensor,
        y: Any = None,
        epochs: int | None = None,
        keeper: Keeper | None = None,
        prepared: tuple[Any, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train for some epochs, between skorch's `on_train_begin` and `on_train_end`."""
        epochs = self.max_epochs if epochs is None else epochs
        with self._training(X.device):
            events = self.batch_events_
            if self.weights_ is not None or events.gradients or events.records:
                samples, gradients = X, None  # callbacks and weights need unchanged samples
            else:
                samples, gradients = prepared or self.prepared(X)
            step = self._make_step(X.device, gradients)
            if keeper is not None:
                keeper.restore(self)
            last = len(self.history) + epochs
            with self.reducer_.interrupts_as_errors():
                try:
                    self._train_epochs(X, samples, epochs, step, keeper)
                except KeyboardInterrupt:
                    if not self.stopped_early:  # skorch's EarlyStopping raises an interrupt
                        raise
                finally:
                    n_epochs = len(self.history) - self.is_within_epoch
                    self.complete_ = self.stopped_early or n_epochs >= last
        return self

    @contextmanager
    def _training(self, device: torch.device) -> Iterator[None]:
        """Set training mode, threads, precision and global generators within the context."""
        self.module_.train()
        seed = self.reducer_.own_seed(self.seed + len(self.history))
        with ExitStack() as stack:
            stack.enter_context(threads_worth(self.operations_per_step))
            stack.enter_context(matmul_precision(self.precision))
            if device.type == "cuda":
                stack.enter_context(torch.cuda.device(device))
            if may_draw(self.module_):
                stack.enter_context(_GLOBAL_GENERATOR)
                stack.enter_context(global_generators(device, seed))
            try:
                yield
            finally:
                self.monitor.begin()
                self.module_.eval()

    def prepared(self, X: Any) -> tuple[Any, Any]:
        """Return samples with what depends on them alone, and the function that takes gradients.

        The function is None if autograd takes them.
        """
        gradients: Any = gradients_by_formula(self.module_, self.objective, self.options)
        if not hasattr(gradients, "prepare") or len(X) * gradients.width > MOST_PREPARED:
            return X, gradients
        return gradients.prepare(X), gradients.of_prepared

    def _make_step(self, device: torch.device, gradients: Any = None) -> CapturedStep:
        """Return a function that takes a step on a batch, captured if possible."""
        average = self.reducer_.averaging(self.module_.parameters())
        events = self.batch_events_

        def update(x: Tensor) -> None:
            average(len(x))
            if events.gradients:
                events.notify_gradients(x)
            for parameter in self.frozen_:
                parameter.grad = None
            self.optimizer_.update()
            self.module_.after_step()

        step = training_step(
            self.module_, self.objective, self.options, update, self.precision, gradients
        )
        can_capture = not (events.gradients or events.training) and self.reducer_.size == 1
        # The factorizations for missing values cannot be captured.
        can_capture &= not getattr(self.module_, "is_incomplete", False)
        graph_type = GRAPHS.get(device.type) if can_capture else None
        if events.training:
            step = partial(events.take_step, step)
        return CapturedStep(step, lambda: self.optimizer_, graph_type)

    def _train_epochs(
        self, X: Tensor, samples: Any, epochs: int, step: CapturedStep, keeper: Keeper | None
    ) -> None:
        n_batches = self.reducer_.n_batches(len(X), self.batch_size)
        batches = Batches(
            samples, n_batches, self.noise_shape, self.generator_, self.weights_, self.antithetic
        )
        train, valid = self.get_split_datasets(X, X)
        for _ in range(epochs):
            self.notify("on_epoch_begin", dataset_train=train, dataset_valid=valid)
            if not self.module_.training:  # a callback has evaluated it
                self.module_.train()
            if self._find_frozen():
                step.reset()
            self.train_epoch(batches, step)
            if valid is not None:
                self._validate(valid.X)
            self.batch_events_.end_epoch()
            self.notify("on_epoch_end", dataset_train=train, dataset_valid=valid)
            if keeper is not None and keeper.after_epoch(self):
                # A training that resumes here captures a new graph, which can round differently.
                step.reset()

    def get_split_datasets(self, X: Tensor, y: Any = None, **kwargs: Any) -> Any:
        """Return the training samples and the held-out samples or None, as their own targets."""
        return Dataset(X, y), self.train_split and self.train_split(X)[1]

    def _find_frozen(self) -> bool:
        """Find the parameters that callbacks have frozen; return whether they have changed."""
        before = getattr(self, "frozen_", [])
        self.frozen_ = [p for p in self.module_.parameters() if not p.requires_grad]
        return [id(p) for p in before] != [id(p) for p in self.frozen_]

    def train_epoch(self, batches: Batches, step: CapturedStep) -> None:
        """Train for one epoch and record it; raise FloatingPointError if training diverges."""
        self.reducer_.synchronize()
        start = time.perf_counter()
        state = {name: t.clone() for name, t in self.module_.state_dict().items()}
        self.last_states_ = [*self.last_states_[-1:], (len(self.history) - 1, state)]
        run = partial(self._take_steps, batches, step)
        (n, reconstruction, kl), is_finite = step.with_fallback(run, self._save_epoch)
        if not is_finite:
            raise self.undo_divergence()
        values = {
            **self.monitor.record(self.module_, n, reconstruction, kl, self.reducer_),
            "train_loss": self.beta_ * kl - reconstruction,
            "beta": self.beta_,
            "seconds": time.perf_counter() - start,
        }
        for name, value in values.items():
            self.history.record(name, value)

    def _take_steps(
        self, batches: Batches, step: CapturedStep
    ) -> tuple[tuple[float, float, float], bool]:
        """Train for one epoch; return (n, reconstruction, KL) and whether all is finite."""
        self.monitor.begin()
        self.history[-1]["batches"] = []
        sums, noise = [], self._log_noise()
        for chunk in batches:
            sums.append(self._take_chunk(chunk, step))
            noise = self._follow_noise(noise)
        self.reducer_.share(self.module_)
        totals = torch.stack(sums).cpu().double().sum(0).tolist()
        n, reconstruction, kl = self.reducer_.sum([len(batches.X), *totals])
        reconstruction, kl = reconstruction / n, kl / n
        is_finite = math.isfinite(reconstruction + kl) and self.is_finite()
        return (n, reconstruction, kl), is_finite

    def _take_chunk(self, chunk: list[Batch], step: CapturedStep) -> Tensor:
        """Take steps on some batches; return the sums of reconstruction and KL."""
        steps = [step(x, noise, self.beta_, *weights) for x, noise, *weights in chunk]
        sums = [terms[:2] for terms in steps]
        if self.batch_events_.records and not self.batch_events_.training:
            for (x, *_), (reconstruction, kl) in zip(chunk, sums, strict=True):
                loss = (self.beta_ * kl - reconstruction) / len(x)
                self.batch_events_.record(x, loss, training=True)
        with torch.no_grad():
            weights = [torch.cat(parts) for parts in list(zip(*chunk, strict=True))[2:]]
            self.monitor.update(self.module_, torch.cat([h for _, _, h in steps]), *weights)
            if isinstance(sums[0][0], float):
                return torch.tensor(sums, dtype=torch.float64).sum(0)
            return torch.stack([torch.stack(pair) for pair in sums]).sum(0)

    def _log_noise(self) -> float:
        """Return the average logarithm of the noise variance in the first epoch, and 0 later."""
        likelihood: Any = getattr(self.module_, "likelihood", None)
        noise = None if likelihood is None else likelihood.noise_variance
        return 0.0 if noise is None or len(self.history) > 1 else noise.log().mean().item()

    def _follow_noise(self, before: float) -> float:
        """Rescale Adam's averages if the noise variance has risen from a start that is too small.

        Gradients are inversely proportional to it while it is too small, and the averages of their
        squares remember the first gradients for a thousand steps. `before` and the result are the
        logarithms of the noise variance to which the averages belong.
        """
        after = self._log_noise()
        if after - before <= math.log(LARGE_RISE):
            return before
        self.optimizer_.rescale_gradients(math.exp(before - after))
        return after

    @torch.no_grad()
    def _validate(self, X: Tensor) -> None:
        """Record the loss and the ELBO of held-out samples, with the same noise in every epoch."""
        generator = torch.Generator(X.device).manual_seed(self.reducer_.own_seed(self.seed))
        draws, k = self.noise_shape
        events = self.batch_events_
        self.module_.eval()
        objective, bound = X.new_zeros(2)
        weights, step = self.valid_weights_, max(self.batch_size, 1024)
        for start in range(0, len(X), step):
            x, w, options = X[start : start + step], None, self.options
            if weights is not None:
                w = weights[start : start + step]
                options = {**options, "weights": w}
            noise = torch.randn(
                (draws, len(x), k), generator=generator, device=x.device, dtype=x.dtype
            )
            y_pred = events.begin(x, training=False) if events.validation else None
            value, *parts = self.objective(self.module_, x, noise, self.beta_, **options)
            loss = -(value if w is None else w * value).mean()
            if events.validation:
                events.end(x, loss, y_pred, training=False)
            elif events.records:
                events.record(x, loss, training=False)
            reconstruction, kl = parts
            objective += weighted_sum(value, w)
            bound += weighted_sum(reconstruction - kl, w)
        self.module_.train()
        n, *totals = self.reducer_.sum([len(X), objective.item(), bound.item()])
        self.history.record("valid_loss", -totals[0] / n)
        bound = self.monitor.in_data_units(totals[1] / n, X, weights)
        self.history.record("validation_bound", bound)

    def is_finite(self) -> bool:
        """Return whether all parameters and the noise variance are finite."""
        sums = [parameter.detach().sum() for parameter in self.module_.parameters()]
        likelihood: Any = getattr(self.module_, "likelihood", None)
        if getattr(likelihood, "noise_variance", None) is not None:
            sums.append(likelihood.noise_variance.sum())
        return bool(torch.isfinite(torch.stack(sums)).all())

    def undo_divergence(self) -> FloatingPointError:
        """Restore the parameters from before the last epoch and return the error to raise."""
        with_noise = "noise_variance" in self.monitor.names
        noise = " or noise_variance too small for the data" if with_noise else ""
        epoch = len(self.history)
        if self.last_states_:
            before, state = self.last_states_.pop()
            epoch = before + 1
            self.module_.load_state_dict(state)
            self.initialize_optimizer()  # its averages are not finite
            del self.history[before:]
        return FloatingPointError(
            f"Training diverged: in epoch {epoch} the loss or a parameter became infinite or NaN, "
            f"most likely because learning_rate={self.lr} is too large{noise}. The parameters "
            f"after epoch {len(self.history)} are kept, and the model can be used."
        )

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping, and not an interrupt by the user, has ended the training."""
        return any(
            isinstance(callback, EarlyStopping) and callback.misses_ >= callback.patience
            for _, callback in self.callbacks_
        )

    @property
    def is_within_epoch(self) -> bool:
        """Whether the last epoch of the history is not finished."""
        return len(self.history) > 0 and "seconds" not in self.history[-1]

    def drop_unfinished_epoch(self) -> None:
        """Remove an unfinished epoch from the history."""
        if self.is_within_epoch:
            self.history.pop()

    def _save_epoch(self, exact: bool) -> Callable[[], None]:
        """Save the state before an epoch; return a function that restores it."""
        _, parameters = self.last_states_[-1]
        optimizer = copy.deepcopy(self.optimizer_.state_dict()) if exact else None
        generator, device = self.generator_.get_state(), self.generator_.device
        drawn = global_generator_states(device) if may_draw(self.module_) else None

        def restore() -> None:
            self.module_.load_state_dict(parameters)
            self.module_.zero_grad()  # a step may be unfinished
            if optimizer is not None:
                self.optimizer_.load_state_dict(optimizer)
            self.generator_.set_state(generator)
            if drawn is not None:
                set_global_generators(drawn, device)

        return restore

    def save_params(
        self,
        f_params: Any = None,
        f_optimizer: Any = None,
        f_criterion: Any = None,
        f_history: Any = None,
        use_safetensors: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save parameters, optimizer and history as skorch does, with arrays in the history."""
        if f_history is not None:
            with open_file_like(f_history, "w") as file:
                json.dump(list(self.history), file, default=lambda value: value.tolist())
        files = {"f_params": f_params, "f_optimizer": f_optimizer, "f_criterion": f_criterion}
        given = {name: file for name, file in {**files, **kwargs}.items() if file is not None}
        if given:
            super().save_params(use_safetensors=use_safetensors, **given)

    def get_state(self) -> dict[str, Any]:
        """Return the state on which the next epoch depends.

        It excludes callbacks and torch's global generators. Tensors are not copied.
        """
        return {
            "seed": self.seed,
            "operations": self.operations_,
            "module": dict(self.module_.state_dict()),
            "optimizer": self.optimizer_.state_dict(),
            "generator": [self.generator_.device.type, self.generator_.get_state()],
            "history": list(self.history),
            "beta": self.beta_,
            "last_states": self.last_states_[-1:],
        }

    def set_state(self, state: dict[str, Any], *, with_module: bool = True) -> None:
        """Set a state from :meth:`get_state`, without a copy; raise ValueError if it does not fit.

        The module is skipped unless `with_module`. The generator is seeded if its state is from
        another kind of device.
        """
        state = checked_net_state(state, self.module_, self.optimizer_)
        self.seed, self.operations_ = state["seed"], state["operations"]
        self.history_ = History(state["history"])
        self._set_generator(*state["generator"])
        if with_module:
            self.module_.load_state_dict(state["module"])
        self.optimizer_.load_state_dict(state["optimizer"])
        self.beta_, self.last_states_ = state["beta"], list(state["last_states"])

    def _set_generator(self, kind: str, drawn: Tensor) -> None:
        """Restore the generator, or seed it if its state is of another kind of device."""
        self.generator_ = torch.Generator(self.device).manual_seed(self.seed + len(self.history))
        if kind == self.generator_.device.type:
            self.generator_.set_state(drawn)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Restore the net if the context raises an exception."""
        before = copy.deepcopy(self.get_state())
        try:
            with all_or_nothing(self):
                yield
        except BaseException:
            self.set_state(before)
            raise

    def copy_at(
        self,
        epoch: int,
        state: dict[str, Tensor],
        reducer: Reducer = SINGLE_PROCESS,
        module: Any = None,
    ) -> VAENet:
        """Return a copy with the history up to an epoch and the parameters of `state`.

        `module` is another module to use instead of a copy of `module_`.
        """
        net, module = object.__new__(type(self)), module or copy.deepcopy(self.module_)
        net.__dict__.update(self.__dict__, module_=module, callbacks=None)
        net.module_.load_state_dict(state)
        net.generator_ = torch.Generator(self.generator_.device)
        net.generator_.manual_seed(reducer.own_seed(self.seed + epoch))
        net.history_ = History(list(self.history)[:epoch])
        net.monitor = copy.copy(self.monitor)
        net.callbacks_, net.last_states_ = [], []
        net._initialize_optimizer()
        return net

    def __getstate__(self) -> dict[str, Any]:
        # A pickle holds the module itself, since modules of the user may have more than their
        # state_dict. skorch maps it to the devices that are available when it is read.
        state = {**super().__getstate__(), "last_states_": []}
        state = {name: value for name, value in state.items() if name not in TRAINING_ONLY}
        if "generator_" in state:  # generators cannot be pickled
            state["generator_"] = self.get_state()["generator"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = state.pop("generator_", None)
        super().__setstate__(state)
        if generator is not None:
            self._set_generator(*generator)
