"""The bound of a soft-thresholded decoder against quadrature, autograd, pPCA and a grid."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.datasets import load_iris

from sklearn_vae import PPCA
from sklearn_vae.gaussian import SoftThresholdElbo, SoftThresholdParameters
from sklearn_vae.gaussian.soft_threshold import expected_soft_threshold

X = np.array([[-5, -2], [-3, -1], [-1, 0], [1, 0], [3, 1], [5, 2]], dtype=float)
TRAP = SoftThresholdElbo(X, threshold=1.0)
LINEAR = SoftThresholdElbo(X, threshold=0.0)
COLLAPSED = 4.734997051295227
W = np.array([[2.0], [1.0]])


def pi(u, threshold):
    return np.sign(u) * np.maximum(np.abs(u) - threshold, 0.0)


def random_parameters(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    return SoftThresholdParameters(
        rng.normal(size=(d, k)),
        rng.normal(size=d),
        0.7,
        rng.normal(size=(n, k)),
        rng.uniform(0.05, 2.0, size=(n, k)),
    )


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("deviation", [0.03, 0.5, 4.0])
@pytest.mark.parametrize("mean", [-2.3, 0.0, 0.9, 7.0])
def test_moments_are_integrals(mean, deviation, threshold):
    def integral(function):
        density = norm(mean, deviation).pdf
        cuts = sorted({mean - 12 * deviation, mean + 12 * deviation, -threshold, threshold})
        return sum(
            quad(lambda a: function(a) * density(a), low, high, epsabs=1e-13, limit=200)[0]
            for low, high in pairwise(cuts)
        )

    square, first, inside, bend = expected_soft_threshold(
        np.array(mean), np.array(deviation**2), threshold
    )
    assert square == pytest.approx(integral(lambda a: pi(a, threshold) ** 2), abs=1e-10)
    assert first == pytest.approx(integral(lambda a: pi(a, threshold)), abs=1e-10)
    assert inside == pytest.approx(integral(lambda a: float(abs(a) > threshold)), abs=1e-10)
    density = norm(mean, deviation).pdf
    assert bend == pytest.approx(density(threshold) - density(-threshold), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_derivatives_are_those_of_each_other(threshold):
    mean, variance = np.linspace(-3, 3, 25), np.array(0.6)
    h = 1e-5
    up, down = (expected_soft_threshold(mean + s * h, variance, threshold, 4) for s in (1, -1))
    at = expected_soft_threshold(mean, variance, threshold, 4)
    slopes = [(a - b) / (2 * h) for a, b in zip(up, down, strict=True)]
    np.testing.assert_allclose(slopes[0], 2 * at[1], atol=1e-8)
    for order in range(1, 5):
        np.testing.assert_allclose(slopes[order], at[order + 1], atol=1e-8)
    more, less = (expected_soft_threshold(mean, variance + s * h, threshold)[:2] for s in (1, -1))
    by_variance = [(a - b) / (2 * h) for a, b in zip(more, less, strict=True)]
    np.testing.assert_allclose(by_variance[0], at[2], atol=1e-8)
    np.testing.assert_allclose(by_variance[1], at[3] / 2, atol=1e-8)


def test_without_variance_the_moments_are_the_function():
    a = np.array([-2.5, -0.3, 0.0, 0.4, 3.0])
    square, first, inside, bend = expected_soft_threshold(a, np.zeros(5), 1.0)
    np.testing.assert_array_equal(first, pi(a, 1.0))
    np.testing.assert_array_equal(square, pi(a, 1.0) ** 2)
    np.testing.assert_array_equal(inside, np.abs(a) > 1.0)
    np.testing.assert_array_equal(bend, 0.0)


@pytest.mark.some(1)
@pytest.mark.parametrize("k", [1, 3])
def test_the_bound_is_that_of_many_draws(k):
    elbo, p = SoftThresholdElbo(X, 0.8), random_parameters(6, 2, k)
    rng = np.random.default_rng(1)
    z = p.means + np.sqrt(p.variances) * rng.standard_normal((200_000, 6, k))
    log_p = norm(pi(z @ p.loadings.T, 0.8) + p.offset, p.noise_variance**0.5).logpdf(X).sum(axis=2)
    log_p += norm(0, 1).logpdf(z).sum(axis=2)
    log_q = norm(p.means, np.sqrt(p.variances)).logpdf(z).sum(axis=2)
    draws = (log_p - log_q).mean(axis=1)
    assert abs(elbo.value(p) - draws.mean()) < 4.5 * draws.std() / len(draws) ** 0.5


@pytest.mark.parametrize("threshold", [0.0, 0.8])
@pytest.mark.parametrize("k", [1, 3])
def test_the_gradient_is_that_of_autograd(k, threshold):
    p = random_parameters(6, 2, k)
    t = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in p._asdict().items()
    }
    m, v = t["means"] @ t["loadings"].T, t["variances"] @ t["loadings"].square().T
    normal, s = torch.distributions.Normal(*torch.tensor([0.0, 1.0]).double()), v.sqrt()
    first, second = 0.0, 0.0
    for sign in (1, -1):
        u = (sign * m - threshold) / s
        density, inside = normal.log_prob(u).exp(), normal.cdf(u)
        first = first + sign * s * (density + u * inside)
        second = second + v * ((u**2 + 1) * inside + u * density)
    residual = torch.tensor(X) - t["offset"]
    squares = (residual**2 - 2 * residual * first + second).sum(1)
    kl = 0.5 * (t["means"] ** 2 + t["variances"] - 1 - t["variances"].log()).sum(1)
    sigma2 = t["noise_variance"]
    bound = (-0.5 * squares / sigma2 - torch.log(2 * math.pi * sigma2) - kl).mean()
    bound.backward()
    elbo = SoftThresholdElbo(X, threshold)
    assert elbo.value(p) == pytest.approx(bound.item(), rel=1e-12)
    for name, gradient in elbo._gradient(p).items():
        np.testing.assert_allclose(gradient, t[name].grad.numpy(), rtol=1e-10, atol=1e-12)


def test_the_collapsed_point_is_an_isotropic_normal():
    p = TRAP.collapsed()
    assert p.noise_variance == pytest.approx(20 / 3)
    assert -TRAP.value(p) == pytest.approx(COLLAPSED, abs=1e-14)
    log_p = norm(X.mean(axis=0), p.noise_variance**0.5).logpdf(X).sum(axis=1).mean()
    assert TRAP.value(TRAP.collapsed(4)) == pytest.approx(log_p)


def test_no_gradient_leads_away_from_it():
    p = TRAP.collapsed()._replace(means=np.linspace(-1, 1, 6)[:, None])
    for W in (np.zeros((2, 1)), np.full((2, 1), 0.01)):
        assert not TRAP._gradient(p._replace(loadings=W))["loadings"].any()
    gradient = LINEAR._gradient(p._replace(loadings=np.full((2, 1), 0.01)))
    assert np.abs(gradient["loadings"]).min() > 0.1


def below_collapse(elbo, W, noises=(1e-3, 0.1, 1.0)):
    """By how much the bound at this W, all else at its best, lies below that of collapse."""
    best = -np.inf
    for noise in noises:
        start = elbo.collapsed()._replace(loadings=W, noise_variance=noise * elbo.average_variance)
        found = elbo.maximize(elbo.best_posteriors(start), hold=("loadings",), least_noise=1e-2)
        best = max(best, elbo.value(found))
    return elbo.value(elbo.collapsed()) - best


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("length", "known"),
    [(0.5, 9.5e-5), (0.6, 2.8e-4), (0.7, 4.6e-4), (0.8, 4.6e-4), (1.0, -9.7e-4), (2.0, -7.3e-2)],
)
def test_along_the_first_component_the_bound_falls_and_then_rises(length, known):
    direction = np.linalg.svd(X)[2][:1].T
    found = below_collapse(TRAP, length * direction)
    assert found == pytest.approx(known, rel=0.02)


@pytest.mark.some(1)
@pytest.mark.parametrize("length", [0.3, 0.5, 0.8])
def test_it_falls_in_every_direction_within_a_ball(length):
    for angle in np.linspace(0.0, np.pi, 8, endpoint=False):
        W = length * np.array([[math.cos(angle)], [math.sin(angle)]])
        assert below_collapse(TRAP, W, noises=(0.1, 1.0)) > 1e-10
    # A linear decoder rises at once.
    assert below_collapse(LINEAR, length * np.linalg.svd(X)[2][:1].T) < -1e-3


@pytest.mark.parametrize(("noise", "known"), [(1e-2, 2.658), (1e-3, 1.505), (1e-4, 0.354)])
def test_the_good_solution_has_a_higher_bound(noise, known):
    z = np.array([[-3.0], [-2.0], [-1.0], [1.0], [2.0], [3.0]])
    variances = np.full((6, 1), 1.0)
    start = SoftThresholdParameters(W, np.zeros(2), noise, z, noise / 5 * variances)
    hold = ("loadings", "offset", "noise_variance", "means")
    assert -TRAP.value(TRAP.maximize(start, hold)) == pytest.approx(known, abs=2e-3)
    best = TRAP.best_posteriors(start)
    assert TRAP.value(best) > -known
    np.testing.assert_allclose(best.means, z, atol=0.01)


def test_with_threshold_0_the_maximum_is_that_of_ppca():
    near = LINEAR.collapsed()._replace(loadings=1e-3 * W, means=1e-2 * X[:, :1])
    found = LINEAR.maximize(near)
    ppca = PPCA(n_components=1).fit(X)
    assert LINEAR.value(found) == pytest.approx(ppca.score(X), abs=1e-10)
    assert found.noise_variance == pytest.approx(ppca.noise_variance_, rel=1e-4)
    stuck = TRAP.maximize(near)
    assert TRAP.value(stuck) == pytest.approx(-COLLAPSED, abs=1e-9)
    np.testing.assert_array_equal(stuck.loadings, near.loadings)


def test_what_is_held_stays_and_the_rest_is_stationary():
    p = random_parameters(6, 2, 2)
    found = TRAP.maximize(p, hold=("offset", "noise_variance"))
    assert found.offset is p.offset
    assert found.noise_variance == p.noise_variance
    gradient = TRAP._gradient(found)
    assert np.abs(gradient["offset"]).max() > 1e-3
    for name in ("loadings", "means", "variances"):
        assert np.abs(gradient[name]).max() < 1e-5
    assert TRAP.best_noise(found) != pytest.approx(found.noise_variance)
    freed = TRAP.maximize(found, hold=("offset",))
    assert TRAP.best_noise(freed) == pytest.approx(freed.noise_variance, rel=1e-9)
    assert TRAP.value(freed) > TRAP.value(found)


def test_the_noise_has_a_floor():
    z = np.array([[-3.0], [-2.0], [-1.0], [1.0], [2.0], [3.0]])
    start = SoftThresholdParameters(W, np.zeros(2), 1e-2, z, np.full((6, 1), 1e-3))
    assert TRAP.maximize(start, ("loadings",), least_noise=1e-3).noise_variance == 1e-3


@pytest.mark.some(4)
@pytest.mark.parametrize("noise", [1e-3, 0.05, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_best_posteriors_beat_a_grid(noise, seed):
    loadings = 2.0 * np.random.default_rng(seed).normal(size=(2, 1))
    loadings[1, 0] *= seed > 0  # also a feature that does not depend on z
    p = TRAP.collapsed()._replace(loadings=loadings, noise_variance=noise)
    best = TRAP.best_posteriors(p)
    at_best, slopes, _ = TRAP._costs(p, best.means, best.variances)
    means, variances = np.meshgrid(np.linspace(-9, 9, 721), np.geomspace(1e-4, 3, 40))
    rows = np.broadcast_to(means.ravel(), (6, means.size))
    grid = TRAP._costs(p, rows, np.broadcast_to(variances.ravel(), rows.shape))[0]
    assert (at_best[:, 0] <= grid.min(axis=1)).all()
    assert max(np.abs(slope).max() for slope in slopes) < 1e-5


@pytest.mark.parametrize("loadings", [W, np.array([[0.5], [-3.0]]), np.array([[0.0], [1.3]])])
def test_slopes_and_curvatures_are_those_of_the_cost(loadings):
    p = TRAP.collapsed()._replace(loadings=loadings, noise_variance=0.7)
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(6, 9)), rng.uniform(0.05, 2.0, size=(6, 9))

    def cost(a=0.0, b=0.0):
        # Means moved by a standard deviations of before, and log-variances by b.
        moved = means + a * np.sqrt(variances), variances * np.exp(b)
        return TRAP._costs(p, *moved)[0]

    h = 1e-3
    _, slopes, curvatures = TRAP._costs(p, means, variances)
    expected = [
        (cost(h) - cost(-h)) / (2 * h),
        (cost(0, h) - cost(0, -h)) / (2 * h),
        (cost(h) - 2 * cost() + cost(-h)) / h**2,
        (cost(h, h) - cost(h, -h) - cost(-h, h) + cost(-h, -h)) / (4 * h**2),
        (cost(0, h) - 2 * cost() + cost(0, -h)) / h**2,
    ]
    for found, difference in zip([*slopes, *curvatures], expected, strict=True):
        np.testing.assert_allclose(found, difference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("off", ["means", "variances"])
def test_descent_goes_on_until_both_slopes_vanish(off):
    # Of a linear decoder the best posterior is known.
    p = LINEAR.collapsed()._replace(loadings=W, noise_variance=0.7)
    precision = 1.0 + float(np.sum(W**2)) / 0.7
    best = (X - p.offset) @ W / 0.7 / precision, np.full((6, 1), 1.0 / precision)
    start = [best[0], best[1]]
    start[off == "variances"] = start[off == "variances"] + 0.3
    _, means, variances = LINEAR._descend(p, *start)
    np.testing.assert_allclose(means, best[0], atol=1e-9)
    np.testing.assert_allclose(variances, best[1], atol=1e-9)


@pytest.mark.parametrize("noise", [1e-3, 1.0, 20.0])
def test_the_best_posteriors_take_few_steps(noise, monkeypatch):
    costs, calls = SoftThresholdElbo._costs, []

    def counted(*arguments):
        calls.append(costs(*arguments))
        return calls[-1]

    monkeypatch.setattr(SoftThresholdElbo, "_costs", counted)
    TRAP.best_posteriors(TRAP.collapsed()._replace(loadings=W, noise_variance=noise))
    assert 3 < len(calls) < 40


@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_best_posteriors_of_many_rows_are_stationary(noise):
    rows = load_iris().data * 2.4
    elbo = SoftThresholdElbo(rows, 1.0)
    p = elbo.collapsed()._replace(loadings=PPCA(1).fit(rows).loadings_, noise_variance=noise)
    best = elbo.best_posteriors(p)
    _, slopes, _ = elbo._costs(p, best.means, best.variances)
    assert max(np.abs(slope).max() for slope in slopes) < 1e-5
    assert elbo.value(best) > elbo.value(p)


def test_the_best_posterior_of_a_collapsed_decoder_is_the_prior():
    best = TRAP.best_posteriors(TRAP.collapsed()._replace(means=X[:, :1]))
    np.testing.assert_array_equal(best.means, 0.0)
    np.testing.assert_array_equal(best.variances, 1.0)


def test_the_threshold_of_a_linear_decoder_is_the_largest_eigenvalue():
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    for length, at_most in [(1e-2, 1e-4), (1.0, 0.5), (3.0, 4.0)]:
        p = LINEAR.collapsed()._replace(loadings=length * vectors[:, -1:])
        assert 0.0 < values[-1] - LINEAR.collapse_threshold(p) < at_most


def test_at_the_threshold_the_decoder_and_collapse_cost_the_same():
    p = TRAP.collapsed()._replace(loadings=W)
    gamma = TRAP.collapse_threshold(p)
    assert gamma == pytest.approx(10.5804, abs=1e-4)

    def gain(noise):
        own = TRAP.best_posteriors(p._replace(noise_variance=noise))
        return TRAP.value(own) - TRAP.value(TRAP.collapsed()._replace(noise_variance=noise))

    assert abs(gain(gamma)) < 1e-12
    ladder = gamma * np.geomspace(0.01, 100, 12)
    assert [gain(noise) > 0 for noise in ladder] == list(ladder < gamma)


def test_a_decoder_that_is_never_better_has_the_threshold_0():
    across = TRAP.collapsed()._replace(offset=np.array([40.0, -40.0]), loadings=0.5 * W)
    assert TRAP.collapse_threshold(across) == 0.0


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"threshold must be a finite number >= 0, got -1\.0"):
        SoftThresholdElbo(X, -1.0)
    with pytest.raises(ValueError, match=r"X must be a finite matrix .* got shape \(6,\)"):
        SoftThresholdElbo(X[:, 0])
    with pytest.raises(ValueError, match="X must contain different samples, got 3 equal ones"):
        SoftThresholdElbo(np.tile([1.0, 2.0], (3, 1)))
    assert SoftThresholdElbo(np.repeat([[1.0], [2.0]], 3, axis=1)).average_variance == 0.25
    with pytest.raises(ValueError, match=r"hold must contain names from .* got 'weights'"):
        TRAP.maximize(TRAP.collapsed(), hold=("weights",))
    two = TRAP.collapsed(2)._replace(loadings=np.ones((2, 2)))
    with pytest.raises(ValueError, match="one latent dimension, got 2"):
        TRAP.best_posteriors(two)
    with pytest.raises(ValueError, match="one latent dimension, got 2"):
        TRAP.collapse_threshold(two)
    with pytest.raises(ValueError, match=r"differs from the mean of X, got loadings of norm 0.01"):
        TRAP.collapse_threshold(TRAP.collapsed()._replace(loadings=np.full((2, 1), 0.0071)))
