import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sklearn_vae.gaussian.bounds import (
    EntropyGap,
    entropy_bound,
    kl_per_dimension,
    log_data_volume,
    log_latent_volume,
    normal_entropy,
    sum_of_entropies,
)


def test_kl_per_dimension_against_torch():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(50, 3)), rng.random((50, 3)) + 0.1
    found = kl_per_dimension((mean**2 + variance).mean(axis=0), np.log(variance).mean(axis=0))
    q = Normal(torch.as_tensor(mean), torch.as_tensor(variance**0.5))
    oracle = kl_divergence(q, Normal(0.0, 1.0)).mean(dim=0)
    np.testing.assert_allclose(found, oracle.numpy(), rtol=1e-6)


def test_a_point_posterior_has_infinite_kl_and_the_prior_none():
    found = kl_per_dimension(np.ones(2), np.array([-np.inf, 0.0]))
    np.testing.assert_array_equal(found, [np.inf, 0.0])


def test_entropy_bound_is_the_sum_of_three_entropies():
    d, noise_variance, variance = 5, 0.3, np.array([0.2, 0.9])
    prior = Normal(torch.zeros(2), torch.ones(2)).entropy().sum()
    posterior = Normal(torch.zeros(2), torch.as_tensor(variance**0.5)).entropy().sum()
    decoder = Normal(torch.zeros(d), torch.full((d,), noise_variance**0.5)).entropy().sum()
    found = entropy_bound(d, noise_variance, np.log(variance))
    assert found == pytest.approx(float(posterior - prior - decoder), rel=1e-6)


def entropy_of(log_variance):
    std = torch.exp(0.5 * torch.as_tensor(log_variance))
    return Normal(torch.zeros_like(std), std).entropy().sum(-1).mean().item()


def test_entropies_of_any_model_are_those_of_torch():
    rng = np.random.default_rng(0)
    posterior, prior, noise = rng.normal(size=(40, 3)), rng.normal(size=3), rng.normal(size=(40, 5))
    found = sum_of_entropies(
        normal_entropy(3, posterior.sum(axis=1).mean()),
        normal_entropy(3, prior.sum()),
        normal_entropy(5, noise.sum(axis=1).mean()),
    )
    expected = entropy_of(posterior) - entropy_of(prior) - entropy_of(noise)
    assert found == pytest.approx(expected, rel=1e-12)


def test_entropies_of_one_noise_variance_and_a_standard_prior_are_the_entropy_bound():
    log_variance = np.array([-1.0, 0.3])
    found = sum_of_entropies(
        normal_entropy(2, log_variance.sum()),
        normal_entropy(2, 0.0),
        normal_entropy(5, 5 * np.log(0.3)),
    )
    assert found == pytest.approx(entropy_bound(5, 0.3, log_variance), rel=1e-14)


def volume_bound(n_features, n_components, latent, data):
    """Sum of entropies from average log volumes of z and x (Lücke, Forster and Dai, eq. 43)."""
    constant = (n_features - n_components) * np.log(2.0)
    return latent - data + constant - normal_entropy(n_features, 0.0)


def test_volumes_give_the_same_bound():
    rng = np.random.default_rng(0)
    posterior, noise = rng.normal(size=(40, 3)), rng.normal(size=(40, 5))
    latent = log_latent_volume(posterior.mean(axis=0))
    data = log_data_volume(5, noise.sum(axis=1).mean())
    boxes = [np.log(np.prod(2 * np.exp(0.5 * v), axis=1)).mean() for v in (posterior, noise)]
    np.testing.assert_allclose([latent, data], boxes, rtol=1e-12)
    expected = entropy_of(posterior) - entropy_of(np.zeros(3)) - entropy_of(noise)
    assert volume_bound(5, 3, latent, data) == pytest.approx(expected, rel=1e-12)


def test_the_gap_has_a_part_for_the_decoder_and_one_for_each_dimension():
    moment = np.array([1.0, 0.6])
    normal = EntropyGap.of(5, 4.0, moment, ("noise variance",))
    assert normal.noise == 0.5
    np.testing.assert_allclose(normal.dimensions, [0, 0.2])
    assert normal.total == pytest.approx(0.7)
    bernoulli = EntropyGap.from_noise_part(-0.25, moment)
    assert (bernoulli.noise, bernoulli.active_bounds) == (-0.25, ())
    assert bernoulli.total == pytest.approx(-0.05)
