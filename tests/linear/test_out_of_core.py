"""Rows in a file: read once, a block at a time, and never searched for NaN without a sign of it."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import KFold

from sklearn_vae import PPCA, PPCACV, FactorAnalysis, LinearVAE
from sklearn_vae.gaussian.eigensolvers import choose_solver
from sklearn_vae.linear.folds import MomentFolds
from sklearn_vae.validation import check_finite, has_nan, is_memory_mapped
from tests.helpers import PeakMemory
from tests.linear.data import make_rows

# The last feature is 0 everywhere, and so in every component.
X = np.c_[make_rows(200, 6, k=2, offset=3.0), np.zeros(200)]


def mapped_from(folder, rows):
    np.save(folder / "rows.npy", rows)
    return np.load(folder / "rows.npy", mmap_mode="r")


class TestNoSearchForNaN:
    @pytest.fixture
    def searched(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            "sklearn_vae.linear.exact_posterior.has_nan",
            lambda X: bool(calls.append(X.shape)) or has_nan(X),
        )
        return calls

    @pytest.mark.parametrize("dtype", ["float64", "float32", "int16"])
    @pytest.mark.parametrize("coordinates", ["posterior", "principal", "whitened"])
    def test_in_finite_rows(self, tmp_path, searched, coordinates, dtype):
        rows = mapped_from(tmp_path, (100 * X[:, :6]).astype(dtype))
        for some in (rows, sparse.csr_array(np.array(rows))):
            model = PPCA(2, coordinates=coordinates).fit(some)
            model.transform(some)
            model.posterior(some)
            model.score(some)
        assert searched == []

    def test_where_a_component_leaves_out_a_feature(self, searched):
        model = PPCA(2).fit(X)
        assert (model.components_[:, 6] == 0).all()
        model.transform(X)
        assert searched == [X.shape]

    def test_for_other_errors_of_fit(self, searched):
        for model in (PPCA(99), PPCA(0, svd_solver="randomized"), PPCA(0.5, svd_solver="arpack")):
            with pytest.raises(ValueError, match="n_components must be"):
                model.fit(X)
        assert searched == []

    @pytest.mark.parametrize("solver", ["full", "covariance_eigh", "arpack", "randomized"])
    @pytest.mark.parametrize("shape", [(200, 6), (5, 6)])
    def test_but_one_where_sums_are_not_finite(self, searched, solver, shape):
        rows = X[: shape[0], :6].copy()
        rows[3, 2] = np.nan
        PPCA(1, svd_solver=solver, max_iter=500, tol=1e-3, noise_variance=0.1).fit(rows)
        assert searched == [shape]


@pytest.mark.parametrize("coordinates", ["posterior", "principal", "whitened"])
@pytest.mark.parametrize("noise_variance", [None, 1e6])
@pytest.mark.parametrize("n_components", [0, 1, 3])
class TestNaNIsFound:
    """In any feature, one without variance too, whatever has collapsed."""

    @pytest.fixture
    def model(self, n_components, noise_variance, coordinates):
        return PPCA(n_components, noise_variance=noise_variance, coordinates=coordinates).fit(X)

    @pytest.mark.cover(1, 2)
    @pytest.mark.parametrize("column", range(7))
    def test_infinity_and_missing_values(self, model, column):
        for container in (np.array, sparse.csr_array):
            rows = X[:5] + 1.0  # a sparse array stores all of them
            rows[3, column] = np.inf
            for method in (model.transform, model.posterior):
                with pytest.raises(ValueError, match="Input X contains infinity"):
                    method(container(rows))
        rows[3, column] = np.nan
        for method in (model.transform, model.posterior):
            with pytest.raises(ValueError, match="Sparse X contains NaN"):
                method(sparse.csr_array(rows))
        filled = model.impute(rows)
        assert np.isfinite(filled).all()
        Z = model.transform(rows)
        assert np.isfinite(Z).all()
        # What is expected of z given x is linear in x.
        np.testing.assert_allclose(Z, model.transform(filled), atol=1e-9)
        mean, variance = model.posterior(rows)
        np.testing.assert_allclose(mean, model.posterior(filled)[0], atol=1e-9)
        assert (variance[3] >= variance[2] - 1e-12).all()


def test_where_it_is_found_no_copy_is_made():
    rows = np.ones((40_000, 200), dtype=np.float32)
    rows[-1, -1] = np.nan
    with PeakMemory() as memory:
        assert has_nan(rows)
        with pytest.raises(ValueError, match="contains NaN"):
            check_finite(rows)
    assert memory.peak < rows.size / 2  # one byte a number would be twice as much


def test_rows_with_missing_values_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    rows = X.copy()
    rows[7, 3] = np.nan
    monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: 32 * X.size - 1.0)
    model = PPCA(2)
    with pytest.raises(MemoryError, match="holds four copies of X in float64, together"):
        model.fit(mapped_from(tmp_path, rows))
    assert not hasattr(model, "n_features_in_")
    monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: 32.0 * X.size)
    model.fit(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        FactorAnalysis(3),
        LinearVAE(3, max_iter=50, tol=1e-3, random_state=0),
        LinearVAE(3, noise_variance=1e-9, max_iter=50, tol=1e10, random_state=0),
    ],
    ids=["factor analysis", "linear VAE", "linear VAE, small noise"],
)
def test_a_fit_to_a_file_holds_blocks(tmp_path, model):
    rows = mapped_from(tmp_path, make_rows(300_000, 20, k=3, offset=3.0).astype(np.float32))
    in_memory = clone(model).fit(np.array(rows[:1000]))  # what is imported on first use
    with PeakMemory() as memory:
        model.fit(rows)
        score = model.score(rows)
    # Blocks have 2**20 numbers, and some are in float64.
    assert memory.peak < 5 * 8 * 2**20 < 8 * rows.size
    in_memory.fit(np.array(rows))
    np.testing.assert_allclose(model.components_, in_memory.components_, atol=1e-6)
    assert score == pytest.approx(in_memory.score(np.array(rows)), rel=1e-6)


def test_a_file_is_not_read_twenty_times(tmp_path):
    path = tmp_path / "rows.npy"  # a file without blocks on disk: nothing of it is read
    for shape, mapped, in_memory in [
        ((20_000, 2000), "covariance_eigh", "covariance_eigh"),
        ((4_000, 1001), "lanczos", "covariance_eigh"),
        ((4_004, 1001), "covariance_eigh", "covariance_eigh"),
        ((20_000, 4001), "lanczos", "lanczos"),
        ((10_000, 1000), "covariance_eigh", "covariance_eigh"),
    ]:
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        assert choose_solver(rows, 20, mapped=is_memory_mapped(rows)) == mapped
        rows = np.empty(shape, dtype=np.uint8)
        assert choose_solver(rows, 20, mapped=is_memory_mapped(rows)) == in_memory


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_validation_a_block_at_a_time(tmp_path, monkeypatch, shuffle, weighted):
    rows = make_rows(500, 8)
    weights = np.random.default_rng(0).uniform(size=500) if weighted else None
    cv = KFold(4, shuffle=shuffle, random_state=0 if shuffle else None)
    expected = PPCACV([1, 3], cv=cv).fit(rows, sample_weight=weights)
    taken = []
    original = MomentFolds._moments_of_block
    monkeypatch.setattr(MomentFolds, "_block_size", lambda self, numbers, n: 37)
    monkeypatch.setattr(
        MomentFolds,
        "_moments_of_block",
        lambda self, some: taken.append(some) or original(self, some),
    )
    model = PPCACV([1, 3], cv=cv).fit(mapped_from(tmp_path, rows), sample_weight=weights)
    np.testing.assert_allclose(
        model.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], rtol=1e-12
    )
    np.testing.assert_allclose(model.loadings_, expected.loadings_, atol=1e-10)
    assert max(map(len, taken)) <= 37
    assert (np.sort(np.concatenate(taken)) == np.arange(500)).all()  # each row is read once
    assert (np.diff([some[0] // 37 for some in taken]) >= 0).all()  # from front to back
