"""certificate_, tol and the exactness of "auto" on fitted models."""

import functools
import pickle

import dask.array as da
import numpy as np
import pytest
from mpmath import mp
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import PPCA, PPCACV, Certificate, LinearVAE, Moments, Stationarity
from sklearn_vae.gaussian import eigensolvers
from tests.gaussian.test_certificate import truth

NOISE = {"tall": (700, 300), "wide": (300, 700), "square": (520, 520)}


@functools.cache
def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(NOISE[shape])


def error_of(model, X):
    """Error of the eigenvalues relative to the largest."""
    values = truth(X)[0]
    found = model.explained_variance_ * ((len(X) - 1) / len(X))
    return abs(found - values[: model.n_components_]).max() / values[0]


class TestAuto:
    @pytest.mark.some(1)
    @pytest.mark.parametrize("shape", NOISE)
    def test_exact_where_pca_is_not(self, shape):
        X = noise(shape)
        model, pca = PPCA(20).fit(X), PCA(20, random_state=0).fit(X)
        assert error_of(model, X) < 1e-13
        assert error_of(PPCA(20, svd_solver="randomized", random_state=0).fit(X), X) > 1e-2
        n = len(X)
        assert (pca.explained_variance_ * ((n - 1) / n))[-1] < 0.99 * truth(X)[0][19]
        values = truth(X)[0]
        assert model.noise_variance_ == pytest.approx(values[20:].sum() / (X.shape[1] - 20))
        certificate = model.certificate_
        assert (certificate.upper - certificate.lower).max() < 1e-9 * values[0]
        assert certificate.max_sine < 1e-7
        assert certificate.max_shortfall < 1e-9
        assert certificate.delta == 0.0

    @pytest.mark.some(1)
    @pytest.mark.parametrize("shape", ["tall", "wide"])
    @pytest.mark.parametrize("k", [1, 20])
    def test_iteration_where_the_matrix_would_be_large(self, shape, k, monkeypatch):
        monkeypatch.setattr(eigensolvers, "MAX_ORDER", 100)
        monkeypatch.setattr(eigensolvers, "MAX_LATER_ORDER", 100)
        X = noise(shape)
        assert eigensolvers.choose_solver(X, k) == "lanczos"
        model = PPCA(k).fit(X)
        assert error_of(model, X) < 1e-12
        assert model.certificate_.delta == 1e-10
        model = PPCA(k).fit(sparse.csr_array(X))
        assert error_of(model, X) < 1e-12
        model = PPCA(k).fit(X.astype(np.float32))
        assert error_of(model, X) < 1e-5

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("shape", ["tall", "wide"])
    def test_a_slow_iteration_is_left_for_the_matrix(self, shape, dtype, monkeypatch):
        X = noise(shape).astype(dtype)
        direct = PPCA(3).fit(X)
        monkeypatch.setattr(eigensolvers, "MAX_ORDER", 100)
        monkeypatch.setattr(eigensolvers, "_patience", lambda data: 1.0)
        assert eigensolvers.choose_solver(X, 3) == "lanczos"
        model = PPCA(3).fit(X)
        assert model.certificate_.delta == 0.0
        assert model.components_.dtype == dtype
        close = {"rtol": 1e-12 if dtype == "float64" else 2e-6}
        np.testing.assert_allclose(model.explained_variance_, direct.explained_variance_, **close)
        np.testing.assert_allclose(model.noise_variance_, direct.noise_variance_, **close)
        fast = X * np.geomspace(1.0, 1e-30, X.shape[1], dtype=dtype)
        assert PPCA(3).fit(fast).certificate_.delta == 1e-10

    @pytest.mark.parametrize("n_zero", [480, 505])
    @pytest.mark.parametrize("large", [False, True])
    def test_deficient_rank(self, n_zero, large, monkeypatch):
        if large:
            monkeypatch.setattr(eigensolvers, "MAX_ORDER", 100)
        rng = np.random.default_rng(0)
        X = rng.standard_normal((600, 520 - n_zero)) @ rng.standard_normal((520 - n_zero, 520))
        model = PPCA(20).fit(X)
        assert error_of(model, X) < 1e-13
        assert (model.noise_variance_ == 0.0) == (n_zero == 505)
        assert (model.certificate_.max_shortfall is None) == (n_zero == 505)

    def test_zero_matrix(self, monkeypatch):
        for order in (4000, 100):
            monkeypatch.setattr(eigensolvers, "MAX_ORDER", order)
            model = PPCA(3).fit(np.ones((600, 510)))
            assert (model.explained_variance_ == 0.0).all()
            assert model.certificate_.upper.max() < 1e-25

    @pytest.mark.parametrize("offset", [0.0, 1e8])
    def test_graded_variances(self, offset):
        rng = np.random.default_rng(0)
        Q = [np.linalg.qr(rng.standard_normal((n, 300)))[0] for n in (600, 300)]
        X = (Q[0] * np.geomspace(1.0, 1e-12, 300)) @ Q[1].T + offset
        k = 200 if offset == 0.0 else 40
        model, values = PPCA(k).fit(X), truth(X)[0]
        found = model.explained_variance_ * (599 / 600)
        np.testing.assert_allclose(found, values[:k], rtol=1e-6)
        assert model.noise_variance_ == pytest.approx(values[k:].mean(), rel=1e-6)
        plain = PPCA(k, svd_solver="covariance_eigh").fit(X)
        if offset == 0.0:
            assert abs(plain.explained_variance_ * (599 / 600) / values[:k] - 1).max() > 0.1

    @pytest.mark.parametrize("smallest", [1e-3, 1e-4, 1e-5])
    def test_moderate_variances(self, smallest):
        for seed in range(8):
            rng = np.random.default_rng(seed)
            Q = np.linalg.qr(rng.standard_normal((20, 20)))[0]
            X = (rng.standard_normal((300, 20)) * np.geomspace(1.0, smallest, 20)) @ Q
            model, full = PPCA(18).fit(X), PPCA(18, svd_solver="full").fit(X)
            assert model.noise_variance_ == pytest.approx(full.noise_variance_, rel=1e-9)
            assert model.elbo_ == pytest.approx(full.elbo_, abs=1e-9)

    def test_the_maximum_is_not_exceeded(self):
        X = noise("tall")[:400, :60]
        vae = LinearVAE(10, random_state=0, max_iter=20_000, tol=1e-14).fit(X)
        assert vae.elbo_ <= PPCA(10).fit(X).elbo_ + 1e-12
        stream = PPCA(10).partial_fit(X[:150]).partial_fit(X[150:])
        assert stream.elbo_ == pytest.approx(PPCA(10).fit(X).elbo_, abs=1e-9)

    def test_no_seed_matters(self):
        X = noise("wide")
        fits = [PPCA(20, random_state=seed).fit(X) for seed in (0, 1)]
        np.testing.assert_array_equal(fits[0].components_, fits[1].components_)

    @pytest.mark.slow
    def test_no_seed_or_tolerance_matters_for_sparse_data(self):
        values = np.random.default_rng(0).uniform(size=(1100, 1050))
        X = sparse.csr_array(np.where(values < 0.01, 100.0 * values, 0.0))
        assert eigensolvers.choose_solver(X, 3) == "arpack"
        model = PPCA(3).fit(X)
        other = PPCA(3, tol=0.9, random_state=1).fit(X)
        np.testing.assert_array_equal(model.components_, other.components_)
        assert error_of(model, X.toarray()) < 1e-13

    def test_passes_over_a_file(self, tmp_path, monkeypatch):
        np.save(tmp_path / "X.npy", noise("tall"))
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
        read = []
        block = eigensolvers.centered_data(X, None, keep=False).__class__._block
        monkeypatch.setattr(
            "sklearn_vae.gaussian.centered.DenseCentered._block",
            lambda self, rows, *columns: read.append(rows) or block(self, rows, *columns),
        )
        assert eigensolvers.choose_solver(X, 20, mapped=True) == "lanczos"
        model = PPCA(20).fit(X)
        assert error_of(model, X) < 1e-12
        # One pass per step of the iteration; the randomized solver takes two.
        assert len(read) < 60


