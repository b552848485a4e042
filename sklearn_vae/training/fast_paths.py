"""Training steps with explicit gradients.

On a CPU, the bookkeeping of autograd takes longer than the arithmetic of small networks. The functions
here give the same numbers without it. The formulas cover MLPs with a diagonal posterior, the ELBO of
tables, and autoencoders of MLPs, without weights of the samples; autograd does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_vae.nn.activations import ACTIVATIONS
from sklearn_vae.nn.distributions import LOG_2PI, weighted_sum
from sklearn_vae.nn.incomplete import IncompleteEncoder
from sklearn_vae.nn.likelihoods import (
    BernoulliLikelihood,
    DiagonalGaussianLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_vae.nn.module import Autoencoder, VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.objectives import Objective, elbo, iwae, squared_error
from sklearn_vae.nn.posteriors import (
    LOG_VARIANCE_RANGE,
    DiagonalPosterior,
    DiagonalPrior,
    StandardPrior,
)
from sklearn_vae.nn.tables import TableModule
from sklearn_vae.training.iwae_paths import importance_gradients
from sklearn_vae.training.table_paths import TableGradients, is_table_without_changes

# (x, noise, beta) -> sums of reconstruction and KL over the samples, and outputs of the encoder. With
# weights of the samples as a fourth argument, the sums and the mean objective are weighted.
Step: TypeAlias = Callable[..., tuple[Any, Any, Any]]

# Forward passes return a value and a function that propagates the gradient backward.
Forward: TypeAlias = Callable[..., tuple[Any, Callable[..., Any]]]

# Hooks change the results of a module or its gradients. Torch has no public names for them, so
# autograd is used if these attributes do not exist.
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def training_step(
    module: VAEModule | Autoencoder,
    objective: Objective,
    options: dict[str, Any],
    update: Callable[[Tensor], None],
    precision: str | None = None,
    gradients: Step | None = None,
) -> Step:
    """Return a function that takes a training step on a batch.

    `options` are keyword arguments of the objective. `update` is called with the batch and without
    autograd, and moves the parameters along the gradients of minus the mean objective. With "bf16"
    the networks compute in bfloat16, which is for CUDA. `gradients` is a function that sets the
    gradients, by default that of :func:`gradients_by_formula`.
    """
    by_formula = gradients or gradients_by_formula(module, objective, options)
    by_autograd = partial(_set_gradients_by_autograd, module, objective, options, precision)
    unweighted = by_formula or by_autograd

    def step(x: Tensor, noise: Tensor, beta: Any, *weights: Tensor) -> tuple[Any, Any, Any]:
        set_gradients = by_autograd if weights else unweighted
        terms = set_gradients(x, noise, beta, *weights)
        with torch.no_grad():
            update(x)
        return terms

    return step


@torch.enable_grad()
def _set_gradients_by_autograd(
    module: VAEModule | Autoencoder,
    objective: Objective,
    options: dict[str, Any],
    precision: str | None,
    x: Tensor,
    noise: Tensor,
    beta: float | Tensor,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs: list[Tensor] = []
    if weights is not None:
        options = {**options, "weights": weights}
    module.zero_grad()
    # A cache would keep weights in bfloat16, but they change with every step.
    autocast = torch.autocast("cuda", torch.bfloat16, precision == "bf16", cache_enabled=False)
    with autocast, module.encoder.register_forward_hook(lambda *call: outputs.append(call[-1])):
        bound, reconstruction, kl = objective(module, x, noise, beta, **options)
    if bound.requires_grad:  # False if all parameters are frozen
        (bound if weights is None else weights * bound).mean().neg().backward()
    reconstruction, kl = (weighted_sum(part.detach(), weights) for part in (reconstruction, kl))
    return reconstruction, kl, outputs[-1].detach()


def gradients_by_formula(
    module: nn.Module, objective: Objective, options: dict[str, Any]
) -> Step | None:
    """Return a function that sets the gradients of minus the mean objective without autograd.

    Return None if there is no formula for the module or the objective, if an option of the
    objective is not 0, or if the module is not on a CPU.
    """
    supported = objective in FORMULAS and _is_supported(module) and not any(options.values())
    if not supported or next(module.parameters()).device.type != "cpu":
        return None
    return FORMULAS[objective](module)


def is_plain_mlp(network: nn.Module) -> bool:
    """Return whether a network is an unmodified :class:`MLP` that shares no parameters.

    Subclasses, hooks, parametrized weights (such as weight_norm) and shared weights are excluded.
    """
    if type(network) is not MLP or type(network.layers) is not nn.ModuleList:
        return False
    layers: Any = list(network.layers)
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
        return False
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    plain = all(type(p) is nn.Parameter and not _has_hooks(p) for p in parameters)
    distinct = len({id(p) for p in parameters}) == len(parameters)
    return plain and distinct and not any(map(_is_modified, network.modules()))


def may_draw(module: nn.Module) -> bool:
    """Return whether networks may draw from torch's global generators, as dropout does."""
    return not all(map(is_plain_mlp, _networks(module)))


