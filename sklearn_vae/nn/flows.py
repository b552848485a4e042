"""Normalizing flows: distributions that have a density at their own draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_vae.nn.distributions import LOG_2PI, DiagonalNormal


@dataclass(frozen=True, eq=False)
class SylvesterFlow:
    """Of z_0 from `base`, F times z + Q R tanh(R~ Q'z + b), then times a scale, for each of n rows.

    The determinant of each step is the product of 1 + tanh'(.) r_ii r~_ii, since that of
    I_k + Q R diag(h') R~ Q' is that of I_m + diag(h') R~ R, a triangle (van den Berg et al.,
    "Sylvester Normalizing Flows for Variational Inference", 2018).

    Parameters
    ----------
    base : DiagonalNormal of shape (n, k)
    Q : Tensor of shape (n, F, k, m)
        With orthonormal columns.
    R, R_tilde : Tensors of shape (n, F, m, m)
        Upper triangles, r_ii r~_ii > -1.
    b : Tensor of shape (n, F, m)
    log_scale : Tensor of shape (k,)
    fixed_noise : Tensor of shape (S, 1, k)
        For what is asked of the distribution without draws: moments that have no closed form.
    """

    base: DiagonalNormal
    Q: Tensor
    R: Tensor
    R_tilde: Tensor
    b: Tensor
    log_scale: Tensor
    fixed_noise: Tensor

    def draw(self, noise: Tensor) -> "FlowDraws":
        """Draws from noise of shape (S, n, k) or (S, 1, k), and what is known of q by them."""
        start = self.base.rsample(noise)
        z = start.permute(1, 2, 0)
        log_det = self.log_scale.sum()
        with torch.autocast(z.device.type, enabled=False):  # the determinant needs Q'Q = I
            into = (self.R_tilde @ self.Q.mT).unbind(1)
            out_of = (self.Q @ self.R).unbind(1)
            diagonals = (self.R * self.R_tilde).diagonal(dim1=-2, dim2=-1)[..., None].unbind(1)
            shifts = self.b[..., None].unbind(1)
            for A, B, b, rr in zip(into, out_of, shifts, diagonals, strict=True):
                height = torch.tanh(torch.matmul(A, z) + b)
                log_det = log_det + torch.log1p((1.0 - height.square()) * rr).sum(1)
                z = z + torch.matmul(B, height)
        z = z.permute(2, 0, 1) * torch.exp(self.log_scale)
        return FlowDraws(self.base, noise, start, z, log_det.mT)

    def rsample(self, noise: Tensor) -> Tensor:
        """Draws, (S, n, k), differentiable."""
        return self.draw(noise).z

    def marginals(self, noise: Tensor | None = None) -> DiagonalNormal:
        """The normal with the mean and variance of each dimension over draws, (n, k).

        Those of `fixed_noise` where none is given: at the identity they are those of `base`.
        """
        z = self.draw(self.fixed_noise if noise is None else noise).z
        variance, mean = torch.var_mean(z, 0, correction=0)
        return DiagonalNormal(mean, variance.clamp_min(torch.finfo(z.dtype).tiny).log())

    def covariance(self) -> Tensor:
        """Matrices (n, k, k), over `fixed_noise`."""
        z = self.draw(self.fixed_noise).z
        z = (z - z.mean(0)).permute(1, 2, 0)
        return z @ z.mT / z.shape[-1]

    @property
    def mean(self) -> Tensor:
        """Mean of `marginals`."""
        return self.marginals().mean

    @property
    def variance(self) -> Tensor:
        """Variance of `marginals`."""
        return self.marginals().variance

    def entropy(self) -> Tensor:
        """Entropy of q(z|x) over `fixed_noise`, (n,)."""
        return self.draw(self.fixed_noise).entropy()


@dataclass(frozen=True, eq=False)
class FlowDraws:
    """Draws z, (S, n, k), of a flow from `start`, those of its `base`.

    Averages over the draws, of the difference that the flow makes: what `base` contributes is in
    closed form. So at the identity they have no variance, and are those of a `DiagonalNormal`.
    """

    base: DiagonalNormal
    noise: Tensor
    start: Tensor
    z: Tensor
    log_det: Tensor

    def log_prob(self) -> Tensor:
        """log q(z|x) of each draw, (S, n)."""
        # From the noise itself: (start - nu) / tau would have the rounding of start / tau.
        terms = self.noise.square() + self.base.log_variance + LOG_2PI
        return -0.5 * terms.sum(-1) - self.log_det

    def kl_terms(self, prior: DiagonalNormal) -> Tensor:
        """Raise ValueError: there is no closed form of each dimension."""
        raise ValueError("free_bits must be 0 with a flow, whose KL is not a sum over dimensions.")

    def kl(self, prior: DiagonalNormal) -> Tensor:
        """KL(q(z|x) || p(z)), (n,)."""
        change = prior.log_prob(self.start) - prior.log_prob(self.z) - self.log_det
        return self.base.kl_terms(prior).sum(-1) + change.mean(0)

    def entropy(self) -> Tensor:
        """Entropy of q(z|x), (n,)."""
        return self.base.entropy() + self.log_det.mean(0)

    def second_moment(self) -> Tensor:
        """E_q z_h^2, (n, k)."""
        change = (self.z.square() - self.start.square()).mean(0)
        return self.base.mean.square() + self.base.variance + change


def householder_columns(v: Tensor, n_columns: int) -> Tensor:
    """First m columns of a product of reflections I - 2 v v'/|v|^2: (..., k, m), orthonormal.

    All at once: with the directions as columns of U, it is I - U (I/2 + the part of U'U above its
    diagonal)^-1 U' (Joffrain et al., "Accumulating Householder Transformations, Revisited", 2006).

    Parameters
    ----------
    v : Tensor of shape (..., H, k)
        A zero vector reflects nothing.
    n_columns : int
        m, at most k.
    """
    H, k = v.shape[-2:]
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    u = v / torch.where(length > 0, length, 1.0)
    with torch.autocast(v.device.type, enabled=False):
        inner = (u @ u.mT).triu(1) + 0.5 * torch.eye(H, dtype=v.dtype, device=v.device)
        solved = torch.linalg.solve_triangular(inner, u[..., :n_columns], upper=True)
        return torch.eye(k, n_columns, dtype=v.dtype, device=v.device) - u.mT @ solved
