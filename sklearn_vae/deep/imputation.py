"""Imputation by deep VAEs: importance sampling of the latent vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_vae.deep.evaluation import block_size, evaluate_blocks
from sklearn_vae.nn.cubature import normal_points
from sklearn_vae.nn.objectives import log_weights
from sklearn_vae.validation import check_flag, check_integer, check_random_state

Array = NDArray[Any]


class ImputerMixin:
    """Method `impute` of the deep VAEs."""

    def impute(
        self: Any,
        X: Any,
        return_std: bool = False,
        *,
        n_draws: int | None = None,
        n_samples: int = 256,
        random_state: Any = None,
    ) -> Any:
        """Replace missing values by their conditional means, or by draws, given the observed ones.

        Latent vectors are drawn from q(z|x) and weighted by p(x, z) / q(z|x) of the observed
        features, so that results approach those of the exact posterior with more of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with NaN for missing values.
        return_std : bool, default=False
            Whether to return the conditional standard deviation too.
        n_draws : int, default=None
            Number of completed data sets that are drawn from the conditional distribution of the
            missing values, for multiple imputation. If None, they are replaced by their
            conditional means.
        n_samples : int, default=256
            Number of latent vectors for each sample. They are at points that all samples share.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the draws.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features) or (n_draws, n_samples, n_features)
            Data without missing values.
        std : ndarray of shape (n_samples, n_features)
            Conditional standard deviation, 0 for observed entries. Only if `return_std` is True.

        References
        ----------
        Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
        Sets" (2019), eq. 12.
        """
        check_is_fitted(self)
        check_flag("return_std", return_std)
        check_integer("n_samples", n_samples, at_least=1)
        if n_draws is not None:
            check_integer("n_draws", n_draws, at_least=1)
        X = np.asarray(self._check_samples(X, reset=False))
        missing = np.isnan(X)
        rows = np.flatnonzero(missing.any(axis=1))
        filled = X.copy() if n_draws is None else np.repeat(X[None], n_draws, axis=0)
        std = np.zeros_like(X)
        if rows.size:
            draws = Imputation(self, X[rows], n_samples)
            if n_draws is None or return_std:
                mean, std[rows] = draws.moments()
            if n_draws is None:
                filled[missing] = mean[missing[rows]]
            else:
                values = draws.draw(n_draws, check_random_state(random_state))
                filled[:, missing] = values[:, missing[rows]]
            std[~missing] = 0.0
        return (filled, std) if return_std else filled


class Imputation:
    """Weighted latent vectors of samples with missing values."""

    def __init__(self, model: Any, X: Array, n_samples: int) -> None:
        self.model, self.X = model, X
        self.module = model._module_for(X)
        self.noise = model._as_tensor(normal_points(model.n_components_, n_samples)[:, None])

    def moments(self) -> tuple[Array, Array]:
        """Compute the conditional mean and standard deviation of every feature."""
        scale = self.model._as_tensor(self.model.scale_)

        def mean_and_std(block: slice) -> Tensor:
            x, weights = self._weights(block)
            q, d = self.module.encode(x), x.shape[1]
            center = self.module.decode(q.mean).mean
            sums = x.new_zeros(2, len(x), d)
            for noise, w in self._parts(x, weights):
                p = self.module.decode(q.draw(noise).z)
                away = p.mean - center
                sums[0] += torch.einsum("sn,snd->nd", w, away)
                sums[1] += torch.einsum("sn,snd->nd", w, p.variance + away.square())
            variance = (sums[1] - sums[0].square()).clamp(min=0.0)
            mean = self.model._in_data_units(center + sums[0])
            return torch.cat([mean, variance.sqrt() * scale], dim=1)

        mean, std = np.split(self._evaluate(mean_and_std), 2, axis=1)
        return mean, std

    def draw(self, n_draws: int, random_state: np.random.RandomState) -> Array:
        """Draw samples, of shape (n_draws, n_samples, n_features)."""
        uniform = random_state.uniform(size=(n_draws, len(self.X)))

        def latents(block: slice) -> Tensor:
            x, weights = self._weights(block)
            u = self.model._as_tensor(uniform[:, block])
            steps = weights.cumsum(0).mT.contiguous()
            chosen = torch.searchsorted(steps, u.mT.contiguous()).mT
            noise = self.noise[chosen.clamp(max=len(self.noise) - 1), 0]
            return self.module.encode(x).draw(noise).z.transpose(0, 1).flatten(1)

        k = self.model.n_components_
        Z = self._evaluate(latents).reshape(-1, n_draws, k).transpose(1, 0, 2)
        draw = self.module.likelihood.draw
        return np.stack([draw(*self._conditional(z), random_state) for z in Z])

    def _conditional(self, Z: Array) -> tuple[Array, Array]:
        mean, variance = self.model.conditional(Z)
        return np.asarray(mean), np.asarray(variance)

    def _weights(self, block: slice) -> tuple[Tensor, Tensor]:
        """Return samples in the units of the networks, and their weights with sum 1, (S, n)."""
        x = self.model._as_tensor((self.X[block] - self.model.mean_) / self.model.scale_)
        parts = self.noise.split(self._at_once(x))
        logs = torch.cat([log_weights(self.module, x, noise) for noise in parts])
        return x, torch.softmax(logs, 0)

    def _parts(self, x: Tensor, weights: Tensor) -> Any:
        size = self._at_once(x)
        return zip(self.noise.split(size), weights.split(size), strict=True)

    def _at_once(self, x: Tensor) -> int:
        return max(1, self.model._block_size() // len(x))

    def _evaluate(self, function: Any) -> Array:
        k = self.model.n_components_
        step = block_size(max(self.X.shape[1], len(self.noise) * k, k * k))
        blocks = (slice(start, start + step) for start in range(0, len(self.X), step))
        return evaluate_blocks(self.model.net_, blocks, function, "X")