def _networks(module: Any) -> tuple[Any, Any]:
    """Return the networks of encoder and decoder."""
    encoder = module.encoder
    is_incomplete = isinstance(encoder, IncompleteEncoder) and not _is_modified(encoder)
    return encoder.network if is_incomplete else encoder, module.decoder


def _is_modified(part: nn.Module) -> bool:
    """Return whether an instance may behave differently from its class."""
    return "forward" in vars(part) or any(getattr(part, name, True) for name in MODULE_HOOKS)


def _has_hooks(parameter: Tensor) -> bool:
    return bool(getattr(parameter, "_backward_hooks", True))


def _is_supported(module: nn.Module) -> bool:
    """Return whether the formulas apply to all parts of a module."""
    if type(module) is VAEModule:
        parts = [module, module.posterior, module.likelihood, module.prior]
        kinds = (DiagonalPosterior, *LIKELIHOODS, StandardPrior, DiagonalPrior)
    elif type(module) is Autoencoder or is_table_without_changes(module, _is_modified):
        parts, kinds = [module], ()
    else:
        return False
    networks: Any = module.encoder, module.decoder
    if isinstance(module, TableModule):
        networks = _networks(module)
    if not all(type(part) in kinds for part in parts[1:]) or any(map(_is_modified, parts)):
        return False
    shared = {id(p) for p in networks[0].parameters()} & {id(p) for p in networks[1].parameters()}
    return not shared and all(map(is_plain_mlp, networks))


def _elbo(module: VAEModule) -> Step:
    """Return a function that sets the gradients of -mean(elbo)."""
    if isinstance(module, TableModule):
        return TableGradients(module, *map(_network, _networks(module)))
    encode, decode = _network(module.encoder), _network(module.decoder)
    draw = _posterior(module.posterior, module.prior)
    log_density = LIKELIHOODS[type(module.likelihood)](module.likelihood)

    @torch.no_grad()
    def set_gradients(x: Tensor, noise: Tensor, beta: float) -> tuple[float, float, Tensor]:
        n, n_draws = len(x), len(noise)
        h, backward_encoder = encode(x)
        (z, kl), backward_posterior = draw(h, noise)
        outputs, backward_decoder = decode(z)
        reconstruction, backward_likelihood = log_density(outputs, x)
        gradient = backward_decoder(backward_likelihood(-1.0 / (n_draws * n)))
        backward_encoder(backward_posterior(gradient, beta / n), to_input=False)
        return reconstruction / n_draws, kl, h

    return set_gradients


def _iwae(module: VAEModule) -> Step | None:
    """Return a function that sets the gradients of -mean(iwae); None for tables."""
    if isinstance(module, TableModule):
        return None
    return importance_gradients(module, _network(module.encoder), _network(module.decoder))


def _squared_error(module: Autoencoder) -> Step:
    """Return a function that sets the gradients of -mean(squared_error); its h is z."""
    encode, decode = _network(module.encoder), _network(module.decoder)

    @torch.no_grad()
    def set_gradients(x: Tensor, noise: Tensor, beta: float) -> tuple[float, float, Tensor]:
        z, backward_encoder = encode(x)
        outputs, backward_decoder = decode(z)
        residual = outputs.sub_(x)
        flat = residual.view(-1)
        error = torch.dot(flat, flat).item() / x.shape[1]
        gradient = backward_decoder(residual.mul_(2.0 / residual.numel()))
        backward_encoder(gradient, to_input=False)
        return -error, 0.0, z

    return set_gradients


