"""Pipelines with a density in the space of their input."""

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
from sklearn_vae.gaussian.arrays import to_device_of, wide_float
from sklearn_vae.linear.sample_weights import check_sample_weight
from sklearn_vae.preprocessing.log_determinants import (
    check_log_det,
    is_identity,
    pushed,
    shape_of,
)
from sklearn_vae.state import Stateful


def _final_has(method: str) -> Callable[[Any], bool]:
    def check(self: Any) -> bool:
        getattr(self._final_estimator, method)  # its own AttributeError says what lacks
        return True

    return check


def _can_sample(self: Any) -> bool:
    steps = [step for _, step in self.steps[:-1] if not is_identity(step)]
    return _final_has("sample")(self) and all(hasattr(s, "inverse_transform") for s in steps)


class DensityPipeline(Stateful, Pipeline):
    """A pipeline with a density of its input, whatever its steps do.

    With the map f of all steps before the last, whose model has the density p ::

        log p(x) = log p(f(x)) + sum over steps of log |det J_step|

    So scores of pipelines with different preprocessing can be compared, and searched over. As
    :class:`sklearn.pipeline.Pipeline` otherwise, with its parameters.

    A step must know its log-determinant. `Dequantizer`, `LogitTransformer` and any other step
    with a method ``log_abs_det_jacobian(X) -> (n,)`` do; known as well are scikit-learn's
    `StandardScaler`, `MinMaxScaler`, `MaxAbsScaler`, `RobustScaler` and `PowerTransformer`,
    "passthrough", and pipelines of these. The density of a sample with missing values, where the
    last step takes them, is that of its observed values.

    With whole numbers and a `Dequantizer`, the result is in expectation a lower bound on the
    log-probability of the levels, at one draw of the noise. It is a bound as well where the last
    step's `score_samples` is one.

    Parameters
    ----------
    steps : list of (str, estimator)
        The last one with `score_samples`, a log-density in nats.
    transform_input, memory, verbose
        As in Pipeline.

    Attributes
    ----------
    named_steps : Bunch
        The steps by name.
    n_features_in_ : int
        d, of the first step.

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
        """Fit every step, as Pipeline does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input of the first step.
        y : array-like, default=None
            Passed to every step.
        **params : dict
            As in Pipeline.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            Before anything is fitted, if a step has no log-determinant, or the scores of the last
            one are no densities.
        ValueError
            If a scaler has clip=True.
        """
        self._check_steps()
        super().fit(X, y, **params)
        return self

    @available_if(_final_has("score_samples"))  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any) -> Any:
        """Log-density of each sample, in the space of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,)
            Nats, higher is better.
        """
        return self._score_samples(X, process_routing(self, "score"))

    @available_if(_final_has("score_samples"))  # type: ignore[untyped-decorator]
    def score(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> float:
        """Log-density averaged over the samples of X, in the space of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the average, >= 0 and not all 0. Where metadata routing is enabled, the
            last step must request them, as in Pipeline.
        **params : dict
            With metadata routing: what the steps request.

        Returns
        -------
        float
            Nats per sample, higher is better.
        """
        if get_config()["enable_metadata_routing"]:
            if sample_weight is not None:
                params["sample_weight"] = sample_weight
            routed = process_routing(self, "score", **params)
            sample_weight = routed[self.steps[-1][0]].score.get("sample_weight")
        elif params:
            raise ValueError(f"score takes {sorted(params)} only with metadata routing enabled.")
        else:
            routed = process_routing(self, "score")
        values = to_host(self._score_samples(X, routed))
        if sample_weight is None:
            return float(values.mean())
        weights = to_host(check_sample_weight(sample_weight, values[:, None]))
        return float(np.average(values[weights > 0], weights=weights[weights > 0]))

    @available_if(_final_has("score_samples"))  # type: ignore[untyped-decorator]
    def bits_per_dim(self, X: Any) -> float:
        """Minus `score` in bits for each of the d features, ``-score / (d log 2)``.

        For whole numbers with a `Dequantizer` it is in expectation at least the bits per entry of a
        code made from the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        float
            Lower is better.
        """
        return -self.score(X) / (shape_of(X)[1] * math.log(2.0))

    def log_abs_det_jacobian(self, X: Any) -> np.ndarray:
        """log |det J| of the map to the space of the model, for each sample.

        The last step counts unless it has `score_samples`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats: the difference between `score_samples` here and that of the last step.
        """
        check_is_fitted(self)
        self._check_steps()
        has_density = hasattr(self._final_estimator, "score_samples")
        maps = self.steps[:-1] if has_density else self.steps
        return pushed(maps, X, process_routing(self, "score"))[1]

    @available_if(_can_sample)  # type: ignore[untyped-decorator]
    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """Draw from the model of the last step, and map back to the space of the input.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        X : array of shape (n_samples, d)
            Whole numbers where the first step is a `Dequantizer`.
        Z : array of shape (n_samples, k)
            The latent variables, as the last step's `sample` gives them.
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
                f"The last step, {self.steps[-1][0]!r} ({type(final).__name__}), must have a "
                "score_samples that is a log-density; that of an outlier detector is none."
            )

    def _score_samples(self, X: Any, routed: Any) -> Any:
        check_is_fitted(self)
        self._check_steps()
        Xt, log_det = pushed(self.steps[:-1], X, routed)
        values = self._final_estimator.score_samples(Xt)
        xp, dtype = array_namespace(values), wide_float(values)
        return xp.astype(values, dtype) + to_device_of(values, log_det, dtype)
