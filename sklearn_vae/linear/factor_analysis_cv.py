"""Factor analysis with cross-validated number of factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_vae.gaussian.arrays import weighted_mean
from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.expected_moments import (
    MOST_FOR_MOMENTS,
    Fixed,
    IncompleteMoments,
    maximize_expected,
)
from sklearn_vae.gaussian.factor_analysis import fit_factors
from sklearn_vae.gaussian.factor_em import FactorUpdate
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.rotation import ROTATIONS
from sklearn_vae.linear.component_search import ComponentSearch, warn_not_converged
from sklearn_vae.linear.factor_analysis import FactorAnalysis
from sklearn_vae.linear.factor_model import Array, FactorModelMethods
from sklearn_vae.linear.fold_factors import Split
from sklearn_vae.linear.incomplete_folds import (
    FitCandidates,
    score_estimators,
    score_splits,
    within_range,
)
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_integer,
    check_real,
    has_nan,
)


class FactorAnalysisCV(ComponentSearch, FactorModelMethods):
    """Factor analysis with the number of factors chosen by the log-likelihood of held-out data.

    Equivalent to `GridSearchCV(FactorAnalysis(), {"n_components": ...})`, but in each split the
    search for k factors also starts at the noise variances of k - 1. With missing values and more than
    10000 training values it starts only there, so that it may end at another maximum than
    `FactorAnalysis`. The chosen model is then fitted to all samples. The model does not depend on the units of the
    features, and neither does the choice.

    Parameters
    ----------
    n_components : int, sequence of int, default=None
        Candidates for k. If None, they are all numbers from 0 to half the number of features, or to
        the maximum that every split allows if that is less. A model with more factors has more
        parameters than the covariance.
    cv : int, splitter or iterable, default=5
        Cross-validation as in :class:`PPCACV`.
    held_out : {"samples", "entries"}, default="samples"
        Parts of X that are held out, as in :class:`PPCACV`.
    selection : {"best", "one_standard_error"}, default="best"
        "best" selects the highest mean score. "one_standard_error" selects the smallest
        `n_components` with a mean score within one standard error, over the splits, of the
        highest.
    rotation : {None, "varimax", "quartimax", "oblimin", "promax"}, default=None
        Rotation of the loadings, as in :class:`FactorAnalysis`.
    tol : float, default=1e-8
        Tolerance of the chosen model, as in :class:`FactorAnalysis`.
    max_iter : int, default=1000
        Maximum number of iterations.

    Attributes
    ----------
    cv_results_ : dict of arrays
        Results as in GridSearchCV, without times: `params`, `param_n_components`,
        `split0_test_score` and so on, `mean_test_score`, `std_test_score` and `rank_test_score`.
        Scores are in nats per sample, or per entry if entries are held out.
    best_index_ : int
        Index of the chosen candidate in `cv_results_`.
    best_params_ : dict
        `n_components` of the chosen candidate.
    best_score_ : float
        Mean score of the chosen candidate.
    n_splits_ : int
        Number of splits.
    components_, mean_, loadings_ and the other attributes of :class:`FactorAnalysis`
        Attributes of the chosen model, fitted to all samples.

    See Also
    --------
    FactorAnalysis : The model with given `n_components`.
    PPCACV : The same search for probabilistic PCA, in closed form.

    Notes
    -----
    The fitted search is the chosen model, as in scikit-learn's `LassoCV`. `PPCACV` and this class are
    two classes and not one with a parameter, because the attributes differ in kind:
    `noise_variance_` is a number or an array, and coordinates and rotations exist for one each.

    References
    ----------
    .. [1] Joereskog, "Some contributions to maximum likelihood factor analysis", Psychometrika 1967.
    .. [2] Owen and Perry, "Bi-cross-validation of the SVD and the nonnegative matrix
       factorization", Annals of Applied Statistics 2009 (entries held out).

    Examples
    --------
    >>> from sklearn_vae import FactorAnalysisCV
    >>> from sklearn_vae.datasets import make_ppca
    >>> X, _ = make_ppca(300, 12, 3, noise_variance=0.1, random_state=0)
    >>> X *= range(1, 13)  # features in different units
    >>> model = FactorAnalysisCV().fit(X)
    >>> print(f"k = {model.n_components_}: {model.best_score_:.2f} nats per sample")
    k = 3: -27.84 nats per sample
    """

    def __init__(
        self,
        n_components: Any = None,
        *,
        cv: Any = 5,
        held_out: str = "samples",
        selection: str = "best",
        rotation: str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
    ) -> None:
        self.n_components = n_components
        self.cv = cv
        self.held_out = held_out
        self.selection = selection
        self.rotation = rotation
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any
    ) -> FactorAnalysisCV:
        """Score all candidates on held-out data and fit the best one to all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples. NaN marks a missing value.
        y : array-like of shape (n_samples,), default=None
            Target for stratified splitters.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights in training and in the held-out average, as in :meth:`FactorAnalysis.fit`.
        **params : dict
            `groups` for splitters that use them. With metadata routing enabled, anything that the
            splitter requests.

        Returns
        -------
        self : FactorAnalysisCV
            Fitted model.

        Raises
        ------
        TypeError
            If X is a Dask collection, or `params` contains unknown names.
        ValueError
            If a parameter, X or `sample_weight` is invalid or does not fit the splits.

        Warns
        -----
        ConvergenceWarning
            If a noise variance of the chosen model is at its lower bound, or if a fit has not
            converged.
        """
        self._check_search()
        if self.rotation is not None:
            check_choice("rotation", self.rotation, ROTATIONS)
        check_real("tol", self.tol, at_least=0.0)
        check_integer("max_iter", self.max_iter, at_least=1)
        with all_or_nothing(self):
            X = self._check_samples(X, reset=True, min_samples=2)
            if has_nan(X) or self.held_out == "entries":
                ks, scores = self._scores_by_em(X, y, sample_weight, params)
            else:
                splits = self._splits(X, y, sample_weight, params)
                weights = self._checked_weights(X, sample_weight, splits)
                ks = self._candidate_factors(X.shape[1], splits)
                scores = np.array([_complete_scores(X, weights, split, ks) for split in splits])
            self._set_results([{"n_components": k} for k in ks], scores)
            options: dict[str, Any] = {
                "rotation": self.rotation,
                "tol": self.tol,
                "max_iter": self.max_iter,
            }
            self._take(FactorAnalysis(**self.best_params_, **options), X, sample_weight)
        return self

    def _candidate_factors(self, d: int, splits: list[Split]) -> list[int]:
        ks = self._candidate_components(d, splits)
        return ks[: d // 2 + 1] if self.n_components is None else ks

    def _scores_by_em(
        self, X: Array, y: Any, sample_weight: Any, params: dict[str, Any]
    ) -> tuple[list[int], np.ndarray]:
        """Return the candidates and their scores in each split, (n_splits, n_components)."""
        unit = _units(X.astype(np.float64))
        splits = self._incomplete_splits(X / unit, y, sample_weight, params)
        ks = self._candidate_factors(X.shape[1], splits.splits)
        if X.shape[1] > MOST_FOR_MOMENTS:
            scores = score_estimators(splits, [FactorAnalysis(k) for k in ks])
        else:
            by_noise, n_failed = score_splits(splits, ks, [()], _fits)
            warn_not_converged(n_failed, by_noise.size)
            scores = by_noise[:, :, 0]
        return ks, scores - splits.log_scale(unit)[:, None]


def _units(X: Array) -> Array:
    """Return the standard deviations of the observed values, or 1 where these do not vary."""
    seen = ~np.isnan(X)
    n, units = np.maximum(seen.sum(axis=0), 1), np.ones(X.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(seen, X / n, 0.0).sum(axis=0)
        mean += np.where(seen, (X - mean) / n, 0.0).sum(axis=0)
        std = np.sqrt(np.square(np.where(seen, X - mean, 0.0)).sum(axis=0) / n)
        varies = np.isfinite(std) & (std > 8.0 * 2.0**-52 * np.abs(mean))
    units[varies] = std[varies]
    return units


def _fits(training: Sequence[IncompleteMoments]) -> FitCandidates:
    """Return the function that fits candidates to the training data of some splits."""

    def fit(k: int, _: tuple[()], starts: Sequence[tuple[int, Fixed | None]]) -> list[Fixed]:
        ends = []
        for split, start in starts:
            data = training[split]
            expected = data.start() if start is None else start.expected
            ends.append(maximize_expected(data, FactorUpdate(k, varies=data.varies), expected))
        return ends

    return fit


def _complete_scores(X: Array, weights: Any, split: Split, ks: list[int]) -> list[float]:
    """Return the average log-likelihood of the held-out samples for each number of factors."""
    train, test = split
    w, v = (None, None) if weights is None else (weights[train], weights[test])
    data = X[train].astype(np.float64, copy=False)
    wide = data.shape[0] < data.shape[1]
    summary: Any = centered_data(data, w) if wide else Moments.of(data, w, check_finite=False)
    summary.check_finite()
    held_out = X[test].astype(np.float64, copy=False) - summary.mean
    scores, start = np.empty(len(ks)), None
    for i in np.argsort(ks, kind="stable"):
        with within_range():
            model = fit_factors(summary, ks[i], more_starts=[] if start is None else [start])
        start, scale = model.noise_variance, np.sqrt(model.noise_variance)
        W = model.loadings / scale[:, None]
        values = LowRankGaussian(np.zeros(len(scale)), W, 1.0).log_prob(held_out / scale)
        scores[i] = float(weighted_mean(values, v)) - np.log(scale).sum()
    return list(scores)
