"""The findings of `diagnose` about noise, scales and collapse, and the order of all findings.

Each function takes the evidence and returns a :class:`Finding` or None. To add one, write it here, in
`network_findings.py` or in `training_findings.py`, and list it in `FINDINGS`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.advice import (
    Remedy,
    on_depth,
    on_length,
    on_noise,
    on_objective,
    on_optimum,
    on_size,
    other,
)
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.diagnostics.network_findings import (
    copied_dimensions,
    dominating_dimension,
    ignored_latents,
    inactive_units,
    similar_dimensions,
)
from sklearn_vae.diagnostics.reference import GaussianReference
from sklearn_vae.diagnostics.report import Finding
from sklearn_vae.diagnostics.texts import difference, errors, noise_and_optimum, shortfall
from sklearn_vae.diagnostics.training_findings import (
    is_validated,
    overfitting,
    unfinished,
    unstable,
)
from sklearn_vae.gaussian.tolerances import NOISE_RATIO, OPEN_SHARE, SHARE_OF_GAIN, WEAK_KL
from sklearn_vae.gaussian.trend import trend_of
from sklearn_vae.protocol import Array, EncoderDecoder, LatentModel

# A feature dominates if one tenth of the features, or a single one, have more than this share of the
# variance, and a noise variance per feature would be better.
DOMINATING = 0.95


def dominating_feature(case: Evidence) -> Finding | None:
    """Find features whose scale is so large that a shared noise variance hides all others."""
    if case.noise is None or np.ndim(case.model.shared_noise_variance):
        return None
    variances = case.reference.feature_variances
    n_few = max(1, len(variances) // 10)
    largest = np.argsort(-variances, kind="stable")[:n_few]
    share = float(variances[largest].sum() / variances.sum())
    case.numbers["largest_share"] = float(variances.max() / variances.sum())
    if len(variances) < 3 or share <= DOMINATING:
        return None
    std = np.sqrt(variances)
    std[std == 0] = 1.0
    kind = type(case.reference)
    standardized = kind(case.reference.X, case.reference.subset, case.k, std)
    gain = standardized.bound_at(standardized.noise_variance) - case.reference_bound
    if gain <= case.margin:
        return None
    title = f"{_named(case, largest[:1])} has {_percent(case.numbers['largest_share'])}"
    if n_few > 1 and case.numbers["largest_share"] <= DOMINATING:
        title = f"{_named(case, largest)} have {_percent(share)}"
    evidence = (
        (
            f"The noise variance {case.noise:.4g} is the same for all features, and above the "
            f"variance of {int((variances < case.noise).sum())} of {len(variances)} features."
        ),
        f"pPCA of the standardized features describes X better, by {gain:.4g} nats per sample.",
    )
    remedies = [other("standardize the features, for example with StandardScaler")]
    if "noise_model" in case.parameters:
        changes: dict[str, Any] = {"noise_model": "diagonal"}
        changes |= {} if case.fixed_noise is None else {"noise_variance": None}
        text = "use a noise variance per feature"
        remedies.insert(0, Remedy(f'{text}: noise_model="diagonal"', changes))
    elif case.model.trained_elsewhere:
        remedies.append(other("or learn a noise variance per feature"))
    else:
        remedies.append(other("or use FactorAnalysis, which has a noise variance per feature"))
    numbers = {"share": share, "gain": gain}
    return Finding("scale", f"{title} of the variance.", True, evidence, numbers, tuple(remedies))


def _named(case: Evidence, indices: Array) -> str:
    names = case.names if case.names is None else np.asarray(case.names)[indices]
    texts = [
        f"{index}" if names is None else f"{index} ({name})"
        for index, name in zip(indices, indices if names is None else names, strict=True)
    ]
    return f"Feature{'s' * (len(texts) > 1)} {', '.join(texts)}"


def _percent(share: float) -> str:
    """Write a share in percent, rounded down to one decimal."""
    return f"{math.floor(1000.0 * share) / 10.0:g}%"


# Variances of p(x|z), relative to those of the features. A variance is near zero if it is below
# NEAR_ZERO and below FAR_BELOW times the median. The decoder degenerates if more than
# SHARE_NEAR_ZERO of them are. A sample has little noise if the geometric mean over its features is
# below LITTLE_NOISE and SPREAD times below the median over samples, or if the sample is a duplicate
# and the mean is SPREAD_OF_COPIES times below.
NEAR_ZERO = 1e-4
FAR_BELOW = 1e-3
SHARE_NEAR_ZERO = 0.01
LITTLE_NOISE = 1e-3
SPREAD = 30.0
SPREAD_OF_COPIES = 8.0


def degenerate_variances(case: Evidence) -> Finding | None:
    """Find degenerate variances of a heteroscedastic decoder."""
    if case.is_bernoulli or case.noise is not None:
        return None
    case.numbers |= _variance_numbers(case)
    geometric_means = _geometric_means(case)
    typical = float(np.exp(np.median(geometric_means)))
    has_little_noise = geometric_means < np.log(min(LITTLE_NOISE, typical / SPREAD))
    has_less_noise = geometric_means < np.log(typical / SPREAD_OF_COPIES)
    is_copy = _is_repeated(case.reference.subset, has_little_noise | has_less_noise)
    has_little_noise |= is_copy
    share = case.numbers["near_zero"]
    if not has_little_noise.any() and share <= SHARE_NEAR_ZERO:
        return None
    copies = int(is_copy.sum())
    harmful = copies > 0 or share > SHARE_NEAR_ZERO
    evidence = [
        (
            f"{share:.1%} of the variances of p(x|z) are near zero. Relative to the variances of "
            f"the features, they range from {case.numbers['least_variance']:.2g} to "
            f"{case.numbers['largest_variance']:.2g}, with a median of "
            f"{case.numbers['median_variance']:.2g}."
        )
    ]
    n_few = int(has_little_noise.sum())
    if n_few:
        evidence.append(
            f"For {n_few} of {len(geometric_means)} samples, the geometric mean of these ratios is "
            f"as low as {np.exp(geometric_means.min()):.2g}, compared with a median of "
            f"{typical:.2g} over all samples. {copies} of these samples are duplicates."
        )
    if harmful:
        evidence.append(
            "The ELBO grows without limit if even a few values are reproduced without noise, "
            "however badly all others are modeled."
        )
    remedies = [other("use the same noise variance for all z")]
    if "noise_model" in case.parameters:
        text = f'{remedies[0].text}: noise_model="diagonal" or "scalar"'
        remedies = [Remedy(text, {"noise_model": "diagonal"})]
    if copies:
        remedies.append(other("remove repeated samples"))
    if harmful:
        remedies.append(other("add noise to rounded values, for example with Dequantizer"))
    title = "The decoder variances degenerate." if harmful else "Some samples have little noise."
    numbers = {"rows": n_few, "copies": copies, "near_zero": share}
    return Finding("degenerate", title, harmful, tuple(evidence), numbers, tuple(remedies))


def _variance_numbers(case: Evidence) -> dict[str, float]:
    ratio = case.decoded[1] / case.reference.scale**2
    median = np.median(ratio)
    return {
        "least_variance": float(ratio.min()),
        "median_variance": float(median),
        "largest_variance": float(ratio.max()),
        "near_zero": float((ratio < min(NEAR_ZERO, FAR_BELOW * median)).mean()),
    }


def _geometric_means(case: Evidence) -> Array:
    """Compute log geometric means, per sample, of decoder variances over feature variances."""
    variance = case.decoded[1].astype(np.float64)
    feature_variance = np.nanvar(case.reference.X, axis=0, dtype=np.float64)
    varying = feature_variance > 0
    return np.log(variance[:, varying] / feature_variance[varying]).mean(axis=1)


def _is_repeated(samples: Array, among: Array) -> Array:
    """Return the mask of the samples that are equal to another sample, among those of a mask."""
    mask = among.copy()
    _, inverse, counts = np.unique(samples[among], axis=0, return_inverse=True, return_counts=True)
    mask[among] = (counts > 1)[inverse.ravel()]
    return mask


def noise_too_large(case: Evidence) -> Finding | None:
    """Find a noise variance that is, or was, so large that it hides dimensions."""
    if case.noise is None:
        return None
    beta, best = case.kl_weight, case.numbers["tuned_noise_variance"]
    effective, reference = beta * case.noise, case.numbers["reference_noise_variance"]
    lost = max(case.reference_bound, case.numbers["tuned_elbo"]) - case.elbo
    if effective <= NOISE_RATIO * reference or lost <= case.margin:
        return None
    # A learned noise variance at its optimum is a consequence of collapse, not its cause. And no
    # noise variance can hide dimensions that the data does not have.
    if case.fixed_noise is None and beta <= 1 and case.noise <= NOISE_RATIO * best:
        return None
    eigenvalues = case.reference.eigenvalues
    hidden = int((eigenvalues <= effective).sum())
    n_weak = int((case.collapse.kl_per_dim <= WEAK_KL).sum()) if hidden else case.n_collapsed
    if not n_weak or case.k - n_weak >= case.reference.n_used:
        return None
    evidence = [
        noise_and_optimum(case),
        f"The ELBO {difference(case)}. The noise variance of pPCA is {reference:.4g}.",
    ]
    if beta > 1:
        evidence.append(
            f"kl_weight={beta:g} acts like a noise variance that is {beta:g} times larger."
        )
    if n_weak > case.n_collapsed:
        evidence.append(
            f"{n_weak} dimensions have a KL of at most {WEAK_KL:g} nats on average, and "
            f"{case.n_collapsed} of them have collapsed."
        )
    if hidden:
        evidence.append(
            f"{hidden} of the {len(eigenvalues)} largest eigenvalues of the data covariance are "
            f"below {effective:.4g}. With this noise variance, even the best linear model does "
            "not use these dimensions."
        )
    numbers = {"effective_noise_variance": effective, "hidden_eigenvalues": hidden, "lost": lost}
    remedies = tuple(on_noise(case)) or tuple(on_length(case.model))
    title = "The noise variance is too large, which hides dimensions."
    return Finding("large_noise", title, True, tuple(evidence), numbers, remedies)


def another_objective(case: Evidence) -> Finding | None:
    """Find harm done by a training objective other than the ELBO."""
    free_bits = case.model.free_bits
    is_bound = case.kl_weight == 1 and not free_bits
    if is_bound or (case.shortfall <= case.margin and not case.has_lost_dimensions):
        return None
    return Finding(
        "objective",
        "The training objective was not the ELBO.",
        True,
        (
            shortfall(case),
            f"The model was trained with kl_weight={case.kl_weight:g} and free_bits={free_bits:g}.",
        ),
        {"short": case.shortfall},
        (on_objective(case.model),),
    )


def bad_optimum(case: Evidence) -> Finding | None:
    """Find a bad local optimum, below the linear model."""
    if not case.is_below or not case.is_trained:
        return None
    return Finding(
        "optimum",
        "Bad local optimum: worse than the linear model with the same number of dimensions.",
        True,
        (shortfall(case), *errors(case)),
        {"short": case.shortfall},
        tuple(on_optimum(case.model)),
    )


def noise_off(case: Evidence) -> Finding | None:
    """Find a noise variance that is far from its optimum."""
    if case.noise is None or case.numbers["tuned_elbo"] - case.elbo <= case.margin:
        return None
    if "noise variance" in case.entropies.gap.active_bounds:  # as close as allowed
        return None
    if case.fixed_noise is None and is_validated(case):  # validation samples chose it, too
        return None
    evidence = [noise_and_optimum(case)]
    if free_bits := case.model.free_bits:
        evidence.append(
            f"free_bits={free_bits:g} keeps dimensions from collapsing, even useless ones. The ELBO "
            f"{difference(case)}."
        )
    return Finding(
        "noise",
        "The noise variance is far from its optimum.",
        True,
        tuple(evidence),
        {"gain": case.numbers["tuned_elbo"] - case.elbo},
        (*on_noise(case), *_tuning(case)),
    )


def _tuning(case: Evidence) -> tuple[Remedy, ...]:
    """Advise tune_noise_variance for models that it supports."""
    if type(case.model).with_tuned_noise is LatentModel.with_tuned_noise:
        return ()
    return (other("or set the noise variance of the fitted model: tune_noise_variance"),)


def lost_dimensions(case: Evidence) -> Finding | None:
    """Find a bad local optimum that lacks dimensions useful to PCA."""
    if not case.has_lost_dimensions or not case.n_collapsed:
        return None
    text = (
        f"{case.n_active} of {case.k} dimensions are active, but {case.reference.n_used} "
        "directions of the data exceed its noise."
    )
    return Finding(
        "optimum",
        "Bad local optimum: some collapsed dimensions are useful to PCA.",
        True,
        (text, *errors(case)),
        {"active": case.n_active, "directions": case.reference.n_used},
        tuple(on_optimum(case.model) if case.is_trained else on_noise(case)),
    )


def superfluous_dimensions(case: Evidence) -> Finding | None:
    """Find superfluous dimensions that were pruned."""
    if not case.n_collapsed:
        return None
    text = (
        f"{case.n_collapsed} of {case.k} dimensions carry no information about the data. The ELBO "
        f"{difference(case)}."
    )
    return Finding(
        "superfluous",
        "Superfluous dimensions were pruned, which is harmless.",
        False,
        (text, *errors(case)),
        {"collapsed": case.n_collapsed, "active": case.n_active},
        (on_size(case, max(case.n_active, 1), "drop them to save time"),),
    )


def kept_linear(case: Evidence) -> Finding | None:
    """Find a deep model that is its linear start."""
    return linear_start(case.model, case.linear_model)


def linear_start(model: EncoderDecoder, linear_model: str) -> Finding | None:
    """Find a model that kept its linear start, because training did not improve on it."""
    if not model.is_linear:
        return None
    text = "No epoch of training improved the linear model on validation samples, so it was kept."
    remedies = (other("use the linear estimator, which is faster, or fit more samples"),)
    return Finding("linear", f"The model is {linear_model}.", False, (text,), {}, remedies)


# The search stops at the first harmful finding.
FINDINGS = (
    dominating_feature,
    degenerate_variances,
    noise_too_large,
    another_objective,
    unstable,
    inactive_units,
    ignored_latents,
    copied_dimensions,
    dominating_dimension,
    overfitting,
    unfinished,
    similar_dimensions,
    bad_optimum,
    noise_off,
    lost_dimensions,
    superfluous_dimensions,
    kept_linear,
)


def findings(case: Evidence) -> tuple[Finding, ...]:
    """Collect the findings about a latent variable model, the harmful one first."""
    results: list[Finding] = []
    for find in FINDINGS:
        finding = find(case)
        if finding is not None:
            results.append(finding)
            if finding.harmful:
                break
    return tuple(sorted(results, key=lambda finding: not finding.harmful))


def worse_than_pca(
    model: EncoderDecoder, error: float, reference: GaussianReference
) -> Finding | None:
    """Find an autoencoder at a bad local optimum (Dai et al., section 4), or trained too briefly."""
    pca_error, variance = reference.error, reference.average_variance
    if error - pca_error <= SHARE_OF_GAIN * (variance - pca_error):
        return None
    text = (
        f"The mean squared reconstruction error is {error:.4g}, compared with {pca_error:.4g} for "
        f"PCA with the same number of dimensions and a variance of {variance:.4g}."
    )
    numbers = {"short": error - pca_error}
    scores = (model.training_history or {}).get("score", ())
    trend = trend_of(scores)
    is_open = trend.possible > OPEN_SHARE * (variance - pca_error)
    if is_open or (len(scores) and not trend.is_known):
        rest = f"The number of epochs, {len(scores)}, is too small to judge convergence."
        if is_open:
            rest = (
                f"Twice the epochs are expected to lower it by about {trend.expected:.2g} (+/- "
                f"{trend.uncertainty:.1g})."
            )
        title = "Training has not converged: worse than PCA."
        remedies = (*on_length(model), *on_depth(model))
        return Finding("unfinished", title, True, (text, rest), numbers, remedies)
    text += " A VAE with these networks is unlikely to do better, and may collapse."
    title = "Bad local optimum: worse than PCA."
    return Finding("optimum", title, True, (text,), numbers, (*on_depth(model), *on_length(model)))
