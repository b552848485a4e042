"""Closed-form evidence lower bound of a linear VAE."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array, row_blocks
from sklearn_vae.gaussian.bounds import kl_per_dimension


class LinearVAEParameters(NamedTuple):
    """p(x|z) = N(W z + mu, sigma2 I), q(z|x) = N(V (x - mu), diag D), p(z) = N(0, diag alpha2)."""

    W: Array  # (d, k)
    V: Array  # (k, d)
    D: Array  # (k,)
    noise_variance: float  # sigma2
    prior_variance: Array | float = 1.0  # alpha2, (k,)


class LinearElbo:
    """ELBO of data with covariance S and mean mu, in nats per sample (Lucas et al., 2019, eq. 9).

    The data are given as the covariance matrix `S` with divisor n, as a vector `S` of its first r
    eigenvalues, with W and V in the basis of its eigenvectors, or as `centered` samples. A method
    costs O(d^2 k), O(r k^2) and O(n d k) in these cases. `total_variance` is the trace of S.
    """

    def __init__(
        self,
        S: Array = None,
        *,
        n_features: int | None = None,
        centered: Array = None,
        total_variance: float | None = None,
    ) -> None:
        self.S = S
        self.centered = centered
        A = centered if S is None else S
        xp = array_namespace(A)
        self.n_features = n_features or A.shape[-1]
        if total_variance is None and S is None:
            total_variance = float(xp.sum(A * A)) / A.shape[0]
        elif total_variance is None:
            total_variance = float(xp.sum(A if A.ndim == 1 else xp.linalg.diagonal(A)))
        self.total_variance = total_variance

    def times(self, A: Array) -> Array:
        """Compute S A."""
        if self.S is None:
            return self.centered.T @ (self.centered @ A) / self.centered.shape[0]
        return self.S[:, None] * A if self.S.ndim == 1 else self.S @ A

    def residual(self, p: LinearVAEParameters) -> float:
        """Compute the average of E_q |x - W z - mu|^2 (Lucas et al., eq. 20)."""
        return float(self._terms(p).residual)

    def second_moment(self, p: LinearVAEParameters) -> Array:
        """Compute the average of E_q z_h^2, shape (k,)."""
        return self._terms(p).second_moment

    def value(self, p: LinearVAEParameters) -> float:
        """Compute the bound."""
        return self._value(p, self._terms(p))

    def value_and_gradients(self, p: LinearVAEParameters) -> tuple[float, LinearVAEParameters]:
        """Compute the bound and its derivative with respect to each parameter.

        See Lucas et al., eq. 21-23; for W the term is W D, not D W as printed.
        """
        t = self._terms(p)
        sigma2, alpha2 = p.noise_variance, p.prior_variance
        if not isinstance(alpha2, float):
            alpha2 = alpha2[:, None]
        grad_W = (t.SV - p.W * p.D - p.W @ t.VSV) / sigma2
        grad_V = (self.times(p.W).T - t.WW @ t.SV.T) / sigma2 - t.SV.T / alpha2
        grad_D = 0.5 * (1.0 / p.D - 1.0 / p.prior_variance - t.lengths / sigma2)
        grad_noise = 0.5 * (float(t.residual) / sigma2 - self.n_features) / sigma2
        grad_prior = 0.5 * (t.second_moment / p.prior_variance - 1.0) / p.prior_variance
        return self._value(p, t), LinearVAEParameters(
            grad_W, grad_V, grad_D, grad_noise, grad_prior
        )

    def best_along(
        self,
        directions: Array,
        values: Array,
        noise_variance: float | None = None,
        least_noise: float = 0.0,
    ) -> LinearVAEParameters:
        """Maximize the bound over decoders with columns along orthonormal directions.

        The data are uncorrelated along them, with descending variances `values`. A column of W is
        zero if the variance along its direction does not exceed sigma2. sigma2 is at its optimum,
        but at least `least_noise`, unless `noise_variance` fixes it.
        """
        if noise_variance is None:
            noise_variance = max(
                _best_noise(values, self.total_variance, self.n_features), least_noise
            )
        lengths = np.sqrt(np.maximum(values - noise_variance, 0.0))
        return with_best_encoder(directions * lengths, noise_variance)

    def _terms(self, p: LinearVAEParameters) -> _Terms:
        SV = self.times(p.V.T)
        WW, VSV = p.W.T @ p.W, p.V @ SV
        xp = array_namespace(SV)
        lengths = xp.linalg.diagonal(WW)
        # residual = tr S - 2 tr(W'SV') + tr(W V S V' W') + sum_h D_h |w_h|^2.
        parts = xp.sum(WW * VSV) - 2.0 * xp.sum(p.W * SV) + xp.sum(p.D * lengths)
        moment = xp.linalg.diagonal(VSV) + p.D
        return _Terms(SV, WW, VSV, lengths, self.total_variance + parts, moment)

    def _value(self, p: LinearVAEParameters, t: _Terms) -> float:
        log_ratio = array_namespace(p.D).log(p.D / p.prior_variance)
        kl = kl_per_dimension(t.second_moment / p.prior_variance, log_ratio)
        reconstruction = reconstruction_of(float(t.residual), p.noise_variance, self.n_features)
        return reconstruction - float(kl.sum())


class _Terms(NamedTuple):
    """Products shared by the bound and its gradients."""

    SV: Array
    WW: Array
    VSV: Array
    lengths: Array
    residual: Array
    second_moment: Array


def _best_noise(values: Array, total: float, n_features: int) -> float:
    """Return the best sigma2 for decoders along directions with descending variances.

    It is the average of the variances that do not exceed it. At least one direction is excluded
    from W, which does not change the likelihood.
    """
    for kept in range(min(len(values), n_features - 1), -1, -1):
        rest = max(total - float(values[:kept].sum()), 0.0)
        noise = rest / (n_features - kept)
        if kept == 0 or values[kept - 1] > noise:
            break
    return noise


def reconstruction_of(residual: float, noise_variance: float, n_features: int) -> float:
    """Compute the average of E_q log p(x|z) from the average of E_q |x - W z - mu|^2."""
    log_noise = n_features * math.log(2.0 * math.pi * noise_variance)
    return -0.5 * (residual / noise_variance + log_noise)


def residual_of_samples(R: Array, p: LinearVAEParameters) -> float:
    """Compute :meth:`LinearElbo.residual` of centered data R as a sum of squares.

    From the covariance it is a difference, whose rounding error of some 1e-16 of the total variance
    may exceed sigma2.
    """
    total = 0.0
    for block in row_blocks(*R.shape):
        r = R[block]
        r = r - (r @ p.V.T) @ p.W.T
        total += float(np.vdot(r, r))
    return total / len(R) + float(p.D @ (p.W**2).sum(axis=0))


def with_best_encoder(W: Array, noise_variance: float) -> LinearVAEParameters:
    """Add the encoder V = M^-1 W', D = sigma2 / diag M with M = W'W + sigma2 I, the best for W."""
    M = W.T @ W + noise_variance * np.eye(W.shape[1])
    return LinearVAEParameters(
        W, np.linalg.solve(M, W.T), noise_variance / np.diag(M), noise_variance
    )


def with_unit_encoder(p: LinearVAEParameters) -> LinearVAEParameters:
    """Rescale the latents to D = I, leaving model and bound unchanged."""
    root = p.D**0.5
    return p._replace(
        W=p.W * root, V=p.V / root[:, None], D=p.D / p.D, prior_variance=p.prior_variance / p.D
    )


def with_latents(p: LinearVAEParameters, order: Array, signs: Array) -> LinearVAEParameters:
    """Reorder the latents and multiply them by signs, leaving the model unchanged."""
    prior = p.prior_variance if isinstance(p.prior_variance, float) else p.prior_variance[order]
    W, V = p.W[:, order] * signs, p.V[order] * signs[:, None]
    return LinearVAEParameters(W, V, p.D[order], p.noise_variance, prior)
