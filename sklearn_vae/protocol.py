"""The contract of models with a latent space, which diagnostics, plots and searches rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.state import Stateful

Array = NDArray[Any]

METHODS = ("posterior", "conditional", "score_samples")


class EncoderDecoder(Stateful, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A model that maps samples to latent coordinates and back, with or without probabilities.

    Parameters that a model does not have are class attributes here, with the value that stands for
    their absence.
    """

    image_shape: Any = None

    n_components_: int

    @abstractmethod
    def transform(self, X: Any) -> Any:
        """Latent coordinates of each sample: the posterior mean, where the model has a posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : array of shape (n_samples, n_components)
        """

    @abstractmethod
    def inverse_transform(self, Z: Any) -> Any:
        """Decode latent coordinates: the mean of p(x|z), where the model has one.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        X : array of shape (n_samples, n_features)
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the constructor by name."""
        return self.get_params(deep=False)

    @property
    def training_history(self) -> dict[str, Array] | None:
        """Values recorded in each step of training, by name; None where there was no training.

        "bound" is the objective in nats per sample, "epoch" or "iteration" counts the steps.
        """
        return None

    @property
    def snapshots(self) -> Mapping[int, Any]:
        """Fitted models kept during training, by epoch."""
        return {}

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the training."""
        return False

    @property
    def n_layers(self) -> int:
        """Layers with weights of the deeper of encoder and decoder; 0 without networks."""
        return 0

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class LatentModel(EncoderDecoder, ABC):
    """A model of data x with latent variables z ~ N(0, diag `prior_variance`).

    Of a model of another library only `posterior`, `conditional` and `score_samples` are needed:
    :func:`as_latent_model` answers all other questions with their defaults.
    """

    # "gaussian" or "bernoulli": the distribution of a feature given z.
    observation_family: str = "gaussian"
    # The noise variance that was held fixed; None where it was estimated.
    noise_variance: Any = None
    # The posterior is normal with independent dimensions, unless this is another family.
    variational_family: str = "diagonal"
    # The objective was the bound itself, unless the KL had another weight or was free in part.
    kl_weight: float = 1.0
    free_bits: float = 0.0

    noise_variance_: Any

    @abstractmethod
    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Any, Any]:
        """Mean and variance of q(z|x) for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_cov : bool, default=False
            Return the covariance in place of the variance.

        Returns
        -------
        mean : array of shape (n_samples, n_components)
        variance : array of shape (n_samples, n_components), or covariance of shape \
                (n_samples, n_components, n_components)
            A read-only view where it is the same for every sample.
        """

    @abstractmethod
    def conditional(self, Z: Any) -> tuple[Any, Any]:
        """Mean and variance of p(x|z) for each latent vector z.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        mean, variance : arrays of shape (n_samples, n_features)
            The variance is a read-only view where it is the same for every sample.
        """

    @abstractmethod
    def score_samples(self, X: Any) -> Any:
        """Log-likelihood of each sample, or its evidence lower bound, in nats; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,)
        """

    def score(self, X: Any, y: Any = None) -> float:
        """Average of `score_samples` over the samples, in nats per sample; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        """
        return float(self.score_samples(X).mean())

    @abstractmethod
    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """Draw samples from the model.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None draws from NumPy's global generator.

        Returns
        -------
        X : array of shape (n_samples, n_features)
        Z : array of shape (n_samples, n_components)
            The latent vector that each sample was drawn from.
        """

    @property
    def prior_variance(self) -> Any:
        """Variances of p(z), a float or an array of shape (n_components,)."""
        return 1.0

    @property
    def shared_noise_variance(self) -> Any:
        """Noise variance for all z, a float or an array of shape (n_features,); None without."""
        return getattr(self, "noise_variance_", None)

    @property
    def feature_scale(self) -> Any:
        """Standard deviations of the features if each has its own noise variance, else 1."""
        return 1.0

    @property
    def active_bounds(self) -> tuple[str, ...]:
        """Variances, by name, that a bound held during training."""
        return ()

    def observations(self, X: Any) -> Any:
        """X as the likelihood sees it: of "bernoulli" models, in [0, 1]."""
        return X

    def bound_terms(self, X: Any) -> Any:
        """Terms of the bound averaged over samples, in units of the prior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        BoundTerms or None
            None where they follow from the abstract methods alone.
        """
        return None

    def with_tuned_noise(self, X: Any) -> Self | None:
        """A copy with the noise variance of the highest bound for X, all else as it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        LatentModel or None
            None where there is no such method.
        """
        return None

    def can_start_at_ppca(self) -> bool:
        """Whether training could start at probabilistic PCA, with `init="ppca"`."""
        return False


class ForeignModel(LatentModel):
    """A model of another library as a :class:`LatentModel`.

    Parameters
    ----------
    estimator : object with `posterior`, `conditional` and `score_samples`
        Its `prior_variance_`, `noise_variance_`, `history_` and `image_shape` are used, if it has
        them.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        for name in ("image_shape", "n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the constructor by name, of an estimator in the sense of scikit-learn."""
        is_estimator = isinstance(self.estimator, BaseEstimator)
        return self.estimator.get_params(deep=False) if is_estimator else {}

    @property
    def training_history(self) -> dict[str, Array] | None:
        """`history_` of the model, if it has one."""
        history = getattr(self.estimator, "history_", None)
        return None if history is None else numbered(history, "epoch", self.estimator.n_iter_)

    @property
    def prior_variance(self) -> Any:
        """`prior_variance_` of the model, if it has one."""
        return getattr(self.estimator, "prior_variance_", 1.0)

    @property
    def shared_noise_variance(self) -> Any:
        """`noise_variance_` of the model, if it has one."""
        return getattr(self.estimator, "noise_variance_", None)

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Any, Any]:
        options = {"return_cov": True} if return_cov else {}
        return self.estimator.posterior(X, **options)

    def conditional(self, Z: Any) -> tuple[Any, Any]:
        return self.estimator.conditional(Z)

    def score_samples(self, X: Any) -> Any:
        return self.estimator.score_samples(X)

    def transform(self, X: Any) -> Any:
        return self.posterior(X)[0]

    def inverse_transform(self, Z: Any) -> Any:
        return self.conditional(Z)[0]

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        return self.estimator.sample(n_samples, random_state=random_state)


