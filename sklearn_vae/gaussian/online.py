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
    rest: float  # sum of the variances orthogonal to the directions

    @property
    def total_variance(self) -> float:
        """Trace of S, exact for the weighted samples."""
        return float(self.values.sum()) + self.rest

    @classmethod
    def of(cls, X: Array, n_directions: int, weights: Array | None = None) -> RunningCovariance:
        """Start from a batch, with random directions if its rank is below `n_directions`."""
        d = X.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            n, mean, R = _centered(X, weights)
            _checked(float(np.vdot(R, R)) / n)
        wide = len(X) < d
        values, vectors = np.linalg.eigh((R @ R.T if wide else R.T @ R) / n)
        rank = min(n_directions, int((values > 1e-14 * values[-1]).sum()))
        values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
        # Not coordinate axes, along which the data may have no variance.
        random = np.random.RandomState(0).standard_normal((d, n_directions - rank))
        leading = R.T @ vectors / np.sqrt(n * values) if wide else vectors
        directions = np.linalg.qr(np.hstack([leading, random]))[0]
        P = R @ directions
        rest = float(np.sum((R - P @ directions.T) ** 2)) / n
        axes, values = _axes(np.linalg.qr(P, mode="r") / n**0.5)
        return cls(n, mean, directions @ axes, values, rest)

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
            _checked(float(trace) / n)
        P, along = R @ Q, delta @ Q
        Y = before * (Q * self.values) + R.T @ P + between * np.outer(delta, along)
        # Not the trace minus the variances along Q, which would cancel.
        outside = before * self.rest + np.sum((R - P @ Q.T) ** 2)
        outside += between * np.sum((delta - Q @ along) ** 2)
        directions, values, rest = _leading_pairs(Q, Y / n, float(outside) / n)
        mean = self.mean + (n_batch / n) * delta
        return RunningCovariance(n, mean, directions, values, rest)


def _centered(X: Array, weights: Array | None) -> tuple[float, Array, Array]:
    """Return the sum of the weights, the mean, and X minus it times the roots of the weights."""
    if weights is None:
        mean = X.mean(axis=0)
        return float(len(X)), mean, X - mean
    n = float(weights.sum())
    mean = (weights / n) @ X
    return n, mean, weights[:, None] ** 0.5 * (X - mean)


def _checked(variance: float) -> None:
    """Raise ValueError if the total variance is too small or not finite."""
    if SMALLEST < variance < np.inf:
        return
    raise ValueError(
        "X must contain at least two different samples, whose squares are finite in float64, got "
        f"a total variance of {variance:.3g}."
    )


def _axes(root: Array) -> tuple[Array, Array]:
    """Return eigenvectors and eigenvalues of root' root, descending, with all digits of root."""
    _, lengths, E = np.linalg.svd(root, full_matrices=True)
    return E.T, np.concatenate([lengths**2, np.zeros(len(E) - len(lengths))])


def _leading_pairs(Q: Array, Y: Array, outside: float) -> tuple[Array, Array, float]:
    """Compute the leading eigenpairs of S, one per column of Q, from Y = S Q.

    `outside` is the sum of the variances orthogonal to Q. Returns also the sum of the eigenvalues
    that are not leading.
    """
    d, k = Q.shape
    basis, triangle = np.linalg.qr(np.hstack([Q, Y]))
    # Q, orthonormalized again, and the rest of the basis.
    Q, others = basis[:, :k] * np.sign(np.diag(triangle)[:k]), basis[:, k:]
    H, R = Q.T @ Y, others.T @ Y
    # A root of H = D C D with C = E diag(c) E', because H may be graded.
    D = np.sqrt(np.maximum(np.diag(H), 0.0))
    inverse = np.where(1e-7 * D.max() < D, 1.0 / np.maximum(D, np.finfo(float).tiny), 0.0)
    C = 0.5 * (H + H.T) * np.outer(inverse, inverse)
    C[np.diag_indices(k)] = 1.0
    c, E = np.linalg.eigh(C)
    kept = c > 1e-12
    root = np.zeros((2 * k, basis.shape[1]))
    root[:k, :k] = np.sqrt(np.maximum(c, 0.0))[:, None] * E.T * D
    root[:k][kept, k:] = (E[:, kept] / np.sqrt(c[kept])).T @ (R * inverse).T
    between = float(np.sum(root[:k, k:] ** 2))
    isotropic = max(outside - between, 0.0) / (d - k) if d > k else 0.0
    root[k + np.arange(len(others.T)), k + np.arange(len(others.T))] = isotropic**0.5
    axes, values = _axes(root)
    rest = float(values[k:].sum()) + isotropic * (d - basis.shape[1])
    return np.hstack([Q, others]) @ axes[:, :k], values[:k], rest
