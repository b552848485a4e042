import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_vae import PPCA, DeepAutoencoder, LinearVAE
from sklearn_vae.plot import PosteriorScaleDisplay
from tests.deep.data import SMALL, make_rows

X = make_rows()


def share_about(display, name, scale):
    """Per cent in the bin that a scale is in."""
    values, edges, _ = display.steps_[name].get_data()
    return values[np.searchsorted(edges, scale, side="right") - 1]


@pytest.mark.parametrize("k", [1, 5, 200])
def test_the_bin_about_one_is_what_has_collapsed(k):
    rng = np.random.default_rng(0)
    active = k // 2
    scales = np.hstack([rng.uniform(0.1, 0.5, (50, active)), rng.normal(1, 1e-3, (50, k - active))])
    display = PosteriorScaleDisplay.from_results({"model": scales})
    values, _, _ = display.steps_["model"].get_data()
    np.testing.assert_allclose(values.sum(), 100)
    np.testing.assert_allclose(share_about(display, "model", 1.0), 100 * (k - active) / k)
    display.figure_.canvas.draw()


def test_scales_are_in_units_of_the_prior():
    models = {
        "ppca": PPCA(3, noise_variance=1e-3).fit(X),
        "unit": LinearVAE(2, parametrization="unit_encoder").fit(X),
    }
    display = PosteriorScaleDisplay.from_estimator(models, X)
    for name, model in models.items():
        prior = getattr(model, "prior_variance_", 1.0)
        expected = np.sqrt(model.posterior(X)[1] / prior)
        np.testing.assert_allclose(display.scales[name], expected)
        values, edges, _ = display.steps_[name].get_data()
        counts, _ = np.histogram(expected, edges)
        np.testing.assert_allclose(values, 100 * counts / expected.size)
    assert len(display.ax_.get_legend().get_texts()) == 2


def test_scales_above_two_count_in_the_last_bin():
    display = PosteriorScaleDisplay.from_results({"model": np.array([[0.5, 1.0], [7.0, 3.0]])})
    values, edges, _ = display.steps_["model"].get_data()
    assert edges[-1] < 2.1
    assert values[-1] == 50
    assert share_about(display, "model", 0.5) == share_about(display, "model", 1.0) == 25


@pytest.mark.parametrize("wrong", [np.array([[np.nan]]), np.array([[-1.0]]), np.empty((0, 2))])
def test_what_is_no_scale(wrong):
    with pytest.raises(ValueError, match="scales of 'b' are not"):
        PosteriorScaleDisplay.from_results({"a": np.ones((2, 2)), "b": wrong})
    assert not plt.get_fignums()


def test_no_dimension_has_no_scale():
    with pytest.raises(ValueError, match="at least one latent dimension, but 'b' has none"):
        PosteriorScaleDisplay.from_results({"a": np.ones((2, 2)), "b": np.empty((3, 0))})
    assert not plt.get_fignums()


def test_the_priors_own_scale_is_a_line_and_a_tick():
    ax = PosteriorScaleDisplay.from_results({"model": np.array([[0.5, 1.0, 1.7]])}).ax_
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), [1.0, 1.0])
    (tick,) = [t for t in ax.get_xticklabels() if "prior" in t.get_text()]
    np.testing.assert_allclose(tick.get_position()[0], 1.0)


def test_every_tick_says_where_it_is():
    ax = PosteriorScaleDisplay.from_results({"model": np.array([[0.5, 1.0, 1.9]])}).ax_
    ticks = ax.get_xticks()
    assert ticks[-1] > 1.7
    said = [float(label.get_text().split("\n")[0]) for label in ax.get_xticklabels()]
    np.testing.assert_allclose(said, ticks)


def test_an_autoencoder_has_no_posterior():
    model = DeepAutoencoder(2, **SMALL).fit(X)
    with pytest.raises(
        TypeError, match=r"PosteriorScaleDisplay requires .* DeepAutoencoder has no"
    ):
        PosteriorScaleDisplay.from_estimator(model, X)
