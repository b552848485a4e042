"""Codes of tables that are not encoded again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Codes(np.ndarray):
    """Codes of a table, with the state of their codec, which are not encoded again."""

    table: Any  # state of the codec, None after pickling

    @classmethod
    def of(cls, codes: Array, table: dict[str, Any]) -> Codes:
        """Return an array as codes."""
        own = codes.view(cls)
        own.table = table
        return own

    def __array_finalize__(self, other: Any) -> None:
        self.table = getattr(other, "table", None)
