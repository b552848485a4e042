"""Uniform dequantization of whole numbers."""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.preprocessing.base import InvertibleTransformer
from sklearn_vae.state import is_fitted
from sklearn_vae.validation import check_integer, check_random_state, checked_data, refuse


class Dequantizer(InvertibleTransformer):
    """Uniform noise that makes whole numbers continuous.

    The transformation is u = (x + U) / n_levels with U uniform in (0, 1). A density fitted to whole
    numbers can have arbitrarily high spikes at the levels; a density of u cannot. E log p(u) -
    d log(n_levels) is a lower bound on the log-probability of the levels. `inverse_transform`
    restores the levels exactly.

    The noise depends on the seed and on all of X. The same X therefore always gets the same noise,
    which makes scores reproducible, but a subset of X gets different noise. If the noise depended
    on the index or the values of a sample, it would repeat in test data, and a flexible model could
    exploit that.

    Parameters
    ----------
    n_levels : int, default=256
        Number of levels, from 2 to 65536. X contains whole numbers from 0 to n_levels - 1.
    random_state : int, RandomState instance or None, default=None
        Seed or generator from which `fit` draws `seed_`. Pass an int for reproducible results.

    Attributes
    ----------
    seed_ : int
        Seed of the noise.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    LogitTransformer : Transform the unit interval to the real line.
    DensityPipeline : Pipeline that accounts for the log-determinant.

    References
    ----------
    Uria, Murray and Larochelle, "RNADE: The real-valued neural autoregressive density-estimator",
    NIPS 2013 (uniform noise).

    Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016,
    section 3.1 (lower bound).

    Examples
    --------
    >>> from sklearn_vae import Dequantizer
    >>> dequantizer = Dequantizer(n_levels=4, random_state=0)
    >>> u = dequantizer.fit_transform([[0, 3], [1, 2]])
    >>> bool((u > [[0, 0.75], [0.25, 0.5]]).all() and (u < [[0.25, 1], [0.5, 0.75]]).all())
    True
    >>> dequantizer.inverse_transform(u)
    array([[0., 3.],
           [1., 2.]])
    >>> dequantizer.log_abs_det_jacobian([[0, 3]]).round(4)
    array([-2.7726])
    """

    _fitted_state: ClassVar = {"n_features_in_": "count", "seed_": "count"}

    def __init__(self, n_levels: int = 256, *, random_state: Any = None) -> None:
        self.n_levels = n_levels
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Dequantizer:
        """Draw the seed of the noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Whole numbers from 0 to n_levels - 1, of any dtype.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        Dequantizer
            Fitted transformer.
        """
        self._check_levels(X, reset=True)
        self.seed_ = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        levels, dtype = self._check_levels(X, reset=False)
        digest = np.frombuffer(hashlib.blake2b(levels.data, digest_size=16).digest(), dtype="<u4")
        rng = np.random.default_rng([self.seed_, *levels.shape, *digest.tolist()])
        u = np.empty(levels.shape, dtype)
        for rows in row_blocks(*levels.shape):
            u[rows] = _dequantized(levels[rows], self.n_levels, rng, dtype)
        return u

    def _inverse(self, X: np.ndarray) -> np.ndarray:
        self._check_parameters()
        return np.clip(_cells(X, self.n_levels), 0, self.n_levels - 1).astype(X.dtype)

    def log_abs_det_jacobian(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        n, d = self._check_levels(X, reset=False)[0].shape
        return np.full(n, -d * math.log(self.n_levels))

    def _check_state(self) -> None:
        super()._check_state()
        if is_fitted(self):
            self._check_parameters()

    def _check_parameters(self) -> None:
        check_integer("n_levels", self.n_levels, at_least=2)
        if self.n_levels > 2**16:
            # In float32 there would be no digits left for the noise.
            raise ValueError(f"n_levels must be at most 65536, got {self.n_levels!r}.")

    def _check_levels(self, X: Any, *, reset: bool) -> tuple[np.ndarray, Any]:
        """Return X as contiguous uint16, and the floating dtype of the result."""
        self._check_parameters()  # they may have been set since fit
        X = checked_data(self, X, reset=reset, dtype="numeric")
        if X.size and X.min() < 0:
            refuse(X, X < 0, f"Negative values in data: {self._requirement()}")
        # In float64, because float16 does not reach 65536.
        wrong = np.float64(self.n_levels) <= X
        if X.dtype.kind == "f":
            wrong |= np.floor(X) != X
        if wrong.any():
            refuse(X, wrong, self._requirement())
        dtype = np.float32 if X.dtype == np.float32 else np.float64
        return np.ascontiguousarray(X, dtype="<u2"), dtype

    def _requirement(self) -> str:
        return f"X must contain whole numbers from 0 to n_levels - 1 = {self.n_levels - 1}"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True
        tags.input_tags.positive_only = True
        tags.input_tags.categorical = True
        return tags


def _dequantized(levels: np.ndarray, n: int, rng: np.random.Generator, dtype: Any) -> np.ndarray:
    """Add uniform noise to levels and divide by n, staying within their cells after rounding."""
    # Noise in (0, 1] rather than [0, 1), which together with the loop keeps u inside (0, 1).
    u: np.ndarray = ((levels + (1.0 - rng.random(levels.shape))) / n).astype(dtype)
    while (outside := _cells(u, n) != levels).any():
        middle = ((levels[outside] + 0.5) / n).astype(dtype)
        u[outside] = np.nextafter(u[outside], middle)
    return u


def _cells(u: np.ndarray, n: int) -> np.ndarray:
    return np.floor(np.multiply(u, n, dtype=np.float64))
