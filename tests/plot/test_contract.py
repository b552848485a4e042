"""What every Display does, by the list of them."""

import functools

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sklearn_vae.plot
from sklearn_vae import PPCA, PPCACV, DeepGaussianVAE
from sklearn_vae.plot import (
    CollapseDisplay,
    CVCurveDisplay,
    EntropyDisplay,
    ImputationDisplay,
    KLDisplay,
    LatentPlaneDisplay,
    LikelihoodSurfaceDisplay,
    PosteriorScaleDisplay,
    ReconstructionDisplay,
    TrainingDisplay,
)
from tests.deep.data import SMALL, make_rows

X = make_rows()
HOLES = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)


@functools.cache
def vae():
    return DeepGaussianVAE(3, **SMALL).fit(X)


# Of each class one call of `from_estimator`, and the attributes that `from_results` is given.
CASES = {
    CollapseDisplay: (
        lambda ax: CollapseDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: CollapseDisplay.from_results(display.curves),
    ),
    EntropyDisplay: (
        lambda ax: EntropyDisplay.from_estimator(vae(), X, ax=ax),
        lambda display: EntropyDisplay.from_results(display.histories, display.entropies),
    ),
    KLDisplay: (
        lambda ax: KLDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: KLDisplay.from_results(display.collapses),
    ),
    PosteriorScaleDisplay: (
        lambda ax: PosteriorScaleDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: PosteriorScaleDisplay.from_results(display.scales),
    ),
    TrainingDisplay: (
        lambda ax: TrainingDisplay.from_estimator(vae(), X, ax=ax),
        lambda display: TrainingDisplay.from_results(display.histories),
    ),
    LikelihoodSurfaceDisplay: (
        lambda ax: LikelihoodSurfaceDisplay.from_estimator(PPCA(3).fit(X), n_grid=5, ax=ax),
        lambda display: LikelihoodSurfaceDisplay.from_results(display.point, n_grid=5),
    ),
    ReconstructionDisplay: (
        lambda ax: ReconstructionDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: ReconstructionDisplay.from_results(
            display.originals, display.reconstructions
        ),
    ),
    LatentPlaneDisplay: (
        lambda ax: LatentPlaneDisplay.from_estimator(PPCA(3).fit(X), X, n=3, ax=ax),
        lambda display: LatentPlaneDisplay.from_results(display.decoded),
    ),
    CVCurveDisplay: (
        lambda ax: CVCurveDisplay.from_estimator(PPCACV([1, 2]).fit(X), ax=ax),
        lambda display: CVCurveDisplay.from_results(
            display.cv_results, best_index=display.best_index
        ),
    ),
    ImputationDisplay: (
        lambda ax: ImputationDisplay.from_estimator(PPCA(3).fit(HOLES), HOLES, X, ax=ax),
        lambda display: ImputationDisplay.from_results(
            display.imputed,
            display.std,
            display.features,
            truth=display.truth,
            standardized=display.standardized,
        ),
    ),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_every_display_is_tested():
    assert {cls.__name__ for cls in CASES} == set(sklearn_vae.plot.__all__)


@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_a_new_figure_and_axes_given(cls):
    from_estimator, _ = CASES[cls]
    display = from_estimator(None)
    assert isinstance(display, cls)
    axes = np.ravel(display.ax_)
    assert all(ax.figure is display.figure_ for ax in axes)
    assert display.plot() is display
    assert display.figure_ is not axes[0].figure
    size = 2 * display.figure_.get_size_inches()
    figure, given = plt.subplots(2, 2, layout="constrained", figsize=size)
    display = from_estimator(given[1, 0])
    assert display.figure_ is figure
    if np.ravel(display.ax_).size == 1:
        assert display.ax_ is given[1, 0]
    figure.canvas.draw()


@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_results_draw_the_same_picture(cls):
    from_estimator, from_results = CASES[cls]
    display = from_estimator(None)
    assert np.array_equal(_pixels(display), _pixels(from_results(display)))


@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_what_is_said_is_in_the_picture_and_covers_no_axes(cls):
    display = CASES[cls][0](None)
    figure = display.figure_
    figure.canvas.draw()
    whole = figure.get_tightbbox(figure.canvas.get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert whole.x0 > -0.01
    assert whole.x1 < width + 0.01
    assert whole.y0 > -0.01
    assert whole.y1 < height + 0.01
    for ax in np.ravel(display.ax_):
        if ax.get_legend() is not None:
            covered = ax.get_legend().get_window_extent()
            assert not any(covered.overlaps(other.get_window_extent()) for other in figure.axes)


def _pixels(display):
    display.figure_.canvas.draw()
    return np.asarray(display.figure_.canvas.buffer_rgba())
