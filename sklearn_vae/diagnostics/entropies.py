"""Sum of three entropies, and its difference from the ELBO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.containers import to_array, to_host
from sklearn_vae.diagnostics.dimensions import standard_posterior
from sklearn_vae.gaussian.bounds import (
    BoundTerms,
    EntropyGap,
    kl_per_dimension,
    log_data_volume,
    log_latent_volume,
    normal_entropy,
    sum_of_entropies,
)
from sklearn_vae.gaussian.notebook_text import NotebookText
from sklearn_vae.protocol import Array, LatentModel, as_latent_model
from sklearn_vae.validation import check_real, has_nan, refuse_dask

# Nats per sample that a converged model may still gain.
TOLERANCE = 0.1

# Maximum number of verdicts in a text.
MAX_VERDICTS = 5


@dataclass(frozen=True, eq=False)
class Entropies(NotebookText):
    """Sum of three entropies, compared with the ELBO.

    The two are equal at a stationary point of the ELBO. All values are in nats per sample.

    Attributes
    ----------
    elbo : float
        Evidence lower bound, `estimator.score(X)`.
    posterior, prior, decoder : float
        Entropies H[q(z|x)], H[p(z)] and H[p(x|z)], averaged over samples and draws of z.
    bound : float
        Sum of entropies, posterior - prior - decoder.
    gap : EntropyGap
        The difference elbo - bound, split into its terms.
    noise_gain : float
        Gain, in nats, from rescaling all variances of p(x|z), or the logits of binary features.
    dimension_gains : ndarray of shape (n_components,)
        Gain, in nats, from rescaling each latent dimension.
    log_latent_volume, log_data_volume : float
        Average log volumes of the boxes that q(z|x) and p(x|z) fill, in units of the prior's
        standard deviation and of the data. The latter is NaN for binary features.
    tolerance : float
        Total gain up to which the model counts as converged.
    verdicts : tuple of str
        Causes of the gap, the most costly first, or "converged" if the total gain is at most the
        tolerance.

    See Also
    --------
    entropy_bound : Compute the sum of three entropies.
    sklearn_vae.plot.EntropyDisplay : Plot of entropies over training.

    References
    ----------
    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", eq. 20, 25, 33, 39, 41 and 42.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import entropy_bound
    >>> X = load_iris().data
    >>> result = entropy_bound(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> result.converged, result.bound < result.elbo, round(result.noise_gain, 1)
    (False, True, 0.9)
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
        """Total gain of all rescalings, in nats per sample."""
        return self.noise_gain + float(self.dimension_gains.sum())

    @property
    def converged(self) -> bool:
        """Whether the total gain is at most the tolerance."""
        return self.gain <= self.tolerance

    def __str__(self) -> str:
        text = (
            f"ELBO {self.elbo:.6g} nats per sample, sum of entropies {self.bound:.6g} "
            f"(q(z|x) {self.posterior:.6g}, p(z) {self.prior:.6g}, p(x|z) {self.decoder:.6g})."
        )
        points = [f"- {verdict}" for verdict in self.verdicts[:MAX_VERDICTS]]
        if (more := len(self.verdicts) - MAX_VERDICTS) > 0:
            points.append(f"- and {more} more")
        return "\n".join([text, *points])


def entropy_bound(estimator: LatentModel, X: Any, tolerance: float = TOLERANCE) -> Entropies:
    """Compute the sum of three entropies, and compare it with the ELBO.

    The ELBO equals this sum if it is stationary in the observation noise and in the scale of each
    latent dimension. Their difference therefore certifies convergence without gradients. On
    held-out data, it shows whether the scales fit these samples too.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model of this library, or of another one with a Gaussian p(x|z).
    X : array-like of shape (n_samples, n_features)
        Samples. Only deep VAEs accept missing values (NaN), and the bound is that of what is
        observed.
    tolerance : float, default=0.1
        Total gain by rescaling, in nats per sample, up to which the model counts as converged.

    Returns
    -------
    Entropies
        Entropies, gap and verdicts.

    Raises
    ------
    ValueError
        If X has missing values that the model does not accept, or if the noise variance is 0.

    See Also
    --------
    tune_noise_variance : Set the noise variance to its optimum.
    sklearn_vae.plot.EntropyDisplay : Plot of entropies over training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import entropy_bound
    >>> X = load_iris().data
    >>> result = entropy_bound(PPCA(2).fit(X), X)
    >>> round(result.elbo, 6) == round(result.bound, 6)
    True
    """
    model = as_latent_model(estimator, "entropy_bound")
    check_real("tolerance", tolerance, at_least=0)
    return compute_entropies(model, X, tolerance, model.active_bounds)


def compute_entropies(
    model: LatentModel, X: Any, tolerance: float, active_bounds: tuple[str, ...]
) -> Entropies:
    """Compute the entropies of a checked model, given the active bounds on its variances."""
    return entropies_of(model, average_terms(model, X), tolerance, active_bounds)


def entropies_of(
    model: LatentModel, terms: BoundTerms, tolerance: float, active_bounds: tuple[str, ...]
) -> Entropies:
    """Compute the entropies from the terms of the ELBO."""
    moment, d = terms.second_moment, terms.n_features
    k = len(moment)
    prior = normal_entropy(k, 0.0)
    noise = terms.bound + terms.kl + terms.decoder_entropy
    gap = EntropyGap.from_noise_part(noise, moment, active_bounds)
    noise_gain = _noise_gain(noise, terms)
    dimension_gains = 0.5 * (moment - 1.0 - np.log(moment))
    latent = np.full(k, 2.0 * (terms.posterior_entropy - prior) / max(k, 1))
    data = 2.0 * (terms.decoder_entropy - d * normal_entropy(1, 0.0))
    return Entropies(
        elbo=terms.bound,
        posterior=terms.posterior_entropy,
        prior=prior,
        decoder=terms.decoder_entropy,
        bound=sum_of_entropies(terms.posterior_entropy, prior, terms.decoder_entropy),
        gap=gap,
        noise_gain=noise_gain,
        dimension_gains=dimension_gains,
        log_latent_volume=log_latent_volume(latent),
        log_data_volume=log_data_volume(d, data) if terms.curvature is None else math.nan,
        tolerance=tolerance,
        verdicts=_verdicts(model, terms, gap, noise_gain, dimension_gains, tolerance),
    )


def average_terms(
    model: LatentModel, X: Any, posterior: tuple[Array, Array] | None = None
) -> BoundTerms:
    """Compute the terms of the ELBO, averaged over samples, in units of the prior.

    `posterior` contains the means and variances of q(z|x) in these units, if they are known.
    """
    X_array = as_supported_array(model, X, "entropy_bound")
    terms: BoundTerms | None = model.bound_terms(X)
    if terms is not None:
        return terms
    noise = model.shared_noise_variance
    if noise is not None and not np.all(np.asarray(noise) > 0):
        raise ValueError(
            f"The noise variance must be positive, got noise_variance_ = {noise}. Use a smaller "
            "n_components, or set noise_variance."
        )
    mean, variance = standard_posterior(model, X) if posterior is None else posterior
    scores = np.asarray(to_host(model.score_samples(X)), dtype=np.float64)
    log_variance = np.log(variance).mean(axis=0)
    moment = (mean**2 + variance).mean(axis=0)
    n_features = X_array.shape[1]
    return BoundTerms(
        n_features=n_features,
        bound=float(scores.mean()),
        kl=float(kl_per_dimension(moment, log_variance).sum()),
        posterior_entropy=normal_entropy(mean.shape[1], float(log_variance.sum())),
        decoder_entropy=normal_entropy(n_features, _log_noise(model, mean, variance, n_features)),
        second_moment=moment,
        curvature=None,
    )


def _log_noise(model: LatentModel, mean: Array, variance: Array, n_features: int) -> float:
    """Compute the sum over features of the average log-variance of p(x|z), z from q(z|x)."""
    noise = model.shared_noise_variance
    if noise is not None:
        log_noise = np.log(np.asarray(noise, dtype=np.float64))
        return float(np.broadcast_to(log_noise, n_features).sum())
    # A separate stream, because X may have been generated with the same seed.
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,)))
    Z = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
    codes = model.prior_mean + Z * np.sqrt(model.prior_variance)
    noise = to_host(model.conditional(codes)[1])
    return float(np.log(noise, dtype=np.float64).sum(axis=1).mean())


