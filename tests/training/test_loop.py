"""The training loop against a plain one, and skorch's manners."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler

from sklearn_vae import DeepAutoencoder, DeepGaussianVAE, Snapshot
from sklearn_vae.deep.choices import values_of_fit, with_values
from sklearn_vae.nn.objectives import elbo
from sklearn_vae.training.batches import Batches, count_batches
from sklearn_vae.training.distributed import SINGLE_PROCESS
from tests.deep.data import MODELS, SMALL, VAES, make_rows, parameters_of

X = make_rows()


def plain_training(model, rows):
    """What model.fit does, as a loop over autograd and torch.optim.Adam."""
    untrained = copy.deepcopy(model.set_params(max_epochs=1))
    net = untrained.fit(X).net_
    net.initialize()
    explicit = with_values(untrained, values_of_fit(untrained))
    explicit._set_start(
        SimpleNamespace(train=rows, weights=None, reducer=SINGLE_PROCESS, is_incomplete=False)
    )
    module = net.module_
    optimizer = torch.optim.Adam(module.trained_parameters(), lr=model.learning_rate_)
    bounds, start = [], module.likelihood.noise_variance
    for epoch in range(3):
        total = 0.0
        n_batches = count_batches(len(rows), model.batch_size)
        for chunk in Batches(rows, n_batches, net.noise_shape, net.generator_):
            for x, noise in chunk:
                bound, _, _ = elbo(module, x, noise, 1.0)
                optimizer.zero_grad()
                (-bound.mean()).backward()
                optimizer.step()
                module.after_step()
                total += bound.sum().item()
            rise = (module.likelihood.noise_variance / start).log().mean().exp().item()
            if epoch == 0 and rise > 2:  # one chunk is an epoch
                for state in optimizer.state.values():
                    state["exp_avg"] /= rise
                    state["exp_avg_sq"] /= rise**2
        bounds.append(total / len(rows))
    return module, bounds


@pytest.mark.some(2)
@pytest.mark.parametrize("model", VAES[:4], ids=str)
def test_training_is_that_of_a_plain_loop(model):
    model = copy.deepcopy(model)
    model.fit(X)
    rows = torch.from_numpy((X - model.mean_) / model.scale_)
    module, bounds = plain_training(copy.deepcopy(model), rows)
    offset = np.log(np.broadcast_to(model.scale_, X.shape[1])).sum()
    np.testing.assert_allclose(model.history_["bound"], np.array(bounds) - offset, rtol=1e-9)
    for name, value in module.named_parameters():
        if "likelihood" not in name:  # whose noise is tuned after the last epoch
            found = dict(model.module_.named_parameters())[name]
            torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-9)


@pytest.mark.some(1)
@pytest.mark.parametrize("batch_size", [4, 5, 149])  # of which 32 are made at a time
def test_every_batch_counts_and_is_taken_once(batch_size):
    model = DeepGaussianVAE(3, **{**SMALL, "batch_size": batch_size}).fit(X)
    rows = torch.from_numpy((X - model.mean_) / model.scale_)
    module, bounds = plain_training(copy.deepcopy(model), rows)
    offset = np.log(np.broadcast_to(model.scale_, X.shape[1])).sum()
    np.testing.assert_allclose(model.history_["bound"], np.array(bounds) - offset, rtol=1e-9)
    found = dict(model.module_.named_parameters())["decoder.layers.0.weight"]
    torch.testing.assert_close(found, module.decoder.layers[0].weight, rtol=1e-7, atol=1e-9)


class Counter(Callback):
    def __init__(self):
        self.batches = self.gradients = self.epochs = 0

    def on_batch_end(self, net, batch, training, loss, **kwargs):
        assert np.isfinite(float(loss))
        self.batches += training

    def on_grad_computed(self, net, named_parameters, **kwargs):
        assert all(p.grad is not None for _, p in named_parameters if p.requires_grad)
        self.gradients += 1

    def on_epoch_end(self, net, **kwargs):
        self.epochs += 1


@pytest.mark.parametrize("model", MODELS[:1] + MODELS[-2:], ids=str)
def test_callbacks_of_skorch_are_called_and_the_given_ones_left_alone(model):
    counter = Counter()
    model = copy.deepcopy(model).set_params(callbacks=[counter]).fit(X)
    assert counter.batches == 0
    counted = next(c for _, c in model.net_.callbacks_ if isinstance(c, Counter))
    rows = 135 if model.early_stopping else 150
    assert counted.batches == counted.gradients == 3 * -(-rows // 32)
    assert counted.epochs == 3
    without = copy.deepcopy(model).set_params(callbacks=None).fit(X)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(without))


def test_schedules_and_clipping_of_skorch_work():
    plain = DeepGaussianVAE(3, **SMALL).fit(X)
    clipped = DeepGaussianVAE(3, **SMALL, callbacks=[GradientNormClipping(1e-9)]).fit(X)
    assert not np.allclose(parameters_of(plain), parameters_of(clipped))
    # A gradient of the noise that is no gradient of the optimiser is not clipped.
    noise = {"learning_rate": 1e-12, "noise_variance_init": 1e-3, "max_epochs": 1}
    one, other = (
        DeepGaussianVAE(3, **{**SMALL, **noise}, callbacks=callbacks).fit(X)
        for callbacks in ([], [GradientNormClipping(1e-9)])
    )
    np.testing.assert_allclose(
        one.history_["noise_variance"], other.history_["noise_variance"], rtol=1e-9
    )
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.0)
    still = DeepGaussianVAE(3, **SMALL, noise_variance=1.0, callbacks=[schedule])
    still.set_params(warm_start=True).fit(X)
    one = DeepGaussianVAE(3, **SMALL, noise_variance=1.0).set_params(max_epochs=1).fit(X)
    np.testing.assert_array_equal(parameters_of(still), parameters_of(one))
    # What callbacks record is kept, and missing where they were not.
    still.set_params(callbacks=None).fit(X)
    np.testing.assert_array_equal(still.history_["event_lr"], [1e-3, 0, 0, *[np.nan] * 3])


def test_one_look_at_the_loss_an_epoch_and_no_rows_kept():
    rows = make_rows(n=20_000)
    model = DeepGaussianVAE(3, **{**SMALL, "batch_size": 2000}, early_stopping=True)
    model.set_params(callbacks=[Snapshot([1, 2])]).fit(rows)
    assert all(not row["batches"] for row in model.net_.history)
    assert len(pickle.dumps(model)) < rows.nbytes / 4


@pytest.mark.some(2)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_pickled_models_are_the_same_and_go_on_the_same(model):
    model = copy.deepcopy(model).set_params(warm_start=True).fit(X)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(parameters_of(other.fit(X)), parameters_of(model.fit(X)))


def test_threads_and_precision_of_torch_are_what_they_were():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    seen = []

    class Look(Callback):
        def on_epoch_begin(self, net, **kwargs):
            seen.append(torch.get_num_threads())

    DeepAutoencoder(3, **SMALL, callbacks=[Look()]).fit(X)
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == threads
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.parametrize("model", MODELS[:1] + MODELS[-1:], ids=str)
def test_the_net_can_be_used_as_one_of_skorch(model):
    model = copy.deepcopy(model).fit(X)
    rows = ((X - model.mean_) / model.scale_).astype(np.float64)
    reconstructed = model.net_.predict(rows) * model.scale_ + model.mean_
    expected = model.inverse_transform(model.transform(X))
    np.testing.assert_allclose(reconstructed, expected, rtol=1e-10)


class Dropping(torch.nn.Module):
    """A network that drops half of its units in training."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(int(np.prod(input_shape)), 16),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(16, n_outputs),
        )

    def forward(self, x):
        return self.layers(x)


