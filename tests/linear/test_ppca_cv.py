"""PPCACV against brute force: one fit a candidate and split."""

import pickle
import warnings

import array_api_strict
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn import clone, config_context
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    LeavePGroupsOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, PPCACV, Moments
from sklearn_vae.linear import folds
from tests.helpers import RECORDS
from tests.linear.data import make_rows

TALL, WIDE = (60, 8), (40, 90)
NOISES = [None, 0.3, 2.0]
BOOTSTRAP = [
    (np.r_[0:30, 0:10, 5], np.r_[30:40]),
    (np.r_[10:40], np.r_[0:10, 3]),
    (np.arange(40) >= 15, np.arange(40) < 15),
]
SPLITTERS = {
    "5": 5,
    "shuffled": KFold(4, shuffle=True, random_state=0),
    "repeated": RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
    "shuffle": ShuffleSplit(6, random_state=0, test_size=0.3),
    "time": TimeSeriesSplit(4),
    "one": LeaveOneOut(),
    "predefined": PredefinedSplit(np.r_[np.full(10, -1), np.arange(30) % 3]),
    "bootstrap": BOOTSTRAP,
}


def scores_of(results):
    return {name: value for name, value in results.items() if "test_score" in name}


def brute_force(X, ks, noises, cv, weights=None, y=None, **fit_params):
    grid = {"n_components": ks, "noise_variance": noises}
    model = PPCA(svd_solver="full")
    with warnings.catch_warnings(), config_context(enable_metadata_routing=weights is not None):
        warnings.simplefilter("ignore")  # where the likelihood is unbounded, and score raises
        if weights is not None:
            model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            fit_params["sample_weight"] = weights
        return GridSearchCV(model, grid, cv=cv, error_score=np.nan).fit(X, y, **fit_params)


def assert_same_search(model, search, tolerance=1e-9):
    ours, theirs = scores_of(model.cv_results_), scores_of(search.cv_results_)
    assert set(ours) == set(theirs)
    for name in ours:
        if not name.startswith("rank"):
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=0, atol=tolerance, err_msg=name
            )
    assert model.cv_results_["params"] == search.cv_results_["params"]
    assert model.best_params_ == search.best_params_
    assert model.best_index_ == search.best_index_
    assert model.best_score_ == pytest.approx(search.best_score_, abs=tolerance)
    assert model.n_splits_ == search.n_splits_


