"""The fast tests of a product of parameters have all its values, or all pairs of values."""

import itertools

import pytest

from tests.helpers import covering

CASES = [{"a": a, "b": b, "c": c} for a in range(4) for b in "xyz" for c in (None, 1.0)]


@pytest.mark.parametrize(("strength", "most"), [(1, 4), (2, 14), (3, 24)])
def test_few_cases_have_all_combinations(strength, most):
    chosen = [CASES[i] for i in covering(CASES, strength)]
    assert len(chosen) <= most
    for names in itertools.combinations("abc", strength):
        found, all_ = ({tuple(case[n] for n in names) for case in of} for of in (chosen, CASES))
        assert found == all_


@pytest.mark.some(2)
@pytest.mark.parametrize("value", range(5))
def test_some_cases_are_the_first_and_the_last_and_the_others_are_exhaustive(value, request):
    assert (value in (0, 4)) == (request.node.get_closest_marker("exhaustive") is None)