def adapted(estimator: Any) -> Any:
    """The estimator if it is an :class:`EncoderDecoder`, else as a :class:`ForeignModel`."""
    return estimator if isinstance(estimator, EncoderDecoder) else ForeignModel(estimator)


def as_latent_model(estimator: Any, function: str) -> LatentModel:
    """A fitted estimator as a :class:`LatentModel`.

    Parameters
    ----------
    estimator : object with `posterior`, `conditional` and `score_samples`
    function : str
        The caller, for error messages.

    Raises
    ------
    TypeError
        If a method is missing.
    NotFittedError
        If the estimator follows scikit-learn and is not fitted.
    """
    if isinstance(estimator, ForeignModel):  # checked when it was adapted
        return estimator
    missing = [name for name in METHODS if not callable(getattr(estimator, name, None))]
    if missing:
        raise TypeError(
            f"{function} needs a model with a latent distribution, and {type(estimator).__name__} "
            f"has no {' and no '.join(missing)}."
        )
    if isinstance(estimator, BaseEstimator):
        check_is_fitted(estimator)
    return adapted(estimator)


def numbered(history: Mapping[str, Any], step: str, n_iter: int) -> dict[str, Array]:
    """A history as arrays, with the numbers of its steps under the name `step`.

    They begin at 0 where there are more than `n_iter` values: the start was recorded too.
    """
    arrays = {name: np.asarray(values) for name, values in history.items()}
    n = max(map(len, arrays.values()))
    return {step: np.arange(n) + (0 if n > n_iter else 1), **arrays}
