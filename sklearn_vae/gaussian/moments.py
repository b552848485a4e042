"""Number, mean and scatter of a set of rows: all that a Gaussian model needs to know of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from sklearn_vae.gaussian.arrays import Array, as_floating


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of weighted rows. `a + b` are the moments of both sets of rows.

    Addition is associative and commutative to rounding and has the moments of no rows as its
    neutral element, so any splitting of the data, over batches, files or machines, gives the
    moments of the whole. The scatter is always kept centred: no E[x^2] - E[x]^2 is ever
    formed, and an offset of the data costs no digits.

    Parameters
    ----------
    n : float
        Number of rows, or sum of their weights.
    mean : array of shape (d,)
        Weighted mean; zeros where n is 0.
    scatter : array of shape (d, d)
        Sum over rows of w (x - mean)(x - mean)'. The covariance with divisor n is scatter / n.

    Raises
    ------
    ValueError
        If the shapes do not fit, or n is negative or not finite.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 1983, eq. 2.1: the pairwise update, here for matrices and weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae import Moments
    >>> X = np.arange(12.0).reshape(6, 2)
    >>> whole = Moments.of(X[:1]) + Moments.of(X[1:])
    >>> whole.n, whole.mean.tolist(), whole.scatter.tolist()
    (6.0, [5.0, 6.0], [[70.0, 70.0], [70.0, 70.0]])
    """

    n: float
    mean: Array
    scatter: Array

    def __post_init__(self) -> None:
        d = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if tuple(self.scatter.shape) != (d, d):
            raise ValueError(
                "mean and scatter must have shapes (d,) and (d, d), got "
                f"{tuple(self.mean.shape)} and {tuple(self.scatter.shape)}."
            )
        if not 0.0 <= self.n < float("inf"):
            raise ValueError(f"n must be a finite number >= 0, got {self.n}.")

    @classmethod
    def of(cls, X: Array, weights: Array | None = None) -> Moments:
        """Moments of the rows of X, in one pass over blocks of rows.

        Each block is shifted by the mean of the block before it, unless that is small against
        the spread, and multiplied in X's precision; the sums are float64.

        Parameters
        ----------
        X : array of shape (n, d)
            Finite, of any array-API namespace; n may be 0. Integers count as float64.
        weights : array of shape (n,), default=None
            Finite and not negative; fractions allowed. A weight of 2 counts a row twice, one of
            0 leaves it out. None weighs every row 1.

        Raises
        ------
        ValueError
            If X is not finite, not real or not two-dimensional, or the weights do not fit.
        """
        X, xp = as_floating(X)
        d = X.shape[1]
        if weights is not None:
            weights = _check_weights(weights, X, xp)
        scatter = xp.zeros((d, d), dtype=xp.float64, device=device(X))
        counts, means, errors = [], [], []
        with np.errstate(invalid="ignore", over="ignore"):
            # Means of blocks are kept relative to this: a large mean would round them.
            origin = _rough_mean(X, weights, xp)
            for count, mean, error, product in _shifted_blocks(X, weights, origin, xp):
                scatter += product
                counts.append(count)
                means.append(mean)
                errors.append(error)
            origin = xp.astype(origin, xp.float64)
            moments = cls._from_blocks(counts, xp.stack(means), xp.stack(errors), scatter, origin)
        return moments._checked("X must be finite with finite squares")

    def _checked(self, requirement: str) -> Moments:
        """Self, or a ValueError that names the first column with NaN or infinity."""
        xp = array_namespace(self.mean)
        finite = xp.isfinite(self.mean) & xp.isfinite(xp.linalg.diagonal(self.scatter))
        if not xp.all(finite):
            column = int(xp.argmin(xp.astype(finite, xp.int64)))
            raise ValueError(f"{requirement}, got NaN, infinity or overflow in column {column}.")
        return self

    @classmethod
    def _from_blocks(
        cls, counts: list[float], means: Array, errors: Array, scatter: Array, origin: Array
    ) -> Moments:
        """From each block's weight, mean minus origin and minus shift, and the sum of products."""
        xp = array_namespace(means)
        n = sum(counts)
        w = xp.asarray(counts, dtype=means.dtype, device=device(means))[:, None]
        mean = xp.sum(w * means, axis=0) / (n or 1.0)
        within, between = w**0.5 * errors, w**0.5 * (means - mean)
        return cls(n, origin + mean, scatter - within.T @ within + between.T @ between)

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.n_features != other.n_features:
            raise ValueError(
                "Moments of different numbers of features cannot be added: got "
                f"{self.n_features} and {other.n_features}."
            )
        if other.n == 0:
            return self
        if self.n == 0:
            return other
        n = self.n + other.n
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            mean = self.mean + (other.n / n) * delta
            between = (self.n * other.n / n) * (delta[:, None] * delta[None, :])
            merged = Moments(n, mean, self.scatter + other.scatter + between)
        return merged._checked("The sum of moments must be finite")

    @property
    def n_features(self) -> int:
        """Number d of features."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Array:
        """S of shape (d, d), with divisor n: the maximum likelihood estimate."""
        if self.n == 0:
            raise ValueError("The covariance of no rows is not defined: n is 0.")
        return self.scatter / self.n


def _check_weights(weights: Array, X: Array, xp: Any) -> Array:
    weights = xp.asarray(weights, dtype=X.dtype, device=device(X))
    if tuple(weights.shape) != (X.shape[0],):
        raise ValueError(
            f"weights must have shape ({X.shape[0]},), one a row of X, got {tuple(weights.shape)}."
        )
    bad = ~(xp.isfinite(weights) & (weights >= 0))
    if xp.any(bad):
        row = int(xp.argmax(xp.astype(bad, xp.int64)))
        raise ValueError(f"weights must be finite and >= 0, got {weights[row]} for row {row}.")
    return weights


def _rough_mean(X: Array, weights: Array | None, xp: Any) -> Array:
    """Mean of the first rows that count, in X's precision; zeros where there are none."""
    head = X
    if weights is not None and X.shape[0]:
        heavy = xp.nonzero(weights >= 0.5 * xp.mean(weights))[0]
        head = xp.take(X, heavy[: min(256, heavy.shape[0])], axis=0)
    head = head[: min(256, head.shape[0]), :]
    if head.shape[0] == 0:
        return xp.zeros((X.shape[1],), dtype=X.dtype, device=device(X))
    return xp.astype(xp.sum(head, axis=0, dtype=xp.float64) / head.shape[0], X.dtype)


