"""Initialization of networks at the pPCA solution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.checks import checked_layer_sizes
from sklearn_vae.deep.choices import values_of_fit, with_values
from sklearn_vae.deep.linear_fits import Array, Samples, fit_ppca
from sklearn_vae.nn.incomplete import IncompleteEncoder
from sklearn_vae.nn.likelihoods import NOISE_MODELS
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, DiagonalPrior
from sklearn_vae.training.distributed import Reducer

# Pickles of models of earlier versions have it here.
from sklearn_vae.training.learning_rate_limit import LearningRateLimit  # noqa: F401

# Slopes c of the activations with f(a) - f(-a) = c a. For these, two units pass a value through a
# layer unchanged.
SLOPES = {"relu": 1.0, "leaky_relu": 1.01, "gelu": 1.0, "silu": 1.0, "softplus": 1.0}


def check_init(vae: Any, hidden_layer_sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless `init` is None, or the networks can represent the linear model."""
    if vae.init is None:
        return
    if not (isinstance(vae.init, str) and vae.init == "ppca"):
        raise ValueError(f"init must be 'auto', None or 'ppca', got {vae.init!r}.")
    check_linear_networks(vae, hidden_layer_sizes)
    noise_model = getattr(vae, "noise_model", "scalar")
    if not NOISE_MODELS[noise_model].is_normal:
        raise ValueError(f"init='ppca' requires Gaussian noise, got noise_model={noise_model!r}.")


def can_start(vae: Any) -> bool:
    """Return whether `init` may be "ppca"."""
    model = with_values(vae, values_of_fit(vae))
    model.init = "ppca"
    try:
        check_init(model, checked_layer_sizes(model.hidden_layer_sizes))
    except ValueError:
        return False
    return True


