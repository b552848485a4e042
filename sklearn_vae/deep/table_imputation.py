"""Conditional distributions of missing cells of tables, by importance sampling of z."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.deep.evaluation import block_size, evaluate_blocks
from sklearn_vae.nn.column_distributions import Codes
from sklearn_vae.nn.cubature import normal_points
from sklearn_vae.nn.distributions import LOG_2PI

Array = NDArray[Any]

# Shares of the latent vectors that are drawn from the prior and from q(z|x). The others are drawn from
# the distribution whose moments these estimate.
PRIOR_SHARE = 1 / 16
POSTERIOR_SHARE = 3 / 16

# Factors of the standard deviations of q(z|x) and of the estimated distribution, because weights vary
# less for a proposal that is too wide than for one that is too narrow.
WIDER = 1.2
WIDER_ESTIMATE = 1.1

# Largest number of entries of the decoder outputs of a block, which should fit into the cache.
NUMBERS_AT_ONCE = 2**20


class Component(NamedTuple):
    """Normal distributions N(mean, root root') of the samples, from which some latents are drawn."""

    mean: Tensor  # (n, k)
    root: Tensor  # (n, k, k)
    noise: Tensor  # (S, k), points of N(0, I)

    def draw(self) -> Tensor:
        """Return latents of shape (S, n, k)."""
        return self.mean + torch.einsum("nij,sj->sni", self.root, self.noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute the log-density of any latents, of shape (S, n)."""
        away = (z - self.mean).permute(1, 2, 0)
        noise = torch.linalg.solve_triangular(self.root, away, upper=False)
        log_volume = torch.diagonal(self.root, dim1=-2, dim2=-1).log().sum(-1)
        constant = log_volume + 0.5 * z.shape[-1] * LOG_2PI
        return -0.5 * noise.square().sum(1).mT - constant


class TableImputation:
    """Weighted latent vectors of the samples of a table, given their observed values.

    They are drawn from a mixture of three normal distributions: the prior, q(z|x) with a larger standard
    deviation, and one with the moments of p(z|x) that the weights of the other two estimate. The weights
    are p(x, z) over the density of the mixture. They are at most `n_latents` / n p(x|z), where n is the
    number of latent vectors from the prior: few observed values, for which q(z|x) may be too narrow,
    do no harm.

    Parameters
    ----------
    model : TabularVAE
        Fitted model.
    X : ndarray of shape (n_samples, n_features)
        Codes, NaN where values are missing.
    n_latents : int
        Number of latent vectors of each sample.

    References
    ----------
    Cornuet, Marin, Mira and Robert, "Adaptive Multiple Importance Sampling" (2012).
    """

    def __init__(self, model: Any, X: Array, n_latents: int) -> None:
        self.model, self.X = model, X
        self.module = model._module_for(X)
        n_prior = math.ceil(PRIOR_SHARE * n_latents)
        n_posterior = math.ceil(POSTERIOR_SHARE * n_latents)
        sizes = [n_prior, n_posterior, max(0, n_latents - n_prior - n_posterior)]
        k = model.n_components_
        self.noise = [model._as_tensor(normal_points(k, n)) for n in sizes]
        self.n_latents = sum(sizes)
        limits = [column.limits or (-np.inf, np.inf) for column in model.codec.columns_]
        self.limits = model._as_tensor((np.array(limits).T - model.mean_) / model.scale_)

    def point(self) -> Array:
        """Compute the most probable categories and the conditional means of numbers.

        The mean given z is limited to the range of the training samples, because means of exponential
        functions grow without bounds.
        """

        def codes(block: slice) -> Tensor:
            x, parts = self._weighted(block)
            totals: list[Any] = [0.0] * len(self.module.likelihood.blocks)
            p: Any = None
            for p, weights in parts:
                for i, (block_p, columns) in enumerate(zip(p.parts, p.columns, strict=True)):
                    is_code = isinstance(block_p, Codes)
                    own = block_p.probabilities if is_code else self._limited(block_p, columns)
                    totals[i] = totals[i] + _weighted_sum(weights, own)
            values: list[Tensor] = []
            for total, block_p in zip(totals, p.parts, strict=True):
                is_code = isinstance(block_p, Codes)
                values.append(total.argmax(-1).to(x.dtype) if is_code else total)
            order = torch.argsort(torch.cat(list(p.columns)))
            return self.model._in_data_units(torch.cat(values, dim=-1)[:, order])

        return self._evaluate(codes)

    def _limited(self, p: Any, columns: Tensor) -> Tensor:
        """Return the means of columns of numbers within their limits."""
        low, high = self.limits[:, columns]
        return torch.clamp(p.mean, low, high)

    def std(self) -> Array:
        """Compute the conditional standard deviations of numbers and codes."""

        def deviations(block: slice) -> Tensor:
            x, parts = self._weighted(block)
            center: Any = None
            sums = x.new_zeros(2, *x.shape)
            for p, weights in parts:
                mean = p.mean
                if center is None:  # squares of large means would cancel
                    center = _weighted_sum(weights / weights.sum(0), mean)
                away = mean - center
                for total, own in zip(sums, (away, away.square() + p.variance), strict=True):
                    total += _weighted_sum(weights, own)
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
                        total += _weighted_sum(weights, own)
            return total

        p = self._evaluate(average)
        return p / p.sum(axis=1, keepdims=True)

    def draw(self, n_draws: int, random_state: np.random.RandomState) -> Array:
        """Draw samples from p(x_missing | x_observed), (n_draws, n_samples, n_features)."""
        uniform = random_state.uniform(size=(n_draws, len(self.X)))

        def latents(block: slice) -> Tensor:
            _, chunks, weights, _ = self._latents(block)
            z = torch.cat(chunks)
            u = self.model._as_tensor(uniform[:, block])
            steps = weights.cumsum(0).mT.contiguous()
            chosen = torch.searchsorted(steps, u.mT.contiguous()).clamp(max=len(z) - 1)
            rows = torch.arange(z.shape[1], device=z.device)[:, None]
            return z[chosen, rows].flatten(1)

        k = self.model.n_components_
        Z = self._evaluate(latents).reshape(-1, n_draws, k).transpose(1, 0, 2)
        codes = self.model._draw_codes(Z.reshape(-1, k), random_state)
        return codes.reshape(n_draws, -1, codes.shape[1])

    def _latents(self, block: slice) -> tuple[Tensor, list[Tensor], Tensor, list[Any]]:
        """Return samples in the units of the networks, chunks of latents (S, n, k), weights, and p(x|z).

        The weights, (S, n), are those of all latents. p(x|z) is that of each chunk, if it fits into
        memory, and an empty list otherwise.
        """
        x = self.model._as_tensor((self.X[block] - self.model.mean_) / self.model.scale_)
        q, (of_prior, of_posterior, of_estimate) = self.module.encode(x), self.noise
        components = [Component(q.mean, WIDER * q.factor, of_posterior)]
        z = torch.cat([of_prior[:, None].expand(-1, len(x), -1), components[0].draw()])
        chunks, log_joint, log_prior, decoded = self._decoded(x, z)
        if len(of_estimate):
            weights = self._weights(components, z, log_joint, log_prior)
            moments = _moments(weights, z, q.mean, q.factor)
            components.append(Component(*moments, of_estimate))
            more = components[-1].draw()
            results = self._decoded(x, more)
            z, chunks = torch.cat([z, more]), chunks + results[0]
            log_joint, log_prior = (
                torch.cat(pair) for pair in zip((log_joint, log_prior), results[1:3], strict=True)
            )
            decoded = decoded + results[3] if decoded and results[3] else []
        return x, chunks, self._weights(components, z, log_joint, log_prior), decoded

    def _decoded(self, x: Tensor, z: Tensor) -> tuple[list[Tensor], Tensor, Tensor, list[Any]]:
        """Return chunks of latents, log p(x, z) and log p(z), (S, n), and p(x|z) if it is small.

        x counts where it is observed.
        """
        log_p, p = [], None
        chunks = list(z.split(max(1, block_size(len(x) * self.module.likelihood.width))))
        for part in chunks:
            p = self.module.decode(part, x)
            log_p.append(p.log_prob(x))
        log_prior = self.module.prior().log_prob(z)
        return chunks, torch.cat(log_p) + log_prior, log_prior, [p] if len(chunks) == 1 else []

    def _weights(
        self, components: list[Component], z: Tensor, log_joint: Tensor, log_prior: Tensor
    ) -> Tensor:
        """Return p(x, z) over the density of the mixture of prior and components, with the sum 1."""
        n_prior, n = len(self.noise[0]), len(z)
        logs = [log_prior + math.log(n_prior / n)]
        logs += [c.log_prob(z) + math.log(len(c.noise) / n) for c in components]
        return torch.softmax(log_joint - torch.logsumexp(torch.stack(logs), 0), 0)

    def _weighted(self, block: slice) -> tuple[Tensor, Iterator[tuple[Any, Tensor]]]:
        """Return samples, and an iterator over parts of p(x|z) with their weights."""
        x, chunks, weights, decoded = self._latents(block)
        parts = weights.split([len(chunk) for chunk in chunks])
        return x, zip(decoded or map(self.module.decode, chunks), parts, strict=True)

    def _evaluate(self, function: Any) -> Array:
        k = self.model.n_components_
        width = max(k * k, self.X.shape[1], self.n_latents * max(k, self.module.likelihood.width))
        step = max(1, min(block_size(width), NUMBERS_AT_ONCE // width))
        blocks = (slice(start, start + step) for start in range(0, len(self.X), step))
        return evaluate_blocks(self.model.net_, blocks, function, "X")


def _weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Sum values of shape (S, n, ...) over latents with weights (S, n); einsum copies the values."""
    return (weights[(...,) + (values.ndim - 2) * (None,)] * values).sum(0)


def _moments(weights: Tensor, z: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and Cholesky factor of a normal distribution with the moments of weighted latents.

    With few effective draws they are near to those of q(z|x), which are given.
    """
    k = z.shape[-1]
    effective = 1.0 / weights.square().sum(0)
    share = (effective / (effective + 2.0 * k))[:, None]
    center = torch.einsum("sn,snk->nk", weights, z)
    away = z - center
    covariance = torch.einsum("sni,snj->nij", weights[:, :, None] * away, away)
    covariance = torch.lerp(root @ root.mT, covariance, share[:, :, None])
    factor, info = torch.linalg.cholesky_ex(covariance)
    factor = torch.where((info == 0)[:, None, None], factor, root)
    return torch.lerp(mean, center, share), WIDER_ESTIMATE * factor
