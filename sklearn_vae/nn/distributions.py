"""Distributions parametrized by network outputs. Results are sums over the last axis, in nats.

A distribution p(x|z) with a mask `observed`, of shape (n_samples, n_features), is that of the observed
features: `log_prob`, `entropy` and `residuals` leave the others out, and x may be NaN there.

A posterior q(z|x) has `draw(noise, weights)`, which returns an object with `z`, `log_prob()`,
`kl(prior)`, `entropy()` and `second_moment()`, and `marginals()`, a `DiagonalNormal` of the single
dimensions. Results without a closed form are averages over the draws, with their weights if given.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2.0 * math.pi)


def weighted_sum(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Sum terms of shape (..., n_samples), with the weights of the samples if they are given."""
    return terms.sum() if weights is None else (weights * terms).sum()


def average(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Average terms of shape (n_draws, ...) over draws, with weights whose sum is 1 if given."""
    return terms.mean(0) if weights is None else torch.tensordot(weights, terms, 1)


def keep_observed(terms: Tensor, observed: Tensor | None) -> Tensor:
    """Replace terms of missing values by 0; return them unchanged if no value is missing."""
    return terms if observed is None else torch.where(observed, terms, 0.0)


@dataclass(frozen=True, eq=False)
class DiagonalNormal:
    """N(mean, diag(exp(log_variance))) over the last axis; the parameters broadcast."""

    mean: Tensor
    log_variance: Tensor
    observed: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        """Variance, in the shape of `log_variance`."""
        return self.log_variance.exp()

    @property
    def factor(self) -> Tensor:
        """Cholesky factor of the covariance, of shape (..., k, k)."""
        return torch.diag_embed(torch.exp(0.5 * self.log_variance))

    def rsample(self, noise: Tensor) -> Tensor:
        """Compute mean + std * noise, for noise of shape (n_draws, n_samples, n_components)."""
        return torch.addcmul(self.mean, torch.exp(0.5 * self.log_variance), noise)

    def restricted_to(self, observed: Tensor) -> "DiagonalNormal":
        """Return the distribution of the observed features."""
        return replace(self, observed=observed)

    def residuals(self, x: Tensor) -> Tensor:
        """Compute x - mean, 0 where x is not observed."""
        return keep_observed(x - self.mean, self.observed)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x)."""
        squared = self.residuals(x).square()
        terms = squared * torch.exp(-self.log_variance) + self.log_variance
        if self.observed is not None:
            return -0.5 * keep_observed(terms + LOG_2PI, self.observed).sum(-1)
        return -0.5 * (terms.sum(-1) + self.mean.shape[-1] * LOG_2PI)

    def kl_terms(self, prior: "DiagonalNormal") -> Tensor:
        """Compute KL(self || prior) of each dimension, without the sum over the last axis."""
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * torch.exp(-prior.log_variance)
        return 0.5 * (distance + torch.expm1(ratio) - ratio)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        log_variance = self.log_variance.expand(self.mean.shape)
        if self.observed is not None:
            return 0.5 * keep_observed(log_variance + (LOG_2PI + 1.0), self.observed).sum(-1)
        return 0.5 * (log_variance.sum(-1) + self.mean.shape[-1] * (LOG_2PI + 1.0))

    @property
    def base(self) -> "DiagonalNormal":
        """Normal distribution that draws start from: this one."""
        return self

    def draw(self, noise: Tensor, weights: Tensor | None = None) -> "NormalDraws":
        """Draw z from noise of shape (n_draws, n_samples, n_components); weights are ignored."""
        return NormalDraws(self, self.rsample(noise))

    def marginals(self, noise: Tensor | None = None) -> "DiagonalNormal":
        """Return the distribution of each dimension, which is this one; the noise is ignored."""
        return self

    def covariance(self) -> Tensor:
        """Return the covariance matrices (n, k, k)."""
        return torch.diag_embed(self.variance.expand(self.mean.shape))


@dataclass(frozen=True, eq=False)
class NormalDraws:
    """Draws z, (n_draws, n_samples, n_components), from a normal q with closed-form results."""

    q: DiagonalNormal
    z: Tensor

    def log_prob(self) -> Tensor:
        """Compute log q(z|x) of each draw, of shape (n_draws, n_samples)."""
        return self.q.log_prob(self.z)

    def kl_terms(self, prior: DiagonalNormal) -> Tensor:
        """Compute KL(q(z_h|x) || p(z_h)) of each dimension, of shape (n_samples, n_components)."""
        return self.q.kl_terms(prior)

    def kl(self, prior: DiagonalNormal) -> Tensor:
        """Compute KL(q(z|x) || p(z)), of shape (n_samples,)."""
        return self.q.kl_terms(prior).sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy of q(z|x), of shape (n_samples,)."""
        return self.q.entropy()

    def second_moment(self) -> Tensor:
        """Compute E_q z_h^2, of shape (n_samples, n_components)."""
        return self.q.mean.square() + self.q.variance


@dataclass(frozen=True, eq=False)
class CorrelatedNormal:
    """Normal q(z|x) = N(mean, R diag(exp(log_variance)) R') with lower triangular R.

    `independent` has the mean and the log-variances, and `root` is R, (n_samples, k, k).
    """

    independent: DiagonalNormal
    root: Tensor

    @property
    def base(self) -> DiagonalNormal:
        """Normal distribution that draws start from."""
        return self.independent

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return self.independent.mean

    @property
    def factor(self) -> Tensor:
        """Cholesky factor of the covariance."""
        return self.root * torch.exp(0.5 * self.independent.log_variance)[:, None]

    @property
    def log_diagonal(self) -> Tensor:
        """Twice the logarithm of the diagonal of the Cholesky factor, of shape (n_samples, k)."""
        diagonal = torch.diagonal(self.root, dim1=-2, dim2=-1)
        return self.independent.log_variance + 2.0 * torch.log(diagonal)

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, of shape (n_samples, k)."""
        return self.factor.square().sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        return DiagonalNormal(self.mean, self.log_diagonal).entropy()

    def draw(self, noise: Tensor, weights: Tensor | None = None) -> "CorrelatedDraws":
        """Draw z from noise of shape (n_draws, n_samples, n_components); weights are ignored."""
        with torch.autocast(noise.device.type, enabled=False):  # z and q(z|x) must agree
            shift = torch.einsum("nij,snj->sni", self.factor, noise.expand(-1, len(self.root), -1))
        return CorrelatedDraws(self, self.mean + shift, noise)

    def marginals(self, noise: Tensor | None = None) -> DiagonalNormal:
        """Return the distributions of the single dimensions; the noise is ignored."""
        return DiagonalNormal(self.mean, self.variance.log())

    def covariance(self) -> Tensor:
        """Return the covariance matrices (n, k, k)."""
        factor = self.factor
        return factor @ factor.mT


@dataclass(frozen=True, eq=False)
class CorrelatedDraws:
    """Draws z, (n_draws, n_samples, n_components), from a :class:`CorrelatedNormal`."""

    q: CorrelatedNormal
    z: Tensor
    noise: Tensor

    def log_prob(self) -> Tensor:
        """Compute log q(z|x) of each draw, of shape (n_draws, n_samples)."""
        k = self.z.shape[-1]
        constant = self.q.log_diagonal.sum(-1) + k * LOG_2PI
        return -0.5 * (self.noise.square().sum(-1) + constant)

    def kl_terms(self, prior: DiagonalNormal) -> Tensor:
        """Compute terms >= 0 of each dimension whose sum is KL(q(z|x) || p(z)), (n_samples, k)."""
        ratio = self.q.log_diagonal - prior.log_variance
        squares = self.q.variance + (self.q.mean - prior.mean).square()
        return 0.5 * (squares * torch.exp(-prior.log_variance) - 1.0 - ratio)

    def kl(self, prior: DiagonalNormal) -> Tensor:
        """Compute KL(q(z|x) || p(z)), of shape (n_samples,)."""
        return self.kl_terms(prior).sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy of q(z|x), of shape (n_samples,)."""
        return self.q.entropy()

    def second_moment(self) -> Tensor:
        """Compute E_q z_h^2, of shape (n_samples, n_components)."""
        return self.q.mean.square() + self.q.variance


@dataclass(frozen=True, eq=False)
class BernoulliLogits:
    """Independent Bernoulli variables with p(x_j = 1) = sigmoid(logits_j), over the last axis.

    For x between 0 and 1, log p(x) is interpolated linearly.
    """

    logits: Tensor
    observed: Tensor | None = None

    def restricted_to(self, observed: Tensor) -> "BernoulliLogits":
        """Return the distribution of the observed features."""
        return replace(self, observed=observed)

    @property
    def mean(self) -> Tensor:
        """p(x_j = 1)."""
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        """p(x_j = 1) p(x_j = 0)."""
        return torch.sigmoid(self.logits) * torch.sigmoid(-self.logits)

    def sample(self, uniform: Tensor) -> Tensor:
        """Draw x from numbers that are uniform on [0, 1)."""
        return (uniform < self.mean).to(self.logits.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x), the sum of x logits - softplus(logits)."""
        logits, x = torch.broadcast_tensors(self.logits, keep_observed(x, self.observed))
        terms = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -keep_observed(terms, self.observed).sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        # The entropy is even in the logits, and both terms are positive for |logits|.
        size = self.logits.abs()
        terms = size * torch.sigmoid(-size) - functional.logsigmoid(size)
        return keep_observed(terms, self.observed).sum(-1)
