"""Spectra and variances of each cross-validation split, from little more than one pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, float_name, row_blocks
from sklearn_vae.gaussian.centred import CentredData, centred_data, dense
from sklearn_vae.gaussian.eigensolvers import (
    components_of_gram,
    eigh_of_gram,
    spectrum_of_gram,
)
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import rounded_along
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.checks import check_squares_fit, check_sums
from sklearn_vae.linear.dask_arrays import check_memory_here, dask_moments_of_parts
from sklearn_vae.validation import is_memory_mapped

# Indices of the training and the held-out samples of one split.
Split: TypeAlias = tuple[np.ndarray, np.ndarray]

MISSING = (
    "PPCACV takes no missing values, but X contains NaN: fill them with PPCAImputer, or choose among "
    "PPCA, which takes them, with GridSearchCV."
)

# A run of splits, the part of the data that each sample is in, and its role in each split.
Plan: TypeAlias = tuple[list[Split], np.ndarray, np.ndarray]


class MomentFolds:
    """Spectrum of the training samples of each split, and variances of the held-out samples.

    The data are read once for every run of splits whose held-out samples do not overlap: they
    fall into parts that are wholly in or out of each split, whose moments add up.
    """

    def __init__(self, X: Any, weights: Array | None, splits: list[Split]) -> None:
        check_squares_fit("PPCACV", X.shape[1], X=X)
        self._X, self._weights, self._splits = X, weights, splits
        self.n, self.dtype = _total(X, weights), float_name(X)
        self.moments: Moments | None = None

    def __iter__(self) -> Iterator[tuple[Spectrum, Array, float]]:
        for i, (run, part, table) in enumerate(self._runs()):
            if table.shape[1] == 0:
                pairs = [(self._moments_of(train), self._moments_of(test)) for train, test in run]
            else:
                pairs = list(self._merged(self._moments_of_parts(i, part), table))
            for training, held_out in pairs:
                spectrum = Spectrum.from_moments(training)
                yield spectrum, *spectrum.variances_of(held_out)

    def _runs(self) -> Iterable[Plan]:
        n, d = self._X.shape
        # Three lists of scatters are held for the parts of a run: no more than fit in 256 MiB.
        return _plans(self._splits, n, max(2**28 // (24 * d**2), 10))

    def _merged(
        self, moments: list[Moments], table: np.ndarray
    ) -> Iterator[tuple[Moments, Moments]]:
        """Moments of the training and of the held-out samples of each split of a run."""
        before = list(itertools.accumulate(moments))
        after = list(itertools.accumulate(reversed(moments), lambda a, b: b + a))[::-1]
        self.moments = before[-1]
        for roles in table:
            training = _merge(moments, before, after, roles == 1)
            yield training, _merge(moments, before, after, roles == 2)

    def _moments_of_parts(self, run: int, part: np.ndarray) -> list[Moments]:
        """Moments of each part; `part` is the number of the part of every sample."""
        # A file is read in blocks, for all parts at once: they may be shuffled.
        n, size = len(part), self._block_size(2**24, len(part))
        moments: dict[int, Moments] = {}
        for start in range(0, n, size):
            block = part[start : start + size]
            order = start + np.argsort(block, kind="stable")
            for i, samples in enumerate(np.split(order, np.cumsum(np.bincount(block))[:-1])):
                if len(samples):
                    more = self._moments_of_block(samples)
                    moments[i] = moments[i] + more if i in moments else more
        return [moments[i] for i in range(len(moments))]

    def _block_size(self, numbers: int, n: int) -> int:
        return max(numbers // self._X.shape[1], 1) if is_memory_mapped(self._X) else max(n, 1)

    def _moments_of(self, samples: np.ndarray) -> Moments:
        # A file is copied in blocks; what lies together is not copied.
        size = self._block_size(2**22, len(samples))
        blocks = (samples[start : start + size] for start in range(0, len(samples), size))
        return reduce(add, map(self._moments_of_block, blocks))

    def _moments_of_block(self, samples: np.ndarray) -> Moments:
        weights = None if self._weights is None else _take(self._weights, samples)
        X = _take(self._X, samples)
        moments = Moments.of(X, weights, check_finite=False)
        check_sums(moments, X, missing=MISSING)
        return moments

    def spectrum(self, k: int) -> Spectrum:
        """Spectrum of all samples."""
        if self.moments is None:
            self.moments = self._moments_of(np.arange(self._X.shape[0]))
        return Spectrum.from_moments(self.moments)


class BlockFolds(MomentFolds):
    """MomentFolds of a Dask array, whose blocks are read once for all runs of splits."""

    def __init__(self, estimator: Any, X: Any, sample_weight: Any, splits: list[Split]) -> None:
        d = X.shape[1]
        self._X, self._splits = X, splits
        self._plans = list(super()._runs())
        if any(table.shape[1] == 0 for *_, table in self._plans):
            raise ValueError("cv must not give a row more than once in a split of a Dask array.")
        n_parts = sum(table.shape[1] for *_, table in self._plans)
        check_memory_here(estimator, d, n_more=3 * n_parts)
        parts = [part for _, part, _ in self._plans]
        moments = dask_moments_of_parts(estimator, X, sample_weight, parts)
        if not moments:
            raise ValueError("sample_weight must be positive for some rows, got none.")
        self.dtype = reduce(add, moments.values()).dtype
        none = Moments(0.0, np.zeros(d), np.zeros((d, d)))
        self._moments = [
            [moments.get((i, j), none) for j in range(table.shape[1])]
            for i, (*_, table) in enumerate(self._plans)
        ]
        self.n = sum(part.n for part in self._moments[0])
        self.moments = None
        number = itertools.count()
        for (*_, table), run in zip(self._plans, self._moments, strict=True):
            n = np.array([part.n for part in run])
            for roles, i in zip(table, number, strict=False):
                for name, role in (("training", 1), ("held-out", 2)):
                    check_some_weight(n[roles == role], name, i)

    def _runs(self) -> Iterable[Plan]:
        return self._plans

    def _moments_of_parts(self, run: int, part: np.ndarray) -> list[Moments]:
        return self._moments[run]


class GramFolds:
    """The same from the Gram matrix of all samples: each split's is a part of it, centred anew."""

    def __init__(self, X: Any, weights: Array | None, splits: list[Split]) -> None:
        check_squares_fit("PPCACV", X.shape[0], X=X)
        self._X, self._weights, self._splits = X, weights, splits
        self._data = self._centred(None)
        self.n, self.dtype = _total(X, weights), float_name(X)
        self._K = self._data.gram()

    def _centred(self, weights: Array | None, samples: np.ndarray | None = None) -> CentredData:
        X = self._X if samples is None else _take(self._X, samples)
        data = centred_data(X, weights, keep=False, wide=True)
        check_sums(data, X, missing=MISSING)
        return data

    def _weights_of(self, samples: np.ndarray) -> Array:
        xp = array_namespace(self._K)
        if self._weights is None:
            return xp.ones((len(samples),), dtype=self._K.dtype, device=device(self._K))
        return _take(self._weights, samples)

    def _centred_gram(self, samples: np.ndarray, w: Array) -> tuple[Array, Array, float]:
        """Gram matrix of samples less their mean m, and products of m with each and with itself."""
        K = _take(_take(self._K, samples).T, samples)
        xp = array_namespace(K)
        offsets = K @ w / xp.sum(w)
        length = float(w @ offsets / xp.sum(w))
        root = w**0.5
        centred = K - offsets[:, None] - offsets[None, :] + length
        return root[:, None] * centred * root[None, :], offsets, length

    def _split(self, train: np.ndarray, test: np.ndarray) -> tuple[Array, Array, Array, float]:
        """Gram matrix of the training samples, products of the held-out ones with them and squares.

        All less the mean of the training samples, which are weighted; and the squared length of
        that mean.
        """
        w = self._weights_of(train)
        xp = array_namespace(w)
        K, offsets, length = self._centred_gram(train, w)
        if length > 10.0 * float(xp.linalg.trace(K)) / float(xp.sum(w)):
            return self._split_anew(train, test)
        crossed = _take(_take(self._K, test).T, train).T
        test_offsets = crossed @ w / xp.sum(w)
        crossed = (crossed - test_offsets[:, None] - offsets[None, :] + length) * w[None, :] ** 0.5
        squares = _take(xp.linalg.diagonal(self._K), test) - 2.0 * test_offsets + length
        return K, crossed, squares, length

    def _split_anew(self, train: np.ndarray, test: np.ndarray) -> tuple[Array, Array, Array, float]:
        """The same from the data, where the mean is so far off that the differences cancel."""
        weights = None if self._weights is None else self._weights_of(train)
        data = self._centred(weights, train)
        K = data.gram()
        xp = array_namespace(K)
        scale = float(xp.sum(self._weights_of(train))) / data.n
        crossed, squares = [], []
        for block in row_blocks(len(test), data.shape[1]):
            held_out = dense(_take(self._X, test[block]))
            T = xp.astype(xp.astype(held_out, K.dtype) - data.mean, data.dtype)
            crossed.append(data.times(T.T).T)
            squares.append(xp.vecdot(T, T))
        crossed = xp.astype(xp.concat(crossed), K.dtype) * scale**0.5
        return scale * K, crossed, xp.astype(xp.concat(squares), K.dtype), data.precision.subtracted

    def __iter__(self) -> Iterator[tuple[Spectrum, Array, float]]:
        for train, test in self._splits:
            w, v = self._weights_of(train), self._weights_of(test)
            xp = array_namespace(w)
            n = float(xp.sum(w))
            K, crossed, squares, subtracted = self._split(train, test)
            precision = replace(self._data.precision, subtracted=subtracted)
            values, U, resolution = eigh_of_gram(K, n, precision)
            present = values > resolution
            safe = xp.where(present, values, xp.ones_like(values))
            Z = xp.where(present, crossed @ U / (n * safe) ** 0.5, xp.zeros_like(values))
            v = v / xp.sum(v)
            variances = v @ Z**2
            rest = max(float(v @ squares) - float(xp.sum(variances)), 0.0)
            rounded = self._rounded(train, values, U, resolution)
            nothing = xp.empty((0, self._X.shape[1]), dtype=w.dtype, device=device(w))
            mean = self._data.mean
            yield Spectrum(mean, values, nothing, 0.0, resolution, rounded), variances, rest

    def _rounded(self, train: np.ndarray, values: Array, U: Array, resolution: float) -> Any:
        """Variance by rounding along each component, where it may be all of its variance."""
        xp = array_namespace(values)
        # Training samples may vary more than all, and be rounded more along some direction.
        worst = 2.0 * self._X.shape[0] / len(train) * float(xp.max(self._data.rounding()))
        if not xp.any((values > resolution) & (values <= worst)):
            return 0.0
        weights = None if self._weights is None else self._weights_of(train)
        data = self._centred(weights, train)
        return rounded_along(components_of_gram(data, U), data.rounding())

    def spectrum(self, k: int) -> Spectrum:
        """Spectrum of all samples, with at least k components."""
        data = self._data if self._weights is None else self._centred(self._weights)
        every = np.arange(self._X.shape[0])
        w = self._weights_of(every)
        xp = array_namespace(w)
        K = self._centred_gram(every, w * (data.n / float(xp.sum(w))))[0]
        return spectrum_of_gram(data, k, K)


