import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.distributions import Bernoulli, Normal

from sklearn_vae import PPCA, BernoulliPPCA, DeepBernoulliVAE, DeepGaussianVAE, LinearVAE
from sklearn_vae.diagnostics import entropy_bound, second_moments
from tests.deep.data import SMALL
from tests.diagnostics.models import MODELS, NOISY_DIAGONAL, Stranger, fitted, rows, with_covariance
from tests.gaussian.test_bounds import volume_bound


def monte_carlo(model, X, n_draws=2000):
    """Entropies, and E_q of the squares over the noise, from draws of z by the protocol alone."""
    rng = np.random.default_rng(0)
    mean, variance = (np.array(a, float) for a in model.posterior(X))
    prior = getattr(model, "prior_variance_", np.ones(mean.shape[1]))
    decoder = []
    for _ in range(n_draws):
        Z = mean + np.sqrt(variance) * rng.normal(size=mean.shape)
        p, v = (torch.tensor(np.array(a, float)) for a in model.conditional(Z))
        q = Bernoulli(p) if hasattr(model, "binarize") else Normal(p, v.sqrt())
        decoder.append(float(q.entropy().sum(1).mean()))
    return (
        float(Normal(0.0, torch.as_tensor(variance).sqrt()).entropy().sum(1).mean()),
        float(Normal(0.0, torch.as_tensor(prior).sqrt()).entropy().sum()),
        (np.mean(decoder), np.std(decoder) / n_draws**0.5),
    )


@pytest.mark.some(7)
@pytest.mark.parametrize("model", [m for m in MODELS if "sylvester" not in str(m)], ids=str)
def test_entropies_by_monte_carlo(model):
    model, X = fitted(model), rows(seed=1)[:40]
    found = entropy_bound(model, X)
    posterior, prior, (decoder, error) = monte_carlo(model, X, 100)
    # Both in units of the prior's standard deviations.
    assert found.posterior - found.prior == pytest.approx(posterior - prior, abs=1e-5)
    # Deep models have the same points for all rows, with an error of their own.
    assert abs(found.decoder - decoder) < 5 * error + 0.02
    assert found.bound == found.posterior - found.prior - found.decoder


@pytest.mark.some(8)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_the_parts_add_up_to_the_gap(model):
    model, X = fitted(model), rows(seed=1)
    found = entropy_bound(model, X)
    assert found.elbo == pytest.approx(model.score(X), abs=1e-5)
    assert found.gap.total == pytest.approx(found.elbo - found.bound, abs=1e-9)
    moments = second_moments(model, X)
    np.testing.assert_allclose(found.gap.dimensions, 0.5 * (1 - moments), atol=1e-5)


@pytest.mark.some(5)
@pytest.mark.parametrize("model", NOISY_DIAGONAL, ids=str)
def test_the_noise_part_is_that_of_the_residuals(model):
    model, X = fitted(model), rows(seed=1)
    found = entropy_bound(model, X)
    rng = np.random.default_rng(0)
    mean, variance = model.posterior(X)
    squares = []
    for _ in range(100):
        decoded, noise = model.conditional(mean + np.sqrt(variance) * rng.normal(size=mean.shape))
        squares.append(((X - decoded) ** 2 / noise).sum(axis=1).mean())
    part = 0.5 * (X.shape[1] - np.mean(squares))
    assert found.gap.noise == pytest.approx(part, abs=5 * np.std(squares) / 10 + 0.03 * abs(part))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_volumes_give_the_same_sum(model):
    model, X = fitted(model), rows(seed=1)
    found = entropy_bound(model, X)
    k = len(found.gap.dimensions)
    volumes = volume_bound(X.shape[1], k, found.log_latent_volume, found.log_data_volume)
    if hasattr(model, "binarize"):
        assert np.isnan(found.log_data_volume)
    else:
        assert volumes == pytest.approx(found.bound, abs=1e-9)


@pytest.mark.parametrize("model", [PPCA(3), LinearVAE(3)], ids=str)
def test_closed_form_maxima_have_converged(model):
    found = entropy_bound(model.fit(rows()), rows())
    assert found.converged
    assert found.gain < 1e-10
    assert found.bound == pytest.approx(found.elbo, abs=1e-9)
    assert len(found.verdicts) == 1
    assert found.verdicts[0].startswith("converged")
    assert found.verdicts[0] in str(found)


def test_logistic_ppca_at_its_maximum_has_converged():
    model = BernoulliPPCA(2, binarize=0.0, tol=1e-10, max_iter=2000, random_state=0).fit(rows())
    assert entropy_bound(model, rows()).converged


