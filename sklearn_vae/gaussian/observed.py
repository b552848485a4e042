"""Probabilistic PCA of samples with missing values: posterior, likelihood, imputation."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from sklearn_vae.gaussian.arrays import row_blocks

# Numbers in the (k, k) matrices of a block of patterns, to fit in the cache.
BLOCK = 2**16
# Up to this order, elimination in all matrices of a block at once is faster than LAPACK, from this
# number of them on.
ELIMINATE_UP_TO, ELIMINATE_FROM = 16, 50
# The same for roots of inverses.
ROOTS_UP_TO = 32
# Lower bound of the noise variance, as a share of the least variance of a feature.
LEAST_NOISE = 1e-10
# A difference below this share of its terms has cancelled and is recomputed as a sum.
CANCELLED = 1e-4

# Held by the thread that limits BLAS to one thread.
_ONE_THREAD = threading.Lock()


@dataclass(frozen=True, eq=False)
class Parameters:
    """Parameters of pPCA."""

    loadings: np.ndarray  # (d, k)
    mean: np.ndarray  # (d,)
    noise_variance: float


class Block(NamedTuple):
    """Patterns of observed features, and the samples that have them."""

    observed: np.ndarray  # (p, d), of 0.0 and 1.0
    samples: slice  # of `IncompleteData.values`
    owner: np.ndarray | None  # pattern of each sample; None if every sample has its own

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """Repeat values of patterns, along the last axis, for each of their samples."""
        return values if self.owner is None else values[..., self.owner]


class Posterior(NamedTuple):
    """p(z|x) of the r samples of a block of p patterns, with covariance sigma2 M^-1."""

    mean: np.ndarray  # (k, r)
    inverse: np.ndarray  # M^-1 of each pattern, or its root B with M^-1 = B'B, (k, k, p)
    log_det: np.ndarray  # log det M, (r,)
    log_likelihood: np.ndarray  # (r,), in nats


class IncompleteData:
    """Data with missing values (NaN), sorted by the pattern of observed features.

    Samples with the same pattern share their posterior covariance. `order` are the indices of the
    sorted samples, and `values` are X - center in this order, 0 where missing; `pattern` is the
    pattern of each, and `observed` the patterns. The mean of `Parameters` is relative to `center`.
    The positive `weights` are sorted, too.
    """

    def __init__(
        self,
        X: np.ndarray,
        center: np.ndarray,
        n_components: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self._center = center
        observed = ~np.isnan(X)
        first, pattern, counts = patterns(observed)
        # Patterns of a single sample come first, so that their values need not be repeated.
        by_count = np.argsort(counts, kind="stable")
        pattern = np.argsort(by_count)[pattern]
        self.order = np.argsort(pattern, kind="stable")
        self.values = np.where(observed, X - center, 0.0)[self.order]
        self.squares = np.einsum("ij,ij->i", self.values, self.values)
        self.weights = None if weights is None else weights[self.order]
        self.pattern = pattern[self.order]
        self._counts = counts[by_count]
        self.observed = observed[first[by_count]]
        self.n_observed = self.observed.sum(axis=1)[self.pattern]
        size = min(max(BLOCK // max(n_components, 1) ** 2, 256), 512)
        self.blocks = list(self._blocks(size))

    @cached_property
    def n(self) -> float:
        """Number of samples, or the sum of their weights."""
        return float(len(self.values) if self.weights is None else self.weights.sum())

    @cached_property
    def n_values(self) -> float:
        """Number of observed values, or the sum of their weights."""
        return float(self.sum(self.n_observed))

    def check_finite(self) -> None:
        """Raise ValueError unless the squares of the observed values have a finite sum."""
        if not np.isfinite(self.squares.sum()):
            raise ValueError(
                "X must have observed values whose squared distances from the mean are finite in "
                "float64. Scale X."
            )

    def sum(self, values: np.ndarray, samples: slice = slice(None)) -> Any:
        """Sum values of consecutive samples, along the first axis, with their weights."""
        return values.sum(axis=0) if self.weights is None else self.weights[samples] @ values

    @cached_property
    def _variances(self) -> np.ndarray:
        """Observed variances."""
        if self.weights is None:
            n_observed = self._counts @ self.observed
        else:
            totals = np.bincount(self.pattern, self.weights, len(self._counts))
            n_observed = totals @ self.observed
        n_observed = np.where(n_observed > 0, n_observed, 1)
        # The center of a constant feature may be a rounded mean.
        shift = self.sum(self.values) / n_observed
        return np.maximum(self.sum(self.values**2) / n_observed - shift**2, 0.0)

    @cached_property
    def varies(self) -> np.ndarray:
        """Whether the observed values of a feature differ by more than rounding, (d,)."""
        return np.sqrt(self._variances) > 8.0 * 2.0**-52 * np.abs(self._center)

    @cached_property
    def least_noise(self) -> float:
        """Lower bound of sigma2 in EM, set by rounding errors; 0 if no feature varies."""
        if not self.varies.any():
            return 0.0
        rounding = 8.0 * 2.0**-52 * float(self.sum(self.squares)) / self.n_values
        return max(LEAST_NOISE * float(self._variances[self.varies].min()), rounding)

    def _blocks(self, size: int) -> Iterator[Block]:
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        single, rare = np.searchsorted(self._counts, [1, 16], side="right")
        edges = {0, single, rare, *range(0, single, size), *range(single, rare, size // 4)}
        edges.update(range(rare, len(self._counts) + 1))
        for a, b in itertools.pairwise(sorted(int(edge) for edge in edges)):
            samples = slice(int(starts[a]), int(starts[b]))
            owner = None if b <= single else self.pattern[samples] - a
            yield Block(self.observed[a:b].astype(float), samples, owner)

    def posterior(
        self, block: Block, parameters: Parameters, *, by_root: bool = False
    ) -> Posterior:
        """Compute E[z|x_o] = M^-1 W_o'(x_o - mean_o) with M = W_o'W_o + sigma2 I for a block.

        With `by_root`, the roots of the inverses are computed, which takes half of the time.
        """
        W, mean, sigma2 = parameters.loadings, parameters.mean, parameters.noise_variance
        k = W.shape[1]
        observed, samples, owner = block
        i, j, position = latent_pairs(k)
        M = ((W[:, i] * W[:, j]).T @ observed.T)[position]
        M[np.arange(k), np.arange(k)] += sigma2
        inverse, log_det = root_and_log_det(M) if by_root else inverse_and_log_det(M)
        X = self.values[samples]
        shift, offset = (W * mean[:, None]).T @ observed.T, mean**2 @ observed.T
        log_det = block.repeated(log_det)
        Y = W.T @ X.T - block.repeated(shift)
        Z = _times_inverse(inverse, Y, owner, by_root)
        terms = self.squares[samples] - 2.0 * (X @ mean) + block.repeated(offset)
        distance = terms - np.einsum("ij,ij->j", Y, Z)
        redo = np.flatnonzero(~(distance >= CANCELLED * terms))
        if redo.size:
            # Compute the difference as the sum |r - W_o z|^2 + sigma2 |z|^2, and refine z once
            # because M is ill conditioned.
            patterns = redo if owner is None else owner[redo]
            mask = observed[patterns]
            centered = X[redo] - mask * mean
            R = centered - mask * (Z[:, redo].T @ W.T)
            rest = W.T @ R.T - sigma2 * Z[:, redo]
            Z[:, redo] += _times_inverse(inverse, rest, patterns, by_root)
            R = centered - mask * (Z[:, redo].T @ W.T)
            distance[redo] = np.sum(R**2, axis=1) + sigma2 * np.sum(Z[:, redo] ** 2, axis=0)
        n_observed = self.n_observed[samples]
        log_likelihood = -0.5 * (
            n_observed * math.log(2.0 * math.pi)
            + (n_observed - k) * math.log(sigma2)
            + log_det
            + distance / sigma2
        )
        log_likelihood[n_observed == 0] = 0.0
        return Posterior(Z, inverse, log_det, log_likelihood)


def posterior(
    X: np.ndarray, parameters: Parameters, *, return_cov: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and variance or covariance of z given the observed values."""
    n, k = X.shape[0], parameters.loadings.shape[1]
    mean, variance = np.empty((n, k)), np.empty((n, k, k) if return_cov else (n, k))
    for samples, block, q in _posteriors(X, parameters):
        mean[samples] = q.mean.T
        inverse = q.inverse if return_cov else np.einsum("aap->ap", q.inverse)
        variance[samples] = parameters.noise_variance * np.moveaxis(block.repeated(inverse), -1, 0)
    return mean, variance