def _network(mlp: MLP) -> Forward:
    """Return the forward pass of a network for x of shape (n, n_inputs).

    `backward` overwrites the gradient of the outputs, sets the gradients of all parameters and, if
    `to_input`, returns the gradient of x.
    """
    # Lists avoid torch's look-up of parameters by name, which takes time in small networks.
    modules: Any = mlp.layers
    layers = [(layer.weight, layer.bias) for layer in modules]
    activation = IN_PLACE.get(mlp.activation) or ACTIVATIONS[mlp.activation]
    derivative = DERIVATIVES[mlp.activation]

    def forward(x: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        inputs, outputs = [], [x]
        for weight, bias in layers[:-1]:
            y = torch.addmm(bias, outputs[-1], weight.t())
            inputs.append(y)
            outputs.append(activation(y))

        def backward(gradient: Tensor, to_input: bool = True) -> Tensor:
            for i in range(len(layers) - 1, -1, -1):
                weight, bias = layers[i]
                weight.grad = torch.mm(gradient.t(), outputs[i])
                bias.grad = gradient.sum(0)
                if i or to_input:
                    gradient = torch.mm(gradient, weight)
                if i:
                    gradient = derivative(gradient, inputs[i - 1], outputs[i])
            return gradient

        weight, bias = layers[-1]
        return torch.addmm(bias, outputs[-1], weight.t()), backward

    return forward


def _posterior(posterior: DiagonalPosterior, prior: StandardPrior | DiagonalPrior) -> Forward:
    """Return a function that draws z, (S n, k), given h, (n, 2 k), and sums KL(q(z|x) || p(z)).

    It clamps the log-variances in h in place. `backward` maps the gradients of z and of the sum to
    the gradient of h, and sets the gradient of the prior's log-variances.
    """
    k = posterior.n_components
    learned = prior.log_variance if isinstance(prior, DiagonalPrior) else None

    def forward(h: Tensor, noise: Tensor) -> tuple[tuple[Tensor, float], Callable[..., Tensor]]:
        mean, log_variance = h.split(k, dim=1)
        variance = torch.exp(log_variance.clamp_(*LOG_VARIANCE_RANGE))
        std = torch.sqrt(variance)
        z = torch.addcmul(mean, std, noise).view(-1, k)
        if learned is None:
            kl = (variance - log_variance).addcmul_(mean, mean).sum().item()
        else:
            precision = torch.exp(-learned)
            squares = torch.addcmul(variance, mean, mean).sum(0).mul_(precision)
            kl = (squares + len(h) * learned - log_variance.sum(0)).sum().item()

        def backward(z_gradient: Tensor, kl_gradient: float) -> Tensor:
            gradients = z_gradient.view(noise.shape)
            mean_part, std_part = (
                t[0] if len(t) == 1 else t.sum(0) for t in (gradients, gradients * noise)
            )
            gradient = torch.empty_like(h)
            mean_gradient, log_variance_gradient = gradient.split(k, dim=1)
            std_part.mul_(std)
            if learned is None:
                torch.add(mean_part, mean, alpha=kl_gradient, out=mean_gradient)
                std_part.add_(variance, alpha=kl_gradient)
            else:
                torch.addcmul(mean_part, mean, precision, value=kl_gradient, out=mean_gradient)
                std_part.addcmul_(variance, precision, value=kl_gradient)
                learned.grad = (len(h) - squares).mul_(0.5 * kl_gradient)
            torch.mul(std_part.sub_(kl_gradient), 0.5, out=log_variance_gradient)
            return gradient

        return (z, 0.5 * (kl - mean.numel())), backward

    return forward


# The forward pass of a likelihood sums log p(x|z) over draws and samples and overwrites the decoder
# outputs, of shape (S n, n_inputs). `backward` maps the gradient of the sum to the gradient of the
# outputs, and sets the gradient of the likelihood's parameter.


def _gaussian(likelihood: GaussianLikelihood) -> Forward:
    parameter = likelihood.log_variance
    log_variance = parameter.detach()
    set_gradient = parameter.requires_grad

    def forward(outputs: Tensor, x: Tensor) -> tuple[float, Callable[[float], Tensor]]:
        n, d = outputs.shape
        residual = outputs.view(-1, *x.shape).sub_(x).view(n, d)
        precision: Any
        if log_variance.ndim:
            precision = torch.exp(-log_variance)
            scaled = torch.linalg.vecdot(residual, residual, dim=0).mul_(precision)
            log_prob = -0.5 * (scaled.sum().item() + n * (log_variance.sum().item() + d * LOG_2PI))
        else:
            # Arithmetic with Python floats is faster than torch kernels for single numbers.
            value = log_variance.item()
            precision, flat = math.exp(-value), residual.view(-1)
            scaled = torch.dot(flat, flat).item() * precision
            log_prob = -0.5 * (scaled + n * d * (value + LOG_2PI))

        def backward(gradient: float) -> Tensor:
            if set_gradient:
                count = n * d // log_variance.numel()
                own = (scaled - count) * (0.5 * gradient)
                parameter.grad = torch.as_tensor(own, dtype=log_variance.dtype)
            return residual.mul_(precision * -gradient)

        return log_prob, backward

    return forward


def _heteroscedastic(likelihood: HeteroscedasticLikelihood) -> Forward:
    offset, limits, d = likelihood.offset, likelihood.limits, likelihood.n_features

    def forward(outputs: Tensor, x: Tensor) -> tuple[float, Callable[[float], Tensor]]:
        residual, log_variance = outputs.split(d, dim=1)
        outputs.view(-1, len(x), 2 * d)[..., :d].sub_(x)
        precision = torch.exp(-log_variance.add_(offset).clamp_(*limits))
        scaled = residual * precision
        squares = residual * scaled
        terms = squares.sum().item() + log_variance.sum().item()

        def backward(gradient: float) -> Tensor:
            torch.mul(scaled, -gradient, out=residual)
            torch.mul(squares.sub_(1.0), 0.5 * gradient, out=log_variance)
            return outputs

        return -0.5 * (terms + squares.numel() * LOG_2PI), backward

    return forward


def _bernoulli(likelihood: BernoulliLikelihood) -> Forward:
    def forward(outputs: Tensor, x: Tensor) -> tuple[float, Callable[[float], Tensor]]:
        logits = outputs.view(-1, *x.shape)
        # x a and softplus(a) can be far larger than their difference, so they are not summed
        # separately.
        log_prob = -functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="sum"
        ).item()

        def backward(gradient: float) -> Tensor:
            logits.sigmoid_().sub_(x).mul_(-gradient)
            return outputs

        return log_prob, backward

    return forward


