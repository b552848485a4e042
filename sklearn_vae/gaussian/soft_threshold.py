"""Closed-form bound of a VAE with a soft-thresholded decoder, and when it collapses."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import ndtr

# Lower bound of the noise variance, as a share of the average variance of the features. Without it
# the bound has no maximum if the decoder can reproduce every sample.
_NOISE_FLOOR = 1e-6
_MAX_STEPS = 200  # Newton's method takes about 10
# Range of the change of the logarithms of variances.
_LOG_RANGE = (-40.0, 40.0)


def expected_soft_threshold(
    mean: np.ndarray, variance: np.ndarray, threshold: float, order: int = 2
) -> tuple[np.ndarray, ...]:
    """Compute moments of pi(a) = sign(a) max(|a| - threshold, 0) with a ~ N(mean, variance).

    Returns E pi(a)^2, E pi(a), and the derivatives of the latter with respect to the mean up to
    `order`: P(|a| > threshold), the density at the threshold minus that at its negative, and so on.
    The derivative of E pi(a) with respect to the variance is half the second derivative, and that
    of E pi(a)^2 with respect to the mean is 2 E pi(a).
    """
    deviation = np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    shape = np.broadcast_shapes(mean.shape, variance.shape)
    moments = [np.zeros(shape) for _ in range(order + 2)]
    for sign in (1.0, -1.0):
        above = sign * mean - threshold
        u = above / deviation
        inside = ndtr(u)
        with np.errstate(over="ignore"):
            density = np.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)
        part = deviation * density + above * inside
        moments[0] += variance * inside + above * part
        moments[1] += sign * part
        moments[2] += inside
        density /= deviation
        moments[3] += sign * density
        if order > 2:
            moments[4] -= u * density / deviation
            # The density is 0 where u^2 overflows.
            curvature = np.minimum(u * u, 1e300) - 1.0
            moments[5] += sign * curvature * (density / deviation) / deviation
    return tuple(moments)


class SoftThresholdParameters(NamedTuple):
    """Parameters of a VAE with decoder pi(W z) + b and a free posterior for each sample.

    Parameters
    ----------
    loadings : ndarray of shape (n_features, n_components)
        Weights W of the decoder.
    offset : ndarray of shape (n_features,)
        Offset b of the decoder.
    noise_variance : float
        Noise variance sigma2 > 0 of p(x|z).
    means, variances : ndarray of shape (n_samples, n_components)
        Means and variances of q(z|x) for each sample.

    See Also
    --------
    SoftThresholdElbo : Compute and maximize the bound of these parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.gaussian import SoftThresholdParameters
    >>> p = SoftThresholdParameters(
    ...     np.eye(2), np.zeros(2), 0.5, means=np.zeros((3, 2)), variances=np.ones((3, 2))
    ... )
    >>> p._replace(noise_variance=0.1).noise_variance
    0.1
    """

    loadings: np.ndarray
    offset: np.ndarray
    noise_variance: float
    means: np.ndarray
    variances: np.ndarray


def _divergence(p: SoftThresholdParameters) -> np.ndarray:
    """Compute KL(q(z|x) || N(0, I)) of each sample."""
    return 0.5 * (p.means**2 + p.variances - 1.0 - np.log(p.variances)).sum(axis=1)


def _check_one_dimension(method: str, p: SoftThresholdParameters) -> None:
    if p.loadings.shape[1] != 1:
        raise ValueError(
            f"{method} requires p with one latent dimension, got {p.loadings.shape[1]}."
        )


@dataclass(frozen=True, eq=False)
class SoftThresholdElbo:
    """Evidence lower bound of a VAE with a soft-thresholded linear decoder.

    The model is p(x|z) = N(pi(W z) + b, sigma2 I) and p(z) = N(0, I), with pi(u) =
    sign(u) max(|u| - threshold, 0) for each feature. q(z|x) is a diagonal normal with its own means
    and variances for each sample, as an unlimited encoder could produce. The bound and its gradient
    have a closed form, since w_j' z is normal.

    At threshold 0 this is the linear VAE. With a threshold > 0 all derivatives with respect to W
    vanish at the collapsed solution W = 0, q(z|x) = p(z). For some data this is a local maximum,
    although the decoder could reproduce them exactly.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples.
    threshold : float, default=1.0
        Threshold of the decoder, in the units of X.

    Raises
    ------
    ValueError
        If `X` is not a finite matrix, if all samples are equal, or if `threshold` is negative or
        not finite.

    See Also
    --------
    SoftThresholdParameters : Parameters of decoder and posteriors.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse", ICML
    2020, eq. 4 (decoder), eq. 9 (best noise variance), Propositions 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.gaussian import SoftThresholdElbo
    >>> X = np.array([[-5, -2], [-3, -1], [-1, 0], [1, 0], [3, 1], [5, 2]])
    >>> elbo = SoftThresholdElbo(X, threshold=1.0)
    >>> round(elbo.value(elbo.collapsed()), 6)
    -4.734997
    >>> W = np.array([[0.5], [0.2]])
    >>> best = elbo.maximize(elbo.collapsed()._replace(loadings=W), hold=("loadings",))
    >>> bool(elbo.value(best) < elbo.value(elbo.collapsed()))
    True
    """

    X: np.ndarray
    threshold: float = 1.0

    def __post_init__(self) -> None:
        X = np.asarray(self.X, dtype=float)
        if X.ndim != 2 or not np.isfinite(X).all():
            raise ValueError(
                f"X must be a finite matrix of shape (n_samples, n_features), got shape {X.shape}."
            )
        if not (X.size and np.ptp(X, axis=0).max() > 0.0):
            raise ValueError(f"X must contain different samples, got {len(X)} equal ones.")
        if not 0.0 <= self.threshold < math.inf:
            raise ValueError(f"threshold must be a finite number >= 0, got {self.threshold!r}.")
        object.__setattr__(self, "X", X)

    @cached_property
    def average_variance(self) -> float:
        """Average variance of the features, the best noise variance of a collapsed model."""
        return float(self.X.var(axis=0).mean())

    def collapsed(self, n_components: int = 1) -> SoftThresholdParameters:
        """Return the collapsed solution: W = 0, q(z|x) = p(z) and the best b and sigma2.

        Parameters
        ----------
        n_components : int, default=1
            Number of latent dimensions.

        Returns
        -------
        SoftThresholdParameters
            Parameters of the collapsed solution.
        """
        n, d = self.X.shape
        return SoftThresholdParameters(
            np.zeros((d, n_components)),
            self.X.mean(axis=0),
            self.average_variance,
            np.zeros((n, n_components)),
            np.ones((n, n_components)),
        )

    def squares(self, p: SoftThresholdParameters) -> np.ndarray:
        """Compute the expected squared error E_q |x - pi(W z) - b|^2 of each sample.

        Parameters
        ----------
        p : SoftThresholdParameters
            Parameters of the model.

        Returns
        -------
        ndarray of shape (n_samples,)
            Expected squared error, summed over features.
        """
        second, first, _, _ = self._moments(p)
        residual = self.X - p.offset
        return (residual * (residual - 2.0 * first) + second).sum(axis=1)

    def value(self, p: SoftThresholdParameters) -> float:
        """Compute the bound, averaged over the samples.

        Parameters
        ----------
        p : SoftThresholdParameters
            Parameters of the model.

        Returns
        -------
        float
            Bound in nats per sample.
        """
        d, sigma2 = self.X.shape[1], p.noise_variance
        fit = self.squares(p) / sigma2 + d * math.log(2.0 * math.pi * sigma2)
        return float(-(0.5 * fit + _divergence(p)).mean())

    def best_noise(self, p: SoftThresholdParameters) -> float:
        """Compute the noise variance that maximizes the bound, given the other parameters (eq. 9).

        Parameters
        ----------
        p : SoftThresholdParameters
            Parameters of the model.

        Returns
        -------
        float
            Best noise variance.
        """
        return float(self.squares(p).mean()) / self.X.shape[1]

    def maximize(
        self,
        start: SoftThresholdParameters,
        hold: Collection[str] = (),
        *,
        least_noise: float | None = None,
    ) -> SoftThresholdParameters:
        """Find a local maximum of the bound by L-BFGS.

        Parameters
        ----------
        start : SoftThresholdParameters
            Parameters to start from.
        hold : collection of str, default=()
            Names of the parameters that stay fixed.
        least_noise : float, default=None
            Lower bound of the noise variance. If None, it is 1e-6 times the average variance of the
            features.

        Returns
        -------
        SoftThresholdParameters
            Parameters at the local maximum.

        Raises
        ------
        ValueError
            If `hold` contains an unknown name.
        """
        unknown = sorted(set(hold) - set(start._fields))
        if unknown:
            raise ValueError(f"hold must contain names from {start._fields}, got {unknown[0]!r}.")
        floor = _NOISE_FLOOR * self.average_variance if least_noise is None else least_noise
        free = [name for name in start._fields if name not in {*hold, "noise_variance"}]
        # Means in standard deviations and log-variances have the same scale for any sigma2.
        deviations = np.sqrt(start.variances)

        def parameters_at(vector: np.ndarray) -> SoftThresholdParameters:
            values = {}
            for name in free:
                before = np.asarray(getattr(start, name))
                step, vector = vector[: before.size].reshape(before.shape), vector[before.size :]
                if name == "variances":
                    values[name] = before * np.exp(step)
                else:
                    values[name] = before + (deviations * step if name == "means" else step)
            p = start._replace(**values)
            if "noise_variance" in hold:
                return p
            return p._replace(noise_variance=max(self.best_noise(p), floor))

        def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
            p = parameters_at(vector)
            gradient = self._gradient(p)
            gradient["means"] = gradient["means"] * deviations
            gradient["variances"] = gradient["variances"] * p.variances
            return -self.value(p), -np.concatenate([gradient[name].ravel() for name in free])

        bounds = []
        for name in free:
            limits = _LOG_RANGE if name == "variances" else (None, None)
            bounds += [limits] * np.size(getattr(start, name))
        options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-10}
        method: dict[str, Any] = {"method": "L-BFGS-B", "jac": True, "options": options}
        return parameters_at(minimize(objective, np.zeros(len(bounds)), bounds=bounds, **method).x)

    def best_posteriors(self, p: SoftThresholdParameters) -> SoftThresholdParameters:
        """Find the posteriors that maximize the bound, given W, b and sigma2, for k = 1.

        The decoder is affine between the points where a feature crosses its threshold. Newton's
        method starts from the best posterior of each of these pieces, with its variance and with
        that of the prior, and the best result is kept for each sample.

        Parameters
        ----------
        p : SoftThresholdParameters
            Parameters with one latent dimension; the posteriors are not used.

        Returns
        -------
        SoftThresholdParameters
            Parameters with the best posteriors.

        Raises
        ------
        ValueError
            If `p` has more than one latent dimension.
        """
        _check_one_dimension("best_posteriors", p)
        means, variances = self._best_of_pieces(p)
        starts = np.hstack([means, means]), np.hstack([variances, np.ones_like(variances)])
        cost, means, variances = self._descend(p, *starts)
        best = cost.argmin(axis=1)[:, None]
        return p._replace(
            means=np.take_along_axis(means, best, axis=1),
            variances=np.take_along_axis(variances, best, axis=1),
        )

    def collapse_threshold(self, p: SoftThresholdParameters) -> float:
        """Compute the noise variance above which a decoder is worse than collapse, for k = 1.

        At the same sigma2 the collapsed solution has a higher bound than W and b of `p` with the
        best posteriors if sigma2 is above this threshold, and a lower one below it. The cost ::

            g(sigma2) = min_q [E_q |x - pi(W z) - b|^2 + 2 sigma2 KL(q || p)],

        averaged over the samples, is concave and increasing. It exceeds the squared error of the
        mean of the samples above the threshold.

        Parameters
        ----------
        p : SoftThresholdParameters
            Parameters with one latent dimension; the posteriors and sigma2 are not used.

        Returns
        -------
        float
            Noise variance gamma' of Proposition 2. 0 if no posteriors reproduce the samples better
            than their mean.

        Raises
        ------
        ValueError
            If `p` has more than one latent dimension, or if its decoder is constant up to 1e-12 of
            the variance of the samples.
        """
        _check_one_dimension("collapse_threshold", p)
        trivial = self.collapsed()._replace(loadings=p.loadings, offset=p.offset)
        mean_error = self.X.shape[1] * self.average_variance
        rise = float(self.squares(trivial).mean()) - mean_error
        if not rise > 1e-12 * mean_error:
            raise ValueError(
                "collapse_threshold requires p with a decoder that differs from the mean of X, "
                f"got loadings of norm {np.linalg.norm(p.loadings):.3g}."
            )

        def excess(log_noise: float) -> float:
            best = self.best_posteriors(p._replace(noise_variance=math.exp(log_noise)))
            cost = self.squares(best) + 2.0 * best.noise_variance * _divergence(best)
            return float(cost.mean()) - mean_error

        low = high = math.log(self.average_variance)
        floor = low + math.log(_NOISE_FLOOR)
        while excess(low) > 0.0:
            if low <= floor:
                return 0.0
            low = max(low - 2.0, floor)
        while excess(high) <= 0.0:
            high += 2.0
        return math.exp(brentq(excess, low, high, xtol=1e-12))

    def _moments(self, p: SoftThresholdParameters) -> tuple[np.ndarray, ...]:
        variances = p.variances @ np.square(p.loadings).T
        return expected_soft_threshold(p.means @ p.loadings.T, variances, self.threshold)

    def _gradient(self, p: SoftThresholdParameters) -> dict[str, np.ndarray]:
        """Compute the gradient of the bound with respect to all parameters except sigma2."""
        _, first, slope, bend = self._moments(p)
        n, W, residual = len(self.X), p.loadings, self.X - p.offset
        unit = 1.0 / (n * p.noise_variance)
        by_mean = unit * (residual * slope - first)
        by_variance = 0.5 * unit * (residual * bend - slope)
        return {
            "loadings": by_mean.T @ p.means + 2.0 * W * (by_variance.T @ p.variances),
            "offset": unit * (residual - first).sum(axis=0),
            "means": by_mean @ W - p.means / n,
            "variances": by_variance @ W**2 - 0.5 * (1.0 - 1.0 / p.variances) / n,
        }

    def _best_of_pieces(self, p: SoftThresholdParameters) -> tuple[np.ndarray, np.ndarray]:
        """Return the best mean and variance in each affine piece of the decoder, (n, pieces)."""
        w = p.loadings[:, 0]
        crossings = self.threshold / np.abs(w[w != 0.0])
        ends = np.unique(np.concatenate([-crossings, [0.0], crossings]))
        inner = 0.5 * (np.append(ends[0] - 1.0, ends) + np.append(ends, ends[-1] + 1.0))
        u = np.outer(inner, w)
        beyond = np.abs(u) > self.threshold
        slope = np.where(beyond, w, 0.0)
        shift = np.where(beyond, -np.sign(u) * self.threshold, 0.0)
        precision = 1.0 + (slope**2).sum(axis=1) / p.noise_variance
        pull = (self.X - p.offset) @ slope.T - (shift * slope).sum(axis=1)
        means = pull / p.noise_variance / precision
        means = np.clip(means, np.append(-np.inf, ends), np.append(ends, np.inf))
        return means, np.broadcast_to(1.0 / precision, means.shape)

    def _costs(
        self, p: SoftThresholdParameters, means: np.ndarray, variances: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Compute E |x - mu(z)|^2 / (2 sigma2) + KL, (n, starts), two slopes, three curvatures.

        Derivatives are with respect to the mean in standard deviations and the log-variance.
        """
        w, residual = p.loadings[:, 0], (self.X - p.offset)[:, None, :]
        active = w != 0.0
        w, residual = w[active], residual[..., active]
        a, variance = means[..., None] * w, variances[..., None] * w**2
        pi = expected_soft_threshold(a, variance, self.threshold, order=4)
        unit = 1.0 / p.noise_variance
        data = 0.5 * unit * (pi[0] - 2.0 * residual * pi[1]).sum(axis=-1)
        # First to fourth derivative of `data` with respect to the mean of z. Half the second is the
        # derivative with respect to the variance.
        D = [unit * ((pi[i] - residual * pi[i + 1]) @ w**i) for i in range(1, 5)]
        deviations = np.sqrt(variances)
        cost = data + 0.5 * (means**2 + variances - 1.0 - np.log(variances))
        along = deviations * (D[0] + means)
        stretch = 0.5 * (variances * (D[1] + 1.0) - 1.0)
        curvatures = (
            variances * (D[1] + 1.0),
            0.5 * deviations * variances * D[2],
            0.5 * variances * (D[1] + 1.0) + 0.25 * variances**2 * D[3],
        )
        return cost, (along, stretch), curvatures

    def _descend(
        self, p: SoftThresholdParameters, means: np.ndarray, variances: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run damped Newton for all (n, starts); return costs, means and variances."""
        cost, slopes, curvatures = self._costs(p, means, variances)
        damping = np.ones_like(cost)
        for _ in range(_MAX_STEPS):
            a, c, b = curvatures
            least_eigenvalue = 0.5 * (a + b) - np.hypot(0.5 * (a - b), c)
            shift = damping + np.maximum(1e-8 - least_eigenvalue, 0.0)
            a, b = a + shift, b + shift
            determinant = a * b - c * c
            along = (c * slopes[1] - b * slopes[0]) / determinant
            stretch = np.clip((c * slopes[0] - a * slopes[1]) / determinant, -2.0, 2.0)
            trial = means + np.sqrt(variances) * along, variances * np.exp(stretch)
            trial_costs = self._costs(p, *trial)
            better = trial_costs[0] < cost
            cost, means, variances = (
                np.where(better, new, old)
                for new, old in zip((trial_costs[0], *trial), (cost, means, variances), strict=True)
            )
            slopes, curvatures = (
                tuple(np.where(better, new, old) for new, old in zip(*pair, strict=True))
                for pair in ((trial_costs[1], slopes), (trial_costs[2], curvatures))
            )
            damping = np.clip(np.where(better, 0.1 * damping, 10.0 * damping), 1e-12, 1e12)
            steepness = np.maximum(np.abs(slopes[0]), np.abs(slopes[1]))
            if ((damping > 1e8) | (steepness < 1e-10)).all():
                break
        return cost, means, variances
