"""PPCA of rows with missing values."""

import pickle
import warnings
from copy import copy

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklearn_vae import PPCA, PPCACV
from sklearn_vae.gaussian.observed import Parameters, impute, log_likelihood, posterior
from tests.linear.data import SOLVERS, make_rows


def punched(X, share=0.2, seed=0):
    return np.where(np.random.default_rng(seed).uniform(size=X.shape) < share, np.nan, X)


X = make_rows(300, 8, k=3, offset=5.0)
Y = punched(X)


@pytest.fixture(scope="module")
def model():
    return PPCA(3).fit(Y)


class TestFit:
    def test_the_model_is_found(self, model):
        complete = PPCA(3).fit(X)
        assert model.noise_variance_ == pytest.approx(complete.noise_variance_, rel=0.1)
        np.testing.assert_allclose(model.mean_, complete.mean_, atol=0.3)
        truth, found = complete.get_covariance(), model.get_covariance()
        np.testing.assert_allclose(found, truth, atol=0.15 * np.abs(truth).max())

    def test_history(self, model):
        assert (np.diff(model.loglike_history_) >= -1e-12).all()
        assert model.n_iter_ == len(model.loglike_history_) - 1 > 1
        assert model.elbo_ == model.loglike_history_[-1]
        assert model.score(Y) == pytest.approx(model.elbo_, rel=1e-9)

    def test_contract(self, model):
        C = model.loadings_ @ model.loadings_.T + model.noise_variance_ * np.eye(8)
        np.testing.assert_allclose(model.get_covariance(), C)
        values, vectors = np.linalg.eigh(C)
        np.testing.assert_allclose(model.explained_variance_, values[:-4:-1] * 300 / 299)
        np.testing.assert_allclose(
            np.abs(model.components_ @ vectors[:, :-4:-1]), np.eye(3), atol=1e-7
        )
        total = np.trace(C)
        np.testing.assert_allclose(model.explained_variance_ratio_, values[:-4:-1] / total)
        np.testing.assert_allclose(model.singular_values_, np.sqrt(300 * values[:-4:-1]))
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(3), atol=1e-12)
        gram = model.loadings_.T @ model.loadings_
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
        assert (np.diff(np.diag(gram)) <= 0).all()
        peaks = model.components_[np.arange(3), np.abs(model.components_).argmax(axis=1)]
        assert (peaks > 0).all()
        assert model.n_samples_ == 300

    def test_diagnostics(self, model):
        mean, variance = model.posterior(Y)
        kl = 0.5 * (mean**2 + variance - 1 - np.log(variance))
        np.testing.assert_allclose(model.kl_per_dim_, kl.mean(axis=0), rtol=1e-9)
        assert model.mutual_information_ == pytest.approx(
            0.5 * np.log(1 + (model.loadings_**2).sum(axis=0) / model.noise_variance_).sum()
        )
        assert len(model.collapsed_dims_) == 0

    @pytest.mark.parametrize("noise_variance", [None, 0.3])
    def test_entropies_meet_the_likelihood_at_the_optimum(self, noise_variance):
        model = PPCA(3, noise_variance=noise_variance, tol=1e-12, max_iter=20_000).fit(Y)
        if noise_variance is None:
            assert model.entropy_bound_ == pytest.approx(model.elbo_, abs=1e-6)
        else:
            assert abs(model.entropy_bound_ - model.elbo_) > 1e-3

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_any_solver_may_start_it(self, solver, model):
        other = PPCA(3, svd_solver=solver, random_state=0).fit(Y)
        assert other.elbo_ == pytest.approx(model.elbo_, abs=1e-5)
        np.testing.assert_allclose(other.loadings_, model.loadings_, atol=0.02)

    def test_fixed_noise_collapses_what_it_drowns(self):
        Z = punched(make_rows(2000, 8, k=2, noise=0.1))
        model = PPCA(4, noise_variance=1.0, tol=1e-10, max_iter=20_000).fit(Z)
        np.testing.assert_array_equal(model.collapsed_dims_, [2, 3])
        assert (model.loadings_[:, 2:] == 0).all()
        np.testing.assert_allclose(model.kl_per_dim_[2:], 0.0, atol=1e-9)
        assert (model.kl_per_dim_[:2] > 0.3).all()

    def test_one_component_and_none(self):
        assert PPCA(1).fit(Y).score(Y) > PPCA(0).fit(Y).score(Y)
        isotropic = PPCA(0).fit(Y)
        np.testing.assert_allclose(isotropic.mean_, np.nanmean(Y, axis=0), atol=1e-9)
        assert isotropic.noise_variance_ == pytest.approx(np.nanmean((Y - isotropic.mean_) ** 2))
        # With d - 1 components any covariance can be had.
        everything = PPCA().fit(Y)
        assert everything.n_components_ == 7
        assert everything.score(Y) > PPCA(5).fit(Y).score(Y)

    def test_wide_rows(self):
        Z = punched(make_rows(30, 200, k=2))
        model = PPCA(2).fit(Z)
        assert model.score(Z) > PPCA(1).fit(Z).score(Z)

    def test_many_components(self):
        Z = punched(make_rows(400, 40, k=20))
        model = PPCA(20).fit(Z)
        assert (np.diff(model.loglike_history_) >= -1e-12).all()

    def test_precision_and_frames(self, model):
        single = PPCA(3).fit(Y.astype(np.float32))
        assert single.loadings_.dtype == np.float32
        for found in (single.transform(Y.astype("f4")), single.impute(Y.astype("f4"))):
            assert found.dtype == np.float32
        np.testing.assert_allclose(single.loadings_, model.loadings_, atol=1e-3)
        frame = pd.DataFrame(Y, columns=list("abcdefgh"))
        framed = PPCA(3).set_output(transform="pandas").fit(frame)
        assert list(framed.transform(frame).columns) == ["ppca0", "ppca1", "ppca2"]
        np.testing.assert_allclose(framed.loadings_, model.loadings_)

    def test_memory_mapped(self, tmp_path, model):
        np.save(tmp_path / "rows.npy", Y)
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        again = PPCA(3).fit(mapped)
        np.testing.assert_allclose(again.loadings_, model.loadings_)
        np.testing.assert_allclose(again.transform(mapped), model.transform(Y))

    def test_what_a_refit_leaves_behind(self):
        again = PPCA(3).fit(Y).fit(X)
        assert not hasattr(again, "loglike_history_")
        assert again.n_iter_ == 1
        assert again.elbo_ == PPCA(3).fit(X).elbo_

    def test_pickle(self, model):
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.impute(Y), model.impute(Y))

    def test_grid_search(self):
        search = GridSearchCV(
            PPCA(), {"n_components": [1, 2, 3, 4]}, error_score="raise", cv=3
        ).fit(Y)
        assert search.best_params_["n_components"] == 3


