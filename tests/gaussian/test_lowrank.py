import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from scipy.stats import multivariate_normal

from sklearn_vae.gaussian import LowRankGaussian
from tests.helpers import to_numpy

D, K, N = 7, 3, 40


def problem(d=D, k=K, noise_variance=0.3, seed=0):
    rng = np.random.default_rng(seed)
    mean, W = rng.normal(size=d), rng.normal(size=(d, k))
    return mean, W, noise_variance, mean + 2.0 * rng.normal(size=(N, d))


def dense_covariance(W, noise_variance):
    return W @ W.T + noise_variance * np.eye(len(W))


@pytest.mark.parametrize(("d", "k"), [(7, 3), (7, 0), (1, 1), (4, 4), (3, 6)])
def test_log_prob_against_scipy(asarray, d, k):
    mean, W, noise_variance, X = problem(d, k)
    gaussian = LowRankGaussian(asarray(mean), asarray(W), noise_variance)
    found = gaussian.log_prob(asarray(X))
    assert array_namespace(found) is array_namespace(asarray(X))
    oracle = multivariate_normal(mean, dense_covariance(W, noise_variance)).logpdf(X)
    np.testing.assert_allclose(to_numpy(found), oracle, rtol=1e-12)


def test_log_prob_against_torch():
    mean, W, noise_variance, X = problem()
    mean, W, X = (torch.as_tensor(value) for value in (mean, W, X))
    diagonal = torch.full((D,), noise_variance, dtype=torch.float64)
    oracle = torch.distributions.LowRankMultivariateNormal(mean, W, diagonal)
    found = LowRankGaussian(mean, W, noise_variance).log_prob(X)
    torch.testing.assert_close(found, oracle.log_prob(X), rtol=1e-12, atol=0)


def test_posterior_against_dense_inverse(asarray):
    mean, W, noise_variance, X = problem()
    gaussian = LowRankGaussian(asarray(mean), asarray(W), noise_variance)
    # By Gaussian conditioning on the joint of z and x, which knows nothing of M.
    gain = W.T @ np.linalg.inv(dense_covariance(W, noise_variance))
    np.testing.assert_allclose(
        to_numpy(gaussian.posterior_mean(asarray(X))), (X - mean) @ gain.T, rtol=1e-11
    )
    np.testing.assert_allclose(
        to_numpy(gaussian.posterior_covariance), np.eye(K) - gain @ W, rtol=1e-10, atol=1e-14
    )


def test_zero_noise_is_the_dense_gaussian(asarray):
    mean, W, _, X = problem(d=4, k=4)
    gaussian = LowRankGaussian(asarray(mean), asarray(W), 0.0)
    oracle = multivariate_normal(mean, W @ W.T).logpdf(X)
    np.testing.assert_allclose(to_numpy(gaussian.log_prob(asarray(X))), oracle, rtol=1e-10)


@pytest.mark.parametrize("noise_variance", [1e-4, 1e-8, 1e-14, 1e-20])
def test_no_cancellation_when_the_noise_is_tiny(noise_variance):
    # x lies near the plane of W: |x|^2 and |y|^2 agree in all their leading digits.
    W = problem()[1]
    rng = np.random.default_rng(1)
    z, e = rng.normal(size=(N, K)), rng.normal(size=(N, D))
    Q = np.linalg.qr(W)[0]
    orthogonal = e - e @ Q @ Q.T
    X = z @ W.T + noise_variance**0.5 * orthogonal
    found = LowRankGaussian(np.zeros(D), W, noise_variance).log_prob(X)
    # The same value in exact arithmetic, in the basis of W's columns and what is orthogonal.
    singular = np.linalg.svd(W, compute_uv=False)
    log_det = np.sum(np.log(singular**2 + noise_variance)) + (D - K) * np.log(noise_variance)
    inner = np.linalg.inv(np.eye(K) + noise_variance * np.linalg.inv(W.T @ W))
    distance = np.einsum("ni,ij,nj->n", z, inner, z) + (orthogonal**2).sum(axis=1)
    oracle = -0.5 * (D * np.log(2 * np.pi) + log_det + distance)
    # X itself is rounded to eps, which the orthogonal part feels relative to its own size.
    rtol = max(1e-11, 100 * 2.0**-52 / noise_variance**0.5)
    np.testing.assert_allclose(found, oracle, rtol=rtol)


