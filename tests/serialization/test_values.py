"""Which values are stored, and how those are named that are not."""

import copy
import math
import os

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold
from skorch.callbacks import EarlyStopping

from sklearn_vae import PPCA, PPCACV, Moments, Snapshot
from sklearn_vae.serialization import load, save
from tests.serialization.models import IRIS, assert_same, gaussian, model_of, there_and_back


@pytest.mark.parametrize(
    "value",
    [
        math.nan, -math.inf, -0.0, 5e-324, 10**30, True, "", "é\ud800\n\"checksum\":\"", b"x"[0:0].decode(),
        (1, [2, (3,)], {4: {"a": None, (5, 6): set()}}), {1, 2}, frozenset({"a"}), range(9, 0, -2), range(2**16), range(2**70, 2**70 + 2),
        np.float32(0.1), np.int8(-3), np.bool_(True), np.float64("nan"),
        np.array(["a", "longer", ""]), np.array([["é"]]), np.array([], dtype="U3"),
        np.array([1, "a", None, (2,)], dtype=object), np.empty((0, 3)), np.zeros((2, 0, 4), np.uint8),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1), np.arange(12)[::-2],
        np.arange(6, dtype=np.float16).reshape(2, 3).T, np.array(3.0), np.array(True),
        np.ma.array([1.0, 2.0], mask=[True, False]), np.ma.array([1, 2]),
        torch.arange(6).reshape(2, 3).T, torch.device("cuda:1"),
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_values(value, tmp_path):
    # No estimator checks what it is given before fit.
    assert_same(value, there_and_back(PPCA(value), tmp_path).n_components)


def test_values_that_are_written_otherwise(tmp_path):
    swapped = np.arange(3, dtype=">f8")
    assert_same(np.arange(3.0), there_and_back(PPCA(swapped), tmp_path).n_components)
    view = np.broadcast_to(np.float32(2.0), (3, 4))
    assert_same(np.full((3, 4), np.float32(2.0)), there_and_back(PPCA(view), tmp_path).n_components)
    np.save(tmp_path / "x.npy", IRIS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(IRIS, there_and_back(PPCA(mapped), tmp_path).n_components)


STOP = EarlyStopping()


def own_encoder(input_shape, n_outputs):
    return torch.nn.Linear(math.prod(input_shape), n_outputs)


class Own(PPCA):
    pass


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (gaussian(encoder=own_encoder), ["encoder is <function own_encoder"]),
        (gaussian(decoder=lambda k, shape: torch.nn.Linear(k, shape[0])), ["decoder is <function"]),
        (
            gaussian(callbacks=[Snapshot([1]), STOP], early_stopping=True),
            ["callbacks[1] is <skorch"],
        ),
        (
            gaussian(encoder=own_encoder, callbacks=[("stop", STOP)], early_stopping=True),
            ["encoder is", "callbacks[0][1] is"],
        ),
        (PPCACV([1, 2], cv=KFold(3)), ["cv is KFold("]),
        (PPCA(2, random_state=np.random.RandomState(np.random.PCG64(0))), ["random_state is Ran"]),
    ],
)
@pytest.mark.parametrize("fit", [False, True])
def test_what_needs_code_is_named_and_not_saved(model, named, fit, tmp_path):
    model = clone(model)
    if fit:
        model.fit(IRIS)
    with pytest.raises(TypeError, match=f"^{type(model).__name__} cannot be saved") as raised:
        save(model, tmp_path / "model")
    assert all(name in str(raised.value) for name in named)
    assert str(raised.value).count("own_encoder") <= 1
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "value",
    [int, np.random.default_rng(0), 1j, np.array([1j]), np.array([b"x"]), np.longdouble(1), PPCA.fit,
     np.datetime64("2020"), np.array(["2020"], dtype="M8[D]"), torch.ones(1, requires_grad=True),
     torch.ones(1, dtype=torch.bfloat16), Own(1), 10**9000, {"a": {object(): 1}}, np.ones((1, 1)).view(np.matrix), range(2**16 + 1), range(2**70)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_that_cannot_be_stored(value, tmp_path):
    with pytest.raises(TypeError, match=r"PPCA cannot be saved without code: n_components.* is "):
        save(PPCA(value), tmp_path / "model")


def test_nesting_without_end(tmp_path):
    for times in (1, 2):  # twice would make 2^50 paths
        endless = []
        endless += [endless] * times
        with pytest.raises(TypeError, match=r"n_components\[0\] is a value that contains itself"):
            save(PPCA(endless), tmp_path / "model")
    endless = {}
    endless["itself"] = endless, [endless]
    with pytest.raises(
        TypeError, match=r"n_components.'itself'..0. is a value that contains itself"
    ):
        save(PPCA(endless), tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("bernoulli-rows", {"tol": -1.0}, "tol must be a finite number >= 0, got -1"),
        ("dequantizer", {"n_levels": 1}, "n_levels must be an integer >= 2, got 1"),
        ("logit", {"alpha": 2.0}, r"alpha must be a float in \[0, 0.5\), got 2"),
        ("pipeline", {"steps": None}, "steps must be a list of pairs"),
    ],
)
def test_a_parameter_that_load_would_refuse(name, parameters, text, tmp_path):
    path = tmp_path / "model"
    model = copy.deepcopy(model_of(name))
    save(model, path)
    before = path.read_bytes()
    valid = {key: getattr(model, key) for key in parameters}
    with pytest.raises(ValueError, match=text):
        save(model.set_params(**parameters), path)
    assert path.read_bytes() == before
    save(model.set_params(**valid), path)  # nothing learned is lost
    assert_same(load(path).get_state(), model.get_state())


@pytest.mark.parametrize("pair", [lambda a: [a, a], lambda a: {"a": a, "b": a}])
def test_a_list_that_occurs_many_times(pair, tmp_path):
    nested = [1.0]
    for _ in range(8):
        nested = pair(nested)
    save(PPCA(nested), tmp_path / "model")
    assert load(tmp_path / "model").n_components == nested
    for _ in range(32):
        nested = pair(nested)
    with pytest.raises(TypeError, match="is a list of lists that occur too often"):
        save(PPCA(nested), tmp_path / "model")


@pytest.mark.parametrize("what", [Own(2), PPCA, Moments.of(IRIS), KFold(), None, "PPCA"])
def test_only_estimators_of_this_library_are_saved(what, tmp_path):
    with pytest.raises(TypeError, match=r"estimator must be an instance of .*PPCACV.* subclass"):
        save(what, tmp_path / "model")


def test_an_attribute_that_no_fit_sets_is_named(tmp_path):
    model = model_of("ppca")
    model.note = 1
    with pytest.raises(TypeError, match="note is 1, not an attribute that fit sets"):
        save(model, tmp_path / "model")


def test_parameters_that_were_changed_after_the_fit(tmp_path):
    model = model_of("deep-gaussian").set_params(
        n_components=3, hidden_layer_sizes=(7,), noise_model="diagonal", max_epochs=9
    )
    loaded = there_and_back(model, tmp_path)
    assert_same(model.transform(IRIS), loaded.transform(IRIS))
    assert loaded.get_params() == model.get_params()
    with pytest.raises(ValueError, match="warm_start=True continues with the networks"):
        loaded.set_params(warm_start=True).fit(IRIS)
    with pytest.raises(ValueError, match="learning_rate must be"):
        save(model.set_params(learning_rate=-1), tmp_path / "other")
