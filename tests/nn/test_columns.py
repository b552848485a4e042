"""Likelihoods of columns of tables, against torch.distributions and scipy.stats."""

import numpy as np
import pytest
import scipy.stats
import torch

from sklearn_vae.nn import columns as c
from sklearn_vae.nn.column_distributions import NegativeBinomial, Ordinal, Poisson
from sklearn_vae.nn.distributions import DiagonalNormal
from sklearn_vae.nn.incomplete import IncompleteEncoder
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.objectives import elbo
from sklearn_vae.nn.posteriors import DiagonalPosterior, StandardPrior

N, D = 120, 3
SIZES = (2, 3, 5)
RNG = np.random.default_rng(0)


def tensor(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float64)


def _codes(n=N):
    return np.stack([RNG.integers(size, size=n) for size in SIZES], axis=1)


# A likelihood, a table of its columns in very different units, and what scipy or torch knows of it.
KINDS = {
    "normal": (
        lambda: c.NormalColumns(D),
        RNG.normal(size=(N, D)) * [1e-3, 1.0, 1e4] + [1.0, 0.0, -1e5],
        lambda p: scipy.stats.norm(p.location, p.variance**0.5),
    ),
    "log-normal": (
        lambda: c.LogNormalColumns(D),
        np.exp(RNG.normal(size=(N, D)) * [0.1, 0.5, 1.0] + [-5.0, 0.0, 9.0]),
        lambda p: scipy.stats.lognorm(torch.exp(0.5 * p.log_variance), scale=p.location.exp()),
    ),
    "student": (
        lambda: c.StudentColumns(D),
        RNG.standard_t(2.5, size=(N, D)) * [1e-3, 1.0, 1e4] + [1.0, 0.0, -1e5],
        lambda p: scipy.stats.t(p.freedom, p.location, p.log_scale.exp()),
    ),
    "bernoulli": (lambda: c.BernoulliColumns(D), RNG.random((N, D)) < [0.02, 0.5, 0.9], None),
    "categorical": (lambda: c.CategoricalColumns(SIZES), _codes(), None),
    "ordinal": (lambda: c.OrdinalColumns(SIZES), _codes(), None),
    "poisson": (
        lambda: c.PoissonColumns(D),
        RNG.poisson([0.05, 3.0, 1e3], size=(N, D)),
        lambda p: scipy.stats.poisson(p.mean),
    ),
    "negative binomial": (
        lambda: c.NegativeBinomialColumns(D),
        RNG.negative_binomial([0.3, 2.0, 5.0], [0.5, 0.2, 0.01], size=(N, D)),
        lambda p: scipy.stats.nbinom(p.log_count.exp(), torch.sigmoid(p.log_count - p.log_mean)),
    ),
}


def started(kind, x=None):
    build, table, oracle = KINDS[kind]
    likelihood, x = build().double(), tensor(table) if x is None else x
    likelihood.start_at(x)
    return likelihood, x, oracle


