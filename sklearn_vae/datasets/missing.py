"""Generation of missing values by different mechanisms."""

from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.utils import check_array

from sklearn_vae.containers import readable
from sklearn_vae.validation import (
    FLOAT_DTYPES,
    check_choice,
    check_random_state,
    check_real,
    is_integer,
    refuse_dask,
)

MECHANISMS = ("completely_at_random", "at_random", "threshold")
SIDES = ("below", "above")
# Change of the log-odds of being missing per standard deviation of the feature `depends_on`.
SLOPE = 2.0


def make_missing(
    X: Any,
    fraction: float = 0.1,
    mechanism: str = "completely_at_random",
    *,
    depends_on: int = 0,
    side: str = "below",
    random_state: Any = None,
) -> np.ndarray:
    """Set values of X to NaN by a given mechanism.

    Each sample and each feature keeps at least one value.

    ==========================  ===================================================================
    mechanism                   missing values
    ==========================  ===================================================================
    ``"completely_at_random"``  All values have the same probability of being missing.
    ``"at_random"``             The log-odds of being missing increase with the value of the feature
                                `depends_on`, by 2 per standard deviation. This feature is always
                                observed. Given it, the other values have no influence. This
                                biases averages of the observed values, but not maximum likelihood
                                estimates.
    ``"threshold"``             In each feature, all values below its quantile of `fraction` are
                                missing, as with a detection limit, or all values above its quantile
                                of 1 - `fraction`. Models that ignore this mechanism are biased.
    ==========================  ===================================================================

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples. Existing NaN are kept, but each sample and each feature must have a value.
    fraction : float, default=0.1
        Fraction of the observed values in X that become missing. It is an expected value for the
        first two mechanisms, and exact up to ties and rounding for "threshold".
    mechanism : {"completely_at_random", "at_random", "threshold"}, default="completely_at_random"
        Mechanism described above.
    depends_on : int, default=0
        Index of a feature without NaN that determines the probabilities of "at_random".
    side : {"below", "above"}, default="below"
        Side of the threshold on which values are missing.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the selection of missing values.

    Returns
    -------
    X_missing : ndarray of shape (n_samples, n_features)
        Copy of X with missing values, of dtype float32 if X is float32, otherwise float64.

    Raises
    ------
    TypeError
        If X is a Dask array or DataFrame.
    ValueError
        If `fraction` is too large for each sample and each feature to keep a value.

    See Also
    --------
    sklearn_vae.PPCA : Probabilistic PCA, which can be fitted to data with missing values.

    Notes
    -----
    If all values of a sample or a feature would be missing, one is kept: a random one, or for
    "threshold" the one nearest to its threshold in terms of ranks. The probabilities of
    "completely_at_random" account for this in samples, but not in features, where it is rare. With
    "threshold" the fraction becomes smaller.

    References
    ----------
    Rubin, "Inference and Missing Data", Biometrika 1976.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.datasets import make_missing
    >>> make_missing([[0.0, 7.0], [2.0, 1.0], [4.0, 3.0], [6.0, 5.0]], 0.25, "threshold")
    array([[nan,  7.],
           [ 2., nan],
           [ 4.,  3.],
           [ 6.,  5.]])
    """
    check_choice("mechanism", mechanism, MECHANISMS)
    check_choice("side", side, SIDES)
    check_real("fraction", fraction, at_least=0)
    refuse_dask("make_missing", X)
    X = check_array(readable(X), dtype=list(FLOAT_DTYPES), ensure_all_finite="allow-nan", copy=True)
    observed = ~np.isnan(X)
    for axis, line in ((1, "row"), (0, "column")):
        for empty in np.flatnonzero(~observed.any(axis=axis)):
            raise ValueError(
                f"X must have a value in each row and column, but {line} {empty} has none."
            )
    number = fraction * np.count_nonzero(observed)
    if mechanism == "threshold":
        _check_number(number, observed, max(X.shape))
        missing, key = _beyond_threshold(X, fraction, side)
    else:
        key = check_random_state(random_state).uniform(size=X.shape)
        if mechanism == "completely_at_random":
            _check_number(number, observed, max(X.shape))
            probability: Any = _constant_probability(observed, number)
        else:
            driver = _driver(X, depends_on)
            candidates = np.delete(observed, depends_on, axis=1)
            most_kept = np.count_nonzero(observed[:, depends_on]) + candidates.shape[1]
            _check_number(number, observed, most_kept)
            probability = _probability_given(driver, candidates, number)
            key[:, depends_on] = 1.0
        missing = key < probability
    X[_keep_one(missing, observed, key)] = np.nan
    return X


