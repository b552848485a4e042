"""What to try against a finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import clone

from sklearn_vae.diagnostics.evidence import Evidence

# Layers with weights, in encoder or decoder, from which on fewer of them are worth a try.
DEEP = 4


def on_noise(case: Evidence) -> Iterator[str]:
    """Where the noise variance is at fault."""
    if case.held is not None:
        yield "learn the noise variance: noise_variance=None"
        yield f"or hold it at another value: {case.numbers['reference_noise_variance']:.3g} is pPCA's"
    elif getattr(case.model, "noise_update", None) == "gradient":
        yield 'set it to its optimum in each step: noise_update="closed_form"'
        yield "or start it at pPCA's: noise_variance_init=None"
    if case.kl_weight > 1:
        yield "weigh the KL by one: kl_weight=1"
    if case.is_trained:
        yield from _on_start(case.model)


def on_optimum(model: Any) -> Iterator[str]:
    """Where training has ended at a bad place."""
    yield from _on_start(model)
    yield from on_depth(model)
    if hasattr(model, "module_"):
        yield (
            "fit a DeepAutoencoder of the same networks: where diagnose finds it worse than PCA, "
            "the networks are at fault"
        )
    yield "another random_state, or another learning_rate"


def on_depth(model: Any) -> Iterator[str]:
    """Where networks may be too deep."""
    n_layers = _n_layers(model)
    if n_layers >= DEEP:
        yield f"fewer layers: a network here has {n_layers} with weights"


def _on_start(model: Any) -> Iterator[str]:
    if _could_start_at_ppca(model):
        yield 'start at pPCA: init="ppca"'
    if getattr(model, "noise_variance_init", None) is not None:
        yield "start the noise variance at pPCA's: noise_variance_init=None"
    if getattr(model, "kl_warmup_epochs", None) == 0:
        learned = getattr(model, "noise_variance", 0) is None
        how = "anneal the KL while the noise variance is learned" if learned else "anneal the KL"
        yield f"{how}: kl_warmup_epochs of a tenth of max_epochs"


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


def _n_layers(model: Any) -> int:
    """Layers with a matrix of weights, of the deeper of encoder and decoder."""
    module = getattr(model, "module_", None)
    if module is None:
        return 0
    return max(
        sum(p.ndim >= 2 for p in network.parameters())
        for network in (module.encoder, module.decoder)
    )
