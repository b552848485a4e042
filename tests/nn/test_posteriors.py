import torch

from sklearn_vae.nn.posteriors import (
    LOG_VARIANCE_RANGE,
    DiagonalPosterior,
    DiagonalPrior,
    SharedPosterior,
    StandardPrior,
)


def test_log_variances_are_the_networks_outputs_on_their_range():
    low, high = LOG_VARIANCE_RANGE
    outputs = torch.tensor([low - 9, low, -1.25, high, high + 1e6], dtype=torch.float64)
    h = torch.stack([torch.zeros(5, dtype=torch.float64), outputs], dim=1).requires_grad_()
    q = DiagonalPosterior(1)(h)
    assert q.log_variance[:, 0].tolist() == [low, low, -1.25, high, high]
    q.kl_terms(StandardPrior(1).double()()).sum().backward()
    # Beyond the range a gradient leads back into it.
    assert h.grad[0, 1] < 0 < h.grad[-1, 1]


def test_the_prior_is_standard_normal():
    z = torch.randn(4, 3, dtype=torch.float64)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardPrior(3).double()().log_prob(z), expected)


def test_a_diagonal_prior_has_its_own_variances_and_learns_them():
    prior = DiagonalPrior(2).double()
    with torch.no_grad():
        prior.log_variance.copy_(torch.tensor([0.5, -1.0]))
    z = torch.randn(4, 2, dtype=torch.float64)
    expected = torch.distributions.Normal(0, prior.log_variance.exp().sqrt())
    torch.testing.assert_close(prior().log_prob(z), expected.log_prob(z).sum(-1))
    q = SharedPosterior(2).double()(z)
    q.kl_terms(prior()).sum().backward()
    moment = (z**2 + 1.0).sum(0) / prior.log_variance.detach().exp()
    torch.testing.assert_close(prior.log_variance.grad, 0.5 * (4.0 - moment))


def test_a_shared_posterior_has_one_variance_for_all_rows():
    posterior = SharedPosterior(3).double()
    assert posterior.n_inputs == 3
    with torch.no_grad():
        posterior.log_variance.copy_(torch.tensor([0.0, 1.0, -2.0]))
    h = torch.randn(5, 3, dtype=torch.float64)
    q = posterior(h)
    assert q.log_variance.shape == (5, 3)
    torch.testing.assert_close(q.mean, h)
    normal = torch.distributions.Normal(h, posterior.log_variance.detach().exp().sqrt())
    standard = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(normal, standard).sum(-1)
    torch.testing.assert_close(q.kl_terms(StandardPrior(3).double()()).sum(-1), kl)
    torch.testing.assert_close(q.entropy(), normal.entropy().sum(-1))
    assert not SharedPosterior(3, learned=False).log_variance.requires_grad
