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
    Snapshot,
)
from sklearn_vae.diagnostics import entropy_bound
from sklearn_vae.plot import EntropyDisplay
from sklearn_vae.plot.entropy import LINES
from tests.deep.data import SMALL, make_rows
from tests.helpers import exhaustive, slow

X = make_rows()


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(
    ("noise_model", "prior"),
    [
        ("scalar", "standard"),
        ("diagonal", "learned_variance"),
        *slow(("scalar", "learned_variance"), ("diagonal", "standard")),
    ],
)
def test_lines_circles_and_bars(noise_model, prior):
    model = DeepGaussianVAE(3, **SMALL, noise_model=noise_model, prior=prior).fit(X)
    display = EntropyDisplay.from_estimator(model, X)
    lines, history = display.lines_["DeepGaussianVAE"], model.history_
    for key in ("bound", "posterior_entropy", "prior_entropy", "noise_entropy"):
        np.testing.assert_array_equal(lines[key].get_ydata(), history[key])
    total = history["posterior_entropy"] - history["prior_entropy"] - history["noise_entropy"]
    np.testing.assert_allclose(lines["entropy_bound"].get_ydata(), total)
    found = entropy_bound(model, X)
    heights = [bar.get_height() for bar in display.bars_["DeepGaussianVAE"]]
    np.testing.assert_allclose(heights, [found.gap.noise, *found.gap.dimensions])
    np.testing.assert_allclose(sum(heights), found.elbo - found.bound)
    # The circles are in the units of the lines: the prior's entropy is that of the last epoch.
    (end,) = display.entropies["DeepGaussianVAE"].values()
    np.testing.assert_allclose(end.prior, history["prior_entropy"][-1], rtol=1e-6)
    np.testing.assert_allclose(end.posterior - end.prior - end.decoder, found.bound)
    circles = [line for line in display.ax_.ravel()[0].get_lines() if line not in lines.values()]
    drawn = [line.get_ydata()[0] for line in circles if len(line.get_ydata())]
    np.testing.assert_allclose(drawn, [found.elbo, found.bound])
    assert [line.get_xdata()[0] for line in circles if len(line.get_xdata())] == [3, 3]


def test_where_there_is_no_record_of_an_entropy_snapshots_are_drawn():
    options = {**SMALL, "noise_model": "heteroscedastic", "callbacks": [Snapshot([1, 2])]}
    model = DeepGaussianVAE(3, **options).fit(X)
    display = EntropyDisplay.from_estimator({"vae": model}, X)
    assert set(display.lines_["vae"]) == {"bound", "prior_entropy", "posterior_entropy"}
    assert list(display.entropies["vae"]) == [1, 2, 3]
    (circles,) = display.ax_.ravel()[2].get_lines()
    expected = [entropy_bound(m, X).decoder for m in (*model.snapshots_.values(), model)]
    np.testing.assert_array_equal(circles.get_ydata(), expected)
    heights = [bar.get_height() for bar in display.bars_["vae"]]
    np.testing.assert_allclose(sum(heights), entropy_bound(model, X).gap.total)


@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["unit_encoder", *exhaustive("standard")])
def test_a_linear_vae_has_all_entropies(parametrization):
    model = LinearVAE(2, parametrization=parametrization).fit(X)
    display = EntropyDisplay.from_estimator(model, X)
    lines = display.lines_["LinearVAE"]
    assert set(lines) == set(LINES)
    (end,) = display.entropies["LinearVAE"].values()
    for name, value in [
        ("entropy_bound", end.bound),
        ("posterior_entropy", end.posterior),
        ("prior_entropy", end.prior),
        ("noise_entropy", end.decoder),
    ]:
        assert lines[name].get_ydata()[-1] == pytest.approx(value, abs=1e-9)


@pytest.mark.slow
def test_several_models_have_a_column_each():
    models = {
        "bits": DeepBernoulliVAE(200, **SMALL, binarize=0.0).fit(X),
        "linear": BernoulliPPCA(1, binarize=0.0).fit(X),
        "one epoch": DeepBernoulliVAE(5, **{**SMALL, "max_epochs": 1}, binarize=0.0).fit(X),
    }
    display = EntropyDisplay.from_estimator(models, X)
    assert display.ax_.shape == (4, 3)
    for column, (name, model) in zip(display.ax_.T, models.items(), strict=True):
        assert column[0].get_legend().get_title().get_text() == name
        assert len(display.bars_[name]) == 1 + model.n_components_
    display.figure_.canvas.draw()


def test_results_with_gaps():
    end = {3: entropy_bound(PPCA(2).fit(X), X)}
    history = {"bound": [np.nan, -3.0, -2.0], "prior_entropy": [np.nan] * 3}
    display = EntropyDisplay.from_results({"model": history}, {"model": end})
    np.testing.assert_array_equal(display.lines_["model"]["bound"].get_ydata(), history["bound"])
    display.figure_.canvas.draw()


def test_errors_leave_no_figure():
    history, end = {"bound": [-1.0]}, {1: entropy_bound(PPCA(2).fit(X), X)}
    cases = [
        (lambda: EntropyDisplay.from_estimator(PPCA(2).fit(X), X), TypeError, "PPCA has no hist"),
        (
            lambda: EntropyDisplay.from_estimator(DeepAutoencoder(2, **SMALL).fit(X), X),
            TypeError,
            "DeepAutoencoder has no posterior",
        ),
        (lambda: EntropyDisplay.from_results({}, {}), ValueError, "at least one model"),
        (
            lambda: EntropyDisplay.from_results({"a": history}, {"b": end}),
            ValueError,
            r"model names as histories, \['a'\], got \['b'\]",
        ),
        (
            lambda: EntropyDisplay.from_results({"a": {"kl": [1.0]}}, {"a": end}),
            ValueError,
            "must have a bound, but the history of 'a' has none",
        ),
        (
            lambda: EntropyDisplay.from_results({"a": history}, {"a": {1: 2.0}}),
            TypeError,
            "entropies of 'a' must be a dict of int to Entropies, got float as a value",
        ),
    ]
    for call, error, match in cases:
        with pytest.raises(error, match=match):
            call()
    assert not plt.get_fignums()


def test_a_model_without_epochs_is_named():
    with pytest.raises(ValueError, match="entropies of 'a' must have at least one epoch"):
        EntropyDisplay.from_results({"a": {"bound": [1.0]}}, {"a": {}})
    assert not plt.get_fignums()
