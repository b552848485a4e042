"""Products with the inverse Hessian that L-BFGS estimates from changes of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


def inverse_product(
    changes: Iterable[tuple[np.ndarray, np.ndarray]],
    gradient: np.ndarray,
    multiply: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Multiply the gradient by the inverse Hessian of L-BFGS.

    Parameters
    ----------
    changes : iterable of pairs of arrays of shape (n_parameters,)
        Changes of the parameters and of the gradient, oldest first. Pairs along which the function
        is not convex are ignored.
    gradient : array of shape (n_parameters,)
        Vector to multiply.
    multiply : callable
        Product of a vector and the matrix that the changes update.

    Returns
    -------
    array of shape (n_parameters,)
        Product.

    References
    ----------
    Nocedal, "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 1980.
    """
    curved = [(s, y, s @ y) for s, y in changes]
    curved = [change for change in curved if change[2] > 0.0]
    product, weights = gradient.copy(), []
    for s, y, along in reversed(curved):
        weights.append((s @ product) / along)
        product -= weights[-1] * y
    product = multiply(product)
    for (s, y, along), weight in zip(curved, reversed(weights), strict=True):
        product += (weight - (y @ product) / along) * s
    return product
