"""Probabilistic PCA of samples with missing values: posterior, likelihood and imputation."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from sklearn_vae.gaussian.arrays import row_blocks

# Numbers in the (k, k) matrices of a block of patterns, which should stay in the cache.
BLOCK = 2**15
# Number of latent dimensions up to which it is faster to sweep the matrices of a block together.
SWEEP_UP_TO = 16
# Below this share of the least variance of a feature the noise counts as none.
LEAST_NOISE = 1e-10
# A difference that is less than this share of its terms is computed in another way.
LOST = 1e-4

# Held by the thread that has BLAS compute on one thread.
_ONE_THREAD = threading.Lock()


@dataclass(frozen=True, eq=False)
class Parameters:
    """Loadings W of shape (d, k), mean of shape (d,) and sigma2."""

    loadings: np.ndarray
    mean: np.ndarray
    noise_variance: float


class Block(NamedTuple):
    """Some patterns of observed features, and the rows that have them."""

    observed: np.ndarray  # (p, d), of 0.0 and 1.0
    rows: slice
    owner: np.ndarray | None  # pattern of each row; None where every row has its own

    def over_rows(self, values: np.ndarray) -> np.ndarray:
        """Repeat values of patterns, along the last axis, for each of their rows."""
        return values if self.owner is None else values[..., self.owner]


class Posterior(NamedTuple):
    """p(z|x) of the r rows of a block of p patterns; the covariance is sigma2 M^-1."""

    mean: np.ndarray  # (k, r)
    inverse: np.ndarray  # M^-1 of each pattern, (k, k, p)
    log_det: np.ndarray  # of M, (r,)
    log_likelihood: np.ndarray  # (r,), in nats


class IncompleteData:
    """Data with missing values (NaN), sorted by the pattern of what is observed.

    Samples with the same pattern share their (k, k) posterior covariance.

    Parameters
    ----------
    X : array of shape (n, d)
    centre : array of shape (d,)
        Near the mean of each feature, and subtracted: the mean of `Parameters` is relative to it.
    n_components : int
        k of the models to be fitted.

    Attributes
    ----------
    order : array of shape (n,)
        Indices into X of the sorted samples.
    values : array of shape (n, d)
        X in that order, less the centre, 0 where missing.
    blocks : list of Block
        All patterns with their rows; one that many rows share is a block of its own.
    """

    def __init__(self, X: np.ndarray, centre: np.ndarray, n_components: int) -> None:
        self._centre = centre
        observed = ~np.isnan(X)
        first, pattern, counts = _patterns(observed)
        # Patterns of a single row come first: their values need not be repeated.
        by_count = np.argsort(counts, kind="stable")
        pattern = np.argsort(by_count)[pattern]
        self.order = np.argsort(pattern, kind="stable")
        self.values = np.where(observed, X - centre, 0.0)[self.order]
        self.squares = np.einsum("ij,ij->i", self.values, self.values)
        self._pattern = pattern[self.order]
        self._counts = counts[by_count]
        self._observed = observed[first[by_count]]
        self.n_observed = self._observed.sum(axis=1)[self._pattern]
        size = min(max(BLOCK // max(n_components, 1) ** 2, 256), 512)
        self.blocks = list(self._blocks(size))

    @cached_property
    def least_noise(self) -> float:
        """Least sigma2 of EM, below which all is rounding error; 0 where no feature varies."""
        seen = self._counts @ self._observed
        variances = np.sum(self.values**2, axis=0) / np.maximum(seen, 1)
        # Constants, less their mean, may have a rounding error as their variance.
        varies = variances > (8.0 * 2.0**-52 * self._centre) ** 2
        if not varies.any():
            return 0.0
        rounding = 8.0 * 2.0**-52 * float(self.squares.sum()) / np.maximum(seen, 1).sum()
        return max(LEAST_NOISE * float(variances[varies].min()), rounding)

    def _blocks(self, size: int) -> Iterator[Block]:
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        single, few = np.searchsorted(self._counts, [1, 16], side="right")
        edges = {0, single, few, *range(0, single, size), *range(single, few, size // 4)}
        edges.update(range(few, len(self._counts) + 1))
        for a, b in itertools.pairwise(sorted(int(edge) for edge in edges)):
            rows = slice(int(starts[a]), int(starts[b]))
            owner = None if b <= single else self._pattern[rows] - a
            yield Block(self._observed[a:b].astype(float), rows, owner)

    def posterior(self, block: Block, parameters: Parameters) -> Posterior:
        """Posterior of a block: M = W_o'W_o + sigma2 I and E[z|x_o] = M^-1 W_o'(x_o - mean_o)."""
        W, mean, sigma2 = parameters.loadings, parameters.mean, parameters.noise_variance
        k = W.shape[1]
        observed, rows, owner = block
        i, j, position = pairs_of(k)
        M = ((W[:, i] * W[:, j]).T @ observed.T)[position]
        M[np.arange(k), np.arange(k)] += sigma2
        inverse, log_det = _inverse(M)
        X = self.values[rows]
        shift, offset = (W * mean[:, None]).T @ observed.T, mean**2 @ observed.T
        log_det = block.over_rows(log_det)
        Y = W.T @ X.T - block.over_rows(shift)
        Z = _times(inverse, Y, owner)
        terms = self.squares[rows] - 2.0 * (X @ mean) + block.over_rows(offset)
        left = terms - np.einsum("ij,ij->j", Y, Z)
        lost = np.flatnonzero(~(left >= LOST * terms))
        if lost.size:
            # The difference has cancelled: the same as a sum, |r - W_o z|^2 + sigma2 |z|^2.
            # And M is ill conditioned: z is refined once.
            patterns = lost if owner is None else owner[lost]
            seen, centred = observed[patterns], X[lost] - observed[patterns] * mean
            R = centred - seen * (Z[:, lost].T @ W.T)
            some = inverse if inverse.shape[2] == 1 else inverse[:, :, patterns]
            Z[:, lost] += _times(some, W.T @ R.T - sigma2 * Z[:, lost], None)
            R = centred - seen * (Z[:, lost].T @ W.T)
            left[lost] = np.sum(R**2, axis=1) + sigma2 * np.sum(Z[:, lost] ** 2, axis=0)
        n_observed = self.n_observed[rows]
        log_likelihood = -0.5 * (
            n_observed * math.log(2.0 * math.pi)
            + (n_observed - k) * math.log(sigma2)
            + log_det
            + left / sigma2
        )
        log_likelihood[n_observed == 0] = 0.0
        return Posterior(Z, inverse, log_det, log_likelihood)


def posterior(
    X: np.ndarray, parameters: Parameters, *, return_cov: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (n, k) and variance or covariance of z given what is observed of each sample."""
    n, k = X.shape[0], parameters.loadings.shape[1]
    mean, spread = np.empty((n, k)), np.empty((n, k, k) if return_cov else (n, k))
    for samples, block, q in _posteriors(X, parameters):
        mean[samples] = q.mean.T
        inverse = q.inverse if return_cov else np.einsum("aap->ap", q.inverse)
        spread[samples] = parameters.noise_variance * np.moveaxis(block.over_rows(inverse), -1, 0)
    return mean, spread


