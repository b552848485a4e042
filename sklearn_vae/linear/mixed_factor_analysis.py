"""Factor analysis of tables with columns of several types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.arrays import weighted_mean
from sklearn_vae.gaussian.bounds import COLLAPSE_KL, COLLAPSE_SHARE
from sklearn_vae.gaussian.mixed_columns import ColumnTerms
from sklearn_vae.gaussian.mixed_fit import MixedFit
from sklearn_vae.gaussian.mixed_gains import column_gains
from sklearn_vae.linear.factor_analysis import heywood_text
from sklearn_vae.linear.mixed_fit import fit_mixed
from sklearn_vae.linear.mixed_methods import MixedModelMethods
from sklearn_vae.tables import TableCodec
from sklearn_vae.tables.checks import checked_table, used_samples
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_integer,
    check_memory,
    check_random_state,
    check_real,
)
from sklearn_vae.warning import warn_user

Array = NDArray[Any]

COVARIANCES = ("full", "diagonal")
# Average weight below which priors that count as one sample may outweigh the samples.
_SMALL_WEIGHT = 0.1


class MixedFactorAnalysis(MixedModelMethods):
    r"""Factor analysis of tables with real, binary, categorical, ordinal and count columns.

    Each column has linear predictors a = w' z + b of the latents z ~ N(0, I_k). Given z, the columns are
    independent ::

        real:         x ~ N(a, psi)
        positive:     log x ~ N(a, psi)
        count:        x ~ NB(mean exp(a), variance exp(a) + exp(a)^2 / r)
        binary:       p(x = 1) = sigmoid(a)
        ordinal:      p(x > c | x >= c) = sigmoid(w' z + b_c)
        categorical:  p(x = c | x is no category before c) = sigmoid(w_c' z + b_c)

    The likelihood of a table with missing values is that of the observed cells, so nothing has to be
    filled in before. The posterior is approximated by q(z|x) = N(m, S), optimized for each sample, and
    the fit maximizes the evidence lower bound (ELBO), E_q log p(x|z) - KL(q || p), minus a penalty, by
    steps of EM and Newton's method.
    Expectations are computed to at least eight digits, without random draws. If all columns are real,
    the bound is the log-likelihood, and the model that of :class:`FactorAnalysis`.

    Parameters
    ----------
    n_components : int, default=2
        Number k of latent dimensions, from 1 to the number of columns.
    column_types : "auto" or dict, default="auto"
        Types of columns by name, or by index if no name is an integer. A list of categories in
        ascending order, or an ordered dtype of pandas, is a type, too: "ordinal" with this order.
        The types of other columns are inferred from the samples whose weight is not 0, each counted
        once: booleans are "binary"; text and dtypes of categories are "categorical", or "ordinal" if
        the dtype is ordered; integers with 2 to 10 different values, and at least two samples
        per value, are "ordinal"; each of them is "binary" if there are two values. Other integers are
        "count" if none is negative, one is 0, and their variance is not below their mean.
        Positive numbers with a skewness above 1, which the logarithm at least halves, are
        "positive". Others with an excess kurtosis above 10 are "heavy_tailed" if their quartiles
        differ, and all others "real". Heavy-tailed columns are modeled as real ones.
    covariance : {"full", "diagonal"}, default="full"
        Covariance S of q(z|x). "full" gives a higher ELBO. With "diagonal", the bound is that of
        :class:`BernoulliPPCA` with `inference="per_sample"`.
    penalty : "auto" or float, default="auto"
        Strength of the priors that keep loadings and noise variances finite, >= 0. The loadings, of
        standardized values for real columns, have the prior N(0, 1 / penalty). The prior of each noise variance
        psi counts as `penalty` samples in which psi is 0.2 of the variance of the column. "auto" is 0,
        maximum likelihood, if all columns are numbers of types other than "count", or all are "binary",
        and 1 otherwise. Categories that are separable by other columns would have infinite loadings.
        More than 1e6 times the sum of the weights, at which all loadings are 0, has no further effect.
    handle_unknown : {"error", "missing"}, default="error"
        Whether categories that are not among `categories_` are errors, or missing values. Unused
        labels of a dtype of categories are missing values in both cases.
    max_iter : int, default=200
        Maximum number of iterations: up to 50 of EM, and then at least one of Newton's method.
    tol : float, default=1e-2
        Tolerance in nats per sample. The fit stops when Newton's method predicts that the objective can
        rise by less than `tol`. If all columns are real, it is at most 1e-8.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the noise that is added to the initial loadings.

    Attributes
    ----------
    column_types_ : dict
        Type of each column, by name, or by index in arrays.
    categories_ : dict
        Categories of each column of type "binary", "categorical" or "ordinal".
    term_names_ : ndarray of shape (n_terms,)
        Names of the linear predictors. There is one for a column of numbers, and one fewer than
        categories for others. They are in the order real, count, categories.
    loadings_ : array of shape (n_terms, n_components)
        Loadings w of each predictor. With full covariances the average precision of q(z|x) is
        diagonal, in descending order, and otherwise the columns are sorted by length. In each column the
        entry of largest magnitude is positive.
    components_ : array of shape (n_components, n_terms)
        Transposed loadings.
    intercept_ : array of shape (n_terms,)
        Intercepts b. The best intercept of a constant column may be infinite. It is replaced by that with
        half a count added to each outcome, and its loadings are 0.
    noise_ : array of shape (n_noisy,)
        Noise variances psi of real columns and r of counts, in the order of the predictors. psi is at
        least 1e-4 of the variance of the column, or 1e-6 if all columns are real, and r at most 1e4.
    column_gains_ : dict
        E_q log p(x_j|z) of each column minus the log-likelihood of the column without latent
        dimensions, averaged over its observed values, in nats. Columns about which z tells nothing
        have a gain of 0.
    kl_per_dim_ : array of shape (n_components,)
        KL divergence of q(z_h|x) from the prior, averaged over the training data, in nats.
    collapsed_dims_ : array of int
        Indices of the dimensions with a KL of at most 0.01 nats for 99 % of the training samples.
    elbo_ : float
        ELBO of the training data in nats per sample.
    elbo_history_ : array of shape (n_iter_ + 1,)
        Objective at the start and after each iteration: the ELBO minus the penalty per sample. It never
        decreases, except by rounding.
    penalty_ : float
        Strength of the priors that was used.
    n_iter_ : int
        Number of iterations.
    certificate_ : Stationarity
        Distance from the maximum: `remaining_gain` in nats per sample, which Newton's method
        predicts, and `gradient_norm`, with a summary by `print`. The gradient is with respect to
        loadings and intercepts of standardized values, and the logarithms of noise parameters.
    n_components_, n_features_in_ : int
        Number k of latent dimensions, and number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns seen during `fit`, if all are strings.

    See Also
    --------
    FactorAnalysis : Model of real columns, which has an exact likelihood.
    BernoulliPPCA : Model of binary columns without missing values.
    TabularVAE : Model of tables with neural networks.
    FactorAnalysisImputer : Imputer of numbers in pipelines.

    Notes
    -----
    The bits of a categorical column ask for the most frequent category first, then for the next one among
    the others, and so on. The likelihood sums to 1 over the categories. It does not depend on the names or
    codes of categories, except for ties. Reversing an ordinal column gives another model of the family.

    References
    ----------
    .. [1] Challis and Barber, "Gaussian Kullback-Leibler Approximate Inference", JMLR 2013 (the bound,
       which is concave in the parameters of q).
    .. [2] Khan, Mohamed, Marlin and Murphy, "A Stick-Breaking Likelihood for Categorical Data Analysis
       with Latent Gaussian Models", AISTATS 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import MixedFactorAnalysis
    >>> X, y = load_iris(return_X_y=True)
    >>> table = np.column_stack([X, y])
    >>> model = MixedFactorAnalysis(2, random_state=0).fit(table)
    >>> model.column_types_[4]
    'ordinal'
    >>> model.impute([[5.0, 3.4, 1.5, np.nan, np.nan]]).round(1)
    array([[5. , 3.4, 1.5, 0.3, 0. ]])
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        column_types: Any = "auto",
        covariance: str = "full",
        penalty: float | str = "auto",
        handle_unknown: str = "error",
        max_iter: int = 200,
        tol: float = 1e-2,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.column_types = column_types
        self.covariance = covariance
        self.penalty = penalty
        self.handle_unknown = handle_unknown
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MixedFactorAnalysis:
        """Fit the model to a table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            At least two samples. NaN, None and the missing values of DataFrames are missing. Each
            column needs an observed value.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. Their scale matters unless the penalty is 0, because it is relative to
            their sum: scale survey weights to mean 1.

        Returns
        -------
        self : MixedFactorAnalysis
            Fitted model.

        Raises
        ------
        ValueError
            If a parameter, a column, which the message names, or `sample_weight` is invalid, or if
            loadings grow without bounds because `penalty` is 0 or too small.
        MemoryError
            If the derivatives, 100 bytes per cell of the expanded table, do not fit into memory.

        Warns
        -----
        ConvergenceWarning
            If the fit has not converged after `max_iter` iterations, or, without a penalty, noise
            variances of columns that are all real fell to their lower bound.
        UserWarning
            If there is a penalty, and the positive weights are below 0.1 on average.
        """
        self._check_parameters()
        with all_or_nothing(self):
            X = checked_table(self, X, reset=True, ensure_min_samples=2)
            X, sample_weight = used_samples(self, X, sample_weight)
            codec = TableCodec(self.column_types, self.handle_unknown).fit(X)
            codes = codec.encode(X)
            k, d = self.n_components, codes.shape[1]
            if k > d:
                raise ValueError(f"n_components must be between 1 and n_features={d}, got {k}.")
            weights = np.ones(len(codes)) if sample_weight is None else sample_weight.astype(float)
            types = [column.type for column in codec.columns_]
            sizes = [len(column.categories or []) for column in codec.columns_]
            terms = ColumnTerms.of(codes, types, sizes, weights)
            check_memory(
                100 * len(codes) * len(terms.columns),
                f"The fit holds derivatives of {len(terms.columns)} predictors of each sample",
                "Merge rare categories, or fit to fewer samples.",
            )
            data, log_density = terms.encode(codes)
            rng = check_random_state(self.random_state)
            self.penalty_ = self._penalty(terms)
            if self.penalty_ > 0.0 and weights.mean() < _SMALL_WEIGHT:
                warn_user(
                    f"The weights of the {len(weights)} samples sum to {weights.sum():.3g}. They "
                    f"count as repetitions, so that the priors with penalty={self.penalty_:g} may "
                    "outweigh the samples. Divide sample_weight by its mean, or set penalty=0.",
                    UserWarning,
                )
            diagonal = self.covariance == "diagonal"
            with _with_digits(self.penalty_):
                fit = fit_mixed(
                    data,
                    terms,
                    k,
                    diagonal,
                    self.max_iter,
                    self.tol,
                    rng,
                    weights,
                    self.penalty_,
                )
                self._set_model(codec, codes, terms, fit, weights)
            self.elbo_history_ = fit.history + float(weighted_mean(log_density, weights))
            if fit.at_floor:
                names = [codec.columns_[terms.columns[i]].name for i in fit.at_floor]
                warn_user(heywood_text(names), ConvergenceWarning)
            if not fit.certificate.converged:
                warn_user(
                    f"MixedFactorAnalysis has not converged after {self.n_iter_} iterations "
                    f"(max_iter={self.max_iter}): the objective can still rise by about "
                    f"{fit.certificate.remaining_gain:.2g} nats per sample (tol={self.tol}). "
                    "Increase max_iter or tol.",
                    ConvergenceWarning,
                )
        return self

    def _set_model(
        self, codec: TableCodec, codes: Array, terms: ColumnTerms, fit: MixedFit, weights: Array
    ) -> None:
        self._table = codec.get_state()
        self._diagonal = self.covariance == "diagonal"
        self._orders = [list(order) for order in terms.orders]
        self.term_names_ = _names_of_terms(codec, terms)
        self.loadings_, self.intercept_, self.noise_ = fit.parameters
        self.components_ = np.ascontiguousarray(self.loadings_.T)
        self.n_components_ = self.loadings_.shape[1]
        q, bound = self._model.encode(codes)
        variance = np.einsum("nhh->nh", q.covariance)
        gains = column_gains(self._model, codes, q, weights)
        self.column_gains_ = dict(zip(self.column_types_, gains.tolist(), strict=True))
        kl = 0.5 * (np.square(q.mean) + variance - 1.0 - np.log(variance))
        self.kl_per_dim_ = weighted_mean(kl, weights)
        above = weighted_mean(kl > COLLAPSE_KL, weights)
        self.collapsed_dims_ = np.flatnonzero(above <= COLLAPSE_SHARE)
        self.elbo_ = float(weighted_mean(bound, weights))
        self.n_iter_ = max(len(fit.history) - 1, 1)
        self.certificate_ = fit.certificate

    def _penalty(self, terms: ColumnTerms) -> float:
        """Return the strength of the priors."""
        if self.penalty != "auto":
            return float(self.penalty)
        is_real = terms.sizes.counts == terms.sizes.bits == 0
        return 0.0 if is_real or set(terms.types) == {"binary"} else 1.0

    def _check_parameters(self) -> None:
        check_integer("n_components", self.n_components, at_least=1)
        check_choice("covariance", self.covariance, COVARIANCES)
        check_choice("handle_unknown", self.handle_unknown, ("error", "missing"))
        if not (isinstance(self.penalty, str) and self.penalty == "auto"):
            check_real("penalty", self.penalty, at_least=0)
        check_integer("max_iter", self.max_iter, at_least=1)
        check_real("tol", self.tol, at_least=0)


@contextmanager
def _with_digits(penalty: float) -> Iterator[None]:
    """Raise ValueError if loadings grow until posteriors have no digits left."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"The loadings grew beyond the precision of float64 with penalty={penalty:g}, because "
            "other columns predict some categories, counts or numbers without error. Increase "
            "penalty, for example to 1, or use fewer components."
        ) from error


def _names_of_terms(codec: TableCodec, terms: ColumnTerms) -> Array:
    """Return names of predictors: of the column, or "column=category" or "column>category"."""
    names = [str(codec.columns_[j].name) for j in terms.columns]
    for j, of_column in terms.categorical():
        sign = "=" if terms.types[j] == "categorical" else ">"
        labels = codec.columns_[j].categories or []
        for i, code in zip(range(of_column.start, of_column.stop), terms.orders[j], strict=False):
            names[i] += f"{sign}{labels[code]}"
    return np.array(names, dtype=object)
