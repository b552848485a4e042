"""Bad parameters and bad luck."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_vae import DeepAutoencoder, DeepGaussianVAE, Snapshot
from tests.deep.data import MODELS, OF_EACH_KIND, SMALL, each_of, fitted, make_rows, parameters_of
from tests.helpers import exhaustive

X = make_rows()
VAE, AUTOENCODER = MODELS[0], MODELS[-1]

BAD = [
    ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
    ({"n_components": 2.0}, "n_components must be an integer >= 1, got 2.0"),
    (
        {"hidden_layer_sizes": (8, 0)},
        r"hidden_layer_sizes must be an integer >= 1 or .*, got \(8, 0\)",
    ),
    ({"hidden_layer_sizes": "8"}, "hidden_layer_sizes must be an integer >= 1 or .*, got '8'"),
    ({"hidden_layer_sizes": None}, "hidden_layer_sizes must be an integer >= 1 or .*, got None"),
    ({"activation": "rellu"}, "activation must be one of 'relu', .*, got 'rellu'"),
    ({"encoder": "conv2"}, "encoder must be 'mlp', 'conv' or a factory"),
    ({"decoder": torch.nn.Linear(2, 8)}, "decoder must be 'mlp', 'conv' or a factory"),
    ({"learning_rate": 0}, "learning_rate must be a finite number > 0, got 0"),
    ({"learning_rate": np.nan}, "learning_rate must be a finite number > 0, got nan"),
    ({"max_epochs": 0}, "max_epochs must be an integer >= 1, got 0"),
    ({"batch_size": 1.5}, "batch_size must be an integer >= 1, got 1.5"),
    ({"validation_fraction": 1.0}, r"validation_fraction must be between 0 and 1, got 1.0"),
    ({"n_iter_no_change": 0}, "n_iter_no_change must be an integer >= 1, got 0"),
    ({"tol": -1.0}, "tol must be a finite number >= 0, got -1.0"),
    ({"device": "gpu7"}, "device must be 'auto' or a torch device, got 'gpu7'"),
    ({"device": 1.5}, "device must be 'auto' or a torch device, got 1.5"),
    ({"precision": "half"}, "precision must be one of 'auto', .*, got 'half'"),
    ({"precision": "tf32", "device": "cpu"}, "precision='tf32' needs a CUDA device"),
    ({"early_stopping": "yes"}, "early_stopping must be True or False, got 'yes'"),
    ({"verbose": "a"}, "verbose must be an integer >= 0, got 'a'"),
    ({"callbacks": Snapshot([1])}, "callbacks must be None or a list of skorch callbacks"),
    ({"callbacks": [3]}, r"callbacks must be None or a list of skorch callbacks, got \[3\]"),
    ({"device": "meta"}, "device must be a device for computations, such as 'cpu', got 'meta'"),
    (
        {"early_stopping": True, "validation_fraction": 0.999},
        "holds out 150 of the 150 samples in X",
    ),
]

BAD_OF_VAE = [
    (
        {"noise_model": "full"},
        "noise_model must be one of 'scalar', 'diagonal', 'heteroscedastic', got 'full'",
    ),
    ({"noise_update": "adam"}, "noise_update must be one of 'closed_form', 'gradient'"),
    ({"noise_variance": 0.0}, "noise_variance must be None or a positive float, got 0.0"),
    ({"noise_variance": [1.0] * 8}, "noise_variance must be None or a positive float"),
    (
        {"noise_variance": 1e-320},
        "must be within the range of torch.float64, got noise_variance=1e-320",
    ),
    ({"noise_variance_init": -1}, "noise_variance_init must be None or a positive float"),
    (
        {"noise_model": "diagonal", "noise_variance": [1.0, -1.0]},
        "noise_variance must be None, a positive float or an array of positive floats, one per",
    ),
    (
        {"noise_model": "diagonal", "noise_variance_init": [1.0, 1.0]},
        "noise_variance_init must have one value per feature, 8 for this X, got 2",
    ),
    (
        {"noise_variance": 1.0, "noise_variance_init": 2.0},
        "noise_variance_init must be None with noise_variance=1.0, which fixes .*, got 2.0",
    ),
    ({"objective": "vae"}, "objective must be one of 'elbo', 'iwae', got 'vae'"),
    ({"prior": "flat"}, "prior must be one of 'standard', 'learned_variance', got 'flat'"),
    (
        {"variational_family": "full"},
        "variational_family must be one of 'diagonal', 'sylvester', got 'full'",
    ),
    ({"objective": "iwae", "kl_weight": 0.5}, "kl_weight must be 1 with objective='iwae'.*0.5"),
    ({"objective": "iwae", "free_bits": 0.5}, "free_bits must be 0 with objective='iwae'.*0.5"),
    (
        {"variational_family": "sylvester", "free_bits": 0.5},
        "free_bits must be 0 with variational_family='sylvester'.*0.5",
    ),
    (
        {"noise_model": "heteroscedastic", "noise_variance": 0.5},
        "noise_variance must be None with noise_model='heteroscedastic'.*0.5",
    ),
    ({"image_shape": (8, 8)}, r"image_shape must be None or three integers .* got \(8, 8\)"),
    ({"image_shape": (1, 3, 3)}, r"image_shape=\(1, 3, 3\) has 9 values, but X has 8 features"),
    (
        {"encoder": "conv"},
        r"encoder='conv' needs images: set image_shape=.*samples with 8 features",
    ),
    ({"n_mc_samples": 0}, "n_mc_samples must be an integer >= 1, got 0"),
    ({"kl_weight": -0.5}, "kl_weight must be a finite number >= 0, got -0.5"),
    ({"kl_warmup_epochs": -1}, "kl_warmup_epochs must be an integer >= 0, got -1"),
    ({"free_bits": -1}, "free_bits must be a finite number >= 0, got -1"),
]


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [(AUTOENCODER, *bad) for bad in BAD] + [(VAE, *bad) for bad in BAD + BAD_OF_VAE],
)
def test_bad_parameters_are_named_and_the_fitted_model_stays(model, parameters, message):
    model = copy.deepcopy(fitted(model))
    before = parameters_of(model)
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(X)
    np.testing.assert_array_equal(parameters_of(model), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(
        ValueError, match=r"device=.*cuda.* is not available to torch on this machine"
    ):
        DeepAutoencoder(3, **SMALL, device=device).fit(X)


@pytest.mark.parametrize(
    ("cls", "value"),
    [(DeepAutoencoder, np.nan), (DeepAutoencoder, np.inf), (DeepGaussianVAE, np.inf)],
)
def test_rows_that_are_not_finite_are_refused(cls, value):
    rows = X.copy()
    rows[3, 4] = value
    model = cls(3, **SMALL)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        model.fit(rows)
    model.fit(X)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        model.score(rows)
    with pytest.raises(ValueError, match=r"Input Z contains (NaN|infinity)"):
        model.inverse_transform(np.full((1, 3), value))


def test_rows_and_latents_of_the_wrong_size_are_refused():
    model = DeepGaussianVAE(3, **SMALL).fit(X)
    with pytest.raises(ValueError, match="X has 5 features, but DeepGaussianVAE is expecting 8"):
        model.transform(X[:, :5])
    with pytest.raises(ValueError, match=r"Z must have 3 columns, .*, got 2\."):
        model.inverse_transform(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        model.fit(X[:1])
    with pytest.raises(ValueError, match="within the range of float64"):
        model.fit(X * 1e300)
    with pytest.raises(AttributeError, match="not fitted yet and has no module_"):
        _ = DeepGaussianVAE().module_


def test_a_warm_up_that_does_not_end_warns():
    model = DeepGaussianVAE(3, **SMALL, kl_warmup_epochs=4)
    text = "kl_warmup_epochs=4 is greater than max_epochs=3"
    with pytest.warns(UserWarning, match=text) as caught:
        model.fit(X)
    assert caught[0].filename == __file__
    model.set_params(kl_warmup_epochs=3).fit(X)
    assert model.history_["beta"][-1] == 1.0


class Late(Callback):
    """Makes a parameter infinite within an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_begin(self, net, training, **kwargs):
        if len(net.history) == self.epoch:
            with torch.no_grad():
                next(net.module_.encoder.parameters()).mul_(np.inf)


