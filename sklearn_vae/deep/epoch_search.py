"""Choice of the number of epochs of the automatic training, by validation samples.

Networks that start at the linear model are trained on folds of the samples. The best number of
epochs is that of the highest bound of the validation samples, on average over the folds. It is 0,
the linear model itself, unless the gain over the linear model exceeds its standard error and does
not depend on a few samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_vae.deep.choices import count_folds
from sklearn_vae.deep.training_data import TrainingData, prepare
from sklearn_vae.gaussian.arrays import positive_weights
from sklearn_vae.nn.distributions import weighted_sum
from sklearn_vae.training.distributed import SINGLE_PROCESS
from sklearn_vae.training.scaling import standardize

Array = NDArray[Any]

# Weight of an epoch in the moving average of the parameters.
RATE_OF_AVERAGE = 0.1

# The search ends if the best epoch is older than both of these: a number of epochs, and a multiple
# of the best epoch.
PATIENCE = 15
PATIENCE_SHARE = 0.5

# Fraction of the samples that are trimmed at each end, and share of the gain that must remain. A gain
# that depends on a few outliers is often lost on others.
TRIMMED = 0.05
TRIMMED_SHARE = 0.5

# Number of epochs that a fold trains before the next fold does.
EPOCHS_AT_ONCE = 5

# Approximate number of draws of z over all validation samples of a fold, and limits per sample.
VALIDATION_DRAWS = 4096
DRAWS_PER_SAMPLE = (2, 32)

# Approximate number of entries of the decoder outputs that are evaluated at once.
NUMBERS_PER_PART = 2**21

# Minimum number of samples for networks; below it the linear model is kept without a search.
LEAST_SAMPLES = 20


@dataclass(frozen=True, eq=False)
class EpochSearch:
    """Result of a search: bounds of validation samples after `epochs`, of which 0 is the start.

    The bounds are averages over the samples, in the units of the data.
    """

    epochs: Array
    bounds: Array
    max_epochs: int  # limit of the search
    best: int  # index of the highest bound
    error: float  # standard error of the gain of the best epoch over the start
    trimmed: float  # mean of the gain without the samples that gain most and least

    @property
    def n_epochs(self) -> int:
        """Number of epochs to train, 0 if the gain over the start may be chance."""
        gain = self.bounds[self.best] - self.bounds[0]
        accepted = gain > self.error and self.trimmed > TRIMMED_SHARE * gain
        return int(self.epochs[self.best]) if accepted else 0


class AveragedParameters(Callback):
    """Callback that averages parameters over epochs, with exponentially decreasing weights.

    The average has less noise than the parameters, as if the learning rate had been decreased. At
    the end of training it replaces them.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start at the initial parameters."""
        if not hasattr(self, "average_"):
            self.average_ = _copied_state(net)

    @torch.no_grad()
    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Add the parameters of this epoch."""
        for name, tensor in net.module_.state_dict().items():
            if tensor.is_floating_point() and bool(torch.isfinite(tensor).all()):
                self.average_[name].lerp_(tensor, self.rate)

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
        self.terms: list[Array] = []

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start at the initial parameters, and evaluate them."""
        super().on_train_begin(net, **kwargs)
        if not self.terms:
            self.terms.append(self._evaluate(net))

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Evaluate the average, and keep the parameters, because training may continue."""
        with self._averaged(net):
            self.terms.append(self._evaluate(net))

    @contextmanager
    def _averaged(self, net: Any) -> Iterator[None]:
        before = _copied_state(net)
        net.module_.load_state_dict(self.average_)
        net.module_.after_step()
        try:
            yield
        finally:
            net.module_.load_state_dict(before)

    def _evaluate(self, net: Any) -> Array:
        return objective_terms(net, self.valid, self.seed)


