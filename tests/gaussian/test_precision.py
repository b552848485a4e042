"""Bounds of rounding errors against errors that were made."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_vae.gaussian.precision import SMALLEST, Precision, rounded_along

SINGLE, DOUBLE = 2.0**-23, 2.0**-52


@pytest.mark.parametrize(
    ("X", "dtype", "expected"),
    [
        (np.ones((2, 2)), None, (DOUBLE, DOUBLE)),
        (np.ones((2, 2), np.float32), None, (SINGLE, SINGLE)),
        (np.ones((2, 2), np.float32), np.float64, (DOUBLE, SINGLE)),
        (np.ones((2, 2)), np.float32, (SINGLE, DOUBLE)),
        (np.ones((2, 2), np.int8), None, (DOUBLE, DOUBLE)),
        (np.ones((2, 2), np.float16), np.float64, (DOUBLE, 2.0**-10)),
        (sparse.csr_array(np.ones((2, 2), np.float32)), None, (DOUBLE, SINGLE)),
        (torch.ones(2, 2), None, (SINGLE, SINGLE)),
        (torch.ones(2, 2, dtype=torch.int64), None, (DOUBLE, DOUBLE)),
    ],
)
def test_precision_of_data_and_of_their_products(X, dtype, expected):
    assert Precision.of(X, dtype) == Precision(*expected)
    assert Precision.of(X, dtype, 3.0) == Precision(*expected, 3.0)


def test_defaults_are_exact_data_and_products_in_float64():
    assert Precision() == Precision(DOUBLE, 0.0, 0.0)


def test_the_coarser_of_each_field():
    one, other = Precision(1.0, 5.0, 3.0), Precision(4.0, 2.0, 6.0)
    assert one.coarser(other) == other.coarser(one) == Precision(4.0, 5.0, 6.0)


@pytest.mark.parametrize("order", [2, 20, 200])
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_eigenvalues_of_symmetric_matrices(order, scale):
    X = np.random.default_rng(order).normal(size=(order // 2, order)) * scale
    S = X.T @ X
    values = np.linalg.eigvalsh(S.astype(np.float32)).astype(float)
    error = np.abs(values - np.linalg.eigvalsh(S)).max()
    bound = Precision(SINGLE).eigenvalue_error(order, np.linalg.norm(S, 2))
    assert error <= bound <= 1000 * error


@pytest.mark.parametrize("order", [2, 5, 20])
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_squares_of_singular_values_that_are_0(order, scale):
    rng = np.random.default_rng(order)
    X = (rng.normal(size=(order, 1)) * rng.normal(size=(1, 3 * order)) * scale).astype(np.float32)
    error = float(np.linalg.svd(X, compute_uv=False)[1]) ** 2
    bound = Precision(SINGLE).squared_singular_value_error(order, np.linalg.norm(X, 2) ** 2)
    assert error <= bound <= 1e5 * error


@pytest.mark.parametrize("of", [Precision.eigenvalue_error, Precision.squared_singular_value_error])
def test_a_mean_that_is_subtracted_counts_as_the_largest_value(of):
    assert of(Precision(SINGLE, 0.0, 5.0), 7, 2.0) == of(Precision(SINGLE), 7, 7.0)
    # Nothing is resolved where squares lose digits.
    assert of(Precision(), 7, 0.0) == of(Precision(), 7, 1e-305) == SMALLEST == 2.0**-1000
    assert of(Precision(), 7, 1.0) > SMALLEST


@pytest.mark.parametrize(("n", "d"), [(1000, 4), (50, 50), (10, 500)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("eps", [SINGLE, 2.0**-30])
def test_rounding_of_entries_varies_as_much_along_some_direction(n, d, offset, eps):
    # The error of an entry is eps times the entry, up or down.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) + offset
    errors = eps * X * rng.choice([-1.0, 1.0], size=(n, d))
    largest = np.linalg.norm(errors, 2) ** 2 / n
    for precision in (Precision(eps, DOUBLE), Precision(DOUBLE, eps)):
        found = precision.rounding(X.mean(axis=0), X.var(axis=0), n)
        assert found.shape == (d,)
        direction = np.linalg.svd(errors)[2][:1]
        (bound,) = rounded_along(direction, found)
        assert bound == pytest.approx(largest, rel=0.3)


def test_rounding_is_finite_and_so_is_its_sum():
    found = Precision().rounding(np.full(6, 1e200), np.ones(6), 10.0)
    assert 0.2 < found.sum() / np.finfo(float).max < 0.3
    np.testing.assert_array_equal(rounded_along(np.zeros((2, 6)), found), 0.0)