def check_linear_networks(model: Any, hidden_layer_sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless the networks of a model can represent linear maps of its latents."""
    start = f"init={model.init!r}"
    required = {"encoder": "mlp", "decoder": "mlp", "variational_family": "diagonal"}
    for name, value in required.items():
        if getattr(model, name, value) != value:
            raise ValueError(f"{start} requires {name}={value!r}, got {getattr(model, name)!r}.")
    if not hidden_layer_sizes:
        return
    if model.activation not in SLOPES:
        names = ", ".join(map(repr, SLOPES))
        raise ValueError(
            f"{start} requires an activation f for which f(a) - f(-a) is a multiple of a, "
            f"one of {names}, got activation={model.activation!r}."
        )
    if min(hidden_layer_sizes) < 2 * model.n_components:
        raise ValueError(
            f"{start} requires hidden_layer_sizes of at least {2 * model.n_components}, two "
            f"units per latent dimension, got {model.hidden_layer_sizes!r}."
        )


@torch.no_grad()
def start_at_ppca(
    module: VAEModule, samples: Samples, reducer: Reducer, weights: Tensor | None = None
) -> float:
    """Set the networks and the prior of a module to pPCA, and return max(1, I(x; z)) in nats.

    The loadings maximize the likelihood given the noise variance of the module. If it differs
    between features, they are those of pPCA of X diag(sigma2)^-1/2. Hidden units that are not
    needed keep their incoming weights, but have outgoing weights of 0.
    """
    noise = module.likelihood.initial_log_variance.cpu().double().exp().numpy()
    k = module.posterior.n_components
    root = np.sqrt(np.broadcast_to(noise, samples.shape[1]))
    mean, loadings, _ = fit_ppca(samples, k, reducer, weights, noise_variance=1.0, units=root)
    return set_linear_networks(module, mean, loadings, root, samples)


@torch.no_grad()
def set_linear_networks(
    module: VAEModule, mean: Array, loadings: Array, root: Array, like: Samples
) -> float:
    """Set the networks and the prior to pPCA, and return max(1, I(x; z)) in nats.

    The mean and the loadings are in units of the noise, which `root` converts. Columns of W beyond
    their number are 0.
    """
    k, encoder = module.posterior.n_components, network_of(module.encoder)
    W = np.zeros((len(mean), k))
    W[:, : loadings.shape[1]] = loadings
    tau2 = 1.0 / (1.0 + np.square(W).sum(axis=0))
    W, A, mean = root[:, None] * W, tau2[:, None] * W.T / root, root * mean
    least = math.exp(LOG_VARIANCE_RANGE[0])
    if not (tau2 > least).all():
        raise ValueError(
            f"init='ppca' requires posterior variances above {least:.1e}, got {tau2.min():.1e}. "
            "The noise variance is too small for the data: use a larger noise_variance or "
            "noise_variance_init."
        )
    if isinstance(module.prior, DiagonalPrior) and len(module.decoder.layers) == 1:
        kept = int(W.any(axis=0).sum())
        if kept < k:
            raise ValueError(
                "init='ppca' with prior='learned_variance' and hidden_layer_sizes=() requires "
                f"n_components to be at most the number of directions with more variance than the "
                f"noise, {kept}, got {k}."
            )

    def tensor(array: Array) -> Tensor:
        return torch.as_tensor(array, dtype=like.dtype, device=like.device)

    eye = np.eye(k)
    constant = tensor(np.concatenate([np.zeros(k), np.log(tau2)]))
    set_linear_map(encoder, tensor(A), tensor(-A @ mean), tensor(eye), constant)
    shift = torch.zeros_like(module.decoder.layers[-1].bias)
    shift[: len(mean)] = tensor(mean)
    set_linear_map(module.decoder, tensor(eye), tensor(np.zeros(k)), tensor(W), shift)
    if isinstance(module.prior, DiagonalPrior):
        normalize_columns(module)
    return max(1.0, float(-0.5 * np.log(tau2).sum()))


def set_linear_map(network: MLP, first: Tensor, shift: Tensor, last: Tensor, bias: Tensor) -> None:
    """Set the first outputs to `last @ (first @ x + shift)`, and add `bias` to all outputs."""
    k = len(first)
    layers: Any = network.layers
    for layer in layers[:-1]:
        _set_first_units(layer, torch.cat([first, -first]), torch.cat([shift, -shift]))
        eye = torch.eye(k, dtype=first.dtype, device=first.device)
        first = torch.cat([eye, -eye], dim=1) / SLOPES[network.activation]
        shift = torch.zeros_like(shift)
    layers[-1].weight.zero_()
    layers[-1].bias.copy_(bias)
    layers[-1].bias[: len(last)] += last @ shift
    layers[-1].weight[: len(last), : first.shape[1]] = last @ first


def _set_first_units(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Set the first units of a layer, which depend only on the first units of the layer before."""
    layer.weight[: len(weight)] = 0.0
    layer.weight[: len(weight), : weight.shape[1]] = weight
    layer.bias[: len(bias)] = bias


def normalize_columns(module: VAEModule) -> None:
    """Normalize the columns of the decoder's first matrix and move their lengths to the prior."""
    weight, k = module.decoder.layers[0].weight, module.posterior.n_components
    length = torch.linalg.vector_norm(weight, dim=0)
    length = torch.where(length > 0, length, 1.0)
    weight.div_(length)
    last = network_of(module.encoder).layers[-1]
    last.weight[:k] *= length[:, None]
    last.bias[:k] *= length
    last.bias[k:] += 2.0 * length.log()
    module.prior.log_variance.copy_(2.0 * length.log())


@torch.no_grad()
def ignore_features(module: VAEModule, features: Array) -> None:
    """Make the encoder independent of features, and the decoder return 0 for them.

    Training does not change this if the features are 0 in all samples.
    """
    first, last = network_of(module.encoder).layers[0], module.decoder.layers[-1]
    first.weight[:, features] = 0.0
    last.weight[features] = 0.0
    last.bias[features] = 0.0


def network_of(encoder: Any) -> Any:
    """Return the network of an encoder that may accept missing values."""
    return encoder.network if isinstance(encoder, IncompleteEncoder) else encoder
