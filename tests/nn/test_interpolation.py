"""Chebyshev interpolation of functions of columns."""

import math

import pytest
import torch

from sklearn_vae.nn.column_distributions import NegativeBinomial
from sklearn_vae.nn.interpolation import interpolate_columns


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_values_and_gradients_are_those_of_the_function(spread):
    generator = torch.Generator().manual_seed(0)
    x = spread * torch.randn(40, 50, 3, generator=generator, dtype=torch.float64)
    x[..., 2] = 0.7  # a constant column
    factor = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    n_evaluated = 0

    def function(values):  # singularities at i pi
        nonlocal n_evaluated
        n_evaluated += values.numel()
        return factor * torch.nn.functional.softplus(values, threshold=60.0)

    found, calls = interpolate_columns(function, x, math.pi), n_evaluated
    expected = function(x)
    assert calls < 0.2 * x.numel()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for own, oracle in zip(
        torch.autograd.grad(found.square().sum(), [x, factor]),
        torch.autograd.grad(expected.square().sum(), [x, factor]),
        strict=True,
    ):
        torch.testing.assert_close(own, oracle, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (0, 3)])
def test_few_values_are_evaluated(shape):
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(interpolate_columns(torch.exp, x, math.pi), x.exp())


def test_entropies_of_many_counts_are_those_of_each():
    generator = torch.Generator().manual_seed(1)
    log_mean = 2.0 + 2.0 * torch.randn(32, 60, 4, generator=generator, dtype=torch.float64)
    log_count = torch.tensor([-2.0, 0.0, 3.0, math.log(1e6)], dtype=torch.float64)
    found = NegativeBinomial(log_mean, log_count).entropy_terms()
    some = slice(None, None, 16)
    rows = [
        NegativeBinomial(row, log_count).entropy_terms() for row in log_mean.flatten(0, 1)[some]
    ]
    torch.testing.assert_close(found.flatten(0, 1)[some], torch.stack(rows), rtol=1e-8, atol=1e-8)
