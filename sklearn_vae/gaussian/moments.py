"""Number, mean and scatter of a set of samples: sufficient for a Gaussian model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from scipy import sparse

from sklearn_vae.containers import readable
from sklearn_vae.gaussian.arrays import (
    Array,
    check_matrix,
    check_weights,
    float_name,
    float_type,
    scale_of,
    wide_float,
)
from sklearn_vae.gaussian.centred import SparseCentred
from sklearn_vae.gaussian.precision import Precision


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
    count : float, default=0.0
        Number of samples with positive weight. 0 where n > 0 means that it is not known: then
        max(n, d), since normalised weights may sum up to 1 whatever the number of samples.
    dtype : {"float64", "float32", ""}, default=""
        In which a model of the data is kept; "" is the dtype of the mean.
    precision : Precision, default=Precision()
        How precisely the data were stored and multiplied; no more precisely than the mean is.

    Raises
    ------
    ValueError
        If the shapes do not fit, or n or `count` are negative or not finite.

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
    count: float = 0.0
    dtype: str = ""
    precision: Precision = field(default_factory=Precision)

    def __post_init__(self) -> None:
        d = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if tuple(self.scatter.shape) != (d, d):
            raise ValueError(
                "mean and scatter must have shapes (d,) and (d, d), got "
                f"{tuple(self.mean.shape)} and {tuple(self.scatter.shape)}."
            )
        xp = array_namespace(self.mean)
        if not xp.isdtype(self.mean.dtype, "real floating"):
            raise ValueError(f"mean must be of a real floating dtype, got {self.mean.dtype}.")
        if not 0.0 <= self.n < float("inf"):
            raise ValueError(f"n must be a finite number >= 0, got {self.n}.")
        for name, value in {"count": self.count, **vars(self.precision)}.items():
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number >= 0, got {value}.")
        if self.dtype not in ("", "float64", "float32"):
            raise ValueError(f"dtype must be 'float64' or 'float32', got {self.dtype!r}.")
        eps = float(xp.finfo(self.mean.dtype).eps)
        self.__dict__.update(  # the instance is frozen
            precision=self.precision.coarser(Precision(eps)),
            dtype=self.dtype or float_name(self.mean),
            count=self.count or (float(max(self.n, d)) if self.n else 0.0),
        )

    @classmethod
    def of(cls, X: Array, weights: Array | None = None, *, check_finite: bool = True) -> Moments:
        """Moments of the rows of X, in one pass over blocks of rows.

        Each block is shifted by the mean of the block before it, unless that is small against
        the spread, and multiplied in X's precision; the sums are float64, or float32 on a device
        without float64. X may be memory-mapped: no copy is made but of a block. Of a sparse X
        only stored numbers are multiplied, and columns that are nearly full.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Finite, of any array-API namespace; n may be 0. Numbers other than float64 and
            float32 count as float64.
        weights : array of shape (n,), default=None
            Finite and not negative; fractions allowed. A weight of 2 counts a row twice, one of
            0 leaves it out. None weighs every row 1.
        check_finite : bool, default=True
            Whether to raise if X is not finite; otherwise the moments are not finite either.

        Raises
        ------
        ValueError
            If X is not finite, not real or not two-dimensional, or the weights do not fit.
        """
        X = readable(X)
        X = X.to_numpy() if hasattr(X, "to_numpy") else X
        is_sparse = sparse.issparse(check_matrix(X))
        moments = cls._of_sparse(X, weights) if is_sparse else cls._of_dense(X, weights)
        if check_finite:
            moments.check_finite()
        return moments

    @classmethod
    def _of_dense(cls, X: Array, weights: Array | None) -> Moments:
        xp = array_namespace(X)
        n, scale, n_positive = float(X.shape[0]), 1.0, X.shape[0]
        if weights is not None:
            weights = check_weights(weights, X)
            n, scale = float(xp.sum(weights)), scale_of(weights)
            n_positive = int(xp.count_nonzero(weights))
            weights = xp.astype(weights / scale, float_type(X))
        d, wide = X.shape[1], wide_float(X)
        scatter = xp.zeros((d, d), dtype=wide, device=device(X))
        counts, means, errors = [], [], []
        with np.errstate(invalid="ignore", over="ignore"):
            # Means of blocks are kept relative to this: a large mean would round them.
            origin = _rough_mean(X, weights, xp)
            for count, mean, error, product in _shifted_blocks(X, weights, origin, xp):
                scatter += product
                counts.append(count)
                means.append(mean)
                errors.append(error)
            origin = xp.astype(origin, wide)
            mean, scatter = _join_blocks(counts, xp.stack(means), xp.stack(errors), scatter)
            if scale != 1.0:
                scatter *= scale
            mean += origin
        return cls(n, mean, scatter, float(n_positive), float_name(X), Precision.of(X))

    @classmethod
    def _of_sparse(cls, X: Any, weights: Array | None) -> Moments:
        d = X.shape[1]
        if weights is not None:
            weights = check_weights(weights, np.empty((X.shape[0], 0)))
        n = float(X.shape[0] if weights is None else weights.sum())
        if n == 0.0:
            return cls(0.0, np.zeros(d), np.zeros((d, d)))
        count = X.shape[0] if weights is None else np.count_nonzero(weights)
        data = SparseCentred(X, weights)
        with np.errstate(invalid="ignore", over="ignore"):
            scatter = (n / data.n) * data.scatter()
        return cls(n, data.mean, scatter, float(count), float_name(X), Precision.of(X))

    @property
    def is_finite(self) -> bool:
        """Whether the samples are finite, with finite squares."""
        return bool(array_namespace(self.mean).all(self._finite_columns))

    def check_finite(self, requirement: str = "X must be finite with finite squares") -> None:
        """Raise ValueError that names the first column with NaN or infinity, if there is one."""
        xp = array_namespace(self.mean)
        finite = self._finite_columns
        if not xp.all(finite):
            column = int(xp.argmin(xp.astype(finite, xp.int64)))
            raise ValueError(f"{requirement}, got NaN, infinity or overflow in column {column}.")

    @property
    def _finite_columns(self) -> Array:
        xp = array_namespace(self.mean)
        return xp.isfinite(self.mean) & xp.isfinite(xp.linalg.diagonal(self.scatter))

    def __radd__(self, other: Any) -> Moments:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # for sum()

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
            merged = Moments(
                n,
                mean,
                self.scatter + other.scatter + between,
                self.count + other.count,
                max(self.dtype, other.dtype),  # float64 if either is
                self.precision.coarser(other.precision),
            )
        merged.check_finite("The sum of moments must be finite")
        return merged

    def rescaled(self, n: float) -> Moments:
        """The same mean and covariance, of weights that sum up to n."""
        if n == self.n:
            return self
        with np.errstate(over="ignore"):
            return replace(self, n=n, scatter=self.scatter * (n / self.n))

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


def _join_blocks(
    counts: list[float], means: Array, errors: Array, scatter: Array
) -> tuple[Array, Array]:
    """Mean and scatter of all blocks, from their weights, means, means minus shifts.

    `scatter` is the sum of products about the shifts.
    """
    xp = array_namespace(means)
    w = xp.asarray(counts, dtype=means.dtype, device=device(means))[:, None]
    mean = xp.sum(w * means, axis=0) / (sum(counts) or 1.0)
    within, between = w**0.5 * errors, w**0.5 * (means - mean)
    return mean, scatter - within.T @ within + between.T @ between


def _rough_mean(X: Array, weights: Array | None, xp: Any) -> Array:
    """Mean of the first rows of some weight, in X's precision; zeros where there are none."""
    dtype = float_type(X)
    head = X
    if weights is not None and X.shape[0]:
        heavy = xp.nonzero(weights >= 0.5 * xp.mean(weights))[0]
        head = xp.take(X, heavy[: min(256, heavy.shape[0])], axis=0)
    head = head[: min(256, head.shape[0]), :]
    if head.shape[0] == 0:
        return xp.zeros((X.shape[1],), dtype=dtype, device=device(X))
    return xp.astype(xp.sum(head, axis=0, dtype=wide_float(X)) / head.shape[0], dtype)


