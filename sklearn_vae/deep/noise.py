"""What the noise models of Gaussian observations differ in."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.ppca_start import ppca_of_rows
from sklearn_vae.nn.distributions import LOG_2PI
from sklearn_vae.nn.likelihoods import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.monitors import LatentMonitor, NoiseMonitor
from sklearn_vae.validation import check_noise_variance, is_real

# Least noise variance that is learned, as a share of the average variance of a feature.
NOISE_FLOOR = 1e-6

# Start where pPCA with as many components leaves no noise.
NOISE_START = 0.1


class NoiseModel(Protocol):
    """What a :class:`DeepGaussianVAE` asks of its noise model."""

    per_feature: bool

    def check(self, vae: Any) -> None:
        """Raise ValueError where the parameters of the noise are not what they have to be."""

    def likelihood(self, vae: Any, rows: Tensor, reducer: Reducer) -> Callable[[], Any]:
        """Of the rows that the networks see, a function that makes a new likelihood."""

    def blank(self, vae: Any) -> Callable[[], Any]:
        """A function that makes a likelihood whose numbers are to be loaded."""

    def monitor(self, vae: Any) -> LatentMonitor:
        """Of a training's history."""

    def misfit(self, p: Any, x: Tensor) -> Tensor:
        """Sums over rows and draws of what `settle` needs."""

    def settle(self, vae: Any, misfit: Array) -> tuple[float, float, bool]:
        """E log p(x|z), H[p(x|z)], and whether a bound holds the noise; after the last step."""


class SharedNoise:
    """sigma2 the same for every z: one number, or one a feature."""

    def __init__(self, per_feature: bool) -> None:
        self.per_feature = per_feature

    def check(self, vae: Any) -> None:
        """Raise ValueError where the parameters of the noise are not what they have to be."""
        for name in ("noise_variance", "noise_variance_init"):
            _check_noise(name, getattr(vae, name), self.per_feature)
        if vae.noise_variance is not None and vae.noise_variance_init is not None:
            raise ValueError(
                "noise_variance_init is where learning starts, but noise_variance="
                f"{vae.noise_variance!r} holds it fixed: leave one of them None."
            )

    def likelihood(
        self, vae: Any, rows: Tensor, reducer: Reducer
    ) -> Callable[[], GaussianLikelihood]:
        """A function that makes a likelihood with the noise that `vae` begins with."""
        d = rows.shape[1]
        fixed = vae.noise_variance is not None
        start: Any = _given(vae, "noise_variance" if fixed else "noise_variance_init", rows)
        shape = (d,) if self.per_feature else ()
        update, limits = None if fixed else vae.noise_update, (0.0, math.inf)
        if not fixed:
            start, limits = self._start_of_learning(vae, rows, start, reducer)
        noise = torch.tensor(np.broadcast_to(start, shape))
        return partial(GaussianLikelihood, d, noise, update, limits)

    def blank(self, vae: Any) -> Callable[[], GaussianLikelihood]:
        """A function that makes a likelihood whose numbers are to be loaded."""
        noise = torch.ones((vae.n_features_in_,) if self.per_feature else ())
        update = vae.noise_update if vae.noise_variance is None else None
        return partial(GaussianLikelihood, vae.n_features_in_, noise, update)

    def _start_of_learning(
        self, vae: Any, rows: Tensor, start: Array | None, reducer: Reducer
    ) -> tuple[Array, tuple[float, float]]:
        """First noise variance and its limits, as the networks see the rows."""
        cap = 1.0 if self.per_feature else math.inf  # a feature's own variance
        capped = vae.noise_update == "closed_form"
        if start is None or (capped and not self.per_feature):
            ppca = _residuals_of_ppca(rows, vae.n_components, reducer)
            ppca = ppca if self.per_feature and vae.init is None else ppca.mean()
            if not self.per_feature and ppca > NOISE_FLOOR:
                cap = float(ppca)
            if start is None:
                start = np.where(ppca > NOISE_FLOOR, ppca, NOISE_START)
        return start, (NOISE_FLOOR, cap if capped else math.inf)

    def monitor(self, vae: Any) -> NoiseMonitor:
        """With the noise variance."""
        return NoiseMonitor(vae._log_scale(), vae.scale_)

    def misfit(self, p: Any, x: Tensor) -> Tensor:
        """Squared residuals of each feature, (d,)."""
        return (x - p.mean).square().sum((0, 1))

    def settle(self, vae: Any, misfit: Array) -> tuple[float, float, bool]:
        """Set sigma2 to its optimum where that is how it is learned, and `noise_variance_`."""
        likelihood, d = vae.module_.likelihood, len(misfit)
        # Another objective has another optimum, where training has left the noise.
        if likelihood.update == "closed_form" and vae.objective == "elbo":
            optimum = misfit if self.per_feature else misfit.mean()
            log_optimum = torch.log(vae._as_tensor(optimum))
            likelihood.log_variance.copy_(torch.maximum(log_optimum, likelihood.log_low))
        held = likelihood.update and (likelihood.log_variance <= likelihood.log_low + 1e-6).any()
        variance = likelihood.noise_variance.double().cpu().numpy()
        noise = variance * vae.scale_**2
        vae.noise_variance_ = noise if variance.ndim else float(noise)
        log_noise = float(np.sum(np.broadcast_to(np.log(variance), d))) + d * LOG_2PI
        scaled = float(np.sum(misfit / variance))
        return -0.5 * (scaled + log_noise), 0.5 * (log_noise + d), bool(held)


