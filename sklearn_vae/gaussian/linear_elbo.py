"""The evidence lower bound of a linear VAE in closed form: a function of the covariance alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array, row_blocks
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

    Every method costs O(r k^2) where S is given by eigenvalues, and then W and V are those of rows
    in the basis of their eigenvectors; O(d^2 k) where S is a matrix, O(n d k) where rows are given. The bound, its
    parts and gradients take arrays of any array-API library.

    Parameters
    ----------
    S : array of shape (r,) or (d, d), default=None
        Eigenvalues of the covariance (divisor n), or the covariance.
    n_features : int, default=None
        d, where only r < d eigenvalues are given.
    rows : array of shape (n, d), default=None
        In the place of S: rows less their mean.
    total_variance : float, default=None
        Trace of S, where what is given is not all of it.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), eq. 9 and appendices B, C;
    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", section 2.3.
    """

    def __init__(
        self,
        S: Array = None,
        *,
        n_features: int | None = None,
        rows: Array = None,
        total_variance: float | None = None,
    ) -> None:
        self.S = S
        self.rows = rows
        A = rows if S is None else S
        xp = array_namespace(A)
        self.n_features = n_features or A.shape[-1]
        if total_variance is None and S is None:
            total_variance = float(xp.sum(A * A)) / A.shape[0]
        elif total_variance is None:
            total_variance = float(xp.sum(A if A.ndim == 1 else xp.linalg.diagonal(A)))
        self.total_variance = total_variance

    def times(self, A: Array) -> Array:
        """S A for A of shape (d, k)."""
        if self.S is None:
            return self.rows.T @ (self.rows @ A) / self.rows.shape[0]
        return self.S[:, None] * A if self.S.ndim == 1 else self.S @ A

    def residual(self, p: LinearVAEParameters) -> float:
        """R = average over rows of E_q |x - W z - mu|^2 (Lucas et al., eq. 20)."""
        return float(self._terms(p).residual)

    def second_moment(self, p: LinearVAEParameters) -> Array:
        """Average over rows of E_q z_h^2, shape (k,)."""
        return self._terms(p).second_moment

    def kl_per_dimension(self, p: LinearVAEParameters) -> Array:
        """Average over rows of KL(q(z_h|x) || p(z_h)), shape (k,) (Lucas et al., eq. 16)."""
        return _kl_per_dimension(p, self._terms(p))

    def reconstruction(self, p: LinearVAEParameters) -> float:
        """Average over rows of E_q log p(x|z)."""
        return self._reconstruction(p, self._terms(p))

    def value(self, p: LinearVAEParameters) -> float:
        """The bound."""
        return self._value(p, self._terms(p))

    def gradients(self, p: LinearVAEParameters) -> LinearVAEParameters:
        """Derivatives of the bound with respect to each parameter (Lucas et al., eq. 21 to 23).

        That of W has W D where the paper prints D W.
        """
        return self.value_and_gradients(p)[1]

    def value_and_gradients(self, p: LinearVAEParameters) -> tuple[float, LinearVAEParameters]:
        """The bound and its :meth:`gradients`, by the products that they have in common."""
        t = self._terms(p)
        sigma2 = p.noise_variance
        of_W = (t.SV - p.W * p.D - p.W @ t.VSV) / sigma2
        of_V = (self.times(p.W).T - t.WW @ t.SV.T) / sigma2 - t.SV.T / _column(p.prior_variance)
        of_D = 0.5 * (1.0 / p.D - 1.0 / p.prior_variance - t.lengths / sigma2)
        of_noise = 0.5 * (float(t.residual) / sigma2 - self.n_features) / sigma2
        of_prior = 0.5 * (t.second_moment / p.prior_variance - 1.0) / p.prior_variance
        return self._value(p, t), LinearVAEParameters(of_W, of_V, of_D, of_noise, of_prior)

    def entropies(self, p: LinearVAEParameters) -> float:
        """Sum of three entropies: the bound at any stationary point (Lücke et al., eq. 33)."""
        return entropy_bound(self.n_features, p.noise_variance, _log(p.D / p.prior_variance))

    def entropy_gap(
        self, p: LinearVAEParameters, active_bounds: tuple[str, ...] = ()
    ) -> EntropyGap:
        """The bound less the entropies, in parts."""
        t = self._terms(p)
        squares = float(t.residual) / p.noise_variance
        moment = t.second_moment / p.prior_variance
        return EntropyGap.of(self.n_features, squares, moment, active_bounds)

    def best_along(
        self,
        directions: Array,
        values: Array,
        noise_variance: float | None = None,
        least_noise: float = 0.0,
    ) -> LinearVAEParameters:
        """The maximum among decoders with columns along given directions.

        Parameters
        ----------
        directions : array of shape (d, k)
            Orthonormal, and so that the rows are uncorrelated along them.
        values : array of shape (k,)
            Their variances along them, descending.
        noise_variance : float, default=None
            sigma2 held fixed; None takes the optimum, but no less than `least_noise`.
        least_noise : float, default=0.0

        Returns
        -------
        LinearVAEParameters
            Orthogonal columns, in descending order of their length: there the bound is the
            likelihood. A column whose direction has no more variance than sigma2 is zero.
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
        # R = tr S - 2 tr(W'SV') + tr(W V S V' W') + sum_h D_h |w_h|^2.
        parts = xp.sum(WW * VSV) - 2.0 * xp.sum(p.W * SV) + xp.sum(p.D * lengths)
        moment = xp.linalg.diagonal(VSV) + p.D
        return _Terms(SV, WW, VSV, lengths, self.total_variance + parts, moment)

    def _reconstruction(self, p: LinearVAEParameters, t: _Terms) -> float:
        return reconstruction_of(float(t.residual), p.noise_variance, self.n_features)

    def _value(self, p: LinearVAEParameters, t: _Terms) -> float:
        return self._reconstruction(p, t) - float(_kl_per_dimension(p, t).sum())


class _Terms(NamedTuple):
    """Products that the bound and its gradients have in common."""

    SV: Array
    WW: Array
    VSV: Array
    lengths: Array
    residual: Array
    second_moment: Array


def _kl_per_dimension(p: LinearVAEParameters, t: _Terms) -> Array:
    return kl_per_dimension(t.second_moment / p.prior_variance, _log(p.D / p.prior_variance))


def _log(A: Array) -> Array:
    return array_namespace(A).log(A)


def _column(prior_variance: Any) -> Any:
    """alpha2 as a divisor of rows of V."""
    return prior_variance if isinstance(prior_variance, float) else prior_variance[:, None]


def _best_noise(values: Array, total: float, n_features: int) -> float:
    """sigma2 for decoders along directions with these variances, descending.

    The average of what is left; a direction with no more than that is left too. At least one is:
    with all of them in W the likelihood is the same.
    """
    for kept in range(min(len(values), n_features - 1), -1, -1):
        rest = max(total - float(values[:kept].sum()), 0.0)
        noise = rest / (n_features - kept)
        if kept == 0 or values[kept - 1] > noise:
            break
    return noise


def reconstruction_of(residual: float, noise_variance: float, n_features: int) -> float:
    """E_q log p(x|z) averaged over rows, from their average of E_q |x - W z - mu|^2."""
    log_noise = n_features * math.log(2.0 * math.pi * noise_variance)
    return -0.5 * (residual / noise_variance + log_noise)


def residual_of_rows(R: Array, p: LinearVAEParameters) -> float:
    """As :meth:`LinearElbo.residual`, of rows less their mean, by a sum of squares.

    The covariance gives it as a difference, whose rounding error, some 1e-16 of the total variance,
    may be many times sigma2.
    """
    total = 0.0
    for block in row_blocks(*R.shape):
        r = R[block]
        r = r - (r @ p.V.T) @ p.W.T
        total += float(np.vdot(r, r))
    return total / len(R) + float(p.D @ (p.W**2).sum(axis=0))


def with_best_encoder(W: Array, noise_variance: float) -> LinearVAEParameters:
    """V = M^-1 W', D = sigma2 / (|w_h|^2 + sigma2), M = W'W + sigma2 I: the best for a decoder."""
    WW = W.T @ W
    V = np.linalg.solve(WW + noise_variance * np.eye(len(WW)), W.T)
    return LinearVAEParameters(
        W, V, noise_variance / (np.diag(WW) + noise_variance), noise_variance
    )


def with_unit_encoder(p: LinearVAEParameters) -> LinearVAEParameters:
    """The same model and bound with D = I, each latent divided by the root of its D."""
    root = p.D**0.5
    return LinearVAEParameters(
        p.W * root,
        p.V / root[:, None],
        p.D / p.D,
        p.noise_variance,
        p.prior_variance / p.D,
    )


def with_latents(p: LinearVAEParameters, order: Array, signs: Array) -> LinearVAEParameters:
    """The same model with its latents in another order, and times signs of their new places."""
    prior = p.prior_variance if isinstance(p.prior_variance, float) else p.prior_variance[order]
    W, V = p.W[:, order] * signs, p.V[order] * signs[:, None]
    return LinearVAEParameters(W, V, p.D[order], p.noise_variance, prior)


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
