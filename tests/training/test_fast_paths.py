"""Gradients by formula against autograd, the modules that they are for, and Adam against torch's."""

import copy
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_vae import DeepGaussianVAE
from sklearn_vae.nn.activations import ACTIVATIONS
from sklearn_vae.nn.likelihoods import GaussianLikelihood
from sklearn_vae.nn.module import Autoencoder
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.objectives import elbo, iwae, squared_error
from sklearn_vae.nn.posteriors import DiagonalPosterior
from sklearn_vae.training import adam, fast_paths
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.fast_paths import gradients_by_formula, is_plain_mlp, may_draw
from tests.deep.data import MODELS, SMALL, VAES, make_rows, parameters_of
from tests.nn.modules import (
    LIKELIHOODS,
    POSTERIORS,
    PRIORS,
    D,
    K,
    N,
    gradients,
    make_module,
    module_of,
)
from tests.nn.modules import make_rows as make_batch

X = make_rows()
(IMPORTANCE,) = (model for model in VAES if model.objective == "iwae")
NOISE_SHAPES = [(), (D,)]


def batch_of(likelihood, draws=1):
    x, noise = make_batch(draws)
    return (torch.sigmoid(x) if likelihood == "bernoulli" else x), noise


def by_autograd(module, objective, x, noise, beta=1.0):
    """Sums of reconstruction and KL, and gradients by name."""
    bound, reconstruction, kl = objective(module, x, noise, beta)
    (-bound.mean()).backward()
    return reconstruction.sum().item(), kl.sum().item(), gradients(module)


