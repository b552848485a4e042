"""Distributions p(x|z) of adapted models, in the interface of `sklearn_vae.nn.distributions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributions

from sklearn_vae.adapters.outputs import SPREADS, as_normal, check_shape
from sklearn_vae.nn.distributions import BernoulliLogits, DiagonalNormal
from sklearn_vae.warning import warn_user

LIKELIHOODS = ("gaussian", "bernoulli", "categorical", "distribution")

# Results that do not apply, by likelihood.
LIMITATIONS = {
    "categorical": (
        "p(x|z) is categorical, so that the noise variance and the comparison with pPCA do not apply.",
    ),
    "distribution": (
        (
            "p(x|z) is neither Gaussian, Bernoulli nor categorical, so that entropies, the noise variance "
            "and the comparison with pPCA do not apply. The ELBO, the KL, collapse, active units and "
            "mutual information do."
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class CategoricalLogits:
    """Independent categorical variables with logits of shape (..., n_features, n_classes)."""

    logits: Tensor

    @property
    def _log_probability(self) -> Tensor:
        return torch.log_softmax(self.logits, -1)

    @property
    def mode(self) -> Tensor:
        """Most probable codes."""
        return self.logits.argmax(-1).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean of the codes 0, 1, ..., which is only meaningful if they are ordered."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """Variance of the codes 0, 1, ..., which is only meaningful if they are ordered."""
        return self._moment(2) - self._moment(1).square()

    def _moment(self, power: int) -> Tensor:
        codes = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return (self._log_probability.exp() * codes**power).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x) for codes x."""
        chosen = self._log_probability.gather(-1, x.long()[..., None])
        return chosen[..., 0].sum(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy."""
        log_p = self._log_probability
        return -(log_p.exp() * log_p).sum((-2, -1))

    def curvature(self) -> Tensor:
        """Compute the sum over features of the variance of the logits under p(x|z)."""
        p = self._log_probability.exp()
        centered = self.logits - (p * self.logits).sum(-1, keepdim=True)
        return (p * centered.square()).sum((-2, -1))

    def sample(self) -> Tensor:
        """Draw codes with the global generator."""
        return distributions.Categorical(logits=self.logits).sample().to(self.logits.dtype)


@dataclass(frozen=True, eq=False)
class TorchDistribution:
    """Distribution of features of torch or of a library that extends it, without known entropy."""

    distribution: Any
    n_features: int

    @property
    def mean(self) -> Tensor:
        """Mean of each feature."""
        return self.distribution.mean.flatten(1)

    @property
    def variance(self) -> Tensor:
        """Variance of each feature, NaN if the distribution does not implement it."""
        try:
            return self.distribution.variance.flatten(1)
        except NotImplementedError:
            return torch.full_like(self.mean, torch.nan)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p(x)."""
        values = self.distribution.log_prob(x)
        return values if values.ndim == 1 else values.flatten(1).sum(1)

    def sample(self) -> Tensor:
        """Draw x with the global generator."""
        return self.distribution.sample().flatten(1)


def observation(
    parts: tuple[Any, ...],
    likelihood: str,
    spread: str,
    is_mean: bool,
    noise_variance: Tensor | None,
    n_features: int,
    n_samples: int,
) -> Any:
    """Return p(x|z) from the outputs of a decoder for `n_samples` latent vectors."""
    if isinstance(parts[0], distributions.Distribution):
        return _of_distribution(parts[0], likelihood, noise_variance, n_features, n_samples)
    if likelihood == "distribution":
        raise TypeError(
            "decode must return a torch distribution with likelihood='distribution', got a tensor."
        )
    shape = (n_samples, n_features)
    first = parts[0]
    if likelihood == "categorical":
        if tuple(first.shape[:2]) != shape or first.ndim != 3:
            raise ValueError(
                "The output of decode must have shape (n_samples, n_features, n_classes) = "
                f"({n_samples}, {n_features}, n_classes) with likelihood='categorical', got "
                f"{tuple(first.shape)}."
            )
        return CategoricalLogits(first)
    first = check_shape(first.flatten(1), shape, "The output of decode")
    if likelihood == "bernoulli":
        return BernoulliLogits(_logits(first, is_mean))
    if len(parts) == 1:
        if noise_variance is None:
            raise ValueError(
                "noise_variance must be given with likelihood='gaussian' if decode returns only a "
                "mean. implied_noise_variance finds the value that a squared error implies."
            )
        return DiagonalNormal(first, torch.log(noise_variance))
    second = check_shape(parts[1].flatten(1), shape, "The spread from decode")
    return DiagonalNormal(first, SPREADS[spread](second))


def batch_shape(distribution: Any) -> tuple[int, ...]:
    """Return the shape of the features of a distribution.

    The distributions of scvi-tools do not know it, but have means.
    """
    if isinstance(distribution, distributions.Independent):
        return batch_shape(distribution.base_dist)
    return tuple(distribution.batch_shape or distribution.mean.shape)


def _of_distribution(
    distribution: Any,
    likelihood: str,
    noise_variance: Tensor | None,
    n_features: int,
    n_samples: int,
) -> Any:
    inner = distribution
    while isinstance(inner, distributions.Independent):
        inner = inner.base_dist
    shape = batch_shape(distribution)
    n_values = int(torch.Size(shape).numel())
    if not shape or shape[0] != n_samples or n_values != n_samples * n_features:
        raise ValueError(
            f"The distribution from decode must have the shape ({n_samples}, {n_features}), got "
            f"{shape}."
        )
    normal = as_normal(distribution)
    if likelihood == "gaussian" and normal is not None:
        mean, scale = normal.loc.flatten(1), normal.scale.flatten(1)
        log_variance = 2.0 * torch.log(scale) if noise_variance is None else noise_variance.log()
        return DiagonalNormal(mean, log_variance)
    if likelihood == "bernoulli" and isinstance(inner, distributions.Bernoulli):
        return BernoulliLogits(inner.logits.flatten(1))
    if likelihood == "categorical" and isinstance(inner, distributions.Categorical):
        return CategoricalLogits(inner.logits.reshape(n_samples, n_features, -1))
    if likelihood == "distribution":
        return TorchDistribution(distribution, n_features)
    raise TypeError(
        f"The distribution from decode does not fit likelihood={likelihood!r}, got "
        f"{type(inner).__name__}. Set likelihood='distribution'."
    )


def _logits(values: Tensor, is_mean: bool) -> Tensor:
    inside = bool(((values >= 0) & (values <= 1)).all())
    if is_mean:
        if not inside:
            raise ValueError(
                "The output of decode must be in [0, 1] with decoder_output='mean', got "
                f"{float(values.min()):.4g} to {float(values.max()):.4g}. Logits need "
                "decoder_output='logits'."
            )
        return torch.logit(values, torch.finfo(values.dtype).eps)
    if inside and values.numel() > 100 and bool((values > 0).all()):
        warn_user(
            "All outputs of decode are between 0 and 1, like probabilities, but are read as "
            "logits. If decode ends with a sigmoid, set decoder_output='mean'.",
        )
    return values


def curvature_of(p: Any) -> Tensor | None:
    """Return minus the second derivative of log p(x|z) in the scale of the logits, if any."""
    if isinstance(p, BernoulliLogits):
        return (p.logits.square() * p.variance).sum(-1)
    return p.curvature() if isinstance(p, CategoricalLogits) else None


def drawn_from(p: Any) -> Tensor:
    """Draw x from p(x|z) with the global generator."""
    if isinstance(p, BernoulliLogits):
        return p.sample(torch.rand_like(p.logits))
    if isinstance(p, CategoricalLogits | TorchDistribution):
        return p.sample()
    return p.rsample(torch.randn_like(p.mean))
