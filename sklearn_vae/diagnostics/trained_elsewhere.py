"""Reports on models that have no linear model as their reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.diagnostics.advice import other
from sklearn_vae.diagnostics.advice_elsewhere import ON_REDUCTION, ON_WARMUP
from sklearn_vae.diagnostics.dimensions import (
    collapse_of,
    curve_of,
    scales_of,
    standard_posterior,
)
from sklearn_vae.diagnostics.report import CollapseReport, Finding, Verdict
from sklearn_vae.diagnostics.texts import in_nats
from sklearn_vae.gaussian.tolerances import NATS
from sklearn_vae.gaussian.trend import trend_of
from sklearn_vae.protocol import LatentModel


def without_changes(finding: Finding) -> Finding:
    """Return a finding whose remedies change no parameters of an estimator."""
    remedies = tuple(replace(r, changes={}, action="other") for r in finding.remedies)
    return replace(finding, remedies=remedies)


def report_without_reference(model: LatentModel, X: Any, subset: Any) -> CollapseReport:
    """Report the collapsed dimensions of a model, which cannot be compared with linear models."""
    mean, variance = standard_posterior(model, subset)
    collapse = collapse_of(mean, variance)
    k, n_active = collapse.n_components, len(collapse.active)
    numbers = {"kl": float(collapse.kl_per_dim.sum()), "elbo": float("nan")}
    if model.has_bound:
        numbers["elbo"] = float(np.mean(to_host(model.score_samples(subset)), dtype=np.float64))
    findings: tuple[Finding, ...] = ()
    if n_active < k:
        text = (
            f"{k - n_active} of {k} dimensions carry no information about the data. No linear "
            "model can tell whether the data has more than the active dimensions."
        )
        title = "All dimensions have collapsed." if not n_active else "Some dimensions are unused."
        remedies = tuple(map(other, (ON_REDUCTION, ON_WARMUP))) if not n_active else ()
        findings = (
            Finding("superfluous", title, not n_active, (text,), {"active": n_active}, remedies),
        )
    state = f"{n_active} of {k} dimensions are active"
    collapse_text = f"no total collapse: {state}." if n_active else f"total collapse: {state}."
    return CollapseReport(
        model.model_name,
        n_samples=X.shape[0],
        n_features=model.observations(to_host(subset[:1])).shape[1],
        n_components=k,
        collapse=collapse,
        entropies=None,
        numbers=numbers,
        verdicts=(Verdict("collapse", n_active > 0, collapse_text), _convergence(model)),
        findings=findings,
        not_applicable=model.limitations,
        curve=curve_of(mean, variance),
        scales=scales_of(variance),
    )


def _convergence(model: LatentModel) -> Verdict:
    """Judge convergence from the history of the bound alone."""
    history = model.training_history or {}
    trend = trend_of(history.get("validation_bound", history.get("bound", ())))
    if not trend.is_known:
        text = "convergence not judged: the history of training is too short or unknown."
        return Verdict("convergence", True, text)
    if trend.rises and trend.expected > NATS:
        text = (
            f"the ELBO still rises by {in_nats(trend.slope)} per epoch; expect about "
            f"{in_nats(trend.expected)} more from twice the number of epochs."
        )
        return Verdict("convergence", False, text)
    return Verdict("convergence", True, f"converged within {in_nats(trend.possible)}.")
