"""BernoulliPPCA: what is fitted, what it says of rows, and what a user is told."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.linalg import subspace_angles
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer

from sklearn_vae.gaussian import bernoulli_elbo
from sklearn_vae.gaussian.bernoulli_bound import whitening
from sklearn_vae.gaussian.bernoulli_elbo import (
    BernoulliParameters,
    LinearBernoulliElbo,
    SamplePosteriors,
    sample_terms,
)
from sklearn_vae.gaussian.trust_region import Point
from sklearn_vae.linear import bernoulli_fit
from sklearn_vae.linear.bernoulli import BernoulliPPCA
from sklearn_vae.linear.bernoulli_fit import maximize
from tests.gaussian.test_bernoulli_elbo import log_likelihood_by_quadrature
from tests.helpers import remembered_names

RNG = np.random.default_rng(0)
W_TRUE = 1.5 * RNG.normal(size=(12, 2))
MU_TRUE = 0.7 * RNG.normal(size=12)


def make_bits(n=150, seed=0):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, 2))
    return (rng.uniform(size=(n, 12)) < expit(Z @ W_TRUE.T + MU_TRUE)).astype(float)


X = make_bits()
MODELS = [BernoulliPPCA(random_state=0), BernoulliPPCA(inference="per_sample", random_state=0)]
FITTED = [clone(model).fit(X) for model in MODELS]

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.inference)
each_fitted = pytest.mark.parametrize("model", FITTED, ids=lambda model: model.inference)


def parameters_of(model):
    return np.concatenate([model.loadings_.ravel(), model.intercept_, *model.transform(X)])


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS[:2], ids=lambda m: m.inference)
def test_the_model_that_drew_the_rows_is_found(model):
    rows, others = make_bits(3000, seed=1), make_bits(400, seed=2)
    model = clone(model).fit(rows)
    truth = log_likelihood_by_quadrature(others, W_TRUE, MU_TRUE)
    found = log_likelihood_by_quadrature(others, model.loadings_, model.intercept_)
    # 36 parameters from 3000 rows cost about 36 / 6000 nats each.
    assert abs(found.mean() - truth.mean()) < 0.05
    assert np.degrees(subspace_angles(model.loadings_, W_TRUE)).max() < 10
    assert (model.score_samples(others) < found).all()
    assert model.score(others) > found.mean() - 0.1
    estimate = model.log_likelihood(others, n_samples=1000)
    assert estimate.mean() == pytest.approx(found.mean(), abs=0.02)
    assert model.log_likelihood(others, n_samples=5).mean() < estimate.mean()
    assert len(model.collapsed_dims_) == 0


@each_model
def test_the_fit_is_a_stationary_point_and_there_entropies_are_the_bound(model):
    model = clone(model).set_params(tol=0.0, max_iter=3000).fit(X)
    assert model.entropy_bound_ == pytest.approx(model.elbo_, abs=1e-5)
    W, mu = model.loadings_, model.intercept_
    if model.inference == "linear":
        p = BernoulliParameters(W, mu, model.encoder_weights_, model.encoder_variance_)
        value, gradients = LinearBernoulliElbo(X.T.copy()).value_and_gradients(p)
    else:
        posteriors = SamplePosteriors(W, mu)
        value, *gradients = posteriors.value_and_gradients(X, *posteriors.start(len(X)))
    assert value == pytest.approx(model.elbo_, abs=1e-9)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)
    with pytest.warns(ConvergenceWarning):
        early = clone(model).set_params(max_iter=3).fit(X)
    assert abs(early.entropy_bound_ - early.elbo_) > 1e-3


@each_fitted
def test_the_bound_never_falls_and_is_the_score(model):
    assert (np.diff(model.elbo_history_) >= -1e-12).all()
    assert len(model.elbo_history_) == model.n_iter_ + 1
    assert model.elbo_history_[-1] > model.elbo_history_[0] + 0.1
    assert model.elbo_history_[-1] == pytest.approx(model.elbo_, abs=1e-9)
    assert model.score(X) == model.score_samples(X).mean() == pytest.approx(model.elbo_, abs=1e-12)


def test_posteriors_of_a_row_of_its_own_leave_no_amortisation_gap():
    linear, free = FITTED
    assert free.elbo_ > linear.elbo_ + 0.01
    M, S = SamplePosteriors(linear.loadings_, linear.intercept_).start(len(X))
    best = SamplePosteriors(linear.loadings_, linear.intercept_).solve(X, M, S)
    assert (best > linear.score_samples(X)).all()
    assert best.mean() < free.elbo_
    assert not hasattr(free, "encoder_weights_")
    other = clone(linear).fit(X).set_params(inference="per_sample")
    np.testing.assert_array_equal(other.transform(X), linear.transform(X))
    assert not hasattr(other.fit(X), "encoder_weights_")


@each_fitted
def test_latents_are_in_order_and_components_span_the_loadings(model):
    W, U = model.loadings_, model.components_
    lengths = np.linalg.norm(W, axis=0)
    assert (np.diff(lengths) < 0).all()
    assert (W[np.abs(W).argmax(axis=0), [0, 1]] > 0).all()
    np.testing.assert_allclose(U @ U.T, np.eye(2), atol=1e-12)
    assert (U[[0, 1], np.abs(U).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(U.T @ (U @ W), W, atol=1e-12)
    assert np.linalg.norm(U[0] @ W) == pytest.approx(np.linalg.norm(W, 2))


@each_fitted
def test_what_is_said_of_rows(model):
    mean, variance = model.posterior(X)
    np.testing.assert_array_equal(model.transform(X), mean)
    assert mean.shape == variance.shape == (150, 2)
    covariance = model.posterior(X, return_cov=True)[1]
    np.testing.assert_array_equal(covariance, variance[:, :, None] * np.eye(2))
    if model.inference == "linear":
        expected = (X - X.mean(axis=0)) @ model.encoder_weights_.T
        np.testing.assert_allclose(mean, expected, atol=1e-12)
        np.testing.assert_array_equal(variance[3], model.encoder_variance_)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(model.kl_per_dim_, kl.mean(axis=0), rtol=1e-12)
    p, spread = model.conditional(mean)
    logits = mean @ model.loadings_.T + model.intercept_
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits)), rtol=1e-12)
    np.testing.assert_allclose(spread, p * (1 - p), rtol=1e-12)
    np.testing.assert_array_equal(model.inverse_transform(mean), p)
    assert np.abs(p - X).mean() < np.abs(X.mean(axis=0) - X).mean()
    terms = sample_terms(X, model.loadings_, model.intercept_, mean, variance)
    np.testing.assert_allclose(model.score_samples(X), terms.bound, atol=1e-9)


@each_fitted
def test_draws_are_those_of_the_model(model):
    rows, Z = model.sample(20_000, random_state=0)
    assert set(np.unique(rows)) == {0.0, 1.0}
    p = model.inverse_transform(Z)
    np.testing.assert_allclose(rows.mean(axis=0), p.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(Z.T), np.eye(2), atol=0.05)
    residual = (rows - p).T @ Z / len(Z)
    np.testing.assert_allclose(residual, 0, atol=0.02)
    np.testing.assert_array_equal(rows[:5], model.sample(20_000, random_state=0)[0][:5])
    assert not np.array_equal(rows, model.sample(20_000, random_state=1)[0])


@pytest.mark.some(1, "slow")
@each_fitted
def test_rows_depend_on_neither_order_nor_company_nor_blocks(model, monkeypatch):
    def said(rows):
        scores, likelihood = model.score_samples(rows), model.log_likelihood(rows, 20)
        return np.column_stack([scores, likelihood, *model.posterior(rows)])

    whole, order = said(X), np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(said(X[order]), whole[order], rtol=1e-8)
    alone = np.concatenate([said(X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, whole[:20], rtol=1e-8)
    np.testing.assert_array_equal(said(X), whole)
    many = np.tile(X, (10, 1))  # enough for tables
    np.testing.assert_allclose(said(many)[:150], whole, rtol=1e-8)
    monkeypatch.setattr(bernoulli_elbo, "_BLOCK", 100)
    np.testing.assert_allclose(said(X), whole, rtol=1e-8)


@each_model
def test_exchanging_zeros_and_ones_turns_the_signs(model):
    one = clone(model).set_params(tol=1e-9).fit(X)
    other = clone(one).fit(1 - X)
    assert other.elbo_ == pytest.approx(one.elbo_, abs=1e-6)
    np.testing.assert_allclose(other.intercept_, -one.intercept_, atol=1e-2)
    np.testing.assert_allclose(np.abs(other.loadings_), np.abs(one.loadings_), atol=1e-2)


@each_model
def test_constant_features_are_left_out(model):
    rows = np.insert(X, [0, 5], [1.0, 0.0], axis=1)
    at = [0, 6]
    found, expected = clone(model).fit(rows), clone(model).fit(X)
    assert (found.loadings_[at] == 0).all()
    np.testing.assert_allclose(found.intercept_[at], [np.log(301), -np.log(301)])
    np.testing.assert_allclose(np.delete(found.loadings_, at, axis=0), expected.loadings_)
    certain = 2 * np.log(150.5 / 151)
    assert found.elbo_ == pytest.approx(expected.elbo_ + certain, abs=1e-9)
    assert found.entropy_bound_ == pytest.approx(expected.entropy_bound_ + certain, abs=1e-9)
    assert found.elbo_history_[-1] == pytest.approx(found.elbo_, abs=1e-9)
    rows[0, 0] = 0.0  # unseen in training, and possible
    assert np.isfinite(found.score_samples(rows)).all()


@each_model
def test_rows_that_are_all_alike(model):
    rows = np.tile([1.0, 0.0, 0.0], (4, 1))
    model = clone(model).fit(rows)
    assert (model.loadings_ == 0).all()
    np.testing.assert_allclose(model.inverse_transform(model.transform(rows))[0], [0.9, 0.1, 0.1])
    assert model.elbo_ == pytest.approx(3 * np.log(0.9), abs=1e-10)
    assert model.entropy_bound_ == pytest.approx(model.elbo_, abs=1e-10)
    np.testing.assert_allclose(model.elbo_history_, model.elbo_, atol=1e-10)
    assert model.score_samples(1 - rows)[0] == pytest.approx(3 * np.log(0.1), abs=1e-10)
    np.testing.assert_array_equal(model.collapsed_dims_, [0, 1])
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(2), atol=1e-12)


@each_model
def test_soft_bits(model):
    rows = np.column_stack([0.8 * X + 0.1, np.full(len(X), 0.3)])
    soft = clone(model).fit(rows)
    assert soft.intercept_[-1] == pytest.approx(logit(0.3), abs=1e-3)
    np.testing.assert_allclose(soft.loadings_[-1], 0, atol=1e-3)
    assert np.abs(soft.loadings_[:-1]).max() < np.abs(FITTED[0].loadings_).max()
    # Rows that a soft bit stands for, each counted by its share, have the same bound under one q.
    terms = [
        sample_terms(
            np.array([[b, 0.3]]), np.ones((2, 1)), np.zeros(2), np.zeros((1, 1)), np.full(1, 0.5)
        ).bound[0]
        for b in (0.0, 0.25, 1.0)
    ]
    assert terms[1] == pytest.approx(0.75 * terms[0] + 0.25 * terms[2])


@each_model
def test_binarize_is_a_threshold(model):
    rows = np.where(X == 1, 3.0, 2.0) + np.random.default_rng(0).uniform(0, 0.5, X.shape)
    found = clone(model).set_params(binarize=2.75).fit(rows)
    np.testing.assert_array_equal(
        parameters_of(FITTED[MODELS.index(model)])[:36],
        np.concatenate([found.loadings_.ravel(), found.intercept_]),
    )
    assert found.score(rows) == found.elbo_
    # What is not above the threshold is 0.
    exact = clone(model).set_params(binarize=1).fit(2 * X - 0.0)
    np.testing.assert_array_equal(exact.mean_, X.mean(axis=0))
    assert (clone(exact).set_params(binarize=2).fit(2 * X).mean_ == 0).all()


@each_model
def test_latents_without_use_collapse(model):
    # Every pattern of five bits, once: independent. And again with a sixth that repeats the first.
    rows = np.stack(np.meshgrid(*[[0.0, 1.0]] * 5), axis=-1).reshape(-1, 5)
    model = clone(model).fit(rows)
    np.testing.assert_array_equal(model.collapsed_dims_, [0, 1])
    assert model.elbo_ == pytest.approx(-5 * np.log(2), abs=1e-5)
    model = clone(model).fit(np.column_stack([rows, rows[:, 0]]))
    np.testing.assert_array_equal(model.collapsed_dims_, [1])
    assert model.kl_per_dim_[0] > 0.1


@pytest.mark.parametrize("inference", ["linear", "per_sample"])
def test_more_features_than_rows_and_as_many_latents_as_features(inference):
    wide = (np.random.default_rng(0).uniform(size=(8, 30)) < 0.5).astype(float)
    model = BernoulliPPCA(3, inference=inference, tol=1e-2, random_state=0).fit(wide)
    assert np.isfinite(model.loadings_).all()
    assert (np.diff(model.elbo_history_) >= -1e-12).all()
    assert model.elbo_ > -30 * np.log(2)
    square = BernoulliPPCA(3, inference=inference, random_state=0).fit(X[:, :3])
    assert square.components_.shape == (3, 3)
    assert square.elbo_ <= log_likelihood_of_table(X[:, :3]) + 1e-9


def log_likelihood_of_table(X):
    """Of the best distribution of all: the rows' own frequencies."""
    counts = np.unique(X, axis=0, return_counts=True)[1] / len(X)
    return (counts * np.log(counts)).sum()


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (6, 3)])
def test_whitening(shape):
    rows = np.random.default_rng(0).uniform(size=shape)
    rows[0] = rows[-1]  # rank one less than it might be
    R, B = whitening(rows)
    rank = np.linalg.matrix_rank(np.cov(rows), tol=1e-8)
    np.testing.assert_allclose(R.T @ np.cov(rows, bias=True) @ R, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(R.T @ B, np.eye(rank), atol=1e-9)


@each_model
def test_what_is_climbed_has_the_gradient_of_differences(model, monkeypatch):
    def check(function, start, *options):
        at = start + 0.1 * np.random.default_rng(0).normal(size=len(start))
        gradient, h = function(at).gradient, 1e-4
        for i, found in enumerate(gradient):
            step = h * (np.arange(len(at)) == i)
            expected = (function(at + step).value - function(at - step).value) / (2 * h)
            assert found == pytest.approx(expected, abs=1e-7)
        # Products with the Hessian, in short precision, and the curve that a step follows.
        u, h = np.random.default_rng(1).normal(size=len(at)), 1e-4
        ahead, behind = (function(function.move(at, sign * h * u)) for sign in (1.0, -1.0))
        point = function(at)
        assert point.gradient @ u == pytest.approx((ahead.value - behind.value) / (2 * h), rel=1e-5)
        ahead, behind = function(at + h * u).gradient, function(at - h * u).gradient
        product = function(at).curvature(u)
        np.testing.assert_allclose(product, (behind - ahead) / (2 * h), atol=2e-5)
        assert np.abs(product).max() > 0.1
        inverse = np.stack([point.precondition(e) for e in np.eye(len(at))])
        np.testing.assert_allclose(inverse, inverse.T, rtol=1e-4, atol=1e-6)
        assert np.linalg.eigvalsh(inverse + inverse.T).min() > 0.0
        return maximize(function, start, *options)

    monkeypatch.setattr(bernoulli_fit, "maximize", check)
    clone(model).fit(X[:40, :6])


class Bowl:
    """-x'Sx / 2 with a diagonal S."""

    def __init__(self, scales):
        self.scales = scales

    def __call__(self, x):
        value, gradient = -0.5 * x @ (self.scales * x), -self.scales * x
        return Point(value, gradient, lambda u: self.scales * u, lambda u: u)

    def move(self, x, step):
        return x + step


def test_climbing_ends_where_it_says():
    bowl = Bowl(np.geomspace(1, 1e3, 30))
    x, history, certificate = maximize(bowl, np.ones(30), 1000, 1e-9)
    assert certificate.converged
    assert history[0] == pytest.approx(-0.5 * bowl.scales.sum())
    assert -1e-9 <= history[-1] <= 0
    assert certificate.remaining_gain == pytest.approx(-history[-1], rel=0.05)
    assert history[-1] == bowl(x).value
    assert certificate.gradient_norm == np.linalg.norm(bowl.scales * x)
    assert len(history) < 30
    _, history, certificate = maximize(bowl, np.ones(30), 2, 1e-9)
    assert not certificate.converged
    assert len(history) == 3


@each_model
def test_a_fit_that_ends_early_says_so(model):
    model = clone(model).set_params(max_iter=3)
    text = r"not converged after 3 iterations \(max_iter=3\): .* by about .* nats .* \(tol=1e-06\)"
    with pytest.warns(ConvergenceWarning, match=text):
        model.fit(X)
    assert model.n_iter_ == 3
    # A warning that is an error is one before the model of an earlier fit is gone.
    with warnings.catch_warnings(action="error"), pytest.raises(ConvergenceWarning):
        model.fit(X[:, :5])
    assert model.loadings_.shape == (12, 2)
    fitted = FITTED[model.inference == "per_sample"]
    assert model.elbo_ < fitted.elbo_


@each_model
def test_the_same_seed_gives_the_same_model_and_another_one_as_good(model):
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1]  # noqa: NPY002
    one, two = clone(model).fit(X), clone(model).fit(X)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(parameters_of(one), parameters_of(two))
    other = clone(model).set_params(random_state=1).fit(X)
    assert not np.array_equal(other.loadings_, one.loadings_)
    assert other.elbo_ == pytest.approx(one.elbo_, abs=1e-4)


