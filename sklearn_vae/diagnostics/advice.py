"""Advice shared by several findings, in the order that benchmarks/collapse_remedies.py supports."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.protocol import EncoderDecoder, LatentModel

# Minimum number of layers with weights, in encoder or decoder, at which fewer layers help more than
# annealing, another seed or another learning rate.
DEEP = 4


def on_noise(case: Evidence) -> Iterator[str]:
    """Yield advice on the noise variance."""
    model = case.model
    if case.fixed_noise is not None:
        if _could_start_at_ppca(model):
            yield 'learn the noise variance, starting at pPCA: noise_variance=None, init="ppca"'
        else:
            yield "learn the noise variance: noise_variance=None"
        unit = " times the variance of each feature" if np.ndim(case.reference.scale) else ""
        value = case.numbers["reference_noise_variance"]
        yield f"or fix it at the value of pPCA: {value:.3g}{unit}"
    if case.kl_weight > 1:
        yield "reduce the KL weight to 1: kl_weight=1"
    if model.free_bits:
        yield "turn off free bits, which hide collapse: free_bits=0"
    # With a fixed noise variance, another start or annealing helps little.
    if case.fixed_noise is None and case.is_trained:
        yield from _on_start(model)
        yield from on_depth(model)


def on_optimum(model: LatentModel) -> Iterator[str]:
    """Yield advice on bad local optima."""
    start, depth = _on_start(model), on_depth(model)
    at_ppca = model.parameters.get("init") is not None or _could_start_at_ppca(model)
    yield from chain(start, depth) if at_ppca else chain(depth, start)
    if model.n_layers:
        yield (
            "fit a DeepAutoencoder with the same networks: if diagnose finds it worse than PCA, "
            "the networks are at fault"
        )
    names = [name for name in ("random_state", "learning_rate") if name in model.parameters]
    if names and not _is_deep(model):
        yield f"try another {' or '.join(names)}"


def on_depth(model: EncoderDecoder) -> Iterator[str]:
    """Yield advice on networks that may be too deep."""
    if _is_deep(model):
        yield f"use fewer layers: the deeper network has {model.n_layers}"


def on_length(model: LatentModel) -> Iterator[str]:
    """Yield advice on training that has not converged."""
    steps = "max_epochs" if "max_epochs" in model.parameters else "max_iter"
    faster = " or learning_rate" if "learning_rate" in model.parameters else ""
    yield f"train longer: increase {steps}{faster}"


def _on_start(model: LatentModel) -> Iterator[str]:
    parameters = model.parameters
    at_ppca = _could_start_at_ppca(model)
    is_learned = model.noise_variance is None and model.shared_noise_variance is not None
    by_gradient = is_learned and parameters.get("noise_update") == "gradient"
    if by_gradient:
        change = "set the noise variance to its optimum in each step"
        change += ", starting at pPCA" if at_ppca else ""
    else:
        change = "start at pPCA" if at_ppca else "start with the noise variance of pPCA"
    has_init = parameters.get("noise_variance_init") is not None
    settings = ['noise_update="closed_form"'] * by_gradient
    settings += ["noise_variance_init=None"] * has_init + ['init="ppca"'] * at_ppca
    if settings:
        yield f"{change}: {', '.join(settings)}"
    if parameters.get("kl_warmup_epochs") == 0 and not _is_deep(model):
        has_noise = parameters.get("noise_variance", 0) is None
        when = " while the noise variance is learned" if has_noise else ""
        yield f"anneal the KL{when}: set kl_warmup_epochs to a tenth of max_epochs"


def _could_start_at_ppca(model: LatentModel) -> bool:
    return model.parameters.get("init", "") is None and model.can_start_at_ppca()


def _is_deep(model: EncoderDecoder) -> bool:
    return model.n_layers >= DEEP
