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
        self, A: np.ndarray, V: np.ndarray, noise: np.ndarray, largest: np.ndarray | None = None
    ) -> Moments:
        """Compute means and variances of the columns of numbers for normal predictors N(A, V).

        They are NaN for columns of categories. Positive values and the rates of counts are replaced
        by `largest`, of shape (n_columns,), where they exceed it.
        """
        gaussian, counts, _ = self.sizes.families
        shape = (len(A), len(self.types))
        mean, variance = np.full(shape, np.nan), np.full(shape, np.nan)
        columns = self.columns[gaussian]
        mean[:, columns], variance[:, columns] = A[:, gaussian], V[:, gaussian] + noise[gaussian]
        limits = np.full(len(self.types), np.inf) if largest is None else largest
        positive = [j for j, kind in enumerate(self.types) if kind == "positive"]
        first, second = _limited_exp(mean[:, positive], variance[:, positive], limits[positive])
        mean[:, positive], variance[:, positive] = first, second - first**2
        columns = self.columns[counts]
        first, second = _limited_exp(A[:, counts], V[:, counts], limits[columns])
        mean[:, columns] = first
        variance[:, columns] = first + second * (1.0 + 1.0 / noise[counts]) - first**2
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
    """Return the first two moments of min(exp(a), largest) for a ~ N(mean, variance)."""
    std = np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    with np.errstate(divide="ignore"):
        most = np.log(largest)
    above = (mean - most) / std
    results = []
    for power in (1.0, 2.0):
        inside = log_ndtr(-above - power * std)
        part = np.exp(power * mean + 0.5 * power**2 * variance + inside)
        # The limit counts only where it is exceeded, because it may be infinite.
        share = ndtr(above)
        results.append(part + np.where(share > 0.0, largest, 0.0) ** power * share)
    return results[0], results[1]


def predictors(p: TermParameters, Z: np.ndarray) -> np.ndarray:
    """Return the predictors W z + b for latents of shape (..., k)."""
    return Z @ p.W.T + p.b
