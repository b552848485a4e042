"""Base class of linear Gaussian models with a linear encoder."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.arrays import affine, row_blocks, weighted_mean
from sklearn_vae.gaussian.bounds import (
    COLLAPSE_KL,
    COLLAPSE_SHARE,
    EntropyGap,
    entropy_bound,
    kl_per_dimension,
)
from sklearn_vae.gaussian.linear_elbo import LinearVAEParameters, reconstruction_of
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.spectrum import with_positive_peaks
from sklearn_vae.linear.dask_arrays import map_latents, map_samples, mean_score
from sklearn_vae.linear.kept_dimensions import with_kept_attributes
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.protocol import LatentModel, LinearGaussian
from sklearn_vae.validation import (
    check_integer,
    check_latents,
    check_random_state,
    checked_data,
    is_dask,
    refuse_dask,
)

Array = NDArray[Any]


class LinearEncoderModel(LatentModel):
    """Linear Gaussian model whose posterior is given by a linear encoder.

    z ~ N(0, diag alpha2), x | z ~ N(W z + mu, sigma2 I) and q(z|x) = N(V (x - mu), diag D).
    Subclasses set the fitted attributes.
    """

    _fitted_state: ClassVar = {
        "components_": "kd",
        "encoder_variance_": "k finite nonnegative",
        "encoder_weights_": "kd finite",
        "loadings_": "dk finite",
        "mean_": "d finite",
        "n_components_": "count",
        "n_features_in_": "count",
        "noise_variance_": "number positive",
        "prior_variance_": "k finite nonnegative",
    }

    def transform(self, X: Any) -> Any:
        if is_dask(X):
            return map_samples(self, "transform", X)
        return self._posterior_mean(X)

    def _posterior_mean(self, X: Any) -> Array:
        """Compute the result of `transform` as an array, whatever `set_output` requests."""
        X = self._check_samples(X)
        blocks = [
            (X[block].astype(np.float64) - self.mean_) @ self.encoder_weights_.T
            for block in row_blocks(*X.shape)
        ]
        return np.concatenate(blocks).astype(X.dtype, copy=False)

    def inverse_transform(self, Z: Any) -> Any:
        check_is_fitted(self)
        if is_dask(Z):
            return map_latents(self, "inverse_transform", Z)
        Z = check_latents(self, Z, self.n_components_)
        return affine(Z, self.loadings_.T, self.mean_)

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        refuse_dask(self, X)
        mean = self._posterior_mean(X)
        variance = self.encoder_variance_.astype(mean.dtype)
        if return_cov:
            return mean, np.broadcast_to(np.diag(variance), (*mean.shape, len(variance)))
        return mean, np.broadcast_to(variance, mean.shape)

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        refuse_dask(self, Z, "Z")
        mean = self.inverse_transform(Z)
        return mean, np.broadcast_to(np.asarray(self.noise_variance_, mean.dtype), mean.shape)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, Array]:
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        X, Z = self._marginal().sample(n_samples, check_random_state(random_state))
        dtype = self.loadings_.dtype
        return X.astype(dtype), (Z * np.sqrt(self.prior_variance_)).astype(dtype)

    def score_samples(self, X: Any) -> Any:
        if is_dask(X):
            return map_samples(self, "score_samples", X)
        return self._bounds(self._check_samples(X))

    @np.errstate(invalid="ignore", over="ignore")  # a density may underflow
    def _bounds(self, X: Array) -> Array:
        """Compute the ELBO of each sample."""
        sigma2 = self.noise_variance_
        log_noise = X.shape[1] * (math.log(2.0 * math.pi) + math.log(sigma2))
        residuals, kl = self._residuals_and_kl(X)
        return -0.5 * (residuals / sigma2 + log_noise) - kl

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        if is_dask(X):
            return mean_score(self, X, sample_weight)
        X, weights, _, _ = drop_zero_weights(self._check_samples(X), sample_weight, at_least=1)
        return float(weighted_mean(self._bounds(X), weights))

    @np.errstate(invalid="ignore", over="ignore")
    def log_likelihood(self, X: Any) -> Array:
        """Compute the exact log p(x) of each sample.

        It exceeds the ELBO of `score_samples` by KL(q(z|x) || p(z|x)).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_likelihood : array of shape (n_samples,)
            Log-likelihood of each sample in nats.
        """
        return self._marginal().log_prob(self._check_samples(X))

    def get_covariance(self) -> Array:
        """Compute the covariance C = W diag(alpha2) W' + sigma2 I of x.

        Returns
        -------
        C : array of shape (n_features, n_features)
            Covariance matrix of x.
        """
        check_is_fitted(self)
        W = self._marginal().loadings
        return W @ W.T + self.noise_variance_ * np.eye(len(W))

    def with_dimensions(self, kept: Any) -> Any:
        check_is_fitted(self)
        return with_kept_attributes(self, kept)

    def _set_model(
        self, p: LinearVAEParameters, mean: Array, dtype: Any, components: Array
    ) -> None:
        """Set the fitted parameters, in the precision of the data."""
        k = p.W.shape[1]
        with np.errstate(over="ignore"):
            numbers = (p.W, p.V, np.float64(p.noise_variance))
            is_finite = all(np.isfinite(value.astype(dtype)).all() for value in numbers)
        if not is_finite:
            raise ValueError(
                f"X must have another scale: the model of X is beyond the range of {dtype}. "
                "Scale X, or pass float64."
            )
        self.n_components_ = k
        self.mean_ = mean.astype(dtype)
        self.loadings_, self.encoder_weights_ = p.W.astype(dtype), p.V.astype(dtype)
        self.components_ = with_positive_peaks(components).astype(dtype)
        self.encoder_variance_ = p.D
        self.prior_variance_ = np.broadcast_to(p.prior_variance, k).astype(np.float64)
        fixed = self.noise_variance  # arithmetic would round it
        self.noise_variance_ = float(p.noise_variance if fixed is None else fixed)

    def _set_bound(
        self, residual: float, second_moment: Array, active_bounds: tuple[str, ...]
    ) -> None:
        """Set the ELBO and its terms from averages of E_q |x - W z - mu|^2 and of E_q z_h^2."""
        d, sigma2 = len(self.mean_), self.noise_variance_
        squares, moment = residual / sigma2, second_moment / self.prior_variance_
        log_ratio = np.log(self.encoder_variance_ / self.prior_variance_)
        self.kl_per_dim_ = kl_per_dimension(moment, log_ratio)
        self.elbo_ = reconstruction_of(residual, sigma2, d) - float(self.kl_per_dim_.sum())
        self.entropy_bound_ = entropy_bound(d, sigma2, log_ratio)
        self.entropy_gap_ = EntropyGap.of(d, squares, moment, active_bounds)

    def _collapsed(self, means: Array, weights: Array | None) -> Array:
        """Return the indices of the collapsed dimensions, given posterior means of the data."""
        above = self._kl_terms(means) > COLLAPSE_KL
        return np.flatnonzero(weighted_mean(above, weights) <= COLLAPSE_SHARE)

    def _residuals_and_kl(self, X: Array) -> tuple[Array, Array]:
        """Compute E_q |x - W z - mu|^2 and KL(q(z|x) || p(z)) of each sample."""
        W = self.loadings_.astype(np.float64)
        spread = float(self.encoder_variance_ @ (W**2).sum(axis=0))
        residuals, kl = [], []
        for block in row_blocks(*X.shape):
            R = X[block].astype(np.float64) - self.mean_
            Z = R @ self.encoder_weights_.T
            kl.append(self._kl_terms(Z).sum(axis=1))
            R -= Z @ W.T
            residuals.append(np.einsum("ij,ij->i", R, R) + spread)
        return np.concatenate(residuals), np.concatenate(kl)

    @property
    def prior_variance(self) -> Array:
        return self.prior_variance_

    @property
    def active_bounds(self) -> tuple[str, ...]:
        return self.entropy_gap_.active_bounds

    def with_tuned_noise(self, X: Any) -> LinearEncoderModel:
        X = self._check_samples(X)
        tuned = copy.copy(self)
        tuned.noise_variance_ = float(self._residuals_and_kl(X)[0].mean()) / X.shape[1]
        return tuned

    def _kl_terms(self, means: Array) -> Array:
        """Compute KL(q(z_h|x) || p(z_h)) for each sample and dimension from posterior means."""
        log_ratio = np.log(self.encoder_variance_ / self.prior_variance_)
        moment = (means**2 + self.encoder_variance_) / self.prior_variance_
        return kl_per_dimension(moment, log_ratio)

    def linear_gaussian(self) -> LinearGaussian:
        check_is_fitted(self)
        p = self._marginal()
        return LinearGaussian(p.mean, p.loadings, np.full(p.n_features, p.noise_variance))

    def _marginal(self) -> LowRankGaussian:
        """Return the marginal distribution of x in float64."""
        loadings = self.loadings_ * np.sqrt(self.prior_variance_)
        mean, loadings = (array.astype(np.float64) for array in (self.mean_, loadings))
        return LowRankGaussian(mean, loadings, self.noise_variance_)

    def _check_samples(self, X: Any) -> Array:
        check_is_fitted(self)
        return checked_data(self, X, reset=False)