def as_supported_array(model: Any, X: Any, function: str) -> Any:
    """Convert X to an array; raise ValueError if values are missing, which the model must support."""
    if getattr(model, "observation_family", None) == "mixed":
        names = ("kl_per_dim_", "collapsed_dims_", "column_gains_", "certificate_")
        known = [name for name in names if hasattr(model, name)]
        raise TypeError(
            f"{function} needs numbers, but {model.model_name} is a model of tables with columns of "
            f"several types. Use its attributes {', '.join(known)}, or the function collapse."
        )
    if not getattr(model, "has_bound_with_missing", False):
        return as_complete_array(X, function)
    refuse_dask(function, X)
    return to_array(X)


def as_complete_array(X: Any, function: str) -> Any:
    """Convert X to an array; raise ValueError if values are missing."""
    refuse_dask(function, X)
    array = to_array(X)
    if has_nan(array):
        raise ValueError(f"X contains NaN, but {function} needs data without missing values.")
    return array


def _noise_gain(noise: float, terms: BoundTerms) -> float:
    """Compute the gain by rescaling the noise variance or the logits, in nats per sample."""
    if terms.curvature is not None:  # a Newton step
        return 0.5 * noise**2 / terms.curvature if terms.curvature > 0 else 0.0
    ratio = 1.0 - 2.0 * noise / terms.n_features
    return 0.5 * terms.n_features * (ratio - 1.0 - math.log(ratio)) if ratio > 0 else math.inf


