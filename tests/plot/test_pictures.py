"""What is drawn is the data: images, surfaces, curves, intervals."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.impute import KNNImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, PPCACV, PPCAImputer
from sklearn_vae.gaussian import Moments, Spectrum, StationaryPoint
from sklearn_vae.plot import (
    CVCurveDisplay,
    ImputationDisplay,
    LatentPlaneDisplay,
    LikelihoodSurfaceDisplay,
    ReconstructionDisplay,
)
from sklearn_vae.plot.base import COLORS
from sklearn_vae.plot.surface import _levels
from tests.deep.data import make_rows
from tests.helpers import exhaustive

X = make_rows(d=12)
MODEL = PPCA(3).fit(X)


def reconstructed(model, rows):
    return model.inverse_transform(model.transform(rows))


def test_grey_images_are_the_rows_and_their_reconstructions():
    display = ReconstructionDisplay.from_estimator(MODEL, X, image_shape=(3, 4), n=5)
    assert list(display.tiles_) == ["data", "PPCA"]
    for i in range(5):
        data, image = (display.tiles_[name][i] for name in ("data", "PPCA"))
        np.testing.assert_array_equal(data.get_array(), X[i].reshape(3, 4))
        np.testing.assert_allclose(image.get_array(), reconstructed(MODEL, X)[i].reshape(3, 4))
        # One scale for all: that of the originals.
        assert image.get_clim() == (X[:5].min(), X[:5].max())
        # One below the other, each with its first row uppermost: y points down.
        assert data.origin == "upper"
        assert data.get_extent()[3] < data.get_extent()[2]
        assert display.ax_.yaxis_inverted()
        assert data.get_extent()[:2] == image.get_extent()[:2]
        assert data.get_extent()[2] < image.get_extent()[3]
    error = np.sqrt(np.mean((reconstructed(MODEL, X) - X)[:5] ** 2, axis=1))
    np.testing.assert_allclose(display.errors_["PPCA"], error)
    texts = [float(text.get_text()) for text in display.ax_.texts]
    np.testing.assert_allclose(texts, error, rtol=5e-3)


def test_colour_images_are_channel_first_rows_in_their_range():
    rows = 255.0 * np.random.default_rng(0).uniform(size=(4, 12))
    display = ReconstructionDisplay.from_results(rows, {"same": rows - 500}, image_shape=(3, 2, 2))
    low, high = rows.min(), rows.max()
    for i in range(4):
        shown = display.tiles_["data"][i].get_array()
        assert shown.shape == (2, 2, 3)
        np.testing.assert_allclose(shown[1, 0, 2], (rows[i, 8 + 2] - low) / (high - low))
        np.testing.assert_array_equal(display.tiles_["same"][i].get_array(), 0.0)
    np.testing.assert_allclose(display.errors_["same"], 500.0)


def test_curves_are_the_rows():
    models = {"few": PPCA(1).fit(X), "more": make_pipeline(StandardScaler(), PCA(3)).fit(X)}
    display = ReconstructionDisplay.from_estimator(models, X)
    assert display.ax_.shape == (4, 1)
    for i, ax in enumerate(display.ax_[:, 0]):
        lines = ax.lines
        for line, rows in zip(
            lines, (X, *(reconstructed(m, X) for m in models.values())), strict=True
        ):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 13))
            np.testing.assert_allclose(line.get_ydata(), rows[i])


def test_samples_stand_below_and_have_no_errors():
    display = ReconstructionDisplay.from_estimator(
        {"a": MODEL}, X, image_shape=(3, 4), n=11, samples=True, random_state=3
    )
    drawn = np.array([tile.get_array().ravel() for tile in display.tiles_["a, samples"]])
    np.testing.assert_allclose(drawn, MODEL.sample(11, random_state=3)[0])
    assert len(display.ax_.texts) == 11
    # Eleven are too many for one line: the last begins a second block.
    assert display.tiles_["data"][10].get_extent()[0] == 0.0


def test_rows_with_missing_values_and_names():
    table = pd.DataFrame(X, columns=[f"f{i}" for i in range(12)])
    table.iloc[1, 2] = np.nan
    model = PPCA(2).fit(table)
    display = ReconstructionDisplay.from_estimator(model, table, n=2, image_shape=(3, 4))
    difference = reconstructed(model, table)[1] - table.to_numpy()[1]
    np.testing.assert_allclose(display.errors_["PPCA"][1], np.sqrt(np.nanmean(difference**2)))
    assert LatentPlaneDisplay.from_estimator(model, table, rows=(4, 1, 0), n=2)


def test_all_that_is_missing_has_no_error():
    rows = np.full((1, 4), np.nan)
    display = ReconstructionDisplay.from_results(rows, {"a": np.ones((1, 4))}, image_shape=(2, 2))
    assert np.isnan(display.errors_["a"][0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be an integer from 1 to n_samples=150, got 0"),
        ({"n": 151}, "got 151"),
        ({"image_shape": (3, 5)}, "has 15 values, but X has 12 features"),
        ({"image_shape": (2, 2, 3)}, "1 or 3 channels, got 2"),
        ({"image_shape": 12}, "image_shape must be"),
        ({"image_shape": (12, 1.0)}, "image_shape must be"),
        ({"samples": True}, "Set image_shape"),
        ({"limits": (1, 0)}, "limits must be"),
        ({"names": ["a", "b"]}, "names must have one name per model"),
    ],
)
def test_what_does_not_fit_a_reconstruction(options, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        ReconstructionDisplay.from_estimator(MODEL, X, **options)


def test_no_model_is_called_as_the_data():
    with pytest.raises(ValueError, match="Model names must not be 'data'"):
        ReconstructionDisplay.from_estimator({"data": MODEL}, X)


def test_models_of_torch_tensors():
    rows = torch.from_numpy(X)
    with sklearn.config_context(array_api_dispatch=True):
        model = PPCA(3).fit(rows)
        plane = LatentPlaneDisplay.from_estimator(model, rows, n=3)
        display = ReconstructionDisplay.from_estimator(model, rows, image_shape=(3, 4))
    expected = LatentPlaneDisplay.from_estimator(MODEL, X, n=3)
    np.testing.assert_allclose(plane.decoded, expected.decoded)
    np.testing.assert_array_equal(display.originals, X[:8])


def test_reconstructions_of_another_shape():
    with pytest.raises(ValueError, match=r"reconstructions of 'a' must have .* \(150, 12\)"):
        ReconstructionDisplay.from_results(X, {"a": X[:, :3]})


@pytest.mark.parametrize("cls", [ReconstructionDisplay, LatentPlaneDisplay])
def test_estimators_that_cannot_reconstruct(cls):
    with pytest.raises(TypeError, match="KNNImputer has no inverse_transform"):
        cls.from_estimator(KNNImputer().fit(X), X)
    with pytest.raises(NotFittedError):
        cls.from_estimator(PPCA(2), X)


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("shape", [(3, 4), None])
def test_a_plane_of_latent_space(shape):
    display = LatentPlaneDisplay.from_estimator(MODEL, X, rows=(5, 9, 2), n=3, image_shape=shape)
    z1, z2, z3 = MODEL.transform(X[[5, 9, 2]])
    corners = MODEL.inverse_transform(np.array([z1, z2, z3, z2 + z3 - z1]))
    np.testing.assert_allclose(display.decoded[[0, 0, 2, 2], [0, 2, 0, 2]], corners)
    middle = MODEL.inverse_transform(((z2 + z3) / 2)[None])[0]
    np.testing.assert_allclose(display.decoded[1, 1], middle)
    labels = [text.get_text() for text in display.ax_.texts]
    assert labels == ["sample 5", "sample 9", "sample 2", "extrapolated"]
    if shape:
        drawn = np.array([[tile.get_array().ravel() for tile in line] for line in display.tiles_])
        np.testing.assert_array_equal(drawn, display.decoded)
        chosen = X[[5, 9, 2]]
        assert display.tiles_[2][2].get_clim() == (chosen.min(), chosen.max())
    else:
        level = display.tiles_[1][2].get_ydata()
        np.testing.assert_allclose(np.corrcoef(level, display.decoded[1, 2])[0, 1], -1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": (0, 1)}, "rows must be three indices from 0 to 149"),
        ({"rows": (0, 1, 150)}, "rows must be three"),
        ({"n": 1}, "n must be an integer >= 2, got 1"),
        ({"image_shape": (5, 5)}, "has 25 values"),
    ],
)
def test_what_does_not_fit_a_plane(options, words):
    with pytest.raises(ValueError, match=words):
        LatentPlaneDisplay.from_estimator(MODEL, X, **options)


def points():
    spectrum = Spectrum.from_moments(Moments.of(X))
    values = spectrum.eigenvalues
    return {
        "minimum": StationaryPoint(spectrum, [0, 2], 4, 0.5 * float(values[4])),
        "saddle": StationaryPoint(spectrum, [0, 2], 4, float(values[3] * values[4]) ** 0.5),
        "maximum": StationaryPoint(spectrum, [0], 4, 1.1 * float(values[1])),
    }


@pytest.mark.parametrize("kind", ["minimum", "saddle", "maximum"])
def test_the_surface_is_that_of_the_point_and_shows_its_kind(kind):
    point, directions = points()[kind], (3, 4)
    display = LikelihoodSurfaceDisplay.from_results(point, directions=directions, n_grid=9)
    grid = display.a
    whole = point.surface(3, directions, grid, grid) - point.log_likelihood
    np.testing.assert_allclose(display.surface, whole, atol=1e-10)
    assert display.kind == kind
    around = display.surface[3:6, 3:6]
    assert (around.max() > 1e-12) == (kind != "maximum")
    assert (around.min() < -1e-12) == (kind != "minimum")
    assert kind in display.ax_.get_title()
    assert 0.0 in display.contours_.levels
    if kind == "saddle":  # it rises along the first direction, which is across
        across, up = np.abs(display.contours_.get_paths()[-1].vertices).max(axis=0)
        assert across > 1.5 * up
    assert display.contours_.levels[0] <= display.surface.min()
    assert display.contours_.levels[-1] >= display.surface.max() - 1e-9


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(
    ("column", "directions"), [(0, (2, 5)), (1, (0, 4)), (3, (0, 2)), (0, (0, 1))]
)
def test_columns_that_are_kept_may_move(column, directions):
    point = points()["minimum"]
    display = LikelihoodSurfaceDisplay.from_results(
        point, column=column, directions=directions, n_grid=5, radius=1.0
    )
    grid = np.linspace(-1, 1, 5)
    whole = point.surface(column, directions, grid, grid) - point.log_likelihood
    np.testing.assert_allclose(display.surface, whole, atol=1e-10)
    assert (display.kind is None) == bool(set(directions) & {0, 2})


def test_a_fitted_model_keeps_what_is_above_its_noise():
    display = LikelihoodSurfaceDisplay.from_estimator(MODEL, X, n_grid=5)
    assert display.point.kept == (0, 1)
    assert (display.column, display.directions) == (2, (2, 3))
    assert display.point.noise_variance == MODEL.noise_variance_
    stream = PPCA(**MODEL.get_params()).partial_fit(X)
    from_moments = LikelihoodSurfaceDisplay.from_estimator(stream, n_grid=5)
    np.testing.assert_allclose(from_moments.surface, display.surface, rtol=1e-6)
    noisy = LikelihoodSurfaceDisplay.from_estimator(MODEL, X, noise_variance=1e3, n_grid=5)
    assert noisy.point.kept == ()
    assert noisy.kind == "maximum"


def test_what_has_no_surface():
    with pytest.raises(TypeError, match=r"PCA has no spectrum_\. Pass X"):
        LikelihoodSurfaceDisplay.from_estimator(PCA(3).fit(X))
    with pytest.raises(TypeError, match="StandardScaler has no n_components_ or noise_var"):
        LikelihoodSurfaceDisplay.from_estimator(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="n_components_ is 0"):
        LikelihoodSurfaceDisplay.from_estimator(PPCA(0).fit(X))
    pair = PPCA(1).fit(X[:, :2])
    display = LikelihoodSurfaceDisplay.from_estimator(pair, X[:, :2], n_grid=5)
    assert display.directions == (0, 1)
    point = StationaryPoint(points()["minimum"].spectrum, range(11), 12, 1e-6)
    with pytest.raises(ValueError, match="two eigenvectors that the point does not keep"):
        LikelihoodSurfaceDisplay.from_results(point)
    for options in (
        {"directions": (1, 1)},
        {"directions": (0, 12)},
        {"radius": 0.0},
        {"n_grid": 2},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            LikelihoodSurfaceDisplay.from_results(points()["saddle"], **options)
    with pytest.raises(ValueError, match="column must be from 0 to 3, got 4"):
        LikelihoodSurfaceDisplay.from_results(points()["saddle"], column=4)
    with pytest.raises(ValueError, match="column must be from 0 to 3, got -1"):
        LikelihoodSurfaceDisplay.from_results(points()["saddle"], column=-1)


@pytest.mark.slow
@pytest.mark.parametrize("svd_solver", ["full", *exhaustive("arpack", "randomized")])
def test_surface_in_the_plane_of_two_eigenvectors_of_the_model(svd_solver):
    model = PPCA(3, svd_solver=svd_solver, random_state=0).fit(X)
    options = {"directions": (1, 2), "n_grid": 5}
    with pytest.raises(ValueError, match=r"keeps 2 of the 3 in its spectrum\. Set .* or pass X"):
        LikelihoodSurfaceDisplay.from_estimator(model)
    display = LikelihoodSurfaceDisplay.from_estimator(model, **options)
    whole = LikelihoodSurfaceDisplay.from_estimator(model, X, **options)
    np.testing.assert_allclose(display.surface, whole.surface, rtol=1e-6, atol=1e-9)
    wide = PPCA(3).fit(X[:8, :])
    assert LikelihoodSurfaceDisplay.from_estimator(wide, X[:8, :], n_grid=5).directions == (2, 3)


def test_levels_of_surfaces_without_relief():
    levels, shades = _levels(np.zeros((3, 3)))
    assert len(shades) == len(levels) - 1
    levels, shades = _levels(np.array([[0.0, 2.0], [2.0, 2.0]]))
    np.testing.assert_array_equal(levels, [0.0, 2.0])


def test_curves_of_scores_are_cv_results():
    model = PPCACV([1, 2, 4, 6], noise_variance=[None, 0.5, 2.0]).fit(X)
    display = CVCurveDisplay.from_estimator(model)
    found = model.cv_results_
    assert list(display.lines_) == [0.5, 2.0, None]
    for value, line in display.lines_.items():
        rows = [i for i, p in enumerate(found["params"]) if p["noise_variance"] == value]
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 4, 6])
        np.testing.assert_array_equal(line.get_ydata(), found["mean_test_score"][rows])
    marker = display.ax_.lines[-1]
    assert marker.get_xdata()[0] == model.best_params_["n_components"]
    assert marker.get_ydata()[0] == model.best_score_
    splits = [found[f"split{i}_test_score"][:1] for i in range(5)]
    band = display.ax_.collections[-1].get_paths()[0].vertices[:, 1]  # of None, candidate 0
    error = np.std(splits, ddof=1) / np.sqrt(5)
    assert np.isclose(band, found["mean_test_score"][0] + error).any()
    assert np.isclose(band, found["mean_test_score"][0] - error).any()


def test_the_axis_follows_what_was_varied():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), PPCA(2)), {"ppca__noise_variance": [0.1, None, 1.0]}, cv=3
    ).fit(X)
    display = CVCurveDisplay.from_estimator(search)
    (line,) = display.lines_.values()
    np.testing.assert_array_equal(line.get_xdata(), [0.1, 1.0])
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(line.get_ydata(), scores[[0, 2]])
    dashed = next(line for line in display.ax_.lines if line.get_linestyle() == "--")
    assert dashed.get_ydata()[0] == scores[1]
    assert display.ax_.get_xscale() == "log"
    both = PPCACV([1, 2], noise_variance=[0.5, 1.0]).fit(X)
    turned = CVCurveDisplay.from_estimator(both, x="noise_variance")
    assert list(turned.lines_) == [1, 2]
    np.testing.assert_array_equal(turned.lines_[2].get_xdata(), [0.5, 1.0])


def test_k_by_name_makes_a_curve_too():
    grid = {"n_components": ["mle", 2], "noise_variance": [0.5, 1.0]}
    search = GridSearchCV(PPCA(), grid, cv=2).fit(X)
    display = CVCurveDisplay.from_estimator(search, x="noise_variance")
    assert list(display.lines_) == [2, "mle"]


def test_one_value_one_split_and_scores_without_bound():
    one = CVCurveDisplay.from_estimator(PPCACV(2).fit(X))
    assert one.ax_.get_xlim() == (1.0, 3.0)
    rows = np.arange(150)
    CVCurveDisplay.from_estimator(PPCACV(2, cv=[(rows[:100], rows[100:])]).fit(X))
    flat = X @ np.diag(np.arange(12) < 6)
    model = PPCACV(cv=3).fit(flat)
    assert np.isnan(model.cv_results_["mean_test_score"]).any()
    CVCurveDisplay.from_estimator(model)


def test_scores_far_down_do_not_hide_the_rest():
    ks = np.arange(20)
    scores = np.concatenate([-100.0 - (ks - 9) ** 2, np.full(2, -1e6)])
    results = {
        "param_n_components": np.ma.array([*ks, 3, 4]),
        "param_noise_variance": np.ma.array([None] * 20 + [1e-9] * 2, dtype=object),
        "mean_test_score": scores,
    }
    display = CVCurveDisplay.from_results(results, best_index=9)
    low, high = display.ax_.get_ylim()
    assert -250 < low < -100 < high < -50
    labels = display.ax_.get_legend_handles_labels()[1]
    assert any("1e-09 (below)" in label for label in labels)


def test_of_many_curves_some_are_named():
    model = PPCACV([1, 2, 3], noise_variance=np.geomspace(0.1, 10, 25)).fit(X)
    display = CVCurveDisplay.from_estimator(model)
    assert len(display.lines_) == 25
    assert len(display.ax_.get_legend().get_texts()) <= 10


def test_what_has_no_scores():
    with pytest.raises(TypeError, match="PPCA has no cv_results_"):
        CVCurveDisplay.from_estimator(MODEL)
    scores = {"mean_test_score": np.zeros(1)}
    with pytest.raises(ValueError, match="got param_tol"):
        CVCurveDisplay.from_results({**scores, "param_tol": [1]})
    with pytest.raises(ValueError, match="integers on the horizontal axis, got 'mle'"):
        CVCurveDisplay.from_results({**scores, "param_n_components": np.array(["mle"])})
    with pytest.raises(ValueError, match="x must be one of"):
        CVCurveDisplay.from_results({**scores, "param_n_components": [1]}, x="k")
    with pytest.raises(ValueError, match="no param_noise_variance"):
        CVCurveDisplay.from_results({**scores, "param_n_components": [1]}, x="noise_variance")
    with pytest.raises(ValueError, match="best_index must be from 0 to 0, got 1"):
        CVCurveDisplay.from_results({**scores, "param_n_components": [1]}, best_index=1)
    with pytest.raises(ValueError, match="must have mean_test_score"):
        CVCurveDisplay.from_results({"mean_test_r2": [1.0], "param_n_components": [1]})
    with pytest.raises(ValueError, match="finite mean_test_score"):
        CVCurveDisplay.from_results({"mean_test_score": [np.nan], "param_n_components": [1]})


GONE = np.random.default_rng(1).uniform(size=X.shape) < 0.2
HOLES = np.where(GONE, np.nan, X)
FITTED = PPCA(3).fit(HOLES)


def test_intervals_against_the_truth():
    display = ImputationDisplay.from_estimator(FITTED, HOLES, X, max_cells=50)
    filled, std = FITTED.impute(HOLES, return_std=True)
    center, scale = np.nanmean(HOLES, axis=0), np.nanstd(HOLES, axis=0)
    np.testing.assert_allclose(display.imputed, ((filled - center) / scale)[GONE])
    np.testing.assert_allclose(display.truth, ((X - center) / scale)[GONE])
    inside = np.abs(filled - X)[GONE] <= 2 * std[GONE]
    assert display.coverage_ == inside.mean()
    assert len(display.drawn_) == 50
    assert (np.diff(display.truth[display.drawn_]) >= 0).all()
    hits, misses = display.ax_.containers
    points = np.concatenate([np.column_stack(c.lines[0].get_data()) for c in (hits, misses)])
    order = np.argsort(points[:, 0])
    drawn = np.column_stack([display.truth, display.imputed])[display.drawn_]
    np.testing.assert_allclose(points[order], drawn)
    assert len(misses.lines[0].get_xdata()) == (~inside[display.drawn_]).sum()
    segment = hits.lines[2][0].get_segments()[0]
    first = display.drawn_[inside[display.drawn_]][0]
    np.testing.assert_allclose(segment[1, 1] - segment[0, 1], 4 * display.std[first])
    again = ImputationDisplay.from_estimator(FITTED, HOLES, X, max_cells=50)
    np.testing.assert_array_equal(again.drawn_, display.drawn_)


def test_intervals_of_one_feature_in_its_units():
    display = ImputationDisplay.from_estimator(FITTED, HOLES, X, features=4)
    filled = FITTED.impute(HOLES)
    np.testing.assert_array_equal(display.imputed, filled[GONE[:, 4], 4])
    assert display.ax_.get_xlabel() == "truth: x4"


@pytest.mark.some(1)
@pytest.mark.parametrize("d", [1, 5, 30])
def test_intervals_by_feature_where_the_truth_is_not_known(d):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 1)) * np.ones(d + 1) + rng.normal(size=(60, d + 1))
    rows[:, :d][rng.uniform(size=(60, d)) < 0.2] = np.nan
    model = PPCA(1).fit(rows)
    display = ImputationDisplay.from_estimator(model, rows)
    assert np.isnan(display.coverage_)
    x, y = display.ax_.containers[0].lines[0].get_data()
    assert (np.diff(x) > 0).all()
    np.testing.assert_array_equal(y, display.imputed[display.drawn_])
    np.testing.assert_array_equal(np.round(x), display.features[display.drawn_])
    for feature in range(d):
        assert (np.diff(y[np.round(x) == feature]) >= 0).all()


def test_an_imputer_with_its_own_mark_and_a_feature_never_seen():
    table = pd.DataFrame(np.where(GONE, -1.0, X), columns=[f"f{i}" for i in range(12)])
    table["f3"] = -1.0
    with pytest.warns(UserWarning, match="features without any observed values: .'f3'"):
        imputer = PPCAImputer(2, missing_values=-1.0).fit(table)
    display = ImputationDisplay.from_estimator(imputer, table, X)
    assert 3 not in display.features
    gone = GONE.copy()
    gone[:, 3] = False
    assert len(display.imputed) == gone.sum()
    filled = imputer.transform(table)
    names = list(imputer.get_feature_names_out())
    one = ImputationDisplay.from_estimator(imputer, table, features=[5])
    np.testing.assert_allclose(one.imputed, filled[GONE[:, 5], names.index("f5")])
    assert "f5" in one.ax_.get_ylabel()


def test_truth_that_is_known_in_part():
    some = X.copy()
    some[:75] = np.nan
    display = ImputationDisplay.from_estimator(FITTED, HOLES, some)
    assert len(display.drawn_) == GONE[75:].sum()
    unknown = ImputationDisplay.from_estimator(FITTED, HOLES, np.full_like(X, np.nan))
    assert np.isnan(unknown.coverage_)


def test_what_is_not_imputed():
    with pytest.raises(TypeError, match="KNNImputer has no impute"):
        ImputationDisplay.from_estimator(KNNImputer().fit(HOLES), HOLES)
    with pytest.raises(ValueError, match="X must have missing values"):
        ImputationDisplay.from_estimator(FITTED, X)
    with pytest.raises(ValueError, match=r"X_true must have the shape of X, \(150, 12\)"):
        ImputationDisplay.from_estimator(FITTED, HOLES, X[:3])
    with pytest.raises(ValueError, match="features must be indices from 0 to 11, got 12"):
        ImputationDisplay.from_estimator(FITTED, HOLES, features=12)
    with pytest.raises(ValueError, match="max_cells must be an integer >= 1"):
        ImputationDisplay.from_estimator(FITTED, HOLES, max_cells=0)
    with pytest.raises(ValueError, match="must have the same length"):
        ImputationDisplay.from_results(np.ones(3), np.ones(3), np.ones(2))


def test_what_is_wrong_is_said_before_there_is_a_figure():
    one = {"mean_test_score": [0.0], "param_n_components": [1]}
    for wrong in (
        lambda: ReconstructionDisplay.from_estimator(MODEL, X, limits=(1, 0)),
        lambda: ReconstructionDisplay.from_estimator(MODEL, X, image_shape=(5, 5)),
        lambda: LatentPlaneDisplay.from_estimator(MODEL, X, image_shape=(5, 5)),
        lambda: CVCurveDisplay.from_results(one, best_index=1),
        lambda: ImputationDisplay.from_estimator(FITTED, HOLES, max_cells=0),
        lambda: LikelihoodSurfaceDisplay.from_results(points()["saddle"], column=4),
        lambda: ReconstructionDisplay.from_results(X[0], {}),
        lambda: LatentPlaneDisplay.from_results(np.ones((2, 3))),
        lambda: LatentPlaneDisplay.from_results(np.ones((2, 2, 3)), labels=["a", "b"]),
    ):
        with pytest.raises(ValueError, match=r"must be|must have|has 25"):
            wrong()
    with pytest.raises(TypeError, match="reconstructions must be a dict of str to ndarray"):
        ReconstructionDisplay.from_results(X, X)
    assert not plt.get_fignums()


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("convert", [np.array, np.ndarray.tolist, pd.DataFrame])
def test_errors_of_small_integers_lists_and_tables(convert):
    rows = np.full((2, 4), 10, dtype=np.uint8)
    display = ReconstructionDisplay.from_results(convert(rows), {"a": convert(rows - 2)})
    np.testing.assert_array_equal(display.errors_["a"], 2.0)


def test_each_panel_of_curves_has_its_own_errors():
    rows = np.zeros((3, 4))
    level = np.arange(3.0)[:, None]
    models = {"a": rows + level + 1.0, "b": rows + level + 4.0}
    display = ReconstructionDisplay.from_results(rows, models)
    for i, ax in enumerate(display.ax_[:, 0]):
        said = [text.get_text() for text in ax.texts if text.get_text() != "error"]
        assert [float(text) for text in said] == [i + 1.0, i + 4.0]


@pytest.mark.some(1)
@pytest.mark.parametrize("shape", [(3, 4), (2, 6), (12, 1)])
def test_names_stand_beside_their_images_and_apart(shape):
    display = ReconstructionDisplay.from_estimator({"a": MODEL, "b": MODEL}, X, image_shape=shape)
    ax = display.ax_
    ax.figure.canvas.draw()
    labels = ax.get_yticklabels()
    for label, y in zip(labels, ax.get_yticks(), strict=True):
        _, _, bottom, top = display.tiles_[label.get_text()][0].get_extent()
        assert np.isclose(y, (bottom + top) / 2)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("shape", [(2, 32), (32, 2), (64, 1), (1, 64)])
def test_long_images_make_no_huge_figure_and_cover_nothing(shape):
    rows = np.random.default_rng(0).normal(size=(8, np.prod(shape)))
    shape = np.array(shape)
    display = ReconstructionDisplay.from_results(rows, {"PPCA": rows + 1.0}, image_shape=shape)
    plane = LatentPlaneDisplay.from_results(rows[:4].reshape(2, 2, -1), image_shape=shape)
    for one in (display, plane):
        figure = one.figure_
        assert max(figure.get_size_inches()) < 8
        figure.canvas.draw()
    labels = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert not labels[0].overlaps(labels[1])
    numbers = [text.get_window_extent() for text in display.ax_.texts]
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(numbers))


def test_corners_of_a_plane_have_their_frames_and_labels():
    decoded = np.arange(12.0).reshape(2, 3, 2)
    labels = ["one", "extrapolated", "$three$"]
    ax = LatentPlaneDisplay.from_results(decoded.tolist(), labels=labels).ax_
    frames = [patch for patch in ax.patches if patch.get_linewidth() == 2.0]
    corners = [patch.get_xy() for patch in frames]
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = corners
    assert x1 == x3 < x2 == x4
    assert y1 == y2 < y3 == y4  # downwards
    colors = [patch.get_edgecolor() for patch in frames]
    assert colors[0] == colors[1] == colors[2] != colors[3]
    for text, (x, y) in zip(ax.texts, corners, strict=True):
        assert 0 <= text.xy[0] - x <= 1
        assert 0 <= text.xy[1] - y <= 1
        assert text.get_color() == (COLORS[5] if text is ax.texts[3] else COLORS[0])
    said = [text.get_text().replace(r"\$", "$") for text in ax.texts]
    assert said == [*labels, "extrapolated"]


def test_axes_and_colours_of_a_surface_have_their_numbers():
    point, (p, q) = points()["saddle"], (3, 4)
    display = LikelihoodSurfaceDisplay.from_results(point, directions=(p, q), n_grid=9)
    values = point.spectrum.eigenvalues
    for label, j in ((display.ax_.get_xlabel(), p), (display.ax_.get_ylabel(), q)):
        assert f"u_{{{j + 1}}}" in label
        assert f"= {values[j]:.3g})" in label
    assert f"{values[p]:.3g}" != f"{values[q]:.3g}"
    assert 0.0 in display.colorbar_.get_ticks()
