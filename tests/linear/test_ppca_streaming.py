"""PPCA from batches and from moments."""

import pickle
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import special_ortho_group
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA

from sklearn_vae import PPCA, PPCACV, LinearVAE, Moments
from tests.helpers import RECORDS
from tests.linear.data import SOLVERS, make_rows


class TestPartialFit:
    @pytest.mark.cover(2)
    @pytest.mark.parametrize("n_components", [None, 0, 3, 0.9, "mle"])
    @pytest.mark.parametrize("noise_variance", [None, 1.0])
    @pytest.mark.parametrize("sizes", [[1] * 5 + [2, 93], [50, 50], [100], [99, 1]])
    def test_any_batching_equals_one_fit(self, sizes, noise_variance, n_components):
        X = make_rows(100, offset=1e3)
        parameters = {"n_components": n_components, "noise_variance": noise_variance}
        whole = PPCA(**parameters, svd_solver="full").fit(X)
        model, start = PPCA(**parameters), 0
        for size in sizes:
            model.partial_fit(X[start : start + size])
            start += size
        for name in sorted(vars(whole)):
            if name.endswith("_") and name not in RECORDS:
                np.testing.assert_allclose(
                    getattr(model, name), getattr(whole, name), rtol=1e-10, atol=1e-10, err_msg=name
                )
        assert model.moments_.n == 100

    def test_a_first_batch_smaller_than_k(self):
        X = make_rows()
        model = PPCA(3).partial_fit(X[:1])
        assert model.components_.shape == (3, 7)
        assert (model.explained_variance_ == 0).all()
        assert np.isfinite(model.transform(X)).all()
        with pytest.raises(ValueError, match="rank of the 1 training samples is 0"):
            model.score(X)
        model.partial_fit(X[1:2]).partial_fit(X[2:])
        assert model.score(X) == pytest.approx(PPCA(3).fit(X).score(X), rel=1e-12)

    def test_what_was_learned_survives_a_bad_batch(self):
        X = make_rows()
        model = PPCA(2).partial_fit(X)
        before = model.score(X)
        for bad in (np.full((2, 7), np.nan), X[:, :4], [["a"] * 7]):
            with pytest.raises(ValueError):  # noqa: PT011
                model.partial_fit(bad)
        assert model.score(X) == before
        assert model.partial_fit(X).moments_.n == 2 * len(X)

    def test_from_moments_is_the_fit_to_all_rows(self):
        X = make_rows(200, offset=10.0)
        moments = Moments.of(X[:70]) + Moments.of(X[70:])
        model = PPCA.from_moments(moments, n_components=3, coordinates="principal")
        whole = PPCA(3, coordinates="principal").fit(X)
        np.testing.assert_allclose(model.transform(X), whole.transform(X), atol=1e-10)
        assert model.score(X) == pytest.approx(whole.score(X), rel=1e-12)
        assert (model.n_samples_, model.n_features_in_) == (200, 7)
        assert model.partial_fit(X).n_samples_ == 400
        np.testing.assert_array_equal(moments.mean, PPCA.from_moments(moments).moments_.mean)

    def test_from_moments_that_do_not_fit(self):
        X = make_rows()
        with pytest.raises(ValueError, match="at most n_features = 7, got 8"):
            PPCA.from_moments(Moments.of(X), n_components=8)
        with pytest.raises(ValueError, match=r"got n = 0\."):
            PPCA.from_moments(Moments.of(X[:0]))
        with pytest.raises(ValueError, match="noise_variance must be"):
            PPCA.from_moments(Moments.of(X), noise_variance=-1)

    @pytest.mark.parametrize("dtypes", [("f4", "f8", "f8"), ("f8", "f4", "f8"), ("f8", "f8", "f4")])
    def test_one_batch_in_float32_limits_what_is_resolved(self, dtypes):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 8))
        model = PPCA(5)
        for dtype, rows in zip(dtypes, np.split(X, 3), strict=True):
            model.partial_fit(rows.astype(dtype))
        assert model.noise_variance_ == 0.0
        np.testing.assert_array_equal(model.collapsed_dims_, [3, 4])
        assert model.components_.dtype == np.float64

    def test_precision_is_kept(self):
        X = make_rows().astype(np.float32)
        model = PPCA(2).partial_fit(X).partial_fit(X)
        assert model.components_.dtype == np.float32
        assert model.partial_fit(X.astype(np.float64)).components_.dtype == np.float64


SHAPES = [(100, 15), (200, 15), (20, 300), (15, 15), (2, 3)]


