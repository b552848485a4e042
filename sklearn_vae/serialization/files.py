"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def write_then_replace(
    draft: Any, target: Any, data: Any, opener: Callable[[str, int], int] | None = None
) -> None:
    """Write data to a new file, and put that in the place of another; of neither a part is left.

    Parameters
    ----------
    draft, target : path-like
        In one folder; there must be no draft yet.
    data : bytes-like
    opener : function, default=None
        As of :func:`open`.
    """
    try:
        with open(draft, "xb", opener=opener) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
