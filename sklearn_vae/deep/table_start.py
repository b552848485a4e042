"""Start of the networks of a table at pPCA of the inputs of its encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.incomplete_start import IncompleteStart
from sklearn_vae.deep.linear_fits import Array, fit_ppca
from sklearn_vae.deep.ppca_start import set_linear_networks
from sklearn_vae.gaussian.incomplete_ppca import fit_incomplete_ppca
from sklearn_vae.nn.columns import NormalColumns, StudentColumns
from sklearn_vae.nn.incomplete import LinearModel
from sklearn_vae.nn.tables import TableModule
from sklearn_vae.training.distributed import SINGLE_PROCESS

# Minimum of the noise variance of pPCA, relative to the variances. Inputs of one category depend on
# each other linearly.
LEAST_NOISE = 0.01


class TableStart:
    """Units of inputs and likelihoods, and pPCA of the inputs, from training samples.

    Attributes
    ----------
    baseline : ndarray of shape (n_features,)
        Log-likelihood of each column without latent dimensions, summed over its observed values and
        divided by the number of samples, in the units of the networks.
    """

    @torch.no_grad()
    def __init__(self, module: TableModule, x: Tensor, weights: Tensor | None) -> None:
        self.module, self.weights = module, weights
        module.encoder.inputs.set_units(x, weights)
        module.likelihood.start_at(x, weights)
        zero = x.new_zeros(len(x), module.likelihood.n_inputs)
        terms = module.likelihood(zero).log_prob_columns(x).double()
        terms = terms if weights is None else terms * weights[:, None]
        self.baseline: Array = terms.mean(0).cpu().numpy()
        self.inputs = module.encoder.inputs(x)
        self.mean, self.loadings, self.noise = self._ppca(module.posterior.n_components)

    def _ppca(self, k: int) -> tuple[Array, Array, float]:
        """Return mean, loadings (n_inputs, k) and noise variance of pPCA."""
        n, d = self.inputs.shape
        k_fit, w = min(k, d - 1, n - 1), self.weights
        if k_fit < 1:
            return np.zeros(d), np.zeros((d, k)), 1.0
        fit: Any
        if self.inputs.isnan().any():
            start = IncompleteStart(self.inputs, k_fit, w)
            fit = start.ppca
            if fit.noise_variance < LEAST_NOISE:
                fit = fit_incomplete_ppca(start.X, k_fit, start.weights, LEAST_NOISE)
        else:
            fit = fit_ppca(self.inputs, k_fit, SINGLE_PROCESS, w)
            if fit.noise_variance < LEAST_NOISE:
                fit = fit_ppca(self.inputs, k_fit, SINGLE_PROCESS, w, LEAST_NOISE)
        loadings = np.zeros((d, k))
        loadings[:, : fit.loadings.shape[1]] = fit.loadings
        return fit.mean, loadings, max(float(fit.noise_variance), LEAST_NOISE)

    @torch.no_grad()
    def set_networks(self) -> float:
        """Set the networks to pPCA, and return max(1, I(x; z)) in nats."""
        module, root = self.module, np.full(len(self.mean), np.sqrt(self.noise))
        scaled = self.mean / root, self.loadings / root[:, None]
        nats = set_linear_networks(module, *scaled, root, self.inputs)
        explained = np.square(self.loadings).sum(axis=1)
        left = self.inputs.new_tensor(np.clip(1.0 - explained, self.noise, 1.0)).log()
        blocks: Any = module.likelihood.blocks
        for block, (_, own) in zip(blocks, module.encoder.inputs.slices, strict=True):
            if isinstance(block, NormalColumns):
                varies = block.unit > 0
                block.log_variance.copy_(torch.where(varies, left[own], block.log_variance))
            elif isinstance(block, StudentColumns):
                block.log_scale.add_(0.5 * left[own])
        module.after_step()
        module.set_linear()
        return nats

    @torch.no_grad()
    def set_filling(self) -> None:
        """Fill missing inputs by pPCA; the networks stay random."""
        noise, prior = np.full(len(self.mean), self.noise), np.ones(self.loadings.shape[1])
        arrays = (self.mean, self.loadings, noise, prior)
        self.module.encoder.set_linear(LinearModel(*map(torch.as_tensor, arrays)))
