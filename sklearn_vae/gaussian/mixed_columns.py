"""Columns of tables as terms of the likelihood of :mod:`sklearn_vae.gaussian.mixed_terms`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import log_expit, log_ndtr, ndtr

from sklearn_vae.gaussian.mixed_terms import Sizes, TermData, TermParameters

# Types of columns that are one Gaussian term. The term of a positive column is its logarithm.
REAL_TYPES = ("real", "heavy_tailed", "positive")
CATEGORICAL_TYPES = ("binary", "categorical", "ordinal")

# Standard deviation of logarithms below which the variance of exponentials is an integral.
_NARROW = 0.1
# Number of standard deviations beyond which the normal distribution has no mass.
_FAR = 40.0
# Points and weights of Gauss-Legendre quadrature on [0, 1].
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_NODES, _WEIGHTS = 0.5 * (_NODES + 1.0), 0.5 * _WEIGHTS


class Moments(NamedTuple):
    """Mean and variance of each column, (n_samples, n_columns)."""

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class ColumnTerms:
    """Terms of the columns of a table.

    A categorical column has a bit for each category but the last: whether the value is the category,
    given that it is not an earlier one. An ordinal column has a bit for each category but the last: whether the
    value is above the category, given that it is not below. Its bits share their loadings. A binary
    column is an ordinal one with two categories.

    Parameters
    ----------
    types : sequence of str
        Type of each column: "real", "heavy_tailed", "positive", "count", "binary", "categorical" or
        "ordinal".
    orders : sequence of sequences of int
        Categories of each column in the order of their bits, empty for numbers.
    """

    types: Sequence[str]
    orders: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls,
        codes: np.ndarray,
        types: Sequence[str],
        n_categories: Sequence[int],
        weights: np.ndarray,
    ) -> ColumnTerms:
        """Return the terms, with the categories of each categorical column by falling weight."""
        orders = []
        for values, kind, size in zip(codes.T, types, n_categories, strict=True):
            order = np.arange(size)
            if kind == "categorical":
                seen = ~np.isnan(values)
                index = values[seen].astype(int)
                order = np.argsort(-np.bincount(index, weights[seen], size), kind="stable")
            orders.append(order.tolist())
        return cls(list(types), orders)

    @cached_property
    def columns(self) -> np.ndarray:
        """Column of each term, (n_terms,): real ones first, then counts, then bits."""
        reals = [j for j, kind in enumerate(self.types) if kind in REAL_TYPES]
        counts = [j for j, kind in enumerate(self.types) if kind == "count"]
        bits = [j for j, order in enumerate(self.orders) for _ in order[1:]]
        return np.array([*reals, *counts, *bits], dtype=int)

    @cached_property
    def sizes(self) -> Sizes:
        """Numbers of terms of each family."""
        n_reals = sum(kind in REAL_TYPES for kind in self.types)
        n_counts = sum(kind == "count" for kind in self.types)
        return Sizes(n_reals, n_counts, len(self.columns) - n_reals - n_counts)

    @cached_property
    def owner(self) -> np.ndarray:
        """Row of the loadings of each term, the same for all bits of an ordinal column."""
        is_new = np.ones(len(self.columns), dtype=bool)
        for j, terms in self.categorical():
            if self.types[j] != "categorical":
                is_new[terms.start + 1 : terms.stop] = False
        return np.cumsum(is_new) - 1

    def categorical(self) -> Iterator[tuple[int, slice]]:
        """Yield each column of categories with its terms."""
        start = self.sizes.gaussian + self.sizes.counts
        for j, order in enumerate(self.orders):
            if order:
                yield j, slice(start, start + len(order) - 1)
                start += len(order) - 1

    def encode(self, codes: np.ndarray) -> tuple[TermData, np.ndarray]:
        """Return the data of the terms, and the log-density of a unit of each sample in nats.

        `codes` has shape (n_samples, n_columns), with numbers, or categories as 0, 1, ..., and NaN
        for missing values.
        """
        is_positive = np.array([kind == "positive" for kind in self.types], dtype=bool)
        values, missing = np.nan_to_num(codes[:, self.columns]), np.isnan(codes[:, self.columns])
        logs = np.log(codes[:, is_positive])
        values[:, is_positive[self.columns]] = np.nan_to_num(logs)
        observed = (~missing).astype(float)
        for j, terms in self.categorical():
            position = np.empty(len(self.orders[j]), dtype=int)
            position[self.orders[j]] = np.arange(len(position))
            seen = ~np.isnan(codes[:, j])
            at = position[np.where(seen, codes[:, j], 0.0).astype(int)][:, None]
            bit = np.arange(terms.stop - terms.start)
            values[:, terms] = at == bit if self.types[j] == "categorical" else at > bit
            observed[:, terms] = seen[:, None] & (at >= bit)
        values *= observed
        return TermData(values, observed, self.sizes), -np.nansum(logs, axis=1)

    def log_probabilities(self, A: np.ndarray, column: int, terms: slice) -> np.ndarray:
        """Compute log-probabilities of the categories of a column, (..., n_categories).

        `A` are predictors of the terms, of shape (..., n_terms).
        """
        a = A[..., terms]
        is_here = a if self.types[column] == "categorical" else -a
        shape = (*a.shape[:-1], a.shape[-1] + 1)
        ordered = np.zeros(shape)
        ordered[..., 1:] = np.cumsum(log_expit(-is_here), axis=-1)
        ordered[..., :-1] += log_expit(is_here)
        result = np.empty(shape)
        result[..., self.orders[column]] = ordered
        return result

    def moments(
        self, A: np.ndarray, V: np.ndarray, noise: np.ndarray, limits: np.ndarray | None = None
    ) -> Moments:
        """Compute means and variances of the columns of numbers for normal predictors N(A, V).

        They are NaN for columns of categories. `limits` of shape (2, n_columns) are the smallest and
        largest values. Positive values and the rates of counts are replaced by the largest value
        where they exceed it. The mean of positive values is at least the smallest one, and their
        variance at most that of values within the limits.
        """
        gaussian, counts, _ = self.sizes.families
        shape = (len(A), len(self.types))
        mean, variance = np.full(shape, np.nan), np.full(shape, np.nan)
        columns = self.columns[gaussian]
        mean[:, columns], variance[:, columns] = A[:, gaussian], V[:, gaussian] + noise[gaussian]
        if limits is None:
            limits = np.repeat([[0.0], [np.inf]], len(self.types), axis=1)
        low, high = limits
        positive = [j for j, kind in enumerate(self.types) if kind == "positive"]
        first, spread = _limited_exp(mean[:, positive], variance[:, positive], high[positive])
        mean[:, positive] = np.maximum(first, low[positive])
        variance[:, positive] = np.minimum(spread, (0.5 * (high - low)[positive]) ** 2)
        columns = self.columns[counts]
        first, spread = _limited_exp(A[:, counts], V[:, counts], high[columns])
        mean[:, columns] = first
        variance[:, columns] = first + spread + (spread + first**2) / noise[counts]
        return Moments(mean, variance)

    def draw(
        self, A: np.ndarray, noise: np.ndarray, random_state: np.random.RandomState
    ) -> np.ndarray:
        """Draw codes for predictors A of shape (n_samples, n_terms)."""
        gaussian, counts, _ = self.sizes.families
        codes = np.zeros((len(A), len(self.types)))
        a, columns = A[:, gaussian], self.columns[gaussian]
        codes[:, columns] = random_state.normal(a, np.sqrt(noise[gaussian]))
        for j in columns:
            if self.types[j] == "positive":
                codes[:, j] = np.exp(codes[:, j])
        r = noise[counts]
        gamma = random_state.standard_gamma(np.broadcast_to(r, A[:, counts].shape)) / r
        codes[:, self.columns[counts]] = random_state.poisson(gamma * np.exp(A[:, counts]))
        for j, terms in self.categorical():
            p = np.exp(self.log_probabilities(A, j, terms))
            uniform = random_state.uniform(size=(len(A), 1))
            codes[:, j] = (np.cumsum(p, axis=1)[:, :-1] <= uniform).sum(axis=1)
        return codes


def _limited_exp(
    mean: np.ndarray, variance: np.ndarray, largest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of min(exp(a), largest) for a ~ N(mean, variance)."""
    std = np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    with np.errstate(divide="ignore"):
        most = np.log(largest)
    below = (most - mean) / std
    results = []
    for power in (1.0, 2.0):
        inside = log_ndtr(below - power * std)
        part = np.exp(power * mean + 0.5 * power**2 * variance + inside)
        # The limit counts only where it is exceeded, because it may be infinite.
        share = ndtr(-below)
        results.append(part + np.where(share > 0.0, largest, 0.0) ** power * share)
    first, spread = results[0], np.maximum(results[1] - results[0] ** 2, 0.0)
    narrow = std < _NARROW
    center = np.exp(np.minimum(mean, most + _FAR * std)[narrow])
    change, square = _limited_expm1(std[narrow], np.clip(below[narrow], -_FAR, _FAR))
    first[narrow] = center * (1.0 + change)
    spread[narrow] = center**2 * np.maximum(square - change**2, 0.0)
    return first, spread


def _limited_expm1(std: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two moments of exp(u) - 1 for u = std min(e, h), e ~ N(0, 1), for a small std.

    The function g(x) = exp(x^2 / 2) Phi(h - x) has the values E[exp(j u); e < h] at x = j std. The
    differences E[exp(u) - 1; e < h] and E[(exp(u) - 1)^2; e < h] are integrals of g' and g'', in
    which nothing cancels.
    """
    density = np.exp(-0.5 * h**2) / np.sqrt(2.0 * np.pi)

    def slopes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g, edge = np.exp(0.5 * x**2) * ndtr(h - x), density * np.exp(h * x)
        first = x * g - edge
        return first, g + x * first - h * edge

    beyond, share = np.expm1(h * std), ndtr(-h)
    change, square = beyond * share, beyond**2 * share
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        first, second = slopes(node * std)
        change += weight * std * first
        square += weight * node * std**2 * (second + slopes((2.0 - node) * std)[1])
    return change, square


def predictors(p: TermParameters, Z: np.ndarray) -> np.ndarray:
    """Return the predictors W z + b for latents of shape (..., k)."""
    return Z @ p.W.T + p.b
