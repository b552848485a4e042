"""Deterministic autoencoder, the baseline of the VAEs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_vae.deep.base import Array, DeepModel
from sklearn_vae.deep.linear_bounds import pca_fit
from sklearn_vae.deep.linear_starts import start_at_pca
from sklearn_vae.deep.objective_terms import mean_objective
from sklearn_vae.deep.outcome import Bounds
from sklearn_vae.deep.ppca_start import check_linear_networks
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.gaussian.arrays import mean_of_samples
from sklearn_vae.nn.module import Autoencoder, build_autoencoder
from sklearn_vae.nn.objectives import squared_error
from sklearn_vae.training.learning_rate_limit import LearningRateLimit
from sklearn_vae.training.monitors import ErrorMonitor


class DeepAutoencoder(DeepModel):
    """Deterministic autoencoder, a baseline for VAEs with the same networks.

    The encoder z = nu(x) and the decoder mu(z) are trained to minimize |x - mu(nu(x))|^2. If it
    reconstructs samples far worse than PCA with the same number of components, the networks are at
    fault, and a VAE with them will fail for the same reason (Dai, Wang and Wipf, category (v)).

    The networks see centered samples divided by the square root of the average feature variance.

    Training is automatic if `max_epochs="auto"`. The networks start at PCA, are trained with all
    "auto" parameters chosen from the size of the data, and their parameters are averaged over
    epochs. The number of epochs is the one that is best for validation samples, on up to three
    folds. If its gain over the linear model is not above its standard error, or depends on few
    samples, the model is the linear one, fitted to all samples. It is so as well if training worsens
    the squared error of the training samples. `is_linear_` tells this. Training is not automatic on a warm
    start, with `processes`, with `early_stopping`, or unless `init` is "auto" or "pca". It requires
    "mlp" networks, and an activation and widths that
    `init="pca"` allows. Otherwise each "auto" has a fixed value.

    A fit whose `max_epochs` is given issues one `ConvergenceWarning`, with the number and a remedy, if
    it has trained for at least 20 epochs and its squared error exceeds that of PCA by 2 % of what PCA
    gains over the mean, or if twice the epochs would gain this share. With early stopping the validation
    samples are compared, and the warning also tells whether the model overfits.

    Parameters
    ----------
    n_components : int, default=16
        Number of latent dimensions.
    hidden_layer_sizes : int or sequence of int or "auto", default="auto"
        Number of units in each hidden layer of the encoder. The decoder uses the reverse order.
        With an empty sequence both networks are linear. "auto" is one layer of 64 units, 256 from
        5000 samples on, and at least 2 * n_components. Without automatic training it is (512, 256).
    activation : str, default="auto"
        Activation function of the hidden layers: "relu", "leaky_relu", "elu", "gelu", "silu",
        "softplus", "sigmoid" or "tanh". "auto" is "silu". Without automatic training it is "relu".
    encoder : {"mlp", "conv"} or callable, default="mlp"
        Encoder network. "conv" uses strided convolutions and requires `image_shape`. A callable
        `encoder(input_shape, n_outputs)` must return a module that maps samples to tensors of
        shape (n_samples, n_outputs).
    decoder : {"mlp", "conv"} or callable, default="mlp"
        Decoder network. "conv" mirrors the convolutional encoder. A callable
        `decoder(n_components, output_shape)` must return a module that maps latent vectors to
        tensors of shape (n_samples, n_features).
    image_shape : tuple (channels, height, width), default=None
        Shape of the images if each sample is a flattened image.
    init : {"auto", None, "pca"}, default="auto"
        Initialization of the networks, which is random if None. "auto" is "pca" in automatic
        training, and None otherwise. "pca" starts at PCA. It requires "mlp" networks with at least
        2 * n_components units per hidden layer, and the activation "relu", "leaky_relu", "gelu",
        "silu" or "softplus".
    learning_rate : float or "auto", default="auto"
        Learning rate of the Adam optimizer. "auto" is 1e-2, and 2e-3 from 5000 samples on. Without
        automatic training it is 1e-3.
    max_epochs : int or "auto", default="auto"
        Maximum number of epochs. "auto" trains automatically, see above. Where that does not apply
        it is 100.
    batch_size : int or "auto", default="auto"
        Maximum number of samples per batch. An epoch has as few batches as possible, whose sizes
        differ by at most 1. "auto" is about a quarter of the samples, between 64 and 128. Without
        automatic training it is 128.
    early_stopping : bool, default=False
        Whether to hold out validation samples and stop when the score on them has not
        improved by `tol` for `n_iter_no_change` epochs. The best parameters are then
        restored.
    validation_fraction : float or "auto", default="auto"
        Fraction of the samples that early stopping, or each fold of automatic training, holds out.
        "auto" is 0.2. Without automatic training it is 0.1.
    n_iter_no_change : int, default=10
        Number of epochs without improvement after which early stopping ends training.
    tol : float, default=1e-4
        Smallest change that early stopping counts as an improvement, relative to the average
        feature variance.
    device : str or torch.device, default="auto"
        Device for the networks. "auto" selects CUDA if available and the CPU otherwise.
    precision : {"auto", "float32", "float64", "tf32", "bf16"}, default="auto"
        Floating-point precision. "auto" uses the precision of X on the CPU, and float32 with TF32
        matrix products on CUDA. "tf32" needs CUDA, and "bf16" CUDA or a CPU with AMX or AVX512-BF16,
        without which float32 is used with a warning. Both apply to matrix products in training only,
        and keep the weights in float32.
    callbacks : list of skorch callbacks, default=None
        Callbacks for training. They are copied before each fit and see samples in the units of
        the networks: `y` is x, and `y_pred` its reconstruction. Callbacks that monitor
        "valid_loss" require `early_stopping`. Use :class:`Snapshot` to keep the models of
        selected epochs.
    warm_start : bool, default=False
        Whether to continue from the result of the last fit, for `max_epochs` more epochs.
    checkpoint : str or path-like, default=None
        Folder in which the state of training is saved. If training is interrupted, the next `fit`
        with the same data and parameters resumes it, and gives the same result as without the
        interruption.
    checkpoint_every : int, default=10
        Number of epochs between checkpoints.
    verbose : int, default=0
        Verbosity level. With 1 or more a progress bar is shown.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the initial weights, the validation split and the order of samples.
        The global generators of torch are not changed.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of the training samples.
    scale_ : float
        Square root of the average feature variance.
    history_ : dict of ndarray of shape (n_iter_,)
        Values recorded in each epoch: "bound" (the score, averaged over the training samples
        during the epoch), "beta", "seconds", "validation_bound" with `early_stopping`, and values
        recorded by callbacks.
    snapshots_ : dict of int to DeepAutoencoder
        Fitted models by epoch, if `callbacks` include :class:`Snapshot`.
    net_ : skorch.NeuralNet
        Net that trains and holds the module.
    module_ : torch.nn.Module
        Trained module, which takes (X - `mean_`) / `scale_`.
    n_components_ : int
        Number of latent dimensions.
    n_iter_ : int
        Number of epochs trained, 0 if the model is the linear one.
    is_linear_ : bool
        Whether automatic training kept the linear model.
    hidden_layer_sizes_, activation_, init_, learning_rate_, batch_size_, max_epochs_, \
    validation_fraction_ : int, float, str or tuple
        Values that this fit used. `max_epochs_` is the limit of the search for automatic training.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    DeepGaussianVAE : VAE with the same networks.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 6.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepAutoencoder
    >>> X = load_digits().data
    >>> model = DeepAutoencoder(8, hidden_layer_sizes=(64,), max_epochs=5, random_state=0).fit(X)
    >>> model.transform(X).shape
    (1797, 8)
    >>> bool(model.score(X) > -X.var(axis=0).mean())
    True
    """

    def __init__(
        self,
        n_components: int = 16,
        *,
        hidden_layer_sizes: int | Sequence[int] | str = "auto",
        activation: str = "auto",
        encoder: str | Callable[..., nn.Module] = "mlp",
        decoder: str | Callable[..., nn.Module] = "mlp",
        image_shape: tuple[int, int, int] | None = None,
        init: str | None = "auto",
        learning_rate: float | str = "auto",
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        early_stopping: bool = False,
        validation_fraction: float | str = "auto",
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
        self.init = init
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
        """Compute the negative mean squared reconstruction error of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Negative errors, averaged over the features. Higher is better.
        """
        errors = self._map_samples(X, lambda module, x: squared_error(module, x, x)[0])
        return errors.astype(np.float64) * self.scale_**2

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Compute the negative mean squared reconstruction error.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the average, >= 0 and not all 0.

        Returns
        -------
        score : float
            Negative error, averaged over features and samples. Higher is better.
        """
        return mean_of_samples(self.score_samples(X), sample_weight)

    @property
    def training_history(self) -> dict[str, Array]:
        """`history_` with epoch numbers, and "score" instead of "bound"."""
        history = super().training_history
        return {name.replace("bound", "score"): values for name, values in history.items()}

    _has_nats = False
    _linear_init = "pca"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.init is None:
            return
        if not (isinstance(self.init, str) and self.init == "pca"):
            raise ValueError(f"init must be 'auto', None or 'pca', got {self.init!r}.")
        check_linear_networks(self, self._hidden_layer_sizes())

    def _can_start_linear(self) -> bool:
        try:
            check_linear_networks(self, self._hidden_layer_sizes())
        except ValueError:
            return False
        return True

    def _set_start(self, data: TrainingData) -> None:
        if self.init == "pca":
            k = int(self.n_components)
            start_at_pca(self.module_, data.train, k, data.reducer, data.weights)

    def _training_callbacks(self) -> list[Any]:
        limit = LearningRateLimit(math.inf, falls=not self._starts_linear)
        return [*super()._training_callbacks(), *([limit] if self.init == "pca" else [])]

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
    def _set_diagnostics(self, data: TrainingData) -> None:
        """Check that the reconstruction is finite; there are no diagnostics to set."""
        blocks = self._blocks(len(data.train))
        finite = [bool(torch.isfinite(self.module_(data.train[block]).sum())) for block in blocks]
        if data.reducer.sum(not all(finite)):
            raise FloatingPointError("The reconstruction of the training samples is not finite.")

    def _bounds_of_fit(self, data: TrainingData, with_linear: bool) -> Bounds:
        samples, weights, baseline = data.train, data.weights, -float(self.scale_**2)
        if not with_linear:
            return Bounds(self.scale_**2 * mean_objective(self.net_, samples, weights), baseline)
        if data.valid is not None:
            samples, weights = data.valid, data.valid_weights
        bound = self.scale_**2 * mean_objective(self.net_, samples, weights)
        linear = pca_fit(data, int(self.n_components), self.scale_)
        return Bounds(bound, baseline, linear, validated=data.valid is not None)

    def _latents(self, module: Any, x: Tensor) -> Tensor:
        return module.encode(x)

    def _decode(self, z: Tensor) -> Tensor:
        return self.module_.decode(z)
