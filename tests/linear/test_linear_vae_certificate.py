"""Noise and certificate of LinearVAE: in high precision, and against the maximum of pPCA."""

import functools

import numpy as np
import pytest
from mpmath import mp
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import PPCA, LinearVAE
from sklearn_vae.gaussian.linear_elbo import LinearElbo, LinearVAEParameters, maximum_of_bound
from tests.linear.data import make_rows

GRADED = [3.0, 2.0, 1.0, 1.0, 1.0]


@functools.cache
def graded(rotated, n=200):
    rng = np.random.default_rng(0)
    # The smallest noise variance that is learned is 1e-12 of the average variance.
    X = rng.normal(size=(n, 6)) * np.sqrt([1e12 if n > 6 else 1e10, *GRADED])
    return X @ np.linalg.qr(rng.normal(size=(6, 6)))[0] if rotated else X


@functools.cache
def eigenvalues(rotated, n=200):
    """Eigenvalues of the covariance, descending, in 50 digits."""
    with mp.workdps(50):
        X = mp.matrix(graded(rotated, n).tolist())
        means = [mp.fsum(X[:, j]) / n for j in range(6)]
        R = mp.matrix(n, 6)
        for i in range(n):
            for j in range(6):
                R[i, j] = X[i, j] - means[j]
        return sorted(mp.eigsy(R.T * R / n, eigvals_only=True), reverse=True)


def best_model(values, k):
    """Noise variance and log-likelihood of pPCA."""
    with mp.workdps(50):
        sigma2, d = mp.fsum(values[k:]) / (len(values) - k), len(values)
        logs = mp.fsum(mp.log(value) for value in values[:k]) + (d - k) * mp.log(sigma2)
        return float(sigma2), float(-0.5 * (d * mp.log(2 * mp.pi) + logs + d))


@pytest.mark.some(12)
@pytest.mark.parametrize("n", [200, 5])
@pytest.mark.parametrize("parameters", [{}, {"parametrization": "unit_encoder"}])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_noise_of_em_has_its_digits_next_to_a_variance_1e12_times_larger(
    rotated, k, parameters, n
):
    if n <= k + 1:
        return
    sigma2, likelihood = best_model(eigenvalues(rotated, n), k)
    vae = LinearVAE(k, **parameters, random_state=0).fit(graded(rotated, n))
    assert vae.noise_variance_ == pytest.approx(sigma2, rel=1e-10)
    assert vae.elbo_ == pytest.approx(likelihood, abs=1e-9)
    assert vae.elbo_history_[-1] == pytest.approx(likelihood, abs=1e-9)
    assert (np.diff(vae.elbo_history_) >= -1e-10).all()


@pytest.mark.parametrize("rotated", [False, True])
def test_the_noise_of_a_stream_has_its_digits(rotated):
    first, *others = np.split(graded(rotated), [50, 90, 91, 150])
    vae = LinearVAE(2, random_state=0).partial_fit(first)
    for batch in others:
        vae.partial_fit(batch)
    sigma2, likelihood = best_model(eigenvalues(rotated), 2)
    assert vae.noise_variance_ == pytest.approx(sigma2, rel=1e-9)
    assert vae.elbo_ == pytest.approx(likelihood, abs=1e-8)


@pytest.mark.parametrize("k", [1, 2, 5, 10, 20, 25, 29])
def test_the_noise_of_raw_breast_cancer(k):
    X = load_breast_cancer().data
    ppca, vae = PPCA(k, svd_solver="full").fit(X), LinearVAE(k, random_state=0).fit(X)
    assert vae.noise_variance_ == pytest.approx(ppca.noise_variance_, rel=1e-9)
    assert vae.elbo_ == pytest.approx(ppca.elbo_, abs=1e-9)
    assert vae.certificate_.remaining_gain < 1e-9


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_bound_of_the_gradient_solver_has_its_digits(rotated, k):
    values = np.array([float(v) for v in eigenvalues(rotated)])
    rng = np.random.default_rng(0)
    W = np.sqrt(values)[:, None] * np.eye(6)[:, :k] + 0.1 * rng.normal(size=(6, k))
    M = W.T @ W + 0.9 * np.eye(k)
    V = np.linalg.solve(M, W.T) + 1e-8 * rng.normal(size=(k, 6)) / np.sqrt(values)
    p = LinearVAEParameters(W, V, 0.9 / np.diag(M), 0.9)
    with mp.workdps(50):
        lost = mp.eye(6) - mp.matrix(W.tolist()) * mp.matrix(V.tolist())
        exact = sum(lost[i, j] ** 2 * mp.mpf(values[j]) for i in range(6) for j in range(6))
        exact = float(exact) + float(p.D @ (W**2).sum(axis=0))
    assert LinearElbo(values).residual(p) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("solver", ["adam", "stochastic"])
