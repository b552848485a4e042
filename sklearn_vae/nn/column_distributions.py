"""Distributions of columns of tables, in their own units. Results are sums over the last axis, in nats.

All have `mean`, `variance`, `log_prob(x)`, `entropy()` and `sample(random_state)`. The parameters have the
shape (..., n_samples, n_features). With a mask `observed`, of shape (n_samples, n_features), `log_prob`
and `entropy` leave out the values that are not observed, which may be NaN in x.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sklearn_vae.nn.distributions import LOG_2PI, keep_observed
from sklearn_vae.nn.interpolation import interpolate_columns

# Nodes exp(s) of the integrals over t > 0 in the entropies of counts. The integrands are analytic for
# |Im s| < pi / 2, so that the error of the trapezoidal rule is about exp(-pi^2 / 0.4) = 2e-11.
LOG_NODES = (-36.0, 4.0, 0.4)

# Minimum of the count r of negative binomials, whose density is not bounded at 0.
LEAST_COUNT = 1e-3


class ColumnDistribution(ABC):
    """Base class of independent distributions of features.

    Subclasses define the terms of single features, for x without NaN.
    """

    observed: Tensor | None

    # A value in the support, in place of missing ones.
    supported: ClassVar[float] = 0.0

    def restricted_to(self: Any, observed: Tensor) -> Any:
        """Return the distribution of the observed features."""
        return replace(self, observed=observed)

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Mean of each feature."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of each feature."""

    @abstractmethod
    def log_prob_terms(self, x: Tensor) -> Tensor:
        """Compute log p(x_j) of each feature, without the sum."""

    @abstractmethod
    def entropy_terms(self) -> Tensor:
        """Compute the entropy of each feature, without the sum."""

    @abstractmethod
    def sample(self, random_state: np.random.RandomState) -> Tensor:
        """Draw one x for each element of the parameters."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x)."""
        if self.observed is None:
            return self.log_prob_terms(x).sum(-1)
        x = torch.where(self.observed, x, self.supported)
        return keep_observed(self.log_prob_terms(x), self.observed).sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        return keep_observed(self.entropy_terms(), self.observed).sum(-1)


@dataclass(frozen=True, eq=False)
class Normal(ColumnDistribution):
    """N(mean, exp(log_variance))."""

    location: Tensor
    log_variance: Tensor
    observed: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.location

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp().expand(self.location.shape)

    def log_prob_terms(self, x: Tensor) -> Tensor:
        squares = (x - self.location).square() * torch.exp(-self.log_variance)
        return -0.5 * (squares + self.log_variance + LOG_2PI)

    def entropy_terms(self) -> Tensor:
        return 0.5 * (self.log_variance.expand(self.location.shape) + (LOG_2PI + 1.0))

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        mean, variance = _on_host(self.location, self.variance)
        return _like(self.location, random_state.normal(mean, np.sqrt(variance)))


@dataclass(frozen=True, eq=False)
class LogNormal(ColumnDistribution):
    """Positive x with log x ~ N(location, exp(log_variance))."""

    location: Tensor
    log_variance: Tensor
    observed: Tensor | None = None

    supported = 1.0

    @property
    def logarithm(self) -> Normal:
        """Distribution of log x."""
        return Normal(self.location, self.log_variance)

    @property
    def mean(self) -> Tensor:
        return torch.exp(self.location + 0.5 * self.log_variance.exp())

    @property
    def variance(self) -> Tensor:
        return torch.expm1(self.log_variance.exp()) * self.mean.square()

    def log_prob_terms(self, x: Tensor) -> Tensor:
        log_x = torch.log(x)
        return self.logarithm.log_prob_terms(log_x) - log_x

    def entropy_terms(self) -> Tensor:
        return self.logarithm.entropy_terms() + self.location

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        return torch.exp(self.logarithm.sample(random_state))