class TestAfterFit:
    """partial_fit continues what partial_fit began, for every shape and solver."""

    @pytest.mark.some(7)
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_model_of_fit_cannot_continue(self, shape, solver):
        X = make_rows(*shape, k=1)
        model = PPCA(1, svd_solver=solver, random_state=0)
        assert hasattr(model, "partial_fit")
        for refitted in (model, clone(model).partial_fit(X)):
            refitted.fit(X)
            assert not hasattr(refitted, "partial_fit")
            with pytest.raises(AttributeError) as raised:
                refitted.partial_fit(X)
            remedy = "PPCA.from_moments(Moments.of(X) + Moments.of(X_new))"
            assert remedy in str(raised.value.__cause__)
            assert refitted.transform(X).shape == (shape[0], 1)
        assert clone(model).partial_fit(X).partial_fit(X).n_samples_ == 2 * shape[0]

    @pytest.mark.parametrize("container", [sparse.csr_array, lambda X: np.where(X > 2, np.nan, X)])
    def test_of_other_data(self, container):
        assert not hasattr(PPCA(2).fit(container(make_rows())), "partial_fit")

    def test_the_remedies(self):
        X = make_rows(200)
        whole = PPCA(3, svd_solver="full").fit(X)
        begun = clone(PPCA(3).fit(X[:120])).partial_fit(X[:120]).partial_fit(X[120:])
        added = PPCA.from_moments(Moments.of(X[:120]) + Moments.of(X[120:]), n_components=3)
        loaded = pickle.loads(pickle.dumps(PPCA(3).partial_fit(X[:120]))).partial_fit(X[120:])
        for model in (begun, added, loaded):
            np.testing.assert_allclose(model.loadings_, whole.loadings_, atol=1e-10)
            assert model.partial_fit(X).n_samples_ == 400

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_a_fitted_model_is_not_much_larger_than_pca(self, solver):
        X = make_rows(1500, 120)
        options = {"svd_solver": solver, "random_state": 0}
        ours, theirs = PPCA(2, **options).fit(X), PCA(2, **options).fit(X)
        largest = 3 * len(pickle.dumps(theirs)) + 2000
        assert len(pickle.dumps(ours)) < largest < X.nbytes / X.shape[0] * X.shape[1]
        assert len(pickle.dumps(PPCACV([1, 2], cv=2).fit(X))) < largest

    @pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != (2, 3)])
    def test_linear_vae_keeps_enough_for_every_shape(self, shape):
        X = make_rows(*shape, k=1)
        model = LinearVAE(1, random_state=0).fit(X).partial_fit(X[:2])
        assert model.n_samples_ == shape[0] + 2
        begun = LinearVAE(1).partial_fit(X).partial_fit(X[:2])
        assert model.elbo_ == pytest.approx(begun.elbo_, abs=1e-6)


def graded(n, d, smallest, rotation):
    """Samples whose variances fall from 1 to `smallest` along the columns of a rotation."""
    X = np.random.default_rng(0).normal(size=(n, d)) * np.geomspace(1, smallest, d) ** 0.5
    return X @ rotation


DATA = {
    "iris": load_iris().data,
    "wine": load_wine().data,
    "breast cancer": load_breast_cancer().data,
    "digits": load_digits().data[:150, :30],
    "wide": make_rows(25, 60, k=4),
    "wide and far": make_rows(12, 30, k=2, offset=1e6),
    "square": make_rows(20, 20, k=2),
    "flat": np.random.default_rng(0).normal(size=(60, 12)),
    "graded": graded(80, 10, 1e-10, np.eye(10)),
    "graded and rotated": graded(80, 10, 1e-6, special_ortho_group(10, seed=0).rvs()),
    "low rank": np.random.default_rng(0).normal(size=(40, 2)) @ np.eye(2, 9),
    "far": make_rows(50, 6, offset=1e8),
    "two samples": make_rows(2, 5),
}


@cache
def fitted_at_once(name, n_components):
    return PPCA(n_components, svd_solver="full").fit(DATA[name])


CASES = st.sampled_from(sorted(DATA)), st.sampled_from([None, 1, 2]), st.data()


@settings(max_examples=25, deadline=None)
@given(*CASES)
def test_any_batches_of_any_data_give_the_model_of_fit(name, n_components, data):
    check_batches(name, n_components, data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(*CASES)
def test_sixty_batches_give_the_model_of_fit(name, n_components, data):
    check_batches(name, n_components, data)


def check_batches(name, n_components, data):
    X = DATA[name]
    whole = fitted_at_once(name, n_components)
    cuts = data.draw(st.sets(st.integers(1, len(X) - 1), max_size=8))
    if data.draw(st.booleans()):
        cuts |= set(range(1, min(len(X), 8)))  # batches of one sample
    model = PPCA(n_components)
    for batch in np.split(X, sorted(cuts)):
        model.partial_fit(batch)
    assert_agree(model, whole, X)


@pytest.mark.some(13)
@pytest.mark.parametrize("n_components", [None, 1, 2])
@pytest.mark.parametrize("name", DATA)
def test_so_does_fit_as_it_comes(name, n_components):
    X = DATA[name]
    assert_agree(PPCA(n_components).fit(X), fitted_at_once(name, n_components), X)


def assert_agree(model, whole, X, tolerance=1e-9):
    """Compare models relative to the largest variance, and scores absolutely."""
    assert model.n_components_ == whole.n_components_
    largest = float(whole.explained_variance_[0])
    for name in ("explained_variance_", "noise_variance_", "explained_variance_ratio_"):
        difference = np.abs(getattr(model, name) - getattr(whole, name)).max()
        assert difference <= tolerance * (1.0 if "ratio" in name else largest), name
    np.testing.assert_allclose(model.mean_, whole.mean_, rtol=1e-12, atol=tolerance * largest**0.5)
    difference = np.abs(model.get_covariance() - whole.get_covariance()).max()
    assert difference <= tolerance * largest
    if whole._gaussian is None:
        assert model._gaussian is None
    else:
        expected = whole.score_samples(X)
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=tolerance, atol=tolerance)
