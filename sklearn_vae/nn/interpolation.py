"""Chebyshev interpolation of functions of one variable that are expensive to evaluate."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Logarithm of the factor by which the error of interpolation is smaller than the function.
DIGITS = 28.0


def interpolate_columns(function: Callable[[Tensor], Tensor], x: Tensor, strip: float) -> Tensor:
    """Evaluate a function of each column of x, or interpolate it if this needs fewer evaluations.

    With m nodes between the extremes c - L and c + L of a column the error falls as rho^-m, where
    log rho = asinh(strip / L) (Trefethen, "Approximation Theory and Approximation Practice", 2013,
    theorem 8.2).

    Parameters
    ----------
    function : callable
        Maps x, of shape (..., n_columns), elementwise, with parameters that may differ between columns.
        It is analytic where the absolute imaginary part of x is less than `strip`.
    x : Tensor of shape (..., n_columns)
        Arguments.
    strip : float
        Half of the width of the strip.

    Returns
    -------
    values : Tensor of shape (..., n_columns)
        Values of the function.
    """
    rows = x.detach().flatten(0, -2) if x.ndim > 1 else x.detach()[None]
    low, high = torch.aminmax(rows, dim=0) if rows.numel() else (rows, rows)
    half = 0.5 * float((high - low).max()) if rows.numel() else 0.0
    n_nodes = 1 + math.ceil(DIGITS / math.asinh(strip / half)) if half > 0 else len(rows)
    if not n_nodes < len(rows):
        return function(x)
    center, half_width = 0.5 * (high + low), (0.5 * (high - low)).clamp(min=1e-12 * half)
    angles = (torch.arange(n_nodes, dtype=x.dtype, device=x.device) + 0.5) * (math.pi / n_nodes)
    values = function(center + half_width * angles.cos()[:, None])
    waves = torch.cos(torch.arange(n_nodes, device=x.device)[:, None] * angles)
    coefficients = (2.0 / n_nodes) * (waves @ values)
    doubled = (x - center) * (2.0 / half_width)
    total = later = torch.zeros_like(x)  # Clenshaw's recurrence
    for k in range(n_nodes - 1, 0, -1):
        total, later = torch.addcmul(coefficients[k] - later, doubled, total), total
    return 0.5 * (coefficients[0] + doubled * total) - later