@dataclass(frozen=True, eq=False)
class StudentT(ColumnDistribution):
    """Student's t distribution with more than 2 degrees of freedom."""

    location: Tensor
    log_scale: Tensor
    freedom: Tensor
    observed: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.location

    @property
    def variance(self) -> Tensor:
        factor = self.freedom / (self.freedom - 2.0)
        return (torch.exp(2.0 * self.log_scale) * factor).expand(self.location.shape)

    def log_prob_terms(self, x: Tensor) -> Tensor:
        nu = self.freedom
        squares = ((x - self.location) * torch.exp(-self.log_scale)).square()
        kernel = 0.5 * (nu + 1.0) * torch.log1p(squares / nu)
        return self._log_normalizer - kernel - self.log_scale

    @property
    def _log_normalizer(self) -> Tensor:
        nu = self.freedom
        gammas = torch.lgamma(0.5 * (nu + 1.0)) - torch.lgamma(0.5 * nu)
        return gammas - 0.5 * torch.log(nu * math.pi)

    def entropy_terms(self) -> Tensor:
        nu = self.freedom
        digammas = torch.digamma(0.5 * (nu + 1.0)) - torch.digamma(0.5 * nu)
        terms = 0.5 * (nu + 1.0) * digammas - self._log_normalizer + self.log_scale
        return terms.expand(self.location.shape)

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        (freedom,) = _on_host(self.freedom.expand(self.location.shape))
        noise = _like(self.location, random_state.standard_t(freedom))
        return self.location + torch.exp(self.log_scale) * noise


@dataclass(frozen=True, eq=False)
class Poisson(ColumnDistribution):
    """Poisson counts with rate exp(log_rate)."""

    log_rate: Tensor
    observed: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        return self.log_rate.exp()

    def log_prob_terms(self, x: Tensor) -> Tensor:
        # In float64, because large terms cancel.
        counts, log_rate = x.double(), self.log_rate.double()
        terms = counts * log_rate - log_rate.exp() - torch.lgamma(counts + 1.0)
        return terms.to(self.log_rate.dtype)

    def entropy_terms(self) -> Tensor:
        rate = self.log_rate.double().exp()
        # E log x! by Malmsten's integral over t > 0, with u = 1 - exp(-t):
        # exp(-t) / t (E x + (E exp(-x t) - 1) / u).
        log_factorial = torch.zeros_like(rate)
        for t, step in _nodes():
            u = -math.expm1(-t)
            log_factorial.add_(rate + torch.expm1(-rate * u) / u, alpha=step * math.exp(-t))
        return (rate * (1.0 - self.log_rate) + log_factorial).to(self.log_rate.dtype)

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        return _like(self.log_rate, random_state.poisson(*_on_host(self.mean)))


