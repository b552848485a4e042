"""Choice of the number of epochs of the automatic training, by validation samples.

Networks that start at the linear model are trained on folds of the samples. The best number of
epochs is that of the highest bound of the validation samples, on average over the folds. It is 0,
the linear model itself, unless the gain over the linear model exceeds its standard error and does
not depend on a few samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_vae.deep.choices import count_folds
from sklearn_vae.deep.objective_terms import ObjectiveTerms, learns_noise, objective_terms
from sklearn_vae.deep.training_data import TrainingData, most_held_out, prepare
from sklearn_vae.gaussian.arrays import positive_weights
from sklearn_vae.stored_rows import rows_of
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.scaling import standardize
from sklearn_vae.validation import has_nan

Array = NDArray[Any]

# Weight of an epoch in the moving average of the parameters.
RATE_OF_AVERAGE = 0.1

# The search ends if the first epoch with this share of the highest gain is older than both of these:
# a number of epochs, and a multiple of that epoch.
GAIN_SHARE = 0.99
PATIENCE = 30
PATIENCE_SHARE = 0.5

# A gain is accepted if its mean and its trimmed mean, without this fraction of the samples at each
# end, exceed their standard errors, and the trimmed mean this share of the mean. A gain that depends
# on a few outliers is often lost on others: if the trimmed mean is less than `LARGE_SHARE` of the
# mean, it must exceed this multiple of its standard error.
TRIMMED = 0.05
TRIMMED_SHARE = 0.25
LARGE_SHARE = 0.5
EVIDENT = 3.0

# The noise variance is enlarged if this gains more than this multiple of its standard error.
SIGNIFICANT = 2.0

# If the final fit continues that of a fold, the share of the epochs of the fold that it adds, and their
# minimum.
CONTINUED_SHARE = 0.2
CONTINUED_EPOCHS = 8

# Minimum number of samples for networks; below it the linear model is kept without a search.
LEAST_SAMPLES = 20


class Gain(NamedTuple):
    """Gain of a candidate over the start, averaged over validation samples."""

    mean: float
    error: float  # standard error
    trimmed: float  # mean without the samples that gain most and least
    trimmed_error: float

    @property
    def is_sure(self) -> bool:
        """Whether the gain is not chance and does not depend on a few samples."""
        is_large = self.trimmed > LARGE_SHARE * self.mean
        errors = (1.0 if is_large else EVIDENT) * self.trimmed_error
        return self.mean > self.error and self.trimmed > max(errors, TRIMMED_SHARE * self.mean)


class FoldState(NamedTuple):
    """Parameters of a fold after the best number of epochs, and the units of its networks.

    The state of the optimizer is the last one, whose averages change slowly.
    """

    parameters: dict[str, Tensor]
    mean: Array
    scale: Array
    optimizer: dict[str, Any]


@dataclass(frozen=True, eq=False)
class EpochSearch:
    """Result of a search: bounds of validation samples after `epochs`, of which 0 is the start.

    The bounds are averages over the samples, in the units of the data. After training they are
    those with the noise variance multiplied by `noise_factor`.
    """

    epochs: Array
    bounds: Array
    max_epochs: int  # limit of the search
    best: int  # index of the highest bound
    gain: Gain
    noise_factor: float = 1.0
    # State at which the final fit starts, if it continues a fold.
    continued: FoldState | None = None

    @property
    def n_final_epochs(self) -> int:
        """Number of epochs of the final fit."""
        if self.continued is None:
            return self.n_epochs
        return max(CONTINUED_EPOCHS, round(CONTINUED_SHARE * self.n_epochs))

    @property
    def n_epochs(self) -> int:
        """Number of epochs to train, 0 if the gain over the start may be chance."""
        return int(self.epochs[self.best]) if self.gain.is_sure else 0


class AveragedParameters(Callback):
    """Callback that averages parameters over epochs, with exponentially decreasing weights.

    The average has less noise than the parameters, as if the learning rate had been decreased. At
    the end of training it replaces them.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start at the initial parameters."""
        state = net.module_.state_dict()
        if not hasattr(self, "average_"):
            self.average_ = {name: tensor.clone() for name, tensor in state.items()}
        # Limits of the noise variance may be infinite.
        self.tensors = {
            name: tensor
            for name, tensor in state.items()
            if tensor.is_floating_point() and tensor.isfinite().all()
        }

    @torch.no_grad()
    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Add the parameters of this epoch."""
        averages = [self.average_[name] for name in self.tensors]
        torch._foreach_lerp_(averages, list(self.tensors.values()), self.rate)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Replace the parameters by their average."""
        net.module_.load_state_dict(self.average_)
        net.module_.after_step()


class ValidatedAverage(AveragedParameters):
    """Callback that records the objective of each validation sample under the average."""

    def __init__(self, rate: float, valid: Tensor, weights: Tensor | None, seed: int) -> None:
        super().__init__(rate)
        self.valid = valid
        self.seed = seed
        self.terms: list[ObjectiveTerms] = []

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Evaluate the average, and keep the parameters, because training may continue."""
        with self._averaged(net):
            self.evaluate(net)

    def evaluate(self, net: Any) -> None:
        """Add the terms of the validation samples under the parameters of a net."""
        self.terms.append(objective_terms(net, self.valid, self.seed))

    @contextmanager
    def _averaged(self, net: Any) -> Iterator[None]:
        own = list(self.tensors.values())
        before = [tensor.clone() for tensor in own]
        torch._foreach_copy_(own, [self.average_[name] for name in self.tensors])
        net.module_.after_step()
        try:
            yield
        finally:
            torch._foreach_copy_(own, before)