def log_likelihood(X: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Log-density of what is observed of each sample, in nats, shape (n,); 0 if nothing is."""
    values = np.empty(X.shape[0])
    for samples, _, q in _posteriors(X, parameters):
        values[samples] = q.log_likelihood
    return values


def impute(
    X: np.ndarray, parameters: Parameters, *, return_std: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """X with missing values replaced by conditional means; standard deviations, 0 if observed."""
    W = parameters.loadings
    i, j, _ = pairs_of(W.shape[1])
    squares = W[:, i] * W[:, j] * np.where(i == j, 1.0, 2.0)
    filled, std = X.copy(), np.zeros(X.shape) if return_std else None
    for samples, block, q in _posteriors(X, parameters):
        some = X[samples]
        filled[samples] = np.where(np.isnan(some), q.mean.T @ W.T + parameters.mean, some)
        if std is not None:
            # Cov[x|x_o] = sigma2 (I + W M^-1 W') among what is missing.
            variance = parameters.noise_variance * (1.0 + squares @ q.inverse[i, j])
            std[samples] = np.where(np.isnan(some), block.over_rows(variance).T ** 0.5, 0.0)
    return filled, std


def _posteriors(
    X: np.ndarray, parameters: Parameters
) -> Iterator[tuple[np.ndarray, Block, Posterior]]:
    """Indices of samples in X, their block and its posterior."""
    k = parameters.loadings.shape[1]
    centred = replace(parameters, mean=np.zeros_like(parameters.mean))
    with one_thread_for(k):
        for rows in row_blocks(*X.shape):
            data = IncompleteData(X[rows], parameters.mean, k)
            for block in data.blocks:
                yield rows.start + data.order[block.rows], block, data.posterior(block, centred)


def _patterns(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row and number of rows of each pattern of a mask, and the pattern of each row."""
    codes = np.packbits(observed, axis=1)
    keys = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, first, pattern, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    return first, pattern, counts


@cache
def pairs_of(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices i >= j of the pairs of k latents, and the place of each pair, shape (k, k)."""
    i, j = np.tril_indices(k)
    position = np.zeros((k, k), dtype=int)
    position[i, j] = position[j, i] = np.arange(len(i))
    return i, j, position


def _inverse(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverses and log-determinants of positive definite matrices; overwrites M, (k, k, p)."""
    k = M.shape[0]
    if k > SWEEP_UP_TO:
        stack = np.moveaxis(M, 2, 0)
        roots = np.linalg.cholesky(stack)
        log_det = 2.0 * np.log(np.einsum("paa->pa", roots)).sum(axis=1)
        return np.moveaxis(np.linalg.inv(stack), 0, 2), log_det
    product = np.empty_like(M)
    log_det = np.zeros(M.shape[2])
    for a in range(k):  # the sweep operator, which leaves -M^-1
        pivot, row = M[a, a].copy(), M[a].copy()
        if not (pivot > 0.0).all():
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        log_det += np.log(pivot)
        scaled = row / pivot
        M -= np.multiply(row[:, None], scaled, out=product)
        M[a] = M[:, a] = scaled
        M[a, a] = -1.0 / pivot
    return np.negative(M, out=M), log_det


def _times(inverse: np.ndarray, Y: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    """Product of the matrix and the vector of each row, (k, r)."""
    if inverse.shape[2] == 1:
        return inverse[:, :, 0] @ Y
    return np.einsum("abp,bp->ap", inverse if owner is None else inverse[:, :, owner], Y)


@cache
def blas_threads() -> ThreadpoolController:
    """Threads of the loaded libraries, cached: looking for these takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def blas_in_use() -> str:
    """Libraries, kernels and threads, on which the last digits of a product depend."""
    names = ("internal_api", "version", "architecture", "num_threads")
    libraries = [" ".join(str(lib.get(name)) for name in names) for lib in blas_threads().info()]
    return ", ".join(sorted(libraries))


@contextmanager
def one_thread_for(k: int) -> Iterator[None]:
    """Run BLAS on one thread where (k, k) matrices go through LAPACK one by one.

    The number of BLAS threads belongs to the process: only one thread at a time sets and restores
    it, or the wrong number would be restored. Other threads keep the current number.
    """
    if k > SWEEP_UP_TO and _ONE_THREAD.acquire(blocking=False):
        try:
            with blas_threads().limit(limits=1, user_api="blas"):
                yield
        finally:
            _ONE_THREAD.release()
    else:
        yield
