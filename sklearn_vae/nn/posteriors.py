"""Posteriors q(z|x): distributions from an encoder's outputs; and priors p(z)."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sklearn_vae.nn.distributions import DiagonalNormal, fixed_draws, n_draws_for
from sklearn_vae.nn.flows import SylvesterFlow, householder_columns

# Log-variances are the network's outputs, exactly, on this range, and held to it beyond.
LOG_VARIANCE_RANGE = (-20.0, 20.0)


# Of the triangles of a Sylvester flow: their product r r~ > -1 makes it invertible, and where tanh
# rounds to 1 that product has to stay away from -1.
MAX_DIAGONAL = 0.999


class _HeldInRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, low, high):  # type: ignore[no-untyped-def]
        return values.clamp(low, high)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient, None, None


def held_in_range(
    log_variance: Tensor,
    low: float = LOG_VARIANCE_RANGE[0],
    high: float = LOG_VARIANCE_RANGE[1],
) -> Tensor:
    """Clamps to [low, high] with the gradient of the identity, which leads back into it."""
    return _HeldInRange.apply(log_variance, low, high)


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


class Posterior(ABC, nn.Module):
    """Base of the posteriors q(z|x); subclasses define `n_inputs` and `forward`.

    Parameters
    ----------
    n_components : int

    Attributes
    ----------
    monitored : int or None
        Samples of each chunk of batches whose latents are recorded in training. None: all, for
        posteriors whose moments cost little compared with a step.
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
        """Distribution q(z|x) with parameters h, of shape (n, n_inputs)."""

    @classmethod
    def n_fixed_draws(cls, n_components: int) -> int:
        """Draws of each sample that the moments of q(z|x) are averages over; 1 in closed form."""
        return 1


class SharedPosterior(Posterior):
    """q(z|x) = N(nu(x), diag D), D the same for every x: the encoder gives nu, (n, k).

    D is learned, from 1; or it is I.
    """

    def __init__(self, n_components: int, *, learned: bool = True) -> None:
        super().__init__(n_components)
        self.log_variance = nn.Parameter(torch.zeros(n_components), requires_grad=learned)

    @property
    def n_inputs(self) -> int:
        """Number of encoder outputs per sample."""
        return self.n_components

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution with mean h, of shape (n, k)."""
        return DiagonalNormal(h, held_in_range(self.log_variance).expand(h.shape))


class DiagonalPosterior(Posterior):
    """q(z|x) = N(nu(x), diag tau2(x)): the encoder gives nu and log tau2, (n, 2 k)."""

    @property
    def n_inputs(self) -> int:
        """Number of encoder outputs per sample."""
        return 2 * self.n_components

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution whose parameters are h, of shape (n, 2 k)."""
        mean, log_variance = h.split(self.n_components, dim=-1)
        return DiagonalNormal(mean, held_in_range(log_variance))


class SylvesterPosterior(Posterior):
    """q(z|x) by Sylvester flows of a diagonal normal, their parameters the encoder's outputs.

    z_0 ~ N(nu(x), diag tau2(x)), then `n_flows` times z + Q R tanh(R~ Q'z + b), with Q of `rank`
    orthonormal columns by Householder reflections, R and R~ upper triangular with diagonals in
    (-1, 1) (van den Berg et al., "Sylvester Normalizing Flows for Variational Inference", 2018).
    Where the outputs are 0, R is and the diagonal of R~ is not: each flow is the identity, and the
    gradient of R is not 0. Last each dimension is multiplied by a number, the same for all x, from
    1: so a stationary point has E z_h^2 = 1 as it has with a diagonal posterior, whose family is
    closed under scaling as flows alone are not.

    Parameters
    ----------
    n_components : int
    n_flows : int, default=4
    rank : int, default=None
        Columns of Q, at most k. None: min(k, 8).
    n_householder : int, default=None
        Reflections that Q is made of. None: `rank`, which give any Q.
    """

    monitored = 64  # each takes `n_fixed_draws` draws
    kl_is_sum = False

    strict: Tensor
    axes: Tensor
    fixed_noise: Tensor

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
        for name, buffer in [
            ("strict", rows * self.rank + columns),  # places in the flattened triangle
            ("axes", axes),
            ("fixed_noise", fixed_draws(n_components)),
        ]:
            self.register_buffer(name, buffer, persistent=False)

    @property
    def n_inputs(self) -> int:
        """Number of encoder outputs per sample."""
        return self.normal.n_inputs + self.n_flows * sum(self._sizes)

    @classmethod
    def n_fixed_draws(cls, n_components: int) -> int:
        """Draws of each sample that the moments of q(z|x) are averages over."""
        return n_draws_for(n_components)

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Sizes of the inputs of one flow: reflections; diagonals of R and R~; above these, R and R~; b."""
        m, above = self.rank, len(self.strict)
        return self.n_householder * self.n_components, m, m, above, above, m

    def forward(self, h: Tensor) -> SylvesterFlow:
        """The distribution whose parameters are h, of shape (n, n_inputs)."""
        n, m = len(h), self.rank
        base = self.normal(h[:, : self.normal.n_inputs])
        flows = h[:, self.normal.n_inputs :].reshape(n, self.n_flows, -1)
        v, r, r_tilde, above, above_tilde, b = flows.split(self._sizes, dim=-1)
        v = v.reshape(n, self.n_flows, self.n_householder, self.n_components) + self.axes
        R = self._triangle(r, above)
        R_tilde = self._triangle(r_tilde + 1.0, above_tilde)
        Q, fixed_noise = householder_columns(v, m), self.fixed_noise.to(h.dtype)
        return SylvesterFlow(base, Q, R, R_tilde, b, self.log_scale, fixed_noise)

    def _triangle(self, diagonal: Tensor, above: Tensor) -> Tensor:
        m = self.rank
        zero = above.new_zeros(*above.shape[:-1], m * m)
        strict = zero.index_copy(-1, self.strict, above).view(*above.shape[:-1], m, m)
        return strict + torch.diag_embed(MAX_DIAGONAL * torch.tanh(diagonal))


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return value


# Values of the parameters `variational_family` and `prior` of the VAEs.
POSTERIORS: dict[str, type[Posterior]] = {
    "diagonal": DiagonalPosterior,
    "sylvester": SylvesterPosterior,
}
PRIORS: dict[str, type[nn.Module]] = {"standard": StandardPrior, "learned_variance": DiagonalPrior}
