"""Deep VAE with Gaussian observations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.checks import check_noise
from sklearn_vae.deep.incomplete_start import IncompleteStart
from sklearn_vae.deep.linear_bounds import ppca_fits
from sklearn_vae.deep.linear_fits import (
    PPCAFit,
    constant_features,
    factor_noise,
    fit_ppca,
    noise_without_residuals,
    ppca_residuals,
)
from sklearn_vae.deep.outcome import LinearFit
from sklearn_vae.deep.ppca_start import can_start, check_init, ignore_features, start_at_ppca
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.deep.vae import DeepVAE
from sklearn_vae.nn.distributions import average
from sklearn_vae.nn.likelihoods import NOISE_MODELS, NOISE_UPDATES, Likelihood
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.learning_rate_limit import LearningRateLimit
from sklearn_vae.training.scaling import center_and_scale
from sklearn_vae.validation import check_choice, has_nan


class DeepGaussianVAE(DeepVAE):
    """Variational autoencoder (VAE) with Gaussian observations.

    The model is p(z) = N(0, I) and p(x|z) = N(mu(z), sigma2 I), with the approximate posterior
    q(z|x) = N(nu(x), diag(tau2(x))). The networks mu and (nu, log tau2) are trained to maximize
    the evidence lower bound (ELBO)

        log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)).

    The networks see centered and scaled samples, so that results do not depend on the units of X.
    With `noise_model="scalar"` the scale is the square root of the average feature variance,
    otherwise it is the standard deviation of each feature. All parameters and results are in the
    units of X.

    Noise variances are at least 1e-6 times the average feature variance (times the variance of each
    feature, if they differ between features), or 1e-3 times the noise variance of pPCA if that is
    less, which rules out the infinite likelihood of perfect reconstructions. Posterior log-variances
    lie between -50 and 20. `entropy_gap_.active_bounds` names the limits that were reached. In
    automatic training with `noise_model="diagonal"`, the noise variance of a constant feature is
    1e-12, as in :class:`FactorAnalysis`, and the networks ignore the feature.

    Training is automatic if `max_epochs="auto"`. The networks start at pPCA (factor analysis, unless
    `noise_model="scalar"`), are trained with all
    "auto" parameters chosen from the size of the data, and their parameters are averaged over
    epochs. The number of epochs is the one that is best for validation samples, on up to three
    folds. If its gain over the linear model is not above its standard error, or depends on few
    samples, the model is the linear one, fitted to all samples. It is so as well if training worsens
    the ELBO of the training samples. `is_linear_` tells this. Where validation samples are
    reconstructed worse than training samples, a learned noise variance is enlarged after training to
    the one that is best for them, but not so far that the ELBO of the training samples falls below
    that of the linear model by 0.75 % and 0.05 nats. Training is not automatic on a warm
    start, with `processes`, with `early_stopping`, or unless `init` is "auto" or "ppca". It requires
    "mlp" networks, the ELBO as objective (`kl_weight=1`, no KL
    warm-up, no `free_bits`), no `noise_variance_init`, `variational_family="diagonal"`, and an activation and widths that
    `init="ppca"` allows. Otherwise each "auto" has a fixed value.

    Missing values (NaN) may occur in `fit` and in every method. The bound is then that of what is
    observed. The encoder sees missing values filled by their conditional means in a linear model
    of the same data: pPCA fitted by EM if the networks start at random, otherwise the networks
    before training. In the second case, and for networks that were trained on complete samples,
    q(z|x) also becomes wider with each missing value, with dependent dimensions, as the exact
    posterior of the linear model does. `missing_values_` tells this. Training takes longer
    than with complete samples, because the explicit gradients of small networks do not cover
    missing values. `processes` need complete samples.

    A fit whose `max_epochs` is given issues one `ConvergenceWarning`, with the number and a remedy, if
    it has trained for at least 20 epochs on the ELBO and ends below pPCA (by more
    than 2 % of the gain over a model without latent dimensions plus 0.1 nats), if twice the epochs
    would gain more than this, or if dimensions carry no information because `noise_variance` is too large.
    With early stopping the validation samples are compared, and the warning also tells whether the
    model overfits. Shorter fits and other objectives are not judged; use
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
        tensors of shape (n_samples, n_features), or (n_samples, 2 * n_features) for the means
        and log-variances of "heteroscedastic" noise.
    image_shape : tuple (channels, height, width), default=None
        Shape of the images if each sample is a flattened image.
    noise_model : {"scalar", "diagonal", "heteroscedastic"}, default="scalar"
        Observation noise: one variance sigma2, one variance per feature, or variances that the
        decoder computes from z, p(x|z) = N(mu(z), diag(sigma2(z))). Latent dimensions collapse more
        easily with "heteroscedastic" noise; `kl_warmup_epochs` helps to prevent this.
    noise_variance : float or array-like of shape (n_features,), default=None
        Fixed noise variance. An array requires `noise_model="diagonal"`. If None, it is learned.
    noise_variance_init : float or array-like of shape (n_features,), default=None
        Initial value of a learned noise variance. If None, the mean squared residuals of pPCA with
        the same number of components are used. Ignored on a warm start.
    noise_update : {"closed_form", "gradient"}, default="closed_form"
        Method that learns the noise variance. "closed_form" follows a running average of its
        optimum given the networks and, unless `objective="iwae"`, ends at this optimum.
        "gradient" optimizes log sigma2 together with the weights. Ignored if the noise is "heteroscedastic".
    init : {"auto", None, "ppca"}, default="auto"
        Initialization of the networks, which is random if None. "auto" is "ppca" in automatic
        training, and None otherwise. "ppca" starts at the solution of
        pPCA, where the ELBO equals the log-likelihood of pPCA, and limits the learning rate of each
        epoch (recorded in `history_`) so that training keeps this ELBO. It requires "mlp" networks
        with at least 2 * n_components units per hidden layer, the activation "relu", "leaky_relu",
        "gelu", "silu" or "softplus", and `variational_family="diagonal"`.
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
        Sum of three entropies, in nats per sample. It equals `elbo_` at convergence if
        `objective="elbo"`, `kl_weight=1`, `free_bits=0` and sigma2 is learned.
    entropy_gap_ : EntropyGap
        `elbo_` minus `entropy_bound_`, split into its terms `noise` and `dimensions`. The field
        `active_bounds` names the variances whose bounds keep the gap from closing, and the noise
        variance if validation samples have enlarged it.
    prior_variance_ : ndarray of shape (n_components,)
        Variances of p(z), ones unless `prior="learned_variance"`.
    noise_variance_ : float or ndarray of shape (n_features,)
        Noise variance, one per feature with "diagonal" noise. Not set with "heteroscedastic"
        noise.
    mean_ : ndarray of shape (n_features,)
        Mean of the training samples.
    scale_ : float or ndarray of shape (n_features,)
        Square root of the average feature variance or, unless `noise_model="scalar"`, standard
        deviation of each feature.
    history_ : dict of ndarray of shape (n_iter_,)
        Values recorded in each epoch. "bound" (the ELBO), "reconstruction", "kl" and
        "posterior_entropy" are averages over the training samples during the epoch, in nats per
        sample. Others are "active_dims", "prior_entropy", "noise_variance", "noise_entropy",
        "beta" (the KL weight), "seconds", "validation_bound" with `early_stopping`, and values
        recorded by callbacks. `elbo_` can be well above the last "bound", as "closed_form" sets
        the noise variance to its optimum after the last epoch. Automatic training adds
        "validation_bound" and "linear_validation_bound", that of the start, and may enlarge the
        noise variance after the last epoch.
    snapshots_ : dict of int to DeepGaussianVAE
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
    DeepAutoencoder : Autoencoder with the same networks and no latent distribution.
    DeepBernoulliVAE : VAE for binary data.
    LinearVAE : Linear VAE with Gaussian observations.
    PPCA : Probabilistic PCA, the linear model with an exact posterior.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), eq. 10.

    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), on sigma2 and collapse.

    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", eq. 20 (learned prior), 25 and 39 ("heteroscedastic").

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), eq. 8 ("iwae").

    van den Berg, Hasenclever, Tomczak and Welling, "Sylvester Normalizing Flows for Variational
    Inference" (2018), eq. 10 ("sylvester").

    Higgins et al., "beta-VAE" (2017), for the layers of "conv".

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepGaussianVAE
    >>> X = load_digits().data
    >>> vae = DeepGaussianVAE(8, hidden_layer_sizes=(64,), max_epochs=5, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 8)
    >>> bool(vae.elbo_ > vae.history_["bound"][0])
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
        noise_model: str = "scalar",
        noise_variance: Any = None,
        noise_variance_init: Any = None,
        noise_update: str = "closed_form",
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
        self.noise_model = noise_model
        self.noise_variance = noise_variance
        self.noise_variance_init = noise_variance_init
        self.noise_update = noise_update
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

    _network_parameters = (
        *DeepVAE._network_parameters,
        "noise_model",
        "noise_variance",
        "noise_update",
    )

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        if not hasattr(self, "noise_variance_"):
            return super().conditional(Z)
        mean = self.inverse_transform(Z)
        return mean, np.broadcast_to(np.asarray(self.noise_variance_, mean.dtype), mean.shape)

    def with_tuned_noise(self, X: Any) -> DeepGaussianVAE:
        check_is_fitted(self)
        X, likelihood = self._check_samples(X, reset=False), self.module_.likelihood

        def terms(module: Any, x: Tensor) -> Tensor:
            parts = (
                share * average(likelihood.noise_variance_terms(p, x), weights)
                for share, weights, _, p in self._draws(module, x)
            )
            return sum(parts, torch.zeros(()))

        optimum = self._map_array(X, terms).mean(axis=0, dtype=np.float64)
        if has_nan(X):
            share = np.mean(~np.isnan(X), axis=0)
            optimum /= np.maximum(share if likelihood.per_feature else share.mean(), 1.0 / len(X))
        tuned = copy.copy(self)
        tuned.net_ = self.net_.copy_at(self.n_iter_, self.module_.state_dict())
        tuned.module_.likelihood.set_noise_variance(optimum)
        noise = optimum * self.scale_**2
        tuned.noise_variance_ = noise if likelihood.per_feature else float(noise[0])
        return tuned

    @property
    def _likelihood_class(self) -> type[Likelihood]:
        return NOISE_MODELS[self.noise_model]

    @property
    def _noise_update(self) -> str | None:
        return self.noise_update if self.noise_variance is None else None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("noise_model", self.noise_model, NOISE_MODELS)
        check_choice("noise_update", self.noise_update, NOISE_UPDATES)
        likelihood = self._likelihood_class
        if self.noise_variance is not None and not likelihood.has_noise_variance:
            raise ValueError(
                f"noise_variance must be None with noise_model={self.noise_model!r}, whose noise "
                f"depends on z, got {self.noise_variance!r}."
            )
        for name in ("noise_variance", "noise_variance_init"):
            check_noise(name, getattr(self, name), per_feature=likelihood.per_feature)
        if self.noise_variance is not None and self.noise_variance_init is not None:
            raise ValueError(
                f"noise_variance_init must be None with noise_variance={self.noise_variance!r}, "
                f"which fixes the noise variance, got {self.noise_variance_init!r}."
            )
        check_init(self, self._hidden_layer_sizes())

    def _center_and_scale(
        self, X: Array, indices: Array, reducer: Reducer, weights: Array | None
    ) -> tuple[Array, Any]:
        return center_and_scale(X, indices, self._likelihood_class.per_feature, reducer, weights)

    def _set_start(self, data: TrainingData) -> None:
        samples, reducer, weights = data.train, data.reducer, data.weights
        if data.is_incomplete:
            self._set_incomplete_start(data)
            return
        k, per_feature = int(self.n_components), self._likelihood_class.per_feature

        @cache
        def ppca() -> PPCAFit:
            return fit_ppca(samples, k, reducer, weights)

        def residuals() -> Array:
            if self.init is None and per_feature:
                return ppca_residuals(samples, k, reducer, weights)
            return np.asarray(ppca().noise_variance)

        noise, n = self._given_noise(samples.dtype), reducer.sum(float(len(samples)))
        constant = None
        if noise is None and self._starts_linear and per_feature:
            constant = constant_features(samples, weights)
            noise = factor_noise(samples, k, weights)
        elif noise is None and self._starts_linear:
            noise = noise_without_residuals(samples, k, weights, ppca())
        # Residuals have (n - 1 - k) (d - k) degrees of freedom. Where n > d, repeated samples must
        # count as weights do, and k cannot be near n.
        excess = n / max(n - 1 - k, 1e-9) if n <= self.n_features_in_ else 1.0
        likelihood = self.module_.likelihood
        likelihood.start(noise, residuals, excess)
        if constant is not None and likelihood.has_noise_variance:
            likelihood.hold(*constant)
        self._initial_nats = None
        if self.init == "ppca":
            self._initial_nats = start_at_ppca(self.module_, samples, reducer, weights)
        if constant is not None:
            ignore_features(self.module_, constant[0])

    def _set_incomplete_start(self, data: TrainingData) -> None:
        """Set initial parameters by pPCA, or factor analysis, of samples with missing values."""
        k, noise = int(self.n_components), self._given_noise(data.train.dtype)
        start = IncompleteStart(data.train, k, data.weights)
        by_factors = self._starts_linear and self._likelihood_class.per_feature

        def residuals() -> Array:
            if by_factors:
                return start.factor_noise()
            if self._likelihood_class.per_feature and self.init is None:
                return start.residuals()
            return np.full(1, start.noise_variance)

        self.module_.likelihood.start(noise, residuals)
        self._initial_nats = None
        if self.init == "ppca":
            self._initial_nats = start.set_networks(self.module_)
        else:
            start.set_filling(self.module_)

    def _linear_fits(
        self, data: TrainingData, baseline: float
    ) -> tuple[LinearFit | None, LinearFit | None]:
        noise = None if self.noise_variance is None else self._given_noise(data.train.dtype)
        return ppca_fits(data, int(self.n_components), noise, self.scale_)

    def _given_noise(self, dtype: torch.dtype) -> Array | None:
        """Return the `noise_variance` or `noise_variance_init` in the units of the networks."""
        name = "noise_variance_init" if self.noise_variance is None else "noise_variance"
        given, d = getattr(self, name), self.n_features_in_
        if given is None:
            return None
        numbers = np.asarray(given, dtype=np.float64)
        if numbers.ndim and numbers.shape != (d,):
            raise ValueError(
                f"{name} must have one value per feature, {d} for this X, got {len(numbers)}."
            )
        with np.errstate(over="ignore"):
            scaled: Array = numbers / self.scale_**2
        limits = torch.finfo(dtype)
        if not ((scaled >= limits.tiny) & (scaled <= limits.max)).all():
            raise ValueError(
                f"{name} divided by the average feature variance, {np.mean(self.scale_**2):.3g}, "
                f"must be within the range of {dtype}, got {name}={given!r}."
            )
        return scaled

    def _training_callbacks(self) -> list[Any]:
        nats = vars(self).get("_initial_nats")
        limit = [] if nats is None else [LearningRateLimit(nats, falls=not self._starts_linear)]
        return [*super()._training_callbacks(), *limit]

    def _can_start_linear(self) -> bool:
        is_free = self.noise_variance_init is None
        return is_free and super()._can_start_linear() and can_start(self)

    def can_start_at_ppca(self) -> bool:
        return can_start(self)
