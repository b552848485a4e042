"""The skorch net that trains: data on the device, and one look at the loss an epoch."""

from __future__ import annotations

import copy
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
from skorch.callbacks import Callback, EarlyStopping
from skorch.history import History
from torch import Tensor, nn

from sklearn_vae.nn.networks import operations_of
from sklearn_vae.nn.objectives import BY_HAND, Objective
from sklearn_vae.training.batches import Batch, Batches
from sklearn_vae.training.checkpointing import Keeper
from sklearn_vae.training.cuda_graph import CapturedStep
from sklearn_vae.training.devices import global_generators, products_in, threads_worth
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.fast_paths import Adam
from sklearn_vae.validation import all_or_nothing

# torch's layers draw their first weights from its global generator, which is borrowed meanwhile.
_GLOBAL_GENERATOR = threading.RLock()

BATCH_EVENTS = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class VAENet(NeuralNet):
    """A net whose module is trained on an objective of its rows alone, without targets.

    skorch's loop over epochs, callbacks, history and pickling; batches and steps are ours. A batch
    is two views of tensors on the device; losses stay there until the epoch ends; the gradient is
    had by hand where the module and the device allow it, and the step is captured into a CUDA
    graph on one. Of processes that fit together each takes a step on rows of its own, along the
    gradient averaged over those of all.

    Parameters
    ----------
    module : callable
        Returns the module.
    objective : function of `sklearn_vae.nn.objectives`
    options : dict
        Of the objective.
    monitor : object
        With `update` and `record`, as in `sklearn_vae.training.monitors`.
    noise_shape : (S, k)
        Draws of each row in a step, and latent dimensions.
    seed : int
        Fixes first weights, order of rows and noise.
    precision : {None, "float32", "tf32", "bf16"}, default=None
        Of the products in training, on CUDA; None: that of the rows.
    operations : float, default=None
        That a row takes on its way forward; None: counted on one.
    **options_of_net
        `max_epochs`, `batch_size`, `lr`, `device`, `train_split`, `callbacks`, `verbose`.
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
        **options_of_net: Any,
    ) -> None:
        self.objective = objective
        self.options = options
        self.monitor = monitor
        self.noise_shape = noise_shape
        self.seed = seed
        self.precision = precision
        self.operations = operations
        self.beta_ = 1.0
        self.kept_: list[tuple[int, dict[str, Tensor]]] = []
        super().__init__(module, criterion=nn.Identity, optimizer=Adam, **options_of_net)

    @property
    def _default_callbacks(self) -> list[Any]:
        return []

    def initialize_module(self) -> VAENet:
        """Make the module, its weights from `seed`, and the generator of order and noise."""
        with _GLOBAL_GENERATOR, global_generators(torch.device("cpu"), self.seed):
            super().initialize_module()
        self.module_.eval()
        known = self.operations
        self.operations_ = 2.0 * operations_of(self.module_) if known is None else known
        self.generator_ = torch.Generator(self.device).manual_seed(self.seed)
        return self

    def draw_apart(self, reducer: Reducer) -> None:
        """Begin other draws than those of the other processes, where they would be the same."""
        if reducer.size == 1:
            return
        states = reducer.digests(self.generator_.get_state().numpy())
        if len(np.unique(states)) < len(states):
            self.generator_.manual_seed(reducer.own_seed(self.seed + len(self.history)))

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> VAENet:
        """Adam over the parameters that are learned by gradient."""
        parameters = self.module_.trained_parameters()
        self.optimizer_ = Adam(parameters, lr=self.lr, capturable=self._on("cuda"))
        return self

    @property
    def by_hand(self) -> Callable[..., tuple[float, float, Tensor]] | None:
        """The objective's gradient without autograd, where that can be had.

        Options are 0 where they are not in use; by hand there are none.
        """
        can = self._on("cpu") and self.module_.has_pullback and not any(self.options.values())
        return BY_HAND.get(self.objective) if can else None

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Batches in random order for training; skorch's else."""
        if not training:
            return super().get_iterator(dataset, training=False)
        n_batches = self.reducer_.n_batches(len(dataset.X), self.batch_size)
        return Batches(dataset.X, self.batch_size, self.noise_shape, self.generator_, n_batches)

    def partial_fit(
        self,
        X: Tensor,
        y: Any = None,
        *,
        epochs: int,
        keeper: Keeper | None = None,
        reducer: Reducer = SINGLE_PROCESS,
    ) -> Any:
        """Train for some epochs.

        Parameters
        ----------
        X : Tensor of shape (n, d)
            On the device.
        y : Ignored
        epochs : int
        keeper : Keeper, default=None
            Saves the net after some epochs, and gives it back what it has saved.
        reducer : Reducer, default=SINGLE_PROCESS
            Of the processes that train together.
        """
        self.keeper_, self.reducer_ = keeper, reducer
        try:
            return super().partial_fit(X, epochs=epochs)
        finally:
            del self.keeper_, self.reducer_

    def fit_loop(self, X: Tensor, y: Any = None, epochs: int | None = None, **kwargs: Any) -> Any:
        """Run skorch's loop over epochs, with the threads that the size of a step is worth."""
        self.module_.train()
        reducer, keeper = self.reducer_, self.keeper_
        self.events_ = {
            event
            for event in BATCH_EVENTS
            for _, callback in self.callbacks_
            if getattr(type(callback), event) is not getattr(Callback, event)
        }
        by_hand = self.by_hand
        self.h_: Tensor | None = None
        self.step_: Callable[..., Any] = (
            partial(self.step_by_hand, by_hand) if by_hand else self.step_by_autograd
        )
        self.average_ = reducer.averaging(self.module_.parameters())
        if self._on("cuda") and not self.events_ and reducer.size == 1:
            self.step_ = CapturedStep(self)
        hook = self.module_.encoder.register_forward_hook(self._keep_h)
        seed = reducer.own_seed(self.seed + len(self.history))
        with ExitStack() as stack:
            stack.callback(self._after_loop)
            stack.callback(hook.remove)
            stack.enter_context(
                threads_worth(3 * self.operations_ * self.batch_size * self.noise_shape[0])
            )
            stack.enter_context(products_in(self.precision))
            if self._on("cuda"):
                stack.enter_context(torch.cuda.device(X.device))
            if not self.module_.has_pullback:  # a factory's networks may draw, as dropout does
                stack.enter_context(_GLOBAL_GENERATOR)
                stack.enter_context(global_generators(X.device, seed))
            if keeper is not None:
                keeper.restore(self)
            with reducer.interrupts_as_errors():
                try:
                    return super().fit_loop(X, y, epochs, **kwargs)
                except KeyboardInterrupt:
                    if not self.stopped_early:  # of which it is the sign too
                        raise
                    return self

    def _after_loop(self) -> None:
        del self.step_, self.h_, self.average_
        self.monitor.begin()
        self.module_.eval()

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call the callbacks; after an epoch the keeper comes last, and saves what they learned."""
        super().notify(method_name, **kwargs)
        if method_name == "on_epoch_end" and self.keeper_ is not None:
            self.keeper_.after_epoch(self)

    @property
    def stopped_early(self) -> bool:
        """Whether a callback has ended the training, and not an interrupt, whose sign it uses."""
        return any(
            isinstance(callback, EarlyStopping) and callback.misses_ >= callback.patience
            for _, callback in self.callbacks_
        )

    def drop_unfinished_epoch(self) -> None:
        """Take the epoch in which a training was interrupted out of the history."""
        if len(self.history) and "seconds" not in self.history[-1]:
            self.history.pop()

    def run_single_epoch(
        self,
        iterator: Any,
        training: bool,
        prefix: str,
        step_fn: Callable[[Batch], Any],
        **fit_params: Any,
    ) -> None:
        """One epoch of training, or the bound of the validation rows."""
        if iterator is None:
            return
        if not training:
            objective, bound = self._validate(iterator.dataset.X)
            self.history.record("valid_loss", -objective)
            self.history.record("validation_bound", self.monitor.in_data_units(bound))
            return
        reducer = self.reducer_
        reducer.meet()
        start = time.perf_counter()
        state = {name: t.clone() for name, t in self.module_.state_dict().items()}
        self.kept_ = [*self.kept_[-1:], (len(self.history) - 1, state)]
        self.monitor.begin()
        with torch.set_grad_enabled(self.by_hand is None):
            sums = [self._run_chunk(chunk, step_fn) for chunk in iterator]
        reducer.share(self.module_)
        totals = torch.stack(sums).cpu().double().sum(0).tolist()
        n, reconstruction, kl = reducer.sum([len(iterator.X), *totals])
        reconstruction, kl = reconstruction / n, kl / n
        if not (math.isfinite(reconstruction + kl) and self.is_finite()):
            raise self.diverged()
        values = self.monitor.record(self.module_, n, reconstruction, kl, reducer)
        for name, value in values.items():
            self.history.record(name, value)
        self.history.record("train_loss", self.beta_ * kl - reconstruction)
        self.history.record("beta", self.beta_)
        self.history.record("seconds", time.perf_counter() - start)

    def train_step(self, batch: Batch, **fit_params: Any) -> Any:
        """One step of the optimiser; sums of reconstruction and KL, and what the encoder gave."""
        if not self.events_:
            return self.step_(*batch, self.beta_)
        self.notify("on_batch_begin", batch=batch, training=True)
        reconstruction, kl, h = self.step_(*batch, self.beta_)
        loss = (self.beta_ * kl - reconstruction) / len(batch[0])
        self.notify("on_batch_end", batch=batch, training=True, loss=loss, y_pred=h)
        return reconstruction, kl, h

    def is_finite(self) -> bool:
        """Whether every parameter is, and the noise variance that one is the logarithm of."""
        sums = [parameter.detach().sum() for parameter in self.module_.parameters()]
        likelihood: Any = getattr(self.module_, "likelihood", None)
        if getattr(likelihood, "noise_variance", None) is not None:
            sums.append(likelihood.noise_variance.sum())
        return bool(torch.isfinite(torch.stack(sums)).all())

    def diverged(self) -> FloatingPointError:
        """The error that says so; takes back the parameters from before the last epoch."""
        with_noise = "noise_variance" in self.monitor.names
        noise = " or noise_variance too small for the data" if with_noise else ""
        epoch = len(self.history)
        if self.kept_:
            before, state = self.kept_.pop()
            epoch = before + 1
            self.module_.load_state_dict(state)
            self._initialize_optimizer()  # whose averages are not finite either
            del self.history[before:]
        return FloatingPointError(
            f"Training diverged: in epoch {epoch} the loss or a parameter became infinite or NaN, "
            f"most likely because learning_rate={self.lr} is too large{noise}. The parameters "
            f"after epoch {len(self.history)} are kept, and the model can be used."
        )

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Within this, an exception leaves the net as it was before."""
        module, optimizer = copy.deepcopy([self.module_.state_dict(), self.optimizer_.state_dict()])
        rows, generator = list(self.history), self.generator_.get_state()
        try:
            with all_or_nothing(self):
                yield
        except BaseException:
            self.module_.load_state_dict(module)
            self.optimizer_.load_state_dict(optimizer)
            self.history_ = History(rows)
            self.generator_.set_state(generator)
            raise

    def as_it_was(
        self, epoch: int, state: dict[str, Tensor], reducer: Reducer = SINGLE_PROCESS
    ) -> VAENet:
        """A net of its own with the parameters that a module had after an epoch."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, module_=copy.deepcopy(self.module_), callbacks=None)
        twin.module_.load_state_dict(state)
        twin.generator_ = torch.Generator(self.generator_.device)
        twin.generator_.manual_seed(reducer.own_seed(self.seed + epoch))
        twin.history_ = History(list(self.history)[:epoch])
        twin.monitor = copy.copy(self.monitor)
        twin.callbacks_, twin.kept_ = [], []
        twin._initialize_optimizer()
        return twin

    def _run_chunk(self, chunk: list[Batch], step_fn: Callable[[Batch], Any]) -> Tensor:
        """Steps of some batches; sums of reconstruction and KL over their rows."""
        steps = [step_fn(batch) for batch in chunk]
        sums = [step[:2] for step in steps]
        with torch.no_grad():
            self.monitor.update(self.module_, torch.cat([h for _, _, h in steps]))
            if isinstance(sums[0][0], float):
                return torch.tensor(sums, dtype=torch.float64).sum(0)
            return torch.stack([torch.stack(pair) for pair in sums]).sum(0)

    def step_by_hand(
        self, by_hand: Callable[..., Any], x: Tensor, noise: Tensor, beta: float
    ) -> tuple[float, float, Tensor]:
        """One step with a gradient of `BY_HAND`; sums over rows, and what the encoder gave."""
        found = by_hand(self.module_, x, noise, beta)
        self._take_step(x)
        return found

    def step_by_autograd(
        self, x: Tensor, noise: Tensor, beta: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step with autograd; sums over rows, and what the encoder gave."""
        self.optimizer_.zero_grad()
        # No cache: the weights that it would keep in bfloat16 change with every step.
        with torch.autocast(
            "cuda", torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False
        ):
            bound, *parts = self.objective(self.module_, x, noise, beta, **self.options)
        bound.mean().neg().backward()
        with torch.no_grad():
            self._take_step(x)
        reconstruction, kl = (part.detach().sum() for part in parts)
        return reconstruction, kl, self.h_

    def _take_step(self, x: Tensor) -> None:
        self.average_(len(x))
        if "on_grad_computed" in self.events_:
            trained = {id(parameter) for parameter in self.module_.trained_parameters()}
            named = [(n, p) for n, p in self.module_.named_parameters() if id(p) in trained]
            self.notify("on_grad_computed", named_parameters=named, batch=x, training=True)
        self.optimizer_.update()
        self.module_.after_step()

    def _keep_h(self, encoder: nn.Module, inputs: Any, h: Tensor) -> None:
        self.h_ = h.detach()

    @torch.no_grad()
    def _validate(self, X: Tensor) -> tuple[float, float]:
        """Objective and bound of the validation rows, with the same noise in every epoch."""
        generator = torch.Generator(X.device).manual_seed(self.reducer_.own_seed(self.seed))
        draws, k = self.noise_shape
        self.module_.eval()
        objective, bound = X.new_zeros(2)
        for x in X.split(max(self.batch_size, 1024)):
            noise = torch.randn(
                (draws, len(x), k), generator=generator, device=x.device, dtype=x.dtype
            )
            found, *parts = self.objective(self.module_, x, noise, self.beta_, **self.options)
            reconstruction, kl = parts
            objective += found.sum()
            bound += (reconstruction - kl).sum()
        self.module_.train()
        n, *totals = self.reducer_.sum([len(X), objective.item(), bound.item()])
        return totals[0] / n, totals[1] / n

    def _on(self, kind: str) -> bool:
        return torch.device(self.device).type == kind

    def __getstate__(self) -> dict[str, Any]:
        # A generator of CUDA cannot be read where there is none.
        state = {**super().__getstate__(), "kept_": []}
        if "generator_" in state:
            state["generator_"] = state["generator_"].get_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator_state = state.pop("generator_", None)
        super().__setstate__(state)
        if generator_state is None:
            return
        self.generator_ = torch.Generator(self.device).manual_seed(self.seed)
        with suppress(RuntimeError):  # of another kind of device: begins anew
            self.generator_.set_state(generator_state)
