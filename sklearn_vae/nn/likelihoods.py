"""From a decoder's outputs to p(x|z), with the noise variance that goes with it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_vae.nn.distributions import BernoulliLogits, DiagonalNormal
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, held_in_range

NOISE_UPDATES = ("closed_form", "gradient")


class Likelihood(nn.Module):
    """p(x|z) from a decoder's outputs; what an optimiser moves, and what is learned beside it."""

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """What is learned otherwise; after each step of the optimiser."""


class GaussianLikelihood(Likelihood):
    """p(x|z) = N(mu(z), diag sigma2), sigma2 the same for every z.

    Parameters
    ----------
    n_features : int
    noise_variance : Tensor of shape () for one variance, or (d,) for one a feature
        The value held fixed, or the start.
    update : {"closed_form", "gradient"} or None, default=None
        None: fixed. "gradient": log sigma2 is a parameter of the optimiser. "closed_form": after
        every step sigma2 moves the share `rate` of the way to the mean of E_q|x - mu(z)|^2 over
        the batch, its optimum where all else is fixed (Dai, Wang and Wipf, "The Usual Suspects?
        Reassessing Blame for VAE Posterior Collapse", eq. 9).
    limits : pair of floats or Tensors of the shape of `noise_variance`, default=(0, inf)
        Least and largest variance that is learned.
    rate : float, default=0.05
    """

    def __init__(
        self,
        n_features: int,
        noise_variance: Tensor,
        update: str | None = None,
        limits: tuple[Any, Any] = (0.0, math.inf),
        rate: float = 0.05,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.update = update
        self.rate = rate
        self.log_variance = nn.Parameter(
            torch.log(noise_variance), requires_grad=update is not None
        )
        for name, limit in zip(("log_low", "log_high"), limits, strict=True):
            limit = torch.as_tensor(limit, dtype=noise_variance.dtype).expand(noise_variance.shape)
            self.register_buffer(name, torch.log(limit))

    log_low: Tensor
    log_high: Tensor

    @property
    def n_inputs(self) -> int:
        """Outputs that the decoder has to have."""
        return self.n_features

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves: not a variance in closed form."""
        return [] if self.update == "closed_form" else super().trained_parameters()

    @property
    def noise_variance(self) -> Tensor:
        """sigma2, of shape () or (d,)."""
        return self.log_variance.detach().exp()

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution with mean h, of shape (..., d)."""
        return DiagonalNormal(h, self.log_variance.expand(h.shape[-1]))

    def after_step(self) -> None:
        """Move sigma2 by `update` and hold it within `limits`; after each step of the optimiser.

        In closed form from the gradient g of the loss with respect to log sigma2 of m features,
        since the mean of E_q|x - mu(z)|^2 is sigma2 (1 - 2 g / m): a step of the natural gradient.
        """
        if self.update is None:
            return
        log_variance = self.log_variance.detach()
        in_floats = log_variance.device.type == "cpu" and not log_variance.ndim
        if self.update == "closed_form":
            share = -2.0 * self.rate / (self.n_features // log_variance.numel())
            gradient = self.log_variance.grad
            assert gradient is not None
            self.log_variance.grad = None  # no optimiser does it
            if in_floats:
                log_variance += math.log1p(gradient.item() * share)
            else:
                log_variance += torch.log1p(gradient * share)
        if in_floats and self.log_low.item() <= log_variance.item() <= self.log_high.item():
            return
        torch.clamp(log_variance, self.log_low, self.log_high, out=log_variance)


class HeteroscedasticLikelihood(Likelihood):
    """p(x|z) = N(mu(z), diag sigma2(z)): the decoder gives mu and log sigma2, (..., 2 d).

    Parameters
    ----------
    n_features : int
    log_low : float, default=-20
        Least log-variance; the largest is 20, and between them it is the decoder's output plus
        `offset`.
    offset : Tensor of shape (d,), default=None
        Where the log-variances of a decoder begin whose outputs do near 0. None: at 0.
    """

    offset: Tensor

    def __init__(
        self,
        n_features: int,
        log_low: float = LOG_VARIANCE_RANGE[0],
        offset: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.limits = (log_low, LOG_VARIANCE_RANGE[1])
        self.register_buffer("offset", torch.zeros(n_features) if offset is None else offset)

    @property
    def n_inputs(self) -> int:
        """Outputs that the decoder has to have."""
        return 2 * self.n_features

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution whose parameters are h, of shape (..., 2 d)."""
        mean, log_variance = h.split(self.n_features, dim=-1)
        return DiagonalNormal(mean, held_in_range(log_variance + self.offset, *self.limits))


class BernoulliLikelihood(Likelihood):
    """p(x_j = 1|z) = sigmoid(a_j(z)): the decoder gives the logits a, (..., d).

    Parameters
    ----------
    n_features : int
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    @property
    def n_inputs(self) -> int:
        """Outputs that the decoder has to have."""
        return self.n_features

    def forward(self, h: Tensor) -> BernoulliLogits:
        """The distribution with logits h, of shape (..., d)."""
        return BernoulliLogits(h)
