import itertools
import math

import pytest
import torch

from sklearn_vae.nn.flows import householder_columns
from sklearn_vae.nn.objectives import elbo
from sklearn_vae.nn.posteriors import DiagonalPosterior, StandardPrior, SylvesterPosterior
from tests.helpers import exhaustive
from tests.nn.modules import make_rows, module_of


def flow_of(k, scale=1.0, n=1, seed=0, **options):
    posterior = SylvesterPosterior(k, **options).double()
    generator = torch.Generator().manual_seed(seed)
    h = scale * torch.randn((n, posterior.n_inputs), generator=generator, dtype=torch.float64)
    h[:, : 2 * k] = 0.3 * torch.tanh(h[:, : 2 * k])
    return posterior(h)


@pytest.mark.parametrize(("k", "m", "reflections"), [(1, 1, 1), (5, 5, 5), (6, 3, 3), (4, 2, 7)])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_reflections_give_orthonormal_columns(k, m, reflections, scale):
    generator = torch.Generator().manual_seed(0)
    v = scale * torch.randn((3, 2, reflections, k), generator=generator, dtype=torch.float64)
    Q = householder_columns(v, m)
    assert Q.shape == (3, 2, k, m)
    eye = torch.eye(m, dtype=torch.float64).expand(3, 2, m, m)
    torch.testing.assert_close(Q.mT @ Q, eye, rtol=0, atol=1e-13)


def test_reflections_are_those_of_dense_matrices_and_of_nothing_for_a_zero_vector():
    v = torch.randn((3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    dense = [eye - 2 * torch.outer(u, u) / (u @ u) for u in v]
    expected = dense[0] @ dense[1] @ dense[2]
    torch.testing.assert_close(householder_columns(v, 4), expected)
    torch.testing.assert_close(householder_columns(torch.zeros_like(v), 2), eye[:, :2])


def test_any_orthonormal_columns_are_a_product_of_as_many_reflections():
    torch.manual_seed(0)
    target = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64))[0]
    v = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (householder_columns(v, 2) - target).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(householder_columns(v, 2), target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 11])
