"""The bound of mixed columns against quadrature over z, finite differences and other models."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import erfinv, expit, logsumexp, roots_hermitenorm
from scipy.stats import poisson

from sklearn_vae.gaussian import mixed_bound, mixed_predictive, observed
from sklearn_vae.gaussian.bernoulli_elbo import SamplePosteriors
from sklearn_vae.gaussian.mixed_bound import MixedBound
from sklearn_vae.gaussian.mixed_columns import ColumnTerms
from sklearn_vae.gaussian.mixed_em import climb_by_em
from sklearn_vae.gaussian.mixed_posterior import MixedPosteriors, Posteriors
from sklearn_vae.gaussian.mixed_predictive import MixedModel
from sklearn_vae.gaussian.mixed_terms import Sizes, TermData, TermParameters, expected_terms
from tests.gaussian.mixed_data import OWNER, log_prob, make_terms

NODES, WEIGHTS = roots_hermitenorm(24)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def solved(data, p, diagonal=False):
    search = MixedPosteriors(p, diagonal)
    q = search.start(data)
    bound, converged = search.solve(data, q)
    assert converged.all()
    return q, bound


def grid(k):
    nodes = np.stack(np.meshgrid(*[NODES] * k, indexing="ij"), axis=-1).reshape(-1, k)
    weights = np.stack(np.meshgrid(*[WEIGHTS] * k, indexing="ij"), axis=-1).reshape(-1, k)
    return nodes, np.log(weights).sum(axis=1)


def log_likelihood(data, p, q):
    """log p(x) of each sample by quadrature that is centered and scaled at its posterior."""
    nodes, log_weights = grid(p.W.shape[1])
    roots = np.linalg.cholesky(q.covariance)
    Z = q.mean[:, None] + nodes @ roots.transpose(0, 2, 1)
    log_det = np.log(np.einsum("nhh->nh", roots)).sum(axis=1)
    ratio = 0.5 * (np.square(nodes).sum(axis=1) - np.square(Z).sum(axis=2))
    return logsumexp(log_prob(data, p, Z) + ratio + log_weights, axis=1) + log_det


def elbo(data, p, mean, root):
    """Bound of one sample for q = N(mean, root root') by quadrature."""
    nodes, log_weights = grid(len(mean))
    Z = mean + nodes @ root.T
    kl = 0.5 * (mean @ mean + np.sum(root**2) - len(mean)) - np.log(np.diag(root)).sum()
    return np.exp(log_weights) @ log_prob(data, p, Z[None])[0] - kl


@pytest.mark.parametrize("k", [1, 2])
def test_bound_is_below_the_log_likelihood_and_near_it(k):
    data, p = make_terms(30, k)
    q, bound = solved(data, p)
    gap = log_likelihood(data, p, q) - bound
    assert gap.min() > -1e-9
    assert 1e-4 < gap.mean() < 0.05


def test_posteriors_maximize_the_bound():
    data, p = make_terms(2, 2)
    q, bound = solved(data, p)
    for i in range(2):
        one = data.of(slice(i, i + 1))

        def loss(x, one=one):
            return -elbo(one, p, x[:2], np.array([[np.exp(x[2]), 0.0], [x[3], np.exp(x[4])]]))

        best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-6})
        np.testing.assert_allclose(bound[i], -best.fun, atol=1e-8)
        np.testing.assert_allclose(q.mean[i], best.x[:2], atol=1e-4)
        assert -elbo(one, p, q.mean[i], np.linalg.cholesky(q.covariance[i])) == pytest.approx(
            -bound[i], abs=1e-8
        )


def test_diagonal_posteriors_are_those_of_bernoulli_ppca():
    data, p = make_terms(30, 3, share_missing=0.0, sizes=Sizes(0, 0, 9))
    q, bound = solved(data, p, diagonal=True)
    search = SamplePosteriors(p.W, p.b)
    M, S = search.start(30)
    np.testing.assert_allclose(bound, search.solve(data.values, M, S), atol=1e-10)
    np.testing.assert_allclose(q.mean, M, atol=1e-8)
    np.testing.assert_allclose(np.einsum("nhh->nh", q.covariance), S**2, atol=1e-8)
    assert (solved(data, p)[1] >= bound - 1e-12).all()


def test_gaussian_terms_have_the_exact_posterior_and_likelihood():
    data, p = make_terms(30, 2, share_missing=0.4, sizes=Sizes(9, 0, 0))
    q, bound = solved(data, p)
    X = (np.where(data.observed > 0.0, data.values, np.nan) - p.b) / 0.5
    parameters = observed.Parameters(p.W / 0.5, np.zeros(9), 1.0)
    mean, covariance = observed.posterior(X, parameters, return_cov=True)
    exact = observed.log_likelihood(X, parameters) - data.observed.sum(axis=1) * np.log(0.5)
    np.testing.assert_allclose(bound, exact, atol=1e-10)
    np.testing.assert_allclose(q.mean, mean, atol=1e-10)
    np.testing.assert_allclose(q.covariance, covariance, atol=1e-10)


