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
    changes = list(changes)
    product, weights = gradient.copy(), []
    curvatures = np.array([np.vecdot(s, y) for s, y in changes])
    is_convex = curvatures > 0.0
    inverses = np.divide(1.0, curvatures, out=np.zeros_like(curvatures), where=is_convex)
    for (s, y), inverse in zip(reversed(changes), reversed(inverses), strict=True):
        weights.append(np.vecdot(s, product) * inverse)
        product -= weights[-1][..., None] * y
    product = multiply(product)
    for (s, y), inverse, weight in zip(changes, inverses, reversed(weights), strict=True):
        product += (weight - np.vecdot(y, product) * inverse)[..., None] * s
    return product
