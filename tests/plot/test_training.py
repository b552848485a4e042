import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_vae import (
    PPCA,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    LinearVAE,
)
from sklearn_vae.plot import TrainingDisplay
from tests.deep.data import SMALL, make_rows
from tests.helpers import slow

X = make_rows()


CASES = {
    "scalar": (DeepGaussianVAE(3, **SMALL), 4, "epoch", 1),
    "held out": (DeepGaussianVAE(3, **SMALL, early_stopping=True), 4, "epoch", 1),
    "heteroscedastic": (DeepGaussianVAE(3, **SMALL, noise_model="heteroscedastic"), 3, "epoch", 1),
    "one epoch": (DeepGaussianVAE(1, **{**SMALL, "max_epochs": 1}), 4, "epoch", 1),
    "bits": (DeepBernoulliVAE(3, **SMALL, binarize=0.0), 3, "epoch", 1),
    "em": (LinearVAE(2), 2, "iteration", 0),
    "adam": (LinearVAE(2, solver="adam", max_iter=30, tol=1e3), 2, "iteration", 0),
    "stochastic": (LinearVAE(2, solver="stochastic", max_iter=3, tol=1e3), 2, "epoch", 1),
    "logistic": (BernoulliPPCA(2, binarize=0.0), 1, "iteration", 0),
}


OFTEN = ["scalar", "held out", "bits", "em", "logistic"]


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("name", [*OFTEN, *slow(*(name for name in CASES if name not in OFTEN))])
def test_lines_are_the_history(name):
    model, n_panels, counted, first = CASES[name]
    model = model.fit(X)
    display = TrainingDisplay.from_estimator(model)
    axes = np.ravel(display.ax_)
    assert len(axes) == n_panels
    assert axes[-1].get_xlabel() == counted
    history = getattr(model, "history_", {"bound": getattr(model, "elbo_history_", None)})
    (lines,) = display.lines_.values()
    assert ("validation_bound" in lines) == (name == "held out")
    for key, line in lines.items():
        np.testing.assert_array_equal(line.get_ydata(), history[key])
        assert line.get_xdata()[0] == first
    assert np.diff(line.get_xdata()).max(initial=1) == 1
    display.figure_.canvas.draw()


def test_noise_of_each_feature_is_a_mean_in_a_range():
    model = DeepGaussianVAE(3, **SMALL, noise_model="diagonal").fit(X)
    display = TrainingDisplay.from_estimator(model)
    noise = model.history_["noise_variance"]
    (lines,) = display.lines_.values()
    np.testing.assert_allclose(lines["noise_variance"].get_ydata(), noise.mean(axis=1))
    ax = display.ax_.ravel()[2]
    (band,) = ax.collections
    low, high = band.get_datalim(ax.transData).intervaly
    np.testing.assert_allclose([low, high], [noise.min(), noise.max()])
    vertices = band.get_paths()[0].vertices
    for i, row in enumerate(noise, start=1):
        ends = vertices[vertices[:, 0] == i, 1]
        np.testing.assert_allclose([ends.min(), ends.max()], [row.min(), row.max()])


def test_active_dimensions_are_counted_from_none():
    low, high = TrainingDisplay.from_results({"a": {"active_dims": [3, 5, 5]}}).ax_.get_ylim()
    assert low == 0
    assert high > 5


def test_several_models_and_an_autoencoder():
    models = {
        "vae": DeepGaussianVAE(2, **SMALL).fit(X),
        "autoencoder": DeepAutoencoder(2, **SMALL, early_stopping=True).fit(X),
        "linear": LinearVAE(2).fit(X),
    }
    display = TrainingDisplay.from_estimator(models)
    axes = display.ax_.ravel()
    assert len(axes) == 5
    assert axes[-1].get_xlabel() == "epoch or iteration"
    error = models["autoencoder"].history_["bound"]
    np.testing.assert_array_equal(display.lines_["autoencoder"]["score"].get_ydata(), error)
    assert "bound" not in display.lines_["autoencoder"]
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert texts == [*models, "training", "held out"]
    colors = {line["bound"].get_color() for n, line in display.lines_.items() if "bound" in line}
    assert len(colors) == 2


def test_only_a_start_that_hides_the_rest_is_cut_off():
    def limits(bound):
        return TrainingDisplay.from_results({"model": {"bound": bound}}).ax_.get_ylim()

    rising = -np.geomspace(20.0, 10.0, 100)
    low, high = limits(np.r_[-1e6, rising])
    assert -25 < low < -20 + 1
    assert -10 < high < -5
    low, _ = limits(np.r_[-25.0, rising])
    assert low < -25
    low, _ = limits([-1e6, -2.0, -1.0])  # too few to tell a start
    assert low < -1e6
    low, high = limits(np.full(30, 199.65038238) + 1e-12 * np.arange(30))
    assert high - low > 1


def test_missing_values_are_gaps():
    bound = np.array([np.nan, -3.0, np.nan, -2.0, -1.0])
    history = {"bound": bound, "kl": np.full(5, np.nan)}
    display = TrainingDisplay.from_results({"model": history})
    np.testing.assert_array_equal(display.lines_["model"]["bound"].get_ydata(), bound)
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: TrainingDisplay.from_estimator(PPCA(2).fit(X)),
            TypeError,
            "PPCA has no history_ or elbo_history_",
        ),
        (lambda: TrainingDisplay.from_results({}), ValueError, "at least one model"),
        (lambda: TrainingDisplay.from_results([1]), TypeError, "dict of str to Mapping, got list"),
        (
            lambda: TrainingDisplay.from_results({"a": {"seconds": [1.0]}}),
            ValueError,
            "the history of 'a' has seconds",
        ),
        (
            lambda: TrainingDisplay.from_results({"a": {"bound": []}}),
            ValueError,
            "'a' has no values",
        ),
        (
            lambda: TrainingDisplay.from_results({"a": {"bound": [1.0, 2.0], "kl": [1.0]}}),
            ValueError,
            "of 'a' has bound of length 2, kl of length 1",
        ),
    ],
)
def test_errors_leave_no_figure(call, error, match):
    with pytest.raises(error, match=match):
        call()
    assert not plt.get_fignums()


def test_equal_lines_are_both_visible():
    history = {"bound": np.arange(5.0), "active_dims": np.array([3.0, np.nan, 3, 3, 3])}
    other = {**history, "bound": np.arange(5.0) + 1}
    lines = TrainingDisplay.from_results({"a": history, "b": other, "c": history}).lines_
    for key, equal in [("bound", ["a", "c"]), ("active_dims", ["a", "b", "c"])]:
        widths = [lines[name][key].get_linewidth() for name in equal]
        assert (np.diff(widths) <= -2).all()  # the later ones are above
    assert lines["b"]["bound"].get_linewidth() == lines["c"]["bound"].get_linewidth()
