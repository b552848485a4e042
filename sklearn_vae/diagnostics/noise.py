"""Tuning of the noise variance of a fitted model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import kl_per_dimension
from sklearn_vae.diagnostics.entropies import TOLERANCE, complete_rows, compute_entropies
from sklearn_vae.gaussian.arrays import to_host
from sklearn_vae.protocol import LatentModel, as_latent_model


@dataclass(frozen=True, eq=False)
class TunedNoise:
    """The best noise variance for some samples, all else unchanged.

    Attributes
    ----------
    noise_variance : float or array of shape (n_features,)
        sigma2*.
    elbo, tuned_elbo : float
        Bound of the samples before and with sigma2*, in nats per sample.
    estimator : estimator
        A copy with sigma2*; its `elbo_`, `kl_per_dim_`, `entropy_bound_` and `entropy_gap_` are
        those of the samples.
    """

    noise_variance: Any
    elbo: float
    tuned_elbo: float
    estimator: Any

    @property
    def gain(self) -> float:
        """Gain of the bound, in nats per sample."""
        return self.tuned_elbo - self.elbo


def tune_noise_variance(estimator: LatentModel, X: Any) -> TunedNoise:
    """Find the noise variance with the highest bound for X, without training.

    For VAEs it has a closed form, sigma2* = E_q |x - mu(z)|^2 / d averaged over the samples
    ("diagonal": per feature). For pPCA, whose posterior depends on sigma2 too, it is the maximum
    of the log-likelihood with W and mu unchanged.

    Parameters
    ----------
    estimator : PPCA, PPCACV, LinearVAE or DeepGaussianVAE
        Fitted; not with "heteroscedastic" noise.
    X : array-like of shape (n_samples, n_features)
        Samples without missing values.

    Returns
    -------
    TunedNoise

    Raises
    ------
    TypeError
        If the estimator has no noise variance.
    ValueError
        If sigma2* is 0: the bound has no maximum.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), table 2 ("sigma2-tuned");
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    eq. 9.
    """
    model = as_latent_model(estimator, "tune_noise_variance")
    tuned: Any = with_tuned_noise(model, X)
    if tuned is None:
        raise TypeError(
            "tune_noise_variance needs a model with one noise variance for all z, and "
            f"{type(estimator).__name__} has no noise_variance_."
        )
    # The bound on the previous noise variance does not hold this one.
    bounds = tuple(name for name in tuned.active_bounds if name != "noise variance")
    after = compute_entropies(tuned, X, TOLERANCE, bounds)
    tuned.elbo_, tuned.entropy_bound_, tuned.entropy_gap_ = after.elbo, after.bound, after.gap
    tuned.kl_per_dim_ = kl_per_dimension(tuned, X)
    before = float(np.mean(to_host(model.score_samples(X)), dtype=np.float64))
    return TunedNoise(tuned.noise_variance_, before, after.elbo, tuned)


def with_tuned_noise(model: LatentModel, X: Any) -> LatentModel | None:
    """A copy with the best noise variance for X; None for models without a shared one."""
    if model.shared_noise_variance is None:
        return None
    complete_rows(X, "tune_noise_variance")
    with np.errstate(divide="ignore"):
        tuned = model.with_tuned_noise(X)
    if tuned is not None and not np.all(tuned.noise_variance_ > 0):
        raise ValueError(
            "noise_variance must be above 0, but the best one for these rows is "
            f"{tuned.noise_variance_}: the model reproduces them without error."
        )
    return tuned
