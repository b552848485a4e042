"""What a bound says of the latent space: KL per dimension and the sum of entropies."""

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array

# A dimension is collapsed where its KL is at most this many nats for all but this share of the
# data: the (epsilon, delta) of Lucas et al., "Don't Blame the ELBO!" (2019).
COLLAPSE_KL = 0.01
COLLAPSE_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class EntropyGap:
    """ELBO less the sum of three entropies, in nats per sample, and what it is due to.

    Exact at any parameters. Each part is 0 at a maximum of the ELBO over what it belongs to: not
    where something else was maximised (a KL weight other than 1, free bits, an importance-weighted
    bound), where the noise
    variance was held fixed, or where a bound of `active_bounds` was in the way.

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
        Which of "noise variance" and "posterior variance" are held by a bound.
    total : float
        The sum of the parts.
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
        """From E_q sum_j (x_j - mu_j(z))^2 / sigma2_j and m2_h, in units of the prior's variance.

        With variances that depend on z, the average is over them too.
        """
        noise, dimensions = 0.5 * (n_features - squares), 0.5 * (1.0 - second_moment)
        return cls(noise, dimensions, active_bounds)

    @classmethod
    def of_bernoulli(
        cls, tilt: float, second_moment: Array, active_bounds: tuple[str, ...] = ()
    ) -> "EntropyGap":
        """From E_q sum_j a_j (x_j - sigmoid(a_j)) and m2_h, in units of the prior's variance."""
        return cls(tilt, 0.5 * (1.0 - second_moment), active_bounds)

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.noise + float(self.dimensions.sum())


def kl_per_dimension(second_moment: Array, mean_log_variance: Array) -> Array:
    """Average over the data of KL(q(z_h|x) || N(0, 1)), in nats, shape (k,).

    Parameters
    ----------
    second_moment : array of shape (k,)
        Mean over the data of nu_h^2 + tau2_h, posterior mean and variance.
    mean_log_variance : array of shape (k,)
        Mean over the data of log tau2_h; -inf where a posterior is a point, whose KL is inf.
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
    """Entropy of a diagonal normal, in nats.

    Parameters
    ----------
    n_dimensions : int
    log_variance : float
        Sum of its log-variances; of many normals the mean of their sums, for their mean entropy.
        So that of p(x|z) with variances that depend on z is 1/2 E_q sum_j log(2 pi e sigma2_j(z)).
    """
    return 0.5 * (n_dimensions * math.log(2.0 * math.pi * math.e) + log_variance)


def sum_of_entropies(posterior: float, prior: float, decoder: float) -> float:
    """H[q(z|x)] - H[p(z)] - H[p(x|z)], in nats per sample.

    Equals the ELBO where the parameters are at a stationary point (Lücke, Forster and Dai, eq. 20
    with a learned prior, eq. 39 with variances that depend on z): :func:`entropy_bound` of any
    model.

    Parameters
    ----------
    posterior, decoder : float
        Averages over the data, and of p(x|z) over q(z|x).
    prior : float
    """
    return posterior - prior - decoder


def log_latent_volume(mean_log_variance: Array) -> float:
    """Average log volume of the box with half-widths tau_h, sum_h log(2 tau_h) (ibid., eq. 41).

    Parameters
    ----------
    mean_log_variance : array of shape (k,)
        Mean over the data of log tau2_h; with a learned prior of log(tau2_h / alpha2_h).
    """
    xp = array_namespace(mean_log_variance)
    return mean_log_variance.shape[0] * math.log(2.0) + 0.5 * float(xp.sum(mean_log_variance))


def log_data_volume(n_features: int, log_variance: float) -> float:
    """Average log volume of the box with half-widths sigma_j, sum_j log(2 sigma_j) (eq. 42).

    Parameters
    ----------
    n_features : int
    log_variance : float
        Sum over the features of log sigma2_j; where it depends on z, its mean.
    """
    return n_features * math.log(2.0) + 0.5 * log_variance


def volume_bound(n_features: int, n_components: int, latent: float, data: float) -> float:
    """The same sum of entropies from average log volumes of z and x (eq. 43), in nats per sample.

    (log z-Vol - log x-Vol) + (d - k) log 2 - d/2 log(2 pi e): a model gains a nat where the
    posterior fills e times more of the latent space, or the noise e times less of the data space.
    """
    constant = (n_features - n_components) * math.log(2.0)
    return latent - data + constant - normal_entropy(n_features, 0.0)
