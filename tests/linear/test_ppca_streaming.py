"""PPCA from batches and from moments."""

import numpy as np
import pytest

from sklearn_vae import PPCA, Moments
from tests.helpers import RECORDS
from tests.linear.data import make_rows


class TestPartialFit:
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

    def test_fit_begins_anew_and_partial_fit_goes_on(self):
        X = make_rows(200)
        model = PPCA(2).fit(X[:120])  # covariance_eigh, which keeps its moments
        model.partial_fit(X[120:])
        np.testing.assert_allclose(model.mean_, X.mean(axis=0), atol=1e-12)
        model.fit(X[:120]).fit(X)
        assert model.moments_.n == 200
        model.set_params(svd_solver="full").fit(X)
        assert not hasattr(model, "moments_")

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

    def test_after_a_fit_without_moments(self):
        X = make_rows()
        model = PPCA(2, svd_solver="full").fit(X)
        with pytest.raises(ValueError, match="fit keeps only with the solver 'covariance_eigh'"):
            model.partial_fit(X)
        assert np.isfinite(model.score(X))

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
