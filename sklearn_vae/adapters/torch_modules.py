"""Adapters of PyTorch and Lightning modules and of pythae's models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import distributions, nn

from sklearn_vae.adapters.function_model import FunctionModel
from sklearn_vae.adapters.implied_noise import implied_noise_variance
from sklearn_vae.nn.networks import count_multiply_adds

# Common names of the layers that map the outputs of an encoder to mean and log-variance.
MEAN_HEADS = ("fc_mu", "fc_mean", "mu", "fc21")
SPREAD_HEADS = ("fc_logvar", "fc_log_var", "fc_var", "logvar", "log_var", "fc22")


def from_torch(
    module: nn.Module,
    *,
    encode: str | Callable[..., Any] | None = None,
    decode: str | Callable[..., Any] | None = None,
    likelihood: str = "gaussian",
    noise_variance: Any = None,
    **options: Any,
) -> FunctionModel:
    """Adapt a VAE that is a PyTorch or Lightning module.

    The networks are used in evaluation mode, without gradients, on their device and in their dtype.
    The adapter refers to the module, so that it follows further training.

    Parameters
    ----------
    module : Module
        Trained module. `encode(x)` may return mean and log-variance, a `Normal`, or a tuple with a
        draw of z: see :class:`FunctionModel`.
    encode : str or callable, default=None
        Encoder, or the name of a method or submodule. By default `module.encode`, or
        `module.encoder`, followed by the layers `fc_mu` and `fc_logvar` (or `fc_var`) if it has
        them.
    decode : str or callable, default=None
        Decoder, or the name of a method or submodule. By default `module.decode` or
        `module.decoder`.
    likelihood : {"gaussian", "bernoulli", "categorical", "distribution"}, default="gaussian"
        Family of p(x|z).
    noise_variance : float, array of shape (n_features,) or ImpliedNoise, default=None
        Noise variance of a Gaussian p(x|z). None if `decode` returns it.
    **options : dict
        Further parameters of :class:`FunctionModel`.

    Returns
    -------
    FunctionModel
        Model that all functions of :mod:`sklearn_vae.diagnostics` accept.

    Raises
    ------
    TypeError
        If the module has no encoder or decoder.

    See Also
    --------
    implied_noise_variance : Noise variance that a loss implies.
    from_pythae : Adapt a model of pythae.

    Examples
    --------
    >>> import torch
    >>> from sklearn_vae.adapters import from_torch, implied_noise_variance
    >>> class VAE(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.decoder = torch.nn.Linear(8, 4), torch.nn.Linear(2, 8)
    ...     def encode(self, x):
    ...         return self.encoder(x).chunk(2, dim=-1)
    ...     def decode(self, z):
    ...         return self.decoder(z)
    >>> model = from_torch(VAE(), noise_variance=implied_noise_variance(8, error="mean"))
    >>> model.noise_variance_
    4.0
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
    parameter = next(module.parameters(), torch.zeros(()))
    defaults = {
        "device": parameter.device,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "n_layers": _count_layers(module),
        "n_operations": 2.0 * count_multiply_adds(module),
        "name": type(module).__name__,
    }
    model = FunctionModel(
        InEvaluation(module, _find_encoder(module, encode)),
        InEvaluation(module, _find_function(module, decode, "decode", ("decode", "decoder"))),
        likelihood=likelihood,
        noise_variance=noise_variance,
        **{**defaults, **options},
    )
    parts = [getattr(module, name, None) for name in ("encoder", "decoder")]
    if all(isinstance(part, nn.Module) for part in parts):
        model.module = module
    return model


# Models of pythae whose posterior is normal with independent dimensions, by the name of the prior.
PYTHAE_MODELS = {"VAE": "normal", "BetaVAE": "normal", "IWAE": "normal", "VAMP": "mixture"}


def from_pythae(model: Any, **options: Any) -> FunctionModel:
    """Adapt a model of pythae: VAE, BetaVAE, IWAE or VAMP.

    The reconstruction loss "mse" of pythae is half the squared error, summed over features. It
    implies a noise variance of 1, or beta for a BetaVAE. With "bce", p(x|z) is Bernoulli, and beta
    is the `kl_weight`. The prior of VAMP is a mixture of normal distributions.

    Parameters
    ----------
    model : pythae model
        Trained model. Samples in X are flattened.
    **options : dict
        Further parameters of :class:`FunctionModel`.

    Returns
    -------
    FunctionModel
        Model that all functions of :mod:`sklearn_vae.diagnostics` accept.

    Raises
    ------
    TypeError
        If the model has another class.

    See Also
    --------
    from_torch : Adapt a PyTorch module.

    Examples
    --------
    >>> from sklearn_vae.adapters import from_pythae
    >>> from pythae.models import VAE, VAEConfig  # doctest: +SKIP
    >>> vae = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=2))  # doctest: +SKIP
    >>> from_pythae(vae).noise_variance_  # doctest: +SKIP
    1.0
    """
    kind = getattr(model, "model_name", type(model).__name__)
    if not isinstance(model, nn.Module) or kind not in PYTHAE_MODELS:
        raise TypeError(
            f"model must be one of the pythae models {', '.join(PYTHAE_MODELS)}, got {kind}. For a "
            "model whose posterior is normal with independent dimensions, use from_torch with "
            "encode='encoder' and decode='decoder'."
        )
    config: Any = model.model_config
    shape = tuple(config.input_dim)
    beta = float(getattr(model, "beta", 1.0))
    defaults: dict[str, Any] = {"input_shape": shape, "name": kind}
    if len(shape) == 3 and shape[0] in (1, 3):
        defaults["image_shape"] = shape
    if config.reconstruction_loss == "bce":
        defaults |= {"likelihood": "bernoulli", "decoder_output": "mean", "kl_weight": beta}
    else:
        defaults["noise_variance"] = implied_noise_variance(
            int(np.prod(shape)), error="sum", error_weight=0.5, kl_weight=beta
        )
    if PYTHAE_MODELS[kind] == "mixture":
        defaults["prior"] = _vamp_prior(model)
    if kind == "IWAE":
        remark = "It was trained on the importance-weighted bound, whose maximum is not the ELBO's."
        defaults["remarks"] = [remark]
    return from_torch(model, encode="encoder", decode="decoder", **{**defaults, **options})


class InEvaluation:
    """Function of a module that is called in evaluation mode."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self.module, self.function = module, function

    def __call__(self, *arguments: Any) -> Any:
        training = [part for part in self.module.modules() if part.training]
        self.module.eval()
        try:
            with torch.no_grad():
                return self.function(*arguments)
        finally:
            for part in training:
                part.training = True


class _WithHeads:
    """Encoder followed by one layer for the mean and one for the spread."""

    def __init__(self, encoder: Any, mean: Any, spread: Any) -> None:
        self.encoder, self.mean, self.spread = encoder, mean, spread

    def __call__(self, *arguments: Any) -> tuple[Any, Any]:
        h = self.encoder(*arguments)
        return self.mean(h), self.spread(h)


def _find_encoder(module: nn.Module, encode: Any) -> Callable[..., Any]:
    function = _find_function(module, encode, "encode", ("encode", "encoder"))
    if encode is not None or callable(getattr(module, "encode", None)):
        return function
    heads = [
        next(
            (part for name in names if isinstance(part := getattr(module, name, None), nn.Module)),
            None,
        )
        for names in (MEAN_HEADS, SPREAD_HEADS)
    ]
    return function if None in heads else _WithHeads(function, *heads)


def _find_function(
    module: nn.Module, function: Any, parameter: str, names: Sequence[str]
) -> Callable[..., Any]:
    if callable(function):
        return function
    names = names if function is None else (function,)
    for name in names:
        candidate = getattr(module, name, None)
        if callable(candidate):
            return candidate
    raise TypeError(
        f"{type(module).__name__} has no {' or '.join(map(str, names))}. Pass a function of a batch "
        f"as {parameter}."
    )


def _count_layers(module: nn.Module) -> int:
    """Return the number of weight layers of the encoder or decoder, or half of all."""

    def count(part: Any) -> int:
        return sum(p.ndim >= 2 for p in part.parameters())

    parts = [getattr(module, name, None) for name in ("encoder", "decoder")]
    if all(isinstance(part, nn.Module) for part in parts):
        return max(map(count, parts))
    # The layers that output mean and log-variance are one layer of the encoder.
    has_heads = any(isinstance(getattr(module, name, None), nn.Module) for name in SPREAD_HEADS)
    return (count(module) - has_heads + 1) // 2


def _vamp_prior(model: Any) -> Any:
    """Return the prior of VAMP, a mixture of the posteriors of its pseudo-inputs."""
    n = model.number_components
    with torch.no_grad():
        device = next(model.parameters()).device
        inputs = model.pseudo_inputs(model.idle_input.to(device))
        output = model.encoder(inputs.reshape(n, *model.model_config.input_dim))
        scale = torch.exp(0.5 * output.log_covariance)
    return distributions.MixtureSameFamily(
        distributions.Categorical(logits=torch.zeros(n, device=device)),
        distributions.Independent(distributions.Normal(output.embedding, scale), 1),
    )
