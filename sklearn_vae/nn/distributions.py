"""Distributions parametrized by network outputs. Results are sums over the last axis, in nats.

A posterior q(z|x) has `draw(noise, weights)`, which returns an object with `z`, `log_prob()`,
`kl(prior)`, `entropy()` and `second_moment()`, and `marginals()`, a `DiagonalNormal` of the single
dimensions. Results without a closed form are averages over the draws, with their weights if given.
"""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class DiagonalNormal:
    """N(mean, diag(exp(log_variance))) over the last axis; the parameters broadcast."""

    mean: Tensor
    log_variance: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance, in the shape of `log_variance`."""
        return self.log_variance.exp()

    def rsample(self, noise: Tensor) -> Tensor:
        """Compute mean + std * noise, for noise of shape (n_draws, n_samples, n_components)."""
        return torch.addcmul(self.mean, torch.exp(0.5 * self.log_variance), noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x)."""
        squared = (x - self.mean).square()
        terms = squared * torch.exp(-self.log_variance) + self.log_variance
        return -0.5 * (terms.sum(-1) + self.mean.shape[-1] * LOG_2PI)

    def kl_terms(self, prior: "DiagonalNormal") -> Tensor:
        """Compute KL(self || prior) of each dimension, without the sum over the last axis."""
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * torch.exp(-prior.log_variance)
        return 0.5 * (distance + torch.expm1(ratio) - ratio)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        log_variance = self.log_variance.expand(self.mean.shape)
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
class BernoulliLogits:
    """Independent Bernoulli variables with p(x_j = 1) = sigmoid(logits_j), over the last axis.

    For x between 0 and 1, log p(x) is interpolated linearly.
    """

    logits: Tensor

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
        logits, x = torch.broadcast_tensors(self.logits, x)
        terms = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -terms.sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        # The entropy is even in the logits, and both terms are positive for |logits|.
        size = self.logits.abs()
        return (size * torch.sigmoid(-size) - functional.logsigmoid(size)).sum(-1)