def _check_number(number: float, observed: np.ndarray, kept: int) -> None:
    """Raise ValueError if `number` values cannot be missing while `kept` values remain."""
    total = np.count_nonzero(observed)
    if number > (total - kept) * (1 + 1e-12):
        raise ValueError(
            f"fraction must be at most {(total - kept) / total:.6g} for X of shape "
            f"{observed.shape} with {total} values, because each row and column keeps a value, "
            f"got {number / total:.6g}."
        )


def _constant_probability(observed: np.ndarray, number: float) -> float:
    """Return the probability with which `number` values are missing on average.

    A row of m values loses m p - p^m values on average, as it keeps one instead of losing all.
    """
    sizes, rows = np.unique(observed.sum(axis=1), return_counts=True)

    def excess(p: float) -> float:
        return float(rows @ (sizes * p - p**sizes)) - number

    return float(brentq(excess, 0.0, 1.0)) if excess(1.0) > 0.0 else 1.0


def _driver(X: np.ndarray, depends_on: int) -> np.ndarray:
    """Return the standardized feature `depends_on`."""
    if not (is_integer(depends_on) and 0 <= depends_on < X.shape[1]):
        raise ValueError(
            f"depends_on must be an index of one of the {X.shape[1]} features, got {depends_on!r}."
        )
    driver = X[:, depends_on].astype(np.float64)
    if np.isnan(driver).any() or np.ptp(driver) == 0.0:
        raise ValueError(
            "depends_on must be the index of a feature that varies and has no NaN, got "
            f"{depends_on}, whose values are from {np.nanmin(driver)} to {np.nanmax(driver)}, with "
            f"{np.count_nonzero(np.isnan(driver))} NaN."
        )
    return (driver - driver.mean()) / driver.std()


def _probability_given(driver: np.ndarray, candidates: np.ndarray, number: float) -> np.ndarray:
    """Return probabilities, logistic in the driver, for `number` missing values on average."""
    sizes = candidates.sum(axis=1)

    def excess(intercept: float) -> float:
        return float(sizes @ expit(intercept + SLOPE * driver)) - number

    # Far enough that every probability is rounded to 0 or 1.
    far = 40.0 + SLOPE * float(np.abs(driver).max())
    intercept = float(brentq(excess, -far, far)) if excess(-far) < 0.0 else -far
    return expit(intercept + SLOPE * driver)[:, None] if number else np.zeros((len(driver), 1))


def _beyond_threshold(X: np.ndarray, fraction: float, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of the values beyond the thresholds, and ranks relative to the largest."""
    Y = X if side == "below" else -X
    missing = np.nanquantile(Y, fraction, axis=0, method="nearest") > Y
    ranks = rankdata(Y, axis=0, nan_policy="omit")
    return missing, ranks / np.nanmax(ranks, axis=0)


def _keep_one(missing: np.ndarray, observed: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Unmask the value with the largest key in each row and column that would lose all."""
    key = np.where(observed, key, -1.0)
    missing = missing & observed
    for axis in (1, 0):
        lost = np.flatnonzero(~(observed & ~missing).any(axis=axis))
        kept = np.argmax(key, axis=axis)[lost]
        missing[(lost, kept) if axis else (kept, lost)] = False
    return missing
