"""Copies of deep VAEs with some of their latent dimensions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.deep.choices import values_of_fit, with_values
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.training.devices import torch_defaults

# Relative difference up to which networks are the same.
ROUNDING = 1e-4

# Number of samples, and of latent vectors, by which networks are compared.
N_COMPARED = 16


@torch_defaults()
def with_kept_networks(model: Any, kept: Any) -> Any:
    """Return a copy of a fitted VAE whose networks have some of the latent dimensions, or None.

    A new module is built for fewer dimensions. Where the shape of a parameter differs, the entries
    of the kept dimensions are selected. The result is None if this gives another model, because the
    networks depend on the number of dimensions in another way.
    """
    kept = torch.as_tensor(np.asarray(kept, dtype=np.int64))
    pruned, module = copy.copy(model), model.module_
    pruned.n_components = pruned.n_components_ = len(kept)
    vars(pruned).pop("snapshots_", None)
    tensors = module.state_dict()
    dtype = next(iter(tensors.values())).dtype
    # With the values that automatic training chose.
    explicit = with_values(pruned, values_of_fit(model))
    new = explicit._module_factory(dtype)()
    new.to(next(iter(tensors.values())).device)
    outputs = torch.cat([kept, kept + model.n_components_])
    state = {}
    for name, shape in {n: t.shape for n, t in new.state_dict().items()}.items():
        indices = outputs if name.startswith("encoder") else kept
        tensor = _selected(tensors[name], shape, indices.to(tensors[name].device))
        if tensor is None:
            return None
        state[name] = tensor
    new.load_state_dict(state)
    if not _is_same_model(module, new, kept, model.n_features_in_):
        return None
    pruned.net_ = model.net_.copy_at(model.n_iter_, state, module=new)
    for name, value in explicit._training_options().items():
        setattr(pruned.net_, name, value)
    pruned.net_.module = explicit._module_factory(dtype)
    pruned._networks_of_fit = {**model._networks_of_fit, "n_components": len(kept)}
    index = kept.numpy()
    for name in ("kl_per_dim_", "prior_variance_"):
        setattr(pruned, name, getattr(model, name)[index])
    pruned.collapsed_dims_ = np.flatnonzero(np.isin(index, model.collapsed_dims_))
    return pruned


def _selected(tensor: Tensor, shape: torch.Size, indices: Tensor) -> Tensor | None:
    """Select entries along the axes in which a tensor is larger than a shape; None if it is not."""
    for axis, (before, after) in enumerate(zip(tensor.shape, shape, strict=True)):
        if before == after:
            continue
        if after != len(indices) or before <= int(indices.max()):
            return None
        tensor = tensor.index_select(axis, indices)
    return tensor.clone()


@torch.no_grad()
def _is_same_model(module: VAEModule, new: VAEModule, kept: Tensor, n_features: int) -> bool:
    """Compare two modules, of which the second has only some of the dimensions."""
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_COMPARED, n_features, generator=generator).to(parameter)
    z = torch.zeros(N_COMPARED, module.posterior.n_components)
    z[:, kept] = torch.randn(N_COMPARED, len(kept), generator=generator)
    modes = module.training, new.training
    module.eval(), new.eval()
    q, p = module.encode(x), module.decode(z.to(parameter))
    new_q, new_p = new.encode(x), new.decode(z[:, kept].to(parameter))
    module.train(modes[0]), new.train(modes[1])
    kept = kept.to(x.device)
    pairs = [
        (q.mean[:, kept], new_q.mean),
        (q.log_variance[:, kept], new_q.log_variance),
        (p.mean, new_p.mean),
        (p.variance, new_p.variance),
    ]
    return all(torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING) for a, b in pairs)
