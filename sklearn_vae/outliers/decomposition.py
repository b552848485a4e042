"""Distances of samples from a model, and the contributions of the features to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from sklearn_vae.containers import as_fitted, to_array, to_host
from sklearn_vae.gaussian import mahalanobis
from sklearn_vae.gaussian.mahalanobis import Distances
from sklearn_vae.protocol import LatentModel, LinearGaussian, as_latent_model
from sklearn_vae.validation import check_random_state

Array = NDArray[Any]

# Number of values in the samples that one call of a model gets, to bound the memory.
BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contributions of the features to the distance of each sample from the model.

    Parameters
    ----------
    t2 : ndarray of shape (n_samples, n_features)
        Contributions to Hotelling's T2. The sum over the features is T2.
    spe : ndarray of shape (n_samples, n_features)
        Contributions to the squared prediction error. The sum over the features is the SPE.
    feature_names : tuple of str
        Names of the features.

    See Also
    --------
    contributions : Compute the contributions.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.outliers import Contributions
    >>> parts = Contributions(np.array([[3.0, 0.5]]), np.array([[1.0, 0.0]]), ("a", "b"))
    >>> parts.total
    array([[4. , 0.5]])
    """

    t2: Array
    spe: Array
    feature_names: tuple[str, ...]

    @property
    def total(self) -> Array:
        """Sum of both contributions, (n_samples, n_features)."""
        return self.t2 + self.spe


def distances(estimator: Any, X: Any) -> Distances:
    """Split the distance of each sample from a model into T2 and SPE.

    Hotelling's T2 is the distance from the mean within the latent space, and the squared prediction
    error SPE (or Q) is the distance from the reconstruction, in units of the noise. In a linear
    Gaussian model they add up to the squared Mahalanobis distance, and their expectations are their
    degrees of freedom.

    Parameters
    ----------
    estimator : estimator
        Fitted model with `posterior` and `conditional`, or a pipeline that ends with one.
    X : array-like of shape (n_samples, n_features)
        Samples, with NaN for missing values if the model allows them.

    Returns
    -------
    distances : named tuple of ndarrays of shape (n_samples,)
        `t2`, `spe`, and their degrees of freedom `t2_dof` and `spe_dof`, which add up to the number
        of observed features.

    Raises
    ------
    TypeError
        If the model has no `posterior` or no `conditional`, or is one of a table with categories.

    See Also
    --------
    contributions : Contributions of the features to T2 and SPE.
    OutlierDetector : Outlier detector with p-values of these distances.

    Notes
    -----
    For x ~ N(mu, W W' + Psi) let r = Psi^-1/2 (x - mu), and let u_h be the orthonormal left singular
    vectors of Psi^-1/2 W with singular values s_h. Then T2 is the sum of (u_h'r)^2 / (1 + s_h^2),
    and SPE is |r|^2 minus the sum of (u_h'r)^2. x, mu, W and Psi are those of the observed features.

    For other models let x0 be the mean of p(x|z) at the mean of the prior. T2 is the squared
    distance of E[z|x] from E[z|x0] in units of the prior, and SPE is the sum of (x_j - E[x_j|z])^2 / Var[x_j|z] at
    z = E[z|x].

    References
    ----------
    Jackson and Mudholkar, "Control Procedures for Residuals Associated With Principal Component
    Analysis", Technometrics 1979, section 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.outliers import distances
    >>> X = load_iris().data
    >>> parts = distances(PPCA(2).fit(X), X)
    >>> print(f"{parts.t2.mean():.2f} of {parts.t2_dof[0]:.0f}")
    2.00 of 2
    """
    model, X, linear = _at_last_step(estimator, X, "distances")
    if linear is not None:
        return mahalanobis.distances(_as_float64(X), *linear)
    center = _center(model, X)
    t2, spe = _nonlinear_t2(model, X, center), _nonlinear_spe(model, X).sum(axis=1)
    n_observed = (~np.isnan(_as_float64(X))).sum(axis=1).astype(np.float64)
    t2_dof = np.minimum(n_observed, center.latent.size)
    return Distances(t2, spe, t2_dof, n_observed - t2_dof)


