"""Advice on models that another library trains, in terms of their losses and networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.evidence import Evidence

ON_OBJECTIVE = (
    "train on the ELBO: sum the reconstruction loss over features and the KL over dimensions, and give "
    "the KL the weight 1"
)

ON_REDUCTION = (
    "check that the reconstruction loss is summed over features: an average over d features acts like "
    "d times the weight of the KL"
)
ON_WARMUP = "increase the weight of the KL from 0 to 1 over the first tenth of the epochs"


def on_noise(case: Evidence) -> Iterator[str]:
    """Yield advice on the noise variance that a loss implies."""
    value = case.numbers["reference_noise_variance"]
    per_feature = np.ndim(case.reference.scale) > 0
    if case.fixed_noise is not None and not per_feature:
        d = case.n_features
        yield (
            "learn the noise variance: replace the squared error in the loss by "
            f"{0.5 * d:g} * log(mse), where mse is the mean over the features and samples of the "
            f"batch ({0.5 * d:g} is half the number of features), and sum the KL over dimensions "
            "and average it over samples"
        )
        implied = getattr(case.model, "implied_noise", None)
        if implied is not None:
            yield (
                f"or give the squared error the weight {implied.weight_for(value):.4g} instead of "
                f"{implied.error_weight:g}, which implies the noise variance of pPCA, {value:.3g}"
            )
        else:
            yield f"or set the noise variance of the loss to that of pPCA: {value:.3g}"
    elif case.fixed_noise is not None:
        yield "learn the noise variance of each feature, as a parameter of the decoder"
    if case.kl_weight > 1:
        yield "reduce the weight of the KL (beta) to 1"
    if case.model.free_bits:
        yield "turn off free bits, which hide collapse"
    if case.fixed_noise is None:
        yield "start with the noise variance of pPCA" + ("" if per_feature else f": {value:.3g}")
        yield ON_WARMUP


def on_optimum(model: Any, is_deep: bool) -> Iterator[str]:
    """Yield advice on bad local optima."""
    if model.observation_family != "gaussian":
        yield ON_REDUCTION
    if is_deep:
        yield f"use fewer layers: the deeper network has {model.n_layers}"
    yield "train longer, or with a lower learning rate"
    yield ON_WARMUP
    yield (
        "fit a DeepGaussianVAE or DeepBernoulliVAE, which starts at the linear model, to see "
        "what these data allow"
    )
