"""Bound of mixed columns as a function of the parameters, with products of its second derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import Array, row_blocks
from sklearn_vae.gaussian.mixed_posterior import LOOSE_DECREMENT, MixedPosteriors, Posteriors
from sklearn_vae.gaussian.mixed_terms import (
    TermData,
    TermParameters,
    slopes_by_noise,
    sums_by_noise,
)
from sklearn_vae.gaussian.profile_likelihood import FLOOR
from sklearn_vae.gaussian.trust_region import Point, Product

# Limit of the counts r of negative binomials. Beyond it, they are nearly Poisson distributions.
MOST_R = 1e6
# Second derivatives only shape the steps, and need few digits.
_SHORT = np.float32
# Steps of conjugate gradients per sample that find the change of its posterior.
_INNER_STEPS = 4
# Smallest eigenvalue of the preconditioner of a row, as a share of its largest diagonal entry.
_RIDGE = 1e-6
# Floats that the arrays of a term and sample need, relative to one float.
_ARRAYS = 8


class Change(NamedTuple):
    """Change of parameters: of the terms' loadings, intercepts and noise parameters."""

    W: Array  # (n_terms, k)
    b: Array  # (n_terms,)
    t: Array  # (n_gaussian + n_counts,)


class MixedBound:
    """Average ELBO of the best posteriors as a function of the parameters as one vector.

    Noise variances are FLOOR + exp(t), in units of the variances of the values, and 1 / r of counts
    is 1 / MOST_R + exp(-t). Terms with the same `owner` share their loadings.

    Parameters
    ----------
    data : TermData
        Values of the terms, whose Gaussian values have similar variances.
    owner : array of shape (n_terms,)
        Row of the loadings of each term: 0, 1, ...
    posteriors : Posteriors
        Posteriors at which the first search starts. They are changed in place by each call.
    weights : array of shape (n_samples,)
        Weights of the samples with mean 1.
    diagonal : bool
        Whether posterior covariances are diagonal.
    """

    def __init__(
        self,
        data: TermData,
        owner: Array,
        posteriors: Posteriors,
        weights: Array,
        diagonal: bool,
    ) -> None:
        self.data, self.owner, self.q = data, owner, posteriors
        self.weights, self.diagonal = weights, diagonal
        n, k = posteriors.mean.shape
        self.n_rows = int(owner.max()) + 1
        self._sizes = np.cumsum([self.n_rows * k, len(owner)])
        # Derivatives of orders 1 to 4 of the expected terms.
        self._kept = np.empty((4, *data.values.shape), _SHORT)
        self._covariance = np.empty((n, k, k), _SHORT)
        self._mean_covariance = np.empty((n, k, k), _SHORT) if diagonal else self._covariance

    def pack(self, p: TermParameters) -> Array:
        """Return parameters as a vector."""
        W = np.empty((self.n_rows, p.W.shape[1]))
        W[self.owner] = p.W
        gaussian, counts, _ = self.data.sizes.families
        psi = np.maximum(p.noise[gaussian] - FLOOR, 0.1 * FLOOR)
        inverse_r = np.maximum(1.0 / p.noise[counts] - 1.0 / MOST_R, 0.1 / MOST_R)
        return np.concatenate([W.ravel(), p.b, np.log(psi), -np.log(inverse_r)])

    def parameters(self, x: Array) -> TermParameters:
        """Return the parameters in a vector."""
        W, b, t = self._change(x)
        gaussian, counts, _ = self.data.sizes.families
        r = 1.0 / (1.0 / MOST_R + np.exp(-t[counts]))
        return TermParameters(W, b, np.concatenate([FLOOR + np.exp(t[gaussian]), r]))

    def _noise_slopes(self, noise: Array) -> tuple[Array, Array]:
        """Return the first two derivatives of the logarithms of noise parameters in t."""
        gaussian, counts, _ = self.data.sizes.families
        rho = np.concatenate([1.0 - FLOOR / noise[gaussian], 1.0 - noise[counts] / MOST_R])
        second = rho * (1.0 - rho)
        second[counts] *= -1.0
        return rho, second

    def move(self, x: Array, step: Array) -> Array:
        """Follow a step."""
        return x + step

    def _change(self, x: Array) -> Change:
        W, b, t = np.split(x, self._sizes)
        return Change(W.reshape(self.n_rows, -1)[self.owner], b, t)

    def _vector(self, change: Change) -> Array:
        """Return sums over the terms that share parameters, as a vector."""
        return np.concatenate([self._by_row(change.W).ravel(), change.b, change.t])

    def _by_row(self, values: Array) -> Array:
        """Sum an array of terms over those that share loadings."""
        total = np.zeros((self.n_rows, *values.shape[1:]))
        np.add.at(total, self.owner, values)
        return total

    def _blocks(self) -> Iterator[slice]:
        return row_blocks(len(self.q.mean), _ARRAYS * len(self.owner))

    def __call__(self, x: Array) -> Point:
        """Evaluate the bound."""
        p = self.parameters(x)
        n, (D, k) = len(self.q.mean), p.W.shape
        search = MixedPosteriors(p, self.diagonal)
        value = float(search.solve(self.data, self.q, LOOSE_DECREMENT)[0] @ self.weights) / n
        grad = Change(np.zeros((D, k)), np.zeros(D), np.zeros(len(p.noise)))
        moments, sums, means = np.zeros((D, k * k)), np.zeros(D), np.zeros((D, k))
        by_noise = np.zeros((2, len(p.noise)))
        for samples in self._blocks():
            data, q, w = self.data.of(samples), self.q.of(samples), self.weights[samples]
            S = q.covariance
            E = search.expectations(data, q.mean, S, order=4)
            self._kept[:, samples], self._covariance[samples] = E[1:], S
            if self.diagonal:
                self._mean_covariance[samples] = search.mean_covariance(E)
            first, second = (w[:, None] * E[1]).T, (w[:, None] * E[2]).T
            flat = S.reshape(len(S), -1)
            grad.W[...] += first @ q.mean + _times_rows(second @ flat, p.W)
            grad.b[...] += first.sum(axis=1)
            outer = (q.mean[:, :, None] * q.mean[:, None, :]).reshape(len(S), -1)
            moments -= second @ (flat + outer)
            sums -= second.sum(axis=1)
            means -= second @ q.mean
            by_noise += sums_by_noise(data, E, q.mean @ p.W.T + p.b, p.noise, w)
        rho, change_of_rho = self._noise_slopes(p.noise)
        grad.t[...] = rho * by_noise[0]
        noise = -(rho**2 * by_noise[1] + change_of_rho * by_noise[0])
        precondition = self._preconditioner(
            moments.reshape(D, k, k) / n, means / n, sums / n, noise / n
        )
        gradient = self._vector(grad) / n
        return Point(value, gradient, lambda u: self._times_curvature(p, noise, u), precondition)

    def _preconditioner(
        self, moments: Array, means: Array, sums: Array, noise: Array
    ) -> Product:
        """Return products with the inverses of the negative Hessians of rows, given q.

        The intercepts of the terms of a row are eliminated from the equations of its loadings.
        """
        (D, k), tiny = means.shape, np.finfo(float).tiny
        sums = sums * (1.0 + _RIDGE) + tiny
        ratio = means / sums[:, None]
        blocks = self._by_row(moments - ratio[:, :, None] * means[:, None, :])
        largest = np.einsum("jhh->jh", self._by_row(moments)).max(axis=1)
        blocks += (_RIDGE * largest + tiny)[:, None, None] * np.eye(k)
        inverses = np.linalg.inv(blocks)
        noise = np.maximum(noise, 0.1)

        def precondition(g: Array) -> Array:
            of_W, of_b, of_t = np.split(g, self._sizes)
            of_W = of_W.reshape(-1, k) - self._by_row(ratio * of_b[:, None])
            W = np.einsum("jhl,jl->jh", inverses, of_W)
            b = of_b / sums - np.einsum("jh,jh->j", ratio, W[self.owner])
            return np.concatenate([W.ravel(), b, of_t / noise])

        return precondition

    def _times_curvature(self, p: TermParameters, noise: Array, u: Array) -> Array:
        """Multiply the negative Hessian by a vector: the posteriors follow the parameters."""
        change = self._change(u)
        dW, db, dt = (part.astype(_SHORT) for part in change)
        W, n, N = p.W.astype(_SHORT), len(self.q.mean), len(p.noise)
        (D, k), products = W.shape, p.products.astype(_SHORT)
        crossed = dW[:, :, None] * W[:, None, :]
        dproducts = (crossed + crossed.transpose(0, 2, 1)).reshape(D, k * k)
        rho = self._noise_slopes(p.noise)[0].astype(_SHORT)
        total = Change(np.zeros((D, k)), np.zeros(D), -noise * change.t)
        for samples in self._blocks():
            E1, E2, E3, E4 = self._kept[:, samples]
            M, S = self.q.mean[samples].astype(_SHORT), self._covariance[samples]
            flat = S.reshape(len(S), -1)
            da, dv = M @ dW.T + db, 0.5 * (flat @ dproducts.T)
            d1, d2 = E2 * da + E3 * dv, E3 * da + E4 * dv
            by_t = self._slopes_by_t(samples, p, rho)
            d1[:, :N] += by_t[0] * dt
            d2[:, :N] += by_t[1] * dt
            pull = d1 @ W + E1 @ dW, 0.5 * (d2 @ products + E2 @ dproducts).reshape(S.shape)
            dM, dS = self._follow(samples, W, products, *pull)
            dflat = dS.reshape(len(S), -1)
            more_a, more_v = dM @ W.T, 0.5 * (dflat @ products.T)
            d1 += E2 * more_a + E3 * more_v
            d2 += E3 * more_a + E4 * more_v
            da, dv = da + more_a, dv + more_v
            w = self.weights[samples, None].astype(_SHORT)
            d1, d2, E1, E2 = w * d1, w * d2, w * E1, w * E2
            total.W[...] += d1.T @ M + E1.T @ dM + _times_rows(E2.T @ flat, dW)
            total.W[...] += _times_rows(d2.T @ flat + E2.T @ dflat, W)
            total.b[...] += d1.sum(axis=0)
            total.t[...] += (w * (by_t[0] * da[:, :N] + by_t[1] * dv[:, :N])).sum(axis=0)
        return self._vector(total) / -n

    def _slopes_by_t(self, samples: slice, p: TermParameters, rho: Array) -> tuple[Array, Array]:
        """Return derivatives of the kept first two orders in t."""
        E = [self._kept[0, samples], *self._kept[:3, samples]]
        first, second = slopes_by_noise(self.data.of(samples), E, p.noise)
        return (first * rho).astype(_SHORT), (second * rho).astype(_SHORT)

    def _follow(
        self, samples: slice, W: Array, products: Array, pull_m: Array, pull_S: Array
    ) -> tuple[Array, Array]:
        """Solve for the changes of posteriors that restore a gradient of zero in m and S.

        Conjugate gradients for each sample, preconditioned by the steps of
        :class:`MixedPosteriors`, in a fixed number, which keeps products nearly symmetric.
        """
        _, E2, E3, E4 = self._kept[:, samples]
        S, Q = self._covariance[samples], self.q.precision[samples].astype(_SHORT)
        mean_covariance = self._mean_covariance[samples]
        eye = np.eye(S.shape[1], dtype=_SHORT)

        def precondition(m: Array, C: Array) -> tuple[Array, Array]:
            return (mean_covariance @ m[:, :, None])[:, :, 0], 2.0 * (S @ C @ S)

        if self.diagonal:
            pull_S = pull_S * eye
        r_m, r_S = pull_m, pull_S
        m, C = np.zeros_like(r_m), np.zeros_like(r_S)
        z_m, z_S = precondition(r_m, r_S)
        p_m, p_S, rz = z_m, z_S, _dot(r_m, r_S, z_m, z_S)
        for step in range(_INNER_STEPS):
            da, dv = p_m @ W.T, 0.5 * (p_S.reshape(len(S), -1) @ products.T)
            A_m = p_m - (E2 * da + E3 * dv) @ W
            A_S = 0.5 * (Q @ p_S @ Q - ((E3 * da + E4 * dv) @ products).reshape(S.shape))
            if self.diagonal:
                A_S = A_S * eye
            curvature = _dot(p_m, p_S, A_m, A_S)
            length = np.divide(rz, curvature, out=np.zeros_like(rz), where=curvature > 0.0)
            m, C = m + length[:, None] * p_m, C + length[:, None, None] * p_S
            if step == _INNER_STEPS - 1:
                break
            r_m, r_S = r_m - length[:, None] * A_m, r_S - length[:, None, None] * A_S
            z_m, z_S = precondition(r_m, r_S)
            before, rz = rz, _dot(r_m, r_S, z_m, z_S)
            ratio = np.divide(rz, before, out=np.zeros_like(rz), where=before > 0.0)
            p_m, p_S = z_m + ratio[:, None] * p_m, z_S + ratio[:, None, None] * p_S
        return m, C


def _times_rows(matrices: Array, W: Array) -> Array:
    """Multiply the matrix of each term, flattened, by a row of W."""
    D, k = W.shape
    return np.einsum("jhl,jl->jh", matrices.reshape(D, k, k), W)


def _dot(m: Array, C: Array, other_m: Array, other_C: Array) -> Array:
    """Return the inner product for each sample."""
    return np.einsum("nh,nh->n", m, other_m) + np.einsum("nhl,nhl->n", C, other_C)