@each_model
def test_single_precision_stays(model):
    rows = X.astype(np.float32)
    found = clone(model).fit(rows)
    expected = FITTED[MODELS.index(model)].loadings_.astype(np.float32)
    np.testing.assert_array_equal(found.loadings_, expected)
    assert found.transform(rows).dtype == np.float32
    assert all(array.dtype == np.float32 for array in found.posterior(rows))
    assert found.inverse_transform(found.transform(rows)).dtype == np.float32
    assert found.transform(X).dtype == found.score_samples(rows).dtype == np.float64
    np.testing.assert_allclose(found.transform(rows), found.transform(X), atol=1e-6)
    np.testing.assert_allclose(found.score_samples(rows), found.score_samples(X), atol=1e-9)


@each_model
def test_data_frames_in_and_out(model):
    names, expected = [f"x{j}" for j in range(12)], FITTED[MODELS.index(model)].transform(X)
    frames = pd.DataFrame(X.astype(bool), columns=names), pl.DataFrame(X, schema=names)
    for frame, container in zip(frames, ("pandas", "polars"), strict=True):
        fitted = clone(model).set_output(transform=container).fit(frame)
        assert list(getattr(fitted, "feature_names_in_", [])) == remembered_names(frame)
        found = fitted.transform(frame)
        assert isinstance(found, type(frame))
        assert list(found.columns) == ["bernoullippca0", "bernoullippca1"]
        np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-12)


