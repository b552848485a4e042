"""The findings of `diagnose`: thresholds, texts and advice.

A finding is a function of the evidence that returns a :class:`Finding` or None. To add one, write
it here and put it into `FINDINGS`.
"""

from __future__ import annotations

import numpy as np

from sklearn_vae.diagnostics.advice import on_depth, on_length, on_noise, on_optimum
from sklearn_vae.diagnostics.evidence import SHARE_OF_GAIN, Evidence
from sklearn_vae.diagnostics.reference import GaussianReference
from sklearn_vae.diagnostics.report import Finding
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.protocol import Array, EncoderDecoder

# (iii) Variances of p(x|z), relative to those of the features. A variance is near zero if it is
# below NEAR_ZERO and below FAR_BELOW times the median; the model degenerates if more than
# SHARE_NEAR_ZERO of them are. A sample has little noise if the geometric mean over its features is
# below LITTLE_NOISE and SPREAD times below that of most samples.
NEAR_ZERO = 1e-4
FAR_BELOW = 1e-3
SHARE_NEAR_ZERO = 0.01
LITTLE_NOISE = 1e-3
SPREAD = 30.0


def degenerate_variances(case: Evidence) -> Finding | None:
    """(iii) A heteroscedastic decoder whose variances degenerate."""
    if case.has_bits or case.noise is not None:
        return None
    case.numbers |= _variance_numbers(case)
    geometric_means = _geometric_means(case)
    typical = float(np.exp(np.median(geometric_means)))
    few = geometric_means < np.log(min(LITTLE_NOISE, typical / SPREAD))
    share = case.numbers["near_zero"]
    if not few.any() and share <= SHARE_NEAR_ZERO:
        return None
    copies = _count_repeated(to_host(case.seen)[few])
    harmful = copies > 0 or share > SHARE_NEAR_ZERO
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
            f"{np.exp(geometric_means.min()):.2g}, the median of all rows being {typical:.2g}; "
            f"{copies} of these rows are equal to others of them."
        )
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
    return Finding("iii", title, harmful, tuple(evidence), numbers, tuple(advice))


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
    """Logarithms, over the features of each sample, of variances over those of the features."""
    variance = case.decoded[1].astype(np.float64)
    feature_variance = to_host(case.rows).var(axis=0, dtype=np.float64)
    varying = feature_variance > 0
    return np.log(variance[:, varying] / feature_variance[varying]).mean(axis=1)


def _count_repeated(rows: Array) -> int:
    """Number of rows that are equal to another."""
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


# (ii) A noise variance above this multiple of pPCA's is too large.
NOISE_RATIO = 1.1


def noise_too_large(case: Evidence) -> Finding | None:
    """(ii) A noise variance that is, or was, too large, and has hidden dimensions."""
    if case.noise is None or not case.n_collapsed:
        return None
    beta, best = case.kl_weight, case.numbers["tuned_noise_variance"]
    effective, reference = beta * case.noise, case.numbers["reference_noise_variance"]
    lost = max(case.bar, case.numbers["tuned_elbo"]) - case.elbo
    if effective <= NOISE_RATIO * reference or lost <= case.margin:
        return None
    # A learned noise variance at its optimum is the consequence of collapse, not its cause; and no
    # noise variance can hide dimensions that the data does not have.
    if case.held is None and beta <= 1 and case.noise <= NOISE_RATIO * best:
        return None
    if case.n_active >= case.reference.n_used:
        return None
    eigenvalues = case.reference.eigenvalues
    hidden = int((eigenvalues <= effective).sum())
    evidence = [
        f"The noise variance {_noise_and_best(case)}",
        f"The bound is {_distance(case)}; pPCA's noise variance is {reference:.4g}.",
    ]
    if beta > 1:
        evidence.append(f"kl_weight={beta:g} acts on the networks as {beta:g} times this noise.")
    if hidden:
        evidence.append(
            f"{hidden} of the {len(eigenvalues)} largest eigenvalues of the data are below "
            f"{effective:.4g}: there even the best linear model has none of these dimensions."
        )
    numbers = {"effective_noise_variance": effective, "hidden_eigenvalues": hidden, "lost": lost}
    advice = tuple(on_noise(case)) or tuple(on_length(case.model))
    return Finding("ii", "The noise variance is too large.", True, tuple(evidence), numbers, advice)


def another_objective(case: Evidence) -> Finding | None:
    """Training that maximised something else than the bound."""
    free_bits = case.model.free_bits
    is_bound = case.kl_weight == 1 and not free_bits
    if is_bound or (case.shortfall <= case.margin and not case.has_lost_dimensions):
        return None
    return Finding(
        "objective",
        "Something else than the bound was maximised.",
        True,
        (_shortfall(case), f"With kl_weight={case.kl_weight:g} and free_bits={free_bits:g}."),
        {"short": case.shortfall},
        ("train on the bound: kl_weight=1, free_bits=0",),
    )


def stopped_too_early(case: Evidence) -> Finding | None:
    """Early stopping ended training below the linear model."""
    if not _is_unfinished(case) or not case.model.stopped_early or case.n_collapsed:
        return None
    return Finding(
        "unfinished",
        "Early stopping ended training below the linear model.",
        False,
        (_shortfall(case), "Of the rows held out it may be the better one: score them."),
        {"short": case.shortfall},
        ("train longer, if it is not: a larger n_iter_no_change, a smaller tol",),
    )


# Rise of the bound from the last tenth but one of the epochs to the last one, as a share of the
# reference's gain, above which training has not ended.
STILL_RISING = 0.005


