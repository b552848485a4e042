"""Pictures of outliers show the distances, labels, limits and contributions."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture

from sklearn_vae import PPCA, OutlierDetector
from sklearn_vae.outliers import Contributions, contributions
from sklearn_vae.plot import ContributionDisplay, OutlierDisplay
from tests.deep.data import make_rows
from tests.sharing import shared

X = make_rows()
NAMED = pd.DataFrame(X, columns=[f"$feature_{i}$" for i in range(X.shape[1])])


@shared
def detector():
    return OutlierDetector(PPCA(3), level=0.05, random_state=0).fit(NAMED)


def test_points_and_limits():
    samples = NAMED * 1.3
    display = OutlierDisplay.from_estimator(detector(), samples)
    d, labels = detector().distances(samples), detector().predict(samples)
    for points, label in ((display.usual_, 1), (display.outliers_, -1)):
        x, y = np.asarray(points.get_offsets()).T
        np.testing.assert_allclose(x, (d.t2 / 3)[labels == label])
        low, high = display.ax_.get_ylim()
        np.testing.assert_allclose(y, np.clip(d.spe / 5, low, high)[labels == label])
    vertical, horizontal = display.ax_.lines
    np.testing.assert_allclose(vertical.get_xdata(), detector().t2_limit_)
    np.testing.assert_allclose(horizontal.get_ydata(), detector().spe_limit_)
    assert len(display.calibration_.get_offsets()) == len(X)
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert f"labeled outliers ({(labels == -1).sum()})" in texts
    assert "limits at level 0.05" in texts
    without = OutlierDisplay.from_estimator(detector(), samples, show_calibration=False)
    assert not hasattr(without, "calibration_")
    plt.close("all")


def test_limits_are_those_of_p_values():
    for statistic in ("t2", "spe"):
        model = OutlierDetector(PPCA(3), level=0.05, statistic=statistic, cv=0.5, random_state=0)
        model.fit(X)
        samples = 1.5 * X
        d = model.distances(samples)
        limit = getattr(model, f"{statistic}_limit_")
        above = getattr(d, statistic) / getattr(d, f"{statistic}_dof") > limit
        np.testing.assert_array_equal(above, model.predict(samples) == -1)


def test_without_limits_and_without_latent_dimensions():
    model = OutlierDetector(PPCA(0), cv=0.2, random_state=0)
    with pytest.warns(UserWarning, match="out of reach"):
        model.fit(X)
    assert (model.t2_limit_, model.spe_limit_) == (np.inf, np.inf)
    display = OutlierDisplay.from_estimator(model, X)
    assert len(display.ax_.lines) == 0
    assert display.ax_.get_xscale() == "linear"
    assert display.ax_.get_yscale() == "log"
    display.figure_.canvas.draw()
    plt.close("all")


def test_bars_are_the_contributions_of_one_sample():
    display = ContributionDisplay.from_estimator(detector(), NAMED, sample=5, max_features=3)
    parts = contributions(PPCA(3).fit(X), X[5:6])
    order = np.argsort(-parts.total[0])
    for bars, part in ((display.t2_, parts.t2[0]), (display.spe_, parts.spe[0])):
        widths = [bar.get_width() for bar in bars]
        np.testing.assert_allclose(widths[:3], part[order[:3]])
        np.testing.assert_allclose(sum(widths), part.sum())
    names = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert names == [rf"\$feature_{j}\$" for j in order[:3]] + ["5 other features"]
    whole = ContributionDisplay.from_estimator(PPCA(3).fit(X), X, max_features=7)
    assert len(whole.t2_) == 8  # no bar for a single other feature
    plt.close("all")


def test_errors():
    other = OutlierDetector(GaussianMixture(), level=0.1).fit(X)
    with pytest.raises(TypeError, match="requires an estimator with the methods"):
        OutlierDisplay.from_estimator(other, X)
    with pytest.raises(TypeError, match="OutlierDisplay requires an estimator with the methods"):
        OutlierDisplay.from_estimator(PPCA(3).fit(X), X)
    with pytest.raises(ValueError, match="must have the same length, at least 1"):
        OutlierDisplay.from_results(np.ones(3), np.ones(2), np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="sample must be an index from 0 to 149, got 150"):
        ContributionDisplay.from_estimator(detector(), NAMED, sample=150)
    with pytest.raises(TypeError, match="contributions must be Contributions, got ndarray"):
        ContributionDisplay.from_results(X)
    parts = Contributions(np.ones((1, 2)), np.ones((1, 2)), ("a", "b"))
    with pytest.raises(ValueError, match="max_features must be an integer >= 1"):
        ContributionDisplay.from_results(parts, max_features=0)
