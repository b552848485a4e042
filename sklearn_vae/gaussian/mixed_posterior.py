"""Gaussian posteriors of the latents of mixed columns, one per sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.mixed_terms import TermData, TermParameters, expected_terms

# The search for the posterior of a sample stops when the derivative of the bound along its step is
# below this value. The looser value applies while the parameters are fitted.
DECREMENT = 1e-20
LOOSE_DECREMENT = 1e-15
_MAX_STEPS = 200
# A rise below this share of the value is a rounding error.
_ROUNDING = 1e-13
# Number of steps before Newton's steps begin, and of conjugate gradients that find one of these.
_NATURAL_STEPS = 3
_INNER_STEPS = 6
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
    precision that this formula gives, and Newton's step for given curvatures c leads to the next mean
    (Khan and Lin, "Conjugate-Computation Variational Inference", 2017). It is exact in one step for
    Gaussian terms. Searches that have not converged after a few steps take Newton's steps in m and S.
    Where the bound would fall, a step is shortened. The bound is concave in m and the Cholesky factor of S
    (Challis and Barber, "Gaussian Kullback-Leibler Approximate Inference", 2013), so there is only
    one maximum.

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

    def take_step(self, data: TermData, q: Posteriors) -> np.ndarray:
        """Take one step of the search in place; return the bounds before it."""
        bound = np.empty(len(data.values))
        for samples in row_blocks(len(bound), _ARRAYS * len(self.products)):
            at = q.of(samples)
            S = at.covariance
            E = self.expectations(data.of(samples), at.mean, S)
            bound[samples] = E[0].sum(axis=1) - kl_divergence(at, S)
            step = self._step(at, S, E, newton=False)
            at.mean[...] += step[0]
            at.precision[...] += step[1]
        return bound

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
        bend, before, rounding = np.zeros_like(q.precision), np.full(n, np.inf), np.zeros(n)
        trial = Posteriors(q.mean.copy(), q.precision.copy())
        active = np.arange(n)
        for i in range(_MAX_STEPS):
            at = trial.of(active)
            S = at.covariance
            newton = i >= _NATURAL_STEPS
            E = self.expectations(data.of(active), at.mean, S, order=4 if newton else 2)
            value = E[0].sum(axis=1) - kl_divergence(at, S)
            rounding[active] = _ROUNDING * (1.0 + np.abs(E[0]).sum(axis=1))
            least = bound[active] + 1e-4 * length[active] * slope[active] - 10.0 * rounding[active]
            rose = value >= least
            # Backtrack where the bound fell.
            length[active[~rose]] *= 0.25
            taken = active[rose]
            q.mean[taken], q.precision[taken] = at.mean[rose], at.precision[rose]
            bound[taken], before[taken] = value[rose], slope[taken]
            step = self._step(at.of(rose), S[rose], E[:, rose], newton)
            mean_step[taken], precision_step[taken], bend[taken], slope[taken] = step[:4]
            length[taken] = step[4]
            # Below rounding errors of the bound, only steps that shrink the slopes continue.
            visible = length[active] * slope[active] > rounding[active]
            progress = rose & (slope[active] < 0.5 * before[active])
            active = active[(slope[active] > decrement) & (visible | progress)]
            if not len(active):
                break
            share = length[active, None, None]
            trial.mean[active] = q.mean[active] + share[:, 0] * mean_step[active]
            change = share * precision_step[active] + share**2 * bend[active]
            trial.precision[active] = q.precision[active] + change
        # Rounding errors of the bound may stop a search a little earlier.
        return bound, slope <= np.maximum(decrement, 1e4 * rounding)

    def _step(
        self, q: Posteriors, S: np.ndarray, E: np.ndarray, newton: bool
    ) -> tuple[np.ndarray, ...]:
        """Return steps in mean and precision, second-order changes, slopes, and shares to take."""
        gradient = E[1] @ self.parameters.W - q.mean
        best = self._full_precision(-E[2])
        mean_covariance = np.linalg.inv(best)
        mean = (mean_covariance @ gradient[:, :, None])[:, :, 0]
        precision = self._restricted(best) - q.precision
        relative = S @ precision
        slope = (mean * gradient).sum(axis=1) + 0.5 * np.einsum("nab,nba->n", relative, relative)
        bend, length = np.zeros_like(precision), np.ones(len(S))
        if not newton or not len(S):
            return mean, precision, bend, slope, length
        response = Response(E[2:], self.parameters.W, self.products, self.diagonal)
        m, C = response.solve(
            gradient, -0.5 * precision, mean_covariance, S, q.precision, _INNER_STEPS
        )
        newton_slope = (m * gradient).sum(axis=1) - 0.5 * np.einsum("nab,nab->n", precision, C)
        good = newton_slope > 0.0
        mean[good], slope[good] = m[good], newton_slope[good]
        precision[good] = -(q.precision @ C @ q.precision)[good]
        # With the second-order change, the precision stays positive definite. The limit of the length
        # keeps its smallest eigenvalue from falling below a quarter.
        relative = S[good] @ precision[good]
        bend[good] = 0.25 * precision[good] @ relative
        size = np.sqrt(np.einsum("nab,nba->n", relative, relative))
        length[good] = 1.0 / np.maximum(size, 1.0)
        return mean, precision, bend, slope, length


class Response:
    """Negative Hessian of the bound in the means and covariances of posteriors.

    Parameters
    ----------
    derivatives : array of shape (3, n_samples, n_terms)
        Second to fourth derivatives of the expected terms.
    W : array of shape (n_terms, k)
        Loadings.
    products : array of shape (n_terms, k^2)
        Matrices w_j w_j', flattened.
    diagonal : bool
        Whether covariances are diagonal.
    """

    def __init__(
        self, derivatives: np.ndarray, W: np.ndarray, products: np.ndarray, diagonal: bool
    ) -> None:
        self.derivatives, self.W, self.products = derivatives, W, products
        self.diagonal = diagonal

    def restricted(self, matrices: np.ndarray) -> np.ndarray:
        """Return the diagonal matrices if covariances are diagonal, else the matrices."""
        return (
            matrices * np.eye(matrices.shape[1], dtype=matrices.dtype)
            if self.diagonal
            else matrices
        )

    def times(
        self, m: np.ndarray, C: np.ndarray, precision: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Multiply by changes of means and covariances."""
        second, third, fourth = self.derivatives
        da, dv = m @ self.W.T, 0.5 * (C.reshape(len(C), self.products.shape[1]) @ self.products.T)
        by_covariance = ((third * da + fourth * dv) @ self.products).reshape(C.shape)
        return m - (second * da + third * dv) @ self.W, self.restricted(
            0.5 * (precision @ C @ precision - by_covariance)
        )

    def solve(
        self,
        m: np.ndarray,
        C: np.ndarray,
        mean_covariance: np.ndarray,
        covariance: np.ndarray,
        precision: np.ndarray,
        n_steps: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Divide by the Hessian with conjugate gradients, in a fixed number of steps per sample.

        The preconditioner leaves out third and fourth derivatives. Where the curvature is not
        positive, the result is that of the steps before.
        """

        def precondition(m: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return (mean_covariance @ m[:, :, None])[:, :, 0], 2.0 * (covariance @ C @ covariance)

        r_m, r_C = m, self.restricted(C)
        m, C = np.zeros_like(r_m), np.zeros_like(r_C)
        z_m, z_C = precondition(r_m, r_C)
        p_m, p_C, rz = z_m, z_C, _dot(r_m, r_C, z_m, z_C)
        for step in range(n_steps):
            A_m, A_C = self.times(p_m, p_C, precision)
            curvature = _dot(p_m, p_C, A_m, A_C)
            length = np.divide(rz, curvature, out=np.zeros_like(rz), where=curvature > 0.0)
            m, C = m + length[:, None] * p_m, C + length[:, None, None] * p_C
            if step == n_steps - 1:
                break
            r_m, r_C = r_m - length[:, None] * A_m, r_C - length[:, None, None] * A_C
            z_m, z_C = precondition(r_m, r_C)
            before, rz = rz, _dot(r_m, r_C, z_m, z_C)
            ratio = np.divide(rz, before, out=np.zeros_like(rz), where=length > 0.0)
            p_m, p_C = z_m + ratio[:, None] * p_m, z_C + ratio[:, None, None] * p_C
        return m, C


def _dot(m: np.ndarray, C: np.ndarray, other_m: np.ndarray, other_C: np.ndarray) -> np.ndarray:
    """Return the inner product for each sample."""
    return np.einsum("nh,nh->n", m, other_m) + np.einsum("nhl,nhl->n", C, other_C)


def kl_divergence(q: Posteriors, covariance: np.ndarray) -> np.ndarray:
    """Compute the KL divergence of each posterior from N(0, I), in nats."""
    roots = np.linalg.cholesky(q.precision)
    log_det = 2.0 * np.log(np.einsum("nhh->nh", roots)).sum(axis=1)
    trace = np.einsum("nhh->n", covariance)
    return 0.5 * (np.square(q.mean).sum(axis=1) + trace - q.mean.shape[1] + log_det)
