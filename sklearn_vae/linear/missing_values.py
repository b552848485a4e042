"""Imputation by models that accept missing values."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_is_fitted

from sklearn_vae.linear.dask_arrays import map_samples
from sklearn_vae.validation import is_dask


class ImputerMixin:
    """Method `impute` of a model with `_impute`, which returns filled samples and deviations."""

    def impute(self, X: Any, return_std: bool = False) -> Any:
        """Replace missing values by their conditional mean given the observed ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with NaN for missing values.
        return_std : bool, default=False
            Whether to return the conditional standard deviation too.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Data without missing values.
        std : array of shape (n_samples, n_features)
            Conditional standard deviation, 0 for observed entries. Only if `return_std` is True.

        Raises
        ------
        ValueError
            If X contains NaN and the noise variance is 0.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_vae import PPCA
        >>> X = np.random.default_rng(0).normal(size=(50, 1)) * [1.0, 2.0] + [0.0, 5.0]
        >>> model = PPCA(1, noise_variance=1e-6).fit(X)
        >>> model.impute([[1.0, np.nan]]).round(2)
        array([[1., 7.]])
        """
        check_is_fitted(self)
        if is_dask(X) and not return_std:
            return map_samples(self, "impute", X)
        filled, std = self._impute(X)
        return (filled, std) if return_std else filled

    def _impute(self, X: Any) -> tuple[Any, Any]:
        raise NotImplementedError
