"""Fit of Bernoulli pPCA by Newton's method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import logit

from sklearn_vae.gaussian.arrays import scale_of, weighted_mean
from sklearn_vae.gaussian.bernoulli_bound import initial_loadings, linear_bound
from sklearn_vae.gaussian.bernoulli_elbo import BernoulliParameters, SamplePosteriors
from sklearn_vae.gaussian.bernoulli_newton import PosteriorsBound
from sklearn_vae.gaussian.spectrum import peak_signs
from sklearn_vae.gaussian.stationarity import Stationarity
from sklearn_vae.gaussian.trust_region import Function, ascend
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.serialization.identity import digest

# A feature counts as constant if its sum, or the sum of 1 - x, is below this value. Soft bits can
# be as small as a sigmoid, and the loadings grow with the odds.
_LEAST_COUNT = 1e-6
# Certificate of a fit without parameters.
_AT_MAXIMUM = Stationarity(0.0, 0.0, converged=True, is_exact=True, objective="ELBO")


@dataclass(frozen=True, eq=False)
class BernoulliFit:
    """Parameters that maximize the bound; V and D are None without an encoder."""

    W: np.ndarray
    mu: np.ndarray
    V: np.ndarray | None
    D: np.ndarray | None
    history: np.ndarray  # the bound at the start and after each iteration, in nats per sample
    certificate: Stationarity


def fit_bernoulli(
    X: np.ndarray,
    n_components: int,
    inference: str,
    max_iter: int,
    tol: float,
    rng: Any,
    file: Checkpoint | None = None,
    weights: np.ndarray | None = None,
) -> BernoulliFit:
    """Maximize the bound over decoder and encoder or posteriors, without constant features.

    Loadings are sorted by decreasing length, with a positive peak in each column. Weights must be
    positive.
    """
    (n, d), k = X.shape, n_components
    mean = weighted_mean(X, weights, np.float64)
    varying = n * np.minimum(mean, 1.0 - mean) > _LEAST_COUNT
    if weights is not None:
        n = max(n, round(float(weights.sum())))  # weights count as repetitions
        weights = weights / scale_of(weights)
        weights = weights / weights.mean()
    # Half a count is added, because a constant feature has its maximum at infinity.
    mu = logit((n * mean + 0.5) / (n + 1.0))
    constant = mean[~varying] * mu[~varying] - np.logaddexp(0.0, mu[~varying])
    if not varying.any():
        V, D = (np.zeros((k, d)), np.ones(k)) if inference == "linear" else (None, None)
        return BernoulliFit(np.zeros((d, k)), mu, V, D, np.full(2, constant.sum()), _AT_MAXIMUM)
    bits = X[:, varying].T.astype(np.float64, order="C")
    fit = _fit_linear if inference == "linear" else _fit_per_sample
    start = initial_loadings(bits, k, rng, weights)
    p, history, certificate = fit(bits, start, max_iter, tol, file, weights)
    order = np.argsort(-np.square(p.W).sum(axis=0), kind="stable")
    signs = peak_signs(p.W)
    W = np.zeros((d, k))
    W[varying] = (p.W * signs)[:, order]
    mu[varying] = p.mu
    history = np.asarray(history) + constant.sum()
    if inference != "linear":
        return BernoulliFit(W, mu, None, None, history, certificate)
    V = np.zeros((k, d))
    V[:, varying] = (p.V * signs[:, None])[order]
    return BernoulliFit(W, mu, V, p.D[order], history, certificate)


def _fit_linear(
    bits: np.ndarray,
    W: np.ndarray,
    max_iter: int,
    tol: float,
    file: Checkpoint | None,
    weights: np.ndarray | None,
) -> tuple[BernoulliParameters, list[float], Stationarity]:
    bound, start = linear_bound(bits, W, weights)
    numbers, history, certificate = maximize(bound, start, max_iter, tol, file)
    return bound.parameters(numbers), history, certificate


def _fit_per_sample(
    bits: np.ndarray,
    W: np.ndarray,
    max_iter: int,
    tol: float,
    file: Checkpoint | None,
    weights: np.ndarray | None,
) -> tuple[BernoulliParameters, list[float], Stationarity]:
    X = np.ascontiguousarray(bits.T)
    p = weighted_mean(X, weights)
    std, mu = np.sqrt(p * (1.0 - p)), logit(p)
    # The search for the posteriors starts at the posteriors of the previous parameters.
    M, S = SamplePosteriors(W, mu).start(len(X))
    bound = PosteriorsBound(X, std, M, S, weights)
    start = bound.pack(W, mu)
    numbers, history, certificate = maximize(bound, start, max_iter, tol, file, (M, S))
    no_encoder = np.empty((W.shape[1], 0)), np.empty(0)
    return BernoulliParameters(*bound.unpack(numbers), *no_encoder), history, certificate


def maximize(
    function: Function,
    start: np.ndarray,
    max_iter: int,
    tol: float,
    file: Checkpoint | None = None,
    memory: tuple[np.ndarray, ...] = (),
) -> tuple[np.ndarray, list[float], Stationarity]:
    """Maximize a function by Newton's method; return the last point, its history and certificate.

    The function updates the arrays of `memory` in each call. With a checkpoint, the derivatives are
    computed again every `file.every` iterations, even if the fit is not resumed, because their last
    digits depend on the calls before.
    """
    numbers, radius, history = start, None, []
    if file is not None:
        saved = file.resume(
            lambda saved: _check_saved(saved, start, None if file.finished else memory),
            {"numbers": digest(start, memory)},
        )
        if saved is not None:
            numbers, radius, history = saved["numbers"], saved["radius"], saved["history"].tolist()
        if file.finished:
            return numbers, history, saved["certificate"]
        if saved is not None:
            for array, value in zip(memory, saved["memory"], strict=True):
                array[...] = value
    while True:
        remaining = max_iter - max(len(history) - 1, 0)
        n_iter = remaining if file is None else min(remaining, file.every)
        n_before = max(len(history) - 1, 0)
        for state in ascend(function, numbers, tol, radius):
            if n_before + state.n_steps == len(history):
                history.append(state.value)
            if state.n_steps == n_iter:
                break
        numbers, radius = state.x, state.radius
        if state.done or n_iter == remaining:
            certificate = Stationarity(
                state.gain, state.gradient_norm, state.converged, is_exact=False, objective="ELBO"
            )
            if file is not None:
                ended = {"numbers": numbers, "radius": radius, "history": np.array(history)}
                file.save({**ended, "certificate": asdict(certificate)}, finished=True)
            return numbers, history, certificate
        assert file is not None
        unfinished = {"radius": radius, "history": np.array(history), "memory": list(memory)}
        file.save({"numbers": numbers, **unfinished})


def _check_saved(saved: Any, start: np.ndarray, memory: Any) -> Any:
    """Return a saved state if it fits the start; `memory` is None if the fit is finished."""
    if memory is None:
        saved = {**saved, "certificate": Stationarity(**saved["certificate"])}
        fits = isinstance(saved["certificate"].converged, bool)
    else:
        fits = [array.shape for array in saved["memory"]] == [array.shape for array in memory]
    fits &= isinstance(saved["radius"], float)
    if not (fits and saved["numbers"].shape == start.shape and saved["history"].ndim == 1):
        raise ValueError(f"numbers of shape {saved['numbers'].shape}")
    return saved
