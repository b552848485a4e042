"""SCVI of scvi-tools, with the real package."""

import numpy as np
import pytest
import torch

from sklearn_vae.adapters import from_scvi
from sklearn_vae.diagnostics import (
    active_units,
    collapse,
    decompose_kl,
    diagnose,
    entropy_bound,
    kl_per_dimension,
    tune_noise_variance,
)


@pytest.fixture(scope="module")
def scvi():
    return pytest.importorskip("scvi")


@pytest.fixture(scope="module", params=["nb", "zinb", "poisson"])
def trained(scvi, request):
    adata = scvi.data.synthetic_iid(n_genes=30, batch_size=60)
    adata.obs["depth"] = np.random.default_rng(0).normal(size=len(adata))
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch", continuous_covariate_keys=["depth"])
    model = scvi.model.SCVI(adata, n_latent=4, n_hidden=16, gene_likelihood=request.param)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


pytestmark = pytest.mark.filterwarnings("ignore")  # those of scvi-tools and of Lightning


def bound_of_draw(model, X):
    """ELBO with one random draw of each sample."""
    mean, variance = map(torch.from_numpy, model.posterior(X))
    z = mean + variance.sqrt() * torch.randn_like(mean)
    counts, covariates = torch.from_numpy(X).split([30, X.shape[1] - 30], dim=1)
    log_p = model.decode(z, covariates).log_prob(counts).sum(1)
    return float(log_p.mean()) - kl_per_dimension(model, X).sum()


def test_posterior_and_bound_are_those_of_scvi(trained):
    model, X = from_scvi(trained)
    mean, variance = trained.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(model.posterior(X)[0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.posterior(X)[1], variance, rtol=1e-4, atol=1e-5)
    expected = [float(trained.get_elbo()) for _ in range(50)]
    draws = [bound_of_draw(model, X) for _ in range(50)]
    error = np.sqrt((np.var(expected) + np.var(draws)) / 50)
    assert np.mean(draws) == pytest.approx(np.mean(expected), abs=5 * error)
    # The fixed points of scores have an error of their own.
    assert model.score(X) == pytest.approx(np.mean(draws), abs=0.3)


def test_what_applies_to_counts_applies(trained):
    model, X = from_scvi(trained)
    kl = kl_per_dimension(model, X)
    assert kl.shape == (4,)
    assert collapse(model, X).n_components == 4
    assert active_units(model, X).variance.shape == (4,)
    parts = decompose_kl(model, X)
    assert parts.average_kl == pytest.approx(kl.sum())
    report = diagnose(model, X)
    assert report.n_features == 30
    assert "comparison with pPCA do not apply" in str(report)


def test_what_needs_gaussian_noise_says_so(trained):
    model, X = from_scvi(trained)
    with pytest.raises(ValueError, match="Entropies need a Gaussian"):
        entropy_bound(model, X)
    with pytest.raises(TypeError, match="no noise_variance_"):
        tune_noise_variance(model, X)


def test_other_models_are_refused(scvi):
    with pytest.raises(TypeError, match=r"trained scvi.model.SCVI, got object"):
        from_scvi(object())
