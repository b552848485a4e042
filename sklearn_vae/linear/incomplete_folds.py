"""Cross-validation scores of all candidates on data with missing values, or with held-out entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sklearn_vae.gaussian.expected_moments import Fixed, IncompleteMoments
from sklearn_vae.gaussian.observed import IncompleteData, blas_threads
from sklearn_vae.gaussian.stacked_data import StackedData
from sklearn_vae.linear.fold_factors import Split

# Values of the parameters of a candidate after the first, n_components.
Others: TypeAlias = tuple[Any, ...]
# Fits models of k components and other parameters, each to the training data of a split, given by its
# number, from the end of another fit.
FitCandidates: TypeAlias = Callable[[int, Others, Sequence[tuple[int, Fixed | None]]], list[Fixed]]
# Returns such a function for the training data of some splits.
FitsOf: TypeAlias = Callable[[Sequence[IncompleteMoments]], FitCandidates]

# Up to this number of training values, where maxima of the likelihood are often local, each fit also
# starts at the mean, as that of a single model.
SMALL = 10_000
# Splits are searched together up to this number of training values in all.
TOGETHER = 500_000


class Part(NamedTuple):
    """Training data of a split with NaN for what is held out, and the data that score a model.

    The score is the log-likelihood of `evaluated` minus, if entries are held out, that of the
    training entries of the same samples, per unit of `total`.
    """

    training: np.ndarray
    training_weights: np.ndarray | None
    evaluated: np.ndarray
    evaluated_weights: np.ndarray | None
    total: float
    is_conditional: bool


@dataclass(frozen=True, eq=False)
class IncompleteSplits:
    """Splits of samples, or of the observed entries of X in row-major order."""

    X: np.ndarray
    weights: np.ndarray | None
    splits: list[Split]
    of_entries: bool

    def part(self, split: int) -> Part:
        """Return the data of a split."""
        train, test = self.splits[split]
        if self.of_entries:
            return self._entries(train, test)
        X, w = self.X, self.weights
        if w is None:
            return Part(X[train], None, X[test], None, float(len(test)), is_conditional=False)
        train, test = train[w[train] > 0], test[w[test] > 0]
        total = float(w[test].sum())
        return Part(X[train], w[train], X[test], w[test], total, is_conditional=False)

    def _entries(self, train: np.ndarray, test: np.ndarray) -> Part:
        rows, columns = self._at
        training, evaluated = np.full_like(self.X, np.nan), np.full_like(self.X, np.nan)
        for entries, arrays in ((train, (training, evaluated)), (test, (evaluated,))):
            at = rows[entries], columns[entries]
            for array in arrays:
                array[at] = self.X[at]
        w = self.weights
        if w is None:
            return Part(training, None, evaluated, None, float(len(test)), is_conditional=True)
        total, kept = float(w[rows[test]].sum()), w > 0
        return Part(training[kept], w[kept], evaluated[kept], w[kept], total, is_conditional=True)

    @cached_property
    def _at(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.nonzero(~np.isnan(self.X))
        return rows, columns

    def log_scale(self, scale: np.ndarray) -> np.ndarray:
        """Return the change of the score of each split if the features are divided by `scale`."""
        changes = []
        for split in range(len(self.splits)):
            part = self.part(split)
            seen = (~np.isnan(part.evaluated)).astype(float)
            if part.is_conditional:
                seen -= ~np.isnan(part.training)
            w = part.evaluated_weights
            counts = seen.sum(axis=0) if w is None else w @ seen
            changes.append(counts @ np.log(scale) / part.total)
        return np.array(changes)


def score_splits(
    splits: IncompleteSplits, ks: Sequence[int], others: Sequence[Others], fits_of: FitsOf
) -> tuple[np.ndarray, int]:
    """Score all candidates in all splits.

    Returns scores of shape (n_splits, n_components, n_others), which are nan if the likelihood is
    unbounded, and the number of fits that have not converged.
    """

    def scores_of(numbers: np.ndarray) -> tuple[np.ndarray, int]:
        return _Searches(splits, numbers, ks, others, fits_of).scores()

    n_splits = len(splits.splits)
    n_threads = max([lib["num_threads"] for lib in blas_threads().info()], default=1)
    n_groups = max(n_threads, n_splits * splits.X.size // TOGETHER)
    groups = np.array_split(np.arange(n_splits), min(n_groups, n_splits))
    if n_threads == 1:
        results = list(map(scores_of, groups))
    else:
        with (
            blas_threads().limit(limits=1, user_api="blas"),
            ThreadPoolExecutor(n_threads) as pool,
        ):
            results = list(pool.map(scores_of, groups))
    scores, failures = zip(*results, strict=True)
    return np.concatenate(scores), sum(failures)


def score_estimators(splits: IncompleteSplits, estimators: Sequence[Any]) -> np.ndarray:
    """Score estimators by one fit per split, (n_splits, n_estimators), for many features."""
    scores = np.full((len(splits.splits), len(estimators)), np.nan)
    for split in range(len(splits.splits)):
        part = splits.part(split)
        check_observed(part.training, split)
        for i, estimator in enumerate(estimators):
            estimator.fit(part.training, sample_weight=part.training_weights)
            value = _total_score(estimator, part.evaluated, part.evaluated_weights)
            if part.is_conditional:
                value -= _total_score(estimator, part.training, part.training_weights)
            scores[split, i] = value / part.total
    return scores


def _total_score(estimator: Any, X: np.ndarray, weights: np.ndarray | None) -> float:
    values = estimator.score_samples(X)
    return float(values.sum() if weights is None else weights @ values)


@contextmanager
def within_range() -> Iterator[None]:
    """Raise ValueError if a fit leads to a matrix that is singular in float64."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "A fit in cross-validation led to a matrix that is singular in float64. Scale the "
            "features of X to similar variances, drop features that are functions of others, or use "
            "a smaller n_components."
        ) from error


