"""Warning of a fit that overfits, is worse than the linear model, or has not converged."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.deep.epoch_search import EpochSearch
from sklearn_vae.gaussian.tolerances import NATS, NOISE_RATIO, OPEN_SHARE, SHARE_OF_GAIN, WEAK_KL
from sklearn_vae.gaussian.trend import trend_of
from sklearn_vae.warning import warn_user

# Number of epochs from which a fit with a given number of them is judged.
MIN_EPOCHS = 20

# A fit overfits if validation samples lose this share of what training samples gain over a model
# without latent dimensions. Gains below some nats per sample count as these.
LOST_SHARE = 0.5

# The validation bound of a search still rises if this share of its whole rise is in the last fifth
# of the epochs that are allowed.
RISING_SHARE = 0.1


class LinearFit(NamedTuple):
    """A linear model of the same data, in the units of the data."""

    name: str
    bound: float  # of the samples that judge the fit
    noise_variance: float = math.nan


class Bounds(NamedTuple):
    """Bounds of a fit and of simpler models, averaged over samples in the units of the data."""

    model: float
    without_latents: float
    linear: LinearFit | None = None  # with the noise variance of the fit if that is given
    own_noise: LinearFit | None = None  # with its own noise variance if that of the fit is given
    validated: bool = False  # whether the samples are the validation samples

    @property
    def gain(self) -> float:
        """Gain of the better one of fit and linear model over a model without latents."""
        fits = (self.linear, self.own_noise)
        best = max([self.model, *(fit.bound for fit in fits if fit is not None)])
        return max(best - self.without_latents, 0.0)


def is_judged(model: Any, search: EpochSearch | None) -> bool:
    """Return whether a fit with a given number of epochs is compared with the linear model."""
    return search is None and model.n_iter_ >= MIN_EPOCHS and model._trains_on_bound()


def warn_of_outcome(model: Any, bounds: Bounds, search: EpochSearch | None) -> None:
    """Issue at most one ConvergenceWarning, in the order of severity."""
    margin = SHARE_OF_GAIN * bounds.gain + NATS * model._has_nats
    text = _overfits(model, bounds, search)
    if search is not None:
        text = text or _search_still_rises(model, search)
    elif is_judged(model, search):
        text = text or _hides_dimensions(model, bounds, margin) or _is_worse(model, bounds, margin)
        text = text or _still_rises(model, bounds)
    if text:
        warn_user(text, ConvergenceWarning)


def _overfits(model: Any, bounds: Bounds, search: EpochSearch | None) -> str:
    bound = bounds.model
    if search is not None:
        validation = float(search.bounds[search.best if search.n_epochs else 0])
    else:
        # An interrupted fit may have no bound of the validation samples.
        if not model.stopped_early or "validation_bound" not in model.history_:
            return ""
        # Both of the same epoch: the noise variance of the final model is set after training.
        best = int(np.argmax(model.history_["validation_bound"]))
        bound = float(model.history_["bound"][best])
        validation = float(model.history_["validation_bound"][best])
    gain = bound - bounds.without_latents  # one that gains nothing is not trained enough to overfit
    least = NATS * model._has_nats
    if not (gain > 0 and bound - validation > LOST_SHARE * max(gain, least)):
        return ""
    return (
        f"The model overfits: the bound of the training samples, {bound:.4g}, is far above that of "
        f"validation samples, {validation:.4g}; reduce n_components={model.n_components_} or use "
        "more samples."
    )


def _hides_dimensions(model: Any, bounds: Bounds, margin: float) -> str:
    """Describe collapse by a fixed noise variance that is too large."""
    linear = bounds.own_noise
    if linear is None or linear.bound - bounds.model <= margin:
        return ""
    n_weak, noise = int((model.kl_per_dim_ <= WEAK_KL).sum()), float(model.noise_variance_)
    if not n_weak or noise <= NOISE_RATIO * linear.noise_variance:
        return ""
    return (
        f"{n_weak} of {model.n_components_} latent dimensions carry at most {WEAK_KL:g} nats, because "
        f"noise_variance={noise:.4g} is too large: the bound, {bounds.model:.4g}, is below that of "
        f"{linear.name} with its noise variance of {linear.noise_variance:.4g}, {linear.bound:.4g}; "
        "set noise_variance=None."
    )


def _is_worse(model: Any, bounds: Bounds, margin: float) -> str:
    linear = bounds.linear
    if linear is None or linear.bound - bounds.model <= margin:
        return ""
    samples = " of validation samples" if bounds.validated else ""
    return (
        f"Training ended below {linear.name}: the bound{samples} is {bounds.model:.4g}, compared "
        f"with {linear.bound:.4g}; {_remedy(model)}."
    )


def _still_rises(model: Any, bounds: Bounds) -> str:
    if model.stopped_early:
        return ""
    samples = "validation" if "validation_bound" in model.history_ else "training"
    history = model.history_["validation_bound" if samples == "validation" else "bound"]
    trend = trend_of(history[: model._n_epochs_at_rate()])
    if not trend.rises or trend.expected <= OPEN_SHARE * bounds.gain + NATS * model._has_nats:
        return ""
    return (
        f"Training has not converged: the bound of {samples} samples still rises, and {len(history)} "
        f"more epochs would add about {trend.expected:.2g}; {_remedy(model)}."
    )


def _remedy(model: Any) -> str:
    """Return what to do about training that was too short, or ended at a poor optimum."""
    trial = copy.copy(model)
    vars(trial).update(max_epochs="auto", early_stopping=False)
    if trial.init is None:
        trial.init = "auto"
    longer = "increase max_epochs"
    if trial._is_automatic():
        return f'set max_epochs="auto" or {longer}'
    return f"{longer} or change learning_rate"


def _search_still_rises(model: Any, search: EpochSearch) -> str:
    if not search.n_epochs or search.n_epochs < search.max_epochs:
        return ""
    rise = search.bounds[-1] - np.interp(0.8 * search.max_epochs, search.epochs, search.bounds)
    whole = search.bounds[-1] - search.bounds[0]
    if rise <= max(NATS * model._has_nats, RISING_SHARE * whole):
        return ""
    return (
        "Training has not converged: the bound of validation samples still rose by "
        f"{rise:.3g} in the last fifth of {search.max_epochs} epochs; set max_epochs to a larger "
        f'number and init="{model._linear_init}".'
    )