class TestAgainstBruteForce:
    @pytest.mark.cover(1, 2)
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("offset", [0.0, 100.0])
    @pytest.mark.parametrize("shape", [TALL, WIDE])
    @pytest.mark.parametrize("cv", SPLITTERS)
    def test_every_pair_of_every_splitter(self, shape, cv, offset, weighted):
        rng = np.random.default_rng(0)
        # "one" has as many splits as rows.
        X = make_rows(*shape, offset=offset)[: 12 if cv == "one" else 40]
        weights = rng.choice([0.0, 0.5, 1.0, 3.0], size=len(X)) if weighted else None
        if cv == "one" and weighted:
            weights[weights == 0] = 1.0
        ks = [0, 2, 5]
        model = PPCACV(ks, noise_variance=NOISES, cv=SPLITTERS[cv])
        model.fit(X, sample_weight=weights)
        search = brute_force(X, ks, NOISES, SPLITTERS[cv], weights)
        assert_same_search(model, search)
        whole = PPCA(**search.best_params_, svd_solver="full").fit(X, sample_weight=weights)
        for name, value in vars(whole).items():
            if name.endswith("_") and name not in RECORDS:
                found = getattr(model, name)
                np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-8, err_msg=name)
        assert model.score(X) == pytest.approx(whole.score(X), rel=1e-9)
        np.testing.assert_allclose(model.transform(X), whole.transform(X), atol=1e-8)

    @pytest.mark.some(2)
    @pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix])
    @pytest.mark.parametrize("shape", [TALL, WIDE])
    def test_sparse_rows(self, container, shape):
        rng = np.random.default_rng(0)
        X = np.where(rng.uniform(size=shape) < 0.4, make_rows(*shape), 0.0)
        cv = KFold(4, shuffle=True, random_state=0)
        model = PPCACV([1, 2, 4], noise_variance=NOISES, cv=cv).fit(container(X))
        assert_same_search(model, brute_force(X, [1, 2, 4], NOISES, cv))

    def test_memory_mapped_rows(self, tmp_path):
        X = np.round(10 * make_rows(5000, 12)).astype(np.int16)
        np.save(tmp_path / "rows.npy", X)
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        cv = KFold(3, shuffle=True, random_state=0)
        model = PPCACV([1, 2, 4], cv=cv).fit(mapped)
        assert_same_search(model, brute_force(X, [1, 2, 4], [None], cv), tolerance=1e-8)

    @pytest.mark.some(2)
    @pytest.mark.parametrize("asarray", [torch.asarray, array_api_strict.asarray])
    @pytest.mark.parametrize("shape", [TALL, WIDE])
    def test_arrays_of_other_libraries(self, shape, asarray):
        X = make_rows(*shape)
        cv = KFold(4, shuffle=True, random_state=0)
        with config_context(array_api_dispatch=True):
            model = PPCACV([1, 2, 4], noise_variance=NOISES, cv=cv).fit(asarray(X))
            Z = model.transform(asarray(X))
        assert type(Z) is type(asarray(X))
        assert_same_search(model, brute_force(X, [1, 2, 4], NOISES, cv))

    def test_unbounded_likelihoods_are_nan(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 7))
        ks = list(range(8))
        model = PPCACV(ks).fit(X)
        search = brute_force(X, ks, [None], 5)
        assert np.isnan(model.cv_results_["mean_test_score"]).sum() == 5
        assert_same_search(model, search)
        # GridSearchCV's ranks of nan depend on its release; they come last.
        bounded = ~np.isnan(search.cv_results_["mean_test_score"])
        ranks = model.cv_results_["rank_test_score"]
        np.testing.assert_array_equal(
            ranks[bounded], search.cv_results_["rank_test_score"][bounded]
        )
        assert (ranks[~bounded] == bounded.sum() + 1).all()

    def test_all_features_of_full_rank_are_bounded(self):
        X = load_iris().data
        model = PPCACV(cv=KFold(5, shuffle=True, random_state=0)).fit(X)
        assert [p["n_components"] for p in model.cv_results_["params"]] == [0, 1, 2, 3, 4]
        cv = KFold(5, shuffle=True, random_state=0)
        assert_same_search(model, brute_force(X, [0, 1, 2, 3, 4], [None], cv))

    def test_an_outlier_in_a_fold_leaves_the_others_alone(self):
        X = make_rows(60, 6)
        X[3] = 1e7
        model = PPCACV([1, 2, 3], cv=5).fit(X)
        search = brute_force(X, [1, 2, 3], [None], 5)
        # The outlier's own fold is the only one that it is not trained on.
        np.testing.assert_allclose(
            model.cv_results_["split0_test_score"],
            search.cv_results_["split0_test_score"],
            rtol=1e-10,
        )

    @pytest.mark.parametrize("far", ["row", "column"])
    def test_gram_of_wide_rows_far_from_each_other(self, far):
        X = make_rows(*WIDE)
        X[(2, slice(None)) if far == "row" else (slice(None), 2)] += 1e5
        model = PPCACV([1, 2, 3], noise_variance=NOISES).fit(X)
        search = brute_force(X, [1, 2, 3], NOISES, 5)
        for name, value in scores_of(search.cv_results_).items():
            # The far row's own fold is the only one that it is not trained on. In the others it
            # makes an eigenvalue 1e11 times the rest: a Gram matrix has 5 digits left for these.
            close = 1e-6 if far == "row" and not name.startswith("split0") else 1e-10
            np.testing.assert_allclose(model.cv_results_[name], value, rtol=close, err_msg=name)

    def test_collapsed_dimensions_rank_equal_and_the_first_is_chosen(self):
        X = make_rows(80, 7)
        model = PPCACV(range(8), noise_variance=[3.0, 2.5]).fit(X)
        results = model.cv_results_
        same = results["mean_test_score"] >= results["mean_test_score"].max() - 1e-10
        assert same.sum() > 1
        assert (results["rank_test_score"][same] == 1).all()
        assert model.best_index_ == np.flatnonzero(same)[0]


