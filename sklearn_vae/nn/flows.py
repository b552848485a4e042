"""Normalizing flows, which have a density at their own draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_vae.nn.distributions import LOG_2PI, DiagonalNormal, average


@dataclass(frozen=True, eq=False)
class SylvesterFlow:
    """Sylvester flow: F maps z + Q R tanh(R~ Q'z + b) of a draw from `base`, and a scaling.

    Q, of shape (n, F, k, m), has orthonormal columns. R and R~, (n, F, m, m), are upper triangular
    with r_ii r~_ii > -1. The determinant of each map is the product of 1 + tanh'(.) r_ii r~_ii,
    because I_k + Q R diag(h') R~ Q' has the determinant of the triangular matrix
    I_m + diag(h') R~ R (van den Berg et al., "Sylvester Normalizing Flows for Variational
    Inference", 2018). Moments, which have no closed form, are averages over `fixed_noise` with
    `fixed_weights`.
    """

    base: DiagonalNormal
    Q: Tensor
    R: Tensor
    R_tilde: Tensor
    b: Tensor
    log_scale: Tensor
    fixed_noise: Tensor
    fixed_weights: Tensor

    def draw(self, noise: Tensor, weights: Tensor | None = None) -> "FlowDraws":
        """Draw z from noise of shape (n_draws, n_samples, n_components) or (S, 1, k)."""
        start = self.base.rsample(noise)
        z = start.permute(1, 2, 0)
        log_det = self.log_scale.sum()
        with torch.autocast(z.device.type, enabled=False):  # the determinant needs Q'Q = I
            inner = (self.R_tilde @ self.Q.mT).unbind(1)
            outer = (self.Q @ self.R).unbind(1)
            diagonals = (self.R * self.R_tilde).diagonal(dim1=-2, dim2=-1)[..., None].unbind(1)
            shifts = self.b[..., None].unbind(1)
            for A, B, b, rr in zip(inner, outer, shifts, diagonals, strict=True):
                height = torch.tanh(torch.matmul(A, z) + b)
                log_det = log_det + torch.log1p((1.0 - height.square()) * rr).sum(1)
                z = z + torch.matmul(B, height)
        z = z.permute(2, 0, 1) * torch.exp(self.log_scale)
        return FlowDraws(self.base, noise, start, z, log_det.mT, weights)

    def rsample(self, noise: Tensor) -> Tensor:
        """Draw z of shape (n_draws, n_samples, n_components)."""
        return self.draw(noise).z

    def marginals(self, noise: Tensor | None = None) -> DiagonalNormal:
        """Return the normal with the mean and variance of each dimension over draws.

        By default the draws are those of `fixed_noise`, for which the identity gives `base`.
        """
        z = self.draw(self.fixed_noise if noise is None else noise).z
        weights = self.fixed_weights if noise is None else None
        mean = average(z, weights)
        variance = average((z - mean).square(), weights)
        return DiagonalNormal(mean, variance.clamp_min(torch.finfo(z.dtype).tiny).log())

    def covariance(self) -> Tensor:
        """Compute the covariance matrices (n, k, k) over `fixed_noise`."""
        z = self.draw(self.fixed_noise).z
        z = (z - average(z, self.fixed_weights)).permute(1, 2, 0)
        return (self.fixed_weights * z) @ z.mT

    @property
    def mean(self) -> Tensor:
        """Mean of `marginals`."""
        return self.marginals().mean

    @property
    def variance(self) -> Tensor:
        """Variance of `marginals`."""
        return self.marginals().variance

    def entropy(self) -> Tensor:
        """Compute the entropy of q(z|x) over `fixed_noise`, of shape (n_samples,)."""
        return self.draw(self.fixed_noise, self.fixed_weights).entropy()


@dataclass(frozen=True, eq=False)
class FlowDraws:
    """Draws z, (n_draws, n_samples, n_components), from a flow, and `start`, the draws of its base.

    Only the contribution of the flow is averaged over draws. The contribution of `base` has a
    closed form. If the flow is the identity, the results are exactly those of `base`.
    """

    base: DiagonalNormal
    noise: Tensor
    start: Tensor
    z: Tensor
    log_det: Tensor
    weights: Tensor | None

    def log_prob(self) -> Tensor:
        """Compute log q(z|x) of each draw, of shape (n_draws, n_samples)."""
        # Uses the noise, because (start - nu) / tau would have the rounding error of start / tau.
        terms = self.noise.square() + self.base.log_variance + LOG_2PI
        return -0.5 * terms.sum(-1) - self.log_det

    def kl_terms(self, prior: DiagonalNormal) -> Tensor:
        """Raise ValueError, because the KL of a flow is not a sum over dimensions."""
        raise ValueError("free_bits must be 0 with a flow, whose KL is not a sum over dimensions.")

    def kl(self, prior: DiagonalNormal) -> Tensor:
        """Compute KL(q(z|x) || p(z)), of shape (n_samples,)."""
        change = prior.log_prob(self.start) - prior.log_prob(self.z) - self.log_det
        return self.base.kl_terms(prior).sum(-1) + average(change, self.weights)

    def entropy(self) -> Tensor:
        """Compute the entropy of q(z|x), of shape (n_samples,)."""
        return self.base.entropy() + average(self.log_det, self.weights)

    def second_moment(self) -> Tensor:
        """Compute E_q z_h^2, of shape (n_samples, n_components)."""
        change = average(self.z.square() - self.start.square(), self.weights)
        return self.base.mean.square() + self.base.variance + change


def householder_columns(v: Tensor, n_columns: int) -> Tensor:
    """Return the first columns, (..., k, n_columns), of the product of I - 2 v v'/|v|^2.

    `v` has the shape (..., H, k), and a zero vector means the identity. With the unit vectors as
    columns of U, the product is I - U (I/2 + triu(U'U, 1))^-1 U' (Joffrain et al., "Accumulating
    Householder Transformations, Revisited", 2006).
    """
    H, k = v.shape[-2:]
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    u = v / torch.where(length > 0, length, 1.0)
    with torch.autocast(v.device.type, enabled=False):
        inner = (u @ u.mT).triu(1) + 0.5 * torch.eye(H, dtype=v.dtype, device=v.device)
        solved = torch.linalg.solve_triangular(inner, u[..., :n_columns], upper=True)
        return torch.eye(k, n_columns, dtype=v.dtype, device=v.device) - u.mT @ solved
