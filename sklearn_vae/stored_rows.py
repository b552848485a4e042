"""Rows of a memory-mapped array, which are read when they are used."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class StoredRows:
    """Complete and finite rows of a memory-mapped array of shape (n_samples, n_features).

    `indices` are the numbers of the rows, in increasing order; None means all. `binarize` is a
    threshold above which entries become 1 and up to which they become 0, or None. Rows are returned
    as arrays of `dtype`, float32 if the file has it and float64 otherwise.
    """

    ndim = 2

    def __init__(
        self, X: Array, indices: Array | None = None, binarize: float | None = None
    ) -> None:
        self.X = X
        self.indices = indices
        self.binarize = binarize

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the arrays that are returned."""
        return np.dtype(np.float32 if self.X.dtype == np.float32 else np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples and features."""
        return len(self), self.X.shape[1]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.X) if self.indices is None else len(self.indices)

    def __getitem__(self, key: Any) -> Array:
        """Read the rows of a slice, an array of indices or a mask."""
        rows = self.X[key if self.indices is None else self.indices[key]]
        if self.binarize is not None:
            return (np.float64(self.binarize) < rows).astype(self.dtype)
        return np.asarray(rows, dtype=self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Read all rows."""
        return np.array(self[:], dtype=dtype or self.dtype)

    def subset(self, chosen: Array) -> StoredRows:
        """Return rows with these indices, or of a mask, without reading them."""
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else np.sort(chosen)
        if self.indices is not None:
            chosen = self.indices[chosen]
        return StoredRows(self.X, chosen, self.binarize)


def rows_of(X: Any, chosen: Array) -> Any:
    """Return the rows of an array or of :class:`StoredRows` with these indices, or of a mask."""
    return X.subset(chosen) if isinstance(X, StoredRows) else X[chosen]
