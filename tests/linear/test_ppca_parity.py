"""PPCA against sklearn.decomposition.PCA: what must agree, and what must not."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA

from sklearn_vae import PPCA
from sklearn_vae.gaussian.eigensolvers import choose_solver

SHARED = [
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
    "mean_",
    "n_components_",
    "n_samples_",
    "n_features_in_",
]


def wide_rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 4)) @ rng.normal(size=(4, 150)) + 0.3 * rng.normal(size=(60, 150))


DATA = {
    "iris": load_iris().data,
    "wine": load_wine().data,
    "diabetes": load_diabetes().data,
    "breast_cancer": load_breast_cancer().data,
    "digits": load_digits().data,
    "wide": wide_rows(),
}


def assert_parity(model, pca, X, rtol):
    for name in SHARED:
        found, expected = getattr(model, name), getattr(pca, name)
        # The mean of centred data is rounding error of the size of the data's.
        scale = np.abs(X if name == "mean_" else expected).max()
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale, err_msg=name)
        assert np.asarray(found).dtype == np.asarray(expected).dtype


@pytest.mark.cover(1)
@pytest.mark.parametrize("solver", ["auto", "full", "covariance_eigh", "arpack", "randomized"])
@pytest.mark.parametrize("data", DATA)
def test_fitted_attributes_agree(data, solver):
    X = DATA[data]
    parameters = {"n_components": 3, "svd_solver": solver, "random_state": 0}
    model, pca = PPCA(**parameters).fit(X), PCA(**parameters).fit(X)
    if solver == "randomized" and len(X) >= X.shape[1]:
        # Both are approximations from one subspace, in which ours finds the larger variances.
        exact = PPCA(3, svd_solver="full").fit(X)
        slack = 1 + 1e-12
        assert (model.explained_variance_ <= exact.explained_variance_ * slack).all()
        assert (model.explained_variance_ * slack >= pca.explained_variance_).all()
        off = [np.abs(m.components_ - exact.components_).max() for m in (model, pca)]
        assert off[0] <= 1.1 * off[1] + 1e-12
        return
    # PCA multiplies out X'X before it centres: that costs it digits where the means are large.
    assert_parity(model, pca, X, 1e-8 if solver in ("auto", "covariance_eigh") else 1e-11)


@pytest.mark.cover(2)
@pytest.mark.parametrize("n_components", [None, 0, 2, 0.5, 0.95, "mle"])
@pytest.mark.parametrize("solver", ["auto", "full", "covariance_eigh"])
@pytest.mark.parametrize("data", ["iris", "wine", "diabetes", "breast_cancer"])
def test_n_components_means_the_same(data, solver, n_components):
    X = DATA[data]
    if n_components is None:
        X = X[:, :10]
    model = PPCA(n_components, svd_solver=solver).fit(X)
    pca = PCA(n_components, svd_solver=solver).fit(X)
    assert model.n_components_ == pca.n_components_
    np.testing.assert_allclose(
        model.explained_variance_, pca.explained_variance_, rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("solver", ["arpack", "randomized"])
def test_none_means_the_same_for_truncated_solvers(solver):
    X = DATA["wine"]
    model = PPCA(svd_solver=solver, random_state=0).fit(X)
    assert model.n_components_ == PCA(svd_solver=solver, random_state=0).fit(X).n_components_


@pytest.mark.parametrize(
    ("shape", "n_components", "solver"),
    [
        ((600, 60), 5, "covariance_eigh"),
        ((400, 450), 5, "full"),
        ((599, 60), 48, "full"),
        ((599, 60), None, "full"),
        ((599, 60), "mle", "full"),
        ((599, 60), 0.5, "full"),
    ],
)
def test_auto_chooses_as_pca_does(shape, n_components, solver):
    X = np.broadcast_to(0.0, shape)
    assert choose_solver(X, n_components, "auto") == solver
    if max(shape) < 1000:
        X = np.random.default_rng(0).normal(size=shape)
        assert PCA(n_components).fit(X)._fit_svd_solver == solver


@pytest.mark.parametrize(
    ("X", "n_components", "solver"),
    [
        (np.broadcast_to(0.0, (60, 600)), 5, "covariance_eigh"),
        (np.broadcast_to(0.0, (60, 600)), None, "covariance_eigh"),
        (sparse.csr_array((60, 70)), None, "covariance_eigh"),
        (np.broadcast_to(0.0, (599, 60)), 5, "covariance_eigh"),
        (np.broadcast_to(0.0, (20_000, 4000)), 5, "covariance_eigh"),
        (np.broadcast_to(0.0, (4000, 20_000)), 5, "covariance_eigh"),
        (np.broadcast_to(0.0, (4001, 20_000)), 5, "lanczos"),
        (sparse.csr_array((1001, 1500)), 5, "arpack"),
        (sparse.csr_array((1001, 1500)), 0.5, "covariance_eigh"),
        (sparse.csr_array((1001, 1500)), 900, "covariance_eigh"),
    ],
)
def test_auto_where_pca_chooses_otherwise(X, n_components, solver):
    assert choose_solver(X, n_components, "auto") == solver
    assert choose_solver(X, n_components, "full") == "full"


@pytest.mark.parametrize("coordinates", ["principal", "whitened"])
@pytest.mark.parametrize("data", DATA)
def test_coordinates_and_inverse_agree(data, coordinates):
    X = DATA[data]
    model = PPCA(4, coordinates=coordinates, svd_solver="full").fit(X)
    pca = PCA(4, whiten=coordinates == "whitened", svd_solver="full").fit(X)
    Z = pca.transform(X)
    atol = 1e-10 * np.abs(Z).max()
    np.testing.assert_allclose(model.transform(X), Z, rtol=1e-9, atol=atol)
    np.testing.assert_allclose(model.fit_transform(X), pca.fit_transform(X), rtol=1e-9, atol=atol)
    np.testing.assert_allclose(
        model.inverse_transform(Z), pca.inverse_transform(Z), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("solver", ["full", "arpack"])
def test_whitening_without_variance_is_guarded_as_pca_guards_it(solver):
    X = np.random.default_rng(0).normal(size=(9, 2)) @ np.ones((2, 6))
    parameters = {"n_components": 4, "svd_solver": solver, "random_state": 0}
    model = PPCA(**parameters, coordinates="whitened").fit(X)
    new, eps = np.random.default_rng(1).normal(size=(5, 6)), np.finfo(float).eps
    assert (model.explained_variance_[2:] < eps**2).all()
    projection = (new - model.mean_) @ model.components_.T
    np.testing.assert_allclose(model.transform(new)[:, 2:], projection[:, 2:] / eps, rtol=1e-9)
    np.testing.assert_allclose(
        model.transform(X)[:, 0], PCA(**parameters, whiten=True).fit(X).transform(X)[:, 0]
    )


def test_coordinates_change_nothing_else():
    X = DATA["wine"]
    models = [PPCA(3, coordinates=c).fit(X) for c in ("posterior", "principal", "whitened")]
    for model in models[1:]:
        np.testing.assert_array_equal(model.score_samples(X), models[0].score_samples(X))
        np.testing.assert_array_equal(model.posterior(X)[0], models[0].posterior(X)[0])
        np.testing.assert_array_equal(model.sample(2, 0)[0], models[0].sample(2, 0)[0])
    np.testing.assert_allclose(models[0].transform(X), models[0].posterior(X)[0], rtol=1e-12)


@pytest.mark.parametrize("data", ["iris", "wine", "breast_cancer"])
def test_score_differs_by_the_divisor_where_n_exceeds_d(data):
    # With the eigenvalues n / (n - 1) larger, PCA's model is ours for data scaled so.
    X = DATA[data]
    n = len(X)
    pca, model = PCA(2, svd_solver="full").fit(X), PPCA(2, svd_solver="full").fit(X)
    assert pca.noise_variance_ == pytest.approx(model.noise_variance_ * n / (n - 1), rel=1e-9)
    scaled = PPCA(2, svd_solver="full").fit((X - X.mean(axis=0)) * (n / (n - 1)) ** 0.5)
    expected = scaled.score_samples(X - X.mean(axis=0))
    np.testing.assert_allclose(pca.score_samples(X), expected, rtol=1e-7)
    assert model.score(X) > pca.score(X)


@pytest.mark.cover(2)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("solver", ["full", "arpack", "randomized"])
def test_log_likelihood_is_never_below_that_of_pca(data, k, solver):
    X = DATA[data]
    k = min(k, X.shape[1] - 1)
    parameters = {"n_components": k, "svd_solver": solver, "random_state": 0}
    assert PPCA(**parameters).fit(X).score(X) > PCA(**parameters).fit(X).score(X)


def test_the_noise_of_wide_data_is_not_that_of_pca():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 50)) * 3 + 0.5 * rng.normal(size=(20, 50))
    ours, theirs = PPCA(3).fit(X).noise_variance_, PCA(3).fit(X).noise_variance_
    # (n - 1) against n, and min(n, d) - k against d - k directions.
    assert theirs / ours == pytest.approx((20 / 19) * (47 / 17), rel=1e-9)
