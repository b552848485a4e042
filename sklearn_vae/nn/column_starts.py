"""Marginal distributions of columns of tables, from weighted values.

Values and weights have the shape (n_samples, n_features). Values are 0 where they are missing, and so
are their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The search ends if Newton's method predicts that no column gains more than this, in nats per value.
TOLERANCE = 1e-9
MAX_STEPS = 50
MAX_HALVINGS = 20
# Maximum change of a parameter in a step.
LONGEST_STEP = 2.0
# Maximum number of samples from which parameters are found that have no closed form.
MAX_SAMPLES = 2**16


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each column, 1 where it does not vary."""
    n = total_of(weights)
    mean = (weights * x).sum(0) / n
    std = torch.sqrt((weights * (x - mean).square()).sum(0) / n)
    least = 4.0 * torch.finfo(x.dtype).eps * mean.abs()
    return mean, torch.where(std > least, std, 1.0)


def is_constant(x: Tensor, weights: Tensor) -> Tensor:
    """Return whether all observed values of a column are equal, False if none is observed."""
    low = torch.where(weights > 0, x, torch.inf).amin(0)
    return low == torch.where(weights > 0, x, -torch.inf).amax(0)


def total_of(weights: Tensor) -> Tensor:
    """Return the total weight of each column, 1 if it is 0."""
    total = weights.sum(0)
    return torch.where(total > 0, total, 1.0)


def quartiles(x: Tensor, weights: Tensor) -> Tensor:
    """Return the quartiles of each column, (3, n_features): values that have been observed."""
    values, order = torch.where(weights > 0, x, torch.inf).sort(dim=0)
    steps = weights.double().gather(0, order).cumsum(0)
    wanted = steps[-1] * steps.new_tensor([0.25, 0.5, 0.75])[:, None]
    index = torch.searchsorted(steps.mT.contiguous(), wanted.mT.contiguous()).mT
    last = (weights > 0).sum(0) - 1
    return values.gather(0, index.minimum(last.clamp(min=0)))


def category_weights(x: Tensor, weights: Tensor, n_categories: Sequence[int]) -> list[Tensor]:
    """Return the total weight of each category of each column of codes."""
    codes, w, sizes = x.long().cpu(), weights.double().cpu(), enumerate(n_categories)
    return [torch.bincount(codes[:, j], w[:, j], minlength=size).to(x) for j, size in sizes]


def maximize_columns(
    log_prob: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    weights: Tensor,
    start: Tensor,
    limits: Sequence[tuple[float, float]],
) -> Tensor:
    """Maximize the log-likelihood of each column by Newton's method.

    Parameters
    ----------
    log_prob : callable
        Maps x and parameters of shape (n_parameters, n_features) to log p(x_j) of each value.
    x, weights : Tensor of shape (n_samples, n_features)
        Values and weights.
    start : Tensor of shape (n_parameters, n_features)
        Parameters at the start.
    limits : sequence of (float, float)
        Limits of each parameter.

    Returns
    -------
    parameters : Tensor of shape (n_parameters, n_features)
        Parameters whose log-likelihood is at least that of the start.
    """
    every = -(-len(x) // MAX_SAMPLES)
    x, weights = x[::every].double(), weights[::every].double()
    share = weights / total_of(weights)
    low, high = start.new_tensor(limits).double().mT[..., None]

    def average(parameters: Tensor) -> Tensor:
        return (share * log_prob(x, parameters)).sum(0)

    best = start.double().clamp(low, high)
    for _ in range(MAX_STEPS):
        value, gradient, curvature = _derivatives(average, best)
        stuck = ((best <= low) & (gradient < 0)) | ((best >= high) & (gradient > 0))
        gradient = torch.where(stuck, 0.0, gradient)
        either = stuck[:, None] | stuck[None]
        curvature = torch.where(either, 0.0, curvature) - torch.diag_embed(
            stuck.mT.double()
        ).permute(1, 2, 0)
        # Absolute eigenvalues, because the log-likelihood need not be concave.
        size, axes = torch.linalg.eigh(curvature.permute(2, 0, 1))
        size = size.abs().clamp(min=1e-10)
        step = torch.einsum("jph,jh,jqh,qj->pj", axes, 1.0 / size, axes, gradient)
        if not (gradient * step).sum(0).max() > TOLERANCE:
            break
        step = step * (LONGEST_STEP / step.abs().amax(0).clamp(min=LONGEST_STEP))
        rises = torch.zeros_like(value, dtype=torch.bool)
        for _ in range(MAX_HALVINGS):
            rises = average((best + step).clamp(low, high)) > value
            if rises.all():
                break
            step = torch.where(rises, step, 0.5 * step)
        if not rises.any():
            break
        best = torch.where(rises, (best + step).clamp(low, high), best)
    return best.to(start.dtype)


@torch.enable_grad()
def _derivatives(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (d,), gradients (p, d) and second derivatives (p, p, d)."""
    at = at.detach().requires_grad_()
    value = function(at)
    gradient = torch.autograd.grad(value.sum(), at, create_graph=True)[0]
    rows = [torch.autograd.grad(g.sum(), at, retain_graph=True)[0] for g in gradient]
    return value.detach(), gradient.detach(), torch.stack(rows)