def log_likelihood(X: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Compute the log-density of the observed values, in nats; 0 for samples without any."""
    values = np.empty(X.shape[0])
    for samples, _, q in _posteriors(X, parameters):
        values[samples] = q.log_likelihood
    return values


def impute(
    X: np.ndarray, parameters: Parameters, *, return_std: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Replace missing values by conditional means; return also standard deviations if asked."""
    W = parameters.loadings
    i, j, _ = latent_pairs(W.shape[1])
    squares = W[:, i] * W[:, j] * np.where(i == j, 1.0, 2.0)
    filled, std = X.copy(), np.zeros(X.shape) if return_std else None
    for samples, block, q in _posteriors(X, parameters, by_root=True):
        missing = np.isnan(X[samples])
        filled[samples] = np.where(missing, q.mean.T @ W.T + parameters.mean, X[samples])
        if std is not None:
            # For the missing values Cov[x|x_o] = sigma2 (I + W M^-1 W').
            variance = parameters.noise_variance * (1.0 + squares @ inverse_pairs(q.inverse))
            std[samples] = np.where(missing, block.repeated(variance).T ** 0.5, 0.0)
    return filled, std


def sample(X: np.ndarray, parameters: Parameters, rng: np.random.RandomState) -> np.ndarray:
    """Replace missing values by a joint draw from p(x_m|x_o): draw z|x_o, then x_m|z."""
    W, sigma2 = parameters.loadings, parameters.noise_variance
    filled = X.copy()
    for samples, block, q in _posteriors(X, parameters, by_root=True):
        missing = np.isnan(X[samples])
        # The Cholesky factor of M^-1 = B'B from B, because rounding may leave M^-1 indefinite.
        R = np.linalg.qr(np.moveaxis(q.inverse, 2, 0), mode="r")
        roots = np.moveaxis(R * np.sign(np.einsum("paa->pa", R))[:, :, None], 0, 2).swapaxes(0, 1)
        deviations = rng.standard_normal(q.mean.shape)
        Z = q.mean + math.sqrt(sigma2) * multiply_each(roots, deviations, block.owner)
        noise = math.sqrt(sigma2) * rng.standard_normal(missing.shape)
        filled[samples] = np.where(missing, Z.T @ W.T + parameters.mean + noise, X[samples])
    return filled


def _posteriors(
    X: np.ndarray, parameters: Parameters, *, by_root: bool = False
) -> Iterator[tuple[np.ndarray, Block, Posterior]]:
    """Yield indices of samples in X with their block and its posterior."""
    k = parameters.loadings.shape[1]
    relative = replace(parameters, mean=np.zeros_like(parameters.mean))
    with one_thread_for(k):
        for samples in row_blocks(*X.shape):
            data = IncompleteData(X[samples], parameters.mean, k)
            for block in data.blocks:
                yield (
                    samples.start + data.order[block.samples],
                    block,
                    data.posterior(block, relative, by_root=by_root),
                )


def observed_moments(
    X: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, variance and weight of the observed values of each feature."""
    w = np.ones(len(X)) if weights is None else weights
    seen = ~np.isnan(X)
    counts = np.maximum(w @ seen, np.finfo(float).tiny)
    center = w @ np.where(seen, X, 0.0) / counts
    center += w @ np.where(seen, X - center, 0.0) / counts
    variances = w @ np.where(seen, X - center, 0.0) ** 2 / counts
    return center, variances, counts


def patterns(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first row of each pattern of a mask, pattern of each row, and counts."""
    codes = np.packbits(observed, axis=1)
    keys = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, first, pattern, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    return first, pattern, counts


@cache
def latent_pairs(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the index pairs i >= j of k latents, and a matrix of the position of each pair."""
    i, j = np.tril_indices(k)
    position = np.zeros((k, k), dtype=int)
    position[i, j] = position[j, i] = np.arange(len(i))
    return i, j, position


def inverse_and_log_det(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute inverses and log-determinants of positive definite M, (k, k, p), in place."""
    if _is_for_lapack(M):
        stack = np.moveaxis(M, 2, 0)
        return np.moveaxis(np.linalg.inv(stack), 0, 2), _log_det(np.linalg.cholesky(stack))
    product, pivots = np.empty_like(M), np.empty(M.shape[1:])
    with np.errstate(all="ignore"):  # the pivots are checked at the end
        for a in range(len(M)):  # the sweep operator, which leaves -M^-1
            row = M[a].copy()
            pivots[a] = row[a]
            scaled = row / pivots[a]
            M -= np.multiply(row[:, None], scaled, out=product)
            M[a] = M[:, a] = scaled
            M[a, a] = -1.0 / pivots[a]
    return np.negative(M, out=M), _log_det_of_pivots(pivots)


def _is_for_lapack(M: np.ndarray, largest: int = ELIMINATE_UP_TO) -> bool:
    """Return whether LAPACK, one by one, is faster for M of shape (k, k, p)."""
    return M.shape[0] > largest or M.shape[2] < ELIMINATE_FROM


def _log_det(roots: np.ndarray) -> np.ndarray:
    """Return log-determinants by Cholesky factors, (p, k, k)."""
    return 2.0 * np.log(np.einsum("paa->pa", roots)).sum(axis=1)


def root_and_log_det(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute lower triangular B with M^-1 = B'B, and log det M, of positive definite M.

    The matrices are along the last axis, (k, k, p), and are overwritten.
    """
    k = M.shape[0]
    if _is_for_lapack(M, ROOTS_UP_TO):
        roots = np.linalg.cholesky(np.moveaxis(M, 2, 0))
        return np.moveaxis(np.linalg.inv(roots), 0, 2), _log_det(roots)
    # Cholesky's method by columns. Sums of products in einsum need no temporary matrices.
    root = np.zeros_like(M)
    with np.errstate(all="ignore"):  # the pivots are checked at the end
        for a in range(k):
            column, scale = M[a:, a], root[a, a]
            if a > 0:
                column -= np.einsum("bcp,cp->bp", M[a:, :a], M[a, :a])
            np.divide(1.0, np.sqrt(column[0], out=scale), out=scale)
            column *= scale
            if a > 0:
                row = np.einsum("cp,cbp->bp", M[a, :a], root[:a, :a], out=root[a, :a])
                row *= -scale
    diagonal = np.arange(k)
    return root, 2.0 * _log_det_of_pivots(M[diagonal, diagonal])


def inverse_pairs(root: np.ndarray) -> np.ndarray:
    """Compute the entries of M^-1 = B'B at the index pairs of `latent_pairs`, (pairs, p).

    B is lower triangular, (k, k, p).
    """
    k = root.shape[0]
    pairs, start = np.empty((k * (k + 1) // 2, root.shape[2])), 0
    for a in range(k):
        row = pairs[start : start + a + 1]
        np.einsum("bp,bcp->cp", root[a:, a], root[a:, : a + 1], out=row)
        start += a + 1
    return pairs


def _log_det_of_pivots(pivots: np.ndarray) -> np.ndarray:
    """Return log-determinants by the pivots of elimination, (k, p), which must be positive."""
    if not (pivots > 0.0).all():
        raise np.linalg.LinAlgError("Matrix is not positive definite")
    return np.log(pivots).sum(axis=0)


def _times_inverse(
    inverse: np.ndarray, Y: np.ndarray, owner: np.ndarray | None, by_root: bool
) -> np.ndarray:
    """Multiply the vector of each sample by M^-1 of its pattern, given it or its root."""
    if by_root:
        return multiply_each(inverse.swapaxes(0, 1), multiply_each(inverse, Y, owner), owner)
    return multiply_each(inverse, Y, owner)


def multiply_each(inverse: np.ndarray, Y: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    """Multiply the vector of each sample by the matrix of its pattern, (k, r)."""
    if inverse.shape[2] == 1:
        return inverse[:, :, 0] @ Y
    return np.einsum("abp,bp->ap", inverse if owner is None else inverse[:, :, owner], Y)


@cache
def blas_threads() -> ThreadpoolController:
    """Return the thread pools of BLAS, cached because the search takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def blas_in_use() -> str:
    """Describe BLAS libraries, kernels and threads, which affect the last digits of products."""
    names = ("internal_api", "version", "architecture", "num_threads")
    libraries = [" ".join(str(lib.get(name)) for name in names) for lib in blas_threads().info()]
    return ", ".join(sorted(libraries))


@contextmanager
def one_thread_for(k: int) -> Iterator[None]:
    """Limit BLAS to one thread if k x k matrices go through LAPACK one by one.

    The limit applies to the whole process. Only one thread at a time sets and restores it, since
    two might restore the wrong number.
    """
    if k > ELIMINATE_UP_TO and _ONE_THREAD.acquire(blocking=False):
        try:
            with blas_threads().limit(limits=1, user_api="blas"):
                yield
        finally:
            _ONE_THREAD.release()
    else:
        yield
