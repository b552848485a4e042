"""Probabilistic PCA with cross-validated number of components and noise variance."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj, is_numpy_array
from scipy.stats import rankdata
from sklearn import get_config
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import check_sample_weight
from sklearn_vae.linear.closed_form import closed_form_attributes
from sklearn_vae.linear.dask_arrays import as_dask_array
from sklearn_vae.linear.exact_posterior import COORDINATES, ExactPosteriorModel
from sklearn_vae.linear.fold_factors import Split
from sklearn_vae.linear.folds import BlockFolds, GramFolds, MomentFolds, check_some_weight
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_noise_variance,
    is_dask,
    is_integer,
)

SELECTIONS = ("best", "one_standard_error")


class PPCACV(ExactPosteriorModel):
    """Probabilistic PCA with k and sigma2 chosen by the log-likelihood of held-out samples.

    Equivalent to `GridSearchCV(PPCA(), {"n_components": ..., "noise_variance": ...})`, with the
    same scores, but much faster. It needs about one pass over the data and one
    eigendecomposition per split: the moments of the training samples are sums of the moments of
    the folds, and all candidates share the eigenvalues. If n < d, one Gram matrix replaces the
    moments. The chosen model is then fitted to all samples.

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
        `std_test_score` and `rank_test_score`. Scores are in nats per sample, and nan if the
        likelihood is unbounded. Scores that agree to 12 digits have equal ranks.
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
    PPCA : The model with given `n_components` and `noise_variance`.
    sklearn.model_selection.GridSearchCV : Search that fits each candidate in each split.

    References
    ----------
    .. [1] Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999.
    .. [2] Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
       Statistician 1983, eq. 2.1 (sums of moments).
    .. [3] Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009,
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
        selection: str = "best",
        coordinates: str = "principal",
    ) -> None:
        self.n_components = n_components
        self.noise_variance = noise_variance
        self.cv = cv
        self.selection = selection
        self.coordinates = coordinates

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> PPCACV:
        """Score all candidates on held-out samples and fit the best one to all samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples without missing values. The blocks of a Dask array, which must have known
            lengths, are read once for all splits. A DataFrame needs one more pass to count its
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
            If a parameter is invalid or does not fit the splits, X is not finite, or the
            likelihood of every candidate is unbounded in some split.
        """
        self._check_parameters()
        with all_or_nothing(self):
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
            splits = self._splits(X, y, sample_weight, params)
            ks, noises = self._candidates(X.shape, splits)
            folds = self._folds(X, sample_weight, splits)
            scores = [
                to_host(fold.log_likelihood_of(t, rest, ks, noises)) for fold, t, rest in folds
            ]
            self._set_results(ks, noises, np.stack([score.ravel() for score in scores]))
            k, noise = self.best_params_["n_components"], self.best_params_["noise_variance"]
            spectrum, n, dtype = folds.spectrum(k), folds.n, folds.dtype
            self.__dict__.update(closed_form_attributes(spectrum, k, n, dtype, noise))
        return self

    def _folds(self, X: Any, sample_weight: Any, splits: list[Split]) -> GramFolds | MomentFolds:
        if is_dask(X):
            return BlockFolds(self, X, sample_weight, splits)
        weights = None
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, X)
            on_host = to_host(weights)
            for i, (train, test) in enumerate(splits):
                check_some_weight(on_host[train], "training", i)
                check_some_weight(on_host[test], "held-out", i)
        return (GramFolds if X.shape[0] < X.shape[1] else MomentFolds)(X, weights, splits)

    def _check_parameters(self) -> None:
        for k in _listed(self.n_components):
            if not (k is None and self.n_components is None) and not (is_integer(k) and k >= 0):
                raise ValueError(
                    "n_components must be None, an integer >= 0 or a sequence of integers >= 0, "
                    f"got {self.n_components!r}."
                )
        for noise in _listed(self.noise_variance):
            check_noise_variance(noise)
        for name in ("n_components", "noise_variance"):
            if len(_listed(getattr(self, name))) == 0:
                raise ValueError(f"{name} must have at least one candidate, got none.")
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("coordinates", self.coordinates, COORDINATES)

    def _splits(self, X: Any, y: Any, sample_weight: Any, params: dict[str, Any]) -> list[Split]:
        try:
            cv = check_cv(self.cv, y)  # before metadata routing would exhaust a generator
        except (TypeError, ValueError) as error:
            raise self._cv_error(error) from error
        if get_config()["enable_metadata_routing"]:
            if sample_weight is not None:
                params = {**params, "sample_weight": sample_weight}
            params = process_routing(self, "fit", **params).splitter.split
        else:
            unknown = sorted(set(params) - {"groups"})
            if unknown:
                raise TypeError(
                    "PPCACV.fit() accepts only 'groups' in addition to X, y and sample_weight, got "
                    f"{unknown}. Call sklearn.set_config(enable_metadata_routing=True) to pass "
                    "others to the splitter."
                )
        foreign = is_array_api_obj(X) and not is_numpy_array(X)
        every = np.arange(X.shape[0])
        try:
            pairs = list(cv.split(np.empty((X.shape[0], 0)) if foreign else X, y, **params))
            splits = [(every[train], every[test]) for train, test in pairs]  # masks become indices
        except (TypeError, ValueError, IndexError) as error:
            raise self._cv_error(error) from error
        if not splits:
            raise ValueError(
                "cv must yield at least one split, got none. An iterator can be used only once."
            )
        for i, split in enumerate(splits):
            for name, part, least in zip(("training", "held-out"), split, (2, 1), strict=True):
                if len(part) < least:
                    raise ValueError(
                        f"cv must yield at least {least} {name} sample{'s' * (least - 1)} in every "
                        f"split, got {len(part)} in split {i}."
                    )
        if self.selection == "one_standard_error" and len(splits) < 2:
            raise ValueError("selection='one_standard_error' needs at least 2 splits, got 1.")
        return splits

    def _cv_error(self, error: Exception) -> ValueError:
        return ValueError(
            "cv must be an integer >= 2, a splitter that splits X, or pairs of indices of its "
            f"samples, got {self.cv!r}: {error}"
        )

    def _candidates(
        self, shape: tuple[int, int], splits: list[Split]
    ) -> tuple[list[int], list[float | None]]:
        most = min(shape[1], *(len(train) for train, _ in splits))
        if self.n_components is None:
            return list(range(most + 1)), _listed(self.noise_variance)
        ks = [int(k) for k in _listed(self.n_components)]
        if max(ks) > most:
            raise ValueError(
                f"n_components must be at most {most}, the minimum of n_features and the number "
                f"of training samples in each split, got {max(ks)}."
            )
        return ks, _listed(self.noise_variance)

    def _set_results(self, ks: list[int], noises: list[float | None], scores: np.ndarray) -> None:
        """Set the results from scores of shape (n_splits, n_candidates)."""
        params: list[dict[str, Any]] = [
            {"n_components": k, "noise_variance": noise}
            for k, noise in itertools.product(ks, noises)
        ]
        with np.errstate(over="ignore", invalid="ignore"):  # a score may be -inf
            mean, std = scores.mean(axis=0), scores.std(axis=0)
        if np.isnan(mean).all():
            raise ValueError(
                "No candidate has a bounded likelihood in every split: the maximum likelihood "
                f"noise variance is 0 with n_components={self.n_components!r} and "
                f"noise_variance={self.noise_variance!r}. Add smaller n_components or a positive "
                "noise_variance."
            )
        if not np.isfinite(mean).any():
            raise ValueError(
                "X must have samples nearer to each other, or noise_variance a larger value than "
                f"{self.noise_variance!r}: with every candidate the log-likelihood of a held-out "
                "sample is below the range of float64."
            )
        # Scores that differ by rounding only, as with collapsed dimensions, count as equal.
        rounded = np.array([float(f"{score:.11e}") for score in np.nan_to_num(mean, nan=-np.inf)])
        dtypes = {"n_components": int, "noise_variance": object if None in noises else float}
        self.cv_results_ = {
            **{
                f"param_{name}": np.ma.array([p[name] for p in params], dtype=dtype)
                for name, dtype in dtypes.items()
            },
            "params": params,
            **{f"split{i}_test_score": split for i, split in enumerate(scores)},
            "mean_test_score": mean,
            "std_test_score": std,
            "rank_test_score": rankdata(-rounded, "min").astype(np.int32),
        }
        best = int(np.argmax(rounded))
        if self.selection == "one_standard_error":
            n_splits = len(scores)
            # Sample standard deviation (divisor n - 1), unlike in cv_results_.
            error = (scores[:, best].var(ddof=1) / n_splits) ** 0.5
            within = np.flatnonzero(mean >= mean[best] - error)
            best = int(min(within, key=lambda i: (params[i]["n_components"], -mean[i])))
        self.best_index_ = best
        self.best_params_ = params[best]
        self.best_score_ = float(mean[best])
        self.n_splits_ = len(scores)

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the routing of metadata: `sample_weight` to `fit`, `groups` to the splitter.

        Returns
        -------
        routing : MetadataRouter
            Routing information.
        """
        to_split = MethodMapping().add(caller="fit", callee="split")
        router = MetadataRouter(owner=self).add_self_request(self)
        return router.add(splitter=check_cv(self.cv), method_mapping=to_split)


def _listed(candidates: Any) -> list[Any]:
    """Return one candidate, or a sequence or array of them, as a list."""
    if isinstance(candidates, np.ndarray):
        candidates = candidates.tolist()
    if candidates is None or isinstance(candidates, str) or not hasattr(candidates, "__len__"):
        return [candidates]
    return list(candidates)
