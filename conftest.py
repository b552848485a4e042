"""Settings and a fixture of all tests, those in docstrings included."""

import os
import sys

import pytest

# Without it scikit-learn takes no tensors. SciPy reads it when it is imported.
assert "scipy" not in sys.modules
os.environ.setdefault("SCIPY_ARRAY_API", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: one thread of BLAS and of torch each, set before they are imported.
    assert "numpy" not in sys.modules
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Deep models of tests are trained briefly. tests/deep/test_automatic.py asks for these warnings.
WARNINGS_OF_SHORT_TRAINING = (
    "Training has not converged. the bound of",
    "Training ended below",
    "[0-9]+ of [0-9]+ latent dimensions carry",
)


def pytest_configure(config):
    """Ignore these warnings. In pyproject.toml they would import NumPy before the lines above."""
    for text in WARNINGS_OF_SHORT_TRAINING:
        line = f"ignore:{text}:sklearn.exceptions.ConvergenceWarning"
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def close_figures():
    """Close the figures that a test leaves open: matplotlib warns of more than 20."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
