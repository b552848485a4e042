"""Distribution of the residuals of missing values."""

import numpy as np
import pytest
from scipy.special import ndtr

from sklearn_vae.linear.calibration import (
    NORMAL_GRID,
    POOLED_RESIDUALS,
    Odds,
    distribution_of,
    weighted_quantiles,
)

rng = np.random.default_rng(0)
VALUES, WEIGHTS = rng.normal(size=90), rng.uniform(0.5, 2.0, size=90)


def odds(d):
    return Odds(np.zeros(d), np.ones(d), np.zeros((d, 1 + d)))


def test_a_single_feature_has_its_own_quantiles_and_weight():
    # All features together are this feature: to mix them in changes nothing.
    found = distribution_of(VALUES, np.zeros(90, dtype=int), WEIGHTS, odds(1))
    relative = WEIGHTS / WEIGHTS.mean()
    own = weighted_quantiles(VALUES, relative, ndtr(NORMAL_GRID))
    np.testing.assert_allclose(found.quantiles[0], own, atol=1e-8)
    np.testing.assert_allclose(found.units, WEIGHTS.mean())
    np.testing.assert_allclose(found.totals, 90.0)


def test_features_lie_between_their_own_distribution_and_that_of_all():
    columns, ones = np.repeat([0, 1], [60, 30]), np.ones(90)
    found = distribution_of(VALUES, columns, ones, odds(3))
    grid = ndtr(NORMAL_GRID)
    pooled = weighted_quantiles(VALUES, ones, grid)
    for j, n in enumerate((60, 30, 0)):
        share = n / (n + POOLED_RESIDUALS)
        own = VALUES[columns == j]
        own = weighted_quantiles(own, np.ones(n), grid) if n else pooled
        np.testing.assert_allclose(
            found.quantiles[j], share * own + (1 - share) * pooled, atol=1e-8
        )
        assert found.totals[j] == pytest.approx(share * n + (1 - share) * 90)
    # The weight of a missing value widens intervals by its share of that of the residuals.
    levels = found.levels(np.zeros((1, 3)), 0.5)
    np.testing.assert_allclose(levels[0], 0.5 * (1 + 1 / found.totals))