def test_ill_conditioned_loadings_do_not_square():
    # Two nearly parallel columns: W'W is singular to rounding, W is not.
    W = np.array([[1.0, 1.0], [0.0, 1e-7], [0.0, 0.0]])
    X = np.array([[0.3, -0.2, 0.1]])
    gaussian = LowRankGaussian(np.zeros(3), W, 1e-16)
    # C = [[2 + s, 1e-7], [1e-7, 1e-14 + s]] (+) s, inverted by hand.
    s = 1e-16
    det = 1e-14 + 2 * s + s * 1e-14 + s * s
    x, y, w = X[0]
    quadratic = ((1e-14 + s) * x * x - 2e-7 * x * y + (2 + s) * y * y) / det + w * w / s
    oracle = -0.5 * (3 * np.log(2 * np.pi) + np.log(det) + np.log(s) + quadratic)
    # eps times the condition number 2e7 of W; its square would leave no digit.
    np.testing.assert_allclose(gaussian.log_prob(X), oracle, rtol=1e-7)


def test_sample_has_the_moments_of_the_joint(asarray):
    mean, W, noise_variance, _ = problem()
    gaussian = LowRankGaussian(asarray(mean), asarray(W), noise_variance)
    X, Z = (to_numpy(part) for part in gaussian.sample(200_000, np.random.default_rng(0)))
    # Standard errors here are below 0.02.
    np.testing.assert_allclose(X.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(X.T), dense_covariance(W, noise_variance), atol=0.1)
    np.testing.assert_allclose(np.cov(X.T, Z.T)[:D, D:], W, atol=0.05)
    np.testing.assert_allclose((X - Z @ W.T - mean).var(axis=0), noise_variance, rtol=0.02)


def test_sample_repeats_with_either_kind_of_generator():
    gaussian = LowRankGaussian(*problem()[:3])
    for kind in (np.random.default_rng, np.random.RandomState):
        first, second = gaussian.sample(5, kind(3)), gaussian.sample(5, kind(3))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def test_blocks_of_rows_do_not_show():
    mean, W, noise_variance, _ = problem(d=600, k=2)
    X = np.random.default_rng(0).normal(size=(1100, 600))  # three blocks
    gaussian = LowRankGaussian(mean, W, noise_variance)
    whole = gaussian.log_prob(X)
    np.testing.assert_allclose(
        whole, np.concatenate([gaussian.log_prob(X[[i]]) for i in range(1100)])
    )
    assert gaussian.log_prob(X[:0]).shape == (0,)


def test_float32_stays_float32(asarray):
    mean, W, noise_variance, X = problem()
    gaussian = LowRankGaussian(
        asarray(mean.astype(np.float32)), asarray(W.astype(np.float32)), noise_variance
    )
    found = to_numpy(gaussian.log_prob(asarray(X.astype(np.float32))))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, LowRankGaussian(*problem()[:3]).log_prob(X), rtol=1e-5)
    drawn = gaussian.sample(2, np.random.default_rng(0))
    assert all(to_numpy(part).dtype == np.float32 for part in drawn)


@pytest.mark.parametrize("method", ["log_prob", "posterior_mean"])
def test_rows_are_checked(method):
    gaussian = LowRankGaussian(np.full(3, 1e6), np.ones((3, 1)), 1.0)
    with pytest.raises(ValueError, match=r"3 features, got 1\."):
        getattr(gaussian, method)(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="two-dimensional"):
        getattr(gaussian, method)(np.zeros(3))
    with pytest.raises(TypeError, match="got list"):
        getattr(gaussian, method)([[1.0, 2.0, 3.0]])
    integers = np.full((2, 3), 10**6)
    found, expected = (getattr(gaussian, method)(X) for X in (integers, integers.astype(float)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("mean", "W", "noise_variance", "message"),
    [
        (np.zeros(3), np.zeros((2, 1)), 1.0, r"n_components\), got \(3,\) and \(2, 1\)"),
        (np.zeros(3), np.zeros(3), 1.0, r"n_components\), got \(3,\) and \(3,\)"),
        (np.zeros(2), np.full((2, 1), np.nan), 1.0, "must be finite, got NaN"),
        (np.zeros(2), np.ones((2, 1)), -1.0, "float >= 0, got -1.0"),
        (np.zeros(2), np.ones((2, 1)), np.nan, "float >= 0, got nan"),
        (
            np.zeros(2),
            np.ones((2, 1)),
            0.0,
            r"loadings are square and of full rank, got 0 with loadings of shape \(2, 1\)",
        ),
        (
            np.zeros(2),
            np.ones((2, 2)),
            0.0,
            r"loadings are square and of full rank, got 0 with loadings of shape \(2, 2\)",
        ),
    ],
)
def test_errors(mean, W, noise_variance, message):
    with pytest.raises(ValueError, match=message):
        LowRankGaussian(mean, W, noise_variance)
