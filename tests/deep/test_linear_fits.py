"""Linear models of training samples, whole and in blocks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sklearn_vae.deep import linear_fits
from sklearn_vae.deep.linear_bounds import ppca_fits
from sklearn_vae.deep.linear_fits import (
    factor_noise,
    fit_ppca,
    mean_squares,
    moments_of_samples,
    ppca_residuals,
)
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.training.distributed import SINGLE_PROCESS


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_in_blocks_are_those_of_all_samples(offset, monkeypatch):
    monkeypatch.setattr(linear_fits, "BLOCK_ENTRIES", 100)
    w, units = np.linspace(0.0, 1.5, 240), np.array([0.1, 1.0, 1e3])
    samples = torch.from_numpy(np.random.default_rng(0).normal(offset, 1.0, (240, 3))).float()
    X = samples.double().numpy() / units
    for weights in (None, w):
        found = moments_of_samples(samples, weights, units)
        expected = Moments.of(X, weights)
        assert (found.n, found.count) == pytest.approx((expected.n, expected.count))
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13, atol=1e-13)
        scale = np.sqrt(np.outer(*2 * [np.diag(expected.scatter)]))
        np.testing.assert_allclose(found.scatter / scale, expected.scatter / scale, atol=1e-12)
    X[7, 1] = np.inf
    for weights in (None, w):
        with pytest.raises(ValueError, match="finite"):
            moments_of_samples(torch.from_numpy(X), weights)


@pytest.mark.parametrize("noise", [None, np.array(0.3), np.linspace(0.1, 0.5, 5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_large_samples_are_not_copied_to_float64(noise, weighted, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(240, 5)) * np.arange(1, 6)
    samples = torch.from_numpy(rows.astype(np.float32))
    w = torch.linspace(0.5, 1.5, 240).double() if weighted else None
    data = SimpleNamespace(
        train=samples, valid=None, weights=w, reducer=SINGLE_PROCESS, is_incomplete=False
    )
    results = []
    for large in (2**24, 2):
        monkeypatch.setattr(linear_fits, "LARGE_ENTRIES", large)
        monkeypatch.setattr(linear_fits, "BLOCK_ENTRIES", 100)
        fits = ppca_fits(data, 2, noise, 1.0)
        units = None if noise is None else np.sqrt(np.broadcast_to(noise, 5))
        fit = fit_ppca(samples, 2, SINGLE_PROCESS, w, units=units)
        numbers = [f.bound for f in fits if f is not None] + [fit.noise_variance]
        numbers += np.abs(fit.loadings).ravel().tolist() + factor_noise(samples, 2, w).tolist()
        numbers += ppca_residuals(samples, 2, SINGLE_PROCESS, w).tolist()
        results.append(numbers)
    own, in_blocks = results
    np.testing.assert_allclose(in_blocks, own, rtol=1e-10)
    squares = rows.astype(np.float32).astype(np.float64) ** 2
    expected = (squares if w is None else w.numpy()[:, None] * squares).mean(axis=0)
    np.testing.assert_allclose(mean_squares(samples, w), expected, rtol=1e-12)