def outputs(likelihood, n=N, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    h = 0.3 * torch.randn(n, likelihood.n_inputs, generator=generator, dtype=torch.float64)
    return h.requires_grad_(requires_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_density_moments_and_entropy_are_those_of_scipy(kind):
    likelihood, x, oracle = started(kind)
    with torch.no_grad():
        p = likelihood(outputs(likelihood))
        got = [p.log_prob_terms(x), p.mean, p.variance, p.entropy_terms()]
        known = None if oracle is None else oracle(p)
    if oracle is None:
        q = p.probabilities.numpy()
        codes, index = np.arange(q.shape[-1]), x.numpy().astype(int)
        np.testing.assert_allclose(q.sum(-1), 1.0, rtol=1e-12)
        mean = q @ codes
        expected = [
            np.log(np.take_along_axis(q, index[..., None], -1)[..., 0]),
            mean,
            q @ codes**2 - mean**2,
            scipy.stats.entropy(q, axis=-1),
        ]
        assert (p.mode.numpy() == q.argmax(-1)).all()
    else:
        is_discrete = kind in {"poisson", "negative binomial"}
        density = known.logpmf if is_discrete else known.logpdf
        expected = [density(x.numpy()), known.mean(), known.var()]
        if not is_discrete:
            expected.append(known.entropy())
    for values, reference in zip(got, expected, strict=False):
        reference = np.broadcast_to(np.asarray(reference), values.shape)
        np.testing.assert_allclose(values, reference, rtol=1e-8, atol=1e-9)


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("rate", [1e-4, 0.5, 3.0, 200.0])
def test_entropies_of_counts_are_sums_over_the_counts(rate):
    counts = np.arange(int(200 + 150 * rate))
    p = Poisson(torch.tensor([rate], dtype=torch.float64).log())
    known = scipy.stats.poisson(rate)
    expected = -float(np.sum(known.pmf(counts) * known.logpmf(counts)))
    assert p.entropy().item() == pytest.approx(expected, abs=1e-9)
    for r in (0.3, 2.0, 1e3, 1e6):  # the largest of a fit
        p = NegativeBinomial(*torch.tensor([[rate], [r]], dtype=torch.float64).log())
        known = scipy.stats.nbinom(r, r / (r + rate))
        mass = known.pmf(counts)
        expected = -float(np.sum(mass[mass > 0] * known.logpmf(counts)[mass > 0]))
        assert p.entropy().item() == pytest.approx(expected, abs=1e-7)


def test_large_counts_keep_their_digits_in_float32():
    x = torch.tensor([0.0, 12.0, 1e3, 1e5, 1e7])
    log_mean, log_count = (x + 1.0).log(), torch.tensor(0.7)
    mean, r = log_mean.double().exp(), log_count.double().exp()
    nbinom = scipy.stats.nbinom(r, r / (r + mean)).logpmf(x)
    got = NegativeBinomial(log_mean, log_count).log_prob_terms(x)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, nbinom, rtol=1e-6)
    got = Poisson(log_mean).log_prob_terms(x)
    np.testing.assert_allclose(got, scipy.stats.poisson(mean).logpmf(x), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments(kind):
    likelihood = started(kind)[0]
    with torch.no_grad():
        p = likelihood(outputs(likelihood, 1).expand(20000, -1))
        drawn = p.sample(np.random.RandomState(0))
    mean, variance = p.mean[0], p.variance[0]
    error = (drawn.mean(0) - mean).abs() / torch.sqrt(variance / len(drawn))
    assert (error < 4.0).all()
    # Heavy tails have variances that draws estimate badly.
    if kind not in {"student", "log-normal", "negative binomial"}:
        np.testing.assert_allclose(drawn.var(0), variance, rtol=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_0_are_the_marginals_and_gradients_have_size_1(kind):
    likelihood, x, _ = started(kind)
    h = torch.zeros(N, likelihood.n_inputs, dtype=torch.float64, requires_grad=True)
    p = likelihood(h)
    if kind in {"poisson", "bernoulli", "categorical", "normal"}:
        tolerance = 4.0 * x.var(0).sqrt() / N + 1e-3 * x.mean(0).abs() + 5e-3
        assert ((p.mean[0] - x.mean(0)).abs() < tolerance).all()
    gradient = torch.autograd.grad(p.log_prob(x).sum(), h)[0]
    np.testing.assert_allclose(gradient.square().mean(0).sqrt(), 1.0, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_constants_do_not_depend_on_latent_variables(kind):
    x = tensor(KINDS[kind][1])[:40].clone()
    x[:15, 1], x[25:, 1], x[:9] = x[15, 1], x[15, 1], torch.nan
    weights = tensor(np.repeat([1.3, 0.0, 0.9], [15, 10, 15]))
    likelihood = KINDS[kind][0]().double()
    likelihood.start_at(x, weights)
    p = likelihood(outputs(likelihood, 2))
    used = x[9:][(weights > 0)[9:]]
    constant = (used == used[0]).all(0)
    assert constant[1]
    assert ((p.mean[0] == p.mean[1]) == constant).all()
    if kind in {"normal", "log-normal"}:
        assert likelihood.log_variance.detach().exp()[1] == pytest.approx(1e-6)


def test_starts_of_weighted_samples_are_those_of_repeated_ones():
    weights = np.arange(N) % 4
    for kind in KINDS:
        x = started(kind)[1]
        weighted = KINDS[kind][0]().double()
        weighted.start_at(x[weights > 0], tensor(weights[weights > 0]))
        repeated = started(kind, x[np.repeat(np.arange(N), weights)])[0]
        for name, value in repeated.state_dict().items():
            np.testing.assert_allclose(weighted.state_dict()[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["student", "negative binomial"])
def test_starts_without_closed_form_are_maxima(kind):
    x = tensor(np.random.default_rng(1).standard_t(1.2, size=(N, D)) * [1.0, 1e3, 1e-3])
    if kind == "negative binomial":
        x = tensor(RNG.poisson([3.0, 0.4, 900.0], size=(N, D)) * (RNG.random((N, D)) < 0.6))
    x[::7, 1] = torch.nan
    weights = tensor(RNG.uniform(0.2, 1.8, N))
    likelihood = KINDS[kind][0]().double()
    likelihood.start_at(x, weights)
    h = torch.zeros(1, D, dtype=torch.float64)

    def log_likelihood():
        terms = likelihood(h).log_prob_terms(x.nan_to_num())
        return torch.where(x.isnan(), 0.0, weights[:, None] * terms).sum(0).detach()

    best = log_likelihood()
    for values in [h, *likelihood.parameters()]:
        for step in (-1e-3, 1e-3):
            with torch.no_grad():
                values += step
                likelihood.after_step()  # at a limit, the maximum is there
                assert (log_likelihood() <= best + 1e-6).all()
                values -= step


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_count_nowhere(kind):
    _, x, _ = started(kind)
    generator = torch.Generator().manual_seed(1)
    observed = torch.rand(x.shape, generator=generator) < 0.7
    holes = torch.where(observed, x, torch.nan)
    likelihood = started(kind, holes)[0]
    h = outputs(likelihood, requires_grad=True)
    whole, part = likelihood(h), likelihood(h).restricted_to(observed)
    for name, arguments in [("log_prob", [x]), ("entropy", [])]:
        terms = getattr(whole, f"{name}_terms")(*arguments)
        result = getattr(part, name)(*([holes] if arguments else []))
        expected = torch.where(observed, terms, 0.0).sum(-1)
        np.testing.assert_allclose(result.detach(), expected.detach(), rtol=1e-12)
    assert torch.autograd.grad(part.log_prob(holes).sum(), h)[0].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_do_not_depend_on_z_have_gradients_and_stay_within_limits(kind):
    likelihood, x, _ = started(kind)
    parameters = likelihood.trained_parameters()
    h = outputs(likelihood, requires_grad=True)
    likelihood(h).log_prob(x).mean().neg().backward()
    for parameter in parameters:
        assert parameter.grad.isfinite().all()
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(1e6)
    likelihood.after_step()
    for name, (low, high) in likelihood.limits.items():
        assert getattr(likelihood, name).detach().max() <= high
        assert getattr(likelihood, name).detach().min() >= low


@pytest.mark.parametrize("kind", ["normal", "student", "bernoulli", "categorical", "poisson"])
def test_constant_columns_and_unseen_categories_are_finite(kind):
    build = KINDS[kind][0]
    likelihood, x = build().double(), torch.ones(20, D, dtype=torch.float64)
    likelihood.start_at(x)
    p = likelihood(outputs(likelihood, 20))
    assert p.log_prob(x).isfinite().all()
    assert p.log_prob(torch.zeros_like(x)).isfinite().all()


def test_ordinal_probabilities_of_distant_scores_keep_their_digits():
    p = Ordinal(tensor([[-40.0], [40.0]]), tensor([[-1.0, 1.0]]))
    expected = [[0.0, -39.0, -41.0], [-41.0, -39.0, 0.0]]
    width = np.log(-np.expm1(-2.0))
    got = p.log_probabilities[:, 0]
    np.testing.assert_allclose(got[:, [0, 2]], np.array(expected)[:, [0, 2]], atol=1e-12)
    np.testing.assert_allclose(got[:, 1], -39.0 + width, rtol=1e-12)


def mixed():
    """A likelihood of all kinds of columns, interleaved, and a table with holes."""
    names = list(KINDS)
    tables = [tensor(KINDS[name][1]) for name in names]
    order = [[i + j * len(names) for j in range(D)] for i in range(len(names))]
    x = torch.empty(N, D * len(names), dtype=torch.float64)
    for table, columns in zip(tables, order, strict=True):
        x[:, columns] = table
    likelihood = c.MixedLikelihood([(KINDS[n][0](), o) for n, o in zip(names, order, strict=True)])
    likelihood.double().start_at(x)
    return likelihood, x, order


def test_a_table_is_the_product_of_its_blocks():
    likelihood, x, order = mixed()
    h = outputs(likelihood, requires_grad=True)
    p = likelihood(h)
    assert p.log_prob_blocks(x).shape == (N, len(KINDS))
    parts = h.split([block.n_inputs for block in likelihood.blocks], dim=-1)
    for i, (block, columns) in enumerate(zip(likelihood.blocks, order, strict=True)):
        alone = block(parts[i])
        torch.testing.assert_close(p.log_prob_blocks(x)[:, i], alone.log_prob(x[:, columns]))
        torch.testing.assert_close(p.mean[:, columns], alone.mean)
        torch.testing.assert_close(p.variance[:, columns], alone.variance)
    assert p.sample(np.random.RandomState(0)).shape == x.shape
    torch.testing.assert_close(p.entropy(), sum(part.entropy() for part in p.parts))
    # At the start no block drowns another: sizes per output are between 0.3 and 3.
    gradient = torch.autograd.grad(p.log_prob(x).sum(), h)[0]
    sizes = [g.square().mean().sqrt().item() for g in gradient.split([len(o[0]) for o in parts], 1)]
    assert min(sizes) > 0.3
    assert max(sizes) < 3.0
    with pytest.raises(ValueError, match="Each column must be in one block"):
        c.MixedLikelihood([(c.PoissonColumns(2), [0, 1]), (c.NormalColumns(1), [1])])


def test_a_module_of_a_table_trains_with_missing_values():
    likelihood, x, _ = mixed()
    torch.manual_seed(0)
    d, k = x.shape[1], 2
    encoder = IncompleteEncoder(MLP(d, (8,), 2 * k), d, k, widening="none")
    decoder = MLP(k, (8,), likelihood.n_inputs)
    module = VAEModule(
        encoder, DiagonalPosterior(k), decoder, likelihood, StandardPrior(k)
    ).double()
    holes = torch.where(torch.rand(x.shape) < 0.8, x, torch.nan)
    # The network sees standardized columns; the likelihood those of the table.
    bound, reconstruction, kl = elbo(module, holes, torch.randn(2, N, k, dtype=torch.float64))
    bound.mean().neg().backward()
    assert torch.isfinite(bound).all()
    torch.testing.assert_close(bound, reconstruction - kl)
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_columns_of_one_normal_are_the_normal_of_the_vaes():
    likelihood, x, _ = started("normal")
    p = likelihood(outputs(likelihood))
    same = DiagonalNormal(p.location, p.log_variance)
    torch.testing.assert_close(p.log_prob(x), same.log_prob(x))
    torch.testing.assert_close(p.entropy(), same.entropy())


@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_a_category_without_samples_has_a_moderate_unit(kind):
    likelihood = KINDS[kind][0]().double()
    x = tensor(_codes()) if kind == "categorical" else tensor(RNG.random((N, D)) < 0.5)
    if kind == "categorical":
        x[:, 2] = x[:, 2].clamp(max=3)  # of five categories
    else:
        x[:, 0] = 0.0
    likelihood.start_at(x)
    # The derivative is the prior probability, 1 / (2 n), but of a rare category 1 / sqrt(n).
    assert likelihood.unit.max() < 4.0 * N**0.5
    p = likelihood(torch.zeros(1, likelihood.n_inputs, dtype=torch.float64)).probabilities
    assert p[0, 2 if kind == "categorical" else 0].min() == pytest.approx(0.5 / N, rel=0.05)
