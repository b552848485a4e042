"""Fits and searches on worker processes of a Dask cluster, one of which is killed."""

import os
import signal

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklearn_vae import PPCA, PPCACV, DeepGaussianVAE, LinearVAE
from tests.deep.data import make_rows as make_curved_rows
from tests.linear.data import make_rows
from tests.stored_blocks import load

pytestmark = pytest.mark.slow

X = make_rows(1200, 9, offset=3.0)
N_BLOCKS = 12
SECONDS = 120

TINY = {"hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}
LINEAR_SEARCH = PPCA(2), {"n_components": [1, 2, 3], "noise_variance": [None, 1.0]}
DEEP_SEARCH = DeepGaussianVAE(2, **TINY), {"noise_variance": [None, 0.1, 1.0]}
# Processes of joblib search in tests/deep/test_contract.py.
SEARCHES = [LINEAR_SEARCH, DEEP_SEARCH]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Of two worker processes of one thread each."""
    with (
        dask.config.set(
            {
                # Who asks a worker that was killed for its blocks tries for so long.
                "distributed.comm.timeouts.connect": "10s",
                # Gives a worker up that is away at that moment, also if killed for a second time.
                "distributed.deploy.lost-worker-timeout": "1h",
            }
        ),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",  # None is port 8787, which another worker may have
            local_directory=str(tmp_path_factory.mktemp("workers")),
            silence_logs="CRITICAL",
        ) as cluster,
        Client(cluster, timeout=SECONDS) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def deadline(client):
    """Of each test: what hangs fails."""

    def fail(*_):
        raise TimeoutError(f"no result within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def stored(tmp_path):
    """A folder of blocks, and the Dask array that loads them."""
    blocks = np.split(X, N_BLOCKS)
    for i, block in enumerate(blocks):
        np.save(tmp_path / f"{i}.npy", block)
    arrays = [
        da.from_delayed(dask.delayed(load)(tmp_path, i), block.shape, block.dtype)
        for i, block in enumerate(blocks)
    ]
    return tmp_path, da.concatenate(arrays)


def processes_that_read(folder):
    return {int(path.name.split()[-1]) for path in folder.glob("* read by *")}


def numbers_of(model):
    return {
        name: np.asarray(value)
        for name, value in vars(model).items()
        if name.endswith("_") and isinstance(value, float | int | np.ndarray)
    }


@pytest.mark.parametrize(
    "estimator",
    [PPCACV(cv=3), LinearVAE(3, random_state=0)],  # the second by the moments that PPCA takes
    ids=lambda value: type(value).__name__,
)
def test_a_worker_that_is_killed_does_not_change_the_model(stored, estimator):
    folder, rows = stored
    expected = clone(estimator).fit(rows)
    assert os.getpid() not in processes_that_read(folder)
    (folder / "fuse").touch()
    found = clone(estimator).fit(rows)
    assert (folder / "burnt").exists()  # by a worker, of which this process is none
    assert os.getpid() not in processes_that_read(folder)
    of_rows = numbers_of(clone(estimator).fit(X))
    for name, value in numbers_of(expected).items():
        np.testing.assert_array_equal(numbers_of(found)[name], value, err_msg=name)
        np.testing.assert_allclose(value, of_rows[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_methods_on_workers(stored):
    _, rows = stored
    model = PPCA(3).fit(X)
    Z, scores = dask.compute(model.transform(rows), model.score_samples(rows))
    np.testing.assert_allclose(Z, model.transform(X), atol=1e-12)
    np.testing.assert_allclose(scores, model.score_samples(X), rtol=1e-10)
    assert model.score(rows) == pytest.approx(model.score(X), rel=1e-12)


def test_an_npy_stack(tmp_path):
    da.to_npy_stack(str(tmp_path / "stack"), da.from_array(X, chunks=(100, 9)))
    rows = da.from_npy_stack(str(tmp_path / "stack"))
    assert PPCA(3).fit(rows).elbo_ == pytest.approx(PPCA(3).fit(X).elbo_, rel=1e-12)


def test_an_error_of_a_worker_comes_back(stored):
    folder, rows = stored
    np.save(folder / "5.npy", np.full((100, 9), np.nan))
    with pytest.raises(ValueError, match=r"Block 5 of X: It contains NaN"):
        PPCA(3).fit(rows)


@pytest.mark.parametrize(("model", "grid"), SEARCHES, ids=lambda value: type(value).__name__)
def test_a_grid_search_finds_what_one_process_finds(model, grid):
    rows = make_curved_rows(n=60)
    expected = GridSearchCV(model, grid, cv=2).fit(rows)
    with joblib.parallel_config(backend="dask", n_jobs=2):
        found = GridSearchCV(model, grid, cv=2).fit(rows)
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(found.cv_results_[name], expected.cv_results_[name], rtol=1e-12)
    assert found.best_params_ == expected.best_params_
    best = expected.best_estimator_.score(rows)
    assert found.best_estimator_.score(rows) == pytest.approx(best, rel=1e-12)
