"""The leading directions of a stream of rows, in O(d k) memory: what online EM of pPCA keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklearn_vae.gaussian.arrays import Array


@dataclass(frozen=True, eq=False)
class RunningCovariance:
    r"""Weight, mean and leading eigenpairs of the rows of a stream, older ones counting less.

    The E-step of pPCA needs of a batch only products with the k directions of the model, S_b Q. So
    the running average of these is all that is kept of the data, beside the mean and the trace;
    outside of them the covariance is what it is in the model, the same in every direction,

        S = Y H^-1 Y' + s (I - Q Q'),   Y = S Q,   H = Q' Y,

    with s from the trace. The M-step takes the k leading eigenvectors of this S: they lie in the
    span of Q and Y, so it costs O(d k^2). Without new rows nothing moves; a direction that the
    rows turn to grows by its share of the batch over the gap of the variances, as a step of
    natural gradient would have it.

    Attributes
    ----------
    n : float
        Sum of the weights of the rows.
    mean : array of shape (d,)
    directions : array of shape (d, k)
        Q, orthonormal.
    values : array of shape (k,)
        Variances along them, descending: H is diag(values).
    total_variance : float
        Trace of S, exactly that of the weighted rows.

    Raises
    ------
    ValueError
        Of `of` and `add`, if the squares of the rows are not finite.

    References
    ----------
    Cappé and Moulines, "On-line expectation-maximization algorithm for latent data models",
    JRSS-B 2009, eq. 8 and 9: running averages of the E-step's statistics; here those of the past
    follow the directions as they turn, by the model.
    """

    n: float
    mean: Array
    directions: Array
    values: Array
    total_variance: float

    @classmethod
    def of(cls, X: Array, n_components: int) -> RunningCovariance:
        """Of a first batch: its own leading directions, and any others where it has fewer."""
        n, d = X.shape
        with np.errstate(over="ignore", invalid="ignore"):
            mean = X.mean(axis=0)
            R = X - mean
            _check_finite(np.vdot(R, R))
        _, lengths, Vt = np.linalg.svd(R, full_matrices=False)
        held = min(n_components, len(lengths))
        # What completes them must not be one of the axes, along which rows may have no variance.
        spare = np.random.RandomState(0).standard_normal((d, n_components - held))
        directions = np.linalg.qr(np.hstack([Vt[:held].T, spare]))[0]
        values = np.concatenate([lengths[:held] ** 2 / n, np.zeros(n_components - held)])
        return cls(float(n), mean, directions, values, float((lengths**2).sum()) / n)

    def add(self, X: Array, forgetting: float = 1.0) -> RunningCovariance:
        """With the rows of another batch, where all before count `forgetting` times as much."""
        Q, before, n_rows = self.directions, forgetting * self.n, len(X)
        n = before + n_rows
        between = before * n_rows / n
        with np.errstate(over="ignore", invalid="ignore"):
            mean = X.mean(axis=0)
            R, delta = X - mean, mean - self.mean
            trace = before * self.total_variance + np.vdot(R, R) + between * (delta @ delta)
            _check_finite(trace)
        Y = before * (Q * self.values) + R.T @ (R @ Q) + between * np.outer(delta, delta @ Q)
        directions, values = _leading_pairs(Q, Y / n, float(trace) / n)
        moved = self.mean + (n_rows / n) * delta
        return RunningCovariance(n, moved, directions, values, float(trace) / n)


def _check_finite(squares: float) -> None:
    if not np.isfinite(squares):
        raise ValueError(f"The rows of X must have finite squares, got a sum of {squares}.")


def _leading_pairs(Q: Array, Y: Array, trace: float) -> tuple[Array, Array]:
    """The k leading eigenvectors and eigenvalues of S, given Y = S Q and the trace of S."""
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
