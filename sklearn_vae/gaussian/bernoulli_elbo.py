"""The evidence lower bound of Bernoulli pPCA, by integrals of one dimension: no draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.softplus import expected_softplus, expected_softplus_of_features

# Entries in a block: those of the few arrays computed from one stay in the cache.
_BLOCK = 2**17
# Newton's method for the posterior of a sample ends where its decrement, twice what is left to
# gain, is this small; the looser one while W and mu are being fitted.
_DECREMENT = 1e-20
_LOOSE_DECREMENT = 1e-12
_MAX_STEPS = 200


class BernoulliParameters(NamedTuple):
    """x_j | z ~ Bernoulli(sigmoid(w_j'z + mu_j)), z ~ N(0, I), q(z|x) = N(V (x - mean), diag D)."""

    W: np.ndarray  # (d, k)
    mu: np.ndarray  # (d,)
    V: np.ndarray  # (k, d)
    D: np.ndarray  # (k,)


class LinearBernoulliElbo:
    """The bound for bits with a linear encoder, in nats per sample.

    Under q the logit a_j = w_j'z + mu_j is normal, so E_q log p(x|z) = sum_j (x_j E a_j -
    E softplus(a_j)) is a sum of integrals of one dimension, exact to 1e-10 of each. The variance of
    a_j is the same for every sample, so that one table per feature serves all of them.

    `bits` in [0, 1], of shape (n_features, n_samples): the bound is linear in them.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), appendix C.3, eq. 33.
    """

    def __init__(self, bits: np.ndarray) -> None:
        self.bits = bits
        self.mean = bits.mean(axis=1)

    def value(self, p: BernoulliParameters) -> float:
        """The bound."""
        return self.value_and_gradients(p)[0]

    def value_and_gradients(self, p: BernoulliParameters) -> tuple[float, BernoulliParameters]:
        """The bound and its derivatives with respect to each parameter, O(n d k)."""
        W, mu, V, D = p
        n = self.bits.shape[1]
        M = self.bits.T @ V.T - V @ self.mean
        reconstruction, grad_W, grad_mu = 0.0, np.empty_like(W), np.empty_like(mu)
        grad_M, curvatures = -M, np.empty_like(mu)
        for block, A, (value, slope, curvature) in _feature_blocks(W, mu, M, D):
            x = self.bits[block]
            reconstruction += float(np.vdot(x, A)) - float(value.sum())
            residual = np.subtract(x, slope, out=slope)
            grad_W[block], grad_mu[block] = residual @ M, residual.sum(axis=1)
            grad_M += residual.T @ W[block]
            curvatures[block] = curvature.sum(axis=1)
        grad_W -= curvatures[:, None] * D * W
        grad_V = (self.bits @ grad_M).T - np.outer(grad_M.sum(axis=0), self.mean)
        grad_D = 0.5 * (1.0 / D - 1.0 - curvatures @ W**2 / n)
        kl = 0.5 * float((np.square(M).mean(axis=0) + D - 1.0 - np.log(D)).sum())
        gradients = BernoulliParameters(grad_W / n, grad_mu / n, grad_V / n, grad_D)
        return reconstruction / n - kl, gradients


def _feature_blocks(
    W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, tuple[np.ndarray, ...]]]:
    """Blocks of features, means (b, n) of their logits, and expectations of :mod:`softplus`."""
    size = max(_BLOCK // max(len(M), 1), 1)
    for start in range(0, len(W), size):
        block = slice(start, start + size)
        A = W[block] @ M.T + mu[block, None]
        yield block, A, expected_softplus_of_features(A, W[block] ** 2 @ D)


class SampleTerms(NamedTuple):
    """Terms of the bound of each sample, in nats.

    `entropies` is H[q(z|x)] - H[p(z)] - E_q H[p(x|z)]: its mean over the samples is that of the
    bound where the parameters are at a stationary point (Lücke, Forster and Dai).
    """

    bound: np.ndarray  # (n,)
    kl: np.ndarray  # (n, k)
    entropies: np.ndarray  # (n,)


def sample_terms(
    X: np.ndarray, W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray
) -> SampleTerms:
    """Terms of the bound under q(z|x) = N(M, diag D), with D of shape (k,) or (n, k)."""
    log_D = np.log(D)
    kl = 0.5 * (np.square(M) + D - 1.0 - log_D)
    entropies = np.broadcast_to(0.5 * log_D.sum(axis=-1), len(M)).copy()
    bound = -kl.sum(axis=1)
    for rows, features, A, variances, (value, slope, curvature) in _blocks(W, mu, M, D):
        bound[rows] += (X[rows, features].T * A - value).sum(axis=0)
        # By Stein's lemma E[a sigmoid(a)] = E a E sigmoid(a) + Var a E sigmoid'(a).
        entropies[rows] -= (value - A * slope - variances * curvature).sum(axis=0)
    return SampleTerms(bound, kl, entropies)


def _blocks(
    W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray
) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]]:
    """Blocks of samples and features: means, variances and expectations of their logits."""
    if D.ndim == 1:
        for block, A, expected in _feature_blocks(W, mu, M, D):
            yield slice(None), block, A, (W[block] ** 2 @ D)[:, None], expected
        return
    for rows in _row_blocks(len(M), len(W)):
        A, variances = W @ M[rows].T + mu[:, None], W**2 @ D[rows].T
        yield rows, slice(None), A, variances, expected_softplus(A, variances)