class TestTolerance:
    def test_randomized_without_a_tolerance_is_that_of_pca(self):
        X = noise("tall") / np.arange(1, 301)
        ours = PPCA(5, svd_solver="randomized", random_state=0).fit(X)
        theirs = PCA(5, svd_solver="randomized", random_state=0).fit(X)
        np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-6)

    @pytest.mark.some(2)
    @pytest.mark.parametrize("solver", ["randomized", "arpack"])
    @pytest.mark.parametrize("shape", ["tall", "wide"])
    def test_reached(self, solver, shape):
        X = noise(shape)
        model = PPCA(10, svd_solver=solver, tol=1e-8, random_state=0).fit(X)
        assert error_of(model, X) < 1e-8
        V, S = model.components_, np.cov(X.T, bias=True)
        residuals = V @ S - (model.explained_variance_ * (len(X) - 1) / len(X))[:, None] * V
        assert np.linalg.norm(residuals, axis=1).max() < 1e-8 * truth(X)[0][0]

    def test_not_reached(self, monkeypatch):
        monkeypatch.setattr("sklearn_vae.gaussian.singular.MAX_PRODUCTS", 3)
        with pytest.warns(ConvergenceWarning, match=r"residuals are 0\.\d+ times .* tol=1e-08"):
            model = PPCA(10, svd_solver="randomized", tol=1e-8, random_state=0).fit(noise("tall"))
        assert (model.certificate_.upper >= truth(noise("tall"))[0][:10]).all()
        monkeypatch.setattr(eigensolvers, "MAX_ORDER", 100)
        with pytest.warns(
            ConvergenceWarning, match=r"more than 1e-09, .* Use fewer components, or"
        ):
            PPCA(10, tol=0.5).fit(noise("tall"))  # "auto" does not use it

    def test_arpack_that_fails_without_a_tolerance(self, monkeypatch):
        def fail(*_, **__):
            raise ArpackNoConvergence("", np.empty(0), np.empty((0, 0)))

        monkeypatch.setattr("sklearn_vae.gaussian.arpack.eigsh", fail)
        assert error_of(PPCA(3, svd_solver="arpack").fit(noise("tall")), noise("tall")) < 1e-13
        monkeypatch.setattr("sklearn_vae.gaussian.singular.MAX_PRODUCTS", 3)
        with pytest.warns(ConvergenceWarning, match=r"more than 1e-09"):
            PPCA(10, svd_solver="arpack").fit(noise("tall"))

    def test_missing_values(self):
        X = noise("tall")[:60, :5].copy()
        X[3, 2] = np.nan
        default, explicit = PPCA(2).fit(X), PPCA(2, tol=1e-6).fit(X)
        assert default.elbo_ == explicit.elbo_
        loose = PPCA(2, tol=1.0).fit(X)
        assert loose.n_iter_ < default.n_iter_


