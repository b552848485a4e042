"""Start of Newton's method for the bound of mixed columns: steps of EM, which cost little."""

from __future__ import annotations

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.mixed_bound import MixedBound

# Points from which Anderson acceleration extrapolates, and the share of the mean squared difference that
# is added to the diagonal of its equations.
_MEMORY = 5
_DAMPING = 1e-8
# Plain steps at the start, in which the posteriors move most.
_PLAIN = 3


def climb_by_em(
    bound: MixedBound, x: Array, max_iter: int, gain: float
) -> tuple[Array, list[float]]:
    """Climb until the next step promises a rise of at most `gain`.

    Each iteration takes one step of the posteriors and one of the parameters. Anderson acceleration
    (Walker and Ni, "Anderson Acceleration for Fixed-Point Iterations", SIAM J. Numer. Anal. 2011)
    extrapolates. Where the bound falls, the search takes the plain step from the best point.

    Returns the best point, and the rising values of the bound, in nats per sample.
    """
    points: list[Array] = []
    steps: list[Array] = []
    best, plain, history = x, x, [-np.inf]
    mean, precision = bound.q.mean.copy(), bound.q.precision.copy()
    for i in range(max_iter):
        step, value, promised = bound.em_step(x)
        if not value > history[-1]:
            bound.q.mean[...], bound.q.precision[...] = mean, precision
            if x is plain:
                break
            x, points, steps = plain, [], []
            continue
        history.append(value)
        best, plain = x, x + step
        mean, precision = bound.q.mean.copy(), bound.q.precision.copy()
        if promised <= gain:
            break
        points, steps = [*points, x][-_MEMORY:], [*steps, step][-_MEMORY:]
        x = plain
        if i >= _PLAIN and len(points) > 1:
            changes, moves = np.diff(steps, axis=0), np.diff(points, axis=0)
            products = changes @ changes.T
            products[np.diag_indices_from(products)] += _DAMPING * np.trace(products)
            x = x - (moves + changes).T @ np.linalg.solve(products, changes @ step)
    return best, history[1:]
