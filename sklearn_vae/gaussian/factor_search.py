"""Search for the noise variances that maximize the likelihood of factor analysis."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from sklearn_vae.gaussian.profile_likelihood import LOG_FLOOR, ProfileLikelihood
from sklearn_vae.gaussian.quasi_newton import inverse_product

# First, largest and smallest length of a step, in relative changes of the noise standard deviations.
RADIUS, LONGEST, SHORTEST = 1.0, 5.0, 1e-9
# Least factor by which a step shortens the noise standard deviations: longer steps often end at the
# floor of features that have to leave it again.
LEAST_FACTOR = 0.1
# Share of the predicted fall below which a step is too long, and above which it may be longer.
POOR, GOOD = 0.25, 0.7
# Predicted fall in nats at which noise variances have relative errors of about 1e-8.
PRECISE = 1e-16
# Number of changes of the gradient that L-BFGS remembers.
REMEMBERED = 20
# Largest ratio of the fall of the loss up to the minimum to the fall that L-BFGS predicts.
UNDERESTIMATED = 4.0
# Rounding error of the loss, in nats per sample, where no noise variance is tiny.
ROUNDING = 1e-11
# Predicted fall at which all searches but the first stop. They continue if they are at most CLOSE nats
# worse than the best one, and a log noise variance is farther than SAME from all known ends.
COARSE, CLOSE, SAME = 1e-4, 1e-3, 1e-2
# Ratio of noise standard deviations from which the small ones cost digits.
GRADED = 30.0


@dataclass
class Search:
    """End of a search."""

    log_psi: np.ndarray
    loss: float
    gradient: np.ndarray  # 0 where a bound holds log psi
    history: list[float]
    converged: bool
    remaining: float = 0.0  # predicted fall of the loss up to the minimum


def best_search(
    profile: ProfileLikelihood,
    starts: Sequence[np.ndarray],
    tol: float,
    max_iter: int,
    spare: Sequence[np.ndarray] = (),
) -> Search:
    """Search from all starts; one that nears a known or a worse end stops early.

    The spare starts are used only if the first search ends with a noise variance at its floor (a
    Heywood case), where another maximum is often higher, and a second search is cheap.
    """
    best, ends = search_from(profile, starts[0], tol, max_iter), []
    ends.append(best.log_psi)
    is_suspicious = profile.correlation.has_all and (best.log_psi <= LOG_FLOOR).any()
    for start in [*starts[1:], *(spare if is_suspicious else ())]:
        search = search_from(profile, start, max(tol, COARSE), max_iter, best.loss + CLOSE)
        left = max_iter - len(search.history) + 1
        is_known = any(np.abs(end - search.log_psi).max(initial=0.0) < SAME for end in ends)
        if is_known or search.loss > best.loss + CLOSE:
            continue
        if tol < COARSE and left > 0:
            history = search.history
            search = search_from(profile, search.log_psi, tol, left)
            search.history = history + search.history[1:]
        ends.append(search.log_psi)
        if search.loss < best.loss:
            best = search
    return best


def search_from(
    profile: ProfileLikelihood,
    log_psi: np.ndarray,
    tol: float,
    max_iter: int,
    limit: float = math.inf,
) -> Search:
    """Minimize the loss from a start, until its predicted fall is at most `tol`.

    A search that is predicted to end above `limit` stops, too.
    """
    log_psi = log_psi.clip(LOG_FLOOR, 0.0)
    if len(log_psi) == 0:
        return Search(log_psi, 0.0, log_psi, [0.0], True)
    if not profile.correlation.has_all:
        return _quasi_newton(profile, log_psi, tol, max_iter)
    search = _newton(profile, log_psi, tol, max_iter, limit)
    left = max_iter - len(search.history) + 1
    is_graded = np.ptp(search.log_psi) > 2.0 * math.log(GRADED)
    if search.converged and is_graded and limit == math.inf and left > 0:
        profile.correlation.is_accurate = True
        history = search.history
        search = _newton(profile, search.log_psi, min(tol, 1e-4 * PRECISE), left)
        search.history = history + [min(loss, history[-1]) for loss in search.history[1:]]
        profile.correlation.is_accurate = False
    return search


class _Point(NamedTuple):
    """Point of a search."""

    log_psi: np.ndarray
    loss: float
    gradient: np.ndarray
    free: np.ndarray  # which noise variances can move downhill between the floor and the variance

    @classmethod
    def at(cls, log_psi: np.ndarray, loss: float, gradient: np.ndarray) -> _Point:
        """Find what is free at a point."""
        at_floor = (log_psi <= LOG_FLOOR) & (gradient > 0.0)
        free = ~at_floor & ~((log_psi >= 0.0) & (gradient < 0.0))
        return cls(log_psi, loss, gradient, free)

    @property
    def norm(self) -> float:
        """Length of the free part of the gradient."""
        return float(np.linalg.norm(self.gradient[self.free]))

    @property
    def rounding(self) -> float:
        """Rounding error of the loss, which grows with R in units of the noise."""
        return ROUNDING + len(self.log_psi) * 2.0**-52 * float(np.exp(-self.log_psi.min()))

    def end(self, history: list[float], converged: bool, remaining: float) -> Search:
        """Return the result of a search that ends here."""
        gradient = np.where(self.free, self.gradient, 0.0)
        return Search(self.log_psi, self.loss, gradient, history, converged, remaining)


class _Taylor:
    """Second-order approximation of the loss by relative changes of the noise standard deviations.

    In these, and not in their logs, a Newton step reaches the floor at once (Heywood cases).
    """

    def __init__(self, profile: ProfileLikelihood, point: _Point) -> None:
        self._point = point
        hessian = 4.0 * profile.hessian(point.log_psi)
        hessian.flat[:: len(hessian) + 1] -= 2.0 * point.gradient
        self._gradient = 2.0 * point.gradient[point.free]
        free = point.free
        self._hessian = hessian if free.all() else hessian[np.ix_(free, free)]
        # LAPACK itself, because the checks of scipy.linalg take longer than small matrices.
        root, info = lapack.dpotrf(self._hessian)
        self._root = root if info == 0 else None

    def step(self, radius: float) -> tuple[np.ndarray, bool]:
        """Minimize the approximation within a radius, and return whether it has a minimum there."""
        if self._root is not None:
            step = self.newton_step(self._point)
            if np.linalg.norm(step) <= radius:
                return step, True
        return _step_of_length(self._hessian, self._gradient, radius), False

    def moved(self, step: np.ndarray, point: _Point | None = None) -> np.ndarray:
        """Return log psi after a step from the point of the approximation, or from another one."""
        return self._unbounded(step, point or self._point).clip(LOG_FLOOR, 0.0)

    def is_within_bounds(self, step: np.ndarray) -> bool:
        """Return whether a step from the point of the approximation crosses no bound.

        One that is cut off at a bound does not end at the minimum: its predicted fall tells nothing
        about what remains, and can be negative.
        """
        log_psi = self._unbounded(step, self._point)
        return bool(((log_psi >= LOG_FLOOR) & (log_psi <= 0.0)).all())

    def _unbounded(self, step: np.ndarray, point: _Point) -> np.ndarray:
        """Return log psi after a step, which may be outside the bounds."""
        log_psi = point.log_psi.copy()
        log_psi[self._point.free] += 2.0 * np.log(np.maximum(1.0 + step, LEAST_FACTOR))
        return log_psi

    def newton_step(self, point: _Point) -> np.ndarray:
        """Return the step to the minimum by this Hessian and the gradient of a point nearby."""
        return -lapack.dpotrs(self._root, 2.0 * point.gradient[self._point.free])[0]

    def fall(self, log_psi: np.ndarray) -> float:
        """Predict the fall of the loss to another point."""
        change = (log_psi - self._point.log_psi)[self._point.free]
        step = np.expm1(0.5 * change)
        return -float(step @ (self._gradient + 0.5 * self._hessian @ step))

    def remaining(self, point: _Point) -> float:
        """Predict the fall from a point nearby to the minimum, by this Hessian."""
        if self._root is None or not np.array_equal(point.free, self._point.free):
            return math.inf
        return -float(point.gradient[point.free] @ self.newton_step(point))


def _step_of_length(hessian: np.ndarray, gradient: np.ndarray, radius: float) -> np.ndarray:
    """Return the step of a length that minimizes the approximation (More and Sorensen, 1983).

    It solves (H + shift I) s = -g with a positive definite matrix. The shift is found by Newton's
    method, each step of which takes a Cholesky decomposition.
    """
    least, most = 0.0, math.inf
    shift = 0.1 * max(float(np.abs(gradient).max()), 1e-300) / radius
    step = np.zeros_like(gradient)
    for _ in range(30):
        shifted = hessian.copy()
        shifted.flat[:: len(gradient) + 1] += shift
        root, info = lapack.dpotrf(shifted)
        if info:  # not positive definite
            least = shift
            shift = 4.0 * shift if most == math.inf else 0.5 * (least + most)
            continue
        step = -lapack.dpotrs(root, gradient)[0]
        length = float(np.linalg.norm(step))
        if abs(length - radius) < 0.05 * radius or (length < radius and most - least < 1e-3 * most):
            break
        if length > radius:
            least = shift
        else:
            most = shift
        slope = -float(step @ lapack.dpotrs(root, step)[0]) / length
        following = shift + (1.0 - length / radius) * length / slope
        middle = 4.0 * shift if most == math.inf else 0.5 * (least + most)
        shift = following if least < following < most else middle
    return step


def _newton(
    profile: ProfileLikelihood,
    log_psi: np.ndarray,
    tol: float,
    max_iter: int,
    limit: float = math.inf,
) -> Search:
    """Take Newton steps within a radius that depends on how well they were predicted."""
    point = _Point.at(log_psi, *profile.loss(log_psi))
    history, radius, remaining = [point.loss], RADIUS, math.inf
    while point.norm > 0.0 and remaining > tol and len(history) <= max_iter:
        taylor = _Taylor(profile, point)
        while True:
            step, is_newton = taylor.step(radius)
            is_newton = is_newton and taylor.is_within_bounds(step)
            new_psi = taylor.moved(step)
            fall = taylor.fall(new_psi)
            if is_newton:
                remaining = fall
                if fall <= tol or point.loss - 2.0 * fall > limit:
                    return point.end(history, fall <= tol, fall)
            new = _Point.at(new_psi, *profile.loss(new_psi))
            ratio = (point.loss - new.loss) / fall if fall > 0.0 else -1.0
            # Where the loss is rounded, the gradient still tells.
            is_rounded = is_newton and fall <= new.rounding
            if ratio > 1e-4 or (is_rounded and new.norm < 0.5 * point.norm):
                break
            radius = 0.25 * min(radius, float(np.linalg.norm(step)))
            if is_rounded or radius < SHORTEST:
                return point.end(history, True, min(remaining, point.rounding))
        if ratio < POOR and not is_rounded:
            radius = 0.5 * min(radius, float(np.linalg.norm(step)))
        elif ratio > GOOD and not is_newton:
            radius = min(2.5 * radius, LONGEST)
        # A rise is a rounding error.
        point = new._replace(loss=min(new.loss, point.loss))
        history.append(point.loss)
        remaining = taylor.remaining(point) if is_newton else math.inf
        if remaining <= tol and len(history) <= max_iter:
            point, remaining = _polished(profile, taylor, point, remaining)
    converged = point.norm == 0.0 or remaining <= tol
    return point.end(history, converged, remaining if point.norm > 0.0 else 0.0)


def _polished(
    profile: ProfileLikelihood, taylor: _Taylor, point: _Point, remaining: float
) -> tuple[_Point, float]:
    """Take cheap steps by the last Hessian, which square the error, until rounding errors prevail."""
    while remaining > PRECISE:
        log_psi = taylor.moved(taylor.newton_step(point), point)
        new = _Point.at(log_psi, *profile.loss(log_psi))
        left = taylor.remaining(new)
        if not (left < 0.1 * remaining and new.loss <= point.loss + new.rounding):
            break
        point, remaining = new._replace(loss=min(new.loss, point.loss)), left
    return point, remaining


def _quasi_newton(
    profile: ProfileLikelihood, log_psi: np.ndarray, tol: float, max_iter: int
) -> Search:
    """Minimize by L-BFGS between the bounds, without the Hessian, which many features make expensive.

    The matrix that L-BFGS updates is the diagonal of the Hessian's first term at the present point.
    """
    point = _Point.at(log_psi, *profile.loss(log_psi))
    history, changes = [point.loss], deque[tuple[np.ndarray, np.ndarray]](maxlen=REMEMBERED)
    while True:
        curvature = profile.scoring(point.log_psi)
        gradient = np.where(point.free, point.gradient, 0.0)
        step = -_inverse_product(changes, gradient, curvature, point.free)
        if step @ gradient >= 0.0:
            step = -gradient / curvature
        remaining = -0.5 * float(step @ gradient)
        converged = UNDERESTIMATED * remaining <= tol
        if converged or len(history) > max_iter:
            return point.end(history, converged, remaining)
        new = _downhill(profile, point, step / max(1.0, float(np.abs(step).max()) / LONGEST))
        if new is None and changes:  # the changes mislead, as after a long step
            changes.clear()
            continue
        if new is None:  # rounding errors leave no step downhill
            return point.end(history, True, remaining)
        change = new.log_psi - point.log_psi, new.gradient - point.gradient
        if change[0] @ change[1] > 0.0:
            changes.append(change)
        point = new
        history.append(point.loss)


def _downhill(profile: ProfileLikelihood, point: _Point, step: np.ndarray) -> _Point | None:
    """Shorten a step until the loss falls, or return None."""
    for _ in range(15):
        log_psi = (point.log_psi + step).clip(LOG_FLOOR, 0.0)
        new = _Point.at(log_psi, *profile.loss(log_psi))
        if new.loss < point.loss + 1e-4 * min(point.gradient @ (log_psi - point.log_psi), 0.0):
            return new
        step = 0.25 * step
    return None


def _inverse_product(
    changes: Sequence[tuple[np.ndarray, np.ndarray]],
    gradient: np.ndarray,
    curvature: np.ndarray,
    free: np.ndarray,
) -> np.ndarray:
    """Multiply the gradient by the inverse Hessian of L-BFGS of the free noise variances."""
    if not free.all():
        changes = [(s * free, y * free) for s, y in changes]
    return inverse_product(changes, gradient, lambda product: product / curvature)
