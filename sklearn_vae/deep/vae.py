"""What every deep VAE does, whatever its likelihood: densities, draws, and what training left."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_vae.deep.base import ROWS_AT_ONCE, Array, DeepModel
from sklearn_vae.deep.callbacks import KLWarmup
from sklearn_vae.deep.monitors import LatentMonitor
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.nn.objectives import elbo, log_weights
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE
from sklearn_vae.validation import check_choice, check_integer, check_real

OBJECTIVES = {"elbo": elbo}

# Draws of z that the bound of a row is averaged over, at least: the same for every row, so that the
# result depends neither on their order nor on what other rows there are.
SCORED_DRAWS = 32

# Draws that the diagnostics of a fit are averaged over, at least, over all rows together.
DIAGNOSED_DRAWS = 16384


class DeepVAE(DeepModel):
    """For subclasses that say what their likelihood is."""

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
            return torch.cat([q.mean, q.variance], dim=1)

        mean, variance = np.split(self._of_rows(X, both), [k], axis=1)
        return mean, variance[:, :, None] * np.eye(k, dtype=mean.dtype) if return_cov else variance

    def score_samples(self, X: Any) -> Array:
        """Evidence lower bound of each row, in nats; higher is better.

        The ELBO whatever `objective` and `kl_weight` were trained with, averaged over the same
        fixed draws for every row (32, or k + 1 if that is more, with mean 0 and covariance I): the
        same number at every call, in any order of the rows.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        array of shape (n,)
        """
        noise = self._fixed_noise()

        def bound(x: Tensor) -> Tensor:
            q = self.module_.encode(x)
            parts = noise.split(self._draws_at_once(x))
            sums = [self.module_.decode(q.rsample(part)).log_prob(x).sum(0) for part in parts]
            kl = q.kl_terms(self.module_.prior()).sum(-1)
            return sum(sums[1:], sums[0]) / len(noise) - kl

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
        Z = random_state.standard_normal((n_samples, self.n_components_))
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
        gone = len(self.net_.history) if self.warm_start and hasattr(self, "net_") else 0
        if self.kl_warmup_epochs > gone + self.max_epochs:
            warnings.warn(
                f"kl_warmup_epochs={self.kl_warmup_epochs} is more than max_epochs="
                f"{self.max_epochs}: the KL weight will not reach kl_weight={self.kl_weight}, and "
                "the model is not trained on its bound.",
                stacklevel=4,
            )

    def _warmup_epochs(self) -> int:
        return self.kl_warmup_epochs

    def _of_training(self) -> dict[str, Any]:
        return {
            "objective": OBJECTIVES[self.objective],
            "options": {"free_bits": self.free_bits},
            "monitor": self._monitor(),
            "noise_shape": (self.n_mc_samples, self.n_components),
        }

    def _monitor(self) -> LatentMonitor:
        return LatentMonitor(self._log_scale())

    def _callbacks(self) -> list[Any]:
        return [KLWarmup(self.kl_warmup_epochs, self.kl_weight)]

    def _encoded(self, x: Tensor) -> Tensor:
        return self.module_.encode(x).mean

    def _decoded(self, z: Tensor) -> Tensor:
        return self.module_.decode(z).mean

    @torch.no_grad()
    def _diagnose(self, rows: Tensor) -> None:
        """Set what the latent space does with the training rows, and the bound on them."""
        n = len(rows)
        draws = -(-DIAGNOSED_DRAWS // n)
        generator = torch.Generator(rows.device).manual_seed(0)
        prior = self.module_.prior()
        sums: Any = 0.0
        misfit: Any = 0.0
        bounded = False
        for block in self._blocks(n):
            x = rows[block]
            q = self.module_.encode(x)
            terms = q.kl_terms(prior)
            above = (terms > COLLAPSE_KL).to(terms.dtype)
            bounded |= bool((q.log_variance.abs() >= LOG_VARIANCE_RANGE[1]).any())
            distance = (q.mean - prior.mean).square() + q.variance
            second_moment = distance / prior.variance
            of_block = torch.stack([terms, above, q.log_variance, second_moment]).sum(1)
            sums = sums + of_block.cpu().double().numpy() / n
            for size in _parts(draws, self._draws_at_once(x)):
                shape = (size, *q.mean.shape)
                noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
                p = self.module_.decode(q.rsample(noise))
                misfit = misfit + self._misfit(p, x).cpu().double().numpy() / (draws * n)
        if not (np.isfinite(sums).all() and np.isfinite(misfit).all()):
            raise FloatingPointError("The bound of the training rows is not finite.")
        self.kl_per_dim_, share, log_variance, second_moment = sums
        self.collapsed_dims_ = np.flatnonzero(share <= COLLAPSE_SHARE)
        self._set_bound(misfit, log_variance, second_moment, bounded)

    def _fixed_noise(self) -> Tensor:
        """Normal draws of shape (S, 1, k), moved so that their mean is 0 and covariance I.

        Exactly, which makes the average of the bound over them exact for a linear decoder: of
        independent draws that are shared by all rows the error would not average out. In pairs z,
        -z where there are enough.
        """
        check_is_fitted(self)
        k = self.n_components_
        n_draws = max(SCORED_DRAWS, k + 1)
        paired = 2 * k <= n_draws
        draws = np.random.RandomState(0).standard_normal((n_draws // (1 + paired), k))
        if not paired:
            draws -= draws.mean(axis=0)
        factor = np.linalg.cholesky(draws.T @ draws / len(draws))
        draws = np.linalg.solve(factor, draws.T).T
        return self._as_tensor(np.concatenate([draws, -draws]) if paired else draws)[:, None]

    def _draws_at_once(self, x: Tensor) -> int:
        """Of each row of x, so that together they are as many rows as a block has."""
        return max(1, ROWS_AT_ONCE // len(x))

    def _log_scale(self) -> float:
        """What the density loses from the units of the networks to those of the data."""
        return float(np.log(np.broadcast_to(self.scale_, self.n_features_in_)).sum())


def _parts(whole: int, size: int) -> list[int]:
    """Numbers of at most `size` that add up to `whole`."""
    return [min(size, whole - start) for start in range(0, whole, size)]
