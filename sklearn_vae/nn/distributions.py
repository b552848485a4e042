"""Distributions that networks give the parameters of; sums over the last axis, in nats."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, eq=False)
class DiagonalNormal:
    """N(mean, diag(exp(log_variance))) over the last axis; the two broadcast."""

    mean: Tensor
    log_variance: Tensor

    @property
    def variance(self) -> Tensor:
        """Variances, in the shape of `log_variance`."""
        return self.log_variance.exp()

    def rsample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, differentiable; noise of shape (S, n, k) gives S draws of each."""
        return torch.addcmul(self.mean, torch.exp(0.5 * self.log_variance), noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), summed over the last axis."""
        squared = (x - self.mean).square()
        terms = squared * torch.exp(-self.log_variance) + self.log_variance
        return -0.5 * (terms.sum(-1) + self.mean.shape[-1] * LOG_2PI)

    def kl_terms(self, prior: "DiagonalNormal", z: Tensor | None = None) -> Tensor:
        """Terms whose sum over the last axis is KL(self || prior): one a dimension.

        In closed form: the draws `z`, which posteriors without one average over, are not used.
        """
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * torch.exp(-prior.log_variance)
        return 0.5 * (distance + torch.expm1(ratio) - ratio)

    def entropy(self) -> Tensor:
        """Entropy, summed over the last axis."""
        log_variance = self.log_variance.expand(self.mean.shape)
        return 0.5 * (log_variance.sum(-1) + self.mean.shape[-1] * (LOG_2PI + 1.0))
