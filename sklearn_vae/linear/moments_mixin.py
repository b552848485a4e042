"""Updates of models that are fitted from moments."""

from __future__ import annotations

from typing import Any, Self

from sklearn.utils.metaestimators import available_if

from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.validation import all_or_nothing


def _can_continue(model: Any) -> bool:
    if hasattr(model, "moments_") or not hasattr(model, "loadings_"):
        return True
    raise AttributeError(
        "partial_fit cannot continue a model from fit, which does not keep the d x d scatter "
        "matrix of its samples. Call partial_fit on a clone, with those samples as the first "
        f"batch, or add their moments: {type(model).__name__}.from_moments(Moments.of(X) + "
        "Moments.of(X_new))."
    )


class MomentsMixin:
    """Methods `partial_fit` and `from_moments` of a model that moments determine.

    The model has `_check_parameters`, `_moments_of_batch`, and `_set_moments`, which fits it.
    """

    moments_: Moments
    n_features_in_: int

    @available_if(_can_continue)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Update the model with a batch of samples.

        The moments of the samples are updated exactly, up to rounding errors: any sequence of
        batches gives the same model as one `fit` of all samples, as far as its likelihood has one
        maximum. The rounding errors of the d x d scatter matrix in `moments_` are relative to its
        largest eigenvalue: variances below 1e-7 of it lose digits, unless they are those of single
        features, while `fit` computes them from the samples. Parameters that choose a solver are
        ignored.

        `partial_fit` continues a model that `partial_fit` or `from_moments` began. A model from
        `fit` has no `partial_fit`, for any shape of X: `fit` does not keep the scatter matrix, which
        would make a fitted model much larger. Pass the first samples to `partial_fit` instead.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            One or more samples without missing values, sparse if `fit` accepts it. Dask arrays are
            read as in `fit`. While fewer samples than components have been seen, the surplus
            components have variance 0. With `n_components=None` the number of components grows up
            to n_features.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights as in `fit`, at least one of them positive. Their scale matters relative to the
            other batches. If None, each sample has a weight of 1.

        Returns
        -------
        self : object
            Updated model.

        Raises
        ------
        ValueError
            If a parameter or X is invalid. The model is then unchanged.
        AttributeError
            If the model was fitted by `fit`.
        MemoryError
            If the scatter matrix does not fit into memory.
        """
        self._check_parameters()
        first = not hasattr(self, "moments_")
        with all_or_nothing(self):
            moments = self._moments_of_batch(X, sample_weight, first)
            moments = moments if first else self.moments_ + moments
            self._set_moments(moments)
            self.moments_ = moments
        return self

    @classmethod
    def from_moments(cls, moments: Moments, **parameters: Any) -> Self:
        """Fit the model to the moments of samples.

        Parameters
        ----------
        moments : Moments
            Moments of at least one sample, for example the sum of the moments of several files.
        **parameters
            Parameters of the constructor.

        Returns
        -------
        object
            Model that `partial_fit` would give for the samples. `partial_fit` can add more samples.

        Raises
        ------
        TypeError
            If `moments` is not a :class:`Moments`.
        ValueError
            If a parameter is invalid for these moments, or if they contain no samples.
        """
        if not isinstance(moments, Moments):
            raise TypeError(f"moments must be a Moments object, got {type(moments).__name__}.")
        model = cls(**parameters)
        model._check_parameters()
        if moments.n == 0:
            raise ValueError("moments must contain at least one sample, got n = 0.")
        model.n_features_in_ = moments.n_features
        model._set_moments(moments)
        model.moments_ = moments
        return model

    def _check_parameters(self) -> None:
        raise NotImplementedError

    def _moments_of_batch(self, X: Any, sample_weight: Any, first: bool) -> Moments:
        raise NotImplementedError

    def _set_moments(self, moments: Moments) -> None:
        raise NotImplementedError
