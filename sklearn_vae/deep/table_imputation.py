"""Conditional distributions of missing cells of tables, by importance sampling of z."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.deep.evaluation import block_size, evaluate_blocks
from sklearn_vae.nn.column_distributions import Codes
from sklearn_vae.nn.cubature import normal_points
from sklearn_vae.nn.distributions import DiagonalNormal

Array = NDArray[Any]


class TableImputation:
    """Weighted latent vectors of the samples of a table, given their observed values.

    Half of them are drawn from q(z|x) and half from p(z), and the weights are p(x, z) over the average
    of both densities. They are therefore at most twice p(x|z): few observed values, for which q(z|x)
    may be too narrow, do no harm.

    Parameters
    ----------
    model : TabularVAE
        Fitted model.
    X : ndarray of shape (n_samples, n_features)
        Codes, NaN where values are missing.
    n_latents : int
        Number of latent vectors of each sample.
    """

    def __init__(self, model: Any, X: Array, n_latents: int) -> None:
        self.model, self.X = model, X
        self.module = model._module_for(X)
        k, half = model.n_components_, -(-n_latents // 2)
        self.noise = model._as_tensor(normal_points(k, half)[:, None])

    def point(self) -> Array:
        """Compute the most probable categories and the conditional means of numbers."""

        def codes(block: slice) -> Tensor:
            x, parts = self._weighted(block)
            totals: list[Any] = [0.0] * len(self.module.likelihood.blocks)
            p: Any = None
            for p, weights in parts:
                for i, block_p in enumerate(p.parts):
                    own = block_p.probabilities if isinstance(block_p, Codes) else block_p.mean
                    totals[i] = totals[i] + torch.einsum("sn,sn...->n...", weights, own)
            values: list[Tensor] = []
            for total, block_p in zip(totals, p.parts, strict=True):
                is_code = isinstance(block_p, Codes)
                values.append(total.argmax(-1).to(x.dtype) if is_code else total)
            order = torch.argsort(torch.cat(list(p.columns)))
            return self.model._in_data_units(torch.cat(values, dim=-1)[:, order])

        return self._evaluate(codes)

    def std(self) -> Array:
        """Compute the conditional standard deviations of numbers and codes."""

        def deviations(block: slice) -> Tensor:
            x, parts = self._weighted(block)
            center: Any = None
            sums = x.new_zeros(2, *x.shape)
            for p, weights in parts:
                mean = p.mean
                if center is None:  # squares of large means would cancel
                    center = torch.einsum("sn,snj->nj", weights / weights.sum(0), mean)
                away = mean - center
                for total, own in zip(sums, (away, away.square() + p.variance), strict=True):
                    total += torch.einsum("sn,snj->nj", weights, own)
            variance = (sums[1] - sums[0].square()).clamp(min=0.0)
            return variance.sqrt() * self.model._as_tensor(self.model.scale_)

        return self._evaluate(deviations)

    def probabilities(self, column: int, n_categories: int) -> Array:
        """Compute the conditional probabilities of the categories of a column."""

        def average(block: slice) -> Tensor:
            x, parts = self._weighted(block)
            total = x.new_zeros(len(x), n_categories)
            for p, weights in parts:
                for block_p, columns in zip(p.parts, p.columns, strict=True):
                    at = torch.nonzero(columns == column)
                    if len(at):
                        own = block_p.probabilities[:, :, int(at[0]), :n_categories]
                        total += torch.einsum("sn,snc->nc", weights, own)
            return total

        p = self._evaluate(average)
        return p / p.sum(axis=1, keepdims=True)

    def draw(self, n_draws: int, random_state: np.random.RandomState) -> Array:
        """Draw samples from p(x_missing | x_observed), (n_draws, n_samples, n_features)."""
        uniform = random_state.uniform(size=(n_draws, len(self.X)))

        def latents(block: slice) -> Tensor:
            _, z, weights, _ = self._latents(block)
            u = self.model._as_tensor(uniform[:, block])
            steps = weights.cumsum(0).mT.contiguous()
            chosen = torch.searchsorted(steps, u.mT.contiguous()).clamp(max=len(z) - 1)
            rows = torch.arange(z.shape[1], device=z.device)[:, None]
            return z[chosen, rows].flatten(1)

        k = self.model.n_components_
        Z = self._evaluate(latents).reshape(-1, n_draws, k).transpose(1, 0, 2)
        codes = self.model._draw_codes(Z.reshape(-1, k), random_state)
        return codes.reshape(n_draws, -1, codes.shape[1])

    def _latents(self, block: slice) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Return samples in the units of the networks, latents (S, n, k), weights (S, n), and p(x|z).

        The last is None if it does not fit into memory at once.
        """
        x = self.model._as_tensor((self.X[block] - self.model.mean_) / self.model.scale_)
        q, prior = self.module.encode(x), self.module.prior()
        z = torch.cat([q.draw(self.noise).z, self.noise.expand(-1, len(x), -1)])
        log_prior = prior.log_prob(z)
        log_mixture = torch.logaddexp(_log_prob(q, z), log_prior) - math.log(2.0)
        observed, log_p, p = ~x.isnan(), [], None
        chunks = z.split(self._at_once(x))
        for part in chunks:
            p = self.module.decode(part)
            log_p.append(p.restricted_to(observed).log_prob(x))
        weights = torch.softmax(torch.cat(log_p) + log_prior - log_mixture, 0)
        return x, z, weights, p if len(chunks) == 1 else None

    def _weighted(self, block: slice) -> tuple[Tensor, Iterator[tuple[Any, Tensor]]]:
        """Return samples, and an iterator over parts of p(x|z) with their weights."""
        x, z, weights, p = self._latents(block)
        if p is not None:
            return x, iter([(p, weights)])
        size = self._at_once(x)
        decoded = map(self.module.decode, z.split(size))
        return x, zip(decoded, weights.split(size), strict=True)

    def _at_once(self, x: Tensor) -> int:
        return max(1, block_size(len(x) * self.module.likelihood.width))

    def _evaluate(self, function: Any) -> Array:
        k = self.model.n_components_
        width = max(k, self.module.likelihood.width)
        step = block_size(max(self.X.shape[1], 2 * len(self.noise) * width, k * k))
        blocks = (slice(start, start + step) for start in range(0, len(self.X), step))
        return evaluate_blocks(self.model.net_, blocks, function, "X")


def _log_prob(q: Any, z: Tensor) -> Tensor:
    """Compute log q(z|x) of any z, of shape (S, n)."""
    if isinstance(q, DiagonalNormal):
        return q.log_prob(z)
    factor = q.root * torch.exp(0.5 * q.independent.log_variance)[:, None]
    away = (z - q.mean).permute(1, 2, 0)  # (n, k, S)
    noise = torch.linalg.solve_triangular(factor, away, upper=False)
    constant = q.log_diagonal.sum(-1) + z.shape[-1] * math.log(2.0 * math.pi)
    return -0.5 * (noise.square().sum(1).mT + constant)
