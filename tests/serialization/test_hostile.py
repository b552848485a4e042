"""Files that are damaged, or made to do harm, are a ValueError; nothing of them is executed."""

import json
import pickle
import random
import resource
import sys
import time
import tracemalloc
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.impute import MissingIndicator
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, DensityPipeline
from sklearn_vae.public import ESTIMATORS
from sklearn_vae.serialization import container, load, save
from sklearn_vae.serialization.models import RECORDS, SCALERS
from sklearn_vae.state import is_fitted
from tests.helpers import exhaustive
from tests.serialization.files import change, changed, packed, part_of, sealed, unpacked
from tests.serialization.models import CASES, assert_same, fitted, model_of

# Of which files are changed: small ones with all kinds of things in them.
MODELS = ["ppca", "imputer", "deep-gaussian-arrays", "deep-autoencoder-conv"]

# Of each of these files, damaged ones and hostile ones: a thousand of each kind in the exhaustive tests.
MUTATIONS = [60, *exhaustive(250)]

# Bytes that a load may take: so many times those of a file, and these. Seconds of the thread's own
# work at most, whatever else the machine does meanwhile.
TIMES, FREE, SECONDS = 20, 2**25, 5.0

# What a hostile file may have in the place of anything.
POOL = [
    None, True, -1, 0, 1, 2, 10**9, 2**63, 10**400, 1e308, 0.5, "", "t0", "nan", "cuda", "__class__",
    [], [[]], ["t0", None], ["t0", [1, 0]], {}, {"tuple": []}, {"dict": []}, {"float": "nan"},
    {"array": ["t0", None]}, {"array": ["t1", [0, 0]]}, {"scalar": {"array": ["t3", None]}}, {"text": {"array": ["t0", None]}},
    {"objects": [[2**40, 2**40], []]}, {"range": [0, 2**62, 1]}, {"range": [1, 2**62, 1]},
    {"range": [1, 2**16, 1]}, {"RandomState": [{"array": ["t0", None]}, 700, 0, 0.0]},
    {"MaskedArray": [{"array": ["t0", None]}, None]}, {"set": [[1]]}, {"device": "meta"},
    {"tensor": ["t0", None, "meta"]}, {"object": ["Dequantizer", []]},
    {"object": ["DeepGaussianVAE", [["net_", {"dict": []}]]]}, {"Counter": [["t0", -1]]},
    {"deque": [[1, 2], 0]}, {"OrderedDict": [[0, {}]]},
    {"object": ["Moments", []]}, {"object": ["PPCA", []]}, {"os.system": "true"},
    {"object": ["ConvEncoder", [["channels", None], ["dense", 10**12], ["activation", "relu"],
                                ["image_shape", None]]]},
]  # fmt: skip

WATCHED = {"exec", "compile", "pickle.find_class", "marshal.loads", "os.system", "os.exec",
           "os.posix_spawn", "os.fork", "subprocess.Popen", "ctypes.dlopen", "import"}  # fmt: skip
seen = None


@pytest.fixture(scope="module", autouse=True)
def _hook():
    # For which torch and scikit-learn import some of themselves.
    with torch.device("cpu"):
        repr((torch.ones(1), PPCA()))
    with torch.device("meta"):
        torch.nn.Conv2d(1, 1, 1), torch.nn.Embedding(1, 1)
    sys.addaudithook(lambda event, args: seen.append((event, args)) if is_watched(event) else None)


def is_watched(event):
    return seen is not None and event in WATCHED


@contextmanager
def watched():
    """Within this, Python tells what it executes, imports or unpickles."""
    global seen
    seen = []
    try:
        yield seen
    finally:
        seen = None


@pytest.fixture(scope="module", params=MODELS)
def data(request, tmp_path_factory):
    """The bytes of a model's file."""
    path = tmp_path_factory.mktemp("model") / "model"
    save(fitted(request.param), path)
    load(path)  # what is imported on first use
    return path.read_bytes()


