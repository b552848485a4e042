"""Every Display takes an adapted model, or says what such a model lacks."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_vae import plot
from sklearn_vae.adapters import from_torch
from tests.adapters.models import PlainVAE, copied, rows
from tests.adapters.test_function_model import conditional_model, negative_binomial

NOT_FOR_VAES = {
    "CVCurveDisplay": "cv_results_",
    "DimensionChoiceDisplay": "no fit",
    "ImputationDisplay": "impute",
    "LikelihoodSurfaceDisplay": "PPCA|fit",
    "OutlierDisplay": "predict or distances",
}
OF_ONE_MODEL = (
    "ContributionDisplay",
    "LatentPlaneDisplay",
    "ReportDisplay",
)
DISPLAYS = [name for name in plot.__all__ if name not in NOT_FOR_VAES]


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("name", DISPLAYS)
def test_every_display_of_a_vae_takes_an_adapted_one(name):
    vae, adapted, X = copied("scalar")
    for model in (adapted, {"native": vae, "adapted": adapted}):
        if name not in OF_ONE_MODEL or model is adapted:
            assert getattr(plot, name).from_estimator(model, X).figure_ is not None
    plt.close("all")


@pytest.mark.parametrize("name", NOT_FOR_VAES)
def test_other_displays_name_what_is_missing(name):
    _, adapted, X = copied("scalar")
    with pytest.raises(TypeError, match=NOT_FOR_VAES[name]):
        getattr(plot, name).from_estimator(adapted, X)


@pytest.mark.parametrize("name", ["TrainingDisplay", "EntropyDisplay"])
def test_displays_of_training_need_a_history(name):
    model = from_torch(PlainVAE(), noise_variance=1.0)
    with pytest.raises(TypeError, match="PlainVAE has no history_"):
        getattr(plot, name).from_estimator(model, rows())


WITHOUT_HISTORY = [name for name in DISPLAYS if name not in ("TrainingDisplay", "EntropyDisplay")]


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("name", WITHOUT_HISTORY)
@pytest.mark.parametrize("kind", ["conditional", "counts"])
def test_displays_take_covariates_and_counts(name, kind):
    model = conditional_model() if kind == "conditional" else negative_binomial()[0]
    if (name, kind) == ("ContributionDisplay", "conditional"):
        pytest.skip("a covariate has no contribution of its own")
    X = np.round(rows()) if kind == "counts" else np.hstack([rows(), np.ones((150, 1))])
    getattr(plot, name).from_estimator(model, X)
    plt.close("all")


def test_a_report_without_a_bound_is_drawn():
    def prior(n):
        return np.linspace(-1.0, 1.0, 2 * n).reshape(n, 2)

    model = from_torch(PlainVAE(), noise_variance=1.0, prior=prior)
    plot.ReportDisplay.from_estimator(model, rows()).figure_.canvas.draw()
    plt.close("all")
