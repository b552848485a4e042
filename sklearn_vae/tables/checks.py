"""Validation of tables by scikit-learn's conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from sklearn_vae.gaussian.arrays import check_sample_weight, positive_weights
from sklearn_vae.tables.columns import array_of, frame_of, is_frame, unique_names
from sklearn_vae.validation import refuse_dask


def checked_table(
    estimator: BaseEstimator, X: Any, *, reset: bool, ensure_min_samples: int = 1
) -> Any:
    """Return X as a DataFrame or array with the number and names of features checked.

    Parameters
    ----------
    estimator : BaseEstimator
        Estimator whose `n_features_in_` and `feature_names_in_` are set or compared.
    X : DataFrame or array-like of shape (n_samples, n_features)
        Table.
    reset : bool
        Whether to set these attributes, in `fit`, or to compare X with them.
    ensure_min_samples : int, default=1
        Smallest number of samples.

    Returns
    -------
    X : DataFrame or ndarray of shape (n_samples, n_features)
        Table for :class:`TableCodec`.

    Raises
    ------
    TypeError
        If X is a container that must be converted first.
    ValueError
        If X has the wrong shape, names that occur twice, or other features than in `fit`.
    """
    refuse_dask(estimator, X)
    X = frame_of(X)
    if not is_frame(X):
        return validate_data(
            estimator,
            X if sparse.issparse(X) else array_of(X),
            reset=reset,
            dtype=None,
            ensure_all_finite=False,
            ensure_min_samples=ensure_min_samples,
        )
    unique_names(X)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    if len(X) < ensure_min_samples:
        raise ValueError(
            f"Found array with {len(X)} sample(s) (shape={tuple(X.shape)}) while a minimum of "
            f"{ensure_min_samples} is required by {type(estimator).__name__}."
        )
    return X


def used_samples(estimator: BaseEstimator, X: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Return the samples of a table that have positive weights, and their weights.

    Parameters
    ----------
    estimator : BaseEstimator
        Estimator that is fitted.
    X : DataFrame or array-like of shape (n_samples, n_features)
        Table.
    sample_weight : array-like of shape (n_samples,) or None
        Weights of the samples.

    Returns
    -------
    X : DataFrame or array-like of shape (n_used, n_features)
        Table of these samples.
    sample_weight : ndarray of shape (n_used,) or None
        Their weights.

    Raises
    ------
    TypeError
        If X is a container that must be converted first.
    ValueError
        If the weights are invalid, or fewer than two are positive.
    """
    refuse_dask(estimator, X)
    X = frame_of(X)
    if sample_weight is None or sparse.issparse(X):
        return X, sample_weight
    if not is_frame(X):
        X = array_of(X)
    weights = check_sample_weight(sample_weight, np.empty((len(np.atleast_1d(X)), 0)))
    positive, count = positive_weights(weights, at_least=2)
    if count == len(weights):
        return X, weights
    rows = np.flatnonzero(positive)
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows], weights[rows]
