"""KMO and Bartlett's test against definitions by regressions and determinants."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LinearRegression

from sklearn_vae import Moments
from sklearn_vae.diagnostics import bartlett_sphericity, kmo

X = load_wine().data


def partial_correlation(X, i, j):
    """Correlation of the residuals of two features given all others."""
    others = np.delete(X, [i, j], axis=1)
    residuals = X[:, [i, j]] - LinearRegression().fit(others, X[:, [i, j]]).predict(others)
    return np.corrcoef(residuals.T)[0, 1]


def test_kmo_is_made_of_partial_correlations():
    d = X.shape[1]
    off = ~np.eye(d, dtype=bool)
    R = np.corrcoef(X.T)
    Q = np.zeros((d, d))
    for i in range(d):
        for j in range(i):
            Q[i, j] = Q[j, i] = partial_correlation(X, i, j)
    result = kmo(X)
    r, q = (R * off) ** 2, Q**2
    assert result.overall == pytest.approx(r.sum() / (r.sum() + q.sum()), rel=1e-9)
    np.testing.assert_allclose(result.per_feature, r.sum(0) / (r.sum(0) + q.sum(0)), rtol=1e-9)
    assert str(result) == "KMO 0.779 (middling)"


def test_sphericity_is_a_determinant():
    n, d = X.shape
    result = bartlett_sphericity(X)
    expected = -(n - 1 - (2 * d + 5) / 6) * np.log(np.linalg.det(np.corrcoef(X.T)))
    assert result.statistic == pytest.approx(expected, rel=1e-9)
    assert result.n_degrees == d * (d - 1) / 2
    assert result.p_value == stats.chi2.sf(result.statistic, result.n_degrees)


def test_p_values_are_uniform_without_correlations():
    rng = np.random.default_rng(0)
    p = [bartlett_sphericity(rng.normal(size=(60, 5))).p_value for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("function", [kmo, bartlett_sphericity])
def test_units_containers_and_moments_change_nothing(function):
    expected = str(function(X))
    scaled = X * np.geomspace(1e-8, 1e8, X.shape[1]) + 1.0
    for data in (scaled, pd.DataFrame(X), X.tolist(), Moments.of(X[:90]) + Moments.of(X[90:])):
        assert str(function(data)) == expected


@pytest.mark.parametrize("function", [kmo, bartlett_sphericity])
def test_errors(function):
    iris = load_iris().data
    with pytest.raises(ValueError, match="column 4 is constant"):
        function(np.c_[iris, np.full(150, 0.1)])
    with pytest.raises(ValueError, match=r"full rank, but those of X, with 150 samples of 5 feat"):
        function(np.c_[iris, iris.sum(axis=1)])
    with pytest.raises(ValueError, match=r"needs X without missing values, got NaN\. Drop"):
        function(np.where(iris > 7.0, np.nan, iris))


def test_uncorrelated_features_have_no_factors():
    result = kmo(Moments(10.0, np.zeros(3), np.eye(3) * 10.0))
    assert result.overall == 0.0
    assert str(result) == "KMO 0.000 (unacceptable)"
    assert bartlett_sphericity(Moments(10.0, np.zeros(3), np.eye(3) * 10.0)).p_value == 1.0