@each_fitted
def test_rows_are_not_written_to_and_models_travel(model):
    rows = X.copy()
    rows.flags.writeable = False
    found = clone(model).fit(rows)
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(parameters_of(found), parameters_of(model))
    there = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(there.score_samples(X), model.score_samples(X))
    assert clone(model).get_params() == model.get_params()
    model = there.set_params(n_components=5)
    assert len(model.get_feature_names_out()) == model.transform(X).shape[1] == 2


def test_grid_search_finds_the_number_of_latents():
    rows = make_bits(400, seed=3)
    pipeline = make_pipeline(Binarizer(threshold=0.5), BernoulliPPCA(tol=1e-4, random_state=0))
    search = GridSearchCV(pipeline, {"bernoullippca__n_components": [1, 2]}, cv=2).fit(rows)
    assert search.best_params_ == {"bernoullippca__n_components": 2}
    assert search.score(rows) == pytest.approx(search.best_estimator_[-1].elbo_)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, r"n_components must be an integer >= 1, got 0\."),
        ({"n_components": 2.0}, r"n_components must be an integer >= 1, got 2\.0\."),
        ({"n_components": None}, r"n_components must be an integer >= 1, got None\."),
        ({"n_components": True}, r"n_components must be an integer >= 1, got True\."),
        ({"n_components": 13}, r"between 1 and n_features=12, got 13\."),
        ({"inference": "mean_field"}, r"inference must be one of 'linear', 'per_sample', got 'me"),
        ({"binarize": "yes"}, r"binarize must be a finite number, got 'yes'\."),
        ({"binarize": np.nan}, r"binarize must be a finite number, got nan\."),
        ({"max_iter": 0}, r"max_iter must be an integer >= 1, got 0\."),
        ({"tol": -1.0}, r"tol must be a finite number >= 0, got -1\.0\."),
    ],
)
def test_parameters(parameters, message):
    model = BernoulliPPCA(random_state=0)
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(X)
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("n", [7, 10, 50])
def test_soft_bits_without_any_variance(n):
    # Their covariance is rounding alone, and must not be divided by.
    rows = np.tile([0.3, 0.7, 0.1], (n, 1))
    shared, own = (clone(model).fit(rows) for model in MODELS)
    other = [[1.0, 0.0, 0.0]]
    expected = np.log([0.3, 0.3, 0.9]).sum()
    assert shared.score(other) == pytest.approx(expected, abs=1e-3)
    assert own.score(other) == pytest.approx(expected, abs=1e-3)


