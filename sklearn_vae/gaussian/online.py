"""Running covariance of a stream of samples in O(d k) memory, for online EM of pPCA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.precision import SMALLEST


@dataclass(frozen=True, eq=False)
class RunningCovariance:
    r"""Weight, mean and leading eigenpairs of a stream in which older samples count less.

    The E-step of pPCA needs the products S_b Q of the covariance of a batch with the directions of
    the model. Their running average (Cappé and Moulines, "On-line expectation-maximization
    algorithm for latent data models", JRSS-B 2009, eq. 8 and 9) approximates the covariance as

        S = Y H^-1 Y' + s (I - Q Q'),   Y = S Q,   H = Q' Y,

    with s from the trace. The M-step takes its leading eigenvectors, which lie in the span of Q and
    Y, in O(d k^2). A few more directions than the model has track those that may become leading.
    """

    n: float  # sum of the weights of the samples
    mean: Array
    directions: Array  # Q, (d, m), orthonormal
    values: Array  # (m,), variances along the directions, descending: H is diag(values)
    total_variance: float  # trace of S, exact for the weighted samples

    @classmethod
    def of(cls, X: Array, n_directions: int, weights: Array | None = None) -> RunningCovariance:
        """Start from a batch, with random directions if its rank is below `n_directions`."""
        d = X.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            n, mean, R = _centered(X, weights)
            variance = _checked(float(np.vdot(R, R)) / n)
        wide = len(X) < d
        values, vectors = np.linalg.eigh((R @ R.T if wide else R.T @ R) / n)
        rank = min(n_directions, int((values > 1e-14 * values[-1]).sum()))
        values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
        # Not coordinate axes, along which the data may have no variance.
        random = np.random.RandomState(0).standard_normal((d, n_directions - rank))
        leading = R.T @ vectors / np.sqrt(n * values) if wide else vectors
        directions = np.linalg.qr(np.hstack([leading, random]))[0]
        values = np.concatenate([values, np.zeros(n_directions - rank)])
        return cls(n, mean, directions, values, variance)

    def add(
        self, X: Array, forgetting: float = 1.0, weights: Array | None = None
    ) -> RunningCovariance:
        """Add a batch after scaling the weights of all earlier samples by `forgetting`."""
        Q, before = self.directions, forgetting * self.n
        with np.errstate(over="ignore", invalid="ignore"):
            n_batch, batch_mean, R = _centered(X, weights)
            n = before + n_batch
            between, delta = before * n_batch / n, batch_mean - self.mean
            trace = before * self.total_variance + np.vdot(R, R) + between * (delta @ delta)
            variance = _checked(float(trace) / n)
        Y = before * (Q * self.values) + R.T @ (R @ Q) + between * np.outer(delta, delta @ Q)
        directions, values = _leading_pairs(Q, Y / n, variance)
        mean = self.mean + (n_batch / n) * delta
        return RunningCovariance(n, mean, directions, values, variance)


def _centered(X: Array, weights: Array | None) -> tuple[float, Array, Array]:
    """Return the sum of the weights, the mean, and X minus it times the roots of the weights."""
    if weights is None:
        mean = X.mean(axis=0)
        return float(len(X)), mean, X - mean
    n = float(weights.sum())
    mean = (weights / n) @ X
    return n, mean, weights[:, None] ** 0.5 * (X - mean)


def _checked(variance: float) -> float:
    """Return the total variance, or raise ValueError if it is too small or not finite."""
    if SMALLEST < variance < np.inf:
        return variance
    raise ValueError(
        "X must contain at least two different samples, whose squares are finite in float64, got "
        f"a total variance of {variance:.3g}."
    )


def _leading_pairs(Q: Array, Y: Array, trace: float) -> tuple[Array, Array]:
    """Compute the leading eigenpairs of S, one per column of Q, from Y = S Q and the trace."""
    d, k = Q.shape
    basis, triangle = np.linalg.qr(np.hstack([Q, Y]))
    # Q, orthonormalized again, and the rest of the basis.
    Q, outside = basis[:, :k] * np.sign(np.diag(triangle)[:k]), basis[:, k:]
    H, R = Q.T @ Y, outside.T @ Y
    H = 0.5 * (H + H.T)
    values, vectors = np.linalg.eigh(H)
    kept = values > 1e-12 * max(values[-1], np.finfo(float).tiny)
    root = (R @ vectors[:, kept]) / np.sqrt(values[kept])
    inner = root @ root.T
    rest = trace - float(values[kept].sum()) - float(np.trace(inner))
    isotropic = max(rest, 0.0) / (d - k) if d > k else 0.0
    S = np.block([[H, R.T], [R, inner + isotropic * np.eye(len(inner))]])
    values, vectors = np.linalg.eigh(S)
    directions = np.hstack([Q, outside]) @ vectors[:, ::-1][:, :k]
    return directions, np.maximum(values[::-1][:k], 0.0)
