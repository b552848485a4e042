"""Moments of data with missing values, by the precision matrix of the missing values.

Given the observed values of a sample, the m missing ones have the precision P_mm, a block of the
inverse P of the covariance. The cost per sample is O(m^3), while that of the latent variables in
`gaussian.expected_moments` is O(k^3 + k d^2): this is much cheaper where few values are missing.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.observed import (
    IncompleteData,
    Parameters,
    inverse_and_log_det,
    multiply_each,
    one_thread_for,
)

# Number of multiplications that take as long as the calls for one more group.
OVERHEAD = 30_000
# Number of entries in the (m, m) matrices of a group, to fit in the cache.
ENTRIES = 2**16
# A pattern with at least this number of samples is a group by itself.
COMMON = 16
# Largest length of the loadings in units of the noise variance, above which P loses too many digits.
MOST_SIGNAL = 1e5


class Group(NamedTuple):
    """Patterns with m missing values, or a few less, and their samples."""

    features: np.ndarray  # missing features, (m, p); from d on they are dummies that fill up
    counts: np.ndarray  # sum of the weights of the samples of each pattern, (p,)
    entries: np.ndarray  # positions of missing values and dummies of the samples, (m, r)
    owner: np.ndarray | None  # pattern of each sample, None if every sample has its own
    is_weighted: bool  # whether `counts` are not all 1


class ConditionalMoments:
    """Data with missing values, grouped by the number of missing values."""

    def __init__(self, data: IncompleteData) -> None:
        self._data = data
        self._n_features = data.values.shape[1]
        self._n_missing = self._n_features - data.observed.sum(axis=1)
        # Multiplications for the inverses of all patterns, on average.
        self.cost = float(np.mean(self._n_missing.astype(np.float64) ** 3))

    @cached_property
    def _width(self) -> int:
        """Number of features and of dummies, of which the observed ones are 0."""
        n_missing = self._n_missing
        return self._n_features + int(n_missing.max(initial=0) - n_missing.min(initial=0))

    @cached_property
    def groups(self) -> list[Group]:
        """Groups of patterns with similar numbers of missing values."""
        return self._groups(self._n_missing)

    def _groups(self, n_missing: np.ndarray) -> list[Group]:
        """Join patterns to those with more missing values if this takes less time than a group."""
        is_common = np.bincount(self._data.pattern) >= COMMON
        groups = [self._group(np.array([i]), int(n_missing[i])) for i in np.flatnonzero(is_common)]
        order = np.flatnonzero(~is_common)
        order = order[np.argsort(n_missing[order], kind="stable")]
        sizes, start = n_missing[order], 0
        while start < len(order):
            m, stop = int(sizes[start]), start
            while stop < len(order):
                following = int(sizes[stop])
                most = start + max(ENTRIES // max(following, 1) ** 2, 64)
                if (stop - start) * (following**3 - m**3) > OVERHEAD or stop >= most:
                    break
                m = following
                stop = min(int(np.searchsorted(sizes, m, side="right")), most)
            groups.append(self._group(order[start:stop], m))
            start = stop
        return groups

    def _group(self, patterns: np.ndarray, m: int) -> Group:
        data, d = self._data, self._n_features
        missing = ~data.observed[patterns]
        # Dummies count as missing where fewer than m values are.
        n_dummies = m - missing.sum(axis=1)
        missing = np.hstack([missing, np.arange(self._width - d) < n_dummies[:, None]])
        features = np.nonzero(missing)[1].reshape(len(patterns), m).T
        at = np.full(len(data.observed), -1)
        at[patterns] = np.arange(len(patterns))
        owner = at[data.pattern]
        samples = np.flatnonzero(owner >= 0)
        w = None if data.weights is None else data.weights[samples]
        counts = np.bincount(owner[samples], w, len(patterns)).astype(np.float64)
        single = len(samples) == len(patterns)
        if single:  # in the order of the patterns
            samples = samples[np.argsort(owner[samples])]
        return Group(
            np.ascontiguousarray(features),
            counts,
            samples * self._width + features[:, owner[samples]],
            None if single else owner[samples],
            not single or w is not None,
        )

    def expect(self, parameters: Parameters) -> tuple[np.ndarray, np.ndarray, float]:
        """Run the E-step.

        Returns the sum of the expected values minus the mean, the expected sum of their products,
        and the log-likelihood in nats.
        """
        with one_thread_for(max(len(group.features) for group in self.groups)):
            return self._expect(parameters)

    def _expect(self, parameters: Parameters) -> tuple[np.ndarray, np.ndarray, float]:
        """Run the E-step in one thread of BLAS if there are large matrices."""
        data, d, width = self._data, self._n_features, self._width
        P = np.eye(width)
        P[:d, :d], log_det = _precision(parameters)
        log_likelihood = -0.5 * data.n_values * math.log(2.0 * math.pi) - 0.5 * data.n * log_det
        R = np.zeros((len(data.values), width))
        np.subtract(data.values, parameters.mean, out=R[:, :d])
        for group in self.groups:
            R.ravel()[group.entries] = 0.0
        products_of = R @ P
        distances = np.einsum("ij,ij->i", R, products_of)
        log_likelihood -= 0.5 * float(data.sum(distances))
        sums = np.zeros(width * width)
        for group in self.groups:
            if len(group.features) == 0:
                continue
            # E[x_m - mu_m | x_o] = -P_mm^-1 P_mo (x_o - mu_o)
            at = group.features[:, None] * width + group.features
            covariance, log_dets = inverse_and_log_det(P.ravel().take(at))
            shift = products_of.ravel().take(group.entries)
            filled = multiply_each(covariance, shift, group.owner)
            R.ravel()[group.entries] = -filled
            if group.is_weighted:
                covariance *= group.counts
            log_likelihood += 0.5 * self._sum_of_products(group, shift, filled)
            log_likelihood -= 0.5 * float(group.counts @ log_dets)
            sums += np.bincount(at.ravel(), covariance.ravel(), width * width)
        R = R[:, :d]
        w = data.weights
        products = sums.reshape(width, width)[:d, :d] + R.T @ (R if w is None else w[:, None] * R)
        return data.sum(R), products, log_likelihood

    def _sum_of_products(self, group: Group, shift: np.ndarray, filled: np.ndarray) -> float:
        """Sum the scalar products of the vectors of samples, with their weights."""
        w = self._data.weights
        if w is None:
            return float(np.einsum("ar,ar->", shift, filled))
        samples = group.entries[0] // self._width
        return float(w[samples] @ np.einsum("ar,ar->r", shift, filled))


def _precision(parameters: Parameters) -> tuple[np.ndarray, float]:
    """Return the inverse of the covariance W W' + sigma2 I, and the log-determinant of the latter."""
    W, noise = parameters.loadings, parameters.noise_variance
    d, k = W.shape
    M = W.T @ W
    M.flat[:: k + 1] += noise
    P = -(W / noise) @ np.linalg.solve(M, W.T)
    P.flat[:: d + 1] += 1.0 / noise
    return P, float(np.linalg.slogdet(M)[1]) + (d - k) * math.log(noise)
