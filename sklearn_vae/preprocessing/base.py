"""Base class of elementwise transformers with a log-determinant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted

from sklearn_vae.containers import readable
from sklearn_vae.state import Stateful
from sklearn_vae.validation import FLOAT_DTYPES, refuse_dask


class InvertibleTransformer(Stateful, OneToOneFeatureMixin, TransformerMixin, BaseEstimator, ABC):
    """Elementwise transformer with an inverse and a log-determinant."""

    n_features_in_: int

    @abstractmethod
    def transform(self, X: Any) -> np.ndarray:
        """Transform each feature.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data to transform.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Transformed data, in float32 if X is float32 and in float64 otherwise.
        """

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Invert `transform`, clipping values outside its range.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Transformed data.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Original data, in float32 if X is float32 and in float64 otherwise.
        """
        check_is_fitted(self)
        refuse_dask(self, X)
        X = check_array(readable(X), dtype=list(FLOAT_DTYPES), input_name="X")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} was fitted with "
                f"{self.n_features_in_}."
            )
        return self._inverse(X)

    @abstractmethod
    def _inverse(self, X: np.ndarray) -> np.ndarray:
        """Invert the transformation of a checked array."""

    @abstractmethod
    def log_abs_det_jacobian(self, X: Any) -> np.ndarray:
        """Compute log |det J| of `transform` for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data before the transformation.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log-determinant of the Jacobian, in nats, in float64.
        """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