def check_observed(X: np.ndarray, split: int) -> None:
    """Raise ValueError unless every feature has an observed training value."""
    empty = np.flatnonzero(np.isnan(X).all(axis=0))
    if empty.size:
        raise ValueError(
            "X must have an observed value of every feature in the training part of every split, "
            f"got only NaN in column {empty[0]} in split {split}. Use more splits, or drop the "
            "feature."
        )


def _moments(split: int, part: Part, most: int) -> tuple[IncompleteMoments, IncompleteData]:
    """Return the moments of the training data of a split, and the data that score a model."""
    check_observed(part.training, split)
    w = part.training_weights
    seen = ~np.isnan(part.training)
    filled = np.where(seen, part.training, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        center = filled.mean(axis=0) if w is None else w @ filled / w.sum()
        center *= len(seen) / seen.sum(axis=0) if w is None else w.sum() / (w @ seen)
        training = IncompleteMoments(part.training, center, most, w)
        evaluated = IncompleteData(part.evaluated, center, most, part.evaluated_weights)
    for data in (training.data, evaluated):
        data.check_finite()
    return training, evaluated


class _Searches:
    """Fits of all candidates in some splits, each of which starts where another one ended."""

    def __init__(
        self,
        splits: IncompleteSplits,
        numbers: np.ndarray,
        ks: Sequence[int],
        others: Sequence[Others],
        fits_of: FitsOf,
    ) -> None:
        parts = [splits.part(split) for split in numbers]
        pairs = [_moments(*each, max(ks)) for each in zip(numbers, parts, strict=True)]
        training, evaluated = zip(*pairs, strict=True)
        self._ks, self._others = ks, others
        self._fit_candidates = fits_of(training)
        self._is_small = [part.training.size <= SMALL for part in parts]
        self._totals = np.array([part.total for part in parts])
        self._evaluated, self._given = StackedData(evaluated), None
        if splits.of_entries:
            self._given = StackedData([moments.data for moments in training])

    def scores(self) -> tuple[np.ndarray, int]:
        """Return scores of shape (n_splits, n_components, n_others), and the number of failures."""
        n_splits = len(self._totals)
        scores = np.full((n_splits, len(self._ks), len(self._others)), np.nan)
        ends: list[list[Fixed | None]] = [[None] * n_splits for _ in self._others]
        n_failed = 0
        for i in np.argsort(self._ks, kind="stable"):
            nearest: list[Fixed | None] = [None] * n_splits
            for j, others in enumerate(self._others):
                starts = [end or near for end, near in zip(ends[j], nearest, strict=True)]
                with within_range():
                    fitted = self._fit(self._ks[i], others, starts)
                    scores[:, i, j] = self._scores(fitted)
                for split, end in enumerate(fitted):
                    n_failed += not end.converged
                    if end.is_bounded:
                        ends[j][split] = nearest[split] = end
        return scores, n_failed

    def _scores(self, ends: Sequence[Fixed]) -> np.ndarray:
        """Return the score of the model of each split, nan where its likelihood is unbounded."""
        scores = np.full(len(ends), np.nan)
        kept = [i for i, end in enumerate(ends) if end.is_bounded]
        if kept:
            means, fits = [ends[i].expected.mean for i in kept], [ends[i].fit for i in kept]
            value = self._evaluated.take(np.array(kept)).log_likelihoods(means, fits)
            if self._given is not None:
                value -= self._given.take(np.array(kept)).log_likelihoods(means, fits)
            scores[kept] = value / self._totals[kept]
        return scores

    def _fit(self, k: int, others: Others, starts: Sequence[Fixed | None]) -> list[Fixed]:
        """Fit a candidate from one or two starts, and return the higher of bounded maxima."""
        tried = list(enumerate(starts))
        tried += [
            (split, None)
            for split, start in enumerate(starts)
            if start is not None and self._is_small[split]
        ]
        best: dict[int, Fixed] = {}
        for (split, _), end in zip(tried, self._fit_candidates(k, others, tried), strict=True):
            if split not in best or _rank(end) > _rank(best[split]):
                best[split] = end
        return [best[split] for split in range(len(starts))]


def _rank(end: Fixed) -> tuple[bool, float]:
    return end.is_bounded, end.log_likelihood
