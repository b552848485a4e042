"""Networks that are pPCA before their first step, and rates that do not throw this away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_vae.deep.base import Array
from sklearn_vae.gaussian.eigensolvers import choose_solver, decompose
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.nn.likelihoods import NOISE_MODELS
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.networks import MLP
from sklearn_vae.nn.posteriors import LOG_VARIANCE_RANGE, DiagonalPrior
from sklearn_vae.training.devices import threads_worth
from sklearn_vae.training.distributed import Reducer

# What the noise of training may cost, as a share of the nats that the latents carry at the start,
# and of those that training has won since.
SHARE_FOR_NOISE = 0.05
SHARE_OF_GAIN = 0.5

# Epochs over which the rate rises at first, and share of all over which it falls at last.
WARMUP_EPOCHS = 5
FALLING = 0.2

# Batches whose gradients Adam sees before it moves a weight.
BATCHES_BEFORE = 16

# The c of activations with f(a) - f(-a) = c a: two units carry a number through a layer.
SLOPES = {"relu": 1.0, "leaky_relu": 1.01, "gelu": 1.0, "silu": 1.0, "softplus": 1.0}


def check_init(vae: Any, hidden_layer_sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless `vae.init` is None, or "ppca" and its networks can carry that."""
    if vae.init is None:
        return
    if not (isinstance(vae.init, str) and vae.init == "ppca"):
        raise ValueError(f"init must be None or 'ppca', got {vae.init!r}.")
    needs = {"encoder": "mlp", "decoder": "mlp", "variational_family": "diagonal"}
    for name, needed in needs.items():
        if getattr(vae, name) != needed:
            raise ValueError(f"init='ppca' needs {name}={needed!r}, got {getattr(vae, name)!r}.")
    if not NOISE_MODELS[vae.noise_model].is_normal:
        raise ValueError(f"init='ppca' needs normal noise, got noise_model={vae.noise_model!r}.")
    if not hidden_layer_sizes:
        return
    if vae.activation not in SLOPES:
        names = ", ".join(map(repr, SLOPES))
        raise ValueError(
            "init='ppca' needs an activation whose f(a) - f(-a) is a multiple of a, one of "
            f"{names}, got activation={vae.activation!r}."
        )
    if min(hidden_layer_sizes) < 2 * vae.n_components:
        raise ValueError(
            f"init='ppca' needs hidden_layer_sizes of at least {2 * vae.n_components}, two units "
            f"for each of n_components={vae.n_components}, got {vae.hidden_layer_sizes!r}."
        )


