"""Curves of scores: what was not varied, varied besides, or has no place on the axes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_vae import PPCA, PPCACV
from sklearn_vae.plot import CVCurveDisplay
from tests.deep.data import make_rows

X = make_rows(d=12)


def results(ks, scores, noise=None, **more):
    found = {"param_n_components": ks, "mean_test_score": np.asarray(scores, dtype=float), **more}
    return found if noise is None else {**found, "param_noise_variance": noise}


def label(display):
    return display.ax_.get_ylabel()


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("step", ["", "ppca__"])
def test_what_a_grid_leaves_out_is_the_estimators_own(step):
    model = PPCA(2, noise_variance=0.7)
    grid = [{f"{step}n_components": [1, 3]}, {f"{step}noise_variance": [0.1, 0.3]}]
    search = GridSearchCV(make_pipeline(model) if step else model, grid, cv=3).fit(X)
    display = CVCurveDisplay.from_estimator(search)
    scores = search.cv_results_["mean_test_score"]
    assert list(display.lines_) == [0.1, 0.3, 0.7]
    for value, ks, found in ((0.1, [2], scores[[2]]), (0.7, [1, 3], scores[[0, 1]])):
        np.testing.assert_array_equal(display.lines_[value].get_xdata(), ks)
        np.testing.assert_array_equal(display.lines_[value].get_ydata(), found)


def test_the_own_value_is_that_of_the_step_that_is_tried():
    pipeline = Pipeline([("ppca", PPCA(2))])
    grid = [{"ppca__n_components": [1]}, {"ppca": [PPCA(4), PPCA(5)]}]
    display = CVCurveDisplay.from_estimator(GridSearchCV(pipeline, grid, cv=3).fit(X))
    (line,) = display.lines_.values()
    np.testing.assert_array_equal(line.get_xdata(), [1, 4, 5])


def test_results_that_leave_a_parameter_out():
    ks = np.ma.array([1, 2, 7], mask=[False, False, True])
    with pytest.raises(ValueError, match="param_n_components is masked in 1 of 3"):
        CVCurveDisplay.from_results(results(ks, np.zeros(3)))
    assert not plt.get_fignums()


def test_other_parameters_leave_one_curve_of_the_best():
    ks = [1, 1, 2, 2, 3]
    display = CVCurveDisplay.from_results(
        results(ks, [-3.0, -2.0, np.nan, -4.0, -1.0], param_tol=[1, 2, 1, 2, 1]), best_index=4
    )
    (line,) = display.lines_.values()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line.get_ydata(), [-2.0, -4.0, -1.0])


def test_the_axis_says_what_the_score_is():
    assert label(CVCurveDisplay.from_estimator(PPCACV([1, 2]).fit(X))) == (
        "held-out score (nats per sample)"
    )
    y = X[:, 0] > 0
    grid = {"ppca__n_components": [1, 2]}
    classifier = Pipeline([("ppca", PPCA()), ("logistic", LogisticRegression())])
    for scoring, expected in (
        (None, "held-out score"),
        ("roc_auc", "held-out score (roc_auc)"),
        (_shares, "held-out score (_shares)"),
    ):
        search = GridSearchCV(classifier, grid, cv=2, scoring=scoring).fit(X, y)
        assert label(CVCurveDisplay.from_estimator(search)) == expected
    density = GridSearchCV(make_pipeline(PPCA()), grid, cv=2).fit(X)
    assert label(CVCurveDisplay.from_estimator(density)) == "held-out score (nats per sample)"


def _shares(estimator, X, y):
    return float(np.mean(estimator.predict(X) == y))


@pytest.mark.parametrize(
    ("noise", "match"),
    [
        ([None, None], "got None only"),
        ([0.0, 0.1], r"positive float on the horizontal axis, got 0\.0"),
        (["free", 0.1], "got 'free'"),
    ],
)
def test_noise_variances_that_have_no_place(noise, match):
    with pytest.raises(ValueError, match=match):
        CVCurveDisplay.from_results(results([1, 2], [0.0, 1.0], noise), x="noise_variance")
    assert not plt.get_fignums()


def test_few_scores_are_all_shown():
    display = CVCurveDisplay.from_results(results([1, 2, 3], [-100.0, -2.0, -1.0]))
    low, high = display.ax_.get_ylim()
    assert low < -100.0 < -1.0 < high
    many = CVCurveDisplay.from_results(results(range(1, 10), [-100.0, *range(-9, -1)]))
    assert many.ax_.get_ylim()[0] > -50


def test_the_chosen_is_marked_wherever_it_is():
    low = CVCurveDisplay.from_results(results(range(1, 10), [-99.0, *range(-9, -1)]), best_index=0)
    marker = low.ax_.lines[-1]
    assert marker.get_label() == "chosen: k = 1"
    assert low.ax_.get_ylim()[0] < marker.get_ydata()[0] == -99.0
    # A score without bound has no place, so nothing is said of it either.
    none = CVCurveDisplay.from_results(results([1, 2, 3], [-np.inf, -2.0, -1.0]), best_index=0)
    assert not any("chosen" in text for text in none.ax_.get_legend_handles_labels()[1])


def test_of_many_curves_of_one_point_each_is_seen():
    n = 9
    display = CVCurveDisplay.from_results(results([2] * n, range(n), np.arange(1.0, n + 1)), x=None)
    assert list(display.lines_) == [2]  # one curve along the noise
    display = CVCurveDisplay.from_results(
        results([2] * n, range(n), np.arange(1.0, n + 1)), x="n_components"
    )
    assert len(display.lines_) == n
    assert all(line.get_marker() == "o" for line in display.lines_.values())


def test_the_bar_of_one_point_is_a_standard_error_to_each_side():
    splits = {f"split{i}_test_score": [score] for i, score in enumerate((-1.0, -2.0, -6.0))}
    display = CVCurveDisplay.from_results(results([2], [-3.0], **splits))
    (bar,) = display.ax_.containers[0].lines[2][0].get_segments()
    error = np.sqrt(7.0 / 3.0)  # of the mean: the variance of the splits is 7
    np.testing.assert_allclose(bar[:, 1], [-3.0 - error, -3.0 + error])


def test_a_halving_search_shows_its_last_round():
    search = HalvingGridSearchCV(
        PPCA(),
        {"n_components": [1, 2, 3, 4, 5], "noise_variance": [None, 1.0]},
        cv=2,
        random_state=0,
        min_resources=40,
        factor=2,
    ).fit(make_rows(300))
    results = search.cv_results_
    last = results["n_resources"] == results["n_resources"].max()
    assert 0 < last.sum() < len(last)
    display = CVCurveDisplay.from_estimator(search)
    drawn = np.concatenate([line.get_ydata() for line in display.lines_.values()])
    expected = np.asarray(results["mean_test_score"])[last]
    np.testing.assert_allclose(np.sort(drawn[~np.isnan(drawn)]), np.sort(expected))
    (marked,) = [line for line in display.ax_.lines if "chosen" in str(line.get_label())]
    assert marked.get_ydata()[0] == search.best_score_


def test_the_advice_names_only_parameters_of_the_grid():
    grid = {"n_components": [1, 2, None]}
    search = GridSearchCV(PPCA(), grid, cv=2).fit(X)
    with pytest.raises(ValueError, match=r"got None\. Search over integers\.$"):
        CVCurveDisplay.from_estimator(search)
    search = GridSearchCV(PPCA(), {**grid, "noise_variance": [0.1, 0.5]}, cv=2).fit(X)
    with pytest.raises(ValueError, match=r"Search over integers, or set x='noise_variance'\.$"):
        CVCurveDisplay.from_estimator(search)
