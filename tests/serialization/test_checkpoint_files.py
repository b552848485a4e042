"""Files of checkpoints: their names, what is in them, and what may happen to them."""

import errno
import os
import pickle
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback
from torch import nn

import sklearn_vae
from sklearn_vae import BernoulliPPCA, DeepGaussianVAE, LinearVAE, Snapshot
from sklearn_vae.serialization import checkpoint, files
from sklearn_vae.serialization.checkpoint import Checkpoint, from_bytes, to_bytes
from tests.serialization.checkpointed_models import LINEAR, SMALL, X, rows_of, same

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
}


def test_what_is_written_is_what_is_read():
    assert same(found := from_bytes(to_bytes(CONTENT)), CONTENT)
    assert found["sets"] == CONTENT["sets"]
    assert [type(part) for part in found["sets"]] == [set, frozenset, deque, deque]
    assert [part.maxlen for part in found["sets"][2:]] == [3, None]
    assert list(map(type, found["mappings"])) == [Counter, OrderedDict]
    assert np.isnan(from_bytes(to_bytes(float("nan"))))
    found = from_bytes(to_bytes(CONTENT))[3][0]
    found += 1.0  # an array of its own


@pytest.mark.parametrize(
    "value", [object(), {object()}, [lambda: 0], np.array([None]), 1j, defaultdict(int)]
)
def test_what_cannot_be_written(value):
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        to_bytes({"a": value})


def test_numpy_reads_it_without_pickle(tmp_path):
    clone(MODEL).set_params(checkpoint=tmp_path).fit(X)
    (path,) = tmp_path.iterdir()
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == {"content", "numbers"}
        assert file["content"].tobytes().startswith(b"{")


def test_every_flipped_bit_and_every_cut_is_noticed():
    file = to_bytes({"a": np.arange(3.0), "b": "text"})
    rng = np.random.default_rng(0)
    for place in range(len(file)):
        damaged = bytearray(file)
        damaged[place] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(file[:place])


@EACH_KIND
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder"])
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
        path.write_bytes({"flip": data, "cut": data[:1000], "empty": b""}[damage])
        match = f"{path.name} is damaged .* not resumed: training begins anew"
    with pytest.warns(UserWarning, match=match):
        assert same(clone(model).fit(X), expected)
    if damage != "folder":  # and another is in its place
        assert same(clone(model).fit(X), expected)


def odd_contents(content):
    """With a valid checksum and, where it can, key and place."""
    state = content["state"]
    for other in ({}, [1], 3, {**content, "place": None}, {**content, "finished": "yes"}):
        yield to_bytes(other)
    yield to_bytes({**content, "random_state": {"a": 1}})
    yield to_bytes({**content, "finished": not content["finished"], "state": {}})
    for odd in ({}, "x", None, [1], {"a": 1}):
        yield to_bytes({**content, "state": odd})
    for name in state:
        if name != "global_generators":  # which not all have
            yield to_bytes({**content, "state": {**state, name: "odd"}})
            yield to_bytes({**content, "state": {**state, name: {"odd": (1,)}}})
            yield to_bytes({**content, "state": {n: s for n, s in state.items() if n != name}})
    for body in (b"hello", b"", pickle.dumps(1), b'{"a": 1}'):
        yield body + checkpoint._checksum(body)


@EACH_KIND
@pytest.mark.parametrize("finished", [True, False])
def test_odd_content_is_not_resumed(model, finished, monkeypatch, tmp_path):
    X = rows_of(model)
    model = clone(model).set_params(checkpoint=tmp_path)
    if isinstance(model, BernoulliPPCA):
        model.set_params(max_iter=9)
    writes, write = [], checkpoint._write
    monkeypatch.setattr(
        checkpoint, "_write", lambda path, data: (writes.append(data), write(path, data))
    )
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    content = from_bytes(writes[-1 if finished else 0])
    assert content["finished"] == finished
    for file in odd_contents(content):
        path.write_bytes(file)
        with pytest.warns(UserWarning, match="is not resumed: training begins anew"):
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
    content = from_bytes(path.read_bytes())
    content["state"]["callbacks"]["Dump"] = {
        "folder": (False, "other"),
        "__class__": (False, 3),
        "learned_": (False, 7),
    }
    path.write_bytes(to_bytes(content))
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
    with pytest.warns(UserWarning, match="is that of another fit, under a new name"):
        assert same(clone(model).fit(X), expected)


