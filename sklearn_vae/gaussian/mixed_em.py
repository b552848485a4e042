"""Start of Newton's method for the bound of mixed columns: steps of EM, which cost little."""

from __future__ import annotations

import numpy as np

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.mixed_bound import MixedBound


def climb_by_em(
    bound: MixedBound, x: Array, max_iter: int, gain: float
) -> tuple[Array, list[float]]:
    """Climb until the bound falls, or the next step promises a rise of at most `gain`.

    Each iteration takes one step of the posteriors and one of the parameters.

    Returns the best point, and the rising values of the bound, in nats per sample.
    """
    best, history = x, [-np.inf]
    mean, precision = bound.q.mean.copy(), bound.q.precision.copy()
    for _ in range(max_iter):
        step, value, promised = bound.em_step(x)
        if not value > history[-1]:
            bound.q.mean[...], bound.q.precision[...] = mean, precision
            break
        history.append(value)
        best, x = x, x + step
        mean, precision = bound.q.mean.copy(), bound.q.precision.copy()
        if promised <= gain:
            break
    return best, history[1:]
