"""Active and collapsed latent dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian import bounds
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.protocol import Array, LatentModel, as_latent_model
from sklearn_vae.validation import check_choice, check_real, is_real

CRITERIA = ("share", "average")


@dataclass(frozen=True, eq=False)
class Collapse:
    """Collapsed dimensions of a latent space.

    Attributes
    ----------
    epsilon, delta : float
        Thresholds of the definition, see :func:`collapse`.
    criterion : {"share", "average"}
        Definition of collapse.
    kl_per_dim : ndarray of shape (n_components,)
        KL(q(z_h|x) || p(z_h)) averaged over the samples, in nats.
    share : ndarray of shape (n_components,)
        Share of the samples whose KL is at most epsilon.
    collapsed : ndarray of int
        Indices of the collapsed dimensions.

    See Also
    --------
    collapse : Find the dimensions that have collapsed onto the prior.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import collapse
    >>> X = load_iris().data
    >>> result = collapse(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> result.active, result.collapsed, result.percent
    (array([0]), array([1]), 50.0)
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
        """Indices of the dimensions that have not collapsed."""
        return np.setdiff1d(np.arange(self.n_components), self.collapsed)

    @property
    def percent(self) -> float:
        """Percentage of dimensions that have collapsed."""
        return 100.0 * len(self.collapsed) / max(self.n_components, 1)


@dataclass(frozen=True, eq=False)
class CollapseCurve:
    """Share of collapsed dimensions as a step function of epsilon.

    Attributes
    ----------
    thresholds : ndarray of shape (n_components,)
        Smallest epsilon, in nats, for which each dimension counts as collapsed.
    delta : float
        Share of the samples that may exceed epsilon, see :func:`collapse`.
    criterion : {"share", "average"}
        Definition of collapse.

    See Also
    --------
    collapse_curve : Compute the share of collapsed dimensions.
    sklearn_vae.plot.CollapseDisplay : Plot of these curves.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import collapse_curve
    >>> X = load_iris().data
    >>> curve = collapse_curve(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> curve.at([0.01, 10.0])
    array([0.5, 1. ])
    """

    thresholds: Array
    delta: float
    criterion: str

    def at(self, epsilon: Any) -> Array:
        """Compute the share of collapsed dimensions for each epsilon.

        Parameters
        ----------
        epsilon : float or array-like
            Thresholds of the KL, in nats.

        Returns
        -------
        ndarray of the shape of epsilon
            Shares in [0, 1].
        """
        steps = np.sort(self.thresholds)
        count = np.searchsorted(steps, np.asarray(epsilon, dtype=float), side="right")
        return count / max(len(steps), 1)


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """Latent dimensions whose posterior mean varies with the data.

    Attributes
    ----------
    variance : ndarray of shape (n_components,)
        Variance of the posterior mean over the samples, in units of the prior variance.
    threshold : float
        Variance above which a dimension is active.
    active : ndarray of int
        Indices of the active dimensions.

    See Also
    --------
    active_units : Find the dimensions whose posterior mean varies.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import active_units
    >>> X = load_iris().data
    >>> active_units(PPCA(2, noise_variance=1.0).fit(X), X).active
    array([0])
    """

    variance: Array
    threshold: float
    active: Array


def kl_per_dimension(estimator: LatentModel, X: Any) -> Array:
    """Compute the KL of each dimension, averaged over the samples.

    This is KL(q(z_h|x) || p(z_h)). On its training data it equals the estimator's `kl_per_dim_`.
    With flows, it is the KL of normal distributions with the same moments.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model.
    X : array-like of shape (n_samples, n_features)
        Samples.

    Returns
    -------
    ndarray of shape (n_components,)
        Average KL in nats.

    See Also
    --------
    decompose_kl : Split the KL into mutual information and marginal KL.
    sklearn_vae.plot.KLDisplay : Plot of the KL of each dimension.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import kl_per_dimension
    >>> X = load_iris().data
    >>> kl_per_dimension(PPCA(2).fit(X), X).round(1)
    array([2.2, 0.8])
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
    """Find the dimensions that have collapsed onto the prior.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model.
    X : array-like of shape (n_samples, n_features)
        Samples.
    epsilon : float, default=0.01
        Threshold of the KL in nats, at least 0.
    delta : float, default=0.01
        Share of the samples that may exceed epsilon, in [0, 1). Only used by the "share"
        criterion.
    criterion : {"share", "average"}, default="share"
        With "share", dimension h has collapsed if KL(q(z_h|x) || p(z_h)) is at most epsilon for at
        least a share 1 - delta of the samples. With "average", it has collapsed if the average KL
        is at most epsilon.

    Returns
    -------
    Collapse
        Collapsed dimensions and the KL of each dimension.

    See Also
    --------
    collapse_curve : Share of collapsed dimensions for every epsilon.
    active_units : Dimensions whose posterior mean varies with the data.
    diagnose : Causes and remedies of collapse.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), section 6.3 ("share");
    "Understanding Posterior Collapse in Generative Latent Variable Models" (2019), figure 4
    ("average").

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import collapse
    >>> X = load_iris().data
    >>> collapse(PPCA(2, noise_variance=1.0).fit(X), X).collapsed
    array([1])
    """
    model = as_latent_model(estimator, "collapse")
    check_real("epsilon", epsilon, at_least=0)
    _check_definition(delta, criterion)
    return collapse_of(*standard_posterior(model, X), epsilon, delta, criterion)


def collapse_of(
    mean: Array,
    variance: Array,
    epsilon: float = COLLAPSE_KL,
    delta: float = COLLAPSE_SHARE,
    criterion: str = "share",
) -> Collapse:
    """Compute :func:`collapse` from means and variances of q(z|x), in units of the prior."""
    terms = kl_terms(mean, variance)
    collapsed = np.flatnonzero(_thresholds(terms, delta, criterion) <= epsilon)
    share = (terms <= epsilon).mean(axis=0)
    return Collapse(epsilon, delta, criterion, terms.mean(axis=0), share, collapsed)


def collapse_curve(
    estimator: LatentModel, X: Any, delta: float = COLLAPSE_SHARE, criterion: str = "share"
) -> CollapseCurve:
    """Compute the share of collapsed dimensions as a function of epsilon.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model.
    X : array-like of shape (n_samples, n_features)
        Samples.
    delta : float, default=0.01
        Share of the samples that may exceed epsilon, in [0, 1).
    criterion : {"share", "average"}, default="share"
        Definition of collapse, see :func:`collapse`.

    Returns
    -------
    CollapseCurve
        Exact step function.

    See Also
    --------
    collapse : Collapsed dimensions for one epsilon.
    sklearn_vae.plot.CollapseDisplay : Plot of these curves.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import collapse_curve
    >>> X = load_iris().data
    >>> collapse_curve(PPCA(2, noise_variance=1.0).fit(X), X).at([0.01, 10.0])
    array([0.5, 1. ])
    """
    model = as_latent_model(estimator, "collapse_curve")
    _check_definition(delta, criterion)
    return curve_of(*standard_posterior(model, X), delta, criterion)


def curve_of(
    mean: Array, variance: Array, delta: float = COLLAPSE_SHARE, criterion: str = "share"
) -> CollapseCurve:
    """Compute :func:`collapse_curve` from means and variances of q(z|x), in units of the prior."""
    terms = kl_terms(mean, variance)
    return CollapseCurve(_thresholds(terms, delta, criterion), delta, criterion)


def scales_of(variance: Array) -> Array:
    """Compute quantiles over samples of the standard deviations of q(z|x), one row per dimension.

    The result has the columns 5 %, 50 % and 95 %.
    """
    return np.quantile(np.sqrt(variance), (0.05, 0.5, 0.95), axis=0).T


def active_units(estimator: LatentModel, X: Any, threshold: float = 0.01) -> ActiveUnits:
    """Find the dimensions whose posterior mean varies with the data.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model.
    X : array-like of shape (n_samples, n_features)
        Samples.
    threshold : float, default=0.01
        Variance of the posterior mean over the samples, in units of the prior variance, above
        which a dimension is active.

    Returns
    -------
    ActiveUnits
        Active dimensions and the variance of each dimension.

    See Also
    --------
    collapse : Dimensions that have collapsed onto the prior.

    References
    ----------
    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), section 5.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import active_units
    >>> X = load_iris().data
    >>> active_units(PPCA(2).fit(X), X).variance.round(1)
    array([1. , 0.8])
    """
    model = as_latent_model(estimator, "active_units")
    check_real("threshold", threshold, at_least=0)
    variance = standard_posterior(model, X)[0].var(axis=0)
    return ActiveUnits(variance, threshold, np.flatnonzero(variance > threshold))


def second_moments(estimator: LatentModel, X: Any) -> Array:
    """Compute the second moment of each latent dimension under the posterior.

    This is E_q z_h^2, averaged over the samples, in units of the prior variance. It is 1 if the
    scale of dimension h is at its optimum.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model.
    X : array-like of shape (n_samples, n_features)
        Samples.

    Returns
    -------
    ndarray of shape (n_components,)
        Second moments.

    See Also
    --------
    entropy_bound : Sum of entropies, whose gap to the ELBO depends on these moments.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import second_moments
    >>> X = load_iris().data
    >>> second_moments(PPCA(2).fit(X), X).round(1)
    array([1., 1.])
    """
    model = as_latent_model(estimator, "second_moments")
    mean, variance = standard_posterior(model, X)
    return (mean**2 + variance).mean(axis=0)


def standard_posterior(model: LatentModel, X: Any) -> tuple[Array, Array]:
    """Return means and variances of q(z|x) in float64, in units of the prior."""
    mean, variance = (np.asarray(to_host(array), dtype=np.float64) for array in model.posterior(X))
    prior_variance = np.asarray(model.prior_variance, dtype=np.float64)
    return (mean - model.prior_mean) / np.sqrt(prior_variance), variance / prior_variance


def kl_terms(mean: Array, variance: Array) -> Array:
    """Compute KL(N(mean, variance) || N(0, 1)) elementwise; infinite for a variance of 0."""
    with np.errstate(divide="ignore"):
        return bounds.kl_per_dimension(mean**2 + variance, np.log(variance))


def _check_definition(delta: Any, criterion: Any) -> None:
    if not (is_real(delta) and 0 <= delta < 1):
        raise ValueError(f"delta must be in [0, 1), got {delta!r}.")
    check_choice("criterion", criterion, CRITERIA)


def _thresholds(terms: Array, delta: float, criterion: str) -> Array:
    """Compute the smallest epsilon for which each dimension has collapsed."""
    if criterion == "average":
        return terms.mean(axis=0)
    n = len(terms)
    # Largest count with count / n <= delta, without the rounding of delta * n.
    above = int(np.flatnonzero(np.arange(n) / n <= delta)[-1])
    return np.partition(terms, n - 1 - above, axis=0)[n - 1 - above]
