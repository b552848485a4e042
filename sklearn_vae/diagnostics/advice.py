"""Advice that findings share, ordered by what helped in benchmarks/collapse_remedies.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.protocol import EncoderDecoder, LatentModel

# Least number of layers with weights, in encoder or decoder, of a network that should try fewer
# layers rather than annealing, another seed or another rate.
DEEP = 4


def on_noise(case: Evidence) -> Iterator[str]:
    """Advice if the noise variance is at fault."""
    model = case.model
    if case.held is not None:
        if _could_start_at_ppca(model):
            yield 'learn the noise variance, from a start at pPCA: noise_variance=None, init="ppca"'
        else:
            yield "learn the noise variance: noise_variance=None"
        unit = " of each feature's variance" if np.ndim(case.reference.scale) else ""
        yield f"or hold it at pPCA's: {case.numbers['reference_noise_variance']:.3g}{unit}"
    if case.kl_weight > 1:
        yield "weigh the KL by one: kl_weight=1"
    if model.free_bits:
        yield "switch the free bits off, which hide collapse: free_bits=0"
    # While the noise variance is held, another start or annealing helps little.
    if case.held is None and case.is_trained:
        yield from _on_start(model)
        yield from on_depth(model)


def on_optimum(model: LatentModel) -> Iterator[str]:
    """Advice if training has ended at a bad optimum."""
    start, depth = _on_start(model), on_depth(model)
    at_ppca = model.parameters.get("init") is not None or _could_start_at_ppca(model)
    yield from chain(start, depth) if at_ppca else chain(depth, start)
    if model.n_layers:
        yield (
            "fit a DeepAutoencoder of the same networks: where diagnose finds it worse than PCA, "
            "the networks are at fault"
        )
    names = [name for name in ("random_state", "learning_rate") if name in model.parameters]
    if names and not _is_deep(model):
        yield ", or ".join(f"another {name}" for name in names)


def on_depth(model: EncoderDecoder) -> Iterator[str]:
    """Advice if networks may be too deep."""
    if _is_deep(model):
        yield f"fewer layers: a network here has {model.n_layers} with weights"


def on_length(model: LatentModel) -> Iterator[str]:
    """Advice if training has not ended."""
    steps = "max_epochs" if "max_epochs" in model.parameters else "max_iter"
    faster = ", or a larger learning_rate" if "learning_rate" in model.parameters else ""
    yield f"train longer: more {steps}{faster}"


def _on_start(model: LatentModel) -> Iterator[str]:
    parameters = model.parameters
    at_ppca = _could_start_at_ppca(model)
    is_learned = model.noise_variance is None and model.shared_noise_variance is not None
    by_gradient = is_learned and parameters.get("noise_update") == "gradient"
    if by_gradient:
        change = "set the noise variance to its optimum in each step"
        change += ", from a start at pPCA" if at_ppca else ""
    else:
        change = "start at pPCA" if at_ppca else "start the noise variance at pPCA's"
    has_init = parameters.get("noise_variance_init") is not None
    settings = ['noise_update="closed_form"'] * by_gradient
    settings += ["noise_variance_init=None"] * has_init + ['init="ppca"'] * at_ppca
    if settings:
        yield f"{change}: {', '.join(settings)}"
    if parameters.get("kl_warmup_epochs") == 0 and not _is_deep(model):
        has_noise = parameters.get("noise_variance", 0) is None
        when = " while the noise variance is learned" if has_noise else ""
        yield f"anneal the KL{when}: kl_warmup_epochs of a tenth of max_epochs"


def _could_start_at_ppca(model: LatentModel) -> bool:
    return model.parameters.get("init", "") is None and model.can_start_at_ppca()


def _is_deep(model: EncoderDecoder) -> bool:
    return model.n_layers >= DEEP
