"""Draws, intervals and standard deviations of imputed values."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import FactorAnalysisImputer, GaussianImputer, PPCAImputer
from sklearn_vae.diagnostics import pool
from sklearn_vae.gaussian.observed import Parameters, sample
from sklearn_vae.linear.predictive import NORMAL_GRID, normal, residuals
from tests.helpers import slow
from tests.sharing import shared

FACTORS = [FactorAnalysisImputer, PPCAImputer]
BOTH = pytest.mark.parametrize("kind", FACTORS)
# The quickest first: `some` takes it.
ALL = pytest.mark.parametrize("kind", [GaussianImputer, *FACTORS])
BOTH_KINDS = pytest.mark.parametrize("kind", [GaussianImputer, FactorAnalysisImputer])


def table(n, rng, noise=(0.3, 0.5, 0.8, 0.4, 0.6)):
    """Return samples of a factor model, and the same with a fifth missing."""
    W = np.array([[1.0, 0.2], [0.9, -0.5], [0.3, 1.0], [-0.6, 0.8], [0.7, 0.7]])
    X = rng.normal(size=(n, 2)) @ W.T + np.array(noise) * rng.normal(size=(n, 5)) + 3.0
    return X, np.where(rng.uniform(size=X.shape) < 0.2, np.nan, X)


def make(kind, **options):
    """Return an imputer with two components if it has components."""
    return kind(**options) if kind is GaussianImputer else kind(2, **options)


@shared
def fitted(kind):
    return make(kind, n_fits=20, random_state=0).fit(HOLES)


@shared
def drawn(kind):
    """Return a thousand draws."""
    return fitted(kind).impute(HOLES, n_draws=1000, random_state=0)


TRUTH, HOLES = table(120, np.random.default_rng(0))


def test_sample_has_the_conditional_distribution():
    rng = np.random.default_rng(1)
    W, mean, sigma2 = rng.normal(size=(5, 2)), rng.normal(size=5), 0.4
    x = rng.normal(size=5)
    x[[1, 3, 4]] = np.nan
    missing = np.isnan(x)
    X = np.vstack([np.tile(x, (40_000, 1)), HOLES])
    drawn = sample(X, Parameters(W, mean, sigma2), np.random.RandomState(0))
    np.testing.assert_array_equal(drawn[~np.isnan(X)], X[~np.isnan(X)])
    C = W @ W.T + sigma2 * np.eye(5)
    gain = C[np.ix_(missing, ~missing)] @ np.linalg.inv(C[np.ix_(~missing, ~missing)])
    expected = mean[missing] + gain @ (x - mean)[~missing]
    covariance = C[np.ix_(missing, missing)] - gain @ C[np.ix_(~missing, missing)]
    draws = drawn[:40_000, missing]
    error = (draws.mean(axis=0) - expected) / np.sqrt(np.diag(covariance) / 40_000)
    assert np.abs(error).max() < 4.0
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.05)
    assert np.isfinite(multivariate_normal(expected, covariance).logpdf(draws)).all()


@pytest.mark.some(1, "slow")
@ALL
def test_std_is_that_of_draws(kind):
    imputer = fitted(kind)
    missing = np.isnan(HOLES)
    _, std = imputer.impute(HOLES, return_std=True)
    draws = drawn(kind)
    assert draws.shape == (1000, *HOLES.shape)
    np.testing.assert_array_equal(draws[:, ~missing], np.tile(HOLES[~missing], (1000, 1)))
    ratio = draws.std(axis=0)[missing] / std[missing]
    assert abs(ratio.mean() - 1.0) < 0.01  # 1000 draws and 120 values
    assert np.abs(ratio - 1.0).max() < 0.15
    assert (std[~missing] == 0).all()


@pytest.mark.some(1, "slow")
@ALL
def test_intervals_are_quantiles_of_draws(kind):
    imputer = fitted(kind)
    missing = np.isnan(HOLES)
    lower, upper = imputer.interval(HOLES, 0.8)
    draws = drawn(kind)
    inside = (lower <= draws) & (draws <= upper)
    assert abs(inside[:, missing].mean() - 0.8) < 0.01
    np.testing.assert_array_equal(lower[~missing], HOLES[~missing])


@pytest.mark.slow
def test_uncertain_parameters_add_variance():
    X = HOLES[:25]
    known = FactorAnalysisImputer(2, n_fits=0).fit(X)
    uncertain = FactorAnalysisImputer(2, n_fits=20).fit(X)
    wider, narrower = (m.impute(X, return_std=True)[1][np.isnan(X)] for m in (uncertain, known))
    assert np.mean(wider / narrower) > 1.05
    np.testing.assert_array_equal(known.impute(X), uncertain.impute(X))


@pytest.mark.slow
def test_zero_fits_give_the_conditional_distribution():
    imputer = PPCAImputer(2).fit(HOLES)
    _, std = imputer.impute(HOLES, return_std=True)
    draws = imputer.impute(HOLES, n_draws=1000, random_state=0)
    missing = np.isnan(HOLES)
    assert abs((draws.std(axis=0) / np.where(missing, std, 1.0))[missing].mean() - 1) < 0.01


def gibbs(X, k, n_steps, rng):
    """Draw missing values, latents and parameters in turn; return mean and std of X."""
    missing, filled = np.isnan(X), np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    n, d = X.shape
    W, mean, psi = 0.1 * rng.normal(size=(d, k)), np.nanmean(X, axis=0), np.nanvar(X, axis=0)
    prior, kept = np.diag([1e-2] * k + [1e-6]), []
    rates = 0.1 * np.nanvar(X, axis=0)
    for step in range(n_steps):
        M = np.linalg.inv(np.eye(k) + W.T / psi @ W)
        Z = (filled - mean) / psi @ W @ M
        Z += rng.normal(size=(n, k)) @ np.linalg.cholesky(M).T
        A = np.column_stack([Z, np.ones(n)])
        S = np.linalg.inv(A.T @ A / psi[:, None, None] + prior)
        rows = np.einsum("jab,bj->ja", S, A.T @ filled / psi)
        rows += np.einsum("jab,jb->ja", np.linalg.cholesky(S), rng.normal(size=(d, k + 1)))
        W, mean = rows[:, :-1], rows[:, -1]
        squares = np.square(filled - A @ rows.T).sum(axis=0)
        psi = 1.0 / rng.gamma(0.5 * (n + 1), 2.0 / (squares + rates))
        drawn = Z @ W.T + mean + np.sqrt(psi) * rng.normal(size=(n, d))
        filled = np.where(missing, drawn, X)
        if step >= n_steps // 4:
            kept.append(filled)
    return np.mean(kept, axis=0), np.std(kept, axis=0)


@pytest.mark.slow
def test_agrees_with_a_gibbs_chain():
    X = HOLES[:60]
    missing = np.isnan(X)
    mean, std = gibbs(X, 2, 4000, np.random.default_rng(0))
    imputer = FactorAnalysisImputer(2, n_fits=100, random_state=0).fit(X)
    filled, own = imputer.impute(X, return_std=True)
    assert np.sqrt(np.mean(((filled - mean) / std)[missing] ** 2)) < 0.25
    assert 0.85 < np.mean((own / np.where(missing, std, 1.0))[missing]) < 1.2


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(
    ("kind", "at_random"),
    [
        *slow((FactorAnalysisImputer, False)),
        (GaussianImputer, False),
        (GaussianImputer, True),
    ],
)
def test_intervals_hold_the_truth(kind, at_random):
    """Values at random are missing where errors are three times as large as elsewhere."""
    hits = {0.5: [], 0.95: []}
    rng = np.random.default_rng(3)
    for _ in range(8):
        X, holes = table(100, rng)
        if at_random:
            X[:, 1:] += (0.2 + 0.8 * (X[:, :1] > 3.0)) * rng.normal(size=(100, 4))
            missing = rng.uniform(size=(100, 4)) < 0.1 + 0.4 * (X[:, :1] > 3.0)
            holes = np.column_stack([X[:, 0], np.where(missing, np.nan, X[:, 1:])])
        imputer = make(kind, n_fits=2).fit(holes)
        for coverage, found in hits.items():
            lower, upper = imputer.interval(holes, coverage)
            found.append(((lower <= X) & (upper >= X))[np.isnan(holes)])
    for coverage, found in hits.items():
        inside = np.concatenate(found)
        assert (
            abs(inside.mean() - coverage) < 4.0 * (coverage * (1 - coverage) / len(inside)) ** 0.5
        )


@pytest.mark.slow
def test_pooled_coefficients_hold_the_truth():
    rng, hits = np.random.default_rng(4), []
    for _ in range(16):
        x = rng.normal(size=(100, 2))
        X = np.column_stack([x, x @ [1.0, -0.5] + rng.normal(size=100)])
        # Whether x_0 is missing depends on the observed outcome.
        hidden = rng.uniform(size=100) < 1.0 / (1.0 + np.exp(-1.5 * X[:, 2]))
        X[hidden, 0] = np.nan
        imputer = FactorAnalysisImputer(2, n_fits=4).fit(X)
        fits = [regression(D) for D in imputer.impute(X, n_draws=10, random_state=0)]
        pooled = pool([b for b, _ in fits], [v for _, v in fits], complete_df=97)
        lower, upper = pooled.interval(0.95)
        hits.append((lower <= [1.0, -0.5]) & (upper >= [1.0, -0.5]))
    assert np.mean(hits) > 0.88


def regression(D):
    """Return the coefficients of the last column on the others, and their variances."""
    A = np.column_stack([np.ones(len(D)), D[:, :-1]])
    inverse = np.linalg.inv(A.T @ A)
    b = inverse @ A.T @ D[:, -1]
    residual = D[:, -1] - A @ b
    return b[1:], (residual @ residual / (len(D) - A.shape[1]) * np.diag(inverse))[1:]


@pytest.mark.some(1, "slow")
@ALL
def test_bounds_and_integers(kind):
    X = np.column_stack([np.round(3.0 * HOLES[:, 0]), np.exp(HOLES[:, 1]), HOLES[:, 2:]])
    options = {"min_value": [-np.inf, 0.0, 3.0, -np.inf, -np.inf], "round_integers": True}
    options |= {"max_value": [np.inf] * 4 + [3.0], "n_fits": 3, "random_state": 0}
    imputer = make(kind, **options).fit(X)
    missing = np.isnan(X)
    lower, upper = imputer.interval(X)
    for filled in (
        *imputer.impute(X, n_draws=3, random_state=0),
        imputer.transform(X),
        lower,
        upper,
    ):
        np.testing.assert_array_equal(filled[:, 0], np.round(filled[:, 0]))
        assert (filled[missing[:, 1], 1] >= 0).all()
        assert (filled[missing[:, 2], 2] >= 3).all()
        assert (filled[missing[:, 4], 4] <= 3).all()
        np.testing.assert_array_equal(filled[~missing], X[~missing])
    # Truncated draws do not gather at the bound.
    draws = imputer.impute(X, n_draws=3, random_state=0)[:, missing[:, 2], 2]
    assert (draws > 3).mean() > 0.99


def test_integers_are_within_bounds():
    X = np.round(3.0 * HOLES[:40])
    options = {"round_integers": True, "n_fits": 0}
    for low, high, least, most in ((0.5, 7.4, 1, 7), (2.2, 2.6, 2.2, 2.6), (-1e308, 1e308, -9, 99)):
        imputer = GaussianImputer(min_value=low, max_value=high, **options).fit(X)
        draws = imputer.impute(X, n_draws=3, random_state=0)[:, np.isnan(X)]
        assert least <= draws.min() <= draws.max() <= most
        assert least == 2.2 or (draws == np.round(draws)).all()


@pytest.mark.some(1, "slow")
@BOTH_KINDS
def test_a_single_value_unlike_the_others_does_not_blow_up_intervals(kind):
    """Without it the feature is constant, or almost."""
    rng = np.random.default_rng(7)
    for noise in (0.0, 1e-6):
        X = HOLES.copy()
        X[:, 2] = np.where(np.isnan(X[:, 2]), np.nan, noise * rng.normal(size=len(X)))
        X[np.flatnonzero(~np.isnan(X[:, 2]))[0], 2] = 1.0
        imputer = make(kind, n_fits=2, random_state=0).fit(X)
        _, std = imputer.impute(X, return_std=True)
        assert std[:, 2].max() < 1.0


def test_constant_features_do_not_narrow_intervals():
    X = np.column_stack([HOLES[:, 0], np.ones((len(HOLES), 20))])
    imputer = GaussianImputer(n_fits=2).fit(X)
    quantiles = imputer._predictive().residuals.quantiles[0]
    assert np.interp(0.6745, NORMAL_GRID, quantiles) > 0.5


@pytest.mark.parametrize("k", [5, 6])
def test_draws_of_a_model_with_hardly_any_noise(k):
    X = np.column_stack([HOLES, np.ones(len(HOLES))])  # which a fifth component explains
    imputer = PPCAImputer(k, n_fits=2, random_state=0)
    with pytest.warns(ConvergenceWarning, match="The noise variance fell"):
        imputer.fit(X)
    drawn = imputer.impute(X, n_draws=2, random_state=0)
    filled, std = imputer.impute(X, return_std=True)
    assert np.isfinite(drawn).all()
    assert (std[np.isnan(X)] > 0.0).all()
    assert np.isfinite(filled).all()


@pytest.mark.parametrize("noise", [1e-8, 1e-10, 1e-12])
def test_draws_with_little_noise_are_those_of_the_limit(noise):
    rng = np.random.default_rng(0)
    W, mean = rng.normal(size=(15, 12)), np.zeros(15)
    X = rng.normal(size=(40, 12)) @ W.T
    X = np.where(rng.uniform(size=X.shape) < 0.1, np.nan, X)
    drawn = sample(X, Parameters(W, mean, noise), np.random.RandomState(0))
    determined = np.isnan(X).sum(axis=1) <= 3
    residual = drawn - drawn @ np.linalg.pinv(W).T @ W.T
    assert np.abs(residual[determined]).max() < 100.0 * noise**0.5
    assert np.isfinite(drawn).all()


@pytest.mark.some(1, "slow")
@ALL
def test_sample_posterior(kind):
    imputer = make(kind, sample_posterior=True, n_fits=3, random_state=0).fit(HOLES)
    first = imputer.transform(HOLES)
    np.testing.assert_array_equal(first, imputer.impute(HOLES, n_draws=1, random_state=0)[0])
    assert np.abs(first - imputer.impute(HOLES))[np.isnan(HOLES)].min() > 0


@BOTH
def test_auto_chooses_enough_factors(kind):
    _, holes = table(400, np.random.default_rng(5), noise=(0.4,) * 5)
    assert kind("auto", n_fits=0, random_state=0).fit(holes).n_components_ >= 2
    rng = np.random.default_rng(6)
    noise = np.where(rng.uniform(size=(60, 8)) < 0.2, np.nan, rng.normal(size=(60, 8)))
    assert kind("auto", n_fits=0, random_state=0).fit(noise).n_components_ <= 1


def test_quantile_maps_are_inverse():
    q = np.sort(np.random.default_rng(0).normal(size=len(NORMAL_GRID)))
    z = np.linspace(-6, 6, 50)
    np.testing.assert_allclose(normal(residuals(z, q), q), z, atol=1e-12)


def test_weights_count_as_repetitions():
    weights = np.random.default_rng(0).integers(0, 3, size=len(HOLES))
    weighted = FactorAnalysisImputer(2, n_fits=0).fit(HOLES, sample_weight=weights)
    repeated = FactorAnalysisImputer(2, n_fits=0).fit(np.repeat(HOLES, weights, axis=0))
    np.testing.assert_allclose(weighted.impute(HOLES), repeated.impute(HOLES), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_fits": -1}, "n_fits"),
        ({"n_components": "mle"}, "n_components must be None, 'auto'"),
        ({"n_components": 6}, "between 0 and n_features = 5"),
        ({"min_value": [1.0, 2.0]}, "min_value must be None, a float or 5 floats"),
        ({"min_value": 2.0, "max_value": 1.0}, "min_value must be at most max_value"),
        ({"round_integers": 1}, "round_integers"),
        ({"tol": -1.0}, "tol"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        FactorAnalysisImputer(**options).fit(HOLES)


def test_bad_arguments():
    imputer = fitted(FactorAnalysisImputer)
    with pytest.raises(ValueError, match="n_draws"):
        imputer.impute(HOLES, n_draws=0)
    with pytest.raises(ValueError, match="coverage"):
        imputer.interval(HOLES, 95)
