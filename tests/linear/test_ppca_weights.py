"""PPCA of weighted rows."""

import array_api_strict
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, LowRankGaussian, Moments
from tests.helpers import RECORDS, PeakMemory
from tests.linear.data import CONTAINERS_AND_SOLVERS, SOLVERS, make_rows

TALL, WIDE = {"n": 80, "d": 7}, {"n": 12, "d": 150}


def fitted(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_")}


# What follows PCA's conventions, in which n counts.
OF_THE_SCALE = {"explained_variance_", "singular_values_", "n_samples_", *RECORDS}


@pytest.mark.parametrize(
    ("container", "solver"),
    [(np.asarray, "auto"), (sparse.csr_array, "auto"), *CONTAINERS_AND_SOLVERS],
)
@pytest.mark.parametrize("noise_variance", [None, 0.6])
@pytest.mark.parametrize("shape", [TALL, WIDE])
class TestAsRepeatedRows:
    @pytest.mark.cover(2, 3)
    def test_integer_weights(self, container, shape, noise_variance, solver):
        X = make_rows(**shape, offset=2.0)
        weights = np.random.default_rng(0).integers(0, 4, size=len(X))
        parameters = {"n_components": 2, "noise_variance": noise_variance, "random_state": 0}
        parameters |= {"svd_solver": solver, "iterated_power": 60}
        model = PPCA(**parameters).fit(container(X), sample_weight=weights)
        repeated = PPCA(**parameters).fit(container(X.repeat(weights, axis=0)))
        for name, value in fitted(repeated).items():
            if name not in RECORDS:
                found = getattr(model, name)
                np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-8, err_msg=name)

    @pytest.mark.cover(2, 3)
    def test_a_row_of_no_weight_is_absent(self, container, shape, noise_variance, solver):
        X = make_rows(**shape)
        weights = np.ones(len(X))
        weights[[0, 5]] = 0.0
        X[0] = 1e9
        parameters = {"n_components": 2, "noise_variance": noise_variance, "random_state": 0}
        model = PPCA(**parameters, svd_solver=solver).fit(container(X), sample_weight=weights)
        absent = PPCA(**parameters, svd_solver=solver).fit(container(X[weights > 0]))
        for name, value in fitted(absent).items():
            if name not in RECORDS:
                found = getattr(model, name)
                np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-9, err_msg=name)

    @pytest.mark.cover(2, 3)
    @pytest.mark.parametrize("scale", [1e-200, 1 / 47.3, 1e6, 1e200])
    def test_their_scale_changes_nothing(self, container, shape, noise_variance, solver, scale):
        X = make_rows(**shape)
        weights = np.random.default_rng(0).uniform(0.1, 2.0, size=len(X))
        parameters = {"n_components": 2, "noise_variance": noise_variance, "random_state": 0}
        parameters["svd_solver"] = solver
        model = PPCA(**parameters).fit(container(X), sample_weight=weights)
        scaled = PPCA(**parameters).fit(container(X), sample_weight=scale * weights)
        for name, value in fitted(model).items():
            if name not in OF_THE_SCALE:
                found = getattr(scaled, name)
                np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-9, err_msg=name)
        assert scaled.n_samples_ == pytest.approx(scale * weights.sum())
        np.testing.assert_allclose(scaled.transform(X), model.transform(X), atol=1e-9)


@pytest.mark.parametrize("n_components", [None, 0.8, 0])
@pytest.mark.parametrize("total", [1.0, 1000.0])
def test_normalised_weights_keep_all_components(total, n_components):
    X = make_rows()
    model = PPCA(n_components).fit(X, sample_weight=np.full(80, total / 80))
    plain = PPCA(n_components).fit(X)
    assert model.n_components_ == plain.n_components_
    assert model.elbo_ == pytest.approx(plain.elbo_, rel=1e-12)
    streamed = PPCA(n_components).partial_fit(X, sample_weight=np.full(80, total / 80))
    assert streamed.n_components_ == plain.n_components_
    assert streamed.elbo_ == pytest.approx(plain.elbo_, rel=1e-12)


def test_the_weighted_maximum_of_the_likelihood():
    # The weighted log-likelihood is what is maximized: no other covariance nearby has more.
    rng = np.random.default_rng(0)
    X, weights = make_rows(), rng.uniform(0, 3, size=80)
    model = PPCA(2).fit(X, sample_weight=weights)
    best = model.score(X, sample_weight=weights)
    assert best == pytest.approx(model.elbo_, rel=1e-12)
    assert best == pytest.approx(np.average(model.score_samples(X), weights=weights), rel=1e-12)
    for _ in range(50):
        mean = model.mean_ + 0.02 * rng.normal(size=7)
        W = model.loadings_ + 0.02 * rng.normal(size=(7, 2))
        noise = model.noise_variance_ * np.exp(0.05 * rng.normal())
        other = LowRankGaussian(mean, W, noise).log_prob(X)
        assert np.average(other, weights=weights) < best


