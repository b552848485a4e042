"""What is kept of a stream, against the exact moments of its rows."""

import numpy as np
import pytest

from sklearn_vae.gaussian import Moments
from sklearn_vae.gaussian.online import RunningCovariance

D, K = 12, 3


def make_rows(n, seed=0, rank=D):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, D)) + 5.0


def follow(X, sizes, k=K, forgetting=1.0):
    first, *others = np.split(X, np.cumsum(sizes))
    running = RunningCovariance.of(first, k)
    for batch in others:
        running = running.add(batch, forgetting)
    return running


def leading(S, k):
    values, U = np.linalg.eigh(S)
    return U[:, ::-1][:, :k], values[::-1][:k]


def distance(Q, U):
    """Sine of the largest angle between two subspaces."""
    return np.linalg.norm(U - Q @ (Q.T @ U), 2)


def test_the_first_batch_is_exact():
    X = make_rows(30)
    running, moments = RunningCovariance.of(X, K), Moments.of(X)
    U, values = leading(moments.covariance, K)
    assert distance(running.directions, U) < 1e-10
    np.testing.assert_allclose(running.values, values)
    np.testing.assert_allclose(running.mean, moments.mean)
    assert running.total_variance == pytest.approx(np.trace(moments.covariance))


@pytest.mark.parametrize("forgetting", [1.0, 0.9])
def test_weight_mean_and_trace_are_exact(forgetting):
    X, sizes = make_rows(90), [20, 1, 30, 9]
    running = follow(X, sizes, forgetting=forgetting)
    parts = np.split(X, np.cumsum(sizes))
    weights = np.concatenate([[forgetting ** (4 - i)] * len(part) for i, part in enumerate(parts)])
    moments = Moments.of(X, weights)
    assert running.n == pytest.approx(moments.n)
    np.testing.assert_allclose(running.mean, moments.mean, rtol=1e-12)
    assert running.total_variance == pytest.approx(np.trace(moments.covariance), rel=1e-12)
    np.testing.assert_allclose(running.directions.T @ running.directions, np.eye(K), atol=1e-12)
    assert (np.diff(running.values) <= 0).all()


def test_weights_are_repetitions():
    X, Y = make_rows(30), make_rows(25, seed=1)
    rng = np.random.default_rng(2)
    w, v = rng.integers(1, 4, size=30), rng.integers(1, 4, size=25)
    found = RunningCovariance.of(X, K, w.astype(float)).add(Y, 0.9, v.astype(float))
    expected = RunningCovariance.of(np.repeat(X, w, axis=0), K).add(np.repeat(Y, v, axis=0), 0.9)
    assert found.n == pytest.approx(expected.n)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)
    assert distance(found.directions, expected.directions) < 1e-9
    assert found.total_variance == pytest.approx(expected.total_variance)


@pytest.mark.parametrize("size", [0.0, 1e160])
def test_variances_are_above_0_and_finite(size):
    X = size * make_rows(5)
    with pytest.raises(ValueError, match="squares are finite in float64, got a total variance of"):
        RunningCovariance.of(X, K)
    if size:
        with pytest.raises(ValueError, match="got a total variance of inf"):
            RunningCovariance.of(make_rows(5), K).add(X)


def test_rows_of_no_more_dimensions_than_are_kept_lose_nothing():
    X = make_rows(60, rank=K)
    running, moments = follow(X, [7, 20, 13]), Moments.of(X)
    kept = running.directions * running.values @ running.directions.T
    np.testing.assert_allclose(kept, moments.covariance, atol=1e-9)


def test_all_directions_are_kept_exactly():
    X = make_rows(60)
    running, moments = follow(X, [5, 20, 13], k=D), Moments.of(X)
    kept = running.directions * running.values @ running.directions.T
    np.testing.assert_allclose(kept, moments.covariance, atol=1e-9)


def test_many_batches_find_the_directions_of_all_rows():
    rng = np.random.default_rng(0)
    X = make_rows(20000, rank=K) + rng.normal(size=(20000, D))
    X = X[rng.permutation(len(X))]
    running = follow(X, [20] * 999)
    U, values = leading(Moments.of(X).covariance, K)
    assert distance(running.directions, U) < 0.02
    np.testing.assert_allclose(running.values, values, rtol=0.01)
    np.testing.assert_allclose(running.directions.T @ running.directions, np.eye(K), atol=1e-12)


