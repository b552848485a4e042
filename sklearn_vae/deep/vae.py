"""What every deep VAE does, whatever its likelihood: densities, draws, and what training left."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_vae.deep.base import Array, DeepModel
from sklearn_vae.gaussian.bounds import (
    COLLAPSE_KL,
    COLLAPSE_SHARE,
    BoundTerms,
    EntropyGap,
    sum_of_entropies,
)
from sklearn_vae.nn.distributions import fixed_draws
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import build_decoder, build_encoder
from sklearn_vae.nn.objectives import elbo, iwae, log_weights
from sklearn_vae.nn.posteriors import (
    LOG_VARIANCE_RANGE,
    DiagonalPosterior,
    DiagonalPrior,
    StandardPrior,
    SylvesterPosterior,
)
from sklearn_vae.protocol import LatentModel
from sklearn_vae.training.callbacks import KLWarmup
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.monitors import LatentMonitor
from sklearn_vae.validation import check_choice, check_integer, check_random_state, check_real

OBJECTIVES = {"elbo": elbo, "iwae": iwae}
VARIATIONAL_FAMILIES = {"diagonal": DiagonalPosterior, "sylvester": SylvesterPosterior}
PRIORS = {"standard": StandardPrior, "learned_variance": DiagonalPrior}

# Draws of z that the bound of a row is averaged over, at least: the same for every row, so that the
# result depends neither on their order nor on what other rows there are.
SCORED_DRAWS = 32

# Draws that the diagnostics of a fit are averaged over, at least, over all rows together: unless
# these take more than so many operations.
DIAGNOSED_DRAWS = 16384
DIAGNOSED_OPERATIONS = 1e11


class Averages(NamedTuple):
    """What training left, over the training rows and draws of z, in the units of the networks.

    Attributes
    ----------
    misfit : array
        Of what `_misfit` gives.
    kl, posterior_entropy : float
        KL(q(z|x) || p(z)) and H[q(z|x)].
    second_moment : array of shape (k,)
        E_q z_h^2 over the prior's variance.
    active_bounds : tuple of str
    """

    misfit: Array
    kl: float
    posterior_entropy: float
    second_moment: Array
    active_bounds: tuple[str, ...]


class DeepVAE(LatentModel, DeepModel):
    """For subclasses that say what their likelihood is."""

    _of_networks = (*DeepModel._of_networks, "prior", "variational_family")

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        """Mean and variance of q(z|x) for each row.

        Parameters
        ----------
        X : array-like of shape (n, d)
        return_cov : bool, default=False
            Return the covariance in place of the variance.

        Returns
        -------
        mean : array of shape (n, k)
        variance : array of shape (n, k), or covariance of shape (n, k, k)
        """
        k = self.n_components_

        def both(x: Tensor) -> Tensor:
            q = self.module_.encode(x)
            marginals = q.marginals()
            spread = q.covariance().flatten(1) if return_cov else marginals.variance
            return torch.cat([marginals.mean, spread], dim=1)

        mean, spread = np.split(self._of_rows(X, both), [k], axis=1)
        return mean, spread.reshape(-1, k, k) if return_cov else spread

    def score_samples(self, X: Any) -> Array:
        """Evidence lower bound of each row, in nats; higher is better.

        The ELBO whatever `objective` and `kl_weight` were trained with, averaged over the same
        fixed draws for every row (32, or k + 1 if that is more, with mean 0 and covariance I): the
        same number at every call, in any order of the rows. Since the draws are shared, their error
        does not average out over the rows: with two latents and noise that depends on z it has been
        0.05 nats (`elbo_` is of draws of each row's own).

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        array of shape (n,)
        """
        check_is_fitted(self)

        def bound(x: Tensor) -> Tensor:
            prior, total = self.module_.prior(), torch.zeros_like(x[:, 0])
            for share, draws, p in self._scored(x):
                total += share * (p.log_prob(x).mean(0) - draws.kl(prior))
            return total

        return self._of_rows(X, bound).astype(np.float64) - self._log_scale()

    def score(self, X: Any, y: Any = None) -> float:
        """Evidence lower bound averaged over the rows of X, in nats per sample; higher is better.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : Ignored
        """
        return float(self.score_samples(X).mean())

    def log_likelihood(self, X: Any, n_samples: int = 100) -> Array:
        """Importance-weighted estimate of log p(x) of each row, in nats.

        log (1/S) sum_s p(x, z_s) / q(z_s|x): in expectation a lower bound that rises with S toward
        log p(x) (Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", eq. 8). The
        draws are fixed, the same for every row.

        Parameters
        ----------
        X : array-like of shape (n, d)
        n_samples : int, default=100
            Draws S of each row.

        Returns
        -------
        array of shape (n,)
        """
        check_integer("n_samples", n_samples, at_least=1)
        check_is_fitted(self)
        generator = torch.Generator().manual_seed(0)
        shape = (n_samples, 1, self.n_components_)
        draws = torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = self._as_tensor(draws)

        def weighted(x: Tensor) -> Tensor:
            parts = [
                log_weights(self.module_, x, part) for part in noise.split(self._draws_at_once(x))
            ]
            return torch.logsumexp(torch.cat(parts), 0) - math.log(n_samples)

        return self._of_rows(X, weighted).astype(np.float64) - self._log_scale()

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, Array]:
        """Draw from the model.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None draws from NumPy's global generator.

        Returns
        -------
        X : array of shape (n_samples, d)
        Z : array of shape (n_samples, k)
            The latent z that each row of X was drawn from.
        """
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        random_state = check_random_state(random_state)
        std = np.sqrt(_on_host(self.module_.prior().variance))
        Z = std * random_state.standard_normal((n_samples, self.n_components_))
        Z = self._as_tensor(Z).cpu().numpy()
        X = self._draw_rows(Z, random_state)
        return X.astype(Z.dtype, copy=False), Z

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("objective", self.objective, OBJECTIVES)
        check_integer("n_mc_samples", self.n_mc_samples, at_least=1)
        check_real("kl_weight", self.kl_weight, at_least=0)
        check_integer("kl_warmup_epochs", self.kl_warmup_epochs, at_least=0)
        check_real("free_bits", self.free_bits, at_least=0)
        check_choice("prior", self.prior, PRIORS)
        check_choice("variational_family", self.variational_family, VARIATIONAL_FAMILIES)
        self._check_objective()
        gone = len(self.net_.history) if self.warm_start and hasattr(self, "net_") else 0
        if self.kl_warmup_epochs > gone + self.max_epochs:
            warnings.warn(
                f"kl_warmup_epochs={self.kl_warmup_epochs} is more than max_epochs="
                f"{self.max_epochs}: the KL weight will not reach kl_weight={self.kl_weight}, and "
                "the model is not trained on its bound.",
                stacklevel=4,
            )

    def _check_objective(self) -> None:
        """Raise ValueError where the KL is not what is weighted, or no sum over dimensions."""
        if self.objective == "iwae" and self.kl_weight != 1:
            raise ValueError(
                f"kl_weight must be 1 with objective='iwae', whose KL is not a term, got "
                f"{self.kl_weight!r}."
            )
        for name, value in {"objective": "iwae", "variational_family": "sylvester"}.items():
            if self.free_bits and getattr(self, name) == value:
                raise ValueError(
                    f"free_bits must be 0 with {name}={value!r}, whose KL is not a sum over "
                    f"dimensions, got {self.free_bits!r}."
                )

    def _warmup_epochs(self) -> int:
        return self.kl_warmup_epochs

    def _assembled(self, likelihood: Callable[[], Any], dtype: torch.dtype) -> Callable[..., Any]:
        """Of a function that makes a likelihood, one that makes the whole module."""
        return partial(
            vae_module,
            self._row_shape,
            int(self.n_components),
            likelihood,
            posterior=VARIATIONAL_FAMILIES[self.variational_family],
            prior=PRIORS[self.prior],
            encoder=self.encoder,
            decoder=self.decoder,
            hidden_layer_sizes=self._hidden_layer_sizes(),
            activation=self.activation,
            dtype=dtype,
        )

    def _of_training(self) -> dict[str, Any]:
        return {
            "objective": OBJECTIVES[self.objective],
            "options": {"free_bits": float(self.free_bits)} if self.objective == "elbo" else {},
            "monitor": self._monitor(),
            "noise_shape": (int(self.n_mc_samples), int(self.n_components)),
        }

    def _monitor(self) -> LatentMonitor:
        return LatentMonitor(self._log_scale())

    def _callbacks(self) -> list[Any]:
        return [KLWarmup(self.kl_warmup_epochs, float(self.kl_weight))]

    def _encoded(self, x: Tensor) -> Tensor:
        return self.module_.encode(x).mean

    def _decoded(self, z: Tensor) -> Tensor:
        return self.module_.decode(z).mean

    @torch.no_grad()
    def _diagnose(self, rows: Tensor, reducer: Reducer) -> None:
        """Set what the latent space does with the training rows, and the bound on them."""
        n, k = int(reducer.sum(len(rows))), self.n_components_
        affordable = int(DIAGNOSED_OPERATIONS / (self.net_.operations_ * n))
        draws = max(1, min(-(-DIAGNOSED_DRAWS // n), affordable))
        generator = torch.Generator(rows.device).manual_seed(reducer.own_seed(0))
        prior = self.module_.prior()
        of_terms, misfit, moment, whole = 4 * [np.zeros(1)]
        bounded = False
        for block in self._blocks(len(rows)):
            x = rows[block]
            q = self.module_.encode(x)
            terms = q.marginals().kl_terms(prior)
            of_terms = of_terms + _host_sum(terms, terms > COLLAPSE_KL) / n
            bounded |= bool((q.base.log_variance.abs() >= LOG_VARIANCE_RANGE[1]).any())
            for size in _parts(draws, self._draws_at_once(x)):
                shape = (size, len(x), k)
                drawn = q.draw(
                    torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
                )
                share = size / (draws * n)
                moment = moment + share * _host_sum(drawn.second_moment() / prior.variance)[0]
                whole = whole + share * _host_sum(drawn.kl(prior), drawn.entropy())
                misfit = misfit + _on_host(self._misfit(self.module_.decode(drawn.z), x)) / (
                    draws * n
                )
        of_terms, misfit, moment, whole, bounded = map(
            reducer.sum, (of_terms, misfit, moment, whole, bounded)
        )
        if not all(np.isfinite(found).all() for found in (of_terms, misfit, moment, whole)):
            raise FloatingPointError("The bound of the training rows is not finite.")
        self.kl_per_dim_, share_above = of_terms
        self.collapsed_dims_ = np.flatnonzero(share_above <= COLLAPSE_SHARE)
        self.prior_variance_ = np.broadcast_to(_on_host(prior.variance), k).copy()
        kl, entropy = whole.tolist()
        bounds = ("posterior variance",) if bounded else ()
        self._set_bound(Averages(misfit, kl, entropy, moment, bounds))

    def _misfit(self, p: Any, x: Tensor) -> Tensor:
        """Sums over rows and draws of what the bound needs to know of p(x|z)."""
        return torch.stack([p.log_prob(x).sum(), p.entropy().sum()])

    def _set_bound(self, a: Averages) -> None:
        """The bound, the entropies and what is between them, from log p(x|z) and H[p(x|z)].

        Their sum is the derivative of the bound along the scale, or the log-variances, of p(x|z).
        """
        reconstruction, decoder_entropy = (float(value) for value in a.misfit[:2])
        log_scale = self._log_scale()
        prior_entropy = float(self.module_.prior().entropy())
        self.elbo_ = reconstruction - a.kl - log_scale
        self.entropy_bound_ = sum_of_entropies(
            a.posterior_entropy, prior_entropy, decoder_entropy + log_scale
        )
        self.entropy_gap_ = EntropyGap.of_noise_part(
            reconstruction + decoder_entropy, a.second_moment, a.active_bounds
        )

    def _scored(self, x: Tensor) -> Iterator[tuple[float, Any, Any]]:
        """Parts of the draws that `score_samples` is averaged over: share, z, and p(x|z)."""
        noise = self._as_tensor(fixed_draws(self.n_components_, SCORED_DRAWS))
        q = self.module_.encode(x)
        for part in noise.split(self._draws_at_once(x)):
            draws = q.draw(part)
            yield len(part) / len(noise), draws, self.module_.decode(draws.z)

    @property
    def prior_variance(self) -> Array:
        """Variances of p(z)."""
        return self.prior_variance_

    @property
    def feature_scale(self) -> Any:
        """Standard deviations of the features if each has its own noise variance, else 1."""
        return self.scale_ if np.ndim(self.scale_) else 1.0

    @property
    def active_bounds(self) -> tuple[str, ...]:
        """Variances, by name, that a bound held during training."""
        return self.entropy_gap_.active_bounds

    def bound_terms(self, X: Any) -> BoundTerms:
        """What `score` is made of, over the same draws."""
        prior, d = self.module_.prior(), self.n_features_in_

        def terms(x: Tensor) -> Tensor:
            found = x.new_zeros(len(x), 5 + self.n_components_)
            for share, draws, p in self._scored(x):
                columns = [p.log_prob(x), draws.kl(prior), draws.entropy(), p.entropy()]
                columns.append(self._curvature(p))
                means = [c.mean(0) if c.ndim == 2 else c for c in columns]
                found[:, :5] += share * torch.stack(means, 1)
                found[:, 5:] += share * draws.second_moment() / prior.variance
            return found

        averages = self._of_rows(X, terms).mean(axis=0, dtype=np.float64)
        reconstruction, kl, entropy, decoder_entropy, curvature = averages[:5].tolist()
        log_scale = self._log_scale()
        return BoundTerms(
            n_features=d,
            bound=reconstruction - kl - log_scale,
            kl=kl,
            posterior_entropy=entropy - 0.5 * float(np.log(self.prior_variance_).sum()),
            decoder_entropy=decoder_entropy + log_scale,
            second_moment=averages[5:],
            curvature=curvature if self._has_bits else None,
        )

    _has_bits = False

    def _curvature(self, p: Any) -> Tensor:
        """Minus the second derivative of log p(x|z) along the scale of its logits, if any."""
        return torch.zeros_like(p.mean[..., 0])

    def _draws_at_once(self, x: Tensor) -> int:
        """Of each row of x, so that together they are as many rows as a block has."""
        return max(1, self._rows_at_once() // len(x))

    def _log_scale(self) -> float:
        """What the density loses from the units of the networks to those of the data."""
        return float(np.log(np.broadcast_to(self.scale_, self.n_features_in_)).sum())


def vae_module(
    row_shape: tuple[int, ...],
    n_components: int,
    likelihood: Callable[[], Any],
    *,
    posterior: Callable[[int], Any],
    prior: Callable[[int], Any],
    encoder: Any,
    decoder: Any,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    dtype: torch.dtype,
    on: str | None = None,
) -> VAEModule:
    """A new module, its weights from torch's global generator; `on` "meta" networks have none."""
    q, p, prior_module = posterior(n_components), likelihood(), prior(n_components)
    networks = (hidden_layer_sizes, activation)
    parts = p.n_inputs // p.n_features
    shape = row_shape if parts == 1 else (parts, *row_shape)
    learned = isinstance(prior_module, DiagonalPrior)
    with nullcontext() if on is None else torch.device(on):
        encoder_module = build_encoder(encoder, row_shape, q.n_inputs, *networks)
        decoder_module = build_decoder(decoder, n_components, shape, *networks)
        weight = _first_weight(decoder_module, n_components) if learned else None
    return VAEModule(encoder_module, q, decoder_module, p, prior_module, weight).to(dtype)


def _first_weight(decoder: nn.Module, n_components: int) -> Any:
    """The matrix that a decoder multiplies z by first; ValueError where there is none to learn."""
    z = torch.zeros(2, n_components, dtype=next(decoder.parameters()).dtype)
    first: list[nn.Linear] = []

    def look(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        # Tensors without numbers, on "meta", are all at the address 0.
        if inputs[0] is z or inputs[0].data_ptr() == z.data_ptr() != 0:
            first.append(layer)

    layers = [part for part in decoder.modules() if isinstance(part, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad():
            decoder(z)
    finally:
        for hook in hooks:
            hook.remove()
    trained = {id(p) for p in decoder.parameters() if p.requires_grad}
    if len(first) == 1 and id(first[0].weight) in trained:
        return first[0].weight
    raise ValueError(
        "prior='learned_variance' needs a decoder that begins with an nn.Linear of n_components="
        f"{n_components} inputs and a weight to be learned, whose columns then have length 1, got "
        f"{decoder!r}."
    )


def _host_sum(*terms: Tensor) -> Array:
    """Sums over rows of terms of one shape, stacked, on the host."""
    return _on_host(torch.stack([t.to(terms[0].dtype) for t in terms]).sum(1))


def _on_host(values: Tensor) -> Array:
    return values.detach().cpu().double().numpy()


def _parts(whole: int, size: int) -> list[int]:
    """Numbers of at most `size` that add up to `whole`."""
    return [min(size, whole - start) for start in range(0, whole, size)]