def check_gradients(module, objective, x, noise, beta=1.0, rtol=1e-10, atol=1e-13):
    reconstruction, kl, expected = by_autograd(module, objective, x, noise, beta)
    sums = gradients_by_formula(module, objective, {})(x, noise, beta)
    assert sums[0] == pytest.approx(reconstruction, rel=1e-12)
    assert sums[1] == pytest.approx(kl, rel=1e-12)
    torch.testing.assert_close(sums[2], module.encoder(x))
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(gradient, expected[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_a_network_are_those_of_autograd(activation, hidden):
    torch.manual_seed(0)
    mlp = MLP(5, hidden, 3, activation).double()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(7, 3, dtype=torch.float64)
    expected = mlp(x)
    of_x, *of_parameters = torch.autograd.grad(expected, [x, *mlp.parameters()], gradient)
    with torch.no_grad():
        outputs, backward = fast_paths._network(mlp)(x)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(backward(gradient.clone()), of_x)
    for parameter, oracle in zip(mlp.parameters(), of_parameters, strict=True):
        torch.testing.assert_close(parameter.grad, oracle)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_gradients_of_a_likelihood_are_those_of_autograd(likelihood, size):
    part = module_of(likelihood).likelihood
    x, _ = batch_of(likelihood)
    generator = torch.Generator().manual_seed(3)
    h = size * torch.randn((2 * N, part.n_inputs), generator=generator, dtype=torch.float64)
    h.requires_grad_()
    log_prob = part(h.view(2, N, -1)).log_prob(x).sum()
    (1.7 * log_prob).backward()
    expected = [h.grad, *(p.grad for p in part.parameters())]
    part.zero_grad()
    with torch.no_grad():
        value, backward = fast_paths.LIKELIHOODS[type(part)](part)(h.detach().clone(), x)
        of_h = backward(1.7)
    assert math.isfinite(value)
    assert value == pytest.approx(log_prob.item(), rel=1e-12)
    for gradient, oracle in zip(
        [of_h, *(p.grad for p in part.parameters())], expected, strict=True
    ):
        torch.testing.assert_close(gradient, oracle, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("draws", [1, 3])
def test_gradients_of_the_elbo_are_those_of_autograd(likelihood, prior, draws):
    module = module_of(likelihood, "diagonal", prior)
    check_gradients(module, elbo, *batch_of(likelihood, draws), beta=0.7)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("draws", [1, 4])
def test_gradients_of_the_importance_weighted_bound_are_those_of_autograd(likelihood, prior, draws):
    module = module_of(likelihood, "diagonal", prior)
    check_gradients(module, iwae, *batch_of(likelihood, draws), beta=0.7)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("shape", NOISE_SHAPES)
@pytest.mark.parametrize("hidden", [(), (9, 6)])
def test_gradients_of_any_depth_are_those_of_autograd(hidden, shape, draws):
    check_gradients(make_module(shape, hidden, "tanh"), elbo, *make_batch(draws), beta=0.7)


@pytest.mark.parametrize("objective", [elbo, iwae])
def test_gradients_of_log_variances_beyond_their_range(objective):
    module = make_module()
    with torch.no_grad():
        module.encoder.layers[-1].bias[K:] = torch.tensor([-30.0, 25.0, 0.0])
    x, noise = make_batch(3)
    *_, expected = by_autograd(module, objective, x, noise)
    gradients_by_formula(module, objective, {})(x, noise, 1.0)
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-8)


def make_autoencoder():
    torch.manual_seed(0)
    return Autoencoder(MLP(D, (6,), K), MLP(K, (6,), D)).double()


def test_gradients_of_an_autoencoder_are_those_of_autograd():
    check_gradients(make_autoencoder(), squared_error, *make_batch())


@pytest.mark.parametrize("shape", NOISE_SHAPES)
def test_closed_form_is_a_running_average_of_the_residual(shape):
    module = make_module(shape, update="closed_form", rate=0.3)
    x, noise = make_batch(draws=4)
    before = module.likelihood.noise_variance
    with torch.no_grad():
        mean = module.decode(module.encode(x).rsample(noise)).mean
        squares = (x - mean).square().mean((0, 1))
    gradients_by_formula(module, elbo, {})(x, noise, 1.0)
    module.after_step()
    expected = 0.7 * before + 0.3 * (squares if shape else squares.mean())
    torch.testing.assert_close(module.likelihood.noise_variance, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("model", [*VAES[:4], IMPORTANCE, MODELS[-1]], ids=str)
def test_training_by_formula_and_by_autograd_agree(model, monkeypatch):
    by_formula = copy.deepcopy(model).fit(X)
    monkeypatch.setattr(fast_paths, "FORMULAS", {})
    plain = copy.deepcopy(model).fit(X)
    np.testing.assert_allclose(by_formula.history_["bound"], plain.history_["bound"], rtol=1e-9)
    np.testing.assert_allclose(parameters_of(by_formula), parameters_of(plain), rtol=1e-6)


def has_formula(net):
    return gradients_by_formula(net.module_, net.objective, net.options) is not None


def test_networks_of_factories_train_by_autograd():
    def encoder(shape, n):
        return nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, n))

    model = DeepGaussianVAE(3, encoder=encoder, **SMALL).fit(X)
    assert not has_formula(model.net_)
    same = DeepGaussianVAE(3, **SMALL).fit(X)
    assert has_formula(same.net_)
    np.testing.assert_allclose(model.history_["bound"], same.history_["bound"], rtol=1e-9)


def test_training_does_not_depend_on_the_mode_of_autograd_around_it():
    model = DeepGaussianVAE(3, variational_family="sylvester", **SMALL)
    expected = parameters_of(copy.deepcopy(model).fit(X))
    with torch.no_grad():
        np.testing.assert_array_equal(parameters_of(model.fit(X)), expected)


class OtherMLP(MLP):
    """A network of a user."""


class OtherLikelihood(GaussianLikelihood):
    """A likelihood of a user."""


class OtherPosterior(DiagonalPosterior):
    """A posterior of a user."""


def tie(module):
    module.layers[1].weight = module.layers[0].weight


CHANGES = {
    "subclass": lambda mlp: setattr(mlp, "__class__", OtherMLP),
    "hook": lambda mlp: mlp.register_forward_hook(lambda *call: call[-1] + 1),
    "hook of a layer": lambda mlp: mlp.layers[0].register_forward_pre_hook(lambda *call: None),
    "backward hook": lambda mlp: mlp.layers[0].register_full_backward_hook(lambda *call: None),
    "hook of a weight": lambda mlp: mlp.layers[0].weight.register_hook(lambda gradient: None),
    "forward": lambda mlp: setattr(mlp, "forward", torch.relu),
    "weight_norm": lambda mlp: nn.utils.parametrizations.weight_norm(mlp.layers[0]),
    "other layer": lambda mlp: mlp.layers.__setitem__(0, nn.Identity()),
    "no bias": lambda mlp: mlp.layers.__setitem__(0, nn.Linear(5, 5, bias=False)),
    "shared weight": tie,
}


@pytest.mark.parametrize("change", CHANGES)
def test_networks_that_are_changed_are_left_to_autograd(change):
    mlp = MLP(5, (5,), 5)
    assert is_plain_mlp(mlp)
    CHANGES[change](mlp)
    assert not is_plain_mlp(mlp)
    module = Autoencoder(MLP(5, (5,), 5), mlp)
    assert gradients_by_formula(module, squared_error, {}) is None
    assert may_draw(module)


def test_weights_that_networks_share_are_left_to_autograd():
    module = Autoencoder(MLP(5, (5,), 5), MLP(5, (5,), 5))
    assert gradients_by_formula(module, squared_error, {}) is not None
    module.decoder.layers[0].weight = module.encoder.layers[0].weight
    assert gradients_by_formula(module, squared_error, {}) is None


def test_formulas_are_for_exact_types_and_objectives():
    module = module_of("scalar", "diagonal", "learned")
    assert gradients_by_formula(module, elbo, {}) is not None
    assert gradients_by_formula(module, elbo, {"free_bits": 0.0}) is not None
    assert gradients_by_formula(module, elbo, {"free_bits": 0.1}) is None
    assert gradients_by_formula(module, iwae, {}) is not None
    assert gradients_by_formula(module, partial(elbo), {}) is None
    assert gradients_by_formula(copy.deepcopy(module).to("meta"), elbo, {}) is None
    for part, other in [("likelihood", OtherLikelihood), ("posterior", OtherPosterior)]:
        custom = copy.deepcopy(module)
        getattr(custom, part).__class__ = other
        assert gradients_by_formula(custom, elbo, {}) is None
        assert not may_draw(custom)
    for posterior in set(POSTERIORS) - {"diagonal"}:
        assert gradients_by_formula(module_of("bernoulli", posterior), elbo, {}) is None


def make_parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in [(3, 2), (4,), ()]]


