"""A deep VAE of bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.vae import DeepVAE
from sklearn_vae.nn.likelihoods import BernoulliLikelihood, Likelihood
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.validation import check_bits, check_real


class DeepBernoulliVAE(DeepVAE):
    """Variational autoencoder of bits.

    p(z) = N(0, I), p(x_j = 1|z) = sigmoid(a_j(z)), q(z|x) = N(nu(x), diag tau2(x)), with networks a
    and (nu, log tau2), trained on the evidence lower bound

        log p(x) >= E_q log p(x|z) - KL(q(z|x) || p(z)).

    Parameters
    ----------
    n_components : int, default=16
        Latent dimensions k.
    hidden_layer_sizes : int or sequence of int, default=(512, 256)
        Widths of the encoder's hidden layers; the decoder has them in reverse. Empty: linear, with
        a sigmoid.
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh".
    encoder : "mlp", "conv" or callable, default="mlp"
        "conv": strided convolutions, for `image_shape`. Else a factory `encoder(input_shape,
        n_outputs)` of a Module from rows (n, d) to (n, n_outputs): of a diagonal posterior, means
        and log-variances.
    decoder : "mlp", "conv" or callable, default="mlp"
        "conv": the mirror image. Else a factory `decoder(n_components, output_shape)` of a Module
        from (n, k) to (n, d): logits.
    image_shape : tuple (channels, height, width), default=None
        Of the images that flat rows are: what "conv" and factories are given as shape.
    binarize : float or None, default=None
        Threshold: an entry counts as 1 if it is above, else as 0. None takes entries in [0, 1] as
        they are; one between is a soft bit, the probability of a 1.
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
        H[q(z|x)] - H[p(z)] - E_q H[p(x|z)], in nats per sample: equals `elbo_` where training has
        converged, with `objective` "elbo", `kl_weight` 1 and no `free_bits`.
    entropy_gap_ : EntropyGap
        `elbo_` less `entropy_bound_`: `total`, its parts `noise` (of the scale of the logits) and
        `dimensions` (k,), and `active_bounds` that are in the way of closing it.
    prior_variance_ : array of shape (k,)
        alpha2; ones unless learned.
    history_ : dict of arrays of shape (n_iter_,)
        Of each epoch, averaged over its rows as they were trained on: "bound" (ELBO), its parts
        "reconstruction" and "kl", "posterior_entropy", in nats per sample, and "active_dims"; at
        its end "prior_entropy"; "beta", "seconds", with `early_stopping` "validation_bound", the
        ELBO of the rows held out, and what callbacks recorded.
    snapshots_ : dict of int to DeepBernoulliVAE
        Fitted models after the epochs that a :class:`Snapshot` asks for.
    net_ : skorch.NeuralNet
    n_components_ : int
        Latent dimensions of the networks.
    module_ : torch.nn.Module
        Of `net_`; sees the bits.
    mean_ : array of shape (d,)
    scale_ : float
        0 and 1: the networks see the bits themselves.
    n_iter_ : int
        Epochs trained.
    n_features_in_ : int
    feature_names_in_ : array of shape (d,)
        Where X has them.

    See Also
    --------
    BernoulliPPCA : The linear one, whose bound needs no draws.

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
    ...     8, hidden_layer_sizes=(64,), binarize=7.5, max_epochs=20, random_state=0
    ... ).fit(X)
    >>> vae.inverse_transform(vae.transform(X)).max() <= 1.0
    np.True_
    """

    observation_family = "bernoulli"

    def __init__(
        self,
        n_components: int = 16,
        *,
        hidden_layer_sizes: int | Sequence[int] = (512, 256),
        activation: str = "relu",
        encoder: str | Callable[..., nn.Module] = "mlp",
        decoder: str | Callable[..., nn.Module] = "mlp",
        image_shape: tuple[int, int, int] | None = None,
        binarize: float | None = None,
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
        self.binarize = binarize
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
        """X binarized, or as it is if its entries are in [0, 1]."""
        return check_bits(X, self.binarize)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.binarize is not None:
            check_real("binarize", self.binarize)

    def _check_samples(self, X: Any, **options: Any) -> Array:
        return check_bits(super()._check_samples(X, **options), self.binarize)

    def _center_and_scale(self, X: Array, rows: Array, reducer: Reducer) -> tuple[Array, Any]:
        return np.zeros(X.shape[1]), 1.0

    @property
    def _likelihood_class(self) -> type[Likelihood]:
        return BernoulliLikelihood
