"""Deep models of large memory-mapped files: trained in blocks, to the model of the same samples."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_vae import DeepAutoencoder, DeepBernoulliVAE, DeepGaussianVAE, validation
from sklearn_vae.deep import linear_fits, training_data
from sklearn_vae.deep.linear_fits import fit_ppca, mean_squares, ppca_residuals
from sklearn_vae.stored_rows import StoredRows
from sklearn_vae.training import stored_samples
from sklearn_vae.training.batches import Batches
from sklearn_vae.training.distributed import SINGLE_PROCESS
from sklearn_vae.training.stored_samples import StoredSamples
from tests.deep.data import parameters_of

rng = np.random.default_rng(0)
Z = rng.normal(size=(230, 2))
CURVED = np.tanh(Z @ rng.normal(size=(2, 6))) + 0.2 * rng.normal(size=(230, 6))
PIXELS = (rng.random((230, 6)) < 0.5 + 0.4 * np.sign(Z[:, :1])).astype(np.uint8) * 200
SHORT = {"hidden_layer_sizes": (8,), "max_epochs": 3, "random_state": 0}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Return a function that maps an array to a file, which is not read into memory."""
    monkeypatch.setattr(validation, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(stored_samples, "BLOCK_ENTRIES", 300)

    def store(X):
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")

    return store


@pytest.fixture
def order_of_memory(monkeypatch):
    """Take the samples of files in the order of those in memory."""

    def order(self, sizes, generator):
        numbers = torch.randperm(len(self), generator=generator)
        for size in sizes:
            yield numbers[:size]
            numbers = numbers[size:]

    monkeypatch.setattr(StoredSamples, "order", order)


def samples_of(X, **options):
    return StoredSamples(StoredRows(X), 0.5, 2.0, torch.device("cpu"), torch.float64, **options)


class TestOrder:
    def chunks(self, n=230, sizes=(100, 60, 70), seed=0):
        generator = torch.Generator().manual_seed(seed)
        return list(samples_of(np.zeros((n, 6))).order(sizes, generator))

    def test_each_sample_is_drawn_once(self, monkeypatch):
        for run, window in ((48, 48), (7 * 48, 30 * 48), (2**18, 2**26)):
            monkeypatch.setattr(stored_samples, "RUN_BYTES", run)
            monkeypatch.setattr(stored_samples, "WINDOW_BYTES", window)
            chunks = self.chunks()
            assert [len(chunk) for chunk in chunks] == [100, 60, 70]
            assert torch.equal(torch.cat(chunks).sort().values, torch.arange(230))

    def test_a_chunk_has_rows_of_few_windows_but_many_places(self, monkeypatch):
        monkeypatch.setattr(stored_samples, "RUN_BYTES", 5 * 48)
        monkeypatch.setattr(stored_samples, "WINDOW_BYTES", 100 * 48)
        (first, *_) = self.chunks(n=2000, sizes=(100, 1900))
        runs = np.unique(first // 5)
        assert len(runs) == 20  # whole runs: the file is read a window at a time
        assert (np.diff(np.sort(runs)) > 1).sum() > 10  # from all over the file
        assert (np.diff(first) != 1).sum() > 80  # and mixed

    def test_seed(self):
        same, again, other = self.chunks(), self.chunks(), self.chunks(seed=1)
        assert torch.equal(same[0], again[0])
        assert not torch.equal(same[0], other[0])


def test_batches_are_those_of_the_tensor():
    X = rng.normal(size=(50, 3))
    weights = torch.arange(50.0)
    batches = Batches(samples_of(X), 7, (2, 1), torch.Generator(), weights)
    batches.at_once = 2
    seen = []
    for chunk in batches:
        for x, noise, w in chunk:
            rows = w.long().numpy()
            np.testing.assert_array_equal(x, (X[rows] - 0.5) / 2.0)
            assert noise.shape == (2, len(x), 1)
            seen += rows.tolist()
    assert sorted(seen) == list(range(50))


MODELS = {
    "VAE": DeepGaussianVAE(2, init=None, noise_variance=0.1, **SHORT),
    "autoencoder": DeepAutoencoder(2, init=None, **SHORT),
    "early stopping": DeepGaussianVAE(
        2, init=None, noise_variance=0.1, early_stopping=True, **SHORT
    ),
    "diagonal noise": DeepGaussianVAE(
        2, init=None, noise_model="diagonal", noise_variance_init=0.1, **SHORT
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_same_model_as_in_memory(name, weighted, stored, order_of_memory, monkeypatch):
    if name == "early stopping":  # the training samples of files stay in their order
        split = training_data._split
        monkeypatch.setattr(
            training_data, "_split", lambda *args: tuple(map(np.sort, split(*args)))
        )
    w = np.arange(230.0) % 3 if weighted else None
    model, X = clone(MODELS[name]), stored(CURVED)
    in_memory, in_file = (clone(model).fit(x, sample_weight=w) for x in (CURVED, X))
    assert isinstance(in_file._check_samples(X, reset=False), StoredRows)
    np.testing.assert_array_equal(in_file.mean_, in_memory.mean_)
    np.testing.assert_array_equal(parameters_of(in_file), parameters_of(in_memory))
    np.testing.assert_array_equal(in_file.score_samples(X), in_memory.score_samples(CURVED))
    np.testing.assert_array_equal(in_file.transform(X), in_memory.transform(CURVED))


@pytest.mark.parametrize("weighted", [False, True])
def test_ppca_is_that_of_the_samples(weighted, monkeypatch):
    monkeypatch.setattr(stored_samples, "BLOCK_ENTRIES", 300)
    w = 1.0 + np.arange(230.0) % 3 if weighted else None
    w = w / w.mean() if weighted else None
    samples, weights = samples_of(CURVED, weights=w), None if w is None else torch.from_numpy(w)
    tensor = samples[:]
    for units in (None, np.arange(1.0, 7.0)):
        expected = fit_ppca(tensor, 2, SINGLE_PROCESS, weights, units=units)
        for part in (samples, samples.divided_by(np.ones(6))):  # its moments are known
            found = fit_ppca(part, 2, SINGLE_PROCESS, weights, units=units)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12)
    squares = [mean_squares(x, weights) for x in (samples, tensor)]
    np.testing.assert_allclose(*squares, rtol=1e-10)
    residuals = [ppca_residuals(x, 2, SINGLE_PROCESS, weights) for x in (samples, tensor)]
    np.testing.assert_allclose(*residuals, rtol=1e-10)


@pytest.mark.parametrize(
    "model",
    [
        DeepGaussianVAE(2, init="ppca", **SHORT),
        DeepGaussianVAE(2, init="ppca", noise_model="diagonal", noise_variance=0.1, **SHORT),
        DeepGaussianVAE(2, init=None, noise_model="diagonal", **SHORT),
        DeepGaussianVAE(2, **{**SHORT, "max_epochs": "auto"}),
        DeepGaussianVAE(2, noise_model="diagonal", **{**SHORT, "max_epochs": "auto"}),
        DeepAutoencoder(2, init="pca", **{**SHORT, "max_epochs": 22}),
        DeepGaussianVAE(2, init="ppca", **{**SHORT, "max_epochs": 22}),
    ],
    ids=lambda m: f"{type(m).__name__}-{m.init}-{m.max_epochs}-{getattr(m, 'noise_model', '')}",
)
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_starts_and_searches(model, weighted, stored, order_of_memory, monkeypatch):
    monkeypatch.setattr("sklearn_vae.deep.choices.TOTAL_EPOCHS", 12)
    X = np.column_stack([CURVED, np.full(230, 3.0)])
    w = 1.0 + np.arange(230.0) % 3 if weighted else None
    in_memory, in_file = (clone(model).fit(x, sample_weight=w) for x in (X, stored(X)))
    assert in_file.n_iter_ == in_memory.n_iter_
    # Near the maximum, steps of Adam enlarge rounding errors of the start.
    np.testing.assert_allclose(in_file.score(X), in_memory.score(X), rtol=1e-4)


@pytest.mark.parametrize("init", [None, "ppca"])
def test_bytes_and_thresholds(init, stored, order_of_memory):
    model = DeepBernoulliVAE(2, binarize=100, init=init, **SHORT)
    in_memory, in_file = clone(model).fit(PIXELS), clone(model).fit(stored(PIXELS))
    np.testing.assert_array_equal(parameters_of(in_file), parameters_of(in_memory))
    np.testing.assert_array_equal(
        in_file.score_samples(stored(PIXELS)), in_memory.score_samples(PIXELS)
    )
    with pytest.raises(ValueError, match=r"in \[0, 1\].* got 200.0 in row"):
        clone(model).set_params(binarize=None).fit(stored(PIXELS))


def test_many_features_are_not_multiplied(stored, monkeypatch):
    monkeypatch.setattr(linear_fits, "MOST_FEATURES", 3)
    monkeypatch.setattr(StoredSamples, "moments", property(lambda self: pytest.fail("moments")))
    for noise in ("scalar", "diagonal"):
        model = DeepGaussianVAE(2, init="ppca", noise_model=noise, **SHORT)
        in_file, in_memory = (clone(model).fit(X) for X in (stored(CURVED), CURVED))
        np.testing.assert_allclose(in_file.elbo_, in_memory.elbo_, rtol=0.02)


def test_held_out_samples_are_limited(stored, monkeypatch):
    monkeypatch.setattr(training_data, "SAMPLES_HELD_OUT", 11)
    held_out = SimpleNamespace(sizes=[])
    split = training_data._split

    def watched(*args):
        parts = split(*args)
        held_out.sizes.append(len(parts[1]))
        return parts

    monkeypatch.setattr(training_data, "_split", watched)
    model = DeepGaussianVAE(2, early_stopping=True, validation_fraction=0.5, **SHORT)
    clone(model).fit(stored(CURVED))
    clone(model).fit(CURVED)
    assert held_out.sizes == [11, 115]


def test_missing_values_are_read_into_memory(stored):
    X = CURVED.copy()
    X[3, 2] = np.nan
    model = DeepGaussianVAE(2, init=None, noise_variance=0.1, **SHORT)
    in_memory, in_file = clone(model).fit(X), clone(model).fit(stored(X))
    np.testing.assert_array_equal(parameters_of(in_file), parameters_of(in_memory))
    with pytest.raises(ValueError, match="infinity"):
        clone(model).fit(stored(np.where(np.isnan(X), np.inf, X)))


def test_an_error_while_reading_is_raised(stored, monkeypatch):
    model = DeepGaussianVAE(2, init=None, noise_variance=0.1, **SHORT)

    def fail(self, chosen):
        raise OSError("the disk is gone")

    X = stored(CURVED)
    monkeypatch.setattr(StoredSamples, "_read", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(X)


def test_checkpoint_of_a_file(stored, tmp_path):
    X = stored(CURVED)
    model = DeepGaussianVAE(2, init=None, checkpoint=tmp_path / "checkpoints", **SHORT)
    first = clone(model).fit(X)
    again = clone(model).fit(X)
    np.testing.assert_array_equal(parameters_of(again), parameters_of(first))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_small_files_are_read_into_memory(tmp_path):
    np.save(tmp_path / "X.npy", CURVED)
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = DeepGaussianVAE(2, init=None, **SHORT)
    np.testing.assert_array_equal(
        parameters_of(clone(model).fit(X)), parameters_of(clone(model).fit(CURVED))
    )


MEMORY = """
import sys, threading
import numpy as np
from sklearn.base import clone
from sklearn_vae import DeepAutoencoder, DeepGaussianVAE, validation
from sklearn_vae.deep import evaluation, fit_averages, linear_fits, vae
from sklearn_vae.training import stored_samples

validation.LARGEST_IN_MEMORY //= 16
stored_samples.WINDOW_BYTES //= 16
stored_samples.BLOCK_ENTRIES //= 16
evaluation.NUMBERS_PER_BLOCK //= 16
fit_averages.N_OPERATIONS = vae.N_OPERATIONS = 1e9
linear_fits.BLOCK_ENTRIES //= 16

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

def peak_of(work):
    peak, stop = [anonymous()], threading.Event()

    def watch():
        while not stop.wait(0.01):
            peak.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    stop.set()
    watcher.join()
    return max(peak) - peak[0]

model = DeepGaussianVAE(4, hidden_layer_sizes=(16,), batch_size=1024, max_epochs=1, init="ppca")
diagonal = clone(model).set_params(noise_model="diagonal")
other = DeepAutoencoder(4, hidden_layer_sizes=(16,), batch_size=1024, max_epochs=1)
few = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
model.fit(few), other.fit(few)
X = np.load(sys.argv[1], mmap_mode="r")
print(peak_of(lambda: (model.fit(X).score(X), other.fit(X).score(X))))
X = np.array(X)
print(peak_of(lambda: (model.fit(X), diagonal.fit(X))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_anonymous_memory(tmp_path):
    # Blocks are small, as the file is, and draws are few.
    X = np.lib.format.open_memmap(
        tmp_path / "X.npy", mode="w+", dtype=np.float32, shape=(2**16, 400)
    )
    X[:] = np.tile(rng.normal(size=(2**11, 400)), (32, 1))
    X.flush()
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "X.npy")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    of_file, in_memory = map(float, result.stdout.split())
    assert of_file < 0.6 * X.nbytes / 2**20
    assert in_memory < 1.6 * X.nbytes / 2**20  # of which 1 are the samples, centered and scaled
