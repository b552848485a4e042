"""Gradient training of linear VAEs: with the exact ELBO, or with random draws and mini-batches."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from sklearn_vae.gaussian.bounds import normal_entropy
from sklearn_vae.gaussian.linear_elbo import (
    LinearElbo,
    LinearVAEParameters,
    with_best_encoder,
    with_unit_encoder,
)
from sklearn_vae.linear.covariance import TrainingCovariance
from sklearn_vae.nn.likelihoods import GaussianLikelihood
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.objectives import elbo
from sklearn_vae.nn.posteriors import (
    DiagonalPrior,
    SharedPosterior,
    StandardPrior,
    is_at_limit,
)
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.serialization.identity import digest
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.callbacks import Progress
from sklearn_vae.training.checkpointing import Keeper, hardware_of
from sklearn_vae.training.devices import choose_device, threads_worth, torch_defaults
from sklearn_vae.training.loop import VAENet
from sklearn_vae.training.monitors import LatentMonitor
from sklearn_vae.training.net_state import checked_optimizer_state
from sklearn_vae.training.scaling import standardize

Array = NDArray[Any]

# Number of Adam steps after which the training checks whether they still raise the bound.
STEPS_COMPARED = 100


class Options(NamedTuple):
    """Options of both solvers; variances are shares of the average variance of a feature."""

    n_components: int
    noise_variance: float  # fixed or initial value
    learn_noise: bool
    least_noise: float
    unit_encoder: bool  # D = I and a learned prior, instead of a learned D
    learning_rate: float
    max_iter: int  # steps of "adam", epochs of "stochastic"
    tol: float  # of "adam"
    batch_size: int | None  # of "stochastic"
    n_mc_samples: int  # of "stochastic"
    device: Any
    verbose: int
    seed: int


class Training(NamedTuple):
    """Result of a training in units of the data, and the reason if it ended early.

    `log_variance` is the sum over the dimensions of log D, or of log alpha2 for a unit encoder.
    """

    parameters: LinearVAEParameters
    bound: Array
    noise_variance: Array
    log_variance: Array
    error: FloatingPointError | None
    interrupted: bool
    active_bounds: tuple[str, ...] = ()
    settled: bool = False  # whether "adam" stopped by `tol`

    @classmethod
    def from_saved(cls, saved: dict[str, Any], shape: tuple[int, int]) -> Training:
        """Restore a complete training, with W of the given shape, from a checkpoint."""
        training = cls(**{**saved, "parameters": LinearVAEParameters(**saved["parameters"])})
        p, bound = training.parameters, training.bound
        history = bound, training.noise_variance, training.log_variance
        fits = p.W.shape == p.V.shape[::-1] == shape and p.D.shape == shape[1:]
        is_complete = saved["error"] is None and saved["interrupted"] is False
        is_complete &= isinstance(saved["settled"], bool)
        if not (is_complete and isinstance(saved["active_bounds"], tuple)):
            raise ValueError("no complete training")
        same_length = {array.shape for array in history} == {(len(bound),)}
        if not (fits and same_length and p.noise_variance > 0):
            raise ValueError(f"parameters of shape {p.W.shape}")
        return training


@torch_defaults()
def train_exact(data: TrainingCovariance, options: Options, file: Checkpoint | None) -> Training:
    """Train with Adam along the gradient of the exact ELBO.

    W and V are expressed in the eigenbasis of the covariance, where each column of the solution
    has one nonzero entry. Steps are in units of the standard deviation of the data along each
    eigenvector, where these entries are of order 1. Training stops when the average bounds of the
    last 100 steps and of the 100 before differ by less than `options.tol`.
    """
    scale, d = data.scale, data.n_features
    spectrum = data.resolved_spectrum(options.n_components)
    present = spectrum.eigenvalues > spectrum.resolution
    eigenvalues, basis = spectrum.eigenvalues[present] / scale**2, spectrum.components[present]
    device = choose_device(options.device, "float64", np.float64)[0]
    bound = LinearElbo(torch.as_tensor(eigenvalues, device=device), n_features=d)
    state = _State(bound.S.sqrt(), options)
    optimizer = Adam(state.learned, lr=options.learning_rate)
    history: list[tuple[float, float, float]] = []
    kept, interrupted, settled = state.copy(), False, False
    error: FloatingPointError | None = None
    n_operations = 8.0 * len(eigenvalues) * options.n_components**2
    if file is not None:
        start = digest(state.learned, eigenvalues, basis, data.mean, scale)

        def read(saved: Any) -> Any:
            if file.finished:
                return Training.from_saved(saved, (d, options.n_components))
            state = _State(bound.S.sqrt(), options)
            return _restore(saved, state, Adam(state.learned, lr=options.learning_rate))

        resumed = file.resume(read, {"numbers": start}, **hardware_of(device, n_operations))
        if file.finished:
            return resumed
        if resumed is not None:
            state, optimizer, history, kept = resumed
    n_resumed, bar_options = len(history), {"unit": "step", "disable": not options.verbose}
    bar = tqdm(total=options.max_iter, initial=max(n_resumed - 1, 0), **bar_options)
    with torch.no_grad(), threads_worth(n_operations), bar:
        try:
            while True:
                step = len(history)
                if file is not None and step > n_resumed and step % file.every == 0:
                    file.save(_saved(state, optimizer, history, kept))
                p = state.parameters()
                value, gradients = bound.value_and_gradients(p)
                if not math.isfinite(value):
                    del history[step - (step - 1) % STEPS_COMPARED :]
                    raise FloatingPointError(
                        f"Training diverged: the bound became infinite or NaN after step {step}, "
                        f"most likely because learning_rate={options.learning_rate} is too large. "
                        f"The model keeps the parameters after step {len(history) - 1}."
                    )
                history.append((value, p.noise_variance, state.sum_of_logs()))
                if step % STEPS_COMPARED == 0:
                    kept = state.copy()
                    settled = _has_settled(history, options.tol)
                    if settled:
                        break
                if step == options.max_iter:
                    break
                state.set_gradients(p, gradients)
                optimizer.update()
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
            p = state.parameters()
            if len(history) and math.isfinite(value := bound.value(p)):
                history.append((value, p.noise_variance, state.sum_of_logs()))
            else:
                state.restore(kept)
        except FloatingPointError as diverged:
            state.restore(kept)
            error = diverged
        p = LinearVAEParameters(*map(_to_host, state.parameters()))
    values, noise, log_variance = np.array(history).reshape(-1, 3).T
    return Training(
        _in_units_of_data(p._replace(W=basis.T @ p.W, V=p.V @ basis), scale),
        values - d * math.log(scale),
        noise * scale**2,
        log_variance,
        error,
        interrupted,
        settled=settled,
    )


class _State:
    """W and V in units of standard deviations, and logarithms of D, sigma2 and alpha2."""

    def __init__(self, deviations: Tensor, options: Options) -> None:
        self.deviations, self.options = deviations, options
        r, k = len(deviations), options.n_components
        scales = deviations.cpu().numpy()[:, None]
        rng = np.random.RandomState(options.seed)
        p = _start(scales * rng.standard_normal((r, k)) / math.sqrt(r), options)
        learned = (p.W / scales, p.V * scales.T, _log_variance(p, options))
        # Contiguous like the gradients, because Adam's kernel ignores strides.
        self.W, self.V, self.log_variance = (
            nn.Parameter(torch.tensor(np.ascontiguousarray(array), device=deviations.device))
            for array in learned
        )
        self.log_noise = nn.Parameter(deviations.new_tensor(math.log(options.noise_variance)))
        self.learned = [self.W, self.V, self.log_variance]
        if options.learn_noise:
            self.learned.append(self.log_noise)

    def parameters(self) -> LinearVAEParameters:
        """Return the parameters in the eigenbasis."""
        if self.options.learn_noise:
            self.log_noise.clamp_(min=math.log(self.options.least_noise))
        W, V = self.W * self.deviations[:, None], self.V / self.deviations
        variance, noise = self.log_variance.exp(), float(self.log_noise.exp())
        if self.options.unit_encoder:
            return LinearVAEParameters(W, V, torch.ones_like(variance), noise, variance)
        return LinearVAEParameters(W, V, variance, noise)

    def sum_of_logs(self) -> float:
        """Return the sum of the logarithms of the learned variances of the latent dimensions."""
        return float(self.log_variance.sum())

    def set_gradients(self, p: LinearVAEParameters, gradients: LinearVAEParameters) -> None:
        """Set the gradients of minus the bound from the gradients of the bound."""
        self.W.grad = (-gradients.W * self.deviations[:, None]).contiguous()
        self.V.grad = (-gradients.V / self.deviations).contiguous()
        if self.options.unit_encoder:
            slope = gradients.prior_variance * p.prior_variance
        else:
            slope = gradients.D * p.D
        self.log_variance.grad = torch.as_tensor(-slope)
        noise_slope = gradients.noise_variance * p.noise_variance
        self.log_noise.grad = torch.full_like(self.log_noise, -noise_slope)

    def copy(self) -> list[Tensor]:
        """Copy the learned tensors."""
        return [parameter.detach().clone() for parameter in self.learned]

    def restore(self, kept: list[Tensor]) -> None:
        """Set the learned tensors to copies of them."""
        for parameter, value in zip(self.learned, kept, strict=True):
            parameter.copy_(value)


def _saved(
    state: _State, optimizer: Adam, history: list[tuple[float, float, float]], kept: list[Tensor]
) -> Any:
    """Return everything that the next step depends on."""
    parts = {"learned": state.copy(), "optimizer": optimizer.state_dict(), "kept": kept}
    return {**parts, "history": np.array(history)}


@torch.no_grad()
def _restore(
    saved: Any, state: _State, optimizer: Adam
) -> tuple[_State, Adam, list[tuple[float, float, float]], list[Tensor]]:
    """Restore a new state and optimizer from the result of `_saved`."""
    state.restore(saved["learned"])
    optimizer.load_state_dict(checked_optimizer_state(saved["optimizer"], optimizer))
    history = [(float(a), float(b), float(c)) for a, b, c in saved["history"].tolist()]
    if [part.shape for part in saved["kept"]] != [part.shape for part in state.learned]:
        raise ValueError("kept parameters of another shape")
    return state, optimizer, history, saved["kept"]


def _start(W: Array, options: Options) -> LinearVAEParameters:
    """Return a decoder with its best encoder."""
    p = with_best_encoder(W, options.noise_variance)
    return with_unit_encoder(p) if options.unit_encoder else p


def _log_variance(p: LinearVAEParameters, options: Options) -> Array:
    """Return the log-variances of the posterior, or of the prior if that is learned."""
    return np.log(p.prior_variance if options.unit_encoder else p.D)


def _has_settled(history: list[tuple[float, float, float]], tol: float) -> bool:
    """Return whether the average bounds of the last two periods of 100 steps agree to `tol`."""
    values = [value for value, *_ in history[-2 * STEPS_COMPARED :]]
    if len(values) < 2 * STEPS_COMPARED:
        return False
    before, now = np.split(np.array(values), 2)
    return bool(abs(now.mean() - before.mean()) < tol)


@torch_defaults()
def train_stochastic(
    data: TrainingCovariance, options: Options, file: Checkpoint | None
) -> Training:
    """Train with draws z = V (x - mu) + sqrt(D) eps and mini-batches, like the deep models."""
    n, d, scale = data.n_samples, data.n_features, data.scale
    device, dtype, precision = choose_device(options.device, "auto", data.X.dtype)
    x = standardize(data.X, np.arange(n), data.mean, scale, device, dtype)
    weights = None if data.weights is None else torch.as_tensor(data.weights).to(x)
    monitor = LatentMonitor(d * math.log(scale), scale, GaussianLikelihood.recorded)
    net = VAENet(
        partial(_module, d, options, dtype),
        objective=elbo,
        options={},
        monitor=monitor,
        noise_shape=(options.n_mc_samples, options.n_components),
        seed=options.seed,
        precision=precision,
        lr=options.learning_rate,
        max_epochs=options.max_iter,
        batch_size=options.batch_size or n,
        train_split=None,
        device=str(device),
        verbose=0,
    ).initialize()
    keeper, left = None, options.max_iter
    if file is not None:
        shape, units = (d, options.n_components), (data.mean, scale)
        keeper = Keeper(file, net, left, units, lambda saved: Training.from_saved(saved, shape))
        if file.finished:
            return keeper.state
        left = keeper.epochs_left
    if options.verbose:
        net.callbacks = [Progress(options.max_iter, options.max_iter - left)]
        net.initialize_callbacks()
    error: FloatingPointError | None = None
    try:
        net.partial_fit(x, epochs=left, keeper=keeper, weights=weights)
    except FloatingPointError as diverged:
        error = diverged
    net.drop_unfinished_epoch()
    module = net.module_
    with torch.no_grad():
        q = module.posterior(x.new_zeros(1, options.n_components))
        variance, prior = q.variance[0], module.prior().variance
        held = bool(is_at_limit(q.log_variance).any())
    parameters = LinearVAEParameters(
        _to_host(module.decoder.weight),
        _to_host(module.encoder.weight),
        _to_host(variance),
        float(module.likelihood.noise_variance),
        _to_host(prior) if options.unit_encoder else 1.0,
    )
    learned = "prior_entropy" if options.unit_encoder else "posterior_entropy"
    bound, noise, entropy = (
        np.array([epoch[name] for epoch in net.history])
        for name in ("bound", "noise_variance", learned)
    )
    log_variance = 2.0 * (entropy - normal_entropy(options.n_components, 0.0))
    interrupted = error is None and len(bound) < options.max_iter
    bounds = ("posterior variance",) if held else ()
    history = bound, noise, log_variance
    return Training(_in_units_of_data(parameters, scale), *history, error, interrupted, bounds)


def _module(n_features: int, options: Options, dtype: torch.dtype) -> VAEModule:
    """Build networks without biases, because the data are centered and their mean is optimal."""
    k = options.n_components
    noise = torch.tensor(options.noise_variance, dtype=torch.float64)
    update = "gradient" if options.learn_noise else None
    limits = (options.least_noise, math.inf) if options.learn_noise else (0.0, math.inf)
    decoder, encoder = nn.Linear(k, n_features, bias=False), nn.Linear(n_features, k, bias=False)
    posterior = SharedPosterior(k, learned=not options.unit_encoder)
    prior = DiagonalPrior(k) if options.unit_encoder else StandardPrior(k)
    W = np.random.RandomState(options.seed).standard_normal((n_features, k))
    p = _start(W / math.sqrt(n_features), options)
    learned_variance: Any = prior if options.unit_encoder else posterior
    with torch.no_grad():
        decoder.weight.copy_(torch.from_numpy(p.W))
        encoder.weight.copy_(torch.from_numpy(p.V))
        learned_variance.log_variance.copy_(torch.from_numpy(_log_variance(p, options)))
    likelihood = GaussianLikelihood(n_features, noise, update, limits)
    return VAEModule(encoder, posterior, decoder, likelihood, prior).to(dtype)


def _in_units_of_data(p: LinearVAEParameters, scale: float) -> LinearVAEParameters:
    return p._replace(W=p.W * scale, V=p.V / scale, noise_variance=p.noise_variance * scale**2)


def _to_host(value: Any) -> Any:
    return value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
