"""The ascent of the linear bound against coordinate ascent and pPCA."""

import numpy as np
import pytest

from sklearn_vae import PPCA
from sklearn_vae.gaussian.ascent import maximize
from sklearn_vae.gaussian.bounds import EntropyGap
from sklearn_vae.gaussian.linear_elbo import LinearElbo, LinearVAEParameters
from tests.gaussian.test_linear_elbo import (
    D,
    K,
    covariance,
    entropies_of,
    log_likelihood,
    make_rows,
)


def one_step_of_coordinate_ascent(S, W, sigma2, learn_noise):
    """Encoder, decoder and noise, each at its optimum in turn (MATH.md, section 3)."""
    V = np.linalg.solve(W.T @ W + sigma2 * np.eye(K), W.T)
    variance = sigma2 / ((W**2).sum(axis=0) + sigma2)
    W = S @ V.T @ np.linalg.inv(V @ S @ V.T + np.diag(variance))
    p = LinearVAEParameters(W, V, variance, sigma2)
    return p._replace(noise_variance=LinearElbo(S).residual(p) / D if learn_noise else sigma2)


def test_without_tolerance_iterations_go_on_to_the_last():
    rng = np.random.default_rng(0)
    elbo = LinearElbo(np.diag(np.geomspace(9.0, 0.1, 40)))
    start = rng.normal(size=(40, K))
    steps = list(maximize(elbo, start, K, 0.1, tol=0.0, max_iter=60))
    assert [step.done for step in steps] == [False] * 60
    tolerant = list(maximize(elbo, start, K, 0.1, tol=1e-6, max_iter=60))
    assert [step.done for step in tolerant] == [False] * (len(tolerant) - 1) + [True]
    assert len(tolerant) < 60
    assert steps[-1].bound == pytest.approx(tolerant[-1].bound, abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (4, 5), (60, D)])
def test_a_start_with_as_many_columns_as_samples_or_features_is_complete(n, m):
    X = make_rows()[:n]
    R = X - X.mean(axis=0)
    elbo = LinearElbo(centered=R) if n < D else LinearElbo(R.T @ R / n)
    start = np.random.default_rng(0).normal(size=(D, m))
    (found,) = maximize(elbo, start, 2, 0.1)
    assert found.done
    values, U = np.linalg.eigh(R.T @ R / n)
    np.testing.assert_allclose(found.values[:2], values[::-1][:2], rtol=1e-9)
    np.testing.assert_allclose(
        np.abs(U[:, -2:].T @ found.directions[:, :2]), np.eye(2)[::-1], atol=1e-7
    )
    expected = PPCA(2, noise_variance=0.1).fit(X).score(X)
    assert found.bound == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("learn_noise", [True, False])
