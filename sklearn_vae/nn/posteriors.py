"""Posteriors q(z|x), parametrized by an encoder's outputs, and priors p(z)."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sklearn_vae.nn.cubature import cubature, n_points
from sklearn_vae.nn.distributions import DiagonalNormal
from sklearn_vae.nn.flows import SylvesterFlow, householder_columns

# Log-variances are the network's outputs, clamped to this range.
LOG_VARIANCE_RANGE = (-50.0, 20.0)

# Largest diagonal entry of R and R~ in a Sylvester flow, which is invertible if r_ii r~_ii > -1.
# tanh can round to 1, so a margin is needed.
MAX_DIAGONAL = 0.999


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, low, high):  # type: ignore[no-untyped-def]
        return values.clamp(low, high)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient, None, None


def clamp_straight_through(
    log_variance: Tensor,
    low: float = LOG_VARIANCE_RANGE[0],
    high: float = LOG_VARIANCE_RANGE[1],
) -> Tensor:
    """Clamp to [low, high] with the gradient of the identity, which can lead back inside."""
    return _Clamp.apply(log_variance, low, high)


def is_at_limit(log_variance: Tensor) -> Tensor:
    """Return which clamped log-variances are at a limit of their range."""
    low, high = LOG_VARIANCE_RANGE
    return (log_variance <= low) | (log_variance >= high)


class StandardPrior(nn.Module):
    """p(z) = N(0, I)."""

    zero: Tensor

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(n_components), persistent=False)

    def forward(self) -> DiagonalNormal:
        """Return p(z)."""
        return DiagonalNormal(self.zero, self.zero)


class DiagonalPrior(nn.Module):
    """p(z) = N(0, diag alpha2), where alpha2 is learned, starting at 1."""

    zero: Tensor

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(n_components), persistent=False)
        self.log_variance = nn.Parameter(torch.zeros(n_components))

    def forward(self) -> DiagonalNormal:
        """Return p(z)."""
        return DiagonalNormal(self.zero, self.log_variance)


class Posterior(ABC, nn.Module):
    """Base class of posteriors q(z|x); subclasses define `n_inputs` and `forward`.

    Parameters
    ----------
    n_components : int
        Number of latent dimensions.

    Attributes
    ----------
    monitored : int or None
        Number of samples in each chunk of batches whose latents are recorded in training. None
        means all, for posteriors whose moments are cheap.
    kl_is_sum : bool
        Whether KL(q(z|x) || p(z)) is a sum over dimensions in closed form.
    """

    monitored: ClassVar[int | None] = None
    kl_is_sum: ClassVar[bool] = True

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.n_components = n_components

    @property
    @abstractmethod
    def n_inputs(self) -> int:
        """Number of encoder outputs per sample."""

    @abstractmethod
    def forward(self, h: Tensor) -> Any:
        """Return q(z|x) for encoder outputs h of shape (n, n_inputs)."""

    @classmethod
    def n_fixed_draws(cls, n_components: int) -> int:
        """Return the number of draws per sample for moments of q(z|x); 1 in closed form."""
        return 1


class SharedPosterior(Posterior):
    """q(z|x) = N(nu(x), diag D), with the same D for every x; the encoder outputs nu.

    D starts at I and is learned if `learned` is True.
    """

    def __init__(self, n_components: int, *, learned: bool = True) -> None:
        super().__init__(n_components)
        self.log_variance = nn.Parameter(torch.zeros(n_components), requires_grad=learned)

    @property
    def n_inputs(self) -> int:
        return self.n_components

    def forward(self, h: Tensor) -> DiagonalNormal:
        return DiagonalNormal(h, clamp_straight_through(self.log_variance).expand(h.shape))


class DiagonalPosterior(Posterior):
    """q(z|x) = N(nu(x), diag tau2(x)); the encoder outputs nu and log tau2."""

    @property
    def n_inputs(self) -> int:
        return 2 * self.n_components

    def forward(self, h: Tensor) -> DiagonalNormal:
        mean, log_variance = h.split(self.n_components, dim=-1)
        return DiagonalNormal(mean, clamp_straight_through(log_variance))


class SylvesterPosterior(Posterior):
    """q(z|x) as Sylvester flows of a diagonal normal; the encoder outputs all parameters.

    z_0 ~ N(nu(x), diag tau2(x)) is mapped `n_flows` times to z + Q R tanh(R~ Q'z + b). Q has `rank`
    orthonormal columns, the product of `n_householder` reflections; R and R~ are upper triangular
    with diagonals in (-1, 1) (van den Berg et al., "Sylvester Normalizing Flows for Variational
    Inference", 2018). By default `rank` is min(k, 8), and so is `n_householder`, which allows any
    Q. Encoder outputs of 0 give R = 0 and a nonzero diagonal of R~, so each flow is the identity
    and the gradient of R is not 0. Finally, each dimension is multiplied by a learned factor that
    is the same for all x. The factors make the family closed under scaling, like diagonal
    posteriors, so E z_h^2 = 1 holds at stationary points.
    """

    monitored = 64  # moments take `n_fixed_draws` draws per sample
    kl_is_sum = False

    strict: Tensor
    axes: Tensor
    fixed_noise: Tensor
    fixed_weights: Tensor

    def __init__(
        self,
        n_components: int,
        n_flows: int = 4,
        rank: int | None = None,
        n_householder: int | None = None,
    ) -> None:
        super().__init__(n_components)
        self.n_flows = _at_least_one("n_flows", n_flows)
        self.rank = min(n_components, 8) if rank is None else _at_least_one("rank", rank)
        if self.rank > n_components:
            raise ValueError(f"rank must be at most n_components={n_components}, got {rank}.")
        self.n_householder = (
            self.rank if n_householder is None else _at_least_one("n_householder", n_householder)
        )
        self.normal = DiagonalPosterior(n_components)
        self.log_scale = nn.Parameter(torch.zeros(n_components))
        rows, columns = torch.triu_indices(self.rank, self.rank, offset=1)
        axes = torch.eye(n_components)[torch.arange(self.n_householder) % n_components]
        fixed_noise, fixed_weights = cubature(n_components)
        for name, buffer in [
            ("strict", rows * self.rank + columns),  # indices into the flattened triangle
            ("axes", axes),
            ("fixed_noise", fixed_noise),
            ("fixed_weights", fixed_weights),
        ]:
            self.register_buffer(name, buffer, persistent=False)

    @property
    def n_inputs(self) -> int:
        return self.normal.n_inputs + self.n_flows * sum(self._sizes)

    @classmethod
    def n_fixed_draws(cls, n_components: int) -> int:
        return n_points(n_components)

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Sizes of reflections, diagonals and strict triangles of R and R~, and b of one flow."""
        m, above = self.rank, len(self.strict)
        return self.n_householder * self.n_components, m, m, above, above, m

    def forward(self, h: Tensor) -> SylvesterFlow:
        n, m = len(h), self.rank
        base = self.normal(h[:, : self.normal.n_inputs])
        flows = h[:, self.normal.n_inputs :].reshape(n, self.n_flows, -1)
        v, r, r_tilde, above, above_tilde, b = flows.split(self._sizes, dim=-1)
        v = v.reshape(n, self.n_flows, self.n_householder, self.n_components) + self.axes
        R = self._triangle(r, above)
        R_tilde = self._triangle(r_tilde + 1.0, above_tilde)
        Q = householder_columns(v, m)
        fixed = self.fixed_noise.to(h.dtype), self.fixed_weights.to(h.dtype)
        return SylvesterFlow(base, Q, R, R_tilde, b, self.log_scale, *fixed)

    def _triangle(self, diagonal: Tensor, above: Tensor) -> Tensor:
        m = self.rank
        zero = above.new_zeros(*above.shape[:-1], m * m)
        strict = zero.index_copy(-1, self.strict, above).view(*above.shape[:-1], m, m)
        return strict + torch.diag_embed(MAX_DIAGONAL * torch.tanh(diagonal))


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return value


# Values of the parameters `variational_family` and `prior` of the deep VAEs.
POSTERIORS: dict[str, type[Posterior]] = {
    "diagonal": DiagonalPosterior,
    "sylvester": SylvesterPosterior,
}
PRIORS: dict[str, type[nn.Module]] = {"standard": StandardPrior, "learned_variance": DiagonalPrior}
