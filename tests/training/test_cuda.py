"""Training on a CUDA device, where there is one."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklearn_vae import DeepGaussianVAE
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.training import loop
from tests.deep.data import MODELS, make_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

X = make_rows(n=500).astype(np.float32)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_captured_steps_are_those_kernel_by_kernel(model, monkeypatch):
    model = clone(model).set_params(device="cuda", precision="float32", max_epochs=5)
    captured = clone(model).fit(X)
    monkeypatch.setattr(loop, "GRAPHS", {})
    eager = clone(model).fit(X)
    np.testing.assert_allclose(captured.history_["bound"], eager.history_["bound"], rtol=1e-4)
    np.testing.assert_allclose(captured.transform(X), eager.transform(X), rtol=1e-2, atol=1e-3)


class LooksAtNumbers(nn.Linear):
    """No graph can hold what the host does with numbers."""

    def forward(self, x):
        return super().forward(x) * (1.0 if x.sum().item() < 1e9 else 0.0)


def test_steps_that_cannot_be_captured_are_taken_kernel_by_kernel(monkeypatch):
    model = DeepGaussianVAE(3, encoder=lambda shape, n: LooksAtNumbers(shape[0], n), device="cuda")
    model.set_params(precision="float32", max_epochs=3, random_state=0)
    with pytest.warns(UserWarning, match="cannot be captured in a CUDA graph") as caught:
        fallen_back = clone(model).fit(X)
    assert len(caught) == 1
    monkeypatch.setattr(loop, "GRAPHS", {})
    eager = clone(model).fit(X)
    np.testing.assert_allclose(fallen_back.history_["bound"], eager.history_["bound"], rtol=1e-5)


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
