"""Diagnosis of collapse by the taxonomy of Dai, Wang and Wipf."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_vae.diagnostics.entropies import complete_rows
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.diagnostics.findings import findings, worse_than_pca
from sklearn_vae.diagnostics.reference import GaussianReference
from sklearn_vae.diagnostics.report import CollapseReport
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.protocol import EncoderDecoder, LatentModel, adapted, as_latent_model
from sklearn_vae.validation import FLOAT_DTYPES, check_integer

# Most samples of bits, whose reference is slow to fit.
ROWS_OF_BITS = 2000

NOT_APPLICABLE = (
    "(iv), a decoder that models x without z: not applicable to decoders that factorise over the "
    "features, as those here do."
)


def diagnose(
    estimator: Any, X: Any, max_samples: int = 10_000, random_state: int = 0
) -> CollapseReport:
    """Report what a fitted model did with its latent space, why, and what to do about it.

    Each finding is one of the categories of Dai et al.: (i) superfluous dimensions that were
    pruned, which does no harm; (ii) a noise variance that is, or was, too large; (iii) a
    heteroscedastic decoder that degenerates; (v) a bad local optimum, worse than the linear model
    with as many dimensions (pPCA, factor analysis where each feature has its own noise, logistic
    pPCA of bits), which the model contains or should beat. Other findings are training that has not
    ended or maximised something else than the bound, and a noise variance far from its optimum.

    Parameters
    ----------
    estimator : PPCA, PPCACV, LinearVAE, BernoulliPPCA, DeepGaussianVAE, DeepBernoulliVAE, \
            DeepAutoencoder, or any object with `posterior`, `conditional` and `score_samples`
        Fitted.
    X : array-like of shape (n_samples, n_features)
        The data that it was trained on, without missing values: pPCA is fitted to them, and on
        other data the comparison would be unfair.
    max_samples : int, default=10000
        Most samples, at random, that bounds are averaged over; of bits at most 2000.
    random_state : int, default=0

    Returns
    -------
    CollapseReport

    Raises
    ------
    TypeError
        If the estimator is no such model.
    ValueError
        If X has missing values, not the features of the fit, or rows that are all the same; or if
        the model's noise variance is 0.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> report = diagnose(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> report.healthy, report.categories
    (False, ('ii',))
    """
    check_integer("max_samples", max_samples, at_least=2)
    check_integer("random_state", random_state, at_least=0)
    if _is_autoencoder(estimator):
        check_is_fitted(estimator)
    else:
        as_latent_model(estimator, "diagnose")
    complete_rows(X, "diagnose")
    X, model = _checked(adapted(estimator), X), adapted(_unnamed(estimator))
    seen = _sampled(model, X, max_samples, random_state)
    if _is_autoencoder(model):
        return _diagnose_autoencoder(model, X, seen)
    case = Evidence(model, X, seen)
    return CollapseReport(
        type(estimator).__name__,
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_components=case.k,
        collapse=case.collapse,
        entropies=case.entropies,
        findings=findings(case),
        numbers=case.numbers,
        not_applicable=(NOT_APPLICABLE,),
    )


def _diagnose_autoencoder(model: Any, X: Any, seen: Any) -> CollapseReport:
    k = int(model.n_components_)
    reference = GaussianReference(X, seen, k)
    error = -float(model.score(seen))
    finding = worse_than_pca(model, error, reference)
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
        findings=() if finding is None else (finding,),
        not_applicable=("(i) to (iv): an autoencoder has neither a prior nor noise.",),
    )


def _is_autoencoder(estimator: Any) -> bool:
    return isinstance(estimator, EncoderDecoder) and not isinstance(estimator, LatentModel)


def _unnamed(estimator: Any) -> Any:
    """A copy that takes arrays without feature names, and does not warn."""
    if not isinstance(estimator, BaseEstimator):
        return estimator
    unnamed = copy.copy(estimator)
    vars(unnamed).pop("feature_names_in_", None)
    return unnamed


def _checked(model: Any, X: Any) -> Any:
    """X as an array of rows that differ, with the features of the fit."""
    X = validate_data(
        model,
        X,
        reset=False,
        accept_sparse=True,
        dtype="numeric" if is_torch_array(X) else list(FLOAT_DTYPES),
        ensure_min_samples=2,
    )
    X = X.toarray() if sparse.issparse(X) else X
    if not (to_host(X[:1]) != to_host(X)).any():
        raise ValueError("X must have rows that are not all the same: diagnose compares them.")
    return X


def _sampled(model: Any, X: Any, max_samples: int, random_state: int) -> Any:
    """At most `max_samples` rows of X, at random."""
    has_bits = not _is_autoencoder(model) and model.observation_family == "bernoulli"
    limit = min(max_samples, ROWS_OF_BITS) if has_bits else max_samples
    if X.shape[0] <= limit:
        return X
    chosen = np.random.default_rng(random_state).choice(X.shape[0], limit, replace=False)
    return X[np.sort(chosen)]
