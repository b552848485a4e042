"""What every deep model does: checks, units, training, and networks applied to rows in blocks."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor

from sklearn_vae.nn.activations import ACTIVATIONS
from sklearn_vae.nn.networks import check_network
from sklearn_vae.serialization.checkpoint import Checkpoint, check_checkpoint, random_state_of
from sklearn_vae.training.callbacks import Progress, Snapshot, StopEarly
from sklearn_vae.training.checkpointing import Keeper, start_of, state_of
from sklearn_vae.training.devices import (
    PRECISIONS,
    choose_place,
    place_of,
    products_in,
    threads_worth,
)
from sklearn_vae.training.distributed import SINGLE_PROCESS, Processes, Reducer
from sklearn_vae.training.loop import VAENet
from sklearn_vae.training.scaling import center_and_scale, check_units, in_units
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_flag,
    check_integer,
    check_latents,
    check_memory,
    check_real,
    checked_data,
    is_integer,
    is_real,
)

Array = NDArray[Any]

# Rows that a network is given at once, outside of training, and numbers in them at most.
ROWS_AT_ONCE = 2048
NUMBERS_AT_ONCE = 2**22

# Arrays as large as the weights: these, their gradient and Adam's two averages.
WEIGHTS_HELD = 4


# Parameters that processes which fit together may each have their own of; but all save checkpoints,
# or none, and all keep the same snapshots.
OF_EACH_PROCESS = ("callbacks", "checkpoint", "device", "random_state", "verbose")


class DeepModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """For subclasses that say what their module, objective and diagnostics are.

    The networks see (X - mean_) / scale_, with one scale for all features, the root of their
    average variance, or their standard deviations where the model treats each on its own. So a
    model, and what learning rates mean, do not depend on the units of X, and all that is returned
    is in these units.
    """

    net_: VAENet
    mean_: Array
    scale_: Any

    # Parameters that a warm start cannot change.
    _of_networks: tuple[str, ...] = (
        "n_components",
        "hidden_layer_sizes",
        "activation",
        "encoder",
        "decoder",
        "image_shape",
        "device",
        "precision",
    )

    def fit(self, X: Any, y: Any = None, *, processes: Processes | None = None) -> Any:
        """Train the networks.

        Parameters
        ----------
        X : array-like of shape (n, d)
            float64 or float32; copied once. With `processes`, those of this process.
        y : Ignored
        processes : Processes, default=None
            Processes that fit this model together, each on rows of its own. None: this one alone.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter or X is not what it has to be.
        FloatingPointError
            If training diverges. The model then has the last finite parameters, and all its
            methods work.
        """
        reducer = SINGLE_PROCESS if processes is None else processes.reducer
        with reducer.ending_on_error():
            self._check_parameters()
        goes_on = self.warm_start and hasattr(self, "net_")
        apart = self.net_.all_or_nothing() if goes_on else nullcontext()
        with reducer.ending_on_error(), all_or_nothing(self), apart:
            X = self._check_rows(X, ensure_min_samples=2, reset=not goes_on)
            self._check_images()
            self._check_memory(len(X))
            begun = start_of(self.net_) if goes_on else None
            reducer.check_same({"model": type(self).__name__})
            reducer.check_same(self._of_all_processes(X, begun))
            member = (begun, reducer.rank, reducer.size) if reducer.size > 1 else begun
            file = Checkpoint.of(self, X, member)
            random_state = random_state_of(self, file)
            seed = int(reducer.table(random_state.randint(np.iinfo(np.int32).max))[0, 0])
            chosen, held_out = self._split(len(X), random_state)
            if goes_on:
                self._check_goes_on()
                self.net_.separate_draws(reducer)
                rows = self._in_units(X, chosen, *place_of(self.module_))
            else:
                self.mean_, self.scale_ = self._center_and_scale(X, chosen, reducer)
                device, dtype, products = choose_place(self.device, self.precision, X.dtype)
                check_units(self.mean_, self.scale_, dtype)
                rows = self._in_units(X, chosen, device, dtype)
                self.net_ = VAENet(
                    self._new_module(rows, reducer),
                    **self._of_training(),
                    seed=seed,
                    precision=products,
                    lr=float(self.learning_rate),
                    device=str(device),
                    verbose=0,
                ).initialize()
                self.net_.separate_draws(reducer)
                self._begin(rows, reducer)
                reducer.share(self.module_)
                self.n_components_ = int(self.n_components)
                self._networks_of_fit = self._networks()
            valid = None
            if self.early_stopping:
                valid = self._in_units(X, held_out, *place_of(self.module_))
                if not torch.isfinite(valid.square().sum()):
                    raise ValueError(
                        "X must have rows nearer to each other: those that early_stopping holds "
                        f"out have squares beyond {valid.dtype} in units of those to train on."
                    )
            diverged, complete = self._train(rows, valid, file, reducer)
            diverged = self._finish(rows, reducer) or diverged
            if file is not None and complete and diverged is None:
                file.save(state_of(self.net_), finished=True)
            self._keep_snapshots(rows, reducer)
            self.net_.last_states_ = []
        if diverged is not None:
            raise diverged
        return self

    def transform(self, X: Any) -> Array:
        """Latent coordinates of each row.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        Z : array of shape (n, k)
        """
        return self._of_rows(X, self._encoded)

    def inverse_transform(self, Z: Any) -> Array:
        """Decoder's mean at latent coordinates.

        Parameters
        ----------
        Z : array-like of shape (n, k)

        Returns
        -------
        X : array of shape (n, d)
        """
        return self._of_latents(Z, lambda z: self._in_data_units(self._decoded(z)))

    def _check_rows(self, X: Any, **options: Any) -> Array:
        """X as rows for the networks, float64 or float32."""
        return checked_data(self, X, **options)

    def _center_and_scale(self, X: Array, rows: Array, reducer: Reducer) -> tuple[Array, Any]:
        """What the networks see chosen rows of X less of, and over."""
        return center_and_scale(X, rows, False, reducer)

    @property
    def _row_shape(self) -> tuple[int, ...]:
        """Of what a row is: an image, or its features."""
        if self.image_shape is None:
            return (self.n_features_in_,)
        return tuple(int(size) for size in self.image_shape)

    def _check_images(self) -> None:
        if math.prod(self._row_shape) != self.n_features_in_:
            raise ValueError(
                f"image_shape={self.image_shape!r} has {math.prod(self._row_shape)} pixels, but X "
                f"has {self.n_features_in_} features."
            )

    def _check_memory(self, n: int) -> None:
        """Raise MemoryError where the weights of networks, or the draws of a step, do not fit."""
        k, d = int(self.n_components), self.n_features_in_
        widths = [d, *self._hidden_layer_sizes(), k]
        n_networks = sum(isinstance(part, str) for part in (self.encoder, self.decoder))
        weights = n_networks * sum(a * b for a, b in itertools.pairwise(widths))
        draws = int(getattr(self, "n_mc_samples", 1)) * min(int(self.batch_size), n)
        check_memory(
            4 * (WEIGHTS_HELD * weights + draws * (k + d)),
            f"The networks of hidden_layer_sizes={self.hidden_layer_sizes!r} and n_components={k} "
            "need memory for their weights and for the draws of a step",
            "Use smaller ones, or a smaller batch_size or n_mc_samples.",
        )

    @property
    def module_(self) -> Any:
        """The trained PyTorch module; it sees rows less `mean_`, over `scale_`."""
        if not hasattr(self, "net_"):
            raise AttributeError(f"This {type(self).__name__} is not fitted and has no module_.")
        return self.net_.module_

    def _check_parameters(self) -> None:
        """Raise ValueError where a parameter is not what it has to be, whatever the data."""
        check_integer("n_components", self.n_components, at_least=1)
        self._hidden_layer_sizes()
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("encoder", "decoder"):
            check_network(name, getattr(self, name))
        shape = self.image_shape
        sizes = isinstance(shape, list | tuple) and all(is_integer(s) and s >= 1 for s in shape)
        if shape is not None and not (sizes and len(shape) == 3):
            raise ValueError(
                "image_shape must be None or three integers >= 1, (channels, height, width), got "
                f"{shape!r}."
            )
        check_real("learning_rate", self.learning_rate, above=0)
        for name in ("max_epochs", "batch_size", "n_iter_no_change"):
            check_integer(name, getattr(self, name), at_least=1)
        if not (is_real(self.validation_fraction) and 0 < self.validation_fraction < 1):
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}."
            )
        check_real("tol", self.tol, at_least=0)
        for name in ("early_stopping", "warm_start"):
            check_flag(name, getattr(self, name))
        if not isinstance(self.verbose, bool):
            check_integer("verbose", self.verbose, at_least=0)
        callbacks = [] if self.callbacks is None else self.callbacks
        if not isinstance(callbacks, list | tuple) or not all(map(_is_callback, callbacks)):
            raise ValueError(
                f"callbacks must be None or a list of skorch callbacks, got {self.callbacks!r}."
            )
        check_choice("precision", self.precision, PRECISIONS)
        check_checkpoint(self)

    def _new_module(self, rows: Tensor, reducer: Reducer) -> Callable[[], Any]:
        """A function that makes the module to train on rows as the networks see them."""
        return self._blank_module(rows.dtype)

    def _begin(self, rows: Tensor, reducer: Reducer) -> None:
        """Change what the new networks begin with, for rows as they see them."""

    def _of_all_processes(self, X: Array, begun: dict[str, Any] | None) -> dict[str, Any]:
        """What processes that fit together must have in common."""
        given = self.get_params(deep=False)
        common = {name: given[name] for name in given if name not in OF_EACH_PROCESS}
        state = begun and {**begun, "generator": None}
        names = getattr(self, "feature_names_in_", None)
        callbacks = map(_without_name, self.callbacks or [])
        return {
            **common,
            "n_features": X.shape[1],
            "feature_names": None if names is None else names.tolist(),
            "dtype": X.dtype.name,
            "checkpoint": None if self.checkpoint is None else "a folder",
            "snapshots": [c.epochs for c in callbacks if isinstance(c, Snapshot)],
            "last_fit": state,
        }

    def _networks(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self._of_networks}
        # A copy of what may be written to; of a factory it may not be equal to it.
        return {name: v if callable(v) else copy.copy(v) for name, v in values.items()}

    def _check_goes_on(self) -> None:
        """Raise ValueError where a warm start would have to go on with other networks."""
        for name, value in self._networks().items():
            before = self._networks_of_fit[name]
            if value is not before and not np.array_equal(value, before):
                raise ValueError(
                    f"warm_start=True goes on with the networks of the last fit, of {name}="
                    f"{before!r}, got {value!r}; with warm_start=False a fit begins anew."
                )

    def _hidden_layer_sizes(self) -> tuple[int, ...]:
        sizes = self.hidden_layer_sizes
        sizes = (sizes,) if is_integer(sizes) else sizes
        is_array = isinstance(sizes, np.ndarray) and sizes.ndim == 1
        is_sequence = is_array or (isinstance(sizes, Sequence) and not isinstance(sizes, str))
        if not (is_sequence and all(is_integer(size) and size >= 1 for size in sizes)):
            raise ValueError(
                f"hidden_layer_sizes must be integers >= 1, got {self.hidden_layer_sizes!r}."
            )
        return tuple(int(size) for size in sizes)

    def _split(self, n: int, random_state: np.random.RandomState) -> tuple[Array, Array]:
        """Indices of the rows to train on, and of those held out for early stopping."""
        if not self.early_stopping:
            return np.arange(n), np.arange(0)
        n_held_out = math.ceil(self.validation_fraction * n)
        if n_held_out > n - 2:
            raise ValueError(
                f"early_stopping holds out {n_held_out} of {n} rows with "
                f"validation_fraction={self.validation_fraction!r}, and needs two to train on."
            )
        order = random_state.permutation(n)
        return order[n_held_out:], order[:n_held_out]

    def _in_units(self, X: Array, rows: Array, device: torch.device, dtype: torch.dtype) -> Tensor:
        return in_units(X, rows, self.mean_, self.scale_, device, dtype)

    def _train(
        self, train: Tensor, valid: Tensor | None, file: Checkpoint | None, reducer: Reducer
    ) -> tuple[FloatingPointError | None, bool]:
        """Train the net; the error if that diverged, with the last finite parameters in place.

        And whether it was trained to the end, now and not before.
        """
        net, before = self.net_, len(self.net_.history)
        units = self.mean_, self.scale_
        keeper = (
            None if file is None else Keeper(file, net, self.max_epochs, units, reducer=reducer)
        )
        left = self.max_epochs if keeper is None else keeper.begin(net)
        callbacks = [*copy.deepcopy(list(self.callbacks or [])), *self._callbacks()]
        if valid is not None:
            callbacks.append(StopEarly(self._warmup_epochs(), self.n_iter_no_change, self.tol))
        shown = bool(self.verbose) and reducer.rank == 0
        if shown:
            callbacks.append(bar := Progress(self.max_epochs, self.max_epochs - left))
        for name, value in self._of_training().items():
            setattr(net, name, value)
        net.callbacks = callbacks
        net.initialize_callbacks()
        net.train_split = None if valid is None else predefined_split(Dataset(valid))
        net.set_params(
            max_epochs=int(self.max_epochs),
            batch_size=min(int(self.batch_size), len(train)),
            lr=float(self.learning_rate),
        )
        if keeper is not None and not left:
            keeper.restore(net)
            net.train_split = None
            return None, False
        diverged = None
        try:
            with reducer.interrupts_as_errors():
                net.partial_fit(train, epochs=left, keeper=keeper, reducer=reducer)
        except FloatingPointError as error:
            diverged = error
        except KeyboardInterrupt:  # after the last epoch: skorch keeps those in it
            pass
        finally:
            if shown:
                bar.on_train_end(net)
            net.train_split = None  # which would hold the rows
        net.drop_unfinished_epoch()
        complete = net.stopped_early or len(net.history) - before >= self.max_epochs
        if not (diverged or complete):
            warnings.warn(
                f"Training was interrupted after {len(net.history)} epochs: "
                f"{type(self).__name__} keeps what it had learned.",
                stacklevel=3,
            )
        return diverged, complete

    def _finish(self, rows: Tensor, reducer: Reducer = SINGLE_PROCESS) -> FloatingPointError | None:
        """Set what follows from the parameters; the error if these diverged in the last step."""
        error, interrupted = None, False
        while True:
            try:
                self._keep_history()
                with self._evaluating(), reducer.interrupts_as_errors():
                    self._diagnose(rows, reducer)
                return error
            except KeyboardInterrupt:
                if interrupted:  # a second one gives up
                    raise
                interrupted = True
            except FloatingPointError:
                if not self.net_.last_states_:
                    raise
                error = self.net_.undo_divergence()

    def _keep_snapshots(self, rows: Tensor, reducer: Reducer) -> None:
        callbacks = [c for _, c in self.net_.callbacks_ if isinstance(c, Snapshot)]
        if "snapshots_" in vars(self):  # of an earlier fit
            delattr(self, "snapshots_")
        if not callbacks:
            return
        states = {e: state for c in callbacks for e, state in c.states_.items()}
        snapshots = {}
        with suppress(KeyboardInterrupt), reducer.interrupts_as_errors():
            for epoch in [e for e in states if e <= self.n_iter_]:
                twin = copy.copy(self)
                twin.net_ = self.net_.copy_at(epoch, states[epoch], reducer)
                try:
                    twin._finish(rows, reducer)
                    snapshots[epoch] = twin
                except FloatingPointError:
                    warnings.warn(
                        f"The model after epoch {epoch} gives no finite bound and is not kept.",
                        stacklevel=4,
                    )
        for callback in callbacks:
            callback.states_ = {}
        self.snapshots_ = snapshots

    def _keep_history(self) -> None:
        rows = list(self.net_.history)
        names = [*self.net_.monitor.names, "beta", "seconds"]
        hidden = {"batches", "epoch", "train_loss", "valid_loss", *names}
        names += dict.fromkeys(name for row in rows for name in row if name not in hidden)
        self.history_ = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
        self.n_iter_ = len(rows)

    def _warmup_epochs(self) -> int:
        """Epochs before early stopping may stop."""
        return 0

    def _as_tensor(self, array: Any) -> Tensor:
        device, dtype = place_of(self.module_)
        return torch.as_tensor(array, dtype=dtype, device=device)

    def _of_rows(self, X: Any, function: Callable[[Tensor], Tensor]) -> Array:
        """A function of rows as the networks see them, of a block of rows at a time."""
        check_is_fitted(self)
        X = self._check_rows(X, reset=False)

        def units(block: slice) -> Tensor:
            return self._as_tensor((X[block] - self.mean_) / self.scale_)

        return self._of_blocks(len(X), lambda b: function(units(b)), "X")

    def _of_latents(self, Z: Any, function: Callable[[Tensor], Tensor]) -> Array:
        """A function of latent coordinates, of a block of rows at a time."""
        check_is_fitted(self)
        Z = check_latents(self, Z, self.n_components_)
        return self._of_blocks(len(Z), lambda b: function(self._as_tensor(Z[b])), "Z")

    @torch.no_grad()
    def _of_blocks(self, n: int, function: Callable[[slice], Tensor], name: str) -> Array:
        with self._evaluating():
            found = torch.cat([function(block) for block in self._blocks(n)]).cpu().numpy()
        bad = ~np.isfinite(found)
        if found.ndim == 1:  # a bound may be below the range of its dtype
            bad &= found != -np.inf
        if bad.any():
            raise ValueError(
                f"{name} must have rows nearer to those of training: of row "
                f"{np.argwhere(bad)[0, 0]} the networks make {found[bad][0]} in {found.dtype}."
            )
        return found

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Within this, as many threads as blocks are worth, and on CUDA no TF32."""
        on_cuda = place_of(self.module_)[0].type == "cuda"
        threads = threads_worth(self.net_.operations_ * ROWS_AT_ONCE)
        with threads, products_in("float32" if on_cuda else None):
            yield

    def _rows_at_once(self, n_draws: int = 1) -> int:
        """Rows of a block, where each has as many latents as `n_draws` draws have."""
        width = max(self.n_features_in_, n_draws * self.n_components_)
        return max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // width))

    def _blocks(self, n: int) -> Iterator[slice]:
        step = self._rows_at_once(getattr(self.module_, "n_fixed_draws", 1))
        return (slice(start, start + step) for start in range(0, n, step))

    def _in_data_units(self, mean: Tensor) -> Tensor:
        return mean * self._as_tensor(self.scale_) + self._as_tensor(self.mean_)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _without_name(callback: Any) -> Any:
    """A callback that may be in a tuple with its name."""
    return callback[-1] if isinstance(callback, tuple) and callback else callback


def _is_callback(callback: Any) -> bool:
    callback = _without_name(callback)
    return isinstance(callback, Callback) or (
        isinstance(callback, type) and issubclass(callback, Callback)
    )
