"""Batches of rows that lie on the device already, each with the noise of its draws."""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = tuple[Tensor, Tensor]

# Rows and noise are gathered for many batches at once, so that a batch costs two views: these many
# batches at most, of this many bytes together.
BATCHES_AT_ONCE = 32
BYTES_AT_ONCE = 2**23


class Batches:
    """All rows once in random order, in chunks of batches.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        On the device.
    batch_size : int
    noise_shape : (S, k)
        Draws of a row, and latent dimensions.
    generator : torch.Generator
        On the device of X; gives the order of rows and the noise, anew at each iteration.
    n_batches : int, default=None
        As equal as can be. None: as many as there are of `batch_size` rows.
    """

    def __init__(
        self,
        X: Tensor,
        batch_size: int,
        noise_shape: tuple[int, int],
        generator: torch.Generator,
        n_batches: int | None = None,
    ) -> None:
        self.X = X
        self.batch_size = min(batch_size, len(X))
        self.noise_shape = noise_shape
        self.generator = generator
        self.n_batches = n_batches
        draws, k = noise_shape
        batch_bytes = self.batch_size * (X.shape[1] + draws * k) * X.element_size()
        self.at_once = max(1, min(BATCHES_AT_ONCE, BYTES_AT_ONCE // batch_bytes))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        """Rows of each batch; a last one of a single row, which has no variance, is joined."""
        n, size = len(self.X), self.batch_size
        if self.n_batches is not None:
            least, more = divmod(n, self.n_batches)
            return more * [least + 1] + (self.n_batches - more) * [least]
        sizes = [min(size, n - start) for start in range(0, n, size)]
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [size + 1]
        return sizes

    def __iter__(self) -> Iterator[list[Batch]]:
        """Lists of (rows of shape (b, d), noise of shape (S, b, k))."""
        X, draws, k = self.X, *self.noise_shape
        order = torch.randperm(len(X), generator=self.generator, device=X.device)
        sizes, done = self._sizes(), 0
        for first in range(0, len(sizes), self.at_once):
            chunk = sizes[first : first + self.at_once]
            rows = X.index_select(0, order[done : done + sum(chunk)])
            done += len(rows)
            size = (len(rows), draws * k)
            noise = torch.randn(size, generator=self.generator, device=X.device, dtype=X.dtype)
            parts = zip(rows.split(chunk), noise.split(chunk), strict=True)
            yield [(x, part.view(draws, len(x), k)) for x, part in parts]
