"""Tuning of the noise variance of a fitted model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.diagnostics.dimensions import kl_per_dimension
from sklearn_vae.diagnostics.entropies import TOLERANCE, as_supported_array, compute_entropies
from sklearn_vae.protocol import LatentModel, as_latent_model


@dataclass(frozen=True, eq=False)
class TunedNoise:
    """Optimal noise variance of a model for given data.

    Attributes
    ----------
    noise_variance : float or ndarray of shape (n_features,)
        Noise variance sigma2* that maximizes the ELBO.
    elbo, tuned_elbo : float
        ELBO before and after tuning, in nats per sample.
    estimator : estimator
        Copy of the model with sigma2*. Its `elbo_`, `kl_per_dim_`, `entropy_bound_` and
        `entropy_gap_` refer to the given data.

    See Also
    --------
    tune_noise_variance : Find the optimal noise variance.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import tune_noise_variance
    >>> X = load_iris().data
    >>> tuned = tune_noise_variance(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> round(tuned.gain, 2), round(tuned.estimator.noise_variance_, 2)
    (1.91, 0.11)
    """

    noise_variance: Any
    elbo: float
    tuned_elbo: float
    estimator: Any

    @property
    def gain(self) -> float:
        """Increase of the ELBO, in nats per sample."""
        return self.tuned_elbo - self.elbo


def tune_noise_variance(estimator: LatentModel, X: Any) -> TunedNoise:
    """Find the noise variance that maximizes the ELBO, without training.

    All other parameters are unchanged. For VAEs, sigma2* is the average of E_q |x - mu(z)|^2 / d
    over the samples, or its analogue per feature. For pPCA, whose posterior depends on sigma2, it
    maximizes the log-likelihood.

    Parameters
    ----------
    estimator : PPCA, PPCACV, LinearVAE or DeepGaussianVAE
        Fitted model whose noise variance is the same for all z.
    X : array-like of shape (n_samples, n_features)
        Samples. Only deep VAEs accept missing values (NaN).

    Returns
    -------
    TunedNoise
        The noise variance, and a copy of the model that has it.

    Raises
    ------
    TypeError
        If the estimator has no noise variance that is shared by all z.
    ValueError
        If sigma2* is 0, where the ELBO is unbounded.

    See Also
    --------
    diagnose : Causes and remedies of collapse.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!" (2019), table 2 ("sigma2-tuned");
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    eq. 9.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import tune_noise_variance
    >>> X = load_iris().data
    >>> round(tune_noise_variance(PPCA(2, noise_variance=1.0).fit(X), X).noise_variance, 2)
    0.11
    """
    model = as_latent_model(estimator, "tune_noise_variance")
    tuned: Any = with_tuned_noise(model, X)
    if tuned is None:
        raise TypeError(
            "tune_noise_variance needs a model with the same noise variance for all z, but "
            f"{model.model_name} has no noise_variance_ that can be changed."
        )
    # The tuned noise variance is not subject to the bound of training.
    bounds = tuple(name for name in tuned.active_bounds if name != "noise variance")
    after = compute_entropies(tuned, X, TOLERANCE, bounds)
    tuned.elbo_, tuned.entropy_bound_, tuned.entropy_gap_ = after.elbo, after.bound, after.gap
    tuned.kl_per_dim_ = kl_per_dimension(tuned, X)
    before = float(np.mean(to_host(model.score_samples(X)), dtype=np.float64))
    return TunedNoise(tuned.noise_variance_, before, after.elbo, tuned)


def with_tuned_noise(model: LatentModel, X: Any) -> LatentModel | None:
    """Return a copy with the optimal noise variance, or None if the noise depends on z."""
    if model.shared_noise_variance is None:
        return None
    as_supported_array(model, X, "tune_noise_variance")
    with np.errstate(divide="ignore"):
        tuned = model.with_tuned_noise(X)
    if tuned is not None and not np.all(tuned.noise_variance_ > 0):
        raise ValueError(
            f"The optimal noise variance for X is {tuned.noise_variance_}, but it must be "
            "positive. The model reproduces X, or some of its features, without error: use a "
            "smaller n_components."
        )
    return tuned