class TestTheMeanMoves:
    """Values missing at random given another column: the observed mean is not the mean."""

    def test_a_frozen_mean_is_worse(self):
        rng = np.random.default_rng(0)
        W = np.array([[2.0, 0], [2, 0], [2, 0], [0, 1.5], [0, 1.5], [0, 1.5]])
        truth = rng.normal(size=(2000, 2)) @ W.T + 0.3 * rng.normal(size=(2000, 6))
        rows = truth.copy()
        rows[truth[:, 0] > 0, 1] = np.nan
        model = PPCA(2).fit(rows)
        observed_mean = np.nanmean(rows, axis=0)
        gap = np.abs(observed_mean - truth.mean(axis=0)).max()
        assert gap > 1.0
        assert np.abs(model.mean_ - truth.mean(axis=0)).max() < 0.1 * gap
        gone = np.isnan(rows)
        error = np.sqrt(np.mean((model.impute(rows) - truth)[gone] ** 2))
        # The noise of the model, and what is not known of z.
        assert error < 0.4
        frozen = _with_frozen_mean(rows, model)
        assert frozen.mean() < model.score(rows) - 1.0


def _with_frozen_mean(rows, start):
    """Log-likelihood with the observed means: EM whose regressions have no intercept."""
    centre = np.nanmean(rows, axis=0)
    seen, values = ~np.isnan(rows), np.nan_to_num(rows - centre)
    model = Parameters(start.loadings_, centre, start.noise_variance_)
    for _ in range(300):
        z, covariance = posterior(rows, model, return_cov=True)
        pairs = covariance + z[:, :, None] * z[:, None, :]
        normal = np.einsum("nj,nab->jab", seen, pairs)
        W = np.linalg.solve(normal, (values.T @ z)[:, :, None])[:, :, 0]
        fit = values**2 - 2 * values * (z @ W.T) + np.einsum("ja,nab,jb->nj", W, pairs, W)
        model = Parameters(W, centre, np.sum(seen * fit) / seen.sum())
    return log_likelihood(rows, model)