@pytest.mark.some(3)
@each_of(OF_EACH_KIND)
def test_divergence_is_an_error_that_leaves_the_last_finite_model(model):
    model = copy.deepcopy(model).set_params(max_epochs=2)
    expected = copy.deepcopy(model).fit(X)
    model.set_params(max_epochs=5)
    for at in (1, 3):
        model.set_params(callbacks=[Late(at)])
        with pytest.raises(FloatingPointError, match=f"in epoch {at} .* learning_rate=0.001"):
            model.fit(X)
        assert model.n_iter_ == at - 1
        assert np.isfinite(model.score_samples(X)).all()
        assert np.isfinite(model.transform(X)).all()
    if not model.early_stopping:
        np.testing.assert_array_equal(model.transform(X), expected.transform(X))
    # A warm start with a smaller rate goes on from there.
    model.set_params(callbacks=None, warm_start=True, learning_rate=1e-4).fit(X)
    assert model.n_iter_ == 2 + 5
    assert np.isfinite(model.history_["bound"]).all()


@pytest.mark.parametrize(("model", "rate"), [(MODELS[0], 1e4), (MODELS[-1], 1e12)], ids=str)
@pytest.mark.parametrize("epochs", [1, 2])
def test_divergence_in_the_last_step_is_an_error_too(model, rate, epochs):
    model = copy.deepcopy(model).set_params(
        hidden_layer_sizes=(64, 64, 64), batch_size=150, max_epochs=epochs, learning_rate=rate
    )
    for callbacks in (None, [Snapshot([1, 2])]):
        model.set_params(callbacks=callbacks)
        with pytest.raises(FloatingPointError, match=r"in epoch 1 .* after epoch 0 are kept"):
            model.fit(X.astype(np.float32))
        assert model.n_iter_ == 0
        assert np.isfinite(model.score(X))
    assert model.snapshots_ == {}


