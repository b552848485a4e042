"""Bound of mixed columns as a function of the parameters, with products of its second derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import Array, row_blocks
from sklearn_vae.gaussian.factor_map import PRIOR_SHARE
from sklearn_vae.gaussian.mixed_posterior import (
    LOOSE_DECREMENT,
    MixedPosteriors,
    Posteriors,
    Response,
)
from sklearn_vae.gaussian.mixed_terms import (
    TermData,
    TermParameters,
    slopes_by_noise,
    sums_by_noise,
)
from sklearn_vae.gaussian.trust_region import Point, Product

# Lower bound of noise variances, in units of the variances of the values. A smaller one would leave
# fewer digits for the posteriors, from which derivatives follow.
FLOOR = 1e-4
# Limit of the counts r of negative binomials. Beyond it, they are nearly Poisson distributions.
MOST_R = 1e4
# Steps of conjugate gradients per sample that find the change of its posterior.
_INNER_STEPS = 4
# Largest change of loadings or intercepts of bits and counts by a step of EM. Newton's steps for the
# logistic function go from one flat end to the other, and back, where they are longer than 4.4.
_MOST_CHANGE = 4.0
# Smallest eigenvalue of a block of the preconditioner, as a share of its largest diagonal entry.
_RIDGE = 1e-6
# Floats that the arrays of a term and sample need, relative to one float.
_ARRAYS = 8


class Change(NamedTuple):
    """Change of parameters: of the terms' loadings, intercepts and noise parameters."""

    W: Array  # (n_terms, k)
    b: Array  # (n_terms,)
    t: Array  # (n_gaussian + n_counts,)


class Sums(NamedTuple):
    """Weighted sums over the samples at their posteriors."""

    gradient: Change  # by loadings, intercepts, and nothing by noise parameters
    moments: Array  # (n_terms, k^2), of z z' with the negative second derivatives of the terms
    means: Array  # (n_terms, k), of z
    curvature: Array  # (n_terms,)
    by_noise: Array  # (2, n_gaussian + n_counts), see :func:`sums_by_noise`


