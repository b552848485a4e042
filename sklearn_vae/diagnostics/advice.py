"""What to try against a finding, first what bought most in benchmarks/collapse_remedies.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from sklearn.base import clone

from sklearn_vae.diagnostics.evidence import Evidence

# Layers with weights, in encoder or decoder, from which on fewer of them are worth a try, and
# annealing, another seed or another rate are not.
DEEP = 4


def on_noise(case: Evidence) -> Iterator[str]:
    """Where the noise variance is at fault."""
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
    if getattr(model, "free_bits", 0.0):
        yield "switch the free bits off, which hide collapse: free_bits=0"
    # While it is held, no other start and no annealing buys much.
    if case.held is None and case.is_trained:
        yield from _on_start(model)
        yield from on_depth(model)


def on_optimum(model: Any) -> Iterator[str]:
    """Where training has ended at a bad place."""
    start, depth = _on_start(model), on_depth(model)
    at_ppca = getattr(model, "init", None) is not None or _could_start_at_ppca(model)
    yield from chain(start, depth) if at_ppca else chain(depth, start)
    if hasattr(model, "module_"):
        yield (
            "fit a DeepAutoencoder of the same networks: where diagnose finds it worse than PCA, "
            "the networks are at fault"
        )
    if not _is_deep(model):
        names = [name for name in ("random_state", "learning_rate") if hasattr(model, name)]
        yield ", or ".join(f"another {name}" for name in names)


def on_depth(model: Any) -> Iterator[str]:
    """Where networks may be too deep."""
    if _is_deep(model):
        yield f"fewer layers: a network here has {_n_layers(model)} with weights"


def on_length(model: Any) -> Iterator[str]:
    """Where training has not ended."""
    steps = "max_epochs" if hasattr(model, "max_epochs") else "max_iter"
    faster = ", or a larger learning_rate" if hasattr(model, "learning_rate") else ""
    yield f"train longer: more {steps}{faster}"


def _on_start(model: Any) -> Iterator[str]:
    by_gradient, at_ppca = _is_learned_by_gradient(model), _could_start_at_ppca(model)
    given = getattr(model, "noise_variance_init", None) is not None
    if by_gradient:
        what = "set the noise variance to its optimum in each step"
        what += ", from a start at pPCA" if at_ppca else ""
    else:
        what = "start at pPCA" if at_ppca else "start the noise variance at pPCA's"
    how = [
        *(['noise_update="closed_form"'] if by_gradient else []),
        *(["noise_variance_init=None"] if given else []),
        *(['init="ppca"'] if at_ppca else []),
    ]
    if how:
        yield f"{what}: {', '.join(how)}"
    if getattr(model, "kl_warmup_epochs", None) == 0 and not _is_deep(model):
        learned = getattr(model, "noise_variance", 0) is None
        words = "anneal the KL while the noise variance is learned" if learned else "anneal the KL"
        yield f"{words}: kl_warmup_epochs of a tenth of max_epochs"


def _is_learned_by_gradient(model: Any) -> bool:
    return (
        getattr(model, "noise_update", None) == "gradient"
        and model.noise_variance is None
        and model.noise_model != "heteroscedastic"
    )


def _could_start_at_ppca(model: Any) -> bool:
    if getattr(model, "init", "") is not None:
        return False
    from sklearn_vae.deep.ppca_start import check_init  # torch, which such a model has loaded

    twin = clone(model).set_params(init="ppca")
    try:
        check_init(twin, twin._hidden_layer_sizes())
    except ValueError:
        return False
    return True


def _is_deep(model: Any) -> bool:
    return _n_layers(model) >= DEEP


def _n_layers(model: Any) -> int:
    """Layers with a matrix of weights, of the deeper of encoder and decoder."""
    module = getattr(model, "module_", None)
    if module is None:
        return 0
    return max(
        sum(p.ndim >= 2 for p in network.parameters())
        for network in (module.encoder, module.decoder)
    )
