"""Closed-form evidence lower bound of a linear VAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from sklearn_vae.gaussian.arrays import Array, row_blocks
from sklearn_vae.gaussian.bounds import kl_per_dimension

# A residual below this share of the total variance is computed as a sum: the difference of traces
# has cancelled.
CANCELLED = 1e-4
# A covariance matrix does not resolve a noise variance below this share of the total variance.
UNRESOLVED = 1e-6


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
    costs O(d^2 k), O(r k^2) and O(n d k) in these cases. `rest` is the sum of the other eigenvalues
    if S is a vector, and `total_variance` the trace of S.

    A matrix S holds few digits of variances that are much smaller than the largest one. `factor`
    returns vectors with covariance S, which hold them.
    """

    def __init__(
        self,
        S: Array = None,
        *,
        n_features: int | None = None,
        centered: Array = None,
        rest: float = 0.0,
        factor: Callable[[], Array] | None = None,
    ) -> None:
        self.S = S
        self.centered = centered
        self.rest = rest
        self.factor = factor
        A = centered if S is None else S
        xp = array_namespace(A)
        self.n_features = n_features or A.shape[-1]
        if S is None:
            self.total_variance = float(xp.sum(A * A)) / A.shape[0]
        else:
            self.total_variance = float(xp.sum(A if A.ndim == 1 else xp.linalg.diagonal(A))) + rest

    def times(self, A: Array) -> Array:
        """Compute S A."""
        if self.S is None:
            return self.centered.T @ (self.centered @ A) / self.centered.shape[0]
        return self.S[:, None] * A if self.S.ndim == 1 else self.S @ A

    def resolving(self, noise_variance: float) -> LinearElbo:
        """Return the bound in a form that resolves sigma2, as far as there is one."""
        if self.factor is None or noise_variance > UNRESOLVED * self.total_variance:
            return self
        return LinearElbo(centered=self.factor())

    def leading(self, basis: Array, m: int) -> tuple[Array, Array, Array, float]:
        """Diagonalize S in the span of an orthonormal basis.

        Returns the m largest variances, descending, their directions Q, the products S Q, and the
        sum of the variances orthogonal to Q.
        """
        if self.centered is None:
            S_basis = self.times(basis)
            values, E = np.linalg.eigh(basis.T @ S_basis)
            values, E = np.maximum(values[::-1][:m], 0.0), E[:, ::-1][:, :m]
            rest = max(self.total_variance - float(values.sum()), 0.0)
            return values, basis @ E, S_basis @ E, rest
        R, n = self.centered, len(self.centered)
        P = R @ basis
        # Not the eigenvectors of P'P, whose errors are in units of the largest variance.
        _, lengths, E = np.linalg.svd(P, full_matrices=False)
        squares = float(np.sum(lengths[m:] ** 2))
        for block in row_blocks(*R.shape):
            squares += float(np.sum((R[block] - P[block] @ basis.T) ** 2))
        E = E[:m].T
        return lengths[:m] ** 2 / n, basis @ E, R.T @ (P @ E) / n, squares / n

    def residual(self, p: LinearVAEParameters) -> float:
        """Compute the average of E_q |x - W z - mu|^2 (Lucas et al., eq. 20)."""
        return float(self._terms(p).residual)

    def second_moment(self, p: LinearVAEParameters) -> Array:
        """Compute the average of E_q z_h^2, shape (k,)."""
        return self._terms(p).second_moment

    def moments(self, p: LinearVAEParameters) -> tuple[float, Array]:
        """Compute :meth:`residual` and :meth:`second_moment`."""
        t = self._terms(p)
        return float(t.residual), t.second_moment

    def value(self, p: LinearVAEParameters) -> float:
        """Compute the bound."""
        return self._value(p, self._terms(p))

    def value_and_gradients(self, p: LinearVAEParameters) -> tuple[float, LinearVAEParameters]:
        """Compute the bound and its derivative with respect to each parameter.

        See Lucas et al., eq. 21-23; for W the term is W D, not D W as printed.
        """
        t = self._terms(p)
        W, D, noise_variance, prior_variance = self._gradients_of_decoder(p, t)
        V = (self.times(p.W).T - t.WW @ t.SV.T) / p.noise_variance - (t.SV / p.prior_variance).T
        return self._value(p, t), LinearVAEParameters(W, V, D, noise_variance, prior_variance)

    def _gradients_of_decoder(
        self, p: LinearVAEParameters, t: _Terms
    ) -> tuple[Array, Array, float, Array]:
        """Compute the derivatives with respect to all parameters except V."""
        sigma2 = p.noise_variance
        W = (t.SV - p.W * p.D - p.W @ t.VSV) / sigma2
        D = 0.5 * (1.0 / p.D - 1.0 / p.prior_variance - t.lengths / sigma2)
        noise_variance = 0.5 * (float(t.residual) / sigma2 - self.n_features) / sigma2
        prior_variance = 0.5 * (t.second_moment / p.prior_variance - 1.0) / p.prior_variance
        return W, D, noise_variance, prior_variance

    def best_along(
        self,
        directions: Array,
        values: Array,
        rest: float,
        noise_variance: float | None = None,
        least_noise: float = 0.0,
    ) -> LinearVAEParameters:
        """Maximize the bound over decoders with columns along orthonormal directions.

        The data are uncorrelated along them, with descending variances `values`, and the sum of
        their variances in all other directions is `rest`. A column of W is zero if the variance
        along its direction does not exceed sigma2. sigma2 is at its optimum, but at least
        `least_noise`, unless `noise_variance` fixes it.
        """
        if noise_variance is None:
            noise_variance = max(_best_noise(values, rest, self.n_features), least_noise)
        lengths = np.sqrt(np.maximum(values - noise_variance, 0.0))
        W, variances = directions * lengths, np.maximum(values, noise_variance)
        V = (W / variances).T
        return LinearVAEParameters(W, V, noise_variance / variances, noise_variance)

    def gradient_norm(self, p: LinearVAEParameters, *, fixed_noise: bool, fixed_D: bool) -> float:
        """Compute the norm of the gradient of the bound, in nats per sample.

        The parameters are W and V in units of the standard deviations of the data along the
        eigenvectors of S, and the logarithms of D, or alpha2 if D is fixed, and of sigma2.
        """
        t = self._terms(p)
        W, D, noise_variance, prior_variance = self._gradients_of_decoder(p, t)
        # The derivative with respect to V is this matrix times S.
        V = (p.W - p.V.T @ t.WW) / p.noise_variance - p.V.T / p.prior_variance
        squares = float(np.sum(W * self.times(W)) + np.sum(V * self.times(V)))
        variance = prior_variance * p.prior_variance if fixed_D else D * p.D
        noise = 0.0 if fixed_noise else noise_variance * p.noise_variance
        return math.sqrt(max(squares, 0.0) + float(variance @ variance) + noise**2)

    def _terms(self, p: LinearVAEParameters) -> _Terms:
        if self.S is None:
            Z = self.centered @ p.V.T
            SV, VSV = self.centered.T @ Z / len(Z), Z.T @ Z / len(Z)
        else:
            SV = self.times(p.V.T)
            VSV = p.V @ SV
        WW = p.W.T @ p.W
        xp = array_namespace(SV)
        lengths, squares = xp.linalg.diagonal(WW), xp.linalg.diagonal(VSV)
        if self.S is None:
            residual = residual_of_samples(self.centered, p)
        else:
            # residual = tr S - 2 tr(W'SV') + tr(W V S V' W') + sum_h D_h |w_h|^2.
            residual = self.total_variance + xp.sum(WW * VSV) - 2.0 * xp.sum(p.W * SV)
            if self.S.ndim == 1 and residual < CANCELLED * self.total_variance:
                lost = p.W @ p.V - xp.eye(len(self.S), dtype=p.W.dtype, device=device(p.W))
                residual = xp.sum(xp.sum(lost**2, axis=0) * self.S) + self.rest
            residual = residual + xp.sum(p.D * lengths)
        return _Terms(SV, WW, VSV, lengths, residual, squares + p.D)

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


