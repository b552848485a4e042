"""Likelihoods p(x|z): distributions from a decoder's outputs, with the noise that belongs to them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_vae.nn.distributions import LOG_2PI, BernoulliLogits, DiagonalNormal
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, held_in_range

Array = NDArray[Any]

NOISE_UPDATES = ("closed_form", "gradient")

# Least noise variance that is learned, in the units of the networks.
NOISE_FLOOR = 1e-6

# Start where pPCA with the same number of components leaves no noise.
NOISE_START = 0.1


class LikelihoodTerms(NamedTuple):
    """Averages of p(x|z) over samples and draws of z.

    Attributes
    ----------
    log_prob, entropy : float
        E_q log p(x|z) and E_q H[p(x|z)], in nats per sample.
    at_limit : bool
        Whether a limit holds the noise.
    """

    log_prob: float
    entropy: float
    at_limit: bool = False


class Likelihood(ABC, nn.Module):
    """Base of the likelihoods p(x|z).

    Subclasses define `n_inputs`, `forward` and `draw`, and `start` if they have noise. Those that
    learn it by other means than the decoder's outputs override `trained_parameters`, `after_step`
    and `set_optimum`; those with one noise variance for all z also `noise_variance`, `record`,
    `noise_variance_terms` and `set_noise_variance`.

    Parameters
    ----------
    n_features : int
    update : {"closed_form", "gradient"} or None, default=None
        How a noise variance is learned. None: it is held fixed.

    Attributes
    ----------
    per_feature : bool
        Whether the networks see each feature in units of its own standard deviation.
    is_normal : bool
        Whether p(x|z) is normal with `initial_log_variance`, so that networks can start at pPCA.
    has_noise_variance : bool
        Whether there is one noise variance for all z, which can be held fixed.
    recorded : tuple of str
        Keys of `record`.
    """

    per_feature: ClassVar[bool] = False
    is_normal: ClassVar[bool] = False
    has_noise_variance: ClassVar[bool] = False
    recorded: ClassVar[tuple[str, ...]] = ()

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
        """Distribution p(x|z) with parameters h, of shape (..., n_inputs)."""

    @staticmethod
    @abstractmethod
    def draw(mean: Array, variance: Array, random_state: np.random.RandomState) -> Array:
        """Draw from p(x|z) with this mean and variance, each of shape (n, d)."""

    @property
    def noise_variance(self) -> Tensor | None:
        """Noise variance for all z, of shape () or (d,), in the units of the networks."""
        return None

    def start(self, noise_variance: Array | None, residuals: Callable[[], Array]) -> None:
        """Set the noise to where training starts.

        Parameters
        ----------
        noise_variance : array of shape () or (d,), or None
            The start that the user gives, or the value held fixed, in the units of the networks.
        residuals : callable
            Returns the mean squared residuals of pPCA with the same number of components: of each
            feature, (d,), or their average, ().
        """

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters that the optimizer trains."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """Update the parameters that the optimizer does not train, after each of its steps."""

    def statistics(self, p: Any, x: Tensor) -> Tensor:
        """Sums over samples and draws that `set_optimum` and `terms` need.

        Parameters
        ----------
        p : distribution
            p(x|z) for S draws of z for each of n samples, as `forward` returns it.
        x : Tensor of shape (n, d)
        """
        return torch.stack([p.log_prob(x).sum(), p.entropy().sum()])

    def set_optimum(self, averages: Array) -> None:
        """Set noise that is learned in closed form to its optimum for averaged `statistics`."""

    def terms(self, averages: Array) -> LikelihoodTerms:
        """Return the terms of the bound from averaged `statistics`."""
        log_prob, entropy = averages.tolist()
        return LikelihoodTerms(log_prob, entropy)

    def record(self, scale: Any, log_scale: float) -> dict[str, Any]:
        """Return the entries of the training history at the end of an epoch, in data units.

        Parameters
        ----------
        scale : float or array of shape (d,)
            Divisor of the features, from data units to those of the networks.
        log_scale : float
            Sum over the features of its logarithm.
        """
        return {}

    def curvature(self, p: Any) -> Tensor | None:
        """Minus the second derivative of log p(x|z) along the scale of its logits, (S, n).

        None for likelihoods without logits.
        """
        return None


class GaussianLikelihood(Likelihood):
    """p(x|z) = N(mu(z), sigma2 I), with sigma2 the same for every z.

    Parameters
    ----------
    n_features : int
    noise_variance : Tensor of shape (), or (d,) in :class:`DiagonalGaussianLikelihood`, \
            default=None
        The value held fixed, or the start. None: ones, until `start`.
    update : {"closed_form", "gradient"} or None, default=None
        None: fixed. "gradient": log sigma2 is a parameter of the optimizer. "closed_form": after
        every step sigma2 moves the share `rate` of the way to the mean of E_q|x - mu(z)|^2 over
        the batch, its optimum where all else is fixed (Dai, Wang and Wipf, "The Usual Suspects?
        Reassessing Blame for VAE Posterior Collapse", eq. 9).
    limits : pair of floats, default=(0, inf)
        Least and largest variance that is learned.
    rate : float, default=0.05
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
        """Number of decoder outputs per sample."""
        return self.n_features

    @property
    def noise_variance(self) -> Tensor:
        """sigma2, of shape () or (d,), in the units of the networks."""
        return self.log_variance.detach().exp()

    @property
    def initial_log_variance(self) -> Tensor:
        """Log-variances of p(x|z) where learning starts."""
        return self.log_variance.detach()

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters that the optimizer trains: not a variance in closed form."""
        return [] if self.update == "closed_form" else super().trained_parameters()

    def start(self, noise_variance: Array | None, residuals: Callable[[], Array]) -> None:
        """Set sigma2 to where training starts, and the limits within which it is learned.

        In closed form it never rises above that of pPCA, or above the variance of a feature.
        """
        limits = (0.0, math.inf)
        if self.update is not None:
            cap = 1.0 if self.per_feature else math.inf
            capped = self.update == "closed_form"
            if noise_variance is None or (capped and not self.per_feature):
                ppca = residuals() if self.per_feature else residuals().mean()
                if not self.per_feature and ppca > NOISE_FLOOR:
                    cap = float(ppca)
                if noise_variance is None:
                    noise_variance = np.where(ppca > NOISE_FLOOR, ppca, NOISE_START)
            limits = (NOISE_FLOOR, cap if capped else math.inf)
        assert noise_variance is not None
        noise = np.broadcast_to(noise_variance, tuple(self.log_variance.shape))
        self._set_noise(torch.tensor(noise), limits)

    def statistics(self, p: DiagonalNormal, x: Tensor) -> Tensor:
        """Sums over samples and draws of the squared residuals of each feature, (d,)."""
        return (x - p.mean).square().sum((0, 1))

    @torch.no_grad()
    def set_optimum(self, averages: Array) -> None:
        """Set a sigma2 that is learned in closed form to its optimum, within the lower limit."""
        if self.update == "closed_form":
            optimum = averages if self.per_feature else averages.mean()
            log_optimum = torch.log(torch.as_tensor(optimum).to(self.log_variance))
            self.log_variance.copy_(torch.maximum(log_optimum, self.log_low))

    def terms(self, averages: Array) -> LikelihoodTerms:
        """Return the terms of the bound from the mean squared residuals, (d,)."""
        d, at_limit = self.n_features, False
        if self.update is not None:
            at_limit = bool((self.log_variance <= self.log_low + 1e-6).any())
        variance = self.noise_variance.double().cpu().numpy()
        log_noise = float(np.sum(np.broadcast_to(np.log(variance), d))) + d * LOG_2PI
        scaled = float(np.sum(averages / variance))
        return LikelihoodTerms(-0.5 * (scaled + log_noise), 0.5 * (log_noise + d), at_limit)

    def record(self, scale: Any, log_scale: float) -> dict[str, Any]:
        """Return sigma2 and the entropy of p(x|z), in data units."""
        log_variance = self.log_variance.detach().cpu().double().numpy()
        noise = np.exp(log_variance) * scale**2
        entropy = 0.5 * self.n_features * (LOG_2PI + 1.0 + log_variance.mean())
        return {
            "noise_variance": noise if np.ndim(noise) else float(noise),
            "noise_entropy": float(entropy) + log_scale,
        }

    def noise_variance_terms(self, p: DiagonalNormal, x: Tensor) -> Tensor:
        """Terms of shape (S, n, 1 or d) whose average is the optimum of sigma2."""
        terms = (x - p.mean).square_()
        return terms if self.per_feature else terms.mean(-1, keepdim=True)

    @torch.no_grad()
    def set_noise_variance(self, noise_variance: Array) -> None:
        """Set sigma2, (d,) or of one entry, in the units of the networks."""
        log_variance = torch.from_numpy(np.log(noise_variance))
        self.log_variance.copy_(log_variance.view(self.log_variance.shape))

    @staticmethod
    def draw(mean: Array, variance: Array, random_state: np.random.RandomState) -> Array:
        """Draw from N(mean, diag variance)."""
        return mean + np.sqrt(variance) * random_state.standard_normal(mean.shape)

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution with mean h, of shape (..., d)."""
        return DiagonalNormal(h, self.log_variance.expand(h.shape[-1]))

    def after_step(self) -> None:
        """Move sigma2 by `update` and hold it within its limits, after each step of the optimizer.

        In closed form from the gradient g of the loss with respect to log sigma2 of m features,
        since the mean of E_q|x - mu(z)|^2 is sigma2 (1 - 2 g / m): a step of the natural gradient.
        """
        if self.update is None:
            return
        log_variance = self.log_variance.detach()
        in_floats = log_variance.device.type == "cpu" and not log_variance.ndim
        if self.update == "closed_form":
            share = -2.0 * self.rate / (self.n_features // log_variance.numel())
            gradient = self.log_variance.grad
            if gradient is None:  # a callback has frozen it
                return
            self.log_variance.grad = None  # no optimiser does it
            if in_floats:
                log_variance += math.log1p(gradient.item() * share)
            else:
                log_variance += torch.log1p(gradient * share)
        if in_floats and self.log_low.item() <= log_variance.item() <= self.log_high.item():
            return
        torch.clamp(log_variance, self.log_low, self.log_high, out=log_variance)


class DiagonalGaussianLikelihood(GaussianLikelihood):
    """p(x|z) = N(mu(z), diag sigma2), with a sigma2 per feature, the same for every z."""

    per_feature = True


class HeteroscedasticLikelihood(Likelihood):
    """p(x|z) = N(mu(z), diag sigma2(z)): the decoder gives mu and log sigma2, (..., 2 d).

    Parameters
    ----------
    n_features : int
    update : None
        The decoder learns the noise, whatever is given here.
    log_low : float, default=log(1e-6)
        Least log-variance; the largest is 20. Between them it is the decoder's output plus an
        offset, since the outputs of a new decoder are near 0.
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
        """Number of decoder outputs per sample."""
        return 2 * self.n_features

    @property
    def initial_log_variance(self) -> Tensor:
        """Log-variances of p(x|z) where learning starts, (d,)."""
        return self.offset.clamp(*self.limits)

    def start(self, noise_variance: Array | None, residuals: Callable[[], Array]) -> None:
        """Set the log-variances for decoder outputs of 0."""
        if noise_variance is None:
            ppca = residuals()
            noise_variance = np.where(ppca > NOISE_FLOOR, ppca, NOISE_START)
        self.offset.copy_(torch.tensor(np.log(noise_variance)))

    def statistics(self, p: DiagonalNormal, x: Tensor) -> Tensor:
        """Sums of log p(x|z), of H[p(x|z)], and of log-variances at a limit."""
        low, high = self.limits
        at_limit = ((p.log_variance <= low) | (p.log_variance >= high)).to(x.dtype)
        return torch.stack([p.log_prob(x).sum(), p.entropy().sum(), at_limit.sum()])

    def terms(self, averages: Array) -> LikelihoodTerms:
        """Return the terms of the bound from averaged `statistics`."""
        log_prob, entropy, at_limit = averages.tolist()
        return LikelihoodTerms(log_prob, entropy, at_limit > 0)

    draw = staticmethod(GaussianLikelihood.draw)

    def forward(self, h: Tensor) -> DiagonalNormal:
        """The distribution whose parameters are h, of shape (..., 2 d)."""
        mean, log_variance = h.split(self.n_features, dim=-1)
        return DiagonalNormal(mean, held_in_range(log_variance + self.offset, *self.limits))


class BernoulliLikelihood(Likelihood):
    """p(x_j = 1|z) = sigmoid(a_j(z)): the decoder gives the logits a, (..., d).

    Parameters
    ----------
    n_features : int
    """

    @property
    def n_inputs(self) -> int:
        """Number of decoder outputs per sample."""
        return self.n_features

    def curvature(self, p: BernoulliLogits) -> Tensor:
        """Minus the second derivative of log p(x|z) along the scale of its logits, (S, n)."""
        return (p.logits.square() * p.variance).sum(-1)

    @staticmethod
    def draw(mean: Array, variance: Array, random_state: np.random.RandomState) -> Array:
        """Draw bits that are 1 with probability `mean`."""
        return (random_state.uniform(size=mean.shape) < mean).astype(mean.dtype)

    def forward(self, h: Tensor) -> BernoulliLogits:
        """The distribution with logits h, of shape (..., d)."""
        return BernoulliLogits(h)


# Values of the parameter `noise_model` of DeepGaussianVAE.
NOISE_MODELS: dict[str, type[Likelihood]] = {
    "scalar": GaussianLikelihood,
    "diagonal": DiagonalGaussianLikelihood,
    "heteroscedastic": HeteroscedasticLikelihood,
}
