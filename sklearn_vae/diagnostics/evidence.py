"""What findings about a model are decided on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import Collapse, collapse
from sklearn_vae.diagnostics.entropies import Entropies, entropy_bound
from sklearn_vae.diagnostics.noise import with_tuned_noise
from sklearn_vae.diagnostics.reference import BernoulliReference, GaussianReference
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.protocol import Array
from sklearn_vae.validation import check_bits

# What a model may lack of a reference's bound without a finding: this share of what the reference
# gains over a model without latents, and so many nats.
SHARE_OF_GAIN = 0.02
NATS = 0.1

# Variances of p(x|z), over those of the features, that are near zero: below this, and so much
# smaller than most.
NEAR_ZERO = 1e-4
FAR_BELOW = 1e-3


class Evidence:
    """Of a fitted model, all rows that it was trained on, and those that bounds are averaged over.

    Attributes
    ----------
    numbers : dict of str to float
        Of the report.
    collapse : Collapse
    entropies : Entropies
    reference : GaussianReference or BernoulliReference
    elbo, bar, own_bar : float
        Bounds of the model and of the reference, also with the noise variance that the model is
        held at; -inf where that is one a feature.
    margin : float
        What the bound may lack of another without a finding.
    noise : float or None
        Noise variance in units of the reference; the average of several.
    """

    def __init__(self, model: Any, rows: Any, seen: Any) -> None:
        self.model, self.rows, self.seen = model, rows, seen
        self.collapse: Collapse = collapse(model, seen)
        self.entropies: Entropies = entropy_bound(model, seen)
        self.k = self.collapse.n_components
        self.n_active = self.k - len(self.collapse.collapsed)
        self.has_bits = hasattr(model, "binarize")
        self.held = getattr(model, "noise_variance", None)
        self.kl_weight = float(getattr(model, "kl_weight", 1.0))
        self.elbo = self.entropies.elbo
        self.reference = self._fit_reference()
        self.own_bar = self.bar = float(self.reference.bound)
        gain = max(self.bar - self.reference.baseline, 0.0)
        self.margin = SHARE_OF_GAIN * gain + NATS
        self.numbers = {
            "elbo": self.elbo,
            "reference": self.bar,
            "without_latents": self.reference.baseline,
            "margin": self.margin,
        }
        self.noise: float | None = None
        if not self.has_bits:
            self._compare_noise()
            self._compare_errors()

    @property
    def gain(self) -> float:
        """Nats of the reference over a model without latents."""
        return (self.margin - NATS) / SHARE_OF_GAIN

    @property
    def linear_model(self) -> str:
        """The reference in words."""
        name = "logistic pPCA" if self.has_bits else "pPCA"
        if not self.has_bits and np.ndim(self.reference.scale):
            name = "factor analysis"
        return f"{name} with as many dimensions"

    @property
    def is_trained(self) -> bool:
        """Whether by steps from a start, so that it can stop at a bad optimum."""
        return hasattr(self.model, "history_") or hasattr(self.model, "elbo_history_")

    @property
    def history(self) -> Any:
        """Bound after each iteration or epoch, if the model has one."""
        history = getattr(self.model, "elbo_history_", None)
        return getattr(self.model, "history_", {}).get("bound", ()) if history is None else history

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the training."""
        model = self.model
        return bool(getattr(model, "early_stopping", False)) and model.n_iter_ < model.max_epochs

    @property
    def has_lost_dimensions(self) -> bool:
        """Whether fewer are left than the data has directions that stand out, and it shows."""
        if self.has_bits or self.n_active >= self.reference.n_used:
            return False
        lacks = self.numbers["reconstruction_error"] - self.numbers["pca_reconstruction_error"]
        return lacks > SHARE_OF_GAIN * self.reference.average_variance

    def _fit_reference(self) -> Any:
        seen = to_host(self.seen)
        if self.has_bits:
            return BernoulliReference(check_bits(seen, self.model.binarize), self.k)
        scale = getattr(self.model, "scale_", 1.0)
        scale = scale if np.ndim(scale) else 1.0
        return GaussianReference(to_host(self.rows), seen, self.k, scale)

    def _compare_noise(self) -> None:
        model = self.model
        if self.held is not None:
            one = np.ndim(self.held) == 0 and np.ndim(self.reference.scale) == 0
            self.own_bar = self.reference.bound_at(float(self.held)) if one else -np.inf
        self.numbers["reference_noise_variance"] = self.reference.noise_variance
        if not hasattr(model, "noise_variance_"):
            return
        tuned, scale2 = with_tuned_noise(model, self.seen), self.reference.scale**2
        self.noise = float(np.mean(model.noise_variance_ / scale2))
        self.numbers |= {
            "noise_variance": self.noise,
            "tuned_noise_variance": float(np.mean(tuned.noise_variance_ / scale2)),
            "tuned_elbo": float(tuned.score(self.seen)),
        }

    def _compare_errors(self) -> None:
        decoded, variance = self.decoded
        error = (to_host(self.seen) - decoded) / self.reference.scale
        self.numbers |= {
            "reconstruction_error": float(np.mean(error**2)),
            "pca_reconstruction_error": self.reference.error,
            "variance": self.reference.average_variance,
        }
        if self.noise is None:  # it depends on z
            ratio = variance / self.reference.scale**2
            self.numbers |= {
                "least_variance": float(ratio.min()),
                "median_variance": float(np.median(ratio)),
                "largest_variance": float(ratio.max()),
                "near_zero": float((ratio < min(NEAR_ZERO, FAR_BELOW * np.median(ratio))).mean()),
            }

    @cached_property
    def decoded(self) -> tuple[Array, Array]:
        """Mean and variance of p(x|z) at the posterior means of the rows seen."""
        mean, variance = self.model.conditional(self.model.posterior(self.seen)[0])
        return to_host(mean), to_host(variance)