class MixedBound:
    """Average ELBO of the best posteriors as a function of the parameters as one vector.

    Noise variances are FLOOR + t^2, in units of the variances of the values, and 1 / r of counts is
    1 / MOST_R + t^2. At the limits, the bound is stationary in t, so Newton's method gets there in a
    few steps. Terms with the same `owner` share their loadings.

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
    ridge : float, default=0.0
        Weight of the penalty that is subtracted: half the squared loadings, each row once, and for
        each noise variance that of an inverse gamma prior (:mod:`sklearn_vae.gaussian.factor_map`).
    """

    def __init__(
        self,
        data: TermData,
        owner: Array,
        posteriors: Posteriors,
        weights: Array,
        diagonal: bool,
        ridge: float = 0.0,
    ) -> None:
        self.ridge, self.decrement = ridge, LOOSE_DECREMENT
        # Terms with the same loadings share the penalty of these.
        self._shares = 1.0 / np.bincount(owner)[owner]
        self.data, self.owner, self.q = data, owner, posteriors
        self.weights, self.diagonal = weights, diagonal
        n, k = posteriors.mean.shape
        self.n_rows = int(owner.max()) + 1
        self._sizes = np.cumsum([self.n_rows * k, len(owner)])
        # Derivatives of orders 1 to 4 of the expected terms.
        self._kept = np.empty((4, *data.values.shape))
        self._covariance = np.empty((n, k, k))
        self._mean_covariance = np.empty((n, k, k)) if diagonal else self._covariance

    def pack(self, p: TermParameters) -> Array:
        """Return parameters as a vector."""
        W = np.empty((self.n_rows, p.W.shape[1]))
        W[self.owner] = p.W
        gaussian, counts, _ = self.data.sizes.families
        squares = p.noise[gaussian] - FLOOR, 1.0 / p.noise[counts] - 1.0 / MOST_R
        t = np.sqrt(np.maximum(np.concatenate(squares), 0.0))
        return np.concatenate([W.ravel(), p.b, t])

    def parameters(self, x: Array) -> TermParameters:
        """Return the parameters in a vector."""
        W, b, t = self._change(x)
        gaussian, counts, _ = self.data.sizes.families
        psi, inverse_r = FLOOR + t[gaussian] ** 2, 1.0 / MOST_R + t[counts] ** 2
        return TermParameters(W, b, np.concatenate([psi, 1.0 / inverse_r]))

    def _noise_slopes(self, t: Array) -> tuple[Array, Array]:
        """Return the first two derivatives of the logarithms of noise parameters in t."""
        counts = self.data.sizes.families[1]
        least = np.full(len(t), FLOOR)
        least[counts] = 1.0 / MOST_R
        value = least + t**2
        first = 2.0 * t / value
        second = 2.0 / value - first**2
        sign = np.ones(len(t))
        sign[counts] = -1.0
        return sign * first, sign * second

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
        search = MixedPosteriors(p, self.diagonal)
        terms = float(search.solve(self.data, self.q, self.decrement)[0] @ self.weights)
        sums = self._sums(search, order=4)
        gradient, precondition, rho, noise = self._derivatives(x, p, sums)
        value = terms / len(self.q.mean) - self.penalty(p)
        return Point(
            value, gradient, lambda u: self._times_curvature(p, rho, noise, u), precondition
        )

    def em_step(self, x: Array) -> tuple[Array, float, float]:
        """Take one step of the posteriors, and compute Newton's step of the parameters of each term.

        Returns the step, the bound at `x` before the step of the posteriors, and the rise that the
        step of the parameters promises.
        """
        p = self.parameters(x)
        search = MixedPosteriors(p, self.diagonal)
        terms = search.take_step(self.data, self.q) @ self.weights
        gradient, precondition, _, _ = self._derivatives(x, p, self._sums(search, order=2))
        step = self._limited(precondition(gradient))
        value = float(terms) / len(self.q.mean) - self.penalty(p)
        return step, value, 0.5 * float(gradient @ step)

    def _limited(self, step: Array) -> Array:
        """Shorten a step of EM where it would change loadings or intercepts of bits or counts too much."""
        W, b, t = np.split(step.copy(), self._sizes)
        W = W.reshape(self.n_rows, -1)
        largest = np.zeros(self.n_rows)
        np.maximum.at(largest, self.owner, np.abs(b))
        largest = np.maximum(largest, np.linalg.norm(W, axis=1))
        largest[self.owner[self.data.sizes.families[0]]] = 0.0  # the step is exact
        share = _MOST_CHANGE / np.maximum(largest, _MOST_CHANGE)
        return np.concatenate([(W * share[:, None]).ravel(), b * share[self.owner], t])

    def penalty(self, p: TermParameters) -> float:
        """Return the penalty in nats per sample, which is at least 0."""
        squares = float(np.square(p.W).sum(axis=1) @ self._shares)
        share = PRIOR_SHARE / p.noise[self.data.sizes.families[0]]
        return 0.5 * self.ridge * (squares + float((share - np.log(share) - 1.0).sum()))

    def _sums(self, search: MixedPosteriors, order: int) -> Sums:
        """Return sums over the samples at the posteriors, and keep derivatives of order 4."""
        p = search.parameters
        D, k = p.W.shape
        sums = Sums(
            Change(np.zeros((D, k)), np.zeros(D), np.zeros(len(p.noise))),
            np.zeros((D, k * k)),
            np.zeros((D, k)),
            np.zeros(D),
            np.zeros((2, len(p.noise))),
        )
        for samples in self._blocks():
            data, q, w = self.data.of(samples), self.q.of(samples), self.weights[samples]
            S = q.covariance
            E = search.expectations(data, q.mean, S, order)
            if order == 4:
                self._kept[:, samples], self._covariance[samples] = E[1:], S
                if self.diagonal:
                    self._mean_covariance[samples] = search.mean_covariance(E)
            first, second = (w[:, None] * E[1]).T, (w[:, None] * E[2]).T
            flat = S.reshape(len(S), -1)
            sums.gradient.W[...] += first @ q.mean + _times_rows(second @ flat, p.W)
            sums.gradient.b[...] += first.sum(axis=1)
            outer = (q.mean[:, :, None] * q.mean[:, None, :]).reshape(len(S), -1)
            sums.moments[...] -= second @ (flat + outer)
            sums.means[...] -= second @ q.mean
            sums.curvature[...] -= second.sum(axis=1)
            sums.by_noise[...] += sums_by_noise(data, E, q.mean @ p.W.T + p.b, p.noise, w)
        return sums

    def _derivatives(
        self, x: Array, p: TermParameters, sums: Sums
    ) -> tuple[Array, Product, Array, Array]:
        """Return the gradient, a preconditioner, and derivatives by the noise parameters."""
        n, (D, k) = len(self.q.mean), p.W.shape
        ridge = n * self.ridge * self._shares[:, None]
        rho, change_of_rho = self._noise_slopes(self._change(x).t)
        # The prior of the noise variances.
        gaussian = self.data.sizes.families[0]
        share = 0.5 * n * self.ridge * PRIOR_SHARE / p.noise[gaussian]
        sums.by_noise[0, gaussian] += share - 0.5 * n * self.ridge
        sums.by_noise[1, gaussian] -= share
        noise = -(rho**2 * sums.by_noise[1] + change_of_rho * sums.by_noise[0])
        gradient = Change(sums.gradient.W - ridge * p.W, sums.gradient.b, rho * sums.by_noise[0])
        moments = (sums.moments + ridge * np.eye(k).ravel()).reshape(D, k, k)
        precondition = self._preconditioner(
            moments / n, sums.means / n, sums.curvature / n, noise / n
        )
        return self._vector(gradient) / n, precondition, rho, noise

    def _preconditioner(self, moments: Array, means: Array, sums: Array, noise: Array) -> Product:
        """Return products with the inverses of the negative Hessians of loadings, given q.

        The intercepts of terms that share loadings are eliminated from the equations of these.
        """
        k, tiny = means.shape[1], np.finfo(float).tiny
        sums = sums * (1.0 + _RIDGE) + tiny
        ratio = means / sums[:, None]
        blocks = self._by_row(moments - ratio[:, :, None] * means[:, None, :])
        largest = np.einsum("jhh->jh", self._by_row(moments)).max(axis=1)
        blocks += (_RIDGE * largest + tiny)[:, None, None] * np.eye(k)
        inverses = np.linalg.inv(blocks)
        noise = np.maximum(np.abs(noise), 1e-2)

        def precondition(g: Array) -> Array:
            of_W, of_b, of_t = np.split(g, self._sizes)
            of_W = of_W.reshape(-1, k) - self._by_row(ratio * of_b[:, None])
            W = np.einsum("jhl,jl->jh", inverses, of_W)
            b = of_b / sums - np.einsum("jh,jh->j", ratio, W[self.owner])
            return np.concatenate([W.ravel(), b, of_t / noise])

        return precondition

    def _times_curvature(self, p: TermParameters, rho: Array, noise: Array, u: Array) -> Array:
        """Multiply the negative Hessian by a vector: the posteriors follow the parameters."""
        change = self._change(u)
        dW, db, dt = change
        W, n, N = p.W, len(self.q.mean), len(p.noise)
        (D, k), products = W.shape, p.products
        crossed = dW[:, :, None] * W[:, None, :]
        dproducts = (crossed + crossed.transpose(0, 2, 1)).reshape(D, k * k)
        total = Change(np.zeros((D, k)), np.zeros(D), -noise * change.t)
        for samples in self._blocks():
            E1, E2, E3, E4 = kept = self._kept[:, samples]
            M, S = self.q.mean[samples], self._covariance[samples]
            flat = S.reshape(len(S), -1)
            da, dv = M @ dW.T + db, 0.5 * (flat @ dproducts.T)
            d1, d2 = E2 * da + E3 * dv, E3 * da + E4 * dv
            by_t = self._slopes_by_t(samples, p, rho)
            d1[:, :N] += by_t[0] * dt
            d2[:, :N] += by_t[1] * dt
            pull = d1 @ W + E1 @ dW, 0.5 * (d2 @ products + E2 @ dproducts).reshape(S.shape)
            # The posteriors restore a gradient of zero.
            response = Response(kept[1:], W, products, self.diagonal)
            dM, dS = response.solve(
                *pull,
                self._mean_covariance[samples],
                S,
                self.q.precision[samples],
                _INNER_STEPS,
            )
            dflat = dS.reshape(len(S), -1)
            more_a, more_v = dM @ W.T, 0.5 * (dflat @ products.T)
            d1 += E2 * more_a + E3 * more_v
            d2 += E3 * more_a + E4 * more_v
            da, dv = da + more_a, dv + more_v
            w = self.weights[samples, None]
            d1, d2, E1, E2 = w * d1, w * d2, w * E1, w * E2
            total.W[...] += d1.T @ M + E1.T @ dM + _times_rows(E2.T @ flat, dW)
            total.W[...] += _times_rows(d2.T @ flat + E2.T @ dflat, W)
            total.b[...] += d1.sum(axis=0)
            total.t[...] += (w * (by_t[0] * da[:, :N] + by_t[1] * dv[:, :N])).sum(axis=0)
        total.W[...] -= n * self.ridge * self._shares[:, None] * dW
        return self._vector(total) / -n

    def _slopes_by_t(self, samples: slice, p: TermParameters, rho: Array) -> tuple[Array, Array]:
        """Return derivatives of the kept first two orders in t."""
        E = [self._kept[0, samples], *self._kept[:3, samples]]
        first, second = slopes_by_noise(self.data.of(samples), E, p.noise)
        return (first * rho), (second * rho)


def _times_rows(matrices: Array, W: Array) -> Array:
    """Multiply the matrix of each term, flattened, by its loadings."""
    D, k = W.shape
    return np.einsum("jhl,jl->jh", matrices.reshape(D, k, k), W)
