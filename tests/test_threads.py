"""Fits at the same time, in threads, give what they give alone, and leave nothing behind."""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepGaussianVAE,
    LinearVAE,
    PPCAImputer,
)
from sklearn_vae.gaussian.observed import blas_threads
from sklearn_vae.training.devices import matmul_precision, threads_worth
from tests.deep.data import MODELS, make_rows
from tests.helpers import exhaustive
from tests.threads_of_blas import within

X = make_rows(n=60)
MISSING = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.2, np.nan, X)
BITS = (X.mean() < X).astype(float)


def dropout(shape, n_outputs):
    return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(shape[0], n_outputs))


JOBS = [
    (PPCA(3), X),
    (PPCA(2), MISSING),
    (PPCA(2, svd_solver="arpack", random_state=0), X),
    (PPCA(2, svd_solver="randomized", random_state=0), X),
    (PPCACV(cv=3), X),
    (PPCAImputer(2), MISSING),
    (BernoulliPPCA(2, random_state=0), BITS),
    (BernoulliPPCA(1, inference="per_sample", max_iter=10, tol=1.0, random_state=0), BITS),
    (LinearVAE(2, random_state=0), X),
    (LinearVAE(2, solver="adam", max_iter=190, tol=1e3, random_state=0), X),
    (LinearVAE(2, solver="stochastic", max_iter=5, tol=1e3, batch_size=16, random_state=0), X),
    *((model, X) for model in MODELS),
    (clone(MODELS[0]).set_params(random_state=1), X),
    (clone(MODELS[0]).set_params(encoder=dropout), X),
    (clone(MODELS[-1]).set_params(encoder=dropout, random_state=2), X),
]


def fit(job, barrier=None):
    """Everything that a fit makes, as one array of bytes."""
    model, rows = clone(job[0]), job[1]
    if barrier is not None:
        barrier.wait()
    model.fit(rows)
    made = {
        name: value
        for name, value in vars(model).items()
        if name.endswith("_") and isinstance(value, float | int | np.ndarray)
    }
    return pickle.dumps({**made, "transformed": np.array(model.transform(rows))})


@pytest.fixture(scope="module")
def alone():
    """What each job gives on a thread of its own, while no other runs."""
    with ThreadPoolExecutor(1) as thread:
        return [thread.submit(fit, job).result() for job in JOBS]


@pytest.fixture
def three_threads():
    """As many for torch in all new threads; the rest of the suite may use one."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *exhaustive(1, 2)])
def test_two_fits_in_two_threads_give_what_they_give_alone(alone, seed):
    order = np.random.default_rng(seed).permutation(len(JOBS))
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        for i, j in zip(order, np.roll(order, 1), strict=True):
            found = [threads.submit(fit, JOBS[job], barrier) for job in (i, j)]
            for job, made in zip((i, j), found, strict=True):
                assert made.result() == alone[job], (JOBS[i][0], JOBS[j][0])


def test_many_at_once_leave_nothing_behind(alone, three_threads):
    state, torch_state = _numbers_to_come(), torch.random.get_rng_state()
    blas = [library.num_threads for library in blas_threads().lib_controllers]
    jobs = list(range(len(JOBS)))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(fit, [JOBS[i] for i in jobs])) == [alone[i] for i in jobs]
    assert _numbers_to_come() == state
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert torch.get_num_threads() == three_threads
    assert [library.num_threads for library in blas_threads().lib_controllers] == blas


def _numbers_to_come():
    """The state of NumPy's global generator."""
    return pickle.dumps(np.random.mtrand._rand.get_state())


def test_a_thread_that_begins_while_another_fits_has_all_its_threads(three_threads):
    entered, leave, numbers = threading.Event(), threading.Event(), []
    with ThreadPoolExecutor(1) as other:
        done = other.submit(within, threads_worth(1.0), entered, leave)
        assert entered.wait(60)
        new = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
        new.start()
        new.join()
        leave.set()
        done.result()
        assert numbers == [three_threads]
        assert torch.get_num_threads() == three_threads
        with threads_worth(1.0):
            assert torch.get_num_threads() == 1
        assert other.submit(torch.get_num_threads).result() == three_threads


@pytest.mark.slow
def test_two_fits_that_have_blas_on_one_thread_leave_it_as_it_was():
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    command = [sys.executable, "-m", "tests.threads_of_blas"]
    subprocess.run(command, check=True, env={**os.environ, **variables})


def test_who_says_how_products_are_taken_waits_for_others():
    entered, leave, seen = threading.Event(), threading.Event(), []

    def look():
        with matmul_precision("float32"):
            seen.append(torch.get_float32_matmul_precision())

    before = torch.get_float32_matmul_precision()
    with ThreadPoolExecutor(2) as threads:
        done = threads.submit(within, matmul_precision("tf32"), entered, leave)
        assert entered.wait(60)
        assert torch.get_float32_matmul_precision() == "high"
        waits = threads.submit(look)
        assert not wait([waits], timeout=0.2).done
        leave.set()
        done.result()
        waits.result()
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("model", "grid"),
    [
        (PPCA(2), {"noise_variance": [None, 0.1, 1.0]}),
        (
            DeepGaussianVAE(2, hidden_layer_sizes=(8,), max_epochs=2, random_state=0),
            {"noise_variance": [None, 0.1, 1.0]},
        ),
        (
            DeepAutoencoder(2, encoder=dropout, max_epochs=2, random_state=0),
            {"n_components": [1, 2]},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_grid_search_on_two_threads_finds_what_one_finds(model, grid):
    expected = GridSearchCV(model, grid, cv=3).fit(X)
    with joblib.parallel_backend("threading", n_jobs=2):
        found = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(X)
    np.testing.assert_array_equal(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert found.best_params_ == expected.best_params_
