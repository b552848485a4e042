"""The training objective of each sample, with the same draws in every call."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.nn.distributions import LOG_2PI, weighted_sum
from sklearn_vae.training.stored_samples import StoredSamples

Array = NDArray[Any]

# Approximate number of draws of z over all samples, limits per sample, and approximate limit of the
# number of decoder outputs.
TOTAL_DRAWS = 4096
DRAWS_PER_SAMPLE = (2, 32)
TOTAL_NUMBERS = 2**19

# Approximate number of entries of the decoder outputs that are evaluated at once.
NUMBERS_PER_PART = 2**21


class ObjectiveTerms(NamedTuple):
    """The objective of each sample, and squared residuals relative to the noise variance.

    The latter are averages over the features, and 1 if there is no noise variance to learn.
    """

    values: Array
    squares: Array
    n_noisy: (
        Any  # number of (observed) features with such a noise variance, a number or one per sample
    )

    def with_noise(self, factor: Any) -> Array:
        """Compute the objective with the noise variances multiplied by a factor."""
        change = np.log(factor) + self.squares * (1.0 / factor - 1.0)
        return self.values - 0.5 * self.n_noisy * change


@torch.no_grad()
def objective_terms(net: Any, x: Tensor | StoredSamples, seed: int = 0) -> ObjectiveTerms:
    """Compute the objective of each sample with the same draws in every call, in pairs."""
    least, most = DRAWS_PER_SAMPLE
    k = net.noise_shape[1]
    most = min(most, TOTAL_NUMBERS // x.numel())
    pairs = max(min(TOTAL_DRAWS // len(x), most), least) // 2 if k else 1
    generator = torch.Generator(x.device).manual_seed(seed)
    training = net.module_.training
    if training:
        net.module_.eval()
    # One array for all samples, see `evaluate_blocks`.
    terms = torch.empty((2, len(x)), dtype=x.dtype, device=x.device)
    step = max(1, NUMBERS_PER_PART // (2 * pairs * x.shape[1]))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        shape = (pairs, len(part), k)
        noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        draws = torch.cat([noise, -noise])
        objective = net.objective(net.module_, part, draws, 1.0, **net.options)[:2]
        terms[:, start : start + step] = torch.stack(objective)
    if training:
        net.module_.train()
    values, reconstruction = terms.cpu().double().numpy()
    if not learns_noise(net.module_):
        return ObjectiveTerms(values, np.ones_like(values), 0)
    d, likelihood = x.shape[1], net.module_.likelihood
    log_variances = likelihood.log_variance.double().expand(d)
    noisy = (~likelihood.held).expand(d)
    n_observed: Any = d
    if not net.module_.is_incomplete:
        log_variance: Any = log_variances.sum().item()
        n_noisy: Any = int(noisy.sum())
    else:
        assert isinstance(x, Tensor)  # files with missing values are read into memory
        seen = (~x.isnan()).double()
        log_variance, n_observed = (
            (seen @ t).cpu().numpy() for t in (log_variances, torch.ones_like(log_variances))
        )
        n_noisy = (seen @ noisy.double()).clamp(min=1.0).cpu().numpy()
    # Features whose noise variance is held are constant and have no residuals.
    squares = (-2.0 * reconstruction - log_variance - n_observed * LOG_2PI) / n_noisy
    return ObjectiveTerms(values, squares, n_noisy)


def enlarge_noise(
    net: Any, x: Tensor | StoredSamples, weights: Tensor | None, factor: float, least: float
) -> None:
    """Multiply the noise variance by a factor, or less to keep the mean objective above a limit."""
    terms = objective_terms(net, x)
    w = None if weights is None else weights.cpu().numpy()

    def excess(c: float) -> float:
        return float(np.average(terms.with_noise(c), weights=w)) - least

    if excess(factor) < 0:
        optimum = min(max(1.0, float(np.average(terms.squares, weights=w))), factor)
        factor = brentq(excess, optimum, factor) if excess(optimum) > 0 else 1.0
    likelihood = net.module_.likelihood
    with torch.no_grad():
        likelihood.log_variance.add_(~likelihood.held * math.log(factor))


def learns_noise(module: Any) -> bool:
    """Return whether a module learns a noise variance that does not depend on z."""
    likelihood: Any = getattr(module, "likelihood", None)
    if not (getattr(likelihood, "has_noise_variance", False) and likelihood.update):
        return False
    return not bool(likelihood.held.all())


def mean_objective(net: Any, x: Tensor | StoredSamples, weights: Tensor | None) -> float:
    """Average the objective over samples whose weights, if any, average to 1."""
    terms = objective_terms(net, x).values
    return float((terms if weights is None else terms * weights.cpu().numpy()).mean())


@torch.no_grad()
def entries_of_start(net: Any, data: TrainingData) -> dict[str, Any]:
    """Return the history entries of a net that was not trained, averaged over the samples."""
    module, x, weights = net.module_, data.train, data.weights
    net.monitor.begin()
    k = net.noise_shape[1]
    axes = math.sqrt(k) * torch.eye(max(k, 1), k, dtype=x.dtype, device=x.device)[:, None]
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
