"""Base class of imputers by linear Gaussian models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.arrays import scale_of
from sklearn_vae.linear.predictive import Density, DensityModel, Predictive, predictive_of
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.state import Stateful
from sklearn_vae.validation import (
    all_or_nothing,
    check_flag,
    check_integer,
    check_random_state,
    checked_data,
    is_real,
)
from sklearn_vae.warning import warn_user

FLAGS = (
    "add_indicator",
    "keep_empty_features",
    "round_integers",
    "sample_posterior",
)


# The fits for draws of each imputer, after the samples and `n_fits` they belong to. They are no attribute,
# because `transform` and `impute` must not change an estimator, and files and copies compute them
# again.
_PREDICTIVE: WeakKeyDictionary[LinearImputer, tuple[Any, int, Predictive]] = WeakKeyDictionary()


class LinearImputer(Stateful, TransformerMixin, BaseEstimator, ABC):
    """Imputer by a normal distribution of the features with observed values.

    Subclasses have the parameters, and define the fit of the distribution. The fits for draws and
    intervals run when the first one is asked for, with the data of `fit` and its seed.
    """

    _fitted_state: ClassVar = {
        "_fit_samples": "any",
        "_fit_weights": "any",
        "_fit_seed": "any",
        "_is_whole": "d",
        "_observed": "d",
        "indicator_": "any",
        "n_features_in_": "count",
        "scale_": "d finite positive",
    }

    _fit_samples: Any
    _fit_weights: Any
    _fit_seed: Any
    missing_values: Any
    n_fits: int
    sample_posterior: bool
    min_value: Any
    max_value: Any
    round_integers: bool
    add_indicator: bool
    keep_empty_features: bool
    random_state: Any

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to the observed values of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with missing values.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. Their scale does not change the model, except for the weight of the
            prior of `FactorAnalysisImputer` and `GaussianImputer`.

        Returns
        -------
        self : estimator
            Fitted imputer.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid.
        """
        for name in FLAGS:
            check_flag(name, getattr(self, name))
        check_integer("n_fits", self.n_fits, at_least=0)
        self._check_parameters()
        with all_or_nothing(self):
            X = self._check_samples(X, reset=True)
            X, weights, count, total = drop_zero_weights(
                X, sample_weight, at_least=2, copy_mapped=True
            )
            self._bounds()
            self._observed = ~np.isnan(X).all(axis=0)
            self._is_whole = np.array([_is_whole(column) for column in X.T])
            self.scale_ = np.ones(X.shape[1])
            rng = None
            if self.n_fits or self._needs_random_numbers():
                rng = check_random_state(self.random_state)
            # Weights count as repetitions.
            self._fit_density(X, weights, count, max(count, round(total)), rng)
            self._keep_for_draws(X, weights, rng)
            self.indicator_ = None
            if self.add_indicator:
                self.indicator_ = MissingIndicator(error_on_new=False).fit(X)
        if not (self._observed.all() or self.keep_empty_features):
            names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
            warn_user(
                "Skipping features without any observed values: "
                f"{names[~self._observed].tolist()}. Set keep_empty_features=True to keep them.",
            )
        return self

    @abstractmethod
    def _check_parameters(self) -> None:
        """Raise ValueError unless the parameters of the distribution are valid."""

    def _needs_random_numbers(self) -> bool:
        """Return whether the fit of the distribution draws random numbers."""
        return False

    @abstractmethod
    def _fit_density(
        self, X: np.ndarray, weights: np.ndarray | None, count: int, n_repeated: int, rng: Any
    ) -> None:
        """Fit the distribution of the features with observed values, and set their scales."""

    @abstractmethod
    def _density(self) -> Density:
        """Return the distribution of the scaled features with observed values."""

    @abstractmethod
    def _density_model(self) -> DensityModel:
        """Return what fits the distribution to other samples or weights."""

    def _keep_for_draws(self, X: np.ndarray, weights: Any, rng: Any) -> None:
        """Keep the scaled data and a seed for the fits that draws and intervals need."""
        self._fit_samples = self._fit_weights = self._fit_seed = None
        _PREDICTIVE.pop(self, None)
        if self.n_fits and self._observed.any():
            self._fit_samples = self._scaled(X.astype(np.float64))
            self._fit_weights = weights
            self._fit_seed = int(rng.randint(np.iinfo(np.int32).max))

    def _predictive(self) -> Predictive:
        """Return the distribution of missing values; that of a single fit if `n_fits=0`."""
        if self._fit_samples is None or self.n_fits == 0:
            density = self._density()
            return Predictive(density, [density])
        known = _PREDICTIVE.get(self)
        if known is None or known[0] is not self._fit_samples or known[1] != self.n_fits:
            rng = np.random.RandomState(self._fit_seed)
            predictive = predictive_of(
                self._fit_samples,
                self._fit_weights,
                self._density(),
                self._density_model(),
                self.n_fits,
                rng,
            )
            known = _PREDICTIVE[self] = (self._fit_samples, self.n_fits, predictive)
        return known[2]

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
        if not hasattr(self, "scale_"):
            return
        d, observed = self.n_features_in_, self._observed
        if observed.dtype != bool:
            raise ValueError(f"_observed must be booleans, got {observed!r:.100}.")
        self._check_density(int(observed.sum()))
        X, weights, seed = self._fit_samples, self._fit_weights, self._fit_seed
        if (X is None) != (seed is None):
            raise ValueError("_fit_samples and _fit_seed must belong together.")
        if X is not None:
            is_valid = isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype == np.float64
            if not is_valid or X.shape[1] != observed.sum() or np.isinf(X).any():
                raise ValueError(
                    f"_fit_samples must be None or floats of the {observed.sum()} features."
                )
            check_integer("_fit_seed", seed, at_least=0)
        if weights is not None and not (
            X is not None
            and isinstance(weights, np.ndarray)
            and weights.shape == X.shape[:1]
            and (weights > 0).all()
        ):
            raise ValueError("_fit_weights must be None or one positive float per sample.")
        if self.indicator_ is not None and self.indicator_.n_features_in_ != d:
            raise ValueError(f"indicator_ must be None or one boolean for each of {d} features.")

    @abstractmethod
    def _check_density(self, n_kept: int) -> None:
        """Raise ValueError unless the distribution is valid for this number of features."""

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
        if self.sample_posterior:
            filled = next(self._draws(X, 1, self.random_state))
        else:
            filled = self._impute(X)[0]
        filled = np.where(np.isnan(filled), filled.dtype.type(0), filled)
        if not self.keep_empty_features:
            filled = filled[:, self._observed]
        if self.indicator_ is None:
            return filled
        return np.hstack([filled, self.indicator_.transform(X)])

    def impute(
        self,
        X: Any,
        return_std: bool = False,
        *,
        n_draws: int | None = None,
        random_state: Any = None,
    ) -> Any:
        """Impute missing values and return all features in their original order.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with missing values.
        return_std : bool, default=False
            Whether to return the standard deviation of the predictive distribution too. It
            contains the uncertainty of the parameters if `n_fits` is not 0, and ignores
            `min_value`, `max_value` and rounding.
        n_draws : int, default=None
            Number of completed data sets that are drawn from the predictive distribution, for
            multiple imputation. If None, missing values are replaced by their conditional means.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the draws.

        Returns
        -------
        X : array of shape (n_samples, n_features) or (n_draws, n_samples, n_features)
            Data without missing values, except NaN in features without observed values in `fit`.
        std : array of shape (n_samples, n_features)
            Standard deviation: 0 for observed entries, NaN for those that remain missing. Only if
            `return_std` is True.

        Raises
        ------
        ValueError
            If X or a parameter is invalid.
        """
        check_is_fitted(self)
        if n_draws is not None:
            check_integer("n_draws", n_draws, at_least=1)
        X = self._check_samples(X, reset=False)
        if n_draws is not None:
            filled = np.stack(list(self._draws(X, n_draws, random_state)))
        else:
            filled = self._impute(X)[0]
        return (filled, self._std(X)) if return_std else filled

    def interval(self, X: Any, coverage: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Compute central prediction intervals of missing values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with missing values.
        coverage : float, default=0.95
            Probability of each interval, between 0 and 1.

        Returns
        -------
        lower, upper : array of shape (n_samples, n_features)
            Ends of the intervals, within `min_value` and `max_value`. They are quantiles of the
            draws of `impute`, or wider where residuals of hidden entries under similar
            circumstances are few. Both are the value itself where it is observed, and NaN in
            features without observed values in `fit`.

        Raises
        ------
        ValueError
            If X or `coverage` is invalid.
        """
        check_is_fitted(self)
        if not (is_real(coverage) and 0.0 < coverage < 1.0):
            raise ValueError(f"coverage must be a float between 0 and 1, got {coverage!r}.")
        X = self._check_samples(X, reset=False)
        if not self._observed.any():
            return X.copy(), X.copy()
        kept = self._scaled(X.astype(np.float64))
        lower, upper = self._predictive().interval(kept, coverage, self._scaled_bounds())
        return self._in_units(X, lower), self._in_units(X, upper)

    def _impute(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return X with imputed values, and conditional standard deviations of a single fit."""
        filled, std = X.copy(), np.where(np.isnan(X), X, 0)
        kept = self._observed
        if kept.any():
            mean, std[:, kept] = self._conditional(X)
            std[:, kept] *= self.scale_[kept].astype(X.dtype)
            filled = self._in_units(X, mean)
        return filled, std

    def _conditional(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scaled X with conditional means, and the standard deviations."""
        return self._density().conditional(self._scaled(X.astype(np.float64)))

    def _std(self, X: np.ndarray) -> np.ndarray:
        std = self._impute(X)[1]
        if self._fit_samples is not None and self.n_fits:
            kept = self._observed
            spread = self._predictive().std(self._scaled(X.astype(np.float64)))
            std[:, kept] = np.where(np.isnan(X[:, kept]), spread * self.scale_[kept], 0.0)
        return std

    def _draws(self, X: np.ndarray, n_draws: int, random_state: Any) -> Iterator[np.ndarray]:
        """Yield X with draws of the missing values."""
        rng = check_random_state(random_state)
        if not self._observed.any():
            yield from (X.copy() for _ in range(n_draws))
            return
        kept = self._scaled(X.astype(np.float64))
        for drawn in self._predictive().draws(kept, n_draws, rng, self._scaled_bounds()):
            yield self._in_units(X, drawn)

    def _in_units(self, X: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        """Return X with missing values from `scaled`, within bounds and rounded if asked."""
        filled, kept = X.copy(), self._observed
        values = (scaled * self.scale_[kept]).astype(X.dtype)
        low, high = (end[kept] for end in self._bounds())
        if self.round_integers:
            least, most = np.ceil(low), np.floor(high)
            whole = self._is_whole[kept] & (least <= most)  # else no integer is within bounds
            values = np.where(whole, np.round(values), values)
            low, high = np.where(whole, least, low), np.where(whole, most, high)
        if self.min_value is not None or self.max_value is not None:
            values = np.clip(values, low, high).astype(X.dtype)
        filled[:, kept] = np.where(np.isnan(X[:, kept]), values, X[:, kept])
        return filled

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest imputed value of each feature."""
        d, ends = self.n_features_in_, []
        for name, default in (("min_value", -np.inf), ("max_value", np.inf)):
            value = getattr(self, name)
            try:
                end = np.asarray(default if value is None else value, dtype=np.float64)
            except (TypeError, ValueError):
                end = np.full(d, np.nan)
            if end.shape not in ((), (d,)) or np.isnan(end).any():
                raise ValueError(
                    f"{name} must be None, a float or {d} floats, one per feature, got {value!r}."
                )
            ends.append(np.broadcast_to(end, (d,)))
        if not (ends[0] <= ends[1]).all():
            raise ValueError(
                "min_value must be at most max_value in each feature, got "
                f"min_value={self.min_value!r} and max_value={self.max_value!r}."
            )
        return ends[0], ends[1]

    def _scaled_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        kept = self._observed
        with np.errstate(over="ignore"):
            low, high = (end[kept] / self.scale_[kept] for end in self._bounds())
        return low, high

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Return the features with observed values in the units of the model."""
        return (X[:, self._observed] / self.scale_[self._observed]).astype(X.dtype, copy=False)

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


def spread_of(X: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
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


def _is_whole(column: np.ndarray) -> bool:
    """Return whether all observed values are integers."""
    values = column[~np.isnan(column)]
    return bool(np.all(values == np.round(values)))
