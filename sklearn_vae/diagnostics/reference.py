"""The linear model that a nonlinear one of as many dimensions contains, and should beat."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.linear.bernoulli import BernoulliPPCA
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.protocol import Array

# Least noise variance of the reference, as a share of the average variance of a feature: where
# pPCA has none, it stands for a model with next to none.
LEAST_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianReference:
    """pPCA of as many components, of all rows, and what it says of some of them.

    Variances and errors are in units of `scale`, bounds are in those of the rows.

    Attributes
    ----------
    rows : array of shape (n, d)
        All rows.
    seen : array of shape (m, d)
        Those that are compared on.
    n_components : int
    scale : float or array of shape (d,)
        1, or the features' standard deviations where the model has a noise variance for each: the
        reference is then factor analysis, if that is better.
    """

    rows: Array
    seen: Array
    n_components: int
    scale: Any = 1.0

    @cached_property
    def ppca(self) -> PPCA:
        """Fitted to all rows, over `scale`."""
        k = min(self.n_components, *self.rows.shape)
        return PPCA(k, random_state=0).fit(self.rows / self.scale)

    @cached_property
    def average_variance(self) -> float:
        """Of a feature."""
        return float((self.rows / self.scale).var(axis=0, dtype=np.float64).mean())

    @property
    def eigenvalues(self) -> Array:
        """The k largest of the covariance, divisor n."""
        total = self.average_variance * self.rows.shape[1]
        return self.ppca.explained_variance_ratio_.astype(np.float64) * total

    @property
    def noise_variance(self) -> float:
        """The maximum likelihood one, not below `LEAST_NOISE` of the average variance."""
        return max(float(self.ppca.noise_variance_), LEAST_NOISE * self.average_variance)

    @property
    def n_used(self) -> int:
        """Components whose eigenvalue stands out of those that noise alone would have.

        With n rows these reach to sigma2 (1 + sqrt(d / n))^2 (Marchenko and Pastur).
        """
        n, d = self.rows.shape
        return int((self.eigenvalues > self.noise_variance * (1.0 + (d / n) ** 0.5) ** 2).sum())

    @cached_property
    def bound(self) -> float:
        """Log-likelihood of the rows seen, in nats per sample."""
        bound = self.bound_at(self.noise_variance)
        return max(bound, self._factor_analysis) if np.ndim(self.scale) else bound

    def bound_at(self, noise_variance: float) -> float:
        """That of pPCA with this sigma2, all else at its optimum."""
        ppca = self.ppca
        if noise_variance != ppca.noise_variance_:
            k = ppca.n_components_
            ppca = PPCA(k, noise_variance=noise_variance, random_state=0)
            ppca.fit(self.rows / self.scale)
        return float(ppca.score(self.seen / self.scale)) - self._log_scale

    @property
    def _factor_analysis(self) -> float:
        """The same with a noise variance per feature, each at least `LEAST_NOISE`."""
        seen = (self.seen / self.scale).astype(np.float64)
        k = max(self.ppca.n_components_, 1)
        with warnings.catch_warnings():  # a bar that is a little too low is one
            warnings.simplefilter("ignore", ConvergenceWarning)
            fa = FactorAnalysis(k, max_iter=100, random_state=0).fit(seen)
        std = np.sqrt(np.maximum(fa.noise_variance_, LEAST_NOISE))
        density = LowRankGaussian(fa.mean_ / std, (fa.components_ / std).T, 1.0)
        return float(density.log_prob(seen / std).mean() - np.log(std).sum()) - self._log_scale

    @property
    def baseline(self) -> float:
        """The same without latents: what a model gives whose dimensions have all collapsed."""
        variance = (self.rows / self.scale).var(axis=0, dtype=np.float64)
        if np.ndim(self.scale):
            variance = np.maximum(variance, LEAST_NOISE)
        else:
            variance = np.full(len(variance), variance.mean())
        squares = ((self.seen / self.scale - self.ppca.mean_) ** 2).mean(axis=0, dtype=np.float64)
        terms = np.log(2.0 * np.pi * variance) + squares / variance
        return -0.5 * float(terms.sum()) - self._log_scale

    @property
    def error(self) -> float:
        """Squared error of PCA's reconstruction of the rows seen, averaged over the features."""
        centred = self.seen / self.scale - self.ppca.mean_
        along = centred @ self.ppca.components_.T
        return float(((centred - along @ self.ppca.components_) ** 2).mean())

    @property
    def _log_scale(self) -> float:
        return float(np.log(np.broadcast_to(self.scale, self.rows.shape[1])).sum())


@dataclass(frozen=True, eq=False)
class BernoulliReference:
    """Logistic pPCA of as many components, fitted to the rows that are compared on.

    Attributes
    ----------
    seen : array of shape (m, d)
        In [0, 1].
    n_components : int
    """

    seen: Array
    n_components: int

    @cached_property
    def bound(self) -> float:
        """ELBO of the rows, in nats per sample."""
        k = min(self.n_components, self.seen.shape[1])
        with warnings.catch_warnings():  # a bar that is a little too low is one
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(BernoulliPPCA(k, max_iter=200, random_state=0).fit(self.seen).elbo_)

    @property
    def baseline(self) -> float:
        """Log-likelihood of independent features."""
        mean = self.seen.mean(axis=0, dtype=np.float64)
        return -float((entr(mean) + entr(1.0 - mean)).sum())
