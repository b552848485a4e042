"""Processes that are killed, at any moment and in the middle of a write."""

import multiprocessing
import os
import pickle
import signal
import time
import warnings
from importlib import import_module

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import DeepGaussianVAE, LinearVAE
from tests.helpers import exhaustive
from tests.serialization.checkpointed_models import SMALL, X, rows_of, same

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")

# Each writes again and again.
LONG = [
    DeepGaussianVAE(
        3, **{**SMALL, "max_epochs": 60, "checkpoint_every": 1}, noise_model="diagonal"
    ),
    LinearVAE(2, solver="adam", max_iter=3000, tol=0.0, checkpoint_every=50, random_state=0),
]


@pytest.fixture(scope="module")
def processes():
    """Forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.serialization.warm"])
    process = context.Process(target=os.getpid)  # imports
    process.start()
    process.join()
    return context


def fit(model, path, begun):
    """And leave the model in a file."""
    begun.set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model.fit(rows_of(model))
    path.with_suffix(".part").write_bytes(pickle.dumps(found))
    os.replace(path.with_suffix(".part"), path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has not converged")
@pytest.mark.parametrize("model", LONG, ids=lambda model: type(model).__name__)
def test_kills_at_random_moments_do_not_show(model, processes, tmp_path):
    whole = clone(model).set_params(checkpoint=tmp_path / "other")
    import_module("tests.serialization.warm")
    start = time.perf_counter()
    expected = whole.fit(rows_of(model))
    seconds = time.perf_counter() - start
    model = clone(model).set_params(checkpoint=tmp_path / "files")
    rng = np.random.default_rng(0)
    result, n_files, n_killed = tmp_path / "model", [], 0
    while n_killed < 10:
        begun = processes.Event()
        process = processes.Process(target=fit, args=(clone(model), result, begun))
        process.start()
        assert begun.wait(60)
        # Ten such times are more than a fit takes.
        process.join(rng.uniform(0.0, 0.3) * seconds)
        n_killed += process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        n_files.append(len(list((tmp_path / "files").glob("*"))))
        if result.exists():  # and once more from the beginning
            assert same(pickle.loads(result.read_bytes()), expected)
            result.unlink()
            for file in (tmp_path / "files").iterdir():
                file.unlink()
    assert same(clone(model).fit(rows_of(model)), expected)
    assert sum(n_files) >= 5


def fit_and_stop_in(model, name, writing):
    """Stop for good within a function of os, in the second write."""
    n_calls, function = [], getattr(os, name)

    def stop(*arguments):
        n_calls.append(0)
        if len(n_calls) == 2:
            writing.set()
            time.sleep(600)
        return function(*arguments)

    setattr(os, name, stop)
    model.fit(X)


@pytest.mark.parametrize("name", ["replace", *exhaustive("fsync")])
def test_a_kill_within_a_write_leaves_the_file_before(name, processes, tmp_path):
    model = DeepGaussianVAE(3, **SMALL)
    expected = clone(model).fit(X)
    model.set_params(checkpoint=tmp_path)
    writing = processes.Event()
    process = processes.Process(target=fit_and_stop_in, args=(clone(model), name, writing))
    process.start()
    assert writing.wait(60)
    process.kill()
    process.join()
    left = sorted(path.suffix for path in tmp_path.iterdir())
    assert left == [".safetensors", ".tmp"]
    assert same(clone(model).fit(X), expected)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
