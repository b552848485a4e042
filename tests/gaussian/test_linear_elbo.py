"""The bound of a linear VAE against autograd, Monte Carlo and pPCA."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from sklearn_vae.gaussian import Moments
from sklearn_vae.gaussian.ascent import maximize
from sklearn_vae.gaussian.bounds import entropy_bound, kl_per_dimension
from sklearn_vae.gaussian.linear_elbo import (
    LinearElbo,
    LinearVAEParameters,
    reconstruction_of,
    residual_of_samples,
    with_best_encoder,
    with_unit_encoder,
)

D, K = 6, 3


def make_rows(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) @ rng.normal(size=(D, D))


def covariance(X):
    return np.cov(X.T, bias=True)


def random_parameters(seed=0, prior=True):
    rng = np.random.default_rng(seed)
    W, V = rng.normal(size=(D, K)), 0.3 * rng.normal(size=(K, D))
    alpha2 = rng.uniform(0.5, 2.0, K) if prior else 1.0
    return LinearVAEParameters(W, V, rng.uniform(0.2, 1.0, K), 0.7, alpha2)


def log_likelihood(S, W, sigma2):
    C = W @ W.T + sigma2 * np.eye(len(W))
    return -0.5 * (
        len(W) * np.log(2 * np.pi) + np.linalg.slogdet(C)[1] + np.trace(np.linalg.solve(C, S))
    )


def gap_of_best_encoder(W, noise_variance):
    """KL(q(z|x) || p(z|x)) of the best encoder, in nats, for any x (Lucas et al., Theorem 1).

    0 where the columns of W are orthogonal.
    """
    M = W.T @ W + noise_variance * np.eye(W.shape[1])
    return 0.5 * float(np.log(np.diag(M)).sum() - np.linalg.slogdet(M)[1])


def elbo_of_unit_encoder(eigenvalues, n_components, noise_variance):
    """Best bound with D = I and prior N(0, I), and its sigma2: short of pPCA, not identifiable.

    Columns of norm^2 = sigma sqrt(lambda_h) - sigma2 where lambda_h > sigma2. With sigma2 learned
    sigma is the positive root of d s^2 - s sum_kept sqrt(lambda) - sum_unkept lambda = 0.
    """
    values = np.sort(eigenvalues)[::-1]
    d, leading = len(values), values[:n_components]
    if noise_variance is None:
        for kept in range(n_components, -1, -1):  # all that are kept must exceed sigma2
            roots, rest = float(np.sqrt(leading[:kept]).sum()), float(values[kept:].sum())
            sigma = (roots + np.sqrt(roots**2 + 4.0 * d * rest)) / (2.0 * d)
            if kept == 0 or leading[kept - 1] > sigma**2:
                break
        noise_variance = sigma**2
    kept_values = leading[leading > noise_variance]
    t = np.sqrt(kept_values / noise_variance)
    rest = float(values.sum() - kept_values.sum())
    log_noise = d * np.log(2.0 * np.pi * noise_variance)
    ppca = log_noise + np.log(t**2).sum() + len(t) + rest / noise_variance
    return float(-0.5 * ppca - (t - 1.0 - np.log(t)).sum()), noise_variance


def kl_of(bound, p):
    log_ratio = np.log(p.D / p.prior_variance)
    return kl_per_dimension(bound.second_moment(p) / p.prior_variance, log_ratio)


def entropies_of(p):
    return entropy_bound(len(p.W), p.noise_variance, np.log(p.D / p.prior_variance))


def test_terms_are_those_of_draws():
    X, p = make_rows(), random_parameters()
    rows = torch.from_numpy(X - X.mean(axis=0))
    W, V, variance = (torch.from_numpy(a) for a in p[:3])
    q = Independent(Normal(rows @ V.T, variance.sqrt().expand(len(X), K)), 1)
    prior = Independent(Normal(torch.zeros(K), torch.from_numpy(p.prior_variance).sqrt()), 1)
    bound = LinearElbo(covariance(X))
    assert kl_of(bound, p).sum() == pytest.approx(kl_divergence(q, prior).mean().item())
    torch.manual_seed(0)
    z = q.sample((4000,))
    log_prob = Independent(Normal(z @ W.T, p.noise_variance**0.5), 1).log_prob(rows).mean(1)
    error = log_prob.std().item() / len(z) ** 0.5
    assert reconstruction_of(bound.residual(p), p.noise_variance, D) == pytest.approx(
        log_prob.mean().item(), abs=5 * error
    )
    np.testing.assert_allclose(
        bound.second_moment(p), ((rows @ V.T) ** 2).mean(0).numpy() + p.D, rtol=1e-10
    )


@pytest.mark.parametrize("prior", [True, False])
def test_gradients_are_those_of_autograd(prior):
    S, p = torch.from_numpy(covariance(make_rows())), random_parameters(prior=prior)
    W, V, variance, sigma2, alpha2 = leaves = [
        torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in p
    ]
    cross = torch.trace(S) - 2 * torch.trace(W.T @ S @ V.T) + torch.trace(W @ V @ S @ V.T @ W.T)
    R = cross + (variance * (W**2).sum(0)).sum()
    moment = torch.diagonal(V @ S @ V.T) + variance
    kl = 0.5 * (moment / alpha2 - 1 - torch.log(variance / alpha2)).sum()
    value = -0.5 * (R / sigma2 + D * torch.log(2 * torch.pi * sigma2)) - kl
    bound = LinearElbo(S.numpy())
    assert bound.value(p) == pytest.approx(value.item(), rel=1e-12)
    value.backward()
    found = bound.value_and_gradients(p)[1]
    for name, gradient, leaf in zip(p._fields, found, leaves, strict=True):
        if name == "prior_variance" and not prior:
            gradient = np.sum(gradient)
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-9, err_msg=name)


def test_eigenvalues_do_for_rows_in_the_eigenbasis():
    S, p = covariance(make_rows()), random_parameters()
    values, U = np.linalg.eigh(S)
    turned = p._replace(W=U.T @ p.W, V=p.V @ U)
    assert LinearElbo(values).value(turned) == pytest.approx(LinearElbo(S).value(p), rel=1e-12)
    there, here = (
        LinearElbo(values).value_and_gradients(turned)[1],
        LinearElbo(S).value_and_gradients(p)[1],
    )
    np.testing.assert_allclose(U @ there.W, here.W, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_the_likelihood_less_the_gap_of_theorem_1(seed):
    S, W = covariance(make_rows()), random_parameters(seed).W
    p = with_best_encoder(W, 0.7)
    likelihood = log_likelihood(S, W, 0.7)
    assert LinearElbo(S).value(p) == pytest.approx(likelihood - gap_of_best_encoder(W, 0.7))
    # KL of the best diagonal posterior from the exact one, which is the same at every x.
    M = W.T @ W + 0.7 * np.eye(K)
    exact = MultivariateNormal(torch.zeros(K).double(), torch.from_numpy(0.7 * np.linalg.inv(M)))
    best = MultivariateNormal(torch.zeros(K).double(), torch.from_numpy(np.diag(p.D)))
    assert gap_of_best_encoder(W, 0.7) == pytest.approx(kl_divergence(best, exact).item())
    orthogonal = np.linalg.qr(W)[0] * [3.0, 2.0, 1.0]
    assert gap_of_best_encoder(orthogonal, 0.7) == pytest.approx(0, abs=1e-12)


def test_a_rotation_of_two_columns_raises_the_bound_and_not_the_likelihood():
    S, W = covariance(make_rows()), random_parameters().W
    bound = LinearElbo(S)
    before = bound.value(with_best_encoder(W, 0.7))
    c, s = np.cos(1e-3), np.sin(1e-3)
    turned = [W @ np.array([[c, t * s, 0], [-t * s, c, 0], [0, 0, 1]]) for t in (-1, 1)]
    best = max(turned, key=lambda A: bound.value(with_best_encoder(A, 0.7)))
    assert bound.value(with_best_encoder(best, 0.7)) > before + 1e-6
    assert log_likelihood(S, best, 0.7) == pytest.approx(log_likelihood(S, W, 0.7), abs=1e-11)


def test_rows_stand_for_their_covariance():
    X, p = make_rows(n=4), random_parameters()
    R = X - X.mean(axis=0)
    there, here = LinearElbo(centered=R), LinearElbo(covariance(X))
    assert there.value(p) == pytest.approx(here.value(p), rel=1e-12)
    np.testing.assert_allclose(
        there.value_and_gradients(p)[1].W, here.value_and_gradients(p)[1].W, rtol=1e-9
    )
    # Eigenvalues that are 0 may be left out.
    values, U = np.linalg.eigh(covariance(X))
    basis = U[:, -3:]
    W, V = basis.T @ p.W, p.V @ basis
    fewer = LinearElbo(values[-3:], n_features=D)
    whole = p._replace(W=basis @ W, V=V @ basis.T)
    assert fewer.value(p._replace(W=W, V=V)) == pytest.approx(here.value(whole), rel=1e-10)


def test_arrays_of_torch_give_the_same():
    S, p = covariance(make_rows()), random_parameters()
    value, gradients = LinearElbo(S).value_and_gradients(p)
    W, V, variance, alpha2 = (torch.from_numpy(a) for a in (p.W, p.V, p.D, p.prior_variance))
    there = LinearVAEParameters(W, V, variance, p.noise_variance, alpha2)
    found = LinearElbo(torch.from_numpy(S)).value_and_gradients(there)
    assert found[0] == pytest.approx(value, rel=1e-13)
    for name, a, b in zip(p._fields, found[1], gradients, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-10, err_msg=name)


def test_columns_collapse_where_the_noise_is_held_above_their_variance():
    S = np.array([9.0, 4.0, 0.9, 0.5, 0.2, 0.1])
    p = LinearElbo(S).best_along(np.eye(D)[:, :K], S[:K], S[K:].sum(), 1.0)
    np.testing.assert_allclose((p.W**2).sum(axis=0), [8.0, 3.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(p.D, [1 / 9, 1 / 4, 1.0])
    np.testing.assert_allclose(kl_of(LinearElbo(S), p)[2], 0, atol=1e-12)


def test_the_unit_encoder_is_the_same_model():
    S, p = covariance(make_rows()), random_parameters(prior=False)
    unit = with_unit_encoder(p)
    bound = LinearElbo(S)
    np.testing.assert_array_equal(unit.D, 1)
    assert bound.value(unit) == pytest.approx(bound.value(p), rel=1e-12)
    np.testing.assert_allclose(unit.W * unit.prior_variance @ unit.W.T, p.W @ p.W.T)


def test_entropies_are_the_bound_and_not_the_likelihood_at_a_saddle():
    S = np.array([9.0, 4.0, *[1.0] * 6])
    c = np.sqrt(0.5)
    W = np.zeros((8, 2))
    W[:2] = np.diag(np.sqrt([6.5, 4.0])) @ [[c, -c], [c, c]]
    bound, p = LinearElbo(S), with_best_encoder(W, 1.0)
    for gradient in bound.value_and_gradients(p)[1][:4]:
        np.testing.assert_allclose(gradient, 0, atol=1e-14)
    assert bound.value(p) == pytest.approx(-13.184089729, abs=1e-9)
    assert entropies_of(p) == pytest.approx(bound.value(p), abs=1e-12)
    assert log_likelihood(np.diag(S), W, 1.0) == pytest.approx(-13.163678732, abs=1e-9)
    # From the saddle itself, by its span alone.
    best = next(maximize(bound, W, 2)).bound
    assert best == pytest.approx(-13.143267735, abs=1e-9)

    # Not a maximum: a rotation that brings the columns nearer to orthogonal raises the bound.
    c, s = np.cos(0.05), np.sin(0.05)
    turned = [W @ np.array([[c, t * s], [-t * s, c]]) for t in (-1, 1)]
    assert max(bound.value(with_best_encoder(A, 1.0)) for A in turned) > bound.value(p) + 1e-5


def test_a_learned_prior_variance_makes_the_unit_encoder_ppca():
    values = np.array([9.0, 4.0, 2.0, 0.5, 0.3, 0.2])
    sigma2 = values[K:].mean()
    alpha2 = values[:K] / sigma2
    W = np.eye(D)[:, :K] * np.sqrt(sigma2 * (values[:K] - sigma2) / values[:K])
    # q(z|x) with variance 1: V of the best encoder under this prior.
    V = np.linalg.solve(W.T @ W + sigma2 * np.diag(1 / alpha2), W.T)
    p = LinearVAEParameters(W, V, np.ones(K), sigma2, alpha2)
    bound = LinearElbo(values)
    for gradient in bound.value_and_gradients(p)[1][:4]:
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
    np.testing.assert_allclose(bound.value_and_gradients(p)[1].prior_variance, 0, atol=1e-12)
    W_ppca = np.eye(D)[:, :K] * np.sqrt(values[:K] - sigma2)
    assert bound.value(p) == pytest.approx(log_likelihood(np.diag(values), W_ppca, sigma2))


@pytest.mark.some(1)
@pytest.mark.parametrize("noise_variance", [None, 0.8, 3.0])
def test_the_unit_encoder_alone_falls_short_by_what_the_formula_says(noise_variance):
    values = np.array([9.0, 4.0, 2.0, 0.5, 0.3, 0.2])
    bound = LinearElbo(values)

    def loss(numbers):
        W = numbers[:-1].reshape(D, K)
        sigma2 = np.exp(numbers[-1]) if noise_variance is None else noise_variance
        p = with_best_encoder(W, sigma2)._replace(D=np.ones(K))
        return -bound.value(p)

    starts = np.random.default_rng(0).normal(size=(8, D * K + 1))
    best = -min(minimize(loss, start, method="BFGS").fun for start in starts)
    found, sigma2 = elbo_of_unit_encoder(values, K, noise_variance)
    assert found == pytest.approx(best, abs=1e-6)
    p = with_best_encoder(
        np.eye(D)[:, :K] * np.sqrt(np.maximum(np.sqrt(sigma2 * values[:K]) - sigma2, 0)), sigma2
    )._replace(D=np.ones(K))
    assert bound.value(p) == pytest.approx(found, abs=1e-10)
    # Not identifiable: any rotation does as well.
    R = np.linalg.qr(np.random.default_rng(1).normal(size=(K, K)))[0]
    assert bound.value(p._replace(W=p.W @ R, V=R.T @ p.V)) == pytest.approx(found, abs=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_residual_of_samples_is_that_of_their_covariance(scale):
    X, p = make_rows(), random_parameters()
    R = X - X.mean(axis=0)
    p = p._replace(W=scale * p.W)
    expected = LinearElbo(covariance(X)).residual(p)
    assert residual_of_samples(R, p) == pytest.approx(expected, rel=1e-12)


def test_moments_are_enough():
    X = make_rows()
    moments = Moments.of(X)
    p = random_parameters()
    bound = LinearElbo(moments.scatter / moments.n)
    assert bound.value(p) == pytest.approx(LinearElbo(covariance(X)).value(p), rel=1e-12)
