"""Rows less their mean, against the definition in extended precision."""

import math

import numpy as np
import pytest
from scipy import sparse

from sklearn_vae import LowRankGaussian, Moments
from sklearn_vae.gaussian.centered import (
    DenseCentered,
    SparseCentered,
    centered_data,
    project,
)
from tests.helpers import to_numpy

EPS = 2.0**-52


def make_sparse(n=60, d=9, density=0.3, offset=0.0, seed=0):
    """Rows with `density` of their entries, a column with all of them far from zero, one empty."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * (rng.uniform(size=(n, d)) < density)
    X[:, 2] = rng.normal(size=n) + offset
    X[:, 5] = 0.0
    return X


def exact(X, weights=None):
    """R, its mean and n, by the definition."""
    X = np.asarray(X, dtype=np.longdouble)
    w = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=np.longdouble)
    mean = w @ X / w.sum()
    return np.sqrt(w)[:, None] * (X - mean), mean


def scale_between(rows, X, weights):
    """Of the rows' own weights to those given."""
    return 1.0 if weights is None else rows.n / np.sum(weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 3.0, 1e8])
@pytest.mark.parametrize(
    "make",
    [
        DenseCentered,
        lambda X, w: DenseCentered(X, w, keep=False),
        lambda X, w: SparseCentered(sparse.csr_array(X), w),
        lambda X, w: SparseCentered(sparse.csc_matrix(X), w),
    ],
    ids=["kept", "blocks", "csr", "csc"],
)
def test_products_with_centered_rows(make, offset, weighted):
    rng = np.random.default_rng(1)
    X = make_sparse(offset=offset)
    weights = rng.choice([0.0, 0.3, 1.0, 4.0], size=len(X)) if weighted else None
    R, mean = exact(X, weights)
    rows = make(X, weights)
    c = scale_between(rows, X, weights)
    Q, Y = rng.normal(size=(9, 4)), rng.normal(size=(60, 4))
    # The entries themselves are rounded to eps times the offset.
    close = {"rtol": 0, "atol": 100 * EPS * max(1.0, offset) ** 0.5 + 4 * EPS * offset}
    np.testing.assert_allclose(rows.mean, mean.astype(float), rtol=4 * EPS, atol=EPS)
    np.testing.assert_allclose(rows.times(Q), (c**0.5 * R @ Q).astype(float), **close)
    close["atol"] *= 8
    np.testing.assert_allclose(rows.transposed_times(Y), (c**0.5 * R.T @ Y).astype(float), **close)
    np.testing.assert_allclose(rows.gram(), (c * R @ R.T).astype(float), **close)
    np.testing.assert_allclose(rows.squares, float(c * (R**2).sum()), rtol=1e-7)
    V = np.linalg.qr(rng.normal(size=(9, 3)))[0].T
    left = c * ((R - (R @ V.T) @ V) ** 2).sum(axis=0)
    np.testing.assert_allclose(rows.residual_squares(V), left.astype(float), **close)
    blocks = np.concatenate(list(rows.blocks()))
    np.testing.assert_allclose(blocks, (c**0.5 * R).astype(float), **close)


@pytest.mark.some(3)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.float16])
def test_many_blocks_of_any_dtype(dtype, keep):
    rng = np.random.default_rng(0)
    X = (10 * rng.normal(size=(90_000, 30)) + 40).astype(dtype)
    R, mean = exact(X[:, :3])
    rows = DenseCentered(X, keep=keep)
    single = dtype == np.float32
    assert rows.dtype == (np.float32 if single else np.float64)
    # In float32 the centered rows are rounded, whose mean is what is left.
    np.testing.assert_allclose(rows.mean[:3], mean.astype(float), rtol=1e-9 if single else 1e-14)
    Q = np.eye(30, 3, dtype=rows.dtype)
    tolerance = 1e-5 if single else 1e-12
    np.testing.assert_allclose(rows.times(Q), R.astype(float), atol=tolerance)
    expected = (R.T @ R).astype(float)
    found = rows.transposed_times(R.astype(rows.dtype))[:3]
    np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e8])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix])