@pytest.mark.parametrize(("factor", "words"), [(3.0, "3 times"), (0.25, "0.25 times")])
def test_a_noise_variance_held_at_a_wrong_value_is_named(factor, words):
    best = LinearVAE(3).fit(rows())
    held = clone(best).set_params(noise_variance=best.noise_variance_)
    held.fit(rows()).noise_variance_ *= factor  # all else at its optimum
    found = entropy_bound(held, rows())
    assert not found.converged
    assert found.verdicts[0].startswith("noise variance not at its optimum (fixed): it is")
    assert words in found.verdicts[0]
    # What is promised is what is had.
    assert found.noise_gain == pytest.approx(best.elbo_ - found.elbo, rel=1e-6)


def test_the_dimension_that_is_off_is_named():
    model = LinearVAE(3).fit(rows())
    before = model.elbo_
    model.encoder_weights_[1] *= 2.0
    model.encoder_variance_[1] *= 4.0
    model.loadings_[:, 1] /= 2.0  # the same decoded values: only the KL has changed
    found = entropy_bound(model, rows())
    assert [v[:30] for v in found.verdicts] == ["dimension 1 not at its optimum"]
    assert "4 times the prior variance" in found.verdicts[0]
    assert found.dimension_gains[1] == pytest.approx(before - found.elbo, rel=1e-6)
    assert found.gap.dimensions[1] == pytest.approx(-1.5, rel=1e-6)


def test_an_active_bound_is_named():
    X = np.repeat(np.random.default_rng(0).normal(size=(80, 2)), 4, axis=1)  # of rank 2
    model = LinearVAE(3).fit(X)
    assert model.entropy_gap_.active_bounds == ("noise variance",)
    found = entropy_bound(model, X)
    assert found.verdicts[-1] == "the noise variance is at a bound"


def test_a_tighter_tolerance_asks_for_more():
    X = with_covariance([4, 1, 0.1, 0.1])
    model = PPCA(1, noise_variance=0.42).fit(X)  # 0.4 is its optimum
    assert entropy_bound(model, X).converged
    assert not entropy_bound(model, X, tolerance=1e-4).converged


def test_missing_values_are_an_error():
    X = rows()
    model = PPCA(3).fit(X)
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="X contains NaN, but entropy_bound needs data"):
        entropy_bound(model, X)


class WithConditional(Stranger):
    """A stranger with the same variances of p(x|z) for all z, known through `conditional` alone."""

    def conditional(self, Z):
        return np.zeros((len(Z), 8)), np.broadcast_to(np.arange(1.0, 9.0), (len(Z), 8))

    def score_samples(self, X):
        return np.full(len(X), -20.0)


def test_the_noise_of_a_stranger_is_that_of_its_conditional():
    stranger = WithConditional(np.zeros((150, 2)), np.full((150, 2), 0.5))
    found = entropy_bound(stranger, rows())
    noise = torch.as_tensor(np.arange(1.0, 9.0))
    assert found.decoder == pytest.approx(float(Normal(0.0, noise.sqrt()).entropy().sum()))
    assert found.elbo == -20.0
    assert found.gap.total == pytest.approx(found.elbo - found.bound)


def test_float32_models_are_as_good():
    X = rows().astype(np.float32)
    model = DeepGaussianVAE(3, **SMALL).fit(X)
    found = entropy_bound(model, X)
    assert found.elbo == pytest.approx(model.score(X), abs=1e-4)
    assert found.gap.total == pytest.approx(found.elbo - found.bound, abs=1e-5)


def test_where_no_part_stands_out_the_largest_are_named():
    X = with_covariance([9, 8, 7, 6, 5, 1, 1, 1])
    vae = LinearVAE(5).fit(X)
    vae.encoder_weights_ *= 1.15
    vae.loadings_ /= 1.15
    vae.encoder_variance_ *= 1.15**2
    found = entropy_bound(vae, X)
    assert found.dimension_gains.max() < found.tolerance < found.gain
    assert len(found.verdicts) == 5
    assert all("not at its optimum" in verdict for verdict in found.verdicts)


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("deep", [False, True])
def test_the_gain_of_another_scale_of_the_logits(deep):
    X = (rows() > rows().mean(axis=0)).astype(float)
    model = DeepBernoulliVAE(3, **SMALL) if deep else BernoulliPPCA(3, random_state=0)
    model.fit(X)

    def scaled(factor):
        twin = copy.deepcopy(model)
        if not deep:
            twin.loadings_ *= factor
            twin.intercept_ *= factor
            return twin
        last = list(twin.module_.decoder.parameters())[-2:]
        with torch.no_grad():
            for parameter in last:
                parameter.mul_(factor)
        return twin

    start = scaled(1.15)
    best = max(start.score(X) for start in map(scaled, np.geomspace(0.5, 5.0, 61)))
    found = entropy_bound(start, X)
    assert found.noise_gain == pytest.approx(best - found.elbo, rel=0.3, abs=2e-3)
    assert found.noise_gain > 5e-3
    # Twice the derivative along the logarithm of the scale.
    slope = (scaled(1.15 * 1.001).score(X) - scaled(1.15 / 1.001).score(X)) / (2 * np.log(1.001))
    assert found.gap.noise == pytest.approx(slope, rel=0.02, abs=1e-3)