def _shifted_blocks(
    X: Array, weights: Array | None, origin: Array, xp: Any
) -> Iterator[tuple[float, Array, Array, Array]]:
    """For each block its weight, its mean minus the origin and minus its shift, its scatter.

    Shifting costs a copy of the block. Where no |mean| exceeds three standard deviations, one in
    float32, not shifting the next block costs no more than a digit.
    """
    n_rows, d = X.shape
    dtype, wide = float_type(X), wide_float(X)
    limit = 10.0 if dtype == xp.float64 else 1.0
    shift: Array | None = origin
    start, heaviest = 0, 0.0  # the largest average weight of a row in a block so far
    while start < max(n_rows, 1):
        # So many rows that adding up (d, d) products costs little beside making them; more
        # where they need not be copied.
        size = min(max(2**18 // max(d, 1), 4096), 2**14) * (1 if shift is not None else 4)
        rows = slice(start, min(start + size, n_rows))
        start += size
        block = xp.astype(X[rows, :], dtype, copy=False)
        w = None if weights is None else weights[rows]
        count, error, product = _moments_about(block, w, shift, xp)
        shifted_by = xp.zeros_like(origin) if shift is None else shift
        mean = xp.astype(shifted_by, wide) - xp.astype(origin, wide) + error
        yield count, mean, error, product
        # A block of light rows may be anywhere: it does not tell where the next one is.
        weight = count / max(block.shape[0], 1)
        heaviest = max(heaviest, weight)
        if weight == 0.0 or weight < 0.5 * heaviest:
            continue
        variance = xp.linalg.diagonal(product) / count - error**2
        mean = mean + xp.astype(origin, wide)
        shift = xp.astype(mean, dtype) if xp.any(mean**2 > limit * variance) else None


def _moments_about(
    X: Array, weights: Array | None, shift: Array | None, xp: Any
) -> tuple[float, Array, Array]:
    """Weight of a block, its mean and its scatter, both about the shift; None is zero."""
    wide = wide_float(X)
    R = X if shift is None else X - shift
    if weights is None:
        count = float(X.shape[0])
        total = xp.ones((X.shape[0],), dtype=X.dtype, device=device(X)) @ R
    else:
        count = float(xp.sum(xp.astype(weights, wide)))
        total = weights @ R
        R = weights[:, None] ** 0.5 * R
    return count, xp.astype(total, wide) / (count or 1.0), R.T @ R
