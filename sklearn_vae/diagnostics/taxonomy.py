"""Why dimensions have collapsed, by the taxonomy of Dai, Wang and Wipf, and what to do about it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from scipy import sparse
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_vae.diagnostics.advice import on_depth, on_length, on_noise, on_optimum
from sklearn_vae.diagnostics.entropies import complete_rows
from sklearn_vae.diagnostics.evidence import SHARE_OF_GAIN, Evidence
from sklearn_vae.diagnostics.reference import GaussianReference
from sklearn_vae.diagnostics.report import CollapseReport, Finding
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.protocol import check_model
from sklearn_vae.validation import FLOAT_DTYPES, check_integer

# How far above that of pPCA a noise variance may be.
NOISE_RATIO = 1.1

# Rise of the bound from the last tenth but one of the epochs to the last one, as a share of the
# reference's gain, above which training has not ended.
STILL_RISING = 0.005

# Geometric mean over the features of p(x|z)'s variances, over those of the features, that is near
# zero, the factor from there to that of most rows; and a share of all variances near their bound.
NEAR_ZERO = 1e-3
SPREAD = 30.0
SHARE_NEAR_ZERO = 0.01

# Rows of bits at most, whose reference is slow to fit.
ROWS_OF_BITS = 2000

NOT_APPLICABLE = (
    "(iv), a decoder that models x without z: not applicable to decoders that factorise over the "
    "features, as those here do."
)


def diagnose(
    estimator: Any, X: Any, max_samples: int = 10_000, random_state: int = 0
) -> CollapseReport:
    """What a fitted model did with its latent space, why, and what to do about it.

    Each finding is one of the categories of Dai et al.: (i) superfluous dimensions that were
    pruned, which does no harm; (ii) a noise variance that is, or was, too large; (iii) a
    heteroscedastic decoder that degenerates; (v) a bad local optimum, worse than the linear model
    with as many dimensions (pPCA, factor analysis where each feature has its own noise, logistic
    pPCA of bits), which the model contains or should beat. Besides: training that has not ended or
    was of something else than the bound, and a noise variance far from its optimum.

    Parameters
    ----------
    estimator : PPCA, PPCACV, LinearVAE, BernoulliPPCA, DeepGaussianVAE, DeepBernoulliVAE or \
            DeepAutoencoder
        Fitted.
    X : array-like of shape (n, d)
        The rows it was trained on, complete. pPCA is fitted to them, and to others the comparison
        would be unfair.
    max_samples : int, default=10000
        Rows, at random, that bounds are averaged over where there are more; of bits at most 2000.
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
    is_autoencoder = _is_autoencoder(estimator)
    if not is_autoencoder:
        check_model(estimator, "diagnose")
    check_is_fitted(estimator)
    complete_rows(X, "diagnose")
    X, estimator = _rows(estimator, X), _unnamed(estimator)
    seen, limit = X, min(max_samples, ROWS_OF_BITS if hasattr(estimator, "binarize") else 2**62)
    if X.shape[0] > limit:
        chosen = np.random.default_rng(random_state).choice(X.shape[0], limit, replace=False)
        seen = X[np.sort(chosen)]
    if is_autoencoder:
        return _diagnose_autoencoder(estimator, X, seen)
    case = Evidence(estimator, X, seen)
    findings = [*_degenerate(case), *_noise_too_large(case)]
    for category in (_another_objective, _unfinished, _bad_optimum, _noise_off, _lost):
        if not any(finding.harmful for finding in findings):
            findings += category(case)
    if not any(finding.harmful for finding in findings):
        findings += _superfluous(case)
    return CollapseReport(
        type(estimator).__name__,
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_components=case.k,
        collapse=case.collapse,
        entropies=case.entropies,
        numbers=case.numbers,
        findings=tuple(sorted(findings, key=lambda finding: not finding.harmful)),
        not_applicable=(NOT_APPLICABLE,),
    )


def _degenerate(case: Evidence) -> Iterator[Finding]:
    if "least_variance" not in case.numbers:
        return
    variance = case.decoded[1].astype(np.float64)
    of_features = to_host(case.rows).var(axis=0, dtype=np.float64)
    varying = of_features > 0
    log_ratio = np.log(variance[:, varying] / of_features[varying]).mean(axis=1)
    typical = float(np.exp(np.median(log_ratio)))
    few = log_ratio < np.log(min(NEAR_ZERO, typical / SPREAD))
    share = case.numbers["near_zero"]
    if not few.any() and share <= SHARE_NEAR_ZERO:
        return
    copies = _count_repeated(to_host(case.seen)[few])
    evidence = [
        (
            f"{share:.1%} of the variances of p(x|z) are near zero; over those of their "
            f"features they go from {case.numbers['least_variance']:.2g} to "
            f"{case.numbers['largest_variance']:.2g}, with a median of "
            f"{case.numbers['median_variance']:.2g}."
        )
    ]
    if few.any():
        evidence.append(
            f"On {few.sum()} of {len(few)} rows their geometric mean is down to "
            f"{np.exp(log_ratio.min()):.2g}, the median of all rows being {typical:.2g}; "
            f"{copies} of these rows are equal to others of them."
        )
    harmful = copies > 0 or share > SHARE_NEAR_ZERO
    if harmful:
        evidence.append(
            "A bound rises without limit where few numbers are reproduced without noise, whatever "
            "it says of all others."
        )
    advice = ['one noise variance for all z: noise_model="scalar" or "diagonal"']
    if copies:
        advice.append("remove repeated rows")
    if harmful:
        advice.append("add the noise that rounding has hidden, as Dequantizer does")
    title = "The decoder's variances degenerate." if harmful else "Some rows have little noise."
    numbers = {"rows": int(few.sum()), "copies": copies, "near_zero": share}
    yield Finding("iii", title, harmful, tuple(evidence), numbers, tuple(advice))


