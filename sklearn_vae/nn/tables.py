"""VAE modules of tables: encoder inputs, missing values, and likelihoods by the types of columns.

The inputs of the encoder correspond to the outputs of the decoder. Both are standardized: to
first order, a decoder output of 1 changes the expected input by 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklearn_vae.nn.column_distributions import Codes, LogNormal, MixedDistribution, StudentT
from sklearn_vae.nn.column_starts import moments
from sklearn_vae.nn.columns import (
    BernoulliColumns,
    CategoricalColumns,
    LogNormalColumns,
    MixedLikelihood,
    NegativeBinomialColumns,
    NormalColumns,
    OrdinalColumns,
    StudentColumns,
)
from sklearn_vae.nn.incomplete import CorrelatedPosterior, IncompleteEncoder, linearized
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.posteriors import DiagonalPosterior, StandardPrior

# Likelihoods of the types of columns.
LIKELIHOODS: dict[str, Any] = {
    "real": NormalColumns,
    "positive": LogNormalColumns,
    "heavy_tailed": StudentColumns,
    "count": NegativeBinomialColumns,
    "binary": BernoulliColumns,
    "categorical": CategoricalColumns,
    "ordinal": OrdinalColumns,
}
WITH_CATEGORIES = (CategoricalColumns, OrdinalColumns)

# Functions of numbers that become the inputs of the encoder.
INPUTS: dict[str, Any] = {
    "positive": torch.log,
    "heavy_tailed": torch.asinh,
    "count": torch.log1p,
}


class Block(NamedTuple):
    """Columns of one type, and their numbers of categories."""

    type: str
    columns: list[int]
    n_categories: list[int]


def blocks_of(types: Sequence[str], n_categories: Sequence[int]) -> list[Block]:
    """Return the columns of each type, in the order of `LIKELIHOODS`.

    Columns of categories are in blocks of similar numbers of these, because all columns of a block are
    padded to its largest number.
    """
    blocks = []
    for kind, likelihood in LIKELIHOODS.items():
        columns = [j for j, own in enumerate(types) if own == kind]
        has_sizes = issubclass(likelihood, WITH_CATEGORIES)
        classes = [_size_class(n_categories[j]) if has_sizes else 0 for j in columns]
        for size in sorted(set(classes)):
            own = [j for j, c in zip(columns, classes, strict=True) if c == size]
            blocks.append(Block(kind, own, [n_categories[j] for j in own]))
    return blocks


def _size_class(n_categories: int) -> int:
    """Return 0 up to 8 categories, 1 up to 32, 2 up to 128, and so on."""
    return max(0, (n_categories - 1).bit_length() - 2) // 2


def likelihood_of(blocks: Sequence[Block]) -> MixedLikelihood:
    """Return the likelihood of a table."""
    parts = []
    for block in blocks:
        kind = LIKELIHOODS[block.type]
        has_sizes = issubclass(kind, WITH_CATEGORIES)
        parts.append(kind(block.n_categories if has_sizes else len(block.columns)))
    return MixedLikelihood([(p, block.columns) for p, block in zip(parts, blocks, strict=True)])


class TableInputs(nn.Module):
    """Standardized numbers and one-hot codes of the columns of a table.

    Parameters
    ----------
    blocks : sequence of Block
        Columns by type.
    """

    source: Tensor
    code: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        source: list[int] = []
        code: list[int] = []
        self.slices: list[tuple[str, slice]] = []
        for block in blocks:
            start = len(source)
            sizes = block.n_categories if block.type == "categorical" else [1] * len(block.columns)
            for column, size in zip(block.columns, sizes, strict=True):
                source += [column] * size
                code += range(size)
            self.slices.append((block.type, slice(start, len(source))))
        self.register_buffer("source", torch.tensor(source), persistent=False)
        self.register_buffer("code", torch.tensor(code), persistent=False)
        self.register_buffer("center", torch.zeros(len(source)))
        self.register_buffer("scale", torch.ones(len(source)))

    @property
    def n_outputs(self) -> int:
        """Number of inputs of the encoder."""
        return len(self.center)

    @torch.no_grad()
    def set_units(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Set mean and standard deviation of all inputs by training samples, with NaN if missing."""
        values = self._values(x)
        observed = ~values.isnan()
        of_values = observed.to(x.dtype)
        if weights is not None:
            of_values = of_values * weights[:, None].to(x.dtype)
        center, scale = moments(torch.where(observed, values, 0.0), of_values)
        self.center.copy_(center)
        self.scale.copy_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (n_samples, n_features), to (n_samples, n_outputs), with NaN where x is missing."""
        return (self._values(x) - self.center) / self.scale

    def moments(self, p: MixedDistribution) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the inputs if x has a distribution, to first order."""
        means, variances = [], []
        for part, (kind, own) in zip(p.parts, self.slices, strict=True):
            if kind == "categorical":
                assert isinstance(part, Codes)
                mean = part.probabilities[..., self._local(own), self.code[own]]
                variance = mean * (1.0 - mean)
            elif isinstance(part, LogNormal):
                mean, variance = part.logarithm.mean, part.logarithm.variance
            elif isinstance(part, StudentT):
                mean = torch.asinh(part.mean)
                variance = part.variance / (1.0 + part.mean.square())
            elif kind == "count":
                mean = torch.log1p(part.mean)
                variance = part.variance / (1.0 + part.mean).square()
            else:
                mean, variance = part.mean, part.variance
            means.append(mean)
            variances.append(variance.expand(mean.shape))
        mean, variance = torch.cat(means, dim=-1), torch.cat(variances, dim=-1)
        return (mean - self.center) / self.scale, variance / self.scale.square()

    def _local(self, own: slice) -> Tensor:
        """Return the index within its block of the column of each input."""
        source = self.source[own]
        return torch.unique_consecutive(source, return_inverse=True)[1]

    def _values(self, x: Tensor) -> Tensor:
        raw, parts = x[:, self.source], []
        for kind, own in self.slices:
            values = raw[:, own]
            if kind == "categorical":
                codes = (values == self.code[own]).to(x.dtype)
                values = torch.where(values.isnan(), torch.nan, codes)
            parts.append(INPUTS[kind](values) if kind in INPUTS else values)
        return torch.cat(parts, dim=1)


