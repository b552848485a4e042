"""Diagnostics of a bound: KL per dimension, sum of entropies, best noise variance."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from scipy.optimize import brentq

from sklearn_vae.gaussian.arrays import Array

# A dimension is collapsed if its KL is at most COLLAPSE_KL nats for all samples except a share of
# COLLAPSE_SHARE: the (epsilon, delta) of Lucas et al., "Don't Blame the ELBO!" (2019).
COLLAPSE_KL = 0.01
COLLAPSE_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class EntropyGap:
    """ELBO minus the sum of three entropies, in nats per sample, split into its terms.

    The split is exact for any parameters. Each term is 0 at a maximum of the ELBO over its
    parameters. It may differ from 0 if another objective was maximized (a KL weight other than 1,
    free bits, an importance-weighted bound), if the noise variance was fixed, or if a bound in
    `active_bounds` was reached.

    Attributes
    ----------
    noise : float
        (d - E_q sum_j (x_j - mu_j(z))^2 / sigma2_j) / 2, the negative derivative of the ELBO with
        respect to the log-variance of the noise. It is positive if the noise variance is above its
        optimum. For a Bernoulli decoder with logits a(z) it is E_q sum_j a_j (x_j - sigmoid(a_j)),
        the derivative with respect to the scale of the logits. It is positive if p(x|z) has more
        entropy than at the optimum.
    dimensions : array of shape (n_components,)
        (1 - m2_h) / 2, where m2_h is the mean of E_q z_h^2 in units of the prior variance. It is
        proportional to the derivative of the ELBO with respect to the scale of latent dimension h,
        and 0 for a collapsed dimension.
    active_bounds : tuple of str
        Which of "noise variance" and "posterior variance" are at a bound, or above the optimum
        of the training samples because validation samples have chosen it.
    total : float
        Sum of the terms.
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
        """Compute the gap from the averages of E_q sum_j (x_j - mu_j(z))^2 / sigma2_j and m2_h."""
        return cls.from_noise_part(0.5 * (n_features - squares), second_moment, active_bounds)

    @classmethod
    def from_noise_part(
        cls, noise: float, second_moment: Array, active_bounds: tuple[str, ...] = ()
    ) -> "EntropyGap":
        """Compute the gap from its noise term, E_q log p(x|z) + H[p(x|z)], and m2_h."""
        return cls(noise, 0.5 * (1.0 - second_moment), active_bounds)

    @property
    def total(self) -> float:
        """Sum of the terms."""
        return self.noise + float(self.dimensions.sum())


class BoundTerms(NamedTuple):
    """Terms of the bound of a model averaged over samples, in nats per sample.

    Latent variables are in units of the prior's standard deviations.
    """

    n_features: float  # average number of observed features
    bound: float  # E_q log p(x|z) - KL(q(z|x) || p(z))
    kl: float  # KL(q(z|x) || p(z))
    posterior_entropy: float  # H[q(z|x)]
    decoder_entropy: float  # E_q H[p(x|z)]
    second_moment: Any  # E_q z_h^2, (k,)
    # E_q sum_j a_j^2 Var[x_j|z] for a Bernoulli decoder with logits a_j, minus the second
    # derivative of the bound with respect to their scale; None for a Gaussian decoder.
    curvature: float | None
    # E_q (x_j - mu_j(z))^2 in data units, averaged over the observed values of each feature, (d,);
    # None if the noise variance depends on z.
    squared_errors: Any = None
    # Share of the samples that observe each feature, (d,); None if no value is missing.
    observed_share: Any = None


def kl_per_dimension(second_moment: Array, mean_log_variance: Array) -> Array:
    """Compute the average of KL(q(z_h|x) || N(0, 1)) per latent dimension, in nats.

    The arguments are averages of nu_h^2 + tau2_h and log tau2_h, with posterior means nu_h and
    variances tau2_h.
    """
    return 0.5 * (second_moment - 1.0 - mean_log_variance)


