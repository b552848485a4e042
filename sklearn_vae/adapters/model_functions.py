"""Calls of the functions that define a model, in blocks, with checks of what they return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sklearn_vae.adapters.observations import batch_shape, observation
from sklearn_vae.adapters.outputs import (
    as_tensor,
    check_shape,
    decoder_parts,
    posterior_parameters,
)
from sklearn_vae.containers import to_array, to_host
from sklearn_vae.nn.cubature import cubature, points_within
from sklearn_vae.nn.distributions import DiagonalNormal, average
from sklearn_vae.protocol import Array
from sklearn_vae.validation import has_nan, refuse_dask

# Maximum number of elements of the largest array of a block.
NUMBERS_PER_BLOCK = 2**22

# Largest number of operations of averages over draws, as for the deep models.
N_OPERATIONS = 1e11


class ModelFunctions:
    """Mixin that calls the functions of a :class:`FunctionModel`, whose parameters it has."""

    encode: Any
    decode: Any
    likelihood: str
    spread: str
    prior: Any
    n_covariates: int
    input_shape: Any
    preprocess: Any
    postprocess: Any
    n_operations: float
    batch_size: int
    device: Any
    dtype: str | None
    name: str
    _is_mean: bool

    def _posterior(self, x: Tensor, y: Any, c: Any) -> DiagonalNormal:
        arguments = (y,) if c is None else (y, c)
        like = y if isinstance(y, Tensor) else torch.from_numpy(y)
        q = DiagonalNormal(
            *posterior_parameters(lambda: self._call("encode", *arguments), self.spread, like)
        )
        self._n_features = self._target(x, y).shape[1]
        self.n_components_ = q.mean.shape[1]
        return q

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call `encode` or `decode`; tell the shape of its inputs if it fails."""
        try:
            return getattr(self, name)(*arguments)
        except Exception as error:
            shapes = " and ".join(str(tuple(array.shape)) for array in arguments)
            error.add_note(
                f"{name} was called with an input of shape {shapes}. If it expects another shape of "
                "samples, set input_shape."
            )
            raise

    def _normal_prior(self, q: DiagonalNormal) -> DiagonalNormal:
        mean, variance = (
            torch.as_tensor(a, dtype=q.mean.dtype, device=q.mean.device).expand(q.mean.shape[1])
            for a in (self.prior.mean, self.prior.variance)
        )
        return DiagonalNormal(mean, torch.log(variance))

    def _kl(self, q: DiagonalNormal, z: Tensor, weights: Tensor) -> Tensor:
        """Return KL(q || p(z)) of each sample, from draws unless the prior is normal."""
        if self.prior.is_normal:
            return q.kl_terms(self._normal_prior(q)).sum(-1)
        log_prior = self.prior.log_prob(z.flatten(0, 1)).view(len(z), -1)
        return -q.entropy() - average(log_prior, weights)

    def _limited_points(self, X: Any) -> Callable[[Tensor], Any]:
        """Return a function that gives the points for a block of X, fewer for large networks."""
        n_draws = N_OPERATIONS / (self.n_operations * X.shape[0]) if self.n_operations else math.inf
        points: list[Any] = []

        def draw(mean: Tensor) -> Any:
            if not points:  # the number of dimensions is known now
                points.append(points_within(mean.shape[1], n_draws))
            return points[0](mean)

        return draw

    def _draws(
        self, q: DiagonalNormal, x: Tensor, y: Any, c: Any, points: Any = None
    ) -> Iterator[tuple[Any, ...]]:
        """Yield chunks of draws: their share, weights, z, p(x|z), and the targets for each draw.

        `points` are weighted points of N(0, I), by default those of `cubature`.
        """
        target = self._target(x, y)
        points = cubature(q.mean.shape[1]) if points is None else points
        points, all_weights = (a.to(dtype=q.mean.dtype, device=q.mean.device) for a in points)
        n, d = target.shape
        size = max(1, min(self.batch_size, NUMBERS_PER_BLOCK // max(d, q.mean.shape[1])) // n)
        for noise, weights in zip(points.split(size), all_weights.split(size), strict=True):
            z = q.rsample(noise)
            repeats = len(z)
            given = None if c is None else _repeat(c, repeats)
            p = self._decoded(z.flatten(0, 1), given, d)
            share = weights.sum()
            yield share, weights / share, z, p, target.repeat(repeats, 1)

    def _decoded(self, z: Tensor, c: Any, n_features: int | None = None) -> Any:
        """Return p(x|z) for z of shape (n_samples, n_components)."""
        inputs = z if self.device is not None else z.numpy()
        output = self._call("decode", inputs, *(() if c is None else (c,)))
        parts = decoder_parts(output, z)
        if any(isinstance(part, Tensor) and part.ndim < 2 for part in parts):
            raise ValueError(
                f"The output of decode must have shape ({len(z)}, n_features), got "
                f"{tuple(parts[0].shape)}."
            )
        if self.postprocess is not None:
            if len(parts) > 1 or not isinstance(parts[0], Tensor):
                raise TypeError(
                    "postprocess must be None if decode returns a spread or a distribution. "
                    "Return them in the units of X."
                )
            mean = parts[0] if self.device is not None else parts[0].numpy()
            parts = (as_tensor(self.postprocess(mean), z, "The output of postprocess"),)
        d = _count_features(parts[0]) if n_features is None else n_features
        noise: Any = getattr(self, "noise_variance_", None)
        if noise is not None:
            noise = torch.as_tensor(noise, dtype=z.dtype, device=z.device)
            if noise.ndim:
                check_shape(noise, (d,), "noise_variance")
            noise = noise.expand(d)
        spread = self._spread_of_decoder
        return observation(parts, self.likelihood, spread, self._is_mean, noise, d, len(z))

    @property
    def _spread_of_decoder(self) -> str:
        return vars(self).get("spread_of_decoder", self.spread)

    def _target(self, x: Tensor, y: Any) -> Tensor:
        """Return the observations of p(x|z) for samples x and preprocessed samples y."""
        if self.postprocess is not None or self.preprocess is None:
            return x
        y = y if isinstance(y, Tensor) else torch.from_numpy(y)
        return y.flatten(1)

    def _as_array(self, X: Any) -> Any:
        """Return X as an array of floats, or a sparse matrix, of shape (n_samples, n_features)."""
        refuse_dask(self.name, X)
        X = to_array(X)
        X = X.tocsr() if sparse.issparse(X) else to_host(X)
        if X.ndim != 2:
            raise ValueError(
                f"X must have shape (n_samples, n_features), got {X.shape}. Reshape images to "
                "(n_samples, n_features) and set input_shape."
            )
        if not X.shape[0]:
            raise ValueError("X must have at least one sample, got 0.")
        if X.shape[1] <= self.n_covariates:
            raise ValueError(
                f"X must have more columns than n_covariates={self.n_covariates}, got {X.shape[1]}."
            )
        is_float = X.dtype in (np.float32, np.float64)
        X = X.astype(self.dtype or (X.dtype if is_float else np.float64), copy=False)
        if has_nan(X):
            raise ValueError(f"X contains NaN, but {self.name} needs data without missing values.")
        return X

    def _map_samples(self, X: Any, function: Callable[[Tensor, Any, Any], Tensor]) -> Array:
        """Apply a function of samples, preprocessed samples and covariates to blocks of X."""
        X = self._as_array(X)
        size = max(1, min(self.batch_size, NUMBERS_PER_BLOCK // X.shape[1]))
        results = []
        with torch.no_grad():
            for start in range(0, X.shape[0], size):
                block = X[start : start + size]
                block = block.toarray() if sparse.issparse(block) else block
                results.append(function(*self._split(block)).cpu().numpy())
        return np.concatenate(results)

    def _split(self, block: Array) -> tuple[Tensor, Any, Any]:
        """Return samples, preprocessed samples and covariates of a block of X."""
        n_covariates, c = self.n_covariates, None
        if n_covariates:
            block, c = block[:, :-n_covariates], self._given(block[:, -n_covariates:])
        x = self._given(block)
        tensor = x if isinstance(x, Tensor) else torch.from_numpy(x)
        y = x
        if self.input_shape is not None:
            if x.shape[1] != math.prod(self.input_shape):
                raise ValueError(
                    f"X must have {math.prod(self.input_shape)} features with "
                    f"input_shape={tuple(self.input_shape)}, got {x.shape[1]}."
                )
            y = x.reshape(len(x), *self.input_shape)
        if self.preprocess is not None:
            y = self.preprocess(y)
            checked = as_tensor(y, tensor, "The output of preprocess")
            if len(checked) != len(tensor):
                raise ValueError(
                    f"preprocess must return {len(tensor)} samples, got {len(checked)}."
                )
        return tensor, y, c

    def _given(self, array: Array) -> Any:
        """Return an array as the functions get it."""
        array = np.require(array, requirements=("C", "W"))
        return array if self.device is None else torch.as_tensor(array, device=self.device)

    def _map_codes(self, Z: Any, function: Callable[[Any], Tensor]) -> Array:
        """Apply a function of p(x|z) to blocks of latent vectors, with covariates if any."""
        Z = to_host(to_array(Z, "Z"))
        k = getattr(self, "n_components_", None)
        expected = "n_components" if k is None else str(k + self.n_covariates)
        if Z.ndim != 2 or (k is not None and Z.shape[1] != k + self.n_covariates):
            also = " (latent dimensions and covariates)" if self.n_covariates else ""
            raise ValueError(f"Z must have shape (n_samples, {expected}){also}, got {Z.shape}.")
        is_float = Z.dtype in (np.float32, np.float64)
        Z = Z.astype(self.dtype or (Z.dtype if is_float else np.float64), copy=False)
        results = []
        with torch.no_grad():
            for start in range(0, len(Z), self.batch_size):
                block, c = Z[start : start + self.batch_size], None
                if self.n_covariates:
                    c = self._given(block[:, -self.n_covariates :])
                    block = block[:, : -self.n_covariates]
                z = torch.as_tensor(np.require(block, requirements=("C", "W")), device=self.device)
                results.append(function(self._decoded(z, c)).cpu().numpy())
        return np.concatenate(results)


def _repeat(c: Any, repeats: int) -> Any:
    """Repeat covariates for several draws of each sample."""
    return c.repeat(repeats, 1) if isinstance(c, Tensor) else np.tile(c, (repeats, 1))


def _count_features(part: Any) -> int:
    """Return the number of features of an output of a decoder."""
    if isinstance(part, torch.distributions.Distribution):
        return int(torch.Size(batch_shape(part)[1:]).numel())
    return int(part.shape[1]) if part.ndim == 3 else int(part.flatten(1).shape[1])