class TestNewRows:
    def test_methods(self, model):
        parameters = Parameters(model.loadings_, model.mean_, model.noise_variance_)
        new = punched(make_rows(50, 8, k=3, offset=5.0, seed=1), seed=2)
        means = copy(model).set_params(coordinates="posterior").transform(new)
        np.testing.assert_allclose(means, posterior(new, parameters)[0])
        for return_cov in (False, True):
            found = model.posterior(new, return_cov=return_cov)
            expected = posterior(new, parameters, return_cov=return_cov)
            np.testing.assert_allclose(found[0], expected[0])
            np.testing.assert_allclose(found[1], expected[1])
        np.testing.assert_allclose(model.score_samples(new), log_likelihood(new, parameters))
        filled, std = model.impute(new, return_std=True)
        np.testing.assert_allclose(filled, impute(new, parameters)[0])
        assert ((std == 0) == ~np.isnan(new)).all()

    def test_complete_rows_among_them_are_as_without(self, model):
        new = Y.copy()
        new[:50] = X[:50]
        for method in (model.transform, model.score_samples):
            np.testing.assert_allclose(method(new)[:50], method(X[:50]), rtol=1e-9)

    @pytest.mark.parametrize("coordinates", ["principal", "whitened"])
    def test_coordinates_of_pca_are_those_of_the_imputed_row(self, coordinates):
        model = PPCA(3, coordinates=coordinates).fit(Y)
        np.testing.assert_allclose(model.transform(Y), model.transform(model.impute(Y)))

    def test_a_row_with_nothing_observed(self, model):
        nothing = np.full((2, 8), np.nan)
        np.testing.assert_allclose(model.transform(nothing), 0.0, atol=1e-14)
        np.testing.assert_array_equal(model.posterior(nothing)[0], np.zeros((2, 3)))
        mean, covariance = model.posterior(nothing, return_cov=True)
        np.testing.assert_allclose(covariance, np.tile(np.eye(3), (2, 1, 1)))
        np.testing.assert_array_equal(model.score_samples(nothing), [0.0, 0.0])
        filled, std = model.impute(nothing, return_std=True)
        np.testing.assert_allclose(filled, np.tile(model.mean_, (2, 1)))
        np.testing.assert_allclose(std, np.tile(np.sqrt(np.diag(model.get_covariance())), (2, 1)))
        with_it = PPCA(3).fit(np.concatenate([Y, nothing]))
        np.testing.assert_allclose(with_it.loadings_, model.loadings_, atol=0.02)
        assert mean.shape == (2, 3)

    def test_a_model_of_complete_rows_takes_them(self):
        complete = PPCA(3).fit(X)
        assert np.isfinite(complete.transform(Y)).all()
        error = np.sqrt(np.mean((complete.impute(Y) - X)[np.isnan(Y)] ** 2))
        assert error < 0.8 * X[:, np.isnan(Y).any(axis=0)].std()
        np.testing.assert_array_equal(complete.impute(X), X)
        np.testing.assert_array_equal(complete.impute(X, return_std=True)[1], np.zeros_like(X))
        assert not np.shares_memory(complete.impute(X), X)

    def test_the_wider_precision_with_and_without_missing_values(self, model):
        single = Y.astype(np.float32)
        for rows in (single, X.astype(np.float32)):
            assert model.impute(rows).dtype == np.float64
            assert PPCA(3).fit(single).impute(rows).dtype == np.float32
            assert PPCA(3).fit(single).impute(rows.astype(float)).dtype == np.float64

    def test_observed_entries_are_the_same_bits(self, model):
        single = PPCA(2).fit(Y)
        rows = Y.astype(np.float32)
        seen = ~np.isnan(rows)
        np.testing.assert_array_equal(single.impute(rows)[seen], rows[seen].astype(float))

    def test_standard_deviations_cover_the_truth(self):
        truth = make_rows(3000, 8, k=3)
        rows = punched(truth)
        filled, std = PPCA(3).fit(rows).impute(rows, return_std=True)
        gone = np.isnan(rows)
        z = (truth - filled)[gone] / std[gone]
        assert np.std(z) == pytest.approx(1.0, abs=0.03)
        assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.95, abs=0.01)

    def test_score_with_weights(self, model):
        weights = np.arange(300.0) % 3
        expected = np.average(model.score_samples(Y), weights=weights)
        assert model.score(Y, sample_weight=weights) == pytest.approx(expected)


