"""Batches of samples that are already on the device, each with the noise of its draws."""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

# Samples, noise and, if samples have weights, the weights.
Batch: TypeAlias = tuple[Tensor, ...]

# Samples and noise are gathered for chunks of batches, because a batch then costs only two views.
# These are the largest numbers of batches and bytes in a chunk.
BATCHES_AT_ONCE = 32
BYTES_AT_ONCE = 2**23


class Batches:
    """Iterable over all samples in random order, in chunks of batches.

    `noise_shape` holds the numbers of draws per sample and of latent dimensions. `n_batches`
    batches have nearly equal sizes; by default their number follows from `batch_size`. `weights`
    are those of the samples, if any. With `antithetic`, half of the draws have the opposite noise of
    the others.
    """

    def __init__(
        self,
        X: Tensor,
        batch_size: int,
        noise_shape: tuple[int, int],
        generator: torch.Generator,
        n_batches: int | None = None,
        weights: Tensor | None = None,
        antithetic: bool = False,
    ) -> None:
        self.X = X
        self.weights = weights
        self.batch_size = min(batch_size, len(X))
        self.noise_shape = noise_shape
        self.generator = generator
        self.n_batches = n_batches
        self.antithetic = antithetic
        self.n_drawn = noise_shape[0] // 2 if antithetic else noise_shape[0]
        draws, k = noise_shape
        batch_bytes = self.batch_size * (X.shape[1] + draws * k) * X.element_size()
        self.at_once = max(1, min(BATCHES_AT_ONCE, BYTES_AT_ONCE // batch_bytes))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        """Return the batch sizes; merge a last batch of one sample, which has no variance."""
        n, size = len(self.X), self.batch_size
        if self.n_batches is not None:
            least, n_larger = divmod(n, self.n_batches)
            return n_larger * [least + 1] + (self.n_batches - n_larger) * [least]
        sizes = [min(size, n - start) for start in range(0, n, size)]
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [size + 1]
        return sizes

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield lists of (samples of shape (b, d), noise of shape (S, b, k), *weights)."""
        X, draws, k = self.X, *self.noise_shape
        order = torch.randperm(len(X), generator=self.generator, device=X.device)
        sizes, done = self._sizes(), 0
        for first in range(0, len(sizes), self.at_once):
            chunk = sizes[first : first + self.at_once]
            chosen = order[done : done + sum(chunk)]
            samples = X.index_select(0, chosen)
            done += len(samples)
            size = (len(samples), self.n_drawn * k)
            noise = torch.randn(size, generator=self.generator, device=X.device, dtype=X.dtype)
            parts = [samples.split(chunk), noise.split(chunk)]
            if self.weights is not None:
                parts.append(self.weights.index_select(0, chosen).split(chunk))
            batches = zip(*parts, strict=True)
            yield [(x, self._draws(part, len(x)), *weights) for x, part, *weights in batches]

    def _draws(self, noise: Tensor, n: int) -> Tensor:
        """Return the noise of a batch with shape (S, n, k)."""
        draws = noise.view(self.n_drawn, n, self.noise_shape[1])
        return torch.cat([draws, -draws]) if self.antithetic else draws
