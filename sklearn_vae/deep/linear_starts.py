"""Initialization of networks at logistic pPCA and at PCA."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import logit
from torch import Tensor

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.incomplete_start import IncompleteStart
from sklearn_vae.deep.linear_fits import Samples, fit_ppca
from sklearn_vae.deep.ppca_start import network_of, normalize_columns, set_linear_map
from sklearn_vae.gaussian.bernoulli_bound import initial_loadings, linear_bound
from sklearn_vae.gaussian.trust_region import ascend
from sklearn_vae.nn.incomplete import linearized
from sklearn_vae.nn.module import Autoencoder, VAEModule
from sklearn_vae.nn.posteriors import DiagonalPrior
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.stored_samples import StoredSamples

# Tolerance in nats per sample and largest number of Newton steps of logistic pPCA, and largest number
# of values to which it is fitted.
TOLERANCE = 1e-2
MAX_ITER = 30
MAX_VALUES = 2**21

# A feature counts as constant if its sum, or the sum of 1 - x, is below this value.
LEAST_COUNT = 1e-6


@torch.no_grad()
def start_at_pca(
    module: Autoencoder, samples: Samples, k: int, reducer: Reducer, weights: Tensor | None
) -> None:
    """Set the networks of an autoencoder to PCA."""
    mean, loadings, _ = fit_ppca(samples, k, reducer, weights, noise_variance=0.0)
    lengths = np.linalg.norm(loadings, axis=0)
    axes = np.zeros((len(mean), k))
    axes[:, : loadings.shape[1]] = loadings / np.where(lengths > 0, lengths, 1.0)
    _set_networks(module, axes.T, -axes.T @ mean, axes, mean, np.zeros(k), samples)


@torch.no_grad()
def start_at_logistic_ppca(
    module: VAEModule, samples: Samples, weights: Tensor | None, seed: int
) -> float:
    """Set the networks and the prior to logistic pPCA, and return max(1, average KL) in nats."""
    if isinstance(samples, StoredSamples):
        samples, weights = samples.some(MAX_VALUES)
        weights = None if weights is None else weights / weights.mean()
    X = samples.cpu().double().numpy()
    w = None if weights is None else weights.cpu().double().numpy()
    is_incomplete = module.is_incomplete
    if is_incomplete:
        start = IncompleteStart(samples, module.posterior.n_components, weights)
        X = start.ppca.impute(X).clip(0.0, 1.0)
    rng = np.random.RandomState(seed)
    if X.size > MAX_VALUES:
        chosen = rng.permutation(len(X))[: max(2, MAX_VALUES // X.shape[1])]
        X, w = X[chosen], None if w is None else w[chosen] / w[chosen].mean()
    W, mu, V, D = fit_logistic_ppca(X, module.posterior.n_components, rng, w)
    center = X.mean(axis=0) if w is None else w @ X / len(X)
    _set_networks(module, V, -V @ center, W, mu, np.log(D), samples)
    if isinstance(module.prior, DiagonalPrior):
        normalize_columns(module)
    if is_incomplete:
        module.encoder.set_linear(linearized(module))
    return max(1.0, float(-0.5 * np.log(D).sum()))


def fit_logistic_ppca(
    X: Array, k: int, rng: Any, weights: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Fit logistic pPCA; return the loadings, logits, encoder weights and posterior variances."""
    n, d = X.shape
    mean = X.mean(axis=0) if weights is None else weights @ X / n
    varying = n * np.minimum(mean, 1.0 - mean) > LEAST_COUNT
    # Half a count is added, because a constant feature has its maximum at infinity.
    W, mu, V, D = (
        np.zeros((d, k)),
        logit((n * mean + 0.5) / (n + 1.0)),
        np.zeros((k, d)),
        np.ones(k),
    )
    if not varying.any():
        return W, mu, V, D
    bits = X[:, varying].T.copy()
    bound, start = linear_bound(bits, initial_loadings(bits, k, rng, weights), weights)
    for state in ascend(bound, start, TOLERANCE):
        if state.n_steps == MAX_ITER:
            break
    p = bound.parameters(state.x)
    W[varying], mu[varying], V[:, varying] = p.W, p.mu, p.V
    return W, mu, V, p.D


def _set_networks(
    module: Any, A: Array, shift: Array, W: Array, mean: Array, log_variance: Array, like: Samples
) -> None:
    """Set the encoder to A x + shift, with constant log-variances, and the decoder to W z + mean."""

    def tensor(array: Array) -> Tensor:
        return torch.as_tensor(array, dtype=like.dtype, device=like.device)

    k = len(A)
    encoder = network_of(module.encoder)
    bias = np.zeros(len(encoder.layers[-1].bias))
    bias[k : 2 * k] = log_variance[: len(bias) - k]
    set_linear_map(encoder, tensor(A), tensor(shift), tensor(np.eye(k)), tensor(bias))
    zero = tensor(np.zeros(k))
    set_linear_map(module.decoder, tensor(np.eye(k)), zero, tensor(W), tensor(mean))
