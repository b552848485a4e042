"""Bounds of Bernoulli pPCA with products of their second derivatives, for Newton's method."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.bernoulli_elbo import (
    BernoulliParameters,
    LinearBernoulliElbo,
    SamplePosteriors,
)
from sklearn_vae.gaussian.trust_region import Point, Product

# Entries in a block, so that the arrays computed from one stay in the cache.
_BLOCK = 2**17
# Second derivatives only shape the steps, and need few digits.
_SHORT = np.float32
# Smallest eigenvalue of the preconditioner of a feature, as a share of its largest diagonal entry.
_RIDGE = 1e-6
# Number of factors in exp(G) = (I + G / m)^m.
_FACTORS = 64
# Latents with a smaller variance of their posterior means are not transformed into others.
_LEAST_SPREAD = 0.1


class LinearEncoderBound:
    """ELBO with the encoder V = A R' as a function of (W, mu, A, log D) as one vector.

    R whitens the data: the covariance of R'x is I. W and mu are multiplied by the standard
    deviations `std` of the bits. `bits` has shape (n_features, n_samples), and the `weights` of the
    samples have mean 1.
    """

    def __init__(
        self,
        bits: Array,
        whitener: Array,
        std: Array,
        n_components: int,
        weights: Array | None = None,
    ) -> None:
        (d, n), k = bits.shape, n_components
        self.elbo = LinearBernoulliElbo(bits, weights)
        self.whitener, self.std, self.k = whitener, std, k
        self.weights = np.ones(n) if weights is None else weights
        self._sizes = np.cumsum([d * k, d, k * whitener.shape[1]])
        scores = whitener.T @ bits - (whitener.T @ self.elbo.mean)[:, None]
        self._scores, self._short_weights = scores.astype(_SHORT), self.weights.astype(_SHORT)
        # x - E sigmoid(a), and the second and third derivatives of E softplus(a).
        self._kept = np.empty((3, d, n), _SHORT)
        self._fourths = np.empty(d)  # sums of the fourth derivative

    def pack(self, W: Array, mu: Array, A: Array, log_D: Array) -> Array:
        """Return parameters as a vector."""
        return np.concatenate([(W * self.std[:, None]).ravel(), mu * self.std, A.ravel(), log_D])

    def unpack(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """Return W, mu, A and log D."""
        W, mu, A, log_D = np.split(x, self._sizes)
        std, k = self.std, self.k
        return W.reshape(-1, k) / std[:, None], mu / std, A.reshape(k, -1), log_D

    def parameters(self, x: Array) -> BernoulliParameters:
        """Return the parameters of the bound."""
        W, mu, A, log_D = self.unpack(x)
        return BernoulliParameters(W, mu, A @ self.whitener.T, np.exp(log_D))

    def _packed_gradient(self, W: Array, mu: Array, A: Array, log_D: Array) -> Array:
        std = self.std
        return np.concatenate([(W / std[:, None]).ravel(), mu / std, A.ravel(), log_D])

    def move(self, x: Array, step: Array) -> Array:
        """Follow the curve in the direction of a step that keeps the logits where it can.

        With dA = G A + E it leads to F (A + E) and (W + dW + W G) F^-1, with F = exp(G). Where E and
        dW + W G are zero, the latents are transformed and the logits do not change, while on a
        straight line they change in second order.
        """
        (W, mu, A, log_D), (dW, dmu, dA, dlog_D) = self.unpack(x), self.unpack(step)
        G = np.linalg.solve(A @ A.T + _LEAST_SPREAD * np.eye(self.k), A @ dA.T).T
        # Nearly exp(G).
        forth = np.linalg.matrix_power(np.eye(self.k) + G / _FACTORS, _FACTORS)
        W = np.linalg.solve(forth.T, (W + dW + W @ G).T).T
        return self.pack(W, mu + dmu, forth @ (A + dA - G @ A), log_D + dlog_D)

    def __call__(self, x: Array) -> Point:
        """Evaluate the bound."""
        p = self.parameters(x)
        value, g = self.elbo.value_and_gradients(p, self._record)
        gradient = self._packed_gradient(g.W, g.mu, g.V @ self.whitener, g.D * p.D)
        M = self._scores.T @ self.unpack(x)[2].T.astype(_SHORT)
        seconds = self._kept[1] @ self._short_weights
        return Point(
            value,
            gradient,
            lambda u: self._times_curvature(p, M, seconds, u),
            self._preconditioner(p, M, seconds),
        )

    def _record(self, block: slice, *derivatives: Array) -> None:
        for kept, array in zip(self._kept, derivatives[:3], strict=True):
            kept[block] = array
        self._fourths[block] = derivatives[3] @ self.weights

    def _blocks(self) -> Iterator[slice]:
        d, n = self.elbo.bits.shape
        size = max(_BLOCK // n, 1)
        return (slice(start, start + size) for start in range(0, d, size))

    def _times_curvature(self, p: BernoulliParameters, M: Array, seconds: Array, u: Array) -> Array:
        """Multiply the negative Hessian by a vector."""
        (W, _, _, D), (dW, dmu, dA, dlog_D) = p, self.unpack(u)
        n, k = M.shape
        dD = D * dlog_D
        # Half the derivative of the variance w_j'D w_j of the logits.
        dv = 0.5 * (W**2 @ dD) + (W * dW) @ D
        dM = self._scores.T @ dA.T.astype(_SHORT)
        ones, w = np.ones((n, 1), _SHORT), self._short_weights[:, None]
        left = np.hstack([dW, W, dmu[:, None]]).astype(_SHORT)
        right = np.hstack([M, dM, ones]).T
        weighted, weighted_dM = w * np.hstack([M, ones]), w * dM
        product, dseconds, grad_M = np.empty((len(W), k + 1)), np.empty(len(W)), dM.copy()
        for block in self._blocks():
            residual, second, third = self._kept[:, block]
            da = left[block] @ right
            dseconds[block] = (third * da) @ w[:, 0]
            da *= second
            da += dv[block, None].astype(_SHORT) * third  # the derivative of E sigmoid(a)
            product[block] = da @ weighted
            product[block, :k] -= residual @ weighted_dM
            grad_M += da.T @ left[block, k : 2 * k] - residual.T @ left[block, :k]
        dseconds += dv * self._fourths
        product[:, :k] += dseconds[:, None] * (D * W) + seconds[:, None] * (dD * W + D * dW)
        lengths = dseconds @ W**2 + 2.0 * (seconds @ (W * dW))
        log_D = 0.5 * (dD * (1.0 + seconds @ W**2 / n) + D * lengths / n)
        A = (self._scores @ (w * grad_M)).T / n
        return self._packed_gradient(product[:, :k] / n, product[:, k] / n, A, log_D)

    def _preconditioner(self, p: BernoulliParameters, M: Array, seconds: Array) -> Product:
        """Return products with the inverses of the blocks of each feature, of A and of log D."""
        W, D, k, n = p.W, p.D, self.k, len(M)
        spread = seconds[:, None] / n * D
        features = _feature_blocks(self._kept[1], M, self._short_weights, spread, self.std)
        encoder = np.linalg.inv((W.T * (seconds / n)) @ W + np.eye(k))
        log_D = 1.0 / np.maximum(0.5 * D * (1.0 + seconds @ W**2 / n), 0.1)

        def precondition(g: Array) -> Array:
            of_features, A, of_log_D = np.split(g, self._sizes[1:])
            A = encoder @ A.reshape(k, -1)
            return np.concatenate([features(of_features), A.ravel(), log_D * of_log_D])

        return precondition


def _feature_blocks(seconds: Array, M: Array, weights: Array, spread: Array, std: Array) -> Product:
    """Return products with the inverses of the negative Hessians of (w_j, mu_j), given q.

    `seconds`, of shape (n_features, n_samples), are the derivatives of E sigmoid(a). `spread`, of
    shape (n_features, k), are their averages times the variances of the latents.
    """
    (d, k), n = spread.shape, len(M)
    M = np.hstack([M, np.ones((n, 1), M.dtype)])
    i, j = np.triu_indices(k + 1)
    blocks = np.empty((d, k + 1, k + 1))
    blocks[:, i, j] = seconds @ (weights[:, None] * M[:, i] * M[:, j]) / n
    blocks[:, j, i] = blocks[:, i, j]
    diagonal = np.einsum("jhh->jh", blocks)
    diagonal[:, :k] += spread
    diagonal += _RIDGE * diagonal.max(axis=1, keepdims=True) + np.finfo(float).tiny
    inverses = std[:, None, None] ** 2 * np.linalg.inv(blocks)

    def precondition(g: Array) -> Array:
        stacked = np.hstack([g[: d * k].reshape(d, k), g[d * k :, None]])
        product = (inverses @ stacked[:, :, None])[:, :, 0]
        return np.concatenate([product[:, :k].ravel(), product[:, k]])

    return precondition


class PosteriorsBound:
    """ELBO with the best q(z|x) of each sample as a function of (W, mu) as one vector.

    W and mu are multiplied by the standard deviations `std` of the bits. Means M and standard
    deviations S of the posteriors are optimized in place. `X` has shape (n_samples, n_features),
    and the `weights` of the samples have mean 1.
    """

    def __init__(
        self, X: Array, std: Array, M: Array, S: Array, weights: Array | None = None
    ) -> None:
        self.X, self.std, self.M, self.S, self.weights = X, std, M, S, weights
        n, k = M.shape
        self._short_weights = np.ones(n, _SHORT) if weights is None else weights.astype(_SHORT)
        # x - E sigmoid(a), and the next three derivatives of E softplus(a).
        self._kept = np.empty((4, *X.shape), _SHORT)
        self._inverses = np.empty((n, 2 * k, 2 * k))

    def pack(self, W: Array, mu: Array) -> Array:
        """Return parameters as a vector."""
        return np.concatenate([(W * self.std[:, None]).ravel(), mu * self.std])

    def unpack(self, x: Array) -> tuple[Array, Array]:
        """Return W and mu."""
        W, mu = np.split(x, [self.M.shape[1] * len(self.std)])
        return W.reshape(len(self.std), -1) / self.std[:, None], mu / self.std

    def move(self, x: Array, step: Array) -> Array:
        """Follow a step."""
        return x + step

    def __call__(self, x: Array) -> Point:
        """Evaluate the bound."""
        W, mu = self.unpack(x)
        posteriors = SamplePosteriors(W, mu)
        value, grad_W, grad_mu = posteriors.value_and_gradients(
            self.X, self.M, self.S, self.weights, self._record
        )
        gradient = np.concatenate([(grad_W / self.std[:, None]).ravel(), grad_mu / self.std])
        seconds = self._kept[1].T
        weighted_variances = self._short_weights[:, None] * np.square(self.S).astype(_SHORT)
        spread = (seconds @ weighted_variances / len(self.M)).astype(float)
        M = self.M.astype(_SHORT)
        preconditioner = _feature_blocks(seconds, M, self._short_weights, spread, self.std)
        return Point(value, gradient, lambda u: self._times_curvature(W, u), preconditioner)

    def _record(self, samples: slice, *arrays: Array) -> None:
        *derivatives, H = arrays
        for kept, array in zip(self._kept, derivatives, strict=True):
            kept[samples] = array
        self._inverses[samples] = np.linalg.inv(H)

    def _times_curvature(self, W: Array, u: Array) -> Array:
        """Multiply the negative Hessian by a vector: the posteriors follow W and mu."""
        dW, dmu = (part.astype(_SHORT) for part in self.unpack(u))
        W = W.astype(_SHORT)
        (n, k), squares, dsquares = self.M.shape, W**2, W * dW
        product = np.zeros((len(W), k + 1))
        size = max(_BLOCK // len(W), 1)
        for start in range(0, n, size):
            samples = slice(start, start + size)
            M, S = self.M[samples].astype(_SHORT), self.S[samples].astype(_SHORT)
            residual, second, third, fourth = self._kept[:, samples]
            # Derivatives of the means and half the variances of the logits, at first with fixed q.
            da, dv = M @ dW.T + dmu, S**2 @ dsquares.T
            dfirst, dsecond = second * da + third * dv, third * da + fourth * dv
            pull = np.hstack(
                [
                    residual @ dW - dfirst @ W,
                    -S * (dsecond @ squares + 2.0 * (second @ dsquares)),
                ]
            )
            dq = (self._inverses[samples] @ pull[:, :, None])[:, :, 0].astype(_SHORT)
            dM, dS = dq[:, :k], S * dq[:, k:]
            da, dv = dM @ W.T, dS @ squares.T
            dfirst += second * da + third * dv
            dsecond += third * da + fourth * dv
            w = self._short_weights[samples, None]
            product[:, :k] += dfirst.T @ (w * M) - residual.T @ (w * dM)
            product[:, :k] += (dsecond.T @ (w * S**2) + 2.0 * (second.T @ (w * dS))) * W
            product[:, :k] += (second.T @ (w * S**2)) * dW
            product[:, k] += dfirst.T @ w[:, 0]
        product /= n * self.std[:, None]
        return np.concatenate([product[:, :k].ravel(), product[:, k]])
