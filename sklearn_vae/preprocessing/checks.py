"""Checks of what is mapped."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from sklearn_vae.validation import FLOAT_DTYPES, refuse_dask


def check_image(estimator: Any, X: Any) -> np.ndarray:
    """X as `inverse_transform` takes it: floats in as many columns as there are features."""
    refuse_dask(estimator, X)
    X = check_array(X, dtype=list(FLOAT_DTYPES), input_name="X")
    if X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X must have n_features_in_ = {estimator.n_features_in_} columns, got {X.shape[1]}."
        )
    return X
