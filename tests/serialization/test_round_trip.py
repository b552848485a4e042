"""What is saved comes back to the last bit, and goes on as it would have."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import sklearn_vae
from sklearn_vae import LinearVAE
from sklearn_vae.public import ESTIMATORS
from sklearn_vae.serialization import container, load, save
from tests.serialization.files import change, replace_in
from tests.serialization.models import (
    CASES,
    DEEP,
    IRIS,
    NAMED,
    assert_same,
    fitted,
    model_of,
    there_and_back,
)

METHODS = [
    "transform",
    "score_samples",
    "posterior",
    "impute",
    "log_likelihood",
    "decision_function",
    "p_values",
]


def test_every_estimator_can_be_saved_and_is_tried():
    assert {type(fitted(name)).__name__ for name in CASES} == set(ESTIMATORS)


@pytest.mark.some(24, "slow")
@pytest.mark.parametrize("name", CASES)
def test_all_that_was_fitted_comes_back(name, tmp_path):
    model, X = model_of(name), CASES[name][1]
    X = torch.asarray(X) if name == "ppca-tensors" else X
    state = torch.get_rng_state()
    np.random.seed(0)  # noqa: NPY002 - the generator that must not be touched
    draw = copy.deepcopy(np.random.mtrand._rand).random_sample()
    loaded = there_and_back(model, tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert draw == np.random.mtrand._rand.random_sample()
    assert_same(model, loaded)
    with sklearn.config_context(array_api_dispatch=name == "ppca-tensors"):
        for method in [m for m in METHODS if hasattr(model, m)]:
            # It is unbounded where there is no noise, and not for rows with holes where a single
            # row is all that goes in.
            assert_same(outcome(model, method, X), outcome(loaded, method, X), method)
        if hasattr(model, "sample"):
            assert_same(*(outcome(m, "sample", 5, random_state=0) for m in (model, loaded)))
        if hasattr(model, "get_feature_names_out"):
            assert_same(*(outcome(m, "get_feature_names_out") for m in (model, loaded)))


def outcome(model, method, *args, **kwargs):
    try:
        found = getattr(model, method)(*args, **kwargs)
    except ValueError as error:
        return str(error)
    return found.to_numpy() if isinstance(found, pd.DataFrame) else found


@pytest.mark.some(24, "slow")
@pytest.mark.parametrize("name", CASES)
def test_a_state_makes_the_same_estimator(name):
    model = fitted(name)
    other = object.__new__(type(model))
    other.set_state(copy.deepcopy(model.get_state()))
    assert_same(model, other)


def test_a_state_that_does_not_fit_changes_nothing():
    model = model_of("deep-gaussian")
    before, state = copy.copy(vars(model)), model.get_state()
    for name, value in [("mean_", None), ("note", 1), ("net_", {**state["net_"], "beta": "x"})]:
        with pytest.raises(ValueError, match=name if name != "net_" else "beta"):
            model.set_state({**state, name: value})
        assert vars(model) == before
    net_state = copy.deepcopy(model.net_.get_state())
    with pytest.raises(ValueError, match="must have shape"):
        model.net_.set_state({**net_state, "module": {
            name: value[None] for name, value in net_state["module"].items()
        }})  # fmt: skip
    assert_same(net_state, model.net_.get_state())


def test_a_new_fitted_attribute_is_saved_and_pickled(tmp_path):
    model = model_of("deep-gaussian")
    model.later_ = {"array": np.arange(3), "tensor": torch.arange(3)}
    for other in (there_and_back(model, tmp_path), pickle.loads(pickle.dumps(model))):
        assert_same(model, other)


@pytest.mark.some(24, "slow")
@pytest.mark.parametrize("name", CASES)
def test_what_was_loaded_saves_as_the_same_file(name, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    save(fitted(name), first)
    save(load(first), second)
    a, b = (container.read_file(path, "model") for path in (first, second))
    assert (a[0], *a[2:]) == (b[0], *b[2:])
    assert_same(*(dict(sorted(tensors.items())) for _, tensors, *_ in (a, b)))


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("name", [f"deep-{name}" for name in DEEP])
def test_training_goes_on_as_it_would_have(name, tmp_path):
    model, X = model_of(name), CASES[name][1]
    loaded = there_and_back(model, tmp_path)
    before = next(model.module_.parameters()).clone()
    for one in (model, loaded):
        one.set_params(warm_start=True).fit(X)
    assert not torch.equal(before, next(model.module_.parameters()))
    assert_same(model, loaded)


def test_snapshots_go_on_too(tmp_path):
    model = model_of("deep-gaussian-snapshots")
    loaded = there_and_back(model, tmp_path)
    assert list(loaded.snapshots_) == [1, 2]
    for one in (model, loaded):
        one.snapshots_[1].set_params(warm_start=True).fit(IRIS)
    assert_same(model.snapshots_[1], loaded.snapshots_[1])


@pytest.mark.parametrize("name", ["ppca-stream", "ppca-moments", "linear", "linear-stream"])
def test_streams_go_on_as_they_would_have(name, tmp_path):
    model = model_of(name)
    loaded = there_and_back(model, tmp_path)
    more = IRIS[::3] + 1.0
    batch = pd.DataFrame(more, columns=NAMED.columns) if name == "linear" else more
    assert_same(model.partial_fit(batch), loaded.partial_fit(batch))


@pytest.mark.parametrize("name", ["ppca-random", "imputer", "deep-gaussian-float32"])
def test_a_random_state_goes_on(name, tmp_path):
    model, X = model_of(name), CASES[name][1]
    loaded = there_and_back(model, tmp_path)
    assert_same(model.fit(X), loaded.fit(X))


@pytest.mark.parametrize("fit", [False, True])
def test_what_was_requested_of_metadata_still_is(fit, tmp_path):
    with sklearn.config_context(enable_metadata_routing=True):
        model = model_of("ppca") if fit else sklearn_vae.PPCA()
        model.set_score_request(sample_weight="rows").set_fit_request(sample_weight=True)
    loaded = there_and_back(model, tmp_path)
    with sklearn.config_context(enable_metadata_routing=True):
        expected, found = (str(one.get_metadata_routing()) for one in (model, loaded))
    assert "'rows'" in expected
    assert found == expected


def test_what_was_one_object_still_is(tmp_path):
    imputer = there_and_back(fitted("imputer"), tmp_path)
    assert imputer.random_state is imputer.model_.random_state
    linear = there_and_back(fitted("linear"), tmp_path)
    assert linear.history_["bound"] is linear.elbo_history_


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_unfitted_estimator(name, tmp_path):
    steps = {"steps": [("model", sklearn_vae.PPCA())]} if name == "DensityPipeline" else {}
    model = getattr(sklearn_vae, name)(**steps)
    loaded = there_and_back(model, tmp_path)
    assert_same(model, loaded)
    with pytest.raises(NotFittedError):
        (loaded.predict if hasattr(loaded, "predict") else loaded.transform)(IRIS)


def test_a_model_of_a_device_that_is_not_here(tmp_path, monkeypatch):
    model = model_of("deep-gaussian-float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for of_fit in (model, model._networks_of_fit):
        setattr(of_fit, "device", "cuda:0") if of_fit is model else of_fit.update(device="cuda:0")
    model.set_params(precision="tf32")
    model._networks_of_fit["precision"] = "tf32"
    loaded = there_and_back(model, tmp_path)
    assert (loaded.device, loaded.net_.device, loaded.net_.precision) == ("cuda:0", "cpu", None)
    X = CASES["deep-gaussian-float32"][1]
    assert_same(model.transform(X), loaded.transform(X))
    loaded.set_params(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="device='cuda:7' is not available"):
        load(tmp_path / "model.safetensors", device="cuda:7")
    with pytest.raises(ValueError, match="device='meta' is not available"):
        load(tmp_path / "model.safetensors", device="meta")


def test_tensors_of_a_device_that_is_not_here(tmp_path, monkeypatch):
    path = tmp_path / "model"
    save(fitted("ppca-tensors"), path)
    change(path, lambda tree: replace_in(tree, "cpu", "meta"))
    for options in ({}, {"device": "cpu"}, {"device": torch.device("cpu")}):
        assert_same(load(path, **options), fitted("ppca-tensors"))
    with pytest.raises(ValueError, match="device='meta' is not available"):
        load(path, device="meta")


def test_an_optimiser_of_somebody_else(tmp_path):
    model = model_of("deep-gaussian")
    group = model.net_.optimizer_.param_groups[0]
    group["initial_lr"] = group["max_lr"] = 1.0  # of a schedule, which begins anew
    group["lr"], group["betas"] = 0.5, (0.8, 0.9)
    loaded = there_and_back(model, tmp_path).net_.optimizer_.param_groups[0]
    assert (loaded["lr"], loaded["betas"]) == (0.5, (0.8, 0.9))
    model.net_.optimizer_ = torch.optim.SGD(model.module_.parameters(), lr=1.0)
    with pytest.raises(
        TypeError, match="must have its original Adam optimizer with one parameter group"
    ):
        save(model, tmp_path / "other")


def test_a_generator_of_another_kind_of_device_begins_with_other_draws(tmp_path):
    path = tmp_path / "model"
    save(fitted("deep-gaussian"), path)
    change(path, lambda tree: replace_in(tree, "cpu", "cuda"))
    loaded = load(path)
    expected = torch.Generator().manual_seed(loaded.net_.seed + 2)
    assert torch.equal(loaded.net_.generator_.get_state(), expected.get_state())
    loaded.set_params(warm_start=True).fit(IRIS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["gaussian-float32", "gaussian-sylvester", "gaussian-conv"])
def test_cpu_and_cuda_are_interchangeable(name, tmp_path):
    model, X = DEEP[name]
    X = X.astype(np.float32)
    model = clone(model).set_params(device="cuda").fit(X)
    there, here = (
        there_and_back(model, tmp_path),
        load(tmp_path / "model.safetensors", device="cpu"),
    )
    assert next(there.module_.parameters()).is_cuda
    assert not next(here.module_.parameters()).is_cuda
    assert_same(model.transform(X), there.transform(X))
    np.testing.assert_allclose(here.transform(X), model.transform(X), rtol=1e-3, atol=1e-3)
    back = there_and_back(here, tmp_path, device="cuda")
    assert_same(model.transform(X), back.transform(X))
    for one in (model, there, here):
        one.set_params(warm_start=True).fit(X)
    np.testing.assert_allclose(there.transform(X), model.transform(X), rtol=1e-3, atol=1e-3)


def test_a_file_does_not_say_where_to_write(tmp_path):
    model = LinearVAE(2, checkpoint=tmp_path / "here").fit(IRIS)
    save(model, tmp_path / "model")
    assert b"here" not in (tmp_path / "model").read_bytes()
    loaded = load(tmp_path / "model")
    assert loaded.checkpoint is None
    assert loaded.elbo_ == model.elbo_

    def with_place(tree):
        tree["object"][1].append(["checkpoint", "elsewhere"])
        return tree

    change(tmp_path / "model", with_place)
    with pytest.raises(ValueError, match="no parameter and cannot have an attribute 'checkpoint'"):
        load(tmp_path / "model")
