"""Imputation of missing values by a normal distribution with a full covariance."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.shrunk_covariance import Normal, fit_shrunk
from sklearn_vae.linear.linear_imputer import LinearImputer, spread_of
from sklearn_vae.validation import check_integer, check_real, is_real
from sklearn_vae.warning import warn_user


class ShrunkFitting(NamedTuple):
    """Fit of a normal distribution whose covariance is shrunk."""

    shrinkage: float | None  # None if the evidence chooses it
    tol: float
    max_iter: int

    def fit(self, X: np.ndarray, weights: np.ndarray | None, start: Normal | None) -> Normal:
        """Fit the distribution to X."""
        fit = fit_shrunk(
            X,
            weights,
            shrinkage=self.shrinkage,
            start=start,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return fit.normal


class GaussianImputer(LinearImputer):
    """Imputer that fills missing values with their conditional mean under a normal distribution.

    All features are modeled jointly by ``x ~ N(mu, Sigma)`` with a full covariance, which is fitted to
    the observed values by EM. The covariance is shrunk to that of independent features by a
    share that maximizes the evidence, so that few samples suffice. Values are assumed to be missing
    at random: whether a value is missing may depend only on observed values. The imputer can replace
    :class:`sklearn.impute.IterativeImputer`. Draws, standard deviations and intervals contain the
    uncertainty of the parameters.

    Parameters
    ----------
    shrinkage : float or "auto", default="auto"
        Share of the shrunk covariance that comes from the prior, between 0 (excluded) and 1, where
        features are independent. If "auto", it maximizes the evidence.
    missing_values : float or np.nan, default=np.nan
        Placeholder for missing values.
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
    tol : float, default=1e-2
        EM stops when the root mean square change of the imputed values is less than `tol` standard
        deviations.
    max_iter : int, default=100
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
    mean_ : ndarray of shape (n_observed_features,)
        Means of the features with observed values, each divided by its `scale_`.
    covariance_ : ndarray of shape (n_observed_features, n_observed_features)
        Shrunk covariance of the same features.
    shrinkage_ : float
        Share of `covariance_` that comes from the prior.
    scale_ : ndarray of shape (n_features,)
        Divisor of each feature: its standard deviation, or 1 if the feature is constant.
    indicator_ : MissingIndicator or None
        Indicator of missing values, if `add_indicator=True`.
    n_iter_ : int
        Number of EM iterations.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    FactorAnalysisImputer : Imputer with few factors, for many features.
    PPCAImputer : Imputer by probabilistic PCA.
    sklearn_vae.diagnostics.pool : Pool the estimates from several draws.

    Notes
    -----
    The covariance has an inverse Wishart prior [1]_, which counts as some more samples without
    correlations [2]_. The time of an EM iteration grows with the cube of the number of missing or
    observed features of a sample, whichever are fewer, and the memory with the square of the number of
    features, so that `FactorAnalysisImputer` suits more than a few hundred features better.

    Intervals come from residuals of entries that are hidden from the fit. Each residual counts by the
    odds of being missing, given the other values of its sample, as in weighted conformal
    prediction [3]_. Draws come from a mixture of `n_fits` models, each fitted with Dirichlet weights.

    The imputer keeps the data of `fit` for these fits, unless `n_fits=0`.

    References
    ----------
    .. [1] Schafer, "Analysis of Incomplete Multivariate Data", 1997, section 5.2.
    .. [2] Chen, "Bayesian inference for a normal dispersion matrix and its application to stochastic
       multiple regression analysis", JRSS-B 1979.
    .. [3] Tibshirani, Barber, Candes and Ramdas, "Conformal prediction under covariate shift",
       NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae import GaussianImputer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 1)) + 0.1 * rng.normal(size=(100, 3))
    >>> imputer = GaussianImputer().fit(X)
    >>> imputer.transform([[1.0, 1.1, np.nan]]).round(1)
    array([[1. , 1.1, 1. ]])
    >>> imputer.impute([[1.0, 1.1, np.nan]], n_draws=5, random_state=0).shape
    (5, 1, 3)
    """

    _fitted_state: ClassVar = {
        **LinearImputer._fitted_state,
        "covariance_": "any",
        "mean_": "any",
        "shrinkage_": "number",
    }

    def __init__(
        self,
        shrinkage: Any = "auto",
        *,
        missing_values: Any = np.nan,
        n_fits: int = 20,
        sample_posterior: bool = False,
        min_value: Any = None,
        max_value: Any = None,
        round_integers: bool = False,
        tol: float = 1e-2,
        max_iter: int = 100,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.shrinkage = shrinkage
        self.missing_values = missing_values
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

    def _check_parameters(self) -> None:
        check_real("tol", self.tol, at_least=0.0)
        check_integer("max_iter", self.max_iter, at_least=1)
        share = self.shrinkage
        is_share = is_real(share) and 0.0 < share <= 1.0
        if not (is_share or (isinstance(share, str) and share == "auto")):
            raise ValueError(
                f"shrinkage must be 'auto' or a float in (0, 1], got {share!r}. With 1 the features "
                "are independent."
            )

    def _fit_density(
        self, X: np.ndarray, weights: np.ndarray | None, count: int, n_repeated: int, rng: Any
    ) -> None:
        self.scale_[self._observed] = spread_of(X[:, self._observed], weights)
        share = None if self.shrinkage == "auto" else float(self.shrinkage)
        if weights is not None:  # the evidence counts repetitions
            weights = weights * (n_repeated / weights.sum())
        fit = fit_shrunk(
            self._scaled(X.astype(np.float64)),
            weights,
            shrinkage=share,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        if not fit.converged:
            warn_user(
                f"EM has not converged after max_iter={self.max_iter} iterations. Increase max_iter "
                "or tol, or increase shrinkage.",
                ConvergenceWarning,
            )
        self.mean_, self.covariance_ = fit.normal
        self.shrinkage_, self.n_iter_ = fit.shrinkage, max(len(fit.changes), 1)

    def _density(self) -> Normal:
        return Normal(self.mean_, self.covariance_)

    def _density_model(self) -> ShrunkFitting:
        return ShrunkFitting(self.shrinkage_, self.tol, self.max_iter)

    def _check_density(self, n_kept: int) -> None:
        for name, shape in (("mean_", (n_kept,)), ("covariance_", (n_kept, n_kept))):
            value = getattr(self, name)
            is_array = isinstance(value, np.ndarray) and value.dtype == np.float64
            if not (is_array and value.shape == shape and np.isfinite(value).all()):
                raise ValueError(f"{name} must be finite floats of shape {shape}.")
        if n_kept and not np.linalg.eigvalsh(self.covariance_)[0] > 0.0:
            raise ValueError("covariance_ must be positive definite.")