def contributions(
    estimator: Any, X: Any, feature_names: Any = None, random_state: Any = 0
) -> Contributions:
    """Split T2 and SPE of each sample among the features.

    Parameters
    ----------
    estimator : estimator
        Fitted model with `posterior` and `conditional`, or a pipeline that ends with one. The
        features are those that the last step gets.
    X : array-like of shape (n_samples, n_features)
        Samples, with NaN for missing values if the model allows them.
    feature_names : sequence of str, default=None
        Names of the features. If None, they are those of a DataFrame X or of the fitted model, as
        the steps of a pipeline rename them, or "x0", "x1" and so on.
    random_state : int, RandomState instance or None, default=0
        Seed or generator for the order of the features. Not used for linear models.

    Returns
    -------
    contributions : Contributions
        Contributions of each feature, which add up to T2 and SPE. Missing values contribute 0.

    Raises
    ------
    TypeError
        If the model has no `posterior` or no `conditional`, or is one of a table with categories.
    ValueError
        If `feature_names` has another length.

    See Also
    --------
    distances : Definition of T2 and SPE.

    Notes
    -----
    In a linear Gaussian model let v = R^-1/2 D^-1/2 (x - mu), where R are the correlations of the
    observed features and D is the diagonal matrix of their variances. The elements of v are
    uncorrelated with variance 1, and v_j is the one that belongs to feature j: of all ways to
    obtain such elements, their correlations with the features are the largest on average. Their
    squares add up to the squared Mahalanobis distance, and v_j^2 >= 0 is the sum of the
    contributions of feature j to T2 and SPE [1]_. If x - mu = a + b, where a is in the latent space
    and b is the residual, these two are v_aj v_j and v_bj v_j.

    For other models the contribution to SPE is (x_j - E[x_j|z])^2 / Var[x_j|z] at z = E[z|x]. The
    contribution to T2 is its change when the feature is set from that of x0 to x_j, averaged over
    one random order in which the features are set, and the reverse order. For a linear encoder the
    average is the Shapley value. This takes two calls of `posterior` per feature.

    References
    ----------
    .. [1] Garthwaite and Koch, "Evaluating the contributions of individual variables to a quadratic
       form", Australian & New Zealand Journal of Statistics 2016, section 3 (corr-max).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_vae import FactorAnalysis
    >>> from sklearn_vae.outliers import contributions, distances
    >>> X, _ = load_wine(return_X_y=True, as_frame=True)
    >>> parts = contributions(FactorAnalysis(2).fit(X), X[:1])
    >>> parts.feature_names[parts.total[0].argmax()]
    'od280/od315_of_diluted_wines'
    """
    names = getattr(X, "columns", getattr(estimator, "feature_names_in_", None))
    names = _names_at_last_step(estimator, names)
    model, X, linear = _at_last_step(estimator, X, "contributions")
    if linear is not None:
        t2, spe = mahalanobis.contributions(_as_float64(X), *linear)
    else:
        spe = _nonlinear_spe(model, X)
        t2 = _t2_by_order(model, _as_float64(X), check_random_state(random_state))
    return Contributions(t2, spe, _checked_names(feature_names, names, t2.shape[1]))


def linear_parameters(estimator: Any) -> LinearGaussian | None:
    """Return the parameters of a linear Gaussian model, the last step of a pipeline, or None."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator.linear_gaussian() if isinstance(estimator, LatentModel) else None


def _at_last_step(estimator: Any, X: Any, function: str) -> tuple[Any, Any, LinearGaussian | None]:
    """Return the model at the end of a pipeline, its input, and its parameters if it is linear."""
    while isinstance(estimator, Pipeline):
        X = estimator[:-1].transform(X) if len(estimator.steps) > 1 else X
        estimator = estimator.steps[-1][1]
    linear = linear_parameters(estimator)
    model = as_latent_model(estimator, function)
    if getattr(estimator, "categories_", None) and model.observation_family == "mixed":
        raise TypeError(
            f"{function} needs numbers, but {model.model_name} is a model of a table with categories. "
            "Use its method score_samples, which is lowest for the most unusual samples."
        )
    return model, X, linear


def _names_at_last_step(estimator: Any, names: Any) -> Any:
    """Return the names of the features that the last step of a pipeline gets, or None."""
    while isinstance(estimator, Pipeline):
        if len(estimator.steps) > 1:
            try:
                names = estimator[:-1].get_feature_names_out(names)
            except AttributeError:  # a step that does not name its output
                names = None
        estimator = estimator.steps[-1][1]
    return names


def _as_float64(X: Any) -> Array:
    return to_host(to_array(X)).astype(np.float64)


def _checked_names(given: Any, default: Any, n_features: int) -> tuple[str, ...]:
    names = default if given is None else given
    if given is None and (names is None or len(names) != n_features):
        names = [f"x{j}" for j in range(n_features)]
    if len(names) != n_features:
        raise ValueError(
            f"feature_names must have one name per feature, got {len(names)} names for "
            f"{n_features} features."
        )
    return tuple(str(name) for name in names)


@dataclass(frozen=True, eq=False)
class Center:
    """Mean of p(x|z) at the mean of the prior, for a nonlinear model, and its posterior mean."""

    sample: Array  # (n_features,)
    latent: Array  # (n_components,)


def _center(model: Any, X: Any) -> Center:
    n_components = model.posterior(X[:1])[0].shape[1]
    latent = np.zeros((1, n_components)) + model.prior_mean
    sample = _as_float64(model.conditional(latent)[0])
    return Center(sample[0], _as_float64(model.posterior(as_fitted(sample, model))[0])[0])


def _nonlinear_t2(model: Any, X: Any, center: Center) -> Array:
    Z = _as_float64(model.posterior(X)[0]) - center.latent
    return np.sum(Z**2 / np.asarray(model.prior_variance), axis=1)


def _nonlinear_spe(model: Any, X: Any) -> Array:
    """Return the squared standardized residual of each value, 0 where it is missing."""
    mean, variance = map(_as_float64, model.conditional(model.posterior(X)[0]))
    return np.nan_to_num((_as_float64(model.observations(X)) - mean) ** 2 / variance, nan=0.0)


def _t2_by_order(model: Any, X: Array, rng: np.random.RandomState) -> Array:
    """Split T2 by the changes when the features are set one after the other, in two orders."""
    center = _center(model, as_fitted(X[:1], model))
    order = rng.permutation(X.shape[1])
    size = max(BLOCK // (X.shape[1] + 1) ** 2, 1)
    parts = np.zeros(X.shape)
    for start in range(0, len(X), size):
        x = X[start : start + size]
        usual = np.where(np.isnan(x), np.nan, center.sample)
        for features in (order, order[::-1]):
            # steps[i] has the first i features of the order as in x.
            steps = np.repeat(usual[None], X.shape[1] + 1, axis=0)
            for i, feature in enumerate(features):
                steps[i + 1 :, :, feature] = x[:, feature]
            samples = as_fitted(steps.reshape(-1, X.shape[1]), model)
            t2 = _nonlinear_t2(model, samples, center)
            changes = np.diff(t2.reshape(len(steps), -1), axis=0)
            parts[start : start + size, features] += 0.5 * changes.T
    return parts
