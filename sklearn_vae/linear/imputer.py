"""Missing values filled by probabilistic PCA."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.state import Stateful, brief
from sklearn_vae.validation import all_or_nothing, check_flag, checked_data, is_integer, is_real


class PPCAImputer(Stateful, TransformerMixin, BaseEstimator):
    """Fills missing values with their mean under probabilistic PCA, given the rest of the row.

    All features are modelled together by ``x ~ N(mu, W W' + sigma2 I)``, fitted by EM to what is
    observed (see :class:`PPCA`), so that a value is missing at random where whether it is missing
    depends on what is observed only. Usable where :class:`sklearn.impute.KNNImputer` or
    :class:`sklearn.impute.IterativeImputer` is.

    Parameters
    ----------
    n_components : int or None, default=None
        k, below the number of features. None: half of min(n, d), and at most 10.
    missing_values : float or np.nan, default=np.nan
        What stands for a missing value.
    noise_variance : float or None, default=None
        sigma2; None estimates it.
    tol : float, default=1e-6
        EM ends when an iteration raises the log-likelihood by less, in nats per sample.
    max_iter : int, default=1000
        The most iterations of EM.
    add_indicator : bool, default=False
        Append the columns of a :class:`sklearn.impute.MissingIndicator`.
    keep_empty_features : bool, default=False
        Whether features that were never observed in `fit` are filled with 0; else they are
        dropped.
    random_state : int, RandomState instance or None, default=None
        Of the decomposition that EM starts from, where that is a random one.

    Attributes
    ----------
    ppca_ : PPCA
        The model of the features that were observed; `ppca_.impute` gives standard deviations.
    indicator_ : MissingIndicator or None
        With `add_indicator`.
    n_components_ : int
        k.
    n_iter_ : int
        Iterations of EM.
    n_features_in_ : int
        d.
    feature_names_in_ : ndarray of shape (d,)
        Where X had feature names.

    References
    ----------
    Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, section 4.1;
    Ilin and Raiko, "Practical Approaches to Principal Component Analysis in the Presence of
    Missing Values", JMLR 2010, section 3.

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
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        missing_values: Any = np.nan,
        noise_variance: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.missing_values = missing_values
        self.noise_variance = noise_variance
        self.tol = tol
        self.max_iter = max_iter
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> PPCAImputer:
        """Fit the model to what is observed of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of its range, or X is not a matrix of numbers.
        """
        for name in ("add_indicator", "keep_empty_features"):
            check_flag(name, getattr(self, name))
        with all_or_nothing(self):
            X = self._check_samples(X, reset=True)
            self._observed = ~np.isnan(X).all(axis=0)
            kept = X[:, self._observed]
            model = PPCA(
                min(min(kept.shape) // 2, 10) if self.n_components is None else self.n_components,
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
                model.fit(kept)
                if model.noise_variance_ == 0.0:
                    # Rows on a plane determine what is missing as far as they can: a noise that
                    # is small beside their spread gives that limit.
                    spread = float(np.nanvar(kept, axis=0).mean())
                    model.set_params(noise_variance=1e-9 * spread or 1.0).fit(kept)
                    model.set_params(noise_variance=self.noise_variance)
            self.ppca_ = model
            self.n_components_ = getattr(model, "n_components_", 0)
            self.n_iter_ = getattr(model, "n_iter_", 1)
            self.indicator_ = None
            if self.add_indicator:
                self.indicator_ = MissingIndicator(error_on_new=False).fit(X)
        return self

    def get_state(self) -> dict[str, Any]:
        """Return parameters and fitted attributes; of `indicator_`, which features it adds."""
        state = super().get_state()
        if isinstance(indicator := state.get("indicator_"), MissingIndicator):
            state["indicator_"] = np.isin(np.arange(self.n_features_in_), indicator.features_)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Set what :meth:`get_state` has returned, in place of all that there is."""
        missing = state.get("indicator_")
        if missing is not None:
            if not (isinstance(missing, np.ndarray) and missing.dtype == bool):
                raise ValueError(f"indicator_ must be None or booleans, got {brief(missing)}.")
            X = np.where(missing, np.nan, 0.0)[None]
            state = {**state, "indicator_": MissingIndicator(error_on_new=False).fit(X)}
        super().set_state(state)

    def _check_state(self) -> None:
        super()._check_state()
        if not hasattr(self, "ppca_"):
            return
        d, observed, ppca = self.n_features_in_, self._observed, self.ppca_
        if observed.dtype != bool:
            raise ValueError(f"_observed must be booleans, got {brief(observed)}.")
        if not isinstance(ppca, PPCA) or getattr(ppca, "n_features_in_", 0) != observed.sum():
            raise ValueError(f"ppca_ must be a PPCA of the {observed.sum()} observed features.")
        if self.indicator_ is not None and self.indicator_.n_features_in_ != d:
            raise ValueError(f"indicator_ must be None or booleans of the {d} features.")

    def transform(self, X: Any) -> np.ndarray:
        """Fill missing values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_features_out)
            Without the features never observed in `fit`, unless `keep_empty_features`; with the
            columns of the indicator behind them, if there is one.
        """
        check_is_fitted(self)
        X = self._check_samples(X, reset=False)
        filled = np.zeros_like(X)
        if self._observed.any():
            filled[:, self._observed] = self.ppca_.impute(X[:, self._observed])
        if not self.keep_empty_features:
            filled = filled[:, self._observed]
        if self.indicator_ is None:
            return filled
        return np.hstack([filled, self.indicator_.transform(X)])

    def impute(self, X: Any, return_std: bool = False) -> Any:
        """Fill missing values in all columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Return the conditional standard deviation as well.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Entries that are missing in a feature that was never observed in `fit` stay NaN.
        std : array of shape (n_samples, n_features)
            0 for observed entries, NaN for those that stay missing. Only with `return_std`.
        """
        check_is_fitted(self)
        X = self._check_samples(X, reset=False)
        filled, std = X.copy(), np.where(np.isnan(X), X, 0)
        seen = self._observed
        if seen.any():
            filled[:, seen], std[:, seen] = self.ppca_.impute(X[:, seen], return_std=True)
        return (filled, std) if return_std else filled

    def _check_samples(self, X: Any, *, reset: bool) -> np.ndarray:
        """X with NaN where a value is missing, and nowhere else."""
        if not (is_real(self.missing_values) or _is_nan(self.missing_values)):
            raise ValueError(
                f"missing_values must be a finite float or np.nan, got {self.missing_values!r}."
            )
        nan = _is_nan(self.missing_values)
        finite, least = "allow-nan" if nan else True, 2 if reset else 1
        X = checked_data(self, X, reset=reset, ensure_min_samples=least, ensure_all_finite=finite)
        return X if nan else np.where(self.missing_values == X, np.nan, X)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the features that `transform` returns.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            None: `feature_names_in_`, or x0, x1, ... without such.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        names = _check_feature_names(self, input_features)
        kept = names if self.keep_empty_features else names[self._observed]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = _is_nan(self.missing_values)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _check_feature_names(estimator: Any, input_features: Any) -> np.ndarray:
    """`input_features` where they fit, or the names seen in fit, or x0, x1, ..."""
    known = getattr(estimator, "feature_names_in_", None)
    d = estimator.n_features_in_
    if input_features is None:
        return np.asarray([f"x{i}" for i in range(d)] if known is None else known, dtype=object)
    names = np.asarray(input_features, dtype=object)
    if known is not None and not np.array_equal(known, names):
        raise ValueError("input_features is not equal to feature_names_in_")
    if len(names) != d:
        raise ValueError(f"input_features should have length equal to {d}, got {len(names)}")
    return names