def _noise_too_large(case: Evidence) -> Iterator[Finding]:
    found, beta = case.numbers, case.kl_weight
    if case.noise is None or not len(case.collapse.collapsed):
        return
    sigma2, best = beta * case.noise, found["tuned_noise_variance"]
    lost = max(case.bar, found["tuned_elbo"]) - case.elbo
    reference = found["reference_noise_variance"]
    if sigma2 <= NOISE_RATIO * reference or lost <= case.margin:
        return
    # One that was learned and has arrived is the consequence of collapse, not its cause; and what
    # the data does not have no noise variance has hidden.
    if case.held is None and beta <= 1 and case.noise <= NOISE_RATIO * best:
        return
    if case.n_active >= case.reference.n_used:
        return
    hidden = int((case.reference.eigenvalues <= sigma2).sum())
    evidence = [
        (
            f"The noise variance is {'held fixed at' if case.held is not None else 'now'} "
            f"{case.noise:.4g}; {best:.4g} is the best for what was learned, and would add "
            f"{found['tuned_elbo'] - case.elbo:.4g} nats."
        ),
        (
            f"The bound is {case.elbo - case.bar:+.4g} nats from that of {case.linear_model}; pPCA's "
            f"noise variance is {reference:.4g}."
        ),
    ]
    if beta > 1:
        evidence.append(f"kl_weight={beta:g} acts on the networks as {beta:g} times this noise.")
    if hidden:
        evidence.append(
            f"{hidden} of the {len(case.reference.eigenvalues)} largest eigenvalues of the data "
            f"are below {sigma2:.4g}: there even the best linear model has none of these "
            "dimensions."
        )
    numbers = {"effective_noise_variance": sigma2, "hidden_eigenvalues": hidden, "lost": lost}
    advice = tuple(on_noise(case)) or tuple(on_length(case.model))
    yield Finding("ii", "The noise variance is too large.", True, tuple(evidence), numbers, advice)


def _another_objective(case: Evidence) -> Iterator[Finding]:
    free_bits = getattr(case.model, "free_bits", 0.0)
    short = case.own_bar - case.elbo
    if (case.kl_weight == 1 and not free_bits) or (
        short <= case.margin and not case.has_lost_dimensions
    ):
        return
    yield Finding(
        "objective",
        "Something else than the bound was maximised.",
        True,
        (_beside(case), f"With kl_weight={case.kl_weight:g} and free_bits={free_bits:g}."),
        {"short": short},
        ("train on the bound: kl_weight=1, free_bits=0",),
    )


def _unfinished(case: Evidence) -> Iterator[Finding]:
    history, short = case.history, case.own_bar - case.elbo
    tenth = len(history) // 10
    if not len(history) or short <= case.margin or case.n_active == 0:
        return
    if case.stopped_early:
        if len(case.collapse.collapsed):
            return
        yield Finding(
            "unfinished",
            "Early stopping ended training below the linear model.",
            False,
            (_beside(case), "Of the rows held out it may be the better one: score them."),
            {"short": short},
            ("train longer, if it is not: a larger n_iter_no_change, a smaller tol",),
        )
        return
    if tenth:
        rise = float(np.mean(history[-tenth:]) - np.mean(history[-2 * tenth : -tenth]))
        if rise <= STILL_RISING * case.gain:
            return
        said = f"It rose by {rise:.3g} nats from the last tenth of the steps but one on."
    else:
        rise, said = np.nan, f"There were {len(history)} epochs, too few to tell."
    yield Finding(
        "unfinished",
        "Training has not ended.",
        True,
        (_beside(case), said),
        {"rise": rise, "short": short},
        tuple(on_length(case.model)),
    )


def _bad_optimum(case: Evidence) -> Iterator[Finding]:
    short = case.own_bar - case.elbo
    stopped = case.stopped_early and not len(case.collapse.collapsed)
    if short <= case.margin or not case.is_trained or stopped:
        return
    evidence = [_beside(case)]
    if not case.has_bits:
        evidence.append(_errors(case))
    yield Finding(
        "v",
        "A bad local optimum: worse than the linear model of as many dimensions.",
        True,
        tuple(evidence),
        {"short": short},
        tuple(on_optimum(case.model)),
    )