def _best_noise(values: Array, rest: float, n_features: int) -> float:
    """Return the best sigma2 for decoders along directions with descending variances.

    It is the average of the variances that do not exceed it, with `rest` their sum in all other
    directions. At least one direction is excluded from W, which does not change the likelihood.
    """
    for kept in range(min(len(values), n_features - 1), -1, -1):
        # Not the trace minus the sum of the others, which would cancel.
        noise = (rest + float(values[kept:].sum())) / (n_features - kept)
        if kept == 0 or values[kept - 1] > noise:
            break
    return noise


def maximum_of_bound(
    values: Array,
    rest: float,
    n_features: int,
    noise_variance: float | None = None,
    least_noise: float = 0.0,
) -> float:
    """Compute the maximum of the bound from the k leading eigenvalues and the sum of the others.

    It is the maximum of the log-likelihood of pPCA, in nats per sample.
    """
    if noise_variance is None:
        noise_variance = max(_best_noise(values, rest, n_features), least_noise)
    variances = np.maximum(values, noise_variance)
    log_det = float(np.log(variances).sum()) + (n_features - len(values)) * math.log(noise_variance)
    squares = float((values / variances).sum()) + rest / noise_variance
    return -0.5 * (n_features * math.log(2.0 * math.pi) + log_det + squares)


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