def unfinished(case: Evidence) -> Finding | None:
    """Training has not ended."""
    if not _is_unfinished(case) or case.model.stopped_early:
        return None
    tenth = len(case.history) // 10
    if tenth:
        before, last = case.history[-2 * tenth : -tenth], case.history[-tenth:]
        rise = float(np.mean(last) - np.mean(before))
        if rise <= STILL_RISING * case.gain:
            return None
        text = f"It rose by {rise:.3g} nats from the last tenth of the steps but one on."
    else:
        rise, text = np.nan, f"There were {len(case.history)} epochs, too few to tell."
    return Finding(
        "unfinished",
        "Training has not ended.",
        True,
        (_shortfall(case), text),
        {"rise": rise, "short": case.shortfall},
        tuple(on_length(case.model)),
    )


def _is_unfinished(case: Evidence) -> bool:
    return bool(len(case.history) and case.shortfall > case.margin and case.n_active)


def bad_optimum(case: Evidence) -> Finding | None:
    """(v) A bad local optimum, below the linear model."""
    stopped = case.model.stopped_early and not case.n_collapsed
    if case.shortfall <= case.margin or not case.is_trained or stopped:
        return None
    return Finding(
        "v",
        "A bad local optimum: worse than the linear model of as many dimensions.",
        True,
        (_shortfall(case), *_errors(case)),
        {"short": case.shortfall},
        tuple(on_optimum(case.model)),
    )


def noise_off(case: Evidence) -> Finding | None:
    """The noise variance is far from its optimum."""
    if case.noise is None or case.numbers["tuned_elbo"] - case.elbo <= case.margin:
        return None
    if "noise variance" in case.entropies.gap.active_bounds:  # as near as it may come
        return None
    evidence = [f"It {_noise_and_best(case)}"]
    if free_bits := case.model.free_bits:
        evidence.append(
            f"free_bits={free_bits:g} keeps dimensions from collapsing, whatever they are worth; "
            f"the bound is {_distance(case)}."
        )
    return Finding(
        "noise",
        "The noise variance is far from its optimum.",
        True,
        tuple(evidence),
        {"gain": case.numbers["tuned_elbo"] - case.elbo},
        (*on_noise(case), "or keep the model and set it: tune_noise_variance"),
    )


def lost_dimensions(case: Evidence) -> Finding | None:
    """(v) A bad local optimum that lacks dimensions which PCA has a use for."""
    if not case.has_lost_dimensions or not case.n_collapsed:
        return None
    text = (
        f"{case.n_active} of {case.k} dimensions are left, and {case.reference.n_used} "
        "directions of the data stand out of its noise."
    )
    return Finding(
        "v",
        "A bad local optimum: dimensions have collapsed that PCA has a use for.",
        True,
        (text, *_errors(case)),
        {"active": case.n_active, "directions": case.reference.n_used},
        tuple(on_optimum(case.model) if case.is_trained else on_noise(case)),
    )


def superfluous_dimensions(case: Evidence) -> Finding | None:
    """(i) Superfluous dimensions were pruned."""
    if not case.n_collapsed:
        return None
    text = (
        f"{case.n_collapsed} of {case.k} dimensions tell nothing of the data, and the bound of "
        f"{case.elbo:.6g} is {_distance(case)}, all {case.k}."
    )
    return Finding(
        "i",
        "Superfluous dimensions were pruned, which does no harm.",
        False,
        (text, *_errors(case)),
        {"collapsed": case.n_collapsed, "active": case.n_active},
        (f"drop them, for speed: n_components={max(case.n_active, 1)}",),
    )


# In this order; the search ends at the first harmful finding.
FINDINGS = (
    degenerate_variances,
    noise_too_large,
    another_objective,
    stopped_too_early,
    unfinished,
    bad_optimum,
    noise_off,
    lost_dimensions,
    superfluous_dimensions,
)


def findings(case: Evidence) -> tuple[Finding, ...]:
    """Findings about a model with a latent distribution, the harmful one first."""
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
    """(v) An autoencoder at a bad local optimum: Dai et al., section 4."""
    bar, spread = reference.error, reference.average_variance
    if error - bar <= SHARE_OF_GAIN * (spread - bar):
        return None
    text = (
        f"The mean squared error of reconstructions is {error:.4g}, PCA's with as many "
        f"dimensions {bar:.4g}, of a variance of {spread:.4g}. A VAE of these networks has no "
        "reason to do better, and collapses where it cannot."
    )
    advice = (*on_depth(model), "train longer: more max_epochs")
    title = "A bad local optimum: worse than PCA."
    return Finding("v", title, True, (text,), {"short": error - bar}, advice)


def _noise_and_best(case: Evidence) -> str:
    held = "is held fixed at" if case.held is not None else "is now"
    return (
        f"{held} {case.noise:.4g}; {case.numbers['tuned_noise_variance']:.4g} is the best for what "
        f"was learned, and would add {case.numbers['tuned_elbo'] - case.elbo:.4g} nats."
    )


def _distance(case: Evidence) -> str:
    return f"{case.elbo - case.bar:+.4g} nats from that of {case.linear_model}"


def _shortfall(case: Evidence) -> str:
    same = "" if case.held is None else " and the same noise variance"
    bar = case.own_bar if np.isfinite(case.own_bar) else case.bar
    return (
        f"The bound is {case.elbo:.6g}, that of {case.linear_model}{same} {bar:.6g}: "
        f"{bar - case.elbo:.4g} nats more, where without latents it is "
        f"{case.numbers['without_latents']:.6g}."
    )


def _errors(case: Evidence) -> tuple[str, ...]:
    """A sentence about reconstructions, except of bits."""
    if case.has_bits:
        return ()
    spread = case.numbers["variance"]
    ours, pca = (case.numbers[f"{of}reconstruction_error"] for of in ("", "pca_"))
    return (
        f"Reconstructions leave {ours / spread:.3%} of the variance, PCA's {pca / spread:.3%}.",
    )