class TestWarnings:
    def test_too_few_iterations(self):
        with pytest.warns(ConvergenceWarning, match=r"max_iter=2 .* Increase max_iter or tol"):
            model = PPCA(3, max_iter=2).fit(Y)
        assert model.n_iter_ == 2

    def test_no_noise_left(self):
        rng = np.random.default_rng(0)
        flat = punched(rng.normal(size=(60, 2)) @ rng.normal(size=(2, 6)), 0.1)
        with pytest.warns(ConvergenceWarning, match="n_components=3 the likelihood is unbounded"):
            model = PPCA(3).fit(flat)
        assert np.isfinite(model.impute(flat)).all()
        assert (np.diff(model.loglike_history_) >= 0).all()
        assert model.score(flat) == pytest.approx(model.elbo_, rel=1e-6)

    @pytest.mark.parametrize(("shape", "k"), [((100, 40), 30), ((20, 50), 19), ((50, 6), 6)])
    def test_the_best_is_kept_where_rounding_ends_it(self, shape, k):
        rng = np.random.default_rng(0)
        rank = min(20, *shape)
        rows = punched(rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])), 0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PPCA(k, max_iter=200).fit(rows)
        assert (np.diff(model.loglike_history_) >= 0).all()
        assert model.score(rows) == pytest.approx(model.elbo_, rel=1e-5)

    @pytest.mark.parametrize("scale", [1.0, 1e3, 1e5, 1e6])
    def test_one_feature_of_another_scale(self, scale):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 10)) + 0.3 * rng.normal(size=(500, 10))
        X[:, 0] *= scale
        complete = PPCA(4).fit(X)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = PPCA(4).fit(punched(X, 0.02))
        assert model.noise_variance_ == pytest.approx(complete.noise_variance_, rel=0.1)

    def test_no_variance(self):
        rows = np.ones((5, 3))
        rows[2, 1] = np.nan
        model = PPCA(1).fit(rows)
        assert model.noise_variance_ == 0.0
        np.testing.assert_array_equal(model.mean_, np.ones(3))
        with pytest.raises(
            ValueError, match="transform of samples with missing values needs a noise"
        ):
            model.transform(rows)
        held = PPCA(1, noise_variance=0.1).fit(rows)
        np.testing.assert_allclose(held.impute(rows), np.ones((5, 3)))
        assert len(held.collapsed_dims_) == 1
        assert held.score(rows) == pytest.approx(held.elbo_)
        complete = PPCA(1, noise_variance=0.1).fit(np.ones((5, 3)))
        observed = 14 / 15
        assert held.entropy_bound_ == pytest.approx(observed * complete.entropy_bound_)
        tenths = np.where(np.isnan(rows), np.nan, 0.1)
        assert PPCA(1).fit(np.tile(tenths, (2, 1))[:7]).noise_variance_ == 0.0


