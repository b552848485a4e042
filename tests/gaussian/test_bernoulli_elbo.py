"""The bound of Bernoulli pPCA against draws, finite differences and quadrature over z."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from sklearn_vae.gaussian import bernoulli_elbo
from sklearn_vae.gaussian.bernoulli_elbo import (
    BernoulliParameters,
    LinearBernoulliElbo,
    SamplePosteriors,
    importance_weighted_bound,
    laplace_posterior,
    sample_terms,
)

D, K = 6, 2


def make_parameters(seed=0, d=D, k=K, scale=1.0):
    rng = np.random.default_rng(seed)
    W, mu = scale * rng.normal(size=(d, k)), rng.normal(size=d)
    return BernoulliParameters(W, mu, 0.5 * rng.normal(size=(k, d)), rng.uniform(0.2, 1.0, k))


def make_bits(n=40, seed=0, d=D):
    rng = np.random.default_rng(seed)
    X = (rng.uniform(size=(n, d)) < 0.4).astype(float)
    X[::7] = rng.uniform(size=X[::7].shape)  # soft bits
    return X


def means_of(X, p):
    return (X - X.mean(axis=0)) @ p.V.T


def log_likelihood_by_quadrature(X, W, mu, n_nodes=32):
    """Gauss-Hermite centered and scaled at the mode of each row's posterior."""
    k = W.shape[1]
    t, w = np.polynomial.hermite_e.hermegauss(n_nodes)
    nodes = np.stack(np.meshgrid(*[t] * k, indexing="ij"), axis=-1).reshape(-1, k)
    log_w = np.log(np.stack(np.meshgrid(*[w] * k), axis=-1).reshape(-1, k)).sum(axis=1)
    log_w += 0.5 * np.square(nodes).sum(axis=1)
    z = np.zeros((len(X), k))
    for _ in range(100):  # Newton's method
        p = 1 / (1 + np.exp(-(z @ W.T + mu)))
        H = np.eye(k) + np.einsum("nj,ja,jb->nab", p * (1 - p), W, W)
        z = z + np.linalg.solve(H, ((X - p) @ W - z)[:, :, None])[:, :, 0]
    found = []
    for x, mode, L in zip(X, z, np.linalg.cholesky(np.linalg.inv(H)), strict=True):
        Z = mode + nodes @ L.T
        A = Z @ W.T + mu
        log_joint = A @ x - np.logaddexp(0, A).sum(axis=1) - 0.5 * np.square(Z).sum(axis=1)
        constant = np.log(np.diag(L)).sum() - 0.5 * k * np.log(2 * np.pi)
        found.append(logsumexp(log_joint + log_w) + constant)
    return np.array(found)


def test_terms_are_those_of_draws():
    X, p = make_bits(), make_parameters()
    M = means_of(X, p)
    terms = sample_terms(X, p.W, p.mu, M, p.D)
    q = Independent(Normal(torch.from_numpy(M), torch.from_numpy(p.D).sqrt().expand(len(X), K)), 1)
    prior = Independent(Normal(torch.zeros(K), torch.ones(K)), 1)
    np.testing.assert_allclose(terms.kl.sum(axis=1), kl_divergence(q, prior), rtol=1e-6)
    torch.manual_seed(0)
    logits = q.sample((20_000,)) @ torch.from_numpy(p.W).T + torch.from_numpy(p.mu)
    bits = Bernoulli(logits=logits, validate_args=False)
    log_prob = bits.log_prob(torch.from_numpy(X)).sum(-1)
    error = log_prob.std(0).numpy() / len(logits) ** 0.5
    expected = terms.bound + terms.kl.sum(axis=1)
    assert (np.abs(log_prob.mean(0).numpy() - expected) < 5 * error).all()
    entropy = bits.entropy().sum(-1)
    error = entropy.std(0).numpy() / len(logits) ** 0.5
    expected = 0.5 * np.log(p.D).sum() - terms.entropies
    assert (np.abs(entropy.mean(0).numpy() - expected) < 5 * error).all()


