"""Conformal p-values of scores, where a high score means a usual sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def conformal_p_values(
    scores: Sequence[np.ndarray],
    calibration: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Compute p-values and scores that order also the samples beyond all calibration samples.

    Parameters
    ----------
    scores : sequence of ndarray of shape (n_samples,)
        Scores of the same samples by the model of each fold.
    calibration : sequence of ndarray
        Sorted scores of the samples of each fold, by the model that has not seen them.
    weights : sequence of ndarray
        Weights of these samples, with an average of 1 over all folds.

    Returns
    -------
    p_values : ndarray of shape (n_samples,)
        (1 + weight of the calibration samples with at most the same score) / (1 + m), where m is
        the number of calibration samples.
    log_scores : ndarray of shape (n_samples,)
        Logarithms of the p-values. A sample that no calibration sample reaches has less: the
        average over the folds of its distance from the lowest score of the fold, in standard
        deviations of the scores of the fold, is subtracted.
    """
    below, beyond = np.zeros((2, len(scores[0])))
    for values, usual, weight in zip(scores, calibration, weights, strict=True):
        cumulative = np.concatenate([[0.0], np.cumsum(weight)])
        below += cumulative[np.searchsorted(usual, values, side="right")]
        finite = usual[np.isfinite(usual)]
        spread = finite.std() if finite.size else 0.0
        lowest = finite[0] if finite.size else 0.0
        beyond += (values - lowest) / (spread or 1.0)
    p_values = (1.0 + below) / (1.0 + sum(map(len, calibration)))
    extra = np.where(below == 0.0, np.minimum(beyond / len(scores), 0.0), 0.0)
    return p_values, np.log(p_values) + extra


def smallest_p_value(calibration: Sequence[np.ndarray]) -> float:
    """Return the smallest p-value that is possible with these calibration scores."""
    return 1.0 / (1.0 + sum(map(len, calibration)))
