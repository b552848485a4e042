"""Diagnosis of posterior collapse, of its causes, and of training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_vae.containers import readable, to_host
from sklearn_vae.diagnostics.dimensions import curve_of, scales_of
from sklearn_vae.diagnostics.entropies import as_supported_array
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.diagnostics.findings import findings, linear_start, worse_than_pca
from sklearn_vae.diagnostics.reference import GaussianReference
from sklearn_vae.diagnostics.report import CollapseReport
from sklearn_vae.diagnostics.trained_elsewhere import report_without_reference, without_changes
from sklearn_vae.diagnostics.verdicts import verdicts
from sklearn_vae.protocol import EncoderDecoder, LatentModel, adapted, as_latent_model
from sklearn_vae.validation import FLOAT_DTYPES, check_integer

# Maximum number of binary samples, whose reference is slow to fit.
MAX_BINARY_SAMPLES = 2000


def diagnose(
    estimator: Any,
    X: Any,
    max_samples: int = 10_000,
    random_state: int = 0,
    X_held_out: Any = None,
) -> CollapseReport:
    """Diagnose posterior collapse and training, and suggest remedies.

    The model is compared with the linear model with the same number of dimensions: pPCA, factor
    analysis if there is a noise variance per feature, or logistic pPCA for binary features. It is
    healthy only if all of these verdicts hold:

    - there is no harmful collapse;
    - the ELBO is above that of the linear model, or less than a margin below it;
    - the noise variance, if it does not depend on z, is at its optimum;
    - no feature dominates the variance, if the noise variance is the same for all features;
    - training has converged. The rise of the ELBO that twice the number of epochs would bring is
      extrapolated from its history, and rescaling the latents adds no more than the margin. If
      validation samples have chosen the number of epochs, training has converged;
    - held-out samples, if `X_held_out` is given, do not lose most of what training samples gain.

    The categories of findings are:

    - "scale": a few features have nearly all variance, which hides the others;
    - "degenerate": the variances of a heteroscedastic decoder degenerate;
    - "unstable": the learning rate is too high;
    - "inactive": hidden units with "relu" are 0 for all samples;
    - "ignored": the output of the decoder does not depend on z;
    - "large_noise": the noise variance, or the KL weight, is or was too large;
    - "objective": the training objective was not the ELBO;
    - "copies": dimensions are copies of each other;
    - "dominated": one dimension carries nearly all information;
    - "overfit": held-out samples lose most of what training samples gain;
    - "unfinished": training has not converged;
    - "optimum": training ended at a bad local optimum, below the linear model;
    - "noise": the noise variance is far from its optimum;
    - "superfluous": superfluous dimensions were pruned, which is harmless;
    - "linear": a deep model is its linear start, because training did not improve on it.

    Parameters
    ----------
    estimator : LatentModel or DeepAutoencoder
        Fitted model. Any object with `posterior`, `conditional` and `score_samples` is accepted.
    X : array-like of shape (n_samples, n_features)
        Training data. The linear model is fitted to them, so other data would not give a fair
        comparison. Only `DeepGaussianVAE` accepts missing values (NaN): its bound and that of the
        linear model are then those of what is observed.
    max_samples : int, default=10000
        Maximum number of samples over which bounds are averaged, chosen at random. For binary
        features, at most 2000 are used.
    random_state : int, default=0
        Seed of the choice of samples.
    X_held_out : array-like of shape (n_held_out, n_features), default=None
        Samples that were not used in training, which show overfitting. With :class:`Snapshot`
        callbacks, the ELBO of these samples is followed over the epochs.

    Returns
    -------
    CollapseReport
        Findings with evidence and advice.

    Raises
    ------
    TypeError
        If the estimator lacks one of the methods above.
    ValueError
        If X or `X_held_out` has missing values that the model does not accept, a wrong number of
        features, or only identical samples, or if the noise variance of the model is 0.

    See Also
    --------
    collapse : Dimensions that have collapsed onto the prior.
    entropy_bound : Certificate of convergence.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 3. Their categories (i), (ii), (iii), (iv) and (v) are "superfluous", "large_noise",
    "degenerate", "ignored" and "optimum".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> report = diagnose(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> report.healthy, report.categories
    (False, ('large_noise',))
    """
    check_integer("max_samples", max_samples, at_least=2)
    check_integer("random_state", random_state, at_least=0)
    if _is_autoencoder(estimator):
        check_is_fitted(estimator)
    else:
        as_latent_model(estimator, "diagnose")
    _check_missing(estimator, X)
    X, model = _check_data(adapted(estimator), X), adapted(_without_feature_names(estimator))
    subset = _subsample(model, X, max_samples, random_state)
    if _is_autoencoder(model):
        return _diagnose_autoencoder(model, X, subset)
    held_out = None if X_held_out is None else _held_out(model, X_held_out, max_samples)
    names = getattr(estimator, "feature_names_in_", None)
    if not model.is_comparable:
        return report_without_reference(model, X, subset)
    case = Evidence(model, X, subset, held_out, names)
    collected = findings(case)
    if model.trained_elsewhere:  # it has no parameters to set
        collected = tuple(without_changes(finding) for finding in collected)
    return CollapseReport(
        model.model_name,
        n_samples=X.shape[0],
        n_features=case.n_features,
        n_components=case.k,
        collapse=case.collapse,
        entropies=case.entropies,
        verdicts=verdicts(case, collected),
        findings=collected,
        numbers=case.numbers,
        not_applicable=model.limitations,
        curve=curve_of(case.mean, case.variance),
        scales=scales_of(case.variance),
    )


def _diagnose_autoencoder(model: Any, X: Any, subset: Any) -> CollapseReport:
    k = int(model.n_components_)
    reference = GaussianReference(X, subset, k)
    error = -float(model.score(subset))
    finding = worse_than_pca(model, error, reference)
    finding = finding or linear_start(model, "PCA with the same number of dimensions")
    numbers = {
        "reconstruction_error": error,
        "pca_reconstruction_error": reference.error,
        "variance": reference.average_variance,
    }
    return CollapseReport(
        type(model).__name__,
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_components=k,
        collapse=None,
        entropies=None,
        numbers=numbers,
        verdicts=(),
        findings=() if finding is None else (finding,),
        not_applicable=("An autoencoder has no prior and no noise, so that it cannot collapse.",),
    )


def _is_autoencoder(estimator: Any) -> bool:
    return isinstance(estimator, EncoderDecoder) and not isinstance(estimator, LatentModel)


def _without_feature_names(estimator: Any) -> Any:
    """Return a copy that accepts arrays without feature names silently."""
    if not isinstance(estimator, BaseEstimator):
        return estimator
    copied = copy.copy(estimator)
    vars(copied).pop("feature_names_in_", None)
    return copied


def _held_out(model: Any, X: Any, max_samples: int) -> Any:
    """Validate held-out samples and return at most `max_samples` of them."""
    _check_missing(model, X)
    return _subsample(model, _check_data(model, X), max_samples, 0)


def _check_missing(model: Any, X: Any) -> None:
    """Raise ValueError if X has missing values, unless model and reference support them."""
    is_binary = getattr(model, "observation_family", None) == "bernoulli"
    as_supported_array(None if is_binary else model, X, "diagnose")


def _check_data(model: Any, X: Any) -> Any:
    """Validate X and return it as an array."""
    X = validate_data(
        model,
        readable(X),
        reset=False,
        accept_sparse=True,
        dtype="numeric" if is_torch_array(X) else list(FLOAT_DTYPES),
        ensure_min_samples=2,
        ensure_all_finite="allow-nan",  # the models that do not support NaN have refused it
    )
    X = X.toarray() if sparse.issparse(X) else X
    if not (to_host(X[:1]) != to_host(X)).any():
        raise ValueError(f"X must contain different samples, got {X.shape[0]} identical samples.")
    return X


def _subsample(model: Any, X: Any, max_samples: int, random_state: int) -> Any:
    """Choose at most `max_samples` samples at random."""
    is_binary = not _is_autoencoder(model) and model.observation_family == "bernoulli"
    limit = min(max_samples, MAX_BINARY_SAMPLES) if is_binary else max_samples
    if X.shape[0] <= limit:
        return X
    chosen = np.random.default_rng(random_state).choice(X.shape[0], limit, replace=False)
    return X[np.sort(chosen)]
