"""Consensus of the criteria for the number of dimensions."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sklearn_vae import PPCA, PPCACV
from sklearn_vae.diagnostics import DimensionChoice, choose_dimensions
from sklearn_vae.plot import DimensionChoiceDisplay
from tests.linear.data import make_rows


@pytest.mark.parametrize("shape", [(300, 20), (60, 200)])
def test_all_criteria_find_clear_dimensions(shape):
    X = make_rows(*shape, k=3, noise=0.3)
    search = PPCACV(range(6)).fit(X)
    result = choose_dimensions(X, search=search)
    choices = dict(result.choices)
    if shape[0] < shape[1]:
        assert "Minka's evidence" not in choices
        del choices["BIC"]  # unreliable with few samples
    assert set(choices.values()) == {3}
    assert result.consensus == 3
    assert len(result.eigenvalues) == min(shape[0] - 1, shape[1])
    assert result.eigenvalues[3] < result.edge < result.eigenvalues[2]


def test_the_consensus_is_a_median_and_a_table():
    choices = {"a": 3, "long name": 1, "c": 2, "d": 2}
    result = DimensionChoice(choices, np.ones(4), np.ones(4), 1.0, 1.0)
    assert result.consensus == 2
    assert str(result).splitlines() == [
        "a             3",
        "long name     1",
        "c             2",
        "d             2",
        "consensus     2   (2 of 4 agree)",
    ]


def test_units_weights_and_containers():
    X = make_rows(120, 8)
    expected = choose_dimensions(X).choices
    assert choose_dimensions(1e6 * X + 3.0).choices == expected
    assert choose_dimensions(pd.DataFrame(X)).choices == expected
    assert choose_dimensions(sparse.csr_array(X)).choices == expected
    weights = np.arange(120) % 3
    weighted = choose_dimensions(X, sample_weight=weights)
    repeated = choose_dimensions(np.repeat(X, weights, axis=0))
    assert weighted.choices == repeated.choices
    np.testing.assert_allclose(weighted.eigenvalues, repeated.eigenvalues)


def test_errors():
    X = make_rows(30, 5)
    with pytest.raises(ValueError, match=r"got NaN\. Use PPCACV"):
        choose_dimensions(np.where(X > 3.0, np.nan, X))
    with pytest.raises(ValueError, match="at least three samples that differ, got 2 samples"):
        choose_dimensions(X[:2])
    with pytest.raises(ValueError, match="got 9 samples and rank 0"):
        choose_dimensions(np.ones((9, 4)))
    with pytest.raises(ValueError, match="not fitted"):
        choose_dimensions(X, search=PPCACV())
    with pytest.raises(ValueError, match="n_draws must be an integer >= 1, got 0"):
        choose_dimensions(X, n_draws=0)


def test_the_display_draws_a_line_for_each_choice():
    X = make_rows(200, 30, k=3)
    display = DimensionChoiceDisplay.from_estimator(PPCA(5).fit(X), X)
    assert set(display.lines_) == set(display.choice.choices.values())
    assert display.lines_[5].get_label() == "5: cross-validation"
    assert display.lines_[3].get_xdata()[0] == 3.5
    with pytest.raises(TypeError, match="choice must be a DimensionChoice, got int"):
        DimensionChoiceDisplay.from_results(3)