class DecodedNoise:
    """log sigma2_j(z) from the decoder, one for each feature and z."""

    per_feature = True

    def check(self, vae: Any) -> None:
        """Raise ValueError where the parameters of the noise are not what they have to be."""
        if vae.noise_variance is not None:
            raise ValueError(
                "noise_variance must be None with noise_model='heteroscedastic', whose decoder "
                f"gives it, got {vae.noise_variance!r}."
            )
        _check_noise("noise_variance_init", vae.noise_variance_init, True)

    def likelihood(
        self, vae: Any, rows: Tensor, reducer: Reducer
    ) -> Callable[[], HeteroscedasticLikelihood]:
        """A function that makes a likelihood whose log-variances begin near those of pPCA."""
        start = _given(vae, "noise_variance_init", rows)
        if start is None:
            start = _residuals_of_ppca(rows, vae.n_components, reducer)
            start = start if vae.init is None else start.mean()
            start = np.where(start > NOISE_FLOOR, start, NOISE_START)
        d = rows.shape[1]
        offset = torch.tensor(np.log(np.broadcast_to(start, (d,))))
        return partial(HeteroscedasticLikelihood, d, math.log(NOISE_FLOOR), offset)

    def blank(self, vae: Any) -> Callable[[], HeteroscedasticLikelihood]:
        """A function that makes a likelihood whose numbers are to be loaded."""
        return partial(HeteroscedasticLikelihood, vae.n_features_in_, math.log(NOISE_FLOOR))

    def monitor(self, vae: Any) -> LatentMonitor:
        """Of the latent space only."""
        return LatentMonitor(vae._log_scale())

    def misfit(self, p: Any, x: Tensor) -> Tensor:
        """log p(x|z), H[p(x|z)], and how many log-variances are at a limit."""
        low, high = math.log(NOISE_FLOOR), LOG_VARIANCE_RANGE[1]
        held = ((p.log_variance <= low) | (p.log_variance >= high)).to(x.dtype)
        return torch.stack([p.log_prob(x).sum(), p.entropy().sum(), held.sum()])

    def settle(self, vae: Any, misfit: Array) -> tuple[float, float, bool]:
        """Nothing is left to be set."""
        reconstruction, entropy, held = misfit.tolist()
        return reconstruction, entropy, held > 0


NOISE_MODELS: dict[str, NoiseModel] = {
    "scalar": SharedNoise(per_feature=False),
    "diagonal": SharedNoise(per_feature=True),
    "heteroscedastic": DecodedNoise(),
}


def _check_noise(name: str, value: Any, per_feature: bool) -> None:
    if value is None or is_real(value) or not per_feature:
        check_noise_variance(value, name)
        return
    array = np.asarray(value)
    numbers = array.ndim == 1 and array.dtype.kind in "fiu"
    if not (numbers and np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(
            f"{name} must be None, a positive float or an array of them, one a feature, got "
            f"{value!r}."
        )


def _given(vae: Any, name: str, rows: Tensor) -> Array | None:
    """A noise variance among the parameters, as the networks see the rows."""
    given, d = getattr(vae, name), rows.shape[1]
    if given is None:
        return None
    numbers = np.asarray(given, dtype=np.float64)
    if numbers.ndim and numbers.shape != (d,):
        raise ValueError(
            f"{name} must have one number a feature, n_features={d}, got {len(numbers)}."
        )
    with np.errstate(over="ignore"):
        units = numbers / vae.scale_**2
    kind = torch.finfo(rows.dtype)
    if not ((units >= kind.tiny) & (units <= kind.max)).all():
        raise ValueError(
            f"{name} must be within the range of {rows.dtype} when divided by the variance of the "
            f"features, {np.mean(vae.scale_**2):.3g}, got {given!r}."
        )
    return units


def _residuals_of_ppca(rows: Tensor, n_components: int, reducer: Reducer) -> Array:
    """E_q (x_j - mu_j(z))^2 of pPCA with as many components, averaged over the rows, (d,).

    Their mean is its noise variance; 0 where it has none.
    """
    loadings, x = ppca_of_rows(rows, n_components, reducer)[1], rows.cpu().numpy()
    variance = reducer.sum(np.einsum("ij,ij->j", x, x)) / reducer.sum(len(x))
    return np.maximum(variance - (loadings**2).sum(axis=1), 0)
