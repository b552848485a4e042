"""Means and scales of more numbers than are moved at once, against those of the whole array."""

import numpy as np
import pytest
import torch

from sklearn_vae.training.scaling import BLOCK_SIZE, center_and_scale, check_units, standardize


def drifting_rows(dtype, n=9, d=5):
    """Samples of n * d blocks, of which every one has another mean and another scale."""
    n_rows = n * BLOCK_SIZE // d
    t = np.linspace(0.0, 1.0, n_rows)[:, None]
    rng = np.random.default_rng(0)
    X = (1.0 + 4.0 * t) * rng.normal(size=(n_rows, d)) * np.arange(1.0, d + 1) + 20.0 * t - 3.0
    return np.asarray(X, dtype=dtype)


@pytest.mark.some(4)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("chosen", ["all", "some", "few"])
def test_all_blocks_count(dtype, per_feature, chosen):
    X = drifting_rows(dtype)
    rows = np.random.default_rng(1).permutation(len(X))
    rows = {"all": np.arange(len(X)), "some": rows[: len(X) // 2], "few": rows[:3]}[chosen]
    mean, scale = center_and_scale(X, rows, per_feature)
    whole = X[rows].astype(np.longdouble)
    variance = whole.var(axis=0)
    np.testing.assert_allclose(mean, whole.mean(axis=0).astype(float), rtol=1e-11)
    expected = variance if per_feature else variance.mean()
    np.testing.assert_allclose(scale, np.sqrt(expected).astype(float), rtol=1e-11)
    assert np.shape(scale) == ((5,) if per_feature else ())
    kind = torch.float64 if dtype is np.float64 else torch.float32
    units = standardize(X, rows, mean, scale, torch.device("cpu"), kind)
    assert units.dtype == kind
    expected = (X[rows].astype(np.float64) - mean) / scale
    np.testing.assert_allclose(units.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per_feature", [False, True])
def test_more_features_than_are_moved_at_once(per_feature):
    X = np.random.default_rng(0).normal(size=(3, BLOCK_SIZE + 1)) + 5.0
    mean, scale = center_and_scale(X, np.arange(3), per_feature)
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-12)
    std = X.std(axis=0) if per_feature else np.sqrt(X.var(axis=0).mean())
    np.testing.assert_allclose(scale, std, rtol=1e-12)
    units = standardize(X, np.arange(3), mean, scale, torch.device("cpu"), torch.float64)
    np.testing.assert_allclose(units.numpy(), (X - mean) / scale, rtol=1e-12)


def test_features_that_are_constant_to_rounding_have_scale_1_and_no_part_in_others():
    X = np.random.default_rng(0).normal(size=(1000, 3))
    X[:, 1] = 0.1  # whose mean is not exactly it
    assert center_and_scale(X, np.arange(1000), True)[1][1] == 1.0
    expected = np.sqrt((X.var(axis=0) * [1, 0, 1]).mean())
    assert center_and_scale(X, np.arange(1000), False)[1] == pytest.approx(expected, rel=1e-12)
    assert center_and_scale(np.full((5, 2), 0.1), np.arange(5), False)[1] == 1.0
    # A spread of a few units in the last place is one of the data.
    X[:, 1] = 1.0 + 2.0**-50 * np.arange(1000)
    assert center_and_scale(X, np.arange(1000), True)[1][1] == pytest.approx(X[:, 1].std())


@pytest.mark.parametrize(
    ("mean", "scale", "fits"),
    [
        (0.0, 1.0, True), (3e38, 1.0, True), (-3e38, 1.0, True), (4e38, 1.0, False),
        (-4e38, 1.0, False), (0.0, 1.1e-19, True), (0.0, 1.0e-19, False), (0.0, 1.8e19, True),
        (0.0, 1.9e19, False),
    ],
)  # fmt: skip
def test_units_that_single_precision_has(mean, scale, fits):
    mean, scale = np.array([0.0, mean]), np.array([1.0, scale])
    check_units(mean, scale, torch.float64)
    if fits:
        check_units(mean, scale, torch.float32)
    else:
        with pytest.raises(ValueError, match=r"within the range of torch\.float32"):
            check_units(mean, scale, torch.float32)


def test_variances_beyond_float64_are_an_error():
    for factor in (1e200, 1e-200):
        X = factor * np.random.default_rng(0).normal(size=(10, 2))
        for per_feature in (False, True):
            with pytest.raises(ValueError, match="within the range of float64"):
                center_and_scale(X, np.arange(10), per_feature)
