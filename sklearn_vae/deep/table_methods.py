"""Methods of the tabular VAE that return tables: imputation, samples, and conditional probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_vae.deep.table_imputation import TableImputation
from sklearn_vae.deep.table_marginals import quantile_function, reference_numbers, with_marginals
from sklearn_vae.tables.fitted import FittedTable
from sklearn_vae.validation import check_choice, check_flag, check_integer, check_random_state

Array = NDArray[Any]

# Smallest number of latent vectors by which `conditional_sample` draws.
CONDITIONAL_LATENTS = 4096


class TableMethods(FittedTable):
    """Methods of :class:`TabularVAE` that return tables or probabilities of categories."""

    def inverse_transform(self: Any, Z: Any) -> Any:
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
        codes = self._map_latents(Z, lambda z: self._in_data_units(self.module_.decode(z).point))
        return self.codec.decode(self.codec.restrict(codes))

    def sample(
        self: Any, n_samples: int = 1, random_state: Any = None, *, marginals: str = "training"
    ) -> tuple[Any, Array]:
        """Draw samples from the model: synthetic data.

        Numbers are rounded to the decimals of the training samples, and clipped to their range.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples to draw.
        random_state : int, RandomState instance or None, default=None
            Seed or generator for the draws. If None, NumPy's global generator is used.
        marginals : {"training", "model"}, default="training"
            Distribution of each column of numbers. "model" is that of the model. With "training",
            a number is replaced by the quantile of the training samples that belongs to its
            probability under the model, as in a Gaussian copula. Then values that the training
            samples repeat are as frequent as there. Categories are those of the model.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features)
            Samples, as a table like the training samples.
        Z : ndarray of shape (n_samples, n_components)
            Latent vectors from which the samples were drawn.
        """
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        check_choice("marginals", marginals, ("training", "model"))
        random_state = check_random_state(random_state)
        Z = random_state.standard_normal((n_samples, self.n_components_))
        Z = self._as_tensor(Z).cpu().numpy()
        codes = self._draw_codes(Z, random_state)
        own = vars(self).get("_marginals")  # models of earlier versions have none
        if marginals == "training" and own:
            if vars(self).get("_reference") is None:
                self._reference = self._reference_numbers()
            codes = with_marginals(codes, self._reference, own, random_state)
        return self.codec.decode(self.codec.restrict(codes)), Z

    def impute(
        self: Any,
        X: Any,
        *,
        return_std: bool = False,
        n_draws: int | None = None,
        n_samples: int = 256,
        random_state: Any = None,
    ) -> Any:
        """Replace missing values, given the observed ones of the same sample.

        Missing numbers become their conditional means, rounded to the decimals of the training
        samples and clipped to their range, and missing categories the most probable ones.

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
        n_samples : int, default=256
            Number of latent vectors for each sample.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the draws.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features), or a list of `n_draws` of them
            Table without missing values, with the dtypes of the training samples.
        std : ndarray of shape (n_samples, n_features)
            Standard deviations of missing values, those of categories of their codes 0, 1, ...;
            0 for observed values. Only if `return_std` is True.

        References
        ----------
        Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
        Sets" (2019), eq. 12.
        """
        check_is_fitted(self)
        check_flag("return_std", return_std)
        check_integer("n_samples", n_samples, at_least=1)
        if n_draws is not None:
            check_integer("n_draws", n_draws, at_least=1)
        codes = np.asarray(self._check_samples(X, reset=False))
        missing = np.isnan(codes)
        rows = np.flatnonzero(missing.any(axis=1))
        filled = np.repeat(codes[None], n_draws or 1, axis=0)
        std = np.zeros(codes.shape)
        if rows.size:
            conditional = TableImputation(self, codes[rows], n_samples)
            if n_draws is None:
                values = conditional.point()[None]
            else:
                values = conditional.draw(n_draws, check_random_state(random_state))
            values = np.stack([self.codec.restrict(codes) for codes in values])
            filled[:, missing] = values[:, missing[rows]]
            if return_std:
                std[missing] = conditional.std()[missing[rows]]
        decoded = [self.codec.decode(table, like=X) for table in filled]
        tables: Any = decoded[0] if n_draws is None else decoded
        return (tables, std) if return_std else tables

    def conditional_probabilities(
        self: Any, X: Any, columns: Sequence[Any] | None = None, *, n_samples: int = 64
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
        n_samples : int, default=64
            Number of latent vectors for each sample.

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
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        codec = self.codec
        indices = codec.with_categories(columns)
        codes = np.asarray(self._check_samples(X, reset=False))
        probabilities = {}
        for name, j in indices.items():
            hidden = codes.copy()
            hidden[:, j] = np.nan
            conditional = TableImputation(self, hidden, n_samples)
            probabilities[name] = conditional.probabilities(j, len(codec.columns_[j].categories))
        return probabilities

    def _draw_given(self, codes: Array, n_samples: int, rng: np.random.RandomState) -> Array:
        conditional = TableImputation(self, codes[None], max(CONDITIONAL_LATENTS, n_samples))
        return self.codec.restrict(conditional.draw(n_samples, rng)[:, 0])

    def _set_marginals(self: Any, codes: Array, weights: Array | None) -> None:
        """Keep the quantiles of numbers of the training samples."""
        self._marginals = {
            str(j): quantile_function(codes[:, j], weights)
            for j, column in enumerate(self.codec.columns_)
            if column.categories is None
        }
        self._reference = None  # of an earlier fit

    def _reference_numbers(self: Any) -> dict[str, Array]:
        """Return the quantiles of numbers under the model, which only samples need."""
        return reference_numbers(self._draw_codes, map(int, self._marginals), self.n_components_)

    def _draw_codes(self: Any, Z: Array, random_state: np.random.RandomState) -> Array:
        """Draw x from p(x|z), as codes."""

        def draw(z: Tensor) -> Tensor:
            return self._in_data_units(self.module_.decode(z).sample(random_state))

        return self._map_latents(Z, draw)
