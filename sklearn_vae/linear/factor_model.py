"""Methods of a fitted factor model."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.arrays import affine, row_blocks, weighted_mean
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.observed import Parameters
from sklearn_vae.linear.dask_arrays import map_latents, map_samples, mean_score
from sklearn_vae.linear.kept_dimensions import with_kept_attributes
from sklearn_vae.linear.missing_values import ImputerMixin
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.protocol import LatentModel, LinearGaussian
from sklearn_vae.validation import (
    check_integer,
    check_latents,
    check_random_state,
    checked_data,
    has_nan,
    is_dask,
    refuse_dask,
)

Array = NDArray[Any]


class FactorModelMethods(ImputerMixin, LatentModel):
    """Methods of a fitted model x | z ~ N(W z + mu, diag(psi)), z ~ N(0, Phi).

    Subclasses set the attributes below.
    """

    n_samples_: float
    n_components_: int
    mean_: Array
    components_: Array
    loadings_: Array
    noise_variance_: Array
    factor_correlation_: Array
    _fitted_state: ClassVar = {
        "collapsed_dims_": "any",
        "components_": "kd finite",
        "factor_correlation_": "kk finite",
        "loadings_": "dk finite",
        "mean_": "d finite",
        "n_components_": "count",
        "n_features_in_": "count",
        "n_samples_": "number",
        "noise_variance_": "d finite positive",
    }

    def transform(self, X: Any) -> Any:
        """Compute the posterior mean E[z|x] of the factors (regression scores).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples. NaN marks a missing value.

        Returns
        -------
        Z : array of shape (n_samples, n_components)
            Factor scores.
        """
        check_is_fitted(self)
        if is_dask(X):
            return map_samples(self, "transform", X)
        return self._posterior_mean(self._check_samples(X))

    def inverse_transform(self, Z: Any) -> Any:
        check_is_fitted(self)
        if is_dask(Z):
            return map_latents(self, "inverse_transform", Z)
        return affine(check_latents(self, Z, self.n_components_), self.loadings_.T, self.mean_)

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        check_is_fitted(self)
        refuse_dask(self, X)
        X = self._check_samples(X)
        k = self.n_components_
        if has_nan(X):
            mean, covariance = np.empty((len(X), k)), np.empty((len(X), k, k))
            for rows, scaled in self._scaled_blocks(X):
                result = observed.posterior(scaled, self._scaled_parameters(), return_cov=True)
                mean[rows], covariance[rows] = result
            root = self._factor_root()
            mean, covariance = mean @ root.T, root @ covariance @ root.T
        else:
            mean = self._posterior_mean(X)
            covariance = np.broadcast_to(self._posterior_covariance(), (len(X), k, k))
        if not return_cov:
            covariance = np.diagonal(covariance, axis1=1, axis2=2)
        dtype = np.result_type(X.dtype, self.loadings_.dtype)
        return mean.astype(dtype, copy=False), covariance.astype(dtype, copy=False)

    def with_dimensions(self, kept: Any) -> Any:
        check_is_fitted(self)
        return with_kept_attributes(self, kept)

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        refuse_dask(self, Z, "Z")
        mean = self.inverse_transform(Z)
        return mean, np.broadcast_to(self.noise_variance_.astype(mean.dtype), mean.shape)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, Array]:
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        rng = check_random_state(random_state)
        Z = rng.standard_normal((n_samples, self.n_components_)) @ self._factor_root().T
        noise = rng.standard_normal((n_samples, self.n_features_in_))
        X = affine(Z, self.loadings_.T, self.mean_) + self.noise_variance_**0.5 * noise
        return X.astype(self.loadings_.dtype), Z.astype(self.loadings_.dtype)

    def score_samples(self, X: Any) -> Any:
        """Compute the log-likelihood of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples. NaN marks a missing value, which the likelihood ignores.

        Returns
        -------
        scores : array of shape (n_samples,)
            Log-likelihood of each sample, in nats.
        """
        check_is_fitted(self)
        if is_dask(X):
            return map_samples(self, "score_samples", X)
        return self._log_likelihood(self._check_samples(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        check_is_fitted(self)
        if is_dask(X):
            return mean_score(self, X, sample_weight)
        X, weights, _, _ = drop_zero_weights(self._check_samples(X), sample_weight, at_least=1)
        return float(weighted_mean(self._log_likelihood(X).astype(np.float64), weights))

    def _impute(self, X: Any) -> tuple[Any, Any]:
        X = self._check_samples(X)
        filled, std = X.astype(np.result_type(X.dtype, self.mean_.dtype)), np.zeros(X.shape)
        if has_nan(X):
            scale = np.sqrt(self.noise_variance_.astype(np.float64))
            for rows, scaled in self._scaled_blocks(X):
                values, spread = observed.impute(scaled, self._scaled_parameters(), return_std=True)
                values = values * scale + self.mean_
                filled[rows] = np.where(np.isnan(X[rows]), values, filled[rows])
                std[rows] = spread * scale
        return filled, std.astype(filled.dtype)

    def get_covariance(self) -> Array:
        """Compute the covariance C = W Phi W' + diag(psi) of the model.

        Returns
        -------
        C : array of shape (n_features, n_features)
            Covariance matrix of x.
        """
        check_is_fitted(self)
        W = self._uncorrelated_loadings()
        return W @ W.T + np.diag(self.noise_variance_)

    def get_precision(self) -> Array:
        """Compute the inverse of the covariance.

        Returns
        -------
        precision : array of shape (n_features, n_features)
            Inverse of `get_covariance()`.
        """
        check_is_fitted(self)
        gaussian, scale = self._gaussian(), self._noise_scale()
        W, identity = gaussian.loadings, np.eye(len(scale))
        C = identity + W @ W.T
        unit = np.sqrt(np.diagonal(C))  # less rounding than in units of small noise
        try:
            root = linalg.cho_factor(C / unit / unit[:, None], check_finite=False)
            precision = linalg.cho_solve(root, identity, check_finite=False) / unit / unit[:, None]
        except linalg.LinAlgError:  # the loadings are too large in units of the noise
            precision = identity - W @ gaussian.posterior_covariance @ W.T
        return (precision / scale / scale[:, None]).astype(self.loadings_.dtype)

    @property
    def communalities_(self) -> Array:
        """Share of the variance of each feature that the factors explain, (n_features,)."""
        W = self._uncorrelated_loadings()
        common = np.sum(W**2, axis=1)
        return common / (common + self.noise_variance_)

    @property
    def uniquenesses_(self) -> Array:
        """Share of the variance of each feature that is noise, (n_features,)."""
        W = self._uncorrelated_loadings()
        return self.noise_variance_ / (np.sum(W**2, axis=1) + self.noise_variance_)

    @property
    def feature_scale(self) -> Array:
        W = self._uncorrelated_loadings()
        return np.sqrt(np.sum(W**2, axis=1) + self.noise_variance_)

    def _factor_root(self) -> Array:
        """Return B with B B' = Phi, so that factors are B z with z ~ N(0, I)."""
        return np.linalg.cholesky(self.factor_correlation_)

    def _uncorrelated_loadings(self) -> Array:
        """Return W B, the loadings of the factors z ~ N(0, I)."""
        return self.loadings_ @ self._factor_root().astype(self.loadings_.dtype)

    def _gaussian(self) -> LowRankGaussian:
        """Return the distribution of (x - mu) / sqrt(psi), with noise variance 1."""
        W = (self.loadings_.astype(np.float64) @ self._factor_root()) / self._noise_scale()[:, None]
        return LowRankGaussian(np.zeros(len(W)), W, 1.0)

    def _noise_scale(self) -> Array:
        return np.sqrt(self.noise_variance_.astype(np.float64))

    def linear_gaussian(self) -> LinearGaussian:
        check_is_fitted(self)
        W = self.loadings_.astype(np.float64) @ self._factor_root()
        mean, psi = (a.astype(np.float64) for a in (self.mean_, self.noise_variance_))
        return LinearGaussian(mean, W, psi)

    def _scaled_parameters(self) -> Parameters:
        gaussian = self._gaussian()
        return Parameters(gaussian.loadings, gaussian.mean, 1.0)

    def _scaled_blocks(self, X: Array) -> Any:
        """Yield blocks of (x - mu) / sqrt(psi) in float64, in which the noise variance is 1."""
        mean, scale = self.mean_.astype(np.float64), self._noise_scale()
        for rows in row_blocks(*X.shape):
            with np.errstate(invalid="ignore", over="ignore"):
                yield rows, (X[rows].astype(np.float64) - mean) / scale

    def _posterior_covariance(self) -> Array:
        root = self._factor_root()
        return root @ self._gaussian().posterior_covariance @ root.T

    def _posterior_mean(self, X: Array) -> Array:
        gaussian, root = self._gaussian(), self._factor_root()
        parameters = self._scaled_parameters()
        Z = np.empty((len(X), self.n_components_))
        for rows, scaled in self._scaled_blocks(X):
            if np.isnan(scaled).any():
                Z[rows] = observed.posterior(scaled, parameters)[0] @ root.T
            else:
                Z[rows] = gaussian.posterior_mean(scaled) @ root.T
        return Z.astype(np.result_type(X.dtype, self.loadings_.dtype), copy=False)

    def _log_likelihood(self, X: Array) -> Array:
        gaussian, parameters = self._gaussian(), self._scaled_parameters()
        log_scale = np.log(self._noise_scale())
        values = np.empty(len(X))
        for rows, scaled in self._scaled_blocks(X):
            missing = np.isnan(scaled)
            if missing.any():
                values[rows] = observed.log_likelihood(scaled, parameters) - ~missing @ log_scale
            else:
                values[rows] = gaussian.log_prob(scaled) - log_scale.sum()
        return values.astype(np.result_type(X.dtype, self.loadings_.dtype), copy=False)

    def _check_samples(self, X: Any, *, reset: bool = False, min_samples: int = 1) -> Array:
        return checked_data(
            self,
            X,
            reset=reset,
            ensure_min_samples=min_samples,
            ensure_all_finite="allow-nan",
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
