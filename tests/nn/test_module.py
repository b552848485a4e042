import copy
import pickle

import pytest
import torch
from torch import nn

from sklearn_vae.nn.module import VAEModule, unit_columns_
from sklearn_vae.nn.objectives import elbo
from tests.nn.modules import D, K, module_of


def test_columns_are_divided_by_their_length():
    weight = nn.Parameter(torch.tensor([[3.0, 0.0, 1e-12], [4.0, 0.0, 0.0]]))
    unit_columns_(weight)
    torch.testing.assert_close(weight.data, torch.tensor([[0.6, 0.0, 1.0], [0.8, 0.0, 0.0]]))


def with_unit_columns(hidden=(9, 6)):
    parts = module_of("scalar", "diagonal", "learned", hidden)
    return VAEModule(
        parts.encoder,
        parts.posterior,
        parts.decoder,
        parts.likelihood,
        parts.prior,
        unit_first_weight=parts.decoder.layers[0].weight,
    )


def first_weight(module):
    return module.decoder.layers[0].weight


def lengths(module):
    return torch.linalg.vector_norm(first_weight(module).detach(), dim=0)


@pytest.mark.parametrize("copied", [lambda m: m, copy.deepcopy, lambda m: m.float()])
@pytest.mark.parametrize("hidden", [(), (9, 6)])
def test_the_first_columns_have_length_one_at_the_start_and_after_each_step(hidden, copied):
    module = copied(with_unit_columns(hidden))
    one = torch.ones(K, dtype=first_weight(module).dtype)
    torch.testing.assert_close(lengths(module), one)
    others = {n: p.clone() for n, p in module.named_parameters() if p is not first_weight(module)}
    with torch.no_grad():
        first_weight(module).mul_(torch.tensor([2.0, 0.3, 5.0]))
    module.after_step()
    torch.testing.assert_close(lengths(module), one)
    for name, before in others.items():
        assert torch.equal(module.get_parameter(name), before)


def test_the_unit_weight_is_no_second_entry_of_the_state():
    module, plain = with_unit_columns(), module_of("scalar", "diagonal", "learned")
    assert list(module.state_dict()) == list(plain.state_dict())
    again = pickle.loads(pickle.dumps(module))
    with torch.no_grad():
        first_weight(again).mul_(2.0)
    again.after_step()
    torch.testing.assert_close(lengths(again), torch.ones(K, dtype=torch.float64))


def test_the_unit_weight_has_to_be_the_decoders():
    parts = module_of("scalar")
    with pytest.raises(ValueError, match=r"unit_first_weight must be a parameter of the decoder\."):
        VAEModule(
            parts.encoder,
            parts.posterior,
            parts.decoder,
            parts.likelihood,
            parts.prior,
            unit_first_weight=parts.encoder.layers[0].weight,
        )
    with pytest.raises(ValueError, match=r"weight must be a matrix, got shape \(3, 2, 1\)\."):
        unit_columns_(torch.ones(3, 2, 1))


def test_a_learned_prior_and_unit_columns_are_pca_of_a_linear_model():
    # VAE-2 with linear networks: alpha2_h = lambda_h - sigma2 along unit columns, up to sign.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((60, D), generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0))[0] * 60**0.5  # whitened
    variances = torch.tensor([9.0, 5.0, 3.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    x = x * variances.sqrt()
    module = with_unit_columns(())
    half = torch.randn((8, K), generator=generator, dtype=torch.float64)
    half = torch.linalg.qr(half - half.mean(0))[0] * 8**0.5
    noise = half[:, None].expand(8, 60, K)  # mean 0, covariance I: the exact ELBO
    optimizer = torch.optim.Adam(module.trained_parameters(), lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        (-elbo(module, x, noise)[0].mean()).backward()
        optimizer.step()
        module.after_step()
        schedule.step()
    order = module.prior.log_variance.detach().argsort(descending=True)
    torch.testing.assert_close(
        module.prior.log_variance.detach().exp()[order], variances[:K] - 0.5, rtol=1e-2, atol=0
    )
    W = first_weight(module).detach()[:, order].abs()
    torch.testing.assert_close(W, torch.eye(D, K, dtype=torch.float64), rtol=0, atol=2e-2)
    bound = elbo(module, x, noise)[0].mean()
    exact = torch.distributions.MultivariateNormal(torch.zeros(D).double(), torch.diag(variances))
    assert bound.item() == pytest.approx(exact.log_prob(x).mean().item(), abs=1e-3)