@dataclass(frozen=True, eq=False)
class NegativeBinomial(ColumnDistribution):
    """Counts with mean mu = exp(log_mean) and variance mu + mu^2 / r, where r = exp(log_count)."""

    log_mean: Tensor
    log_count: Tensor
    observed: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean + torch.exp(2.0 * self.log_mean - self.log_count)

    def log_prob_terms(self, x: Tensor) -> Tensor:
        # In float64, because large terms cancel.
        counts, log_mean, log_count = x.double(), self.log_mean.double(), self.log_count.double()
        r, odds = log_count.exp(), log_mean - log_count
        terms = torch.lgamma(counts + r) - torch.lgamma(r) - torch.lgamma(counts + 1.0)
        # log(r / (r + mu)), which is log(mu / (r + mu)) minus the log-odds
        below = -softplus(odds)
        terms = terms + (counts + r) * below + counts * odds
        return terms.to(self.log_mean.dtype)

    def entropy_terms(self) -> Tensor:
        # The singularities are at mu = -r, where the imaginary part of log mu is pi.
        terms = interpolate_columns(self._entropies, self.log_mean.double(), math.pi)
        return terms.to(self.log_mean.dtype)

    def _entropies(self, log_mean: Tensor) -> Tensor:
        """Compute the entropies of counts with other means."""
        log_count = self.log_count.double()
        mu, r, odds = log_mean.exp(), log_count.exp(), log_mean - log_count
        ratio = odds.exp()
        # E log x! + log Gamma(r) - E log Gamma(x + r) by Malmsten's integrals, in one: its error is in
        # units of the mean and not of log Gamma(r).
        total = torch.zeros_like(odds)
        for t, step in _nodes(float(r.detach().min())):
            u, end = -math.expm1(-t), math.exp(-t)
            power = (1.0 - r) * t
            change = end * torch.expm1(power) if t < 1.0 else torch.exp(power - t) - end
            moment = torch.log1p(u * ratio).mul_(-r).expm1_()  # E exp(-x t) - 1
            total.addcmul_(moment, change, value=-step / u)
        return total - r * functional.logsigmoid(-odds) - mu * functional.logsigmoid(odds)

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        mean, r = _on_host(self.mean, self.log_count.exp().expand(self.log_mean.shape))
        return _like(self.log_mean, random_state.poisson(random_state.standard_gamma(r) * mean / r))


