"""Linear models, which models with the same number of latent dimensions should outperform."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import entr, xlog1py, xlogy
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.arrays import row_blocks
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
        """pPCA of X / scale, the only fit of pPCA."""
        k = min(self.n_components, *self.X.shape)
        return PPCA(k, random_state=0).fit(self._scaled(self.X))

    @cached_property
    def feature_variances(self) -> Array:
        """Variances of the features."""
        X, mean = self.X, self.X.mean(axis=0, dtype=np.float64)
        blocks = (X[rows] - mean for rows in row_blocks(*X.shape))  # X may be memory-mapped
        squares = sum(np.einsum("ij,ij->j", block, block) for block in blocks)
        return squares / (len(X) * np.square(self.scale))

    @property
    def average_variance(self) -> float:
        """Average variance of the features."""
        return float(self.feature_variances.mean())

    @cached_property
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

    @property
    def kl_per_dim(self) -> Array:
        """KL of each dimension of pPCA, log(lambda / sigma2) / 2."""
        return 0.5 * np.log(np.maximum(self.eigenvalues / self.noise_variance, 1.0))

    @cached_property
    def bound(self) -> float:
        """Log-likelihood of the subset, in nats per sample."""
        return self.bound_of(self.subset)

    def bound_of(self, samples: Array) -> float:
        """Compute the log-likelihood of samples, in nats per sample."""
        if self._prefers_factors:
            return self._bound_of_factors(samples)
        return self._bound_of_ppca(samples, self.noise_variance)

    @cached_property
    def _prefers_factors(self) -> bool:
        """Whether factor analysis, if applicable, is better than pPCA for the subset."""
        if not np.ndim(self.scale):
            return False
        ppca = self._bound_of_ppca(self.subset, self.noise_variance)
        return self._bound_of_factors(self.subset) > ppca

    def bound_at(self, noise_variance: float) -> float:
        """Compute the log-likelihood of pPCA with a fixed noise variance."""
        return self._bound_of_ppca(self.subset, noise_variance)

    def bound_with(self, noise_variance: Any) -> float:
        """Compute the maximum likelihood for fixed noise variances, in squared units of X."""
        if not np.ndim(noise_variance) and not np.ndim(self.scale):
            return self.bound_at(float(noise_variance))
        # In units of the noise, factor analysis is pPCA.
        std = np.sqrt(np.broadcast_to(noise_variance, self.X.shape[1]).astype(np.float64))
        return GaussianReference(self.X, self.subset, self.n_components, std).bound_at(1.0)

    def _bound_of_ppca(self, samples: Array, noise_variance: float) -> float:
        # The components of pPCA are the same for all noise variances.
        lengths = np.sqrt(np.maximum(self.eigenvalues - noise_variance, 0.0))
        components = self.ppca.components_.astype(np.float64)
        mean = self.ppca.mean_.astype(np.float64)
        density = LowRankGaussian(mean, components.T * lengths, noise_variance)
        return float(density.log_prob(self._scaled(samples)).mean(dtype=np.float64)) - (
            self._log_scale
        )

    def _bound_of_factors(self, samples: Array) -> float:
        density, std = self._factors
        log_prob = density.log_prob(self._scaled(samples).astype(np.float64) / std)
        return float(log_prob.mean() - np.log(std).sum()) - self._log_scale

    @cached_property
    def _factors(self) -> tuple[LowRankGaussian, Array]:
        """Factor analysis of the subset, in units of its noise, and these units."""
        subset = self._scaled(self.subset).astype(np.float64)
        is_wide = subset.shape[0] < subset.shape[1]
        summary = centered_data(subset, None) if is_wide else Moments.of(subset)
        model = fit_factors(summary, self.ppca.n_components_, tol=1e-4)
        std = np.sqrt(np.maximum(model.noise_variance, LEAST_NOISE))
        return LowRankGaussian(summary.mean / std, model.loadings / std[:, None], 1.0), std

    @cached_property
    def baseline(self) -> float:
        """Log-likelihood of a model without latent dimensions."""
        return self.baseline_of(self.subset)

    def baseline_of(self, samples: Array) -> float:
        """Compute the log-likelihood of samples for a model without latent dimensions."""
        variance = self._baseline_variances()
        centered = self._scaled(samples) - self.ppca.mean_
        squares = (centered**2).mean(axis=0, dtype=np.float64)
        terms = np.log(2.0 * np.pi * variance) + squares / variance
        return -0.5 * float(terms.sum()) - self._log_scale

    @property
    def bound_of_mean(self) -> float:
        """Bound of a model that predicts the mean and has the noise variance of pPCA."""
        noise, d = self.noise_variance, self.X.shape[1]
        squares = d * self.average_variance / noise
        return -0.5 * (d * float(np.log(2.0 * np.pi * noise)) + squares) - self._log_scale

    @cached_property
    def error(self) -> float:
        """Mean squared reconstruction error of PCA on the subset."""
        centered = self._scaled(self.subset) - self.ppca.mean_
        scores = centered @ self.ppca.components_.T
        return float(((centered - scores @ self.ppca.components_) ** 2).mean())

    def _baseline_variances(self) -> Array:
        """Compute the noise variance of each feature in a model without latent dimensions."""
        variance = self.feature_variances
        if np.ndim(self.scale):
            return np.maximum(variance, LEAST_NOISE)
        return np.full(len(variance), variance.mean())

    def _scaled(self, samples: Array) -> Array:
        return samples / self.scale if np.ndim(self.scale) else samples

    @property
    def _log_scale(self) -> float:
        return float(np.log(np.broadcast_to(self.scale, self.X.shape[1])).sum())


@dataclass(frozen=True, eq=False)
class BernoulliReference:
    """Logistic pPCA fitted to and evaluated on `subset`, with values in [0, 1]."""

    subset: Array
    n_components: int

    @cached_property
    def model(self) -> BernoulliPPCA:
        """Logistic pPCA of the subset."""
        k = min(self.n_components, self.subset.shape[1])
        with warnings.catch_warnings():  # a slightly low reference is accepted
            warnings.simplefilter("ignore", ConvergenceWarning)
            return BernoulliPPCA(k, max_iter=200, random_state=0).fit(self.subset)

    @property
    def bound(self) -> float:
        """ELBO in nats per sample."""
        return float(self.model.elbo_)

    def bound_of(self, samples: Array) -> float:
        """Compute the ELBO of samples, in nats per sample."""
        return float(self.model.score(samples))

    @property
    def baseline(self) -> float:
        """Log-likelihood of a model without latent dimensions."""
        mean = self.subset.mean(axis=0, dtype=np.float64)
        return -float((entr(mean) + entr(1.0 - mean)).sum())

    def baseline_of(self, samples: Array) -> float:
        """Compute the log-likelihood of samples for a model without latent dimensions."""
        n = len(self.subset)
        mean = (n * self.subset.mean(axis=0, dtype=np.float64) + 0.5) / (n + 1.0)
        return float((xlogy(samples, mean) + xlog1py(1.0 - samples, -mean)).sum(axis=1).mean())
