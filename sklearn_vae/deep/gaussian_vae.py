"""A deep VAE with Gaussian observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.monitors import NoiseMonitor
from sklearn_vae.deep.vae import DeepVAE
from sklearn_vae.gaussian.bounds import EntropyGap, entropy_bound
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.nn.distributions import LOG_2PI
from sklearn_vae.nn.likelihoods import NOISE_UPDATES, GaussianLikelihood
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import build_decoder, build_encoder
from sklearn_vae.nn.posteriors import DiagonalPosterior, StandardPrior
from sklearn_vae.validation import check_choice, check_noise_variance, is_real

NOISE_MODELS = ("scalar", "diagonal")

# Least noise variance that is learned, as a share of the average variance of a feature.
NOISE_FLOOR = 1e-6

# Start where pPCA with as many components leaves no noise.
NOISE_START = 0.1


class DeepGaussianVAE(DeepVAE):
    """Variational autoencoder with Gaussian observations.

    p(z) = N(0, I), p(x|z) = N(mu(z), sigma2 I), q(z|x) = N(nu(x), diag tau2(x)), with networks mu
    and (nu, log tau2), trained on the evidence lower bound

        log p(x) >= E_q log p(x|z) - KL(q(z|x) || p(z)).

    The networks see rows centred and divided by the root of the average variance of a feature
    ("diagonal": each feature by its own standard deviation), so that nothing depends on the units
    of X; all parameters and results are in these units.

    Parameters
    ----------
    n_components : int, default=16
        Latent dimensions k.
    hidden_layer_sizes : int or sequence of int, default=(512, 256)
        Widths of the encoder's hidden layers; the decoder has them in reverse. Empty: linear.
    activation : str, default="relu"
        "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid" or "tanh".
    encoder : "mlp" or callable, default="mlp"
        A factory `encoder(input_shape, n_outputs)` of a Module from rows (n, d) to (n, 2 k): means
        and log-variances.
    decoder : "mlp" or callable, default="mlp"
        A factory `decoder(n_components, output_shape)` of a Module from (n, k) to (n, d).
    noise_model : {"scalar", "diagonal"}, default="scalar"
        One noise variance sigma2, or one a feature.
    noise_variance : float or array of shape (d,), default=None
        sigma2 held fixed; an array with "diagonal" only. None: learned.
    noise_variance_init : float or array of shape (d,), default=None
        Where learning starts. None: at the maximum likelihood noise variance of pPCA with the same
        k; with "diagonal" at that model's mean squared residual of each feature. A warm start has
        no use for it.
    noise_update : {"closed_form", "gradient"}, default="closed_form"
        How sigma2 is learned: as a running average of its optimum given the networks, while
        training never above that of pPCA ("diagonal": above the feature's variance), and set to
        the optimum after the last epoch; or log sigma2 as a parameter among the others. Never
        below 1e-6 of the average variance of a feature ("diagonal": of the feature's variance, which
        counts as 1 where it is 0).
    objective : {"elbo"}, default="elbo"
        What is maximised. `score` is the ELBO whatever it is.
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
        Copied before each fit. :class:`Snapshot` keeps the models of some epochs.
    warm_start : bool, default=False
        Go on from the last fit, its weights, optimiser and units, for `max_epochs` more.
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
        one or more a row.
    entropy_bound_ : float
        Sum of three entropies, in nats per sample: equals `elbo_` where training has converged,
        with `kl_weight` 1, no `free_bits` and sigma2 learned.
    entropy_gap_ : EntropyGap
        `elbo_` less `entropy_bound_`: `total`, its parts `noise` and `dimensions` (k,), and
        `active_bounds` that are in the way of closing it.
    noise_variance_ : float, or array of shape (d,) with "diagonal"
    history_ : dict of arrays of shape (n_iter_,)
        Of each epoch, averaged over its rows as they were trained on: "bound" (ELBO), its parts
        "reconstruction" and "kl", "posterior_entropy", "prior_entropy", in nats per sample, and
        "active_dims"; at its end "noise_variance" ((n_iter_, d) with "diagonal") and
        "noise_entropy"; "beta", "seconds", with `early_stopping` "validation_bound", the ELBO of
        the rows held out, and what callbacks recorded. With "closed_form" the noise is set to its
        optimum afterwards, so that `elbo_` can be well above the last bound.
    snapshots_ : dict of int to DeepGaussianVAE
        Fitted models after the epochs that a :class:`Snapshot` asks for.
    net_ : skorch.NeuralNet
    n_components_ : int
        Latent dimensions of the networks.
    module_ : torch.nn.Module
        Of `net_`; sees rows less `mean_`, over `scale_`.
    mean_ : array of shape (d,)
        Mean of the training rows.
    scale_ : float, or array of shape (d,) with "diagonal"
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
    of Three Entropies", eq. 25.

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
        noise_model: str = "scalar",
        noise_variance: Any = None,
        noise_variance_init: Any = None,
        noise_update: str = "closed_form",
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
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.noise_model = noise_model
        self.noise_variance = noise_variance
        self.noise_variance_init = noise_variance_init
        self.noise_update = noise_update
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
        self.verbose = verbose
        self.random_state = random_state

    @property
    def _scales_features(self) -> bool:
        return self.noise_model == "diagonal"

    _of_networks = (*DeepVAE._of_networks, "noise_model", "noise_variance", "noise_update")

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        """Mean and variance of p(x|z) for each row of latent z.

        Parameters
        ----------
        Z : array-like of shape (n, k)

        Returns
        -------
        mean : array of shape (n, d)
        variance : array of shape (n, d)
            The same for every row: a read-only view of one row.
        """
        mean = self.inverse_transform(Z)
        return mean, np.broadcast_to(np.asarray(self.noise_variance_, mean.dtype), mean.shape)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("noise_model", self.noise_model, NOISE_MODELS)
        check_choice("noise_update", self.noise_update, NOISE_UPDATES)
        self._check_noise("noise_variance")
        self._check_noise("noise_variance_init")
        if self.noise_variance is not None and self.noise_variance_init is not None:
            raise ValueError(
                "noise_variance_init is where learning starts, but noise_variance="
                f"{self.noise_variance!r} holds it fixed: leave one of them None."
            )

    def _check_noise(self, name: str) -> None:
        value = getattr(self, name)
        if value is None or is_real(value) or self.noise_model != "diagonal":
            check_noise_variance(value, name)
            return
        array = np.asarray(value)
        numbers = array.ndim == 1 and array.dtype.kind in "fiu"
        if not (numbers and np.isfinite(array).all() and (array > 0).all()):
            raise ValueError(
                f"{name} must be None, a positive float or an array of them, one a feature, got "
                f"{value!r}."
            )

    def _new_module(self, rows: Tensor) -> Callable[[], VAEModule]:
        start, limits = self._noise_of(rows)
        return partial(
            gaussian_vae_module,
            rows.shape[1],
            self.n_components,
            encoder=self.encoder,
            decoder=self.decoder,
            hidden_layer_sizes=self._hidden_layer_sizes(),
            activation=self.activation,
            noise_variance=start,
            noise_update=None if self.noise_variance is not None else self.noise_update,
            noise_limits=limits,
            dtype=rows.dtype,
        )

    def _noise_of(self, rows: Tensor) -> tuple[Array, tuple[float, float]]:
        """First noise variance and limits of its learning, as the networks see the rows."""
        d = rows.shape[1]
        shape = (d,) if self.noise_model == "diagonal" else ()
        name = "noise_variance_init" if self.noise_variance is None else "noise_variance"
        given = getattr(self, name)
        if given is not None:
            numbers = np.asarray(given, dtype=np.float64)
            if numbers.ndim and numbers.shape != (d,):
                raise ValueError(
                    f"{name} must have one number a feature, n_features={d}, got {len(numbers)}."
                )
            with np.errstate(over="ignore"):
                units = numbers / self.scale_**2
            kind = torch.finfo(rows.dtype)
            if not ((units >= kind.tiny) & (units <= kind.max)).all():
                raise ValueError(
                    f"{name} must be within the range of {rows.dtype} when divided by the variance "
                    f"of the features, {np.mean(self.scale_**2):.3g}, got {given!r}."
                )
            given = np.broadcast_to(units, shape)
        if self.noise_variance is not None:
            return given, (0.0, math.inf)
        cap = 1.0 if shape else math.inf  # a feature's own variance
        capped = self.noise_update == "closed_form"
        if given is None or (capped and not shape):
            ppca = _residuals_of_ppca(rows.cpu().numpy(), self.n_components)
            ppca = ppca if shape else ppca.mean()
            if not shape and ppca > NOISE_FLOOR:
                cap = float(ppca)
            if given is None:
                given = np.where(ppca > NOISE_FLOOR, ppca, NOISE_START)
        return given, (NOISE_FLOOR, cap if capped else math.inf)

    def _monitor(self) -> NoiseMonitor:
        return NoiseMonitor(self._log_scale(), self.scale_)

    def _misfit(self, p: Any, x: Tensor) -> Tensor:
        return (x - p.mean).square().sum((0, 1))

    def _set_bound(
        self, squares: Array, log_variance: Array, second_moment: Array, bounded: bool
    ) -> None:
        """From squared residuals (d,) and posterior moments (k,), means over the training rows."""
        likelihood, d = self.module_.likelihood, self.n_features_in_
        if likelihood.update == "closed_form":
            optimum = squares if likelihood.log_variance.ndim else squares.mean()
            log_optimum = torch.log(self._as_tensor(optimum))
            likelihood.log_variance.copy_(torch.maximum(log_optimum, likelihood.log_low))
        at_bound = (
            likelihood.update and (likelihood.log_variance <= likelihood.log_low + 1e-6).any()
        )
        active = {"noise variance": at_bound, "posterior variance": bounded}
        variance = likelihood.noise_variance.double().cpu().numpy()
        noise = variance * self.scale_**2
        self.noise_variance_ = noise if variance.ndim else float(noise)
        scaled = float(np.sum(squares / variance))
        log_sum = float(np.sum(np.broadcast_to(np.log(variance), d)))
        reconstruction = -0.5 * (scaled + log_sum + d * LOG_2PI) - self._log_scale()
        self.elbo_ = reconstruction - float(self.kl_per_dim_.sum())
        mean_noise = math.exp((log_sum + 2.0 * self._log_scale()) / d)
        self.entropy_bound_ = entropy_bound(d, mean_noise, log_variance)
        held = tuple(name for name, is_held in active.items() if is_held)
        self.entropy_gap_ = EntropyGap.of(d, scaled, second_moment, held)

    def _draw_rows(self, Z: Array, random_state: np.random.RandomState) -> Array:
        mean = self.inverse_transform(Z)
        return mean + np.sqrt(self.noise_variance_) * random_state.standard_normal(mean.shape)


def gaussian_vae_module(
    n_features: int,
    n_components: int,
    *,
    encoder: Any,
    decoder: Any,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    noise_variance: Array,
    noise_update: str | None,
    noise_limits: tuple[float, float],
    dtype: torch.dtype,
) -> VAEModule:
    """A new module, its weights from torch's global generator."""
    posterior = DiagonalPosterior(n_components)
    likelihood = GaussianLikelihood(
        n_features, torch.tensor(noise_variance), noise_update, noise_limits
    )
    networks = (hidden_layer_sizes, activation)
    return VAEModule(
        build_encoder(encoder, (n_features,), posterior.n_inputs, *networks),
        posterior,
        build_decoder(decoder, n_components, (likelihood.n_inputs,), *networks),
        likelihood,
        StandardPrior(n_components),
    ).to(dtype)


def _residuals_of_ppca(rows: Array, n_components: int) -> Array:
    """E_q (x_j - mu_j(z))^2 of pPCA with as many components, averaged over the rows, (d,).

    Their mean is its noise variance; 0 where it has none.
    """
    ppca = PPCA(n_components=min(n_components, *rows.shape), random_state=0).fit(rows)
    variance = np.einsum("ij,ij->j", rows, rows) / len(rows)
    return np.maximum(variance - (ppca.loadings_**2).sum(axis=1), 0)
