"""Log-likelihood of pPCA and its gradient for several data sets with missing values at once.

The matrices of a sample are so small that most of the time of a few hundred samples goes into calls of
NumPy. Models of several data sets, such as the training parts of cross-validation, share the calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.observed import CANCELLED, Block, IncompleteData, latent_pairs


class Slopes(NamedTuple):
    """Log-likelihoods per sample of models, nan where one is singular in float64, and gradients."""

    log_likelihood: np.ndarray  # (m,)
    by_loadings: np.ndarray  # (m, d, k)
    by_mean: np.ndarray  # (m, d)
    by_log_noise: np.ndarray  # (m,)


@dataclass(frozen=True, eq=False)
class StackedBlock:
    """One block of each of m data sets, filled up by patterns and samples without observed values.

    These do not change the likelihood or its gradient.
    """

    observed: np.ndarray  # patterns, (m, q, d), of 0.0 and 1.0
    by_feature: np.ndarray  # the same in another order, (m, d, q)
    counts: np.ndarray  # sums of the weights of the samples with each pattern, (m, q)
    values: np.ndarray  # (m, r, d)
    is_observed: np.ndarray  # (m, r, d), of 0.0 and 1.0
    squares: np.ndarray  # sums of the squared values of the samples, (m, r)
    weights: np.ndarray | None  # (m, r), None if they are 1
    owner: (
        np.ndarray | None
    )  # position of the pattern of each sample in m q; None if it is the same

    @classmethod
    def of(cls, parts: Sequence[tuple[IncompleteData, Block | None]]) -> StackedBlock:
        """Stack blocks of data sets, None where a data set has no more blocks."""
        m, d = len(parts), parts[0][0].values.shape[1]
        sizes = [
            (0, 0) if block is None else (len(block.observed), len(data.values[block.samples]))
            for data, block in parts
        ]
        q, r = (max(size) for size in zip(*sizes, strict=True))
        is_single = all(block is None or block.owner is None for _, block in parts)
        q += not is_single  # a pattern for the samples that fill up
        observed, counts = np.zeros((m, q, d)), np.zeros((m, q))
        values, is_observed, weights = np.zeros((m, r, d)), np.zeros((m, r, d)), np.zeros((m, r))
        owner = np.full((m, r), q - 1)
        for i, (data, block) in enumerate(parts):
            if block is None:
                continue
            n_patterns, n = sizes[i]
            observed[i, :n_patterns], values[i, :n] = block.observed, data.values[block.samples]
            owner[i, :n] = np.arange(n) if block.owner is None else block.owner
            weights[i, :n] = 1.0 if data.weights is None else data.weights[block.samples]
            is_observed[i, :n] = block.observed[owner[i, :n]]
            counts[i] = np.bincount(owner[i, :n], weights[i, :n], q)
        return cls(
            observed,
            np.ascontiguousarray(observed.swapaxes(1, 2)),
            counts,
            values,
            observed if is_single else is_observed,
            np.einsum("mrd,mrd->mr", values, values),
            None if all(data.weights is None for data, _ in parts) else weights,
            None if is_single else (owner + q * np.arange(m)[:, None]).ravel(),
        )

    def take(self, kept: np.ndarray) -> StackedBlock:
        """Return the blocks of some of the data sets."""
        q = self.observed.shape[1]
        owner = self.owner
        if owner is not None:
            owner = owner.reshape(len(self.values), -1)[kept] % q
            owner = (owner + q * np.arange(len(kept))[:, None]).ravel()
        observed = self.observed[kept]
        return replace(
            self,
            observed=observed,
            by_feature=self.by_feature[kept],
            counts=self.counts[kept],
            values=self.values[kept],
            is_observed=observed if self.owner is None else self.is_observed[kept],
            squares=self.squares[kept],
            weights=None if self.weights is None else self.weights[kept],
            owner=owner,
        )


class StackedData:
    """Data sets with the same number of features, for models with the same number of components."""

    def __init__(self, parts: Sequence[IncompleteData]) -> None:
        self._n = np.array([data.n for data in parts])
        self._n_values = np.array([data.n_values for data in parts])
        self._blocks = [
            StackedBlock.of(list(zip(parts, blocks, strict=True)))
            for blocks in itertools.zip_longest(*(data.blocks for data in parts))
        ]

    def take(self, kept: np.ndarray) -> StackedData:
        """Return some of the data sets, by their indices."""
        if np.array_equal(kept, np.arange(len(self._n))):
            return self
        stack = object.__new__(StackedData)
        stack._n, stack._n_values = self._n[kept], self._n_values[kept]
        stack._blocks = [block.take(kept) for block in self._blocks]
        return stack

    def slopes(self, loadings: np.ndarray, mean: np.ndarray, noise: np.ndarray) -> Slopes:
        """Compute log-likelihoods and gradients.

        Parameters
        ----------
        loadings : array of shape (m, d, k)
            Loadings of each model.
        mean : array of shape (m, d)
            Means, relative to the centers of the data.
        noise : array of shape (m,)
            Noise variances.
        """
        n, n_values, k = self._n, self._n_values, loadings.shape[2]
        affine = np.concatenate([loadings, mean[:, :, None]], axis=2)
        by_affine, inner = np.zeros_like(affine), np.zeros_like(loadings)
        log_det, distance, residual = np.zeros((3, len(noise)))
        with np.errstate(all="ignore"):  # singular matrices give nan
            for block in self._blocks:
                q = _Posteriors(block, affine, noise)
                log_det += q.log_det
                distance += q.distance
                residual += q.residual
                by_affine += q.products
                inner += q.inner
            # sum_j E |x_j - w_j'z - mean_j|^2 over the observed values.
            explained = noise[:, None, None] * inner
            residual += np.einsum("mdk,mdk->m", loadings, explained)
            by_affine[:, :, :k] -= explained
            by_affine /= (noise * n)[:, None, None]
            value = n_values * np.log(2.0 * math.pi * noise) - n * k * np.log(noise)
            value = -0.5 * (value + log_det + distance / noise) / n
        by_log_noise = 0.5 * (residual / noise - n_values) / n
        return Slopes(value, by_affine[:, :, :k], by_affine[:, :, k], by_log_noise)


class _Posteriors:
    """Sums over p(z|x) = N(z; M^-1 y, sigma2 M^-1) with M = W_o'W_o + sigma2 I in a stacked block."""

    def __init__(self, block: StackedBlock, affine: np.ndarray, noise: np.ndarray) -> None:
        m, r, _ = block.values.shape
        k = affine.shape[2] - 1
        W, q = affine[:, :, :k], block.observed.shape[1]
        # The entries of W_o'W_o, and W_o'mean_o.
        i, j = column_pairs(k)
        i, j = np.append(i, np.arange(k)), np.append(j, np.full(k, k))
        products = np.empty((len(i), m, q))
        columns = (affine[:, :, i] * affine[:, :, j]).swapaxes(1, 2)
        np.matmul(columns, block.by_feature, out=products.swapaxes(0, 1))
        products[i == j] += noise[:, None]
        M, shift = np.split(products.reshape(-1, m * q), [-k])
        root, pivots = roots(M, k)
        log_det = np.log(np.where(pivots > 0.0, pivots, np.nan)).sum(axis=0).reshape(m, q)
        self.log_det = np.einsum("mq,mq->m", block.counts, log_det)
        Y = np.empty((k, m, r))
        np.matmul(W.swapaxes(1, 2), block.values.swapaxes(1, 2), out=Y.swapaxes(0, 1))
        owner = block.owner
        Y = Y.reshape(k, m * r)
        Y -= _repeated(shift, owner)
        each = _repeated(root, owner)
        Z = np.ones((k + 1, m, r))
        latents = Z[:k].reshape(k, m * r)
        latents[...] = _times_inverse(each, Y)
        affine_of_z = Z.swapaxes(0, 1)
        R, distance = _residuals(block, affine, affine_of_z, noise)
        if (distance < CANCELLED * block.squares).any():
            # Refine z once because M is ill conditioned.
            rest = np.moveaxis(R @ W, 2, 0).reshape(k, m * r)
            latents += _times_inverse(each, rest - np.repeat(noise, r) * latents)
            R, distance = _residuals(block, affine, affine_of_z, noise)
        weights = block.weights
        self.distance = distance.sum(axis=1) if weights is None else _dot(weights, distance)
        weighted = R if weights is None else weights[:, :, None] * R
        self.residual = np.einsum("mrd,mrd->m", weighted, R)
        # Sums of (x_j - w_j'z - mean_j) (z, 1) over the observed values.
        self.products = weighted.swapaxes(1, 2) @ affine_of_z.swapaxes(1, 2)
        pairs = inverses(root).reshape(-1, m, q)
        if weights is not None or owner is not None:
            pairs *= block.counts
        sums = pairs.swapaxes(0, 1) @ block.observed
        # M^-1 w_j, summed over the samples that have feature j.
        self.inner = np.einsum("mabd,mdb->mda", sums[:, latent_pairs(k)[2]], W)


