"""Cross-validation splits of data with small eigenvalues, from factors of the scatter matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from scipy import sparse

from sklearn_vae.gaussian.arrays import Array, wide_float
from sklearn_vae.gaussian.graded import loses_digits
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.precision import rounded_along
from sklearn_vae.gaussian.scatter_factor import ScatterFactor, mean_of_factors, stacked
from sklearn_vae.gaussian.spectrum import Spectrum, with_positive_peaks
from sklearn_vae.validation import is_dask, is_memory_mapped

# Indices of the training and of the held-out samples of one split.
Split: TypeAlias = tuple[np.ndarray, np.ndarray]

# Roles of samples and parts in a split.
UNUSED, TRAINING, HELD_OUT = 0, 1, 2


@dataclass(frozen=True, eq=False)
class FoldFactors:
    """Factors of the scatter of each part of a plan, or of each role if the plan has no parts.

    They are computed on first use, relative to the mean of some samples.
    """

    X: Any
    weights: Array | None
    splits: list[Split]
    parts: np.ndarray
    roles: np.ndarray

    def are_needed(self, training: Moments, spectrum: Spectrum) -> bool:
        """Return whether the moments lose digits of small eigenvalues, and X can be read again."""
        if not is_dense_in_memory(self.X):
            return False
        variances = array_namespace(training.mean).linalg.diagonal(training.covariance)
        sizes = spectrum.components**2 @ variances
        return loses_digits(spectrum.eigenvalues, sizes, spectrum.eigenvalues > spectrum.resolution)

    def split(
        self, split: int, training: Moments, spectrum: Spectrum
    ) -> tuple[Spectrum, Array, float]:
        """Return the spectrum of the training samples and variances of the held-out ones."""
        chosen = self._of_split(split, TRAINING)
        center = mean_of_factors(chosen)
        xp = array_namespace(center)
        _, roots, V = xp.linalg.svd(stacked(chosen, center), full_matrices=True)
        values = xp.zeros_like(center)
        values[: roots.shape[0]] = roots**2 / sum(factor.n for factor in chosen)
        V = with_positive_peaks(V)
        variances = xp.linalg.diagonal(training.covariance)
        columns = training.precision.rounding(training.mean, variances, training.count)
        rounded = rounded_along(V, columns)
        spectrum = replace(spectrum, eigenvalues=values, components=V, rounded=rounded)
        held_out = self._of_split(split, HELD_OUT)
        Y = stacked(held_out, center) @ V.T
        return spectrum, xp.sum(Y**2, axis=0) / sum(factor.n for factor in held_out), 0.0

    def _of_split(self, split: int, role: int) -> Sequence[ScatterFactor]:
        """Return the factors of the samples with a role in a split."""
        if self.roles.shape[1] == 0:
            return [self._factor(self.splits[split][role == HELD_OUT])]
        return [self._of_parts[part] for part in np.flatnonzero(self.roles[split] == role)]

    @cached_property
    def _of_parts(self) -> list[ScatterFactor]:
        return [
            self._factor(np.flatnonzero(self.parts == part)) for part in range(self.roles.shape[1])
        ]

    @cached_property
    def _origin(self) -> Array:
        head = samples_at(self.X, self.splits[0][0][:256])
        xp = array_namespace(head)
        return xp.mean(xp.astype(head, wide_float(head)), axis=0)

    def _factor(self, samples: np.ndarray) -> ScatterFactor:
        weights = None if self.weights is None else samples_at(self.weights, samples)
        return ScatterFactor.of(samples_at(self.X, samples), weights, self._origin)


def is_dense_in_memory(X: Any) -> bool:
    """Return whether X is an array in memory, which may be read several times."""
    return not (sparse.issparse(X) or is_memory_mapped(X) or is_dask(X))


def samples_at(array: Any, indices: np.ndarray) -> Any:
    """Take samples from an array of any library or a sparse matrix; a view if they are adjacent."""
    n = len(indices)
    adjacent = n and indices[-1] - indices[0] == n - 1 and (np.diff(indices) == 1).all()
    chosen = slice(int(indices[0]), int(indices[-1]) + 1) if adjacent else indices
    if sparse.issparse(array) or is_numpy_array(array):
        return array[chosen]
    if adjacent:
        return array[chosen, ...]
    xp = array_namespace(array)
    return xp.take(array, xp.asarray(indices, device=device(array)), axis=0)