@pytest.mark.parametrize("diagonal", [False, True])
def test_posteriors_of_large_loadings_and_little_noise_are_found(diagonal):
    data, p = make_terms(60, 3, scale=8.0)
    p = p._replace(noise=np.array([1e-4, 1e-3, 1.0, 0.1, 30.0]))
    q, _ = solved(data, p, diagonal)
    search = MixedPosteriors(p, diagonal)
    E = search.expectations(data, q.mean, q.covariance)
    residual = E[1] @ p.W - q.mean
    # Twice the rise that Newton's step for the mean predicts.
    S = search.mean_covariance(E)
    assert np.einsum("nh,nhl,nl->n", residual, S, residual).max() < 1e-11


def test_a_sample_without_observed_values_has_the_prior():
    data, p = make_terms(3, 2)
    data = TermData(np.zeros_like(data.values), np.zeros_like(data.observed), data.sizes)
    q, bound = solved(data, p)
    np.testing.assert_allclose(bound, 0.0, atol=1e-14)
    np.testing.assert_allclose(q.covariance, np.broadcast_to(np.eye(2), (3, 2, 2)), atol=1e-14)


def test_expected_terms_are_integrals_with_their_derivatives():
    data, p = make_terms(20, 2)
    rng = np.random.default_rng(0)
    A, V = rng.normal(size=data.values.shape), rng.uniform(0.1, 0.5, size=data.values.shape)
    E = expected_terms(data, A, V, p.noise, order=4)
    identity = TermParameters(np.eye(9), np.zeros(9), p.noise)
    for j in range(9):
        Z = np.zeros((20, 24, 9))
        Z[:, :, j] = A[:, j, None] + np.sqrt(V[:, j, None]) * NODES
        only = np.zeros_like(data.observed)
        only[:, j] = data.observed[:, j]
        one = TermData(data.values * only, only, data.sizes)
        np.testing.assert_allclose(E[0, :, j], log_prob(one, identity, Z) @ WEIGHTS, atol=1e-8)
    h = 1e-4
    up, down = (expected_terms(data, A + s, V, p.noise, order=4) for s in (h, -h))
    np.testing.assert_allclose(E[1:], (up - down)[:-1] / (2 * h), atol=1e-6)
    up, down = (expected_terms(data, A, V + s, p.noise) for s in (h, -h))
    np.testing.assert_allclose(0.5 * E[2], (up - down)[0] / (2 * h), atol=1e-6)


def test_counts_with_large_r_are_poisson():
    y = np.arange(12.0)[:, None]
    data = TermData(y, np.ones_like(y), Sizes(0, 1, 0))
    E = expected_terms(data, np.full_like(y, 1.3), np.zeros_like(y), np.array([1e6]))
    np.testing.assert_allclose(E[0], poisson.logpmf(y, np.exp(1.3)), atol=1e-4)


@pytest.mark.parametrize("diagonal", [False, True])
def test_derivatives_of_the_bound(diagonal, monkeypatch):
    monkeypatch.setattr(mixed_bound, "LOOSE_DECREMENT", 1e-20)
    data, p = make_terms()
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, 40)
    q = MixedPosteriors(p, diagonal).start(data)
    bound = MixedBound(data, OWNER, q, weights / weights.mean(), diagonal)
    x = bound.pack(p) + 0.1 * rng.normal(size=bound.pack(p).size)
    u, v, h = rng.normal(size=x.size), rng.normal(size=x.size), 2e-4
    point = bound(x)
    Hu, Hv = point.curvature(u), point.curvature(v)
    assert u @ point.precondition(v) == pytest.approx(v @ point.precondition(u), rel=1e-10)
    assert u @ Hv == pytest.approx(v @ Hu, rel=1e-6)
    up, down = bound(x + h * u), bound(x - h * u)
    assert (up.value - down.value) / (2 * h) == pytest.approx(point.gradient @ u, abs=5e-6)
    np.testing.assert_allclose(-(up.gradient - down.gradient) / (2 * h), Hu, atol=1e-5)
    np.testing.assert_allclose(bound.parameters(bound.pack(p)).noise, p.noise, rtol=1e-12)


