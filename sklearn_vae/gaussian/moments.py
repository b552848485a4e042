"""First and second moments of data, which suffice to fit a Gaussian model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from scipy import sparse

from sklearn_vae.containers import readable, to_array
from sklearn_vae.gaussian.arrays import (
    Array,
    check_matrix,
    check_weights,
    float_name,
    float_type,
    scale_of,
    two_sum,
    wide_float,
)
from sklearn_vae.gaussian.centered import SparseCentered, is_mean_near
from sklearn_vae.gaussian.precision import Precision
from sklearn_vae.gaussian.symmetric import SymmetricSum, weighted_sums

# Largest number of samples whose mean may be subtracted from the first block.
SAMPLES = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and scatter matrix of a set of weighted samples.

    ``a + b`` holds the moments of two sets of samples together. Moments can therefore be computed
    per batch, file or machine and added in any order. The scatter is centered, so a large mean of
    the data costs no precision.

    Parameters
    ----------
    n : float
        Number of samples, or sum of their weights.
    mean : array of shape (n_features,)
        Weighted mean; zeros if n is 0.
    scatter : array of shape (n_features, n_features)
        Sum of w (x - mean)(x - mean)' over the samples.
    count : float, default=0.0
        Number of samples with positive weight. 0 means unknown if n > 0; it is then set to
        max(n, n_features).
    dtype : {"float64", "float32", ""}, default=""
        Dtype of a model that is fitted to the moments; "" means the dtype of the mean.
    precision : Precision, default=Precision()
        Precision in which the data were stored and multiplied. It cannot exceed the precision of
        the mean.
    remainder : array of shape (n_features,), default=None
        Exact mean minus its rounding `mean`. It keeps the digits of a mean far from zero when many
        sets of samples are added. If None, it is zero.

    Raises
    ------
    ValueError
        If the shapes do not match, if `n`, `count` or `precision` is negative or not finite, or if
        a dtype is not supported.

    See Also
    --------
    PPCA.from_moments : Fit pPCA to moments.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 1983, eq. 2.1 (the update of a sum of two sets).

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
    remainder: Array | None = None

    def __post_init__(self) -> None:
        d = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if tuple(self.scatter.shape) != (d, d):
            raise ValueError(
                "mean and scatter must have shapes (n_features,) and (n_features, n_features), got "
                f"{tuple(self.mean.shape)} and {tuple(self.scatter.shape)}."
            )
        xp = array_namespace(self.mean)
        if not xp.isdtype(self.mean.dtype, "real floating"):
            raise ValueError(f"mean must have a real floating dtype, got {self.mean.dtype}.")
        remainder = xp.zeros_like(self.mean) if self.remainder is None else self.remainder
        if tuple(remainder.shape) != (d,):
            raise ValueError(
                f"remainder must have the shape ({d},) of mean, got {tuple(remainder.shape)}."
            )
        if not 0.0 <= self.n < float("inf"):
            raise ValueError(f"n must be a finite number >= 0, got {self.n}.")
        for name, value in {"count": self.count, **vars(self.precision)}.items():
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number >= 0, got {value}.")
        if self.dtype not in ("", "float64", "float32"):
            raise ValueError(f"dtype must be 'float64', 'float32' or '', got {self.dtype!r}.")
        eps = float(xp.finfo(self.mean.dtype).eps)
        self.__dict__.update(  # the instance is frozen
            precision=self.precision.coarser(Precision(eps)),
            remainder=remainder,
            dtype=self.dtype or float_name(self.mean),
            count=self.count or (float(max(self.n, d)) if self.n else 0.0),
        )

    @classmethod
    def of(cls, X: Array, weights: Array | None = None, *, check_finite: bool = True) -> Moments:
        """Compute the moments of samples in one pass over blocks of X.

        Products are in the precision of X, and sums in float64 if the device supports it.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            Finite samples, in an array of any array-API library; it may be memory-mapped or empty.
            Dtypes other than float64 and float32 are converted to float64.
        weights : array of shape (n_samples,), default=None
            Finite, nonnegative weights. A weight of 2 counts a sample twice, and 0 ignores it.
        check_finite : bool, default=True
            Whether to raise if X is not finite. Otherwise the moments are not finite either.

        Returns
        -------
        Moments
            Moments of the samples.

        Raises
        ------
        TypeError
            If X is neither an array nor a sparse matrix.
        ValueError
            If X is not finite, real and two-dimensional, or if `weights` are invalid.
        """
        X = to_array(X) if hasattr(X, "columns") else readable(X)
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
        wide = wide_float(X)
        scatter = SymmetricSum(X.shape[1], X, wide)
        counts, means, errors = [], [], []
        with np.errstate(invalid="ignore", over="ignore"):
            # Means of blocks are relative to `origin`; a large mean would round them.
            origin, is_near = _rough_mean(X, weights, xp)
            shift = None if is_near else origin
            for count, mean, error in _shifted_blocks(X, weights, origin, shift, scatter):
                counts.append(count)
                means.append(mean)
                errors.append(error)
            origin = xp.astype(origin, wide)
            mean = _join_blocks(counts, xp.stack(means), xp.stack(errors), scatter)
            product = scatter.full()
            if scale != 1.0:
                product *= scale
            mean, remainder = two_sum(origin, mean)
        dtype, precision = float_name(X), Precision.of(X)
        return cls(n, mean, product, float(n_positive), dtype, precision, remainder)

    @classmethod
    def _of_sparse(cls, X: Any, weights: Array | None) -> Moments:
        d = X.shape[1]
        if weights is not None:
            weights = check_weights(weights, np.empty((X.shape[0], 0)))
        n = float(X.shape[0] if weights is None else weights.sum())
        if n == 0.0:
            return cls(0.0, np.zeros(d), np.zeros((d, d)))
        count = X.shape[0] if weights is None else np.count_nonzero(weights)
        data = SparseCentered(X, weights)
        with np.errstate(invalid="ignore", over="ignore"):
            scatter = (n / data.n) * data.scatter()
        dtype, precision = float_name(X), Precision.of(X)
        return cls(n, data.mean, scatter, float(count), dtype, precision, data.remainder)

    @property
    def is_finite(self) -> bool:
        """Whether the mean and the variances are finite."""
        return bool(array_namespace(self.mean).all(self._finite_columns))

    def check_finite(self, requirement: str = "X must be finite with finite squares") -> None:
        """Raise ValueError naming the first feature that is not finite, if there is one.

        Parameters
        ----------
        requirement : str, default="X must be finite with finite squares"
            Beginning of the error message.
        """
        xp = array_namespace(self.mean)
        finite = self._finite_columns
        if not xp.all(finite):
            column = int(xp.argmin(xp.astype(finite, xp.int64)))
            raise ValueError(f"{requirement}, got NaN, infinity or overflow in feature {column}.")

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
                "Moments to add must have the same number of features, got "
                f"{self.n_features} and {other.n_features}."
            )
        if other.n == 0:
            return self
        if self.n == 0:
            return other
        n = self.n + other.n
        with np.errstate(invalid="ignore", over="ignore"):
            delta, error = two_sum(other.mean, -self.mean)
            delta = delta + (error + other.remainder - self.remainder)
            # Start at the mean of the much heavier set. The other mean may be far away and round
            # more.
            if self.n < 1e-3 * other.n:
                mean, error = two_sum(other.mean, -(self.n / n) * delta)
                remainder = other.remainder + error
            else:
                mean, error = two_sum(self.mean, (other.n / n) * delta)
                remainder = self.remainder + error
            mean, remainder = two_sum(mean, remainder)
            between = (self.n * other.n / n) * (delta[:, None] * delta[None, :])
            merged = Moments(
                n,
                mean,
                self.scatter + other.scatter + between,
                self.count + other.count,
                max(self.dtype, other.dtype),  # float64 if either is
                self.precision.coarser(other.precision),
                remainder,
            )
        merged.check_finite("The sum of moments must be finite")
        return merged

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Array:
        """Covariance with divisor n, array of shape (n_features, n_features)."""
        if self.n == 0:
            raise ValueError("The covariance requires at least one sample, but n is 0.")
        return self.scatter / self.n


def moments_of_blocks(blocks: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> Moments:
    """Compute the moments of blocks of samples in float64 and their weights, of similar size.

    Products are added in place, about the mean of the first block, which the others should be near.
    """
    n, count = 0.0, 0
    shift: Any = None
    with np.errstate(invalid="ignore", over="ignore"):
        for X, weights in blocks:
            if shift is None:
                shift, total = X.mean(axis=0), np.zeros(X.shape[1])
                scatter = SymmetricSum(X.shape[1], total, np.float64)
            R = X - shift
            total += weighted_sums(R, weights)
            scatter.add(R if weights is None else np.sqrt(weights)[:, None] * R)
            n += len(X) if weights is None else float(weights.sum())
            count += len(X) if weights is None else int(np.count_nonzero(weights))
        mean = total / n
        spread = scatter.full() - total[:, None] * mean
        moments = Moments(n, mean + shift, spread, float(count))
    moments.check_finite()
    return moments


def _join_blocks(counts: list[float], means: Array, errors: Array, scatter: SymmetricSum) -> Array:
    """Combine weights, means and shifted means (`errors`) of blocks into the mean.

    `scatter` is the sum of the scatters of the blocks about their shifts and becomes that about the
    mean.
    """
    xp = array_namespace(means)
    w = xp.asarray(counts, dtype=means.dtype, device=device(means))[:, None]
    mean = xp.sum(w * means, axis=0) / (sum(counts) or 1.0)
    scatter.add(w**0.5 * errors, sign=-1.0)
    if len(counts) > 1:
        scatter.add(w**0.5 * (means - mean))
    return mean


def _rough_mean(X: Array, weights: Array | None, xp: Any) -> tuple[Array, bool]:
    """Average some samples with a substantial weight, and tell if they are near zero.

    The mean is in X's dtype. It is zero if the samples are so near zero, relative to their spread,
    that it need not be subtracted, or if X is empty. The samples are taken from all of X, whose
    first ones may differ from the others.
    """
    dtype, wide = float_type(X), wide_float(X)
    n = X.shape[0]
    if weights is not None and n:
        heavy = xp.nonzero(weights >= 0.5 * xp.mean(weights))[0]
        few = xp.take(X, heavy[:: 1 + (heavy.shape[0] - 1) // SAMPLES], axis=0)
    else:
        few = X[:: 1 + (n - 1) // SAMPLES, :] if n else X
    zeros = xp.zeros((X.shape[1],), dtype=dtype, device=device(X))
    if few.shape[0] == 0:
        return zeros, True
    few = xp.astype(few, wide)
    mean, variances = xp.mean(few, axis=0), xp.var(few, axis=0)
    # Without the share caused by the small number of samples.
    squares = xp.clip(mean**2 - variances / few.shape[0], 0.0, None)
    # Half of the limit, because these are estimates.
    is_near = is_mean_near(2.0 * squares, variances, dtype)
    return (zeros if is_near else xp.astype(mean, dtype)), is_near


def _shifted_blocks(
    X: Array, weights: Array | None, origin: Array, shift: Array | None, scatter: SymmetricSum
) -> Iterator[tuple[float, Array, Array]]:
    """Yield for each block its weight, its mean minus origin and minus shift; add its scatter.

    Shifting copies a block. `shift` is that of the first block, or None. The next block is not
    shifted if no |mean| exceeds three standard deviations (one in float32).
    """
    xp, (n_rows, d) = array_namespace(X), X.shape
    dtype, wide = float_type(X), wide_float(X)
    # Largest average weight of a block so far. It starts at the average weight of X, since the
    # first blocks may be light.
    start, heaviest = 0, 1.0 if weights is None or n_rows == 0 else float(xp.mean(weights))
    squares = scatter.diagonal()
    while start < max(n_rows, 1):
        # Large enough for the sum of (d, d) products to be cheap; larger without a copy.
        size = min(max(2**18 // max(d, 1), 4096), 2**14) * (1 if shift is not None else 4)
        rows = slice(start, min(start + size, n_rows))
        start += size
        block = xp.astype(X[rows, :], dtype, copy=False)
        w = None if weights is None else weights[rows]
        count, error, R = _moments_about(block, w, shift, xp)
        scatter.add(R)
        shifted_by = xp.zeros_like(origin) if shift is None else shift
        mean = xp.astype(shifted_by, wide) - xp.astype(origin, wide) + error
        yield count, mean, error
        before, squares = squares, scatter.diagonal()
        # The mean of a light block is no guide to that of the next one.
        weight = count / max(block.shape[0], 1)
        heaviest = max(heaviest, weight)
        if weight == 0.0 or weight < 0.5 * heaviest:
            continue
        variance = (squares - before) / count - error**2
        mean = mean + xp.astype(origin, wide)
        is_far = not is_mean_near(mean**2, variance, dtype)
        shift = xp.astype(mean, dtype) if is_far else None


def _moments_about(
    X: Array, weights: Array | None, shift: Array | None, xp: Any
) -> tuple[float, Array, Array]:
    """Compute weight and mean of a block, both about the shift (None: zero), and its R.

    The scatter about the shift is R'R.
    """
    wide = wide_float(X)
    R = X if shift is None else X - shift
    count = float(X.shape[0] if weights is None else xp.sum(xp.astype(weights, wide)))
    total = xp.astype(weighted_sums(R, weights), wide)
    if weights is not None:
        R = weights[:, None] ** 0.5 * R
    return count, total / (count or 1.0), R
