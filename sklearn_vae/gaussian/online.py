"""Leading directions of a stream of samples in O(d k) memory, for online EM of pPCA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.precision import SMALLEST


@dataclass(frozen=True, eq=False)
class RunningCovariance:
    r"""Weight, mean and leading eigenpairs of the samples of a stream, older ones counting less.

    The E-step of pPCA needs only products of a batch with the directions of the model, S_b Q. Their
    running average is kept, with the mean and the trace; outside of them the covariance is that of
    the model, the same in every direction,

        S = Y H^-1 Y' + s (I - Q Q'),   Y = S Q,   H = Q' Y,

    with s from the trace. The M-step takes the leading eigenvectors of this S: they lie in the
    span of Q and Y, so it costs O(d k^2). A few directions more than the model has follow those
    that may become leading ones. A direction to which the data turn grows by its share of the batch
    over the gap of the variances, as in a natural gradient step.

    References
    ----------
    Cappé and Moulines, "On-line expectation-maximization algorithm for latent data models",
    JRSS-B 2009, eq. 8 and 9: running averages of the statistics of the E-step; here past ones
    follow the directions as they turn, by the model.
    """

    n: float  # sum of the weights of the samples
    mean: Array
    directions: Array  # Q, (d, m), orthonormal
    values: Array  # (m,), variances along them, descending: H is diag(values)
    total_variance: float  # trace of S, exactly that of the weighted samples

    @classmethod
    def of(cls, X: Array, n_directions: int) -> RunningCovariance:
        """Start from a batch, completed by random directions where it has fewer of its own."""
        n, d = X.shape
        with np.errstate(over="ignore", invalid="ignore"):
            mean = X.mean(axis=0)
            R = X - mean
            variance = _checked(float(np.vdot(R, R)) / n)
        # The smaller of the two products of the rows with themselves.
        wide = n < d
        values, vectors = np.linalg.eigh((R @ R.T if wide else R.T @ R) / n)
        held = min(n_directions, int((values > 1e-14 * values[-1]).sum()))
        values, vectors = values[::-1][:held], vectors[:, ::-1][:, :held]
        # Not axes, along which the data may have no variance.
        spare = np.random.RandomState(0).standard_normal((d, n_directions - held))
        leading = R.T @ vectors / np.sqrt(n * values) if wide else vectors
        directions = np.linalg.qr(np.hstack([leading, spare]))[0]
        values = np.concatenate([values, np.zeros(n_directions - held)])
        return cls(float(n), mean, directions, values, variance)

    def add(self, X: Array, forgetting: float = 1.0) -> RunningCovariance:
        """Add a batch, where all earlier samples count `forgetting` times as much as before."""
        Q, before, n_rows = self.directions, forgetting * self.n, len(X)
        n = before + n_rows
        between = before * n_rows / n
        with np.errstate(over="ignore", invalid="ignore"):
            mean = X.mean(axis=0)
            R, delta = X - mean, mean - self.mean
            trace = before * self.total_variance + np.vdot(R, R) + between * (delta @ delta)
            variance = _checked(float(trace) / n)
        Y = before * (Q * self.values) + R.T @ (R @ Q) + between * np.outer(delta, delta @ Q)
        directions, values = _leading_pairs(Q, Y / n, variance)
        moved = self.mean + (n_rows / n) * delta
        return RunningCovariance(n, moved, directions, values, variance)


def _checked(variance: float) -> float:
    """The total variance, if it can be divided by."""
    if SMALLEST < variance < np.inf:
        return variance
    raise ValueError(
        "X must have rows that are not all the same, with squares within the range of float64, got "
        f"a total variance of {variance:.3g}."
    )


def _leading_pairs(Q: Array, Y: Array, trace: float) -> tuple[Array, Array]:
    """Leading eigenvectors and eigenvalues of S, as many as Q has, from Y = S Q and the trace."""
    d, k = Q.shape
    basis, triangle = np.linalg.qr(np.hstack([Q, Y]))
    # Q again, orthonormal to rounding after any number of batches, and what is orthogonal to it.
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
