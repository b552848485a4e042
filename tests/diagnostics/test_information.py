import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from sklearn_vae import DeepGaussianVAE
from sklearn_vae.diagnostics import decompose_kl, information, kl_per_dimension
from tests.deep.data import SMALL
from tests.diagnostics.models import DIAGONAL, Stranger, fitted, rows


def test_against_an_integral():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(400, 1)), rng.random((400, 1)) * 0.3 + 0.05
    std = variance**0.5

    def density(z):
        return norm.pdf(z, mean[:, 0], std[:, 0]).mean()

    marginal = quad(lambda z: density(z) * (np.log(density(z)) - norm.logpdf(z)), -8, 8, limit=400)[
        0
    ]
    errors = []
    for seed in range(10):
        found = decompose_kl(Stranger(mean, variance), None, random_state=seed)
        errors.append((found.marginal_kl - marginal) / found.standard_error)
    assert np.abs(errors).max() < 4
    assert np.std(errors) > 0.3  # the error is not overstated


@pytest.mark.parametrize("model", DIAGONAL, ids=str)
def test_parts_add_up_to_the_kl(model):
    model, X = fitted(model), rows(seed=1)
    found = decompose_kl(model, X)
    total = found.mutual_information + found.marginal_kl
    assert total == pytest.approx(found.average_kl, rel=1e-12)
    assert found.average_kl == pytest.approx(kl_per_dimension(model, X).sum(), rel=1e-6)
    assert found.mutual_information + 4 * found.standard_error >= 0
    assert found.mutual_information <= np.log(len(X)) + 1e-9
    assert found.n_samples == len(X)


def test_posteriors_apart_tell_the_row_and_the_prior_tells_nothing():
    mean = np.arange(64.0)[:, None] * 100
    apart = decompose_kl(Stranger(mean, np.full((64, 1), 1e-3)), None)
    assert apart.mutual_information == pytest.approx(np.log(64), abs=1e-12)
    assert apart.standard_error < 1e-12
    same = decompose_kl(Stranger(np.zeros((64, 3)), np.ones((64, 3))), None)
    assert (same.mutual_information, same.marginal_kl) == (0.0, 0.0)


def test_draws_of_some_rows_have_no_bias(monkeypatch):
    monkeypatch.setattr(information, "BLOCK_SIZE", 1000)  # in several blocks
    rng = np.random.default_rng(0)
    model = Stranger(rng.normal(size=(500, 2)), np.full((500, 2), 0.2))
    whole = decompose_kl(model, None)
    found = [decompose_kl(model, None, 50, seed) for seed in range(200)]
    assert {f.n_samples for f in found} == {50}
    mean = np.mean([f.mutual_information for f in found])
    error = np.std([f.mutual_information for f in found])
    assert abs(mean - whole.mutual_information) < 4 * (error / 200**0.5 + whole.standard_error)
    assert error == pytest.approx(np.mean([f.standard_error for f in found]), rel=0.2)


def test_beyond_the_limit_fewer_rows_are_drawn_for(monkeypatch):
    monkeypatch.setattr(information, "MAX_DENSITIES", 10_000)
    model = Stranger(np.zeros((500, 2)), np.ones((500, 2)))
    assert decompose_kl(model, None).n_samples == 20


def test_flows_have_no_densities_in_closed_form():
    model = DeepGaussianVAE(3, **SMALL, variational_family="sylvester").fit(rows())
    with pytest.raises(ValueError, match="independent dimensions, got variational_family='syl"):
        decompose_kl(model, rows())


@pytest.mark.parametrize("offset", [1e6, 1e8])
def test_a_common_offset_changes_nothing(offset):
    rng = np.random.default_rng(0)
    mean, variance = np.round(rng.normal(size=(100, 3)), 3), np.full((100, 3), 0.1)
    near = decompose_kl(Stranger(mean, variance), None)
    far = decompose_kl(Stranger(mean + offset, variance), None)
    assert far.mutual_information == pytest.approx(near.mutual_information, abs=1e-6)
