"""Initialization of networks at the pPCA solution, and learning rates that keep it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_vae.deep.checks import checked_layer_sizes
from sklearn_vae.deep.choices import values_of_fit, with_values
from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.eigensolvers import (
    choose_solver,
    decompose_summary,
    recentered,
    summarize,
)
from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE, fit_factors
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.gaussian.symmetric import SymmetricSum, weighted_sums
from sklearn_vae.nn.incomplete import IncompleteEncoder
from sklearn_vae.nn.likelihoods import NOISE_FLOOR, NOISE_MODELS, rounding_noise
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, DiagonalPrior
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.batches import shuffled
from sklearn_vae.training.devices import threads_worth
from sklearn_vae.training.distributed import SINGLE_PROCESS, Reducer
from sklearn_vae.training.fast_paths import gradients_by_formula
from sklearn_vae.training.stored_samples import StoredSamples

Array = NDArray[Any]
Samples: TypeAlias = Tensor | StoredSamples

# Loss of ELBO that gradient noise may cause, relative to the information in z at the start and to
# the gain in ELBO since then.
SHARE_OF_START = 0.05
SHARE_OF_GAIN = 0.5

# Number of first epochs in which the learning rate rises, and fraction of last epochs in which it
# falls.
RISING_EPOCHS = 5
FALLING_SHARE = 0.2

# Largest derivative of the log-likelihood of factor analysis at convergence, in nats per sample.
FACTOR_TOL = 1e-5

# Number of batches from which Adam estimates gradient variances before its first step.
N_WARMUP_BATCHES = 16

# Largest number of elements of samples that are copied to float64.
LARGEST_IN_FLOAT64 = 2**27

# Samples of a large file with more features than this have no d x d moments; pPCA is then fitted to
# random samples with this number of entries.
MOST_FEATURES = 2048
SOME_ENTRIES = 2**24

# Number of entries of samples from which their moments are computed in blocks, without a copy of
# the samples, and number of entries of a block.
LARGE_ENTRIES = 2**24
BLOCK_ENTRIES = 2**19

# Slopes c of the activations with f(a) - f(-a) = c a. For these, two units pass a value through a
# layer unchanged.
SLOPES = {"relu": 1.0, "leaky_relu": 1.01, "gelu": 1.0, "silu": 1.0, "softplus": 1.0}


def check_init(vae: Any, hidden_layer_sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless `init` is None, or the networks can represent the linear model."""
    if vae.init is None:
        return
    if not (isinstance(vae.init, str) and vae.init == "ppca"):
        raise ValueError(f"init must be 'auto', None or 'ppca', got {vae.init!r}.")
    check_linear_networks(vae, hidden_layer_sizes)
    noise_model = getattr(vae, "noise_model", "scalar")
    if not NOISE_MODELS[noise_model].is_normal:
        raise ValueError(f"init='ppca' requires Gaussian noise, got noise_model={noise_model!r}.")


def can_start(vae: Any) -> bool:
    """Return whether `init` may be "ppca"."""
    model = with_values(vae, values_of_fit(vae))
    model.init = "ppca"
    try:
        check_init(model, checked_layer_sizes(model.hidden_layer_sizes))
    except ValueError:
        return False
    return True


