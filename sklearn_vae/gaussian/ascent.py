"""Closed-form iterations to the maximum of the bound of a linear VAE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.linear_elbo import LinearElbo, LinearVAEParameters


class Ascent(NamedTuple):
    """Result of one iteration."""

    parameters: LinearVAEParameters
    directions: Array  # (d, m), orthonormal; the first k are the directions of W's columns
    values: Array  # (m,), variances of the data along the directions, descending
    rest: float  # sum of the variances of the data orthogonal to the directions
    bound: float
    gain: float  # estimate of how much the bound can still rise
    done: bool  # whether the bound can rise by less than the tolerance
    span: Array  # basis of the search space of the next iteration


def maximize(
    elbo: LinearElbo,
    start: Array,
    n_components: int,
    noise_variance: float | None = None,
    *,
    least_noise: float = 0.0,
    tol: float = 1e-10,
    max_iter: int = 1000,
    after: Ascent | None = None,
) -> Iterator[Ascent]:
    """Iterate to the global maximum of the bound, which never falls except by rounding.

    Coordinate ascent over encoder, decoder and sigma2 is a power iteration, which is slow if
    eigenvalues are close. Each iteration here takes the Rayleigh-Ritz vectors of the span of three
    sets: the last directions, their products with S, and their last change (Knyazev, "Toward the
    Optimal Preconditioned Eigensolver", 2001, algorithm 4.1). The m >= k columns of `start` must
    not be orthogonal to a leading eigenvector; m > k keeps the k-th column from stalling at a
    lower eigenvector. `after` is an iteration to continue from.
    """
    k, m = n_components, start.shape[1]
    before, basis = None, start
    if after is not None:
        before, basis = after.directions, after.span
        elbo = elbo.resolving(after.parameters.noise_variance)
    for _ in range(max_iter):
        basis, is_complete = _orthonormal(elbo, basis)
        *spectrum, p = _best_in_span(elbo, basis, k, m, noise_variance, least_noise)
        precise = elbo.resolving(p.noise_variance)
        if precise is not elbo:
            elbo = precise
            *spectrum, p = _best_in_span(elbo, basis, k, m, noise_variance, least_noise)
        values, Q, SQ, rest = spectrum
        added = Q[:, :0] if before is None else Q - before @ (before.T @ Q)
        # In units of the largest eigenvalue, because its square may overflow.
        unit = values[0] if values[0] > 0.0 else 1.0
        residuals = SQ / unit - Q * (values / unit)
        lengths = np.sqrt((residuals**2).sum(axis=0))
        rounding = 4.0 * len(Q) ** 0.5 * np.finfo(float).eps
        if elbo.centered is not None:
            rounding = rounding * np.sqrt(values / unit)
        lengths[lengths <= rounding] = 0.0
        gain = _remaining_gain(values / unit, lengths, k, p.noise_variance / unit)
        done = is_complete or gain < tol
        basis = np.hstack([Q, residuals / np.where(lengths > 0.0, lengths, 1.0), added])
        yield Ascent(p, Q, values, rest, elbo.value(p), 0.0 if is_complete else gain, done, basis)
        if done:
            return
        before = Q


def _best_in_span(
    elbo: LinearElbo,
    basis: Array,
    k: int,
    m: int,
    noise_variance: float | None,
    least_noise: float,
) -> tuple[Array, Array, Array, float, LinearVAEParameters]:
    """Return :meth:`LinearElbo.leading`, and the best parameters with W in the span of a basis."""
    values, Q, SQ, rest = elbo.leading(basis, m)
    others = rest + float(values[k:].sum())
    p = elbo.best_along(Q[:, :k], values[:k], others, noise_variance, least_noise)
    return values, Q, SQ, rest, p


def _orthonormal(elbo: LinearElbo, A: Array) -> tuple[Array, bool]:
    """Return an orthonormal basis of the span of A, and whether it contains all data."""
    if elbo.centered is not None and A.shape[1] >= len(elbo.centered):
        return np.linalg.qr(elbo.centered.T)[0], True
    if A.shape[1] >= len(A):
        return np.eye(len(A)), True
    return np.linalg.qr(A)[0], False


def _remaining_gain(values: Array, lengths: Array, k: int, noise_variance: float) -> float:
    """Estimate how much the bound can still rise from the first k eigenpairs, in nats.

    An eigenvalue l exceeds its approximation by at most the length r of the residual, and by about
    r^2 / gap (Parlett, "The Symmetric Eigenvalue Problem", theorem 11.7.1). Times
    (1 / sigma2 - 1 / l) / 2 this is the rise of the bound. A zero column stays zero if its
    direction has no component p along an eigenvector with variance above sigma2. Such a component
    implies r >= p (sigma2 - l), and in random starts it is about 1 / sqrt(d).
    """
    gaps = np.maximum(values[:k] - values[-1], np.finfo(float).tiny)
    values, r = values[:k], lengths[:k]
    rises = np.where(r < gaps, r * (r / gaps), r)
    slopes = 1.0 / noise_variance - 1.0 / np.maximum(values + rises, noise_variance)
    idle = (values <= noise_variance) & (r > 1e-4 * (noise_variance - values))
    return 0.5 * float((slopes * rises).sum() + r[idle].sum() / noise_variance)
