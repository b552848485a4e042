"""Reading of what encoders and decoders return, with checks of shape, dtype and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions

# Conversion of a second output to a log-variance, by the name of its kind.
SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_variance": lambda spread: spread,
    "variance": torch.log,
    "log_scale": lambda spread: 2.0 * spread,
    "scale": lambda spread: 2.0 * torch.log(spread),
}

# Names of outputs in mappings, such as the `ModelOutput` of pythae.
MEANS = ("mean", "mu", "loc", "embedding", "z_mean", "mean_z", "z_mu", "mu_z")
NAMED_SPREADS = {
    "log_variance": "log_variance",
    "log_var": "log_variance",
    "logvar": "log_variance",
    "log_covariance": "log_variance",
    "z_log_var": "log_variance",
    "logvar_z": "log_variance",
    "variance": "variance",
    "var": "variance",
    "log_scale": "log_scale",
    "log_std": "log_scale",
    "scale": "scale",
    "std": "scale",
    "sigma": "scale",
}
RECONSTRUCTIONS = ("reconstruction", "recon_x", "x_hat", "mean", "mu", "loc", "logits", "probs")


def as_tensor(value: Any, like: Tensor, name: str) -> Tensor:
    """Return an output as a tensor; raise TypeError or ValueError unless it is like the input."""
    if isinstance(value, np.ndarray | np.generic):
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be an array or a tensor, got {type(value).__name__}.")
    if value.device != like.device:
        raise ValueError(
            f"{name} must be on the device of the inputs, {like.device}, got {value.device}. Set "
            "device, or move the networks."
        )
    if value.dtype != like.dtype:
        raise ValueError(
            f"{name} must have the dtype of the inputs, {like.dtype}, got {value.dtype}. Set dtype, "
            "or convert the outputs."
        )
    return value


def check_shape(value: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Return the tensor; raise ValueError unless it has the shape."""
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}.")
    return value


def posterior_parameters(
    encode: Callable[[], Any], spread: str, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Call an encoder; return the mean and log-variance of q(z|x), each (n_samples, n_components).

    It may return a mean and a spread of the kind `spread`, a `Normal`, either of them together with
    a draw z, or a mapping with the usual names.
    """
    output = encode()
    normal = _find_normal(output)
    if normal is not None:
        mean, log_variance = normal.loc, 2.0 * torch.log(normal.scale)
    elif isinstance(output, Mapping):
        mean, value, spread = _named_parameters(output)
        log_variance = _log_variance(as_tensor(value, like, "The spread from encode"), spread)
    else:
        if not isinstance(output, tuple | list) or len(output) not in (2, 3):
            raise TypeError(
                "encode must return the mean and spread of q(z|x), a torch.distributions.Normal, "
                "or a tuple of three that also has a draw of z, got "
                f"{_describe(output)}. If one tensor holds mean and spread, return "
                "h.chunk(2, dim=-1)."
            )
        mean, value = output if len(output) == 2 else _without_draw(output, encode())
        log_variance = _log_variance(as_tensor(value, like, "The spread from encode"), spread)
    mean = as_tensor(mean, like, "The mean from encode")
    if mean.ndim != 2 or len(mean) != len(like):
        raise ValueError(
            f"The mean from encode must have shape ({len(like)}, n_components) for {len(like)} "
            f"samples, got {tuple(mean.shape)}."
        )
    check_shape(log_variance, tuple(mean.shape), "The spread from encode")
    for name, values in {"mean": mean, "log-variance": log_variance}.items():
        bad = ~torch.isfinite(values)
        if name == "log-variance":  # a variance of 0 is a degenerate posterior, not an error
            bad &= values != -torch.inf
        if bad.any():
            raise ValueError(
                f"encode must return finite values, but the {name} of "
                f"{int(bad.any(dim=1).sum())} of {len(bad)} samples is not finite."
            )
    return mean, log_variance


def decoder_parts(output: Any, like: Tensor) -> tuple[Any, ...]:
    """Return what a decoder returns as a distribution, a tensor, or a mean and a spread."""
    if isinstance(output, distributions.Distribution):
        return (output,)
    if isinstance(output, Mapping):
        name = next((name for name in RECONSTRUCTIONS if name in output), None)
        if name is None:
            raise TypeError(
                f"A mapping from decode must have one of {', '.join(RECONSTRUCTIONS)}, got "
                f"{', '.join(map(str, output)) or 'no name'}."
            )
        output = output[name]
    if isinstance(output, tuple | list):
        if len(output) not in (1, 2):
            raise TypeError(
                "decode must return a tensor, a mean and a spread, or a torch distribution, got "
                f"{_describe(output)}."
            )
        return tuple(as_tensor(part, like, "The output of decode") for part in output)
    return (as_tensor(output, like, "The output of decode"),)


def as_normal(value: Any) -> distributions.Normal | None:
    """Return a normal distribution with independent dimensions as a `Normal`, or None."""
    while isinstance(value, distributions.Independent):
        value = value.base_dist
    return value if isinstance(value, distributions.Normal) else None


def _find_normal(output: Any) -> distributions.Normal | None:
    """Return the normal distribution among the outputs of an encoder, or None."""
    parts: Any = [output]
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, tuple | list):
        parts = output
    for part in parts:
        if isinstance(part, distributions.Distribution):
            normal = as_normal(part)
            if normal is None:
                raise TypeError(
                    "A distribution from encode must be a Normal with independent dimensions, got "
                    f"{type(part).__name__}."
                )
            return normal
    return None


def _named_parameters(output: Mapping[str, Any]) -> tuple[Any, Any, str]:
    mean = next((name for name in MEANS if name in output), None)
    spread = next((name for name in NAMED_SPREADS if name in output), None)
    if mean is None or spread is None:
        raise TypeError(
            f"A mapping from encode must have one of {', '.join(MEANS)} and one of "
            f"{', '.join(NAMED_SPREADS)}, got {', '.join(map(str, output)) or 'no name'}."
        )
    return output[mean], output[spread], NAMED_SPREADS[spread]


def _log_variance(spread: Tensor, kind: str) -> Tensor:
    if kind in ("variance", "scale") and bool((spread < 0).any()):
        raise ValueError(
            f"The spread from encode must be >= 0 with spread={kind!r}, got "
            f"{float(spread.min()):.4g}. Set spread to what encode returns: {', '.join(SPREADS)}."
        )
    return SPREADS[kind](spread)


def _without_draw(first: Any, second: Any) -> tuple[Any, Any]:
    """Return mean and spread from two calls of an encoder that also returns a draw of z.

    The draw is the part that differs between the calls. In evaluation mode it may be the mean.
    """
    if not all(isinstance(part, Tensor) for part in (*first, *second)):
        raise TypeError(f"encode must return tensors, got {_describe(first)}.")
    changed = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if not a.equal(b)]
    if not changed:
        changed = [0] if first[0].equal(first[1]) else [2] if first[0].equal(first[2]) else []
    if len(changed) != 1 or changed[0] == 1:
        raise ValueError(
            "encode returned three tensors, but it is unclear which one is a draw of z. Pass a "
            "function that returns only the mean and the spread."
        )
    return (first[1], first[2]) if changed[0] == 0 else (first[0], first[1])


def _describe(output: Any) -> str:
    if isinstance(output, Tensor | np.ndarray):
        return f"a {type(output).__name__} of shape {tuple(output.shape)}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return type(output).__name__
