"""Adapter of pairs of a model and a guide of Pyro."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sklearn_vae.adapters.function_model import FunctionModel
from sklearn_vae.adapters.outputs import as_normal
from sklearn_vae.containers import to_array, to_host


def from_pyro(
    model: Callable[[Tensor], Any],
    guide: Callable[[Tensor], Any],
    X: Any,
    *,
    latent: str,
    observed: str,
    likelihood: str = "distribution",
    device: Any = "cpu",
    dtype: str = "float32",
    **options: Any,
) -> FunctionModel:
    """Adapt a VAE of Pyro that is a model and a guide.

    Both take a batch x. The guide samples the latent variable from a normal distribution, and the
    model samples it from the prior, and x from p(x|z). Neither may subsample within a plate.

    Parameters
    ----------
    model : callable
        Function `model(x)` of Pyro.
    guide : callable
        Function `guide(x)` of Pyro, trained.
    X : array-like of shape (n_samples, n_features)
        A few samples, which show the prior and the size of x.
    latent : str
        Name of the sample statement of z.
    observed : str
        Name of the sample statement of x.
    likelihood : {"gaussian", "bernoulli", "categorical", "distribution"}, default="distribution"
        Family of p(x|z). The name of a family gives more results than "distribution".
    device : str or torch.device, default="cpu"
        Device of the networks.
    dtype : {"float32", "float64"}, default="float32"
        Data type of the networks.
    **options : dict
        Further parameters of :class:`FunctionModel`.

    Returns
    -------
    FunctionModel
        Model that all functions of :mod:`sklearn_vae.diagnostics` accept.

    Raises
    ------
    ValueError
        If there is no such sample statement, or if the prior depends on the sample.

    See Also
    --------
    FunctionModel : Model from functions.

    Examples
    --------
    >>> from sklearn_vae.adapters import from_pyro
    >>> vae = from_pyro(model, guide, X, latent="z", observed="x")  # doctest: +SKIP
    """
    sites = _Sites(model, guide, latent, observed)
    like = torch.as_tensor(to_host(to_array(X))[:2], device=device, dtype=getattr(torch, dtype))
    sites.shape = tuple(like.shape[1:])
    prior: Any = sites.distribution(model, like, latent)
    normal = as_normal(prior)
    if normal is not None:
        loc, scale = normal.loc, normal.scale
        if not (bool((loc == loc[:1]).all()) and bool((scale == scale[:1]).all())):
            raise ValueError(f"The prior of {latent!r} must be the same for all samples.")
        prior = torch.distributions.Normal(loc[0], scale[0])
    defaults = {"likelihood": likelihood, "prior": prior, "device": device, "dtype": dtype}
    name = getattr(model, "__name__", type(model).__name__)
    return FunctionModel(sites.encode, sites.decode, **{**defaults, "name": name, **options})


class _Sites:
    """Encoder and decoder that read the sample statements of a guide and a model."""

    def __init__(self, model: Any, guide: Any, latent: str, observed: str) -> None:
        self.model, self.guide, self.latent, self.observed = model, guide, latent, observed
        self.shape: tuple[int, ...] = ()

    def encode(self, x: Tensor) -> Any:
        """Return q(z|x)."""
        return self.distribution(self.guide, x, self.latent)

    def decode(self, z: Tensor) -> Any:
        """Return p(x|z). The values of x do not matter."""
        poutine = import_module("pyro.poutine")
        conditioned = poutine.condition(self.model, {self.latent: z})
        return self.distribution(conditioned, z.new_zeros((len(z), *self.shape)), self.observed)

    def distribution(self, function: Any, x: Tensor, name: str) -> Any:
        """Return the distribution of a sample statement."""
        poutine = import_module("pyro.poutine")
        with torch.no_grad():
            trace = poutine.trace(function).get_trace(x)
        if name not in trace.nodes or trace.nodes[name]["type"] != "sample":
            names = [n for n, node in trace.nodes.items() if node["type"] == "sample"]
            raise ValueError(
                f"There is no sample statement {name!r}. There are {', '.join(map(repr, names))}."
            )
        return trace.nodes[name]["fn"]
