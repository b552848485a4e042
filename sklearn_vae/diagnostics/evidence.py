"""Evidence for the findings of `diagnose`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.diagnostics.dimensions import Collapse, collapse_of, standard_posterior
from sklearn_vae.diagnostics.entropies import Entropies, average_terms, entropies_of
from sklearn_vae.diagnostics.incomplete_reference import IncompleteReference
from sklearn_vae.diagnostics.reference import BernoulliReference, GaussianReference
from sklearn_vae.gaussian.arrays import to_device_of
from sklearn_vae.gaussian.bounds import BoundTerms
from sklearn_vae.gaussian.tolerances import NATS, SHARE_OF_GAIN
from sklearn_vae.gaussian.trend import Trend, trend_of
from sklearn_vae.protocol import Array, LatentModel

# Number of draws from the prior that show how much the decoder depends on z.
PRIOR_DRAWS = 256

# Largest share of the steps over which the learning rate may fall at the end.
MAX_FALLING = 0.3

# Maximum number of samples for which hidden units are watched.
WATCHED_SAMPLES = 2000


class Evidence:
    """Comparison of a fitted model with the linear model of the same number of dimensions.

    `X` is the training data, `subset` the samples over which bounds are averaged, and `held_out`
    other samples, or None. `names` are the names of the features, if they have any. Each network is
    evaluated once: for the posteriors, for the bound, and for the reconstructions.
    """

    def __init__(
        self, model: LatentModel, X: Any, subset: Any, held_out: Any = None, names: Any = None
    ) -> None:
        self.model, self.X, self.subset, self.names = model, X, subset, names
        self.held_out = held_out
        self.mean, self.variance = standard_posterior(model, subset)
        self.collapse: Collapse = collapse_of(self.mean, self.variance)
        self.k = self.collapse.n_components
        self.n_collapsed = len(self.collapse.collapsed)
        self.n_active = self.k - self.n_collapsed
        self.is_bernoulli = model.observation_family == "bernoulli"
        self.fixed_noise = model.noise_variance
        self.kl_weight = float(model.kl_weight)
        self.parameters = model.parameters
        observed = model.observations(to_host(subset))
        self.n_features = observed.shape[1]
        self.reference: Any = (
            BernoulliReference(observed, self.k)
            if self.is_bernoulli
            else self._gaussian_reference(model.observations(to_host(X)), observed)
        )
        # ELBO of the reference with its own noise variance, and with that of the model if it is fixed.
        self.matched_bound = self.reference_bound = float(self.reference.bound)
        # Gain of the reference over a model without latent dimensions, and tolerated shortfall.
        self.gain = max(self.reference_bound - self.reference.baseline, 0.0)
        self.margin = SHARE_OF_GAIN * self.gain + NATS
        terms = average_terms(model, subset, (self.mean, self.variance))
        self.entropies: Entropies = entropies_of(model, terms, self.margin, model.active_bounds)
        self.elbo, self.n_observed = self.entropies.elbo, terms.n_features
        self.numbers = {
            "elbo": self.elbo,
            "reference": self.reference_bound,
            "without_latents": self.reference.baseline,
            "margin": self.margin,
        }
        # Average noise variance in units of the reference; None if it depends on z.
        self.noise: float | None = None
        if not self.is_bernoulli:
            self._compare_noise(terms)
            self._compare_errors()
        if held_out is not None:
            self._compare_held_out()

    def _gaussian_reference(self, X: Array, observed: Array) -> GaussianReference:
        scale = self.model.feature_scale
        if scale is None:
            scale = X.std(axis=0, dtype=np.float64)
            scale[scale == 0] = 1.0
        if np.isnan(X).any() or np.isnan(observed).any():
            return IncompleteReference(X, observed, self.k, scale)
        return GaussianReference(X, observed, self.k, scale)

    @property
    def shortfall(self) -> float:
        """ELBO of the reference minus the ELBO of the model, at the same noise variance."""
        return self.matched_bound - self.elbo

    @property
    def is_below(self) -> bool:
        """Whether the ELBO is below that of the reference by more than the margin."""
        return self.shortfall > self.margin

    @property
    def linear_model(self) -> str:
        """Name of the reference."""
        if self.is_bernoulli:
            name = "logistic pPCA"
        else:
            name = "factor analysis" if np.ndim(self.reference.scale) else "pPCA"
        return f"{name} with the same number of dimensions"

    @property
    def matched_model(self) -> str:
        """Name of the reference with the noise variance of the model if that is fixed."""
        return self.linear_model + " and noise variance" * (self.fixed_noise is not None)

    @property
    def has_lost_dimensions(self) -> bool:
        """Whether useful dimensions have collapsed, which makes reconstructions worse."""
        if self.is_bernoulli or self.n_active >= self.reference.n_used:
            return False
        excess = self.numbers["reconstruction_error"] - self.numbers["pca_reconstruction_error"]
        return bool(excess > SHARE_OF_GAIN * self.reference.average_variance)

    @property
    def is_elbo(self) -> bool:
        """Whether the training objective was the ELBO."""
        objective = self.parameters.get("objective", "elbo")
        return self.kl_weight == 1 and not self.model.free_bits and objective == "elbo"

    @cached_property
    def history(self) -> dict[str, Any]:
        """Values of each training step after a warm-up of the KL; empty without training."""
        skipped = self.parameters.get("kl_warmup_epochs") or 0
        history = self.model.training_history or {}
        return {name: np.asarray(values)[skipped:] for name, values in history.items()}

    @property
    def is_trained(self) -> bool:
        """Whether the model was trained by iterations, rather than in closed form."""
        return self.model.trained_elsewhere or self.model.training_history is not None

    @cached_property
    def trend(self) -> Trend:
        """Trend of the bound of the training samples."""
        return trend_of(self.history.get("bound", ())[: self.n_steps_at_rate])

    @cached_property
    def trend_at_optimum(self) -> Trend:
        """Trend of the bound of the training samples, at the optimal noise variance if that is better.

        Closed-form updates keep the noise variance of networks that reconstruct badly far below its
        optimum, which it has only after training.
        """
        names = ("bound", "reconstruction", "noise_variance")
        bound, reconstruction, noise = (np.asarray(self.history.get(name, ())) for name in names)
        is_known = bound.shape == reconstruction.shape == noise.shape != (0,)
        if not is_known or self.fixed_noise is not None:
            return self.trend
        d = self.n_observed
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = -2.0 * reconstruction / d - np.log(2.0 * np.pi * noise)  # optimum over actual
            gain = 0.5 * d * (ratio - 1.0 - np.log(ratio))
        if not (np.isfinite(gain).all() and min(gain[-1], self.elbo - bound[-1]) > self.margin):
            return self.trend
        return trend_of((bound + gain)[: self.n_steps_at_rate])

    @cached_property
    def validation_trend(self) -> Trend | None:
        """Trend of the bound of validation samples, or None without them."""
        bounds = np.asarray(self.history.get("validation_bound", ()), dtype=np.float64)
        return trend_of(bounds[: self.n_steps_at_rate]) if np.isfinite(bounds).any() else None

    @cached_property
    def n_steps_at_rate(self) -> int:
        """Number of steps before the final decay of the learning rate, which hides the slope."""
        rates, n = self.history.get("learning_rate", ()), self.n_steps
        least = n - round(MAX_FALLING * n)
        while len(rates) == self.n_steps and n > max(least, 1) and rates[n - 1] < rates[n - 2]:
            n -= 1
        return n

    @property
    def n_steps(self) -> int:
        """Number of training steps after a warm-up of the KL."""
        return len(self.history.get("bound", ()))

    @property
    def n_all_steps(self) -> int:
        """Number of training steps."""
        return len((self.model.training_history or {}).get("bound", ()))

    @property
    def step(self) -> str:
        """Name of a training step."""
        return "epoch" if "epoch" in self.history else "iteration"

    @property
    def reached_limit(self) -> bool:
        """Whether training used all steps that it was allowed, or whether this is not known."""
        limits = [self.parameters[n] for n in ("max_epochs", "max_iter") if n in self.parameters]
        if not limits:
            return True
        # Without a limit, `tol` ends a fit.
        return isinstance(limits[0], int) and self.n_all_steps >= limits[0]

    @cached_property
    def held_out_history(self) -> dict[int, float]:
        """ELBO of the held-out samples by epoch, if the fit kept snapshots."""
        if self.held_out is None:
            return {}
        return {
            int(epoch): float(average_terms(snapshot, self.held_out).bound)
            for epoch, snapshot in sorted(self.model.snapshots.items())
        }

    @cached_property
    def decoded(self) -> tuple[Array, Array]:
        """Mean and variance of p(x|z) at the posterior means of the subset."""
        return self._decode(self.mean, self.subset)

    def _decode(self, Z: Array, samples: Any) -> tuple[Array, Array]:
        """Return mean and variance of p(x|z) at latents in units of the prior.

        `samples` have the covariates, if the model has any.
        """
        codes: Any = self._in_model_units(Z)
        if not isinstance(self.subset, np.ndarray):
            codes = to_device_of(self.subset, codes)
        mean, variance = self.model.conditional(self.model.with_covariates(codes, samples))
        return to_host(mean), to_host(variance)

    def decoder_spread(self, distance: float) -> float:
        """Return the variance of decoded means over z, relative to that of X.

        The z are draws from the prior, scaled by `distance`.
        """
        # A separate stream, because X may have been generated with the same seed.
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,)))
        Z = distance * rng.standard_normal((PRIOR_DRAWS, self.k))
        means = self._decode(Z, self.subset[:1])[0]
        observed = to_host(self.reference.subset)
        total = float(np.nanvar(observed, axis=0, dtype=np.float64).sum())
        return float(means.var(axis=0, dtype=np.float64).sum()) / total

    def _in_model_units(self, Z: Array) -> Array:
        """Return latent vectors in units of the prior as latent vectors of the model."""
        scale = np.sqrt(np.asarray(self.model.prior_variance, dtype=np.float64))
        return self.model.prior_mean + scale * Z

    @cached_property
    def inactive_units(self) -> dict[str, float]:
        """Share of the units that are 0 for all samples, of the worst hidden layer by network."""
        return self.model.inactive_units(self.subset[:WATCHED_SAMPLES])

    def _compare_noise(self, terms: BoundTerms) -> None:
        if self.fixed_noise is not None:
            self.matched_bound = self.reference.bound_with(self.fixed_noise)
        self.numbers["reference_noise_variance"] = self.reference.noise_variance
        noise = self.model.shared_noise_variance
        if noise is None:
            return
        unit = self.reference.scale**2
        self.noise = float(np.mean(noise / unit))
        tuned, gain = self._tuned_noise(noise, terms)
        self.numbers |= {
            "noise_variance": self.noise,
            "tuned_noise_variance": float(np.mean(tuned / unit)),
            "tuned_elbo": self.elbo + gain,
        }

    def _tuned_noise(self, noise: Any, terms: BoundTerms) -> tuple[Any, float]:
        """Return the optimal noise variance given all other parameters, and its gain in nats."""
        if terms.squared_errors is not None:  # the posterior does not depend on the noise variance
            ratio = terms.squared_errors / noise
            share = np.ones(len(ratio)) if terms.observed_share is None else terms.observed_share
            average = np.average(ratio, weights=share)
            best = ratio if np.ndim(noise) else np.full(len(ratio), average)
            with np.errstate(divide="ignore"):
                gain = 0.5 * float(share @ (ratio - 1.0 - np.log(best)))
            return noise * (best if np.ndim(noise) else best[0]), gain
        tuned: Any = self.model.with_tuned_noise(self.subset)
        if tuned is not None:
            return tuned.shared_noise_variance, float(tuned.score(self.subset)) - self.elbo
        relative = 1.0 - 2.0 * self.entropies.gap.noise / terms.n_features
        return noise * relative, self.entropies.noise_gain

    def _compare_errors(self) -> None:
        error = (to_host(self.reference.subset) - self.decoded[0]) / self.reference.scale
        self.numbers |= {
            "reconstruction_error": float(np.nanmean(error**2)),
            "pca_reconstruction_error": self.reference.error,
            "variance": self.reference.average_variance,
        }

    def _compare_held_out(self) -> None:
        observed = self.model.observations(to_host(self.held_out))
        self.numbers |= {
            "held_out_elbo": float(average_terms(self.model, self.held_out).bound),
            "held_out_reference": self.reference.bound_of(observed),
            "held_out_without_latents": self.reference.baseline_of(observed),
        }
