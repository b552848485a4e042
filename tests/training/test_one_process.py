"""`Processes` without others; those of tests/training/test_distributed.py start two."""

import sys

import numpy as np
import pytest
from sklearn.base import clone

from sklearn_vae import DeepGaussianVAE, Processes
from sklearn_vae.training.distributed import Reducer
from tests.deep.data import SMALL, make_rows, parameters_of

pytest.importorskip("accelerate")

X = make_rows()


def test_seeds_of_processes_differ_and_fit_into_32_bits():
    class Process(Reducer):
        def __init__(self, rank):
            self.rank = rank

    seeds = {Process(rank).own_seed(epoch) for rank in range(64) for epoch in range(300)}
    assert len(seeds) == 64 * 300
    assert 0 <= min(seeds) < max(seeds) < 2**32
    assert Process(0).own_seed(2**40) == 2**40
    assert 0 <= Process(5).own_seed(2**40) < 2**32


def test_one_process_fits_as_without(monkeypatch):
    model = DeepGaussianVAE(3, **SMALL)
    with Processes() as processes:
        assert (processes.rank, processes.size) == (0, 1)
        assert processes.sum(2.0) == 2.0
        found = clone(model).fit(X, processes=processes)
    np.testing.assert_array_equal(parameters_of(found), parameters_of(clone(model).fit(X)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="has started 2 processes, but accelerate has set up 1"):
        Processes().__enter__()


def test_without_accelerate_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-vae\[distributed\]'"):
        Processes().__enter__()


@pytest.mark.parametrize("timeout", [0, -1.0, None])
def test_timeout_is_checked(timeout):
    with pytest.raises(ValueError, match="timeout must be a finite number > 0"):
        Processes(timeout=timeout).__enter__()
