"""Cross-validation with missing values and held-out entries, against one fit per candidate."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit

from sklearn_vae import PPCA, PPCACV, FactorAnalysis, FactorAnalysisCV, Moments
from sklearn_vae.datasets import make_missing
from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE
from sklearn_vae.linear import factor_analysis_cv, ppca_cv
from tests.linear.data import make_rows
from tests.sharing import shared

# The scores of GridSearchCV depend on the tolerance of PPCA's EM: this one is beyond 1e-6 nats.
EXACT = {"tol": 1e-13, "max_iter": 10_000}
NOISES = [None, 0.3, 2.0]


@shared
def incomplete():
    """Samples of which 15 % of the values are missing."""
    return make_missing(make_rows(90, 9, k=3), 0.15, random_state=0)


def make_factors(n=240, d=9, k=2):
    """Draw samples of a factor model without Heywood cases."""
    rng = np.random.default_rng(3)
    psi = rng.uniform(0.5, 1.5, size=d)
    W = np.where(np.arange(d)[:, None] % k == np.arange(k), 1.5, 0.4)
    return rng.normal(size=(n, k)) @ W.T + psi**0.5 * rng.normal(size=(n, d))


@shared
def incomplete_factors():
    """Samples of a factor model of which 15 % of the values are missing."""
    return make_missing(make_factors(), 0.15, random_state=0)


def split_scores(results):
    return np.array([value for name, value in results.items() if name.startswith("split")])


def grid_search(model, grid, X, cv, weights=None, **params):
    """Return the scores of GridSearchCV, (n_splits, n_candidates)."""
    with warnings.catch_warnings(), config_context(enable_metadata_routing=weights is not None):
        warnings.simplefilter("ignore", ConvergenceWarning)
        if weights is not None:
            model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            params["sample_weight"] = weights
        return split_scores(GridSearchCV(model, grid, cv=cv).fit(X, **params).cv_results_)


class TestMissingValues:
    @pytest.mark.some(1, "slow")
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("cv", [3, ShuffleSplit(2, random_state=0)])
    def test_scores_of_ppca_are_those_of_grid_search(self, cv, weighted):
        X = incomplete()
        rng = np.random.default_rng(0)
        weights = rng.choice([0.0, 0.5, 1.0, 3.0], size=len(X)) if weighted else None
        grid = {"n_components": [4, 0, 2, 3], "noise_variance": NOISES}
        model = PPCACV(**grid, cv=cv).fit(X, sample_weight=weights)
        expected = grid_search(PPCA(**EXACT), grid, X, cv, weights)
        np.testing.assert_allclose(split_scores(model.cv_results_), expected, rtol=0, atol=1e-6)

    def test_tiny_values_change_scores_by_their_unit_only(self):
        X, unit = incomplete(), 2.0**-530  # whose square float64 cannot hold
        here, there = (
            split_scores(PPCACV([1, 3], cv=2).fit(samples).cv_results_) for samples in (X, X * unit)
        )
        observed = [np.mean(np.sum(~np.isnan(part), axis=1)) for part in np.array_split(X, 2)]
        change = -np.log(unit) * np.array(observed)[:, None]
        np.testing.assert_allclose(there - here, np.tile(change, 2), rtol=1e-9)

    def test_the_chosen_model_is_fitted_to_all_samples(self):
        X = incomplete()
        model = PPCACV([1, 2, 3, 4]).fit(X)
        assert model.n_components_ == 3
        single = PPCA(3).fit(X)
        for name in ("loadings_", "mean_", "noise_variance_", "elbo_", "kl_per_dim_"):
            np.testing.assert_array_equal(getattr(model, name), getattr(single, name))
        assert model.get_params() == PPCACV([1, 2, 3, 4]).get_params()
        np.testing.assert_array_equal(model.impute(X), single.impute(X))

    def test_data_frames_and_groups(self):
        X, groups = incomplete(), np.repeat(np.arange(9), 10)
        frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
        model = PPCACV([1, 2], cv=GroupKFold(3)).fit(frame, groups=groups)
        assert list(model.feature_names_in_) == list(frame.columns)
        expected = grid_search(
            PPCA(**EXACT), {"n_components": [1, 2]}, X, GroupKFold(3), groups=groups
        )
        np.testing.assert_allclose(split_scores(model.cv_results_), expected, rtol=0, atol=1e-6)

    @pytest.mark.slow
    def test_scores_with_very_different_units(self):
        X = incomplete()[:, :6] * np.array([1.0, 1.0, 1e3, 1.0, 1e5, 1e-3])
        with warnings.catch_warnings():  # PPCA ends at the precision of float64
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores = split_scores(PPCACV([0, 1, 2, 3], cv=3).fit(X).cv_results_)
        expected = grid_search(PPCA(**EXACT), {"n_components": [0, 1, 2, 3]}, X, 3)
        # Rounding errors are relative to the largest variance.
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)

    def test_extrapolation_beyond_the_bound_of_the_noise_is_no_unbounded_likelihood(self):
        X = incomplete()[:16, :6]
        scores = split_scores(PPCACV([3], cv=4).fit(X).cv_results_)
        expected = grid_search(PPCA(**EXACT), {"n_components": [3]}, X, 4)
        np.testing.assert_allclose(scores, expected, rtol=1e-3)

    def test_unbounded_likelihoods_are_nan(self):
        X = make_missing(make_rows(14, 12), 0.1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores = PPCACV([0, 1, 7], cv=2).fit(X).cv_results_["mean_test_score"]
        np.testing.assert_array_equal(np.isnan(scores), [False, False, True])

    def test_complete_data_in_the_form_of_incomplete_data(self):
        # One missing value changes the scores little: both ways agree.
        X = make_rows(80, 6, k=2)
        complete = PPCACV([0, 1, 2, 3]).fit(X).cv_results_["mean_test_score"]
        X = np.vstack([X, np.r_[np.nan, X[0, 1:]]])
        cv = [(train, test) for train, test in KFold(5).split(X[:80])]
        nearly = PPCACV([0, 1, 2, 3], cv=cv).fit(X).cv_results_["mean_test_score"]
        np.testing.assert_allclose(nearly, complete, rtol=0, atol=1e-9)

    def test_a_feature_without_training_values(self):
        X = make_rows(20, 4)
        X[5:, 2] = np.nan
        with pytest.raises(ValueError, match="only NaN in column 2 in split 0"):
            PPCACV([1], cv=KFold(4)).fit(X)


def conditional_log_density(x, given, wanted, mean, C):
    """Log-density of some entries of a sample given others, from dense matrices."""

    def log_density(o):
        if not o.any():
            return 0.0
        y, S = x[o] - mean[o], C[np.ix_(o, o)]
        log_det = np.linalg.slogdet(S)[1]
        return -0.5 * (o.sum() * np.log(2.0 * np.pi) + log_det + y @ np.linalg.solve(S, y))

    return log_density(given | wanted) - log_density(given)


class TestEntries:
    @pytest.mark.cover(1, 2)
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("is_complete", [True, False])
    @pytest.mark.parametrize("search", [PPCACV, FactorAnalysisCV])
    def test_scores_are_conditional_log_densities(self, search, is_complete, weighted):
        single = {PPCACV: PPCA, FactorAnalysisCV: FactorAnalysis}[search]
        X = make_factors() if is_complete else incomplete_factors()
        rng = np.random.default_rng(0)
        weights = rng.choice([0.0, 0.5, 1.0, 3.0], size=len(X)) if weighted else None
        w = np.ones(len(X)) if weights is None else weights
        cv = KFold(3, shuffle=True, random_state=1)
        model = search([1, 2], cv=cv, held_out="entries").fit(X, sample_weight=weights)
        entries = np.argwhere(~np.isnan(X))
        for split, (train, test) in enumerate(cv.split(entries)):
            given, wanted = np.zeros(X.shape, dtype=bool), np.zeros(X.shape, dtype=bool)
            given[tuple(entries[train].T)] = wanted[tuple(entries[test].T)] = True
            for i, k in enumerate([1, 2]):
                fit = single(k, **EXACT).fit(np.where(given, X, np.nan), sample_weight=weights)
                parameters = fit.mean_, fit.get_covariance()
                total = sum(
                    v * conditional_log_density(x, g, t, *parameters)
                    for v, x, g, t in zip(w, X, given, wanted, strict=True)
                )
                expected = total / (w @ wanted.sum(axis=1))
                score = model.cv_results_[f"split{split}_test_score"][i]
                assert score == pytest.approx(expected, abs=1e-6)

    def test_an_integer_shuffles_the_entries(self):
        X = make_rows(60, 6, k=2)
        shuffled = PPCACV([1, 2, 3], cv=3, held_out="entries").fit(X)
        cv = KFold(3, shuffle=True, random_state=0)
        explicit = PPCACV([1, 2, 3], cv=cv, held_out="entries").fit(X)
        np.testing.assert_array_equal(
            split_scores(shuffled.cv_results_), split_scores(explicit.cv_results_)
        )
        assert shuffled.n_components_ == 2
        np.testing.assert_array_equal(shuffled.loadings_, PPCA(2).fit(X).loadings_)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"held_out": "columns"}, "held_out must be one of 'samples', 'entries', got"),
            ({"held_out": "entries", "cv": 1}, "cv must be an integer >= 2"),
            ({"held_out": "entries", "cv": [([0], [1, 2])]}, "at least 2 training entries"),
            ({"held_out": "entries", "n_components": 7}, "at most 6, n_features, got 7"),
        ],
    )
    @pytest.mark.parametrize("search", [PPCACV, FactorAnalysisCV])
    def test_parameters(self, search, options, message):
        with pytest.raises(ValueError, match=message):
            search(**options).fit(make_rows(30, 6))

    def test_entries_must_be_in_memory(self):
        from scipy import sparse

        with pytest.raises(ValueError, match="dense array in memory, got csr"):
            PPCACV([1], held_out="entries").fit(sparse.csr_array(make_rows(30, 6)))


def test_constant_features_are_scored():
    X = np.full((12, 2), 3.0)
    X[0, 0] = np.nan
    model = PPCACV([0, 1], noise_variance=1.0, cv=2).fit(X)
    assert model.cv_results_["mean_test_score"] == pytest.approx(
        -0.5 * np.log(2 * np.pi) * np.array([23 / 12, 23 / 12])
    )


def test_a_warm_start_does_not_end_at_a_lower_maximum():
    # From the model of one component EM ends 0.1 nats below the maximum from the mean.
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)) + 100.0
    X[rng.random(X.shape) < 0.3] = np.nan
    X[7] = np.nan
    weights = rng.choice([0.0, 1.0, 2.5], size=40)
    options = {"cv": KFold(3, shuffle=True, random_state=0), "held_out": "entries"}
    warm = PPCACV([1, 2], **options).fit(X, sample_weight=weights)
    alone = PPCACV([2], **options).fit(X, sample_weight=weights)
    np.testing.assert_allclose(
        split_scores(warm.cv_results_)[:, 1], split_scores(alone.cv_results_)[:, 0], atol=1e-4
    )


class TestFactorAnalysisCV:
    @pytest.mark.some(1, "slow")
    @pytest.mark.parametrize("shape", [(240, 9), (40, 60)])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_scores_are_those_of_grid_search(self, shape, weighted):
        X = make_factors(*shape) * np.geomspace(1.0, 20.0, shape[1]) + 100.0
        rng = np.random.default_rng(0)
        weights = rng.choice([0.0, 0.5, 1.0, 3.0], size=len(X)) if weighted else None
        grid = {"n_components": [2, 0, 1]}
        model = FactorAnalysisCV(**grid, cv=3).fit(X, sample_weight=weights)
        expected = grid_search(FactorAnalysis(), grid, X, 3, weights)
        np.testing.assert_allclose(split_scores(model.cv_results_), expected, rtol=0, atol=1e-6)
        assert model.best_params_ == {"n_components": model.n_components_}
        single = FactorAnalysis(model.n_components_).fit(X, sample_weight=weights)
        np.testing.assert_array_equal(model.loadings_, single.loadings_)

    def test_constant_features_with_missing_values(self):
        constant = np.where(np.arange(240) % 7 == 0, np.nan, 0.1)
        X, grid = np.c_[incomplete_factors(), constant], {"n_components": [0, 1, 2]}
        model = FactorAnalysisCV(**grid, cv=3).fit(X)
        expected = grid_search(FactorAnalysis(tol=1e-12), grid, X, 3)
        np.testing.assert_allclose(split_scores(model.cv_results_), expected, rtol=0, atol=1e-6)

    def test_constant_features_with_held_out_entries(self):
        # A constant is predicted with the same density by every model.
        X, constant = incomplete_factors(), np.full(240, 0.1)
        n, rng = np.count_nonzero(~np.isnan(X)), np.random.default_rng(0)
        held_out = rng.permutation(n + 240)[:400]
        columns = np.nonzero(~np.isnan(np.c_[X, constant]))[1]
        others = held_out[columns[held_out] < 9]
        cv = [(np.setdiff1d(np.arange(n + 240), held_out), held_out)]
        both = FactorAnalysisCV([0, 2], cv=cv, held_out="entries").fit(np.c_[X, constant])
        index = np.cumsum(columns < 9) - 1
        cv = [(np.setdiff1d(np.arange(n), index[others]), index[others])]
        without = FactorAnalysisCV([0, 2], cv=cv, held_out="entries").fit(X)
        expected = len(others) * without.cv_results_["mean_test_score"]
        expected -= 0.5 * (400 - len(others)) * np.log(2 * np.pi * CONSTANT_NOISE)
        np.testing.assert_allclose(400 * both.cv_results_["mean_test_score"], expected, atol=1e-4)

    def test_a_feature_without_values(self):
        X = make_factors()
        X[:, 3] = np.nan
        with pytest.raises(ValueError, match="only NaN in column 3"):
            FactorAnalysisCV([1]).fit(X)

    @pytest.mark.some(1, "slow")
    @pytest.mark.parametrize("weighted", [False, True])
    def test_missing_values(self, weighted):
        X = incomplete_factors() * np.geomspace(1.0, 5.0, 9)
        rng = np.random.default_rng(0)
        weights = rng.choice([0.0, 0.5, 1.0, 3.0], size=len(X)) if weighted else None
        grid = {"n_components": [0, 1, 2]}
        model = FactorAnalysisCV(**grid, cv=3).fit(X, sample_weight=weights)
        expected = grid_search(FactorAnalysis(**EXACT), grid, X, 3, weights)
        np.testing.assert_allclose(split_scores(model.cv_results_), expected, rtol=0, atol=1e-6)

    @pytest.mark.some(1, "slow")
    @pytest.mark.parametrize("held_out", ["samples", "entries"])
    def test_the_choice_does_not_depend_on_units(self, held_out):
        X = incomplete_factors()
        unit = np.geomspace(0.01, 100.0, 9)
        one, other = (
            FactorAnalysisCV([1, 2], cv=KFold(3, shuffle=True, random_state=0), held_out=held_out)
            .fit(Y)
            .cv_results_
            for Y in (X, X * unit)
        )
        shift = one["mean_test_score"] - other["mean_test_score"]
        assert shift[0] == pytest.approx(shift[1], abs=1e-5)

    def test_the_truth_is_found_with_a_rotation(self):
        X = make_factors(400, 15, 3) * np.geomspace(1.0, 50.0, 15)
        model = FactorAnalysisCV(rotation="varimax").fit(X)
        assert model.n_components_ == 3
        assert list(model.cv_results_["param_n_components"]) == list(range(8))
        np.testing.assert_array_equal(
            model.loadings_, FactorAnalysis(3, rotation="varimax").fit(X).loadings_
        )
        assert not hasattr(model, "partial_fit")

    def test_moments_are_not_needed(self):
        X = make_factors()
        fitted = FactorAnalysis.from_moments(Moments.of(X), n_components=2)
        model = FactorAnalysisCV(2).fit(X)
        np.testing.assert_allclose(model.get_covariance(), fitted.get_covariance(), rtol=1e-6)


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("held_out", ["samples", "entries"])
@pytest.mark.parametrize("module", [ppca_cv, factor_analysis_cv])
def test_many_features_give_the_same_scores_by_single_fits(module, held_out, monkeypatch):
    X = incomplete_factors()
    weights = np.arange(len(X)) % 3
    search = PPCACV if module is ppca_cv else FactorAnalysisCV
    model = search([0, 1], cv=KFold(2), held_out=held_out)
    expected = split_scores(model.fit(X, sample_weight=weights).cv_results_)
    monkeypatch.setattr(module, "MOST_FOR_MOMENTS", 5)
    scores = split_scores(model.fit(X, sample_weight=weights).cv_results_)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-3)  # by the tolerance of PPCA


def test_equal_values_in_many_features_are_a_clear_error():
    rows = np.full((60, 40), 0.12573022)
    rows[0, 0] = np.nan
    with pytest.raises(ValueError, match="No candidate has a bounded likelihood"):
        PPCACV([0, 1, 2], cv=2).fit(rows)
