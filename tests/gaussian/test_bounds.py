import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sklearn_vae.gaussian.bounds import entropy_bound, kl_per_dimension


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
