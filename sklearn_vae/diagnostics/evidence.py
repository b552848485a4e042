"""Evidence that findings about a model rest on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import Collapse, collapse
from sklearn_vae.diagnostics.entropies import Entropies, entropy_bound
from sklearn_vae.diagnostics.noise import with_tuned_noise
from sklearn_vae.diagnostics.reference import BernoulliReference, GaussianReference
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.protocol import Array, LatentModel

# Shortfall from the bound of the reference that is no finding: this share of its gain over a model
# without latents, and this number of nats.
SHARE_OF_GAIN = 0.02
NATS = 0.1


class Evidence:
    """Comparison of a fitted model with the linear model of the same number of dimensions.

    `rows` are all samples that the model was trained on, `seen` those that bounds are averaged
    over; `numbers` are the numbers of the report.
    """

    def __init__(self, model: LatentModel, rows: Any, seen: Any) -> None:
        self.model, self.rows, self.seen = model, rows, seen
        self.collapse: Collapse = collapse(model, seen)
        self.entropies: Entropies = entropy_bound(model, seen)
        self.k = self.collapse.n_components
        self.n_collapsed = len(self.collapse.collapsed)
        self.n_active = self.k - self.n_collapsed
        self.has_bits = model.observation_family == "bernoulli"
        self.held = model.noise_variance
        self.kl_weight = float(model.kl_weight)
        history = model.training_history
        self.is_trained = history is not None
        self.history = () if history is None else history.get("bound", ())
        self.elbo = self.entropies.elbo
        observed = model.observations(to_host(seen))
        self.reference: Any = (
            BernoulliReference(observed, self.k)
            if self.has_bits
            else GaussianReference(to_host(rows), observed, self.k, model.feature_scale)
        )
        # Bounds of the reference, with its own noise variance and with the one that the model is
        # held at; -inf where that differs between features.
        self.own_bar = self.bar = float(self.reference.bound)
        # Nats over a model without latents, and the shortfall that is no finding.
        self.gain = max(self.bar - self.reference.baseline, 0.0)
        self.margin = SHARE_OF_GAIN * self.gain + NATS
        self.numbers = {
            "elbo": self.elbo,
            "reference": self.bar,
            "without_latents": self.reference.baseline,
            "margin": self.margin,
        }
        # The average noise variance in units of the reference; None where it depends on z.
        self.noise: float | None = None
        if not self.has_bits:
            self._compare_noise()
            self._compare_errors()

    @property
    def shortfall(self) -> float:
        """Nats by which the model is below the reference at the same noise variance."""
        return self.own_bar - self.elbo

    @property
    def linear_model(self) -> str:
        """The reference in words."""
        if self.has_bits:
            return "logistic pPCA with as many dimensions"
        name = "factor analysis" if np.ndim(self.reference.scale) else "pPCA"
        return f"{name} with as many dimensions"

    @property
    def has_lost_dimensions(self) -> bool:
        """Whether dimensions are missing that the data has a use for, and errors show it."""
        if self.has_bits or self.n_active >= self.reference.n_used:
            return False
        lacks = self.numbers["reconstruction_error"] - self.numbers["pca_reconstruction_error"]
        return lacks > SHARE_OF_GAIN * self.reference.average_variance

    @cached_property
    def decoded(self) -> tuple[Array, Array]:
        """Mean and variance of p(x|z) at the posterior means of the samples seen."""
        mean, variance = self.model.conditional(self.model.posterior(self.seen)[0])
        return to_host(mean), to_host(variance)

    def _compare_noise(self) -> None:
        if self.held is not None:
            is_scalar = np.ndim(self.held) == 0 and np.ndim(self.reference.scale) == 0
            self.own_bar = self.reference.bound_at(float(self.held)) if is_scalar else -np.inf
        self.numbers["reference_noise_variance"] = self.reference.noise_variance
        tuned: Any = with_tuned_noise(self.model, self.seen)
        if tuned is None:
            return
        unit = self.reference.scale**2
        self.noise = float(np.mean(self.model.shared_noise_variance / unit))
        self.numbers |= {
            "noise_variance": self.noise,
            "tuned_noise_variance": float(np.mean(tuned.shared_noise_variance / unit)),
            "tuned_elbo": float(tuned.score(self.seen)),
        }

    def _compare_errors(self) -> None:
        error = (to_host(self.seen) - self.decoded[0]) / self.reference.scale
        self.numbers |= {
            "reconstruction_error": float(np.mean(error**2)),
            "pca_reconstruction_error": self.reference.error,
            "variance": self.reference.average_variance,
        }
