"""A deep VAE with Gaussian observations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.checks import check_noise
from sklearn_vae.deep.ppca_start import KeepStart, check_init, ppca_residuals, start_at_ppca
from sklearn_vae.deep.vae import DeepVAE
from sklearn_vae.nn.likelihoods import NOISE_MODELS, NOISE_UPDATES, Likelihood
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.scaling import center_and_scale
from sklearn_vae.validation import check_choice


class DeepGaussianVAE(DeepVAE):
    """Variational autoencoder with Gaussian observations.

    p(z) = N(0, I), p(x|z) = N(mu(z), sigma2 I), q(z|x) = N(nu(x), diag tau2(x)), with networks mu
    and (nu, log tau2), trained on the evidence lower bound

        log p(x) >= E_q log p(x|z) - KL(q(z|x) || p(z)).

    The networks see rows centred and divided by the root of the average variance of a feature
    (unless the noise is "scalar" each feature by its own standard deviation), so that nothing
    depends on the units of X; all parameters and results are in these units.

    Parameters
    ----------
    n_components : int, default=16
        Latent dimensions k.
    hidden_layer_sizes : int or sequence of int, default=(512, 256)
        Widths of the encoder's hidden layers; the decoder has them in reverse. Empty: linear.
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh".
    encoder : "mlp", "conv" or callable, default="mlp"
        "conv": strided convolutions, for `image_shape`. Else a factory `encoder(input_shape,
        n_outputs)` of a Module from rows (n, d) to (n, n_outputs): of a diagonal posterior, means
        and log-variances.
    decoder : "mlp", "conv" or callable, default="mlp"
        "conv": the mirror image. Else a factory `decoder(n_components, output_shape)` of a Module
        from (n, k) to (n, d), with "heteroscedastic" noise to (n, 2 d): means and log-variances.
    image_shape : tuple (channels, height, width), default=None
        Of the images that flat rows are: what "conv" and factories are given as shape.
    noise_model : {"scalar", "diagonal", "heteroscedastic"}, default="scalar"
        One noise variance sigma2, one per feature, or one for each feature and z, from the decoder:
        p(x|z) = N(mu(z), diag sigma2(z)).
    noise_variance : float or array of shape (d,), default=None
        sigma2 held fixed; an array with "diagonal" only. None: learned.
    noise_variance_init : float or array of shape (d,), default=None
        Where learning starts. None: at the maximum likelihood noise variance of pPCA with the same
        k; unless "scalar", at that model's mean squared residual of each feature. A warm start
        has no use for it.
    noise_update : {"closed_form", "gradient"}, default="closed_form"
        How sigma2 is learned: as a running average of its optimum given the networks, while
        training never above that of pPCA ("diagonal": above the feature's variance), and set to
        the optimum after the last epoch unless `objective` is "iwae"; or log sigma2 as a parameter
        among the others. Never below 1e-6 of the average variance of a feature ("diagonal": of the
        feature's variance, which counts as 1 where it is 0). "heteroscedastic" noise is learned
        with the decoder, and its variances are held between 1e-6 and e^20 of the feature's; there
        a dimension is easily lost without `kl_warmup_epochs`.
    init : {None, "ppca"}, default=None
        What the networks are before their first step: random, or probabilistic PCA of the rows as
        they see them, whose log-likelihood the ELBO then equals. Of pPCA with the noise variance
        that learning starts with, its own maximum likelihood one unless `noise_variance` or
        `noise_variance_init` is given, or that were not above 1e-6 (then a tenth of the average
        variance of a feature); further latents than the rank of X are collapsed at first. For MLPs
        with a diagonal posterior, `hidden_layer_sizes` of at least 2 k, and the activation "relu",
        "leaky_relu", "gelu", "silu" or "softplus": two units f(a), f(-a) carry a number through a
        layer. Training then sets the rate of each epoch, whatever a scheduler among `callbacks`
        does, as `history_["learning_rate"]`: at most `learning_rate`, lower where the trembling of
        Adam's steps would cost more than 5 % of the nats that the latents carry and half of what
        has been won; it rises over the first 5 epochs, and falls toward 0 over the last fifth of
        `max_epochs`, if training does not stop before. What is kept is the ELBO: with another
        `kl_weight` or `free_bits` something else is maximised. A warm start goes on from what it
        has, with these rates or without, whatever `init` is by then.
    prior : {"standard", "learned_variance"}, default="standard"
        p(z): N(0, I), or N(0, diag alpha2) with alpha2 learned; the columns of the decoder's first
        weight matrix then have length 1, which fixes the scale of z.
    variational_family : {"diagonal", "sylvester"}, default="diagonal"
        q(z|x): a normal with independent dimensions, or Sylvester flows of one. With flows
        `transform` and `posterior` are averages over fixed draws, the same for every row, and
        `kl_per_dim_` is that of normals with the moments of each dimension.
    objective : {"elbo", "iwae"}, default="elbo"
        What is maximised: the ELBO, or the importance-weighted bound of `n_mc_samples` draws.
        `score` is the ELBO whatever it is.
    n_mc_samples : int, default=1
        Draws of z a row in each step.
    kl_weight : float, default=1.0
        beta, the weight of the KL. Other than 1, the model is not trained on a bound.
    kl_warmup_epochs : int, default=0
        Epochs over which the weight rises linearly to `kl_weight`.
    free_bits : float, default=0.0
        Nats that each dimension may use without a price.
    learning_rate : float, default=1e-3
        Of Adam.
    max_epochs : int, default=100
    batch_size : int, default=128
    early_stopping : bool, default=False
        Hold out rows, stop when what is maximised has not risen by `tol` on them for
        `n_iter_no_change` epochs (counted after the warm-up), and take back the best parameters.
    validation_fraction : float, default=0.1
        Share of rows held out, with `early_stopping`.
    n_iter_no_change : int, default=10
    tol : float, default=1e-4
        In nats per sample.
    device : str or torch.device, default="auto"
        "auto": a CUDA device where there is one, else the CPU.
    precision : {"auto", "float32", "float64", "tf32", "bf16"}, default="auto"
        "auto": that of X on a CPU; float32 on CUDA, with TF32 products in training. "tf32" and
        "bf16" are for products in training on CUDA, and the module is float32.
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
        Fixes first weights, held-out rows, order of rows and draws. The global generators of torch
        are not touched.

    Attributes
    ----------
    kl_per_dim_ : array of shape (k,)
        KL(q(z_h|x) || p(z_h)) averaged over the training rows, in nats.
    collapsed_dims_ : array of int
        Dimensions whose KL is at most 0.01 nats for at least 99 % of the training rows.
    elbo_ : float
        Evidence lower bound of the training rows, in nats per sample; of 16384 draws of z or more,
        fewer where these would take 1e11 operations, one or more a row.
    entropy_bound_ : float
        Sum of three entropies, in nats per sample: equals `elbo_` where training has converged,
        with `objective` "elbo", `kl_weight` 1, no `free_bits` and sigma2 learned.
    entropy_gap_ : EntropyGap
        `elbo_` less `entropy_bound_`: `total`, its parts `noise` and `dimensions` (k,), and
        `active_bounds` that are in the way of closing it.
    prior_variance_ : array of shape (k,)
        alpha2; ones unless learned.
    noise_variance_ : float, or array of shape (d,) with "diagonal"
        Not with "heteroscedastic".
    history_ : dict of arrays of shape (n_iter_,)
        Of each epoch, averaged over its rows as they were trained on: "bound" (ELBO), its parts
        "reconstruction" and "kl", "posterior_entropy", in nats per sample, and "active_dims"; at
        its end "prior_entropy" and, unless the noise is "heteroscedastic", "noise_variance"
        ((n_iter_, d) with "diagonal") and "noise_entropy"; "beta", "seconds", with `early_stopping`
        "validation_bound", the ELBO of the rows held out, and what callbacks recorded. With
        "closed_form" the noise is set to its optimum afterwards, so that `elbo_` can be well above
        the last bound.
    snapshots_ : dict of int to DeepGaussianVAE
        Fitted models after the epochs that a :class:`Snapshot` asks for.
    net_ : skorch.NeuralNet
    n_components_ : int
        Latent dimensions of the networks.
    module_ : torch.nn.Module
        Of `net_`; sees rows less `mean_`, over `scale_`.
    mean_ : array of shape (d,)
        Mean of the training rows.
    scale_ : float, or array of shape (d,) unless `noise_model` is "scalar"
        Root of the average variance of their features, or their standard deviations.
    n_iter_ : int
        Epochs trained.
    n_features_in_ : int
    feature_names_in_ : array of shape (d,)
        Where X has them.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), eq. 10.
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019): collapse, and sigma2.
    Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges to a Sum
    of Three Entropies", eq. 20 (learned prior), 25, 39 (noise from the decoder).
    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), eq. 8 ("iwae").
    van den Berg, Hasenclever, Tomczak and Welling, "Sylvester Normalizing Flows for Variational
    Inference" (2018), eq. 10 ("sylvester").
    Higgins et al., "beta-VAE" (2017): the layers of "conv".

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepGaussianVAE
    >>> X = load_digits().data
    >>> vae = DeepGaussianVAE(8, hidden_layer_sizes=(64,), max_epochs=20, random_state=0).fit(X)
    >>> vae.transform(X).shape, len(vae.collapsed_dims_)
    ((1797, 8), 0)
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
        noise_model: str = "scalar",
        noise_variance: Any = None,
        noise_variance_init: Any = None,
        noise_update: str = "closed_form",
        init: str | None = None,
        prior: str = "standard",
        variational_family: str = "diagonal",
        objective: str = "elbo",
        n_mc_samples: int = 1,
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        free_bits: float = 0.0,
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
        """Copy with the noise variance that is best for samples X, and all else as it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        """
        likelihood = self.module_.likelihood

        def terms(x: Tensor) -> Tensor:
            parts = (
                share * likelihood.noise_variance_terms(p, x).mean(0)
                for share, _, p in self._fixed_draws(x)
            )
            return sum(parts, torch.zeros(()))

        optimum = self._map_samples(X, terms).mean(axis=0, dtype=np.float64)
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
                f"noise_variance must be None with noise_model={self.noise_model!r}, which has not "
                f"one for all z, got {self.noise_variance!r}."
            )
        for name in ("noise_variance", "noise_variance_init"):
            check_noise(name, getattr(self, name), per_feature=likelihood.per_feature)
        if self.noise_variance is not None and self.noise_variance_init is not None:
            raise ValueError(
                "noise_variance_init is where learning starts, but noise_variance="
                f"{self.noise_variance!r} holds it fixed: leave one of them None."
            )
        check_init(self, self._hidden_layer_sizes())

    def _center_and_scale(self, X: Array, rows: Array, reducer: Reducer) -> tuple[Array, Any]:
        return center_and_scale(X, rows, self._likelihood_class.per_feature, reducer)

    def _set_start(self, samples: Tensor, reducer: Reducer) -> None:
        def residuals() -> Array:
            ppca = ppca_residuals(samples, self.n_components, reducer)
            return ppca if self.init is None else ppca.mean()

        self.module_.likelihood.start(self._given_noise(samples.dtype), residuals)
        self._worth_of_start = None
        if self.init == "ppca":
            self._worth_of_start = start_at_ppca(self.module_, samples, reducer)

    def _given_noise(self, dtype: torch.dtype) -> Array | None:
        """Noise variance among the parameters, in the units of the networks, () or (d,)."""
        name = "noise_variance_init" if self.noise_variance is None else "noise_variance"
        given, d = getattr(self, name), self.n_features_in_
        if given is None:
            return None
        numbers = np.asarray(given, dtype=np.float64)
        if numbers.ndim and numbers.shape != (d,):
            raise ValueError(
                f"{name} must have one number per feature, n_features={d}, got {len(numbers)}."
            )
        with np.errstate(over="ignore"):
            scaled: Array = numbers / self.scale_**2
        limits = torch.finfo(dtype)
        if not ((scaled >= limits.tiny) & (scaled <= limits.max)).all():
            raise ValueError(
                f"{name} must be within the range of {dtype} when divided by the variance of the "
                f"features, {np.mean(self.scale_**2):.3g}, got {given!r}."
            )
        return scaled

    def _training_callbacks(self) -> list[Any]:
        worth = self._worth_of_start
        return [*super()._training_callbacks(), *([] if worth is None else [KeepStart(worth)])]

    def can_start_at_ppca(self) -> bool:
        """Whether the networks could start at probabilistic PCA, with `init="ppca"`."""
        model = copy.copy(self)
        model.init = "ppca"
        try:
            check_init(model, model._hidden_layer_sizes())
        except ValueError:
            return False
        return True
