import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import same_color

from sklearn_vae import PPCA, DeepGaussianVAE, Snapshot
from sklearn_vae.diagnostics import CollapseCurve, collapse_curve
from sklearn_vae.plot import CollapseDisplay
from tests.deep.data import SMALL, make_rows

X = make_rows()
CURVE = CollapseCurve(np.array([0.5, 0.02, 3.0, 1e-4]), 0.01, "share")


def drawn(line, epsilon):
    """The height of the drawn path at each epsilon: what is vertical counts with its right side."""
    x, y = line.get_xdata(), line.get_ydata()
    assert line.get_drawstyle() == "steps-post"
    return y[np.searchsorted(x, epsilon, side="right") - 1]


def test_a_line_is_the_share_of_dimensions_at_every_epsilon():
    (line,) = CollapseDisplay.from_results({"a": CURVE}).lines_.values()
    epsilon = np.array([5e-5, 1e-4, 1e-3, 0.019, 0.02, 0.021, 0.4, 0.6, 2.9, 3.0, 4.0])
    expected = [100.0 * np.mean(CURVE.thresholds <= e) for e in epsilon]
    np.testing.assert_array_equal(drawn(line, epsilon), expected)


def test_the_definition_has_its_line():
    ax = CollapseDisplay.from_results({"a": CURVE}, epsilon=0.3).ax_
    (across,) = [line for line in ax.get_lines() if len(set(line.get_xdata())) == 1]
    assert across.get_xdata()[0] == 0.3


def test_a_snapshot_is_dashed_and_its_own():
    model = DeepGaussianVAE(3, **{**SMALL, "callbacks": [Snapshot([1])]}).fit(X)
    display = CollapseDisplay.from_estimator(model, X, snapshot=1, delta=0.2, criterion="share")
    (line,) = display.lines_.values()
    dashed = next(one for one in display.ax_.get_lines() if one.get_linestyle() == "--")
    early = collapse_curve(model.snapshots_[1], X, delta=0.2)
    assert not np.array_equal(early.thresholds, collapse_curve(model, X, delta=0.2).thresholds)
    assert set(early.thresholds) <= set(dashed.get_xdata())
    assert same_color(dashed.get_color(), line.get_color())


@pytest.mark.parametrize("definition", [{"delta": 0.3}, {"criterion": "average"}])
def test_the_definition_is_passed_on(definition):
    model = PPCA(3).fit(X)
    (curve,) = CollapseDisplay.from_estimator(model, X, **definition).curves.values()
    expected = collapse_curve(model, X, **definition).thresholds
    np.testing.assert_array_equal(curve.thresholds, expected)
    assert not np.array_equal(expected, collapse_curve(model, X).thresholds)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"curves": {}}, ValueError, "curves must have at least one model"),
        ({"curves": 3}, TypeError, "curves must be a dict of str to CollapseCurve, got int"),
        ({"curves": {"a": 3}}, TypeError, "got int as a value"),
        ({"snapshots": {"b": CURVE}}, ValueError, r"names that are in curves, \['a'\], got 'b'"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be a finite number > 0"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be"),
        ({"epsilon": np.nan}, ValueError, "epsilon must be"),
    ],
)
def test_errors_leave_no_figure(wrong, error, match):
    with pytest.raises(error, match=match):
        CollapseDisplay.from_results(**{"curves": {"a": CURVE}, **wrong})
    assert not plt.get_fignums()