def test_flows_start_as_the_identity_and_can_leave_it(k):
    posterior = SylvesterPosterior(k).double()
    h = torch.zeros((4, posterior.n_inputs), dtype=torch.float64)
    h[:, : 2 * k] = torch.randn((4, 2 * k), dtype=torch.float64)
    h.requires_grad_()
    q, normal = posterior(h), DiagonalPosterior(k)(h[:, : 2 * k])
    noise = torch.randn((3, 4, k), dtype=torch.float64)
    prior = StandardPrior(k).double()()
    found, expected = q.draw(noise), normal.draw(noise)
    # Exactly: of the averages over draws nothing is left.
    for a, b in [
        (found.z, expected.z),
        (found.kl(prior), expected.kl(prior)),
        (found.entropy(), expected.entropy()),
        (found.second_moment(), expected.second_moment()),
    ]:
        assert torch.equal(a, b)
    torch.testing.assert_close(found.log_prob(), expected.log_prob())
    torch.testing.assert_close(q.mean, normal.mean)
    torch.testing.assert_close(q.variance, normal.variance)
    torch.testing.assert_close(q.entropy(), normal.entropy())
    (q.rsample(noise).square().sum() + found.kl(prior).sum()).backward()
    of_r = h.grad[:, 2 * k :].view(4, 4, -1)[..., posterior.n_householder * k :]
    assert (of_r[..., : posterior.rank].abs() > 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_flows_stay_invertible_whatever_the_encoder_gives(scale, dtype):
    posterior = SylvesterPosterior(3).to(dtype)
    generator = torch.Generator().manual_seed(0)
    h = scale * torch.randn((500, posterior.n_inputs), generator=generator, dtype=dtype)
    h.requires_grad_()
    q = posterior(h)
    products = (q.R * q.R_tilde).diagonal(dim1=-2, dim2=-1)
    assert products.min() < -0.99  # the worst case is among them
    assert products.min() > -1 + 1e-3
    assert torch.equal(q.R, q.R.triu())
    assert torch.equal(q.R_tilde, q.R_tilde.triu())
    draws = q.draw(torch.randn((2, 500, 3), generator=generator, dtype=dtype))
    assert torch.isfinite(draws.log_det).all()
    assert torch.isfinite(draws.z).all()
    assert (draws.log_det > 4 * 3 * math.log(1e-3)).all()
    (draws.log_det.sum() + torch.tanh(draws.z).sum()).backward()
    assert torch.isfinite(h.grad).all()


def grid(k, half, n):
    line = torch.linspace(-half, half, n, dtype=torch.float64)
    return torch.stack(torch.meshgrid(*[line] * k, indexing="ij"), -1)


@pytest.mark.parametrize("seed", range(3))
def test_density_in_one_dimension_integrates_to_one(seed):
    q = flow_of(1, 3.0, seed=seed)
    noise = grid(1, 9.0, 20_001)
    draws = q.draw(noise[:, None])
    z, density = draws.z[:, 0, 0], draws.log_prob()[:, 0].exp()
    assert (z.diff() > 0).all()  # invertible
    assert torch.trapezoid(density, z).item() == pytest.approx(1, abs=1e-6)
    mean = torch.trapezoid(density * z, z)
    variance = torch.trapezoid(density * (z - mean).square(), z)
    check_moments(q, mean[None], variance[None])


@pytest.mark.parametrize("seed", [0, *exhaustive(1, 2)])
def test_density_in_two_dimensions_integrates_to_one(seed):
    # Of the images of squares: their areas by the shoelace formula know nothing of log_det.
    q = flow_of(2, 1.5, seed=seed)
    n, half = 801, 7.0
    z = q.rsample(grid(2, half, n).view(-1, 1, 2)).view(n, n, 2)
    middle = grid(2, half - half / (n - 1), n - 1).view(-1, 1, 2)
    draws = q.draw(middle)
    corners = [z[:-1, :-1], z[1:, :-1], z[1:, 1:], z[:-1, 1:]]
    area = 0.5 * sum(
        a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
        for a, b in itertools.pairwise([*corners, corners[0]])
    )
    assert (area > 0).all() or (area < 0).all()  # invertible
    mass = (area.abs().flatten() * draws.log_prob().exp().flatten())[:, None]
    assert mass.sum().item() == pytest.approx(1, abs=1e-3)
    points = draws.z[:, 0]
    mean = (mass * points).sum(0)
    check_moments(q, mean, (mass * (points - mean).square()).sum(0))


def check_moments(q, mean, variance):
    n, k = 50_000, len(mean)
    generator = torch.Generator().manual_seed(1)
    z = q.rsample(torch.randn((n, 1, k), generator=generator, dtype=torch.float64))[:, 0]
    error = 5 * (variance / n).sqrt()
    assert ((z.mean(0) - mean).abs() < error + 1e-3).all()
    torch.testing.assert_close(z.var(0), variance, rtol=0.02, atol=0)


def test_flows_in_float32_are_those_in_float64():
    double = flow_of(8, n=20)
    posterior = SylvesterPosterior(8)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn((20, posterior.n_inputs), generator=generator, dtype=torch.float64)
    h[:, :16] = 0.3 * torch.tanh(h[:, :16])
    noise = torch.randn((2, 20, 8), generator=generator, dtype=torch.float64)
    single = posterior(h.float()).draw(noise.float())
    expected = double.draw(noise)
    assert posterior(h.float()).mean.dtype == torch.float32
    torch.testing.assert_close(single.z.double(), expected.z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single.log_det.double(), expected.log_det, rtol=1e-4, atol=1e-4)


def test_a_density_keeps_its_digits_where_the_posterior_is_narrow():
    posterior = SylvesterPosterior(2)
    h = torch.zeros((1, posterior.n_inputs))
    h[:, :2], h[:, 2:4] = 3.0, -19.0
    noise = torch.randn((5, 1, 2), generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Normal(0, 1).log_prob(noise.double()).sum(-1) + 19.0
    torch.testing.assert_close(posterior(h).draw(noise).log_prob().double(), expected)


def test_free_bits_need_a_kl_of_each_dimension():
    module = module_of("scalar", "sylvester")
    with pytest.raises(ValueError, match="free_bits must be 0 with a flow"):
        elbo(module, *make_rows(), free_bits=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 4}, r"rank must be at most n_components=3, got 4\."),
        ({"rank": 0}, r"rank must be at least 1, got 0\."),
        ({"n_flows": 0}, r"n_flows must be at least 1, got 0\."),
        ({"n_householder": -1}, r"n_householder must be at least 1, got -1\."),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SylvesterPosterior(3, **options)