def test_moments_of_sparse_rows(container, density, offset):
    X = make_sparse(400, density=density, offset=offset)
    weights = np.random.default_rng(0).choice([0.0, 0.5, 2.0], size=400)
    for w in (None, weights):
        R, mean = exact(X, w)
        found = Moments.of(container(X), w)
        scatter = (R.T @ R).astype(float)
        assert found.n == (400 if w is None else w.sum())
        np.testing.assert_allclose(found.mean, mean.astype(float), rtol=4 * EPS, atol=EPS)
        # Relative to each pair of columns: a far column must cost the others nothing.
        spread = np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
        rounding = 400 * EPS + 20 * (EPS * offset) ** 2 + 8 * EPS * offset * (spread > 0)
        assert (np.abs(found.scatter - scatter) <= rounding * spread + 1e-300).all()


def test_columns_that_are_nearly_full_and_far():
    # With one zero the column's spread is as large as its mean: no shift is needed, nor harm done.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6)) + 1e6
    X[7, 1] = 0.0
    X[rng.uniform(size=300) < 0.08, 2] = 0.0
    R, _ = exact(X)
    scatter = (R.T @ R).astype(float)
    found = Moments.of(sparse.csr_array(X)).scatter
    spread = np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
    assert (np.abs(found - scatter) / spread).max() < 1e-13 + 8 * EPS * 1e6


def test_entries_that_are_stored_twice_add_up_and_stay():
    data, columns = [1.0, 2.0, 5.0, -1.0], [1, 1, 0, 1]
    indptr = np.array([0, 2, 3, 4])
    X = sparse.csr_matrix((data, columns, indptr), shape=(3, 2))
    before = X.data.copy()
    expected = Moments.of(np.array([[0, 3.0], [5, 0], [0, -1]]))
    np.testing.assert_allclose(Moments.of(X).scatter, expected.scatter)
    gaussian = LowRankGaussian(np.zeros(2), np.array([[1.0], [0.5]]), 0.3)
    np.testing.assert_allclose(gaussian.log_prob(X), gaussian.log_prob(X.toarray()))
    np.testing.assert_array_equal(X.data, before)
    assert X.nnz == 4


