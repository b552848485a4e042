"""From an encoder's outputs to q(z|x), and the prior that it is held against."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sklearn_vae.nn.distributions import DiagonalNormal

# Log-variances are the network's outputs, exactly, on this range, and held to it beyond.
LOG_VARIANCE_RANGE = (-20.0, 20.0)


class _HeldInRange(torch.autograd.Function):
    """Clamps to LOG_VARIANCE_RANGE with the gradient of the identity, which leads back into it."""

    @staticmethod
    def forward(ctx, values):  # type: ignore[no-untyped-def]
        return values.clamp(*LOG_VARIANCE_RANGE)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient


class StandardPrior(nn.Module):
    """p(z) = N(0, I)."""

    zero: Tensor

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(n_components), persistent=False)

    def forward(self) -> DiagonalNormal:
        """The distribution, over z of shape (..., k)."""
        return DiagonalNormal(self.zero, self.zero)


class DiagonalPrior(nn.Module):
    """p(z) = N(0, diag alpha2) with alpha2 learned, from 1."""

    zero: Tensor

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(n_components), persistent=False)
        self.log_variance = nn.Parameter(torch.zeros(n_components))

    def forward(self) -> DiagonalNormal:
        """The distribution, over z of shape (..., k)."""
        return DiagonalNormal(self.zero, self.log_variance)


class SharedPosterior(nn.Module):
    """q(z|x) = N(nu(x), diag D), D the same for every x: the encoder gives nu, (n, k).

    D is learned, from 1; or it is I.
    """

    def __init__(self, n_components: int, *, learned: bool = True) -> None:
        super().__init__()
        self.n_components = n_components
        self.log_variance = nn.Parameter(torch.zeros(n_components), requires_grad=learned)

    @property
    def n_inputs(self) -> int:
        """Outputs that the encoder has to have."""
        return self.n_components

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution with mean h, of shape (n, k)."""
        return DiagonalNormal(h, _HeldInRange.apply(self.log_variance).expand(h.shape))


class DiagonalPosterior(nn.Module):
    """q(z|x) = N(nu(x), diag tau2(x)): the encoder gives nu and log tau2, (n, 2 k)."""

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.n_components = n_components

    @property
    def n_inputs(self) -> int:
        """Outputs that the encoder has to have."""
        return 2 * self.n_components

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution whose parameters are h, of shape (n, 2 k)."""
        mean, log_variance = h.split(self.n_components, dim=-1)
        return DiagonalNormal(mean, _HeldInRange.apply(log_variance))

    def pullback(
        self, h: Tensor, noise: Tensor
    ) -> tuple[Tensor, float, Callable[[Tensor, float], Tensor]]:
        """Draws, sum over rows of KL(q(z|x) || N(0, I)), and the gradient by hand.

        Parameters
        ----------
        h : Tensor of shape (n, 2 k)
            Its log-variances are clamped in place.
        noise : Tensor of shape (S, n, k)

        Returns
        -------
        z : Tensor of shape (S n, k)
        kl : float
        pull : function (gradient of z, gradient of kl) -> gradient of h
        """
        mean, log_variance = h.split(self.n_components, dim=1)
        variance = torch.exp(log_variance.clamp_(*LOG_VARIANCE_RANGE))
        std = torch.sqrt(variance)
        z = torch.addcmul(mean, std, noise).view(-1, self.n_components)
        kl = 0.5 * ((variance - log_variance).addcmul_(mean, mean).sum().item() - mean.numel())

        def pull(of_z: Tensor, of_kl: float) -> Tensor:
            of_z = of_z.view(noise.shape)
            of_std = of_z * noise
            of_z, of_std = (t[0] if len(t) == 1 else t.sum(0) for t in (of_z, of_std))
            gradient = torch.empty_like(h)
            of_mean, of_log_variance = gradient.split(self.n_components, dim=1)
            torch.add(of_z, mean, alpha=of_kl, out=of_mean)
            of_std.mul_(std).add_(variance, alpha=of_kl).sub_(of_kl)
            torch.mul(of_std, 0.5, out=of_log_variance)
            return gradient

        return z, kl, pull
