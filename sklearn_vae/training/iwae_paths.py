"""Gradients of the importance-weighted bound by formula, as :mod:`~sklearn_vae.training.fast_paths` has
those of the ELBO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_vae.nn.distributions import LOG_2PI
from sklearn_vae.nn.likelihoods import (
    BernoulliLikelihood,
    DiagonalGaussianLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, DiagonalPrior

# Forward pass of a likelihood: it takes decoder outputs, (S n, n_inputs), and x, and returns log p(x|z)
# of each draw, (S n,), and a function that maps the gradients of these to those of the outputs, which it
# overwrites, and sets the gradient of the likelihood's parameter.
RowFormula: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


def importance_gradients(
    module: VAEModule, encode: Callable[..., Any], decode: Callable[..., Any]
) -> Callable[..., tuple[float, float, Tensor]]:
    """Return a function that sets the gradients of -mean(iwae).

    The gradient of the bound is the average of the gradients of the draws' log-weights, weighted by
    the weights divided by their sum (Burda, Grosse and Salakhutdinov, "Importance Weighted
    Autoencoders", eq. 14). With z = mean + std * noise, log q(z|x) depends on the noise and
    the log-variances alone.

    Parameters
    ----------
    module : VAEModule
        Module with a diagonal posterior.
    encode, decode : callable
        Forward passes of its two networks.
    """
    k = module.posterior.n_components
    prior = module.prior
    learned = prior.log_variance if isinstance(prior, DiagonalPrior) else None
    log_density = ROWS[type(module.likelihood)](module.likelihood)

    @torch.no_grad()
    def set_gradients(x: Tensor, noise: Tensor, beta: float) -> tuple[float, float, Tensor]:
        n_draws, n, _ = noise.shape
        h, backward_encoder = encode(x)
        mean, log_variance = h.split(k, dim=1)
        variance = torch.exp(log_variance.clamp_(*LOG_VARIANCE_RANGE))
        shift = noise * torch.sqrt(variance)
        z = mean + shift
        outputs, backward_decoder = decode(z.view(-1, k))
        log_prob, backward_likelihood = log_density(outputs, x)
        log_prob = log_prob.view(n_draws, n)

        scaled, log_priors = z, 0.0
        squares = variance + mean.square()
        if learned is not None:
            precision = torch.exp(-learned)
            scaled, log_priors = z * precision, learned.sum().item()
            squares *= precision
        log_variances = log_variance.sum(1)
        # log p(z) - log q(z|x)
        ratio = torch.linalg.vecdot(noise, noise).sub_(torch.linalg.vecdot(z, scaled))
        ratio.add_(log_variances).sub_(log_priors).mul_(0.5)
        shares = torch.softmax(torch.add(log_prob, ratio, alpha=beta), 0).div_(-n)

        by_z = backward_decoder(backward_likelihood(shares.view(-1))).view(noise.shape)
        if learned is not None:
            by_prior = torch.einsum("sn,snh->h", shares, z * scaled).add_(1.0)
            learned.grad = by_prior.mul_(0.5 * beta)
        by_z.addcmul_(shares[:, :, None], scaled, value=-beta)
        gradient = torch.empty_like(h)
        by_mean, by_log_variance = gradient.split(k, dim=1)
        torch.sum(by_z, 0, out=by_mean)
        torch.sum(by_z.mul_(shift), 0, out=by_log_variance)
        by_log_variance.sub_(beta / n).mul_(0.5)
        backward_encoder(gradient, to_input=False)
        kl = 0.5 * (squares.sum().item() - log_variances.sum().item() + n * (log_priors - k))
        return log_prob.sum().item() / n_draws, kl, h

    return set_gradients


def _gaussian(likelihood: GaussianLikelihood) -> RowFormula:
    parameter = likelihood.log_variance
    log_variance = parameter.detach()

    def formula(outputs: Tensor, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        rows, d = outputs.shape
        residual = outputs.view(-1, *x.shape).sub_(x).view(rows, d)
        # One for each feature, also if all are the same.
        log_variances, squares = log_variance.expand(d), residual.square()
        precision = torch.exp(-log_variances)
        constant = log_variances.sum() + d * LOG_2PI

        def backward(gradient: Tensor) -> Tensor:
            if parameter.requires_grad:
                own = torch.mv(squares.t(), gradient).mul_(precision).sub_(gradient.sum())
                parameter.grad = own.sum_to_size(log_variance.shape).mul(0.5)
            return residual.mul_(precision).mul_(gradient[:, None]).neg_()

        return torch.mv(squares, precision).add_(constant).mul_(-0.5), backward

    return formula


def _heteroscedastic(likelihood: HeteroscedasticLikelihood) -> RowFormula:
    offset, limits, d = likelihood.offset, likelihood.limits, likelihood.n_features

    def formula(outputs: Tensor, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        residual, log_variance = outputs.split(d, dim=1)
        outputs.view(-1, len(x), 2 * d)[..., :d].sub_(x)
        scaled = torch.exp(-log_variance.add_(offset).clamp_(*limits)).mul_(residual)
        squares = residual * scaled
        sums = (squares + log_variance).sum(1)

        def backward(gradient: Tensor) -> Tensor:
            torch.mul(scaled, -gradient[:, None], out=residual)
            torch.mul(squares.sub_(1.0), 0.5 * gradient[:, None], out=log_variance)
            return outputs

        return (sums + d * LOG_2PI).mul_(-0.5), backward

    return formula


def _bernoulli(likelihood: BernoulliLikelihood) -> RowFormula:
    def formula(outputs: Tensor, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        logits = outputs.view(-1, *x.shape)
        # x a and softplus(a) can be far larger than their difference.
        losses = functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        )

        def backward(gradient: Tensor) -> Tensor:
            logits.sigmoid_().sub_(x)
            return outputs.mul_(-gradient[:, None])

        return losses.sum(-1).view(-1).neg_(), backward

    return formula


ROWS: dict[type[nn.Module], Callable[[Any], RowFormula]] = {
    GaussianLikelihood: _gaussian,
    DiagonalGaussianLikelihood: _gaussian,
    HeteroscedasticLikelihood: _heteroscedastic,
    BernoulliLikelihood: _bernoulli,
}