class Codes(ColumnDistribution):
    """Base class of distributions of codes 0, 1, ..., whose mean and variance are those of the codes.

    Features may have different numbers of categories: the others have the probability 0.
    """

    @property
    @abstractmethod
    def log_probabilities(self) -> Tensor:
        """Log-probabilities, of shape (..., n_features, n_categories)."""

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the categories, of shape (..., n_features, n_categories)."""
        return self.log_probabilities.exp()

    @property
    def mode(self) -> Tensor:
        """Most probable code."""
        return self.log_probabilities.argmax(-1)

    @property
    def mean(self) -> Tensor:
        p = self.probabilities
        return p @ self._codes(p)

    @property
    def variance(self) -> Tensor:
        p = self.probabilities
        codes = self._codes(p)
        return (p * (codes - (p @ codes)[..., None]).square()).sum(-1)

    def log_prob_terms(self, x: Tensor) -> Tensor:
        logs = self.log_probabilities
        index = x.long().expand(logs.shape[:-1])
        return logs.gather(-1, index[..., None])[..., 0]

    def entropy_terms(self) -> Tensor:
        return torch.special.entr(self.probabilities).sum(-1)

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        (p,) = _on_host(self.probabilities)
        uniform = random_state.uniform(size=(*p.shape[:-1], 1))
        codes = (p.cumsum(axis=-1)[..., :-1] <= uniform).sum(axis=-1)
        return _like(self.log_probabilities, codes)

    @staticmethod
    def _codes(p: Tensor) -> Tensor:
        return torch.arange(p.shape[-1], dtype=p.dtype, device=p.device)


@dataclass(frozen=True, eq=False)
class Categorical(Codes):
    """Categories with logits of shape (..., n_features, n_categories)."""

    logits: Tensor
    observed: Tensor | None = None

    @cached_property
    def log_probabilities(self) -> Tensor:
        return torch.log_softmax(self.logits, dim=-1)


@dataclass(frozen=True, eq=False)
class Bernoulli(Codes):
    """Codes 0 and 1 with logits of 1, of shape (..., n_features)."""

    logits: Tensor
    observed: Tensor | None = None

    @property
    def log_probabilities(self) -> Tensor:
        return -softplus(torch.stack([self.logits, -self.logits], dim=-1))

    @property
    def probabilities(self) -> Tensor:
        return torch.sigmoid(torch.stack([-self.logits, self.logits], dim=-1))

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).long()

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        return torch.sigmoid(self.logits) * torch.sigmoid(-self.logits)

    def log_prob_terms(self, x: Tensor) -> Tensor:
        return -softplus(torch.where(x > 0, -self.logits, self.logits))


@dataclass(frozen=True, eq=False)
class Ordinal(Codes):
    """Ordered categories with p(x <= c) = sigmoid(threshold_c - score).

    The thresholds, of shape (n_features, n_categories - 1), increase, and are large after the last
    category of a feature. The scores have the shape (..., n_features).
    """

    score: Tensor
    thresholds: Tensor
    observed: Tensor | None = None

    @cached_property
    def log_probabilities(self) -> Tensor:
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), with a = inf for the last
        # category and b = -inf for the first.
        away = self.thresholds - self.score[..., None]
        below, above = functional.logsigmoid(away), functional.logsigmoid(-away)
        inside = torch.log(-torch.expm1(-self.thresholds.diff(dim=-1)))
        edge = torch.zeros_like(self.score)[..., None]
        inside = inside.expand(*self.score.shape, -1)
        return (
            torch.cat([below, edge], dim=-1)
            + torch.cat([edge, above], dim=-1)
            + torch.cat([edge, inside, edge], dim=-1)
        )


class MixedDistribution:
    """Distribution of a table whose columns are blocks with distributions of several kinds."""

    def __init__(self, parts: Sequence[Any], columns: Sequence[Tensor]) -> None:
        self.parts = parts
        self.columns = columns

    def log_prob_blocks(self, x: Tensor) -> Tensor:
        """Compute log p(x) of each block, of shape (..., n_blocks)."""
        pairs = zip(self.parts, self.columns, strict=True)
        return torch.stack([p.log_prob(x[..., c]) for p, c in pairs], dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x)."""
        return self.log_prob_blocks(x).sum(-1)

    def log_prob_columns(self, x: Tensor) -> Tensor:
        """Compute log p(x_j) of each column, 0 where x is missing (NaN)."""
        terms = []
        for p, columns in zip(self.parts, self.columns, strict=True):
            own = x[..., columns]
            missing = own.isnan()
            values = p.log_prob_terms(torch.where(missing, p.supported, own))
            terms.append(torch.where(missing, 0.0, values))
        return self._joined(terms)

    @property
    def point(self) -> Tensor:
        """Most probable code of each column of categories, and mean of each other one."""
        return self._joined([p.mode if isinstance(p, Codes) else p.mean for p in self.parts])

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        return torch.stack([p.entropy() for p in self.parts]).sum(0)

    @property
    def mean(self) -> Tensor:
        """Mean of each column."""
        return self._joined([p.mean for p in self.parts])

    @property
    def variance(self) -> Tensor:
        """Variance of each column."""
        return self._joined([p.variance for p in self.parts])

    def sample(self, random_state: np.random.RandomState) -> Tensor:
        """Draw one x for each element of the parameters."""
        return self._joined([p.sample(random_state) for p in self.parts])

    def restricted_to(self, observed: Tensor) -> "MixedDistribution":
        """Return the distribution of the observed features."""
        pairs = zip(self.parts, self.columns, strict=True)
        parts = [p.restricted_to(observed[:, c]) for p, c in pairs]
        return MixedDistribution(parts, self.columns)

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        order = torch.argsort(torch.cat(list(self.columns)))
        return torch.cat(list(values), dim=-1)[..., order]


def _nodes(least: float = 1.0) -> Iterator[tuple[float, float]]:
    """Yield nodes t and weights of integrals of exp(-least t) f(t) over t > 0."""
    low, high, step = LOG_NODES
    high += math.log(max(1.0, 1.0 / max(least, LEAST_COUNT)))
    for i in range(round((high - low) / step)):
        t = math.exp(low + step * i)
        yield t, step


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)) without the limit of 20, above which torch returns x."""
    return functional.softplus(x, threshold=40.0)


def _on_host(*values: Tensor) -> list[np.ndarray]:
    return [value.detach().cpu().double().numpy() for value in values]


def _like(parameters: Tensor, values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=parameters.dtype, device=parameters.device)
