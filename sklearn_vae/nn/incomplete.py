"""Encoders of samples with missing values (NaN).

A linear model x = W z + mean + noise fills the missing values with their conditional means given the
observed ones, and tells how much wider q(z|x) is without them. If encoder and decoder are linear, and
the complete samples have the exact posterior, then so have incomplete ones.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklearn_vae.nn.cubature import cubature
from sklearn_vae.nn.distributions import CorrelatedNormal
from sklearn_vae.nn.posteriors import DiagonalPosterior, Posterior

# Minimum of the noise variance of the linear model, as a share of its average.
LEAST_NOISE = 1e-9


class LinearModel(NamedTuple):
    """Linear model p(z) = N(0, diag(prior_variance)), p(x|z) = N(W z + mean, diag(noise_variance))."""

    mean: Tensor  # (d,)
    loadings: Tensor  # W, (d, k)
    noise_variance: Tensor  # (d,)
    prior_variance: Tensor  # (k,)


class IncompleteEncoder(nn.Module):
    """Encoder that fills missing values by a linear model before it applies a network.

    It outputs the parameters of q(z|x) given the filled sample.

    Parameters
    ----------
    network : Module
        Encoder of complete samples.
    n_features, n_components : int
        Numbers of features and of latent dimensions.
    widening : {"correlated", "diagonal", "none"}
        How q(z|x) becomes wider with each missing value. With "correlated" the factor R of
        :class:`CorrelatedPosterior` follows the other outputs, with which the posterior of the
        linear model is exact. "diagonal" changes only log-variances by the linear model. Both
        require that its latent dimensions are those of the network.
    limits : tuple of float, default=(-inf, inf)
        Smallest and largest possible value.
    """

    mean: Tensor
    loadings: Tensor
    noise_variance: Tensor
    prior_variance: Tensor

    def __init__(
        self,
        network: nn.Module,
        n_features: int,
        n_components: int,
        *,
        widening: str,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        super().__init__()
        self.network = network
        self.widening = widening
        self.limits = limits
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("loadings", torch.zeros(n_features, n_components))
        self.register_buffer("noise_variance", torch.ones(n_features))
        self.register_buffer("prior_variance", torch.ones(n_components))

    @torch.no_grad()
    def set_linear(self, model: LinearModel) -> None:
        """Set the linear model."""
        for name, values in model._asdict().items():
            getattr(self, name).copy_(values)

    def forward(self, x: Tensor) -> Tensor:
        """Return the parameters of q(z|x) for x with NaN, (n_samples, n_features)."""
        missing = x.isnan()
        filled, change = self.fill(x, missing)
        h = self.network(filled)
        if self.widening == "correlated":
            return torch.cat([h, change.flatten(1)], dim=1)
        if self.widening == "none":
            return h
        k = len(self.prior_variance)
        return torch.cat([h[:, :k], h[:, k : 2 * k] + change, h[:, 2 * k :]], dim=1)

    @torch.no_grad()
    def fill(self, x: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Return filled samples, and R or changes of log-variances, I or 0 for complete ones."""
        std = self.noise_variance.double().sqrt()
        U = self.loadings.double() / std[:, None]
        y = torch.where(missing, 0.0, (x - self.mean) / std)
        k = U.shape[1]
        products = (U[:, :, None] * U[:, None, :]).flatten(1)
        observed = (~missing).double()
        complete = torch.diag(1.0 / self.prior_variance.double())
        precision = complete + (observed @ products).view(-1, k, k)
        factor = _inverse_root(precision)
        z = ((y @ U)[:, None] @ factor)[:, 0]
        z = (factor @ z[:, :, None])[:, :, 0]
        means = (self.mean + (z @ U.mT) * std).clamp(*self.limits)
        filled = torch.where(missing, means.to(x.dtype), x)
        complete = complete + products.sum(0).view(k, k)
        if self.widening != "correlated":
            change = torch.log(complete.diagonal() / torch.diagonal(precision, dim1=-2, dim2=-1))
            return filled, change.to(x.dtype)
        whole = _inverse_root(complete)
        root = torch.linalg.solve_triangular(whole.mT, factor.mT, upper=True).mT
        return filled, root.to(x.dtype)


def _inverse_root(precision: Tensor) -> Tensor:
    """Return the lower triangular Cholesky factors of the inverses of positive definite matrices."""
    # With rows and columns in reverse order the factor of a matrix is upper triangular.
    root = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1)
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    return torch.linalg.solve_triangular(root.mT, eye, upper=False)


class CorrelatedPosterior(Posterior):
    """q(z|x) = N(nu(x), R diag tau2(x) R'); the encoder outputs nu, log tau2 and R."""

    def __init__(self, n_components: int) -> None:
        super().__init__(n_components)
        self.independent = DiagonalPosterior(n_components)

    @property
    def n_inputs(self) -> int:
        return self.independent.n_inputs + self.n_components**2

    def forward(self, h: Tensor) -> CorrelatedNormal:
        k = self.n_components
        base = self.independent(h[:, : self.independent.n_inputs])
        return CorrelatedNormal(base, h[:, self.independent.n_inputs :].view(-1, k, k))


def accept_missing(module: Any) -> Any:
    """Return a module that shares all parts with a module of complete samples, and takes NaN."""
    posterior, p = module.posterior, module.likelihood
    k = posterior.n_components
    is_diagonal = type(posterior) is DiagonalPosterior
    widening = "correlated" if is_diagonal else "diagonal"
    encoder = IncompleteEncoder(
        module.encoder, p.n_features, k, widening=widening, limits=p.support
    )
    encoder.to(module.prior().mean)
    encoder.set_linear(linearized(module))
    if is_diagonal:
        posterior = CorrelatedPosterior(k)
    return type(module)(encoder, posterior, module.decoder, module.likelihood, module.prior).eval()


@torch.no_grad()
def linearized(module: Any) -> LinearModel:
    """Return the linear model that approximates a decoder best, for z from the prior.

    It is the decoder itself if that is linear and its noise does not depend on z.
    """
    prior = module.prior()
    k = len(prior.variance)
    points, weights = (part.to(prior.mean) for part in cubature(k))
    points, std = points[:, 0], prior.variance.sqrt()
    p = module.decode(std * points)
    variance = p.variance.expand(p.mean.shape).double()
    means, points, weights = p.mean.double(), points.double(), weights.double()
    center = weights @ means
    scaled = (weights[:, None] * (means - center)).mT @ points
    residual = means - center - points @ scaled.mT
    noise = weights @ (variance + residual.square())
    noise = noise.clamp(min=LEAST_NOISE * float(noise.mean()))
    return LinearModel(center, scaled / std, noise, prior.variance)
