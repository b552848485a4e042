"""Samples of a file in the units of the networks, which are read and shuffled in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.gaussian.moments import Moments, moments_of_blocks
from sklearn_vae.stored_rows import StoredRows
from sklearn_vae.training.scaling import standardize

# Bytes of consecutive rows that stay together in the first shuffle, and of a window of such runs,
# within which rows are shuffled one by one.
RUN_BYTES = 2**18
WINDOW_BYTES = 2**26

# Number of entries of a block.
BLOCK_ENTRIES = 2**21


class StoredSamples:
    """Samples of a file in the units of the networks, (X - mean) / scale.

    It takes the place of a tensor of shape (n_samples, n_features) that does not fit into memory.
    Slices and tensors of indices return tensors on the device. `weights`, if any, must average to 1.
    """

    def __init__(
        self,
        rows: StoredRows,
        mean: Any,
        scale: Any,
        device: torch.device,
        dtype: torch.dtype,
        weights: Any = None,
    ) -> None:
        self.rows = rows
        self.mean = mean
        self.scale = scale
        self.device = device
        self.dtype = dtype
        self.weights = weights

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples and features."""
        return self.rows.shape

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def numel(self) -> int:
        """Return the number of entries."""
        n, d = self.shape
        return n * d

    def element_size(self) -> int:
        """Return the number of bytes of an entry."""
        return torch.finfo(self.dtype).bits // 8

    def __getitem__(self, key: Any) -> Tensor:
        """Read the samples of a slice, or with some indices, to the device."""
        is_slice = isinstance(key, slice)
        chosen = np.arange(*key.indices(len(self))) if is_slice else key.cpu().numpy()
        return self._read(chosen).to(self.device)

    def _read(self, chosen: Any) -> Tensor:
        """Read samples in the order of the file, and return them in the order of `chosen`."""
        units = self.mean, self.scale, torch.device("cpu"), self.dtype
        order = np.argsort(chosen)
        if (order[:-1] <= order[1:]).all():
            return standardize(self.rows, chosen, *units)
        samples = standardize(self.rows, chosen[order], *units).numpy()
        shuffled = np.empty_like(samples)
        shuffled[order] = samples
        return torch.from_numpy(shuffled)

    def blocks(self) -> Iterator[slice]:
        """Yield the slices of blocks of all samples."""
        step = max(1, BLOCK_ENTRIES // self.shape[1])
        return (slice(start, start + step) for start in range(0, len(self), step))

    def shuffled(
        self, sizes: Iterable[int], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield indices and samples of chunks of these sizes, in random order.

        A thread reads one chunk ahead.
        """
        with ThreadPoolExecutor(1) as pool:
            before = None
            for chosen in self.order(sizes, generator):
                ahead = chosen.to(self.device), pool.submit(self._read, chosen.cpu().numpy())
                if before is not None:
                    yield before[0], before[1].result().to(self.device)
                before = ahead
            if before is not None:
                yield before[0], before[1].result().to(self.device)

    def order(self, sizes: Iterable[int], generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the indices of chunks of these sizes, which are shuffled in blocks.

        Runs of consecutive rows are taken in random order. The rows of some runs at a time, a window,
        are shuffled one by one. The file is therefore read a window at a time, and a batch has rows
        of many places.
        """
        n, row_bytes = len(self), self.shape[1] * self.rows.X.itemsize
        length = max(1, RUN_BYTES // row_bytes)
        n_runs = max(1, WINDOW_BYTES // (length * row_bytes))
        device = generator.device
        starts = length * torch.randperm(-(-n // length), generator=generator, device=device)
        within = torch.arange(length, device=device)
        windows = iter(starts.split(n_runs))
        ready = starts[:0]
        for size in sizes:
            while len(ready) < size:
                window = (next(windows)[:, None] + within).view(-1)
                window = window[window < n]
                mixed = torch.randperm(len(window), generator=generator, device=device)
                ready = torch.cat([ready, window[mixed]])
            yield ready[:size]
            ready = ready[size:]

    def average(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Average a function of samples, with their weights, in float64 on the CPU."""
        total = torch.zeros(1, dtype=torch.float64)
        for block in self.blocks():
            values = function(self[block].double())
            if self.weights is not None:
                values = torch.as_tensor(self.weights[block]).to(values)[:, None] * values
            total = total + values.sum(0).cpu()
        return total / len(self)

    @cached_property
    def moments(self) -> Moments:
        """Moments of the samples in float64, in one pass over the file."""
        w = self.weights
        return moments_of_blocks(
            (self[block].double().cpu().numpy(), None if w is None else w[block])
            for block in self.blocks()
        )

    def some(self, n_entries: int) -> tuple[Tensor, Tensor | None]:
        """Read random samples with about this number of entries, and their weights."""
        size = min(len(self), max(2, n_entries // self.shape[1]))
        rng = np.random.RandomState(0)
        chosen = np.sort(rng.choice(len(self), size, replace=False))
        weights = None if self.weights is None else torch.from_numpy(self.weights[chosen])
        return self[torch.from_numpy(chosen)], weights

    def divided_by(self, root: Any) -> StoredSamples:
        """Return the samples with their features divided by numbers."""
        units = self.mean, self.scale * root, self.device, self.dtype, self.weights
        divided = StoredSamples(self.rows, *units)
        if "moments" in vars(self):
            own = self.moments
            scatter = own.scatter / np.outer(root, root)
            divided.moments = Moments(own.n, own.mean / root, scatter, own.count)
        return divided

    def set_zero(self, features: Any) -> None:
        """Replace the values of some features by 0."""
        if len(features):
            self.scale = np.broadcast_to(self.scale, self.shape[1]).copy()
            self.scale[features] = np.inf
            vars(self).pop("moments", None)
