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

from sklearn_vae.gaussian.expected_moments import Expected, LowRankFit
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

    def divided_by(self, scale: np.ndarray) -> StackedBlock:
        """Return the block with its features divided by scales of each data set, (m, d)."""
        if (scale == 1.0).all():
            return self
        values = self.values / scale[:, None, :]
        return replace(self, values=values, squares=np.einsum("mrd,mrd->mr", values, values))

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
        return self._evaluated(loadings, mean, noise, with_moments=False)[0]

    def expect(
        self, loadings: np.ndarray, mean: np.ndarray, noise: np.ndarray
    ) -> tuple[Slopes, list[Expected]]:
        """Compute log-likelihoods, gradients and the expected moments of the complete data."""
        slopes, total, products = self._evaluated(loadings, mean, noise, with_moments=True)
        expected = []
        for n, one, two, value in zip(self._n, total, products, slopes.log_likelihood, strict=True):
            shift = one / n
            expected.append(Expected(shift, two / n - np.outer(shift, shift), float(value)))
        return slopes, expected

    def log_likelihoods(self, mean: Sequence[np.ndarray], fits: Sequence[LowRankFit]) -> np.ndarray:
        """Compute log-likelihoods of models, in nats, summed over the samples with their weights."""
        noise = np.array([fit.noise_variance for fit in fits])
        scale = np.array(
            [
                np.ones_like(at) if fit.scale is None else fit.scale
                for at, fit in zip(mean, fits, strict=True)
            ]
        )
        loadings = np.stack([fit.loadings for fit in fits])
        affine = np.concatenate([loadings, (mean / scale)[:, :, None]], axis=2)
        log_det, distance, log_scale = np.zeros((3, len(fits)))
        with np.errstate(all="ignore"):
            for block in self._blocks:
                q = _Posteriors(block.divided_by(scale), affine, noise)
                log_det += q.log_det
                distance += q.distance
                log_scale += _dot(
                    block.counts, (block.observed @ np.log(scale)[:, :, None])[:, :, 0]
                )
        value = self._value(noise, loadings.shape[2], log_det, distance) - log_scale
        if np.isnan(value).any():
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        return value

    def _value(
        self, noise: np.ndarray, k: int, log_det: np.ndarray, distance: np.ndarray
    ) -> np.ndarray:
        """Return log-likelihoods by log det M and (x - mean)' C^-1 (x - mean) sigma2, summed."""
        value = self._n_values * np.log(2.0 * math.pi * noise) - self._n * k * np.log(noise)
        return -0.5 * (value + log_det + distance / noise)

    def _evaluated(
        self, loadings: np.ndarray, mean: np.ndarray, noise: np.ndarray, *, with_moments: bool
    ) -> tuple[Slopes, np.ndarray, np.ndarray]:
        n, n_values, (m, d, k) = self._n, self._n_values, loadings.shape
        affine = np.concatenate([loadings, mean[:, :, None]], axis=2)
        by_affine, inner = np.zeros_like(affine), np.zeros_like(loadings)
        log_det, distance, residual = np.zeros((3, m))
        total, products = np.zeros((m, d)), np.zeros((m, d, d))
        with np.errstate(all="ignore"):  # singular matrices give nan
            for block in self._blocks:
                q = _Posteriors(block, affine, noise)
                log_det += q.log_det
                distance += q.distance
                residual += q.residual
                by_affine += q.products
                inner += q.inverse_sums()
                if with_moments:
                    q.add_moments(total, products)
            # sum_j E |x_j - w_j'z - mean_j|^2 over the observed values.
            explained = noise[:, None, None] * inner
            residual += np.einsum("mdk,mdk->m", loadings, explained)
            by_affine[:, :, :k] -= explained
            by_affine /= (noise * n)[:, None, None]
            value = self._value(noise, k, log_det, distance) / n
            by_log_noise = 0.5 * (residual / noise - n_values) / n
        slopes = Slopes(value, by_affine[:, :, :k], by_affine[:, :, k], by_log_noise)
        return slopes, total, products