@functools.cache
def fits():
    X = noise("tall")[:90, :12]
    weights = np.random.default_rng(1).uniform(0.1, 2.0, size=len(X))
    return {
        "auto": (PPCA(3).fit(X), X, None),
        "weights": (PPCA(3).fit(X, sample_weight=weights), X, weights),
        "moments": (PPCA.from_moments(Moments.of(X), n_components=3), X, None),
        "stream": (PPCA(3).partial_fit(X[:40]).partial_fit(X[40:]), X, None),
        "Dask": (PPCA(3).fit(da.from_array(X, chunks=(30, 12))), X, None),
        "cross-validation": (PPCACV([3]).fit(X), X, None),
        "wide cross-validation": (PPCACV([3]).fit(X[:9]), X[:9], None),
        "fixed noise": (PPCA(3, noise_variance=1.1).fit(X), X, None),
        "all components": (PPCA().fit(X), X, None),
        "none": (PPCA(0).fit(X), X, None),
    }


FITS = [
    "auto", "weights", "moments", "stream", "Dask", "cross-validation", "wide cross-validation",
    "fixed noise", "all components", "none",
]  # fmt: skip


class TestCertificate:
    @pytest.mark.parametrize("name", FITS)
    def test_what_it_is_about(self, name):
        model, X, weights = fits()[name]
        values, certificate = truth(X, weights)[0], model.certificate_
        k = model.n_components_
        assert isinstance(certificate, Certificate)
        assert (certificate.lower <= values[:k]).all()
        assert (certificate.upper >= values[:k]).all()
        assert (certificate.upper - certificate.lower).max(initial=0.0) < 1e-11
        assert certificate.max_sine < 1e-10
        assert 0.0 <= certificate.max_shortfall < 1e-9
        text = str(certificate)
        assert text.startswith(
            f"The {k} largest eigenvalues" if k else "The model has no components"
        )
        assert text.endswith(".")
        assert str(pickle.loads(pickle.dumps(model)).certificate_) == text

    def test_one_component(self):
        text = str(PPCA(1).fit(noise("tall")[:90, :12]).certificate_)
        assert text.startswith("The largest eigenvalue is known to ")
        assert "the component is at most" in text

    def test_against_high_precision(self):
        X = noise("tall")[:7, :4] + 1e3
        with mp.workdps(60):
            R = mp.matrix(X.tolist())
            for j in range(4):
                mean = mp.fsum(R[i, j] for i in range(7)) / 7
                for i in range(7):
                    R[i, j] -= mean
            values = sorted(mp.eigsy(R.T * R / 7, eigvals_only=True), reverse=True)
            for solver in ("auto", "full", "covariance_eigh", "arpack", "randomized"):
                certificate = PPCA(2, svd_solver=solver, random_state=0).fit(X).certificate_
                for j in range(2):
                    assert mp.mpf(certificate.lower[j]) <= values[j] <= mp.mpf(certificate.upper[j])
                assert certificate.outside >= values[2]

    @pytest.mark.parametrize("noise_variance", [None, 0.5, 1.5])
    def test_what_the_randomized_solver_is_worth(self, noise_variance):
        X = noise("tall")
        parameters = {"n_components": 20, "noise_variance": noise_variance}
        exact = PPCA(**parameters).fit(X)
        model = PPCA(**parameters, svd_solver="randomized", random_state=0).fit(X)
        shortfall = exact.elbo_ - model.elbo_
        assert 1e-3 < shortfall <= model.certificate_.max_shortfall
        assert model.certificate_.max_sine is None
        assert "have no unique span" in str(model.certificate_)
        assert "except with probability 1e-10" in str(model.certificate_)

    def test_unbounded_likelihood(self):
        certificate = PPCA(5).fit(noise("wide")[:6]).certificate_
        assert certificate.max_shortfall is None
        assert "the likelihood is unbounded" in str(certificate)

    def test_missing_values(self):
        X = noise("tall")[:60, :5].copy()
        X[3, 2] = np.nan
        certificate = PPCA(2).fit(X).certificate_
        assert isinstance(certificate, Stationarity)
        assert certificate.converged
        spectrum = PPCA(2).fit(X).spectrum_
        assert "Nothing is certified" in str(spectrum.certificate(2))
        full = clone(PPCA(2)).fit(np.nan_to_num(X)).certificate_
        assert np.isfinite(full.upper).all()
