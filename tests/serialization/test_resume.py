"""A fit that was stopped ends as one that was not."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_vae import BernoulliPPCA, DeepAutoencoder, DeepGaussianVAE, LinearVAE
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.training.loop import VAENet
from tests.helpers import name_of
from tests.serialization.checkpointed_models import (
    DEEP,
    LINEAR,
    SMALL,
    TRAINED,
    X,
    rows_of,
    same,
)
from tests.sharing import shared

pytestmark = pytest.mark.filterwarnings("ignore:.*has not converged")

MODEL = DeepGaussianVAE(3, **SMALL)


class Stopped(BaseException):
    """Stands for a kill."""


@pytest.fixture
def stop_after(monkeypatch):
    """Makes the n-th write the last that a process does; None: no end."""
    save = Checkpoint.save

    def arrange(n):
        writes = []

        def save_and_stop(self, *arguments, **options):
            save(self, *arguments, **options)
            writes.append(0)
            if len(writes) == n:
                raise Stopped

        monkeypatch.setattr(Checkpoint, "save", save_and_stop)

    yield arrange
    monkeypatch.undo()


def uninterrupted(model, tmp_path):
    """Of Bernoulli pPCA with stretches of the same length; of others without any file."""
    if isinstance(model, BernoulliPPCA):
        model = clone(model).set_params(checkpoint=tmp_path / "other")
    return clone(model).fit(rows_of(model))


@shared
def without_files(index):
    """One of TRAINED, fitted once for all tests: not to be changed."""
    return clone(TRAINED[index]).fit(rows_of(TRAINED[index]))


each_trained = pytest.mark.parametrize(
    "index", range(len(TRAINED)), ids=[name_of(model) for model in TRAINED]
)


@pytest.mark.some(6, "slow")
@each_trained
def test_what_is_resumed_ends_as_if_it_had_not_been_stopped(index, stop_after, tmp_path):
    model = TRAINED[index]
    X = rows_of(model)
    stretches = isinstance(model, BernoulliPPCA)
    expected = uninterrupted(model, tmp_path) if stretches else without_files(index)
    model = clone(model).set_params(checkpoint=tmp_path / "files")
    n_stopped, found = 0, None
    while found is None:
        stop_after(1)
        try:
            found = clone(model).fit(X)
        except Stopped:
            n_stopped += 1
    assert n_stopped >= 3
    assert same(found, expected)
    np.testing.assert_array_equal(found.score_samples(X), expected.score_samples(X))
    assert len(list((tmp_path / "files").iterdir())) == 1


@pytest.mark.some(5)
@each_trained
def test_a_finished_fit_is_not_trained_again(index, monkeypatch, tmp_path):
    X = rows_of(TRAINED[index])
    model = clone(TRAINED[index]).set_params(checkpoint=str(tmp_path))
    expected = clone(model).fit(X)
    if not isinstance(model, BernoulliPPCA):
        assert same(without_files(index), expected)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()

    def trained(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(VAENet, "train_epoch", trained)
    monkeypatch.setattr("sklearn_vae.linear.bernoulli_fit.ascend", trained)
    monkeypatch.setattr(
        "sklearn_vae.linear.gradient_solver.LinearElbo.value_and_gradients", trained
    )
    assert same(clone(model).fit(X), expected)
    assert file.read_bytes() == before


class Interrupt(Callback):
    epoch_ = None

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == Interrupt.epoch_:
            raise KeyboardInterrupt


@pytest.mark.some(1, "slow")
@pytest.mark.filterwarnings("ignore:The model overfits")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_was_interrupted_goes_on(early_stopping, tmp_path, monkeypatch):
    model = clone(MODEL).set_params(callbacks=[Interrupt()], early_stopping=early_stopping)
    expected = clone(model).fit(X)
    model.set_params(checkpoint=tmp_path)
    monkeypatch.setattr(Interrupt, "epoch_", 4)
    with pytest.warns(UserWarning, match="interrupted after 3 epochs"):
        assert clone(model).fit(X).n_iter_ == 3
    monkeypatch.setattr(Interrupt, "epoch_", 6)
    with pytest.warns(UserWarning, match="interrupted after 5 epochs"):
        assert clone(model).fit(X).n_iter_ == 5
    monkeypatch.setattr(Interrupt, "epoch_", None)
    assert same(clone(model).fit(X), expected)


class Spoil(Callback):
    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 6:
            net.module_.encoder.layers[0].weight.data.mul_(torch.nan)


def test_what_diverges_does_so_again(tmp_path):
    # What is spoilt is kept after epoch 5, so that the parameters are those from before it.
    model = clone(MODEL).set_params(callbacks=[Spoil()], checkpoint_every=5)
    expected, first, second = (clone(model) for _ in range(3))
    for each in (expected, first.set_params(checkpoint=tmp_path), second):
        with pytest.raises(FloatingPointError, match=r"in epoch 5 .* epoch 4 are kept"):
            each.fit(X)
    second.set_params(checkpoint=tmp_path)
    with pytest.raises(FloatingPointError, match=r"in epoch 5 .* epoch 4 are kept"):
        second.fit(X)
    assert same(first, expected)
    assert same(second, expected)


class Remember(Callback):
    """Learns, and tells what it saw."""

    begun_: list = []  # noqa: RUF012

    def initialize(self):
        self.sum_ = 0
        self.bar_ = object()  # nothing that a file could hold
        return self

    def on_train_begin(self, net, **kwargs):
        Remember.begun_.append(len(net.history))

    def on_epoch_end(self, net, **kwargs):
        self.sum_ += len(net.history)
        net.history.record("sum", self.sum_)


def test_callbacks_begin_with_the_history_so_far_and_what_they_had_learned(stop_after, tmp_path):
    model = clone(MODEL).set_params(callbacks=[Remember()], checkpoint=tmp_path)
    stop_after(2)
    left_out = pytest.warns(UserWarning, match=r"cannot hold Remember\.bar_. A training that")
    with left_out as caught, pytest.raises(Stopped):
        clone(model).fit(X)
    assert len(caught) == 1
    stop_after(None)
    with left_out:
        found = clone(model).fit(X)
    np.testing.assert_array_equal(found.history_["sum"], np.cumsum(np.arange(1, 8)))
    assert Remember.begun_ == [0, 4]


class Learn(Callback):
    """Sets the learning rate by a number that depends on all that it has learned."""

    def initialize(self):
        self.window_ = deque([0.5], maxlen=3)
        self.tensors_ = deque([torch.ones(1)], maxlen=2)
        self.seen_ = {0}
        self.rng_ = np.random.default_rng(0)
        self.old_ = np.random.RandomState(0)
        self.torch_ = torch.Generator().manual_seed(0)
        self.random_ = random.Random(0)
        return self

    def on_epoch_end(self, net, **kwargs):
        draws = self.rng_.random(), self.old_.random_sample(), self.random_.random()
        draw = sum(draws) + float(torch.rand(1, generator=self.torch_))
        self.window_.append(draw)
        self.tensors_.append(self.tensors_[0] * draw)
        self.seen_.add(len(self.seen_))
        rate = sum(self.window_) / len(self.seen_) * float(sum(self.tensors_))
        net.history.record("rate", rate)
        for group in net.optimizer_.param_groups:
            group["lr"] = 1e-3 * rate


def test_windows_sets_and_generators_of_callbacks_go_on(stop_after, tmp_path):
    model = clone(MODEL).set_params(callbacks=[Learn()])
    expected = clone(model).fit(X)
    model.set_params(checkpoint=tmp_path)
    for _ in range(2):
        stop_after(1)
        with pytest.raises(Stopped):
            clone(model).fit(X)
    stop_after(None)
    found = clone(model).fit(X)
    np.testing.assert_array_equal(found.history_["rate"], expected.history_["rate"])
    np.testing.assert_array_equal(found.transform(X), expected.transform(X))


class Late(Callback):
    """What is made too late to be given its state."""

    def on_epoch_end(self, net, **kwargs):
        if not hasattr(self, "schedule_"):
            self.schedule_ = torch.optim.lr_scheduler.ExponentialLR(net.optimizer_, 0.5)


def test_what_cannot_be_given_back_is_told(stop_after, tmp_path):
    model = clone(MODEL).set_params(callbacks=[Late()], checkpoint=tmp_path)
    stop_after(1)
    with pytest.raises(Stopped):
        clone(model).fit(X)
    stop_after(None)
    with pytest.warns(UserWarning, match=r"Cannot restore the state of Late\.schedule_") as caught:
        clone(model).fit(X)
    assert len(caught) == 1


def test_units_that_differ_are_another_start(monkeypatch, tmp_path):
    model = DeepAutoencoder(3, **SMALL, checkpoint=tmp_path)  # which begins alike for all rows
    clone(model).fit(X)
    units = DeepAutoencoder._center_and_scale

    def moved(self, X, rows, reducer, weights):
        center, scale = units(self, X, rows, reducer, weights)
        return np.nextafter(center, np.inf), scale  # which no network knows

    monkeypatch.setattr(DeepAutoencoder, "_center_and_scale", moved)
    with pytest.warns(UserWarning, match="starts from different numbers, so training starts"):
        clone(model).fit(X)


def test_the_bar_goes_on_where_it_stood(stop_after, tmp_path, capfd):
    for model, done in ((MODEL, "2/7"), (LINEAR[3], "2/7"), (LINEAR[1], "17/60")):
        model = clone(model).set_params(checkpoint=tmp_path / str(model.get_params().get("solver")))
        stop_after(1)
        with pytest.raises(Stopped):
            clone(model).fit(X)
        stop_after(None)
        capfd.readouterr()
        clone(model).set_params(verbose=1).fit(X)
        lines = capfd.readouterr().err.split()
        assert lines[lines.index(done) - 1].endswith("|")
        assert next(line for line in lines if "/" in line) == done


@pytest.mark.some(3)
@pytest.mark.parametrize("model", [MODEL, *LINEAR], ids=str)
def test_without_a_seed_the_first_fit_has_chosen_one(model, stop_after, tmp_path):
    X = rows_of(model)
    model = clone(model).set_params(random_state=None, checkpoint=tmp_path)
    state = np.random.get_state()  # noqa: NPY002
    expected = uninterrupted(clone(model).set_params(checkpoint=None), tmp_path)
    np.random.set_state(state)  # noqa: NPY002
    stop_after(1)
    with pytest.raises(Stopped):
        clone(model).fit(X)
    stop_after(None)
    first = clone(model).fit(X)
    assert same(first, expected)
    assert same(clone(model).fit(X), first)


@pytest.mark.some(3)
@pytest.mark.parametrize("model", [MODEL, *LINEAR], ids=str)
def test_a_generator_is_left_as_by_a_fit_that_was_not_stopped(model, stop_after, tmp_path):
    X = rows_of(model)
    generators = [np.random.RandomState(3) for _ in range(4)]
    expected = uninterrupted(clone(model).set_params(random_state=generators[0]), tmp_path)
    model = clone(model).set_params(checkpoint=tmp_path / "files")
    stop_after(1)
    with pytest.raises(Stopped):
        clone(model).set_params(random_state=generators[1]).fit(X)
    stop_after(None)
    for generator in generators[2:]:
        found = clone(model)
        found.random_state = generator
        assert same(found.fit(X), expected)
    assert len(list((tmp_path / "files").iterdir())) == 1
    draws = [generator.randint(1000) for generator in generators[2:]]
    assert draws[0] == draws[1]


def test_a_warm_start_is_another_fit(stop_after, tmp_path):
    model = clone(MODEL).set_params(warm_start=True, init="ppca")
    expected = clone(model).fit(X).set_params(max_epochs=5).fit(X[:140])
    model.set_params(checkpoint=tmp_path)
    first = clone(model).fit(X)
    stop_after(2)
    with pytest.raises(Stopped):
        first.set_params(max_epochs=5).fit(X[:140])
    stop_after(None)
    again = clone(model).fit(X).set_params(max_epochs=5).fit(X[:140])
    assert again.n_iter_ == 12
    assert same(again, expected)
    assert len(list(tmp_path.iterdir())) == 2
    again.set_params(max_epochs=7).fit(X)  # all that a fit has but for what it goes on from
    assert again.n_iter_ == 19
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.some(1)
@pytest.mark.filterwarnings("ignore:No checkpoint in")
@pytest.mark.parametrize("model", [MODEL, LINEAR[1], LINEAR[4]], ids=str)
def test_a_grid_search_has_a_file_for_every_fit(model, monkeypatch, tmp_path):
    X = rows_of(model)
    model = clone(model)
    grid = {"n_components": [1, 2], "random_state": [0, 1]}
    if isinstance(model, BernoulliPPCA):  # whose stretches are another path
        model.set_params(checkpoint_every=1000)
    plain = GridSearchCV(model, grid, cv=2).fit(X)
    model.set_params(checkpoint=tmp_path)
    kept = GridSearchCV(model, grid, cv=2).fit(X)
    assert len(list(tmp_path.iterdir())) == 2 * 2 * 2 + 1
    monkeypatch.setattr(Checkpoint, "save", None)
    again = GridSearchCV(model, grid, cv=2).fit(X)
    for search in (kept, again):
        np.testing.assert_array_equal(
            search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
        )
        assert same(search.best_estimator_, plain.best_estimator_)


@pytest.mark.some(1, "slow")
@pytest.mark.filterwarnings("ignore:BernoulliPPCA has not converged")
@pytest.mark.parametrize("inference", ["linear", "per_sample"])
def test_stretches_of_bernoulli_ppca_end_at_the_same_maximum(inference, tmp_path):
    model = BernoulliPPCA(2, binarize=0.0, random_state=0, max_iter=300, tol=1e-9)
    model.set_params(inference=inference)
    whole = clone(model).fit(X)
    model.set_params(checkpoint=tmp_path, checkpoint_every=2)
    assert model.fit(X).elbo_ == pytest.approx(whole.elbo_, abs=1e-7)
    assert model.n_iter_ > 4
    assert (np.diff(model.elbo_history_) > 0.0).all()
    with pytest.warns(
        UserWarning, match="differs: max_iter=300, now 3. Training starts from scratch"
    ):
        short = clone(model).set_params(max_iter=3).fit(X)
    assert short.n_iter_ == 3
    np.testing.assert_array_equal(short.elbo_history_, model.elbo_history_[:4])
    with pytest.warns(UserWarning, match="differs: checkpoint_every=2, now 3. Training starts"):
        other = clone(model).set_params(checkpoint_every=3).fit(X)
    np.testing.assert_allclose(other.elbo_history_, model.elbo_history_, atol=1e-8)


@pytest.mark.parametrize("model", [*DEEP[:1], DeepAutoencoder(), *LINEAR], ids=str)
@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("checkpoint", 3, "checkpoint must be None or the path of a folder, got 3"),
        ("checkpoint", "a\0b", "checkpoint must be a folder or a path where one can be created"),
        ("checkpoint", "", "checkpoint must be None or the path of a folder, got ''"),
        ("checkpoint", __file__, "checkpoint must be a folder or a path where one can be created"),
        ("checkpoint_every", 0, "checkpoint_every must be an integer >= 1, got 0"),
        ("checkpoint_every", 1.5, "checkpoint_every must be an integer >= 1, got 1.5"),
    ],
)
def test_bad_parameters(model, name, value, match):
    with pytest.raises(ValueError, match=match):
        clone(model).set_params(**{name: value}).fit(X)


def test_partial_fit_has_no_file(tmp_path):
    LinearVAE(2, checkpoint=tmp_path).partial_fit(X)
    assert not list(tmp_path.iterdir())
