"""Modules that combine networks, distributions and a prior."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_vae.nn.incomplete import CorrelatedPosterior, IncompleteEncoder
from sklearn_vae.nn.networks import MLP, build_decoder, build_encoder
from sklearn_vae.nn.posteriors import DiagonalPrior


class VAEModule(nn.Module):
    """Variational autoencoder of a prior p(z), a likelihood p(x|z) and a posterior q(z|x).

    Parameters
    ----------
    encoder : Module
        Maps x, (n_samples, n_features), to (n_samples, posterior.n_inputs).
    posterior : Module
        Maps the encoder's outputs to q(z|x).
    decoder : Module
        Maps z, (n_samples, n_components), to (n_samples, likelihood.n_inputs).
    likelihood : Module
        Maps the decoder's outputs to p(x|z).
    prior : Module
        Returns p(z), without inputs.
    unit_first_weight : Parameter of shape (h, k), default=None
        The decoder's first weight matrix. If given, its columns are kept at length 1, which makes
        the variances of a `DiagonalPrior` identifiable.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        prior: nn.Module,
        unit_first_weight: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.posterior: Any = posterior
        self.decoder: Any = decoder
        self.likelihood: Any = likelihood
        self.prior: Any = prior
        # Stored by name, because a second reference would be a second entry of the state.
        self._unit_name = next(
            (name for name, p in decoder.named_parameters() if p is unit_first_weight), None
        )
        if unit_first_weight is not None:
            if self._unit_name is None:
                raise ValueError("unit_first_weight must be a parameter of the decoder.")
            unit_columns_(unit_first_weight)

    @property
    def is_incomplete(self) -> bool:
        """Whether samples may have missing values (NaN)."""
        return isinstance(self.encoder, IncompleteEncoder)

    @property
    def unit_weight(self) -> Any:
        """The decoder's matrix with columns of length 1, if there is one."""
        return None if self._unit_name is None else self.decoder.get_parameter(self._unit_name)

    @property
    def n_fixed_draws(self) -> int:
        """Number of draws per sample for the moments of q(z|x); 1 if they have a closed form."""
        return self.posterior.n_fixed_draws(self.posterior.n_components)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the optimizer trains."""
        parts = (self.encoder, self.posterior, self.decoder, self.prior)
        learned = [p for part in parts for p in part.parameters() if p.requires_grad]
        return [*learned, *self.likelihood.trained_parameters()]

    def after_step(self) -> None:
        """Update the parameters that the optimizer does not train, after each of its steps."""
        self.likelihood.after_step()
        if self._unit_name is not None:
            unit_columns_(self.unit_weight)

    def encode(self, x: Tensor) -> Any:
        """Return q(z|x) for x of shape (n_samples, n_features)."""
        return self.posterior(_apply(self.encoder, x).to(x.dtype))

    def decode(self, z: Tensor, x: Tensor | None = None) -> Any:
        """Return p(x|z) for z of shape (..., k), that of the observed features of x if it is given."""
        outputs = _apply(self.decoder, z.reshape(-1, z.shape[-1]))
        p = self.likelihood(outputs.to(z.dtype).view(*z.shape[:-1], -1))
        return p if x is None or not self.is_incomplete else p.restricted_to(~x.isnan())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder mean at the posterior mean, and the mean and variance of q(z|x)."""
        q = self.encode(x)
        return self.decode(q.mean).mean, q.mean, q.variance


