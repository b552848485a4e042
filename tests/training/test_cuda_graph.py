"""What only a machine with a CUDA device can tell."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_vae import DeepGaussianVAE
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.training import loop as net_module
from tests.deep.data import MODELS, make_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

X = make_rows(n=500).astype(np.float32)


class NotCaptured:
    """Stands for a captured step, and takes each kernel by kernel."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x, noise, beta):
        return self.net.step_by_autograd(x, noise, beta)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_captured_steps_are_those_kernel_by_kernel(model, monkeypatch):
    model = clone(model).set_params(device="cuda", precision="float32", max_epochs=5)
    captured = clone(model).fit(X)
    monkeypatch.setattr(net_module, "CapturedStep", NotCaptured)
    eager = clone(model).fit(X)
    np.testing.assert_allclose(captured.history_["bound"], eager.history_["bound"], rtol=1e-4)
    np.testing.assert_allclose(captured.transform(X), eager.transform(X), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["auto", "tf32", "bf16", "float32", "float64"])
def test_each_precision_learns(precision):
    model = DeepGaussianVAE(3, hidden_layer_sizes=(32,), device="cuda", precision=precision)
    model.set_params(max_epochs=60, learning_rate=0.01, random_state=0).fit(X)
    reference = clone(model).set_params(device="cpu", precision="float32").fit(X)
    assert model.score(X) > reference.score(X) - 1.0


def test_models_move_to_machines_without_a_device(monkeypatch):
    model = DeepGaussianVAE(3, hidden_layer_sizes=(8,), max_epochs=2, device="cuda").fit(X)
    text = pickle.dumps(model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(match="is not available"):
        moved = pickle.loads(text)
    np.testing.assert_allclose(moved.score(X), model.score(X), rtol=1e-4)


class Stopped(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_what_is_resumed_ends_as_if_it_had_not_been_stopped(model, tmp_path, monkeypatch):
    model = clone(model).set_params(device="cuda", max_epochs=7, checkpoint_every=2)
    expected = clone(model).set_params(checkpoint=tmp_path / "other").fit(X)
    save = Checkpoint.save

    def save_and_stop(self, *arguments, **options):
        save(self, *arguments, **options)
        raise Stopped

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    model.set_params(checkpoint=tmp_path / "files")
    for _ in range(4):
        with pytest.raises(Stopped):
            clone(model).fit(X)
    found = clone(model).fit(X)
    for name, value in expected.module_.state_dict().items():
        assert torch.equal(value, found.module_.state_dict()[name])
    np.testing.assert_array_equal(found.history_["bound"], expected.history_["bound"])