class TestReadsTheDataOnce:
    @pytest.mark.parametrize(
        ("cv", "reads"),
        [
            (5, 1),
            (KFold(5, shuffle=True, random_state=0), 1),
            (LeaveOneOut(), 1),
            (TimeSeriesSplit(5), 1),
            (RepeatedKFold(n_splits=5, n_repeats=3, random_state=0), 3),
            (ShuffleSplit(4, random_state=0), 4),
        ],
    )
    def test_number_of_rows_read(self, cv, reads, monkeypatch):
        X = make_rows(60, 5)
        rows = []

        class CountingMoments(Moments):
            @classmethod
            def of(cls, part, weights=None, **options):
                rows.append(len(part))
                return Moments.of(part, weights, **options)

        monkeypatch.setattr(folds, "Moments", CountingMoments)
        PPCACV(cv=cv).fit(X)
        assert sum(rows) == reads * 60

    @pytest.mark.parametrize(("d", "most"), [(1000, 11), (1100, 10), (5000, 10), (100, 1118)])
    def test_scatters_of_a_plan_fit_in_256_mib_or_are_those_of_10_splits(self, d, most):
        X = np.broadcast_to(0.0, (1500, d))
        splits = list(KFold(min(most + 3, 1500)).split(X))
        sizes = [len(plan[0]) for plan in folds.MomentFolds(X, None, splits)._plans()]
        assert sizes == [most, 3]

    def test_roles_of_parts_are_those_of_their_samples(self):
        splits = [
            *KFold(3).split(np.zeros(12)),
            (np.arange(5), np.arange(7, 9)),  # which leaves some out
            (np.array([0, 1, 1]), np.array([2])),  # and one that repeats
            (np.array([3, 4]), np.array([4, 5])),
        ]
        plans = list(folds._make_plans(splits, 12, 100))
        assert [len(group) for group, _, _ in plans] == [3, 1, 1, 1]
        for group, parts, roles in plans[:2]:
            for (train, test), row in zip(group, roles, strict=True):
                assert sorted(np.flatnonzero(row[parts] == folds.TRAINING)) == sorted(train)
                assert sorted(np.flatnonzero(row[parts] == folds.HELD_OUT)) == sorted(test)
        assert [roles.shape for _, _, roles in plans] == [(3, 3), (1, 3), (1, 0), (1, 0)]


class TestSelection:
    def test_one_standard_error(self):
        X = load_digits().data[:600]
        best = PPCACV(range(1, 40)).fit(X)
        simple = PPCACV(range(1, 40), selection="one_standard_error").fit(X)
        results = best.cv_results_
        scores = np.array([results[f"split{i}_test_score"] for i in range(5)])
        mean = scores.mean(axis=0)
        error = scores[:, mean.argmax()].std(ddof=1) / np.sqrt(5)
        within = np.flatnonzero(mean >= mean.max() - error)
        assert simple.n_components_ == within.min() + 1 < best.n_components_
        assert simple.best_score_ == mean[within.min()]
        assert best.best_score_ == mean.max()
        np.testing.assert_array_equal(simple.cv_results_["mean_test_score"], mean)

    def test_the_better_noise_of_the_fewest_components(self):
        X = make_rows(80, 7, k=2)
        model = PPCACV([2, 3, 4], noise_variance=[0.24, 0.25, 0.26], selection="one_standard_error")
        model.fit(X)
        assert model.n_components_ == 2
        mean = model.cv_results_["mean_test_score"][:3]
        assert model.noise_variance_ == [0.24, 0.25, 0.26][mean.argmax()]

    def test_a_bad_candidate_does_not_blur_the_others(self):
        X = load_digits().data[:400]
        ks = range(10, 40)
        alone = PPCACV(ks).fit(X)
        beside = PPCACV(ks, noise_variance=[1e-12, None]).fit(X)
        assert beside.best_params_ == alone.best_params_
        assert (beside.cv_results_["rank_test_score"] == 1).sum() == 1

    def test_pure_noise_gets_no_components(self):
        X = np.random.default_rng(0).normal(size=(60, 20))
        model = PPCACV().fit(X)
        assert model.n_components_ == 0
        assert model.transform(X).shape == (60, 0)

    def test_the_truth_is_found(self):
        X = make_rows(500, 20, k=3)
        model = PPCACV(cv=10).fit(X)
        assert model.n_components_ == 3
        assert model.noise_variance_ == pytest.approx(0.25, rel=0.05)
        assert model.best_params_ == {"n_components": 3, "noise_variance": None}