def _shifted_blocks(
    X: Array, weights: Array | None, origin: Array, xp: Any
) -> Iterator[tuple[float, Array, Array, Array]]:
    """For each block its weight, its mean minus the origin and minus its shift, its scatter.

    Shifting costs a copy of the block. Where no |mean| exceeds three standard deviations, one in
    float32, not shifting the next block costs no more than a digit.
    """
    n_rows, d = X.shape
    limit = 10.0 if X.dtype == xp.float64 else 1.0
    shift: Array | None = origin
    start, heaviest = 0, 0.0  # the largest average weight of a row in a block so far
    while start < max(n_rows, 1):
        # So many rows that adding up (d, d) products costs little beside making them; more
        # where they need not be copied.
        size = min(max(2**18 // max(d, 1), 4096), 2**14) * (1 if shift is not None else 4)
        rows = slice(start, min(start + size, n_rows))
        start += size
        block, w = X[rows, :], None if weights is None else weights[rows]
        count, error, product = _moments_about(block, w, shift, xp)
        shifted_by = xp.zeros_like(origin) if shift is None else shift
        mean = xp.astype(shifted_by, xp.float64) - xp.astype(origin, xp.float64) + error
        yield count, mean, error, product
        # A block of light rows may be anywhere: it does not tell where the next one is.
        weight = count / max(block.shape[0], 1)
        heaviest = max(heaviest, weight)
        if weight == 0.0 or weight < 0.5 * heaviest:
            continue
        variance = xp.linalg.diagonal(product) / count - error**2
        mean = mean + xp.astype(origin, xp.float64)
        shift = xp.astype(mean, X.dtype) if xp.any(mean**2 > limit * variance) else None


def _moments_about(
    X: Array, weights: Array | None, shift: Array | None, xp: Any
) -> tuple[float, Array, Array]:
    """Weight of a block, its mean and its scatter, both about the shift; None is zero."""
    R = X if shift is None else X - shift
    if weights is None:
        count = float(X.shape[0])
        total = xp.ones((X.shape[0],), dtype=X.dtype, device=device(X)) @ R
    else:
        count = float(xp.sum(xp.astype(weights, xp.float64)))
        total = weights @ R
        R = weights[:, None] ** 0.5 * R
    return count, xp.astype(total, xp.float64) / (count or 1.0), R.T @ R
