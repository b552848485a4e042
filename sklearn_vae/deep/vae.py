"""Base class of the deep VAEs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_vae.deep.base import Array, DeepModel
from sklearn_vae.deep.fit_averages import N_OPERATIONS, fit_averages
from sklearn_vae.deep.imputation import ImputerMixin
from sklearn_vae.deep.kept_dimensions import with_kept_networks
from sklearn_vae.deep.outcome import Bounds, LinearFit
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.gaussian.arrays import mean_of_samples
from sklearn_vae.gaussian.bounds import (
    COLLAPSE_SHARE,
    BoundTerms,
    EntropyGap,
    sum_of_entropies,
)
from sklearn_vae.nn.cubature import cubature, points_within, reference_points
from sklearn_vae.nn.distributions import LOG_2PI, average
from sklearn_vae.nn.incomplete import accept_missing
from sklearn_vae.nn.likelihoods import Likelihood
from sklearn_vae.nn.module import VAEModule, build_vae
from sklearn_vae.nn.objectives import elbo, iwae, log_weights
from sklearn_vae.nn.posteriors import POSTERIORS, PRIORS
from sklearn_vae.protocol import LatentModel
from sklearn_vae.training.callbacks import KLWarmup
from sklearn_vae.training.devices import torch_defaults
from sklearn_vae.training.monitors import LatentMonitor
from sklearn_vae.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_random_state,
    check_real,
    checked_rows,
    has_nan,
)
from sklearn_vae.warning import warn_user

OBJECTIVES = {"elbo": elbo, "iwae": iwae}


class DeepVAE(ImputerMixin, LatentModel, DeepModel):
    """Base class of the deep VAEs; subclasses define `_likelihood_class`."""

    _fitted_state: ClassVar = {
        **DeepModel._fitted_state,
        "kl_per_dim_": "k optional",
        "noise_variance_": "number|d finite positive optional",
        "prior_variance_": "k finite nonnegative",
    }
    _network_parameters = (
        *DeepModel._network_parameters,
        "prior",
        "variational_family",
        "_missing",
    )

    has_bound_with_missing = True

    @property
    @abstractmethod
    def _likelihood_class(self) -> type[Likelihood]:
        """Class of p(x|z)."""

    @property
    def _noise_update(self) -> str | None:
        """Method by which the likelihood learns its noise variance, or None."""
        return None

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        k = self.n_components_

        def moments(module: Any, x: Tensor) -> Tensor:
            q = module.encode(x)
            marginals = q.marginals()
            spread = q.covariance().flatten(1) if return_cov else marginals.variance
            return torch.cat([marginals.mean, spread], dim=1)

        mean, spread = np.split(self._map_samples(X, moments), [k], axis=1)
        return mean, spread.reshape(-1, k, k) if return_cov else spread

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        def moments(z: Tensor) -> Tensor:
            p = self.module_.decode(z)
            variance = p.variance * self._as_tensor(self.scale_).square()
            return torch.cat([self._in_data_units(p.mean), variance], dim=1)

        mean, variance = np.split(self._map_latents(Z, moments), 2, axis=1)
        return mean, variance

    def score_samples(self, X: Any, return_error: bool = False) -> Any:
        """Compute the evidence lower bound (ELBO) of each sample.

        The result is the ELBO for any training `objective` and `kl_weight`. Its expectation over z
        is a weighted average over max(32, n_components + 1) fixed points of N(0, I), which all
        samples share, so that repeated calls agree. It is exact for a linear decoder with noise
        that does not depend on z.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.
        return_error : bool, default=False
            Whether to also estimate the error of each score, from 1024 other points. This takes
            about 30 times as long.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            ELBO of each sample, in nats. Higher is better.
        errors : ndarray of shape (n_samples,)
            Estimated error of each score, in nats, with its sign, so that the average estimates the
            error of `score`. Only returned if `return_error` is True.
        """
        check_is_fitted(self)
        check_flag("return_error", return_error)
        scores = self._average_bounds(X, cubature(self.n_components_))
        if not return_error:
            return scores
        return scores, scores - self._average_bounds(X, reference_points(self.n_components_))

    def _average_bounds(self, X: Any, points: tuple[Tensor, Tensor]) -> Array:
        """Compute the ELBO of each sample from weighted points of N(0, I)."""

        def bound(module: Any, x: Tensor) -> Tensor:
            prior, total = module.prior(), torch.zeros_like(x[:, 0])
            for share, weights, draws, p in self._draws(module, x, points):
                total += share * (average(p.log_prob(x), weights) - draws.kl(prior))
            return total

        return self._scores(X, bound)

    def _scores(self, X: Any, function: Callable[[Any, Tensor], Tensor]) -> Array:
        """Apply a function that returns log-densities in the units of the networks."""
        X = self._check_samples(X, reset=False)
        log_scale: Any = self._log_scale()
        if has_nan(X):
            log_scale = ~np.isnan(np.asarray(X)) @ np.log(np.broadcast_to(self.scale_, X.shape[1]))
        return self._map_array(X, function).astype(np.float64) - log_scale

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        return mean_of_samples(self.score_samples(X), sample_weight)

    def log_likelihood(self, X: Any, n_samples: int = 100) -> Array:
        """Estimate log p(x) of each sample by importance sampling.

        The estimate is log (1/S) sum_s p(x, z_s) / q(z_s|x). In expectation it is a lower bound
        that increases with S toward log p(x). All samples share the same fixed draws.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.
        n_samples : int, default=100
            Number S of draws of z per sample.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            Estimate for each sample, in nats.

        References
        ----------
        Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), eq. 8.
        """
        check_integer("n_samples", n_samples, at_least=1)
        check_is_fitted(self)
        generator = torch.Generator().manual_seed(0)
        shape = (n_samples, 1, self.n_components_)
        draws = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        noise = self._as_tensor(draws)

        def weighted(module: Any, x: Tensor) -> Tensor:
            parts = [log_weights(module, x, part) for part in noise.split(self._n_draws(x))]
            return torch.logsumexp(torch.cat(parts), 0) - math.log(n_samples)

        return self._scores(X, weighted)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, Array]:
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        random_state = check_random_state(random_state)
        std = np.sqrt(self.prior_variance_)
        Z = std * random_state.standard_normal((n_samples, self.n_components_))
        Z = self._as_tensor(Z).cpu().numpy()
        X = self.module_.likelihood.draw(*self.conditional(Z), random_state)
        return X.astype(Z.dtype, copy=False), Z

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("objective", self.objective, OBJECTIVES)
        check_integer("n_mc_samples", self.n_mc_samples, at_least=1)
        check_real("kl_weight", self.kl_weight, at_least=0)
        check_integer("kl_warmup_epochs", self.kl_warmup_epochs, at_least=0)
        check_real("free_bits", self.free_bits, at_least=0)
        check_choice("prior", self.prior, PRIORS)
        check_choice("variational_family", self.variational_family, POSTERIORS)
        self._check_objective()
        n_done = len(self.net_.history) if self.warm_start and hasattr(self, "net_") else 0
        if self.kl_warmup_epochs > n_done + self.max_epochs:
            warn_user(
                f"kl_warmup_epochs={self.kl_warmup_epochs} is greater than max_epochs="
                f"{self.max_epochs}, so the KL weight will not reach kl_weight={self.kl_weight}. "
                "Increase max_epochs or reduce kl_warmup_epochs.",
            )

    def _check_samples(self, X: Any, **options: Any) -> Any:
        return checked_rows(self, X, ensure_all_finite="allow-nan", **options)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_objective(self) -> None:
        """Raise ValueError if `kl_weight` or `free_bits` does not fit the objective."""
        if self.objective == "iwae" and self.kl_weight != 1:
            raise ValueError(
                "kl_weight must be 1 with objective='iwae', which has no separate KL term, got "
                f"{self.kl_weight!r}."
            )
        is_sum = {
            "objective": self.objective == "elbo",
            "variational_family": POSTERIORS[self.variational_family].kl_is_sum,
        }
        for name in [name for name in is_sum if self.free_bits and not is_sum[name]]:
            raise ValueError(
                f"free_bits must be 0 with {name}={getattr(self, name)!r}, where the KL is not a "
                f"sum over the latent dimensions, got {self.free_bits!r}."
            )

    def _can_start_linear(self) -> bool:
        return bool(
            (self.objective, self.kl_weight, self.kl_warmup_epochs) == ("elbo", 1, 0)
            and not self.free_bits
        )

    def _n_warmup_epochs(self) -> int:
        return self.kl_warmup_epochs

    def _module_factory(self, dtype: torch.dtype) -> Callable[..., VAEModule]:
        return partial(
            build_vae,
            self._sample_shape,
            int(self.n_components),
            partial(self._likelihood_class, self.n_features_in_, update=self._noise_update),
            POSTERIORS[self.variational_family],
            PRIORS[self.prior],
            encoder=self.encoder,
            decoder=self.decoder,
            hidden_layer_sizes=self._hidden_layer_sizes(),
            activation=self.activation,
            dtype=dtype,
            missing=vars(self).get("_missing"),
        )

    def _widening(self) -> str:
        """Return how q(z|x) becomes wider for missing values."""
        return "correlated" if self.init == "ppca" else "none"

    @torch_defaults()
    def _module_for(self, X: Array) -> Any:
        module = self.module_
        if module.is_incomplete or not has_nan(X):
            return module
        return accept_missing(module)

    def _set_observed_share(self) -> None:
        self.module_.likelihood.observed_share = self._observed_share

    def _training_options(self) -> dict[str, Any]:
        # Models that were saved by earlier versions have no shares.
        share, recorded = vars(self).get("_observed_share"), self._likelihood_class.recorded
        return {
            "objective": OBJECTIVES[self.objective],
            "options": {"free_bits": float(self.free_bits)} if self.objective == "elbo" else {},
            "monitor": LatentMonitor(self._log_scale(share), self.scale_, recorded),
            "noise_shape": (int(self.n_mc_samples), int(self.n_components)),
            "antithetic": self._starts_linear and self.n_mc_samples % 2 == 0,
        }

    def _training_callbacks(self) -> list[Any]:
        return [KLWarmup(self.kl_warmup_epochs, float(self.kl_weight))]

    def _latents(self, module: Any, x: Tensor) -> Tensor:
        return module.encode(x).mean

    def _decode(self, z: Tensor) -> Tensor:
        return self.module_.decode(z).mean

    def _set_diagnostics(self, data: TrainingData) -> None:
        module, likelihood = self.module_, self.module_.likelihood
        averages = fit_averages(
            module,
            data.train,
            data.weights,
            self._blocks(len(data.train)),
            self._n_draws,
            self.net_.operations_,
            data.reducer,
        )
        # The optimum of another objective is different, and validation has chosen the noise, too.
        if self.objective == "elbo" and not self._starts_linear:
            likelihood.set_optimum(averages.statistics)
        terms = likelihood.terms(averages.statistics)
        self._use_statistics(averages.statistics)
        self._set_noise_variance()
        self.kl_per_dim_ = averages.kl_per_dim
        self.collapsed_dims_ = np.flatnonzero(averages.share_above <= COLLAPSE_SHARE)
        prior, log_scale = module.prior(), self._log_scale(self._observed_share)
        prior_variance = prior.variance.detach().cpu().double().numpy()
        self.prior_variance_ = np.broadcast_to(prior_variance, self.n_components_).copy()
        self.elbo_ = terms.log_prob - averages.kl - log_scale
        self.entropy_bound_ = sum_of_entropies(
            averages.posterior_entropy, prior.entropy().item(), terms.entropy + log_scale
        )
        # The derivative of the ELBO with respect to the scale, or log-variances, of p(x|z).
        noise_part = terms.log_prob + terms.entropy
        at_limit = terms.at_limit or self._noise_is_validated
        limits = {"noise variance": at_limit, "posterior variance": averages.at_limit}
        active = tuple(name for name, at_limit in limits.items() if at_limit)
        self.entropy_gap_ = EntropyGap.from_noise_part(noise_part, averages.second_moment, active)

    def _use_statistics(self, statistics: Array) -> None:
        """Set further attributes by averages of the statistics of the likelihood."""

    def _trains_on_bound(self) -> bool:
        is_elbo = self.objective == "elbo" and self.kl_weight == 1
        return is_elbo and not self.free_bits

    def _bounds_of_fit(self, data: TrainingData, with_linear: bool) -> Bounds:
        baseline, bound, has_valid = self._bound_without_latents(data), self.elbo_, False
        if with_linear and data.valid is not None:
            bound, has_valid = float(self.history_["validation_bound"].max()), True
        linear, own = self._linear_fits(data, baseline) if with_linear else (None, None)
        return Bounds(bound, baseline, linear, own, has_valid)

    def _linear_fits(
        self, data: TrainingData, baseline: float
    ) -> tuple[LinearFit | None, LinearFit | None]:
        """Return fits of linear models as in :class:`Bounds`: here, none with latents."""
        return LinearFit("a model without latent dimensions", baseline), None

    def _bound_without_latents(self, data: TrainingData) -> float:
        """Return the log-likelihood of a model without latent dimensions: here, unit normals."""
        if data.is_incomplete:
            x, w, share = data.train, data.weights, self._observed_share
            assert share is not None
            squares = torch.nansum(x.square(), dim=1)
            mean_square = float((squares if w is None else w * squares).mean())
            return -0.5 * (LOG_2PI * float(share.sum()) + mean_square) - self._log_scale(share)
        return -0.5 * self.n_features_in_ * (LOG_2PI + 1.0) - self._log_scale()

    def _set_noise_variance(self) -> None:
        """Set `noise_variance_` if the noise does not depend on z."""
        self.__dict__.pop("noise_variance_", None)  # from an earlier fit
        variance = self.module_.likelihood.noise_variance
        if variance is not None:
            noise = variance.double().cpu().numpy() * self.scale_**2
            if self.noise_variance is not None:  # arithmetic would round it
                noise = np.broadcast_to(np.float64(self.noise_variance), noise.shape).copy()
            self.noise_variance_ = noise if np.ndim(noise) else float(noise)

    def _draws(
        self, module: Any, x: Tensor, points: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Any, Any]]:
        """Yield chunks of draws at weighted points of N(0, I), by default those of `cubature`.

        Each chunk has its share of all weights, its weights divided by this share, the draws of z,
        and p(x|z).
        """
        points = cubature(self.n_components_) if points is None else points
        size, q = self._n_draws(x), module.encode(x)
        for noise, weights in zip(*(self._as_tensor(a).split(size) for a in points), strict=True):
            share = weights.sum()
            draws = q.draw(noise, weights / share)
            yield share, weights / share, draws, module.decode(draws.z, x)

    @property
    def prior_variance(self) -> Array:
        return self.prior_variance_

    @property
    def feature_scale(self) -> Any:
        return self.scale_ if np.ndim(self.scale_) else 1.0

    @property
    def active_bounds(self) -> tuple[str, ...]:
        return self.entropy_gap_.active_bounds

    def bound_terms(self, X: Any) -> BoundTerms:
        check_is_fitted(self)
        X = self._check_samples(X, reset=False)
        prior, has_logits = self.module_.prior(), False
        likelihood, squared_errors = self.module_.likelihood, np.zeros(1)
        has_errors = likelihood.noise_variance is not None
        draw = points_within(self.n_components_, N_OPERATIONS / (self.net_.operations_ * len(X)))

        def terms(module: Any, x: Tensor) -> Tensor:
            nonlocal has_logits, squared_errors
            sums = x.new_zeros(len(x), 5 + self.n_components_)
            for share, weights, draws, p in self._draws(module, x, draw(x)):
                if has_errors:
                    products = (share * weights)[:, None].expand(-1, len(x))
                    errors = likelihood.statistics(p, x, products)
                    squared_errors = squared_errors + errors.cpu().double().numpy()
                columns = [p.log_prob(x), draws.kl(prior), draws.entropy(), p.entropy()]
                curvature = likelihood.curvature(p)
                has_logits = curvature is not None
                columns.append(torch.zeros_like(columns[0]) if curvature is None else curvature)
                means = [average(c, weights) if c.ndim == 2 else c for c in columns]
                sums[:, :5] += share * torch.stack(means, 1)
                sums[:, 5:] += share * draws.second_moment() / prior.variance
            return sums

        averages = self._map_array(X, terms).mean(axis=0, dtype=np.float64)
        reconstruction, kl, entropy, decoder_entropy, curvature = averages[:5].tolist()
        share = np.mean(~np.isnan(X), axis=0) if has_nan(X) else None
        n_seen = len(X) if share is None else np.maximum(len(X) * share, 1.0)
        log_scale = self._log_scale(share)
        return BoundTerms(
            n_features=self.n_features_in_ if share is None else float(share.sum()),
            bound=reconstruction - kl - log_scale,
            kl=kl,
            posterior_entropy=entropy - 0.5 * float(np.log(self.prior_variance_).sum()),
            decoder_entropy=decoder_entropy + log_scale,
            second_moment=averages[5:],
            curvature=curvature if has_logits else None,
            squared_errors=squared_errors / n_seen * self.scale_**2 if has_errors else None,
            observed_share=share,
        )

    @property
    def missing_values_(self) -> str | None:
        """How the networks of the last fit take missing values, None if X had none."""
        names = {"none": "filled", "correlated": "filled and widened"}
        check_is_fitted(self)
        return names.get(vars(self).get("_missing") or "")

    def with_dimensions(self, kept: Any) -> Self | None:
        check_is_fitted(self)
        is_sum = POSTERIORS[self.variational_family].kl_is_sum
        is_possible = is_sum and not self.module_.is_incomplete
        return with_kept_networks(self, kept) if is_possible else None

    def _n_draws(self, x: Tensor) -> int:
        """Return the number of draws per sample of x that fills one block."""
        return max(1, self._block_size() // len(x))

    def _log_scale(self, share: Array | None = None) -> float:
        """Return log p(x) in the units of the networks minus log p(x) in the units of X.

        It is an average over samples of which a share observes each feature, by default all.
        """
        log_scale = np.log(np.broadcast_to(self.scale_, self.n_features_in_))
        return float((log_scale if share is None else share * log_scale).sum())
