"""Base class of the estimators with deep networks."""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from skorch.history import History
from torch import Tensor

from sklearn_vae.deep.callbacks import (
    callback_parameters,
    callbacks_of_fit,
    check_callbacks,
    set_callback_parameters,
    warn_of_failures,
)
from sklearn_vae.deep.checks import (
    check_network_parameters,
    check_training_parameters,
    checked_layer_sizes,
)
from sklearn_vae.deep.choices import (
    MAX_FOLDS,
    PLAIN,
    adopt,
    chosen_values,
    is_auto,
    values_of_fit,
    with_values,
)
from sklearn_vae.deep.epoch_search import (
    RATE_OF_AVERAGE,
    AveragedParameters,
    EpochSearch,
    search_epochs,
)
from sklearn_vae.deep.evaluation import (
    block_size,
    evaluate_blocks,
    evaluating,
    history_arrays,
    keep_snapshots,
)
from sklearn_vae.deep.fitted_networks import network_parameters, restored_net, state_of_net
from sklearn_vae.deep.inactive_units import InactiveUnits
from sklearn_vae.deep.objective_terms import enlarge_noise, entries_of_start, mean_objective
from sklearn_vae.deep.outcome import Bounds, is_judged, warn_of_outcome
from sklearn_vae.deep.training_data import TrainingData, check_observed, prepare
from sklearn_vae.gaussian.arrays import check_sample_weight
from sklearn_vae.protocol import EncoderDecoder, numbered
from sklearn_vae.serialization.checkpoint import check_checkpoint
from sklearn_vae.state import is_fitted
from sklearn_vae.training.callbacks import Progress, StopEarly
from sklearn_vae.training.checkpointing import Keeper, last_state_of
from sklearn_vae.training.devices import device_and_dtype, torch_defaults
from sklearn_vae.training.distributed import SINGLE_PROCESS, Processes, Reducer
from sklearn_vae.training.learning_rate_limit import FALLING_SHARE
from sklearn_vae.training.loop import VAENet
from sklearn_vae.training.scaling import center_and_scale
from sklearn_vae.validation import (
    all_or_nothing,
    check_flag,
    check_latents,
    check_random_state,
    checked_rows,
)
from sklearn_vae.warning import warn_user

Array = NDArray[Any]

# Loss of training samples against the linear model that a larger noise variance may cause, as a share
# of its bound plus nats per sample.
LOSS_SHARE = 0.0075
LOSS_NATS = 0.05


