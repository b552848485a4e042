"""Evidence lower bound of Bernoulli pPCA by one-dimensional integrals, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.softplus import expected_softplus, expected_softplus_of_features

# Entries in a block, so that the arrays computed from one stay in the cache.
_BLOCK = 2**17
# Newton's method for the posterior of a sample stops when its decrement, twice the possible gain,
# is below this value. The looser value applies while W and mu are fitted.
_DECREMENT = 1e-20
_LOOSE_DECREMENT = 1e-12
_MAX_STEPS = 200


# Receives a block and arrays of it.
Record = Callable[..., None]


class BernoulliParameters(NamedTuple):
    """x_j | z ~ Bernoulli(sigmoid(w_j'z + mu_j)), z ~ N(0, I), q(z|x) = N(V (x - mean), diag D)."""

    W: np.ndarray  # (d, k)
    mu: np.ndarray  # (d,)
    V: np.ndarray  # (k, d)
    D: np.ndarray  # (k,)


class LinearBernoulliElbo:
    """ELBO of binary data with a linear encoder (Lucas et al., 2019, appendix C.3, eq. 33).

    Under q the logit a_j = w_j'z + mu_j is normal. Hence E_q log p(x|z) = sum_j (x_j E a_j -
    E softplus(a_j)) is a sum of one-dimensional integrals, each exact to 1e-10. The variance of a_j
    is the same for all samples, and one table per feature serves them all. `bits` has shape
    (n_features, n_samples) and values in [0, 1]. The `weights` of the samples have mean 1.
    """

    def __init__(self, bits: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.bits = bits
        self.weights = weights
        self.mean = bits.mean(axis=1) if weights is None else bits @ weights / len(weights)

    def value(self, p: BernoulliParameters) -> float:
        """Compute the bound, in nats per sample."""
        return self.value_and_gradients(p)[0]

    def value_and_gradients(
        self, p: BernoulliParameters, record: Record | None = None
    ) -> tuple[float, BernoulliParameters]:
        """Compute the bound and its derivative with respect to each parameter in O(n d k).

        `record` receives blocks of features with their residuals x - E sigmoid(a), (b, n), and the
        next three derivatives of E softplus(a).
        """
        W, mu, V, D = p
        n, weights = self.bits.shape[1], self.weights
        M = self.bits.T @ V.T - V @ self.mean
        reconstruction, grad_W, grad_mu = 0.0, np.empty_like(W), np.empty_like(mu)
        grad_M = -M if weights is None else -weights[:, None] * M
        squares = np.square(M)
        second_moment = squares.mean(axis=0) if weights is None else weights @ squares / n
        curvatures = np.empty_like(mu)
        order = 2 if record is None else 4
        for block, A, (value, slope, *higher) in _feature_blocks(W, mu, M, D, order):
            x, curvature = self.bits[block], higher[0]
            residual = np.subtract(x, slope, out=slope)
            if record is not None:
                record(block, residual, *higher)
            if weights is None:
                reconstruction += float(np.vdot(x, A)) - float(value.sum())
                curvatures[block] = curvature.sum(axis=1)
            else:
                reconstruction += float((x * A - value).sum(axis=0) @ weights)
                curvatures[block] = curvature @ weights
                residual *= weights
            grad_W[block], grad_mu[block] = residual @ M, residual.sum(axis=1)
            grad_M += residual.T @ W[block]
        grad_W -= curvatures[:, None] * D * W
        grad_V = (self.bits @ grad_M).T - np.outer(grad_M.sum(axis=0), self.mean)
        grad_D = 0.5 * (1.0 / D - 1.0 - curvatures @ W**2 / n)
        kl = 0.5 * float((second_moment + D - 1.0 - np.log(D)).sum())
        gradients = BernoulliParameters(grad_W / n, grad_mu / n, grad_V / n, grad_D)
        return reconstruction / n - kl, gradients


def _feature_blocks(
    W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray, order: int = 2
) -> Iterator[tuple[slice, np.ndarray, tuple[np.ndarray, ...]]]:
    """Yield blocks of features, means (b, n) of their logits, and softplus expectations."""
    size = max(_BLOCK // max(len(M), 1), 1)
    for start in range(0, len(W), size):
        block = slice(start, start + size)
        A = W[block] @ M.T + mu[block, None]
        yield block, A, expected_softplus_of_features(A, W[block] ** 2 @ D, order)


class SampleTerms(NamedTuple):
    """Terms of the bound of each sample, in nats.

    `entropies` is H[q(z|x)] - H[p(z)] - E_q H[p(x|z)]. At a stationary point of the parameters it
    has the same mean over the samples as the bound (Lücke, Forster and Dai).
    """

    bound: np.ndarray  # (n,)
    kl: np.ndarray  # (n, k)
    entropies: np.ndarray  # (n,)


def sample_terms(
    X: np.ndarray, W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray
) -> SampleTerms:
    """Compute the terms of the bound for q(z|x) = N(M, diag D), where samples may share D."""
    log_D = np.log(D)
    kl = 0.5 * (np.square(M) + D - 1.0 - log_D)
    entropies = np.broadcast_to(0.5 * log_D.sum(axis=-1), len(M)).copy()
    bound = -kl.sum(axis=1)
    for samples, features, A, variances, (value, slope, curvature) in _blocks(W, mu, M, D):
        bound[samples] += (X[samples, features].T * A - value).sum(axis=0)
        # By Stein's lemma E[a sigmoid(a)] = E a E sigmoid(a) + Var a E sigmoid'(a).
        entropies[samples] -= (value - A * slope - variances * curvature).sum(axis=0)
    return SampleTerms(bound, kl, entropies)


def _blocks(
    W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray
) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]]:
    """Yield blocks of samples and features with means, variances, expectations of the logits."""
    if D.ndim == 1:
        for block, A, expected in _feature_blocks(W, mu, M, D):
            yield slice(None), block, A, (W[block] ** 2 @ D)[:, None], expected
        return
    for samples in _sample_blocks(len(M), len(W)):
        A, variances = W @ M[samples].T + mu[:, None], W**2 @ D[samples].T
        yield samples, slice(None), A, variances, expected_softplus(A, variances)


def _sample_blocks(n: int, d: int) -> Iterator[slice]:
    return row_blocks(n, d * (2**20 // _BLOCK))


class SamplePosteriors:
    """Posteriors N(m, diag s^2) that maximize the bound, one per sample.

    The bound is strictly concave in (m, s), and Newton's method with backtracking finds its only
    maximum.
    """

    def __init__(self, W: np.ndarray, mu: np.ndarray) -> None:
        self.W, self.mu, self.squares = W, mu, W**2
        pairs = ((W, W), (W, self.squares), (self.squares, self.squares))
        d, k = W.shape
        self._products = [(a[:, :, None] * b[:, None, :]).reshape(d, k * k) for a, b in pairs]

    def start(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return means 0, and standard deviations from the curvature of the bound at the prior."""
        k = self.W.shape[1]
        curvature = expected_softplus(self.mu, self.squares.sum(axis=1))[2]
        s = 1.0 / np.sqrt(1.0 + curvature @ self.squares)
        return np.zeros((n, k)), np.broadcast_to(s, (n, k)).copy()

    def solve(self, X: np.ndarray, M: np.ndarray, S: np.ndarray) -> np.ndarray:
        """Optimize means M and standard deviations S in place; return the bounds."""
        bound = np.empty(len(X))
        for samples in _sample_blocks(*X.shape):
            m, s = M[samples], S[samples]
            bound[samples] = self._solve(X[samples], m, s, _DECREMENT)[0]
        return bound

    def value_and_gradients(
        self,
        X: np.ndarray,
        M: np.ndarray,
        S: np.ndarray,
        weights: np.ndarray | None = None,
        record: Record | None = None,
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Compute the bound of the best posteriors and its derivatives in W and mu.

        M and S are optimized in place. By the envelope theorem their dependence on W and mu does
        not contribute to the derivatives. The `weights` of the samples have mean 1. `record`
        receives blocks of samples with their residuals x - E sigmoid(a), (b, d), the next three
        derivatives of E softplus(a), and the negative Hessian of the bound in (m, s), (b, 2k, 2k).
        """
        n = len(X)
        total, grad_W, grad_mu = 0.0, np.zeros_like(self.W), np.zeros_like(self.mu)
        for samples in _sample_blocks(*X.shape):
            m, s = M[samples], S[samples]
            bound, H, (slope, *higher) = self._solve(X[samples], m, s, _LOOSE_DECREMENT)
            residual, curvature = X[samples] - slope, higher[0]
            if record is not None:
                record(samples, residual, *higher, H)
            if weights is not None:
                w = weights[samples, None]
                bound, residual, curvature = bound * w[:, 0], residual * w, curvature * w
            total += float(bound.sum())
            grad_W += residual.T @ m - (curvature.T @ np.square(s)) * self.W
            grad_mu += residual.sum(axis=0)
        return total / n, grad_W / n, grad_mu / n

    def _solve(
        self, X: np.ndarray, M: np.ndarray, S: np.ndarray, decrement: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run :meth:`solve` on one block; return also the results of `_derivatives` there."""
        k = self.W.shape[1]
        bound, step = np.full(len(X), -np.inf), np.zeros((len(X), 2 * k))
        hessians, expectations = np.empty((len(X), 2 * k, 2 * k)), np.empty((4, *X.shape))
        gain, length = np.zeros(len(X)), np.zeros(len(X))
        trial = np.hstack([M, S])
        active = np.arange(len(X))
        for _ in range(_MAX_STEPS):
            q = trial[active]
            value, gradient, H, expected = self._derivatives(X[active], q[:, :k], q[:, k:])
            slack = 1e-12 * (1.0 + np.abs(value))
            rose = value >= bound[active] + 1e-4 * length[active] * gain[active] - slack
            # Backtrack where the bound fell.
            length[active[~rose]] *= 0.25
            taken = active[rose]
            M[taken], S[taken], bound[taken] = q[rose, :k], q[rose, k:], value[rose]
            hessians[taken] = H[rose]
            for kept, array in zip(expectations, expected, strict=True):
                kept[taken] = array[rose]
            step[taken] = np.linalg.solve(H[rose], gradient[rose][:, :, None])[:, :, 0]
            gain[taken] = (step[taken] * gradient[rose]).sum(axis=1)
            # A standard deviation shrinks by a factor of at most 10 per step.
            shrink = (-step[taken, k:] / S[taken]).max(axis=1, initial=0.9)
            length[taken] = 0.9 / shrink
            active = active[(gain[active] > decrement) & (length[active] > 1e-10)]
            if not len(active):
                break
            trial[active] = np.hstack([M[active], S[active]]) + length[active, None] * step[active]
        return bound, hessians, expectations

    def _derivatives(
        self, X: np.ndarray, M: np.ndarray, S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """Compute bound, gradient (n, 2k), negative Hessian, and derivatives of E softplus(a)."""
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
        return bound, gradient, H, (slope, second, third, fourth)


def importance_weighted_bound(
    X: np.ndarray, W: np.ndarray, mu: np.ndarray, M: np.ndarray, D: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """Compute log (1/S) sum_s p(x, z_s) / q(z_s|x) of each sample, with z_s = m + sqrt(D) e_s.

    All samples share D or have their own, and share the standard normal `draws` e_s.
    """
    n, d = X.shape
    D = np.broadcast_to(D, M.shape)
    bounds = np.empty(n)
    for samples in row_blocks(n, d * len(draws), at_least=1):
        m, std = M[samples], np.sqrt(D[samples])
        log_weights = np.empty((len(draws), len(m)))
        for block in row_blocks(len(draws), d * len(m), at_least=1):
            e = draws[block, None]
            Z = m + std * e
            A = Z @ W.T + mu
            log_weights[block] = (X[samples] * A - np.maximum(A, 0.0)).sum(axis=2)
            log_weights[block] -= np.log1p(np.exp(-np.abs(A))).sum(axis=2)
            log_weights[block] += 0.5 * (np.square(e) - np.square(Z)).sum(axis=2)
        bounds[samples] = logsumexp(log_weights, axis=0) + np.log(std).sum(axis=1)
    return bounds - np.log(len(draws))


def laplace_posterior(W: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the encoder V and D that maximizes the bound after an expansion about z = 0."""
    p = expit(mu)
    weighted = W.T * (p * (1.0 - p))
    precision = weighted @ W + np.eye(W.shape[1])
    return np.linalg.solve(precision, W.T), 1.0 / np.diag(precision)
