"""Outlier detector with conformal p-values."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.containers import as_fitted
from sklearn_vae.gaussian.arrays import check_sample_weight, positive_weights
from sklearn_vae.gaussian.mahalanobis import Distances
from sklearn_vae.linear.ppca_cv import PPCACV
from sklearn_vae.outliers.conformal import (
    conformal_p_values,
    limit_of,
    p_values_among,
    smallest_p_value,
)  # fmt: skip
from sklearn_vae.outliers.decomposition import (
    Contributions,
    contributions,
    distances,
    linear_parameters,
)
from sklearn_vae.outliers.folds import Split, check_held_out, fit_model, split_samples
from sklearn_vae.outliers.statistics import STATISTICS, parts_if_possible, per_degree, score_by
from sklearn_vae.state import Stateful
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    checked_data,
    is_real,
)
from sklearn_vae.warning import warn_user

Array = NDArray[Any]

# Attributes that only some fits set.
CHANGING = ("calibration_t2_", "calibration_spe_", "models_", "spe_limit_", "t2_limit_")


class OutlierDetector(Stateful, OutlierMixin, BaseEstimator):
    """Outlier detector with conformal p-values of the scores of a model.

    The p-value of a sample is the share of calibration samples, itself included, that the model
    finds at least as unusual. The calibration samples are held out from the fit of the model, so
    that no assumption on the distribution of the data is needed: if the sample and the training
    samples are exchangeable, as independent draws from one distribution are, the probability of a
    p-value of at most `level` is at most `level` [1]_, however wrong the model is (for the default
    `cv` nearly, see Notes). A better model detects more outliers.

    Parameters
    ----------
    estimator : estimator, default=None
        Model with a method `score_samples` where higher is more usual, such as any model of this
        library with a density, linear or deep, or a pipeline that ends with one. If None, it is
        :class:`PPCACV`. Scale features of different units before, as for PCA.
    level : float, default=0.01
        Probability that a usual sample is labeled an outlier, in (0, 1).
    statistic : {"auto", "distance", "likelihood", "t2", "spe"}, default="auto"
        Statistic that is compared between samples. "likelihood" is `estimator.score_samples`.
        "distance" is the squared Mahalanobis distance T2 + SPE from the model, "t2" is the part in
        the latent space and "spe" the residual (see :func:`~sklearn_vae.outliers.distances`), each
        divided by its degrees of freedom. "auto" is "distance" for linear Gaussian models and
        "likelihood" for others. Both are the same order of complete samples. With missing values
        the likelihood is lower the more values are observed, whereas the expectation of "distance"
        is 1 for each set of observed features.
    cv : int, float, "prefit", splitter or iterable, default=5
        How samples are held out for calibration. An integer is a number of folds: all samples are
        held out once (cross-conformal p-values, CV+). `LeaveOneOut()` gives the jackknife+. A float
        in (0, 1) is the share of the samples that is held out from a single fit (split conformal
        p-values). With "prefit", `estimator` is fitted already, and `fit` calibrates it with
        samples that it has not seen. A splitter or iterable of indices as in GridSearchCV must hold
        out each sample at most once, chosen at random.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for how `cv` splits the samples.

    Attributes
    ----------
    estimator_ : estimator
        Model fitted to all samples, or to the training part with split p-values. It is used by
        `distances` and `contributions`.
    models_ : list of estimators
        Models of the folds. Only if there is more than one.
    calibration_scores_ : list of ndarrays
        Sorted scores of the samples of each fold, by the model that has not seen them. Higher is
        more usual.
    calibration_weights_ : list of ndarrays
        Weights of these samples, 1 on average.
    calibration_t2_, calibration_spe_ : ndarray of shape (n_calibration,)
        T2 and SPE of the calibration samples, divided by their degrees of freedom. These and the
        limits exist only for models with `posterior` and `conditional`.
    t2_limit_, spe_limit_ : float
        Limits of T2 and SPE, divided by their degrees of freedom: the conformal p-value of either
        one is at most `level` above its limit, for several folds approximately. They are inf if no
        p-value is that low.
    training_p_values_ : ndarray of shape (n_samples,)
        p-values of the samples of `fit` by the models that have not seen them: the share of the
        samples held out that are at least as unusual. nan for samples that are never held out or
        have no weight.
    smallest_p_value_ : float
        Smallest possible p-value, 1 / (1 + number of calibration samples).
    offset_ : float
        Threshold of `score_samples`, the logarithm of `level`. It is -inf if `level` is below
        `smallest_p_value_`.
    statistic_ : str
        The statistic in use.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    sklearn.ensemble.IsolationForest : Outlier detector by random trees, without p-values.
    sklearn.covariance.EllipticEnvelope : Outlier detector by a robust covariance.

    Notes
    -----
    Split p-values, and those of "prefit", are exact: for exchangeable samples without ties and
    without weights, the p-value is uniform on 1/(m+1), 2/(m+1), ..., 1 with m calibration samples.
    Ties make it larger. Cross-conformal p-values use all n samples for both fitting and
    calibration. Their guarantee is weaker, about 2 `level` [2]_ [3]_, but in practice they are
    close to exact or slightly conservative. With m calibration samples no p-value is below
    1/(m+1): a level of 0.01 needs 99 of them.

    With `sample_weight`, the calibration samples are counted with their weights, and the sample to
    test has the average weight. The scale of the weights does not matter.

    References
    ----------
    .. [1] Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, proposition
       2.4 and section 4.1.
    .. [2] Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence
       2015, eq. 5.
    .. [3] Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the jackknife+", Annals
       of Statistics 2021, theorems 1 and 4.
    .. [4] Bates, Candes, Lei, Romano and Sesia, "Testing for outliers with conformal p-values",
       Annals of Statistics 2023, theorem 2 (Benjamini-Hochberg).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import OutlierDetector
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = OutlierDetector(random_state=0).fit(X[y == 0])
    >>> print(f"{(detector.predict(X[y != 0]) == -1).mean():.0%} of the other digits")
    92% of the other digits
    """

    estimator_: Any
    models_: list[Any]
    calibration_scores_: list[Array]
    calibration_weights_: list[Array]
    smallest_p_value_: float
    offset_: float
    statistic_: str
    training_p_values_: Array
    n_features_in_: int

    _fitted_state: ClassVar = {
        "calibration_scores_": "any",
        "calibration_weights_": "any",
        "estimator_": "any",
        "models_": "any optional",
        "n_features_in_": "count",
        "offset_": "any",
        "smallest_p_value_": "number positive",
        "statistic_": "any",
        "training_p_values_": "any",
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        level: float = 0.01,
        statistic: str = "auto",
        cv: Any = 5,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.level = level
        self.statistic = statistic
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> OutlierDetector:
        """Fit the model in each fold and calibrate it with the samples that are held out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, usual ones as far as possible. NaN marks missing values if the model allows
            them.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0 for the fit, if the model supports them, and for the calibration.
            Samples of weight 0 are ignored.

        Returns
        -------
        self : OutlierDetector
            Fitted detector.

        Raises
        ------
        TypeError
            If the model has no `score_samples`, or no `posterior` and `conditional` although
            `statistic` needs them.
        ValueError
            If a parameter, X or `sample_weight` is invalid, or `cv` holds out a sample twice.

        Warns
        -----
        UserWarning
            If there are too few calibration samples for a p-value as low as `level`.
        """
        self._check_parameters()
        with all_or_nothing(self):
            for name in CHANGING:
                self.__dict__.pop(name, None)
            X = self._check_samples(X, reset=True, min_samples=2)
            weights, used = None, np.ones(len(X), dtype=bool)
            if sample_weight is not None:
                weights = check_sample_weight(sample_weight, X)
                used, _ = positive_weights(weights, at_least=2)
                X, weights = X[used], weights[used]
            self.training_p_values_ = np.full(len(used), np.nan)
            splits = split_samples(self.cv, X, self.random_state)
            self.training_p_values_[used] = self._calibrate(X, weights, splits)
            if self.level < self.smallest_p_value_:
                self._warn_of_level()
        return self

    def _fit_models(self, X: Array, weights: Array | None, splits: list[Split]) -> list[Any]:
        """Set `estimator_` and return the models of the folds."""
        base, names = self._estimator(), getattr(self, "feature_names_in_", None)
        models = [
            base if train is None else fit_model(clone(base), X, weights, names, train)
            for train, _ in splits
        ]
        self.estimator_ = models[0]
        if len(models) > 1:
            self.models_ = models
            self.estimator_ = fit_model(clone(base), X, weights, names)
        is_linear = linear_parameters(self.estimator_) is not None
        automatic = "distance" if is_linear else "likelihood"
        self.statistic_ = automatic if self.statistic == "auto" else self.statistic
        return models

    def _calibrate(self, X: Array, weights: Array | None, splits: list[Split]) -> Array:
        """Fit and calibrate the models, and return the p-values of the samples held out."""
        models, ratios = self._fit_models(X, weights, splits), []
        self.calibration_scores_, self.calibration_weights_ = [], []
        held_out = np.concatenate([test for _, test in splits])
        shares = np.ones(len(X))
        if weights is not None:
            shares = weights / weights[held_out].mean()
        pooled = np.full(len(X), np.nan)
        for model, (_, test) in zip(models, splits, strict=True):
            usual = as_fitted(X[test], model)
            parts = parts_if_possible(model, usual, self.statistic_)
            pooled[test] = scores = score_by(model, usual, self.statistic_, parts)
            order = np.argsort(scores, kind="stable")
            self.calibration_scores_.append(scores[order])
            self.calibration_weights_.append(shares[test][order])
            if parts is not None:
                ratios.append([ratio[order] for ratio in per_degree(parts)])
        if ratios:
            self.calibration_t2_, self.calibration_spe_ = np.concatenate(ratios, axis=1)
            self.t2_limit_, self.spe_limit_ = (
                limit_of(values, self.calibration_weights_, self.level)
                for values in (self.calibration_t2_, self.calibration_spe_)
            )
        self.smallest_p_value_ = smallest_p_value(self.calibration_scores_)
        attainable = self.level >= self.smallest_p_value_
        self.offset_ = float(np.nextafter(np.log(self.level), np.inf)) if attainable else -np.inf
        return p_values_among(pooled, shares)

    def p_values(self, X: Any) -> Array:
        """Compute the conformal p-value of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, which should not be those of `fit`. Their p-values are `training_p_values_`.

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            Values from `smallest_p_value_` to 1. Lower is more unusual.
        """
        return self._compare(X)[0]

    def score_samples(self, X: Any) -> Array:
        """Compute the logarithm of the p-value of each sample, in order beyond the calibration.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Logarithms of the p-values. A sample that is more unusual than all calibration samples
            has less: its distance from the most unusual one, in standard deviations of the
            statistic, is subtracted. Higher is more usual.
        """
        return self._compare(X)[1]

    def decision_function(self, X: Any) -> Array:
        """Compute `score_samples` minus `offset_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            Negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Label samples as outliers if their p-value is at most `level`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 for outliers and 1 for usual samples.
        """
        return np.where(self.decision_function(X) < 0.0, -1, 1)

    def predict_fdr(self, X: Any, level: float = 0.1) -> NDArray[np.int64]:
        """Label outliers in a batch of samples by the procedure of Benjamini and Hochberg.

        With exact p-values the expected share of usual samples among those labeled outliers, the
        false discovery rate, is at most `level` (theorem 2 of Bates et al., see the class).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples. The label of each depends on the others.
        level : float, default=0.1
            Maximum false discovery rate, in (0, 1).

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 for outliers and 1 for usual samples.
        """
        _check_level(level)
        return np.where(false_discovery_control(self.p_values(X)) <= level, -1, 1)

    def distances(self, X: Any) -> Distances:
        """Split the distance of each sample from the model `estimator_` into T2 and SPE.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        distances : named tuple of ndarrays of shape (n_samples,)
            `t2`, `spe`, `t2_dof` and `spe_dof` of :func:`sklearn_vae.outliers.distances`.
        """
        check_is_fitted(self)
        return distances(self.estimator_, as_fitted(self._check_samples(X), self.estimator_))

    def contributions(self, X: Any) -> Contributions:
        """Split T2 and SPE of each sample among the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        contributions : Contributions
            `t2` and `spe` of each feature, and `feature_names`; see
            :func:`sklearn_vae.outliers.contributions`.
        """
        check_is_fitted(self)
        return contributions(self.estimator_, as_fitted(self._check_samples(X), self.estimator_))

    def _compare(self, X: Any) -> tuple[Array, Array]:
        """Compute p-values and scores by comparison with the calibration samples."""
        check_is_fitted(self)
        X = self._check_samples(X)
        models = getattr(self, "models_", [self.estimator_])
        scores = [score_by(model, as_fitted(X, model), self.statistic_) for model in models]
        return conformal_p_values(scores, self.calibration_scores_, self.calibration_weights_)

    def _estimator(self) -> Any:
        return PPCACV() if self.estimator is None else self.estimator

    def _check_parameters(self) -> None:
        estimator = self._estimator()
        if isinstance(estimator, type) or not hasattr(estimator, "fit"):
            raise TypeError(f"estimator must be None or an estimator, got {estimator!r}.")
        if not hasattr(estimator, "score_samples"):
            raise TypeError(
                "estimator must have a method score_samples, but "
                f"{type(estimator).__name__} has none."
            )
        _check_level(self.level)
        check_choice("statistic", self.statistic, ("auto", *STATISTICS))
        check_held_out(self.cv)
        if isinstance(self.cv, str):
            if self.estimator is None:
                raise ValueError("estimator must be a fitted model with cv='prefit', got None.")
            check_is_fitted(self.estimator)

    def _warn_of_level(self) -> None:
        m = sum(map(len, self.calibration_scores_))
        warn_user(
            f"level={self.level:g} is out of reach: with {m} calibration samples no p-value is "
            f"below 1/{m + 1} = {self.smallest_p_value_:.3g}, so that predict labels no sample an "
            f"outlier. Use at least {int(np.ceil(1.0 / self.level)) - 1} calibration samples or a "
            "higher level. An integer cv calibrates with all samples.",
            UserWarning,
        )

    def _check_samples(self, X: Any, *, reset: bool = False, min_samples: int = 1) -> Array:
        # The model refuses missing values itself, because a pipeline does not tell whether it does.
        return checked_data(
            self,
            X,
            reset=reset,
            ensure_min_samples=min_samples,
            ensure_all_finite="allow-nan",
        )

    def _check_state(self) -> None:
        super()._check_state()
        if not hasattr(self, "estimator_"):
            return
        check_choice("statistic_", self.statistic_, STATISTICS)
        scores, weights = self.calibration_scores_, self.calibration_weights_
        models = getattr(self, "models_", [self.estimator_])
        if not (
            all(isinstance(part, list) and part for part in (scores, weights, models))
            and len(scores) == len(weights) == len(models)
            and all(map(_are_fold, scores, weights))
        ):
            raise ValueError(
                "models_, calibration_scores_ and calibration_weights_ must be lists of models, "
                "sorted scores and weights with one item per fold."
            )
        for model in [self.estimator_, *models]:
            if not (isinstance(model, BaseEstimator) and hasattr(model, "score_samples")):
                raise ValueError("estimator_ and models_ must be models with score_samples.")
        if not (isinstance(self.offset_, float) and self.offset_ < np.inf):
            raise ValueError(f"offset_ must be a float, got {self.offset_!r}.")

    def __sklearn_tags__(self) -> Tags:
        tags, estimator = super().__sklearn_tags__(), self._estimator()
        if hasattr(estimator, "__sklearn_tags__") and not isinstance(estimator, type):
            of_estimator = get_tags(estimator).input_tags
            tags.input_tags.allow_nan = of_estimator.allow_nan
            tags.input_tags.positive_only = of_estimator.positive_only
        return tags


def _check_level(level: Any) -> None:
    if not (is_real(level) and 0.0 < level < 1.0):
        raise ValueError(f"level must be a float in (0, 1), got {level!r}.")


def _are_fold(scores: Any, weights: Any) -> bool:
    """Return whether these are sorted scores with their weights."""
    return (
        isinstance(scores, np.ndarray)
        and isinstance(weights, np.ndarray)
        and scores.ndim == 1
        and scores.shape == weights.shape
        and len(scores) > 0
        and bool((np.diff(scores) >= 0).all() and (weights >= 0).all())
    )
