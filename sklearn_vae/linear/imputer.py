"""Imputation of missing values by probabilistic PCA."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.arrays import scale_of
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.state import Stateful
from sklearn_vae.validation import all_or_nothing, check_flag, checked_data, is_integer, is_real

# Noise variance of standardized features that approximates the limit of no noise.
LEAST_NOISE = 1e-9


class PPCAImputer(Stateful, TransformerMixin, BaseEstimator):
    """Imputer that fills missing values with their conditional mean under probabilistic PCA.

    All features are modeled jointly by ``x ~ N(mu, W W' + sigma2 I)``, which is fitted to the
    observed values by EM (see :class:`PPCA`). Values are assumed to be missing at random: whether
    a value is missing may depend only on observed values. The imputer can replace
    :class:`sklearn.impute.KNNImputer` or :class:`sklearn.impute.IterativeImputer`.

    Parameters
    ----------
    n_components : int, default=None
        Number k of components, less than the number of features. If None, it is half of
        min(n_samples, n_features), but at most 10.
    missing_values : float or np.nan, default=np.nan
        Placeholder for missing values.
    noise_variance : float, default=None
        Fixed noise variance sigma2 of the standardized features. If None, it is estimated.
    standardize : bool, default=True
        Whether to divide each feature by the standard deviation of its observed values before the
        model is fitted. pPCA has the same noise variance for all features, so features of small
        variance are imputed poorly with `standardize=False`.
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
        Seed or generator for the decomposition that EM starts from, if it is randomized.

    Attributes
    ----------
    ppca_ : PPCA
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

    _fitted_state: ClassVar = {
        "_observed": "d",
        "indicator_": "any",
        "n_components_": "count",
        "n_features_in_": "count",
        "ppca_": "any",
        "scale_": "d finite positive",
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        missing_values: Any = np.nan,
        noise_variance: float | None = None,
        standardize: bool = True,
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
        self.tol = tol
        self.max_iter = max_iter
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> PPCAImputer:
        """Fit the model to the observed values of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with missing values.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. The scale of the weights does not change the model.

        Returns
        -------
        self : PPCAImputer
            Fitted imputer.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid.
        """
        for name in ("add_indicator", "keep_empty_features", "standardize"):
            check_flag(name, getattr(self, name))
        with all_or_nothing(self):
            X = self._check_samples(X, reset=True)
            X, weights, count, total = drop_zero_weights(
                X, sample_weight, at_least=2, copy_mapped=True
            )
            self._observed = ~np.isnan(X).all(axis=0)
            self.scale_ = np.ones(X.shape[1])
            if self.standardize:
                self.scale_[self._observed] = _spread(X[:, self._observed], weights)
            kept = self._scaled(X)
            most = min(max(count, round(total)), kept.shape[1])  # weights count as repetitions
            model = PPCA(
                min(most // 2, 10) if self.n_components is None else self.n_components,
                noise_variance=self.noise_variance,
                tol=self.tol,
                max_iter=self.max_iter,
                random_state=self.random_state,
            )
            if not (self.n_components is None or is_integer(self.n_components)):
                raise ValueError(
                    f"n_components must be None or an integer >= 0, got {self.n_components!r}."
                )
            model._check_parameters()
            if kept.shape[1]:
                model.fit(kept, sample_weight=weights)
                if self._is_plane(model, kept):
                    # The observed values determine the missing ones. A small noise variance
                    # approximates this limit, which does not depend on the units of X.
                    self.scale_[self._observed] = _spread(X[:, self._observed], weights)
                    kept = self._scaled(X)
                    model.set_params(noise_variance=LEAST_NOISE).fit(kept, sample_weight=weights)
                    model.set_params(noise_variance=self.noise_variance)
            self.ppca_ = model
            self.n_components_ = getattr(model, "n_components_", 0)
            self.n_iter_ = getattr(model, "n_iter_", 1)
            self.indicator_ = None
            if self.add_indicator:
                self.indicator_ = MissingIndicator(error_on_new=False).fit(X)
        if not (self._observed.all() or self.keep_empty_features):
            names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
            warnings.warn(
                "Skipping features without any observed values: "
                f"{names[~self._observed].tolist()}. Set keep_empty_features=True to keep them.",
                stacklevel=2,
            )
        return self

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()  # holds a mask of features instead of indicator_
        if isinstance(indicator := state.get("indicator_"), MissingIndicator):
            state["indicator_"] = np.isin(np.arange(self.n_features_in_), indicator.features_)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        mask = state.get("indicator_")
        if mask is not None:
            if not (isinstance(mask, np.ndarray) and mask.dtype == bool):
                raise ValueError(f"indicator_ must be None or booleans, got {mask!r:.100}.")
            X = np.where(mask, np.nan, 0.0)[None]
            state = {**state, "indicator_": MissingIndicator(error_on_new=False).fit(X)}
        super().set_state(state)

    def _check_state(self) -> None:
        super()._check_state()
        if not hasattr(self, "ppca_"):
            return
        d, observed, ppca = self.n_features_in_, self._observed, self.ppca_
        if observed.dtype != bool:
            raise ValueError(f"_observed must be booleans, got {observed!r:.100}.")
        if not isinstance(ppca, PPCA) or getattr(ppca, "n_features_in_", 0) != observed.sum():
            raise ValueError(f"ppca_ must be a PPCA of the {observed.sum()} observed features.")
        if self.indicator_ is not None and self.indicator_.n_features_in_ != d:
            raise ValueError(f"indicator_ must be None or one boolean for each of {d} features.")

    def transform(self, X: Any) -> np.ndarray:
        """Impute missing values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with missing values.

        Returns
        -------
        X : array of shape (n_samples, n_features_out)
            Data without missing values and, unless `keep_empty_features=True`, without the
            features that had no observed values in `fit`, followed by the columns of the
            indicator.
        """
        check_is_fitted(self)
        X = self._check_samples(X, reset=False)
        filled = self._impute(X)[0]
        filled = np.where(np.isnan(filled), filled.dtype.type(0), filled)
        if not self.keep_empty_features:
            filled = filled[:, self._observed]
        if self.indicator_ is None:
            return filled
        return np.hstack([filled, self.indicator_.transform(X)])

    def impute(self, X: Any, return_std: bool = False) -> Any:
        """Impute missing values and return all features in their original order.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with missing values.
        return_std : bool, default=False
            Whether to return the conditional standard deviation too.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Data without missing values, except NaN in features without observed values in `fit`.
        std : array of shape (n_samples, n_features)
            Conditional standard deviation: 0 for observed entries, NaN for those that remain
            missing. Only if `return_std` is True.
        """
        check_is_fitted(self)
        X = self._check_samples(X, reset=False)
        filled, std = self._impute(X)
        return (filled, std) if return_std else filled

    def _impute(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return X with imputed values and their standard deviations."""
        filled, std = X.copy(), np.where(np.isnan(X), X, 0)
        kept = self._observed
        if kept.any():
            mean, std[:, kept] = self.ppca_.impute(self._scaled(X), return_std=True)
            std[:, kept] *= self.scale_[kept].astype(X.dtype)
            mean = (mean * self.scale_[kept]).astype(X.dtype)
            filled[:, kept] = np.where(np.isnan(X[:, kept]), mean, X[:, kept])
        return filled, std

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Return the features with observed values in the units of the model."""
        return (X[:, self._observed] / self.scale_[self._observed]).astype(X.dtype, copy=False)

    def _is_plane(self, model: PPCA, X: np.ndarray) -> bool:
        """Return whether the noise of the model is only a rounding error."""
        if self.noise_variance is not None:
            return False
        least = LEAST_NOISE if self.standardize and not np.isnan(X).any() else 0.0
        return bool(model.noise_variance_ <= least)

    def _check_samples(self, X: Any, *, reset: bool) -> np.ndarray:
        """Return X with NaN for missing values."""
        if not (is_real(self.missing_values) or _is_nan(self.missing_values)):
            raise ValueError(
                f"missing_values must be a finite float or np.nan, got {self.missing_values!r}."
            )
        nan, placeholder = _is_nan(self.missing_values), self.missing_values
        finite, least = "allow-nan" if nan else True, 2 if reset else 1
        if isinstance(X, np.ma.MaskedArray) and not nan:  # what a mask hides is missing too
            X = np.ma.filled(X.astype(X.dtype if X.dtype.kind in "fcmMO" else float), placeholder)
        X = checked_data(self, X, reset=reset, ensure_min_samples=least, ensure_all_finite=finite)
        return X if nan else np.where(placeholder == X, np.nan, X)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Get the names of the features that `transform` returns.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            Names of the input features. If None, `feature_names_in_` is used, or x0, x1, ... if X
            had no feature names.

        Returns
        -------
        names : ndarray of str
            Names of the output features.
        """
        names = OneToOneFeatureMixin.get_feature_names_out(self, input_features)
        kept = names if self.keep_empty_features else names[self._observed]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = _is_nan(self.missing_values)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _spread(X: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the standard deviation of the observed values of each feature; 1 for constants."""
    with np.errstate(over="ignore", invalid="ignore"):
        if weights is None:
            mean = np.nanmean(X, axis=0, dtype=np.float64)
        else:
            weights = weights / scale_of(weights)
            mean = _observed_mean(X, weights)
        deviations = X - mean
        largest = np.nanmax(np.abs(deviations), axis=0)
        unit = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        if weights is None:
            spread = unit * np.nanstd(deviations / unit, axis=0)
        else:
            spread = unit * np.sqrt(_observed_mean((deviations / unit) ** 2, weights))
        rounding = 8 * np.finfo(X.dtype).eps * np.nanmax(np.abs(X), axis=0)
    return np.where(np.isfinite(spread) & (spread > rounding), spread, 1.0)


def _observed_mean(X: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of the observed values of each feature."""
    observed = ~np.isnan(X)
    return weights @ np.where(observed, X, 0.0) / (weights @ observed)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))