class TestRouting:
    def test_groups(self):
        X, groups = make_rows(60, 5), np.repeat(np.arange(6), 10)
        for cv in (GroupKFold(3), LeavePGroupsOut(2)):
            model = PPCACV([1, 2], cv=cv).fit(X, groups=groups)
            assert_same_search(model, brute_force(X, [1, 2], [None], cv, groups=groups))
            with config_context(enable_metadata_routing=True):
                routed = PPCACV([1, 2], cv=cv).fit(X, groups=groups)
            np.testing.assert_array_equal(
                routed.cv_results_["mean_test_score"], model.cv_results_["mean_test_score"]
            )

    def test_groups_and_weights_through_a_pipeline(self):
        X, groups = make_rows(60, 5), np.repeat(np.arange(6), 10)
        weights = np.random.default_rng(0).uniform(size=60)
        with config_context(enable_metadata_routing=True):
            step = PPCACV([1, 2], cv=GroupKFold(3)).set_fit_request(sample_weight=True)
            scaler = StandardScaler().set_fit_request(sample_weight=False)
            pipeline = make_pipeline(scaler, step)
            pipeline.fit(X, groups=groups, sample_weight=weights)
        Z = StandardScaler().fit_transform(X)
        expected = PPCACV([1, 2], cv=GroupKFold(3)).fit(Z, groups=groups, sample_weight=weights)
        assert pipeline[-1].best_score_ == expected.best_score_

    def test_stratified(self):
        X, y = load_iris(return_X_y=True)
        cv = StratifiedKFold(5)
        model = PPCACV([1, 2], cv=cv).fit(X, y)
        assert_same_search(model, brute_force(X, [1, 2], [None], cv, y=y))

    @pytest.mark.skipif(
        tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
        reason="scikit-learn copied generators when it routed metadata",
    )
    def test_a_generator_of_splits(self):
        X, weights = make_rows(60, 5), np.random.default_rng(0).uniform(size=60)
        with config_context(enable_metadata_routing=True):
            model = PPCACV([1, 2], cv=KFold(3).split(X)).set_fit_request(sample_weight=True)
            model.fit(X, sample_weight=weights)
        expected = PPCACV([1, 2], cv=3).fit(X, sample_weight=weights)
        assert model.best_score_ == expected.best_score_
        with pytest.raises(ValueError, match="at least one split, got none"):
            model.fit(X)

    def test_what_is_not_asked_for(self):
        with pytest.raises(TypeError, match=r"accepts only 'groups' .* got \['colour'\]"):
            PPCACV().fit(make_rows(), colour=1)


