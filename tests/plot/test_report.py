"""The four panels of a report."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_vae import PPCA, DeepAutoencoder, DeepGaussianVAE
from sklearn_vae.diagnostics import diagnose
from sklearn_vae.plot import ReportDisplay
from tests.deep.data import SMALL, make_rows
from tests.sharing import shared

X = make_rows()


@shared
def vae():
    return DeepGaussianVAE(3, **SMALL).fit(X)


@pytest.mark.parametrize("name", ["ppca", "vae"])
def test_the_panels_show_the_numbers_of_the_report(name):
    model = PPCA(3, noise_variance=0.5).fit(X) if name == "ppca" else vae()
    display = ReportDisplay.from_estimator(model, X)
    report = diagnose(model, X)
    assert display.ax_.shape == (2, 2)
    assert sorted(display.panels_) == ["collapse", "kl", "scales"]
    heights = [bar.get_height() for bar in display.panels_["kl"].bars_]
    np.testing.assert_allclose(heights, np.sort(report.collapse.kl_per_dim)[::-1])
    bounds = {key: line.get_ydata()[0] for key, line in display.bounds_.items()}
    assert bounds["elbo"] == pytest.approx(report.numbers["elbo"])
    assert bounds["entropies"] == pytest.approx(report.entropies.bound)
    assert bounds["reference"] == pytest.approx(report.numbers["reference"])
    low, high = display.ax_[1, 1].get_ylim()
    assert all(low < value < high for value in bounds.values())
    assert report.estimator in display.figure_.get_suptitle()
    lines = [line for line in display.ax_[1, 1].lines if len(line.get_xdata()) > 2]
    assert len(lines) == (name == "vae")
    plt.close("all")


def test_a_healthy_model_is_called_healthy():
    display = ReportDisplay.from_estimator(PPCA(3).fit(X), X)
    assert display.figure_.get_suptitle() == "PPCA: healthy"


def test_unknown_bounds_are_left_out():
    report = diagnose(PPCA(3).fit(X), X)
    bare = dataclasses.replace(report, entropies=None, numbers={"elbo": -10.0})
    display = ReportDisplay.from_results(bare, np.ones((5, 3)))
    assert list(display.bounds_) == ["elbo"]
    display.figure_.canvas.draw()


def test_wrong_reports_are_named():
    with pytest.raises(TypeError, match="report must be a CollapseReport, got dict"):
        ReportDisplay.from_results({}, np.ones((5, 3)))
    report = diagnose(DeepAutoencoder(3, **SMALL).fit(X), X)
    with pytest.raises(ValueError, match="model with a posterior"):
        ReportDisplay.from_results(report, np.ones((5, 3)))
    with pytest.raises(TypeError, match="DeepAutoencoder has no posterior"):
        ReportDisplay.from_estimator(DeepAutoencoder(3, **SMALL).fit(X), X)
