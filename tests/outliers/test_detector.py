"""OutlierDetector as scikit-learn's outlier detectors, and what its p-values promise."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control
from sklearn.base import clone, is_outlier_detector
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, LeaveOneOut, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_vae import (
    PPCA,
    PPCACV,
    DeepAutoencoder,
    DeepGaussianVAE,
    DensityPipeline,
    FactorAnalysis,
    LinearVAE,
    OutlierDetector,
)
from sklearn_vae.outliers import contributions, distances
from sklearn_vae.serialization import load, save
from tests.deep.data import SMALL
from tests.helpers import exhaustive
from tests.sharing import shared

RNG = np.random.default_rng(0)
LOADINGS = RNG.normal(size=(2, 6))


def draw(n, rng=RNG):
    """Samples with heavier tails than those of a normal distribution."""
    X = rng.normal(size=(n, 2)) @ LOADINGS + rng.normal(size=(n, 6))
    return X * np.sqrt(5.0 / rng.chisquare(5.0, size=(n, 1)))


X = draw(199)
OUTLIERS = draw(40) + 8.0 * RNG.normal(size=(40, 6))


@shared
def detector():
    return OutlierDetector(PPCA(2), random_state=0).fit(X)


def test_predictions_scores_and_p_values_agree():
    samples = np.concatenate([draw(300), OUTLIERS])
    for level in (0.01, 0.05, 0.07, 0.3):
        model = OutlierDetector(PPCA(2), level=level, random_state=0).fit(X)
        p_values, decision = model.p_values(samples), model.decision_function(samples)
        labels = model.predict(samples)
        np.testing.assert_array_equal(labels == -1, p_values <= level)
        np.testing.assert_array_equal(labels == -1, decision < 0)
        np.testing.assert_allclose(decision, model.score_samples(samples) - model.offset_)
        reached = p_values > model.smallest_p_value_
        np.testing.assert_allclose(np.exp(model.score_samples(samples)[reached]), p_values[reached])
    assert is_outlier_detector(detector())
    assert (detector().predict(OUTLIERS) == -1).mean() > 0.8


def test_samples_at_an_infinite_distance():
    far = np.array([[1e200] * 6, [-1e180, *[0.0] * 5]])
    np.testing.assert_array_equal(detector().predict(far), -1)
    np.testing.assert_array_equal(detector().p_values(far), detector().smallest_p_value_)


def test_held_out_scores_are_those_of_models_that_have_not_seen_the_sample():
    cv = [(np.arange(60), np.arange(60, 100)), (np.arange(40, 100), np.arange(40))]
    model = OutlierDetector(PPCA(2), cv=cv, statistic="likelihood", level=0.1).fit(X[:100])
    samples, counted = draw(9), np.zeros(9)
    for train, test in cv:
        fold = PPCA(2).fit(X[train])
        usual = fold.score_samples(X[test])
        counted += (usual <= fold.score_samples(samples)[:, None]).sum(axis=1)
    np.testing.assert_allclose(model.p_values(samples), (1 + counted) / 81)
    np.testing.assert_allclose(model.estimator_.mean_, X[:100].mean(axis=0))


@pytest.mark.parametrize("cv", [0.5, *exhaustive(5)])
def test_false_alarms_are_at_most_the_level_though_the_model_is_wrong(cv):
    rng = np.random.default_rng(1)
    shares = []
    for seed in range(40):
        model = OutlierDetector(PPCA(1), level=0.1, cv=cv, random_state=seed)
        model.fit(draw(118, rng))  # 59 or 118 calibration samples
        shares.append((model.predict(draw(200, rng)) == -1).mean())
    error = np.std(shares) / len(shares) ** 0.5
    assert abs(np.mean(shares) - 0.1) < 4 * error < 0.04


def test_statistics():
    samples = draw(20)
    expected = distances(PPCA(2).fit(X), samples)
    found = {}
    for statistic in ("auto", "distance", "likelihood", "t2", "spe"):
        model = OutlierDetector(PPCA(2), statistic=statistic, cv=0.5, random_state=0).fit(X)
        found[statistic] = model.p_values(samples)
    for statistic in ("auto", "likelihood"):  # the same order of complete samples
        np.testing.assert_array_equal(found[statistic], found["distance"])
    order = np.argsort(expected.t2)
    assert np.corrcoef(np.argsort(order), found["t2"])[0, 1] < -0.8
    assert not np.array_equal(found["t2"], found["spe"])
    assert detector().statistic_ == "distance"
    assert OutlierDetector(GaussianMixture(), level=0.1).fit(X).statistic_ == "likelihood"


def test_calibration_distances_are_in_units_of_their_expectations():
    ratios = detector().calibration_t2_, detector().calibration_spe_
    assert [part.shape for part in ratios] == [(199,), (199,)]
    assert all(0.7 < part.mean() < 1.5 for part in ratios)
    assert not hasattr(OutlierDetector(GaussianMixture(), level=0.1).fit(X), "calibration_t2_")


def test_patterns_of_missing_values_are_comparable():
    rng = np.random.default_rng(0)
    holes = np.where(rng.uniform(size=X.shape) < rng.uniform(0, 0.8, (len(X), 1)), np.nan, X)
    holes[0] = np.nan
    samples = np.concatenate([draw(100, rng), OUTLIERS])
    samples[rng.uniform(size=samples.shape) < rng.uniform(0, 0.8, (140, 1))] = np.nan
    share = {}
    for statistic in ("distance", "likelihood"):
        model = OutlierDetector(PPCA(2, tol=1e-3), statistic=statistic, level=0.05, random_state=0)
        labels = model.fit(holes).predict(samples)
        share[statistic] = (labels[100:] == -1).mean()
        assert (labels[:100] == -1).mean() < 0.12
    assert share["distance"] > share["likelihood"] + 0.05
    np.testing.assert_array_equal(model.p_values(np.full((1, 6), np.nan)), 1.0)
    with pytest.raises(ValueError, match="contains NaN"):
        OutlierDetector(LinearVAE(2)).fit(holes)


def test_a_level_out_of_reach_is_said():
    model = OutlierDetector(PPCA(2), cv=0.25)
    expected = "level=0.01 is out of reach: with 50 calibration samples .* below 1/51 = 0.0196"
    with pytest.warns(UserWarning, match=expected):
        model.fit(X)
    assert model.smallest_p_value_ == 1 / 51
    assert (model.offset_, (model.predict(OUTLIERS) == 1).all()) == (-np.inf, True)
    assert model.p_values(OUTLIERS).min() == 1 / 51
    just = OutlierDetector(PPCA(2), cv=5).fit(X[:99])  # with the lowest number for this level
    assert just.smallest_p_value_ == just.level
    assert (just.predict(OUTLIERS) == -1).any()


def test_benjamini_hochberg():
    samples = np.concatenate([draw(60), OUTLIERS])
    p_values = detector().p_values(samples)
    for level in (0.05, 0.1, 0.3):
        ranked = np.sort(p_values)
        below = np.flatnonzero(ranked <= level * np.arange(1, 101) / 100)
        limit = ranked[below[-1]] if below.size else -1.0
        labels = detector().predict_fdr(samples, level)
        np.testing.assert_array_equal(labels == -1, p_values <= limit)
        np.testing.assert_array_equal(labels == -1, false_discovery_control(p_values) <= level)
    assert (detector().predict_fdr(samples, 0.3)[60:] == -1).mean() > 0.8
    with pytest.raises(ValueError, match=r"level must be a float in \(0, 1\), got 1.0"):
        detector().predict_fdr(samples, 1.0)


def test_false_discovery_rate_with_exact_p_values():
    rng, rates = np.random.default_rng(2), []
    for seed in range(40):
        model = OutlierDetector(PPCA(2), cv=0.6, level=0.1, random_state=seed)
        model.fit(draw(150, rng))
        batch = np.concatenate([draw(40, rng), OUTLIERS[:10]])
        labels = model.predict_fdr(batch, 0.2) == -1
        rates.append(labels[:40].sum() / max(labels.sum(), 1))
    assert np.mean(rates) < 0.2 * 40 / 50 + 3 * np.std(rates) / 40**0.5


def test_fitted_models_are_calibrated_as_they_are():
    model = PPCA(2).fit(X)
    found = OutlierDetector(model, cv="prefit").fit(draw(120))
    assert found.estimator_ is model
    assert not hasattr(found, "models_")
    assert found.smallest_p_value_ == 1 / 121
    with pytest.raises(ValueError, match="estimator must be a fitted model with cv='prefit'"):
        OutlierDetector(cv="prefit").fit(X)
    with pytest.raises(ValueError, match="not fitted"):
        OutlierDetector(PPCA(2), cv="prefit").fit(X)


def test_p_values_of_training_samples_are_uniform_and_find_outliers_among_them():
    mixed = np.concatenate([X, OUTLIERS[:10]])
    p_values = clone(detector()).fit(mixed).training_p_values_
    np.testing.assert_allclose(np.sort(p_values), np.arange(1, 210) / 209)
    assert np.median(p_values[199:]) < 0.05
    weights = np.ones(199)
    weights[:9] = 0.0
    split = OutlierDetector(PPCA(2), level=0.1, cv=0.5, random_state=0).fit(
        X, sample_weight=weights
    )
    assert np.isnan(split.training_p_values_[:9]).all()
    assert (~np.isnan(split.training_p_values_)).sum() == 95
    held_out = ~np.isnan(split.training_p_values_)
    np.testing.assert_allclose(
        split.training_p_values_[held_out] * 95, split.p_values(X[held_out]) * 96 - 1
    )


def test_jackknife_plus():
    model = OutlierDetector(PPCA(2), cv=LeaveOneOut()).fit(X[:99])
    assert len(model.models_) == 99
    assert model.smallest_p_value_ == 0.01


@pytest.mark.parametrize("cv", [4, 0.5])
def test_weights(cv):
    weights = np.random.default_rng(3).integers(0, 3, len(X)).astype(float)
    model = OutlierDetector(PPCA(2), level=0.1, cv=cv, random_state=0)
    found = clone(model).fit(X, sample_weight=weights).p_values(OUTLIERS)
    scaled = clone(model).fit(X, sample_weight=1e-3 * weights).p_values(OUTLIERS)
    np.testing.assert_allclose(found, scaled)
    kept = clone(model).fit(X[weights > 0], sample_weight=weights[weights > 0])
    np.testing.assert_array_equal(found, kept.p_values(OUTLIERS))
    ones = clone(model).fit(X, sample_weight=np.full(len(X), 2.0)).p_values(OUTLIERS)
    np.testing.assert_allclose(ones, clone(model).fit(X).p_values(OUTLIERS))


def test_weights_reach_the_steps_of_a_pipeline():
    weights = np.random.default_rng(3).uniform(0.1, 2.0, len(X))
    model = OutlierDetector(make_pipeline(StandardScaler(), PPCA(2)), random_state=0)
    scaler = model.fit(X, sample_weight=weights).estimator_[0]
    np.testing.assert_allclose(scaler.mean_, np.average(X, axis=0, weights=weights))


def test_deep_models():
    model = OutlierDetector(DeepGaussianVAE(2, **SMALL), cv=0.6, level=0.1, random_state=0).fit(X)
    assert model.statistic_ == "likelihood"
    assert model.calibration_t2_.shape == (120,)
    assert (model.predict(OUTLIERS) == -1).mean() > 0.7
    np.testing.assert_allclose(
        model.contributions(X[:4]).spe.sum(axis=1), model.distances(X[:4]).spe, rtol=1e-5
    )
    by_distance = clone(model).set_params(statistic="distance").fit(X)
    assert (by_distance.predict(OUTLIERS) == -1).mean() > 0.7
    without = OutlierDetector(DeepAutoencoder(2, **SMALL), cv=0.6, level=0.1, random_state=0)
    assert (without.fit(X).predict(OUTLIERS) == -1).mean() > 0.7
    with pytest.raises(TypeError, match="requires an estimator with the methods posterior"):
        clone(without).set_params(statistic="spe").fit(X)


def test_frames_pipelines_and_searches():
    frame = pd.DataFrame(X, columns=[f"feature {i}" for i in range(6)])
    scaled = make_pipeline(StandardScaler(), PPCA(2))
    model = OutlierDetector(scaled, random_state=0).fit(frame)
    assert list(model.feature_names_in_) == list(frame.columns)
    parts = model.contributions(frame[:3])
    assert parts.feature_names == tuple(frame.columns)
    np.testing.assert_allclose(
        parts.total.sum(axis=1), model.distances(frame[:3])[0] + parts.spe.sum(axis=1)
    )
    inner = make_pipeline(PCA(3), PPCA(2))
    named = OutlierDetector(inner, random_state=0).fit(frame).contributions(frame[:3])
    assert named.feature_names == ("pca0", "pca1", "pca2")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"feature 0": "other"}))
    outer = make_pipeline(StandardScaler(), OutlierDetector(PPCA(2), random_state=0))
    assert set(outer.fit_predict(X)) == {-1, 1}
    samples = np.concatenate([X, OUTLIERS])
    y = np.repeat([1, -1], [len(X), len(OUTLIERS)])
    both = StratifiedKFold(2, shuffle=True, random_state=0)
    grid = {"estimator__n_components": [0, 2], "statistic": ["spe", "distance"]}
    search = GridSearchCV(OutlierDetector(PPCA(), level=0.1), grid, scoring="roc_auc", cv=both)
    assert search.fit(samples, y).best_score_ > 0.9


def test_models_get_the_names_of_features():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    chosen = make_pipeline(make_column_transformer((StandardScaler(), ["b", "d", "e"])), PPCA(1))
    model = OutlierDetector(chosen, random_state=0).fit(frame)
    plain = OutlierDetector(make_pipeline(StandardScaler(), PPCA(1)), random_state=0)
    expected = plain.fit(X[:, [1, 3, 4]]).p_values(OUTLIERS[:, [1, 3, 4]])
    np.testing.assert_array_equal(
        model.p_values(pd.DataFrame(OUTLIERS, columns=frame.columns)), expected
    )
    for fitted in (make_pipeline(StandardScaler(), PPCA(2)), DeepGaussianVAE(2, **SMALL)):
        prefit = OutlierDetector(fitted.fit(frame[:60]), cv="prefit").fit(frame[60:])
        assert prefit.contributions(frame[:2]).feature_names == tuple("abcdef")
        np.testing.assert_allclose(
            prefit.contributions(frame[:2]).t2.sum(axis=1), prefit.distances(frame[:2]).t2
        )


def test_a_step_that_does_not_name_its_output():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = make_pipeline(FunctionTransformer(np.tanh), PPCA(2)).fit(frame)
    assert contributions(model, frame[:2]).feature_names[:2] == ("x0", "x1")
    rotated = make_pipeline(PCA(), PPCA(2)).fit(frame)
    assert contributions(rotated, frame[:2]).feature_names[:2] == ("pca0", "pca1")


def test_infinite_distances_without_a_threshold():
    with pytest.warns(UserWarning, match="out of reach"):
        model = OutlierDetector(PPCA(2), random_state=0).fit(X[:30])
    huge = 1e200 * OUTLIERS[:2]
    assert np.isfinite(model.score_samples(huge)).all()
    assert (model.decision_function(huge) == np.inf).all()
    assert (model.predict(huge) == 1).all()


def test_same_seed_same_result_and_clones():
    again = clone(detector()).fit(X)
    np.testing.assert_array_equal(again.score_samples(OUTLIERS), detector().score_samples(OUTLIERS))
    other = clone(detector()).set_params(random_state=1).fit(X)
    assert not np.array_equal(other.score_samples(X), detector().score_samples(X))


def test_a_failed_fit_leaves_the_detector_as_it_was():
    model = clone(detector()).fit(X)
    before = model.score_samples(OUTLIERS)
    with pytest.raises(ValueError, match="infinity"):
        model.fit(np.where(X > 2, np.inf, X))
    np.testing.assert_array_equal(model.score_samples(OUTLIERS), before)


def test_files(tmp_path):
    steps = [("scale", StandardScaler()), ("model", FactorAnalysis(2))]
    model = OutlierDetector(DensityPipeline(steps), random_state=0).fit(X)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(OUTLIERS), model.score_samples(OUTLIERS))
    state = model.get_state()
    for name, value in {
        "calibration_scores_": [scores[::-1] for scores in model.calibration_scores_],
        "calibration_weights_": model.calibration_weights_[:2],
        "models_": [],
        "estimator_": None,
        "statistic_": "auto",
        "offset_": np.inf,
    }.items():
        with pytest.raises(ValueError, match=name):
            OutlierDetector().set_state({**state, name: value})


def test_digits_of_other_classes():
    digits, y = load_digits(return_X_y=True)
    model = OutlierDetector(random_state=0).fit(digits[y == 0])
    assert isinstance(model.estimator_, PPCACV)
    assert (model.predict(digits[y != 0]) == -1).mean() > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"level": 0.0}, "level must be a float in (0, 1), got 0.0"),
        ({"level": "low"}, "level must be a float in (0, 1), got 'low'"),
        ({"statistic": "score"}, "statistic must be one of 'auto'"),
        ({"cv": 1}, "cv must be an integer >= 2, a float in (0, 1), 'prefit'"),
        ({"cv": 1.5}, "cv must be an integer >= 2, a float in (0, 1), 'prefit'"),
        ({"cv": "loo"}, "cv must be an integer >= 2, a float in (0, 1), 'prefit'"),
        ({"cv": 500}, "cv must split the samples, got 500"),
        ({"cv": [([0, 1], [2, 3]), ([4, 5], [3])]}, "each sample at most once"),
        ({"cv": [([0, 1, 2], [2, 3])]}, "cv must not hold out training samples"),
        ({"cv": []}, "cv must hold out samples in every split"),
        ({"random_state": "x"}, "random_state must be None, an integer"),
    ],
)
def test_parameters(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        OutlierDetector(PPCA(2)).set_params(**parameters).fit(X)


@pytest.mark.parametrize("estimator", [PPCA, "PPCA", KMeans(2)], ids=str)
def test_estimators_without_scores_are_refused(estimator):
    with pytest.raises(TypeError, match="estimator must"):
        OutlierDetector(estimator).fit(X)


def test_contributions_are_those_of_the_model_of_all_samples():
    expected = contributions(PPCA(2).fit(X), OUTLIERS)
    np.testing.assert_allclose(detector().contributions(OUTLIERS).total, expected.total)
