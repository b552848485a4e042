"""Verdicts of `diagnose`, all of which hold if a model is healthy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sklearn_vae.diagnostics.evidence import WEAK_KL, Evidence
from sklearn_vae.diagnostics.report import Finding, Verdict
from sklearn_vae.diagnostics.training_findings import is_validated, open_gain, possible_gain

# Categories of the findings that are about collapse.
OF_COLLAPSE = {"degenerate", "inactive", "ignored", "large_noise", "copies", "dominated", "optimum"}


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
    causes = [finding.title for name, finding in harmful.items() if name in OF_COLLAPSE]
    is_lost = bool(case.n_collapsed) and case.has_lost_dimensions
    if causes or is_lost:
        n_weak = int((case.collapse.kl_per_dim <= WEAK_KL).sum())
        text = f"harmful collapse: {n_weak} of {case.k} dimensions carry at most {WEAK_KL:g} nats"
        return Verdict("collapse", False, text + (f". {causes[0]}" if causes else "."))
    if not case.n_collapsed:
        return Verdict(
            "collapse", True, f"no harmful collapse: all {case.k} dimensions are active."
        )
    text = f"no harmful collapse: the {case.n_collapsed} collapsed dimensions carry no information."
    return Verdict("collapse", True, text)


def _linear(case: Evidence) -> Verdict:
    is_matched = bool(np.isfinite(case.matched_bound))
    nats = -case.shortfall if is_matched else case.elbo - case.reference_bound
    name = case.linear_model
    if case.fixed_noise is not None and is_matched:
        name += " and noise variance"
    if case.is_below:
        return Verdict("linear", False, f"bound {-nats:.3g} nats below {name}.")
    if case.model.is_linear or abs(nats) < 1e-6 * max(1.0, abs(case.elbo)):
        return Verdict("linear", True, f"bound equal to that of {name}.")
    if nats < 0:
        text = f"bound {-nats:.2g} nats below {name}, within {case.margin:.2g} nats."
    else:
        text = f"bound {nats:.3g} nats above {name}."
    return Verdict("linear", True, text)


def _noise(case: Evidence, harmful: dict[str, Finding]) -> Iterator[Verdict]:
    if case.noise is None:
        return
    gain = max(case.numbers["tuned_elbo"] - case.elbo, 0.0)
    wrong = {"noise", "large_noise"} & harmful.keys()
    is_small = gain <= case.margin
    if wrong:
        reason = "it hides dimensions" if is_small else f"the optimum would add {gain:.2g} nats"
        yield Verdict("noise", False, f"noise variance not at its optimum: {reason}.")
    elif is_small:
        text = f"noise variance at its optimum, which would add {gain:.2g} nats."
        yield Verdict("noise", True, text)
    elif case.fixed_noise is None and is_validated(case):
        text = "noise variance chosen by validation samples"
        yield Verdict("noise", True, f"{text}; that of the training samples adds {gain:.2g} nats.")
    elif "noise variance" in case.entropies.gap.active_bounds:
        yield Verdict("noise", True, "noise variance at its lower limit.")
    else:
        text = f"noise variance not at its optimum, which would add {gain:.2g} nats."
        yield Verdict("noise", False, text)


def _scale(case: Evidence, harmful: dict[str, Finding]) -> Iterator[Verdict]:
    if "scale" in harmful:
        yield Verdict("scale", False, f"scales of the features: {harmful['scale'].title}")
    elif "largest_share" in case.numbers:
        share = case.numbers["largest_share"]
        yield Verdict(
            "scale", True, f"no feature dominates: the largest has {share:.1%} of all variance."
        )


def _convergence(case: Evidence, harmful: dict[str, Finding]) -> Verdict:
    if "unstable" in harmful:
        text = f"training is unstable: the ELBO varies by {case.trend.noise:.2g} nats."
        return Verdict("convergence", False, text)
    if text := open_gain(case):
        return Verdict("convergence", False, f"not converged: {text}.")
    return Verdict("convergence", True, _converged(case))


def _converged(case: Evidence) -> str:
    if case.model.is_linear:
        return "converged: no training improved the linear model on validation samples."
    if case.n_steps and is_validated(case):
        return f"converged: validation samples chose the number of {case.step}s."
    is_unknown = case.is_trained and not case.n_steps
    reason = ", as the entropies show; there is no history of training" if is_unknown else ""
    return f"converged within {possible_gain(case):.2g} nats{reason}."


def _held_out(case: Evidence, harmful: dict[str, Finding]) -> Iterator[Verdict]:
    if "overfit" in harmful:
        text = f"overfits: {harmful['overfit'].evidence[0]}"
        yield Verdict("held_out", False, text)
    elif case.held_out is not None:
        numbers = case.numbers
        nats = numbers["held_out_elbo"] - numbers["held_out_reference"]
        side = "above" if nats >= 0 else "below"
        text = (
            f"no overfitting: held-out samples are {abs(nats):.2g} nats {side} {case.linear_model}."
        )
        yield Verdict("held_out", True, text)
