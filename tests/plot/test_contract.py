"""What every Display does, by the list of them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sklearn_vae.plot
from sklearn_vae import PPCA
from sklearn_vae.plot import CollapseDisplay
from tests.deep.data import make_rows

X = make_rows()

# Of each class one call of `from_estimator`, and the attributes that `from_results` is given.
CASES = {
    CollapseDisplay: (
        lambda ax: CollapseDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: CollapseDisplay.from_results(display.curves),
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