@pytest.mark.some(4)
@each_model
@pytest.mark.parametrize("entry", [1e-7, 1e-15, 1e-25, 1e-30, 1e-200])
def test_a_feature_that_is_almost_constant(model, entry):
    rows = make_bits(40)[:, :5]
    rows[:, 0] = 0.0
    without = clone(model).fit(rows)
    rows[3, 0] = entry
    fitted = clone(model).fit(rows)
    assert fitted.elbo_ == pytest.approx(without.elbo_, abs=1e-4)
    np.testing.assert_array_equal(fitted.loadings_[0], 0.0)
    assert fitted.entropy_bound_ == pytest.approx(fitted.elbo_, abs=1e-4)


@pytest.mark.parametrize("sign", [-1.0, np.nan])
def test_a_search_that_fails_is_not_taken_for_the_end(sign):
    class Wrong(Bowl):
        def __call__(self, x):
            point = super().__call__(x - 1.0)
            return point._replace(gradient=sign * point.gradient)

    assert not maximize(Wrong(np.ones(3)), np.zeros(3), 100, 1e-9)[2].converged


@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
def test_the_threshold_is_the_same_for_every_kind_of_number(kind):
    rows = np.where(make_bits() > 0, 0.1, 0.0).astype(np.float32)
    threshold = kind(0.1)
    expected = (rows.astype(np.float64) > float(threshold)).mean(axis=0)
    fitted = BernoulliPPCA(binarize=threshold, random_state=0).fit(rows)
    np.testing.assert_allclose(fitted.mean_, expected)
    assert (BernoulliPPCA(binarize=1e300).fit(rows).mean_ == 0.0).all()


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = clone(MODELS[0]).fit(X)
    with pytest.raises(ValueError, match="between 1 and n_features=1, got 2"):
        model.fit(X[:, :1])
    np.testing.assert_array_equal(parameters_of(model), parameters_of(FITTED[0]))