class TestErrors:
    @pytest.mark.parametrize("n_components", [0.5, "mle"])
    def test_n_components_must_be_a_number(self, n_components):
        with pytest.raises(ValueError, match="must be None or an integer if X contains NaN, got"):
            PPCA(n_components).fit(Y)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"n_components": 9}, r"between 0 and min\(n_samples, n_features\) = 8.*got 9"),
            ({"tol": -1.0}, r"tol must be None or a float >= 0, got -1\.0\."),
            ({"tol": "small"}, r"tol must be None or a float >= 0, got 'small'\."),
            ({"max_iter": 0}, r"max_iter must be an integer >= 1, got 0\."),
        ],
    )
    def test_parameters(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            PPCA(**parameters).fit(Y)

    def test_a_feature_never_observed(self):
        rows = Y.copy()
        rows[:, [2, 5]] = np.nan
        with pytest.raises(ValueError, match=r"every feature, got only NaN in columns 2, 5\."):
            PPCA(2).fit(rows)

    @pytest.mark.parametrize("method", ["fit", "transform", "score", "posterior", "impute"])
    def test_infinity_is_not_missing(self, method, model):
        rows = Y.copy()
        rows[3, 3] = np.inf
        with pytest.raises(ValueError, match="contains infinity"):
            getattr(PPCA(3) if method == "fit" else model, method)(rows)

    def test_where_missing_values_are_not_taken(self, model):
        with pytest.raises(ValueError, match="partial_fit does not accept missing values, but X"):
            PPCA(2).partial_fit(Y)
        assert not hasattr(PPCA(2).fit(Y), "partial_fit")
        with pytest.raises(ValueError, match="Sparse X contains NaN"):
            PPCA(2).fit(sparse.csr_array(Y))
        with pytest.raises(ValueError, match="Sparse X contains NaN"):
            model.transform(sparse.csr_array(Y))
        with pytest.raises(ValueError, match="PPCACV accepts missing values only in dense arrays"):
            PPCACV().fit(sparse.csr_array(Y))

    def test_a_failed_fit_keeps_the_model(self):
        model = PPCA(3).fit(Y)
        before = model.score(Y)
        rows = Y.copy()
        rows[:, 0] = np.nan
        with pytest.raises(ValueError, match="column 0"):
            model.fit(rows)
        assert model.score(Y) == before


def test_digits_with_a_third_missing():
    digits = load_digits().data
    rows = punched(digits, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PPCA(10).fit(rows)
    gone = np.isnan(rows)
    error = np.sqrt(np.mean((model.impute(rows) - digits)[gone] ** 2))
    means = np.broadcast_to(np.nanmean(rows, axis=0), rows.shape)
    by_mean = np.sqrt(np.mean((means - digits)[gone] ** 2))
    assert error < 0.75 * by_mean


def test_a_constant_column_beside_as_many_components_as_rows_gives_no_warning_of_numpy():
    X = np.array(
        [
            [-1.4641003, -0.53286763, 1.67515607],
            [-1.4641003, 0.14147077, 1.06671253],
            [-1.4641003, -1.4863416, np.nan],
            [-1.4641003, 0.30883322, -0.14150784],
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = PPCA().fit(X)
    assert np.isfinite(model.score(X))


def test_the_certificate_of_em_says_how_far_it_is():
    X = np.random.default_rng(0).normal(size=(60, 3)) @ np.random.default_rng(1).normal(size=(3, 6))
    X[np.random.default_rng(2).uniform(size=X.shape) < 0.2] = np.nan
    X += np.random.default_rng(3).normal(size=X.shape)
    best = PPCA(2, tol=1e-12, max_iter=5000).fit(X)
    assert best.certificate_.converged
    assert best.certificate_.remaining_gain < 1e-10
    early = PPCA(2, tol=1e-12, max_iter=3)
    with pytest.warns(ConvergenceWarning, match=r"can still rise by about .* nats") as seen:
        early.fit(X)
    gain = early.certificate_.remaining_gain
    assert 0.1 < gain / (best.elbo_ - early.elbo_) < 3.0
    assert f"by about {gain:.2g} nats per sample (tol=1e-12)" in str(seen[0].message)
    expected = f"Not converged: the log-likelihood can rise by about {gain:.2g} nats per sample"
    assert str(early.certificate_).startswith(expected)


def test_observed_values_whose_squares_overflow():
    X = punched(make_rows())
    model = PPCA(2).fit(X)
    far = X.copy()
    row = np.flatnonzero(np.isnan(X).any(axis=1))[0]
    far[row] = np.where(np.isnan(far[row]), np.nan, 1e308)
    for method in ("score_samples", "transform", "impute"):
        with pytest.raises(ValueError, match=f"samples closer to mean_ for {method}: the squares"):
            getattr(model, method)(far)


def test_constant_features_have_the_likelihood_of_the_given_noise():
    X = np.full((6, 3), 2.0)
    X[0, 1] = X[4, 2] = np.nan
    model = PPCA(1, noise_variance=0.5).fit(X)
    expected = -0.5 * np.log(2 * np.pi * 0.5) * 16 / 6
    assert model.elbo_ == pytest.approx(expected, rel=1e-12)
    assert model.score(X) == pytest.approx(expected, rel=1e-12)
    assert model.loglike_history_ == pytest.approx([expected], rel=1e-12)
    assert not model.loadings_.any()
    unbounded = PPCA(1).fit(X)
    assert (unbounded.noise_variance_, unbounded.elbo_) == (0.0, np.inf)
