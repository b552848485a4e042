"""What holds for every likelihood, posterior, prior and objective."""

import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from sklearn_vae.gaussian.bounds import EntropyGap, sum_of_entropies
from sklearn_vae.nn.cubature import cubature, reference_points
from sklearn_vae.nn.distributions import BernoulliLogits, DiagonalNormal
from sklearn_vae.nn.likelihoods import (
    NOISE_MODELS,
    BernoulliLikelihood,
    HeteroscedasticLikelihood,
    Likelihood,
)
from sklearn_vae.nn.objectives import elbo
from sklearn_vae.nn.posteriors import POSTERIORS as POSTERIOR_CLASSES
from sklearn_vae.nn.posteriors import Posterior
from tests.nn.modules import (
    LIKELIHOODS,
    OBJECTIVES,
    POSTERIORS,
    PRIORS,
    D,
    K,
    N,
    gradients,
    make_rows,
    module_of,
)

likelihoods = pytest.mark.parametrize("likelihood", LIKELIHOODS)
posteriors = pytest.mark.parametrize("posterior", POSTERIORS)
priors = pytest.mark.parametrize("prior", PRIORS)
likelihood_classes = pytest.mark.parametrize(
    "kind", [*NOISE_MODELS.values(), BernoulliLikelihood], ids=lambda kind: kind.__name__
)
noise_models = pytest.mark.parametrize("kind", NOISE_MODELS.values(), ids=NOISE_MODELS)
updates = pytest.mark.parametrize("update", [None, "gradient", "closed_form"])
objectives = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def as_torch(p):
    if isinstance(p, BernoulliLogits):
        return Independent(Bernoulli(logits=p.logits, validate_args=False), 1)
    std = torch.exp(0.5 * p.log_variance).expand(p.mean.shape)
    return Independent(Normal(p.mean, std), 1)


def rows_of(likelihood, draws=1, seed=1):
    x, noise = make_rows(draws, seed)
    return (torch.sigmoid(x) if likelihood == "bernoulli" else x), noise


def many_draws(n=50_000):
    generator = torch.Generator().manual_seed(2)
    return torch.randn((n, 1, K), generator=generator, dtype=torch.float64)


@likelihoods
def test_a_likelihood_gives_a_distribution_of_x(likelihood):
    module = module_of(likelihood)
    x, noise = rows_of(likelihood, draws=2)
    p = module.decode(noise)
    oracle = as_torch(p)
    torch.testing.assert_close(p.log_prob(x), oracle.log_prob(x.expand(2, N, D)))
    torch.testing.assert_close(p.entropy(), oracle.entropy())
    torch.testing.assert_close(p.mean, oracle.mean)
    torch.testing.assert_close(p.variance.expand(2, N, D), oracle.variance)


