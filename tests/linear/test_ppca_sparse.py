"""PPCA of sparse, memory-mapped and wide rows: the same model as of dense ones, without a copy."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from sklearn_vae import PPCA
from sklearn_vae.gaussian.eigensolvers import choose_solver
from sklearn_vae.validation import is_memory_mapped
from tests.helpers import RECORDS, PeakMemory, exhaustive
from tests.linear.data import make_rows, random_sparse

SPARSE_SOLVERS = ["auto", "covariance_eigh", "arpack", "randomized"]
TALL, WIDE, SQUARE = (300, 20), (30, 400), (40, 40)


def make_sparse(shape, offset=0.0, seed=0):
    """Mostly zeros, but for a dense direction, one column far from zero and one of zeros."""
    rng = np.random.default_rng(seed)
    n, d = shape
    X = np.where(rng.uniform(size=shape) < 0.15, rng.normal(size=shape) * np.linspace(3, 1, d), 0.0)
    X[:, :4] += np.outer(rng.normal(size=n), [3.0, -2.0, 0.0, 0.0])
    X[:, 2] = rng.normal(size=n) + offset
    X[:, 5] = 0.0
    return X


def assert_same_model(found, expected, rtol=1e-9, atol=1e-9):
    for name in sorted(vars(expected)):
        if name.endswith("_") and name not in RECORDS:
            values = getattr(found, name), getattr(expected, name)
            if name == "singular_values_":
                # Roots of eigenvalues: that of an eigenvalue of 0 is the root of its rounding.
                values = values[0] ** 2, values[1] ** 2
            np.testing.assert_allclose(*values, rtol=rtol, atol=atol, err_msg=name)


@pytest.fixture
def no_densifying(monkeypatch):
    """No sparse matrix with more than a hundred thousand places may become an array."""

    def guard(method):
        def guarded(self, *args, **kwargs):
            assert self.shape[0] * self.shape[1] <= 100_000, f"made dense: {self.shape}"
            return method(self, *args, **kwargs)

        return guarded

    for kind in (sparse.csr_array, sparse.csc_array, sparse.csr_matrix, sparse.csc_matrix):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, guard(getattr(kind, name)))


class TestSparse:
    @pytest.mark.cover(2, 3)
    @pytest.mark.parametrize("noise_variance", [None, 0.7])
    @pytest.mark.parametrize("offset", [0.0, 1e3])
    @pytest.mark.parametrize("solver", SPARSE_SOLVERS)
    @pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
    @pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix])
    def test_the_same_model_as_of_dense_rows(
        self, container, shape, solver, offset, noise_variance
    ):
        X = make_sparse(shape, offset)
        parameters = {"n_components": 3, "noise_variance": noise_variance, "random_state": 0}
        model = PPCA(**parameters, svd_solver=solver, iterated_power=60).fit(container(X))
        dense = PPCA(**parameters, svd_solver="full").fit(X)
        assert_same_model(model, dense, rtol=1e-8, atol=1e-7)
        other = make_sparse((50, shape[1]), offset, seed=1)
        for coordinates in ("posterior", "principal", "whitened"):
            model.coordinates = dense.coordinates = coordinates
            np.testing.assert_allclose(
                model.transform(container(other)), dense.transform(other), atol=1e-6
            )
        np.testing.assert_allclose(
            model.score_samples(container(other)), dense.score_samples(other), rtol=1e-6
        )
        np.testing.assert_allclose(
            model.posterior(container(other))[0], dense.posterior(other)[0], atol=1e-6
        )

    @pytest.mark.parametrize("n_components", [None, 0, 0.8, "mle", 19])
    def test_any_n_components(self, n_components):
        X = make_sparse(TALL)
        model = PPCA(n_components).fit(sparse.csr_array(X))
        assert_same_model(model, PPCA(n_components, svd_solver="covariance_eigh").fit(X))

    @pytest.mark.parametrize("n_components", [None, 0, 0.8, 30, 29])
    def test_any_n_components_of_wide_rows(self, n_components):
        X = make_sparse(WIDE)
        dense = PPCA(n_components, svd_solver="full").fit(X)
        for rows in (sparse.csr_array(X), X):
            model = PPCA(n_components, svd_solver="covariance_eigh").fit(rows)
            assert model.noise_variance_ == pytest.approx(dense.noise_variance_, rel=1e-9)
            assert model.elbo_ == pytest.approx(dense.elbo_, rel=1e-9)
            np.testing.assert_array_equal(model.collapsed_dims_, dense.collapsed_dims_)
            k = dense.n_components_ - len(dense.collapsed_dims_)
            np.testing.assert_allclose(model.loadings_[:, :k], dense.loadings_[:, :k], atol=1e-9)
            identity = np.eye(model.n_components_)
            np.testing.assert_allclose(
                model.components_ @ model.components_.T, identity, atol=1e-12
            )

    def test_as_pca(self):
        X = random_sparse((500, 60), 0.1)
        ours, theirs = PPCA(5).fit(X), PCA(5, svd_solver="arpack", random_state=0).fit(X)
        np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-9)
        np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_)
        ours.coordinates = "principal"
        np.testing.assert_allclose(ours.transform(X), theirs.transform(X), atol=1e-9)

    def test_float32_stays(self):
        X = make_sparse(TALL).astype(np.float32)
        for solver in SPARSE_SOLVERS:
            model = PPCA(2, svd_solver=solver, random_state=0).fit(sparse.csr_array(X))
            assert model.components_.dtype == model.transform(sparse.csr_array(X)).dtype == "f4"
            assert model.score_samples(sparse.csr_array(X)).dtype == "f4"

    @pytest.mark.parametrize("solver", SPARSE_SOLVERS)
    def test_zero_noise_is_found(self, solver):
        rng = np.random.default_rng(0)
        X = (rng.uniform(size=(200, 3)) < 0.3) @ rng.normal(size=(3, 12))
        model = PPCA(4, svd_solver=solver, random_state=0).fit(sparse.csr_array(X))
        assert model.noise_variance_ == 0.0
        np.testing.assert_array_equal(model.collapsed_dims_, [3])
        fewer = PPCA(2, svd_solver=solver, random_state=0).fit(sparse.csr_array(X))
        expected = PPCA(2, svd_solver="full").fit(X).noise_variance_
        assert fewer.noise_variance_ == pytest.approx(expected, rel=1e-10)

    @pytest.mark.some(3)
    @pytest.mark.parametrize("shape", [(4000, 500), (300, 40_000)])
    @pytest.mark.parametrize("solver", SPARSE_SOLVERS)
    def test_never_made_dense(self, solver, shape, no_densifying):
        X = random_sparse(shape, 0.01)
        if min(shape) > 300 and solver in ("auto", "covariance_eigh"):
            X = X[:, :300]  # whose (d, d) scatter is a matrix of its own
        size = X.data.nbytes + X.indices.nbytes
        with PeakMemory() as memory:
            model = PPCA(3, svd_solver=solver, random_state=0).fit(X)
            model.transform(X)
            model.score_samples(X)
        small = 8 * min(X.shape) ** 2 * 6 + 8 * 13 * sum(X.shape) * 6
        assert memory.peak < 8 * size + small + 2e6
        assert memory.peak < X.shape[0] * X.shape[1] * 8

    def test_partial_fit_and_pipelines(self):
        X = make_sparse(TALL)
        model = PPCA(2)
        for part in (X[:70], X[70:100], X[100:]):
            model.partial_fit(sparse.csr_array(part))
        assert_same_model(model, PPCA(2, svd_solver="covariance_eigh").fit(X))
        pipeline = make_pipeline(MaxAbsScaler(), PPCA(2)).fit(sparse.csr_array(X))
        assert pipeline.score(sparse.csr_array(X)) == pytest.approx(
            make_pipeline(MaxAbsScaler(), PPCA(2)).fit(X).score(X), rel=1e-9
        )

    def test_rows_are_never_written_to(self):
        X = sparse.csr_array(make_sparse(TALL, offset=100.0))
        before = X.copy()
        for part in (X.data, X.indices, X.indptr):
            part.flags.writeable = False
        for solver in SPARSE_SOLVERS:
            PPCA(2, svd_solver=solver, random_state=0).fit(X).score(X)
        assert (before != X).nnz == 0

    def test_what_does_not_fit(self):
        X = sparse.csr_array(make_sparse(TALL))
        with pytest.raises(ValueError, match="for sparse X, got 'full', which would"):
            PPCA(2, svd_solver="full").fit(X)
        broken = X.copy()
        broken.data[3] = np.nan
        for solver in SPARSE_SOLVERS:
            with pytest.raises(ValueError, match="contains NaN"):
                PPCA(2, svd_solver=solver).fit(broken)
        model = PPCA(2).fit(X)
        for method in (model.transform, model.score_samples, model.posterior, model.score):
            with pytest.raises(ValueError, match="contains NaN"):
                method(broken)

    def test_a_heavy_column_of_float32_does_not_hide_the_others(self):
        rng = np.random.default_rng(0)
        X = random_sparse((1000, 600), 0.02).toarray()
        X[:, 7] = 1e4 * rng.exponential(size=1000)
        for solver in ("covariance_eigh", "arpack"):
            models = [
                PPCA(3, svd_solver=solver, random_state=0).fit(sparse.csr_array(X.astype(dtype)))
                for dtype in (np.float32, np.float64)
            ]
            noise = [model.noise_variance_ for model in models]
            assert noise[0] == pytest.approx(noise[1], rel=1e-4)

    @pytest.mark.parametrize("density", [0.05, 0.2, 0.9])
    def test_products_of_dense_blocks_where_much_is_stored(self, density):
        rng = np.random.default_rng(0)
        X = np.where(rng.uniform(size=(3000, 70)) < density, rng.normal(size=(3000, 70)) + 2, 0)
        for rows in (X, X.T):
            weights = rng.uniform(size=len(rows))
            model = PPCA(4).fit(sparse.csr_array(rows), sample_weight=weights)
            dense = PPCA(4, svd_solver="full").fit(rows, sample_weight=weights)
            assert_same_model(model, dense)


class TestMemoryMapped:
    def test_a_copy_is_in_memory(self, tmp_path):
        np.save(tmp_path / "rows.npy", make_rows())
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        assert is_memory_mapped(mapped)
        assert is_memory_mapped(mapped[3:, 1:].T)
        assert not is_memory_mapped(mapped.copy())
        for rows, solver in (
            (mapped, "covariance_eigh"),
            (mapped[:20], "covariance_eigh"),
            (mapped[:20].copy(), "full"),
        ):
            assert choose_solver(rows, 2, mapped=is_memory_mapped(rows)) == solver

    @pytest.fixture(params=["float64", "float32", "uint8", "float16"])
    def mapped(self, request, tmp_path):
        X = np.clip(40 * make_rows(4000, 30, offset=3.0) / 10 + 20, 0, 255).astype(request.param)
        np.save(tmp_path / "rows.npy", X)
        return np.load(tmp_path / "rows.npy", mmap_mode="r")

    @pytest.mark.cover(1)
    @pytest.mark.parametrize("solver", ["auto", "full", "covariance_eigh", "arpack", "randomized"])
    def test_the_same_model_as_in_memory(self, mapped, solver):
        parameters = {"n_components": 3, "svd_solver": solver, "random_state": 0}
        model, expected = PPCA(**parameters).fit(mapped), PPCA(**parameters).fit(np.array(mapped))
        close = 1e-4 if mapped.dtype == np.float32 else 1e-9
        assert_same_model(model, expected, rtol=close, atol=close)
        assert model.components_.dtype == expected.components_.dtype
        X = np.array(mapped)
        np.testing.assert_allclose(model.transform(mapped), expected.transform(X), atol=10 * close)
        np.testing.assert_allclose(
            model.score_samples(mapped), expected.score_samples(X), rtol=close
        )
        sample_weight = np.arange(len(X)) % 3
        weighted = PPCA(**parameters).fit(mapped, sample_weight=sample_weight)
        in_memory = PPCA(**parameters).fit(X, sample_weight=sample_weight)
        assert weighted.score(mapped) == pytest.approx(in_memory.score(X), rel=close)

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [
            ((50_000, 100), "uint8"),
            *exhaustive(
                ((100, 50_000), "float64"), ((2500, 2000), "uint8"), ((50_000, 100), "float64")
            ),
        ],
    )
    def test_no_copy_is_made(self, tmp_path, shape, dtype):
        path = tmp_path / "rows.npy"
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # Two directions that stand out, so that "arpack" needs few iterations.
        rng = np.random.default_rng(0)
        signs = [[rng.choice(np.int16([-1, 1]), size=size) for size in shape] for _ in range(2)]
        rows[:] = 100 + rng.integers(0, 31, size=shape, dtype=np.int16)
        rows[:] += (60 * np.outer(*signs[0]) + 30 * np.outer(*signs[1])).astype(dtype)
        solvers = ["auto", "randomized"]
        if min(shape) <= 100:
            solvers += ["covariance_eigh", "arpack"]
        X = np.load(path, mmap_mode="r")
        for solver in solvers:
            model = PPCA(2, svd_solver=solver, iterated_power=1, random_state=0)
            with PeakMemory() as memory:
                model.fit(X[5:])  # a view is mapped as well
                model.transform(X)
                model.score_samples(X)
            # Blocks of 2**20 numbers, in a few copies, and two factors with 12 vectors.
            assert memory.peak < 8 * (3 * 2**20 + 24 * max(shape)) < 8 * X.size, (
                solver,
                memory.peak,
            )


class TestWide:
    """n < d through the Gram matrix."""

    @pytest.mark.some(8)
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("offset", [0.0, 1e3])
    @pytest.mark.parametrize("n_components", [None, 1, 20, 49, 50, 0.7])
    def test_as_the_full_decomposition(self, n_components, offset, dtype):
        X = make_rows(50, 700, k=6, offset=offset).astype(dtype)
        model = PPCA(n_components).fit(X)
        full = PPCA(n_components, svd_solver="full").fit(X)
        close = (
            {"rtol": 1e-8, "atol": 1e-8} if dtype == np.float64 else {"rtol": 0.01, "atol": 0.01}
        )
        assert model.n_components_ == full.n_components_
        np.testing.assert_array_equal(model.collapsed_dims_, full.collapsed_dims_)
        np.testing.assert_allclose(model.noise_variance_, full.noise_variance_, **close)
        np.testing.assert_allclose(model.elbo_, full.elbo_, **close)
        np.testing.assert_allclose(model.explained_variance_, full.explained_variance_, **close)
        np.testing.assert_allclose(model.loadings_[:, :6], full.loadings_[:, :6], **close)

    def test_needs_no_more_than_the_gram_matrix(self):
        X = np.random.default_rng(0).normal(size=(100, 100_000))
        with PeakMemory() as memory:
            PPCA(3).fit(X)
        assert memory.peak < 8 * (6 * 100**2 + 12 * 3 * 40_000 + 3 * 2**20) < 8 * X.size

    def test_a_far_column_does_not_hide_small_variances(self):
        # Rounding of the far column might explain the others' variance, but not along them.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(30, 900)) * 1e-3
        X[:, 7] += 1e10
        model = PPCA(28).fit(X)
        full = PPCA(28, svd_solver="full").fit(X)
        assert full.noise_variance_ > 0
        assert model.noise_variance_ == pytest.approx(full.noise_variance_, rel=1e-6)

    @pytest.mark.parametrize("smallest", [1e-3, 3e-4])
    def test_float32_is_multiplied_in_float64(self, smallest):
        rng = np.random.default_rng(0)
        U = np.linalg.qr(rng.normal(size=(100, 100)))[0]
        V = np.linalg.qr(rng.normal(size=(2000, 100)))[0]
        X = ((U * np.geomspace(1, smallest, 100)) @ V.T).astype(np.float32)
        model, full = PPCA(95).fit(X), PPCA(95, svd_solver="full").fit(X.astype(float))
        assert model.noise_variance_ == pytest.approx(full.noise_variance_, rel=1e-3)
        assert len(model.collapsed_dims_) == 0
        assert model.components_.dtype == np.float32
        np.testing.assert_allclose(model.components_, full.components_, atol=1e-4)


class TestMemory:
    def test_a_scatter_that_does_not_fit_is_refused_before_it_is_allocated(self):
        X = random_sparse((400_100, 400_000), 1e-8)
        self.assert_refused(lambda: PPCA(2).partial_fit(X))
        self.assert_refused(lambda: PPCA(2, svd_solver="covariance_eigh").fit(X))

    @pytest.mark.slow
    def test_what_needs_no_scatter_is_not_refused(self):
        X = random_sparse((400_100, 400_000), 1e-8)
        X.data[0] = 100.0  # a direction that "arpack" finds soon
        assert PPCA(1, svd_solver="arpack", random_state=0).fit(X).n_components_ == 1

    def assert_refused(self, fit):
        with PeakMemory() as memory, pytest.raises(MemoryError) as error:
            fit()
        assert "matrices of shape (400000, 400000), together 8344.7 GiB" in str(error.value)
        assert "GiB are available. Use fit with svd_solver='randomized'" in str(error.value)
        assert memory.peak < 1e8

    def test_nothing_learned_is_lost(self, monkeypatch):
        X = make_rows()
        model = PPCA(2).partial_fit(X)
        before = model.score(X)
        monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: 100.0)
        with pytest.raises(MemoryError, match=r"partial_fit holds . matrices of shape \(7, 7\)"):
            model.partial_fit(X)
        assert model.score(X) == before

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
    def test_what_is_said_to_be_held_is_what_is_held(self):
        # 20 MiB a matrix, above what the libraries take by themselves.
        code = """
import numpy as np
from sklearn_vae import PPCA
from sklearn_vae.linear.checks import SQUARES_HELD

def peak():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))

X = np.random.default_rng(0).normal(size=(50, 1600))
PPCA(2).partial_fit(X[:, :200]).partial_fit(X[:, :200])
before = peak()
PPCA(2).partial_fit(X).partial_fit(X)
print((peak() - before) / (8 * 1600**2), SQUARES_HELD)
"""
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        used, said = map(float, run.stdout.split())
        assert 0.6 * said < used < 1.15 * said
