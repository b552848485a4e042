"""A model and a guide of Pyro, with the real package."""

import numpy as np
import pytest
import torch

from sklearn_vae.adapters import from_pyro, from_torch
from sklearn_vae.diagnostics import diagnose, kl_per_dimension
from tests.adapters.models import PlainVAE, rows

pyro = pytest.importorskip("pyro")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of Pyro


def pair(vae, noise=0.7):
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("samples", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("pixels", dist.Normal(vae.decode(z), noise**0.5).to_event(1), obs=x)

    def guide(x):
        mean, log_variance = vae.encode(x)
        with pyro.plate("samples", len(x)):
            pyro.sample("latent", dist.Normal(mean, torch.exp(0.5 * log_variance)).to_event(1))

    return model, guide


def test_the_pair_has_the_numbers_of_its_networks():
    vae = PlainVAE(dtype=torch.float32).eval()
    names = {"latent": "latent", "observed": "pixels"}
    X = rows().astype(np.float32)
    adapted = from_pyro(*pair(vae), X, **names, likelihood="gaussian")
    expected = from_torch(vae, noise_variance=0.7)
    np.testing.assert_allclose(adapted.score_samples(X), expected.score_samples(X), rtol=1e-4)
    np.testing.assert_allclose(
        kl_per_dimension(adapted, X), kl_per_dimension(expected, X), rtol=1e-4
    )
    assert diagnose(adapted, X).estimator == "model"
    # The bound of Pyro itself, from draws.
    trace = pyro.infer.Trace_ELBO(num_particles=1)
    bounds = [-trace.loss(*pair(vae), torch.from_numpy(X)) / len(X) for _ in range(200)]
    error = np.std(bounds) / np.sqrt(len(bounds))
    assert adapted.score(X) == pytest.approx(np.mean(bounds), abs=5 * error + 0.01)
    assert "do not apply" in str(diagnose(from_pyro(*pair(vae), X, **names), X))


def test_unknown_statements_are_named():
    vae = PlainVAE(dtype=torch.float32)
    with pytest.raises(
        ValueError, match=r"no sample statement 'z'. There are .*'latent', 'pixels'"
    ):
        from_pyro(*pair(vae), rows(), latent="z", observed="pixels")
