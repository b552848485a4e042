"""Likelihoods p(x|z), parametrized by a decoder's outputs, and their observation noise."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_vae.nn.distributions import (
    LOG_2PI,
    BernoulliLogits,
    DiagonalNormal,
    keep_observed,
    weighted_sum,
)
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, clamp_straight_through

Array = NDArray[Any]

NOISE_UPDATES = ("closed_form", "gradient")

# Minimum of a learned noise variance, in the units of the networks. A noise variance for all features
# may be a share of that of pPCA, if this is not a rounding error.
NOISE_FLOOR = 1e-6
SHARE_OF_PPCA = 1e-3

# Initial noise variance if pPCA with the same number of components leaves no residuals.
NOISE_START = 0.1


# Largest relative decrease of sigma2 in a closed-form update; only samples of large weight reach it.
LARGEST_DECREASE = 0.5


def rounding_noise(dtype: torch.dtype) -> float:
    """Return the noise variance of pPCA that may be a rounding error, in the units of the networks."""
    return float(torch.finfo(dtype).eps ** 1.75)


class LikelihoodTerms(NamedTuple):
    """E_q log p(x|z) and E_q H[p(x|z)] in nats per sample, and whether the noise is at a limit."""

    log_prob: float
    entropy: float
    at_limit: bool = False


class Likelihood(ABC, nn.Module):
    """Base class of likelihoods p(x|z).

    Subclasses define `n_inputs`, `forward` and `draw`, and `start` if they have noise. If the noise
    is learned but not output by the decoder, they also override `trained_parameters`, `after_step`
    and `set_optimum`. If the noise variance is the same for all z, they override `noise_variance`,
    `record`, `noise_variance_terms` and `set_noise_variance`, too.

    Parameters
    ----------
    n_features : int
        Number of features.
    update : {"closed_form", "gradient"}, default=None
        How the noise variance is learned. If None, it is fixed.

    Attributes
    ----------
    per_feature : bool
        Whether each feature is scaled by its own standard deviation for the networks.
    is_normal : bool
        Whether p(x|z) is normal with `initial_log_variance`, which allows networks to start at
        pPCA.
    has_noise_variance : bool
        Whether the noise variance is the same for all z and can be fixed.
    recorded : tuple of str
        Keys of `record`.
    support : tuple of float
        Smallest and largest possible value.
    observed_share : ndarray of shape (n_features,) or None
        Share of the training samples that observe each feature, None if no value is missing.
    """

    per_feature: ClassVar[bool] = False
    is_normal: ClassVar[bool] = False
    has_noise_variance: ClassVar[bool] = False
    recorded: ClassVar[tuple[str, ...]] = ()
    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    observed_share: Array | None = None

    def __init__(self, n_features: int, update: str | None = None) -> None:
        super().__init__()
        self.n_features = n_features
        self.update = update

    @property
    @abstractmethod
    def n_inputs(self) -> int:
        """Number of decoder outputs per sample."""

    @abstractmethod
    def forward(self, h: Tensor) -> Any:
        """Return p(x|z) for decoder outputs h of shape (..., n_inputs)."""

    @staticmethod
    def draw(mean: Array, variance: Array, random_state: np.random.RandomState) -> Array:
        """Draw x given the mean and variance of p(x|z), each of shape (n_samples, n_features)."""
        raise NotImplementedError("p(x|z) has more parameters: draw by its method sample.")

    @property
    def noise_variance(self) -> Tensor | None:
        """Noise variance for all z, of shape () or (n_features,), in the units of the networks."""
        return None

    def start(
        self, noise_variance: Array | None, residuals: Callable[[], Array], excess: float = 1.0
    ) -> None:
        """Initialize the noise before training.

        `noise_variance` is the user's initial or fixed value, in the units of the networks, and
        `residuals` returns the mean squared residuals of pPCA with the same number of components.
        `excess` is the expected ratio of the residuals of new samples to these.
        """

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the optimizer trains."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """Update the parameters that the optimizer does not train, after each of its steps."""

    def statistics(self, p: Any, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the weighted sums over samples and draws that `set_optimum` and `terms` need.

        `p` is p(x|z) for S draws of z per sample, and x has the shape (n_samples, n_features). The
        weights have the shape (n_samples,) or (S, n_samples).
        """
        return torch.stack([weighted_sum(terms, weights) for terms in (p.log_prob(x), p.entropy())])

    def set_optimum(self, averages: Array) -> None:
        """Set noise with a closed-form update to its optimum for averaged `statistics`."""

    def terms(self, averages: Array) -> LikelihoodTerms:
        """Return the terms of the ELBO for averaged `statistics`."""
        log_prob, entropy = averages.tolist()
        return LikelihoodTerms(log_prob, entropy)

    def record(self, scale: Any, log_scale: float) -> dict[str, Any]:
        """Return entries of the training history at the end of an epoch, in data units.

        `scale` is the divisor of the features, a float or of shape (n_features,), and `log_scale`
        is the sum of its logarithm over the features.
        """
        return {}

    def curvature(self, p: Any) -> Tensor | None:
        """Return minus the second derivative of log p(x|z) in the scale of the logits, if any.

        It has the shape (n_draws, n_samples).
        """
        return None


