"""Factor analysis, fitted by maximum likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import float_name
from sklearn_vae.gaussian.bounds import kl_per_dimension, normal_entropy
from sklearn_vae.gaussian.centered import CenteredData, centered_data
from sklearn_vae.gaussian.factor_analysis import FactorModel, fit_factors
from sklearn_vae.gaussian.factor_em import fit_incomplete_factors
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.profile_likelihood import FLOOR
from sklearn_vae.gaussian.rotation import ROTATIONS, rotate
from sklearn_vae.gaussian.stationarity import Stationarity
from sklearn_vae.linear.checks import check_squares_fit
from sklearn_vae.linear.dask_arrays import (
    as_dask_array,
    dask_moments,
)
from sklearn_vae.linear.factor_model import FactorModelMethods
from sklearn_vae.linear.moments_mixin import MomentsMixin
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_integer,
    check_memory,
    check_random_state,
    check_real,
    has_nan,
    is_dask,
    is_integer,
    is_memory_mapped,
)
from sklearn_vae.warning import warn_user

Array = NDArray[Any]

SVD_METHODS = ("lapack", "randomized")
WIDE = "Use fit with fewer samples than features: it decomposes the n x n matrix of products."


class FactorAnalysis(MomentsMixin, FactorModelMethods):
    r"""Factor analysis: probabilistic PCA with one noise variance per feature.

    The model is ::

        z ~ N(0, Phi),   x | z ~ N(W z + mu, diag(psi)),   so   x ~ N(mu, W Phi W' + diag(psi))

    Phi is the identity unless the rotation is oblique. For given noise variances psi the best
    loadings W are known in closed form; what is left is a smooth function of log psi, which Newton's
    method or, for many features, L-BFGS maximizes. Only the covariance of the data is needed.

    `FactorAnalysis` can replace :class:`sklearn.decomposition.FactorAnalysis`, which takes the
    steps of the EM algorithm: `components_`, `noise_variance_` and `transform` agree where that has
    converged. The model does not depend on the units of the features.

    Parameters
    ----------
    n_components : int, default=None
        Number k of factors, at least 0. If None, it is n_features.
    noise_variance : float or array-like of shape (n_features,), default=None
        Fixed noise variances psi > 0. If None, they are estimated.
    rotation : {None, "varimax", "quartimax", "oblimin", "promax"}, default=None
        Rotation of the loadings. It does not change the distribution of x. If None, the factors are
        uncorrelated given x and have falling lengths in units of the noise. "varimax" and
        "quartimax" keep the factors uncorrelated. "oblimin" (with gamma = 0) and "promax" do not;
        see `factor_correlation_`.
    tol : float, default=1e-8
        The search ends when it predicts that the maximum is at most `tol` nats per sample higher.
    max_iter : int, default=1000
        Maximum number of iterations.
    noise_variance_init : array-like of shape (n_features,), default=None
        Noise variances at which the search starts. If None, `n_init` starts are tried.
    n_init : int, default=1
        Number of starts, because the likelihood can have several maxima, above all with many
        factors and Heywood cases. From the third on they are random. With up to 256 features the
        second one is also tried if the first leads to a Heywood case. Ignored with missing values,
        which have one start.
    copy : bool, default=True
        Not used, present for compatibility with scikit-learn. X is never changed.
    svd_method : {"lapack", "randomized"}, default="randomized"
        Not used, present for compatibility with scikit-learn. The decomposition is always exact.
    iterated_power : int, default=3
        Not used, present for compatibility with scikit-learn.
    random_state : int, RandomState instance or None, default=0
        Seed or generator of random starts.

    Attributes
    ----------
    n_components_ : int
        Number k of factors.
    components_ : ndarray of shape (n_components, n_features)
        Transposed loadings W', as in scikit-learn. The rows are not orthonormal.
    loadings_ : ndarray of shape (n_features, n_components)
        Loadings W. Columns of collapsed factors are zero.
    noise_variance_ : ndarray of shape (n_features,)
        Noise variance psi of each feature, at least 1e-6 of its variance; 1e-12 if it is constant.
    mean_ : ndarray of shape (n_features,)
        Mean mu of the data.
    factor_correlation_ : ndarray of shape (n_components, n_components)
        Covariance Phi of the factors, with unit diagonal.
    heywood_features_ : ndarray of int
        Indices of features whose noise variance is at its lower bound (Heywood cases).
    collapsed_dims_ : ndarray of int
        Indices of factors with zero loadings.
    kl_per_dim_ : ndarray of shape (n_components,)
        Average KL divergence between the posterior of each factor and N(0, 1), in nats.
    elbo_ : float
        Average log-likelihood of the training data, in nats per sample.
    entropy_bound_ : float
        Sum of three entropies in nats per sample, which equals `elbo_` at a stationary point.
    certificate_ : Stationarity
        Distance of the log-likelihood from its maximum. `print` shows it in a sentence. The gradient
        norm is the largest absolute derivative by the log of a noise variance that is not at a
        bound, and `remaining_gain` is a prediction, both in nats per sample.
    loglike_ : list of float
        Log-likelihood of all training samples, in nats, at the start and after each iteration.
    n_iter_ : int
        Number of iterations.
    n_samples_ : int or float
        Number of training samples or, if it is no integer, the sum of their weights.
    n_features_in_ : int
        Number d of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.
    moments_ : Moments
        Number, mean and scatter of the samples, which `partial_fit` updates. Only after
        `partial_fit` and `from_moments`.

    See Also
    --------
    PPCA : Model with the same noise variance for all features, in closed form.
    sklearn.decomposition.FactorAnalysis : The same model, fitted by EM.

    References
    ----------
    .. [1] Joereskog, "Some contributions to maximum likelihood factor analysis", Psychometrika 1967,
       eq. 16 to 26.
    .. [2] Lawley and Maxwell, "Factor Analysis as a Statistical Method", 1971, chapter 4.
    .. [3] Bernaards and Jennrich, "Gradient projection algorithms and software for arbitrary
       rotation criteria in factor analysis", Educational and Psychological Measurement 2005.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_vae import PPCA, FactorAnalysis
    >>> X = load_wine().data
    >>> model = FactorAnalysis(2).fit(X)
    >>> print(f"{model.score(X):.2f} nats, pPCA {PPCA(2).fit(X).score(X):.2f} nats")
    -19.53 nats, pPCA -29.19 nats
    >>> model.communalities_.shape
    (13,)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        noise_variance: Any = None,
        rotation: str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        noise_variance_init: Any = None,
        n_init: int = 1,
        copy: bool = True,
        svd_method: str = "randomized",
        iterated_power: int = 3,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.noise_variance = noise_variance
        self.rotation = rotation
        self.tol = tol
        self.max_iter = max_iter
        self.noise_variance_init = noise_variance_init
        self.n_init = n_init
        self.copy = copy
        self.svd_method = svd_method
        self.iterated_power = iterated_power
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FactorAnalysis:
        """Fit the model to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two samples. NaN marks a missing value: the model is then fitted to the
            observed values by EM, and each feature needs at least one. Memory-mapped X without
            missing values is read in blocks. Each block of a Dask array or DataFrame is read once;
            it must have all features and no missing values.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like or Dask array of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. The scale of the weights does not change the model.

        Returns
        -------
        self : FactorAnalysis
            Fitted model.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid.
        MemoryError
            If the covariance does not fit into memory.
        """
        self._check_parameters()
        with all_or_nothing(self):
            self.__dict__.pop("moments_", None)
            if is_dask(X):
                X = as_dask_array(self, X, reset=True)
                moments = dask_moments(self, X, sample_weight)
                count = max(int(moments.count), round(moments.n))
                self._check_count((count, moments.n_features))
                self._set_fit(moments, moments.n, moments.dtype)
                return self
            X = self._check_samples(X, reset=True, min_samples=2)
            kept, weights, count, n_samples = drop_zero_weights(X, sample_weight, at_least=2)
            self._check_count((max(count, round(n_samples)), X.shape[1]))
            check_squares_fit("fit", min(kept.shape), X=kept, instead="Use fewer features.")
            if has_nan(kept):
                self._fit_missing(kept, weights, n_samples)
                return self
            summary: Moments | CenteredData
            if kept.shape[0] >= kept.shape[1] or is_memory_mapped(kept):
                summary = Moments.of(kept, weights, check_finite=False)
            else:
                summary = centered_data(kept, weights)
            summary.check_finite()
            self._set_fit(summary, n_samples, float_name(X))
        return self

    def _moments_of_batch(self, X: Any, sample_weight: Any, first: bool) -> Moments:
        if is_dask(X):
            X = as_dask_array(self, X, reset=first)
            return dask_moments(self, X, sample_weight, at_least=1)
        X = self._check_samples(X, reset=first)
        check_squares_fit("partial_fit", X.shape[1], X=X, instead=WIDE)
        X, weights, _, _ = drop_zero_weights(X, sample_weight, at_least=1)
        return Moments.of(X, weights)

    def _set_moments(self, moments: Moments) -> None:
        more = [self.noise_variance_.astype(np.float64)] if hasattr(self, "moments_") else []
        self._set_fit(moments, moments.n, moments.dtype, more)

    def _set_fit(
        self,
        summary: Moments | CenteredData,
        n_samples: float,
        dtype: str,
        more_starts: Sequence[Array] = (),
    ) -> None:
        k, options = self._options(summary.mean.shape[0])
        rng = check_random_state(self.random_state) if self.n_init > 2 else None
        options |= {"n_init": self.n_init, "random_state": rng, "more_starts": more_starts}
        with self._within_range():
            model = fit_factors(summary, k, **options)
        self._warn(model)
        self._set_model(model, to_host(summary.mean), n_samples, dtype)

    def _fit_missing(self, X: Array, weights: Array | None, n_samples: float) -> None:
        check_memory(
            32 * X.shape[0] * X.shape[1],
            "The EM algorithm for missing values holds four copies of X in float64",
            "Fit to fewer samples: the methods of the fitted model process the others in blocks.",
        )
        k, options = self._options(X.shape[1])
        if weights is not None:
            X, weights = X[weights > 0], weights[weights > 0].astype(np.float64)
        empty = np.flatnonzero(np.isnan(X).all(axis=0))
        if empty.size:
            raise ValueError(
                f"X must have an observed value in every feature, got only NaN in column {empty[0]}."
            )
        with self._within_range():
            model, mean = fit_incomplete_factors(X.astype(np.float64), k, weights, **options)
        self._warn(model)
        self._set_model(model, mean, n_samples, float_name(X))

    @contextmanager
    def _within_range(self) -> Iterator[None]:
        """Raise ValueError if a fit leads to numbers beyond the range of float64."""
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                yield
        except (FloatingPointError, np.linalg.LinAlgError) as error:
            raise ValueError(
                "The variances of X in units of the noise must be within the range of float64, "
                f"got noise_variance={self.noise_variance!r}. Scale X, or set another "
                "noise_variance."
            ) from error

    def _options(self, d: int) -> tuple[int, dict[str, Any]]:
        """Return k and the options of a fit to d features."""
        k = d if self.n_components is None else int(self.n_components)
        if k > d:
            raise ValueError(f"n_components must be at most n_features = {d}, got {k}.")
        return k, {
            "noise_variance": self._variances_of("noise_variance", self.noise_variance, d),
            "start": self._variances_of("noise_variance_init", self.noise_variance_init, d),
            "tol": self.tol,
            "max_iter": self.max_iter,
        }

    def _set_model(self, model: FactorModel, mean: Array, n_samples: float, dtype: str) -> None:
        self.n_samples_ = int(n_samples) if float(n_samples).is_integer() else n_samples
        self.loglike_ = [n_samples * value for value in model.history]
        k, psi = model.loadings.shape[1], model.noise_variance
        is_kept = (model.loadings != 0.0).any(axis=0)
        rotated = rotate(model.loadings[:, is_kept], self.rotation)
        loadings, correlation = np.zeros_like(model.loadings), np.eye(k)
        loadings[:, is_kept] = rotated.loadings
        correlation[np.ix_(is_kept, is_kept)] = rotated.factor_correlation
        with np.errstate(over="ignore", under="ignore"):
            converted = (mean.astype(dtype), loadings.astype(dtype), psi.astype(dtype))
        if not all(np.isfinite(array).all() for array in converted) or not converted[2].all():
            raise ValueError(
                f"The variances of X must be within the range of its dtype {dtype}, got noise "
                f"variances from {psi.min():.3g} to {psi.max():.3g}. Scale X or convert it to "
                "float64."
            )
        self.n_components_ = k
        self.n_iter_ = max(len(model.history) - 1, 1)
        self.mean_, self.loadings_, self.noise_variance_ = converted
        self.components_ = np.ascontiguousarray(self.loadings_.T)
        self.factor_correlation_ = correlation
        self.collapsed_dims_ = np.flatnonzero(~is_kept)
        self.heywood_features_ = model.at_floor
        self.certificate_ = Stationarity(
            model.remaining_gain, model.gradient_norm, model.converged, False, "log-likelihood"
        )
        self.elbo_ = model.log_likelihood
        # In units of the noise the loadings are orthogonal before the rotation: the factors are
        # uncorrelated given x. A rotation changes the log-determinants of prior and posterior equally.
        log_variance = -np.log1p(
            np.einsum("jh,jh->h", model.loadings, model.loadings / psi[:, None])
        )
        log_ratio = float(log_variance.sum())
        if self.rotation is not None:
            log_variance = np.log(np.diagonal(self._posterior_covariance()))
        # At the maximum the second moment of a factor over the data is its prior variance 1.
        self.kl_per_dim_ = kl_per_dimension(np.ones(k), log_variance).astype(dtype)
        self.entropy_bound_ = float(
            0.5 * log_ratio - normal_entropy(len(psi), float(np.log(psi).sum()))
        )

    def _warn(self, model: FactorModel) -> None:
        if model.at_floor.size:
            names = getattr(self, "feature_names_in_", range(self.n_features_in_))
            text = heywood_text([names[j] for j in model.at_floor])
            warn_user(text, ConvergenceWarning)
        if not model.converged:
            warn_user(
                f"The search stopped after max_iter={self.max_iter} iterations: the log-likelihood "
                f"can still rise by about {model.remaining_gain:.2g} nats per sample (tol="
                f"{self.tol:g}). Increase max_iter.",
                ConvergenceWarning,
            )

    def _check_count(self, shape: tuple[int, int]) -> None:
        k: Any = self.n_components
        if is_integer(k) and k > min(shape):
            raise ValueError(
                f"n_components must be between 0 and min(n_samples, n_features) = {min(shape)}, "
                f"got {k}."
            )

    def _check_parameters(self) -> None:
        k = self.n_components
        if not (k is None or (is_integer(k) and k >= 0)):
            raise ValueError(f"n_components must be None or an integer >= 0, got {k!r}.")
        if self.rotation is not None:
            check_choice("rotation", self.rotation, ROTATIONS)
        check_choice("svd_method", self.svd_method, SVD_METHODS)
        check_real("tol", self.tol, at_least=0.0)
        check_integer("n_init", self.n_init, at_least=1)
        check_integer("max_iter", self.max_iter, at_least=1)
        if not (is_integer(self.random_state) and 0 <= self.random_state < 2**32):
            check_random_state(self.random_state)

    def _variances_of(self, name: str, value: Any, d: int) -> Array | None:
        """Return a parameter as an array of shape (d,), or None."""
        if value is None:
            return None
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.ndim == 0 and name == "noise_variance":
            array = np.full(d, float(array))
        if array.shape != (d,) or not ((array > 0).all() and np.isfinite(array).all()):
            kind = "a positive float or " * (name == "noise_variance")
            raise ValueError(
                f"{name} must be None or {kind}{d} positive floats, one per feature, got {value!r}."
            )
        return array


def heywood_text(names: Sequence[Any]) -> str:
    """Return the warning that noise variances of features fell to their lower bound."""
    first = ", ".join(str(name) if isinstance(name, int) else repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" * (len(names) > 5)
    return (
        f"The noise variance of feature {first}{more} fell to {FLOOR:g} of the variance of the "
        "feature, where it was stopped (a Heywood case): the factors explain it completely. Use "
        "fewer factors, or remove features that are linear functions of others."
    )
