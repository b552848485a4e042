import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from tests.sharing import watch_patches

# The same examples in every run of the same tree, so that a run here says what CI will say;
# `pytest --hypothesis-profile fresh` tries others.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("fresh", derandomize=False, database=None)
settings.load_profile("same")
# Hypothesis also draws the numbers that stand in the modules imported so far, which depend on the
# tests that the worker happened to run before.
if hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants


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