class Spoil(Callback):
    """Interrupts an epoch after it made a parameter NaN."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, training, **kwargs):
        if len(net.history) == self.epoch:
            with torch.no_grad():
                net.module_.encoder.layers[0].weight.mul_(np.nan)
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:Training was interrupted")
@pytest.mark.parametrize("model", [MODELS[0], MODELS[-1]], ids=str)
@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupt_where_nothing_is_finite_keeps_what_was(model, epoch):
    model = copy.deepcopy(model).set_params(callbacks=[Spoil(epoch)])
    with pytest.raises(FloatingPointError, match=f"in epoch {epoch} .* epoch {epoch - 1} are kept"):
        model.fit(X)
    assert model.n_iter_ == epoch - 1
    if epoch > 1:
        expected = copy.deepcopy(model).set_params(callbacks=None, max_epochs=epoch - 1).fit(X)
        np.testing.assert_array_equal(model.transform(X), expected.transform(X))


def test_two_interrupts_after_training_give_up(monkeypatch):
    def interrupted(self, data):
        raise KeyboardInterrupt

    model = DeepGaussianVAE(3, **SMALL)
    monkeypatch.setattr(DeepGaussianVAE, "_set_diagnostics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert not hasattr(model, "net_")


class FitAnother(Callback):
    def on_epoch_end(self, net, **kwargs):
        DeepAutoencoder(2, **SMALL).fit(X)


def test_fits_within_fits_and_batch_norm():
    def encoder(shape, n_outputs):
        norm = torch.nn.BatchNorm1d(shape[0])
        return torch.nn.Sequential(norm, torch.nn.Linear(shape[0], n_outputs))

    model = DeepGaussianVAE(3, **SMALL, encoder=encoder, callbacks=[FitAnother()])
    model.set_params(batch_size=149).fit(X)
    np.testing.assert_array_equal(model.score_samples(X), model.score_samples(X))


# Of smaller ones see tests/test_extremes.py.
@each_of(MODELS)
@pytest.mark.parametrize("learning_rate", [1e4, *exhaustive(1.0, 10.0)])
def test_large_learning_rates_end_in_the_error_or_a_finite_model(model, learning_rate):
    model = copy.deepcopy(model).set_params(learning_rate=learning_rate, max_epochs=8)
    with suppress(FloatingPointError):
        model.fit(X.astype(np.float32))
    assert np.isfinite(parameters_of(model)).all()
    assert np.isfinite(model.transform(X)).all()


class Interrupt(Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_batch_end(self, net, training, **kwargs):
        self.batch -= 1
        if self.batch == 0:
            raise KeyboardInterrupt


@pytest.mark.cover(1)
@pytest.mark.filterwarnings("ignore:The model overfits")
@each_of(OF_EACH_KIND)
@pytest.mark.parametrize("batch", [2, 8])
def test_an_interrupt_keeps_what_was_learned(model, batch):
    model = copy.deepcopy(model).set_params(callbacks=[Interrupt(batch)])
    epoch = 1 + (batch - 1) // 5
    with pytest.warns(UserWarning, match=f"interrupted after {epoch - 1} epochs"):
        model.fit(X)
    assert model.n_iter_ == epoch - 1
    assert np.isfinite(model.score(X))
    assert len(model.history_["bound"]) == len(model.history_["seconds"]) == epoch - 1
    # What is there is no worse for going on.
    model.set_params(callbacks=None, warm_start=True).fit(X)
    assert model.n_iter_ == epoch - 1 + 3
    assert np.isfinite(model.history_["bound"]).all()


class InterruptAtEnd(Callback):
    def on_train_end(self, net, **kwargs):
        raise KeyboardInterrupt


@pytest.mark.parametrize("model", [MODELS[0], MODELS[-1]], ids=str)
def test_an_interrupt_after_training_keeps_it(model, monkeypatch):
    expected = parameters_of(copy.deepcopy(model).fit(X))
    late = copy.deepcopy(model).set_params(callbacks=[InterruptAtEnd()]).fit(X)
    np.testing.assert_array_equal(parameters_of(late), expected)
    calls, diagnose = [], type(model)._set_diagnostics

    def interrupted(self, data):
        calls.append(0)
        if len(calls) == 1:
            raise KeyboardInterrupt
        diagnose(self, data)

    monkeypatch.setattr(type(model), "_set_diagnostics", interrupted)
    later = copy.deepcopy(model).fit(X)
    np.testing.assert_array_equal(parameters_of(later), expected)
    assert len(calls) == 2


class Fail(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise OSError("disk full")


def test_an_error_of_a_callback_leaves_the_model_of_before():
    model = DeepGaussianVAE(3, **SMALL).fit(X)
    before = parameters_of(model)
    with pytest.raises(OSError, match="disk full"):
        model.set_params(callbacks=[Fail()], random_state=1).fit(X)
    np.testing.assert_array_equal(parameters_of(model), before)


@pytest.mark.some(3)
@each_of(OF_EACH_KIND)
def test_an_error_in_a_warm_start_leaves_the_model_of_before(model):
    model = copy.deepcopy(model).set_params(warm_start=True).fit(X)
    undisturbed = copy.deepcopy(model)
    score, before = model.score(X), parameters_of(model)
    with pytest.raises(OSError, match="disk full"):
        model.set_params(callbacks=[Fail()]).fit(X)
    np.testing.assert_array_equal(parameters_of(model), before)
    assert model.score(X) == score
    model.set_params(callbacks=None).fit(X)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(undisturbed.fit(X)))
    assert model.n_iter_ == 6
