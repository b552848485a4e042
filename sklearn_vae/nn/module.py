"""Networks, distributions and prior together."""

from typing import Any

from torch import Tensor, nn

from sklearn_vae.nn.posteriors import StandardPrior


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
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        prior: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.posterior: Any = posterior
        self.decoder: Any = decoder
        self.likelihood: Any = likelihood
        self.prior: Any = prior

    @property
    def has_pullback(self) -> bool:
        """Whether the gradient of the ELBO can be had by hand."""
        others = hasattr(self.posterior, "pullback") and hasattr(self.likelihood, "pullback")
        return isinstance(self.prior, StandardPrior) and others and _by_hand(self)

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        parts = (self.encoder, self.posterior, self.decoder, self.prior)
        learned = [p for part in parts for p in part.parameters() if p.requires_grad]
        return [*learned, *self.likelihood.trained_parameters()]

    def after_step(self) -> None:
        """What is learned otherwise; after each step of the optimiser."""
        self.likelihood.after_step()

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

    @property
    def has_pullback(self) -> bool:
        """Whether the gradient of the squared error can be had by hand."""
        return _by_hand(self)

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """Nothing is learned otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x, (n, d)."""
        return self.decoder(self.encoder(x))


def _by_hand(module: VAEModule | Autoencoder) -> bool:
    return all(getattr(part, "has_pullback", False) for part in (module.encoder, module.decoder))
