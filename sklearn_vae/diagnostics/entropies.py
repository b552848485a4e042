"""How far a model is from a stationary point of its bound, and in which part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj
from scipy import sparse

from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.gaussian.bounds import (
    BoundTerms,
    EntropyGap,
    kl_per_dimension,
    log_data_volume,
    log_latent_volume,
    normal_entropy,
    sum_of_entropies,
)
from sklearn_vae.protocol import Array, LatentModel, check_model, standard_posterior
from sklearn_vae.validation import check_real, has_nan, refuse_dask

# Nats per sample that may be left to be had where a model counts as converged.
TOLERANCE = 0.1

# Verdicts that a text gives at most.
NAMED = 5


@dataclass(frozen=True, eq=False)
class Entropies:
    """The bound of some rows beside the sum of entropies that it has at a stationary point.

    Nats per sample throughout.

    Attributes
    ----------
    elbo : float
        `estimator.score(X)`.
    posterior, prior, decoder : float
        H[q(z|x)], H[p(z)] and H[p(x|z)], averages over rows and draws of z.
    bound : float
        Their sum, posterior - prior - decoder.
    gap : EntropyGap
        elbo - bound in parts.
    noise_gain : float
        What one factor on all variances of p(x|z) (on the logits, of bits) would add to `elbo`.
    dimension_gains : array of shape (k,)
        What another scale of each dimension would add.
    log_latent_volume, log_data_volume : float
        Average log volumes of the boxes that q(z|x) and p(x|z) fill, in units of the prior's
        standard deviation and of the data. NaN for bits.
    tolerance : float
    verdicts : tuple of str
        What the gap says, with numbers, the costliest first: one of them, "converged", if all gains
        together are at most the tolerance.

    References
    ----------
    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", eq. 20, 25, 33, 39, 41 and 42.
    """

    elbo: float
    posterior: float
    prior: float
    decoder: float
    bound: float
    gap: EntropyGap
    noise_gain: float
    dimension_gains: Array
    log_latent_volume: float
    log_data_volume: float
    tolerance: float
    verdicts: tuple[str, ...]

    @property
    def gain(self) -> float:
        """Sum of the gains, in nats per sample."""
        return self.noise_gain + float(self.dimension_gains.sum())

    @property
    def converged(self) -> bool:
        """Whether no more than the tolerance is left to be gained along the scales."""
        return self.gain <= self.tolerance

    def __str__(self) -> str:
        return "\n".join(
            [
                (
                    f"ELBO {self.elbo:.6g} nats per sample, sum of entropies {self.bound:.6g}: "
                    f"q(z|x) {self.posterior:.6g}, p(z) {self.prior:.6g}, p(x|z) {self.decoder:.6g}."
                ),
                *(f"- {verdict}" for verdict in self.verdicts[:NAMED]),
                *([f"- and {more} more"] if (more := len(self.verdicts) - NAMED) > 0 else []),
            ]
        )


def entropy_bound(estimator: LatentModel, X: Any, tolerance: float = TOLERANCE) -> Entropies:
    """The sum of three entropies, and what parts it from the bound.

    The parts are derivatives of the bound along the noise variance and the scale of each dimension:
    a certificate of convergence that needs no gradient. Of rows that the model was not trained on
    they are those of another bound, and tell whether its scales fit these rows too.

    Parameters
    ----------
    estimator : LatentModel
        One of this library, or with a scalar or diagonal `noise_variance_`.
    X : array-like of shape (n, d)
        Complete rows.
    tolerance : float, default=0.1
        Nats per sample that may be left to be gained in all where the verdict is "converged".

    Returns
    -------
    Entropies

    Raises
    ------
    ValueError
        If X has missing values, or the noise variance is 0.
    """
    check_model(estimator, "entropy_bound")
    check_real("tolerance", tolerance, at_least=0)
    terms = bound_terms(estimator, X)
    k, d = len(terms.second_moment), terms.n_features
    prior = normal_entropy(k, 0.0)
    noise = terms.bound + terms.kl + terms.decoder_entropy
    bounds = getattr(getattr(estimator, "entropy_gap_", None), "active_bounds", ())
    gap = EntropyGap.of_noise_part(noise, terms.second_moment, bounds)
    noise_gain = _noise_gain(noise, terms)
    moment = terms.second_moment
    dimension_gains = 0.5 * (moment - 1.0 - np.log(moment))
    constant = normal_entropy(1, 0.0)
    is_gaussian = terms.curvature is None
    data_volume = log_data_volume(d, 2.0 * (terms.decoder_entropy - d * constant))
    return Entropies(
        elbo=terms.bound,
        posterior=terms.posterior_entropy,
        prior=prior,
        decoder=terms.decoder_entropy,
        bound=sum_of_entropies(terms.posterior_entropy, prior, terms.decoder_entropy),
        gap=gap,
        noise_gain=noise_gain,
        dimension_gains=dimension_gains,
        log_latent_volume=_latent_volume(terms.posterior_entropy, k),
        log_data_volume=data_volume if is_gaussian else math.nan,
        tolerance=tolerance,
        verdicts=_verdicts(estimator, terms, gap, noise_gain, dimension_gains, tolerance),
    )


def bound_terms(estimator: Any, X: Any) -> BoundTerms:
    """Averages over rows of what a bound is made of, in units of the prior."""
    complete_rows(X, "entropy_bound")
    if hasattr(estimator, "bound_terms"):
        return estimator.bound_terms(X)
    if not hasattr(estimator, "noise_variance_"):
        raise TypeError(
            f"entropy_bound needs the noise_variance_ of {type(estimator).__name__}, which has "
            "none."
        )
    if not np.all(np.asarray(estimator.noise_variance_) > 0):
        raise ValueError(
            f"The noise variance must be above 0, and noise_variance_ of {type(estimator).__name__} "
            f"is {estimator.noise_variance_}: with a smaller n_components, or noise_variance set, "
            "it is not."
        )
    mean, variance = standard_posterior(estimator, X)
    scores = np.asarray(to_host(estimator.score_samples(X)), dtype=np.float64)
    noise = np.log(np.asarray(estimator.noise_variance_, dtype=np.float64))
    d = estimator.n_features_in_
    log_variance = np.log(variance).mean(axis=0)
    moment = (mean**2 + variance).mean(axis=0)
    return BoundTerms(
        n_features=d,
        bound=float(scores.mean()),
        kl=float(kl_per_dimension(moment, log_variance).sum()),
        posterior_entropy=normal_entropy(mean.shape[1], float(log_variance.sum())),
        decoder_entropy=normal_entropy(d, float(np.broadcast_to(noise, d).sum())),
        second_moment=moment,
        curvature=None,
    )


def complete_rows(X: Any, function: str) -> None:
    """Raise ValueError if X has missing values, whose posteriors have correlated dimensions."""
    refuse_dask(function, X)
    rows = X if sparse.issparse(X) or is_array_api_obj(X) else np.asarray(X)
    if has_nan(rows):
        raise ValueError(f"{function} needs rows without missing values, and X contains NaN.")


def _latent_volume(posterior_entropy: float, k: int) -> float:
    log_variance = 2.0 * (posterior_entropy - normal_entropy(k, 0.0)) / max(k, 1)
    return log_latent_volume(np.full(k, log_variance))


def _noise_gain(noise: float, terms: BoundTerms) -> float:
    if terms.curvature is not None:  # a step of Newton's
        return 0.5 * noise**2 / terms.curvature if terms.curvature > 0 else 0.0
    ratio = 1.0 - 2.0 * noise / terms.n_features
    return 0.5 * terms.n_features * (ratio - 1.0 - math.log(ratio)) if ratio > 0 else math.inf


def _verdicts(
    estimator: Any,
    terms: BoundTerms,
    gap: EntropyGap,
    noise_gain: float,
    dimension_gains: Array,
    tolerance: float,
) -> tuple[str, ...]:
    total = noise_gain + float(dimension_gains.sum())
    found = [(noise_gain, _noise_verdict(estimator, terms, gap.noise, noise_gain))]
    for h, gain in enumerate(dimension_gains):
        found.append(
            (
                gain,
                (
                    f"dimension {h} not at its optimum: E z^2 is {terms.second_moment[h]:.3g} times "
                    f"the prior's variance, another scale would add {gain:.3g} nats"
                ),
            )
        )
    if total <= tolerance:
        verdicts = [f"converged: other scales would add {total:.2g} nats in all"]
    else:
        least = tolerance / len(found)
        verdicts = [text for gain, text in sorted(found, key=lambda f: -f[0]) if gain > least]
    for name in gap.active_bounds:
        verdicts.append(f"a bound on log-variances is active: that of the {name}")
    return tuple(verdicts)


def _noise_verdict(estimator: Any, terms: BoundTerms, noise: float, gain: float) -> str:
    if terms.curvature is not None:
        side = "too little" if noise < 0 else "too much"
        return (
            f"scale of the logits not at its optimum: p(x|z) has {side} entropy, another would add "
            f"about {gain:.3g} nats"
        )
    ratio = 1.0 / (1.0 - 2.0 * noise / terms.n_features)
    held = " (held fixed)" if getattr(estimator, "noise_variance", None) is not None else ""
    return (
        f"noise variance not at its optimum{held}: it is {ratio:.4g} times that, which would add "
        f"{gain:.3g} nats"
    )
