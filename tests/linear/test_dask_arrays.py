"""Models of Dask collections are those of the same rows in memory, and only moments are gathered."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    DensityPipeline,
    Dequantizer,
    LinearVAE,
    LogitTransformer,
    Moments,
    PPCAImputer,
)
from sklearn_vae.datasets import make_missing
from sklearn_vae.diagnostics import diagnose, entropy_bound
from sklearn_vae.linear import dask_arrays
from sklearn_vae.linear.dask_arrays import FAN_IN
from sklearn_vae.plot import LikelihoodSurfaceDisplay
from tests.helpers import RECORDS
from tests.linear.data import make_rows

N, D = 203, 7
X = make_rows(N, D, offset=10.0)
WEIGHTS = np.random.default_rng(1).integers(0, 4, size=N) / 2.0
CHUNKINGS = {
    "one": (N,),
    "even": (50, 50, 50, 53),
    "uneven": (0, 1, 2, 0, 150, 50),
    "rows": (1,) * N,
}
NAMES = list("abcdefg")


def in_blocks(rows=X, chunks=(50, 50, 50, 53)):
    return da.from_array(rows, chunks=(chunks, *rows.shape[1:]))


def frame(rows=X):
    return dd.from_pandas(pd.DataFrame(rows, columns=NAMES), npartitions=4)


class Loader:
    """Blocks that are counted whenever they are read."""

    def __init__(self, rows=X, size=20):
        self.reads = []
        ends = range(0, len(rows), size)
        arrays = [
            da.from_delayed(
                dask.delayed(self.read)(rows[start : start + size], start),
                shape=rows[start : start + size].shape,
                dtype=rows.dtype,
            )
            for start in ends
        ]
        self.array, self.starts = da.concatenate(arrays), list(ends)

    def read(self, block, start):
        self.reads.append(start)
        return block


class Watching:
    """A scheduler that remembers what it gave to whoever asked."""

    def __init__(self):
        self.given = []

    def __call__(self, graph, keys, **options):
        found = dask.get(graph, keys, **options)
        self.given.append(len(pickle.dumps(found)))
        return found


def is_ppca(model):
    return hasattr(model, "explained_variance_")


def assert_same_model(model, expected, rtol=1e-10):
    names = [name for name in vars(expected) if name.endswith("_") and name not in RECORDS]
    assert len(names) > 12
    varies = np.asarray(expected.explained_variance_ > 1e-12) if is_ppca(expected) else slice(None)
    for name in names:
        found, wanted = getattr(model, name), getattr(expected, name)
        if name in (
            "components_",
            "singular_values_",
        ):  # any others are as good where nothing varies
            found, wanted = found[varies], wanted[varies]
        if name == "feature_names_in_":
            assert list(found) == list(wanted)
            continue
        if isinstance(wanted, float | int | np.ndarray):
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-10, err_msg=name)
            assert np.asarray(found).dtype == np.asarray(wanted).dtype, name
        assert type(found) is type(wanted), name


class TestFit:
    @pytest.mark.some(3)
    @pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
    @pytest.mark.parametrize("chunks", CHUNKINGS.values(), ids=CHUNKINGS)
    def test_any_blocks_give_what_the_rows_give(self, chunks, scheduler):
        with dask.config.set(scheduler=scheduler):
            model = PPCA(3).fit(in_blocks(chunks=chunks))
        assert_same_model(model, PPCA(3).fit(X))
        assert model.n_samples_ == N

    @pytest.mark.some(8)
    @pytest.mark.parametrize("noise_variance", [None, 1.0])
    @pytest.mark.parametrize("n_components", [None, 0, 3, 0.9, "mle"])
    @pytest.mark.parametrize("n", [N, 5])
    def test_every_way_to_say_k_and_noise(self, n, n_components, noise_variance):
        model = PPCA(n_components, noise_variance=noise_variance, svd_solver="covariance_eigh")
        if (n, n_components) == (5, "mle"):
            with pytest.raises(ValueError, match="needs n_samples >= n_features"):
                model.fit(in_blocks(X[:n], (2, 3)))
            return
        expected = clone(model).fit(X[:n])
        assert_same_model(model.fit(in_blocks(X[:n], (2, n - 2))), expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, object])
    def test_dtypes(self, dtype):
        rows = (10 * X).round().astype(dtype)
        model, expected = PPCA(2).fit(in_blocks(rows)), PPCA(2).fit(rows)
        assert_same_model(model, expected, rtol=1e-4 if dtype == np.float32 else 1e-10)
        for found, wanted in [
            (model.transform(in_blocks(rows)), expected.transform(rows)),
            (model.score_samples(in_blocks(rows)), expected.score_samples(rows)),
        ]:
            assert found.dtype == found.compute().dtype == wanted.dtype

    def test_blocks_of_unknown_lengths(self):
        chosen = X[:, 0] > 10.0
        rows = in_blocks()
        rows = rows[rows[:, 0] > 10.0]
        assert np.isnan(rows.shape[0])
        model = PPCA(2).fit(rows)
        assert_same_model(model, PPCA(2).fit(X[chosen]))
        assert model.score(rows) == pytest.approx(model.score(X[chosen]), rel=1e-12)
        np.testing.assert_allclose(model.transform(rows), model.transform(X[chosen]))

    @pytest.mark.parametrize("estimator", [PPCA(2), PPCACV(cv=3)], ids=["PPCA", "PPCACV"])
    def test_sparse_blocks(self, estimator):
        values = np.random.default_rng(0).uniform(size=(N, D))
        rows = sparse.csr_array(np.where(values < 0.3, values, 0.0))
        blocks = in_blocks(rows.toarray()).map_blocks(sparse.csr_array)
        model, expected = clone(estimator).fit(blocks), clone(estimator).fit(rows)
        assert_same_model(model, expected)
        np.testing.assert_allclose(model.transform(blocks), expected.transform(rows), atol=1e-12)
        assert model.score(blocks) == pytest.approx(expected.score(rows), rel=1e-12)

    def test_sparse_blocks_for_a_model_of_dense_data(self):
        blocks = in_blocks(np.eye(N, D)).map_blocks(sparse.csr_array)
        with pytest.raises(TypeError, match="LinearVAE needs dense data, got a sparse block"):
            LinearVAE(2).fit(blocks)

    @pytest.mark.some(2)
    @pytest.mark.parametrize(
        "weights",
        [WEIGHTS, list(WEIGHTS), da.from_array(WEIGHTS, chunks=50), da.from_array(WEIGHTS, 11)],
        ids=["array", "list", "same blocks", "other blocks"],
    )
    def test_weights(self, weights):
        model = PPCA(3).fit(in_blocks(), sample_weight=weights)
        expected = PPCA(3).fit(X, sample_weight=WEIGHTS)
        assert_same_model(model, expected)
        score = model.score(in_blocks(), sample_weight=weights)
        assert score == pytest.approx(expected.score(X, sample_weight=WEIGHTS), rel=1e-12)
        vae = LinearVAE(3, random_state=0)
        model = clone(vae).fit(in_blocks(), sample_weight=weights)
        expected = vae.fit(X, sample_weight=WEIGHTS)
        assert_same_model(model, expected)
        score = model.score(in_blocks(), sample_weight=weights)
        assert score == pytest.approx(expected.score(X, sample_weight=WEIGHTS), rel=1e-12)

    def test_weights_of_blocks_of_unknown_lengths(self):
        rows, weights = in_blocks(), da.from_array(WEIGHTS, chunks=((50, 50, 50, 53),))
        kept = rows[:, 0] > 10.0
        model = PPCA(3).fit(rows[kept], sample_weight=weights[kept])
        some = X[:, 0] > 10.0
        assert_same_model(model, PPCA(3).fit(X[some], sample_weight=WEIGHTS[some]))
        with pytest.raises(ValueError, match="must be a Dask array with the blocks of X"):
            PPCA(3).fit(rows[kept], sample_weight=WEIGHTS[some])

    def test_weights_count_as_rows(self):
        model, weights = PPCA(5, svd_solver="covariance_eigh"), np.full(3, 2.0)
        found = clone(model).fit(in_blocks(X[:3], (2, 1)), sample_weight=weights)
        expected = clone(model).fit(X[:3], sample_weight=weights)
        variances = found.explained_variance_, expected.explained_variance_
        np.testing.assert_allclose(*variances, atol=1e-12)
        with pytest.raises(ValueError, match=r"between 0 and min\(n_samples, n_features\) = 6"):
            PPCA(7).fit(in_blocks(X[:3], (2, 1)), sample_weight=weights)

    def test_the_coarsest_precision_is_that_of_all(self):
        coarse, fine = Moments.of(X.astype(np.float32)), Moments.of(X)
        assert coarse.precision.eps > fine.precision.eps
        assert coarse.precision.stored > fine.precision.stored
        for both in (coarse + fine, fine + coarse):
            assert both.precision == coarse.precision
            assert both.dtype == "float64"

    def test_more_features_than_rows(self):
        rows = make_rows(30, 90)
        model, expected = PPCA(4).fit(in_blocks(rows, (10, 20))), PPCA(4).fit(rows)
        assert_same_model(model, expected, rtol=1e-8)
        assert PPCA().fit(in_blocks(rows, (10, 20))).n_components_ == 30

    def test_partial_fit_adds_blocks_and_rows(self):
        model = PPCA(3).partial_fit(in_blocks(X[:100], (40, 60)))
        model.partial_fit(X[100:110].astype(np.float32)).partial_fit(in_blocks(X[110:], (93,)))
        expected = PPCA(3).partial_fit(X[:100])
        expected.partial_fit(X[100:110].astype(np.float32)).partial_fit(X[110:])
        assert_same_model(model, expected)
        streamed = PPCA(3).partial_fit(in_blocks()).partial_fit(X)
        assert_same_model(streamed, PPCA(3).fit(np.vstack([X, X])))
        one = PPCA(3).partial_fit(in_blocks(X[:1], (1,)))
        assert one.n_samples_ == 1

    def test_what_was_learned_survives_a_bad_batch(self):
        model = PPCA(2).partial_fit(in_blocks())
        before = model.score(X)
        for bad in (in_blocks(np.full((2, D), np.nan), (2,)), in_blocks(X[:, :4])):
            with pytest.raises(ValueError, match=r"NaN|4 features"):
                model.partial_fit(bad)
            with pytest.raises(ValueError, match=r"NaN|between 0 and"):
                model.set_params(n_components=5).fit(bad)
            assert model.set_params(n_components=2).score(X) == before

    def test_a_model_is_pickled_without_its_rows(self):
        model = PPCA(2).fit(in_blocks())
        twin = pickle.loads(pickle.dumps(model))
        assert twin.score(X) == model.score(X)
        assert_same_model(clone(model).fit(in_blocks()), model, rtol=0)

    def test_the_sums_do_not_depend_on_who_is_first(self):
        rows = in_blocks(chunks=(29,) * 7)
        with dask.config.set(scheduler="synchronous"):
            expected = PPCA(2).fit(rows)
        with ThreadPoolExecutor(4) as pool, dask.config.set(pool=pool):
            found = PPCA(2).fit(rows)
        assert pickle.dumps(vars(found)) == pickle.dumps(vars(expected))

    @pytest.mark.parametrize(
        "model", [PPCA(2), PPCACV([1, 2], cv=3), LinearVAE(2), LinearVAE(2).partial_fit], ids=str
    )
    def test_a_task_carries_what_it_needs_and_no_moments(self, model):
        d = 200
        rows = np.random.default_rng(0).normal(size=(2 * d + 10, d)) * np.linspace(1, 3, d)
        fitted = model(rows) if callable(model) else model.fit(rows)
        blocks = in_blocks(rows, (d, d, 10))
        for method in ("transform", "score_samples"):
            graph = dict(getattr(fitted, method)(blocks).__dask_graph__())
            own = {key: task for key, task in graph.items() if key not in blocks.__dask_graph__()}
            assert 0 < len(cloudpickle.dumps(own)) < 3 * d * d


class TestDataFrame:
    def test_names_are_those_of_the_columns(self):
        model = PPCA(2).fit(frame())
        assert_same_model(model, PPCA(2).fit(pd.DataFrame(X, columns=NAMES)))
        assert list(model.feature_names_in_) == NAMES
        assert model.score(frame()) == pytest.approx(model.score(frame().compute()), rel=1e-12)
        Z = model.transform(frame())
        np.testing.assert_allclose(Z, model.transform(frame().compute()), atol=1e-12)
        np.testing.assert_allclose(
            model.inverse_transform(Z), model.inverse_transform(Z.compute()), rtol=1e-12
        )

    def test_other_names_are_refused(self):
        model = PPCA(2).fit(frame())
        with pytest.raises(ValueError, match="feature names should match"):
            model.transform(frame()[NAMES[::-1]])
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            model.transform(in_blocks())

    def test_folds(self):
        model = PPCACV(cv=3).fit(frame())
        assert_same_model(model, PPCACV(cv=3).fit(pd.DataFrame(X, columns=NAMES)))

    def test_columns_of_several_dtypes(self):
        rows = pd.DataFrame(X, columns=NAMES).astype({"a": "float32", "b": int})
        rows["c"] = rows["c"] > 10.0
        model = PPCA(2).fit(dd.from_pandas(rows, npartitions=3))
        assert_same_model(model, PPCA(2).fit(rows))


class TestReads:
    """Every block is read once; what comes back is no larger than moments."""

    @pytest.mark.some(1, "slow")
    @pytest.mark.parametrize(
        "estimator",
        [
            PPCA(2),
            PPCACV(cv=RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)),
            LinearVAE(2, random_state=0),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_fit_reads_each_block_once(self, estimator):
        loader = Loader()
        model = clone(estimator).fit(loader.array)
        assert sorted(loader.reads) == loader.starts
        loader.reads.clear()
        lazy = model.transform(loader.array), model.score_samples(loader.array)
        lazy += (model.inverse_transform(lazy[0]),)
        assert not loader.reads
        model.score(loader.array)
        assert sorted(loader.reads) == loader.starts
        dask.compute(*lazy)
        assert sorted(loader.reads) == sorted(2 * loader.starts)

    def test_only_moments_are_gathered(self):
        rows = make_rows(20_000, D)
        watching = Watching()
        with dask.config.set(scheduler=watching):
            model = PPCA(2).fit(in_blocks(rows, (1000,) * 20))
            PPCACV(cv=5).fit(in_blocks(rows, (1000,) * 20))
            model.score(in_blocks(rows, (1000,) * 20))
        assert len(watching.given) == 3
        from_moments = 8 * (D**2 + D + 1)
        assert watching.given[0] < from_moments + 1500
        assert watching.given[1] < 5 * (from_moments + 1500)
        assert watching.given[2] < 500

    def test_the_sums_are_a_tree(self, monkeypatch):
        sizes, merged = [], dask_arrays._sum_parts

        def counted(found):
            sizes.append(len(found))
            return merged(found)

        monkeypatch.setattr(dask_arrays, "_sum_parts", counted)
        with dask.config.set(scheduler="synchronous"):
            PPCA(2).fit(in_blocks(chunks=(1,) * FAN_IN**3 + (N - FAN_IN**3,)))
        assert max(sizes) == FAN_IN
        assert len(sizes) == 17 + 5 + 2 + 1


class TestMethods:
    @pytest.mark.some(4, "slow")
    @pytest.mark.parametrize("coordinates", ["posterior", "principal", "whitened"])
    @pytest.mark.parametrize("estimator", [PPCA(3), PPCA(0), PPCACV([2], cv=2)], ids=str)
    def test_blocks_give_what_rows_give(self, estimator, coordinates):
        model = clone(estimator).set_params(coordinates=coordinates).fit(X)
        rows = in_blocks(chunks=(0, 3, 100, 100))
        Z = model.transform(rows)
        pairs = [
            (Z, model.transform(X)),
            (model.inverse_transform(Z), model.inverse_transform(model.transform(X))),
            (model.score_samples(rows), model.score_samples(X)),
        ]
        for found, wanted in pairs:
            assert isinstance(found, da.Array)
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            assert found.chunks[0] == rows.chunks[0]
            assert type(found._meta) is np.ndarray
            np.testing.assert_allclose(found.compute(), wanted, rtol=1e-10, atol=1e-10)
        score = model.score(rows)
        assert type(score) is float
        assert score == pytest.approx(model.score(X), rel=1e-12)

    def test_fit_transform_and_pipelines(self):
        expected = PPCA(2).fit_transform(X)
        np.testing.assert_allclose(PPCA(2).fit_transform(in_blocks()), expected, atol=1e-12)
        pipeline = make_pipeline(PPCA(2)).fit(in_blocks())
        np.testing.assert_allclose(pipeline.transform(in_blocks()), expected, atol=1e-12)

    def test_a_later_fit_does_not_change_what_is_lazy(self):
        model = PPCA(2).fit(X)
        expected = model.transform(X)
        lazy = model.transform(in_blocks())
        model.set_params(n_components=3, coordinates="whitened").fit(2.0 * X)
        np.testing.assert_allclose(lazy.compute(), expected, atol=1e-12)

    def test_missing_values_are_taken_where_each_row_is_on_its_own(self):
        rows = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)
        model = PPCA(2).fit(rows)
        blocks = in_blocks(rows)
        for method in ("transform", "score_samples", "impute"):
            expected = getattr(model, method)(rows)
            np.testing.assert_allclose(getattr(model, method)(blocks), expected, rtol=1e-10)
        assert model.score(blocks) == pytest.approx(model.score(rows), rel=1e-12)

    def test_what_is_wrong_shows_before_anything_is_computed(self):
        loader = Loader()
        model = PPCA(2).fit(X)
        for estimator in (PPCA(2), PPCACV(), LinearVAE(2)):
            for method in ("transform", "inverse_transform", "score_samples", "score"):
                with pytest.raises(NotFittedError):
                    getattr(estimator, method)(loader.array)
        with pytest.raises(ValueError, match="5 features, but PPCA is expecting 7"):
            model.transform(loader.array[:, :5])
        with pytest.raises(ValueError, match=r"Z must have 2 columns.*got 7"):
            model.inverse_transform(loader.array)
        with pytest.raises(ValueError, match="Z must not be split along its columns"):
            model.inverse_transform(loader.array[:, :2].rechunk((20, 1)))
        with pytest.raises(ValueError, match="needs a noise variance above 0"):
            PPCA().fit(X[:5]).score(loader.array)
        with pytest.raises(TypeError, match="set_output asks for pandas"):
            PPCA(2).set_output(transform="pandas").fit(X).transform(loader.array)
        assert not loader.reads

    def test_the_block_that_is_wrong_is_named(self):
        rows = X.copy()
        rows[60, 3] = np.inf
        model, blocks = PPCA(2).fit(X), in_blocks(rows)
        for call in (model.score, lambda rows: model.transform(rows).compute()):
            with pytest.raises(ValueError, match=r"Block 1.*infinity"):
                call(blocks)


class TestFolds:
    @pytest.mark.some(3)
    @pytest.mark.parametrize(
        "cv",
        [
            5,
            KFold(4),
            KFold(3, shuffle=True, random_state=0),
            RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
            ShuffleSplit(3, test_size=0.3, random_state=0),
            [(np.arange(100), np.arange(120, 150)), (np.arange(50, 200), np.arange(50))],
        ],
        ids=lambda cv: type(cv).__name__,
    )
    @pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
    def test_scores_are_those_of_the_rows(self, cv, weights):
        model = PPCACV(noise_variance=[None, 0.5], cv=cv)
        found = clone(model).fit(in_blocks(), sample_weight=weights)
        expected = clone(model).fit(X, sample_weight=weights)
        assert_same_model(found, expected)
        assert found.best_params_ == expected.best_params_
        for name, values in expected.cv_results_.items():
            if name.endswith("score"):
                np.testing.assert_array_almost_equal(found.cv_results_[name], values, 10)

    def test_splitters_that_need_y_or_groups_have_them_in_memory(self):
        groups = np.arange(N) % 5
        for cv, given in [
            (StratifiedKFold(3), {"y": groups}),
            (GroupKFold(3), {"groups": groups}),
            (LeaveOneGroupOut(), {"groups": groups}),
        ]:
            expected = PPCACV(cv=cv).fit(X, **given)
            assert_same_model(PPCACV(cv=cv).fit(in_blocks(), **given), expected)
            (name,) = given
            with pytest.raises(TypeError, match=rf"{name} must be in memory.*{name}\.compute"):
                PPCACV(cv=cv).fit(in_blocks(), **{name: da.from_array(groups)})

    def test_fewer_rows_than_features(self):
        rows = make_rows(40, 60)
        found = PPCACV([0, 1, 2, 3], cv=4).fit(in_blocks(rows, (15, 25)))
        expected = PPCACV([0, 1, 2, 3], cv=4).fit(rows)
        np.testing.assert_allclose(
            found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], rtol=1e-9
        )

    @pytest.mark.parametrize(
        ("options", "given", "text"),
        [
            ({"cv": [([0, 0, 1], [2])]}, {}, "must not use a sample more than once"),
            ({}, {"sample_weight": np.zeros(N)}, "positive for some samples, got none"),
            (
                {},
                {"sample_weight": np.arange(N) > 50},
                "held-out samples of every split, got none in split 0",
            ),
            (
                {"cv": [([1, 2], [5])]},
                {"sample_weight": np.arange(N) > 3},
                "training samples of every split",
            ),
            ({"cv": 300}, {}, "cv must be"),
            ({"n_components": 8}, {}, "n_components must be at most 7"),
        ],
    )
    def test_errors(self, options, given, text):
        with pytest.raises(ValueError, match=text):
            PPCACV(**options).fit(in_blocks(), **given)

    @pytest.mark.parametrize(
        ("labels", "most"),
        [
            (np.repeat([3, 0, 400], 500), 50),
            (np.arange(1500) ** 2 % 5, 1600),
            (np.empty(0, int), 8),
        ],
        ids=["runs", "shuffled", "none"],
    )
    def test_labels_travel_in_few_bytes(self, labels, most):
        values, lengths = dask_arrays._in_runs(labels)
        np.testing.assert_array_equal(np.repeat(values, lengths), labels)
        assert values.nbytes + np.asarray(lengths).nbytes <= most

    @pytest.mark.slow
    def test_more_parts_than_a_byte_counts(self):
        rows = make_rows(300, 3)
        model = PPCACV(cv=LeaveOneOut())
        assert_same_model(clone(model).fit(in_blocks(rows, (280, 20))), clone(model).fit(rows))

    def test_unknown_lengths(self):
        rows = in_blocks()
        rows = rows[rows[:, 0] > -1e9]
        with pytest.raises(ValueError, match=r"X\.compute_chunk_sizes\(\) computes"):
            PPCACV().fit(rows)
        assert_same_model(PPCACV().fit(rows.compute_chunk_sizes()), PPCACV().fit(X))

    def test_more_parts_than_memory_holds(self, monkeypatch):
        monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: 5e3)
        with pytest.raises(MemoryError, match=r"PPCACV of a Dask array holds \d+ matrices"):
            PPCACV().fit(in_blocks())


class TestLinearVAE:
    @pytest.mark.parametrize("parametrization", ["standard", "unit_encoder"])
    @pytest.mark.parametrize("noise_variance", [None, 0.4])
    def test_blocks_give_what_rows_give(self, noise_variance, parametrization):
        vae = LinearVAE(
            3, noise_variance=noise_variance, parametrization=parametrization, random_state=0
        )
        found, expected = clone(vae).fit(in_blocks()), clone(vae).fit(X)
        assert_same_model(found, expected)
        for part in ("noise", "dimensions"):
            np.testing.assert_allclose(
                getattr(found.entropy_gap_, part), getattr(expected.entropy_gap_, part), atol=1e-10
            )
        rows = in_blocks()
        Z = found.transform(rows)
        np.testing.assert_allclose(Z, expected.transform(X), atol=1e-9)
        wanted = expected.inverse_transform(expected.transform(X))
        np.testing.assert_allclose(found.inverse_transform(Z), wanted, atol=1e-9)
        np.testing.assert_allclose(found.score_samples(rows), expected.score_samples(X), rtol=1e-9)
        assert found.score(rows) == pytest.approx(expected.score(X), rel=1e-11)
        after, wanted = found.partial_fit(X[:50]), expected.partial_fit(X[:50])
        np.testing.assert_allclose(after.elbo_, wanted.elbo_, rtol=1e-9)

    def test_noise_that_is_small_beside_the_total_variance(self):
        rows = make_rows(N, D, noise=1e-5)
        found, expected = (LinearVAE(3, random_state=0).fit(x) for x in (in_blocks(rows), rows))
        # What the covariance rounds is 1e-16 of the variance, 16, over 1e-10.
        assert found.elbo_ == pytest.approx(expected.elbo_, abs=1e-4)
        assert found.elbo_ == pytest.approx(PPCA(3).fit(rows).elbo_, abs=1e-4)

    @pytest.mark.parametrize("n_components", [0.9, "mle", 6])
    def test_every_way_to_say_k(self, n_components):
        vae = LinearVAE(n_components, random_state=0)
        assert_same_model(clone(vae).fit(in_blocks()), clone(vae).fit(X))

    def test_a_checkpoint_is_of_the_moments(self, tmp_path):
        vae = LinearVAE(2, checkpoint=tmp_path, random_state=0)
        # Sums of integers are exact: another order within the blocks has the same moments.
        rows = np.random.default_rng(0).integers(-3, 4, size=(64, 5)).astype(float)
        other = np.concatenate([rows[31::-1], rows[:31:-1]])
        assert not np.array_equal(rows, other)
        first, again = (clone(vae).fit(in_blocks(data, (32, 32))) for data in (rows, other))
        assert len(list(tmp_path.iterdir())) == 1
        assert_same_model(again, first, rtol=0)
        clone(vae).fit(in_blocks(2.0 * rows, (32, 32)))
        assert len(list(tmp_path.iterdir())) == 2

    def test_errors(self):
        with pytest.raises(ValueError, match=r"between 1 and min\(n_samples, n_features\) = 7"):
            LinearVAE(8).fit(in_blocks())
        with pytest.raises(ValueError, match="at least two different samples"):
            LinearVAE(1).fit(in_blocks(np.ones((20, 3)), (10, 10)))


class TestErrors:
    @pytest.mark.parametrize(
        ("rows", "error", "text"),
        [
            (in_blocks().rechunk((50, 4)), ValueError, r"X.rechunk\(\{1: -1\}\) joins them"),
            (in_blocks()[:, 0], ValueError, "X must have 2 dimensions, got 1"),
            (frame()["a"], ValueError, "X must have 2 dimensions, got 1"),
            (dask.delayed(X), TypeError, "must be a Dask array or DataFrame, got Delayed"),
            (in_blocks()[:, da.arange(D) > 2], ValueError, "known number of features, got nan"),
            (in_blocks()[:, :0], ValueError, r"0 feature\(s\)"),
            (in_blocks()[:1], ValueError, "X must have at least 2 samples, got 1"),
            (in_blocks()[:0], ValueError, "X must have at least 2 samples, got 0"),
            (in_blocks(X.astype(complex)), ValueError, "Complex data"),
            (in_blocks(X.astype("U5")), ValueError, "could not convert"),
            (in_blocks(np.where(X[60, 3] == X, np.nan, X)), ValueError, "Block 1 of X: .*NaN"),
            (in_blocks(np.where(X[60, 3] == X, np.inf, X)), ValueError, "Block 1 of X: .*infinity"),
            (in_blocks(np.where(X[60, 3] == X, None, X)), TypeError, "Block 1 of X: .*NoneType"),
        ],
    )
    def test_rows(self, rows, error, text):
        if error is TypeError and isinstance(rows, da.Array):
            # scikit-learn takes None in arrays of objects for a missing value.
            error, text = ValueError, "Block 1 of X"
        for estimator in (PPCA(2), LinearVAE(2)):
            with pytest.raises(error, match=text):
                clone(estimator).fit(rows)

    @pytest.mark.parametrize("graph", [None, {}])
    def test_what_holds_dask_arrays_is_refused(self, graph):
        class Labelled:  # as xarray's
            shape = X.shape

            def __dask_graph__(self):
                return graph

            def __array__(self, dtype=None, copy=None):
                return X

        if graph is None:
            assert PPCA(2).fit(Labelled()).n_samples_ == N
            return
        with pytest.raises(TypeError, match="must be a Dask array or DataFrame, got Labelled"):
            PPCA(2).fit(Labelled())
        with pytest.raises(TypeError, match="which BernoulliPPCA would load into memory"):
            BernoulliPPCA(2).fit(Labelled())

    def test_blocks_that_are_not_what_they_are_said_to_be(self):
        wrong = da.from_delayed(dask.delayed(np.ones)((3, 4)), (3, D), float)
        with pytest.raises(
            ValueError, match="Block 0 of X: X has 4 features, but PPCA is expecting"
        ):
            PPCA(2).fit(wrong)
        short = da.from_delayed(dask.delayed(np.ones)((3, D)), (9, D), float)
        with pytest.raises(ValueError, match="Block 0 of X: It must have 9 samples"):
            PPCACV([1], cv=2).fit(short)

    @pytest.mark.parametrize(
        ("weights", "text"),
        [
            (np.ones(200), r"must have shape .* \(203,\), got \(200,\)"),
            (
                da.ones(200, chunks=200),
                r"one weight per sample, in the blocks.*got shape \(200,\) in 1 blocks",
            ),
            (da.ones((N, 1)), "sample_weight must have 1 dimension, got 2"),
            (
                -da.ones(N, chunks=50),
                r"Block \d of X: sample_weight must be finite and >= 0, got -1",
            ),
            (da.zeros(N, chunks=50), "positive for at least 2 samples, got 0"),
            (np.arange(N) == 3, "positive for at least 2 samples, got 1"),
        ],
    )
    def test_weights(self, weights, text):
        for estimator in (PPCA(2), LinearVAE(2)):
            with pytest.raises(ValueError, match=text):
                estimator.fit(in_blocks(), sample_weight=weights)

    def test_scores_of_nothing(self):
        model = PPCA(2).fit(X)
        with pytest.raises(ValueError, match="sum of sample_weight must be finite and above 0"):
            model.score(in_blocks(), sample_weight=np.zeros(N))
        with pytest.raises(ValueError, match="number of samples of X must be finite and above 0"):
            model.score(in_blocks()[:0])

    def test_k_beyond_the_rows(self):
        for k, rows in ((8, X), (4, X[:3])):
            with pytest.raises(ValueError, match=r"n_components must be between 0 and min\(n_samp"):
                PPCA(k).fit(in_blocks(rows, (2, len(rows) - 2)))

    def test_squares_that_do_not_fit(self, monkeypatch):
        monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: 2000.0)
        loader = Loader()
        with pytest.raises(MemoryError, match=r"holds 7 matrices of shape \(7, 7\)"):
            PPCA(2).fit(loader.array)
        assert not loader.reads


def test_what_needs_all_rows_refuses_to_gather_them():
    loader, model = Loader(), PPCA(2).fit(X)
    scaled = DensityPipeline([("scale", StandardScaler()), ("ppca", PPCA(2))]).fit(X)
    levels, vae = (X > 10.0).astype(int), DeepGaussianVAE(2, max_epochs=1).fit(X)
    calls = [
        *(
            estimator.fit
            for estimator in (
                BernoulliPPCA(2),
                PPCAImputer(2),
                LinearVAE(2, solver="adam"),
                LinearVAE(2, solver="stochastic"),
                DeepGaussianVAE(2),
                DeepBernoulliVAE(2),
                DeepAutoencoder(2),
                Dequantizer(),
                LogitTransformer(),
            )
        ),
        LinearVAE(2).partial_fit,
        LinearVAE(2).fit(X).posterior,
        LinearVAE(2).fit(X).log_likelihood,
        lambda rows: LinearVAE(2).fit(X).conditional(rows[:, :2]),
        vae.transform,
        lambda rows: vae.inverse_transform(rows[:, :2]),
        Dequantizer(2).fit(levels).inverse_transform,
        scaled.score_samples,
        scaled.score,
        model.posterior,
        lambda rows: model.impute(rows, return_std=True),
        lambda rows: model.conditional(rows[:, :2]),
        lambda rows: diagnose(model, rows),
        lambda rows: entropy_bound(model, rows),
        lambda rows: LikelihoodSurfaceDisplay.from_estimator(model, rows),
        make_missing,
    ]
    for call in calls:
        match = r"is a Dask Array, which \w+ would load into memory.* FactorAnalysis and LinearVAE"
        with pytest.raises(TypeError, match=match):
            call(loader.array)
        assert not loader.reads, call
