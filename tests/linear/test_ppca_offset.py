"""Data far from zero: no result depends on the origin or on the batches."""

from functools import cache, reduce
from operator import add

import numpy as np
import pytest
from scipy import sparse
from sklearn.model_selection import KFold

from sklearn_vae import PPCA, PPCACV, Moments
from tests.helpers import to_numpy


@cache
def samples(n=120, d=6, offset=1e8, dtype="f8"):
    """Samples at an offset, and the same samples minus their exact mean, rounded."""
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))
    X = (X + offset * np.linspace(1, 2, d)).astype(dtype)
    return X, (X.astype(np.longdouble) - X.astype(np.longdouble).mean(axis=0)).astype(float)


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize("offset", [1e6, 1e8, 1e11])
@pytest.mark.parametrize("size", [1, 7])
def test_moments_of_a_stream(asarray, offset, size):
    X, R = samples(60, offset=offset)
    moments = reduce(add, [Moments.of(asarray(X[i : i + size])) for i in range(0, len(X), size)])
    np.testing.assert_allclose(to_numpy(moments.scatter), R.T @ R, rtol=1e-12, atol=1e-12)
    mean = to_numpy(moments.mean).astype(np.longdouble) + to_numpy(moments.remainder)
    exact = X.astype(np.longdouble).mean(axis=0)
    np.testing.assert_allclose((mean - exact).astype(float), 0.0, atol=1e-18 * offset * 2)
    backwards = reduce(add, [Moments.of(asarray(x[None, :])) for x in X[::-1]])
    np.testing.assert_allclose(to_numpy(backwards.scatter), R.T @ R, rtol=1e-12, atol=1e-12)


@pytest.mark.some(2)
@pytest.mark.parametrize("offset", [1e6, 1e8, 1e11])
@pytest.mark.parametrize("n", [5, 120])
def test_scores_do_not_depend_on_the_origin_or_the_batches(n, offset):
    X, R = samples(n, offset=offset)
    expected = PPCA(2, svd_solver="full").fit(R).score_samples(R)
    for svd_solver in ("full", "covariance_eigh", "arpack"):
        model = PPCA(2, svd_solver=svd_solver).fit(X)
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-11)
        one_by_one = [model.score_samples(x[None, :])[0] for x in X]
        np.testing.assert_allclose(one_by_one, expected, rtol=1e-11)
    stream = PPCA(2)
    for x in X:
        stream.partial_fit(x[None, :])
    np.testing.assert_allclose(stream.score_samples(X), expected, rtol=1e-11)
    np.testing.assert_allclose(stream.components_, model.components_, atol=1e-11)
    assert stream.noise_variance_ == pytest.approx(model.noise_variance_, rel=1e-11)
    assert stream.elbo_ == pytest.approx(stream.score(X), rel=1e-11)


def test_sparse_samples_far_from_zero():
    X, R = samples()
    model = PPCA(2).fit(sparse.csr_array(X))
    expected = PPCA(2, svd_solver="full").fit(R).score_samples(R)
    np.testing.assert_allclose(model.score_samples(sparse.csr_array(X)), expected, rtol=1e-10)
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-10)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_float32_samples_far_from_zero(offset):
    X, R = samples(offset=offset, dtype="f4")
    expected = PPCA(2, svd_solver="full").fit(R).score_samples(R)
    for svd_solver in ("full", "covariance_eigh"):
        model = PPCA(2, svd_solver=svd_solver).fit(X)
        assert model.mean_.dtype == np.float32
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=3e-5)
        one_by_one = [model.score_samples(x[None, :])[0] for x in X]
        np.testing.assert_allclose(one_by_one, model.score_samples(X), rtol=3e-6)


def test_samples_with_missing_values_are_scored_about_the_same_mean():
    X, R = samples()
    model, centered = PPCA(2).fit(X), PPCA(2, svd_solver="full").fit(R)
    mask = np.zeros(X.shape, dtype=bool)
    mask[::2, 1] = True
    Y, Q = np.where(mask, np.nan, X), np.where(mask, np.nan, R)
    np.testing.assert_allclose(model.score_samples(Y), centered.score_samples(Q), rtol=1e-10)
    np.testing.assert_allclose(model.score_samples(Y)[1], model.score_samples(X)[1], rtol=1e-11)
    mean = X.astype(np.longdouble).mean(axis=0)
    for found, expected, origin in zip(
        model.impute(Y, return_std=True),
        centered.impute(Q, return_std=True),
        (mean, 0),
        strict=True,
    ):
        np.testing.assert_allclose((found - origin).astype(float), expected, atol=5e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [12, 60])
def test_cross_validation_far_from_zero(n, weighted):
    X, R = samples(n, d=20, offset=1e8)
    weights = np.random.default_rng(0).uniform(0.5, 2, n) if weighted else None
    splits, options = list(KFold(3).split(X)), {"noise_variance": [None, 0.5]}
    model = PPCACV([0, 2, 5], cv=splits, **options).fit(X, sample_weight=weights)
    centered = PPCACV([0, 2, 5], cv=splits, **options).fit(R, sample_weight=weights)
    for i, (train, test) in enumerate(splits):
        scores = model.cv_results_[f"split{i}_test_score"]
        np.testing.assert_allclose(scores, centered.cv_results_[f"split{i}_test_score"], rtol=1e-10)
        w, v = (None, None) if weights is None else (weights[train], weights[test])
        refitted = [
            PPCA(k, noise_variance=noise).fit(X[train], sample_weight=w).score(X[test], None, v)
            for k in (0, 2, 5)
            for noise in options["noise_variance"]
        ]
        np.testing.assert_allclose(scores, refitted, rtol=1e-10)
    np.testing.assert_allclose(model.score_samples(X), centered.score_samples(R), rtol=1e-10)
