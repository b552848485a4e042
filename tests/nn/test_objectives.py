import itertools
import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from sklearn_vae.nn.module import Autoencoder
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.objectives import (
    elbo,
    iwae,
    kl_weight,
    log_weights,
    squared_error,
)
from tests.nn.modules import POSTERIORS, D, K, gradients, make_module, make_rows, module_of

NOISE_SHAPES = [(), (D,)]


def normal(mean, variance):
    return Independent(Normal(mean, variance.sqrt().expand(mean.shape)), 1)


@pytest.mark.parametrize("shape", NOISE_SHAPES)
def test_the_elbo_is_that_of_torch_distributions(shape):
    module = make_module(shape)
    x, noise = make_rows(draws=3)
    bound, reconstruction, kl = elbo(module, x, noise, 0.7)
    q = module.encode(x)
    z = q.mean + q.variance.sqrt() * noise
    p = normal(module.decoder(z), module.likelihood.noise_variance)
    torch.testing.assert_close(reconstruction, p.log_prob(x).mean(0))
    prior = normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    torch.testing.assert_close(kl, kl_divergence(normal(q.mean, q.variance), prior))
    torch.testing.assert_close(bound, reconstruction - 0.7 * kl)


def test_the_squared_error_is_averaged_over_features():
    torch.manual_seed(0)
    module = Autoencoder(MLP(D, (6,), K), MLP(K, (6,), D)).double()
    x, noise = make_rows()
    bound, reconstruction, kl = squared_error(module, x, noise)
    torch.testing.assert_close(-bound, (x - module(x)).square().mean(1))
    assert torch.equal(bound, reconstruction)
    assert not kl.any()


@pytest.mark.parametrize("shape", NOISE_SHAPES)
def test_beta_and_sigma2_are_one_knob(shape):
    # With KL weight b and noise s, b times the gradients of weight 1 and noise b s.
    module, beta = make_module(shape), 2.5
    x, noise = make_rows(draws=2)
    elbo(module, x, noise, beta)[0].mean().backward()
    weighted = gradients(module)
    with torch.no_grad():
        module.likelihood.log_variance += math.log(beta)
    elbo(module, x, noise)[0].mean().backward()
    for name, gradient in gradients(module).items():
        if name != "likelihood.log_variance":
            torch.testing.assert_close(weighted[name], beta * gradient, rtol=1e-10, atol=1e-12)


def test_free_bits_are_the_larger_of_price_and_allowance():
    module = make_module()
    x, noise = make_rows()
    q = module.encode(x)
    averages = q.kl_terms(module.prior()).mean(0)
    allowance = averages.sort().values[1].item() + 1e-6  # two of three dimensions are below
    bound, reconstruction, kl = elbo(module, x, noise, 0.5, free_bits=allowance)
    price = torch.clamp(averages, min=allowance).sum()
    torch.testing.assert_close(bound.mean(), reconstruction.mean() - 0.5 * price)
    torch.testing.assert_close(kl.mean(), averages.sum())


def test_importance_weights_of_a_linear_decoder_average_to_the_likelihood():
    module = make_module(hidden=())
    with torch.no_grad():  # q near the prior, which has every row's posterior in its reach
        module.encoder.layers[0].weight *= 0.1
        module.encoder.layers[0].bias.zero_()
    x, _ = make_rows()
    noise = torch.randn(
        (50_000, 1, K), generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    layer, sigma2 = module.decoder.layers[0], module.likelihood.noise_variance
    W = layer.weight.detach()
    C = W @ W.T + sigma2 * torch.eye(D, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(layer.bias.detach(), C).log_prob(x)
    with torch.no_grad():
        weights = log_weights(module, x, noise)
    torch.testing.assert_close(
        torch.logsumexp(weights, 0) - math.log(len(noise)), exact, rtol=0, atol=0.1
    )
    # Each average of more draws is above that of fewer.
    averages = [
        torch.logsumexp(weights.view(s, -1, len(x)), 0).mean() - math.log(s) for s in (1, 10, 100)
    ]
    assert all(before < after for before, after in itertools.pairwise(averages))
    assert averages[-1] < exact.mean() + 0.05


@pytest.mark.parametrize("draws", [1, 4])
def test_the_importance_weighted_bound_is_that_of_torch_distributions(draws):
    module = module_of("heteroscedastic", "diagonal", "learned")
    x, noise = make_rows(draws)
    bound, reconstruction, kl = iwae(module, x, noise)
    assert not (reconstruction.requires_grad and kl.requires_grad)
    (-bound.mean()).backward()
    found = gradients(module)

    q = module.encode(x)
    z = q.mean + q.variance.sqrt() * noise
    mean, log_variance = module.decoder(z).split(D, dim=-1)
    prior = normal(torch.zeros(K).double(), module.prior.log_variance.exp())
    weights = normal(mean, log_variance.exp()).log_prob(x) + prior.log_prob(z)
    weights = (weights - normal(q.mean, q.variance).log_prob(z)).exp()
    direct = torch.log(weights.mean(0))
    torch.testing.assert_close(bound, direct)
    (-direct.mean()).backward()
    for name, oracle in gradients(module).items():
        torch.testing.assert_close(found[name], oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.some(1)
@pytest.mark.parametrize("posterior", POSTERIORS)
@torch.no_grad()
def test_the_importance_weighted_bound_rises_from_the_elbo_with_its_draws(posterior):
    module = module_of("scalar", posterior)
    x, noise = make_rows(draws=64)
    averages = [
        torch.stack([iwae(module, x, part)[0].mean() for part in noise.split(size)])
        for size in (1, 8, 64)
    ]
    elbos = torch.stack([elbo(module, x, part)[0].mean() for part in noise.split(1)])
    error = (averages[0] - elbos).std() / len(elbos) ** 0.5
    assert (averages[0] - elbos).mean().abs() < 4 * error
    # Of the same draws, the log of an average is never below the average of logs.
    assert all(before.mean() < after.mean() for before, after in itertools.pairwise(averages))


@torch.no_grad()
def test_one_importance_weighted_draw_has_the_weight_of_the_elbo():
    module = module_of("scalar")
    x, noise = make_rows(draws=250)
    found = torch.stack([iwae(module, x, part, 0.3)[0].mean() for part in noise.split(1)])
    expected = elbo(module, x, noise, 0.3)[0].mean()
    assert abs(found.mean() - expected) < 4 * found.std() / len(found) ** 0.5


def test_the_kl_weight_rises_linearly_and_stays():
    assert [kl_weight(epoch, 4, 2.0) for epoch in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert [kl_weight(epoch, 0, 2.0) for epoch in range(2)] == [2.0, 2.0]


def test_free_bits_of_weighted_samples_are_those_of_repeated_samples():
    module, (x, noise) = make_module(), make_rows()
    counts = torch.arange(len(x)) % 4
    with torch.no_grad():
        terms = module.encode(x).kl_terms(module.prior())
        averages = torch.stack([terms.mean(0), counts.double() @ terms / counts.sum()])
        # Between the two averages of a dimension, which is penalized in one case only.
        for free_bits in averages.mean(0).tolist():
            weights = 0.3 * counts.double()
            values = elbo(module, x, noise, 0.7, free_bits, weights)
            repeated = (part.repeat_interleave(counts, dim) for part, dim in ((x, 0), (noise, 1)))
            expected = elbo(module, *repeated, 0.7, free_bits)
            for value, other in zip(values, expected, strict=True):
                torch.testing.assert_close(value.repeat_interleave(counts), other)
            unweighted = elbo(module, x, noise, 0.7, free_bits)[0]
            assert not torch.allclose(values[0], unweighted)
