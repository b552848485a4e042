"""Posteriors and densities of samples with missing values."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from sklearn_vae.nn.distributions import CorrelatedNormal, DiagonalNormal
from sklearn_vae.nn.incomplete import IncompleteEncoder, LinearModel, accept_missing, linearized
from sklearn_vae.nn.objectives import elbo, iwae
from tests.nn.modules import LIKELIHOODS, D, K, N, make_module, make_rows, module_of


def correlated():
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    root = torch.eye(K) + torch.tril(0.5 * torch.randn(N, K, K, **draw), -1)
    base = DiagonalNormal(torch.randn(N, K, **draw), 0.5 * torch.randn(N, K, **draw))
    return CorrelatedNormal(base, root * (0.5 + torch.rand(N, K, **draw))[:, None])


def test_a_correlated_normal_is_that_of_torch():
    q = correlated()
    known = MultivariateNormal(q.mean, q.covariance())
    torch.testing.assert_close(q.variance, known.variance)
    torch.testing.assert_close(q.entropy(), known.entropy())
    torch.testing.assert_close(q.marginals().variance, known.variance)
    noise = torch.randn(5, 1, K, dtype=torch.float64)  # shared by all samples
    draws = q.draw(noise)
    torch.testing.assert_close(draws.log_prob().expand(5, N), known.log_prob(draws.z))
    prior = DiagonalNormal(torch.zeros(K).double(), torch.tensor([0.3, 0.0, -0.5]).double())
    expected = kl_divergence(known, MultivariateNormal(prior.mean, torch.diag(prior.variance)))
    torch.testing.assert_close(draws.kl(prior), expected)
    assert (draws.kl_terms(prior) >= 0).all()
    moment = known.variance + known.mean.square()
    torch.testing.assert_close(draws.second_moment(), moment)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("objective", [elbo, iwae])
def test_missing_values_are_left_out_of_the_objective_and_its_gradient(likelihood, objective):
    module = module_of(likelihood)
    module.encoder = IncompleteEncoder(module.encoder, D, K, widening="none").double()
    x, noise = make_rows(draws=4)
    x = x.sigmoid() if likelihood == "bernoulli" else x
    hidden = torch.rand(x.shape) < 0.3
    holes = torch.where(hidden, torch.nan, x)
    filled = torch.where(hidden, 0.0, x)  # the linear model has the mean 0 and no loadings
    bound, reconstruction, kl = objective(module, holes, noise)
    bound.mean().backward()
    got = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    # The density of single entries, from the difference between two values of the others.
    q = module.encode(filled)
    draws = q.draw(noise)
    p = module.likelihood(module.decoder(draws.z))
    terms = torch.stack(
        [p.restricted_to(torch.arange(D) == j).log_prob(filled) for j in range(D)], -1
    )
    torch.testing.assert_close(terms.sum(-1), p.log_prob(filled))
    log_prob = torch.where(hidden, 0.0, terms).sum(-1)
    torch.testing.assert_close(reconstruction, log_prob.mean(0))
    prior = module.prior()
    torch.testing.assert_close(kl, draws.kl(prior))
    if objective is elbo:
        expected = (log_prob - draws.kl(prior)).mean(0)
    else:
        weights = log_prob + prior.log_prob(draws.z) - draws.log_prob()
        expected = torch.logsumexp(weights, 0) - np.log(4)
    torch.testing.assert_close(bound, expected)
    module.zero_grad()
    expected.mean().backward()
    again = [p.grad for p in module.parameters() if p.grad is not None]
    assert len(again) == len(got)
    for a, b in zip(got, again, strict=True):
        torch.testing.assert_close(a, b)


def test_filled_values_and_factor_are_those_of_the_exact_posterior():
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator, "dtype": torch.float64}
    model = LinearModel(
        torch.randn(D, **draw),
        torch.randn(D, K, **draw),
        torch.rand(D, **draw) + 0.1,
        torch.rand(K, **draw) + 0.5,
    )
    encoder = IncompleteEncoder(torch.nn.Identity(), D, K, widening="correlated").double()
    encoder.set_linear(model)
    x, _ = make_rows()
    x[torch.rand(x.shape, generator=generator) < 0.4] = torch.nan
    x[0], x[1] = torch.nan, torch.ones(D)
    outputs = encoder(x)
    filled, root = outputs[:, :D], outputs[:, D:].view(-1, K, K)
    W, prior = model.loadings, torch.diag(model.prior_variance)
    joint = W @ prior @ W.T + torch.diag(model.noise_variance)
    precision = torch.linalg.inv(prior)
    complete = precision + W.T @ (W / model.noise_variance[:, None])
    for i in range(N):
        o = ~x[i].isnan()
        gain = joint[:, o] @ torch.linalg.inv(joint[o][:, o])
        expected = model.mean + gain @ (x[i, o] - model.mean[o])
        torch.testing.assert_close(filled[i], expected.where(~o, x[i]))
        seen = precision + W[o].T @ (W[o] / model.noise_variance[o, None])
        covariance = root[i] @ torch.linalg.inv(complete) @ root[i].T
        torch.testing.assert_close(covariance, torch.linalg.inv(seen))
        assert (torch.triu(root[i], 1) == 0).all()
    torch.testing.assert_close(root[1], torch.eye(K).double())


@pytest.mark.parametrize("posterior", ["diagonal", "sylvester"])
def test_a_linear_decoder_is_its_own_linear_model(posterior):
    module = module_of("scalar", posterior, "learned", hidden=())
    model, layer = linearized(module), module.decoder.layers[0]
    torch.testing.assert_close(model.loadings, layer.weight.detach())
    torch.testing.assert_close(model.mean, layer.bias.detach())
    noise = module.likelihood.noise_variance.expand(D)
    torch.testing.assert_close(model.noise_variance, noise)
    # Complete samples have the same posterior as before, and others a wider one.
    x, noise = make_rows()
    wider = accept_missing(module)
    marginals = [part.encode(x).marginals() for part in (module, wider)]
    torch.testing.assert_close(marginals[0].mean, marginals[1].mean)
    torch.testing.assert_close(marginals[0].variance, marginals[1].variance)
    x[:, 2:] = torch.nan
    parts = [part.encode(torch.nan_to_num(x) if part is module else x) for part in (module, wider)]
    spread = [part.base.log_variance.sum() for part in parts]
    if posterior == "diagonal":
        spread = [part.entropy().sum() for part in parts]
    assert spread[1] > spread[0]


def test_formulas_of_training_steps_are_for_complete_samples():
    from sklearn_vae.training.fast_paths import gradients_by_formula

    module = make_module()
    assert gradients_by_formula(module, elbo, {}) is not None
    module.encoder = IncompleteEncoder(module.encoder, D, K, widening="none").double()
    assert gradients_by_formula(module, elbo, {}) is None


@pytest.mark.parametrize("widening", ["correlated", "diagonal", "none"])
def test_without_a_linear_model_missing_values_are_zeros(widening):
    encoder = IncompleteEncoder(torch.nn.Identity(), D, K, widening=widening).double()
    x, _ = make_rows()
    holes = torch.rand(x.shape) < 0.3
    h = encoder(x.where(~holes, torch.nan))
    torch.testing.assert_close(h[:, :D], x.where(~holes, 0.0))
    if widening == "correlated":
        torch.testing.assert_close(h[:, D:].view(-1, K, K), torch.eye(K).double().expand(N, K, K))
