"""Pipelines with a density of their input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from sklearn import get_config
from sklearn.base import is_outlier_detector
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import mean_of_samples, to_device_of, wide_float
from sklearn_vae.preprocessing.log_determinants import (
    check_log_det,
    is_identity,
    shape_of,
    transform_with_log_det,
)
from sklearn_vae.state import Stateful


def _final_has(method: str) -> Callable[[Any], bool]:
    def check(self: Any) -> bool:
        getattr(self._final_estimator, method)  # raises an AttributeError that names the method
        return True

    return check


def _can_sample(self: Any) -> bool:
    steps = [step for _, step in self.steps[:-1] if not is_identity(step)]
    return _final_has("sample")(self) and all(hasattr(s, "inverse_transform") for s in steps)


class DensityPipeline(Stateful, Pipeline):
    """Pipeline whose score is a log-density of its input.

    If the steps before the last map x to f(x), and the last step has the density p, the score is ::

        log p(f(x)) + sum over steps of log |det J_step|

    Scores of pipelines with different preprocessing are therefore comparable, for example in a
    search. In all other respects it behaves like :class:`sklearn.pipeline.Pipeline`.

    Every step before the last needs a log-determinant. The supported steps are those with a method
    ``log_abs_det_jacobian(X)``, such as `Dequantizer` and `LogitTransformer`, scikit-learn's
    `StandardScaler`, `MinMaxScaler`, `MaxAbsScaler`, `RobustScaler` and `PowerTransformer`,
    "passthrough", and pipelines of these. If the last step supports missing values, the score of a
    sample is the density of its observed values.

    With a `Dequantizer` the score is, in expectation over the noise, a lower bound on the
    log-probability of the levels. It is also a lower bound if the last step's score is a lower
    bound.

    Parameters
    ----------
    steps : list of tuples
        Pairs (name, estimator). The last estimator has a method `score_samples` that returns
        log-densities in nats.
    transform_input : list of str, default=None
        Names of metadata to transform, as in Pipeline.
    memory : str or joblib.Memory, default=None
        Cache of fitted steps, as in Pipeline.
    verbose : bool, default=False
        Whether to print the time of each step.

    Attributes
    ----------
    named_steps : Bunch
        Steps by name.
    n_features_in_ : int
        Number of features seen by the first step during `fit`.

    See Also
    --------
    Dequantizer : Make whole numbers continuous.
    LogitTransformer : Transform the unit interval to the real line.

    References
    ----------
    Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016,
    section 3.1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import PPCA, DensityPipeline, Dequantizer, LogitTransformer
    >>> X = load_digits().data
    >>> steps = [("dequantize", Dequantizer(17, random_state=0)), ("logit", LogitTransformer(0.05))]
    >>> model = DensityPipeline([*steps, ("ppca", PPCA(20))]).fit(X)
    >>> print(f"{model.score(X):.0f} nats per image, {model.bits_per_dim(X):.2f} bits per pixel")
    -117 nats per image, 2.64 bits per pixel
    >>> images, Z = model.sample(2, random_state=0)
    >>> bool(images.min() >= 0 and images.max() <= 16)
    True
    """

    def fit(self, X: Any, y: Any = None, **params: Any) -> DensityPipeline:
        """Fit all steps.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input of the first step.
        y : array-like, default=None
            Target passed to every step.
        **params : dict
            Parameters of the steps, as in Pipeline.

        Returns
        -------
        DensityPipeline
            Fitted pipeline.

        Raises
        ------
        TypeError
            If a step has no log-determinant, or if the last step is an outlier detector.
        ValueError
            If a scaler has ``clip=True``.
        """
        self._check_steps()
        super().fit(X, y, **params)
        return self

    @available_if(_final_has("score_samples"))  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any) -> Any:
        """Compute the log-density of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input of the first step.

        Returns
        -------
        array of shape (n_samples,)
            Log-density of X in nats; higher is better.
        """
        return self._score_samples(X, process_routing(self, "score"))

    @available_if(_final_has("score_samples"))  # type: ignore[untyped-decorator]
    def score(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> float:
        """Average the log-density over the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input of the first step.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Nonnegative weights, not all 0. If metadata routing is enabled, the last step must
            request them.
        **params : dict
            Metadata that the steps request, if metadata routing is enabled.

        Returns
        -------
        float
            Log-density of X in nats per sample; higher is better.
        """
        if get_config()["enable_metadata_routing"]:
            if sample_weight is not None:
                params["sample_weight"] = sample_weight
            routed = process_routing(self, "score", **params)
            sample_weight = routed[self.steps[-1][0]].score.get("sample_weight")
        elif params:
            raise ValueError(
                f"score accepts {sorted(params)} only if metadata routing is enabled. Call "
                "sklearn.set_config(enable_metadata_routing=True) to enable it."
            )
        else:
            routed = process_routing(self, "score")
        return mean_of_samples(to_host(self._score_samples(X, routed)), sample_weight)

    @available_if(_final_has("score_samples"))  # type: ignore[untyped-decorator]
    def bits_per_dim(self, X: Any) -> float:
        """Compute the negative score in bits per feature, ``-score / (n_features * log(2))``.

        With a `Dequantizer` it is, in expectation, an upper bound on the bits per feature that a
        code based on the model needs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input of the first step.

        Returns
        -------
        float
            Bits per feature; lower is better.
        """
        return -self.score(X) / (shape_of(X)[1] * math.log(2.0))

    def log_abs_det_jacobian(self, X: Any) -> np.ndarray:
        """Compute log |det J| of the transformations for each sample.

        The last step is included unless it has a method `score_samples`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input of the first step.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log-determinant in nats, which `score_samples` adds to the scores of the last step.
        """
        check_is_fitted(self)
        self._check_steps()
        has_density = hasattr(self._final_estimator, "score_samples")
        steps = self.steps[:-1] if has_density else self.steps
        return transform_with_log_det(steps, X, process_routing(self, "score"))[1]

    @available_if(_can_sample)  # type: ignore[untyped-decorator]
    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """Draw samples from the last step and invert the transformations.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.
        random_state : int, RandomState instance or None, default=None
            Seed or generator for the draws.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Samples in the space of the input.
        Z : array of shape (n_samples, n_components) or None
            Latent variables, if the last step returns them.
        """
        check_is_fitted(self)
        drawn = self._final_estimator.sample(n_samples, random_state=random_state)
        X, Z = drawn if isinstance(drawn, tuple) else (drawn, None)
        for _, step in reversed(self.steps[:-1]):
            X = X if is_identity(step) else step.inverse_transform(X)
        return X, Z

    def _check_state(self) -> None:
        super()._check_state()
        steps = self.steps
        if not isinstance(steps, list | tuple) or not all(
            isinstance(step, list | tuple) and len(step) == 2 for step in steps
        ):
            raise ValueError("steps must be a list of pairs (name, estimator).")

    def _check_steps(self) -> None:
        for name, step in self.steps[:-1]:
            check_log_det(name, step)
        final = self.steps[-1][1] if self.steps else None
        if hasattr(final, "score_samples") and is_outlier_detector(final):
            raise TypeError(
                f"The score_samples of the last step {self.steps[-1][0]!r} must be a log-density, "
                f"but {type(final).__name__} is an outlier detector."
            )

    def _score_samples(self, X: Any, routed: Any) -> Any:
        check_is_fitted(self)
        self._check_steps()
        Xt, log_det = transform_with_log_det(self.steps[:-1], X, routed)
        values = self._final_estimator.score_samples(Xt)
        xp, dtype = array_namespace(values), wide_float(values)
        return xp.astype(values, dtype) + to_device_of(values, log_det, dtype)
