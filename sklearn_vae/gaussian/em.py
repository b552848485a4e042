"""EM for probabilistic PCA of data with missing values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np

from sklearn_vae.gaussian.observed import (
    ELIMINATE_UP_TO,
    ROOTS_UP_TO,
    Block,
    IncompleteData,
    Parameters,
    blas_threads,
    inverse_pairs,
    latent_pairs,
    one_thread_for,
)
from sklearn_vae.gaussian.stationarity import Stationarity

# Number of iterations from which the fixed point of EM is extrapolated.
REMEMBERED = 5
# Largest change of a log noise variance by extrapolation: a factor of 10.
LONGEST_STEP = 2.3


class Sums(NamedTuple):
    """Sums over posteriors for the M-step, weighted if the samples are.

    Sums per feature are over the samples in which the feature is observed. E[z z'] is packed as in
    `latent_pairs`.
    """

    pairs: np.ndarray  # sum of E[z z'], (p, d)
    latents: np.ndarray  # sum of E[z], (k, d)
    products: np.ndarray  # sum of x_j E[z], (k, d)
    counts: np.ndarray  # number of samples, (d,)
    values: np.ndarray  # sum of x_j, (d,)
    all_pairs: np.ndarray  # sum of E[z z'] over all samples, (p,)
    all_latents: np.ndarray  # sum of E[z] over all samples, (k,)
    log_likelihood: float

    @classmethod
    def of(cls, data: IncompleteData, parameters: Parameters) -> Sums:
        """Run the E-step over all samples."""

        def total(parts: Iterable[Sums]) -> Sums:
            return reduce(lambda a, b: cls(*map(add, a, b)), parts)

        from_block = partial(cls._from_block, data, parameters=parameters)
        if parameters.loadings.shape[1] <= ELIMINATE_UP_TO:
            return total(map(from_block, data.blocks))
        # BLAS threads slow down LAPACK on many small matrices: parallelize over blocks instead.
        n_threads = max([lib["num_threads"] for lib in blas_threads().info()], default=1)
        with (
            blas_threads().limit(limits=1, user_api="blas"),
            ThreadPoolExecutor(n_threads) as pool,
        ):
            return total(pool.map(from_block, data.blocks))

    @classmethod
    def _from_block(cls, data: IncompleteData, block: Block, parameters: Parameters) -> Sums:
        by_root = parameters.loadings.shape[1] <= ROOTS_UP_TO
        posterior = data.posterior(block, parameters, by_root=by_root)
        Z, X = posterior.mean, data.values[block.samples]
        w = None if data.weights is None else data.weights[block.samples]
        weighted = Z if w is None else w * Z
        i, j, _ = latent_pairs(Z.shape[0])
        inverse = posterior.inverse
        covariance = inverse_pairs(inverse) if by_root else inverse[i, j]
        covariance *= parameters.noise_variance
        if block.owner is None:
            pairs, latents = weighted[i] * Z[j], weighted
            counts = np.ones(len(X)) if w is None else w
        elif len(block.observed) == 1:
            pairs = (weighted @ Z.T)[i, j][:, None]
            latents = weighted.sum(axis=1, keepdims=True)
            counts = np.array([float(len(X)) if w is None else w.sum()])
        else:
            starts = np.flatnonzero(np.diff(block.owner, prepend=-1))
            pairs = np.add.reduceat(weighted[i] * Z[j], starts, axis=1)
            latents = np.add.reduceat(weighted, starts, axis=1)
            if w is None:
                counts = np.diff(starts, append=len(X)).astype(float)
            else:
                counts = np.add.reduceat(w, starts)
        pairs = pairs + counts * covariance
        # Sums over the samples that have a feature: one product of matrices is faster than three.
        sums = np.concatenate([pairs, latents, counts[None, :]]) @ block.observed
        n_pairs = len(pairs)
        return cls(
            sums[:n_pairs],
            sums[n_pairs:-1],
            weighted @ X,
            sums[-1],
            data.sum(X, block.samples),
            pairs.sum(axis=1),
            latents.sum(axis=1),
            float(data.sum(posterior.log_likelihood, block.samples)),
        )


def maximize(
    data: IncompleteData, sums: Sums, parameters: Parameters, noise_variance: float | None
) -> Parameters:
    """Run the M-step of PX-EM (Liu, Rubin and Wu, "Parameter expansion to accelerate EM", 1998).

    The observed values of each feature are regressed on (z, 1) (Tipping and Bishop, 1999, appendix
    B). Then W and the mean absorb the covariance and mean of the latents over all samples, which
    the model assumes to be I and 0; this saves most of the iterations.
    """
    solution, explained = regress_on_latents(sums)
    if noise_variance is None:
        residual = data.sum(data.squares) - float(np.sum(explained))
        noise_variance = max(residual / data.n_values, data.least_noise)
    W, mean = absorb_latents(solution[:, :-1], solution[:, -1], sums, data.n)
    return Parameters(W, mean, noise_variance)


def regress_on_latents(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Regress the observed values of each feature on (z, 1), by the sums of the E-step.

    Returns the coefficients, (d, k + 1), and their products with the right-hand side, whose sum
    over a feature is the explained sum of squares.
    """
    k, d = sums.latents.shape
    normal = np.empty((d, k + 1, k + 1))
    normal[:, :k, :k] = np.moveaxis(sums.pairs[latent_pairs(k)[2]], 2, 0)
    normal[:, :k, k] = normal[:, k, :k] = sums.latents.T
    normal[:, k, k] = sums.counts
    right = np.concatenate([sums.products.T, sums.values[:, None]], axis=1)
    with one_thread_for(k):
        solution = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return solution, solution * right


def absorb_latents(
    W: np.ndarray, mean: np.ndarray, sums: Sums, n: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return W and the mean after they absorbed the covariance and mean of the latents."""
    center = sums.all_latents / n
    covariance = sums.all_pairs[latent_pairs(W.shape[1])[2]] / n - np.outer(center, center)
    return W @ np.linalg.cholesky(covariance), mean + W @ center


def expectation_maximization(
    data: IncompleteData,
    parameters: Parameters,
    *,
    noise_variance: float | None,
    tol: float,
    max_iter: int,
) -> tuple[Parameters, np.ndarray, Stationarity]:
    """Iterate EM until the log-likelihood rises by less than `tol` nats per sample.

    The fixed point is extrapolated from the last iterations, and accepted if its likelihood is
    higher (Henderson and Varadhan, "Damped Anderson Acceleration with Restarts and Monotonicity
    Control for Accelerating EM and EM-like Algorithms", 2019; here without damping). Returns the
    parameters, the log-likelihood per sample at the start and after each iteration, and a
    certificate. If the likelihood falls by rounding, the previous parameters are returned.
    """
    n = data.n
    if noise_variance is not None:
        parameters = Parameters(parameters.loadings, parameters.mean, noise_variance)
    sums = Sums.of(data, parameters)
    history, converged = [sums.log_likelihood / n], False
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    # Loadings and mean are scaled, to combine them with log sigma2 in one vector.
    unit = float(data.sum(data.squares) / data.n_values) ** 0.5
    while not converged and len(history) <= max_iter:
        before, after = parameters, maximize(data, sums, parameters, noise_variance)
        steps = [*steps[-REMEMBERED:], (_flat(parameters, unit), _flat(after, unit))]
        parameters = after
        if len(steps) > 1:
            extrapolated = _extrapolate(steps, after, data.least_noise, unit)
            with suppress(np.linalg.LinAlgError):  # extrapolated parameters may be invalid
                sums = Sums.of(data, extrapolated)
                if sums.log_likelihood > n * history[-1]:
                    parameters = extrapolated
            if parameters is after:
                steps = []
        if parameters is after:
            sums = Sums.of(data, after)
        rise = sums.log_likelihood / n - history[-1]
        if rise < 0.0:  # only by rounding
            converged = -rise <= max(tol, 1e-7 * abs(history[-1]))
            parameters, sums = before, Sums.of(data, before)
            break
        history.append(sums.log_likelihood / n)
        converged = rise < tol
    certificate = _certify(data, sums, parameters, steps, noise_variance, unit, converged)
    return parameters, np.array(history), certificate


def gradient(
    data: IncompleteData, sums: Sums, parameters: Parameters
) -> tuple[np.ndarray, np.ndarray, float]:
    """Compute the derivatives of the log-likelihood per sample in W, the mean and log sigma2.

    By Fisher's identity they are those of E log p(x_o, z) under the posteriors.
    """
    W, mean, sigma2 = parameters.loadings, parameters.mean, parameters.noise_variance
    pairs = sums.pairs[latent_pairs(W.shape[1])[2]]
    explained = np.einsum("abj,jb->ja", pairs, W) + mean[:, None] * sums.latents.T
    offset = np.einsum("jh,hj->j", W, sums.latents)
    grad_W, grad_mean = sums.products.T - explained, sums.values - sums.counts * mean - offset
    # sum_j E |x_j - w_j'z - mean_j|^2 over the observed values.
    residual = float(data.sum(data.squares)) - float(
        np.sum(W * sums.products.T) + mean @ sums.values
    )
    residual -= float(np.sum(W * grad_W) + mean @ grad_mean)
    grad_noise = 0.5 * (residual / sigma2 - data.n_values)
    return grad_W / (sigma2 * data.n), grad_mean / (sigma2 * data.n), grad_noise / data.n


def _certify(
    data: IncompleteData,
    sums: Sums,
    parameters: Parameters,
    steps: list[tuple[np.ndarray, np.ndarray]],
    noise_variance: float | None,
    unit: float,
    converged: bool,
) -> Stationarity:
    """Predict the rise up to the fixed point that the last iterations of EM point to.

    Near a maximum it is half the product of the gradient and the way to the maximum.
    """
    grad_W, grad_mean, grad_noise = gradient(data, sums, parameters)
    if noise_variance is not None or parameters.noise_variance <= data.least_noise:
        grad_noise = 0.0
    slope = np.concatenate([unit * grad_W.ravel(), unit * grad_mean, [grad_noise]])
    after = maximize(data, sums, parameters, noise_variance)
    here = _flat(parameters, unit)
    steps = [*steps[-REMEMBERED:], (here, _flat(after, unit))]
    ends = [steps[-1][1]]
    if len(steps) > 1:
        ends.append(_flat(_extrapolate(steps, after, data.least_noise, unit), unit))
    gain = max(0.5 * float(slope @ (end - here)) for end in ends)
    return Stationarity(
        max(gain, 0.0), float(np.linalg.norm(slope)), converged, False, "log-likelihood"
    )


def _flat(parameters: Parameters, unit: float) -> np.ndarray:
    log_noise = math.log(parameters.noise_variance)
    W, mean = parameters.loadings / unit, parameters.mean / unit
    return np.concatenate([W.ravel(), mean, [log_noise]])


def fixed_point(steps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the fixed point of the affine map that fits the last steps of EM."""
    before, after = (np.array(side) for side in zip(*steps, strict=True))
    change = after - before
    differences = np.diff(change, axis=0)
    # Least squares by the small matrix of products, which is faster than lstsq.
    values, vectors = np.linalg.eigh(differences @ differences.T)
    along = vectors.T @ (differences @ change[-1])
    kept = values > 1e-14 * values[-1]
    weights = vectors[:, kept] @ (along[kept] / values[kept])
    return after[-1] - weights @ np.diff(after, axis=0)


def _extrapolate(
    steps: list[tuple[np.ndarray, np.ndarray]], like: Parameters, least_noise: float, unit: float
) -> Parameters:
    """Compute the parameters at the fixed point, near those of the last step."""
    flat = fixed_point(steps)
    before, after = (side[-1] for side in steps[-1])
    d = len(like.mean)
    noise_variance = like.noise_variance
    if before != after:  # sigma2 is not fixed
        log_noise = min(max(flat[-1], after - LONGEST_STEP), after + LONGEST_STEP)
        noise_variance = max(math.exp(log_noise), least_noise)
    W, mean = unit * flat[: -d - 1], unit * flat[-d - 1 : -1]
    return Parameters(W.reshape(like.loadings.shape), mean, noise_variance)


def averages(data: IncompleteData, parameters: Parameters) -> tuple[np.ndarray, np.ndarray, float]:
    """Average nu_h^2 + tau2_h, log tau2_h, both (k,), and log det Cov[z|x_o] over the samples.

    nu_h and tau2_h are the posterior mean and variance of latent dimension h.
    """
    n, k = data.n, parameters.loadings.shape[1]
    second_moment, log_variance, log_det = np.zeros(k), np.zeros(k), 0.0
    with one_thread_for(k):
        for block in data.blocks:
            posterior = data.posterior(block, parameters)
            variance = parameters.noise_variance * np.einsum("aap->ap", posterior.inverse)
            variance = block.repeated(variance)
            if data.weights is None:
                weight: Any = len(posterior.log_det)
                second_moment += np.sum(posterior.mean**2 + variance, axis=1)
                log_variance += np.sum(np.log(variance), axis=1)
            else:
                w = data.weights[block.samples]
                weight = w.sum()
                second_moment += (posterior.mean**2 + variance) @ w
                log_variance += np.log(variance) @ w
            log_det += k * math.log(parameters.noise_variance) * weight
            log_det -= float(data.sum(posterior.log_det, block.samples))
    return second_moment / n, log_variance / n, log_det / n