class BoundMonitor:
    """Monitor of the objective alone, which is all that the rule of the learning rate needs."""

    names = ("bound",)

    def __init__(self, in_data_units: Callable[[Any], Any]) -> None:
        self.in_data_units = in_data_units

    def begin(self) -> None:
        """Begin an epoch."""

    def update(self, module: Any, h: Tensor, weights: Tensor | None = None) -> None:
        """Ignore the outputs of the encoder."""

    def record(
        self, module: Any, n: float, reconstruction: float, kl: float, reducer: Reducer
    ) -> dict[str, Any]:
        """Return the entry of the history."""
        return {"bound": self.in_data_units(reconstruction - kl)}


class Fold:
    """A model that is trained on all samples except those of a validation set."""

    def __init__(
        self, model: Any, X: Array, weights: Array | None, held_out: Array, seed: int
    ) -> None:
        self.model = copy.copy(model)
        vars(self.model).update(callbacks=None, checkpoint=None, verbose=0, random_state=seed)
        self.model._automatic = True
        kept = np.setdiff1d(np.arange(len(X)), held_out)
        w = None if weights is None else weights[kept]
        rows, incomplete = rows_of(X, kept), has_nan(X)
        self.data: TrainingData = prepare(self.model, rows, w, False, SINGLE_PROCESS, incomplete)
        self.model._build(self.data)
        net, units = self.model.net_, (self.model.mean_, self.model.scale_)
        device, dtype = self.data.device, self.data.train.dtype
        valid = standardize(X, held_out, *units, device, dtype)
        if learns_noise(net.module_):  # features that are constant in the fold tell nothing
            valid *= ~net.module_.likelihood.held
        self.validated = ValidatedAverage(RATE_OF_AVERAGE, valid, None, seed)
        self.model._set_up_net(self.data, None, [self.validated])
        self.validated.evaluate(net)
        self.held_out = held_out
        self.can_continue = self.model._can_continue(X, held_out)
        self.states: list[dict[str, Tensor]] = []  # after each call of `train`, if they can be used
        self.in_data_units = partial(net.monitor.in_data_units, x=valid)
        net.monitor = BoundMonitor(net.monitor.in_data_units)
        self.prepared = net.prepared(self.data.train) if w is None else None

    def train(self, n_epochs: int) -> bool:
        """Train for some epochs; return whether all results are finite."""
        net, data = self.model.net_, self.data
        try:
            net.partial_fit(
                data.train, epochs=n_epochs, weights=data.weights, prepared=self.prepared
            )
        except FloatingPointError:
            return False
        if not net.complete_:
            raise KeyboardInterrupt
        net.last_states_ = []
        if self.can_continue:
            average = self.validated.average_
            self.states.append({name: tensor.clone() for name, tensor in average.items()})
        return bool(np.isfinite(self.validated.terms[-1].values).all())

    def state_at(self, index: int) -> FoldState:
        """Return the averaged parameters at one of the evaluations after the start, and the units."""
        optimizer = self.model.net_.optimizer_.state_dict()
        return FoldState(self.states[index - 1], self.model.mean_, self.model.scale_, optimizer)

    def terms_at(self, epoch: int) -> ObjectiveTerms:
        """Return the terms of the validation samples, in the units of the data."""
        values, squares, n_noisy = self.validated.terms[epoch]
        return ObjectiveTerms(self.in_data_units(values), squares, n_noisy)


