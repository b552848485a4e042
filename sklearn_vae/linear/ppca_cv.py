"""Probabilistic PCA with cross-validated number of components and noise variance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.expected_moments import (
    MOST_FOR_MOMENTS,
    Fixed,
    IncompleteMoments,
    PPCAModel,
    maximize_expected,
)
from sklearn_vae.gaussian.loadings_search import LEAST_FEATURES, LoadingsSearch, null_model
from sklearn_vae.linear.closed_form import closed_form_attributes
from sklearn_vae.linear.component_search import ComponentSearch, listed, warn_not_converged
from sklearn_vae.linear.dask_arrays import as_dask_array
from sklearn_vae.linear.exact_posterior import COORDINATES, MissingValuesModel
from sklearn_vae.linear.fold_factors import Split, is_dense_in_memory
from sklearn_vae.linear.folds import BlockFolds, GramFolds, MomentFolds
from sklearn_vae.linear.incomplete_folds import score_estimators, score_splits
from sklearn_vae.linear.ppca import PPCA
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_noise_variance,
    has_nan,
    is_dask,
)


class PPCACV(ComponentSearch, MissingValuesModel):
    """Probabilistic PCA with k and sigma2 chosen by the log-likelihood of held-out data.

    Equivalent to `GridSearchCV(PPCA(), {"n_components": ..., "noise_variance": ...})`, with the
    same scores, but much faster. It needs about one pass over the data and one
    eigendecomposition per split: the moments of the training samples are sums of the moments of
    the folds, and all candidates share the eigenvalues. If n < d, one Gram matrix replaces the
    moments. The chosen model is then fitted to all samples.

    With missing values, each candidate is fitted by EM, from 20 features on by L-BFGS first. A fit
    starts at the model with fewer components and, with up to 10000 training values, another one starts
    at the mean. The scores are those at a
    maximum of the likelihood, to about 1e-6 nats if the variances of the features differ by a factor
    of up to 1e8; those of GridSearchCV differ by more unless PPCA has a much smaller `tol` than by
    default. Where the likelihood has several maxima, it may be another one than that which PPCA finds
    from its own start: a higher one, or rarely a lower one of larger data. With more than 300
    features all candidates are fitted as by PPCA, and one whose likelihood is unbounded has a very
    low score instead of nan.

    Parameters
    ----------
    n_components : int, sequence of int, default=None
        Candidates for k. If None, they are all numbers from 0 (noise without latent dimensions) to
        the maximum that every split allows.
    noise_variance : float, None or sequence of these, default=None
        Candidates for sigma2, where None is the maximum likelihood estimate.
    cv : int, splitter or iterable, default=5
        Cross-validation as in :class:`sklearn.model_selection.GridSearchCV`. Pass `groups` to
        `fit`.
    held_out : {"samples", "entries"}, default="samples"
        Parts of X that are held out. With "entries", `cv` splits the observed entries of X, in the
        order of its rows, and the score is the conditional log-density of the held-out entries
        given the other entries of their samples. An integer `cv` shuffles the entries. The entries
        of a sample are predicted from the others, so the choice is for imputation and
        reconstruction.
    selection : {"best", "one_standard_error"}, default="best"
        "best" selects the highest mean score. "one_standard_error" selects the smallest
        `n_components` with a mean score within one standard error, over the splits, of the
        highest.
    coordinates : {"principal", "whitened", "posterior"}, default="principal"
        Coordinates of `transform` and `inverse_transform`, as in :class:`PPCA`.

    Attributes
    ----------
    cv_results_ : dict of arrays
        Results as in GridSearchCV, without times: `params`, `param_n_components`,
        `param_noise_variance`, `split0_test_score` and so on, `mean_test_score`,
        `std_test_score` and `rank_test_score`. Scores are in nats per sample, or per entry if
        entries are held out, and nan if the likelihood is unbounded. Scores that agree to 12 digits
        have equal ranks.
    best_index_ : int
        Index of the chosen candidate in `cv_results_`.
    best_params_ : dict
        `n_components` and `noise_variance` of the chosen candidate.
    best_score_ : float
        Mean score of the chosen candidate.
    n_splits_ : int
        Number of splits.
    components_, mean_, loadings_ and the other attributes of :class:`PPCA`
        Attributes of the chosen model, fitted to all samples.

    See Also
    --------
    FactorAnalysisCV : The same search for factor analysis.
    PPCA : The model with given `n_components` and `noise_variance`.
    sklearn.model_selection.GridSearchCV : Search that fits each candidate in each split.

    References
    ----------
    .. [1] Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999.
    .. [2] Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
       Statistician 1983, eq. 2.1 (sums of moments).
    .. [3] Bro, Kjeldahl, Smilde and Kiers, "Cross-validation of component models: a critical look
       at current methods", Analytical and Bioanalytical Chemistry 2008 (entries held out).
    .. [4] Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009,
       section 7.10 (one standard error).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import PPCACV
    >>> model = PPCACV().fit(load_digits().data)
    >>> print(f"k = {model.n_components_}: {model.best_score_:.2f} nats per sample")
    k = 51: -125.19 nats per sample
    """

    def __init__(
        self,
        n_components: Any = None,
        *,
        noise_variance: Any = None,
        cv: Any = 5,
        held_out: str = "samples",
        selection: str = "best",
        coordinates: str = "principal",
    ) -> None:
        self.n_components = n_components
        self.noise_variance = noise_variance
        self.cv = cv
        self.held_out = held_out
        self.selection = selection
        self.coordinates = coordinates

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> PPCACV:
        """Score all candidates on held-out samples and fit the best one to all samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples. NaN marks a missing value. A DataFrame needs one more pass to count its
            samples.
        y : array-like of shape (n_samples,), default=None
            Target for stratified splitters. It must be in memory.
        sample_weight : array-like or Dask array of shape (n_samples,), default=None
            Weights in training and in the held-out average, as in :meth:`PPCA.fit`.
        **params : dict
            `groups` for splitters that use them. With metadata routing enabled, anything that the
            splitter requests.

        Returns
        -------
        self : PPCACV
            Fitted model.

        Raises
        ------
        TypeError
            If `y` or `groups` is a Dask collection, or `params` contains unknown names.
        ValueError
            If a parameter is invalid or does not fit the splits, X is infinite, a feature has no
            observed training value in some split, or the likelihood of every candidate is
            unbounded in some split.

        Warns
        -----
        ConvergenceWarning
            If EM has not converged, with missing values or held-out entries.
        """
        self._check_parameters()
        with all_or_nothing(self):
            self.__dict__.pop("loglike_history_", None)
            if is_dask(X):
                for name, value in {"y": y, **params}.items():
                    if is_dask(value):
                        raise TypeError(
                            f"{name} must be in memory, because cv uses it to split the samples, "
                            f"got a Dask {type(value).__name__}. Pass {name}.compute()."
                        )
                X = as_dask_array(self, X, reset=True, known_lengths=True)
            else:
                X = self._check_samples(X, reset=True, min_samples=2)
            in_memory = is_dense_in_memory(X)
            if self.held_out == "entries" and not in_memory:
                raise ValueError(
                    "held_out='entries' needs X as a dense array in memory, got "
                    f"{type(X).__name__}. Use held_out='samples'."
                )
            if (in_memory and has_nan(X)) or self.held_out == "entries":
                self._fit_by_em(X, sample_weight, y, params)
            else:
                self._fit_complete(X, sample_weight, self._splits(X, y, sample_weight, params))
        return self

    def _folds(self, X: Any, sample_weight: Any, splits: list[Split]) -> GramFolds | MomentFolds:
        if is_dask(X):
            return BlockFolds(self, X, sample_weight, splits)
        weights = self._checked_weights(X, sample_weight, splits)
        return (GramFolds if X.shape[0] < X.shape[1] else MomentFolds)(X, weights, splits)

    def _fit_complete(self, X: Any, sample_weight: Any, splits: list[Split]) -> None:
        """Score all candidates in closed form, and fit the best one."""
        ks, noises = self._candidate_components(X.shape[1], splits), listed(self.noise_variance)
        folds = self._folds(X, sample_weight, splits)
        scores = [to_host(fold.log_likelihood_of(t, rest, ks, noises)) for fold, t, rest in folds]
        self._set_results(self._grid(ks), np.stack([score.ravel() for score in scores]))
        k, noise = self.best_params_["n_components"], self.best_params_["noise_variance"]
        spectrum, n, dtype = folds.spectrum(k), folds.n, folds.dtype
        self.__dict__.update(closed_form_attributes(spectrum, k, n, dtype, noise))

    def _fit_by_em(self, X: Any, sample_weight: Any, y: Any, options: dict[str, Any]) -> None:
        """Score all candidates by EM, because entries are missing or held out."""
        noises = listed(self.noise_variance)
        unit = _unit(to_host(X)) if all(noise is None for noise in noises) else 1.0
        splits = self._incomplete_splits(X / unit, y, sample_weight, options)
        ks = self._candidate_components(X.shape[1], splits.splits)
        if X.shape[1] > MOST_FOR_MOMENTS:
            scores = score_estimators(splits, [PPCA(**params) for params in self._grid(ks)])
        else:
            scores, n_failed = score_splits(splits, ks, [(noise,) for noise in noises], _Fits)
            scores = scores.reshape(len(scores), -1)
            warn_not_converged(n_failed, scores.size)
        if unit != 1.0:
            scores -= splits.log_scale(np.full(X.shape[1], unit))[:, None]
        self._set_results(self._grid(ks), scores)
        self._take(PPCA(**self.best_params_), X, sample_weight)

    def _grid(self, ks: list[int]) -> list[dict[str, Any]]:
        """Return the candidates as parameters of PPCA."""
        noises = listed(self.noise_variance)
        return [{"n_components": k, "noise_variance": s} for k, s in itertools.product(ks, noises)]

    def _check_parameters(self) -> None:
        self._check_search()
        for noise in listed(self.noise_variance):
            check_noise_variance(noise)
        self._check_has_candidates("noise_variance")
        check_choice("coordinates", self.coordinates, COORDINATES)


def _unit(X: np.ndarray) -> float:
    """Return a power of two near the largest value, because squares of X may leave the range."""
    largest = np.where(np.isnan(X), 0.0, np.abs(X)).max()
    return float(np.ldexp(1.0, np.frexp(largest)[1] - 1)) if largest > 0.0 else 1.0


class _Fits:
    """Fits to the training data of some splits."""

    def __init__(self, training: Sequence[IncompleteMoments]) -> None:
        self._training, self._nulls = training, dict[tuple[int, float | None], Fixed]()

    @cached_property
    def _search(self) -> LoadingsSearch:
        return LoadingsSearch(self._training)

    def __call__(
        self, k: int, others: tuple[float | None], starts: Sequence[tuple[int, Fixed | None]]
    ) -> list[Fixed]:
        candidates = []
        for split, start in starts:
            data = self._training[split]
            model = PPCAModel(k, *others, data.data.least_noise)
            candidates.append((split, model, start or self._null(split, model)))
        if self._training[0].data.values.shape[1] >= LEAST_FEATURES:
            return self._search.maximize(candidates)
        return [
            maximize_expected(self._training[split], model, start.expected)
            for split, model, start in candidates
        ]

    def _null(self, split: int, model: PPCAModel) -> Fixed:
        key = split, model.noise_variance
        if key not in self._nulls:
            self._nulls[key] = null_model(self._training[split], model)
        return self._nulls[key]
