"""Gradients of tables by formula, against autograd."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch

from sklearn_vae.nn.columns import NormalColumns
from sklearn_vae.nn.objectives import elbo
from sklearn_vae.nn.tables import TableModule, build_table_vae
from sklearn_vae.training.fast_paths import gradients_by_formula, may_draw
from sklearn_vae.training.table_paths import BLOCKS, TableGradients, Targets
from tests.nn.modules import gradients
from tests.nn.test_columns import KINDS, outputs, started

RNG = np.random.RandomState(0)
N, K = 40, 3
COLUMNS = {
    "real": RNG.normal(5.0, 3.0, (N, 2)),
    "positive": np.exp(RNG.normal(1.0, 0.3, (N, 2))),
    "heavy_tailed": RNG.standard_t(3.0, (N, 2)),
    "count": RNG.negative_binomial(2.0, 0.1, (N, 2)),
    "binary": RNG.uniform(size=(N, 2)) < 0.3,
    "categorical": RNG.randint([3, 5, 12, 40], size=(N, 4)),
    "ordinal": RNG.randint([3, 5, 12], size=(N, 3)),
}
SIZES = {"categorical": [3, 5, 12, 40], "ordinal": [3, 5, 12], "binary": [2, 2]}


def module_and_samples(kinds, missing, dtype=torch.float64):
    """A module with random networks and samples, of which a fifth of the cells is missing."""
    x = torch.as_tensor(np.hstack([COLUMNS[kind] for kind in kinds]).astype(float)).to(dtype)
    types = [kind for kind in kinds for _ in COLUMNS[kind].T]
    sizes = [size for kind in kinds for size in SIZES.get(kind, [0] * COLUMNS[kind].shape[1])]
    order = np.random.RandomState(3).permutation(len(types))
    x = x[:, order]
    torch.manual_seed(0)
    module = build_table_vae(
        [types[j] for j in order],
        [sizes[j] for j in order],
        K,
        hidden_layer_sizes=(8,),
        activation="silu",
        dtype=dtype,
        missing=missing,
    )
    if missing is not None:
        holes = np.random.RandomState(1).uniform(size=tuple(x.shape)) < 0.2
        x = x.masked_fill(torch.from_numpy(holes), torch.nan)
    module.encoder.inputs.set_units(x)
    module.likelihood.start_at(x)
    if missing is not None:
        module.set_linear()
        with torch.no_grad():
            module.encoder.loadings.copy_(torch.randn_like(module.encoder.loadings))
    return module, x


def noise_of(x, draws=2):
    generator = torch.Generator().manual_seed(2)
    shape = (draws, len(x), K)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(x.dtype)


def check(module, x, beta=0.7, rtol=1e-9, atol=1e-11):
    noise = noise_of(x)
    bound, reconstruction, kl = elbo(module, x, noise, beta)
    (-bound.mean()).backward()
    expected = gradients(module)
    module.zero_grad()
    step = gradients_by_formula(module, elbo, {})
    assert isinstance(step, TableGradients)
    rows = step.prepare(x)
    for take in (partial(step, x), partial(step.of_prepared, rows)):
        taken = take(noise, beta)
        torch.testing.assert_close(taken[0], reconstruction.sum().detach(), rtol=rtol, atol=0)
        torch.testing.assert_close(taken[1], kl.sum().detach(), rtol=rtol, atol=0)
        torch.testing.assert_close(taken[2], module.encoder(x).detach())
        for name, gradient in gradients(module).items():
            torch.testing.assert_close(gradient, expected[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("missing", [None, "correlated", "none"])
def test_gradients_of_a_table_are_those_of_autograd(missing):
    check(*module_and_samples(COLUMNS, missing))


@pytest.mark.parametrize("kind", COLUMNS)
def test_gradients_of_a_table_of_one_type_are_those_of_autograd(kind):
    check(*module_and_samples([kind], "correlated"))


def test_gradients_in_float32():
    check(*module_and_samples(COLUMNS, "correlated", torch.float32), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "poisson"])
def test_gradients_of_a_block_are_those_of_autograd(kind, size):
    likelihood, x, _ = started(kind)
    h = (size * outputs(likelihood, n=2 * len(x))).requires_grad_()
    p = torch.addcmul(likelihood.offset, likelihood.unit, h).view(2, len(x), -1)
    p.retain_grad()
    log_prob = likelihood.distribution(p).log_prob(x).sum()
    (1.7 * log_prob).backward()
    expected = [q.grad for q in likelihood.parameters()]
    with torch.no_grad():
        values = x.log() if kind == "log-normal" else x
        if kind == "categorical":
            parts = zip(values.T.long(), likelihood.n_categories, strict=True)
            values = torch.cat([torch.nn.functional.one_hot(c, n) for c, n in parts], 1).double()
        observed = torch.ones_like(values)
        parameters = p.detach().clone()
        targets = Targets(values, observed, observed.sum(0))
        total = BLOCKS[type(likelihood)](likelihood)(parameters, targets, 1.7)
        if kind == "log-normal":
            total = total - 2.0 * values.sum()
    assert math.isfinite(total)
    torch.testing.assert_close(total, log_prob.detach(), rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(1.7 * parameters, p.grad, rtol=1e-9, atol=1e-11)
    for gradient, oracle in zip((q.grad for q in likelihood.parameters()), expected, strict=True):
        torch.testing.assert_close(gradient, oracle, rtol=1e-8, atol=1e-9)


def test_a_rate_beyond_its_limits_has_no_gradient():
    likelihood, x, _ = started("negative binomial")
    p = torch.full((1, *x.shape), 31.0, dtype=torch.float64)
    targets = Targets(x, torch.ones_like(x), torch.full_like(x[0], len(x)))
    with torch.no_grad():
        BLOCKS[type(likelihood)](likelihood)(p, targets, 1.0)
    assert (p == 0).all()


def test_which_modules_have_a_formula():
    module, _ = module_and_samples(["real", "binary"], "correlated")
    assert not may_draw(module)
    assert gradients_by_formula(module, elbo, {}) is not None

    class Other(TableModule):
        pass

    other = copy.deepcopy(module)
    other.__class__ = Other
    assert gradients_by_formula(other, elbo, {}) is None
    other = copy.deepcopy(module)
    other.likelihood.blocks[0].__class__ = type("OtherColumns", (NormalColumns,), {})
    assert gradients_by_formula(other, elbo, {}) is None
    module.likelihood.blocks[0].register_forward_hook(lambda *call: None)
    assert gradients_by_formula(module, elbo, {}) is None
