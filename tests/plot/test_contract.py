"""What every Display does, by the list of them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sklearn_vae.plot
from sklearn_vae import PPCA, PPCACV
from sklearn_vae.plot import (
    CollapseDisplay,
    CVCurveDisplay,
    ImputationDisplay,
    LatentPlaneDisplay,
    LikelihoodSurfaceDisplay,
    ReconstructionDisplay,
)
from tests.deep.data import make_rows

X = make_rows()
HOLES = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)

# Of each class one call of `from_estimator`, and the attributes that `from_results` is given.
CASES = {
    CollapseDisplay: (
        lambda ax: CollapseDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: CollapseDisplay.from_results(display.curves),
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
        lambda display: CVCurveDisplay.from_results(display.cv_results),
    ),
    ImputationDisplay: (
        lambda ax: ImputationDisplay.from_estimator(PPCA(3).fit(HOLES), HOLES, X, ax=ax),
        lambda display: ImputationDisplay.from_results(
            display.imputed, display.std, display.features, truth=display.truth
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
    figure, given = plt.subplots(2, 2, layout="constrained")
    display = from_estimator(given[1, 0])
    assert display.figure_ is figure
    if np.ravel(display.ax_).size == 1:
        assert display.ax_ is given[1, 0]
    figure.canvas.draw()


@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_results_draw_the_same(cls):
    from_estimator, from_results = CASES[cls]
    first = from_estimator(None)
    second = from_results(first)
    for one, other in zip(np.ravel(first.ax_), np.ravel(second.ax_), strict=True):
        assert len(one.get_children()) >= len(other.get_children()) > 10
        for a, b in zip(one.lines, other.lines, strict=False):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