def _noise_off(case: Evidence) -> Iterator[Finding]:
    found = case.numbers
    if case.noise is None or found["tuned_elbo"] - case.elbo <= case.margin:
        return
    if "noise variance" in case.entropies.gap.active_bounds:  # as near as it may come
        return
    best, free_bits = found["tuned_noise_variance"], getattr(case.model, "free_bits", 0.0)
    evidence = [
        (
            f"It is {'held fixed at' if case.held is not None else 'now'} {case.noise:.4g}; "
            f"{best:.4g} is the best for what was learned, and would add "
            f"{found['tuned_elbo'] - case.elbo:.4g} nats."
        ),
    ]
    if free_bits:
        evidence.append(
            f"free_bits={free_bits:g} keeps dimensions from collapsing, whatever they are worth; "
            f"the bound is {case.elbo - case.bar:+.4g} nats from that of {case.linear_model}."
        )
    yield Finding(
        "noise",
        "The noise variance is far from its optimum.",
        True,
        tuple(evidence),
        {"gain": found["tuned_elbo"] - case.elbo},
        (*on_noise(case), "or keep the model and set it: tune_noise_variance"),
    )


def _lost(case: Evidence) -> Iterator[Finding]:
    if not case.has_lost_dimensions or not len(case.collapse.collapsed):
        return
    yield Finding(
        "v",
        "A bad local optimum: dimensions have collapsed that PCA has a use for.",
        True,
        (
            (
                f"{case.n_active} of {case.k} dimensions are left, and {case.reference.n_used} "
                "directions of the data stand out of its noise."
            ),
            _errors(case),
        ),
        {"active": case.n_active, "directions": case.reference.n_used},
        tuple(on_optimum(case.model) if case.is_trained else on_noise(case)),
    )


def _superfluous(case: Evidence) -> Iterator[Finding]:
    count = len(case.collapse.collapsed)
    if not count:
        return
    evidence = [
        (
            f"{count} of {case.k} dimensions tell nothing of the data, and the bound of "
            f"{case.elbo:.6g} is {case.elbo - case.bar:+.4g} nats from that of {case.linear_model}, "
            f"all {case.k}."
        )
    ]
    if not case.has_bits:
        evidence.append(_errors(case))
    yield Finding(
        "i",
        "Superfluous dimensions were pruned, which does no harm.",
        False,
        tuple(evidence),
        {"collapsed": count, "active": case.n_active},
        (f"drop them, for speed: n_components={max(case.n_active, 1)}",),
    )


def _beside(case: Evidence) -> str:
    same = "" if case.held is None else " and the same noise variance"
    bar = case.own_bar if np.isfinite(case.own_bar) else case.bar
    return (
        f"The bound is {case.elbo:.6g}, that of {case.linear_model}{same} {bar:.6g}: "
        f"{bar - case.elbo:.4g} nats more, where without latents it is "
        f"{case.numbers['without_latents']:.6g}."
    )


def _errors(case: Evidence) -> str:
    spread = case.numbers["variance"]
    ours, pca = (case.numbers[f"{of}reconstruction_error"] for of in ("", "pca_"))
    return f"Reconstructions leave {ours / spread:.3%} of the variance, PCA's {pca / spread:.3%}."


def _diagnose_autoencoder(estimator: Any, X: Any, seen: Any) -> CollapseReport:
    k = int(estimator.n_components_)
    reference = GaussianReference(X, seen, k)
    error, bar = -float(estimator.score(seen)), reference.error
    spread = reference.average_variance
    findings = []
    # The autoencoder's own part of category (v): Dai et al., section 4.
    if error - bar > SHARE_OF_GAIN * (spread - bar):
        said = (
            f"The mean squared error of reconstructions is {error:.4g}, PCA's with as many "
            f"dimensions {bar:.4g}, of a variance of {spread:.4g}. A VAE of these networks has no "
            "reason to do better, and collapses where it cannot."
        )
        advice = (*on_depth(estimator), "train longer: more max_epochs")
        title = "A bad local optimum: worse than PCA."
        findings.append(Finding("v", title, True, (said,), {"short": error - bar}, advice))
    numbers = {"reconstruction_error": error, "pca_reconstruction_error": bar, "variance": spread}
    return CollapseReport(
        type(estimator).__name__,
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_components=k,
        collapse=None,
        entropies=None,
        numbers=numbers,
        findings=tuple(findings),
        not_applicable=("(i) to (iv): an autoencoder has neither a prior nor noise.",),
    )


def _is_autoencoder(estimator: Any) -> bool:
    module = sys.modules.get("sklearn_vae.deep.autoencoder")  # not loaded: then it is none
    return module is not None and isinstance(estimator, module.DeepAutoencoder)


def _unnamed(estimator: Any) -> Any:
    """A copy that takes arrays without names of features, and does not warn."""
    twin = copy.copy(estimator)
    vars(twin).pop("feature_names_in_", None)
    return twin


def _count_repeated(rows: Any) -> int:
    """How many of them are equal to another."""
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def _rows(estimator: Any, X: Any) -> Any:
    """X as an array of rows that differ, with the features of the fit."""
    X = validate_data(
        estimator,
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
