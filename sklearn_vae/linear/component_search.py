"""Search for the number of components by cross-validation, over samples or over entries."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj, is_numpy_array
from scipy.stats import rankdata
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import Array, check_sample_weight
from sklearn_vae.linear.fold_factors import Split
from sklearn_vae.linear.folds import check_some_weight
from sklearn_vae.linear.incomplete_folds import IncompleteSplits
from sklearn_vae.validation import check_choice, is_integer
from sklearn_vae.warning import warn_user

SELECTIONS = ("best", "one_standard_error")
HELD_OUT_PARTS = ("samples", "entries")


class ComponentSearch(BaseEstimator):
    """Splits, candidates and results of a search for `n_components` by cross-validation."""

    n_components: Any
    cv: Any
    held_out: str
    selection: str
    best_params_: dict[str, Any]

    def _check_search(self) -> None:
        for k in listed(self.n_components):
            if not (k is None and self.n_components is None) and not (is_integer(k) and k >= 0):
                raise ValueError(
                    "n_components must be None, an integer >= 0 or a sequence of integers >= 0, "
                    f"got {self.n_components!r}."
                )
        self._check_has_candidates("n_components")
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("held_out", self.held_out, HELD_OUT_PARTS)

    def _check_has_candidates(self, name: str) -> None:
        if len(listed(getattr(self, name))) == 0:
            raise ValueError(f"{name} must have at least one candidate, got none.")

    def _checked_weights(self, X: Any, sample_weight: Any, splits: list[Split]) -> Array | None:
        """Check that the samples of every part of each split have some weight."""
        if sample_weight is None:
            return None
        weights = check_sample_weight(sample_weight, X)
        on_host = to_host(weights)
        if self.held_out == "samples":
            for i, (train, test) in enumerate(splits):
                check_some_weight(on_host[train], "training", i)
                check_some_weight(on_host[test], "held-out", i)
        return weights

    def _incomplete_splits(
        self, X: Any, y: Any, sample_weight: Any, params: dict[str, Any]
    ) -> IncompleteSplits:
        """Return splits of X for EM, because entries are missing or held out."""
        host, of_entries = to_host(X).astype(np.float64), self.held_out == "entries"
        splits = (
            self._entry_splits(host) if of_entries else self._splits(X, y, sample_weight, params)
        )
        weights = self._checked_weights(X, sample_weight, splits)
        if weights is not None:
            weights = to_host(weights).astype(np.float64)
        return IncompleteSplits(host, weights, splits, of_entries)

    def _entry_splits(self, X: np.ndarray) -> list[Split]:
        """Split the observed entries of X, in the order of its rows."""
        cv = self.cv
        if is_integer(cv):
            # Consecutive entries are whole samples.
            cv = KFold(cv, shuffle=True, random_state=0) if cv >= 2 else cv
        try:
            empty = np.empty((np.count_nonzero(~np.isnan(X)), 0))
            pairs = list(check_cv(cv).split(empty))
        except (TypeError, ValueError, IndexError) as error:
            raise self._cv_error(error) from error
        return self._checked_splits(pairs, len(empty), "entries", "entry")

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
                    f"{type(self).__name__}.fit() accepts only 'groups' in addition to X, y and sample_weight, got "
                    f"{unknown}. Call sklearn.set_config(enable_metadata_routing=True) to pass "
                    "others to the splitter."
                )
        foreign = is_array_api_obj(X) and not is_numpy_array(X)
        try:
            pairs = list(cv.split(np.empty((X.shape[0], 0)) if foreign else X, y, **params))
        except (TypeError, ValueError, IndexError) as error:
            raise self._cv_error(error) from error
        return self._checked_splits(pairs, X.shape[0], "samples", "sample")

    def _checked_splits(self, pairs: Any, n: int, plural: str, singular: str) -> list[Split]:
        """Return splits as indices of n samples or entries."""
        every = np.arange(n)
        try:
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
                        f"cv must yield at least {least} {name} {plural if least > 1 else singular} "
                        f"in every split, got {len(part)} in split {i}."
                    )
        if self.selection == "one_standard_error" and len(splits) < 2:
            raise ValueError("selection='one_standard_error' needs at least 2 splits, got 1.")
        return splits

    def _cv_error(self, error: Exception) -> ValueError:
        return ValueError(
            "cv must be an integer >= 2, a splitter that splits X, or pairs of indices of its "
            f"samples, got {self.cv!r}: {error}"
        )

    def _candidate_components(self, most: int, splits: list[Split]) -> list[int]:
        """Return the candidates for k, which `most` and the number of training samples limit."""
        reason = "n_features"
        if self.held_out == "samples":
            most = min(most, *(len(train) for train, _ in splits))
            reason = "the minimum of n_features and the number of training samples in each split"
        if self.n_components is None:
            return list(range(most + 1))
        ks = [int(k) for k in listed(self.n_components)]
        if max(ks) > most:
            raise ValueError(f"n_components must be at most {most}, {reason}, got {max(ks)}.")
        return ks

    def _set_results(self, params: list[dict[str, Any]], scores: np.ndarray) -> None:
        """Set the results of candidates from scores of shape (n_splits, n_candidates)."""
        with np.errstate(over="ignore", invalid="ignore"):  # a score may be -inf
            mean, std = scores.mean(axis=0), scores.std(axis=0)
        tried = " and ".join(f"{name}={getattr(self, name)!r}" for name in params[0])
        if np.isnan(mean).all():
            raise ValueError(
                "No candidate has a bounded likelihood in every split: the maximum likelihood "
                f"noise variance is 0 with {tried}. Add smaller n_components or a positive "
                "noise_variance."
            )
        if not np.isfinite(mean).any():
            raise ValueError(
                "X must have samples nearer to each other, or noise_variance must be larger than "
                f"with {tried}: with every candidate the log-likelihood of a held-out sample is "
                "below the range of float64."
            )
        # Scores that differ by rounding only, as with collapsed dimensions, count as equal.
        rounded = np.array([float(f"{score:.11e}") for score in np.nan_to_num(mean, nan=-np.inf)])
        self.cv_results_ = {
            **{
                f"param_{name}": _masked([candidate[name] for candidate in params])
                for name in params[0]
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

    def _take(self, best: Any, X: Any, sample_weight: Any) -> None:
        """Fit the best model to all samples and take over its attributes."""
        best.fit(X, sample_weight=sample_weight)
        own = best.get_params(deep=False)
        self.__dict__.update({name: v for name, v in vars(best).items() if name not in own})

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


def warn_not_converged(n_failed: int, n_fits: int) -> None:
    """Warn if EM has not converged in some splits."""
    if n_failed == 0:
        return
    warn_user(
        f"EM has not converged in {n_failed} of {n_fits} fits of cross-validation, so that their "
        "scores are too low. Use fewer components, or scale X.",
        ConvergenceWarning,
    )


def _masked(values: list[Any]) -> np.ma.MaskedArray[Any, Any]:
    """Return values of a parameter, as in GridSearchCV."""
    return np.ma.array(values, dtype=object if None in values else None)


def listed(candidates: Any) -> list[Any]:
    """Return one candidate, or a sequence or array of them, as a list."""
    if isinstance(candidates, np.ndarray):
        candidates = candidates.tolist()
    if candidates is None or isinstance(candidates, str) or not hasattr(candidates, "__len__"):
        return [candidates]
    return list(candidates)
