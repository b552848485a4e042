"""Fit of Bernoulli pPCA by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logit

from sklearn_vae.gaussian.arrays import scale_of, weighted_mean
from sklearn_vae.gaussian.bernoulli_bound import LinearBernoulliBound, initial_loadings
from sklearn_vae.gaussian.bernoulli_elbo import BernoulliParameters, SamplePosteriors
from sklearn_vae.gaussian.spectrum import peak_signs
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.serialization.identity import digest

# L-BFGS has converged if this many iterations together raise the bound by less than tol. A single
# iteration may raise it by little and the next one by more.
WINDOW = 10
_MEMORY = 20
# Status of SciPy's L-BFGS at the maximum number of iterations.
_MAX_ITER = 1
# Maximum norms of the gradient: L-BFGS stops below the first one, and a failed line search counts
# as convergence below the second one, where rounding errors prevent further progress.
_GRADIENT = 1e-10
_GRADIENT_OF_ROUNDING = 1e-6
# A feature counts as constant if its sum, or the sum of 1 - x, is below this value. Soft bits can
# be as small as a sigmoid, and the loadings grow with the odds.
_LEAST_COUNT = 1e-6


@dataclass(frozen=True, eq=False)
class BernoulliFit:
    """Parameters that maximize the bound; V and D are None without an encoder."""

    W: np.ndarray
    mu: np.ndarray
    V: np.ndarray | None
    D: np.ndarray | None
    history: np.ndarray  # the bound at the start and after each iteration, in nats per sample
    converged: bool


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
        return BernoulliFit(np.zeros((d, k)), mu, V, D, np.full(2, constant.sum()), True)
    bits = X[:, varying].T.astype(np.float64, order="C")
    fit = _fit_linear if inference == "linear" else _fit_per_sample
    start = initial_loadings(bits, k, rng, weights)
    p, history, converged = fit(bits, start, max_iter, tol, file, weights)
    order = np.argsort(-np.square(p.W).sum(axis=0), kind="stable")
    signs = peak_signs(p.W)
    W = np.zeros((d, k))
    W[varying] = (p.W * signs)[:, order]
    mu[varying] = p.mu
    history = np.asarray(history) + constant.sum()
    if inference != "linear":
        return BernoulliFit(W, mu, None, None, history, converged)
    V = np.zeros((k, d))
    V[:, varying] = (p.V * signs[:, None])[order]
    return BernoulliFit(W, mu, V, p.D[order], history, converged)


def _fit_linear(
    bits: np.ndarray,
    W: np.ndarray,
    max_iter: int,
    tol: float,
    file: Checkpoint | None,
    weights: np.ndarray | None,
) -> tuple[BernoulliParameters, list[float], bool]:
    bound = LinearBernoulliBound(bits, W, weights)
    numbers, history, converged = maximize(
        bound.value_and_gradient, bound.start, max_iter, tol, file
    )
    return bound.parameters(numbers), history, converged


def _fit_per_sample(
    bits: np.ndarray,
    W: np.ndarray,
    max_iter: int,
    tol: float,
    file: Checkpoint | None,
    weights: np.ndarray | None,
) -> tuple[BernoulliParameters, list[float], bool]:
    X = np.ascontiguousarray(bits.T)
    p, k = weighted_mean(X, weights), W.shape[1]
    std, mu = np.sqrt(p * (1.0 - p)), logit(p)
    # The search for the posteriors starts at the posteriors of the previous parameters.
    M, S = SamplePosteriors(W, mu).start(len(X))

    def unpack(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return numbers[: W.size].reshape(-1, k) / std[:, None], numbers[W.size :] / std

    def objective(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        posteriors = SamplePosteriors(*unpack(numbers))
        value, grad_W, grad_mu = posteriors.value_and_gradients(X, M, S, weights)
        return value, np.concatenate([(grad_W / std[:, None]).ravel(), grad_mu / std])

    start = np.concatenate([(W * std[:, None]).ravel(), mu * std])
    numbers, history, converged = maximize(objective, start, max_iter, tol, file, (M, S))
    no_encoder = np.empty((k, 0)), np.empty(0)
    return BernoulliParameters(*unpack(numbers), *no_encoder), history, converged


def maximize(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    max_iter: int,
    tol: float,
    file: Checkpoint | None = None,
    memory: tuple[np.ndarray, ...] = (),
) -> tuple[np.ndarray, list[float], bool]:
    """Maximize a function by L-BFGS; return the last point, its history and whether it converged.

    The function returns a value and its gradient, and updates the arrays of `memory` in each call.
    SciPy cannot save the memory of L-BFGS. With a checkpoint, L-BFGS therefore restarts without
    memory every `file.every` iterations, even if the fit is not resumed.
    """
    numbers = start
    history: list[float] = []
    if file is not None:
        saved = file.resume(
            lambda saved: _check_saved(saved, start, None if file.finished else memory),
            {"numbers": digest(start, memory)},
        )
        if saved is not None:
            numbers, history = saved["numbers"], saved["history"].tolist()
        if file.finished:
            return numbers, history, saved["converged"]
        if saved is not None:
            for array, value in zip(memory, saved["memory"], strict=True):
                array[...] = value
    while True:
        remaining = max_iter - max(len(history) - 1, 0)
        n_iter = remaining if file is None else min(remaining, file.every)
        result = _run_lbfgs(function, numbers, n_iter, tol, history)
        numbers = result.x
        if result.status != _MAX_ITER or result.nit < n_iter or n_iter == remaining:
            flat = bool(np.abs(result.jac).max(initial=0.0) < _GRADIENT_OF_ROUNDING)
            converged = flat or _has_settled(history, tol)
            if file is not None:
                state = {"numbers": numbers, "history": np.array(history), "converged": converged}
                file.save(state, finished=True)
            return numbers, history, converged
        assert file is not None
        file.save({"numbers": numbers, "history": np.array(history), "memory": list(memory)})


def _check_saved(saved: Any, start: np.ndarray, memory: Any) -> Any:
    """Return a saved state if it fits the start; `memory` is None if the fit is finished."""
    if memory is None:
        fits = isinstance(saved["converged"], bool)
    else:
        fits = [array.shape for array in saved["memory"]] == [array.shape for array in memory]
    if not (fits and saved["numbers"].shape == start.shape and saved["history"].ndim == 1):
        raise ValueError(f"numbers of shape {saved['numbers'].shape}")
    return saved


def _run_lbfgs(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    max_iter: int,
    tol: float,
    history: list[float],
) -> Any:
    """Run SciPy's L-BFGS until it settles, and append its values to `history`."""

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = function(numbers)
        if not history:
            history.append(value)
        return -value, -gradient

    def record(intermediate_result: Any) -> None:
        history.append(-float(intermediate_result.fun))
        if _has_settled(history, tol):
            raise StopIteration

    options = {
        "maxiter": max_iter,
        "maxfun": 20 * max_iter + 20,
        "ftol": 0.0,
        "gtol": _GRADIENT,
        "maxcor": _MEMORY,
    }
    return minimize(loss, start, jac=True, method="L-BFGS-B", callback=record, options=options)


def _has_settled(history: list[float], tol: float) -> bool:
    """Return whether the last iterations raised the bound by less than `tol`."""
    return len(history) > WINDOW and history[-1] - history[-1 - WINDOW] < tol
