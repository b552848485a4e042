"""PPCA as a model: against dense matrices, Monte Carlo and numerical optimisation."""

import numpy as np
import pytest
import scipy.optimize
from scipy.stats import multivariate_normal

from sklearn_vae import PPCA
from tests.linear.data import SOLVERS, make_rows


def dense(model):
    return multivariate_normal(
        model.mean_,
        model.loadings_ @ model.loadings_.T + model.noise_variance_ * np.eye(len(model.mean_)),
    )


@pytest.mark.parametrize("noise_variance", [None, 1e-3, 0.4, 9.0])
@pytest.mark.parametrize("n_components", [0, 1, 3, 7])
def test_density_and_posterior_against_dense_matrices(n_components, noise_variance):
    X, new = make_rows(), make_rows(seed=1)
    model = PPCA(n_components, noise_variance=noise_variance).fit(X)
    oracle = dense(model)
    np.testing.assert_allclose(model.score_samples(new), oracle.logpdf(new), rtol=1e-9)
    assert model.score(new) == pytest.approx(oracle.logpdf(new).mean(), rel=1e-9)
    np.testing.assert_allclose(model.get_covariance(), oracle.cov, rtol=1e-12)
    np.testing.assert_allclose(
        model.get_precision(), np.linalg.inv(oracle.cov), rtol=1e-8, atol=1e-11
    )
    gain = np.linalg.solve(oracle.cov, model.loadings_)
    mean, cov = model.posterior(new, return_cov=True)
    np.testing.assert_allclose(mean, (new - model.mean_) @ gain, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        cov[0], np.eye(n_components) - model.loadings_.T @ gain, rtol=1e-7, atol=1e-10
    )
    assert cov.shape == (len(new), n_components, n_components)
    np.testing.assert_array_equal(cov[0], cov[-1])
    variance = model.posterior(new)[1]
    assert variance.shape == mean.shape
    np.testing.assert_allclose(variance[0], np.diag(cov[0]), rtol=1e-12)


@pytest.mark.some(1)
@pytest.mark.parametrize("noise_variance", [None, 0.8, 6.0])
def test_the_fit_is_the_maximum_of_the_likelihood(noise_variance):
    # From random starts, over all W and (where it is free) sigma2, no optimiser does better.
    X = make_rows(n=40, d=4, k=2)
    d, k = 4, 2
    model = PPCA(k, noise_variance=noise_variance).fit(X)
    S = np.cov(X.T, ddof=0)

    def loss(parameters):
        W = parameters[: d * k].reshape(d, k)
        sigma2 = np.exp(parameters[-1]) if noise_variance is None else noise_variance
        C = W @ W.T + sigma2 * np.eye(d)
        return 0.5 * (
            d * np.log(2 * np.pi) + np.linalg.slogdet(C)[1] + np.trace(np.linalg.solve(C, S))
        )

    rng = np.random.default_rng(0)
    best = min(
        scipy.optimize.minimize(loss, rng.normal(size=d * k + 1), tol=1e-12).fun for _ in range(8)
    )
    assert model.score(X) == pytest.approx(-best, abs=1e-7)
    assert model.elbo_ == pytest.approx(model.score(X), rel=1e-12)


def test_fixed_noise_collapses_the_directions_below_it():
    X = make_rows()
    values = np.linalg.eigvalsh(np.cov(X.T, ddof=0))[::-1]
    sigma2 = (values[1] + values[2]) / 2
    model = PPCA(4, noise_variance=sigma2).fit(X)
    assert model.noise_variance_ == sigma2
    np.testing.assert_array_equal(model.collapsed_dims_, [2, 3])
    assert (model.loadings_[:, 2:] == 0).all()
    np.testing.assert_allclose((model.loadings_[:, :2] ** 2).sum(axis=0), values[:2] - sigma2)
    mean, variance = model.posterior(X)
    assert (mean[:, 2:] == 0).all()
    np.testing.assert_allclose(variance[:, 2:], 1.0, rtol=1e-15)
    # The eigenvectors are still those of the data.
    np.testing.assert_allclose(model.components_, PPCA(4).fit(X).components_)
    assert PPCA(4).fit(X).collapsed_dims_.size == 0
    assert PPCA(4, noise_variance=values[0]).fit(X).collapsed_dims_.size == 4


def test_an_integer_is_a_noise_variance():
    X = make_rows()
    model, same = PPCA(2, noise_variance=3).fit(X), PPCA(2, noise_variance=3.0).fit(X)
    assert model.score(X) == same.score(X)
    assert isinstance(model.noise_variance_, float)


