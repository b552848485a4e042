"""PPCA where nothing is left for the noise: ranks, offsets, rounding."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits, load_iris

from sklearn_vae import PPCA
from tests.linear.data import CONTAINERS_AND_SOLVERS, SOLVERS, make_rows


class TestNoNoise:
    """n_components at the rank: the maximum likelihood noise is 0."""

    def test_full_rank_is_the_empirical_gaussian(self):
        X = load_iris().data
        model = PPCA(coordinates="posterior").fit(X)
        assert model.n_components_ == 4
        assert model.noise_variance_ == 0.0
        S = np.cov(X.T, ddof=0)
        np.testing.assert_allclose(model.get_covariance(), S, rtol=1e-10)
        np.testing.assert_allclose(model.get_precision(), np.linalg.inv(S), rtol=1e-10)
        oracle = multivariate_normal(X.mean(axis=0), S).logpdf(X)
        np.testing.assert_allclose(model.score_samples(X), oracle, rtol=1e-10)
        assert model.elbo_ == pytest.approx(oracle.mean(), rel=1e-12)
        assert model.entropy_bound_ == model.elbo_
        assert (model.kl_per_dim_ == np.inf).all()
        np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, rtol=1e-12)
        np.testing.assert_allclose(model.transform(X).std(axis=0), 1.0)
        assert (model.posterior(X)[1] == 0).all()
        sample = model.sample(100_000, random_state=0)[0]
        np.testing.assert_allclose(np.cov(sample.T), S, atol=0.05)

    @pytest.mark.some(5)
    @pytest.mark.parametrize("solver", ["full", "covariance_eigh", "randomized"])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize(("n", "d", "rank"), [(20, 50, None), (400, 30, 5), (20, 20, None)])
    def test_below_full_rank_transform_works_and_score_raises(self, n, d, rank, dtype, solver):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, rank or d)) @ rng.normal(size=(rank or d, d)) + 3.0
        X = X.astype(dtype)
        rank = rank or n - 1
        model = PPCA(svd_solver=solver, random_state=0, coordinates="posterior").fit(X)
        assert model.n_components_ == min(n, d)
        assert model.noise_variance_ == 0.0
        assert model.elbo_ == model.entropy_bound_ == np.inf
        np.testing.assert_array_equal(model.collapsed_dims_, np.arange(rank, min(n, d)))
        assert (model.kl_per_dim_[:rank] == np.inf).all()
        assert (model.kl_per_dim_[rank:] == 0).all()
        Z = model.transform(X)
        assert (Z[:, rank:] == 0).all()
        tolerance = 1e-9 if dtype == np.float64 else 1e-2
        np.testing.assert_allclose(model.inverse_transform(Z), X, atol=tolerance)
        assert (model.conditional(Z)[1] == 0).all()
        model.set_params(coordinates="principal")
        np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, atol=tolerance)
        remedy = (
            f"n_components={min(n, d)} is 0: the rank of the {n} training samples is {rank}, "
            f"less than n_features={d}"
        )
        for method in (model.score, model.score_samples, model.posterior):
            with pytest.raises(ValueError, match=remedy):
                method(X)
        for method in (model.sample, model.get_precision):
            with pytest.raises(
                ValueError, match="Set noise_variance, use an n_components below the rank, or"
            ):
                method()
        assert np.isfinite(PPCA(rank - 1, svd_solver=solver, random_state=0).fit(X).score(X))
        assert np.isfinite(PPCA(noise_variance=0.1, svd_solver="full").fit(X).score(X))

    @pytest.mark.some(5)
    @pytest.mark.parametrize(("container", "solver"), CONTAINERS_AND_SOLVERS)
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_rounding_of_far_columns_tilts_the_components_of_the_others(
        self, container, dtype, solver
    ):
        rng = np.random.default_rng(0)
        for _ in range(5):
            X = rng.normal(size=(100, 2)) @ rng.normal(size=(2, 10))
            X[:, :5] += 1e5
            X = container(X.astype(dtype))
            model = PPCA(2, svd_solver=solver, random_state=0).fit(X)
            assert model.noise_variance_ == 0.0
            assert model.elbo_ == np.inf

    @pytest.mark.cover(2, 3)
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize(
        ("offset", "dtype"), [(30.0, "f8"), (30.0, "f4"), (1e3, "f8"), (1e3, "f4"), (1e6, "f8")]
    )
    @pytest.mark.parametrize("shape", [(40, 100), (300, 400), (30, 30)])
    def test_an_offset_does_not_make_up_a_direction(self, shape, offset, dtype, solver):
        # The rounded mean of n rows would be one direction more than their rank of n - 1.
        X = (np.random.default_rng(0).normal(size=shape) + offset).astype(dtype)
        n = shape[0]
        model = PPCA(n - 1, svd_solver=solver, random_state=0).fit(X)
        assert model.noise_variance_ == 0.0
        assert model.elbo_ == np.inf
        with pytest.raises(ValueError, match=f"the {n} training samples is {n - 1}, less than"):
            model.score(X)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize(
        ("shape", "offset", "dtype"),
        [((100, 8), 1e6, "f8"), ((10, 500), 1.5e6, "f8"), ((10, 500), 1.5e3, "f4")],
    )
    def test_low_rank_rows_rounded_at_an_offset(self, shape, offset, dtype, solver):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(shape[0], 3)) @ rng.normal(size=(3, shape[1])) + offset
        model = PPCA(4, svd_solver=solver, random_state=0).fit(X.astype(dtype))
        assert model.noise_variance_ == 0.0
        assert model.collapsed_dims_.tolist() == [3]

    @pytest.mark.some(5)
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize(
        ("column", "dtype"),
        [
            (np.full(300, 1e18), "f8"),
            (np.full(300, 1e8), "f4"),
            (np.full(300, 9.969e36), "f4"),  # a fill value
            (1e6 + np.random.default_rng(1).normal(size=300), "f4"),
        ],
    )
    def test_a_column_far_from_zero_leaves_the_others_alone(self, column, dtype, solver):
        rng = np.random.default_rng(0)
        near = rng.normal(size=(300, 5)) * [3, 2, 1, 0.5, 0.5]
        X = np.c_[near, column].astype(dtype)
        model = PPCA(2, svd_solver=solver, random_state=0).fit(X)
        centred = X.astype(np.longdouble) - X.astype(np.longdouble).mean(axis=0)
        oracle = PPCA(2, svd_solver="full").fit(centred.astype(float))
        assert model.noise_variance_ == pytest.approx(oracle.noise_variance_, rel=1e-4)
        assert model.collapsed_dims_.size == 0
        assert np.isfinite(model.score(X))
        assert PPCA("mle", svd_solver="full").fit(X).n_components_ >= 4

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_variances_beyond_all_digits_count_as_zero(self, solver):
        X = 1e-160 * make_rows()
        with pytest.raises(ValueError, match="rank of the 80 training samples is 0"):
            PPCA(2, svd_solver=solver, random_state=0).fit(X).score(X)

    @pytest.mark.parametrize("value", [0.1, 2.0])
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_equal_rows(self, solver, value):
        X = np.full((500, 4), value)
        model = PPCA(2, svd_solver=solver, random_state=0, coordinates="posterior").fit(X)
        np.testing.assert_array_equal(model.collapsed_dims_, [0, 1])
        np.testing.assert_allclose(model.transform(X + 0.1), 0.0, atol=1e-12)
        with pytest.raises(ValueError, match="rank of the 500 training samples is 0"):
            model.score(X)

    def test_constant_data(self):
        X = np.full((5, 3), 2.0)
        model = PPCA(2).fit(X)
        assert (model.explained_variance_ratio_ == 0).all()
        np.testing.assert_array_equal(model.collapsed_dims_, [0, 1])
        np.testing.assert_array_equal(model.inverse_transform(model.transform(X)), X)
        with pytest.raises(ValueError, match="rank of the 5 training samples is 0"):
            model.score(X)
        assert np.isfinite(PPCA(2, noise_variance=1.0).fit(X).score(X))

    def test_constant_columns_of_real_data(self):
        # Three pixels of the digits never change: the rank is 61 of 64.
        X = load_digits().data
        assert PPCA().fit(X).collapsed_dims_.tolist() == [61, 62, 63]
        assert np.isfinite(PPCA(60).fit(X).score(X))
        with pytest.raises(ValueError, match="is 61, less than n_features=64"):
            PPCA(61).fit(X).score(X)
