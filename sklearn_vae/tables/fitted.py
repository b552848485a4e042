"""The types and categories of columns of a fitted model of tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.tables.codec import TableCodec
from sklearn_vae.validation import check_integer, check_random_state

Array = NDArray[Any]


class FittedTable(ABC):
    """Base class of models of tables, whose `_table` is the state of their codec."""

    _table: dict[str, Any]

    @property
    def column_types_(self) -> dict[Any, str]:
        """Type of each column."""
        return self.codec.column_types_

    @property
    def categories_(self) -> dict[Any, list[Any]]:
        """Categories of each column that has some."""
        return self.codec.categories_

    @property
    def codec(self) -> TableCodec:
        """Codec of the columns of the training samples."""
        if "_table" not in vars(self):
            raise AttributeError(
                f"This {type(self).__name__} is not fitted yet and has no types of columns. Call "
                "fit first."
            )
        return TableCodec.from_state(self._table)

    def conditional_sample(
        self, given: Mapping[Any, Any], n_samples: int = 1, random_state: Any = None
    ) -> Any:
        """Draw samples in which some values are given.

        Parameters
        ----------
        given : dict
            Values by the name or index of their column.
        n_samples : int, default=1
            Number of samples to draw.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the draws.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features)
            Samples from the conditional distribution, as a table like the training samples.

        Raises
        ------
        ValueError
            If a column does not exist or is given twice, or if a value is not possible for it.
        """
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        codes = self.codec.encode_values(given)
        values = self._draw_given(codes, n_samples, check_random_state(random_state))
        return self.codec.decode(np.where(np.isnan(codes), values, codes))

    @abstractmethod
    def _draw_given(self, codes: Array, n_samples: int, rng: np.random.RandomState) -> Array:
        """Draw samples given the codes of one, NaN where they are not given."""