class KeepStart(Callback):
    """Sets the learning rate of each epoch, so that training does not lose what it began with.

    Adam moves every weight by up to its rate r, whatever a gradient is worth, and what it has
    found trembles around it: of gradients with standard deviations s_i from batch to batch, that
    lowers a bound at its maximum by (r / 4) sum_i s_i nats. Where 10^6 weights are right from the
    start, this is far more than an epoch can win. Hence

    - the rate is at most that for which this price is a small share of `worth`, and half of what
      training has won since its first epoch; for s_i stand the roots of Adam's own averages of
      squares, which are no smaller;
    - these have seen `BATCHES_BEFORE` batches before the first step, which otherwise were as large
      as the rate for every weight;
    - the rate rises over the first `WARMUP_EPOCHS` epochs, and falls toward 0 over the last ones,
      where what the trembling had cost comes back.

    Parameters
    ----------
    worth : float
        Nats that the latents carry at the start.
    """

    def __init__(self, worth: float) -> None:
        self.worth = worth

    def on_train_begin(self, net: Any, X: Any = None, **kwargs: Any) -> None:
        """Let Adam see some gradients, if it has not."""
        self.before_ = len(net.history)
        if net.optimizer_.state:
            return
        net.optimizer_.param_groups[0]["lr"] = 0.0
        try:
            self._see_gradients(net, X)
        except BaseException:
            net._initialize_optimizer()
            raise
        finally:
            net.module_.zero_grad()

    def _see_gradients(self, net: Any, X: Tensor) -> None:
        # Another seed than that of the epochs: their first batch is not to count twice.
        generator = torch.Generator(X.device).manual_seed(net.reducer_.own_seed(net.seed + 1))
        average = net.reducer_.averaging(net.module_.parameters())
        size, (draws, k) = min(net.batch_size, len(X)), net.noise_shape
        with threads_worth(3 * net.operations_ * size * draws):
            for _ in range(BATCHES_BEFORE):
                x = X[torch.randperm(len(X), generator=generator, device=X.device)[:size]]
                shape = (draws, size, k)
                noise = torch.randn(shape, generator=generator, device=X.device, dtype=X.dtype)
                net.module_.zero_grad()
                with torch.enable_grad():
                    bound = net.objective(net.module_, x, noise, 1.0, **net.options)[0]
                    bound.mean().neg().backward()
                average(size)
                with torch.no_grad():
                    net.optimizer_.update()
        if not (net.is_finite() and math.isfinite(sum_of_deviations(net.optimizer_))):
            raise ValueError(
                "init='ppca' needs a bound whose gradients are finite at the start, and this one's "
                f"are not in {X.dtype}: a noise variance is far too small for the data."
            )

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Set the rate."""
        epoch = len(net.history)
        last = self.before_ + net.max_epochs
        falling = max(1.0, FALLING * net.max_epochs)
        ramp = min(1.0, epoch / WARMUP_EPOCHS, (last - epoch + 1) / (falling + 1))
        bounds = [row["bound"] for row in net.history[:-1]]
        gained = max(0.0, bounds[-1] - bounds[0]) if bounds else 0.0
        price = SHARE_FOR_NOISE * self.worth + SHARE_OF_GAIN * gained
        cap = 4.0 * price / max(sum_of_deviations(net.optimizer_), 1e-300)
        rate = ramp * min(net.lr, cap)
        for group in net.optimizer_.param_groups:
            group["lr"] = rate
        net.history.record("learning_rate", rate)


@torch.no_grad()
def sum_of_deviations(optimizer: torch.optim.Adam) -> float:
    """Sum over all weights of their gradients' standard deviations, by Adam's averages of squares."""
    decay = optimizer.param_groups[0]["betas"][1]
    states = optimizer.state_dict()["state"].values()
    steps = float(next(iter(states))["step"])
    total = torch.stack([state["exp_avg_sq"].sqrt().double().sum() for state in states]).sum()
    return float(total) / (1.0 - decay**steps) ** 0.5


@torch.no_grad()
def start_at_ppca(module: VAEModule, rows: Tensor, reducer: Reducer) -> float:
    """Set networks and prior of a module so that it is pPCA of some rows.

    The noise variance is the one that the module's likelihood has, the loadings are those of
    maximum likelihood given it; with diag(sigma2) those of factor analysis, which pPCA of
    X diag(sigma2)^-1/2 gives. Hidden units that are not needed keep their incoming weights, and
    none of the others listens to them.

    Returns
    -------
    float
        Nats that the latents carry, I(x; z) of this model, or 1 if that is more.

    Raises
    ------
    ValueError
        If that model is not among those of the module.
    """
    noise = module.likelihood.initial_log_variance.cpu().double().exp().numpy()
    k = module.posterior.n_components
    W, A, tau2, mean = _ppca_with_noise(rows, k, noise, reducer)
    least = math.exp(LOG_VARIANCE_RANGE[0])
    if not (tau2 > least).all():
        raise ValueError(
            f"init='ppca' needs posterior variances above {least:.1e}, got {tau2.min():.1e}: the "
            "noise variance is too small beside the variances of the data."
        )
    if isinstance(module.prior, DiagonalPrior) and len(module.decoder.layers) == 1:
        kept = int(W.any(axis=0).sum())
        if kept < k:
            raise ValueError(
                "init='ppca' with prior='learned_variance' and hidden_layer_sizes=() needs as many "
                f"directions with more variance than the noise as n_components={k}, got {kept}: "
                "its columns have length 1, and none can be 0."
            )

    def tensor(array: Array) -> Tensor:
        return torch.as_tensor(array, dtype=rows.dtype, device=rows.device)

    eye = np.eye(k)
    constant = tensor(np.concatenate([np.zeros(k), np.log(tau2)]))
    _carry(module.encoder, tensor(A), tensor(-A @ mean), tensor(eye), constant)
    shift = torch.zeros_like(module.decoder.layers[-1].bias)
    shift[: len(mean)] = tensor(mean)
    _carry(module.decoder, tensor(eye), tensor(np.zeros(k)), tensor(W), shift)
    if isinstance(module.prior, DiagonalPrior):
        _to_unit_columns(module)
    return max(1.0, float(-0.5 * np.log(tau2).sum()))


def fit_ppca(
    rows: Tensor, n_components: int, reducer: Reducer, noise_variance: float | None = None
) -> tuple[Array, Array]:
    """Mean (d,) and loadings (d, k) of pPCA, with no more components than the rows allow.

    The samples are those of all processes that fit together.
    """
    X = rows.cpu().numpy()
    if reducer.size == 1:
        k, dtype = min(n_components, *X.shape), X.dtype
        solver = choose_solver(X, k)
        spectrum = decompose(X, k, solver, random_state=np.random.RandomState(0))
    else:
        moments = _joint_moments(X, reducer)
        k, dtype = min(n_components, int(moments.n), moments.n_features), moments.mean.dtype
        spectrum = Spectrum.from_moments(moments)
    sigma2 = spectrum.noise_variance(k) if noise_variance is None else noise_variance
    return spectrum.mean.astype(dtype), spectrum.loadings(k, sigma2, dtype)


def ppca_residuals(rows: Tensor, n_components: int, reducer: Reducer) -> Array:
    """E_q (x_j - mu_j(z))^2 of pPCA with this number of components, averaged over samples, (d,).

    Their mean is the noise variance of pPCA; 0 where it has none.
    """
    loadings, x = fit_ppca(rows, n_components, reducer)[1], rows.cpu().numpy()
    variance = reducer.sum(np.einsum("ij,ij->j", x, x)) / reducer.sum(len(x))
    return np.maximum(variance - (loadings**2).sum(axis=1), 0)


def _joint_moments(X: Array, reducer: Reducer) -> Moments:
    """Moments of the rows of all processes."""
    own = Moments.of(X)
    n = reducer.sum(own.n)
    mean = reducer.sum(own.n * own.mean) / n
    apart = own.mean - mean
    scatter = reducer.sum(own.scatter + own.n * np.outer(apart, apart))
    return Moments(n, mean, scatter)


def _ppca_with_noise(
    rows: Tensor, k: int, noise: Array, reducer: Reducer
) -> tuple[Array, Array, Array, Array]:
    """Loadings W (d, k), M^-1 W' (k, d), posterior variances (k,) and mean (d,) of pPCA.

    Columns beyond the rank of the rows are 0.
    """
    root = np.sqrt(np.broadcast_to(noise, rows.shape[1]))
    scaled = rows.cpu() / torch.from_numpy(root).to(rows.dtype)
    mean, loadings = fit_ppca(scaled, k, reducer, noise_variance=1.0)
    W = np.zeros((rows.shape[1], k))
    W[:, : loadings.shape[1]] = loadings
    tau2 = 1.0 / (1.0 + np.square(W).sum(axis=0))
    return root[:, None] * W, tau2[:, None] * W.T / root, tau2, root * mean


def _carry(network: MLP, first: Tensor, shift: Tensor, last: Tensor, bias: Tensor) -> None:
    """Make a network x -> last (first x + shift), in its first outputs, and add `bias`."""
    k = len(first)
    layers: Any = network.layers
    for layer in layers[:-1]:
        _set_rows(layer, torch.cat([first, -first]), torch.cat([shift, -shift]))
        eye = torch.eye(k, dtype=first.dtype, device=first.device)
        first = torch.cat([eye, -eye], dim=1) / SLOPES[network.activation]
        shift = torch.zeros_like(shift)
    layers[-1].weight.zero_()
    layers[-1].bias.copy_(bias)
    layers[-1].bias[: len(last)] += last @ shift
    layers[-1].weight[: len(last), : first.shape[1]] = last @ first


def _set_rows(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """The first units of a layer, which read the first ones of the layer before only."""
    layer.weight[: len(weight)] = 0.0
    layer.weight[: len(weight), : weight.shape[1]] = weight
    layer.bias[: len(bias)] = bias


def _to_unit_columns(module: VAEModule) -> None:
    """The same model with columns of length 1 in the decoder's first matrix, and their alpha2."""
    weight, k = module.decoder.layers[0].weight, module.posterior.n_components
    length = torch.linalg.vector_norm(weight, dim=0)
    length = torch.where(length > 0, length, 1.0)
    weight.div_(length)
    last = module.encoder.layers[-1]
    last.weight[:k] *= length[:, None]
    last.bias[:k] *= length
    last.bias[k:] += 2.0 * length.log()
    module.prior.log_variance.copy_(2.0 * length.log())