def test_sparse_moments_of_no_rows_and_of_no_weight():
    empty = Moments.of(sparse.csr_array((0, 3)))
    assert empty.n == 0
    assert Moments.of(sparse.csr_array(np.eye(3)), np.zeros(3)).n == 0
    whole = Moments.of(np.eye(3))
    np.testing.assert_array_equal((empty + whole).scatter, whole.scatter)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_moments_of_what_is_not_finite(container, value):
    X = np.eye(4)
    X[1, 2] = value
    with pytest.raises(ValueError, match="X must be finite with finite squares"):
        Moments.of(container(X))


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1.0, 1e290])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_the_scale_of_weights_leaves_mean_and_covariance_alone(container, dtype, scale):
    rng = np.random.default_rng(0)
    X, weights = make_sparse().astype(dtype), rng.uniform(0.1, 1, size=60)
    a, b = Moments.of(container(X), weights), Moments.of(container(X), scale * weights)
    assert b.n == pytest.approx(scale * weights.sum())
    np.testing.assert_allclose(b.mean, a.mean, rtol=1e-6 if dtype == np.float32 else 1e-14)
    close = {"rtol": 1e-5, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(b.covariance, a.covariance, **close)


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e7])
@pytest.mark.parametrize("noise_variance", [1e-6, 0.5])
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_array, sparse.coo_array])
def test_density_and_posterior_of_sparse_rows(container, noise_variance, offset):
    rng = np.random.default_rng(0)
    X = make_sparse(500, offset=offset)
    mean = X.mean(axis=0)
    gaussian = LowRankGaussian(mean, rng.normal(size=(9, 2)), noise_variance)
    dense = gaussian.log_prob(X)
    np.testing.assert_allclose(gaussian.log_prob(container(X)), dense, rtol=1e-9)
    posterior = gaussian.posterior_mean(X)
    np.testing.assert_allclose(gaussian.posterior_mean(container(X)), posterior, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("density", [0.02, 0.5])  # products of sparse and of dense blocks
def test_products_of_sparse_rows_with_each_other(density, offset, weighted):
    X = make_sparse(density=density, offset=offset, d=90)
    X[:, 3] += 0.5 * (offset == 0.0)  # a mean that is subtracted from products
    weights = np.random.default_rng(1).choice([0.3, 1.0, 4.0], size=len(X)) if weighted else None
    rows = centered_data(sparse.csr_array(X), weights)
    assert isinstance(rows, SparseCentered)
    assert rows._is_full == (density > 0.1)
    R, _ = exact(X, weights)
    c = scale_between(rows, X, weights)
    close = {"rtol": 0, "atol": 1e-12 * max(1.0, offset) ** 0.5 + 16 * EPS * offset}
    np.testing.assert_allclose(rows.gram(), (c * R @ R.T).astype(float), **close)
    np.testing.assert_allclose(rows.scatter(), (c * R.T @ R).astype(float), **close)


def test_squares_that_overflow_are_an_error():
    for X in (np.array([[1e200], [-1e200]]), np.array([[1.0], [np.nan]])):
        rows = centered_data(X, None)
        assert not rows.is_finite
        with pytest.raises(ValueError, match="centered data are NaN or overflow float64"):
            rows.check_finite()
    assert isinstance(rows, DenseCentered)
    assert centered_data(np.eye(2, dtype=np.float32), None, wide=True).dtype == np.float64
    assert centered_data(np.eye(2, dtype=np.float32), None).dtype == np.float32


def test_density_of_a_square_model_of_sparse_rows():
    X = make_sparse(4000, d=9)
    W = np.random.default_rng(0).normal(size=(9, 9))
    gaussian = LowRankGaussian(X.mean(axis=0), W, 0.0)
    sparse_X = sparse.csr_array(X)
    np.testing.assert_allclose(gaussian.log_prob(sparse_X), gaussian.log_prob(X), rtol=1e-10)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(
    ("limit", "size", "loses_digits"),
    [
        (0.0, 1e8, False), (1e15, 1e8, False), (1e17, 1e8, True), (math.inf, 1e8, True),
        (1e300, 2.0**660, False), (math.inf, 2.0**660, True), (0.0, 0.0, False), (math.inf, 0.0, False),
    ],
)  # fmt: skip
def test_a_mean_beyond_the_limit_is_subtracted_first(container, limit, size, loses_digits):
    # Exact differences: small multiples of a unit in the last place of the mean.
    rng = np.random.default_rng(0)
    unit = 2.0**-20 * (size or 1.0)
    R, mean = unit * rng.integers(-9, 10, size=(30, 3)), np.full(3, size)
    A = rng.normal(size=(3, 2))
    found = project(container(R + mean), mean, A, limit)
    error = np.abs(found - R @ A).max() / unit
    assert error < (1e-3 if loses_digits else 1e-13)
    if loses_digits:  # without a copy of the samples
        assert error > 1e-12


@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f8", "f4"), ("i4", "f4"), ("i4", "f8")])
def test_precisions_meet_in_the_wider_one(dtypes, asarray):
    rng = np.random.default_rng(0)
    X, mean, A = 5 * rng.normal(size=(30, 6)), rng.normal(size=6), rng.normal(size=(6, 2))
    X = X.astype(dtypes[0])
    mean, A = mean.astype(dtypes[1]), A.astype(dtypes[1])
    expected = (X.astype(float) - mean) @ A.astype(float)
    for limit in (0.0, 1e9):
        found = project(asarray(X), asarray(mean), asarray(A), limit)
        assert str(found.dtype).endswith("float64")
        np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-6, atol=1e-6)
    gaussian = LowRankGaussian(asarray(mean), asarray(A), 0.5)
    oracle = LowRankGaussian(mean.astype(float), A.astype(float), 0.5).log_prob(X.astype(float))
    np.testing.assert_allclose(to_numpy(gaussian.log_prob(asarray(X))), oracle)
    conditional = gaussian.conditional_mean(asarray(X[:, :2]))
    assert str(conditional.dtype).endswith("float64")
