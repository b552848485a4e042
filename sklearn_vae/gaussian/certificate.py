"""Certificates: how far a fitted spectrum can be from the exact one."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """Bounds on the errors of r computed eigenpairs of a covariance S.

    The computed eigenvalues are the variances along orthonormal rows V, up to rounding errors.
    """

    residual: float = 0.0  # bound on the norm of S V' - V' diag(values)
    largest_residual: float = 0.0  # largest norm of a column of it
    outside: float = math.inf  # bound on the variance in any direction orthogonal to V
    rounding: float = 0.0  # bound on the rounding error of an eigenvalue
    singular: float = 0.0  # bound on the rounding error of the square root of an eigenvalue
    delta: float = 0.0  # probability that `outside` is violated
    method: str = "none"

    def with_extra_pairs(self) -> Accuracy:
        """Return the accuracy after orthonormal rows with eigenvalue 0 were added to V."""
        return replace(self, residual=self.residual + self.outside)

    def with_fewer_pairs(self, dropped: float) -> Accuracy:
        """Return the accuracy after pairs were dropped, of which `dropped` is the largest value."""
        return replace(self, outside=max(dropped, self.outside) + self.residual)

    def divided(self, scale: float) -> Accuracy:
        """Return the accuracy of the covariance divided by `scale`."""
        return replace(
            self,
            residual=self.residual / scale,
            largest_residual=self.largest_residual / scale,
            outside=self.outside / scale,
            rounding=self.rounding / scale,
            singular=self.singular / scale**0.5,
        )

    def grow(self, value: FloatArray | float) -> FloatArray:
        """Return an upper bound on exact eigenvalues with these computed values."""
        return (np.sqrt(np.maximum(value, 0.0)) + self.singular) ** 2 + self.rounding

    def shrink(self, value: FloatArray | float) -> FloatArray:
        """Return a lower bound on exact eigenvalues with these computed values."""
        least = (
            np.maximum(np.sqrt(np.maximum(value, 0.0)) - self.singular, 0.0) ** 2 - self.rounding
        )
        return np.maximum(least, 0.0)


@dataclass(frozen=True, eq=False)
class Certificate:
    """Bounds on the distance of a fitted model from the exact solution.

    The exact solution is the eigendecomposition of the covariance S (divisor n) of the stored
    training data, weighted if the samples have weights. If the model was fitted to
    :class:`Moments`, it is that of the data from which the moments were computed. All bounds
    include rounding errors, for which a model of independent errors is used.

    Parameters
    ----------
    lower, upper : array of shape (n_components,)
        Bounds on the n_components largest eigenvalues of S, in descending order.
    outside : float
        Upper bound on the variance of the data in any direction orthogonal to the components.
    missed_variance : float
        Upper bound on the sum of the n_components largest eigenvalues minus the variance that the
        components explain.
    max_sine : float or None
        Upper bound on the sine of the largest angle between the span of the components and that of
        the leading eigenvectors of S. None if there is no gap between the eigenvalue of the last
        component and the next one, so that the leading eigenvectors are not determined.
    max_shortfall : float or None
        Upper bound, in nats per sample, on the maximum of the log-likelihood of the training data
        minus its value for the model. None if the likelihood is unbounded. If the noise variance is
        fixed, it is the maximum for that noise variance.
    delta : float
        Probability that a bound is violated because of an unlucky draw of random vectors; 0.0 if no
        bound depends on random vectors.
    method : str
        How the components were computed and checked.

    See Also
    --------
    PPCA : Its attribute `certificate_` holds a certificate.
    Stationarity : Distance of an iterative fit from a maximum.
    Spectrum : Leading eigenpairs of a covariance.

    Notes
    -----
    Let the rows of V be the components, with variances theta_h, and R = S V' - V' diag(theta).
    Since theta are Ritz values, lambda_h >= theta_h. With an upper bound b on the variance outside,
    lambda_h <= max(theta_h, b) + |R|, and lambda_h <= theta_h + 2 |R|^2 / (g + sqrt(g^2 + 4 |R|^2))
    if g = theta_h - b > 0 [2]_. The tangent of twice the angle is at most 2 |R| / (theta_k - b)
    [1]_. The bound b is rigorous if S - b I was factorized or all eigenvalues were computed.
    Otherwise it results from a Krylov space of random vectors [3]_.

    References
    ----------
    .. [1] Davis and Kahan, "The rotation of eigenvectors by a perturbation. III", SIAM Journal on
       Numerical Analysis 1970 (tan 2 theta theorem).
    .. [2] Li and Li, "A note on eigenvalues of perturbed Hermitian matrices", Linear Algebra and
       its Applications 2005, theorem 2.
    .. [3] Kuczynski and Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos
       algorithms with a random start", SIAM Journal on Matrix Analysis and Applications 1992.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import PPCA
    >>> certificate = PPCA(10).fit(load_digits().data).certificate_
    >>> certificate.max_shortfall < 1e-9, certificate.max_sine < 1e-9, certificate.delta
    (True, True, 0.0)
    """

    lower: FloatArray
    upper: FloatArray
    outside: float
    missed_variance: float
    max_sine: float | None
    max_shortfall: float | None
    delta: float
    method: str

    def __str__(self) -> str:
        if math.isinf(self.outside):
            return f"Nothing is certified about this model, which was fitted by {self.method}."
        k = len(self.lower)
        chance = "" if self.delta == 0.0 else f", except with probability {self.delta:.0e}"
        checked = f"{chance} (checked by {self.method})."
        if k == 0:
            return (
                "The model has no components, and the variance in any direction is at most "
                f"{self.outside:.4g}{checked}"
            )
        values = f"The {k} largest eigenvalues are" if k > 1 else "The largest eigenvalue is"
        error = float((self.upper - self.lower).max()) / max(float(self.upper.max()), 1e-300)
        short = "the likelihood is unbounded"
        if self.max_shortfall is not None:
            short = (
                f"the log-likelihood is at most {self.max_shortfall:.1e} nats per sample too low"
            )
        return (
            f"{values} known to {error:.1e} of the largest, {self._describe_angle()}, at most "
            f"{self.missed_variance:.1e} of variance was missed, and {short}{checked}"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{h}</td><td>{low:.12g}</td><td>{high:.12g}</td></tr>"
            for h, (low, high) in enumerate(zip(self.lower, self.upper, strict=True))
        )
        titles = "<tr><th>component</th><th>eigenvalue at least</th><th>at most</th></tr>"
        table = f"<details><summary>eigenvalues</summary><table>{titles}{rows}</table></details>"
        return f"<div><p>{html.escape(str(self), quote=False)}</p>{table if rows else ''}</div>"

    def _describe_angle(self) -> str:
        is_one = len(self.lower) == 1
        if self.max_sine is None:
            span = (
                "component has no unique direction" if is_one else "components have no unique span"
            )
            return f"the {span}, because the next eigenvalue is not smaller within the bounds"
        subject, exact = ("component is", "one") if is_one else ("components are", "ones")
        return (
            f"the {subject} at most {self.max_sine:.1e} (sine of the angle) from the exact {exact}"
        )


def certify(
    values: FloatArray,
    k: int,
    n_features: int,
    rest: float,
    accuracy: Accuracy,
    *,
    noise_variance: float,
    is_fixed: bool,
    eps: float,
) -> Certificate:
    """Compute the certificate of the pPCA model with k of the r computed eigenpairs.

    `values` are all r computed eigenvalues, and `rest` is the sum of the others. `eps` is the
    precision of the components.
    """
    if accuracy.method in ("EM", "none"):
        return _no_certificate(k, accuracy.method)
    # In units of a power of 4 near the largest eigenvalue, because squares could overflow.
    unit = 4.0 ** (math.frexp(float(values[0]) if len(values) else rest)[1] // 2)
    values, rest, accuracy = values / unit, rest / unit, accuracy.divided(unit)
    noise_variance = noise_variance / unit
    theta, d = np.maximum(values[:k], 0.0), n_features
    # Rounding can leave a small eigenvalue below 0.
    outside = max(accuracy.outside, 0.0) if len(values) < d else 0.0
    if 0.0 < rest < outside:
        outside = float(rest)
    if len(values) > k:
        outside = max(float(values[k]), outside) + accuracy.residual
    base = np.maximum(theta, outside)
    gaps = np.maximum(theta - outside, 0.0)
    rho = accuracy.residual
    quadratic = 2.0 * rho * (rho / np.maximum(gaps + np.hypot(gaps, 2.0 * rho), 1e-300))
    lower, upper = accuracy.shrink(theta), accuracy.grow(base + np.minimum(quadratic, rho))
    most_outside = float(accuracy.grow(outside)) if k < d else 0.0
    return Certificate(
        unit * lower,
        unit * upper,
        unit * most_outside,
        unit * float((upper - lower).sum()),
        _max_sine(theta, outside, d, accuracy, eps),
        _max_shortfall(values, k, d, rest, lower, upper, noise_variance, is_fixed=is_fixed),
        accuracy.delta,
        accuracy.method,
    )


def _no_certificate(k: int, method: str) -> Certificate:
    none, inf = np.zeros(k), math.inf
    return Certificate(none, none + inf, inf, inf, None, inf, 0.0, method)


def _max_sine(
    theta: FloatArray, outside: float, d: int, accuracy: Accuracy, eps: float
) -> float | None:
    """Bound the sine of the largest angle between computed and exact leading eigenvectors."""
    k = len(theta)
    stored = 4.0 * eps * k**0.5
    if k in (0, d):
        return 0.0 if k == 0 else stored
    gap = float(theta[-1]) - outside - 2.0 * accuracy.rounding
    root_gap = float(theta[-1]) ** 0.5 - outside**0.5 - 2.0 * accuracy.singular
    if gap <= 0.0 or root_gap <= 0.0:
        return None
    ratio = 2.0 * (accuracy.residual + accuracy.rounding) / gap
    sine = math.sin(0.5 * math.atan(ratio)) + accuracy.singular / root_gap + stored
    return sine if sine < 1.0 else None


def _max_shortfall(
    values: FloatArray,
    k: int,
    d: int,
    rest: float,
    lower: FloatArray,
    upper: FloatArray,
    noise_variance: float,
    *,
    is_fixed: bool,
) -> float | None:
    """Bound the log-likelihood at the upper ends of the enclosures minus that of the model.

    With the trace of S given, the log-likelihood increases in each eigenvalue above the noise
    variance. The variance along a component may be less than computed: the model then loses
    1/2 (1 / sigma2 - 1 / theta) for each unit.
    """
    theta, sigma2 = values[:k], noise_variance
    if sigma2 == 0.0 and not (k == d and bool((lower > 0.0).all())):
        return None if not (k == d and bool((theta > 0.0).all())) else math.inf
    if is_fixed:
        kappa = np.maximum(theta, sigma2)
        best = np.maximum(upper, sigma2)
        with np.errstate(over="ignore", invalid="ignore"):
            gains = (upper - theta) / sigma2 - np.log(best / kappa)
            gains -= upper / best - theta / kappa
            total = float(0.5 * (gains + (theta - lower) * (1.0 / sigma2 - 1.0 / kappa)).sum())
        return total if math.isfinite(total) else math.inf
    if k == d:
        return float(0.5 * (np.log(theta / lower) + (upper - theta) / theta).sum())
    tail = float(np.sum(values[k:])) + rest
    growth = float((upper - theta).sum())
    if growth >= tail:
        return math.inf
    gain = -(d - k) * math.log1p(-growth / tail) - float(np.log(upper / theta).sum())
    loss = float(((theta - lower) * (1.0 / sigma2 - 1.0 / theta)).sum())
    return 0.5 * max(gain, 0.0) + 0.5 * max(loss, 0.0)
