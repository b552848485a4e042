"""PPCACV against PPCA in each fold and a longdouble oracle, on data whose variances differ much."""

from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import KFold, ShuffleSplit

from sklearn_vae import PPCA, PPCACV
from tests.helpers import to_numpy

NOISES = (None, 0.5)


def jacobi(A):
    """Rotate the columns of A until they are orthogonal (one-sided Jacobi), longest first.

    Returns the rotated columns and the rotation.
    """
    n, d = A.shape
    # The rotation is applied to the identity as well.
    A = np.concatenate([A.astype(np.longdouble), np.eye(d, dtype=np.longdouble)])
    changed = True
    while changed:
        changed = False
        for p in range(d - 1):
            for q in range(p + 1, d):
                a, b, c = (A[:n, i] @ A[:n, j] for i, j in ((p, p), (q, q), (p, q)))
                if abs(c) <= 1e-17 * np.sqrt(a * b):
                    continue
                changed = True
                z = (b - a) / (2 * c)
                t = np.where(z < 0, -1, 1) / (abs(z) + np.sqrt(1 + z * z))
                cosine = 1 / np.sqrt(1 + t * t)
                A[:, [p, q]] = A[:, [p, q]] @ (cosine * np.array([[1, t], [-t, 1]]))
    A = A[:, np.argsort((A[:n] ** 2).sum(axis=0))[::-1]]
    return A[:n], A[n:]


def assert_close(scores, expected, d):
    """Compare in nats per feature: a score is a sum of terms of both signs, and may be near 0."""
    np.testing.assert_allclose(scores, expected, rtol=1e-10, atol=1e-11 * d)


def oracle(X, train, test, ks, weights=None):
    """Held-out log-likelihood per candidate from the formulas, in extended precision."""
    X = X.astype(np.longdouble)
    w = np.ones(len(X)) if weights is None else weights
    w, v = w[train] / w[train].sum(), w[test] / w[test].sum()
    R, T = (X[chosen] - w @ X[train] for chosen in (train, test))
    r = min(len(train) - 1, X.shape[1])
    R *= w[:, None] ** 0.5
    if len(train) > X.shape[1]:
        axes, V = jacobi(R)
    else:
        axes = jacobi(R.T)[0][:, :r]
        V = axes / (axes * axes).sum(axis=0) ** 0.5
    eigenvalues = (axes * axes).sum(axis=0)
    Y = T @ V
    residuals = ((T - Y @ V.T) ** 2).sum(axis=1)
    t, rest, d = v @ Y**2, v @ residuals, X.shape[1]
    scores = []
    for k in ks:
        for noise in NOISES:
            if noise is None:
                noise = eigenvalues[k:].sum() / (d - k)
            kept = min(k, r)
            kappa = np.maximum(eigenvalues[:kept], noise)
            terms = np.log(kappa).sum() + (t[:kept] / kappa).sum() + d * np.log(2 * np.pi)
            scores.append(
                -0.5 * (terms + (d - kept) * np.log(noise) + (t[kept:].sum() + rest) / noise)
            )
    return np.array(scores, dtype=float)


def rotated(rng, n, d):
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.geomspace(1e6, 1, d) @ Q