def entropy_bound(n_features: int, noise_variance: float, mean_log_variance: Array) -> float:
    """Compute the sum of three entropies of a model with prior N(0, I), in nats per sample.

    It is H[q(z|x)] - H[p(z)] - H[p(x|z)] = -d/2 log(2 pi e sigma2) + 1/2 sum_h mean log tau2_h, and
    equals the ELBO at a stationary point of the parameters (Lücke, Forster and Dai, "The Evidence
    Lower Bound of Variational Autoencoders Converges to a Sum of Three Entropies", eq. 25). If the
    noise variance differs between features, pass the geometric mean.
    """
    xp = array_namespace(mean_log_variance)
    noise_entropy = normal_entropy(n_features, n_features * math.log(noise_variance))
    return 0.5 * float(xp.sum(mean_log_variance)) - noise_entropy


def normal_entropy(n_dimensions: float, log_variance: float) -> float:
    """Compute the entropy of a diagonal normal, in nats, from the sum of its log-variances."""
    return 0.5 * (n_dimensions * math.log(2.0 * math.pi * math.e) + log_variance)


def sum_of_entropies(posterior: float, prior: float, decoder: float) -> float:
    """Compute H[q(z|x)] - H[p(z)] - H[p(x|z)] from entropies averaged over the data.

    This generalizes :func:`entropy_bound` to learned priors and to variances that depend on z
    (Lücke, Forster and Dai, eq. 20 and 39).
    """
    return posterior - prior - decoder


def log_latent_volume(mean_log_variance: Array) -> float:
    """Compute the mean log-volume sum_h log(2 tau_h) of posterior boxes (ibid., eq. 41).

    `mean_log_variance` averages log tau2_h, or log(tau2_h / alpha2_h) with a learned prior.
    """
    xp = array_namespace(mean_log_variance)
    return mean_log_variance.shape[0] * math.log(2.0) + 0.5 * float(xp.sum(mean_log_variance))


def log_data_volume(n_features: float, log_variance: float) -> float:
    """Compute the log-volume sum_j log(2 sigma_j) of the noise box (ibid., eq. 42)."""
    return n_features * math.log(2.0) + 0.5 * log_variance


def best_noise_variance(lengths: Any, squares: Any, tail: float, n_features: int) -> float:
    """Maximize the likelihood of N(mu, W W' + sigma2 I) over sigma2, for orthogonal columns of W.

    `lengths` (k,) are the squared lengths of the columns, `squares` (k,) the mean squares of x - mu
    along them, and `tail` is the mean square orthogonal to them. Returns 0 if the likelihood rises
    as sigma2 goes to 0.
    """
    lengths = np.append(np.asarray(lengths, dtype=np.float64), 0.0)
    squares = np.append(np.asarray(squares, dtype=np.float64), tail)
    counts = np.append(np.ones(len(lengths) - 1), n_features - len(lengths) + 1.0)
    lengths, squares, counts = (a[counts > 0] for a in (lengths, squares, counts))

    def slope(log_sigma2: float) -> float:  # derivative of `cost`
        sigma2 = math.exp(log_sigma2)
        kappa = lengths + sigma2
        return sigma2 * float(((counts * kappa - squares) / kappa**2).sum())

    def cost(log_sigma2: float) -> float:  # minus twice the log-likelihood
        kappa = lengths + math.exp(log_sigma2)
        return float((counts * np.log(kappa) + squares / kappa).sum())

    # The optimum lies between the optima of the single terms.
    optima = squares / counts - lengths
    high = float(optima.max())
    if high <= 0.0:
        return 0.0
    low = max(float(optima.min()), 1e-14 * high)
    if low == high:
        return high
    grid = np.linspace(math.log(low), math.log(high), 257)
    best = int(np.argmin([cost(value) for value in grid]))
    ends = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    if slope(ends[0]) >= 0.0 or slope(ends[1]) <= 0.0:
        return 0.0 if best == 0 and optima.min() <= 0.0 else math.exp(float(grid[best]))
    return math.exp(brentq(slope, *ends, xtol=1e-14, rtol=1e-14))
