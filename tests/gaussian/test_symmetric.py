"""Products of matrices with their own transposes, of every layout, against the definition."""

import numpy as np
import pytest

from sklearn_vae.gaussian import symmetric
from sklearn_vae.gaussian.symmetric import SymmetricSum, eigh, rows_times, weighted_sums
from tests.helpers import to_numpy

LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "rows of a Fortran array": lambda X: np.asfortranarray(np.tile(X, (2, 1)))[: len(X)],
    "every second": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "read only": lambda X: np.broadcast_to(X, X.shape),
}


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_of_products(layout, dtype, rows, monkeypatch):
    monkeypatch.setattr(symmetric, "BLOCK", 3)
    X = np.random.default_rng(0).normal(size=(7, 8)).astype(dtype)
    R = LAYOUTS[layout](X)
    total = SymmetricSum(7 if rows else 8, R, np.float64, rows=rows)
    total.add(R)
    total.add(R[:, 2:] if rows else R[2:])
    total.add(R[:, :1] if rows else R[:1], sign=-1.0)
    total.add(R[:, :0] if rows else R[:0])
    offsets = np.arange(7.0 if rows else 8.0)
    total.subtract_means(offsets)
    wide = X.astype(float)
    wide = wide.T if rows else wide
    expected = wide.T @ wide + wide[2:].T @ wide[2:] - wide[:1].T @ wide[:1]
    expected -= offsets[:, None] + offsets
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(total.diagonal(), np.diag(expected), atol=tolerance)
    found = total.full()
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(R, X)


def test_sums_of_columns(asarray):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(7, 4)), rng.uniform(size=7)
    for layout in LAYOUTS.values():
        np.testing.assert_allclose(weighted_sums(layout(X), None), X.sum(axis=0), atol=1e-14)
        np.testing.assert_allclose(weighted_sums(layout(X), w), w @ X, atol=1e-14)
    found = weighted_sums(asarray(X), asarray(w))
    np.testing.assert_allclose(to_numpy(found), w @ X, atol=1e-14)


@pytest.mark.parametrize("order", [5, symmetric.SMALL + 1])
def test_eigenpairs(asarray, order):
    X = np.random.default_rng(0).normal(size=(order, order))
    S = X @ X.T
    values, vectors = (to_numpy(part) for part in eigh(asarray(S)))
    assert (np.diff(values) < 0.0).all()
    np.testing.assert_allclose(rows_times(vectors.T, S), values[:, None] * vectors.T, atol=1e-10)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(order), atol=1e-12)