class TableEncoder(IncompleteEncoder):
    """Encoder of tables, whose linear model is one of the inputs.

    Parameters
    ----------
    inputs : TableInputs
        Inputs of the network.
    network : Module
        Network with `inputs.n_outputs` inputs.
    n_components : int
        Number of latent dimensions.
    widening : {"correlated", "none"} or None
        See :class:`IncompleteEncoder`. If None, samples must be complete.
    """

    def __init__(
        self, inputs: TableInputs, network: nn.Module, n_components: int, widening: str | None
    ) -> None:
        super().__init__(network, inputs.n_outputs, n_components, widening=widening or "none")
        self.inputs = inputs
        self.accepts_missing = widening is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return the parameters of q(z|x)."""
        inputs = self.inputs(x)
        return super().forward(inputs) if self.accepts_missing else self.network(inputs)


class TableModule(VAEModule):
    """VAE of a table, with a :class:`TableEncoder` and a :class:`MixedLikelihood`."""

    @property
    def is_incomplete(self) -> bool:
        return bool(self.encoder.accepts_missing)

    def set_linear(self) -> None:
        """Set the linear model by which the encoder fills missing values to that of the decoder."""
        self.encoder.set_linear(linearized(_ModuleOfInputs(self)))


class _Moments(NamedTuple):
    mean: Tensor
    variance: Tensor


class _ModuleOfInputs:
    """The model of the inputs of the encoder that follows from the model of the table."""

    def __init__(self, module: TableModule) -> None:
        self.module = module
        self.prior = module.prior

    def decode(self, z: Tensor) -> _Moments:
        """Return mean and variance of the inputs given z."""
        return _Moments(*self.module.encoder.inputs.moments(self.module.decode(z)))


def build_table_vae(
    types: Sequence[str],
    n_categories: Sequence[int],
    n_components: int,
    *,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    dtype: torch.dtype,
    missing: str | None = None,
    on: str | None = None,
) -> TableModule:
    """Build a VAE of a table with weights from torch's global generator.

    `types` and `n_categories` have one entry per column, where the latter is ignored for numbers.
    See :class:`TableEncoder` for `missing`, and :func:`build_vae` for the others.
    """
    blocks = blocks_of(types, n_categories)
    posterior, likelihood = DiagonalPosterior(n_components), likelihood_of(blocks)
    widths = list(hidden_layer_sizes)
    with nullcontext() if on is None else torch.device(on):
        network = MLP(likelihood.n_inputs, widths, posterior.n_inputs, activation)
        decoder = MLP(n_components, widths[::-1], likelihood.n_inputs, activation)
    encoder = TableEncoder(TableInputs(blocks), network, n_components, missing)
    q: Any = CorrelatedPosterior(n_components) if missing == "correlated" else posterior
    return TableModule(encoder, q, decoder, likelihood, StandardPrior(n_components)).to(dtype)


def accept_missing_values(module: TableModule) -> TableModule:
    """Return a module that shares all parts with a module of complete samples, and takes NaN."""
    if module.is_incomplete:
        return module
    k = module.posterior.n_components
    encoder = TableEncoder(module.encoder.inputs, module.encoder.network, k, "correlated")
    encoder.to(module.prior().mean)
    parts = module.decoder, module.likelihood, module.prior
    made = TableModule(encoder, CorrelatedPosterior(k), *parts).eval()
    made.set_linear()
    return made