@pytest.mark.parametrize("entry", [-0.5, 1.5])
def test_entries_beyond_a_bit(entry):
    rows = X.copy()
    rows[3, 5] = entry
    text = rf"in \[0, 1\] if binarize is None, got {entry} in row 3, column 5\. Set binarize"
    for method in (clone(MODELS[0]).fit, FITTED[0].transform, FITTED[0].score):
        with pytest.raises(ValueError, match=text):
            method(rows)
    rows[3, 5] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        FITTED[0].transform(rows)


def test_methods_ask_for_a_fit_and_for_what_fits():
    model = BernoulliPPCA()
    for call in (
        lambda: model.transform(X),
        lambda: model.inverse_transform(X[:, :2]),
        lambda: model.posterior(X),
        lambda: model.conditional(X[:, :2]),
        lambda: model.sample(),
        lambda: model.score(X),
        lambda: model.log_likelihood(X),
    ):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(ValueError, match="X has 5 features, but BernoulliPPCA is expecting 12"):
        FITTED[0].transform(X[:, :5])
    with pytest.raises(ValueError, match="Z must have 2 columns"):
        FITTED[0].inverse_transform(X)
    with pytest.raises(ValueError, match=r"n_samples must be an integer >= 1, got 0\."):
        FITTED[0].sample(0)
    with pytest.raises(ValueError, match=r"n_samples must be an integer >= 1, got 0\."):
        FITTED[0].log_likelihood(X, 0)


