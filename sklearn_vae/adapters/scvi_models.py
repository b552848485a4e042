"""Adapter of scvi-tools' SCVI."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sklearn_vae.adapters.function_model import FunctionModel
from sklearn_vae.adapters.torch_modules import InEvaluation
from sklearn_vae.protocol import Array

# Keys of the registry of scvi-tools for the parts of a sample, and names of the arguments of its
# networks, in the order of the covariates.
COUNTS = "X"
COVARIATES = {
    "batch_index": "batch",
    "y": "labels",
    "size_factor": "size_factor",
    "cont_covs": "extra_continuous_covs",
    "cat_covs": "extra_categorical_covs",
}
CATEGORICAL = ("batch_index", "y", "cat_covs")


def from_scvi(model: Any, adata: Any = None, **options: Any) -> tuple[FunctionModel, Array]:
    """Adapt an SCVI model of scvi-tools, and return its samples.

    p(x|z) is the count distribution of the model, usually negative binomial. The ELBO, the KL,
    collapse, active units and mutual information apply. Entropies, the noise variance and the
    comparison with pPCA do not. The covariates of the samples, such as the batch, and the logarithm
    of the library size are the last columns of X.

    Parameters
    ----------
    model : scvi.model.SCVI
        Trained model with the observed library size (the default).
    adata : AnnData, default=None
        Samples. By default those of the model.
    **options : dict
        Further parameters of :class:`FunctionModel`.

    Returns
    -------
    model : FunctionModel
        Model that the functions of :mod:`sklearn_vae.diagnostics` accept.
    X : ndarray of shape (n_samples, n_genes + n_covariates)
        Counts and covariates, in float32.

    Raises
    ------
    TypeError
        If the model is not an SCVI model, or infers the library size.

    See Also
    --------
    FunctionModel : Model with any likelihood.

    Examples
    --------
    >>> from sklearn_vae.adapters import from_scvi
    >>> from sklearn_vae.diagnostics import active_units
    >>> model, X = from_scvi(scvi_model)  # doctest: +SKIP
    >>> active_units(model, X).active  # doctest: +SKIP
    array([0, 1, 3, 4, 7, 8, 9])
    """
    module = getattr(model, "module", None)
    if type(model).__name__ != "SCVI" or module is None:
        raise TypeError(
            f"model must be a trained scvi.model.SCVI, got {type(model).__name__}. Other models of "
            "torch can be adapted by FunctionModel."
        )
    if not (module.use_observed_lib_size or module.use_size_factor_key):
        raise TypeError(
            "model must use the observed library size, got use_observed_lib_size=False, where the "
            "library size is a further latent variable."
        )
    manager = model.adata_manager if adata is None else model.adata_manager.transfer_fields(adata)
    registry = manager.data_registry
    counts = _dense(manager.get_from_registry(COUNTS))
    covariates = {
        name: _dense(manager.get_from_registry(key))
        for name, key in COVARIATES.items()
        if key in registry
    }
    with np.errstate(divide="ignore"):
        covariates["library"] = np.log(counts.sum(axis=1, keepdims=True))
    X = np.hstack([counts, *covariates.values()])
    widths = {name: values.shape[1] for name, values in covariates.items()}
    networks = _Networks(module, widths)
    defaults = {
        "likelihood": "distribution",
        "n_covariates": sum(widths.values()),
        "device": module.device,
        "dtype": "float32",
        "name": "SCVI",
    }
    if history := _history(model):
        defaults["history"] = history
    adapted = FunctionModel(
        InEvaluation(module, networks.encode),
        InEvaluation(module, networks.decode),
        **{**defaults, **options},
    )
    return adapted, X


def _history(model: Any) -> dict[str, Array]:
    """Return the ELBO of training and validation samples, in nats per sample, if recorded."""
    recorded = getattr(model, "history", None) or {}
    keys = {"bound": "elbo_train", "validation_bound": "elbo_validation"}
    series = {
        name: -np.asarray(recorded[key], dtype=np.float64).ravel()
        for name, key in keys.items()
        if key in recorded
    }
    return series if len(set(map(len, series.values()))) == 1 else {}


def _dense(values: Any) -> Array:
    """Return values of the registry as a matrix in float32."""
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return values.reshape(len(values), -1).astype(np.float32)


class _Networks:
    """Encoder and decoder of SCVI as functions of samples, latents and covariates."""

    def __init__(self, module: Any, widths: dict[str, int]) -> None:
        self.module, self.widths = module, widths

    def encode(self, x: Tensor, covariates: Tensor) -> Any:
        """Return q(z|x)."""
        given = self._split(covariates)
        names = ("batch_index", "cont_covs", "cat_covs")
        return self.module.inference(x, **{n: given[n] for n in names if n in given})["qz"]

    def decode(self, z: Tensor, covariates: Tensor) -> Any:
        """Return p(x|z)."""
        given = self._split(covariates)
        if "size_factor" in given:
            given["size_factor"] = torch.log(given["size_factor"])
        z = self.module.z_encoder.z_transformation(z)
        return self.module.generative(z=z, **given)["px"]

    def _split(self, covariates: Tensor) -> dict[str, Tensor]:
        parts = covariates.split(list(self.widths.values()), dim=1)
        given = dict(zip(self.widths, parts, strict=True))
        return {name: v.long() if name in CATEGORICAL else v for name, v in given.items()}
