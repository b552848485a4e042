"""Conformal p-values of scores, where a high score means a usual sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Scores that differ by less count as equal: relative to their standard deviation, and to the score.
# The score of a sample changes by rounding with the samples that are scored together, and its
# p-value must not.
TIE, TIE_RELATIVE = 1e-8, 1e-12


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
        (1 + weight of the calibration samples with at most the same score, to rounding) / (1 + m),
        where m is the number of calibration samples.
    log_scores : ndarray of shape (n_samples,)
        Logarithms of the p-values. A sample that no calibration sample reaches has less: the
        average over the folds of its distance from the lowest score of the fold, in standard
        deviations of the scores of the fold, is subtracted. They are finite.
    """
    below, beyond = np.zeros((2, len(scores[0])))
    for values, usual, weight in zip(scores, calibration, weights, strict=True):
        finite = usual[np.isfinite(usual)]
        spread = finite.std() if finite.size else 0.0
        sizes = np.where(np.isfinite(values), abs(values), 0.0)
        ties = np.searchsorted(usual, values + TIE * spread + TIE_RELATIVE * sizes, side="right")
        below += np.concatenate([[0.0], np.cumsum(weight)])[ties]
        lowest = finite[0] if finite.size else 0.0
        beyond += (values - lowest) / (spread or 1.0)
    # Sums of weights may round to more than the number of samples.
    p_values = np.minimum((1.0 + below) / (1.0 + sum(map(len, calibration))), 1.0)
    # Finite also for a score of -inf, so that subtracting an offset of -inf gives no nan.
    beyond = np.clip(beyond / len(scores), -np.finfo(np.float64).max, 0.0)
    extra = np.where(below == 0.0, beyond, 0.0)
    return p_values, np.log(p_values) + extra


def p_values_among(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the p-value of each sample among all of these: the share with at most its score.

    Scores may be nan, and their p-values then are nan, too.
    """
    is_given = ~np.isnan(scores)
    order = np.argsort(scores[is_given], kind="stable")
    usual, share = scores[is_given][order], np.cumsum(weights[is_given][order])
    p_values = np.full(len(scores), np.nan)
    last = np.searchsorted(usual, scores[is_given], side="right") - 1
    p_values[is_given] = share[last] / share[-1]
    return p_values


def smallest_p_value(calibration: Sequence[np.ndarray]) -> float:
    """Return the smallest p-value that is possible with these calibration scores."""
    return 1.0 / (1.0 + sum(map(len, calibration)))


def limit_of(ratios: np.ndarray, weights: Sequence[np.ndarray], level: float) -> float:
    """Return the value above which the p-value is at most `level`, or inf if none is.

    High values are unusual. `weights` are those of the calibration samples, fold by fold.
    """
    order = np.argsort(-ratios, kind="stable")
    share = np.concatenate(weights)[order]
    p_values = (1.0 + np.cumsum(share) - share) / (1.0 + len(share))
    is_below = p_values <= level
    return float(ratios[order][is_below][-1]) if is_below.any() else float("inf")