def _repeated(values: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    return values if owner is None else values[..., owner]


def _times_inverse(root: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Multiply vectors, (k, p), by M^-1 = B B' of roots B, (k, k, p)."""
    product: np.ndarray = np.einsum("abp,bp->ap", root, np.einsum("abp,ap->bp", root, Y))
    return product


def _dot(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.einsum("mr,mr->m", weights, values)
    return total


def _residuals(
    block: StackedBlock, affine: np.ndarray, Z: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return x - W z - mean of the observed values, and (x - mean)' C_o^-1 (x - mean) sigma2."""
    R = Z.swapaxes(1, 2) @ affine.swapaxes(1, 2)
    R *= block.is_observed
    np.subtract(block.values, R, out=R)
    squares = np.einsum("mkr,mkr->mr", Z[:, :-1], Z[:, :-1])
    return R, np.einsum("mrd,mrd->mr", R, R) + noise[:, None] * squares


@cache
def column_pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the lower triangle of a matrix, column by column."""
    j, i = np.triu_indices(k)
    return i, j


def roots(M: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute upper triangular B with M^-1 = B B', (k, k, p), and the pivots, (k, p).

    The lower triangles of M, (k (k + 1) / 2, p), are in the order of `column_pairs`, and overwritten.
    Cholesky's method turns the rows of I below those of M = L L' into the rows of B = L^-1'.
    """
    p = M.shape[1]
    both, pivots, start = np.empty((2 * k, k, p)), np.empty((k, p)), 0
    for a in range(k):
        column, scale = M[start : start + k - a], both[k + a, a]
        start += k - a
        if a > 0:
            product = np.einsum("bcp,cp->bp", both[a : k + a, :a], both[a, :a])
            column -= product[: k - a]
        pivots[a] = column[0]
        np.divide(1.0, np.sqrt(column[0], out=scale), out=scale)
        np.multiply(column[1:], scale, out=both[a + 1 : k, a])
        if a > 0:
            np.multiply(product[k - a :], -scale, out=both[k : k + a, a])
        both[k + a + 1 :, a] = 0.0
    return both[k:], pivots


def inverses(root: np.ndarray) -> np.ndarray:
    """Compute the entries of M^-1 = B B' at the index pairs of `latent_pairs`, (pairs, p)."""
    k = root.shape[0]
    pairs, start = np.empty((k * (k + 1) // 2, root.shape[2])), 0
    for a in range(k):
        row = pairs[start : start + a + 1]
        np.einsum("cp,bcp->bp", root[a, a:], root[: a + 1, a:], out=row)
        start += a + 1
    return pairs
