"""Findings about training: steps that are too large or too few, and overfitting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.advice import (
    Remedy,
    automatic_training,
    is_deep,
    on_length,
    on_objective,
    on_rate,
    on_size,
    other,
)
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.diagnostics.report import Finding
from sklearn_vae.diagnostics.texts import in_nats, shortfall
from sklearn_vae.gaussian.tolerances import NATS, OPEN_SHARE
from sklearn_vae.gaussian.trend import Trend
from sklearn_vae.validation import is_integer

# Training is unstable if its bound falls by this multiple of the margin from its highest level, or
# if it varies by this multiple between steps.
FALL = 5.0
JUMP = 3.0

# A model overfits if held-out samples lose this share of the training samples' gain over a model
# without latent dimensions, more than this multiple of the share that the linear model loses.
LOST_SHARE = 0.5
LINEAR_MULTIPLE = 2.0

# Networks are near their initial ones if the learning rate times the number of steps, which is about
# the largest change of a weight by Adam, is less.
LEAST_CHANGE = 0.03


def unstable(case: Evidence) -> Finding | None:
    """Find a learning rate that is too high for training to settle."""
    trend = case.trend
    has_rate = case.model.trained_elsewhere or "learning_rate" in case.parameters
    if not trend.is_known or not case.is_below or not has_rate or largest_change(case):
        return None
    varies = trend.noise > JUMP * case.margin and not trend.rises and not is_stuck(case)
    if not (trend.fall > FALL * case.margin or varies or _is_far_below(case)):
        return None
    text = (
        f"In the last fifth of training, the ELBO varied by {trend.noise:.3g} nats between "
        f"{case.step}s, and it ended {max(trend.fall, 0.0):.3g} nats below its highest level."
    )
    return Finding(
        "unstable",
        "Training is unstable: the learning rate is too high.",
        True,
        (text, shortfall(case)),
        {"noise": trend.noise, "fall": trend.fall},
        (*on_rate(case.model), other("or use larger batches")),
    )


def largest_change(case: Evidence) -> float:
    """Return about the largest change of a weight if it is too small for a bound so low, or 0."""
    rate: Any = case.parameters.get("learning_rate")
    size: Any = case.parameters.get("batch_size")
    # Parameters of models without networks have units, and other libraries may not use Adam.
    if not (case.is_below and case.model.n_layers and isinstance(rate, float | int)):
        return 0.0
    per_epoch = -(-len(case.X) // size) if is_integer(size) and case.step == "epoch" else 1
    change = float(rate * case.n_all_steps * per_epoch)
    return change if change < LEAST_CHANGE else 0.0


def _is_far_below(case: Evidence) -> bool:
    """Return whether a network that outputs the mean, as untrained ones do, is better."""
    # Another library may train the noise variance slowly.
    if case.is_bernoulli or case.fixed_noise is not None or case.model.trained_elsewhere:
        return False
    return bool(case.elbo < case.reference.bound_of_mean - FALL * case.margin)


def overfitting(case: Evidence) -> Finding | None:
    """Find a model that fits its training samples far better than others."""
    evidence = [*_held_out_gap(case), *_later_fall(case)]
    if not evidence:
        return None
    remedies = []
    if not case.is_elbo:
        remedies.append(on_objective(case.model))
    if (changes := automatic_training(case.model)) is not None:
        text = "choose the number of epochs by validation, starting at the linear model"
        remedies.append(Remedy(f'{text}: max_epochs="auto"', changes))
    if case.parameters.get("early_stopping") is False:
        text = "stop when validation samples no longer gain: early_stopping=True"
        remedies.append(Remedy(text, {"early_stopping": True}))
    if case.k > 1:
        remedies.append(on_size(case, case.k // 2, "use fewer dimensions"))
    remedies.append(other("use more samples"))
    numbers: dict[str, float] = {
        name: case.numbers[name]
        for name in ("held_out_elbo", "held_out_reference")
        if name in case.numbers
    }
    return Finding(
        "overfit", "The model overfits.", True, tuple(evidence), numbers, tuple(remedies)
    )


def _held_out_gap(case: Evidence) -> list[str]:
    """Compare training samples with held-out samples, and with the linear model on them."""
    if case.held_out is None or case.n_active == 0:
        return []
    numbers = case.numbers
    held, linear = numbers["held_out_elbo"], numbers["held_out_reference"]
    gained = case.elbo - numbers["without_latents"]
    of_linear = case.reference_bound - numbers["without_latents"]
    # The samples may differ in difficulty, which a model without latent dimensions shares.
    offset = numbers["held_out_without_latents"] - numbers["without_latents"]
    lost, lost_by_linear = case.elbo - held + offset, case.reference_bound - linear + offset
    is_lost = gained > case.margin and lost > LOST_SHARE * gained
    more = lost > LINEAR_MULTIPLE * max(lost_by_linear, 0.0) + case.margin
    is_worse = case.elbo > case.reference_bound and held < linear - case.margin
    if not ((is_lost and more) or (is_worse and more)):
        return []
    return [
        (
            f"Held-out samples have an ELBO of {held:.6g}, training samples {case.elbo:.6g}. For "
            f"{case.linear_model} these are {linear:.6g} and {case.reference_bound:.6g}."
        ),
        (
            f"Training samples gain {gained:.4g} nats over a model without latent dimensions, of "
            f"which held-out samples lose {lost:.4g} ({of_linear:.4g} and {lost_by_linear:.4g} for "
            "the linear model)."
        ),
    ]


def _later_fall(case: Evidence) -> list[str]:
    """Compare the bound of validation or held-out samples with that of earlier epochs."""
    texts = []
    if case.held_out_history:
        best = max(case.held_out_history, key=lambda epoch: case.held_out_history[epoch])
        fall = case.held_out_history[best] - case.numbers["held_out_elbo"]
        if fall > case.margin:
            texts.append(
                f"The ELBO of held-out samples was {fall:.3g} nats higher at epoch {best}."
            )
    trend = case.validation_trend
    if trend is not None and not is_validated(case) and trend.is_known and not trend.rises:
        bounds = np.asarray(case.history["validation_bound"], dtype=np.float64)
        if trend.fall > case.margin:
            best = int(np.nanargmax(bounds)) + 1
            texts.append(
                f"The ELBO of validation samples fell by {trend.fall:.3g} nats since {case.step} "
                f"{best}."
            )
    return texts


def unfinished(case: Evidence) -> Finding | None:
    """Find training that has not converged."""
    text, trend = open_gain(case), case.validation_trend or case.trend
    rises = not trend.is_known or trend.possible > tolerance(case) or bool(largest_change(case))
    if not text or is_stuck(case) or (case.is_below and not rises):
        return None
    comparison = [shortfall(case)] if case.is_below else []
    factor = 2.0
    if trend.is_known and trend.expected > 0:
        factor = 1.0 + trend.expected / tolerance(case)
    trend = _expected_trend(case)
    return Finding(
        "unfinished",
        "Training has not converged.",
        True,
        (f"{text[0].upper()}{text[1:]}.", *comparison),
        {"slope": trend.slope, "expected": trend.expected, "short": case.shortfall},
        tuple(on_length(case.model, factor)),
    )


def tolerance(case: Evidence) -> float:
    """Return the nats that training may still gain if it has converged."""
    return OPEN_SHARE * max(case.gain, case.elbo - case.reference.baseline) + NATS


def is_stuck(case: Evidence) -> bool:
    """Return whether all dimensions of a deep network have collapsed, which no training mends."""
    return case.n_active == 0 and is_deep(case.model)


def open_gain(case: Evidence) -> str:
    """Describe the nats that training may still gain; empty if it has converged."""
    if not case.n_steps or is_validated(case) or not case.reached_limit:
        return ""
    trend, rescaling = case.validation_trend or case.trend, rescaling_gain(case)
    of = " of validation samples" if case.validation_trend else ""
    if not trend.is_known:
        values = "1 value" if case.n_steps == 1 else f"{case.n_steps} values"
        return f"the history has only {values}, too few to judge convergence"
    if change := largest_change(case):
        return (
            f"{case.n_all_steps} {case.step}s with the learning rate "
            f"{case.parameters['learning_rate']:g} change no weight by more than about {change:.1g}"
        )
    if trend.rises and trend.expected > tolerance(case):
        shown = _expected_trend(case)
        # The optimal noise variance is not known for validation samples.
        is_expected = shown.rises and shown.expected > tolerance(case)
        if shown is not trend and (case.validation_trend or not is_expected):
            return (
                f"the ELBO{of} at the noise variance of training, which is not optimal, still "
                f"rises by {in_nats(trend.slope)} per {case.step} (+/- {trend.error:.1g})"
            )
        return (
            f"the ELBO{of} still rises by {in_nats(shown.slope)} per {case.step} (+/- "
            f"{shown.error:.1g}); expect about {in_nats(shown.expected)} more from twice the "
            f"number of {case.step}s"
        )
    if trend.possible > tolerance(case):
        return (
            f"the ELBO{of} varies by {in_nats(trend.noise)} between {case.step}s, so twice their "
            f"number could bring up to {in_nats(trend.possible)} more"
        )
    if case.is_elbo and rescaling > tolerance(case):
        return f"rescaling the latent dimensions and the noise would add {in_nats(rescaling)}"
    return ""


def _expected_trend(case: Evidence) -> Trend:
    """Return the trend by which training is expected to raise the bound of the trained model."""
    if case.trend_at_optimum is not case.trend:
        return case.trend_at_optimum
    return case.validation_trend or case.trend


def is_validated(case: Evidence) -> bool:
    """Return whether validation samples have chosen the number of steps, below the limit."""
    if case.model.is_linear:
        return True
    trend = case.validation_trend
    if trend is None:
        return False
    if not case.reached_limit or case.model.stopped_early:
        return True
    stops = bool(case.parameters.get("early_stopping"))
    return stops and not (trend.rises and trend.expected > tolerance(case))


def possible_gain(case: Evidence) -> float:
    """Return the nats that training may still gain, from its trend and from rescaling."""
    trend = case.validation_trend or case.trend
    gain = trend.possible if trend.is_known and not is_validated(case) else 0.0
    if not case.reached_limit:
        gain = 0.0
    return max(gain, rescaling_gain(case))


def rescaling_gain(case: Evidence) -> float:
    """Return the nats that rescaling the latent dimensions, and noise that depends on z, adds."""
    gain = float(case.entropies.dimension_gains.sum())
    if case.noise is None and math.isfinite(case.entropies.noise_gain):
        gain += case.entropies.noise_gain
    return gain
