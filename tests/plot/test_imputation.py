"""Imputed cells: hits and misses apart, names that fit, and what is no interval."""

import math

import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest

from sklearn_vae import PPCA
from sklearn_vae.plot import ImputationDisplay
from sklearn_vae.plot.base import COLORS
from tests.deep.data import make_rows

# Four intervals hold the truth and one does not.
IMPUTED, STD, FEATURES = [0.0, 1.0, 2.0, 3.0, 9.0], [0.5] * 5, [0, 0, 1, 1, 1]
TRUTH = [0.1, 1.2, 1.5, 3.5, 4.0]


def test_hits_and_misses_are_apart_also_in_grey():
    display = ImputationDisplay.from_results(IMPUTED, STD, FEATURES, truth=TRUTH)
    assert display.coverage_ == 0.8
    hits, misses = (container.lines[0] for container in display.ax_.containers)
    np.testing.assert_array_equal(hits.get_xdata(), TRUTH[:4])
    np.testing.assert_array_equal(misses.get_xdata(), TRUTH[4:])
    assert (hits.get_color(), misses.get_color()) == (COLORS[0], COLORS[5])
    assert hits.get_marker() != misses.get_marker()


def test_the_legend_has_the_shares():
    display = ImputationDisplay.from_results(IMPUTED, STD, FEATURES, truth=TRUTH)
    expected = 100 * math.erfc(math.sqrt(2.0))  # of a normal beyond two standard deviations
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        "80.0% of 5 intervals contain the truth",
        f"20.0% miss it (expected: {expected:.1f}%)",
    ]


def test_the_line_is_where_imputed_is_the_truth():
    display = ImputationDisplay.from_results(IMPUTED, STD, FEATURES, truth=TRUTH)
    x, y = display.ax_.lines[0].get_data()
    np.testing.assert_array_equal(x, y)
    assert (min(x), max(x)) == (0.0, 9.0)


def test_lists_draw_by_feature_too():
    display = ImputationDisplay.from_results(IMPUTED, STD, FEATURES, feature_names=["a", "b"])
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(display.ax_.containers[0].lines[0].get_ydata(), IMPUTED)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"imputed": [np.nan, 1.0]}, "imputed must be finite, got nan"),
        ({"imputed": [np.inf, 1.0]}, "imputed must be finite, got inf"),
        ({"std": [1.0, -2.0]}, r"std must be finite and at least 0, got -2\.0"),
        ({"std": [1.0, np.nan]}, "std must be finite and at least 0, got nan"),
        (
            {"features": [0, 2]},
            "features must be integers from 0 to 1, the indices of feature_names, got 2",
        ),
        ({"features": [0, -1]}, "got -1"),
        (
            {"features": [0, 0.5], "feature_names": None},
            r"features must be integers >= 0, got 0\.5",
        ),
    ],
)
def test_what_is_no_interval_leaves_no_figure(change, match):
    given = {"imputed": [0.0, 1.0], "std": [1.0, 1.0], "features": [0, 1]}
    with pytest.raises(ValueError, match=match):
        ImputationDisplay.from_results(**{"feature_names": ["a", "b"], **given, **change})
    assert not plt.get_fignums()


@pytest.mark.cover(1)
@pytest.mark.parametrize("features", [None, 4])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("name", ["a quite long feature name", "word_" * 30], ids=len)
def test_long_names_stay_in_the_picture(features, known, name):
    rows = make_rows(d=8)
    gone = np.random.default_rng(1).uniform(size=rows.shape) < 0.2
    table = pd.DataFrame(np.where(gone, np.nan, rows), columns=[f"{name} {i}" for i in range(8)])
    display = ImputationDisplay.from_estimator(
        PPCA(3).fit(table), table, rows if known else None, features=features, max_cells=100
    )
    figure = display.figure_
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    ax = display.ax_
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticklabels() if low <= tick.get_position()[0] <= high]
    labels = [ax._left_title, ax.xaxis.label, ax.yaxis.label, *ticks]
    for text in filter(matplotlib.text.Text.get_text, labels):
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.width + 1
        assert box.y1 <= figure.bbox.height + 1
    if features is None and not known:
        assert len({tick.get_text() for tick in ticks}) == 8
