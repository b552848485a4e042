"""Cross-validation scores of all candidates on data with missing values, or with held-out entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from sklearn_vae.gaussian.expected_moments import (
    Expected,
    IncompleteMoments,
    LowRankFit,
    Model,
    maximize_expected,
)
from sklearn_vae.gaussian.observed import blas_threads
from sklearn_vae.linear.fold_factors import Split

# The d x d matrices of expected moments cost more than the steps that they save in more features.
MOST_FEATURES = 300

# Values of the parameters of a candidate after the first, n_components.
Others: TypeAlias = tuple[Any, ...]
# Returns the model of k components and other parameters, for data with a least noise variance.
MakeModel: TypeAlias = Callable[[int, Others, float], Model]


@dataclass(frozen=True, eq=False)
class Part:
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


def sample_parts(
    X: np.ndarray, weights: np.ndarray | None, splits: Iterable[Split]
) -> Iterator[Part]:
    """Hold out samples."""
    for train, test in splits:
        train_weights, test_weights = None, None
        total = float(len(test))
        if weights is not None:
            train, test = train[weights[train] > 0], test[weights[test] > 0]
            train_weights, test_weights = weights[train], weights[test]
            total = float(test_weights.sum())
        yield Part(X[train], train_weights, X[test], test_weights, total, is_conditional=False)


def entry_parts(
    X: np.ndarray, weights: np.ndarray | None, splits: Iterable[Split]
) -> Iterator[Part]:
    """Hold out observed entries, which are counted in the order of the rows of X."""
    rows, columns = np.nonzero(~np.isnan(X))
    for train, test in splits:
        training, evaluated = np.full_like(X, np.nan), np.full_like(X, np.nan)
        at = rows[train], columns[train]
        training[at] = evaluated[at] = X[at]
        at = rows[test], columns[test]
        evaluated[at] = X[at]
        total = float(len(test) if weights is None else weights[rows[test]].sum())
        yield Part(training, weights, evaluated, weights, total, is_conditional=True)


def score_parts(
    parts: Iterable[Part], ks: Sequence[int], others: Sequence[Others], make_model: MakeModel
) -> tuple[np.ndarray, int]:
    """Score all candidates in all splits.

    Returns scores of shape (n_splits, n_components, n_others), which are nan if the likelihood is
    unbounded, and the number of fits that have not converged.
    """

    def scores_of(numbered: tuple[int, Part]) -> tuple[np.ndarray, int]:
        return _PartSearch(*numbered, ks, others, make_model).scores()

    n_threads = max([lib["num_threads"] for lib in blas_threads().info()], default=1)
    if n_threads == 1:
        results = [scores_of(part) for part in enumerate(parts)]
    else:
        with (
            blas_threads().limit(limits=1, user_api="blas"),
            ThreadPoolExecutor(n_threads) as pool,
        ):
            results = list(pool.map(scores_of, enumerate(parts)))
    scores, failures = zip(*results, strict=True)
    return np.stack(scores), sum(failures)


def check_observed(X: np.ndarray, split: int) -> None:
    """Raise ValueError unless every feature has an observed training value."""
    empty = np.flatnonzero(np.isnan(X).all(axis=0))
    if empty.size:
        raise ValueError(
            "X must have an observed value of every feature in the training part of every split, "
            f"got only NaN in column {empty[0]} in split {split}. Use more splits, or drop the "
            "feature."
        )


class _PartSearch:
    """Fits of all candidates in one split, each of which starts where another one ended."""

    def __init__(
        self,
        split: int,
        part: Part,
        ks: Sequence[int],
        others: Sequence[Others],
        make_model: MakeModel,
    ) -> None:
        check_observed(part.training, split)
        w = part.training_weights
        seen = ~np.isnan(part.training)
        filled = np.where(seen, part.training, 0.0)
        center = filled.mean(axis=0) if w is None else w @ filled / w.sum()
        center *= len(seen) / seen.sum(axis=0) if w is None else w.sum() / (w @ seen)
        most = max(ks)
        self._training = IncompleteMoments(part.training, center, most, w)
        self._evaluated = IncompleteMoments(part.evaluated, center, most, part.evaluated_weights)
        self._part, self._ks, self._others, self._make = part, ks, others, make_model

    def scores(self) -> tuple[np.ndarray, int]:
        """Return scores of shape (n_components, n_others), and the number of failures."""
        scores = np.full((len(self._ks), len(self._others)), np.nan)
        ends: list[Expected | None] = [None] * len(self._others)
        n_failed = 0
        for i in np.argsort(self._ks, kind="stable"):
            nearest = None
            for j, others in enumerate(self._others):
                start = ends[j] or nearest or self._training.start()
                model = self._make(self._ks[i], others, self._training.data.least_noise)
                end = maximize_expected(self._training, model, start)
                n_failed += not end.converged
                if end.is_bounded:
                    ends[j] = nearest = end.expected
                    scores[i, j] = self._score(end.expected.mean, end.fit)
        return scores, n_failed

    def _score(self, mean: np.ndarray, fit: LowRankFit) -> float:
        data = self._evaluated
        value = data.data.n * data.log_likelihood(mean, fit)
        if self._part.is_conditional:
            value -= self._training.data.n * self._training.log_likelihood(mean, fit)
        return value / self._part.total