@pytest.mark.parametrize("noise_variance", [None, 0.1, 5.0, 100.0])
def test_kl_per_dim_is_the_average_kl(noise_variance):
    X = make_rows()
    model = PPCA(4, noise_variance=noise_variance).fit(X)
    mean, variance = model.posterior(X)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(model.kl_per_dim_, kl.mean(axis=0), rtol=1e-9, atol=1e-15)
    assert (model.kl_per_dim_[model.collapsed_dims_] == 0).all()


@pytest.mark.parametrize("noise_variance", [None, 0.1, 5.0, 100.0])
def test_mutual_information_is_what_the_covariances_say(noise_variance):
    model = PPCA(4, noise_variance=noise_variance).fit(make_rows())
    # h(x) - h(x|z) of the joint Gaussian.
    logdet = np.linalg.slogdet(model.get_covariance())[1]
    expected = 0.5 * (logdet - 7 * np.log(model.noise_variance_))
    assert model.mutual_information_ == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert model.mutual_information_ == pytest.approx(model.kl_per_dim_.sum(), rel=1e-12)


@pytest.mark.parametrize("noise_variance", [None, 0.1, 5.0])
def test_elbo_by_monte_carlo_and_entropies(noise_variance):
    X = make_rows()
    model = PPCA(2, noise_variance=noise_variance).fit(X)
    mean, variance = model.posterior(X)
    rng = np.random.default_rng(0)
    draws = mean + variance**0.5 * rng.normal(size=(2000, *mean.shape))
    x_mean, x_variance = model.conditional(draws.reshape(-1, 2))
    error = ((np.tile(X, (2000, 1)) - x_mean) ** 2 / x_variance).sum(axis=1).mean()
    d = X.shape[1]
    reconstruction = -0.5 * (d * np.log(2 * np.pi * model.noise_variance_) + error)
    assert reconstruction - model.kl_per_dim_.sum() == pytest.approx(model.elbo_, abs=0.02)
    # The exact gap identity: ELBO - entropies = (d - expected squared error / sigma2) / 2.
    gap = 0.5 * (d - error)
    assert model.elbo_ - model.entropy_bound_ == pytest.approx(gap, abs=0.02)
    if noise_variance is None:
        assert model.entropy_bound_ == pytest.approx(model.elbo_, rel=1e-12)


def test_sample_comes_from_the_model():
    model = PPCA(3).fit(make_rows(offset=5.0))
    X, Z = model.sample(200_000, random_state=0)
    np.testing.assert_allclose(np.cov(X.T), model.get_covariance(), atol=0.15)
    np.testing.assert_allclose(X.mean(axis=0), model.mean_, atol=0.05)
    mean, _ = model.conditional(Z)
    np.testing.assert_allclose((X - mean).var(axis=0), model.noise_variance_, rtol=0.02)
    again = model.sample(200_000, random_state=0)
    np.testing.assert_array_equal(X, again[0])
    assert model.sample()[0].shape == (1, 7)


def test_sample_leaves_the_global_generator_alone():
    model = PPCA(2, svd_solver="randomized", random_state=0)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    model.fit(make_rows()).sample(3, random_state=1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(60, 200), (200, 60), (500, 20)])
def test_one_noise_variance_and_score_whatever_the_solver(shape, dtype):
    X = make_rows(*shape, k=4, noise=0.5).astype(dtype)
    S = np.cov(X.T.astype(float), ddof=0)
    values = np.linalg.eigvalsh(S)[::-1]
    expected = values[4:].sum() / (shape[1] - 4)
    rtol = 1e-6 if dtype == np.float64 else 2e-5
    scores = []
    for solver in SOLVERS:
        model = PPCA(4, svd_solver=solver, random_state=0).fit(X)
        assert model.noise_variance_ == pytest.approx(expected, rel=rtol)
        assert model.components_.dtype == model.transform(X).dtype == dtype
        scores.append(model.score(X))
    np.testing.assert_allclose(scores, scores[0], rtol=rtol)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("offset", "dtype"), [(1e7, np.float64), (1e3, np.float32)])
