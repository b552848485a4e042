"""Maximum likelihood factor analysis against dense matrices and other optimizers."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import FactorAnalysis

from sklearn_vae.gaussian import profile_likelihood
from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE, fit_factors
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.profile_likelihood import (
    FLOOR,
    CorrelationFactor,
    CorrelationMatrix,
    ProfileLikelihood,
)

LOADERS = {"wine": load_wine, "breast_cancer": load_breast_cancer, "iris": load_iris}


@cache
def data(name: str) -> np.ndarray:
    return LOADERS[name]().data


def planted(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    psi = rng.uniform(0.2, 2.0, d)
    W = rng.normal(size=(d, k))
    X = rng.normal(size=(n, k)) @ W.T + psi**0.5 * rng.normal(size=(n, d)) + rng.normal(size=d)
    return X, W, psi


def dense_log_likelihood(model, X):
    C = model.loadings @ model.loadings.T + np.diag(model.noise_variance)
    return stats.multivariate_normal(X.mean(axis=0), C).logpdf(X).mean()


def profile_of(X, k):
    Y = (X - X.mean(axis=0)) / X.std(axis=0) / len(X) ** 0.5
    return ProfileLikelihood(CorrelationMatrix(Y.T @ Y), k)


@pytest.mark.parametrize("most", [0, 256])  # features of which all eigenvectors are computed
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_the_loss_is_the_dense_likelihood_at_the_best_loadings(k, most, monkeypatch):
    monkeypatch.setattr(profile_likelihood, "MOST_FOR_NEWTON", most)
    X = planted(80, 6, 3)[0]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    profile = profile_of(X, k)
    log_psi = np.log(np.random.default_rng(1).uniform(0.1, 0.9, 6))
    W = profile.loadings(log_psi)

    def dense(W):
        C = W @ W.T + np.diag(np.exp(log_psi))
        return -stats.multivariate_normal(np.zeros(6), C).logpdf(X).mean() - 3 * np.log(2 * np.pi)

    assert profile.loss(log_psi)[0] == pytest.approx(dense(W), abs=1e-12)
    if k:  # no other loadings are better
        result = optimize.minimize(lambda w: dense(w.reshape(W.shape)), W.ravel() + 0.01)
        assert result.fun >= dense(W) - 1e-9


@pytest.mark.parametrize("k", [1, 4])
def test_gradient_and_hessian_are_finite_differences(k):
    profile = profile_of(planted(60, 7, 2)[0], k)
    log_psi = np.log(np.random.default_rng(2).uniform(0.1, 0.9, 7))
    step = 1e-5 * np.eye(7)
    differences = [
        (np.subtract(profile.loss(log_psi + h)[0], profile.loss(log_psi - h)[0])) / 2e-5
        for h in step
    ]
    np.testing.assert_allclose(profile.loss(log_psi)[1], differences, atol=1e-9)
    rows = [(profile.loss(log_psi + h)[1] - profile.loss(log_psi - h)[1]) / 2e-5 for h in step]
    np.testing.assert_allclose(profile.hessian(log_psi), rows, atol=1e-8)


def test_the_hessian_tends_to_the_fisher_information():
    X, _, psi = planted(200_000, 6, 1)
    profile = profile_of(X, 1)
    log_psi = np.log(psi / X.var(axis=0))
    values, vectors, n_kept = profile.pairs(log_psi)
    theta, U = values[n_kept:], vectors[:, n_kept:]
    fisher = 0.5 * (U @ U.T) * ((U * theta) @ U.T)
    assert np.abs(profile.hessian(log_psi) - fisher).max() < 0.05 * fisher.max()
    np.testing.assert_allclose(profile.scoring(log_psi), np.diagonal(fisher), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@pytest.mark.parametrize(
    ("name", "k"), [("wine", 2), ("wine", 5), ("breast_cancer", 3), ("iris", 1)]
)
def test_no_lower_than_scikit_learn(name, k):
    X = data(name)
    model = fit_factors(Moments.of(X), k)
    reference = FactorAnalysis(k, svd_method="lapack", tol=1e-4, max_iter=200).fit(X)
    assert model.log_likelihood >= reference.score(X) - 1e-9
    scale = X.std(axis=0)  # a determinant that floats can hold
    model = replace(
        model,
        loadings=model.loadings / scale[:, None],
        noise_variance=model.noise_variance / scale**2,
        log_likelihood=model.log_likelihood + np.log(scale).sum(),
    )
    assert model.log_likelihood == pytest.approx(dense_log_likelihood(model, X / scale), abs=1e-6)


def test_planted_parameters_are_recovered():
    X, W, psi = planted(100_000, 10, 2)
    model = fit_factors(Moments.of(X), 2)
    np.testing.assert_allclose(model.noise_variance, psi, rtol=0.05)
    np.testing.assert_allclose(model.loadings @ model.loadings.T, W @ W.T, atol=0.1)
    assert model.converged
    assert model.gradient_norm <= 1e-6


@pytest.mark.parametrize("k", [1, 3])
def test_both_optimizers_and_both_forms_agree(k, monkeypatch):
    X = planted(90, 9, 2, seed=3)[0]
    start = np.exp(profile_of(X, k).starts()[0]) * X.var(axis=0)  # without a second one
    newton = fit_factors(Moments.of(X), k, start=start)
    with_matrix = fit_factors(centered_data(X, None), k, start=start)
    np.testing.assert_allclose(with_matrix.noise_variance, newton.noise_variance, rtol=1e-5)
    monkeypatch.setattr(profile_likelihood, "MOST_FOR_NEWTON", 0)
    for summary in (Moments.of(X), centered_data(X, None)):
        other = fit_factors(summary, k, start=start, tol=1e-10)
        assert other.log_likelihood == pytest.approx(newton.log_likelihood, abs=1e-9)
        np.testing.assert_allclose(other.noise_variance, newton.noise_variance, rtol=2e-3)


def test_wide_data_use_their_samples_only(monkeypatch):
    monkeypatch.setattr(profile_likelihood, "MOST_FOR_NEWTON", 0)
    X = planted(30, 200, 2)[0]
    model = fit_factors(centered_data(X, None), 2)
    assert model.log_likelihood == pytest.approx(dense_log_likelihood(model, X), abs=1e-8)
    assert model.log_likelihood == pytest.approx(
        fit_factors(Moments.of(X), 2).log_likelihood, abs=1e-7
    )
    forms = CorrelationFactor(X / 30**0.5), CorrelationMatrix(X.T @ X / 30)
    scale = np.linspace(0.5, 2.0, 200)
    (values, vectors), (dense_values, dense_vectors) = (form.eigenpairs(scale, 3) for form in forms)
    np.testing.assert_allclose(values, dense_values, rtol=1e-10)
    np.testing.assert_allclose(abs(vectors.T @ dense_vectors), np.eye(3), atol=1e-8)


def test_more_starts_find_a_better_maximum():
    moments = Moments.of(data("breast_cancer"))
    one, two, many = (
        fit_factors(moments, 8, n_init=n, random_state=np.random.RandomState(1)).log_likelihood
        for n in (1, 2, 4)
    )
    assert one <= two < many - 1e-2


@pytest.mark.parametrize(("name", "k", "gain"), [("wine", 5, 0.05), ("breast_cancer", 4, 1.3)])
def test_a_heywood_case_leads_to_a_second_start(name, k, gain):
    moments = Moments.of(data(name))
    model = fit_factors(moments, k)
    first, second = profile_of(data(name), k).starts()
    alone, other = (
        fit_factors(moments, k, start=np.exp(start) * data(name).var(axis=0)).log_likelihood
        for start in (first, second)
    )
    assert alone < model.log_likelihood - 0.9 * gain
    assert model.log_likelihood == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_data_at_the_ends_of_the_range(scale):
    X = planted(50, 6, 2)[0]
    here, there = (fit_factors(Moments.of(samples), 2) for samples in (X, X * scale))
    np.testing.assert_allclose(there.noise_variance / scale / scale, here.noise_variance, rtol=1e-9)
    expected = here.log_likelihood - 6 * np.log(scale)
    assert there.log_likelihood == pytest.approx(expected, rel=1e-12)


def test_accurate_eigenpairs_are_not_mixed_with_the_others():
    profile = profile_of(data("wine"), 5)
    log_psi = np.full(13, np.log(0.5))
    plain = profile.pairs(log_psi)
    profile.correlation.is_accurate = True
    accurate = profile.pairs(log_psi)
    assert accurate is not plain
    assert profile.pairs(log_psi) is accurate


def test_units_change_nothing_but_the_log_determinant():
    X = data("wine")
    scale = 2.0 ** np.arange(-20, 6, 2)
    model, scaled = fit_factors(Moments.of(X), 3), fit_factors(Moments.of(X * scale + 5.0), 3)
    np.testing.assert_allclose(scaled.noise_variance, model.noise_variance * scale**2, rtol=1e-4)
    expected = model.log_likelihood - np.log(scale).sum()
    assert scaled.log_likelihood == pytest.approx(expected, abs=1e-8)


def test_weights_are_repetitions():
    X = data("wine")
    weights = np.arange(178) % 3
    weighted = fit_factors(Moments.of(X, weights), 1)
    repeated = fit_factors(Moments.of(np.repeat(X, weights, axis=0)), 1)
    np.testing.assert_allclose(weighted.noise_variance, repeated.noise_variance, rtol=1e-6)


def test_heywood_cases_stay_at_the_floor():
    X = planted(50, 6, 1)[0]
    X[:, 2] = X[:, [0, 1]].sum(axis=1)
    model = fit_factors(Moments.of(X), 2)
    assert model.at_floor.size > 0
    ratio = model.noise_variance / X.var(axis=0)
    np.testing.assert_allclose(ratio[model.at_floor], FLOOR, rtol=1e-9)
    assert (np.delete(ratio, model.at_floor) > FLOOR).all()
    assert model.gradient_norm <= 1e-6


def test_constant_features_have_the_noise_of_scikit_learn():
    X = load_digits().data[:300, :20]
    model = fit_factors(Moments.of(X), 2)
    constant = X.std(axis=0) == 0
    assert (model.noise_variance[constant] == CONSTANT_NOISE).all()
    assert (model.loadings[constant] == 0).all()
    reference = FactorAnalysis(2, svd_method="lapack").fit(X)
    assert reference.score(X) <= model.log_likelihood < reference.score(X) + 0.01


def test_fixed_noise_variances_are_kept():
    X = data("wine")
    psi = 0.3 * X.var(axis=0)
    model = fit_factors(Moments.of(X), 2, noise_variance=psi)
    np.testing.assert_array_equal(model.noise_variance, psi)
    assert model.log_likelihood == pytest.approx(dense_log_likelihood(model, X), abs=1e-8)
    assert model.log_likelihood < fit_factors(Moments.of(X), 2).log_likelihood


def test_a_fit_from_its_own_solution_takes_no_iteration():
    X = data("wine")
    model = fit_factors(Moments.of(X), 2)
    again = fit_factors(Moments.of(X), 2, start=model.noise_variance)
    assert len(again.history) == 1
    np.testing.assert_allclose(again.noise_variance, model.noise_variance, rtol=1e-12)


@pytest.mark.parametrize("most", [0, 256])
def test_the_history_rises_and_the_limit_of_iterations_is_reported(most, monkeypatch):
    monkeypatch.setattr(profile_likelihood, "MOST_FOR_NEWTON", most)
    moments = Moments.of(data("breast_cancer"))
    model = fit_factors(moments, 5)
    assert (np.diff(model.history) >= 0).all()
    assert model.history[-1] == pytest.approx(model.log_likelihood, abs=1e-10)
    stopped = fit_factors(moments, 5, max_iter=3)
    assert not stopped.converged
    assert len(stopped.history) == 4
    assert stopped.gradient_norm > 1e-6


def test_a_heywood_case_converges_although_its_loss_is_rounded():
    # At the floor, R in units of the noise has an eigenvalue of 1e6, and the loss an error of 1e-9.
    rng = np.random.RandomState(42)
    X = rng.rand(15, 30)
    rng.randint(0, 3, size=15)
    copies = X.repeat(rng.randint(0, 5, size=15), axis=0)
    fits = [fit_factors(Moments.of(x), 2) for x in (copies, rng.permutation(copies))]
    for model in fits:
        assert len(model.at_floor) == 1
        assert model.gradient_norm < 1e-10
    np.testing.assert_allclose(fits[0].noise_variance, fits[1].noise_variance, rtol=1e-9)


def test_features_that_are_all_constant():
    model = fit_factors(Moments.of(np.ones((4, 3))), 2)
    assert not model.loadings.any()
    assert (model.noise_variance == CONSTANT_NOISE).all()


def test_equal_eigenvalues_of_a_factor_and_of_none():
    profile = ProfileLikelihood(CorrelationMatrix(np.kron(np.eye(3), [[1.0, 0.5], [0.5, 1.0]])), 2)
    log_psi = np.full(6, np.log(0.5))
    values, _, n_kept = profile.pairs(log_psi)
    values[n_kept] = values[n_kept - 1]
    assert np.isfinite(profile.hessian(log_psi)).all()


def test_a_newton_step_that_a_bound_cuts_off_does_not_end_the_search():
    X = np.array([[-3.0, -5, -5, -4], [4, 3, 2, 2], [5, 1, 2, -1], [3, -4, -8, -6]])
    model = fit_factors(Moments.of(X), 2)
    assert model.converged
    assert 0.0 <= model.remaining_gain <= 1e-8
    assert model.gradient_norm < 1e-6


def test_lbfgs_starts_again_where_its_direction_leads_nowhere(monkeypatch):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(30, 5)) * rng.uniform(0.1, 3, 5)
    moments = Moments.of(X + 3 * rng.normal(size=(30, 2)) @ rng.normal(size=(2, 5)))
    monkeypatch.setattr(profile_likelihood, "MOST_FOR_NEWTON", 0)
    model = fit_factors(moments, 2)
    monkeypatch.undo()
    best = fit_factors(moments, 2, start=model.noise_variance)
    assert model.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-8)


def test_a_start_at_singular_correlations_is_the_residual_variance_of_ppca():
    R = np.corrcoef(np.random.default_rng(0).normal(size=(5, 8)).T)
    start = ProfileLikelihood(CorrelationMatrix(R), 2).starts()[0]
    values, vectors = np.linalg.eigh(R)
    noise = values[:-2].mean()
    loadings = vectors[:, -2:] * (values[-2:] - noise) ** 0.5
    residuals = 1.0 - np.square(loadings).sum(axis=1)
    np.testing.assert_allclose(np.exp(start), residuals.clip(1e-3, 1.0), rtol=1e-10)
