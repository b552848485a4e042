"""Base classes that define the interface of models with a latent space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.state import Stateful

Array = NDArray[Any]

METHODS = ("posterior", "conditional", "score_samples")


class LinearGaussian(NamedTuple):
    """Parameters of x ~ N(mean, W W' + diag(noise_variance)), the marginal of a linear model."""

    mean: Array  # (n_features,)
    loadings: Array  # W for latent variables z ~ N(0, I), (n_features, n_components)
    noise_variance: Array  # (n_features,)


class EncoderDecoder(Stateful, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base class of models that map samples to latent coordinates and back."""

    # Defaults for models without these parameters.
    image_shape: Any = None

    n_components_: int

    @abstractmethod
    def transform(self, X: Any) -> Any:
        """Compute the latent coordinates of each sample.

        For a model with a posterior these are the means of q(z|x), unless it has a parameter
        `coordinates`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to encode.

        Returns
        -------
        Z : array of shape (n_samples, n_components)
            Latent coordinates.
        """

    @abstractmethod
    def inverse_transform(self, Z: Any) -> Any:
        """Map latent coordinates back to the space of the features.

        For a model with a likelihood the result is the mean of p(x|z), unless it has a parameter
        `coordinates`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Latent coordinates to decode.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Decoded samples.
        """

    def with_covariates(self, Z: Any, X: Any) -> Any:
        """Append the covariates of samples to their latent vectors, for `conditional`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Latent vectors.
        X : array-like of shape (n_samples, n_features)
            Samples, or a single one for all latent vectors.

        Returns
        -------
        codes : array of shape (n_samples, n_codes)
            Z itself, unless the model is conditional on covariates.
        """
        return Z

    def shown(self, X: Any) -> Any:
        """Return samples as plots compare them with decoded ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X : array-like
            X itself, unless the model decodes other features, such as preprocessed ones.
        """
        return X

    @property
    def parameters(self) -> dict[str, Any]:
        """Constructor parameters, by name."""
        return self.get_params(deep=False)

    @property
    def model_name(self) -> str:
        """Name of the model in reports."""
        return type(self).__name__

    @property
    def trained_elsewhere(self) -> bool:
        """Whether another library trains the model, so that advice cannot name parameters."""
        return False

    @property
    def training_history(self) -> dict[str, Array] | None:
        """Values recorded at each training step, by name, or None without iterative training.

        "bound" is the objective in nats per sample. "epoch" or "iteration" is the step number.
        """
        return None

    @property
    def snapshots(self) -> Mapping[int, Any]:
        """Copies of the fitted model saved during training, by epoch."""
        return {}

    @property
    def stopped_early(self) -> bool:
        """Whether training ended by early stopping."""
        return False

    @property
    def is_linear(self) -> bool:
        """Whether the networks are those of the linear model at which training began."""
        return False

    @property
    def n_layers(self) -> int:
        """Number of weight layers of the encoder or decoder, whichever is deeper; 0 without one."""
        return 0

    def inactive_units(self, X: Any) -> dict[str, float]:
        """Compute the share of hidden units with "relu" that are 0 for all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        shares : dict of str to float
            Share of inactive units of the layer that has the most, for "encoder" and "decoder".
            Networks without such units are left out.
        """
        return {}

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class LatentModel(EncoderDecoder, ABC):
    """Base class of models of x with latent variables z ~ N(0, diag(`prior_variance`)).

    A model from another library needs only `posterior`, `conditional` and `score_samples`. Pass it
    to :func:`as_latent_model` to get the defaults of this class for everything else.
    """

    # Distribution of each feature given z: "gaussian" or "bernoulli".
    observation_family: str = "gaussian"
    # The noise variance if it is fixed, None if it is estimated.
    noise_variance: Any = None
    # Posterior family: "diagonal" is a Gaussian with independent dimensions.
    variational_family: str = "diagonal"
    # With these defaults the training objective is the ELBO.
    kl_weight: float = 1.0
    free_bits: float = 0.0

    # Whether `bound_terms` and `with_tuned_noise` accept missing values (NaN).
    has_bound_with_missing: bool = False

    noise_variance_: Any

    @abstractmethod
    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Any, Any]:
        """Compute the mean and variance of q(z|x) for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to encode.
        return_cov : bool, default=False
            Whether to return full covariance matrices instead of variances.

        Returns
        -------
        mean : array of shape (n_samples, n_components)
            Posterior means.
        variance : array of shape (n_samples, n_components) or \
                (n_samples, n_components, n_components)
            Posterior variances, or covariances if `return_cov=True`. If they are the same for
            every sample, this is a read-only view.
        """

    @abstractmethod
    def conditional(self, Z: Any) -> tuple[Any, Any]:
        """Compute the mean and variance of p(x|z) for each latent vector.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Latent coordinates to decode.

        Returns
        -------
        mean : array of shape (n_samples, n_features)
            Conditional means.
        variance : array of shape (n_samples, n_features)
            Conditional variances. If they are the same for every sample, this is a read-only view.
        """

    @abstractmethod
    def score_samples(self, X: Any) -> Any:
        """Compute the log-likelihood of each sample, or its evidence lower bound (ELBO).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : array of shape (n_samples,)
            Log-likelihood or ELBO, in nats. Higher is better.
        """

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Compute the average of `score_samples` over the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the average, >= 0 and not all 0.

        Returns
        -------
        score : float
            Average score, in nats per sample. Higher is better.
        """
        values = self.score_samples(X)
        if sample_weight is None:
            return float(values.mean())
        return float(np.average(np.asarray(values), weights=sample_weight))

    @abstractmethod
    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """Draw samples from the model.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples to draw.
        random_state : int, RandomState instance or None, default=None
            Seed or generator for the draws. If None, NumPy's global generator is used.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Samples.
        Z : array of shape (n_samples, n_components)
            Latent vectors from which the samples were drawn.
        """

    @property
    def prior_variance(self) -> Any:
        """Variance of p(z), a float or an array of shape (n_components,)."""
        return 1.0

    @property
    def prior_mean(self) -> Any:
        """Mean of p(z), a float or an array of shape (n_components,)."""
        return 0.0

    @property
    def shared_noise_variance(self) -> Any:
        """Noise variance if it does not depend on z, a float or an array of shape (n_features,)."""
        return getattr(self, "noise_variance_", None)

    @property
    def feature_scale(self) -> Any:
        """Standard deviation of each feature if noise is estimated per feature, otherwise 1.

        None means that noise is estimated per feature, but the training data are unknown.
        """
        return 1.0

    @property
    def is_comparable(self) -> bool:
        """Whether linear models are a reference: p(z) and p(x|z) are of the same families."""
        return True

    @property
    def has_bound(self) -> bool:
        """Whether `score_samples` is possible: the density of the prior is known."""
        return True

    @property
    def limitations(self) -> tuple[str, ...]:
        """Sentences that name results that are unknown for this model, and why."""
        return ()

    @property
    def active_bounds(self) -> tuple[str, ...]:
        """Names of the variances that reached one of their bounds during training."""
        return ()

    def observations(self, X: Any) -> Any:
        """Return X as the likelihood sees it, for example binarized.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Observations, in [0, 1] for Bernoulli models.
        """
        return X

    def bound_terms(self, X: Any) -> Any:
        """Compute the terms of the ELBO, averaged over the samples, in units of the prior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        terms : BoundTerms or None
            Terms of the ELBO, or None if they follow from `posterior`, `conditional` and
            `score_samples`.
        """
        return None

    def with_tuned_noise(self, X: Any) -> Self | None:
        """Return a copy of the model with the noise variance that maximizes the ELBO of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        model : LatentModel or None
            Copy with all other parameters unchanged, or None if the model does not support this.
        """
        return None

    def with_dimensions(self, kept: Any) -> Self | None:
        """Return a copy of the fitted model that has only some of its latent dimensions.

        Parameters
        ----------
        kept : array of int
            Indices of the dimensions to keep, in ascending order.

        Returns
        -------
        model : LatentModel or None
            Copy with all other parameters unchanged, or None if the model does not support this.
            The diagnostics that `fit` has set, such as `elbo_`, are those of the original.
        """
        return None

    def linear_gaussian(self) -> LinearGaussian | None:
        """Return the parameters of the marginal distribution of x in a linear Gaussian model.

        Returns
        -------
        parameters : LinearGaussian or None
            Parameters as NumPy arrays in float64, or None if the model is not linear and Gaussian.
        """
        return None

    def can_start_at_ppca(self) -> bool:
        """Return whether `init="ppca"` is possible for this model.

        Returns
        -------
        possible : bool
            True if training can start from the solution of probabilistic PCA.
        """
        return False


class ForeignModel(LatentModel):
    """Adapter that gives a model from another library the interface of :class:`LatentModel`.

    Parameters
    ----------
    estimator : object with `posterior`, `conditional` and `score_samples`
        Model to adapt. Its attributes `prior_variance_`, `noise_variance_`, `history_` and
        `image_shape` are used if present.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        for name in ("image_shape", "n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))

    @property
    def model_name(self) -> str:
        return type(self.estimator).__name__

    @property
    def trained_elsewhere(self) -> bool:
        return True

    @property
    def parameters(self) -> dict[str, Any]:
        is_estimator = isinstance(self.estimator, BaseEstimator)
        return self.estimator.get_params(deep=False) if is_estimator else {}

    @property
    def training_history(self) -> dict[str, Array] | None:
        history = getattr(self.estimator, "history_", None)
        if history is None:
            return None
        n_iter = max(map(len, history.values()), default=0)
        return numbered(history, "epoch", getattr(self.estimator, "n_iter_", n_iter))

    @property
    def prior_variance(self) -> Any:
        return getattr(self.estimator, "prior_variance_", 1.0)

    @property
    def shared_noise_variance(self) -> Any:
        return getattr(self.estimator, "noise_variance_", None)

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Any, Any]:
        options = {"return_cov": True} if return_cov else {}
        return self.estimator.posterior(X, **options)

    def conditional(self, Z: Any) -> tuple[Any, Any]:
        return self.estimator.conditional(Z)

    def score_samples(self, X: Any) -> Any:
        return self.estimator.score_samples(X)

    def transform(self, X: Any) -> Any:
        transform = getattr(self.estimator, "transform", None)
        return self.posterior(X)[0] if transform is None else transform(X)

    def inverse_transform(self, Z: Any) -> Any:
        inverse = getattr(self.estimator, "inverse_transform", None)
        return self.conditional(Z)[0] if inverse is None else inverse(Z)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        return self.estimator.sample(n_samples, random_state=random_state)


def adapted(estimator: Any) -> Any:
    """Return the estimator itself if it follows the contract, else a :class:`ForeignModel`."""
    return estimator if isinstance(estimator, EncoderDecoder) else ForeignModel(estimator)


def as_latent_model(estimator: Any, function: str) -> LatentModel:
    """Return a fitted estimator as a :class:`LatentModel`.

    Parameters
    ----------
    estimator : object with `posterior`, `conditional` and `score_samples`
        Fitted model.
    function : str
        Name of the calling function, for error messages.

    Returns
    -------
    model : LatentModel
        The estimator itself, or an adapter if it is from another library.

    Raises
    ------
    TypeError
        If one of the three methods is missing.
    NotFittedError
        If a scikit-learn estimator is not fitted.
    """
    if isinstance(estimator, ForeignModel):  # already checked
        return estimator
    check_methods(estimator, function, *METHODS)
    return adapted(estimator)


def as_encoder_decoder(estimator: Any, function: str) -> EncoderDecoder:
    """Return a fitted estimator as an :class:`EncoderDecoder`.

    Parameters
    ----------
    estimator : object
        Fitted model with `transform` and `inverse_transform`, or with `posterior`, `conditional`
        and `score_samples`.
    function : str
        Name of the calling function, for error messages.

    Returns
    -------
    model : EncoderDecoder
        The estimator itself, or an adapter if it is from another library.
    """
    is_latent = all(callable(getattr(estimator, name, None)) for name in METHODS)
    methods = METHODS if is_latent else ("transform", "inverse_transform")
    check_methods(estimator, function, *methods)
    return adapted(estimator)


def check_methods(estimator: Any, function: str, *methods: str) -> None:
    """Check that an object has the methods and is fitted.

    An object that is no scikit-learn estimator counts as fitted.

    Parameters
    ----------
    estimator : object
        Fitted model.
    function : str
        Name of the calling function, for error messages.
    *methods : str
        Names of the required methods.

    Raises
    ------
    TypeError
        If a method is missing.
    NotFittedError
        If a scikit-learn estimator is not fitted.
    """
    missing = [name for name in methods if not callable(getattr(estimator, name, None))]
    if missing:
        raise TypeError(
            f"{function} requires an estimator with the methods {', '.join(methods)}, but "
            f"{type(estimator).__name__} has no {' or '.join(missing)}."
        )
    if isinstance(estimator, BaseEstimator) and hasattr(estimator, "fit"):
        check_is_fitted(estimator)


def numbered(history: Mapping[str, Any], step: str, n_iter: int) -> dict[str, Array]:
    """Convert a history to arrays and add the step numbers under the name `step`.

    Steps begin at 0 if there are more than `n_iter` values, as the initial value is then included.
    """
    arrays = {name: np.asarray(values) for name, values in history.items()}
    n = max(map(len, arrays.values()))
    return {step: np.arange(n) + (0 if n > n_iter else 1), **arrays}
