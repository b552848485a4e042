"""Linear models, which models with the same number of latent dimensions should outperform."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.factor_analysis import fit_factors
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.linear.bernoulli import BernoulliPPCA
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.protocol import Array

# Minimum noise variance of the reference, as a share of the average feature variance, for data of
# low rank, and the largest noise variance of pPCA that is rounding.
LEAST_NOISE = 1e-6
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class GaussianReference:
    """pPCA fitted to `X` and evaluated on `subset`.

    `scale` is 1, or the standard deviations of the features if the model has a noise variance per
    feature. In the latter case, the better of pPCA and factor analysis is used. Variances and
    errors are in units of `scale`. Bounds are those of the unscaled samples.
    """

    X: Array
    subset: Array
    n_components: int
    scale: Any = 1.0

    @cached_property
    def ppca(self) -> PPCA:
        """pPCA of X / scale."""
        k = min(self.n_components, *self.X.shape)
        return PPCA(k, random_state=0).fit(self.X / self.scale)

    @cached_property
    def average_variance(self) -> float:
        """Average variance of the features."""
        return float((self.X / self.scale).var(axis=0, dtype=np.float64).mean())

    @property
    def eigenvalues(self) -> Array:
        """The k largest eigenvalues of the covariance with divisor n."""
        total = self.average_variance * self.X.shape[1]
        return self.ppca.explained_variance_ratio_.astype(np.float64) * total

    @property
    def noise_variance(self) -> float:
        """Maximum likelihood noise variance, or a small one for data of low rank."""
        noise, average = float(self.ppca.noise_variance_), self.average_variance
        return noise if noise > ROUNDING * average else LEAST_NOISE * average

    @property
    def n_used(self) -> int:
        """Number of eigenvalues that exceed noise: sigma2 (1 + sqrt(d / n))^2, Marchenko-Pastur."""
        n, d = self.X.shape
        return int((self.eigenvalues > self.noise_variance * (1.0 + (d / n) ** 0.5) ** 2).sum())

    @cached_property
    def bound(self) -> float:
        """Log-likelihood of the subset, in nats per sample."""
        bound = self.bound_at(self.noise_variance)
        return max(bound, self._factor_analysis) if np.ndim(self.scale) else bound

    def bound_at(self, noise_variance: float) -> float:
        """Compute the log-likelihood of pPCA with a fixed noise variance."""
        ppca = self.ppca
        if noise_variance != ppca.noise_variance_:
            k = ppca.n_components_
            ppca = PPCA(k, noise_variance=noise_variance, random_state=0)
            ppca.fit(self.X / self.scale)
        return float(ppca.score(self.subset / self.scale)) - self._log_scale

    @property
    def _factor_analysis(self) -> float:
        """Log-likelihood of factor analysis."""
        subset = (self.subset / self.scale).astype(np.float64)
        is_wide = subset.shape[0] < subset.shape[1]
        summary = centered_data(subset, None) if is_wide else Moments.of(subset)
        model = fit_factors(summary, self.ppca.n_components_, tol=1e-4)
        std = np.sqrt(np.maximum(model.noise_variance, LEAST_NOISE))
        density = LowRankGaussian(summary.mean / std, model.loadings / std[:, None], 1.0)
        return float(density.log_prob(subset / std).mean() - np.log(std).sum()) - self._log_scale

    @property
    def baseline(self) -> float:
        """Log-likelihood of a model without latent dimensions."""
        variance = (self.X / self.scale).var(axis=0, dtype=np.float64)
        if np.ndim(self.scale):
            variance = np.maximum(variance, LEAST_NOISE)
        else:
            variance = np.full(len(variance), variance.mean())
        squares = ((self.subset / self.scale - self.ppca.mean_) ** 2).mean(axis=0, dtype=np.float64)
        terms = np.log(2.0 * np.pi * variance) + squares / variance
        return -0.5 * float(terms.sum()) - self._log_scale

    @property
    def error(self) -> float:
        """Mean squared reconstruction error of PCA on the subset."""
        centered = self.subset / self.scale - self.ppca.mean_
        scores = centered @ self.ppca.components_.T
        return float(((centered - scores @ self.ppca.components_) ** 2).mean())

    @property
    def _log_scale(self) -> float:
        return float(np.log(np.broadcast_to(self.scale, self.X.shape[1])).sum())


@dataclass(frozen=True, eq=False)
class BernoulliReference:
    """Logistic pPCA fitted to and evaluated on `subset`, with values in [0, 1]."""

    subset: Array
    n_components: int

    @cached_property
    def bound(self) -> float:
        """ELBO in nats per sample."""
        k = min(self.n_components, self.subset.shape[1])
        with warnings.catch_warnings():  # a slightly low reference is accepted
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(BernoulliPPCA(k, max_iter=200, random_state=0).fit(self.subset).elbo_)

    @property
    def baseline(self) -> float:
        """Log-likelihood of a model without latent dimensions."""
        mean = self.subset.mean(axis=0, dtype=np.float64)
        return -float((entr(mean) + entr(1.0 - mean)).sum())
