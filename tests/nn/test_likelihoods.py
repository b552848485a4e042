import math

import pytest
import torch

from sklearn_vae.nn.likelihoods import BernoulliLikelihood, HeteroscedasticLikelihood
from sklearn_vae.nn.objectives import elbo
from tests.nn.modules import D, make_module, make_rows


def mean_squares(module, x, noise):
    with torch.no_grad():
        mean = module.decode(module.encode(x).rsample(noise)).mean
        return (x - mean).square().mean((0, 1))


@pytest.mark.parametrize("shape", [(), (D,)])
def test_closed_form_is_a_running_average_of_the_residual(shape):
    module = make_module(shape, update="closed_form", rate=0.3)
    x, noise = make_rows(draws=4)
    before = module.likelihood.noise_variance
    squares = mean_squares(module, x, noise)
    squares = squares if shape else squares.mean()
    (-elbo(module, x, noise)[0].mean()).backward()
    module.after_step()
    expected = 0.7 * before + 0.3 * squares
    torch.testing.assert_close(module.likelihood.noise_variance, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("update", ["closed_form", "gradient"])
@pytest.mark.parametrize("shape", [(), (D,)])
def test_learned_variances_stay_within_their_limits(shape, update):
    for limits in [(0.0, 1e-3), (50.0, math.inf)]:
        module = make_module(shape, update=update, limits=limits)
        x, noise = make_rows()
        (-elbo(module, x, noise)[0].mean()).backward()
        module.after_step()
        held = limits[1] if limits[0] == 0 else limits[0]
        torch.testing.assert_close(
            module.likelihood.noise_variance, torch.full(shape, held, dtype=torch.float64)
        )


def test_fixed_variances_stay():
    module = make_module(update=None)
    x, noise = make_rows()
    before = module.likelihood.noise_variance
    (-elbo(module, x, noise)[0].mean()).backward()
    module.after_step()
    assert module.likelihood.log_variance.grad is None
    assert module.likelihood.noise_variance == before
    assert all(p is not module.likelihood.log_variance for p in module.trained_parameters())


def test_heteroscedastic_log_variances_are_outputs_between_their_limits():
    likelihood = HeteroscedasticLikelihood(4, log_low=-5.0)
    assert likelihood.n_inputs == 8
    outputs = torch.tensor([[0.1, 0.2, 0.3, 0.4, -6.0, -5.0, 1.25, 21.0]], requires_grad=True)
    p = likelihood(outputs)
    assert torch.equal(p.mean, outputs[:, :4])
    assert p.log_variance.tolist() == [[-5.0, -5.0, 1.25, 20.0]]
    p.log_prob(torch.full((4,), 2.0)).sum().backward()
    # Where the variance is too small, the gradient raises it, and lowers one that is too large.
    assert outputs.grad[0, 4] > 0 > outputs.grad[0, 7]
    assert likelihood.trained_parameters() == []
    assert not list(likelihood.parameters())


def test_bernoulli_needs_one_output_a_feature():
    assert BernoulliLikelihood(4).n_inputs == 4
    assert not list(BernoulliLikelihood(4).parameters())
