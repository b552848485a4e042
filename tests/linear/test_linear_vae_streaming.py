"""LinearVAE.partial_fit: online EM, and the bound that tracks the likelihood."""

import pickle
import re

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sklearn_vae import PPCA, LinearVAE
from tests.helpers import exhaustive
from tests.linear.test_linear_vae import ENTROPIES, entropies_of

D, K = 30, 4


def stream(n_batches=400, size=50, seed=0):
    """Batches whose covariance turns by a right angle and whose noise doubles midway.

    Yields each batch and the distribution that it and held-out rows come from.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(D, 2 * K)))[0]
    for i in range(n_batches):
        angle = 0.5 * np.pi * i / n_batches
        turned = np.cos(angle) * axes[:, :K] + np.sin(angle) * axes[:, K:]
        W = turned * [5.0, 4.0, 3.0, 2.0]
        C = W @ W.T + (1.0 if i < n_batches / 2 else 2.0) * np.eye(D)
        density = multivariate_normal(np.full(D, 2.0), C)
        yield density.rvs(size, random_state=rng), density


def expected_score(vae, density):
    """The exact log-likelihood of rows never seen, averaged over all there could be."""
    C = vae.get_covariance()
    shift = density.mean - vae.mean_
    S = density.cov + np.outer(shift, shift)
    log_det = np.linalg.slogdet(C)[1]
    return -0.5 * (D * np.log(2 * np.pi) + log_det + np.trace(np.linalg.solve(C, S)))


@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["standard", "unit_encoder"])
def test_the_bound_tracks_the_likelihood_of_held_out_rows(parametrization):
    vae = LinearVAE(K, forgetting=0.9, parametrization=parametrization)
    gaps, short, entropies = [], [], []
    for batch, density in stream():
        vae.partial_fit(batch)
        entropies.append(entropies_of(vae))
        held_out = expected_score(vae, density)
        gaps.append(vae.entropy_bound_ - held_out)
        short.append(expected_score(_truth(density), density) - held_out)
    gaps, short = np.array(gaps), np.array(short)
    assert len(vae.elbo_history_) == len(gaps) == vae.n_iter_
    found = np.transpose([vae.history_[name] for name in ENTROPIES])
    np.testing.assert_allclose(found, entropies, atol=1e-9)
    # The memory is ten batches: after the noise doubles the bound is late by a few times that.
    jump = len(gaps) // 2
    settled = np.r_[20:jump, jump + 50 : len(gaps)]
    assert np.abs(gaps[settled]).max() < 1.0
    assert np.abs(gaps[settled].mean()) < 0.4
    assert gaps[jump] > 3.0  # and the jump is one that has to be followed
    assert short[settled].max() < 1.0
    noise = np.trace(density.cov) - np.linalg.eigvalsh(density.cov)[-K:].sum()
    assert vae.noise_variance_ == pytest.approx(noise / (D - K), rel=0.1)


class _truth:  # noqa: N801
    """The distribution itself, with the attributes of a model."""

    def __init__(self, density):
        self.mean_, self.cov = density.mean, density.cov

    def get_covariance(self):
        return self.cov


def test_a_model_that_does_not_forget_does_not_follow():
    followed, kept = (LinearVAE(K, forgetting=f) for f in (0.9, 1.0))
    for batch, now in stream(200):
        followed.partial_fit(batch)
        kept.partial_fit(batch)
        density = now
    assert expected_score(followed, density) > expected_score(kept, density) + 1.0


def test_without_forgetting_it_comes_near_the_fit_to_all_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, K)) @ rng.normal(size=(K, D)) + 0.5 * rng.normal(size=(6000, D))
    vae = LinearVAE(K)
    for batch in np.split(X, 120):
        vae.partial_fit(batch)
    best = PPCA(K).fit(X).elbo_
    assert vae.n_samples_ == 6000
    assert best - 0.02 < vae.score(X) <= best + 1e-9
    assert vae.entropy_bound_ == pytest.approx(vae.score(X), abs=0.05)
    np.testing.assert_allclose(vae.mean_, X.mean(axis=0), atol=1e-10)


def test_one_batch_is_a_fit_and_a_fit_can_be_gone_on_from():
    X = next(stream(1))[0]
    vae, fitted = LinearVAE(K).partial_fit(X), LinearVAE(K, random_state=0).fit(X)
    assert vae.elbo_ == pytest.approx(fitted.elbo_, abs=1e-8)
    np.testing.assert_allclose(vae.loadings_, fitted.loadings_, atol=1e-4)
    more = next(stream(1, seed=5))[0]
    vae.partial_fit(more), fitted.partial_fit(more)
    assert vae.elbo_ == pytest.approx(fitted.elbo_, abs=1e-6)
    assert len(fitted.elbo_history_) == fitted.n_iter_ + 1


def test_noise_held_fixed_keeps_its_part_of_the_gap():
    vae = LinearVAE(K, noise_variance=12.0, forgetting=0.9)
    for batch, now in stream(30):
        vae.partial_fit(batch)
        density = now
    assert vae.noise_variance_ == 12.0
    assert vae.collapsed_dims_.tolist() == [2, 3]  # with variances of 10 and 5
    assert vae.entropy_gap_.total == pytest.approx(vae.elbo_ - vae.entropy_bound_, abs=1e-9)
    assert vae.elbo_ == pytest.approx(expected_score(vae, density), abs=0.5)


def test_single_rows_can_follow():
    X = np.concatenate([batch for batch, _ in stream(10)])
    vae = LinearVAE(K).partial_fit(X[:60])
    for row in X[60:]:
        vae.partial_fit(row[None])
    assert vae.n_samples_ == len(X)
    assert vae.score(X) > PPCA(K).fit(X).elbo_ - 0.5


ERRORS = [
    ({"n_components": "mle"}, "n_components must be an integer between 1 and n_features = 30"),
    ({"n_components": 31}, "n_components must be an integer between 1 and n_features = 30"),
]


@pytest.mark.parametrize(("parameters", "message"), ERRORS)
def test_errors_of_parameters(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LinearVAE(**parameters).partial_fit(next(stream(1))[0])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_first_batch_needs_two_samples_and_the_others_one(method):
    X = next(stream(1))[0]
    vae, weights = LinearVAE(K), np.zeros(len(X))
    with pytest.raises(ValueError, match="a minimum of 2 is required by LinearVAE"):
        getattr(vae, method)(X[:1])
    weights[3] = 0.5
    with pytest.raises(ValueError, match="sample_weight must be positive for at least 2 samples"):
        getattr(vae, method)(X, sample_weight=weights)
    assert vae.partial_fit(X).partial_fit(X[:1]).partial_fit(X, sample_weight=weights).n_iter_ == 3


def test_other_solvers_have_no_partial_fit():
    vae = LinearVAE(K, solver="adam")
    assert not hasattr(vae, "partial_fit")
    with pytest.raises(AttributeError) as raised:
        vae.partial_fit(next(stream(1))[0])
    assert "needs solver='em', got solver='adam'" in str(raised.value.__cause__)


def test_a_stream_can_be_put_away_and_its_parameters_changed():
    batches = [batch for batch, _ in stream(20)]
    straight, stored = LinearVAE(K, forgetting=0.9), LinearVAE(K, forgetting=0.9)
    for batch in batches:
        straight.partial_fit(batch)
        stored = pickle.loads(pickle.dumps(stored.partial_fit(batch)))
    assert stored.elbo_history_.tolist() == straight.elbo_history_.tolist()
    stored.set_params(parametrization="unit_encoder", noise_variance=1.5).partial_fit(batches[0])
    straight.set_params(noise_variance=1.5).partial_fit(batches[0])
    assert stored.elbo_ == pytest.approx(straight.elbo_)
    np.testing.assert_array_equal(stored.encoder_variance_, 1.0)
    with pytest.raises(ValueError, match="n_components must remain 4, its value when the stream"):
        stored.set_params(n_components=5).partial_fit(batches[0])
    assert stored.n_iter_ == 21


@pytest.mark.parametrize("seed", [0, *exhaustive(1, 2, 3, 4)])
def test_directions_that_are_close_and_new_ones_are_not_missed(seed):
    # One direction is kept for the model: a rotation to the next, and to one that appears late,
    # has to be seen in what is kept beside it.
    scales = np.sqrt([5.0, 4.5, *np.linspace(1.0, 0.5, 28)])
    vae, X = LinearVAE(1), np.random.default_rng(seed).normal(size=(8000, 30)) * scales
    X[3000:, 10] *= 5.0
    for batch in np.split(X, 400):
        vae.partial_fit(batch)
    assert vae.score(X) > PPCA(1).fit(X).elbo_ - 0.05


def test_a_bad_batch_leaves_what_was_learned():
    X = next(stream(1))[0]
    vae = LinearVAE(K).partial_fit(X)
    before = vae.score(X)
    with pytest.raises(ValueError, match="contains NaN"):
        vae.partial_fit(np.full((2, D), np.nan))
    with pytest.raises(ValueError, match="30 features"):
        vae.partial_fit(X[:, :5])
    with pytest.raises(ValueError, match=r"squares .*float64"):
        vae.partial_fit(X * 1e200)
    assert vae.score(X) == before
    assert vae.n_iter_ == 1
    with pytest.raises(ValueError, match="at least two different samples"):
        LinearVAE(K).partial_fit(np.full((3, D), 0.1))

    def forget():
        for _ in range(300):
            vae.set_params(forgetting=1e-4).partial_fit(X[:1])

    with pytest.raises(ValueError, match="at least two different samples"):
        forget()
    trained = LinearVAE(K, solver="adam", max_iter=1, tol=1e3).fit(X).set_params(solver="em")
    with pytest.raises(AttributeError) as raised:
        trained.partial_fit(X)
    assert "a model that another solver than 'em' trained" in str(raised.value.__cause__)
