"""The deterministic baseline of the VAEs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_vae.deep.base import Array, DeepModel
from sklearn_vae.nn.module import Autoencoder, build_autoencoder
from sklearn_vae.nn.objectives import squared_error
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.monitors import ErrorMonitor


class DeepAutoencoder(DeepModel):
    """Autoencoder with the networks of a VAE and no randomness: its baseline.

    z = nu(x) and mu(z) with networks nu and mu, trained to minimise |x - mu(nu(x))|^2. What it
    reconstructs far worse than PCA with as many components, a VAE of this shape will not either,
    and the latent space is not to blame (Dai, Wang and Wipf, category (v)).

    The networks see rows centred and divided by the root of the average variance of a feature.

    Parameters
    ----------
    n_components : int, default=16
        Dimensions k of z.
    hidden_layer_sizes : int or sequence of int, default=(512, 256)
        Widths of the encoder's hidden layers; the decoder has them in reverse. Empty: linear.
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh".
    encoder : "mlp", "conv" or callable, default="mlp"
        "conv": strided convolutions, for `image_shape`. Else a factory `encoder(input_shape,
        n_outputs)` of a Module from rows (n, d) to (n, k).
    decoder : "mlp", "conv" or callable, default="mlp"
        "conv": the mirror image. Else a factory `decoder(n_components, output_shape)` of a Module
        from (n, k) to (n, d).
    image_shape : tuple (channels, height, width), default=None
        Of the images that flat rows are: what "conv" and factories are given as shape.
    learning_rate : float, default=1e-3
        Of Adam.
    max_epochs : int, default=100
    batch_size : int, default=128
    early_stopping : bool, default=False
        Hold out rows, stop when their score has not risen by `tol` for `n_iter_no_change` epochs,
        and take back the best parameters.
    validation_fraction : float, default=0.1
        Share of rows held out, with `early_stopping`.
    n_iter_no_change : int, default=10
    tol : float, default=1e-4
        As a share of the average variance of a feature.
    device : str or torch.device, default="auto"
        "auto": a CUDA device where there is one, else the CPU.
    precision : {"auto", "float32", "float64", "tf32", "bf16"}, default="auto"
        "auto": that of X on a CPU; float32 on CUDA, with TF32 products in training.
    callbacks : list of skorch callbacks, default=None
        Called as in skorch, with samples as the networks see them: `y` is x itself, and `y_pred`
        its reconstruction. Those that monitor "valid_loss" need `early_stopping`. Copied before
        each fit; one that cannot be copied is used as it is, with a warning. `set_params` takes
        their parameters as `callbacks__EarlyStopping__patience`. An error in `on_train_end` is a
        warning, and the model is kept. :class:`Snapshot` keeps the models of some epochs.
    warm_start : bool, default=False
        Go on from the last fit, its weights, optimiser and units, for `max_epochs` more.
    checkpoint : str or path-like, default=None
        Folder, made where it is missing, in which the training is saved: a fit that was killed
        goes on with the next `fit` of the same data and parameters, and ends bit for bit as if it
        had not been; of a finished one `fit` returns the model. One file for each data and
        parameters (README, "Long trainings").
    checkpoint_every : int, default=10
        Epochs between two writes.
    verbose : int, default=0
        1: a bar over the epochs.
    random_state : int, RandomState instance or None, default=None
        Fixes first weights, held-out rows and order of rows.

    Attributes
    ----------
    history_ : dict of arrays of shape (n_iter_,)
        Of each epoch: "bound", the score averaged over its rows as they were trained on, "beta",
        "seconds", with `early_stopping` "validation_bound", and what callbacks recorded.
    snapshots_ : dict of int to DeepAutoencoder
        Fitted models after the epochs that a :class:`Snapshot` asks for.
    net_ : skorch.NeuralNet
    n_components_ : int
        Dimensions of z.
    module_ : torch.nn.Module
        Of `net_`; sees rows less `mean_`, over `scale_`.
    mean_ : array of shape (d,)
        Mean of the training rows.
    scale_ : float
        Root of the average variance of their features.
    n_iter_ : int
        Epochs trained.
    n_features_in_ : int
    feature_names_in_ : array of shape (d,)
        Where X has them.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 6.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepAutoencoder
    >>> X = load_digits().data
    >>> model = DeepAutoencoder(8, hidden_layer_sizes=(64,), max_epochs=20, random_state=0).fit(X)
    >>> model.transform(X).shape, bool(model.score(X) > -8)
    ((1797, 8), True)
    """

    def __init__(
        self,
        n_components: int = 16,
        *,
        hidden_layer_sizes: int | Sequence[int] = (512, 256),
        activation: str = "relu",
        encoder: str | Callable[..., nn.Module] = "mlp",
        decoder: str | Callable[..., nn.Module] = "mlp",
        image_shape: tuple[int, int, int] | None = None,
        learning_rate: float = 1e-3,
        max_epochs: int = 100,
        batch_size: int = 128,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        device: Any = "auto",
        precision: str = "auto",
        callbacks: list[Any] | None = None,
        warm_start: bool = False,
        checkpoint: Any = None,
        checkpoint_every: int = 10,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.image_shape = image_shape
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.precision = precision
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.verbose = verbose
        self.random_state = random_state

    def score_samples(self, X: Any) -> Array:
        """Minus the mean squared error of each sample's reconstruction; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,)
        """
        errors = self._map_samples(X, lambda x: squared_error(self.module_, x, x)[0])
        return errors.astype(np.float64) * self.scale_**2

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean squared error of the reconstructions; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        """
        return float(self.score_samples(X).mean())

    @property
    def training_history(self) -> dict[str, Array]:
        """`history_` with the numbers of its epochs; its bounds are scores."""
        history = super().training_history
        return {name.replace("bound", "score"): values for name, values in history.items()}

    def _module_factory(self, dtype: torch.dtype) -> Callable[..., Autoencoder]:
        return partial(
            build_autoencoder,
            self._sample_shape,
            int(self.n_components),
            encoder=self.encoder,
            decoder=self.decoder,
            hidden_layer_sizes=self._hidden_layer_sizes(),
            activation=self.activation,
            dtype=dtype,
        )

    def _training_options(self) -> dict[str, Any]:
        return {
            "objective": squared_error,
            "options": {},
            "monitor": ErrorMonitor(self.scale_),
            "noise_shape": (1, 0),
        }

    @torch.no_grad()
    def _set_diagnostics(self, samples: Tensor, reducer: Reducer) -> None:
        """Only check that the reconstruction is finite: an autoencoder has no diagnostics."""
        blocks = self._blocks(len(samples))
        finite = [bool(torch.isfinite(self.module_(samples[block]).sum())) for block in blocks]
        if reducer.sum(not all(finite)):
            raise FloatingPointError("The reconstruction of the training rows is not finite.")

    def _encode(self, x: Tensor) -> Tensor:
        return self.module_.encode(x)

    def _decode(self, z: Tensor) -> Tensor:
        return self.module_.decode(z)
