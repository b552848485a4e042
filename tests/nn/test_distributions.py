import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from sklearn_vae.nn.distributions import BernoulliLogits, DiagonalNormal


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn((4, 6, 3), generator=generator, dtype=torch.float64)
    return DiagonalNormal(*numbers[:2]), DiagonalNormal(*numbers[2:])


def as_torch(normal):
    return Independent(Normal(normal.mean, torch.exp(0.5 * normal.log_variance)), 1)


def test_density_entropy_and_kl_are_those_of_torch(pair):
    q, p = pair
    x = torch.randn((5, 6, 3), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(x), as_torch(q).log_prob(x))
    torch.testing.assert_close(q.entropy(), as_torch(q).entropy())
    torch.testing.assert_close(q.kl_terms(p).sum(-1), kl_divergence(as_torch(q), as_torch(p)))


def test_kl_is_the_average_over_draws(pair):
    q, p = pair
    noise = torch.randn(
        (200_000, 6, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    z = q.rsample(noise)
    ratios = q.log_prob(z) - p.log_prob(z)
    error = ratios.std(0) / len(z) ** 0.5
    assert ((ratios.mean(0) - q.kl_terms(p).sum(-1)).abs() < 5 * error).all()


def test_kl_keeps_its_digits_where_it_is_tiny():
    tiny = torch.tensor([1e-9], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    found = DiagonalNormal(zero, tiny).kl_terms(DiagonalNormal(zero, zero))
    assert found.item() == pytest.approx(1e-18 / 4, rel=1e-6, abs=0)


def test_one_variance_for_all_features_broadcasts():
    mean = torch.randn(5, 3, dtype=torch.float64)
    one = torch.tensor([0.7], dtype=torch.float64)
    narrow, wide = DiagonalNormal(mean, one), DiagonalNormal(mean, one.expand(3))
    x = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(narrow.entropy(), wide.entropy())
    torch.testing.assert_close(wide.log_prob(x), as_torch(wide).log_prob(x))


def test_bernoulli_is_linear_in_x_between_its_values():
    a = torch.tensor([[-1.3, 0.0, 2.0]], dtype=torch.float64)
    x = torch.tensor([0.2, 1.0, 0.6], dtype=torch.float64)
    expected = (x * a - torch.log1p(a.exp())).sum(-1)
    torch.testing.assert_close(BernoulliLogits(a).log_prob(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_with_logits_of_any_size(dtype):
    p = BernoulliLogits(
        torch.tensor([[-1e4], [-30.0], [30.0], [1e4]], dtype=dtype).requires_grad_()
    )
    tail = math.exp(-30.0)
    found = p.log_prob(torch.ones(1, dtype=dtype))
    torch.testing.assert_close(found.tolist(), [-1e4, -30.0, -tail, 0.0], rtol=1e-6, atol=0)
    entropy = p.entropy()
    torch.testing.assert_close(
        entropy.tolist(), [0.0, 31 * tail, 31 * tail, 0.0], rtol=1e-6, atol=0
    )
    torch.testing.assert_close(p.variance.flatten().tolist(), [0.0, tail, tail, 0.0])
    (entropy.sum() + found.sum()).backward()
    assert torch.isfinite(p.logits.grad).all()


def test_bernoulli_draws_have_its_mean():
    p = BernoulliLogits(torch.tensor([-2.0, 0.5], dtype=torch.float64))
    uniform = torch.rand((100_000, 2), generator=torch.Generator().manual_seed(0)).double()
    x = p.sample(uniform)
    assert x.dtype == torch.float64
    assert set(x.flatten().tolist()) == {0.0, 1.0}
    error = 5 * (p.variance / len(x)).sqrt()
    assert ((x.mean(0) - p.mean).abs() < error).all()