class Autoencoder(nn.Module):
    """Deterministic autoencoder of an encoder and a decoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.decoder: Any = decoder

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the optimizer trains."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """Do nothing, because the optimizer trains all parameters."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents of x, of shape (n_samples, n_components)."""
        return _apply(self.encoder, x)

    def decode(self, z: Tensor) -> Tensor:
        """Return the reconstructions of z, of shape (n_samples, n_features)."""
        return _apply(self.decoder, z)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x of shape (n_samples, n_features)."""
        return self.decode(self.encode(x))


def _apply(network: nn.Module, inputs: Tensor) -> Any:
    """Apply a network, which may write to its inputs unless it is an MLP."""
    return network(inputs if type(network) is MLP else inputs.clone())


def build_vae(
    sample_shape: tuple[int, ...],
    n_components: int,
    likelihood: Callable[[], Any],
    posterior: Callable[[int], Any],
    prior: Callable[[int], Any],
    *,
    encoder: Any,
    decoder: Any,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    dtype: torch.dtype,
    missing: str | None = None,
    on: str | None = None,
) -> VAEModule:
    """Build a VAE with weights from torch's global generator.

    `sample_shape` is (n_features,) or (channels, height, width). `likelihood`, `posterior` and
    `prior` return the parts of the model; the last two are called with `n_components`. If samples
    may have missing values, `missing` is the `widening` of :class:`IncompleteEncoder`. With
    on="meta" the parameters of the networks have shapes and no values.
    """
    q, p, prior_module = posterior(n_components), likelihood(), prior(n_components)
    networks = (hidden_layer_sizes, activation)
    n_parts = p.n_inputs // p.n_features
    output_shape = sample_shape if n_parts == 1 else (n_parts, *sample_shape)
    learned = isinstance(prior_module, DiagonalPrior)
    with nullcontext() if on is None else torch.device(on):
        encoder_module = build_encoder(encoder, sample_shape, q.n_inputs, *networks)
        decoder_module = build_decoder(decoder, n_components, output_shape, *networks)
        weight = _first_weight(decoder_module, n_components) if learned else None
    if missing is not None:
        size = (p.n_features, n_components)
        encoder_module = IncompleteEncoder(
            encoder_module, *size, widening=missing, limits=p.support
        )
        q = CorrelatedPosterior(n_components) if missing == "correlated" else q
    return VAEModule(encoder_module, q, decoder_module, p, prior_module, weight).to(dtype)


def build_autoencoder(
    sample_shape: tuple[int, ...],
    n_components: int,
    *,
    encoder: Any,
    decoder: Any,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    dtype: torch.dtype,
    on: str | None = None,
) -> Autoencoder:
    """Build an autoencoder with the parameters of :func:`build_vae`."""
    networks = (hidden_layer_sizes, activation)
    with nullcontext() if on is None else torch.device(on):
        return Autoencoder(
            build_encoder(encoder, sample_shape, n_components, *networks),
            build_decoder(decoder, n_components, sample_shape, *networks),
        ).to(dtype)


def _first_weight(decoder: nn.Module, n_components: int) -> Any:
    """Return the trainable matrix by which the decoder first multiplies z, or raise ValueError."""
    z = torch.zeros(2, n_components, dtype=next(decoder.parameters()).dtype)
    first: list[nn.Linear] = []

    def add_if_first(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        # Tensors on "meta" all have the address 0.
        if inputs[0] is z or inputs[0].data_ptr() == z.data_ptr() != 0:
            first.append(layer)

    layers = [part for part in decoder.modules() if isinstance(part, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(add_if_first) for layer in layers]
    try:
        with torch.no_grad():
            decoder(z)
    finally:
        for hook in hooks:
            hook.remove()
    trained = {id(p) for p in decoder.parameters() if p.requires_grad}
    if len(first) == 1 and id(first[0].weight) in trained:
        return first[0].weight
    raise ValueError(
        "prior='learned_variance' needs a decoder whose first layer is an nn.Linear with "
        f"n_components={n_components} inputs and a trainable weight, got {decoder!r}."
    )


@torch.no_grad()
def unit_columns_(weight: Tensor) -> None:
    """Divide each column of a matrix by its length, in place; zero columns stay zero."""
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix, got shape {tuple(weight.shape)}.")
    length = torch.linalg.vector_norm(weight, dim=0)
    weight.div_(torch.where(length > 0, length, 1.0))
