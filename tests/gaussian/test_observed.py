"""Rows with missing entries, against dense Gaussians of what is observed."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from threadpoolctl import ThreadpoolController

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.em import Sums, averages, expectation_maximization, gradient, maximize
from sklearn_vae.gaussian.observed import (
    IncompleteData,
    Parameters,
    impute,
    latent_pairs,
    log_likelihood,
    posterior,
)


def make_case(n=40, d=6, k=2, share=0.3, seed=0, patterns=None):
    """Rows with missing entries of random or few patterns, and any parameters."""
    rng = np.random.default_rng(seed)
    W, mean = rng.normal(size=(d, k)), rng.normal(size=d)
    X = rng.normal(size=(n, k)) @ W.T + 0.7 * rng.normal(size=(n, d)) + 3.0 * mean
    gone = rng.uniform(size=(n, d)) < share
    if patterns is not None:
        gone = gone[rng.integers(0, patterns, size=n)]
    gone[0], gone[1] = True, False  # nothing observed, and everything
    return np.where(gone, np.nan, X), Parameters(W, mean, 0.4)


def dense(x, parameters):
    """Log-density, posterior of z, and conditional of all of x, of one row, by dense matrices."""
    W, mean, sigma2 = parameters.loadings, parameters.mean, parameters.noise_variance
    o = ~np.isnan(x)
    C = W @ W.T + sigma2 * np.eye(len(x))
    gain = np.linalg.solve(C[np.ix_(o, o)], np.eye(o.sum()))
    r = x[o] - mean[o]
    density = multivariate_normal(mean[o], C[np.ix_(o, o)]).logpdf(x[o]) if o.any() else 0.0
    z = W[o].T @ gain @ r
    covariance = np.eye(W.shape[1]) - W[o].T @ gain @ W[o]
    filled = mean + C[:, o] @ gain @ r
    variance = np.diag(C - C[:, o] @ gain @ C[o])
    return density, z, covariance, filled, variance


CASES = [
    {},
    {"patterns": 5},
    {"n": 700, "patterns": 30},
    {"n": 600, "d": 30, "k": 20},
    {"n": 60, "d": 9, "k": 0},
    {"n": 50, "d": 3, "k": 3},
    {"share": 0.0},
    {"share": 0.9},
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestAgainstDenseMatrices:
    @pytest.mark.some(3, "slow")
    def test_density_posterior_and_imputation(self, case):
        X, parameters = make_case(**case)
        expected = [dense(x, parameters) for x in X]
        density, z, covariance, filled, variance = map(np.array, zip(*expected, strict=True))
        np.testing.assert_allclose(log_likelihood(X, parameters), density, atol=1e-9)
        assert log_likelihood(X, parameters)[0] == 0.0
        found = posterior(X, parameters, return_cov=True)
        np.testing.assert_allclose(found[0], z, atol=1e-10)
        np.testing.assert_allclose(found[1], covariance, atol=1e-10)
        of_each = posterior(X, parameters)[1]
        np.testing.assert_allclose(of_each, np.einsum("naa->na", covariance), atol=1e-10)
        values, std = impute(X, parameters, return_std=True)
        seen = ~np.isnan(X)
        np.testing.assert_array_equal(values[seen], X[seen])
        assert (std[seen] == 0).all()
        np.testing.assert_allclose(values[~seen], filled[~seen], atol=1e-10)
        np.testing.assert_allclose(std[~seen] ** 2, variance[~seen], atol=1e-10)
        np.testing.assert_array_equal(impute(X, parameters)[0], values)

    @pytest.mark.some(3, "slow")
    def test_averages(self, case):
        X, parameters = make_case(**case)
        rows = IncompleteData(X, parameters.mean, parameters.loadings.shape[1])
        about = Parameters(parameters.loadings, 0 * parameters.mean, parameters.noise_variance)
        second, log_variance, log_det = averages(rows, about)
        _, z, covariance, *_ = map(np.array, zip(*[dense(x, parameters) for x in X], strict=True))
        variance = np.einsum("naa->na", covariance)
        np.testing.assert_allclose(second, np.mean(z**2 + variance, axis=0), atol=1e-10)
        np.testing.assert_allclose(log_variance, np.mean(np.log(variance), axis=0), atol=1e-10)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(covariance)[1].mean(), atol=1e-9)

    @pytest.mark.some(3, "slow")
    def test_sums_of_the_e_step(self, case):
        X, parameters = make_case(**case)
        center = np.nan_to_num(np.nanmean(X, axis=0))
        relative = Parameters(parameters.loadings, parameters.mean - center, 0.4)
        sums = Sums.of(IncompleteData(X, center, parameters.loadings.shape[1]), relative)
        density, z, covariance, *_ = map(
            np.array, zip(*[dense(x, parameters) for x in X], strict=True)
        )
        k = z.shape[1]
        pairs = covariance + z[:, :, None] * z[:, None, :]
        i, j = np.tril_indices(k)
        m, values = ~np.isnan(X), np.nan_to_num(X - center)
        close = {"rtol": 1e-9, "atol": 1e-8}
        np.testing.assert_allclose(sums.pairs, np.einsum("nab,nj->abj", pairs, m)[i, j], **close)
        np.testing.assert_allclose(sums.latents, z.T @ m, **close)
        np.testing.assert_allclose(sums.products, z.T @ values, **close)
        np.testing.assert_array_equal(sums.counts, m.sum(axis=0))
        np.testing.assert_allclose(sums.values, values.sum(axis=0), **close)
        np.testing.assert_allclose(sums.all_pairs, pairs.sum(axis=0)[i, j], **close)
        np.testing.assert_allclose(sums.all_latents, z.sum(axis=0), **close)
        np.testing.assert_allclose(sums.log_likelihood, density.sum(), **close)


@pytest.mark.parametrize("n", [30, 120])
@pytest.mark.parametrize("size", [1, 16, 17, 40])
def test_inverses_side_by_side(size, n):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, size, 2 * size))
    A = A @ A.transpose(0, 2, 1)
    inverse, log_det = observed.inverse_and_log_det(np.moveaxis(A, 0, 2).copy())
    np.testing.assert_allclose(np.moveaxis(inverse, 2, 0), np.linalg.inv(A), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(A)[1])
    root, log_det = observed.root_and_log_det(np.moveaxis(A, 0, 2).copy())
    np.testing.assert_array_equal(np.triu(np.moveaxis(root, 2, 0), 1), 0.0)
    product = np.einsum("cap,cbp->abp", root, root)
    np.testing.assert_allclose(product, inverse, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(A)[1])
    pairs = observed.inverse_pairs(root)
    i, j, _ = observed.latent_pairs(size)
    np.testing.assert_allclose(pairs, inverse[i, j], rtol=1e-7, atol=1e-9)


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize("noise_variance", [None, 0.5])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_never_falls(seed, share, noise_variance):
    X, start = make_case(n=80, d=8, k=3, share=share, seed=seed)
    X[:8] = np.where(np.isnan(X[:8]), 1.0, X[:8])  # something of every feature
    rows = IncompleteData(X, np.nanmean(X, axis=0), 3)
    parameters, history, certificate = expectation_maximization(
        rows, start, noise_variance=noise_variance, tol=1e-9, max_iter=3000
    )
    assert (np.diff(history) >= -1e-12).all()
    assert certificate.converged
    assert 0.0 <= certificate.remaining_gain < 1e-7
    assert certificate.gradient_norm < 1e-3
    if noise_variance is not None:
        assert parameters.noise_variance == noise_variance
    # A maximum: no parameters nearby have more.
    rng = np.random.default_rng(0)
    center = np.nanmean(X, axis=0)
    for _ in range(30):
        nearby = Parameters(
            parameters.loadings + 0.01 * rng.normal(size=(8, 3)),
            center + parameters.mean + 0.01 * rng.normal(size=8),
            parameters.noise_variance * (1 if noise_variance else np.exp(0.02 * rng.normal())),
        )
        assert log_likelihood(X, nearby).mean() < history[-1] + 1e-6


def test_the_m_step_is_where_the_expected_likelihood_is_level():
    # Without the expansion, by finite differences of E log p(x_o, z).
    X, start = make_case(n=50, d=5, k=2, share=0.3)
    X[:5] = np.nan_to_num(X[:5])
    center = np.nanmean(X, axis=0)
    rows = IncompleteData(X, center, 2)
    sums = Sums.of(rows, start)
    n = len(X)
    found = maximize(rows, sums, start, None)
    place = latent_pairs(2)[2]
    mean_z = sums.all_latents / n
    root = np.linalg.cholesky(sums.all_pairs[place] / n - np.outer(mean_z, mean_z))
    W = found.loadings @ np.linalg.inv(root)
    mean = found.mean - W @ mean_z

    full = Parameters(start.loadings, start.mean + center, start.noise_variance)
    z, covariance = posterior(X, full, return_cov=True)
    pairs = covariance + z[:, :, None] * z[:, None, :]
    seen = ~np.isnan(X)
    Y = np.nan_to_num(X - center)

    def expected(W, mean, sigma2):
        fit = (Y - mean) ** 2 - 2 * (Y - mean) * (z @ W.T) + np.einsum("nab,ja,jb->nj", pairs, W, W)
        return -0.5 * np.sum(seen * (fit / sigma2 + np.log(sigma2)))

    best = expected(W, mean, found.noise_variance)
    for at in np.ndindex(5, 4):
        j, which = at
        for step in (1e-5, -1e-5):
            other = [W.copy(), mean.copy(), found.noise_variance]
            if which < 2:
                other[0][j, which] += step
            elif which == 2:
                other[1][j] += step
            else:
                other[2] += step
            assert expected(*other) <= best + 1e-9
            assert expected(*other) >= best - 1e-4


def test_with_nothing_missing_it_is_the_closed_form():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ (3 * rng.normal(size=(3, 8))) + rng.normal(size=(200, 8))
    start = Parameters(rng.normal(size=(8, 3)), np.zeros(8), 1.0)
    rows = IncompleteData(X, X.mean(axis=0) + 0.3, 3)
    found, history, _ = expectation_maximization(
        rows, start, noise_variance=None, tol=0.0, max_iter=2000
    )
    S = np.cov(X.T, ddof=0)
    values, vectors = np.linalg.eigh(S)
    sigma2 = values[:5].mean()
    W = vectors[:, 5:] * np.sqrt(values[5:] - sigma2)
    C = W @ W.T + sigma2 * np.eye(8)
    np.testing.assert_allclose(found.loadings @ found.loadings.T, W @ W.T, atol=1e-5)
    assert found.noise_variance == pytest.approx(sigma2, rel=1e-6)
    np.testing.assert_allclose(found.mean + X.mean(axis=0) + 0.3, X.mean(axis=0), atol=1e-6)
    closed = multivariate_normal(X.mean(axis=0), C).logpdf(X).mean()
    assert history[-1] == pytest.approx(closed, abs=1e-9)


def test_rows_of_one_pattern_share_their_work():
    X, _ = make_case(n=3000, d=10, share=0.2, patterns=40)
    rows = IncompleteData(X, np.zeros(10), 3)
    blocks = list(rows.blocks)
    n_patterns = len(np.unique(np.isnan(X), axis=0))
    assert sum(len(block.observed) for block in blocks) == n_patterns < 50
    assert [block.samples.start for block in blocks[1:]] == [
        block.samples.stop for block in blocks[:-1]
    ]
    assert blocks[-1].samples.stop == 3000
    for block in blocks:
        owner = block.owner if block.owner is not None else np.arange(len(block.observed))
        observed = ~np.isnan(X[rows.order[block.samples]])
        np.testing.assert_array_equal(block.observed[owner], observed)


@pytest.mark.parametrize("weighted", [False, True])
def test_least_noise_is_a_share_of_the_least_variance_or_the_rounding_of_squares(weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5)) * [3.0, 0.1, 1.0, 2.0, 0.0] + [0.0, 5.0, -1.0, 0.0, 1e8]
    X[rng.uniform(size=X.shape) < 0.3] = np.nan
    X[:, 4] += 1e-9 * rng.choice([-1.0, 1.0], size=300)  # constant but for rounding
    weights = rng.integers(1, 4, size=300).astype(float) if weighted else None
    repeated = X if weights is None else np.repeat(X, weights.astype(int), axis=0)
    center = np.nanmean(repeated, axis=0)

    def least(scale):
        return IncompleteData(X * scale, center * scale, 2, weights).least_noise

    variances = np.nanmean((repeated - center) ** 2, axis=0)
    assert least(1.0) == pytest.approx(1e-10 * variances[1], rel=1e-9)
    assert least(2.0**-30) == pytest.approx(2.0**-60 * least(1.0), rel=1e-12)
    # A feature so much larger that its rounding errors exceed this share.
    large = np.array([1e4, 1.0, 1.0, 1.0, 1.0])
    average = np.nanmean(((repeated - center) * large) ** 2)
    assert least(large) == pytest.approx(8 * 2.0**-52 * average, rel=1e-9)
    assert least(np.array([0.0, 0.0, 0.0, 0.0, 1.0])) == 0.0


@pytest.mark.parametrize(
    "case",
    [{}, {"patterns": 5}, {"n": 300, "patterns": 60}, {"n": 60, "d": 30, "k": 20}],
    ids=str,
)
@pytest.mark.parametrize("noise_variance", [None, 0.3])
def test_weights_are_repetitions(case, noise_variance):
    X, parameters = make_case(**case)
    weights = np.random.default_rng(1).integers(1, 4, size=len(X))
    about = Parameters(parameters.loadings, 0 * parameters.mean, parameters.noise_variance)
    k = parameters.loadings.shape[1]
    once = IncompleteData(X, parameters.mean, k, weights.astype(float))
    repeated = IncompleteData(np.repeat(X, weights, axis=0), parameters.mean, k)
    assert (once.n, once.n_values) == (repeated.n, repeated.n_values)
    one, other = Sums.of(once, about), Sums.of(repeated, about)
    for found, expected in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    for found, expected in zip(averages(once, about), averages(repeated, about), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    step = maximize(once, one, about, noise_variance)
    expected = maximize(repeated, other, about, noise_variance)
    np.testing.assert_allclose(step.loadings, expected.loadings, atol=1e-7)
    np.testing.assert_allclose(step.mean, expected.mean, atol=1e-7)
    assert step.noise_variance == pytest.approx(expected.noise_variance, rel=1e-7)


@pytest.mark.parametrize("function", ["inverse_and_log_det", "root_and_log_det"])
@pytest.mark.parametrize("entry", [-1.0, 0.0])
@pytest.mark.parametrize("size", [2, 20])
def test_inverses_need_positive_definite_matrices(size, entry, function):
    for j in (0, -1):
        M = np.eye(size)
        M[j, j] = entry
        matrices = np.stack([np.eye(size)] * 60 + [M], axis=2)
        with pytest.raises(np.linalg.LinAlgError):
            getattr(observed, function)(matrices)


def test_threads_of_blas_are_given_back():
    before = [lib["num_threads"] for lib in ThreadpoolController().info()]
    X, parameters = make_case(n=600, d=30, k=20)
    Sums.of(IncompleteData(X, np.zeros(30), 20), parameters)
    log_likelihood(X, parameters)
    assert [lib["num_threads"] for lib in ThreadpoolController().info()] == before


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("n_patterns", [60, 12, 3])  # of one sample each, of few and of many
@pytest.mark.parametrize("far", [0, 30])  # samples that the latents do not explain
def test_small_noise_costs_no_digits(noise, n_patterns, far):
    # By the reconstruction: with all but the noise explained, a dense matrix has no digits left.
    rng = np.random.default_rng(0)
    W = rng.normal(size=(8, 2))
    X = rng.normal(size=(60, 2)) @ W.T + noise * rng.normal(size=(60, 8))
    X[:far] += rng.normal(size=(far, 8))
    X[np.tile(rng.uniform(size=(n_patterns, 8)) < 0.2, (60 // n_patterns, 1))] = np.nan
    parameters = Parameters(W, np.zeros(8), noise**2)
    for x, found in zip(X, log_likelihood(X, parameters), strict=True):
        o = ~np.isnan(x)
        Q, R = np.linalg.qr(np.concatenate([W[o], noise * np.eye(2)]))
        z = np.linalg.solve(R, Q.T @ np.concatenate([x[o], np.zeros(2)]))
        distance = np.sum((x[o] - W[o] @ z) ** 2) / noise**2 + z @ z
        log_det = 2 * np.log(np.abs(np.diag(R))).sum() + (o.sum() - 2) * np.log(noise**2)
        expected = -0.5 * (distance + log_det + o.sum() * np.log(2 * np.pi))
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_that_of_differences(weighted):
    X, at = make_case(n=40, d=5, k=2, share=0.3, seed=0)
    weights = np.linspace(0.5, 2.0, len(X)) if weighted else None
    rows = IncompleteData(X, np.nanmean(X, axis=0), 2, weights)

    def value(W, mean, log_noise):
        parameters = Parameters(W, mean, float(np.exp(log_noise)))
        return Sums.of(rows, parameters).log_likelihood / rows.n

    here = (at.loadings, at.mean, np.log(at.noise_variance))
    derivatives = gradient(rows, Sums.of(rows, at), at)
    rng = np.random.default_rng(0)
    for i, derivative in enumerate(derivatives):
        step = 1e-5 * rng.normal(size=np.shape(here[i]))
        ends = [[*here[:i], here[i] + sign * step, *here[i + 1 :]] for sign in (1.0, -1.0)]
        difference = 0.5 * (value(*ends[0]) - value(*ends[1]))
        assert np.sum(derivative * step) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("noise_variance", [None, 0.5])
@pytest.mark.parametrize("max_iter", [2, 6])
def test_the_certificate_of_em_is_near_what_is_left(max_iter, noise_variance):
    X, start = make_case(n=80, d=8, k=3, share=0.3, seed=0)
    rows = IncompleteData(X, np.nanmean(X, axis=0), 3)
    options = {"noise_variance": noise_variance, "tol": 1e-13}
    best = expectation_maximization(rows, start, max_iter=5000, **options)[1][-1]
    _, history, certificate = expectation_maximization(rows, start, max_iter=max_iter, **options)
    assert not certificate.converged
    assert 0.1 < certificate.remaining_gain / (best - history[-1]) < 3.0