class TestResults:
    def test_pandas(self):
        model = PPCACV([1, 2], noise_variance=[None, 0.5]).fit(make_rows())
        frame = pd.DataFrame(model.cv_results_)
        assert list(frame["param_n_components"]) == [1, 1, 2, 2]
        assert frame["param_n_components"].dtype == int
        assert list(frame["param_noise_variance"]) == [None, 0.5, None, 0.5]
        assert frame["rank_test_score"].min() == 1
        assert frame.loc[model.best_index_, "mean_test_score"] == model.best_score_
        numeric = pd.DataFrame(PPCACV([1], noise_variance=[0.5, 1]).fit(make_rows()).cv_results_)
        assert numeric["param_noise_variance"].dtype == float

    @pytest.mark.parametrize(
        "ks", [3, [3], (3,), range(3, 4), np.array([3]), np.array(3), np.int64(3)]
    )
    @pytest.mark.parametrize("noise", [0.5, [0.5], np.array([0.5]), (np.float32(0.5),), None])
    def test_candidates_of_any_kind(self, ks, noise):
        model = PPCACV(ks, noise_variance=noise).fit(make_rows())
        assert model.n_components_ == 3
        assert len(model.cv_results_["params"]) == 1
        clone(model)
        assert pickle.loads(pickle.dumps(model)).best_score_ == model.best_score_

    def test_inside_a_search_and_a_pipeline(self):
        X = make_rows(90, 6)
        nested = GridSearchCV(
            make_pipeline(StandardScaler(), PPCACV(cv=3)),
            {"ppcacv__selection": ["best", "one_standard_error"]},
            cv=3,
            error_score="raise",
        ).fit(X)
        assert np.isfinite(nested.best_score_)
        names = nested.best_estimator_.get_feature_names_out()
        assert list(names) == [f"ppcacv{i}" for i in range(len(names))]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": -1}, r"n_components must be None, an integer >= 0 or a seq.* got -1\."),
        ({"n_components": [1, 2.5]}, r"got \[1, 2\.5\]\."),
        ({"n_components": "mle"}, r"got 'mle'\."),
        ({"n_components": 0.5}, r"got 0\.5\."),
        ({"n_components": [1, None]}, r"got \[1, None\]\."),
        ({"n_components": []}, r"n_components must have at least one candidate, got none\."),
        ({"noise_variance": []}, r"noise_variance must have at least one candidate, got none\."),
        ({"noise_variance": [None, -1]}, r"noise_variance must be None or a positive .* got -1\."),
        ({"noise_variance": "mle"}, r"noise_variance must be None or a positive .* got 'mle'\."),
        ({"selection": "first"}, r"selection must be one of 'best', 'one_standard_error', got"),
        ({"coordinates": "white"}, r"coordinates must be one of .*, got 'white'\."),
        ({"n_components": 8}, r"at most 7, the minimum of n_features and .*, got 8\."),
        ({"n_components": 30, "cv": 2}, r"at most 7, "),
        ({"cv": []}, r"cv must yield at least one split, got none"),
        (
            {"cv": [(np.arange(3), [])]},
            r"at least 1 held-out sample in every split, got 0 in split 0\.",
        ),
        (
            {"cv": [([3], np.arange(3))]},
            r"at least 2 training samples in every split, got 1 in split 0\.",
        ),
        (
            {"cv": [(np.arange(9), np.arange(9, 12))], "selection": "one_standard_error"},
            r"selection='one_standard_error' needs at least 2 splits, got 1\.",
        ),
        ({"cv": 100}, r"n_splits=100 greater than the number of samples"),
    ],
)
def test_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        PPCACV(**parameters).fit(make_rows())


class TestWhatDoesNotFit:
    @pytest.mark.parametrize("shape", [TALL, WIDE])
    def test_infinite_rows(self, shape):
        X = make_rows(*shape)
        model = PPCACV([1]).fit(X)
        X[3, 2] = np.inf
        with pytest.raises(ValueError, match="infinity"):
            model.fit(X)
        assert np.isfinite(model.score(make_rows(*shape)))

    def test_no_bounded_candidate(self):
        X = np.outer(np.arange(20.0), np.ones(5))
        with pytest.raises(
            ValueError, match="No candidate has a bounded likelihood in every split"
        ):
            PPCACV([1, 2]).fit(X)

    @pytest.mark.parametrize("shape", [TALL, WIDE])
    def test_a_split_without_weight(self, shape):
        X = make_rows(*shape)
        weights = np.ones(len(X))
        weights[: len(X) // 5] = 0.0
        with pytest.raises(
            ValueError, match="positive for some held-out samples of every split, got"
        ):
            PPCACV([1]).fit(X, sample_weight=weights)


def test_results_keep_numbers_of_any_kind():
    noises = [1, 0.5, 10**30]
    model = PPCACV([1], noise_variance=noises, cv=2).fit(load_iris().data)
    assert list(model.cv_results_["param_noise_variance"]) == noises


def test_infinite_values_are_refused_where_entries_are_held_out():
    X = np.array([[np.inf, 1.0], [2.0, 0.5], [0.1, 0.3], [1.0, 2.0]])
    with pytest.raises(ValueError, match="X contains infinity"):
        PPCACV([1], cv=2, held_out="entries").fit(X)
