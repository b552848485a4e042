"""Base class of transformers of each feature that know their log-determinant."""

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
    """A transformer of each feature with an inverse and a log-determinant."""

    n_features_in_: int

    @abstractmethod
    def transform(self, X: Any) -> np.ndarray:
        """Transform each feature.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float32 for float32, else float64.
        """

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Invert `transform`; values beyond its range belong to the nearest end.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float32 for float32, else float64.
        """
        check_is_fitted(self)
        refuse_dask(self, X)
        X = check_array(readable(X), dtype=list(FLOAT_DTYPES), input_name="X")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must have n_features_in_ = {self.n_features_in_} columns, got {X.shape[1]}."
            )
        return self._inverse(X)

    @abstractmethod
    def _inverse(self, X: np.ndarray) -> np.ndarray:
        """Invert the transformation of an array that has been checked."""

    @abstractmethod
    def log_abs_det_jacobian(self, X: Any) -> np.ndarray:
        """log |det J| of `transform` for each sample, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            float64.
        """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
