"""Distributions of the numbers of training samples, for synthetic tables with the same marginals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Maximum number of points of a quantile function.
MOST_POINTS = 4096

# Number of samples from which the distribution function of a column under the model is estimated.
N_REFERENCE = 8192


def quantile_function(values: Array, weights: Array | None = None) -> Array:
    """Return the quantile function of a column, which is linear between points.

    Values of one sample spread their probability, so that quantiles between them are between
    their values: without equal values and weights the points are at the probabilities (i + 1/2) / n.
    Values of several samples keep their probability, so that a column of few values has no others.
    Hence an integer weight is no repetition: it does not make a value one of several samples.
    A function with more than `MOST_POINTS` points is interpolated at this number of them.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Training samples, NaN where values are missing.
    weights : ndarray of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    points : ndarray of shape (2, n_points)
        Probabilities and values in ascending order, without points if no value is observed.
    """
    w = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    seen = ~np.isnan(values) & (w > 0)
    different, inverse, rows = np.unique(values[seen], return_inverse=True, return_counts=True)
    if not len(different):
        return np.zeros((2, 0))
    counts = np.bincount(inverse, w[seen])
    mass = counts / counts.sum()
    above, half = mass.cumsum(), np.where(rows > 1, 0.0, 0.5 * mass)
    probabilities = np.stack([above - mass + half, above - half], axis=1).ravel()
    points = np.stack([probabilities, np.repeat(different, 2)])
    if points.shape[1] > MOST_POINTS:
        kept = (np.arange(MOST_POINTS) + 0.5) / MOST_POINTS
        points = np.stack([kept, np.interp(kept, *points)])
    return points


def with_marginals(
    codes: Array,
    draw: Callable[[Array, np.random.RandomState], Array],
    functions: dict[int, Array],
    n_components: int,
    random_state: np.random.RandomState,
) -> Array:
    """Replace each generated number by the training quantile of its probability under the model.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_features)
        Samples of the model.
    draw : callable
        Draws codes given latent vectors and a generator.
    functions : dict of ndarray of shape (2, n_points)
        Quantile functions by the index of the column.
    n_components : int
        Number of latent dimensions.
    random_state : RandomState
        Generator that breaks ties.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_features)
        Samples whose numbers have the distributions of the training samples.
    """
    codes, fixed = codes.copy(), np.random.RandomState(0)
    # The same draws in every call, so that a sample does not depend on how many are drawn.
    reference = draw(fixed.standard_normal((N_REFERENCE, n_components)), fixed)
    for j, points in functions.items():
        if points.size:
            known, x = np.sort(reference[:, j]), codes[:, j]
            low, high = (np.searchsorted(known, x, side) for side in ("left", "right"))
            u = low + random_state.uniform(size=len(x)) * (high - low + 1.0)
            codes[:, j] = np.interp(u / (len(known) + 1.0), *points)
    return codes