@torch.no_grad()
def objective_terms(net: Any, x: Tensor, seed: int = 0) -> Array:
    """Compute the objective of each sample with the same draws in every call, in pairs."""
    least, most = DRAWS_PER_SAMPLE
    k = net.noise_shape[1]
    pairs = min(max(VALIDATION_DRAWS // len(x), least), most) // 2 if k else 1
    generator = torch.Generator(x.device).manual_seed(seed)
    training = net.module_.training
    net.module_.eval()
    terms = []
    for part in x.split(max(1, NUMBERS_PER_PART // (2 * pairs * x.shape[1]))):
        shape = (pairs, len(part), k)
        noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        draws = torch.cat([noise, -noise])
        terms.append(net.objective(net.module_, part, draws, 1.0, **net.options)[0])
    net.module_.train(training)
    return torch.cat(terms).cpu().double().numpy()


def mean_objective(net: Any, x: Tensor, weights: Tensor | None) -> float:
    """Average the objective over samples whose weights, if any, average to 1."""
    terms = objective_terms(net, x)
    return float((terms if weights is None else terms * weights.cpu().numpy()).mean())


@torch.no_grad()
def entries_of_start(net: Any, data: TrainingData) -> dict[str, Any]:
    """Return the history entries of a net that was not trained, averaged over the samples."""
    module, x, weights = net.module_, data.train, data.weights
    net.monitor.begin()
    k = net.noise_shape[1]
    axes = math.sqrt(k) * torch.eye(max(k, 1), k)[:, None].to(x)
    draws = torch.cat([axes, -axes])  # with mean 0 and covariance I, exact for linear networks
    totals = np.zeros(2)
    step = max(1, NUMBERS_PER_PART // (len(draws) * x.shape[1]))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        w = None if weights is None else weights[start : start + step]
        noise = draws.expand(-1, len(part), -1)
        terms = net.objective(module, part, noise, 1.0, **net.options)[1:]
        totals += [float(weighted_sum(term, w)) for term in terms]
        net.monitor.update(module, module.encoder(part), *([] if w is None else [w]))
    entries = net.monitor.record(module, len(x), *(totals / len(x)))
    net.monitor.begin()
    return {**entries, "beta": net.beta_, "seconds": 0.0}


def _copied_state(net: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.module_.state_dict().items()}


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
        self.data: TrainingData = prepare(self.model, X[kept], w, False, SINGLE_PROCESS)
        self.model._build(self.data)
        net, units = self.model.net_, (self.model.mean_, self.model.scale_)
        device, dtype = self.data.device, self.data.train.dtype
        valid = standardize(X, held_out, *units, device, dtype)
        self.validated = ValidatedAverage(RATE_OF_AVERAGE, valid, None, seed)
        self.model._set_up_net(self.data, None, [self.validated])
        self.held_out = held_out
        self.in_data_units = net.monitor.in_data_units

    def train(self, n_epochs: int) -> bool:
        """Train for some epochs; return whether all results are finite."""
        net, data = self.model.net_, self.data
        try:
            net.partial_fit(data.train, epochs=n_epochs, weights=data.weights)
        except FloatingPointError:
            return False
        if not net.complete_:
            raise KeyboardInterrupt
        net.last_states_ = []
        return bool(np.isfinite(self.validated.terms[-1]).all())

    @property
    def bounds(self) -> Array:
        """Bounds of the validation samples, (n_epochs + 1, n_valid), in the units of the data."""
        return self.in_data_units(np.stack(self.validated.terms))


def search_epochs(model: Any, X: Array, weights: Array | None, seed: int) -> EpochSearch:
    """Find the number of epochs by which a model gains most on validation samples."""
    if weights is not None:
        positive, _ = positive_weights(weights, at_least=2)
        X, weights = X[positive], weights[positive]
    if len(X) < LEAST_SAMPLES:
        return EpochSearch(np.zeros(1, int), np.full(1, np.nan), 0, 0, math.inf, 0.0)
    folds = [
        Fold(model, X, weights, held_out, seed + i)
        for i, held_out in enumerate(_held_out(len(X), model.validation_fraction, seed))
    ]
    w = None if weights is None else np.concatenate([weights[f.held_out] for f in folds])
    epochs, max_epochs = [0], int(model.max_epochs)
    while True:
        step = min(EPOCHS_AT_ONCE, max_epochs - epochs[-1])
        finite = [fold.train(step) for fold in folds]
        epochs.append(epochs[-1] + step)
        search = _result(epochs, [fold.bounds for fold in folds], w, max_epochs)
        best = search.epochs[search.best]
        patience = max(PATIENCE, PATIENCE_SHARE * best)
        if not all(finite) or epochs[-1] >= min(max_epochs, best + patience):
            return search


def _held_out(n: int, fraction: float, seed: int) -> list[Array]:
    """Return the indices of the validation samples of each fold."""
    size = max(1, round(fraction * n))
    n_folds = count_folds(n, fraction)
    order = np.random.RandomState(seed).permutation(n)
    return np.array_split(order[: n_folds * size], n_folds)


def _result(
    epochs: list[int], bounds: list[Array], weights: Array | None, max_epochs: int
) -> EpochSearch:
    """Average the bounds of all validation samples, and find the best number of epochs."""
    n = min(map(len, bounds))
    terms = np.concatenate([b[:n] for b in bounds], axis=1)
    with np.errstate(invalid="ignore"):
        curve = np.average(terms, axis=1, weights=weights)
    curve = np.where(np.isfinite(curve), curve, -np.inf)
    best = int(np.argmax(curve))
    gains = terms[best] - terms[0]
    w = np.ones(len(gains)) if weights is None else weights
    w = w / w.sum()
    mean = float(w @ gains)
    error = math.sqrt(float(w**2 @ (gains - mean) ** 2))
    kept = np.argsort(gains)[int(TRIMMED * len(gains)) : len(gains) - int(TRIMMED * len(gains))]
    trimmed = float(np.average(gains[kept], weights=w[kept]))
    return EpochSearch(np.array(epochs[:n]), curve, max_epochs, best, error, trimmed)
