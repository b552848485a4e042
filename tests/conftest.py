"""Settings and fixtures of the tests.

The process that gives tests to the workers of pytest-xdist imports this file, and no more than needed.
"""

import gc
import importlib

import pytest
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


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without searches for garbage: what is collected lives to the end of the session."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Drop the traceback of a failure that is expected: pytest parses all files in it."""
    try:
        return (yield)
    except Exception as error:
        if item.get_closest_marker("xfail"):
            raise error.with_traceback(None) from None
        raise


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark cases as slow or exhaustive: see `cover` and `some` in pyproject.toml."""
    from tests.helpers import covering

    groups, unused = {}, set()
    for item in items:
        if item.get_closest_marker("xfail"):
            item.add_marker("slow")
        else:
            groups.setdefault(item.nodeid.split("[")[0], []).append(item)
    for group in groups.values():
        cover = group[0].get_closest_marker("cover")
        if cover and len(cover.args) > 1:
            used = covering([item.callspec.params for item in group], cover.args[1])
            unused |= {id(item) for i, item in enumerate(group) if i not in used}
            group = [item for i, item in enumerate(group) if i in used]
        group = [item for item in group if not item.get_closest_marker("exhaustive")]
        group = [item for item in group if not item.get_closest_marker("slow")] or group
        others = "exhaustive"
        if cover:
            chosen = covering([item.callspec.params for item in group], cover.args[0])
        elif group and (some := group[0].get_closest_marker("some")):
            n, others = (*some.args, others)[:2]
            chosen = {round(i * (len(group) - 1) / max(n - 1, 1)) for i in range(n)}
        else:
            continue
        classes = set().union(*(classes_of(group[i]) for i in chosen))
        for i, item in enumerate(group):
            if i not in chosen:
                own = classes_of(item)
                item.add_marker(others if own <= classes else "slow")
                classes |= own
    items[:] = [item for item in items if id(item) not in unused]


def classes_of(item):
    """Classes of the estimators among the parameters of a test."""
    values = (value for value in item.callspec.params.values() if hasattr(value, "get_params"))
    return {value if isinstance(value, type) else type(value) for value in values}


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def asarray(request):
    """Makes an array of one namespace after the other from a NumPy array, dtype kept."""
    return importlib.import_module(request.param).asarray