def search_epochs(model: Any, X: Array, weights: Array | None, seed: int) -> EpochSearch:
    """Find the number of epochs by which a model gains most on validation samples."""
    if weights is not None:
        positive, _ = positive_weights(weights, at_least=2)
        X, weights = rows_of(X, positive), weights[positive]
    if len(X) < LEAST_SAMPLES:
        no_gain = Gain(0.0, math.inf, 0.0, math.inf)
        return EpochSearch(np.zeros(1, int), np.full(1, np.nan), 0, 0, no_gain)
    folds = [
        Fold(model, X, weights, held_out, seed + i)
        for i, held_out in enumerate(
            _held_out(len(X), model.validation_fraction, seed, most_held_out(X), model._most_folds)
        )
    ]
    w = None if weights is None else np.concatenate([weights[f.held_out] for f in folds])
    w = np.ones(sum(len(f.held_out) for f in folds)) if w is None else w
    curves, max_epochs = Curves([fold.terms_at(0) for fold in folds], w), int(model.max_epochs)
    while curves.epochs[-1] < min(max_epochs, curves.last_epoch_of_interest):
        step = min(model._epochs_at_once, max_epochs - curves.epochs[-1])
        if not all(fold.train(step) for fold in folds):
            break
        curves.add(curves.epochs[-1] + step, [fold.terms_at(-1) for fold in folds])
    search = curves.result(max_epochs)
    if len(folds) == 1 and search.n_epochs and folds[0].can_continue:
        return replace(search, continued=folds[0].state_at(search.best))
    return search


class Curves:
    """Bounds of validation samples by epoch, without and with an enlarged noise variance.

    The factor of the noise variance is at least 1 and is estimated from the residuals of the other
    folds, if there are any.
    """

    def __init__(self, start: list[ObjectiveTerms], weights: Array) -> None:
        self.weights = weights / weights.sum()
        self.epochs, self.factors = [0], [1.0]
        values = np.concatenate([terms.values for terms in start])
        self.plain, self.enlarged = [values], [values]

    def add(self, epoch: int, folds: list[ObjectiveTerms]) -> None:
        """Add the terms of all folds after an epoch."""
        squares = np.concatenate([terms.squares for terms in folds])
        fold_of = np.repeat(np.arange(len(folds)), [len(terms.squares) for terms in folds])
        enlarged = []
        for i, terms in enumerate(folds):
            others = fold_of != i if len(folds) > 1 else fold_of == i
            enlarged.append(terms.with_noise(self._factor(squares, others)))
        self.epochs.append(epoch)
        self.factors.append(self._factor(squares, fold_of >= 0))
        self.plain.append(np.concatenate([terms.values for terms in folds]))
        self.enlarged.append(np.concatenate(enlarged))

    def _factor(self, squares: Array, chosen: Array) -> float:
        return max(1.0, float(np.average(squares[chosen], weights=self.weights[chosen])))

    @property
    def last_epoch_of_interest(self) -> float:
        """Epoch after which the search ends unless a higher bound is found."""
        last = 0.0
        for values in (self.plain, self.enlarged):
            means = self._means(values)
            gain = means.max() - means[0]
            first = self.epochs[int(np.argmax(means - means[0] >= GAIN_SHARE * gain))]
            last = max(last, first + max(PATIENCE, PATIENCE_SHARE * first))
        return last

    def result(self, max_epochs: int) -> EpochSearch:
        """Return the best number of epochs, with the noise variance that is better for it."""
        plain, enlarged = self._means(self.plain), self._means(self.enlarged)
        best, best_enlarged = int(np.argmax(plain)), int(np.argmax(enlarged))
        more = self._gain(self.enlarged[best_enlarged], self.plain[best])
        epochs = np.array(self.epochs)
        if more.mean > SIGNIFICANT * more.error:
            gain = self._gain(self.enlarged[best_enlarged], self.plain[0])
            factor = self.factors[best_enlarged]
            return EpochSearch(epochs, enlarged, max_epochs, best_enlarged, gain, factor)
        gain = self._gain(self.plain[best], self.plain[0])
        return EpochSearch(epochs, plain, max_epochs, best, gain)

    def _means(self, values: list[Array]) -> Array:
        return np.stack(values) @ self.weights

    def _gain(self, values: Array, start: Array) -> Gain:
        gains, w = values - start, self.weights
        cut = int(TRIMMED * len(gains))
        kept = np.argsort(gains)[cut : len(gains) - cut]
        return Gain(*_mean_and_error(gains, w), *_mean_and_error(gains[kept], w[kept]))


def _mean_and_error(values: Array, weights: Array) -> tuple[float, float]:
    """Return a weighted mean and its standard error."""
    w = weights / weights.sum()
    mean = float(w @ values)
    return mean, math.sqrt(float(w**2 @ (values - mean) ** 2))


def _held_out(n: int, fraction: float, seed: int, most: int, most_folds: int) -> list[Array]:
    """Return the indices of the validation samples of each fold, at most `most`."""
    size = max(1, min(round(fraction * n), most))
    n_folds = count_folds(n, fraction, most_folds)
    order = np.random.RandomState(seed).permutation(n)
    return np.array_split(order[: n_folds * size], n_folds)