@pytest.mark.parametrize("n", [40, 1500])
def test_weights_are_repetitions(n):
    X, p = make_bits(n), make_parameters()
    counts = np.random.default_rng(1).integers(1, 4, size=n)
    weights, repeated = counts / counts.mean(), np.repeat(X, counts, axis=0)
    found, gradients = LinearBernoulliElbo(X.T.copy(), weights).value_and_gradients(p)
    expected, others = LinearBernoulliElbo(repeated.T.copy()).value_and_gradients(p)
    assert found == pytest.approx(expected, rel=1e-8)
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-6, atol=1e-8)
    each = SamplePosteriors(p.W, p.mu)
    found = each.value_and_gradients(X, *each.start(n), weights)
    expected = each.value_and_gradients(repeated, *each.start(len(repeated)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n", [40, 3000])
def test_gradients_are_those_of_differences(n):
    # Of many rows those of tables.
    X, p = make_bits(n), make_parameters()
    bound, h = LinearBernoulliElbo(X.T.copy()), 1e-4
    gradients = bound.value_and_gradients(p)[1]
    for name in p._fields:
        array = getattr(p, name)
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = h
            above, below = (
                bound.value(p._replace(**{name: array + sign * step})) for sign in (1, -1)
            )
            expected = (above - below) / (2 * h)
            assert getattr(gradients, name)[index] == pytest.approx(expected, abs=5e-8), name


@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("block", [1, 2**17])
def test_the_bound_is_the_mean_of_those_of_the_rows(n, block, monkeypatch):
    monkeypatch.setattr(bernoulli_elbo, "_BLOCK", block)
    X, p = make_bits(n), make_parameters()
    M = means_of(X, p)
    terms = sample_terms(X, p.W, p.mu, M, p.D)
    found = LinearBernoulliElbo(X.T.copy()).value(p)
    assert found == pytest.approx(terms.bound.mean(), abs=1e-11)
    own = sample_terms(X, p.W, p.mu, M, np.broadcast_to(p.D, M.shape))
    for shared, each in zip(terms, own, strict=True):
        np.testing.assert_allclose(shared, each, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_less_the_entropies_is_made_of_derivatives(seed):
    # E_q sum_j (x_j - sigmoid(a_j)) a_j is the derivative along the scale of the decoder.
    X, p = make_bits(), make_parameters(seed)
    M = means_of(X, p)
    terms = sample_terms(X, p.W, p.mu, M, p.D)
    g = LinearBernoulliElbo(X.T.copy()).value_and_gradients(p)[1]
    scale = np.vdot(p.W, g.W) + p.mu @ g.mu
    moments = 0.5 * (1 - np.square(M).mean(axis=0) - p.D).sum()
    gap = terms.bound.mean() - terms.entropies.mean()
    assert gap == pytest.approx(scale + moments, abs=1e-9)
    assert abs(gap) > 1e-2


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_bound_is_below_the_log_likelihood_and_importance_sampling_close(k, scale):
    X, p = make_bits(), make_parameters(k=k, scale=scale)
    exact = log_likelihood_by_quadrature(X, p.W, p.mu)
    np.testing.assert_allclose(log_likelihood_by_quadrature(X, p.W, p.mu, 48), exact, atol=2e-4)
    M, S = SamplePosteriors(p.W, p.mu).start(len(X))
    best = SamplePosteriors(p.W, p.mu).solve(X, M, S)
    amortised = sample_terms(X, p.W, p.mu, means_of(X, p), p.D).bound
    assert (amortised < best).all()
    assert (best < exact).all()
    e = np.random.default_rng(0).normal(size=(20_000, k))
    found = importance_weighted_bound(X, p.W, p.mu, M, S**2, e)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert (found > best).all()
    # One draw at a time is an unbiased estimate of p(x): of its error the draws tell.
    weights = np.exp(
        [
            importance_weighted_bound(X[:5], p.W, p.mu, M[:5], S[:5] ** 2, e[i : i + 1])
            for i in range(500)
        ]
    )
    error = weights.std(axis=0) / len(weights) ** 0.5
    assert (np.abs(weights.mean(axis=0) - np.exp(exact[:5])) < 5 * error).all()


def test_blocks_of_importance_sampling_do_not_show(monkeypatch):
    X, p = make_bits(), make_parameters()
    e = np.random.default_rng(0).normal(size=(30, K))
    whole = importance_weighted_bound(X, p.W, p.mu, means_of(X, p), p.D, e)

    def single(n, columns, at_least=1):
        return (slice(i, i + 1) for i in range(n))

    monkeypatch.setattr(bernoulli_elbo, "row_blocks", single)
    blocks = importance_weighted_bound(X, p.W, p.mu, means_of(X, p), p.D, e)
    np.testing.assert_allclose(whole, blocks, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0, 30.0, 1000.0])
def test_posteriors_are_stationary_and_unique(scale):
    X, p = make_bits(), make_parameters(scale=scale)
    posteriors, rng = SamplePosteriors(p.W, p.mu), np.random.default_rng(0)
    M, S = posteriors.start(len(X))
    best = posteriors.solve(X, M, S)
    np.testing.assert_allclose(sample_terms(X, p.W, p.mu, M, S**2).bound, best, atol=1e-9)
    for spread in (1.0, 5.0):
        other = spread * rng.normal(size=M.shape), np.exp(rng.normal(size=M.shape))
        found = posteriors.solve(X, *other)
        np.testing.assert_allclose(found, best, atol=1e-9)
        np.testing.assert_allclose(other[0], M, atol=1e-8)
        np.testing.assert_allclose(other[1], S, atol=1e-8)
    for h in (1e-2, 1e-4):
        for axis in range(K):
            step = np.zeros(K)
            step[axis] = h * min(1.0, 1 / max(scale, 1e-9))
            for sign in (1, -1):
                moved = sample_terms(X, p.W, p.mu, M + sign * step, S**2).bound
                assert (moved <= best + 1e-11 * max(scale, 1)).all()
                log_moved = np.square(S * np.exp(sign * h * np.eye(K)[axis]))
                moved = sample_terms(X, p.W, p.mu, M, log_moved).bound
                assert (moved <= best + 1e-11 * max(scale, 1)).all()


@pytest.mark.parametrize(("scale", "most"), [(0.3, 5), (1.0, 7), (5.0, 11), (20.0, 13)])
def test_posteriors_take_few_steps_of_newton(scale, most):
    for seed in range(3):
        X, p = make_bits(seed=seed), make_parameters(seed, scale=scale)
        posteriors, sizes = SamplePosteriors(p.W, p.mu), []
        derivatives = posteriors._derivatives

        def counted(bits, *others, derivatives=derivatives, sizes=sizes):
            sizes.append(len(bits))
            return derivatives(bits, *others)

        posteriors._derivatives = counted
        posteriors.solve(X, *posteriors.start(len(X)))
        assert 3 < len(sizes) <= most
        assert sizes == sorted(sizes, reverse=True)  # those that have ended are left out


def test_derivatives_of_rows_are_those_of_differences():
    X, p = make_bits(10), make_parameters()
    posteriors, rng, h = SamplePosteriors(p.W, p.mu), np.random.default_rng(0), 1e-4
    q = np.hstack([rng.normal(size=(10, K)), rng.uniform(0.3, 1.5, (10, K))])

    def at(q):
        return posteriors._derivatives(X, q[:, :K], q[:, K:])

    bound, gradient, H = at(q)[:3]
    np.testing.assert_allclose(
        bound, sample_terms(X, p.W, p.mu, q[:, :K], q[:, K:] ** 2).bound, rtol=1e-12
    )
    for i in range(2 * K):
        step = h * np.eye(2 * K)[i]
        above, below = at(q + step), at(q - step)
        np.testing.assert_allclose((above[0] - below[0]) / (2 * h), gradient[:, i], atol=1e-7)
        np.testing.assert_allclose((above[1] - below[1]) / (2 * h), -H[:, i], atol=1e-6)
    assert (np.linalg.eigvalsh(H) > 0.9).all()


def test_posteriors_depend_on_neither_order_nor_company_nor_blocks(monkeypatch):
    X, p = make_bits(), make_parameters(scale=2.0)
    posteriors = SamplePosteriors(p.W, p.mu)

    def solved(rows):
        M, S = posteriors.start(len(rows))
        bound = posteriors.solve(rows, M, S)
        return np.column_stack([bound, M, S])

    whole = solved(X)
    np.testing.assert_allclose(solved(X[::-1])[::-1], whole, rtol=1e-9, atol=1e-11)
    alone = np.concatenate([solved(X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(alone, whole, rtol=1e-9, atol=1e-11)
    monkeypatch.setattr(bernoulli_elbo, "_BLOCK", 8 * D)
    np.testing.assert_allclose(solved(X), whole, rtol=1e-9, atol=1e-11)


def test_gradients_at_the_best_posteriors_are_those_of_differences():
    X, p, h = make_bits(), make_parameters(), 1e-4

    def at(W, mu):
        posteriors = SamplePosteriors(W, mu)
        return posteriors.value_and_gradients(X, *posteriors.start(len(X)))

    value, of_W, of_mu = at(p.W, p.mu)
    M, S = SamplePosteriors(p.W, p.mu).start(len(X))
    best = SamplePosteriors(p.W, p.mu).solve(X, M, S)
    assert value == pytest.approx(best.mean(), abs=1e-11)
    for j, i in np.ndindex(p.W.shape):
        step = np.zeros_like(p.W)
        step[j, i] = h
        expected = (at(p.W + step, p.mu)[0] - at(p.W - step, p.mu)[0]) / (2 * h)
        assert of_W[j, i] == pytest.approx(expected, abs=1e-8)
    for j in range(D):
        step = h * np.eye(D)[j]
        expected = (at(p.W, p.mu + step)[0] - at(p.W, p.mu - step)[0]) / (2 * h)
        assert of_mu[j] == pytest.approx(expected, abs=1e-8)


def test_the_expansion_about_zero_is_near_for_small_loadings():
    X, p = make_bits(), make_parameters(scale=0.05)
    V, variance = laplace_posterior(p.W, p.mu)
    M, S = SamplePosteriors(p.W, p.mu).start(len(X))
    SamplePosteriors(p.W, p.mu).solve(X, M, S)
    expected = (X - 1 / (1 + np.exp(-p.mu))) @ V.T
    np.testing.assert_allclose(M, expected, atol=2e-3)
    np.testing.assert_allclose(S**2, np.broadcast_to(variance, S.shape), atol=2e-3)
