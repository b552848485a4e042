"""Gaussian posteriors of the latents of mixed columns, one per sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.mixed_terms import TermData, TermParameters, expected_terms

# The search for the posterior of a sample stops when the derivative of the bound along its step is
# below this value. The looser value applies while the parameters are fitted.
DECREMENT = 1e-20
LOOSE_DECREMENT = 1e-12
_MAX_STEPS = 500
# Floats that the arrays of a term and sample need, relative to one float.
_ARRAYS = 8


class Posteriors(NamedTuple):
    """Posteriors q(z|x) = N(m, S), one per sample."""

    mean: np.ndarray  # (n, k)
    precision: np.ndarray  # (n, k, k), the inverse of S

    @property
    def covariance(self) -> np.ndarray:
        """Covariances S, (n, k, k)."""
        return np.linalg.inv(self.precision)

    def of(self, samples: slice | np.ndarray) -> Posteriors:
        """Return the posteriors of some samples, as views if they are a slice."""
        return Posteriors(self.mean[samples], self.precision[samples])


class MixedPosteriors:
    """Search for the posteriors that maximize the bound.

    For given means A and variances V of the linear predictors, let c_j = -E (log p)''. At the
    maximum the precision is I + sum_j c_j w_j w_j', over the observed terms. A step goes to the
    precision that this formula gives, and Newton's step leads to the next mean (Khan and Lin,
    "Conjugate-Computation Variational Inference", 2017). It is exact in one step for Gaussian terms.
    Where the bound would fall, the step is shortened. The bound is concave in m and the Cholesky
    factor of S (Challis and Barber, "Gaussian Kullback-Leibler Approximate Inference", 2013), so
    there is only one maximum.

    Parameters
    ----------
    parameters : TermParameters
        Parameters of the model.
    diagonal : bool
        Whether covariances are diagonal.
    """

    def __init__(self, parameters: TermParameters, diagonal: bool) -> None:
        self.parameters, self.diagonal = parameters, diagonal
        self.products = parameters.products

    def start(self, data: TermData) -> Posteriors:
        """Return means 0, and precisions from the curvature of the bound at the prior."""
        W, b, noise = self.parameters
        n, k = len(data.values), W.shape[1]
        lengths = np.square(W).sum(axis=1)
        precision = np.empty((n, k, k))
        for samples in row_blocks(n, _ARRAYS * len(W)):
            block = data.of(samples)
            A, V = (np.broadcast_to(a, block.values.shape) for a in (b, lengths))
            curvature = -expected_terms(block, A, V, noise)[2]
            precision[samples] = self._restricted(self._full_precision(curvature))
        return Posteriors(np.zeros((n, k)), precision)

    def solve(
        self, data: TermData, q: Posteriors, decrement: float = DECREMENT
    ) -> tuple[np.ndarray, np.ndarray]:
        """Optimize posteriors in place; return the bounds, and whether a search converged."""
        n = len(data.values)
        bound, converged = np.empty(n), np.empty(n, dtype=bool)
        for samples in row_blocks(n, _ARRAYS * len(self.products)):
            solved = self._solve(data.of(samples), q.of(samples), decrement)
            bound[samples], converged[samples] = solved
        return bound, converged

    def expectations(
        self, data: TermData, mean: np.ndarray, covariance: np.ndarray, order: int = 2
    ) -> np.ndarray:
        """Compute :func:`expected_terms` under posteriors."""
        W, b, noise = self.parameters
        V = covariance.reshape(len(mean), -1) @ self.products.T
        return expected_terms(data, mean @ W.T + b, V, noise, order)

    def mean_covariance(self, E: np.ndarray) -> np.ndarray:
        """Return the negative inverse Hessian of the bound in the mean, for expectations E."""
        return np.linalg.inv(self._full_precision(-E[2]))

    def _full_precision(self, curvature: np.ndarray) -> np.ndarray:
        k = self.parameters.W.shape[1]
        return (curvature @ self.products).reshape(-1, k, k) + np.eye(k)

    def _restricted(self, matrices: np.ndarray) -> np.ndarray:
        return matrices * np.eye(matrices.shape[1]) if self.diagonal else matrices

    def _solve(
        self, data: TermData, q: Posteriors, decrement: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run :meth:`solve` on one block."""
        n = len(data.values)
        bound, slope, length = np.full(n, -np.inf), np.zeros(n), np.ones(n)
        mean_step, precision_step = np.zeros_like(q.mean), np.zeros_like(q.precision)
        trial = Posteriors(q.mean.copy(), q.precision.copy())
        active = np.arange(n)
        for _ in range(_MAX_STEPS):
            block, at = data.of(active), trial.of(active)
            S = at.covariance
            E = self.expectations(block, at.mean, S)
            value = E[0].sum(axis=1) - kl_divergence(at, S)
            slack = 1e-12 * (1.0 + np.abs(value))
            rose = value >= bound[active] + 1e-4 * length[active] * slope[active] - slack
            # Backtrack where the bound fell.
            length[active[~rose]] *= 0.25
            taken = active[rose]
            q.mean[taken], q.precision[taken] = at.mean[rose], at.precision[rose]
            bound[taken] = value[rose]
            gradient = E[1][rose] @ self.parameters.W - at.mean[rose]
            best = self._full_precision(-E[2][rose])
            mean_step[taken] = np.linalg.solve(best, gradient[:, :, None])[:, :, 0]
            precision_step[taken] = self._restricted(best) - at.precision[rose]
            relative = S[rose] @ precision_step[taken]
            slope[taken] = (mean_step[taken] * gradient).sum(axis=1)
            slope[taken] += 0.5 * np.einsum("nab,nba->n", relative, relative)
            length[taken] = np.minimum(2.0 * length[taken], 1.0)
            active = active[(slope[active] > decrement) & (length[active] > 1e-10)]
            if not len(active):
                break
            step = length[active, None]
            trial.mean[active] = q.mean[active] + step * mean_step[active]
            trial.precision[active] = q.precision[active] + step[:, None] * precision_step[active]
        # Rounding errors of the bound may stop a search a little earlier.
        return bound, slope <= max(decrement, 1e-9)


def kl_divergence(q: Posteriors, covariance: np.ndarray) -> np.ndarray:
    """Compute the KL divergence of each posterior from N(0, I), in nats."""
    roots = np.linalg.cholesky(q.precision)
    log_det = 2.0 * np.log(np.einsum("nhh->nh", roots)).sum(axis=1)
    trace = np.einsum("nhh->n", covariance)
    return 0.5 * (np.square(q.mean).sum(axis=1) + trace - q.mean.shape[1] + log_det)
