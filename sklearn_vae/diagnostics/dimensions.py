"""Latent dimensions that depend on the data, and those that have collapsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.gaussian import bounds
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.protocol import Array, LatentModel, as_latent_model
from sklearn_vae.validation import check_choice, check_real, is_real

CRITERIA = ("share", "average")


@dataclass(frozen=True, eq=False)
class Collapse:
    """Which dimensions have collapsed, by one of two definitions.

    Attributes
    ----------
    epsilon, delta : float
    criterion : {"share", "average"}
    kl_per_dim : array of shape (n_components,)
        KL(q(z_h|x) || p(z_h)) averaged over the samples, in nats.
    share : array of shape (n_components,)
        Share of the samples with a KL of at most epsilon.
    collapsed : array of int
        Collapsed dimensions.
    """

    epsilon: float
    delta: float
    criterion: str
    kl_per_dim: Array
    share: Array
    collapsed: Array

    @property
    def n_components(self) -> int:
        """Number of dimensions."""
        return len(self.kl_per_dim)

    @property
    def active(self) -> Array:
        """Dimensions that have not collapsed."""
        return np.setdiff1d(np.arange(self.n_components), self.collapsed)

    @property
    def percent(self) -> float:
        """Share of collapsed dimensions, in per cent."""
        return 100.0 * len(self.collapsed) / max(self.n_components, 1)


@dataclass(frozen=True, eq=False)
class CollapseCurve:
    """Share of collapsed dimensions as a function of epsilon: exact, a step at each threshold.

    Attributes
    ----------
    thresholds : array of shape (n_components,)
        For each dimension the least epsilon, in nats, for which it counts as collapsed.
    delta : float
    criterion : {"share", "average"}
    """

    thresholds: Array
    delta: float
    criterion: str

    def at(self, epsilon: Any) -> Array:
        """Share of the dimensions that have collapsed, in [0, 1], for each epsilon."""
        steps = np.sort(self.thresholds)
        count = np.searchsorted(steps, np.asarray(epsilon, dtype=float), side="right")
        return count / max(len(steps), 1)


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """Dimensions whose posterior mean moves with the data.

    Attributes
    ----------
    variance : array of shape (n_components,)
        Variance of the posterior mean over the samples, in units of the prior's variance.
    threshold : float
    active : array of int
        Dimensions whose variance is above it.
    """

    variance: Array
    threshold: float
    active: Array


def kl_per_dimension(estimator: LatentModel, X: Any) -> Array:
    """Compute KL(q(z_h|x) || p(z_h)) of each dimension, averaged over the samples, in nats.

    On the training data of an estimator this is its `kl_per_dim_`. With flows it is the KL of
    normals with the moments of each dimension.

    Parameters
    ----------
    estimator : LatentModel
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    array of shape (n_components,)
    """
    model = as_latent_model(estimator, "kl_per_dimension")
    return kl_terms(*standard_posterior(model, X)).mean(axis=0)


def collapse(
    estimator: LatentModel,
    X: Any,
    epsilon: float = COLLAPSE_KL,
    delta: float = COLLAPSE_SHARE,
    criterion: str = "share",
) -> Collapse:
    """Find dimensions that have collapsed onto the prior.

    Parameters
    ----------
    estimator : LatentModel
    X : array-like of shape (n_samples, n_features)
    epsilon : float, default=0.01
        In nats, at least 0.
    delta : float, default=0.01
        In [0, 1).
    criterion : {"share", "average"}, default="share"
        "share": dimension h has collapsed if KL(q(z_h|x) || p(z_h)) is at most epsilon for at
        least a share 1 - delta of the samples. "average": if its average is at most epsilon.

    Returns
    -------
    Collapse

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), section 6.3 ("share");
    "Understanding Posterior Collapse in Generative Latent Variable Models" (2019), figure 4
    ("average").
    """
    model = as_latent_model(estimator, "collapse")
    check_real("epsilon", epsilon, at_least=0)
    _check_definition(delta, criterion)
    terms = kl_terms(*standard_posterior(model, X))
    collapsed = np.flatnonzero(_thresholds(terms, delta, criterion) <= epsilon)
    share = (terms <= epsilon).mean(axis=0)
    return Collapse(epsilon, delta, criterion, terms.mean(axis=0), share, collapsed)


def collapse_curve(
    estimator: LatentModel, X: Any, delta: float = COLLAPSE_SHARE, criterion: str = "share"
) -> CollapseCurve:
    """Compute the share of collapsed dimensions for every epsilon at once.

    Parameters
    ----------
    estimator : LatentModel
    X : array-like of shape (n_samples, n_features)
    delta, criterion
        As in :func:`collapse`.

    Returns
    -------
    CollapseCurve
    """
    model = as_latent_model(estimator, "collapse_curve")
    _check_definition(delta, criterion)
    terms = kl_terms(*standard_posterior(model, X))
    return CollapseCurve(_thresholds(terms, delta, criterion), delta, criterion)


def active_units(estimator: LatentModel, X: Any, threshold: float = 0.01) -> ActiveUnits:
    """Find dimensions whose posterior mean has a variance above `threshold` over the samples.

    Parameters
    ----------
    estimator : LatentModel
    X : array-like of shape (n_samples, n_features)
    threshold : float, default=0.01
        In units of the prior's variance.

    Returns
    -------
    ActiveUnits

    References
    ----------
    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), section 5.2.
    """
    model = as_latent_model(estimator, "active_units")
    check_real("threshold", threshold, at_least=0)
    variance = standard_posterior(model, X)[0].var(axis=0)
    return ActiveUnits(variance, threshold, np.flatnonzero(variance > threshold))


def second_moments(estimator: LatentModel, X: Any) -> Array:
    """Compute m2_h, the mean over samples of E_q z_h^2, in units of the prior's variance.

    It is 1 if the scale of dimension h is at its optimum: see :class:`EntropyGap`.

    Parameters
    ----------
    estimator : LatentModel
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    array of shape (n_components,)
    """
    model = as_latent_model(estimator, "second_moments")
    mean, variance = standard_posterior(model, X)
    return (mean**2 + variance).mean(axis=0)


def standard_posterior(model: LatentModel, X: Any) -> tuple[Array, Array]:
    """Means and variances of q(z|x) in units of the prior, of shape (n_samples, k), in float64."""
    mean, variance = (np.asarray(to_host(array), dtype=np.float64) for array in model.posterior(X))
    prior_variance = np.asarray(model.prior_variance, dtype=np.float64)
    return mean / np.sqrt(prior_variance), variance / prior_variance


def kl_terms(mean: Array, variance: Array) -> Array:
    """KL(N(mean, variance) || N(0, 1)) of each entry, in nats; infinite for a variance of 0."""
    with np.errstate(divide="ignore"):
        return bounds.kl_per_dimension(mean**2 + variance, np.log(variance))


def _check_definition(delta: Any, criterion: Any) -> None:
    if not (is_real(delta) and 0 <= delta < 1):
        raise ValueError(f"delta must be in [0, 1), got {delta!r}.")
    check_choice("criterion", criterion, CRITERIA)


def _thresholds(terms: Array, delta: float, criterion: str) -> Array:
    """Least epsilon for which each dimension has collapsed, from the KL of each sample."""
    if criterion == "average":
        return terms.mean(axis=0)
    n = len(terms)
    # The most samples that may be above: the largest count with count / n <= delta.
    above = int(np.flatnonzero(np.arange(n) / n <= delta)[-1])
    return np.partition(terms, n - 1 - above, axis=0)[n - 1 - above]
