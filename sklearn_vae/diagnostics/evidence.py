"""Evidence for the findings of `diagnose`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.diagnostics.dimensions import Collapse, collapse
from sklearn_vae.diagnostics.entropies import Entropies, entropy_bound
from sklearn_vae.diagnostics.noise import with_tuned_noise
from sklearn_vae.diagnostics.reference import BernoulliReference, GaussianReference
from sklearn_vae.protocol import Array, LatentModel

# Shortfall from the reference that is tolerated: this share of the reference's gain over a model
# without latent dimensions, plus this number of nats.
SHARE_OF_GAIN = 0.02
NATS = 0.1


class Evidence:
    """Comparison of a fitted model with the linear model of the same number of dimensions.

    `X` is the training data, `subset` the samples over which bounds are averaged.
    """

    def __init__(self, model: LatentModel, X: Any, subset: Any) -> None:
        self.model, self.X, self.subset = model, X, subset
        self.collapse: Collapse = collapse(model, subset)
        self.entropies: Entropies = entropy_bound(model, subset)
        self.k = self.collapse.n_components
        self.n_collapsed = len(self.collapse.collapsed)
        self.n_active = self.k - self.n_collapsed
        self.is_bernoulli = model.observation_family == "bernoulli"
        self.fixed_noise = model.noise_variance
        self.kl_weight = float(model.kl_weight)
        history = model.training_history
        self.is_trained = history is not None
        self.history = () if history is None else history.get("bound", ())
        self.elbo = self.entropies.elbo
        observed = model.observations(to_host(subset))
        self.reference: Any = (
            BernoulliReference(observed, self.k)
            if self.is_bernoulli
            else GaussianReference(to_host(X), observed, self.k, model.feature_scale)
        )
        # ELBO of the reference with its own noise variance, and with the fixed one of the model:
        # -inf if that differs between features.
        self.matched_bound = self.reference_bound = float(self.reference.bound)
        # Gain of the reference over a model without latent dimensions, and tolerated shortfall.
        self.gain = max(self.reference_bound - self.reference.baseline, 0.0)
        self.margin = SHARE_OF_GAIN * self.gain + NATS
        self.numbers = {
            "elbo": self.elbo,
            "reference": self.reference_bound,
            "without_latents": self.reference.baseline,
            "margin": self.margin,
        }
        # Average noise variance in units of the reference; None if it depends on z.
        self.noise: float | None = None
        if not self.is_bernoulli:
            self._compare_noise()
            self._compare_errors()

    @property
    def shortfall(self) -> float:
        """ELBO of the reference minus the ELBO of the model, at the same noise variance."""
        return self.matched_bound - self.elbo

    @property
    def linear_model(self) -> str:
        """Name of the reference."""
        if self.is_bernoulli:
            name = "logistic pPCA"
        else:
            name = "factor analysis" if np.ndim(self.reference.scale) else "pPCA"
        return f"{name} with the same number of dimensions"

    @property
    def has_lost_dimensions(self) -> bool:
        """Whether useful dimensions have collapsed, which makes reconstructions worse."""
        if self.is_bernoulli or self.n_active >= self.reference.n_used:
            return False
        excess = self.numbers["reconstruction_error"] - self.numbers["pca_reconstruction_error"]
        return excess > SHARE_OF_GAIN * self.reference.average_variance

    @cached_property
    def decoded(self) -> tuple[Array, Array]:
        """Mean and variance of p(x|z) at the posterior means of the subset."""
        mean, variance = self.model.conditional(self.model.posterior(self.subset)[0])
        return to_host(mean), to_host(variance)

    def _compare_noise(self) -> None:
        if self.fixed_noise is not None:
            is_scalar = np.ndim(self.fixed_noise) == 0 and np.ndim(self.reference.scale) == 0
            self.matched_bound = (
                self.reference.bound_at(float(self.fixed_noise)) if is_scalar else -np.inf
            )
        self.numbers["reference_noise_variance"] = self.reference.noise_variance
        tuned: Any = with_tuned_noise(self.model, self.subset)
        if tuned is None:
            return
        unit = self.reference.scale**2
        self.noise = float(np.mean(self.model.shared_noise_variance / unit))
        self.numbers |= {
            "noise_variance": self.noise,
            "tuned_noise_variance": float(np.mean(tuned.shared_noise_variance / unit)),
            "tuned_elbo": float(tuned.score(self.subset)),
        }

    def _compare_errors(self) -> None:
        error = (to_host(self.subset) - self.decoded[0]) / self.reference.scale
        self.numbers |= {
            "reconstruction_error": float(np.mean(error**2)),
            "pca_reconstruction_error": self.reference.error,
            "variance": self.reference.average_variance,
        }
