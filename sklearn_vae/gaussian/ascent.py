"""The maximum of a linear VAE's bound, by iterations in closed form from any start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.linear_elbo import LinearElbo, LinearVAEParameters


class Ascent(NamedTuple):
    """An iteration on the way to the maximum."""

    parameters: LinearVAEParameters
    directions: Array  # (d, m), orthonormal; the columns of W are along the first k
    values: Array  # (m,), variances of the data along them, descending
    bound: float
    done: bool  # whether no more than the tolerance is left to gain
    span: Array  # the columns that the next iteration combines


def maximise(
    elbo: LinearElbo,
    start: Array,
    n_components: int,
    noise_variance: float | None = None,
    *,
    least_noise: float = 0.0,
    tol: float = 1e-10,
    max_iter: int = 1000,
    after: tuple[Array, Array] | None = None,
) -> Iterator[Ascent]:
    """Iterations to the global maximum, each in closed form; to rounding the bound never falls.

    Coordinate ascent over encoder, decoder and sigma2 is a power iteration: a step multiplies the
    span of W by S, which is slow where eigenvalues are close. Here each iteration takes the best
    directions (Rayleigh and Ritz) in the span of the last ones, of S times these, and of what the
    last iteration added: locally optimal (Knyazev, "Toward the Optimal Preconditioned
    Eigensolver", 2001, algorithm 4.1), in about the root of the number of steps. With a few more
    directions than W has columns, the k-th cannot rest on an eigenvector that is not among the
    first k.

    Parameters
    ----------
    elbo : LinearElbo
    start : array of shape (d, m)
        m >= k columns, none orthogonal to the leading eigenvectors.
    n_components : int
    noise_variance, least_noise
        As in :meth:`LinearElbo.best_along`.
    tol : float, default=1e-10
        The last iteration leaves less to gain, in nats per sample.
    max_iter : int, default=1000
    after : (directions, span), default=None
        Those of the iteration to continue from.
    """
    k, m = n_components, start.shape[1]
    before, basis = (None, start) if after is None else after
    for _ in range(max_iter):
        basis, whole = _orthonormal(elbo, basis)
        S_basis = elbo.times(basis)
        values, E = _leading(basis.T @ S_basis, m)
        Q = basis @ E
        added = Q[:, :0] if before is None else Q - before @ (before.T @ Q)
        p = elbo.best_along(Q[:, :k], values[:k], noise_variance, least_noise)
        # In units of the largest eigenvalue, whose square may be beyond float64.
        unit = values[0] if values[0] > 0.0 else 1.0
        residuals = S_basis @ (E / unit) - Q * (values / unit)
        lengths = np.sqrt((residuals**2).sum(axis=0))
        lengths[lengths <= 4.0 * len(Q) ** 0.5 * np.finfo(float).eps] = 0.0
        left = _left_to_gain(values / unit, lengths, k, p.noise_variance / unit)
        done = whole or left < tol
        basis = np.hstack([Q, residuals / np.where(lengths > 0.0, lengths, 1.0), added])
        yield Ascent(p, Q, values, elbo.value(p), done, basis)
        if done:
            return
        before = Q


def _orthonormal(elbo: LinearElbo, A: Array) -> tuple[Array, bool]:
    """A basis of the span of A, and whether the data lie in it."""
    if elbo.rows is not None and A.shape[1] >= len(elbo.rows):
        return np.linalg.qr(elbo.rows.T)[0], True
    if A.shape[1] >= len(A):
        return np.eye(len(A)), True
    return np.linalg.qr(A)[0], False


def _leading(A: Array, k: int) -> tuple[Array, Array]:
    """The k largest eigenvalues of a symmetric matrix, descending, and their eigenvectors."""
    values, vectors = np.linalg.eigh(A)
    return np.maximum(values[::-1][:k], 0.0), vectors[:, ::-1][:, :k]


def _left_to_gain(values: Array, lengths: Array, k: int, noise_variance: float) -> float:
    """How much the bound may rise from the first k approximate eigenpairs, in nats.

    An eigenvalue exceeds its approximation by at most the length r of the residual, and by about
    r^2 over the gap to what is not approximated (Parlett, "The Symmetric Eigenvalue Problem",
    theorem 11.7.1). Nats are (1 / sigma2 - 1 / l) / 2 times that. A column that is still zero
    stays zero if its direction has no part in one with more variance than sigma2: a part p of it
    would make r at least p (sigma2 - l), and random starts have parts of 1 / sqrt(d).
    """
    gaps = np.maximum(values[:k] - values[-1], np.finfo(float).tiny)
    values, r = values[:k], lengths[:k]
    rises = np.where(r < gaps, r * (r / gaps), r)
    slopes = 1.0 / noise_variance - 1.0 / np.maximum(values + rises, noise_variance)
    idle = (values <= noise_variance) & (r > 1e-4 * (noise_variance - values))
    return 0.5 * float((slopes * rises).sum() + r[idle].sum() / noise_variance)
