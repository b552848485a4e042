"""What several test files need."""

import re

import array_api_strict
import numpy as np
import torch
from array_api_compat import array_namespace, to_device


def to_numpy(array):
    """Back to NumPy from whatever namespace, at full precision."""
    if isinstance(array, torch.Tensor):
        return array.numpy()
    if array_namespace(array).__name__ == "array_api_strict":
        return np.from_dlpack(to_device(array, array_api_strict.Device("CPU_DEVICE")))
    return np.asarray(array)


def name_of(value):
    """Text of a test's parameter, the same in every process: without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