def _take(array: Any, indices: np.ndarray) -> Any:
    """Rows of an array of any library, or sparse; a view where they lie together."""
    n = len(indices)
    together = n and indices[-1] - indices[0] == n - 1 and (np.diff(indices) == 1).all()
    rows = slice(int(indices[0]), int(indices[-1]) + 1) if together else indices
    if sparse.issparse(array) or is_numpy_array(array):
        return array[rows]
    if together:
        return array[rows, ...]
    xp = array_namespace(array)
    return xp.take(array, xp.asarray(indices, device=device(array)), axis=0)


def _total(X: Any, weights: Array | None) -> float:
    """Number of samples, or sum of their weights."""
    return float(X.shape[0] if weights is None else array_namespace(weights).sum(weights))


def check_some_weight(weights: np.ndarray, name: str, split: int) -> None:
    """Raise ValueError where the `name` samples of a split have no weight."""
    if not weights.any():
        raise ValueError(
            f"sample_weight must be positive for some {name} rows of every split, got none in "
            f"split {split}."
        )


def _plans(splits: list[Split], n: int, most: int) -> Iterator[Plan]:
    """Runs of at most `most` splits whose held-out samples do not overlap, each with its parts.

    The role of a part in a split is 0 for neither, 1 for training and 2 for held-out samples. A
    split that has a sample more than once has no parts.
    """
    run: list[Split] = []
    seen = np.zeros(n, dtype=bool)
    for split in splits:
        if seen[split[1]].any() or len(run) == most:
            yield from _planned(run, n)
            run, seen = [], np.zeros(n, dtype=bool)
        run.append(split)
        seen[split[1]] = True
    yield from _planned(run, n)


def _planned(run: list[Split], n: int) -> Iterator[Plan]:
    roles = np.zeros((len(run), n), dtype=np.int8)
    part = np.zeros(n, dtype=int)
    repeated = False
    for role, (train, test) in zip(roles, run, strict=True):
        role[train], role[test] = 1, 2
        repeated |= len(train) + len(test) != np.count_nonzero(role)
        part = np.unique(3 * part + role, return_inverse=True)[1]
    first = np.unique(part, return_index=True)[1]
    if not repeated and len(first) <= 4 * (len(run) + 1):
        yield run, part, roles[:, first]
    elif len(run) > 1:
        for split in run:
            yield from _planned([split], n)
    else:
        yield run, part, roles[:, :0]


def _merge(
    moments: list[Moments], before: list[Moments], after: list[Moments], chosen: np.ndarray
) -> Moments:
    """Sum of the chosen moments, by the sums of the first ones and of the last ones."""
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
