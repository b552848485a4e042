"""Logit transformation from the unit interval to the real line."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.preprocessing.base import InvertibleTransformer
from sklearn_vae.state import is_fitted
from sklearn_vae.validation import checked_data, is_real, refuse


class LogitTransformer(InvertibleTransformer):
    """Logit transformation of the unit interval to the real line.

    The transformation is y = logit(v) with v = alpha + (1 - 2 alpha) x, and ::

        log |det dy/dx| = sum_j [log(1 - 2 alpha) - log v_j - log(1 - v_j)]

    A density of y gives a density of x that integrates to at most 1: the mass of y below
    logit(alpha) and above logit(1 - alpha) is lost.

    Parameters
    ----------
    alpha : float, default=1e-6
        Margin in [0, 0.5) that keeps v away from 0 and 1. Published densities use 1e-6 for MNIST
        and 0.05 for natural images. With 0, X must be in the open interval (0, 1).

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    Dequantizer : Make whole numbers continuous before the logit.
    DensityPipeline : Pipeline that accounts for the log-determinant.

    References
    ----------
    Papamakarios, Pavlakou and Murray, "Masked Autoregressive Flow for Density Estimation", NIPS
    2017, section 4.3.

    Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", ICLR 2017, section 4.1.

    Examples
    --------
    >>> from sklearn_vae import LogitTransformer
    >>> logit = LogitTransformer(alpha=0.05).fit([[0.0], [1.0]])
    >>> logit.transform([[0.0], [0.5], [1.0]]).round(3).ravel()
    array([-2.944,  0.   ,  2.944])
    >>> logit.log_abs_det_jacobian([[0.0], [0.5]]).round(3)
    array([2.942, 1.281])
    """

    _fitted_state: ClassVar = {"n_features_in_": "count"}

    def __init__(self, alpha: float = 1e-6) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any = None) -> LogitTransformer:
        """Validate the parameter and X, without learning anything.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Values in [0, 1], or in (0, 1) if `alpha` is 0.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        LogitTransformer
            Fitted transformer.
        """
        self._check_parameters()
        self._check_unit(X, reset=True)
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._check_unit(X, reset=False)
        Y = np.empty_like(X)
        for rows in row_blocks(*X.shape):
            v, w = self._from_ends(X[rows])
            Y[rows] = np.log(v) - np.log(w)
        return Y

    def _inverse(self, X: np.ndarray) -> np.ndarray:
        # The distance from the nearer end, which loses no digits.
        distance = (expit(-np.abs(X)) - self.alpha) / (1.0 - 2.0 * self.alpha)
        distance = np.maximum(distance, 0.0)
        values = np.where(X < 0, distance, 1.0 - distance)
        if self.alpha == 0:  # whose ends the logit does not reach
            precision = np.finfo(values.dtype)
            values = np.clip(values, precision.tiny, 1.0 - precision.epsneg)
        return values

    def log_abs_det_jacobian(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._check_unit(X, reset=False)
        total = np.full(X.shape[0], X.shape[1] * math.log1p(-2.0 * self.alpha))
        for rows in row_blocks(*X.shape):
            v, w = self._from_ends(X[rows].astype(np.float64))
            total[rows] -= np.log(v).sum(axis=1) + np.log(w).sum(axis=1)
        return total

    def _check_state(self) -> None:
        super()._check_state()
        if is_fitted(self):
            self._check_parameters()

    def _check_parameters(self) -> None:
        if not (is_real(self.alpha) and 0.0 <= self.alpha < 0.5):
            raise ValueError(f"alpha must be a float in [0, 0.5), got {self.alpha!r}.")

    def _from_ends(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute v and 1 - v, both to full relative precision."""
        alpha = float(self.alpha)
        slope = 1.0 - 2.0 * alpha
        return alpha + slope * X, alpha + slope * (1.0 - X)

    def _check_unit(self, X: Any, *, reset: bool) -> np.ndarray:
        X = checked_data(self, X, reset=reset)
        if self.alpha == 0:
            wrong, requirement = (X <= 0.0) | (X >= 1.0), "in (0, 1) if alpha is 0"
        else:
            # MinMaxScaler may exceed [0, 1] by rounding.
            rounding = 4 * np.finfo(X.dtype).eps
            wrong, requirement = (-rounding > X) | (1.0 + rounding < X), "in [0, 1]"
        if wrong.any():
            refuse(X, wrong, f"X must have values {requirement}")
        return X if X.min() >= 0.0 and X.max() <= 1.0 else np.clip(X, 0.0, 1.0)