LIKELIHOODS: dict[type[nn.Module], Callable[..., Forward]] = {
    GaussianLikelihood: _gaussian,
    DiagonalGaussianLikelihood: _gaussian,
    HeteroscedasticLikelihood: _heteroscedastic,
    BernoulliLikelihood: _bernoulli,
}
FORMULAS: dict[Objective, Callable[..., Step | None]] = {
    elbo: _elbo,
    iwae: _iwae,
    squared_error: _squared_error,
}

# Activations whose derivative only needs the output, so the input can be overwritten.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}

aten = torch.ops.aten

# (gradient of the output, input, output) -> gradient of the input; the first may be overwritten.
DERIVATIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": lambda g, x, y: aten.threshold_backward.grad_input(g, y, 0, grad_input=g),
    "leaky_relu": lambda g, x, y: aten.leaky_relu_backward(g, x, 0.01, False),
    "elu": lambda g, x, y: aten.elu_backward(g, 1.0, 1.0, 1.0, False, x),
    "gelu": lambda g, x, y: aten.gelu_backward(g, x),
    "silu": lambda g, x, y: aten.silu_backward(g, x),
    "softplus": lambda g, x, y: aten.softplus_backward(g, x, 1.0, 20.0),
    "sigmoid": lambda g, x, y: aten.sigmoid_backward(g, y),
    "tanh": lambda g, x, y: aten.tanh_backward(g, y),
}
