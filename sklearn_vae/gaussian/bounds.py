"""Diagnostics of a bound: KL per dimension, the sum of entropies, and the best noise variance."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from scipy.optimize import brentq

from sklearn_vae.gaussian.arrays import Array

# A dimension is collapsed where its KL is at most this many nats for all but this share of the
# data: the (epsilon, delta) of Lucas et al., "Don't Blame the ELBO!" (2019).
COLLAPSE_KL = 0.01
COLLAPSE_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class EntropyGap:
    """ELBO less the sum of three entropies, in nats per sample, in parts.

    Exact at any parameters. Each part is 0 at a maximum of the ELBO over its parameters; not where
    something else was maximised (a KL weight other than 1, free bits, an importance-weighted
    bound), where the noise variance was held fixed, or where a bound in `active_bounds` was
    reached.

    Attributes
    ----------
    noise : float
        (d - E_q sum_j (x_j - mu_j(z))^2 / sigma2_j) / 2, minus the derivative of the ELBO along
        the log-variance of the noise: positive where that is larger than its optimum. Of a
        Bernoulli decoder E_q sum_j a_j (x_j - sigmoid(a_j)), the derivative along the scale of its
        logits a(z), and so along that of its last affine layer: positive where p(x|z) has more
        entropy than its optimum.
    dimensions : array of shape (k,)
        (1 - m2_h) / 2 with m2_h the mean over the data of E_q z_h^2 = nu_h^2 + tau2_h, in units of
        the prior's variance: a multiple of the derivative along the scale of dimension h. A
        collapsed dimension adds nothing.
    active_bounds : tuple of str
        Which of "noise variance" and "posterior variance" are at a bound.
    total : float
        Sum of the parts.
    """

    noise: float
    dimensions: Any
    active_bounds: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        n_features: int,
        squares: float,
        second_moment: Array,
        active_bounds: tuple[str, ...] = (),
    ) -> "EntropyGap":
        """Compute it from E_q sum_j (x_j - mu_j(z))^2 / sigma2_j and m2_h, averaged."""
        return cls.from_noise_part(0.5 * (n_features - squares), second_moment, active_bounds)

    @classmethod
    def from_noise_part(
        cls, noise: float, second_moment: Array, active_bounds: tuple[str, ...] = ()
    ) -> "EntropyGap":
        """Compute it from the part of the noise, E_q log p(x|z) + H[p(x|z)], and m2_h."""
        return cls(noise, 0.5 * (1.0 - second_moment), active_bounds)

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.noise + float(self.dimensions.sum())


class BoundTerms(NamedTuple):
    """Terms of the bound of a model averaged over samples, in nats per sample.

    Latents are in units of the prior's standard deviations.

    Attributes
    ----------
    n_features : int
    bound : float
        E_q log p(x|z) - KL(q(z|x) || p(z)).
    kl, posterior_entropy, decoder_entropy : float
        KL(q(z|x) || p(z)), H[q(z|x)] and E_q H[p(x|z)].
    second_moment : array of shape (k,)
        E_q z_h^2.
    curvature : float or None
        Of a Bernoulli decoder with logits a_j: E_q sum_j a_j^2 Var[x_j|z], minus the second
        derivative of the bound along their scale. None of a Gaussian one.
    """

    n_features: int
    bound: float
    kl: float
    posterior_entropy: float
    decoder_entropy: float
    second_moment: Any
    curvature: float | None


def kl_per_dimension(second_moment: Array, mean_log_variance: Array) -> Array:
    """Average of KL(q(z_h|x) || N(0, 1)), in nats, from averages of nu_h^2 + tau2_h and log tau2_h.

    nu_h and tau2_h are posterior mean and variance; log tau2_h is -inf where a posterior is a
    point, whose KL is inf.
    """
    return 0.5 * (second_moment - 1.0 - mean_log_variance)


def entropy_bound(n_features: int, noise_variance: float, mean_log_variance: Array) -> float:
    """Sum of three entropies of a model with prior N(0, I), in nats per sample.

    Equals the ELBO where the parameters are at a stationary point, without touching data:
    H[q(z|x)] - H[p(z)] - H[p(x|z)] = -d/2 log(2 pi e sigma2) + 1/2 sum_h mean log tau2_h
    (Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a
    Sum of Three Entropies", eq. 25). Needs noise_variance > 0; of variances that differ between
    features, their geometric mean.
    """
    xp = array_namespace(mean_log_variance)
    noise_entropy = normal_entropy(n_features, n_features * math.log(noise_variance))
    return 0.5 * float(xp.sum(mean_log_variance)) - noise_entropy


def normal_entropy(n_dimensions: int, log_variance: float) -> float:
    """Entropy of a diagonal normal, in nats, from the sum of its log-variances.

    The mean of these sums gives the mean entropy of many normals.
    """
    return 0.5 * (n_dimensions * math.log(2.0 * math.pi * math.e) + log_variance)


def sum_of_entropies(posterior: float, prior: float, decoder: float) -> float:
    """H[q(z|x)] - H[p(z)] - H[p(x|z)], in nats per sample.

    Equals the ELBO where the parameters are at a stationary point (Lücke, Forster and Dai, eq. 20
    with a learned prior, eq. 39 with variances that depend on z): :func:`entropy_bound` of any
    model. Entropies of posterior and decoder are averages over the data.
    """
    return posterior - prior - decoder


def log_latent_volume(mean_log_variance: Array) -> float:
    """Average log volume of the box with half-widths tau_h, sum_h log(2 tau_h) (ibid., eq. 41).

    `mean_log_variance` averages log tau2_h, or with a learned prior log(tau2_h / alpha2_h).
    """
    xp = array_namespace(mean_log_variance)
    return mean_log_variance.shape[0] * math.log(2.0) + 0.5 * float(xp.sum(mean_log_variance))


def log_data_volume(n_features: int, log_variance: float) -> float:
    """Average log volume of the box with half-widths sigma_j, sum_j log(2 sigma_j) (eq. 42).

    `log_variance` is the sum of log sigma2_j, or its mean where it depends on z.
    """
    return n_features * math.log(2.0) + 0.5 * log_variance


def best_noise_variance(lengths: Any, squares: Any, tail: float, n_features: int) -> float:
    """sigma2 of the highest likelihood of N(mu, W W' + sigma2 I), for W with orthogonal columns.

    `lengths` (k,) are the squared lengths of the columns, `squares` (k,) the mean squares of x - mu
    along them and `tail` those outside of them, in all. 0 where the likelihood only rises toward
    it.
    """
    lengths = np.append(np.asarray(lengths, dtype=np.float64), 0.0)
    squares = np.append(np.asarray(squares, dtype=np.float64), tail)
    counts = np.append(np.ones(len(lengths) - 1), n_features - len(lengths) + 1.0)
    lengths, squares, counts = (a[counts > 0] for a in (lengths, squares, counts))

    def slope(log_sigma2: float) -> float:  # of minus twice the log-likelihood, along its log
        sigma2 = math.exp(log_sigma2)
        kappa = lengths + sigma2
        return sigma2 * float(((counts * kappa - squares) / kappa**2).sum())

    def cost(log_sigma2: float) -> float:
        kappa = lengths + math.exp(log_sigma2)
        return float((counts * np.log(kappa) + squares / kappa).sum())

    # Each term has its own best sigma2, and all of them together one between these.
    own = squares / counts - lengths
    high = float(own.max())
    if high <= 0.0:
        return 0.0
    low = max(float(own.min()), 1e-14 * high)
    if low == high:
        return high
    grid = np.linspace(math.log(low), math.log(high), 257)
    best = int(np.argmin([cost(value) for value in grid]))
    ends = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    if slope(ends[0]) >= 0.0 or slope(ends[1]) <= 0.0:
        return 0.0 if best == 0 and own.min() <= 0.0 else math.exp(float(grid[best]))
    return math.exp(brentq(slope, *ends, xtol=1e-14, rtol=1e-14))
