"""Networks, distributions and prior together."""

from typing import Any

import torch
from torch import Tensor, nn


class VAEModule(nn.Module):
    """A prior p(z), p(x|z) from a decoder and q(z|x) from an encoder.

    Parameters
    ----------
    encoder : Module
        From x, (n, d), to the inputs of `posterior`, (n, posterior.n_inputs).
    posterior : Module
        From these to q(z|x).
    decoder : Module
        From z, (n, k), to the inputs of `likelihood`, (n, likelihood.n_inputs).
    likelihood : Module
        From these to p(x|z).
    prior : Module
        p(z), of no input.
    unit_first_weight : Parameter of shape (h, k), default=None
        The decoder's first weight matrix, whose columns are then kept at length 1: without that
        the scale of z and the variances of a `DiagonalPrior` are one parameter too many.
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
        # By name: a second reference would be a second entry of the state.
        self._unit_name = next(
            (name for name, p in decoder.named_parameters() if p is unit_first_weight), None
        )
        if unit_first_weight is not None:
            if self._unit_name is None:
                raise ValueError("unit_first_weight must be a parameter of the decoder.")
            unit_columns_(unit_first_weight)

    @property
    def n_fixed_draws(self) -> int:
        """Draws of each row that moments of q(z|x) are averages over; 1 where it has none."""
        return len(getattr(self.posterior, "fixed_noise", (None,)))

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        parts = (self.encoder, self.posterior, self.decoder, self.prior)
        learned = [p for part in parts for p in part.parameters() if p.requires_grad]
        return [*learned, *self.likelihood.trained_parameters()]

    def after_step(self) -> None:
        """What is learned otherwise; after each step of the optimiser."""
        self.likelihood.after_step()
        if self._unit_name is not None:
            unit_columns_(self.decoder.get_parameter(self._unit_name))

    def encode(self, x: Tensor) -> Any:
        """q(z|x) of rows x, (n, d)."""
        return self.posterior(self.encoder(x).to(x.dtype))

    def decode(self, z: Tensor) -> Any:
        """p(x|z) for z of shape (..., k)."""
        outputs = self.decoder(z.reshape(-1, z.shape[-1]))
        return self.likelihood(outputs.to(z.dtype).view(*z.shape[:-1], -1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder's mean at the posterior mean, and mean and variance of q(z|x)."""
        q = self.encode(x)
        return self.decode(q.mean).mean, q.mean, q.variance


class Autoencoder(nn.Module):
    """An encoder and a decoder without any randomness.

    Parameters
    ----------
    encoder : Module
        From x, (n, d), to z, (n, k).
    decoder : Module
        From z, (n, k), to the reconstruction of x, (n, d).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.decoder: Any = decoder

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """Nothing is learned otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x, (n, d)."""
        return self.decoder(self.encoder(x))


@torch.no_grad()
def unit_columns_(weight: Tensor) -> None:
    """Divide each column of a matrix by its length, in place; a zero column stays."""
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix, got shape {tuple(weight.shape)}.")
    length = torch.linalg.vector_norm(weight, dim=0)
    weight.div_(torch.where(length > 0, length, 1.0))