@cache
def data_set(name):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(18, 4)) @ rng.normal(size=(4, 40)) + 0.3 * rng.normal(size=(18, 40))
    tall = rng.normal(size=(90, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(90, 8))
    cancer = load_breast_cancer().data
    return {
        "breast cancer": cancer[::3],
        "breast cancer, n < d": cancer[:24],
        "one variance of 1e12": tall * np.r_[1e6, np.ones(7)],
        "one variance of 1e12, n < d": few * np.r_[1e6, np.ones(39)],
        "rotated": rotated(rng, 90, 8),
        "rotated, n < d": rotated(rng, 18, 40),
        "graded": tall * np.geomspace(0.1, 1e4, 8),
    }[name]


NAMES = (
    "breast cancer",
    "breast cancer, n < d",
    "one variance of 1e12",
    "one variance of 1e12, n < d",
    "rotated",
    "rotated, n < d",
    "graded",
)


def candidates(X, splits):
    rank = min(X.shape[1], min(len(train) for train, _ in splits) - 1)
    return sorted({0, 1, rank // 2, rank - 2, rank - 1})


@pytest.mark.some(4)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_scores_of_graded_data(name, weighted):
    X = data_set(name)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=len(X)) if weighted else None
    splits = list(KFold(2).split(X))
    ks = candidates(X, splits)
    model = PPCACV(ks, noise_variance=NOISES, cv=splits).fit(X, sample_weight=weights)
    for i, (train, test) in enumerate(splits):
        scores = model.cv_results_[f"split{i}_test_score"]
        assert_close(scores, oracle(X, train, test, ks, weights), X.shape[1])
        if not weighted:
            refitted = [
                PPCA(k, noise_variance=s, svd_solver="full").fit(X[train]).score(X[test])
                for k in ks
                for s in NOISES
            ]
            assert_close(scores, refitted, X.shape[1])


@pytest.mark.parametrize("name", ["breast cancer", "one variance of 1e12", "graded"])
def test_ppca_by_the_covariance_has_the_digits_of_features_with_small_variances(name):
    X = data_set(name)
    splits = list(KFold(2).split(X))
    ks = candidates(X, splits)
    train, test = splits[0]
    models = [
        PPCA(k, noise_variance=s, svd_solver="covariance_eigh").fit(X[train])
        for k in ks
        for s in NOISES
    ]
    scores = [model.score(X[test]) for model in models]
    assert_close(scores, oracle(X, train, test, ks), X.shape[1])


@pytest.mark.parametrize("name", ["rotated", "rotated, n < d"])
def test_splits_that_overlap_or_repeat_samples(name):
    X = data_set(name)
    rng = np.random.default_rng(0)
    n = len(X)
    overlapping = list(ShuffleSplit(3, test_size=0.3, random_state=0).split(X))
    repeated = [(rng.integers(0, n, n - 3), rng.integers(0, n, 5)) for _ in range(2)]
    for splits in (overlapping, repeated):
        rank = min(len(np.unique(train)) for train, _ in splits) - 2
        ks = [0, 2, min(rank, X.shape[1] - 1)]
        model = PPCACV(ks, cv=splits).fit(X)
        for i, (train, test) in enumerate(splits):
            refitted = [PPCA(k, svd_solver="full").fit(X[train]).score(X[test]) for k in ks]
            np.testing.assert_allclose(
                model.cv_results_[f"split{i}_test_score"], refitted, rtol=1e-10
            )


@pytest.mark.parametrize("name", ["rotated", "rotated, n < d"])
def test_arrays_of_other_libraries(name, asarray):
    X = data_set(name)
    expected = PPCACV([0, 2, 5]).fit(X).cv_results_
    found = PPCACV([0, 2, 5]).fit(asarray(X)).cv_results_
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(to_numpy(found[key]), expected[key], rtol=1e-9)


def test_default_solver_has_the_digits_of_the_full_decomposition():
    X = load_breast_cancer().data
    train, test = next(iter(KFold(5).split(X)))
    methods = set()
    for k in (1, 5, 10, 20, 29):
        model, full = (PPCA(k, svd_solver=s).fit(X[train]) for s in ("auto", "full"))
        methods.add(model.certificate_.method)
        assert model.noise_variance_ == pytest.approx(full.noise_variance_, rel=1e-11)
        assert model.score(X[test]) == pytest.approx(full.score(X[test]), rel=1e-11)
    assert "deflated covariances" in methods


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_final_model_of_graded_data(name, weighted):
    X = data_set(name)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=len(X)) if weighted else None
    k = max(candidates(X, list(KFold(2).split(X))))
    model = PPCACV([k], cv=2).fit(X, sample_weight=weights)
    full = PPCA(k, svd_solver="full").fit(X, sample_weight=weights)
    assert model.noise_variance_ == pytest.approx(full.noise_variance_, rel=1e-10)
    assert model.elbo_ == pytest.approx(full.elbo_, rel=1e-11)
    np.testing.assert_allclose(model.score_samples(X), full.score_samples(X), rtol=1e-7)


def test_the_unit_of_weights_does_not_matter_where_the_mean_of_a_fold_is_far():
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(24, 30)), 32.0 * rng.uniform(0.5, 2.0, 24)
    X[:12] += 100.0
    splits = [(np.arange(12), np.arange(12, 24)), (np.arange(6, 24), np.arange(6))]
    model = PPCACV([1, 3], noise_variance=[0.5, None], cv=splits).fit(X, sample_weight=weights)
    for i, parameters in enumerate(model.cv_results_["params"]):
        for j, (train, test) in enumerate(splits):
            expected = PPCA(**parameters).fit(X[train], sample_weight=weights[train])
            score = expected.score(X[test], sample_weight=weights[test])
            found = model.cv_results_[f"split{j}_test_score"][i]
            assert found == pytest.approx(score, rel=1e-9)
