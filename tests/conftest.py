import array_api_strict
import numpy as np
import pytest
import torch


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def asarray(request):
    """Makes an array of one namespace after the other from a NumPy array, dtype kept."""
    return {
        "numpy": np.asarray,
        "torch": torch.asarray,
        "array_api_strict": array_api_strict.asarray,
    }[request.param]