@posteriors
def test_a_posterior_knows_the_density_of_its_draws(posterior):
    module = module_of("scalar", posterior)
    x, noise = make_rows(draws=2)
    draws = module.encode(x).draw(noise)
    assert draws.z.shape == (2, N, K)
    assert draws.log_prob().shape == (2, N)
    torch.testing.assert_close(draws.z, module.encode(x).rsample(noise), rtol=0, atol=0)
    for s, i in [(0, 0), (1, 4), (1, N - 1)]:
        q = module.encode(x[i : i + 1])
        slopes = jacobian(lambda e, q=q: q.rsample(e.view(1, 1, K)).view(K), noise[s, i])
        expected = Normal(0, 1).log_prob(noise[s, i]).sum() - torch.linalg.slogdet(slopes)[1]
        torch.testing.assert_close(draws.log_prob()[s, i], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.some(4, "slow")
@posteriors
@priors
@torch.no_grad()
def test_what_a_posterior_says_is_the_average_over_its_draws(posterior, prior):
    module = module_of("scalar", posterior, prior)
    x, _ = make_rows()
    q, p = module.encode(x), module.prior()
    many, of_base = (each.draw(many_draws(10_000)) for each in (q, q.base))
    for said, term in [
        (many.kl(p), lambda draws: draws.log_prob() - p.log_prob(draws.z)),
        (many.entropy(), lambda draws: -draws.log_prob()),
        (many.second_moment(), lambda draws: draws.z.square()),
    ]:
        # What is known of the base stands for its draws, whose error is then in the difference.
        error = (term(many).std(0) + term(of_base).std(0)) / len(many.z) ** 0.5
        assert ((term(many).mean(0) - said).abs() < 5 * error).all()


@pytest.mark.some(2, "slow")
@posteriors
@torch.no_grad()
def test_marginals_have_the_moments_of_the_draws(posterior):
    q = module_of("scalar", posterior).encode(make_rows()[0])
    z, marginals = q.rsample(many_draws()), q.marginals(many_draws())
    assert isinstance(marginals, DiagonalNormal)
    torch.testing.assert_close(marginals.mean, z.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(marginals.variance, z.var(0), rtol=0.05, atol=0)


@pytest.mark.some(2, "slow")
@posteriors
@torch.no_grad()
def test_a_posterior_has_moments_without_draws(posterior):
    q = module_of("scalar", posterior).encode(make_rows()[0])
    z = q.rsample(many_draws())
    assert q.mean.shape == q.variance.shape == (N, K)
    torch.testing.assert_close(q.mean, z.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(q.variance, z.var(0), rtol=0.3, atol=0)
    torch.testing.assert_close(q.entropy(), q.draw(many_draws()).entropy(), rtol=0, atol=0.1)
    assert (q.base.log_variance.abs() < 20).all()


@posteriors
def test_draws_that_all_rows_share_are_those_of_each_row(posterior):
    module = module_of("scalar", posterior)
    x, noise = make_rows(draws=3)
    shared = noise[:, :1]
    q = module.encode(x)
    found, expected = q.draw(shared), q.draw(shared.expand(3, N, K))
    torch.testing.assert_close(found.z, expected.z)
    torch.testing.assert_close(found.log_prob(), expected.log_prob())
    torch.testing.assert_close(found.kl(module.prior()), expected.kl(module.prior()))


@pytest.mark.cover(2, 3)
@objectives
@likelihoods
@posteriors
@priors
def test_an_objective_gives_a_bound_and_its_parts(objective, likelihood, posterior, prior):
    module = module_of(likelihood, posterior, prior)
    x, noise = rows_of(likelihood, draws=2)
    bound, reconstruction, kl = objective(module, x, noise, 0.5)
    assert bound.shape == reconstruction.shape == kl.shape == (N,)
    _, *parts = elbo(module, x, noise)
    torch.testing.assert_close([reconstruction, kl], parts)
    (-bound.mean()).backward()
    for name, gradient in gradients(module).items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name
    weight = torch.tensor(0.5, dtype=torch.float64)  # as a captured step gives it
    torch.testing.assert_close(objective(module, x, noise, weight)[0], bound)


@pytest.mark.some(4, "slow")
@objectives
@posteriors
@torch.no_grad()
def test_an_objective_is_below_the_likelihood(objective, posterior):
    module = module_of("diagonal", posterior, hidden=())
    W, mu = (p.detach() for p in module.decoder.layers[0].parameters())
    C = W @ W.T + torch.diag(module.likelihood.noise_variance)
    x, noise = make_rows(draws=500)
    exact = MultivariateNormal(mu, C).log_prob(x)
    sets = torch.stack([objective(module, x, part)[0] for part in noise.split(10)])
    error = sets.std(0) / len(sets) ** 0.5
    assert (sets.mean(0) < exact + 3 * error).all()


@likelihoods
@posteriors
@priors
@torch.no_grad()
def test_elbo_less_entropies_is_the_gap_at_random_parameters(likelihood, posterior, prior):
    module = module_of(likelihood, posterior, prior)
    x, noise = rows_of(likelihood, draws=5)
    draws, z_prior = module.encode(x).draw(noise), module.prior()
    p = module.decode(draws.z)
    flow = "sylvester" in posterior
    entropy = draws.entropy() if flow else as_torch(module.encode(x)).entropy()
    prior_std = torch.exp(0.5 * z_prior.log_variance)
    entropies = sum_of_entropies(
        entropy.mean().item(),
        Independent(Normal(torch.zeros_like(prior_std), prior_std), 1).entropy().item(),
        as_torch(p).entropy().mean().item(),
    )
    moment = (draws.second_moment() / z_prior.variance).mean(0).numpy()
    if likelihood == "bernoulli":
        tilt = (p.logits * (x - p.mean)).sum(-1).mean().item()
        gap = EntropyGap.from_noise_part(tilt, moment)
    else:
        squares = ((x - p.mean).square() / p.variance).sum(-1).mean().item()
        gap = EntropyGap.of(D, squares, moment)
    bound = elbo(module, x, noise)[0].mean().item()
    assert bound - entropies == pytest.approx(gap.total, abs=1e-11)
    assert abs(gap.noise) > 0.02
    assert (abs(gap.dimensions) > 1e-4).all()


@likelihoods
@torch.no_grad()
def test_the_noise_part_of_the_gap_is_a_derivative_along_the_last_layer(likelihood):
    module = module_of(likelihood)
    x, noise = rows_of(likelihood, draws=5)

    def bound(t):
        moved = module_of(likelihood)
        last = moved.decoder.layers[-1]
        if likelihood == "bernoulli":  # a -> (1 + t) a
            last.weight.mul_(1 + t)
            last.bias.mul_(1 + t)
        elif likelihood == "heteroscedastic":
            last.bias[D:] -= t
        else:
            moved.likelihood.log_variance -= t
        return elbo(moved, x, noise)[0].mean().item()

    p = module.decode(module.encode(x).rsample(noise))
    if likelihood == "bernoulli":
        part = (p.logits * (x - p.mean)).sum(-1).mean().item()
    else:
        part = 0.5 * (D - ((x - p.mean).square() / p.variance).sum(-1).mean().item())
    assert (bound(1e-5) - bound(-1e-5)) / 2e-5 == pytest.approx(part, rel=1e-6)


@pytest.mark.some(4, "slow")
@posteriors
@priors
@torch.no_grad()
def test_the_other_parts_of_the_gap_are_derivatives_along_scales_of_z(posterior, prior):
    module = module_of("scalar", posterior, prior)
    x, _ = make_rows()
    noise = reference_points(K)[0].expand(-1, N, K)  # mean 0, covariance I: like the closed forms

    def bound(h, t):
        """With z_h times e^t and what the decoder does undone."""
        moved = module_of("scalar", posterior, prior)
        moved.decoder.layers[0].weight[:, h] *= math.exp(-t)
        if "sylvester" in posterior:
            moved.posterior.log_scale[h] += t
        else:
            last = moved.encoder.layers[-1]
            last.weight[h] *= math.exp(t)
            last.bias[h] *= math.exp(t)
            log_variance = (
                last.bias[K:] if posterior == "diagonal" else moved.posterior.log_variance
            )
            log_variance[h] += 2 * t
        return elbo(moved, x, noise)[0].mean().item()

    moments = module.encode(x).draw(noise).second_moment() / module.prior().variance
    parts = EntropyGap.of(D, D, moments.mean(0)).dimensions
    for h in range(K):
        slope = (bound(h, 1e-5) - bound(h, -1e-5)) / 2e-5
        assert slope == pytest.approx(2 * parts[h].item(), rel=1e-5)


def never():
    raise AssertionError("residuals of pPCA are not needed")


def distribution_of(likelihood, draws=3, seed=4):
    """p(x|z) for random outputs of a decoder, and x."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn((draws, N, likelihood.n_inputs), generator=generator, dtype=torch.float64)
    x = torch.rand((N, D), generator=generator, dtype=torch.float64)
    return likelihood(h), x


@likelihood_classes
@updates
def test_every_likelihood_keeps_the_contract(kind, update):
    likelihood = kind(D, update=update).double()
    assert isinstance(likelihood, Likelihood)
    p, x = distribution_of(likelihood)
    assert p.mean.shape == (3, N, D)
    assert p.log_prob(x).shape == p.entropy().expand(3, N).shape == (3, N)
    noise = likelihood.noise_variance
    assert (noise is not None) == kind.has_noise_variance
    assert noise is None or noise.shape == ((D,) if kind.per_feature else ())
    assert set(likelihood.record(2.0, 0.5)) == set(kind.recorded)


@likelihood_classes
@updates
@torch.no_grad()
def test_terms_of_the_bound_are_averages_of_the_distribution(kind, update):
    likelihood = kind(D, update=update).double()
    p, x = distribution_of(likelihood)
    averages = likelihood.statistics(p, x).numpy() / (3 * N)
    terms = likelihood.terms(averages)
    assert terms.log_prob == pytest.approx(p.log_prob(x).mean().item(), rel=1e-12)
    assert terms.entropy == pytest.approx(p.entropy().mean().item(), rel=1e-12)
    assert not terms.at_limit


@torch.no_grad()
def test_variances_at_a_limit_are_counted():
    likelihood = HeteroscedasticLikelihood(D).double()
    h = torch.zeros(N, 2 * D, dtype=torch.float64)
    h[:3, D] = h[0, -1] = -1e3
    h[1, -1] = 1e3
    assert likelihood.statistics(likelihood(h), torch.zeros(N, D).double())[-1] == 5


@likelihood_classes
@torch.no_grad()
def test_the_optimum_of_the_noise_has_the_highest_log_density(kind):
    likelihood = kind(D, update="closed_form").double()
    p, x = distribution_of(likelihood)
    before = p.log_prob(x).mean()
    likelihood.set_optimum(likelihood.statistics(p, x).numpy() / (3 * N))
    best = distribution_of(likelihood)[0].log_prob(x).mean()
    assert best > before if kind.has_noise_variance else best == before
    if kind.has_noise_variance:
        optimum = likelihood.noise_variance_terms(p, x).mean((0, 1)).numpy()
        noise = likelihood.noise_variance.numpy()
        np.testing.assert_allclose(optimum, np.atleast_1d(noise), rtol=1e-12)
        for factor in (0.99, 1.01):
            likelihood.set_noise_variance(factor * optimum)
            assert distribution_of(likelihood)[0].log_prob(x).mean() < best


@noise_models
@updates
@torch.no_grad()
def test_noise_starts_where_it_is_given(kind, update):
    likelihood = kind(D, update=update).double()
    given = np.linspace(0.2, 0.4, D) if kind.per_feature else np.array(0.3)
    likelihood.start(given, never if kind.per_feature or update is None else given.mean)
    variance = likelihood(torch.zeros(1, likelihood.n_inputs, dtype=torch.float64)).variance
    np.testing.assert_allclose(np.broadcast_to(variance.numpy(), (1, D))[0], given, rtol=1e-12)


@noise_models
@torch.no_grad()
def test_noise_starts_at_the_residuals_of_ppca(kind):
    residuals = np.append(np.linspace(0.2, 0.4, D - 1), 1e-9)
    for average in (False, True):
        likelihood = kind(D, update="closed_form").double()
        likelihood.start(None, lambda: residuals.mean() if average else residuals)  # noqa: B023
        variance = likelihood(torch.zeros(1, likelihood.n_inputs, dtype=torch.float64)).variance
        own = kind.per_feature and not average
        expected = np.where(residuals > 1e-6, residuals, 0.1) if own else residuals.mean()
        np.testing.assert_allclose(variance.expand(1, D).numpy()[0], expected + np.zeros(D))


@likelihood_classes
def test_draws_have_the_moments_of_the_distribution(kind):
    mean, variance = np.linspace(0.2, 0.8, D), np.linspace(0.1, 0.3, D)
    if kind is BernoulliLikelihood:
        variance = mean * (1 - mean)
    shape = (20_000, D)
    draws = kind.draw(
        np.broadcast_to(mean, shape), np.broadcast_to(variance, shape), np.random.RandomState(0)
    )
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.06)


@pytest.mark.parametrize("kind", POSTERIOR_CLASSES.values(), ids=POSTERIOR_CLASSES)
def test_every_posterior_keeps_the_contract(kind):
    posterior = kind(K).double()
    assert isinstance(posterior, Posterior)
    q = posterior(torch.randn((N, posterior.n_inputs), dtype=torch.float64))
    assert q.marginals().mean.shape == (N, K)
    prior = DiagonalNormal(*torch.zeros((2, K), dtype=torch.float64))
    draws = q.draw(*cubature(K))
    assert draws.kl(prior).shape == (N,)
    if kind.kl_is_sum:
        torch.testing.assert_close(draws.kl_terms(prior).sum(-1), draws.kl(prior))
    else:
        with pytest.raises(ValueError, match="free_bits must be 0"):
            draws.kl_terms(prior)
