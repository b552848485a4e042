"""What several test files need."""

import itertools
import re
import sys
import tracemalloc

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace, to_device
from sklearn.preprocessing import StandardScaler

# Fitted attributes that are records, not arrays or numbers.
RECORDS = {"moments_", "certificate_"}


def to_numpy(array):
    """Back to NumPy from whatever namespace, at full precision."""
    if isinstance(array, torch.Tensor):
        return array.numpy()
    if array_namespace(array).__name__ == "array_api_strict":
        return np.from_dlpack(to_device(array, array_api_strict.Device("CPU_DEVICE")))
    return np.asarray(array)


def remembered_names(frame):
    """Names of the columns that scikit-learn reads: none of polars 2 before scikit-learn 1.9."""
    return list(getattr(StandardScaler().fit(frame), "feature_names_in_", []))


class PeakMemory:
    """Within it, what Python and NumPy allocate is counted: the most at any time is `peak`, in bytes.

    Debuggers and coverage see nothing of it, as what they allocate would count too.
    """

    def __enter__(self):
        self.tracer = sys.gettrace()
        sys.settrace(None)
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        sys.settrace(self.tracer)


def slow(*values):
    """Values of a parametrized test each of which proves something of its own, in the slow tests."""
    return _marked(values, pytest.mark.slow)


def exhaustive(*values):
    """Values of a parametrized test that repeat what others prove, in the exhaustive tests."""
    return _marked(values, pytest.mark.exhaustive)


def _marked(values, mark):
    rows = (value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*row, marks=mark) for row in rows]


def name_of(value):
    """Text of a test's parameter, the same in every process: without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def covering(cases, strength):
    """Choose cases that have each combination of the values of so many parameters, greedily."""
    cases = [[(name, id(case[name])) for name in sorted(case)] for case in cases]
    missing = [set(itertools.combinations(case, strength)) for case in cases]
    chosen = set()
    while any(missing):
        best = max(range(len(missing)), key=lambda i: len(missing[i]))
        chosen.add(best)
        covered = set(missing[best])
        for rest in missing:
            rest -= covered
    return chosen
