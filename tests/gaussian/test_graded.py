import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from sklearn_vae.gaussian.graded import eigh_of_covariance, loses_digits
from tests.helpers import to_numpy


def with_feature(X, kind):
    extra = {
        "none": X[:, :0],
        "constant": np.full((len(X), 1), 7.0),
        "repeated large": X[:, 3:4],
        "repeated small": X[:, 19:20],
    }
    return np.concatenate([X, extra[kind]], axis=1)


@pytest.mark.parametrize("kind", ["none", "constant", "repeated large", "repeated small"])
def test_all_digits_of_raw_measurements(asarray, kind):
    X = load_breast_cancer().data
    assert X.var(axis=0).min() < 1e-10 * X.var(axis=0).max()
    R = with_feature(X, kind).astype(np.longdouble)
    R -= R.mean(axis=0)
    S = (R.T @ R / len(R)).astype(float)
    values, vectors = map(to_numpy, eigh_of_covariance(asarray(S)))
    # An SVD of the data has errors relative to the square roots of the eigenvalues.
    oracle = np.linalg.svd(R.astype(float), compute_uv=False) ** 2 / len(R)
    np.testing.assert_allclose(values[:30], oracle[:30], rtol=2e-11)
    assert (values[30:] < 1e-15 * values[0]).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(S)), atol=1e-14)
    np.testing.assert_allclose((vectors * values) @ vectors.T, S, atol=1e-14 * values[0])


def test_the_digits_that_a_plain_eigendecomposition_loses(asarray):
    rng = np.random.default_rng(0)
    scale = np.geomspace(1.0, 1e-12, 8)
    correlations = np.full((8, 8), 0.3) + 0.7 * np.eye(8)
    # Beside so different scales, eigenvalues are the squared diagonal of the Cholesky factor.
    expected = (np.diag(np.linalg.cholesky(correlations)) * scale) ** 2
    lost = []
    for _ in range(10):
        order = rng.permutation(8)
        S = scale[order, None] * correlations * scale[order]
        values, _ = map(to_numpy, eigh_of_covariance(asarray(S)))
        np.testing.assert_allclose(values, expected, rtol=1e-3)
        lost.append(abs(np.linalg.eigvalsh(S)[::-1] / expected - 1).max())
    assert max(lost) > 0.1


@pytest.mark.parametrize(
    "variances", [[3.0, 2.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0], [1e-320, 1.0, 0.0]]
)
def test_diagonal_covariances(asarray, variances):
    values, vectors = map(to_numpy, eigh_of_covariance(asarray(np.diag(variances))))
    np.testing.assert_array_equal(values, sorted(variances)[::-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(variances)), atol=1e-15)


def test_lost_digits():
    values = np.array([1.0, 1e-3, 1e-9])
    resolved = np.array([True, True, False])
    assert not loses_digits(values, 1.0, resolved)
    assert not loses_digits(values, values, ~resolved)
    assert loses_digits(values, 1.0, ~resolved)
    assert loses_digits(values, np.array([1.0, 1e3, 1e-9]), resolved)
