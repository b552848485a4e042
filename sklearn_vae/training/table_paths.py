"""Gradients of the ELBO of tables by formula, as :mod:`~sklearn_vae.training.fast_paths` has others.

Quantities that depend on the samples alone are computed once: inputs of the encoder with filled gaps,
the factor R by which q(z|x) is wider without missing values, and the targets of the decoder outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_vae.nn.column_distributions import softplus
from sklearn_vae.nn.columns import (
    LOG_RATE_LIMITS,
    BernoulliColumns,
    CategoricalColumns,
    LogNormalColumns,
    NegativeBinomialColumns,
    NormalColumns,
    OrdinalColumns,
    StudentColumns,
)
from sklearn_vae.nn.distributions import LOG_2PI
from sklearn_vae.nn.incomplete import CorrelatedPosterior
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, DiagonalPosterior, StandardPrior
from sklearn_vae.nn.tables import TableEncoder, TableInputs, TableModule

# A threshold that no score reaches.
BEYOND = 1e30


class Targets(NamedTuple):
    """Targets and weights of decoder outputs, of shape (n, m), and the number of observed values.

    A target is x, log x for log-normals, or the indicator of a category. Weights are 0 where x is
    missing, and so are the targets, and 1 elsewhere.
    """

    values: Tensor
    observed: Tensor
    counts: Tensor  # (m,)


# Forward pass of a block of columns: it takes the parameters p, (S, n, m), the targets, and a factor c,
# and returns the sum of log p(x|z). It replaces p by the derivatives of log p(x_j|z) where x_j is
# observed, and sets the gradients of c times the sum with respect to the parameters of the block.
BlockFormula: TypeAlias = Callable[[Tensor, Targets, float], Tensor]


def is_table_without_changes(module: nn.Module, is_modified: Callable[[nn.Module], bool]) -> bool:
    """Return whether the formulas cover all parts of a module but its two networks."""
    if type(module) is not TableModule or type(module.encoder) is not TableEncoder:
        return False
    encoder, posterior, blocks = module.encoder, module.posterior, module.likelihood.blocks
    is_known = type(posterior) is DiagonalPosterior or (
        type(posterior) is CorrelatedPosterior and encoder.widening == "correlated"
    )
    parts = [module, encoder, encoder.inputs, posterior, module.likelihood, module.prior, *blocks]
    is_known &= type(encoder.inputs) is TableInputs and type(module.prior) is StandardPrior
    is_known &= all(type(block) in BLOCKS for block in blocks)
    return is_known and not any(map(is_modified, parts))


class TableGradients:
    """Function that sets the gradients of -mean(elbo) of a table.

    Parameters
    ----------
    module : TableModule
        Module.
    encode, decode : callable
        Forward passes of its two networks.
    """

    def __init__(
        self, module: TableModule, encode: Callable[..., Any], decode: Callable[..., Any]
    ) -> None:
        self.encode, self.decode = encode, decode
        self.encoder, self.inputs = module.encoder, module.encoder.inputs
        self.k = module.posterior.n_components
        self.is_correlated = isinstance(module.posterior, CorrelatedPosterior)
        blocks: Any = list(module.likelihood.blocks)
        self.offset = torch.cat([block.offset for block in blocks])
        self.unit = torch.cat([block.unit for block in blocks])
        own = [part for _, part in self.inputs.slices]
        self.blocks = [(part, BLOCKS[type(b)](b)) for b, part in zip(blocks, own, strict=True)]
        size, k = self.inputs.n_outputs, self.k
        self.sizes = [size, size, size, 2, *([k**2, k] if self.is_correlated else [])]

    @property
    def width(self) -> int:
        """Number of columns of prepared samples."""
        return sum(self.sizes)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> Tensor:
        """Return what depends on the samples alone, one row for each, (n_samples, width)."""
        inputs = self.inputs(x)
        filled, root = inputs, None
        if self.encoder.accepts_missing:
            filled, root = self.encoder.fill(inputs, inputs.isnan())
        raw, targets = x[:, self.inputs.source], []
        constant = x.new_zeros(len(x), 2)  # of log p(x|z) and of the KL
        for kind, own in self.inputs.slices:
            values = raw[:, own]
            if kind == "categorical":
                values = (values == self.inputs.code[own]).to(x.dtype)
            elif kind == "positive":
                values = values.log()
                constant[:, 0] -= values.nansum(1)
            targets.append(values)
        factors = []
        if self.is_correlated:
            assert root is not None
            constant[:, 1] = -torch.diagonal(root, dim1=-2, dim2=-1).log().sum(1)
            factors = [root.flatten(1), root.square().sum(1)]
        values, observed = torch.cat(targets, 1).nan_to_num(nan=0.0), (~raw.isnan()).to(x.dtype)
        return torch.cat([filled, values, observed, constant, *factors], 1)

    def __call__(self, x: Tensor, noise: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Set the gradients for samples x; return sums of reconstruction and KL, and outputs."""
        return self.of_prepared(self.prepare(x), noise, beta)

    @torch.no_grad()
    def of_prepared(
        self, rows: Tensor, noise: Tensor, beta: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Set the gradients for prepared samples."""
        n, n_draws = len(rows), len(noise)
        inputs, values, observed, constant, *factors = rows.split(self.sizes, dim=1)
        h, backward_encoder = self.encode(inputs)
        z, kl, backward_posterior = self._draw(h, noise, factors)
        constant = constant.sum(0)
        outputs, backward_decoder = self.decode(z)
        outputs = torch.addcmul(self.offset, self.unit, outputs)
        draws, counts = outputs.view(n_draws, n, -1), observed.sum(0)
        factor, sums = -1.0 / (n_draws * n), []
        for own, formula in self.blocks:
            targets = Targets(values[:, own], observed[:, own], counts[own])
            sums.append(formula(draws[..., own], targets, factor))
        draws.mul_(observed * (factor * self.unit))
        gradient = backward_decoder(outputs)
        backward_encoder(backward_posterior(gradient, beta / n), to_input=False)
        reconstruction = torch.add(constant[0], sum(sums), alpha=1.0 / n_draws)
        return reconstruction, kl + constant[1], torch.cat([h, factors[0]], 1) if factors else h

    def _draw(self, h: Tensor, noise: Tensor, factors: list[Tensor]) -> tuple[Any, ...]:
        """Return draws (S n, k), the sum of the KL, and the map of their gradients to that of h."""
        k = self.k
        mean, log_variance = h.split(k, dim=1)
        spread = torch.exp(log_variance.clamp_(*LOG_VARIANCE_RANGE))
        shift = noise * torch.sqrt(spread)
        if factors:
            root = factors[0].view(-1, k, k)
            z = torch.baddbmm(mean[:, :, None], root, shift.permute(1, 2, 0)).permute(2, 0, 1)
            spread.mul_(factors[1])
        else:
            z = mean + shift
        kl = (spread - log_variance).addcmul_(mean, mean).sum() - mean.numel()

        def backward(z_gradient: Tensor, kl_gradient: float) -> Tensor:
            gradients = z_gradient.view(noise.shape)
            gradient = torch.empty_like(h)
            own, of_log_variance = gradient.split(k, dim=1)
            torch.add(gradients.sum(0), mean, alpha=kl_gradient, out=own)
            if factors:
                gradients = torch.bmm(root.mT, gradients.permute(1, 2, 0)).permute(2, 0, 1)
            of_std = (gradients * shift).sum(0).add_(spread.sub_(1.0), alpha=kl_gradient)
            torch.mul(of_std, 0.5, out=of_log_variance)
            return gradient

        return z.reshape(-1, k), 0.5 * kl, backward


def _normal(block: NormalColumns) -> BlockFormula:
    parameter, shift = block.log_variance, 2.0 * block.scale.log()

    def formula(p: Tensor, x: Targets, factor: float) -> Tensor:
        log_noise = parameter + shift
        precision = torch.exp(-log_noise)
        p.neg_().add_(x.values).mul_(x.observed)
        squares, counts = p.square().sum((0, 1)).mul_(precision), len(p) * x.counts
        parameter.grad = (squares - counts).mul_(0.5 * factor)
        p.mul_(precision)
        return -0.5 * (squares.sum() + torch.dot(counts, log_noise + LOG_2PI))

    return formula


def _student(block: StudentColumns) -> BlockFormula:
    log_scale, log_freedom, shift = block.log_scale, block.log_freedom, block.scale.log()

    def formula(p: Tensor, x: Targets, factor: float) -> Tensor:
        logs, more = log_scale + shift, log_freedom.exp()
        nu, rate, counts = 2.0 + more, torch.exp(-logs), len(p) * x.counts
        p.neg_().add_(x.values).mul_(rate)
        squares = p.square()
        kernel, slope = torch.log1p(squares / nu).mul_(x.observed), (nu + 1.0) / (nu + squares)
        kernel, products = kernel.sum((0, 1)), (slope * squares).mul_(x.observed).sum((0, 1))
        half, upper = 0.5 * nu, 0.5 * nu + 0.5
        constant = torch.lgamma(upper) - torch.lgamma(half) - 0.5 * torch.log(nu * math.pi) - logs
        gammas = torch.digamma(upper) - torch.digamma(half)
        log_scale.grad = (products - counts).mul_(factor)
        of_nu = counts * (gammas - 1.0 / nu) + products / nu - kernel
        log_freedom.grad = of_nu.mul_(more).mul_(0.5 * factor)
        p.mul_(slope).mul_(rate)
        return torch.dot(counts, constant) - torch.dot(upper, kernel)

    return formula


def _negative_binomial(block: NegativeBinomialColumns) -> BlockFormula:
    parameter = block.log_count

    def formula(p: Tensor, x: Targets, factor: float) -> Tensor:
        # In float64, because large terms cancel.
        counts, observed, log_count = x.values.double(), x.observed.double(), parameter.double()
        r, log_mean = log_count.exp(), p.double()
        odds = log_mean.clamp(*LOG_RATE_LIMITS) - log_count
        total, below = counts + r, softplus(odds).neg_()
        gammas = torch.lgamma(total) - torch.lgamma(r) - torch.lgamma(counts + 1.0)
        scaled, slope = total * odds.sigmoid(), torch.digamma(total) - torch.digamma(r)
        inside = log_mean == log_mean.clamp(*LOG_RATE_LIMITS)
        p.copy_((counts - scaled) * inside)
        terms = (total * below).addcmul_(counts, odds).mul_(observed).sum()
        # The derivative of log_prob in log r, where mu / (r + mu) = sigmoid(odds).
        of_draws = torch.addcmul(scaled, below, r).add_(r - total)
        of_count = (of_draws.mul_(observed)).sum((0, 1)) + len(p) * r * (slope * observed).sum(0)
        parameter.grad = (factor * of_count).to(parameter.dtype)
        return (terms + len(p) * (gammas * observed).sum()).to(p.dtype)

    return formula


def _bernoulli(block: BernoulliColumns) -> BlockFormula:
    def formula(p: Tensor, x: Targets, factor: float) -> Tensor:
        log_prob = -functional.binary_cross_entropy_with_logits(
            p, x.values.expand_as(p), weight=x.observed, reduction="sum"
        )
        p.sigmoid_().neg_().add_(x.values)
        return log_prob

    return formula


def _categorical(block: CategoricalColumns) -> BlockFormula:
    index, padding = block.index, block.padding
    valid = torch.nonzero((padding == 0).flatten())[:, 0]
    n_categories = index.shape[1]
    is_even = len(valid) == index.numel()

    def formula(p: Tensor, x: Targets, factor: float) -> Tensor:
        if is_even:
            logs = p.unflatten(-1, (-1, n_categories)).log_softmax(-1).flatten(-2)
        else:
            logs = (p[..., index] + padding).log_softmax(-1).flatten(-2)[..., valid]
        torch.sub(x.values, logs.exp(), out=p)
        return (logs * x.values).sum()

    return formula


def _ordinal(block: OrdinalColumns) -> BlockFormula:
    first, log_steps, padding = block.first, block.log_steps, block.padding
    edge, width = torch.full_like(first, BEYOND), padding.shape[1] + 2
    # Indices of the thresholds below and above the first category.
    start = torch.arange(len(first), device=first.device) * width
    bounds = torch.stack([start, start + 1])[:, None]
    sign = first.new_tensor([-1.0, 1.0]).view(2, 1, 1)
    later = torch.ones_like(padding[:1]).expand(padding.shape[1], -1).tril().to(first.dtype)

    def formula(p: Tensor, x: Targets, factor: float) -> Tensor:
        steps = log_steps.exp()
        thresholds = torch.cat([first, first + steps.cumsum(1)], 1).add_(padding)
        edges = torch.cat([-edge, thresholds, edge], 1).flatten()
        index, n_draws = x.values.long() + bounds, len(p)
        limits = edges[index]  # below and above x, (2, n, m)
        away = (limits[:, None] - p).mul_(sign[:, None])
        terms = functional.logsigmoid(away).sum((0, 1))
        distance = limits[1] - limits[0]
        inside = torch.log_(torch.expm1_(-distance).neg_())
        total = terms.add_(inside, alpha=n_draws).mul_(x.observed).sum()
        slopes = away.neg_().sigmoid_()
        torch.sub(slopes[0], slopes[1], out=p)
        change = (slopes.sum(1) + n_draws / torch.expm1(distance)).mul_(sign * x.observed)
        gradient = torch.zeros_like(edges).index_add_(0, index.flatten(), change.flatten())
        gradient = gradient.view(-1, width)[:, 1:-1] @ (factor * later)
        first.grad, log_steps.grad = gradient[:, :1].contiguous(), gradient[:, 1:] * steps
        return total

    return formula


BLOCKS: dict[type[nn.Module], Callable[[Any], BlockFormula]] = {
    NormalColumns: _normal,
    LogNormalColumns: _normal,
    StudentColumns: _student,
    NegativeBinomialColumns: _negative_binomial,
    BernoulliColumns: _bernoulli,
    CategoricalColumns: _categorical,
    OrdinalColumns: _ordinal,
}
