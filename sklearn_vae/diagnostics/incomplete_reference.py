"""Linear models of samples with missing values, which deep models should outperform."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.diagnostics.reference import LEAST_NOISE, GaussianReference
from sklearn_vae.gaussian.incomplete_ppca import IncompletePPCA, fit_incomplete_ppca
from sklearn_vae.gaussian.observed import observed_moments
from sklearn_vae.linear.factor_analysis import FactorAnalysis
from sklearn_vae.protocol import Array


@dataclass(frozen=True, eq=False)
class IncompleteReference(GaussianReference):
    """pPCA, or factor analysis, fitted by EM to samples with NaN, as :class:`GaussianReference`.

    Bounds are log-densities of the observed values.
    """

    @cached_property
    def _fit(self) -> IncompletePPCA:
        return fit_incomplete_ppca(self._scaled(self.X).astype(np.float64), self.n_components)

    @cached_property
    def feature_variances(self) -> Array:
        """Variances of the observed values of each feature."""
        return observed_moments(self._scaled(self.X).astype(np.float64), None)[1]

    @cached_property
    def eigenvalues(self) -> Array:
        """The k largest eigenvalues of the covariance of the model."""
        lengths: Array = np.square(self._fit.loadings).sum(axis=0) + self._fit.noise_variance
        return lengths

    @property
    def noise_variance(self) -> float:
        """Maximum likelihood noise variance, or a small one if the likelihood is unbounded."""
        return self._fit.noise_variance or LEAST_NOISE * self.average_variance

    def _bound_of_ppca(self, samples: Array, noise_variance: float) -> float:
        fit = self._fit
        if noise_variance != fit.noise_variance:
            X = self._scaled(self.X).astype(np.float64)
            start = fit if fit.noise_variance else None
            fit = fit_incomplete_ppca(X, self.n_components, None, noise_variance, start)
        scaled = self._scaled(samples).astype(np.float64)
        return float(fit.log_likelihood(scaled).mean()) - self._log_scale_of(samples)

    def _bound_of_factors(self, samples: Array) -> float:
        return self._incomplete_factors.score(self._scaled(samples)) - self._log_scale_of(samples)

    @cached_property
    def _incomplete_factors(self) -> FactorAnalysis:
        k = min(self.n_components, self.X.shape[1] - 1, len(self.X) - 1)
        with warnings.catch_warnings():  # a noise variance at its limit is accepted
            warnings.simplefilter("ignore", ConvergenceWarning)
            return FactorAnalysis(k, tol=1e-4).fit(self._scaled(self.subset).astype(np.float64))

    def baseline_of(self, samples: Array) -> float:
        """Compute the log-likelihood of samples for a model without latent dimensions."""
        variance = self._baseline_variances()
        centered = self._scaled(samples) - observed_moments(self._scaled(self.X), None)[0]
        terms = np.log(2.0 * np.pi * variance) + centered**2 / variance
        return -0.5 * float(np.nansum(terms, axis=1).mean()) - self._log_scale_of(samples)

    @property
    def bound_of_mean(self) -> float:
        """Bound of a model that predicts the mean and has the noise variance of pPCA."""
        noise, share = self.noise_variance, np.mean(~np.isnan(self.X), axis=0)
        squares = float(share @ self.feature_variances) / noise
        normal = float(share.sum()) * float(np.log(2.0 * np.pi * noise))
        return -0.5 * (normal + squares) - self._log_scale_of(self.X)

    @cached_property
    def error(self) -> float:
        """Mean squared error of pPCA's reconstructions of the observed values of the subset."""
        X = self._scaled(self.subset).astype(np.float64)
        fit = self._fit
        return float(np.nanmean((X - fit.reconstruct(X)) ** 2)) if fit.noise_variance else 0.0

    def _log_scale_of(self, samples: Array) -> float:
        log_scale = np.log(np.broadcast_to(self.scale, self.X.shape[1]))
        return float((~np.isnan(samples) @ log_scale).mean())
