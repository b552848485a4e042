"""Tests of whether the correlations of data are suitable for factor analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg
from scipy.stats import chi2

from sklearn_vae.containers import to_array, to_host
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.notebook_text import NotebookText
from sklearn_vae.protocol import Array
from sklearn_vae.validation import refuse_dask, refuse_nan

# Lower bounds of Kaiser's names for the overall measure (Kaiser, 1974).
NAMES = (
    (0.9, "marvelous"),
    (0.8, "meritorious"),
    (0.7, "middling"),
    (0.6, "mediocre"),
    (0.5, "miserable"),
    (0.0, "unacceptable"),
)


@dataclass(frozen=True, eq=False)
class SamplingAdequacy(NotebookText):
    """Kaiser-Meyer-Olkin measure of sampling adequacy.

    Attributes
    ----------
    overall : float
        Measure of all features, between 0 and 1.
    per_feature : ndarray of shape (n_features,)
        Measure of each feature.

    See Also
    --------
    kmo : Compute the measure.

    Examples
    --------
    >>> from sklearn_vae.diagnostics import SamplingAdequacy
    >>> print(SamplingAdequacy(0.84, None))
    KMO 0.840 (meritorious)
    """

    overall: float
    per_feature: Array

    def __str__(self) -> str:
        name = next(name for least, name in NAMES if self.overall >= least)
        return f"KMO {self.overall:.3f} ({name})"


@dataclass(frozen=True)
class SphericityTest(NotebookText):
    """Bartlett's test of the hypothesis that all correlations are 0.

    Attributes
    ----------
    statistic : float
        Statistic, about chi-squared with `n_degrees` degrees of freedom if the hypothesis is true.
    p_value : float
        Probability of a larger statistic if the hypothesis is true.
    n_degrees : int
        Degrees of freedom, d (d - 1) / 2.

    See Also
    --------
    bartlett_sphericity : Run the test.

    Examples
    --------
    >>> from sklearn_vae.diagnostics import SphericityTest
    >>> print(SphericityTest(12.0, 0.007, 3))
    Chi-squared 12.0 with 3 degrees of freedom, p = 0.007
    """

    statistic: float
    p_value: float
    n_degrees: int

    def __str__(self) -> str:
        degrees = f"{self.n_degrees} degree{'s' * (self.n_degrees != 1)} of freedom"
        return f"Chi-squared {self.statistic:.1f} with {degrees}, p = {self.p_value:.2g}"


def kmo(X: Any) -> SamplingAdequacy:
    """Compute the Kaiser-Meyer-Olkin measure of sampling adequacy.

    It is the sum of the squared correlations divided by the sum of the squared correlations and
    squared partial correlations of the same pairs of features. If factors explain the correlations,
    the partial correlations are small.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features) or Moments
        Samples without missing values, more than features, or their moments.

    Returns
    -------
    SamplingAdequacy
        Measure of all features and of each feature.

    Raises
    ------
    TypeError
        If X is a Dask collection.
    ValueError
        If X is not finite, a feature is constant, or the correlations are singular.

    See Also
    --------
    bartlett_sphericity : Test whether there are any correlations.
    sklearn_vae.FactorAnalysis : The model for which the measure is meant.

    References
    ----------
    Kaiser and Rice, "Little Jiffy, Mark IV", Educational and Psychological Measurement 1974.

    Kaiser, "An index of factorial simplicity", Psychometrika 1974 (names of the levels).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae.diagnostics import kmo
    >>> print(kmo(load_iris().data))
    KMO 0.540 (miserable)
    """
    R, _ = _correlations(X, "kmo")
    precision = linalg.inv(R, check_finite=False)
    scale = np.sqrt(np.diagonal(precision))
    partial = precision / scale / scale[:, None]
    squares, partial_squares = R**2, partial**2
    for matrix in (squares, partial_squares):
        np.fill_diagonal(matrix, 0.0)
    shared, left = squares.sum(axis=0), partial_squares.sum(axis=0)
    total = shared + left
    # Features without any correlation have no factors.
    per_feature = np.divide(shared, total, out=np.zeros_like(total), where=total > 0.0)
    overall = float(shared.sum() / total.sum()) if total.sum() > 0.0 else 0.0
    return SamplingAdequacy(overall, per_feature)


def bartlett_sphericity(X: Any) -> SphericityTest:
    """Test whether all correlations of the features are 0, by Bartlett's approximation.

    The statistic is ``-(n - 1 - (2 d + 5) / 6) log det R`` for the correlations R of d normal
    features. With many samples the hypothesis is nearly always rejected, so the test tells little
    about factors.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features) or Moments
        Samples without missing values, more than features, or their moments.

    Returns
    -------
    SphericityTest
        Statistic, p-value and degrees of freedom.

    Raises
    ------
    TypeError
        If X is a Dask collection.
    ValueError
        If X is not finite, a feature is constant, or the correlations are singular.

    See Also
    --------
    kmo : Measure of the share of correlation that factors can explain.

    References
    ----------
    Bartlett, "Tests of significance in factor analysis", British Journal of Psychology 1950.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae.diagnostics import bartlett_sphericity
    >>> print(bartlett_sphericity(load_iris().data))
    Chi-squared 707.0 with 6 degrees of freedom, p = 1.9e-149
    """
    R, n = _correlations(X, "bartlett_sphericity")
    d = len(R)
    root = linalg.cholesky(R, lower=True, check_finite=False)
    log_det = 2.0 * float(np.log(np.diagonal(root)).sum())
    statistic = max(-(n - 1.0 - (2 * d + 5) / 6.0) * log_det, 0.0)
    n_degrees = d * (d - 1) // 2
    p_value = float(chi2.sf(statistic, n_degrees)) if n_degrees else 1.0
    return SphericityTest(statistic, p_value, n_degrees)


def _correlations(X: Any, function: str) -> tuple[Array, float]:
    """Return the regular correlation matrix of samples or moments, and the number of samples."""
    refuse_dask(function, X)
    if not isinstance(X, Moments):
        X = to_array(X)
        refuse_nan(function, X, "Drop incomplete samples, or fill them with PPCAImputer.")
    moments = X if isinstance(X, Moments) else Moments.of(X)
    S = to_host(moments.covariance).astype(np.float64)
    variances = np.diagonal(S)
    rounding = moments.precision.rounding(to_host(moments.mean), variances, moments.count)
    constant = np.flatnonzero(variances <= 4.0 * rounding)
    if constant.size:
        raise ValueError(
            f"X must have features that vary, but column {constant[0]} is constant. Drop it."
        )
    scale = np.sqrt(variances)
    R = S / scale / scale[:, None]
    if np.linalg.eigvalsh(R)[0] <= len(R) * 2.0**-52 * 10.0:
        raise ValueError(
            f"{function} needs correlations of full rank, but those of X, with {moments.n:g} samples "
            f"of {len(R)} features, are singular. Use more samples, or drop features that are linear "
            "functions of others."
        )
    return R, moments.n