class ByHand(Callback):
    """Computes the bound of the samples held out after each epoch, in its own way."""

    def __init__(self):
        self.bounds, self.losses, self.modes = [], [], set()

    def on_batch_begin(self, net, training, **kwargs):
        self.modes.add((training, net.module_.training))

    def on_epoch_end(self, net, dataset_valid, **kwargs):
        module, generator = net.module_.eval(), torch.Generator().manual_seed(net.seed)
        terms = []
        with torch.no_grad():
            for x in dataset_valid.X.split(1024):
                noise = torch.randn((1, len(x), 3), generator=generator, dtype=x.dtype)
                terms.append(torch.stack(elbo(module, x, noise, net.beta_)))
        objective, reconstruction, kl = torch.cat(terms, dim=1).mean(dim=1).tolist()
        self.bounds.append(reconstruction - kl)
        self.losses.append(-objective)  # and the module is left in evaluation mode


@pytest.mark.parametrize("n_rows", [150, 12_000])  # the latter in two batches of validation
def test_the_bound_of_samples_held_out_is_that_without_dropout(n_rows):
    rows = make_rows(n=n_rows)
    options = {**SMALL, "batch_size": 32 if n_rows < 1000 else 1000, "early_stopping": True}
    options |= {"kl_weight": 1.5, "kl_warmup_epochs": 2, "callbacks": [ByHand()]}
    model = DeepGaussianVAE(3, encoder=Dropping, **options).fit(rows)
    found = next(c for _, c in model.net_.callbacks_ if isinstance(c, ByHand))
    bounds = np.array(found.bounds) - 8 * np.log(model.scale_)
    np.testing.assert_allclose(model.history_["validation_bound"], bounds, rtol=1e-10)
    losses = [row["valid_loss"] for row in model.net_.history]
    np.testing.assert_allclose(losses, found.losses, rtol=1e-10)
    assert found.modes == {(True, True), (False, False)}
    assert not model.module_.training