def test_em_rises_and_derivatives_include_the_penalty():
    data, p = make_terms()
    q = MixedPosteriors(p, False).start(data)
    bound = MixedBound(data, OWNER, q, np.ones(40), False, ridge=0.05)
    bound.decrement = 1e-20
    x, history = climb_by_em(bound, bound.pack(p), 12, 0.0)
    assert len(history) > 8
    assert (np.diff(history) > 0.0).all()
    assert bound(x).value >= history[-1]
    u, h = np.random.default_rng(0).normal(size=x.size), 2e-4
    curvature = bound(x).curvature(u)
    up, down = bound(x + h * u), bound(x - h * u)
    np.testing.assert_allclose(-(up.gradient - down.gradient) / (2 * h), curvature, atol=1e-5)
    slope = (up.value - down.value) / (2 * h)
    assert slope == pytest.approx(bound(x).gradient @ u, abs=5e-6)


def test_means_of_limited_exponentials():
    terms = ColumnTerms(["positive", "count"], [[], []])
    A, V = np.array([[0.5, 1.0], [9.0, -2.0]]), np.array([[0.3, 1.0], [2.0, 0.0]])
    noise, largest = np.array([0.2, 3.0]), np.array([4.0, 6.0])
    mean, variance = terms.moments(A, V, noise, np.array([[0.0, 0.0], largest]))
    a = A[..., None] + np.sqrt(V + noise * [1.0, 0.0])[..., None] * np.sqrt(2.0) * erfinv(
        (np.arange(200000) + 0.5) / 100000 - 1.0
    )
    values = np.minimum(np.exp(a), largest[:, None])
    np.testing.assert_allclose(mean, values.mean(axis=2), rtol=1e-4)
    expected = values.var(axis=2)
    expected[:, 1] += (values + values**2 / 3.0)[:, 1].mean(axis=1)
    np.testing.assert_allclose(variance, expected, rtol=1e-3, atol=1e-6)


TYPES = ["categorical", "real", "ordinal", "count", "binary", "positive"]
N_CATEGORIES = [4, 0, 3, 0, 2, 0]


def make_model(seed=0, k=2, diagonal=False):
    rng = np.random.default_rng(seed)
    codes = np.column_stack(
        [rng.integers(0, size, 50) if size else rng.poisson(3.0, 50) + 1.0 for size in N_CATEGORIES]
    ).astype(float)
    terms = ColumnTerms.of(codes, TYPES, N_CATEGORIES, np.ones(50))
    W = 0.5 * rng.normal(size=(len(terms.columns), k))[terms.owner]
    p = TermParameters(W, rng.normal(size=len(W)), np.array([0.3, 0.2, 4.0]))
    return MixedModel(terms, p, diagonal), codes


def test_terms_of_columns():
    model, codes = make_model()
    terms = model.terms
    np.testing.assert_array_equal(terms.columns, [1, 5, 3, 0, 0, 0, 2, 2, 4])
    np.testing.assert_array_equal(terms.owner, [0, 1, 2, 3, 4, 5, 6, 6, 7])
    assert terms.sizes == (2, 1, 6)
    counts = np.bincount(codes[:, 0].astype(int))[terms.orders[0]]
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("column", [0, 2, 4])
def test_probabilities_of_categories_sum_to_one(column):
    # The sum over categories of the likelihood of a column, with z integrated out.
    model, _ = make_model()
    size = N_CATEGORIES[column]
    codes = np.full((size, len(TYPES)), np.nan)
    codes[:, column] = np.arange(size)
    data, _ = model.terms.encode(codes)
    q, bound = solved(data, model.parameters)
    p = np.exp(log_likelihood(data, model.parameters, q))
    assert p.sum() == pytest.approx(1.0, abs=1e-6)
    assert np.exp(bound).sum() < 1.0
    prior = Posteriors(np.zeros((1, 2)), np.eye(2)[None])
    np.testing.assert_allclose(model.predict(prior).probabilities[column][0], p, atol=3e-3)


def test_density_of_positive_columns_is_in_their_units():
    model, _ = make_model()
    codes = np.full((1, len(TYPES)), np.nan)
    grid = np.exp(np.linspace(-12.0, 12.0, 4001))
    codes = np.repeat(codes, len(grid), axis=0)
    codes[:, 5] = grid
    density = np.exp(model.encode(codes)[1])
    assert np.trapezoid(density * grid, np.log(grid)) == pytest.approx(1.0, abs=1e-6)


def test_predictions_are_averages_over_the_posterior():
    model, codes = make_model()
    codes[:, 0] = np.nan
    codes[::2, 3:] = np.nan
    q, _ = model.encode(codes[:10])
    prediction = model.predict(q)
    rng = np.random.default_rng(0)
    n = 4000
    Z = q.mean[:, None] + rng.normal(size=(10, n, 2)) @ np.linalg.cholesky(q.covariance).transpose(
        0, 2, 1
    )
    given = model.conditional(Z.reshape(-1, 2))
    mean = given.mean.reshape(10, n, -1)
    variance = given.variance.reshape(10, n, -1).mean(axis=1) + mean.var(axis=1)
    error = 5.0 * mean.std(axis=1) / np.sqrt(n) + 3e-3
    assert (np.abs(prediction.mean - mean.mean(axis=1)) < error).all()
    np.testing.assert_allclose(prediction.variance, variance, rtol=0.3)
    for j, p in given.probabilities.items():
        np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
        average = p.reshape(10, n, -1).mean(axis=1)
        np.testing.assert_allclose(prediction.probabilities[j], average, atol=0.03)