@pytest.mark.parametrize(
    ("patch", "value", "match"),
    [
        ("torch.__version__", "0.0", "torch 2.*, now 0.0"),
        ("numpy.__version__", "0.0", "numpy 2.*, now 0.0"),
        ("sklearn_vae.training.checkpointing.threads_for", lambda n: 99, "threads 1, now 99"),
    ],
)
def test_nothing_is_resumed_elsewhere(patch, value, match, monkeypatch, tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path)
    expected = clone(model).fit(X)
    monkeypatch.setattr(patch, value)
    with pytest.warns(UserWarning, match=rf"written elsewhere \({match}\) and is not resumed"):
        found = clone(model).fit(X)
    assert same(found, expected)
    assert same(clone(model).fit(X), expected)


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
    same_fits = [
        {"checkpoint_every": 1},
        {"verbose": 1},
        {"learning_rate": np.float64(1e-3), "n_components": np.int64(3)},
        {"random_state": np.int64(0)},
        {"hidden_layer_sizes": [16]},
    ]
    names = {path_of(clone(MODEL).set_params(**parameters)) for parameters in same_fits}
    names |= {path_of(MODEL, np.asfortranarray(X)), path_of(MODEL, folder="other")}
    assert names == {path_of(MODEL)}


def test_networks_that_differ_in_what_a_name_does_not_tell_are_not_resumed(monkeypatch, tmp_path):
    monkeypatch.setitem(SLOPE, "of", 0.1)
    model = clone(MODEL).set_params(encoder=slope_encoder, checkpoint=tmp_path)
    clone(model).fit(X)
    monkeypatch.setitem(SLOPE, "of", 0.2)
    expected = clone(model).set_params(checkpoint=None).fit(X)
    with pytest.warns(UserWarning, match=r"written elsewhere \(networks"):
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


@EACH_KIND
@pytest.mark.parametrize("n_writes", [0, 1, 1.5])
def test_a_full_disk_leaves_the_file_before_and_the_training_alone(
    model, n_writes, monkeypatch, tmp_path
):
    X = rows_of(model)
    model = clone(model).set_params(checkpoint=tmp_path)
    expected = clone(model).fit(X)
    (path,) = tmp_path.iterdir()
    writes = []
    monkeypatch.setattr(checkpoint, "_write", lambda path, data: writes.append(data))
    path.unlink()
    clone(model).fit(X)
    monkeypatch.undo()
    assert len(writes) >= 3
    # The seconds in it have more or fewer digits.
    size = int(n_writes * (len(writes[0]) + 100))
    monkeypatch.setattr(files, "open", FullDisk(size), raising=False)
    with pytest.warns(UserWarning, match="could not be written.*No space left") as caught:
        found = clone(model).fit(X)
    (message,) = (text for w in caught if "could not be" in (text := str(w.message)))
    assert path.name in message
    assert same(found, expected)
    assert list(tmp_path.iterdir()) == ([path] if n_writes >= 1 else [])
    if n_writes >= 1:
        assert not from_bytes(path.read_bytes())["finished"]
    monkeypatch.undo()
    assert same(clone(model).fit(X), expected)


class Record(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("strange", object())


def test_what_a_file_cannot_hold_does_not_end_the_training(tmp_path):
    model = clone(MODEL).set_params(callbacks=[Record()], checkpoint=tmp_path)
    with pytest.warns(UserWarning, match="could not be written.*cannot hold object") as caught:
        assert clone(model).fit(X).n_iter_ == 7
    assert len(caught) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_made_again(monkeypatch, tmp_path):
    folder = tmp_path / "a" / "b"
    file = Checkpoint(clone(MODEL).set_params(checkpoint=folder), X)
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
    assert from_bytes(file.path.read_bytes())["state"] == 2
    assert len(calls) == 2


def test_nothing_of_it_stays_in_the_model(tmp_path):
    model = clone(MODEL).set_params(checkpoint=tmp_path).fit(X)
    names = set(vars(clone(MODEL).fit(X))), set(vars(clone(MODEL).fit(X).net_))
    assert (set(vars(model)), set(vars(model.net_))) == names
    assert isinstance(model.net_.optimizer_, torch.optim.Adam)
