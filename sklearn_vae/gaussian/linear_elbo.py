"""The evidence lower bound of a linear VAE in closed form: a function of the covariance alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.bounds import EntropyGap, entropy_bound, kl_per_dimension


class LinearVAEParameters(NamedTuple):
    """p(x|z) = N(W z + mu, sigma2 I), q(z|x) = N(V (x - mu), diag D), p(z) = N(0, diag alpha2).

    Attributes
    ----------
    W : array of shape (d, k)
    V : array of shape (k, d)
    D : array of shape (k,)
    noise_variance : float
        sigma2.
    prior_variance : array of shape (k,) or float, default=1.0
        alpha2.
    """

    W: Array
    V: Array
    D: Array
    noise_variance: float
    prior_variance: Array | float = 1.0


class LinearElbo:
    """The bound on rows with covariance S about their mean mu, in nats per sample.

    Every method costs O(d k^2) where S is given by its eigenvalues, and then W and V are those of
    rows in the eigenbasis; O(d^2 k) where S is a matrix.

    Parameters
    ----------
    S : array of shape (d,) or (d, d)
        Eigenvalues of the covariance (divisor n), or the covariance.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), eq. 9 and appendices B, C;
    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", section 2.3.
    """

    def __init__(self, S: Array) -> None:
        self.S = S
        self.n_features = len(S)
        self.total_variance = float(S.sum() if S.ndim == 1 else np.trace(S))

    def _times(self, A: Array) -> Array:
        """S A for A of shape (d, k)."""
        return self.S[:, None] * A if self.S.ndim == 1 else self.S @ A

    def residual(self, p: LinearVAEParameters) -> float:
        """R = average over rows of E_q |x - W z - mu|^2 (Lucas et al., eq. 20)."""
        SV = self._times(p.V.T)
        cross = float(np.vdot(p.W, SV))
        fitted = float(np.vdot(p.W.T @ p.W, p.V @ SV))
        spread = float(p.D @ (p.W**2).sum(axis=0))
        return self.total_variance - 2.0 * cross + fitted + spread

    def second_moment(self, p: LinearVAEParameters) -> Array:
        """Average over rows of E_q z_h^2, shape (k,)."""
        return (p.V.T * self._times(p.V.T)).sum(axis=0) + p.D

    def kl_per_dimension(self, p: LinearVAEParameters) -> Array:
        """Average over rows of KL(q(z_h|x) || p(z_h)), shape (k,) (Lucas et al., eq. 16)."""
        moment, log_ratio = self.second_moment(p) / p.prior_variance, np.log(p.D / p.prior_variance)
        return kl_per_dimension(moment, log_ratio)

    def reconstruction(self, p: LinearVAEParameters) -> float:
        """Average over rows of E_q log p(x|z)."""
        sigma2 = p.noise_variance
        log_noise = self.n_features * math.log(2.0 * math.pi * sigma2)
        return -0.5 * (self.residual(p) / sigma2 + log_noise)

    def value(self, p: LinearVAEParameters) -> float:
        """The bound."""
        return self.reconstruction(p) - float(self.kl_per_dimension(p).sum())

    def gradients(self, p: LinearVAEParameters) -> LinearVAEParameters:
        """Derivatives of the bound with respect to each parameter (Lucas et al., eq. 21 to 23).

        That of W has W D where the paper prints D W.
        """
        sigma2 = p.noise_variance
        WW, SV = p.W.T @ p.W, self._times(p.V.T)
        of_W = (SV - p.W * p.D - p.W @ (p.V @ SV)) / sigma2
        of_V = (self._times(p.W).T - WW @ SV.T) / sigma2 - SV.T / np.reshape(
            p.prior_variance, (-1, 1)
        )
        of_D = 0.5 * (1.0 / p.D - 1.0 / np.asarray(p.prior_variance) - np.diag(WW) / sigma2)
        of_noise = 0.5 * (self.residual(p) / sigma2 - self.n_features) / sigma2
        ratio = self.second_moment(p) / p.prior_variance
        return LinearVAEParameters(
            of_W, of_V, of_D, of_noise, 0.5 * (ratio - 1.0) / p.prior_variance
        )

    def entropies(self, p: LinearVAEParameters) -> float:
        """Sum of three entropies: the bound at any stationary point (Lücke et al., eq. 33)."""
        log_ratio = np.log(p.D / p.prior_variance)
        return entropy_bound(self.n_features, p.noise_variance, log_ratio)

    def entropy_gap(self, p: LinearVAEParameters) -> EntropyGap:
        """The bound less the entropies, in parts."""
        squares = self.residual(p) / p.noise_variance
        return EntropyGap.of(self.n_features, squares, self.second_moment(p) / p.prior_variance)

    def ascend(
        self, W: Array, noise_variance: float, n_steps: int, *, learn_noise: bool = True
    ) -> tuple[LinearVAEParameters, list[float]]:
        """Coordinate ascent, each step in closed form: encoder, then decoder, then sigma2.

        The bound never falls. The span of W is found fast, scale and rotation slowly:
        :meth:`finish` takes the span to the maximum.

        Returns
        -------
        parameters : LinearVAEParameters
        history : list of float
            The bound at the start, with the best encoder, and after each step.
        """
        history = []
        p = with_best_encoder(W, noise_variance)
        history.append(self.value(p))
        for _ in range(n_steps):
            SV = self._times(p.V.T)
            W = np.linalg.solve(p.V @ SV + np.diag(p.D), SV.T).T
            p = p._replace(W=W)
            if learn_noise:
                p = p._replace(noise_variance=self.residual(p) / self.n_features)
            p = with_best_encoder(p.W, p.noise_variance)
            history.append(self.value(p))
        return p, history

    def finish(self, W: Array, noise_variance: float | None = None) -> LinearVAEParameters:
        """The maximum among all decoders with the span of W, by Rayleigh-Ritz.

        Columns come in descending order of their length, and are orthogonal: there the bound is
        the likelihood. A column whose direction has no more variance than sigma2 is zero.

        Parameters
        ----------
        W : array of shape (d, k)
        noise_variance : float, default=None
            sigma2 held fixed; None takes the optimum.
        """
        Q = np.linalg.qr(W)[0]
        values, E = np.linalg.eigh(Q.T @ self._times(Q))
        values, E = np.maximum(values[::-1], 0.0), E[:, ::-1]
        if noise_variance is None:
            rest = max(self.total_variance - float(values.sum()), 0.0)
            noise_variance = rest / (self.n_features - len(values))
        lengths = np.sqrt(np.maximum(values - noise_variance, 0.0))
        return with_best_encoder(Q @ E * lengths, noise_variance)


def with_best_encoder(W: Array, noise_variance: float) -> LinearVAEParameters:
    """V = M^-1 W', D = sigma2 / (|w_h|^2 + sigma2), M = W'W + sigma2 I: the best for a decoder."""
    WW = W.T @ W
    V = np.linalg.solve(WW + noise_variance * np.eye(len(WW)), W.T)
    return LinearVAEParameters(
        W, V, noise_variance / (np.diag(WW) + noise_variance), noise_variance
    )


def gap_of_best_encoder(W: Array, noise_variance: float) -> float:
    """KL(q(z|x) || p(z|x)) that the best encoder leaves, in nats, for any x (Theorem 1).

    0 where the columns of W are orthogonal (Lucas et al., appendix B).
    """
    M = W.T @ W + noise_variance * np.eye(W.shape[1])
    return 0.5 * float(np.log(np.diag(M)).sum() - np.linalg.slogdet(M)[1])


def elbo_of_unit_encoder(
    eigenvalues: Array, n_components: int, noise_variance: float | None = None
) -> tuple[float, float]:
    """Best bound with D = I and prior N(0, I), and its sigma2: short of pPCA, not identifiable.

    Columns of norm^2 = sigma sqrt(lambda_h) - sigma2 where lambda_h > sigma2. With sigma2 learned
    sigma is the positive root of d s^2 - s sum_kept sqrt(lambda) - sum_unkept lambda = 0.
    """
    values = np.sort(eigenvalues)[::-1]
    d, leading = len(values), values[:n_components]
    if noise_variance is None:
        for kept in range(n_components, -1, -1):  # all that are kept must exceed sigma2
            roots, rest = float(np.sqrt(leading[:kept]).sum()), float(values[kept:].sum())
            sigma = (roots + math.sqrt(roots**2 + 4.0 * d * rest)) / (2.0 * d)
            if kept == 0 or leading[kept - 1] > sigma**2:
                break
        noise_variance = sigma**2
    kept_values = leading[leading > noise_variance]
    t = np.sqrt(kept_values / noise_variance)
    rest = float(values.sum() - kept_values.sum())
    log_noise = d * math.log(2.0 * math.pi * noise_variance)
    ppca = log_noise + np.log(t**2).sum() + len(t) + rest / noise_variance
    return float(-0.5 * ppca - (t - 1.0 - np.log(t)).sum()), noise_variance