def test_explained_variance_of_few_weights():
    X = make_rows()
    unit = PPCA(2).fit(X, sample_weight=np.full(80, 1 / 80))
    S = np.cov(X.T, ddof=0)
    np.testing.assert_allclose(unit.explained_variance_, np.linalg.eigvalsh(S)[:-3:-1])
    whole = PPCA(2).fit(X, sample_weight=np.full(80, 1.0))
    np.testing.assert_allclose(whole.explained_variance_, PPCA(2).fit(X).explained_variance_)
    assert isinstance(whole.n_samples_, int)


def test_minka_counts_weights_as_rows():
    X = make_rows()
    for repeats in (1, 5):
        model = PPCA("mle").fit(X, sample_weight=np.full(80, repeats))
        assert model.n_components_ == PPCA("mle").fit(np.repeat(X, repeats, 0)).n_components_
    with pytest.raises(ValueError, match=r"needs n_samples >= n_features >= 2, got n_samples=1 "):
        PPCA("mle").fit(X, sample_weight=np.full(80, 1 / 80))


def test_partial_fit_in_any_batches():
    X = make_rows(100, offset=50.0)
    weights = np.random.default_rng(0).choice([0.0, 0.5, 2.0], size=100)
    whole = PPCA(3).fit(X, sample_weight=weights)
    model = PPCA(3)
    for a, b in [(0, 30), (30, 31), (31, 100)]:
        w = weights[a:b]
        if w.any():
            model.partial_fit(X[a:b], sample_weight=w)
    np.testing.assert_allclose(model.loadings_, whole.loadings_, atol=1e-9)
    assert model.moments_.n == whole.n_samples_ == weights.sum()
    # Without weights each row counts once.
    model.partial_fit(X)
    assert model.moments_.n == weights.sum() + 100
    moments = Moments.of(X, weights) + Moments.of(X)
    np.testing.assert_allclose(model.moments_.scatter, moments.scatter, rtol=1e-9)


def test_fit_transform():
    X, weights = make_rows(), np.random.default_rng(0).uniform(size=80)
    expected = PPCA(2).fit(X, sample_weight=weights).transform(X)
    np.testing.assert_array_equal(PPCA(2).fit_transform(X, sample_weight=weights), expected)
    framed = PPCA(2).set_output(transform="pandas").fit_transform(X, sample_weight=weights)
    np.testing.assert_array_equal(framed.to_numpy(), expected)


class TestRouting:
    def test_pipeline_and_cross_validation(self):
        X, weights = make_rows(), np.random.default_rng(0).uniform(size=80)
        with config_context(enable_metadata_routing=True):
            ppca = PPCA(2).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            scaler = StandardScaler().set_fit_request(sample_weight=True)
            pipeline = make_pipeline(scaler, ppca).fit(X, sample_weight=weights)
            Z = StandardScaler().fit_transform(X, sample_weight=weights)
            by_hand = PPCA(2).fit(Z, sample_weight=weights)
            assert pipeline.score(X, sample_weight=weights) == pytest.approx(
                by_hand.score(Z, sample_weight=weights), rel=1e-12
            )
            transformed = pipeline.fit_transform(X, sample_weight=weights)
            np.testing.assert_allclose(transformed, by_hand.transform(Z))
            found = cross_validate(ppca, X, cv=4, params={"sample_weight": weights})["test_score"]
            folds = np.array_split(np.arange(80), 4)
            for fold, score in zip(folds, found, strict=True):
                rest = np.setdiff1d(np.arange(80), fold)
                model = PPCA(2).fit(X[rest], sample_weight=weights[rest])
                expected = model.score(X[fold], sample_weight=weights[fold])
                assert score == pytest.approx(expected, rel=1e-12)
            search = GridSearchCV(ppca, {"noise_variance": [0.1, None]}, error_score="raise")
            search.fit(X, sample_weight=weights)
            best = PPCA(2, **search.best_params_).fit(X, sample_weight=weights)
            np.testing.assert_array_equal(search.best_estimator_.loadings_, best.loadings_)
            ppca.set_partial_fit_request(sample_weight=True)

    def test_not_requested(self):
        with config_context(enable_metadata_routing=True):
            pipeline = make_pipeline(StandardScaler(), PPCA(2))
            with pytest.raises(Exception, match="sample_weight"):
                pipeline.fit(make_rows(), sample_weight=np.ones(80))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(79), r"sample_weight must have shape \(n_samples,\) = \(80,\), got \(79,\)\."),
        (np.ones((80, 1)), r"must have shape .* \(80,\), got \(80, 1\)\."),
        (3.0, r"must have shape .* \(80,\), got \(\)\."),
        (np.r_[np.ones(79), -0.5], r"must be finite and >= 0, got -0\.5 for sample 79\."),
        (np.r_[np.nan, np.ones(79)], r"must be finite and >= 0, got nan for sample 0\."),
        (np.r_[np.inf, np.ones(79)], r"must be finite and >= 0, got inf for sample 0\."),
        (np.zeros(80), r"must have a finite sum above zero, got 0\.0\."),
        (np.full(80, 1e308), r"must have a finite sum above zero, got inf\."),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    X = make_rows()
    model = PPCA(2).partial_fit(X)
    before = fitted(model)
    for method in (model.fit, model.partial_fit, model.score, model.fit_transform):
        with pytest.raises(ValueError, match=message):
            method(X, sample_weight=weights)
    assert fitted(model) == before


