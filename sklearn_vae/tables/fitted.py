"""The types and categories of columns of a fitted model of tables."""

from __future__ import annotations

from typing import Any

from sklearn_vae.tables.codec import TableCodec


class FittedTable:
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
