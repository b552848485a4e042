"""Normal distribution with a full covariance for incomplete data, shrunk to independent features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from sklearn_vae.gaussian.observed import observed_moments, patterns

# Candidates for the weight of the prior, as a number of samples.
WEIGHTS = np.exp(np.linspace(-3.0, 9.0, 49))
# Variance of a constant feature, in its own unit.
CONSTANT_VARIANCE = 1e-12
# Patterns in a block, so that their matrices fit in the cache, and matrices that are swept at once.
BLOCK, SWEEP_UP_TO = 2**15, 16
# Pairs of features count as this many more samples without correlation at the start of EM.
START_WEIGHT, LEAST_EIGENVALUE = 10.0, 0.02


class Normal(NamedTuple):
    """Normal distribution of all features."""

    mean: np.ndarray  # (d,)
    covariance: np.ndarray  # (d, d)

    def conditional(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return X with conditional means of missing values, and the standard deviations."""
        parts = MissingParts(X)
        filled, _, variances = parts.expectations(self)
        return np.where(parts.missing, filled + self.mean, X), np.sqrt(variances)

    def draw(self, X: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Return X with a joint draw of the missing values of each sample.

        A draw of all features plus the conditional mean of its difference from X has the conditional
        distribution (Matheron's rule), so that one Cholesky factorization serves all samples.
        """
        d = len(self.mean)
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn = self.mean + rng.standard_normal((len(X), d)) @ root.T
        parts = MissingParts(X - drawn)
        difference, _, _ = parts.expectations(self._replace(mean=np.zeros(d)))
        return np.where(parts.missing, drawn + difference, X)


class _Block(NamedTuple):
    """Patterns with similar numbers of missing values, and their samples.

    `gone` are indices of the missing features (p, q), and `seen` of the observed ones, if these are
    fewer. Both are padded by indices from d on, for independent features of variance 1.
    """

    gone: np.ndarray
    seen: np.ndarray | None
    samples: np.ndarray  # (r,)
    owner: np.ndarray | None  # pattern of each sample; None if every sample has its own
    totals: np.ndarray  # weight of each pattern, (p,)

    def repeated(self, values: np.ndarray) -> np.ndarray:
        return values if self.owner is None else values[self.owner]


class MissingParts:
    """Conditional moments of the missing values of X, by blocks of patterns."""

    def __init__(self, X: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.X, self.weights = X, weights
        self.missing = np.isnan(X)
        self._blocks = list(self._split())
        self._width = max((block.gone.shape[1] for block in self._blocks), default=0)

    def _split(self) -> Iterator[_Block]:
        d = self.X.shape[1]
        first, pattern, counts = patterns(self.missing)
        gone = self.missing[first]
        n_gone = gone.sum(axis=1)
        totals = np.bincount(pattern, self.weights, len(counts)).astype(float)
        by_size = np.argsort(n_gone, kind="stable")
        by_size = by_size[n_gone[by_size] > 0]
        indices = np.argsort(~gone, axis=1, kind="stable")
        samples = np.argsort(pattern, kind="stable")
        ends = np.cumsum(counts)
        at = 0
        while at < len(by_size):
            least = int(n_gone[by_size[at]])
            inverted = min(least, d - least)
            size = min(max(BLOCK // max(inverted, 1) ** 2, 32), 512)
            chosen = by_size[at : at + size]
            # Padding is wasted work: at most an eighth and two.
            chosen = chosen[n_gone[chosen] <= least + least // 8 + 2]
            at += len(chosen)
            most = int(n_gone[chosen[-1]])
            padded = np.where(np.arange(d) < n_gone[chosen, None], indices[chosen], -1)[:, :most]
            padded = np.where(padded < 0, d + np.arange(most), padded)
            seen = None
            if 2 * least > d:  # `indices` ends with the observed features
                seen = np.where(np.arange(d) >= n_gone[chosen, None], indices[chosen], -1)
                seen = seen[:, least:]
                seen = np.where(seen < 0, d + np.arange(d - least), seen)
            rows = np.concatenate([samples[ends[p] - counts[p] : ends[p]] for p in chosen])
            owner = None
            if len(rows) > len(chosen):
                owner = np.repeat(np.arange(len(chosen)), counts[chosen])
            yield _Block(padded, seen, rows, owner, totals[chosen])

    def expectations(self, normal: Normal) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X minus the mean, the sum of conditional covariances, and the variances.

        Missing values of X are replaced by conditional means. Observed values have no variance.
        """
        n, d = self.X.shape
        size = d + self._width  # `seen` is padded by fewer than `gone`
        precision, covariance = np.eye(size), np.eye(size)
        covariance[:d, :d] = normal.covariance
        precision[:d, :d] = np.linalg.inv(normal.covariance)
        Y = np.zeros((n, size))
        Y[:, :d] = np.where(self.missing, 0.0, self.X - normal.mean)
        G = np.zeros((n, size))
        G[:, :d] = Y[:, :d] @ precision[:d, :d]
        variances, total = np.zeros((n, size)), np.zeros(size * size)
        for block in self._blocks:
            gone, rows = block.gone, block.samples[:, None]
            where = block.repeated(gone)
            if block.seen is None:
                # With the precision P, the covariance is P_mm^-1 and the mean -P_mm^-1 P_mo y_o.
                C = _inverses(precision[gone[:, :, None], gone[:, None, :]])
                means = -_products(C, G[rows, where], block)
            else:
                B = _inverses(covariance[block.seen[:, :, None], block.seen[:, None, :]])
                cross = covariance[gone[:, :, None], block.seen[:, None, :]]
                gain = cross @ B
                C = covariance[gone[:, :, None], gone[:, None, :]]
                C = C - gain @ np.swapaxes(cross, 1, 2)
                means = _products(gain, Y[rows, block.repeated(block.seen)], block)
            Y[rows, where] = means
            diagonal = np.maximum(np.einsum("paa->pa", C), 0.0)
            variances[rows, where] = block.repeated(diagonal)
            C *= block.totals[:, None, None]
            flat = gone[:, :, None] * size + gone[:, None, :]
            total += np.bincount(flat.ravel(), C.ravel(), minlength=size * size)
        return Y[:, :d], total.reshape(size, size)[:d, :d], variances[:, :d]


def _products(matrices: np.ndarray, vectors: np.ndarray, block: _Block) -> np.ndarray:
    """Multiply the vector of each sample by the matrix of its pattern."""
    if len(matrices) == 1:
        return vectors @ matrices[0].T
    return np.einsum("pab,pb->pa", block.repeated(matrices), vectors)


def _inverses(M: np.ndarray) -> np.ndarray:
    """Return the inverses of positive definite matrices (p, q, q)."""
    q = M.shape[1]
    if q > SWEEP_UP_TO or len(M) < 8:
        return np.linalg.inv(M)
    M = np.ascontiguousarray(np.moveaxis(M, 0, 2))
    product = np.empty_like(M)
    for a in range(q):  # the sweep operator, which leaves -M^-1
        pivot, row = M[a, a].copy(), M[a].copy()
        scaled = row / pivot
        M -= np.multiply(row[:, None], scaled, out=product)
        M[a] = M[:, a] = scaled
        M[a, a] = -1.0 / pivot
    return -np.moveaxis(M, 2, 0)


class ShrunkFit(NamedTuple):
    """Result of `fit_shrunk`."""

    normal: Normal
    shrinkage: float  # weight of the prior, as a share of all samples
    changes: list[float]  # of the imputed values in each step, in standard deviations
    converged: bool


def fit_shrunk(
    X: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    shrinkage: float | None = None,
    start: Normal | None = None,
    tol: float = 1e-2,
    max_iter: int = 100,
) -> ShrunkFit:
    """Fit a normal distribution to incomplete data, by the mode of the posterior.

    The covariance has an inverse Wishart prior that counts as some more samples with the observed
    variances and without correlations, as in [1]_ and [2]_. Their number maximizes the evidence, with
    expected moments in place of missing values.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Samples in float64, with NaN for missing values.
    weights : array of shape (n_samples,), default=None
        Positive weights.
    shrinkage : float, default=None
        Weight of the prior as a share of all samples, between 0 (excluded) and 1. If None, it
        maximizes the evidence.
    start : Normal, default=None
        Distribution at which EM starts. If None, the moments of the pairs of observed values.
    tol : float, default=1e-2
        EM stops when the root mean square change of the imputed values is less, in standard
        deviations.
    max_iter : int, default=100
        Maximum number of steps.

    Returns
    -------
    fit : ShrunkFit
        Fitted distribution.

    Raises
    ------
    ValueError
        If variances overflow, or the covariance is singular to rounding.

    References
    ----------
    .. [1] Chen, "Bayesian inference for a normal dispersion matrix and its application to stochastic
       multiple regression analysis", JRSS-B 1979.
    .. [2] Schafer, "Analysis of Incomplete Multivariate Data", 1997, section 5.2.
    """
    n = float(len(X) if weights is None else weights.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        center, variances, _ = observed_moments(X, weights)
        varies = variances > (4.0 * 2.0**-52 * center) ** 2
    if not np.isfinite(variances).all():
        raise ValueError(
            "X must have observed values whose squared distances from the mean are finite in "
            "float64. Scale X."
        )
    unit = np.where(varies, np.sqrt(variances), 1.0)
    used = slice(None) if varies.all() else np.flatnonzero(varies)
    parts = MissingParts((X - center)[:, used] / unit[used], weights)
    normal, share, changes, converged = Normal(center[:0], np.eye(0)), 1.0, [0.0], True
    if varies.any():
        if start is None:
            normal = _pairwise(parts, n)
        else:
            scale = unit[used]
            covariance = start.covariance[np.ix_(varies, varies)] / scale / scale[:, None]
            normal = Normal((start.mean - center)[used] / scale, covariance)
        try:
            normal, share, changes, converged = _iterate(parts, n, normal, shrinkage, tol, max_iter)
            smallest = float(np.linalg.eigvalsh(normal.covariance)[0])
        except np.linalg.LinAlgError:
            smallest = 0.0
        if smallest <= len(normal.mean) * np.finfo(float).eps:
            raise ValueError(
                f"shrinkage must be large enough for a covariance without rounding errors, got "
                f"{shrinkage}: some features are linear combinations of others. Increase shrinkage, or "
                "pass 'auto'."
            )
    mean, covariance = center.copy(), np.diag(np.where(varies, 0.0, CONSTANT_VARIANCE))
    mean[used] += normal.mean * unit[used]
    covariance[np.ix_(varies, varies)] = normal.covariance * unit[used] * unit[used][:, None]
    return ShrunkFit(Normal(mean, covariance), share, changes, converged)


def _pairwise(parts: MissingParts, n: float) -> Normal:
    """Return correlations of the pairs of observed values, made positive definite."""
    w = 1.0 if parts.weights is None else parts.weights[:, None]
    seen = (~parts.missing).astype(float)
    Y = np.where(parts.missing, 0.0, parts.X)
    S = (Y * w).T @ Y / ((seen * w).T @ seen + START_WEIGHT * n / len(Y))
    np.fill_diagonal(S, 1.0)
    values, vectors = np.linalg.eigh(S)
    S = (vectors * np.maximum(values, LEAST_EIGENVALUE)) @ vectors.T
    return Normal(np.zeros(len(S)), S)


def _iterate(
    parts: MissingParts,
    n: float,
    normal: Normal,
    shrinkage: float | None,
    tol: float,
    max_iter: int,
) -> tuple[Normal, float, list[float], bool]:
    """Run EM for features of variance 1."""
    w = 1.0 if parts.weights is None else parts.weights[:, None]
    identity, changes = np.eye(len(normal.mean)), list[float]()
    n_missing = max(float(np.sum(parts.missing * w)), np.finfo(float).tiny)
    share = 1.0 if shrinkage is None else shrinkage
    before = None
    while len(changes) < max_iter:
        Y, total, _ = parts.expectations(normal)
        filled = np.where(parts.missing, Y + normal.mean, 0.0)
        if before is not None:
            changes.append(float(np.sqrt(np.sum(w * (filled - before) ** 2) / n_missing)))
            if changes[-1] < tol:
                return normal, share, changes, True
        before = filled
        shift = np.sum(w * Y, axis=0) / n
        Y = Y - shift
        S = (Y * w).T @ Y + total
        if shrinkage is None:
            weight = likeliest_weight(np.linalg.eigvalsh(S), n)
            share = weight / (n + weight)
        normal = Normal(normal.mean + shift, (1.0 - share) * S / n + share * identity)
    return normal, share, changes, False


def likeliest_weight(eigenvalues: np.ndarray, n: float) -> float:
    """Return the weight of the prior that maximizes the evidence of n complete samples.

    Parameters
    ----------
    eigenvalues : array of shape (n_features,)
        Eigenvalues of the sum of squares and products of the samples, in units of the prior.
    n : float
        Number of samples.

    Returns
    -------
    weight : float
        One of `WEIGHTS`.
    """
    values = np.maximum(eigenvalues, 0.0)
    degrees, constants = _gamma_terms(n, len(values))
    logs = np.log(WEIGHTS[:, None] + values).sum(axis=1)
    return float(WEIGHTS[np.argmax(constants - 0.5 * (degrees + n) * logs)])


@lru_cache(maxsize=16)
def _gamma_terms(n: float, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the degrees of freedom of each prior, and the terms of the evidence without data.

    The prior with the mean I and the weight w is the inverse Wishart distribution of w I with
    w + d + 1 degrees of freedom.
    """
    degrees = WEIGHTS + d + 1.0
    halves = np.arange(d) / 2.0
    terms = gammaln((degrees[:, None] + n) / 2.0 - halves) - gammaln(
        degrees[:, None] / 2.0 - halves
    )
    return degrees, terms.sum(axis=1) + 0.5 * degrees * d * np.log(WEIGHTS)