class DeepModel(EncoderDecoder, ABC):
    """Base class of the estimators with deep networks.

    The networks see (X - mean_) / scale_, where scale_ is the square root of the average feature
    variance, or the standard deviation of each feature. This makes the model and the learning rate
    independent of the units of X. All results are in the units of X.
    """

    callbacks: Any
    random_state: Any
    _missing: str | None
    _observed_share: Array | None
    is_linear_: bool
    net_: VAENet
    mean_: Array
    _noise_is_validated: bool
    scale_: Any

    _fitted_state: ClassVar[dict[str, str]] = {
        "_networks_of_fit": "any",
        "mean_": "d finite",
        "n_components_": "count",
        "n_features_in_": "count",
        "n_iter_": "count",
        "net_": "any",
        "scale_": "number|d finite positive",
    }

    # Whether the bound is in nats.
    _has_nats: ClassVar[bool] = True

    # Maximum number of folds of automatic training.
    _most_folds: ClassVar[int] = MAX_FOLDS

    # Number of epochs that a fold trains before it is evaluated and the next fold trains.
    _epochs_at_once: ClassVar[int] = 5

    # Value of `init` that starts at the linear model.
    _linear_init: ClassVar[str] = "ppca"

    # Parameters that a warm start cannot change.
    _network_parameters: tuple[str, ...] = (
        "n_components",
        "hidden_layer_sizes",
        "activation",
        "encoder",
        "decoder",
        "image_shape",
        "device",
        "precision",
    )

    @torch_defaults()
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        processes: Processes | None = None,
    ) -> Any:
        """Train the networks.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples. With `processes`, the samples of this process. A memory-mapped array
            of more than 64 MiB, stored row by row and without NaN, is read and shuffled in blocks.
            Then at most 32768 samples and 2**24 values are held out for validation.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. The contribution of a sample
            to the training objective and to every average over the samples is multiplied by its
            weight, so that a weight of 2 counts it twice, and 0 leaves it out. The scale of the
            weights does not matter. `batch_size`, `validation_fraction` and `callbacks` ignore
            the weights.
        processes : Processes, default=None
            Processes that train this model together, each on its own samples. If None, only this
            process trains it.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid.
        FloatingPointError
            If training diverges. The estimator keeps its last finite parameters and can be used.
        """
        reducer = SINGLE_PROCESS if processes is None else processes.reducer
        search = None
        with reducer.ending_on_error():
            check_flag("warm_start", self.warm_start)
            warm = self.warm_start and hasattr(self, "net_")
            explicit = with_values(self, values_of_fit(self) if warm else PLAIN)
            explicit._check_parameters()
            if not warm and reducer.size == 1 and self._is_automatic():
                explicit, search = self._choose(X, sample_weight)
        try:
            explicit._fit(X, sample_weight, warm, reducer, search)
        finally:
            adopt(self, explicit)
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the estimator.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the callbacks and their parameters, named as in skorch, for example
            "callbacks__EarlyStopping__patience".

        Returns
        -------
        params : dict
            Parameters by name.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        return {**params, **callback_parameters(self.callbacks)} if deep else params

    def set_params(self, **params: Any) -> Any:
        """Set parameters of the estimator and of its callbacks.

        Parameters
        ----------
        **params : dict
            Parameters by name. Use the names that :meth:`get_params` returns.

        Returns
        -------
        self : object
            Estimator.
        """
        nested = {name: v for name, v in params.items() if name.startswith("callbacks__")}
        super().set_params(**{name: v for name, v in params.items() if name not in nested})
        if nested:
            self.callbacks = set_callback_parameters(self, nested)
        return self

    def transform(self, X: Any) -> Array:
        return self._map_samples(X, self._latents)

    def inverse_transform(self, Z: Any) -> Array:
        return self._map_latents(Z, lambda z: self._in_data_units(self._decode(z)))

    @property
    def module_(self) -> Any:
        """Trained PyTorch module, which takes (X - `mean_`) / `scale_`."""
        if not hasattr(self, "net_"):
            raise AttributeError(
                f"This {type(self).__name__} is not fitted yet and has no module_. Call fit first."
            )
        return self.net_.module_

    @property
    def training_history(self) -> dict[str, Array]:
        return numbered(self.history_, "epoch", self.n_iter_)

    @property
    def snapshots(self) -> dict[int, Any]:
        return getattr(self, "snapshots_", {})

    @property
    def stopped_early(self) -> bool:
        return bool(self.early_stopping) and self.n_iter_ < values_of_fit(self)["max_epochs"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Constructor parameters by name; after a fit, with its values for "auto"."""
        explicit = with_values(self, values_of_fit(self)) if is_fitted(self) else self
        return explicit.get_params(deep=False)

    @property
    def is_linear(self) -> bool:
        return bool(vars(self).get("is_linear_"))

    @property
    def n_layers(self) -> int:
        networks = (self.module_.encoder, self.module_.decoder)
        return max(sum(p.ndim >= 2 for p in network.parameters()) for network in networks)

    def inactive_units(self, X: Any) -> dict[str, float]:
        with InactiveUnits(self.module_) as units:
            if units.layers:
                self.inverse_transform(self.transform(X))
        return units.shares

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        if "net_" in state:
            state["net_"] = state_of_net(self)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        with all_or_nothing(self):
            super().set_state(state)
            if "net_" in state:
                self.net_ = restored_net(self, state["net_"])

    @abstractmethod
    def _module_factory(self, dtype: torch.dtype) -> Callable[..., torch.nn.Module]:
        """Return a function that builds the untrained module, without memory if `on="meta"`."""

    @abstractmethod
    def _training_options(self) -> dict[str, Any]:
        """Return the arguments `objective`, `options`, `monitor` and `noise_shape` of `VAENet`."""

    @abstractmethod
    def _set_diagnostics(self, data: TrainingData) -> None:
        """Set the diagnostic attributes; raise FloatingPointError if a result is not finite."""

    @abstractmethod
    def _bounds_of_fit(self, data: TrainingData, with_linear: bool) -> Bounds:
        """Return the bounds of this fit, and of the linear model if `with_linear`."""

    @abstractmethod
    def _latents(self, module: Any, x: Tensor) -> Tensor:
        """Return the latent coordinates of samples, in the units of the networks."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor:
        """Return the means of p(x|z), in the units of the networks."""

    def _set_start(self, data: TrainingData) -> None:
        """Set initial parameters of a new module that depend on the training samples."""

    def _set_observed_share(self) -> None:
        """Tell the module which share of the training samples observes each feature."""

    def _training_callbacks(self) -> list[Any]:
        """Return callbacks that are called after the user's callbacks."""
        return []

    def _n_warmup_epochs(self) -> int:
        """Return the number of epochs before early stopping begins to count."""
        return 0

    def _trains_on_bound(self) -> bool:
        """Return whether the training objective is the bound that the linear model maximizes."""
        return True

    def _n_epochs_at_rate(self) -> int:
        """Return the number of epochs before the learning rate falls."""
        falls = self.init is not None and not self._starts_linear
        return self.n_iter_ - round(FALLING_SHARE * self.max_epochs) if falls else self.n_iter_

    def _is_automatic(self) -> bool:
        """Return whether the number of epochs is found by validation, from a linear start."""
        if not is_auto(self.max_epochs) or self.early_stopping:
            return False
        model = with_values(self, self._chosen_values(1, 1))
        return bool(model.init == self._linear_init and model._can_start_linear())

    def _chosen_values(self, n_samples: int, n_features: int) -> dict[str, Any]:
        """Return values of the parameters that are "auto" in automatic training."""
        return chosen_values(n_samples, n_features, int(self.n_components), self._linear_init)

    def _can_continue(self, X: Array, held_out: Array) -> bool:
        """Return whether the final fit may continue that of a fold without some samples of X."""
        return False

    def _choose(self, X: Any, sample_weight: Any) -> tuple[Any, EpochSearch]:
        """Return a copy with the chosen values of all parameters, and the search of the epochs."""
        probe = copy.copy(self)
        X = probe._check_samples(X, ensure_min_samples=2, reset=True)
        weights = None if sample_weight is None else check_sample_weight(sample_weight, X)
        n, d = X.shape
        check_observed(X)
        chosen = self._chosen_values(n, d)
        model = with_values(self, chosen)
        # The same in every fit of these data, so that a checkpoint is found again.
        fixed = 0 if self.random_state is None else copy.deepcopy(self.random_state)
        seed = int(check_random_state(fixed).randint(np.iinfo(np.int32).max // 2))
        search = search_epochs(model, X, weights, seed)
        model.max_epochs = search.n_final_epochs
        return model, search

    def _fit(
        self, X: Any, sample_weight: Any, warm: bool, reducer: Reducer, search: EpochSearch | None
    ) -> None:
        """Train the networks of a model without parameters that are "auto"."""
        keep_net = self.net_.all_or_nothing() if warm else nullcontext()
        with reducer.ending_on_error(), all_or_nothing(self), keep_net:
            self._set_chosen_values(search)
            units = None
            if search is not None and search.continued is not None:
                units = search.continued.mean, search.continued.scale
            data = prepare(self, X, sample_weight, warm, reducer, units=units)
            if not warm:
                self._build(data)
            self.net_.separate_draws(reducer)
            if search is None:
                diverged, complete = self._train(data)
            else:
                diverged, complete = self._train_from_linear(data, search)
            diverged = self._evaluate(data) or diverged
            if search is not None:
                self._record_search(search, data)
            if data.checkpoint is not None and complete and diverged is None:
                data.checkpoint.save(last_state_of(self.net_), finished=True)
            keep_snapshots(self, data)
            self.net_.last_states_ = []
        warn_of_failures(self.net_)
        if diverged is not None:
            raise diverged
        bounds = self._bounds_of_fit(data, is_judged(self, search))
        if reducer.rank == 0 and (search is not None or self.net_.complete_):
            warn_of_outcome(self, bounds, search)
        if self.is_linear_ and self.verbose and reducer.rank == 0:
            print(
                f"{type(self).__name__} keeps its linear start, because no epoch of training "
                "improved it on validation samples.",
                file=sys.stderr,
            )

    def _set_chosen_values(self, search: EpochSearch | None) -> None:
        """Set the attributes with the values that this fit uses."""
        self._automatic, self.is_linear_, self._noise_is_validated = (
            search is not None,
            False,
            False,
        )
        for name in PLAIN.keys() & vars(self).keys():
            setattr(self, f"{name}_", getattr(self, name))
        if search is not None:
            self.max_epochs_ = search.max_epochs
        self.hidden_layer_sizes_ = self._hidden_layer_sizes()

    def _train_from_linear(
        self, data: TrainingData, search: EpochSearch
    ) -> tuple[FloatingPointError | None, bool]:
        """Train the net, and return to the linear start if training lowers its objective."""
        noise_factor = search.noise_factor
        self.is_linear_ = True
        net, samples, weights = self.net_, data.train, data.weights
        if not self.max_epochs:
            self._set_up_net(data, None)
            net.train_split = None
            return None, False
        start = {name: t.clone() for name, t in net.module_.state_dict().items()}
        bound = mean_objective(net, samples, weights)
        if search.continued is not None:
            net.module_.load_state_dict(search.continued.parameters)
            net.optimizer_.load_state_dict(search.continued.optimizer)
        diverged, complete = self._train(data)
        if data.checkpoint is None or not data.checkpoint.finished:
            self.is_linear_ = mean_objective(net, samples, weights) < bound
        else:  # only trained networks are saved
            self.is_linear_ = False
        if self.is_linear_:
            net.module_.load_state_dict(start)
            net.history_ = History()
            return diverged, False
        self._noise_is_validated = noise_factor > 1.0
        if complete and self._noise_is_validated:
            nats = LOSS_SHARE * abs(net.monitor.in_data_units(bound)) + LOSS_NATS
            enlarge_noise(net, samples, weights, noise_factor, bound - nats)
        return diverged, complete

    def _record_search(self, search: EpochSearch, data: TrainingData) -> None:
        """Add the bounds of the search to the history, which is that of the start if linear."""
        first = 1
        if self.is_linear_:
            first = 0
            entries = entries_of_start(self.net_, data)
            self.history_ = {name: np.array([value]) for name, value in entries.items()}
        n = len(next(iter(self.history_.values())))
        # Between the epochs that the search has evaluated, interpolate.
        bounds = np.interp(np.arange(first + n), search.epochs, search.bounds)
        if search.continued is not None and not self.is_linear_:
            bounds = np.append(bounds[:1], np.full(n, search.bounds[search.best]))
        self.history_["validation_bound"] = bounds[first:]
        self.history_["linear_validation_bound"] = np.full(n, bounds[0])

    @property
    def _starts_linear(self) -> bool:
        """Whether this fit starts at the linear model, for a number of epochs that was found."""
        return bool(vars(self).get("_automatic"))

    def _can_start_linear(self) -> bool:
        """Return whether the networks can represent the linear model, and its objective is used."""
        return False

    def _check_parameters(self) -> None:
        """Raise ValueError if a parameter is invalid for any data."""
        check_network_parameters(self)
        check_training_parameters(self)
        check_callbacks(self)
        check_checkpoint(self)

    def _check_samples(self, X: Any, **options: Any) -> Any:
        """Return X as a validated array of float64 or float32, or the rows of a large file."""
        return checked_rows(self, X, **options)

    def _center_and_scale(
        self, X: Array, indices: Array, reducer: Reducer, weights: Array | None
    ) -> tuple[Array, Any]:
        """Compute `mean_` and `scale_` from the samples of X with these indices and weights."""
        return center_and_scale(X, indices, False, reducer, weights)

    def _build(self, data: TrainingData) -> None:
        """Create a new net with initial parameters."""
        self.net_ = VAENet(
            self._module_factory(data.train.dtype),
            **self._training_options(),
            seed=data.seed,
            precision=data.products,
            lr=float(self.learning_rate),
            device=str(data.device),
            verbose=0,
        ).initialize()
        self._set_start(data)
        data.reducer.share(self.module_)
        self.n_components_ = int(self.n_components)
        self._networks_of_fit = network_parameters(self)

    def _train(self, data: TrainingData) -> tuple[FloatingPointError | None, bool]:
        """Train the net; return the error if training diverged, and whether it was completed."""
        net, keeper = self.net_, None
        n_epochs: int = self.max_epochs
        if data.checkpoint is not None:
            units = self.mean_, self.scale_
            keeper = Keeper(data.checkpoint, net, n_epochs, units, reducer=data.reducer)
            n_epochs = keeper.epochs_left
        bar = None
        if self.verbose and data.reducer.rank == 0:
            bar = Progress(self.max_epochs, self.max_epochs - n_epochs)
        self._set_up_net(data, bar)
        if keeper is not None and not n_epochs:
            keeper.restore(net)
            net.train_split = None
            return None, False
        diverged = None
        try:
            with data.reducer.interrupts_as_errors():
                net.partial_fit(
                    data.train,
                    epochs=n_epochs,
                    keeper=keeper,
                    reducer=data.reducer,
                    weights=data.weights,
                    valid_weights=data.valid_weights,
                )
        except FloatingPointError as error:
            diverged = error
        except KeyboardInterrupt:  # skorch catches interrupts within epochs, not after the last
            pass
        finally:
            if bar is not None:
                bar.on_train_end(net)
            net.train_split = None  # releases the validation samples
            net.verbose = 0
        net.drop_unfinished_epoch()
        if not (diverged or net.complete_):
            warn_user(
                f"Training was interrupted after {len(net.history)} epochs. "
                f"{type(self).__name__} keeps the parameters reached so far.",
            )
        return diverged, net.complete_

    def _set_up_net(
        self, data: TrainingData, bar: Progress | None, further: Sequence[Any] = ()
    ) -> None:
        """Set the parameters and callbacks of the net for this training."""
        net, valid = self.net_, data.valid
        callbacks = [*callbacks_of_fit(self.callbacks), *self._training_callbacks(), *further]
        if self._starts_linear and not further:
            callbacks.append(AveragedParameters(RATE_OF_AVERAGE))
        if valid is not None:
            callbacks.append(StopEarly(self._n_warmup_epochs(), self.n_iter_no_change, self.tol))
        net.callbacks = callbacks if bar is None else [*callbacks, bar]
        for name, value in self._training_options().items():
            setattr(net, name, value)
        self._set_observed_share()
        net.initialize_callbacks()
        net.verbose = int(bool(self.callbacks))  # controls the printing of skorch's callbacks
        net.train_split = None if valid is None else predefined_split(Dataset(valid, valid))
        net.set_params(
            max_epochs=int(self.max_epochs),
            batch_size=min(int(self.batch_size), len(data.train)),
            lr=float(self.learning_rate),
        )

    def _evaluate(self, data: TrainingData) -> FloatingPointError | None:
        """Set the history and diagnostics; return the error if the last step diverged."""
        error, interrupted = None, False
        while True:
            try:
                self.history_ = history_arrays(self.net_)
                self.n_iter_ = len(self.net_.history)
                with evaluating(self.net_), data.reducer.interrupts_as_errors():
                    self._set_diagnostics(data)
                return error
            except KeyboardInterrupt:
                if interrupted:  # give up at the second interrupt
                    raise
                interrupted = True
            except FloatingPointError:
                if not self.net_.last_states_:
                    raise
                error = self.net_.undo_divergence()

    def _map_samples(self, X: Any, function: Callable[[Any, Tensor], Tensor]) -> Array:
        """Apply a function of the module and of samples in the units of the networks, in blocks."""
        check_is_fitted(self)
        return self._map_array(self._check_samples(X, reset=False), function)

    def _map_array(self, X: Array, function: Callable[[Any, Tensor], Tensor]) -> Array:
        """Apply a function, as `_map_samples` does, to validated samples."""
        module = self._module_for(X)

        def evaluate(block: slice) -> Tensor:
            return function(module, self._as_tensor((X[block] - self.mean_) / self.scale_))

        return evaluate_blocks(self.net_, self._blocks(len(X), module), evaluate, "X")

    def _module_for(self, X: Array) -> Any:
        """Return a module that accepts these samples."""
        return self.module_

    def _map_latents(self, Z: Any, function: Callable[[Tensor], Tensor]) -> Array:
        """Apply a function to latent coordinates, block by block."""
        check_is_fitted(self)
        Z = check_latents(self, Z, self.n_components_)
        blocks = self._blocks(len(Z))
        return evaluate_blocks(self.net_, blocks, lambda b: function(self._as_tensor(Z[b])), "Z")

    def _block_size(self, n_draws: int = 1, module: Any = None) -> int:
        """Return the number of samples per block if each has `n_draws` draws of z."""
        k = self.n_components_
        # For missing values the posterior of each sample has a k x k matrix.
        is_incomplete = getattr(module or self.module_, "is_incomplete", False)
        return block_size(max(self.n_features_in_, n_draws * k, k * k * is_incomplete))

    def _blocks(self, n_samples: int, module: Any = None) -> Iterator[slice]:
        step = self._block_size(getattr(self.module_, "n_fixed_draws", 1), module)
        return (slice(start, start + step) for start in range(0, n_samples, step))

    def _as_tensor(self, array: Any) -> Tensor:
        device, dtype = device_and_dtype(self.module_)
        array = np.require(array, requirements=("C", "W"))  # torch reads no other memory
        return torch.as_tensor(array, dtype=dtype, device=device)

    def _in_data_units(self, mean: Tensor) -> Tensor:
        return mean * self._as_tensor(self.scale_) + self._as_tensor(self.mean_)

    @property
    def _sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, `image_shape` or (n_features,)."""
        if self.image_shape is None:
            return (self.n_features_in_,)
        return tuple(int(size) for size in self.image_shape)

    def _hidden_layer_sizes(self) -> tuple[int, ...]:
        return checked_layer_sizes(self.hidden_layer_sizes)