class _Posteriors:
    """Sums over p(z|x) = N(z; M^-1 y, sigma2 M^-1) with M = W_o'W_o + sigma2 I in a stacked block."""

    def __init__(self, block: StackedBlock, affine: np.ndarray, noise: np.ndarray) -> None:
        m, r, _ = block.values.shape
        self._block, self._affine, self._noise = block, affine, noise
        k, q = affine.shape[2] - 1, block.observed.shape[1]
        M, shift = self._normal_matrices(k)
        self._B, self._e = factors(M, k)
        owner, W = block.owner, self._affine[:, :, :k]
        y = np.empty((k, m, r))
        np.matmul(W.swapaxes(1, 2), block.values.swapaxes(1, 2), out=y.swapaxes(0, 1))
        y = y.reshape(k, m * r)
        y -= _repeated(shift, owner)
        each = _repeated(self._B, owner), _repeated(self._e, owner)
        # E[z|x], and a row of ones for the mean.
        z = np.ones((k + 1, m, r))
        latents = z[:k].reshape(k, m * r)
        latents[...] = _times_inverse(*each, y)
        self._z = z.swapaxes(0, 1)
        R, squares, distance = self._residuals()
        if (distance < CANCELLED * block.squares).any():
            # Refine z once because M is ill conditioned.
            rest = np.moveaxis(R @ W, 2, 0).reshape(k, m * r)
            latents += _times_inverse(*each, rest - np.repeat(self._noise, r) * latents)
            R, squares, distance = self._residuals()
        self.log_det = _dot(block.counts, -log_of_product(self._e).reshape(m, q))
        self.residual, self.distance = (
            values.sum(axis=1) if block.weights is None else _dot(block.weights, values)
            for values in (squares, distance)
        )
        R = R if block.weights is None else block.weights[:, :, None] * R
        # Sums of (x_j - w_j'z - mean_j) (z, 1) over the observed values.
        self.products = R.swapaxes(1, 2) @ self._z.swapaxes(1, 2)

    def _normal_matrices(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower triangles of M, and W_o'mean_o, of all patterns along the last axis."""
        affine, (m, q, _) = self._affine, self._block.observed.shape
        i, j = column_pairs(k)
        i, j = np.append(i, np.arange(k)), np.append(j, np.full(k, k))
        products = np.empty((len(i), m, q))
        columns = (affine[:, :, i] * affine[:, :, j]).swapaxes(1, 2)
        np.matmul(columns, self._block.by_feature, out=products.swapaxes(0, 1))
        products[i == j] += self._noise[:, None]
        M, shift = np.split(products.reshape(-1, m * q), [-k])
        return M, shift

    def _residuals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the observed values of R = x - W z - mean, |R|^2, and |R|^2 + sigma2 |z|^2.

        The last is (x - mean)' C_o^-1 (x - mean) sigma2 without cancellation.
        """
        R = self._z.swapaxes(1, 2) @ self._affine.swapaxes(1, 2)
        R *= self._block.is_observed
        np.subtract(self._block.values, R, out=R)
        squares = np.einsum("mrd,mrd->mr", R, R)
        z = self._z[:, :-1]
        return R, squares, squares + self._noise[:, None] * np.einsum("mkr,mkr->mr", z, z)

    def inverse_sums(self) -> np.ndarray:
        """Sum M^-1 w_j over the samples that have feature j, (m, d, k)."""
        block, k = self._block, len(self._e)
        pairs = inverses(self._B, self._e).reshape(-1, *block.counts.shape)
        if block.weights is not None or block.owner is not None:
            pairs *= block.counts
        sums = pairs.swapaxes(0, 1) @ block.observed
        W = self._affine[:, :, :k]
        total: np.ndarray = np.einsum("mabd,mdb->mda", sums[:, latent_pairs(k)[2]], W)
        return total

    def add_moments(self, total: np.ndarray, products: np.ndarray) -> None:
        """Add the sums of the expected complete samples, (m, d), and of their products, (m, d, d)."""
        block, k = self._block, len(self._e)
        W, weights = self._affine[:, :, :k], block.weights
        filled = self._z.swapaxes(1, 2) @ self._affine.swapaxes(1, 2)
        is_sample = _repeated(block.counts.ravel() > 0.0, block.owner).reshape(filled.shape[:2])
        filled *= is_sample[:, :, None] - block.is_observed
        filled += block.values
        weighted = filled if weights is None else weights[:, :, None] * filled
        total += weighted.sum(axis=1)
        products += weighted.swapaxes(1, 2) @ filled
        # Cov[x_j, x_l | x_o] = sigma2 (delta_jl + w_j' M^-1 w_l) for missing j and l.
        counted = (1.0 - block.by_feature) * np.sqrt(block.counts)[:, None, :]
        covariance = np.zeros_like(products)
        for a in range(k):
            root = self._B[a, : a + 1] * np.sqrt(self._e[a])
            R = W[:, :, : a + 1] @ root.reshape(a + 1, *block.counts.shape).swapaxes(0, 1)
            R *= counted
            covariance += R @ R.swapaxes(1, 2)
        d = np.arange(W.shape[1])
        covariance[:, d, d] += np.einsum("mdq,mdq->md", counted, counted)
        products += self._noise[:, None, None] * covariance


def _repeated(values: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    return values if owner is None else values[..., owner]


def _times_inverse(B: np.ndarray, e: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Multiply vectors, (k, p), by M^-1 = B diag(e) B'."""
    scaled = e * np.einsum("cbp,bp->cp", B, Y)
    product: np.ndarray = np.einsum("cbp,cp->bp", B, scaled)
    return product


def _dot(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.einsum("mr,mr->m", weights, values)
    return total


@cache
def column_pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the lower triangle of a matrix, column by column."""
    j, i = np.triu_indices(k)
    return i, j


def factors(M: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute unit upper triangular B, by columns (k, k, p), and e, (k, p), with M^-1 = B diag(e) B'.

    The lower triangles of M, (k (k + 1) / 2, p), are in the order of `column_pairs`. Elimination turns
    the rows of I below those of M = L diag(1 / e) L' into the rows of B = L^-1'. Sums of products in
    einsum need no temporary matrices.
    """
    p = M.shape[1]
    columns, multiples = np.empty((k, 2 * k, p)), np.empty((k, p))
    negative, start = np.empty((k, p)), 0
    for a in range(k):
        column, stop = columns[a], start + k - a
        if a > 0:
            np.multiply(columns[:a, a], negative[:a], out=multiples[:a])
            np.einsum("cbp,cp->bp", columns[:a, a : k + a], multiples[:a], out=column[a : k + a])
            column[a:k] += M[start:stop]
        else:
            column[:k] = M[:stop]
        column[k + a], column[k + a + 1 :] = 1.0, 0.0
        np.divide(-1.0, column[a], out=negative[a])
        start = stop
    return columns[:, k:], -negative


def log_of_product(values: np.ndarray) -> np.ndarray:
    """Return logarithms of products along the first axis, nan unless they are of positive numbers."""
    product = values.prod(axis=0)
    # One logarithm of each product takes less time than one of each number.
    if (values > 0.0).all() and ((product > 1e-290) & (product < 1e290)).all():
        return np.log(product)
    logarithms = np.log(np.where((values > 0.0) & (values < np.inf), values, np.nan))
    return logarithms.sum(axis=0)


def inverses(B: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Compute the entries of M^-1 by `factors` at the index pairs of `latent_pairs`, (pairs, p)."""
    k, p = e.shape
    pairs, scaled, start = np.empty((k * (k + 1) // 2, p)), np.empty_like(e), 0
    for a in range(k):
        np.multiply(B[a:, a], e[a:], out=scaled[a:])
        stop = start + a + 1
        np.einsum("cp,cbp->bp", scaled[a:], B[a:, : a + 1], out=pairs[start:stop])
        start = stop
    return pairs
