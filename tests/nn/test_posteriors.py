import torch

from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, DiagonalPosterior, StandardPrior


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
