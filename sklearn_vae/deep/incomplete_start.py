"""Start of networks for samples with missing values, by the EM algorithm of pPCA."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.linear_fits import FACTOR_TOL, Array, on_host
from sklearn_vae.deep.ppca_start import set_linear_networks
from sklearn_vae.gaussian.factor_em import fit_incomplete_factors
from sklearn_vae.gaussian.incomplete_ppca import IncompletePPCA, fit_incomplete_ppca
from sklearn_vae.nn.incomplete import LinearModel, linearized
from sklearn_vae.nn.likelihoods import NOISE_START, rounding_noise


class IncompleteStart:
    """Linear models of samples with missing values, in the units of the networks."""

    def __init__(self, samples: Tensor, n_components: int, weights: Tensor | None) -> None:
        self.samples = samples
        self.k = n_components
        self.X = samples.cpu().double().numpy()
        self.weights = on_host(weights)

    @cached_property
    def _own(self) -> IncompletePPCA:
        return fit_incomplete_ppca(self.X, self.k, self.weights)

    @property
    def noise_variance(self) -> float:
        """Noise variance of pPCA, 0 if the likelihood is unbounded."""
        noise = self._own.noise_variance
        return noise if noise > rounding_noise(self.samples.dtype) else 0.0

    @cached_property
    def ppca(self) -> IncompletePPCA:
        """pPCA with its own noise variance, or a small one if the likelihood is unbounded."""
        if self.noise_variance:
            return self._own
        return fit_incomplete_ppca(self.X, self.k, self.weights, noise_variance=NOISE_START)

    def residuals(self) -> Array:
        """Compute the mean squared residuals of pPCA for each feature."""
        if not self.noise_variance:
            return np.zeros(self.X.shape[1])
        return self.ppca.residuals(self.X, self.weights)

    def factor_noise(self) -> Array:
        """Compute the noise variances of factor analysis."""
        seen = ~np.isnan(self.X).all(axis=0)
        k, noise = min(self.k, int(seen.sum()) - 1), np.ones(len(seen))
        fit = fit_incomplete_factors(self.X[:, seen], k, self.weights, tol=FACTOR_TOL)[0]
        noise[seen] = fit.noise_variance
        return noise

    def set_networks(self, module: Any) -> float:
        """Set networks, prior and filling to pPCA with the noise of a module.

        Return max(1, I(x; z)) in nats.
        """
        noise = module.likelihood.initial_log_variance.cpu().double().exp().numpy()
        root = np.sqrt(np.broadcast_to(noise, self.samples.shape[1]))
        start = self.ppca
        start = IncompletePPCA(start.loadings / root[:, None], start.mean / root, 1.0)
        fit = fit_incomplete_ppca(
            self.X / root, self.k, self.weights, noise_variance=1.0, start=start
        )
        nats = set_linear_networks(module, fit.mean, fit.loadings, root, self.samples)
        module.encoder.set_linear(linearized(module))
        return nats

    @torch.no_grad()
    def set_filling(self, module: Any) -> None:
        """Fill missing values by pPCA; the networks stay random."""
        d, k = self.X.shape[1], self.k
        noise = np.full(d, self.ppca.noise_variance)
        arrays = (self.ppca.mean, self.ppca.loadings, noise, np.ones(k))
        module.encoder.set_linear(LinearModel(*map(torch.from_numpy, arrays)))
