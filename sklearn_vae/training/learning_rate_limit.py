"""Learning rates at which training does not lose what a start at pPCA gives."""

from __future__ import annotations

import math
from typing import Any

import torch
from skorch.callbacks import Callback

from sklearn_vae.training.adam import Adam
from sklearn_vae.training.batches import shuffled
from sklearn_vae.training.devices import threads_worth
from sklearn_vae.training.fast_paths import gradients_by_formula

# Loss of ELBO that gradient noise may cause, relative to the information in z at the start and to
# the gain in ELBO since then.
SHARE_OF_START = 0.05
SHARE_OF_GAIN = 0.5

# Number of first epochs in which the learning rate rises, and fraction of last epochs in which it
# falls.
RISING_EPOCHS = 5
FALLING_SHARE = 0.2

# Number of batches from which Adam estimates gradient variances before its first step.
N_WARMUP_BATCHES = 16


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

    def _accumulate_gradients(self, net: Any, X: Any) -> None:
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
