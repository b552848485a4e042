"""Bounds of linear models on the samples of a fit, with which its outcome is compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sklearn_vae.deep.linear_fits import (
    Array,
    blocks_in_float64,
    fit_ppca,
    in_float64,
    is_in_blocks,
    on_host,
)
from sklearn_vae.deep.outcome import LinearFit
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.gaussian.incomplete_ppca import fit_incomplete_ppca
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.nn.likelihoods import rounding_noise

PPCA = "pPCA with the same number of dimensions"


def ppca_fits(
    data: TrainingData, k: int, noise: Array | None, scale: Any
) -> tuple[LinearFit | None, LinearFit | None]:
    """Fit pPCA with the noise variance of a model, if that is given, and with its own.

    `noise` is in the units of the networks, which `scale`, a number or one per feature, converts to
    those of the data. A fit whose noise variance is 0, or which would need one per feature, is None.
    """
    name, matched = PPCA, f"{PPCA} and noise variance"
    # Units in which all features have equal noise.
    units = np.sqrt(noise) if noise is not None and noise.ndim else None
    root = np.ones(data.train.shape[1]) if units is None else units
    if data.is_incomplete:
        return _incomplete_fits(data, in_float64(data.train) / root, k, noise, scale, root)
    mean, loadings, sigma2 = fit_ppca(data.train, k, data.reducer, data.weights, units=units)
    log_scale = float(np.log(scale * root).sum())

    def fit(noise_variance: float, name: str) -> LinearFit | None:
        if noise_variance <= rounding_noise(data.train.dtype):
            return None
        squares = np.square(loadings).sum(axis=0)
        kept = np.maximum(squares + sigma2 - noise_variance, 0.0)
        W = loadings * np.sqrt(kept / np.where(squares > 0, squares, 1.0))
        density = LowRankGaussian(mean, W, noise_variance)
        bound = judged_average(lambda x: density.log_prob(x / root), data)
        return LinearFit(name, bound - log_scale, noise_variance * float(np.mean(scale**2)))

    if noise is None:
        return fit(sigma2, name), None
    if noise.ndim:
        return fit(1.0, matched), None
    return fit(float(noise), matched), fit(sigma2, name)


def _incomplete_fits(
    data: TrainingData, X: Array, k: int, noise: Array | None, scale: Any, root: Array
) -> tuple[LinearFit | None, LinearFit | None]:
    """Fit pPCA to samples with missing values, see :func:`ppca_fits`."""
    weights = on_host(data.weights)
    log_scale = np.log(scale * root)

    def fit(noise_variance: float | None, name: str) -> LinearFit | None:
        density = fit_incomplete_ppca(X.astype(np.float64), k, weights, noise_variance)
        if density.noise_variance <= rounding_noise(data.train.dtype):
            return None

        def log_prob(x: Array) -> Array:
            x = x.astype(np.float64) / root
            return density.log_likelihood(x) - ~np.isnan(x) @ log_scale

        own = density.noise_variance * float(np.mean(scale**2))
        return LinearFit(name, judged_average(log_prob, data), own)

    matched = f"{PPCA} and noise variance"
    if noise is None:
        return fit(None, PPCA), None
    if noise.ndim:
        return fit(1.0, matched), None
    return fit(float(noise), matched), fit(None, PPCA)


def pca_fit(data: TrainingData, k: int, scale: float) -> LinearFit:
    """Fit PCA and compute minus its mean squared error, in the units of the data."""
    mean, loadings, _ = fit_ppca(data.train, k, data.reducer, data.weights, noise_variance=0.0)
    lengths = np.linalg.norm(loadings, axis=0)
    axes = loadings / np.where(lengths > 0, lengths, 1.0)

    def score(x: Array) -> Array:
        centered = x - mean
        return -np.square(centered - centered @ axes @ axes.T).mean(axis=1)

    return LinearFit(
        "PCA with the same number of dimensions", scale**2 * judged_average(score, data)
    )


def judged_average(function: Any, data: TrainingData) -> float:
    """Average a function of samples over the validation samples, or else the training samples."""
    if data.valid is not None:
        return _average(function(in_float64(data.valid)), data.valid_weights, data)
    if is_in_blocks(data.train):
        parts = [function(X) for _, X in blocks_in_float64(data.train)]
        return _average(np.concatenate(parts), data.weights, data)
    return _average(function(in_float64(data.train)), data.weights, data)


def _average(values: Array, weights: Tensor | None, data: TrainingData) -> float:
    total = values.sum() if weights is None else on_host(weights) @ values
    n, total = data.reducer.sum([float(len(values)), float(total)])
    return float(total / n)
