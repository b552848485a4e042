"""Verdicts of `diagnose`, all of which hold if a model is healthy."""

from __future__ import annotations

from collections.abc import Iterator

from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.diagnostics.findings import DOMINATING
from sklearn_vae.diagnostics.report import Finding, Verdict
from sklearn_vae.diagnostics.texts import ROUNDING, in_nats
from sklearn_vae.diagnostics.training_findings import is_validated, open_gain, possible_gain
from sklearn_vae.gaussian.tolerances import WEAK_KL

# Categories of the findings that are about collapse.
COLLAPSE_CAUSES = {
    "degenerate",
    "inactive",
    "ignored",
    "large_noise",
    "copies",
    "dominated",
    "optimum",
}


def verdicts(case: Evidence, findings: tuple[Finding, ...]) -> tuple[Verdict, ...]:
    """Collect the verdicts that apply to a model."""
    harmful = {finding.category: finding for finding in findings if finding.harmful}
    return (
        _collapse(case, harmful),
        _linear(case),
        *_noise(case, harmful),
        *_scale(case, harmful),
        _convergence(case, harmful),
        *_held_out(case, harmful),
    )


def _collapse(case: Evidence, harmful: dict[str, Finding]) -> Verdict:
    n_weak = int((case.collapse.kl_per_dim <= WEAK_KL).sum())
    names = COLLAPSE_CAUSES if n_weak else COLLAPSE_CAUSES - {"optimum"}
    causes = [finding.title for name, finding in harmful.items() if name in names]
    is_lost = bool(case.n_collapsed) and case.has_lost_dimensions
    if causes or is_lost:
        weak = f"KL of at most {WEAK_KL:g} nats in {n_weak} of {case.k} dimensions."
        reasons = [weak] * bool(n_weak or not causes) + causes[:1]
        return Verdict("collapse", False, f"harmful collapse: {' '.join(reasons)}")
    if not case.n_collapsed:
        dimensions = "the latent dimension is" if case.k == 1 else f"all {case.k} dimensions are"
        return Verdict("collapse", True, f"no harmful collapse: {dimensions} active.")
    text = f"{case.n_collapsed} of {case.k} dimensions have collapsed, and are not needed"
    return Verdict("collapse", True, f"no harmful collapse: {text}.")


def _linear(case: Evidence) -> Verdict:
    nats, name = -case.shortfall, case.matched_model
    if case.is_below:
        return Verdict("linear", False, f"bound {in_nats(-nats)} below {name}.")
    if case.model.is_linear or abs(nats) < ROUNDING * max(1.0, abs(case.elbo)):
        return Verdict("linear", True, f"bound equal to that of {name}.")
    if nats < 0:
        margin = f"less than the margin of {in_nats(case.margin)}"
        return Verdict("linear", True, f"bound {in_nats(-nats)} below {name}, {margin}.")
    return Verdict("linear", True, f"bound {in_nats(nats)} above {name}.")


def _noise(case: Evidence, harmful: dict[str, Finding]) -> Iterator[Verdict]:
    if case.noise is None:
        return
    gain = max(case.numbers["tuned_elbo"] - case.elbo, 0.0)
    wrong = {"noise", "large_noise"} & harmful.keys()
    is_small = gain <= case.margin
    if wrong:
        reason = "it hides dimensions" if is_small else f"the optimum would add {in_nats(gain)}"
        yield Verdict("noise", False, f"noise variance not at its optimum: {reason}.")
    elif is_small:
        text = f"noise variance at its optimum within {in_nats(gain)}."
        yield Verdict("noise", True, text)
    elif case.fixed_noise is None and is_validated(case):
        text = "noise variance chosen by validation samples"
        yield Verdict("noise", True, f"{text}; that of the training samples adds {in_nats(gain)}.")
    elif "noise variance" in case.entropies.gap.active_bounds:
        yield Verdict("noise", True, "noise variance at its lower limit.")
    else:
        text = f"noise variance not at its optimum, which would add {in_nats(gain)}."
        yield Verdict("noise", False, text)


def _scale(case: Evidence, harmful: dict[str, Finding]) -> Iterator[Verdict]:
    if "scale" in harmful:
        yield Verdict("scale", False, f"scales of the features: {harmful['scale'].title}")
    elif "largest_share" in case.numbers:
        share = case.numbers["largest_share"]
        name = "no harm from scales" if share > DOMINATING else "no feature dominates"
        yield Verdict("scale", True, f"{name}: the largest has {share:.1%} of all variance.")


def _convergence(case: Evidence, harmful: dict[str, Finding]) -> Verdict:
    if "unstable" in harmful:
        text = f"training is unstable: the ELBO varies by {in_nats(case.trend.noise)}."
        return Verdict("convergence", False, text)
    if text := open_gain(case):
        return Verdict("convergence", False, f"not converged: {text}.")
    return Verdict("convergence", True, _converged(case))


def _converged(case: Evidence) -> str:
    if case.model.is_linear:
        return "converged: no training improved the linear model on validation samples."
    if case.n_steps and is_validated(case):
        return f"converged: validation samples chose the number of {case.step}s."
    gain = in_nats(possible_gain(case))
    if case.is_trained and not case.n_steps:
        return f"convergence not judged without a history; rescaling the latents would add {gain}."
    return f"converged within {gain}."


def _held_out(case: Evidence, harmful: dict[str, Finding]) -> Iterator[Verdict]:
    if "overfit" in harmful:
        text = f"overfits: {harmful['overfit'].evidence[0]}"
        yield Verdict("held_out", False, text)
    elif case.held_out is not None:
        numbers = case.numbers
        nats = numbers["held_out_elbo"] - numbers["held_out_reference"]
        side = "above" if nats >= 0 else "below"
        text = (
            f"no overfitting: held-out samples are {in_nats(abs(nats))} {side} {case.linear_model}."
        )
        yield Verdict("held_out", True, text)
