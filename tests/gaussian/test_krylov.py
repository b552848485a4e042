"""Block Lanczos iteration and the bound on what random vectors can miss."""

import numpy as np
import pytest

from sklearn_vae.gaussian.krylov import (
    LEAST_PROGRESS,
    _products_left,
    block_lanczos,
    largest_outside,
)
from tests.helpers import to_numpy

SIZE = 80
SPECTRA = {
    "flat": np.random.default_rng(0).chisquare(3, SIZE),
    "graded": np.geomspace(1.0, 1e-14, SIZE),
    "zero": np.zeros(SIZE),
    "rank 5": np.r_[np.arange(5) + 1.0, np.zeros(SIZE - 5)],
    "identity": np.ones(SIZE),
    "repeated": np.r_[np.full(30, 2.0), np.ones(SIZE - 30)],
}


def make_matrix(name):
    values = np.sort(SPECTRA[name])[::-1]
    U = np.linalg.qr(np.random.default_rng(1).standard_normal((SIZE, SIZE)))[0]
    S = (U * values) @ U.T
    return (S + S.T) / 2, values, U


def iterate(S, k, block=4, tol=1e-12, max_products=500, max_dimension=SIZE, **options):
    return block_lanczos(
        lambda V: V @ S, S, SIZE, k, block=block, tol=tol, max_products=max_products,
        max_dimension=max_dimension, rng=np.random.default_rng(0), **options,
    )  # fmt: skip


@pytest.mark.cover(2)
@pytest.mark.parametrize("max_dimension", [40, SIZE])
@pytest.mark.parametrize(("k", "block"), [(1, 4), (8, 4), (8, 20), (SIZE - 1, 8), (SIZE, 7)])
@pytest.mark.parametrize("name", SPECTRA)
def test_leading_eigenpairs(name, k, block, max_dimension):
    S, values, _ = make_matrix(name)
    pairs = iterate(S, k, block, max_dimension=max_dimension)
    scale, V = values[0], pairs.vectors
    assert pairs.converged
    # Repeated eigenvalues are all found where the block is wide enough, and where it is not, as
    # random vectors continue an invariant subspace.
    np.testing.assert_allclose(pairs.values[:k], values[:k], atol=1e-12 * scale)
    np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=1e-13)
    norms = np.linalg.norm(V @ S - pairs.values[:, None] * V, axis=1)
    np.testing.assert_allclose(norms, pairs.residuals, atol=1e-13 * scale)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arrays_of_other_libraries(asarray, dtype):
    S, values, _ = make_matrix("flat")
    pairs = iterate(asarray(S.astype(dtype)), 3, tol=1e-5)
    assert pairs.converged
    np.testing.assert_allclose(pairs.values[:3], values[:3], rtol=1e-5)
    V = to_numpy(pairs.vectors)
    assert V.dtype == dtype
    np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=1e-14 if dtype == "float64" else 2e-6)


@pytest.mark.parametrize("n_extra", [0, 3])
def test_no_pairs_are_asked_for(n_extra):
    S = make_matrix("flat")[0]
    pairs = iterate(S, 0, n_extra=n_extra)
    assert pairs.converged
    assert pairs.vectors.shape == (n_extra, SIZE)


def test_without_convergence():
    S = make_matrix("flat")[0]
    pairs = iterate(S, 8, max_products=4)
    assert not pairs.converged
    assert pairs.n_products == 4
    assert pairs.residuals[:8].max() > 1e-3


@pytest.mark.cover(2)
@pytest.mark.parametrize("n_products", [1, 4, 8, 30])
@pytest.mark.parametrize("name", SPECTRA)
def test_bound_on_the_largest_eigenvalue_outside(name, n_products):
    S, values, U = make_matrix(name)
    for seed in range(5):
        bound = largest_outside(
            lambda V: V @ S, U[:, :3].T, SIZE, block=5, n_products=n_products,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        assert bound >= values[3] * (1.0 - 1e-12)
    if n_products >= 16:  # the Krylov space is everything
        assert bound == pytest.approx(values[3], rel=1e-10, abs=1e-14 * values[0])
    if n_products == 8:
        assert bound <= max(1.7 * values[3], 1e-13)


def test_the_bound_fails_no_more_often_than_it_may(monkeypatch):
    monkeypatch.setattr("sklearn_vae.gaussian.krylov.DELTA", 0.2)
    values = np.r_[1.0, np.zeros(SIZE - 1)]  # for one product the bound is sharp
    violated = 0
    for seed in range(300):
        bound = largest_outside(
            lambda V: V * values, np.zeros((0, SIZE)), SIZE, block=3, n_products=1,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        violated += bound < 1.0
    assert 40 < violated < 80


def test_everything_is_inside():
    S, _, U = make_matrix("flat")
    assert largest_outside(lambda V: V @ S, U.T, SIZE, block=5, n_products=2, rng=None) == 0.0


@pytest.mark.parametrize(
    ("progress", "left"),
    [
        ([], 0.0),
        ([(10, 1.0), (9 + LEAST_PROGRESS, 0.1)], 0.0),  # too few products to tell
        ([(10, 1.0), (10 + LEAST_PROGRESS, 0.1)], 5 * LEAST_PROGRESS),
        ([(10, 1.0), (30, 0.5), (40 + LEAST_PROGRESS, 0.01)], 2 * (30 + LEAST_PROGRESS)),
        ([(0, 1.0), (10, 0.1), (10 + LEAST_PROGRESS, 0.0)], 0.0),  # exact
        ([(0, 1.0), (2, 0.0), (10, 1e-3)], 10),  # found new directions in between
        ([(0, 1.0), (10, 1.0)], np.inf),  # no decrease
    ],
)
def test_products_that_are_left_if_residuals_decrease_geometrically(progress, left):
    assert _products_left(progress, 1e-6) == pytest.approx(left)