def climb_by_lbfgs(model, rows):
    """The maximum from a fitted model by L-BFGS, over V and the logarithm of D."""
    W, mu = model.loadings_, model.intercept_
    elbo, sizes = LinearBernoulliElbo(rows.T.copy()), np.cumsum([W.size, mu.size, W.size])
    start = [W.ravel(), mu, model.encoder_weights_.ravel(), np.log(model.encoder_variance_)]

    def loss(x):
        W_, mu_, V, log_D = np.split(x, sizes)
        D = np.exp(log_D)
        p = BernoulliParameters(W_.reshape(W.shape), mu_, V.reshape(W.T.shape), D)
        value, g = elbo.value_and_gradients(p)
        return -value, -np.concatenate([g.W.ravel(), g.mu, g.V.ravel(), g.D * D])

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 0.0, "gtol": 1e-9, "maxcor": 30}
    return -minimize(loss, np.concatenate(start), jac=True, method="L-BFGS-B", options=options).fun


@pytest.mark.some(1)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_certificate_is_what_lbfgs_still_finds(k):
    model = BernoulliPPCA(k, random_state=0).fit(X)
    best = climb_by_lbfgs(model, X)
    assert model.certificate_.converged
    assert not model.certificate_.is_exact
    assert -1e-10 < best - model.elbo_ < 2e-6
    loose = BernoulliPPCA(k, tol=2e-4, random_state=0).fit(X)
    gain = loose.certificate_.remaining_gain
    assert 1e-7 < gain < 2e-4
    assert gain == pytest.approx(climb_by_lbfgs(loose, X) - loose.elbo_, rel=0.3)
    assert f"can rise by about {gain:.2g} nats per sample" in str(loose.certificate_)
    assert loose.certificate_.gradient_norm > model.certificate_.gradient_norm


@pytest.mark.slow
def test_few_iterations_suffice_if_bits_can_be_predicted_exactly():
    # The loadings and a valley of transformed latents extend to infinity.
    rows = (np.random.default_rng(0).uniform(size=(40, 60)) < 0.3).astype(float)
    model = BernoulliPPCA(4, random_state=0).fit(rows)
    assert model.n_iter_ < 60
    assert climb_by_lbfgs(model, rows) - model.elbo_ < 1e-4


@each_model
def test_a_spare_latent_does_not_stop_the_ascent(model):
    model = clone(model).set_params(n_components=5).fit(X)
    assert model.n_iter_ < 60
    assert model.elbo_ > FITTED[model.inference == "per_sample"].elbo_ + 0.05
