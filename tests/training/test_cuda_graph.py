"""Captured steps and the way back from them, with graphs of a CPU that stand for CUDA's."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_vae import DeepAutoencoder, DeepGaussianVAE
from sklearn_vae.training import cuda_graph, fast_paths
from tests.deep.data import SMALL, make_rows, parameters_of

X = make_rows(n=148)  # batches of 30, 30, 30, 29 and 29 samples in each epoch
N_BATCHES, N_SHAPES = 5, 2
EPOCHS = 6


def encoder_with_dropout(shape, n_outputs):
    return nn.Sequential(nn.Linear(shape[0], 16), nn.Dropout(0.2), nn.Linear(16, n_outputs))


class Schedule(Callback):
    """Halves the learning rate after every other epoch."""

    def on_epoch_end(self, net, **kwargs):
        group = net.optimizer_.param_groups[0]
        group["lr"] *= 0.5 if len(net.history) % 2 == 0 else 1.0


MODELS = {
    "closed form": DeepGaussianVAE(3, **SMALL),
    "gradient": DeepGaussianVAE(3, noise_update="gradient", **SMALL),
    "dropout": DeepGaussianVAE(3, encoder=encoder_with_dropout, **SMALL),
    "ppca": DeepGaussianVAE(3, init="ppca", **SMALL),
    "warm-up": DeepGaussianVAE(3, kl_warmup_epochs=3, **SMALL),
    "stops early": DeepGaussianVAE(3, early_stopping=True, **SMALL),
    "schedule": DeepGaussianVAE(3, callbacks=[Schedule()], **SMALL),
    "autoencoder": DeepAutoencoder(3, **SMALL),
}


class Graph:
    """Stands for a CUDA graph: what it has captured is called again at each replay."""

    captures = replays = 0

    def __init__(self, function):
        type(self).captures += 1
        self.function = function

    def replay(self):
        type(self).replays += 1
        return self.function()

    @staticmethod
    def warm_up(function):
        return function()


class FailsAtCapture(Graph):
    """The end of a capture raises an error of its own."""

    def __init__(self, function):
        function()  # takes a step, as far as that goes
        error = torch.cuda.OutOfMemoryError("capture was invalidated")
        error.__context__ = RuntimeError("operation not permitted when stream is capturing")
        raise error


class FailsAtReplay(Graph):
    """At the first replay, after it has taken the step."""

    fails_at = 1

    def replay(self):
        outputs = super().replay()
        if self.replays == self.fails_at:
            raise RuntimeError("an illegal instruction was encountered")
        return outputs


class FailsInAnEpoch(FailsAtReplay):
    """In the middle of the third epoch."""

    fails_at = 6


class GivesNaN(Graph):
    """Computes with samples that are NaN."""

    def replay(self):
        self.function.args[0].fill_(np.nan)
        return super().replay()


class GivesInfiniteSums(Graph):
    """Parameters stay finite."""

    def replay(self):
        reconstruction, kl, h = super().replay()
        return reconstruction, kl * np.inf, h


NOT_FINITE = "the loss or a parameter became infinite or NaN"
FAILURES = {
    FailsAtCapture: "OutOfMemoryError: capture was invalidated after RuntimeError: operation not",
    FailsAtReplay: "RuntimeError: an illegal instruction was encountered",
    FailsInAnEpoch: "RuntimeError: an illegal instruction was encountered",
    GivesNaN: NOT_FINITE,
    GivesInfiniteSums: NOT_FINITE,
}


@pytest.fixture(autouse=True)
def without_formulas(monkeypatch):
    monkeypatch.setattr(fast_paths, "FORMULAS", {})


def fitted(name, graph=None):
    """A model after a fit with such graphs, and the warnings of that."""
    model = copy.deepcopy(MODELS[name]).set_params(max_epochs=EPOCHS)
    graphs = {} if graph is None else {"cpu": graph}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr("sklearn_vae.training.loop.GRAPHS", graphs)
        if graph is not None:
            patch.setattr(graph, "captures", 0)
            patch.setattr(graph, "replays", 0)
        model.fit(X)
        counts = (0, 0) if graph is None else (graph.captures, graph.replays)
    return model, [str(warning.message) for warning in caught], counts


@functools.cache  # of fits without formulas, as in every test here
def plain(name):
    """A model after a fit with plain steps, and the warnings of that: not to be changed."""
    model, messages, _ = fitted(name)
    return model, messages


def assert_same_fit(model, expected):
    np.testing.assert_array_equal(parameters_of(model), parameters_of(expected))
    np.testing.assert_array_equal(model.history_["bound"], expected.history_["bound"])
    assert torch.equal(model.net_.generator_.get_state(), expected.net_.generator_.get_state())
    states = (net.optimizer_.state_dict()["state"] for net in (model.net_, expected.net_))
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert np.isfinite(model.score(X))


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("name", MODELS)
def test_captured_steps_are_the_plain_ones(name):
    expected, others = plain(name)
    model, messages, (captures, replays) = fitted(name, Graph)
    assert_same_fit(model, expected)
    assert messages == others
    n_epochs = len(model.net_.history)
    assert replays == n_epochs * N_BATCHES - N_SHAPES * cuda_graph.WARM_UP_STEPS
    # Larger batches are captured in the second epoch, and smaller ones at the end of it.
    rates = {"ppca": EPOCHS - 1, "schedule": EPOCHS // 2}.get(name, 1)
    assert captures == N_SHAPES * rates


@pytest.mark.cover(1)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("graph", FAILURES)
def test_a_failure_leads_back_to_plain_steps(name, graph):
    expected, others = plain(name)
    model, messages, (captures, _) = fitted(name, graph)
    assert_same_fit(model, expected)
    (message,) = [message for message in messages if message not in others]
    assert message.startswith("Training steps cannot be captured in a CUDA graph")
    assert FAILURES[graph] in message
    assert captures <= N_SHAPES + 1 or name in ("ppca", "schedule")


class FailsLater(FailsAtReplay):
    """In the fifth epoch, when the graph has proved good."""

    fails_at = 17


class GivesNaNLater(FailsLater):
    """In the fifth epoch."""

    def replay(self):
        if self.replays + 1 == self.fails_at:
            self.function.args[0].fill_(np.nan)
        return Graph.replay(self)


def test_a_late_error_costs_no_fit_either():
    model, (message,), _ = fitted("gradient", FailsLater)
    expected, _ = plain("gradient")
    assert "an illegal instruction was encountered" in message
    bounds, others = model.history_["bound"], expected.history_["bound"]
    np.testing.assert_array_equal(bounds[:4], others[:4])
    np.testing.assert_allclose(bounds, others, rtol=0.01)
    assert len(bounds) == EPOCHS


def test_a_late_nan_is_a_divergence():
    model = copy.deepcopy(MODELS["gradient"]).set_params(max_epochs=EPOCHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn_vae.training.loop.GRAPHS", {"cpu": GivesNaNLater})
        patch.setattr(GivesNaNLater, "replays", 0)
        with pytest.raises(FloatingPointError, match="Training diverged: in epoch 5"):
            model.fit(X)
    assert model.n_iter_ == 4
    assert np.isfinite(model.score(X))


def test_what_plain_steps_cannot_do_either_is_their_error():
    model = copy.deepcopy(MODELS["gradient"]).set_params(learning_rate=1e6)
    for graphs in ({}, {"cpu": Graph}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sklearn_vae.training.loop.GRAPHS", graphs)
            with pytest.raises(FloatingPointError, match="Training diverged: in epoch 1"):
                model.fit(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn_vae.training.loop.GRAPHS", {"cpu": Graph})
        patch.setattr("sklearn_vae.training.adam.Adam.update", not_done)
        model.set_params(learning_rate=1e-3)
        with pytest.raises(OSError, match="of the step itself"):
            model.fit(X)


def not_done(self):
    raise OSError("of the step itself")


def test_a_checkpoint_begins_with_a_new_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("sklearn_vae.training.loop.GRAPHS", {"cpu": Graph})
    monkeypatch.setattr(Graph, "captures", 0)
    model = copy.deepcopy(MODELS["gradient"]).set_params(max_epochs=EPOCHS)
    model.set_params(checkpoint=tmp_path, checkpoint_every=2).fit(X)
    assert Graph.captures == 3 * N_SHAPES
    monkeypatch.setattr("sklearn_vae.training.loop.GRAPHS", {})
    assert_same_fit(model, copy.deepcopy(model).set_params(checkpoint=None).fit(X))