def test_columns_of_one_category_need_no_draws(monkeypatch):
    codes = np.column_stack([np.arange(5.0), np.zeros(5)])
    terms = ColumnTerms.of(codes, ["real", "categorical"], [0, 1], np.ones(5))
    model = MixedModel(terms, TermParameters(np.ones((1, 1)), np.zeros(1), np.ones(1)), False)
    monkeypatch.setattr(mixed_predictive, "qmc", None)
    prediction = model.predict(model.encode(codes)[0])
    np.testing.assert_array_equal(prediction.probabilities[1], np.ones((5, 1)))
    np.testing.assert_array_equal(prediction.most_probable()[:, 1], 0.0)


def test_draws_have_the_moments_and_probabilities_of_the_model():
    model, _ = make_model()
    z, n = np.array([[0.3, -0.5]]), 20000
    given = model.conditional(z)
    A = np.repeat(z @ model.parameters.W.T + model.parameters.b, n, axis=0)
    codes = model.terms.draw(A, model.parameters.noise, np.random.RandomState(0))
    error = 5.0 * np.sqrt(given.variance[0] / n)
    assert (np.abs(codes.mean(axis=0) - given.mean[0]) < error).all()
    np.testing.assert_allclose(codes.var(axis=0), given.variance[0], rtol=0.15)


def test_a_category_without_probability_is_never_drawn():
    class SmallestNumbers(np.random.RandomState):
        def uniform(self, *, size):
            return np.zeros(size)

    terms = ColumnTerms(["ordinal"], [[0, 1, 2]])
    A = np.array([[1e4, 0.0], [0.0, 0.0]])  # in the first sample category 0 is impossible
    codes = terms.draw(A, np.empty(0), SmallestNumbers(0))
    np.testing.assert_array_equal(codes, [[1.0], [0.0]])


def test_probabilities_of_a_hidden_column_are_those_without_its_values():
    model, codes = make_model()
    codes[::3, 0] = codes[:, 4] = np.nan
    found = dict(model.probabilities_of_hidden(codes, [0, 2, 4]))
    for j, p in found.items():
        hidden = codes.copy()
        hidden[:, j] = np.nan
        expected = model.predict(model.encode(hidden)[0]).probabilities[j]
        np.testing.assert_allclose(p, expected, atol=1e-5)


def test_two_categories_have_the_probabilities_of_a_binary_column():
    codes = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])  # 1 is frequent, and the first of them
    p = TermParameters(np.array([[0.5, 1.0], [3.0, -2.0]]), np.array([1.0, 0.3]), np.ones(1))
    prior = Posteriors(np.zeros((1, 2)), np.eye(2)[None])
    nodes, weights = roots_hermitenorm(150)
    known = weights @ expit(0.3 + 13.0**0.5 * nodes) / weights.sum()
    for kind in ("binary", "categorical"):
        terms = ColumnTerms.of(codes, ["real", kind], [0, 2], np.ones(3))
        found = MixedModel(terms, p, False).predict(prior).probabilities[1]
        np.testing.assert_allclose(found, [[1.0 - known, known]], atol=1e-4)


class FallingBound:
    """A bound that falls in the third step, and changes the posteriors in each."""

    def __init__(self):
        self.q = Posteriors(np.zeros(1), np.zeros(1))
        self.steps = [(1.0, 3.0, 2.0), (1.0, 4.0, 0.5), (1.0, 3.5, 0.5), (1.0, 9.0, 0.5)]

    def em_step(self, x):
        self.q.mean[...] += 1.0
        self.q.precision[...] -= 1.0
        return self.steps.pop(0)


@pytest.mark.parametrize(
    ("max_iter", "gain", "n_steps"), [(9, 0.0, 2), (9, 0.5, 2), (9, 2.0, 1), (1, 0.0, 1)]
)
def test_em_ends_at_the_best_point_with_its_posteriors(max_iter, gain, n_steps):
    bound = FallingBound()
    x, history = climb_by_em(bound, np.zeros(1), max_iter, gain)
    assert x == n_steps - 1
    assert history == [3.0, 4.0][:n_steps]
    assert (bound.q.mean[0], bound.q.precision[0]) == (n_steps, -n_steps)
