"""Files of checkpoints: their names, what is in them, and what may happen to them."""

import errno
import importlib
import itertools
import os
import pickle
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import nn

import sklearn_vae
from sklearn_vae import BernoulliPPCA, DeepGaussianVAE, LinearVAE, Snapshot
from sklearn_vae.serialization import checkpoint, container, load
from sklearn_vae.serialization.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from sklearn_vae.training.loop import VAENet
from tests.helpers import exhaustive, slow
from tests.serialization.checkpointed_models import (
    LINEAR,
    SMALL,
    X,
    drawing_encoder,
    rows_of,
    same,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*has not converged")

MODEL = DeepGaussianVAE(3, **SMALL)
EACH_KIND = pytest.mark.parametrize("model", [MODEL, *LINEAR[1:5:3], LINEAR[0]], ids=str)

CONTENT = {
    "numbers": [1, -2.5, float("inf"), 0.1, 2**70, True, None, "text \u00e9"],
    3: (np.arange(6.0).reshape(2, 3).T, np.float32(0.1), np.array(5), np.zeros((0, 3), int)),
    "nested": {"a": [], "b": {}, (1, 2): ((),)},
    "text": np.array(["a", "bc"]),
    "sets": [{3, 1, "a"}, frozenset({(1, 2)}), deque([1, 2], maxlen=3), deque()],
    "mappings": [Counter("aab"), OrderedDict([("b", 1), ("a", 2)])],
    "nan": float("nan"),
}


def content_of(state, **others):
    """What a file contains that has such a state."""
    dicts = {key: {} for key in ("digests", "texts", "start", "environment")}
    return {**dicts, "finished": False, "random_state": None, "state": state, **others}


def test_what_is_written_is_what_is_read(tmp_path):
    write_checkpoint(tmp_path / "file", content_of(CONTENT, random_state=np.random.RandomState(0)))
    found = read_checkpoint(tmp_path / "file")
    assert found["random_state"].randint(1000) == np.random.RandomState(0).randint(1000)
    found = found["state"]
    assert same(found, CONTENT)
    assert found["sets"] == CONTENT["sets"]
    assert [type(part) for part in found["sets"]] == [set, frozenset, deque, deque]
    assert [part.maxlen for part in found["sets"][2:]] == [3, None]
    assert list(map(type, found["mappings"])) == [Counter, OrderedDict]
    assert np.isnan(found["nan"])
    array = found[3][0]
    array += 1.0  # an array of its own


@pytest.mark.parametrize("value", [object(), {object()}, [lambda: 0], 1j, defaultdict(int)])
def test_what_cannot_be_written(value, tmp_path):
    with pytest.raises(TypeError, match=r"a checkpoint cannot hold \['state'\]\['a'\]"):
        write_checkpoint(tmp_path / "file", content_of({"a": value}))
    assert not list(tmp_path.iterdir())


def test_safetensors_reads_it(tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path).fit(X)
    (path,) = tmp_path.iterdir()
    with safe_open(path, "numpy") as file:
        assert file.metadata()["kind"] == "checkpoint"
        found = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    weight = model.module_.encoder.layers[0].weight.detach().numpy()
    assert any(np.array_equal(tensor, weight) for tensor in found)
    with pytest.raises(ValueError, match="it holds a checkpoint, not a model"):
        load(path)


@pytest.mark.parametrize("step", [7, *exhaustive(1)])
def test_every_flipped_bit_and_every_cut_is_noticed(step, tmp_path):
    path = tmp_path / "file"
    write_checkpoint(path, content_of({"a": np.arange(3.0), "b": "text"}))
    file = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(0, len(file), step):
        damaged = bytearray(file)
        damaged[place] ^= 1 << rng.integers(8)
        for data in (bytes(damaged), file[:place]):
            path.write_bytes(data)
            with pytest.raises(ValueError, match=r"\w{3}"):
                read_checkpoint(path)


DAMAGES = ["flip", "cut", "empty", "folder"]


@pytest.mark.parametrize(
    ("model", "damage"),
    [
        *itertools.product([MODEL], DAMAGES),
        (LINEAR[0], "cut"),
        *exhaustive(
            *itertools.product(LINEAR[1:5:3], DAMAGES),
            *itertools.product(LINEAR[:1], ["flip", "empty", "folder"]),
        ),
    ],
    ids=str,
)
def test_a_damaged_file_is_not_resumed(model, damage, tmp_path):
    X = rows_of(model)
    model = clone(model).set_params(checkpoint=tmp_path)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.unlink()
    if damage == "folder":
        path.mkdir()
        match = "could not be written|is damaged"
    else:
        path.write_bytes({"flip": data, "cut": data[:-1000], "empty": b""}[damage])
        match = f"{path.name} is damaged .* training starts from scratch"
    with pytest.warns(UserWarning, match=match):
        assert same(clone(model).fit(X), expected)
    if damage != "folder":  # and another is in its place
        assert same(clone(model).fit(X), expected)


def odd_contents(content):
    """Contents in which something is missing or of another kind."""
    state = content["state"]
    yield from ({}, {**content, "environment": {"torch": 1}}, {**content, "finished": "yes"})
    for name in ("digests", "texts", "start", "environment", "finished", "random_state"):
        yield {**content, name: [1]}
        yield {key: value for key, value in content.items() if key != name}
    for name in ("digests", "texts", "start", "environment"):
        yield {**content, name: {**content[name], **dict.fromkeys(content[name], np.ones(2))}}
        yield {**content, name: {**content[name], 3: ("a", "b")}}
    yield {**content, "random_state": {"a": 1}}
    yield {**content, "finished": not content["finished"], "state": {}}
    for odd in ({}, "x", None, [1], {"a": 1}):
        yield {**content, "state": odd}
    for name in state:
        if name != "global_generators":  # which not all have
            yield {**content, "state": {**state, name: "odd"}}
            yield {**content, "state": {**state, name: {"odd": (1,)}}}
            yield {**content, "state": {n: s for n, s in state.items() if n != name}}
    if isinstance(state.get("net"), dict):
        for name in state["net"]:
            for net in ({name: "odd"}, {name: {"odd": (1,)}}):
                yield {**content, "state": {**state, "net": {**state["net"], **net}}}
            net = {n: s for n, s in state["net"].items() if n != name}
            yield {**content, "state": {**state, "net": net}}


@pytest.mark.parametrize(
    ("model", "finished"),
    [
        (LINEAR[0], True),
        *slow((MODEL, False), (LINEAR[1], False), (LINEAR[4], True)),
        *exhaustive((MODEL, True), (LINEAR[0], False)),
    ],
    ids=str,
)
def test_odd_content_is_not_resumed(model, finished, monkeypatch, tmp_path):
    # Every content is followed by a fit: the shortest that writes twice, of one batch an epoch.
    X = rows_of(model)[:60]
    n_iter = "max_epochs" if "max_epochs" in model.get_params() else "max_iter"
    model = clone(model).set_params(checkpoint=tmp_path, checkpoint_every=1, **{n_iter: 2})
    files = files_of_writes(monkeypatch)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    path.write_bytes(files[-1 if finished else 0])
    content = read_checkpoint(path)
    assert content["finished"] == finished
    for odd in odd_contents(content):
        write_checkpoint(path, odd)
        with pytest.warns(UserWarning, match="training starts from scratch"):
            assert same(clone(model).fit(X), expected)
    for data in (b"hello", b"", pickle.dumps(1), b'{"a": 1}'):
        path.write_bytes(data)
        with pytest.warns(UserWarning, match="is damaged .* training starts from scratch"):
            assert same(clone(model).fit(X), expected)


def files_of_writes(monkeypatch):
    """A list to which the bytes of each file that is written are added."""
    files, write = [], checkpoint.write_file

    def write_and_keep(path, *content):
        write(path, *content)
        files.append(path.read_bytes())

    monkeypatch.setattr(checkpoint, "write_file", write_and_keep)
    return files


def test_generator_states_of_another_device_are_left_out(monkeypatch, tmp_path):
    # A checkpoint of a CUDA device also holds the state of its generator, of another size.
    model = clone(MODEL).set_params(
        encoder=drawing_encoder, checkpoint=tmp_path, checkpoint_every=1, max_epochs=3
    )
    files = files_of_writes(monkeypatch)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    path.write_bytes(files[1])
    content = read_checkpoint(path)
    content["state"]["global_generators"].append(torch.zeros(16, dtype=torch.uint8))
    write_checkpoint(path, content)
    n_files = len(files)
    assert same(clone(model).fit(X), expected)
    assert len(files) == n_files + 1  # that of the last epoch
    content["state"]["global_generators"].insert(0, torch.zeros(16, dtype=torch.uint8))
    write_checkpoint(path, content)
    with pytest.warns(UserWarning, match="training starts from scratch"):
        assert same(clone(model).fit(X), expected)


class Dump(Callback):
    def __init__(self, folder="safe"):
        self.folder = folder
        self.learned_ = 0

    def on_train_end(self, net, **kwargs):
        assert self.folder == "safe"
        assert self.__class__ is Dump


def test_only_what_is_learned_is_taken_from_a_file(tmp_path):
    model = clone(MODEL).set_params(callbacks=[Dump()], checkpoint=tmp_path)
    clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    content = read_checkpoint(path)
    content["state"]["callbacks"]["Dump"] = {
        "folder": (False, "other"),
        "__class__": (False, 3),
        "learned_": (False, 7),
    }
    write_checkpoint(path, content)
    found = dict(clone(model).fit(X).net_.callbacks_)["Dump"]
    assert (found.folder, found.learned_, type(found)) == ("safe", 7, Dump)


class Move(Callback):
    def __init__(self, to):
        self.to = to

    def on_epoch_end(self, net, **kwargs):
        os.chdir(self.to)


def test_a_relative_folder_stays_where_it_was(monkeypatch, tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    clone(MODEL).set_params(callbacks=[Move(tmp_path / "there")], checkpoint="files").fit(X)
    assert len(list((tmp_path / "here" / "files").iterdir())) == 1
    assert not list((tmp_path / "there").iterdir())


def test_the_file_of_another_fit_is_not_resumed(tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    clone(model).fit(X + 1.0)
    (other,) = set(tmp_path.iterdir()) - {path}
    os.replace(other, path)
    with pytest.warns(UserWarning, match="belongs to another fit and was renamed"):
        assert same(clone(model).fit(X), expected)


ELSEWHERE = {
    "sklearn.__version__": ("0.0", r"sklearn=1.*, now 0\.0"),
    "torch.__version__": ("0.0", r"torch=2.*, now 0\.0"),
    "numpy.__version__": ("0.0", r"numpy=2.*, now 0\.0"),
    "platform.python_version": (lambda: "0.0", r"python=3.*, now 0\.0"),
    "sklearn_vae.training.checkpointing.threads_for": (lambda n: 99, "threads=1, now 99"),
    "sklearn_vae.serialization.checkpoint.blas_in_use": (lambda: "none", "blas=.*, now none"),
}


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_was_written_elsewhere_is_resumed_with_a_warning(name, monkeypatch, tmp_path):
    value, match = ELSEWHERE[name]
    model = clone(MODEL).set_params(checkpoint=tmp_path)
    files = files_of_writes(monkeypatch)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    path.write_bytes(files[0])
    monkeypatch.setattr(name, value)
    epochs = epochs_trained(monkeypatch)
    with pytest.warns(
        UserWarning, match=rf"another environment \({match}\)\. Training resumes"
    ) as w:
        assert same(clone(model).fit(X), expected)
    assert (len(w), len(epochs)) == (1, 5)
    assert same(clone(model).fit(X), expected)  # the file is of this place now


@pytest.mark.some(2)
@pytest.mark.parametrize("model", [LINEAR[1], LINEAR[4], LINEAR[0], LINEAR[3]], ids=str)
def test_linear_models_resume_elsewhere(model, monkeypatch, tmp_path):
    X = rows_of(model)
    model = clone(model).set_params(checkpoint=tmp_path)
    files = files_of_writes(monkeypatch)
    expected = clone(model).fit(X)
    n_writes = len(files)
    (path,) = tmp_path.iterdir()
    path.write_bytes(files[0])
    monkeypatch.setattr("scipy.__version__", "0.0")
    with pytest.warns(
        UserWarning, match=r"another environment \(scipy=1.*, now 0.0\)\. Training resumes"
    ):
        assert same(clone(model).fit(X), expected)
    assert len(files) == 2 * n_writes - 1


def test_a_start_that_rounds_otherwise_elsewhere_is_resumed(monkeypatch, tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path, init="ppca")
    clone(model).fit(X)
    units = DeepGaussianVAE._center_and_scale

    def moved(self, X, rows, reducer, weights):
        center, scale = units(self, X, rows, reducer, weights)
        return np.nextafter(center, np.inf), scale

    monkeypatch.setattr(DeepGaussianVAE, "_center_and_scale", moved)
    monkeypatch.setattr("scipy.__version__", "0.0")
    epochs = epochs_trained(monkeypatch)
    with pytest.warns(UserWarning, match=r"another environment .*\. Training resumes"):
        clone(model).fit(X)
    assert not epochs


def epochs_trained(monkeypatch):
    """A list that has an entry for each epoch from now on."""
    epochs, train = [], VAENet.train_epoch

    def train_and_count(net, *arguments):
        epochs.append(0)
        return train(net, *arguments)

    monkeypatch.setattr(VAENet, "train_epoch", train_and_count)
    return epochs


def test_a_patched_get_params_is_the_same_fit(monkeypatch, tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path)
    expected = clone(model).fit(X)
    epochs = epochs_trained(monkeypatch)

    def get_params(self, deep=True):
        renamed = {}
        for name in self._get_param_names():
            renamed[name] = getattr(self, name)
        return renamed

    monkeypatch.setattr(BaseEstimator, "get_params", get_params)
    assert same(clone(model).fit(X), expected)
    assert not epochs


FACTORY = """
from torch import nn

def encoder(shape, n_outputs):
    return nn.Sequential(nn.Linear(shape[0], {}), nn.ReLU(), nn.Linear({}, n_outputs))
"""


def test_an_edited_factory_is_told(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / "files"

    def fit(width):
        (tmp_path / "a_factory.py").write_text(FACTORY.format(width, width))
        monkeypatch.delitem(sys.modules, "a_factory", raising=False)
        importlib.invalidate_caches()
        factory = importlib.import_module("a_factory").encoder
        return clone(MODEL).set_params(encoder=factory, checkpoint=folder).fit(X)

    first = fit(8)
    epochs = epochs_trained(monkeypatch)
    assert same(fit(8), first)
    assert not epochs
    match = "data differs: encoder has another source or other values. Training starts from scratch"
    with pytest.warns(UserWarning, match=match) as caught:
        fit(16)
    assert (len(caught), len(epochs), len(list(folder.iterdir()))) == (1, 7, 2)


@pytest.mark.some(2)
@EACH_KIND
def test_what_differs_in_the_nearest_file_is_told_in_one_line(model, monkeypatch, tmp_path):
    X = rows_of(model)
    model = clone(model).set_params(checkpoint=tmp_path)
    clone(model).fit(X)
    name = "max_iter" if "max_iter" in model.get_params() else "max_epochs"
    before = model.get_params()[name]

    def told(other, X=X):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", ConvergenceWarning)
            other.fit(X)
        return [str(warning.message) for warning in caught]

    begin = f"No checkpoint in {tmp_path} matches this fit. The closest one of the same class and data differs: "
    texts = told(clone(model).set_params(**{name: 2, "random_state": 3}))
    assert texts == [
        f"{begin}{name}={before}, now 2; random_state=0, now 3. Training starts from scratch."
    ]
    assert told(clone(model).set_params(**{name: 2, "random_state": 3})) == []
    assert told(clone(model), X[:-1]) == []
    (text,) = told(clone(model).set_params(random_state=3))  # nearest of two
    assert text in [
        f"{begin}random_state=0, now 3. Training starts from scratch.",
        f"{begin}{name}=2, now {before}. Training starts from scratch.",
    ]
    monkeypatch.setattr(sklearn_vae, "__version__", "9.9.9")
    (text,) = told(clone(model))
    assert text.startswith(f"{begin}sklearn_vae=")
    assert text.endswith(", now '9.9.9'. Training starts from scratch.")


def encoder_of(activation, width=8):
    def encoder(shape, n_outputs):
        return nn.Sequential(nn.Linear(shape[0], width), activation(), nn.Linear(width, n_outputs))

    return encoder


class Encoder:
    def __init__(self, width):
        self.width = width

    def __call__(self, shape, n_outputs):
        return encoder_of(nn.ReLU, self.width)(shape, n_outputs)


class Quiet(Callback):
    def on_epoch_end(self, net, **kwargs):
        pass


class Other(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.module_.encoder.requires_grad_(True)


def path_of(model, X=X, before=None, folder="unused"):
    with warnings.catch_warnings(action="ignore"):
        return Checkpoint(clone(model).set_params(checkpoint=folder), X, before).path.name


def test_what_makes_another_fit_has_another_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    one_bit = X.copy()
    one_bit[-1, -1] = np.nextafter(one_bit[-1, -1], np.inf)
    others = [
        {"max_epochs": 8},
        {"learning_rate": 1.1e-3},
        {"noise_variance": np.ones(8)},
        {"random_state": 1},
        {"random_state": None},
        {"random_state": np.random.RandomState(0)},
        {"random_state": np.random.RandomState(1)},
        {"encoder": encoder_of(nn.ReLU)},
        {"encoder": encoder_of(nn.Tanh)},
        {"encoder": encoder_of(nn.ReLU, 9)},
        {"encoder": lambda shape, n: nn.Linear(shape[0], n)},
        {"encoder": lambda shape, n: nn.Linear(shape[0], n).double()},
        {"encoder": Encoder(8)},
        {"encoder": Encoder(9)},
        {"callbacks": [Quiet()]},
        {"callbacks": [Other()]},
        {"callbacks": [Snapshot([1])]},
        {"callbacks": [Snapshot([2])]},
    ]
    names = [path_of(clone(MODEL).set_params(**parameters)) for parameters in others]
    names += [path_of(MODEL, rows) for rows in (one_bit, X[:-1], X.astype(np.float32), X.T.copy())]
    names += [
        path_of(MODEL),
        path_of(MODEL, before=1),
        path_of(LinearVAE(3)),
        path_of(BernoulliPPCA(3)),
    ]
    monkeypatch.setattr(sklearn_vae, "__version__", "0.0.0")
    names.append(path_of(MODEL))
    assert len(set(names)) == len(names)


def test_what_does_not_matter_is_not_in_the_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = clone(MODEL).set_params(learning_rate=1e-3)
    same_fits = [
        {"checkpoint_every": 1},
        {"verbose": 1},
        {"learning_rate": np.float64(1e-3), "n_components": np.int64(3)},
        {"random_state": np.int64(0)},
        {"hidden_layer_sizes": [16]},
    ]
    names = {path_of(clone(model).set_params(**parameters)) for parameters in same_fits}
    names |= {path_of(model, np.asfortranarray(X)), path_of(model, folder="other")}
    assert names == {path_of(model)}


def test_networks_that_differ_in_what_a_name_does_not_tell_are_not_resumed(monkeypatch, tmp_path):
    monkeypatch.setitem(SLOPE, "of", 0.1)
    model = clone(MODEL).set_params(encoder=slope_encoder, checkpoint=tmp_path)
    clone(model).fit(X)
    monkeypatch.setitem(SLOPE, "of", 0.2)
    expected = clone(model).set_params(checkpoint=None).fit(X)
    with pytest.warns(UserWarning, match="starts from different networks, so training starts"):
        assert same(clone(model).fit(X), expected)
    assert len(list(tmp_path.iterdir())) == 1


SLOPE = {"of": 0.1}


def slope_encoder(shape, n_outputs):
    return nn.Sequential(nn.Linear(shape[0], n_outputs), nn.LeakyReLU(SLOPE["of"]))


class FullDisk:
    """Opens files that take so many bytes in all, and no more."""

    def __init__(self, n_bytes):
        self.left = n_bytes

    def __call__(self, path, mode, **options):
        self.file = open(path, mode, **options)  # noqa: SIM115
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, data):
        self.file.write(data[: self.left])
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        self.file.flush()

    def fileno(self):
        return self.file.fileno()


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(
    ("model", "n_writes"),
    [
        *itertools.product([MODEL], [0, 1, 1.5]),
        (LINEAR[0], 1.5),
        *exhaustive(*itertools.product(LINEAR[1:5:3], [0, 1, 1.5]), (LINEAR[0], 0), (LINEAR[0], 1)),
    ],
    ids=str,
)
def test_a_full_disk_leaves_the_file_before_and_the_training_alone(
    model, n_writes, monkeypatch, tmp_path
):
    X = rows_of(model)
    model = clone(model).set_params(checkpoint=tmp_path)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    path.unlink()
    writes = files_of_writes(monkeypatch)
    clone(model).fit(X)
    monkeypatch.undo()
    path.unlink()
    assert len(writes) >= 3
    # The seconds in it have more or fewer digits.
    size = int(n_writes * (len(writes[0]) + 100))
    monkeypatch.setattr(container, "open", FullDisk(size), raising=False)
    with pytest.warns(UserWarning, match="could not be written.*No space left") as caught:
        found = clone(model).fit(X)
    (message,) = (text for w in caught if "could not be" in (text := str(w.message)))
    assert path.name in message
    assert same(found, expected)
    assert list(tmp_path.iterdir()) == ([path] if n_writes >= 1 else [])
    if n_writes >= 1:
        monkeypatch.undo()
        assert not read_checkpoint(path)["finished"]
    monkeypatch.undo()
    assert same(clone(model).fit(X), expected)


class Record(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("strange", object())


def test_what_a_file_cannot_hold_does_not_end_the_training(tmp_path):
    model = clone(MODEL).set_params(callbacks=[Record()], checkpoint=tmp_path)
    with pytest.warns(
        UserWarning, match="could not be written.*cannot hold .*<object object"
    ) as caught:
        assert clone(model).fit(X).n_iter_ == 7
    assert len(caught) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_made_again(monkeypatch, tmp_path):
    folder = tmp_path / "a" / "b"
    file = Checkpoint(clone(MODEL).set_params(checkpoint=folder), X)
    file.resume(id, {})
    folder.rmdir()
    file.save(1)
    assert file.path.exists()
    # A fit of the same elsewhere takes what is being written for what was left.
    replace, calls = os.replace, []

    def lose_first(beside, path):
        calls.append(beside)
        if len(calls) == 1:
            os.unlink(beside)
        replace(beside, path)

    monkeypatch.setattr(os, "replace", lose_first)
    file.save(2)
    assert read_checkpoint(file.path)["state"] == 2
    assert len(calls) == 2


def test_nothing_of_it_stays_in_the_model(tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path).fit(X)
    names = set(vars(clone(MODEL).fit(X))), set(vars(clone(MODEL).fit(X).net_))
    assert (set(vars(model)), set(vars(model.net_))) == names
    assert isinstance(model.net_.optimizer_, torch.optim.Adam)
