"""Callbacks that log the latent space of a model while another library trains it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Self

import numpy as np
from skorch.callbacks import Callback

from sklearn_vae.adapters.function_model import FunctionModel
from sklearn_vae.adapters.torch_modules import from_torch
from sklearn_vae.containers import to_host
from sklearn_vae.diagnostics.dimensions import collapse_of, standard_posterior
from sklearn_vae.diagnostics.entropies import entropy_bound
from sklearn_vae.protocol import Array
from sklearn_vae.validation import check_integer


class LatentLogger:
    """Recorder of the ELBO, the KL, active dimensions and the entropy gap during training.

    Call :meth:`update` after each epoch, or use :func:`lightning_logger` or
    :class:`SkorchLatentLogger`, which call it.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples to evaluate. A few hundred are enough.
    adapt : callable, default=from_torch
        Function that maps the module to a :class:`FunctionModel`.
    every : int, default=1
        Number of epochs between evaluations. In between, `update` returns the last values, and
        `history_` is interpolated.
    **options : dict
        Parameters of `adapt`, such as `noise_variance`.

    Attributes
    ----------
    history_ : dict of str to list
        Values of each epoch in nats per sample: "bound", "kl", "active_dims", "entropy_gap",
        "posterior_entropy", "prior_entropy" and "noise_entropy". Entropies are NaN if they are
        unknown. It is the `history` of a :class:`FunctionModel`, and TrainingDisplay plots it.

    See Also
    --------
    lightning_logger : Callback for Lightning.
    SkorchLatentLogger : Callback for skorch.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sklearn_vae.adapters import LatentLogger
    >>> class VAE(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.decoder = torch.nn.Linear(8, 4), torch.nn.Linear(2, 8)
    ...     def encode(self, x):
    ...         return self.encoder(x).chunk(2, dim=-1)
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> logger = LatentLogger(X, noise_variance=1.0)
    >>> logger.update(VAE())["active_dims"]
    2
    """

    def __init__(
        self,
        X: Any,
        adapt: Callable[..., FunctionModel] = from_torch,
        every: int = 1,
        **options: Any,
    ) -> None:
        check_integer("every", every, at_least=1)
        self.X, self.adapt, self.every, self.options = X, adapt, every, options
        self.history_: dict[str, list[Any]] = {}
        self._epoch, self._last = 0, dict[str, Any]()

    def update(self, module: Any, **values: float) -> dict[str, Any]:
        """Evaluate a module at the end of an epoch, and record the values.

        Parameters
        ----------
        module : Module
            Module that is being trained.
        **values : dict of str to float
            Further values of this epoch, such as `learning_rate`. If that falls at the end,
            :func:`diagnose` judges convergence by the epochs before.

        Returns
        -------
        values : dict of str to float
            Values that were recorded.
        """
        is_evaluated = self._epoch % self.every == 0
        if is_evaluated:
            self._last = latent_summary(self.adapt(module, **self.options), self.X)
        for name, value in self._last.items():
            series = self.history_.setdefault(name, [])
            series.append(value)
            if is_evaluated and self._epoch and not isinstance(value, int):
                start = series[-1 - self.every]
                for i in range(1, self.every):
                    series[-1 - self.every + i] = start + (value - start) * i / self.every
        for name, value in values.items():
            self.history_.setdefault(name, []).append(value)
        self._epoch += 1
        return self._last | values


def latent_summary(model: FunctionModel, X: Any) -> dict[str, Any]:
    """Compute the values that :class:`LatentLogger` records.

    Parameters
    ----------
    model : FunctionModel
        Model.
    X : array-like of shape (n_samples, n_features)
        Samples.

    Returns
    -------
    values : dict of str to float
        Values by name, in nats per sample, NaN if they are unknown.

    See Also
    --------
    LatentLogger : Recorder of these values during training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae.adapters import FunctionModel, latent_summary
    >>> model = FunctionModel(
    ...     lambda x: (x[:, :2] - 4.0, 0.0 * x[:, :2]), lambda z: z[:, [0, 1, 0, 1]], noise_variance=1.0
    ... )
    >>> latent_summary(model, load_iris().data)["active_dims"]
    2
    """
    mean, variance = standard_posterior(model, X)
    collapse = collapse_of(mean, variance)
    values: dict[str, Any] = {
        "bound": _bound(model, X),
        "kl": float(collapse.kl_per_dim.sum()),
        "active_dims": len(collapse.active),
    }
    entropies = dict.fromkeys(
        ("entropy_gap", "posterior_entropy", "prior_entropy", "noise_entropy"), np.nan
    )
    if model.limitations_of_entropies is None:
        result = entropy_bound(model, X)
        # In units of z, as in the histories of this library.
        shift = 0.5 * float(np.log(np.broadcast_to(model.prior_variance, mean.shape[1])).sum())
        entropies = {
            "entropy_gap": result.gap.total,
            "posterior_entropy": result.posterior + shift,
            "prior_entropy": result.prior + shift,
            "noise_entropy": result.decoder,
        }
        values["bound"] = result.elbo
    noise: Array | None = getattr(model, "noise_variance_", None)
    return values | entropies | ({} if noise is None else {"noise_variance": noise})


def _learning_rate(optimizers: Sequence[Any]) -> dict[str, float]:
    """Return the learning rate of the first optimizer, by which convergence is judged."""
    return {"learning_rate": optimizers[0].param_groups[0]["lr"]} if optimizers else {}


def _bound(model: FunctionModel, X: Any) -> float:
    """Return the ELBO, or NaN if the density of the prior is unknown."""
    if not model.has_bound:
        return float("nan")
    return float(to_host(model.score_samples(X)).mean())


class SkorchLatentLogger(Callback):
    """Callback of skorch that logs the latent space after each epoch.

    The values are recorded in the history of the net, so that they appear in skorch's table, and in
    `history_`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples to evaluate. A few hundred are enough.
    adapt : callable, default=from_torch
        Function that maps the module of the net to a :class:`FunctionModel`.
    every : int, default=1
        Number of epochs between evaluations.
    **options : dict
        Parameters of `adapt`, such as `noise_variance`.

    Attributes
    ----------
    history_ : dict of str to list
        Values of each epoch, see :class:`LatentLogger`.

    See Also
    --------
    LatentLogger : Recorder for any training loop.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.adapters import SkorchLatentLogger
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> callback = SkorchLatentLogger(X, noise_variance=1.0)
    """

    def __init__(
        self,
        X: Any,
        adapt: Callable[..., FunctionModel] = from_torch,
        every: int = 1,
        **options: Any,
    ) -> None:
        self.X, self.adapt, self.every = X, adapt, every
        for name, value in options.items():  # skorch sets parameters as attributes
            setattr(self, name, value)
        self._names = ("X", "adapt", "every", *options)
        self.initialize()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, also of `adapt`.

        Parameters
        ----------
        deep : bool, default=True
            Ignored.

        Returns
        -------
        params : dict
            Parameters by name.
        """
        return {name: getattr(self, name) for name in self._names}

    def set_params(self, **params: Any) -> Self:
        """Set parameters, and start without the values of an earlier fit.

        Parameters
        ----------
        **params : dict
            Parameters by name. Parameters of `adapt` must have been given to the constructor.

        Returns
        -------
        self : SkorchLatentLogger
            This callback.
        """
        super().set_params(**params)
        return self.initialize()

    def initialize(self) -> Self:
        """Start without the values of an earlier fit.

        Returns
        -------
        self : SkorchLatentLogger
            This callback.
        """
        self.logger_ = LatentLogger(**self.get_params())
        return self

    @property
    def history_(self) -> dict[str, list[Any]]:
        """Values of each epoch."""
        return self.logger_.history_

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Evaluate the module of the net, and record the values.

        Parameters
        ----------
        net : NeuralNet
            Net that is being trained.
        **kwargs : dict
            Ignored.
        """
        rates = _learning_rate([net.optimizer_])
        for name, value in self.logger_.update(net.module_, **rates).items():
            if np.ndim(value) == 0:
                net.history.record(name, value)


def lightning_logger(
    X: Any,
    adapt: Callable[..., FunctionModel] = from_torch,
    every: int = 1,
    prefix: str = "latent/",
    **options: Any,
) -> Any:
    """Create a callback of Lightning that logs the latent space after each epoch.

    The values are logged by the module, so that all loggers of the Trainer and callbacks such as
    EarlyStopping can use them. The attribute `history_` of the callback keeps them, see
    :class:`LatentLogger`. Both `lightning` and `pytorch_lightning` are supported.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples to evaluate. A few hundred are enough.
    adapt : callable, default=from_torch
        Function that maps the LightningModule to a :class:`FunctionModel`.
    every : int, default=1
        Number of epochs between evaluations.
    prefix : str, default="latent/"
        Start of the names of the logged values.
    **options : dict
        Parameters of `adapt`, such as `noise_variance`.

    Returns
    -------
    callback : Callback
        Callback for `Trainer(callbacks=[...])`.

    Raises
    ------
    ImportError
        If Lightning is not installed.

    See Also
    --------
    LatentLogger : Recorder for any training loop.

    Examples
    --------
    >>> from sklearn_vae.adapters import lightning_logger
    >>> callback = lightning_logger(X, noise_variance=0.5)  # doctest: +SKIP
    >>> Trainer(callbacks=[callback]).fit(module, loader)  # doctest: +SKIP
    >>> callback.history_["active_dims"]  # doctest: +SKIP
    [2, 5, 7]
    """
    # A Trainer accepts callbacks of the same package only.
    is_old = "pytorch_lightning" in sys.modules and "lightning" not in sys.modules
    try:
        package = import_module("pytorch_lightning" if is_old else "lightning.pytorch")
    except ImportError as error:
        raise ImportError(
            "lightning_logger requires Lightning. Install it with: pip install lightning"
        ) from error
    logger = LatentLogger(X, adapt, every, **options)

    class LightningLatentLogger(package.Callback):  # type: ignore[name-defined]
        """Callback that logs the latent space."""

        history_ = logger.history_

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            """Evaluate the module, and log the values."""
            rates = _learning_rate(trainer.optimizers)
            for name, value in logger.update(pl_module, **rates).items():
                if np.ndim(value) == 0:
                    pl_module.log(f"{prefix}{name}", float(value))

    return LightningLatentLogger()