@contextmanager
def limited():
    """No more address space than there is now and some: whatever claims more is an error.

    It is not for long: Python without any memory left can be in a loop for ever.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    if Path("/proc/self/statm").exists():
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def traced():
    """Python's own count of what is allocated, which takes its time."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def outcome(path, data):
    """What a file loads as, or the text of the ValueError; within bounds of time and memory."""
    path.write_bytes(data)
    if tracemalloc.is_tracing():
        tracemalloc.reset_peak()
    start, before = time.thread_time(), tracemalloc.get_traced_memory()[0]
    with watched() as events:
        try:
            with limited():
                found = load(path)
        except ValueError as error:
            found = str(error)
    events = [event for event in events if not is_harmless(event)]
    assert not events
    assert time.thread_time() - start < SECONDS
    assert tracemalloc.get_traced_memory()[1] - before < TIMES * len(data) + FREE
    assert not (isinstance(found, str) and "can't allocate" in found)
    return found


def is_harmless(event):
    """Python's and torch's own modules, imported where a function needs one."""
    return event[0] == "import" and event[1][0] in sys.modules


def test_what_is_executed_would_be_seen():
    with watched() as events:
        pickle.loads(pickle.dumps(PPCA))
        exec("pass")  # noqa: S102 - what is to be seen
    assert {"pickle.find_class", "exec"} <= {event for event, _ in events}


def mutation(data, rng):
    """Other bytes than these."""
    at, other = (rng.randrange(len(data)) for _ in range(2))
    at, other = min(at, other), max(at, other)
    size = rng.choice([1, 2, 8, 64, 1000])
    kind = rng.randrange(8)
    if kind <= 1:
        at = rng.choice([at, rng.randrange(8), rng.randrange(200)])
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:at] + rng.randbytes(size) + data[at:]
    if kind == 4:
        return data[:at] + data[at + size :]
    if kind == 5:
        return data[:at] + data[other : other + size] + data[at + size :]
    if kind == 6:
        return data[:at] + bytes(size) + data[at + size :]
    return data[:at] + rng.randbytes(size) + data[at + size :]


@pytest.mark.parametrize("n_mutations", MUTATIONS)
def test_no_damaged_file_loads(data, n_mutations, tmp_path, traced):
    rng, path = random.Random(0), tmp_path / "model"
    for _ in range(n_mutations):
        bad = mutation(data, rng)
        if bad != data:
            assert isinstance(outcome(path, bad), str)


def nodes(tree):
    """Every place in a tree, as (container, key)."""
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    for key, part in list(items):
        yield tree, key
        if isinstance(part, list | dict):
            yield from nodes(part)


def hostile(data, rng):
    """A file that is well-formed, with a checksum that fits, of something else."""
    header, payload = unpacked(data)
    kind = rng.randrange(5)
    if kind <= 2:
        tree = json.loads(header["__metadata__"]["tree"])
        for _ in range(rng.choice([1, 1, 2, 4])):
            places = list(nodes(tree))
            part, key = rng.choice(places)
            other, other_key = rng.choice(places)
            new = rng.choice([rng.choice(POOL), other[other_key]])
            part[key] = json.loads(json.dumps(new))
        header["__metadata__"]["tree"] = json.dumps(tree)
        return packed(header, payload)
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    if kind == 3:
        one, other = (rng.choice(tensors) for _ in range(2))
        key = rng.choice(["dtype", "shape", "data_offsets"])
        one[key], other[key] = other[key], rng.choice([one[key], [2**40, 2**40], "F64", "BOOL"])
        return packed(header, payload)
    return sealed(mutation(data, rng))


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("n_mutations", MUTATIONS)
def test_no_hostile_file_does_harm(data, n_mutations, tmp_path):
    rng, path = random.Random(1), tmp_path / "model"
    loaded = 0
    for _ in range(n_mutations):
        found = outcome(path, hostile(data, rng))
        if not isinstance(found, str):
            loaded += 1
            assert_known(found, set())
    assert 0 < loaded < n_mutations