class GaussianLikelihood(Likelihood):
    """p(x|z) = N(mu(z), sigma2 I), with the same sigma2 for every z.

    With update="gradient", log sigma2 is a parameter of the optimizer. With "closed_form", sigma2
    moves after every step by the fraction `rate` toward its optimum given the networks, the batch
    mean of E_q|x - mu(z)|^2 / d (Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE
    Posterior Collapse", eq. 9). `limits` apply to learned variances.
    """

    is_normal = True
    has_noise_variance = True
    recorded = ("noise_variance", "noise_entropy")

    log_low: Tensor
    log_high: Tensor

    def __init__(
        self,
        n_features: int,
        noise_variance: Tensor | None = None,
        update: str | None = None,
        limits: tuple[float, float] = (0.0, math.inf),
        rate: float = 0.05,
    ) -> None:
        super().__init__(n_features, update)
        self.rate = rate
        if noise_variance is None:
            noise_variance = torch.ones((n_features,) if self.per_feature else ())
        empty = torch.empty_like(noise_variance)
        self.log_variance = nn.Parameter(empty, requires_grad=update is not None)
        self.register_buffer("log_low", empty.clone())
        self.register_buffer("log_high", empty.clone())
        self._set_noise(noise_variance, limits)

    @torch.no_grad()
    def _set_noise(self, noise_variance: Tensor, limits: tuple[float, float]) -> None:
        self.log_variance.copy_(torch.log(noise_variance))
        for log_limit, limit in zip((self.log_low, self.log_high), limits, strict=True):
            log_limit.copy_(torch.log(torch.as_tensor(limit, dtype=noise_variance.dtype)))

    @property
    def n_inputs(self) -> int:
        return self.n_features

    @property
    def noise_variance(self) -> Tensor:
        return self.log_variance.detach().exp()

    @property
    def n_observed(self) -> float:
        """Average number of observed features of the training samples."""
        return self.n_features if self.observed_share is None else float(self.observed_share.sum())

    @property
    def held(self) -> Tensor:
        """Mask of the noise variances that their limits hold, of shape () or (n_features,)."""
        return self.log_low >= self.log_high

    @property
    def initial_log_variance(self) -> Tensor:
        """Log-variances of p(x|z) before training."""
        return self.log_variance.detach()

    def trained_parameters(self) -> list[nn.Parameter]:
        return [] if self.update == "closed_form" else super().trained_parameters()

    def start(
        self, noise_variance: Array | None, residuals: Callable[[], Array], excess: float = 1.0
    ) -> None:
        """Initialize sigma2 and its limits.

        Closed-form updates never raise sigma2 above the noise variance of pPCA for new samples or
        the variance of the feature.
        """
        limits = (0.0, math.inf)
        if self.update is not None and self.per_feature:
            limits = (NOISE_FLOOR, 1.0)
            if noise_variance is None:
                ppca = residuals()
                noise_variance = np.where(ppca > NOISE_FLOOR, ppca, NOISE_START)
        elif self.update is not None:
            ppca, rounding = residuals().mean(), rounding_noise(self.log_variance.dtype)
            limits = (NOISE_FLOOR, math.inf)
            if ppca > rounding:
                least = max(rounding, SHARE_OF_PPCA * ppca)
                limits = (min(NOISE_FLOOR, least), max(ppca, min(1.0, excess * ppca)))
            if noise_variance is None:
                noise_variance = np.asarray(ppca if ppca > rounding else NOISE_START)
        if self.update == "gradient":
            limits = (limits[0], math.inf)
        assert noise_variance is not None
        noise = np.broadcast_to(noise_variance, tuple(self.log_variance.shape))
        self._set_noise(torch.tensor(noise, dtype=torch.float64), limits)

    def statistics(self, p: DiagonalNormal, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the squared residuals of each feature, summed over samples and draws."""
        squares = p.residuals(x).square()
        if weights is not None:
            squares *= weights[..., None]
        return squares.sum((0, 1))

    @torch.no_grad()
    def set_optimum(self, averages: Array) -> None:
        if self.update == "closed_form":
            if self.observed_share is not None:
                shares = self.observed_share
                averages = averages / (shares if self.per_feature else shares.mean())
            optimum = averages if self.per_feature else averages.mean()
            log_optimum = torch.log(torch.as_tensor(optimum).to(self.log_variance))
            self.log_variance.copy_(torch.maximum(log_optimum, self.log_low))

    def terms(self, averages: Array) -> LikelihoodTerms:
        d, at_limit = self.n_observed, False
        if self.update is not None:
            at_limit = bool((self.log_variance <= self.log_low + 1e-6).any())
        variance = self.noise_variance.double().cpu().numpy()
        log_variances = np.broadcast_to(np.log(variance), self.n_features)
        if self.observed_share is not None:
            log_variances = self.observed_share * log_variances
        log_noise = float(np.sum(log_variances)) + d * LOG_2PI
        scaled = float(np.sum(averages / variance))
        return LikelihoodTerms(-0.5 * (scaled + log_noise), 0.5 * (log_noise + d), at_limit)

    def record(self, scale: Any, log_scale: float) -> dict[str, Any]:
        log_variance = self.log_variance.detach().cpu().double().numpy()
        noise = np.exp(log_variance) * scale**2
        if self.observed_share is None:
            entropy = 0.5 * self.n_features * (LOG_2PI + 1.0 + log_variance.mean())
        else:
            entropy = 0.5 * float(
                self.observed_share @ np.broadcast_to(LOG_2PI + 1.0 + log_variance, self.n_features)
            )
        return {
            "noise_variance": noise if np.ndim(noise) else float(noise),
            "noise_entropy": float(entropy) + log_scale,
        }

    def noise_variance_terms(self, p: DiagonalNormal, x: Tensor) -> Tensor:
        """Return terms of shape (S, n, 1 or d) whose average is the optimum of sigma2."""
        terms = p.residuals(x).square_()
        return terms if self.per_feature else terms.mean(-1, keepdim=True)

    @torch.no_grad()
    def set_noise_variance(self, noise_variance: Array) -> None:
        """Set sigma2, an array with one or d entries, in the units of the networks."""
        log_variance = torch.from_numpy(noise_variance).view(self.log_variance.shape).log()
        self.log_variance.copy_(torch.maximum(log_variance.to(self.log_low), self.log_low))

    @staticmethod
    def draw(mean: Array, variance: Array, random_state: np.random.RandomState) -> Array:
        return mean + np.sqrt(variance) * random_state.standard_normal(mean.shape)

    def forward(self, h: Tensor) -> DiagonalNormal:
        return DiagonalNormal(h, self.log_variance.expand(h.shape[-1]))

    def after_step(self) -> None:
        """Update sigma2 in closed form and clamp it to its limits.

        The gradient g of the loss in log sigma2 of m features gives the optimum
        sigma2 (1 - 2 g / m), so the update is a step along the natural gradient. If samples have
        weights, so has the step, and the steps of an epoch average to the weighted optimum.
        """
        if self.update is None:
            return
        log_variance = self.log_variance.detach()
        in_floats = log_variance.device.type == "cpu" and not log_variance.ndim
        if self.update == "closed_form":
            share: Any = -2.0 * self.rate / (self.n_features // log_variance.numel())
            if self.observed_share is not None:
                share = -2.0 * self.rate / self.n_observed
                if self.per_feature:
                    share = -2.0 * self.rate / torch.as_tensor(self.observed_share).to(log_variance)
            least = -max(self.rate, LARGEST_DECREASE)
            gradient = self.log_variance.grad
            if gradient is None:  # a callback has frozen sigma2
                return
            self.log_variance.grad = None  # the optimizer does not reset it
            if in_floats:
                log_variance += math.log1p(max(gradient.item() * share, least))
            else:
                log_variance += torch.log1p((gradient * share).clamp_(min=least))
        if in_floats and self.log_low.item() <= log_variance.item() <= self.log_high.item():
            return
        torch.clamp(log_variance, self.log_low, self.log_high, out=log_variance)


class DiagonalGaussianLikelihood(GaussianLikelihood):
    """p(x|z) = N(mu(z), diag sigma2), with one sigma2 per feature, the same for every z."""

    per_feature = True

    @torch.no_grad()
    def hold(self, features: Array, noise_variance: Array) -> None:
        """Hold the noise variances of features, given by index, at these values."""
        for tensor in (self.log_variance, self.log_low, self.log_high):
            tensor[features] = torch.log(torch.as_tensor(noise_variance)).to(tensor)


class HeteroscedasticLikelihood(Likelihood):
    """p(x|z) = N(mu(z), diag sigma2(z)); the decoder outputs mu and log sigma2.

    Log-variances are decoder outputs plus an offset, because the outputs of a new decoder are near
    0, and are clamped to [log_low, 20]. `update` is ignored.
    """

    per_feature = True
    is_normal = True

    offset: Tensor

    def __init__(
        self,
        n_features: int,
        update: str | None = None,
        log_low: float = math.log(NOISE_FLOOR),
    ) -> None:
        super().__init__(n_features)
        self.limits = (log_low, LOG_VARIANCE_RANGE[1])
        self.register_buffer("offset", torch.zeros(n_features))

    @property
    def n_inputs(self) -> int:
        return 2 * self.n_features

    @property
    def initial_log_variance(self) -> Tensor:
        """Log-variances of p(x|z) before training, of shape (n_features,)."""
        return self.offset.clamp(*self.limits)

    def start(
        self, noise_variance: Array | None, residuals: Callable[[], Array], excess: float = 1.0
    ) -> None:
        """Set the log-variances for decoder outputs of 0."""
        if noise_variance is None:
            ppca = residuals()
            noise_variance = np.where(ppca > NOISE_FLOOR, ppca, NOISE_START)
        self.offset.copy_(torch.tensor(np.log(noise_variance)))

    def statistics(self, p: DiagonalNormal, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the sums of log p(x|z) and H[p(x|z)], and the number of variances at a limit."""
        low, high = self.limits
        at_limit = (p.log_variance <= low) | (p.log_variance >= high)
        at_limit = keep_observed(at_limit.to(x.dtype), p.observed)
        return torch.stack([*super().statistics(p, x, weights), at_limit.sum()])

    def terms(self, averages: Array) -> LikelihoodTerms:
        log_prob, entropy, at_limit = averages.tolist()
        return LikelihoodTerms(log_prob, entropy, at_limit > 0)

    draw = staticmethod(GaussianLikelihood.draw)

    def forward(self, h: Tensor) -> DiagonalNormal:
        mean, log_variance = h.split(self.n_features, dim=-1)
        return DiagonalNormal(
            mean, clamp_straight_through(log_variance + self.offset, *self.limits)
        )


class BernoulliLikelihood(Likelihood):
    """p(x_j = 1|z) = sigmoid(a_j(z)); the decoder outputs the logits a."""

    support = (0.0, 1.0)

    @property
    def n_inputs(self) -> int:
        return self.n_features

    def curvature(self, p: BernoulliLogits) -> Tensor:
        return keep_observed(p.logits.square() * p.variance, p.observed).sum(-1)

    @staticmethod
    def draw(mean: Array, variance: Array, random_state: np.random.RandomState) -> Array:
        return (random_state.uniform(size=mean.shape) < mean).astype(mean.dtype)

    def forward(self, h: Tensor) -> BernoulliLogits:
        return BernoulliLogits(h)


# Values of the parameter `noise_model` of DeepGaussianVAE.
NOISE_MODELS: dict[str, type[Likelihood]] = {
    "scalar": GaussianLikelihood,
    "diagonal": DiagonalGaussianLikelihood,
    "heteroscedastic": HeteroscedasticLikelihood,
}
