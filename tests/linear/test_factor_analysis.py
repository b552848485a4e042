"""FactorAnalysis against scikit-learn's, dense matrices and its own properties."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import FactorAnalysis as Reference
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklearn_vae import PPCA, FactorAnalysis, Moments
from sklearn_vae.diagnostics import collapse, entropy_bound, kl_per_dimension

WINE = load_wine().data
HOLES = np.where(np.random.default_rng(0).random(WINE.shape) < 0.1, np.nan, WINE)


@cache
def fitted(rotation=None, k=2, incomplete=False):
    return FactorAnalysis(k, rotation=rotation).fit(HOLES if incomplete else WINE)


def joint(model):
    """Mean and covariance of (x, z)."""
    W, phi = model.loadings_, model.factor_correlation_
    C = W @ phi @ W.T + np.diag(model.noise_variance_)
    k = W.shape[1]
    return (
        np.concatenate([model.mean_, np.zeros(k)]),
        np.block([[C, W @ phi], [phi @ W.T, phi]]),
    )


def conditional_of(joint_distribution, x, n_features):
    """Condition (x, z) on the observed part of x."""
    mean, cov = joint_distribution
    given = np.flatnonzero(~np.isnan(x))
    rest = np.setdiff1d(np.arange(len(mean)), given)
    gain = np.linalg.solve(cov[np.ix_(given, given)], cov[np.ix_(given, rest)]).T
    conditional_mean = mean[rest] + gain @ (x[given] - mean[given])
    return rest, conditional_mean, cov[np.ix_(rest, rest)] - gain @ cov[np.ix_(given, rest)]


@pytest.mark.some(3)
@pytest.mark.parametrize("rotation", [None, "varimax", "oblimin", "promax"])
@pytest.mark.parametrize("incomplete", [False, True])
def test_posterior_score_and_imputation_are_those_of_the_joint_gaussian(rotation, incomplete):
    model = fitted(rotation, incomplete=incomplete)
    X = HOLES[:12] if incomplete else WINE[:12]
    mean, covariance = model.posterior(X, return_cov=True)
    filled, std = model.impute(X, return_std=True)
    scores = model.score_samples(X)
    d = X.shape[1]
    for i, x in enumerate(X):
        rest, expected, cov = conditional_of(joint(model), x, d)
        z = rest >= d
        np.testing.assert_allclose(mean[i], expected[z], atol=1e-8)
        np.testing.assert_allclose(covariance[i], cov[np.ix_(z, z)], atol=1e-8)
        np.testing.assert_allclose(filled[i, rest[~z]], expected[~z], rtol=1e-7)
        np.testing.assert_allclose(std[i, rest[~z]], np.diagonal(cov)[~z] ** 0.5, rtol=1e-6)
        o = ~np.isnan(x)
        C = model.get_covariance()[np.ix_(o, o)]
        expected = stats.multivariate_normal(model.mean_[o], C, allow_singular=False).logpdf(x[o])
        assert scores[i] == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(model.transform(X), mean, atol=1e-12)
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    assert (std[~np.isnan(X)] == 0.0).all()


def test_the_model_of_scikit_learn():
    X = WINE / WINE.std(axis=0)
    ours = FactorAnalysis(2).fit(X)
    theirs = Reference(2, svd_method="lapack", tol=1e-9, max_iter=5000).fit(X)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=1e-3)
    signs = np.sign(np.sum(ours.components_ * theirs.components_, axis=1))
    np.testing.assert_allclose(ours.components_ * signs[:, None], theirs.components_, atol=2e-3)
    np.testing.assert_allclose(ours.transform(X) * signs, theirs.transform(X), atol=5e-3)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-3)
    assert ours.score(X) >= theirs.score(X)


@pytest.mark.parametrize("rotation", [None, "varimax", "promax"])
def test_attributes_belong_together(rotation):
    model = fitted(rotation)
    assert model.elbo_ == pytest.approx(model.score(WINE), abs=1e-8)
    assert model.loglike_[-1] == pytest.approx(model.score_samples(WINE).sum(), abs=1e-6)
    assert model.entropy_bound_ == pytest.approx(model.elbo_, abs=1e-6)
    assert model.certificate_.remaining_gain <= model.tol
    assert model.certificate_.gradient_norm <= 1e-8
    np.testing.assert_array_equal(model.components_, model.loadings_.T)
    np.testing.assert_allclose(model.communalities_ + model.uniquenesses_, 1.0)
    C = model.get_covariance()
    np.testing.assert_allclose(np.diagonal(C), WINE.var(axis=0), rtol=1e-6)
    np.testing.assert_allclose(C @ model.get_precision(), np.eye(13), atol=1e-8)
    np.testing.assert_allclose(model.kl_per_dim_, kl_per_dimension(model, WINE), rtol=1e-5)


def test_rotations_keep_the_distribution():
    plain = fitted()
    for rotation in ("varimax", "quartimax", "oblimin", "promax"):
        model = fitted(rotation)
        np.testing.assert_allclose(model.get_covariance(), plain.get_covariance(), rtol=1e-8)
        np.testing.assert_allclose(model.score_samples(WINE), plain.score_samples(WINE))
        assert not np.allclose(model.components_, plain.components_)


def test_samples_have_the_moments_of_the_model():
    model = fitted("oblimin")
    X, Z = model.sample(200_000, random_state=0)
    scale = WINE.std(axis=0)
    expected = model.get_covariance() / scale / scale[:, None]
    np.testing.assert_allclose(np.cov((X / scale).T), expected, atol=0.02)
    np.testing.assert_allclose(np.cov(Z.T), model.factor_correlation_, atol=0.02)
    mean, variance = model.conditional(Z)
    np.testing.assert_allclose(np.mean((X - mean) ** 2, axis=0), variance[0], rtol=0.02)


def test_units_do_not_matter():
    scale = 2.0 ** np.arange(-6, 7)
    model, scaled = fitted(), FactorAnalysis(2).fit(WINE * scale)
    np.testing.assert_allclose(scaled.transform(WINE * scale), model.transform(WINE), atol=1e-6)
    expected = model.score(WINE) - np.log(scale).sum()
    assert scaled.score(WINE * scale) == pytest.approx(expected, abs=1e-9)


def test_noise_of_one_variance_is_ppca():
    X = load_iris().data
    ppca = PPCA(2).fit(X)
    model = FactorAnalysis(2, noise_variance=ppca.noise_variance_).fit(X)
    assert model.score(X) == pytest.approx(ppca.score(X), abs=1e-10)
    np.testing.assert_allclose(model.get_covariance(), ppca.get_covariance(), atol=1e-10)


def test_superfluous_factors_collapse():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 5))
    model = FactorAnalysis(3, noise_variance=np.full(5, 1.2)).fit(X)
    assert model.collapsed_dims_.tolist() == [0, 1, 2]
    assert (model.kl_per_dim_ == 0.0).all()
    assert collapse(model, X).collapsed.tolist() == [0, 1, 2]


def test_batches_give_the_model_of_all_samples():
    model = FactorAnalysis(2)
    for start in range(0, len(WINE), 45):
        model.partial_fit(WINE[start : start + 45])
    np.testing.assert_allclose(model.noise_variance_, fitted().noise_variance_, rtol=1e-7)
    summed = FactorAnalysis.from_moments(
        Moments.of(WINE[:9]) + Moments.of(WINE[9:]), n_components=2
    )
    np.testing.assert_allclose(summed.noise_variance_, fitted().noise_variance_, rtol=1e-7)
    with pytest.raises(AttributeError) as error:
        clone(model).fit(WINE).partial_fit(WINE)
    assert "partial_fit cannot continue a model from fit" in str(error.value.__cause__)


def test_equal_samples_have_noise_only():
    X = np.full((3, 4), 2.5)
    for model in (
        FactorAnalysis(2).fit(X),
        FactorAnalysis(2).partial_fit(X[:1]),
        FactorAnalysis.from_moments(Moments.of(X[:1]), n_components=2),
    ):
        assert (model.noise_variance_ == 1e-12).all()
        assert (model.loadings_ == 0.0).all()
        np.testing.assert_array_equal(model.transform(X), np.zeros((3, 2)))
        expected = -2.0 * np.log(2.0 * np.pi * 1e-12)
        np.testing.assert_allclose(model.score_samples(X), expected)


@pytest.mark.filterwarnings("ignore:The noise variance of feature")  # of the first batch
def test_a_stream_may_begin_with_one_sample_or_constant_features():
    X = WINE.copy()
    X[:60, [1, 5]] = X[0, [1, 5]]
    expected = FactorAnalysis(2).fit(X).noise_variance_
    for first in (1, 60):
        model = FactorAnalysis(2).partial_fit(X[:first]).partial_fit(X[first:])
        np.testing.assert_allclose(model.noise_variance_, expected, rtol=1e-6)


def test_dask_blocks_give_the_same_model():
    da = pytest.importorskip("dask.array")
    X = da.from_array(WINE, chunks=(50, 13))
    model = FactorAnalysis(2).fit(X)
    np.testing.assert_allclose(model.noise_variance_, fitted().noise_variance_, rtol=1e-7)
    np.testing.assert_allclose(model.transform(X).compute(), model.transform(WINE))
    np.testing.assert_allclose(model.score_samples(X).compute(), model.score_samples(WINE))
    assert model.score(X) == pytest.approx(model.score(WINE))


def test_single_precision_and_data_frames():
    frame = load_wine(as_frame=True).data
    model = FactorAnalysis(2).fit(frame.astype(np.float32)).set_output(transform="pandas")
    assert model.components_.dtype == model.score_samples(frame.astype(np.float32)).dtype
    assert isinstance(model.transform(frame), pd.DataFrame)
    assert list(model.get_feature_names_out()) == ["factoranalysis0", "factoranalysis1"]
    assert model.score(frame) == pytest.approx(fitted().score(WINE), abs=1e-3)


def test_a_grid_search_over_the_number_of_factors():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 8)) + rng.normal(size=(600, 8))
    search = GridSearchCV(FactorAnalysis(), {"n_components": [0, 1, 2, 3]}, cv=3)
    assert search.fit(X).best_params_["n_components"] == 2


def test_diagnostics_take_the_model():
    model = fitted()
    report = entropy_bound(model, WINE)
    assert abs(report.gap.noise) < 1e-6
    assert report.elbo == pytest.approx(model.score(WINE), abs=1e-8)


def test_a_heywood_case_names_the_feature():
    frame = load_iris(as_frame=True).data
    with pytest.warns(ConvergenceWarning, match=r"feature 'petal length \(cm\)' fell to 1e-06 .*"):
        model = FactorAnalysis(1).fit(frame)
    assert model.heywood_features_.tolist() == [2]


def test_a_limit_of_iterations_warns_with_the_remaining_gain():
    with pytest.warns(ConvergenceWarning, match="max_iter=2 iterations: .* rise by about .* nats"):
        FactorAnalysis(2, max_iter=2).fit(WINE)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_components": 14}, "between 0 and .* = 13, got 14"),
        ({"n_components": 0.5}, "None or an integer >= 0, got 0.5"),
        ({"rotation": "equamax"}, "rotation must be one of 'varimax'"),
        ({"noise_variance": 0.0}, "noise_variance must be None or a positive float or 13 positive"),
        ({"noise_variance": [1.0, 2.0]}, "13 positive floats, one per feature"),
        ({"noise_variance_init": 1.0}, "noise_variance_init must be None or 13 positive floats"),
        ({"tol": -1.0}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"svd_method": "arpack"}, "svd_method must be one of"),
    ],
)
def test_bad_parameters_are_named(parameters, match):
    with pytest.raises(ValueError, match=match):
        FactorAnalysis(**parameters).fit(WINE)


def test_bad_data_are_named():
    X = WINE.copy()
    X[:, 4] = np.nan
    with pytest.raises(ValueError, match=r"observed value in every feature, .* column 4"):
        FactorAnalysis(2).fit(X)
    with pytest.raises(ValueError, match="infinity"):
        fitted().transform(np.full((1, 13), np.inf))