def take_adam_steps(optimizer, step, n, seed=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    parameters = optimizer.param_groups[0]["params"]
    for _ in range(n):
        for parameter in parameters:
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("kernel", [adam.KERNEL, None])
def test_steps_of_adam_are_those_of_torch(kernel, monkeypatch):
    monkeypatch.setattr(adam, "KERNEL", kernel)
    ours = Adam(make_parameters(), lr=0.1)
    theirs = torch.optim.Adam(make_parameters(), lr=0.1, fused=True)
    found, expected = take_adam_steps(ours, ours.update, 5), take_adam_steps(theirs, theirs.step, 5)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_state_of_adam_is_that_of_torch_and_goes_both_ways():
    ours = Adam(make_parameters(), lr=0.1)
    take_adam_steps(ours, ours.update, 3)
    parameters = copy.deepcopy(ours.param_groups[0]["params"])
    theirs = torch.optim.Adam(parameters, lr=0.1, fused=True)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    again = Adam(copy.deepcopy(parameters), lr=0.1)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    expected = take_adam_steps(ours, ours.update, 2, seed=2)
    for other, step in ((theirs, theirs.step), (again, again.update)):
        for a, b in zip(take_adam_steps(other, step, 2, seed=2), expected, strict=True):
            assert torch.equal(a, b)


def test_a_pickled_optimiser_goes_on():
    ours = Adam(make_parameters(), lr=0.1)
    take_adam_steps(ours, ours.update, 3)
    other = pickle.loads(pickle.dumps(ours))
    for a, b in zip(
        take_adam_steps(ours, ours.update, 2), take_adam_steps(other, other.update, 2), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_rescaled_averages_are_those_of_rescaled_gradients(amsgrad):
    ours, other = (Adam(make_parameters(), lr=0.1) for _ in range(2))
    for optimizer, scale in ((ours, 1.0), (other, 2.0**-9)):
        optimizer.param_groups[0].update(amsgrad=amsgrad, eps=0.0)
        take_adam_steps(optimizer, optimizer.update, 3, scale=scale)
    ours.rescale_gradients(2.0**-9)
    states = [optimizer.state_dict()["state"] for optimizer in (ours, other)]
    torch.testing.assert_close(*states, rtol=1e-6, atol=0)
    found, expected = (
        take_adam_steps(o, o.update, 2, seed=2, scale=2.0**-9) for o in (ours, other)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_learning_rate_that_is_changed_is_used():
    ours = Adam(make_parameters(), lr=0.1)
    before = take_adam_steps(ours, ours.update, 1)
    ours.param_groups[0]["lr"] = 0.0
    for a, b in zip(take_adam_steps(ours, ours.update, 1), before, strict=True):
        assert torch.equal(a, b)
