"""Findings about networks: unused units and latents, dimensions that are copies or dominate."""

from __future__ import annotations

import numpy as np

from sklearn_vae.diagnostics.advice import Remedy, on_optimum, on_rate, other
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.diagnostics.report import Finding
from sklearn_vae.diagnostics.texts import shortfall

# Share of the units of a hidden layer that are inactive from which the layer is at fault.
INACTIVE = 0.95

# Variance of decoded means over z, relative to that of the data, up to which the decoder ignores z,
# and the distances of z, in standard deviations of the prior. A decoder with a threshold depends on
# distant z only.
IGNORES = 1e-20
DISTANCES = (1.0, 100.0)

# Correlation of posterior means from which two dimensions are copies in any training, and from which
# they are in one that has converged.
COPY = 0.99999
SIMILAR = 0.95

# Excess of the share of the KL of one dimension over that of the linear model, relative to the
# largest possible, from which it dominates.
DOMINATES = 0.75


def inactive_units(case: Evidence) -> Finding | None:
    """Find hidden layers whose units are 0 for nearly all samples."""
    if not (case.is_below or case.has_lost_dimensions):
        return None
    shares = {name: share for name, share in case.inactive_units.items() if share >= INACTIVE}
    if not shares:
        return None
    evidence = tuple(
        f"In a hidden layer of the {name}, {share:.1%} of the units are 0 for all samples."
        for name, share in shares.items()
    )
    remedies = [*on_rate(case.model), other("or initialize the networks with smaller biases")]
    if case.parameters.get("activation") == "relu" and "mlp" in _networks(case):
        text = 'use an activation that cannot be inactive: activation="silu"'
        remedies.insert(0, Remedy(text, {"activation": "silu"}))
    return Finding(
        "inactive",
        "Hidden units are inactive (dead ReLUs).",
        True,
        (*evidence, shortfall(case)),
        {f"inactive_{name}": share for name, share in shares.items()},
        tuple(remedies),
    )


def ignored_latents(case: Evidence) -> Finding | None:
    """Find a decoder whose output does not depend on z."""
    if not case.k or not case.is_below:
        return None
    spread = max(case.decoder_spread(distance) for distance in DISTANCES)
    if spread > IGNORES:
        return None
    text = (
        f"The means of p(x|z) are the same for all draws of z, even at {DISTANCES[-1]:g} standard "
        "deviations of the prior."
    )
    remedies = (
        *(on_optimum(case.model) if "mlp" in _networks(case) else ()),
        other("check that the output of the decoder depends on its input"),
    )
    title = "The decoder ignores z."
    numbers = {"decoder_spread": spread}
    return Finding("ignored", title, True, (text, shortfall(case)), numbers, remedies)


def copied_dimensions(case: Evidence) -> Finding | None:
    """Find active dimensions with the same posterior means."""
    return _correlated(case, COPY)


def similar_dimensions(case: Evidence) -> Finding | None:
    """Find active dimensions with nearly the same posterior means."""
    return _correlated(case, SIMILAR)


def _correlated(case: Evidence, least: float) -> Finding | None:
    active = case.collapse.active
    if len(active) < 2 or not (case.is_below or case.has_lost_dimensions):
        return None
    spread = case.mean[:, active].std(axis=0)
    active = active[spread > 0]
    if len(active) < 2:
        return None
    correlation = np.corrcoef(case.mean[:, active].T)
    first, second = np.nonzero(np.triu(np.abs(correlation) >= least, k=1))
    if not len(first):
        return None
    pairs = [(int(active[i]), int(active[j])) for i, j in zip(first, second, strict=True)]
    worst = float(np.abs(correlation[first, second]).max())
    listed = ", ".join(f"{i} and {j}" for i, j in pairs[:3])
    text = f"The correlation of posterior means is up to {worst:.3f}: dimensions {listed}."
    remedies = (
        *on_optimum(case.model),
        other("check that the outputs of the encoder do not share all their weights"),
    )
    return Finding(
        "copies",
        "Dimensions are copies of each other.",
        True,
        (text, shortfall(case)),
        {"pairs": len(pairs), "correlation": worst},
        remedies,
    )


def dominating_dimension(case: Evidence) -> Finding | None:
    """Find one dimension that carries nearly all information where the linear model uses more."""
    if case.is_bernoulli or not case.is_trained or not case.n_active:
        return None
    if case.reference.n_used < 2:
        return None
    if not (case.is_below or case.has_lost_dimensions):
        return None
    kl, expected = case.collapse.kl_per_dim, case.reference.kl_per_dim
    share, usual = float(kl.max() / kl.sum()), float(expected.max() / expected.sum())
    if share <= usual + DOMINATES * (1.0 - usual):
        return None
    text = (
        f"Dimension {int(kl.argmax())} has {share:.1%} of the KL. In {case.linear_model}, the "
        f"largest share is {usual:.1%}, and {case.reference.n_used} dimensions are used."
    )
    title = "One dimension dominates, and the others carry little information."
    numbers = {"share": share, "linear_share": usual}
    remedies = (
        *on_optimum(case.model),
        other("check the scales of the outputs of the encoder and of the inputs of the decoder"),
    )
    return Finding("dominated", title, True, (text, shortfall(case)), numbers, remedies)


def _networks(case: Evidence) -> tuple[str, ...]:
    return tuple(
        name
        for network in ("encoder", "decoder")
        if isinstance(name := case.parameters.get(network), str)
    )
