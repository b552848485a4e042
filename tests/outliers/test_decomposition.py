"""T2, SPE and contributions of any model with a posterior, alone and in pipelines."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepGaussianVAE,
    DensityPipeline,
    FactorAnalysis,
    LinearVAE,
    OutlierDetector,
    TabularVAE,
)
from sklearn_vae.outliers import contributions, distances
from tests.deep.data import SMALL
from tests.sharing import shared

RNG = np.random.default_rng(0)
X = 2.0 + RNG.normal(size=(150, 3)) @ RNG.normal(size=(3, 8)) + RNG.normal(size=(150, 8))
HOLES = np.where(RNG.uniform(size=X.shape) < 0.2, np.nan, X)
LINEAR = [
    PPCA(3),
    PPCA(3, noise_variance=0.7),
    PPCA(),
    PPCACV([2, 4]),
    FactorAnalysis(2),
    FactorAnalysis(2, rotation="oblimin"),
    LinearVAE(2),
]


class Plain:
    """A model of another library, whose parameters are unknown."""

    def __init__(self, model):
        self.posterior, self.conditional = model.posterior, model.conditional
        self.score_samples = model.score_samples


@shared
def deep():
    return DeepGaussianVAE(3, **SMALL).fit(X)


def total(parts):
    return parts.t2 + parts.spe


@pytest.mark.parametrize("model", LINEAR, ids=str)
def test_both_parts_add_up_to_the_likelihood_of_linear_models(model):
    model.fit(X)
    parts = distances(model, X)
    C = model.get_covariance()
    r = X - model.mean_
    np.testing.assert_allclose(total(parts), np.sum(r * np.linalg.solve(C, r.T).T, axis=1))
    score = getattr(model, "log_likelihood", model.score_samples)(X)
    constant = np.linalg.slogdet(2 * np.pi * C)[1]
    np.testing.assert_allclose(score, -0.5 * (total(parts) + constant))
    split = contributions(model, X)
    np.testing.assert_allclose(split.total.sum(axis=1), total(parts))
    np.testing.assert_allclose(split.total, split.t2 + split.spe)


@pytest.mark.parametrize("model", [PPCA(3), FactorAnalysis(2)], ids=str)
def test_missing_values_are_left_out(model):
    model.fit(HOLES)
    parts = distances(model, HOLES)
    C = model.get_covariance()
    for i in range(20):
        o = np.flatnonzero(~np.isnan(HOLES[i]))
        constant = np.linalg.slogdet(2 * np.pi * C[np.ix_(o, o)])[1]
        np.testing.assert_allclose(
            model.score_samples(HOLES[i : i + 1]), -0.5 * (total(parts)[i] + constant)
        )
    split = contributions(model, HOLES)
    np.testing.assert_allclose(split.total.sum(axis=1), total(parts))
    assert not split.total[np.isnan(HOLES)].any()


@pytest.mark.parametrize("model", [PPCA(3), FactorAnalysis(2)], ids=str)
def test_models_with_unknown_parameters_have_the_same_distance(model):
    # The parts differ: T2 is then relative to the prior of z instead of its marginal distribution.
    model.fit(X)
    foreign = distances(Plain(model), X)
    np.testing.assert_allclose(total(foreign), total(distances(model, X)), rtol=1e-6)
    np.testing.assert_allclose(foreign.t2, np.sum(model.posterior(X)[0] ** 2, axis=1), rtol=1e-6)
    split = contributions(Plain(model), X[:9])
    np.testing.assert_allclose(split.t2.sum(axis=1), foreign.t2[:9], rtol=1e-6)
    np.testing.assert_allclose(split.spe.sum(axis=1), foreign.spe[:9], rtol=1e-6)


def test_two_opposite_orders_give_the_shapley_values_of_a_linear_encoder():
    model = PPCA(3).fit(X)
    gain = np.linalg.lstsq(X - model.mean_, model.posterior(X)[0], rcond=None)[0]
    r = X[:9] - model.mean_
    for seed in (0, 1):
        split = contributions(Plain(model), X[:9], random_state=seed)
        np.testing.assert_allclose(split.t2, r * (r @ gain @ gain.T), atol=1e-9)


def test_deep_models():
    parts, split = distances(deep(), X), contributions(deep(), X[:9])
    mean, _ = deep().posterior(X)
    center = deep().posterior(deep().conditional(np.zeros((1, 3)))[0])[0]
    np.testing.assert_allclose(parts.t2, np.sum((mean - center) ** 2, axis=1), rtol=1e-5)
    decoded, variance = deep().conditional(mean)
    np.testing.assert_allclose(split.spe, ((X - decoded) ** 2 / variance)[:9], rtol=1e-5)
    np.testing.assert_allclose(split.t2.sum(axis=1), parts.t2[:9], rtol=1e-4)
    np.testing.assert_allclose(split.spe.sum(axis=1), parts.spe[:9], rtol=1e-5)
    assert (parts.t2_dof + parts.spe_dof == X.shape[1]).all()


def test_binary_models_see_binary_observations():
    model = BernoulliPPCA(2, binarize=0.0, max_iter=500, random_state=0).fit(X)
    p, variance = model.conditional(model.posterior(X)[0])
    expected = np.sum(((X > 0) - p) ** 2 / variance, axis=1)
    np.testing.assert_allclose(distances(model, X).spe, expected)
    frame = pd.DataFrame(X, columns=list("abcdefgh"))
    np.testing.assert_allclose(distances(model.fit(frame), frame).spe, expected)


def test_pipelines_show_their_last_step_the_transformed_samples():
    scaled = StandardScaler().fit_transform(X)
    expected = distances(PPCA(2).fit(scaled), scaled)
    for kind in (make_pipeline(StandardScaler(), PPCA(2)), make_pipeline(PPCA(2))):
        kind.fit(scaled)
        np.testing.assert_allclose(total(distances(kind, scaled)), total(expected), rtol=1e-6)
    density = DensityPipeline([("scale", StandardScaler()), ("model", PPCA(2))]).fit(X)
    np.testing.assert_allclose(distances(density, X).t2, expected.t2)
    nested = make_pipeline(StandardScaler(), make_pipeline(PPCA(2))).fit(X)
    np.testing.assert_allclose(distances(nested, X).spe, expected.spe)


def test_names_of_the_features():
    frame = pd.DataFrame(X[:, :3], columns=["a", "b", "c"])
    model = PPCA(1).fit(frame)
    assert contributions(model, frame[:2]).feature_names == ("a", "b", "c")
    assert contributions(PPCA(1).fit(X), X[:2], range(X.shape[1])).feature_names[1] == "1"
    assert contributions(PPCA(1).fit(X), X[:2]).feature_names[:2] == ("x0", "x1")
    with pytest.raises(ValueError, match="feature_names must have one name per feature, got 2"):
        contributions(model, frame[:2], ["a", "b"])


def test_a_shifted_feature_has_the_largest_contribution():
    wine = StandardScaler().fit_transform(load_wine().data)
    model, samples = PPCA(4).fit(wine[::2]), wine[1::2].copy()
    shifted = np.random.default_rng(0).integers(wine.shape[1], size=len(samples))
    samples[np.arange(len(samples)), shifted] += 6.0
    found = contributions(model, samples).total.argmax(axis=1)
    assert (found == shifted).mean() > 0.95


def test_models_without_a_posterior_are_refused():
    with pytest.raises(TypeError, match="distances requires an estimator with the methods"):
        distances(IsolationForest().fit(X), X)
    with pytest.raises(ValueError, match="needs a noise variance above 0"):
        distances(PPCA().fit(X[:4]), X)


@pytest.mark.parametrize("function", [distances, contributions])
def test_tables_with_categories_are_refused(function):
    table = pd.DataFrame({"a": X[:30, 0], "b": np.where(X[:30, 1] > 2.0, "high", "low")})
    model = TabularVAE(1, max_epochs=1, hidden_layer_sizes=4, random_state=0).fit(table)
    with pytest.raises(TypeError, match=r"needs numbers, but TabularVAE .* Use .* score_samples"):
        function(model, table)
    numbers = table[["a"]].to_numpy()
    function(clone(model).fit(numbers), numbers)


def test_text_is_not_answered_by_the_estimator_in_use():
    table = pd.DataFrame({"a": X[:30, 0], "b": np.where(X[:30, 1] > 2.0, "high", "low")})
    with pytest.raises(ValueError, match="or use the methods of TabularVAE, which take categories"):
        OutlierDetector(TabularVAE(1)).fit(table)