def check_linear_networks(model: Any, hidden_layer_sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless the networks of a model can represent linear maps of its latents."""
    start = f"init={model.init!r}"
    required = {"encoder": "mlp", "decoder": "mlp", "variational_family": "diagonal"}
    for name, value in required.items():
        if getattr(model, name, value) != value:
            raise ValueError(f"{start} requires {name}={value!r}, got {getattr(model, name)!r}.")
    if not hidden_layer_sizes:
        return
    if model.activation not in SLOPES:
        names = ", ".join(map(repr, SLOPES))
        raise ValueError(
            f"{start} requires an activation f for which f(a) - f(-a) is a multiple of a, "
            f"one of {names}, got activation={model.activation!r}."
        )
    if min(hidden_layer_sizes) < 2 * model.n_components:
        raise ValueError(
            f"{start} requires hidden_layer_sizes of at least {2 * model.n_components}, two "
            f"units per latent dimension, got {model.hidden_layer_sizes!r}."
        )


class LearningRateLimit(Callback):
    """Callback that limits the learning rate so that training does not lose the initial ELBO.

    Adam moves every weight by up to its rate r. At a maximum of the ELBO this lowers the ELBO by
    (r / 4) sum_i s_i nats, where s_i is the standard deviation of gradient i between batches. With
    10^6 weights that start at a maximum, the loss exceeds the gain of many epochs. Therefore

    - r is limited such that the loss is at most a small share of `initial_nats`, I(x; z) at the
      start, plus half of the gain so far. The square roots of Adam's averages of squared gradients
      serve as upper bounds of s_i.
    - Adam averages squared gradients over `N_WARMUP_BATCHES` batches before its first step, which
      would otherwise have size r for every weight.
    - r rises over the first `RISING_EPOCHS` epochs and, if `falls`, decreases toward 0 over the last
      epochs, which recovers the loss.
    """

    def __init__(self, initial_nats: float, falls: bool = True) -> None:
        self.initial_nats = initial_nats
        self.falls = falls

    def on_train_begin(self, net: Any, X: Any = None, **kwargs: Any) -> None:
        """Initialize Adam's averages of squared gradients if Adam is new."""
        self.first_epoch_ = len(net.history)
        if net.optimizer_.state:
            return
        net.optimizer_.param_groups[0]["lr"] = 0.0
        try:
            self._accumulate_gradients(net, X)
        except BaseException:
            net._initialize_optimizer()
            raise
        finally:
            net.module_.zero_grad()

    def _accumulate_gradients(self, net: Any, X: Samples) -> None:
        # A different seed from that of the epochs, so that their first batch is not used twice.
        generator = torch.Generator(X.device).manual_seed(net.reducer_.own_seed(net.seed + 1))
        weights, options = net.weights_, net.options
        average = net.reducer_.averaging(net.module_.parameters())
        size = -(-len(X) // net.reducer_.n_batches(len(X), net.batch_size))
        draws, k = net.noise_shape
        formula: Any = None
        if weights is None:
            formula = gradients_by_formula(net.module_, net.objective, options)
        # Only steps of tables have a preparation, and tables are in memory.
        if hasattr(formula, "prepare") and len(X) <= N_WARMUP_BATCHES * size:
            X, formula = formula.prepare(X), formula.of_prepared
        with threads_worth(3 * net.operations_ * size * draws):
            for _ in range(N_WARMUP_BATCHES):
                chosen, x = next(shuffled(X, [size], generator))
                w = None if weights is None else weights[chosen]
                shape = (draws, size, k)
                noise = torch.randn(shape, generator=generator, device=X.device, dtype=X.dtype)
                net.module_.zero_grad()
                if w is not None:
                    options = {**net.options, "weights": w}
                if formula is None:
                    with torch.enable_grad():
                        bound = net.objective(net.module_, x, noise, 1.0, **options)[0]
                        (bound if w is None else w * bound).mean().neg().backward()
                else:
                    formula(x, noise, 1.0)
                average(size)
                with torch.no_grad():
                    net.optimizer_.update()
        if not (net.is_finite() and math.isfinite(sum_of_deviations(net.optimizer_))):
            raise ValueError(
                f"init='ppca' gives gradients that are not finite in {X.dtype}. The noise variance "
                "is too small for the data: use a larger noise_variance or noise_variance_init."
            )

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Set the learning rate and record it in the history."""
        epoch = len(net.history)
        last = self.first_epoch_ + net.max_epochs
        falling = max(1.0, FALLING_SHARE * net.max_epochs)
        ramp = min(1.0, epoch / RISING_EPOCHS)
        if self.falls:
            ramp = min(ramp, (last - epoch + 1) / (falling + 1))
        bounds = [row["bound"] for row in net.history[:-1]]
        gained = max(0.0, bounds[-1] - bounds[0]) if bounds else 0.0
        loss = SHARE_OF_START * self.initial_nats + SHARE_OF_GAIN * gained
        cap = 4.0 * loss / max(sum_of_deviations(net.optimizer_), 1e-300)
        rate = ramp * min(net.lr, cap)
        for group in net.optimizer_.param_groups:
            group["lr"] = rate
        net.history.record("learning_rate", rate)


@torch.no_grad()
def sum_of_deviations(optimizer: Adam) -> float:
    """Sum the standard deviations of all gradients, estimated from Adam's averages of squares."""
    decay = optimizer.param_groups[0]["betas"][1]
    squares = [state["exp_avg_sq"] for state in optimizer.state.values()]
    sums = [square.sqrt().sum(dtype=torch.float64) for square in squares]
    total = float(torch.stack(sums).sum())
    return total / (1.0 - decay**optimizer.n_steps) ** 0.5


@torch.no_grad()
def start_at_ppca(
    module: VAEModule, samples: Samples, reducer: Reducer, weights: Tensor | None = None
) -> float:
    """Set the networks and the prior of a module to pPCA, and return max(1, I(x; z)) in nats.

    The loadings maximize the likelihood given the noise variance of the module. If it differs
    between features, they are those of pPCA of X diag(sigma2)^-1/2. Hidden units that are not
    needed keep their incoming weights, but have outgoing weights of 0.
    """
    noise = module.likelihood.initial_log_variance.cpu().double().exp().numpy()
    k = module.posterior.n_components
    root = np.sqrt(np.broadcast_to(noise, samples.shape[1]))
    mean, loadings, _ = fit_ppca(samples, k, reducer, weights, noise_variance=1.0, units=root)
    return set_linear_networks(module, mean, loadings, root, samples)


@torch.no_grad()
def set_linear_networks(
    module: VAEModule, mean: Array, loadings: Array, root: Array, like: Samples
) -> float:
    """Set the networks and the prior to pPCA, and return max(1, I(x; z)) in nats.

    The mean and the loadings are in units of the noise, which `root` converts. Columns of W beyond
    their number are 0.
    """
    k, encoder = module.posterior.n_components, network_of(module.encoder)
    W = np.zeros((len(mean), k))
    W[:, : loadings.shape[1]] = loadings
    tau2 = 1.0 / (1.0 + np.square(W).sum(axis=0))
    W, A, mean = root[:, None] * W, tau2[:, None] * W.T / root, root * mean
    least = math.exp(LOG_VARIANCE_RANGE[0])
    if not (tau2 > least).all():
        raise ValueError(
            f"init='ppca' requires posterior variances above {least:.1e}, got {tau2.min():.1e}. "
            "The noise variance is too small for the data: use a larger noise_variance or "
            "noise_variance_init."
        )
    if isinstance(module.prior, DiagonalPrior) and len(module.decoder.layers) == 1:
        kept = int(W.any(axis=0).sum())
        if kept < k:
            raise ValueError(
                "init='ppca' with prior='learned_variance' and hidden_layer_sizes=() requires "
                f"n_components to be at most the number of directions with more variance than the "
                f"noise, {kept}, got {k}."
            )

    def tensor(array: Array) -> Tensor:
        return torch.as_tensor(array, dtype=like.dtype, device=like.device)

    eye = np.eye(k)
    constant = tensor(np.concatenate([np.zeros(k), np.log(tau2)]))
    set_linear_map(encoder, tensor(A), tensor(-A @ mean), tensor(eye), constant)
    shift = torch.zeros_like(module.decoder.layers[-1].bias)
    shift[: len(mean)] = tensor(mean)
    set_linear_map(module.decoder, tensor(eye), tensor(np.zeros(k)), tensor(W), shift)
    if isinstance(module.prior, DiagonalPrior):
        normalize_columns(module)
    return max(1.0, float(-0.5 * np.log(tau2).sum()))


class PPCAFit(NamedTuple):
    """A pPCA model."""

    mean: Array
    loadings: Array
    noise_variance: float  # 0 if the number of components reaches the rank of the samples


@torch.no_grad()
def ignore_features(module: VAEModule, features: Array) -> None:
    """Make the encoder independent of features, and the decoder return 0 for them.

    Training does not change this if the features are 0 in all samples.
    """
    first, last = network_of(module.encoder).layers[0], module.decoder.layers[-1]
    first.weight[:, features] = 0.0
    last.weight[features] = 0.0
    last.bias[features] = 0.0


def fit_ppca(
    samples: Samples,
    n_components: int,
    reducer: Reducer,
    weights: Tensor | None = None,
    noise_variance: float | None = None,
    units: Array | None = None,
) -> PPCAFit:
    """Fit pPCA to the samples of all processes, with their features divided by `units`.

    The number of loadings is limited by `n_components`, the samples and the features. Samples of a
    file count by their moments or, with more than `MOST_FEATURES`, by some of them.
    """
    if isinstance(samples, StoredSamples):
        if units is not None:
            samples, units = samples.divided_by(units), None
        if samples.shape[1] > MOST_FEATURES:
            samples, weights = samples.some(SOME_ENTRIES)
    w = None if weights is None else on_host(weights)
    in_blocks = isinstance(samples, StoredSamples) or is_tall(samples)
    X: Any = None if in_blocks else in_units(in_float64(samples), units)
    if reducer.size == 1 and not in_blocks:
        k, dtype = min(n_components, *X.shape), X.dtype
        solver = choose_solver(X, k)
        summary = summarize(X, solver, w)
        summary.check_finite()
        spectrum = decompose_summary(
            summary,
            k,
            solver,
            random_state=np.random.RandomState(0),
            refine=recentered(X, summary, w),
        )
    else:
        if isinstance(samples, StoredSamples):
            own = samples.moments
        else:
            own = _moments_in_blocks(samples, w, units) if in_blocks else Moments.of(X, w)
        moments = own if reducer.size == 1 else _joint_moments(own, reducer)
        k, dtype = min(n_components, round(moments.n), moments.n_features), moments.mean.dtype
        spectrum = Spectrum.from_moments(moments)
    sigma2 = spectrum.noise_variance(k) if noise_variance is None else noise_variance
    return PPCAFit(spectrum.mean.astype(dtype), spectrum.loadings(k, sigma2, dtype), sigma2)


def ppca_residuals(
    samples: Samples, n_components: int, reducer: Reducer, weights: Tensor | None = None
) -> Array:
    """Compute E_q (x_j - mu_j(z))^2 of pPCA for each feature, averaged over the samples.

    The mean over the features is the noise variance of pPCA, up to rounding errors.
    """
    loadings = fit_ppca(samples, n_components, reducer, weights).loadings
    squares = len(samples) * mean_squares(samples, weights)
    variance = reducer.sum(squares) / reducer.sum(len(samples))
    return np.maximum(variance - (loadings**2).sum(axis=1), 0)


def constant_features(samples: Samples, weights: Tensor | None) -> tuple[Array, Array]:
    """Set features that vary by rounding errors alone to 0; return their indices and variances.

    The samples have features of variance 1 or less than this. The variances are at least those that
    factor analysis gives to the noise of constant features.
    """
    variances = mean_squares(samples, weights)
    constant = np.flatnonzero(variances < NOISE_FLOOR)
    if isinstance(samples, StoredSamples):
        samples.set_zero(constant)
    else:
        samples[:, constant] = 0.0
    return constant, np.maximum(variances[constant], CONSTANT_NOISE)


def mean_squares(samples: Samples, weights: Tensor | None) -> Array:
    """Compute the weighted averages of the squared features, in float64."""
    if isinstance(samples, StoredSamples):
        averages: Array = samples.average(torch.square).numpy()
        return averages
    w = None if weights is None else on_host(weights)
    total = np.zeros(samples.shape[1])
    for block, X in blocks_in_float64(samples):
        squares = np.square(X)
        total += squares.sum(axis=0) if w is None else w[block] @ squares
    return total / len(samples)


def factor_noise(samples: Samples, n_components: int, weights: Tensor | None = None) -> Array:
    """Compute the noise variances of factor analysis, by maximum likelihood."""
    if isinstance(samples, StoredSamples) and samples.shape[1] > MOST_FEATURES:
        samples, weights = samples.some(SOME_ENTRIES)
    n, d = samples.shape
    if isinstance(samples, StoredSamples):
        summary: Any = samples.moments
    elif is_tall(samples):
        summary = _moments_in_blocks(samples, None if weights is None else on_host(weights))
    else:
        X, w = samples.cpu().double().numpy(), None if weights is None else on_host(weights)
        summary = Moments.of(X, w) if d <= n else centered_data(X, w)
    return fit_factors(summary, min(n_components, d, n - 1), tol=FACTOR_TOL).noise_variance


def noise_without_residuals(
    samples: Samples, k: int, weights: Tensor | None, ppca: PPCAFit
) -> Array | None:
    """Return the initial noise variance where pPCA leaves no residuals, else None.

    If k >= d, the covariance of pPCA is that of the data with every noise variance up to the smallest
    eigenvalue. If the samples have lower rank than their number allows, they are reconstructed
    exactly.
    """
    n, d = samples.shape
    rounding = rounding_noise(samples.dtype)
    if k >= d:
        loadings = fit_ppca(samples, k, SINGLE_PROCESS, weights, noise_variance=0.0).loadings
        squares = np.square(loadings).sum(axis=0)
        least = squares.min() if len(loadings) == loadings.shape[1] else 0.0
        if least > rounding:
            return np.asarray(0.5 * least)
    if ppca.noise_variance <= rounding and k < n - 1:
        return np.asarray(NOISE_FLOOR)
    return None


def in_float64(samples: Any) -> Array:
    """Return samples on the host, in float64 if that takes at most 1 GiB.

    Float32 cannot tell the noise of pPCA from rounding if it is less than 1e-6 of the variance.
    """
    X: Array = samples.cpu().numpy()
    return X.astype(np.float64, copy=False) if X.size <= LARGEST_IN_FLOAT64 else X


def in_units(X: Array, units: Array | None) -> Array:
    """Divide the features by `units`, if any, without a change of the dtype."""
    return X if units is None else (X / units).astype(X.dtype, copy=False)


def on_host(weights: Tensor) -> Array:
    """Return weights of samples as an array of float64."""
    return weights.cpu().double().numpy()


def is_tall(samples: Tensor) -> bool:
    """Return whether the moments of samples are computed in blocks, without a copy in float64."""
    n, d = samples.shape
    is_large = samples.dtype == torch.float32 and samples.numel() >= LARGE_ENTRIES
    return is_large and d <= min(MOST_FEATURES, n // 4)


def blocks_in_float64(samples: Samples) -> Iterator[tuple[slice, Array]]:
    """Yield slices of the samples, and these samples on the host, in float64."""
    step = max(1, BLOCK_ENTRIES // samples.shape[1])
    for start in range(0, len(samples), step):
        block = slice(start, start + step)
        yield block, samples[block].cpu().double().numpy()


def _moments_in_blocks(
    samples: Tensor, weights: Array | None, units: Array | None = None
) -> Moments:
    """Compute the moments of samples in float64, about the mean of the first block."""
    n, d = samples.shape
    total, scatter, shift = np.zeros(d), SymmetricSum(d, np.zeros(0), np.float64), None
    with np.errstate(invalid="ignore", over="ignore"):
        for block, X in blocks_in_float64(samples):
            R = in_units(X, units)
            shift = R.mean(axis=0) if shift is None else shift
            R = R - shift
            w = None if weights is None else weights[block]
            total += weighted_sums(R, w)
            scatter.add(R if w is None else np.sqrt(w)[:, None] * R)
        n, count = (n, n) if weights is None else (weights.sum(), np.count_nonzero(weights))
        mean = total / n
        spread = scatter.full() - total[:, None] * mean
        moments = Moments(float(n), mean + shift, spread, float(count))
    moments.check_finite()
    return moments


def _joint_moments(own: Moments, reducer: Reducer) -> Moments:
    """Combine the moments of the samples of all processes."""
    n = reducer.sum(own.n)
    mean = reducer.sum(own.n * own.mean) / n
    shift = own.mean - mean
    scatter = reducer.sum(own.scatter + own.n * np.outer(shift, shift))
    return Moments(n, mean, scatter)


def set_linear_map(network: MLP, first: Tensor, shift: Tensor, last: Tensor, bias: Tensor) -> None:
    """Set the first outputs to `last @ (first @ x + shift)`, and add `bias` to all outputs."""
    k = len(first)
    layers: Any = network.layers
    for layer in layers[:-1]:
        _set_first_units(layer, torch.cat([first, -first]), torch.cat([shift, -shift]))
        eye = torch.eye(k, dtype=first.dtype, device=first.device)
        first = torch.cat([eye, -eye], dim=1) / SLOPES[network.activation]
        shift = torch.zeros_like(shift)
    layers[-1].weight.zero_()
    layers[-1].bias.copy_(bias)
    layers[-1].bias[: len(last)] += last @ shift
    layers[-1].weight[: len(last), : first.shape[1]] = last @ first


def network_of(encoder: Any) -> Any:
    """Return the network of an encoder that may accept missing values."""
    return encoder.network if isinstance(encoder, IncompleteEncoder) else encoder


def _set_first_units(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Set the first units of a layer, which depend only on the first units of the layer before."""
    layer.weight[: len(weight)] = 0.0
    layer.weight[: len(weight), : weight.shape[1]] = weight
    layer.bias[: len(bias)] = bias


def normalize_columns(module: VAEModule) -> None:
    """Normalize the columns of the decoder's first matrix and move their lengths to the prior."""
    weight, k = module.decoder.layers[0].weight, module.posterior.n_components
    length = torch.linalg.vector_norm(weight, dim=0)
    length = torch.where(length > 0, length, 1.0)
    weight.div_(length)
    last = network_of(module.encoder).layers[-1]
    last.weight[:k] *= length[:, None]
    last.bias[:k] *= length
    last.bias[k:] += 2.0 * length.log()
    module.prior.log_variance.copy_(2.0 * length.log())