def test_an_offset_costs_no_digits(offset, dtype, solver):
    rng = np.random.default_rng(0)
    W = np.linalg.qr(rng.normal(size=(20, 3)))[0] * 3
    X = rng.normal(size=(4000, 3)) @ W.T + 0.5 * rng.normal(size=(4000, 20))
    X = (X + offset).astype(dtype)
    centred = X.astype(np.longdouble) - X.astype(np.longdouble).mean(axis=0)
    new = centred[:50].astype(np.float64)
    oracle = PPCA(3, svd_solver="full").fit(centred.astype(np.float64))
    model = PPCA(3, svd_solver=solver, random_state=0).fit(X)
    rtol = 1e-6 if dtype == np.float64 else 1e-5
    assert model.noise_variance_ == pytest.approx(oracle.noise_variance_, rel=rtol)
    assert model.noise_variance_ == pytest.approx(0.25, rel=0.03)
    np.testing.assert_allclose(
        model.transform(X[:50]), oracle.transform(new), atol=2e-6 if dtype == np.float64 else 1e-3
    )
    np.testing.assert_allclose(
        model.score_samples(X[:50]),
        oracle.score_samples(new),
        rtol=1e-6 if dtype == np.float64 else 1e-4,
    )


def slow_spectrum(n, d):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.4 + 1.0


@pytest.mark.parametrize("shape", [(300, 80), (80, 300)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_elbo_is_the_training_likelihood_also_where_components_are_approximate(solver, shape):
    X = slow_spectrum(*shape)
    model = PPCA(20, svd_solver=solver, iterated_power=1, random_state=0).fit(X)
    assert model.elbo_ == pytest.approx(model.score(X), rel=1e-11)
    assert model.entropy_bound_ == pytest.approx(model.score(X), rel=1e-11)
    mean, variance = model.posterior(X)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).mean(axis=0)
    np.testing.assert_allclose(model.kl_per_dim_, kl, rtol=1e-9)


@pytest.mark.parametrize("shape", [(300, 80), (80, 300)])
def test_power_and_oversamples_bring_the_randomized_solver_nearer(shape):
    X = slow_spectrum(*shape)

    def score(**parameters):
        return PPCA(20, svd_solver="randomized", random_state=0, **parameters).fit(X).score(X)

    exact = PPCA(20, svd_solver="full").fit(X).score(X)
    assert score(iterated_power=0) < score(iterated_power=2) < score(iterated_power=20) <= exact
    assert score(iterated_power=0, n_oversamples=1) < score(iterated_power=0, n_oversamples=40)
    assert score(iterated_power=60) == pytest.approx(exact, rel=1e-6)
    assert score() == score(iterated_power=4)  # k is not below a tenth of 80


def test_long_float32_columns_far_from_zero():
    # A float32 sum of so many rows stalls long before its end.
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(400_000, 3)) * [0.5, 0.4, 0.3] + 1e4).astype(np.float32)
    for solver in ("full", "covariance_eigh"):
        model = PPCA(1, svd_solver=solver).fit(X)
        np.testing.assert_allclose(model.mean_, 1e4, rtol=1e-6)
        assert model.explained_variance_[0] == pytest.approx(0.25, rel=0.02)
        assert model.noise_variance_ == pytest.approx(0.125, rel=0.02)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rescaled_data_give_the_rescaled_model(scale):
    X = make_rows()
    model, scaled = PPCA(3).fit(X), PPCA(3).fit(scale * X)
    assert scaled.noise_variance_ == pytest.approx(scale**2 * model.noise_variance_, rel=1e-9)
    assert scaled.score(scale * X) == pytest.approx(model.score(X) - 7 * np.log(scale), rel=1e-9)
    np.testing.assert_allclose(scaled.transform(scale * X), scale * model.transform(X), rtol=1e-8)
    np.testing.assert_allclose(scaled.posterior(scale * X)[0], model.posterior(X)[0], rtol=1e-8)
    np.testing.assert_allclose(scaled.kl_per_dim_, model.kl_per_dim_, rtol=1e-9)


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("solver", ["full", "arpack", "randomized"])
def test_tiny_noise_is_resolved(solver, noise):
    # Here the trace and the sum of the leading eigenvalues agree to their last digits.
    X = make_rows(300, 30, noise=noise)
    model = PPCA(3, svd_solver=solver, random_state=0).fit(X)
    singular = np.linalg.svd(X - X.mean(axis=0), compute_uv=False)
    assert model.noise_variance_ == pytest.approx((singular[3:] ** 2).sum() / 300 / 27, rel=1e-5)
    # Chi-square with 27 degrees of freedom an observation.
    log_det = np.log(singular[:3] ** 2 / 300).sum() + 27 * np.log(model.noise_variance_)
    expected = -0.5 * (30 * np.log(2 * np.pi) + log_det + 30)
    assert model.score(X) == pytest.approx(expected, rel=1e-6)
