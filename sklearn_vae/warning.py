"""Warnings that point to the code of the user."""

from __future__ import annotations

import sys
import warnings

# Packages through which a call of the user reaches this library.
PASSED_THROUGH = {"sklearn_vae", "sklearn", "skorch", "torch", "joblib", "contextlib"}


def warn_user(text: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the line outside the library that made the call.

    scikit-learn is passed through as well: a warning of a step points to the line that fits the
    pipeline.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _package(frame.f_globals) in PASSED_THROUGH:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _package(names: dict[str, object]) -> str:
    """Return the name of the top package of a module with these global names."""
    return str(names.get("__name__", "")).partition(".")[0]
