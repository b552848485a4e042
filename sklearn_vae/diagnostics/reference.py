"""Linear models that models with the same number of dimensions contain, and should beat."""

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

# Least noise variance of the reference, as a share of the average variance of a feature, for data
# that pPCA fits without noise.
LEAST_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianReference:
    """pPCA fitted to all `rows`, and compared on those `seen`.

    `scale` is 1, or the standard deviations of the features if the model has a noise variance for
    each; the reference is then factor analysis, if that is better. Variances and errors are in
    units of `scale`, bounds are those of the unscaled samples.
    """

    rows: Array
    seen: Array
    n_components: int
    scale: Any = 1.0

    @cached_property
    def ppca(self) -> PPCA:
        """pPCA of all rows, divided by `scale`."""
        k = min(self.n_components, *self.rows.shape)
        return PPCA(k, random_state=0).fit(self.rows / self.scale)

    @cached_property
    def average_variance(self) -> float:
        """Variance averaged over the features."""
        return float((self.rows / self.scale).var(axis=0, dtype=np.float64).mean())

    @property
    def eigenvalues(self) -> Array:
        """The k largest eigenvalues of the covariance, divisor n."""
        total = self.average_variance * self.rows.shape[1]
        return self.ppca.explained_variance_ratio_.astype(np.float64) * total

    @property
    def noise_variance(self) -> float:
        """Maximum likelihood noise variance, at least `LEAST_NOISE` of the average variance."""
        return max(float(self.ppca.noise_variance_), LEAST_NOISE * self.average_variance)

    @property
    def n_used(self) -> int:
        """Number of eigenvalues above those of noise alone.

        With n samples these reach sigma2 (1 + sqrt(d / n))^2 (Marchenko and Pastur).
        """
        n, d = self.rows.shape
        return int((self.eigenvalues > self.noise_variance * (1.0 + (d / n) ** 0.5) ** 2).sum())

    @cached_property
    def bound(self) -> float:
        """Log-likelihood of the samples seen, in nats per sample."""
        bound = self.bound_at(self.noise_variance)
        return max(bound, self._factor_analysis) if np.ndim(self.scale) else bound

    def bound_at(self, noise_variance: float) -> float:
        """Log-likelihood of pPCA with this noise variance, all else at its optimum."""
        ppca = self.ppca
        if noise_variance != ppca.noise_variance_:
            k = ppca.n_components_
            ppca = PPCA(k, noise_variance=noise_variance, random_state=0)
            ppca.fit(self.rows / self.scale)
        return float(ppca.score(self.seen / self.scale)) - self._log_scale

    @property
    def _factor_analysis(self) -> float:
        """Log-likelihood with a noise variance per feature, each at least `LEAST_NOISE`."""
        seen = (self.seen / self.scale).astype(np.float64)
        k = max(self.ppca.n_components_, 1)
        with warnings.catch_warnings():  # a reference a little too low still is one
            warnings.simplefilter("ignore", ConvergenceWarning)
            fa = FactorAnalysis(k, max_iter=100, random_state=0).fit(seen)
        std = np.sqrt(np.maximum(fa.noise_variance_, LEAST_NOISE))
        density = LowRankGaussian(fa.mean_ / std, (fa.components_ / std).T, 1.0)
        return float(density.log_prob(seen / std).mean() - np.log(std).sum()) - self._log_scale

    @property
    def baseline(self) -> float:
        """Log-likelihood without latents, of a model whose dimensions have all collapsed."""
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
        """Squared error of PCA on the samples seen, averaged over samples and features."""
        centred = self.seen / self.scale - self.ppca.mean_
        along = centred @ self.ppca.components_.T
        return float(((centred - along @ self.ppca.components_) ** 2).mean())

    @property
    def _log_scale(self) -> float:
        return float(np.log(np.broadcast_to(self.scale, self.rows.shape[1])).sum())


@dataclass(frozen=True, eq=False)
class BernoulliReference:
    """Logistic pPCA of the samples `seen`, in [0, 1], which it is compared on."""

    seen: Array
    n_components: int

    @cached_property
    def bound(self) -> float:
        """ELBO in nats per sample."""
        k = min(self.n_components, self.seen.shape[1])
        with warnings.catch_warnings():  # a reference a little too low still is one
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(BernoulliPPCA(k, max_iter=200, random_state=0).fit(self.seen).elbo_)

    @property
    def baseline(self) -> float:
        """Log-likelihood of independent features."""
        mean = self.seen.mean(axis=0, dtype=np.float64)
        return -float((entr(mean) + entr(1.0 - mean)).sum())