def test_a_new_direction_is_found():
    rng = np.random.default_rng(0)
    a, b = np.zeros((2, D))
    a[0], b[1] = 3.0, 5.0
    before = rng.normal(size=(300, 1)) * a + 0.3 * rng.normal(size=(300, D))
    after = rng.normal(size=(3000, 1)) * b + 0.3 * rng.normal(size=(3000, D))
    running = follow(np.concatenate([before, after]), [30] * 109, k=1, forgetting=0.9)
    assert abs(running.directions[1, 0]) > 0.999
    assert running.values[0] == pytest.approx(25.09, rel=0.2)


def test_a_first_batch_of_few_rows_loses_nothing():
    # Two rows have one direction; the others of the start must not be axes without variance.
    X = make_rows(400, rank=K)
    X[:, :6] = 0.0
    running = follow(X, [2] + [10] * 39)
    kept = running.directions * running.values @ running.directions.T
    np.testing.assert_allclose(kept, Moments.of(X).covariance, atol=1e-8)


def dense_step(running, batch, forgetting):
    """The step of the class docstring with (d, d) matrices and a pseudo-inverse."""
    Q, before, n_rows = running.directions, forgetting * running.n, len(batch)
    delta = batch.mean(axis=0) - running.mean
    apart = before * n_rows / (before + n_rows)
    # Of the batch, and of what was: only its products with Q are known.
    scatter = n_rows * np.cov(batch.T, bias=True) + apart * np.outer(delta, delta)
    Y = (before * (Q * running.values) + scatter @ Q) / (before + n_rows)
    trace = (before * running.total_variance + np.trace(scatter)) / (before + n_rows)
    H = Q.T @ Y
    S = Y @ np.linalg.pinv(0.5 * (H + H.T), rcond=1e-12, hermitian=True) @ Y.T
    rest = max(trace - np.trace(S), 0.0) / max(D - Q.shape[1], 1)
    U, values = leading(S + rest * (np.eye(D) - Q @ Q.T), Q.shape[1])
    return (U * values) @ U.T


@pytest.mark.cover(2, 3)
@pytest.mark.parametrize("forgetting", [1.0, 0.7])
@pytest.mark.parametrize("k", [1, K, D])
@pytest.mark.parametrize("rank", [1, 2, 3, 6, D])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_streams_of_any_rank_against_the_dense_recursion(scale, rank, k, forgetting):
    X, sizes = scale * make_rows(200, rank=rank), [3, 10, 1, 25, 7, 40, 2]
    if rank < K:  # a direction that comes later
        X[50:] += scale * make_rows(150, seed=1, rank=1)
    first, *others = np.split(X, np.cumsum(sizes))
    running = RunningCovariance.of(first, k)
    for batch in others:
        expected = dense_step(running, batch, forgetting)
        running = running.add(batch, forgetting)
        kept = (running.directions * running.values) @ running.directions.T
        np.testing.assert_allclose(kept, expected, atol=1e-9 * np.trace(expected))
        gram = running.directions.T @ running.directions
        np.testing.assert_allclose(gram, np.eye(k), atol=1e-12)


def test_directions_of_hardly_any_variance_carry_none_of_what_the_others_have():
    # Of 1e-20 of the variance: what it has in common with others is left over rounding.
    Q, scales = np.eye(D)[:, [0, 1, D - 1]], np.array([2.0, *[1.0] * (D - 2), 1e-10])
    running = RunningCovariance(60.0, np.zeros(D), Q, np.array([4.0, 1.0, 1e-20]), 14.0)
    batch = np.random.default_rng(0).normal(size=(40, D)) * scales
    values = np.linalg.eigvalsh(dense_step(running, batch, 1.0))[:-4:-1]
    # The third is that of all directions that are not kept: any of them is as good.
    np.testing.assert_allclose(running.add(batch).values, values, rtol=1e-9)