def _verdicts(
    model: LatentModel,
    terms: BoundTerms,
    gap: EntropyGap,
    noise_gain: float,
    dimension_gains: Array,
    tolerance: float,
) -> tuple[str, ...]:
    total = noise_gain + float(dimension_gains.sum())
    if total <= tolerance:
        verdicts = [f"converged: rescaling would add {total:.2g} nats in total"]
    else:
        gains = [noise_gain, *dimension_gains]
        texts = [_noise_verdict(model, terms, gap.noise, noise_gain)]
        for h, gain in enumerate(dimension_gains):
            texts.append(
                f"dimension {h} not at its optimum: E z^2 is {terms.second_moment[h]:.3g} times "
                f"the prior variance; rescaling would add {gain:.3g} nats"
            )
        order = sorted(range(len(gains)), key=lambda i: -gains[i])
        verdicts = [texts[i] for i in order if gains[i] > tolerance / len(gains)]
    return (*verdicts, *(f"the {name} is at a bound" for name in gap.active_bounds))


def _noise_verdict(model: LatentModel, terms: BoundTerms, noise: float, gain: float) -> str:
    if terms.curvature is not None:
        side = "too little" if noise < 0 else "too much"
        return (
            f"scale of the logits not at its optimum: p(x|z) has {side} entropy; rescaling would "
            f"add about {gain:.3g} nats"
        )
    ratio = 1.0 / (1.0 - 2.0 * noise / terms.n_features)
    fixed = " (fixed)" if model.noise_variance is not None else ""
    return (
        f"noise variance not at its optimum{fixed}: it is {ratio:.4g} times the optimum, which "
        f"would add {gain:.3g} nats"
    )
