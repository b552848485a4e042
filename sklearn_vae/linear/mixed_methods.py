"""Methods of a fitted factor model of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.mixed_columns import ColumnTerms, predictors
from sklearn_vae.gaussian.mixed_posterior import Posteriors
from sklearn_vae.gaussian.mixed_predictive import MixedModel, Prediction
from sklearn_vae.gaussian.mixed_terms import TermParameters
from sklearn_vae.protocol import LatentModel, numbered
from sklearn_vae.tables.checks import checked_table
from sklearn_vae.tables.fitted import FittedTable
from sklearn_vae.validation import (
    check_flag,
    check_integer,
    check_latents,
    check_random_state,
)

Array = NDArray[Any]


class MixedModelMethods(FittedTable, LatentModel):
    """Methods of a fitted factor model of tables. Subclasses set the attributes below."""

    observation_family = "mixed"

    elbo_history_: Array
    intercept_: Array
    loadings_: Array
    n_iter_: int
    noise_: Array
    _diagonal: bool
    _orders: list[list[int]]
    _fitted_state: ClassVar = {
        "_diagonal": "any",
        "_orders": "any",
        "_table": "any",
        "components_": "any",
        "intercept_": "any",
        "loadings_": "any",
        "n_components_": "count",
        "n_features_in_": "count",
        "noise_": "any",
    }

    @property
    def is_comparable(self) -> bool:
        return False

    @property
    def training_history(self) -> dict[str, Any]:
        return numbered({"bound": self.elbo_history_}, "iteration", self.n_iter_)

    def observations(self, X: Any) -> Array:
        """Return the codes of a table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_features)
            Codes, NaN where values are missing.
        """
        return self._codes(X)

    def transform(self, X: Any) -> Array:
        return self.posterior(X)[0]

    def inverse_transform(self, Z: Any) -> Any:
        """Compute the most probable categories, and the means of numbers, given latent vectors.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Latent coordinates to decode.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features)
            Table like the training samples.
        """
        return self.codec.decode(self._conditional(Z).most_probable())

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        q, _ = self._model.encode(self._codes(X))
        covariance = q.covariance
        return q.mean, covariance if return_cov else np.einsum("nhh->nh", covariance).copy()

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        """Compute the mean and variance of p(x|z) for each latent vector.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Latent coordinates to decode.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_features)
            Conditional means, those of categories of their codes 0, 1, ....
        variance : ndarray of shape (n_samples, n_features)
            Conditional variances.
        """
        prediction = self._conditional(Z)
        return prediction.mean, prediction.variance

    def score_samples(self, X: Any) -> Array:
        """Compute the evidence lower bound of the observed values of each sample.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Samples, which may have missing values.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            ELBO of each sample in nats, which is the log-likelihood if all columns are real.
        """
        return self._model.encode(self._codes(X))[1]

    def impute(
        self,
        X: Any,
        *,
        return_std: bool = False,
        n_draws: int | None = None,
        random_state: Any = None,
    ) -> Any:
        """Replace missing values, given the observed ones of the same sample.

        Missing numbers become their conditional means, rounded for integers, and missing categories
        the most probable ones. Positive numbers and the rates of counts are limited to the largest value of
        the training samples, because means of exponential functions grow without bounds. Positive
        numbers are at least the smallest value, too.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with missing values.
        return_std : bool, default=False
            Whether to return conditional standard deviations too.
        n_draws : int, default=None
            Number of completed tables that are drawn from the conditional distribution of the
            missing values, for multiple imputation. If None, one table has their means and
            most probable categories.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the draws.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features), or a list of `n_draws` of them
            Table without missing values, with the dtypes of the training samples.
        std : ndarray of shape (n_samples, n_features)
            Standard deviations of missing values, those of categories of their codes 0, 1, ...;
            0 for observed values. Only if `return_std` is True.
        """
        check_flag("return_std", return_std)
        if n_draws is not None:
            check_integer("n_draws", n_draws, at_least=1)
        codes, model = self._codes(X), self._model
        missing, q = np.isnan(codes), model.encode(codes)[0]
        prediction = model.predict(q)
        if n_draws is None:
            filled = [np.where(missing, prediction.most_probable(), codes)]
        else:
            rng = check_random_state(random_state)
            filled = [np.where(missing, self._draw(q, rng), codes) for _ in range(n_draws)]
        decoded = [self.codec.decode(table, like=X) for table in filled]
        tables = decoded[0] if n_draws is None else decoded
        std = np.sqrt(np.where(missing, prediction.variance, 0.0))
        return (tables, std) if return_std else tables

    def conditional_probabilities(
        self, X: Any, columns: Sequence[Any] | None = None
    ) -> dict[Any, Array]:
        """Compute the probabilities of categories, given the other observed values of each sample.

        The value of a column itself is ignored, so that the model can be used as a classifier for
        any of the columns, with any of the others missing.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table.
        columns : sequence of str or int, default=None
            Names or indices of columns with categories. If None, all of them.

        Returns
        -------
        probabilities : dict of ndarray of shape (n_samples, n_categories)
            Probabilities by column, for the categories in the order of `categories_`.

        Raises
        ------
        TypeError
            If `columns` is no sequence.
        ValueError
            If a column does not exist or has no categories.
        """
        codes, indices = self._codes(X), self.codec.with_categories(columns)
        by_column = dict(self._model.probabilities_of_hidden(codes, set(indices.values())))
        return {name: by_column[j] for name, j in indices.items()}

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Array]:
        """Draw samples from the model.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples to draw.
        random_state : int, RandomState instance or None, default=None
            Seed or generator for the draws. If None, NumPy's global generator is used.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features)
            Samples, as a table like the training samples.
        Z : ndarray of shape (n_samples, n_components)
            Latent vectors from which the samples were drawn.
        """
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        rng = check_random_state(random_state)
        Z = rng.standard_normal((n_samples, self.n_components_))
        return self.codec.decode(self._draw_codes(Z, rng)), Z

    def _draw_given(self, codes: Array, n_samples: int, rng: np.random.RandomState) -> Array:
        q = self._model.encode(codes[None])[0]
        repeated = Posteriors(*(np.repeat(array, n_samples, axis=0) for array in q))
        return self._draw(repeated, rng)

    def _draw(self, q: Posteriors, rng: np.random.RandomState) -> Array:
        """Draw codes of one table from p(x|z) and q(z)."""
        roots = np.linalg.cholesky(q.covariance)
        noise = rng.standard_normal(q.mean.shape)
        return self._draw_codes(q.mean + np.einsum("nhl,nl->nh", roots, noise), rng)

    def _draw_codes(self, Z: Array, rng: np.random.RandomState) -> Array:
        model = self._model
        return model.terms.draw(predictors(model.parameters, Z), self.noise_, rng)

    def _conditional(self, Z: Any) -> Prediction:
        check_is_fitted(self)
        Z = check_latents(self, Z, self.n_components_)
        return self._model.conditional(np.asarray(Z, dtype=np.float64))

    @property
    def _model(self) -> MixedModel:
        check_is_fitted(self)
        terms = ColumnTerms([column.type for column in self.codec.columns_], self._orders)
        parameters = TermParameters(self.loadings_, self.intercept_, self.noise_)
        limits = [column.limits or (0.0, np.inf) for column in self.codec.columns_]
        return MixedModel(terms, parameters, self._diagonal, np.array(limits).T)

    def _codes(self, X: Any) -> Array:
        check_is_fitted(self)
        return self.codec.encode(checked_table(self, X, reset=False))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
