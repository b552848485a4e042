"""Products with the inverse Hessian that L-BFGS estimates from changes of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


def inverse_product(
    changes: Iterable[tuple[np.ndarray, np.ndarray]],
    gradient: np.ndarray,
    multiply: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Multiply gradients of one or several functions by the inverse Hessians of L-BFGS.

    Parameters
    ----------
    changes : iterable of pairs of arrays of shape (..., n_parameters)
        Changes of the parameters and of the gradient, oldest first. Pairs along which a function
        is not convex are ignored.
    gradient : array of shape (..., n_parameters)
        Vectors to multiply.
    multiply : callable
        Product of vectors and the matrices that the changes update.

    Returns
    -------
    array of shape (..., n_parameters)
        Products.

    References
    ----------
    Nocedal, "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 1980.
    """
    curved = [(s, y, _inverse(_dot(s, y))) for s, y in changes]
    product, weights = gradient.copy(), []
    for s, y, inverse in reversed(curved):
        weights.append(_dot(s, product) * inverse)
        product -= weights[-1][..., None] * y
    product = multiply(product)
    for (s, y, inverse), weight in zip(curved, reversed(weights), strict=True):
        product += (weight - _dot(y, product) * inverse)[..., None] * s
    return product


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.vecdot(a, b))


def _inverse(curvature: np.ndarray) -> np.ndarray:
    """Return 1 / curvature, or 0 where the function is not convex."""
    return np.divide(1.0, curvature, out=np.zeros_like(curvature), where=curvature > 0.0)
