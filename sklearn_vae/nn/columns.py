"""Likelihoods of columns of tables, in the units of the data, and of tables with several kinds.

Each decoder output has its unit: at 0 the column has its marginal distribution, and the derivatives of
log p(x_j) in the output have a root mean square of 1 over the training samples, unless they are 0. No
kind of column therefore dominates the gradient at the start in any units of the data, and the objective
stays log p(x).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sklearn_vae.nn.column_distributions import (
    LEAST_COUNT,
    Bernoulli,
    Categorical,
    ColumnDistribution,
    LogNormal,
    MixedDistribution,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
)
from sklearn_vae.nn.column_starts import (
    category_weights,
    is_constant,
    maximize_columns,
    moments,
    quartiles,
    total_of,
)
from sklearn_vae.nn.distributions import keep_observed
from sklearn_vae.nn.likelihoods import NOISE_FLOOR, Array, Likelihood, LikelihoodTerms

# Number of counts added to each category, so that none has probability 0.
PRIOR_COUNT = 0.5

# Limits of the logarithm of a rate, and of log r of negative binomials.
LOG_RATE_LIMITS = (-30.0, 30.0)
LOG_COUNT_LIMITS = (math.log(LEAST_COUNT), math.log(1e6))

# Degrees of freedom of Student's t are 2 plus a number within these limits, at first 3.
FREEDOM_LIMITS = (0.1, 100.0)
FIRST_LOG_FREEDOM = math.log(3.0)

# Distance between thresholds that no score reaches.
UNREACHABLE = 1e4


class ColumnLikelihood(Likelihood):
    """Base class of likelihoods of columns that are independent given z.

    Subclasses define `_start`, `distribution`, and `limits`, those of parameters in place of the
    optimizer. The values of x that are observed must be in the support of the distribution.

    Attributes
    ----------
    offset, unit : Tensor of shape (n_inputs,)
        Decoder outputs h become the parameters offset + unit * h. Units of constants are 0.
    """

    offset: Tensor
    unit: Tensor
    n_categories: tuple[int, ...] = (1,)
    limits: ClassVar[dict[str, tuple[float, float]]] = {}

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("offset", torch.zeros(self.n_inputs))
        self.register_buffer("unit", torch.ones(self.n_inputs))

    @property
    def n_inputs(self) -> int:
        return self.n_features

    @property
    def width(self) -> int:
        """Number of values per sample in the largest array of the distribution."""
        return self.n_features * max(self.n_categories)

    @abstractmethod
    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        """Set all parameters to the marginal distributions of columns; return the offsets.

        x and the weights have the shape (n_samples, n_features), with 0 where x is missing.
        """

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Any:
        """Return p(x|z) for parameters of shape (..., n_inputs)."""

    def forward(self, h: Tensor) -> Any:
        return self.distribution(torch.addcmul(self.offset, self.unit, h))

    def start_at(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Set the units of the decoder outputs, and initialize all parameters, by training samples.

        x has the shape (n_samples, n_features), with NaN for missing values. The weights of samples,
        of shape (n_samples,), should average to 1.
        """
        observed = ~x.isnan()
        values, of_values = torch.where(observed, x, 0.0), observed.to(x.dtype)
        if weights is not None:
            of_values = of_values * weights[:, None].to(x.dtype)
        with torch.no_grad():
            self.offset.copy_(self._start(values, of_values))
            self.unit.fill_(1.0)
            self.after_step()
        h = torch.zeros(len(x), self.n_inputs, dtype=x.dtype, device=x.device, requires_grad=True)
        with torch.enable_grad():
            p = self.forward(h)
            supported = torch.where(observed, x, p.supported)
            terms = keep_observed(p.log_prob_terms(supported), observed)
            gradient = torch.autograd.grad(terms.sum(), h)[0]
        shares = self._of_inputs(of_values / total_of(of_values))
        size = torch.sqrt((shares * gradient.square()).sum(0))
        with torch.no_grad():
            size = torch.maximum(size, 0.5 * self._expected_size())
            self.unit.copy_(torch.where(size > torch.finfo(x.dtype).eps, 1.0 / size, 1.0))
            # z tells nothing about a constant: its distribution does not depend on z.
            self.unit.masked_fill_(self._of_inputs(is_constant(values, of_values)), 0.0)

    def _of_inputs(self, values: Tensor) -> Tensor:
        """Return values per feature, the last axis, as values per decoder output."""
        return values

    def _expected_size(self) -> Tensor:
        """Return sizes of the derivatives at the start that categories without samples would have."""
        return torch.zeros_like(self.offset)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp parameters to their limits."""
        for name, limits in self.limits.items():
            getattr(self, name).clamp_(*limits)


class NormalColumns(ColumnLikelihood):
    """p(x_j|z) = N(mu_j(z), sigma2_j), with the same sigma2 for every z.

    Noise variances are learned relative to the variances of the columns, which are `scale` squared.
    The variance of a constant starts at its lower bound and stays there.
    """

    scale: Tensor
    limits: ClassVar = {"log_variance": (math.log(NOISE_FLOOR), 0.0)}

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_variance = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        mean, std = moments(x, weights)
        self.scale.copy_(std)
        self.log_variance.zero_()
        self.log_variance.masked_fill_(is_constant(x, weights), math.log(NOISE_FLOOR))
        return mean

    @property
    def _log_noise(self) -> Tensor:
        return self.log_variance + 2.0 * self.scale.log()

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        return Normal(parameters, self._log_noise)


class LogNormalColumns(NormalColumns):
    """log x_j given z is N(mu_j(z), sigma2_j), for positive skewed columns."""

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        return super()._start(torch.where(weights > 0, x, 1.0).log(), weights)

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        return LogNormal(parameters, self._log_noise)


class StudentColumns(ColumnLikelihood):
    """Student's t with location mu_j(z), for columns with heavy tails.

    The scale, relative to that of the column, and the degrees of freedom are learned and do not
    depend on z.
    """

    scale: Tensor
    limits: ClassVar = {
        "log_scale": (0.5 * math.log(NOISE_FLOOR), math.log(2.0)),
        "log_freedom": (math.log(FREEDOM_LIMITS[0]), math.log(FREEDOM_LIMITS[1])),
    }

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_scale = nn.Parameter(torch.zeros(n_features))
        self.log_freedom = nn.Parameter(torch.full((n_features,), FIRST_LOG_FREEDOM))
        self.register_buffer("scale", torch.ones(n_features))

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        # Quartiles, because outliers can dominate the variance.
        low, middle, high = quartiles(x, weights)
        spread = 0.7413 * (high - low)  # the standard deviation of a normal
        spread = torch.where(spread > 0, spread, moments(x, weights)[1])
        first = (
            torch.zeros_like(low),
            torch.zeros_like(low),
            self.log_freedom.fill_(FIRST_LOG_FREEDOM),
        )
        limits = (-2.0, 2.0), *self.limits.values()
        standard = torch.where(weights > 0, (x - middle) / spread, 0.0)
        best = maximize_columns(_student_log_prob, standard, weights, torch.stack(first), limits)
        self.scale.copy_(spread)
        self.log_scale.copy_(best[1])
        self.log_freedom.copy_(best[2])
        return middle + spread * best[0]

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        log_scale = self.log_scale + self.scale.log()
        return StudentT(parameters, log_scale, 2.0 + self.log_freedom.exp())


class BernoulliColumns(ColumnLikelihood):
    """p(x_j = 1|z) = sigmoid(a_j(z)) of codes 0 and 1."""

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        n = weights.sum(0)
        return torch.logit(((weights * x).sum(0) + PRIOR_COUNT) / (n + 2.0 * PRIOR_COUNT))

    def _expected_size(self) -> Tensor:
        p = torch.sigmoid(self.offset)
        return torch.sqrt(p * (1.0 - p))

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        return Bernoulli(parameters)


class CategoricalColumns(ColumnLikelihood):
    """Categories 0, 1, ..., with a decoder output for the logit of each.

    Parameters
    ----------
    n_categories : sequence of int
        Number of categories of each column.
    """

    index: Tensor
    padding: Tensor

    def __init__(self, n_categories: Sequence[int]) -> None:
        self.n_categories = tuple(n_categories)
        super().__init__(len(self.n_categories))
        sizes = torch.tensor(self.n_categories)
        codes = torch.arange(int(sizes.max()))
        first = sizes.cumsum(0) - sizes
        valid = codes < sizes[:, None]
        index = torch.where(valid, first[:, None] + codes, 0)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("padding", torch.where(valid, 0.0, -torch.inf), persistent=False)

    @property
    def n_inputs(self) -> int:
        return sum(self.n_categories)

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        return torch.log(torch.cat(category_weights(x, weights, self.n_categories)) + PRIOR_COUNT)

    def _of_inputs(self, values: Tensor) -> Tensor:
        sizes = torch.tensor(self.n_categories, device=values.device)
        return values.repeat_interleave(sizes, dim=-1)

    def _expected_size(self) -> Tensor:
        p = torch.cat([own.softmax(0) for own in self.offset.split(self.n_categories)])
        return torch.sqrt(p * (1.0 - p))

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        return Categorical(parameters[..., self.index] + self.padding)


class OrdinalColumns(ColumnLikelihood):
    """Ordered categories with p(x_j <= c|z) = sigmoid(t_jc - a_j(z)) and learned thresholds t.

    The first threshold and the logarithms of the differences to the next ones are the parameters.

    Parameters
    ----------
    n_categories : sequence of int
        Number of categories of each column, at least 2.
    """

    padding: Tensor
    limits: ClassVar = {"log_steps": (-10.0, 10.0)}

    def __init__(self, n_categories: Sequence[int]) -> None:
        self.n_categories = tuple(n_categories)
        super().__init__(len(self.n_categories))
        sizes, most = torch.tensor(self.n_categories), max(self.n_categories)
        self.first = nn.Parameter(torch.zeros(self.n_features, 1))
        self.log_steps = nn.Parameter(torch.zeros(self.n_features, most - 2))
        beyond = torch.arange(most - 1) - sizes[:, None] + 2
        padding = UNREACHABLE * beyond.clamp(min=0).float()
        self.register_buffer("padding", padding, persistent=False)

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        for j, of_column in enumerate(category_weights(x, weights, self.n_categories)):
            counts = of_column + PRIOR_COUNT
            below = torch.logit((counts.cumsum(0) / counts.sum())[:-1])
            self.first[j] = below[0]
            self.log_steps[j, : len(counts) - 2] = below.diff().log()
        return torch.zeros_like(self.offset)

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        further = self.first + self.log_steps.exp().cumsum(1)
        thresholds = torch.cat([self.first, further], dim=1) + self.padding
        return Ordinal(parameters, thresholds)


class PoissonColumns(ColumnLikelihood):
    """Counts with the rate exp(a_j(z))."""

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        total = (weights * x).sum(0)
        return torch.log(torch.where(total > 0, total, PRIOR_COUNT) / total_of(weights))

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        return Poisson(parameters.clamp(*LOG_RATE_LIMITS))


class NegativeBinomialColumns(PoissonColumns):
    """Counts with the mean mu = exp(a_j(z)) and the variance mu + mu^2 / r_j, with learned r."""

    limits: ClassVar = {"log_count": LOG_COUNT_LIMITS}

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_count = nn.Parameter(torch.zeros(n_features))

    def _start(self, x: Tensor, weights: Tensor) -> Tensor:
        mean, std = moments(x, weights)
        excess = (std.square() - mean).clamp(min=1e-6 * std.square())
        first = (mean.square().clamp(min=1e-12) / excess).log()[None]
        log_mean = super()._start(x, weights)  # the best one for every r

        def log_prob(x: Tensor, log_count: Tensor) -> Tensor:
            return NegativeBinomial(log_mean.double(), log_count[0]).log_prob_terms(x)

        self.log_count.copy_(maximize_columns(log_prob, x, weights, first, [LOG_COUNT_LIMITS])[0])
        return log_mean

    def distribution(self, parameters: Tensor) -> ColumnDistribution:
        return NegativeBinomial(parameters.clamp(*LOG_RATE_LIMITS), self.log_count)


def _student_log_prob(x: Tensor, parameters: Tensor) -> Tensor:
    location, log_scale, log_freedom = parameters
    return StudentT(location, log_scale, 2.0 + log_freedom.exp()).log_prob_terms(x)


class MixedLikelihood(Likelihood):
    """Likelihood of a table whose columns are of several kinds.

    Parameters
    ----------
    blocks : sequence of (ColumnLikelihood, sequence of int)
        Likelihoods of blocks of columns, and the columns. Each column must be in one block.
    """

    def __init__(self, blocks: Sequence[tuple[ColumnLikelihood, Sequence[int]]]) -> None:
        columns = [torch.as_tensor(c) for _, c in blocks]
        together = torch.cat(columns).tolist()
        if sorted(together) != list(range(len(together))):
            raise ValueError(f"Each column must be in one block, got columns {sorted(together)}.")
        super().__init__(len(together))
        self.blocks = nn.ModuleList(block for block, _ in blocks)
        self._columns = columns

    @property
    def n_inputs(self) -> int:
        return sum(self._sizes)

    @property
    def width(self) -> int:
        """Number of values per sample in the arrays of the distributions."""
        blocks: Any = self.blocks
        return sum(block.width for block in blocks)

    @property
    def _sizes(self) -> list[int]:
        blocks: Any = self.blocks
        return [block.n_inputs for block in blocks]

    def start_at(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Set the units of all blocks; see :meth:`ColumnLikelihood.start_at`."""
        blocks: Any = self.blocks
        for block, columns in zip(blocks, self._columns, strict=True):
            block.start_at(x[:, columns], weights)

    def after_step(self) -> None:
        blocks: Any = self.blocks
        for block in blocks:
            block.after_step()

    def statistics(self, p: MixedDistribution, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return log p(x_j|z) of each column and the entropy, summed over samples and draws."""
        terms = torch.cat([p.log_prob_columns(x), p.entropy().unsqueeze(-1)], dim=-1)
        terms = terms if weights is None else terms * weights[..., None]
        return terms.flatten(0, -2).sum(0)

    def terms(self, averages: Array) -> LikelihoodTerms:
        return LikelihoodTerms(float(averages[:-1].sum()), float(averages[-1]))

    def forward(self, h: Tensor) -> MixedDistribution:
        parts = zip(self.blocks, h.split(self._sizes, dim=-1), strict=True)
        return MixedDistribution([block(part) for block, part in parts], self._columns)
