"""Models with default parameters in searches, processes, checkpoints and warm starts."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_vae import DeepAutoencoder, DeepBernoulliVAE, DeepGaussianVAE, Processes
from sklearn_vae.deep.choices import PLAIN
from tests.deep import automatic
from tests.deep.automatic import CURVED
from tests.deep.data import parameters_of
from tests.helpers import exhaustive
from tests.sharing import shared

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
# Few samples of many features, for which validation enlarges the noise variance.
WIDE = rng.normal(size=(30, 2)) @ (3 * rng.normal(size=(2, 300))) + rng.normal(size=(30, 300))
MODELS = [DeepGaussianVAE(2), DeepBernoulliVAE(2, binarize=0.0), DeepAutoencoder(2)]


@shared
def fitted_to_wide():
    return DeepGaussianVAE(2, random_state=0).fit(WIDE)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_dask_is_refused(model):
    da = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="Dask"):
        clone(model).fit(da.from_array(CURVED, chunks=(60, 6)))


@pytest.mark.slow
def test_one_process_trains_automatically():
    model = DeepGaussianVAE(2, random_state=0)
    with Processes() as processes:
        model.fit(WIDE, processes=processes)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(fitted_to_wide()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "best"),
    [
        ({"noise_variance": [0.1, 300.0]}, 0.1),
        ({"n_components": [1, 2]}, 2),
        ({"hidden_layer_sizes": ["auto", (8,), 16]}, None),
    ],
)
def test_grid_searches_with_default_parameters(grid, best):
    search = GridSearchCV(DeepGaussianVAE(2, random_state=0), grid, cv=2).fit(CURVED[:60])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    (value,) = search.best_params_.values()
    assert value == (value if best is None else best)
    found = search.best_estimator_.hidden_layer_sizes_
    assert (
        found
        == {"auto": (64,), (8,): (8,), 16: (16,)}[
            search.best_params_.get("hidden_layer_sizes", "auto")
        ]
    )


def test_a_clone_has_no_trace_of_the_choices():
    again = clone(fitted_to_wide())
    assert vars(again).keys() == DeepGaussianVAE(2).get_params().keys()
    assert again.max_epochs == again.hidden_layer_sizes == "auto"


@pytest.mark.slow
def test_samples_of_other_weights_are_another_fit():
    weights = np.where(WIDE[:, 0] > np.median(WIDE[:, 0]), 3.0, 1.0)
    model = DeepGaussianVAE(2, random_state=0).fit(WIDE, sample_weight=weights)
    other = fitted_to_wide()
    np.testing.assert_allclose(model.mean_, np.average(WIDE, axis=0, weights=weights))
    assert model.score(WIDE, sample_weight=weights) > other.score(WIDE, sample_weight=weights)
    scaled = DeepGaussianVAE(2, random_state=0).fit(WIDE, sample_weight=8.0 * weights)
    np.testing.assert_allclose(parameters_of(scaled), parameters_of(model), rtol=1e-6)


class KilledError(RuntimeError):
    """Stands for a kill."""


class DiesOnce(Callback):
    """Callback that raises an error after an epoch, once per folder."""

    def __init__(self, folder, epoch):
        self.folder, self.epoch = folder, epoch

    def on_epoch_end(self, net, **kwargs):
        flag = self.folder / "died"
        if len(net.history) == self.epoch and not flag.exists():
            flag.touch()
            raise KilledError


@pytest.mark.parametrize("wide", [True, *exhaustive(False)])
def test_a_killed_fit_resumes_to_the_same_model(wide, tmp_path):
    X = WIDE if wide else CURVED
    whole = fitted_to_wide() if wide else automatic.fitted(DeepGaussianVAE, True)
    model = clone(whole).set_params(callbacks=[DiesOnce(tmp_path, whole.n_iter_ - 2)])
    model.set_params(checkpoint=tmp_path / "files", checkpoint_every=3)
    with pytest.raises(KilledError):
        clone(model).fit(X)
    resumed = clone(model).fit(X)
    np.testing.assert_array_equal(parameters_of(resumed), parameters_of(whole))
    finished = clone(model).fit(X)  # trains no epoch
    np.testing.assert_array_equal(parameters_of(finished), parameters_of(whole))
    assert finished.n_iter_ == whole.n_iter_ > 0
    assert finished.noise_variance_ == whole.noise_variance_
    assert finished.active_bounds == whole.active_bounds == ("noise variance",) * wide
    assert len(list((tmp_path / "files").iterdir())) == 1


@pytest.mark.slow
def test_the_same_values_given_explicitly_have_another_file(tmp_path):
    model = clone(fitted_to_wide()).set_params(checkpoint=tmp_path).fit(WIDE)
    values = {name: getattr(model, f"{name}_") for name in PLAIN} | {"max_epochs": model.n_iter_}
    other = clone(model).set_params(**values, checkpoint=None).fit(WIDE)
    found = clone(model).set_params(**values).fit(WIDE)
    np.testing.assert_array_equal(parameters_of(found), parameters_of(other))
    assert (parameters_of(found) != parameters_of(model)).any()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_warm_start_from_the_linear_model_trains_its_networks():
    noise = np.random.default_rng(0).normal(size=(40, 6))
    model = DeepGaussianVAE(2, random_state=0, warm_start=True).fit(noise)
    assert model.is_linear_
    model.set_params(max_epochs=3).fit(noise)
    assert model.n_iter_ == 3
    assert not model.is_linear_
