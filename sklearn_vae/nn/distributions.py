"""Distributions that networks give the parameters of; sums over the last axis, in nats.

Of q(z|x) an objective asks for `draw(noise)`, and of what that gives for `z`, `log_prob()`,
`kl(prior)`, `entropy()` and `second_moment()`: in closed form where there is one, else averages
over these draws. `marginals()` is a `DiagonalNormal`, for what is said of single dimensions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

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

    def kl_terms(self, prior: "DiagonalNormal") -> Tensor:
        """Terms whose sum over the last axis is KL(self || prior), one per dimension."""
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * torch.exp(-prior.log_variance)
        return 0.5 * (distance + torch.expm1(ratio) - ratio)

    def entropy(self) -> Tensor:
        """Entropy, summed over the last axis."""
        log_variance = self.log_variance.expand(self.mean.shape)
        return 0.5 * (log_variance.sum(-1) + self.mean.shape[-1] * (LOG_2PI + 1.0))

    @property
    def base(self) -> "DiagonalNormal":
        """The normal that draws start from: itself."""
        return self

    def draw(self, noise: Tensor) -> "NormalDraws":
        """Draws from noise of shape (S, n, k), and what is known of q by them."""
        return NormalDraws(self, self.rsample(noise))

    def marginals(self, noise: Tensor | None = None) -> "DiagonalNormal":
        """The distribution of each dimension: itself, whatever the noise."""
        return self

    def covariance(self) -> Tensor:
        """Matrices (n, k, k)."""
        return torch.diag_embed(self.variance.expand(self.mean.shape))


@dataclass(frozen=True, eq=False)
class NormalDraws:
    """Draws z, (S, n, k), from a normal q; its KL and entropy do not depend on them."""

    q: DiagonalNormal
    z: Tensor

    def log_prob(self) -> Tensor:
        """log q(z|x) of each draw, (S, n)."""
        return self.q.log_prob(self.z)

    def kl_terms(self, prior: DiagonalNormal) -> Tensor:
        """KL(q(z_h|x) || p(z_h)), (n, k)."""
        return self.q.kl_terms(prior)

    def kl(self, prior: DiagonalNormal) -> Tensor:
        """KL(q(z|x) || p(z)), (n,)."""
        return self.q.kl_terms(prior).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of q(z|x), (n,)."""
        return self.q.entropy()

    def second_moment(self) -> Tensor:
        """E_q z_h^2, (n, k)."""
        return self.q.mean.square() + self.q.variance


@dataclass(frozen=True, eq=False)
class BernoulliLogits:
    """Independent x_j of {0, 1} with p(x_j = 1) = sigmoid(logits_j), over the last axis.

    The density is that of a binary x, continued linearly in x to all of [0, 1].
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
        """1 where numbers that are uniform on [0, 1) are below the mean, else 0."""
        return (uniform < self.mean).to(self.logits.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = x logits - softplus(logits), summed over the last axis."""
        logits, x = torch.broadcast_tensors(self.logits, x)
        terms = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -terms.sum(-1)

    def entropy(self) -> Tensor:
        """Entropy, summed over the last axis."""
        # It is even in the logits, and of |logits| a sum of positive terms.
        size = self.logits.abs()
        return (size * torch.sigmoid(-size) - functional.logsigmoid(size)).sum(-1)


# Fixed draws that averages are over, at least.
FIXED_DRAWS = 32


def n_draws_for(n_components: int) -> int:
    """Fixed draws for a number of dimensions, enough for their covariance to be I."""
    return max(FIXED_DRAWS, n_components + 1)


def fixed_draws(n_components: int) -> Tensor:
    """Normal draws, (S, 1, k) in float64, moved so that their mean is 0 and covariance I.

    Always the same; in pairs z, -z where their number allows, so that odd moments are 0 too.
    """
    generator = torch.Generator().manual_seed(0)
    n_draws = n_draws_for(n_components)
    paired = 2 * n_components <= n_draws
    shape = (n_draws // (1 + paired), n_components)
    draws = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not paired:
        draws -= draws.mean(0)
    factor = torch.linalg.cholesky(draws.mT @ draws / len(draws))
    draws = torch.linalg.solve_triangular(factor, draws.mT, upper=False).mT
    return (torch.cat([draws, -draws]) if paired else draws)[:, None]
