"""The fast tests of a product of parameters have all its values, or all pairs of values."""

import itertools

import pytest

from sklearn_vae import PPCA, LinearVAE
from tests.helpers import covering

CASES = [{"a": a, "b": b, "c": c} for a in range(4) for b in "xyz" for c in (None, 1.0)]


@pytest.mark.parametrize(("strength", "most"), [(1, 4), (2, 14), (3, 24)])
def test_few_cases_have_all_combinations(strength, most):
    chosen = [CASES[i] for i in covering(CASES, strength)]
    assert len(chosen) <= most
    for names in itertools.combinations("abc", strength):
        found, all_ = ({tuple(case[n] for n in names) for case in of} for of in (chosen, CASES))
        assert found == all_


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("value", range(3))
def test_other_cases_are_slow_where_each_proves_something(value, request):
    marks = {mark.name for mark in request.node.iter_markers()} & {"slow", "exhaustive"}
    assert marks == (set() if value == 0 else {"slow"})


@pytest.mark.some(1)
@pytest.mark.parametrize("model", [PPCA(1), PPCA(2), LinearVAE(1), PPCA(3), LinearVAE(2)], ids=str)
def test_a_case_of_each_class_is_not_exhaustive(model, request):
    marks = {mark.name for mark in request.node.iter_markers()} & {"slow", "exhaustive"}
    first = {"PPCA(n_components=1)": set(), "LinearVAE(n_components=1)": {"slow"}}
    assert marks == first.get(str(model), {"exhaustive"})


@pytest.mark.some(2)
@pytest.mark.parametrize("value", range(5))
def test_some_cases_are_the_first_and_the_last_and_the_others_are_exhaustive(value, request):
    assert (value in (0, 4)) == (request.node.get_closest_marker("exhaustive") is None)
