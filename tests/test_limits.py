"""Fits ask for as much memory as they say, to the byte, and are refused where that is not there."""

import numpy as np
import pytest
from scipy import sparse

from sklearn_vae import PPCA, PPCACV, BernoulliPPCA, DeepAutoencoder, DeepGaussianVAE, LinearVAE
from tests.deep.data import SMALL, make_rows

X = make_rows(n=40, d=6)
GAPS = np.where(np.arange(240).reshape(40, 6) % 11 == 0, np.nan, X)
WIDE = make_rows(n=5, d=30)

# Bytes that each needs: seven (d, d) matrices or Gram matrices of float64; components and their
# products; four copies of X; draws of latents and rows; in float32 those, and four copies of weights.
SQUARES = 7
CASES = [
    (lambda: PPCA(2, svd_solver="covariance_eigh").fit(X), 8 * SQUARES * 6**2),
    (lambda: PPCA(2, svd_solver="covariance_eigh").fit(sparse.csr_array(X)), 8 * SQUARES * 6**2),
    (lambda: PPCA(2).partial_fit(X), 8 * SQUARES * 6**2),
    (lambda: PPCACV([1, 2], cv=2).fit(X), 8 * SQUARES * 6**2),
    (lambda: PPCACV([1, 2], noise_variance=1.0, cv=2).fit(WIDE), 8 * SQUARES * 5**2),
    (lambda: PPCA(3, svd_solver="randomized", random_state=0).fit(X), 16 * 3 * 6),
    (lambda: PPCA(3, svd_solver="arpack", random_state=0).fit(X), 16 * 3 * 6),
    (lambda: PPCA(svd_solver="arpack", random_state=0).fit(WIDE), 16 * 4 * 30),
    (lambda: PPCA(2).fit(GAPS), 32 * 240),
    (lambda: BernoulliPPCA(2, binarize=0.0).fit(X), 32 * 240),
    (lambda: BernoulliPPCA(2, binarize=0.0, inference="per_sample").fit(X), 32 * 240),
    (lambda: LinearVAE(2).fit(X), 8 * SQUARES * 6**2),
    (lambda: LinearVAE(2).fit(WIDE), 8 * SQUARES * 5**2),
    (
        lambda: LinearVAE(
            2, solver="stochastic", n_mc_samples=50, batch_size=10, max_iter=2, tol=0.0
        ).fit(X),
        8 * 50 * 10 * (2 + 6),
    ),
    (
        lambda: LinearVAE(2, solver="stochastic", n_mc_samples=50, max_iter=2, tol=0.0).fit(X),
        8 * 50 * 40 * (2 + 6),
    ),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("fit", "n_bytes"), CASES)
def test_linear_models(fit, n_bytes, monkeypatch):
    for available, fits in ((n_bytes, True), (n_bytes - 1, False)):
        monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda n=available: float(n))
        if fits:
            fit()
        else:
            with pytest.raises(MemoryError):
                fit()


@pytest.mark.parametrize("n_mc_samples", [1, 3])
@pytest.mark.parametrize("batch_size", [7, 1000])
@pytest.mark.parametrize("vae", [DeepGaussianVAE, DeepAutoencoder])
def test_networks(vae, batch_size, n_mc_samples, monkeypatch):
    model = vae(2, **{**SMALL, "hidden_layer_sizes": (5, 4), "batch_size": batch_size})
    draws = min(batch_size, 40)
    if vae is DeepGaussianVAE:
        model.set_params(n_mc_samples=n_mc_samples)
        draws *= n_mc_samples
    weights = 2 * (6 * 5 + 5 * 4 + 4 * 2)
    n_bytes = 4 * (4 * weights + draws * (2 + 6))
    monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: n_bytes - 1.0)
    with pytest.raises(MemoryError):
        model.fit(X)
    monkeypatch.setattr("sklearn_vae.validation.available_memory", lambda: float(n_bytes))
    model.fit(X)