def test_at_least_two_rows_of_weight():
    X = make_rows()
    weights = np.zeros(80)
    weights[3] = 5.0
    with pytest.raises(ValueError, match="must be positive for at least 2 samples, got 1"):
        PPCA(2).fit(X, sample_weight=weights)
    assert PPCA(2).partial_fit(X, sample_weight=weights).moments_.n == 5


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_weights_of_float32_rows(scale):
    X = make_rows().astype(np.float32)
    weights = np.random.default_rng(0).uniform(0.1, 1, size=80)
    for solver in SOLVERS:
        model = PPCA(2, svd_solver=solver, random_state=0).fit(X, sample_weight=scale * weights)
        expected = PPCA(2).fit(X.astype(float), sample_weight=weights)
        np.testing.assert_allclose(model.loadings_, expected.loadings_, atol=1e-4)
        assert model.loadings_.dtype == np.float32


@pytest.mark.parametrize("value", [1e200, np.nan, np.inf])
def test_a_row_of_no_weight_may_be_anything(value):
    X = make_rows()
    weights = np.ones(80)
    weights[7] = 0.0
    X[7] = value
    rest = np.delete(X, 7, axis=0)
    model = PPCA(2).fit(X, sample_weight=weights)
    assert model.score(X, sample_weight=weights) == pytest.approx(PPCA(2).fit(rest).score(rest))
    streamed = PPCA(2).partial_fit(X, sample_weight=weights)
    assert streamed.score(rest) == pytest.approx(model.score(rest))


@pytest.mark.parametrize("n_components", [None, 5, 8, "mle"])
def test_rows_of_no_weight_in_a_file_do_not_count(tmp_path, n_components):
    X = make_rows(10, 50) if n_components != "mle" else make_rows(40, 8)
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    weights = np.ones(len(X))
    weights[:5] = 0.0
    if n_components == 8:
        with pytest.raises(ValueError, match=r"between 0 and .* = 5 with"):
            PPCA(8).fit(mapped, sample_weight=weights)
        return
    model = PPCA(n_components).fit(mapped, sample_weight=weights)
    expected = PPCA(n_components).fit(X[5:])
    assert model.n_components_ == expected.n_components_
    assert model.elbo_ == pytest.approx(expected.elbo_, rel=1e-9)
    np.testing.assert_array_equal(model.collapsed_dims_, expected.collapsed_dims_)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("scale", "unit"), [(1e-290, 1e-20), (1e290, 1e10), (1e-320, 1.0)])
def test_weights_and_rows_of_extreme_scales(scale, unit, solver):
    X, weights = unit * make_rows(), np.random.default_rng(0).integers(1, 4, size=80)
    parameters = {"n_components": 2, "svd_solver": solver, "random_state": 0}
    model = PPCA(**parameters).fit(X, sample_weight=scale * weights)
    expected = PPCA(**parameters).fit(X, sample_weight=weights)
    close = 1e-9 if scale != 1e-320 else 1e-3  # subnormal weights have few digits
    assert model.noise_variance_ == pytest.approx(expected.noise_variance_, rel=close)
    assert model.score(X, sample_weight=scale * weights) == pytest.approx(
        expected.score(X, sample_weight=weights), rel=close
    )


def test_more_components_than_rows_where_weights_stand_for_more():
    X = make_rows(20, 2000)
    for solver in SOLVERS:
        parameters = {"n_components": 25, "svd_solver": solver, "random_state": 0}
        with PeakMemory() as memory:
            model = PPCA(**parameters).fit(X, sample_weight=np.full(20, 2))
        repeated = PPCA(**parameters).fit(np.repeat(X, 2, axis=0))
        assert model.n_components_ == repeated.n_components_ == 25
        np.testing.assert_allclose(model.transform(X), repeated.transform(X), atol=1e-9)
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(25), atol=1e-12)
        assert memory.peak < 2000**2 * 8 / 3


@pytest.mark.parametrize(
    "make",
    [
        lambda w: pd.Series(w, index=range(100, 180)),
        lambda w: w[::-1][::-1],
        lambda w: w.astype(">f8"),
        lambda w: w.astype(object),
        lambda w: w.tolist(),
        lambda w: torch.asarray(w, dtype=torch.float64).requires_grad_(),
        array_api_strict.asarray,
    ],
)
def test_weights_of_any_kind(make):
    X, weights = make_rows(), np.arange(80.0) % 5
    expected = PPCA(2).fit(X, sample_weight=weights)
    given = make(weights)
    if isinstance(given, np.ndarray):
        given.flags.writeable = False
    np.testing.assert_array_equal(PPCA(2).fit(X, sample_weight=given).loadings_, expected.loadings_)
    with config_context(array_api_dispatch=True):
        tensors = PPCA(2).fit(torch.asarray(X), sample_weight=given)
    np.testing.assert_allclose(tensors.loadings_.numpy(), expected.loadings_, atol=1e-9)
