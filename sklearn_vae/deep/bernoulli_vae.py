"""Deep VAE for binary data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sklearn_vae.containers import to_array
from sklearn_vae.deep.base import Array
from sklearn_vae.deep.incomplete_start import IncompleteStart
from sklearn_vae.deep.linear_starts import start_at_logistic_ppca
from sklearn_vae.deep.ppca_start import can_start, check_init
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.deep.vae import DeepVAE
from sklearn_vae.nn.likelihoods import BernoulliLikelihood, Likelihood
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.learning_rate_limit import LearningRateLimit
from sklearn_vae.training.stored_samples import StoredSamples
from sklearn_vae.validation import check_bits, check_real


class DeepBernoulliVAE(DeepVAE):
    """Variational autoencoder (VAE) for binary data.

    The model is p(z) = N(0, I) and p(x_j = 1|z) = sigmoid(a_j(z)), with the approximate posterior
    q(z|x) = N(nu(x), diag(tau2(x))). The networks a and (nu, log tau2) are trained to maximize the
    evidence lower bound (ELBO)

        log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)).

    Training is automatic if `max_epochs="auto"`. The networks start at logistic pPCA, are trained
    with all "auto" parameters chosen from the size of the data, and their parameters are averaged
    over epochs. The number of epochs is the one that is best for validation samples, on up to three
    folds. If its gain over the linear model is not above its standard error, or depends on few
    samples, the model is the linear one, fitted to all samples. It is so as well if training worsens
    the ELBO of the training samples. `is_linear_` tells this. Training is not automatic on a warm
    start, with `processes`, with `early_stopping`, or unless `init` is "auto" or "ppca". It requires
    "mlp" networks, the ELBO as objective (`kl_weight=1`, no KL
    warm-up, no `free_bits`) and `variational_family="diagonal"`, and an activation and widths that
    `init="ppca"` allows. Otherwise each "auto" has a fixed value.

    Missing values (NaN) may occur in `fit` and in every method. The bound is then that of what is
    observed. The encoder sees missing values filled by their conditional means in a linear model
    of the same data: pPCA fitted by EM if the networks start at random, otherwise a linear
    approximation of the decoder before training, for which logistic pPCA is fitted to samples
    filled by pPCA. In the second case, and for networks that were trained on complete samples,
    q(z|x) also becomes wider with each missing value, with dependent dimensions.
    `missing_values_` tells this. `impute` returns binarized values if `binarize` is set.
    `processes` need complete samples.

    A fit whose `max_epochs` is given issues one `ConvergenceWarning`, with the number and a remedy, if
    it has trained for at least 20 epochs on the ELBO and ends below a model without latent
    dimensions, or if twice the epochs would gain more than 2 % of the gain over that model, plus 0.1
    nats. With early stopping the validation samples are compared, and the warning also tells whether
    the model overfits. Shorter fits and other objectives are not judged; use
    :func:`~sklearn_vae.diagnostics.diagnose` for these.

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
        shape (n_samples, n_outputs). These are means and log-variances for a diagonal posterior.
    decoder : {"mlp", "conv"} or callable, default="mlp"
        Decoder network. "conv" mirrors the convolutional encoder. A callable
        `decoder(n_components, output_shape)` must return a module that maps latent vectors to
        logits of shape (n_samples, n_features).
    image_shape : tuple (channels, height, width), default=None
        Shape of the images if each sample is a flattened image.
    binarize : float, default=None
        Threshold above which a value counts as 1, otherwise as 0. If None, the values must be in
        [0, 1], and a value between 0 and 1 is treated as the probability of a 1.
    init : {"auto", None, "ppca"}, default="auto"
        Initialization of the networks, which is random if None. "auto" is "ppca" in automatic
        training, and None otherwise. "ppca" starts at logistic pPCA with a linear encoder, and
        limits the learning rate so that training keeps its ELBO. It requires "mlp" networks with at
        least 2 * n_components units per hidden layer, the activation "relu", "leaky_relu", "gelu",
        "silu" or "softplus", and `variational_family="diagonal"`.
    prior : {"standard", "learned_variance"}, default="standard"
        Prior p(z): N(0, I), or N(0, diag(alpha2)) with learned alpha2. In the second case the
        columns of the decoder's first weight matrix have length 1, which fixes the scale of z.
    variational_family : {"diagonal", "sylvester"}, default="diagonal"
        Family of q(z|x): Gaussians with independent dimensions, or Sylvester flows of them. With
        flows, `transform` and `posterior` are averages over fixed draws, and `kl_per_dim_` is
        computed from Gaussians with the same moments.
    objective : {"elbo", "iwae"}, default="elbo"
        Training objective: the ELBO, or the importance-weighted bound with `n_mc_samples` draws.
        The method `score` returns the ELBO in both cases.
    n_mc_samples : int or "auto", default="auto"
        Number of draws of z per sample in each training step. "auto" is 2, with opposite noise.
        Without automatic training it is 1. In automatic training an even number has pairs of
        opposite noise.
    kl_weight : float, default=1.0
        Weight of the KL divergence, known as beta. The objective is the ELBO only if it is 1.
    kl_warmup_epochs : int, default=0
        Number of epochs over which the KL weight increases linearly to `kl_weight`.
    free_bits : float, default=0.0
        KL per dimension, in nats, below which no penalty applies.
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
        Whether to hold out validation samples and stop when the objective on them has not
        improved by `tol` for `n_iter_no_change` epochs after the KL warm-up. The best parameters
        are then restored.
    validation_fraction : float or "auto", default="auto"
        Fraction of the samples that early stopping, or each fold of automatic training, holds out.
        "auto" is 0.2. Without automatic training it is 0.1.
    n_iter_no_change : int, default=10
        Number of epochs without improvement after which early stopping ends training.
    tol : float, default=1e-4
        Smallest change that early stopping counts as an improvement, in nats per sample.
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
        Seed or generator for the initial weights, the validation split, the order of samples and
        the draws of z. The global generators of torch are not changed.

    Attributes
    ----------
    elbo_ : float
        ELBO of the training samples, in nats per sample. It is averaged over 16384 or more draws
        of z in total, fewer if these would take more than 1e11 operations.
    kl_per_dim_ : ndarray of shape (n_components,)
        KL divergence of each latent dimension, averaged over the training samples, in nats.
    collapsed_dims_ : ndarray of int
        Indices of the dimensions whose KL divergence is at most 0.01 nats for at least 99 % of
        the training samples.
    entropy_bound_ : float
        H[q(z|x)] - H[p(z)] - E_q H[p(x|z)], in nats per sample. It equals `elbo_` at convergence
        if `objective="elbo"`, `kl_weight=1` and `free_bits=0`.
    entropy_gap_ : EntropyGap
        `elbo_` minus `entropy_bound_`, split into its terms `noise` and `dimensions`. The field
        `active_bounds` names the variances whose bounds keep the gap from closing.
    prior_variance_ : ndarray of shape (n_components,)
        Variances of p(z), ones unless `prior="learned_variance"`.
    mean_ : ndarray of shape (n_features,)
        Zeros, as the networks see the binary data themselves.
    scale_ : float
        Scale of the features, always 1.
    history_ : dict of ndarray of shape (n_iter_,)
        Values recorded in each epoch. "bound" (the ELBO), "reconstruction", "kl" and
        "posterior_entropy" are averages over the training samples during the epoch, in nats per
        sample. Others are "active_dims", "prior_entropy", "beta" (the KL weight), "seconds",
        "validation_bound" with `early_stopping`, and values recorded by callbacks.
    snapshots_ : dict of int to DeepBernoulliVAE
        Fitted models by epoch, if `callbacks` include :class:`Snapshot`.
    net_ : skorch.NeuralNet
        Net that trains and holds the module.
    module_ : torch.nn.Module
        Trained module, which takes the binarized X.
    n_components_ : int
        Number of latent dimensions.
    n_iter_ : int
        Number of epochs trained, 0 if the model is the linear one.
    is_linear_ : bool
        Whether automatic training kept the linear model.
    missing_values_ : {None, "filled", "filled and widened"}
        How the networks take missing values, None if X had none.
    hidden_layer_sizes_, activation_, init_, learning_rate_, batch_size_, max_epochs_, \
    validation_fraction_, n_mc_samples_ : int, float, str or tuple
        Values that this fit used. `max_epochs_` is the limit of the search for automatic training.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    BernoulliPPCA : Linear model for binary data, whose bound needs no draws.
    DeepGaussianVAE : VAE for real-valued data.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), eq. 10 and appendix C.1.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), eq. 8 ("iwae").

    van den Berg, Hasenclever, Tomczak and Welling, "Sylvester Normalizing Flows for Variational
    Inference" (2018), eq. 10 ("sylvester").

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepBernoulliVAE
    >>> X = load_digits().data
    >>> vae = DeepBernoulliVAE(
    ...     8, hidden_layer_sizes=(64,), binarize=7.5, max_epochs=5, random_state=0
    ... ).fit(X)
    >>> vae.inverse_transform(vae.transform(X)).max() <= 1.0
    np.True_
    """

    observation_family = "bernoulli"

    def __init__(
        self,
        n_components: int = 16,
        *,
        hidden_layer_sizes: int | Sequence[int] | str = "auto",
        activation: str = "auto",
        encoder: str | Callable[..., nn.Module] = "mlp",
        decoder: str | Callable[..., nn.Module] = "mlp",
        image_shape: tuple[int, int, int] | None = None,
        binarize: float | None = None,
        init: str | None = "auto",
        prior: str = "standard",
        variational_family: str = "diagonal",
        objective: str = "elbo",
        n_mc_samples: int | str = "auto",
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        free_bits: float = 0.0,
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
        self.binarize = binarize
        self.init = init
        self.prior = prior
        self.variational_family = variational_family
        self.objective = objective
        self.n_mc_samples = n_mc_samples
        self.kl_weight = kl_weight
        self.kl_warmup_epochs = kl_warmup_epochs
        self.free_bits = free_bits
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

    _network_parameters = (*DeepVAE._network_parameters, "binarize")

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        p = self.inverse_transform(Z)
        return p, p * (1 - p)

    def observations(self, X: Any) -> Array:
        return check_bits(to_array(X), self.binarize)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.binarize is not None:
            check_real("binarize", self.binarize)
        check_init(self, self._hidden_layer_sizes())

    def _check_samples(self, X: Any, **options: Any) -> Any:
        return check_bits(super()._check_samples(X, **options), self.binarize)

    def _can_start_linear(self) -> bool:
        return super()._can_start_linear() and can_start(self)

    def can_start_at_ppca(self) -> bool:
        return can_start(self)

    def _set_start(self, data: TrainingData) -> None:
        self._initial_nats = None
        if self.init == "ppca":
            if data.reducer.size > 1:
                raise ValueError("init='ppca' requires a single process, got `processes`.")
            self._initial_nats = start_at_logistic_ppca(
                self.module_, data.train, data.weights, data.seed
            )
        elif data.is_incomplete:
            start = IncompleteStart(data.train, int(self.n_components), data.weights)
            start.set_filling(self.module_)

    def _bound_without_latents(self, data: TrainingData) -> float:
        x, w = data.train, data.weights
        if data.is_incomplete:
            share = self._observed_share
            seen = ~x.isnan() if w is None else w[:, None] * ~x.isnan()
            p = (torch.where(x.isnan(), 0.0, x) * seen).sum(0) / seen.sum(0).clamp(min=1e-12)
            p = p.double().clamp(0.0, 1.0).cpu()
            entropies = torch.special.entr(p) + torch.special.entr(1.0 - p)
            return -float(share @ entropies.numpy())
        if isinstance(x, StoredSamples):
            p = x.average(lambda part: part).clamp(0.0, 1.0)
        else:
            p = (x if w is None else w[:, None] * x).mean(0).double().clamp(0.0, 1.0)
        return float((torch.special.entr(p) + torch.special.entr(1.0 - p)).sum().neg())

    def _training_callbacks(self) -> list[Any]:
        nats = vars(self).get("_initial_nats")
        limit = [] if nats is None else [LearningRateLimit(nats, falls=not self._starts_linear)]
        return [*super()._training_callbacks(), *limit]

    def _center_and_scale(
        self, X: Array, indices: Array, reducer: Reducer, weights: Array | None
    ) -> tuple[Array, Any]:
        return np.zeros(X.shape[1]), 1.0

    @property
    def _likelihood_class(self) -> type[Likelihood]:
        return BernoulliLikelihood
