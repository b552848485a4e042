"""Values made missing, by mechanisms whose consequences differ."""

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
# Change of the log-odds of being missing with one standard deviation of the feature it depends on.
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
    """A copy of X in which values are missing; no row and no column is wholly so.

    ==========================  ===================================================================
    mechanism                   what is missing
    ==========================  ===================================================================
    ``"completely_at_random"``  Every value with the same probability, whatever the values are.
    ``"at_random"``             The log-odds of being missing grow linearly, by 2 a standard
                                deviation, with the value of feature `depends_on`, which is always
                                observed; given that one, they depend on no other. What is fitted
                                by likelihood to the rest is not biased; averages of it are.
    ``"threshold"``             Of each feature the values below its quantile of `fraction`, as
                                below a limit of detection, or those above its quantile of
                                1 - `fraction`. Nothing is drawn. Whether a value is missing
                                depends on the value itself, so that any model that leaves this
                                out is biased.
    ==========================  ===================================================================

    Parameters
    ----------
    X : array-like of shape (n, d)
        NaN that it has are kept. Every row and every column must have a value.
    fraction : float, default=0.1
        The share of the observed values of X, all features together, that goes missing: expected
        where it is drawn, reached up to ties and rounding by the threshold.
    mechanism : {"completely_at_random", "at_random", "threshold"}
        See above.
    depends_on : int, default=0
        Index of the feature that being missing at random depends on, without NaN in X.
    side : {"below", "above"}, default="below"
        Side of the threshold on which values are missing.
    random_state : int, RandomState instance or None, default=None
        Of what is missing.

    Returns
    -------
    ndarray of shape (n, d)
        float32 where X is, else float64. ``np.isnan`` of it says what is missing.

    Raises
    ------
    TypeError
        If X is a Dask array or DataFrame, all of which would be gathered.
    ValueError
        If a parameter is out of its range, X has a row or column without a value, feature
        `depends_on` has NaN or is constant, or so many cannot be missing where each row and each
        column keeps one value.

    Notes
    -----
    Of a row or column that would be wholly missing one value is kept. Drawn completely at random
    it is any of them, and rows are allowed for, so that the expected share is `fraction` still; a
    column is lost with a probability of about ``fraction ** n``, which is not. Under a threshold it
    is the value of the row that is nearest to its threshold in the ranks of its feature, and the
    share is smaller.

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
                f"X must have a value in each row and column, {line} {empty} has none."
            )
    number = fraction * np.count_nonzero(observed)
    if mechanism == "threshold":
        _check_number(number, observed, max(X.shape))
        gone, key = _beyond_threshold(X, fraction, side)
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
        gone = key < probability
    X[_with_one_kept(gone, observed, key)] = np.nan
    return X


def _check_number(number: float, observed: np.ndarray, kept: int) -> None:
    """Raise ValueError if so many cannot be missing where `kept` values are needed."""
    total = np.count_nonzero(observed)
    if number > (total - kept) * (1 + 1e-12):
        raise ValueError(
            f"fraction must be at most {(total - kept) / total:.6g} for X of shape "
            f"{observed.shape} with {total} values, where each row and column keeps one, got "
            f"{number / total:.6g}."
        )


def _constant_probability(observed: np.ndarray, number: float) -> float:
    """Probability with which `number` values are missing on average.

    A row of m values loses m p - p^m of them: it keeps one where it would lose all.
    """
    sizes, rows = np.unique(observed.sum(axis=1), return_counts=True)

    def excess(p: float) -> float:
        return float(rows @ (sizes * p - p**sizes)) - number

    return float(brentq(excess, 0.0, 1.0)) if excess(1.0) > 0.0 else 1.0


def _driver(X: np.ndarray, depends_on: int) -> np.ndarray:
    """The feature that being missing depends on, in standard deviations about its mean."""
    if not (is_integer(depends_on) and 0 <= depends_on < X.shape[1]):
        raise ValueError(
            f"depends_on must be the index of one of the {X.shape[1]} features, got {depends_on!r}."
        )
    driver = X[:, depends_on].astype(np.float64)
    if np.isnan(driver).any() or np.ptp(driver) == 0.0:
        raise ValueError(
            "depends_on must be the index of a feature that varies and has no NaN, got "
            f"{depends_on}, with values from {np.nanmin(driver)} to {np.nanmax(driver)} and "
            f"{np.count_nonzero(np.isnan(driver))} NaN."
        )
    return (driver - driver.mean()) / driver.std()


def _probability_given(driver: np.ndarray, candidates: np.ndarray, number: float) -> np.ndarray:
    """Probabilities of shape (n, 1), logistic in the driver, with `number` expected to go."""
    sizes = candidates.sum(axis=1)

    def excess(intercept: float) -> float:
        return float(sizes @ expit(intercept + SLOPE * driver)) - number

    # So far out that every probability is 0 or 1 to rounding.
    far = 40.0 + SLOPE * float(np.abs(driver).max())
    intercept = float(brentq(excess, -far, far)) if excess(-far) < 0.0 else -far
    return expit(intercept + SLOPE * driver)[:, None] if number else np.zeros((len(driver), 1))


def _beyond_threshold(X: np.ndarray, fraction: float, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the values beyond the thresholds of their features, and ranks as shares."""
    Y = X if side == "below" else -X
    gone = np.nanquantile(Y, fraction, axis=0, method="nearest") > Y
    ranks = rankdata(Y, axis=0, nan_policy="omit")
    return gone, ranks / np.nanmax(ranks, axis=0)


def _with_one_kept(gone: np.ndarray, observed: np.ndarray, key: np.ndarray) -> np.ndarray:
    """`gone`, less the value of the largest key of each row and column that would lose all."""
    key = np.where(observed, key, -1.0)
    gone = gone & observed
    for axis in (1, 0):
        lost = np.flatnonzero(~(observed & ~gone).any(axis=axis))
        kept = np.argmax(key, axis=axis)[lost]
        gone[(lost, kept) if axis else (kept, lost)] = False
    return gone
