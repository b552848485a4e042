"""Batches of samples that are already on the device, each with the noise of its draws."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

# Samples, noise and, if samples have weights, the weights.
Batch: TypeAlias = tuple[Tensor, ...]

# Samples and noise are gathered for chunks of batches, because a batch then costs only two views.
# These are the largest numbers of batches and bytes in a chunk.
BATCHES_AT_ONCE = 32
BYTES_AT_ONCE = 2**23


def count_batches(n_samples: int, batch_size: int) -> int:
    """Return the number of batches of at most `batch_size` samples.

    No batch has a single sample, which has no variance, unless `batch_size` is 1.
    """
    largest = n_samples if batch_size == 1 else max(1, n_samples // 2)
    return min(-(-n_samples // batch_size), largest)


class Batches:
    """Iterable over all samples in random order, in chunks of batches.

    The sizes of the `n_batches` batches differ by at most 1, because a step on a small batch has
    the size of the others. `noise_shape` holds the numbers of draws per sample and of latent
    dimensions. `weights` are those of the samples, if any. With `antithetic`, half of the draws
    have the opposite noise of the others.
    """

    def __init__(
        self,
        X: Any,
        n_batches: int,
        noise_shape: tuple[int, int],
        generator: torch.Generator,
        weights: Tensor | None = None,
        antithetic: bool = False,
    ) -> None:
        self.X = X
        self.weights = weights
        self.noise_shape = noise_shape
        self.generator = generator
        self.antithetic = antithetic
        self.n_drawn = noise_shape[0] // 2 if antithetic else noise_shape[0]
        least, n_larger = divmod(len(X), n_batches)
        self.sizes = n_larger * [least + 1] + (n_batches - n_larger) * [least]
        draws, k = noise_shape
        batch_bytes = self.sizes[0] * (X.shape[1] + draws * k) * X.element_size()
        self.at_once = max(1, min(BATCHES_AT_ONCE, BYTES_AT_ONCE // batch_bytes))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield lists of (samples of shape (b, d), noise of shape (S, b, k), *weights)."""
        X, k = self.X, self.noise_shape[1]
        starts = range(0, len(self.sizes), self.at_once)
        chunks = [self.sizes[start : start + self.at_once] for start in starts]
        parts_of_X = shuffled(X, map(sum, chunks), self.generator)
        for chunk, (chosen, samples) in zip(chunks, parts_of_X, strict=True):
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


def shuffled(
    X: Any, sizes: Iterable[int], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield indices and samples of chunks of these sizes, in random order.

    X is a tensor or :class:`~sklearn_vae.training.stored_samples.StoredSamples`.
    """
    if not isinstance(X, Tensor):
        yield from X.shuffled(sizes, generator)
        return
    order, done = torch.randperm(len(X), generator=generator, device=X.device), 0
    for size in sizes:
        chosen = order[done : done + size]
        done += size
        yield chosen, X.index_select(0, chosen)
