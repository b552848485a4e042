"""Maximization by Newton's method in a trust region, with products of the Hessian only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from sklearn_vae.gaussian.arrays import Array

Product = Callable[[Array], Array]

# The relative accuracy of Newton steps: the square root of the norm of the gradient, at most this.
_ACCURACY = 0.1
_MAX_PRODUCTS = 250
# A rise below this share of the value is a rounding error.
_ROUNDING = 1e-13
# Factor by which a predicted rise may exceed rounding errors of the value, yet be hidden by them.
_HIDDEN = 1e4
# A step that fails even at this share of its length fails because of rounding errors.
_SHORTEST = 1e-6


class Point(NamedTuple):
    """Value of a function at a point, with its gradient g and Hessian H."""

    value: float
    gradient: Array
    curvature: Product  # multiplies by -H
    precondition: Product  # multiplies by an approximate inverse of -H, positive definite


class Function(Protocol):
    """Function to maximize."""

    def __call__(self, x: Array) -> Point:
        """Evaluate the function; the products of a point are valid until the next call."""

    def move(self, x: Array, step: Array) -> Array:
        """Follow a curve whose derivative at the start is the step."""


class Step(NamedTuple):
    """Step s from a point, with the rise g's + s'Hs / 2 that the Taylor polynomial predicts."""

    step: Array
    rise: float
    length: float  # in the metric of the preconditioner
    is_inside: bool  # whether it solves Newton's equation, within the radius


class State(NamedTuple):
    """Point of an ascent."""

    x: Array
    value: float
    radius: float
    n_steps: int
    gain: float  # rise that the next step promises
    gradient_norm: float
    done: bool = False
    converged: bool = False


def newton_step(point: Point, radius: float) -> Step:
    """Maximize the Taylor polynomial in a trust region by conjugate gradients.

    See Steihaug, "The Conjugate Gradient Method and Trust Regions in Large Scale Optimization",
    SIAM J. Numer. Anal. 1983.
    """
    r = point.gradient
    s, z = np.zeros_like(r), point.precondition(r)
    p, rz = z, float(r @ z)
    target = min(_ACCURACY, rz**0.25) ** 2 * rz
    ss, sp, pp = 0.0, 0.0, rz  # products in the metric of the preconditioner
    inside = True
    for _ in range(_MAX_PRODUCTS):
        if rz <= target or rz == 0.0:
            break
        Bp = point.curvature(p)
        curvature = float(p @ Bp)
        length = rz / curvature if curvature > 0.0 else np.inf
        inside = ss + 2.0 * length * sp + length**2 * pp < radius**2
        if not inside:
            length = (-sp + np.sqrt(sp**2 + pp * (radius**2 - ss))) / pp
        s, r = s + length * p, r - length * Bp
        ss += 2.0 * length * sp + length**2 * pp
        if not inside:
            break
        z, before = point.precondition(r), rz
        rz = float(r @ z)
        sp = rz / before * (sp + length * pp)
        p, pp = z + rz / before * p, rz + (rz / before) ** 2 * pp
    return Step(s, 0.5 * float((point.gradient + r) @ s), ss**0.5, inside)


def ascend(
    function: Function, x: Array, tol: float, radius: float | None = None
) -> Iterator[State]:
    """Climb until Newton's method predicts a rise of at most `tol`; the value never falls.

    The first state is the start. `radius` continues an earlier ascent. A step that fails is
    shortened, so that the derivatives of one point at a time are needed.
    """
    point, n_steps = function(x), 0
    if radius is None:
        radius = float(point.gradient @ point.precondition(point.gradient)) ** 0.5
    while True:
        step = newton_step(point, radius)
        state = State(
            x, point.value, radius, n_steps, step.rise, float(np.linalg.norm(point.gradient))
        )
        rounding = _ROUNDING * (1.0 + abs(point.value))
        if step.is_inside and step.rise <= max(tol, rounding):
            yield state._replace(done=True, converged=True)
            return
        yield state
        length, trial_x, trial = _search(function, x, point, step)
        if length == 0.0:
            # Rounding errors hide the rise.
            small = step.is_inside and step.rise <= _HIDDEN * rounding
            yield state._replace(done=True, converged=small)
            return
        ratio = (trial.value - point.value) / step.rise
        if length < 1.0 or ratio < 0.25:
            radius = 0.5 * length * step.length
        elif ratio > 0.75 and not step.is_inside:
            radius *= 3.0
        x, point, n_steps = trial_x, trial, n_steps + 1


def _search(function: Function, x: Array, point: Point, step: Step) -> tuple[float, Array, Point]:
    """Shorten a step until the value rises; return the share that is left, or 0 if none."""
    share, slope = 1.0, float(point.gradient @ step.step)
    while share > _SHORTEST:
        trial_x = function.move(x, share * step.step)
        trial = function(trial_x)
        if trial.value > point.value:
            return share, trial_x, trial
        # The maximum of the parabola through both values with the slope at the first one.
        fall = share * slope - (trial.value - point.value)
        share *= min(max(0.5 * share * slope / fall, 0.1), 0.5) if fall > 0.0 else 0.1
    return 0.0, x, point