@pytest.mark.parametrize("m", [3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_iterations_climb_faster_than_coordinate_ascent_and_end_at_ppca(learn_noise, seed, m):
    X, noise = make_rows(), None if learn_noise else 0.5
    S, rng = covariance(X), np.random.default_rng(seed)
    ppca = PPCA(K, noise_variance=noise).fit(X)
    bound = LinearElbo(S)
    steps = list(maximize(bound, rng.normal(size=(D, m)), K, noise))
    climbed = [step.bound for step in steps]
    assert (np.diff(climbed) >= -1e-12).all()
    for now, following in zip(steps, climbed[1:], strict=False):
        p = one_step_of_coordinate_ascent(
            S, now.parameters.W, now.parameters.noise_variance, learn_noise
        )
        assert now.bound - 1e-12 <= bound.value(p) <= following + 1e-12
    last = steps[-1]
    assert last.done
    assert last.bound == bound.value(last.parameters) == pytest.approx(ppca.elbo_, abs=1e-11)
    signs = np.sign((last.parameters.W * ppca.loadings_).sum(axis=0))
    np.testing.assert_allclose(last.parameters.W * signs, ppca.loadings_, atol=1e-6)
    p = last.parameters
    gap = EntropyGap.of(D, bound.residual(p) / p.noise_variance, bound.second_moment(p))
    assert gap.total == pytest.approx(last.bound - entropies_of(p), abs=1e-10)
    # Held at a wrong value, the noise keeps its part of the gap.
    assert (abs(gap.noise) < 1e-8) == learn_noise
    np.testing.assert_allclose(gap.dimensions, 0, atol=1e-8)


@pytest.mark.parametrize("k", [1, 5, 20, 40])
def test_close_eigenvalues_cost_no_accuracy(k):
    # Coordinate ascent needs thousands of steps here: ratios of neighbours are 0.999.
    values = np.concatenate([5.0 * 0.999 ** np.arange(60), np.full(90, 0.5)])
    start = np.random.default_rng(0).normal(size=(150, k + 8))
    steps = list(maximize(LinearElbo(values), start, k))
    sigma2 = values[k:].mean()
    W = np.eye(150)[:, :k] * np.sqrt(values[:k] - sigma2)
    assert steps[-1].done
    assert steps[-1].bound == pytest.approx(log_likelihood(np.diag(values), W, sigma2), abs=1e-8)
    assert len(steps) < 150


@pytest.mark.some(2)
@pytest.mark.parametrize("ratio", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_the_next_eigenvalue_may_be_as_close_as_it_likes(ratio):
    # Fast directions converge long before such a pair shows, and look like the end.
    values = np.concatenate([[5.0, 5.0 * (1.0 - ratio)], np.linspace(3.0, 0.1, 100)])
    sigma2 = values[1:].mean()
    W = np.eye(102)[:, :1] * np.sqrt(5.0 - sigma2)
    best = log_likelihood(np.diag(values), W, sigma2)
    for seed in range(30):
        start = np.random.default_rng(seed).normal(size=(102, 9))
        *_, last = maximize(LinearElbo(values), start, 1)
        assert last.done
        assert last.bound == pytest.approx(best, abs=1e-9)


def test_a_large_eigenvalue_does_not_hide_the_others():
    values = np.concatenate([[1e6], 5.0 * 0.999 ** np.arange(60), np.full(90, 0.5)])
    sigma2 = values[2:].mean()
    W = np.eye(151)[:, :2] * np.sqrt(values[:2] - sigma2)
    best = log_likelihood(np.diag(values), W, sigma2)
    for seed in range(20):
        start = np.random.default_rng(seed).normal(size=(151, 10))
        *_, last = maximize(LinearElbo(values), start, 2)
        assert last.bound == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-280, 1e-140, 1e140, 1e280])
def test_variances_of_any_size(scale):
    values = scale * np.linspace(10.0, 1.0, 100)
    *_, last = maximize(LinearElbo(values), np.random.default_rng(0).normal(size=(100, 10)), 2)
    lengths = np.sqrt((last.parameters.W**2).sum(axis=0))
    sigma2 = values[2:].mean()
    np.testing.assert_allclose(lengths, np.sqrt(values[:2] - sigma2), rtol=1e-9)


def test_the_noise_is_the_best_where_a_direction_has_less_variance_than_it():
    S = np.diag([0.1, 5.0, 5.0, 5.0])  # a start in the direction without much variance
    first = next(maximize(LinearElbo(S), np.eye(4)[:, :1], 1)).parameters
    assert first.noise_variance == pytest.approx(np.trace(S) / 4)
    np.testing.assert_array_equal(first.W, 0)


def test_noise_above_the_variances_of_the_start_is_not_mistaken_for_the_end():
    # Random directions have variances near 5, and so have those of the first iterations.
    values = np.concatenate([[100.0], np.full(99_999, 5.0)])
    values[1:] += np.linspace(0.0, 1.0, 99_999)
    start = np.random.default_rng(0).normal(size=(100_000, 1))
    steps = list(maximize(LinearElbo(values), start, 1, 60.0))
    assert steps[0].bound == pytest.approx(steps[1].bound, rel=1e-14)
    assert steps[-1].done
    assert abs(steps[-1].parameters.W[0, 0]) == pytest.approx(np.sqrt(40.0), rel=1e-6)