def _row_blocks(n: int, d: int) -> Iterator[slice]:
    return row_blocks(n, d * (2**20 // _BLOCK))


class SamplePosteriors:
    """For each sample the normal N(m, diag s^2) of the highest bound.

    The bound is strictly concave in (m, s): Newton's method in these 2k numbers, with backtracking,
    finds its only maximum.
    """

    def __init__(self, W: np.ndarray, mu: np.ndarray) -> None:
        self.W, self.mu, self.squares = W, mu, W**2
        pairs = ((W, W), (W, self.squares), (self.squares, self.squares))
        d, k = W.shape
        self._products = [(a[:, :, None] * b[:, None, :]).reshape(d, k * k) for a, b in pairs]

    def start(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Means 0 and the standard deviations that the curvature under the prior suggests."""
        k = self.W.shape[1]
        curvature = expected_softplus(self.mu, self.squares.sum(axis=1))[2]
        s = 1.0 / np.sqrt(1.0 + curvature @ self.squares)
        return np.zeros((n, k)), np.broadcast_to(s, (n, k)).copy()

    def solve(self, X: np.ndarray, M: np.ndarray, S: np.ndarray) -> np.ndarray:
        """Optimise means M and standard deviations S, (n, k) each, in place; return the bounds."""
        bound = np.empty(len(X))
        for rows in _row_blocks(*X.shape):
            bound[rows] = self._solve(X[rows], M[rows], S[rows], _DECREMENT)[0]
        return bound

    def value_and_gradients(
        self, X: np.ndarray, M: np.ndarray, S: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Bound of the best posteriors, in nats per sample, and its derivatives in W and mu.

        M and S are optimised in place; by the envelope theorem their dependence on W and mu does
        not count.
        """
        n = len(X)
        total, grad_W, grad_mu = 0.0, np.zeros_like(self.W), np.zeros_like(self.mu)
        for rows in _row_blocks(*X.shape):
            m, s = M[rows], S[rows]
            bound, slope, curvature = self._solve(X[rows], m, s, _LOOSE_DECREMENT)
            residual = X[rows] - slope
            total += float(bound.sum())
            grad_W += residual.T @ m - (curvature.T @ np.square(s)) * self.W
            grad_mu += residual.sum(axis=0)
        return total / n, grad_W / n, grad_mu / n

    def _solve(
        self, X: np.ndarray, M: np.ndarray, S: np.ndarray, decrement: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:meth:`solve` for one block of samples, with E sigmoid(a) and E sigmoid'(a)."""
        k = self.W.shape[1]
        bound, step = np.full(len(X), -np.inf), np.zeros((len(X), 2 * k))
        slope, curvature = np.empty(X.shape), np.empty(X.shape)
        gain, length = np.zeros(len(X)), np.zeros(len(X))
        trial = np.hstack([M, S])
        rows = np.arange(len(X))
        for _ in range(_MAX_STEPS):
            q = trial[rows]
            value, gradient, H, *expected = self._derivatives(X[rows], q[:, :k], q[:, k:])
            slack = 1e-12 * (1.0 + np.abs(value))
            good = value >= bound[rows] + 1e-4 * length[rows] * gain[rows] - slack
            # Where the bound fell, the same step again, shorter.
            length[rows[~good]] *= 0.25
            taken = rows[good]
            M[taken], S[taken], bound[taken] = q[good, :k], q[good, k:], value[good]
            slope[taken], curvature[taken] = expected[0][good], expected[1][good]
            step[taken] = np.linalg.solve(H[good], gradient[good][:, :, None])[:, :, 0]
            gain[taken] = (step[taken] * gradient[good]).sum(axis=1)
            # No standard deviation may fall to less than a tenth at once.
            shrink = (-step[taken, k:] / S[taken]).max(axis=1, initial=0.9)
            length[taken] = 0.9 / shrink
            rows = rows[(gain[rows] > decrement) & (length[rows] > 1e-10)]
            if not len(rows):
                break
            trial[rows] = np.hstack([M[rows], S[rows]]) + length[rows, None] * step[rows]
        return bound, slope, curvature

    def _derivatives(self, X: np.ndarray, M: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, ...]:
        """Bound, its gradient (n, 2k) in (m, s), minus its Hessian, E sigmoid(a), E sigmoid'(a)."""
        n, k = M.shape
        A, variances = M @ self.W.T + self.mu, np.square(S) @ self.squares.T
        value, slope, second, third, fourth = expected_softplus(A, variances, order=4)
        kl = 0.5 * (np.square(M) + np.square(S) - 1.0).sum(axis=1) - np.log(S).sum(axis=1)
        bound = (X * A - value).sum(axis=1) - kl
        curvature = second @ self.squares
        gradient = np.hstack([(X - slope) @ self.W - M, 1.0 / S - S - S * curvature])
        H = np.empty((n, 2 * k, 2 * k))
        blocks = zip((second, third, fourth), self._products, strict=True)
        H_mm, H_ms, H_ss = ((c @ product).reshape(n, k, k) for c, product in blocks)
        H[:, :k, :k] = H_mm
        H[:, :k, k:] = H_ms * S[:, None, :]
        H[:, k:, :k] = H[:, :k, k:].transpose(0, 2, 1)
        H[:, k:, k:] = H_ss * S[:, None, :] * S[:, :, None]
        diagonal = np.einsum("nhh->nh", H)
        diagonal[:, :k] += 1.0
        diagonal[:, k:] += 1.0 + 1.0 / np.square(S) + curvature
        return bound, gradient, H, slope, second


def importance_weighted_bound(
    X: np.ndarray, W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """log (1/S) sum_s p(x, z_s) / q(z_s|x) of each sample, in nats, z_s = m + sqrt(D) e_s.

    D is (k,) or (n, k); the standard normal `draws` e_s, (S, k), are the same for every sample.
    """
    n, d = X.shape
    D = np.broadcast_to(D, M.shape)
    bounds = np.empty(n)
    for rows in row_blocks(n, d * len(draws), at_least=1):
        m, std = M[rows], np.sqrt(D[rows])
        log_weights = np.empty((len(draws), len(m)))
        for block in row_blocks(len(draws), d * len(m), at_least=1):
            e = draws[block, None]
            Z = m + std * e
            A = Z @ W.T + mu
            log_weights[block] = (X[rows] * A - np.maximum(A, 0.0)).sum(axis=2)
            log_weights[block] -= np.log1p(np.exp(-np.abs(A))).sum(axis=2)
            log_weights[block] += 0.5 * (np.square(e) - np.square(Z)).sum(axis=2)
        bounds[rows] = logsumexp(log_weights, axis=0) + np.log(std).sum(axis=1)
    return bounds - np.log(len(draws))


def laplace_posterior(W: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encoder V (k, d) and D (k,) that is best for the expansion of the bound about z = 0."""
    p = expit(mu)
    weighted = W.T * (p * (1.0 - p))
    precision = weighted @ W + np.eye(W.shape[1])
    return np.linalg.solve(precision, W.T), 1.0 / np.diag(precision)
