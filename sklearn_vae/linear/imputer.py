"""Imputation of missing values by probabilistic PCA and factor analysis."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.factor_analysis import FactorModel
from sklearn_vae.gaussian.factor_em import Factors
from sklearn_vae.gaussian.factor_map import fit_factors_map
from sklearn_vae.gaussian.spectrum import with_positive_peaks
from sklearn_vae.linear.factor_analysis import FactorAnalysis
from sklearn_vae.linear.factor_density import FactorDensity, FactorFit, choose_components
from sklearn_vae.linear.linear_imputer import LinearImputer, spread_of
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.validation import check_flag, check_integer, check_real, is_integer
from sklearn_vae.warning import warn_user

# Noise variance of standardized features that approximates the limit of no noise.
LEAST_NOISE = 1e-9


class FactorImputer(LinearImputer):
    """Imputer by a model x ~ N(mu, W W' + diag(psi)) of the features with observed values."""

    _model_class: ClassVar[type]
    _fitted_state: ClassVar = {
        **LinearImputer._fitted_state,
        "model_": "any",
        "n_components_": "count",
    }

    n_components: Any
    standardize: bool
    tol: float
    max_iter: int

    def _check_parameters(self) -> None:
        check_flag("standardize", self.standardize)
        k = self.n_components
        if not (k is None or is_integer(k) or (isinstance(k, str) and k == "auto")):
            raise ValueError(f"n_components must be None, 'auto' or an integer >= 0, got {k!r}.")

    def _needs_random_numbers(self) -> bool:
        return bool(self.n_components == "auto")

    def _fit_density(
        self, X: np.ndarray, weights: np.ndarray | None, count: int, n_repeated: int, rng: Any
    ) -> None:
        if self.standardize:
            self.scale_[self._observed] = spread_of(X[:, self._observed], weights)
        k, n_kept = self.n_components, int(self._observed.sum())
        if k is None:
            k = min(min(n_repeated, n_kept) // 2, 10)
        elif k == "auto":
            k, most = 0, min(n_kept - 1, count // 3)
            if n_kept:
                Y = self._scaled(X.astype(np.float64))
                k = choose_components(Y, weights, self._factor_fit(), most, rng)
        self.model_ = self._fit_model(X, weights, int(k))
        self.n_components_ = getattr(self.model_, "n_components_", 0)
        self.n_iter_ = getattr(self.model_, "n_iter_", 1)

    @abstractmethod
    def _fit_model(self, X: np.ndarray, weights: np.ndarray | None, k: int) -> Any:
        """Return the model of the features with observed values, and set their scales."""

    @abstractmethod
    def _factor_fit(self) -> FactorFit:
        """Return the kind of noise of the model."""

    def _density(self) -> FactorDensity:
        mean, W, psi = self.model_.linear_gaussian()
        return FactorDensity(Factors(W, mean, psi))

    def _density_model(self) -> FactorFit:
        return self._factor_fit()._replace(n_components=self.n_components_)

    def _conditional(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        filled, std = self.model_.impute(self._scaled(X), return_std=True)
        return filled, std

    def _check_density(self, n_kept: int) -> None:
        kind, model = self._model_class, self.model_
        if not isinstance(model, kind) or getattr(model, "n_features_in_", 0) != n_kept:
            raise ValueError(f"model_ must be a {kind.__name__} of the {n_kept} observed features.")


class PPCAImputer(FactorImputer):
    """Imputer that fills missing values with their conditional mean under probabilistic PCA.

    All features are modeled jointly by ``x ~ N(mu, W W' + sigma2 I)``, which is fitted to the
    observed values by EM (see :class:`PPCA`). Values are assumed to be missing at random: whether
    a value is missing may depend only on observed values. The imputer can replace
    :class:`sklearn.impute.KNNImputer` or :class:`sklearn.impute.IterativeImputer`.

    Parameters
    ----------
    n_components : int or "auto", default=None
        Number k of components, less than the number of features. If None, it is half of
        min(n_samples, n_features), but at most 10. If "auto", it is chosen among some numbers up to
        16 by the density of entries that are hidden from the fit.
    missing_values : float or np.nan, default=np.nan
        Placeholder for missing values.
    noise_variance : float, default=None
        Fixed noise variance sigma2 of the standardized features. If None, it is estimated.
    standardize : bool, default=True
        Whether to divide each feature by the standard deviation of its observed values before the
        model is fitted. pPCA has the same noise variance for all features, so features of small
        variance are imputed poorly with `standardize=False`.
    n_fits : int, default=0
        Number of fits with random weights (a Bayesian bootstrap) whose differences are the
        uncertainty of the parameters in the draws of `impute`. Residuals are calibrated by entries
        that are hidden from further fits. All these fits run when draws, standard deviations or
        intervals are first asked for. If 0, the parameters count as known, and values given the
        observed ones as normal.
    sample_posterior : bool, default=False
        Whether `transform` draws from the predictive distribution instead of imputing its mean.
    min_value, max_value : float or array-like of shape (n_features,), default=None
        Bounds of imputed values. Means are clipped, draws are from the truncated distribution. If
        None, there is no bound.
    round_integers : bool, default=False
        Whether to round imputed values of features whose observed values in `fit` are integers.
    tol : float, default=1e-6
        Tolerance in nats per sample. EM stops when an iteration improves the log-likelihood by less
        than `tol`.
    max_iter : int, default=1000
        Maximum number of EM iterations.
    add_indicator : bool, default=False
        Whether `transform` appends the columns of a :class:`sklearn.impute.MissingIndicator`.
    keep_empty_features : bool, default=False
        Whether `transform` fills features without observed values in `fit` with 0 instead of
        dropping them.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the decomposition that EM starts from if it is randomized, for the fits
        with random weights, for hidden entries, and for `sample_posterior`.

    Attributes
    ----------
    model_ : PPCA
        Model of the features with observed values, each divided by its `scale_`.
    scale_ : ndarray of shape (n_features,)
        Divisor of each feature: its standard deviation, or 1 if the feature is constant or
        `standardize=False`.
    indicator_ : MissingIndicator or None
        Indicator of missing values, if `add_indicator=True`.
    n_iter_ : int
        Number of EM iterations.
    n_components_, n_features_in_ : int
        Number k of components, and number d of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    PPCA : Model that `fit` and `transform` use.
    GaussianImputer : Imputer with a full covariance, which is shrunk.
    FactorAnalysisImputer : Imputer with a noise variance per feature.

    References
    ----------
    .. [1] Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999,
       section 4.1.
    .. [2] Ilin and Raiko, "Practical Approaches to Principal Component Analysis in the Presence
       of Missing Values", JMLR 2010, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae import PPCAImputer
    >>> X = np.array([[1.0, 2.0], [2.0, 4.1], [3.0, np.nan], [4.0, 7.9], [5.0, 10.0]])
    >>> PPCAImputer(n_components=1).fit_transform(X)[2].round(1)
    array([3., 6.])
    """

    _model_class = PPCA

    def __init__(
        self,
        n_components: Any = None,
        *,
        missing_values: Any = np.nan,
        noise_variance: float | None = None,
        standardize: bool = True,
        n_fits: int = 0,
        sample_posterior: bool = False,
        min_value: Any = None,
        max_value: Any = None,
        round_integers: bool = False,
        tol: float = 1e-6,
        max_iter: int = 1000,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.missing_values = missing_values
        self.noise_variance = noise_variance
        self.standardize = standardize
        self.n_fits = n_fits
        self.sample_posterior = sample_posterior
        self.min_value = min_value
        self.max_value = max_value
        self.round_integers = round_integers
        self.tol = tol
        self.max_iter = max_iter
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def _fit_model(self, X: np.ndarray, weights: np.ndarray | None, k: int) -> PPCA:
        model = PPCA(
            k,
            noise_variance=self.noise_variance,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=self.random_state,
        )
        model._check_parameters()
        kept = self._scaled(X)
        if kept.shape[1] == 0:
            return model
        model.fit(kept, sample_weight=weights)
        if self._is_plane(model, kept):
            # The observed values determine the missing ones. A small noise variance
            # approximates this limit, which does not depend on the units of X.
            self.scale_[self._observed] = spread_of(X[:, self._observed], weights)
            kept = self._scaled(X)
            model.set_params(noise_variance=LEAST_NOISE).fit(kept, sample_weight=weights)
            model.set_params(noise_variance=self.noise_variance)
        return model

    def _factor_fit(self) -> FactorFit:
        return FactorFit(True, 0, self.noise_variance)

    def _is_plane(self, model: PPCA, X: np.ndarray) -> bool:
        """Return whether the noise of the model is only a rounding error."""
        if self.noise_variance is not None:
            return False
        least = LEAST_NOISE if self.standardize and not np.isnan(X).any() else 0.0
        return bool(model.noise_variance_ <= least)


class FactorAnalysisImputer(FactorImputer):
    """Imputer that fills missing values with their conditional mean under factor analysis.

    All features are modeled jointly by ``x ~ N(mu, W W' + diag(psi))``, with a noise variance for each
    feature, which is fitted to the observed values by EM. A weak prior keeps the noise variances away
    from 0. Values are assumed to be missing at random: whether a value is missing may depend only on
    observed values. Draws, standard deviations and intervals contain the uncertainty of the
    parameters.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number k of factors, at most the number of features. If None, it is half of
        min(n_samples, n_features), but at most 10. If "auto", it is chosen among some numbers up to
        16 by the density of entries that are hidden from the fit.
    missing_values : float or np.nan, default=np.nan
        Placeholder for missing values.
    standardize : bool, default=True
        Whether to divide each feature by the standard deviation of its observed values before the
        model is fitted. EM starts at principal components, which depend on the units.
    n_fits : int, default=20
        Number of fits with random weights (a Bayesian bootstrap) whose differences are the
        uncertainty of the parameters in the draws of `impute`. Residuals are calibrated by entries
        that are hidden from further fits. All these fits run when draws, standard deviations or
        intervals are first asked for. If 0, the parameters count as known, and values given the
        observed ones as normal.
    sample_posterior : bool, default=False
        Whether `transform` draws from the predictive distribution instead of imputing its mean.
    min_value, max_value : float or array-like of shape (n_features,), default=None
        Bounds of imputed values. Means are clipped, draws are from the truncated distribution. If
        None, there is no bound.
    round_integers : bool, default=False
        Whether to round imputed values of features whose observed values in `fit` are integers.
    tol : float, default=1e-3
        Tolerance in nats per sample. EM stops when an iteration improves the log-likelihood by less
        than `tol`.
    max_iter : int, default=200
        Maximum number of EM iterations.
    add_indicator : bool, default=False
        Whether `transform` appends the columns of a :class:`sklearn.impute.MissingIndicator`.
    keep_empty_features : bool, default=False
        Whether `transform` fills features without observed values in `fit` with 0 instead of
        dropping them.
    random_state : int, RandomState instance or None, default=0
        Seed or generator for the fits with random weights, for hidden entries, and for `sample_posterior`.

    Attributes
    ----------
    model_ : FactorAnalysis
        Model of the features with observed values, each divided by its `scale_`.
    scale_ : ndarray of shape (n_features,)
        Divisor of each feature: its standard deviation, or 1 if the feature is constant or
        `standardize=False`.
    indicator_ : MissingIndicator or None
        Indicator of missing values, if `add_indicator=True`.
    n_iter_ : int
        Number of EM iterations.
    n_components_, n_features_in_ : int
        Number k of components, and number d of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    FactorAnalysis : The model, by maximum likelihood.
    GaussianImputer : Imputer with a full covariance; faster if features are at most a few hundred.
    PPCAImputer : Imputer with the same noise variance for all features.
    sklearn_vae.diagnostics.pool : Pool the estimates from several draws.

    Notes
    -----
    The draws come from a mixture of `n_fits` models, each fitted with Dirichlet weights [1]_. Each
    missing value of a draw is then mapped to the distribution of residuals of hidden entries, so that
    intervals hold for features that are not normal, too. The dependence between the missing values of
    a sample stays that of the model (a Gaussian copula). A hidden entry counts by the odds of being
    missing, given the other values of its sample, as in weighted conformal prediction [4]_.

    The imputer keeps the data of `fit` for these fits, unless `n_fits=0`.

    References
    ----------
    .. [1] Rubin, "The Bayesian bootstrap", Annals of Statistics 1981.
    .. [2] Martin and McDonald, "Bayesian estimation in unrestricted factor analysis: a treatment for
       Heywood cases", Psychometrika 1975.
    .. [3] Little and Rubin, "Statistical Analysis with Missing Data", 3rd edition 2019, chapters 10
       and 11.
    .. [4] Tibshirani, Barber, Candes and Ramdas, "Conformal prediction under covariate shift",
       NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae import FactorAnalysisImputer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 1)) + 0.1 * rng.normal(size=(100, 3))
    >>> imputer = FactorAnalysisImputer().fit(X)
    >>> filled, std = imputer.impute([[1.0, 1.1, np.nan]], return_std=True)
    >>> print(f"{filled[0, 2]:.2f} +- {std[0, 2]:.2f}")
    1.03 +- 0.15
    >>> imputer.impute([[1.0, 1.1, np.nan]], n_draws=5, random_state=0).shape
    (5, 1, 3)
    """

    _model_class = FactorAnalysis

    def __init__(
        self,
        n_components: Any = "auto",
        *,
        missing_values: Any = np.nan,
        standardize: bool = True,
        n_fits: int = 20,
        sample_posterior: bool = False,
        min_value: Any = None,
        max_value: Any = None,
        round_integers: bool = False,
        tol: float = 1e-3,
        max_iter: int = 200,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.missing_values = missing_values
        self.standardize = standardize
        self.n_fits = n_fits
        self.sample_posterior = sample_posterior
        self.min_value = min_value
        self.max_value = max_value
        self.round_integers = round_integers
        self.tol = tol
        self.max_iter = max_iter
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def _fit_model(self, X: np.ndarray, weights: np.ndarray | None, k: int) -> FactorAnalysis:
        check_real("tol", self.tol, at_least=0.0)
        check_integer("max_iter", self.max_iter, at_least=1)
        kept = self._scaled(X)
        d = kept.shape[1]
        if not 0 <= k <= d:
            raise ValueError(f"n_components must be between 0 and n_features = {d}, got {k}.")
        model = FactorAnalysis(k, tol=self.tol, max_iter=self.max_iter)
        if d == 0:
            return model
        Y = model._check_samples(kept, reset=True).astype(np.float64)
        center = np.nanmean(Y, axis=0)
        factors, history, converged = fit_factors_map(
            Y - center, k, weights, tol=self.tol, max_iter=self.max_iter
        )
        if not converged:
            warn_user(
                f"EM has not converged after max_iter={self.max_iter} iterations. Increase max_iter "
                "or tol, or use a smaller n_components.",
                ConvergenceWarning,
            )
        # Orient the factors so that they are uncorrelated given x, with falling lengths.
        scale = np.sqrt(factors.noise_variance)
        U, lengths, _ = np.linalg.svd(factors.loadings / scale[:, None], full_matrices=False)
        W = with_positive_peaks((U * lengths * scale[:, None]).T).T
        gain = history[-1] - history[-2] if len(history) > 1 else np.inf
        fitted = FactorModel(
            W, factors.noise_variance, history[-1], gain, history, converged, remaining_gain=gain
        )
        n_samples = len(Y) if weights is None else float(weights.sum())
        model._set_model(fitted, factors.mean + center, n_samples, kept.dtype.name)
        return model

    def _factor_fit(self) -> FactorFit:
        return FactorFit(False, 0)
