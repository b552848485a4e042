import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_vae import PPCA, DeepAutoencoder, LinearVAE
from sklearn_vae.diagnostics import Collapse, collapse
from sklearn_vae.plot import KLDisplay
from tests.deep.data import SMALL, make_rows
from tests.helpers import exhaustive

X = make_rows()


def made(k, n_active, epsilon=0.01):
    kl = np.random.default_rng(0).permutation(
        np.r_[np.linspace(0.5, 3, n_active), np.zeros(k - n_active)]
    )
    return Collapse(epsilon, 0.01, "share", kl, (kl == 0) * 1.0, np.flatnonzero(kl == 0))


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(
    ("k", "n_active"), [(1, 0), (5, 3), (200, 37), *exhaustive((1, 1), (40, 40), (200, 0))]
)
def test_bars_are_the_kl_and_grey_what_has_collapsed(k, n_active):
    result = made(k, n_active)
    display = KLDisplay.from_results({"model": result})
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_array_equal(heights, np.sort(result.kl_per_dim)[::-1])
    spans = [p for p in display.ax_.patches if p not in display.bars_.patches]
    places = [p.get_x() + p.get_width() / 2 for p in spans]
    np.testing.assert_allclose(places, np.arange(n_active + 1, k + 1))
    low, high = display.ax_.get_ylim()
    assert low == 0
    assert display.ax_.get_ylabel() == "KL per dimension (nats)"
    assert "latent dimension" in display.ax_.get_xlabel()
    assert high > max(heights)
    display.figure_.canvas.draw()


def test_ticks_name_the_dimensions():
    result = made(5, 3)
    ticks = KLDisplay.from_results({"model": result}).ax_.get_xticklabels()
    order = [int(tick.get_text()) for tick in ticks]
    assert (np.diff(result.kl_per_dim[order]) <= 0).all()
    assert sorted(order) == [0, 1, 2, 3, 4]


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("k", [1, 5, 200])
def test_steps_of_several_models(k):
    found = {"a": made(k, k), "b": made(k, k // 2), "c": made(1, 1)}
    display = KLDisplay.from_results(found)
    for name, result in found.items():
        drawn, gone = (
            steps[name].get_data().values for steps in (display.steps_, display.collapsed_steps_)
        )
        assert np.isnan(drawn).sum() == len(result.collapsed)
        both = np.where(np.isnan(drawn), gone, drawn)
        np.testing.assert_array_equal(both, np.sort(result.kl_per_dim)[::-1])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[:2] == [f"a, {k} of {k} active", f"b, {k // 2} of {k} active"]
    display.figure_.canvas.draw()


@pytest.mark.some(2)
@pytest.mark.parametrize("k", [1, 8, 17, 51, 12345, *exhaustive(2, 5, 16, 40, 50, 200, 999)])
def test_ranks_are_counted_from_one(k):
    ax = KLDisplay.from_results({"a": made(k, k), "b": made(1, 1)}).ax_
    low, high = ax.get_xlim()
    ticks = ax.get_xticks()
    assert low < ticks[0] == 1
    assert ticks[-1] <= k < high
    # All of few; else multiples of one number, the last of which has no next within k.
    step = 1 if k <= 16 else ticks[1]
    np.testing.assert_array_equal(ticks[1:], np.arange(max(step, 2), k + 1, step))
    assert len(ticks) <= 16


def test_of_fitted_models():
    models = [PPCA(2).fit(X), LinearVAE(3).fit(X)]
    display = KLDisplay.from_estimator(models, X, epsilon=0.5, delta=0.2, criterion="average")
    assert list(display.collapses) == ["PPCA", "LinearVAE"]
    for model, found in zip(models, display.collapses.values(), strict=True):
        expected = collapse(model, X, 0.5, 0.2, "average")
        np.testing.assert_array_equal(found.kl_per_dim, expected.kl_per_dim)
        np.testing.assert_array_equal(found.collapsed, expected.collapsed)
    assert display.ax_.get_lines()[0].get_ydata()[0] == 0.5
    assert list(KLDisplay.from_estimator(models, X, names=["a", "b"]).collapses) == ["a", "b"]
    assert list(KLDisplay.from_estimator([models[0]] * 2, X).collapses) == ["PPCA 1", "PPCA 2"]


def test_an_infinite_kl_and_an_epsilon_of_zero():
    kl = np.array([np.inf, 1.0, 0.0])
    result = Collapse(0.0, 0.01, "share", kl, np.zeros(3), np.array([2]))
    display = KLDisplay.from_results({"model": result})
    assert [bar.get_height() for bar in display.bars_] == [display.ax_.get_ylim()[1], 1.0, 0.0]
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: KLDisplay.from_results({}), ValueError, "collapses must have at least one model"),
        (lambda: KLDisplay.from_results(made(2, 1)), TypeError, "dict of str to Collapse, got Col"),
        (lambda: KLDisplay.from_results({"a": np.ones(2)}), TypeError, "got ndarray as a value"),
        (
            lambda: KLDisplay.from_results({"b": made(2, 1), "a": made(0, 0)}),
            ValueError,
            "at least one latent dimension, but 'a' has none",
        ),
        (
            lambda: KLDisplay.from_estimator([], X),
            ValueError,
            "estimator must contain at least one",
        ),
        (
            lambda: KLDisplay.from_estimator({}, X),
            ValueError,
            "estimator must contain at least one",
        ),
        (
            lambda: KLDisplay.from_estimator(PPCA(2).fit(X), X, names=["a", "b"]),
            ValueError,
            "names must have one name per model",
        ),
        (
            lambda: KLDisplay.from_estimator({"a": PPCA(2).fit(X)}, X, names=["a"]),
            ValueError,
            "names must be None if estimator is a dict",
        ),
        (
            lambda: KLDisplay.from_estimator(DeepAutoencoder(2, **SMALL).fit(X), X),
            TypeError,
            "DeepAutoencoder has no posterior",
        ),
    ],
)
def test_errors_leave_no_figure(call, error, match):
    with pytest.raises(error, match=match):
        call()
    assert not plt.get_fignums()


def test_active_dimensions_below_epsilon_on_average_are_counted_in_words():
    # Active for more than 1 % of the samples, although the average lies below the dashed line.
    kl = np.array([2.0, 0.005, 0.009, 0.0])
    result = Collapse(0.01, 0.01, "share", kl, np.array([0.0, 0.9, 0.8, 1.0]), np.array([3]))
    one = KLDisplay.from_results({"model": result})
    labels = [text.get_text() for text in one.ax_.get_legend().get_texts()]
    assert labels[0] == "active, 3 (2 below epsilon on average)"
    both = KLDisplay.from_results({"a": result, "b": made(4, 2)})
    labels = [" ".join(text.get_text().split()) for text in both.ax_.get_legend().get_texts()]
    assert labels[:2] == ["a, 3 of 4 active (2 below epsilon on average)", "b, 2 of 4 active"]
