import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: one thread of BLAS and of torch each, set before they are imported.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import array_api_strict
import numpy as np
import pytest
import torch

from tests.sharing import watch_patches


def pytest_sessionstart():
    watch_patches(pytest.MonkeyPatch)  # after those that pytest makes itself


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def asarray(request):
    """Makes an array of one namespace after the other from a NumPy array, dtype kept."""
    return {
        "numpy": np.asarray,
        "torch": torch.asarray,
        "array_api_strict": array_api_strict.asarray,
    }[request.param]