def assert_known(value, seen):
    """Of this library's classes, and numbers."""
    if id(value) in seen:
        return
    seen.add(id(value))
    kind = type(value)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    assert (
        kind.__name__ in {*ESTIMATORS, *RECORDS, "VAENet"}
        or isinstance(value, MissingIndicator | np.random.RandomState | torch.device)
        or kind.__module__ in ("builtins", "collections", "numpy", "numpy.ma", "torch")
    ), name
    assert not callable(value) or kind.__name__ in RECORDS
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    else:
        known = kind.__name__ in {*ESTIMATORS, *RECORDS}
        parts = list(vars(value).values()) if known else []
    for part in parts:
        assert_known(part, seen)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"os.system": "true"}, "unknown tag 'os.system'"),
        ({"__reduce__": ["os.system", ["true"]]}, "tag '__reduce__'"),
        ({"object": ["os.system", []]}, "does not load the class 'os.system'"),
        ({"object": [["PPCA"], []]}, "does not load the class ['PPCA']"),
        ({"object": ["subprocess.Popen", [["args", "true"]]]}, "class 'subprocess.Popen'"),
        ({"object": ["DeepVAE", []]}, "class 'DeepVAE'"),
        ({"object": ["VAENet", []]}, "class 'VAENet'"),
        ({"object": ["PPCA", [["tol", 1], ["tol", 2]]]}, "occur once, got 'tol'"),
        ({"object": ["DensityPipeline", []]}, "missing 1 required"),
        ({"object": ["DensityPipeline", [["steps", 1]]]}, "steps must be a list of pairs"),
        ({"object": ["Moments", [["n", 1.0]]]}, "missing 2 required"),
        ({"object": ["Moments", [["n", "x"], ["mean", 1], ["scatter", 2]]]}, "no attribute 'ndim'"),
        (
            {"object": ["Snapshot", [["epochs", 1], ["on_epoch_end", 2]]]},
            "unexpected keyword argument 'on_epoch_end'",
        ),
        ({"array": ["none", None]}, "needs tensor 'none', which is not in the file"),
        ({"array": ["t0", [0, 0]]}, "axes in some order"),
        ({"array": "t0"}, "needs tensor 't', which is not in the file"),
        ({"array": ["t0"]}, "not enough values to unpack"),
        ({"objects": [[2**39, 2**39], []]}, "cannot reshape array of size 0"),
        ({"text": {"array": ["t0", None]}}, "must be an array of code points"),
        ({"scalar": {"array": ["t0", None]}}, "must be one number"),
        ({"float": "1"}, "invalid content of 'float': '1'"),
        ({"range": [0, 1, 0]}, "arg 3 must not be zero"),
        ({"range": [1, 2**62, 1]}, "more than 65536 integers"),
        ({"range": [-(2**62), 2**62, 1]}, "more than 65536 integers"),
        ({"range": [2**62, 0, -1]}, "more than 65536 integers"),
        ({"set": [[]]}, "unhashable type"),
        ({"dict": [[1, 2], [True, 3]]}, "a key occurs twice"),
        (
            {"RandomState": [{"array": ["t0", None]}, 0, 0, 0.0]},
            "must have 624 numbers of MT19937",
        ),
        ({"device": "mars"}, "invalid content of 'device'"),
        ({"Counter": [[[], 1]]}, "unhashable type"),
        ({"deque": [[], -1]}, "maxlen must be non-negative"),
        ({"tuple": 1, "set": 2}, "one tag"),
        ({}, "one tag"),
        (10**400, None),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else None,
)
def test_values_that_are_none(tree, text, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    change(path, lambda model: set_part(model, "tol", tree))
    if text is None:
        assert load(path).tol == tree
        return
    with pytest.raises(ValueError, match="cannot be loaded: ") as raised:
        load(path)
    assert text in str(raised.value)
    assert "model.tol" in str(raised.value)


def set_part(model, name, tree):
    part_of(model, name)[1] = tree
    return model


@pytest.mark.parametrize(
    "name",
    ["fit", "transform", "__class__", "__dict__", "__reduce__", "__init__", "_n_features_out",
     "set_params", "a.b", "", "_gaussian\n", "é b", "note", "_check_parameters", "_parameter_constraints"],
)  # fmt: skip
def test_names_that_no_attribute_can_have(name, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)

    def rename(model):
        part_of(model, "singular_values_")[0] = name
        return model

    change(path, rename)
    if name == "_parameter_constraints":  # nothing of the class, and nothing that is called
        assert_same(load(path)._parameter_constraints, fitted("ppca").singular_values_)
        return
    with pytest.raises(ValueError, match=r"PPCA of this version .* cannot have an attribute"):
        load(path)


@pytest.mark.parametrize(
    ("name", "tree", "text"),
    [
        ("mean_", {"array": ["t1", None]}, "mean_ must be an array of shape"),
        ("mean_", 1.0, "mean_ must be an array of shape"),
        ("components_", {"object": ["PPCA", []]}, "components_ must be an array of shape"),
        ("n_components_", 10**9, "must be an array of shape (1000000000,"),
        ("n_features_in_", "4", "must be an integer >= 0"),
        ("n_features_in_", -1, "must be an integer >= 0"),
    ],
)
def test_attributes_that_do_not_fit_together(name, tree, text, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    change(path, lambda model: set_part(model, name, tree))
    with pytest.raises(ValueError, match="cannot be loaded") as raised:
        load(path)
    assert text in str(raised.value)


METHODS = ["transform", "score_samples", "posterior", "sample", "inverse_transform", "conditional",
           "get_feature_names_out"]  # fmt: skip


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(
    "name",
    ["ppca", "linear", "bernoulli", "imputer", "dequantizer", "logit", "deep-gaussian",
     *exhaustive("ppca-without-noise", "ppcacv", "pipeline-scaled", "deep-gaussian-heteroscedastic",
                 "deep-bernoulli", "deep-autoencoder")],
)  # fmt: skip
def test_what_is_missing_is_missed_when_a_file_is_loaded(name, tmp_path):
    path = tmp_path / "model"
    save(fitted(name), path)
    whole, X = path.read_bytes(), np.asarray(CASES[name][1])[:9]
    expected = {method: kind_of(fitted(name), method, X) for method in METHODS}
    n_refused = 0
    for i, place in enumerate(attributes_of(unpacked_model(whole))):
        # Each attribute is left out, and replaced by every other of the values.
        for new in (None, *([None], ["x"], [-1.0], [{"float": "nan"}])[i % 2 :: 2]):
            model = unpacked_model(whole)
            found, at = attributes_of(model)[i]
            found[at : at + 1] = [] if new is None else [[found[at][0], *new]]
            found = outcome(path, changed(whole, lambda _, model=model: model))
            attribute = place[0][place[1]][0]
            n_refused += isinstance(found, str)
            # A pipeline is as fitted as its steps; of others nothing may be left.
            if isinstance(found, str) or (name != "pipeline-scaled" and not is_fitted(found)):
                continue
            if (attribute, new) != ("indicator_", [None]):  # which may be None
                for method in METHODS:
                    assert kind_of(found, method, X) == expected[method], (attribute, new, method)
    assert n_refused


@pytest.mark.some(24, "slow")
@pytest.mark.parametrize("name", CASES)
def test_a_fitted_model_has_what_its_class_says(name):
    model = fitted(name)
    expected = type(model)._fitted_state
    missing = {attribute for attribute, kind in expected.items() if "optional" not in kind}
    assert missing <= set(vars(model))
    assert expected or isinstance(model, DensityPipeline)


def unpacked_model(data):
    return json.loads(unpacked(data)[0]["__metadata__"]["tree"])


def attributes_of(tree):
    """Places of attributes that a fit has set, of an estimator and those in it."""
    if isinstance(tree, dict):
        kind, state = tree.get("object", [None, []])
        own = [
            (state, i)
            for i, (name, _) in enumerate(state)
            if kind in {*ESTIMATORS, *SCALERS} and "_" in (name[0], name[-1])
        ]
        own = [(state, i) for state, i in own if state[i][0] != "feature_names_in_"]
        return own + [place for part in tree.values() for place in attributes_of(part)]
    if isinstance(tree, list):
        return [place for part in tree for place in attributes_of(part)]
    return []


def kind_of(model, method, X):
    """What a method does: nothing, an error that is meant, or numbers, finite or not."""
    if not hasattr(model, method):
        return None
    k = getattr(model, "n_components_", X.shape[1])
    args = {"sample": (3,), "get_feature_names_out": ()}.get(method, (X,))
    args = (np.zeros((2, k)),) if method in ("inverse_transform", "conditional") else args
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            found = getattr(model, method)(*args)
    except ValueError as error:
        return str(error)[:30]
    found = np.asarray(found[0] if isinstance(found, tuple) else found)
    return found.dtype.kind, found.shape, found.dtype.kind != "f" or bool(np.isfinite(found).all())


def test_a_gaussian_of_something_else(tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    whole = path.read_bytes()
    for i, new in enumerate([{"array": ["other", None]}, None, 7.0]):

        def contradict(model, i=i, new=new):
            part_of(model, "_gaussian")[1]["object"][1][i][1] = new
            return model

        change(path, contradict)
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(path)
        path.write_bytes(whole)
    change(path, lambda model: set_part(model, "noise_variance_", 0.0))
    with pytest.raises(ValueError, match="_gaussian must be the Gaussian of mean_, loadings_ and"):
        load(path)


@pytest.mark.parametrize(
    ("name", "new"),
    [("components", None), ("eigenvalues", 1.0), ("mean", {"array": ["other", None]}),
     ("resolution", "0"), ("rest", -1.0), ("rounded", None)],
)  # fmt: skip
def test_a_spectrum_of_something_else(name, new, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)

    def contradict(model):
        state = dict(map(tuple, part_of(model, "_spectrum")[1]["object"][1]))
        assert name in state
        part_of(model, "_spectrum")[1]["object"][1][list(state).index(name)][1] = new
        return model

    change(path, contradict)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(path)
    change(path, lambda model: set_part(model, "_spectrum", {"dict": []}))
    with pytest.raises(ValueError, match="_spectrum must be a spectrum with the components of"):
        load(path)


@pytest.mark.parametrize(
    "requests",
    [1, None, {"dict": [["score", 1]]}, {"dict": [["fly", {"dict": []}]]},
     {"dict": [["score", {"dict": [["wings", True]]}]]},
     {"dict": [["score", {"dict": [["sample_weight", "not a name"]]}]]},
     {"dict": [["score", {"dict": [[1, True]]}]]}, {"dict": [[1, {"dict": []}]]}],
)  # fmt: skip
def test_requests_that_are_none(requests, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)

    def add(model):
        model["object"][1].append(["_metadata_request", requests])
        return model

    change(path, add)
    with pytest.raises(ValueError, match="_metadata_request"):
        load(path)


def test_scalers_are_steps_only(tmp_path):
    with pytest.raises(TypeError, match="estimator must be an instance of"):
        save(StandardScaler(), tmp_path / "model")
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    for tree, text in [
        ({"object": ["StandardScaler", []]}, "does not hold an estimator"),
        ({"object": ["Moments", [["n", 1.0], ["mean", 1.0], ["scatter", 1.0]]]}, None),
        ({"object": ["Binarizer", []]}, "does not load the class 'Binarizer'"),
        ([], "does not hold an estimator"),
    ]:
        change(path, lambda _, tree=tree: tree)
        with pytest.raises(ValueError, match=text):
            load(path)
        save(fitted("ppca"), path)


def test_booleans_that_are_none(tmp_path):
    path = tmp_path / "model"
    save(fitted("imputer"), path)
    header, payload = unpacked(path.read_bytes())
    at = next(v for v in header.values() if v.get("dtype") == "BOOL")["data_offsets"][0]
    path.write_bytes(packed(header, payload[:at] + b"\x02" + payload[at + 1 :]))
    with pytest.raises(ValueError, match="booleans contains values other than 0 and 1"):
        load(path)


def test_an_optimizer_of_other_networks(tmp_path):
    path = tmp_path / "model"
    save(fitted("deep-gaussian"), path)
    whole = path.read_bytes()

    def averages(model):
        net = dict(part_of(model, "net_")[1]["dict"])
        state = dict(dict(net["optimizer"]["dict"])["state"]["dict"])
        return state[0]["dict"], state[1]["dict"], model

    def other_shape(model):
        first, second, model = averages(model)
        first[-1][1] = second[-1][1]
        return model

    def no_number(model):
        first, _, model = averages(model)
        first[-1][1] = 1.0
        return model

    for change_state in (other_shape, no_number):
        path.write_bytes(changed(whole, change_state))
        with pytest.raises(ValueError, match="of another shape or type than parameter 0"):
            load(path)
    header, payload = unpacked(whole)
    tensor = header[averages(unpacked_model(whole))[0][-1][1]["tensor"][0]["array"][0]]
    tensor["dtype"] = tensor["dtype"].replace("F", "I")
    path.write_bytes(packed(header, payload))
    with pytest.raises(ValueError, match="of another shape or type than parameter 0"):
        load(path)


@pytest.mark.parametrize(
    ("name", "tree", "text"),
    [
        ("seed", -1, "seed must be an integer"),
        ("operations", 0, "operations must be a number > 0"),
        ("beta", None, "beta must be a finite number"),
        ("history", [1], "history must be a list of dicts"),
        ("generator", ["cpu", 1], "generator must be"),
        ("last_states", [{"tuple": [1, 2]}], "module must be a dict"),
        ("optimizer", {"dict": []}, "optimizer must have"),
        ("module", {"dict": []}, "must contain the tensors of its module"),
        ("other", 1, "the state of a net must have"),
    ],
)
def test_a_state_that_no_net_has(name, tree, text, tmp_path):
    path = tmp_path / "model"
    save(fitted("deep-gaussian"), path)

    def set_in_net(model):
        state = part_of(model, "net_")[1]["dict"]
        state[:] = [pair for pair in state if pair[0] != name] + [[name, tree]]
        return model

    change(path, set_in_net)
    with pytest.raises(ValueError, match="cannot be loaded") as raised:
        load(path)
    assert text in str(raised.value)


@pytest.mark.parametrize("levels", [{"float": "inf"}, {"float": "nan"}, -1, 10**9, "256", None])
def test_levels_for_which_noise_would_have_no_end(levels, tmp_path):
    path = tmp_path / "model"
    save(fitted("dequantizer"), path)
    change(path, lambda model: set_part(model, "n_levels", levels))
    with pytest.raises(ValueError, match="n_levels must be"):
        load(path)


def test_a_position_of_random_numbers_that_is_out_of_bounds(tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca-random"), path)

    def move(model):
        part_of(model, "random_state")[1]["RandomState"][1] = 10**6
        return model

    change(path, move)
    with pytest.raises(ValueError, match="a position among them"):
        load(path)


@pytest.mark.some(12, "slow")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_components": 10**9}, "n_components must equal n_components_=2, got 1000000000"),
        ({"n_components": 10**9, "n_components_": 10**9}, "must be an array of shape (1000000000,)"),
        ({"hidden_layer_sizes": [10**9, 10**9]}, "module['decoder.layers.2.bias'] is missing"),
        ({"hidden_layer_sizes": [10**9]}, "must have shape"),
        ({"hidden_layer_sizes": [2**62]}, "calculation overflowed"),
        ({"hidden_layer_sizes": [1] * 10**4}, "layers, but the module has"),
        ({"activation": "os.system"}, "activation must be one of"),
        ({"encoder": "os.system"}, "encoder must be 'mlp'"),
        ({"encoder": {"object": ["PlainConvEncoder", [
            ["convolutions_per_scale", 10**9], ["channels", None], ["activation", "relu"],
            ["image_shape", [1, 2, 2]]]]}}, "layers, but the module has"),
        ({"encoder": {"object": ["ConvEncoder", [
            ["channels", [10**9]], ["dense", 10**9], ["activation", "relu"],
            ["image_shape", [1, 2, 2]]]]}}, "module["),
        ({"decoder": {"object": ["SoftThresholdDecoder", [["threshold", 1.0]]]}}, "module["),
        ({"variational_family": "sylvester"}, "module["),
        ({"prior": "learned_variance"}, "is missing"),
        ({"noise_model": "heteroscedastic"}, "module["),
        ({"image_shape": [1, 10**9, 10**9]}, "values, but X has"),
        ({"hidden_layer_sizes": {"range": [1, 2**62, 1]}}, "more than 65536 integers"),
        ({"hidden_layer_sizes": {"range": [1, 2**16, 1]}}, "layers, but the module has"),
        ({"scale_": {"range": [1, 2**36, 1]}}, "more than 65536 integers"),
        ({"scale_": {"range": [1, 5, 1]}}, "scale_ must be a float > 0 or an array of shape (4,)"),
        ({"scale_": [1.0, 1.0, 1.0, 1.0]}, "scale_ must be a float > 0 or an array of shape (4,)"),
        ({"scale_": {"array": ["none", None]}}, "not in the file"),
        ({"noise_variance_": {"range": [1, 5, 1]}}, "noise_variance_ must be a float > 0"),
        ({"noise_variance_": None}, "noise_variance_ must be a float > 0"),
        ({"noise_variance_": -1.0}, "noise_variance_ must be a float > 0"),
        ({"noise_variance_": {"float": "inf"}}, "noise_variance_ must be a float > 0"),
    ],
)  # fmt: skip
def test_networks_that_a_file_does_not_have(changes, text, tmp_path, traced):
    path = tmp_path / "model"
    save(fitted("deep-gaussian"), path)

    def claim(model):
        of_fit = part_of(model, "_networks_of_fit")[1]["dict"]
        for name, tree in changes.items():
            part_of(model, name)[1] = tree
            for pair in of_fit:
                pair[1] = tree if pair[0] == name else pair[1]
        return model

    change(path, claim)
    found = outcome(path, path.read_bytes())
    assert isinstance(found, str)
    assert text in found


def test_a_net_where_none_can_be(tmp_path):
    ppca, deep = tmp_path / "ppca", tmp_path / "deep"
    save(fitted("ppca"), ppca)
    save(fitted("deep-gaussian"), deep)
    for path, name, tree, text in [
        (deep, "net_", 1, "net_ must contain the tensors"),
        (deep, "net_", {"dict": [["module", 1]]}, "net_ must contain the tensors"),
        (deep, "net_", {"object": ["PPCA", []]}, "net_ must contain the tensors"),
        (deep, "_networks_of_fit", 1, "_networks_of_fit must be a dict of parameters among"),
        (ppca, "_gaussian", {"dict": [["module", 1]]}, "_gaussian must be the Gaussian"),
    ]:
        before = path.read_bytes()
        change(path, lambda model, name=name, tree=tree: set_part(model, name, tree))
        with pytest.raises(ValueError, match=text):
            load(path)
        path.write_bytes(before)


def test_one_tensor_in_the_place_of_many(tmp_path, traced):
    # Each snapshot would copy the networks of one: a short list of a great deal.
    path = tmp_path / "model"
    model = model_of("deep-gaussian").set_params(hidden_layer_sizes=(200,), max_epochs=1)
    save(model.fit(np.random.default_rng(0).normal(size=(9, 200))), path)

    def multiply(tree):
        tree["object"][1].append(
            ["snapshots_", {"dict": [[i, json.loads(json.dumps(tree))] for i in range(30)]}]
        )
        return tree

    change(path, multiply)
    assert "far more memory" in outcome(path, path.read_bytes())


@pytest.mark.parametrize("has_limit", [False, True])
def test_files_that_are_larger_than_memory(has_limit, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    text = "safetensors cannot read it"
    if has_limit:
        text = f"its {2**38} bytes do not fit into memory"
    header, payload = unpacked(path.read_bytes())
    for data in (b"", packed(header, payload), packed({}, b"")):
        with path.open("wb") as file:
            file.write(data)
            file.truncate(2**38)  # of which nothing is on the disk
        start = time.thread_time()
        with limited() if has_limit else nullcontext(), pytest.raises(ValueError, match=text):
            load(path)
        assert time.thread_time() - start < SECONDS


def test_a_file_that_is_written_to_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "model"
    save(fitted("deep-gaussian-conv"), path)  # larger than what is read ahead
    check = container._check_metadata

    def change_meanwhile(*args):
        path.write_bytes(path.read_bytes()[:-8])
        return check(*args)

    monkeypatch.setattr(container, "_check_metadata", change_meanwhile)
    with pytest.raises(ValueError, match="checksum is wrong"):
        load(path)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        # The key would stand in the path of every number.
        ({"dict": [["x" * 2_000_000, [0] * 200_000]]}, None),
        # All of one hash, so that each is compared with all others.
        ({"set": [(2**61 - 1) * i for i in range(60_000)]}, "keys have the same hash"),
        ({"dict": [[(2.0**61 - 1) * 2.0**i, i] for i in range(900)]}, None),
        *exhaustive(
            ({"dict": [[(2**61 - 1) * i, 0] for i in range(60_000)]}, "have the same hash")
        ),
        ({"set": [{"tuple": [(2**61 - 1) * i]} for i in range(20_000)]}, "keys have the same hash"),
        ({"set": [{"tuple": [-1 - i // 2**j % 2 for j in range(5)]} for i in range(32)]}, None),
    ],
    ids=["path", "set", "floats", "dict", "tuples", "few"],
)
def test_what_would_take_long(tree, text, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    change(path, lambda model: set_part(model, "tol", tree))
    found = outcome(path, path.read_bytes())
    assert isinstance(found, PPCA) if text is None else text in found


def test_a_name_of_an_attribute_that_would_take_long(tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)

    def add(model):
        model["object"][1].append(["x" * 2_000_000 + "_", [0] * 200_000])
        return model

    change(path, add)
    assert isinstance(outcome(path, path.read_bytes()), PPCA)


@pytest.mark.some(4)
@pytest.mark.parametrize("part", ["[]", "{}", '{"":0}', "[0]"])
@pytest.mark.parametrize("times", [20_000, 300_000, *exhaustive(1_000_000)])
def test_lists_that_are_small_in_a_file_and_large_in_memory(part, times, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    whole = path.read_bytes()
    header, payload = unpacked(whole)
    many = "[" + ",".join([part] * times) + "]"
    model = header["__metadata__"]["tree"].replace("null", many, 1)
    other = packed({**header, "__metadata__": {**header["__metadata__"], "tree": model}}, payload)
    text = json.dumps(header, separators=(",", ":"))[:-1] + f',"z":{many}}}'
    tracemalloc.start()
    try:
        found = outcome(path, other)
        assert isinstance(found, PPCA | str)
        assert times < 300_000 or "far more lists than" in found
        # Refused before safetensors, which would end the process where memory is short.
        refused = "the header has far more lists" if times >= 300_000 else "cannot read it"
        assert refused in outcome(path, packed(text.encode(), payload))
    finally:
        tracemalloc.stop()


def test_trees_that_are_too_deep(tmp_path):
    path = tmp_path / "model"
    for depth in (60, 10**5):
        save(PPCA(), path)
        header, payload = unpacked(path.read_bytes())
        model = header["__metadata__"]["tree"]
        header["__metadata__"]["tree"] = model.replace("null", "[" * depth + "]" * depth, 1)
        path.write_bytes(packed(header, payload))
        with pytest.raises(ValueError, match="nested too deeply"):
            load(path)
        nested = b'{"__metadata__":' + b"[" * depth + b"]" * depth + b"}"
        path.write_bytes(packed(nested, b""))
        with pytest.raises(ValueError, match="safetensors cannot read it"):
            load(path)


TENSOR = {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda d, h, p: b"", "safetensors cannot read it"),
        (lambda d, h, p: d[:5], "safetensors cannot read it"),
        (lambda d, h, p: d[:100], "safetensors cannot read it"),
        (lambda d, h, p: d[:-1], "truncated"),
        (lambda d, h, p: d + b"x", "safetensors cannot read it"),
        (lambda d, h, p: (2**63).to_bytes(8, "little") + d[8:], "safetensors cannot read it"),
        (lambda d, h, p: (99_999_999).to_bytes(8, "little") + d[8:], "safetensors cannot read it"),
        (lambda d, h, p: b"\x80\x04K\x01." + bytes(99), "safetensors cannot read it"),
        (lambda d, h, p: d.replace(b'"t0"', b'"t1"', 1), "safetensors cannot read it"),
        (lambda d, h, p: d.replace(b'"t0"', b'"\xff0"', 1), "safetensors cannot read it"),
        (lambda d, h, p: packed(b"[]", p), "safetensors cannot read it"),
        (lambda d, h, p: packed(b'{"a":NaN}', p), "safetensors cannot read it"),
        (lambda d, h, p: packed({}, b""), "not a file of sklearn_vae"),
        (lambda d, h, p: packed({"x": TENSOR}, bytes(16)), "not a file of sklearn_vae"),
        (lambda d, h, p: packed({**h, "x": {}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "dtype": "BF16"}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "dtype": []}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [-2]}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [2.0]}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [True] * 2}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [1] * 33}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [2**32] * 2}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [0, 2**61]}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "shape": [3]}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": {**TENSOR, "data_offsets": [16, 0]}}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed({**h, "x": TENSOR}, p), "safetensors cannot read it"),
        (lambda d, h, p: packed(h, p + bytes(8)), "safetensors cannot read it"),
        (lambda d, h, p: d[:-1] + bytes([d[-1] ^ 1]), "checksum is wrong"),
        (lambda d, h, p: d.replace(b'"checksum"', b'"checksux"'), "checksum is wrong"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(make, text, tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    whole = path.read_bytes()
    path.write_bytes(make(whole, *unpacked(whole)))
    with pytest.raises(ValueError, match="model' cannot be loaded: ") as raised:
        load(path)
    assert text in str(raised.value)


def test_metadata_are_covered_by_the_checksum(tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    metadata = whole.index(b"__metadata__"), whole.index(b"}", whole.index(b'"tree":'))
    for at in range(metadata[0], min(end, metadata[1]), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(path)
