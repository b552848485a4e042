"""pPCA and factor analysis of training samples, in memory, in a file or in several processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.eigensolvers import (
    choose_solver,
    decompose_summary,
    recentered,
    summarize,
)
from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE, fit_factors
from sklearn_vae.gaussian.moments import Moments, moments_of_blocks
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.nn.likelihoods import NOISE_FLOOR, rounding_noise
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.stored_samples import StoredSamples

Array = NDArray[Any]
Samples: TypeAlias = Tensor | StoredSamples

# Largest derivative of the log-likelihood of factor analysis at convergence, in nats per sample.
FACTOR_TOL = 1e-5

# Largest number of elements of samples that are copied to float64.
LARGEST_IN_FLOAT64 = 2**27

# Samples of a large file with more features than this have no d x d moments; pPCA is then fitted to
# random samples with this number of entries.
MOST_FEATURES = 2048
SOME_ENTRIES = 2**24

# Number of entries of samples from which their moments are computed in blocks, without a copy of
# the samples, and number of entries of a block.
LARGE_ENTRIES = 2**24
BLOCK_ENTRIES = 2**19


class PPCAFit(NamedTuple):
    """A pPCA model."""

    mean: Array
    loadings: Array
    noise_variance: float  # 0 if the number of components reaches the rank of the samples


def fit_ppca(
    samples: Samples,
    n_components: int,
    reducer: Reducer,
    weights: Tensor | None = None,
    noise_variance: float | None = None,
    units: Array | None = None,
) -> PPCAFit:
    """Fit pPCA to the samples of all processes, with their features divided by `units`.

    The number of loadings is limited by `n_components`, the samples and the features. Samples of a
    file count by their moments or, with more than `MOST_FEATURES`, by some of them.
    """
    if isinstance(samples, StoredSamples):
        if units is not None:
            samples, units = samples.divided_by(units), None
        if samples.shape[1] > MOST_FEATURES:
            samples, weights = samples.some(SOME_ENTRIES)
    w = on_host(weights)
    in_blocks = is_in_blocks(samples)
    X: Any = None if in_blocks else in_units(in_float64(samples), units)
    if reducer.size == 1 and not in_blocks:
        k, dtype = min(n_components, *X.shape), X.dtype
        solver = choose_solver(X, k)
        summary = summarize(X, solver, w)
        summary.check_finite()
        spectrum = decompose_summary(
            summary,
            k,
            solver,
            random_state=np.random.RandomState(0),
            refine=recentered(X, summary, w),
        )
    else:
        own = moments_of_samples(samples, w, units) if in_blocks else Moments.of(X, w)
        moments = own if reducer.size == 1 else _joint_moments(own, reducer)
        k, dtype = min(n_components, round(moments.n), moments.n_features), moments.mean.dtype
        spectrum = Spectrum.from_moments(moments)
    sigma2 = spectrum.noise_variance(k) if noise_variance is None else noise_variance
    return PPCAFit(spectrum.mean.astype(dtype), spectrum.loadings(k, sigma2, dtype), sigma2)


def ppca_residuals(
    samples: Samples, n_components: int, reducer: Reducer, weights: Tensor | None = None
) -> Array:
    """Compute E_q (x_j - mu_j(z))^2 of pPCA for each feature, averaged over the samples.

    The mean over the features is the noise variance of pPCA, up to rounding errors.
    """
    loadings = fit_ppca(samples, n_components, reducer, weights).loadings
    squares = len(samples) * mean_squares(samples, weights)
    variance = reducer.sum(squares) / reducer.sum(len(samples))
    return np.maximum(variance - (loadings**2).sum(axis=1), 0)


def factor_noise(samples: Samples, n_components: int, weights: Tensor | None = None) -> Array:
    """Compute the noise variances of factor analysis, by maximum likelihood."""
    if isinstance(samples, StoredSamples) and samples.shape[1] > MOST_FEATURES:
        samples, weights = samples.some(SOME_ENTRIES)
    n, d = samples.shape
    w = on_host(weights)
    if is_in_blocks(samples):
        summary: Any = moments_of_samples(samples, w)
    else:
        X = samples[:].cpu().double().numpy()
        summary = Moments.of(X, w) if d <= n else centered_data(X, w)
    return fit_factors(summary, min(n_components, d, n - 1), tol=FACTOR_TOL).noise_variance


def noise_without_residuals(
    samples: Samples, k: int, weights: Tensor | None, ppca: PPCAFit
) -> Array | None:
    """Return the initial noise variance where pPCA leaves no residuals, else None.

    If k >= d, the covariance of pPCA is that of the data with every noise variance up to the smallest
    eigenvalue. If the samples have lower rank than their number allows, they are reconstructed
    exactly.
    """
    n, d = samples.shape
    rounding = rounding_noise(samples.dtype)
    if k >= d:
        loadings = fit_ppca(samples, k, SINGLE_PROCESS, weights, noise_variance=0.0).loadings
        squares = np.square(loadings).sum(axis=0)
        least = squares.min() if len(loadings) == loadings.shape[1] else 0.0
        if least > rounding:
            return np.asarray(0.5 * least)
    if ppca.noise_variance <= rounding and k < n - 1:
        return np.asarray(NOISE_FLOOR)
    return None


def constant_features(samples: Samples, weights: Tensor | None) -> tuple[Array, Array]:
    """Set features that vary by rounding errors alone to 0; return their indices and variances.

    The samples have features of variance 1 or less than this. The variances are at least those that
    factor analysis gives to the noise of constant features.
    """
    variances = mean_squares(samples, weights)
    constant = np.flatnonzero(variances < NOISE_FLOOR)
    if isinstance(samples, StoredSamples):
        samples.set_zero(constant)
    else:
        samples[:, constant] = 0.0
    return constant, np.maximum(variances[constant], CONSTANT_NOISE)


def mean_squares(samples: Samples, weights: Tensor | None) -> Array:
    """Compute the weighted averages of the squared features, in float64."""
    if isinstance(samples, StoredSamples):
        averages: Array = samples.average(torch.square).numpy()
        return averages
    w = on_host(weights)
    total = np.zeros(samples.shape[1])
    for block, X in blocks_in_float64(samples):
        squares = np.square(X)
        total += squares.sum(axis=0) if w is None else w[block] @ squares
    return total / len(samples)


def is_in_blocks(samples: Samples) -> bool:
    """Return whether the moments of samples are computed in blocks, without a copy in float64."""
    if isinstance(samples, StoredSamples):
        return True
    n, d = samples.shape
    is_large = samples.dtype == torch.float32 and samples.numel() >= LARGE_ENTRIES
    return is_large and d <= min(MOST_FEATURES, n // 4)


def blocks_in_float64(samples: Samples) -> Iterator[tuple[slice, Array]]:
    """Yield slices of the samples, and these samples on the host, in float64."""
    step = max(1, BLOCK_ENTRIES // samples.shape[1])
    for start in range(0, len(samples), step):
        block = slice(start, start + step)
        yield block, samples[block].cpu().double().numpy()


def in_float64(samples: Any) -> Array:
    """Return samples on the host, in float64 if that takes at most 1 GiB.

    Float32 cannot tell the noise of pPCA from rounding if it is less than 1e-6 of the variance.
    """
    X: Array = samples.cpu().numpy()
    return X.astype(np.float64, copy=False) if X.size <= LARGEST_IN_FLOAT64 else X


def in_units(X: Array, units: Array | None) -> Array:
    """Divide the features by `units`, if any, without a change of the dtype."""
    return X if units is None else (X / units).astype(X.dtype, copy=False)


def on_host(weights: Tensor | None) -> Any:
    """Return weights of samples, if any, as an array of float64."""
    return None if weights is None else weights.cpu().double().numpy()


def moments_of_samples(
    samples: Samples, weights: Array | None, units: Array | None = None
) -> Moments:
    """Compute the moments of samples in blocks, in float64, with their features divided by `units`.

    Samples of a file have their own weights and units.
    """
    if isinstance(samples, StoredSamples):
        return samples.moments
    return moments_of_blocks(
        (in_units(X, units), None if weights is None else weights[block])
        for block, X in blocks_in_float64(samples)
    )


def _joint_moments(own: Moments, reducer: Reducer) -> Moments:
    """Combine the moments of the samples of all processes."""
    n = reducer.sum(own.n)
    mean = reducer.sum(own.n * own.mean) / n
    shift = own.mean - mean
    scatter = reducer.sum(own.scatter + own.n * np.outer(shift, shift))
    return Moments(n, mean, scatter)
