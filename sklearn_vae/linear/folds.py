"""Spectra and variances of all cross-validation splits, from about one pass over the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device

from sklearn_vae.gaussian.arrays import Array, float_name, row_blocks
from sklearn_vae.gaussian.centered import CenteredData, centered_data, dense
from sklearn_vae.gaussian.eigensolvers import recentered, with_small_variances
from sklearn_vae.gaussian.graded import loses_digits
from sklearn_vae.gaussian.gram import components_of_gram, eigh_of_gram, spectrum_of_gram
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import rounded_along
from sklearn_vae.gaussian.scatter_factor import triangular_factor
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.checks import check_squares_fit, check_sums
from sklearn_vae.linear.dask_arrays import check_memory_here, dask_moments_of_parts
from sklearn_vae.linear.fold_factors import (
    HELD_OUT,
    TRAINING,
    UNUSED,
    FoldFactors,
    Split,
    is_dense_in_memory,
    samples_at,
)
from sklearn_vae.validation import is_memory_mapped

MISSING = (
    "PPCACV accepts missing values only in dense arrays in memory, but X contains NaN. Load X into "
    "memory, or fill the missing values with PPCAImputer."
)

# Consecutive splits, the index of the part of each sample, and the role of each part per split.
Plan: TypeAlias = tuple[list[Split], np.ndarray, np.ndarray]


class MomentFolds:
    """Spectrum of the training samples of each split, and variances of the held-out samples.

    The data are read once for each plan, consecutive splits whose held-out samples do not overlap.
    The samples form parts that lie wholly inside or outside each split, and the moments of the
    parts are added.
    """

    def __init__(self, X: Any, weights: Array | None, splits: list[Split]) -> None:
        check_squares_fit("PPCACV", X.shape[1], X=X)
        self._X, self._weights, self._splits = X, weights, splits
        self.n, self.dtype = _total(X, weights), float_name(X)
        self.moments: Moments | None = None

    def __iter__(self) -> Iterator[tuple[Spectrum, Array, float]]:
        for i, (splits, parts, roles) in enumerate(self._plans()):
            if roles.shape[1] == 0:
                pairs = [
                    (self._moments_of(train), self._moments_of(test)) for train, test in splits
                ]
            else:
                pairs = list(self._sum_parts(self._moments_of_parts(i, parts), roles))
            factors = FoldFactors(self._X, self._weights, splits, parts, roles)
            for split, (training, held_out) in enumerate(pairs):
                spectrum = Spectrum.from_moments(training)
                if factors.are_needed(training, spectrum):
                    yield factors.split(split, training, spectrum)
                else:
                    yield spectrum, *spectrum.variances_of(held_out)

    def _plans(self) -> Iterable[Plan]:
        n, d = self._X.shape
        # Three lists of scatters are kept for the parts of a plan: limit them to 256 MiB.
        return _make_plans(self._splits, n, max(2**28 // (24 * d**2), 10))

    def _sum_parts(
        self, moments: list[Moments], roles: np.ndarray
    ) -> Iterator[tuple[Moments, Moments]]:
        """Sum the moments of the training and of the held-out samples of each split of a plan."""
        before = list(itertools.accumulate(moments))
        after = list(itertools.accumulate(reversed(moments), lambda a, b: b + a))[::-1]
        self.moments = before[-1]
        for split_roles in roles:
            training = _sum_chosen(moments, before, after, split_roles == TRAINING)
            yield training, _sum_chosen(moments, before, after, split_roles == HELD_OUT)

    def _moments_of_parts(self, plan: int, parts: np.ndarray) -> list[Moments]:
        """Compute the moments of each part."""
        # A file is read in blocks for all parts at once, because the splits may be shuffled.
        n, size = len(parts), self._block_size(2**24, len(parts))
        moments: dict[int, Moments] = {}
        for start in range(0, n, size):
            block = parts[start : start + size]
            order = start + np.argsort(block, kind="stable")
            for i, samples in enumerate(np.split(order, np.cumsum(np.bincount(block))[:-1])):
                if len(samples):
                    more = self._moments_of_block(samples)
                    moments[i] = moments[i] + more if i in moments else more
        return [moments[i] for i in range(len(moments))]

    def _block_size(self, numbers: int, n: int) -> int:
        return max(numbers // self._X.shape[1], 1) if is_memory_mapped(self._X) else max(n, 1)

    def _moments_of(self, samples: np.ndarray) -> Moments:
        # A file is copied block by block. Adjacent samples are not copied.
        size = self._block_size(2**22, len(samples))
        blocks = (samples[start : start + size] for start in range(0, len(samples), size))
        return reduce(add, map(self._moments_of_block, blocks))

    def _moments_of_block(self, samples: np.ndarray) -> Moments:
        weights = None if self._weights is None else samples_at(self._weights, samples)
        X = samples_at(self._X, samples)
        moments = Moments.of(X, weights, check_finite=False)
        check_sums(moments, X, missing=MISSING)
        return moments

    def spectrum(self, k: int) -> Spectrum:
        """Compute the spectrum of all samples."""
        if self.moments is None:
            self.moments = self._moments_of(np.arange(self._X.shape[0]))
        refine = None
        if is_dense_in_memory(self._X):
            refine = recentered(self._X, self.moments, self._weights)
        spectrum = Spectrum.from_moments(self.moments)
        refined = with_small_variances(spectrum, k, self.moments.precision, refine)
        return replace(refined, remainder=self.moments.remainder)


class BlockFolds(MomentFolds):
    """MomentFolds of a Dask array, whose blocks are read once for all plans."""

    def __init__(self, estimator: Any, X: Any, sample_weight: Any, splits: list[Split]) -> None:
        d = X.shape[1]
        self._X, self._weights, self._splits = X, None, splits
        self._all_plans = list(super()._plans())
        if any(roles.shape[1] == 0 for *_, roles in self._all_plans):
            raise ValueError(
                "cv must not use a sample more than once in a split if X is a Dask array."
            )
        n_parts = sum(roles.shape[1] for *_, roles in self._all_plans)
        check_memory_here(estimator, d, n_more=3 * n_parts)
        parts = [parts for _, parts, _ in self._all_plans]
        moments = dask_moments_of_parts(estimator, X, sample_weight, parts)
        if not moments:
            raise ValueError("sample_weight must be positive for some samples, got none.")
        self.dtype = reduce(add, moments.values()).dtype
        empty = Moments(0.0, np.zeros(d), np.zeros((d, d)))
        self._moments = [
            [moments.get((i, j), empty) for j in range(roles.shape[1])]
            for i, (*_, roles) in enumerate(self._all_plans)
        ]
        self.n = sum(part.n for part in self._moments[0])
        self.moments = None
        split = itertools.count()
        for (*_, roles), part_moments in zip(self._all_plans, self._moments, strict=True):
            n = np.array([part.n for part in part_moments])
            for split_roles, i in zip(roles, split, strict=False):
                for name, role in (("training", TRAINING), ("held-out", HELD_OUT)):
                    check_some_weight(n[split_roles == role], name, i)

    def _plans(self) -> Iterable[Plan]:
        return self._all_plans

    def _moments_of_parts(self, plan: int, parts: np.ndarray) -> list[Moments]:
        return self._moments[plan]


class GramFolds:
    """Spectra and variances from the Gram matrix of all samples, centered again for each split."""

    def __init__(self, X: Any, weights: Array | None, splits: list[Split]) -> None:
        check_squares_fit("PPCACV", X.shape[0], X=X)
        self._X, self._weights, self._splits = X, weights, splits
        self._data = self._centered(None)
        self.n, self.dtype = _total(X, weights), float_name(X)
        self._K = self._data.gram()

    def _centered(self, weights: Array | None, samples: np.ndarray | None = None) -> CenteredData:
        X = self._X if samples is None else samples_at(self._X, samples)
        data = centered_data(X, weights, keep=False, wide=True)
        check_sums(data, X, missing=MISSING)
        return data

    def _weights_of(self, samples: np.ndarray) -> Array:
        xp = array_namespace(self._K)
        if self._weights is None:
            return xp.ones((len(samples),), dtype=self._K.dtype, device=device(self._K))
        return samples_at(self._weights, samples)

    def _centered_gram(self, samples: np.ndarray, w: Array) -> tuple[Array, Array, float]:
        """Center the weighted Gram matrix of samples at their mean m; return it, X m and |m|^2."""
        K = samples_at(samples_at(self._K, samples).T, samples)
        xp = array_namespace(K)
        offsets = K @ w / xp.sum(w)
        length = float(w @ offsets / xp.sum(w))
        root = w**0.5
        centered = K - offsets[:, None] - offsets[None, :] + length
        return root[:, None] * centered * root[None, :], offsets, length

    def _split(self, train: np.ndarray, test: np.ndarray) -> tuple[Array, Array, Array, float]:
        """Return the products of the samples of a split, centered at the training mean.

        These are the weighted Gram matrix of the training samples, the products of the held-out
        samples with them, the squares of the held-out samples, and the squared length of the mean.
        """
        w = self._weights_of(train)
        xp = array_namespace(w)
        K, offsets, length = self._centered_gram(train, w)
        if length > 10.0 * float(xp.linalg.trace(K)) / float(xp.sum(w)):
            return self._split_from_data(train, test)
        products = samples_at(samples_at(self._K, test).T, train).T
        test_offsets = products @ w / xp.sum(w)
        products = products - test_offsets[:, None] - offsets[None, :] + length
        squares = samples_at(xp.linalg.diagonal(self._K), test) - 2.0 * test_offsets + length
        return K, products * w[None, :] ** 0.5, squares, length

    def _split_from_data(
        self, train: np.ndarray, test: np.ndarray
    ) -> tuple[Array, Array, Array, float]:
        """Compute the result of `_split` from X, if the mean is so large that digits cancel."""
        weights = None if self._weights is None else self._weights_of(train)
        data = self._centered(weights, train)
        K = data.gram()
        xp = array_namespace(K)
        scale = float(xp.sum(self._weights_of(train))) / data.n
        products, squares = [], []
        for block in row_blocks(len(test), data.shape[1]):
            held_out = dense(samples_at(self._X, test[block]))
            T = xp.astype(xp.astype(held_out, K.dtype) - data.mean, data.dtype)
            products.append(data.times(T.T).T)
            squares.append(xp.vecdot(T, T))
        crossed = xp.astype(xp.concat(products), K.dtype) * scale**0.5
        return scale * K, crossed, xp.astype(xp.concat(squares), K.dtype), data.precision.subtracted

    @cached_property
    def _coordinates(self) -> Array | None:
        """Coordinates of the centered samples in their subspace, or None if X is not in memory."""
        if not is_dense_in_memory(self._X):
            return None
        R = array_namespace(self._K).concat(list(self._data.blocks()))
        return triangular_factor(R.T).T

    def _split_accurately(
        self, train: np.ndarray, test: np.ndarray
    ) -> tuple[Array, Array, Array, Array]:
        """Decompose the training samples without squaring them.

        Returns the eigenvalues, the eigenvectors of the Gram matrix, the held-out samples along the
        components, and their squared distances from the components.
        """
        C, w = self._coordinates, self._weights_of(train)
        xp = array_namespace(w)
        n, A = float(xp.sum(w)), samples_at(C, train)
        mean = w @ A / n
        U, roots, V = xp.linalg.svd(w[:, None] ** 0.5 * (A - mean), full_matrices=False)
        T = samples_at(C, test) - mean
        Z = T @ V.T
        residuals = T - Z @ V
        return roots**2 / n, U, Z, xp.vecdot(residuals, residuals)

    def __iter__(self) -> Iterator[tuple[Spectrum, Array, float]]:
        for train, test in self._splits:
            w, v = self._weights_of(train), self._weights_of(test)
            xp = array_namespace(w)
            n = float(xp.sum(w))
            K, products, squares, subtracted = self._split(train, test)
            precision = replace(self._data.precision, subtracted=subtracted)
            values, U, resolution = eigh_of_gram(K, n, precision)
            present = values > resolution
            v = v / xp.sum(v)
            if self._coordinates is not None and loses_digits(values, values[0], present):
                values, U, Z, residuals = self._split_accurately(train, test)
                variances, rest = v @ Z**2, float(v @ residuals)
            else:
                safe = xp.where(present, values, xp.ones_like(values))
                Z = xp.where(present, products @ U / (n * safe) ** 0.5, xp.zeros_like(values))
                variances = v @ Z**2
                rest = max(float(v @ squares) - float(xp.sum(variances)), 0.0)
            rounded = self._rounded(train, values, U, resolution)
            no_components = xp.empty((0, self._X.shape[1]), dtype=w.dtype, device=device(w))
            mean = self._data.mean
            spectrum = Spectrum(mean, values, no_components, 0.0, resolution, rounded)
            yield spectrum, variances, rest

    def _rounded(self, train: np.ndarray, values: Array, U: Array, resolution: float) -> Any:
        """Return the rounding variance of each component, or 0 if all components exceed it."""
        xp = array_namespace(values)
        # The training samples may vary more than all samples, and so have larger rounding errors.
        worst = 2.0 * self._X.shape[0] / len(train) * float(xp.max(self._data.rounding()))
        if not xp.any((values > resolution) & (values <= worst)):
            return 0.0
        weights = None if self._weights is None else self._weights_of(train)
        data = self._centered(weights, train)
        return rounded_along(components_of_gram(data, U), data.rounding())

    def spectrum(self, k: int) -> Spectrum:
        """Compute the spectrum of all samples, with at least k components."""
        data = self._data if self._weights is None else self._centered(self._weights)
        every = np.arange(self._X.shape[0])
        w = self._weights_of(every)
        xp = array_namespace(w)
        K = self._centered_gram(every, w * (data.n / float(xp.sum(w))))[0]
        refine = (lambda: data) if is_dense_in_memory(self._X) else None
        spectrum = spectrum_of_gram(data, k, K, vague=refine is not None)
        refined = with_small_variances(spectrum, k, data.precision, refine)
        return replace(refined, remainder=data.remainder)


def _total(X: Any, weights: Array | None) -> float:
    """Return the number of samples, or the sum of their weights."""
    return float(X.shape[0] if weights is None else array_namespace(weights).sum(weights))


def check_some_weight(weights: np.ndarray, name: str, split: int) -> None:
    """Raise ValueError unless some `name` samples of a split have positive weight."""
    if not weights.any():
        raise ValueError(
            f"sample_weight must be positive for some {name} samples of every split, got none in "
            f"split {split}."
        )


def _make_plans(splits: list[Split], n: int, most: int) -> Iterator[Plan]:
    """Group the splits into plans of at most `most` splits with disjoint held-out samples.

    A split that uses a sample more than once gets a plan without parts.
    """
    group: list[Split] = []
    seen = np.zeros(n, dtype=bool)
    for split in splits:
        if seen[split[1]].any() or len(group) == most:
            yield from _plan(group, n)
            group, seen = [], np.zeros(n, dtype=bool)
        group.append(split)
        seen[split[1]] = True
    yield from _plan(group, n)


def _plan(splits: list[Split], n: int) -> Iterator[Plan]:
    """Divide the samples into parts with the same role in each split."""
    roles = np.full((len(splits), n), UNUSED, dtype=np.int8)
    parts = np.zeros(n, dtype=int)
    repeated = False
    for split_roles, (train, test) in zip(roles, splits, strict=True):
        split_roles[train], split_roles[test] = TRAINING, HELD_OUT
        repeated |= len(train) + len(test) != np.count_nonzero(split_roles)
        parts = np.unique(3 * parts + split_roles, return_inverse=True)[1]
    first = np.unique(parts, return_index=True)[1]
    if not repeated and len(first) <= 4 * (len(splits) + 1):
        yield splits, parts, roles[:, first]
    elif len(splits) > 1:
        for split in splits:
            yield from _plan([split], n)
    else:
        yield splits, parts, roles[:, :0]


def _sum_chosen(
    moments: list[Moments], before: list[Moments], after: list[Moments], chosen: np.ndarray
) -> Moments:
    """Sum the chosen moments, using cumulative sums from both ends."""
    first = len(chosen) if chosen.all() else int(np.argmin(chosen))
    if first == len(chosen):
        return before[-1]
    last = int(np.argmin(chosen[::-1]))
    middle = [moments[i] for i in range(first, len(chosen) - last) if chosen[i]]
    if first:
        middle.append(before[first - 1])
    if last:
        middle.append(after[len(chosen) - last])
    return reduce(add, middle)