def test_the_gradient_solvers_start_at_the_noise_of_ppca(solver):
    for rotated in (False, True):
        still = LinearVAE(2, solver=solver, learning_rate=1e-15, max_iter=1, random_state=0)
        with pytest.warns(ConvergenceWarning):
            still.fit(graded(rotated))
        expected = best_model(eigenvalues(rotated), 2)[0]
        assert still.noise_variance_ == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("noise", [None, 0.3, 2.0])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_maximum_is_the_likelihood_of_ppca(k, noise):
    X = make_rows(60, 8)
    ppca = PPCA(k, noise_variance=noise, svd_solver="full").fit(X)
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    if k == 8 and noise is None:
        k = 7  # the same likelihood
    best = maximum_of_bound(values[:k], values[k:].sum(), 8, noise)
    assert best == pytest.approx(ppca.elbo_, abs=1e-10)


@pytest.mark.parametrize("parametrization", ["standard", "unit_encoder"])
@pytest.mark.parametrize("noise", [None, 0.5])
@pytest.mark.parametrize("solver", ["adam", "stochastic"])
def test_a_training_that_ends_early_says_how_many_nats_short_it_is(solver, noise, parametrization):
    X, weights = make_rows(60, 8), np.linspace(0.5, 2.0, 60)
    vae = LinearVAE(2, solver=solver, noise_variance=noise, max_iter=20, random_state=0)
    vae.set_params(parametrization=parametrization, learning_rate=0.01)
    best = PPCA(2, noise_variance=noise, svd_solver="full").fit(X, sample_weight=weights).elbo_
    with pytest.warns(ConvergenceWarning, match=r"not converged after .*20 (steps|epochs)") as seen:
        vae.fit(X, sample_weight=weights)
    certificate = vae.certificate_
    assert certificate.remaining_gain == pytest.approx(best - vae.elbo_, abs=1e-9)
    assert certificate.remaining_gain > 0.1
    assert certificate.is_exact
    assert not certificate.converged
    assert f"is {best - vae.elbo_:.2g} nats per sample below its maximum" in str(seen[0].message)
    assert str(certificate).startswith(f"Not converged: the ELBO is {best - vae.elbo_:.2g} nats")
    assert seen[0].filename == __file__


@pytest.mark.slow
def test_a_training_that_arrives_does_not_warn():
    X = make_rows(60, 8)
    adam = LinearVAE(2, solver="adam", learning_rate=0.01, tol=1e-6, random_state=0).fit(X)
    assert adam.n_iter_ < 10000
    assert adam.certificate_.converged
    assert 0.0 <= adam.certificate_.remaining_gain < 1e-3
    draws = {"solver": "stochastic", "n_mc_samples": 30, "learning_rate": 0.02, "max_iter": 600}
    drawn = LinearVAE(2, **draws, random_state=0).fit(X)
    assert drawn.certificate_.converged
    assert drawn.certificate_.remaining_gain < 0.01
    # A tolerance of the user's own.
    LinearVAE(2, solver="stochastic", max_iter=2, tol=100.0, random_state=0).fit(X)
    LinearVAE(2, solver="adam", max_iter=2, tol=100.0, random_state=0).fit(X)


def test_adam_that_stops_on_a_plateau_warns():
    vae = LinearVAE(2, solver="adam", learning_rate=1e-9, tol=1e-3, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"stopped after 200 steps by tol=0.001.*Decrease"):
        vae.fit(make_rows(60, 8))
    assert not vae.certificate_.converged


@pytest.mark.parametrize("parametrization", ["standard", "unit_encoder"])
def test_the_gradient_norm_is_that_of_finite_differences(parametrization):
    X = make_rows(40, 5)
    vae = LinearVAE(2, solver="adam", max_iter=50, tol=1e3, random_state=0)
    vae.set_params(parametrization=parametrization).fit(X)
    values, U = np.linalg.eigh(np.cov(X.T, bias=True))
    root, fixed_D = np.sqrt(values), parametrization == "unit_encoder"
    learned = vae.prior_variance_ if fixed_D else vae.encoder_variance_
    start = np.concatenate(
        [
            (U.T @ vae.loadings_ / root[:, None]).ravel(),
            (vae.encoder_weights_ @ U * root).ravel(),
            np.log(learned),
            [np.log(vae.noise_variance_)],
        ]
    )

    def bound(x):
        W, V, log_variance, log_noise = np.split(x, [10, 20, 22])
        W, V = U @ (root[:, None] * W.reshape(5, 2)), V.reshape(2, 5) / root @ U.T
        variance, unit = np.exp(log_variance), np.ones(2)
        D, prior = (unit, variance) if fixed_D else (variance, 1.0)
        p = LinearVAEParameters(W, V, D, float(np.exp(log_noise[0])), prior)
        return LinearElbo(np.cov(X.T, bias=True)).value(p)

    h = 1e-5 * np.eye(len(start))
    gradient = [(bound(start + e) - bound(start - e)) / 2e-5 for e in h]
    assert vae.certificate_.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-6)


def test_em_says_how_far_it_is_and_a_stream_does_not():
    X = make_rows(60, 30)
    vae = LinearVAE(2, max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"can still rise by about .* nats per sample"):
        vae.fit(X)
    assert not vae.certificate_.converged
    done = LinearVAE(2, random_state=0).fit(X)
    assert done.certificate_.converged
    assert done.certificate_.remaining_gain < 1e-10
    assert done.certificate_.gradient_norm < 1e-5 < vae.certificate_.gradient_norm
    assert "can rise by about" in str(done.certificate_)
    assert not hasattr(done.partial_fit(X), "certificate_")
