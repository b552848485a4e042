"""Removal of collapsed dimensions from a fitted model."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import collapse, kl_per_dimension
from sklearn_vae.diagnostics.entropies import TOLERANCE, compute_entropies
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.protocol import LatentModel, as_latent_model


def prune(
    estimator: LatentModel,
    X: Any = None,
    epsilon: float = COLLAPSE_KL,
    delta: float = COLLAPSE_SHARE,
) -> Any:
    """Remove the collapsed dimensions from a fitted model, without training.

    Where collapsed dimensions enter the decoder, they are set to the mean of their prior. As they
    carry no information, the ELBO changes little, and usually rises.

    Parameters
    ----------
    estimator : LatentModel
        Fitted model.
    X : array-like of shape (n_samples, n_features), default=None
        Samples that show which dimensions have collapsed. If None, these are the `collapsed_dims_`
        of the fit.
    epsilon, delta : float, default=0.01
        Definition of collapse, see :func:`collapse`. Only used if X is given.

    Returns
    -------
    estimator : object
        Model of the same class with fewer dimensions. For a model of another library it is a
        wrapper that pads latent vectors. Its attribute `kept_dims_` has the indices of the
        dimensions that were kept. With X, `elbo_`, `kl_per_dim_`, `entropy_bound_` and
        `entropy_gap_` of an estimator refer to X. Otherwise those that are not exact in closed form
        are those of the original model.

    Raises
    ------
    TypeError
        If the model cannot be pruned, or if X is None and `fit` did not set `collapsed_dims_`.
    ValueError
        If all dimensions have collapsed.

    See Also
    --------
    collapse : Find the dimensions that have collapsed onto the prior.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import prune
    >>> X = load_iris().data
    >>> model = PPCA(3, noise_variance=1.0).fit(X)
    >>> pruned = prune(model, X)
    >>> pruned.n_components, pruned.kept_dims_, round(pruned.score(X) - model.score(X), 6)
    (1, array([0]), 0.0)
    """
    model = as_latent_model(estimator, "prune")
    if X is not None:
        active = collapse(model, X, epsilon, delta).active
    elif (dims := getattr(estimator, "collapsed_dims_", None)) is not None:
        active = np.setdiff1d(np.arange(len(model.kl_per_dim_)), np.asarray(dims))
    else:
        raise TypeError(
            f"prune needs X to find the collapsed dimensions of {model.model_name}, which has no "
            "collapsed_dims_."
        )
    if not len(active):
        raise ValueError(
            "All dimensions have collapsed, so that none would be left. diagnose tells the cause."
        )
    pruned: Any = model.with_dimensions(active)
    if pruned is None:
        raise TypeError(
            f"{model.model_name} cannot be pruned: its posterior or its networks are not defined "
            "for single dimensions. A model with posterior, conditional and score_samples only can "
            "be adapted by sklearn_vae.adapters.FunctionModel first."
        )
    pruned.kept_dims_ = active
    if X is not None and not model.trained_elsewhere:
        terms = compute_entropies(pruned, X, TOLERANCE, model.active_bounds)
        pruned.elbo_, pruned.entropy_bound_ = terms.elbo, terms.bound
        pruned.entropy_gap_ = terms.gap
        pruned.kl_per_dim_ = kl_per_dimension(pruned, X)
        pruned.collapsed_dims_ = np.array([], dtype=np.intp)
    return pruned
