"""Base class of linear Gaussian models with exact posterior."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, is_torch_array
from scipy import sparse
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.arrays import (
    Array,
    affine,
    check_matrix,
    common_float_type,
    float_name,
    float_type,
    scale_of,
    to_device_of,
    wide_float,
)
from sklearn_vae.gaussian.centered import canonical, dense, project, subtract_mean
from sklearn_vae.gaussian.lowrank import LowRankGaussian, mean_limit
from sklearn_vae.gaussian.observed import Parameters
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.closed_form import closed_form_attributes
from sklearn_vae.linear.dask_arrays import map_latents, map_samples, mean_score
from sklearn_vae.linear.missing_values import ImputerMixin
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.protocol import LatentModel, LinearGaussian
from sklearn_vae.validation import (
    check_choice,
    check_finite,
    check_integer,
    check_latents,
    check_random_state,
    check_same_device,
    checked_samples,
    has_nan,
    is_dask,
)

COORDINATES = ("principal", "whitened", "posterior")


class ExactPosteriorModel(LatentModel):
    """Linear Gaussian model x | z ~ N(W z + mu, sigma2 I), z ~ N(0, I), with exact posterior.

    Subclasses set the attributes below and have a parameter `coordinates`. The columns of
    `loadings_` are orthogonal, along the components. `_gaussian` is the marginal distribution of
    x, or None if that is singular.
    """

    coordinates: str
    n_components_: int
    n_samples_: float
    mean_: Array
    components_: Array
    explained_variance_: Array
    loadings_: Array
    noise_variance_: float
    mutual_information_: float
    collapsed_dims_: Array
    _gaussian: LowRankGaussian | None
    _spectrum: Spectrum
    _accepts_missing = False
    _fitted_state: ClassVar = {
        "_gaussian": "any",
        "_spectrum": "any",
        "collapsed_dims_": "any",
        "components_": "kd",
        "explained_variance_": "k",
        "loadings_": "dk finite",
        "mean_": "d finite",
        "n_components_": "count",
        "n_features_in_": "count",
        "n_samples_": "number",
        "noise_variance_": "number nonnegative",
    }

    def transform(self, X: Any) -> Array:
        """Compute the coordinates of each sample that the parameter `coordinates` selects.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples to encode. In samples with missing values, "principal" and "whitened" are the
            coordinates of the conditional mean of the sample given its observed values.

        Returns
        -------
        Z : array of shape (n_samples, n_components)
            Coordinates. The means of the latent variables are `posterior(X)[0]`.
        """
        check_is_fitted(self)
        check_choice("coordinates", self.coordinates, COORDINATES)
        if is_dask(X):
            return map_samples(self, "transform", X)
        X = self._check_new_samples(X, "transform")
        Z = self._projected(X, self._encoder())
        if Z is not None:
            return Z
        if self.coordinates == "posterior":
            return self._from_observed(observed.posterior, X, "transform")[0]
        filled = self._from_observed(observed.impute, X, "transform")[0]
        return self._project(filled, self._encoder())

    def inverse_transform(self, Z: Any) -> Array:
        """Map coordinates that the parameter `coordinates` selects back to the features.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Coordinates as `transform` returns them. Pass latent variables to `conditional`.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Decoded samples.
        """
        check_is_fitted(self)
        check_choice("coordinates", self.coordinates, COORDINATES)
        if is_dask(Z):
            return map_latents(self, "inverse_transform", Z)
        Z = self._check_latents(Z, "inverse_transform")
        if self.coordinates == "posterior":
            return affine(Z, self.loadings_.T, self.mean_)
        decoder = self.components_
        if self.coordinates == "whitened":
            decoder = self.explained_variance_[:, None] ** 0.5 * decoder
        return affine(Z, decoder, self.mean_)

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        self._check_regular("posterior")
        X = self._check_new_samples(X, "posterior")
        mean = self._projected(X, self._posterior_gain())
        if mean is None:
            return self._from_observed(observed.posterior, X, "posterior", return_cov=return_cov)
        xp = array_namespace(mean)
        variance = self.noise_variance_ / self._model_variances()
        if not return_cov:
            return mean, xp.broadcast_to(variance, mean.shape)
        identity = xp.eye(variance.shape[0], dtype=variance.dtype, device=device(variance))
        return mean, xp.broadcast_to(variance * identity, (*mean.shape, variance.shape[0]))

    def with_dimensions(self, kept: Any) -> Any:
        check_is_fitted(self)
        k = len(kept)
        if list(kept) != list(range(k)):  # no model of PCA has other components
            return None
        pruned = copy.copy(self)
        fitted = closed_form_attributes(
            self._spectrum, k, self.n_samples_, float_name(self.mean_), self.noise_variance_
        )
        pruned.__dict__.update({name: v for name, v in fitted.items() if name != "n_iter_"})
        if "noise_variance" in self.get_params(deep=False):  # PPCACV has lists of both
            pruned.n_components = k
        return pruned

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        check_is_fitted(self)
        mean = affine(self._check_latents(Z, "conditional"), self.loadings_.T, self.mean_)
        xp = array_namespace(mean)
        variance = xp.asarray(self.noise_variance_, dtype=mean.dtype, device=device(mean))
        return mean, xp.broadcast_to(variance, mean.shape)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, Array]:
        check_integer("n_samples", n_samples, at_least=1)
        return self._check_regular("sample").sample(n_samples, check_random_state(random_state))

    def score_samples(self, X: Any) -> Array:
        gaussian = self._check_regular("score_samples")
        if is_dask(X):
            return map_samples(self, "score_samples", X)
        X = self._check_new_samples(X, "score_samples")
        return self._log_likelihood(gaussian, X, "score_samples")

    def _log_likelihood(self, gaussian: LowRankGaussian, X: Any, method: str) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            log_likelihood = gaussian.log_prob(X)
        # NaN in X shows up in the result. A separate check would add a tenth to the time.
        xp = array_namespace(log_likelihood)
        if not xp.all(xp.isfinite(log_likelihood)) and self._has_missing(X):
            return self._from_observed(observed.log_likelihood, X, method)[0]
        return log_likelihood

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Compute the average log-likelihood of the samples; higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the average, >= 0 and not all 0.

        Returns
        -------
        score : float
            Average of `score_samples` in nats per sample.

        Raises
        ------
        ValueError
            If the noise variance is 0 and the covariance is singular, or if `sample_weight` is
            invalid.
        """
        gaussian = self._check_regular("score")
        if is_dask(X):
            return mean_score(self, X, sample_weight)
        X = self._check_new_samples(X, "score")
        X, weights, _, _ = drop_zero_weights(X, sample_weight, at_least=1)
        values = self._log_likelihood(gaussian, X, "score")
        xp = array_namespace(values)
        values = xp.astype(values, wide_float(values))
        if weights is None:
            return float(xp.mean(values))
        weights = weights / scale_of(weights)
        values = xp.where(weights > 0, values, xp.zeros_like(values))
        return float(xp.sum(weights * values) / xp.sum(weights))

    @property
    def spectrum_(self) -> Spectrum:
        """Eigenpairs of the covariance S that the model keeps, and the sum of the other variances.

        It determines the likelihood of every pPCA model with at most `n_components_` components,
        for :meth:`Spectrum.log_likelihood` and :class:`StationaryPoint`. After a fit to missing
        values, S is the covariance of the fitted model.
        """
        check_is_fitted(self)
        return self._spectrum

    def get_covariance(self) -> Array:
        """Compute the covariance C = W W' + sigma2 I of the model.

        PCA's `get_covariance` differs: it divides by n - 1 and has another noise variance.

        Returns
        -------
        C : array of shape (n_features, n_features)
            Covariance matrix of x.
        """
        check_is_fitted(self)
        return self.loadings_ @ self.loadings_.T + self._isotropic(self.noise_variance_)

    def get_precision(self) -> Array:
        """Compute the inverse of the covariance without inverting a matrix.

        Returns
        -------
        precision : array of shape (n_features, n_features)
            Inverse of `get_covariance()`.

        Raises
        ------
        ValueError
            If the noise variance is 0 and the covariance is singular.
        """
        self._check_regular("get_precision")
        precisions = 1.0 / self._model_variances()
        V = self.components_
        if V.shape[0] == V.shape[1]:
            return (V.T * precisions) @ V
        noise_precision = 1.0 / self.noise_variance_
        return (V.T * (precisions - noise_precision)) @ V + self._isotropic(noise_precision)

    def _check_samples(self, X: Any, *, reset: bool, min_samples: int = 1) -> Any:
        """Return X as a float array or CSR matrix, without checking for NaN and infinity."""
        if is_torch_array(X):
            X = X.detach()
        X = check_matrix(checked_samples(self, X, reset=reset, min_samples=min_samples))
        if sparse.issparse(X):
            return canonical(X)
        return X if is_numpy_array(X) else array_namespace(X).astype(X, float_type(X), copy=False)

    def _check_new_samples(self, X: Any, method: str) -> Any:
        X = self._check_samples(X, reset=False)
        check_same_device(self, X, self.mean_, method)
        return X

    def _has_missing(self, X: Any) -> bool:
        """Return whether X has missing values; raise ValueError if they are not allowed."""
        if not has_nan(X):
            return False
        if not self._accepts_missing:
            check_finite(X)
        if sparse.issparse(X):
            raise ValueError(
                "Sparse X contains NaN. Missing values are supported only in dense X, because the "
                "entries that a sparse matrix does not store are zeros."
            )
        return True

    def _from_observed(
        self, function: Callable[..., Any], X: Array, method: str, **options: Any
    ) -> tuple[Any, ...]:
        """Call a function of `gaussian.observed` on the host and move its results back."""
        if self.noise_variance_ == 0.0:
            raise ValueError(
                f"{method} of samples with missing values needs a noise variance above 0, but the "
                f"maximum likelihood estimate with n_components={self.n_components_} is 0. Set "
                "noise_variance or use a smaller n_components."
            )
        W, mean, host_X = (
            to_host(array).astype(np.float64) for array in (self.loadings_, self.mean_, X)
        )
        remainder = None if self._gaussian is None else self._gaussian.remainder
        center = np.zeros_like(mean)
        if remainder is not None:  # as in the density of complete samples
            low = to_host(remainder).astype(np.float64)
            host_X = subtract_mean(host_X, mean, low)
            center, mean = mean + low, center
        try:
            with np.errstate(invalid="ignore", over="ignore"):
                result = function(host_X, Parameters(W, mean, self.noise_variance_), **options)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"{method} of samples with missing values led to a matrix that is singular in "
                f"float64, because noise_variance_={self.noise_variance_:.2g} is too small "
                "compared with the loadings. Set noise_variance or use a smaller n_components."
            ) from error
        arrays = result if isinstance(result, tuple) else (result,)
        if function is observed.impute:
            arrays = (arrays[0] + center, *arrays[1:])
        if any(array is not None and np.isnan(array).any() for array in arrays):
            raise ValueError(
                f"X must have samples closer to mean_ for {method}: the squares of observed values "
                "overflow float64."
            )
        dtype = common_float_type(X, self.mean_)
        return tuple(
            None if array is None else to_device_of(self.mean_, array, dtype=dtype)
            for array in arrays
        )

    def _check_latents(self, Z: Any, method: str) -> Array:
        Z = check_latents(self, Z, self.n_components_)
        check_same_device(self, Z, self.mean_, method)
        return array_namespace(Z).astype(Z, float_type(Z), copy=False)

    def _project(self, X: Any, A: Array) -> Array:
        return project(X, self.mean_, A, mean_limit(self.loadings_, self.noise_variance_))

    def _projected(self, X: Any, A: Array) -> Array | None:
        """Compute (X - mu) A, or return None if X has missing values.

        NaN and infinity show in the result, which saves a pass over X, unless A ignores a feature.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            Z = self._project(X, A)
            xp = array_namespace(Z)
            uses_all = xp.all(xp.any(A != 0, axis=1))
            if uses_all and xp.isfinite(xp.sum(Z)):
                return Z
        return None if self._has_missing(X) else Z

    def _isotropic(self, variance: float) -> Array:
        xp = array_namespace(self.mean_)
        d = self.mean_.shape[0]
        return variance * xp.eye(d, dtype=self.mean_.dtype, device=device(self.mean_))

    def linear_gaussian(self) -> LinearGaussian:
        gaussian = self._check_regular("linear_gaussian")
        mean, W = (to_host(a).astype(np.float64) for a in (gaussian.mean, gaussian.loadings))
        if gaussian.remainder is not None:
            mean = mean + to_host(gaussian.remainder).astype(np.float64)
        return LinearGaussian(mean, W, np.full(len(mean), float(gaussian.noise_variance)))

    def with_tuned_noise(self, X: Any) -> ExactPosteriorModel:
        gaussian = self._check_regular("tune_noise_variance")
        X = self._check_new_samples(X, "tune_noise_variance")
        tuned = copy.copy(self)
        sigma2 = gaussian.best_noise_variance(X, self.components_)
        tuned.noise_variance_ = sigma2
        tuned._gaussian = LowRankGaussian(
            gaussian.mean, gaussian.loadings, sigma2, gaussian.remainder
        )
        if sigma2 > 0:
            lengths = (to_host(self.loadings_).astype(np.float64) ** 2).sum(axis=0)
            tuned.mutual_information_ = 0.5 * float(np.log1p(lengths / sigma2).sum())
        return tuned

    def _check_state(self) -> None:
        super()._check_state()
        if not hasattr(self, "mean_"):
            return
        if getattr(self.collapsed_dims_, "ndim", 0) != 1:
            raise ValueError("collapsed_dims_ must be an array of indices of components.")
        self._check_spectrum()
        if self._gaussian is None and self.noise_variance_ == 0:
            return
        if not (
            isinstance(self._gaussian, LowRankGaussian)
            and self._gaussian.mean is self.mean_
            and self._gaussian.loadings is self.loadings_
            and self._gaussian.noise_variance == self.noise_variance_
        ):
            raise ValueError(
                "_gaussian must be the Gaussian of mean_, loadings_ and noise_variance_."
            )

    def _check_spectrum(self) -> None:
        """Raise ValueError unless `spectrum_` is valid and has the components of the model."""
        spectrum = self._spectrum
        if not (isinstance(spectrum, Spectrum) and spectrum.components is self.components_):
            raise ValueError("_spectrum must be a spectrum with the components of the model.")
        spectrum.check()

    def _model_variances(self) -> Array:
        """Return kappa_h = |w_h|^2 + sigma2, the variance along each component."""
        xp = array_namespace(self.loadings_)
        return xp.vecdot(self.loadings_.T, self.loadings_.T) + self.noise_variance_

    def _posterior_gain(self) -> Array:
        """Return the matrix A of E[z|x] = A'(x - mu)."""
        xp = array_namespace(self.loadings_)
        kappa = self._model_variances()
        return self.loadings_ / xp.where(kappa > 0, kappa, xp.ones_like(kappa))

    def _encoder(self) -> Array:
        if self.coordinates == "posterior":
            return self._posterior_gain()
        if self.coordinates == "principal":
            return self.components_.T
        xp = array_namespace(self.components_)
        scale = self.explained_variance_**0.5
        # The same guard against components without variance as in PCA.
        return self.components_.T / xp.clip(scale, float(xp.finfo(scale.dtype).eps), None)

    def _check_regular(self, method: str) -> LowRankGaussian:
        check_is_fitted(self)
        if self._gaussian is None:
            rank = self.n_components_ - len(self.collapsed_dims_)
            fewer = " use an n_components below the rank," if rank else ""
            raise ValueError(
                f"{method} needs a noise variance above 0, but the maximum likelihood estimate "
                f"with n_components={self.n_components_} is 0: the rank of the {self.n_samples_} "
                f"training samples is {rank}, less than n_features={self.n_features_in_}, so the "
                f"likelihood is unbounded. Set noise_variance,{fewer} or, if the data vary too "
                "little for their dtype, fit centered samples in float64 with svd_solver='full'."
            )
        return self._gaussian

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.allow_nan = self._accepts_missing
        tags.input_tags.sparse = True
        return tags


class MissingValuesModel(ImputerMixin, ExactPosteriorModel):
    """ExactPosteriorModel whose methods accept missing values."""

    _accepts_missing = True

    def _impute(self, X: Any) -> tuple[Any, Any]:
        X = self._check_new_samples(X, "impute")
        xp = array_namespace(self.mean_)
        if not self._has_missing(X):
            filled = xp.astype(dense(X), common_float_type(X, self.mean_), copy=True)
            return filled, xp.zeros_like(filled)
        filled, std = self._from_observed(observed.impute, X, "impute", return_std=True)
        # Observed entries have been converted to float64 and back: take the originals.
        return xp.where(xp.isnan(X), filled, xp.astype(X, filled.dtype)), std
