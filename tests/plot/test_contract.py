"""What every Display does, by the list of them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sklearn_vae.plot
from sklearn_vae import PPCA, PPCACV, DeepGaussianVAE, OutlierDetector
from sklearn_vae.plot import (
    CollapseDisplay,
    ContributionDisplay,
    CVCurveDisplay,
    DimensionChoiceDisplay,
    EntropyDisplay,
    ImputationDisplay,
    KLDisplay,
    LatentPlaneDisplay,
    LikelihoodSurfaceDisplay,
    OutlierDisplay,
    PosteriorScaleDisplay,
    ReconstructionDisplay,
    ReportDisplay,
    TrainingDisplay,
)
from tests.deep.data import SMALL, make_rows
from tests.sharing import shared

X = make_rows()
HOLES = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)


@shared
def vae():
    return DeepGaussianVAE(3, **SMALL).fit(X)


@shared
def detector():
    return OutlierDetector(PPCA(3), level=0.05, random_state=0).fit(X)


# Of each class one call of `from_estimator`, and the attributes that `from_results` is given.
CASES = {
    CollapseDisplay: (
        lambda ax: CollapseDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: CollapseDisplay.from_results(display.curves),
    ),
    ContributionDisplay: (
        lambda ax: ContributionDisplay.from_estimator(PPCA(3).fit(X), X, max_features=4, ax=ax),
        lambda display: ContributionDisplay.from_results(display.contributions, max_features=4),
    ),
    OutlierDisplay: (
        lambda ax: OutlierDisplay.from_estimator(detector(), 1.5 * X, ax=ax),
        lambda display: OutlierDisplay.from_results(
            display.t2,
            display.spe,
            display.is_outlier,
            t2_limit=display.t2_limit,
            spe_limit=display.spe_limit,
            calibration=display.calibration,
            level=display.level,
        ),
    ),
    EntropyDisplay: (
        lambda ax: EntropyDisplay.from_estimator(vae(), X, ax=ax),
        lambda display: EntropyDisplay.from_results(display.histories, display.entropies),
    ),
    KLDisplay: (
        lambda ax: KLDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: KLDisplay.from_results(display.collapses),
    ),
    DimensionChoiceDisplay: (
        lambda ax: DimensionChoiceDisplay.from_estimator(PPCACV([1, 2]).fit(X), X, ax=ax),
        lambda display: DimensionChoiceDisplay.from_results(display.choice),
    ),
    PosteriorScaleDisplay: (
        lambda ax: PosteriorScaleDisplay.from_estimator(PPCA(3).fit(X), X, ax=ax),
        lambda display: PosteriorScaleDisplay.from_results(display.scales),
    ),
    ReportDisplay: (
        lambda ax: ReportDisplay.from_estimator(vae(), X, ax=ax),
        lambda display: ReportDisplay.from_results(
            display.report, display.scales, history=display.history
        ),
    ),
    TrainingDisplay: (
        lambda ax: TrainingDisplay.from_estimator(vae(), X, ax=ax),
        lambda display: TrainingDisplay.from_results(display.histories),
    ),
    LikelihoodSurfaceDisplay: (
        lambda ax: LikelihoodSurfaceDisplay.from_estimator(PPCA(3).fit(X), X, n_grid=5, ax=ax),
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
        lambda display: CVCurveDisplay.from_results(
            display.cv_results, best_index=display.best_index
        ),
    ),
    ImputationDisplay: (
        lambda ax: ImputationDisplay.from_estimator(PPCA(3).fit(HOLES), HOLES, X, ax=ax),
        lambda display: ImputationDisplay.from_results(
            display.imputed,
            display.std,
            display.features,
            truth=display.truth,
            standardized=display.standardized,
        ),
    ),
}


def test_every_display_is_tested():
    assert {cls.__name__ for cls in CASES} == set(sklearn_vae.plot.__all__)


@pytest.mark.some(3, "slow")
@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_a_new_figure_and_axes_given(cls):
    from_estimator, _ = CASES[cls]
    display = from_estimator(None)
    assert isinstance(display, cls)
    axes = np.ravel(display.ax_)
    assert all(ax.figure is display.figure_ for ax in axes)
    assert display.plot() is display
    assert display.figure_ is not axes[0].figure
    plt.close("all")  # the next test draws them
    width, height = display.figure_.get_size_inches()
    figure, given = plt.subplots(1, 2, layout="constrained", figsize=(2 * width, height))
    display = from_estimator(given[1])
    assert display.figure_ is figure
    if np.ravel(display.ax_).size == 1:
        assert display.ax_ is given[1]
    figure.canvas.draw()


@pytest.mark.some(9, "slow")
@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_results_draw_the_same_picture_and_what_is_said_is_in_it_and_covers_no_axes(cls):
    from_estimator, from_results = CASES[cls]
    display = from_estimator(None)
    assert np.array_equal(_pixels(display), _pixels(from_results(display)))
    figure = display.figure_
    whole = figure.get_tightbbox(figure.canvas.get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert whole.x0 > -0.01
    assert whole.x1 < width + 0.01
    assert whole.y0 > -0.01
    assert whole.y1 < height + 0.01
    for ax in np.ravel(display.ax_):
        if ax.get_legend() is not None:
            covered = ax.get_legend().get_window_extent()
            assert not any(covered.overlaps(other.get_window_extent()) for other in figure.axes)


def _pixels(display):
    display.figure_.canvas.draw()
    return np.asarray(display.figure_.canvas.buffer_rgba())


LINES = (CollapseDisplay, EntropyDisplay, TrainingDisplay, ReconstructionDisplay)


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("cls", LINES, ids=lambda cls: cls.__name__)
def test_options_replace_what_is_drawn_by_default(cls):
    display = CASES[cls][0](None)
    plt.close(display.figure_)
    display.plot(lw=7.0, c="red", ls=":", label="mine")
    lines = [line for ax in np.ravel(display.ax_) for line in ax.get_lines()]
    changed = [line for line in lines if line.get_linewidth() == 7.0]
    assert changed
    assert {line.get_linestyle() for line in changed} <= {":", "--"}  # held out, or earlier
    assert any(line.get_color() == "red" for line in changed)
    assert any(line.get_label() == "mine" for line in changed)


def test_an_option_given_twice_and_one_unknown_leave_no_figure():
    display = CASES[CollapseDisplay][0](None)
    plt.close("all")
    with pytest.raises(TypeError, match="aliases of one another"):
        display.plot(lw=1.0, linewidth=2.0)
    with pytest.raises(AttributeError, match="colour"):
        display.plot(colour="red")
    assert not plt.get_fignums()


@pytest.mark.some(1)
@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_the_figure_of_a_subfigure_is_the_whole(cls):
    figure = plt.figure(layout="constrained", figsize=(10, 10))
    ax = figure.subfigures(1, 2)[0].subplots()
    display = CASES[cls][0](ax)
    assert display.figure_ is figure
    figure.canvas.draw()


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize(
    "cls", [*LINES, KLDisplay, PosteriorScaleDisplay], ids=lambda cls: cls.__name__
)
def test_names_are_no_formulas_and_are_in_the_legend(cls):
    model = vae() if cls in (EntropyDisplay, TrainingDisplay) else PPCA(3).fit(X)
    names = ["_a", r"$\bad$", "$5 and $6"]
    display = cls.from_estimator(dict.fromkeys(names, model), X)
    display.figure_.canvas.draw()
    legends = [ax.get_legend() for ax in np.ravel(display.ax_) if ax.get_legend()]
    said = [text.get_text() for one in legends for text in (*one.get_texts(), one.get_title())]
    for name in names:
        assert any(text.strip().replace(r"\$", "$").startswith(name) for text in said)


def test_names_of_features_are_no_formulas():
    names, cells = [r"a$\frac$", "_b"], np.arange(20) % 2
    values = np.random.default_rng(0).normal(size=20)
    display = ImputationDisplay.from_results(values, np.ones(20), cells, feature_names=names)
    display.figure_.canvas.draw()


@pytest.mark.parametrize("values", [[1e6, 3e6, 4e6], [12345.1, 12345.2, 12345.3]])
def test_a_legend_covers_no_exponent(values):
    histories = {name: {"bound": values} for name in "abc"}
    ax = TrainingDisplay.from_results(histories).ax_
    ax.figure.canvas.draw()
    exponent = ax.yaxis.get_offset_text()
    assert exponent.get_text()
    assert not ax.get_legend().get_window_extent().overlaps(exponent.get_window_extent())


def test_a_legend_covers_no_numbers_beside_the_axes():
    models = {f"model {i}": X[:2] + i for i in range(7)}
    ax = ReconstructionDisplay.from_results(X[:2], models).ax_[0, 0]
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 > ax.get_window_extent().x1
    assert not any(legend.overlaps(text.get_window_extent()) for text in ax.texts)


@pytest.mark.some(1)
@pytest.mark.parametrize("n", [2, 8])
def test_long_names_are_not_cut_and_leave_room(n):
    name = "a long name of a model that says all about how it was made and of what {}"
    histories = {name.format(i): {"bound": [1.0, 2.0]} for i in range(n)}
    display = TrainingDisplay.from_results(histories)
    figure = display.figure_
    figure.canvas.draw()
    width, _ = figure.get_size_inches()
    assert figure.get_tightbbox(figure.canvas.get_renderer()).x1 < width + 0.01
    assert display.ax_.get_window_extent().width > 0.3 * figure.bbox.width
    said = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert len(set(said)) == n
